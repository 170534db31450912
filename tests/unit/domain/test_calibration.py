"""
The scores of stated probabilities: by hand, against a computation that takes each pick for itself,
and against scipy.
"""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import stats

from app.domain.calibration import (
    Calibration,
    ProbabilityGroup,
    ProbabilityScores,
    StatedPick,
    calibration_words,
    judge_calibration,
    score_probabilities,
)
from app.domain.model import Action
from app.domain.statistics import Interval
from app.domain.track_record import TrackedPick
from app.errors import RecordDamaged
from tests.unit.domain.test_track_record import (
    NOT_SCORED,
    SMALL,
    compute_track_record,
    make_batch,
)


def stated(*groups: tuple[int, int, int]) -> list[StatedPick]:
    """Return picks from groups of a probability, a number of picks, and a number of hits."""
    return [
        StatedPick(probability=probability, is_hit=number < hits)
        for probability, picks, hits in groups
        for number in range(picks)
    ]


def scores_of(picks: list[StatedPick]) -> ProbabilityScores:
    scores = score_probabilities(picks)
    assert scores
    return scores


def test_by_hand():
    """
    55 %: one of two, 60 %: three of four, 80 %: two of four.

    Squared differences: 0.2025 + 0.3025; 3 x 0.16 + 0.36; 2 x 0.04 + 2 x 0.64: together 2.705.
    Reliability: 2 x 0.05² + 4 x 0.15² + 4 x 0.3² = 0.455. Resolution: 2 x 0.1² + 4 x 0.15² +
    4 x 0.1² = 0.15. All of this is divided by ten picks. Six hits of ten: 0.6 x 0.4.
    """
    scores = scores_of(stated((55, 2, 1), (60, 4, 3), (80, 4, 2)))
    assert (scores.picks, scores.hits) == (10, 6)
    assert (scores.mean_stated_pct, scores.hit_rate_pct) == (67, 60)
    assert scores.hit_rate_interval == Interval(Decimal("31.267377"), Decimal("83.181967"))
    assert scores.brier_score == Decimal("0.2705")
    assert scores.reliability == Decimal("0.0455")
    assert scores.resolution == Decimal("0.015")
    assert scores.uncertainty == scores.hit_rate_brier_score == Decimal("0.24")
    assert scores.half_brier_score == Decimal("0.25")
    assert scores.groups == [
        ProbabilityGroup(55, 2, 1),
        ProbabilityGroup(60, 4, 3),
        ProbabilityGroup(80, 4, 2),
    ]
    assert [(one.low_pct, one.high_pct, one.picks, one.hits) for one in scores.bins] == [
        (50, 59, 2, 1),
        (60, 69, 4, 3),
        (70, 79, 0, 0),
        (80, 89, 4, 2),
        (90, 99, 0, 0),
    ]
    assert [one.mean_stated_pct for one in scores.bins] == [55, 60, None, 80, None]
    assert [one.hit_rate_pct for one in scores.bins] == [50, 75, None, 50, None]
    assert scores.bins[2].hit_rate_interval is None
    assert scores.words == (
        "Too early to say whether the probabilities are right: 10 finished picks have a "
        "probability, and the results of fewer than 60 depend mostly on chance."
    )


@pytest.mark.parametrize(
    ("groups", "brier", "reliability", "resolution"),
    [
        pytest.param([(99, 10, 10)], "0.0001", "0.0001", "0", id="almost sure, and right"),
        pytest.param([(99, 10, 0)], "0.9801", "0.9801", "0", id="almost sure, and wrong"),
        pytest.param([(50, 10, 5)], "0.25", "0", "0", id="a coin"),
        pytest.param([(50, 10, 0)], "0.25", "0.25", "0", id="a coin that never falls right"),
        pytest.param(
            [(50, 2, 0), (99, 2, 2)], "0.12505", "0.12505", "0.25", id="tells good from bad"
        ),
    ],
)
def test_extremes(groups, brier, reliability, resolution):
    scores = scores_of(stated(*groups))
    assert scores.brier_score == Decimal(brier)
    assert scores.reliability == Decimal(reliability)
    assert scores.resolution == Decimal(resolution)


def test_one_pick():
    scores = scores_of([StatedPick(probability=70, is_hit=True)])
    assert scores.brier_score == Decimal("0.09")
    assert "1 finished pick has a probability" in scores.words


def test_no_pick():
    assert score_probabilities([]) is None


PICKS = st.lists(
    st.builds(StatedPick, probability=st.integers(50, 99), is_hit=st.booleans()),
    min_size=1,
    max_size=120,
)


def rounded(value: Fraction) -> Decimal:
    """Return a fraction with 28 significant digits, half to even, without dividing decimals."""
    if not value:
        return Decimal(0)
    exponent = 0
    while value * 10**exponent < 10**27:
        exponent += 1
    while value * Fraction(10) ** exponent >= 10**28:
        exponent -= 1
    # `round` of a fraction is half to even.
    return Decimal(round(value * Fraction(10) ** exponent)).scaleb(-exponent)


