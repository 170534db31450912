"""
The charts of the whole record.

They show the running sum of the batches' percentage points, the percentage points of each week,
values with their intervals, and a histogram of random calls.

All functions are pure: they draw values of the API as SVG. Layouts and colours are those of
`app.web.charts.layout`. In each function that draws a chart, `name` makes the ids of the drawing
different from those of other drawings on the page.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from app.web.charts import svg
from app.web.charts.layout import NARROW, WIDE, Layout, draw_gridlines, round_ticks, tick_text
from app.web.formatting import long_date, short_date, signed

# The key is the class of the page's element that contains the drawing.
LAYOUTS = {
    "wide": replace(WIDE, height=260, right=72, bottom=30),
    "narrow": replace(NARROW, height=220, right=52, bottom=30),
}

# The height of one row of an interval chart, and the positions of the label and the bar in the row.
_ROW_HEIGHT = 46
_ROW_LABEL = 14
_ROW_BAR = 28
# About how wide a letter is, as a part of the size of the text.
_LETTER_WIDTH = 0.55


class PlotArea(Struct, frozen=True):
    """
    The positions of values on a drawing.

    The horizontal axis has the values from `low` to `high`, and the vertical axis those from the
    first to the last of `ticks`.
    """

    layout: Layout
    low: float
    high: float
    ticks: Sequence[float]

    def x(self, value: float) -> float:
        """Return the horizontal position of a value."""
        layout = self.layout
        span = layout.width - layout.left - layout.right
        # `high - low` is 0 if all values are the same. Then the divisor is 1.
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(layout.left + share * span, 1)

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        layout = self.layout
        span = layout.height - layout.top - layout.bottom
        low, high = self.ticks[0], self.ticks[-1]
        return round(layout.top + (high - value) / (high - low) * span, 1)

    @property
    def label_y(self) -> float:
        """Return the baseline of the labels below the plot."""
        return self.layout.height - self.layout.bottom + self.layout.text * 1.5


class IntervalRow(Struct, frozen=True):
    """A row of an interval chart: a value with the ends of its interval, as texts of the API."""

    name: str
    value: str
    low: str
    high: str


def interval_rows(
    name: str, value: str | None, interval: Mapping[str, str] | None
) -> list[IntervalRow]:
    """Return a list with one row; an empty list if the value or its interval is not known."""
    if value is None or not interval:
        return []
    return [IntervalRow(name, value, low=interval["low"], high=interval["high"])]


def draw_sum(
    points: Sequence[Mapping[str, Any]],
    layout: Layout,
    name: str,
    model_changes: Mapping[str, str] = {},
) -> str:
    """
    Draw the sum of the batches' points, Monday by Monday. `points` is `trackRecord.curve`.

    `model_changes` has the new models of the series by the first Monday of each. A vertical line
    stands where each of them begins.
    """
    sums = [0.0, *(float(point["sumPct"]) for point in points)]
    area = PlotArea(layout, low=0, high=len(points), ticks=round_ticks(sums))
    steps = []
    for position, value in enumerate(sums):
        command = "L" if position else "M"
        steps.append(f"{command}{area.x(position)} {area.y(value)}")
    last = points[-1]["sumPct"]
    course = svg.element(
        "path",
        d=" ".join(steps),
        fill="none",
        stroke_width=2,
        stroke_linejoin="round",
        **layout.paint(stroke="accent"),
    )
    label = svg.text(
        signed(last),
        x=area.x(len(points)) + 8,
        y=area.y(sums[-1]) + layout.text * 0.35,
        anchor="start",
        paint=layout.paint(fill="accent"),
    )
    return _svg(
        [
            *draw_gridlines(area),
            *_draw_range(area, points, "runDate"),
            *_draw_model_changes(area, points, model_changes),
            course,
            label,
        ],
        layout=layout,
        name=name,
        title="The sum of every batch's points, Monday by Monday",
        description=(
            f"After {len(points)} scored {'batch' if len(points) == 1 else 'batches'}, the sum is "
            f"{signed(last)} percentage points."
        ),
    )


def _draw_model_changes(
    area: PlotArea, points: Sequence[Mapping[str, Any]], model_changes: Mapping[str, str]
) -> Iterator[str]:
    """Draw a dashed line before the first scored batch of each new model."""
    run_dates = [str(point["runDate"]) for point in points]
    for monday, model in model_changes.items():
        earlier = sum(run_date < monday for run_date in run_dates)
        if not 0 < earlier < len(run_dates):
            continue
        words = svg.element("title", escape(f"From {long_date(monday)}: {model}"))
        yield svg.element(
            "line",
            words,
            x1=area.x(earlier),
            y1=area.layout.top,
            x2=area.x(earlier),
            y2=area.layout.height - area.layout.bottom,
            stroke_width=1.5,
            stroke_dasharray="4 4",
            **area.layout.paint(stroke="faint"),
        )


def draw_weeks(weeks: Sequence[Mapping[str, Any]], layout: Layout, name: str) -> str:
    """
    Draw a bar for each week: the percentage points in the calls' favour.

    `weeks` is `trackRecord.weeklyExcess.weeks`.
    """
    values = [float(week["excessPct"]) for week in weeks]
    area = PlotArea(layout, low=0, high=len(weeks), ticks=round_ticks(values))
    bar_width = max(1.0, (area.x(1) - area.x(0)) * 0.7)
    bars = []
    for number, value in enumerate(values):
        left = area.x(number + 0.5) - bar_width / 2
        bars.append(_draw_bar(area, left=left, width=bar_width, value=value))
    above_zero = sum(value > 0 for value in values)
    return _svg(
        [*draw_gridlines(area), *_draw_range(area, weeks, "monday"), *bars],
        layout=layout,
        name=name,
        title=(
            "Percentage points in the calls' favour for each week: the mean of the picks that were "
            "held in it"
        ),
        description=f"{above_zero} of {len(values)} weeks were above zero.",
    )


def _draw_bar(area: PlotArea, *, left: float, width: float, value: float) -> str:
    top, bottom = sorted((area.y(value), area.y(0)))
    colour = "accent" if value > 0 else "bar"
    return svg.rect(
        x=left,
        y=top,
        width=width,
        height=max(bottom - top, 0.5),
        **area.layout.paint(fill=colour),
    )


def draw_random_calls(control: Mapping[str, Any], mean: str, layout: Layout, name: str) -> str:
    """
    Draw a histogram of the means of random calls, with a line at the record's own `mean`.

    `control` is `trackRecord.randomActions`.
    """
    bins = control["bins"]
    own = float(mean)
    area = PlotArea(
        layout,
        low=min(float(bins[0]["low"]), own),
        high=max(float(bins[-1]["high"]), own),
        ticks=round_ticks([float(one["count"]) for one in bins]),
    )
    below = signed(control["belowPct"]).lstrip("+")
    return _svg(
        [
            *draw_gridlines(area, signs=False),
            *(_draw_bin(area, one) for one in bins),
            *_draw_value_labels(area),
            *_draw_own_mean(area, mean),
        ],
        layout=layout,
        name=name,
        title=f"Mean points of {control['draws']} draws of random calls on the same picks",
        description=f"The record's own mean, {signed(mean)}, is above {below} % of them.",
    )


def _draw_own_mean(area: PlotArea, mean: str) -> Iterator[str]:
    """Draw a vertical line at the record's mean, with a label beside it."""
    layout = area.layout
    x = area.x(float(mean))
    yield svg.line(
        x1=x,
        y1=layout.top,
        x2=x,
        y2=area.y(0),
        stroke_width=2,
        **layout.paint(stroke="accent"),
    )
    # The label is on that side of the line where there is more room.
    if x < layout.width / 2:
        anchor, label_x = "start", x + 6
    else:
        anchor, label_x = "end", x - 6
    yield svg.text(
        f"the record {signed(mean)}",
        x=label_x,
        y=layout.top + layout.text,
        anchor=anchor,
        paint=layout.paint(fill="accent"),
    )


