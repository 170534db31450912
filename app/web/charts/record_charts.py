"""
The whole record as drawings: the summed curve, the weeks, intervals, and where the record stands among random calls.

Pure, as `batch_chart` is, whose measures and colours these share.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from app.web.charts.batch_chart import NARROW, WIDE, Look, ground, labelled, rule, text, ticks
from app.web.charts.batch_chart import element as drawn_element
from app.web.charts.batch_chart import rect as rectangle
from app.web.formatting import short_day, signed

SHAPES = {
    "wide": replace(WIDE, height=260, right=72, bottom=30),
    "narrow": replace(NARROW, height=220, right=52, bottom=30),
}


class Plane(Struct, frozen=True):
    """Where values lie on a drawing: across between `low` and `high`, upwards between the first and the last tick."""

    look: Look
    low: float
    high: float
    ticks: Sequence[float]

    def x(self, value: float) -> float:
        """Return the place of a value across."""
        span = self.look.width - self.look.left - self.look.right
        return round(self.look.left + (value - self.low) / ((self.high - self.low) or 1) * span, 1)

    def y(self, value: float) -> float:
        """Return the height of a value."""
        span = self.look.height - self.look.top - self.look.bottom
        low, high = self.ticks[0], self.ticks[-1]
        return round(self.look.top + (high - value) / (high - low) * span, 1)


class Whisker(Struct, frozen=True):
    """A value with the interval it may as well be in, as texts of the API."""

    name: str
    value: str
    low: str
    high: str


def whisker(name: str, value: str | None, interval: Mapping[str, str] | None) -> list[Whisker]:
    """Return a value with its interval in a list, or none of them where one is not known."""
    return [Whisker(name, value, interval["low"], interval["high"])] if value is not None and interval else []


def curve(points: Sequence[Mapping[str, Any]], look: Look, name: str) -> str:
    """Draw the sum of every batch's points, Monday by Monday."""
    sums = [0.0, *(float(one["sumPct"]) for one in points)]
    plane = Plane(look, 0, len(points), ticks(sums))
    path = " ".join(f"{'M' if not at else 'L'}{plane.x(at)} {plane.y(value)}" for at, value in enumerate(sums))
    last = points[-1]["sumPct"]
    return _svg(
        look,
        name,
        "The sum of every batch's points, Monday by Monday",
        f"After {len(points)} scored batches the sum is {signed(last)} percentage points.",
        *ground(plane),
        *_ends(plane, points, "runDate"),
        drawn_element(
            "path", d=path, fill="none", stroke_width=2, stroke_linejoin="round", **look.paint(stroke="accent")
        ),
        text(
            signed(last),
            plane.x(len(points)) + 8,
            plane.y(sums[-1]) + look.text * 0.35,
            "start",
            look.paint(fill="accent"),
        ),
    )


def weeks(held: Sequence[Mapping[str, Any]], look: Look, name: str) -> str:
    """Draw what each week's picks added, as bars up and down."""
    values = [float(one["excessPct"]) for one in held]
    plane = Plane(look, 0, len(held), ticks(values))
    wide = max(1.0, (plane.x(1) - plane.x(0)) * 0.7)
    up = sum(value > 0 for value in values)
    return _svg(
        look,
        name,
        "Percentage points in the calls' favour that each week added to the picks held in it, on average",
        f"{up} of {len(values)} weeks were above zero.",
        *ground(plane),
        *_ends(plane, held, "monday"),
        *(_bar(plane, plane.x(at + 0.5) - wide / 2, wide, value) for at, value in enumerate(values)),
    )


def _bar(plane: Plane, x: float, width: float, value: float) -> str:
    top, bottom = sorted((plane.y(value), plane.y(0)))
    colour = plane.look.paint(fill="accent" if value > 0 else "bar")
    return rectangle(x, top, width, max(bottom - top, 0.5), **colour)


