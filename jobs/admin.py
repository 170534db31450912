"""What an operator does to the queue's jobs, and what each job is about."""

from collections.abc import Sequence
from datetime import date, datetime

from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.errors import Refused
from app.store import batches
from app.store.rows import Conn
from jobs import queue_tables, strikes
from jobs.daily import take_checkpoint
from jobs.late_splits import look_for_splits
from jobs.queue_tables import Found
from jobs.weekly import pick_week

# What jobs are about, by job: a Monday and, of a checkpoint, its day.
Subjects = dict[int, tuple[date, int | None]]


async def get(conn: Conn, id: int) -> Found:
    """Return a job; refuse an id that is nobody's."""
    return _refused_if_none(id, await queue_tables.get(conn, id))


async def _held(conn: Conn, id: int) -> Found:
    """Return a job that no other process can change before this transaction ends; refuse an id that is nobody's."""
    return _refused_if_none(id, await queue_tables.hold(conn, id))


def _refused_if_none(id: int, job: Found | None) -> Found:
    if job is None:
        raise Refused(f"There is no job {id}: `alpha-monday jobs list` shows those there are.")
    return job


# The tasks whose jobs name a batch and a day.
_OF_A_DAY = (take_checkpoint.name, look_for_splits.name)


async def subjects(conn: Conn, found: Sequence[Found]) -> Subjects:
    """Return what jobs are about, by job: a Monday and, of a checkpoint, its day; what names none is left out."""
    named = {str(batch_id(SERIES, monday)): monday for monday in await batches.run_dates(conn, SERIES)}
    about: Subjects = {}
    for job in found:
        match job.args:
            case {"timestamp": int(timestamp)} if job.task == pick_week.name and (monday := _monday(timestamp)):
                about[job.id] = monday, None
            case {"batch_id": str(batch), "day": int(day)} if job.task in _OF_A_DAY and batch in named:
                about[job.id] = named[batch], day
    return about


def _monday(timestamp: int) -> date | None:
    """Return the Monday that a weekly job's tick belongs to."""
    try:
        monday = calendar.today(datetime.fromtimestamp(timestamp, calendar.NEW_YORK))
    except (OverflowError, ValueError, OSError):  # out of any calendar, so not from a tick of ours
        return None
    return monday if monday.weekday() == 0 else None


async def retry(conn: Conn, id: int, now: datetime) -> int:
    """
    Have a job done again; return the id under which it is.

    The queue knows a way back for `failed` and `doing` only, and none once an abort was asked for: otherwise the same
    task is deferred with the same arguments, as a new job. What counted against the job is forgotten.
    """
    job = await _held(conn, id)
    match job.status:
        case "todo":
            raise Refused(f"Job {id} waits already{_until(job)}: nothing is to be retried.")
        case "doing":
            raise Refused(
                f"Job {id} runs, under worker {job.worker_id}, which gave a sign of life {job.silent or 0:.0f} s ago. "
                "Let it finish; if its service is stopped or dies, it is put back by itself."
            )
        case "succeeded":
            raise Refused(f"Job {id} has succeeded: nothing is left to do.")
    if job.status != "stalled":
        await _refuse_what_would_do_nothing(conn, job, now)
    await strikes.forget(conn, id)
    if job.status in ("failed", "stalled") and not job.abort_requested:
        await queue_tables.retry(conn, id)
        return id
    if job.status == "stalled":  # whoever asked for its end gets it
        await queue_tables.abort(conn, id)
    return await queue_tables.defer_copy(conn, id)


async def _refuse_what_would_do_nothing(conn: Conn, job: Found, now: datetime) -> None:
    """Refuse a job whose Monday is over, or that has another like it."""
    monday, _ = (await subjects(conn, [job])).get(job.id, (None, None))
    if job.task == pick_week.name and monday and monday < calendar.today(now):
        raise Refused(f"Job {job.id} belongs to the Monday {monday}, which is over: picks are never back-dated.")
    if other := await queue_tables.find_duplicate(conn, job.id):
        raise Refused(f"Job {other} has the same task and arguments as job {job.id}, and waits or runs already.")


async def cancel(conn: Conn, id: int) -> Found:
    """Let a job that waits never run; return it as it was."""
    job = await _held(conn, id)
    match job.status:
        case "doing":
            raise Refused(
                f"Job {id} runs, under worker {job.worker_id}, and only what waits can be cancelled. Let it finish; "
                "if it must not, stop its service, which puts it back, and cancel it then."
            )
        case "stalled":
            raise Refused(
                f"Job {id} was left behind by a worker that is gone, and only what waits can be cancelled: "
                f"`alpha-monday jobs retry {id}` puts it back."
            )
        case "failed" | "cancelled" | "aborted" | "succeeded":
            raise Refused(f"Job {id} has ended ({job.status}) and does not run again by itself.")
    await queue_tables.cancel(conn, id)
    return job


def _until(job: Found) -> str:
    at = job.scheduled_at and job.scheduled_at.astimezone(calendar.NEW_YORK)
    return f", for {at:%A, %Y-%m-%d %H:%M} in New York" if at else ""
