"""
Simulated time: real time minus a lag. While a rehearsal runs, the lag only becomes smaller.

Simulated time runs at the pace of real time while any job is at work. When every job waits, it
jumps ahead to the first moment at which a job is due. When the lag is 0, simulated time is real
time, and the same process continues as a live service. A rehearsal may have an end (`until`): then
simulated time stops at this end. All processes that share the database share one simulated time,
and any of them may make the jump.

The schema `told` of a rehearsal's database contains the clock: the table `told.clock`, and the
functions `told.now` (the simulated time) and `told.leap` (the jump). Procrastinate's fetch function
calls `now()` without a schema, and in such a database its search path finds `told.now()` first. So
due jobs are chosen by simulated time. Heartbeats and the detection of stalled jobs use real time,
because they are about real processes. The table also marks the database as rehearsed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from procrastinate import JobContext
from procrastinate.periodic import PeriodicDeferrer

from app.core import tasks
from app.core.availability import UNAVAILABLE_ERRORS
from app.core.locks import Lock
from app.database.pools import Pool
from app.errors import ConfigurationError, TryAgainAt
from app.store import rehearsed
from app.store.rehearsed import CREATE_CLOCK_TABLE
from jobs import queue_tables
from jobs.queue import MAX_TICK_DELAY, MIDDLEWARE, Queue

# This is the only SQL on the queue's tables outside `jobs.queue_tables`. It is installed only in
# the database of a rehearsal. The first statements change how Procrastinate's fetch function reads
# the time. The function `told.leap` must read the jobs inside Postgres: after it has locked the
# clock, and before it changes the lag.
INSTALL_SQL = f"""
CREATE OR REPLACE FUNCTION told.now() RETURNS timestamptz LANGUAGE sql STABLE
AS 'SELECT least(pg_catalog.now() - make_interval(secs => lag), until) FROM told.clock';

DO $$
DECLARE
    fetch_function regprocedure;
BEGIN
    FOR fetch_function IN SELECT oid FROM pg_proc
        WHERE proname ~ '^procrastinate_fetch_job' AND pronamespace = 'queue'::regnamespace
    LOOP
        EXECUTE format(
            'ALTER FUNCTION %s SET search_path = told, pg_catalog, queue', fetch_function
        );
    END LOOP;
END $$;

-- Jump to the first event, and return the lag after the jump. An event is the next tick, the time
-- at which a job is due, or the end of a job's sleep.
--
-- There is no jump while something may be at work. In these three cases the first event is in the
-- past (or is the epoch, 1970), and so the lag stays the same:
--
-- - A job runs and does not sleep, or it runs and its sleep has ended.
-- - A job is due. (A job that waits for the lock of another job does not count.)
-- - A round of reconciliation runs. It holds an advisory lock.
CREATE OR REPLACE FUNCTION told.leap(tick timestamptz) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    event timestamptz;
    new_lag float8;
BEGIN
    -- One jump at a time. The next statement sees everything that is committed by now.
    PERFORM FROM told.clock FOR UPDATE;
    SELECT least(tick, min(coalesce(scheduled_at, 'epoch'))) INTO event
        FROM queue.procrastinate_jobs AS jobs
        WHERE status = 'doing' OR (status = 'todo' AND NOT EXISTS (
            SELECT FROM queue.procrastinate_jobs AS others
            WHERE others.lock = jobs.lock AND others.status = 'doing'));
    IF EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = {Lock.RECONCILIATION:d}
    ) THEN
        event := 'epoch';
    END IF;
    UPDATE told.clock
        SET lag = greatest(0, least(lag, extract(epoch FROM clock_timestamp() - event))),
            seen = clock_timestamp()
        WHERE lag > extract(epoch FROM clock_timestamp() - event)
            OR seen < clock_timestamp() - interval '1 s';
    SELECT lag INTO new_lag FROM told.clock;
    RETURN new_lag;
END $$;
"""  # noqa: S608 - the only value in it is a number of ours
_BEGIN = """
INSERT INTO told.clock (lag, seen)
SELECT greatest(0, extract(epoch FROM clock_timestamp() - %s::timestamptz)), clock_timestamp()
WHERE NOT EXISTS (SELECT FROM told.clock)
"""
# How a stopped rehearsal continues. If it had reached its end `until`, it continues from `until`.
# Otherwise at most five seconds of simulated time have passed since its clock was `seen` last, even
# if it was stopped for days. With lag 0 the database is live already: nothing is changed, so that
# the pause counts as a real outage.
_CONTINUE = """
UPDATE told.clock
SET lag = CASE
        WHEN until < clock_timestamp() - make_interval(secs => lag)
            THEN extract(epoch FROM clock_timestamp() - until)
        ELSE lag + greatest(0, extract(epoch FROM clock_timestamp() - seen) - 5)
    END,
    seen = clock_timestamp(),
    until = NULL
