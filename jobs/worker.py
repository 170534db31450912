"""The supervised worker: it is started again whenever it ends, and stopped once, with time to drain."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import structlog

from app.core import tasks
from jobs import reconcile
from jobs.context import Context
from jobs.queue import STALLED_AFTER, Queue

log = structlog.get_logger()

PAUSE = 0.3

# A worker that ends sooner has failed: not even a pool waits so long for a connection.
LASTING = 15.0
PAUSE_OF_THE_FAILING = 3.0


class Worker:
    """A process's worker: whether it lives, and a way to start it anew."""

    def __init__(self, queue: Queue, options: Callable[[], dict[str, Any]]) -> None:
        self.queue, self.options = queue, options
        self._stopping = False
        self._running: asyncio.Task[None] | None = None
        self._began = 0.0
        self._failing = False
        self._ending = False
        queue.job_manager.lost = self.start_anew

    @property
    def alive(self) -> bool:
        """Whether it works: one that fails over and over does not, though it may just be running."""
        return self._running is not None and not self._running.done() and (not self._failing or self._lasts())

    def _lasts(self) -> bool:
        return monotonic() - self._began > LASTING

    async def run(self) -> None:
        """Run workers one after another until stopped: a Postgres restart or a dead heartbeat ends one."""
        while not self._stopping:
            self._running = asyncio.create_task(
                self.queue.run_worker_async(install_signal_handlers=False, **self.options())
            )
            self._began, self._ending = monotonic(), False
            await asyncio.wait([self._running])
            if not self._stopping:
                self._failing = not (self._ending or self._lasts())
                error = None if self._running.cancelled() else self._running.exception()
                log.info("worker starts again", reason=str(error) if error else "it ended")
                await asyncio.sleep(PAUSE_OF_THE_FAILING if self._failing else PAUSE)

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
