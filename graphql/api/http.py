"""
GraphQL over HTTP, as the specification of that name defines it.

A request error means that the document, the operation's name or the variables are wrong. Its
response has no `data`. Its status is 400 if the client accepts `application/graphql-response+json`,
and otherwise 200, as clients of the older media type expect. A request that is not a GraphQL
request at all gets 400, 408, 413 or 415 with an `errors` body.
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
from api.clients import client_address
from api.damage import DAMAGED_CODE
from api.engine import Engine, GraphQLResult, error_result, unexpected_error_result
from api.fields import api_error
from api.headers import Headers, encode_headers, with_security_headers
from api.limits import MAX_BODY_BYTES
from api.persisted import resolve_document
from api.schema import quote_value

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
METHODS: tuple[Method, ...] = ("GET", "HEAD", "OPTIONS", "POST")
BODY_TIMEOUT = 10  # seconds
# The most parameters of a URL. A request needs four at most. A link that people share may also have
# parameters that other services add to it. Thousands would take milliseconds to parse.
MAX_PARAMETERS = 100
# How much of an Accept header is read, in bytes: browsers send about 150.
MAX_ACCEPT_BYTES = 4096

# Keys in a request's scope. The request's `Body`, if it was already read.
BODY = "alpha_monday.body"
# Present if the request was a HEAD. Then the response must have no body.
HEAD_ONLY = "alpha_monday.head_only"
# A context in which the request does not count as active (`api.cache`).
WHILE_WAITING = "alpha_monday.place"
# The outcome of a GraphQL request: "answered", or the error code if the data is missing or damaged.
OUTCOME = "alpha_monday.outcome"

log = structlog.get_logger()

# The HTTP status of the error codes that have a status of their own. Any other error code is a
# request error (see `status_of`).
STATUS_BY_CODE = {
    "BAD_REQUEST": 400,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "INTERNAL_SERVER_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}
CODE_BY_STATUS = {status: code for code, status in STATUS_BY_CODE.items()}
# Closes the connection. Otherwise the server would still read the rest of a refused body.
CLOSE = {"connection": "close"}
HEADERS_BY_STATUS = {
    405: {"allow": "POST"},
    408: CLOSE,
    413: CLOSE,
    415: {"accept-post": JSON, **CLOSE},
    503: {"retry-after": "5"},
}
MEMBERS = ("query", "variables", "operationName", "extensions")

AnyRequest = Request[Any, Any, Any]


class PersistedQuery(Struct, frozen=True, rename="camel"):
    """The document that a client names by its hash."""

    version: Literal[1]
    sha256_hash: str


class Extensions(Struct, frozen=True, rename="camel"):
    """The extensions of a GraphQL request; unknown ones are ignored."""

    persisted_query: PersistedQuery | None = None


class GraphQLParameters(Struct, frozen=True, rename="camel"):
    """The parameters of a GraphQL request."""

    query: str | None = None
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    extensions: Extensions | None = None

    def document(self) -> str:
        """Return the document that was sent or named."""
        persisted = self.extensions and self.extensions.persisted_query
        return resolve_document(self.query, persisted.sha256_hash if persisted else None)


class Body(Struct, frozen=True):
    """A request's body, or the error code if it could not be read completely."""

    text: bytes
    error_code: str | None = None


# The messages for a body that could not be read completely, by error code.
BODY_MESSAGES = {
    "BAD_REQUEST": "The body could not be read.",
    "PAYLOAD_TOO_LARGE": f"A body has at most {MAX_BODY_BYTES // 1024} KB.",
    "REQUEST_TIMEOUT": f"A body must arrive within {BODY_TIMEOUT} seconds.",
}


