"""
Arithmetic on prices, in functions that are short enough to check by eye.

Every operation is on `Decimal` and rounds to 28 significant digits, half to even. The operations
run in the order in which a formula is written. The decimal context is set here, so that the context
of a caller cannot change a figure.
Formulas: docs/record.md#how-a-number-is-made.
"""

import decimal
import re
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal

from msgspec import Struct

from app.domain.untrusted_json import UnusableValue
from app.errors import ProviderUnavailable

DECIMAL_CONTEXT = Context(prec=28, rounding=ROUND_HALF_EVEN)
ONE = Decimal(1)

# At most 100 digits before the point, and 100 after it: more than any real price has, and fewer
# than a numeric column of Postgres can store.
_PRICE = re.compile(r"[0-9]{1,100}(\.[0-9]{1,100})?")

# The longest value that a message quotes, in characters.
_MAX_QUOTED = 60


class PickReturns(Struct, frozen=True):
    """The change of a pick's share in percent, and its excess over the benchmark's change."""

    absolute_return_pct: Decimal
    vs_benchmark_pct: Decimal


def return_pct(initial: Decimal, current: Decimal, factor: Decimal = ONE) -> Decimal:
    """
    Return the change from `initial` to `current` in percent.

    `factor` is the product of the split factors between the two prices: the number of shares that
    one share has become. Formula: docs/record.md#how-a-number-is-made.
    """
    with decimal.localcontext(DECIMAL_CONTEXT):
        return (current * factor - initial) / initial * 100


def measure_returns(
    initial: Decimal, current: Decimal, factor: Decimal, benchmark_return_pct: Decimal
) -> PickReturns:
    """
    Return a pick's change and its excess over the benchmark's change, both in percent.

    Formulas: docs/record.md#how-a-number-is-made.
    """
    absolute = return_pct(initial, current, factor)
    with decimal.localcontext(DECIMAL_CONTEXT):
        excess = absolute - benchmark_return_pct
    return PickReturns(absolute_return_pct=absolute, vs_benchmark_pct=excess)


def subtract(value: Decimal, other: Decimal) -> Decimal:
    """Return `value` less `other`, rounded as every figure of the record."""
    with decimal.localcontext(DECIMAL_CONTEXT):
        return value - other


def parse_price(text: object, ticker: str, session: date, what: str = "price") -> Decimal:
    """
    Return the price that a provider wrote as `text`.

    Raises ProviderUnavailable for everything but a finite number above zero. The message names the
    ticker, the session, and `what`: the kind of value that was expected. Only plain notation is
    accepted: an exchange never writes the other forms that `Decimal` accepts (underscores,
    exponents, digits of other scripts).
    """
    if not isinstance(text, str) or not _PRICE.fullmatch(text):
        raise ProviderUnavailable(f"{ticker}, {session}: {describe_value(text)} is not a {what}.")
    value = Decimal(text)
    if value <= 0:
        raise ProviderUnavailable(
            f"{ticker}, {session}: a {what} must be above zero, not {describe_value(text)}."
        )
    return value


def describe_value(value: object) -> str:
    """
    Return a short description of a value that a provider sent, for a message.

    A long text is described by its length and not cut: it might contain a key, and a part of a key
    would no longer be recognized and redacted.
    """
    if isinstance(value, UnusableValue):
        return value.value
    # The nesting may be deeper than Python's repr can follow.
    if isinstance(value, list | dict):
        return f"a {type(value).__name__}"
    quoted = repr(value)
    if len(quoted) > _MAX_QUOTED:
        return f"something of {len(quoted):,} characters"
    return quoted


def format_decimal(value: Decimal) -> str:
    """
    Return `value` in plain notation at full precision, as the API and the journal write it.

    Zero has no sign. Postgres stores -0 as 0, and a value must give the same text before it is
    stored and after it is read back.
    """
    return format(value or abs(value), "f")
