"""
Splits: what a provider's factor means, what holds of several readings, and the moves that splits do or do not explain.

Spin-offs are listed as splits by the provider and count as such: the holder is credited with what was spun off.
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
from app.domain.returns import CONTEXT, ONE

# A move from one session to the next that asks for splits. If no split explains it, it is marked: a smaller threshold
# for the question than for the mark would leave figures that are wrong by a small split without any sign of it.
SUSPICIOUS = Decimal("0.10")
UNUSUAL = SUSPICIOUS

# A cent: two readings of one session that differ by no more are one price, rounded differently.
ROUNDING = Decimal("0.01")

# What stands in a reading's source between where it was read and the day of whose shares its price is.
_RESTATED = ", restated as of "
_RESTATED_SOURCE = re.compile(rf".*{_RESTATED}(\d{{4}}-\d\d-\d\d)", re.DOTALL | re.ASCII)

# How near the ratio of two readings of one session comes to a split's factor if the split is what lies between them.
_NEAR = Decimal("0.01")


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


def shares_of(source: str, session: date) -> date:
    """
    Return the day of whose shares a reading's price is: its session, unless its source says that it was restated.

    A price that was read as traded is one of the shares of its session. One that was read in a restated series is
    one of the shares that there were when the series was first read so; splits up to that day are in it already.
    """
    restated = _RESTATED_SOURCE.fullmatch(source)
    if restated is None:
        return session
    try:
        return date.fromisoformat(restated[1])
    except ValueError:  # no day of the calendar
        return session


def restated_source(source: str, day: date) -> str:
    """Return the source of a reading in a series that was first read restated on `day` (see `shares_of`)."""
    return f"{source}{_RESTATED}{day}"


def restated_since(bars: Sequence[Bar], known: Mapping[date, Sequence[Close]], today: date) -> dict[date, date]:
    """
    Return the sessions of an answer whose bars are restated, each with the day on which they were first read so.

    `bars` are all that the answer has and `known` the stored readings of their sessions, oldest first. A provider that
    restates a series does so from a split backwards, by one ratio:

    - A session that was read as something else before is restated if the known one before it is, too, or if the next
      known one changed by the same ratio. Otherwise one price was corrected. Where no earlier session is known, a
      change that is too large for a correction is a restatement.
    - A session that was never read before is restated if the known one before it is, and it lies before the day on
      which the series was first read so.
    """
    days = sorted(bars, key=lambda bar: bar.trading_day)
    of_known = [bar for bar in days if known.get(bar.trading_day)]
    begins = {
        bar.trading_day: _begins(bar, following, known, is_first=bar is of_known[0])
        for bar, following in zip_longest(of_known, of_known[1:])
    }
    restated: dict[date, date] = {}
    since: date | None = None
    for bar in days:
        readings = known.get(bar.trading_day)
        if readings:
            continues = since is not None or begins[bar.trading_day]
            since = _restated_since(bar, readings, today) if continues else None
        if since and bar.trading_day < since:
            restated[bar.trading_day] = since
    return restated


def _begins(bar: Bar, following: Bar | None, known: Mapping[date, Sequence[Close]], *, is_first: bool) -> bool:
    """Return whether a known session shows that its series is restated, whatever those before it show."""
    first = known[bar.trading_day][0]
    if not _is_as_traded(first):
        return is_first
    if is_first and is_large(first.close, bar.close):
        return True
    if following is None:
        return False
    next_first = known[following.trading_day][0]
    with decimal.localcontext(CONTEXT):
        ratio, next_ratio = first.close / bar.close, next_first.close / following.close
    # A next one that was itself first read restated has changed by less, and says nothing.
    same = not _differs(ratio, next_ratio) or not _is_as_traded(next_first)
    return _differs(first.close, bar.close) and same


def _restated_since(bar: Bar, readings: Sequence[Close], today: date) -> date | None:
    """Return since when a bar is read as it is, if its session was read as something else before."""
    fresh = next((one for one in readings if _is_as_traded(one)), None)
    if fresh and not _differs(fresh.close, bar.close):
        return None
    same = next((one for one in readings if not _differs(one.close, bar.close)), None)
    if same is None:
        return today
    since = shares_of(same.source, same.trading_day)
    # Versions before this one did not say so in the source.
    return since if since > same.trading_day else calendar.today(same.read_at)


def _is_as_traded(close: Close) -> bool:
    return shares_of(close.source, close.trading_day) == close.trading_day


def _differs(one: Decimal, other: Decimal) -> bool:
    with decimal.localcontext(CONTEXT):
        return abs(one / other - ONE) > _NEAR


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
    with decimal.localcontext(CONTEXT):
        return [
            after.trading_day for before, after in pairwise(path) if _moved(before.close, after.close, ONE, SUSPICIOUS)
        ]


def path(used: Iterable[Close], newest: Iterable[Close]) -> list[Close]:
    """Return one close a session, oldest first: the one that a figure rests on, else the newest."""
    closes = {one.trading_day: one for one in newest}
    closes |= {one.trading_day: one for one in used}
    return [closes[session] for session in sorted(closes)]


def reread(readings: Sequence[Close]) -> datetime | None:
    """
    Return when a session was last read differently from before, by more than a rounding; None if none was.

    `readings` are all of a ticker's, by session and then by time. A provider that restates its series after a split
    does so; the newest readings alone then show no move.
    """
    return max(
        (
            after.read_at
            for before, after in pairwise(readings)
            if before.trading_day == after.trading_day and abs(after.close - before.close) > ROUNDING
        ),
        default=None,
    )


def unexplained(used: Sequence[Close], splits: Sequence[Split], newest: Sequence[Close] = ()) -> bool:
    """
    Return whether a figure holds a move of a tenth or more from one session to the next that no split explains.

    `used` are the readings that a batch's figures rest on, oldest first, from the baseline to the figure's own. The
    figure is the move from the first to the last of them, so these two count as they are. The sessions between them
    only show whether the share got from one to the other in steps that are usual or explained by splits:

    - A session that is in `used` is such a step. Its reading may be one of another scale, if a provider restated its
      series before or after a split came into force. So it may also count as its newest reading, and as what it is
      on the other side of a known split.
    - A session that is only in `newest` (a checkpoint that was skipped) may be a step, and may be left out: it can
      only explain a move.

    The figure is marked if there is no way in usual steps.
    """
    if len(used) < 2:
        return False
    first, *between, last = (_as_traded(one, splits) for one in used)
    newest = [_as_traded(one, splits) for one in newest]
    steps = {one.trading_day: one for one in between}
    inside = {one.trading_day: one for one in newest if first.trading_day < one.trading_day < last.trading_day}
    with decimal.localcontext(CONTEXT):
        reached = [(first.trading_day, first.close)]
        for session in sorted({*steps, *inside}):
            closes = [known[session] for known in (steps, inside) if session in known]
            prices = {price for close in closes for price in _on_any_side(close, first.trading_day, splits)}
            usual = [(session, price) for price in prices if _is_reached(price, session, reached, splits)]
            reached = usual if session in steps else [*reached, *usual]
        return not _is_reached(last.close, last.trading_day, reached, splits)


def _as_traded(close: Close, splits: Iterable[Split]) -> Close:
    """Return a reading with the price that its session had: one that was restated for splits counts without them."""
    shares = shares_of(close.source, close.trading_day)
    if shares == close.trading_day:
        return close
    with decimal.localcontext(CONTEXT):
        return replace(close, close=close.close * factor(splits, close.trading_day, shares))


def _is_reached(
    price: Decimal, session: date, reached: Iterable[tuple[date, Decimal]], splits: Sequence[Split]
) -> bool:
    """Return whether a price lies a usual step after one of those that were reached before."""
    return any(not _moved(before, price, factor(splits, earlier, session), UNUSUAL) for earlier, before in reached)


def _moved(before: Decimal, after: Decimal, by: Decimal, least: Decimal) -> bool:
    return abs(after * by - before) >= least * before


def _on_any_side(close: Close, first: date, splits: Iterable[Split]) -> list[Decimal]:
    """
    Return what a close after the session `first` is on either side of the splits before and after its session.

    A series is restated once a split is in force: what was read before is on its own side of a later split. Otherwise
    a small split would hide a move of its size in the sessions before it.
    """
    read_on = calendar.today(close.read_at)
    later = [one.factor for one in splits if close.trading_day < one.effective_date <= read_on]
    earlier = [one.factor for one in splits if first < one.effective_date <= close.trading_day]
    return [
        close.close,
        *(close.close * by for by in accumulate(later, mul)),
        *(close.close / by for by in accumulate(reversed(earlier), mul)),
    ]


def is_restated(used: Close, newest: Close, splits: Iterable[Split]) -> bool:
    """
    Return whether `newest` is the price of `used`, restated by the provider for splits after their session.

    Such a reading is never to be counted: the split would count twice.
    """
    with decimal.localcontext(CONTEXT):
        ratio = used.close / newest.close
        later = [one.factor for one in splits if one.effective_date > used.trading_day]
        off = [abs(ratio / by - ONE) for by in accumulate(later, mul) if by != ONE]
        return any(one <= _NEAR and one < abs(ratio - ONE) for one in off)


def is_large(before: Decimal, after: Decimal) -> bool:
    """Return whether two readings of one session differ so much that a split is likely to lie between them."""
    with decimal.localcontext(CONTEXT):
        return _moved(before, after, ONE, SUSPICIOUS)
