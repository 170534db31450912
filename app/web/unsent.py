"""
How much memory the responses may take that clients have not read, and how slowly a client may read.

uvicorn hands a whole response to the transport, which keeps it until the client has taken it. So a
client that asks for much and reads nothing would hold as much memory as it asks for. A ledger
counts what all connections of the process hold, whatever the response is. Above its budget a
response is replaced by a refusal (503), and the clients that read least are disconnected.
"""

import asyncio
import fcntl
import sys
import termios
from typing import Any

from api.clients import Tally, client_of
from api.http import unread
from app.web.pipelining import CONNECTION
from app.web.upgrades import NoUpgradeProtocol

# In bytes. A Fly machine has 512 MB, of which the service takes 150 and what it computes at the same time 100.
MOST_UNSENT = 64 * 1024 * 1024
# Of it, what the clients of one address may hold: one address must not keep all others from being answered.
MOST_OF_AN_ADDRESS = MOST_UNSENT // 2
# A response of so many bytes is always sent to a client that has read all before: there is one on each connection,
# and a client that asks for little is answered however much others do not read.
SMALL = 16 * 1024

# In bytes a second. A client that reads more slowly loses credit, and is disconnected when it has none left. A line of
# 32 KB/s reads in steps: the window of its TCP connection opens after up to half of its buffer is read.
PACE = 16 * 1024
CREDIT = 20.0  # seconds
# How long, in seconds, a client must have read nothing before it is disconnected to make room for others.
STALLED = 3.0
LOOK_EVERY = 2.0  # seconds; only while a connection holds something
# How soon, in seconds, room is looked for again where there was none: a look costs a step for each connection that
# holds something, and refusals must stay cheap.
LOOK_AGAIN = 0.2

# The headers of a response that the refusal in its place has, too, by how their names begin.
_STAYING = ("access-control-", "x-", "vary", "referrer-policy", "content-security-policy", "cross-origin-", "strict-")
_STAY = tuple(name.encode() for name in _STAYING)


