"""
Runs work that takes milliseconds in a thread, one piece at a time, in turns by client.

Parsing, validating and planning a document is pure computation. On the event loop it would delay
every other request and the jobs of the worker. In the thread it delays them by one switch interval
at most (`app.commands.server.SWITCH_INTERVAL`). Only one piece runs at a time, because a second
thread would only take the interpreter away from the first one and from the event loop.

Clients take turns (`api.fair_queue`): one piece of work is done for each address that waits, before
a second piece is done for any of them.
"""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api.fair_queue import FairQueue
from api.fields import api_error

# How many requests may wait for their turn: of one address, and of all addresses together. A page
# may send some new documents at once. No known document takes 50 ms of CPU
# (tests/integration/api/test_limits.py), so the last of 256 requests waits for 13 s at most, and
# usually for much less.
MAX_WAITING_PER_CLIENT = 16
MAX_WAITING = 256

# A request above these limits tries once more after this pause. If there is still no room, it is
# refused. After an immediate refusal, the client would send its next request immediately, and
# refusing hundreds of requests costs more than letting them wait.
PAUSE_SECONDS = 1.0


class WorkItem:
    """One piece of work, its result, and how many requests wait for the result."""

    __slots__ = ("requests", "result", "run")

    def __init__(self, run: Callable[[], Any], result: "asyncio.Future[Any]") -> None:
        self.run = run
        self.result = result
        self.requests = 0


class Ticket:
    """The place of one request in the queue of its client."""

    __slots__ = ("work",)

    def __init__(self, work: WorkItem) -> None:
        self.work = work


class FairExecutor:
    """
    Runs work in a thread, one piece at a time, in turns by client.

    `done` counts the finished pieces of work, and `waiting` the requests that wait for a result.
    """

    def __init__(
        self,
        max_waiting_per_client: int = MAX_WAITING_PER_CLIENT,
        max_waiting: int = MAX_WAITING,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self.max_waiting_per_client = max_waiting_per_client
        self.max_waiting = max_waiting
        self.pause = pause
        self.done = 0
        self.waiting = 0
        self._queue: FairQueue[Ticket] = FairQueue()
        self._works: dict[Hashable, WorkItem] = {}
        self._is_busy = False
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, client: str, key: Hashable, function: Callable[[], Any]) -> Any:
        """
        Return the result of `function`, which runs when it is the client's turn.

        Requests with the same `key` share one run. A request that is cancelled no longer waits.
        Work that has not begun is not done if no request needs it any more.

        Raises SERVICE_UNAVAILABLE if too many requests wait.
        """
        if self._is_full(client):
            await asyncio.sleep(self.pause)
            if self._is_full(client):
                raise api_error(
                    "SERVICE_UNAVAILABLE",
                    "Too many new documents wait for validation; the limit is "
                    f"{self.max_waiting_per_client} of one address and {self.max_waiting} of all. "
                    "Try again in some seconds.",
                )
        work = self._works.get(key)
        if work is None:
            work = WorkItem(function, asyncio.get_running_loop().create_future())
            self._works[key] = work
        ticket = Ticket(work)
        self._queue.add(client, ticket)
        work.requests += 1
        self.waiting += 1
        self._start_next()
        try:
            # Shielded, because other requests may wait for the same result.
            return await asyncio.shield(work.result)
        finally:
            self.waiting -= 1
            work.requests -= 1
            self._queue.remove(client, ticket)
            if not work.requests and self._works.get(key) is work:
                del self._works[key]

    def waiting_for(self, client: str) -> int:
        """Return how many requests of a client wait for their turn."""
        return self._queue.count(client)

    def _is_full(self, client: str) -> bool:
        if self.waiting >= self.max_waiting:
            return True
        return self.waiting_for(client) >= self.max_waiting_per_client

    def _start_next(self) -> None:
        """Start the next piece of work, unless one is running."""
        while not self._is_busy:
            ticket = self._queue.take_next()
            if ticket is None:
                return
            # Several requests may wait for one result. If another of them had its turn before, the
            # result is there already.
            if not ticket.work.result.done():
                self._start(ticket.work)

    def _start(self, work: WorkItem) -> None:
        self._is_busy = True
        loop = asyncio.get_running_loop()
        finished = loop.run_in_executor(self._executor(), work.run)
        finished.add_done_callback(lambda finished: self._finish(work, finished))

    def _finish(self, work: WorkItem, finished: "asyncio.Future[Any]") -> None:
        self._is_busy = False
        self.done += 1
        error = None if finished.cancelled() else finished.exception()
        if finished.cancelled() or work.result.done():
            work.result.cancel()
        elif error is None:
            work.result.set_result(finished.result())
        elif work.requests:
            # If no request waits, nothing retrieves the exception, and asyncio would log it.
            work.result.set_exception(error)
        self._start_next()

    def _executor(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="turns")
        return self._thread
