"""
What a person asks of the queue's jobs and does to them, where Procrastinate's own shell has no answer.

A job that is `doing` under a worker that is gone, or silent for too long, is called `stalled` here. Who is silent is a
matter of real time, so of Postgres's own now().
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from msgspec import Struct
from psycopg.rows import scalar_row

from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.errors import Refused
from app.store import batches
from app.store.rows import Conn, row_of
from jobs.daily import take_checkpoint
from jobs.queue import STALLED_AFTER
from jobs.weekly import pick_week

# The queue's own words, and ours.
STATUSES = ("todo", "doing", "stalled", "failed", "cancelled", "aborted", "succeeded")
UNFINISHED = ("todo", "doing", "stalled", "failed")


# What jobs are about, by job: a Monday and, of a checkpoint, its day.
Subjects = dict[int, tuple[date, int | None]]


class Found(Struct, frozen=True):
    """
    A job as it stands. `silent` is for how many seconds its worker gave no sign of life, None if that is gone.

    `surprises` and `deaths` are what counts against it; the queue's own attempts hold waits and shutdowns, too.
    """

    id: int
    task: str
    status: str
    args: Any
    scheduled_at: datetime | None
    attempts: int
    surprises: int
    deaths: int
    queue: str
    priority: int
    lock: str | None
    queueing_lock: str | None
    abort_requested: bool
    worker_id: int | None
    silent: float | None


class Happened(Struct, frozen=True):
    """One of the events that the queue writes down of a job, in real time; when it is scheduled, in the jobs' own."""

    type: str
    at: datetime


class Silent(Struct, frozen=True):
    """A worker, and for how many seconds it gave no sign of life."""

    id: int
    last_heartbeat: datetime
    silent: float

    @property
    def lives(self) -> bool:
        """Return whether it counts as alive."""
        return self.silent <= STALLED_AFTER


class Counted(Struct, frozen=True):
    """How many jobs of a task have a status, the queue's own."""

    task: str
    status: str
    jobs: int


class Upkeep(Struct, frozen=True):
    """When upkeep made its last round, and what the last round that mended something mended."""

    last_round_at: datetime
    last_mended_at: datetime | None
    mended: dict[str, Any]


async def find(conn: Conn, statuses: Sequence[str], task: str | None, limit: int) -> list[Found]:
    """Return jobs: those that run, those that failed, those that wait, the next one first, then the newest first."""
    return await _select(
        conn,
        """
        WHERE found.status = ANY(%(statuses)s) AND (%(task)s::text IS NULL OR task = %(task)s)
        ORDER BY array_position(ARRAY['stalled', 'doing', 'failed', 'todo'], found.status) NULLS LAST,
            CASE WHEN found.status = 'todo' THEN coalesce(scheduled_at, 'epoch') END,
            CASE WHEN found.status = 'todo' THEN found.id ELSE -found.id END
        LIMIT %(limit)s
        """,
        statuses=list(statuses),
        task=task,
        limit=limit,
    )


async def get(conn: Conn, id: int) -> Found:
    """Return a job; refuse an id that is nobody's."""
    found = await _select(conn, "WHERE found.id = %(id)s", id=id)
    if not found:
        raise Refused(f"There is no job {id}: `alpha-monday jobs list` shows those there are.")
    return found[0]


async def _select(conn: Conn, where: str, **values: object) -> list[Found]:
    sql = """
    SELECT *
    FROM (
        SELECT
            jobs.id,
            task_name AS task,
            CASE
                WHEN jobs.status = 'doing'
                    AND (workers.id IS NULL OR last_heartbeat < now() - make_interval(secs => %(stalled_after)s))
                    THEN 'stalled'
                ELSE jobs.status::text
            END AS status,
            args,
            scheduled_at,
            attempts,
            coalesce(surprises, 0) AS surprises,
            coalesce(deaths, 0) AS deaths,
            queue_name AS queue,
            priority,
            lock,
            queueing_lock,
            abort_requested,
            worker_id,
            extract(epoch FROM now() - last_heartbeat)::float8 AS silent
        FROM procrastinate_jobs jobs
            LEFT JOIN procrastinate_workers workers ON workers.id = jobs.worker_id
            LEFT JOIN operations.strikes ON strikes.job_id = jobs.id
    ) found
    """
    async with conn.cursor(row_factory=row_of(Found)) as cursor:
        await cursor.execute((sql + where).encode(), {"stalled_after": STALLED_AFTER, **values})
        return await cursor.fetchall()


async def events_of(conn: Conn, id: int) -> list[Happened]:
    """Return what happened to a job, in order."""
    async with conn.cursor(row_factory=row_of(Happened)) as cursor:
        await cursor.execute(
            "SELECT type::text, at FROM procrastinate_events WHERE job_id = %s ORDER BY procrastinate_events.id", (id,)
        )
        return await cursor.fetchall()


