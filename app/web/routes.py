"""
The table of all paths of the service.

Handlers and links take their paths from this table. It also determines the metrics label of a
request, and whether the response is cached. tests/integration/web/test_routes.py compares the table
with the handlers, and with the paths in pages, feed, scripts and documents.
"""

import re
from enum import Enum, auto

from litestar.types import Method
from msgspec import Struct

from api import paths
from api.http import METHODS
from app.domain.model import SERIES as DEFAULT_SERIES
from app.domain.model import SERIES_PATTERN

# The patterns of these path parameters, by name. Any other parameter matches text without a slash.
RUN_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_PARAMETER_PATTERNS = {"run_date": RUN_DATE, "series": SERIES_PATTERN, "file": ".+"}
_PARAMETER = re.compile(r"{(\w+)}")
_OTHER = "other"


class Cached(Enum):
    """Which requests to one path share a cached response, if method and headers are the same."""

    NEVER = auto()
    # All requests to the path. Links that people share often have parameters of other services,
    # such as utm_source. These do not change the page, so they must not cause another cached
    # response.
    BY_PATH = auto()
    # Requests with the same query string.
    BY_QUERY = auto()
    # Requests with the same query string and body. `api.cache` knows these requests by their path,
    # and does not call `cached_query` for them.
    BY_BODY = auto()


class Route(Struct, frozen=True):
    """
    A path, with its parameters in braces, and how requests to it are counted and cached.

    `label` is the value of the metrics label `route`. Several routes may share one label.
    """

    path: str
    label: str
    methods: tuple[Method, ...] = ("GET", "HEAD")
    cached: Cached = Cached.NEVER

    @property
    def litestar_path(self) -> str:
        """
        Return the path in the syntax of Litestar.

        Litestar does not check the pattern of a parameter; the handlers do.
        """
        return _PARAMETER.sub(r"{\1:str}", self.path)

    @property
    def pattern(self) -> re.Pattern[str]:
        """Return the pattern that every path of this route matches."""
        text, *rest = _PARAMETER.split(self.path)
        pattern = re.escape(text)
        for name, text in zip(rest[::2], rest[1::2], strict=True):
            pattern += _PARAMETER_PATTERNS.get(name, "[^/]+")
            pattern += re.escape(text)
        return re.compile(pattern)

    def url(self, **values: object) -> str:
        """Return the path with its parameters replaced by `values`."""
        return self.path.format(**values)


GRAPHQL = Route(paths.GRAPHQL, "graphql", methods=METHODS, cached=Cached.BY_BODY)
GRAPHIQL_FILE = Route(paths.GRAPHIQL_FILES + "/{file}", "graphql")

FRONT = Route("/", "pages", cached=Cached.BY_PATH)
BATCHES = Route("/batches", "pages", cached=Cached.BY_QUERY)
BATCH = Route("/batches/{run_date}", "pages", cached=Cached.BY_PATH)
BATCH_CHART = Route("/batches/{run_date}/chart.png", "pages", cached=Cached.BY_PATH)
RECORD = Route("/record", "pages", cached=Cached.BY_PATH)
SERIES = Route("/series/{series}", "pages", cached=Cached.BY_PATH)
SERIES_BATCHES = Route("/series/{series}/batches", "pages", cached=Cached.BY_QUERY)
SERIES_BATCH = Route("/series/{series}/batches/{run_date}", "pages", cached=Cached.BY_PATH)
SERIES_BATCH_CHART = Route(
    "/series/{series}/batches/{run_date}/chart.png", "pages", cached=Cached.BY_PATH
)
ABOUT = Route("/about", "pages", cached=Cached.BY_PATH)
PAGE_FILE = Route("/files/{digest}/{name}", "pages")

FEED = Route("/feed.atom", "followed", cached=Cached.BY_PATH)
EXPORT_CSV = Route("/export.csv", "followed")
EXPORT_JSON = Route("/export.json", "followed")
TIMESTAMP_FILE = Route("/timestamps/{name}", "followed", cached=Cached.BY_QUERY)

JOURNAL_STREAM = Route("/live/journal", "stream")

