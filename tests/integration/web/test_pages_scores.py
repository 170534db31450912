"""The costs and the stated probabilities on the pages of a record, and their drawing."""

from decimal import Decimal
from xml.etree import ElementTree

import pytest
from api_records import WON, plant_main
from hypothesis import given
from hypothesis import strategies as st
from series_records import FIRST, write, write_three_series
from served_pages import find_all, find_one, pages_on, parse_page, visible_text

from app.domain.calibration import StatedPick, score_probabilities
from app.web.charts.calibration_chart import LAYOUTS, draw_calibration
from app.web.formatting import signed
from app.web.pages import score_text
from tests.integration.api.test_schema_scores import state

SVG = "{http://www.w3.org/2000/svg}"
EMPTY = "No pick with a probability is finished yet."


@pytest.fixture
async def browser(pool):
    """A browser at the pages of a record."""
    async with pages_on(pool) as client:
        yield client


async def section(browser, path: str, heading: str):
    """Return the section of a page with the id of its heading; None if there is none."""
    document = parse_page(await browser.get(path))
    found = find_all(document, "section", **{"aria-labelledby": heading})
    return found[0] if found else None


def cells(table) -> list[list[str]]:
    return [[visible_text(cell) for cell in row] for row in table.iter("tr")]


async def record_of(browser, fields: str):
    answer = await browser.post("/graphql", json={"query": f"{{ trackRecord {{ {fields} }} }}"})
    return answer.json()["data"]["trackRecord"]


async def test_an_empty_record(browser):
    """It has neither section."""
    assert await section(browser, "/record", "costs") is None
    assert await section(browser, "/record", "probabilities") is None


async def test_the_costs(browser, database):
    """The table has the API's figures for no costs, for 5 and for 15 basis points."""
    plant_main(database)
    shown = await section(browser, "/record", "costs")
    heading, *rows = cells(find_one(shown, "table"))
    assert heading[1:] == ["0 basis points", "5 basis points", "15 basis points"]
    for column, bps in enumerate((0, 5, 15), 1):
        after = (
            await record_of(
                browser,
                f"afterCosts(bps: {bps}) {{ meanAlphaPct medianAlphaPct meanDirectionalReturnPct "
                "sumPct hits } picks { finished }",
            )
        )["afterCosts"]
        figures = ("meanAlphaPct", "medianAlphaPct", "meanDirectionalReturnPct", "sumPct")
        assert [row[column] for row in rows[:4]] == [signed(after[name]) for name in figures]
        assert rows[4][column] == f"{after['hits']} of 3"
    break_even = (await record_of(browser, "breakEvenBps"))["breakEvenBps"]
    assert f"{signed(break_even)[1:]} basis points for one way" in visible_text(shown)


@pytest.mark.parametrize(
    ("break_even", "words"),
    [
        ("12.345", "At a cost of 12.34 basis points"),
        ("0", "exactly zero without costs"),
        ("-3", "below zero even without costs"),
    ],
)
def test_the_words_of_the_break_even(break_even, words):
    assert words in score_text.break_even_words({"breakEvenBps": break_even})


async def test_no_pick_with_a_probability(browser, database):
    """The section says so, and has neither a table nor a drawing."""
    plant_main(database)
    shown = await section(browser, "/record", "probabilities")
    assert EMPTY in visible_text(shown)
    assert not find_all(shown, "table")
    assert not find_all(shown, f"{SVG}svg")


async def test_the_calibration(browser, database):
    """One table has every bin and the sum, and another one the scores."""
    plant_main(database)
    state(database, "main", WON, 62, 70, 64)
    shown = await section(browser, "/record", "probabilities")
    assert "Too early to say" in visible_text(shown)
    calibration, brier = (cells(table) for table in find_all(shown, "table"))
    # All three picks were right.
    assert [row[:3] for row in calibration[1:]] == [
        ["50 to 59 %", "no picks", "–"],
        ["60 to 69 %", "2 of 2", "63.00"],
        ["70 to 79 %", "1 of 1", "70.00"],
        ["80 to 89 %", "no picks", "–"],
        ["90 to 99 %", "no picks", "–"],
        ["All", "3 of 3", "65.33"],
    ]
    # 0.38², 0.3² and 0.36² are 0.1444, 0.09 and 0.1296: together 0.364.
    assert [row[1] for row in brier[1:4]] == ["0.1213", "0.2500", "0.0000"]
    drawings = find_all(shown, f"{SVG}svg")
    assert len(drawings) == 2
    for drawing in drawings:
        assert len(find_all(drawing, f"{SVG}circle")) == 2
        description = visible_text(find_one(drawing, f"{SVG}desc"))
        assert "Stated 60 to 69 %, 63.00 % on average: 2 of 2 picks right" in description