WHERE lag > 0
"""
_SET_END = "UPDATE told.clock SET until = %s WHERE lag > 0"
_LAG = "SELECT lag FROM told.clock"
_JUMP = "SELECT told.leap(%s)"

# Simulated time does not jump while a dead process seems to run a job. To make this wait short, a
# rehearsal detects a dead process sooner than production does.
STALLED_AFTER_SECONDS = 6.0
HEARTBEAT_SECONDS = 1.0
CONCURRENCY = 32

# The pause between two attempts to jump. Code that sleeps checks the time after the same pause.
POLL_SECONDS = 0.003
# When simulated time has reached real time, there are no more jumps. So code that sleeps checks the
# time less often.
_REAL_POLL_SECONDS = 0.5
# The longest jump, so that reconciliation gets its turns.
MAX_JUMP = timedelta(hours=6)


class SimulatedClock:
    """
    The clock of a rehearsal: one simulated time for every process that shares the database.

    `finished` is done when simulated time has reached real time or `until`. If the clock has
    failed, `finished` has the exception. `restart_worker` is called when simulated time has reached
    real time, because the worker then needs other options.
    """

    def __init__(self, pool: Pool, queue: Queue, until: datetime | None = None) -> None:
        self.pool = pool
        self.queue = queue
        self.until = until
        self.lag = timedelta(0)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.restart_worker: Callable[[], None] = lambda: None
        self._is_stopped = False
        # The id of the job that runs in the current context.
        self._job: ContextVar[int | None] = ContextVar("job", default=None)
        # For each sleeping task that is not a job of the queue: the time at which it wakes up.
        self._sleeping: dict[asyncio.Task[Any] | None, datetime] = {}

    @property
    def is_simulated(self) -> bool:
        """Return whether the time is simulated. If so, Postgres chooses due jobs by that time."""
        return bool(self.lag)

    def now(self) -> datetime:
        """Return the simulated time, in UTC."""
        now = datetime.now(UTC) - self.lag
        if self.until:
            return min(now, self.until)
        return now

    async def sleep(self, seconds: float) -> None:
        """
        Wait for `seconds` of simulated time.

        The end of a job's sleep is stored in the queue, where all processes see it. The end of any
        other sleep is known to this process only. Raises TryAgainAt when the process stops.
        """
        until = self.now() + timedelta(seconds=seconds)
        if job_id := self._job.get():
            async with self.pool.connection() as conn:
                await queue_tables.set_sleep_until(conn, job_id, until)
        else:
            self._sleeping[asyncio.current_task()] = until
        while (remaining := (until - self.now()).total_seconds()) > 0:
            if self._is_stopped:
                raise TryAgainAt("The process was told to stop.", self.now())
            poll_seconds = POLL_SECONDS if self.lag else _REAL_POLL_SECONDS
            await asyncio.sleep(min(remaining, poll_seconds))

    def stop(self) -> None:
        """End every sleep of this process."""
        self._is_stopped = True

    def worker_options(self) -> dict[str, Any]:
        """Return additional options for the worker; none if the time is real."""
        if not self.lag:
            return {}
        return {
            "worker_middleware": [*MIDDLEWARE, self._run_when_due],
            "fetch_job_polling_interval": 0.01,
            "concurrency": CONCURRENCY,
            "update_heartbeat_interval": HEARTBEAT_SECONDS,
            "stalled_worker_timeout": STALLED_AFTER_SECONDS,
        }

    async def start(self, begin: datetime) -> None:
        """
        Begin at `begin`, or continue where an earlier rehearsal of this database stopped.

        Raises ConfigurationError if the rehearsal cannot stop at `until`: the earlier rehearsal has
        passed `until`, or simulated time has reached the present.
        """
        async with self.pool.connection() as conn, conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.SIMULATED_CLOCK,))
            await conn.execute(CREATE_CLOCK_TABLE)
            await conn.execute(INSTALL_SQL)
            # Read before the next statements, which change the row.
            reached = await rehearsed.get_simulated_time_on_connection(conn)
            if self.until and reached and reached > self.until:
                raise ConfigurationError(
                    f"This rehearsal has reached {reached:%Y-%m-%d %H:%M} UTC already; "
                    "--until cannot go back. `alpha-monday db reset` deletes it."
                )
            await conn.execute(_BEGIN, (begin,))
            await conn.execute(_CONTINUE)
            await conn.execute(_SET_END, (self.until,))
        await self._update_lag(_LAG)
        if self.until and not self.lag:
            raise ConfigurationError(
                "This rehearsal has reached the present; --until can no longer stop it earlier."
            )

    async def run(self) -> None:
        """Defer periodic jobs and jump ahead, until simulated time is real time or `until`."""
        # The worker would defer periodic jobs by real time. With `max_delay` 0 it defers none, and
        # only `_step` defers them.
        defaults = self.queue.periodic_defaults
        self.queue.periodic_defaults = {"max_delay": 0}
        deferrer = PeriodicDeferrer(
            self.queue.periodic_registry, max_delay=MAX_TICK_DELAY.total_seconds()
        )
        try:
            while self.lag and not self._has_reached_end():
                # While the database is unavailable, the time goes on at the pace of real time.
                with suppress(*UNAVAILABLE_ERRORS):
                    await self._step(deferrer)
                await asyncio.sleep(POLL_SECONDS)
        except Exception as error:
            # This task ends here, so there are no more jumps, and the end is never reached. So the
            # code that waits for the end must get the error.
            self._fail(error)
        finally:
            self.queue.periodic_defaults = defaults
        if not self.lag:
            self.restart_worker()
        if not self.finished.done():
            self.finished.set_result(None)

    def _has_reached_end(self) -> bool:
        return bool(self.until and self.now() >= self.until)

    def _fail(self, error: Exception) -> None:
        """Make `finished` raise `error`, unless it is done already."""
        if not self.finished.done():
            self.finished.set_exception(error)

    async def _step(self, deferrer: PeriodicDeferrer) -> None:
        """Defer the periodic jobs that are due, then jump if nothing is at work."""
        now = self.now()
        await deferrer.defer_jobs(deferrer.get_previous_tasks(at=now.timestamp()))
        next_tick = timedelta(seconds=deferrer.get_next_tick(at=now.timestamp()))
        tick = now + min(MAX_JUMP, next_tick)
        if self._has_awake_task():
            await self._update_lag(_LAG)
        elif self.until:
            await self._update_lag(_JUMP, min(tick, self.until))
        else:
            await self._update_lag(_JUMP, tick)

    def _has_awake_task(self) -> bool:
        """Return whether a task of this process has ended its sleep and so may be at work."""
        now = self.now()
        return any(
            until <= now for task, until in self._sleeping.items() if task and not task.done()
        )

    async def _run_when_due(
        self, run_job: Callable[[], Awaitable[Any]], job_context: JobContext, _: Any
    ) -> Any:
        """
        Run a job, and remember its id for `sleep`. This is a middleware of the worker.

        Raises RuntimeError if the queue starts the job before the simulated time at which it is
        due.
        """
        # Another process may have made a jump since the lag was read last.
        await self._update_lag(_LAG)
        due = job_context.job.scheduled_at
        if due and due > self.now():
            error = RuntimeError(
                f"Job {job_context.job.id} ran at {self.now()}, before its time, {due}."
            )
            self._fail(error)
            raise error
        self._job.set(job_context.job.id)
        return await run_job()

    async def _update_lag(self, sql: str, *parameters: object) -> None:
        """Set the lag to the result of `sql`."""
        ((lag,),) = await self._fetch(sql, *parameters)
        self.lag = timedelta(seconds=lag)

    async def _fetch(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as conn:
            cursor = await conn.execute(sql.encode(), parameters)
            if not cursor.description:
                return []
            return await cursor.fetchall()


async def has_rehearsal_to_continue(pool: Pool) -> bool:
    """Return whether a rehearsal has already been started in the database."""
    async with pool.connection() as conn:
        if not await rehearsed.has_clock(conn):
            return False
        cursor = await conn.execute("SELECT FROM told.clock")
        return await cursor.fetchone() is not None


@asynccontextmanager
async def running_clock(
    pool: Pool, queue: Queue, begin: datetime, until: datetime | None = None
) -> AsyncIterator[SimulatedClock]:
    """Start a simulated clock, and stop it when the context ends."""
    clock = SimulatedClock(pool, queue, until)
    await clock.start(begin)
    running = asyncio.create_task(clock.run())
    try:
        yield clock
    finally:
        await tasks.cancel_and_wait(running)
        with suppress(asyncio.CancelledError, psycopg.Error):
            running.result()
