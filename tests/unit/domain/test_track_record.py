"""
The track record: every figure of a small one is computed manually; and what it leaves out. Its
verdict has tests of its own (`test_verdict`).
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import stats

from app.domain import track_record as track
from app.domain.model import Action, BatchStatus
from app.domain.statistics import Interval
from app.domain.track_record import (
    Average,
    BatchCounts,
    Comparison,
    CurvePoint,
    TrackedBatch,
    TrackedPick,
    TrackRecord,
    Week,
    compare_series,
)
from app.domain.verdict import RecordChecks

MONDAY = date(2026, 1, 5)
WEEK = timedelta(weeks=1)


def compute_track_record(series: str, batches: Iterable[TrackedBatch]) -> TrackRecord:
    """Return the track record of these batches, of a record without a yearly check."""
    checks = RecordChecks(MONDAY, MONDAY)
    return track.compute_track_record(series, batches, checks)


def a_pick(idea: str, middle: str, excess: str, absolute: str = "0") -> TrackedPick:
    ticker, action = idea.split()
    return TrackedPick(
        id=f"id of {ticker}",
        ticker=ticker,
        action=Action(action),
        middle_vs_benchmark_pct=Decimal(middle),
        vs_benchmark_pct=Decimal(excess),
        absolute_return_pct=Decimal(absolute),
    )


def make_batch(
    week: int, *picks: TrackedPick, benchmark: tuple[str, str] = ("0", "0"), late: bool = False
) -> TrackedBatch:
    """Return a completed batch so many weeks after the first."""
    middle, result = map(Decimal, benchmark)
    return TrackedBatch(
        run_date=MONDAY + week * WEEK,
        status=BatchStatus.COMPLETED,
        late=late,
        middle_benchmark_pct=middle,
        benchmark_pct=result,
        picks=picks,
    )


def without(
    week: int, status: BatchStatus, *picks: TrackedPick, late: bool = False
) -> TrackedBatch:
    """Return a batch without a result."""
    return TrackedBatch(MONDAY + week * WEEK, status, late, picks=picks)


# The example of docs/record.md.
FIRST = (
    a_pick(idea="AAPL BUY", middle="1", excess="3", absolute="4"),
    a_pick(idea="KO SELL", middle="2", excess="-1", absolute="0"),
    a_pick(idea="XOM BUY", middle="-2", excess="-2", absolute="-1"),
)
SECOND = (
    a_pick(idea="MSFT BUY", middle="0", excess="-3", absolute="-1"),
    a_pick(idea="NVDA BUY", middle="4", excess="6", absolute="8"),
    a_pick(idea="BRK.B SELL", middle="-1", excess="3", absolute="5"),
)
SMALL = [make_batch(0, *FIRST, benchmark=("1", "1")), make_batch(1, *SECOND, benchmark=("1", "2"))]
NOT_SCORED = [
    make_batch(2, a_pick(idea="AAPL BUY", middle="50", excess="70", absolute="70"), late=True),
    without(3, BatchStatus.COMPLETED, a_pick("KO BUY", "0", "0")),
    without(4, BatchStatus.COMPLETED, a_pick("KO BUY", "0", "0"), late=True),
    without(5, BatchStatus.FAILED, late=True),
    without(
        6, BatchStatus.ACTIVE, TrackedPick("", "IBM", Action.BUY), TrackedPick("", "F", Action.SELL)
    ),
]


RECORD = Path(__file__).parents[3] / "docs" / "record.md"


def test_the_example_of_coin_tosses():
    """The script of docs/record.md prints the text below it, and agrees with the track record."""
    match = re.search(
        r"```python\n(.*?)```\n\nIt says:\n\n```\n(.*?)```", RECORD.read_text(), re.DOTALL
    )
    assert match
    script, expected = match.groups()
    done = subprocess.run(
        [sys.executable, "-I", "-"], input=script, capture_output=True, text=True, check=True
    )
    assert done.stdout == expected
    ours = compute_track_record("main", SMALL).random_actions
    assert ours
    assert f"seed {ours.seed}\n" in expected
    assert f"belowPct {ours.below_pct}\n" in expected
    assert f"interval {ours.interval.low} to {ours.interval.high}\n" in expected
    first, last = ours.bins[0], ours.bins[-1]
    assert (
        f"from {first.low} to {last.high}: {first.count} in the first, {last.count} in the last\n"
        in expected
    )


def decimals(*texts: str) -> list[Decimal]:
    return [Decimal(text) for text in texts]


def test_what_is_counted():
    """
    Late and unresolved batches are counted, and so are their picks; a failed Monday has no picks
    that could be late.
    """
    result = compute_track_record("main", [*SMALL, *NOT_SCORED])
    assert result.batches == BatchCounts(
        total=7, active=1, completed=5, failed=1, late=2, unresolved=2, scored=2
    )
    assert (result.picks.total, result.picks.finished) == (11, 6)
    assert (result.first_run_date, result.last_run_date) == (MONDAY, MONDAY + 6 * WEEK)


def test_what_is_not_scored_enters_nothing():
    """All other figures are as without those batches."""
    alone, among = (compute_track_record("main", of) for of in (SMALL, [*SMALL, *NOT_SCORED]))
    assert (
        replace(
            among,
            batches=alone.batches,
            last_run_date=alone.last_run_date,
            verdict=alone.verdict,
            picks=replace(among.picks, total=alone.picks.total),
        )
        == alone
    )


def test_hits():
    """
    Alphas are 3, 1, -2 and -3, 6, -3: three hits of six.

    Wilson: the middle of 0.5, the reach 1.959964 * sqrt(0.25 / 6 + 3.841459 / 144) / (1 + 3.841459
    / 6) = 0.312384.
    """
    picks = compute_track_record("main", SMALL).picks
    assert (picks.hits, picks.hit_rate_pct) == (3, 50)
    assert picks.hit_rate_interval == Interval(*decimals("18.761631", "81.238369"))


def test_means_and_medians():
    """
    Of picks: alphas sum to 2, returns in their direction (4, 0, -1, -1, 8, -5) to 5, the shares'
    own to 15.

    Of batches: alphas of 2/3 and 0, directional returns of 1 and 2/3, absolute ones of 1 and 4.
    """
    result = compute_track_record("main", SMALL)
    third, sixth = "0.3333333333333333333333333333", "0.8333333333333333333333333333"
    assert result.pick_results == track.ResultFigures(
        count=6,
        alpha_pct=Average(*decimals(third, "-0.5")),
        directional_return_pct=Average(*decimals(sixth, "-0.5")),
        absolute_return_pct=Average(*decimals("2.5", "2")),
    )
    # 0.6666666666666666666666666667 and 0 halved, and 1 and that one halved, to 28 digits, half to
    # even.
    alpha, directional = "0.3333333333333333333333333334", "0.8333333333333333333333333335"
    assert result.batch_results.alpha_pct == Average(*decimals(alpha, alpha))
    assert result.batch_results.directional_return_pct == Average(
        *decimals(directional, directional)
    )
    assert result.batch_results.absolute_return_pct == Average(*decimals("2.5", "2.5"))


def test_best_and_worst():
    """Of several equal picks it is the first, by Monday and ticker."""
    result = compute_track_record("main", SMALL)
    assert (result.best.ticker, result.best.alpha_pct, result.best.id) == ("NVDA", 6, "id of NVDA")
    assert (result.worst.ticker, result.worst.alpha_pct, result.worst.action) == (
        "BRK.B",
        -3,
        Action.SELL,
    )
    assert result.worst.run_date == MONDAY + WEEK


def test_the_curve():
    """
    It adds 2, -5, 4 and -150 (a SELL of a share that more than doubled): 2, -3, 1, -149; the
    drawdown is 151.
    """
    alphas = [
        a_pick("A BUY", "0", "2"),
        a_pick("B SELL", "0", "5"),
        a_pick("C BUY", "0", "4"),
        a_pick("D SELL", "0", "150"),
    ]
    result = compute_track_record(
        "main", [make_batch(week, pick) for week, pick in enumerate(alphas)]
    )
    assert result.curve == [
        CurvePoint(MONDAY + week * WEEK, Decimal(alpha), Decimal(total))
        for week, (alpha, total) in enumerate([(2, 2), (-5, -3), (4, 1), (-150, -149)])
    ]
    assert result.drawdown_pct == 151


@pytest.mark.parametrize(
    ("sums", "deepest"),
    [
        ([], "0"),
        (["1", "2"], "0"),
        (["-1"], "1"),
        (["3", "1", "2.5", "0.5"], "2.5"),
        (["1", "0", "5", "4.5"], "1"),
    ],
)
def test_drawdown(sums, deepest):
    """It is measured from the highest point before, which is zero at the start."""
    assert track.deepest_fall(map(Decimal, sums)) == Decimal(deepest)


def test_weeks():
    """
    Week by week what the picks held in it added: -1, -2, -2; then 2, 3, 0 and 0, 4, 1; then -3, 2,
    -4.

    The benchmark did 1; then 0 and 1, three picks each; then 1.
    """
    weeks = compute_track_record("main", SMALL).weekly_excess.weeks
    assert [(week.picks, week.excess_pct, week.benchmark_pct) for week in weeks] == [
        (3, -1, 1),
        (6, Decimal("1.666666666666666666666666667"), Decimal("0.5")),
        (3, Decimal("-1.666666666666666666666666667"), 1),
    ]
    assert [week.monday for week in weeks] == [MONDAY, MONDAY + WEEK, MONDAY + 2 * WEEK]


def test_the_weekly_excess():
    """
    The mean of -1, 5/3, -5/3 is -1/3, its error sqrt(28/9 / 3) = 1.018350; t of two degrees is
    4.302653.

    On the line y = 14/3 - 6x the residuals are 1/3, 0, -1/3; the intercept's error is
    sqrt(2/9 * (1/3 + (5/6)^2 / (1/6))) = 1; t of one degree is 12.706205.
    """
    excess = compute_track_record("main", SMALL).weekly_excess
    assert (excess.count, excess.without_middle) == (3, 0)
    assert (excess.mean_pct, excess.mean_interval) == (
        Decimal("-0.333333"),
        Interval(*decimals("-4.714940", "4.048274")),
    )
    assert (excess.beta, excess.beyond_beta_pct) == (Decimal("-6.000000"), Decimal("4.666667"))
    assert excess.beyond_beta_interval == Interval(*decimals("-8.039538", "17.372871"))


def test_a_batch_without_a_middle():
    """It has no weeks, and is counted; its result counts."""
    gap = replace(
        SMALL[0],
        middle_benchmark_pct=None,
        picks=[replace(pick, middle_vs_benchmark_pct=None) for pick in SMALL[0].picks],
    )
    result = compute_track_record("main", [gap, SMALL[1]])
    assert result.weekly_excess.without_middle == 1
    assert (
        result.weekly_excess.weeks == compute_track_record("main", [SMALL[1]]).weekly_excess.weeks
    )
    assert result.pick_results == compute_track_record("main", SMALL).pick_results


def test_random_actions():
    """
    One BUY with an alpha of 3: half of the draws come to 3, which counts half, and half to -3.
    """
    actions = compute_track_record(
        "main", [make_batch(0, a_pick("AAPL BUY", "1", "3.00"))]
    ).random_actions
    # SHA-256 of "2026-01-05 AAPL 3.00\n".
    assert actions.seed == "fd28a23595f5b92d93f0665301f19d92ac6769d4d2bdcb9c7122833fc03f2ed6"
    heads = actions.bins[-1].count
    assert 450 < heads < 550
    assert actions.bins[0].count == 1000 - heads
    assert actions.below_pct == Decimal(1000 - heads / 2) / 10
    assert (actions.interval, actions.draws, len(actions.bins)) == (
        Interval(Decimal(-3), Decimal(3)),
        1000,
        20,
    )


@pytest.mark.parametrize(
    ("batches", "picks"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param(
            [without(0, BatchStatus.ACTIVE, TrackedPick("", "KO", Action.BUY))],
            1,
            id="the first Monday",
        ),
        pytest.param([without(0, BatchStatus.FAILED, late=True)], 0, id="a failed Monday"),
        pytest.param(
            [without(0, BatchStatus.COMPLETED, a_pick("KO BUY", "0", "0"))],
            1,
            id="an unresolved fortnight",
        ),
    ],
)
def test_nothing_finished(batches, picks):
    """Counts are zero, and figures are absent."""
    result = compute_track_record("main", batches)
    nothing = Average(None, None)
    assert (
        result.pick_results
        == result.batch_results
        == track.ResultFigures(
            count=0, alpha_pct=nothing, directional_return_pct=nothing, absolute_return_pct=nothing
        )
    )
    assert (result.best, result.worst, result.random_actions, result.drawdown_pct) == (
        None,
        None,
        None,
        0,
    )
    assert result.picks == track.PickCounts(
        total=picks, finished=0, hits=0, hit_rate_pct=None, hit_rate_interval=None
    )
    assert result.weekly_excess == track.WeeklyExcess(
        count=0,
        without_middle=0,
        mean_pct=None,
        mean_interval=None,
        beta=None,
        beyond_beta_pct=None,
        beyond_beta_interval=None,
        weeks=[],
    )
    assert (result.curve, result.verdict.finding, list(result.verdict.looks)) == ([], None, [])


def test_one_pick():
    """One has a mean and an interval of its hit rate; two weeks have an interval, but no line."""
    result = compute_track_record(
        "main", [make_batch(0, a_pick("AAPL BUY", "1", "3"), benchmark=("1", "0"))]
    )
    assert result.picks.hit_rate_interval == Interval(*decimals("20.654931", "100.000000"))
    assert result.weekly_excess.mean_pct == Decimal("1.5")
    assert result.weekly_excess.mean_interval is not None
    assert (result.weekly_excess.beta, result.weekly_excess.beyond_beta_pct) == (
        Decimal("1.000000") * -1 / 2,
        None,
    )


@pytest.mark.parametrize(("value", "below"), [("0", 50), ("0.1", 100)])
def test_no_variance(value, below):
    """
    All picks are alike: there are means, but no interval, and no figure is NaN.
    """
    whole = str(2 * Decimal(value))
    pick = a_pick(idea="AAPL BUY", middle=value, excess=whole)
    result = compute_track_record("main", [make_batch(week, pick) for week in range(60)])
    assert result.weekly_excess.mean_pct == Decimal(value)
    assert result.weekly_excess.mean_interval is result.weekly_excess.beyond_beta_interval is None
    assert result.weekly_excess.beta is None
    assert result.random_actions.below_pct == below


def test_a_gap_in_the_record():
    """
    A failed Monday leaves a week with one batch, and two leave one without a batch, which is not
    counted.
    """
    excess = compute_track_record(
        "main",
        [
            SMALL[0],
            without(1, BatchStatus.FAILED),
            without(2, BatchStatus.FAILED),
            replace(SMALL[1], run_date=MONDAY + 3 * WEEK),
        ],
    ).weekly_excess
    assert [(week.monday - MONDAY).days // 7 for week in excess.weeks] == [0, 1, 3, 4]


UNTIMED = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
FIGURE = st.decimals(-300, 300, places=6)
PICKS = st.builds(
    TrackedPick,
    st.uuids().map(str),
    st.text("ABCDEF", min_size=1, max_size=3),
    st.sampled_from(Action),
    FIGURE,
    FIGURE,
    FIGURE,
)
RECORDS = st.lists(
    st.tuples(
        st.lists(PICKS, min_size=1, max_size=3, unique_by=lambda pick: pick.ticker), FIGURE, FIGURE
    ),
    max_size=12,
).map(
    lambda rows: [
        TrackedBatch(
            run_date=MONDAY + n * WEEK,
            status=BatchStatus.COMPLETED,
            late=False,
            middle_benchmark_pct=middle,
            benchmark_pct=result,
            picks=picks,
        )
        for n, (picks, middle, result) in enumerate(rows)
    ]
)


def mirrored(pick: TrackedPick) -> TrackedPick:
    return replace(pick, action=Action.BUY if pick.action is Action.SELL else Action.SELL)


def negative(average: Average) -> Average:
    return Average(
        *(value if value is None else -value for value in (average.mean, average.median))
    )


@UNTIMED
@given(RECORDS)
def test_the_opposite_chooser(batches):
    """The opposite of all actions gives the opposite record, to the last digit."""
    result = compute_track_record("main", batches)
    other = compute_track_record(
        "main", [replace(one, picks=[*map(mirrored, one.picks)]) for one in batches]
    )
    for name in ("pick_results", "batch_results"):
        results, opposite = getattr(result, name), getattr(other, name)
        assert opposite.alpha_pct == negative(results.alpha_pct)
        assert opposite.directional_return_pct == negative(results.directional_return_pct)
        assert opposite.absolute_return_pct == results.absolute_return_pct
    assert [point.sum_pct for point in other.curve] == [-point.sum_pct for point in result.curve]
    assert other.weekly_excess.weeks == [
        Week(
            monday=week.monday,
            picks=week.picks,
            excess_pct=-week.excess_pct,
            benchmark_pct=week.benchmark_pct,
        )
        for week in result.weekly_excess.weeks
    ]
    if batches:
        assert other.random_actions.seed == result.random_actions.seed
        assert other.random_actions.below_pct == 100 - result.random_actions.below_pct
        assert other.best.alpha_pct == -result.worst.alpha_pct


@UNTIMED
@given(RECORDS, st.randoms())
def test_no_order_matters(batches, random):
    """Neither the order of the Mondays nor that of a Monday's picks."""
    result = compute_track_record("main", batches)
    batches = [replace(one, picks=random.sample(one.picks, len(one.picks))) for one in batches]
    assert compute_track_record("main", random.sample(batches, len(batches))) == result


