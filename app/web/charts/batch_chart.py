"""
A fortnight as a drawing: each call's points in its favour against the benchmark, morning by morning.

The benchmark is the zero line, and a SELL's line rises when its share falls behind: up is right for every pick. A line
is only drawn between mornings that follow each other; days without figures are shaded, and the dots that lead over them
say that nothing was measured there. Everything is told without colour too: by dashes, marks and the names at the ends.

Pure: SVG from values. On a page, colours are classes that its style sheet knows; with a palette they are written into
the drawing, which then needs nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from app.domain.model import CHECKPOINT_DAYS
from app.web.formatting import day as in_full
from app.web.formatting import listed, short_day, signed

DASHES = (None, "7 4", "2 3.5")
_STYLES = len(DASHES)
# How many letters of a ticker are written on a drawing, and how wide a letter is, in sizes of the text.
_LONGEST = 8
_LETTER = 0.62
WHY = {"MARKET_CLOSED": "closed", "MISSING_CLOSE": "no price", "PROVIDER_ERROR": "no price"}


class Line(Struct, frozen=True):
    """
    A pick's course: for each morning that has figures, the percentage points in the call's favour.

    `picked_as` is the ticker that the model chose, where the share has another one now.
    """

    ticker: str
    action: str
    points: Mapping[int, Decimal]
    picked_as: str | None = None


class Fortnight(Struct, frozen=True):
    """What is drawn of a batch; `skipped` says of days without figures why, in a word or two."""

    run_date: date
    benchmark: str
    lines: Sequence[Line]
    skipped: Mapping[int, str] = {}


class Look(Struct, frozen=True):
    """The measures of a drawing in its own units, and its colours, unless a style sheet knows them."""

    width: int
    height: int
    text: float = 13
    left: int = 44
    right: int = 172
    top: int = 14
    bottom: int = 46
    palette: Mapping[str, str] | None = None

    def paint(self, **colours: str) -> dict[str, str]:
        """Return the attributes that give an element's `stroke` or `fill` its colour."""
        if self.palette is not None:
            return {what: self.palette[name] for what, name in colours.items()}
        return {"class": " ".join(f"{what}-{name}" for what, name in colours.items())}


WIDE = Look(960, 340)
NARROW = Look(358, 280, text=12, left=36, right=146)
# For drawings that are seen by themselves. The same colours as the style sheet's, by light.
LIGHT = {
    "pick-1": "#1f4e8c", "pick-2": "#a4460c", "pick-3": "#5b3f8f",
    "ink": "#1b1f24", "faint": "#59616c", "rule": "#d9d8d3", "shade": "#efeeea", "paper": "#fbfaf7",
}  # fmt: skip


