"""
Whether the probabilities that a model states for its picks turn out right.

From version 2 of the prompt on, a model states with each pick the probability that the call turns
out right: that its `alphaPct` at the result is above zero. Only finished picks with a probability
count. So a batch that was asked with version 1, and a control, never count.

**The Brier score** is the mean squared difference between the stated probability, as a fraction
from 0 to 1, and what happened: 1 for a hit, and 0 otherwise (Brier, G. W. (1950), Verification of
forecasts expressed in terms of probability. Monthly Weather Review 78, 1-3). Lower is better. It is
the sum of three parts (Murphy, A. H. (1973), A new vector partition of the probability score.
Journal of Applied Meteorology 12, 595-600): reliability - resolution + uncertainty. This identity
holds if the picks with the same stated percentage form one group. The bins of the calibration table
are wider than these groups, and no part of the score is computed from them.

All of these figures are computed as fractions of whole numbers, and rounded once at the end.
Definitions: docs/record.md#probability.
"""

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from enum import Enum
from fractions import Fraction
from typing import Annotated

from msgspec import Meta, Struct

from app.domain.prompt import MAX_PROBABILITY, MIN_PROBABILITY
from app.domain.returns import DECIMAL_CONTEXT
from app.domain.statistics import SIGNIFICANCE, Interval, hit_rate_pct

# The width of the bins of the calibration table, in percentage points.
BIN_WIDTH = 10
BIN_STARTS = range(MIN_PROBABILITY, MAX_PROBABILITY + 1, BIN_WIDTH)
# With fewer picks than those of twenty Mondays, the interval of a hit rate near 50 % is more than
# twelve points wide on either side: too wide for any sentence about calibration.
MIN_PICKS = 60

_HALF = Fraction(1, 2)
_CENTS = Decimal("0.01")


class StatedPick(Struct, frozen=True):
    """A finished pick: the stated probability in percent, and whether the pick was a hit."""

    probability: int
    is_hit: bool


class Calibration(Enum):
    """What the stated probabilities are, compared with the share of hits."""

    TOO_EARLY = "too early"
    OVERCONFIDENT = "overconfident"
    UNDERCONFIDENT = "underconfident"
    UNDECIDED = "undecided"


# The structs from here to `ProbabilityScores` are also types of the API: their docstrings and
# descriptions are texts of the schema.


class ProbabilityGroup(Struct, frozen=True):
    """All finished picks for which the model stated the same probability."""

    stated_pct: Annotated[int, Meta(description="The stated probability, in percent.")]
    picks: Annotated[int, Meta(description="The number of finished picks with this probability.")]
    hits: Annotated[int, Meta(description="The number of these picks that were right.")]


class CalibrationBin(Struct, frozen=True):
    """
    One row of the calibration table: the finished picks whose stated probability lies in a range.
    """

    low_pct: Annotated[
        int, Meta(description="The lowest stated probability of the bin, in percent, such as 50.")
    ]
    high_pct: Annotated[
        int, Meta(description="The highest stated probability of the bin, in percent, such as 59.")
    ]
    picks: Annotated[int, Meta(description="The number of finished picks in the bin.")]
    hits: Annotated[int, Meta(description="The number of these picks that were right.")]
    mean_stated_pct: Annotated[
        Decimal | None,
        Meta(
            description="The mean of the stated probabilities in the bin, in percent, exact. Null "
            "if the bin is empty."
        ),
    ]
    hit_rate_pct: Annotated[
        Decimal | None,
        Meta(
            description="The share of hits in the bin, in percent, to six decimal places. Null if "
            "the bin is empty."
        ),
    ]
    hit_rate_interval: Annotated[
        Interval | None,
        Meta(
            description="The 95 % Wilson interval of `hitRatePct`, in percent. It treats picks as "
            "independent, which they are not, so it is too narrow. Null if the bin is empty."
        ),
    ]


