"""
What can be inferred from a few numbers, and how surely: intervals, a line through points, and random signs.

Floats, because every figure here is an estimate whose own uncertainty begins in its first digits. What leaves is
rounded to `PLACES` decimal places, and is None where a formula has no answer: never NaN, never infinite.

- Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.
- Student (1908), The probable error of a mean. Biometrika 6, 1-25. Its tail by the regularised incomplete beta
  function (Abramowitz and Stegun 26.7.1 and 26.5.8), whose continued fraction is worked out as in Lentz, W. J. (1976),
  Applied Optics 15, 668-671.
- Welford, B. P. (1962), Note on a method for calculating corrected sums of squares and products. Technometrics 4, 419.
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

PLACES = 6

# What is left of squares of numbers that are all the same, by rounding, relative to the squares themselves.
_NOTHING = 1e-20

# Where so little is left of the squares, relative to them, too many of their digits have cancelled out.
_CANCELLED = 1e-6


class Interval(Struct, frozen=True):
    """Between which values something lies, with the confidence that its field says."""

    low: Annotated[Decimal, Meta(description="Its lower end, to six decimal places.")]
    high: Annotated[Decimal, Meta(description="Its upper end, to six decimal places.")]


class Estimate(Struct, frozen=True):
    """
    A value, its standard error, and how many more observations than unknowns there were.

    The error is None where it cannot be told: of observations that are all alike, or beyond all sense.
    """

    value: float
    error: float | None
    freedom: int

    def within(self, outside: float) -> Interval | None:
        """Return the interval that misses the true value with the probability `outside`, if it can be told."""
        if self.error is None:
            return None
        reach = t_quantile(outside, self.freedom) * self.error
        return interval(self.value - reach, self.value + reach)

    def outside(self) -> float | None:
        """Return how probable a value so far from zero, on either side, is when the true one is zero."""
        return None if self.error is None else t_tails(self.value / self.error, self.freedom)


class Points(Struct, frozen=True):
    """
    Points (x, y), as their number, means, sums of squares and products about the means, and largest coordinate.

    Adding one at a time keeps the digits that sums of plain squares would lose (Welford 1962). `pairs` begins with
    these points. Others that were made of these share the list, and may have added theirs to it.
    """

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0
    most: float = 0.0
    pairs: list[tuple[float, float]] = []

    def plus(self, x: float, y: float) -> "Points":
        """Return these points and one more."""
        is_newest = len(self.pairs) == self.count
        pairs = self.pairs if is_newest else self.pairs[: self.count]
        pairs.append((x, y))
        count = self.count + 1
        dx, dy = x - self.x, y - self.y
        new_x, new_y = self.x + dx / count, self.y + dy / count
        return Points(
            count,
            new_x,
            new_y,
            self.xx + dx * (x - new_x),
            self.xy + dx * (y - new_y),
            self.yy + dy * (y - new_y),
            max(self.most, abs(x), abs(y)),
            pairs,
        )

    def mean(self) -> Estimate | None:
        """Return the mean of y (Student 1908); None for fewer than two points."""
        return self._estimate(self.y, self.yy, 1 / self.count, 1) if self.count > 1 else None

    def slope(self) -> float | None:
        """Return by how much y grows with x, by least squares; None where x does not vary."""
        varies = self.count > 1 and self.xx > self._nothing()
        return self.xy / self.xx if varies and math.isfinite(self.xy / self.xx) else None

    def intercept(self) -> Estimate | None:
        """
        Return y where x is zero, on the least squares line: the mean of y less what follows from x.

        None for fewer than three points, or where x does not vary.
        """
        if self.count < 3 or (slope := self.slope()) is None:
            return None
        squares = self._off_the_line(slope)
        return self._estimate(self.y - slope * self.x, squares, 1 / self.count + self.x * self.x / self.xx, 2)

    def _off_the_line(self, slope: float) -> float:
        """
        Return the sum of squares of the distances, in y, from the least squares line.

        Of points that lie almost on the line, the difference of two floats is only what rounding left of both. Then it
        is computed with whole numbers, without rounding.
        """
        squares = self.yy - slope * self.xy
        if not math.isfinite(squares) or squares > _CANCELLED * self.yy:
            return squares
        return _exactly_off_the_line(self.pairs[: self.count])

    def _nothing(self) -> float:
        return _NOTHING * self.count * self.most * self.most

    def _estimate(self, value: float, squares: float, weight: float, unknowns: int) -> Estimate:
        freedom = self.count - unknowns
        square = squares / freedom * weight
        told = squares > self._nothing() and 0 < square < math.inf
        return Estimate(value, math.sqrt(square) if told else None, freedom)


def _exactly_off_the_line(pairs: Sequence[tuple[float, float]]) -> float:
    """
    Return the sum of squares of the distances, in y, from the least squares line of points whose x vary.

    Every float is a whole number, divided by a power of two; of all of these, the largest is taken out.
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
    """The mean of values as they are, and in order the means that they have with random signs."""

    own: float
    means: Sequence[float]

    def below(self) -> float:
        """Return which share of the draws is below the values' own mean; a draw that equals it counts half."""
        left, right = bisect_left(self.means, self.own), bisect_right(self.means, self.own)
        return (left + right) / 2 / len(self.means)

    def middle(self, outside: float) -> tuple[float, float]:
        """Return between which means all but the share `outside` of the draws lie, half of that on either side."""
        skipped = int(len(self.means) * outside / 2)
        return self.means[skipped], self.means[-1 - skipped]

    def bins(self, count: int) -> Sequence[tuple[float, float, int]]:
        """Return how many draws lie in each of `count` equal parts of their range: from, to, how many."""
        low, high = self.means[0], self.means[-1]
        edges = [low + (high - low) * n / count for n in range(count)] + [high]
        cuts = [0, *(bisect_left(self.means, edge) for edge in edges[1:-1]), len(self.means)]
        return [(edges[n], edges[n + 1], cuts[n + 1] - cuts[n]) for n in range(count)]


