"""
GraphQL over HTTP, as the specification of that name has it.

A request error (the document, the operation's name or the variables are wrong) has no `data`; its status is 400 where
the client asked for `application/graphql-response+json`, and 200 otherwise, as clients of the older type expect. What
is no GraphQL request at all is 400, 408, 413 or 415 with an `errors` body.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

import msgspec
import structlog
from graphql import GraphQLError
from litestar import Request, Response, asgi
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import Method
from msgspec import Struct

from api import graphiql_page, paths
from api.clients import client_of
from api.damage import CODE
from api.engine import Answer, Engine, refused, unexpected
from api.fields import refusal
from api.headers import Headers, pairs, safe
from api.limits import LONGEST_BODY
from api.persisted import document
from api.schema import quoted

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
METHODS: tuple[Method, ...] = ("GET", "HEAD", "OPTIONS", "POST")
SLOWEST_BODY = 10  # seconds
# Parameters of an address. A request has four at most here, and shared links bring some of other services; thousands
# would take milliseconds to parse.
MOST_PARAMETERS = 100
# How much of an Accept header is read, in bytes: browsers send some 150.
LONGEST_ACCEPT = 4096
BODY = "alpha_monday.body"  # in a request's scope: its `Body`, if that was read before
HEAD_ONLY = "alpha_monday.head_only"  # in it if the response's body is not wanted: it was a HEAD
PLACE = "alpha_monday.place"  # in it if requests are counted: a context in which this one is not
OUTCOME = (
    "alpha_monday.outcome"  # in it once there is an answer: "answered", or the code of why there is none, or not all
)

log = structlog.get_logger()

# The codes that have a status of their own; any other refusal is a request error.
STATUS = {
    "BAD_REQUEST": 400,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "INTERNAL_SERVER_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}
CODES = {status: code for code, status in STATUS.items()}
CLOSE = {"connection": "close"}  # or the rest of the body would still be read
HEADERS = {
    405: {"allow": "POST"},
    408: CLOSE,
    413: CLOSE,
    415: {"accept-post": JSON, **CLOSE},
    503: {"retry-after": "5"},
}
MEMBERS = ("query", "variables", "operationName", "extensions")

AnyRequest = Request[Any, Any, Any]


class Persisted(Struct, frozen=True, rename="camel"):
    """The document that a client names by its hash."""

    version: Literal[1]
    sha256_hash: str


class Extensions(Struct, frozen=True, rename="camel"):
    """What a GraphQL request says beyond the specification; the rest is left unread."""

    persisted_query: Persisted | None = None


class Parameters(Struct, frozen=True, rename="camel"):
    """What a GraphQL request says."""

    query: str | None = None
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    extensions: Extensions | None = None

    def document(self) -> str:
        """Return the document, sent or named."""
        persisted = self.extensions and self.extensions.persisted_query
        return document(self.query, persisted.sha256_hash if persisted else None)


class Body(Struct, frozen=True):
    """A request's body, or the code of why it was not read to its end."""

    text: bytes
    refused: str | None = None


# What is said of a body that was not read to its end.
UNREAD = {
    "BAD_REQUEST": "The body could not be read.",
    "PAYLOAD_TOO_LARGE": f"A body has at most {LONGEST_BODY // 1024} KB.",
    "REQUEST_TIMEOUT": f"A body must be there within {SLOWEST_BODY} seconds.",
}


def routes(
    engine: Engine, notice: str = "", headers: Mapping[str, str] = {}
) -> list[ASGIRouteHandler | HTTPRouteHandler]:
    """
    Return the handlers of `/graphql`; GraphiQL's page says `notice` above everything else.

    It speaks ASGI itself, because what Litestar does for a handler costs as much as the engine and the driver together.
    `headers` go with every response.
    """
    graphiql = graphiql_page.page(notice)
    more = pairs(headers)

    @asgi(paths.GRAPHQL, copy_scope=False)
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        """Answer the query in the address or the body; a browser that asks nothing gets GraphiQL."""
        method = scope["method"]
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").lower()
        if other := _other(scope, method, accept):
            await other.to_asgi_response(None, Request(scope))(scope, receive, send)
            return
        try:
            said = await asked(scope, receive)
            found = await engine.answer(
                said.document(),
                said.variables,
                said.operation_name or None,
                client=client_of(scope),
                outside=scope.get(PLACE, nullcontext),
                leaves=partial(gone, receive),
            )
        except GraphQLError as error:
            found = refused(error)
        scope[OUTCOME] = found.refused or (CODE if found.damaged else "answered")
        status, told = head(found, method, accept)
        start = pairs(told)
        await send({"type": "http.response.start", "status": status, "headers": [*start, *more]})
        await send({"type": "http.response.body", "body": found.body})

    def _other(scope: Any, method: str, accept: bytes) -> Response[Any] | None:
        """Return the response to what asks nothing: a browser gets the page, and a stranger what is allowed."""
        if method not in METHODS:
            raise MethodNotAllowedException(headers={"allow": ", ".join(METHODS)})
        if method == "OPTIONS":
            return Response(None, status_code=204, headers={**headers, "Allow": ", ".join(METHODS)})
        if method == "POST" or b"text/html" not in accept or {*MEMBERS} & Request(scope).query_params.keys():
            return None
        return Response(graphiql.html, media_type="text/html", headers={**headers, **graphiql.headers})

    return [answer, graphiql_page.route(graphiql.files)]


