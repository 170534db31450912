"""
`/export.csv` and `/export.json`: exports over HTTP.

The service reads and sends an export part by part, so an export never takes more memory than one
part. From its first byte to its last, an export has a database connection with a snapshot of the
record. An export may take long, so exports have a connection pool of their own: other requests do
not wait for their connections. Only a few exports are sent at once, and still fewer to one address.
An export ends early if its client does not read it for READ_TIMEOUT seconds, or disconnects. An
incomplete export does not have the end that HTTP requires, so that clients notice that it is
incomplete.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import date
from typing import Any

import structlog
from graphql import GraphQLError
from litestar import Request, asgi
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler
from psycopg import OperationalError

from api.cache import matches_etag
from api.clients import ClientCounter, client_address
from api.damage import DAMAGED_CODE
from api.engine import Engine, GraphQLResult, error_result
from api.fields import api_error
from api.headers import encode_headers
from api.http import HEAD_ONLY, unavailable_body, unavailable_messages, wait_for_disconnect
from api.schema import parse_date, quote_value
from app.domain.model import SERIES
from app.domain.text import one_line
from app.web.feeds.export import (
    FORMAT_VERSION,
    ExportDamaged,
    ExportPart,
    ExportRange,
    ExportStopped,
    read_parts,
    write_export,
)
from app.web.refusals import error_response
from app.web.routes import EXPORT_CSV, EXPORT_JSON

# The size of the connection pool of exports (`app.main.open_reader_pools`). One address gets fewer
# exports at once, so that slow readers at this address leave a place for another client. How slowly
# a client may read is limited in app/web/unsent_responses.py.
MAX_EXPORTS = 3
MAX_EXPORTS_PER_ADDRESS = 2
# How long a client may read nothing, in seconds. After 30 seconds, Postgres would end the idle
# transaction of the export.
READ_TIMEOUT = 20.0
EXPORT_ROUTES = {"csv": EXPORT_CSV, "json": EXPORT_JSON}
CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8; header=present",
    "json": "application/json; charset=utf-8",
}
PARAMETERS = ("from", "to", "series")

UNAVAILABLE = "The record cannot be read right now. Try again soon."

# Returns a context manager that provides an engine on one snapshot of the record.
OpenSnapshot = Callable[[], AbstractAsyncContextManager[Engine]]

log = structlog.get_logger()


def export_routes(
    open_snapshot: OpenSnapshot,
    headers: Mapping[str, str] = {},
    series: Collection[str] = (SERIES,),
) -> Sequence[ASGIRouteHandler]:
    """
    Return the handlers of exports.

    `headers` are added to every export. `series` are the names of the series that a client may
    request.
    """
    handler = ExportHandler(open_snapshot, encode_headers(headers), series)
    return [_route(handler, format_name) for format_name in EXPORT_ROUTES]


def _route(handler: "ExportHandler", format_name: str) -> ASGIRouteHandler:
    route = EXPORT_ROUTES[format_name]

    @asgi(route.path, copy_scope=False)
    async def export(scope: Any, receive: Any, send: Any) -> None:
        """Send an export, or the reason why there is none."""
        if scope["method"] not in route.methods:
            raise MethodNotAllowedException(headers={"allow": ", ".join(route.methods)})
        await handler.respond(format_name, scope=scope, receive=receive, send=send)

    return export


class ExportHandler:
    """Answers requests for exports, and limits how many are sent at once."""

    def __init__(
        self,
        open_snapshot: OpenSnapshot,
        headers: Sequence[tuple[bytes, bytes]],
        series: Collection[str] = (SERIES,),
    ) -> None:
        self.open_snapshot = open_snapshot
        self.headers = headers
        self.series = series
        self._active = ClientCounter()

    async def respond(self, format_name: str, *, scope: Any, receive: Any, send: Any) -> None:
        """Send the export that a request asks for, or the reason why it is refused."""
        parameters = list(Request(scope).query_params.multi_items())
        try:
            await self._read_new_names(parameters, client_address(scope))
            export_range = parse_parameters(parameters, self.series)
        except OperationalError as error:
            await _send_error(scope, receive, send, result=_stopped_result(error))
            return
        except GraphQLError as error:
            await _send_error(scope, receive, send, result=error_result(error))
            return
        client = client_address(scope)
        if refusal := self._refusal(client):
            accept = dict(scope["headers"]).get(b"accept", b"")
            for message in unavailable_messages(accept, body=refusal):
                await send(message)
            return
        self._active.add(client, 1)
        try:
            is_complete = await self._send_export(
                format_name, export_range, scope=scope, receive=receive, send=send
            )
        finally:
            self._active.add(client, -1)
        if is_complete:
            # The end is sent only when the export is no longer counted. A client may request its
            # next export as soon as it has received this end.
            await send({"type": "http.response.body", "body": b""})

    async def _read_new_names(self, parameters: Sequence[tuple[str, str]], client: str) -> None:
        """
        Read the names of the record's series if a request has one that is not known.

        A series can be registered while this process runs. This takes one of the connections of
        exports, so it is not done for a client that may have no export now.
        """
        requested = {text for name, text in parameters if name == "series"}
        if requested <= set(self.series) or self._refusal(client):
            return
        self._active.add(client, 1)
        try:
            async with self.open_snapshot() as engine:
                await engine.facts.read_names(engine.fetch)
        finally:
            self._active.add(client, -1)

    def _refusal(self, client: str) -> bytes | None:
        """Return the response body that refuses an export to a client; None if it is allowed."""
        if self._active.total >= MAX_EXPORTS:
            return unavailable_body(
                f"{MAX_EXPORTS} exports are being sent, which is the maximum. Try again soon."
            )
        if self._active.count_for(client) >= MAX_EXPORTS_PER_ADDRESS:
            return unavailable_body(
                f"Your address has {MAX_EXPORTS_PER_ADDRESS} exports in progress, which is the "
                "maximum for one address. Try again when one of them has ended."
            )
        return None

    async def _send_export(
        self, format_name: str, export_range: ExportRange, *, scope: Any, receive: Any, send: Any
    ) -> bool:
        """
        Send an export without the end of its body, or an error.

        Return whether the end of the body must still be sent. It must not be sent after an error,
        whose response is complete, or after an incomplete export.
        """
        has_begun = False
        try:
            async with (
                self.open_snapshot() as engine,
                aclosing(read_parts(engine, export_range)) as parts,
            ):
                # The headers of the response contain the journal's head, which the first part has.
                # So the first part is read before the response starts.
                first = await anext(parts)
                headers = self._headers(first)
                has_begun = True
                if _is_known(scope, self._etag(first)):
                    await send({"type": "http.response.start", "status": 304, "headers": headers})
                    return True
                headers += _content_headers(format_name, first, export_range.series)
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                if HEAD_ONLY in scope:
                    return True
                pieces = write_export(format_name, _chain(first, parts), export_range)
                return await _send_pieces(pieces, receive, send)
        except (ExportStopped, OperationalError) as error:
            log.warning("an export stopped", reason=one_line(error))
            if not has_begun:
                await _send_error(scope, receive, send, result=_stopped_result(error))
            return False

    def _etag(self, first: ExportPart) -> bytes:
        return f'"{first.head_text or "none"}-{FORMAT_VERSION}"'.encode()

    def _headers(self, first: ExportPart) -> list[tuple[bytes, bytes]]:
        return [
            (b"cache-control", b"no-cache"),
            (b"etag", self._etag(first)),
            # Pages of other sites may embed an export. Their scripts can read it only through CORS.
            (b"cross-origin-resource-policy", b"cross-origin"),
            (b"x-journal-head", (first.head_text or "none").encode()),
            *self.headers,
        ]


def _is_known(scope: Any, etag: bytes) -> bool:
    """Return whether the client has this export already, as its If-None-Match says."""
    values = [value for name, value in scope["headers"] if name == b"if-none-match"]
    known = b",".join(values)
    return bool(known) and matches_etag(known, etag)


def _content_headers(
    format_name: str, first: ExportPart, series: str | None
) -> list[tuple[bytes, bytes]]:
    seq = first.head["seq"] if first.head else 0
    file_name = f"alpha-monday-{seq}.{format_name}"
    # A download has one series; the command can export several.
    if series not in (None, SERIES):
        file_name = f"alpha-monday-{series}-{seq}.{format_name}"
    return [
        (b"content-type", CONTENT_TYPES[format_name].encode()),
        (b"content-disposition", f'attachment; filename="{file_name}"'.encode()),
    ]


def _stopped_result(error: Exception) -> GraphQLResult:
    """Return the error of the API for an export that could not begin."""
    if isinstance(error, ExportDamaged):
        body = error_result(api_error(DAMAGED_CODE, str(error))).body
        return GraphQLResult(body, damage=str(error))
    return error_result(api_error("SERVICE_UNAVAILABLE", UNAVAILABLE))


def parse_parameters(
    parameters: Iterable[tuple[str, str]], series: Collection[str] = (SERIES,)
) -> ExportRange:
    """
    Return the range that the parameters of a request ask for.

    Raises BAD_REQUEST, with a message that names the parameter, if one is unknown, repeated or
    invalid.
    """
    values: dict[str, Any] = {}
    for name, text in parameters:
        if name not in PARAMETERS:
            raise api_error(
                "BAD_REQUEST",
                f"An export has no parameter `{name[:50]}`. "
                "Its parameters are `from`, `to` and `series`.",
            )
        if name in values:
            raise api_error("BAD_REQUEST", f"`{name}` may be given only once.")
        if name == "series":
            values[name] = _parse_series(text, series)
        else:
            values[name] = _parse_day(name, text)
    begin, end = values.get("from"), values.get("to")
    if begin and end and begin > end:
        raise api_error("BAD_REQUEST", f"`from` must not be after `to`: {begin} is after {end}.")
    return ExportRange(values.get("series", SERIES), begin, end)


def _parse_series(text: str, series: Collection[str]) -> str:
    if text not in series:
        names = ", ".join(sorted(series))
        raise api_error(
            "BAD_REQUEST", f"There is no series {quote_value(text)}. The series: {names}."
        )
    return text


def _parse_day(name: str, text: str) -> date:
    try:
        return parse_date(text)
    except ValueError:
        raise api_error(
            "BAD_REQUEST", f"`{name}` must be a date written as YYYY-MM-DD, such as 2026-11-16."
        ) from None


async def _send_pieces(pieces: AsyncGenerator[bytes], receive: Any, send: Any) -> bool:
    """Send the pieces of an export. Return whether all of them were sent."""
    disconnected = asyncio.create_task(wait_for_disconnect(receive))
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                # `send` waits while the client does not read.
                async with asyncio.timeout(READ_TIMEOUT):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                if disconnected.done():
                    log.info("the client of an export disconnected")
                    return False
    except TimeoutError:
        log.info("the client of an export stopped reading", seconds=READ_TIMEOUT)
        return False
    else:
        return True
    finally:
        disconnected.cancel()


async def _chain(first: ExportPart, rest: AsyncGenerator[ExportPart]) -> AsyncGenerator[ExportPart]:
    yield first
    async for part in rest:
        yield part


async def _send_error(scope: Any, receive: Any, send: Any, *, result: GraphQLResult) -> None:
    request = Request[Any, Any, Any](scope)
    response = error_response(request, result).to_asgi_response(None, request)
    await response(scope, receive, send)
