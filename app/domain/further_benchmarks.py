"""
Further benchmarks, which are shown beside the benchmark.

With them, a preference for small companies is not taken for skill.

The setting BENCHMARKS names them after the benchmark. A batch is compared with those that the
newest settings up to its BATCH entry name. Each of them has one row, with its return from the
batch's baseline session to the session of its result. No other figure depends on it. Definition:
docs/record.md#further-benchmarks.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

from msgspec import Struct
from msgspec.structs import replace

from app.domain import calendar, measurement, returns, splits
from app.domain.measurement import ShareHistory
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    FurtherBenchmark,
    Split,
    further_benchmark_id,
)
from app.domain.tickers import TickerHistory

# For how long after a Monday the further benchmarks of its batches are still measured. One response
# of the provider has the closes of some twenty weeks.
_AWAITED_FOR = timedelta(weeks=20)

_DAY = timedelta(days=1)


class Prices(Struct, frozen=True, kw_only=True):
    """
    What the return of a further benchmark depends on.

    `initial` is its reading of the baseline session, `close` that of the session of the result.
    `in_force` are all its splits in force.
    """

    initial: Close
    close: Close
    in_force: Sequence[Split]

    @property
    def history(self) -> ShareHistory:
        """Return the share's history, as the other figures of a checkpoint have it."""
        history = ShareHistory(TickerHistory.unchanged(self.close.ticker), self.in_force)
        return history.with_used(self.initial, self.close)

    @property
    def counted(self) -> list[Split]:
        """Return the splits that the return counts."""
        return splits.effective_between(
            self.in_force,
            after=splits.basis_date(self.initial.source, self.initial.trading_day),
            through=splits.basis_date(self.close.source, self.close.trading_day),
        )


def measure(
    batch: Batch,
    checkpoint: Checkpoint,
    *,
    symbol: str,
    position: int,
    prices: Prices,
    at: datetime,
) -> FurtherBenchmark:
    """
    Return the row of a further benchmark of a batch.

    `checkpoint` is the result of the batch. The row's time is `at`, or that of the newest reading
    if it is later.
    """
    assert checkpoint.trading_day, "a computed checkpoint has a session"
    factor = returns.ONE
    row = FurtherBenchmark(
        id=further_benchmark_id(batch.id, symbol),
        batch_id=batch.id,
        symbol=symbol,
        position=position,
        trading_day=checkpoint.trading_day,
        further_initial_price=prices.initial.close,
        further_initial_close_id=prices.initial.id,
        further_price=prices.close.close,
        further_close_id=prices.close.id,
        further_split_factor=factor,
        further_return_pct=factor,
        measured_at=measurement.not_before_readings(
            at, (prices.initial, prices.close), prices.counted
        ),
    )
    return with_figures(row, prices)


def with_figures(row: FurtherBenchmark, prices: Prices) -> FurtherBenchmark:
    """Return a row with the figures that its prices and splits give."""
    factor = splits.total_factor(prices.counted, date.min, date.max)
    return replace(
        row,
        further_split_factor=factor,
        further_return_pct=returns.return_pct(row.further_initial_price, row.further_price, factor),
    )


def oldest_awaited(now: datetime) -> date:
    """Return the first day of the Mondays whose further benchmarks may still be measured."""
    return calendar.new_york_date(now) - _AWAITED_FOR


def splits_asked_from(session: date) -> datetime:
    """
    Return the time from which a response with splits is late enough for a result of `session`.

    It is the end of the session's day in New York.
    """
    return calendar.from_new_york(session + _DAY, time())
