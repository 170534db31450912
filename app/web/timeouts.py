"""
Connection timeouts: how long a client may take to send its request, and how many connections it may have.

uvicorn gives an idle connection five seconds, but only after its first answer, and neither bounds nor times what comes
before a body: a client that sends nothing, or headers without end, would be kept for ever. How slowly a response may be
read is seen to in app/web/unsent.py. Floods are the business of a proxy in front.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.web.live import END
from app.web.received import ReceivedProtocol

HEAD_WITHIN = 10.0  # seconds; at most twice that on a connection that had an answer before
LARGEST = 1024 * 1024  # of a request, in bytes, whatever it is made of

# Files that no client may take from Postgres, the providers and the log.
OURS = 64
# Each takes 25 KB at rest, and some 70 KB with a request that was begun and not ended: together some 200 MB.
MOST_CONNECTIONS = 3000
# How long, in seconds, a connection is there before it gives way to another one while it has no request.
SETTLED = 1.0

# The open connections by the address of the client, oldest first; one for the process, as its files are.
_BY_ADDRESS: "dict[str, dict[TimeoutProtocol, None]]" = {}


class TimeoutProtocol(ReceivedProtocol):
    """uvicorn's protocol, with an end to its patience. Next to nothing of it is done for each request."""

    _seen: RequestResponseCycle | None = None
    _filling: RequestResponseCycle | None = None
    _size = 0
    _opened = 0.0
    _looking: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        self._opened = self.loop.time()
        others = _BY_ADDRESS.setdefault(self.sender, {})
        if len(self.connections) > room():
            _make_room(max(_BY_ADDRESS.values(), key=len), self)
        elif len(others) >= room_of_an_address():
            _make_room(others, self)
        others[self] = None
        self._looking = self.loop.call_later(HEAD_WITHIN, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        self._looking.cancel()
        self._seen = self._filling = None
        others = _BY_ADDRESS[self.sender]
        others.pop(self, None)
        if not others:
            del _BY_ADDRESS[self.sender]

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
            # How slowly it may be read is seen to where it is counted; see app/web/unsent.py.
            self._looking = self.loop.call_later(HEAD_WITHIN, self._look)
            return
        if self.cycle is self._seen and (self.cycle is None or self.cycle.response_complete):
            self.transport.abort()
        self._seen = self.cycle
        self._looking = self.loop.call_later(HEAD_WITHIN, self._look)

    def gives_way(self) -> bool:
        """Return whether this connection has no complete request, and was there for a while."""
        return self.is_receiving() and not self._unread() and self.loop.time() - self._opened >= SETTLED

    def _unread(self) -> bool:
        """Return whether an answer is on its way: a connection that is to be closed still has something to send."""
        return self.transport.is_closing() or bool(self.transport.get_write_buffer_size())


def room() -> int:
    """Return how many connections there may be: each takes memory, and is one of the files that may be open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OURS
    return min(max(files, OURS), MOST_CONNECTIONS)


def room_of_an_address() -> int:
    """Return how many connections the clients of one address may have: others are let in, too."""
    return max(room() // 2, OURS)


def _make_room(others: dict[TimeoutProtocol, None], new: TimeoutProtocol) -> None:
    """
    End the oldest of the other connections that has no complete request, or else the newest of them.

    If the new one belongs to the address that has most, it is the newest.
    """
    newest = new if others is _BY_ADDRESS[new.sender] else next(reversed(others))
    old = next((one for one in others if one.gives_way()), newest)
    old.transport.abort()
