"""Estimates equal scipy's, and are never NaN or infinite."""

import math
from decimal import Decimal
from fractions import Fraction
from hashlib import shake_256
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from app.domain import statistics
from app.domain.statistics import (
    Interval,
    Points,
    draw_random_signs,
    finite_interval,
    round_estimate,
    to_decimal,
    wilson_interval,
)

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CLOSE = 1e-9
SENSIBLE = st.floats(-1e6, 1e6)
ANY = st.floats(allow_nan=False, allow_infinity=False)


def points(pairs: list[tuple[float, float]]) -> Points:
    made = Points()
    for x, y in pairs:
        made = made.with_point(x, y)
    return made


def cloud(seed: int, count: int) -> list[tuple[float, float]]:
    random = Random(seed)
    xs = [random.gauss(0.3, 2) for _ in range(count)]
    return [(x, 0.1 + 0.3 * x + random.gauss(0, 1.5)) for x in xs]


@pytest.mark.parametrize("outside", [0.5, 0.05, 0.05 / 6, 0.05 / 110, 1e-6])
@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 50, 519, 52_000])
def test_students_t(outside, freedom):
    """Quantiles and tails are scipy's."""
    t = statistics.t_quantile(outside, freedom)
    assert t == pytest.approx(stats.t.isf(outside / 2, freedom), rel=1e-9)
    assert statistics.t_tail_probability(t, freedom) == pytest.approx(outside, rel=1e-9)
    assert statistics.t_tail_probability(-t, freedom) == statistics.t_tail_probability(t, freedom)
    assert statistics.t_tail_probability(3, freedom) == pytest.approx(
        2 * stats.t.sf(3, freedom), rel=1e-9
    )


@pytest.mark.parametrize(
    ("x", "a", "b"), [(0.0, 2, 3), (1.0, 2, 3), (0.3, 2, 3), (0.9, 2, 3), (0.01, 300, 0.5)]
)
def test_the_incomplete_beta_function(x, a, b):
    assert statistics.incomplete_beta(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), rel=CLOSE)


@pytest.mark.parametrize(
    ("hits", "count"), [(0, 1), (1, 1), (1, 3), (3, 3), (7, 12), (50, 100), (0, 900), (525, 1560)]
)
@pytest.mark.parametrize("outside", [0.05, 0.01])
def test_wilsons_interval(hits, count, outside):
    """It equals scipy's."""
    expected = stats.binomtest(hits, count).proportion_ci(1 - outside, method="wilson")
    assert wilson_interval(hits, count, outside) == pytest.approx(
        (expected.low, expected.high), abs=CLOSE
    )


def test_wilsons_interval_computed_manually():
    """
    Two of four, with z = 1.96 (to five places 1.95996).

    The middle is (0.5 + 3.84146 / 8) / (1 + 3.84146 / 4) = 0.5; the reach is 1.95996 * sqrt(0.0625
    + 3.84146 / 64) / 1.960365 = 0.35 to three places.
    """
    low, high = wilson_interval(2, 4, 0.05)
    assert (round(low, 3), round(high, 3)) == (0.15, 0.85)
    assert wilson_interval(0, 0, 0.05) is None


@UNTIMED
@given(
    st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count)))
)
def test_wilsons_interval_contains_the_share(counts):
    """It is within 0 and 1, contains the share, and mirrors with it."""
    hits, count = counts
    low, high = wilson_interval(hits, count, 0.05)
    assert 0 <= low <= hits / count <= high <= 1
    assert wilson_interval(count - hits, count, 0.05) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("count", [3, 4, 30, 520])
