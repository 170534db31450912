"""
Parses requests within limits, answers invalid ones, and ignores offers to upgrade the protocol.

A client offers another protocol by the header Upgrade. Java's HttpClient and `curl --http2` make
such an offer with the first request of every connection. A server may ignore the offer (RFC 9110,
section 7.8), and this one speaks only HTTP/1.1.

But llhttp, the parser that uvicorn uses, cannot be told to ignore an offer. It reports a request
with an offer as complete at the end of the head, and parses the body as the next request. So the
body would be lost. And a client that controls only the body of a request could make the server run
a second request (https://github.com/Kludex/uvicorn/issues/2722).

So the head of a request with an offer is parsed a second time, without the offer, by a new parser.
That parser then reads the body by Content-Length or Transfer-Encoding. A request without an offer
is parsed only once, and costs no more than in uvicorn's own class.
"""

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from api.headers import WEBSOCKET
from app.web.pipelining import PIECE, PipelineProtocol

# The limit of a head, and of all bytes around the chunks of one body. Without it, a client could
# send one header, or one trailer, after the other without end.
MAX_HEAD_BYTES = 64 * 1024
_MAX_HEAD_KB = MAX_HEAD_BYTES // 1024
# The response text for a head that exceeds this limit.
HEAD_TOO_LARGE = f"A head has at most {_MAX_HEAD_KB} KB: the request line and all headers."
# The response text for a body with more bytes than this limit around its chunks.
FRAMING_TOO_LARGE = f"Trailers and the extensions of chunks have at most {_MAX_HEAD_KB} KB."
# The most headers of a head, and the most trailers of a body. Each takes about two microseconds,
# however short it is: six thousand of them, which fit into 64 KB, delayed all other requests by
# milliseconds. Browsers and proxies send about 30.
MAX_HEADERS = 500
TOO_MANY_HEADERS = f"A head has at most {MAX_HEADERS} headers."
# The bytes around each chunk that do not count against MAX_HEAD_BYTES: the size of the chunk, the
# ends of two lines, and some zeros before the size.
_FREE_BYTES_PER_CHUNK = 16

INVALID = "Invalid HTTP request received."
NO_TUNNELS = "This server opens no tunnels."


