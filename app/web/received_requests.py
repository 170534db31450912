"""
Limits the memory of requests that have arrived in part or completely and are not answered yet.

The head and the body of one request have limits (64 KB for a head, 64 KB for a body). But if three
thousand clients (`app.web.timeouts.MAX_CONNECTIONS`) each sent almost a whole request, these
requests would take almost 400 MB. A counter adds up the bytes of all connections of the process.
If the sum exceeds its limit, the counter makes room: it finds the address with the most bytes. Of
this address's connections with an incomplete request, it closes the one that has been counted for
the longest time.
"""

import asyncio
from typing import Any

from api.clients import UNKNOWN_CLIENT, ClientCounter, address_group
from app.web.unsent_responses import UnsentProtocol

# The limit for all connections, in bytes. It has room for about 130 of the longest requests.
MAX_RECEIVED = 16 * 1024 * 1024
# In bytes. A request up to this size is not counted. Almost every request is that small, so almost
# no request pays for counting. The memory of small requests is limited by the number of connections
# (`app.web.timeouts.MAX_CONNECTIONS`).
SMALL_REQUEST = 4 * 1024


class ReceivedCounter(ClientCounter):
    """The bytes of unanswered requests, by the address of the clients that sent them."""

    def __init__(self) -> None:
        super().__init__()
        # The counted connections of each address. A dict keeps their order: the connection that has
        # been counted for the longest time is first.
        self.connections: dict[str, dict[ReceivedProtocol, None]] = {}

    def set_size(self, connection: "ReceivedProtocol", size: int) -> None:
        """
        Record that a connection has `size` bytes of unanswered requests.

        If `size` is 0, the connection is not counted any more.
        """
        address = connection.address
        self.add(address, size - connection.counted)
        connection.counted = size
        same_address = self.connections.setdefault(address, {})
        if size:
            same_address.setdefault(connection)
        else:
            same_address.pop(connection, None)
        if not same_address:
            del self.connections[address]

    def make_room(self, new: "ReceivedProtocol") -> None:
        """
        Disconnect clients of the address with the most bytes, until all bytes are within the limit.

        `new` is the connection that has just received bytes. It is disconnected if the address with
        the most bytes has no connection with an incomplete request.
        """
        while self.total > MAX_RECEIVED:
            largest = max(self.by_client, key=self.count_for)
            # A complete request is being answered, so its memory is freed anyway.
            incomplete = (one for one in self.connections[largest] if one.is_receiving())
            victim = next(incomplete, new)
            if not victim.counted:
                return
            self.set_size(victim, 0)
            victim.transport.abort()


# One counter for the process, because it protects the memory of the process.
RECEIVED = ReceivedCounter()


class ReceivedProtocol(UnsentProtocol):
    """uvicorn's protocol with a count of the bytes of unanswered requests."""

    address = UNKNOWN_CLIENT  # the address for which this connection is counted
    counted = 0  # the bytes that `RECEIVED` has counted for this connection
    _received = 0  # the bytes that have arrived and belong to requests that are not answered yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set the address for which a new connection is counted."""
        super().connection_made(transport)
        if self.client:
            self.address = address_group(self.client[0])

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting a closed connection."""
        super().connection_lost(exc)
        if self.counted:
            RECEIVED.set_size(self, 0)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, and count the connection if it has more than SMALL_REQUEST."""
        self._received += len(data)
        super().data_received(data)
        if self._received <= SMALL_REQUEST or self.transport.is_closing() or self._is_discarded():
            return
        RECEIVED.set_size(self, self._received)
        if RECEIVED.total > MAX_RECEIVED:
            RECEIVED.make_room(self)

    def on_response_complete(self) -> None:
        """Stop counting the answered request; count only the bytes that have arrived after it."""
        super().on_response_complete()
        self._received = len(self._arrived)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._received += len(cycle.body)
        if not self.counted:
            return
        if self._received > SMALL_REQUEST:
            RECEIVED.set_size(self, self._received)
        else:
            RECEIVED.set_size(self, 0)

    def is_receiving(self) -> bool:
        """Return whether the connection has no complete request that waits for its response."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete or bool(cycle.more_body)

    def _is_discarded(self) -> bool:
        """Return whether the arriving bytes belong to the body of an answered request."""
        cycle: Any = self.cycle
        return cycle is not None and bool(cycle.response_complete) and bool(cycle.more_body)
