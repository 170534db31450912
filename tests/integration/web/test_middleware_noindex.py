"""
Every response of a rehearsal asks search engines not to index it; a real record never does.

A response without this header could be shown by a search engine as a real track record. The cases
are all paths of the service by each method, errors, redirected spellings, cached responses and
304s.
"""

import pytest
from api_records import RUNNING, WON, plant
from served_pages import BROWSER, find_all, parse_page

from api.cache import MAX_CONCURRENT
from app.web import routes
from tests.integration.api.test_cache import living

PAGES = ("/", "/batches", f"/batches/{WON}", f"/batches/{RUNNING}", "/record", "/about")
PROBLEMS = ("/nowhere", "/batches/2026-01-06", "/batches/2025-12-29", "/batches?after=x")
OTHERS = (
    "/feed.atom",
    "/export.csv",
    "/export.json",
    "/export.csv?series=unknown",
    f"/batches/{WON}/chart.png",
    "/batches/2025-12-29/chart.png",
    "/graphql?query={latestBatch{id}}",
    "/graphql?query={",
    "/graphql/",
    "/graphql/nowhere",
    # Every other address without a parameter, except the journal's stream: it has no end, and its
    # own test.
    *(
        one.path
        for one in routes.ROUTES
        if "{" not in one.path and one is not routes.JOURNAL_STREAM
    ),
)


async def answers(service, path: str):
    """Return the responses of a path to each kind of request."""
    client = service.client
    yield await client.get(path, headers=BROWSER)
    yield await client.get(path, headers={"accept": "application/json"})
    yield await client.get(path, headers=BROWSER)  # cached
    yield await client.head(path)
    yield await client.post(path, json={"query": "{ latestBatch { id } }"})
    yield await client.put(path)


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
async def test_in_every_response(database, rehearsed):
    """A rehearsal's response has the header once, errors included; no other response has it."""
    plant(database)
    async with living(database, rehearsed=rehearsed) as service:
        page = await service.client.get("/", headers=BROWSER)
        graphiql = await service.client.get("/graphql", headers=BROWSER)
        files = [
            element.get(name)
            for document in (parse_page(page), parse_page(graphiql))
            for element in document.iter()
            for name in ("src", "href")
            if (element.get(name) or "").startswith(("/files/", "/graphql/"))
        ]
        assert files
        for path in (*PAGES, *PROBLEMS, *OTHERS, *files, "/graphql"):
            async for answer in answers(service, path):
                robots = answer.headers.get_list("x-robots-tag")
                assert robots == (["noindex"] if rehearsed else []), (
                    path,
                    answer.request.method,
                    answer.status_code,
                )
                assert answer.headers.get_list("x-rehearsed") == (["true"] if rehearsed else [])
        known = await service.client.get(
            "/", headers={**BROWSER, "if-none-match": page.headers["etag"]}
        )
        assert (known.status_code, known.headers.get("x-robots-tag")) == (
            304,
            "noindex" if rehearsed else None,
        )
        tag = (await service.client.get("/export.csv")).headers["etag"]
        known = await service.client.get("/export.csv", headers={"if-none-match": tag})
        assert (known.status_code, known.headers.get("x-robots-tag")) == (
            304,
            "noindex" if rehearsed else None,
        )


async def test_in_a_refusal(database):
    """A request that is refused because of too many others gets the header, too."""
    async with living(database, rehearsed=True) as service:
        service.cache.active_by_client.add("others", MAX_CONCURRENT)
        answer = await service.client.get("/", headers=BROWSER)
        service.cache.active_by_client.add("others", -MAX_CONCURRENT)
    assert (answer.status_code, answer.headers.get_list("x-robots-tag")) == (503, ["noindex"])
    assert answer.headers.get_list("x-rehearsed") == ["true"]


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
@pytest.mark.parametrize("path", [*PAGES, *PROBLEMS, "/graphql"])
async def test_in_every_page(database, rehearsed, path):
    """The page itself contains it, for copies without headers."""
    plant(database)
    async with living(database, rehearsed=rehearsed) as service:
        document = parse_page(await service.client.get(path, headers=BROWSER))
    robots = [meta.get("content") for meta in find_all(document, "meta", name="robots")]
    assert robots == (["noindex"] if rehearsed else [])


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
async def test_in_the_feed(database, rehearsed):
    """The feed itself contains it, and its title says that it is made up."""
    plant(database)
    async with living(database, rehearsed=rehearsed) as service:
        feed = (await service.client.get("/feed.atom")).text
    assert ('name="robots" content="noindex"' in feed) is rehearsed
    assert ("all of it is made up" in feed) is rehearsed


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
async def test_in_the_live_stream(database, rehearsed):
    """The stream has no end, so only its start is read."""
    async with living(database, rehearsed=rehearsed) as service:
        answer = await service.client.head("/live/journal")
    assert answer.headers.get("x-robots-tag") == ("noindex" if rehearsed else None)


async def test_robots_may_read_that_they_are_not_wanted(database):
    """A page that robots.txt forbids is never read, so its `noindex` would not be seen."""
    async with living(database, rehearsed=True) as service:
        robots = (await service.client.get("/robots.txt")).text
    assert "Disallow: /\n" not in robots