@pytest.mark.parametrize("outside", [0.05, 0.05 / 12])
def test_the_mean_and_the_line(count, outside):
    """
    The t-interval of the mean, the slope, and the intercept with its interval and its p-value are
    scipy's.
    """
    pairs = cloud(count, count)
    made, xs, ys = points(pairs), *zip(*pairs, strict=True)
    expected = stats.ttest_1samp(ys, 0)
    low, high = expected.confidence_interval(1 - outside)
    assert made.estimate_mean().value == pytest.approx(sum(ys) / count, rel=CLOSE)
    assert made.estimate_mean().p_value() == pytest.approx(expected.pvalue, rel=CLOSE)
    assert made.estimate_mean().interval(outside) == finite_interval(low, high)
    line = stats.linregress(xs, ys)
    estimate, reach = (
        made.estimate_intercept(),
        stats.t.isf(outside / 2, count - 2) * line.intercept_stderr,
    )
    assert made.slope() == pytest.approx(line.slope, rel=CLOSE)
    assert estimate.value == pytest.approx(line.intercept, rel=CLOSE)
    assert estimate.error == pytest.approx(line.intercept_stderr, rel=CLOSE)
    assert estimate.interval(outside) == finite_interval(
        line.intercept - reach, line.intercept + reach
    )
    assert estimate.p_value() == pytest.approx(
        2 * stats.t.sf(abs(line.intercept) / line.intercept_stderr, count - 2), rel=CLOSE
    )


def test_the_line_computed_manually():
    """
    Through (0, 1), (1, 3), (2, 2): y = 1.5 + x / 2.

    The residuals -0.5, 1, -0.5 have squares of 1.5 in sum, with one degree of freedom; the
    intercept's error is sqrt(1.5 * (1/3 + 1/2)) = sqrt(1.25).
    """
    made = points([(0, 1), (1, 3), (2, 2)])
    estimate = made.estimate_intercept()
    assert (made.slope(), estimate.value, estimate.freedom) == pytest.approx((0.5, 1.5, 1))
    assert estimate.error == pytest.approx(math.sqrt(1.25))
    assert (made.estimate_mean().value, made.estimate_mean().error) == pytest.approx(
        (2, math.sqrt(1 / 3))
    )


@pytest.mark.parametrize(
    ("pairs", "slope", "mean", "intercept"),
    [
        pytest.param([], None, None, None, id="no point"),
        pytest.param([(1, 2)], None, None, None, id="one point"),
        pytest.param([(0, 0), (1, 1)], 1, True, None, id="two points"),
        pytest.param([(0, 0.1), (1, 0.1), (3, 0.1)], 0, False, False, id="all alike"),
        pytest.param([(0, 0), (1, 0), (3, 0)], 0, False, False, id="all zero"),
        pytest.param([(1, 0), (1, 1), (1, 5)], None, True, None, id="a benchmark without a change"),
        pytest.param([(0.1, 0.2), (0.2, 0.4), (0.3, 0.6)], 2, True, False, id="all on one line"),
        pytest.param(
            [(1, 1e200), (2, -1e200), (4, 1e200)], None, False, None, id="enormous values"
        ),
    ],
)
def test_values_without_variance(pairs, slope, mean, intercept):
    """
    Without variance there is a value and no interval. True, False, None: with an error, without
    one, no estimate.
    """
    made = points(pairs)
    assert made.slope() == (None if slope is None else pytest.approx(slope, abs=1e-12))
    for estimate, expected in (
        (made.estimate_mean(), mean),
        (made.estimate_intercept(), intercept),
    ):
        assert (estimate and estimate.error is not None) == expected
        if estimate and not expected:
            assert (estimate.interval(0.05), estimate.p_value()) == (None, None)


def on_a_line(
    count: int, slope: str, base: str, scale: str = "2", seed: int = 1
) -> list[tuple[float, float]]:
    """Return points whose decimals are exactly on a line, each as the nearest floats."""
    random = Random(seed)
    xs = [Decimal(f"{random.gauss(0, 1):.10f}") * Decimal(scale) for _ in range(count)]
    return [(float(x), float(Decimal(base) + Decimal(slope) * x)) for x in xs]


def exact_rest(pairs: list[tuple[float, float]]) -> Fraction:
    """Return the sum of the squared residuals of the least squares line, by fractions."""
    xs, ys = ([Fraction(pair[n]) for pair in pairs] for n in (0, 1))
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    xx, yy = sum((x - x_mean) ** 2 for x in xs), sum((y - y_mean) ** 2 for y in ys)
    xy = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return yy - xy * xy / xx


