"""
Splits: what a provider's factor means, what holds of several readings, and the moves that splits do or do not explain.

Spin-offs are listed as splits by the provider and count as such: the holder is credited with what was spun off.
"""

import decimal
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise

from app.domain.model import Close, Split
from app.domain.returns import CONTEXT, ONE

# A move between neighbouring sessions that asks for splits, and one that is marked if no split explains it.
SUSPICIOUS = Decimal("0.10")
UNUSUAL = Decimal("0.25")


def meant(said: Decimal) -> Decimal:
    """
    Return the factor that a provider means by `said`: a rounded 1/n means 1/n.

    Reverse splits come with so many decimals as the provider writes (four): 0.0667 is 1:15. Where no n fits, or more
    than one does (beyond 1:100 or so), the factor is taken as it was said.
    """
    with decimal.localcontext(CONTEXT):
        half = Decimal((0, (5,), int(said.as_tuple().exponent) - 1))
        if said >= 1 or said <= half:
            return said
        first = (1 / (said + half)).to_integral_value(ROUND_CEILING)
        last = (1 / (said - half)).to_integral_value(ROUND_FLOOR)
        return 1 / first if first == last and said * first != 1 else said


def in_force(readings: Iterable[Split]) -> list[Split]:
    """Return the newest reading of each effective date, oldest date first; one taken back has the factor 1."""
    newest = {one.effective_date: one for one in sorted(readings, key=lambda one: one.read_at)}
    return [newest[day] for day in sorted(newest)]


def between(splits: Iterable[Split], after: date, through: date) -> list[Split]:
    """Return the splits that came into force after the session `after`, up to and including `through`."""
    return [one for one in splits if after < one.effective_date <= through]


def factor(splits: Iterable[Split], after: date, through: date) -> Decimal:
    """Return the product of those splits' factors, oldest first: how many shares one became."""
    product = ONE
    with decimal.localcontext(CONTEXT):
        for one in between(splits, after, through):
            product *= one.factor
    return product


def suspicious(path: Sequence[Close]) -> list[date]:
    """Return the sessions of `path` (a ticker's closes, oldest first) that moved enough to ask for splits."""
    return _moved(path, (), SUSPICIOUS)


def unexplained(path: Sequence[Close], splits: Sequence[Split]) -> bool:
    """Return whether a move on `path` is unusual and no split explains it."""
    return bool(_moved(path, splits, UNUSUAL))


def _moved(path: Sequence[Close], splits: Sequence[Split], least: Decimal) -> list[date]:
    with decimal.localcontext(CONTEXT):
        return [
            after.trading_day
            for before, after in pairwise(path)
            if abs(after.close * factor(splits, before.trading_day, after.trading_day) - before.close)
            >= least * before.close
        ]
