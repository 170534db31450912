"""Corrections: stored figures that are put right in the open, next to what they said before."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from app.domain.measurement import Row, only_changed
from app.domain.model import Batch, Checkpoint, Close, Correction, JournalKind, Pick, PickMetric, Split
from app.store import journal
from app.store.rows import Conn, insert, update

_TABLES = {
    Batch: "batches",
    Pick: "picks",
    Checkpoint: "checkpoints",
    PickMetric: "pick_checkpoint_metrics",
}


async def make(
    conn: Conn,
    batch_id: UUID,
    rows: Sequence[tuple[Row, Row]],
    corrections: Sequence[Correction],
    readings: Sequence[Close],
    splits: Sequence[Split],
    at: datetime,
) -> None:
    """
    Put the `rows` of one checkpoint right, as they stood and as they should be, with the journal's entry.

    Postgres refuses a figure's change without its correction.
    """
    for correction in corrections:
        await insert(conn, "corrections", correction)
    changed = [(stood, only_changed(stood, should)) for stood, should in rows if stood != should]  # type: ignore[type-var]
    for stood, should in changed:
        await update(conn, _TABLES[type(should)], stood, should)
    now = [should for _, should in changed]
    recorded = {
        "corrections": corrections,
        "batch": next((one for one in now if isinstance(one, Batch)), None),
        "picks": [one for one in now if isinstance(one, Pick)] or None,
        # Changed or not: it says whose figures these are.
        "checkpoint": next(only_changed(stood, should) for stood, should in rows if isinstance(stood, Checkpoint)),  # type: ignore[type-var]
        "metrics": [one for one in now if isinstance(one, PickMetric)] or None,
        "closes": readings or None,
        "splits": splits or None,
    }
    await journal.append(conn, JournalKind.CORRECTION, at, recorded, batch_id)
