"""
The journal's form: canonical JSON and the chain of hashes.

`content` is RFC 8785 canonical JSON: members sorted by UTF-16 code units, no white space, strings escaped as
ECMAScript's `JSON.stringify` does, UTF-8. Every value is a string, an object or an array: numbers in plain notation at
full precision, times as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, dates as `YYYY-MM-DD`, booleans as `true` and `false`; a member
without a value is left out. `hash` is SHA-256, in hex, of `previous`, a line feed and `content`. docs/journal.md says
it rule by rule, for whoever writes a verifier.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from app.domain.model import JournalEntry, JournalKind
from app.domain.returns import plain

GENESIS = "0" * 64


def entry(
    after: JournalEntry | None,
    kind: JournalKind,
    at: datetime,
    recorded: Mapping[str, object],
    batch: UUID | None = None,
) -> JournalEntry:
    """Return the entry that follows `after` (None: the first) and records `recorded`."""
    seq, previous = (after.seq + 1, after.hash) if after else (1, GENESIS)
    content = canonical({**recorded, "seq": seq, "kind": kind, "at": at})
    return JournalEntry(
        seq=seq, kind=kind, at=at, content=content, previous=previous, hash=digest(previous, content), batch_id=batch
    )


def digest(previous: str, content: str) -> str:
    """Return the hash of an entry."""
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


def canonical(value: Mapping[str, object]) -> str:
    """Return `value` as RFC 8785 canonical JSON."""
    return json.dumps(texts(value), ensure_ascii=False, separators=(",", ":"))


def texts(value: Mapping[str, object]) -> dict[str, Any]:
    """Return `value` as the journal holds it: every value a text, in order, without the members that have none."""
    members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
    return {name: _plain(member) for name, member in members if member is not None}


def _plain(value: object) -> object:
    match value:
        case msgspec.Struct():
            return texts(msgspec.structs.asdict(value))
        case Mapping():
            return texts(value)
        case list() | tuple():
            return [_plain(item) for item in value]
    return written(value)


def written(value: object) -> str | None:
    """Return a single value as the journal writes it; None is no value."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case Decimal():
            return plain(value)
        case datetime():
            return timestamp(value)
        case date():
            return value.isoformat()
    return str(value)


def timestamp(at: datetime) -> str:
    """Return a time as answers and the journal carry it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
