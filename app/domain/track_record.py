"""
The track record: what all picks of a series come to, and whether that can be told from luck.

**Scored** is a completed batch with a result that was not late. Late and unresolved batches are counted and never
scored, nor do they enter any figure below. Counts, means, medians, sums and extremes are exact: Decimals, by the
arithmetic of `returns`. What is inferred is made of floats (`statistics`) and given to six decimal places.

**The weekly excess.** Fortnights of neighbouring Mondays overlap, tickers repeat, and shares move together, so neither
picks nor batches are independent: a t-test that takes them for such finds skill too often. Hence the calendar-time
portfolio (Fama, E. F. (1998), Market efficiency, long-term returns, and behavioral finance. Journal of Financial
Economics 49, 283-306, section 3): week by week, the mean over all picks held in that week. Each pick is held for two
weeks: from its baseline to its middle, the checkpoint of the last session of its first week, and from there to its
result. What it adds in a week is the change of its alpha, so that a pick's two weeks add up to its alpha. The weeks do
not overlap, and are what is counted.

**A batch without a middle.** If the checkpoint of the last session of the first week was skipped, no other day stands
in for it, as none does for a result: the batch stays out of the weeks (not out of the other figures) and is counted.

**Beta.** Whoever only buys shares that move more than the benchmark does better than it while it rises, and knows
nothing. So the weekly excess is also regressed on the benchmark's change of the same week (Jensen, M. C. (1968), The
performance of mutual funds. Journal of Finance 23, 389-416): the slope is the beta of the excess, the intercept is what
remains where the benchmark does not move. The verdict is about the intercept.

**The verdict** is about the whole series, on dates fixed by its first Monday: every 52 weeks from it. A look counts the
batches whose fortnight was over by its date, corrections made since included. Who looks often finds something
sometimes, so the looks share a risk of 5 %: the k-th may be wrong with the probability 5 % / (k (k + 1)), which for all
looks that will ever be sums to 5 % (alpha spending: Lan, K. K. G. and DeMets, D. L. (1983), Discrete sequential
boundaries for clinical trials. Biometrika 70, 659-663; that the sum bounds the risk of all is Boole's inequality,
whatever the looks have in common). It is shared by both sides, better and worse. A look with fewer than 30 scored
batches finds nothing, and its share is not used again. Between looks, the last one's finding stands.

**Random actions**, the control: the same picks, each with BUY or SELL by the toss of a coin, many times.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal, localcontext
from hashlib import sha256
from itertools import count
from typing import Annotated

from msgspec import Meta, Struct

from app.domain.model import CHECKPOINT_DAYS, PICKS_PER_BATCH, TICKER_PATTERN, Action, BatchStatus, DescribedEnum
from app.domain.returns import CONTEXT, plain
from app.domain.statistics import Interval, Points, fixed, interval, number, random_signs, rounded, wilson
from app.errors import RecordDamaged

RISK = 0.05
LEAST = 30
DRAWS = 1000
BINS = 20
# How many draws lie outside the interval of random actions on either side.
OUTSIDE = int(DRAWS * RISK / 2)
NEWEST = 520
MOST = 5_200
WEEKS_BETWEEN_LOOKS = 52

_TICKER = re.compile(TICKER_PATTERN)
_WEEK = timedelta(weeks=1)
_BETWEEN_LOOKS = WEEKS_BETWEEN_LOOKS * _WEEK
_ZERO = Decimal(0)


class Finding(DescribedEnum):
    """What a look at the track record found."""

    BETTER = "BETTER", "The picks did better than luck explains."
    WORSE = "WORSE", "The picks did worse than bad luck explains."
    UNDECIDED = "UNDECIDED", "Neither could be told from luck."


def known(value: Decimal | None) -> Decimal:
    """Return a figure of a scored batch, which is there. A missing one is never counted as zero."""
    if value is None:
        raise RecordDamaged("a scored batch has a pick without figures at its result")
    return value


class Held(Struct, frozen=True, array_like=True):
    """A pick with its stored figures at its batch's middle and result, where they are there."""

    id: str
    ticker: str
    action: Action
    middle_vs_benchmark_pct: Decimal | None = None
    vs_benchmark_pct: Decimal | None = None
    absolute_return_pct: Decimal | None = None

    def directed(self, value: Decimal | None) -> Decimal:
        """Return a figure of this pick in its direction: its negative for a SELL."""
        figure = known(value)
        return -figure if self.action is Action.SELL else figure

    @property
    def alpha_pct(self) -> Decimal:
        """Return the excess over the benchmark at the result, in the pick's direction."""
        return self.directed(self.vs_benchmark_pct)