def routes(
    engine: Engine, notice: str = "", headers: Mapping[str, str] = {}
) -> list[ASGIRouteHandler | HTTPRouteHandler]:
    """
    Return the handlers of `/graphql` and of GraphiQL's files.

    GraphiQL's page shows `notice` above everything else. `headers` go with every response. The
    handler of `/graphql` speaks ASGI itself, because what Litestar does for a handler costs as much
    as the engine and the database driver together.
    """
    graphiql = graphiql_page.build_page(notice)
    encoded_headers = encode_headers(headers)

    @asgi(paths.GRAPHQL, copy_scope=False)
    async def handle(scope: Any, receive: Any, send: Any) -> None:
        """Execute the query in the URL or the body; a browser without a query gets GraphiQL."""
        method = scope["method"]
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").lower()
        response = _response_without_query(scope, method, accept)
        if response:
            await response.to_asgi_response(None, Request(scope))(scope, receive, send)
            return
        try:
            parameters = await read_parameters(scope, receive)
            result = await engine.execute(
                parameters.document(),
                parameters.variables,
                parameters.operation_name or None,
                client=client_address(scope),
                while_waiting=scope.get(WHILE_WAITING, nullcontext),
                wait_for_disconnect=partial(wait_for_disconnect, receive),
            )
        except GraphQLError as error:
            result = error_result(error)
        scope[OUTCOME] = _outcome_of(result)
        status, result_headers = response_head(result, method, accept)
        start = [*encode_headers(result_headers), *encoded_headers]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": result.body})

    def _response_without_query(scope: Any, method: str, accept: bytes) -> Response[Any] | None:
        """
        Return the response to a request that has no query: GraphiQL's page, or the allowed methods.

        Returns None for a request that has to be executed.
        """
        if method not in METHODS:
            raise MethodNotAllowedException(headers={"allow": ", ".join(METHODS)})
        if method == "OPTIONS":
            return Response(None, status_code=204, headers={**headers, "Allow": ", ".join(METHODS)})
        if method == "POST" or b"text/html" not in accept:
            return None
        if {*MEMBERS} & Request(scope).query_params.keys():
            return None
        return Response(
            graphiql.html, media_type="text/html", headers={**headers, **graphiql.headers}
        )

    return [handle, graphiql_page.route(graphiql.files)]


def _outcome_of(result: GraphQLResult) -> str:
    if result.error_code:
        return result.error_code
    return DAMAGED_CODE if result.damage else "answered"


async def read_parameters(scope: Any, receive: Any) -> GraphQLParameters:
    """
    Return the parameters of a GraphQL request, from its body (POST) or its URL.

    Raises GraphQLError if it is not a GraphQL request.
    """
    if scope["method"] == "POST":
        return parse_parameters(decode_json(await read_json_body(scope, receive)))
    query = Request(scope).query_params
    for name in MEMBERS:
        if len({*query.getall(name, [])}) > 1:
            raise api_error(
                "BAD_REQUEST", f"The address has `{name}` twice, with different values."
            )
    members: dict[str, Any] = {name: query[name] for name in MEMBERS if query.get(name)}
    for name in {"variables", "extensions"} & members.keys():
        members[name] = decode_json(members[name])
    return parse_parameters(members)


