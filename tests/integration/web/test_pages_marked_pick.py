"""
How short texts show a pick that was renamed, or whose figure has a move that no split explains.

A short text must not leave out what makes it true. The feed once attributed to ORCL what the model
had said of MSFT, with the close of MSFT, and results with an unexplained move looked like any
other. The cases are the picks that can be renamed (`RENAMED`) and the figures that can be marked
(`MARKED`), in each place with a short text: the feed, the image, the description of the chart, the
history, the head of a Monday's table, the best and the worst call of a record, and `show`. A
renamed best or worst call has its new ticker alone, and a link to its Monday.
"""

import json
from collections.abc import AsyncIterator
from html import unescape
from xml.etree import ElementTree

import psycopg
import pytest
from api_records import RUNNING, UNRESOLVED, WON, engine_on, plant_main
from served_pages import BROWSER, find_all, find_one, pages_on, parse_page, visible_text

from app.web.charts.batch_chart import chart_of_batch, draw
from app.web.charts.image import DOCUMENT, chart_image_svg, summary_line
from app.web.pages.batch_text import is_result_unusual

# The Monday, the ticker picked, and the one that the share has now.
RENAMED = [
    pytest.param(WON, "BUY", "AAPL", "ORCL", id="the first of a finished fortnight"),
    pytest.param(WON, "SELL", "KO", "COKE", id="a SELL"),
    pytest.param(WON, "BUY", "BRK.B", "BRK.A", id="another class of shares"),
    pytest.param(UNRESOLVED, "SELL", "MSFT", "ORCL", id="of an unresolved fortnight"),
    pytest.param(RUNNING, "SELL", "XOM", "ZZZ", id="of a running one"),
    pytest.param(RUNNING, "BUY", "BRK.B", "LONGE.R", id="the longest ticker"),
]
UNUSUAL = "a move of a tenth or more in one session that no known split explains"


def change(address: str, *statements: str) -> None:
    with psycopg.connect(address) as conn:
        conn.execute("SET session_replication_role = replica")
        for statement in statements:
            conn.execute(statement.encode())


def rename(address: str, monday: object, before: str, after: str) -> None:
    change(
        address,
        f"UPDATE picks SET ticker = '{after}' FROM batches WHERE batches.id = batch_id AND "
        "series = 'main' "
        f"AND run_date = '{monday}' AND ticker = '{before}'",
    )


@pytest.fixture
async def browser(database, pool) -> AsyncIterator:
    plant_main(database)
    async with pages_on(pool) as browser:
        yield browser


async def page(browser, path: str):
    answer = await browser.get(path, headers=BROWSER)
    assert answer.status_code == 200
    return parse_page(answer)


async def feed(browser) -> dict[str, str]:
    """Return the texts of the feed's entries, by title."""
    atom = "{http://www.w3.org/2005/Atom}"
    entries = ElementTree.fromstring((await browser.get("/feed.atom")).content).findall(
        f"{atom}entry"
    )
    return {
        entry.find(f"{atom}title").text: "\n".join(entry.find(f"{atom}content").itertext())
        for entry in entries
    }


async def chart_of(pool, monday: object) -> dict:
    answer = await engine_on(pool).execute(DOCUMENT, {"runDate": str(monday)})
    return json.loads(answer.body)["data"]["batchOn"]


@pytest.mark.parametrize(("monday", "action", "before", "after"), RENAMED)
async def test_a_renamed_pick_in_the_feed(browser, database, monday, action, before, after):
    """
    The reasoning and the close are shown under the ticker that was picked; results name both
    tickers.
    """
    entries_before = await feed(browser)
    rename(address=database, monday=monday, before=before, after=after)
    entries = await feed(browser)
    on = f"on Monday {monday.day} January 2026"
    (title,) = [one for one in entries if one.endswith(on)]
    assert title in entries_before
    assert f"{action} {before}" in title
    words = entries[title].splitlines()
    assert f"{action} {before} (now {after})" in words
    (closes,) = [line for line in words if line.startswith("Closes of ")]
    assert f"{before} " in closes
    assert after not in closes
    if monday == WON:
        result = entries["The picks of Monday 5 January 2026: 3 of 3 calls right"]
        assert f"{action} {after} (picked as {before}): right, " in result


