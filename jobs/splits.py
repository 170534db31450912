"""
Splits: when they are asked for, and what is done about one that is learnt.

A ticker's are asked for before a move of a tenth or more is measured, and after one of its sessions was read
differently from before; on the two Sundays of its fortnight; and on two more Sundays (`late_splits`).
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import structlog
from msgspec import Struct

from app.database.pools import transaction
from app.domain import calendar, splits
from app.domain.measurement import Course
from app.domain.model import Batch, Close, Pick, Split
from app.domain.returns import ONE, plain
from app.domain.tickers import Tickers
from app.errors import AlphaMondayError, ProviderError, ProviderUnavailable, TryAgainAt
from app.providers.alpha_vantage import SPLITS, SPLITS_SOURCE, SplitsAnswer
from app.providers.alpha_vantage_answers import Listed
from app.providers.rate_limiter import Outcome, UnreadableRow
from app.store import batches, courses
from app.store import splits as store
from app.store.rows import Conn
from jobs import corrections
from jobs.context import Context
from jobs.prices import log_unreadable

log = structlog.get_logger()

# How many seconds lie between two answers that a split is no longer listed; both are needed.
_BEFORE_TAKING_BACK = 61.0


class NeededDays(Struct, frozen=True):
    """The days after the session `after`, up to and including `through`, whose splits a figure needs."""

    after: date
    through: date


async def look_before_measuring(
    tools: Context, batch: Batch, picks: Sequence[Pick], found: Mapping[str, Close], begun: datetime
) -> None:
    """
    Ask for the splits of each ticker that calls for it before its close in `found` is measured (see `_asked_since`).

    What cannot be learnt is raised: a figure that may be off by a split is not measured.
    """
    async with tools.pool.connection() as conn:
        of_picks = await courses.of_picks(conn, batch, picks)
        session = found[batch.benchmark_symbol].trading_day
        known = {course.tickers.at(session): course for course in of_picks.values()}
        known[batch.benchmark_symbol] = await courses.of_benchmark(conn, batch)
        calls = {
            ticker: await _asked_since(conn, batch, known[ticker].using(close), close)
            for ticker, close in found.items()
            if ticker in known  # a pick that is renamed meanwhile is taken again, under its new ticker
        }
    assert batch.trading_day, "a batch that is measured has a baseline"
    for ticker, since in calls.items():
        through = splits.shares_of(found[ticker].source, session)
        needed = NeededDays(max(batch.trading_day, known[ticker].tickers.period(session).before), through)
        for name, moment in since.items():
            try:
                await look(tools, name, moment, begun, needed=needed)
            except ProviderError as error:
                if name == ticker:
                    raise
                # The provider may no longer list a renamed share's old ticker; the move is marked.
                log.warning("splits not learnt", ticker=name, reason=str(error))


async def _asked_since(conn: Conn, batch: Batch, course: Course, close: Close) -> dict[str, datetime]:
    """
    Return since when a share's splits must have been asked for, before `close` is measured, by ticker.

    Two things call for it, each once: a move of a tenth or more, on the path of the readings used or of the newest,
    from the morning after it on; and a session that was read differently from before, from that reading on. The moves
    of a renamed share are asked for under the ticker that it had then.
    """
    used = splits.path(course.used.values(), course.newest)
    moved = {*splits.suspicious(course.newest), *splits.suspicious(used)}
    since = {
        course.tickers.at(session): calendar.due_at(session, 1)
        for session in sorted(moved)
        if session <= close.trading_day
    }
    if reread := splits.reread(await courses.readings(conn, batch, close.ticker)):
        since[close.ticker] = max(reread, since.get(close.ticker, reread))
    return since


async def look_on_sunday(tools: Context, batch: Batch, tickers: Sequence[str], day: int) -> None:
    """Ask for the splits of a batch's tickers; what cannot be learnt is left to the mornings that measure."""
    for ticker in tickers:
        try:
            due = calendar.due_at(batch.run_date, day)
            await look(tools, ticker, due, due)
        except TryAgainAt:
            raise
        except AlphaMondayError as error:
            log.warning("splits not learnt", ticker=ticker, reason=str(error))


async def look_before_renaming(tools: Context, batch: Batch, ticker: str, since: datetime, begun: datetime) -> None:
    """Ask for the splits of a ticker that a pick of `batch` is to get."""
    await look(tools, ticker, since, begun, baseline=batch.trading_day)


async def look(
    tools: Context,
    ticker: str,
    since: datetime,
    begun: datetime,
    *,
    needed: NeededDays | None = None,
    baseline: date | None = None,
) -> None:
    """
    Ask for a ticker's splits, unless they were asked for after `since`; store what is new.

    With `needed`: raise ProviderUnavailable if a split of these days cannot be read. A row that could not be read
    before is asked for again, but only once for each of the day's times of asking. `baseline` is that of a batch that
    does not hold the ticker yet.
    """
    unreadable = await _asked(tools, ticker, since, begun, baseline)
    if needed is None:
        return
    again = max(since, calendar.asked_since(tools.now()))
    if again > since and await _missing(tools, ticker, unreadable, needed):
        unreadable = await _asked(tools, ticker, again, begun)
    if missing := await _missing(tools, ticker, unreadable, needed):
        raise ProviderUnavailable(f"A split that the figure needs cannot be read. {missing[0].reason}")


