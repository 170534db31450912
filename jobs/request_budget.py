"""
The budget of price requests: the plan of the record, and which splits have room at the moment.

`app.domain.request_plan` has the rules. This module applies them to the batches of the database and
to the requests of the ledger.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

from msgspec import Struct

from app.core import series_file
from app.core.settings import Settings
from app.domain import calendar, request_plan
from app.domain.calendar import Calendar
from app.domain.model import batch_id
from app.domain.request_plan import PlannedBatch, RequestPlan
from app.providers.alpha_vantage import SPLITS
from app.providers.rate_limiter import RequestLedger
from app.store import batches, checkpoints
from app.store.rows import Conn
from jobs.context import Context

# The oldest batches whose splits are requested were made so many days ago.
_OLDEST_DAYS = max(request_plan.SPLIT_DAYS) + 7

_DAY = timedelta(days=1)

# Requests of the day before count as expired this long before they are: those of a morning or of a
# round of splits are spread over minutes, and so are those of today. The ledger waits for each.
_EXPIRING = timedelta(minutes=10)


class Configured(Struct, frozen=True, kw_only=True):
    """
    What a plan needs of the configuration.

    `series` are the names of the configured series, `sessions` is the calendar with
    MARKET_CLOSED_DAYS.
    """

    series: Sequence[str]
    sessions: Calendar
    benchmark: str


class Planned(Struct, frozen=True, kw_only=True):
    """
    A plan, and what it was made of.

    `day` is the first day of the plan. `waiting` are the tickers whose splits are still to be
    requested in this week, in the order in which they are requested.
    """

    plan: RequestPlan
    day: date
    batches: list[PlannedBatch]
    waiting: list[str]


def configured_by(settings: Settings) -> Configured:
    """Return what a plan needs of the settings. Raises ConfigurationError for a wrong file."""
    return Configured(
        series=[one.name for one in series_file.load(settings)],
        sessions=Calendar(settings.market_closed_days),
        benchmark=settings.benchmark_symbol,
    )


async def read_plan(
    conn: Conn, ledger: RequestLedger, *, configured: Configured, now: datetime
) -> Planned:
    """
    Return the plan from today on.

    A day of the plan begins at 09:00 in New York. Before that time, the first day is yesterday.
    """
    day = calendar.new_york_date(now)
    if now < calendar.due_at(day):
        day -= _DAY
    since_sunday = calendar.due_at(request_plan.split_sunday(day))
    young = await batches.list_planned(conn, day - _OLDEST_DAYS * _DAY)
    answered = await ledger.served_since(conn, SPLITS, since_sunday)
    sent = await ledger.count_since(conn, calendar.due_at(day), function=SPLITS)
    sent_late = await ledger.count_since(conn, _end_of_morning(day), function=SPLITS)
    plan = request_plan.plan(
        day,
        series=configured.series,
        batches=young,
        sessions=configured.sessions,
        per_day=ledger.limits[-1].requests,
        benchmark=configured.benchmark,
        answered=answered,
        sent_early=sent - sent_late,
        sent_late=sent_late,
    )
    waiting = request_plan.order_splits(
        young, day, benchmark=configured.benchmark, answered=answered
    )
    return Planned(plan=plan, day=day, batches=young, waiting=waiting)


async def has_room_for_splits(context: Context, ticker: str) -> bool:
    """
    Return whether the splits of a ticker may be requested now.

    False means that the requests that are left are needed for closes, or for the splits of tickers
    that come before this one. Splits that were already requested in this week need no request, so
    the result is then True.
    """
    async with context.pool.connection() as conn:
        planned = await _read_plan_of(conn, context)
        if ticker not in planned.waiting:
            return True
        room = await _count_left(conn, context, planned)
    return ticker in planned.waiting[: max(0, room)]


async def has_room_for_rates(context: Context) -> bool:
    """
    Return whether the rates of a loan without risk may be requested now.

    They come last: after the closes, and after the splits of this week.
    """
    async with context.pool.connection() as conn:
        planned = await _read_plan_of(conn, context)
        room = await _count_left(conn, context, planned)
    return room > len(planned.waiting)


async def _read_plan_of(conn: Conn, context: Context) -> Planned:
    """Return the plan of this process, from now on."""
    configured = Configured(
        series=context.series, sessions=context.calendar, benchmark=context.benchmark
    )
    return await read_plan(conn, context.prices.ledger, configured=configured, now=context.now())


async def _count_left(conn: Conn, context: Context, planned: Planned) -> int:
    """
    Return how many requests for splits may be sent now.

    The requests of the last 24 hours, and those for closes that are still missing today, must stay
    within the limit. A request that is sent later than the morning's closes still counts on the
    next morning, so it must leave enough for that morning, too.
    """
    ledger = context.prices.ledger
    now = context.now()
    per_day = planned.plan.per_day
    used = await ledger.count_since(conn, now - _DAY + _EXPIRING)
    missing = await _count_missing_closes(conn, context, planned)
    left = per_day - used - missing - request_plan.SPARE_REQUESTS
    morning_ends_at = _end_of_morning(planned.day)
    if now >= morning_ends_at:
        tomorrow = planned.plan.days[1]
        sent = await ledger.count_since(conn, morning_ends_at)
        reserved = request_plan.reserve(tomorrow.day, tomorrow.closes)
        left = min(left, per_day - sent - reserved)
    return left


def _end_of_morning(day: date) -> datetime:
    """Return the time of a day from which its requests still count on the next morning."""
    return calendar.from_new_york(day, calendar.PRICE_RETRY_TIMES[0])


async def _count_missing_closes(conn: Conn, context: Context, planned: Planned) -> int:
    """Return how many requests the closes that are due may still need."""
    today = planned.plan.days[0]
    stored = {batch.series for batch in planned.batches if batch.run_date == today.day}
    is_monday_open = today.baseline_closes and calendar.new_york_date(context.now()) == today.day
    if is_monday_open and any(one.name not in stored for one in context.in_force.series):
        return request_plan.reserve(today.day, today.closes)

    late: set[UUID] = set()
    for due in await checkpoints.list_due(conn, today.day):
        checkpoint_date = calendar.checkpoint_date(due.run_date, due.day)
        if due.due_at <= context.now() and context.calendar.trading_day(checkpoint_date):
            late.add(due.batch_id)
    tickers: set[str] = set()
    for batch in planned.batches:
        if batch_id(batch.series, batch.run_date) in late:
            tickers.update(batch.tickers)
    return len(tickers)
