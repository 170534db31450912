"""
The rules of splits: factors, restated prices, and moves that no split explains.

The provider lists spin-offs as splits, and they count as splits: the value of the new company's
shares is added to the holder's return.
"""

import decimal
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import accumulate, pairwise, zip_longest
from operator import mul

from msgspec.structs import replace

from app.domain import calendar
from app.domain.model import Bar, Close, Split
from app.domain.returns import DECIMAL_CONTEXT, ONE

# Thresholds for a move from one session to the next, as a fraction of the earlier price. After a
# suspicious move the splits are requested, and an unusual move is marked unless a split explains
# it. Both thresholds must be equal. If UNUSUAL_MOVE were higher, for example 0.20, a move of 15 %
# by an unknown split would make a figure wrong, and the figure would not be marked.
SUSPICIOUS_MOVE = Decimal("0.10")
UNUSUAL_MOVE = SUSPICIOUS_MOVE

# A cent. Two readings of one session that differ by at most this much are one price, rounded
# differently.
ROUNDING_TOLERANCE = Decimal("0.01")

# In the source of a restated reading, this text stands between the name of the source and the basis
# date of the price. It is stored: see `restated_source`.
_RESTATED = ", restated as of "
_RESTATED_SOURCE = re.compile(rf".*{_RESTATED}(\d{{4}}-\d\d-\d\d)", re.DOTALL | re.ASCII)

# Two ratios or prices count as equal if they differ by at most this fraction. If the ratio of two
# readings of one session equals the factor of a split in this sense, the split explains why the
# readings differ.
_RATIO_TOLERANCE = Decimal("0.01")


def intended_factor(listed: Decimal) -> Decimal:
    """
    Return the exact factor for a factor that a provider has listed.

    The provider rounds the factor of a reverse split to four decimals: a split of 1:15 is listed as
    0.0667. If `listed` is a rounded 1/n, the exact factor is 1/n. If no n fits, or if several fit
    (beyond about 1:100), `listed` is returned unchanged.
    """
    with decimal.localcontext(DECIMAL_CONTEXT):
        # Half a unit of the last decimal. The exact factor differs from `listed` by at most this.
        half_unit = Decimal((0, (5,), int(listed.as_tuple().exponent) - 1))
        if listed >= 1 or listed <= half_unit:
            return listed

        smallest = (1 / (listed + half_unit)).to_integral_value(ROUND_CEILING)
        largest = (1 / (listed - half_unit)).to_integral_value(ROUND_FLOOR)
        is_exact = listed * smallest == 1
        if smallest != largest or is_exact:
            return listed
        return 1 / smallest


def basis_date(source: str, session: date) -> date:
    """
    Return the basis date of a price. The price is per share of that day.

    The basis date is the session of the reading, unless the `source` of the reading says that the
    price is restated. Then it is the day on which the provider's prices were first read in this
    form: splits up to that day are already in the price.
    """
    restated = _RESTATED_SOURCE.fullmatch(source)
    if restated is None:
        return session
    try:
        return date.fromisoformat(restated[1])
    except ValueError:  # such as 30 February
        return session


def restated_source(source: str, day: date) -> str:
    """Return the source of a restated reading with the basis date `day`."""
    return f"{source}{_RESTATED}{day}"


