"""Checkpoints and the metrics of their picks: store, retake, list and count them."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from app.domain import calendar
from app.domain.closures import find_result
from app.domain.declarations import InForce
from app.domain.model import (
    CHECKPOINT_DAYS,
    Batch,
    BatchStatus,
    Checkpoint,
    Close,
    JournalKind,
    Pick,
    PickMetric,
    Split,
)
from app.store import batches, closes, journal
from app.store.rows import Conn, insert_row, row_factory, select_row, select_rows


class DueCheckpoint(Struct, frozen=True):
    """
    The checkpoint of a batch on one day, and the time at which it is due.

    It may have no row yet, or a row that says that it was skipped.
    """

    batch_id: UUID
    run_date: date
    day: int

    @property
    def due_at(self) -> datetime:
        """Return when it is due: 09:00 in New York on its checkpoint date."""
        return calendar.due_at(self.run_date, self.day)


class CheckpointReading(Struct, frozen=True):
    """
    A reading that a checkpoint's figures depend on, with its session and its close.

    `ticker` is the share's current ticker. The reading itself may have an earlier ticker of the
    share, if the share was renamed.
    """

    series: str
    run_date: date
    day: int
    trading_day: date
    close: Decimal
    ticker: str


class ComputedCheckpoint(Struct, frozen=True):
    """When a checkpoint was computed. `was_skipped` is true if it was skipped at first."""

    series: str
    run_date: date
    day: int
    taken_at: datetime
    was_skipped: bool

    @property
    def late_by(self) -> timedelta:
        """Return how long after its due time it was taken."""
        return self.taken_at - calendar.due_at(self.run_date, self.day)


class Lateness(Struct, frozen=True):
    """
    How late checkpoints were, as a cumulative histogram.

    `count_by_bound` has, for each bound in seconds, the number of checkpoints that were late by at
    most that bound. `count` is the number of all checkpoints, and `seconds` the sum of their
    lateness.
    """

    count_by_bound: Mapping[float, int]
    count: int = 0
    seconds: float = 0.0


class RelatedChanges(Struct, frozen=True):
    """
    The rows that are journaled together with a computed checkpoint, besides its own figures.

    - `splits`: the readings of splits that these figures use. They are already stored.
    - `picks_with_open`: the picks whose open became known, with that open. Their rows are updated.
    - `completed_metrics`: earlier metrics of these picks, now with their return from the open.
      Their rows are updated, too.
    """

    splits: Sequence[Split] = ()
    picks_with_open: Sequence[Pick] = ()
    completed_metrics: Sequence[PickMetric] = ()


async def insert(
    conn: Conn,
    checkpoint: Checkpoint,
    metrics: Sequence[PickMetric] = (),
    readings: Sequence[Close] = (),
    changes: RelatedChanges = RelatedChanges(),  # noqa: B008 - frozen
    *,
    in_force: InForce | None,
) -> bool:
    """
    Insert a checkpoint with its metrics, and the journal entry.

    Return False if that day of the batch is stored already. If no other day of the batch is missing
    now, the batch becomes completed in the same transaction, and the journal entry has the batch,
    too.
    """
    # If two transactions stored the last two missing days without the lock, neither would see the
    # other's day, and the batch would never be completed.
    await batches.lock_for_update(conn, checkpoint.batch_id)
    # Two jobs may take the same checkpoint: a job is put back if its worker seems to be dead.
    if not await insert_row(conn, "checkpoints", checkpoint, on_conflict="ON CONFLICT DO NOTHING"):
        return False

    completed_batch = None
    if await batches.complete(conn, checkpoint.batch_id):
        completed_batch = await batches.get(conn, checkpoint.batch_id)
    await _store_figures(conn, metrics, changes)
    await _append_entry(
        conn,
        checkpoint,
        metrics=metrics,
        readings=readings,
        changes=changes,
        completed_batch=completed_batch,
        in_force=in_force,
    )
    return True


async def retake(
    conn: Conn,
    checkpoint: Checkpoint,
    metrics: Sequence[PickMetric],
    readings: Sequence[Close],
    changes: RelatedChanges = RelatedChanges(),  # noqa: B008 - frozen
    *,
    in_force: InForce | None,
) -> bool:
    """
    Turn a skipped checkpoint into a computed one.

    Return False if the checkpoint is no longer skipped, or if it was skipped because the market was
    closed. The row keeps the time and the reason of the skip. The journal gets another entry, after
    the entry of the skip.
    """
    await batches.lock_for_update(conn, checkpoint.batch_id)
    # The WHERE clause lets only the first of several retakes change the row.
    cursor = await conn.execute(
        """
        UPDATE checkpoints
        SET status = %(status)s,
            trading_day = %(trading_day)s,
            taken_at = %(taken_at)s,
            benchmark_price = %(benchmark_price)s,
            benchmark_close_id = %(benchmark_close_id)s,
            benchmark_split_factor = %(benchmark_split_factor)s,
            benchmark_return_pct = %(benchmark_return_pct)s,
            benchmark_unusual_move = %(benchmark_unusual_move)s
        WHERE id = %(id)s AND status = 'skipped' AND skip_reason <> 'MARKET_CLOSED'
        """,
        asdict(checkpoint),
    )
    if cursor.rowcount == 0:
        return False

    await _store_figures(conn, metrics, changes)
    await _append_entry(
        conn,
        checkpoint,
        metrics=metrics,
        readings=readings,
        changes=changes,
        in_force=in_force,
    )
    return True


async def _store_figures(
    conn: Conn, metrics: Sequence[PickMetric], changes: RelatedChanges
) -> None:
    """Insert a checkpoint's metrics, and update the picks and metrics in `changes`."""
    for metric in metrics:
        await insert_row(conn, "pick_checkpoint_metrics", metric)
    for pick in changes.picks_with_open:
        await conn.execute(
            "UPDATE picks SET entry_open = %s, entry_close_id = %s WHERE id = %s",
            (pick.entry_open, pick.entry_close_id, pick.id),
        )
    for metric in changes.completed_metrics:
        await conn.execute(
            "UPDATE pick_checkpoint_metrics SET return_from_open_pct = %s WHERE id = %s",
            (metric.return_from_open_pct, metric.id),
        )