class Fortnight(Struct, frozen=True, array_like=True):
    """
    A batch as the track record needs it: what became of it, and the benchmark's change at its middle and result.

    `whole` is false for a completed batch that does not have each of its checkpoints once, computed or skipped. A
    change that should be at a computed checkpoint and is not there is NaN.
    """

    run_date: date
    status: BatchStatus
    late: bool
    middle_benchmark_pct: Decimal | None = None
    benchmark_pct: Decimal | None = None
    picks: Sequence[Held] = ()
    whole: bool = True

    def check(self, *, any_picks: bool = False) -> None:
        """Raise RecordDamaged if a row that a figure needs is missing; `any_picks` if only some picks are asked for."""
        promised = 0 if self.status is BatchStatus.FAILED else PICKS_PER_BATCH
        if len(self.picks) > promised or (len(self.picks) < promised and not any_picks):
            raise RecordDamaged(f"the Monday {self.run_date} has {len(self.picks)} picks and must have {promised}")
        if not self.whole:
            days = 1 + CHECKPOINT_DAYS
            raise RecordDamaged(
                f"the Monday {self.run_date} is completed and does not have each of its {days} days once, "
                "computed or skipped"
            )
        for pick in self.picks:
            if not _TICKER.fullmatch(pick.ticker):
                raise RecordDamaged(
                    f"the ticker of the row {pick.id} of picks, of the Monday {self.run_date}, is no ticker"
                )
            needed = [pick.vs_benchmark_pct, pick.absolute_return_pct] if self.benchmark_pct is not None else []
            needed += [pick.middle_vs_benchmark_pct] if self.middle_benchmark_pct is not None else []
            for value in needed:
                whose = f"{pick.ticker} of the Monday {self.run_date}"
                if value is None:
                    raise RecordDamaged(f"{whose} has no figures at a computed checkpoint")
                if not value.is_finite():
                    raise RecordDamaged(f"a figure of {whose} at a computed checkpoint is no number")
        for value in (self.middle_benchmark_pct, self.benchmark_pct):
            if value is not None and not value.is_finite():
                raise RecordDamaged(
                    f"a change of the benchmark of the Monday {self.run_date} is missing, or is no number"
                )

    @property
    def unresolved(self) -> bool:
        """Return whether it is completed and has no result."""
        return self.status is BatchStatus.COMPLETED and self.benchmark_pct is None

    @property
    def scored(self) -> bool:
        """Return whether its picks count."""
        return self.status is BatchStatus.COMPLETED and self.benchmark_pct is not None and not self.late

    @property
    def halves(self) -> Iterator["Half"]:
        """Return what its picks added in each of its two weeks; nothing without a middle."""
        if self.middle_benchmark_pct is None or self.benchmark_pct is None or not self.picks:
            return
        whole = added(pick.alpha_pct for pick in self.picks)
        first = added(pick.directed(pick.middle_vs_benchmark_pct) for pick in self.picks)
        with localcontext(CONTEXT):
            rest = whole - first, self.benchmark_pct - self.middle_benchmark_pct
        yield Half(self.run_date, len(self.picks), first, self.middle_benchmark_pct)
        yield Half(self.run_date + _WEEK, len(self.picks), *rest)


