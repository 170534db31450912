"""Closes for everybody: known ones from the store, others from the provider, one request for all who need it."""

from collections.abc import Sequence
from datetime import date, datetime

import structlog

from app.database.pools import transaction
from app.domain.calendar import asked_since, today
from app.domain.model import Close
from app.errors import MissingClose
from app.providers.alpha_vantage import SOURCE, Answer
from app.providers.rate_limiter import Outcome
from app.store import batches, closes
from jobs import alerts
from jobs.context import Context

log = structlog.get_logger()


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
    answer = await tools.prices.bars(ticker, asked_since(tools.now()), begun)
    if isinstance(answer, Answer):
        await _keep(tools, ticker, answer, session)
    return await _known(tools, ticker, session)


async def _known(tools: Context, ticker: str, session: date) -> Close | None:
    async with tools.pool.connection() as conn:
        return await closes.newest(conn, ticker, session)


async def _keep(tools: Context, ticker: str, answer: Answer, session: date) -> None:
    """Store what was read, from the oldest active baseline on; bars of sessions that have not ended do not count."""
    now = tools.now()
    async with transaction(tools.pool) as conn:
        oldest = await batches.oldest_active_baseline(conn)
        # The session before is kept too: a ticker that lacks both is no longer traded.
        since = min(tools.calendar.session_before(session), oldest or session)
        bars = [bar for bar in answer.bars if since <= bar.trading_day < today(now)]
        differences = await closes.add_all(conn, ticker, bars, SOURCE, now)
        await alerts.reading_changed(conn, tools, ticker, differences)
        await tools.prices.ledger.settle(conn, answer.grant, Outcome.ANSWERED)
    log.info("closes read", ticker=ticker, session=str(session), bars=len(bars))
    for difference in differences:
        log.warning(
            "a close was read differently than before",
            ticker=ticker,
            session=str(difference.after.trading_day),
            before=str(difference.before.close),
            after=str(difference.after.close),
        )