def _draw_bin(area: PlotArea, one: Mapping[str, Any]) -> str:
    left, right = area.x(float(one["low"])), area.x(float(one["high"]))
    top = area.y(float(one["count"]))
    return svg.rect(
        x=left + 0.5,
        y=top,
        width=max(right - left - 1, 0.5),
        height=area.y(0) - top,
        **area.layout.paint(fill="bar"),
    )


def _draw_value_labels(area: PlotArea) -> Iterator[str]:
    """Write some values of the horizontal axis below the plot."""
    layout = area.layout
    count = 8
    if layout.width < 500:
        count = 4
    for value in round_ticks([area.low, area.high], count):
        if area.low <= value <= area.high:
            yield svg.text(
                tick_text(value),
                x=area.x(value),
                y=area.label_y,
                anchor="middle",
                paint=layout.paint(fill="faint"),
            )


def draw_intervals(
    rows: Sequence[IntervalRow], *, luck: float, layout: Layout, name: str, title: str
) -> str:
    """
    Draw values as dots on their intervals, with a strong line at `luck`.

    `luck` is the value that mere luck would have: 0 points, or 50 % of the calls.
    """
    ends: list[float] = []
    for row in rows:
        ends += [float(row.low) - luck, float(row.high) - luck]
    ticks = round_ticks(ends)
    height = int(layout.top + _ROW_HEIGHT * len(rows) + 34)
    layout = replace(layout, height=height, left=24, right=24, bottom=30)
    area = PlotArea(layout, low=ticks[0], high=ticks[-1], ticks=[0, 1])
    drawn_rows: list[str] = []
    for number, row in enumerate(rows):
        top = layout.top + _ROW_HEIGHT * number
        drawn_rows += _draw_interval(row, area, luck=luck, top=top)
    description = " ".join(
        f"{row.name}: {signed(row.value)}, between {signed(row.low)} and {signed(row.high)}."
        for row in rows
    )
    return _svg(
        [*_draw_vertical_lines(area, ticks), *_draw_shifted_labels(area, ticks, luck), *drawn_rows],
        layout=layout,
        name=name,
        title=title,
        description=description,
    )