@UNTIMED
@given(RECORDS)
def test_what_always_holds(batches):
    """
    The drawdown is never negative, a pick's two weeks add up to its alpha, and the bins contain all
    draws.
    """
    result = compute_track_record("main", batches)
    assert result.drawdown_pct >= 0
    added = sum((week.excess_pct * week.picks for week in result.weekly_excess.weeks), Decimal(0))
    alphas = sum((pick.alpha_pct for one in batches for pick in one.picks), Decimal(0))
    assert abs(added - alphas) < Decimal("1e-20")
    if result.random_actions:
        assert sum(size.count for size in result.random_actions.bins) == track.DRAW_COUNT


HUGE = Decimal(f"1{'0' * 5000}")


@pytest.mark.parametrize(
    "figure", [HUGE, -HUGE, 1 / HUGE, Decimal("1e160")], ids=["huge", "less", "tiny", "square"]
)
def test_enormous_figures(figure):
    """Exact figures stay exact, and no other figure is invented."""
    pick = TrackedPick(
        id="",
        ticker="KO",
        action=Action.SELL,
        middle_vs_benchmark_pct=figure,
        vs_benchmark_pct=figure * 3,
        absolute_return_pct=figure,
    )
    result = compute_track_record("main", [make_batch(n, pick) for n in range(3)])
    assert result.pick_results.alpha_pct.median == figure * -3
    assert result.weekly_excess.beta is None


