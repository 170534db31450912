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
from app.domain.request_plan import PlannedBatch, PlannedDay, RequestPlan, Sent
from app.providers.alpha_vantage import DAILY, DIVIDENDS, MATURITY, RATES, SPLITS
from app.providers.rate_limiter import RequestLedger
from app.store import batches, checkpoints
from app.store.rows import Conn
from jobs.context import Context

# The oldest batches whose splits or dividends are requested were made so many days ago.
_OLDEST_DAYS = max(*request_plan.SPLIT_DAYS, *request_plan.DIVIDEND_DAYS) + 7

_DAY = timedelta(days=1)

# Requests of the day before count as expired this long before they are: those of a morning or of a
# round of splits are spread over minutes, and so are those of today. The ledger waits for each.
_EXPIRING = timedelta(minutes=10)


class Configured(Struct, frozen=True, kw_only=True):
    """
    What a plan needs of the configuration.

    `series` are the names of the configured series, `sessions` is the calendar with
    MARKET_CLOSED_DAYS. `benchmarks` are the tickers of the benchmark and of the further ones.
    """

    series: Sequence[str]
    sessions: Calendar
    benchmarks: Sequence[str]

    @property
    def benchmark(self) -> str:
        """Return the ticker that picks are measured against."""
        return self.benchmarks[0]

    @property
    def weekly_requests(self) -> list[tuple[str, str]]:
        """Return the function and the symbol of each weekly request: see `request_plan`."""
        requests = [(RATES, MATURITY)]
        for symbol in self.benchmarks[1:]:
            requests += [(DAILY, symbol), (SPLITS, symbol)]
        return requests


class PlanInputs(Struct, frozen=True, kw_only=True):
    """
    What a plan is made of.

    - `day`: the first day of the plan. A day begins at 09:00 in New York, so before that time it is
      yesterday.
    - `batches`: the batches that are young enough to need requests
    - `served`, `served_dividends`: the tickers whose splits and dividends need no request any more
      in this week
    - `weekly_waiting`: how many weekly requests this week still needs
    - `sent`: the requests that were sent on `day`, besides closes
    - `refuses_dividends`: whether the provider refused the newest request for dividends
    """

    configured: Configured
    per_day: int
    day: date
    batches: list[PlannedBatch]
    served: set[str]
    served_dividends: set[str]
    weekly_waiting: int
    sent: Sent
    refuses_dividends: bool = False

    def make_plan(self) -> RequestPlan:
        """Return the plan from `day` on."""
        return request_plan.plan(
            self.day,
            series=self.configured.series,
            batches=self.batches,
            sessions=self.configured.sessions,
            per_day=self.per_day,
            benchmark=self.configured.benchmark,
            answered=self.served,
            answered_dividends=self.served_dividends,
            weekly=len(self.configured.weekly_requests),
            weekly_waiting=self.weekly_waiting,
            sent=self.sent,
        )

    def list_waiting(self) -> list[str]:
        """Return the tickers whose splits are still to be requested in this week, in order."""
        return request_plan.order_splits(
            self.batches, self.day, benchmark=self.configured.benchmark, answered=self.served
        )


def configured_by(settings: Settings) -> Configured:
    """Return what a plan needs of the settings. Raises ConfigurationError for a wrong file."""
    return Configured(
        series=[one.name for one in series_file.load(settings)],
        sessions=Calendar(settings.market_closed_days),
        benchmarks=(settings.benchmark_symbol, *settings.further_benchmarks),
    )


async def read(
    conn: Conn, ledger: RequestLedger, *, configured: Configured, now: datetime
) -> PlanInputs:
    """Return what the plan from today on is made of."""
    day = calendar.new_york_date(now)
    if now < calendar.due_at(day):
        day -= _DAY
    since_sunday = calendar.due_at(request_plan.week_sunday(day))
    sent = await ledger.count_since(conn, calendar.due_at(day), function=SPLITS)
    sent_late = await ledger.count_since(conn, _end_of_morning(day), function=SPLITS)
    after_splits = 0
    for function in (RATES, DIVIDENDS):
        after_splits += await ledger.count_since(conn, calendar.due_at(day), function=function)
    served = {
        function: await ledger.served_since(conn, function, since_sunday)
        for function in (DAILY, SPLITS, DIVIDENDS, RATES)
    }
    waiting = [one for one in configured.weekly_requests if one[1] not in served[one[0]]]
    return PlanInputs(
        configured=configured,
        per_day=ledger.limits[-1].requests,
        day=day,
        batches=await batches.list_planned(conn, day - _OLDEST_DAYS * _DAY),
        served=served[SPLITS],
        served_dividends=served[DIVIDENDS],
        weekly_waiting=len(waiting),
        sent=Sent(splits_early=sent - sent_late, splits_late=sent_late, after_splits=after_splits),
        refuses_dividends=await ledger.is_refused(conn, DIVIDENDS, since_sunday - 7 * _DAY),
    )


