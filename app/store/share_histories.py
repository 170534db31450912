"""
The histories of a batch's shares: what a figure depends on besides its initial and current price.

The history of a share has its tickers, its splits, and its closes from the baseline to day 14. The
history of a pick's share also has the basis date of the pick's `entry_open`, and the last session
of a share that stopped trading. Only total returns need dividends, so they are read separately.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from uuid import UUID

from msgspec.structs import replace

from app.domain.calendar import MEASURED_DAYS, Calendar, checkpoint_date
from app.domain.measurement import ShareHistory
from app.domain.model import Batch, Close, Ending, Pick, PickMetric
from app.domain.splits import basis_date
from app.domain.tickers import TickerHistory
from app.store import batches, checkpoints, closes, dividends, splits
from app.store.rows import Conn

_CALENDAR = Calendar()


async def for_benchmark(conn: Conn, batch: Batch) -> ShareHistory:
    """Return the history of a batch's benchmark."""
    # Only picks can be renamed.
    tickers = TickerHistory.unchanged(batch.benchmark_symbol)
    used = await checkpoints.get_used_reading_ids(conn, batch.id)
    return ShareHistory(
        tickers=tickers,
        splits=await splits.list_in_force(conn, tickers),
        used=await _readings_by_session(
            conn, [batch.benchmark_initial_close_id, *used.get(None, ())]
        ),
        newest=await list_newest_closes(conn, batch, tickers),
    )


async def for_picks(conn: Conn, batch: Batch, picks: Sequence[Pick]) -> Mapping[UUID, ShareHistory]:
    """Return the history of each pick's share, by the pick's id."""
    tickers = await batches.get_tickers(conn, batch.id)
    endings = await batches.get_endings(conn, batch.id)
    entry_readings = await closes.list_by_ids(conn, [pick.entry_close_id for pick in picks])
    entries = {reading.id: reading for reading in entry_readings}
    used = await checkpoints.get_used_reading_ids(conn, batch.id)
    histories: dict[UUID, ShareHistory] = {}
    for pick in picks:
        histories[pick.id] = ShareHistory(
            tickers=tickers[pick.id],
            splits=await splits.list_in_force(conn, tickers[pick.id]),
            used=await _readings_by_session(conn, [pick.initial_close_id, *used.get(pick.id, ())]),
            newest=await list_newest_closes(conn, batch, tickers[pick.id]),
            entry_basis_date=_entry_basis_date(entries, pick),
            last_session=_last_session(endings.get(pick.id)),
        )
    return histories


def _entry_basis_date(entries: Mapping[UUID, Close], pick: Pick) -> date | None:
    """Return the basis date of a pick's `entry_open`; None if the pick has no `entry_open`."""
    if pick.entry_close_id is None:
        return None
    reading = entries[pick.entry_close_id]
    return basis_date(reading.source, reading.trading_day)


def _last_session(ending: Ending | None) -> date | None:
    if ending is None:
        return None
    return ending.last_session


async def for_metric(
    conn: Conn, batch: Batch, metric: PickMetric, history: ShareHistory
) -> ShareHistory:
    """
    Return what a stored metric depends on, given the `history` of its pick's share.

    This is `history` with the tickers that were known when the metric's close was read, and without
    a last session. A metric without a close depends on `history` as it is.
    """
    if metric.close_id is None:
        return history
    # A metric with a close keeps the session of this close. An ending that was recorded later may
    # have an earlier last session, and that must not replace the session of the metric.
    history = replace(history, last_session=None)
    (reading,) = await closes.list_by_ids(conn, [metric.close_id])
    if history.tickers.is_ticker_on(reading.ticker, reading.trading_day):
        return history
    tickers = history.tickers.as_read(reading.ticker, reading.trading_day)
    return replace(
        history,
        tickers=tickers,
        splits=await splits.list_in_force(conn, tickers),
        newest=await list_newest_closes(conn, batch, tickers),
    )


async def with_dividends(conn: Conn, history: ShareHistory) -> ShareHistory:
    """Return a history with the dividends of its share."""
    return replace(history, dividends=await dividends.list_in_force(conn, history.tickers))


async def _readings_by_session(conn: Conn, ids: Iterable[UUID | None]) -> dict[date, Close]:
    """Return the readings with these ids by session. The readings may have different tickers."""
    readings = await closes.list_by_ids(conn, ids)
    return {reading.trading_day: reading for reading in readings}


async def list_newest_closes(conn: Conn, batch: Batch, tickers: TickerHistory) -> list[Close]:
    """Return the newest close of each session from a batch's baseline to its day 14."""
    assert batch.trading_day
    newest = await closes.list_newest(
        conn,
        tickers,
        first=batch.trading_day,
        last=checkpoint_date(batch.run_date, MEASURED_DAYS[-1]),
    )
    return _only_sessions(newest)


async def list_readings(conn: Conn, batch: Batch, ticker: str) -> list[Close]:
    """Return all readings of a ticker for the sessions from a batch's baseline to its day 14."""
    assert batch.trading_day
    readings = await closes.list_by_ticker(
        conn,
        ticker,
        first=batch.trading_day,
        last=checkpoint_date(batch.run_date, MEASURED_DAYS[-1]),
    )
    return _only_sessions(readings)


def _only_sessions(readings: Iterable[Close]) -> list[Close]:
    # Older versions stored prices of any day in the provider's response, also if it was no session.
    return [reading for reading in readings if _CALENDAR.is_session(reading.trading_day)]
