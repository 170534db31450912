"""A fortnight as a drawing: what is drawn where, what is never drawn, and what it says to whoever does not see it."""

import itertools
import re
from datetime import date
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.charts import batch_chart
from app.web.charts.batch_chart import LIGHT, NARROW, WIDE, Fortnight, Line, Look, Scale, drawn

MONDAY = date(2026, 1, 5)
SVG = "{http://www.w3.org/2000/svg}"


def line(ticker: str, *points: str, action: str = "BUY") -> Line:
    """A line with a value for day 1, 2, ...; an empty text is a day without figures."""
    known = {day: Decimal(text) for day, text in enumerate(points, 1) if text}
    return Line(ticker, action, {0: Decimal(0), **known})


def parsed(*lines: Line, look: Look = WIDE, **more: object) -> ElementTree.Element:
    return ElementTree.fromstring(drawn(Fortnight(MONDAY, "SPY", lines, **more), look))


def texts(svg: ElementTree.Element) -> list[str]:
    return ["".join(found.itertext()) for found in svg.iter(f"{SVG}text")]


def test_what_a_batch_says():
    """The lines are the picks' alphas, in the model's order; a skipped day has a reason in place of a point."""
    metrics = [{"pick": {"ticker": "KO"}, "alphaPct": "-1.5"}, {"pick": {"ticker": "MSFT"}, "alphaPct": "2"}]
    found = batch_chart.of_batch(
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
                {"day": 3, "status": "SKIPPED", "skipReason": "MARKET_CLOSED", "metrics": []},
            ],
        }
    )
    lines = [line("KO", "-1.5", action="SELL"), line("MSFT", "2")]
    assert found == Fortnight(MONDAY, "SPY", lines, {2: "no price", 3: "closed"})


def test_a_gap_is_no_line():
    """Between mornings that do not follow each other there is only a trail of dots, and shade below it."""
    svg = parsed(line("KO", "1", "2", "", "4"), skipped={3: "no price"})
    courses = [found for found in svg.iter(f"{SVG}line") if found.get("class") == "stroke-pick-1"]
    assert [found.get("stroke-dasharray") for found in courses] == [None, None, "0.1 5"]
    shades = [found for found in svg.iter(f"{SVG}rect") if found.get("class") == "fill-shade"]
    scale = Scale(WIDE, [0, 4])
    assert len(shades) == 1
    assert float(shades[0].get("x")) < scale.x(3) < float(shades[0].get("x")) + float(shades[0].get("width"))
    assert "no price" in texts(svg)


def test_lines_differ_without_colour():
    """Each pick has a dash, a mark and a name of its own."""
    svg = parsed(line("KO", "1", "2"), line("MSFT", "2", "3"), line("XOM", "-1", "-2"))
    dashes = {
        found.get("class"): found.get("stroke-dasharray")
        for found in svg.iter(f"{SVG}line")
        if found.get("class", "").startswith("stroke-pick")
    }
    assert dashes == {"stroke-pick-1": None, "stroke-pick-2": "7 4", "stroke-pick-3": "2 3.5"}
    marks = {(found.tag, found.get("class")) for found in svg if (found.get("class") or "").startswith("fill-pick")}
    assert {(f"{SVG}circle", "fill-pick-1"), (f"{SVG}rect", "fill-pick-2"), (f"{SVG}path", "fill-pick-3")} <= marks
    assert {"BUY KO +2.00", "BUY MSFT +3.00", "BUY XOM \N{MINUS SIGN}2.00", "SPY"} <= set(texts(svg))


def test_says_in_words_what_it_shows():
    svg = parsed(line("KO", "1.005", "", action="SELL"), line("MSFT", "-0.5"), skipped={2: "closed"})
    assert svg.get("role") == "img"
    told = {found.get("id"): found.text for found in svg if found.tag in (f"{SVG}title", f"{SVG}desc")}
    assert svg.get("aria-labelledby").split() == list(told)
    assert told["chart-title"] == (
        "Percentage points in the call's favour against SPY, for each pick of Monday 5 January 2026: above zero, the "
        "call is right"
    )
    assert told["chart-told"] == (
        "SELL KO +1.00 on day 1 and BUY MSFT \N{MINUS SIGN}0.50 on day 1. Days without figures: 2."
    )


def test_before_the_first_morning():
    """With nothing but day 0 it says that there is nothing to see yet."""
    svg = parsed(line("KO"), line("MSFT"))
    assert "No morning has figures yet." in texts(svg)
    assert svg.find(f"{SVG}desc").text == "No morning has figures yet."


@pytest.mark.parametrize("look", [WIDE, NARROW], ids=["wide", "narrow"])
def test_by_itself_it_needs_no_style(look):
    """With a palette no class is left, and every colour is written out."""
    alone = Look(look.width, look.height, palette=LIGHT)
    svg = drawn(Fortnight(MONDAY, "SPY", [line("KO", "1", "2")], {3: "closed"}), alone)
    assert "class=" not in svg
    assert set(re.findall(r'(?:fill|stroke)="(#[^"]*)"', svg)) <= set(LIGHT.values())


def test_what_a_name_holds_is_text():
    svg = drawn(Fortnight(MONDAY, "S<Y", [Line('"<b>', "BUY", {0: Decimal(0), 1: Decimal(1)})]))
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
    """Round numbers around all values, zero among them."""
    assert batch_chart.ticks(values) == expected


points = st.lists(st.decimals(-300, 300, places=4).map(str) | st.just(""), min_size=0, max_size=14)


@given(st.lists(points, min_size=1, max_size=3), st.sampled_from([WIDE, NARROW]))
def test_everything_lies_within(courses, look):
    """Whatever the figures, it is well-formed, nothing lies outside the frame, and no name covers another."""
    svg = parsed(*[line(f"A{number}", *course) for number, course in enumerate(courses)], look=look)
    for found in svg.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(found.get(name, 0)) <= look.width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(found.get(name, 0)) <= look.height
    at = sorted(float(found.get("y")) for found in svg.iter(f"{SVG}text") if found.find(f"{SVG}tspan") is not None)
    assert all(after - before >= look.text for before, after in itertools.pairwise(at))