class Half(Struct, frozen=True):
    """One of a batch's two weeks, by its Monday: how many picks, the sum of what they added, the benchmark's change."""

    monday: date
    picks: int
    excess: Decimal
    benchmark: Decimal


# What follows, down to `TrackRecord`, is also what the API shows: `type_of` in graphql/api/fields.py
# makes its types of these structs. Docstrings and descriptions are texts of the schema, so they are
# written for the API's readers. The API's limit on an answer's size counts a list's `usual_length`.


class BatchCounts(Struct, frozen=True):
    """How many Mondays there are, by what became of them."""

    total: Annotated[int, Meta(description="All of them.")]
    active: Annotated[int, Meta(description="Those whose fortnight is running.")]
    completed: Annotated[int, Meta(description="Those with all fifteen checkpoints.")]
    failed: Annotated[int, Meta(description="Those without picks.")]
    late: Annotated[
        int,
        Meta(description="Those with picks that were stored too late to act on; they are never scored."),
    ]
    unresolved: Annotated[
        int,
        Meta(description="Those that are completed without a result; they are never scored."),
    ]
    scored: Annotated[int, Meta(description="Those that count: completed, with a result, and not late.")]


class PickCounts(Struct, frozen=True):
    """How many picks there are, and how many were right."""

    total: Annotated[int, Meta(description="All of them.")]
    finished: Annotated[int, Meta(description="Those of scored batches; the others enter no figure.")]
    hits: Annotated[int, Meta(description="How many finished picks were right: their `alphaPct` is above zero.")]
    hit_rate_pct: Annotated[
        Decimal | None,
        Meta(description="The share of hits, in percent, to six decimal places; null without finished picks."),
    ]
    hit_rate_interval: Annotated[
        Interval | None,
        Meta(
            description="The hit rate's Wilson interval of 95 %, in percent, to six decimal places; null without "
            "finished picks. It takes picks for independent, which they are not: too narrow."
        ),
    ]


class Average(Struct, frozen=True):
    """What many figures come to, exactly; null of none."""

    mean: Annotated[Decimal | None, Meta(description="Their sum, divided by how many there are.")]
    median: Annotated[
        Decimal | None,
        Meta(description="The one in the middle, or the mean of the two there."),
    ]


class ResultFigures(Struct, frozen=True):
    """What results come to, in percent."""

    count: Annotated[int, Meta(description="How many results.")]
    alpha_pct: Annotated[Average, Meta(description="Their `alphaPct`.")]
    directional_return_pct: Annotated[Average, Meta(description="Their `directionalReturnPct`.")]
    absolute_return_pct: Annotated[Average, Meta(description="Their `absoluteReturnPct`.")]


class PickScore(Struct, frozen=True):
    """A finished pick and its alpha."""

    id: Annotated[str, Meta(description="The pick's id.")]
    run_date: Annotated[date, Meta(description="Its Monday.")]
    ticker: Annotated[str, Meta(description="The share.")]
    action: Annotated[Action, Meta(description="What the model said to do with it.")]
    alpha_pct: Annotated[Decimal, Meta(description="Its `alphaPct` at the result.")]


class CurvePoint(Struct, frozen=True):
    """A scored batch on the curve of summed alpha."""

    run_date: Annotated[date, Meta(description="Its Monday.")]
    alpha_pct: Annotated[Decimal, Meta(description="The mean of its picks' alpha at the result.")]
    sum_pct: Annotated[Decimal, Meta(description="The sum of these means up to this batch.")]


class Week(Struct, frozen=True):
    """A week in which picks of scored batches were held, and what they added."""

    monday: Annotated[date, Meta(description="The week's Monday.")]
    picks: Annotated[
        int,
        Meta(description="How many picks were held: those of this Monday and of the one before."),
    ]
    excess_pct: Annotated[
        Decimal,
        Meta(description="By how much their alpha changed in this week, on average."),
    ]
    benchmark_pct: Annotated[
        Decimal,
        Meta(description="By how much the benchmark's return changed, on average over the same picks."),
    ]


