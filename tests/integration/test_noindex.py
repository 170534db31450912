"""
A record that is made up asks search engines to leave it out, in every response; a real one never does.

The kind: a response of a rehearsal that a search engine could show as a track record. The members are all addresses of
the service, by each method, and what has no handler: errors, redirected spellings, kept and unchanged answers.
"""

import pytest
from api_records import RUNNING, WON, plant
from pages_served import BROWSER, every, parsed
from test_api_cache import living

from api.cache import MOST_AT_ONCE
from app.web import routes

PAGES = ("/", "/batches", f"/batches/{WON}", f"/batches/{RUNNING}", "/record", "/about")
PROBLEMS = ("/nowhere", "/batches/2026-01-06", "/batches/2025-12-29", "/batches?after=x")
OTHERS = (
    "/feed.atom",
    "/export.csv",
    "/export.json",
    "/export.csv?series=nobody",
    f"/batches/{WON}/chart.png",
    "/batches/2025-12-29/chart.png",
    "/graphql?query={latestBatch{id}}",
    "/graphql?query={",
    "/graphql/",
    "/graphql/nowhere",
    # Every other address without a parameter. The stream of the journal has no end, and a test of its own.
    *(one.path for one in routes.ROUTES if "{" not in one.path and one is not routes.JOURNAL_STREAM),
)


async def answers(service, path: str):
    """What the service says at an address, by each way of asking."""
    client = service.client
    yield await client.get(path, headers=BROWSER)
    yield await client.get(path, headers={"accept": "application/json"})
    yield await client.get(path, headers=BROWSER)  # kept
    yield await client.head(path)
    yield await client.post(path, json={"query": "{ latestBatch { id } }"})
    yield await client.put(path)


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
async def test_in_every_response(database, rehearsed):
    """The header is there once for what is made up, errors included, and nowhere else."""
    plant(database)
    async with living(database, rehearsed=rehearsed) as service:
        page = await service.client.get("/", headers=BROWSER)
        graphiql = await service.client.get("/graphql", headers=BROWSER)
        files = [
            element.get(name)
            for found in (parsed(page), parsed(graphiql))
            for element in found.iter()
            for name in ("src", "href")
            if (element.get(name) or "").startswith(("/files/", "/graphql/"))
        ]
        assert files
        for path in (*PAGES, *PROBLEMS, *OTHERS, *files, "/graphql"):
            async for answer in answers(service, path):
                said = answer.headers.get_list("x-robots-tag")
                assert said == (["noindex"] if rehearsed else []), (path, answer.request.method, answer.status_code)
                assert answer.headers.get_list("x-rehearsed") == (["true"] if rehearsed else [])
        known = await service.client.get("/", headers={**BROWSER, "if-none-match": page.headers["etag"]})
        assert (known.status_code, known.headers.get("x-robots-tag")) == (304, "noindex" if rehearsed else None)
        tag = (await service.client.get("/export.csv")).headers["etag"]
        known = await service.client.get("/export.csv", headers={"if-none-match": tag})
        assert (known.status_code, known.headers.get("x-robots-tag")) == (304, "noindex" if rehearsed else None)


async def test_in_a_refusal(database):
    """Also where too many are under way, and the request is refused before anything else looks at it."""
    async with living(database, rehearsed=True) as service:
        service.cache.places.add("others", MOST_AT_ONCE)
        answer = await service.client.get("/", headers=BROWSER)
        service.cache.places.add("others", -MOST_AT_ONCE)
    assert (answer.status_code, answer.headers.get_list("x-robots-tag")) == (503, ["noindex"])
    assert answer.headers.get_list("x-rehearsed") == ["true"]


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
@pytest.mark.parametrize("path", [*PAGES, *PROBLEMS, "/graphql"])
async def test_in_every_page(database, rehearsed, path):
    """A copy of a page, without its headers, says it too."""
    plant(database)
    async with living(database, rehearsed=rehearsed) as service:
        found = parsed(await service.client.get(path, headers=BROWSER))
    robots = [meta.get("content") for meta in every(found, "meta", name="robots")]
    assert robots == (["noindex"] if rehearsed else [])


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
async def test_in_the_feed(database, rehearsed):
    """So does a copy of the feed; what is made up is said in its title as ever."""
    plant(database)
    async with living(database, rehearsed=rehearsed) as service:
        feed = (await service.client.get("/feed.atom")).text
    assert ('name="robots" content="noindex"' in feed) is rehearsed
    assert ("all of it is made up" in feed) is rehearsed


@pytest.mark.parametrize("rehearsed", [True, False], ids=["rehearsed", "real"])
async def test_in_the_live_stream(database, rehearsed):
    """The stream has no end, so its start is looked at."""
    async with living(database, rehearsed=rehearsed) as service:
        answer = await service.client.head("/live/journal")
    assert answer.headers.get("x-robots-tag") == ("noindex" if rehearsed else None)


async def test_robots_may_read_that_they_are_not_wanted(database):
    """A page that robots.txt forbids is never read, so its `noindex` would go unseen."""
    async with living(database, rehearsed=True) as service:
        robots = (await service.client.get("/robots.txt")).text
    assert "Disallow: /\n" not in robots