async def _append_entry(
    conn: Conn,
    checkpoint: Checkpoint,
    *,
    metrics: Sequence[PickMetric],
    readings: Sequence[Close],
    changes: RelatedChanges,
    completed_batch: Batch | None = None,
    in_force: InForce | None,
) -> None:
    """Append a checkpoint's journal entry."""
    # A member that is None is left out of the entry.
    rows_by_member = {
        "checkpoint": checkpoint,
        "metrics": [*metrics, *changes.completed_metrics],
        "closes": readings,
        "splits": changes.splits or None,
        "picks": changes.picks_with_open or None,
        "batch": completed_batch,
    }
    await journal.append(
        conn,
        JournalKind.CHECKPOINT,
        at=checkpoint.taken_at,
        recorded=rows_by_member,
        batch_id=checkpoint.batch_id,
        in_force=in_force,
    )


async def list_skipped(
    conn: Conn,
    batch_id: UUID | None = None,
    *,
    status: BatchStatus = BatchStatus.ACTIVE,
    since: date = date.min,
) -> list[DueCheckpoint]:
    """
    Return the checkpoints that were skipped although the exchange traded, oldest first.

    With `batch_id`, these are the checkpoints of that batch; otherwise, of all batches that have
    the given status and a Monday on or after `since`.
    """
    # On a day without a session there is nothing to retake, so MARKET_CLOSED is not listed.
    return await _select_due(
        conn,
        """
        SELECT batches.id AS batch_id, batches.run_date, checkpoints.day
        FROM checkpoints JOIN batches ON batches.id = checkpoints.batch_id
        WHERE checkpoints.status = 'skipped' AND checkpoints.skip_reason <> 'MARKET_CLOSED'
            AND batches.run_date >= %s
            AND (batches.id = %s OR (%s::uuid IS NULL AND batches.status = %s))
        ORDER BY batches.run_date, checkpoints.day
        """,
        values=(since, batch_id, batch_id, status),
    )


async def get(conn: Conn, batch_id: UUID, day: int) -> Checkpoint | None:
    """Return a batch's checkpoint of a day from 0 to 14, or None if it has no row yet."""
    return await select_row(
        conn,
        Checkpoint,
        table="checkpoints",
        where="WHERE batch_id = %s AND day = %s",
        values=(batch_id, day),
    )


