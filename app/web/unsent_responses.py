"""
Limits the memory of unread responses, and how slowly a client may read.

uvicorn passes a whole response to the transport, which keeps it until the client has read it. So a
client that requests a lot and reads nothing would take as much memory as it requests. A counter
adds up the unread bytes of all connections of the process, for every kind of response. If a
response would bring this sum above its limit, the slowest clients are disconnected. If that does
not make enough room, an error (503) is sent in place of the response. Small responses are excepted:
see SMALL_RESPONSE.
"""

import asyncio
import fcntl
import sys
import termios
from typing import Any

from api.clients import ClientCounter, client_address
from api.http import unread_messages
from app.web.pipelining import CONNECTION
from app.web.request_parsing import RequestParsingProtocol

# The limit for all connections, in bytes. A Fly.io machine has 512 MB: the service itself takes 150
# MB, and the responses that are being computed up to 100 MB.
MAX_UNSENT = 64 * 1024 * 1024
# The limit for one address, in bytes: the clients of one address cannot use all of the memory.
MAX_UNSENT_PER_ADDRESS = MAX_UNSENT // 2
# In bytes. A cached or computed response up to this size is always sent to a client that has read
# all earlier responses. So a client that requests little gets a cached response, even if other
# clients leave a lot unread. (While there is no room, no new response is computed: see
# `make_room`.) If the connection has unread bytes, they are added to the size of the response: with
# 10 KB unread, a response of up to 6 KB is sent without a check of the limits.
SMALL_RESPONSE = 16 * 1024

# In bytes per second. A client that reads more slowly than this loses credit, and is disconnected
# when it has no credit left. It needs credit for pauses, because even a connection of 32 KB/s reads
# in steps: its TCP window may open again only after half of its buffer has been read.
MIN_PACE = 16 * 1024
# The credit of a client that reads fast enough, in seconds: it may read nothing for this long.
CREDIT = 20.0
# How much credit a client must have lost before it may be disconnected to make room, in seconds. A
# client that reads nothing loses one second of credit in a second.
STALL_TIME = 3.0
# The time between two checks of the connections with unread responses, in seconds.
SWEEP_INTERVAL = 2.0
# The shortest time between two searches for slow clients, in seconds. Refusing a response must stay
# cheap, and a search visits each connection with unread responses. So not every refusal searches.
SEARCH_INTERVAL = 0.2

# The beginnings of the names of some headers. If the refused response has such a header, the error
# that is sent in its place has it, too.
_KEPT_HEADERS = (
    b"access-control-",
    b"x-",
    b"vary",
    b"referrer-policy",
    b"content-security-policy",
    b"cross-origin-",
    b"strict-",
)


