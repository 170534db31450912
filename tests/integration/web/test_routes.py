"""
The table of routes contains what the service serves, counts and caches, and what links lead to.
"""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_records import WON, plant_main
from document_text import HOUSE, code_lines
from litestar.routes import HTTPRoute
from served_pages import pages_on, parse_page

from app.core import settings
from app.main import create_app
from app.web import routes
from app.web.pages.site import FOLDER
from app.web.routes import LABELS, ROUTES, Route, route_label
from tests.integration.api.test_cache import HEAD, Service, living

# By route: an example of each. That of a file is what is served, since its digest changes with its
# content.
EXAMPLES = {
    routes.BATCH: routes.BATCH.url(run_date=WON),
    routes.BATCH_CHART: routes.BATCH_CHART.url(run_date=WON),
    routes.SERIES: routes.SERIES.url(series="main"),
    routes.SERIES_BATCHES: routes.SERIES_BATCHES.url(series="main"),
    routes.SERIES_BATCH: routes.SERIES_BATCH.url(series="main", run_date=WON),
    routes.SERIES_BATCH_CHART: routes.SERIES_BATCH_CHART.url(series="main", run_date=WON),
    routes.TIMESTAMP_FILE: routes.TIMESTAMP_FILE.url(name="3.tsr"),
}


def served() -> dict[Any, Route]:
    """Return Litestar's routes, each with its row of the table."""
    rows_by_route: dict[Any, Route] = {}
    # In one order: Litestar collects them in a set, and xdist's processes must collect the same
    # tests.
    for route in sorted(
        create_app(settings.load({}), work=False).app.app.routes, key=lambda route: route.path
    ):
        rows = [
            row
            for row in ROUTES
            if route.path == row.litestar_path or row.pattern.fullmatch(route.path)
        ]
        assert len(rows) == 1, f"{route.path} is in {len(rows)} rows of app/web/routes.py"
        rows_by_route[route] = rows[0]
    return rows_by_route


# What the cache must do, written out independently of the table: which requests after the first
# get its cached response.
AGAIN, WITH_ANOTHER_QUERY = [0, 1, 0], [0, 1, 1]
HITS = {
    routes.GRAPHQL: AGAIN,
    routes.BATCHES: AGAIN,
    routes.FRONT: WITH_ANOTHER_QUERY,
    routes.BATCH: WITH_ANOTHER_QUERY,
    routes.BATCH_CHART: WITH_ANOTHER_QUERY,
    routes.RECORD: WITH_ANOTHER_QUERY,
    routes.SERIES: WITH_ANOTHER_QUERY,
    routes.SERIES_BATCHES: AGAIN,
    routes.SERIES_BATCH: WITH_ANOTHER_QUERY,
    routes.SERIES_BATCH_CHART: WITH_ANOTHER_QUERY,
    routes.ABOUT: WITH_ANOTHER_QUERY,
    routes.FEED: WITH_ANOTHER_QUERY,
    routes.TIMESTAMP_FILE: AGAIN,
}
NO_HITS = [0, 0, 0]

SERVED = served()
PATHS = {row: EXAMPLES.get(row, route.path) for route, row in SERVED.items()}


def test_the_table_is_what_is_served():
    """Every handler has a row, and every row a handler."""
    assert set(SERVED.values()) == set(ROUTES)
    assert {row for row in vars(routes).values() if isinstance(row, Route)} == set(ROUTES)
    assert len({row.path for row in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", SERVED, ids=lambda route: route.path)
async def test_the_methods_of_a_route(route):
    """The table has the handler's methods; a plain ASGI handler refuses others, and names these."""
    row = SERVED[route]
    if isinstance(route, HTTPRoute):
        taken = route.methods - {"OPTIONS"}  # which Litestar answers for every path
    else:
        app = create_app(settings.load({}), work=False)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test"
        ) as client:
            refused = await client.put(route.path)
        assert refused.status_code == 405
        taken = set(refused.headers["allow"].split(", "))
    assert taken == set(row.methods)


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row.path)
def test_the_label_of_a_route(row):
    """A path has the label of its row, whatever its parameters are."""
    assert route_label(PATHS[row]) == row.label
    assert row.pattern.fullmatch(PATHS[row])


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/record/2026", "pages"),
        ("/record/", "pages"),
        ("/feed.atom/", "followed"),
        ("/live/", "stream"),
        ("/live/nothing", "stream"),
        ("/health/", "health"),
        ("/files", "pages"),
        ("/robots.txt/", "other"),
        ("/stream", "other"),
        ("/pages", "other"),
        ("//", "other"),
        ("", "other"),
        ("graphql", "other"),
    ],
)
def test_the_label_of_a_path_that_is_no_route(path, label):
    """It has the label of the routes that begin in the same way, if there are any."""
    assert route_label(path) == label
    assert label in LABELS


