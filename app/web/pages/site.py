"""
The pages: each is a document of `graphql/operations` and a template.

They ask the very engine that the API's clients ask, in one statement, so a page says what the API says at that moment;
and they are kept as answers are (graphql/api/cache.py), since nothing in them hangs on the time of day. Nothing is
inline: the policy lets in this service's own files and nothing else. There are no cookies.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, Request, Response, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from api.engine import Answer, Engine
from api.graphiql_page import FOREVER
from api.guard import TOO_LARGE
from api.http import fail, refuse
from api.persisted import BY_NAME
from app.domain.calendar import Calendar
from app.domain.model import CHECKPOINT_DAYS
from app.web import formatting, routes
from app.web.charts import batch_chart, record_charts
from app.web.pages import batch as batches
from app.web.pages import corrected
from app.web.refusals import unwritable
from app.web.routes import Route

FOLDER = Path(__file__).parent
PAGE = 20
FILTERS = ("signed", "plain", "price", "direction", "day", "short_day", "moment", "utc", "listed", "sentence")
MEDIA = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
A_DAY = {"Cache-Control": "public, max-age=86400"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SAFE = {"Content-Security-Policy": POLICY, "Cross-Origin-Opener-Policy": "same-origin"}
# What begins with these paths is left out too: GraphiQL's files, and the stream of the journal.
ROBOTS = f"User-agent: *\nDisallow: {routes.GRAPHQL.path}\nDisallow: {routes.LIVE.path}\n"

# What the API refuses, and the status of the page that says so.
STATUS = {"BAD_CURSOR": 400, "BAD_DATE": 400, "SERVICE_UNAVAILABLE": 503, "OPERATION_TOO_LARGE": 503}

AnyRequest = Request[Any, Any, Any]
Html = Response[str]


class ProblemError(Exception):
    """A page cannot be shown: the status, what is the matter, and what to do."""

    def __init__(self, status: int, title: str, advice: str) -> None:
        super().__init__(title)
        self.status, self.title, self.advice = status, title, advice


def _with_beginning(document: str) -> str:
    """Return a document that asks for the beginning of an answer in place of all of it."""
    shorter, times = re.subn(r"\banswer\b", "answerBeginning answerBytes", document)
    if times != 1:
        raise ValueError(f"The page's document asks {times} times for `answer`, and must ask once.")
    return shorter


# A page shows the beginning of an answer alone: a record of an older version can hold one of 30 MB.
_DOCUMENTS = {**BY_NAME, "Monday": _with_beginning(BY_NAME["Monday"])}


class Told(Struct, frozen=True):
    """What the API told, and whether that stays true until the record moves."""

    data: Mapping[str, Any]
    lasting: bool


class Site:
    """
    The pages on an engine.

    Each says `notice` above everything else, which only a record that is made up has: search
    engines are asked to leave such pages out. Pictures are named by our `public` address, and
    `sessions` tell when the next figures come.
    """

    def __init__(
        self,
        engine: Engine,
        notice: str = "",
        public: str = "",
        sessions: Calendar | None = None,
    ) -> None:
        self.engine = engine
        self.files = dict(_file(path) for path in sorted((FOLDER / "files").iterdir()))
        self.environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {name: getattr(formatting, name) for name in FILTERS}
        addresses = {address.rpartition("/")[2]: address for address in self.files}
        self.environment.globals |= {
            "days": CHECKPOINT_DAYS,
            "notice": notice,
            "files": addresses,
            "chart": batch_chart,
            "drawings": record_charts,
            "batches": batches,
            "corrected": corrected,
            "asking": asking,
            "public": public.rstrip("/"),
            "routes": routes,
            "sessions": sessions or Calendar(),
        }

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the handlers of all pages and their files."""
        return [
            self._page(routes.FRONT, self.front),
            self._page(routes.BATCHES, self.history),
            self._page(routes.BATCH, self.monday),
            self._page(routes.RECORD, self.record),
            self._page(routes.ABOUT, self.about),
            _sent(routes.ROBOTS.path, ROBOTS.encode(), A_DAY, "text/plain"),
            _sent(routes.FAVICON.path, (FOLDER / "files" / "favicon.svg").read_bytes(), A_DAY, MEDIA[".svg"]),
            *(_sent(address, content, FOREVER, MEDIA[Path(address).suffix]) for address, content in self.files.items()),
        ]

    def _page(self, at: Route, ask: Callable[[AnyRequest], Awaitable[Response[Any]]]) -> HTTPRouteHandler:
        @route(at.litestar_path, http_method=at.methods, include_in_schema=False)
        async def page(request: AnyRequest) -> Response[Any]:
            """Answer with a page, or with one that says why not."""
            try:
                return await ask(request)
            except ProblemError as error:
                return self.problem(error)

        return page

    async def front(self, request: AnyRequest) -> Response[Any]:
        """Show the newest Monday; a client that wants JSON is told where the API is."""
        accept = request.headers.get("accept", "")
        if "json" in accept and "html" not in accept:
            return Response({"name": "Alpha Monday", "graphql": routes.GRAPHQL.path}, headers={"Vary": "Accept"})
        told = await self._told("Front")
        return self._shown("front.html", told, batch=told.data["latestBatch"], record=told.data["trackRecord"])

    async def history(self, request: AnyRequest) -> Html:
        """Show a page of the history."""
        after = request.query_params.get("after") or None
        told = await self._told("History", first=PAGE, after=after)
        return self._shown("history.html", told, after=after, **told.data["batches"])

    async def monday(self, request: AnyRequest) -> Html:
        """Show one Monday with its evidence."""
        run_date = _monday(request.path_params["run_date"])
        week = timedelta(days=7)
        told = await self._told(
            "Monday", runDate=str(run_date), before=str(run_date - week), after=str(run_date + week)
        )
        if told.data["batchOn"] is None:
            raise ProblemError(
                404, f"There is no batch of {formatting.day(run_date)}.", "The history has all that there are."
            )
        return self._shown("monday.html", told, batch=told.data["batchOn"], neighbours=told.data)

    async def record(self, _: AnyRequest) -> Html:
        """Show what all picks come to, and whether that can be told from luck."""
        told = await self._told("Record")
        return self._shown("record.html", told, record=told.data["trackRecord"])

    async def about(self, _: AnyRequest) -> Html:
        """Show how it works, and what it is not."""
        return self._shown("about.html", await self._told("Head"))

    def refuse(self, request: AnyRequest, error: HTTPException) -> Response[Any]:
        """Return the response to a request that no handler answers: a page where a browser asks."""
        if not _by_a_person(request):
            return refuse(request, error)
        if error.status_code == 404:
            return self.problem(
                ProblemError(404, "There is no such page.", "The links above lead to all that there are.")
            )
        return self.problem(ProblemError(error.status_code, f"{error.detail}.", "Go back, or begin at the first page."))

    def fail(self, request: AnyRequest, error: Exception) -> Response[Any]:
        """Return the response to a request on which a handler of ours failed."""
        answer = fail(request, error)
        return self.problem(_problem("INTERNAL_SERVER_ERROR")) if _by_a_person(request) else answer

    def problem(self, error: ProblemError) -> Html:
        """Return the page that says what is the matter."""
        html = self.environment.get_template("problem.html").render(problem=error, head=None)
        more = {"Retry-After": "5"} if error.status == 503 else {}
        return Response(
            html,
            status_code=error.status,
            media_type=MediaType.HTML,
            headers={**SAFE, **more, "Cache-Control": "no-store"},
        )

    async def head(self) -> Mapping[str, Any] | None:
        """Ask for the journal's newest entry; None if there is no answer."""
        answer = await self.engine.answer(BY_NAME["Head"])
        if answer.refused:
            return None
        data = json.loads(answer.body)["data"]
        # A head that is damaged stays so until a restore, which is announced: asking again at once is no use.
        return (data and data["service"]["journalHead"]) or {}

    async def _told(self, name: str, **variables: object) -> Told:
        """Ask the API one of our documents, or raise the problem that it tells of."""
        answer = await self.engine.answer(_DOCUMENTS[name], variables, larger=False)
        found = json.loads(answer.body)
        if answer.damaged:
            raise _damaged(answer)
        if "errors" in found:
            raise _problem(found["errors"][0]["extensions"]["code"])
        return Told(found["data"], answer.lasting)

    def _shown(self, template: str, told: Told, **more: object) -> Html:
        head = told.data["service"]["journalHead"] or {}  # None is for pages that follow nothing
        try:
            html = self.environment.get_template(template).render(head=head, **more)
        except formatting.TOO_LARGE as error:
            raise _damaged(unwritable(error)) from None
        kept = "no-cache" if told.lasting else "no-store"
        return Response(html, media_type=MediaType.HTML, headers={**SAFE, "Cache-Control": kept})


