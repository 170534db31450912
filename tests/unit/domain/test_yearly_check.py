"""The yearly check of several series: worked examples by hand, and Holm's procedure."""

import re
from datetime import date, timedelta
from pathlib import Path

import pytest
from scipy import stats
from simulated_checks import content_of, findings_of

from app.domain import yearly_check
from app.domain.yearly_check import BatchResult, PickResult, Side

MONDAY = date(2027, 3, 1)


def batch(week: int, *picks, benchmark=(1.0, 2.0), risk_free=(0.0, 0.0)) -> BatchResult:
    """Return a batch with picks of (middle, result)."""
    return BatchResult(
        monday=MONDAY + timedelta(weeks=week),
        picks=[PickResult(*pick) for pick in picks],
        benchmark=benchmark,
        risk_free=risk_free,
    )


def test_holm_by_hand():
    """
    Four series at 2.5 %: the bounds are 0.625 %, 0.833 %, 1.25 % and 2.5 %.

    The third exceeds its bound, so the fourth is not found either, although 2.4 % is below 2.5 %.
    """
    steps = yearly_check.holm({"a": 0.024, "b": 0.002, "c": 0.013, "d": 0.008}, 0.025)
    assert [(one.series, one.is_found) for one in steps] == [
        ("b", True),
        ("d", True),
        ("c", False),
        ("a", False),
    ]
    assert [one.bound for one in steps] == pytest.approx([0.00625, 0.025 / 3, 0.0125, 0.025])


def test_the_example_of_the_documentation():
    """The table of docs/record.md#the-yearly-check is that of `test_holm_by_hand`."""
    text = (Path(__file__).parents[3] / "docs" / "record.md").read_text()
    rows = re.findall(r"^\| ([a-d]) \| ([0-9.]+) \| .* = ([0-9.]+) \| (yes|no)", text, re.MULTILINE)
    steps = yearly_check.holm({name: float(p) for name, p, _, _ in rows}, 0.025)
    assert [(one.series, pytest.approx(one.bound), one.is_found) for one in steps] == [
        (name, float(bound), found == "yes") for name, _, bound, found in rows
    ]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("p_values", "found"),
    [
        ({}, []),
        ({"a": 0.025}, ["a"]),
        ({"a": 0.0251}, []),
        ({"a": 0.0125, "b": 0.025}, ["a", "b"]),
        ({"a": 0.0126, "b": 0.0126}, []),
        ({"a": 0.0126, "b": 0.001}, ["a", "b"]),
        ({"b": 0.01, "a": 0.01}, ["a", "b"]),
        ({"a": 1.0, "b": 1.0}, []),
        ({"a": 0.0}, ["a"]),
    ],
)
def test_holm(p_values, found):
    """One series is tested at the whole risk; a bound itself is still within."""
    steps = yearly_check.holm(p_values, 0.025)
    assert sorted(one.series for one in steps if one.is_found) == found


def test_series_that_are_not_tested_count():
    """Of four series one is tested: its bound is a fourth of the risk, and not the whole."""
    (step,) = yearly_check.holm({"a": 0.007}, 0.025, untested=3)
    assert (step.bound, step.is_found) == (0.00625, False)


def test_the_risks_of_all_checks():
    """Half of 5 % for the first, a sixth for the second; the sum approaches 5 %."""
    assert yearly_check.risk_of_check(1) == 0.025
    assert yearly_check.risk_of_check(2) == pytest.approx(0.05 / 6)
    assert sum(map(yearly_check.risk_of_check, range(1, 10_000))) == pytest.approx(0.05, rel=1e-3)


def test_weeks_by_hand():
    """
    Two batches overlap in one calendar week: its excess is the mean over six picks.

    Week 0: (3 + 1 + 2) / 3 = 2. Week 1: (-1 + 2 + 0 + 4 + 0 + 1) / 6 = 1. Week 2: (2 + 1 + 0) / 3
    = 1. The benchmark less the rate: 1 - 0.1; (2 - 0.2 + 1 - 0.1) / 2; 2 - 0.2.
    """
    evaluation = yearly_check.evaluate(
        [
            batch(0, (3, 2), (1, 3), (2, 2), risk_free=(0.1, 0.2)),
            batch(1, (4, 6), (0, 1), (1, 1), risk_free=(0.1, 0.2)),
        ]
    )
    line = stats.linregress([0.9, 1.35, 1.8], [2, 1, 1])
    assert evaluation.weeks == 3
    assert evaluation.imputed == 0
    assert evaluation.better == yearly_check.SideEvaluation(
        mean_pct=pytest.approx(4 / 3),
        beta=pytest.approx(line.slope),
        beyond_beta_pct=pytest.approx(line.intercept),
        p_value=pytest.approx(stats.t.sf(line.intercept / line.intercept_stderr, 1)),
    )
    assert evaluation.worse.p_value == pytest.approx(1 - evaluation.better.p_value)
    assert evaluation.side is Side.BETTER
    assert evaluation.p_value == pytest.approx(2 * evaluation.better.p_value)