async def list_for_batch(conn: Conn, batch_id: UUID) -> list[Checkpoint]:
    """Return a batch's checkpoints, day 0 first."""
    return await select_rows(
        conn,
        Checkpoint,
        table="checkpoints",
        where="WHERE batch_id = %s ORDER BY day",
        values=(batch_id,),
    )


async def get_result(conn: Conn, batch: Batch) -> Checkpoint | None:
    """Return the checkpoint that is the result of a batch; None if it has none, or not yet."""
    days_with_price = await closes.list_days_read(
        conn,
        batch.benchmark_symbol,
        first=batch.run_date,
        last=calendar.checkpoint_date(batch.run_date, calendar.MEASURED_DAYS[-1]),
    )
    return find_result(batch, await list_for_batch(conn, batch.id), days_with_price)


async def list_metrics(conn: Conn, checkpoint_id: UUID) -> list[PickMetric]:
    """Return a checkpoint's metrics, in no particular order."""
    return await select_rows(
        conn,
        PickMetric,
        table="pick_checkpoint_metrics",
        where="WHERE checkpoint_id = %s",
        values=(checkpoint_id,),
    )


async def get_used_reading_ids(conn: Conn, batch_id: UUID) -> dict[UUID | None, list[UUID]]:
    """
    Return the ids of the readings that a batch's figures after day 0 depend on.

    The keys of the dict are the ids of the picks, and None for the benchmark.
    """
    # A skipped checkpoint has no readings, and the metric of a pick that ended has none.
    cursor = await conn.execute(
        """
        SELECT pick_id, pick_checkpoint_metrics.close_id
        FROM pick_checkpoint_metrics JOIN checkpoints ON checkpoints.id = checkpoint_id
        WHERE batch_id = %(batch_id)s AND close_id IS NOT NULL
        UNION ALL
        SELECT NULL, benchmark_close_id
        FROM checkpoints
        WHERE batch_id = %(batch_id)s AND day > 0 AND benchmark_close_id IS NOT NULL
        """,
        {"batch_id": batch_id},
    )
    used: dict[UUID | None, list[UUID]] = {}
    for pick_id, close_id in await cursor.fetchall():
        used.setdefault(pick_id, []).append(close_id)
    return used


async def list_dependent_readings(
    conn: Conn, ticker: str, sessions: Sequence[date], since: date
) -> list[CheckpointReading]:
    """
    Return the readings of a ticker in `sessions` that figures depend on.

    Each reading is returned with the checkpoint of the figure. If several figures of a checkpoint
    depend on a reading, it is returned several times. The reading of a pick's initial price belongs
    to day 0. Only batches with a run date of `since` or later are searched. The newest batch comes
    first, with its days in order.
    """
    # A row without a pick is about the benchmark. A benchmark cannot be renamed, so the ticker of
    # its reading is its current ticker.
    async with conn.cursor(row_factory=row_factory(CheckpointReading)) as cursor:
        await cursor.execute(
            """
            SELECT series, run_date, day, closes.trading_day, closes.close,
                coalesce(picks.ticker, closes.ticker) AS ticker
            FROM (
                SELECT batch_id, day, benchmark_close_id AS close_id, NULL AS pick_id
                FROM checkpoints
                UNION ALL
                SELECT batch_id, 0, initial_close_id, id
                FROM picks
                UNION ALL
                SELECT batch_id, day, close_id, pick_id
                FROM pick_checkpoint_metrics JOIN checkpoints ON checkpoints.id = checkpoint_id
            ) AS used
                JOIN closes ON closes.id = used.close_id
                JOIN batches ON batches.id = used.batch_id
                LEFT JOIN picks ON picks.id = used.pick_id
            WHERE closes.ticker = %s AND closes.trading_day = ANY(%s) AND run_date >= %s
            ORDER BY run_date DESC, day, series
            """,
            (ticker, list(sessions), since),
        )
        return await cursor.fetchall()


async def list_due(conn: Conn, until: date) -> list[DueCheckpoint]:
    """
    Return the checkpoints with a date up to `until` that have no row yet, oldest first.

    Only active batches have such checkpoints.
    """
    # A checkpoint has no row before it is taken, so the days are generated.
    return await _select_due(
        conn,
        """
        SELECT batches.id AS batch_id, batches.run_date, day
        FROM batches, generate_series(1, %s) AS day
        WHERE batches.status = 'active'
            AND batches.run_date + day <= %s
            AND NOT EXISTS (
                SELECT FROM checkpoints
                WHERE checkpoints.batch_id = batches.id AND checkpoints.day = day.day
            )
        ORDER BY batches.run_date + day, batches.run_date
        """,
        values=(CHECKPOINT_DAYS, until),
    )


