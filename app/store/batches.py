"""Batches and their picks."""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from app.domain.model import CHECKPOINT_DAYS, Batch, BatchStatus, Checkpoint, Close, Ending, JournalKind, Pick, Renaming
from app.domain.tickers import Tickers
from app.store import journal
from app.store.rows import Conn, insert, select

# Whichever constraint notices first: a Monday's id is always the same, so two at once may collide on that, too.
_FIRST_RUN = "ON CONFLICT DO NOTHING"

# A failed Monday that is run again keeps its row; nothing else is ever replaced.
_SECOND_RUN = """
ON CONFLICT ON CONSTRAINT one_batch_per_run_date DO UPDATE SET
    created_at = excluded.created_at,
    status = excluded.status,
    late = excluded.late,
    failure_reason = excluded.failure_reason,
    failure = excluded.failure,
    benchmark_symbol = excluded.benchmark_symbol,
    benchmark_initial_price = excluded.benchmark_initial_price,
    benchmark_initial_close_id = excluded.benchmark_initial_close_id,
    trading_day = excluded.trading_day
WHERE batches.status = 'failed'
"""


async def add(
    conn: Conn,
    batch: Batch,
    picks: Sequence[Pick],
    baseline: Checkpoint,
    readings: Sequence[Close],
    *,
    again: bool = False,
) -> bool:
    """
    Store a batch with its picks and its baseline, and the journal's entry; return False if its Monday has one.

    With `again` a failed Monday is run again, by hand: its row is replaced.
    """
    if not await insert(conn, "batches", batch, _SECOND_RUN if again else _FIRST_RUN):
        return False
    for pick in picks:
        await insert(conn, "picks", pick)
    await insert(conn, "checkpoints", baseline)
    recorded = {"batch": batch, "picks": picks, "checkpoint": baseline, "closes": readings}
    await journal.append(conn, JournalKind.BATCH, batch.created_at, recorded, batch.id)
    return True


async def add_failed(conn: Conn, batch: Batch, *, again: bool = False) -> bool:
    """Store a Monday without picks, with its reason and the journal's entry; return False if it has a row (see add)."""
    if not await insert(conn, "batches", batch, _SECOND_RUN if again else _FIRST_RUN):
        return False
    await journal.append(conn, JournalKind.FAILURE, batch.created_at, {"batch": batch}, batch.id)
    return True


async def get(conn: Conn, id: UUID) -> Batch | None:
    """Return the batch with this id."""
    found = await select(conn, Batch, "batches", "WHERE id = %s", id)
    return found[0] if found else None


async def on(conn: Conn, series: str, run_date: date) -> Batch | None:
    """Return the batch of a Monday."""
    found = await select(conn, Batch, "batches", "WHERE series = %s AND run_date = %s", series, run_date)
    return found[0] if found else None


async def newest(conn: Conn, series: str) -> Batch | None:
    """Return the batch of the newest run date, whatever its status."""
    found = await select(conn, Batch, "batches", "WHERE series = %s ORDER BY run_date DESC LIMIT 1", series)
    return found[0] if found else None


async def since(conn: Conn, series: str, run_date: date) -> list[Batch]:
    """Return the batches from a Monday on, whatever their status, oldest first."""
    return await select(
        conn, Batch, "batches", "WHERE series = %s AND run_date >= %s ORDER BY run_date", series, run_date
    )


class Completed(Struct, frozen=True):
    """A completed batch, and its Monday: no more of it is read, so that one that is damaged stops no other."""

    id: UUID
    run_date: date


async def completed_between(conn: Conn, first: date, last: date) -> list[Completed]:
    """Return the completed batches with a run date from `first` to `last`, oldest first."""
    return await select(
        conn,
        Completed,
        "batches",
        "WHERE status = %s AND run_date BETWEEN %s AND %s ORDER BY run_date",
        BatchStatus.COMPLETED,
        first,
        last,
    )


async def newest_made(conn: Conn, series: str) -> Batch | None:
    """Return the newest batch that has picks."""
    found = await select(
        conn, Batch, "batches", "WHERE series = %s AND status <> 'failed' ORDER BY run_date DESC LIMIT 1", series
    )
    return found[0] if found else None


async def picks_of(conn: Conn, batch_id: UUID) -> list[Pick]:
    """Return a batch's picks in the model's order."""
    return await select(conn, Pick, "picks", "WHERE batch_id = %s ORDER BY position", batch_id)


