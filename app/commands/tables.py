"""The record, and whatever else has rows, as tables on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from api.damage import ADVICE, BEGINNING
from api.engine import Engine
from api.schema import Facts, schema
from app.commands.terminal import local
from app.database import rehearsed
from app.database.pools import Pool
from app.database.queries import standing
from app.domain.calendar import FORTNIGHT, Calendar, due_at
from app.domain.model import (
    CHECKPOINT_DAYS,
    Action,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Pick,
    PickMetric,
    SkipReason,
)
from app.domain.returns import plain
from app.errors import VERIFY, RecordDamaged, Refused
from app.store import batches, checkpoints, closes, splits
from app.web.formatting import MINUS, TOO_LARGE, rounded, signed

out = Console(soft_wrap=True, highlight=False)

_UNUSUAL = "!"

# What is printed of a Monday, as the API has it.
_SHOWN = """query ($runDate: Date!, $series: String!) { batchOn(runDate: $runDate, series: $series) {
    status late failureReason failure benchmarkSymbol benchmarkInitialPrice result { day }
    picks { ticker pickedAs action initialPrice result { hit } }
    checkpoints {
        day checkpointDate tradingDay status skipReason note skippedAt benchmarkPrice benchmarkSplitFactor
        benchmarkReturnPct benchmarkUnusualMove
        metrics { currentPrice splitFactor absoluteReturnPct vsBenchmarkPct hit unusualMove ended renamed close { id } }
    } } }"""


async def show(pool: Pool, batch: Batch, sessions: Calendar, now: datetime) -> None:
    """
    Print a batch: its picks, how their shares stood day by day, and whether each call is right.

    Figures that were due before `now` are overdue; what is made up knows no such time. Raises RecordDamaged, and
    prints nothing, where the API calls the batch damaged or a number is too large to be shown.
    """
    await _refuse_damaged(pool, batch, now)
    try:
        told = await _of_a_batch(pool, batch, sessions, now)
    except TOO_LARGE:
        raise RecordDamaged(f"{BEGINNING}{batch.run_date} has a number too large to be shown. {VERIFY}") from None
    for one in told:
        out.print(one)


async def _of_a_batch(pool: Pool, batch: Batch, sessions: Calendar, now: datetime) -> list[Table | str]:
    """Return all that is printed of a batch, so that nothing is printed of one that cannot be shown whole."""
    async with pool.connection() as conn:
        picks = await batches.picks_of(conn, batch.id)
        taken = await checkpoints.of(conn, batch.id)
        metrics = {one.id: {m.pick_id: m for m in await checkpoints.metrics_of(conn, one.id)} for one in taken}
        named = {pick.initial_close_id for pick in picks}
        named |= {one.close_id for day in metrics.values() for one in day.values() if one.close_id}
        tickers = {one.id: one.ticker for one in await closes.among(conn, named)}
        made_up = await rehearsed.is_rehearsed(pool)
    late = ", late" if batch.late else ""
    told: list[Table | str] = [f"Batch of Monday {batch.run_date} ({batch.series}): {batch.status}{late}"]
    if made_up:
        told.append("REHEARSED: every price and every word of it is made up.")
    if batch.failure:
        told.append(f"{batch.failure_reason}: {batch.failure}")
        return told
    table = _table("day", "date", batch.benchmark_symbol, *(_head(pick, tickers) for pick in picks), "note")
    for one in taken:
        cells = [_change(metrics[one.id][pick.id], pick, tickers) if metrics[one.id] else "" for pick in picks]
        if one.day == 0:
            cells = [plain(pick.initial_price) for pick in picks]
        benchmark = f"{batch.benchmark_initial_price:f}" if one.day == 0 else _percent(one.benchmark_return_pct)
        if one.benchmark_unusual_move:
            benchmark = f"{benchmark} {_UNUSUAL}"
        table.add_row(str(one.day), str(one.checkpoint_date), benchmark, *cells, _note(one))
    told.append(table)
    told.append("In the table: each share's change since day 0, whatever the call.")
    told += _calls(batch, picks, taken, metrics, tickers)
    if batch.status == BatchStatus.ACTIVE:
        told.append(_next_figures(batch, taken, sessions, None if made_up else now))
    marks = [metric.unusual_move for day in metrics.values() for metric in day.values()]
    if any([*marks, *(one.benchmark_unusual_move for one in taken)]):
        told.append(
            f"{_UNUSUAL} The figure holds a move of a tenth or more in one session that no known split explains."
        )
    return told


async def _refuse_damaged(pool: Pool, batch: Batch, now: datetime) -> None:
    """Refuse a Monday that the API calls damaged: what is printed of it must not look whole."""
    async with standing(pool) as fetch:
        facts = Facts(version("alpha-monday"), rehearsed=False, now=lambda: now)
        engine = Engine(schema, fetch, facts, kept=1, quiet=True)
        answer = await engine.answer(_SHOWN, {"runDate": str(batch.run_date), "series": batch.series})
    if answer.damaged:
        raise RecordDamaged(answer.damaged.replace(ADVICE, VERIFY))


def _calls(
    batch: Batch,
    picks: Sequence[Pick],
    taken: Sequence[Checkpoint],
    metrics: Mapping[UUID, Mapping[UUID, PickMetric]],
    tickers: Mapping[UUID, str],
) -> Iterator[str]:
    """Say of each pick whether its call is right: at the result, or so far."""
    computed = [one for one in taken if one.day and one.status == CheckpointStatus.COMPUTED]
    if not computed:
        yield "No call is right or wrong yet: there are no figures."
        return
    last = computed[-1]
    result = result_of(batch, taken)
    if result:
        yield f"The result, of day {last.day}, closes of {last.trading_day}:"
    elif batch.status == BatchStatus.COMPLETED:
        yield f"Unresolved: the last session has no figures. So far, on day {last.day}:"
    so_far = "" if result else " so far"
    for pick in picks:
        metric = metrics[last.id][pick.id]
        favour = -metric.vs_benchmark_pct if pick.action is Action.SELL else metric.vs_benchmark_pct
        right = "right" if favour > 0 else "wrong"
        against = f"points in the call's favour against {batch.benchmark_symbol}"
        mark = f" {_UNUSUAL}" if metric.unusual_move or last.benchmark_unusual_move else ""
        points = f"{signed(favour).replace(MINUS, '-')} {against}{mark}"
        yield f"{_head(pick, tickers)}: {right}{so_far}, {points}"


def result_of(batch: Batch, taken: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return a completed batch's checkpoint of the last session before day 14; None if that one was skipped."""
    sessions = [one for one in taken if one.day and one.skip_reason != SkipReason.MARKET_CLOSED]
    if batch.status != BatchStatus.COMPLETED or not sessions:
        return None
    last = max(sessions, key=lambda one: one.day)
    return last if last.status == CheckpointStatus.COMPUTED else None


