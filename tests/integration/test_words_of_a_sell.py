"""
What every place says of a SELL: the call is right when the share did worse than the benchmark, and only then.

The kind: a sentence that is true of a BUY and false of a SELL. "3 of 3 ahead of SPY" was said of a share that had
fallen behind SPY, and of one that had earned less. The members tried are the ways in which a SELL can stand
(`CALLS`), each in every place that says how a pick stands: the pages, the feed, the picture, the chart's own text,
`show` and the exports.
"""

import json
import re
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from html import unescape
from xml.etree import ElementTree

import psycopg
import pytest
from api_records import RUNNING, UNRESOLVED, WON, Record, engine_on
from pages_served import every, one, parsed, text
from test_api_cache import Service, living

from api.persisted import BY_NAME
from app.domain.calendar import FORTNIGHT
from app.domain.model import BatchStatus
from app.web.charts.batch_chart import drawn, of_batch
from app.web.charts.image import told, whole
from app.web.formatting import MINUS, signed

# What the benchmark and each share did, in percent, and whether the call is right.
FALLING = (
    Decimal("-2"),
    {
        "AAPL SELL": (Decimal("-8.10"), True),  # fell more than the benchmark
        "KO SELL": (Decimal("-1"), False),  # fell less
        "XOM SELL": (Decimal("-2"), False),  # fell as much
    },
)
RISING = (
    Decimal("2"),
    {
        "NVDA SELL": (Decimal("5"), False),  # rose more
        "MSFT SELL": (Decimal("1"), True),  # rose less
        "BRK.B BUY": (Decimal("1.5"), False),  # rose less, bought
    },
)
LEVEL = (
    Decimal("0"),
    {
        "AAPL SELL": (Decimal("0.004"), False),  # rose by less than is shown
        "KO SELL": (Decimal("-0.004"), True),  # fell by less than is shown
        "XOM BUY": (Decimal("-3"), False),
    },
)
CALLS = {WON: FALLING, UNRESOLVED: RISING, RUNNING: LEVEL}

# What is true of a BUY alone, or does not say of what it is true.
FALSE = re.compile(
    r"\b(ahead of|behind|beats?|beating|beaten|outperform\w*|underperform\w*|lagg?(s|ed|ing)?|trail(s|ed|ing)?|"
    r"up on|down on|gained|lost|earned)\b",
    re.IGNORECASE,
)


def plant(address: str) -> None:
    """Two completed batches and one that runs, with what `CALLS` says at every checkpoint."""
    with psycopg.connect(address) as conn:
        record = Record(conn)
        for monday, (benchmark, calls) in CALLS.items():
            status = BatchStatus.ACTIVE if monday == RUNNING else BatchStatus.COMPLETED
            batch, picks = record.batch("main", monday, status, ", ".join(calls))
            for day in FORTNIGHT[:5] if monday == RUNNING else FORTNIGHT:
                record.checkpoint(batch, picks, day)
            for pick in picks:
                share, _ = calls[f"{pick.ticker} {pick.action}"]
                conn.execute("SET session_replication_role = replica")
                conn.execute(
                    "UPDATE pick_checkpoint_metrics SET absolute_return_pct = %s, vs_benchmark_pct = %s "
                    "WHERE pick_id = %s",
                    (share, share - benchmark, pick.id),
                )
            conn.execute(
                "UPDATE checkpoints SET benchmark_return_pct = %s "
                "WHERE batch_id = %s AND day > 0 AND status = 'computed'",
                (benchmark, batch.id),
            )
            conn.execute("SET session_replication_role = origin")


def favour(monday: date, call: str) -> str:
    """The points in a call's favour, as they are shown."""
    benchmark, calls = CALLS[monday]
    points = calls[call][0] - benchmark
    return signed(-points if call.endswith("SELL") else points)


def named(call: str) -> str:
    ticker, action = call.split()
    return f"{action} {ticker}"


def cases() -> list:
    return [pytest.param(monday, call, id=f"{monday} {call}") for monday, (_, calls) in CALLS.items() for call in calls]


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant(database)
    async with living(database, PUBLIC_URL="https://alpha-monday.example") as service:
        yield service


