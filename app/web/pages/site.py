"""
The pages: each one is a document of `graphql/operations/pages` and a template. The page of a series
also shows the comparison of `graphql/operations/Comparison.graphql`, if the record has a control.

The engine of the API executes the document, in one statement. Before it, another document asks for
the series of the record: with several series, pages name them. So a page shows exactly what the API
returns at that moment. Pages are cached like the API's responses (graphql/api/cache.py), because
nothing in them depends on the time of day. Scripts and styles are never inline, because the
Content-Security-Policy allows only files of this service. There are no cookies.
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

from api.engine import Engine, GraphQLResult
from api.graphiql_page import IMMUTABLE_HEADERS
from api.guard import TOO_LARGE
from api.http import handle_http_exception, handle_unexpected_exception
from api.persisted import DOCUMENTS_BY_NAME
from app.domain.calendar import Calendar
from app.domain.declarations import Origin
from app.domain.model import CHECKPOINT_DAYS, SERIES
from app.domain.text import join_words
from app.store.rehearsed import REHEARSED_NOTICE
from app.web import formatting, routes
from app.web.charts import batch_chart, calibration_chart, layout, record_charts
from app.web.documents import extended
from app.web.pages import batch_text, correction_text, score_text, series_text, timestamp_text
from app.web.pages.series_text import KnownSeries
from app.web.refusals import too_large_number_result
from app.web.routes import Route

FOLDER = Path(__file__).parent
# Batches on one page of the history.
PAGE_SIZE = 20
# The functions of `app.web.formatting` that templates use as filters.
FILTERS = (
    "signed",
    "unsigned",
    "price",
    "direction",
    "long_date",
    "short_date",
    "new_york_time",
    "utc_time",
    "format_sentence",
    "split_code",
)
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CACHED_FOR_A_DAY = {"Cache-Control": "public, max-age=86400"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
}
# A crawler requests no path that begins with one of the two paths below. So it does not request
# GraphiQL's files (/graphql/files) and the journal's stream (/live/journal), either.
ROBOTS = f"User-agent: *\nDisallow: {routes.GRAPHQL.path}\nDisallow: {routes.LIVE.path}\n"

# The statuses of pages, by the API's error code. `_error_for_code` also gives TOO_LARGE the status
# 503. All other error codes get the status 500.
STATUS_BY_CODE = {
    "BAD_CURSOR": 400,
    "BAD_DATE": 400,
    "SERVICE_UNAVAILABLE": 503,
    "OPERATION_TOO_LARGE": 503,
}

AnyRequest = Request[Any, Any, Any]
Html = Response[str]


class PageError(Exception):
    """A page cannot be shown: the status, what went wrong, and what the reader can do."""

    def __init__(self, status: int, title: str, advice: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.advice = advice


# Each page asks where the record comes from: the process knows only whether its clock is simulated.
_ORIGIN = "service { origin } service"
# What the page of a series says about it.
_SERIES = """
seriesNamed(name: $series) {
  name label kind model firstRunDate retiredAt
  profiles {
    seq holdsFrom retired label model baseUrl responseFormat temperature reasoningEffort maxTokens
    tokenLimitAs extraBody tools timeoutSeconds promptVersion drawVersion universeSize
    universeSource
  }
  latestBatch { runDate status }
}
"""
# The page of a record also asks for the results after costs, and for the scores of probabilities.
_SCORES = f"drawdownPct {score_text.RECORD_FIELDS}"
# It also asks for the ids of its best and its worst call, and then for the marks
# of these two picks: `trackRecord` has no marks.
_BEST = "best { id } best"
_WORST = "worst { id } worst"
_MARKS = """
query Marks($best: ID!, $worst: ID!) {
  best: pick(id: $best) { ...Marks }
  worst: pick(id: $worst) { ...Marks }
}
fragment Marks on Pick {
  result { unusualMove }
  batch { result { benchmarkUnusualMove } }
}
"""
_DOCUMENTS = {
    **DOCUMENTS_BY_NAME,
    "Front": extended(
        "Front",
        skipReason="skipReason wasSession",
        reasoning="reasoning probability",
        service=_ORIGIN,
    ),
    "History": extended("History", service=_ORIGIN),
    # A page shows only the beginning of an answer, because a record that an older version has
    # written can contain an answer of 30 MB.
    "Monday": extended(
        "Monday",
        skipReason="skipReason wasSession",
        reasoning="reasoning probability",
        promptVersion="promptVersion profileSha256",
        generations="profile { promptVersion } generations",
        answer="answerBeginning answerBytes",
        service=_ORIGIN,
    ),
    "Record": extended(
        "Record",
        best=_BEST,
        worst=_WORST,
        drawdownPct=_SCORES,
        service="seriesNamed(name: $series) { kind profiles { tools } } "
        "service { origin lostAnswers } service",
    )
    + score_text.COSTS_FRAGMENT,
    "SeriesRecord": extended(
        "Record",
        best=_BEST,
        worst=_WORST,
        drawdownPct=_SCORES,
        service=f"{_SERIES} service {{ origin }} service",
    )
    + score_text.COSTS_FRAGMENT,
    "Leaderboard": extended(
        "Leaderboard", lastRunDate=f"lastRunDate {score_text.LEADERBOARD_FIELDS}"
    ),
    "Marks": _MARKS,
    "About": extended("Head", service="service { sealed origin recordId } service"),
}


class PageData(Struct, frozen=True):
    """The API's data for a page, and whether the page may be cached until the record changes."""

    data: Mapping[str, Any]
    is_cacheable: bool


