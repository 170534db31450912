"""
Limits how many expensive requests run at once, in turns by client.

Heavy operations (`api.limits.Amount.is_heavy`) may use only some of the API's connections, so that
other requests always find a free connection. Responses that may be longer than usual
(`api.lengths.MAX_LONG_RESULT_BYTES`) are read one at a time. Only a few requests may wait, and
clients take turns (`api.fair_queue`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from api.fair_queue import FairQueue
from api.fields import api_error

# The assumed number of the API's connections, for an engine that is created without semaphores.
DEFAULT_CONNECTIONS = 8

# How many requests may wait. If a response takes a tenth of a second, each of the waiting requests
# gets its turn before WAIT_TIMEOUT.
MAX_WAITING = 16

# How long a request waits, in seconds. It is as long as a query waits for a connection (`READ_WAIT`
# in app/main.py).
WAIT_TIMEOUT = 2.0

WaitingContext = Callable[[], AbstractContextManager[object]]


class FairSemaphore:
    """Lets at most `places` requests run at a time; the others wait in turns by client."""

    def __init__(
        self, places: int, max_waiting: int = MAX_WAITING, wait_timeout: float = WAIT_TIMEOUT
    ) -> None:
        self.free = places
        self.max_waiting = max_waiting
        self.wait_timeout = wait_timeout
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return len(self._queue)

    @asynccontextmanager
    async def turn(
        self, client: str, while_waiting: WaitingContext = nullcontext
    ) -> AsyncIterator[None]:
        """
        Wait for a place, inside the context `while_waiting`, and occupy it until the block ends.

        Raises SERVICE_UNAVAILABLE if too many requests wait, or if this one waits too long.
        """
        with while_waiting():
            await self._acquire(client)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, client: str) -> None:
        if self.free:
            self.free -= 1
            return
        if self.waiting >= self.max_waiting:
            self._make_room(client)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.add(client, place)
        try:
            async with asyncio.timeout(self.wait_timeout):
                await place
        except BaseException as error:
            # Perhaps this request got the place in the same step of the event loop in which it
            # timed out or was cancelled. Then the place is given back. If the request was refused
            # in that step, its future has an exception, and there is no place to give back.
            if place.done() and not place.cancelled() and place.exception() is None:
                self._release()
            if isinstance(error, TimeoutError):
                raise _too_many_error() from None
            raise
        finally:
            self._queue.remove(client, place)

    def _make_room(self, client: str) -> None:
        """
        Refuse the newest request of the client that has the most requests waiting.

        Raises SERVICE_UNAVAILABLE if that client is `client`, or if `client`, with its new request,
        would have at least as many.
        """
        busiest = self._queue.busiest_client()
        if self._queue.count(busiest) <= self._queue.count(client) + 1:
            raise _too_many_error()
        newest = self._queue.take_newest(busiest)
        # A request that has just been cancelled makes room, too.
        if not newest.done():
            newest.set_exception(_too_many_error())

    def _release(self) -> None:
        """Give the place to the next request that still waits."""
        while True:
            place = self._queue.take_next()
            if place is None:
                self.free += 1
                return
            if not place.done():
                place.set_result(None)
                return


class QuerySemaphores:
    """The semaphores of one process whose API has `connections` connections."""

    def __init__(self, connections: int) -> None:
        # Half of the connections, so that the other half is left to all other operations.
        self.heavy = FairSemaphore(max(1, connections // 2))
        self.long = FairSemaphore(1)

    @asynccontextmanager
    async def long_turn(
        self, client: str, while_waiting: WaitingContext = nullcontext
    ) -> AsyncIterator[None]:
        """Wait for the two places that a long response needs: it is a heavy operation, too."""
        async with self.long.turn(client, while_waiting), self.heavy.turn(client, while_waiting):
            yield


def _too_many_error() -> Exception:
    return api_error(
        "SERVICE_UNAVAILABLE", "Too many large responses are being requested. Try again soon."
    )
