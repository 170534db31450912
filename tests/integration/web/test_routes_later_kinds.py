"""What the service shows of a record whose journal has entries of kinds of later versions."""

import json
from collections.abc import AsyncIterator
from xml.etree import ElementTree

import psycopg
import pytest
from api_records import WON, plant
from later_kinds import FIRST_KINDS, LATER_KINDS, append_later
from served_pages import find_all, find_one, parse_page, visible_text

from app.web.feeds.atom import ATOM_NAMESPACE
from tests.integration.api.test_cache import Service, living
from tests.integration.api.test_persisted_operations import OPERATIONS, VARIABLES
from tests.integration.web.test_pages import PAGES

BATCH = f"(SELECT id FROM batches WHERE run_date = '{WON}' AND series = 'main')"
FILES = ("/feed.atom", "/export.csv", "/export.json", f"/batches/{WON}/chart.png", "/metrics")


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant(database)
    async with living(database) as service:
        yield service


async def append_all(database: str, service: Service) -> list[str]:
    """
    Append two entries of each later kind: one of a batch and one of none. Return the hashes.
    """

    async def append() -> list[str]:
        with psycopg.connect(database) as conn:
            (batch_id,) = conn.execute(f"SELECT {BATCH}").fetchone()
            for kind in LATER_KINDS:
                for batch in (batch_id, None):
                    hashes.append(append_later(conn, kind, batch).hash)

    hashes: list[str] = []
    await service.notices(append())
    return hashes


async def answer(service: Service, name: str, **variables: object) -> dict[str, object]:
    """Return the data of a persisted document, which must have no error."""
    body = {"query": OPERATIONS[name], "variables": {**VARIABLES.get(name, {}), **variables}}
    response = await service.client.post("/graphql", json=body)
    assert "errors" not in response.json(), response.text
    return response.json()["data"]


async def test_the_journal_has_entries_of_every_kind(database, service):
    """`journal` shows each entry, and finds those of a kind."""
    before = (await answer(service, "Journal"))["journal"]["nodes"]
    hashes = await append_all(database, service)
    data = await answer(service, "Journal")
    assert data["journal"]["nodes"][: len(before)] == before
    added = data["journal"]["nodes"][len(before) :]
    assert [entry["hash"] for entry in added] == hashes
    assert [entry["kind"] for entry in added[::2]] == [*LATER_KINDS]
    assert data["service"]["journalHead"]["hash"] == hashes[-1]
    for entry in added:
        content = json.loads(entry["content"])
        assert {name: content[name] for name in ("seq", "kind", "at")} == {
            name: entry[name] for name in ("seq", "kind", "at")
        }
    for kind in (*FIRST_KINDS, *LATER_KINDS):
        found = (await answer(service, "Journal", kind=kind))["journal"]["nodes"]
        every = [entry for entry in data["journal"]["nodes"] if entry["kind"] == kind]
        assert found == every
        assert kind in FIRST_KINDS or len(found) == 2


async def test_every_document_is_answered(database, service):
    """Besides the journal and its head, no answer differs."""
    before = {name: await answer(service, name) for name in OPERATIONS}
    await append_all(database, service)
    for name, data in before.items():
        assert without_journal(await answer(service, name)) == without_journal(data)


def without_journal(value: object) -> object:
    """Return an answer without the members about the journal, at any depth."""
    match value:
        case dict():
            return {
                name: without_journal(inner)
                for name, inner in value.items()
                if name not in ("journal", "journalHead")
            }
        case list():
            return [without_journal(inner) for inner in value]
    return value


async def test_the_pages(database, service):
    """Each page is shown with the new head; the Monday lists the entries of its batch."""
    seen = {}
    for path in PAGES:
        seen[path] = await read_main(service, path)
    hashes = await append_all(database, service)
    for path in PAGES:
        page = await service.client.get(path, headers={"accept": "text/html"})
        assert page.status_code == 200
        assert hashes[-1] in visible_text(
            find_one(parse_page(page), "aside", class_="journal-head")
        )
        if path != f"/batches/{WON}":
            assert await read_main(service, path) == seen[path]
    page = parse_page(await service.client.get(f"/batches/{WON}", headers={"accept": "text/html"}))
    (entries,) = [one for one in find_all(page, "details") if one.get("id") == "entries"]
    for kind in LATER_KINDS:
        assert kind.lower() in visible_text(entries)


async def read_main(service: Service, path: str) -> str:
    """Return the text of a page's main part, without the journal's head at its end."""
    page = await service.client.get(path, headers={"accept": "text/html"})
    main = find_one(parse_page(page), "main")
    head = visible_text(find_one(main, "aside", class_="journal-head"))
    text = visible_text(main)
    assert text.count(head) == 1
    return text.replace(head, "")


async def test_the_feed_and_the_downloads(database, service):
    """They have the same entries and rows, and name the new head."""
    before = {path: await service.client.get(path) for path in FILES}
    hashes = await append_all(database, service)
    after = {path: await service.client.get(path) for path in FILES}
    assert {answer.status_code for answer in (*before.values(), *after.values())} == {200}
    assert after["/export.csv"].text == before["/export.csv"].text
    assert after["/export.csv"].headers["x-journal-head"].endswith(hashes[-1])
    assert after["/export.json"].json()["rows"] == before["/export.json"].json()["rows"]
    assert after["/export.json"].json()["head"].endswith(hashes[-1])
    chart = f"/batches/{WON}/chart.png"
    assert after[chart].content == before[chart].content
    ids, words = feed_of(before["/feed.atom"].text), feed_of(after["/feed.atom"].text)
    assert ids == words
    assert hashes[-1] in after["/feed.atom"].text


def feed_of(text: str) -> list[tuple[str | None, ...]]:
    """Return the id, the title and the time of each entry of a feed."""
    names = [f"{{{ATOM_NAMESPACE}}}{name}" for name in ("id", "title", "updated", "content")]
    return [
        tuple(entry.findtext(name) for name in names)
        for entry in ElementTree.fromstring(text).iter(f"{{{ATOM_NAMESPACE}}}entry")
    ]