class Site:
    """
    The handlers of all pages.

    Each page shows `notice` at its top. Only a rehearsal has a notice. Pages with a notice also ask
    search engines not to index them. If the record says that it is a rehearsal, its pages have the
    notice of a rehearsal, even if `notice` is empty. `public_url` is the address of the service for
    the links to images. `sessions` is the exchange's calendar: it determines when the next figures
    are due. `expects_stamps` says that a time-stamping authority is set, so that a page names a
    missing timestamp.
    """

    def __init__(
        self,
        engine: Engine,
        notice: str = "",
        public_url: str = "",
        sessions: Calendar | None = None,
        *,
        expects_stamps: bool = False,
    ) -> None:
        self.engine = engine
        self.notice = notice
        self.files = dict(_read_file(path) for path in sorted((FOLDER / "files").iterdir()))
        self.environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {name: getattr(formatting, name) for name in FILTERS}
        self.environment.filters["join_words"] = join_words
        addresses = {address.rpartition("/")[2]: address for address in self.files}
        self.environment.globals |= {
            "batch_chart": batch_chart,
            "batch_text": batch_text,
            "calibration_chart": calibration_chart,
            "correction_text": correction_text,
            "days": CHECKPOINT_DAYS,
            "expects_stamps": expects_stamps,
            "files": addresses,
            "layout": layout,
            "notice": notice,
            "public_url": public_url.rstrip("/"),
            "batch_query_url": batch_query_url,
            "query_url": query_url,
            "record_charts": record_charts,
            "routes": routes,
            "score_text": score_text,
            "series_text": series_text,
            "sessions": sessions or Calendar(),
            "timestamp_text": timestamp_text,
        }

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the handlers of all pages and their files."""
        favicon = (FOLDER / "files" / "favicon.svg").read_bytes()
        handlers = [
            self._page_route(routes.FRONT, self.front),
            self._page_route(routes.BATCHES, self.history),
            self._page_route(routes.BATCH, self.monday),
            self._page_route(routes.RECORD, self.record),
            self._page_route(routes.SERIES, self.series_record),
            self._page_route(routes.SERIES_BATCHES, self.history),
            self._page_route(routes.SERIES_BATCH, self.monday),
            self._page_route(routes.ABOUT, self.about),
            _file_route(
                path=routes.ROBOTS.path,
                content=ROBOTS.encode(),
                headers=CACHED_FOR_A_DAY,
                media_type="text/plain",
            ),
            _file_route(
                path=routes.FAVICON.path,
                content=favicon,
                headers=CACHED_FOR_A_DAY,
                media_type=MEDIA_TYPES[".svg"],
            ),
        ]
        for address, content in self.files.items():
            handlers.append(
                _file_route(
                    path=address,
                    content=content,
                    headers=IMMUTABLE_HEADERS,
                    media_type=MEDIA_TYPES[Path(address).suffix],
                )
            )
        return handlers

    def _page_route(
        self, page_route: Route, show: Callable[[AnyRequest], Awaitable[Response[Any]]]
    ) -> HTTPRouteHandler:
        @route(page_route.litestar_path, http_method=page_route.methods, include_in_schema=False)
        async def page(request: AnyRequest) -> Response[Any]:
            """Answer with the page, or with a page that explains why it cannot be shown."""
            try:
                return await show(request)
            except PageError as error:
                return self.error_page(error)

        return page

    async def front(self, request: AnyRequest) -> Response[Any]:
        """Show the newest Monday. A client that asks for JSON gets the path of the API."""
        accept = request.headers.get("accept", "")
        if "json" in accept and "html" not in accept:
            content = {"name": "Alpha Monday", "graphql": routes.GRAPHQL.path}
            return Response(content, headers={"Vary": "Accept"})
        known = await self._known_series()
        if known.are_several:
            page = await self._query("SeriesFront")
            week = series_text.newest_week(page.data["series"])
            return self._render(
                "front_of_series.html",
                page,
                known=known,
                week=week,
                record_has_stamps=_has_stamps(page),
            )
        page = await self._query("Front", series=known.default)
        return self._render(
            "front.html",
            page,
            batch=page.data["latestBatch"],
            known=known,
            record_has_stamps=_has_stamps(page),
            record=page.data["trackRecord"],
            series_name=known.default,
        )

    async def history(self, request: AnyRequest) -> Html:
        """Show a page of the history of a series."""
        known = await self._known_series()
        series_name = _requested_series(request, known)
        after = request.query_params.get("after") or None
        page = await self._query("History", first=PAGE_SIZE, after=after, series=series_name)
        return self._render(
            "history.html",
            page,
            after=after,
            known=known,
            series_name=series_name,
            **page.data["batches"],
        )

    async def monday(self, request: AnyRequest) -> Html:
        """Show one Monday of a series with all of its evidence."""
        known = await self._known_series()
        series_name = _requested_series(request, known)
        run_date = _parse_monday(request.path_params["run_date"], series_name)
        week = timedelta(days=7)
        page = await self._query(
            "Monday",
            runDate=str(run_date),
            before=str(run_date - week),
            after=str(run_date + week),
            series=series_name,
        )
        if page.data["batchOn"] is None:
            of_series = f" of {series_name}" if known.are_several else ""
            raise PageError(
                404,
                f"There is no batch{of_series} of {formatting.long_date(run_date)}.",
                "The history lists all batches.",
            )
        return self._render(
            "monday.html",
            page,
            batch=page.data["batchOn"],
            known=known,
            neighbours=page.data,
            record_has_stamps=_has_stamps(page),
            series_name=series_name,
        )

    async def record(self, _: AnyRequest) -> Html:
        """
        Show the results of all picks, and whether they can be distinguished from luck.

        With several series, show all of them side by side.
        """
        known = await self._known_series()
        if known.are_several:
            page = await self._query("Leaderboard")
            return self._render(
                "leaderboard.html",
                page,
                known=known,
                rows=series_text.leaderboard(page.data["series"]),
                service=page.data["service"],
            )
        page = await self._query("Record", series=known.default)
        return self._render(
            "record.html",
            page,
            known=known,
            marked=await self._marked_scores(page.data["trackRecord"]),
            record=page.data["trackRecord"],
            series_name=known.default,
            service=page.data["service"],
            tested=page.data["seriesNamed"],
        )

    async def series_record(self, request: AnyRequest) -> Html:
        """Show the results of one series, what it is, and what has changed in it."""
        known = await self._known_series()
        series_name = _requested_series(request, known)
        page = await self._query("SeriesRecord", series=series_name)
        return self._render(
            "record.html",
            page,
            comparison=await self._comparison(series_name, known),
            known=known,
            marked=await self._marked_scores(page.data["trackRecord"]),
            own=page.data["seriesNamed"],
            record=page.data["trackRecord"],
            series_name=series_name,
            service=page.data["service"],
        )

    async def _marked_scores(self, record: Mapping[str, Any]) -> Mapping[str, bool]:
        """
        Return of the best and the worst call whether its result contains an unusual move.

        The mapping has the keys `best` and `worst`; both are false if the record has no result.
        """
        if record["best"] is None:
            return {"best": False, "worst": False}
        ids = {name: record[name]["id"] for name in ("best", "worst")}
        picks = (await self._query("Marks", **ids)).data
        return {name: batch_text.is_result_unusual(picks[name]) for name in ids}

    async def _comparison(self, series_name: str, known: KnownSeries) -> Mapping[str, Any] | None:
        """Return the comparison of a model with a control; None if there is none."""
        other = known.counterpart(series_name)
        if other is None:
            return None
        page = await self._query("Comparison", a=series_name, b=other["name"])
        comparison: Mapping[str, Any] | None = page.data["comparison"]
        return comparison

    async def about(self, _: AnyRequest) -> Html:
        """Show how the service works, and what it is not."""
        known = await self._known_series()
        page = await self._query("About")
        return self._render("about.html", page, known=known, service=page.data["service"])

    def respond_to_http_error(self, request: AnyRequest, error: HTTPException) -> Response[Any]:
        """
        Return the response for an HTTPException. A browser gets a page.

        Litestar raises the error if no handler accepts the request. Handlers raise it, too.
        """
        if not _expects_page(request):
            return handle_http_exception(request, error)
        if error.status_code == 404:
            return self.error_page(
                PageError(404, "There is no such page.", "The links above lead to all pages.")
            )
        return self.error_page(
            PageError(error.status_code, f"{error.detail}.", "Go back, or start at the first page.")
        )

    def respond_to_failure(self, request: AnyRequest, error: Exception) -> Response[Any]:
        """Return the response to a request whose handler failed. A browser gets a page."""
        # This call also logs the error, so it is made for a browser, too.
        response = handle_unexpected_exception(request, error)
        if _expects_page(request):
            return self.error_page(_error_for_code("INTERNAL_SERVER_ERROR"))
        return response

    def error_page(self, error: PageError) -> Html:
        """Return a page that explains an error."""
        html = self.environment.get_template("error.html").render(
            error=error, head=None, known=None
        )
        headers = {**SECURITY_HEADERS, "Cache-Control": "no-store"}
        if error.status == 503:
            headers["Retry-After"] = "5"
        return Response(html, status_code=error.status, media_type=MediaType.HTML, headers=headers)

    async def journal_head(self) -> Mapping[str, Any] | None:
        """
        Return the journal's newest entry; None if the database does not answer.

        The mapping is empty if the journal is empty, or if its newest entry is damaged.
        """
        result = await self.engine.execute(DOCUMENTS_BY_NAME["Head"])
        if result.error_code:
            return None
        data = json.loads(result.body)["data"]
        # A damaged head stays damaged until the record is restored. The restore changes the
        # revision, and then the caller asks again. If this method returned None for a damaged head,
        # the caller would ask every second.
        return (data and data["service"]["journalHead"]) or {}

    async def _known_series(self) -> KnownSeries:
        """Return the series of the record."""
        page = await self._query("SeriesList")
        return KnownSeries(page.data["series"])

    async def _query(self, name: str, **variables: object) -> PageData:
        """Return the API's data for one of our documents. Raises PageError for an API error."""
        result = await self.engine.execute(_DOCUMENTS[name], variables, allow_long=False)
        answer = json.loads(result.body)
        if result.damage:
            raise _damage_error(result)
        if "errors" in answer:
            raise _error_for_code(answer["errors"][0]["extensions"]["code"])
        return PageData(answer["data"], result.is_cacheable)

    def _render(self, template: str, page: PageData, **values: object) -> Html:
        # An empty record has an empty head. None is for error pages, which get no live updates.
        service = page.data["service"]
        head = service["journalHead"] or {}
        notice = self.notice
        if service["origin"] == Origin.REHEARSED and not notice:
            notice = REHEARSED_NOTICE
        values = {"head": head, "notice": notice, **values}
        try:
            html = self.environment.get_template(template).render(values)
        except formatting.TOO_LARGE_ERRORS as error:
            raise _damage_error(too_large_number_result(error)) from None
        cache_control = "no-cache" if page.is_cacheable else "no-store"
        return Response(
            html,
            media_type=MediaType.HTML,
            headers={**SECURITY_HEADERS, "Cache-Control": cache_control},
        )


