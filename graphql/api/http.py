"""
GraphQL over HTTP, as the specification of that name has it.

A request error (the document, the operation's name or the variables are wrong) has no `data`; its status is 400 where
the client asked for `application/graphql-response+json`, and 200 otherwise, as clients of the older type expect. What
is no GraphQL request at all is 400, 413 or 415 with an `errors` body.
"""

import json
from html import escape
from typing import Any

import msgspec
import structlog
from graphql import GraphQLError
from litestar import Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct
from strawberry.http.ides import get_graphql_ide_html

from api.declare import refusal
from api.engine import Answer, Engine, refused

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
LONGEST_BODY = 64 * 1024

log = structlog.get_logger()

# The codes that have a status of their own; any other refusal is a request error.
STATUS = {
    "BAD_REQUEST": 400,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "INTERNAL_SERVER_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}
HEADERS = {405: {"Allow": "POST"}, 415: {"Accept-Post": JSON}, 503: {"Retry-After": "5"}}
MEMBERS = ("query", "variables", "operationName", "extensions")

AnyRequest = Request[Any, Any, Any]


class Parameters(Struct, frozen=True, rename="camel"):
    """What a GraphQL request says."""

    query: str
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    extensions: dict[str, Any] | None = None


def routes(engine: Engine, notice: str = "") -> list[HTTPRouteHandler]:
    """Return the handlers of `/graphql`; GraphiQL's page says `notice` above everything else."""
    banner = f'<p role="note" style="margin:0;padding:.5em;background:#fc3;color:#000">{escape(notice)}</p>'
    graphiql = get_graphql_ide_html().replace("<body>", f"<body>{banner}" if notice else "<body>")

    async def answer(said: object) -> Answer:
        asked = parameters(said)
        return await engine.answer(asked.query, asked.variables, asked.operation_name or None)

    @get("/graphql", include_in_schema=False)
    async def ask(request: AnyRequest) -> Response[Any]:
        """Answer the query in the address; a browser without one gets GraphiQL."""
        if "query" not in request.query_params and "text/html" in request.headers.get("accept", ""):
            return Response(graphiql, media_type="text/html", headers={"Vary": "Accept"})
        said: dict[str, Any] = {name: text for name in MEMBERS if (text := request.query_params.get(name))}
        try:
            for name in {"variables", "extensions"} & said.keys():
                said[name] = decoded(said[name])
            return reply(request, await answer(said))
        except GraphQLError as error:
            return reply(request, refused(error))

    @post("/graphql", include_in_schema=False, status_code=200, request_max_body_size=LONGEST_BODY)
    async def tell(request: AnyRequest) -> Response[Any]:
        """Answer the query in the body."""
        try:
            return reply(request, await answer(decoded(await body(request))))
        except GraphQLError as error:
            return reply(request, refused(error))

    return [ask, tell]


async def body(request: AnyRequest) -> bytes:
    """Return the JSON text of a request, or refuse another content type and what is too long."""
    kind, options = request.content_type
    if kind != JSON or options.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise refusal("UNSUPPORTED_MEDIA_TYPE", f"The body must be {JSON} in UTF-8.")
    try:
        return await request.body()
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
    try:
        return msgspec.convert(said, Parameters)
    except msgspec.ValidationError as error:
        raise refusal("BAD_REQUEST", f"That is no GraphQL request: {error}.") from None


def reply(request: AnyRequest, answer: Answer) -> Response[bytes]:
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
        },
    )


def status_of(code: str | None, method: str, media: str) -> int:
    """Return the status of an answer that was refused with `code`, or was not."""
    if code is None:
        return 200
    if code == "OPERATION_NOT_SUPPORTED" and method == "GET":
        return 405
    return STATUS.get(code, 400 if media == GRAPHQL else 200)
