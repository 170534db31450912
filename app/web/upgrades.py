"""
Requests that offer another protocol, by a header Upgrade, are read and answered as HTTP/1.1.

A server may ignore the offer (RFC 9110, section 7.8), and this one speaks nothing else. llhttp, the
parser of uvicorn's protocol, cannot be told so: it reports a request with an offer as complete at
the end of its head, and parses its body as the next request. So the body would be lost, and a
client that chooses only a body could have a request of its own run
(https://github.com/Kludex/uvicorn/issues/2722). Java's HttpClient and `curl --http2` make an offer
with the first request of every connection.

So the head of such a request is parsed a second time without the offer, by a new parser, which then
reads the body by its framing. Other requests cost nothing more than in uvicorn's own class.
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

# In bytes. A client that sends one header after the other would else be listened to for as long as it likes.
LARGEST_HEAD = 64 * 1024
# What is said of a head that is larger, and of what stands around a body's chunks.
HEAD_TOO_LARGE = f"A head has at most {LARGEST_HEAD // 1024} KB: the request line and all headers."
FRAMING_TOO_LARGE = f"Trailers and the extensions of chunks have at most {LARGEST_HEAD // 1024} KB."
# Headers of a head, and trailers. Each takes some two microseconds, however short it is: six thousand in 64 KB held up
# all other requests for milliseconds. Browsers and proxies send some 30.
MOST_HEADERS = 500
TOO_MANY_HEADERS = f"A head has at most {MOST_HEADERS} headers."
# What every chunk needs in bytes, at most: its size, the ends of two lines, and some zeros before the size.
_CHUNK = 16

INVALID = "Invalid HTTP request received."
NO_PROXY = "This server opens no tunnels."


class NoUpgradeProtocol(PipelineProtocol):
    """uvicorn's protocol, on which a connection stays HTTP/1.1."""

    _fed = 0  # bytes of the head that is not complete
    _framing = 0  # bytes after a head that are no body
    _too_large = ""  # why the parser was stopped, if it was

    def _parse(self, piece: bytes) -> None:
        """Parse a piece of what has arrived."""
        cycle, body = self.cycle, 0
        if cycle is not None and cycle.more_body:
            body = len(cycle.body)
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            self._read_on(memoryview(piece)[upgrade.args[0] :])
        except HttpParserError:
            self._refuse_invalid()
            return
        receiving = self.cycle
        if receiving is None or not receiving.more_body:
            # The piece in which it began may have something else before it, so the exact size is looked at later.
            self._fed += len(piece)
            if self._fed > LARGEST_HEAD + PIECE:
                self._refuse(431, HEAD_TOO_LARGE)
                return
        elif receiving is cycle and not cycle.response_complete:
            # Of a body whose response is complete nothing is kept, so it cannot be told from its framing.
            self._framing += len(piece) - (len(cycle.body) - body)
            if self._framing > LARGEST_HEAD:
                self._refuse(431, FRAMING_TOO_LARGE)
                return
        # Of a head, or of trailers, that are not complete. One more than may be sent: WEBSOCKET is appended.
        if self.headers and len(self.headers) > MOST_HEADERS + 1:
            self._refuse(431, TOO_MANY_HEADERS)

    def _refuse_invalid(self) -> None:
        """Refuse what the parser cannot parse, or was stopped at."""
        if self._too_large:
            self._refuse(431, self._too_large)
        else:
            self._refuse(400, INVALID)

    def on_headers_complete(self) -> None:
        """Take a head, unless it is too large: that it can only be if it came in many pieces."""
        if self._fed > LARGEST_HEAD - 2 * PIECE and self._size_of_head() > LARGEST_HEAD:
            self._too_large = HEAD_TOO_LARGE
        elif len(self.headers) > MOST_HEADERS:
            self._too_large = TOO_MANY_HEADERS
        if self._too_large:
            raise ValueError(self._too_large)
        self._fed = self._framing = 0
        super().on_headers_complete()

    def _size_of_head(self) -> int:
        return (
            len(b"GET  HTTP/1.1\r\n\r\n")
            + len(self.url)
            + sum(len(name) + len(value) + 4 for name, value in self.headers)
        )

    def _should_upgrade(self) -> bool:
        """
        Let uvicorn leave a request with an offer to `_read_on`.

        uvicorn asks this in its callbacks, and only about a request that its parser has reported as
        an upgrade: it then starts nothing.
        """
        return True

    def _read_on(self, rest: memoryview) -> None:
        """Take the head that was just parsed for one without an offer, and parse the rest after it."""
        while True:
            if self.scope["method"] == "CONNECT":
                # The only method that llhttp takes for an upgrade by itself. Bytes behind it are for a tunnel.
                self._refuse(405, NO_PROXY, (b"allow", b"GET, HEAD, OPTIONS, POST"))
                return
            offers = [value for name, value in self.headers if name == b"upgrade"]
            head = self._head()
            self.parser = _new_parser(self)
            try:
                self.parser.feed_data(head)
                if self.scope["method"] == "GET" and self.scope["http_version"] == "1.1" and _names_websocket(offers):
                    # The task that answers has not begun. It refuses what would be taken for a handshake.
                    self.headers.append(WEBSOCKET)
                self.parser.feed_data(rest)
            except HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except HttpParserError:
                self._refuse_invalid()
                return
            else:
                return

    def _head(self) -> bytes:
        """Return the head that was just parsed, without the offer."""
        request = b"%b %b HTTP/%b" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())
        lines = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([request, *lines, b"", b""])

    def on_chunk_header(self) -> None:
        """
        Keep trailers apart from the head, whose list the request already has.

        A proxy in front checks and removes headers, but passes trailers on (RFC 9110, section 6.5.1).
        """
        self.headers = []
        self._framing -= _CHUNK

    def _refuse(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        """Answer what is invalid after the requests before it, then close. Nothing behind it is parsed."""
        self._ignore_the_rest()
        self.logger.warning(reason)
        cycle, queued = self.cycle, bool(self.pipeline) and self.pipeline[0][0] is self.cycle
        if cycle and cycle.more_body and not queued:  # it is in the body of the request that is being answered
            if cycle.response_started:
                self.transport.close()
            else:
                self._refuse_at_once(status, reason)
            return
        if cycle and cycle.more_body:
            self.pipeline.popleft()  # it is in the body of a request that still waits
        self.cycle = self._last_cycle()
        refusal = _refusal(status, reason, headers)
        if cycle is None or cycle.response_complete:
            self._start_asgi_task(self.cycle, refusal)
        else:
            self.pipeline.appendleft((self.cycle, refusal))

    def _refuse_at_once(self, status: int, reason: str) -> None:
        """Answer a request whose body is invalid, in place of the handler that has not yet, and close."""
        head = (
            "content-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(reason)}\r\nconnection: close\r\n\r\n{reason}"
        )
        self.transport.write(STATUS_LINE[status] + head.encode())
        self.transport.close()

    def _last_cycle(self) -> RequestResponseCycle:
        """Return the cycle of a refusal, with which the connection ends."""
        cycle = RequestResponseCycle(
            scope=copy(_UNKNOWN),
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
        cycle.more_body = False  # nothing more is read for it
        return cycle


# What is known of a request whose head could not be parsed: enough for uvicorn to write a response.
_UNKNOWN: Any = {"type": "http", "method": "GET", "http_version": "1.1", "headers": []}


def _new_parser(protocol: NoUpgradeProtocol) -> HttpRequestParser:
    """Return a parser with the settings that uvicorn gives its own."""
    parser = HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _names_websocket(offers: list[bytes]) -> bool:
    """Return whether the offers name WebSocket, alone or among other protocols."""
    return b"websocket" in [offer.strip().lower() for offer in b",".join(offers).split(b",")]


def _refusal(status: int, reason: str, headers: Sequence[tuple[bytes, bytes]]) -> ASGI3Application:
    """Return the application that answers with one line of plain text."""
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

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return refuse
