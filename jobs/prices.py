"""Closes for everybody: known ones from the store, others from the provider, one request for all who need it."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import structlog

from app.database.pools import transaction
from app.domain.calendar import asked_since, today
from app.domain.model import Close
from app.errors import MissingClose, ProviderUnavailable, UnknownTicker
from app.providers.alpha_vantage import DAILY, SOURCE, Answer
from app.providers.rate_limiter import UnreadableRow
from app.store import batches, closes
from jobs import alerts
from jobs.context import Context

# A ticker of which bars were read so lately is not unknown, whatever the provider says now.
_LATELY = timedelta(days=10)

log = structlog.get_logger()


class SeemsUnknown(ProviderUnavailable):
    """The provider says that it does not know a ticker of which it had bars lately."""

    def __init__(self, message: str, ticker: str) -> None:
        super().__init__(message)
        self.ticker = ticker


async def closes_of(
    tools: Context, tickers: Sequence[str], session: date, begun: datetime | None = None
) -> dict[str, Close]:
    """
    Return the closes of `session` for all tickers, the benchmark first; `begun` is when they were needed first.

    Raises MissingClose naming the tickers that have none yet; without the benchmark's no other is asked for, because
    nothing can be computed from a day on which the market itself is not there.
    """
    found: dict[str, Close] = {}
    for ticker in tickers:
        close = await _close_of(tools, ticker, session, begun)
        if close:
            found[ticker] = close
        elif ticker == tools.benchmark:
            break
    missing = [ticker for ticker in tickers if ticker not in found]
    if tools.benchmark in missing:
        missing = [tools.benchmark]
    if missing:
        raise MissingClose(missing, session)
    return found


async def _close_of(tools: Context, ticker: str, session: date, begun: datetime | None) -> Close | None:
    known = await _known(tools, ticker, session)
    if known:
        return known
    try:
        answer = await tools.prices.bars(ticker, asked_since(tools.now()), begun)
    except UnknownTicker as unknown:
        await _refuse_if_known_lately(tools, ticker, unknown)
        raise
    if isinstance(answer, Answer):
        await _keep(tools, ticker, answer, session)
    return await _known(tools, ticker, session)


async def _refuse_if_known_lately(tools: Context, ticker: str, unknown: UnknownTicker) -> None:
    """
    Raise SeemsUnknown in place of `unknown` for a ticker that the provider knew lately.

    For the benchmark it is enough that the provider ever knew it: without it no Monday can be made.
    """
    async with tools.pool.connection() as conn:
        last_read = await closes.last_read(conn, ticker)
    if last_read and (ticker == tools.benchmark or last_read >= tools.now() - _LATELY):
        day = today(last_read)
        raise SeemsUnknown(f"{unknown} It did on {day}, so it will be asked again.", ticker) from None


async def _known(tools: Context, ticker: str, session: date) -> Close | None:
    async with tools.pool.connection() as conn:
        return await closes.newest(conn, ticker, session)


async def _keep(tools: Context, ticker: str, answer: Answer, session: date) -> None:
    """Store what was read, from the oldest active baseline on; only bars of sessions that have ended count."""
    now = tools.now()
    async with transaction(tools.pool) as conn:
        oldest = await batches.oldest_active_baseline(conn)
        # The session before is kept too: a ticker that lacks both is no longer traded.
        since = min(tools.calendar.session_before(session), oldest or session)

        def is_session_that_ended(day: date) -> bool:
            return day < today(now) and tools.calendar.is_session(day)

        def is_needed(day: date | None) -> bool:
            return day is not None and since <= day and is_session_that_ended(day)

        series = [bar for bar in answer.bars if is_session_that_ended(bar.trading_day)]
        bars = [bar for bar in series if is_needed(bar.trading_day)]
        unreadable = [row for row in answer.unreadable if is_needed(row.day)]
        differences = await closes.add_all(conn, ticker, bars, SOURCE, now, series)
        await alerts.reading_changed(conn, tools, ticker, differences)
        news = await tools.prices.ledger.answered(conn, answer.grant, unreadable)
    log.info("closes read", ticker=ticker, session=str(session), bars=len(bars))
    log_unreadable(DAILY, ticker, news)
    for difference in differences:
        if difference.before.close == difference.after.close:
            continue  # only the open became readable
        log.warning(
            "a close was read differently than before",
            ticker=ticker,
            session=str(difference.after.trading_day),
            before=str(difference.before.close),
            after=str(difference.after.close),
        )


def log_unreadable(function: str, ticker: str, rows: Sequence[UnreadableRow]) -> None:
    """Log the rows of an answer that are needed and cannot be read."""
    for row in rows:
        day = str(row.day) if row.day else None
        log.warning("a row cannot be read", function=function, ticker=ticker, row_day=day, reason=row.reason)