class WeeklyExcess(Struct, frozen=True):
    """The calendar-time portfolio (Fama 1998): what all picks held in a week added to their alpha, week by week."""

    count: Annotated[int, Meta(description="How many weeks.")]
    without_middle: Annotated[
        int,
        Meta(description="Scored batches left out: no figures for the last session of their first week."),
    ]
    mean_pct: Annotated[
        Decimal | None,
        Meta(
            description="The mean of the weeks' `excessPct`, each week counting once, in percent, to six decimal "
            "places; null without a week."
        ),
    ]
    mean_interval: Annotated[
        Interval | None,
        Meta(
            description="The t-interval of `meanPct`, of 95 %, in percent; null for fewer than two weeks, or if all "
            "are alike."
        ),
    ]
    beta: Annotated[
        Decimal | None,
        Meta(
            description="By how much the excess grows with the benchmark's change: the least squares line's slope, "
            "to six decimal places; null for fewer than two weeks, or if the benchmark's change does not vary."
        ),
    ]
    beyond_beta_pct: Annotated[
        Decimal | None,
        Meta(
            description="What remains of the mean when beta's part is taken off: the intercept, in percent, to six "
            "decimal places; null for fewer than three weeks, or if the benchmark's change does not vary."
        ),
    ]
    beyond_beta_interval: Annotated[
        Interval | None,
        Meta(
            description="The t-interval of `beyondBetaPct`, of 95 %, in percent; null where that is null, or if all "
            "weeks lie on a line."
        ),
    ]
    weeks: Annotated[
        Sequence[Week],
        Meta(
            description=f"The newest {NEWEST} weeks, oldest first.",
            extra={"usual_length": NEWEST},
        ),
    ]


class Bin(Struct, frozen=True):
    """
    How many draws have a mean alpha between two values.

    A draw on the border of two bins is of the upper one; the last bin includes its upper edge, the highest draw.
    """

    low: Annotated[
        Decimal,
        Meta(
            description="The bin's lower edge, in percent, included. It is rounded to six decimal places to be shown; "
            "draws are counted with the unrounded one."
        ),
    ]
    high: Annotated[
        Decimal,
        Meta(
            description="The bin's upper edge, in percent, to six decimal places: the `low` of the next bin, and not "
            "included. Of the last bin it is the highest draw, which is included."
        ),
    ]
    count: Annotated[int, Meta(description="How many of the draws lie in the bin.")]


class RandomActions(Struct, frozen=True):
    """The control: the same picks, each with BUY or SELL by the toss of a coin."""

    draws: Annotated[int, Meta(description="How often.")]
    seed: Annotated[
        str,
        Meta(
            description="What the tosses come from: SHA-256 of the finished picks and their `vsBenchmarkPct`, in hex."
        ),
    ]
    below_pct: Annotated[
        Decimal,
        Meta(
            description="Percent of the draws with a mean alpha below the record's, to six decimal places; equal ones "
            "count half. In a draw, each pick's `alphaPct` has its sign or the opposite one."
        ),
    ]
    interval: Annotated[
        Interval,
        Meta(
            description=f"The draws' {OUTSIDE + 1}th lowest and {OUTSIDE + 1}th highest mean alpha, in percent, to six "
            f"decimal places: {OUTSIDE} of the {DRAWS:,} lie outside on either side."
        ),
    ]
    bins: Annotated[
        Sequence[Bin],
        Meta(
            description=f"The draws' mean alphas in {BINS} bins of one width, lowest first.",
            extra={"usual_length": BINS},
        ),
    ]


