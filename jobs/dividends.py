"""
Dividends: when they are requested from the provider, and how changes are stored.

Only total returns need them. So they are requested once a week, on Sunday after the splits and the
weekly requests, with what the quota has left then. What has no room is requested on the next days,
until Saturday. A ticker is requested

- on the first Sunday after the result of a batch (day 13), for the benchmark and the picks,
- on two later Sundays (days 27 and 41), because some dividends are listed late,
- on every Sunday while a total return is missing, until the batch is twenty weeks old.

One request for a ticker serves all series. A failure delays or skips nothing else: a result then
has no total return. If the provider refuses dividends with this key, two requests are sent in a
week, and the log says so.

Reconciliation defers the job of each Sunday.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

import structlog
from structlog.contextvars import bind_contextvars

from app.database.pools import transaction
from app.domain import calendar, dividends, request_plan
from app.domain.calendar import MEASURED_DAYS
from app.domain.declarations import ProviderResponse, ResponseKind
from app.domain.dividends import ListedAmount, RestatedAmount
from app.domain.model import Batch, BatchStatus, Dividend
from app.domain.request_plan import PlannedBatch
from app.domain.returns import format_decimal
from app.domain.tickers import TickerHistory
from app.errors import AlphaMondayError, ConfigurationError, RecordDamaged, TryAgainAt
from app.providers.alpha_vantage import DIVIDENDS, DIVIDENDS_SOURCE, DividendsAnswer
from app.providers.alpha_vantage_answers import ListedDividend
from app.providers.rate_limiter import UnreadableRow
from app.store import batches, declarations, journal, splits
from app.store import dividends as store
from app.store.rows import Conn
from jobs import (
    alerts,
    corrections,
    request_budget,
    total_returns,
    weekly_requests,
)
from jobs.context import Context
from jobs.prices import log_unreadable
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

# Half an hour after the request for rates.
_REQUEST_TIME = time(11, 30)
_WEEK = timedelta(weeks=1)
_DAY = timedelta(days=1)

# For how many weeks after its Monday a batch without total returns is asked about again. A response
# has the dividends of all past years, so this limits only the number of requests.
_MISSING_WEEKS = 20

# A class of shares has two spellings (BRK-B and BRK.B): the first attempt may use the wrong one.
_MAX_ATTEMPTS = 2
# After so many tickers in a row without a response, the job waits until the next day. A provider
# without dividends must not use up the quota.
_MAX_FAILURES = 4

# After so many tickers in a row that the provider refused, the week is over. One refused ticker
# must not stop the others.
_MAX_REFUSALS = 2

_WITHDRAWN_SOURCE = f"{DIVIDENDS_SOURCE}, no longer listed"


@app.task(name="read_dividends", retry=RetryPolicy())
async def read_dividends(sunday: str) -> None:
    """Request the dividends of a Sunday. The job runs on that Sunday or later in the week."""
    context = current_context()
    async with alerts.alert_if_quota_spent(context):
        await refresh(context, date.fromisoformat(sunday))


async def refresh(context: Context, sunday: date) -> None:
    """
    Request the dividends that the week of a Sunday needs, and store the changes.

    Raise TryAgainAt for the next day if the quota has no room for one of them, or if the provider
    does not answer. When the week is over, return without a request. In a record that is not
    sealed, nothing is requested: its journal could not show that a share has no dividend.
    """
    bind_contextvars(step="dividends")
    begins_at = weekly_requests.begins_at(sunday, _REQUEST_TIME)
    # The job may have been deferred by a process whose clock is ahead of this process's clock.
    if context.now() < begins_at:
        raise TryAgainAt("The dividends of this Sunday are requested later.", begins_at)
    if context.now() >= weekly_requests.begins_at(sunday + _WEEK, _REQUEST_TIME):
        log.info("the week for dividends is over")
        return
    async with context.pool.connection() as conn:
        if not await declarations.is_sealed(conn):
            log.info("no dividends: the record is not sealed")
            return
    recent = await _add_missing(context)
    waiting = await _list_waiting(context, sunday, recent)
    failures = refusals = 0
    unanswered: list[str] = []
    for ticker in waiting:
        # After too many failures, no more requests are sent today, so the room does not matter.
        spare = 0 if failures == _MAX_FAILURES else await _count_spare(context)
        if spare < 1:
            unanswered.append(ticker)
            continue
        try:
            await _refresh_ticker(context, ticker, since=begins_at, spare=spare)
            failures = refusals = 0
        except TryAgainAt:
            raise
        except ConfigurationError as error:
            # Another attempt would be refused, too, until an operator changes the key or the plan.
            log.warning("dividends refused by the provider", ticker=ticker, reason=str(error))
            refusals += 1
            if refusals == _MAX_REFUSALS:
                return
        except AlphaMondayError as error:
            log.warning("dividends not read", ticker=ticker, reason=str(error))
            failures += 1
            unanswered.append(ticker)
    if unanswered:
        tomorrow = calendar.new_york_date(context.now()) + _DAY
        raise TryAgainAt(
            f"The dividends of {', '.join(unanswered)} were not read: the day's quota has no room, "
            "or the provider did not respond.",
            calendar.from_new_york(tomorrow, _REQUEST_TIME),
        )


async def _count_spare(context: Context) -> int:
    """Return how many requests for dividends have room now."""
    async with context.pool.connection() as conn:
        return await request_budget.count_spare_for_dividends(conn, context)


async def _add_missing(context: Context) -> list[Batch]:
    """
    Add the total returns that are missing although the dividends are known. Correct outdated ones.

    A total return is outdated if an earlier version, which does not know total returns, has
    corrected its price. This concerns older batches, too. Return the batches that are young enough
    for requests.
    """
    first = calendar.new_york_date(context.now()) - _MISSING_WEEKS * _WEEK
    corrected_since = context.now() - _MISSING_WEEKS * _WEEK
    async with context.pool.connection() as conn:
        recent = [batch for batch in await batches.list_since(conn, first) if batch.trading_day]
        corrected = await batches.list_corrected(conn, corrected_since)
    older = [batch for batch in corrected if batch.run_date < first]
    for batch in [*recent, *older]:
        if batch.status is not BatchStatus.COMPLETED:
            continue
        try:
            await _complete_totals(context, batch)
        except RecordDamaged as error:
            # Other batches need not wait until this one is repaired.
            log.warning("total returns not added", run_date=str(batch.run_date), reason=str(error))
    return recent


async def _complete_totals(context: Context, batch: Batch) -> None:
    """Add a batch's missing total returns, and correct those that are outdated."""
    async with transaction(context.pool) as conn:
        locked = await batches.lock_for_update(conn, batch.id)
        await total_returns.add(conn, locked, now=context.now(), in_force=context.in_force)
        await corrections.correct_totals(
            conn,
            [locked],
            reason="The total return is computed again from the present price and splits.",
            now=context.now(),
            in_force=context.in_force,
        )


