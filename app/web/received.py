"""
How much memory the requests may take that clients have begun and not been answered.

Each request has limits of its own (64 KB of a head, 64 KB of a body), but eight thousand clients
that each send nearly all of one would hold half a gigabyte. A ledger counts what all connections
of the process hold. Above its budget, room is made: the address whose clients hold most loses its
oldest connection with a request that has not come to its end.
"""

import asyncio
from typing import Any

from api.clients import UNKNOWN, Tally, group_of
from app.web.unsent import UnsentProtocol

# In bytes: two hundred and fifty of the longest requests.
MOST_RECEIVED = 16 * 1024 * 1024
# A request of so many bytes is not counted: almost every request is one, and pays for no count.
# The number of connections bounds what these take (`app.web.timeouts.MOST_CONNECTIONS`).
SMALL = 4 * 1024


class Received(Tally):
    """What the connections of a process hold: bytes of requests that have not been answered."""

    def __init__(self) -> None:
        super().__init__()
        # The connections of each address, the one that began to hold first in front.
        self.holding: dict[str, dict[ReceivedProtocol, None]] = {}

    def hold(self, connection: "ReceivedProtocol", size: int) -> None:
        """Note that a connection holds `size` bytes."""
        self.add(connection.sender, size - connection.counted)
        connection.counted = size
        others = self.holding.setdefault(connection.sender, {})
        if size:
            others.setdefault(connection)
        else:
            others.pop(connection, None)
        if not others:
            del self.holding[connection.sender]

    def make_room(self, new: "ReceivedProtocol") -> None:
        """Disconnect the clients that hold most, until the rest fits in the budget."""
        while self.total > MOST_RECEIVED:
            greediest = max(self.by_client, key=self.of)
            others = self.holding[greediest]
            # A request that has come to its end is being answered, which ends by itself.
            unfinished = (one for one in others if one.is_receiving())
            victim = next(unfinished, new)
            if not victim.counted:
                return
            self.hold(victim, 0)
            victim.transport.abort()


# One for the process, because its memory is one.
RECEIVED = Received()


class ReceivedProtocol(UnsentProtocol):
    """uvicorn's protocol, in which the bytes of requests that wait for their answer count."""

    sender = UNKNOWN  # the address of the connection, of which the ledger counts
    counted = 0  # bytes, as the ledger has them
    _received = 0  # bytes that have arrived since the last response was complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        self.sender = group_of(self.client[0]) if self.client else UNKNOWN

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        if self.counted:
            RECEIVED.hold(self, 0)

    def data_received(self, data: bytes) -> None:
        """Read on, and count it if the request is no small one."""
        self._received += len(data)
        super().data_received(data)
        if self._received <= SMALL or self.transport.is_closing() or self._is_discarded():
            return
        RECEIVED.hold(self, self._received)
        if RECEIVED.total > MOST_RECEIVED:
            RECEIVED.make_room(self)

    def on_response_complete(self) -> None:
        """Count what was answered no longer, and of requests behind it what has arrived of them."""
        super().on_response_complete()
        cycle = self.cycle
        behind = 0 if cycle is None or cycle.response_complete else len(cycle.body)
        self._received = len(self._arrived) + behind
        if self.counted:
            RECEIVED.hold(self, self._received if self._received > SMALL else 0)

    def is_receiving(self) -> bool:
        """Return whether the end of a request has not come."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete or bool(cycle.more_body)

    def _is_discarded(self) -> bool:
        """Return whether what arrives is the rest of a body whose request was answered."""
        cycle: Any = self.cycle
        return cycle is not None and bool(cycle.response_complete) and bool(cycle.more_body)