LIVE = Route("/live", "live")
HEALTH = Route("/health", "health")
METRICS = Route("/metrics", "metrics")

ROBOTS = Route("/robots.txt", _OTHER)
FAVICON = Route("/favicon.svg", _OTHER)

ROUTES = (
    GRAPHQL,
    GRAPHIQL_FILE,
    FRONT,
    BATCHES,
    BATCH,
    BATCH_CHART,
    RECORD,
    SERIES,
    SERIES_BATCHES,
    SERIES_BATCH,
    SERIES_BATCH_CHART,
    ABOUT,
    PAGE_FILE,
    FEED,
    EXPORT_CSV,
    EXPORT_JSON,
    TIMESTAMP_FILE,
    JOURNAL_STREAM,
    LIVE,
    HEALTH,
    METRICS,
    ROBOTS,
    FAVICON,
)


def history_url(series: str) -> str:
    """Return the path of the history of a series."""
    if series == DEFAULT_SERIES:
        return BATCHES.path
    return SERIES_BATCHES.url(series=series)


def batch_url(series: str, run_date: object) -> str:
    """
    Return the path of a batch.

    The batches of the default series have the addresses that they had when it was the only one.
    """
    if series == DEFAULT_SERIES:
        return BATCH.url(run_date=run_date)
    return SERIES_BATCH.url(series=series, run_date=run_date)


def batch_chart_url(series: str, run_date: object) -> str:
    """Return the path of the chart of a batch."""
    if series == DEFAULT_SERIES:
        return BATCH_CHART.url(run_date=run_date)
    return SERIES_BATCH_CHART.url(series=series, run_date=run_date)


# The values of the metrics label `route`, in the order in which `/metrics` shows them.
LABELS = tuple(dict.fromkeys(route.label for route in ROUTES))


def _has_parameters(route: Route) -> bool:
    return _PARAMETER.search(route.path) is not None


_CACHED_BY_PATH = {route.path: route.cached for route in ROUTES if not _has_parameters(route)}
_CACHED_BY_PATTERN = [
    (route.pattern, route.cached)
    for route in ROUTES
    if _has_parameters(route) and route.cached is not Cached.NEVER
]


def _labels() -> tuple[dict[str, str], dict[str, str]]:
    """
    Return two mappings from the first segment of a path to its label.

    The first mapping is for paths with only one segment, the second for paths with more.
    """
    single: dict[str, str] = {}
    nested: dict[str, str] = {}
    for route in ROUTES:
        _, first, *more = route.path.split("/")
        if more:
            nested[first] = route.label
        else:
            single[first] = route.label
    # An unknown path, such as `/record/2026`, gets the label of the routes with the same first
    # segment.
    single, nested = {**nested, **single}, {**single, **nested}
    # The path `/` has one empty segment. A path with an empty first segment and a second one, such
    # as `//metrics`, is unknown, and its label is "other".
    del nested[""]
    return single, nested


_SINGLE_SEGMENT_LABELS, _NESTED_LABELS = _labels()


def route_label(path: str) -> str:
    """Return the metrics label of a path: always one of `LABELS`, whatever path a client sends."""
    before, *segments = path.split("/", 2)
    if before or not segments:
        return _OTHER
    if len(segments) > 1:
        return _NESTED_LABELS.get(segments[0], _OTHER)
    return _SINGLE_SEGMENT_LABELS.get(segments[0], _OTHER)


def cached_query(path: str, query: bytes) -> bytes | None:
    """
    Return the part of the query string that distinguishes cached responses of `path`.

    It is empty if the query string does not matter. Return None if `path` is not cached, or if its
    responses also depend on the body (`Cached.BY_BODY`).
    """
    cached = _CACHED_BY_PATH.get(path)
    if cached is None:
        cached = _match_pattern(path)
    if cached is Cached.BY_PATH:
        return b""
    if cached is Cached.BY_QUERY:
        return query
    return None


def _match_pattern(path: str) -> Cached | None:
    for pattern, cached in _CACHED_BY_PATTERN:
        if pattern.fullmatch(path):
            return cached
    return None
