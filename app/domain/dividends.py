"""
The rules of dividends: which ones a holder received, and the return with them.

A holder of a share receives a dividend if the share was bought before its ex-date. So a result
counts the dividends whose ex-date lies after the baseline session, up to and including its trading
day. They are not reinvested, and no tax is deducted.

The provider's newest response about a ticker holds. A dividend that it no longer lists is
withdrawn: otherwise, an ex-date that moved would count twice. Whether the provider adjusts earlier
amounts for later splits is not documented. Amounts count as declared, per share of their ex-date.

Formulas: docs/record.md#total-return.
"""

import decimal
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from operator import mul

from msgspec import Struct

from app.domain import calendar, splits
from app.domain.model import Dividend, Split
from app.domain.returns import DECIMAL_CONTEXT, ONE

_DAY = timedelta(days=1)
_ZERO = Decimal(0)

# A dividend on the day of a split is the spin-off that is listed as this split if its amount is
# between a half and the double of the value that was spun off, as the split's factor states it. The
# range is wide, because the value is computed with the price of the baseline session, which may be
# two weeks old. An ordinary dividend is much smaller than the value that a split with the same date
# would state.
_SPIN_OFF_RANGE = 2


class ListedAmount(Struct, frozen=True):
    """An amount that a response lists for an ex-date, and its source for the record."""

    ex_date: date
    amount: Decimal
    source: str


class RestatedAmount(Struct, frozen=True):
    """A dividend whose listed amount is the known one, divided by the factor of a later split."""

    known: Dividend
    listed: Decimal
    factor: Decimal


class Changes(Struct, frozen=True):
    """What a response changes: the new readings, and the amounts that are only restated."""

    readings: list[Dividend]
    restated: list[RestatedAmount]


class ReceivedDividends(Struct, frozen=True):
    """
    The dividends that a holder of a share received.

    - `per_share`: their sum in dollars, for each share of the baseline
    - `counted`: the readings that count
    - `spin_off_counted_once`: whether a dividend does not count, because it is a spin-off that
      counts as a split
    """

    per_share: Decimal
    counted: list[Dividend]
    spin_off_counted_once: bool


def newest_by_ex_date(readings: Iterable[Dividend]) -> list[Dividend]:
    """
    Return the newest reading of each ex-date, oldest ex-date first.

    If the provider took back a dividend, its newest reading has the amount 0.
    """
    newest = {one.ex_date: one for one in sorted(readings, key=lambda one: one.read_at)}
    return [newest[day] for day in sorted(newest)]


def between(readings: Iterable[Dividend], after: date, through: date) -> list[Dividend]:
    """Return the dividends with an ex-date after `after`, up to and including `through`."""
    return [one for one in readings if after < one.ex_date <= through]


def find_changes(
    listed: Iterable[ListedAmount],
    *,
    ticker: str,
    ex_dates: Collection[date],
    since: date,
    known: Iterable[Dividend],
    factors: Sequence[Split],
    withdrawn_source: str,
    now: datetime,
) -> Changes:
    """
    Return what a response about `ticker` changes for ex-dates after `since`, up to today.

    - `listed` are the amounts of the response that can be read, and `ex_dates` all its ex-dates.
    - `known` are the readings in force, and `factors` the splits in force of the ticker.
    - `withdrawn_source` is the source of a reading that takes back a dividend.

    A dividend with a future ex-date is no reading yet: it may still be changed. An ex-date with an
    amount that cannot be read keeps what is known about it. A known dividend that is no longer
    listed is withdrawn, whatever its ex-date.
    """
    today = calendar.new_york_date(now)
    amounts = {one.ex_date: one for one in known}
    readings: list[Dividend] = []
    restated: list[RestatedAmount] = []
    for one in listed:
        before = amounts.get(one.ex_date)
        if not since < one.ex_date <= today:
            continue
        if before is not None and before.amount == one.amount:
            continue
        factor = _restating_factor(before, one.amount, factors)
        if before is not None and factor is not None:
            restated.append(RestatedAmount(before, one.amount, factor))
            continue
        readings.append(
            Dividend(
                ticker=ticker,
                ex_date=one.ex_date,
                amount=one.amount,
                source=one.source,
                read_at=now,
            )
        )
    for before in amounts.values():
        if before.amount == 0 or before.ex_date in ex_dates:
            continue
        readings.append(
            Dividend(
                ticker=ticker,
                ex_date=before.ex_date,
                amount=_ZERO,
                source=withdrawn_source,
                read_at=now,
            )
        )
    return Changes(readings, restated)


