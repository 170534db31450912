"""
A stream of server-sent events, on which an open page hears that the journal has a new entry.

An event is where the journal stands now (`id` is its newest `seq`), not one for each entry: whoever was away hears once
and asks the API for what lies between. One task hears of commits and tells all streams; no stream holds a connection to
the database. Streams are counted, those of one address too: beyond `MOST` or `MOST_OF_AN_ADDRESS` a client is refused
and looks again now and then.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs

from litestar import asgi
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler

from api.clients import Tally, client_of
from api.headers import pairs
from api.http import HEAD_ONLY, gone
from app.core import tasks
from app.web.routes import JOURNAL_STREAM

MOST = 256
# An office behind one address has as many pages open; eight such addresses fill all places.
MOST_OF_AN_ADDRESS = 32
KEEP_ALIVE = 20.0  # seconds; proxies give up on what is silent for a minute, or half of one
RETRY = 3000  # milliseconds
PAUSE = 0.25  # seconds, so that a morning's dozen commits are a few events
AGAIN = 1.0  # seconds, until the database is asked again that did not answer

# In a request's scope: what ends it, when the server is told to stop. A stream has no end of its own.
END = "alpha_monday.end"

Head = Mapping[str, Any]
Messages = Callable[[Mapping[str, Any]], Awaitable[None]]

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # or nginx would keep events to itself
}
_FULL = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", "retry-after": "60"}
_TOO_MANY = b"All streams are taken right now. Try again in a minute.\n"
_TOO_MANY_OF_AN_ADDRESS = (
    f"Your address has {MOST_OF_AN_ADDRESS} streams open, the most that one may have. "
    "Close one, or try again in a minute.\n"
).encode()


class Live:
    """
    Tells all streams where the journal stands.

    `changed` waits until the record's revision is another than the one it is given; `head` asks for the newest entry,
    and gives None if there is no answer.
    """

    def __init__(
        self,
        changed: Callable[[int], Awaitable[int]],
        head: Callable[[], Awaitable[Head | None]],
        most: int = MOST,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        self._changed, self._ask, self.most, self.keep_alive = changed, head, most, keep_alive
        self._open = Tally()
        self._head: Head = {}
        self._news = asyncio.Event()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the record for as long as the context lasts."""
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            await tasks.end(task)
            with suppress(asyncio.CancelledError):
                task.result()  # an error of the task must not pass unnoticed

    async def _follow(self) -> None:
        revision = -1
        while True:
            revision = await self._changed(revision)
            while (head := await self._ask()) is None:
                await asyncio.sleep(AGAIN)
            if seq_of(head) > seq_of(self._head):
                self._head = head
                self._news.set()
                self._news = asyncio.Event()
            await asyncio.sleep(PAUSE)

    def route(self, headers: Mapping[str, str] = {}) -> ASGIRouteHandler:
        """Return the handler of the stream; `headers` go with every response."""

        @asgi(JOURNAL_STREAM.path, copy_scope=False)
        async def stream(scope: Any, receive: Any, send: Any) -> None:
            """Send an event whenever the journal has grown, until the client or the server goes."""
            if scope["method"] not in JOURNAL_STREAM.methods:
                raise MethodNotAllowedException(headers={"allow": ", ".join(JOURNAL_STREAM.methods)})
            refusal = self._refusal(client_of(scope))
            status, response = (503, _FULL) if refusal else (200, _HEADERS)
            length = {"content-length": str(len(refusal))} if refusal else {}
            start = pairs({**response, **length, **headers})
            await send({"type": "http.response.start", "status": status, "headers": start})
            if not refusal and HEAD_ONLY not in scope:
                await self._stream(scope, receive, send)
            await send({"type": "http.response.body", "body": refusal})

        return stream

    @property
    def streams(self) -> int:
        """Return how many streams are open."""
        return self._open.total

    def _refusal(self, client: str) -> bytes:
        """Return why the client at an address gets no stream; empty if it gets one."""
        if self.streams >= self.most:
            return _TOO_MANY
        return _TOO_MANY_OF_AN_ADDRESS if self._open.of(client) >= MOST_OF_AN_ADDRESS else b""

    async def _stream(self, scope: Any, receive: Any, send: Messages) -> None:
        seen, over = known(scope), asyncio.Event()
        scope[END] = over.set
        leaving = asyncio.create_task(gone(receive))
        leaving.add_done_callback(lambda _: over.set())
        client = client_of(scope)
        self._open.add(client, 1)
        try:
            await self._tell(seen, over, send)
        finally:
            self._open.add(client, -1)
            leaving.cancel()

    async def _tell(self, seen: int, over: asyncio.Event, send: Messages) -> None:
        """Send what is new, and a word now and then, until it is over."""
        await send(_part(f"retry: {RETRY}\n\n"))
        while not over.is_set():
            news, head = self._news, self._head
            if seq_of(head) > seen:
                seen = seq_of(head)
                await send(_part(event(head)))
            elif not await _either(news, over, self.keep_alive):
                await send(_part(":\n\n"))


async def _either(news: asyncio.Event, over: asyncio.Event, within: float) -> bool:
    """Wait for one of two things; return whether one happened in time."""
    waiting = [asyncio.create_task(one.wait()) for one in (news, over)]
    try:
        done, _ = await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return bool(done)


def known(scope: Any) -> int:
    """Return the entry up to which a client knows the journal: the last event's id, or what its address says."""
    said = dict(scope["headers"]).get(b"last-event-id", b"").decode("latin-1")
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("after", [""])[-1]
    return next((int(text) for text in (said, asked) if text.isascii() and text.isdigit() and len(text) < 19), 0)


def seq_of(head: Head) -> int:
    """Return the number of an entry; 0 of none."""
    return int(head["seq"]) if head else 0


def event(head: Head) -> str:
    """Return the event that tells where the journal stands."""
    return f"id: {head['seq']}\nevent: entry\ndata: {json.dumps(head, separators=(',', ':'))}\n\n"


def _part(text: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}