# Comparisons of two series


def alike(week: int, middle: str, result: str) -> TrackedBatch:
    """Return a batch whose three picks have the same alpha."""
    ideas = ("AAPL BUY", "KO BUY", "XOM BUY")
    picks = [a_pick(idea=idea, middle=middle, excess=result) for idea in ideas]
    return make_batch(week, *picks)


# The example of docs/record.md#every-figure-of-comparison.
COMPARED_A = [alike(0, "1", "4"), alike(2, "2", "2")]
COMPARED_B = [alike(0, "0", "1"), alike(2, "2", "1"), alike(4, "5", "5")]


def compare(a: list[TrackedBatch], b: list[TrackedBatch], series: int = 9) -> Comparison | None:
    return compare_series(a, b, names=("a", "b"), series_count=series)


def test_a_comparison():
    """The worked example of docs/record.md, computed by hand there."""
    assert compare(COMPARED_A, COMPARED_B) == Comparison(
        a="a",
        b="b",
        weeks=4,
        first_week=date(2026, 1, 5),
        last_week=date(2026, 1, 26),
        mean_difference_pct=Decimal("1.000000"),
        interval=Interval(Decimal("-0.299228"), Decimal("2.299228")),
        comparisons=36,
    )


def test_a_comparison_the_other_way_round():
    """The difference and its interval change their sign."""
    other = compare(COMPARED_B, COMPARED_A)
    assert other
    assert other.mean_difference_pct == Decimal("-1.000000")
    assert other.interval == Interval(Decimal("-2.299228"), Decimal("0.299228"))


