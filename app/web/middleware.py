"""
Every request that is worked for: its id in the log and in its answer, the headers that are on all answers, its count.

It stands behind the kept answers, so that one of those costs nothing of this: they carry the headers already, log
nothing, and count themselves. The id is the client's or the proxy's own where that is short and plain.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from secrets import token_hex
from time import perf_counter
from typing import Any

from structlog.contextvars import bind_contextvars, reset_contextvars

from api.engine import refused
from api.fields import refusal
from api.headers import FORWARDED, REQUEST_ID, WEBSOCKET, Headers, over_https, pairs, safe
from api.http import OUTCOME, head
from app.web.routes import GRAPHQL, JOURNAL_STREAM, route_of

App = Callable[[Any, Any, Any], Awaitable[None]]
# Told of each request: its route, its status, its outcome if it was GraphQL, and for how many seconds it was worked.
Told = Callable[[str, int, str | None, float], None]

_GIVEN = (REQUEST_ID, b"fly-request-id")
_NO_WEBSOCKET = (
    f"There are no subscriptions and no WebSockets here. Send queries over HTTP to {GRAPHQL.path}; "
    f"{JOURNAL_STREAM.path} says by server-sent events when the record has changed."
)
_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Requests:
    """Hands requests on to the service behind it."""

    def __init__(self, app: App, told: Told, marks: Mapping[str, str] = {}) -> None:
        """Take `marks`: headers that every response has, those of refusals and errors too."""
        self.app, self.told = app, told
        self.marks: Headers = pairs(marks)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Have a request answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = dict(scope["headers"])
        https = FORWARDED in asked and over_https(scope["headers"])
        id, began = id_of(asked), perf_counter()
        status, took = 500, None

        async def send_on(message: Any) -> None:
            nonlocal status, took
            if message["type"] == "http.response.start":
                # Until here: how fast a client reads is no measure of ours.
                status, took = message["status"], perf_counter() - began
                made = list(message.get("headers", ()))
                headers: Headers = [*made, (REQUEST_ID, id)]
                if self.marks:
                    named = {name for name, _ in made}
                    headers = [*headers, *(mark for mark in self.marks if mark[0] not in named)]
                message = {**message, "headers": safe(headers, https=https)}
            await send(message)

        name, value = WEBSOCKET
        app = _refuse_websocket if asked.get(name) == value else self.app
        bound = bind_contextvars(request=id.decode())  # the context of its own costs four times as much
        try:
            await app(scope, receive, send_on)
        finally:
            reset_contextvars(**bound)
            self.told(route_of(scope["path"]), status, scope.get(OUTCOME), took or perf_counter() - began)


def id_of(asked: dict[bytes, bytes]) -> bytes:
    """Return the id that a request came with, or a new one."""
    given = (asked.get(name, b"") for name in _GIVEN)
    return next((id for id in given if _PLAIN.fullmatch(id)), None) or token_hex(16).encode()


async def _refuse_websocket(scope: Any, receive: Any, send: Any) -> None:
    """Answer the handshake of a WebSocket, on any path, in the form of all refusals."""
    answer = refused(refusal("BAD_REQUEST", _NO_WEBSOCKET))
    scope[OUTCOME] = answer.refused
    accept = dict(scope["headers"]).get(b"accept", b"").lower()
    status, headers = head(answer, scope["method"], accept)
    await send({"type": "http.response.start", "status": status, "headers": pairs(headers)})
    await send({"type": "http.response.body", "body": answer.body})
