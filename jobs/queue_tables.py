"""
All SQL statements on the queue's tables, except grants and the simulated clock's statements.

The tables belong to Procrastinate. Its API is the job manager. Three of its methods are used,
because they take `connection=`, and so work in the caller's transaction:
`get_job_status_async`, `cancel_job_by_id_async` and `batch_defer_jobs_async`. Other methods use the
queue's own pool: they run outside of the caller's transaction, and a command does not open that
pool. So functions of this module replace them. Such a function has a comment "Instead of" with the
method's name. A comment "No method in the API" means that no method does what the function does.

Most functions need a connection with the schema `queue` in its search path (`pools.transaction`),
because Procrastinate's functions need it. Functions that do not need it say so; their statements
name the schema.

The queue's status of a running job is `doing`. If its worker is gone, or has sent no heartbeat for
too long, this service calls the job `stalled`. Heartbeats and events have real times, in a
rehearsal too, so they are compared with Postgres's `now()`, and not with the jobs' clock. Only
`waiting_since` compares an event with the jobs' clock.
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

from app.domain.model import SERIES
from app.store.rows import Conn, row_factory
from jobs.queue import STALLED_AFTER, app

# The statuses of jobs that wait or run.
LIVE = ("todo", "doing")

# The statuses that commands show for jobs that have not ended. The queue itself has no status
# `stalled`: it calls such a job `doing`.
NOT_ENDED = (*LIVE, "stalled")
# The statuses that `alpha-monday jobs list` shows by default. A failed job has ended, but it may
# need the operator.
UNFINISHED = (*NOT_ENDED, "failed")

_ENDED = ("failed", "cancelled", "aborted", "succeeded")
# All statuses of the queue itself, and all that commands show.
QUEUE_STATUSES = (*LIVE, *_ENDED)
STATUSES = (*NOT_ENDED, *_ENDED)

# A part of a statement, not a parameter: Postgres uses a partial index only for constants.
_LIVE = sql.SQL(", ").join(sql.Literal(status) for status in LIVE)


class JobRow(Struct, frozen=True):
    """
    A job of the queue, with its strikes.

    `silent` is how many seconds ago its worker sent its last heartbeat. It is None if the job has
    no worker, or if the worker is gone. `surprises` is the number of the job's unexpected errors,
    and `deaths` the number of times its process died; each number has a limit at which the job
    fails. `attempts` is the queue's own number: it also counts waits and shutdowns, and has no
    limit.
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


class JobEvent(Struct, frozen=True):
    """
    An event of a job, as the queue has stored it.

    `at` is a real time, with one exception: in the event "scheduled" it is the time for which the
    job is scheduled, by the jobs' clock.
    """

    type: str
    at: datetime


class WorkerRow(Struct, frozen=True):
    """A worker; `silent` is how many seconds ago it sent its last heartbeat."""

    id: int
    last_heartbeat: datetime
    silent: float

    @property
    def is_alive(self) -> bool:
        """Return whether the worker's last heartbeat is recent enough."""
        return self.silent <= STALLED_AFTER


class JobCount(Struct, frozen=True):
    """The number of a task's jobs with one of the queue's own statuses."""

    task: str
    status: str
    jobs: int


class RunningCheckpoint(Struct, frozen=True):
    """A checkpoint that a running job takes: the series and the run date of its batch, its day."""

    series: str
    run_date: date
    day: int


class StalledJob(Struct, frozen=True):
    """
    A job that was stalled, and now is put back or has failed.

    `deaths` is the number of times its process has died, this time included.
    """

    id: int
    task: str
    deaths: int


# Reading jobs


async def find_jobs(
    conn: Conn, statuses: Sequence[str], *, task: str | None, limit: int
) -> list[JobRow]:
    """
    Return at most `limit` jobs with these statuses, of one task or of all tasks.

    Stalled jobs come first, then running, failed and waiting jobs, then the others. Waiting jobs
    are sorted by the time at which they are due, and all other jobs by id, the newest first.
    """
    # Instead of job_manager.list_jobs_async: no `connection=`, no `stalled`, one status at a time.
    return await _select(
        conn,
        """
        WHERE job_rows.status = ANY(%(statuses)s) AND (%(task)s::text IS NULL OR task = %(task)s)
        ORDER BY
            array_position(ARRAY['stalled', 'doing', 'failed', 'todo'], job_rows.status) NULLS LAST,
            CASE WHEN job_rows.status = 'todo' THEN coalesce(scheduled_at, 'epoch') END,
            CASE WHEN job_rows.status = 'todo' THEN job_rows.id ELSE -job_rows.id END
        LIMIT %(limit)s
        """,
        statuses=list(statuses),
        task=task,
        limit=limit,
    )


