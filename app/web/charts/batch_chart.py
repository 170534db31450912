"""
The chart of a batch: the percentage points in each call's favour, day by day.

The benchmark is the zero line. The line of a SELL rises when its share does worse than the
benchmark. So if a line is above zero, the call of its pick is right, BUY or SELL. A solid or dashed
line connects only consecutive days. Days without figures are shaded. A dotted line leads across
them, to show that nothing was measured there. Nothing is expressed by colour alone: dashes, marks
and labels at the ends distinguish the picks as well.

All functions are pure: they return SVG for values.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from itertools import pairwise
from math import ceil
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from app.domain.model import CHECKPOINT_DAYS
from app.domain.text import join_words
from app.web.charts import svg
from app.web.charts.layout import WIDE, Layout, draw_gridlines, round_ticks
from app.web.formatting import long_date, short_date, signed

# The dashes of the picks, in their order.
DASHES = (None, "7 4", "2 3.5")
_STYLES = len(DASHES)
_DOTTED = "0.1 5"
# How many letters of a ticker are written on a drawing, and the width of a letter as a multiple of
# the size of the text.
_MAX_LETTERS = 8
_LETTER_WIDTH = 0.62
# The words on a shaded day, by the reason why the checkpoint was skipped.
SKIP_WORDS = {"MARKET_CLOSED": "closed", "MISSING_CLOSE": "no price", "PROVIDER_ERROR": "no price"}
# The word on a day that was skipped as a closed day, but counts as one of a session.
_SKIPPED = "skipped"


class PickLine(Struct, frozen=True):
    """
    The line of one pick: the percentage points in the call's favour, by day.

    `picked_as` is the ticker that the model chose, if the share has another ticker now.
    """

    ticker: str
    action: str
    points: Mapping[int, Decimal]
    picked_as: str | None = None

    @property
    def last_day(self) -> int:
        """Return the last day that has figures; 0 if only the baseline is known."""
        return max(self.points)

    @property
    def last_points(self) -> Decimal:
        """Return the points of the last day that has figures."""
        return self.points[self.last_day]

    def y(self, day: int, scale: "Scale") -> float:
        """Return the vertical position of a day's points."""
        return scale.y(float(self.points[day]))


class BatchChart(Struct, frozen=True):
    """The contents of the chart. `skipped` has a word or two for each day without figures."""

    run_date: date
    benchmark: str
    lines: Sequence[PickLine]
    skipped: Mapping[int, str] = {}


class Scale(Struct, frozen=True):
    """The positions of days and percentage points on a drawing."""

    layout: Layout
    ticks: Sequence[float]

    def x(self, day: float) -> float:
        """Return the horizontal position of a day."""
        layout = self.layout
        span = layout.width - layout.left - layout.right
        return round(layout.left + day / CHECKPOINT_DAYS * span, 1)

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        span = self.layout.height - self.layout.top - self.layout.bottom
        return round(self.layout.top + (high - value) / (high - low) * span, 1)

    @property
    def bottom(self) -> float:
        """Return the vertical position of the lower edge of the plot."""
        return self.layout.height - self.layout.bottom


def chart_of_batch(batch: Mapping[str, Any]) -> BatchChart:
    """Return the chart of a batch. `batch` has the form in which the API returns it."""
    checkpoints = batch["checkpoints"]
    lines = [
        PickLine(
            ticker=pick["ticker"],
            action=pick["action"],
            points={0: Decimal(0), **_points(pick["ticker"], checkpoints)},
            picked_as=_former_name(pick),
        )
        for pick in batch["picks"]
    ]
    skipped = {
        checkpoint["day"]: _skip_word(checkpoint)
        for checkpoint in checkpoints
        if checkpoint["status"] == "SKIPPED"
    }
    return BatchChart(
        run_date=date.fromisoformat(batch["runDate"]),
        benchmark=batch["benchmarkSymbol"],
        lines=lines,
        skipped=skipped,
    )


def _skip_word(checkpoint: Mapping[str, Any]) -> str:
    """Return the words on the day of a skipped checkpoint."""
    if checkpoint["skipReason"] == "MARKET_CLOSED" and checkpoint["wasSession"]:
        return _SKIPPED
    return SKIP_WORDS[checkpoint["skipReason"]]


def _former_name(pick: Mapping[str, Any]) -> str | None:
    """Return the ticker that the model chose, or None if the share still has it."""
    if pick["pickedAs"] == pick["ticker"]:
        return None
    return str(pick["pickedAs"])


def _points(ticker: str, checkpoints: Sequence[Mapping[str, Any]]) -> dict[int, Decimal]:
    points = {}
    for checkpoint in checkpoints:
        for metric in checkpoint["metrics"]:
            if metric["pick"]["ticker"] == ticker:
                points[checkpoint["day"]] = Decimal(metric["alphaPct"])
    return points


