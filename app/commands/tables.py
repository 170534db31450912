"""The record, and whatever else has rows, as tables on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from app.database import rehearsed
from app.database.pools import Pool
from app.domain.model import Batch, PickMetric
from app.domain.returns import plain
from app.errors import Refused
from app.store import batches, checkpoints, closes, splits

out = Console(soft_wrap=True, highlight=False)

_UNUSUAL = "!"


async def show(pool: Pool, batch: Batch) -> None:
    """Print a batch: its picks, and how they stood day by day."""
    async with pool.connection() as conn:
        picks = await batches.picks_of(conn, batch.id)
        taken = await checkpoints.of(conn, batch.id)
        metrics = {one.id: {m.pick_id: m for m in await checkpoints.metrics_of(conn, one.id)} for one in taken}
        made_up = await rehearsed.is_rehearsed(pool)
    out.print(f"Batch of Monday {batch.run_date} ({batch.series}): {batch.status}{', late' if batch.late else ''}")
    if made_up:
        out.print("REHEARSED: every price and every word of it is made up.")
    if batch.failure:
        out.print(f"{batch.failure_reason}: {batch.failure}")
        return
    table = _table("day", "date", batch.benchmark_symbol, *(f"{pick.action} {pick.ticker}" for pick in picks), "note")
    for one in taken:
        cells = [_change(metrics[one.id][pick.id]) if metrics[one.id] else "" for pick in picks]
        if one.day == 0:
            cells = [plain(pick.initial_price) for pick in picks]
        benchmark = f"{batch.benchmark_initial_price:f}" if one.day == 0 else _percent(one.benchmark_return_pct)
        if one.benchmark_unusual_move:
            benchmark = f"{benchmark} {_UNUSUAL}"
        note = one.note or ("" if one.day else f"closes of {one.trading_day}")
        table.add_row(str(one.day), str(one.checkpoint_date), benchmark, *cells, note)
    out.print(table)
    marks = [metric.unusual_move for day in metrics.values() for metric in day.values()]
    if any([*marks, *(one.benchmark_unusual_move for one in taken)]):
        out.print(f"{_UNUSUAL} The figure holds a move of a tenth or more in one session that no split explains.")


def _table(*columns: str) -> Table:
    """Return a table that is complete on any terminal: what is too long for a narrow one is folded, never cut off."""
    return Table(*(Column(name, overflow="fold") for name in columns))


def _change(metric: PickMetric) -> str:
    marks = [_UNUSUAL] * metric.unusual_move + ["ended"] * metric.ended
    return " ".join([_percent(metric.absolute_return_pct), *marks])


def _percent(value: Any) -> str:
    return "" if value is None else f"{value:+.2f} %"


async def show_closes(pool: Pool, ticker: str) -> None:
    """Print every reading of a ticker's prices and splits; a second reading that differs is marked."""
    async with pool.connection() as conn:
        readings = await closes.of(conn, ticker)
        factors = await splits.readings(conn, ticker)
    if not readings:
        raise Refused(f"Nothing was read of {ticker}: it is no pick and no benchmark of this record.")
    out.print(f"{ticker}, as read from {', '.join(sorted({one.source for one in readings}))}")
    table = _table("session", "close", "open", "read at (UTC)", "")
    before = None
    for one in readings:
        again = before is not None and before.trading_day == one.trading_day
        opened = "" if one.open is None else plain(one.open)
        mark = "read differently" if again else ""
        table.add_row(str(one.trading_day), plain(one.close), opened, f"{one.read_at:%Y-%m-%d %H:%M:%S}", mark)
        before = one
    out.print(table)
    if factors:
        table = _table("split from", "factor", "source", "read at (UTC)")
        for split in factors:
            table.add_row(
                str(split.effective_date), plain(split.factor), split.source, f"{split.read_at:%Y-%m-%d %H:%M:%S}"
            )
        out.print(table)


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table on a terminal, anywhere else a line each, with tabs between, for grep and cut."""
    if not out.is_terminal:
        out.file.writelines("\t".join(cell or "-" for cell in row) + "\n" for row in rows)
        return
    table = _table(*columns)
    for row in rows:
        table.add_row(*map(Text, row))  # as it stands: brackets are no markup here
    out.print(table)
