"""The pages, the feed and the pictures of a record of several series: each names the series."""

import csv
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from uuid import UUID

import msgspec
import pytest
from api_records import NOW, Record, engine_on
from held_checks import standing, write_check
from litestar import Litestar
from litestar.testing import AsyncTestClient
from series_records import (
    DICE,
    FIRST,
    MODEL,
    RETIRED_AT,
    SECOND,
    THIRD,
    add_batch,
    declare,
    write,
    write_nine_series,
    write_one_series,
    write_three_series,
)
from served_pages import find_all, find_one, pages_on, parse_page, visible_text

from api.engine import Engine
from api.schema import Facts
from app.domain.calendar import due_at
from app.web.charts.image import DOCUMENT, chart_image_route, chart_image_svg
from app.web.feeds.downloads import export_routes
from app.web.pages import series_text


@pytest.fixture
async def browser(pool):
    """A browser at the pages of a record."""
    async with pages_on(pool) as client:
        yield client


def write_shared_picks(record: Record) -> None:
    """Write two models and a control, whose newest Monday has a share of two series."""
    write_three_series(record)
    add_batch(record, "dice", THIRD, "NVDA BUY, AAPL SELL, MSFT BUY", is_complete=False)


async def text_of(browser, path: str, status: int = 200) -> str:
    answer = await browser.get(path)
    assert answer.status_code == status, answer.text
    return visible_text(find_one(parse_page(answer), "main"))


PATHS = [
    "/",
    "/record",
    "/batches",
    "/about",
    *(f"/series/{name}" for name in ("claude", "dice", "main")),
    *(f"/series/{name}/batches" for name in ("claude", "dice", "main")),
    *(f"/series/{name}/batches/{FIRST}" for name in ("claude", "dice", "main")),
    f"/batches/{SECOND}",
]


@pytest.mark.parametrize("writer", [write_three_series, write_nine_series])
@pytest.mark.sampled(1)
async def test_every_page_keeps_the_rules(writer, browser, database):
    """One main heading, no skipped level, unique ids, a caption for every table, only our links."""
    write(database, writer)
    for path in PATHS:
        answer = await browser.get(path)
        assert answer.status_code == 200, path
        tree = parse_page(answer)
        levels = [int(one.tag[1]) for one in tree.iter() if re.fullmatch("h[1-6]", str(one.tag))]
        assert levels[0] == levels.count(1) == 1, path
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), path
        ids = [one.get("id") for one in tree.iter() if one.get("id")]
        assert len(ids) == len(set(ids)), path
        for table in find_all(tree, "table"):
            assert visible_text(find_one(table, "caption"))
        for one in tree.iter():
            assert (one.get("href") or "/").startswith(("/", "#"))


