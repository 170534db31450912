"""Checkpoints and the metrics of their picks."""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from app.record.calendar import due_at
from app.record.model import Checkpoint, Close, JournalKind, PickMetric
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


async def add(
    conn: Conn, checkpoint: Checkpoint, metrics: Sequence[PickMetric] = (), readings: Sequence[Close] = ()
) -> bool:
    """
    Store a checkpoint with its metrics and the journal's entry; return False if its day is stored already.

    The transaction that stores the last absent day completes the batch, and its entry says so.
    """
    await batches.hold(conn, checkpoint.batch_id)
    if not await insert(conn, "checkpoints", checkpoint, "ON CONFLICT DO NOTHING"):
        return False
    for metric in metrics:
        await insert(conn, "pick_checkpoint_metrics", metric)
    completed = await batches.complete(conn, checkpoint.batch_id)
    recorded = {
        "checkpoint": checkpoint,
        "metrics": metrics,
        "closes": readings,
        "batch": await batches.get(conn, checkpoint.batch_id) if completed else None,
    }
    await journal.append(conn, JournalKind.CHECKPOINT, checkpoint.taken_at, recorded, checkpoint.batch_id)
    return True


async def retake(conn: Conn, checkpoint: Checkpoint, metrics: Sequence[PickMetric], readings: Sequence[Close]) -> bool:
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
            benchmark_return_pct = %(benchmark_return_pct)s
        WHERE id = %(id)s AND status = 'skipped' AND skip_reason <> 'MARKET_CLOSED'
        """,
        asdict(checkpoint),
    )
    if cursor.rowcount == 0:
        return False
    for metric in metrics:
        await insert(conn, "pick_checkpoint_metrics", metric)
    recorded = {"checkpoint": checkpoint, "metrics": metrics, "closes": readings}
    await journal.append(conn, JournalKind.CHECKPOINT, checkpoint.taken_at, recorded, checkpoint.batch_id)
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


async def awaiting(conn: Conn, on: date) -> list[Due]:
    """Return the checkpoints of active batches whose date is up to `on` and that have no row, oldest first."""
    return await _due(
        conn,
        """
        SELECT batches.id AS batch_id, batches.run_date, day
        FROM batches, generate_series(1, 14) AS day
        WHERE batches.status = 'active'
            AND batches.run_date + day <= %s
            AND NOT EXISTS (
                SELECT FROM checkpoints WHERE checkpoints.batch_id = batches.id AND checkpoints.day = day.day
            )
        ORDER BY batches.run_date + day, batches.run_date
        """,
        on,
    )


async def _due(conn: Conn, sql: str, *values: object) -> list[Due]:
    async with conn.cursor(row_factory=row_of(Due)) as cursor:
        await cursor.execute(sql.encode(), values)
        return await cursor.fetchall()