class UnsentCounter(ClientCounter):
    """The bytes of unread responses, by the address of the client."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: set[UnsentProtocol] = set()
        # How many responses were refused.
        self.refused = 0
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._searched_at = 0.0

    def set_size(self, connection: "UnsentProtocol", address: str, size: int) -> None:
        """Record that `size` bytes are unread on a connection with the client at `address`."""
        self.add(connection.unread_address, -connection.unread_bytes)
        self.add(address, size)
        connection.unread_bytes, connection.unread_address = size, address
        if not size:
            self._forget(connection)
            return
        self.connections.add(connection)
        if not self._sweep_timer:
            self._start_timer(connection.loop)

    def _forget(self, connection: "UnsentProtocol") -> None:
        self.connections.discard(connection)
        if self._sweep_timer and not self.connections:
            # Otherwise `_sweep_timer` would still be set after the loop has ended, and a later loop
            # (in tests) would start no timer.
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def admit(self, address: str, size: int, loop: asyncio.AbstractEventLoop) -> bool:
        """
        Return whether a response of `size` bytes may be sent to the client at `address`.

        If there is no room for it, clients that read too slowly are disconnected to make room, at
        most once in SEARCH_INTERVAL.
        """
        if self._fits(address, size):
            return True
        now = loop.time()
        if now - self._searched_at >= SEARCH_INTERVAL:
            self._searched_at = now
            self._make_room(address, size, now)
        if self._fits(address, size):
            return True
        self.refused += 1
        return False

    def _fits(self, address: str, size: int) -> bool:
        if self.total + size > MAX_UNSENT:
            return False
        # One response may exceed the limit of an address if nothing else is unread for the address.
        # Otherwise a very long journal entry, which an earlier version may have written, could
        # never be sent (see `api.lengths.MAX_LONG_RESULT_BYTES`).
        unread = self.count_for(address)
        return not unread or unread + size <= MAX_UNSENT_PER_ADDRESS

    def _make_room(self, address: str, size: int, now: float) -> None:
        """
        Disconnect clients that have lost STALL_TIME of their credit, until `size` bytes fit.

        The slowest client is disconnected first.
        """
        for connection in list(self.connections):
            connection.update(now)
        stalled = [one for one in self.connections if one.has_stalled(now)]
        for connection in sorted(stalled, key=lambda one: one.credit_until):
            if self._fits(address, size):
                return
            if self.total + size > MAX_UNSENT or connection.unread_address == address:
                connection.disconnect()

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_timer = loop.call_later(SWEEP_INTERVAL, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Disconnect clients that read too slowly."""
        now = loop.time()
        for connection in list(self.connections):
            connection.update(now)
            if connection.unread_bytes and now > connection.credit_until:
                connection.disconnect()
        # This must follow the loop above. If `_sweep_timer` were None before the loop, `update`
        # would start a timer (in `set_size`), and the lines below would start a second timer. Then
        # each sweep would double the number of timers.
        self._sweep_timer = None
        if self.connections:
            self._start_timer(loop)


# One counter for the process, because it protects the memory of the process.
UNSENT = UnsentCounter()


def counting_send(scope: Any, send: Any, size: int | None = None) -> Any:
    """
    Return a function in place of `send`: it counts the response to a request, and may refuse it.

    `size` is the size of the response in bytes, or None if it is not known. If it is known, `send`
    itself is returned in two cases:

    - The response is small, and nothing is unread on its connection.
    - Nothing is unread on any connection.

    In these cases, the bytes that the client has not read are counted only when the response is
    complete: counting each part would make cached responses a tenth slower.
    """
    connection = scope.get(CONNECTION)
    if connection is None:
        return send
    needs_no_count = size is not None and (size <= SMALL_RESPONSE or not UNSENT.total)
    if needs_no_count and not connection.unread_bytes:
        return send
    return _CountedResponse(connection, scope, send).send


def make_room(scope: Any) -> bool:
    """
    Return whether there is room for a small response to this request.

    If there is none, clients that read too slowly are disconnected first. If there is still none,
    the response counts as refused, and the service does not compute it.
    """
    loop = asyncio.get_running_loop()
    return UNSENT.admit(client_address(scope), SMALL_RESPONSE, loop)