@pytest.mark.parametrize(("monday", "action", "before", "after"), RENAMED)
async def test_a_renamed_pick_on_drawings(database, pool, monday, action, before, after):
    """
    The image's summary and the chart's description name both; so does the label, as far as
    there is room.
    """
    plant_main(database)
    rename(address=database, monday=monday, before=before, after=after)
    batch = await chart_of(pool, monday)
    assert f"{action} {after} (picked as {before})" in summary_line(batch)
    picture = chart_image_svg(batch, rehearsed=False)
    fortnight = chart_of_batch(batch)
    svg = ElementTree.fromstring(draw(fortnight))
    assert f"{action} {after} (picked as {before}) " in unescape(svg[1].text)
    for shown in (picture, draw(fortnight)):
        labels = ["".join(element.itertext()) for element in ElementTree.fromstring(shown).iter()]
        assert any(label.startswith(f"{action} {after[:8]} ({before}) ") for label in labels)


async def test_a_picture_of_three_renamed_picks(database, pool):
    """A long summary is written smaller, so that it fits the image."""
    plant_main(database)
    for before, after in (("AAPL", "GOOGL"), ("KO", "COKES"), ("BRK.B", "BRKSA")):
        rename(address=database, monday=WON, before=before, after=after)
    batch = await chart_of(pool, WON)
    picture = ElementTree.fromstring(chart_image_svg(batch, rehearsed=False))
    (line,) = [element for element in picture if element.text == summary_line(batch)]
    assert float(line.get("font-size")) * len(line.text) * 0.53 < 1200 - 2 * 64


@pytest.mark.parametrize(("monday", "action", "before", "after"), RENAMED)
async def test_a_renamed_pick_on_pages(browser, database, monday, action, before, after):
    """The history and the heads of the table name both tickers."""
    rename(address=database, monday=monday, before=before, after=after)
    both = f"{action} {after} (picked as {before})"
    history = await page(browser, "/batches")
    assert [
        visible_text(item).startswith(both)
        for item in find_all(history, "li")
        if "picked as" in visible_text(item)
    ].count(True) == 1
    document = await page(browser, f"/batches/{monday}")
    assert both in [visible_text(head) for head in find_all(document, "th", class_="n")]


@pytest.mark.parametrize(("monday", "action", "before", "after"), RENAMED)
def test_a_renamed_pick_in_show(database, commanded, monday, action, before, after):
    """The lines with the calls name both tickers."""
    plant_main(database)
    rename(address=database, monday=monday, before=before, after=after)
    lines = commanded("show", monday, DATABASE_URL=database).output.splitlines()
    assert any(line.startswith(f"{action} {after} (picked as {before}): ") for line in lines)


OF_A_PICK = (
    "UPDATE pick_checkpoint_metrics SET unusual_move = true FROM picks, batches WHERE picks.id "
    "= pick_id "
    "AND batches.id = batch_id AND run_date = '{monday}' AND ticker = '{ticker}'"
)
OF_THE_BENCHMARK = (
    "UPDATE checkpoints SET benchmark_unusual_move = true FROM batches WHERE batches.id = batch_id "
    "AND run_date = '{monday}' AND checkpoints.status = 'computed' AND day > 0"
)
OF_THE_FIRST_DAY = f"{OF_THE_BENCHMARK} AND day = 1"
# The Monday, the ticker whose move it is, the statement, and how many calls are marked in short.
MARKED = [
    pytest.param(WON, "AAPL", OF_A_PICK, 1, id="the first pick of a finished fortnight"),
    pytest.param(WON, "KO", OF_A_PICK, 1, id="a SELL"),
    pytest.param(UNRESOLVED, "MSFT", OF_A_PICK, 1, id="of an unresolved fortnight"),
    pytest.param(RUNNING, "XOM", OF_A_PICK, 1, id="of a running one"),
    pytest.param(WON, "SPY", OF_THE_BENCHMARK, 3, id="the benchmark of a finished fortnight"),
    pytest.param(RUNNING, "SPY", OF_THE_BENCHMARK, 3, id="the benchmark of a running one"),
    pytest.param(WON, "SPY", OF_THE_FIRST_DAY, 0, id="only on a day that is not the newest"),
    pytest.param(WON, "none", OF_A_PICK, 0, id="none"),
]


