"""Batches and their picks: store, complete and query them; record endings and renames of picks."""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from app.domain.declarations import InForce
from app.domain.model import (
    CHECKPOINT_DAYS,
    Batch,
    BatchStatus,
    Checkpoint,
    Close,
    Ending,
    JournalEntry,
    JournalKind,
    Pick,
    Renaming,
)
from app.domain.request_plan import PlannedBatch
from app.domain.tickers import TickerHistory
from app.store import journal
from app.store.entries import decode_content, read_member
from app.store.rows import Conn, insert_row, select_row, select_rows

# For the first run of a Monday. This clause names no constraint: a Monday's batch always has the
# same id, so two transactions may conflict on the id as well as on the run date.
_KEEP_EXISTING = "ON CONFLICT DO NOTHING"

# If a failed Monday is run again, its row is replaced. A row with another status is never replaced.
_REPLACE_FAILED = """
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


class CompletedBatch(Struct, frozen=True):
    """
    The id and the run date of a completed batch.

    It has no other columns, so that a batch can be read even if another of its columns is damaged.
    """

    id: UUID
    run_date: date


async def insert(
    conn: Conn,
    batch: Batch,
    picks: Sequence[Pick],
    baseline: Checkpoint,
    readings: Sequence[Close],
    *,
    rerun: bool = False,
    in_force: InForce | None,
) -> bool:
    """
    Insert a batch with its picks and its day 0, and the journal entry.

    Return False if its series already has a batch for that run date. With `rerun`, a batch that
    failed is replaced: an operator runs that Monday again. `readings` are the closes that day 0
    uses; only the journal entry gets them, because they are already stored.
    """
    if not await _insert_batch(conn, batch, rerun=rerun):
        return False
    # The batch was inserted first, because the rows of picks and checkpoints refer to it.
    for pick in picks:
        await insert_row(conn, "picks", pick)
    await insert_row(conn, "checkpoints", baseline)

    recorded = {"batch": batch, "picks": picks, "checkpoint": baseline, "closes": readings}
    await journal.append(
        conn,
        JournalKind.BATCH,
        at=batch.created_at,
        recorded=recorded,
        batch_id=batch.id,
        in_force=in_force,
    )
    return True


async def insert_failed(
    conn: Conn, batch: Batch, *, rerun: bool = False, in_force: InForce | None
) -> bool:
    """
    Insert a Monday that has no picks, with the reason why, and the journal entry.

    Return False if its series already has a batch for that run date. With `rerun`, a batch that
    failed before is replaced.
    """
    if not await _insert_batch(conn, batch, rerun=rerun):
        return False
    await journal.append(
        conn,
        JournalKind.FAILURE,
        at=batch.created_at,
        recorded={"batch": batch},
        batch_id=batch.id,
        in_force=in_force,
    )
    return True


async def _insert_batch(conn: Conn, batch: Batch, *, rerun: bool) -> bool:
    on_conflict = _KEEP_EXISTING
    if rerun:
        on_conflict = _REPLACE_FAILED
    return await insert_row(conn, "batches", batch, on_conflict=on_conflict)


async def get(conn: Conn, id: UUID) -> Batch | None:
    """Return the batch with this id, or None."""
    return await select_row(conn, Batch, table="batches", where="WHERE id = %s", values=(id,))


async def get_by_run_date(conn: Conn, series: str, run_date: date) -> Batch | None:
    """Return the batch of the Monday `run_date`, with any status, or None."""
    return await select_row(
        conn,
        Batch,
        table="batches",
        where="WHERE series = %s AND run_date = %s",
        values=(series, run_date),
    )


async def get_newest(conn: Conn, series: str) -> Batch | None:
    """Return the batch with the newest run date, with any status, or None."""
    return await select_row(
        conn,
        Batch,
        table="batches",
        where="WHERE series = %s ORDER BY run_date DESC LIMIT 1",
        values=(series,),
    )


async def get_newest_with_picks(conn: Conn) -> Batch | None:
    """Return the newest batch of any series that has picks, or None."""
    return await select_row(
        conn,
        Batch,
        table="batches",
        where="WHERE status <> 'failed' ORDER BY run_date DESC, created_at DESC LIMIT 1",
    )


async def list_since(conn: Conn, run_date: date) -> list[Batch]:
    """Return the batches of all series of `run_date` and later, with any status, oldest first."""
    return await select_rows(
        conn,
        Batch,
        table="batches",
        where="WHERE run_date >= %s ORDER BY run_date, series",
        values=(run_date,),
    )


async def list_corrected(conn: Conn, since: datetime) -> list[Batch]:
    """Return the batches with a correction that was made at `since` or later, oldest first."""
    return await select_rows(
        conn,
        Batch,
        table="batches",
        where="WHERE id IN (SELECT checkpoints.batch_id FROM corrections JOIN checkpoints "
        "ON checkpoints.id = checkpoint_id WHERE made_at >= %s) ORDER BY run_date, series",
        values=(since,),
    )


async def list_completed(conn: Conn, first: date, last: date) -> list[CompletedBatch]:
    """Return the completed batches with a run date from `first` to `last`, oldest first."""
    return await select_rows(
        conn,
        CompletedBatch,
        table="batches",
        where="WHERE status = %s AND run_date BETWEEN %s AND %s ORDER BY run_date",
        values=(BatchStatus.COMPLETED, first, last),
    )


async def list_by_run_date(conn: Conn, run_date: date) -> list[Batch]:
    """Return the batches of all series of a Monday, by the name of the series."""
    return await select_rows(
        conn,
        Batch,
        table="batches",
        where="WHERE run_date = %s ORDER BY series",
        values=(run_date,),
    )


async def list_series_on(conn: Conn, run_date: date) -> set[str]:
    """Return the series that have a row of the Monday `run_date`, failed or damaged ones too."""
    cursor = await conn.execute("SELECT series FROM batches WHERE run_date = %s", (run_date,))
    return {series for (series,) in await cursor.fetchall()}


async def have_all(conn: Conn, series: Sequence[str], run_date: date) -> bool:
    """Return whether each of these series has a row of the Monday `run_date`, failed or not."""
    return await list_series_on(conn, run_date) >= set(series)


async def list_mondays(conn: Conn) -> list[tuple[str, date]]:
    """Return the series and the Monday of each batch, failed ones included."""
    cursor = await conn.execute("SELECT series, run_date FROM batches ORDER BY run_date, series")
    return await cursor.fetchall()


async def list_planned(conn: Conn, since: date) -> list[PlannedBatch]:
    """Return the batches with picks and a run date from `since` on, oldest first."""
    cursor = await conn.execute(
        """
        SELECT series, run_date, benchmark_symbol, array_agg(ticker ORDER BY position)
            FILTER (WHERE NOT ended)
        FROM batches JOIN picks ON picks.batch_id = batches.id
        WHERE run_date >= %s
        GROUP BY batches.id
        ORDER BY run_date, series COLLATE "C"
        """,
        (since,),
    )
    rows = await cursor.fetchall()
    return [
        PlannedBatch(series, run_date, (benchmark, *(tickers or ())))
        for series, run_date, benchmark, tickers in rows
    ]


async def list_series(conn: Conn) -> list[str]:
    """Return the names of the series that have a batch, in alphabetical order."""
    cursor = await conn.execute("SELECT DISTINCT series FROM batches ORDER BY series")
    return [series for (series,) in await cursor.fetchall()]


async def get_newest_run_date(conn: Conn) -> date | None:
    """Return the newest Monday for which any series has a batch; None if there is none."""
    cursor = await conn.execute("SELECT max(run_date) FROM batches")
    (run_date,) = await cursor.fetchone() or (None,)
    return run_date


async def first_run_date(conn: Conn) -> date | None:
    """Return the earliest Monday of all batches; None without a batch."""
    cursor = await conn.execute("SELECT min(run_date) FROM batches")
    (first,) = await cursor.fetchone() or (None,)
    return first


async def first_baseline(conn: Conn) -> date | None:
    """Return the earliest baseline session of all batches; None if no batch has picks."""
    cursor = await conn.execute("SELECT min(trading_day) FROM batches")
    (first,) = await cursor.fetchone() or (None,)
    return first


async def get_oldest_active_baseline(conn: Conn) -> date | None:
    """Return the earliest baseline session of all active batches, or None if none is active."""
    cursor = await conn.execute(
        "SELECT min(trading_day) FROM batches WHERE status = %s", (BatchStatus.ACTIVE,)
    )
    (session,) = await cursor.fetchone() or (None,)
    return session


async def count_by_status(conn: Conn) -> dict[tuple[str, str], int]:
    """
    Return the number of batches of all series by status and failure reason.

    The failure reason is empty unless the batch failed.
    """
    cursor = await conn.execute(
        "SELECT status, coalesce(failure_reason, ''), count(*) FROM batches GROUP BY 1, 2"
    )
    return {(status, reason): count for status, reason, count in await cursor.fetchall()}


async def lock_for_update(conn: Conn, id: UUID) -> Batch:
    """Lock a batch until the transaction ends, and return its current row."""
    # The right to update a single column is enough for SELECT ... FOR UPDATE: see
    # `app.database.rights`.
    (batch,) = await select_rows(
        conn, Batch, table="batches", where="WHERE id = %s FOR UPDATE", values=(id,)
    )
    return batch


async def lock_all_with_ticker(conn: Conn, ticker: str, also: Collection[UUID] = ()) -> list[Batch]:
    """
    Lock every batch that uses a ticker, and return their rows.

    The lock lasts until the transaction ends. A batch uses the ticker for its benchmark, for a
    further benchmark that was measured, for a pick, or for a pick before that pick was renamed.
    The batches with the ids in `also` are locked, too. Failed batches are not locked.
    """
    # The batches are locked in the order of their ids, so that two transactions that lock several
    # batches cannot deadlock. The member of the entry is searched as a text: a cast of a damaged
    # content to JSON would be an error, and no batch at all could be locked. In canonical JSON, no
    # other text can contain these quotation marks without escapes.
    return await select_rows(
        conn,
        Batch,
        table="batches",
        where="""
        WHERE trading_day IS NOT NULL AND (benchmark_symbol = %s
            OR id = ANY(%s)
            OR EXISTS (SELECT FROM picks WHERE picks.batch_id = batches.id AND picks.ticker = %s)
            OR EXISTS (SELECT FROM further_benchmarks
                WHERE further_benchmarks.batch_id = batches.id AND symbol = %s)
            OR EXISTS (SELECT FROM journal WHERE journal.batch_id = batches.id AND kind = %s
                AND strpos(content, %s) > 0))
        ORDER BY id
        FOR UPDATE
        """,
        values=(
            ticker,
            list(also),
            ticker,
            ticker,
            JournalKind.PICK_RENAMED,
            f'"before":"{ticker}"',
        ),
    )


async def complete(conn: Conn, id: UUID) -> bool:
    """Set an active batch to completed if it has all checkpoints. Return whether it was set."""
    cursor = await conn.execute(
        """
        UPDATE batches
        SET status = 'completed'
        WHERE id = %s AND status = 'active'
            AND (SELECT count(*) FROM checkpoints WHERE checkpoints.batch_id = batches.id) = %s
        """,
        # All days from 0 to 14.
        (id, 1 + CHECKPOINT_DAYS),
    )
    return cursor.rowcount == 1


async def is_benchmark(conn: Conn, ticker: str) -> bool:
    """Return whether a ticker is the benchmark of any batch."""
    cursor = await conn.execute(
        "SELECT EXISTS (SELECT FROM batches WHERE benchmark_symbol = %s)", (ticker,)
    )
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def list_picks(conn: Conn, batch_id: UUID) -> list[Pick]:
    """Return a batch's picks in the order in which the model gave them."""
    return await select_rows(
        conn,
        Pick,
        table="picks",
        where="WHERE batch_id = %s ORDER BY position",
        values=(batch_id,),
    )


