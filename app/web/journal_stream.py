"""
A stream of server-sent events that tells an open page that the journal has a new entry.

An event contains the newest entry's number, hash, kind and time; its `id` is the entry's `seq`.
Several new entries may share one event. The client then reads the other entries from the API. One
task waits for commits and wakes all streams, so a stream holds no connection to the database. The
number of streams is limited, in total (`MAX_STREAMS`) and for each address
(`MAX_STREAMS_PER_ADDRESS`). A stream that would exceed a limit is refused; the script of the page
then checks for changes from time to time.
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

from api.clients import ClientCounter, client_address
from api.headers import encode_headers
from api.http import HEAD_ONLY, wait_for_disconnect
from app.core import tasks
from app.web.routes import JOURNAL_STREAM

MAX_STREAMS = 256
# An office behind one address may have this many pages open. Eight such addresses use all streams.
MAX_STREAMS_PER_ADDRESS = 32
# The longest time in which a stream sends nothing, in seconds. Proxies close a connection that is
# silent for a minute, some after half a minute.
KEEP_ALIVE = 20.0
# How long a browser waits before it connects again, in milliseconds.
CLIENT_RETRY = 3000
# The shortest time between two events, in seconds: the jobs of a morning commit a dozen times, and
# a few events are enough for that.
MIN_INTERVAL = 0.25
# The pause before the journal is read again if the database was unavailable, in seconds.
RETRY_DELAY = 1.0
# Postgres's bigint has at most 19 digits, and each number of 18 digits is in its range.
_MAX_SEQ_DIGITS = 18

# A key in a request's scope. Its value is a function that ends the stream: the server calls this
# function when the server stops, because a stream does not end by itself.
END_STREAM = "alpha_monday.end"

# The journal's newest entry as the API returns it; an empty mapping if the journal is empty.
Head = Mapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    # Without this header, nginx buffers the events.
    "x-accel-buffering": "no",
}
_REFUSAL_HEADERS = {
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-store",
    "retry-after": "60",
}
_TOO_MANY = b"All streams are in use. Try again in a minute.\n"
_TOO_MANY_OF_AN_ADDRESS = (
    f"Your address has {MAX_STREAMS_PER_ADDRESS} open streams, which is the maximum for one "
    "address. Close one, or try again in a minute.\n"
).encode()


class JournalStream:
    """
    Sends the journal's head to all open streams whenever it has changed.

    `wait_for_change` receives a revision, waits until the record has another one, and returns the
    new one. `read_head` returns the journal's newest entry, an empty mapping if there is none, or
    None if the database is unavailable.
    """

    def __init__(
        self,
        wait_for_change: Callable[[int], Awaitable[int]],
        read_head: Callable[[], Awaitable[Head | None]],
        max_streams: int = MAX_STREAMS,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        self._wait_for_change = wait_for_change
        self._read_head = read_head
        self.max_streams = max_streams
        self.keep_alive = keep_alive
        self._open = ClientCounter()
        self._head: Head = {}
        # Set when `_head` has changed, and then replaced by a new event for the next change.
        self._head_changed = asyncio.Event()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """In the context, run the task that reads the journal's head after each change."""
        task = asyncio.create_task(self._update_head())
        try:
            yield
        finally:
            await tasks.cancel_and_wait(task)
            # This raises the error with which the task ended, if any, so that it is noticed.
            with suppress(asyncio.CancelledError):
                task.result()

    async def _update_head(self) -> None:
        revision = -1
        while True:
            revision = await self._wait_for_change(revision)
            while (head := await self._read_head()) is None:
                await asyncio.sleep(RETRY_DELAY)
            # The revision also changes after a lost connection to Postgres was replaced. Then there
            # may be no new entry.
            if head_seq(head) > head_seq(self._head):
                self._head = head
                self._head_changed.set()
                self._head_changed = asyncio.Event()
            await asyncio.sleep(MIN_INTERVAL)

    def route(self, headers: Mapping[str, str] = {}) -> ASGIRouteHandler:
        """Return the handler of the stream. It adds `headers` to every response."""

        @asgi(JOURNAL_STREAM.path, copy_scope=False)
        async def stream(scope: Any, receive: Any, send: Any) -> None:
            """Send events about new entries until the client or the server ends the stream."""
            if scope["method"] not in JOURNAL_STREAM.methods:
                allowed = ", ".join(JOURNAL_STREAM.methods)
                raise MethodNotAllowedException(headers={"allow": allowed})
            client = client_address(scope)
            refusal = self._refusal(client)
            has_stream = not refusal and HEAD_ONLY not in scope
            # The stream is counted before the first wait, so that requests which arrive at the same
            # time cannot exceed the limits together.
            self._open.add(client, int(has_stream))
            try:
                await send(_response_start(refusal, headers))
                if has_stream:
                    await self._stream(scope, receive, send)
            finally:
                self._open.add(client, -int(has_stream))
            await send({"type": "http.response.body", "body": refusal})

        return stream

    @property
    def streams(self) -> int:
        """Return how many streams are open."""
        return self._open.total

    def _refusal(self, client: str) -> bytes:
        """Return the text that refuses a stream to a client; empty if the stream is allowed."""
        if self.streams >= self.max_streams:
            return _TOO_MANY
        if self._open.count_for(client) >= MAX_STREAMS_PER_ADDRESS:
            return _TOO_MANY_OF_AN_ADDRESS
        return b""

    async def _stream(self, scope: Any, receive: Any, send: Send) -> None:
        """Send events until the client has disconnected or the server ends the stream."""
        ended = asyncio.Event()
        scope[END_STREAM] = ended.set
        disconnected = asyncio.create_task(wait_for_disconnect(receive))
        disconnected.add_done_callback(lambda _: ended.set())
        try:
            await self._send_events(last_seen_seq(scope), ended, send)
        finally:
            disconnected.cancel()

    async def _send_events(self, last_seq: int, ended: asyncio.Event, send: Send) -> None:
        """
        Send the head whenever it is newer than `last_seq`.

        If nothing changes for `keep_alive` seconds, send a comment that keeps the connection open.
        """
        await send(_body_part(f"retry: {CLIENT_RETRY}\n\n"))
        while not ended.is_set():
            # The event must be read before the head is compared: a change after the comparison
            # sets this event, and is not missed.
            changed = self._head_changed
            head = self._head
            if head_seq(head) > last_seq:
                last_seq = head_seq(head)
                await send(_body_part(event_text(head)))
            elif not await _wait_for_first(changed, ended, self.keep_alive):
                await send(_body_part(":\n\n"))