class Look(Struct, frozen=True):
    """
    A look at the whole series, on a date that its first Monday fixed.

    It is held once the series has a Monday of that date or a later one, and no batch that it counts is active, late
    ones not considered. Until then it waits: neither it nor a later look is there. Figures are those of the record as
    it is now, corrections made since included, and are rounded to six decimal places.
    """

    number: Annotated[int, Meta(description="Which look, from 1.")]
    on: Annotated[
        date,
        Meta(description=f"Its date: {WEEKS_BETWEEN_LOOKS} weeks times its number after the series' first Monday."),
    ]
    share_pct: Annotated[
        Decimal,
        Meta(
            description="The risk that it may take to be wrong, in percent: 5 / (k (k + 1)) "
            "for the k-th, which sums to 5 for all."
        ),
    ]
    batches: Annotated[
        int,
        Meta(
            description="How many scored batches it counts: those whose Monday lies at least 14 days before its date, "
            "so that their fortnight was over."
        ),
    ]
    weeks: Annotated[
        int,
        Meta(
            description="How many weeks the batches that it counts make by themselves, as in `weeklyExcess`. In the "
            "last one, only the newest of these batches has picks."
        ),
    ]
    beyond_beta_pct: Annotated[
        Decimal | None,
        Meta(
            description="What remained of the mean of these weeks' excess when beta's part was taken off: the "
            "intercept, in percent, to six decimal places. Null for fewer than three weeks, or if the benchmark's "
            "change does not vary."
        ),
    ]
    interval: Annotated[
        Interval | None,
        Meta(
            description="The t-interval of `beyondBetaPct`, of 100 less `sharePct` percent; null where that is null, "
            "or if all weeks lie on a line."
        ),
    ]
    finding: Annotated[
        Finding | None,
        Meta(
            description=f"What it found: UNDECIDED if `interval` holds zero. Null with fewer than {LEAST} scored "
            "batches, or without `interval`."
        ),
    ]


class Verdict(Struct, frozen=True):
    """Whether the series can be told from luck: what the last look found."""

    finding: Annotated[
        Finding | None,
        Meta(description="The last look's finding; null where there is none, and `words` say why."),
    ]
    words: Annotated[str, Meta(description="The same in plain words.")]
    looks: Annotated[
        Sequence[Look],
        Meta(
            description="All looks up to now, oldest first; none for a part of the series.",
            extra={"usual_length": 10},
        ),
    ] = ()
    next_look: Annotated[
        date | None,
        Meta(
            description="The date of the next look; it is past while that look waits for a batch that is active. "
            "Null for a part of the series, and without a Monday."
        ),
    ] = None


class TrackRecord(Struct, frozen=True):
    """What all picks of a series, or of a part of it, come to, and whether that can be told from luck."""

    series: Annotated[str, Meta(description="Whose.")]
    first_run_date: Annotated[
        date | None,
        Meta(description="The first Monday that it counts; null of none."),
    ]
    last_run_date: Annotated[
        date | None,
        Meta(description="The last Monday that it counts; null of none."),
    ]
    batches: Annotated[BatchCounts, Meta(description="How many Mondays.")]
    picks: Annotated[PickCounts, Meta(description="How many picks.")]
    pick_results: Annotated[ResultFigures, Meta(description="What finished picks come to.")]
    batch_results: Annotated[
        ResultFigures,
        Meta(description="What scored batches come to, each being the mean of its picks."),
    ]
    best: Annotated[
        PickScore | None,
        Meta(description="The pick with the highest alpha; null without finished picks."),
    ]
    worst: Annotated[
        PickScore | None,
        Meta(description="The pick with the lowest alpha; null without finished picks."),
    ]
    curve: Annotated[
        Sequence[CurvePoint],
        Meta(
            description=f"The newest {NEWEST} scored batches, oldest first. The curve adds and never compounds: "
            "a SELL can lose over 100 %.",
            extra={"usual_length": NEWEST},
        ),
    ]
    drawdown_pct: Annotated[
        Decimal,
        Meta(description="The deepest fall of the whole curve from where it, or zero, stood highest before."),
    ]
    weekly_excess: Annotated[
        WeeklyExcess,
        Meta(description="What was added week by week, with its uncertainty."),
    ]
    random_actions: Annotated[
        RandomActions | None,
        Meta(description="Where the mean alpha stands among random actions; null of no picks."),
    ]
    verdict: Annotated[Verdict, Meta(description="Skill or luck.")]