async def end_pick(conn: Conn, pick: Pick, ending: Ending, at: datetime) -> bool:
    """Record what became of a pick, with the journal's entry; return False if that is recorded already."""
    cursor = await conn.execute("UPDATE picks SET ended = true WHERE id = %s AND NOT ended", (pick.id,))
    if cursor.rowcount == 0:
        return False
    recorded = {"pick": replace(pick, ended=True), "ending": ending}
    await journal.append(conn, JournalKind.PICK_ENDED, at, recorded, pick.batch_id)
    return True


async def rename_pick(conn: Conn, pick: Pick, ticker: str, renaming: Renaming, at: datetime) -> None:
    """Follow a pick's new ticker; the journal's entry keeps the old one, and from which session the new one holds."""
    await conn.execute("UPDATE picks SET ticker = %s WHERE id = %s", (ticker, pick.id))
    recorded = {"pick": replace(pick, ticker=ticker), "before": pick.ticker, "renaming": renaming}
    await journal.append(conn, JournalKind.PICK_RENAMED, at, recorded, pick.batch_id)


async def endings_of(conn: Conn, batch_id: UUID) -> dict[UUID, Ending]:
    """Return what became of a batch's ended picks, by pick: the last word where there are several."""
    told = await journal.told(conn, batch_id, JournalKind.PICK_ENDED)
    endings = [msgspec.convert(content["ending"], Ending, strict=False) for content in told]
    return {ending.pick_id: ending for ending in endings}


async def tickers_of(conn: Conn, batch_id: UUID) -> dict[UUID, Tickers]:
    """Return under which tickers each pick of a batch is read, by its id."""
    tickers: dict[UUID, Tickers] = {}
    for content in await journal.told(conn, batch_id, JournalKind.PICK_RENAMED):
        pick_id, ticker = UUID(content["pick"]["id"]), content["pick"]["ticker"]
        share = tickers.get(pick_id) or Tickers.only(content["before"])
        if "renaming" in content:
            renaming = msgspec.convert(content["renaming"], Renaming, strict=False)
            tickers[pick_id] = share.renamed(ticker, renaming.from_session, forced=renaming.forced)
        else:  # an entry of an earlier version
            tickers[pick_id] = share.renamed(ticker, None)
    return {pick.id: tickers.get(pick.id, Tickers.only(pick.ticker)) for pick in await picks_of(conn, batch_id)}


async def holding(conn: Conn, ticker: str) -> list[Batch]:
    """Return the batches that have `ticker` as a pick, now or formerly, or as benchmark; hold them (see `hold`)."""
    return await select(
        conn,
        Batch,
        "batches",
        """
        WHERE trading_day IS NOT NULL AND (benchmark_symbol = %s
            OR EXISTS (SELECT FROM picks WHERE picks.batch_id = batches.id AND picks.ticker = %s)
            OR EXISTS (SELECT FROM journal WHERE journal.batch_id = batches.id AND kind = %s
                AND content::json ->> 'before' = %s))
        ORDER BY id
        FOR UPDATE
        """,
        ticker,
        ticker,
        JournalKind.PICK_RENAMED,
        ticker,
    )


async def oldest_active_baseline(conn: Conn) -> date | None:
    """Return the earliest baseline session that an active batch still needs."""
    cursor = await conn.execute("SELECT min(trading_day) FROM batches WHERE status = %s", (BatchStatus.ACTIVE,))
    row = await cursor.fetchone()
    return row[0] if row else None


async def hold(conn: Conn, id: UUID) -> Batch:
    """Keep other transactions from changing this batch until this one ends; return it as it now stands."""
    (batch,) = await select(conn, Batch, "batches", "WHERE id = %s FOR UPDATE", id)
    return batch


async def complete(conn: Conn, id: UUID) -> bool:
    """Mark an active batch completed if all of its checkpoints are there; return whether it was this one."""
    cursor = await conn.execute(
        """
        UPDATE batches
        SET status = 'completed'
        WHERE id = %s AND status = 'active'
            AND (SELECT count(*) FROM checkpoints WHERE checkpoints.batch_id = batches.id) = %s
        """,
        (id, 1 + CHECKPOINT_DAYS),
    )
    return cursor.rowcount == 1


async def run_dates(conn: Conn, series: str) -> set[date]:
    """Return the Mondays of a series that have a row."""
    cursor = await conn.execute("SELECT run_date FROM batches WHERE series = %s", (series,))
    return {run_date for (run_date,) in await cursor.fetchall()}


async def counts(conn: Conn, series: str) -> dict[tuple[str, str], int]:
    """Return how many Mondays of a series have a row, by status and, of the failed, by reason."""
    cursor = await conn.execute(
        "SELECT status, coalesce(failure_reason, ''), count(*) FROM batches WHERE series = %s GROUP BY 1, 2", (series,)
    )
    return {(status, reason): count for status, reason, count in await cursor.fetchall()}