def _has_stamps(page: PageData) -> bool:
    """Return whether the record has any timestamp."""
    return bool(page.data["timestamps"]["nodes"])


def _file_route(
    *, path: str, content: bytes, headers: Mapping[str, str], media_type: str
) -> HTTPRouteHandler:
    @route(path, http_method=["GET", "HEAD"], include_in_schema=False, sync_to_thread=False)
    def send() -> Response[bytes]:
        """Send a file."""
        return Response(content, media_type=media_type, headers=dict(headers))

    return send


def _read_file(path: Path) -> tuple[str, bytes]:
    """Return the address and the content of a file. The address changes with the content."""
    content = path.read_bytes()
    digest = sha256(content).hexdigest()[:12]
    return routes.PAGE_FILE.url(digest=digest, name=path.name), content


def query_url(document: str) -> str:
    """Return the address at which the API answers a document."""
    return f"{routes.GRAPHQL.path}?query={quote(document)}"


def batch_query_url(series_name: str, run_date: str, fields: str) -> str:
    """Return the address at which the API answers with these fields of a batch."""
    arguments = f'runDate: "{run_date}"'
    if series_name != SERIES:
        arguments += f', series: "{series_name}"'
    return query_url(f"{{ batchOn({arguments}) {{ {fields} }} }}")


