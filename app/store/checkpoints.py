"""Checkpoints and the metrics of their picks."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from app.domain.calendar import DUE, TIME_ZONE, due_at
from app.domain.model import CHECKPOINT_DAYS, Checkpoint, Close, JournalKind, Pick, PickMetric, Split
from app.store import batches, journal
from app.store.rows import Conn, insert, row_of, select


class Due(Struct, frozen=True):
    """A checkpoint that is to be taken."""

    batch_id: UUID
    run_date: date
    day: int

    @property
    def at(self) -> datetime:
        """Return when it is due."""
        return due_at(self.run_date, self.day)


class RestsOn(Struct, frozen=True):
    """
    A checkpoint, and the reading that its figures rest on: the session, and the close as it was read then.

    `ticker` is the present one of the share, which may have been renamed since.
    """

    run_date: date
    day: int
    trading_day: date
    close: Decimal
    ticker: str


class Computed(Struct, frozen=True):
    """A checkpoint that was computed, and when; `again` says that it was skipped at first."""

    run_date: date
    day: int
    taken_at: datetime
    again: bool

    @property
    def late_by(self) -> timedelta:
        """Return how long after its time it was taken."""
        return self.taken_at - due_at(self.run_date, self.day)


class Lateness(Struct, frozen=True):
    """How late checkpoints were: how many by at most so many seconds, how many at all, and all their seconds."""

    within: Mapping[float, int]
    count: int = 0
    seconds: float = 0.0


class Learnt(Struct, frozen=True):
    """
    What else a computed checkpoint brought: the `splits` that its figures count on, and opens.

    `opened` are the picks whose open became known, as they are now; `filled` the earlier metrics that could now be
    completed.
    """

    splits: Sequence[Split] = ()
    opened: Sequence[Pick] = ()
    filled: Sequence[PickMetric] = ()


async def add(
    conn: Conn,
    checkpoint: Checkpoint,
    metrics: Sequence[PickMetric] = (),
    readings: Sequence[Close] = (),
    learnt: Learnt = Learnt(),  # noqa: B008 - frozen
) -> bool:
    """
    Store a checkpoint with its metrics and the journal's entry; return False if its day is stored already.

    The transaction that stores the last absent day completes the batch, and its entry says so.
    """
    await batches.hold(conn, checkpoint.batch_id)
    if not await insert(conn, "checkpoints", checkpoint, "ON CONFLICT DO NOTHING"):
        return False
    completed = await batches.complete(conn, checkpoint.batch_id)
    await _record(
        conn,
        checkpoint,
        metrics,
        readings,
        learnt,
        batch=await batches.get(conn, checkpoint.batch_id) if completed else None,
    )
    return True


async def _record(
    conn: Conn,
    checkpoint: Checkpoint,
    metrics: Sequence[PickMetric],
    readings: Sequence[Close],
    learnt: Learnt,
    **more: object,
) -> None:
    """Store what a checkpoint brought, and the journal's entry."""
    for metric in metrics:
        await insert(conn, "pick_checkpoint_metrics", metric)
    for pick in learnt.opened:
        await conn.execute(
            "UPDATE picks SET entry_open = %s, entry_close_id = %s WHERE id = %s",
            (pick.entry_open, pick.entry_close_id, pick.id),
        )
    for metric in learnt.filled:
        await conn.execute(
            "UPDATE pick_checkpoint_metrics SET return_from_open_pct = %s WHERE id = %s",
            (metric.return_from_open_pct, metric.id),
        )
    recorded = {
        "checkpoint": checkpoint,
        "metrics": [*metrics, *learnt.filled],
        "closes": readings,
        "splits": learnt.splits or None,
        "picks": learnt.opened or None,
        **more,
    }
    await journal.append(conn, JournalKind.CHECKPOINT, checkpoint.taken_at, recorded, checkpoint.batch_id)


async def retake(
    conn: Conn,
    checkpoint: Checkpoint,
    metrics: Sequence[PickMetric],
    readings: Sequence[Close],
    learnt: Learnt = Learnt(),  # noqa: B008 - frozen
) -> bool:
    """
    Store what a skipped checkpoint turned out to be; return False if it is no longer skipped.

    The row keeps when and why it was skipped; the journal keeps the entry of the skip and gets another.
    """
    await batches.hold(conn, checkpoint.batch_id)
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
    await _record(conn, checkpoint, metrics, readings, learnt)
    return True


async def skipped(conn: Conn, batch_id: UUID | None = None) -> list[Due]:
    """Return the checkpoints of a batch, or of every active one, that were skipped although there was a session."""
    return await _due(
        conn,
        """
        SELECT batches.id AS batch_id, batches.run_date, checkpoints.day
        FROM checkpoints JOIN batches ON batches.id = checkpoints.batch_id
        WHERE checkpoints.status = 'skipped' AND checkpoints.skip_reason <> 'MARKET_CLOSED'
            AND (batches.id = %s OR (%s::uuid IS NULL AND batches.status = 'active'))
        ORDER BY batches.run_date, checkpoints.day
        """,
        batch_id,
        batch_id,
    )


