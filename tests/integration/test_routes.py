"""The table of routes is what the service serves, counts and caches, and what everything else links to."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_records import WON, plant
from litestar.routes import HTTPRoute
from pages import HOUSE, code
from pages_served import pages_on, parsed
from test_api_cache import HEAD, Service, living

from app.core import settings
from app.main import create_app
from app.web import routes
from app.web.pages.site import FOLDER
from app.web.routes import LABELS, ROUTES, Route, route_of

# By route: an example of each. That of a file is what is served, since its digest changes with its content.
EXAMPLES = {
    routes.BATCH: routes.BATCH.url(run_date=WON),
    routes.BATCH_CHART: routes.BATCH_CHART.url(run_date=WON),
}


def served() -> dict[Any, Route]:
    """Litestar's routes, each with its row of the table."""
    found: dict[Any, Route] = {}
    # In one order: Litestar collects them in a set, and xdist's processes must collect the same tests.
    for route in sorted(create_app(settings.load({}), work=False).app.app.routes, key=lambda route: route.path):
        rows = [row for row in ROUTES if route.path == row.litestar_path or row.pattern.fullmatch(route.path)]
        assert len(rows) == 1, f"{route.path} is in {len(rows)} rows of app/web/routes.py"
        found[route] = rows[0]
    return found


# What the cache must do, said once more by hand: which requests beside the first get the answer that was kept for it.
AGAIN, WITH_ANOTHER_QUERY = [0, 1, 0], [0, 1, 1]
HITS = {
    routes.GRAPHQL: AGAIN,
    routes.BATCHES: AGAIN,
    routes.FRONT: WITH_ANOTHER_QUERY,
    routes.BATCH: WITH_ANOTHER_QUERY,
    routes.BATCH_CHART: WITH_ANOTHER_QUERY,
    routes.RECORD: WITH_ANOTHER_QUERY,
    routes.ABOUT: WITH_ANOTHER_QUERY,
    routes.FEED: WITH_ANOTHER_QUERY,
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
    """They are what the handler takes; a handler of plain ASGI refuses the others by itself, and names these."""
    row = SERVED[route]
    if isinstance(route, HTTPRoute):
        taken = route.methods - {"OPTIONS"}  # which Litestar answers for every path
    else:
        app = create_app(settings.load({}), work=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            refused = await client.put(route.path)
        assert refused.status_code == 405
        taken = set(refused.headers["allow"].split(", "))
    assert taken == set(row.methods)


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row.path)
def test_the_label_of_a_route(row):
    """A path is counted as the table says, however its parameters are filled in."""
    assert route_of(PATHS[row]) == row.label
    assert row.pattern.fullmatch(PATHS[row])


@pytest.mark.parametrize(
    ("path", "label"),
    [("/record/2026", "pages"), ("/record/", "pages"), ("/feed.atom/", "followed"), ("/live/", "stream"),
     ("/live/nothing", "stream"), ("/health/", "health"), ("/files", "pages"), ("/robots.txt/", "other"),
     ("/stream", "other"), ("/pages", "other"), ("//", "other"), ("", "other"), ("graphql", "other")],
)  # fmt: skip
def test_the_label_of_a_path_that_is_no_route(path, label):
    """It is that of the routes that begin as it does, if there are any."""
    assert route_of(path) == label
    assert label in LABELS


@pytest.fixture
async def service(database) -> Iterator[Service]:
    plant(database)
    async with living(database) as service:
        yield service


async def test_what_is_cached(service):
    """Each path is asked for twice, and a third time with another query string."""
    for row in ROUTES:
        query = {"query": HEAD} if row is routes.GRAPHQL else {}
        # A stream has no end, so only its head is asked for. `from` is a parameter of exports; other paths ignore it.
        method = "HEAD" if row is routes.JOURNAL_STREAM else "GET"
        hits = []
        for more in ({}, {}, {"from": "2026-01-05"}):
            before = service.cache.hits
            answer = await service.client.request(method, PATHS[row], params={**query, **more})
            assert answer.status_code == 200, PATHS[row]
            hits.append(service.cache.hits - before)
        assert hits == HITS.get(row, NO_HITS), PATHS[row]


@pytest.mark.parametrize("path", ["/batches/latest", "/batches/latest/chart.png", "/batches/", "/nope", "/live"])
def test_what_is_no_cached_path(path):
    """A date that is none has no page, and so no page that is cached; the cache takes slashes off an end itself."""
    assert routes.cached_query(path, b"a=b") is None


def is_served(path: str) -> bool:
    """Whether a path is in the table; a document may name a parameter in its own words."""
    shape = re.sub("{.*?}", "{}", path)
    return any(row.pattern.fullmatch(path) or re.sub("{.*?}", "{}", row.path) == shape for row in ROUTES)


async def test_every_link_of_pages_and_feed_is_in_the_table(pool, database):
    """What they link to is looked for by the test of the pages; here it is known by name."""
    plant(database)
    found = set()
    async with pages_on(pool) as browser:
        for row in (routes.FRONT, routes.BATCHES, routes.BATCH, routes.RECORD, routes.ABOUT):
            page = parsed(await browser.get(PATHS[row]))
            links = [element.get(name) for element in page.iter() for name in ("href", "src")]
            found |= {re.split("[?#]", link)[0] for link in links if link}
        found |= set(re.findall(r' href="([^"]*)"', (await browser.get(routes.FEED.path)).text))
    assert {path for path in found if path and not is_served(path)} == set()
    assert {row for row in ROUTES if any(row.pattern.fullmatch(path) for path in found)} == {
        routes.GRAPHQL, routes.FRONT, routes.BATCHES, routes.BATCH, routes.RECORD, routes.ABOUT, routes.PAGE_FILE,
        routes.FEED, routes.FAVICON,
    }  # fmt: skip


def test_no_template_writes_a_path_by_itself():
    """It takes it from the table, where a slip is an error."""
    for template in sorted((FOLDER / "templates").iterdir()):
        assert re.findall(r"""["'>]/(?:["'#?]|[a-z][\w./-]*)""", template.read_text()) == [], template.name


@pytest.mark.parametrize(
    ("script", "expected"),
    [("app/web/pages/files/page.js", routes.JOURNAL_STREAM), ("graphql/api/graphiql/start.js", routes.GRAPHQL)],
)
def test_the_paths_that_scripts_name(script, expected):
    """A script that a browser gets cannot take them from the table."""
    assert set(re.findall(r'"(/[\w./-]+)"', (HOUSE / script).read_text())) == {expected.path}


def test_the_paths_that_documents_name():
    """What they write as code and begins with a slash is a path of the service, or one of the image's folders."""
    named = set()
    for document in [*HOUSE.glob("*.md"), *(HOUSE / "docs").rglob("*.md")]:
        for line in code(document.read_text()):
            named |= {line} if re.fullmatch(r"/\S*", line) else set()
            named |= set(re.findall(r"https?://(?:127\.0\.0\.1:8080|APP\.fly\.dev|[\w-]+\.example)(/[^\s?'\"]+)", line))
    named = {path for path in named if not path.startswith("/alpha-monday/bin/")}
    assert {path for path in named if not is_served(path)} == set()
    assert {routes.GRAPHQL.path, routes.HEALTH.path, routes.METRICS.path, routes.FEED.path} <= named
