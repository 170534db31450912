"""
Pipelined requests: a client sends them without waiting for the responses to its earlier requests.

uvicorn parses everything that has arrived, queues the requests, and continues to read after each
response. So one client could fill the memory with waiting requests. And when a client disconnects,
uvicorn reports this only to the newest request of the connection. So a stream would continue
without a reader until a write fails, if another request has arrived after the stream's request.

The protocol in this module divides the bytes that have arrived into small pieces, and parses one
piece after the other. While a request waits, the protocol neither parses nor reads, and TCP slows
the client down. There is one exception: if the response that is being sent is a stream, the
protocol reads up to a limit, but does not parse. If the client closes its half of the connection
after the last request, each request is still answered, unless a stream is being sent.

If a client reads too slowly, uvicorn pauses writing. Until uvicorn writes again, the next request
of the connection is not started. Otherwise its response would be computed and would wait in memory,
where no limit counts it.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.web.journal_stream import END_STREAM

# The size of the pieces, in bytes. One piece contains few requests: even if they are the shortest
# possible and all of them wait, they take less than a megabyte.
PIECE = 4096

# A key in a request's scope. Its value is the protocol of the connection on which the request came.
CONNECTION = "alpha_monday.connection"


class PipelineProtocol(HttpToolsProtocol):
    """
    uvicorn's protocol with a limit of waiting requests.

    When the client disconnects, the active request learns of it, and waiting requests are dropped.
    """

    # The request that is being answered, or, if there is none, the last request that was answered.
    # uvicorn's `cycle` is the request that arrived last, which may still be waiting.
    _answered: RequestResponseCycle | None = None
    # The bytes that have arrived and are not parsed yet. While there are any, nothing more is read,
    # except if a stream is being sent.
    _arrived = b""
    # A request, with its application, that waits until the client reads the earlier responses.
    _waiting: tuple[RequestResponseCycle, Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give a new connection its own flow control."""
        super().connection_made(transport)
        self.flow = _PipelineFlowControl(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the active request that the client has disconnected, and drop the waiting ones."""
        super().connection_lost(exc)
        self.pipeline.clear()
        self._waiting = None
        # uvicorn reports the disconnect only to the request that arrived last.
        if self._answered and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        # The parser and the requests refer to this object and this object refers to them: without
        # the next lines, all of them stay in memory until the next full garbage collection.
        self._ignore_the_rest()
        self.headers, self.url = [], b""
        self.cycle = self._answered = None  # type: ignore[assignment]

    def eof_received(self) -> bool:  # type: ignore[override]
        """
        Return whether the connection stays open until the last request is answered.

        The client may have closed only its own half, as `nc -N` does. For a stream the connection
        is closed, because a stream would not end.
        """
        cycle = self.cycle
        if cycle is None or cycle.more_body or cycle.response_complete or self._is_streaming():
            return False
        cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that have arrived until a request has to wait."""
        self._arrived += data
        self._continue_parsing()

    def _continue_parsing(self) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        while self._arrived and self._has_room():
            piece, self._arrived = self._arrived[:PIECE], self._arrived[PIECE:]
            self._parse(piece)
        # Almost always, everything is parsed and nothing waits.
        if not self._arrived and not self.pipeline:
            if self._has_room():
                self.flow.resume_reading()
        elif self._is_streaming():
            self._read_behind_a_stream()
        elif self._arrived:
            self.flow.pause_reading()

    def _is_streaming(self) -> bool:
        """Return whether the active response is a stream, which has no end of its own."""
        answered = self._answered
        return (
            answered is not None and END_STREAM in answered.scope and not answered.response_complete
        )

    def _read_behind_a_stream(self) -> None:
        """
        Continue to read although requests wait, up to a limit.

        A disconnect is noticed only on a connection that is read. Without reading, the stream would
        count as open until its next write fails, and the number of open streams is limited.
        """
        if len(self._arrived) > HIGH_WATER_LIMIT:
            self.transport.abort()
        else:
            # Not `self.flow.resume_reading`, which does not read while requests wait.
            FlowControl.resume_reading(self.flow)

    def _has_room(self) -> bool:
        """Return whether no request waits, and most of the newest request's body was read."""
        if self.pipeline:
            return False
        cycle = self.cycle
        return cycle is None or cycle.response_complete or len(cycle.body) <= HIGH_WATER_LIMIT

    def _parse(self, piece: bytes) -> None:
        """
        Parse a piece of the bytes. A subclass implements this, and answers invalid requests.

        After an invalid request, uvicorn's own implementation would close the connection before the
        requests that arrived earlier are answered.
        """
        raise NotImplementedError

    def _ignore_the_rest(self) -> None:
        """Stop parsing: the connection is about to be closed."""
        self._arrived = b""
        self.parser = _IgnoringParser()  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start the next request, or let it wait until its client has read earlier responses."""
        self._answered = cycle
        cycle.scope[CONNECTION] = self  # type: ignore[literal-required]
        if self.flow.write_paused:
            self._waiting = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        """Start the request that waited for the client to read."""
        super().resume_writing()
        if self._waiting and not self.flow.write_paused:
            cycle, app = self._waiting
            self._waiting = None
            self._start_asgi_task(cycle, app)


class _PipelineFlowControl(FlowControl):
    """
    Resumes reading only when everything that has arrived is parsed and no request waits.

    There is one exception: if the response that is being sent is a stream, it resumes at once.
    """

    def __init__(self, protocol: PipelineProtocol) -> None:
        super().__init__(protocol.transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        protocol = self._protocol
        nothing_waits = not protocol._arrived and not protocol.pipeline
        if nothing_waits or protocol._is_streaming():
            super().resume_reading()
        elif not protocol.pipeline:
            # Only in the next step of the event loop: uvicorn calls this method before it removes
            # the part of the body that the application has read, so there is no room yet.
            protocol.loop.call_soon(protocol._continue_parsing)


class _IgnoringParser:
    """The parser of a connection that is about to be closed."""

    def feed_data(self, data: object) -> None:
        """Do nothing."""