def _draw_vertical_lines(area: PlotArea, ticks: Sequence[float]) -> Iterator[str]:
    layout = area.layout
    for value in ticks:
        colour = "ink" if value == 0 else "rule"
        yield svg.line(
            x1=area.x(value),
            y1=layout.top,
            x2=area.x(value),
            y2=layout.height - layout.bottom,
            **layout.paint(stroke=colour),
        )


def _draw_shifted_labels(area: PlotArea, ticks: Sequence[float], luck: float) -> Iterator[str]:
    """Write the values of the ticks below the plot. The ticks are differences from `luck`."""
    for value in ticks:
        # If `luck` is 0, the values are points, which have a sign. Otherwise they are shares of
        # calls, which have none.
        yield svg.text(
            tick_text(value + luck, signs=not luck),
            x=area.x(value),
            y=area.label_y,
            anchor="middle",
            paint=area.layout.paint(fill="faint"),
        )


def _draw_interval(row: IntervalRow, area: PlotArea, *, luck: float, top: float) -> Iterator[str]:
    layout = area.layout
    low, value, high = (float(text) - luck for text in (row.low, row.value, row.high))
    bar_y = top + _ROW_BAR
    # A label that begins far to the right would reach beyond the drawing.
    anchor = "start" if area.x(low) < layout.width * 0.6 else "end"
    label_x = area.x(low)
    # A long label ends at the right edge.
    if anchor == "start" and label_x + len(row.name) * layout.text * _LETTER_WIDTH > layout.width:
        anchor, label_x = "end", layout.width
    yield svg.text(
        escape(row.name),
        x=label_x,
        y=top + _ROW_LABEL,
        anchor=anchor,
        paint={"class": "fill-ink halo"},
    )
    yield svg.line(
        x1=area.x(low),
        y1=bar_y,
        x2=area.x(high),
        y2=bar_y,
        stroke_width=4,
        stroke_linecap="round",
        **layout.paint(stroke="bar"),
    )
    yield svg.element("circle", cx=area.x(value), cy=bar_y, r=5.5, **layout.paint(fill="accent"))


def _draw_range(area: PlotArea, rows: Sequence[Mapping[str, Any]], key: str) -> Iterator[str]:
    """Write the dates of the first and the last row below the plot: `key` is the date's key."""
    for value, anchor, row in ((area.low, "start", rows[0]), (area.high, "end", rows[-1])):
        day = row[key]
        day_and_month = short_date(day)[len("Mon ") :]
        yield svg.text(
            f"{day_and_month} {day[:4]}",
            x=area.x(value),
            y=area.label_y,
            anchor=anchor,
            paint=area.layout.paint(fill="faint"),
        )


def _svg(content: Sequence[str], *, layout: Layout, name: str, title: str, description: str) -> str:
    return svg.element(
        "svg",
        svg.element("title", escape(title), id=f"{name}-title"),
        svg.element("desc", escape(description), id=f"{name}-description"),
        *content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {layout.width} {layout.height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-description",
        font_size=layout.text,
    )