def rounded(value: float | None) -> Decimal | None:
    """Return `value` to `PLACES` decimal places; None for what is no finite number."""
    return None if value is None or not math.isfinite(value) else fixed(value)


def fixed(value: float) -> Decimal:
    """Return a finite `value` to `PLACES` decimal places; zero has no sign."""
    found = Decimal(f"{value:.{PLACES}f}")
    return found or abs(found)


def interval(low: float, high: float) -> Interval | None:
    """Return the interval between two numbers; None if either is not finite."""
    return Interval(fixed(low), fixed(high)) if math.isfinite(low) and math.isfinite(high) else None


def number(value: Decimal) -> float:
    """Return the float next to `value`, or the largest there is."""
    return max(-1e308, min(1e308, float(value)))


def wilson(hits: int, count: int, outside: float) -> tuple[float, float] | None:
    """
    Return the interval of a share of `hits` in `count`, which misses the true one with the probability `outside`.

    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = hits/count (Wilson 1927). None without a count.
    """
    if not count:
        return None
    z, share = -NormalDist().inv_cdf(outside / 2), hits / count
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    low = 0.0 if hits == 0 else (middle - reach) / whole
    return low, 1.0 if hits == count else (middle + reach) / whole


def t_tails(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies at least as far from zero as `t`, on either side."""
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


@lru_cache(maxsize=4096)
def t_quantile(outside: float, freedom: int) -> float:
    """
    Return the t beyond which, on both sides together, Student's t lies with the probability `outside`.

    By Newton's method from the normal distribution's, which is nearer to zero: the tail is convex, so that each step
    comes closer from the same side.
    """
    t = -NormalDist().inv_cdf(outside / 2)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    for _ in range(200):
        density = math.exp(log_scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (t_tails(t, freedom) - outside) / (2 * density)
        t += step
        if abs(step) < 1e-13 * t:
            break
    return t


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for x from 0 to 1."""
    if x <= 0 or x >= 1:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image does not
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
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
        if abs(denominator * numerator - 1) < 1e-15:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def random_signs(values: Sequence[float], seed: str, draws: int) -> Draws | None:
    """
    Return the means of `values` with a random sign each, drawn `draws` times; None without values that can be added.

    The signs are the bits of SHAKE-256: for the g-th eight values (from 0), byte d of its output on the text `seed/g`
    holds those of draw d, the lowest bit for the first value, 1 for plus. A table of the 256 sums that eight values can
    have makes a draw one look-up.
    """
    if not values or not math.isfinite(sum(map(abs, values))):
        return None
    own, sums = 0.0, [0.0] * draws
    for group, start in enumerate(range(0, len(values), 8)):
        signs, table = shake_256(f"{seed}/{group}".encode()).digest(draws), _signed(values[start : start + 8])
        own, sums = own + table[-1], list(map(add, sums, map(table.__getitem__, signs)))
    return Draws(own / len(values), sorted(total / len(values) for total in sums))


def _signed(values: Iterable[float]) -> list[float]:
    """Return the sum of `values` for each byte of signs; bits beyond the last value change nothing."""
    table = [0.0]
    for value in values:
        table = [total - value for total in table] + [total + value for total in table]
    return table * (256 // len(table))