class UnsentProtocol(RequestParsingProtocol):
    """
    uvicorn's protocol with a count of unread responses.

    It closes a connection whose client reads too slowly.
    """

    unread_bytes = 0  # the bytes that `UNSENT` has counted for this connection
    unread_address = ""  # the address for which it has counted them
    is_counted = False  # whether each part of the current response is counted when it is sent
    # The loop's time at which the client has no credit left if it reads nothing more.
    credit_until = 0.0
    # All bytes that were written since the client had last read everything, and the size of the
    # largest part that was written since then.
    _written = _largest = 0
    # The bytes that the client's system had not acknowledged at the last update. They include the
    # bytes that had not been sent by then.
    _outstanding = 0

    def on_response_complete(self) -> None:
        """Count the unread bytes of a response whose parts were not counted."""
        if not self.is_counted and self._answered:
            unsent = self.transport.get_write_buffer_size()
            if unsent:
                self.add_written(self._answered.scope, unsent)
        self.is_counted = False
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting a closed connection."""
        super().connection_lost(exc)
        if self.unread_bytes:
            UNSENT.set_size(self, self.unread_address, 0)

    def resume_writing(self) -> None:
        """Update the count, because most of the unread bytes have been sent."""
        if self.unread_bytes:
            self.update(self.loop.time())
        super().resume_writing()

    def admits(self, scope: Any, size: int) -> bool:
        """Return whether a response of `size` bytes may be sent."""
        if self.unread_bytes:
            self.update(self.loop.time())
        if size + self.unread_bytes <= SMALL_RESPONSE:
            return True
        return UNSENT.admit(client_address(scope), size, self.loop)

    def add_written(self, scope: Any, size: int) -> None:
        """Count `size` bytes that the transport has received and not sent completely."""
        unsent = self.transport.get_write_buffer_size()
        if not self.unread_bytes:
            self._written = self._largest = self._outstanding = 0
            self.credit_until = self.loop.time() + CREDIT
        if not self._outstanding:
            self._outstanding = unsent + self._unacknowledged()
        else:
            self._outstanding += size
        self._written += size
        self._largest = max(self._largest, size)
        UNSENT.set_size(self, client_address(scope), self._memory(unsent))

    def update(self, now: float) -> None:
        """Count what the client has read since the last update, and extend its credit."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            UNSENT.set_size(self, self.unread_address, 0)
            return
        outstanding = unsent + self._unacknowledged()
        read = max(self._outstanding - outstanding, 0)
        self._outstanding = outstanding
        self.credit_until = min(now + CREDIT, self.credit_until + read / MIN_PACE)
        UNSENT.set_size(self, self.unread_address, self._memory(unsent))

    def has_stalled(self, now: float) -> bool:
        """Return whether the client has lost more than STALL_TIME of its credit."""
        return self.credit_until - now < CREDIT - STALL_TIME

    def disconnect(self) -> None:
        """Disconnect a client that reads too slowly."""
        UNSENT.set_size(self, self.unread_address, 0)
        self.transport.abort()

    def _memory(self, unsent: int) -> int:
        """
        Return how many bytes of memory `unsent` bytes take.

        They can take more than their size, because the transport keeps each part of a response
        until the last byte of the part is sent.
        """
        return max(unsent, min(self._written, unsent + self._largest))

    def _unacknowledged(self) -> int:
        """Return how many sent bytes the client's system has not acknowledged yet."""
        number = self.transport.get_extra_info("socket").fileno()
        try:
            count = fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4))
        except OSError:  # this system does not support the request
            return 0
        return int.from_bytes(count, sys.byteorder)


class _CountedResponse:
    """Sends one response and counts each part of it, or sends an error in its place."""

    __slots__ = ("_connection", "_refused", "_scope", "_send", "_start")

    def __init__(self, connection: UnsentProtocol, scope: Any, send: Any) -> None:
        self._connection = connection
        self._scope = scope
        self._send = send
        self._start: dict[str, Any] | None = None
        self._refused = False
        connection.is_counted = True

    async def send(self, message: Any) -> None:
        """
        Send a message of the response.

        The start of the response waits for the first part of the body: the size of that part
        decides whether the response is sent or refused.
        """
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._refused:
            return
        connection = self._connection
        size = len(message.get("body", b""))
        if self._start:
            start, self._start = self._start, None
            if not self._is_admitted(size):
                self._refused = True
                start, message = _error_in_place_of(start)
            await self._send(start)
        await self._send(message)
        if connection.transport.get_write_buffer_size():
            connection.add_written(self._scope, size)

    def _is_admitted(self, size: int) -> bool:
        connection = self._connection
        if size <= SMALL_RESPONSE and not connection.unread_bytes:
            return True
        return connection.admits(self._scope, size)


def _error_in_place_of(start: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Return the messages of the error that is sent in place of a response.

    The error keeps those headers of the response that do not describe the response's body (see
    `_KEPT_HEADERS`).
    """
    headers = [(name.lower(), value) for name, value in start.get("headers", ())]
    kept = [
        (name, value)
        for name, value in headers
        if name.startswith(_KEPT_HEADERS) and name != b"x-journal-head"
    ]
    names = {name for name, _ in kept}
    refusal, body = unread_messages(dict(headers).get(b"content-type", b""))
    own = [(name, value) for name, value in refusal["headers"] if name not in names]
    return {**refusal, "headers": [*kept, *own]}, body