def _restating_factor(
    known: Dividend | None, listed: Decimal, factors: Sequence[Split]
) -> Decimal | None:
    """
    Return the factor by which a listed amount is the known one, restated; None if it is not.

    It is the product of the factors of the first split after the ex-date, or of the first two, and
    so on. The provider rounds: the quotient is compared in the decimals that it wrote.
    """
    if known is None or known.amount == 0:
        return None
    later = [one.factor for one in factors if one.effective_date > known.ex_date]
    with decimal.localcontext(DECIMAL_CONTEXT):
        half_unit = Decimal((0, (5,), int(listed.as_tuple().exponent) - 1))
        products: Iterable[Decimal] = accumulate(later, mul)
        for factor in products:
            if factor != ONE and abs(known.amount / factor - listed) <= half_unit:
                return factor
    return None


def shares_on(factors: Sequence[Split], *, basis: date, day: date) -> Decimal:
    """
    Return how many shares on `day` correspond to one share of the baseline.

    `basis` is the basis date of the baseline's price (see `splits.basis_date`). It is the baseline
    session itself, unless that price was restated.
    """
    if day >= basis:
        return splits.total_factor(factors, after=basis, through=day)
    with decimal.localcontext(DECIMAL_CONTEXT):
        return ONE / splits.total_factor(factors, after=day, through=basis)


def receive(
    in_force: Iterable[Dividend],
    *,
    initial: Decimal,
    factors: Sequence[Split],
    basis: date,
    after: date,
    through: date,
) -> ReceivedDividends:
    """
    Return what a holder received for each share of the baseline.

    The dividends of the days after `after` (the baseline session), up to and including `through`,
    count. `in_force` are the share's dividends and `factors` its splits, oldest first. `initial` is
    the price of the baseline, and `basis` its basis date.

    The provider may list a spin-off as a split and as a dividend. Then it counts once, as a split.
    """
    counted: list[Dividend] = []
    is_spin_off = False
    total = _ZERO
    with decimal.localcontext(DECIMAL_CONTEXT):
        for one in between(in_force, after, through):
            if one.amount == 0:
                continue
            if _is_spin_off(one, initial=initial, factors=factors, basis=basis):
                is_spin_off = True
                continue
            counted.append(one)
            total += one.amount * shares_on(factors, basis=basis, day=one.ex_date)
    return ReceivedDividends(per_share=total, counted=counted, spin_off_counted_once=is_spin_off)


def _is_spin_off(
    dividend: Dividend, *, initial: Decimal, factors: Sequence[Split], basis: date
) -> bool:
    """
    Return whether a dividend is a spin-off that is also listed as a split.

    It has the day of the split, and about the value that the split's factor states. A split by `f`
    in place of a spin-off states that the share lost the fraction `1 - 1/f` of its price.
    """
    split = next((one for one in factors if one.effective_date == dividend.ex_date), None)
    if split is None or split.factor <= ONE:
        return False
    before = shares_on(factors, basis=basis, day=dividend.ex_date - _DAY)
    value = initial / before * (ONE - ONE / split.factor)
    return dividend.amount * _SPIN_OFF_RANGE >= value and dividend.amount <= value * _SPIN_OFF_RANGE


def total_return_pct(
    initial: Decimal, current: Decimal, *, factor: Decimal, received: Decimal
) -> Decimal:
    """
    Return the change from `initial` to `current` in percent, with what was received in between.

    `factor` is the product of the split factors between the two prices, and `received` is in
    dollars for each share of `initial`. Formula: docs/record.md#total-return.
    """
    with decimal.localcontext(DECIMAL_CONTEXT):
        return (current * factor + received - initial) / initial * 100


class DividendResponse(Struct, frozen=True):
    """A response about the dividends of a ticker: when it was read, and all its ex-dates."""

    read_at: datetime
    ex_dates: Sequence[date]


class DividendPeriod(Struct, frozen=True):
    """The days after `after`, up to and including `through`, on which a share has `ticker`."""

    ticker: str
    after: date
    through: date


def find_unknown(
    periods: Iterable[DividendPeriod],
    *,
    responses: Mapping[str, DividendResponse],
    in_force: Iterable[Dividend],
    through: date,
) -> str | None:
    """
    Return the first ticker whose dividends are not known; None if all are known.

    They are known if the newest response about the ticker was read after the day `through`, and if
    the record has an amount for each ex-date that this response lists in the period. (An amount
    that cannot be read has no reading.) `responses` are the newest responses by ticker.
    """
    known = {(one.ticker, one.ex_date) for one in in_force if one.amount != 0}
    for period in periods:
        answer = responses.get(period.ticker)
        if answer is None or calendar.new_york_date(answer.read_at) <= through:
            return period.ticker
        listed = [day for day in answer.ex_dates if period.after < day <= period.through]
        if any((period.ticker, day) not in known for day in listed):
            return period.ticker
    return None
