"""The open of a pick's first session: the first price at which one could have traded, known when its bar was read."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from msgspec.structs import replace

from app.domain import measurement
from app.domain.calendar import Calendar
from app.domain.measurement import Course
from app.domain.model import Batch, CheckpointStatus, Close, Pick, PickMetric
from app.store import batches, checkpoints, closes
from app.store.courses import of_metric
from app.store.rows import Conn


async def look_up(
    conn: Conn, calendar: Calendar, batch: Batch, picks: Sequence[Pick]
) -> tuple[dict[UUID, Pick], list[Close]]:
    """Return the picks whose open was not known and now is, with it, by id; and the readings that say so."""
    session = calendar.session_from(batch.run_date)
    tickers = await batches.tickers_of(conn, batch.id)
    opened: dict[UUID, Pick] = {}
    readings: list[Close] = []
    for pick in picks:
        if pick.entry_open is not None:
            continue
        reading = await closes.newest(conn, tickers[pick.id].at(session), session)
        if reading and reading.open:
            opened[pick.id] = replace(pick, entry_open=reading.open, entry_close_id=reading.id)
            readings.append(reading)
    return opened, readings


async def fill(
    conn: Conn, batch: Batch, opened: Mapping[UUID, Pick], courses: Mapping[UUID, Course]
) -> list[PickMetric]:
    """Return the metrics from before the picks' opens were known, completed."""
    if not opened:
        return []
    return [
        replace(
            metric,
            return_from_open_pct=measurement.from_open(
                opened[metric.pick_id],
                metric.current_price,
                await of_metric(conn, batch, metric, courses[metric.pick_id]),
                checkpoint.trading_day,
            ),
        )
        for checkpoint in await checkpoints.of(conn, batch.id)
        if checkpoint.status == CheckpointStatus.COMPUTED and checkpoint.trading_day
        for metric in await checkpoints.metrics_of(conn, checkpoint.id)
        if metric.pick_id in opened
    ]
