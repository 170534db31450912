"""What the figures of a batch hang on besides their prices: splits, closes on the way, opens and ends."""

from collections.abc import Mapping, Sequence
from datetime import date
from uuid import UUID

from msgspec.structs import replace

from app.domain.calendar import FORTNIGHT, checkpoint_date
from app.domain.measurement import Course
from app.domain.model import Batch, Close, Pick, PickMetric
from app.domain.tickers import Tickers
from app.store import batches, closes, splits
from app.store.rows import Conn


async def of_benchmark(conn: Conn, batch: Batch) -> Course:
    """Return the course of a batch's benchmark."""
    tickers = Tickers.only(batch.benchmark_symbol)
    return Course(tickers=tickers, splits=await splits.of(conn, tickers))


async def of_picks(conn: Conn, batch: Batch, picks: Sequence[Pick]) -> Mapping[UUID, Course]:
    """Return the course of each pick, by its id."""
    shares = await batches.tickers_of(conn, batch.id)
    endings = await batches.endings_of(conn, batch.id)
    entries = {one.id: one for one in await closes.among(conn, [pick.entry_close_id for pick in picks])}
    return {
        pick.id: Course(
            tickers=shares[pick.id],
            splits=await splits.of(conn, shares[pick.id]),
            path=await path(conn, batch, shares[pick.id]),
            entry_day=entries[pick.entry_close_id].trading_day if pick.entry_close_id else None,
            last_session=endings[pick.id].last_session if pick.id in endings else None,
        )
        for pick in picks
    }


async def of_metric(conn: Conn, batch: Batch, metric: PickMetric, course: Course) -> Course:
    """Return what a metric depends on: of its pick's `course`, the tickers as they were when its close was read."""
    if metric.close_id is None:
        return course
    (reading,) = await closes.among(conn, [metric.close_id])
    if course.tickers.counts(reading.ticker, reading.trading_day):
        return course
    tickers = course.tickers.as_read(reading.ticker, reading.trading_day)
    return replace(
        course, tickers=tickers, splits=await splits.of(conn, tickers), path=await path(conn, batch, tickers)
    )


async def share_of(conn: Conn, batch: Batch, ticker: str, session: date) -> Tickers:
    """Return all tickers of the share of a batch, pick or benchmark, that has `ticker` on `session`."""
    picks = (await batches.tickers_of(conn, batch.id)).values()
    return next((one for one in picks if one.at(session) == ticker), Tickers.only(ticker))


async def path(conn: Conn, batch: Batch, tickers: Tickers) -> list[Close]:
    """Return the newest closes of a share from a batch's baseline session to the end of its fortnight."""
    assert batch.trading_day
    return await closes.path(conn, tickers, batch.trading_day, checkpoint_date(batch.run_date, FORTNIGHT[-1]))