async def get_job(conn: Conn, id: int) -> JobRow | None:
    """Return a job, or None if no job has that id."""
    jobs = await _select(conn, "WHERE job_rows.id = %(id)s", id=id)
    if not jobs:
        return None
    return jobs[0]


async def lock_job(conn: Conn, id: int) -> JobRow | None:
    """Lock a job until the transaction ends, and return it. Return None if no job has that id."""
    # No method in the API. With two statements, the second one sees what other transactions
    # committed while the first one waited for the row.
    await conn.execute("SELECT FROM procrastinate_jobs WHERE id = %s FOR UPDATE", (id,))
    return await get_job(conn, id)


async def _select(conn: Conn, clauses: str, **values: object) -> list[JobRow]:
    """Return jobs with their status and strikes; the statement ends with `clauses`."""
    statement = """
    SELECT *
    FROM (
        SELECT
            jobs.id,
            task_name AS task,
            CASE
                WHEN jobs.status = 'doing'
                    AND (
                        workers.id IS NULL
                        OR last_heartbeat < now() - make_interval(secs => %(stalled_after)s)
                    )
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
    ) AS job_rows
    """
    async with conn.cursor(row_factory=row_factory(JobRow)) as cursor:
        await cursor.execute(
            (statement + clauses).encode(), {"stalled_after": STALLED_AFTER, **values}
        )
        return await cursor.fetchall()


async def is_live(conn: Conn, id: int) -> bool:
    """Return whether a job waits or runs. Return False for a job that was deleted."""
    try:
        with _unwrapped():
            status = await app.job_manager.get_job_status_async(id, connection=conn)
    except NoResult:
        return False
    return status.value in LIVE


async def find_duplicate(conn: Conn, id: int) -> int | None:
    """
    Return the id of another job that waits or runs and has the same task and arguments.

    If there are several such jobs, return the id of the oldest. If there is none, return None.
    """
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


async def has_later_duplicate(conn: Conn, id: int, *, due_by: datetime) -> bool:
    """
    Return whether a later job waits or runs that has the same task and arguments as job `id`.

    A job that waits counts only if it is due at `due_by` or earlier.
    """
    # No method in the API.
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT
            FROM procrastinate_jobs later JOIN procrastinate_jobs job USING (task_name, args)
            WHERE job.id = %s AND later.id > job.id AND later.status IN ({live})
                AND coalesce(later.scheduled_at, '-infinity') <= %s
            LIMIT 1
            """
        ).format(live=_LIVE),
        (id, due_by),
    )
    return cursor.rowcount > 0


async def list_events(conn: Conn, id: int) -> list[JobEvent]:
    """Return the events of a job, oldest first."""
    # No method in the API.
    async with conn.cursor(row_factory=row_factory(JobEvent)) as cursor:
        await cursor.execute(
            """
            SELECT type::text, at
            FROM procrastinate_events
            WHERE job_id = %s
            ORDER BY procrastinate_events.id
            """,
            (id,),
        )
        return await cursor.fetchall()


async def count_by_status(conn: Conn) -> list[JobCount]:
    """Return the number of jobs, by task and status."""
    # Instead of job_manager.list_tasks_async: no `connection=`, and one scan of the table per task.
    async with conn.cursor(row_factory=row_factory(JobCount)) as cursor:
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
    Return the time since which the longest waiting job is ready to run.

    Return None if no job is due at `at`, a time by the jobs' clock. A job without a scheduled time
    is due as soon as it is deferred or put back, and the time of that event is a real time. So in a
    rehearsal, such a job counts only after the simulated time has reached the time of the event.
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


async def list_workers(conn: Conn) -> list[WorkerRow]:
    """Return the registered workers, the one with the newest heartbeat first."""
    # No method in the API: it writes heartbeats and does not read them.
    async with conn.cursor(row_factory=row_factory(WorkerRow)) as cursor:
        await cursor.execute(
            """
            SELECT id, last_heartbeat, extract(epoch FROM now() - last_heartbeat)::float8 AS silent
            FROM procrastinate_workers
            ORDER BY last_heartbeat DESC
            """
        )
        return await cursor.fetchall()


async def has_live_worker(conn: Conn) -> bool:
    """Return whether any process has a live worker."""
    # No method in the API.
    cursor = await conn.execute(
        """
        SELECT EXISTS (
            SELECT
            FROM procrastinate_workers
            WHERE last_heartbeat > now() - make_interval(secs => %s)
        )
        """,
        (STALLED_AFTER,),
    )
    (is_alive,) = await cursor.fetchone() or (False,)
    return bool(is_alive)


async def has_tables(conn: Conn) -> bool:
    """Return whether the queue's tables are in the database. Needs no search path."""
    # Instead of job_manager.check_connection_async: no `connection=`.
    cursor = await conn.execute("SELECT to_regclass('queue.procrastinate_workers') IS NOT NULL")
    (is_there,) = await cursor.fetchone() or (False,)
    return bool(is_there)


