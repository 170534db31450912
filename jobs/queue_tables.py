"""
The queue's tables: every SQL statement of ours on them, one function for each question.

The tables belong to Procrastinate. Its own API, the job manager, is used where it gives the same
answer in the caller's transaction, which is where a method takes `connection=`:
`get_job_status_async`, `cancel_job_by_id_async` and, wherever jobs are deferred,
`batch_defer_jobs_async`. Its other methods use the queue's own pool: they run outside of the
caller's transaction, and a command does not open that pool. A function that replaces such a method
names it; a comment "no method in the API" means that the API does not answer the question.

The caller's connection reaches the schema `queue` by its search path (`pools.transaction`), because
Procrastinate's functions need it. Where a caller has none, the statement names the schema.

A job that is `doing` under a worker that is gone, or silent for too long, is called `stalled`.
Heartbeats and events have real times, in a rehearsal too, so they are compared with Postgres's
`now()`, and not with the jobs' clock.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
from msgspec import Struct
from procrastinate.exceptions import ConnectorException, NoResult
from psycopg import sql
from psycopg.rows import scalar_row

from app.store.rows import Conn, row_of
from jobs.queue import STALLED_AFTER, app

# The statuses of jobs that will still run or are running.
LIVE = ("todo", "doing")

# The same as a command shows them: `stalled` is ours, the queue calls such a job `doing`.
NOT_ENDED = (*LIVE, "stalled")
UNFINISHED = (*NOT_ENDED, "failed")

_ENDED = ("failed", "cancelled", "aborted", "succeeded")
QUEUE_STATUSES = (*LIVE, *_ENDED)
STATUSES = (*NOT_ENDED, *_ENDED)

# Written into a statement, not passed as a parameter: a partial index serves only constants.
_LIVE = sql.SQL(", ").join(sql.Literal(status) for status in LIVE)


class Found(Struct, frozen=True):
    """
    A job as it stands.

    `silent` is for how many seconds its worker gave no sign of life, None if that is gone.

    `surprises` and `deaths` are what counts against it; the queue's own attempts hold waits and
    shutdowns, too.
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
    """
    One of the events that the queue writes down of a job.

    Its time is real, but for the time at which a job is scheduled: that is the jobs' own.
    """

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


class PutBack(Struct, frozen=True):
    """A stalled job that was put back or failed, and how many times its process has died."""

    id: int
    task: str
    deaths: int


# What is there


async def find(conn: Conn, statuses: Sequence[str], task: str | None, limit: int) -> list[Found]:
    """
    Return jobs with these statuses, of one task or all: what stalled, runs, failed, waits, then the rest.

    Of those that wait the next one is first, of all others the newest.
    """
    # Instead of job_manager.list_jobs_async: no `connection=`, no `stalled`, one status at a time.
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


async def get(conn: Conn, id: int) -> Found | None:
    """Return a job, or None if there is none of that id."""
    found = await _select(conn, "WHERE found.id = %(id)s", id=id)
    return found[0] if found else None


async def hold(conn: Conn, id: int) -> Found | None:
    """Return a job that no other process can change before this transaction ends, if it exists."""
    # No method in the API. Two statements, so that the second sees what was committed while the
    # first waited for the row.
    await conn.execute("SELECT FROM procrastinate_jobs WHERE id = %s FOR UPDATE", (id,))
    return await get(conn, id)


