"""
The middleware of every request that the response cache neither answers nor refuses.

It gives the request an id, for the log and for the response, adds the headers that every response
has, and reports the request to the metrics. If the client or the proxy sent an id that is short and
has only plain characters, this is the id of the request. Otherwise the id is random.

The middleware is installed behind the response cache, so a cached response costs none of this work.
A cached response already has these headers, causes no log line, and is counted by the cache. The
cache also counts its own refusals, and adds the headers to them.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from secrets import token_hex
from time import perf_counter
from typing import Any, Protocol

from structlog.contextvars import bind_contextvars, reset_contextvars

from api.engine import error_result
from api.fields import api_error
from api.headers import (
    FORWARDED_PROTO,
    REQUEST_ID,
    WEBSOCKET,
    Headers,
    encode_headers,
    is_https,
    with_security_headers,
)
from api.http import OUTCOME, response_head
from app.web.routes import GRAPHQL, JOURNAL_STREAM, route_label

App = Callable[[Any, Any, Any], Awaitable[None]]


class RequestObserver(Protocol):
    """Is called after each request."""

    def __call__(self, *, route: str, status: int, outcome: str | None, seconds: float) -> None:
        """
        Count a request with the metrics label of its route, and the status of its response.

        `outcome` is the outcome of a GraphQL request (`api.http.OUTCOME`); None for other requests.
        `seconds` is the time from the request until its response began.
        """


_ID_HEADERS = (REQUEST_ID, b"fly-request-id")
_PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_NO_WEBSOCKET = (
    f"There are no subscriptions and no WebSockets here. Send queries over HTTP to {GRAPHQL.path}; "
    f"{JOURNAL_STREAM.path} sends a server-sent event when the record has changed."
)


class RequestMiddleware:
    """ASGI middleware that gives requests an id, adds headers to responses, and counts requests."""

    def __init__(
        self,
        app: App,
        on_request: RequestObserver,
        extra_headers: Mapping[str, str] = {},
    ) -> None:
        """
        Wrap `app`.

        Each of `extra_headers` is added to every response that does not have this header yet, also
        to refusals and errors.
        """
        self.app = app
        self.on_request = on_request
        self.extra_headers: Headers = encode_headers(extra_headers)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request to the wrapped application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        request_headers = dict(scope["headers"])
        https = FORWARDED_PROTO in request_headers and is_https(scope["headers"])
        id = request_id(request_headers)
        started_at = perf_counter()
        status = 500
        seconds = None

        async def send_with_headers(message: Any) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status = message["status"]
                # The time is measured until here, so that it does not contain the time in which a
                # slow client reads.
                seconds = perf_counter() - started_at
                headers = self._response_headers(message, id)
                message = {**message, "headers": with_security_headers(headers, https=https)}
            await send(message)

        name, value = WEBSOCKET
        app = _refuse_websocket if request_headers.get(name) == value else self.app
        # structlog's context manager would cost four times as much as the calls of
        # `bind_contextvars` and `reset_contextvars`.
        tokens = bind_contextvars(request=id.decode())
        try:
            await app(scope, receive, send_with_headers)
        finally:
            reset_contextvars(**tokens)
            self.on_request(
                route=route_label(scope["path"]),
                status=status,
                outcome=scope.get(OUTCOME),
                seconds=seconds or perf_counter() - started_at,
            )

    def _response_headers(self, start: Any, id: bytes) -> Headers:
        """Return the headers of a response start, with the request's id and the extra headers."""
        headers = list(start.get("headers", ()))
        names = {name for name, _ in headers}
        headers.append((REQUEST_ID, id))
        headers += [header for header in self.extra_headers if header[0] not in names]
        return headers


def request_id(headers: dict[bytes, bytes]) -> bytes:
    """Return the id in a request's headers if it is short and plain, otherwise a new one."""
    for name in _ID_HEADERS:
        value = headers.get(name, b"")
        if _PLAIN_ID.fullmatch(value):
            return value
    return token_hex(16).encode()


async def _refuse_websocket(scope: Any, receive: Any, send: Any) -> None:
    """Refuse the handshake of a WebSocket, on any path, with an error like those of the API."""
    result = error_result(api_error("BAD_REQUEST", _NO_WEBSOCKET))
    scope[OUTCOME] = result.error_code
    accept = dict(scope["headers"]).get(b"accept", b"").lower()
    status, headers = response_head(result, scope["method"], accept)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": encode_headers(headers),
        }
    )
    await send({"type": "http.response.body", "body": result.body})