def find_restated_sessions(
    bars: Sequence[Bar], known: Mapping[date, Sequence[Close]], today: date
) -> dict[date, date]:
    """
    Return the sessions of a response whose bars are restated, each with its basis date.

    `bars` are all bars of the response. `known` are the stored readings of their sessions, oldest
    first; a session is known if it has a reading. `today` is the date in New York on which the
    response was read. A provider that restates its prices divides all prices before a split by one
    ratio. So these are the rules:

    - The bar of a known session may differ from the reading of this session that was stored first.
      If it does, it is restated in three cases: the previous known session has a restated bar; the
      bar of the next known session differs from its own first reading by the same ratio; or no
      earlier session is known, and the difference is too large for a correction. In all other
      cases, the provider has corrected one price.
    - The bar of an unknown session is restated if the previous known session has a restated bar,
      and if the unknown session lies before the basis date of that bar.

    For example, the stored closes of three sessions are 100, 102 and 104. If a response has 50, 51
    and 52, all three bars are restated. If the response has 100, 90 and 104, the provider has
    corrected one price.

    See docs/record.md#where-the-prices-come-from.
    """
    ordered_bars = sorted(bars, key=lambda bar: bar.trading_day)
    known_bars = [bar for bar in ordered_bars if known.get(bar.trading_day)]
    starts_restatement = {
        bar.trading_day: _starts_restatement(bar, following, known, is_first=bar is known_bars[0])
        for bar, following in zip_longest(known_bars, known_bars[1:])
    }

    restated: dict[date, date] = {}
    # The basis date of the bar of the latest known session so far. None before the first known
    # session, and after a bar that is as traded.
    current_basis: date | None = None
    for bar in ordered_bars:
        readings = known.get(bar.trading_day)
        if readings:
            is_candidate = current_basis is not None or starts_restatement[bar.trading_day]
            current_basis = None
            if is_candidate:
                current_basis = _find_basis_date(bar, readings, today)
        if current_basis and bar.trading_day < current_basis:
            restated[bar.trading_day] = current_basis
    return restated


def _starts_restatement(
    bar: Bar, following: Bar | None, known: Mapping[date, Sequence[Close]], *, is_first: bool
) -> bool:
    """
    Return whether a restatement may begin with the bar of a known session.

    `following` is the bar of the next known session. The sessions before `bar` are not considered;
    `is_first` says that none of them is known.
    """
    first = known[bar.trading_day][0]
    # A first reading that was restated already cannot show where a restatement begins. Usually the
    # restatement begins at an earlier known session. If no earlier session is known, it begins at
    # this one.
    if not _is_as_traded(first):
        return is_first
    if is_first and is_large_change(first.close, bar.close):
        return True
    if following is None:
        return False

    next_first = known[following.trading_day][0]
    with decimal.localcontext(DECIMAL_CONTEXT):
        ratio = first.close / bar.close
        next_ratio = next_first.close / following.close
    # If the first reading of the next session was restated already, `next_ratio` does not show the
    # whole change, so it cannot be compared with `ratio`.
    is_same_ratio = not _differs_by_ratio(ratio, next_ratio) or not _is_as_traded(next_first)
    return _differs_by_ratio(first.close, bar.close) and is_same_ratio


def _find_basis_date(bar: Bar, readings: Sequence[Close], today: date) -> date | None:
    """
    Return the basis date of a bar that may be restated; None if its price is as traded.

    The basis date is the day on which the bar's session was first read with this price. `readings`
    are the stored readings of the session, oldest first.
    """
    as_traded = next((one for one in readings if _is_as_traded(one)), None)
    if as_traded and not _differs_by_ratio(as_traded.close, bar.close):
        return None
    same = next((one for one in readings if not _differs_by_ratio(one.close, bar.close)), None)
    if same is None:
        return today
    stated = basis_date(same.source, same.trading_day)
    if stated > same.trading_day:
        return stated
    # Earlier versions did not write the basis date into the source.
    return calendar.new_york_date(same.read_at)


def _is_as_traded(close: Close) -> bool:
    return basis_date(close.source, close.trading_day) == close.trading_day


def _differs_by_ratio(first: Decimal, second: Decimal) -> bool:
    """Return whether two numbers differ by more than one percent."""
    with decimal.localcontext(DECIMAL_CONTEXT):
        return abs(first / second - 1) > _RATIO_TOLERANCE


def newest_by_effective_date(readings: Iterable[Split]) -> list[Split]:
    """
    Return the newest reading of each effective date, oldest date first.

    If the provider took back a split, its newest reading has the factor 1.
    """
    newest = {one.effective_date: one for one in sorted(readings, key=lambda one: one.read_at)}
    return [newest[day] for day in sorted(newest)]


def effective_between(splits: Iterable[Split], after: date, through: date) -> list[Split]:
    """Return the splits that came into force after `after`, up to and including `through`."""
    return [one for one in splits if after < one.effective_date <= through]