class ProbabilityScores(Struct, frozen=True):
    """
    How good the stated probabilities were. Only finished picks with a probability count. A pick was
    right if its `alphaPct` at the result is above zero. Scores are computed from probabilities
    as fractions from 0 to 1; all other shares are in percent. docs/record.md defines each figure.
    """

    picks: Annotated[
        int, Meta(description="The number of finished picks with a probability, at least 1.")
    ]
    hits: Annotated[int, Meta(description="The number of these picks that were right.")]
    mean_stated_pct: Annotated[
        Decimal,
        Meta(description="The mean of the stated probabilities, in percent, exact."),
    ]
    hit_rate_pct: Annotated[
        Decimal,
        Meta(description="The share of hits among these picks, in percent, to six decimal places."),
    ]
    hit_rate_interval: Annotated[
        Interval,
        Meta(
            description="The 95 % Wilson interval of `hitRatePct`, in percent. It treats picks as "
            "independent, which they are not, so it is too narrow."
        ),
    ]
    brier_score: Annotated[
        Decimal,
        Meta(
            description="The Brier score (1950), exact: the mean squared difference between the "
            "stated probability, from 0 to 1, and what happened, which is 1 for a hit and 0 "
            "otherwise. 0 is perfect, and lower is better. It equals `reliability` - `resolution` "
            "+ `uncertainty`, up to the last digit (Murphy 1973)."
        ),
    ]
    reliability: Annotated[
        Decimal,
        Meta(
            description="The part of `brierScore` that wrong probabilities add: the mean squared "
            "difference between each stated probability and the share of hits in its group, "
            "exact. 0 is perfect. Chance alone makes it greater than 0, the more so the fewer "
            "picks a group has."
        ),
    ]
    resolution: Annotated[
        Decimal,
        Meta(
            description="The part of `brierScore` that telling good picks from bad ones takes off: "
            "the mean squared difference between the share of hits in each group and that of all "
            "picks, exact. Higher is better. Chance alone makes it greater than 0, the more so the "
            "fewer picks a group has."
        ),
    ]
    uncertainty: Annotated[
        Decimal,
        Meta(
            description="The part of `brierScore` that no probability changes: h (1 - h), exact, "
            "where h is the share of hits among these picks, from 0 to 1."
        ),
    ]
    half_brier_score: Annotated[
        Decimal,
        Meta(
            description="The Brier score of always saying 50 %, for comparison. It is 0.25 "
            "whatever happens."
        ),
    ]
    hit_rate_brier_score: Annotated[
        Decimal,
        Meta(
            description="The Brier score of always saying the record's own share of hits, exact, "
            "for comparison. It is in-sample: that share is known only after the results, so no "
            "forecast could have used it. It equals `uncertainty`."
        ),
    ]
    groups: Annotated[
        Sequence[ProbabilityGroup],
        Meta(
            description="The picks by stated probability, the lowest first: the groups of the "
            "three parts of `brierScore`. A probability that was never stated has no group.",
            extra={"usual_length": MAX_PROBABILITY - MIN_PROBABILITY + 1},
        ),
    ]
    bins: Annotated[
        Sequence[CalibrationBin],
        Meta(
            description="The calibration table: the five bins 50-59, 60-69, 70-79, 80-89 and "
            "90-99 percent, also the empty ones. No score is computed from it.",
            extra={"usual_length": len(BIN_STARTS)},
        ),
    ]
    words: Annotated[
        str,
        Meta(
            description="What the mean stated probability says beside the share of hits, in one or "
            "two sentences: overconfident, underconfident, or not distinguishable from "
            f"calibrated. For fewer than {MIN_PICKS} picks, that it is too early."
        ),
    ]


def score_probabilities(stated: Iterable[StatedPick]) -> ProbabilityScores | None:
    """Return the scores of stated probabilities; None if there is no pick with a probability."""
    groups = group_by_probability(stated)
    if not groups:
        return None
    picks, hits = count(groups)
    mean_stated = _mean_stated(groups)
    rate, interval = hit_rate_pct(hits, picks, SIGNIFICANCE)
    assert rate is not None
    assert interval is not None
    share = Fraction(hits, picks)
    uncertainty = share * (1 - share)
    return ProbabilityScores(
        picks=picks,
        hits=hits,
        mean_stated_pct=_rounded(mean_stated),
        hit_rate_pct=rate,
        hit_rate_interval=interval,
        brier_score=_rounded(_brier(groups)),
        reliability=_rounded(_reliability(groups)),
        resolution=_rounded(_resolution(groups, share)),
        uncertainty=_rounded(uncertainty),
        half_brier_score=_rounded(_HALF * _HALF),
        hit_rate_brier_score=_rounded(uncertainty),
        groups=groups,
        bins=[_bin(start, groups) for start in BIN_STARTS],
        words=calibration_words(picks, _rounded(mean_stated), rate, interval=interval),
    )


def group_by_probability(stated: Iterable[StatedPick]) -> Sequence[ProbabilityGroup]:
    """Return one group for each stated probability, the lowest first."""
    counts: dict[int, list[int]] = {}
    for pick in stated:
        group = counts.setdefault(pick.probability, [0, 0])
        group[0] += 1
        group[1] += pick.is_hit
    return [
        ProbabilityGroup(stated_pct=probability, picks=picks, hits=hits)
        for probability, (picks, hits) in sorted(counts.items())
    ]