async def workers(conn: Conn) -> list[Silent]:
    """Return the workers that have signed on and not off, whoever was heard last first."""
    async with conn.cursor(row_factory=row_of(Silent)) as cursor:
        await cursor.execute(
            """
            SELECT id, last_heartbeat, extract(epoch FROM now() - last_heartbeat)::float8 AS silent
            FROM procrastinate_workers
            ORDER BY last_heartbeat DESC
            """
        )
        return await cursor.fetchall()


async def counts(conn: Conn) -> list[Counted]:
    """Return how many jobs there are, by task and status."""
    async with conn.cursor(row_factory=row_of(Counted)) as cursor:
        await cursor.execute(
            """
            SELECT task_name AS task, status::text, count(*) AS jobs
            FROM procrastinate_jobs
            GROUP BY task_name, procrastinate_jobs.status
            ORDER BY task_name, procrastinate_jobs.status
            """
        )
        return await cursor.fetchall()


async def waiting_since(conn: Conn, at: datetime) -> datetime | None:
    """
    Return when the job that waits longest, although it may run, was due; None if there is none at `at`.

    One without a time was due when it was deferred or put back.
    """
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT min(since)
        FROM procrastinate_jobs
        CROSS JOIN LATERAL (
            SELECT coalesce(scheduled_at, max(at)) AS since
            FROM procrastinate_events
            WHERE job_id = procrastinate_jobs.id
        ) waiting
        WHERE status = 'todo' AND since <= %s
        """,
        (at,),
    )
    return await cursor.fetchone()


async def upkeep(conn: Conn) -> Upkeep | None:
    """Return what upkeep wrote down of itself, or None if it never made a round."""
    async with conn.cursor(row_factory=row_of(Upkeep)) as cursor:
        await cursor.execute("SELECT last_round_at, last_mended_at, mended FROM operations.upkeep")
        return await cursor.fetchone()


async def subjects(conn: Conn, found: Sequence[Found]) -> Subjects:
    """Return what jobs are about, by job: a Monday and, of a checkpoint, its day; what names none is left out."""
    named = {str(batch_id(SERIES, monday)): monday for monday in await batches.run_dates(conn, SERIES)}
    about: Subjects = {}
    for job in found:
        match job.args:
            case {"timestamp": int(timestamp)} if job.task == pick_week.name and (monday := _monday(timestamp)):
                about[job.id] = monday, None
            case {"batch_id": str(batch), "day": int(day)} if job.task == take_checkpoint.name and batch in named:
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
    await conn.execute("DELETE FROM operations.strikes WHERE job_id = %s", (id,))
    if job.status in ("failed", "stalled") and not job.abort_requested:
        await conn.execute("SELECT procrastinate_retry_job_v2(%s, NULL, NULL, NULL, NULL)", (id,))
        return id
    if job.status == "stalled":  # whoever asked for its end gets it
        await conn.execute("SELECT procrastinate_finish_job_v1(%s, 'aborted', false)", (id,))
    return await _defer_alike(conn, id)


async def _refuse_what_would_do_nothing(conn: Conn, job: Found, now: datetime) -> None:
    """Refuse a job whose Monday is over, or that has another like it."""
    monday, _ = (await subjects(conn, [job])).get(job.id, (None, None))
    if job.task == pick_week.name and monday and monday < calendar.today(now):
        raise Refused(f"Job {job.id} belongs to the Monday {monday}, which is over: picks are never back-dated.")
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT other.id
        FROM procrastinate_jobs other JOIN procrastinate_jobs job USING (task_name, args)
        WHERE job.id = %s AND other.id <> job.id AND other.status IN ('todo', 'doing')
        ORDER BY other.id
        """,
        (job.id,),
    )
    if other := await cursor.fetchone():
        raise Refused(f"Job {other} has the same task and arguments as job {job.id}, and waits or runs already.")


async def _defer_alike(conn: Conn, id: int) -> int:
    """Put a new job into the queue that is as this one was when it was deferred."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[
            ROW(queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)::procrastinate_job_to_defer_v1
        ]))
        FROM procrastinate_jobs
        WHERE id = %s
        """,
        (id,),
    )
    return int(await cursor.fetchone() or 0)


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
    await conn.execute("SELECT procrastinate_cancel_job_v1(%s, false, false)", (id,))
    return job


async def _held(conn: Conn, id: int) -> Found:
    """Return a job that nobody else can change before this transaction ends."""
    await conn.execute("SELECT FROM procrastinate_jobs WHERE id = %s FOR UPDATE", (id,))
    return await get(conn, id)


def _until(job: Found) -> str:
    at = job.scheduled_at and job.scheduled_at.astimezone(calendar.NEW_YORK)
    return f", for {at:%A, %Y-%m-%d %H:%M} in New York" if at else ""