async def _list_waiting(context: Context, sunday: date, recent: Sequence[Batch]) -> list[str]:
    """Return the tickers whose dividends are still to be requested in this week, in order."""
    planned: list[PlannedBatch] = []
    overdue: list[str] = []
    async with context.pool.connection() as conn:
        for batch in recent:
            age = (sunday - batch.run_date).days
            if age in request_plan.DIVIDEND_DAYS:
                tickers = await _list_tickers(conn, batch)
                planned.append(PlannedBatch(batch.series, batch.run_date, tickers))
            elif age > MEASURED_DAYS[-1]:
                missing = await total_returns.find_missing(conn, batch)
                overdue += [period.ticker for period in missing]
        begins_at = weekly_requests.begins_at(sunday, _REQUEST_TIME)
        # An open request may be that of a job that died before its response was stored. It is not
        # served: the ledger lets the next request wait until the open one is given up.
        served = await context.prices.ledger.served_since(
            conn, DIVIDENDS, begins_at, with_open=False
        )
    today = calendar.new_york_date(context.now())
    waiting = request_plan.order_dividends(
        planned, today, benchmark=context.benchmark, answered=served
    )
    # Each day begins with another ticker, as for those above: tickers for which the provider does
    # not answer must not be tried first every day. Every total return needs the benchmark.
    if context.benchmark in overdue:
        waiting.append(context.benchmark)
    waiting += request_plan.in_turn(overdue, today)
    return [ticker for ticker in dict.fromkeys(waiting) if ticker not in served]


async def _list_tickers(conn: Conn, batch: Batch) -> tuple[str, ...]:
    """
    Return the tickers of a batch whose dividends its result needs.

    A renamed share has one ticker after another, and each is asked for its own days. A share that
    stopped trading is asked for, too: it may have paid a dividend before.
    """
    assert batch.trading_day, "a batch with picks has a baseline"
    last = calendar.checkpoint_date(batch.run_date, MEASURED_DAYS[-1])
    tickers = [batch.benchmark_symbol]
    histories = await batches.get_tickers(conn, batch.id)
    for pick in await batches.list_picks(conn, batch.id):
        periods = histories[pick.id].dividend_periods(batch.trading_day, last)
        tickers += [period.ticker for period in periods]
    return tuple(dict.fromkeys(tickers))


async def _refresh_ticker(context: Context, ticker: str, *, since: datetime, spare: int) -> None:
    """
    Request a ticker's dividends, unless they were already requested after `since`.

    `spare` is how many requests have room.
    """
    today = calendar.from_new_york(calendar.new_york_date(context.now()), time())
    answer = await context.prices.dividends(
        ticker, since, today, max_attempts=min(spare, _MAX_ATTEMPTS)
    )
    if isinstance(answer, DividendsAnswer):
        await _store_answer(context, ticker, answer)


