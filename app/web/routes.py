"""
Every path of the service, in one table.

Handlers and links take their path from it. The label that a request has in the metrics, and
whether its response is cached, follow from it too. tests/integration/test_routes.py compares it
with the handlers, and with the paths that pages, feed, scripts and documents name.
"""

import re
from enum import Enum, auto

from litestar.types import Method
from msgspec import Struct

from api import paths
from api.http import METHODS

# The form of a parameter, by its name. One that is not here is any text without a slash.
RUN_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_FORMS = {"run_date": RUN_DATE, "file": ".+"}
_PARAMETER = re.compile(r"{(\w+)}")
_OTHER = "other"


class Cached(Enum):
    """Which requests to one path share a cached response, if method and headers are the same."""

    NEVER = auto()
    BY_PATH = auto()  # all: shared links carry parameters of other services, which change nothing
    BY_QUERY = auto()  # those with the same query string
    BY_BODY = auto()  # those with the same query string and body; `api.cache` knows of them itself


class Route(Struct, frozen=True):
    """A path with its parameters in braces, and how requests to it are handled."""

    path: str
    label: str  # the value of the metrics' label `route`; several routes may share one
    methods: tuple[Method, ...] = ("GET", "HEAD")
    cached: Cached = Cached.NEVER

    @property
    def litestar_path(self) -> str:
        """Return the path as Litestar writes it. Handlers check the form of a parameter."""
        return _PARAMETER.sub(r"{\1:str}", self.path)

    @property
    def pattern(self) -> re.Pattern[str]:
        """Return the pattern that every path of this route matches."""
        text, *rest = _PARAMETER.split(self.path)
        pattern = re.escape(text)
        for name, text in zip(rest[::2], rest[1::2], strict=True):
            pattern += _FORMS.get(name, "[^/]+") + re.escape(text)
        return re.compile(pattern)

    def url(self, **values: object) -> str:
        """Return the path with these values in place of its parameters."""
        return self.path.format(**values)


GRAPHQL = Route(paths.GRAPHQL, "graphql", METHODS, Cached.BY_BODY)
GRAPHIQL_FILE = Route(paths.GRAPHIQL_FILES + "/{file}", "graphql")

FRONT = Route("/", "pages", cached=Cached.BY_PATH)
BATCHES = Route("/batches", "pages", cached=Cached.BY_QUERY)
BATCH = Route("/batches/{run_date}", "pages", cached=Cached.BY_PATH)
BATCH_CHART = Route("/batches/{run_date}/chart.png", "pages", cached=Cached.BY_PATH)
RECORD = Route("/record", "pages", cached=Cached.BY_PATH)
ABOUT = Route("/about", "pages", cached=Cached.BY_PATH)
PAGE_FILE = Route("/files/{digest}/{name}", "pages")

FEED = Route("/feed.atom", "followed", cached=Cached.BY_PATH)
EXPORT_CSV = Route("/export.csv", "followed")
EXPORT_JSON = Route("/export.json", "followed")

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
    ABOUT,
    PAGE_FILE,
    FEED,
    EXPORT_CSV,
    EXPORT_JSON,
    JOURNAL_STREAM,
    LIVE,
    HEALTH,
    METRICS,
    ROBOTS,
    FAVICON,
)

# The values of the metrics' label, in the order in which they are shown.
LABELS = tuple(dict.fromkeys(route.label for route in ROUTES))

_FIXED = {route.path: route.cached for route in ROUTES if not _PARAMETER.search(route.path)}
_PATTERNS = [
    (route.pattern, route.cached)
    for route in ROUTES
    if _PARAMETER.search(route.path) and route.cached is not Cached.NEVER
]


def _labels() -> tuple[dict[str, str], dict[str, str]]:
    """
    Return labels by the first segment of a path.

    The first are of paths with that segment alone, the second of paths with more segments.
    """
    alone: dict[str, str] = {}
    below: dict[str, str] = {}
    for route in ROUTES:
        _, first, *more = route.path.split("/")
        labels = below if more else alone
        labels[first] = route.label
    # An unknown path, such as `/record/2026`, has the label of the routes that begin as it does.
    alone, below = {**below, **alone}, {**alone, **below}
    del below[""]  # of `/`, which `//metrics` does not begin with: its first segment is empty
    return alone, below


_ALONE, _BELOW = _labels()


def route_of(path: str) -> str:
    """Return the label of a path: one of `LABELS`, whatever clients ask for."""
    before, *segments = path.split("/", 2)
    if before or not segments:
        return _OTHER
    labels = _BELOW if len(segments) > 1 else _ALONE
    return labels.get(segments[0], _OTHER)


def cached_query(path: str, query: bytes) -> bytes | None:
    """Return what of a query string a cached response depends on; None if `path` is not cached."""
    cached = _FIXED.get(path)
    if cached is None:
        for pattern, of_pattern in _PATTERNS:
            if pattern.fullmatch(path):
                cached = of_pattern
                break
    if cached is Cached.BY_PATH:
        return b""
    return query if cached is Cached.BY_QUERY else None