# Finding jobs by their arguments. The API has no method for that.


async def periodic_jobs(
    conn: Conn,
    *,
    task: str,
    series: str,
    since: datetime,
    statuses: Sequence[str],
    until: datetime | None = None,
    before: int | None = None,
) -> list[int]:
    """
    Return the ids of a periodic task's jobs that have one of these statuses, oldest first.

    The argument `series` of these jobs is `series`; a job without this argument is of the default
    series. The argument `timestamp` is at `since` or later. If `until` is given, `timestamp` is
    before `until`; if `before` is given, the job's id is lower than `before`.
    """
    end = None
    if until:
        end = int(until.timestamp())
    cursor = await conn.execute(
        """
        SELECT id
        FROM procrastinate_jobs
        WHERE task_name = %s AND status::text = ANY(%s) AND id < coalesce(%s, 9223372036854775807)
            AND jsonb_typeof(args -> 'timestamp') = 'number'
            AND args -> 'timestamp' >= to_jsonb(%s::bigint)
            AND args -> 'timestamp' < to_jsonb(coalesce(%s::bigint, 9223372036854775807))
            AND coalesce(args ->> 'series', %s) = %s
        ORDER BY id
        """,
        (task, list(statuses), before, int(since.timestamp()), end, SERIES, series),
    )
    return [id for (id,) in await cursor.fetchall()]


async def list_running_checkpoints(conn: Conn, task: str) -> list[RunningCheckpoint]:
    """Return the checkpoints that jobs of `task` are taking. Retakes do not count."""
    # No method in the API.
    async with conn.cursor(row_factory=row_factory(RunningCheckpoint)) as cursor:
        await cursor.execute(
            """
            SELECT series, run_date, (args ->> 'day')::integer AS day
            FROM procrastinate_jobs
            JOIN batches ON batches.id::text = args ->> 'batch_id'
            WHERE task_name = %s AND procrastinate_jobs.status = 'doing' AND NOT args ? 'retake'
                AND args ->> 'day' ~ '^[0-9]{1,4}$'
            """,
            (task,),
        )
        return await cursor.fetchall()


# The batch and the day of a checkpoint, as a job's arguments have them. Both are text, because
# another program may have deferred a job with any arguments.
CheckpointKey = tuple[str | None, str | None]


async def jobs_by_checkpoint(conn: Conn, task: str) -> dict[CheckpointKey, tuple[bool, int | None]]:
    """
    Return the state of all checkpoints that jobs of `task` are about.

    The state of a checkpoint has two parts: whether one of its jobs waits or runs, and the id of
    its newest failed job (None if none has failed).
    """
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


