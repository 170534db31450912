"""
Splits that are listed late: asked for again on the two Sundays after a batch's fortnight.

Spin-offs and small splits are often listed weeks after they came into force. One that is found then corrects the
figures of completed batches (see `corrections.after_split`). The reconciler offers the jobs, because a batch that was
made by an older version has none; each is offered once for its batch and Sunday, also later in that week if no
service ran on the Sunday itself.
"""

from datetime import date, datetime, timedelta
from uuid import UUID

import structlog
from structlog.contextvars import bind_contextvars

from app.domain import calendar
from app.domain.model import Batch
from app.errors import AlphaMondayError, TryAgainAt
from app.store import batches
from app.store.rows import Conn
from jobs import alerts, messages, queue_tables, splits
from jobs.context import Context
from jobs.queue import Retry, app, tools

log = structlog.get_logger()

# How many requests of the day's quota must be left after each question: a Monday's four (SPY and three picks), and
# eight more for one proposed ticker that the provider does not know (five attempts, then three other picks). A Monday
# with more refused tickers than that may have to wait for the quota.
RESERVE = 12

_WEEK = timedelta(days=7)


@app.task(name="look_for_splits", retry=Retry())
async def look_for_splits(batch_id: str, day: int) -> None:
    """Ask once more for the splits of a completed batch's tickers, on a Sunday after its fortnight or in that week."""
    async with alerts.quota_watched(tools()):
        await look(tools(), UUID(batch_id), day)


async def look(tools: Context, batch_id: UUID, day: int) -> None:
    """
    Ask for the splits of a batch's tickers that were not asked for since the Sunday `day`, while there is room.

    Raises TryAgainAt the next day when there is none, when the provider does not answer, or when a split of the
    fortnight cannot be read; in the end the week is over, and nothing is owed.
    """
    async with tools.pool.connection() as conn:
        batch = await batches.get(conn, batch_id)
        picks = await batches.picks_of(conn, batch_id)
    if batch is None:
        log.warning("there is no such batch")
        return
    bind_contextvars(run_date=str(batch.run_date), step="splits")
    tickers = [batch.benchmark_symbol, *(pick.ticker for pick in picks if not pick.ended)]
    days = (calendar.today(tools.now()) - calendar.checkpoint_date(batch.run_date, day)).days
    # Each day begins with another one: a ticker that the provider does not answer for keeps no other from its turn.
    turn = days % len(tickers)
    begins_at = _begins_at(batch.run_date, day)
    if tools.now() < begins_at:  # by this process's clock; the one that offered the job was ahead of it
        raise TryAgainAt(f"The look for late splits begins at {begins_at:%Y-%m-%d %H:%M} UTC.", begins_at)
    for ticker in (*tickers[turn:], *tickers[:turn]):
        if not _is_open(batch.run_date, day, tools.now()):
            log.info("the week for late splits is over", day=day, next=ticker)
            return
        await _ask(tools, batch, day, ticker)


async def _ask(tools: Context, batch: Batch, day: int, ticker: str) -> None:
    tomorrow = calendar.at(calendar.today(tools.now()) + timedelta(days=1), calendar.RETAKE)
    if await _left_today(tools) <= RESERVE:
        raise TryAgainAt("The day's quota is kept for what cannot wait.", tomorrow)
    assert batch.trading_day, "a completed batch has a baseline"
    since = calendar.due_at(batch.run_date, day)
    needed = splits.NeededDays(batch.trading_day, calendar.checkpoint_date(batch.run_date, calendar.FORTNIGHT[-1]))
    try:
        await splits.look(tools, ticker, since, calendar.asked_since(tools.now()), needed=needed)
    except TryAgainAt:
        raise
    except AlphaMondayError as error:
        log.warning("splits not learnt", ticker=ticker, reason=str(error))
        raise TryAgainAt("The provider did not say which splits there are.", tomorrow) from None


async def _left_today(tools: Context) -> int:
    """Return how many requests the day's limit leaves: the longest of the provider's limits is the last."""
    async with tools.pool.connection() as conn:
        left = await tools.prices.ledger.left(conn, tools.now())
    return left.requests[-1]


def _begins_at(run_date: date, day: int) -> datetime:
    """Return when a look may begin: after the morning's own questions, whose answers serve it too."""
    return calendar.at(calendar.checkpoint_date(run_date, day), calendar.RETAKE)


def _is_open(run_date: date, day: int, now: datetime) -> bool:
    end = calendar.at(calendar.checkpoint_date(run_date, day) + _WEEK, calendar.DUE)
    return _begins_at(run_date, day) <= now < end


async def offer(conn: Conn, tools: Context) -> int:
    """Put a job into the queue for each completed batch and Sunday whose time is there and that never had one."""
    now = tools.now()
    today = calendar.today(now)
    first = calendar.checkpoint_date(today, -calendar.LATE_SUNDAYS[-1] - _WEEK.days)
    last = calendar.checkpoint_date(today, -calendar.LATE_SUNDAYS[0])
    found = await batches.completed_between(conn, first, last)
    wanted = [(batch, day) for batch in found for day in calendar.LATE_SUNDAYS if _is_open(batch.run_date, day, now)]
    if not wanted:
        return 0
    known = await queue_tables.jobs_by_checkpoint(conn, look_for_splits.name)
    jobs = [
        look_for_splits.configure(schedule_at=now, priority=messages.LAST).job.evolve(
            task_kwargs={"batch_id": str(batch.id), "day": day}
        )
        for batch, day in wanted
        if (str(batch.id), str(day)) not in known
    ]
    if jobs:
        await app.job_manager.batch_defer_jobs_async(jobs, connection=conn)
    return len(jobs)
