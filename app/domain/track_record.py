"""
The track record: a summary of all picks of a series, and whether they show skill or luck.

A batch is **scored** if it is completed, has a result, and was not late. Late batches, and
completed batches without a result (**unresolved** ones), are counted, but no figure besides these
counts includes them. The picks of scored batches are **finished**. Counts, means, medians, sums and
extremes are exact: they are Decimals, computed as in `returns`. Estimates are floats
(`statistics`), rounded to six decimal places. docs/record.md#every-figure-of-trackrecord defines
every figure.

**The weekly excess.** Neither picks nor batches are independent: fortnights of neighbouring Mondays
overlap, tickers repeat, and shares move together. A t-test that assumes independence finds skill
too often. So the picks are combined into the calendar-time portfolio (Fama, E. F. (1998), Market
efficiency, long-term returns, and behavioral finance. Journal of Financial Economics 49, 283-306,
section 3). Its weeks do not overlap, and they are the observations that are tested.

Each pick is held for two weeks: from its baseline to its middle, and from there to its result. The
**middle** is the checkpoint of the last session of the first week. A pick's figure of a week is the
change of its alpha in that week. For example, a pick with an alpha of 2 at the middle and of 5 at
the result has 2 in its first week and 3 in its second. The excess of a week is the mean over all
picks that were held in that week.

**A batch without a middle.** If the checkpoint of the last session of the first week was skipped,
no other day replaces it, as no other day replaces a result. The batch is not part of the weeks, but
the figures that are not weekly include it.

**Beta.** Some shares move more than the benchmark. While the benchmark rises, a BUY of such a share
has a positive alpha without any skill. So the weekly excess is regressed on the benchmark's change
of the same week (Jensen, M. C. (1968), The performance of mutual funds. Journal of Finance 23,
389-416). The slope is the beta of the excess. The intercept is the excess of a week in which the
benchmark does not move.

**The verdict** is not computed from these figures. It comes from the yearly checks that were held
(`app.domain.verdict`).

**A comparison of two series** uses the weeks that both have. The difference of their excess in the
same week does not contain what moved both alike, so its mean is tested like the mean of one series
(the paired test of Student (1908)). Among many pairs, one looks different by luck alone. So the
result names the number of pairs that the record has.

**Random actions** are the control: the same picks, each with BUY or SELL at random, many times.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal, localcontext
from hashlib import sha256
from typing import Annotated

from msgspec import Meta, Struct

from app.domain.calibration import ProbabilityScores, StatedPick, score_probabilities
from app.domain.costs import AfterCosts, BeforeCosts, CostBps, sorted_last_hits
from app.domain.further_track_record import ComparedPick, FurtherAverage, average_further
from app.domain.model import (
    CHECKPOINT_DAYS,
    PICKS_PER_BATCH,
    TICKER_PATTERN,
    Action,
    BatchStatus,
)
from app.domain.prompt import MAX_PROBABILITY, MIN_PROBABILITY
from app.domain.returns import DECIMAL_CONTEXT, format_decimal
from app.domain.statistics import (
    SIGNIFICANCE,
    Interval,
    Points,
    draw_random_signs,
    hit_rate_pct,
    round_estimate,
    to_decimal,
    to_float,
)
from app.domain.verdict import CountedBatch, RecordChecks, Verdict, reach_verdict, verdict_of_a_part
from app.errors import RecordDamaged

DRAW_COUNT = 1000
BIN_COUNT = 20
# How many draws lie outside the interval of random actions on each side.
DRAWS_OUTSIDE = int(DRAW_COUNT * SIGNIFICANCE / 2)
# How many points of the curve, and how many weeks, are listed: the newest ten years of each. The
# figures use all points and all weeks.
MAX_LISTED = 520
# A record with more batches than this (a century) is refused: each batch takes time and memory to
# compute.
MAX_BATCHES = 5_200

_TICKER = re.compile(TICKER_PATTERN)
_WEEK = timedelta(weeks=1)
_ZERO = Decimal(0)


def require_figure(value: Decimal | None) -> Decimal:
    """
    Return a figure of a scored batch. Raises RecordDamaged if it is None.

    A missing figure must never count as zero.
    """
    if value is None:
        raise RecordDamaged("a scored batch has a pick without figures at its result")
    return value


class TrackedPick(Struct, frozen=True, array_like=True):
    """
    A pick with its stored figures at the middle and at the result of its batch.

    A figure is None if its checkpoint is not computed. The fields are in the order in which
    BATCH_ROWS of `api.schema` writes them.
    """

    id: str
    ticker: str
    action: Action
    middle_vs_benchmark_pct: Decimal | None = None
    vs_benchmark_pct: Decimal | None = None
    absolute_return_pct: Decimal | None = None
    # The probability that the model stated for this pick, in percent; None if it stated none.
    probability: int | None = None
    # The total return, with dividends; None until the dividends are known.
    total_return_pct: Decimal | None = None
    vs_benchmark_total_pct: Decimal | None = None

    def in_direction(self, value: Decimal | None) -> Decimal:
        """Return a figure in the direction of this pick: the negative of `value` for a SELL."""
        return self.action.in_direction(require_figure(value))

    @property
    def alpha_pct(self) -> Decimal:
        """Return the excess over the benchmark at the result, in the direction of the pick."""
        return self.in_direction(self.vs_benchmark_pct)


class TrackedBatch(Struct, frozen=True, array_like=True):
    """
    A batch with the benchmark's change from the baseline to the middle, and to the result.

    A change is None if its checkpoint is not computed. It is NaN if a computed checkpoint has no
    change: such a row is damaged. `has_all_days` is false for a completed batch that does not have
    each of its checkpoints exactly once. The fields are in the order in which BATCH_ROWS of
    `api.schema` writes them.
    """

    run_date: date
    status: BatchStatus
    late: bool
    middle_benchmark_pct: Decimal | None = None
    benchmark_pct: Decimal | None = None
    picks: Sequence[TrackedPick] = ()
    has_all_days: bool = True

    def check(self, *, is_filtered: bool = False) -> None:
        """
        Raise RecordDamaged if a row that a figure needs is missing or damaged.

        `is_filtered` says that only picks with one action were selected, so some may be missing.
        """
        self._check_rows(is_filtered=is_filtered)
        for pick in self.picks:
            self._check_pick(pick)
        for value in (self.middle_benchmark_pct, self.benchmark_pct):
            if value is not None and not value.is_finite():
                raise RecordDamaged(
                    f"a change of the benchmark of the Monday {self.run_date} is missing, or is no "
                    "number"
                )

    def _check_rows(self, *, is_filtered: bool) -> None:
        expected = PICKS_PER_BATCH
        if self.status is BatchStatus.FAILED:
            expected = 0
        is_short = len(self.picks) < expected and not is_filtered
        if len(self.picks) > expected or is_short:
            raise RecordDamaged(
                f"the Monday {self.run_date} has {len(self.picks)} picks and must have {expected}"
            )
        if not self.has_all_days:
            days = 1 + CHECKPOINT_DAYS
            raise RecordDamaged(
                f"the Monday {self.run_date} is completed and does not have each of its {days} "
                "days once, computed or skipped"
            )

    def _check_pick(self, pick: TrackedPick) -> None:
        if not _TICKER.fullmatch(pick.ticker):
            raise RecordDamaged(
                f"row {pick.id} of picks (Monday {self.run_date}) has an invalid ticker"
            )
        stated = pick.probability
        if stated is not None and not MIN_PROBABILITY <= stated <= MAX_PROBABILITY:
            raise RecordDamaged(
                f"the probability of {pick.ticker} of the Monday {self.run_date} is not from "
                f"{MIN_PROBABILITY} to {MAX_PROBABILITY} percent"
            )
        for value in (pick.total_return_pct, pick.vs_benchmark_total_pct):
            if value is not None and not value.is_finite():
                raise RecordDamaged(
                    f"a total return of {pick.ticker} of the Monday {self.run_date} is no number"
                )
        needed: list[Decimal | None] = []
        if self.benchmark_pct is not None:
            needed += [pick.vs_benchmark_pct, pick.absolute_return_pct]
        if self.middle_benchmark_pct is not None:
            needed.append(pick.middle_vs_benchmark_pct)
        for value in needed:
            name = f"{pick.ticker} of the Monday {self.run_date}"
            if value is None:
                raise RecordDamaged(f"{name} has no figures at a computed checkpoint")
            if not value.is_finite():
                raise RecordDamaged(f"a figure of {name} at a computed checkpoint is no number")

    @property
    def is_unresolved(self) -> bool:
        """Return whether the batch is completed and has no result."""
        return self.status is BatchStatus.COMPLETED and self.benchmark_pct is None

    @property
    def is_scored(self) -> bool:
        """Return whether the batch is scored, so that its picks are finished."""
        has_result = self.status is BatchStatus.COMPLETED and self.benchmark_pct is not None
        return has_result and not self.late

    @property
    def weeks(self) -> Iterator["BatchWeek"]:
        """Yield the two weeks of the batch; nothing if it has no middle, no result or no pick."""
        if self.middle_benchmark_pct is None or self.benchmark_pct is None or not self.picks:
            return
        total = ordered_sum(pick.alpha_pct for pick in self.picks)
        first = ordered_sum(pick.in_direction(pick.middle_vs_benchmark_pct) for pick in self.picks)
        with localcontext(DECIMAL_CONTEXT):
            second = total - first
            second_benchmark = self.benchmark_pct - self.middle_benchmark_pct
        yield BatchWeek(
            monday=self.run_date,
            picks=len(self.picks),
            excess=first,
            benchmark=self.middle_benchmark_pct,
        )
        yield BatchWeek(
            monday=self.run_date + _WEEK,
            picks=len(self.picks),
            excess=second,
            benchmark=second_benchmark,
        )


class BatchWeek(Struct, frozen=True):
    """
    One of the two weeks of a batch, named by its Monday.

    `excess` is the sum of the changes of its picks' alphas in this week, in percentage points.
    `benchmark` is the change of the benchmark's return in this week, in percentage points.
    """

    monday: date
    picks: int
    excess: Decimal
    benchmark: Decimal


# The structs from here to `TrackRecord` are also types of the API: `type_of` in
# graphql/api/fields.py reads them. Their docstrings and descriptions are texts of the schema,
# written for the API's readers. The API estimates the size of a response from the `usual_length` of
# each list.


class BatchCounts(Struct, frozen=True):
    """The number of batches, by status and by whether they are scored."""

    total: Annotated[int, Meta(description="The number of all batches, of every status.")]
    active: Annotated[
        int, Meta(description="The number of batches whose 14 days are still running.")
    ]
    completed: Annotated[
        int, Meta(description="The number of batches that have all fifteen checkpoints.")
    ]
    failed: Annotated[int, Meta(description="The number of batches without picks.")]
    late: Annotated[
        int,
        Meta(
            description="The number of batches with picks that were stored too late to trade at "
            "the first open. They are never scored."
        ),
    ]
    unresolved: Annotated[
        int,
        Meta(
            description="The number of completed batches without a result, because the checkpoint "
            "of their last session was skipped. They are never scored."
        ),
    ]
    scored: Annotated[
        int,
        Meta(description="The number of scored batches: completed, with a result, and not late."),
    ]


class PickCounts(Struct, frozen=True):
    """The number of picks, and how many of them were right."""

    total: Annotated[int, Meta(description="The number of picks of all batches.")]
    finished: Annotated[
        int,
        Meta(
            description="The number of finished picks: the picks of scored batches. The other "
            "figures count only finished picks."
        ),
    ]
    hits: Annotated[
        int,
        Meta(
            description="The number of finished picks that were right: their `alphaPct` is above "
            "zero."
        ),
    ]
    hit_rate_pct: Annotated[
        Decimal | None,
        Meta(
            description="The share of hits among finished picks, in percent, to six decimal "
            "places. Null if there are no finished picks."
        ),
    ]
    hit_rate_interval: Annotated[
        Interval | None,
        Meta(
            description=(
                "The 95 % Wilson interval of `hitRatePct`, in percent. It treats picks as "
                "independent, which they are not, so it is too narrow. Null if there are no "
                "finished picks."
            )
        ),
    ]


class Average(Struct, frozen=True):
    """The exact mean and median of a list of values. Both are null if the list is empty."""

    mean: Annotated[
        Decimal | None,
        Meta(
            description="The arithmetic mean of the values, in their unit. Null if there are no "
            "values."
        ),
    ]
    median: Annotated[
        Decimal | None,
        Meta(
            description="The median of the values, in their unit: the middle one, or the mean of "
            "the two middle ones. Null if there are no values."
        ),
    ]


class ResultFigures(Struct, frozen=True):
    """The mean and the median of the figures at the result."""

    count: Annotated[int, Meta(description="The number of finished picks, or of scored batches.")]
    alpha_pct: Annotated[
        Average,
        Meta(
            description="The mean and the median of `alphaPct` at the result, in percentage points."
        ),
    ]
    directional_return_pct: Annotated[
        Average,
        Meta(
            description="The mean and the median of `directionalReturnPct` at the result, in "
            "percent."
        ),
    ]
    absolute_return_pct: Annotated[
        Average,
        Meta(
            description="The mean and the median of `absoluteReturnPct` at the result, in percent."
        ),
    ]


class TotalResults(Struct, frozen=True):
    """
    The results with dividends, beside those without, over the finished picks whose dividends are
    known. Hits and the verdict rest on the results without dividends.
    """

    count: Annotated[
        int,
        Meta(
            description="The number of finished picks with a total return. It may be less than "
            "the number of all finished picks. Then `alphaPct` here differs from that of "
            "`pickResults`."
        ),
    ]
    alpha_pct: Annotated[
        Average,
        Meta(
            description="The mean and the median of `alphaPct`, without dividends, over these "
            "picks, in percentage points."
        ),
    ]
    total_alpha_pct: Annotated[
        Average,
        Meta(
            description="The mean and the median of `totalAlphaPct`, with dividends, over these "
            "picks, in percentage points."
        ),
    ]
    directional_total_return_pct: Annotated[
        Average,
        Meta(
            description="The mean and the median of `totalReturnPct` in the direction of each "
            "pick, in percent: its negative for a SELL."
        ),
    ]
    total_hits: Annotated[
        int,
        Meta(description="The number of these picks with a `totalAlphaPct` above zero."),
    ]


class PickScore(Struct, frozen=True):
    """A finished pick with its alpha."""

    id: Annotated[str, Meta(description="The stable id of the pick. Pass it to `pick(id:)`.")]
    run_date: Annotated[date, Meta(description="The Monday of the pick's batch.")]
    ticker: Annotated[str, Meta(description="The ticker that the share has now, such as `NVDA`.")]
    action: Annotated[
        Action, Meta(description="The action that the model recommended, BUY or SELL.")
    ]
    alpha_pct: Annotated[
        Decimal,
        Meta(description="The `alphaPct` of the pick at its batch's result, in percentage points."),
    ]


class CurvePoint(Struct, frozen=True):
    """One scored batch on the curve of summed alpha."""

    run_date: Annotated[date, Meta(description="The Monday of the batch.")]
    alpha_pct: Annotated[
        Decimal,
        Meta(
            description="The mean alpha of the batch's picks at the result, in percentage points."
        ),
    ]
    sum_pct: Annotated[
        Decimal,
        Meta(
            description="The sum of `alphaPct` over all scored batches up to this one, in "
            "percentage points."
        ),
    ]


class Week(Struct, frozen=True):
    """One calendar week in which picks of scored batches were held."""

    monday: Annotated[date, Meta(description="The Monday on which the week begins.")]
    picks: Annotated[
        int,
        Meta(
            description="The number of picks that were held in the week: those of the week's "
            "Monday and of the Monday before it."
        ),
    ]
    excess_pct: Annotated[
        Decimal,
        Meta(
            description="The mean change of the picks' alpha during the week, in percentage points."
        ),
    ]
    benchmark_pct: Annotated[
        Decimal,
        Meta(
            description="The mean change of the benchmark's return during the week, over the same "
            "picks, in percentage points."
        ),
    ]


class WeeklyExcess(Struct, frozen=True):
    """
    The excess of the picks over the benchmark by calendar week (the calendar-time portfolio of Fama
    1998). Weeks do not overlap, so they are nearly independent observations.
    """

    count: Annotated[int, Meta(description="The number of weeks in which picks were held.")]
    without_middle: Annotated[
        int,
        Meta(
            description="The number of scored batches that are left out of the weeks, because "
            "they have no figures at the end of their first week: that checkpoint was skipped."
        ),
    ]
    mean_pct: Annotated[
        Decimal | None,
        Meta(
            description="The mean of `Week.excessPct` over all weeks, in percentage points, to "
            "six decimal places. Null if there is no week."
        ),
    ]
    mean_interval: Annotated[
        Interval | None,
        Meta(
            description="The 95 % t-interval of `meanPct`, in percentage points. Null for fewer "
            "than two weeks, or if all weeks have the same excess."
        ),
    ]
    beta: Annotated[
        Decimal | None,
        Meta(
            description="The slope of the least squares line through the weeks' excess and the "
            "benchmark's change in the same week, to six decimal places. Null for fewer than "
            "two weeks, or if the benchmark's change does not vary."
        ),
    ]
    beyond_beta_pct: Annotated[
        Decimal | None,
        Meta(
            description="The intercept of the line whose slope is `beta`: the weekly excess that "
            "`beta` does not explain, in percentage points, to six decimal places. Null for fewer "
            "than three weeks, or if the benchmark's change does not vary."
        ),
    ]
    beyond_beta_interval: Annotated[
        Interval | None,
        Meta(
            description=(
                "The 95 % t-interval of `beyondBetaPct`, in percentage points. Null if "
                "`beyondBetaPct` is null, or if all weeks lie exactly on the least squares line."
            )
        ),
    ]
    weeks: Annotated[
        Sequence[Week],
        Meta(
            description=f"The newest {MAX_LISTED} weeks, oldest first.",
            extra={"usual_length": MAX_LISTED},
        ),
    ]


class Bin(Struct, frozen=True):
    """
    One bin of a histogram: the number of draws whose mean alpha lies between two bounds. A draw on
    the border of two bins belongs to the upper one; the last bin includes its upper bound.
    """

    low: Annotated[
        Decimal,
        Meta(
            description="The lower bound of the bin, in percentage points. The bin includes it. "
            "It is rounded to six decimal places for display; draws are counted with the exact "
            "bound."
        ),
    ]
    high: Annotated[
        Decimal,
        Meta(
            description="The upper bound of the bin, in percentage points, to six decimal places. "
            "It is the `low` of the next bin, and only that bin includes it. The last bin includes "
            "its own upper bound."
        ),
    ]
    count: Annotated[int, Meta(description="The number of draws in the bin.")]


class RandomActions(Struct, frozen=True):
    """
    A control for the choice of actions: the same shares, each with BUY or SELL chosen at random,
    many times.
    """

    draws: Annotated[
        int,
        Meta(
            description=f"The number of random draws, {DRAW_COUNT:,}. In each draw every finished "
            "pick gets BUY or SELL at random."
        ),
    ]
    seed: Annotated[
        str,
        Meta(
            description="The seed of the draws: the SHA-256 of the finished picks and their "
            "`vsBenchmarkPct`, as 64 hexadecimal digits. With it the draws can be repeated, "
            "see docs/record.md."
        ),
    ]
    below_pct: Annotated[
        Decimal,
        Meta(
            description="The percentage of draws whose mean alpha is below the record's mean "
            "alpha, to six decimal places. A draw with an equal mean counts half."
        ),
    ]
    interval: Annotated[
        Interval,
        Meta(
            description=(
                "The middle 95 % of the draws' mean alphas, in percentage points: from the "
                f"{DRAWS_OUTSIDE + 1}th lowest to the {DRAWS_OUTSIDE + 1}th highest, so that "
                f"{DRAWS_OUTSIDE} of the {DRAW_COUNT:,} lie outside on either side."
            )
        ),
    ]
    bins: Annotated[
        Sequence[Bin],
        Meta(
            description=f"A histogram of the draws' mean alphas, in {BIN_COUNT} bins of equal "
            "width, lowest first.",
            extra={"usual_length": BIN_COUNT},
        ),
    ]


class TrackRecord(Struct, frozen=True):
    """
    The track record of a series, or of a part of it: what its picks achieved, and whether that can
    be distinguished from luck. docs/record.md defines how each figure is computed.
    """

    series: Annotated[
        str,
        Meta(description="The name of the series whose record this is, such as `main`."),
    ]
    first_run_date: Annotated[
        date | None,
        Meta(
            description="The Monday of the first batch that is counted. Null if there is no batch."
        ),
    ]
    last_run_date: Annotated[
        date | None,
        Meta(
            description="The Monday of the last batch that is counted. Null if there is no batch."
        ),
    ]
    batches: Annotated[BatchCounts, Meta(description="The number of batches, by status.")]
    picks: Annotated[
        PickCounts, Meta(description="The number of picks, and the share of them that were right.")
    ]
    pick_results: Annotated[
        ResultFigures,
        Meta(
            description="The mean and the median of figures at the result, over all finished picks."
        ),
    ]
    batch_results: Annotated[
        ResultFigures,
        Meta(
            description="The mean and the median of figures at the result, over all scored "
            "batches. The figure of a batch is the mean of its picks' figures."
        ),
    ]
    total_results: Annotated[
        TotalResults,
        Meta(description="The results with dividends, of the finished picks that have them."),
    ]
    best: Annotated[
        PickScore | None,
        Meta(
            description="The finished pick with the highest alpha. Null if there are no finished "
            "picks."
        ),
    ]
    worst: Annotated[
        PickScore | None,
        Meta(
            description="The finished pick with the lowest alpha. Null if there are no finished "
            "picks."
        ),
    ]
    curve: Annotated[
        Sequence[CurvePoint],
        Meta(
            description=f"The curve of summed alpha: the newest {MAX_LISTED} scored batches, "
            "oldest first. The curve is a sum and never compounds, because a SELL can lose "
            "more than 100 %.",
            extra={"usual_length": MAX_LISTED},
        ),
    ]
    drawdown_pct: Annotated[
        Decimal,
        Meta(
            description="The deepest fall of the whole curve below its highest earlier value, in "
            "percentage points. The curve begins at zero. The figure is 0 if the curve never "
            "falls."
        ),
    ]
    weekly_excess: Annotated[
        WeeklyExcess,
        Meta(
            description="The excess of the picks over the benchmark week by week, with its "
            "uncertainty."
        ),
    ]
    random_actions: Annotated[
        RandomActions | None,
        Meta(
            description="A comparison of the mean alpha with random actions on the same shares. "
            "Null if there are no finished picks."
        ),
    ]
    verdict: Annotated[
        Verdict, Meta(description="The verdict on skill or luck, from the yearly checks.")
    ]
    after_costs: Annotated[
        Callable[[int], AfterCosts],
        Meta(
            description="The results of the finished picks after the costs of trading that the "
            "argument names. All other figures of the track record are without costs.",
            extra={"arguments": {"bps": CostBps}},
        ),
    ]
    break_even_bps: Annotated[
        Decimal | None,
        Meta(
            description="The cost of one way, in basis points, at which the mean alpha after costs "
            "is zero: 50 times the mean `alphaPct` of the finished picks, exact. If it is below "
            "zero, the picks lose even without costs. Null if there are no finished picks."
        ),
    ]
    probability: Annotated[
        ProbabilityScores | None,
        Meta(
            description="How good the stated probabilities were. Null if there is no finished pick "
            "with a probability: version 1 of the prompt asks for none, and a control states none."
        ),
    ]
    vs_benchmarks: Annotated[
        Sequence[FurtherAverage],
        Meta(
            description="The mean excess of the finished picks over each further benchmark, in the "
            "order of their tickers. Only picks whose batch was measured against it count. No "
            "other figure depends on these. The list is empty if there are none.",
            extra={"usual_length": 2},
        ),
    ]


class Comparison(Struct, frozen=True):
    """
    A comparison of two series: the difference of their weekly excess, on the weeks that both have.
    docs/record.md defines how each figure is computed.
    """

    a: Annotated[str, Meta(description="The name of the first series, such as `main`.")]
    b: Annotated[str, Meta(description="The name of the second series.")]
    weeks: Annotated[
        int,
        Meta(
            description="The number of weeks in which both series held picks of scored batches. "
            "It is at least two."
        ),
    ]
    first_week: Annotated[date, Meta(description="The Monday of the first of these weeks.")]
    last_week: Annotated[date, Meta(description="The Monday of the last of these weeks.")]
    mean_difference_pct: Annotated[
        Decimal,
        Meta(
            description="The mean over these weeks of the `Week.excessPct` of `a` minus that of "
            "`b`, in percentage points, to six decimal places. If it is above zero, `a` did better."
        ),
    ]
    interval: Annotated[
        Interval | None,
        Meta(
            description="The 95 % t-interval of `meanDifferencePct`, in percentage points. Null if "
            "all differences are equal. It is about this one pair: see `comparisons`."
        ),
    ]
    comparisons: Annotated[
        int,
        Meta(
            description="The number of pairs of series that the record has: n (n - 1) / 2 for n "
            "series, with the retired ones and the controls. Of 20 pairs without any difference, "
            "one has an interval without zero on average, so the best of many pairs is no finding."
        ),
    ]


def compute_track_record(
    series: str,
    batches: Iterable[TrackedBatch],
    checks: RecordChecks | None,
    *,
    further: Iterable[ComparedPick] = (),
) -> TrackRecord:
    """
    Return the track record of these batches of a series.

    `checks` are the yearly checks of the record. They are None if a part of the series was
    selected, because a part has no verdict. `further` are the finished picks of these batches with
    each of their further benchmarks. If none of a batch's picks was selected, the batch is
    counted, but no figure besides this count includes it.
    """
    all_batches = sorted(batches, key=lambda one: one.run_date)
    scored = [one for one in all_batches if one.is_scored and one.picks]
    first_run_date = last_run_date = None
    if all_batches:
        first_run_date, last_run_date = all_batches[0].run_date, all_batches[-1].run_date
    curve = list(cumulative_curve(scored))
    groups = [picks_by_ticker(one) for one in scored]
    one_pick_groups: list[list[TrackedPick]] = []
    for group in groups:
        one_pick_groups += [[pick] for pick in group]
    best, worst = best_and_worst(scored)
    pick_results = summarize_results(one_pick_groups)
    before_costs = collect_before_costs(scored, pick_results, curve)
    return TrackRecord(
        series=series,
        first_run_date=first_run_date,
        last_run_date=last_run_date,
        batches=count_batches(all_batches),
        picks=count_picks(all_batches, scored),
        pick_results=pick_results,
        batch_results=summarize_results(groups),
        total_results=summarize_totals(groups),
        best=best,
        worst=worst,
        curve=curve[-MAX_LISTED:],
        drawdown_pct=deepest_fall(point.sum_pct for point in curve),
        weekly_excess=compute_weekly_excess(scored),
        random_actions=compare_random_actions(scored),
        verdict=_verdict(checks, all_batches),
        after_costs=before_costs,
        break_even_bps=before_costs.break_even_bps,
        probability=score_probabilities(stated_picks(scored)),
        vs_benchmarks=average_further(further),
    )


def _verdict(checks: RecordChecks | None, all_batches: Sequence[TrackedBatch]) -> Verdict:
    if checks is None:
        return verdict_of_a_part()
    counted = [
        CountedBatch(run_date=one.run_date, is_scored=one.is_scored)
        for one in all_batches
        if one.status is not BatchStatus.FAILED and not one.late
    ]
    return reach_verdict(checks, counted, has_batches=bool(all_batches))


def compare_series(
    a: Sequence[TrackedBatch],
    b: Sequence[TrackedBatch],
    *,
    names: tuple[str, str],
    series_count: int,
) -> Comparison | None:
    """
    Return the comparison of two series; None if they have fewer than two weeks in common.

    `a` and `b` are all batches of the two series, and `names` their names. `series_count` is the
    number of all series of the record.
    """
    excess_of_a, excess_of_b = weekly_excess_by_monday(a), weekly_excess_by_monday(b)
    mondays = sorted(excess_of_a.keys() & excess_of_b.keys())
    points = Points()
    for monday in mondays:
        with localcontext(DECIMAL_CONTEXT):
            difference = excess_of_a[monday] - excess_of_b[monday]
        points = points.with_point(0.0, to_float(difference))
    estimate, mean_difference = points.estimate_mean(), round_estimate(points.y)
    if estimate is None or mean_difference is None:
        return None
    return Comparison(
        a=names[0],
        b=names[1],
        weeks=points.count,
        first_week=mondays[0],
        last_week=mondays[-1],
        mean_difference_pct=mean_difference,
        interval=estimate.interval(SIGNIFICANCE),
        comparisons=series_count * (series_count - 1) // 2,
    )


def weekly_excess_by_monday(batches: Iterable[TrackedBatch]) -> dict[date, Decimal]:
    """Return the excess of each week in which picks of scored batches were held, by its Monday."""
    scored = (one for one in batches if one.is_scored and one.picks)
    return {week.monday: week.excess_pct for week in combine_weeks(_batch_weeks(scored))}


def picks_by_ticker(batch: TrackedBatch) -> Sequence[TrackedPick]:
    """Return a batch's picks sorted by ticker, so that no figure depends on the order of rows."""
    return sorted(batch.picks, key=lambda pick: pick.ticker)


