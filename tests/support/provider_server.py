"""
A provider on loopback that answers what a test tells it to, oddities of the wire included, and
keeps what it got.
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
        """What the body says."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """
    What to answer: `body` as it is, after `delay` seconds.

    `cut` ends the connection where the answer promised more, `stalled` leaves it open there. `raw`
    gives all that is sent in place of a head and a body, part by part, for as long as the client
    takes it.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    cut: bool = False
    stalled: bool = False
    raw: Callable[[], Iterable[bytes]] | None = None

    def on_the_wire(self) -> bytes:
        """The reply's bytes; one that is cut or stalled promises more than it holds."""
        headers = {"content-type": "application/json", "connection": "close", **self.headers}
        headers["content-length"] = str(len(self.body) + (100 if self.cut or self.stalled else 0))
        head = f"HTTP/1.1 {self.status} Reason\r\n" + "".join(
            f"{name}: {text}\r\n" for name, text in headers.items()
        )
        return head.encode("latin-1") + b"\r\n" + self.body


def says(answer: object, status: int = 200, **headers: str) -> Reply:
    """A reply whose body is `answer` as JSON."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(json.dumps(answer).encode(), status=status, headers=named)


HANGING = Reply(delay=FOR_EVER)
STALLED = Reply(b'{"Meta', stalled=True)
CUT_IN_THE_BODY = Reply(b'{"Meta', cut=True)
# Not even a status line: the connection ends.
CUT = Reply(status=0)


class ProviderServer:
    """
    Plays `answers` (or, told by `play`, one reply after another, the last for ever) and records
    `requests`.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: Callable[[Request], Reply] = lambda _: Reply(status=404)
        self.most_in_flight = 0
        self.asked = asyncio.Event()
        self._in_flight = 0
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def play(self, *replies: Reply) -> None:
        """Answer with these, one a request, and with the last one from then on."""
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
        request = Request(method, address.path, dict(parse_qsl(address.query)), headers, body)
        self.requests.append(request)
        self.asked.set()
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
    """An address at which connections are refused: taken, but nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
async def provider() -> AsyncIterator[ProviderServer]:
    """A provider that is told what to answer."""
    async with ProviderServer() as server:
        yield server
