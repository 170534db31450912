"""The chart of a batch: what is drawn where, and its description for readers who do not see it."""

import itertools
import re
from datetime import date
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.charts.batch_chart import BatchChart, PickLine, Scale, chart_of_batch, draw
from app.web.charts.layout import LIGHT_COLOURS, NARROW, WIDE, Layout, round_ticks

MONDAY = date(2026, 1, 5)
SVG = "{http://www.w3.org/2000/svg}"


def line(ticker: str, *points: str, action: str = "BUY") -> PickLine:
    """Return a line with a value for day 1, 2, ...; an empty text is a day without figures."""
    known = {day: Decimal(text) for day, text in enumerate(points, 1) if text}
    return PickLine(ticker, action, {0: Decimal(0), **known})


def parsed(*lines: PickLine, layout: Layout = WIDE, **more: object) -> ElementTree.Element:
    return ElementTree.fromstring(draw(BatchChart(MONDAY, "SPY", lines, **more), layout))


def texts(svg: ElementTree.Element) -> list[str]:
    return ["".join(element.itertext()) for element in svg.iter(f"{SVG}text")]


def test_the_chart_of_a_batch():
    """The lines are the picks' alphas, in the model's order; a skipped day has a reason."""
    metrics = [
        {"pick": {"ticker": "KO"}, "alphaPct": "-1.5"},
        {"pick": {"ticker": "MSFT"}, "alphaPct": "2"},
    ]
    chart = chart_of_batch(
        {
            "runDate": "2026-01-05",
            "benchmarkSymbol": "SPY",
            "picks": [
                {"ticker": "KO", "pickedAs": "KO", "action": "SELL"},
                {"ticker": "MSFT", "pickedAs": "MSFT", "action": "BUY"},
            ],
            "checkpoints": [
                {"day": 0, "status": "COMPUTED", "skipReason": None, "metrics": []},
                {"day": 1, "status": "COMPUTED", "skipReason": "MISSING_CLOSE", "metrics": metrics},
                {"day": 2, "status": "SKIPPED", "skipReason": "MISSING_CLOSE", "metrics": []},
                {
                    "day": 3,
                    "status": "SKIPPED",
                    "skipReason": "MARKET_CLOSED",
                    "wasSession": False,
                    "metrics": [],
                },
                {
                    "day": 4,
                    "status": "SKIPPED",
                    "skipReason": "MARKET_CLOSED",
                    "wasSession": True,
                    "metrics": [],
                },
            ],
        }
    )
    lines = [line("KO", "-1.5", action="SELL"), line("MSFT", "2")]
    assert chart == BatchChart(
        run_date=MONDAY,
        benchmark="SPY",
        lines=lines,
        skipped={2: "no price", 3: "closed", 4: "skipped"},
    )


def test_a_gap_is_no_line():
    """Days that are not consecutive are connected by dots only, and the days between are shaded."""
    svg = parsed(line("KO", "1", "2", "", "4"), skipped={3: "no price"})
    courses = [
        element for element in svg.iter(f"{SVG}line") if element.get("class") == "stroke-pick-1"
    ]
    assert [element.get("stroke-dasharray") for element in courses] == [None, None, "0.1 5"]
    shades = [element for element in svg.iter(f"{SVG}rect") if element.get("class") == "fill-shade"]
    scale = Scale(WIDE, [0, 4])
    assert len(shades) == 1
    assert (
        float(shades[0].get("x"))
        < scale.x(3)
        < float(shades[0].get("x")) + float(shades[0].get("width"))
    )
    assert "no price" in texts(svg)


