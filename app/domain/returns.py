"""
Arithmetic on prices, short enough to check by eye.

Every operation is on `Decimal` and rounds to 28 significant digits, half-even, in the order written; the context is set
here, so that nobody else's can change a figure. Formulas: docs/record.md#how-a-number-is-made.
"""

import decimal
import re
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal

from msgspec import Struct

from app.domain.untrusted_json import Odd
from app.errors import ProviderUnavailable

CONTEXT = Context(prec=28, rounding=ROUND_HALF_EVEN)
ONE = Decimal(1)

# Longer than any price that was ever written, and shorter than what a numeric column holds.
_PRICE = re.compile(r"[0-9]{1,100}(\.[0-9]{1,100})?")


class Measure(Struct, frozen=True):
    """How a pick did, in percent: by itself, and against the benchmark."""

    absolute_return_pct: Decimal
    vs_benchmark_pct: Decimal


def return_pct(initial: Decimal, current: Decimal, factor: Decimal = ONE) -> Decimal:
    """Return the change from `initial` to `current` in percent, after splits by `factor` in all."""
    with decimal.localcontext(CONTEXT):
        return (current * factor - initial) / initial * 100


def measure(initial: Decimal, current: Decimal, factor: Decimal, benchmark_return_pct: Decimal) -> Measure:
    """Return a pick's change and its excess over the benchmark's, in percent."""
    absolute = return_pct(initial, current, factor)
    with decimal.localcontext(CONTEXT):
        return Measure(absolute, absolute - benchmark_return_pct)


def price(text: object, ticker: str, session: date, what: str = "price") -> Decimal:
    """
    Return the price, or `what` it is, that a provider wrote as `text`.

    Refuses whatever is no finite number above zero, naming ticker and session. Only plain notation counts: what
    `Decimal` would also take (underscores, exponents, other scripts' digits) no exchange ever wrote.
    """
    if not isinstance(text, str) or not _PRICE.fullmatch(text):
        raise ProviderUnavailable(f"{ticker}, {session}: {described(text)} is not a {what}.")
    value = Decimal(text)
    if value <= 0:
        raise ProviderUnavailable(f"{ticker}, {session}: a {what} must be above zero, not {described(text)}.")
    return value


def described(text: object) -> str:
    """
    Return what stands in place of a value, for a message.

    A long text is left out and not cut: it might hold a key, and half of a key would no longer be redacted.
    """
    if isinstance(text, Odd):
        return text.value
    if isinstance(text, list | dict):  # perhaps deeper than Python can write down
        return f"a {type(text).__name__}"
    written = repr(text)
    return written if len(written) <= 60 else f"something of {len(written):,} characters"


def plain(value: Decimal) -> str:
    """Return `value` in plain notation at full precision, as answers and the journal carry it; zero has no sign."""
    return format(value or abs(value), "f")  # Postgres knows no negative zero
