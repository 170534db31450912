"""
How figures, dates and times of the API are written for people; the full figure always stands next to it.

A number that is too large to be shown raises one of `TOO_LARGE`.

Returns are rounded to two decimals, half to even, with the sign of the whole figure: +0.00 is above zero. Prices are
not rounded; zeros after the second decimal are left out.
"""

import decimal
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any

from app.domain.calendar import NEW_YORK

MINUS = "\N{MINUS SIGN}"
_CENTS = Decimal("0.01")
_SHORT = Decimal("0.0001")
_DATE = re.compile(r"(?<![\w-])2[0-9]{3}-[0-9]{2}-[0-9]{2}(?![\w-])")
_BELOW_ZERO = re.compile(r"(?<![\w.-])-(?=[0-9]+\.)")
# What a number raises that is too large to be written or drawn. A ZeroDivisionError is a mistake of ours.
TOO_LARGE = (decimal.DecimalException, OverflowError)
_CONTEXT = Context(prec=200, rounding=ROUND_HALF_EVEN)


def signed(figure: str | Decimal) -> str:
    """Return a figure with its sign, to two decimals."""
    value = Decimal(figure)
    sign = "+" if value > 0 else MINUS if value < 0 else ""
    return f"{sign}{rounded(value.copy_abs()):,f}"  # abs() would round to 28 digits


def plain(figure: str) -> str:
    """Return a figure that is never below zero, to two decimals and without a sign."""
    return f"{rounded(Decimal(figure)):,f}"


def rounded(value: Decimal) -> Decimal:
    """Return a figure to two decimals, half to even."""
    with decimal.localcontext(_CONTEXT):
        return value.quantize(_CENTS)


def price(figure: str) -> str:
    """Return a price in full, with at least two decimals."""
    whole, _, fraction = figure.partition(".")
    return f"{Decimal(whole):,f}.{fraction.rstrip('0').ljust(2, '0')}"


def shortened(figure: str) -> str:
    """Return a figure to four decimals at most; a text that is no figure stays as it is."""
    try:
        value = Decimal(figure)
    except InvalidOperation:
        return figure
    if not value.is_finite() or -value.as_tuple().exponent <= 4:  # type: ignore[operator]
        return figure
    with decimal.localcontext(_CONTEXT):
        return f"{value.quantize(_SHORT):f}"


def direction(figure: str | Decimal) -> str:
    """Return whether a figure is `up`, `down` or `level`."""
    value = Decimal(figure)
    return "up" if value > 0 else "down" if value < 0 else "level"


def day(text: str | date) -> str:
    """Return a date in full, as in Monday 23 November 2026."""
    found = text if isinstance(text, date) else date.fromisoformat(text)
    return f"{found:%A} {found.day} {found:%B %Y}"


def short_day(text: str | date) -> str:
    """Return a date in short, as in Mon 23 Nov."""
    found = text if isinstance(text, date) else date.fromisoformat(text)
    return f"{found:%a} {found.day} {found:%b}"


def after(text: str, days: int) -> date:
    """Return the date `days` after another."""
    return date.fromisoformat(text) + timedelta(days=days)


def moment(text: str | datetime) -> str:
    """Return a time as New York's clocks show it, as in Tue 24 Nov 2026, 09:00."""
    found = (text if isinstance(text, datetime) else datetime.fromisoformat(text)).astimezone(NEW_YORK)
    return f"{found:%a} {found.day} {found:%b %Y, %H:%M}"


def utc(text: str) -> str:
    """Return a time in UTC to the second, as in 2026-11-24 14:00:03."""
    return text.replace("T", " ")[:19]


def sentence(text: str) -> str:
    """Return a sentence of the record with its dates in full, and what is below zero with a true minus sign."""
    return _BELOW_ZERO.sub(MINUS, _DATE.sub(_in_full, text))


def _in_full(found: re.Match[str]) -> str:
    try:
        return day(found[0])
    except ValueError:
        return found[0]


def share(pick: Mapping[str, Any]) -> str:
    """Return a pick's ticker, and the one that the model chose where that is another."""
    ticker, picked_as = pick["ticker"], pick["pickedAs"]
    return ticker if ticker == picked_as else f"{ticker} (picked as {picked_as})"


def listed(words: list[str]) -> str:
    """Return words as a sentence lists them."""
    *most, last = words or [""]
    return f"{', '.join(most)} and {last}" if most else last
