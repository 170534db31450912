"""What the figures of a batch depend on besides their prices: splits, closes on the way, opens and ends."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from uuid import UUID

from msgspec.structs import replace

from app.domain.calendar import FORTNIGHT, Calendar, checkpoint_date
from app.domain.measurement import Course
from app.domain.model import Batch, Close, Pick, PickMetric
from app.domain.splits import shares_of
from app.domain.tickers import Tickers
from app.store import batches, checkpoints, closes, splits
from app.store.rows import Conn

_SESSIONS = Calendar()


async def of_benchmark(conn: Conn, batch: Batch) -> Course:
    """Return the course of a batch's benchmark."""
    tickers = Tickers.only(batch.benchmark_symbol)
    used = await checkpoints.readings_used(conn, batch.id)
    return Course(
        tickers=tickers,
        splits=await splits.of(conn, tickers),
        used=await _by_session(conn, [batch.benchmark_initial_close_id, *used.get(None, ())]),
        newest=await path(conn, batch, tickers),
    )


async def of_picks(conn: Conn, batch: Batch, picks: Sequence[Pick]) -> Mapping[UUID, Course]:
    """Return the course of each pick, by its id."""
    shares = await batches.tickers_of(conn, batch.id)
    endings = await batches.endings_of(conn, batch.id)
    entries = {one.id: one for one in await closes.among(conn, [pick.entry_close_id for pick in picks])}
    used = await checkpoints.readings_used(conn, batch.id)
    return {
        pick.id: Course(
            tickers=shares[pick.id],
            splits=await splits.of(conn, shares[pick.id]),
            used=await _by_session(conn, [pick.initial_close_id, *used.get(pick.id, ())]),
            newest=await path(conn, batch, shares[pick.id]),
            entry_day=_entry_day(entries, pick),
            last_session=endings[pick.id].last_session if pick.id in endings else None,
        )
        for pick in picks
    }


def _entry_day(entries: Mapping[UUID, Close], pick: Pick) -> date | None:
    if pick.entry_close_id is None:
        return None
    reading = entries[pick.entry_close_id]
    return shares_of(reading.source, reading.trading_day)


async def of_metric(conn: Conn, batch: Batch, metric: PickMetric, course: Course) -> Course:
    """
    Return what a metric depends on: of its pick's `course`, the tickers as they were when its close was read.

    A close that was used stays a close of its session, whatever was recorded since of when the share traded last.
    """
    if metric.close_id is None:
        return course
    course = replace(course, last_session=None)
    (reading,) = await closes.among(conn, [metric.close_id])
    if course.tickers.counts(reading.ticker, reading.trading_day):
        return course
    tickers = course.tickers.as_read(reading.ticker, reading.trading_day)
    return replace(
        course, tickers=tickers, splits=await splits.of(conn, tickers), newest=await path(conn, batch, tickers)
    )


async def _by_session(conn: Conn, ids: Iterable[UUID | None]) -> dict[date, Close]:
    """Return the readings with these ids, by their session; they may have been read under several tickers."""
    return {one.trading_day: one for one in await closes.among(conn, ids)}


async def path(conn: Conn, batch: Batch, tickers: Tickers) -> list[Close]:
    """Return the newest closes of a share's sessions, from a batch's baseline to the end of its fortnight."""
    assert batch.trading_day
    newest = await closes.path(conn, tickers, batch.trading_day, checkpoint_date(batch.run_date, FORTNIGHT[-1]))
    return _of_sessions(newest)


async def readings(conn: Conn, batch: Batch, ticker: str) -> list[Close]:
    """Return all that was read of a ticker since a batch's baseline, to the end of its fortnight, by session."""
    assert batch.trading_day
    read = await closes.of(conn, ticker, batch.trading_day, checkpoint_date(batch.run_date, FORTNIGHT[-1]))
    return _of_sessions(read)


def _of_sessions(read: Iterable[Close]) -> list[Close]:
    """Leave out days that were no session: older versions kept bars of any day that the provider named."""
    return [one for one in read if _SESSIONS.is_session(one.trading_day)]