async def _select(conn: Conn, where: str, **values: object) -> list[Found]:
    statement = """
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
        await cursor.execute((statement + where).encode(), {"stalled_after": STALLED_AFTER, **values})
        return await cursor.fetchall()


async def is_live(conn: Conn, id: int) -> bool:
    """Return whether a job waits or runs; one that was deleted does neither."""
    try:
        with _unwrapped():
            status = await app.job_manager.get_job_status_async(id, connection=conn)
    except NoResult:
        return False
    return status.value in LIVE


async def find_duplicate(conn: Conn, id: int) -> int | None:
    """Return the oldest other job of the same task and arguments that waits or runs, or None."""
    # No method in the API.
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        sql.SQL(
            """
            SELECT other.id
            FROM procrastinate_jobs other JOIN procrastinate_jobs job USING (task_name, args)
            WHERE job.id = %s AND other.id <> job.id AND other.status IN ({live})
            ORDER BY other.id
            """
        ).format(live=_LIVE),
        (id,),
    )
    return await cursor.fetchone()


async def events_of(conn: Conn, id: int) -> list[Happened]:
    """Return what happened to a job, in order."""
    # No method in the API.
    async with conn.cursor(row_factory=row_of(Happened)) as cursor:
        await cursor.execute(
            "SELECT type::text, at FROM procrastinate_events WHERE job_id = %s ORDER BY procrastinate_events.id", (id,)
        )
        return await cursor.fetchall()


async def counts(conn: Conn) -> list[Counted]:
    """Return how many jobs there are, by task and status."""
    # Instead of job_manager.list_tasks_async: no `connection=`, and one scan of the table per task.
    async with conn.cursor(row_factory=row_of(Counted)) as cursor:
        await cursor.execute(
            """
            SELECT task_name AS task, status::text, count(*) AS jobs
            FROM procrastinate_jobs
            GROUP BY task_name, procrastinate_jobs.status
            ORDER BY task_name COLLATE "C", procrastinate_jobs.status
            """
        )
        return await cursor.fetchall()


async def waiting_since(conn: Conn, at: datetime) -> datetime | None:
    """
    Return when the job that waits longest, although it may run, was due; None if none is at `at`.

    One without a time was due when it was deferred or put back.
    """
    # No method in the API.
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


# Workers


async def workers(conn: Conn) -> list[Silent]:
    """Return the workers that have signed on and not off, the one heard last first."""
    # No method in the API: it writes heartbeats and does not read them.
    async with conn.cursor(row_factory=row_of(Silent)) as cursor:
        await cursor.execute(
            """
            SELECT id, last_heartbeat, extract(epoch FROM now() - last_heartbeat)::float8 AS silent
            FROM procrastinate_workers
            ORDER BY last_heartbeat DESC
            """
        )
        return await cursor.fetchall()


async def has_live_worker(conn: Conn) -> bool:
    """Return whether a worker of any process is alive."""
    # No method in the API.
    cursor = await conn.execute(
        "SELECT EXISTS (SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s))",
        (STALLED_AFTER,),
    )
    (lives,) = await cursor.fetchone() or (False,)
    return bool(lives)


async def are_installed(conn: Conn) -> bool:
    """Return whether the queue's tables are in the database. Needs no search path."""
    # Instead of job_manager.check_connection_async: no `connection=`.
    cursor = await conn.execute("SELECT to_regclass('queue.procrastinate_workers') IS NOT NULL")
    (there,) = await cursor.fetchone() or (False,)
    return bool(there)


# What jobs ask about other jobs of their kind. The API finds jobs by task, but not by arguments.


async def periodic_jobs(
    conn: Conn,
    task: str,
    since: datetime,
    statuses: Sequence[str],
    *,
    until: datetime | None = None,
    before: int | None = None,
) -> list[int]:
    """
    Return the ids of a periodic task's jobs that have one of these statuses, oldest first.

    Only those whose tick is at `since` or later and before `until`, and that are older than job
    `before`.
    """
    cursor = await conn.execute(
        """
        SELECT id
        FROM procrastinate_jobs
        WHERE task_name = %s AND status::text = ANY(%s) AND id < coalesce(%s, 9223372036854775807)
            AND jsonb_typeof(args -> 'timestamp') = 'number' AND args -> 'timestamp' >= to_jsonb(%s::bigint)
            AND args -> 'timestamp' < to_jsonb(coalesce(%s::bigint, 9223372036854775807))
        ORDER BY id
        """,
        (task, list(statuses), before, int(since.timestamp()), until and int(until.timestamp())),
    )
    return [id for (id,) in await cursor.fetchall()]


async def is_older_checkpoint_running(conn: Conn, task: str, run_date: date, day: int) -> bool:
    """
    Return whether a job of `task` takes an earlier checkpoint: of an older batch, or an earlier day.

    A retake does not count.
    """
    cursor = await conn.execute(
        """
        SELECT
        FROM procrastinate_jobs
        JOIN batches ON batches.id::text = args ->> 'batch_id'
        WHERE task_name = %s AND procrastinate_jobs.status = 'doing' AND NOT args ? 'retake'
            AND (run_date, args -> 'day') < (%s, to_jsonb(%s::integer))
        """,
        (task, run_date, day),
    )
    return cursor.rowcount > 0


