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
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.headers import WEBSOCKET
from app.web.pipelining import PipelineProtocol

INVALID = "Invalid HTTP request received."
NO_PROXY = "This server opens no tunnels."


class NoUpgradeProtocol(PipelineProtocol):
    """uvicorn's protocol, on which a connection stays HTTP/1.1."""

    def _parse(self, piece: bytes) -> None:
        """Parse a piece of what has arrived."""
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            self._read_on(memoryview(piece)[upgrade.args[0] :])
        except HttpParserError:
            self._refuse(400, INVALID)

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
                self._refuse(400, INVALID)
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

    def _refuse(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        """Answer what is invalid after the requests before it, then close. Nothing behind it is parsed."""
        self._ignore_the_rest()
        self.logger.warning(reason)
        cycle, queued = self.cycle, bool(self.pipeline) and self.pipeline[0][0] is self.cycle
        if cycle and cycle.more_body and not queued:  # it is in the body of the request that is being answered
            if cycle.response_started:
                self.transport.close()
            else:
                self.send_400_response(reason)
            return
        if cycle and cycle.more_body:
            self.pipeline.popleft()  # it is in the body of a request that still waits
        self.cycle = self._last_cycle()
        refusal = _refusal(status, reason, headers)
        if cycle is None or cycle.response_complete:
            self._start_asgi_task(self.cycle, refusal)
        else:
            self.pipeline.appendleft((self.cycle, refusal))

    def _last_cycle(self) -> RequestResponseCycle:
        """Return the cycle of a refusal, with which the connection ends."""
        cycle = RequestResponseCycle(
            scope=_UNKNOWN,
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