async def find_retakes(conn: Conn, task: str, request: str) -> set[CheckpointKey]:
    """
    Return the checkpoints for which `request` needs no new retake.

    `request` is a value of the argument `retake`, which says when or by whom a retake was
    requested. A checkpoint is returned if it has a job with this value, whatever its status is, or
    a job with any other value of `retake` that waits or runs.
    """
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT args ->> 'batch_id', args ->> 'day'
            FROM procrastinate_jobs
            WHERE task_name = %s
                AND (args ->> 'retake' = %s OR (args ? 'retake' AND status IN ({live})))
            """
        ).format(live=_LIVE),
        (task, request),
    )
    return set(await cursor.fetchall())


async def find_without_job(
    conn: Conn, *, task: str, argument: str, names: Sequence[str]
) -> list[str]:
    """
    Return those of `names` for which a new job should be deferred.

    `names` are values of the argument `argument` of `task`. A name needs no new job if one of the
    jobs with this value

    - waits or runs;
    - was cancelled or aborted: an operator ended it on purpose; or
    - has strikes, whatever its status is: another job would fail in the same way.

    So a job that succeeded or failed without a strike does not count.
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
                    AND (
                        status IN ({live}, 'cancelled', 'aborted')
                        OR EXISTS (
                            SELECT FROM operations.strikes WHERE job_id = procrastinate_jobs.id
                        )
                    )
            )
            """
        ).format(live=_LIVE),
        {"names": list(names), "task": task, "argument": argument},
    )
    return [name for (name,) in await cursor.fetchall()]


async def has_job(conn: Conn, *, task: str, argument: str, value: str) -> bool:
    """
    Return whether a job of `task` has this value of an argument, whatever its status is.

    A job that failed without a strike does not count: a worker of a version that does not know the
    task ended it.
    """
    # No method in the API.
    cursor = await conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM procrastinate_jobs
            WHERE task_name = %s AND args ->> %s = %s
                AND (
                    status <> 'failed'
                    OR EXISTS (
                        SELECT FROM operations.strikes WHERE job_id = procrastinate_jobs.id
                    )
                )
        )
        """,
        (task, argument, value),
    )
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def count_running_before(conn: Conn, tasks: Sequence[str], id: int) -> int:
    """Return the number of running jobs of `tasks` with an id below `id`. Needs no search path."""
    cursor = await conn.execute(
        """
        SELECT
        FROM queue.procrastinate_jobs
        WHERE task_name = ANY(%s) AND status = 'doing' AND id < %s
        """,
        (list(tasks), id),
    )
    return cursor.rowcount


# Changing jobs


async def cancel(conn: Conn, id: int) -> None:
    """Cancel a waiting job."""
    with _unwrapped():
        await app.job_manager.cancel_job_by_id_async(id, connection=conn)


async def retry(conn: Conn, id: int) -> None:
    """Put a failed or stalled job back into the queue, to run at once."""
    # Instead of job_manager.retry_job_by_id_async: no `connection=`. Without a time, the job is due
    # at once in a rehearsal too.
    await conn.execute("SELECT procrastinate_retry_job_v2(%s, NULL, NULL, NULL, NULL)", (id,))


async def abort(conn: Conn, id: int) -> None:
    """End a job with the status `aborted`: a stalled job for which an abort was requested."""
    # Instead of job_manager.finish_job_by_id_async: no `connection=`.
    await conn.execute("SELECT procrastinate_finish_job_v1(%s, 'aborted', false)", (id,))