@given(PICKS)
def test_pick_by_pick(picks):
    """Every exact figure, computed for each pick with fractions of whole numbers."""
    scores = scores_of(picks)
    n = len(picks)
    happened = [Fraction(int(pick.is_hit)) for pick in picks]
    said = [Fraction(pick.probability, 100) for pick in picks]
    share = sum(happened) / n
    of_group = {}
    for p in set(said):
        of_group[p] = [one for q, one in zip(said, happened, strict=True) if q == p]
    rates = [sum(of_group[p]) / len(of_group[p]) for p in said]
    brier = sum((p - one) ** 2 for p, one in zip(said, happened, strict=True)) / n
    reliability = sum((p - rate) ** 2 for p, rate in zip(said, rates, strict=True)) / n
    resolution = sum((rate - share) ** 2 for rate in rates) / n
    uncertainty = share * (1 - share)
    assert brier == reliability - resolution + uncertainty
    assert scores.brier_score == rounded(brier)
    assert scores.reliability == rounded(reliability)
    assert scores.resolution == rounded(resolution)
    assert scores.uncertainty == rounded(uncertainty)
    assert scores.hit_rate_brier_score == rounded(sum((share - one) ** 2 for one in happened) / n)
    assert scores.half_brier_score == rounded(sum((Fraction(1, 2) - x) ** 2 for x in happened) / n)
    assert scores.mean_stated_pct == rounded(100 * sum(said) / n)
    assert scores.hits == sum(happened)


@given(PICKS)
def test_what_always_holds(picks):
    """
    Murphy's identity holds up to the rounding of each figure; groups and bins have all picks; the
    order of the picks does not matter.
    """
    scores = scores_of(picks)
    total = Fraction(scores.reliability) - Fraction(scores.resolution)
    difference = total + Fraction(scores.uncertainty) - Fraction(scores.brier_score)
    assert abs(difference) <= Fraction(2, 10**28)
    for parts in (scores.groups, scores.bins):
        assert sum(one.picks for one in parts) == scores.picks
        assert sum(one.hits for one in parts) == scores.hits
    for one in scores.bins:
        assert (one.picks > 0) == (one.mean_stated_pct is not None)
        if one.mean_stated_pct is not None:
            assert one.low_pct <= one.mean_stated_pct <= one.high_pct
    assert scores_of(picks[::-1]) == scores
    assert len(scores.words) <= 500


@given(PICKS)
def test_against_scipy(picks):
    """The interval of the share of hits is Wilson's."""
    scores = scores_of(picks)
    expected = stats.binomtest(scores.hits, scores.picks).proportion_ci(method="wilson")
    assert float(scores.hit_rate_interval.low) == pytest.approx(100 * expected.low, abs=1e-5)
    assert float(scores.hit_rate_interval.high) == pytest.approx(100 * expected.high, abs=1e-5)


INTERVAL = Interval(Decimal("45.000000"), Decimal("60.000000"))


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        ("44.99", Calibration.UNDERCONFIDENT),
        ("45", Calibration.UNDECIDED),
        ("60.000000", Calibration.UNDECIDED),
        ("60.0000000000000000001", Calibration.OVERCONFIDENT),
    ],
)
def test_the_edges_of_the_interval(mean, expected):
    """A mean on the edge of the interval lies within it; with 59 picks it is too early."""
    assert judge_calibration(60, Decimal(mean), INTERVAL) is expected
    assert judge_calibration(59, Decimal(mean), INTERVAL) is Calibration.TOO_EARLY


def test_the_words():
    words = calibration_words(200, Decimal("71.125"), Decimal("52.5"), interval=INTERVAL)
    assert words == (
        "Overconfident: the mean stated probability, 71.12 %, lies above the 95 % interval of the "
        "share of right picks (52.50 %, from 45.00 to 60.00 %). Picks are not independent, so this "
        "interval is too narrow."
    )
    words = calibration_words(200, Decimal("53"), Decimal("52.5"), interval=INTERVAL)
    assert words.startswith("Not distinguishable from calibrated: ")


def with_probabilities(batch, *probabilities):
    picks = [
        replace(pick, probability=probability)
        for pick, probability in zip(batch.picks, probabilities, strict=True)
    ]
    return replace(batch, picks=picks)


def test_which_picks_count():
    """
    Finished ones with a probability: AAPL (3 points), XOM (-2) and NVDA (6). Those of late,
    unresolved and active batches do not count, and a record without a probability has no scores.
    """
    assert compute_track_record("main", SMALL).probability is None
    first = with_probabilities(SMALL[0], 70, None, 80)
    second = with_probabilities(SMALL[1], None, 90, None)
    others = [with_probabilities(one, *[99] * len(one.picks)) for one in NOT_SCORED]
    scores = compute_track_record("main", [first, second, *others]).probability
    assert scores
    assert scores.groups == [
        ProbabilityGroup(70, 1, 1),
        ProbabilityGroup(80, 1, 0),
        ProbabilityGroup(90, 1, 1),
    ]
    assert compute_track_record("main", others).probability is None


def test_an_alpha_of_zero_is_no_hit():
    flat = TrackedPick(
        id="",
        ticker="A",
        action=Action.BUY,
        middle_vs_benchmark_pct=Decimal(0),
        vs_benchmark_pct=Decimal("0.00"),
        absolute_return_pct=Decimal(1),
        probability=60,
    )
    scores = compute_track_record("main", [make_batch(0, flat)]).probability
    assert scores
    assert (scores.picks, scores.hits) == (1, 0)


@pytest.mark.parametrize("probability", [49, 100, 0, -1])
def test_a_damaged_probability(probability):
    """A record with a probability that no model may state is damaged."""
    batch = with_probabilities(SMALL[0], 60, probability, None)
    with pytest.raises(RecordDamaged, match="the probability of KO of the Monday 2026-01-05"):
        batch.check()