async def has_room_for_splits(context: Context, ticker: str) -> bool:
    """
    Return whether the splits of a ticker may be requested now.

    False means that the requests that are left are needed for closes, or for the splits of tickers
    that come before this one. Splits that were already requested in this week need no request, so
    the result is then True.
    """
    async with context.pool.connection() as conn:
        inputs = await _read_own(conn, context)
        waiting = inputs.list_waiting()
        if ticker not in waiting:
            return True
        room = await _count_left(conn, context, inputs)
    return ticker in waiting[: max(0, room)]


async def count_spare(conn: Conn, context: Context) -> int:
    """
    Return how many requests may be sent now for what comes last.

    These are the rates of a loan without risk, and the retakes of completed batches. They come
    after the closes, and after the splits of this week. The result may be negative.
    """
    inputs = await _read_own(conn, context)
    room = await _count_left(conn, context, inputs)
    return room - len(inputs.list_waiting())


async def count_spare_for_dividends(conn: Conn, context: Context) -> int:
    """
    Return how many requests for dividends may be sent now.

    They come after everything that `count_spare` leaves room for, and after the weekly requests of
    this week. The result may be negative.
    """
    inputs = await _read_own(conn, context)
    room = await _count_left(conn, context, inputs)
    return room - len(inputs.list_waiting()) - inputs.weekly_waiting


async def _read_own(conn: Conn, context: Context) -> PlanInputs:
    """Return what a plan of this process is made of, from now on."""
    configured = Configured(
        series=context.series,
        sessions=context.calendar,
        benchmarks=(context.benchmark, *context.in_force.further_benchmarks),
    )
    return await read(conn, context.prices.ledger, configured=configured, now=context.now())


async def _count_left(conn: Conn, context: Context, inputs: PlanInputs) -> int:
    """
    Return how many requests for splits may be sent now.

    The requests of the last 24 hours, and those for closes that are still missing today, must stay
    within the limit. A request that is sent later than the morning's closes still counts on the
    next morning, so it must leave enough for that morning, too.
    """
    ledger = context.prices.ledger
    now = context.now()
    per_day = inputs.per_day
    today, tomorrow = inputs.make_plan().days[:2]
    used = await ledger.count_since(conn, now - _DAY + _EXPIRING)
    missing = await _count_missing_closes(conn, context, young=inputs.batches, today=today)
    left = per_day - used - missing - request_plan.SPARE_REQUESTS
    morning_ends_at = _end_of_morning(inputs.day)
    if now >= morning_ends_at:
        sent = await ledger.count_since(conn, morning_ends_at)
        reserved = request_plan.reserve(tomorrow.day, tomorrow.closes)
        left = min(left, per_day - sent - reserved)
    return left


def _end_of_morning(day: date) -> datetime:
    """Return the time of a day from which its requests still count on the next morning."""
    return calendar.from_new_york(day, calendar.PRICE_RETRY_TIMES[0])


async def _count_missing_closes(
    conn: Conn, context: Context, *, young: Sequence[PlannedBatch], today: PlannedDay
) -> int:
    """Return how many requests the closes that are due may still need."""
    stored = {batch.series for batch in young if batch.run_date == today.day}
    is_monday_open = today.baseline_closes and calendar.new_york_date(context.now()) == today.day
    if is_monday_open and any(one.name not in stored for one in context.in_force.series):
        return request_plan.reserve(today.day, today.closes)

    late: set[UUID] = set()
    for due in await checkpoints.list_due(conn, today.day):
        checkpoint_date = calendar.checkpoint_date(due.run_date, due.day)
        if due.due_at <= context.now() and context.calendar.trading_day(checkpoint_date):
            late.add(due.batch_id)
    tickers: set[str] = set()
    for batch in young:
        if batch_id(batch.series, batch.run_date) in late:
            tickers.update(batch.tickers)
    return len(tickers)