async def at(conn: Conn, batch_id: UUID, day: int) -> Checkpoint | None:
    """Return a batch's checkpoint of a day."""
    found = await select(conn, Checkpoint, "checkpoints", "WHERE batch_id = %s AND day = %s", batch_id, day)
    return found[0] if found else None


async def of(conn: Conn, batch_id: UUID) -> list[Checkpoint]:
    """Return a batch's checkpoints by day."""
    return await select(conn, Checkpoint, "checkpoints", "WHERE batch_id = %s ORDER BY day", batch_id)


async def metrics_of(conn: Conn, checkpoint_id: UUID) -> list[PickMetric]:
    """Return a checkpoint's metrics."""
    return await select(conn, PickMetric, "pick_checkpoint_metrics", "WHERE checkpoint_id = %s", checkpoint_id)


async def readings_used(conn: Conn, batch_id: UUID) -> dict[UUID | None, list[UUID]]:
    """Return the readings that a batch's figures after day 0 rest on, by pick; the benchmark's by None."""
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


async def resting_on(conn: Conn, ticker: str, sessions: Sequence[date], since: date) -> list[RestsOn]:
    """
    Return the checkpoints whose figures rest on a reading of one of a ticker's sessions: day 0 where it is a baseline.

    Only those of batches with a run date of `since` or later; the newest batch first, its days in their order.
    """
    async with conn.cursor(row_factory=row_of(RestsOn)) as cursor:
        await cursor.execute(
            """
            SELECT run_date, day, closes.trading_day, closes.close, coalesce(picks.ticker, closes.ticker) AS ticker
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
            ORDER BY run_date DESC, day
            """,
            (ticker, list(sessions), since),
        )
        return await cursor.fetchall()


async def awaiting(conn: Conn, on: date) -> list[Due]:
    """Return the checkpoints of active batches whose date is up to `on` and that have no row, oldest first."""
    return await _due(
        conn,
        """
        SELECT batches.id AS batch_id, batches.run_date, day
        FROM batches, generate_series(1, %s) AS day
        WHERE batches.status = 'active'
            AND batches.run_date + day <= %s
            AND NOT EXISTS (
                SELECT FROM checkpoints WHERE checkpoints.batch_id = batches.id AND checkpoints.day = day.day
            )
        ORDER BY batches.run_date + day, batches.run_date
        """,
        CHECKPOINT_DAYS,
        on,
    )


async def computed(conn: Conn, since: datetime | None = None, most: int | None = None) -> list[Computed]:
    """Return the computed checkpoints of day 1 or later that were taken `since` or later, the last taken first."""
    async with conn.cursor(row_factory=row_of(Computed)) as cursor:
        await cursor.execute(
            """
            SELECT batches.run_date, checkpoints.day, checkpoints.taken_at, checkpoints.skipped_at IS NOT NULL AS again
            FROM checkpoints JOIN batches ON batches.id = checkpoints.batch_id
            WHERE checkpoints.status = 'computed' AND checkpoints.day > 0
                AND checkpoints.taken_at >= coalesce(%s, '-infinity'::timestamptz)
            ORDER BY checkpoints.taken_at DESC, checkpoints.checkpoint_date DESC, batches.run_date DESC
            LIMIT %s
            """,
            (since, most),
        )
        return await cursor.fetchall()


async def counts(conn: Conn) -> dict[tuple[str, str], int]:
    """Return how many checkpoints of day 1 or later there are, by status and, of the skipped, by reason."""
    cursor = await conn.execute(
        """
        SELECT status, CASE WHEN status = 'skipped' THEN skip_reason ELSE '' END, count(*)
        FROM checkpoints
        WHERE day > 0
        GROUP BY 1, 2
        """
    )
    return {(status, reason): count for status, reason, count in await cursor.fetchall()}


async def newest_at(conn: Conn) -> datetime | None:
    """Return when the newest checkpoint was taken, a batch's baseline included."""
    cursor = await conn.execute("SELECT max(taken_at) FROM checkpoints")
    row = await cursor.fetchone()
    return row[0] if row else None


async def lateness(conn: Conn, steps: Sequence[float]) -> dict[str, Lateness]:
    """
    Return how late the checkpoints of day 1 or later were, by what they were at first: computed or skipped.

    One that was skipped counts with the time of that, whatever it became: what was counted once stays as it is.
    """
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
        SELECT status, step, count(*) FILTER (WHERE late <= step), count(*), sum(late)
        FROM taken CROSS JOIN unnest(%(steps)s::float8[]) AS step
        GROUP BY status, step
        ORDER BY status, step
        """,
        {"due": DUE, "zone": TIME_ZONE, "steps": list(steps)},
    )
    found: dict[str, Lateness] = {}
    for status, step, within, count, seconds in await cursor.fetchall():
        before = found.get(status, Lateness({}))
        found[status] = Lateness({**before.within, step: within}, count, seconds)
    return found


async def _due(conn: Conn, sql: str, *values: object) -> list[Due]:
    async with conn.cursor(row_factory=row_of(Due)) as cursor:
        await cursor.execute(sql.encode(), values)
        return await cursor.fetchall()