class Scale(Struct, frozen=True):
    """Where days and percentage points lie on a drawing."""

    look: Look
    ticks: Sequence[float]

    def x(self, day: float) -> float:
        """Return the place of a day."""
        return round(self.look.left + day / CHECKPOINT_DAYS * (self.look.width - self.look.left - self.look.right), 1)

    def y(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        span = self.look.height - self.look.top - self.look.bottom
        return round(self.look.top + (high - value) / (high - low) * span, 1)


def of_batch(batch: Mapping[str, Any]) -> Fortnight:
    """Return what is drawn of a batch as the API tells it."""
    taken = batch["checkpoints"]
    lines = [
        Line(
            pick["ticker"],
            pick["action"],
            {0: Decimal(0), **_points(pick["ticker"], taken)},
            None if pick["pickedAs"] == pick["ticker"] else pick["pickedAs"],
        )
        for pick in batch["picks"]
    ]
    skipped = {one["day"]: WHY[one["skipReason"]] for one in taken if one["status"] == "SKIPPED"}
    return Fortnight(date.fromisoformat(batch["runDate"]), batch["benchmarkSymbol"], lines, skipped)


def _points(ticker: str, checkpoints: Sequence[Mapping[str, Any]]) -> dict[int, Decimal]:
    return {
        one["day"]: Decimal(metric["alphaPct"])
        for one in checkpoints
        for metric in one["metrics"]
        if metric["pick"]["ticker"] == ticker
    }


def drawn(fortnight: Fortnight, look: Look = WIDE, name: str = "chart") -> str:
    """Return a fortnight as SVG; `name` tells it from other drawings of the same page."""
    look = _with_room(look, fortnight.lines)
    scale = Scale(look, ticks([float(value) for line in fortnight.lines for value in line.points.values()]))
    return element(
        "svg",
        *_told(fortnight, name),
        *_days(fortnight, scale),
        *_names(fortnight, scale),
        *(part for number, line in enumerate(fortnight.lines) for part in _course(line, number, scale)),
        *_nothing_yet(fortnight, scale),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {look.width} {look.height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-told",
        font_size=look.text,
        **({"font_family": "sans-serif"} if look.palette else {}),
    )


def _with_room(look: Look, lines: Sequence[Line]) -> Look:
    """Return a look with room at its right for the names that renamed shares had before."""
    longest = max((len(_before(line)) for line in lines), default=0)
    return replace(look, right=look.right + ceil(longest * look.text * _LETTER))


def _before(line: Line) -> str:
    return f" ({line.picked_as[:_LONGEST]})" if line.picked_as else ""


def ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Return round numbers at even distances, from below the least value to above the greatest, zero among them."""
    low, high = min([*values, 0.0]), max([*values, 0.0])
    if low == high:
        return [-1.0, 0.0, 1.0]
    rough = max(high - low, 1.0) / about
    unit = 10.0 ** floor(log10(rough))
    step = unit * next(times for times in (1, 2, 5, 10) if unit * times >= rough)
    first, last = floor(low / step), ceil(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def in_words(fortnight: Fortnight) -> str:
    """Return what a drawing shows, for whoever does not see it."""
    known = [line for line in fortnight.lines if len(line.points) > 1]
    if not known:
        return "No morning has figures yet."
    ends = [f"{_told_as(line)} {signed(_last(line)[1])} on day {_last(line)[0]}" for line in known]
    gaps = f" Days without figures: {listed([str(day) for day in fortnight.skipped])}." if fortnight.skipped else ""
    return f"{listed(ends)}.{gaps}"


def _told_as(line: Line) -> str:
    named = f"{line.action} {line.ticker}"
    return f"{named} (picked as {line.picked_as})" if line.picked_as else named


def _told(fortnight: Fortnight, name: str) -> Iterator[str]:
    title = (
        f"Percentage points in the call's favour against {fortnight.benchmark}, for each pick of "
        f"{in_full(fortnight.run_date)}: above zero, the call is right"
    )
    yield element("title", escape(title, quote=False), id=f"{name}-title")
    yield element("desc", escape(in_words(fortnight)), id=f"{name}-told")


def _days(fortnight: Fortnight, scale: Scale) -> Iterator[str]:
    """Shade the days without figures, and draw the scales."""
    look = scale.look
    half = (scale.x(1) - scale.x(0)) / 2
    floor_at = look.height - look.bottom
    for day in fortnight.skipped:
        begin, end = max(scale.x(day) - half, look.left), min(scale.x(day) + half, look.width - look.right)
        yield rect(begin, look.top, end - begin, floor_at - look.top, **look.paint(fill="shade"))
    yield from ground(scale)
    for day in range(0, CHECKPOINT_DAYS + 1, 1 if look.width > 500 else 7):
        yield from _day(fortnight, day, scale)
    yield from _reasons(fortnight, scale)


class Upright(Protocol):
    """What tells the height of values on a drawing."""

    @property
    def look(self) -> Look:
        """Return the measures of the drawing."""
        ...

    @property
    def ticks(self) -> Sequence[float]:
        """Return the values that are marked."""
        ...

    def y(self, value: float) -> float:
        """Return the height of a value."""
        ...


def ground(scale: Upright, *, signs: bool = True) -> Iterator[str]:
    """Draw a line at each tick, the one at zero in ink."""
    look = scale.look
    for value in scale.ticks:
        colour = "ink" if value == 0 else "rule"
        yield rule(look.left, scale.y(value), look.width - look.right, scale.y(value), **look.paint(stroke=colour))
        yield labelled(value, look.left - 8, scale.y(value) + look.text * 0.35, "end", look, signs=signs)


def labelled(value: float, x: float, y: float, anchor: str, look: Look, *, signs: bool = True) -> str:
    """Write a tick's value."""
    shown = f"{value:+g}" if signs and value else f"{value:g}"
    return text(shown.replace("-", "\N{MINUS SIGN}"), x, y, anchor, look.paint(fill="faint"))


def _day(fortnight: Fortnight, day: int, scale: Scale) -> Iterator[str]:
    """Write a day's number, and under Mondays its date."""
    look = scale.look
    under = look.height - look.bottom + look.text * 1.5
    yield text(str(day), scale.x(day), under, "middle", look.paint(fill="faint"))
    if day % 7 == 0:
        anchor = {0: "start", 7: "middle", CHECKPOINT_DAYS: "end"}[day]
        on = short_day(fortnight.run_date + timedelta(days=day))[0 if look.width > 500 else 4 :]
        yield text(on, scale.x(day), under + look.text * 1.35, anchor, look.paint(fill="ink"))


def _reasons(fortnight: Fortnight, scale: Scale) -> Iterator[str]:
    """Write into each run of shaded days why they have no figures."""
    look = scale.look
    for days, why in runs(fortnight.skipped):
        at = (scale.x(days[0]) + scale.x(days[-1])) / 2
        turned = f"rotate(-90 {at:.1f} {look.height - look.bottom - 6})"
        yield text(
            why,
            at + look.text * 0.35,
            look.height - look.bottom - 6,
            "start",
            look.paint(fill="faint"),
            transform=turned,
        )


def runs(skipped: Mapping[int, str]) -> list[tuple[list[int], str]]:
    """Return the runs of neighbouring days that were skipped for one reason."""
    found: list[tuple[list[int], str]] = []
    for day, why in sorted(skipped.items()):
        if found and found[-1][0][-1] == day - 1 and found[-1][1] == why:
            found[-1][0].append(day)
        else:
            found.append(([day], why))
    return found


def _course(line: Line, number: int, scale: Scale) -> Iterator[str]:
    """Draw a pick's line from morning to morning, and a mark on each."""
    colour = f"pick-{number % _STYLES + 1}"
    days = sorted(line.points)
    for before, day in pairwise(days):
        follows = day == before + 1
        yield rule(
            scale.x(before),
            _y(line, before, scale),
            scale.x(day),
            _y(line, day, scale),
            stroke_width=2.25 if follows else 1.25,
            stroke_linecap="round",
            stroke_dasharray=DASHES[number % _STYLES] if follows else "0.1 5",
            **scale.look.paint(stroke=colour),
        )
    for day in days[1:]:
        yield _mark(number, scale.x(day), _y(line, day, scale), scale.look.paint(fill=colour))


def _mark(number: int, x: float, y: float, paint: Mapping[str, str]) -> str:
    """Draw a dot, a square or a triangle: each pick has its own."""
    if number % _STYLES == 0:
        return element("circle", cx=x, cy=y, r=3.4, **paint)
    if number % _STYLES == 1:
        return rect(x - 3, y - 3, 6, 6, **paint)
    return element("path", d=f"M{x} {y - 4.2:.1f}l4 7h-8z", **paint)


def _names(fortnight: Fortnight, scale: Scale) -> Iterator[str]:
    """Write at each line's end whose it is and where it stands, without one name covering another."""
    look = scale.look
    named = list(_ends(fortnight, scale))
    places = spread([wish for _, wish, _, _ in named], look.text * 1.35, look.top, look.height - look.bottom)
    for (x, wish, colour, words), at in zip(named, places, strict=True):
        edge = look.width - look.right
        yield rule(x, wish, edge, wish, stroke_width="1", **look.paint(stroke="rule"))
        yield rule(edge, wish, edge + 8, at, stroke_width="1", **look.paint(stroke="faint"))
        yield text(words, edge + 12, at + look.text * 0.35, "start", look.paint(fill=colour))


def _ends(fortnight: Fortnight, scale: Scale) -> Iterator[tuple[float, float, str, str]]:
    """Yield the end of each line, the benchmark's first: where it is, its colour, and its name."""
    yield scale.x(CHECKPOINT_DAYS), scale.y(0), "ink", element("tspan", escape(fortnight.benchmark), font_weight="650")
    for number, line in enumerate(fortnight.lines):
        day, value = _last(line)
        if day:
            name = element("tspan", escape(line.ticker[:_LONGEST]), font_weight="650")
            colour = f"pick-{number % _STYLES + 1}"
            words = f"{escape(line.action)} {name}{escape(_before(line))} {signed(value)}"
            yield scale.x(day) + 6, scale.y(float(value)), colour, words


def spread(wanted: Sequence[float], apart: float, top: float, bottom: float) -> list[float]:
    """Return places at least so far apart, in the same order, as near as can be to those that are wanted."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed: list[float] = []
    for index in order:
        placed.append(max(wanted[index], placed[-1] + apart if placed else top))
    limit = bottom
    for at in reversed(range(len(placed))):
        placed[at] = min(placed[at], limit)
        limit = placed[at] - apart
    found = dict(zip(order, placed, strict=True))
    return [round(found[index], 1) for index in range(len(wanted))]


def _nothing_yet(fortnight: Fortnight, scale: Scale) -> Iterator[str]:
    if not any(_last(line)[0] for line in fortnight.lines):
        look = scale.look
        middle = (look.left + look.width - look.right) / 2
        yield text("No morning has figures yet.", middle, scale.y(0) - look.text, "middle", look.paint(fill="faint"))


def _last(line: Line) -> tuple[int, Decimal]:
    day = max(line.points)
    return day, line.points[day]


def _y(line: Line, day: int, scale: Scale) -> float:
    return scale.y(float(line.points[day]))


def rule(x1: float, y1: float, x2: float, y2: float, **attributes: Any) -> str:
    """Return a line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def rect(x: float, y: float, width: float, height: float, **attributes: Any) -> str:
    """Return a rectangle."""
    return element("rect", x=round(x, 1), y=round(y, 1), width=round(width, 1), height=round(height, 1), **attributes)


def text(inside: str, x: float, y: float, anchor: str, paint: Mapping[str, str], **attributes: Any) -> str:
    """Return a text; `inside` is markup."""
    return element("text", inside, x=round(x, 1), y=round(y, 1), text_anchor=anchor, **attributes, **paint)


def element(name: str, *inside: str, **attributes: Any) -> str:
    """Return an element with what is inside it, which is markup, and those attributes that have a value."""
    said = "".join(
        f' {key.replace("_", "-")}="{escape(value) if isinstance(value, str) else value}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{said}>{''.join(inside)}</{name}>"
