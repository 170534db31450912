"""Total returns: add them to a result, with the journal entry."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from app.domain.declarations import InForce
from app.domain.model import Checkpoint, Dividend, JournalKind, PickMetric
from app.store import journal
from app.store.rows import Conn, update_row


async def add(
    conn: Conn,
    batch_id: UUID,
    *,
    before: Checkpoint,
    checkpoint: Checkpoint,
    metrics: Sequence[tuple[PickMetric, PickMetric]],
    dividends: Sequence[Dividend],
    at: datetime,
    in_force: InForce | None,
) -> None:
    """
    Store total returns that became known, and append the journal entry.

    `before` is the result as it is stored, and `checkpoint` the same row with the benchmark's total
    return. `metrics` are pairs: the stored metric, and the metric with its total return. They count
    `dividends`.
    """
    if checkpoint != before:
        await update_row(conn, "checkpoints", before=before, after=checkpoint)
    for stored, with_total in metrics:
        await update_row(conn, "pick_checkpoint_metrics", before=stored, after=with_total)
    recorded = {
        "checkpoint": checkpoint,
        "metrics": [with_total for _, with_total in metrics],
        "dividends": dividends,
    }
    await journal.append(
        conn,
        JournalKind.EXTENSION,
        at=at,
        recorded=recorded,
        batch_id=batch_id,
        in_force=in_force,
    )