# A checkpoint as a job's arguments name it: batch and day as text, because the arguments of a job
# that another program deferred may hold anything.
Named = tuple[str | None, str | None]


async def jobs_by_checkpoint(conn: Conn, task: str) -> dict[Named, tuple[bool, int | None]]:
    """Return by checkpoint whether it has a live job, and the newest of its jobs that failed."""
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT
                args ->> 'batch_id',
                args ->> 'day',
                bool_or(status IN ({live})),
                max(id) FILTER (WHERE status = 'failed')
            FROM procrastinate_jobs
            WHERE task_name = %s
            GROUP BY 1, 2
            """
        ).format(live=_LIVE),
        (task,),
    )
    return {(batch, day): (live, failed) for batch, day, live, failed in await cursor.fetchall()}


async def retakes(conn: Conn, task: str, why: str) -> set[Named]:
    """Return the checkpoints that have a retake deferred as `why`, or any live retake."""
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT args ->> 'batch_id', args ->> 'day'
            FROM procrastinate_jobs
            WHERE task_name = %s AND (args ->> 'retake' = %s OR (args ? 'retake' AND status IN ({live})))
            """
        ).format(live=_LIVE),
        (task, why),
    )
    return set(await cursor.fetchall())


async def without_a_job(conn: Conn, task: str, argument: str, names: Sequence[str]) -> list[str]:
    """
    Return which of `names` are the `argument` of no job that may still do its work.

    A cancelled or aborted job counts as one that may: an operator ended it on purpose. So does a
    job with strikes, even if it failed: it must not begin again.
    """
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT name
            FROM unnest(%(names)s::text[]) AS name
            WHERE NOT EXISTS (
                SELECT
                FROM procrastinate_jobs
                WHERE task_name = %(task)s AND args ->> %(argument)s = name
                    AND (status IN ({live}, 'cancelled', 'aborted')
                        OR EXISTS (SELECT FROM operations.strikes WHERE job_id = procrastinate_jobs.id))
            )
            """
        ).format(live=_LIVE),
        {"names": list(names), "task": task, "argument": argument},
    )
    return [name for (name,) in await cursor.fetchall()]


async def running_before(conn: Conn, tasks: Sequence[str], id: int) -> int:
    """Return how many running jobs of these tasks are older than job `id`. Needs no search path."""
    cursor = await conn.execute(
        "SELECT FROM queue.procrastinate_jobs WHERE task_name = ANY(%s) AND status = 'doing' AND id < %s",
        (list(tasks), id),
    )
    return cursor.rowcount


# What is done to jobs


async def cancel(conn: Conn, id: int) -> None:
    """Let a job that waits never run."""
    with _unwrapped():
        await app.job_manager.cancel_job_by_id_async(id, connection=conn)


async def retry(conn: Conn, id: int) -> None:
    """Let a job that failed or stalled run again, at once in real and in simulated time."""
    # Instead of job_manager.retry_job_by_id_async: no `connection=`.
    await conn.execute("SELECT procrastinate_retry_job_v2(%s, NULL, NULL, NULL, NULL)", (id,))


async def abort(conn: Conn, id: int) -> None:
    """End a stalled job for which an abort was requested."""
    # Instead of job_manager.finish_job_by_id_async: no `connection=`.
    await conn.execute("SELECT procrastinate_finish_job_v1(%s, 'aborted', false)", (id,))


async def defer_copy(conn: Conn, id: int) -> int:
    """Defer a new job that is like this one was when it was deferred; return its id."""
    # Instead of job_manager.batch_defer_jobs_async: it takes only arguments that are a JSON object,
    # and a job that another program deferred may have others.
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


async def put_back_stalled(conn: Conn, stalled_after: float, most_deaths: int, lock: str) -> list[PutBack]:
    """
    Let the stalled jobs run again, at once, and count the death of their process.

    From its second death on a job has `lock`; at `most_deaths` it fails instead. A job that another
    transaction holds is left for the next round.
    """
    # Instead of job_manager.get_stalled_jobs and retry_job: no `connection=`. Finding, counting and
    # retrying must be one transaction, or a job could be put back while another process ends it.
    async with conn.cursor(row_factory=row_of(PutBack)) as cursor:
        await cursor.execute(
            """
            WITH stalled AS (
                SELECT procrastinate_jobs.id, task_name
                FROM procrastinate_jobs
                LEFT JOIN procrastinate_workers ON procrastinate_workers.id = procrastinate_jobs.worker_id
                WHERE procrastinate_jobs.status = 'doing'
                    AND (procrastinate_workers.id IS NULL
                        OR procrastinate_workers.last_heartbeat < now() - make_interval(secs => %(stalled_after)s))
                FOR UPDATE OF procrastinate_jobs SKIP LOCKED
            ), struck AS (
                INSERT INTO operations.strikes AS known (job_id, deaths)
                SELECT id, 1
                FROM stalled
                ON CONFLICT (job_id) DO UPDATE SET deaths = known.deaths + 1
                RETURNING job_id, deaths
            )
            SELECT
                id,
                task_name AS task,
                deaths,
                CASE WHEN deaths < %(most_deaths)s
                    THEN procrastinate_retry_job_v2(
                        job_id, NULL, NULL, NULL, CASE WHEN deaths > 1 THEN %(lock)s END
                    )::text
                    ELSE procrastinate_finish_job_v1(job_id, 'failed', false)::text
                END AS done
            FROM struck JOIN stalled ON stalled.id = job_id
            """,
            {"stalled_after": stalled_after, "most_deaths": most_deaths, "lock": lock},
        )
        return await cursor.fetchall()


async def sleep_until(conn: Conn, id: int, until: datetime) -> None:
    """
    Write into a running job's row until when it sleeps, for the simulated clock to read.

    Needs no search path.
    """
    # No method in the API.
    await conn.execute(
        "UPDATE queue.procrastinate_jobs SET scheduled_at = %s WHERE id = %s AND status = 'doing'", (until, id)
    )


async def delete_finished(conn: Conn, older_than: timedelta) -> int:
    """
    Delete the jobs that ended longer ago than that, and the strikes of jobs that are gone.

    Return how many jobs were deleted.
    """
    # Instead of job_manager.delete_old_jobs: no `connection=`.
    cursor = await conn.execute(
        sql.SQL(
            """
            DELETE FROM procrastinate_jobs
            WHERE status NOT IN ({live})
                AND (SELECT max(at) FROM procrastinate_events WHERE job_id = procrastinate_jobs.id) < now() - %s
            """
        ).format(live=_LIVE),
        (older_than,),
    )
    await conn.execute(
        "DELETE FROM operations.strikes WHERE NOT EXISTS (SELECT FROM procrastinate_jobs WHERE id = job_id)"
    )
    return cursor.rowcount


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise psycopg's own error where the API wraps it: only those does the command line explain."""
    try:
        yield
    except ConnectorException as error:
        if isinstance(error.__cause__, psycopg.Error):
            raise error.__cause__ from None
        raise


# The tables as a whole, on a synchronous connection: a rehearsal asks before any pool exists.


def exist(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the queue is installed in the database. Needs no search path."""
    # Instead of job_manager.check_connection: no `connection=`.
    (there,) = conn.execute("SELECT to_regclass('queue.procrastinate_jobs') IS NOT NULL").fetchone() or (False,)
    return bool(there)


def are_used(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the queue has a job, or a worker that did not sign off. Needs no search path."""
    # No method in the API.
    (used,) = conn.execute(
        "SELECT EXISTS (SELECT FROM queue.procrastinate_workers UNION ALL SELECT FROM queue.procrastinate_jobs)"
    ).fetchone() or (False,)
    return bool(used)


def count_jobs(conn: psycopg.Connection[Any]) -> int:
    """Return how many jobs the queue has, those that ended lately included. Needs no search path."""
    (count,) = conn.execute("SELECT count(*) FROM queue.procrastinate_jobs").fetchone() or (0,)
    return int(count)
