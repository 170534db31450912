"""
Lanes: how requests that cost much wait for each other, so that the others find a connection at once.

A heavy operation (`api.limits.Amount.is_heavy`) may only use some of the API's connections. An answer that is longer
than others may be (`api.lengths.MOST_BYTES_OF_ONE`) is read alone. Those that wait are few, and they take turns by
client (`api.fair_queue`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from api.fair_queue import FairQueue
from api.fields import refusal

# The connections of an API that does not say how many it has.
CONNECTIONS = 8

# How many requests wait for a turn: with answers of a tenth of a second, each of them has its turn in time.
MOST_WAITING = 16

# How long a request waits, in seconds: as long as one waits for a connection.
LONGEST_WAIT = 2.0


class Lane:
    """Lets in at most `places` requests at a time; the others wait."""

    def __init__(self, places: int, most_waiting: int = MOST_WAITING, longest_wait: float = LONGEST_WAIT) -> None:
        self.free, self.most_waiting, self.longest_wait = places, most_waiting, longest_wait
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return len(self._queue)

    @asynccontextmanager
    async def turn(
        self, client: str, outside: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> AsyncIterator[None]:
        """
        Wait for a turn, in the context `outside`, and keep it.

        Raises SERVICE_UNAVAILABLE when too many wait, or for too long.
        """
        with outside():
            await self._begin(client)
        try:
            yield
        finally:
            self._end()

    async def _begin(self, client: str) -> None:
        if self.free:
            self.free -= 1
            return
        if self.waiting >= self.most_waiting:
            self._make_room(client)
        own: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.add(client, own)
        try:
            async with asyncio.timeout(self.longest_wait):
                await own
        except BaseException as error:
            # The turn may have come in the same step as the end of the wait; a refusal may have, too.
            if own.done() and not own.cancelled() and own.exception() is None:
                self._end()
            if isinstance(error, TimeoutError):
                raise _busy() from None
            raise
        finally:
            self._queue.remove(client, own)

    def _make_room(self, client: str) -> None:
        """Refuse the last request of the client that has most of them waiting, or this one."""
        greediest = self._queue.longest()
        if self._queue.count(greediest) <= self._queue.count(client) + 1:
            raise _busy()
        last = self._queue.last(greediest)
        if not last.done():  # else it has just been cancelled, which makes room, too
            last.set_exception(_busy())

    def _end(self) -> None:
        """Give the turn to the next request."""
        while own := self._queue.next():
            if not own.done():
                own.set_result(None)
                return
        self.free += 1


class Lanes:
    """The turns of one process whose API has so many `connections`."""

    def __init__(self, connections: int) -> None:
        self.heavy = Lane(max(1, connections // 2))
        self.alone = Lane(1)

    @asynccontextmanager
    async def both(
        self, client: str, outside: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> AsyncIterator[None]:
        """Wait for a turn to read alone, which is a heavy operation, too."""
        async with self.alone.turn(client, outside), self.heavy.turn(client, outside):
            yield


def _busy() -> Exception:
    return refusal("SERVICE_UNAVAILABLE", "Too many large answers are asked for right now. Try again soon.")