def total_factor(splits: Iterable[Split], after: date, through: date) -> Decimal:
    """
    Return how many shares one share has become after the day `after`, up to the day `through`.

    This is the product of the factors of the splits between these days, multiplied oldest first.
    """
    product = ONE
    with decimal.localcontext(DECIMAL_CONTEXT):
        for one in effective_between(splits, after, through):
            product *= one.factor
    return product


def suspicious_sessions(path: Sequence[Close]) -> list[date]:
    """Return the sessions of `path` (closes, oldest first) whose move may come from a split."""
    with decimal.localcontext(DECIMAL_CONTEXT):
        return [
            after.trading_day
            for before, after in pairwise(path)
            if _has_moved(before.close, after.close, factor=ONE, threshold=SUSPICIOUS_MOVE)
        ]


def price_path(used: Iterable[Close], newest: Iterable[Close]) -> list[Close]:
    """Return one close per session, oldest first: the used one, or else the newest one."""
    closes = {one.trading_day: one for one in newest}
    closes |= {one.trading_day: one for one in used}
    return [closes[session] for session in sorted(closes)]


def last_changed_reading_at(readings: Sequence[Close]) -> datetime | None:
    """
    Return the time of the last changed reading, or None if there is none.

    A changed reading has another price than the reading before it of the same session. Two prices
    are the same if only their rounding differs. `readings` are all readings of a ticker, ordered by
    session and then by time. A changed price may come from a provider that restates its prices
    after a split. Then the newest readings alone show no move.
    """
    changed = [
        after.read_at
        for before, after in pairwise(readings)
        if before.trading_day == after.trading_day and _differs_beyond_rounding(before, after)
    ]
    return max(changed, default=None)


def _differs_beyond_rounding(before: Close, after: Close) -> bool:
    return abs(after.close - before.close) > ROUNDING_TOLERANCE


def has_unexplained_move(
    used: Sequence[Close], splits: Sequence[Split], newest: Sequence[Close] = ()
) -> bool:
    """
    Return whether a figure contains an unusual move that no split explains.

    A move is unusual if the price changes by 10 % or more from one session to the next. `used` are
    the readings on which a batch's figures are based, oldest first, from the baseline's reading to
    the reading of this figure. `newest` are the newest readings of the sessions in this period.

    The figure is the change from the first to the last reading of `used`, so these two prices are
    fixed. The function searches for a path of usual moves from the first price to the last, through
    the sessions between them. A move over the day of a known split is usual if the split explains
    it.

    - The path must go through each session in `used`. The price of this session may be the used
      reading, the newest reading, or one of these two converted by known splits. The provider
      may have divided a price by a split after the session already, or may not have divided it by a
      split before the session yet.
    - The path may go through a session that is only in `newest` (its checkpoint was skipped), or
      leave it out. Such a session can explain a move, but cannot cause one.

    Return True if there is no such path. This is the rule of docs/journal.md#marks; the comments
    name its points.
    """
    if len(used) < 2:  # point 2 of the rule
        return False
    first, *between, last = (_as_traded(one, splits) for one in used)  # point 3
    required = {one.trading_day: one for one in between}
    newest_between = _between(first, last, [_as_traded(one, splits) for one in newest])

    with decimal.localcontext(DECIMAL_CONTEXT):
        reached = [(first.trading_day, first.close)]  # point 5
        for session in sorted({*required, *newest_between}):  # point 6
            closes = [known[session] for known in (required, newest_between) if session in known]
            prices = _possible_prices(closes, first.trading_day, splits)
            next_reached = [
                (session, price)
                for price in prices
                if _is_reached(price, session, reached=reached, splits=splits)
            ]
            # If the path may leave the session out, the prices reached so far stay reached.
            if session not in required:
                next_reached = [*reached, *next_reached]
            reached = next_reached
        return not _is_reached(  # point 7
            last.close, last.trading_day, reached=reached, splits=splits
        )


def _between(first: Close, last: Close, closes: Iterable[Close]) -> dict[date, Close]:
    """Return the closes whose sessions lie between those of `first` and `last`, by session."""
    return {
        one.trading_day: one
        for one in closes
        if first.trading_day < one.trading_day < last.trading_day
    }


