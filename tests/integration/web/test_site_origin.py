"""What `/about`, the feed and the exports say about where a record comes from."""

import csv
import json
from collections.abc import Callable
from io import StringIO
from xml.etree import ElementTree

import pytest
from api_records import engine_on, plant_main
from litestar import Litestar
from litestar.testing import AsyncTestClient
from served_pages import find_one, pages_on, parse_page, visible_text

from app.domain.declarations import Origin
from app.store.rehearsed import REHEARSED_NOTICE
from app.web.charts.image import chart_image_route
from app.web.feeds.atom import JOURNAL_NAMESPACE
from app.web.feeds.export import ExportRange, read_parts, write_export
from tests.integration.api.test_schema_origin import (
    ID,
    create_clock,
    drop_clock,
    seal,
    write_genesis,
)

NOT_SEALED = "This record is not sealed: its journal has no entry that states its origin"
SEALED = "This record is sealed: each question to the model is in the journal before it is sent"
BEING_SEALED = "This record is being sealed, but is not sealed yet."
LIVE = "Its origin is live"
REHEARSED = "Its origin is a rehearsal: a simulated past. It is made up."
NOT_STATED = "Its origin is not stated"


def live(address: str) -> None:
    write_genesis(address, origin=Origin.LIVE)


def rehearsed(address: str) -> None:
    write_genesis(address, origin=Origin.REHEARSED)


def late(address: str) -> None:
    write_genesis(address, origin=Origin.UNKNOWN, late=True)


Steps = list[Callable[[str], None]]
by_origin = pytest.mark.parametrize(
    ("steps", "words", "origin", "record_id"),
    [
        pytest.param([], [NOT_SEALED, NOT_STATED], "UNKNOWN", None, id="empty"),
        pytest.param([plant_main], [NOT_SEALED, NOT_STATED], "UNKNOWN", None, id="from before"),
        pytest.param(
            [plant_main, create_clock],
            [NOT_SEALED, REHEARSED],
            "REHEARSED",
            None,
            id="a rehearsal from before",
        ),
        pytest.param([live], [SEALED, LIVE, ID], "LIVE", ID, id="live"),
        pytest.param([rehearsed], [SEALED, REHEARSED, ID], "REHEARSED", ID, id="rehearsed"),
        pytest.param(
            [plant_main, late], [BEING_SEALED, NOT_STATED, ID], "UNKNOWN", ID, id="being sealed"
        ),
        pytest.param([plant_main, late, seal], [SEALED, NOT_STATED, ID], "UNKNOWN", ID, id="late"),
    ],
)


@pytest.fixture(autouse=True)
def no_clock(database):
    yield
    drop_clock(database)


@by_origin
async def test_about(steps: Steps, words, origin, record_id, database, pool):
    """The page says once whether the record is sealed, and where it comes from."""
    for step in steps:
        step(database)
    async with pages_on(pool) as browser:
        response = await browser.get("/about")
    assert response.headers["cache-control"] == "no-cache"
    text = visible_text(find_one(parse_page(response), "main"))
    for expected in words:
        assert text.count(expected) == 1
    assert "docs/trust.md in the source code" in text
    others = {NOT_SEALED, SEALED, BEING_SEALED, LIVE, REHEARSED, NOT_STATED} - set(words)
    assert not [other for other in others if other in text]


@by_origin
async def test_the_feed_and_the_exports(steps: Steps, words, origin, record_id, database, pool):
    for step in steps:
        step(database)
    async with pages_on(pool) as browser:
        feed = ElementTree.fromstring((await browser.get("/feed.atom")).content)
    element = feed.find(f"{{{JOURNAL_NAMESPACE}}}record")
    assert element is not None
    expected = {"origin": origin}
    if record_id:
        expected["id"] = record_id
    assert element.attrib == expected

    everything = ExportRange()
    parts = read_parts(engine_on(pool), everything)
    written = b"".join([piece async for piece in write_export("json", parts, everything)])
    document = json.loads(written)
    assert (document["origin"], document["record_id"]) == (origin, record_id)
    for row in document["rows"]:
        assert (row["origin"], row["record_id"]) == (origin, record_id)
    parts = read_parts(engine_on(pool), everything)
    written = b"".join([piece async for piece in write_export("csv", parts, everything)])
    for row in csv.DictReader(StringIO(written.decode())):
        assert (row["origin"], row["record_id"]) == (origin, record_id or "")


PAGES = ("/", "/batches", "/batches/2026-01-05", "/record", "/about")


@pytest.mark.parametrize(
    ("steps", "is_made_up"),
    [
        pytest.param([plant_main], False, id="from before"),
        pytest.param([live], False, id="live"),
        pytest.param([plant_main, late], False, id="late"),
        pytest.param([plant_main, create_clock], True, id="a clock"),
        pytest.param([rehearsed], True, id="rehearsed"),
    ],
)
async def test_a_process_that_does_not_know_of_a_rehearsal(
    steps: Steps, is_made_up, database, pool
):
    """Its pages, its feed and its images go by the record, and mark a rehearsal as made up."""
    for step in steps:
        step(database)
    paths = [path for path in PAGES if plant_main in steps or path != PAGES[2]]
    async with pages_on(pool) as browser:
        for path in paths:
            page = await browser.get(path)
            assert page.status_code == 200
            assert (REHEARSED_NOTICE in page.text) == is_made_up
            assert ('content="noindex"' in page.text) == is_made_up
        feed = (await browser.get("/feed.atom")).text
    assert ("all of it is made up</" in feed) == is_made_up
    if plant_main not in steps:
        return
    images = []
    for is_known in (False, True):
        app = Litestar(
            [chart_image_route(engine_on(pool), rehearsed=is_known)], openapi_config=None
        )
        async with AsyncTestClient(app) as client:
            images.append((await client.get("/batches/2026-01-05/chart.png")).content)
    assert (images[0] == images[1]) == is_made_up