def _sent(path: str, content: bytes, headers: Mapping[str, str], media: str) -> HTTPRouteHandler:
    @route(path, http_method=["GET", "HEAD"], include_in_schema=False, sync_to_thread=False)
    def send() -> Response[bytes]:
        """Send a file."""
        return Response(content, media_type=media, headers=dict(headers))

    return send


def _file(path: Path) -> tuple[str, bytes]:
    """Return a file's address, which changes with its content, and its content."""
    content = path.read_bytes()
    digest = sha256(content).hexdigest()[:12]
    return routes.PAGE_FILE.url(digest=digest, name=path.name), content


def asking(document: str) -> str:
    """Return the address at which the API answers a document."""
    return f"{routes.GRAPHQL.path}?query={quote(document)}"


def _by_a_person(request: AnyRequest) -> bool:
    """Return whether a browser asks for a page: its errors are pages too."""
    of_the_api = request.scope["path"].startswith(routes.GRAPHQL.path)
    return not of_the_api and "text/html" in request.headers.get("accept", "")


def _monday(text: str) -> date:
    """Return the Monday that an address names, or raise the problem that it is none."""
    try:
        found = date.fromisoformat(text) if re.fullmatch(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        found = None
    if found is None:
        example = routes.BATCH.url(run_date="2026-01-05")
        raise ProblemError(404, "That is no date.", f"A batch's address ends in its Monday, as in {example}.")
    if found.weekday() != 0:
        monday = found - timedelta(days=found.weekday())
        right = routes.BATCH.url(run_date=monday)
        raise ProblemError(404, f"{formatting.day(found)} is no Monday.", f"Its week began on {monday}: {right}.")
    return found


def _damaged(answer: Answer) -> ProblemError:
    """Return the problem that a damaged record is."""
    return ProblemError(500, "The record is damaged here.", answer.damaged or "")


def _problem(code: str) -> ProblemError:
    """Return the problem that an error of the API is to somebody who looks at pages."""
    if code == TOO_LARGE:
        return ProblemError(503, "This page is too large to be shown.", "The API gives its parts one by one: /graphql.")
    match STATUS.get(code, 500):
        case 400:
            newest = routes.BATCHES.path
            return ProblemError(400, "That page of the history is not known.", f"Begin at its newest page: {newest}.")
        case 503:
            return ProblemError(503, "The record cannot be read right now.", "Try again in some seconds.")
        case status:
            return ProblemError(status, "Something went wrong here.", "It was logged. Try again later.")