def _as_traded(close: Close, splits: Iterable[Split]) -> Close:
    """Return a reading with its price as traded: the factors of a restatement are undone."""
    basis = basis_date(close.source, close.trading_day)
    if basis == close.trading_day:
        return close
    with decimal.localcontext(DECIMAL_CONTEXT):
        return replace(close, close=close.close * total_factor(splits, close.trading_day, basis))


def _is_reached(
    price: Decimal,
    session: date,
    *,
    reached: Iterable[tuple[date, Decimal]],
    splits: Sequence[Split],
) -> bool:
    """Return whether a usual move leads to a price from one of the prices in `reached`."""
    return any(
        not _has_moved(
            before,
            price,
            factor=total_factor(splits, earlier, session),
            threshold=UNUSUAL_MOVE,
        )
        for earlier, before in reached
    )


def _has_moved(before: Decimal, after: Decimal, *, factor: Decimal, threshold: Decimal) -> bool:
    """Return whether a price changed by the fraction `threshold` or more, apart from `factor`."""
    return abs(after * factor - before) >= threshold * before


def _possible_prices(closes: Iterable[Close], first: date, splits: Sequence[Split]) -> set[Decimal]:
    """
    Return the possible prices of one session, of which `closes` are readings.

    `first` is the session of the baseline; splits up to this day do not count.
    """
    prices = set[Decimal]()
    for close in closes:
        prices.update(_with_and_without_splits(close, first, splits))
    return prices


def _with_and_without_splits(close: Close, first: date, splits: Iterable[Split]) -> list[Decimal]:
    """
    Return the price of a close, and this price converted by the splits near its session.

    The price is multiplied by the factor of the first split after its session, by the factors of
    the first two, and so on. It is divided by the factor of the last split up to its session, by
    the factors of the last two, and so on. `first` is the session of the baseline; splits up to
    this day do not count.

    The price alone does not show whether the provider had divided it by a split when it was read.
    For example, a share closes at 100, 100 and 50, because of a 2:1 split before the third session.
    If the second session is read again after the split, and this reading is used, the price is 50.
    Only the converted price, 100, makes the move from the first session a usual one.
    """
    splits = list(splits)
    # A price that was read before a split came into force was not divided by it, so this split does
    # not count. If it counted, a small split would hide a move of its size in the sessions before
    # the split.
    read_on = calendar.new_york_date(close.read_at)
    later = effective_between(splits, close.trading_day, read_on)
    earlier = effective_between(splits, first, close.trading_day)

    later_factors = accumulate((one.factor for one in later), mul)
    earlier_factors = accumulate((one.factor for one in reversed(earlier)), mul)
    return [
        close.close,
        *(close.close * factor for factor in later_factors),
        *(close.close / factor for factor in earlier_factors),
    ]


def is_restated(used: Close, newest: Close, splits: Iterable[Split]) -> bool:
    """
    Return whether `newest` has the price of `used`, divided by later splits.

    Both are readings of the same session. If the result is true, `newest` must never replace
    `used`: the splits would count twice.
    """
    with decimal.localcontext(DECIMAL_CONTEXT):
        ratio = used.close / newest.close
        later = [one.factor for one in splits if one.effective_date > used.trading_day]
        factors = [factor for factor in accumulate(later, mul) if factor != ONE]
        distances = [abs(ratio / factor - ONE) for factor in factors]
        # The ratio must also be nearer to the factor than to 1. (A ratio of 1 means no change.)
        distance_to_one = abs(ratio - ONE)
        return any(one <= _RATIO_TOLERANCE and one < distance_to_one for one in distances)


def is_large_change(before: Decimal, after: Decimal) -> bool:
    """
    Return whether two prices differ so much (by 10 % or more) that a split is a likely cause.

    The prices are two readings of one session, or the closes before and after a rename.
    """
    with decimal.localcontext(DECIMAL_CONTEXT):
        return _has_moved(before, after, factor=ONE, threshold=SUSPICIOUS_MOVE)