def _expects_page(request: AnyRequest) -> bool:
    """Return whether a browser asks for a page. Errors of the API are never pages."""
    is_api = request.scope["path"].startswith(routes.GRAPHQL.path)
    return not is_api and "text/html" in request.headers.get("accept", "")


def _requested_series(request: AnyRequest, known: KnownSeries) -> str:
    """
    Return the name of the series that an address is about.

    Raises PageError if the record does not have the series.
    """
    name = request.path_params.get("series", known.default)
    if known.named(name) is None and name != known.default:
        raise PageError(
            404,
            "There is no such series.",
            f"The page {routes.RECORD.path} lists all series.",
        )
    return str(name)


def _parse_monday(text: str, series_name: str) -> date:
    """Return the Monday in an address. Raises PageError if the text is not a Monday's date."""
    day = _parse_date(text)
    if day is None:
        example = routes.batch_url(series_name, "2026-01-05")
        raise PageError(
            404,
            "That is not a date.",
            f"The address of a batch ends with the date of its Monday, as in {example}.",
        )
    if day.weekday() != 0:
        monday = day - timedelta(days=day.weekday())
        address = routes.batch_url(series_name, monday)
        raise PageError(
            404,
            f"{formatting.long_date(day)} is not a Monday.",
            f"Its week began on {monday}: {address}.",
        )
    return day


def _parse_date(text: str) -> date | None:
    # `date.fromisoformat` also accepts other forms, such as 20260105.
    if not re.fullmatch(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _damage_error(result: GraphQLResult) -> PageError:
    """Return the error for a damaged record."""
    return PageError(500, "The record is damaged here.", result.damage or "")


def _error_for_code(code: str) -> PageError:
    """Return the error that a page shows for an error code of the API."""
    if code == TOO_LARGE:
        return PageError(
            503,
            "This page is too large to be shown.",
            f"Read its parts one by one from the API: {routes.GRAPHQL.path}.",
        )
    status = STATUS_BY_CODE.get(code, 500)
    if status == 400:
        return PageError(
            400,
            "There is no such page of the history.",
            f"Start at its newest page: {routes.BATCHES.path}.",
        )
    if status == 503:
        return PageError(503, "The record cannot be read right now.", "Try again in a few seconds.")
    return PageError(status, "Something went wrong here.", "It was logged. Try again later.")
