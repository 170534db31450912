"""The supervised worker: it is started again whenever it ends, and stopped once, with time to drain."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import structlog

from app.core import presence, tasks
from app.core.presence import RETRY, is_away, why
from app.database.advice import where
from jobs import reconcile
from jobs.context import Context
from jobs.queue import HEARTBEAT, STALLED_AFTER, Queue

log = structlog.get_logger()

PAUSE = 0.3

# A worker that ends sooner has failed, unless it ended because the database was away.
LASTING = 15.0
PAUSE_OF_THE_FAILING = 3.0

# After one that has failed, the next counts as alive when it has lasted twice as long, and at least so many seconds:
# the same fault would have ended it by then.
RECOVERED = 2.0

# For how long Postgres may do nothing that a worker wants while it counts as alive: two heartbeats are lost by then.
SILENT = 2 * HEARTBEAT + 2


class Worker:
    """A process's worker: whether it lives, and a way to start it anew."""

    def __init__(self, queue: Queue, options: Callable[[], dict[str, Any]]) -> None:
        self.queue, self.options = queue, options
        self._stopping = False
        self._running: asyncio.Task[None] | None = None
        self._began = 0.0
        self._failing = False
        self._failed_after = 0.0  # seconds
        self._ending = False
        self._was_away = False
        queue.job_manager.lost = self.start_anew

    @property
    def alive(self) -> bool:
        """
        Return whether it works: whether it runs, and Postgres does what it wants.

        One that fails over and over does not, though it may just be running.
        """
        if self._running is None or self._running.done():
            return False
        if self._failing and not self._has_recovered():
            return False
        heard_at = self.queue.job_manager.heard_at
        return heard_at >= self._began and monotonic() - heard_at < SILENT

    def _lasts(self) -> bool:
        return self._age() > LASTING

    def _has_recovered(self) -> bool:
        return self._age() > min(LASTING, max(RECOVERED, 2 * self._failed_after))

    def _age(self) -> float:
        return monotonic() - self._began

    async def run(self) -> None:
        """Run workers one after another until stopped: a Postgres restart or a dead heartbeat ends one."""
        while not self._stopping:
            self._running = asyncio.create_task(
                self.queue.run_worker_async(install_signal_handlers=False, **self.options())
            )
            self._began, self._ending = monotonic(), False
            await asyncio.wait([self._running])
            if not self._stopping:
                await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        """Return how long to wait until the next worker starts, and say why the last one ended."""
        assert self._running
        error = None if self._running.cancelled() else self._running.exception()
        worked = self.queue.job_manager.heard_at >= self._began
        if self._met_an_absent_database(error):
            # Said once: while the database stays away, or has too few connections, one after another ends of it.
            is_the_first = not self._was_away or self._lasts()
            if is_the_first:
                log.info("worker starts again", reason=why(error) if error else "the database was away")
            self._was_away, self._failing = True, False
            return PAUSE if worked and is_the_first else RETRY
        self._was_away = False
        self._failing = not (self._ending or self._lasts())
        # The longest of those that failed one after another: a fault may need some time to show.
        self._failed_after = max(self._failed_after, self._age()) if self._failing else 0.0
        log.info("worker starts again", reason=why(error) if error else "it ended")
        return PAUSE_OF_THE_FAILING if self._failing else PAUSE

    def _met_an_absent_database(self, error: BaseException | None) -> bool:
        """Return whether the last worker ended because the database was away; without an error a side task ended it."""
        if error:
            return is_away(error)
        if self._ending:
            return False
        return any(database.has_failed_since(self._began) for database in self._databases())

    def _databases(self) -> list[presence.Presence]:
        """Return the databases of its jobs: the queue's, and the record's, which are often one."""
        connector: Any = self.queue.connector
        used = [connector.pool]
        if self.queue.tools:
            used.append(self.queue.tools.pool)
        return [presence.of(where(pool.conninfo)) for pool in used]

    def start_anew(self) -> None:
        """Let the running worker finish its jobs and start another, with the options as they are then."""
        # Once: a second cancel would leave running jobs behind as `doing`.
        if self._running and not self._ending:
            self._ending = True
            self._running.cancel()

    async def stop(self) -> None:
        """Let running jobs finish within their bound, requeue what did not, and end."""
        self._stopping = True
        if self.queue.tools:
            self.queue.tools.clock.stop()
        self.start_anew()
        if self._running:
            await asyncio.wait([self._running])


@asynccontextmanager
async def supervised(
    queue: Queue, tools: Context, options: Callable[[], dict[str, Any]] = dict
) -> AsyncIterator[Worker]:
    """Run a worker and the upkeep beside whatever the context does."""
    worker = Worker(queue, options)

    def stalled_after() -> float:
        return float(options().get("stalled_worker_timeout", STALLED_AFTER))

    runs = [asyncio.create_task(worker.run()), asyncio.create_task(reconcile.keep(tools, stalled_after))]
    try:
        yield worker
    finally:
        await worker.stop()
        await tasks.end(*runs)
        # Read, so that an error is not reported as one that nothing has read.
        await asyncio.gather(*runs, return_exceptions=True)
