"""
Estimates from a few numbers, with their uncertainty: intervals, a regression line, random signs.

The numbers are floats, because every figure here is an estimate: its uncertainty is far larger than
the rounding of a float. Published figures are rounded to `DECIMAL_PLACES` decimal places. Where a
formula has no value, the result is None: never NaN, never infinite.

Sources:

- Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference.
  JASA 22, 209-212.
- Student (1908), The probable error of a mean. Biometrika 6, 1-25. The tail of his distribution is
  computed with the regularised incomplete beta function (Abramowitz and Stegun 26.7.1 and 26.5.8),
  and its continued fraction as in Lentz, W. J. (1976), Applied Optics 15, 668-671.
- Welford, B. P. (1962), Note on a method for calculating corrected sums of squares and products.
  Technometrics 4, 419.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from hashlib import shake_256
from operator import add
from statistics import NormalDist
from typing import Annotated

from msgspec import Meta, Struct

DECIMAL_PLACES = 6

# The risk that a published interval misses the true value.
SIGNIFICANCE = 0.05

# A line through fewer points leaves no residuals, so nothing can be said about its error.
MIN_LINE_POINTS = 3

# The sum of squared differences of equal numbers is zero, but rounding leaves a small remainder. A
# sum counts as zero if it is at most this fraction of n m², with the number of points n and their
# largest absolute coordinate m (docs/record.md#every-figure-of-trackrecord).
_ROUNDING_REST = 1e-20

# If the difference of two sums is at most this fraction of the first sum, the difference has lost
# too many of its digits.
_CANCELLED = 1e-6

# The float that replaces a larger decimal, which would become infinite.
_LARGEST = 1e308

# The relative changes at which Newton's method and the continued fraction stop.
_QUANTILE_PRECISION = 1e-13
_FRACTION_PRECISION = 1e-15


class Interval(Struct, frozen=True):
    """A confidence interval. The field that returns it states the confidence level and the unit."""

    low: Annotated[
        Decimal,
        Meta(
            description="The lower bound, in the unit of the parent field, to six decimal places."
        ),
    ]
    high: Annotated[
        Decimal,
        Meta(
            description="The upper bound, in the unit of the parent field, to six decimal places."
        ),
    ]


class Estimate(Struct, frozen=True):
    """
    An estimated value with its standard error and degrees of freedom.

    The error is None if it cannot be computed: the observations are all equal or lie on one line,
    or the result is not finite.
    """

    value: float
    error: float | None
    freedom: int

    def interval(self, outside: float) -> Interval | None:
        """
        Return the confidence interval that misses the true value with the probability `outside`.

        None if the error is None, or if a bound is not finite.
        """
        if self.error is None:
            return None
        reach = t_quantile(outside, self.freedom) * self.error
        return finite_interval(self.value - reach, self.value + reach)

    def p_value(self) -> float | None:
        """
        Return the probability of an estimate at least as far from zero as `value`, on either side.

        The true value is assumed to be zero. None if the error is None.
        """
        if self.error is None:
            return None
        return t_tail_probability(self.value / self.error, self.freedom)


class Points(Struct, frozen=True):
    """
    The statistics of points (x, y) that a regression needs.

    These are the number of points, the means `x` and `y`, the sums of squares and products of the
    differences from the means (`xx`, `xy`, `yy`), and the largest absolute coordinate `most`.
    Adding one point at a time keeps the digits that sums of plain squares would lose (Welford
    1962).

    The first `count` items of `pairs` are the points. The list may be longer: `with_point` appends
    to it, and returns an object that shares it.
    """

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0
    most: float = 0.0
    pairs: list[tuple[float, float]] = []

    def with_point(self, x: float, y: float) -> "Points":
        """Return these points and one more."""
        pairs = self.pairs
        # The list is shared, because a copy for every point would take quadratic time. It is copied
        # only if another object has appended to it.
        if len(pairs) != self.count:
            pairs = pairs[: self.count]
        pairs.append((x, y))

        count = self.count + 1
        dx, dy = x - self.x, y - self.y
        new_x, new_y = self.x + dx / count, self.y + dy / count
        return Points(
            count=count,
            x=new_x,
            y=new_y,
            xx=self.xx + dx * (x - new_x),
            xy=self.xy + dx * (y - new_y),
            yy=self.yy + dy * (y - new_y),
            most=max(self.most, abs(x), abs(y)),
            pairs=pairs,
        )

    def estimate_mean(self) -> Estimate | None:
        """Return the mean of y (Student 1908); None for fewer than two points."""
        if self.count < 2:
            return None
        return self._estimate(self.y, self.yy, weight=1 / self.count, unknowns=1)

    def slope(self) -> float | None:
        """
        Return the slope of the least squares line.

        None for fewer than two points, if x does not vary, or if the slope is not finite.
        """
        if self.count < 2 or self.xx <= self._rounding_rest():
            return None
        slope = self.xy / self.xx
        if not math.isfinite(slope):
            return None
        return slope

    def estimate_intercept(self) -> Estimate | None:
        """
        Return the value of the least squares line at x = 0.

        Its variance is R / (n - 2) * (1/n + mean(x)^2 / Sxx), with R the sum of squared residuals
        (docs/record.md#every-figure-of-trackrecord). None for fewer than three points, or if x
        does not vary.
        """
        slope = self.slope()
        if self.count < MIN_LINE_POINTS or slope is None:
            return None
        return self._estimate(
            self.y - slope * self.x,
            self._squared_residuals(slope),
            weight=1 / self.count + self.x * self.x / self.xx,
            unknowns=2,
        )

    def _squared_residuals(self, slope: float) -> float:
        """
        Return the sum of the squared residuals of the least squares line.

        It is the difference of two numbers. If the points lie almost on the line, the two numbers
        are almost equal, and with floats the difference would consist mostly of rounding errors.
        Then the sum is computed with whole numbers, without rounding.
        """
        squares = self.yy - slope * self.xy
        if not math.isfinite(squares) or squares > _CANCELLED * self.yy:
            return squares
        return _exact_squared_residuals(self.pairs[: self.count])

    def _rounding_rest(self) -> float:
        return _ROUNDING_REST * self.count * self.most * self.most

    def _estimate(self, value: float, squares: float, *, weight: float, unknowns: int) -> Estimate:
        freedom = self.count - unknowns
        variance = squares / freedom * weight
        error = None
        if squares > self._rounding_rest() and 0 < variance < math.inf:
            error = math.sqrt(variance)
        return Estimate(value, error, freedom)


def _exact_squared_residuals(pairs: Sequence[tuple[float, float]]) -> float:
    """
    Return the sum of the squared residuals of the least squares line, computed without rounding.

    The x of the points must vary. Every float is a whole number divided by a power of two, so all
    floats are multiplied by the largest of these powers, and whole numbers remain.
    """
    ratios = [(x.as_integer_ratio(), y.as_integer_ratio()) for x, y in pairs]
    scale = max(max(x[1], y[1]) for x, y in ratios)
    xs = [numerator * (scale // divisor) for (numerator, divisor), _ in ratios]
    ys = [numerator * (scale // divisor) for _, (numerator, divisor) in ratios]

    count, x_sum, y_sum = len(pairs), sum(xs), sum(ys)
    xx = count * sum(x * x for x in xs) - x_sum * x_sum
    xy = count * sum(x * y for x, y in zip(xs, ys, strict=True)) - x_sum * y_sum
    yy = count * sum(y * y for y in ys) - y_sum * y_sum
    return float(Fraction(yy * xx - xy * xy, xx * count * scale * scale))


class Draws(Struct, frozen=True):
    """
    The mean of values, and the means of the same values with random signs.

    `own` is the mean of the values with their own signs. `means` are the means of the draws, in
    ascending order.
    """

    own: float
    means: Sequence[float]

    def share_below(self) -> float:
        """Return the fraction of draws below `own`; a draw that is equal to `own` counts half."""
        left, right = bisect_left(self.means, self.own), bisect_right(self.means, self.own)
        return (left + right) / 2 / len(self.means)

    def central_range(self, outside: float) -> tuple[float, float]:
        """
        Return the lowest and the highest mean of the central draws.

        The fraction `outside` of all draws lies beyond this range: half of it below, half above.
        """
        skipped = int(len(self.means) * outside / 2)
        return self.means[skipped], self.means[-1 - skipped]

    def bins(self, count: int) -> Sequence[tuple[float, float, int]]:
        """
        Return a histogram of the draws with `count` bins of equal width.

        Each bin is its lower edge, its upper edge, and the number of draws in it. A draw on an edge
        belongs to the upper bin; the last bin includes its upper edge.
        """
        low, high = self.means[0], self.means[-1]
        edges = [low + (high - low) * n / count for n in range(count)] + [high]
        cuts = [0, *(bisect_left(self.means, edge) for edge in edges[1:-1]), len(self.means)]
        return [(edges[n], edges[n + 1], cuts[n + 1] - cuts[n]) for n in range(count)]


def round_estimate(value: float | None) -> Decimal | None:
    """Return `value` rounded to `DECIMAL_PLACES`; None if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return None
    return to_decimal(value)


def to_decimal(value: float) -> Decimal:
    """Return a finite `value` rounded to `DECIMAL_PLACES`; zero has no sign."""
    rounded = Decimal(f"{value:.{DECIMAL_PLACES}f}")
    return rounded or abs(rounded)


def finite_interval(low: float, high: float) -> Interval | None:
    """Return the interval between two numbers; None if either is not finite."""
    if not math.isfinite(low) or not math.isfinite(high):
        return None
    return Interval(to_decimal(low), to_decimal(high))


def to_float(value: Decimal) -> float:
    """Return the float nearest to `value`, limited to the range from -1e308 to 1e308."""
    return max(-_LARGEST, min(_LARGEST, float(value)))


def wilson_interval(hits: int, count: int, outside: float) -> tuple[float, float] | None:
    """
    Return Wilson's confidence interval for the fraction `hits` / `count`, from 0 to 1.

    It misses the true fraction with the probability `outside`. With p = hits/count, it is
    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) (Wilson 1927). None if `count` is 0.
    """
    if not count:
        return None
    z, share = -NormalDist().inv_cdf(outside / 2), hits / count
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count

    low, high = (middle - reach) / scale, (middle + reach) / scale
    # In the next two cases, a bound is exactly 0 or 1, but rounding would miss it.
    if hits == 0:
        low = 0.0
    if hits == count:
        high = 1.0
    return low, high


def hit_rate_pct(
    hits: int, count: int, outside: float
) -> tuple[Decimal, Interval] | tuple[None, None]:
    """
    Return the share `hits` / `count` in percent, and its Wilson interval in percent.

    The interval assumes that picks are independent. They are not, so the true uncertainty is
    larger. Both are None if `count` is 0.
    """
    bounds = wilson_interval(hits, count, outside)
    if bounds is None:
        return None, None
    low, high = bounds
    rate = to_decimal(100 * hits / count)
    return rate, Interval(to_decimal(100 * low), to_decimal(100 * high))


def t_tail_probability(t: float, freedom: int) -> float:
    """
    Return the probability that Student's t lies at least as far from zero as `t`, on both sides.

    Formula: Abramowitz and Stegun 26.7.1.
    """
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


@lru_cache(maxsize=4096)
def t_quantile(outside: float, freedom: int) -> float:
    """
    Return the positive t whose `t_tail_probability` is `outside`.

    Newton's method starts from the quantile of the normal distribution, which is nearer to zero.
    The tail is convex, so each step comes closer to the result, always from the same side.
    """
    t = -NormalDist().inv_cdf(outside / 2)
    log_scale = (
        math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    )
    for _ in range(200):
        density = math.exp(log_scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (t_tail_probability(t, freedom) - outside) / (2 * density)
        t += step
        if abs(step) < _QUANTILE_PRECISION * t:
            break
    return t


def incomplete_beta(x: float, a: float, b: float) -> float:
    """
    Return the regularised incomplete beta function I_x(a, b), for x from 0 to 1.

    Formula: Abramowitz and Stegun 26.5.8.
    """
    if x <= 0 or x >= 1:
        return float(x > 0)
    # For these arguments the continued fraction converges slowly. For the mirrored arguments it
    # converges fast.
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(log_front) / a * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction of the incomplete beta function (Lentz 1976)."""
    numerator, denominator = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            denominator = 1 / _not_zero(1 + term * denominator)
            numerator = _not_zero(1 + term / numerator)
            value *= denominator * numerator
        if abs(denominator * numerator - 1) < _FRACTION_PRECISION:
            break
    return value


def _not_zero(value: float) -> float:
    """Return `value`, or a tiny number in place of zero, as Lentz's method requires."""
    if abs(value) > 1e-300:
        return value
    return 1e-300


def draw_random_signs(values: Sequence[float], seed: str, draws: int) -> Draws | None:
    """
    Return the means of `values` with random signs, drawn `draws` times.

    None if there are no values, or if the sum of their absolute values is not finite. The signs are
    the bits of SHAKE-256. The values form groups of eight, numbered from 0. For group g, SHAKE-256
    gets the text `seed/g`, and byte d of its output has the signs of draw d. The lowest bit of this
    byte is for the first value of the group, and 1 is plus.
    Definition: docs/record.md#every-figure-of-trackrecord.
    """
    if not values or not math.isfinite(sum(map(abs, values))):
        return None
    own, sums = 0.0, [0.0] * draws
    for group, start in enumerate(range(0, len(values), 8)):
        signs = shake_256(f"{seed}/{group}".encode()).digest(draws)
        # The 256 possible sums of eight values are computed once, so a draw is one look-up.
        table = _signed_sums(values[start : start + 8])
        own += table[-1]
        sums = list(map(add, sums, map(table.__getitem__, signs)))
    means = sorted(total / len(values) for total in sums)
    return Draws(own=own / len(values), means=means)


def _signed_sums(values: Iterable[float]) -> list[float]:
    """
    Return the sum of up to eight `values` for each byte of signs.

    The table has 256 sums for fewer values, too: the bits beyond the last value change nothing.
    """
    table = [0.0]
    for value in values:
        table = [total - value for total in table] + [total + value for total in table]
    return table * (256 // len(table))
