"""
The results of a track record after the costs of trading that a reader assumes.

No figure of the record contains costs, because the cost of a trade differs from reader to reader.
So a reader names a cost, in basis points of the price and for one way. Every pick is then charged
twice, for getting in and for getting out. The benchmark is charged nothing.
Formulas: docs/record.md#costs.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from typing import Annotated

from msgspec import Meta, Struct

from app.domain.returns import DECIMAL_CONTEXT
from app.domain.statistics import SIGNIFICANCE, Interval, hit_rate_pct

# The highest cost of one way that can be asked for: the whole price.
MAX_BPS = 10_000
# How many percentage points a pick loses for one basis point of costs: one way in, one way out.
_POINTS_PER_BPS = Decimal("0.02")

CostBps = Annotated[
    int,
    Meta(
        ge=0,
        le=MAX_BPS,
        description="The cost of one way, of getting in or of getting out, in basis points of the "
        f"price: a whole number from 0 to {MAX_BPS:,}. A basis point is a hundredth of a percent.",
    ),
]


class AfterCosts(Struct, frozen=True):
    """
    The results of the finished picks if each trade had cost the same. Every pick loses the cost
    twice, for getting in and for getting out, and the benchmark loses nothing. No other figure of
    the track record contains costs.
    """

    bps: Annotated[
        int, Meta(description="The assumed cost of one way, in basis points of the price.")
    ]
    cost_pct: Annotated[
        Decimal,
        Meta(description="What each pick loses, in percentage points: 2 times `bps` / 100."),
    ]
    mean_alpha_pct: Annotated[
        Decimal | None,
        Meta(
            description="The mean `alphaPct` of the finished picks at the result, less `costPct`, "
            "in percentage points. Null if there are no finished picks."
        ),
    ]
    median_alpha_pct: Annotated[
        Decimal | None,
        Meta(
            description="The median `alphaPct` of the finished picks at the result, less "
            "`costPct`, in percentage points. Null if there are no finished picks."
        ),
    ]
    mean_directional_return_pct: Annotated[
        Decimal | None,
        Meta(
            description="The mean `directionalReturnPct` of the finished picks at the result, less "
            "`costPct`, in percent. Null if there are no finished picks."
        ),
    ]
    sum_pct: Annotated[
        Decimal | None,
        Meta(
            description="The sum of the whole curve, less `costPct` for each of its batches, in "
            "percentage points. Null if there are no finished picks."
        ),
    ]
    hits: Annotated[
        int,
        Meta(description="The number of finished picks whose `alphaPct` is above `costPct`."),
    ]
    hit_rate_pct: Annotated[
        Decimal | None,
        Meta(
            description="The share of these hits among finished picks, in percent, to six decimal "
            "places. Null if there are no finished picks."
        ),
    ]
    hit_rate_interval: Annotated[
        Interval | None,
        Meta(
            description="The 95 % Wilson interval of `hitRatePct`, in percent. It treats picks as "
            "independent, which they are not, so it is too narrow. Null if there are no finished "
            "picks."
        ),
    ]


class BeforeCosts(Struct, frozen=True):
    """
    The figures from which the results after any cost follow. All are without costs.

    The means and the median are those of the finished picks, and `curve_sum_pct` is the sum of the
    curve over `batch_count` batches. They are None without finished picks. `last_hits` has the
    `last_hit_bps` of each finished pick, in ascending order: with it, the work for one cost does
    not grow with the number of picks.
    """

    mean_alpha_pct: Decimal | None
    median_alpha_pct: Decimal | None
    mean_directional_return_pct: Decimal | None
    curve_sum_pct: Decimal | None
    batch_count: int
    last_hits: Sequence[int]

    def __call__(self, bps: int) -> AfterCosts:
        """
        Return the results after a cost of `bps` basis points for one way, from 0 to MAX_BPS.

        The API calls the value of a field with the arguments of the field.
        """
        with localcontext(DECIMAL_CONTEXT):
            cost = _POINTS_PER_BPS * bps
            curve_cost = cost * self.batch_count
        hits = len(self.last_hits) - bisect_left(self.last_hits, bps)
        rate, interval = hit_rate_pct(hits, len(self.last_hits), SIGNIFICANCE)
        return AfterCosts(
            bps=bps,
            cost_pct=cost,
            mean_alpha_pct=_less(self.mean_alpha_pct, cost),
            median_alpha_pct=_less(self.median_alpha_pct, cost),
            mean_directional_return_pct=_less(self.mean_directional_return_pct, cost),
            sum_pct=_less(self.curve_sum_pct, curve_cost),
            hits=hits,
            hit_rate_pct=rate,
            hit_rate_interval=interval,
        )

    @property
    def break_even_bps(self) -> Decimal | None:
        """
        Return the cost of one way, in basis points, that leaves a mean alpha of zero.

        It is negative if the picks lose without costs, and None without finished picks.
        """
        if self.mean_alpha_pct is None:
            return None
        with localcontext(DECIMAL_CONTEXT):
            return self.mean_alpha_pct / _POINTS_PER_BPS


def _less(figure: Decimal | None, cost: Decimal) -> Decimal | None:
    if figure is None:
        return None
    with localcontext(DECIMAL_CONTEXT):
        return figure - cost


def last_hit_bps(alpha_pct: Decimal) -> int:
    """
    Return the highest whole cost, in basis points for one way, at which a pick is still a hit.

    A pick is a hit if its alpha is above what it loses by costs. The result is -1 if it is none
    even without costs, and MAX_BPS if it is one at every cost that can be asked for.
    """
    if alpha_pct <= 0:
        return -1
    if alpha_pct > _POINTS_PER_BPS * MAX_BPS:
        return MAX_BPS
    # The quotient of `divmod` is whole, and rounding does not affect whether there is a
    # remainder.
    with localcontext(DECIMAL_CONTEXT):
        whole, remainder = divmod(alpha_pct, _POINTS_PER_BPS)
    if remainder:
        return int(whole)
    # At this cost, the pick loses exactly its alpha.
    return int(whole) - 1


def sorted_last_hits(alphas: Iterable[Decimal]) -> Sequence[int]:
    """Return the `last_hit_bps` of each pick in ascending order, in two bytes for each."""
    return array("h", sorted(map(last_hit_bps, alphas)))
