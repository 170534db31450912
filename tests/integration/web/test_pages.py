"""
The pages: the texts for every kind of Monday, the API's figures in them, and protection from
injection.
"""

import itertools
import re
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import psycopg
import pytest
from api_records import FAILED, RUNNING, UNRESOLVED, WON, Record, plant_main
from served_pages import NOTICE, find_all, find_one, pages_on, parse_page, visible_text

from app.domain.calendar import due_at
from app.domain.model import Batch, BatchStatus, FailureReason
from app.web import formatting
from app.web.charts.layout import LIGHT_COLOURS
from app.web.pages import batch_text
from app.web.pages.score_text import COSTS_FRAGMENT, RECORD_FIELDS
from app.web.pages.site import CONTENT_SECURITY_POLICY, FOLDER

HOUSE = Path(__file__).parents[3]
MINUS = "\N{MINUS SIGN}"
MISSED = RUNNING + timedelta(weeks=1)


@pytest.fixture
async def browser(pool):
    """A browser at the pages of an empty record."""
    async with pages_on(pool) as client:
        yield client


@pytest.fixture
def record(database):
    """A record that a test writes; each write is committed at once."""
    with psycopg.connect(database, autocommit=True) as conn:
        yield Record(conn)


def change(database: str, statement: str, *values: object) -> None:
    """Change a row with all triggers disabled."""
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        assert conn.execute(statement.encode(), values).rowcount > 0


def missed(record: Record) -> None:
    batch = Batch(
        id=record.next(3),
        series="main",
        run_date=MISSED,
        created_at=due_at(MISSED, 3),
        status=BatchStatus.FAILED,
        late=True,
        failure_reason=FailureReason.MISSED,
        failure="The service was down.",
        benchmark_symbol="SPY",
    )
    record.add("batches", **{name: getattr(batch, name) for name in batch.__struct_fields__})


async def page(browser, path: str, status: int = 200):
    answer = await browser.get(path)
    assert answer.status_code == status, answer.text
    return parse_page(answer)


def heading(tree) -> str:
    return visible_text(find_one(tree, "h1"))


def states(tree) -> list[str]:
    """Return the states of the days in the strip."""
    return [item.get("class") for item in find_one(tree, "ol", class_="strip")]


async def test_an_empty_record(browser):
    """Every page says that there is nothing yet, and when the first picks come."""
    front, history = await page(browser, "/"), await page(browser, "/batches")
    assert heading(front) == "The record is empty."
    assert "made on a Monday at nine in New York" in visible_text(find_one(front, "main"))
    assert "There are none yet." in visible_text(find_one(history, "main"))
    await page(browser, "/about")
    await page(browser, "/batches/2026-01-05", 404)


async def test_pages_of_an_empty_record_follow_the_journal(browser):
    """Pages of an empty record follow the journal from entry 0; error pages do not follow it."""
    for path in ("/", "/batches", "/record", "/about"):
        assert find_one(await page(browser, path), "main").get("data-seq") == "0"
    assert find_one(await page(browser, "/batches/2026-01-05", 404), "main").get("data-seq") is None


async def test_every_page_has_the_head_of_the_journal(browser, database):
    """At its end, each page has the number and the hash, and a link to how to check them."""
    plant_main(database)
    query = "{ service { journalHead { seq hash } } }"
    answer = await browser.get("/graphql", params={"query": query})
    head = answer.json()["data"]["service"]["journalHead"]
    for path in ("/", "/batches", "/record", "/about", f"/batches/{WON}"):
        foot = find_one(await page(browser, path), "aside", class_="journal-head")
        assert visible_text(find_one(foot, "b")) == head["seq"]
        assert visible_text(find_one(foot, "code")) == head["hash"]
        assert find_one(foot, "a").get("href") == "/about#verify"


async def test_how_to_check_the_record(browser):
    """The page promises no more than docs/trust.md, and says what a timestamp is."""
    about = await page(browser, "/about")
    text = " ".join(visible_text(find_one(about, "main")).split())
    for words in ("a time-stamping authority signs", "(RFC 3161)", "OpenTimestamps", "openssl ts"):
        assert words in text
    assert "The owner of the database could write all of it again" in text
    assert "no way to hide" not in visible_text(about)