async def html(service: Service, path: str):
    answer = await service.client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == 200
    return parsed(answer)


async def chart_of(pool, monday: date) -> dict:
    answer = await engine_on(pool).answer(BY_NAME["Chart"], {"runDate": str(monday)})
    return json.loads(answer.body)["data"]["batchOn"]


PAGES = ("/", "/record", "/batches", "/about", *(f"/batches/{monday}" for monday in CALLS))


@pytest.mark.parametrize("path", [*PAGES, "/feed.atom"])
async def test_nothing_is_said_that_is_only_true_of_a_buy(service, path):
    """Neither in the text, nor in a title, a caption, a label, a description or a picture's words."""
    answer = await service.client.get(path, headers={"accept": "text/html"})
    source = re.sub(r"data-ahead|class=\"ahead\"|The figures behind the", "", unescape(answer.text))
    assert FALSE.findall(source) == []


@pytest.mark.parametrize(("monday", "call"), cases())
async def test_a_page_of_a_monday(service, monday, call):
    """The card has the points in the call's favour and says whether it is right; the table names them as such."""
    right = CALLS[monday][1][call][1]
    found = await html(service, f"/batches/{monday}")
    (card,) = [item for item in every(found, "li", class_="pick") if text(one(item, "h3")) == named(call)]
    alpha = one(card, "p", class_="alpha")
    so_far = " so far" if monday == RUNNING else ""
    assert text(alpha).endswith(f"{favour(monday, call)} points: {'right' if right else 'wrong'}{so_far}")
    assert ("up" in alpha.get("class").split()) == right
    key = text(one(found, "p", class_="key")) if len(every(found, "p", class_="key")) == 1 else text(found)
    assert "a BUY is right when the share does better than SPY, a SELL when it does worse" in key
    assert "the points in the call’s favour against SPY" in text(found)
    assert "Above the line, the call is right." in text(found)


@pytest.mark.parametrize("monday", CALLS)
async def test_the_picture(database, pool, monday):
    """It counts calls that were right, and its axis and its lines' names say what is above zero."""
    plant(database)
    batch = await chart_of(pool, monday)
    picture, line = whole(batch, rehearsed=False), told(batch)
    right = sum(right for _, right in CALLS[monday][1].values())
    assert line.endswith(f": {right} of 3 calls right") == (monday != RUNNING)
    assert "Percentage points in the call's favour against SPY: above zero, the call is right" in picture
    shown = ["".join(found.itertext()) for found in ElementTree.fromstring(picture).iter()]
    for call in CALLS[monday][1]:
        assert f"{named(call)} {favour(monday, call)}" in shown
    assert not FALSE.search(picture)


@pytest.mark.parametrize("monday", CALLS)
async def test_the_chart_says_the_same_in_words(database, pool, monday):
    """What a reader hears who does not see it; and the line of a call that is right ends above the zero line."""
    plant(database)
    fortnight = of_batch(await chart_of(pool, monday))
    svg = ElementTree.fromstring(drawn(fortnight))
    title, words = svg[0].text, svg[1].text
    assert title.startswith("Percentage points in the call's favour against SPY, for each pick of Monday")
    assert title.endswith("above zero, the call is right")
    for line in fortnight.lines:
        call = f"{line.ticker} {line.action}"
        assert f"{named(call)} {favour(monday, call)} on day " in words
        assert (line.points[max(line.points)] > 0) == CALLS[monday][1][call][1]


@pytest.mark.parametrize(("monday", "call"), [case for case in cases() if case.values[0] != RUNNING])
async def test_the_feed(service, monday, call):
    """Its result says right or wrong of each call, and the points in its favour."""
    _, calls = CALLS[monday]
    share, right = calls[call]
    feed = (await service.client.get("/feed.atom")).text
    count = sum(right for _, right in calls.values())
    assert f"{monday.day} January 2026: {count} of 3 calls right" in feed
    directional = signed(-share if call.endswith("SELL") else share)
    assert (
        f"{named(call)}: {'right' if right else 'wrong'}, {directional} % in its direction, "
        f"{favour(monday, call)} points in the call's favour against SPY"
    ) in feed


