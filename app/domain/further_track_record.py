"""
The track record against further benchmarks: the mean excess of the finished picks over each.

It is a figure of its own. No other figure of the track record, and no verdict, depends on it.
Definition: docs/record.md#further-benchmarks.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from typing import Annotated

from msgspec import Meta, Struct

from app.domain.model import Action
from app.domain.returns import DECIMAL_CONTEXT
from app.errors import RecordDamaged

_ZERO = Decimal(0)


class ComparedPick(Struct, frozen=True, array_like=True):
    """
    A finished pick and a further benchmark of its batch, with both returns at the result.

    The fields are in the order in which FURTHER_ROWS of `api.schema` writes them.
    """

    symbol: str
    action: Action
    absolute_return_pct: Decimal
    further_return_pct: Decimal
    vs_benchmark_pct: Decimal

    @property
    def alpha_pct(self) -> Decimal:
        """Return the excess over the further benchmark, in the direction of the pick."""
        return self.action.in_direction(vs_pct(self.absolute_return_pct, self.further_return_pct))

    @property
    def benchmark_alpha_pct(self) -> Decimal:
        """Return the excess over the benchmark, in the direction of the pick."""
        return self.action.in_direction(self.vs_benchmark_pct)

    @property
    def is_finite(self) -> bool:
        """Return whether all returns are numbers."""
        returns = (self.absolute_return_pct, self.further_return_pct, self.vs_benchmark_pct)
        return all(one.is_finite() for one in returns)


class FurtherAverage(Struct, frozen=True):
    """The mean excess of finished picks over a further benchmark."""

    symbol: Annotated[str, Meta(description="The ticker of the further benchmark, such as `RSP`.")]
    mean_alpha_pct: Annotated[
        Decimal,
        Meta(
            description="The mean over these picks of `vsPct` of `PickMetric.vsBenchmarks` in the "
            "direction of the pick, in percentage points: with the sign reversed for a SELL."
        ),
    ]
    benchmark_mean_alpha_pct: Annotated[
        Decimal,
        Meta(
            description="The mean of `alphaPct` over the same picks, so the mean excess over the "
            "benchmark, in percentage points. Compare `meanAlphaPct` with it: other means of the "
            "track record are over all finished picks."
        ),
    ]
    picks: Annotated[
        int,
        Meta(description="The number of finished picks whose batch has this further benchmark."),
    ]


def vs_pct(absolute_return_pct: Decimal, further_return_pct: Decimal) -> Decimal:
    """Return the excess of a share's return over that of a further benchmark, in points."""
    with localcontext(DECIMAL_CONTEXT):
        return absolute_return_pct - further_return_pct


def _mean(values: Sequence[Decimal]) -> Decimal:
    # The values are added in a fixed order, as `app.domain.track_record.ordered_sum` adds them.
    with localcontext(DECIMAL_CONTEXT):
        ordered = sorted(values, key=lambda value: (abs(value), value))
        return sum(ordered, _ZERO) / len(ordered)


def average_further(picks: Iterable[ComparedPick]) -> list[FurtherAverage]:
    """
    Return the mean excess over each further benchmark, in the order of their symbols.

    Raises RecordDamaged for a return that is no number.
    """
    compared: dict[str, list[ComparedPick]] = {}
    for pick in picks:
        if not pick.is_finite:
            raise RecordDamaged(f"a return against {pick.symbol} is no number")
        compared.setdefault(pick.symbol, []).append(pick)
    return [
        FurtherAverage(
            symbol=symbol,
            mean_alpha_pct=_mean([pick.alpha_pct for pick in with_symbol]),
            benchmark_mean_alpha_pct=_mean([pick.benchmark_alpha_pct for pick in with_symbol]),
            picks=len(with_symbol),
        )
        for symbol, with_symbol in sorted(compared.items())
    ]
