"""
Format the API's figures, dates and times for people.

Pages and feeds round returns to two decimals, half to even, and show the sign of the unrounded
figure: a figure slightly above zero is +0.00. Prices are not rounded; only zeros after the second
decimal are removed. Wherever a rounded figure is shown, the full figure can be seen as well.

A number that is too large to be formatted raises one of `TOO_LARGE_ERRORS`.
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
_FOUR_DECIMALS = Decimal("0.0001")
_DATE = re.compile(r"(?<![\w-])2[0-9]{3}-[0-9]{2}-[0-9]{2}(?![\w-])")
_CODE = re.compile(r"`([^`\r\n]+)`")
_MINUS_OF_A_NUMBER = re.compile(r"(?<![\w.-])-(?=[0-9]+\.)")

# What formatting or drawing raises for a number that is too large. ZeroDivisionError is not among
# them: it would be a programming error of ours.
TOO_LARGE_ERRORS = (decimal.DecimalException, OverflowError)

# The default context of `decimal` has 28 digits, and figures of the record may have more.
_CONTEXT = Context(prec=200, rounding=ROUND_HALF_EVEN)


def signed(figure: str | Decimal) -> str:
    """Return a figure with its sign, rounded to two decimals, as in +1,234.57."""
    value = Decimal(figure)
    # Not abs(value), which rounds to the 28 digits of the default context.
    digits = f"{rounded(value.copy_abs()):,f}"
    if value > 0:
        return f"+{digits}"
    if value < 0:
        return f"{MINUS}{digits}"
    return digits


def unsigned(figure: str) -> str:
    """Return a figure that is never negative, rounded to two decimals and without a sign."""
    return f"{rounded(Decimal(figure)):,f}"


def rounded(value: Decimal) -> Decimal:
    """Return a figure rounded to two decimals, half to even."""
    with decimal.localcontext(_CONTEXT):
        return value.quantize(_CENTS)


def price(figure: str) -> str:
    """Return a price unrounded, with at least two decimals, as in 807.10 or 0.00012."""
    whole, _, fraction = figure.partition(".")
    decimals = fraction.rstrip("0").ljust(2, "0")
    return f"{Decimal(whole):,f}.{decimals}"


def at_most_four_decimals(text: str) -> str:
    """Return a figure rounded to four decimals. Text that is not a figure is returned unchanged."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return text
    if not value.is_finite() or -value.as_tuple().exponent <= 4:  # type: ignore[operator]
        return text
    with decimal.localcontext(_CONTEXT):
        return f"{value.quantize(_FOUR_DECIMALS):f}"


def direction(figure: str | Decimal) -> str:
    """Return `up`, `down` or `level`: whether a figure is above, below or equal to zero."""
    value = Decimal(figure)
    if value > 0:
        return "up"
    if value < 0:
        return "down"
    return "level"


def long_date(day: str | date) -> str:
    """Return a date in full, as in Monday 23 November 2026."""
    parsed = _to_date(day)
    return f"{parsed:%A} {parsed.day} {parsed:%B %Y}"


def short_date(day: str | date) -> str:
    """Return a date in short and without its year, as in Mon 23 Nov."""
    parsed = _to_date(day)
    return f"{parsed:%a} {parsed.day} {parsed:%b}"


def _to_date(day: str | date) -> date:
    if isinstance(day, date):
        return day
    return date.fromisoformat(day)


def add_days(text: str, days: int) -> date:
    """Return the date that is `days` after the ISO date in `text`."""
    return date.fromisoformat(text) + timedelta(days=days)


def new_york_time(time: str | datetime) -> str:
    """Return a time in the time zone of New York, as in Tue 24 Nov 2026, 09:00."""
    if not isinstance(time, datetime):
        time = datetime.fromisoformat(time)
    local = time.astimezone(NEW_YORK)
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M}"


def utc_time(text: str) -> str:
    """Return a time of the API in UTC, to the second, as in 2026-11-24 14:00:03."""
    return text.replace("T", " ")[:19]


def format_sentence(text: str) -> str:
    """Return a sentence of the record with its dates in full and with typographic minus signs."""
    with_dates = _DATE.sub(_replace_date, text)
    return _MINUS_OF_A_NUMBER.sub(MINUS, with_dates)


def split_code(text: str) -> list[str]:
    """
    Return the parts of a text that are between two backticks of one line, and the parts around.

    The parts alternate, and the first one is not code. Providers and models write names so.
    """
    # The pattern has one group, which `split` also returns.
    return _CODE.split(text)


def _replace_date(match: re.Match[str]) -> str:
    try:
        return long_date(match[0])
    except ValueError:  # such as 2026-02-30
        return match[0]


def ticker_label(pick: Mapping[str, Any]) -> str:
    """Return the ticker of a pick's share; after a rename, also the ticker that was picked."""
    ticker, picked_as = pick["ticker"], pick["pickedAs"]
    if ticker == picked_as:
        return str(ticker)
    return f"{ticker} (picked as {picked_as})"