async def end_pick(
    conn: Conn, pick: Pick, ending: Ending, at: datetime, in_force: InForce | None
) -> bool:
    """
    Record that a pick's share stopped trading, with the journal entry.

    Return False if this is recorded already.
    """
    # If two transactions record an ending, only one of them changes the row: for the other one,
    # `NOT ended` is false.
    cursor = await conn.execute(
        "UPDATE picks SET ended = true WHERE id = %s AND NOT ended", (pick.id,)
    )
    if cursor.rowcount == 0:
        return False
    recorded = {"pick": replace(pick, ended=True), "ending": ending}
    await journal.append(
        conn,
        JournalKind.PICK_ENDED,
        at=at,
        recorded=recorded,
        batch_id=pick.batch_id,
        in_force=in_force,
    )
    return True


async def rename_pick(
    conn: Conn,
    pick: Pick,
    ticker: str,
    renaming: Renaming,
    at: datetime,
    in_force: InForce | None,
) -> None:
    """
    Give a pick another ticker, with the journal entry.

    The entry has the old ticker, and the first session in which the share has the new one.
    """
    await conn.execute("UPDATE picks SET ticker = %s WHERE id = %s", (ticker, pick.id))
    recorded = {"pick": replace(pick, ticker=ticker), "before": pick.ticker, "renaming": renaming}
    await journal.append(
        conn,
        JournalKind.PICK_RENAMED,
        at=at,
        recorded=recorded,
        batch_id=pick.batch_id,
        in_force=in_force,
    )