async def test_every_link_leads_somewhere(browser, database):
    """All links from the first page exist, those to the API too."""
    write(database, write_nine_series)
    seen, waiting = set(), ["/"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = await browser.get(path)
        assert answer.status_code == 200, path
        if path.startswith("/graphql?"):
            assert "errors" not in answer.json(), path
        if "html" not in answer.headers["content-type"] or path.startswith("/graphql"):
            continue
        links = [one.get("href") or "" for one in parse_page(answer).iter("a")]
        targets = {link.split("#")[0] for link in links} - {""}
        waiting += [target for target in targets if target not in {*seen, *waiting}]
    assert {"/series/dice", "/series/model-0", f"/series/claude/batches/{FIRST}"} <= seen
    assert f"/batches/{THIRD}" in seen


async def test_this_week(browser, database):
    """The first page has the picks of each series, and says which share has several."""
    write(database, write_shared_picks)
    tree = parse_page(await browser.get("/"))
    sections = find_all(tree, "section", class_="series-week")
    assert [visible_text(find_one(one, "h2")) for one in sections] == ["Dice control", "Main"]
    shared = visible_text(find_one(tree, "section", aria_labelledby="shared"))
    assert "AAPL: Dice (SELL) and Main (BUY) They disagree." in shared
    assert "Also picked by Main (BUY)" in visible_text(sections[0])
    assert "Also picked by Dice (SELL)" in visible_text(sections[1])
    assert "Claude, with tools: retired" in visible_text(find_one(tree, "main"))


@pytest.mark.parametrize(
    ("is_stamped", "words"),
    [
        (True, ["Timestamp: stamped 09:04 New York, before the open (the proof of the timestamp"]),
        (False, []),
    ],
)
async def test_the_timestamps_of_this_week(is_stamped, words, browser, database):
    """The first page says for each series when its picks were stamped, as for one series."""

    def writer(record: Record) -> None:
        write_shared_picks(record)
        if is_stamped:
            record.stamp(due_at(THIRD) + timedelta(minutes=4), token=True)

    write(database, writer)
    tree = parse_page(await browser.get("/"))
    for section in find_all(tree, "section", class_="series-week"):
        text = visible_text(section)
        assert all(one in text for one in words)
        assert ("Timestamp" in text) == is_stamped


def write_failed(record: Record) -> None:
    """Write a Monday on which neither the control nor a model had a usable answer."""
    write_three_series(record)
    for name in ("dice", "claude"):
        failed_batch(record, name, THIRD)


def failed_batch(
    record: Record,
    series: str,
    run_date: date,
    reason: str = "NO_USABLE_ANSWER",
    failure: str = "3 questions brought no usable answer. The last: KO has no recent price.",
) -> UUID:
    batch = record.next(3)
    record.add(
        "batches",
        id=batch,
        series=series,
        run_date=run_date,
        created_at=due_at(run_date),
        status="failed",
        late=False,
        benchmark_symbol="SPY",
        failure_reason=reason,
        failure=failure,
    )
    return batch


async def test_a_control_without_picks(browser, database):
    """Its headline is about the draws, and that of a model about the model."""
    write(database, write_failed)
    of_model = "No picks: the model gave no usable answer."
    of_control = "No picks: none of the draws could be used."
    for path in ("/series/{}/batches", f"/series/{{}}/batches/{THIRD}"):
        assert of_control in await text_of(browser, path.format("dice"))
        assert of_model in await text_of(browser, path.format("claude"))
    sections = find_all(parse_page(await browser.get("/")), "section", class_="series-week")
    shown = {visible_text(find_one(one, "h2")): visible_text(one) for one in sections}
    assert of_control in shown["Dice control"]
    assert not any(of_model in text for name, text in shown.items() if name == "Dice control")


@pytest.mark.parametrize(
    "reason",
    ["MISSED", "NO_USABLE_ANSWER", "MISSING_CLOSE", "PROVIDER_ERROR", "CONFIGURATION"],
)
async def test_an_accepted_answer_without_picks(reason, browser, database):
    """An answer was accepted, and then no price could be read: it became no picks."""

    def fails(record: Record) -> None:
        write_three_series(record)
        for name in ("dice", "claude"):
            batch = failed_batch(record, name, THIRD, reason)
            outcome = {"accepted": True, "answer": "{}", "answered_at": due_at(THIRD)}
            record.question(name, THIRD, 1, batch, **outcome)

    write(database, fails)
    for name, words in (
        ("dice", "These draws were accepted, but this Monday has no picks."),
        ("claude", "This answer was accepted, but this Monday has no picks."),
    ):
        for path in ("/", f"/series/{name}/batches", f"/series/{name}/batches/{THIRD}"):
            assert "became the picks" not in await text_of(browser, path)
        assert words in await text_of(browser, f"/series/{name}/batches/{THIRD}")


async def test_an_accepted_answer_with_picks(browser, database):
    def draws(record: Record) -> None:
        write_three_series(record)
        batch = add_batch(record, "dice", THIRD, "KO BUY, XOM SELL, AAPL BUY", is_complete=False)
        outcome = {"accepted": True, "answer": "{}", "answered_at": due_at(THIRD)}
        record.question("dice", THIRD, 1, batch, **outcome)

    write(database, draws)
    of_dice = await text_of(browser, f"/series/dice/batches/{THIRD}")
    assert "These draws became the picks." in of_dice
    assert "This answer became the picks." in await text_of(browser, f"/batches/{FIRST}")


@pytest.mark.parametrize(
    ("failure", "html"),
    [
        pytest.param("`temperature` is old.", "<code>temperature</code> is old.", id="a name"),
        pytest.param("Use `a` or `b`", "Use <code>a</code> or <code>b</code>", id="two names"),
        pytest.param("`<b>` & <i>", "<code>&lt;b&gt;</code> &amp; &lt;i&gt;", id="markup"),
        pytest.param("A ` alone", "A ` alone", id="one backtick"),
        pytest.param("Nothing in ``", "Nothing in ``", id="nothing between"),
        pytest.param("Over `two\nlines`", "Over `two\nlines`", id="two lines"),
    ],
)
async def test_a_failure_with_backticks(failure, html, browser, database):
    """What a provider wrote in backticks is shown as code, and never as markup of ours."""

    def fails(record: Record) -> None:
        write_three_series(record)
        batch = failed_batch(record, "claude", THIRD, "CONFIGURATION", failure)
        outcome = {"accepted": False, "refusal": failure, "answered_at": due_at(THIRD)}
        record.question("claude", THIRD, 1, batch, answer="{}", **outcome)

    write(database, fails)
    for path, count in (("/", 1), (f"/series/claude/batches/{THIRD}", 2)):
        assert (await browser.get(path)).text.count(html) == count, path


async def test_the_leaderboard(browser, database):
    """Every series has a row, sorted by the name that readers see, and the page says why."""
    write(database, write_nine_series)
    tree = parse_page(await browser.get("/record"))
    main = visible_text(find_one(tree, "main"))
    assert "Sorted by name. No yearly check has found a series" in main
    rows = find_all(find_one(tree, "tbody"), "tr")
    names = [find_one(row, "a").get("href") for row in rows]
    numbered = [f"/series/model-{number}" for number in range(6)]
    assert names == ["/series/claude", "/series/dice", "/series/main", *numbered]
    assert rows[0].get("class") == "retired"
    assert "with tools" in visible_text(rows[0])
    assert "Shown, not tested: its model has tools or a search." in visible_text(rows[0])
    assert "control" in visible_text(rows[1])
    assert "Shown, not tested" in visible_text(rows[1])
    assert "36 comparisons" in main


@pytest.mark.parametrize("writer", [write_three_series, write_nine_series])
async def test_the_leaderboard_on_a_phone(writer, browser, database):
    """Each row is a block there: cells repeat their headings, and roles keep it a table."""
    write(database, writer)
    table = find_one(parse_page(await browser.get("/record")), "table", class_="leaderboard")
    assert table.get("role") == "table"
    assert [one.get("role") for one in table if one.tag != "caption"] == ["rowgroup", "rowgroup"]
    assert {one.get("role") for one in table.iter("tr")} == {"row"}
    headings = [visible_text(one) for one in table.iter("th") if one.get("role") == "columnheader"]
    assert len(headings) == 8
    for row in find_all(find_one(table, "tbody"), "tr"):
        name, *cells = row
        assert name.get("role") == "rowheader"
        assert {one.get("role") for one in cells} == {"cell"}
        assert [one.get("data-label") for one in cells] == headings[1:]


async def test_the_leaderboard_after_a_check(browser, database):
    """A series that was found comes first, with its date. An untested one has the reason."""

    def joins(record: Record) -> None:
        declare(record, "late", MODEL, at=RETIRED_AT, holds_from=THIRD)
        add_batch(record, "late", THIRD, "KO BUY, XOM SELL, AAPL BUY", MODEL, is_complete=False)

    def checks(record: Record) -> None:
        claude = standing("claude", has_tools=True)
        dice = standing("dice", is_control=True)
        write_check(record, 1, claude, dice, standing("main", 1.0))
        late = standing("late", weeks=12)
        write_check(record, 2, claude, dice, late, standing("main", failed_mondays=5))

    write(database, write_three_series, joins, checks)
    tree = parse_page(await browser.get("/record"))
    main = visible_text(find_one(tree, "main"))
    assert "The series for which a yearly check has found better results" in main
    assert "The next check is that of Monday 1 January 2029." in main
    rows = find_all(find_one(tree, "tbody"), "tr")
    names = [find_one(row, "a").get("href") for row in rows]
    assert names == [f"/series/{name}" for name in ("main", "claude", "dice", "late")]
    found, claude, dice, late = (visible_text(row[-1]) for row in rows)
    assert found == (
        "Better than luck explains.Found by the check of Mon 4 Jan 2027.Shown, not tested on "
        "Mon 3 Jan 2028: more than four failed or late Mondays since the check before."
    )
    assert claude == "Shown, not tested on Mon 3 Jan 2028: its model has tools or a search."
    assert dice == "Shown, not tested on Mon 3 Jan 2028: a control."
    assert late == "Shown, not tested on Mon 3 Jan 2028: fewer than 30 weeks without a gap."
    for name, words in (("dice", "Shown, not tested."), ("late", "Too early to tell.")):
        page = parse_page(await browser.get(f"/series/{name}"))
        assert visible_text(find_one(page, "h1")) == words
        assert "The next check is that of Monday 1 January 2029" in visible_text(
            find_one(page, "main")
        )


async def test_the_page_of_a_series(browser, database):
    """It marks the Monday of another model, and compares the model with the control."""
    write(database, write_three_series)
    main = await text_of(browser, "/series/main")
    assert "Another model. model: gpt-test-2 instead of gpt-test" in main
    assert "version of the prompt: 2 instead of 1" in main
    assert "Compared with Dice, the control" in main
    assert "The record has 3 pairs of series." in main
    claude = await text_of(browser, "/series/claude")
    assert "This model has tools or a search." in claude
    assert "retired: it makes no more picks" in claude
    dice = await text_of(browser, "/series/dice")
    assert "The section The draws of a control of docs/record.md" in dice
    assert "Compared with Dice" not in dice


async def test_a_series_that_no_check_tests(browser, database):
    """Its page, and the message of an open page, say so before the first check, as `/record`."""
    write(database, write_three_series)
    for name, words in (
        ("dice", "A control, whose picks are drawn at random: its results are shown"),
        ("claude", "The model has tools, so it may know prices of Monday: its results are shown"),
    ):
        page = parse_page(await browser.get(f"/series/{name}"))
        assert visible_text(find_one(page, "h1")) == "Shown, not tested."
        main = find_one(page, "main")
        assert words in visible_text(main)
        assert words in main.get("data-news")
        assert "Monday 4 January 2027; it does not test this series." in visible_text(main)
        assert "Too early" not in visible_text(page)
        assert "first yearly check" not in visible_text(page)
    page = parse_page(await browser.get("/series/main"))
    assert visible_text(find_one(page, "h1")) == "Too early to tell."
    assert "it does not test this series" not in visible_text(page)
    news = find_one(parse_page(await browser.get("/record")), "main").get("data-news")
    assert "Dice: Shown, not tested." in news
    assert "Main: Too early to tell." in news


async def test_the_record_of_a_control_alone(browser, database):
    """With one series, `/record` and the first page show its words, too."""

    def only_dice(record: Record) -> None:
        declare(record, "dice", DICE)
        add_batch(record, "dice", FIRST, "XOM BUY, AAPL SELL, KO BUY", DICE)

    write(database, only_dice)
    page = parse_page(await browser.get("/record"))
    assert visible_text(find_one(page, "h1")) == "Shown, not tested."
    assert "A control, whose picks are drawn at random" in await text_of(browser, "/")


async def test_a_series_that_joined_late(browser, database):
    """Its page says when it joined, and which check is its first one."""

    def joins(record: Record) -> None:
        write_three_series(record)
        declare(record, "late", MODEL, at=RETIRED_AT, holds_from=THIRD)
        add_batch(record, "late", THIRD, "KO BUY, XOM SELL, AAPL BUY", MODEL, is_complete=False)

    write(database, joins)
    main = await text_of(browser, "/series/late")
    assert "It joined on Monday 19 January 2026, 2 weeks after the record’s first Monday." in main
    assert "a check needs 30 weeks. So the first check that can test it is check 1," in main
    assert "on Monday 4 January 2027, whose share of the risk is 2.50 %." in main
    assert "It joined on" not in await text_of(browser, "/series/main")


@pytest.mark.parametrize(
    ("weeks_late", "words"),
    [
        (22, "is check 1, on Monday 4 January 2027, whose share of the risk is 2.50 %."),
        (23, "is check 2, on Monday 3 January 2028, whose share of the risk is 0.83 %."),
        (75, "is check 3, on Monday 1 January 2029, whose share of the risk is 0.42 %."),
    ],
)
def test_the_first_check_of_a_late_series(weeks_late, words):
    """It is the first one up to which the series can have thirty weeks."""
    joined = {"firstRunDate": str(FIRST + timedelta(weeks=weeks_late))}
    assert words in series_text.late_start(joined, [{"firstRunDate": str(FIRST)}, joined])


async def test_batches(browser, database):
    """A page names the series, and its links to other Mondays stay within the series."""
    write(database, write_three_series)
    tree = parse_page(await browser.get(f"/series/dice/batches/{FIRST}"))
    main = visible_text(find_one(tree, "main"))
    assert "Dice, batch of Monday 5 January 2026" in main
    assert "a random draw" in main
    assert "The section The draws of a control of docs/record.md" in main
    assert find_one(tree, "a", rel="next").get("href") == f"/series/dice/batches/{SECOND}"
    old = parse_page(await browser.get(f"/batches/{FIRST}"))
    assert find_one(old, "a", rel="next").get("href") == f"/batches/{SECOND}"
    same = await text_of(browser, f"/series/main/batches/{FIRST}")
    assert same == visible_text(find_one(old, "main"))
    assert "version 2" in await text_of(browser, f"/batches/{SECOND}")


@pytest.mark.parametrize(
    "path", ["/series/nobody", "/series/Main", f"/series/nobody/batches/{FIRST}", "/series/"]
)
async def test_what_is_not_there(path, browser, database):
    write(database, write_three_series)
    await text_of(browser, path, 404)


async def test_a_record_without_the_default_series(browser, database):
    """The addresses without a name show the only series."""

    def only_claude(record: Record) -> None:
        declare(record, "claude", MODEL)
        add_batch(record, "claude", FIRST, "KO BUY, XOM SELL, AAPL BUY", MODEL, is_complete=False)

    write(database, only_claude)
    front = parse_page(await browser.get("/"))
    links = [one.get("href") for one in find_all(find_one(front, "main"), "a")]
    assert f"/series/claude/batches/{FIRST}" in links
    for path in ("/record", "/batches", f"/batches/{FIRST}", "/feed.atom"):
        assert (await browser.get(path)).status_code == 200, path


async def test_one_series_is_not_named(browser, database):
    """With one series, pages read as if there could be no other."""
    write(database, write_one_series)
    for path in ("/", "/record", "/batches", f"/batches/{FIRST}", "/about"):
        assert "series" not in (await text_of(browser, path)).lower(), path


async def test_the_feed(browser, database):
    """The feed has the entries of all series; their titles name the series."""
    write(database, write_three_series)
    feed = (await browser.get("/feed.atom")).text
    assert "<title>Dice: BUY XOM, SELL AAPL and BUY KO on Monday 5 January 2026</title>" in feed
    assert "<title>Main: The picks of Monday 5 January 2026: " in feed
    assert f'href="/series/dice/batches/{FIRST}"' in feed
    assert f'href="/batches/{FIRST}"' in feed
    ids = re.findall("<id>(.*?)</id>", feed)
    assert len(ids) == len(set(ids))


async def test_the_feed_of_one_series(browser, database):
    write(database, write_one_series)
    feed = (await browser.get("/feed.atom")).text
    assert "<title>BUY AAPL, SELL KO and BUY BRK.B on Monday 5 January 2026</title>" in feed
    assert "Three stocks that a language model picks every Monday" in feed


async def test_pictures(pool, database):
    """Each series has its own pictures; another name has none."""
    write(database, write_three_series)
    app = Litestar([chart_image_route(engine_on(pool), rehearsed=False)], openapi_config=None)
    async with AsyncTestClient(app) as client:
        main = await client.get(f"/batches/{FIRST}/chart.png")
        dice = await client.get(f"/series/dice/batches/{FIRST}/chart.png")
        assert (await client.get(f"/series/nobody/batches/{FIRST}/chart.png")).status_code == 404
    assert main.headers["content-type"] == dice.headers["content-type"] == "image/png"
    assert main.content != dice.content
    assert "series { name }" in DOCUMENT


async def test_a_picture_names_the_series(pool, database):
    write(database, write_three_series)
    result = await engine_on(pool).execute(DOCUMENT, {"runDate": str(FIRST), "series": "dice"})
    batch = msgspec.json.decode(result.body)["data"]["batchOn"]
    named = chart_image_svg({**batch, "series": "dice"}, rehearsed=False)
    assert "Alpha Monday: dice" in named
    assert "Alpha Monday:" not in chart_image_svg(batch, rehearsed=False)


def test_an_order_by_findings():
    """A finding of a check changes the order of the leaderboard, and results do not."""

    def row(name: str, finding: str | None) -> dict[str, object]:
        return {"name": name, "label": name, "trackRecord": {"verdict": {"finding": finding}}}

    rows = [row("a", "WORSE"), row("b", None), row("c", "UNDECIDED"), row("d", "BETTER")]
    assert [one["name"] for one in series_text.leaderboard(rows)] == ["d", "b", "c", "a"]
    assert series_text.any_finding(rows)


def test_an_order_by_labels():
    """Without a finding, the leaderboard has the order of the labels, small letters or not."""
    nothing = {"verdict": {"finding": None}}
    rows = [
        {"name": name, "label": label, "trackRecord": nothing}
        for name, label in {"dice": "Dice", "main": "gpt", "second": "Claude"}.items()
    ]
    ordered = [one["label"] for one in series_text.leaderboard(rows)]
    assert ordered == ["Claude", "Dice", "gpt"]
    assert not series_text.any_finding(rows[1:3])


async def test_every_page_has_the_order_of_labels(browser, database):
    """Neither the order of the technical names, nor capitals before small letters."""

    def labels(record: Record) -> None:
        for name, label in {"a": "gpt", "b": "Dice", "c": "claude", "d": "Éva", "e": "Zoe"}.items():
            declare(record, name, MODEL, label=label)
            add_batch(record, name, FIRST, "KO BUY, XOM SELL, AAPL BUY", MODEL)
        for name, label in {"f": "old", "g": "Ancient"}.items():
            declare(record, name, MODEL, label=label)

    write(database, labels)
    ordered = ["claude", "Dice", "gpt", "Zoe", "Éva"]
    everyone = ["Ancient", "claude", "Dice", "gpt", "old", "Zoe", "Éva"]
    front = parse_page(await browser.get("/"))
    shown = [visible_text(one) for one in find_all(front, "h2") if one.get("id") != "shared"]
    assert shown == [*ordered, "Without picks this week"]
    absent = find_one(front, "section", aria_labelledby="absent")
    assert [visible_text(one) for one in find_all(absent, "a")] == ["Ancient", "old"]
    shared = visible_text(find_one(front, "section", aria_labelledby="shared"))
    assert "KO: claude (BUY), Dice (BUY), gpt (BUY), Zoe (BUY) and Éva (BUY)" in shared
    news = find_one(front, "main").get("data-news").splitlines()
    assert [line.partition(":")[0] for line in news] == ordered
    for path in ("/series/a", "/batches", "/series/e/batches"):
        tree = parse_page(await browser.get(path))
        nav = find_one(tree, "nav", class_="series-nav")
        assert [visible_text(one) for one in find_all(nav, "a")] == everyone, path
    rows = find_all(find_one(parse_page(await browser.get("/record")), "tbody"), "tr")
    assert [visible_text(find_one(row, "a")) for row in rows] == everyone
    about = await text_of(browser, "/about")
    assert ", ".join(everyone) in about


def test_the_order_changes_no_choice():
    """The series of short addresses, and the control to compare with, follow from the names."""
    rows = [
        {"name": name, "label": label, "kind": kind}
        for name, label, kind in (
            ("b", "Zoe", "MODEL"),
            ("c", "Yes or no", "RANDOM"),
            ("d", "Dice", "RANDOM"),
        )
    ]
    known = series_text.KnownSeries(rows)
    assert [one["name"] for one in known.by_label] == ["d", "c", "b"]
    assert known.default == "b"
    assert known.counterpart("b") == rows[1]


async def test_an_export_of_a_new_series(pool, database):
    """A series that was registered while the process runs can be exported; others are refused."""

    @asynccontextmanager
    async def snapshot() -> AsyncIterator[Engine]:
        yield engine

    facts = Facts(version="1.2.3", rehearsed=False, now=lambda: NOW)
    engine = engine_on(pool, facts)
    write(database, write_three_series)
    app = Litestar(export_routes(snapshot, series=facts.series), openapi_config=None)
    async with AsyncTestClient(app) as client:
        answer = await client.get("/export.csv", params={"series": "dice", "to": str(FIRST)})
        refused = await client.get("/export.csv", params={"series": "nobody"})
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert {(row["series"], row["run_date"]) for row in rows} == {("dice", str(FIRST))}
    assert "alpha-monday-dice-" in answer.headers["content-disposition"]
    assert refused.status_code == 400
    assert "The series: claude, dice, main." in refused.text
