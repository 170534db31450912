"""
Corrections of a further benchmark: a late split of its share changes its return.

`jobs.corrections` corrects all other figures, and stores the correction.
"""

from msgspec import Struct

from app.domain import further_benchmarks, measurement
from app.domain.further_benchmarks import Prices
from app.domain.measurement import ShareHistory
from app.domain.model import Batch, Checkpoint, FurtherBenchmark
from app.domain.tickers import TickerHistory
from app.store import closes, splits
from app.store import further_benchmarks as store
from app.store.rows import Conn


class Recomputed(Struct, frozen=True):
    """A row whose figures change: as it is stored, as it must be, and its share's history."""

    stored: FurtherBenchmark
    corrected: FurtherBenchmark
    history: ShareHistory


async def recompute(
    conn: Conn, batch: Batch, *, checkpoint: Checkpoint, ticker: str
) -> Recomputed | None:
    """
    Compute the row of the further benchmark `ticker` again, if it is of this checkpoint.

    None if the batch has no such row, or if its figures stay as they are.
    """
    for row in await store.list_of_batch(conn, batch.id):
        if row.symbol == ticker and row.trading_day == checkpoint.trading_day:
            return await _recompute_row(conn, row)
    return None


async def _recompute_row(conn: Conn, row: FurtherBenchmark) -> Recomputed | None:
    ids = (row.further_initial_close_id, row.further_close_id)
    readings = {close.id: close for close in await closes.list_by_ids(conn, ids)}
    prices = Prices(
        initial=readings[row.further_initial_close_id],
        close=readings[row.further_close_id],
        in_force=await splits.list_in_force(conn, TickerHistory.unchanged(row.symbol)),
    )
    corrected = measurement.with_changes(row, further_benchmarks.with_figures(row, prices))
    if corrected == row:
        return None
    return Recomputed(row, corrected, prices.history)