def test_lines_differ_without_colour():
    """Each pick has its own dashes, mark and name."""
    svg = parsed(line("KO", "1", "2"), line("MSFT", "2", "3"), line("XOM", "-1", "-2"))
    dashes = {
        element.get("class"): element.get("stroke-dasharray")
        for element in svg.iter(f"{SVG}line")
        if element.get("class", "").startswith("stroke-pick")
    }
    assert dashes == {"stroke-pick-1": None, "stroke-pick-2": "7 4", "stroke-pick-3": "2 3.5"}
    marks = {
        (element.tag, element.get("class"))
        for element in svg
        if (element.get("class") or "").startswith("fill-pick")
    }
    assert {
        (f"{SVG}circle", "fill-pick-1"),
        (f"{SVG}rect", "fill-pick-2"),
        (f"{SVG}path", "fill-pick-3"),
    } <= marks
    assert {"BUY KO +2.00", "BUY MSFT +3.00", "BUY XOM \N{MINUS SIGN}2.00", "SPY"} <= set(
        texts(svg)
    )


def test_says_in_words_what_it_shows():
    svg = parsed(
        line("KO", "1.005", "", action="SELL"), line("MSFT", "-0.5"), skipped={2: "closed"}
    )
    assert svg.get("role") == "img"
    descriptions = {
        element.get("id"): element.text
        for element in svg
        if element.tag in (f"{SVG}title", f"{SVG}desc")
    }
    assert svg.get("aria-labelledby").split() == list(descriptions)
    assert descriptions["chart-title"] == (
        "Percentage points in the call's favour against SPY, for each pick of Monday 5 January "
        "2026: above zero, the "
        "call is right"
    )
    assert descriptions["chart-description"] == (
        "SELL KO +1.00 on day 1 and BUY MSFT \N{MINUS SIGN}0.50 on day 1. Days without figures: 2."
    )


def test_before_the_first_morning():
    """With only day 0, the chart says that there are no figures yet."""
    svg = parsed(line("KO"), line("MSFT"))
    assert "No morning has figures yet." in texts(svg)
    assert svg.find(f"{SVG}desc").text == "No morning has figures yet."


@pytest.mark.parametrize("layout", [WIDE, NARROW], ids=["wide", "narrow"])
def test_by_itself_it_needs_no_style(layout):
    """With a palette there are no classes, and every colour is written out."""
    alone = Layout(layout.width, layout.height, palette=LIGHT_COLOURS)
    svg = draw(
        BatchChart(
            run_date=MONDAY, benchmark="SPY", lines=[line("KO", "1", "2")], skipped={3: "closed"}
        ),
        alone,
    )
    assert "class=" not in svg
    assert set(re.findall(r'(?:fill|stroke)="(#[^"]*)"', svg)) <= set(LIGHT_COLOURS.values())


def test_markup_in_a_name_is_text():
    svg = draw(BatchChart(MONDAY, "S<Y", [PickLine('"<b>', "BUY", {0: Decimal(0), 1: Decimal(1)})]))
    assert "<b>" not in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], [-1, 0, 1], id="nothing"),
        pytest.param([0.2], [0, 0.2], id="a little"),
        pytest.param([-3.2, 4.1], [-4, -2, 0, 2, 4, 6], id="both ways"),
        pytest.param([-250, 0], [-250, -200, -150, -100, -50, 0], id="a crash"),
    ],
)
def test_ticks(values, expected):
    """The ticks are round numbers around all values and zero."""
    assert round_ticks(values) == expected


points = st.lists(st.decimals(-300, 300, places=4).map(str) | st.just(""), min_size=0, max_size=14)


@given(st.lists(points, min_size=1, max_size=3), st.sampled_from([WIDE, NARROW]))
def test_everything_lies_within(courses, layout):
    """
    Whatever the figures are, the chart is well-formed, nothing is outside of its frame, and no
    label covers another one.
    """
    svg = parsed(
        *[line(f"A{number}", *course) for number, course in enumerate(courses)], layout=layout
    )
    for element in svg.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, 0)) <= layout.width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, 0)) <= layout.height
    at = sorted(
        float(element.get("y"))
        for element in svg.iter(f"{SVG}text")
        if element.find(f"{SVG}tspan") is not None
    )
    assert all(after - before >= layout.text for before, after in itertools.pairwise(at))