async def _asked(
    tools: Context, ticker: str, since: datetime, begun: datetime, baseline: date | None = None
) -> Sequence[UnreadableRow]:
    answer = await tools.prices.splits(ticker, since, begun)
    if isinstance(answer, SplitsAnswer) and await _takes_back(tools, ticker, answer):
        # One list without a split that was listed before may be an old one, kept somewhere on the way.
        await tools.prices.ledger.fail(answer.grant, Outcome.FAILED)
        log.info("splits asked for again: one is no longer listed", ticker=ticker)
        await tools.sleep(_BEFORE_TAKING_BACK)
        answer = await tools.prices.splits(ticker, tools.now(), begun)
    if isinstance(answer, SplitsAnswer):
        await _keep(tools, ticker, answer, baseline)
    return answer.unreadable


async def _takes_back(tools: Context, ticker: str, answer: SplitsAnswer) -> bool:
    """Return whether an answer lacks a split that is known."""
    async with tools.pool.connection() as conn:
        return bool(_gone(answer, await store.of(conn, Tickers.only(ticker))))


async def _missing(
    tools: Context, ticker: str, unreadable: Sequence[UnreadableRow], needed: NeededDays
) -> list[UnreadableRow]:
    """
    Return the rows that may be a split of the `needed` days that no answer held.

    A row whose day is not known counts only while no split of these days is known: a move that calls for splits would
    have no explanation but that row.
    """
    async with tools.pool.connection() as conn:
        known = splits.between(await store.of(conn, Tickers.only(ticker)), needed.after, needed.through)
    days = {split.effective_date for split in known if split.factor != ONE}
    return [
        row
        for row in unreadable
        if row.may_fall_within(needed.after, needed.through) and row.day not in days and (row.day or not days)
    ]


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
        learnt = _learnt(ticker, answer, since, known, now)
        for split in learnt:
            await store.add(conn, split)
        reason = " ".join(_told(split) for split in learnt)
        first = min((split.effective_date for split in learnt), default=None)
        corrected = await corrections.after_split(conn, held, ticker, first, reason, now) if first else 0
        unreadable = [row for row in answer.unreadable if since and row.may_fall_within(since, date.max)]
        news = await tools.prices.ledger.answered(conn, answer.grant, unreadable)
    log.info("splits read", ticker=ticker, listed=len(answer.splits), learnt=len(learnt))
    log_unreadable(SPLITS, ticker, news)
    if learnt:
        log.warning("split learnt", ticker=ticker, what=reason, corrected_checkpoints=corrected)


def _learnt(
    ticker: str, answer: SplitsAnswer, since: date | None, known: Sequence[Split], now: datetime
) -> list[Split]:
    """
    Return the readings that say something new of days after `since`, also that a split is no longer listed.

    A list that is empty takes nothing back: more likely it is a slip of the provider's than the truth. Nor does one
    with a row that cannot be read and may be the split.
    """
    listed = answer.splits
    factors = {split.effective_date: split.factor for split in known}
    learnt = [
        Split(ticker=ticker, effective_date=one.effective_date, factor=one.factor, source=_source(one), read_at=now)
        for one in listed
        if since and one.effective_date > since and factors.get(one.effective_date, ONE) != one.factor
    ]
    source = f"{SPLITS_SOURCE}, no longer listed"
    return learnt + [
        Split(ticker=ticker, effective_date=split.effective_date, factor=ONE, source=source, read_at=now)
        for split in _gone(answer, known)
    ]


def _gone(answer: SplitsAnswer, known: Sequence[Split]) -> list[Split]:
    """Return the known splits that an answer takes back."""
    still = {one.effective_date for one in answer.splits}
    return [
        split
        for split in known
        if still
        and split.effective_date not in still
        and split.factor != ONE
        and not _may_be_listed(answer.unreadable, split.effective_date)
    ]


def _may_be_listed(unreadable: Sequence[UnreadableRow], day: date) -> bool:
    return any(row.may_fall_within(day - timedelta(days=1), day) for row in unreadable)


def _source(listed: Listed) -> str:
    return SPLITS_SOURCE if listed.text == plain(listed.factor) else f"{SPLITS_SOURCE}, as {listed.text}"


def _told(split: Split) -> str:
    if split.factor == ONE:
        return f"{split.ticker}: the split of {split.effective_date} is no longer listed."
    return f"{split.ticker}: a split by {plain(split.factor)} from {split.effective_date} on was learnt."