async def list_computed(
    conn: Conn, since: datetime | None = None, limit: int | None = None
) -> list[ComputedCheckpoint]:
    """
    Return the computed checkpoints of day 1 or later, the most recently taken one first.

    With `since`, these are only the checkpoints that were taken at that time or later; with
    `limit`, at most that many.
    """
    # In Postgres, LIMIT NULL means no limit.
    async with conn.cursor(row_factory=row_factory(ComputedCheckpoint)) as cursor:
        await cursor.execute(
            """
            SELECT batches.series, batches.run_date, checkpoints.day, checkpoints.taken_at,
                checkpoints.skipped_at IS NOT NULL AS was_skipped
            FROM checkpoints JOIN batches ON batches.id = checkpoints.batch_id
            WHERE checkpoints.status = 'computed' AND checkpoints.day > 0
                AND checkpoints.taken_at >= coalesce(%s, '-infinity'::timestamptz)
            ORDER BY checkpoints.taken_at DESC, checkpoints.checkpoint_date DESC,
                batches.run_date DESC
            LIMIT %s
            """,
            (since, limit),
        )
        return await cursor.fetchall()


async def count_by_status(conn: Conn) -> dict[tuple[str, str], int]:
    """
    Return the number of checkpoints of day 1 or later, by status and skip reason.

    The skip reason is empty unless the checkpoint is skipped.
    """
    cursor = await conn.execute(
        """
        SELECT status, CASE WHEN status = 'skipped' THEN skip_reason ELSE '' END, count(*)
        FROM checkpoints
        WHERE day > 0
        GROUP BY 1, 2
        """
    )
    return {(status, reason): count for status, reason, count in await cursor.fetchall()}


async def get_last_taken_at(conn: Conn) -> datetime | None:
    """Return when the last checkpoint was taken (day 0 included), or None if there is none."""
    cursor = await conn.execute("SELECT max(taken_at) FROM checkpoints")
    (taken_at,) = await cursor.fetchone() or (None,)
    return taken_at


async def get_lateness(conn: Conn, bounds: Sequence[float]) -> dict[str, Lateness]:
    """
    Return how late the checkpoints of day 1 or later were, by their first status.

    `bounds` are the upper bounds of the histogram's buckets, in seconds. The first status is
    "computed" or "skipped". If a checkpoint was skipped at first, the time of the skip counts, even
    if the checkpoint was computed later: `/metrics` shows these numbers as counters, and a counter
    must never decrease.
    """
    # Postgres converts 09:00 in New York for each date, because of daylight saving time.
    cursor = await conn.execute(
        """
        WITH taken AS (
            SELECT
                CASE WHEN skipped_at IS NULL THEN 'computed' ELSE 'skipped' END AS status,
                extract(epoch FROM coalesce(skipped_at, taken_at)
                    - ((checkpoint_date + %(due)s::time) AT TIME ZONE %(zone)s))::float8 AS late
            FROM checkpoints
            WHERE day > 0
        )
        SELECT status, bound, count(*) FILTER (WHERE late <= bound), count(*), sum(late)
        FROM taken CROSS JOIN unnest(%(bounds)s::float8[]) AS bound
        GROUP BY status, bound
        ORDER BY status, bound
        """,
        {"due": calendar.DUE_TIME, "zone": calendar.TIME_ZONE, "bounds": list(bounds)},
    )
    lateness: dict[str, Lateness] = {}
    for status, bound, count_up_to_bound, count, seconds in await cursor.fetchall():
        # A status has one row for each bound, so its counts are collected.
        lateness_so_far = lateness.get(status, Lateness(count_by_bound={}))
        count_by_bound = {**lateness_so_far.count_by_bound, bound: count_up_to_bound}
        lateness[status] = Lateness(count_by_bound, count=count, seconds=seconds)
    return lateness


async def _select_due(conn: Conn, query: str, values: Sequence[object]) -> list[DueCheckpoint]:
    async with conn.cursor(row_factory=row_factory(DueCheckpoint)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchall()
