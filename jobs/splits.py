"""
Splits: when they are asked for, and what is done about one that is learnt.

A ticker's are asked for before a move of a tenth or more is measured, and on the two Sundays of its fortnight.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import structlog

from app.database.pools import transaction
from app.domain import calendar, splits
from app.domain.model import Batch, Split
from app.domain.returns import ONE, plain
from app.domain.tickers import Tickers
from app.errors import AlphaMondayError, ProviderError, TryAgainAt, UnknownTicker
from app.providers.alpha_vantage import SPLITS_SOURCE, Listed, SplitsAnswer
from app.providers.rate_limiter import Outcome
from app.store import batches, courses
from app.store import splits as store
from jobs import corrections
from jobs.context import Context

log = structlog.get_logger()


async def look_before_measuring(
    tools: Context, batch: Batch, tickers: Iterable[str], session: date, begun: datetime
) -> None:
    """
    Ask for the splits of each ticker that moved suspiciously up to `session`, unless that was asked after the move.

    What cannot be learnt is raised: a figure that may be off by a split is not measured.
    """
    for ticker in tickers:
        async with tools.pool.connection() as conn:
            share = await courses.share_of(conn, batch, ticker, session)
            path = await courses.path(conn, batch, share)
        moves = [moved for moved in splits.suspicious(path) if moved <= session]
        # A renamed share's moves are asked for under the ticker that it had then.
        newest = {share.at(moved): moved for moved in moves}
        for name, moved in newest.items():
            try:
                await _look(tools, name, calendar.due_at(moved, 1), begun)
            except ProviderError as error:
                if name == ticker:
                    raise
                # The provider may no longer list the old ticker; the move is marked.
                log.warning("splits not learnt", ticker=name, reason=str(error))


async def look_on_sunday(tools: Context, batch: Batch, tickers: Sequence[str], day: int) -> None:
    """Ask for the splits of a batch's tickers; what cannot be learnt is left to the mornings that measure."""
    for ticker in tickers:
        try:
            due = calendar.due_at(batch.run_date, day)
            await _look(tools, ticker, due, due)
        except TryAgainAt:
            raise
        except AlphaMondayError as error:
            log.warning("splits not learnt", ticker=ticker, reason=str(error))


async def look_before_renaming(tools: Context, batch: Batch, ticker: str, since: datetime, begun: datetime) -> None:
    """Ask for the splits of a ticker that a pick of `batch` is to get."""
    await _look(tools, ticker, since, begun, batch.trading_day)


async def _look(tools: Context, ticker: str, since: datetime, begun: datetime, baseline: date | None = None) -> None:
    try:
        answer = await tools.prices.splits(ticker, since, begun)
    except UnknownTicker:
        log.warning("no splits are listed, as if the ticker were unknown", ticker=ticker)
        return
    if isinstance(answer, SplitsAnswer):
        await _keep(tools, ticker, answer, baseline)


async def _keep(tools: Context, ticker: str, answer: SplitsAnswer, baseline: date | None = None) -> None:
    """
    Store what is new, and put right what was measured without it, all in one transaction.

    `baseline` is that of a batch that does not hold the ticker yet.
    """
    now = tools.now()
    async with transaction(tools.pool) as conn:
        held = await batches.holding(conn, ticker)
        # Splits up to the earliest baseline change no figure.
        baselines = [batch.trading_day for batch in held if batch.trading_day]
        since = min([*baselines, baseline] if baseline else baselines, default=None)
        known = await store.of(conn, Tickers.only(ticker))
        learnt = _learnt(ticker, answer.splits, since, known, now)
        for split in learnt:
            await store.add(conn, split)
        reason = " ".join(_told(split) for split in learnt)
        first = min((split.effective_date for split in learnt), default=None)
        corrected = await corrections.after_split(conn, held, ticker, first, reason, now) if first else 0
        await tools.prices.ledger.settle(conn, answer.grant, Outcome.ANSWERED)
    log.info("splits read", ticker=ticker, listed=len(answer.splits), learnt=len(learnt))
    if learnt:
        log.warning("split learnt", ticker=ticker, what=reason, corrected_checkpoints=corrected)


def _learnt(
    ticker: str, listed: Sequence[Listed], since: date | None, known: Sequence[Split], now: datetime
) -> list[Split]:
    """
    Return the readings that say something new of days after `since`, also that a split is no longer listed.

    A list that is empty takes nothing back: more likely it is a slip of the provider's than the truth.
    """
    factors = {split.effective_date: split.factor for split in known}
    learnt = [
        Split(ticker=ticker, effective_date=one.effective_date, factor=one.factor, source=_source(one), read_at=now)
        for one in listed
        if since and one.effective_date > since and factors.get(one.effective_date, ONE) != one.factor
    ]
    if listed:
        still = {one.effective_date for one in listed}
        gone = [split for split in known if split.effective_date not in still and split.factor != ONE]
        source = f"{SPLITS_SOURCE}, no longer listed"
        learnt += [
            Split(ticker=ticker, effective_date=split.effective_date, factor=ONE, source=source, read_at=now)
            for split in gone
        ]
    return learnt


def _source(listed: Listed) -> str:
    return SPLITS_SOURCE if listed.said == plain(listed.factor) else f"{SPLITS_SOURCE}, as {listed.said}"


def _told(split: Split) -> str:
    if split.factor == ONE:
        return f"{split.ticker}: the split of {split.effective_date} is no longer listed."
    return f"{split.ticker}: a split by {plain(split.factor)} from {split.effective_date} on was learnt."
