"""`alpha-monday verify`: read the timestamps of a database or of an API, and check them."""

from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct

from app.domain.text import one_line
from app.domain.timestamps import Timestamp, TimestampKind
from app.domain.verification.chain import Head
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import TextRow
from app.domain.verification.stamps import StampVerifier
from app.domain.verification.state import JournalState
from app.errors import ConfigurationError, RecordDamaged
from app.ops.verify import ApiRecord, DatabaseRecord, RecordSource, TableRow
from app.store import timestamps

if TYPE_CHECKING:  # importing the library takes 70 ms
    from cryptography.x509 import Certificate

# How many timestamps are read at a time. Each has some thousand bytes.
_PAGE_SIZE = 50
_FIRST_ID = UUID(int=0)
# The fields of an API's timestamp, by the attribute of `Timestamp`.
_FIELDS = {
    "seq": "seq",
    "hash": "hash",
    "kind": "kind",
    "status": "status",
    "authority": "authority",
    "at": "at",
    "accuracy_seconds": "accuracySeconds",
    "received_at": "receivedAt",
    "proof": "proof",
    "chain": "chain",
    "block_height": "blockHeight",
}
_HAS_FIELD = '{ __type(name: "Query") { fields { name } } }'
_QUERY = (
    "query($first: Int!, $after: String) { timestamps(first: $first, after: $after) { "
    f"nodes {{ {' '.join(_FIELDS.values())} }} pageInfo {{ hasNextPage endCursor }} }} }}"
)


class _Page(Struct, frozen=True):
    """A page of an API's timestamps. `end_cursor` leads to the next page, if there is one."""

    stamps: list[Timestamp]
    has_more: bool
    end_cursor: str | None


class HashedSource:
    """A source of a record that remembers the hash of each entry that is read from it."""

    def __init__(self, source: RecordSource) -> None:
        self.source = source
        self.open_mondays = source.open_mondays
        self.hashes: dict[int, str] = {}

    async def is_rehearsal(self) -> bool:
        """Return whether the source shows the clock of a rehearsal."""
        return await self.source.is_rehearsal()

    async def head(self) -> Head | None:
        """Return the number and the hash of the newest entry."""
        return await self.source.head()

    async def entries(self, after: int) -> AsyncGenerator[TextRow]:
        """Yield the entries after the number `after`, in their order."""
        async for entry in self.source.entries(after):
            seq = str(entry.get("seq", ""))
            if seq.isascii() and seq.isdecimal():
                self.hashes[int(seq)] = str(entry.get("hash", ""))
            yield entry

    def rows(self, state: JournalState) -> AsyncGenerator[TableRow]:
        """Yield the rows of the record."""
        return self.source.rows(state)


async def verify_stamps(
    source: HashedSource, roots: Sequence["Certificate"] | None = None
) -> StampVerifier:
    """
    Check all timestamps of a record whose journal has been verified, and return the result.

    Raises Discrepancy for the first one that does not fit.
    """
    verifier = StampVerifier(source.hashes, roots)
    async for stamp in _read(source.source):
        if stamp.seq not in source.hashes:
            # The service of an API may have recorded and stamped entries after they were read.
            async for _ in source.entries(max(source.hashes, default=0)):
                pass
        verifier.check(stamp)
    return verifier


def _read(source: RecordSource) -> AsyncGenerator[Timestamp]:
    if isinstance(source, ApiRecord):
        return _read_api(source)
    assert isinstance(source, DatabaseRecord)
    return _read_database(source)


async def _read_database(source: DatabaseRecord) -> AsyncGenerator[Timestamp]:
    seq, id, has_more, count = 0, _FIRST_ID, True, 0
    while has_more:
        try:
            page = await timestamps.list_after(source.conn, seq, id, count=_PAGE_SIZE)
        except (psycopg.DataError, RecordDamaged) as error:
            raise discrepancy(
                Rule.TIMESTAMP, f"a timestamp cannot be read: {one_line(error)}"
            ) from None
        for stamp in page:
            # An API does not show the nonce, so its absence is a discrepancy of a database alone.
            if stamp.kind == TimestampKind.RFC3161 and stamp.nonce is None:
                raise discrepancy(
                    Rule.TIMESTAMP,
                    f"the token of {stamp.authority} for entry {stamp.seq} has no nonce.",
                )
            yield stamp
        count += len(page)
        has_more = len(page) == _PAGE_SIZE
        if page:
            seq, id = page[-1].seq, page[-1].id
    if count != await timestamps.count(source.conn):
        raise discrepancy(
            Rule.TIMESTAMP, "a timestamp is about no entry: its seq is missing, or not above zero."
        )


async def _read_api(source: ApiRecord) -> AsyncGenerator[Timestamp]:
    """Yield the timestamps that an API shows; none if its version has no timestamps."""
    fields = await source.query(_HAS_FIELD, _field_names)
    if "timestamps" not in fields:
        return
    after, has_more = None, True
    while has_more:
        page = await source.query(_QUERY, _to_page, first=_PAGE_SIZE, after=after)
        for stamp in page.stamps:
            yield stamp
        has_more = page.has_more
        if has_more and (page.end_cursor == after or not page.stamps):
            raise ConfigurationError(
                f"{source.display_url} returns the same page of `timestamps` again and again."
            )
        after = page.end_cursor


def _field_names(data: Any) -> set[str]:
    return {field["name"] for field in data["__type"]["fields"]}


def _to_page(data: Any) -> _Page:
    info = data["timestamps"]["pageInfo"]
    return _Page(
        stamps=[_to_stamp(node) for node in data["timestamps"]["nodes"]],
        has_more=info["hasNextPage"],
        end_cursor=info["endCursor"],
    )


def _to_stamp(node: Any) -> Timestamp:
    values = {name: node[field] for name, field in _FIELDS.items()}
    try:
        values["proof"] = b64decode(values["proof"], validate=True)
        stamp = msgspec.convert({"id": _FIRST_ID, **values}, Timestamp, strict=False)
        _refuse_incomparable(stamp)
    except (ValueError, ArithmeticError) as error:
        raise discrepancy(
            Rule.TIMESTAMP, f"a timestamp of the API cannot be read: {one_line(error)}"
        ) from None
    return stamp


def _refuse_incomparable(stamp: Timestamp) -> None:
    """Raise ValueError or ArithmeticError if a value cannot be compared with that of the proof."""
    for moment in (stamp.at, stamp.received_at):
        if moment.tzinfo is None:
            raise ValueError("its time has no zone")
        # The first and the last hours of the calendar have no time in UTC.
        moment.astimezone(UTC)
    if stamp.accuracy_seconds is not None and not stamp.accuracy_seconds.is_finite():
        raise ValueError("its accuracy is no number")
