"""
The open of a pick's first session: the first price at which a reader could have bought or sold.

A pick's first session is the first one on or after the run date. The open becomes known when the
price of that session is read.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from msgspec.structs import replace

from app.domain import measurement
from app.domain.calendar import Calendar
from app.domain.measurement import ShareHistory
from app.domain.model import Batch, Checkpoint, CheckpointStatus, Close, Pick, PickMetric
from app.store import batches, checkpoints, closes
from app.store.rows import Conn
from app.store.share_histories import for_metric


async def find_picks_with_open(
    conn: Conn, calendar: Calendar, batch: Batch, picks: Sequence[Pick]
) -> tuple[dict[UUID, Pick], list[Close]]:
    """
    Look up the opens of the picks that have no open yet. Nothing is stored.

    Return two values: the picks whose open is now known, with that open, by their ids; and the
    readings from which the opens come.
    """
    # If the Monday is a holiday, this is the first session after it.
    session = calendar.session_from(batch.run_date)
    tickers = await batches.get_tickers(conn, batch.id)
    picks_with_open: dict[UUID, Pick] = {}
    readings: list[Close] = []
    for pick in picks:
        if pick.entry_open is not None:
            continue
        # If the share was renamed, it may have had another ticker in that session than now.
        reading = await closes.get_newest(conn, tickers[pick.id].ticker_on(session), session)
        if reading and reading.open:
            picks_with_open[pick.id] = replace(
                pick, entry_open=reading.open, entry_close_id=reading.id
            )
            readings.append(reading)
    return picks_with_open, readings


async def complete_metrics(
    conn: Conn,
    batch: Batch,
    picks_with_open: Mapping[UUID, Pick],
    histories: Mapping[UUID, ShareHistory],
) -> list[PickMetric]:
    """
    Return the stored metrics of the picks in `picks_with_open`, with their return from the open.

    These metrics were stored before the open was known. This function does not store the new
    values.
    """
    completed: list[PickMetric] = []
    if not picks_with_open:
        return completed
    for checkpoint in await checkpoints.list_for_batch(conn, batch.id):
        # A skipped checkpoint has no metrics.
        if checkpoint.status != CheckpointStatus.COMPUTED or not checkpoint.trading_day:
            continue
        for metric in await checkpoints.list_metrics(conn, checkpoint.id):
            if metric.pick_id in picks_with_open:
                pick = picks_with_open[metric.pick_id]
                history = await for_metric(conn, batch, metric, history=histories[pick.id])
                completed.append(_with_return_from_open(checkpoint, metric, pick, history=history))
    return completed


def _with_return_from_open(
    checkpoint: Checkpoint, metric: PickMetric, pick: Pick, history: ShareHistory
) -> PickMetric:
    assert checkpoint.trading_day
    change = measurement.return_from_open(
        pick, metric.current_price, history, session=checkpoint.trading_day
    )
    return replace(metric, return_from_open_pct=change)