async def get_endings(conn: Conn, batch_id: UUID) -> dict[UUID, Ending]:
    """Return the ending of each ended pick of a batch, by the pick's id."""
    entries = await journal.list_of_batch(conn, batch_id, JournalKind.PICK_ENDED)
    endings = [read_member(entry, "ending", Ending) for entry in entries]
    # The oldest entry comes first, so the newest ending of a pick replaces an earlier one.
    return {ending.pick_id: ending for ending in endings}


async def get_tickers(conn: Conn, batch_id: UUID) -> dict[UUID, TickerHistory]:
    """Return the tickers of each pick of a batch over time, by the pick's id."""
    histories: dict[UUID, TickerHistory] = {}
    for entry in await journal.list_of_batch(conn, batch_id, JournalKind.PICK_RENAMED):
        pick = read_member(entry, "pick", Pick)
        before = read_member(entry, "before", str)
        history = histories.get(pick.id) or TickerHistory.unchanged(before)
        histories[pick.id] = _with_rename(history, entry, pick.ticker)

    # A pick without a rename has had one ticker all the time.
    for pick in await list_picks(conn, batch_id):
        histories.setdefault(pick.id, TickerHistory.unchanged(pick.ticker))
    return histories


def _with_rename(history: TickerHistory, entry: JournalEntry, ticker: str) -> TickerHistory:
    """Return `history` with the rename to `ticker` that a journal entry records."""
    if "renaming" not in decode_content(entry):
        # An earlier version did not record the first session of the new ticker.
        return history.with_rename(ticker, None)
    renaming = read_member(entry, "renaming", Renaming)
    return history.with_rename(ticker, renaming.from_session, forced=renaming.forced)
