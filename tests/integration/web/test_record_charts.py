"""
The page of the whole record and its charts: before the first results, with results, and whether
labels fit.
"""

import re
from datetime import timedelta
from decimal import Decimal
from xml.etree import ElementTree

import psycopg
import pytest
from api_records import WON, Record, plant_main
from held_checks import add_checks, damage_checks, standing
from hypothesis import given
from hypothesis import strategies as st
from served_pages import find_all, find_one, pages_on, parse_page, visible_text

from app.domain.model import BatchStatus
from app.domain.verdict import Finding
from app.web.charts import record_charts
from app.web.charts.record_charts import (
    LAYOUTS,
    IntervalRow,
    PlotArea,
    draw_intervals,
    interval_rows,
)
from app.web.pages.batch_text import FINDING_HEADLINES

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
async def browser(pool):
    """A browser at the pages of an empty record."""
    async with pages_on(pool) as client:
        yield client


async def shown(browser):
    answer = await browser.get("/record")
    assert answer.status_code == 200
    return parse_page(answer)


async def track_record(browser, fields: str):
    answer = await browser.post("/graphql", json={"query": f"{{ trackRecord {{ {fields} }} }}"})
    return answer.json()["data"]["trackRecord"]


async def test_an_empty_record(browser):
    """There is nothing to judge, and no chart."""
    document = await shown(browser)
    assert visible_text(find_one(document, "h1")) == "The record is empty."
    assert (
        visible_text(find_one(document, "p", class_="lead"))
        == (await track_record(browser, "verdict { words }"))["verdict"]["words"]
    )
    assert not find_all(document, f"{SVG}svg")


