"""
Turns: work that takes milliseconds runs one piece at a time, in a thread, and its clients take turns.

Parsing, validating and planning a document is pure computing. On the event loop it would hold up every other request
and the jobs of the worker; in the thread it holds them up for one switch interval at most
(`app.commands.server.SWITCH_INTERVAL`). One piece at a time, because a second thread would only take the interpreter
from the first, and from the event loop.

Clients take turns (`api.fair_queue`): each address has one piece of work done before any has its second.
"""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api.fair_queue import FairQueue
from api.fields import refusal

# How many requests of one address may wait for their turn, and of all addresses. A page that asks for a handful of new
# documents at once has room. The last of all waits for 13 s at most, and usually for much less: no known document takes
# 50 ms of CPU (tests/integration/test_api_limits.py).
MOST_OF_ONE = 16
MOST_WAITING = 256

# A further request tries once more after so many seconds, and is then refused: a client that is refused at once sends
# the next request at once, and refusing hundreds of these costs more than letting them wait.
PAUSE = 1.0


class Work:
    """One piece of work, its result, and how many requests wait for that."""

    __slots__ = ("do", "requests", "result")

    def __init__(self, do: Callable[[], Any], result: "asyncio.Future[Any]") -> None:
        self.do, self.result, self.requests = do, result, 0


class Ticket:
    """One request's place in the queue of its client."""

    __slots__ = ("work",)

    def __init__(self, work: Work) -> None:
        self.work = work


class Turns:
    """Does work in a thread, one piece at a time, in turns by client; `done` counts the pieces."""

    def __init__(self, most_of_one: int = MOST_OF_ONE, most: int = MOST_WAITING, pause: float = PAUSE) -> None:
        self.most_of_one, self.most, self.pause = most_of_one, most, pause
        self.done = 0
        self.waiting = 0
        self._queue: FairQueue[Ticket] = FairQueue()
        self._works: dict[Hashable, Work] = {}
        self._is_busy = False
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, client: str, key: Hashable, do: Callable[[], Any]) -> Any:
        """
        Return what `do` returns, once it is the client's turn; what has the same `key` is done once for all.

        Raises a GraphQLError if too many requests wait. A request that is cancelled gives up its place.
        """
        if self._is_full(client):
            await asyncio.sleep(self.pause)
            if self._is_full(client):
                raise refusal(
                    "SERVICE_UNAVAILABLE",
                    f"Too many new documents wait for validation; the limit is {self.most_of_one} of one address and "
                    f"{self.most} of all. Try again in some seconds.",
                )
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = Work(do, asyncio.get_running_loop().create_future())
        ticket = Ticket(work)
        self._queue.add(client, ticket)
        work.requests += 1
        self.waiting += 1
        self._begin()
        try:
            # Shielded: others may wait for the same result.
            return await asyncio.shield(work.result)
        finally:
            self.waiting -= 1
            work.requests -= 1
            self._queue.remove(client, ticket)
            if not work.requests and self._works.get(key) is work:
                del self._works[key]

    def waiting_of(self, client: str) -> int:
        """Return how many requests of a client wait for their turn."""
        return self._queue.count(client)

    def _is_full(self, client: str) -> bool:
        return self.waiting >= self.most or self.waiting_of(client) >= self.most_of_one

    def _begin(self) -> None:
        """Begin the next work, unless one is being done."""
        while not self._is_busy and (ticket := self._queue.next()):
            work = ticket.work
            # Of several requests for one result, the first that had its turn has produced it for all.
            if not work.result.done():
                self._is_busy = True
                asyncio.get_running_loop().run_in_executor(self._executor(), work.do).add_done_callback(
                    lambda finished, work=work: self._end(work, finished)  # type: ignore[misc]
                )

    def _end(self, work: Work, finished: "asyncio.Future[Any]") -> None:
        self._is_busy = False
        self.done += 1
        error = None if finished.cancelled() else finished.exception()
        if finished.cancelled() or work.result.done():
            work.result.cancel()
        elif error is None:
            work.result.set_result(finished.result())
        elif work.requests:
            work.result.set_exception(error)
        self._begin()

    def _executor(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="turns")
        return self._thread