class Ledger(Tally):
    """What the connections of a process hold: bytes of responses that their clients have not read."""

    def __init__(self) -> None:
        super().__init__()
        self.holding: set[UnsentProtocol] = set()
        self.refused = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._looked_at = 0.0

    def hold(self, connection: "UnsentProtocol", address: str, size: int) -> None:
        """Note that a connection holds `size` bytes, for the client at `address`."""
        self.add(connection.held_for, -connection.held)
        self.add(address, size)
        connection.held, connection.held_for = size, address
        if not size:
            self.holding.discard(connection)
            if self._sweeping and not self.holding:
                # A timer that ends with its loop would keep a later loop from having one.
                self._sweeping.cancel()
                self._sweeping = None
            return
        self.holding.add(connection)
        if not self._sweeping:
            self._sweep_later(connection.loop)

    def admits(self, address: str, size: int, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether a client may be sent a response of `size` bytes; make room for it if others do not read."""
        if self._fits(address, size):
            return True
        now = loop.time()
        if now - self._looked_at >= LOOK_AGAIN:
            self._looked_at = now
            self._make_room(address, size, now)
        if self._fits(address, size):
            return True
        self.refused += 1
        return False

    def _fits(self, address: str, size: int) -> bool:
        held = self.of(address)
        # One response may be larger than an address's share: an entry of an old record is sent whole, or never.
        return self.total + size <= MOST_UNSENT and (not held or held + size <= MOST_OF_AN_ADDRESS)

    def _make_room(self, address: str, size: int, now: float) -> None:
        """Disconnect clients that have read nothing for a while, those first that have read least."""
        for connection in list(self.holding):
            connection.look(now)
        stalled = [one for one in self.holding if one.read_until - now < CREDIT - STALLED]
        for connection in sorted(stalled, key=lambda one: one.read_until):
            if self._fits(address, size):
                return
            if self.total + size > MOST_UNSENT or connection.held_for == address:
                connection.give_up()

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = loop.call_later(LOOK_EVERY, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Disconnect clients that read too slowly."""
        now = loop.time()
        for connection in list(self.holding):
            connection.look(now)
            if connection.held and now > connection.read_until:
                connection.give_up()
        # Only now, because to look at a connection is to note what it holds: that would begin a second row of sweeps,
        # and each of its sweeps another one. After half a minute they were all that the loop did.
        self._sweeping = None
        if self.holding:
            self._sweep_later(loop)


# One for the process, because its memory is one.
LEDGER = Ledger()


def counted(scope: Any, send: Any, size: int | None = None) -> Any:
    """
    Return what sends the response to a request so that it counts, or that it may be refused.

    `size` is how many bytes it has, where that is known. On a connection that holds nothing, a small one is sent as it
    is, and any while no connection holds something: what its client does not take at once counts when it is sent. More
    that is done for it would be a tenth of what a cached answer costs.
    """
    connection = scope.get(CONNECTION)
    if connection is None:
        return send
    if size is not None and not connection.held and (size <= SMALL or not LEDGER.total):
        return send
    return _Counted(connection, scope, send).send


def is_full(scope: Any) -> bool:
    """Return whether a client would be refused even a small answer: then nothing is computed for it."""
    return not LEDGER.admits(client_of(scope), SMALL, asyncio.get_running_loop())


class UnsentProtocol(NoUpgradeProtocol):
    """uvicorn's protocol, in which responses that are not read count, and end."""

    held = 0  # bytes of responses that the client has not read, as the ledger has them
    held_for = ""  # the address of that client
    is_counted = False  # whether what is sent of the response is counted piece by piece
    read_until = 0.0  # the loop's time at which the credit of a slow client ends
    _written = _largest = 0  # bytes: all, and in one piece, since the client had last read everything
    _outstanding = 0  # bytes: neither sent nor acknowledged by the client's system at the last look

    def on_response_complete(self) -> None:
        """Note what is left of a response that was not counted when it was sent."""
        if not self.is_counted and self._answered and (left := self.transport.get_write_buffer_size()):
            self.note(self._answered.scope, left)
        self.is_counted = False
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        if self.held:
            LEDGER.hold(self, self.held_for, 0)

    def resume_writing(self) -> None:
        """Look what is left when most of it is sent."""
        if self.held:
            self.look(self.loop.time())
        super().resume_writing()

    def admits(self, scope: Any, size: int) -> bool:
        """Return whether a response of `size` bytes may be sent."""
        if self.held:
            self.look(self.loop.time())
        if size + self.held <= SMALL:
            return True
        return LEDGER.admits(client_of(scope), size, self.loop)

    def note(self, scope: Any, size: int) -> None:
        """Note that `size` bytes were written, and not all of them sent."""
        left = self.transport.get_write_buffer_size()
        if not self.held:
            self._written = self._largest = self._outstanding = 0
            self.read_until = self.loop.time() + CREDIT
        if not self._outstanding:
            self._outstanding = left + self._unacknowledged()
        else:
            self._outstanding += size
        self._written += size
        self._largest = max(self._largest, size)
        LEDGER.hold(self, client_of(scope), self._memory(left))

    def look(self, now: float) -> None:
        """Note what the client has read since the last look."""
        left = self.transport.get_write_buffer_size()
        if not left:
            LEDGER.hold(self, self.held_for, 0)
            return
        outstanding = left + self._unacknowledged()
        read = max(self._outstanding - outstanding, 0)
        self._outstanding = outstanding
        self.read_until = min(now + CREDIT, self.read_until + read / PACE)
        LEDGER.hold(self, self.held_for, self._memory(left))

    def give_up(self) -> None:
        """Disconnect a client that does not read."""
        LEDGER.hold(self, self.held_for, 0)
        self.transport.abort()

    def _memory(self, left: int) -> int:
        """Return how much memory `left` bytes take: a piece stays whole until its last byte is sent."""
        return max(left, min(self._written, left + self._largest))

    def _unacknowledged(self) -> int:
        """Return how many bytes the system has that the client's system has not acknowledged."""
        number = self.transport.get_extra_info("socket").fileno()
        try:
            answer = fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4))
        except OSError:  # a system that does not tell
            return 0
        return int.from_bytes(answer, sys.byteorder)


class _Counted:
    """Sends one response to a connection, or a refusal in its place."""

    __slots__ = ("_connection", "_refused", "_scope", "_send", "_start")

    def __init__(self, connection: UnsentProtocol, scope: Any, send: Any) -> None:
        self._connection, self._scope, self._send = connection, scope, send
        self._start: dict[str, Any] | None = None
        self._refused = False
        connection.is_counted = True

    async def send(self, message: Any) -> None:
        """Send a message. The start of a response waits for its first piece, by whose size it is admitted."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._refused:
            return
        connection, size = self._connection, len(message.get("body", b""))
        if start := self._start:
            self._start = None
            if (size > SMALL or connection.held) and not connection.admits(self._scope, size):
                self._refused = True
                start, message = _refusal(start)
            await self._send(start)
        await self._send(message)
        if connection.transport.get_write_buffer_size():
            connection.note(self._scope, size)


def _refusal(start: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is sent in place of a response, with those of its headers that are no part of its body."""
    given = [(name.lower(), value) for name, value in start.get("headers", ())]
    kept = [pair for pair in given if pair[0].startswith(_STAY) and pair[0] != b"x-journal-head"]
    refusal, body = unread(dict(given).get(b"content-type", b""))
    names = {name for name, _ in kept}
    headers = [*kept, *(pair for pair in refusal["headers"] if pair[0] not in names)]
    return {**refusal, "headers": headers}, body
