"""
What every page says of a SELL: the call is right if the share did worse than the benchmark.

A sentence can be true of a BUY and false of a SELL. "3 of 3 ahead of SPY" was once said of a share
that had fallen behind SPY, and of one that had earned less. The cases are the possible outcomes of
a SELL (`CALLS`), in each place that shows an outcome: the pages, the feed, the image, the
description of the chart, `show` and the exports.
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
from served_pages import find_all, find_one, parse_page, visible_text

from app.domain.calendar import MEASURED_DAYS
from app.domain.model import BatchStatus
from app.web.charts.batch_chart import chart_of_batch, draw
from app.web.charts.image import DOCUMENT, chart_image_svg, summary_line
from app.web.formatting import MINUS, signed
from tests.integration.api.test_cache import Service, living

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
    r"\b(ahead "
    r"of|behind|beats?|beating|beaten|outperform\w*|underperform\w*|lagg?(s|ed|ing)?|"
    r"trail(s|ed|ing)?|"
    r"up on|down on|gained|lost|earned)\b",
    re.IGNORECASE,
)


def plant(address: str) -> None:
    """
    Store two completed batches and an active one, with the figures of `CALLS` at every
    checkpoint.
    """
    with psycopg.connect(address) as conn:
        record = Record(conn)
        for monday, (benchmark, calls) in CALLS.items():
            status = BatchStatus.ACTIVE if monday == RUNNING else BatchStatus.COMPLETED
            batch, picks = record.batch("main", monday, status, ", ".join(calls))
            for day in MEASURED_DAYS[:5] if monday == RUNNING else MEASURED_DAYS:
                record.checkpoint(batch, picks, day)
            for pick in picks:
                share, _ = calls[f"{pick.ticker} {pick.action}"]
                conn.execute("SET session_replication_role = replica")
                conn.execute(
                    "UPDATE pick_checkpoint_metrics SET absolute_return_pct = %s, "
                    "vs_benchmark_pct = %s "
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
    """Return the points in a call's favour as they are shown."""
    benchmark, calls = CALLS[monday]
    points = calls[call][0] - benchmark
    return signed(-points if call.endswith("SELL") else points)


def named(call: str) -> str:
    ticker, action = call.split()
    return f"{action} {ticker}"


def cases() -> list:
    return [
        pytest.param(monday, call, id=f"{monday} {call}")
        for monday, (_, calls) in CALLS.items()
        for call in calls
    ]


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant(database)
    async with living(database, PUBLIC_URL="https://alpha-monday.example") as service:
        yield service


async def html(service: Service, path: str):
    answer = await service.client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == 200
    return parse_page(answer)


async def chart_of(pool, monday: date) -> dict:
    answer = await engine_on(pool).execute(DOCUMENT, {"runDate": str(monday)})
    return json.loads(answer.body)["data"]["batchOn"]


PAGES = ("/", "/record", "/batches", "/about", *(f"/batches/{monday}" for monday in CALLS))


@pytest.mark.parametrize("path", [*PAGES, "/feed.atom"])
async def test_no_text_is_only_true_of_a_buy(service, path):
    """Not in a text, title, caption, label, description or alternative text."""
    answer = await service.client.get(path, headers={"accept": "text/html"})
    source = re.sub(r"data-ahead|class=\"ahead\"|The figures behind the", "", unescape(answer.text))
    assert FALSE.findall(source) == []


@pytest.mark.parametrize(("monday", "call"), cases())
async def test_a_page_of_a_monday(service, monday, call):
    """
    The card has the points in the call's favour and whether it is right; the table explains the
    points.
    """
    right = CALLS[monday][1][call][1]
    document = await html(service, f"/batches/{monday}")
    (card,) = [
        item
        for item in find_all(document, "li", class_="pick")
        if visible_text(find_one(item, "h3")) == named(call)
    ]
    alpha = find_one(card, "p", class_="alpha")
    so_far = " so far" if monday == RUNNING else ""
    assert visible_text(alpha).endswith(
        f"{favour(monday, call)} points: {'right' if right else 'wrong'}{so_far}"
    )
    assert ("up" in alpha.get("class").split()) == right
    key = (
        visible_text(find_one(document, "p", class_="key"))
        if len(find_all(document, "p", class_="key")) == 1
        else visible_text(document)
    )
    assert "a BUY is right when the share does better than SPY, a SELL when it does worse" in key
    assert "the points in the call’s favour against SPY" in visible_text(document)
    assert "Above the line, the call is right." in visible_text(document)


@pytest.mark.parametrize("monday", CALLS)
async def test_the_picture(database, pool, monday):
    """The image counts right calls, and explains what is above zero."""
    plant(database)
    batch = await chart_of(pool, monday)
    picture, line = chart_image_svg(batch, rehearsed=False), summary_line(batch)
    right = sum(right for _, right in CALLS[monday][1].values())
    assert line.endswith(f": {right} of 3 calls right") == (monday != RUNNING)
    assert (
        "Percentage points in the call's favour against SPY: above zero, the call is right"
        in picture
    )
    shown = ["".join(element.itertext()) for element in ElementTree.fromstring(picture).iter()]
    for call in CALLS[monday][1]:
        assert f"{named(call)} {favour(monday, call)}" in shown
    assert not FALSE.search(picture)


