"""
`/export.csv` and `/export.json`: an export as it is read, without keeping more of it than a part.

An export holds a connection from its first byte to its last, and a snapshot of the record with it. So exports have a
pool of their own; only a few are under way at once, and fewer of one address; one that is not read is left after a
while, and one whose client has gone at once. What was left, or could not be read to its end, ends without the end that
HTTP gives an answer: no client takes it for whole.
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

from api.cache import names
from api.clients import Tally, client_of
from api.damage import CODE
from api.engine import Answer, Engine, refused
from api.fields import refusal
from api.headers import pairs
from api.http import HEAD_ONLY, busy, gone, unavailable
from api.schema import quoted, read_date
from app.domain.model import SERIES
from app.domain.text import one_line
from app.web.feeds.export import FORMAT, ExportDamaged, ExportStopped, Part, Wanted, parts, written
from app.web.refusals import unanswered
from app.web.routes import EXPORT_CSV, EXPORT_JSON

# Exports have a pool of so many connections (`app.main.reading`). One address has fewer: its slow readers leave a place
# for another. How slow a reader may be: see app/web/unsent.py.
MOST_AT_ONCE = 3
MOST_OF_AN_ADDRESS = 2
# How long a client may not take what is there for it, in seconds. Postgres itself would not wait for 30.
STALLED = 20.0
EXPORTS = {"csv": EXPORT_CSV, "json": EXPORT_JSON}
TYPES = {"csv": "text/csv; charset=utf-8; header=present", "json": "application/json; charset=utf-8"}

AWAY = "The record cannot be read right now. Try again soon."

Standing = Callable[[], AbstractAsyncContextManager[Engine]]

log = structlog.get_logger()


def downloads(
    standing: Standing,
    headers: Mapping[str, str] = {},
    series: Collection[str] = (SERIES,),
) -> Sequence[ASGIRouteHandler]:
    """
    Return the handlers of exports.

    `standing` gives an engine on one snapshot, `headers` go with every export, and `series` are
    those that may be asked for.
    """
    downloads = Downloads(standing, pairs(headers), series)
    return [_route(downloads, form) for form in TYPES]


def _route(downloads: "Downloads", form: str) -> ASGIRouteHandler:
    route = EXPORTS[form]

    @asgi(route.path, copy_scope=False)
    async def export(scope: Any, receive: Any, send: Any) -> None:
        """Send all of the record."""
        if scope["method"] not in route.methods:
            raise MethodNotAllowedException(headers={"allow": ", ".join(route.methods)})
        await downloads.answer(form, scope, receive, send)

    return export


class Downloads:
    """Sends exports, a few at once."""

    def __init__(
        self,
        standing: Standing,
        headers: Sequence[tuple[bytes, bytes]],
        series: Collection[str] = (SERIES,),
    ) -> None:
        self.standing, self.headers, self.series = standing, headers, series
        self._under_way = Tally()

    async def answer(self, form: str, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request: with the export, with why there is none, or with what it said before."""
        accept = dict(scope["headers"]).get(b"accept", b"")
        try:
            wanted = asked(Request(scope).query_params.multi_items(), self.series)
        except GraphQLError as error:
            await _refuse(scope, receive, send, refused(error))
            return
        client = client_of(scope)
        if refusal := self._refusal(client):
            for message in busy(accept, reason=refusal):
                await send(message)
            return
        self._under_way.add(client, 1)
        try:
            is_whole = await self._export(form, wanted, scope, receive, send)
        finally:
            self._under_way.add(client, -1)
        if is_whole:
            # Not before its place is free: a client may ask for the next export as soon as it has this one.
            await send({"type": "http.response.body", "body": b""})

    def _refusal(self, client: str) -> bytes | None:
        """Return why the client at an address gets no export; None if it gets one."""
        if self._under_way.total >= MOST_AT_ONCE:
            return unavailable(f"{MOST_AT_ONCE} exports are under way, the most that there may be. Try again soon.")
        if self._under_way.of(client) >= MOST_OF_AN_ADDRESS:
            has = f"Your address has {MOST_OF_AN_ADDRESS} of the exports that are under way"
            return unavailable(f"{has}, the most that one may have. Try again when one of them has ended.")
        return None

    async def _export(self, form: str, wanted: Wanted, scope: Any, receive: Any, send: Any) -> bool:
        """Send an export but for its end, or why there is none; return whether it may end as a whole."""
        begun = False
        try:
            async with self.standing() as engine, aclosing(parts(engine, wanted)) as read:
                first = await anext(read)
                start, more = self._start(form, first, scope)
                begun = True
                await send(start)
                return not more or await _sent(written(form, _first(first, read), wanted), receive, send)
        except (ExportStopped, OperationalError) as error:
            log.warning("an export stopped", reason=one_line(error))
            if begun:
                return False
            if isinstance(error, ExportDamaged):
                answer = refused(refusal(CODE, str(error)))
                await _refuse(scope, receive, send, Answer(answer.body, damaged=str(error)))
                return False
            await _refuse(scope, receive, send, refused(refusal("SERVICE_UNAVAILABLE", AWAY)))
            return False

    def _start(self, form: str, first: Part, scope: Any) -> tuple[dict[str, Any], bool]:
        """Return the start of the response, and whether an export follows."""
        tag = f'"{first.head_text or "none"}-{FORMAT}"'.encode()
        headers = [
            (b"cache-control", b"no-cache"),
            (b"etag", tag),
            (b"cross-origin-resource-policy", b"cross-origin"),
            (b"x-journal-head", (first.head_text or "none").encode()),
            *self.headers,
        ]
        known = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
        if known and names(known, tag):
            return {"type": "http.response.start", "status": 304, "headers": headers}, False
        called = f"alpha-monday-{first.head['seq'] if first.head else 0}.{form}"
        headers += [
            (b"content-type", TYPES[form].encode()),
            (b"content-disposition", f'attachment; filename="{called}"'.encode()),
        ]
        return {"type": "http.response.start", "status": 200, "headers": headers}, HEAD_ONLY not in scope