def count(groups: Sequence[ProbabilityGroup]) -> tuple[int, int]:
    """Return the number of picks and of hits in these groups."""
    return sum(one.picks for one in groups), sum(one.hits for one in groups)


def judge_calibration(picks: int, mean_stated_pct: Decimal, interval: Interval) -> Calibration:
    """
    Return whether the mean stated probability lies above, below or within the interval of the hits.

    All are in percent. Picks are not independent, so the interval is too narrow, and a model is
    called overconfident or underconfident too often.
    """
    if picks < MIN_PICKS:
        return Calibration.TOO_EARLY
    if mean_stated_pct > interval.high:
        return Calibration.OVERCONFIDENT
    if mean_stated_pct < interval.low:
        return Calibration.UNDERCONFIDENT
    return Calibration.UNDECIDED


def calibration_words(
    picks: int, mean_stated_pct: Decimal, rate_pct: Decimal, *, interval: Interval
) -> str:
    """Return what these figures say about the calibration, in one or two sentences."""
    calibration = judge_calibration(picks, mean_stated_pct, interval)
    if calibration is Calibration.TOO_EARLY:
        some = "1 finished pick has" if picks == 1 else f"{picks} finished picks have"
        return (
            f"Too early to say whether the probabilities are right: {some} a probability, and "
            f"the results of fewer than {MIN_PICKS} depend mostly on chance."
        )
    stated, rate = _shown(mean_stated_pct), _shown(rate_pct)
    low, high = _shown(interval.low), _shown(interval.high)
    right = f"the 95 % interval of the share of right picks ({rate} %, from {low} to {high} %)"
    finding = {
        Calibration.OVERCONFIDENT: (
            f"Overconfident: the mean stated probability, {stated} %, lies above {right}."
        ),
        Calibration.UNDERCONFIDENT: (
            f"Underconfident: the mean stated probability, {stated} %, lies below {right}."
        ),
        Calibration.UNDECIDED: (
            f"Not distinguishable from calibrated: the mean stated probability, {stated} %, lies "
            f"within {right}."
        ),
    }[calibration]
    return f"{finding} Picks are not independent, so this interval is too narrow."


def _brier(groups: Sequence[ProbabilityGroup]) -> Fraction:
    """Return the Brier score: each pick's squared error in percent is a whole number."""
    total = 0
    for one in groups:
        misses = one.picks - one.hits
        total += one.hits * (100 - one.stated_pct) ** 2 + misses * one.stated_pct**2
    return Fraction(total, 100 * 100 * count(groups)[0])


def _reliability(groups: Sequence[ProbabilityGroup]) -> Fraction:
    """
    Return the mean of (p - o)^2, with the stated p and the share of hits o of each pick's group.

    For a group of n picks with h hits, n (p - o)^2 is (n p - h)^2 / n. In percent, this is a whole
    number divided by n.
    """
    total = Fraction(0)
    for one in groups:
        total += Fraction((one.picks * one.stated_pct - 100 * one.hits) ** 2, one.picks)
    return total / (100 * 100 * count(groups)[0])


def _resolution(groups: Sequence[ProbabilityGroup], share: Fraction) -> Fraction:
    """
    Return the mean of (o - share)^2, with the share of hits o of each pick's group.

    The mean of all o is `share`, so this is the mean of o^2 less `share`^2.
    """
    squares = Fraction(0)
    for one in groups:
        squares += Fraction(one.hits**2, one.picks)
    return squares / count(groups)[0] - share**2


def _mean_stated(groups: Sequence[ProbabilityGroup]) -> Fraction:
    return Fraction(sum(one.stated_pct * one.picks for one in groups), count(groups)[0])


def _bin(start: int, all_groups: Sequence[ProbabilityGroup]) -> CalibrationBin:
    end = min(start + BIN_WIDTH - 1, MAX_PROBABILITY)
    groups = [one for one in all_groups if start <= one.stated_pct <= end]
    picks, hits = count(groups)
    rate, interval = hit_rate_pct(hits, picks, SIGNIFICANCE)
    mean_stated = None
    if groups:
        mean_stated = _rounded(_mean_stated(groups))
    return CalibrationBin(
        low_pct=start,
        high_pct=end,
        picks=picks,
        hits=hits,
        mean_stated_pct=mean_stated,
        hit_rate_pct=rate,
        hit_rate_interval=interval,
    )


def _rounded(value: Fraction) -> Decimal:
    """Return a fraction as a decimal number: one division, rounded to 28 digits, half to even."""
    with localcontext(DECIMAL_CONTEXT):
        return Decimal(value.numerator) / value.denominator


def _shown(value: Decimal) -> str:
    """Return a percentage with two decimals, half to even."""
    return str(value.quantize(_CENTS, rounding=ROUND_HALF_EVEN))
