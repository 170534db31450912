"""
Told time: real time minus a lag that only ever shrinks.

It flows at its real pace while anything is at work. When every job waits it leaps to the first moment at which one is
due; when the lag is used up, told time is real time, and the same process goes on living. With an end (`until`) it
stands still there. All processes that share the database share one told time, and any of them makes the leap.

Postgres is told once: Procrastinate's fetch function decides what is due by an unqualified `now()`, and in this
database that one function finds `told.now()` first. Heartbeats and stalled jobs stay real, as they must. The row in
`told.clock` also marks the database as rehearsed.
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
from app.core.locks import Lock
from app.core.presence import AWAY
from app.database import rehearsed
from app.database.pools import Pool
from app.database.rehearsed import CLOCK
from app.errors import ConfigurationError, TryAgainAt
from jobs import queue_tables
from jobs.queue import MIDDLEWARE, MONDAY_LASTS, Queue

# The one SQL on the queue's tables that does not stand in `jobs.queue_tables`: it changes how the
# queue's own fetch function reads the time, and `told.leap` must read the jobs inside of Postgres,
# between its lock and its update. Only the database of a rehearsal has it.
INSTALL = f"""
CREATE OR REPLACE FUNCTION told.now() RETURNS timestamptz LANGUAGE sql STABLE
AS 'SELECT least(pg_catalog.now() - make_interval(secs => lag), until) FROM told.clock';

DO $$
DECLARE
    asks regprocedure;
BEGIN
    FOR asks IN SELECT oid FROM pg_proc
        WHERE proname ~ '^procrastinate_fetch_job' AND pronamespace = 'queue'::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = told, pg_catalog, queue', asks);
    END LOOP;
END $$;

-- Leap to the first event, unless a job may be at work: running and not asleep, or waiting and due. One that waits for
-- another's lock is not. A round of upkeep is at work, too: by its lock.
CREATE OR REPLACE FUNCTION told.leap(tick timestamptz) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    event timestamptz;
    answer float8;
BEGIN
    PERFORM FROM told.clock FOR UPDATE;  -- one at a time; the next statement sees what is committed by now
    SELECT least(tick, min(coalesce(scheduled_at, 'epoch'))) INTO event
        FROM queue.procrastinate_jobs AS jobs
        WHERE status = 'doing' OR (status = 'todo' AND NOT EXISTS (
            SELECT FROM queue.procrastinate_jobs AS others WHERE others.lock = jobs.lock AND others.status = 'doing'));
    IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = {Lock.RECONCILIATION:d}) THEN
        event := 'epoch';
    END IF;
    UPDATE told.clock
        SET lag = greatest(0, least(lag, extract(epoch FROM clock_timestamp() - event))), seen = clock_timestamp()
        WHERE lag > extract(epoch FROM clock_timestamp() - event) OR seen < clock_timestamp() - interval '1 s';
    SELECT lag INTO answer FROM told.clock;
    RETURN answer;
END $$;
"""  # noqa: S608 - the only value in it is a number of ours
_BEGIN = """
INSERT INTO told.clock (lag, seen)
SELECT greatest(0, extract(epoch FROM clock_timestamp() - %s::timestamptz)), clock_timestamp()
WHERE NOT EXISTS (SELECT FROM told.clock)
"""
# Where told time stood still it goes on from there; otherwise five seconds after the last sign of life, however long
# the pause was. At lag 0 a pause was a real outage, and nothing hides it.
_LIVED = "SELECT least(seen - make_interval(secs => lag), until) FROM told.clock WHERE lag > 0"
_GO_ON = """
UPDATE told.clock
SET lag = CASE
        WHEN until < clock_timestamp() - make_interval(secs => lag) THEN extract(epoch FROM clock_timestamp() - until)
        ELSE lag + greatest(0, extract(epoch FROM clock_timestamp() - seen) - 5)
    END,
    seen = clock_timestamp(),
    until = NULL
