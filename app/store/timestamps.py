"""Timestamps of the journal: the head that is to be stamped, and the stored proofs."""

from collections.abc import Iterable
from datetime import date, datetime
from uuid import UUID

from msgspec import Struct

from app.domain.calendar import ORDINARY_CALENDAR, Calendar
from app.domain.model import Batch, JournalKind
from app.domain.timestamps import Head, Timestamp, TimestampKind, TimestampStatus, first_open
from app.store import closes, declarations
from app.store.rows import Conn, insert_row, row_factory, select_row, select_rows


async def head(conn: Conn) -> Head | None:
    """
    Return the newest entry of the journal, or None if the journal is empty.

    One statement reads all of it, so that number, hash and text belong to the same entry.
    """
    return await select_row(conn, Head, table="journal", where="ORDER BY seq DESC LIMIT 1")


async def insert(conn: Conn, timestamp: Timestamp) -> bool:
    """
    Store a timestamp. Return False if this service's proof of the entry is stored already.

    A trigger refuses a hash that is not the hash of the entry.
    """
    return await insert_row(
        conn, "timestamps", timestamp, on_conflict="ON CONFLICT ON CONSTRAINT "
        "a_proof_is_stored_once DO NOTHING",
    )  # fmt: skip


async def newest(conn: Conn, kind: TimestampKind, authority: str) -> Timestamp | None:
    """Return the timestamp of a service with the highest number of an entry, or None."""
    return await select_row(
        conn,
        Timestamp,
        table="timestamps",
        where="WHERE kind = %s AND authority = %s ORDER BY seq DESC, status LIMIT 1",
        values=(kind, authority),
    )


async def get(conn: Conn, id: UUID) -> Timestamp | None:
    """Return the timestamp with an id, or None."""
    return await select_row(
        conn, Timestamp, table="timestamps", where="WHERE id = %s", values=(id,)
    )


class ServiceStamps(Struct, frozen=True):
    """
    What one service has stamped: its newest entry, and when the proof of it was received.

    `pending` is the number of proofs that are not complete yet.
    """

    kind: TimestampKind
    authority: str
    seq: int
    received_at: datetime
    pending: int


async def list_services(conn: Conn) -> list[ServiceStamps]:
    """Return what each service has stamped, by kind and address."""
    async with conn.cursor(row_factory=row_factory(ServiceStamps)) as cursor:
        await cursor.execute(
            """
            SELECT
                kind,
                authority,
                max(seq) AS seq,
                max(received_at) AS received_at,
                count(*) FILTER (WHERE status = 'PENDING' AND NOT EXISTS (
                    SELECT FROM timestamps confirmed
                    WHERE confirmed.seq = timestamps.seq AND confirmed.kind = timestamps.kind
                        AND confirmed.authority = timestamps.authority
                        AND confirmed.status = 'CONFIRMED')) AS pending
            FROM timestamps
            GROUP BY kind, authority
            ORDER BY kind DESC, authority COLLATE "C"
            """
        )
        return await cursor.fetchall()


async def exists(conn: Conn) -> bool:
    """Return whether the record has any timestamp."""
    cursor = await conn.execute("SELECT EXISTS (SELECT FROM timestamps)")
    (has_rows,) = await cursor.fetchone() or (False,)
    return bool(has_rows)


async def count(conn: Conn) -> int:
    """Return the number of timestamps, whatever their values are."""
    cursor = await conn.execute("SELECT count(*) FROM timestamps")
    (number,) = await cursor.fetchone() or (0,)
    return int(number)


async def list_of_entry(conn: Conn, seq: int, kind: TimestampKind) -> list[Timestamp]:
    """Return the timestamps of one kind of one entry, confirmed ones first, then newest first."""
    return await select_rows(
        conn,
        Timestamp,
        table="timestamps",
        where="WHERE seq = %s AND kind = %s ORDER BY status, received_at DESC, id",
        values=(seq, kind),
    )


async def list_after(conn: Conn, seq: int, id: UUID, count: int) -> list[Timestamp]:
    """Return the next `count` timestamps after the one with `seq` and `id`, in their order."""
    return await select_rows(
        conn,
        Timestamp,
        table="timestamps",
        where="WHERE (seq, id) > (%s, %s) ORDER BY seq, id LIMIT %s",
        values=(seq, id, count),
    )


async def get_first_open(conn: Conn, batch: Batch, sessions: Calendar) -> datetime:
    """
    Return the first open at which the picks of a batch can be traded.

    In a sealed record, the closures on short notice are those that settings of the journal list,
    but none whose price was read. In another record, they are those of `sessions`, the calendar of
    this process. `api.schema.FIRST_OPEN` states the same for the API.
    """
    if await declarations.is_sealed(conn):
        listed = await declarations.list_listed_days(conn)
        sessions = await _without_days_read(conn, listed, batch.benchmark_symbol)
    return first_open(sessions, batch.run_date)


async def _without_days_read(conn: Conn, listed: Iterable[date], benchmark: str) -> Calendar:
    """Return the calendar with these closures, but none for which a close was read."""
    closed = {day for day in listed if ORDINARY_CALENDAR.is_session(day)}
    if not closed:
        return ORDINARY_CALENDAR
    days_read = await closes.list_days_read(conn, benchmark, first=min(closed), last=max(closed))
    return Calendar(closed - days_read)


async def list_covering(conn: Conn, batch_id: UUID) -> list[Timestamp]:
    """
    Return the RFC 3161 timestamps that cover the BATCH entry of a batch, the earliest first.

    A timestamp of another hash than its entry has now is left out: it says nothing about a journal
    that was written again. So is one of a time before the batch, which only a changed row can have.
    `api.schema.COVERS_BATCH` states the same condition for the API.
    """
    return await select_rows(
        conn,
        Timestamp,
        table="timestamps",
        where="""
            WHERE kind = %s AND status = %s
                AND at >= (
                    SELECT created_at FROM batches WHERE id = %s) - interval '10 minutes'
                AND seq >= (SELECT min(seq) FROM journal WHERE batch_id = %s AND kind = %s)
                AND EXISTS (
                    SELECT FROM journal stamped
                    WHERE stamped.seq = timestamps.seq AND stamped.hash = timestamps.hash)
            ORDER BY at, id
            """,
        values=(
            TimestampKind.RFC3161,
            TimestampStatus.CONFIRMED,
            batch_id,
            batch_id,
            JournalKind.BATCH,
        ),
    )


async def list_pending(conn: Conn, received_after: datetime) -> list[Timestamp]:
    """
    Return the pending proofs of OpenTimestamps that have no confirmed one beside them.

    Proofs that were received at `received_after` or earlier are left out.
    """
    return await select_rows(
        conn,
        Timestamp,
        table="timestamps",
        where="""
            AS pending WHERE kind = %s AND status = %s AND received_at > %s AND NOT EXISTS (
                SELECT FROM timestamps AS confirmed
                WHERE confirmed.seq = pending.seq AND confirmed.kind = pending.kind
                    AND confirmed.authority = pending.authority
                    AND confirmed.status = 'CONFIRMED')
            ORDER BY received_at, id
            """,
        values=(TimestampKind.OPENTIMESTAMPS, TimestampStatus.PENDING, received_after),
    )