async def test_the_first_monday(browser, record):
    """With only day 0 there are picks, prices and the next date, and no invented figures."""
    record.batch("main", WON, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
    for path in ("/", "/batches/2026-01-05"):
        tree = await page(browser, path)
        assert heading(tree) == "3 picks, and no morning has figures yet."
        assert states(tree) == [
            "baseline",
            "next",
            *["coming"] * 4,
            *["closed"] * 2,
            *["coming"] * 5,
            "closed",
            "closed",
        ]
        main = visible_text(find_one(tree, "main"))
        assert "No morning has figures yet." in main
        assert "Tue 6 Jan 2026, 09:00 in New York" in main
        assert "Starts at" in main
        assert not find_all(tree, "p", class_="alpha")
    assert "no figures yet" in visible_text(find_one(await page(browser, "/batches"), "main"))


async def test_in_the_middle_of_a_fortnight(browser, database):
    """
    The newest Monday shows the count of right calls, each call, the days without figures, and
    what is next.
    """
    plant_main(database)
    tree = await page(browser, "/")
    data = await query_data(
        browser, "{ latestBatch { picks { ticker action latestMetric { alphaPct hit } } } }"
    )
    picks = data["latestBatch"]["picks"]
    hits = sum(pick["latestMetric"]["hit"] for pick in picks)
    assert heading(tree).startswith(f"{hits or 'None'} of 3 calls")
    # Days 1, 2, 3 and 5 were written, so day 4 is what comes first.
    assert states(tree) == [
        "baseline", "computed", "computed", "computed", "next", "computed", "closed", "closed",
        "coming", "coming", "coming", "coming", "coming", "closed", "closed",
    ]  # fmt: skip
    for pick, item in zip(picks, find_all(tree, "li", class_="pick"), strict=True):
        assert visible_text(find_one(item, "h3")) == f"{pick['action']} {pick['ticker']}"
        right = "right so far" if pick["latestMetric"]["hit"] else "wrong so far"
        assert f"points: {right}" in visible_text(item)
    assert "Next figuresdue Fri 30 Jan 2026, 09:00 in New York" in visible_text(
        find_one(tree, "dl")
    )


async def test_a_completed_fortnight(browser, database):
    """
    It has a result and a reason for every skipped day: a missing price differs from a closed
    exchange.
    """
    plant_main(database)
    tree = await page(browser, "/batches/2026-01-05")
    assert re.fullmatch(r"(None|\d) of 3 calls (was|were) right\.", heading(tree))
    assert states(tree) == [
        "baseline", "computed", "computed", "computed", "missing", "computed", "closed", "closed",
        "computed", "computed", "computed", "computed", "computed result", "closed", "closed",
    ]  # fmt: skip
    gaps = [visible_text(item) for item in find_one(tree, "ul", class_="gaps")]
    assert gaps == [
        "Days 6, 7, 13 and 14: the exchange was closed the day before.",
        'Day 4 was skipped: No close of "KO".',
    ]


async def test_an_unresolved_fortnight(browser, database):
    """Without the last session's figures no earlier day is used; a call is right on a day."""
    plant_main(database)
    tree = await page(browser, f"/batches/{UNRESOLVED}")
    assert heading(tree) == "This fortnight stays unresolved."
    assert "no earlier day is used in their place" in visible_text(find_one(tree, "dl"))
    assert "result" not in " ".join(states(tree))
    assert all(
        visible_text(item).endswith("on day 11") for item in find_all(tree, "p", class_="alpha")
    )


async def test_dates_of_the_records_sentences(browser, database):
    """Dates are written in full, except in quotes of a provider, which stay unchanged."""
    plant_main(database)
    change(
        database,
        "UPDATE checkpoints SET note = '2026-01-10 was no session.' WHERE skip_reason = "
        "'MARKET_CLOSED'",
    )
    change(
        database,
        "UPDATE checkpoints SET note = 'KO: no close of 2026-01-08 yet.' WHERE skip_reason = "
        "'MISSING_CLOSE'",
    )
    change(
        database,
        "UPDATE batches SET failure = 'It said \"no 2026-01-09\".' WHERE failure IS NOT NULL",
    )
    tree = await page(browser, "/batches/2026-01-05")
    notes = {visible_text(cell) for cell in find_all(tree, "td", class_="gap")}
    assert notes == {
        "Saturday 10 January 2026 was no session.",
        "KO: no close of Thursday 8 January 2026 yet.",
    }
    gaps = [visible_text(item) for item in find_one(tree, "ul", class_="gaps")]
    assert gaps[1] == "Day 4 was skipped: KO: no close of Thursday 8 January 2026 yet."
    assert 'It said "no 2026-01-09".' in visible_text(
        find_one(await page(browser, f"/batches/{FAILED}"), "main")
    )


async def test_a_failed_monday(browser, database):
    """
    The headline and the record's sentence explain why there are no picks; the questions are
    still shown.
    """
    plant_main(database)
    tree = await page(browser, f"/batches/{FAILED}")
    assert heading(tree) == "No picks: a provider did not return the requested data."
    main = visible_text(find_one(tree, "main"))
    assert 'The model said "429".' in main
    assert "No answer yet." in main


async def test_a_missed_monday(browser, record):
    """The first page shows it, too, with the time of the next picks: the next Monday at nine."""
    missed(record)
    tree = await page(browser, "/")
    assert heading(tree) == "This Monday was missed."
    main = visible_text(find_one(tree, "main"))
    assert "The service was down." in main
    assert "The next picks are due on Mon 9 Feb 2026, 09:00 in New York." in main


async def test_a_late_batch(browser, record, database):
    """The pages say that the batch is late, and what this means."""
    record.batch("main", WON, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
    change(database, "UPDATE batches SET late = true")
    assert "stored after the market had opened" in visible_text(
        find_one(await page(browser, "/"), "dl")
    )
    assert "Late." in visible_text(find_one(await page(browser, "/batches"), "main"))


async def test_a_pick_that_stopped_trading(browser, record, database):
    """
    An ended pick, a new ticker with the old one, and an unusual move are marked beside their
    figures.
    """
    batch, picks = record.batch("main", WON, BatchStatus.ACTIVE, "NVDA SELL, XOM BUY, AAPL SELL")
    ending = {"ended": True, "close_id": None}
    record.checkpoint(
        batch,
        picks,
        1,
        change=lambda _, pick: {"unusual_move": True, **(ending if pick.ticker == "XOM" else {})},
    )
    change(database, "UPDATE picks SET ticker = 'NV.X' WHERE ticker = 'NVDA'")
    change(
        database,
        "INSERT INTO closes SELECT gen_random_uuid(), 'NV.X', trading_day, open, close, source, "
        "read_at FROM closes"
        " WHERE ticker = 'NVDA' AND trading_day = '2026-01-05'; UPDATE pick_checkpoint_metrics "
        "SET close_id ="
        " (SELECT id FROM closes WHERE ticker = 'NV.X') WHERE close_id ="
        " (SELECT id FROM closes WHERE ticker = 'NVDA' AND trading_day = '2026-01-05')",
    )
    for path in ("/", "/batches/2026-01-05"):
        tree = await page(browser, path)
        items = [visible_text(item) for item in find_all(tree, "li", class_="pick")]
        assert ["stopped trading" in item for item in items] == [False, True, False]
        assert all("unusual move" in item for item in items)
        assert items[0].startswith("SELL NV.X (picked as NVDA)")
        assert ["picked as" in item for item in items] == [True, False, False]
        cells = [visible_text(cell) for cell in find_all(tree, "td") if "!" in visible_text(cell)]
        assert ["renamed" in cell for cell in cells] == [True, False, False]
        assert "! The figure contains a move of a tenth or more in one session" in visible_text(
            find_one(tree, "main")
        )


async def test_an_unusual_move_of_the_benchmark(browser, record, database):
    """
    It is marked beside the benchmark's change, also if no pick is marked; a day that was not
    examined is not.
    """
    batch, picks = record.batch("main", WON, BatchStatus.ACTIVE, "NVDA SELL, XOM BUY, AAPL SELL")
    for day in (1, 2):
        record.checkpoint(batch, picks, day)
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE checkpoints SET benchmark_unusual_move = true WHERE day = 2")
    for path in ("/", "/batches/2026-01-05"):
        tree = find_one(await page(browser, path), "main")
        assert "! The figure contains a move of a tenth or more in one session" in visible_text(
            tree
        )
        mornings = [row for row in find_all(tree, "tr") if find_all(row, "td", class_="on")][
            1:
        ]  # the first is day 0
        assert [
            visible_text(find_all(row, "td", class_="n")[0]).endswith("!") for row in mornings
        ] == [
            False,
            True,
        ]


async def test_a_corrected_figure(browser, database):
    """The page shows the old value, the new value, the time and the reason."""
    plant_main(database)
    tree = await page(browser, "/batches/2026-01-05")
    table = find_one(tree, "table", class_="corrections")
    assert [[visible_text(cell) for cell in row] for row in find_one(table, "tbody")] == [
        ["3", "note", "nothing", "690", "It's what the source says now.", "2026-01-14 14:00:00"],
        [
            "3",
            "benchmark price",
            "690.1",
            "690",
            "It's what the source says now.",
            "2026-01-14 14:00:00",
        ],
    ]
    (day,) = [
        item
        for item in find_one(tree, "ol", class_="strip")
        if visible_text(find_one(item, "span", class_="no")) == "3"
    ]
    assert "corrected" in visible_text(day)


@pytest.mark.parametrize(
    ("field", "before", "after", "figure", "shown"),
    [
        pytest.param(
            "vs_benchmark_pct",
            "-74.9512345678901234567890123",
            "1.2345678901234567890123456789",
            "KO change less the benchmark's, whatever the call, %",
            ["-74.9512", "1.2346"],
            id="against the benchmark",
        ),
        pytest.param(
            "absolute_return_pct",
            "0.00000000000000000000000001",
            "-3",
            "KO change, whatever the call, %",
            ["0.0000", "-3"],
            id="next to nothing",
        ),
        pytest.param(
            "return_from_open_pct",
            "1.00001",
            "1.00002",
            "KO change from the open, whatever the call, %",
            ["1.00001", "1.00002"],
            id="alike to four decimals",
        ),
        pytest.param(
            "current_price", "272.1025", None, "KO price", ["272.1025", "nothing"], id="a price"
        ),
        pytest.param(
            "split_factor", "1", "0.3333333333", "KO split factor", ["1", "0.3333"], id="a factor"
        ),
        pytest.param(
            "unusual_move", "false", "true", "KO unusual move", ["false", "true"], id="a mark"
        ),
        pytest.param(
            "note", "KO: 1.23456 %", None, "KO note", ["KO: 1.23456 %", "nothing"], id="words"
        ),
    ],
)
@pytest.mark.sampled(3)
async def test_a_correction_can_be_read(browser, database, field, before, after, figure, shown):
    """
    The figure has a name; values have at most four decimals if these differ, with the full
    value at hand.
    """
    plant_main(database)
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(
            "UPDATE corrections SET field = %s, ticker = 'KO', before = %s, after = %s",
            (field, before, after),
        )
    table = find_one(await page(browser, "/batches/2026-01-05"), "table", class_="corrections")
    for row in find_one(table, "tbody"):
        assert [visible_text(cell) for cell in row][1:4] == [figure, *shown]
        for cell, whole, words in zip(list(row)[2:4], (before, after), shown, strict=True):
            titles = [element.get("title") for element in cell.iter("data")]
            assert titles == ([] if whole in (None, words) else [whole])


@pytest.mark.parametrize("reason", list(FailureReason))
async def test_why_a_monday_failed(browser, database, reason):
    """The headline is true of every cause of its kind, such as an account without credit."""
    plant_main(database)
    change(database, f"UPDATE batches SET failure_reason = '{reason}' WHERE failure IS NOT NULL")
    headings = {
        "MISSED": "This Monday was missed.",
        "NO_USABLE_ANSWER": "No picks: the model gave no usable answer.",
        "MISSING_CLOSE": "No picks: a price was missing.",
        "PROVIDER_ERROR": "No picks: a provider did not return the requested data.",
        "CONFIGURATION": "No picks: a key, an account or a setting was wrong.",
    }
    assert heading(await page(browser, f"/batches/{FAILED}")) == headings[reason]
    assert headings[reason] in visible_text(find_one(await page(browser, "/batches"), "main"))


async def test_a_day_that_was_computed_later(browser, record):
    """It counts as measured, and the page says that it was skipped at first."""
    batch, picks = record.batch("main", WON, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
    record.checkpoint(batch, picks, 1, late=True)
    tree = await page(browser, "/")
    assert states(tree)[1] == "computed"
    assert [visible_text(item) for item in find_one(tree, "ul", class_="gaps")] == [
        'Day 1: closes of Mon 5 Jan, skipped at first. No close of "KO".'
    ]


async def test_evidence(browser, database):
    """
    The page has the unchanged questions and answers, each price with its source and time, and
    each journal entry.
    """
    plant_main(database)
    tree = await page(browser, "/batches/2026-01-05")
    data = (
        await query_data(
            browser,
            """{ batchOn(runDate: "2026-01-05") {
        generations { systemPrompt userPrompt answer } journal { seq hash }
        picks { initialClose { ticker tradingDay close readAt } }
        checkpoints { metrics { close { ticker tradingDay close readAt } } } } }""",
        )
    )["batchOn"]
    shown = ["".join(pre.itertext()) for pre in find_all(tree, "pre")]
    assert shown == [message_text for one in data["generations"] for message_text in one.values()]
    hashes = {visible_text(code) for code in find_all(tree, "code")}
    assert {entry["hash"] for entry in data["journal"]} <= hashes
    rows = [
        [visible_text(cell) for cell in row]
        for row in find_one(find_one(tree, "table", class_="readings"), "tbody")
    ]
    closes = [pick["initialClose"] for pick in data["picks"]]
    closes += [
        metric["close"] for checkpoint in data["checkpoints"] for metric in checkpoint["metrics"]
    ]
    for close in closes:
        read = close["readAt"].replace("T", " ")[:19]
        assert [
            formatting.short_date(close["tradingDay"]),
            close["ticker"],
            formatting.price(close["close"]),
            "test",
            read,
        ] in rows


async def query_data(browser, query: str):
    return (await browser.post("/graphql", json={"query": query})).json()["data"]


PAGES = (
    "/",
    "/batches",
    "/batches/2026-01-05",
    f"/batches/{UNRESOLVED}",
    f"/batches/{FAILED}",
    f"/batches/{RUNNING}",
    "/record",
)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.sampled(3)
async def test_figures_are_the_apis(path, browser, database):
    """
    Every figure has its full value from the API, and is shown with two decimals, half to even.
    """
    plant_main(database)
    tree = await page(browser, path)
    name, variables = {
        "/": ("Front", {}),
        "/batches": ("History", {}),
        "/record": ("Record", {}),
    }.get(path, ("Monday", {"runDate": path[-10:]}))
    document = (HOUSE / "graphql" / "operations" / "pages" / f"{name}.graphql").read_text()
    if name == "Monday":
        variables |= {"before": "2025-12-29", "after": "2026-01-12"}
    answer = await browser.post("/graphql", json={"query": document, "variables": variables})
    texts = answer.text
    if name == "Record":
        scores = f"{{ trackRecord {{ {RECORD_FIELDS} }} }} {COSTS_FRAGMENT}"
        texts += (await browser.post("/graphql", json={"query": scores})).text
    known = set(re.findall(r'"(-?[0-9]+(?:\.[0-9]+)?)"', texts))
    figures = find_all(tree, "data")
    assert figures or path == f"/batches/{FAILED}"
    for figure in figures:
        value = Decimal(figure.get("value"))
        assert figure.get("value") == figure.get("title")
        assert figure.get("value") in known
        shown = figure.text.removesuffix("\xa0%").replace(",", "")
        assert Decimal(shown.replace(MINUS, "-")) == value.quantize(
            Decimal("0.01"), ROUND_HALF_EVEN
        )
        if "class" in figure.attrib:  # a figure that has a direction
            sign = ""
            if value:
                sign = "+" if value > 0 else MINUS
            assert (shown[0] if shown[0] in "+" + MINUS else "") == sign


@pytest.mark.parametrize("path", [*PAGES, "/about", "/nope", "/batches/2026-01-06"])
async def test_every_page_keeps_the_rules(path, browser, database):
    """
    One main heading, no skipped level, landmarks, a language, unique ids, and a caption for
    every table.
    """
    plant_main(database)
    answer = await browser.get(path)
    tree = parse_page(answer)
    assert tree.get("lang") == "en"
    levels = [
        int(element.tag[1]) for element in tree.iter() if re.fullmatch("h[1-6]", str(element.tag))
    ]
    assert levels[0] == levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header", "main", "footer"):
        find_one(tree, landmark)
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    named = {
        name for element in tree.iter() for name in (element.get("aria-labelledby") or "").split()
    }
    assert named <= set(ids)
    assert find_all(tree, "a", class_="skip")[0].get("href") == "#main"
    for table in find_all(tree, "table"):
        assert visible_text(find_one(table, "caption"))
        assert all(cell.get("scope") in ("col", "row") for cell in table.iter("th"))
    assert len(visible_text(find_one(tree, "title"))) > 12
    assert find_one(tree, "meta", name="description").get("content")


@pytest.mark.parametrize("path", [*PAGES, "/about", "/nope"])
async def test_nothing_is_inline(path, browser, database):
    """
    The policy allows only our own files, and no page contains a script, a style, a handler or a
    cookie.
    """
    plant_main(database)
    answer = await browser.get(path)
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "set-cookie" not in answer.headers
    for element in parse_page(answer).iter():
        assert element.tag != "style"
        assert element.tag != "script" or element.get("src", "").startswith("/files/")
        assert not [name for name in element.attrib if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            assert (element.get(name) or "/").startswith(("/", "#"))


@pytest.mark.parametrize("notice", ["", NOTICE])
async def test_every_link_leads_somewhere(notice, pool, database):
    """All links that can be reached from the first page exist: pages, files, the API, anchors."""
    plant_main(database)
    async with pages_on(pool, notice) as browser:
        seen, waiting = {}, ["/"]
        while waiting:
            path = waiting.pop()
            answer = await browser.get(path)
            assert answer.status_code == 200, path
            seen[path] = answer
            is_no_page = path.startswith(("/graphql", "/files", "/timestamps"))
            if is_no_page or "xml" in answer.headers["content-type"]:
                continue
            tree = parse_page(answer)
            assert bool(find_all(tree, "p", role="note")) is bool(notice)
            links = [
                element.get(name)
                for element in tree.iter()
                for name in ("href", "src")
                if element.get(name)
            ]
            waiting += [
                path
                for link in links
                if (path := link.split("#")[0]) and path not in {*seen, *waiting}
            ]
        for path, answer in seen.items():
            if path.startswith("/timestamps"):
                continue
            for link in re.findall(r'href="([^"]*#[^"]+)"', answer.text):
                target, _, name = link.partition("#")
                assert f'id="{name}"' in seen[target or path].text
        assert {"/batches", "/about", "/favicon.svg", "/graphql", f"/batches/{FAILED}"} <= set(seen)
        assert {"/timestamps/3.tsr", f"/batches/{FAILED}"} <= set(seen)
        entries = next(answer for path, answer in seen.items() if path.startswith("/graphql?"))
        assert len(entries.json()["data"]["batchOn"]["journal"]) > 0


HOSTILE = [
    pytest.param("<script>alert(1)</script><img src=x onerror=alert(1)>", id="markup"),
    pytest.param(
        '"><svg onload="alert(1)">\' --> ]]> {{ 7 * 7 }} {% raw %}', id="what ends things"
    ),
    pytest.param("\u202egnihton si siht\u2066\u2067", id="the other direction"),
    pytest.param("w" * 5000, id="one word"),
    pytest.param("a\u0301" * 400 + "🧑‍🚀🏳️‍🌈", id="marks and emoji"),
    pytest.param("a\n\n\n\n\tb\r\u2028\x1b[31m\x7f", id="controls"),
    pytest.param("javascript:alert(1)", id="an address"),
]


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.sampled(3)
async def test_hostile_text_is_text(words, browser, database):
    """Texts of a model, a provider or an operator are shown unchanged, and only as text."""
    plant_main(database)
    change(database, "UPDATE picks SET reasoning = %s", words)
    change(
        database,
        "UPDATE generations SET answer = %s, answered_model = %s WHERE accepted IS NOT NULL",
        words,
        words,
    )
    change(database, "UPDATE generations SET refusal = %s WHERE NOT accepted", words)
    change(database, "UPDATE batches SET failure = %s WHERE failure IS NOT NULL", words)
    change(database, "UPDATE checkpoints SET note = %s WHERE note IS NOT NULL", words)
    change(database, "UPDATE corrections SET reason = %s", words)
    for path in ("/", f"/batches/{WON}", f"/batches/{FAILED}", "/batches"):
        answer = await browser.get(path)
        assert answer.status_code == 200
        tame = re.sub(
            r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", answer.text
        )  # no parse error is worth more
        assert "<script>alert" not in tame
        for forbidden in ("onerror", "onload"):
            assert not re.search(rf"<[^>]*\s{forbidden}=", tame)
        if "\x1b" not in words:
            tree = parse_page(answer)
            assert not find_all(tree, "img")
            for element in find_all(tree, "blockquote"):
                assert "".join(element.itertext()) == words
                assert element.get("dir") == "auto"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        pytest.param(
            "/batches/2025-12-29",
            404,
            "There is no batch of Monday 29 December 2025.",
            id="no batch",
        ),
        pytest.param(
            "/batches/2026-01-06", 404, "Tuesday 6 January 2026 is not a Monday.", id="no Monday"
        ),
        pytest.param("/batches/2026-02-30", 404, "That is not a date.", id="no such day"),
        pytest.param("/batches/latest", 404, "That is not a date.", id="a word"),
        pytest.param("/batches/0001-01-01", 404, "That is not a date.", id="before all time"),
        pytest.param(
            "/batches?after=nonsense", 400, "There is no such page of the history.", id="no cursor"
        ),
        pytest.param(
            "/batches?after=%00%ff", 400, "There is no such page of the history.", id="no text"
        ),
        pytest.param("/nowhere", 404, "There is no such page.", id="no page"),
        pytest.param(
            "/batches/2026-01-05/nowhere", 404, "There is no such page.", id="nothing below a batch"
        ),
    ],
)
async def test_what_is_not_there(path, status, says, browser, database):
    """The page says what is wrong and what to do, and is never cached."""
    plant_main(database)
    answer = await browser.get(path)
    assert answer.status_code == status
    assert heading(parse_page(answer)) == says
    assert find_all(parse_page(answer), "p", class_="lead")[0].text
    assert answer.headers["cache-control"] == "no-store"


async def test_no_monday_names_its_week(browser):
    """The page for a Tuesday names the address of its Monday."""
    assert "/batches/2026-01-05" in visible_text(await page(browser, "/batches/2026-01-06", 404))


async def test_the_database_is_away(pool):
    """The page is a 503 that says when to try again."""
    async with pages_on(pool) as browser:
        await pool.close()
        answer = await browser.get("/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert heading(parse_page(answer)) == "The record cannot be read right now."


async def test_the_history_page_by_page(browser, record):
    """The links lead from the newest to the oldest Monday, each one once."""
    monday = WON
    for number in range(23):
        batch = Batch(
            id=record.next(3),
            series="main",
            run_date=monday,
            created_at=due_at(monday, 1),
            status=BatchStatus.FAILED,
            late=True,
            failure_reason=FailureReason.MISSED,
            failure=f"Number {number}.",
            benchmark_symbol="SPY",
        )
        record.add("batches", **{name: getattr(batch, name) for name in batch.__struct_fields__})
        monday += timedelta(weeks=1)
    seen, path = [], "/batches"
    while path:
        tree = await page(browser, path)
        seen += [
            time.get("datetime") for time in find_one(tree, "ol", class_="history").iter("time")
        ]
        path = next((link.get("href") for link in find_all(tree, "a", rel="next")), None)
    assert seen == [str(WON + timedelta(weeks=number)) for number in reversed(range(23))]
    assert find_all(tree, "a", href="/batches")


async def test_neighbours(browser, database):
    """A Monday links the Mondays before and after it, if there are any."""
    plant_main(database)
    first, middle = (
        await page(browser, f"/batches/{WON}"),
        await page(browser, f"/batches/{FAILED}"),
    )
    assert not find_all(first, "a", rel="prev")
    assert find_one(first, "a", rel="next").get("href") == f"/batches/{UNRESOLVED}"
    assert find_one(middle, "a", rel="prev").get("href") == f"/batches/{UNRESOLVED}"
    assert find_one(middle, "a", rel="next").get("href") == f"/batches/{RUNNING}"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        pytest.param("text/html", "text/html", id="a browser"),
        pytest.param("*/*", "text/html", id="anything"),
        pytest.param("application/json", "application/json", id="a program"),
    ],
)
async def test_who_asks_for_the_first_page(accept, kind, browser):
    """A browser gets the page, and a program gets the path of the API."""
    answer = await browser.get("/", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == kind
    if kind == "application/json":
        assert answer.json() == {"name": "Alpha Monday", "graphql": "/graphql"}


@pytest.mark.parametrize(
    "path", ["/", "/batches", "/batches/2026-01-05", "/about", "/robots.txt", "/favicon.svg"]
)
async def test_head(path, browser, database):
    """HEAD gets the headers of GET without a body; other methods are refused."""
    plant_main(database)
    head, get = await browser.head(path), await browser.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    refused = await browser.post(path, headers={"accept": "application/json"})
    assert refused.status_code == 405


async def test_a_program_gets_json_errors(browser):
    """Only a browser gets pages for errors."""
    answer = await browser.get("/nowhere", headers={"accept": "application/json"})
    assert answer.json()["errors"][0]["extensions"]["code"] == "NOT_FOUND"
    answer = await browser.get("/graphql/nowhere")
    assert answer.json()["errors"][0]["extensions"]["code"] == "NOT_FOUND"


async def test_robots_and_icon(browser):
    robots = await browser.get("/robots.txt")
    assert robots.text.splitlines() == ["User-agent: *", "Disallow: /graphql", "Disallow: /live"]
    icon = await browser.get("/favicon.svg")
    assert icon.headers["content-type"].startswith("image/svg+xml")


async def test_files_are_cached_for_a_year(browser):
    """The addresses of files change with their content."""
    tree = await page(browser, "/")
    addresses = [
        element.get(name)
        for element in tree.iter()
        for name in ("href", "src")
        if element.get(name)
    ]
    files = [address for address in addresses if address.startswith("/files/")]
    assert len(files) == 2
    for address in files:
        answer = await browser.get(address)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.content == (FOLDER / "files" / address.rpartition("/")[2]).read_bytes()


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ("0.005", "+0.00"),
        ("0.015", "+0.02"),
        ("0.025", "+0.02"),
        ("-0.005", f"{MINUS}0.00"),
        ("0", "0.00"),
        ("-0.00", "0.00"),
        ("1234567.891", "+1,234,567.89"),
        ("-12.345000000000000000000000001", f"{MINUS}12.35"),
        ("99999999999999999999999999999999.995", "+100,000,000,000,000,000,000,000,000,000,000.00"),
    ],
)
def test_a_figure_is_rounded(figure, shown):
    """Figures have two decimals, half to even, and the sign of the unrounded figure."""
    assert formatting.signed(figure) == shown


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ("807.1000", "807.10"),
        ("5", "5.00"),
        ("0.00012", "0.00012"),
        ("1234.5", "1,234.50"),
        ("12.3450", "12.345"),
    ],
)
def test_a_price_is_not_rounded(figure, shown):
    """Prices have all their digits, except zeros after the second decimal."""
    assert formatting.price(figure) == shown