async def test_several_series(browser, database):
    """
    The leaderboard has each Brier score with its number of picks, and a dash without one; the page
    of a control says why it has none.
    """
    write(database, write_three_series)
    state(database, "main", FIRST, 60, 60, None)
    rows = cells(find_one(parse_page(await browser.get("/record")), "table", class_="leaderboard"))
    place = rows[0].index("Brier score")
    shown = {row[0].split()[0]: row[place] for row in rows[1:]}
    scores = (await record_of(browser, "probability { picks brierScore }"))["probability"]
    assert scores["picks"] == 2
    score = f"{Decimal(scores['brierScore']):.4f}"
    assert sorted(shown.values()) == sorted([f"{score}2 picks", "–", "–"])
    control = await section(browser, "/series/dice", "probabilities")
    assert f"{EMPTY} The picks of a control are drawn at random" in visible_text(control)
    model = await section(browser, "/series/claude", "probabilities")
    assert EMPTY in visible_text(model)
    assert "control" not in visible_text(model)
    assert len(find_all(await section(browser, "/series/main", "probabilities"), "table")) == 2


def api_bins(picks: list[StatedPick]) -> list[dict]:
    """Return the bins of these picks as the API has them."""
    scores = score_probabilities(picks)
    assert scores
    return [
        {
            "lowPct": one.low_pct,
            "highPct": one.high_pct,
            "picks": one.picks,
            "hits": one.hits,
            "meanStatedPct": one.mean_stated_pct and str(one.mean_stated_pct),
            "hitRatePct": one.hit_rate_pct and str(one.hit_rate_pct),
            "hitRateInterval": one.hit_rate_interval
            and {"low": str(one.hit_rate_interval.low), "high": str(one.hit_rate_interval.high)},
        }
        for one in scores.bins
    ]


@given(
    st.lists(
        st.builds(StatedPick, probability=st.integers(50, 99), is_hit=st.booleans()), min_size=1
    )
)
def test_the_drawing(picks):
    """Everything is within the drawing, and each point lies on its bar and within its bin."""
    bins = api_bins(picks)
    for layout in LAYOUTS.values():
        drawing = ElementTree.fromstring(draw_calibration(bins, layout, "name"))
        points = drawing.findall(f"{SVG}circle")
        bars = [one for one in drawing.findall(f"{SVG}line") if one.get("stroke-width") == "4"]
        filled = [one for one in bins if one["picks"]]
        assert len(points) == len(bars) == len(filled)
        plot = layout.width - layout.left - layout.right
        for point, bar, one in zip(points, bars, filled, strict=True):
            x = float(point.get("cx"))
            assert x == float(bar.get("x1")) == float(bar.get("x2"))
            start = layout.left + plot * (one["lowPct"] - 50) / 50
            assert start - 0.1 <= x <= start + plot / 5 + 0.1
            low, high = float(bar.get("y1")), float(bar.get("y2"))
            assert high - 0.1 <= float(point.get("cy")) <= low + 0.1
            assert layout.top <= high
            assert low <= layout.height - layout.bottom
        for text in drawing.findall(f"{SVG}text"):
            assert 0 <= float(text.get("x")) <= layout.width
            assert 0 <= float(text.get("y")) <= layout.height


def test_a_model_that_is_right_as_often_as_it_states():
    """Its points lie on the diagonal."""
    picks = []
    for probability in (55, 65, 75, 85, 95):
        picks += [StatedPick(probability, number < probability) for number in range(100)]
    layout = LAYOUTS["wide"]
    drawing = ElementTree.fromstring(draw_calibration(api_bins(picks), layout, "name"))
    (diagonal,) = [
        one
        for one in drawing.findall(f"{SVG}line")
        if one.get("stroke-dasharray") and one.get("y1") != one.get("y2")
    ]
    x1, y1, x2, y2 = (float(diagonal.get(name)) for name in ("x1", "y1", "x2", "y2"))
    for point in drawing.findall(f"{SVG}circle"):
        share = (float(point.get("cx")) - x1) / (x2 - x1)
        assert float(point.get("cy")) == pytest.approx(y1 + share * (y2 - y1), abs=0.2)