def _note(one: Checkpoint) -> str:
    """Return what there is to say of a day; why it was skipped at first, where it got its figures later."""
    if one.status == CheckpointStatus.COMPUTED and one.skipped_at:
        return f"skipped at first: {one.note or one.skip_reason}"
    return one.note or ("" if one.day else f"closes of {one.trading_day}")


def _next_figures(batch: Batch, taken: Sequence[Checkpoint], sessions: Calendar, now: datetime | None) -> str:
    days = {one.day for one in taken}
    day = sessions.first_with_figures(batch.run_date, [day for day in FORTNIGHT if day not in days])
    if day is None:
        end = local(due_at(batch.run_date, CHECKPOINT_DAYS))
        return f"Next figures: none, no session is left. The fortnight ends on {end}."
    due = due_at(batch.run_date, day)
    overdue = "overdue since " if now and due < now else ""
    return f"Next figures: day {day}, {overdue}{local(due)}."


def _table(*columns: str) -> Table:
    """Return a table that is complete on any terminal: what is too long for a narrow one is folded, never cut off."""
    return Table(*(Column(name, overflow="fold") for name in columns))


def _head(pick: Pick, tickers: Mapping[UUID, str]) -> str:
    picked_as = tickers[pick.initial_close_id]
    return f"{pick.action} {pick.ticker}" + (f" (picked as {picked_as})" if picked_as != pick.ticker else "")


def _change(metric: PickMetric, pick: Pick, tickers: Mapping[UUID, str]) -> str:
    """Return a pick's change on a day, with its marks; `tickers` are those of the readings."""
    under = tickers[metric.close_id] if metric.close_id else pick.ticker
    renamed = under != tickers[pick.initial_close_id]
    marks = [_UNUSUAL] * metric.unusual_move + ["ended"] * metric.ended + ["renamed"] * renamed
    return " ".join([_percent(metric.absolute_return_pct), *marks])


def _percent(value: Any) -> str:
    return "" if value is None else f"{rounded(value):+f} %"


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
