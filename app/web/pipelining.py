"""
Requests that a client sends without waiting for the responses before them.

uvicorn parses all that has arrived, queues the requests, and reads on with each response: one
client could fill the memory with requests that wait. And when a client leaves, uvicorn tells only
the newest request of the connection: a stream with a request behind it went on without a reader,
until a write failed.

Here what has arrived is parsed a piece at a time, and neither parsed nor read on while requests
wait. The client is held up by TCP, and each of its requests is answered in the end, also if it
closes its half of the connection behind them.

A request is not begun either while its client has not read the responses before it: its answer
would be computed, and would then wait in memory, where no limit counts it.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.web.live import END

# In bytes. However short requests are, those in one piece take less than a megabyte while they wait.
PIECE = 4096


# In a request's scope: the connection that it came on.
CONNECTION = "alpha_monday.connection"


class PipelineProtocol(HttpToolsProtocol):
    """uvicorn's protocol, in which few requests wait, and each hears that its client has gone."""

    _answered: RequestResponseCycle | None = None  # the request that is being answered, or was last
    _arrived = b""  # and not parsed yet; while there is some, nothing is read
    _waiting: tuple[RequestResponseCycle, Any] | None = None  # for the client to read the responses before

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        self.flow = _Flow(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered; the one that came last is told by uvicorn."""
        super().connection_lost(exc)
        self.pipeline.clear()
        self._waiting = None
        if self._answered and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        # The parser and the requests refer to this object, and it to them: what they hold of a request would stay in
        # memory until the next full garbage collection.
        self._ignore_the_rest()
        self.headers, self.url = [], b""
        self.cycle = self._answered = None  # type: ignore[assignment]

    def eof_received(self) -> bool:  # type: ignore[override]
        """
        Return whether the connection stays until the last request is answered.

        Its client may have closed only its own half, as `nc -N` does. A stream would not end.
        """
        cycle = self.cycle
        if cycle is None or cycle.more_body or cycle.response_complete or self._streams():
            return False
        cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, as far as there is room for it."""
        self._arrived += data
        self._parse_on()

    def _parse_on(self) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        while self._arrived and self._has_room():
            piece, self._arrived = self._arrived[:PIECE], self._arrived[PIECE:]
            self._parse(piece)
        if not self._arrived and not self.pipeline:  # almost always
            if self._has_room():
                self.flow.resume_reading()
        elif self._streams():
            self._read_behind_a_stream()
        elif self._arrived:
            self.flow.pause_reading()

    def _streams(self) -> bool:
        """Return whether the response that is being sent is a stream, which has no end of its own."""
        answered = self._answered
        return answered is not None and END in answered.scope and not answered.response_complete

    def _read_behind_a_stream(self) -> None:
        """
        Read on, though requests wait: only a connection that is read tells that its client has gone.

        Else the stream would hold its place until its next write fails.
        """
        if len(self._arrived) > HIGH_WATER_LIMIT:
            self.transport.abort()
        else:
            FlowControl.resume_reading(self.flow)

    def _has_room(self) -> bool:
        """Return whether no request waits, and nothing of a body waits that is read."""
        if self.pipeline:
            return False
        cycle = self.cycle
        return cycle is None or cycle.response_complete or len(cycle.body) <= HIGH_WATER_LIMIT

    def _parse(self, piece: bytes) -> None:
        """
        Parse a piece of what has arrived: a subclass says how, and answers what is invalid.

        uvicorn's own way would close the connection at once, before the requests in front are answered.
        """
        raise NotImplementedError

    def _ignore_the_rest(self) -> None:
        """Parse nothing more of a connection that is about to end."""
        self._arrived = b""
        self.parser = _Ignored()  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin with an answer; `cycle` of the connection is the request that came last, which may have to wait."""
        self._answered = cycle
        cycle.scope[CONNECTION] = self  # type: ignore[literal-required]
        if self.flow.write_paused:
            self._waiting = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        """Begin with the answer that waited for the client to read."""
        super().resume_writing()
        if self._waiting and not self.flow.write_paused:
            (cycle, app), self._waiting = self._waiting, None
            self._start_asgi_task(cycle, app)


class _Flow(FlowControl):
    """Reads on only when all that has arrived before is parsed, and no request waits."""

    def __init__(self, protocol: PipelineProtocol) -> None:
        super().__init__(protocol.transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        protocol = self._protocol
        nothing_waits = not protocol._arrived and not protocol.pipeline
        if nothing_waits or protocol._streams():
            super().resume_reading()
        elif not protocol.pipeline:
            # Not here: uvicorn calls this before it takes from the body what makes room.
            protocol.loop.call_soon(protocol._parse_on)


class _Ignored:
    """Stands for the parser of a connection that is about to end."""

    def feed_data(self, data: object) -> None:
        """Do nothing."""
