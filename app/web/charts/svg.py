"""The SVG elements of the charts, as text. All coordinates are in the units of the drawing."""

from collections.abc import Mapping
from html import escape
from typing import Any


def element(name: str, *content: str, **attributes: Any) -> str:
    """
    Return an SVG element.

    `content` is markup. An underscore in the name of an attribute becomes a hyphen. If the value of
    an attribute is None, the element does not get the attribute.
    """
    parts = []
    for key, value in attributes.items():
        if value is None:
            continue
        if isinstance(value, str):
            value = escape(value)
        parts.append(f' {key.replace("_", "-")}="{value}"')
    return f"<{name}{''.join(parts)}>{''.join(content)}</{name}>"


def line(*, x1: float, y1: float, x2: float, y2: float, **attributes: Any) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def rect(*, x: float, y: float, width: float, height: float, **attributes: Any) -> str:
    """Return a rectangle; `x` and `y` are its upper left corner."""
    return element(
        "rect",
        x=round(x, 1),
        y=round(y, 1),
        width=round(width, 1),
        height=round(height, 1),
        **attributes,
    )


def text(
    markup: str,
    *,
    x: float,
    y: float,
    anchor: str,
    paint: Mapping[str, str],
    **attributes: Any,
) -> str:
    """
    Return a text; `y` is its baseline.

    `markup` is not escaped. `anchor` is the part of the text that is at `x`: "start", "middle" or
    "end". `paint` are the attributes of its colour (`app.web.charts.layout.Layout.paint`).
    """
    return element(
        "text",
        markup,
        x=round(x, 1),
        y=round(y, 1),
        text_anchor=anchor,
        **attributes,
        **paint,
    )
