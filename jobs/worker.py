"""
The supervised worker of a process.

The worker is restarted whenever it ends, until the process stops. Then running jobs get time to
finish.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import structlog

from app.core import availability, tasks
from app.core.availability import MAX_RETRY_PAUSE, describe_cause, is_unavailable
from app.database.advice import display_address
from jobs import reconcile
from jobs.context import Context
from jobs.queue import HEARTBEAT_INTERVAL, STALLED_AFTER, Queue

log = structlog.get_logger()

# All times in this module are in seconds.

# The pause before the next worker starts.
RESTART_PAUSE = 0.3
RESTART_PAUSE_AFTER_FAILURE = 3.0

# A worker has failed if it ends sooner than this after its start, unless `restart` ended it or the
# database was unavailable.
STABLE_AFTER = 15.0

# After a worker has failed, the next worker does not count as alive at once: the same error may end
# it, too. It must first run for twice as long as the failed worker. Example: the failed worker ran
# for 4 seconds, so the next one counts as alive after 8. The time is at least `_MIN_RECOVERY_TIME`
# and at most `STABLE_AFTER`.
_MIN_RECOVERY_TIME = 2.0

# If Postgres responds to none of the worker's requests for this long, the worker does not count as
# alive. This is the time of two heartbeats that got no response, plus two seconds.
_MAX_SILENCE = 2 * HEARTBEAT_INTERVAL + 2


class Worker:
    """Runs the worker of a process, restarts it when it ends, and says whether it is alive."""

    def __init__(self, queue: Queue, options: Callable[[], dict[str, Any]]) -> None:
        self.queue = queue
        self.options = options
        self._stopping = False
        self._running: asyncio.Task[None] | None = None
        self._started_at = 0.0
        self._is_failing = False
        self._failed_after = 0.0
        self._is_ending = False
        self._was_database_unavailable = False
        # If the end of a job could not be stored, the job stays `doing` under the worker's id.
        # Reconciliation puts the job back only when that worker is gone. So the worker is
        # restarted.
        queue.job_manager.on_lost_result = self.restart

    @property
    def is_alive(self) -> bool:
        """
        Return whether the worker works: it runs, and Postgres answers its requests.

        After a failure, a new worker does not count as alive until it has run for some time.
        """
        if self._running is None or self._running.done():
            return False
        if self._is_failing and not self._has_recovered():
            return False
        last_success_at = self.queue.job_manager.last_success_at
        if last_success_at < self._started_at:
            return False
        return monotonic() - last_success_at < _MAX_SILENCE

    def _is_stable(self) -> bool:
        return self._age() > STABLE_AFTER

    def _has_recovered(self) -> bool:
        needed = max(_MIN_RECOVERY_TIME, 2 * self._failed_after)
        return self._age() > min(STABLE_AFTER, needed)

    def _age(self) -> float:
        """Return for how many seconds the current worker has run."""
        return monotonic() - self._started_at

    async def run(self) -> None:
        """
        Run workers, one after another, until `stop` is called.

        A worker ends on an error, for example when Postgres is restarted.
        """
        while not self._stopping:
            self._running = asyncio.create_task(
                self.queue.run_worker_async(install_signal_handlers=False, **self.options())
            )
            self._started_at = monotonic()
            self._is_ending = False
            await asyncio.wait([self._running])
            if not self._stopping:
                await asyncio.sleep(self._next_pause())

    def _next_pause(self) -> float:
        """Return the pause before the next worker starts, and log why the last one ended."""
        assert self._running
        error = None
        if not self._running.cancelled():
            error = self._running.exception()
        if self._has_ended_without_database(error):
            return self._pause_without_database(error)

        self._was_database_unavailable = False
        self._is_failing = not (self._is_ending or self._is_stable())
        if self._is_failing:
            # Of several workers that failed one after another, the longest time counts: the error
            # may need that time to occur.
            self._failed_after = max(self._failed_after, self._age())
        else:
            self._failed_after = 0.0
        reason = describe_cause(error) if error else "it ended"
        log.info("worker restarts", reason=reason)
        if self._is_failing:
            return RESTART_PAUSE_AFTER_FAILURE
        return RESTART_PAUSE

    def _pause_without_database(self, error: BaseException | None) -> float:
        """Return the pause after a worker that ended because the database was unavailable."""
        has_worked = self.queue.job_manager.last_success_at >= self._started_at
        # While the database is unavailable, or has too few connections, one worker after another
        # ends. Only the end of the first one is logged.
        is_first = not self._was_database_unavailable or self._is_stable()
        if is_first:
            reason = describe_cause(error) if error else "the database was unavailable"
            log.info("worker restarts", reason=reason)
        self._was_database_unavailable = True
        self._is_failing = False
        if has_worked and is_first:
            return RESTART_PAUSE
        return MAX_RETRY_PAUSE

    def _has_ended_without_database(self, error: BaseException | None) -> bool:
        """Return whether the last worker ended because the database was unavailable."""
        if error:
            return is_unavailable(error)
        if self._is_ending:
            return False
        # Procrastinate may end the worker after an error in one of its side tasks, without raising
        # that error.
        return any(
            database.has_failed_since(self._started_at) for database in self._list_databases()
        )

    def _list_databases(self) -> list[availability.Availability]:
        """Return the databases of the queue and of the record, which are often the same."""
        connector: Any = self.queue.connector
        pools = [connector.pool]
        if self.queue.context:
            pools.append(self.queue.context.pool)
        return [availability.for_database(display_address(pool.conninfo)) for pool in pools]

    def restart(self) -> None:
        """
        Let the running worker finish its jobs and end. `run` then starts another worker.

        A job that is not finished after DRAIN_TIMEOUT goes back to the queue.
        """
        # Cancel the worker only once: after a second cancel, running jobs would stay `doing`.
        if self._running and not self._is_ending:
            self._is_ending = True
            self._running.cancel()

    async def stop(self) -> None:
        """
        End the worker.

        Running jobs get DRAIN_TIMEOUT to finish. A job that needs longer goes back to the queue.
        """
        self._stopping = True
        if self.queue.context:
            self.queue.context.clock.stop()
        self.restart()
        if self._running:
            await asyncio.wait([self._running])


@asynccontextmanager
async def supervised(
    queue: Queue, context: Context, options: Callable[[], dict[str, Any]] = dict
) -> AsyncIterator[Worker]:
    """
    Run a worker and reconciliation in the background, until the end of the `async with` block.

    `options` returns the worker's options. It is called each time a worker starts.
    """
    worker = Worker(queue, options)

    def get_stalled_after() -> float:
        return float(options().get("stalled_worker_timeout", STALLED_AFTER))

    background = [
        asyncio.create_task(worker.run()),
        asyncio.create_task(reconcile.run_forever(context, get_stalled_after)),
    ]
    try:
        yield worker
    finally:
        await worker.stop()
        await tasks.cancel_and_wait(*background)
        # asyncio would log an error of a task if nothing reads its result.
        await asyncio.gather(*background, return_exceptions=True)