class RequestParsingProtocol(PipelineProtocol):
    """uvicorn's protocol with limits for requests, and without upgrades to another protocol."""

    _head_bytes = 0  # how many bytes of an incomplete head have arrived
    _framing_bytes = 0  # the bytes after a head that do not belong to the content of the body
    # The response text if `on_headers_complete` has stopped the parser, else empty.
    _exceeded_limit = ""

    def _parse(self, piece: bytes) -> None:
        """Parse a piece of what has arrived, and refuse the request if it breaks a limit."""
        cycle = self.cycle
        body_before = len(cycle.body) if cycle is not None and cycle.more_body else 0
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            end_of_head = upgrade.args[0]
            self._parse_without_upgrade(memoryview(piece)[end_of_head:])
        except HttpParserError:
            self._refuse_unparsable()
            return

        receiving = self.cycle
        if receiving is None or not receiving.more_body:
            # The piece may contain the end of an earlier request before the head. So the limit here
            # is larger by one piece, and `on_headers_complete` computes the exact size of the head.
            self._head_bytes += len(piece)
            if self._head_bytes > MAX_HEAD_BYTES + PIECE:
                self._refuse(431, HEAD_TOO_LARGE)
                return
        elif receiving is cycle and not cycle.response_complete:
            # After the response is complete, uvicorn discards the rest of the request's body. Then
            # the bytes around the chunks cannot be distinguished from the body: they have no limit.
            self._framing_bytes += len(piece) - (len(cycle.body) - body_before)
            if self._framing_bytes > MAX_HEAD_BYTES:
                self._refuse(431, FRAMING_TOO_LARGE)
                return
        # This check is for an incomplete head and for trailers: `on_headers_complete` checks only
        # complete heads. But `self.headers` may also be those of a complete head, to which our own
        # header WEBSOCKET may have been added. So the limit here is larger by one header.
        if self.headers and len(self.headers) > MAX_HEADERS + 1:
            self._refuse(431, TOO_MANY_HEADERS)

    def _refuse_unparsable(self) -> None:
        """Refuse a request that is unparsable, or at which we have stopped the parser."""
        if self._exceeded_limit:
            self._refuse(431, self._exceeded_limit)
        else:
            self._refuse(400, INVALID)

    def on_headers_complete(self) -> None:
        """Begin the request if its head is within the limits; otherwise stop the parser."""
        # The exact size costs time, so it is computed only for a head that came in many pieces. The
        # exact size may be larger than `_head_bytes` for two reasons. `_head_bytes` is without the
        # last piece. And the exact size counts a space after each colon and two bytes for each end
        # of a line, even if the client has sent fewer bytes. The sum of the two differences is less
        # than two pieces.
        may_be_too_large = self._head_bytes > MAX_HEAD_BYTES - 2 * PIECE
        if may_be_too_large and self._head_size() > MAX_HEAD_BYTES:
            self._exceeded_limit = HEAD_TOO_LARGE
        elif len(self.headers) > MAX_HEADERS:
            self._exceeded_limit = TOO_MANY_HEADERS
        if self._exceeded_limit:
            # This stops the parser, which then raises HttpParserError.
            raise ValueError(self._exceeded_limit)
        self._head_bytes = self._framing_bytes = 0
        super().on_headers_complete()

    def _head_size(self) -> int:
        """Return the size of the current head in bytes."""
        request_line = len(b"GET  HTTP/1.1\r\n") + len(self.url)
        headers = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        return request_line + headers + len(b"\r\n")

    def _should_upgrade(self) -> bool:
        """
        Return True, so that uvicorn does not start a request with an offer.

        uvicorn calls this only for a request that its parser has reported as an upgrade.
        `_parse_without_upgrade` starts that request.
        """
        return True

    def _parse_without_upgrade(self, rest: memoryview) -> None:
        """
        Parse the head of a request with an offer once more, without the header Upgrade.

        Then parse `rest`: the bytes after this head.
        """
        while True:
            if self.scope["method"] == "CONNECT":
                # llhttp reports this method as an upgrade, even without the header Upgrade. The
                # bytes after the head are meant for a tunnel.
                self._refuse(405, NO_TUNNELS, (b"allow", b"GET, HEAD, OPTIONS, POST"))
                return
            is_handshake = self._is_websocket_handshake()
            head = self._head_without_upgrade()
            self.parser = _new_parser(self)
            try:
                self.parser.feed_data(head)
                if is_handshake:
                    # This header tells the middleware to refuse the request. The request has
                    # been created with this list of headers already. But its task has not begun
                    # yet, so the middleware sees the new header.
                    self.headers.append(WEBSOCKET)
                self.parser.feed_data(rest)
            except HttpParserUpgrade as upgrade:
                # The rest contains another request with an offer.
                rest = rest[upgrade.args[0] :]
            except HttpParserError:
                self._refuse_unparsable()
                return
            else:
                return

    def _is_websocket_handshake(self) -> bool:
        """Return whether the parsed head is a handshake that asks for a WebSocket."""
        return (
            self.scope["method"] == "GET"
            and self.scope["http_version"] == "1.1"
            and _names_websocket([value for name, value in self.headers if name == b"upgrade"])
        )

    def _head_without_upgrade(self) -> bytes:
        """Return the bytes of the parsed head without the header Upgrade."""
        method = self.scope["method"].encode()
        http_version = self.scope["http_version"].encode()
        request_line = b"%b %b HTTP/%b" % (method, self.url, http_version)
        lines = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([request_line, *lines, b"", b""])

    def on_chunk_header(self) -> None:
        """
        Collect trailers in a new list, because the request uses the old list as its headers.

        No trailer must become a header: a proxy in front of the service checks and removes headers,
        but passes trailers on (RFC 9110, section 6.5.1).
        """
        self.headers = []
        self._framing_bytes -= _FREE_BYTES_PER_CHUNK

    def _refuse(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        """
        Answer an invalid request after the requests that came before it. Then close the connection.

        Nothing that arrives after the invalid request is parsed.
        """
        self._ignore_the_rest()
        self.logger.warning(reason)
        cycle = self.cycle
        is_queued = bool(self.pipeline) and self.pipeline[0][0] is cycle
        if cycle and cycle.more_body and not is_queued:
            # The invalid bytes are in the body of the request that is being answered.
            if cycle.response_started:
                self.transport.close()
            else:
                self._write_error(status, reason)
            return
        if cycle and cycle.more_body:
            # The invalid bytes are in the body of a request that waits in the pipeline.
            self.pipeline.popleft()
        self.cycle = self._last_cycle()
        error_application = _error_application(status, reason, headers)
        if cycle is None or cycle.response_complete:
            self._start_asgi_task(self.cycle, error_application)
        else:
            self.pipeline.appendleft((self.cycle, error_application))

    def _write_error(self, status: int, reason: str) -> None:
        """
        Write the error response to a request with an invalid body, and close the connection.

        The application that handles the request has not responded yet. On the closed connection it
        cannot respond any more.
        """
        head = (
            "content-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(reason)}\r\nconnection: close\r\n\r\n{reason}"
        )
        self.transport.write(STATUS_LINE[status] + head.encode())
        self.transport.close()

    def _last_cycle(self) -> RequestResponseCycle:
        """Return uvicorn's object for an error response, the last response of the connection."""
        cycle = RequestResponseCycle(
            scope=copy(_UNKNOWN_REQUEST),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        # This response waits for no request body.
        cycle.more_body = False
        return cycle


# The scope for a request whose head could not be parsed: uvicorn needs it to write a response.
_UNKNOWN_REQUEST: Any = {"type": "http", "method": "GET", "http_version": "1.1", "headers": []}


def _new_parser(protocol: RequestParsingProtocol) -> HttpRequestParser:
    """Return a parser with the settings that uvicorn gives to its own parsers."""
    parser = HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _names_websocket(offers: list[bytes]) -> bool:
    """Return whether the values of Upgrade name WebSocket, alone or among other protocols."""
    protocols = b",".join(offers).split(b",")
    return b"websocket" in [protocol.strip().lower() for protocol in protocols]


def _error_application(
    status: int, reason: str, headers: Sequence[tuple[bytes, bytes]]
) -> ASGI3Application:
    """Return an application that responds with one line of plain text."""
    body = reason.encode()
    start: Any = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            *headers,
        ],
    }

    async def send_error(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return send_error
