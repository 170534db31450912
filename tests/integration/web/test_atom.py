"""
The Atom feed: RFC 4287's requirements, how a feed reader parses it, and the API's figures in it.
"""

import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from xml.etree import ElementTree

import feedparser
import psycopg
import pytest
from api_records import FAILED, ODD, RUNNING, UNRESOLVED, WON, Record, an_id, engine_on, plant_main

from app.database import migrations, pools
from app.domain.model import BatchStatus
from app.store import journal
from app.web.feeds.atom import (
    ATOM_NAMESPACE,
    DOCUMENT,
    JOURNAL_NAMESPACE,
    MAX_ENTRIES,
    XHTML_NAMESPACE,
    render_feed,
)
from app.web.formatting import signed
from tests.integration.api.test_cache import Service, living, write

HEAD = "{ service { journalHead { seq hash } } }"
RESULT = """{ batchOn(runDate: "2026-01-05") {
    picks { ticker action result { directionalReturnPct alphaPct } } } }"""
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant_main(database)
    async with living(database) as service:
        yield service


async def read(service: Service, **headers: str) -> ElementTree.Element:
    answer = await service.client.get("/feed.atom", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (
        200,
        "application/atom+xml; charset=utf-8",
    )
    return checked(answer.content)


def checked(xml: bytes) -> ElementTree.Element:
    """
    Return the feed, after checking the requirements of RFC 4287, sections 3.1 to 3.3, 4.1 and
    4.2.
    """
    feed = ElementTree.fromstring(xml)
    assert feed.tag == f"{{{ATOM_NAMESPACE}}}feed"
    once = [feed, *entries(feed)]
    for element in once:
        for name in ("id", "title", "updated"):
            assert len(element.findall(f"{{{ATOM_NAMESPACE}}}{name}")) == 1, name
        for name in ("generator", "subtitle", "published", "content", "summary"):
            assert len(element.findall(f"{{{ATOM_NAMESPACE}}}{name}")) <= 1, name
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", text(element, "id"))
        links = element.findall(f"{{{ATOM_NAMESPACE}}}link")
        assert all(link.get("href") for link in links)
        assert len([link for link in links if link.get("rel") == "alternate"]) == 1
        for date in (
            *element.findall(f"{{{ATOM_NAMESPACE}}}updated"),
            *element.findall(f"{{{ATOM_NAMESPACE}}}published"),
        ):
            assert DATE.fullmatch(date.text or "")
    # An author of the feed stands for those of its entries.
    assert feed.find(f"{{{ATOM_NAMESPACE}}}author/{{{ATOM_NAMESPACE}}}name").text
    assert [
        link.get("type")
        for link in feed.findall(f"{{{ATOM_NAMESPACE}}}link")
        if link.get("rel") == "self"
    ] == ["application/atom+xml"]
    for content in feed.iter(f"{{{ATOM_NAMESPACE}}}content"):
        assert (content.get("type"), [child.tag for child in content]) == (
            "xhtml",
            [f"{{{XHTML_NAMESPACE}}}div"],
        )
        assert not (content.text or "").strip()
    ids = [text(element, "id") for element in once]
    assert len(set(ids)) == len(ids)
    dates = [text(entry, "updated") for entry in entries(feed)]
    assert dates == sorted(dates, reverse=True)
    return feed


def entries(feed: ElementTree.Element) -> list[ElementTree.Element]:
    return feed.findall(f"{{{ATOM_NAMESPACE}}}entry")


def text(element: ElementTree.Element, name: str) -> str:
    return element.find(f"{{{ATOM_NAMESPACE}}}{name}").text or ""


def words(entry: ElementTree.Element) -> str:
    return "\n".join(
        part.strip()
        for part in entry.find(f"{{{ATOM_NAMESPACE}}}content").itertext()
        if part.strip()
    )


def titled(feed: ElementTree.Element, beginning: str) -> ElementTree.Element:
    (entry,) = [entry for entry in entries(feed) if text(entry, "title").startswith(beginning)]
    return entry


async def test_the_entries_of_each_monday(service):
    """
    Each Monday has an entry for its picks or its failure, and one for its result; newest first.
    """
    feed = await read(service)
    assert [(text(entry, "title"), text(entry, "updated")[:16]) for entry in entries(feed)] == [
        (
            f"SELL AAPL, BUY BRK.B and SELL XOM on Monday {RUNNING.day} January 2026",
            "2026-01-26T14:00",
        ),
        (f"The picks of Monday {UNRESOLVED.day} January 2026: unresolved", "2026-01-26T14:00"),
        (f"No picks on Monday {FAILED.day} January 2026", "2026-01-20T14:00"),
        (f"The picks of Monday {WON.day} January 2026: 3 of 3 calls right", "2026-01-19T14:00"),
        (
            f"SELL MSFT, BUY AAPL and BUY NVDA on Monday {UNRESOLVED.day} January 2026",
            "2026-01-12T14:00",
        ),
        (f"BUY AAPL, SELL KO and BUY BRK.B on Monday {WON.day} January 2026", "2026-01-05T14:00"),
    ]
    assert text(feed, "updated") == text(entries(feed)[0], "updated")
    assert 'The model said "429".' in words(titled(feed, "No picks"))
    assert ODD.strip() in words(titled(feed, "BUY AAPL, SELL KO"))


async def test_a_reader_understands_it(service):
    """feedparser finds no error, and returns the same entries, dates and links."""
    answer = await service.client.get("/feed.atom")
    headers = {**answer.headers, "content-location": "https://there.example/feed.atom"}
    read = feedparser.parse(answer.content, response_headers=headers)
    assert (read.get("bozo_exception"), read.version, read.feed.title) == (
        None,
        "atom10",
        "Alpha Monday",
    )
    assert len(read.entries) == 6
    first = read.entries[0]
    assert first.link == "https://there.example/batches/2026-01-26"
    assert first.updated_parsed[:5] == (2026, 1, 26, 14, 0)
    assert "BRK.B looks right." in first.content[0].value
    assert re.fullmatch(r"40:[0-9a-f]{64}", first.journal_head)


async def test_its_figures_are_the_apis(service):
    """Figures are rounded to two decimals, half to even, as on the pages."""
    entry_text = words(titled(await read(service), "The picks of Monday 5 January"))
    picks = (await service.tell(RESULT)).json()["data"]["batchOn"]["picks"]
    for pick in picks:
        directional, alpha = (pick["result"][name] for name in ("directionalReturnPct", "alphaPct"))
        right = "right" if Decimal(alpha) > 0 else "wrong"
        line = (
            f"{pick['action']} {pick['ticker']}: {right}, {signed(directional)} % in the "
            f"call's direction, {signed(alpha)} points in the call's favour against SPY"
        )
        assert line in entry_text
        shown = re.search(rf"{re.escape(pick['ticker'])}: (?:right|wrong), (\S+) %", entry_text)[
            1
        ].replace("\N{MINUS SIGN}", "-")
        assert abs(Decimal(shown) - Decimal(directional)) <= Decimal("0.005")


async def test_every_entry_holds_the_journal(database, service):
    """Each entry has the number and hash of its journal entry, and of the current head."""
    head = (await service.tell(HEAD)).json()["data"]["service"]["journalHead"]
    feed = await read(service)
    with psycopg.connect(database) as conn:
        journal = {
            f"{seq}:{hash_}": kind
            for seq, hash_, kind in conn.execute("SELECT seq, hash, kind FROM journal")
        }
    kinds = []
    for entry in entries(feed):
        assert entry.find(f"{{{JOURNAL_NAMESPACE}}}head").text == f"{head['seq']}:{head['hash']}"
        own = entry.find(f"{{{JOURNAL_NAMESPACE}}}entry").text
        assert own in words(entry)
        kinds.append(journal[own])
    assert kinds == ["BATCH", "CHECKPOINT", "FAILURE", "CHECKPOINT", "BATCH", "BATCH"]


async def test_a_correction_brings_a_result_up_again(database, service):
    """
    The entry keeps its id, gets a new date and the correction; the other entries stay the same.
    """
    before = {text(entry, "id"): text(entry, "updated") for entry in entries(await read(service))}
    with psycopg.connect(database) as conn:
        record = Record(conn)
        (day,) = conn.execute(
            "SELECT id FROM checkpoints WHERE batch_id = %s AND day = 12", [an_id(3, 1)]
        ).fetchone()
        correction = {
            "id": an_id(7, 99),
            "checkpoint_id": day,
            "field": "current_price",
            "ticker": "KO",
            "before": "67.05",
            "after": "66.05",
            "reason": "A misprint.",
            "made_at": datetime.fromisoformat("2026-03-02T15:00:00Z"),
        }
        record.add("corrections", **correction)
    async with living(database) as later:
        feed = await read(later)
    first = entries(feed)[0]
    assert text(first, "title") == "The picks of Monday 5 January 2026: 3 of 3 calls right"
    assert "Corrected: KO, price, from 67.05 to 66.05. A misprint." in words(first)
    after = {text(entry, "id"): text(entry, "updated") for entry in entries(feed)}
    changed = {name for name in after if before[name] != after[name]}
    assert (before.keys(), changed) == (after.keys(), {text(first, "id")})
    assert after[text(first, "id")] == "2026-03-02T15:00:00.000000Z"


async def feed_data(pool) -> dict:
    answer = await engine_on(pool).execute(DOCUMENT)
    return json.loads(answer.body)["data"]


async def test_a_monday_that_is_run_again_keeps_its_entry(database, pool):
    """
    A Monday that failed and was run again manually is one entry: the same id, with a new text
    and date.
    """
    plant_main(database)
    data = await feed_data(pool)
    (failed,) = [one for one in data["batches"]["nodes"] if one["status"] == "FAILED"]
    before = titled(checked(render_feed(data)), "No picks")
    (other,) = [one for one in data["batches"]["nodes"] if one["status"] == "ACTIVE"]
    entry = {"seq": "99", "kind": "BATCH", "at": "2026-01-20T16:00:00.000000Z", "hash": "f" * 64}
    failed.update(other, runDate=failed["runDate"], journal=[*failed["journal"], entry])
    other["journal"] = []
    after = titled(
        checked(render_feed(data)), "SELL AAPL, BUY BRK.B and SELL XOM on Monday 19 January"
    )
    assert text(after, "id") == text(before, "id")
    assert (text(after, "published"), text(after, "updated")) == (
        text(before, "published"),
        entry["at"],
    )


async def test_ids_are_this_records(database, empty, pool, service):
    """
    Ids stay when the record changes. Another record of the same Mondays has other ids, although
    its batches have the same ones.
    """
    feed = await read(service)
    ids = {text(element, "id") for element in (feed, *entries(feed))}
    await service.notices(write(pool, 1))
    feed = await read(service)
    assert ids < {text(element, "id") for element in (feed, *entries(feed))}
    await migrations.migrate(empty, datetime.fromisoformat("2020-01-01T00:00:00Z"))
    async with pools.opened(pools.make_pool(empty)) as another:
        await write(another, 1)  # so its journal begins otherwise
        async with another.connection() as conn:
            head = await journal.head(conn)
        with psycopg.connect(empty) as conn:
            record = Record(conn)
            record.head = head
            record.batch("main", WON, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
        other = checked(render_feed(await feed_data(another)))
    assert len(entries(other)) == 2
    assert not ids & {text(element, "id") for element in (other, *entries(other))}


async def test_no_host_of_a_request_is_in_it(database, service):
    """
    Links are relative, or begin with PUBLIC_URL: the Host header of one client never reaches
    another.
    """
    evil = await service.client.get("/feed.atom", headers={"Host": "evil.example"})
    again = await service.client.get("/feed.atom")
    assert (evil.content, service.counts[0]) == (again.content, 1)
    assert b"evil" not in evil.content
    assert {
        link.get("href")[0] for link in checked(evil.content).iter(f"{{{ATOM_NAMESPACE}}}link")
    } == {"/"}
    async with living(database, PUBLIC_URL="https://alpha-monday.example/") as public:
        links = [
            link.get("href") for link in (await read(public)).iter(f"{{{ATOM_NAMESPACE}}}link")
        ]
    assert links[:3] == [
        "https://alpha-monday.example/feed.atom",
        "https://alpha-monday.example/",
        "https://alpha-monday.example/batches/2026-01-26",
    ]


async def test_it_is_cached_until_the_record_changes(pool, service):
    """The feed has an ETag, which gets 304 until the next entry of the journal."""
    first = await service.client.get("/feed.atom")
    again = await service.client.get("/feed.atom", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    await service.notices(write(pool, 1))
    after = await service.client.get("/feed.atom", headers={"If-None-Match": first.headers["etag"]})
    assert after.status_code == 200
    head = await service.client.head("/feed.atom")
    assert (head.status_code, head.content) == (200, b"")


async def test_hostile_words(database, service):
    """Markup in a text stays text, and characters that XML cannot contain are replaced."""
    words_of = "<script>alert(1)</script> ]]> &amp; \x01\x0b \ufffe \U0001f680"
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE picks SET reasoning = %s", [words_of])
    async with living(database) as later:
        answer = await later.client.get("/feed.atom")
    entry_text = words(titled(checked(answer.content), "SELL AAPL"))
    assert "<script>alert(1)</script> ]]> &amp; \ufffd\ufffd \ufffd \U0001f680" in entry_text
    assert b"<script" not in answer.content


async def test_a_rehearsal_says_so(database):
    """The feed's title and the title of each entry say that it is made up."""
    plant_main(database)
    async with living(database, rehearsed=True) as service:
        feed = await read(service)
    assert text(feed, "title") == "Alpha Monday, rehearsed: all of it is made up"
    assert all(text(entry, "title").startswith("Made up: ") for entry in entries(feed))


async def test_an_empty_record(database):
    """A feed without entries is valid, too."""
    async with living(database) as service:
        feed = await read(service)
    assert (entries(feed), feed.find(f"{{{JOURNAL_NAMESPACE}}}head")) == ([], None)


async def test_it_does_not_grow(database, pool):
    """The feed contains the newest fifty entries."""
    for number in range(1, 56):
        await write(pool, number)
    async with living(database) as service:
        feed = await read(service)
    assert len(entries(feed)) == MAX_ENTRIES == 50


async def test_every_page_leads_to_it(service):
    """Each page links the feed, so that browsers and feed readers find it."""
    for page in ("/", "/batches", "/batches/2026-01-05", "/about"):
        html = (await service.client.get(page)).text
        assert '<link rel="alternate" href="/feed.atom" type="application/atom+xml"' in html