# The kind: R, the sum of the squared residuals, is only an error of rounding.
LINES = [
    pytest.param(on_a_line(52, "0.7310", "-0.1937"), id="a year of weeks"),
    pytest.param(on_a_line(52, "-1.3", "0.25"), id="falling"),
    pytest.param(on_a_line(52, "2", "0"), id="through zero"),
    pytest.param(on_a_line(52, "0.0001", "0.3"), id="almost level"),
    pytest.param(on_a_line(52, "1.1", "1000.7"), id="far above zero"),
    pytest.param(on_a_line(52, "1000.3", "-0.1"), id="steep"),
    pytest.param(on_a_line(52, "0.3333333333333333333333333333", "0.1"), id="of endless decimals"),
    pytest.param(on_a_line(52, "0.3", "0.1", scale="0.000001"), id="of tiny moves"),
    pytest.param(on_a_line(3, "0.7", "0.1"), id="three points"),
    pytest.param(on_a_line(520, "0.9", "-0.2"), id="ten years"),
    pytest.param(on_a_line(5200, "0.9", "-0.2"), id="a hundred years"),
    pytest.param(
        [(x + 100.1, 0.3 * (x + 100.1) + 0.1) for x in (0.1, 0.2, 0.7, 1.3)], id="far to the right"
    ),
    pytest.param([(1.1, 2.2)] * 3 + [(3.3, 6.6)] * 3, id="two places, three times each"),
]


@pytest.mark.parametrize("pairs", LINES)
def test_points_on_a_line(pairs):
    """A line through all points has an intercept, but no standard error."""
    estimate = points(pairs).estimate_intercept()
    assert estimate
    assert (estimate.error, estimate.interval(0.05), estimate.p_value()) == (None, None, None)
    assert estimate.value == pytest.approx(
        stats.linregress(*zip(*pairs, strict=True)).intercept, rel=1e-6, abs=1e-6
    )


def test_any_points_on_a_line():
    """Of many random lines and points, none has an interval."""
    for seed in range(300):
        random = Random(seed)
        slope, base = f"{random.uniform(-2, 2):.6f}", f"{random.uniform(-1, 1):.6f}"
        estimate = points(on_a_line(52, slope, base, seed=seed)).estimate_intercept()
        assert estimate
        assert estimate.error is None, seed


@pytest.mark.parametrize("off", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("count", [3, 52, 520])
def test_points_almost_on_a_line(count, off):
    """The smallest deviation from the line is found, to the digits of the exact fractions."""
    pairs = on_a_line(count, "0.731", "-0.2")
    pairs[1] = (pairs[1][0], pairs[1][1] + off)
    estimate, rest = points(pairs).estimate_intercept(), exact_rest(pairs)
    weight = 1 / count + points(pairs).x ** 2 / points(pairs).xx
    assert estimate
    assert estimate.error == pytest.approx(
        math.sqrt(rest / (count - 2) * Fraction(weight)), rel=1e-6
    )


def test_points_that_share_their_beginning():
    """Points that were made from the same ones do not share later points."""
    line = on_a_line(20, "0.5", "0.1")
    begun = points(line)
    off, on = begun.with_point(9.0, 0.0), begun.with_point(8.0, 4.1)
    further = off.with_point(7.0, 3.6)
    assert begun.estimate_intercept().error is on.estimate_intercept().error is None
    assert off.estimate_intercept().error > 0
    assert (
        further.estimate_intercept().error
        == points([*line, (9.0, 0.0), (7.0, 3.6)]).estimate_intercept().error
    )
    assert on.with_point(7.0, 3.6).estimate_intercept().error is None


@UNTIMED
@given(st.lists(st.tuples(ANY, ANY), max_size=8))
def test_no_result_is_nan_or_infinite(pairs):
    """For any input, no result is NaN or infinite."""
    made = points(pairs)
    for estimate in filter(None, (made.estimate_mean(), made.estimate_intercept())):
        for result in (
            round_estimate(estimate.value),
            round_estimate(made.slope()),
            estimate.interval(0.05),
        ):
            listed = [result.low, result.high] if isinstance(result, Interval) else [result]
            assert all(value is None or value.is_finite() for value in listed)
        assert estimate.p_value() is None or 0 <= estimate.p_value() <= 1


@UNTIMED
@given(st.lists(st.tuples(SENSIBLE, SENSIBLE), min_size=3, max_size=20), st.randoms())
def test_the_order_of_points_does_not_matter(pairs, random):
    """Except for the last digits of a float."""
    made = points(pairs)
    random.shuffle(pairs)
    again = points(pairs)
    assert (again.x, again.y) == pytest.approx((made.x, made.y), rel=1e-9, abs=1e-6)
    assert (again.xx, again.yy) == pytest.approx((made.xx, made.yy), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1234565, "0.123456"),
        (-1e-9, "0.000000"),
        (1e20, "100000000000000000000.000000"),
        (math.nan, "None"),
        (math.inf, "None"),
        (-math.inf, "None"),
        (None, "None"),
    ],
)
def test_rounded(value, expected):
    """Values have six decimals, and zero has no sign."""
    assert str(round_estimate(value)) == expected