def _response_start(refusal: bytes, extra_headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the first message of the response: 200 if `refusal` is empty, otherwise 503."""
    if refusal:
        status = 503
        headers = {**_REFUSAL_HEADERS, "content-length": str(len(refusal))}
    else:
        status = 200
        headers = _HEADERS
    return {
        "type": "http.response.start",
        "status": status,
        "headers": encode_headers({**headers, **extra_headers}),
    }


async def _wait_for_first(first: asyncio.Event, second: asyncio.Event, seconds: float) -> bool:
    """Wait until one of two events is set. Return False if neither is set within `seconds`."""
    waiting = [asyncio.create_task(event.wait()) for event in (first, second)]
    try:
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return bool(done)


def last_seen_seq(scope: Any) -> int:
    """
    Return the number of the last journal entry that the client knows; 0 if it sends no number.

    A browser that connects again sends, in the header Last-Event-ID, the number of the last event
    that it received. A page that connects for the first time sends, in the query string, the number
    of the head that it shows.
    """
    headers = dict(scope["headers"])
    query = parse_qs(scope["query_string"].decode("latin-1"))
    last_event_id = headers.get(b"last-event-id", b"").decode("latin-1")
    for text in (last_event_id, query.get("after", [""])[-1]):
        if text.isascii() and text.isdigit() and len(text) <= _MAX_SEQ_DIGITS:
            return int(text)
    return 0


def head_seq(head: Head) -> int:
    """Return the number of the journal's newest entry; 0 if there is none."""
    return int(head["seq"]) if head else 0


def event_text(head: Head) -> str:
    """Return the server-sent event for a new head."""
    data = json.dumps(head, separators=(",", ":"))
    return f"id: {head['seq']}\nevent: entry\ndata: {data}\n\n"


def _body_part(text: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}