def ordered_sum(values: Iterable[Decimal]) -> Decimal:
    """
    Return the sum of values, added in the order of their absolute value.

    Each addition is rounded, so a fixed order makes the sum independent of the order of rows.
    """
    with localcontext(DECIMAL_CONTEXT):
        return sum(sorted(values, key=lambda value: (abs(value), value)), _ZERO)


def mean(values: Sequence[Decimal]) -> Decimal:
    """Return the sum of values divided by their number."""
    with localcontext(DECIMAL_CONTEXT):
        return ordered_sum(values) / len(values)


def median(values: Sequence[Decimal]) -> Decimal:
    """Return the value in the middle, or the mean of the two in the middle."""
    ordered = sorted(values)
    return mean(ordered[(len(values) - 1) // 2 : len(values) // 2 + 1])


def summarize(values: Sequence[Decimal]) -> Average:
    """Return the mean and the median of values; both are None without values."""
    if not values:
        return Average(mean=None, median=None)
    return Average(mean=mean(values), median=median(values))


def count_batches(all_batches: Sequence[TrackedBatch]) -> BatchCounts:
    """Return the number of batches by status, of late ones, unresolved ones and scored ones."""
    statuses = [one.status for one in all_batches]
    # A failed batch has no picks that could be late.
    late = [one for one in all_batches if one.late and one.status is not BatchStatus.FAILED]
    return BatchCounts(
        total=len(all_batches),
        active=statuses.count(BatchStatus.ACTIVE),
        completed=statuses.count(BatchStatus.COMPLETED),
        failed=statuses.count(BatchStatus.FAILED),
        late=len(late),
        unresolved=sum(one.is_unresolved for one in all_batches),
        scored=sum(one.is_scored for one in all_batches),
    )


def count_picks(all_batches: Sequence[TrackedBatch], scored: Sequence[TrackedBatch]) -> PickCounts:
    """
    Return how many picks there are, how many of them are finished, and how many of these are hits.

    The interval of the hit rate (Wilson 1927) assumes that picks are independent. They are not, so
    the true uncertainty is larger.
    """
    finished = sum(len(one.picks) for one in scored)
    hits = 0
    for one in scored:
        hits += sum(pick.alpha_pct > 0 for pick in one.picks)
    rate, interval = hit_rate_pct(hits, finished, SIGNIFICANCE)
    return PickCounts(
        total=sum(len(one.picks) for one in all_batches),
        finished=finished,
        hits=hits,
        hit_rate_pct=rate,
        hit_rate_interval=interval,
    )


def summarize_results(groups: Sequence[Sequence[TrackedPick]]) -> ResultFigures:
    """Return the mean and median over groups of picks; a group's value is the mean of its picks."""

    def of_groups(figure: Callable[[TrackedPick], Decimal]) -> Average:
        return summarize([mean([figure(pick) for pick in group]) for group in groups])

    return ResultFigures(
        count=len(groups),
        alpha_pct=of_groups(lambda pick: pick.alpha_pct),
        directional_return_pct=of_groups(lambda pick: pick.in_direction(pick.absolute_return_pct)),
        absolute_return_pct=of_groups(lambda pick: require_figure(pick.absolute_return_pct)),
    )


def summarize_totals(groups: Iterable[Iterable[TrackedPick]]) -> TotalResults:
    """Return the results with dividends of all picks that have them."""
    picks: list[TrackedPick] = []
    for group in groups:
        picks += [pick for pick in group if pick.vs_benchmark_total_pct is not None]
    total_alphas = [pick.in_direction(pick.vs_benchmark_total_pct) for pick in picks]
    return TotalResults(
        count=len(picks),
        alpha_pct=summarize([pick.alpha_pct for pick in picks]),
        total_alpha_pct=summarize(total_alphas),
        directional_total_return_pct=summarize(
            [pick.in_direction(pick.total_return_pct) for pick in picks]
        ),
        total_hits=sum(alpha > 0 for alpha in total_alphas),
    )


def collect_before_costs(
    scored: Sequence[TrackedBatch], pick_results: ResultFigures, curve: Sequence[CurvePoint]
) -> BeforeCosts:
    """Return the figures without costs from which the results after any cost follow."""
    alphas: list[Decimal] = []
    for one in scored:
        alphas += [pick.alpha_pct for pick in one.picks]
    curve_sum = None
    if curve:
        curve_sum = curve[-1].sum_pct
    return BeforeCosts(
        mean_alpha_pct=pick_results.alpha_pct.mean,
        median_alpha_pct=pick_results.alpha_pct.median,
        mean_directional_return_pct=pick_results.directional_return_pct.mean,
        curve_sum_pct=curve_sum,
        batch_count=len(curve),
        last_hits=sorted_last_hits(alphas),
    )


def stated_picks(scored: Iterable[TrackedBatch]) -> Iterator[StatedPick]:
    """Yield the finished picks for which the model stated a probability."""
    for one in scored:
        for pick in one.picks:
            if pick.probability is not None:
                yield StatedPick(probability=pick.probability, is_hit=pick.alpha_pct > 0)


def best_and_worst(scored: Sequence[TrackedBatch]) -> tuple[PickScore | None, PickScore | None]:
    """
    Return the picks with the highest and the lowest alpha.

    If several picks have the same alpha, the first one by run date and ticker is returned.
    """
    scores = []
    for batch in scored:
        for pick in picks_by_ticker(batch):
            score = PickScore(
                id=pick.id,
                run_date=batch.run_date,
                ticker=pick.ticker,
                action=pick.action,
                alpha_pct=pick.alpha_pct,
            )
            scores.append(score)
    # Of equal scores, max() and min() return the first one.
    best = max(scores, key=_alpha_of, default=None)
    worst = min(scores, key=_alpha_of, default=None)
    return best, worst


def _alpha_of(score: PickScore) -> Decimal:
    return score.alpha_pct


def cumulative_curve(scored: Iterable[TrackedBatch]) -> Iterator[CurvePoint]:
    """
    Yield the sum of the batches' alphas after each batch; a batch's alpha is its picks' mean alpha.

    The curve is a sum, and never compounds: a SELL can lose more than 100 %, and a product could
    not continue after that.
    """
    total = _ZERO
    for one in scored:
        alpha = mean([pick.alpha_pct for pick in one.picks])
        with localcontext(DECIMAL_CONTEXT):
            total += alpha
        yield CurvePoint(run_date=one.run_date, alpha_pct=alpha, sum_pct=total)


def deepest_fall(sums: Iterable[Decimal]) -> Decimal:
    """
    Return the deepest fall of a curve below its highest earlier value; 0 if it never falls.

    The curve begins at zero.
    """
    highest = deepest = _ZERO
    with localcontext(DECIMAL_CONTEXT):
        for total in sums:
            highest = max(highest, total)
            deepest = max(deepest, highest - total)
    return deepest


def combine_weeks(parts: Iterable[BatchWeek]) -> Sequence[Week]:
    """
    Return the calendar-time portfolio: the weeks in which picks were held, oldest first.

    The excess of a week is the mean over all picks that were held in it, and the benchmark's change
    is the mean over the same picks.
    """
    by_monday: dict[date, list[BatchWeek]] = {}
    for part in parts:
        by_monday.setdefault(part.monday, []).append(part)
    return [_combine_week(monday, parts) for monday, parts in sorted(by_monday.items())]


def _combine_week(monday: date, parts: Sequence[BatchWeek]) -> Week:
    picks = sum(part.picks for part in parts)
    with localcontext(DECIMAL_CONTEXT):
        excess = ordered_sum(part.excess for part in parts) / picks
        benchmark = ordered_sum(part.benchmark * part.picks for part in parts) / picks
    return Week(monday=monday, picks=picks, excess_pct=excess, benchmark_pct=benchmark)


def with_week(points: Points, week: Week) -> Points:
    """Return `points` and a point for a week: x is the benchmark's change, and y is the excess."""
    return points.with_point(to_float(week.benchmark_pct), to_float(week.excess_pct))


def _batch_weeks(batches: Iterable[TrackedBatch]) -> Iterator[BatchWeek]:
    for batch in batches:
        yield from batch.weeks


def compute_weekly_excess(scored: Sequence[TrackedBatch]) -> WeeklyExcess:
    """Return the calendar-time portfolio of these batches, with intervals of 95 %."""
    weeks = combine_weeks(_batch_weeks(scored))
    points = Points()
    for week in weeks:
        points = with_week(points, week)

    mean_pct = mean_interval = beyond_beta_pct = beyond_beta_interval = None
    if weeks:
        mean_pct = round_estimate(points.y)
    weekly_mean = points.estimate_mean()
    if weekly_mean:
        mean_interval = weekly_mean.interval(SIGNIFICANCE)
    intercept = points.estimate_intercept()
    if intercept:
        beyond_beta_pct = round_estimate(intercept.value)
        beyond_beta_interval = intercept.interval(SIGNIFICANCE)
    return WeeklyExcess(
        count=len(weeks),
        without_middle=sum(not any(one.weeks) for one in scored),
        mean_pct=mean_pct,
        mean_interval=mean_interval,
        beta=round_estimate(points.slope()),
        beyond_beta_pct=beyond_beta_pct,
        beyond_beta_interval=beyond_beta_interval,
        weeks=weeks[-MAX_LISTED:],
    )


def compare_random_actions(scored: Sequence[TrackedBatch]) -> RandomActions | None:
    """
    Return where the mean alpha ranks among those of random actions; None without finished picks.

    The seed is the SHA-256, in hex, of a text with one line for each pick, such as
    `2026-01-05 AAPL 3`: run date, ticker, `vsBenchmarkPct` as the API writes it. The lines are
    ordered by run date and ticker, and each ends with a line feed. So the seed changes with every
    result, and every reader of the record can repeat the draws. Definition:
    docs/record.md#every-figure-of-trackrecord.
    """
    lines, alphas = [], []
    for batch in scored:
        for pick in picks_by_ticker(batch):
            figure = format_decimal(require_figure(pick.vs_benchmark_pct))
            lines.append(f"{batch.run_date} {pick.ticker} {figure}\n")
            alphas.append(to_float(pick.alpha_pct))
    seed = sha256("".join(lines).encode()).hexdigest()
    draws = draw_random_signs(alphas, seed, DRAW_COUNT)
    if not draws:
        return None
    low, high = draws.central_range(SIGNIFICANCE)
    return RandomActions(
        draws=DRAW_COUNT,
        seed=seed,
        below_pct=to_decimal(100 * draws.share_below()),
        interval=Interval(to_decimal(low), to_decimal(high)),
        bins=[
            Bin(low=to_decimal(edge), high=to_decimal(next_edge), count=size)
            for edge, next_edge, size in draws.bins(BIN_COUNT)
        ],
    )