async def asked(scope: Any, receive: Any) -> Parameters:
    """Return what a request says, in its address or its body, or refuse what is no GraphQL request."""
    if scope["method"] == "POST":
        return parameters(decoded(await body(scope, receive)))
    query = Request(scope).query_params
    for name in MEMBERS:
        if len({*query.getall(name, [])}) > 1:
            raise refusal("BAD_REQUEST", f"`{name}` stands in the address twice, with different values.")
    said: dict[str, Any] = {name: text for name in MEMBERS if (text := query.get(name))}
    for name in {"variables", "extensions"} & said.keys():
        said[name] = decoded(said[name])
    return parameters(said)


async def body(scope: Any, receive: Any) -> bytes:
    """Return the JSON text of a request, or refuse another content type and what is too long."""
    headers = dict(scope["headers"])
    if headers.get(b"content-type") != JSON.encode() and not is_json(scope):
        raise refusal("UNSUPPORTED_MEDIA_TYPE", f"The body must be {JSON} in UTF-8.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise refusal("UNSUPPORTED_MEDIA_TYPE", "The body must not be compressed.")
    found = scope.get(BODY) or await read(receive)
    if found.refused:
        raise refusal(found.refused, UNREAD[found.refused])
    return found.text


def is_json(scope: Any) -> bool:
    """Return whether the type of a request's body is JSON in UTF-8, however that is written."""
    kind, options = Request(scope).content_type
    return kind == JSON and options.get("charset", "utf-8").lower() in ("utf-8", "utf8")


async def read(receive: Any) -> Body:
    """
    Read a request's body.

    Almost every body is there with its headers, so its time limit is a bare timer: `asyncio.timeout` costs a tenth of
    what a kept answer does.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    late = False

    def stop() -> None:
        nonlocal late
        late = task.cancel()

    timer = loop.call_later(SLOWEST_BODY, stop)
    parts: list[bytes] = []
    size, more = 0, True
    try:
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return Body(b"", "BAD_REQUEST")
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
            size += len(parts[-1])
            if size > LONGEST_BODY:
                return Body(b"", "PAYLOAD_TOO_LARGE")
    except asyncio.CancelledError:
        if not late or task.uncancel():
            raise
        return Body(b"", "REQUEST_TIMEOUT")
    finally:
        timer.cancel()
    return Body(parts[0] if len(parts) == 1 else b"".join(parts))


async def gone(receive: Any) -> None:
    """Wait until the client of a request that was read has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def decoded(text: str | bytes) -> Any:
    """
    Return what a JSON text says, or refuse it.

    The standard library's decoder, because it lets lone surrogates through: the engine has its own answer to them. A
    byte order mark before the text is ignored, as RFC 8259 (section 8.1) allows: some editors and clients write one.
    """
    try:
        said = text if isinstance(text, str) else text.decode()
        return _DECODER.decode(said.removeprefix("\ufeff"))
    except RepeatedError as error:
        raise refusal("BAD_REQUEST", f"{error} stands in one JSON object twice, with different values.") from None
    except (ValueError, RecursionError):
        raise refusal("BAD_REQUEST", _why_no_json(text)) from None


class RepeatedError(Exception):
    """An object has two values for one name: readers would not agree on which of them was sent."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            # 1, 1.0 and true are equal in Python, and three different values in JSON.
            if repr(value) != repr(found[name]):
                raise RepeatedError(quoted(name.encode(errors="replace").decode()))
    return found


def _no_number(text: str) -> float:
    raise ValueError(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_number)


def _why_no_json(text: str | bytes) -> str:
    """Return what to say of a text that is not JSON; for many it is only in another encoding."""
    if isinstance(text, str):
        return "That is not JSON."
    encoding = json.detect_encoding(text)
    if not encoding.startswith("utf-8"):
        return f"A body must be in UTF-8; this one is in {encoding[:6].upper()}."
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"A body must be in UTF-8; the byte at {error.start} is none of it."
    return "That is not JSON."


def parameters(said: object) -> Parameters:
    """Return the request that a JSON value is, or refuse it, naming the member that does not fit."""
    if isinstance(said, list):
        raise refusal("BAD_REQUEST", "Requests are answered one at a time: send an object, not a list.")
    try:
        return msgspec.convert(said, Parameters)
    except msgspec.ValidationError as error:
        raise refusal("BAD_REQUEST", f"That is no GraphQL request: {error}.") from None


def refuse(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Return the response to a request that no handler answers, in the form of all others."""
    code = CODES.get(error.status_code, "BAD_REQUEST" if error.status_code < 500 else "INTERNAL_SERVER_ERROR")
    answer = refused(refusal(code, f"{HTTPStatus(error.status_code).phrase}."))
    return _told(request, answer, error.headers or {})


def fail(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Return the response to a request on which a handler of ours failed."""
    return _told(request, unexpected(error), {})


def _told(request: AnyRequest, answer: Answer, more: Mapping[str, str]) -> Response[bytes]:
    request.scope[OUTCOME] = answer.refused  # type: ignore[literal-required]
    status, headers = head(answer, request.method, request.headers.get("accept", "").lower().encode())
    return Response(answer.body, status_code=status, headers={**headers, **more})


def head(answer: Answer, method: str, accept: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of an answer."""
    media = media_of(accept)
    status = status_of(answer.refused, method, media)
    if answer.refused:
        log.info("request refused", code=answer.refused, status=status)
    return status, {
        "Content-Type": f"{media}; charset=utf-8",
        "Content-Length": str(len(answer.body)),
        "Vary": "Accept",
        # What lasts may be stored, and is asked for again with its ETag each time.
        "Cache-Control": "no-cache" if answer.lasting else "no-store",
        **HEADERS.get(status, {}),
    }


def media_of(accept: bytes) -> str:
    """
    Return the media type of an answer, by the values of Accept in small letters.

    A client that does not name the newer type may not know it, so `*/*` is not enough.
    """
    accept = accept[:LONGEST_ACCEPT]
    if GRAPHQL.encode() not in accept:
        return JSON
    if b"q=" not in accept:
        return GRAPHQL
    weights = dict.fromkeys((GRAPHQL, JSON), 0.0)
    for named in accept.decode("latin-1").split(","):
        kind, *parameters = [part.strip() for part in named.split(";")]
        if kind in weights:
            weights[kind] = next((float(part[2:]) for part in parameters if _WEIGHT.fullmatch(part)), 1.0)
    return GRAPHQL if weights[GRAPHQL] and weights[GRAPHQL] >= weights[JSON] else JSON


_WEIGHT = re.compile(r"q=[01](\.[0-9]{0,3})?")


def busy(
    accept: bytes, marks: Headers = (), reason: bytes | None = None, status: int = 503
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Return what is sent, at next to no cost, to whom nothing else can be: the start of a response, and its body.

    `marks` are headers that every response of this service has, `reason` is a body in place of the usual one.
    """
    body = reason or _BUSY
    media = media_of(accept.lower())
    headers = {"content-type": f"{media}; charset=utf-8", "cache-control": "no-store", **HEADERS.get(status, {})}
    headers |= {"content-length": str(len(body)), "vary": "Accept, Origin"}
    return (
        {"type": "http.response.start", "status": status, "headers": safe([*pairs(headers), *marks])},
        {"type": "http.response.body", "body": body},
    )


def too_many_parameters(accept: bytes, marks: Headers = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is sent to a client whose address has more parameters than MOST_PARAMETERS."""
    return busy(accept, marks, _TOO_MANY_PARAMETERS, 400)


def unread(accept: bytes, marks: Headers = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is sent in place of a response while clients leave too much of theirs unread."""
    return busy(accept, marks, _UNREAD)


def unavailable(reason: str) -> bytes:
    """Return the body of a refusal to serve a client right now."""
    return refused(refusal("SERVICE_UNAVAILABLE", reason)).body


_TOO_MANY_PARAMETERS = refused(
    refusal(
        "BAD_REQUEST",
        f"The address has more parameters than it may have; the limit is {MOST_PARAMETERS}. Send only those that the "
        "documentation names.",
    )
).body
_BUSY = unavailable("Too much is asked right now. Try again soon.")
_UNREAD = unavailable("Too many responses are not read by the clients that asked for them. Try again soon.")


def status_of(code: str | None, method: str, media: str) -> int:
    """Return the status of an answer that was refused with `code`, or was not."""
    if code is None:
        return 200
    if code == "OPERATION_NOT_SUPPORTED" and method != "POST":
        return 405
    return STATUS.get(code, 400 if media == GRAPHQL else 200)
