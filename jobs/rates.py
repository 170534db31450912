"""
The rate of a loan without risk: when it is requested from the provider, and how it is stored.

The yearly checks need it, and nothing else does. So it is requested once a week, on Sunday after
the splits, and only if the day's quota has room. One response has the rates of all past weeks: a
Sunday without a response costs nothing. A failure is logged, and the request is repeated the next
day, until the next Sunday.

Reconciliation defers the job of each Sunday.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

import structlog
from structlog.contextvars import bind_contextvars

from app.database.pools import transaction
from app.domain import calendar
from app.domain.declarations import ProviderResponse, ResponseKind
from app.domain.model import Rate
from app.errors import AlphaMondayError, TryAgainAt
from app.providers.alpha_vantage import RATES, RATES_SOURCE, RatesAnswer
from app.providers.alpha_vantage_answers import ListedRate
from app.store import batches, journal
from app.store import rates as store
from app.store.rows import Conn
from jobs import request_budget, weekly_requests
from jobs.context import Context
from jobs.prices import log_unreadable
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

# An hour after the requests of late splits.
_REQUEST_TIME = time(11)
# How long before the first baseline session of the record the first observation is kept. The rate
# of a week is at least seven days older than the week, and some weeks have no observation.
_KEPT_BEFORE = timedelta(days=35)
_WEEK = timedelta(weeks=1)
_DAY = timedelta(days=1)


@app.task(name="read_rates", retry=RetryPolicy())
async def read_rates(sunday: str) -> None:
    """Request the rates of a Sunday. The job runs on that Sunday or later in the week."""
    await refresh(current_context(), date.fromisoformat(sunday))


async def refresh(context: Context, sunday: date) -> None:
    """
    Request the rates, unless they were requested since a Sunday, and store the changes.

    Raise TryAgainAt for the next day if too few requests of the quota are left, or if the provider
    does not return rates. When the week that begins on the Sunday is over, return without a
    request.
    """
    bind_contextvars(step="rates")
    begins_at = weekly_requests.begins_at(sunday, _REQUEST_TIME)
    now = context.now()
    # The job may have been deferred by a process whose clock is ahead of this process's clock.
    if now < begins_at:
        raise TryAgainAt("The rates of this Sunday are requested later.", begins_at)
    if now >= weekly_requests.begins_at(sunday + _WEEK, _REQUEST_TIME):
        log.info("the week for rates is over")
        return
    tomorrow = calendar.from_new_york(calendar.new_york_date(now) + _DAY, _REQUEST_TIME)
    async with context.pool.connection() as conn:
        spare = await request_budget.count_spare(conn, context)
    if spare < 1:
        raise TryAgainAt("The day's quota is reserved for requests that cannot wait.", tomorrow)
    today = calendar.from_new_york(calendar.new_york_date(now), time())
    try:
        # Without the limit, five attempts would use up requests that tomorrow's closes need.
        answer = await context.prices.rates(since=begins_at, needed_since=today, max_attempts=spare)
    except TryAgainAt:
        raise
    except AlphaMondayError as error:
        log.warning("rates not read", reason=str(error))
        raise TryAgainAt("The provider did not return the rates.", tomorrow) from None
    if isinstance(answer, RatesAnswer):
        await _store_answer(context, answer)


async def _store_answer(context: Context, answer: RatesAnswer) -> None:
    """Store the changes of an answer, with the entry of its response."""
    now = context.now()
    async with transaction(context.pool) as conn:
        first = await batches.first_baseline(conn)
        changes: list[Rate] = []
        if first:
            known = await store.list_in_force(conn)
            since = first - _KEPT_BEFORE
            changes = _find_changes(answer.rates, since=since, known=known, now=now)
        for rate in changes:
            await store.insert(conn, rate)
        new_unreadable = await context.prices.ledger.store_answered(
            conn, answer.grant, [row for row in answer.unreadable if _may_be_kept(row.day, first)]
        )
        await journal.append_readings(
            conn, _make_response(answer, now), rates=changes, in_force=context.in_force
        )
    log.info("rates read", listed=len(answer.rates), learnt=len(changes))
    log_unreadable(RATES, "rates", new_unreadable)


def _may_be_kept(day: date | None, first: date | None) -> bool:
    """Return whether the rate of an unreadable row would be kept if it could be read."""
    return first is not None and (day is None or day >= first - _KEPT_BEFORE)


def _make_response(answer: RatesAnswer, now: datetime) -> ProviderResponse:
    """Return what the journal states of a response with rates."""
    return ProviderResponse(
        source=RATES_SOURCE,
        kind=ResponseKind.RATES,
        read_at=now,
        first_session=answer.rates[0].observed_on,
        last_session=answer.rates[-1].observed_on,
        sha256=answer.body_sha256,
    )


def _find_changes(
    listed: Sequence[ListedRate], *, since: date, known: dict[date, Rate], now: datetime
) -> list[Rate]:
    """Return a reading for each observation from `since` on that is new or has another value."""
    changes: list[Rate] = []
    for one in listed:
        before = known.get(one.observed_on)
        is_known = before is not None and before.value_pct == one.value_pct
        if one.observed_on >= since and not is_known:
            rate = Rate(
                observed_on=one.observed_on,
                value_pct=one.value_pct,
                source=RATES_SOURCE,
                read_at=now,
            )
            changes.append(rate)
    return changes


async def defer_due(conn: Conn, context: Context) -> int:
    """
    Defer the job of the newest Sunday, if it is missing and the record has a batch with picks.

    Return how many jobs were deferred.
    """
    now = context.now()
    sunday = weekly_requests.newest_sunday(now, _REQUEST_TIME)
    first = await batches.first_baseline(conn)
    # The first Sunday is the one after the first Monday.
    if first is None or sunday < first + _WEEK:
        return 0
    return await weekly_requests.defer(conn, read_rates, sunday=sunday, now=now)