async def test_before_the_first_result(browser, database):
    """Mondays are counted; there are no figures without a result."""
    with psycopg.connect(database) as conn:
        Record(conn).batch("main", WON, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
    document = await shown(browser)
    assert visible_text(find_one(document, "h1")) == "Too early to tell."
    assert "No fortnight has a result yet." in visible_text(find_one(document, "main"))
    assert not find_all(document, f"{SVG}svg")
    assert not find_all(document, "data")


async def test_a_check_that_is_due(browser, database):
    """While the first check waits, the page says until when, and does not compute it."""
    with psycopg.connect(database) as conn:
        record = Record(conn)
        for monday in (WON, WON + timedelta(weeks=52)):
            record.batch("main", monday, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
    document = await shown(browser)
    assert visible_text(find_one(document, "p", class_="lead")).endswith(
        "The yearly check of Monday 4 January 2027 waits until Monday 25 January 2027 for figures "
        "that are still missing."
    )
    section = find_one(document, "section", **{"aria-labelledby": "checks"})
    assert "The next check is that of Monday 4 January 2027." in visible_text(section)
    assert not find_all(section, "table")


@pytest.mark.parametrize(
    ("alpha", "headline"),
    [
        (0.0, "Cannot be distinguished from luck."),
        (1.0, "Better than luck explains."),
        (-1.0, "Worse than bad luck explains."),
    ],
)
async def test_a_check_that_was_held(alpha, headline, browser, database):
    """Its row has the values of the API, and the next check is the second one."""
    plant_main(database)
    add_checks(database, [standing("main", alpha)])
    document = await shown(browser)
    assert visible_text(find_one(document, "h1")) == headline
    section = find_one(document, "section", **{"aria-labelledby": "checks"})
    assert "The next check is that of Monday 3 January 2028." in visible_text(section)
    fields = "verdict { looks { weeks probability bound seq } }"
    (look,) = (await track_record(browser, fields))["verdict"]["looks"]
    (row,) = find_one(section, "tbody")
    cells = [visible_text(cell) for cell in row]
    assert cells[:5] == ["1", "Mon 4 Jan 2027", headline, str(look["weeks"]), "2.50"]
    assert cells[6:] == [look["probability"], look["bound"], look["seq"]]
    assert "series" not in visible_text(find_one(document, "main"))


async def test_a_series_that_was_not_tested(browser, database):
    """The earlier finding stays the headline, and the second row has the reason."""
    plant_main(database)
    add_checks(database, [standing("main", 1.0, gaps=3)], [standing("main", 1.0, failed_mondays=5)])
    document = await shown(browser)
    assert visible_text(find_one(document, "h1")) == "Better than luck explains."
    assert "The earlier finding stands." in visible_text(find_one(document, "p", class_="lead"))
    first, second = find_one(
        find_one(document, "section", **{"aria-labelledby": "checks"}), "tbody"
    )
    assert visible_text(first[3]) == "524 with gaps"
    assert visible_text(second[7]) == "–"
    assert visible_text(second[2]) == (
        "not tested: more than four failed or late Mondays since the check before"
    )


async def test_a_damaged_check(browser, database):
    """The page says which entry cannot be read, as with every damaged row; no finding is shown."""
    plant_main(database)
    add_checks(database, [standing("main", 1.0)])
    damage_checks(database, lambda content: content.replace('"BETTER"', '"GOOD"'))
    for path in ("/", "/record"):
        answer = await browser.get(path)
        assert answer.status_code == 500, path
        text = visible_text(find_one(parse_page(answer), "main"))
        assert "The record is damaged here." in text
        assert "of the journal, which holds a yearly check, cannot be read" in text
    assert (await browser.get(f"/batches/{WON}")).status_code == 200


async def test_a_whole_record(browser, database):
    """Counts, shares and extremes are the API's; each chart has a table with its full figures."""
    plant_main(database)
    document = await shown(browser)
    data = await track_record(
        browser,
        """batches { total scored active failed late unresolved } picks { hits finished hitRatePct }
        pickResults { alphaPct { mean median } } best { ticker alphaPct } worst { ticker alphaPct }
        drawdownPct curve { runDate alphaPct sumPct }
        weeklyExcess { weeks { monday picks excessPct benchmarkPct } }
        randomActions { bins { count } }""",
    )
    counts, picks = data["batches"], data["picks"]
    numbers = [visible_text(entry) for entry in find_one(document, "dl", class_="numbers")]
    assert numbers[0] == (
        f"Mondays{counts['total']} {counts['scored']} scored, {counts['active']} running, "
        f"{counts['failed']} without picks, {counts['late']} late, {counts['unresolved']} "
        "unresolved"
    )
    assert f"{picks['hits']} of {picks['finished']}" in numbers[1]
    figures = {figure.get("title") for figure in find_all(document, "data")}
    wanted = [
        picks["hitRatePct"],
        *data["pickResults"]["alphaPct"].values(),
        data["best"]["alphaPct"],
    ]
    wanted += [data["worst"]["alphaPct"], data["drawdownPct"]]
    wanted += [one[name] for one in data["curve"] for name in ("alphaPct", "sumPct")]
    wanted += [
        one[name] for one in data["weeklyExcess"]["weeks"] for name in ("excessPct", "benchmarkPct")
    ]
    assert set(wanted) <= figures
    assert len(find_all(document, f"{SVG}svg")) == 2 * len(find_all(document, "figure"))
    draws = find_one(document, "details", id="draws")
    assert [visible_text(row[2]) for row in find_one(draws, "tbody")] == [
        str(one["count"]) for one in data["randomActions"]["bins"]
    ]


async def test_the_first_page_says_what_the_record_says(browser, database):
    """One line has the API's verdict, with its date in full, and a link to the record."""
    plant_main(database)
    document = parse_page(await browser.get("/"))
    line = find_one(document, "p", class_="verdict")
    words = (await track_record(browser, "verdict { words }"))["verdict"]["words"]
    start, _, _ = words.rpartition("2027-01-04.")
    assert visible_text(line) == f"The whole record: {start}Monday 4 January 2027. All results"
    lead = find_one(await shown(browser), "p", class_="lead")
    assert visible_text(lead) == f"{start}Monday 4 January 2027."
    assert find_one(line, "a").get("href") == "/record"


def test_every_finding_has_a_headline():
    assert set(FINDING_HEADLINES) == {*Finding}


def drawn(text_: str) -> ElementTree.Element:
    return ElementTree.fromstring(text_)


@pytest.mark.parametrize("shape", LAYOUTS)
def test_intervals(shape):
    """The dot is the value, the bar is its interval, and the strong line is mere luck."""
    layout = LAYOUTS[shape]
    rows = [
        IntervalRow(name="Hits", value="60", low="45", high="75"),
        IntervalRow(name="<b>", value="52.5", low="50", high="55"),
    ]
    svg = drawn(draw_intervals(rows, luck=50, layout=layout, name="x", title="Shares"))
    bars = [element for element in svg.iter(f"{SVG}line") if element.get("class") == "stroke-bar"]
    dots = list(svg.iter(f"{SVG}circle"))
    (zero,) = [
        element for element in svg.iter(f"{SVG}line") if element.get("class") == "stroke-ink"
    ]
    nothing = float(zero.get("x1"))
    for row, bar, dot in zip(rows, bars, dots, strict=True):
        low, value, high = float(bar.get("x1")), float(dot.get("cx")), float(bar.get("x2"))
        assert low < value < high
        step = (value - nothing) / (float(row.value) - 50)
        assert low - nothing == pytest.approx(step * (float(row.low) - 50), abs=0.2)
        assert high - nothing == pytest.approx(step * (float(row.high) - 50), abs=0.2)
    assert svg.find(f"{SVG}desc").text == (
        "Hits: +60.00, between +45.00 and +75.00. <b>: +52.50, between +50.00 and +55.00."
    )


def test_what_is_not_known_is_not_drawn():
    assert interval_rows("x", None, {"low": "1", "high": "2"}) == []
    assert interval_rows("x", "1", None) == []


def test_the_curve_begins_at_nothing():
    """The curve starts at zero, and its label is its last value."""
    points = [
        {"runDate": "2026-01-05", "sumPct": "2"},
        {"runDate": "2026-01-12", "sumPct": "-1.005"},
    ]
    layout = LAYOUTS["wide"]
    svg = drawn(record_charts.draw_sum(points, layout, "x"))
    plane = PlotArea(layout=layout, low=0, high=2, ticks=[-2, -1, 0, 1, 2])
    ends = re.findall(r"[ML]([\d.]+) ([\d.]+)", one_of(svg, "path").get("d"))
    assert [(float(x), float(y)) for x, y in ends] == [
        (plane.x(at), plane.y(value)) for at, value in enumerate((0, 2, -1.005))
    ]
    assert "\N{MINUS SIGN}1.00" in {
        "".join(element.itertext()) for element in svg.iter(f"{SVG}text")
    }


def one_of(svg, tag):
    (element,) = svg.iter(f"{SVG}{tag}")
    return element


def test_bars_stand_on_zero():
    """The bar of a week above zero goes up, one below goes down; the colour only repeats it."""
    weeks = [
        {"monday": "2026-01-05", "excessPct": "2"},
        {"monday": "2026-01-12", "excessPct": "-1"},
    ]
    svg = drawn(record_charts.draw_weeks(weeks, LAYOUTS["wide"], "x"))
    up, down = svg.iter(f"{SVG}rect")
    assert float(up.get("y")) + float(up.get("height")) == pytest.approx(
        float(down.get("y")), abs=0.11
    )
    assert float(up.get("height")) == pytest.approx(2 * float(down.get("height")), abs=0.2)
    assert (up.get("class"), down.get("class")) == ("fill-accent", "fill-bar")


def test_where_the_record_stands():
    """The line is at the record's mean, also if this is outside of all draws."""
    bins = [{"low": str(low), "high": str(low + 1), "count": 3} for low in range(-2, 2)]
    for mean in ("-9", "0.5", "7"):
        svg = drawn(
            record_charts.draw_random_calls(
                control={"draws": 12, "belowPct": "50", "bins": bins},
                mean=mean,
                layout=LAYOUTS["wide"],
                name="x",
            )
        )
        (line,) = [
            element for element in svg.iter(f"{SVG}line") if element.get("class") == "stroke-accent"
        ]
        plane = PlotArea(
            layout=LAYOUTS["wide"], low=min(-2, float(mean)), high=max(2, float(mean)), ticks=[0, 1]
        )
        assert float(line.get("x1")) == plane.x(float(mean))


percent = st.decimals(-300, 300, places=6).map(str)


@given(
    st.lists(st.tuples(percent, percent), min_size=1, max_size=60), st.sampled_from(list(LAYOUTS))
)
def test_everything_lies_within(values, shape):
    """Whatever the figures are, the chart is well-formed and nothing is outside of its frame."""
    layout = LAYOUTS[shape]
    sums = [
        {"runDate": str(WON), "monday": str(WON), "sumPct": one, "excessPct": two}
        for one, two in values
    ]
    rows = [
        IntervalRow("x", value, *sorted((value, other), key=Decimal)) for value, other in values[:3]
    ]
    for svg in (
        record_charts.draw_sum(sums, layout, "a"),
        record_charts.draw_weeks(sums, layout, "b"),
        draw_intervals(rows, luck=50, layout=layout, name="c", title="t"),
    ):  # fmt: skip
        chart = drawn(svg)
        _, _, width, height = map(float, chart.get("viewBox").split())
        for part in chart.iter():
            assert all(0 <= float(part.get(name, 0)) <= width for name in ("x", "x1", "x2", "cx"))
            assert all(0 <= float(part.get(name, 0)) <= height for name in ("y", "y1", "y2", "cy"))
