"""
The drawing of a calibration table: the share of right calls by stated probability.

The drawing is made of `trackRecord.probability.bins` of the API. Layouts and colours are those of
`app.web.charts.layout`.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from msgspec.structs import replace

from app.web.charts import svg
from app.web.charts.layout import NARROW, WIDE, Layout
from app.web.charts.record_charts import PlotArea
from app.web.formatting import unsigned

# The key is the class of the page's element that contains the drawing. The plot is not much wider
# than high, because a reader compares points with a diagonal.
LAYOUTS = {
    "wide": replace(WIDE, width=720, height=430, left=56, right=24, top=38, bottom=62),
    "narrow": replace(NARROW, height=340, left=48, right=16, top=36, bottom=60),
}

# The ends of the axes, in percent: stated probabilities, and shares of right calls.
_LOW, _HIGH = 50, 100
# A drawing that is narrower, in pixels, has short labels.
_NARROW = 500
_SHARES = (0, 25, 50, 75, 100)


def draw_calibration(bins: Sequence[Mapping[str, Any]], layout: Layout, name: str) -> str:
    """
    Draw a point with its interval for each bin that has picks, and a diagonal.

    A point on the diagonal is a bin whose calls are right as often as the model stated. `name`
    makes the ids of the drawing different from those of other drawings on the page.
    """
    area = PlotArea(layout, low=_LOW, high=_HIGH, ticks=_SHARES)
    filled = [one for one in bins if one["picks"]]
    content = [
        *_draw_shares(area),
        *_draw_bin_labels(area, bins),
        *_draw_diagonal(area),
    ]
    for one in filled:
        content += _draw_bin(area, one)
    description = " ".join(_bin_words(one) for one in filled)
    return svg.element(
        "svg",
        svg.element("title", "Share of right calls by stated probability", id=f"{name}-title"),
        svg.element(
            "desc",
            escape(f"{description} On the diagonal, both would be equal."),
            id=f"{name}-description",
        ),
        *content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {layout.width} {layout.height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-description",
        font_size=layout.text,
    )


def _bin_words(one: Mapping[str, Any]) -> str:
    interval = one["hitRateInterval"]
    return (
        f"Stated {one['lowPct']} to {one['highPct']} %, {unsigned(one['meanStatedPct'])} % on "
        f"average: {one['hits']} of {pick_count(one['picks'])} right, "
        f"{unsigned(one['hitRatePct'])} %, between {unsigned(interval['low'])} and "
        f"{unsigned(interval['high'])} %."
    )


def pick_count(number: int) -> str:
    """Return a number of picks with the noun."""
    return "1 pick" if number == 1 else f"{number:,} picks"


def _draw_shares(area: PlotArea) -> Iterator[str]:
    """Draw a horizontal line and a label for some shares of right calls."""
    layout = area.layout
    for share in _SHARES:
        yield svg.line(
            x1=layout.left,
            y1=area.y(share),
            x2=layout.width - layout.right,
            y2=area.y(share),
            **layout.paint(stroke="rule"),
        )
        yield svg.text(
            f"{share} %",
            x=layout.left - 8,
            y=area.y(share) + layout.text * 0.35,
            anchor="end",
            paint=layout.paint(fill="faint"),
        )


def _draw_bin_labels(area: PlotArea, bins: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Write the range of each bin and its number of picks below the plot, and separate the bins."""
    layout = area.layout
    bottom = layout.height - layout.bottom
    for one in bins:
        low, high = one["lowPct"], one["highPct"]
        middle = area.x((low + high + 1) / 2)
        # The narrow drawing has no room for the word in each bin; the page's table has it.
        number = pick_count(one["picks"])
        if layout.width < _NARROW:
            number = f"n = {one['picks']:,}"
        yield svg.line(
            x1=area.x(low),
            y1=layout.top,
            x2=area.x(low),
            y2=bottom,
            **layout.paint(stroke="rule"),
        )
        yield svg.text(
            f"{low}\N{EN DASH}{high} %",
            x=middle,
            y=bottom + layout.text * 1.6,
            anchor="middle",
            paint=layout.paint(fill="ink"),
        )
        yield svg.text(
            number,
            x=middle,
            y=bottom + layout.text * 3.1,
            anchor="middle",
            paint=layout.paint(fill="faint"),
        )


def _draw_diagonal(area: PlotArea) -> Iterator[str]:
    """Draw the diagonal, and above the plot what it means."""
    layout = area.layout
    yield svg.line(
        x1=area.x(_LOW),
        y1=area.y(_LOW),
        x2=area.x(_HIGH),
        y2=area.y(_HIGH),
        stroke_width=1.5,
        stroke_dasharray="5 4",
        **layout.paint(stroke="ink"),
    )
    # The label is above the plot, because intervals may cover every part of it.
    label_y = layout.top - layout.text * 1.2
    yield svg.line(
        x1=layout.left,
        y1=label_y,
        x2=layout.left + 30,
        y2=label_y,
        stroke_width=1.5,
        stroke_dasharray="5 4",
        **layout.paint(stroke="ink"),
    )
    yield svg.text(
        "as often right as stated",
        x=layout.left + 38,
        y=label_y + layout.text * 0.35,
        anchor="start",
        paint=layout.paint(fill="ink"),
    )


def _draw_bin(area: PlotArea, one: Mapping[str, Any]) -> Iterator[str]:
    """Draw the interval of a bin as a bar, and its share of right calls as a point on it."""
    layout = area.layout
    # The point stands at the mean of what was stated, so that its distance from the diagonal is
    # exact also if a bin has only its lowest or its highest probabilities.
    x = area.x(float(one["meanStatedPct"]))
    interval = one["hitRateInterval"]
    yield svg.line(
        x1=x,
        y1=area.y(float(interval["low"])),
        x2=x,
        y2=area.y(float(interval["high"])),
        stroke_width=4,
        stroke_linecap="round",
        **layout.paint(stroke="bar"),
    )
    yield svg.element(
        "circle",
        cx=x,
        cy=area.y(float(one["hitRatePct"])),
        r=5.5,
        **layout.paint(fill="accent"),
    )