async def defer_copy(conn: Conn, id: int) -> int:
    """Defer a new job with the task, arguments and options of an earlier one. Return its id."""
    # Instead of job_manager.batch_defer_jobs_async: it takes only arguments that are a JSON object.
    # The arguments of a job that another program deferred may be another JSON value.
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[
            ROW(
                queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at
            )::procrastinate_job_to_defer_v1
        ]))
        FROM procrastinate_jobs
        WHERE id = %s
        """,
        (id,),
    )
    return int(await cursor.fetchone() or 0)


async def put_back_stalled(
    conn: Conn, *, stalled_after: float, max_deaths: int, lock: str
) -> list[StalledJob]:
    """
    Put the stalled jobs back into the queue, and count for each that its process has died.

    Return these jobs. `stalled_after` is in seconds. From the second death on, a job gets `lock`:
    jobs with the same lock run one at a time, so the next death shows which job causes the deaths.
    A job that has reached `max_deaths` fails: it is returned, and not put back. A job that another
    transaction has locked is left for the next round.
    """
    # Instead of job_manager.get_stalled_jobs and retry_job: no `connection=`. Finding, counting and
    # retrying must be one transaction. Otherwise, a job could be put back while another process
    # ends it.
    async with conn.cursor(row_factory=row_factory(StalledJob)) as cursor:
        await cursor.execute(
            """
            WITH stalled AS (
                SELECT procrastinate_jobs.id, task_name
                FROM procrastinate_jobs
                LEFT JOIN procrastinate_workers
                    ON procrastinate_workers.id = procrastinate_jobs.worker_id
                WHERE procrastinate_jobs.status = 'doing'
                    AND (
                        procrastinate_workers.id IS NULL
                        OR procrastinate_workers.last_heartbeat
                            < now() - make_interval(secs => %(stalled_after)s)
                    )
                FOR UPDATE OF procrastinate_jobs SKIP LOCKED
            ), counted AS (
                INSERT INTO operations.strikes AS stored (job_id, deaths)
                SELECT id, 1
                FROM stalled
                ON CONFLICT (job_id) DO UPDATE SET deaths = stored.deaths + 1
                RETURNING job_id, deaths
            )
            SELECT
                id,
                task_name AS task,
                deaths,
                CASE WHEN deaths < %(max_deaths)s
                    THEN procrastinate_retry_job_v2(
                        job_id, NULL, NULL, NULL, CASE WHEN deaths > 1 THEN %(lock)s END
                    )::text
                    ELSE procrastinate_finish_job_v1(job_id, 'failed', false)::text
                END AS done
            FROM counted JOIN stalled ON stalled.id = job_id
            """,
            {"stalled_after": stalled_after, "max_deaths": max_deaths, "lock": lock},
        )
        return await cursor.fetchall()


async def set_sleep_until(conn: Conn, id: int, until: datetime) -> None:
    """
    Store in a running job's row the time until which the job sleeps.

    In a rehearsal, the simulated clock reads this time. Needs no search path.
    """
    # No method in the API.
    await conn.execute(
        "UPDATE queue.procrastinate_jobs SET scheduled_at = %s WHERE id = %s AND status = 'doing'",
        (until, id),
    )


async def delete_finished(conn: Conn, older_than: timedelta) -> int:
    """
    Delete the jobs that ended longer ago than `older_than`, and the strikes of deleted jobs.

    Return how many jobs were deleted.
    """
    # Instead of job_manager.delete_old_jobs: no `connection=`.
    cursor = await conn.execute(
        sql.SQL(
            """
            DELETE FROM procrastinate_jobs
            WHERE status NOT IN ({live})
                AND (
                    SELECT max(at) FROM procrastinate_events WHERE job_id = procrastinate_jobs.id
                ) < now() - %s
            """
        ).format(live=_LIVE),
        (older_than,),
    )
    await conn.execute(
        """
        DELETE FROM operations.strikes
        WHERE NOT EXISTS (SELECT FROM procrastinate_jobs WHERE id = job_id)
        """
    )
    return cursor.rowcount


@contextmanager
def _unwrapped() -> Iterator[None]:
    """
    Raise psycopg's own error in place of Procrastinate's error that wraps it.

    The command line can explain only psycopg's errors.
    """
    try:
        yield
    except ConnectorException as error:
        if isinstance(error.__cause__, psycopg.Error):
            raise error.__cause__ from None
        raise


# The tables as a whole. The connection is synchronous: a rehearsal has no pool yet when it calls
# these functions.


def has_tables_sync(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the queue is installed in the database. Needs no search path."""
    # Instead of job_manager.check_connection: no `connection=`.
    cursor = conn.execute("SELECT to_regclass('queue.procrastinate_jobs') IS NOT NULL")
    (is_there,) = cursor.fetchone() or (False,)
    return bool(is_there)


def is_used_sync(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the queue has a job or a registered worker. Needs no search path."""
    # No method in the API.
    cursor = conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM queue.procrastinate_workers
            UNION ALL
            SELECT FROM queue.procrastinate_jobs
        )
        """
    )
    (is_used,) = cursor.fetchone() or (False,)
    return bool(is_used)


def count_jobs_sync(conn: psycopg.Connection[Any]) -> int:
    """Return the number of all jobs, also of jobs that have ended. Needs no search path."""
    cursor = conn.execute("SELECT count(*) FROM queue.procrastinate_jobs")
    (count,) = cursor.fetchone() or (0,)
    return int(count)