@pytest.mark.parametrize(("series", "pairs"), [(2, 1), (3, 3), (9, 36), (32, 496)])
def test_the_number_of_comparisons(series, pairs):
    """Each pair of the record's series counts once."""
    compared = compare(COMPARED_A, COMPARED_B, series)
    assert compared
    assert compared.comparisons == pairs


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([], id="no batch"),
        pytest.param([alike(9, "1", "2")], id="no common week"),
        pytest.param([alike(3, "1", "2")], id="one common week"),
        pytest.param([make_batch(0, *FIRST, late=True)], id="a late batch"),
        pytest.param(NOT_SCORED, id="nothing scored"),
    ],
)
def test_too_little_to_compare(other):
    """With fewer than two common weeks, nothing can be said."""
    assert compare(COMPARED_A, other) is None


def test_differences_that_are_all_equal():
    """They have a mean and no interval."""
    compared = compare([alike(0, "2", "4")], [alike(0, "1", "2")])
    assert compared
    assert (compared.weeks, compared.mean_difference_pct) == (2, Decimal("1.000000"))
    assert compared.interval is None


def test_comparisons_agree_with_scipy():
    """The interval is the one of a paired t-test."""
    random = Random(20)
    for _ in range(50):
        count = random.randrange(2, 30)
        a, b = (
            [
                alike(2 * n, f"{random.gauss(0, 2):.4f}", f"{random.gauss(0, 3):.4f}")
                for n in range(count)
            ]
            for _ in range(2)
        )
        compared = compare(a, b)
        assert compared
        assert compared.interval
        ours, theirs = (list(track.weekly_excess_by_monday(one).values()) for one in (a, b))
        paired = stats.ttest_rel([float(one) for one in ours], [float(one) for one in theirs])
        low, high = paired.confidence_interval(0.95)
        assert float(compared.interval.low) == pytest.approx(low, abs=1e-5)
        assert float(compared.interval.high) == pytest.approx(high, abs=1e-5)
