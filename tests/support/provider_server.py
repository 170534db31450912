"""
A provider server on loopback. It returns the responses that a test sets, malformed ones included,
and records the requests.
"""

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import pytest

FOR_EVER = 3600.0


@dataclass(frozen=True)
class Request:
    """One request as it arrived; header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body, parsed as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """
    A reply: its `body` is sent unchanged, after `delay` seconds.

    With `cut` the connection ends before the announced length; with `stalled` it stays open there.
    `raw` yields all bytes that are sent in place of a head and a body, part by part, for as long as
    the client reads them.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    cut: bool = False
    stalled: bool = False
    raw: Callable[[], Iterable[bytes]] | None = None

    def on_the_wire(self) -> bytes:
        """
        Return the reply's bytes. If it is cut or stalled, its Content-Length is more than its body
        has.
        """
        headers = {"content-type": "application/json", "connection": "close", **self.headers}
        headers["content-length"] = str(len(self.body) + (100 if self.cut or self.stalled else 0))
        head = f"HTTP/1.1 {self.status} Reason\r\n" + "".join(
            f"{name}: {text}\r\n" for name, text in headers.items()
        )
        return head.encode("latin-1") + b"\r\n" + self.body


def says(answer: object, status: int = 200, **headers: str) -> Reply:
    """Return a reply whose body is `answer` as JSON."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(json.dumps(answer).encode(), status=status, headers=named)


HANGING = Reply(delay=FOR_EVER)
STALLED = Reply(b'{"Meta', stalled=True)
CUT_IN_THE_BODY = Reply(b'{"Meta', cut=True)
# Not even a status line: the connection ends.
CUT = Reply(status=0)


class ProviderServer:
    """
    A server that responds with `answers`, or with the replies that `play` sets: one after another,
    the last one for ever. It records `requests`. It listens at a free port, or with `listener`.
    """

    def __init__(self, listener: socket.socket | None = None) -> None:
        self.listener = listener
        self.requests: list[Request] = []
        self.answers: Callable[[Request], Reply] = lambda _: Reply(status=404)
        self.most_in_flight = 0
        self.request_arrived = asyncio.Event()
        self._in_flight = 0
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        listener = self.listener or socket.create_server(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._accept, sock=listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def play(self, *replies: Reply) -> None:
        """Send these replies, one for each request, and the last one from then on."""
        left = deque(replies)
        self.answers = lambda _: left.popleft() if len(left) > 1 else left[0]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk
        self._talks.add(talk)
        try:
            await self._talk(reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass  # the test is over, or the client has gone
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {
            name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        address = urlsplit(target)
        request = Request(
            method=method,
            path=address.path,
            query=dict(parse_qsl(address.query)),
            headers=headers,
            body=body,
        )
        self.requests.append(request)
        self.request_arrived.set()
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            reply = self.answers(request)
            await asyncio.sleep(reply.delay)
        finally:
            self._in_flight -= 1
        if reply.raw:
            for part in reply.raw():
                writer.write(part)
                await writer.drain()
        elif reply.status:
            writer.write(reply.on_the_wire())
            await writer.drain()
        if reply.stalled:
            await asyncio.sleep(FOR_EVER)


@contextmanager
def refusing() -> Iterator[str]:
    """Yield an address that refuses connections: its port is bound, but has no listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
async def provider() -> AsyncIterator[ProviderServer]:
    """Run a provider server whose responses the test sets."""
    async with ProviderServer() as server:
        yield server
