"""
The form of the journal: canonical JSON, and the chain of hashes.

The `content` of an entry is canonical JSON by RFC 8785, in UTF-8: members are sorted by UTF-16 code
units, there is no white space, and strings are escaped as ECMAScript's `JSON.stringify` does. An
object has no member without a value. Every value is an object, an array or a string. A string is
one of these:

- a number in plain notation at full precision
- a time as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, or a date as `YYYY-MM-DD`
- a boolean as `true` or `false`
- a text as it is

`previous` is the hash of the previous entry. `hash` is the SHA-256, in hex, of `previous`, a line
feed and `content`. docs/journal.md has the exact rules, for authors of independent verifiers.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from app.domain.model import JournalEntry, JournalHead, JournalKind
from app.domain.returns import format_decimal

# The `previous` of the first entry.
GENESIS_HASH = "0" * 64


def next_entry(
    after: JournalEntry | JournalHead | None,
    kind: JournalKind,
    at: datetime,
    recorded: Mapping[str, object],
    batch: UUID | None = None,
) -> JournalEntry:
    """
    Return the entry that follows `after`, or the first entry of a journal if `after` is None.

    `recorded` has all members of the entry's content except `seq`, `kind` and `at`. `batch` is the
    id of the batch to which the entry belongs.
    """
    seq, previous = 1, GENESIS_HASH
    if after is not None:
        seq, previous = after.seq + 1, after.hash

    content = canonical_json({**recorded, "seq": seq, "kind": kind, "at": at})
    return JournalEntry(
        seq=seq,
        kind=kind,
        at=at,
        content=content,
        previous=previous,
        hash=entry_hash(previous, content),
        batch_id=batch,
    )


def entry_hash(previous: str, content: str) -> str:
    """Return the hash of an entry: SHA-256 of `previous`, a line feed and `content`, in hex."""
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


def format_head(seq: int, hash: str) -> str:
    """Return a head of the journal as `alpha-monday verify --head` accepts it: SEQ:HASH."""
    return f"{seq}:{hash}"


def canonical_json(value: Mapping[str, object]) -> str:
    """Return `value` as canonical JSON (RFC 8785)."""
    return json.dumps(to_texts(value), ensure_ascii=False, separators=(",", ":"))


def to_texts(value: Mapping[str, object]) -> dict[str, Any]:
    """
    Return `value` in the form of the journal, before it is encoded as JSON.

    Every single value is a text, members are sorted, and members without a value are left out.
    """
    # RFC 8785 sorts by UTF-16 code units; Python would sort by code points.
    names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    return {name: _to_plain(value[name]) for name in names if value[name] is not None}


def _to_plain(value: object) -> object:
    match value:
        case msgspec.Struct():
            return to_texts(msgspec.structs.asdict(value))
        case Mapping():
            return to_texts(value)
        case list() | tuple():
            return [_to_plain(item) for item in value]
    return to_text(value)


def to_text(value: object) -> str | None:
    """Return a single value as the journal writes it; None means that there is no value."""
    match value:
        case None:
            return None
        # bool has its own case, because str() would write True and False.
        case bool():
            return format_bool(value)
        case Decimal():
            return format_decimal(value)
        # datetime comes before date, because datetime is a subclass of date.
        case datetime():
            return format_timestamp(value)
        case date():
            return value.isoformat()
    return str(value)


def format_bool(value: bool) -> str:
    """Return `true` or `false`, as the journal writes a boolean."""
    if value:
        return "true"
    return "false"


def format_timestamp(at: datetime) -> str:
    """Return a time as responses of the API and the journal write it: UTC with microseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