async def test_the_headlines(service):
    """Calls are counted that are right, not shares that did better."""
    headings = {path: text(one(await html(service, path), "h1")) for path in PAGES}
    assert headings["/"] == "1 of 3 calls is right so far."
    assert headings[f"/batches/{WON}"] == "1 of 3 calls was right."
    assert headings[f"/batches/{UNRESOLVED}"] == "1 of 3 calls was right."
    history = text(await html(service, "/batches"))
    assert "Figures are points in the call’s favour against the benchmark: above zero, the call is right." in history
    for monday, (_, calls) in CALLS.items():
        for call in calls:
            shown = favour(monday, call)
            assert re.search(rf"{re.escape(named(call))} [▲▼=]{re.escape(shown)}", history), (call, history)


async def test_the_whole_record(service):
    """Hits, best and worst are of calls: a SELL of a share that fell is the best, one that rose the worst."""
    found = text(await html(service, "/record"))
    assert "Calls that were right2 of 6" in found
    assert "Best call+6.10 SELL AAPL" in found
    assert f"Worst call{MINUS}3.00 SELL NVDA" in found


async def test_shared_links(service):
    """The words that go with a picture."""
    for path, monday in (("/", RUNNING), (f"/batches/{WON}", WON)):
        found = await html(service, path)
        (alt,) = [meta.get("content") for meta in found.iter("meta") if meta.get("property") == "og:image:alt"]
        assert alt.startswith("Points in each call’s favour against SPY, day by day, for the picks of Monday ")
        assert alt.endswith(f"{monday.day} January 2026")


@pytest.mark.parametrize(("monday", "call"), cases())
def test_show(database, commanded, monday, call):
    """The table has the share's change, and says so; below it each call is right or wrong, or so far."""
    plant(database)
    said = commanded("show", monday, DATABASE_URL=database)
    right = CALLS[monday][1][call][1]
    points = favour(monday, call).replace(MINUS, "-")
    so_far = " so far" if monday == RUNNING else ""
    line = f"{named(call)}: {'right' if right else 'wrong'}{so_far}, {points} points in the call's favour against SPY"
    assert (said.code, line in said.out.splitlines()) == (0, True), said.out
    assert "In the table: each share's change since day 0, whatever the call." in said.out
    assert not FALSE.search(said.out)


def test_show_of_a_fortnight_without_a_result(database, commanded):
    """Nothing is called right or wrong for good, and nothing at all before the first figures."""
    with psycopg.connect(database) as conn:
        record = Record(conn)
        batch, picks = record.batch("main", WON, BatchStatus.COMPLETED, "AAPL SELL, KO SELL, XOM BUY")
        for day in FORTNIGHT:
            record.checkpoint(batch, picks, day, missing=day == 12)
        record.batch("main", RUNNING, BatchStatus.ACTIVE, "AAPL SELL, KO SELL, XOM BUY")
    unresolved = commanded("show", WON, DATABASE_URL=database).out
    assert "Unresolved: the last session has no figures. So far, on day 11:" in unresolved
    assert len(re.findall(r": (?:right|wrong) so far, ", unresolved)) == 3
    assert "No call is right or wrong yet: there are no figures." in commanded("show", DATABASE_URL=database).out


async def test_exports(service):
    """The figures that say it: `hit` and `alpha_pct` are the call's, whatever the share did."""
    rows = (await service.client.get("/export.json")).json()["rows"]
    judged = {(row["run_date"], row["ticker"]): row for row in rows if row["result"]}
    assert len(judged) == 6
    for monday, (benchmark, calls) in CALLS.items():
        for call, (share, right) in calls.items() if monday != RUNNING else ():
            row = judged[str(monday), call.split()[0]]
            points = benchmark - share if call.endswith("SELL") else share - benchmark
            assert (row["hit"], Decimal(row["alpha_pct"]), Decimal(row["absolute_return_pct"])) == (
                right, points, share,
            )  # fmt: skip
