"""
Corrections: replace stored figures, and keep their old values.

Each change of a figure has a row in `corrections` with the old value, the new value and the reason.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from app.domain.declarations import InForce
from app.domain.measurement import MeasuredRow, with_changes
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    Correction,
    Dividend,
    FurtherBenchmark,
    JournalKind,
    Pick,
    PickMetric,
    Split,
)
from app.store import journal
from app.store.rows import Conn, insert_row, update_row

_TABLES = {
    Batch: "batches",
    Pick: "picks",
    Checkpoint: "checkpoints",
    PickMetric: "pick_checkpoint_metrics",
    FurtherBenchmark: "further_benchmarks",
}


async def apply(
    conn: Conn,
    batch_id: UUID,
    rows: Sequence[tuple[MeasuredRow, MeasuredRow]],
    corrections: Sequence[Correction],
    readings: Sequence[Close],
    splits: Sequence[Split],
    dividends: Sequence[Dividend],
    at: datetime,
    in_force: InForce | None,
) -> None:
    """
    Correct one checkpoint, and append the journal entry.

    `rows` are pairs: the stored row, and the row with the new figures. One pair is for the row of
    the checkpoint itself, even if that row does not change. The new figures depend on `readings`,
    `splits` and `dividends`.
    """
    # The corrections are stored before the figures are changed: a trigger refuses to change a
    # figure that has no correction yet.
    for correction in corrections:
        await insert_row(conn, "corrections", correction)

    changed: list[MeasuredRow] = []
    for stored, computed in rows:
        if stored == computed:
            continue
        after = with_changes(stored, computed)  # type: ignore[type-var]
        await update_row(conn, _TABLES[type(after)], before=stored, after=after)
        changed.append(after)

    # The journal entry contains the checkpoint even if only the row of a pick changed: the
    # checkpoint shows which figures the entry is about.
    checkpoint = next(
        with_changes(stored, computed)  # type: ignore[type-var]
        for stored, computed in rows
        if isinstance(stored, Checkpoint)
    )
    batches = [row for row in changed if isinstance(row, Batch)]
    picks = [row for row in changed if isinstance(row, Pick)]
    metrics = [row for row in changed if isinstance(row, PickMetric)]
    # A correction is about one ticker, and a further benchmark depends on its own ticker alone.
    further = [row for row in changed if isinstance(row, FurtherBenchmark)]
    recorded = {
        "corrections": corrections,
        "batch": next(iter(batches), None),
        "picks": picks or None,
        "checkpoint": checkpoint,
        "metrics": metrics or None,
        "further_benchmark": next(iter(further), None),
        "closes": readings or None,
        "splits": splits or None,
        "dividends": dividends or None,
    }
    await journal.append(
        conn,
        JournalKind.CORRECTION,
        at=at,
        recorded=recorded,
        batch_id=batch_id,
        in_force=in_force,
    )
