"""
GraphQL over HTTP, as the specification of that name has it.

A request error (the document, the operation's name or the variables are wrong) has no `data`; its status is 400 where
the client asked for `application/graphql-response+json`, and 200 otherwise, as clients of the older type expect. What
is no GraphQL request at all is 400, 408, 413 or 415 with an `errors` body.
"""

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal, cast

import msgspec
import structlog
from graphql import GraphQLError
from litestar import Request, Response, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from api import page
from api.declare import refusal
from api.engine import Answer, Engine, refused
from api.persisted import document

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
LONGEST_BODY = 64 * 1024
SLOWEST_BODY = 10  # seconds
READ_BY = "alpha_monday.read_by"  # in a request's scope: when its body must be there

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


def routes(engine: Engine, notice: str = "") -> list[HTTPRouteHandler]:
    """Return the handlers of `/graphql`; GraphiQL's page says `notice` above everything else."""
    graphiql = page.page(notice)

    @route(
        "/graphql",
        http_method=["GET", "HEAD", "POST"],
        status_code=200,
        include_in_schema=False,
        request_max_body_size=LONGEST_BODY,
    )
    async def answer(request: AnyRequest) -> Response[Any]:
        """Answer the query in the address or the body; a browser that asks nothing gets GraphiQL."""
        browser = request.method != "POST" and "text/html" in request.headers.get("accept", "")
        if browser and not {*MEMBERS} & request.query_params.keys():
            return Response(graphiql.html, media_type="text/html", headers=graphiql.headers)
        try:
            said = await asked(request)
            return reply(request, await engine.answer(said.document(), said.variables, said.operation_name or None))
        except GraphQLError as error:
            return reply(request, refused(error))

    return [answer, page.route(graphiql.files)]


async def asked(request: AnyRequest) -> Parameters:
    """Return what a request says, in its address or its body, or refuse what is no GraphQL request."""
    if request.method == "POST":
        return parameters(decoded(await body(request)))
    said: dict[str, Any] = {name: text for name in MEMBERS if (text := request.query_params.get(name))}
    for name in {"variables", "extensions"} & said.keys():
        said[name] = decoded(said[name])
    return parameters(said)


async def body(request: AnyRequest) -> bytes:
    """Return the JSON text of a request, or refuse another content type and what is too long."""
    kind, options = request.content_type
    if kind != JSON or options.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise refusal("UNSUPPORTED_MEDIA_TYPE", f"The body must be {JSON} in UTF-8.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise refusal("UNSUPPORTED_MEDIA_TYPE", "The body must not be compressed.")
    try:
        # The kept answers, in front, may have waited for it already.
        by = request.scope.get(READ_BY, asyncio.get_running_loop().time() + SLOWEST_BODY)
        async with asyncio.timeout_at(cast(float, by)):
            return await request.body()
    except TimeoutError:
        raise refusal("REQUEST_TIMEOUT", f"A body must be there within {SLOWEST_BODY} seconds.") from None
    except HTTPException as error:
        if error.status_code == 413:
            raise refusal("PAYLOAD_TOO_LARGE", f"A body has at most {LONGEST_BODY // 1024} KB.") from None
        raise refusal("BAD_REQUEST", "The body could not be read.") from None


def decoded(text: str | bytes) -> Any:
    """
    Return what a JSON text says, or refuse it.

    The standard library's decoder, because it lets lone surrogates through: the engine has its own answer to them.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise refusal("BAD_REQUEST", "That is not JSON.") from None


def _no_number(text: str) -> float:
    raise ValueError(text)


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
    return reply(request, refused(refusal(code, f"{HTTPStatus(error.status_code).phrase}.")), error.headers)


def reply(request: AnyRequest, answer: Answer, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Return the response that carries an answer."""
    # A client that does not name the newer type may not know it, so `*/*` is not enough.
    media = GRAPHQL if GRAPHQL in request.headers.get("accept", "").lower() else JSON
    status = status_of(answer.refused, request.method, media)
    if answer.refused:
        log.info("request refused", code=answer.refused, status=status)
    return Response(
        answer.body,
        status_code=status,
        media_type=f"{media}; charset=utf-8",
        headers={
            "Vary": "Accept",
            # What lasts may be stored, and is asked for again with its ETag each time.
            "Cache-Control": "no-cache" if answer.lasting else "no-store",
            **HEADERS.get(status, {}),
            **(headers or {}),
        },
    )


def busy(accept: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is sent, at next to no cost, to whom nothing else can be: the start of a response, and its body."""
    media = GRAPHQL if GRAPHQL.encode() in accept.lower() else JSON
    headers = {"content-type": f"{media}; charset=utf-8", "cache-control": "no-store", **HEADERS[503]}
    headers |= {"content-length": str(len(_BUSY)), "vary": "Accept, Origin"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return (
        {"type": "http.response.start", "status": 503, "headers": pairs},
        {"type": "http.response.body", "body": _BUSY},
    )


_BUSY = refused(refusal("SERVICE_UNAVAILABLE", "Too much is asked right now. Try again soon.")).body


def status_of(code: str | None, method: str, media: str) -> int:
    """Return the status of an answer that was refused with `code`, or was not."""
    if code is None:
        return 200
    if code == "OPERATION_NOT_SUPPORTED" and method != "POST":
        return 405
    return STATUS.get(code, 400 if media == GRAPHQL else 200)
