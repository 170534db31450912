"""
Connection timeouts, and how many connections there may be.

uvicorn closes an idle connection after five seconds, but only if the connection has had a response.
It limits neither the size of a head nor the time until the head is complete: a client that sends
nothing, or headers without end, would keep its connection for ever. app/web/unsent_responses.py
limits how slowly a client may read a response. A proxy in front of the service has to stop floods.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.web.journal_stream import END_STREAM
from app.web.received_requests import ReceivedProtocol

# How long a client may take to send a head, in seconds. Each connection is checked at this
# interval: a head must have arrived since the last check. So the first head may take this time. A
# later head may take up to twice this time: if the head before it arrived just after a check, the
# next check still accepts the connection.
HEAD_TIMEOUT = 10.0
# The most bytes of one request, including bytes that are parsed and not stored.
MAX_REQUEST_BYTES = 1024 * 1024

# File descriptors that connections of clients must leave for Postgres, the providers and the log.
RESERVED_FILES = 64
# A connection takes 25 KB when it is idle, and about 70 KB with an incomplete request. So this many
# connections take about 200 MB at most.
MAX_CONNECTIONS = 3000
# How old a connection without a request must be before it may be closed to make room, in seconds. A
# new connection needs this time to send its request.
MIN_AGE = 1.0

# The open connections by the address of the client, oldest first. There is one mapping for the
# process, because the limit of open files is a limit of the process.
_BY_ADDRESS: "dict[str, dict[TimeoutProtocol, None]]" = {}


class TimeoutProtocol(ReceivedProtocol):
    """
    uvicorn's protocol with timeouts: it closes connections of clients that send too slowly.

    It has one timer for each connection and none for a request, because a timer for each request
    would cost more.
    """

    # The request that had arrived at the last check.
    _seen: RequestResponseCycle | None = None
    # The request whose bytes are counted in `_size`.
    _filling: RequestResponseCycle | None = None
    _size = 0
    _opened_at = 0.0
    _check_timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection. If there are too many, close one: another one or the new one."""
        super().connection_made(transport)
        self._opened_at = self.loop.time()
        same_address = _BY_ADDRESS.setdefault(self.address, {})
        if len(self.connections) > max_connections():
            _make_room(max(_BY_ADDRESS.values(), key=len), self)
        elif len(same_address) >= max_connections_per_address():
            _make_room(same_address, self)
        same_address[self] = None
        self._check_timer = self.loop.call_later(HEAD_TIMEOUT, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and forget the connection."""
        super().connection_lost(exc)
        self._check_timer.cancel()
        self._seen = self._filling = None
        same_address = _BY_ADDRESS[self.address]
        same_address.pop(self, None)
        if not same_address:
            del _BY_ADDRESS[self.address]

    def data_received(self, data: bytes) -> None:
        """Parse the bytes. Close the connection if one request has become too large."""
        super().data_received(data)
        if self.cycle is not self._filling:
            self._filling, self._size = self.cycle, 0
            return
        self._size += len(data)
        if self._size > MAX_REQUEST_BYTES:
            self.transport.abort()

    def shutdown(self) -> None:
        """Close the connection when its request is answered. End a stream at once."""
        super().shutdown()
        if not self._answered:
            return
        scope: dict[str, Any] = dict(self._answered.scope)
        if END_STREAM in scope:
            # The next request on this connection may ask for another stream, so it is not answered.
            self._answered.keep_alive = False
            scope[END_STREAM]()

    def _check(self) -> None:
        """
        Close the connection if no request is being answered and no head has arrived since the last
        check.

        Between two requests, uvicorn itself closes an idle connection, and earlier than this check.
        """
        # While a response is being sent, app/web/unsent_responses.py limits how long that may take.
        if not self._is_sending():
            if self.cycle is self._seen and (self.cycle is None or self.cycle.response_complete):
                self.transport.abort()
            self._seen = self.cycle
        self._check_timer = self.loop.call_later(HEAD_TIMEOUT, self._check)

    def may_be_closed(self) -> bool:
        """Return whether this connection has no complete request, and is not new."""
        return (
            self.is_receiving()
            and not self._is_sending()
            and self.loop.time() - self._opened_at >= MIN_AGE
        )

    def _is_sending(self) -> bool:
        """Return whether unsent bytes of a response exist, or the connection is being closed."""
        return self.transport.is_closing() or bool(self.transport.get_write_buffer_size())


def max_connections() -> int:
    """Return the most connections that memory and the limit of open files allow."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FILES
    return min(max(files, RESERVED_FILES), MAX_CONNECTIONS)


def max_connections_per_address() -> int:
    """Return how many connections one address may have: half of all, to leave room for others."""
    return max(max_connections() // 2, RESERVED_FILES)


def _make_room(same_address: dict[TimeoutProtocol, None], new: TimeoutProtocol) -> None:
    """
    Close one of the connections of an address: the oldest one that may be closed.

    If none may be closed, close the newest one of the address. If `new` comes from this address,
    `new` is the newest one.
    """
    newest = new if same_address is _BY_ADDRESS[new.address] else next(reversed(same_address))
    oldest = next((one for one in same_address if one.may_be_closed()), newest)
    oldest.transport.abort()