def random(control: Mapping[str, Any], mean: str, look: Look, name: str) -> str:
    """Draw how often random calls came to which mean, and where the record's own stands among them."""
    bins = control["bins"]
    counts = [float(one["count"]) for one in bins]
    at = float(mean)
    low, high = min(float(bins[0]["low"]), at), max(float(bins[-1]["high"]), at)
    plane = Plane(look, low, high, ticks(counts))
    anchor = "start" if plane.x(at) < look.width / 2 else "end"
    beside = 6 if anchor == "start" else -6
    return _svg(
        look,
        name,
        f"Mean points of {control['draws']} draws of random calls on the same picks",
        f"The record's own mean, {signed(mean)}, is above {signed(control['belowPct']).lstrip('+')} % of them.",
        *ground(plane, signs=False),
        *(_bin(plane, one) for one in bins),
        *_marks(plane),
        rule(plane.x(at), look.top, plane.x(at), plane.y(0), stroke_width=2, **look.paint(stroke="accent")),
        text(
            f"the record {signed(mean)}", plane.x(at) + beside, look.top + look.text, anchor, look.paint(fill="accent")
        ),
    )


def _bin(plane: Plane, one: Mapping[str, Any]) -> str:
    left, right, top = plane.x(float(one["low"])), plane.x(float(one["high"])), plane.y(float(one["count"]))
    return rectangle(left + 0.5, top, max(right - left - 1, 0.5), plane.y(0) - top, **plane.look.paint(fill="bar"))


def _marks(plane: Plane) -> Iterator[str]:
    """Write under a drawing what lies where across."""
    look = plane.look
    for value in ticks([plane.low, plane.high], 4 if look.width < 500 else 8):
        if plane.low <= value <= plane.high:
            yield labelled(value, plane.x(value), look.height - look.bottom + look.text * 1.5, "middle", look)


def whiskers(rows: Sequence[Whisker], about: float, look: Look, name: str, title: str) -> str:
    """Draw values as dots on their intervals, beside the line of what would be nothing: `about`."""
    ends = [float(end) - about for row in rows for end in (row.low, row.high)]
    across = ticks(ends)
    look = replace(look, height=int(look.top + 46 * len(rows) + 34), left=24, right=24, bottom=30)
    plane = Plane(look, across[0], across[-1], [0, 1])
    return _svg(
        look,
        name,
        title,
        " ".join(f"{row.name}: {signed(row.value)}, between {signed(row.low)} and {signed(row.high)}." for row in rows),
        *(rule(plane.x(value), look.top, plane.x(value), look.height - look.bottom,
            **look.paint(stroke="ink" if value == 0 else "rule")) for value in across),
        *(labelled(value + about, plane.x(value), look.height - look.bottom + look.text * 1.5, "middle", look,
            signs=not about) for value in across),
        *(part for number, row in enumerate(rows) for part in _whisker(row, about, plane, look.top + 46 * number + 14)),
    )  # fmt: skip


def _whisker(row: Whisker, about: float, plane: Plane, y: float) -> Iterator[str]:
    look = plane.look
    low, value, high = (float(one) - about for one in (row.low, row.value, row.high))
    yield text(
        escape(row.name),
        plane.x(low),
        y,
        "start" if plane.x(low) < look.width * 0.6 else "end",
        {"class": "fill-ink halo"},
    )
    yield rule(
        plane.x(low), y + 14, plane.x(high), y + 14, stroke_width=4, stroke_linecap="round", **look.paint(stroke="bar")
    )
    yield drawn_element("circle", cx=plane.x(value), cy=y + 14, r=5.5, **look.paint(fill="accent"))


def _ends(plane: Plane, points: Sequence[Mapping[str, Any]], when: str) -> Iterator[str]:
    """Write under a drawing when it begins and ends."""
    look = plane.look
    y = look.height - look.bottom + look.text * 1.5
    for at, anchor, one in ((plane.low, "start", points[0]), (plane.high, "end", points[-1])):
        on = one[when]
        yield text(f"{short_day(on)[4:]} {on[:4]}", plane.x(at), y, anchor, look.paint(fill="faint"))


def _svg(look: Look, name: str, title: str, told: str, *inside: str) -> str:
    return drawn_element(
        "svg",
        drawn_element("title", escape(title), id=f"{name}-title"),
        drawn_element("desc", escape(told), id=f"{name}-told"),
        *inside,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {look.width} {look.height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-told",
        font_size=look.text,
    )