@pytest.mark.parametrize("monday", CALLS)
async def test_the_chart_says_the_same_in_words(database, pool, monday):
    """The description is true, and the line of a right call ends above zero."""
    plant(database)
    fortnight = chart_of_batch(await chart_of(pool, monday))
    svg = ElementTree.fromstring(draw(fortnight))
    title, words = svg[0].text, svg[1].text
    assert title.startswith(
        "Percentage points in the call's favour against SPY, for each pick of Monday"
    )
    assert title.endswith("above zero, the call is right")
    for line in fortnight.lines:
        call = f"{line.ticker} {line.action}"
        assert f"{named(call)} {favour(monday, call)} on day " in words
        assert (line.points[max(line.points)] > 0) == CALLS[monday][1][call][1]


@pytest.mark.parametrize(
    ("monday", "call"), [case for case in cases() if case.values[0] != RUNNING]
)
async def test_the_feed(service, monday, call):
    """The result says right or wrong for each call, with the points in its favour."""
    _, calls = CALLS[monday]
    share, right = calls[call]
    feed = (await service.client.get("/feed.atom")).text
    count = sum(right for _, right in calls.values())
    assert f"{monday.day} January 2026: {count} of 3 calls right" in feed
    directional = signed(-share if call.endswith("SELL") else share)
    assert (
        f"{named(call)}: {'right' if right else 'wrong'}, {directional} % in the call's direction, "
        f"{favour(monday, call)} points in the call's favour against SPY"
    ) in feed


async def test_the_headlines(service):
    """Headlines count right calls, not shares that did better."""
    headings = {path: visible_text(find_one(await html(service, path), "h1")) for path in PAGES}
    assert headings["/"] == "1 of 3 calls is right so far."
    assert headings[f"/batches/{WON}"] == "1 of 3 calls was right."
    assert headings[f"/batches/{UNRESOLVED}"] == "1 of 3 calls was right."
    history = visible_text(await html(service, "/batches"))
    assert (
        "Figures are points in the call’s favour against the benchmark: above zero, the call is "
        "right." in history
    )
    for monday, (_, calls) in CALLS.items():
        for call in calls:
            shown = favour(monday, call)
            assert re.search(rf"{re.escape(named(call))} [▲▼=]{re.escape(shown)}", history), (
                call,
                history,
            )


async def test_the_whole_record(service):
    """Hits, best and worst are those of calls: the best is a SELL of a share that fell."""
    shown = visible_text(await html(service, "/record"))
    assert "Calls that were right2 of 6" in shown
    assert "Best call+6.10 SELL AAPL" in shown
    assert f"Worst call{MINUS}3.00 SELL NVDA" in shown


async def test_shared_links(service):
    """The alternative text of an image explains it."""
    for path, monday in (("/", RUNNING), (f"/batches/{WON}", WON)):
        document = await html(service, path)
        (alt,) = [
            meta.get("content")
            for meta in document.iter("meta")
            if meta.get("property") == "og:image:alt"
        ]
        assert alt.startswith(
            "Points in each call’s favour against SPY, day by day, for the picks of Monday "
        )
        assert alt.endswith(f"{monday.day} January 2026")


@pytest.mark.parametrize(("monday", "call"), cases())
def test_show(database, commanded, monday, call):
    """
    The table has the share's change and says so; below it, each call is right or wrong, or so
    far.
    """
    plant(database)
    result = commanded("show", monday, DATABASE_URL=database)
    right = CALLS[monday][1][call][1]
    points = favour(monday, call).replace(MINUS, "-")
    so_far = " so far" if monday == RUNNING else ""
    line = (
        f"{named(call)}: {'right' if right else 'wrong'}{so_far}, {points} points in the call's "
        "favour against SPY"
    )
    assert (result.exit_code, line in result.output.splitlines()) == (0, True), result.output
    assert (
        "Later days show each share's change since day 0, for BUY and SELL alike." in result.output
    )
    assert not FALSE.search(result.output)


def test_show_of_a_fortnight_without_a_result(database, commanded):
    """No call is finally right or wrong; before the first figures, none is either."""
    with psycopg.connect(database) as conn:
        record = Record(conn)
        batch, picks = record.batch(
            "main", WON, BatchStatus.COMPLETED, "AAPL SELL, KO SELL, XOM BUY"
        )
        for day in MEASURED_DAYS:
            record.checkpoint(batch, picks, day, missing=day == 12)
        record.batch("main", RUNNING, BatchStatus.ACTIVE, "AAPL SELL, KO SELL, XOM BUY")
    unresolved = commanded("show", WON, DATABASE_URL=database).output
    assert "Unresolved: the last session has no figures. The last ones are of day 11:" in unresolved
    assert len(re.findall(r": (?:right|wrong), ", unresolved)) == 3
    assert (
        "No call is right or wrong yet: there are no figures."
        in commanded("show", DATABASE_URL=database).output
    )


async def test_exports(service):
    """`hit` and `alpha_pct` are those of the call, whatever the share did."""
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
