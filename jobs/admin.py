"""Commands on the queue's jobs: show, retry and cancel a job, and find its Monday and day."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.errors import Refused
from app.store import batches
from app.store.rows import Conn
from jobs import queue_tables, strikes
from jobs.daily import take_checkpoint
from jobs.late_splits import look_for_splits
from jobs.queue_tables import JobRow
from jobs.timestamps import check_stamp
from jobs.weekly import pick_week


class Subject(NamedTuple):
    """What a job is about: a Monday of a series and, for a checkpoint or late splits, a day."""

    run_date: date
    day: int | None
    series: str


# The subject of each job, by the job's id.
Subjects = dict[int, Subject]

# The tasks whose jobs have a batch and a day as arguments.
_TASKS_WITH_DAY = (take_checkpoint.name, look_for_splits.name)


async def get(conn: Conn, id: int) -> JobRow:
    """Return a job. Raise Refused if no job has that id."""
    return _require_job(id, await queue_tables.get_job(conn, id))


async def _lock(conn: Conn, id: int) -> JobRow:
    """Lock a job until the transaction ends, and return it. Raise Refused if no job has that id."""
    return _require_job(id, await queue_tables.lock_job(conn, id))


def _require_job(id: int, job: JobRow | None) -> JobRow:
    """Return `job`. Raise Refused if it is None."""
    if job is None:
        raise Refused(f"There is no job {id}: `alpha-monday jobs list` shows the jobs.")
    return job


async def subjects(conn: Conn, jobs: Sequence[JobRow]) -> Subjects:
    """
    Return the Monday of a series, and the day, that each job is about.

    Only weekly jobs, jobs of checkpoints and late splits, and checks of a batch's timestamp are
    about a Monday. The result has only those of them whose arguments name a known Monday.
    """
    known = {}
    for series, run_date in await batches.list_mondays(conn):
        known[str(batch_id(series, run_date))] = series, run_date
    subjects: Subjects = {}
    for job in jobs:
        match job.args:
            case {"timestamp": int(timestamp)} if job.task == pick_week.name:
                monday = _monday_of_tick(timestamp)
                if monday:
                    series = str(job.args.get("series") or SERIES)
                    subjects[job.id] = Subject(monday, None, series)
            case {"batch_id": str(id), "day": int(day)} if (
                job.task in _TASKS_WITH_DAY and id in known
            ):
                series, run_date = known[id]
                subjects[job.id] = Subject(run_date, day, series)
            case {"batch_id": str(id)} if job.task == check_stamp.name and id in known:
                series, run_date = known[id]
                subjects[job.id] = Subject(run_date, None, series)
    return subjects


def _monday_of_tick(timestamp: int) -> date | None:
    """Return the date of a weekly job's tick, or None if that date is not a Monday."""
    try:
        day = calendar.new_york_date(datetime.fromtimestamp(timestamp, calendar.NEW_YORK))
    except (OverflowError, ValueError, OSError):
        # The number is no time, so another program has deferred the job.
        return None
    if day.weekday() != 0:
        return None
    return day


async def retry(conn: Conn, id: int, now: datetime) -> int:
    """
    Run a job again. Return its id, or the id of its copy. Raise Refused if it cannot run again.

    The queue can put back a job that failed or is stalled, unless an abort of it was requested. A
    job that the queue cannot put back gets a copy: a new job with the same task and arguments is
    deferred. The strikes of the job are deleted.
    """
    job = await _lock(conn, id)
    _refuse_retry_of_unfinished(job)
    if job.status != "stalled":
        await _refuse_useless_retry(conn, job, now)
    await strikes.delete(conn, id)
    if job.status in ("failed", "stalled") and not job.abort_requested:
        await queue_tables.retry(conn, id)
        return id
    if job.status == "stalled":
        # An abort was requested, so this job ends, and its copy runs.
        await queue_tables.abort(conn, id)
    return await queue_tables.defer_copy(conn, id)


def _refuse_retry_of_unfinished(job: JobRow) -> None:
    """Raise Refused for a job that waits, runs or has succeeded."""
    match job.status:
        case "todo":
            raise Refused(
                f"Job {job.id} is waiting already{_scheduled_time(job)}: there is nothing to retry."
            )
        case "doing":
            raise Refused(
                f"Job {job.id} is running under worker {job.worker_id}, which sent its last"
                f" heartbeat {job.silent or 0:.0f} s ago. Let it finish. If its service stops or"
                " dies, the job is put back automatically."
            )
        case "succeeded":
            raise Refused(f"Job {job.id} has succeeded: there is nothing to retry.")


async def _refuse_useless_retry(conn: Conn, job: JobRow, now: datetime) -> None:
    """Raise Refused for a weekly job of a past Monday, or if a copy of the job waits or runs."""
    subject = (await subjects(conn, [job])).get(job.id)
    monday = subject.run_date if subject else None
    if job.task == pick_week.name and monday and monday < calendar.new_york_date(now):
        raise Refused(
            f"Job {job.id} belongs to the Monday {monday}, which is over: picks are never"
            " back-dated."
        )
    duplicate = await queue_tables.find_duplicate(conn, job.id)
    if duplicate:
        raise Refused(
            f"Job {duplicate} has the same task and arguments as job {job.id}, and waits or runs"
            " already."
        )


async def cancel(conn: Conn, id: int) -> JobRow:
    """
    Cancel a waiting job. Return the job as it was before the cancellation.

    Raise Refused for a job that does not wait.
    """
    job = await _lock(conn, id)
    match job.status:
        case "doing":
            raise Refused(
                f"Job {id} is running under worker {job.worker_id}, and only a waiting job can be"
                " cancelled. Let it finish, or stop its service, which puts the job back, and"
                " cancel it then."
            )
        case "stalled":
            raise Refused(
                f"Job {id} was left behind by a worker that is gone, and only a waiting job can be"
                f" cancelled: `alpha-monday jobs retry {id}` puts it back."
            )
        case "failed" | "cancelled" | "aborted" | "succeeded":
            raise Refused(
                f"Job {id} has ended ({job.status}) and does not run again automatically."
            )
    await queue_tables.cancel(conn, id)
    return job


def _scheduled_time(job: JobRow) -> str:
    """
    Return the scheduled time of a job, to follow a word such as "already".

    Example: ", for Monday, 2026-11-23 09:00 in New York". The text is empty if the job has no
    scheduled time.
    """
    if job.scheduled_at is None:
        return ""
    local = job.scheduled_at.astimezone(calendar.NEW_YORK)
    return f", for {local:%A, %Y-%m-%d %H:%M} in New York"
