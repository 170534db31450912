"""
Requests that are sent once a week: the rate without risk, further benchmarks and dividends.

Each kind has a time of the Sunday from which it is requested, and a job for each Sunday. The job
has until the next Sunday. Reconciliation defers the job of the newest Sunday.
"""

from datetime import date, datetime, time, timedelta
from typing import Any

from procrastinate.tasks import Task

from app.domain import calendar, request_plan
from app.store.rows import Conn
from jobs import messages, queue_tables
from jobs.queue import app

_WEEK = timedelta(weeks=1)


def begins_at(sunday: date, at: time) -> datetime:
    """Return when the requests of a Sunday begin; `at` is the time of day in New York."""
    return calendar.from_new_york(sunday, at)


def newest_sunday(now: datetime, at: time) -> date:
    """Return the newest Sunday whose requests have begun; `at` is the time of day in New York."""
    sunday = request_plan.week_sunday(calendar.new_york_date(now))
    if now < begins_at(sunday, at):
        sunday -= _WEEK
    return sunday


async def defer(conn: Conn, task: Task[Any, Any, Any], *, sunday: date, now: datetime) -> int:
    """
    Defer the job of a Sunday, unless it exists. Its only argument is `sunday`.

    Return how many jobs were deferred.
    """
    if await queue_tables.has_job(conn, task=task.name, argument="sunday", value=str(sunday)):
        return 0
    template = task.configure(schedule_at=now, priority=messages.LOWEST_PRIORITY).job
    job = template.evolve(task_kwargs={"sunday": str(sunday)})
    await app.job_manager.batch_defer_jobs_async([job], connection=conn)
    return 1