def test_random_signs_computed_manually():
    """Two values have four sums; the two lowest bits of a draw's byte choose one of them."""
    signs = draw_random_signs([3.0, 1.0], "a seed", 1000)
    assert signs.own == 2
    # SHAKE-256 of `a seed/0` begins with a6, whose lowest bits are 10: minus for the first value,
    # plus for the second.
    assert draw_random_signs([3.0, 1.0], "a seed", 1).means == [-1]
    drawn = shake_256(b"a seed/0").digest(1000)
    assert drawn[0] == 0xA6
    for bits, mean in ((0b00, -2), (0b01, 1), (0b10, -1), (0b11, 2)):
        assert signs.means.count(mean) == sum(byte & 3 == bits for byte in drawn)


def test_random_signs_are_random():
    """
    Their mean and spread are those of a sum of independent signs: zero, and the root of the sum of
    squares.
    """
    values = [Random(1).gauss(0, 4) for _ in range(300)]
    signs = draw_random_signs(values, "another", 1000)
    spread = math.sqrt(sum(value * value for value in values)) / len(values)
    assert abs(sum(signs.means) / 1000) < 3 * spread / math.sqrt(1000)
    assert stats.kstest(signs.means, "norm", (0, spread)).pvalue > 0.01
    assert draw_random_signs(values, "another", 1000) == signs
    assert draw_random_signs(values, "one more", 1000) != signs


def test_the_rank_of_the_values():
    """A draw that equals the values' own mean counts half."""
    draws = statistics.Draws(2.0, [0.0, 1.0, 2.0, 2.0, 5.0])
    assert draws.share_below() == pytest.approx(0.6)
    assert statistics.Draws(0.0, [0.0] * 10).share_below() == 0.5
    assert statistics.Draws(9.0, [0.0] * 10).share_below() == 1
    assert statistics.Draws(0, [float(n) for n in range(100)]).central_range(0.1) == (5, 94)


def test_bins():
    """Together the bins contain every draw, also those on an edge."""
    draws = statistics.Draws(0.0, [0.0, 1.0, 2.0, 2.5, 4.0])
    assert draws.bins(4) == [(0, 1, 1), (1, 2, 1), (2, 3, 2), (3, 4, 1)]
    assert [count for *_, count in statistics.Draws(0.0, [7.0] * 9).bins(3)] == [0, 0, 9]


@pytest.mark.parametrize("values", [[], [math.inf], [1e308, 1e308]])
def test_no_signs_for_what_cannot_be_added(values):
    assert draw_random_signs(values, "", 10) is None


@UNTIMED
@given(st.lists(SENSIBLE, min_size=1, max_size=30))
def test_negated_values_have_the_mirrored_rank(values):
    """With the same seed, the negated values have the same rank from the other end."""
    signs, mirrored = (
        draw_random_signs(of, "seed", 100) for of in (values, [-value for value in values])
    )
    assert mirrored.own == -signs.own
    assert signs.share_below() + mirrored.share_below() == pytest.approx(1)


def test_fixed_has_plain_notation():
    assert to_decimal(1e-5) == Decimal("0.000010")
    assert str(to_decimal(12345.6)) == "12345.600000"