async def _store_answer(context: Context, ticker: str, answer: DividendsAnswer) -> None:
    """
    Store the changes of an answer, correct the total returns, and add those that become known.

    All of it is done in one transaction.
    """
    now = context.now()
    corrected = 0
    async with transaction(context.pool) as conn:
        # First lock all batches that use the ticker, then write to the journal: otherwise there
        # could be a deadlock (see `corrections.correct_after_split`).
        locked = await batches.lock_all_with_ticker(conn, ticker)
        # Dividends before the first baseline of these batches are not needed.
        since = min((one.trading_day for one in locked if one.trading_day), default=None)
        changes = await _find_changes(conn, ticker, answer, since=since, now=now)
        for dividend in changes.readings:
            await store.insert(conn, dividend)
        new_unreadable = await _store_answered(conn, context, answer, since=since)
        # The entry of the response comes before the others, which mention its dividends again.
        await journal.append_readings(
            conn,
            _make_response(ticker, answer, now),
            dividends=changes.readings,
            in_force=context.in_force,
        )
        if changes.readings:
            corrected = await corrections.correct_totals(
                conn,
                locked,
                reason=" ".join(_describe(one) for one in changes.readings),
                now=now,
                in_force=context.in_force,
            )
        for batch in locked:
            await total_returns.add(conn, batch, now=now, in_force=context.in_force)
        for restated in changes.restated:
            await alerts.report_restated_dividend(conn, context, restated=restated)
    log.info(
        "dividends read",
        ticker=ticker,
        listed=len(answer.ex_dates),
        learnt=len(changes.readings),
        corrected_checkpoints=corrected,
    )
    log_unreadable(DIVIDENDS, ticker, new_unreadable)
    for restated in changes.restated:
        _log_restated(restated)


async def _find_changes(
    conn: Conn, ticker: str, answer: DividendsAnswer, *, since: date | None, now: datetime
) -> dividends.Changes:
    """Return what an answer changes for ex-dates after `since`; nothing if `since` is None."""
    if since is None:
        return dividends.Changes([], [])
    tickers = TickerHistory.unchanged(ticker)
    listed = [ListedAmount(one.ex_date, one.amount, _source_of(one)) for one in answer.dividends]
    return dividends.find_changes(
        listed,
        ticker=ticker,
        ex_dates=set(answer.ex_dates),
        since=since,
        known=await store.list_in_force(conn, tickers),
        factors=await splits.list_in_force(conn, tickers),
        withdrawn_source=_WITHDRAWN_SOURCE,
        now=now,
    )


async def _store_answered(
    conn: Conn, context: Context, answer: DividendsAnswer, *, since: date | None
) -> list[UnreadableRow]:
    """Store that the request was answered. Return the unreadable rows that are new and matter."""
    unreadable: list[UnreadableRow] = []
    if since is not None:
        unreadable = [row for row in answer.unreadable if row.may_fall_within(since, date.max)]
    return await context.prices.ledger.store_answered(conn, answer.grant, unreadable)


def _log_restated(restated: RestatedAmount) -> None:
    known = restated.known
    log.warning(
        "dividend restated",
        ticker=known.ticker,
        ex_date=str(known.ex_date),
        known=format_decimal(known.amount),
        listed=format_decimal(restated.listed),
        factor=format_decimal(restated.factor),
    )


def _make_response(ticker: str, answer: DividendsAnswer, now: datetime) -> ProviderResponse:
    """Return what the journal states of a response with dividends."""
    return ProviderResponse(
        source=DIVIDENDS_SOURCE,
        kind=ResponseKind.DIVIDENDS,
        ticker=ticker,
        read_at=now,
        first_session=min(answer.ex_dates, default=None),
        last_session=max(answer.ex_dates, default=None),
        ex_dates=tuple(answer.ex_dates),
        sha256=answer.body_sha256,
    )


def _source_of(listed: ListedDividend) -> str:
    """
    Return the source of a dividend.

    It quotes the provider's text if the amount is written differently there: a sum of several.
    """
    if listed.text == format_decimal(listed.amount):
        return DIVIDENDS_SOURCE
    return f"{DIVIDENDS_SOURCE}, as {listed.text}"


def _describe(dividend: Dividend) -> str:
    """Return the sentence about a dividend that becomes the reason of corrections."""
    name = f"{dividend.ticker}: the dividend of {dividend.ex_date}"
    if dividend.amount == 0:
        return f"{name} is no longer listed."
    return f"{name} was read as {format_decimal(dividend.amount)}."


async def defer_due(conn: Conn, context: Context) -> int:
    """
    Defer the job of the newest Sunday, if it is missing and a batch may need dividends.

    Return how many jobs were deferred.
    """
    now = context.now()
    sunday = weekly_requests.newest_sunday(now, _REQUEST_TIME)
    first = await batches.first_run_date(conn)
    if first is None or (sunday - first).days < min(request_plan.DIVIDEND_DAYS):
        return 0
    return await weekly_requests.defer(conn, read_dividends, sunday=sunday, now=now)
