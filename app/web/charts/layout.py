"""The sizes and colours of charts, and the parts of their axes that several charts share."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, log10
from typing import Protocol

from msgspec import Struct

from app.web.charts import svg


class Layout(Struct, frozen=True):
    """
    The measures of a drawing in its own units: its size, the size of its text, and its margins.

    Without a `palette`, colours are classes that the page's style sheet defines. With a `palette`,
    colours are written into the drawing, which then needs no style sheet.
    """

    width: int
    height: int
    text: float = 13
    left: int = 44
    right: int = 172
    top: int = 14
    bottom: int = 46
    palette: Mapping[str, str] | None = None

    def paint(self, **colours: str) -> dict[str, str]:
        """Return the SVG attributes that set colours, as in `paint(fill="ink")`."""
        if self.palette is not None:
            return {attribute: self.palette[name] for attribute, name in colours.items()}
        classes = [f"{attribute}-{name}" for attribute, name in colours.items()]
        return {"class": " ".join(classes)}


# A page contains each chart in these two layouts. The page's style sheet shows the chart that fits
# the window.
WIDE = Layout(960, 340)
NARROW = Layout(358, 280, text=12, left=36, right=146)

# The palette of drawings outside of pages: the light colours of the style sheet.
LIGHT_COLOURS = {
    "pick-1": "#1f4e8c",
    "pick-2": "#a4460c",
    "pick-3": "#5b3f8f",
    "ink": "#1b1f24",
    "faint": "#59616c",
    "rule": "#d9d8d3",
    "shade": "#efeeea",
    "paper": "#fbfaf7",
}


class VerticalScale(Protocol):
    """The vertical axis of a drawing."""

    @property
    def layout(self) -> Layout:
        """Return the measures of the drawing."""
        ...

    @property
    def ticks(self) -> Sequence[float]:
        """Return the values that are marked, in ascending order."""
        ...

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        ...


def round_ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """
    Return about `count` round numbers at equal distances, which cover `values` and zero.

    The distance is 1, 2, 5 or 10 times a power of ten.
    """
    low, high = min([*values, 0.0]), max([*values, 0.0])
    if low == high:
        return [-1.0, 0.0, 1.0]
    distance = max(high - low, 1.0) / count
    unit = 10.0 ** floor(log10(distance))
    step = unit * next(times for times in (1, 2, 5, 10) if unit * times >= distance)
    first, last = floor(low / step), ceil(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def draw_gridlines(scale: VerticalScale, *, signs: bool = True) -> Iterator[str]:
    """Draw a horizontal line and a label at each tick. The line at zero is darker."""
    layout = scale.layout
    for value in scale.ticks:
        y = scale.y(value)
        colour = "ink" if value == 0 else "rule"
        yield svg.line(
            x1=layout.left,
            y1=y,
            x2=layout.width - layout.right,
            y2=y,
            **layout.paint(stroke=colour),
        )
        yield svg.text(
            tick_text(value, signs=signs),
            x=layout.left - 8,
            y=y + layout.text * 0.35,
            anchor="end",
            paint=layout.paint(fill="faint"),
        )


def tick_text(value: float, *, signs: bool = True) -> str:
    """Return the label of a tick. With `signs`, a positive value has a plus sign."""
    text = f"{value:g}"
    if signs and value > 0:
        text = f"+{text}"
    return text.replace("-", "\N{MINUS SIGN}")
