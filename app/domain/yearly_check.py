"""
The test of the yearly check: which of several series are distinguished from luck.

**The weeks of a series.** Each pick is held for two weeks, and the excess of a calendar week is the
mean over all picks that were held in it (`app.domain.track_record` explains why).

**Beyond beta.** The excess is regressed on the benchmark's change less the rate of a loan without
risk (Jensen 1968). The intercept is what the picks added beyond the benchmark and their beta.
Without the rate, the intercept would contain the rate times one minus beta: a series that picks
shares that hardly move would seem to have skill.

**Gaps.** A pick without a reading at its middle or at its result has a gap. A gap is filled with
the worst week that any pick of the series has had if the series is tested for being better, and
with the best week if it is tested for being worse. So a gap never helps. If gaps were left out, a
series without skill whose bad results are missing would be called better: simulated, 15 of 100
such series if the results below -5 % are missing, and 75 of 100 below -3 %.

**Several series.** If eight series are tested, each at 5 %, one of them is found by luck in every
third year. Holm's procedure keeps the risk that any series is found wrongly at the risk of the
whole check, whatever the dependence between the series (Holm, S. (1979), A simple sequentially
rejective multiple test procedure. Scandinavian Journal of Statistics 6, 65-70).

**Several checks.** If a record is tested often enough, it passes a test at some time by luck alone.
So all checks share a risk of 5 %, for both sides, better and worse. Check k may be wrong with the
probability 5 % / (k (k + 1)): 2.5 % for the first, 0.83 % for the second. The sum over all k is 5 %
(alpha spending: Lan, K. K. G. and DeMets, D. L. (1983), Discrete sequential boundaries for clinical
trials. Biometrika 70, 659-663). By Boole's inequality, the sum is an upper bound of the whole risk,
also for dependent tests. If a check finds nothing, no later check uses its share of the risk.
"""

import decimal
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import chain

from msgspec import Struct

from app.domain import calendar
from app.domain.model import DescribedEnum, Rate
from app.domain.returns import DECIMAL_CONTEXT
from app.domain.statistics import Points

# A series with fewer complete weeks is not tested.
MIN_WEEKS = 30
WEEKS_BETWEEN_CHECKS = 52
# The risk that any check of the record finds a series wrongly.
SIGNIFICANCE = 0.05

# A check waits this long for the batches that it counts.
_HELD_AFTER = timedelta(days=21)
# The yield of a date is published some days later.
_RATE_AGE = timedelta(days=7)
_DAYS_PER_YEAR = 365

_WEEK = timedelta(weeks=1)


class PickResult(Struct, frozen=True):
    """
    The alpha of a pick at the middle and at the result of its batch, in percentage points.

    A figure is None if there is no reading for it.
    """

    middle: float | None
    result: float | None


class BatchResult(Struct, frozen=True, kw_only=True):
    """
    The figures of a batch that a check counts.

    `benchmark` is the change of the benchmark in each of the two weeks, and `risk_free` the rate of
    a loan without risk for each, all in percent. A value is None if there is no reading for it.
    """

    monday: date
    picks: Sequence[PickResult]
    benchmark: tuple[float | None, float | None]
    risk_free: tuple[float | None, float | None]


class Side(DescribedEnum):
    """What a series is tested for."""

    BETTER = "BETTER", "The picks did better than luck explains."
    WORSE = "WORSE", "The picks did worse than luck explains."


class SideEvaluation(Struct, frozen=True, kw_only=True):
    """
    A series evaluated for one side, with its gaps filled for this side.

    `mean_pct` is the mean excess of a week, and `beyond_beta_pct` the intercept, both in percentage
    points. `p_value` is the probability of an intercept at least as far on this side, if the true
    one is zero. A value is None if it cannot be computed.
    """

    mean_pct: float | None
    beta: float | None
    beyond_beta_pct: float | None
    p_value: float | None


class SeriesEvaluation(Struct, frozen=True, kw_only=True):
    """
    A series evaluated for both sides.

    `weeks` is the number of calendar weeks, and `imputed` the number of those with a gap.
    """

    weeks: int
    imputed: int
    better: SideEvaluation
    worse: SideEvaluation

    @property
    def side(self) -> Side | None:
        """Return the side with the smaller probability; None without a probability."""
        if self.better.p_value is None or self.worse.p_value is None:
            return None
        if self.better.p_value <= self.worse.p_value:
            return Side.BETTER
        return Side.WORSE

    @property
    def p_value(self) -> float | None:
        """Return twice the smaller probability, at most 1: both sides are tested."""
        if self.better.p_value is None or self.worse.p_value is None:
            return None
        return min(1.0, 2 * min(self.better.p_value, self.worse.p_value))

    @property
    def has_enough_weeks(self) -> bool:
        """Return whether there are enough weeks without a gap."""
        return self.weeks - self.imputed >= MIN_WEEKS


class HolmStep(Struct, frozen=True, kw_only=True):
    """One series in Holm's order, with the bound that its probability is compared with."""

    series: str
    p_value: float
    bound: float
    is_found: bool


def evaluate(batches: Sequence[BatchResult]) -> SeriesEvaluation:
    """
    Return the evaluation of a series.

    If a change of the benchmark or a rate is missing, the series has no probability, and nothing is
    found: a week without it could not be compared, and a guess could be made in the series' favour.
    """
    picks = chain.from_iterable(batch.picks for batch in batches)
    observed = list(chain.from_iterable(_observed_weeks(pick) for pick in picks))
    lowest, highest = min(observed, default=0.0), max(observed, default=0.0)
    weeks = _all_weeks(batches)
    gaps = _all_weeks([batch for batch in batches if _has_gap(batch)])
    return SeriesEvaluation(
        weeks=len(weeks),
        imputed=len(gaps),
        better=_evaluate_side(batches, lowest, Side.BETTER),
        worse=_evaluate_side(batches, highest, Side.WORSE),
    )


