"""
How long a client is waited for, before the request that it sends is anybody's.

uvicorn gives an idle connection five seconds, but only after its first answer, and neither bounds nor times what comes
before a body, nor how long an answer is read: a client that sends nothing, headers without end, or reads a byte now and
then would be kept for ever. Floods, and one client's share of the connections, are the business of a proxy in front.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.web.live import END
from app.web.upgrades import NoUpgradeProtocol

HEAD_WITHIN = 10.0  # seconds; at most twice that on a connection that had an answer before
ANSWER_READ_WITHIN = 60.0
LARGEST = 1024 * 1024  # of a request, in bytes, whatever it is made of

# Files that no client may take from Postgres, the providers and the log.
OURS = 64


class TimeoutProtocol(NoUpgradeProtocol):
    """uvicorn's protocol, with an end to its patience. Next to nothing of it is done for each request."""

    _seen: RequestResponseCycle | None = None
    _filling: RequestResponseCycle | None = None
    _size = 0
    _looking: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        if len(self.connections) > room():
            transport.abort()
        self._looking = self.loop.call_later(HEAD_WITHIN, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        self._looking.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on; hang up on a request that does not end."""
        super().data_received(data)
        if self.cycle is not self._filling:
            self._filling, self._size = self.cycle, 0
            return
        self._size += len(data)
        if self._size > LARGEST:
            self.transport.abort()

    def shutdown(self) -> None:
        """End a connection when its request has been answered; a stream, which has no end of its own, now."""
        super().shutdown()
        told: dict[str, Any] = dict(self._answered.scope) if self._answered else {}
        if self._answered and END in told:
            self._answered.keep_alive = False  # what was sent behind it, without waiting, may be a stream again
            told[END]()

    def _look(self) -> None:
        """Hang up if no head came since the last look: an idle connection would have been closed long before."""
        if self._unread():
            self._looking = self.loop.call_later(ANSWER_READ_WITHIN, self._look_again)
            return
        if self.cycle is self._seen and (self.cycle is None or self.cycle.response_complete):
            self.transport.abort()
        self._seen = self.cycle
        self._looking = self.loop.call_later(HEAD_WITHIN, self._look)

    def _look_again(self) -> None:
        if self._unread():
            self.transport.abort()
        else:
            self._look()

    def _unread(self) -> bool:
        """Return whether an answer is on its way: a connection that is to be closed still has something to send."""
        return self.transport.is_closing() or self.flow.write_paused


def room() -> int:
    """Return how many connections there may be: each is an open file, of which a process has so many."""
    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OURS, OURS)
