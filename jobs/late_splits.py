"""
Late splits: splits that are requested on two Sundays after a batch's fortnight, or after a Sunday.

Spin-offs and small splits are often listed weeks after they came into force. Such a split corrects
the figures of completed batches (see `corrections.correct_after_split`). Each batch gets one job
for each of the two Sundays. If no service runs on the Sunday, the job is deferred later in the week
that begins on it.

Reconciliation defers these jobs. The weekly job does not defer them when it makes a batch, because
batches that an older version of the weekly job made would then have no such jobs.

The same task requests what the Sundays of the fortnight itself left out, because the quota had no
room (`defer_rest`).
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

import structlog
from structlog.contextvars import bind_contextvars

from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import Batch
from app.errors import AlphaMondayError, TryAgainAt
from app.store import batches
from app.store.rows import Conn
from jobs import alerts, messages, queue_tables, request_budget, splits
from jobs.context import Context
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

_WEEK = timedelta(days=7)


@app.task(name="look_for_splits", retry=RetryPolicy())
async def look_for_splits(batch_id: str, day: int) -> None:
    """
    Request the splits of a batch's tickers.

    `day` is the Sunday, as a number of days after the run date. The job runs on that Sunday or
    later in the week that follows.
    """
    context = current_context()
    async with alerts.alert_if_quota_spent(context):
        await refresh(context, UUID(batch_id), day)


async def refresh(context: Context, batch_id: UUID, day: int) -> None:
    """
    Request the splits of each ticker of a batch, unless they were requested since the Sunday `day`.

    Raise TryAgainAt for the next day if the quota has no room for one of them, if the provider does
    not answer, or if a split of the fortnight cannot be read. When the week that begins on that
    Sunday is over, return without a request.
    """
    async with context.pool.connection() as conn:
        batch = await batches.get(conn, batch_id)
        picks = await batches.list_picks(conn, batch_id)
    if batch is None:
        log.warning("batch does not exist")
        return
    bind_contextvars(run_date=str(batch.run_date), step="splits")
    begins_at = _begins_at(batch.run_date, day)
    # The job may have been deferred by a process whose clock is ahead of this process's clock.
    if context.now() < begins_at:
        raise TryAgainAt(
            f"Late splits are requested from {begins_at:%Y-%m-%d %H:%M} UTC on.", begins_at
        )

    tickers = [batch.benchmark_symbol, *(pick.ticker for pick in picks if not pick.ended)]
    # Each day begins with another ticker: otherwise, one ticker for which the provider does not
    # answer would prevent the requests for all tickers after it.
    sunday = calendar.checkpoint_date(batch.run_date, day)
    days = (calendar.new_york_date(context.now()) - sunday).days
    first = days % len(tickers)
    without_room: list[str] = []
    for ticker in (*tickers[first:], *tickers[:first]):
        if not _is_open(batch.run_date, day, context.now()):
            log.info("the week for late splits is over", day=day, next=ticker)
            return
        if await request_budget.has_room_for_splits(context, ticker):
            await _refresh_ticker(context, batch, day=day, ticker=ticker)
        else:
            without_room.append(ticker)
    if without_room:
        raise TryAgainAt(
            f"The day's quota is reserved for requests that cannot wait or come first; it has no "
            f"room for the splits of {', '.join(without_room)}.",
            _tomorrow(context.now()),
        )


def _tomorrow(now: datetime) -> datetime:
    """Return the time of the next day at which the splits are requested that had no room today."""
    day = calendar.new_york_date(now) + timedelta(days=1)
    return calendar.from_new_york(day, calendar.RETAKE_TIME)


async def _refresh_ticker(context: Context, batch: Batch, *, day: int, ticker: str) -> None:
    assert batch.trading_day, "a batch with picks has a baseline"
    fortnight_end = calendar.checkpoint_date(batch.run_date, calendar.MEASURED_DAYS[-1])
    try:
        await splits.refresh(
            context,
            ticker,
            since=calendar.due_at(batch.run_date, day),
            needed_since=calendar.latest_price_request_at(context.now()),
            needed=splits.NeededDays(after=batch.trading_day, through=fortnight_end),
        )
    except TryAgainAt:
        raise
    except AlphaMondayError as error:
        log.warning("splits not read", ticker=ticker, reason=str(error))
        raise TryAgainAt(
            "The provider did not say which splits there are.", _tomorrow(context.now())
        ) from None


def _begins_at(run_date: date, day: int) -> datetime:
    """
    Return the time from which late splits are requested.

    The time is an hour after other jobs begin their requests of that morning: the splits of a
    ticker that are requested in this hour are not requested again.
    """
    return calendar.from_new_york(calendar.checkpoint_date(run_date, day), calendar.RETAKE_TIME)


def _is_open(run_date: date, day: int, now: datetime) -> bool:
    """Return whether `now` is in the week that begins on the Sunday `day`."""
    next_sunday = calendar.checkpoint_date(run_date, day) + _WEEK
    end = calendar.from_new_york(next_sunday, calendar.DUE_TIME)
    return _begins_at(run_date, day) <= now < end


async def defer_rest(context: Context, batch: Batch, *, day: int) -> None:
    """Defer a job for the splits of a batch for which its Sunday `day` had no room."""
    async with transaction(context.pool) as conn:
        with_job = await queue_tables.jobs_by_checkpoint(conn, look_for_splits.name)
        if (str(batch.id), str(day)) not in with_job:
            await _defer(conn, [(str(batch.id), day)], at=_tomorrow(context.now()))


async def defer_due(conn: Conn, context: Context) -> int:
    """
    Defer the jobs that are missing.

    There must be one for each completed batch and each Sunday whose week has begun and is not over.

    Return how many jobs were deferred.
    """
    now = context.now()
    today = calendar.new_york_date(now)
    sundays = calendar.LATE_SPLIT_CHECK_DAYS
    first = calendar.checkpoint_date(today, -sundays[-1] - _WEEK.days)
    last = calendar.checkpoint_date(today, -sundays[0])
    due: list[tuple[str, int]] = []
    for batch in await batches.list_completed(conn, first, last):
        open_days = [day for day in sundays if _is_open(batch.run_date, day, now)]
        due += [(str(batch.id), day) for day in open_days]
    if not due:
        return 0
    with_job = await queue_tables.jobs_by_checkpoint(conn, look_for_splits.name)
    missing = [one for one in due if (one[0], str(one[1])) not in with_job]
    await _defer(conn, missing, at=now)
    return len(missing)


async def _defer(conn: Conn, due: Sequence[tuple[str, int]], *, at: datetime) -> None:
    """Defer a job for each batch id and Sunday, to run at `at`."""
    template = look_for_splits.configure(schedule_at=at, priority=messages.LOWEST_PRIORITY).job
    jobs = [
        template.evolve(task_kwargs={"batch_id": batch_id, "day": day}) for batch_id, day in due
    ]
    if jobs:
        await app.job_manager.batch_defer_jobs_async(jobs, connection=conn)