def asked(said: Iterable[tuple[str, str]], series: Collection[str] = (SERIES,)) -> Wanted:
    """Return which Mondays of which of the `series` a request's parameters ask for, or refuse them, by name."""
    given: dict[str, Any] = {}
    for name, text in said:
        if name not in ("from", "to", "series"):
            raise refusal(
                "BAD_REQUEST", f"An export has no parameter `{name[:50]}`: `from`, `to` and `series` are all."
            )
        if name in given:
            raise refusal("BAD_REQUEST", f"`{name}` may be given once.")
        given[name] = _series(text, series) if name == "series" else _day(name, text)
    begin, end = given.get("from"), given.get("to")
    if begin and end and begin > end:
        raise refusal("BAD_REQUEST", f"`from` must not be after `to`: {begin} is after {end}.")
    return Wanted(given.get("series", SERIES), begin, end)


def _series(text: str, series: Collection[str]) -> str:
    if text not in series:
        raise refusal("BAD_REQUEST", f"There is no series {quoted(text)}. The series: {', '.join(series)}.")
    return text


def _day(name: str, text: str) -> date:
    try:
        return read_date(text)
    except ValueError:
        raise refusal("BAD_REQUEST", f"`{name}` must be a date written as YYYY-MM-DD, such as 2026-11-16.") from None


async def _sent(pieces: AsyncGenerator[bytes], receive: Any, send: Any) -> bool:
    """Send an export; return whether all of it was taken."""
    leaving = asyncio.create_task(gone(receive))
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                async with asyncio.timeout(STALLED):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                if leaving.done():
                    break
            else:
                return True
        log.info("an export was not wanted to its end")
    except TimeoutError:
        log.info("an export was not read any more", seconds=STALLED)
    finally:
        leaving.cancel()
    return False


async def _first(first: Part, rest: AsyncGenerator[Part]) -> AsyncGenerator[Part]:
    yield first
    async for part in rest:
        yield part


async def _refuse(scope: Any, receive: Any, send: Any, answer: Answer) -> None:
    request = Request[Any, Any, Any](scope)
    response = unanswered(request, answer).to_asgi_response(None, request)
    await response(scope, receive, send)
