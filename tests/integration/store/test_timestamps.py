"""Timestamps in the database: what is stored once, what Postgres refuses, and how they are read."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from uuid import uuid4

import psycopg
import pytest
from api_records import plant
from msgspec.structs import replace
from record_server import without_triggers

from app.database import pools
from app.domain.timestamps import Timestamp, TimestampKind, TimestampStatus
from app.store import journal, timestamps

AT = datetime(2026, 1, 5, 14, 4, 10, tzinfo=UTC)
AUTHORITY = "https://tsa.example/tsr"
CALENDAR = "https://a.pool.example"


def token(seq: int, hash: str, **changes: object) -> Timestamp:
    """Return a timestamp of an authority."""
    usual = {
        "id": uuid4(), "seq": seq, "hash": hash, "kind": TimestampKind.RFC3161,
        "status": TimestampStatus.CONFIRMED, "authority": AUTHORITY, "at": AT,
        "accuracy_seconds": Decimal("0.5"), "received_at": AT, "nonce": "42",
        "proof": b"\x30\x00\xff\\", "chain": "-----BEGIN CERTIFICATE-----\n",
    }  # fmt: skip
    return Timestamp(**{**usual, **changes})


def promise(seq: int, hash: str, **changes: object) -> Timestamp:
    """Return a pending proof of OpenTimestamps."""
    usual = {
        "kind": TimestampKind.OPENTIMESTAMPS, "status": TimestampStatus.PENDING,
        "authority": CALENDAR, "accuracy_seconds": None, "nonce": None, "chain": None,
    }  # fmt: skip
    return token(seq, hash, **{**usual, **changes})


@pytest.fixture
def record(database: str, pool: pools.Pool) -> pools.Pool:
    """Return the pool of a database with a record that has no timestamps."""
    plant(database)
    with without_triggers(database) as conn:
        conn.execute("DELETE FROM timestamps")
    return pool


async def test_the_head_is_the_newest_entry_and_its_hash_is_of_its_data(record):
    """One statement reads number, hash and text of the newest entry."""
    async with record.connection() as conn:
        head = await timestamps.head(conn)
        newest = await journal.head(conn)
    assert head
    assert newest
    assert (head.seq, head.hash) == (newest.seq, newest.hash)
    assert sha256(head.data).hexdigest() == newest.hash


async def test_a_proof_is_stored_once_and_read_as_it_was(record):
    """The second proof of the same service for the same entry is dropped."""
    async with record.connection() as conn:
        head = await timestamps.head(conn)
        assert head
        stamp = token(head.seq, head.hash)
        assert await timestamps.insert(conn, stamp)
        assert not await timestamps.insert(conn, replace(stamp, id=uuid4()))
        other = token(head.seq, head.hash, authority="https://other.example")
        assert await timestamps.insert(conn, other)
        assert await timestamps.get(conn, stamp.id) == stamp
        assert await timestamps.newest(conn, TimestampKind.RFC3161, AUTHORITY) == stamp
        assert await timestamps.newest(conn, TimestampKind.RFC3161, CALENDAR) is None
        listed = await timestamps.list_of_entry(conn, head.seq, TimestampKind.RFC3161)
        assert {one.id for one in listed} == {stamp.id, other.id}
        ordered = sorted([stamp, other], key=lambda one: one.id.int)
        assert await timestamps.list_after(conn, 0, stamp.id, 10) == ordered
        assert await timestamps.list_after(conn, head.seq, ordered[0].id, 10) == ordered[1:]


async def test_a_promise_is_pending_until_its_proof_is_complete(record):
    """A confirmed proof is stored beside the pending one, which then is pending no more."""
    async with record.connection() as conn:
        head = await timestamps.head(conn)
        assert head
        pending = promise(head.seq, head.hash)
        assert await timestamps.insert(conn, pending)
        before = AT - timedelta(seconds=1)
        assert await timestamps.list_pending(conn, before) == [pending]
        assert await timestamps.list_pending(conn, AT) == []
        confirmed = replace(
            pending, id=uuid4(), status=TimestampStatus.CONFIRMED, block_height=870_000
        )
        assert await timestamps.insert(conn, confirmed)
        assert await timestamps.list_pending(conn, before) == []
        newest = await timestamps.newest(conn, TimestampKind.OPENTIMESTAMPS, CALENDAR)
        assert newest == confirmed


async def test_a_timestamp_of_another_hash_covers_no_batch(record, database):
    """After the journal was written again, it says nothing about the present entries."""
    async with record.connection() as conn:
        head = await timestamps.head(conn)
        assert head
        stamp = token(head.seq, head.hash)
        assert await timestamps.insert(conn, stamp)
        cursor = await conn.execute("SELECT id FROM batches WHERE status <> 'failed' LIMIT 1")
        (batch_id,) = await cursor.fetchone() or (None,)
        assert await timestamps.list_covering(conn, batch_id) == [stamp]
    with without_triggers(database) as conn:
        conn.execute("UPDATE timestamps SET hash = repeat('0', 64)")
    async with record.connection() as conn:
        assert await timestamps.list_covering(conn, batch_id) == []


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"hash": "0" * 64}, "a_timestamp_is_of_an_entry"),
        ({"seq": 10_000}, "a_timestamp_is_of_an_entry"),
        ({"proof": b""}, "a_proof_has_a_length"),
        ({"nonce": None}, "a_timestamp_of_an_authority_is_complete"),
        ({"nonce": "x"}, "a_timestamp_of_an_authority_is_complete"),
        ({"chain": None}, "a_timestamp_of_an_authority_is_complete"),
        ({"accuracy_seconds": None}, "a_timestamp_of_an_authority_is_complete"),
        ({"accuracy_seconds": Decimal(-1)}, "accuracy_is_a_time"),
        ({"accuracy_seconds": Decimal("NaN")}, "accuracy_is_a_time"),
        ({"status": TimestampStatus.PENDING}, "a_timestamp_of_an_authority_is_complete"),
        ({"block_height": 1}, "a_timestamp_of_an_authority_is_complete"),
        ({"kind": TimestampKind.OPENTIMESTAMPS}, "a_proof_in_a_block_names_the_block"),
    ],
)
async def test_what_is_no_timestamp_is_refused(record, changes, constraint):
    """Postgres refuses a row that no service could have stored."""
    async with record.connection() as conn:
        head = await timestamps.head(conn)
        assert head
        with pytest.raises(psycopg.errors.IntegrityError) as refused:
            await timestamps.insert(conn, replace(token(head.seq, head.hash), **changes))
    assert refused.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    ("statement", "trigger"),
    [
        ("UPDATE timestamps SET authority = 'x'", "timestamps_are_never_changed"),
        ("DELETE FROM timestamps", "timestamps_are_never_changed"),
        ("TRUNCATE timestamps", "timestamps_are_never_emptied"),
    ],
)
async def test_a_stored_timestamp_never_changes(record, statement, trigger):
    """The table is append-only."""
    async with record.connection() as conn:
        head = await timestamps.head(conn)
        assert head
        assert await timestamps.insert(conn, token(head.seq, head.hash))
        with pytest.raises(psycopg.errors.RestrictViolation) as refused:
            await conn.execute(statement)
    assert refused.value.diag.constraint_name == trigger