@pytest.fixture
async def service(database) -> Iterator[Service]:
    plant_main(database)
    async with living(database) as service:
        yield service


async def test_what_is_cached(service):
    """Each path is requested twice, and a third time with another query string."""
    for row in ROUTES:
        query = {"query": HEAD} if row is routes.GRAPHQL else {}
        # A stream has no end, so only its head is asked for. `from` is a parameter of exports;
        # other paths ignore it.
        method = "HEAD" if row is routes.JOURNAL_STREAM else "GET"
        hits = []
        for more in ({}, {}, {"from": "2026-01-05"}):
            before = service.cache.hits
            answer = await service.client.request(method, PATHS[row], params={**query, **more})
            assert answer.status_code == 200, PATHS[row]
            hits.append(service.cache.hits - before)
        assert hits == HITS.get(row, NO_HITS), PATHS[row]


@pytest.mark.parametrize(
    "path", ["/batches/latest", "/batches/latest/chart.png", "/batches/", "/nope", "/live"]
)
def test_what_is_no_cached_path(path):
    """
    An invalid date has no page that could be cached; the cache itself removes slashes at the
    end.
    """
    assert routes.cached_query(path, b"a=b") is None


def is_served(path: str) -> bool:
    """Return whether a path is in the table; a document may use other names for parameters."""
    shape = re.sub("{.*?}", "{}", path)
    return any(
        row.pattern.fullmatch(path) or re.sub("{.*?}", "{}", row.path) == shape for row in ROUTES
    )


async def test_every_link_of_pages_and_feed_is_in_the_table(pool, database):
    """The tests of the pages follow the links; this one looks them up in the table."""
    plant_main(database)
    linked = set()
    async with pages_on(pool) as browser:
        for row in (routes.FRONT, routes.BATCHES, routes.BATCH, routes.RECORD, routes.ABOUT):
            page = parse_page(await browser.get(PATHS[row]))
            links = [element.get(name) for element in page.iter() for name in ("href", "src")]
            linked |= {re.split("[?#]", link)[0] for link in links if link}
        linked |= set(re.findall(r' href="([^"]*)"', (await browser.get(routes.FEED.path)).text))
    assert {path for path in linked if path and not is_served(path)} == set()
    assert {row for row in ROUTES if any(row.pattern.fullmatch(path) for path in linked)} == {
        routes.GRAPHQL,
        routes.FRONT,
        routes.BATCHES,
        routes.BATCH,
        routes.RECORD,
        routes.ABOUT,
        routes.PAGE_FILE,
        routes.FEED,
        routes.FAVICON,
        routes.TIMESTAMP_FILE,
    }


def test_no_template_writes_a_path_by_itself():
    """Templates take paths from the table, where a typing error raises an exception."""
    for template in sorted((FOLDER / "templates").iterdir()):
        assert re.findall(r"""["'>]/(?:["'#?]|[a-z][\w./-]*)""", template.read_text()) == [], (
            template.name
        )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("app/web/pages/files/page.js", routes.JOURNAL_STREAM),
        ("graphql/api/graphiql/start.js", routes.GRAPHQL),
    ],
)
def test_the_paths_that_scripts_name(script, expected):
    """A script in the browser cannot take its path from the table."""
    assert set(re.findall(r'"(/[\w./-]+)"', (HOUSE / script).read_text())) == {expected.path}


def test_the_paths_that_documents_name():
    """
    Code in documents that begins with a slash is a path of the service, or a folder of the
    image.
    """
    named = set()
    for document in [*HOUSE.glob("*.md"), *(HOUSE / "docs").rglob("*.md")]:
        for line in code_lines(document.read_text()):
            named |= {line} if re.fullmatch(r"/\S*", line) else set()
            named |= set(
                re.findall(
                    r"https?://(?:127\.0\.0\.1:8080|APP\.fly\.dev|[\w-]+\.example)(/[^\s?'\"]+)",
                    line,
                )
            )
    named = {path for path in named if not path.startswith("/alpha-monday/bin/")}
    assert {path for path in named if not is_served(path)} == set()
    assert {routes.GRAPHQL.path, routes.HEALTH.path, routes.METRICS.path, routes.FEED.path} <= named
