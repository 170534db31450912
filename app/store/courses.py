"""What the figures of a batch depend on besides their prices: splits, closes on the way, opens and ends."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from uuid import UUID

from app.domain.calendar import FORTNIGHT, Calendar, checkpoint_date
from app.domain.measurement import Course
from app.domain.model import Batch, Close, Pick
from app.store import batches, checkpoints, closes, splits
from app.store.rows import Conn

_SESSIONS = Calendar()


async def of_benchmark(conn: Conn, batch: Batch) -> Course:
    """Return the course of a batch's benchmark."""
    used = await checkpoints.readings_used(conn, batch.id)
    return Course(
        splits=await splits.of(conn, [batch.benchmark_symbol]),
        used=await _by_session(conn, [batch.benchmark_initial_close_id, *used.get(None, ())]),
        newest=await path(conn, batch, [batch.benchmark_symbol]),
    )


async def of_picks(conn: Conn, batch: Batch, picks: Sequence[Pick]) -> Mapping[UUID, Course]:
    """Return the course of each pick, by its id."""
    former = await batches.former_tickers(conn, batch.id)
    endings = await batches.endings_of(conn, batch.id)
    entries = {one.id: one for one in await closes.among(conn, [pick.entry_close_id for pick in picks])}
    used = await checkpoints.readings_used(conn, batch.id)
    return {
        pick.id: Course(
            splits=await splits.of(conn, [*former.get(pick.id, ()), pick.ticker]),
            used=await _by_session(conn, [pick.initial_close_id, *used.get(pick.id, ())]),
            newest=await path(conn, batch, [*former.get(pick.id, ()), pick.ticker]),
            entry_day=entries[pick.entry_close_id].trading_day if pick.entry_close_id else None,
            last_session=endings[pick.id].last_session if pick.id in endings else None,
        )
        for pick in picks
    }


async def _by_session(conn: Conn, ids: Iterable[UUID | None]) -> dict[date, Close]:
    """Return the readings with these ids, by their session; they may have been read under several tickers."""
    return {one.trading_day: one for one in await closes.among(conn, ids)}


async def path(conn: Conn, batch: Batch, tickers: Sequence[str]) -> list[Close]:
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