WHERE lag > 0
"""
_END = "UPDATE told.clock SET until = %s WHERE lag > 0"
_LAG = "SELECT lag FROM told.clock"

# Told time waits for a dead process's jobs, so a rehearsal notices a death sooner than production would.
STALLED_AFTER = 6.0
HEARTBEAT = 1.0
CONCURRENCY = 32

BEAT = 0.003
STRIDE = timedelta(hours=6)  # the longest leap, so that upkeep gets its turns


class SimulatedClock:
    """The rehearsal's clock: one told time for every process that shares the database."""

    def __init__(self, pool: Pool, queue: Queue, until: datetime | None = None) -> None:
        self.pool, self.queue, self.until = pool, queue, until
        self.lag = timedelta(0)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.worker_anew: Callable[[], None] = lambda: None
        self._stopped = False
        self._job: ContextVar[int | None] = ContextVar("job", default=None)
        self._asleep: dict[asyncio.Task[Any] | None, datetime] = {}

    @property
    def is_simulated(self) -> bool:
        """Return whether the time is another than the real one: Postgres decides by it, too, what is due."""
        return bool(self.lag)

    def now(self) -> datetime:
        """Return the told time, in UTC."""
        now = datetime.now(UTC) - self.lag
        return min(now, self.until) if self.until else now

    async def sleep(self, seconds: float) -> None:
        """Wait in told time: a job tells the queue until when, anything else only its own process."""
        until = self.now() + timedelta(seconds=seconds)
        if job := self._job.get():
            async with self.pool.connection() as conn:
                await queue_tables.sleep_until(conn, job, until)
        else:
            self._asleep[asyncio.current_task()] = until
        while (left := (until - self.now()).total_seconds()) > 0:
            if self._stopped:
                raise TryAgainAt("The process was told to stop.", self.now())
            # A leap is looked for every beat; at real pace nothing leaps.
            await asyncio.sleep(min(left, BEAT if self.lag else 0.5))

    def stop(self) -> None:
        """End all waiting."""
        self._stopped = True

    def options(self) -> dict[str, Any]:
        """Return what the worker needs besides, as long as the told time is not the real one."""
        if not self.lag:
            return {}
        return {
            "worker_middleware": [*MIDDLEWARE, self._in_its_time],
            "fetch_job_polling_interval": 0.01,
            "concurrency": CONCURRENCY,
            "update_heartbeat_interval": HEARTBEAT,
            "stalled_worker_timeout": STALLED_AFTER,
        }

    async def start(self, begin: datetime) -> None:
        """Begin at `begin`, or go on where an earlier rehearsal of this database stopped."""
        async with self.pool.connection() as conn, conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.SIMULATED_CLOCK,))
            await conn.execute(CLOCK)
            await conn.execute(INSTALL)
            lived = await (await conn.execute(_LIVED)).fetchone()
            if self.until and lived and lived[0] > self.until:
                raise ConfigurationError(
                    f"This rehearsal has lived until {lived[0]:%Y-%m-%d %H:%M} UTC already; --until cannot go back. "
                    "`alpha-monday db reset` forgets it."
                )
            await conn.execute(_BEGIN, (begin,))
            await conn.execute(_GO_ON)
            await conn.execute(_END, (self.until,))
        await self._read(_LAG)
        if self.until and not self.lag:
            raise ConfigurationError("This rehearsal has arrived at the present; --until can no longer stop it before.")

    async def live(self) -> None:
        """Offer the queue its ticks, and leap when all is quiet, until told time is real or has come to its end."""
        defaults, self.queue.periodic_defaults = self.queue.periodic_defaults, {"max_delay": 0}  # the real time's ticks
        ticks = PeriodicDeferrer(self.queue.periodic_registry, max_delay=MONDAY_LASTS.total_seconds())
        try:
            while self.lag and not (self.until and self.now() >= self.until):
                with suppress(*AWAY):  # the database is away: time goes on as it does
                    await self._beat(ticks)
                await asyncio.sleep(BEAT)
        except Exception as error:
            if not self.over.done():
                self.over.set_exception(error)  # nothing would ever leap again: whoever waits must know
        finally:
            self.queue.periodic_defaults = defaults
        if not self.lag:
            self.worker_anew()
        if not self.over.done():
            self.over.set_result(None)

    async def _beat(self, ticks: PeriodicDeferrer) -> None:
        now = self.now()
        await ticks.defer_jobs(ticks.get_previous_tasks(at=now.timestamp()))
        tick = now + min(STRIDE, timedelta(seconds=ticks.get_next_tick(at=now.timestamp())))
        if any(until <= self.now() for task, until in self._asleep.items() if task and not task.done()):
            await self._read(_LAG)  # somebody has woken up and may be at work
        else:
            await self._read("SELECT told.leap(%s)", min(tick, self.until) if self.until else tick)

    async def _in_its_time(self, job: Callable[[], Awaitable[Any]], context: JobContext, _: Any) -> Any:
        """Refuse to run a job before its told time, and remember whose sleep is whose."""
        await self._read(_LAG)  # another process may have leapt
        due = context.job.scheduled_at
        if due and due > self.now():
            early = RuntimeError(f"Job {context.job.id} ran at {self.now()}, before its time, {due}.")
            if not self.over.done():
                self.over.set_exception(early)
            raise early
        self._job.set(context.job.id)
        return await job()

    async def _read(self, sql: str, *values: object) -> None:
        ((lag,),) = await self._ask(sql, *values)
        self.lag = timedelta(seconds=lag)

    async def _ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as conn:
            cursor = await conn.execute(sql.encode(), values)
            return await cursor.fetchall() if cursor.description else []


async def has_begun(pool: Pool) -> bool:
    """Return whether a rehearsal of this database has a time to go on from."""
    async with pool.connection() as conn:
        if not await rehearsed.is_rehearsed_on(conn):
            return False
        return await (await conn.execute("SELECT FROM told.clock")).fetchone() is not None


@asynccontextmanager
async def told(
    pool: Pool, queue: Queue, begin: datetime, until: datetime | None = None
) -> AsyncIterator[SimulatedClock]:
    """Tell the time for as long as the context lasts."""
    clock = SimulatedClock(pool, queue, until)
    await clock.start(begin)
    living = asyncio.create_task(clock.live())
    try:
        yield clock
    finally:
        await tasks.end(living)
        with suppress(asyncio.CancelledError, psycopg.Error):
            living.result()