def track_record(series: str, fortnights: Iterable[Fortnight], *, part: bool = False) -> TrackRecord:
    """
    Return what these batches come to.

    `part` says that some of the series was left out, so that there is no verdict. A batch whose picks were all left out
    is still counted, but adds nothing.
    """
    every = sorted(fortnights, key=lambda one: one.run_date)
    scored = [one for one in every if one.scored and one.picks]
    curve = list(summed(scored))
    return TrackRecord(
        series,
        every[0].run_date if every else None,
        every[-1].run_date if every else None,
        counted(every),
        of_picks(every, scored),
        figures([[pick] for one in scored for pick in in_order(one)]),
        figures([in_order(one) for one in scored]),
        *extremes(scored),
        curve[-NEWEST:],
        drawdown(point.sum_pct for point in curve),
        weekly_excess(scored),
        random_actions(scored),
        verdict(every, part=part),
    )


def in_order(fortnight: Fortnight) -> Sequence[Held]:
    """Return a batch's picks in the order of their tickers, so that no figure hangs on another order."""
    return sorted(fortnight.picks, key=lambda pick: pick.ticker)


def added(values: Iterable[Decimal]) -> Decimal:
    """Return the sum of values, in the order of their size, so that it hangs on no other."""
    with localcontext(CONTEXT):
        return sum(sorted(values, key=lambda value: (abs(value), value)), _ZERO)


def mean(values: Sequence[Decimal]) -> Decimal:
    """Return the sum of values, divided by how many there are."""
    with localcontext(CONTEXT):
        return added(values) / len(values)