@pytest.mark.parametrize(("monday", "ticker", "statement", "count"), MARKED)
async def test_an_unexplained_move_in_short(browser, database, monday, ticker, statement, count):
    """The history marks it and explains the mark; the cards and the feed explain it in words."""
    change(database, statement.format(monday=monday, ticker=ticker))
    history = find_one(await page(browser, "/batches"), "main")
    calls = [
        visible_text(item) for list_ in find_all(history, "ul", class_="calls") for item in list_
    ]
    assert [call.endswith("!") for call in calls].count(True) == count
    assert (f"! The figure contains {UNUSUAL}." in visible_text(history)) == bool(count)
    cards = " ".join(
        visible_text(card)
        for card in find_all(await page(browser, f"/batches/{monday}"), "li", class_="pick")
    )
    assert cards.count("not explained by a known split") == count
    words = (await feed(browser))["The picks of Monday 5 January 2026: 3 of 3 calls right"]
    assert words.count(UNUSUAL) == (1 if count and monday == WON else 0)


@pytest.mark.parametrize(("monday", "ticker", "statement", "count"), MARKED)
async def test_an_unexplained_move_of_the_best_and_the_worst_call(
    browser, database, pool, monday, ticker, statement, count
):
    """The page of the record, and that of the series, mark them and explain the mark."""
    change(database, statement.format(monday=monday, ticker=ticker))
    answer = await engine_on(pool).execute(
        "{ trackRecord { best { runDate ticker } worst { runDate ticker } } }"
    )
    record = json.loads(answer.body)["data"]["trackRecord"]
    expected = [
        bool(count) and one["runDate"] == str(monday) and ticker in (one["ticker"], "SPY")
        for one in (record["best"], record["worst"])
    ]
    for path in ("/record", "/series/main"):
        main = find_one(await page(browser, path), "main")
        shown = {
            visible_text(find_one(row, "dt")): visible_text(find_one(row, "dd"))
            for row in find_one(main, "dl", class_="numbers")
        }
        assert [" ! " in shown[name] for name in ("Best call", "Worst call")] == expected, path
        assert (f"! The figure contains {UNUSUAL}." in visible_text(main)) == any(expected)


def test_the_marks_of_a_pick_that_is_gone():
    """The record may have changed between both queries: a pick without a result has no mark."""
    assert not is_result_unusual(None)
    assert not is_result_unusual({"result": None, "batch": {"result": None}})


@pytest.mark.parametrize(("monday", "ticker", "statement", "count"), MARKED)
def test_an_unexplained_move_in_show(database, commanded, monday, ticker, statement, count):
    """The lines with the calls mark it, too."""
    plant_main(database)
    change(database, statement.format(monday=monday, ticker=ticker))
    lines = commanded("show", monday, DATABASE_URL=database).output.splitlines()
    assert [line.endswith("points in the call's favour against SPY !") for line in lines].count(
        True
    ) == count
    assert (f"! The figure contains {UNUSUAL}." in lines) == (ticker != "none")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        pytest.param("note = 'KO: no close'", "skipped at first: KO: no close", id="with a note"),
        pytest.param("note = NULL", "skipped at first: MISSING_CLOSE", id="without one"),
        pytest.param(
            "note = NULL, skip_reason = 'PROVIDER_ERROR'",
            "skipped at first: PROVIDER_ERROR",
            id="a provider",
        ),
        pytest.param("note = NULL, skip_reason = NULL, skipped_at = NULL", "", id="never skipped"),
    ],
)
def test_a_day_that_was_skipped_at_first_in_show(database, commanded, sql, words):
    """The note is shown beside the figures, as a note about the past."""
    plant_main(database)
    change(
        database,
        "UPDATE checkpoints SET skip_reason = 'MISSING_CLOSE', skipped_at = taken_at FROM batches "
        "WHERE batches.id = batch_id AND series = 'main' AND run_date = '2026-01-05' AND day = 1",
        f"UPDATE checkpoints SET {sql} FROM batches "
        "WHERE batches.id = batch_id AND series = 'main' AND run_date = '2026-01-05' AND day = 1",
    )
    output = commanded("show", WON, DATABASE_URL=database, COLUMNS="200").output
    (row,) = [
        line
        for line in output.splitlines()
        if "2026-01-06" in line and "│" in line and line.split("│")[1].strip() == "1"
    ]
    assert row.split("│")[-2].strip() == words
