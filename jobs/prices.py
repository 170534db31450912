"""
Closes for all jobs: read from the database, or requested from the provider.

All jobs that need a ticker's closes at the same time share one request.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import structlog

from app.database.pools import transaction
from app.domain import calendar
from app.domain.calendar import Calendar
from app.domain.declarations import ProviderResponse, ResponseKind
from app.domain.model import Close
from app.errors import (
    ConfigurationError,
    MissingClose,
    ProviderError,
    ProviderUnavailable,
    UnknownTicker,
)
from app.providers.alpha_vantage import DAILY, SOURCE, BarsAnswer
from app.providers.rate_limiter import UnreadableRow
from app.store import batches, closes, declarations, journal
from app.store.closes import ChangedClose
from app.store.rows import Conn
from jobs import alerts
from jobs.context import Context
from jobs.in_force import effective_calendar

# The provider sometimes answers by mistake that it does not know a ticker. If bars of the ticker
# were read within this time, the answer is taken for such a mistake, and the request is repeated
# later.
_RECENTLY = timedelta(days=10)

log = structlog.get_logger()


class TemporarilyUnknownTicker(ProviderUnavailable):
    """The provider does not know a ticker, but it returned bars of this ticker recently."""

    def __init__(self, message: str, ticker: str) -> None:
        super().__init__(message)
        self.ticker = ticker


async def fetch_closes(
    context: Context,
    tickers: Sequence[str],
    session: date,
    *,
    needed_since: datetime | None = None,
) -> dict[str, Close]:
    """
    Return the closes of `session` by ticker.

    Raise MissingClose with the tickers that have no close yet. Without the benchmark's close,
    nothing can be computed for a session, and no other ticker is requested. So if the benchmark is
    among `tickers`, the caller must put it first. Failed requests since `needed_since` count
    against the limit of attempts.
    """
    closes_by_ticker: dict[str, Close] = {}
    for ticker in tickers:
        close = await _fetch_close(context, ticker, session, needed_since=needed_since)
        if close:
            closes_by_ticker[ticker] = close
        elif ticker == context.benchmark:
            raise MissingClose([context.benchmark], session)
    missing = [ticker for ticker in tickers if ticker not in closes_by_ticker]
    if missing:
        raise MissingClose(missing, session)
    return closes_by_ticker


async def is_traded(
    context: Context, benchmark: str, session: date, *, needed_since: datetime
) -> bool:
    """
    Return whether the exchange traded on a day that MARKET_CLOSED_DAYS lists.

    In a sealed record, the benchmark's closes are requested: a close of that day shows that the
    setting is wrong. If the provider does not answer, the setting decides, as it does in a record
    that is not sealed.
    """
    async with context.pool.connection() as conn:
        if not await declarations.is_sealed(conn):
            return False
    try:
        close = await _fetch_close(context, benchmark, session, needed_since=needed_since)
    except (ProviderError, ConfigurationError) as error:
        log.warning("closed day not checked", session=str(session), reason=str(error))
        return False
    if close:
        log.warning("the exchange traded on a day of MARKET_CLOSED_DAYS", session=str(session))
    return close is not None


async def _fetch_close(
    context: Context, ticker: str, session: date, *, needed_since: datetime | None
) -> Close | None:
    """Return the stored close, or request it. Return None if the provider does not have it yet."""
    stored = await _get_stored(context, ticker, session)
    if stored:
        return stored
    try:
        answer = await context.prices.bars(
            ticker, calendar.latest_price_request_at(context.now()), needed_since
        )
    except UnknownTicker as error:
        await _raise_if_known_recently(context, ticker, error)
        raise
    # If `answer` is not a BarsAnswer, another job has made the same request, and has stored the
    # closes.
    if isinstance(answer, BarsAnswer):
        await store_answer(context, ticker, answer=answer, session=session)
    return await _get_stored(context, ticker, session)


async def _raise_if_known_recently(context: Context, ticker: str, error: UnknownTicker) -> None:
    """
    Raise TemporarilyUnknownTicker in place of `error` for a ticker that the provider knew recently.

    For the benchmark, a reading of any age is enough, because no batch is possible without the
    benchmark's closes.
    """
    async with context.pool.connection() as conn:
        last_read_at = await closes.get_last_read_at(conn, ticker)
    if last_read_at is None:
        return
    if ticker == context.benchmark or last_read_at >= context.now() - _RECENTLY:
        day = calendar.new_york_date(last_read_at)
        message = f"{error} It did on {day}, so it will be asked again."
        raise TemporarilyUnknownTicker(message, ticker) from None


async def _get_stored(context: Context, ticker: str, session: date) -> Close | None:
    async with context.pool.connection() as conn:
        return await closes.get_newest(conn, ticker, session)


async def store_answer(
    context: Context,
    ticker: str,
    *,
    answer: BarsAnswer,
    session: date,
    also_since: date = date.max,
) -> None:
    """
    Store the bars of an answer, from the oldest active baseline on, or from `also_since` on.

    `session` is the session for which they were requested. Only bars of finished sessions are
    stored: the provider may also return a bar of today, or of a holiday.
    """
    now = context.now()
    today = calendar.new_york_date(now)
    async with transaction(context.pool) as conn:
        sessions = await _sessions_to_keep(conn, context, ticker)
        oldest = await batches.get_oldest_active_baseline(conn)
        # The close of the session before `session` is stored, too. A ticker that has no close of
        # either session is no longer traded (see `jobs/weekly.py`).
        since = min(context.calendar.session_before(session), oldest or session, also_since)

        def is_finished_session(day: date) -> bool:
            return day < today and sessions.is_session(day)

        def is_needed(day: date | None) -> bool:
            return day is not None and since <= day and is_finished_session(day)

        series = [bar for bar in answer.bars if is_finished_session(bar.trading_day)]
        bars = [bar for bar in series if is_needed(bar.trading_day)]
        unreadable = [row for row in answer.unreadable if is_needed(row.day)]
        inserted = await closes.insert_new(
            conn, ticker=ticker, bars=bars, source=SOURCE, read_at=now, all_bars=series
        )
        changes = inserted.changes
        await alerts.report_changed_readings(conn, context, ticker=ticker, changes=changes)
        new_unreadable = await context.prices.ledger.store_answered(conn, answer.grant, unreadable)
        # A bar of a later day is an error of the provider, and no evidence about the days before
        # it. A bar of today may be there already.
        days = [bar.trading_day for bar in answer.bars if bar.trading_day <= today]
        response = ProviderResponse(
            source=SOURCE,
            kind=ResponseKind.CLOSES,
            ticker=ticker,
            read_at=now,
            first_session=min(days, default=None),
            last_session=max(days, default=None),
            sha256=answer.body_sha256,
        )
        await journal.append_readings(
            conn, response, closes=inserted.readings, in_force=context.in_force
        )
    log.info("closes read", ticker=ticker, session=str(session), bars=len(bars))
    log_unreadable(DAILY, ticker, new_unreadable)
    _log_changes(ticker, changes)


async def _sessions_to_keep(conn: Conn, context: Context, ticker: str) -> Calendar:
    """
    Return the calendar of the sessions whose closes of `ticker` are kept.

    MARKET_CLOSED_DAYS may list a day on which the exchange traded after all. In a sealed record, a
    close of the benchmark shows this (see `in_force.effective_calendar`). So the benchmark's closes
    of such days are kept.
    """
    if not context.calendar.closed or not await declarations.is_sealed(conn):
        return context.calendar
    if ticker == context.benchmark or await batches.is_benchmark(conn, ticker):
        return Calendar()
    return await effective_calendar(conn, context.calendar, context.benchmark)


def _log_changes(ticker: str, changes: Sequence[ChangedClose]) -> None:
    for change in changes:
        # A change with the same close only adds an open that could not be read before.
        if change.before.close != change.after.close:
            log.warning(
                "close changed",
                ticker=ticker,
                session=str(change.after.trading_day),
                before=str(change.before.close),
                after=str(change.after.close),
            )


def log_unreadable(function: str, ticker: str, rows: Sequence[UnreadableRow]) -> None:
    """Log the rows of an answer that are needed and cannot be read."""
    for row in rows:
        log.warning(
            "row cannot be read",
            function=function,
            ticker=ticker,
            row_day=str(row.day) if row.day else None,
            reason=row.reason,
        )