async def read_json_body(scope: Any, receive: Any) -> bytes:
    """
    Return the JSON text of a request.

    Raises GraphQLError for a content type other than JSON in UTF-8, for a compressed body, and for
    a body that could not be read completely.
    """
    headers = dict(scope["headers"])
    # The usual spelling is compared first: parsing a content type costs more.
    if headers.get(b"content-type") != JSON.encode() and not is_json(scope):
        raise api_error("UNSUPPORTED_MEDIA_TYPE", f"The body must be {JSON} in UTF-8.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise api_error("UNSUPPORTED_MEDIA_TYPE", "The body must not be compressed.")
    body = scope.get(BODY) or await read_body(receive)
    if body.error_code:
        raise api_error(body.error_code, BODY_MESSAGES[body.error_code])
    return body.text


def is_json(scope: Any) -> bool:
    """Return whether the content type of a request is JSON in UTF-8, in any spelling."""
    kind, options = Request(scope).content_type
    return kind == JSON and options.get("charset", "utf-8").lower() in ("utf-8", "utf8")


async def read_body(receive: Any) -> Body:
    """
    Read a request's body.

    The time limit is a bare timer, because `asyncio.timeout` costs a tenth of what a cached
    response costs. Almost no request needs the limit: its body arrives with its headers.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task
    is_late = False

    def stop() -> None:
        nonlocal is_late
        is_late = task.cancel()

    timer = loop.call_later(BODY_TIMEOUT, stop)
    parts: list[bytes] = []
    size = 0
    has_more = True
    try:
        while has_more:
            message = await receive()
            if message["type"] != "http.request":
                return Body(b"", "BAD_REQUEST")
            parts.append(message.get("body", b""))
            has_more = message.get("more_body", False)
            size += len(parts[-1])
            if size > MAX_BODY_BYTES:
                return Body(b"", "PAYLOAD_TOO_LARGE")
    except asyncio.CancelledError:
        # If another caller has cancelled the task, too, `uncancel` returns a number above zero.
        if not is_late or task.uncancel():
            raise
        return Body(b"", "REQUEST_TIMEOUT")
    finally:
        timer.cancel()
    # Joining would copy a body that arrived in one part.
    return Body(parts[0] if len(parts) == 1 else b"".join(parts))


async def wait_for_disconnect(receive: Any) -> None:
    """Wait until the client of a request whose body was read has disconnected."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


def decode_json(text: str | bytes) -> Any:
    """
    Return the value of a JSON text.

    Raises BAD_REQUEST if the text is not JSON, or if an object in it has two different values for
    one name.

    This uses the standard library's decoder, because that decoder accepts lone surrogates: the
    engine has an error of its own for them. A byte order mark before the text is ignored, as RFC
    8259 (section 8.1) allows: some editors and clients write one.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        return _DECODER.decode(decoded.removeprefix("\ufeff"))
    except RepeatedNameError as error:
        raise api_error(
            "BAD_REQUEST", f"One JSON object has {error} twice, with different values."
        ) from None
    except (ValueError, RecursionError):
        raise api_error("BAD_REQUEST", _describe_bad_json(text)) from None


class RepeatedNameError(Exception):
    """
    A JSON object has two different values for one name.

    Some parsers would return the first value, others the last.
    """


def _build_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(members)
    if len(result) < len(members):
        for name, value in members:
            # 1, 1.0 and true are equal in Python, and three different values in JSON.
            if repr(value) != repr(result[name]):
                raise RepeatedNameError(quote_value(name.encode(errors="replace").decode()))
    return result


def _refuse_constant(text: str) -> float:
    # Python's decoder accepts NaN and Infinity, which JSON does not have.
    raise ValueError(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_build_object, parse_constant=_refuse_constant)


def _describe_bad_json(text: str | bytes) -> str:
    """Return the message for a text that is not JSON; if it is not UTF-8, the message says so."""
    if isinstance(text, str):
        return "That is not JSON."
    encoding = json.detect_encoding(text)
    if not encoding.startswith("utf-8"):
        return f"A body must be in UTF-8; this one is in {encoding[:6].upper()}."
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"A body must be in UTF-8; the byte at {error.start} is not valid in it."
    return "That is not JSON."


def parse_parameters(value: object) -> GraphQLParameters:
    """
    Return the parameters in a JSON value.

    Raises BAD_REQUEST, and names the member that does not fit.
    """
    if isinstance(value, list):
        raise api_error(
            "BAD_REQUEST", "Requests are answered one at a time: send an object, not a list."
        )
    try:
        return msgspec.convert(value, GraphQLParameters)
    except msgspec.ValidationError as error:
        raise api_error("BAD_REQUEST", f"This is not a GraphQL request: {error}.") from None


def handle_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """
    Return the response for an error that Litestar or a handler raises, such as an unknown path.

    The response has the same form as the responses for all other errors.
    """
    default = "BAD_REQUEST" if error.status_code < 500 else "INTERNAL_SERVER_ERROR"
    code = CODE_BY_STATUS.get(error.status_code, default)
    result = error_result(api_error(code, f"{HTTPStatus(error.status_code).phrase}."))
    return _error_response(request, result, error.headers or {})


def handle_unexpected_exception(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Return the response to a request whose handler failed."""
    return _error_response(request, unexpected_error_result(error), {})


def _error_response(
    request: AnyRequest, result: GraphQLResult, more_headers: Mapping[str, str]
) -> Response[bytes]:
    request.scope[OUTCOME] = result.error_code  # type: ignore[literal-required]
    accept = request.headers.get("accept", "").lower().encode()
    status, headers = response_head(result, request.method, accept)
    return Response(result.body, status_code=status, headers={**headers, **more_headers})


def response_head(result: GraphQLResult, method: str, accept: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of a result. Log a refused request."""
    media_type = media_type_of(accept)
    status = status_of(result.error_code, method, media_type)
    if result.error_code:
        log.info("request refused", code=result.error_code, status=status)
    return status, {
        "Content-Type": f"{media_type}; charset=utf-8",
        "Content-Length": str(len(result.body)),
        "Vary": "Accept",
        # With `no-cache` a client may store the response. Before each use, the client sends the
        # ETag, to ask whether the response is still valid.
        "Cache-Control": "no-cache" if result.is_cacheable else "no-store",
        **HEADERS_BY_STATUS.get(status, {}),
    }


def media_type_of(accept: bytes) -> str:
    """
    Return the media type of a response for the values of Accept, which are in lower case.

    `application/json` is the older type, `application/graphql-response+json` the newer one. A
    client gets the newer type only if it names that type. `*/*` is not enough, because the client
    may not know the newer type.
    """
    accept = accept[:MAX_ACCEPT_BYTES]
    if GRAPHQL.encode() not in accept:
        return JSON
    if b"q=" not in accept:
        return GRAPHQL
    weights = dict.fromkeys((GRAPHQL, JSON), 0.0)
    for item in accept.decode("latin-1").split(","):
        kind, *parameters = [part.strip() for part in item.split(";")]
        if kind in weights:
            weights[kind] = _weight_in(parameters)
    if weights[GRAPHQL] and weights[GRAPHQL] >= weights[JSON]:
        return GRAPHQL
    return JSON


_WEIGHT = re.compile(r"q=[01](\.[0-9]{0,3})?")


def _weight_in(parameters: list[str]) -> float:
    """Return the weight `q` among the parameters of a media type; 1 if there is none."""
    weights = (float(part[2:]) for part in parameters if _WEIGHT.fullmatch(part))
    return next(weights, 1.0)


def unavailable_messages(
    accept: bytes, extra_headers: Headers = (), body: bytes | None = None, status: int = 503
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Return the two ASGI messages of a refusal that costs almost nothing.

    `extra_headers` are headers that every response of this service has. `body` replaces the usual
    body, and `status` the usual 503.
    """
    body = body or _BUSY_BODY
    media_type = media_type_of(accept.lower())
    headers = {
        "content-type": f"{media_type}; charset=utf-8",
        "cache-control": "no-store",
        **HEADERS_BY_STATUS.get(status, {}),
        "content-length": str(len(body)),
        "vary": "Accept, Origin",
    }
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": with_security_headers([*encode_headers(headers), *extra_headers]),
    }
    return start, {"type": "http.response.body", "body": body}


def too_many_parameters_messages(
    accept: bytes, extra_headers: Headers = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the messages for a URL with more parameters than MAX_PARAMETERS."""
    return unavailable_messages(accept, extra_headers, body=_TOO_MANY_PARAMETERS_BODY, status=400)


def unread_messages(
    accept: bytes, extra_headers: Headers = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the messages for a request that is refused because unread responses use the memory."""
    return unavailable_messages(accept, extra_headers, _UNREAD_BODY)


def unavailable_body(message: str) -> bytes:
    """Return the body of a temporary refusal, with the code SERVICE_UNAVAILABLE."""
    return error_result(api_error("SERVICE_UNAVAILABLE", message)).body


_TOO_MANY_PARAMETERS_BODY = error_result(
    api_error(
        "BAD_REQUEST",
        f"The address has more parameters than allowed; the limit is {MAX_PARAMETERS}. Send only "
        "those that the documentation names.",
    )
).body
_BUSY_BODY = unavailable_body("Too many requests are in progress. Try again soon.")
_UNREAD_BODY = unavailable_body(
    "Too many responses are not read by the clients that requested them. Try again soon."
)


def status_of(code: str | None, method: str, media_type: str) -> int:
    """Return the HTTP status of a result; `code` is its error code, or None."""
    if code is None:
        return 200
    if code == "OPERATION_NOT_SUPPORTED" and method != "POST":
        return 405
    # The status of a request error is 400 only in the newer media type.
    return STATUS_BY_CODE.get(code, 400 if media_type == GRAPHQL else 200)