def _all_weeks(batches: Sequence[BatchResult]) -> set[date]:
    return set(chain.from_iterable(_weeks_of(batch) for batch in batches))


def _weeks_of(batch: BatchResult) -> tuple[date, date]:
    return batch.monday, batch.monday + _WEEK


def _has_gap(batch: BatchResult) -> bool:
    return any(pick.middle is None or pick.result is None for pick in batch.picks)


def _observed_weeks(pick: PickResult) -> Iterable[float]:
    """Yield the alphas of the weeks that have readings at both ends."""
    if pick.middle is not None:
        yield pick.middle
        if pick.result is not None:
            yield pick.result - pick.middle


def _filled(pick: PickResult, fill: float) -> tuple[float, float]:
    """Return the alphas of both weeks, with `fill` for the week that cannot be computed."""
    first = pick.middle
    if first is None:
        first = fill
    if pick.result is None:
        return first, fill
    return first, pick.result - first


def _evaluate_side(batches: Sequence[BatchResult], fill: float, side: Side) -> SideEvaluation:
    points = _points(batches, fill)
    if points is None:
        return SideEvaluation(mean_pct=None, beta=None, beyond_beta_pct=None, p_value=None)
    intercept = points.estimate_intercept()
    value = p_value = None
    if intercept is not None:
        value = intercept.value
        p_value = intercept.p_value()
    if p_value is not None and value is not None:
        # `p_value` counts both sides.
        p_value /= 2
        if (value > 0) != (side is Side.BETTER):
            p_value = 1 - p_value
    return SideEvaluation(
        mean_pct=points.y if points.count else None,
        beta=points.slope(),
        beyond_beta_pct=value,
        p_value=p_value,
    )


def _points(batches: Sequence[BatchResult], fill: float) -> Points | None:
    """
    Return a point for each calendar week: the benchmark's change less the rate, and the excess.

    None if a change of the benchmark or a rate is missing.
    """
    weeks: dict[date, list[tuple[float, float]]] = {}
    for batch in batches:
        alphas = zip(*(_filled(pick, fill) for pick in batch.picks), strict=True)
        parts = zip(_weeks_of(batch), batch.benchmark, batch.risk_free, alphas, strict=True)
        for week, change, rate, of_picks in parts:
            if change is None or rate is None:
                return None
            held = weeks.setdefault(week, [])
            beyond_rate = change - rate
            held.extend((beyond_rate, alpha) for alpha in of_picks)
    points = Points()
    for _, held in sorted(weeks.items()):
        # The sum of floats differs between Python 3.11 and 3.12; `math.fsum` is always exact.
        x = math.fsum(change for change, _ in held) / len(held)
        y = math.fsum(alpha for _, alpha in held) / len(held)
        points = points.with_point(x, y)
    return points


def holm(p_values: Mapping[str, float], risk: float, untested: int = 0) -> list[HolmStep]:
    """
    Return the series in the order of their probabilities, the smallest first.

    `untested` is the number of series that count without being tested, as if their probabilities
    were 1: an operator could otherwise take out the unlucky series before a check, and the luckiest
    one would have the whole risk. The bound of the first of m series is `risk` / m, of the second
    `risk` / (m - 1), and so on. A series is found if its probability and those of all series before
    it are within their bounds. Equal probabilities are in the order of the names; Holm's result
    does not depend on it.
    """
    steps: list[HolmStep] = []
    is_found = True
    ordered = sorted(p_values.items(), key=lambda item: (item[1], item[0]))
    for place, (series, p_value) in enumerate(ordered):
        bound = risk / (len(ordered) + untested - place)
        is_found = is_found and p_value <= bound
        steps.append(HolmStep(series=series, p_value=p_value, bound=bound, is_found=is_found))
    return steps


def risk_of_check(number: int) -> float:
    """
    Return the risk of a wrong finding that the check `number` (from 1) may take.

    The sum over all numbers is 5 % (Lan and DeMets 1983).
    """
    return SIGNIFICANCE / (number * (number + 1))


def check_date(first_monday: date, number: int) -> date:
    """Return the date of a check: 52 weeks after the one before, from the first Monday on."""
    return first_monday + number * WEEKS_BETWEEN_CHECKS * _WEEK


def held_at(on: date) -> datetime:
    """Return the time from which the check of a date is held."""
    return calendar.from_new_york(on + _HELD_AFTER, calendar.DUE_TIME)


def rate_of_week(rates: Mapping[date, Rate], first_session: date) -> Rate | None:
    """
    Return the observation that gives the rate of a week which begins at the close of a session.

    It is the newest one that is dated at least seven days before. `rates` has the reading in force
    of each day.
    """
    latest = first_session - _RATE_AGE
    day = max((day for day in rates if day <= latest), default=None)
    if day is None:
        return None
    return rates[day]


def risk_free_pct(rate: Rate, first_session: date, last_session: date) -> Decimal:
    """
    Return the rate without risk between two sessions, in percent.

    For example, 3.65 percent a year for seven days: 3.65 * 7 / 365 = 0.07.
    """
    with decimal.localcontext(DECIMAL_CONTEXT):
        return rate.value_pct * (last_session - first_session).days / _DAYS_PER_YEAR