# What the weeks of a batch become if a figure of its first pick is missing. The other weeks of the
# series lie between -5 and 7.
@pytest.mark.parametrize(
    ("pick", "for_better", "for_worse"),
    [
        ((None, 4), (-5, 9), (7, -3)),
        ((2, None), (2, -5), (2, 7)),
        ((None, None), (-5, -5), (7, 7)),
        ((2, 5), (2, 3), (2, 3)),
    ],
    ids=["no middle", "no result", "neither", "complete"],
)
def test_a_gap_is_filled(pick, for_better, for_worse):
    """With the lowest week of the series for better, and the highest for worse."""
    others = [batch(week, (1, 8), (-2, -7), (0, 0)) for week in (10, 12, 14)]
    evaluation = yearly_check.evaluate([batch(0, pick, (3, 3), (0, 3)), *others])
    of_others = [-1 / 3, 2 / 3] * 3
    for side, filled in ((evaluation.better, for_better), (evaluation.worse, for_worse)):
        weeks = [(filled[0] + 3 + 0) / 3, (filled[1] + 0 + 3) / 3]
        assert side.mean_pct == pytest.approx(sum([*weeks, *of_others]) / 8)
    assert evaluation.weeks == 8
    assert evaluation.imputed == (0 if None not in pick else 2)


def test_a_week_without_the_benchmark():
    """Then nothing is found, whatever the other weeks are."""
    batches = [batch(2 * week, (5, 10), (5, 10), (5, 10.5)) for week in range(40)]
    batches[7] = batch(14, (5, 10), (5, 10), (5, 10), benchmark=(None, 1.0))
    evaluation = yearly_check.evaluate(batches)
    assert evaluation.p_value is None
    assert evaluation.side is None
    check = content_of(2, MONDAY, {"main": batches})
    assert check["order"] == []
    assert check["findings"] == []


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_too_few_weeks_have_no_probability(batches):
    """No picks, and picks whose weeks do not vary."""
    evaluation = yearly_check.evaluate(
        [batch(2 * week, (1, 2), (1, 2), (1, 2)) for week in range(batches)]
    )
    assert evaluation.p_value is None
    assert evaluation.weeks == 2 * batches
    assert not evaluation.has_enough_weeks


def varied(count: int, *, alpha: float) -> list[BatchResult]:
    """Return batches whose benchmark and picks vary a little, around a weekly alpha."""
    batches = []
    for week in range(count):
        noise = (week % 3 - 1) / 10
        picks = [(alpha + noise, 2 * alpha)] * 3
        batches.append(batch(week, *picks, benchmark=(week % 5 - 2.0, week % 7 - 3.0)))
    return batches


@pytest.mark.parametrize(("alpha", "side"), [(1.0, Side.BETTER), (-1.0, Side.WORSE)])
def test_a_series_that_is_found(alpha, side):
    """Better and worse, at the first check."""
    assert findings_of(1, MONDAY, {"main": varied(52, alpha=alpha)}) == {"main": side}


@pytest.mark.parametrize(("weeks", "is_compared"), [(28, False), (29, True), (30, True)])
def test_thirty_complete_weeks_are_needed(weeks, is_compared):
    """N batches on consecutive Mondays have N + 1 weeks; a gap takes two of them away."""
    batches = varied(weeks, alpha=1.0)
    assert bool(content_of(1, MONDAY, {"main": batches})["order"]) == is_compared
    gap = batch(weeks, (None, None), (1, 2), (1, 2))
    with_gap = content_of(1, MONDAY, {"main": [*batches, gap]})
    assert bool(with_gap["order"]) == (weeks >= 30)