def median(values: Sequence[Decimal]) -> Decimal:
    """Return the value in the middle, or the mean of the two there."""
    ordered = sorted(values)
    return mean(ordered[(len(values) - 1) // 2 : len(values) // 2 + 1])


def average(values: Sequence[Decimal]) -> Average:
    """Return what values come to."""
    return Average(mean(values), median(values)) if values else Average(None, None)


def counted(every: Sequence[Fortnight]) -> BatchCounts:
    """Return how many batches there are of each kind; a failed one has no picks that could be late."""
    statuses = [one.status for one in every]
    return BatchCounts(
        total=len(every),
        active=statuses.count(BatchStatus.ACTIVE),
        completed=statuses.count(BatchStatus.COMPLETED),
        failed=statuses.count(BatchStatus.FAILED),
        late=sum(one.late and one.status is not BatchStatus.FAILED for one in every),
        unresolved=sum(one.unresolved for one in every),
        scored=sum(one.scored for one in every),
    )


def of_picks(every: Sequence[Fortnight], scored: Sequence[Fortnight]) -> PickCounts:
    """
    Return how many picks there are, how many count, and how many of these are hits.

    The interval (Wilson 1927) takes picks for independent, which they are not: the true uncertainty is larger.
    """
    finished = sum(len(one.picks) for one in scored)
    hits = sum(pick.alpha_pct > 0 for one in scored for pick in one.picks)
    found = wilson(hits, finished, RISK)
    return PickCounts(
        total=sum(len(one.picks) for one in every),
        finished=finished,
        hits=hits,
        hit_rate_pct=fixed(100 * hits / finished) if finished else None,
        hit_rate_interval=interval(100 * found[0], 100 * found[1]) if found else None,
    )


def figures(groups: Sequence[Sequence[Held]]) -> ResultFigures:
    """Return what groups of picks come to, each being worth the mean of its picks."""
    return ResultFigures(
        len(groups),
        average([mean([pick.alpha_pct for pick in group]) for group in groups]),
        average([mean([pick.directed(pick.absolute_return_pct) for pick in group]) for group in groups]),
        average([mean([known(pick.absolute_return_pct) for pick in group]) for group in groups]),
    )


def extremes(scored: Sequence[Fortnight]) -> tuple[PickScore | None, PickScore | None]:
    """Return the best and the worst pick; of several that are alike, the oldest."""
    scores = [
        PickScore(pick.id, one.run_date, pick.ticker, pick.action, pick.alpha_pct)
        for one in scored
        for pick in in_order(one)
    ]
    if not scores:
        return None, None
    return max(scores, key=lambda score: score.alpha_pct), min(scores, key=lambda score: score.alpha_pct)


def summed(scored: Iterable[Fortnight]) -> Iterator[CurvePoint]:
    """
    Return the sum of the batches' alpha, each the mean of its picks'.

    A SELL can lose more than all, so what would be left could not be multiplied: the curve adds, and never compounds.
    """
    total = _ZERO
    for one in scored:
        alpha = mean([pick.alpha_pct for pick in one.picks])
        with localcontext(CONTEXT):
            total += alpha
        yield CurvePoint(one.run_date, alpha, total)


def drawdown(sums: Iterable[Decimal]) -> Decimal:
    """Return the deepest fall of a curve that begins at zero from where it stood highest before, at least zero."""
    highest = deepest = _ZERO
    with localcontext(CONTEXT):
        for total in sums:
            highest = max(highest, total)
            deepest = max(deepest, highest - total)
    return deepest


def weeks_of(halves: Iterable[Half]) -> Sequence[Week]:
    """Return the mean over all picks held in each week; the benchmark's change is the mean over the same picks."""
    by_monday: dict[date, list[Half]] = {}
    for half in halves:
        by_monday.setdefault(half.monday, []).append(half)
    return [_week(monday, held) for monday, held in sorted(by_monday.items())]


def _week(monday: date, held: Sequence[Half]) -> Week:
    picks = sum(half.picks for half in held)
    with localcontext(CONTEXT):
        excess = added(half.excess for half in held) / picks
        benchmark = added(half.benchmark * half.picks for half in held) / picks
    return Week(monday, picks, excess, benchmark)


def plus(points: Points, week: Week) -> Points:
    """Return points with a week's: the benchmark's change, and the excess."""
    return points.plus(number(week.benchmark_pct), number(week.excess_pct))


def weekly_excess(scored: Sequence[Fortnight]) -> WeeklyExcess:
    """Return the calendar-time portfolio of these batches, with intervals of 95 %."""
    weeks = weeks_of(half for one in scored for half in one.halves)
    points = Points()
    for week in weeks:
        points = plus(points, week)
    across, beyond = points.mean(), points.intercept()
    return WeeklyExcess(
        count=len(weeks),
        without_middle=sum(not any(one.halves) for one in scored),
        mean_pct=rounded(points.y) if weeks else None,
        mean_interval=across.within(RISK) if across else None,
        beta=rounded(points.slope()),
        beyond_beta_pct=rounded(beyond.value) if beyond else None,
        beyond_beta_interval=beyond.within(RISK) if beyond else None,
        weeks=weeks[-NEWEST:],
    )


def random_actions(scored: Sequence[Fortnight]) -> RandomActions | None:
    """
    Return where the mean alpha stands among those of random actions; None without finished picks.

    The seed is the SHA-256, in hex, of a line `RUN_DATE TICKER VS_BENCHMARK_PCT` for each pick (figures as the API has
    them, a line feed after each), Mondays in their order and tickers in theirs. So it changes with every result, and
    whoever reads the record can draw the same.
    """
    picks = [(one.run_date, pick) for one in scored for pick in in_order(one)]
    lines = [f"{monday} {pick.ticker} {plain(known(pick.vs_benchmark_pct))}\n" for monday, pick in picks]
    seed = sha256("".join(lines).encode()).hexdigest()
    found = random_signs([number(pick.alpha_pct) for _, pick in picks], seed, DRAWS)
    if not found:
        return None
    bins = [Bin(fixed(low), fixed(high), size) for low, high, size in found.bins(BINS)]
    low, high = found.middle(RISK)
    return RandomActions(
        draws=DRAWS,
        seed=seed,
        below_pct=fixed(100 * found.below()),
        interval=Interval(fixed(low), fixed(high)),
        bins=bins,
    )


def share(look: int) -> float:
    """Return how probable a wrong finding of the k-th look may be; over all k, it sums to `RISK`."""
    return RISK / (look * (look + 1))


def looks(every: Sequence[Fortnight]) -> Iterator[Look]:
    """
    Return the looks at a whole series, in the order of its Mondays, that could be held so far.

    A look is held once the record has reached its date and no batch that it counts is active. Of the week that is just
    over by then, only the batch before it has a result.
    """
    scored = {one.run_date: one for one in every if one.scored}
    mondays = list(scored)
    weeks = iter([*weeks_of(half for one in scored.values() for half in one.halves), None])
    points, week = Points(), next(weeks)
    open_ = (one.run_date for one in every if one.status is BatchStatus.ACTIVE and not one.late)
    active = min(open_, default=date.max)
    for nth in count(1):
        on = every[0].run_date + nth * _BETWEEN_LOOKS
        newest = on - 2 * _WEEK
        if on > every[-1].run_date or active <= newest:
            return
        while week and week.monday <= newest:
            points, week = plus(points, week), next(weeks)
        ending = list(scored[newest].halves)[1:] if newest in scored else []
        seen = plus(points, _week(ending[0].monday, ending)) if ending else points
        yield look(nth, on, bisect_right(mondays, newest), seen)


def look(nth: int, on: date, batches: int, points: Points) -> Look:
    """Return what the look at these weeks finds."""
    found = points.intercept()
    chance = found.outside() if found else None
    finding = None
    if batches >= LEAST and found and chance is not None:
        sign = Finding.BETTER if found.value > 0 else Finding.WORSE
        finding = sign if chance <= share(nth) else Finding.UNDECIDED
    return Look(
        number=nth,
        on=on,
        share_pct=fixed(100 * share(nth)),
        batches=batches,
        weeks=points.count,
        beyond_beta_pct=rounded(found.value) if found else None,
        interval=found.within(share(nth)) if found else None,
        finding=finding,
    )


def verdict(every: Sequence[Fortnight], *, part: bool = False) -> Verdict:
    """Return what the last look at a series found, in words."""
    if part:
        return Verdict(None, _PART)
    if not every:
        return Verdict(None, "There is nothing to judge: the series has no Monday yet.")
    held = list(looks(every))
    following = every[0].run_date + (len(held) + 1) * _BETWEEN_LOOKS
    then = f"The {'next' if held else 'first'} look is on {following}."
    if following <= every[-1].run_date:
        then = f"The look of {following} is held when every batch that it counts is completed."
    return Verdict(held[-1].finding if held else None, f"{told_of(every, held)} {then}", held, following)


_PART = (
    "Only the whole series gets a verdict: among parts that are chosen after their results are known, some look "
    "skilled by luck alone. The intervals of this part are given."
)


def told_of(every: Sequence[Fortnight], held: Sequence[Look]) -> str:
    """Return in plain words what the last look found."""
    if not held:
        there = sum(one.scored for one in every)
        return f"Too early to tell skill from luck: {there} scored {'batch' if there == 1 else 'batches'} so far."
    last = held[-1]
    if last.batches < LEAST:
        return f"The look of {last.on} found {last.batches} scored batches; a verdict needs {LEAST}."
    if not last.finding or last.beyond_beta_pct is None or last.interval is None:
        return f"The look of {last.on} found weeks that are all alike, or a benchmark that never moved: no verdict."
    words = {
        Finding.BETTER: "the picks did better than luck explains",
        Finding.WORSE: "the picks did worse than bad luck explains",
        Finding.UNDECIDED: "the record could not be told from luck",
    }
    value, low, high = (f"{of:+.2f}" for of in (last.beyond_beta_pct, last.interval.low, last.interval.high))
    return (
        f"At the look of {last.on}, over {last.weeks} weeks, {words[last.finding]}: beyond the benchmark and its beta, "
        f"they added {value} % a week, with an interval from {low} to {high} %."
    )