def test_a_split_of_the_benchmark_outlasts_a_weekend():
    """Skipped days after a split do not hide it; a share without a split is not named."""
    computed = {
        "benchmarkSplitFactor": "2.0000",
        "metrics": [{"pick": {"ticker": "KO"}, "splitFactor": "1"}],
    }
    skipped = {"benchmarkSplitFactor": None, "metrics": []}
    batch = {"benchmarkSymbol": "SPY", "checkpoints": [computed, skipped]}
    assert batch_text.split_phrases(batch) == ["one SPY became 2"]


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("from -0.61 to +0.80 %.", f"from {MINUS}0.61 to +0.80 %."),
        ("The check of 2026-10-05 is held.", "The check of Monday 5 October 2026 is held."),
        ("2026-02-30, 12026-01-05, 2026-01-05-1", "2026-02-30, 12026-01-05, 2026-01-05-1"),
        ("BRK-1.5, 3-2.5, half-even", "BRK-1.5, 3-2.5, half-even"),
    ],
)
def test_a_sentence_of_the_record(sentence, shown):
    """Dates are in full and minus signs are typographic; similar text stays unchanged."""
    assert formatting.format_sentence(sentence) == shown


def test_a_drawing_by_itself_has_the_pages_colours():
    """The palette has the light colours of the style sheet."""
    css = (FOLDER / "files" / "page.css").read_text()
    root = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", css[: css.index("@media")]))
    assert {name: root[name] for name in LIGHT_COLOURS} == LIGHT_COLOURS


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast(dark):
    """
    Every text colour has a contrast of at least 4.5 to 1 (WCAG), on paper and on shaded ground.
    """
    css = (FOLDER / "files" / "page.css").read_text()
    block = css[css.index("prefers-color-scheme: dark") :] if dark else css
    root = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", block[: block.index("}")]))
    pairs = [
        (name, ground)
        for name in ("ink", "faint", "accent", "up", "down", "pick-1", "pick-2", "pick-3")
        for ground in ("paper", "shade")
    ]
    for name, ground in [*pairs, ("note-ink", "note")]:
        light, low = sorted((_luminance(root[name]), _luminance(root[ground])), reverse=True)
        assert (light + 0.05) / (low + 0.05) >= 4.5, (name, ground)


async def test_a_page_that_fails(pool, monkeypatch):
    """
    A browser gets a page, and a program an error with an id; neither contains details of the
    failure.
    """
    monkeypatch.setattr("app.web.pages.batch_text.headline", lambda batch: 1 / 0)
    async with pages_on(pool, raise_server_exceptions=False) as browser:
        with psycopg.connect(pool.conninfo) as conn:
            Record(conn).batch("main", WON, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
        answer = await browser.get("/")
        assert (answer.status_code, heading(parse_page(answer))) == (
            500,
            "Something went wrong here.",
        )
        assert "division" not in answer.text
        program = await browser.get("/", headers={"accept": "*/*"})
        assert program.json()["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