def draw(chart: BatchChart, layout: Layout = WIDE, name: str = "chart") -> str:
    """Return the chart as SVG. `name` makes its ids different from those of other charts."""
    layout = _with_room_for_labels(layout, chart.lines)
    values: list[float] = []
    for line in chart.lines:
        values += map(float, line.points.values())
    scale = Scale(layout, round_ticks(values))
    courses: list[str] = []
    for number, line in enumerate(chart.lines):
        courses += _draw_course(line, number, scale)
    font = {}
    if layout.palette:
        # A drawing outside of a page has no style sheet that sets the font.
        font["font_family"] = "sans-serif"
    return svg.element(
        "svg",
        *_title_and_description(chart, name),
        *_draw_days(chart, scale),
        *_draw_labels(chart, scale),
        *courses,
        *_draw_nothing_yet(chart, scale),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {layout.width} {layout.height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-description",
        font_size=layout.text,
        **font,
    )


def _with_room_for_labels(layout: Layout, lines: Sequence[PickLine]) -> Layout:
    """Return the layout with more room at the right for the former tickers of renamed shares."""
    longest = max((len(_former_ticker(line)) for line in lines), default=0)
    return replace(layout, right=layout.right + ceil(longest * layout.text * _LETTER_WIDTH))


def _former_ticker(line: PickLine) -> str:
    if not line.picked_as:
        return ""
    return f" ({line.picked_as[:_MAX_LETTERS]})"


def describe(chart: BatchChart) -> str:
    """Return a text for readers who do not see the chart: where each line ends, and the gaps."""
    measured = [line for line in chart.lines if line.last_day]
    if not measured:
        return "No morning has figures yet."
    ends = [
        f"{_line_name(line)} {signed(line.last_points)} on day {line.last_day}" for line in measured
    ]
    text = f"{join_words(ends)}."
    if chart.skipped:
        days = join_words([str(day) for day in chart.skipped])
        text += f" Days without figures: {days}."
    return text


def _line_name(line: PickLine) -> str:
    name = f"{line.action} {line.ticker}"
    if line.picked_as:
        return f"{name} (picked as {line.picked_as})"
    return name


def _title_and_description(chart: BatchChart, name: str) -> Iterator[str]:
    title = (
        f"Percentage points in the call's favour against {chart.benchmark}, for each pick of "
        f"{long_date(chart.run_date)}: above zero, the call is right"
    )
    yield svg.element("title", escape(title, quote=False), id=f"{name}-title")
    yield svg.element("desc", escape(describe(chart), quote=False), id=f"{name}-description")


def _draw_days(chart: BatchChart, scale: Scale) -> Iterator[str]:
    """Shade the days without figures, and draw the axes."""
    layout = scale.layout
    half_a_day = (scale.x(1) - scale.x(0)) / 2
    for day in chart.skipped:
        left = max(scale.x(day) - half_a_day, layout.left)
        right = min(scale.x(day) + half_a_day, layout.width - layout.right)
        yield svg.rect(
            x=left,
            y=layout.top,
            width=right - left,
            height=scale.bottom - layout.top,
            **layout.paint(fill="shade"),
        )
    yield from draw_gridlines(scale)
    for day in range(CHECKPOINT_DAYS + 1):
        # On a narrow drawing there is only room for the labels of the Mondays.
        if _is_wide(layout) or day % 7 == 0:
            yield from _draw_day_label(chart, day, scale)
    yield from _draw_skip_words(chart, scale)


def _is_wide(layout: Layout) -> bool:
    return layout.width > 500


def _draw_day_label(chart: BatchChart, day: int, scale: Scale) -> Iterator[str]:
    """Write the number of a day, and below the number the date if the day is a Monday."""
    layout = scale.layout
    y = scale.bottom + layout.text * 1.5
    x = scale.x(day)
    yield svg.text(str(day), x=x, y=y, anchor="middle", paint=layout.paint(fill="faint"))
    if day % 7 == 0:
        # The dates at both ends must not reach beyond the drawing.
        anchor = {0: "start", 7: "middle", CHECKPOINT_DAYS: "end"}[day]
        label = short_date(chart.run_date + timedelta(days=day))
        if not _is_wide(layout):
            label = label[len("Mon ") :]
        yield svg.text(
            label,
            x=x,
            y=y + layout.text * 1.35,
            anchor=anchor,
            paint=layout.paint(fill="ink"),
        )


def _draw_skip_words(chart: BatchChart, scale: Scale) -> Iterator[str]:
    """Write into each group of shaded days why it has no figures. The text runs upwards."""
    layout = scale.layout
    y = scale.bottom - 6
    for days, words in group_days(chart.skipped):
        middle = (scale.x(days[0]) + scale.x(days[-1])) / 2
        yield svg.text(
            words,
            x=middle + layout.text * 0.35,
            y=y,
            anchor="start",
            paint=layout.paint(fill="faint"),
            transform=f"rotate(-90 {middle:.1f} {y})",
        )


def group_days(skipped: Mapping[int, str]) -> list[tuple[list[int], str]]:
    """Return the groups of consecutive days that have the same words, in the order of days."""
    groups: list[tuple[list[int], str]] = []
    for day, words in sorted(skipped.items()):
        if groups:
            days, words_before = groups[-1]
            if days[-1] == day - 1 and words_before == words:
                days.append(day)
                continue
        groups.append(([day], words))
    return groups


def _draw_course(line: PickLine, number: int, scale: Scale) -> Iterator[str]:
    """Draw the line of a pick, and a mark on each day."""
    colour = f"pick-{number % _STYLES + 1}"
    days = sorted(line.points)
    for before, day in pairwise(days):
        if day == before + 1:
            width, dashes = 2.25, DASHES[number % _STYLES]
        else:
            width, dashes = 1.25, _DOTTED
        yield svg.line(
            x1=scale.x(before),
            y1=line.y(before, scale),
            x2=scale.x(day),
            y2=line.y(day, scale),
            stroke_width=width,
            stroke_linecap="round",
            stroke_dasharray=dashes,
            **scale.layout.paint(stroke=colour),
        )
    for day in days[1:]:
        yield _mark(
            number,
            x=scale.x(day),
            y=line.y(day, scale),
            paint=scale.layout.paint(fill=colour),
        )


def _mark(number: int, *, x: float, y: float, paint: Mapping[str, str]) -> str:
    """Return the mark of a pick: a circle, a square or a triangle."""
    if number % _STYLES == 0:
        return svg.element("circle", cx=x, cy=y, r=3.4, **paint)
    if number % _STYLES == 1:
        return svg.rect(x=x - 3, y=y - 3, width=6, height=6, **paint)
    return svg.element("path", d=f"M{x} {y - 4.2:.1f}l4 7h-8z", **paint)


class _EndLabel(Struct, frozen=True):
    """The label at the end of a line. `y` is where the line ends; the label may have to move."""

    x: float
    y: float
    colour: str
    markup: str


def _draw_labels(chart: BatchChart, scale: Scale) -> Iterator[str]:
    """Write at the end of each line its name and its points. No label covers another one."""
    layout = scale.layout
    labels = list(_end_labels(chart, scale))
    positions = spread(
        [label.y for label in labels],
        distance=layout.text * 1.35,
        top=layout.top,
        bottom=scale.bottom,
    )
    edge = layout.width - layout.right
    for label, y in zip(labels, positions, strict=True):
        # Two thin lines lead from the end of a line to its label: the first one to the edge of the
        # plot, and the second one from there to the label.
        yield svg.line(
            x1=label.x,
            y1=label.y,
            x2=edge,
            y2=label.y,
            stroke_width="1",
            **layout.paint(stroke="rule"),
        )
        yield svg.line(
            x1=edge,
            y1=label.y,
            x2=edge + 8,
            y2=y,
            stroke_width="1",
            **layout.paint(stroke="faint"),
        )
        yield svg.text(
            label.markup,
            x=edge + 12,
            y=y + layout.text * 0.35,
            anchor="start",
            paint=layout.paint(fill=label.colour),
        )


def _end_labels(chart: BatchChart, scale: Scale) -> Iterator[_EndLabel]:
    """Yield the label of the benchmark, then the label of each line that has figures."""
    yield _EndLabel(
        x=scale.x(CHECKPOINT_DAYS),
        y=scale.y(0),
        colour="ink",
        markup=svg.element("tspan", escape(chart.benchmark), font_weight="650"),
    )
    for number, line in enumerate(chart.lines):
        if not line.last_day:
            continue
        ticker = svg.element("tspan", escape(line.ticker[:_MAX_LETTERS]), font_weight="650")
        former = escape(_former_ticker(line))
        yield _EndLabel(
            x=scale.x(line.last_day) + 6,
            y=line.y(line.last_day, scale),
            colour=f"pick-{number % _STYLES + 1}",
            markup=f"{escape(line.action)} {ticker}{former} {signed(line.last_points)}",
        )


def spread(wanted: Sequence[float], *, distance: float, top: float, bottom: float) -> list[float]:
    """
    Return positions that are at least `distance` apart, close to the `wanted` ones.

    A position is a distance from the upper edge of the drawing, so the highest position is the
    smallest number. The positions have the same order as the `wanted` ones. First, from the highest
    position to the lowest, each one that is above `top` or too close to the next higher one is
    moved down. Then, from the lowest to the highest, each one that is below `bottom` or too close
    to the next lower one is moved up.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed: list[float] = []
    highest = top
    for index in order:
        placed.append(max(wanted[index], highest))
        highest = placed[-1] + distance
    lowest = bottom
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], lowest)
        lowest = placed[place] - distance
    by_index = dict(zip(order, placed, strict=True))
    return [round(by_index[index], 1) for index in range(len(wanted))]


def _draw_nothing_yet(chart: BatchChart, scale: Scale) -> Iterator[str]:
    """Write that there are no figures yet, if there are none."""
    if any(line.last_day for line in chart.lines):
        return
    layout = scale.layout
    yield svg.text(
        "No morning has figures yet.",
        x=(layout.left + layout.width - layout.right) / 2,
        y=scale.y(0) - layout.text,
        anchor="middle",
        paint=layout.paint(fill="faint"),
    )
