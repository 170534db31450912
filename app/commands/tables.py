"""The record, and other rows, as tables on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any
from uuid import UUID

from msgspec import Struct
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from api.damage import DAMAGE_ADVICE, DAMAGE_PREFIX
from api.engine import Engine
from api.schema import Facts, schema
from app.commands.terminal import format_new_york
from app.database.pools import Pool
from app.database.queries import snapshot_fetcher
from app.domain.calendar import MEASURED_DAYS, Calendar, checkpoint_date, due_at
from app.domain.closures import (
    checkpoint_day,
    closure_sentences,
    find_result,
)
from app.domain.further_track_record import vs_pct
from app.domain.lost_answers import Question, question_sentences
from app.domain.model import (
    CHECKPOINT_DAYS,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    Dividend,
    FurtherBenchmark,
    Pick,
    PickMetric,
    Split,
)
from app.domain.returns import format_decimal
from app.domain.timestamps import Timestamp, is_before
from app.errors import RECORD_DAMAGED_ADVICE, RecordDamaged, Refused
from app.store import (
    batches,
    checkpoints,
    closes,
    dividends,
    further_benchmarks,
    generations,
    rehearsed,
    splits,
    timestamps,
)
from app.web.formatting import MINUS, TOO_LARGE_ERRORS, rounded, signed

console = Console(soft_wrap=True, highlight=False)

# Printed beside a figure that contains an unusual move.
_UNUSUAL = "!"

# What is printed of a batch, as a query. The API checks these fields for damage.
_PRINTED_FIELDS = """query ($runDate: Date!, $series: String!) {
    batchOn(runDate: $runDate, series: $series) {
        status late failureReason failure benchmarkSymbol benchmarkInitialPrice result { day }
        furtherBenchmarks { symbol position price splitFactor returnPct }
        picks { ticker pickedAs action initialPrice result { hit } }
        checkpoints {
            day checkpointDate tradingDay status skipReason note skippedAt
            benchmarkPrice benchmarkSplitFactor benchmarkReturnPct benchmarkUnusualMove
            benchmarkTotalReturnPct
            metrics {
                currentPrice splitFactor absoluteReturnPct vsBenchmarkPct hit vsBenchmarkTotalPct
                unusualMove ended renamed close { id }
            }
        }
    }
}"""


class _BatchRecord(Struct, frozen=True):
    """
    A batch with its rows.

    `metrics` has the figures of the picks, by the checkpoint's id and then by the pick's id.
    `tickers` has the ticker of each reading that the figures use, by the reading's id.
    `days_with_price` are the days for which a price of the benchmark was read. `stamps` are the
    tokens that cover the batch, earliest first; `has_stamps` says whether the record has any.
    `opens_at` is the first open at which the picks could be traded. `further` are the further
    benchmarks that were measured, in the order of the setting.
    """

    batch: Batch
    picks: Sequence[Pick]
    checkpoints: Sequence[Checkpoint]
    metrics: Mapping[UUID, Mapping[UUID, PickMetric]]
    tickers: Mapping[UUID, str]
    days_with_price: frozenset[date]
    questions: Sequence[Question]
    rehearsed: bool
    stamps: Sequence[Timestamp]
    has_stamps: bool
    opens_at: datetime
    further: Sequence[FurtherBenchmark]

    @property
    def has_unusual_move(self) -> bool:
        """Return whether a figure holds an unusual move."""
        if any(checkpoint.benchmark_unusual_move for checkpoint in self.checkpoints):
            return True
        for by_pick in self.metrics.values():
            if any(metric.unusual_move for metric in by_pick.values()):
                return True
        return False


async def show(pool: Pool, batch: Batch, sessions: Calendar, now: datetime) -> None:
    """
    Print a batch: its picks, the changes of their shares by day, and whether each call is right.

    If the next figures were due before `now`, they are called overdue. In a rehearsal they are not,
    because its time is simulated. If the API calls the batch damaged, or a number is too large to
    be shown, nothing is printed, and RecordDamaged is raised.
    """
    await _refuse_damaged(pool, batch, now)
    try:
        record = await _read_batch(pool, batch, sessions)
        # All lines are made before the first one is printed, so that nothing is printed of a
        # damaged batch.
        lines = list(_batch_lines(record, sessions, now))
    except TOO_LARGE_ERRORS:
        raise RecordDamaged(
            f"{DAMAGE_PREFIX}{batch.run_date} has a number too large to be shown. "
            f"{RECORD_DAMAGED_ADVICE}"
        ) from None
    for line in lines:
        console.print(line)


async def _refuse_damaged(pool: Pool, batch: Batch, now: datetime) -> None:
    """Raise RecordDamaged if the API reports the batch as damaged: it must not look complete."""
    async with snapshot_fetcher(pool) as fetch:
        facts = Facts(
            version("alpha-monday"),
            rehearsed=False,
            now=lambda: now,
            series={batch.series},
        )
        engine = Engine(schema, fetch, facts, max_documents=1, quiet=True)
        result = await engine.execute(
            _PRINTED_FIELDS, {"runDate": str(batch.run_date), "series": batch.series}
        )
    if result.damage:
        raise RecordDamaged(result.damage.replace(DAMAGE_ADVICE, RECORD_DAMAGED_ADVICE))


async def _read_batch(pool: Pool, batch: Batch, sessions: Calendar) -> _BatchRecord:
    async with pool.connection() as conn:
        picks = await batches.list_picks(conn, batch.id)
        taken = await checkpoints.list_for_batch(conn, batch.id)
        metrics = {}
        for checkpoint in taken:
            rows = await checkpoints.list_metrics(conn, checkpoint.id)
            metrics[checkpoint.id] = {row.pick_id: row for row in rows}
        close_ids = {pick.initial_close_id for pick in picks}
        for by_pick in metrics.values():
            close_ids |= {row.close_id for row in by_pick.values() if row.close_id}
        readings = await closes.list_by_ids(conn, close_ids)
        return _BatchRecord(
            batch=batch,
            picks=picks,
            checkpoints=taken,
            metrics=metrics,
            tickers={reading.id: reading.ticker for reading in readings},
            days_with_price=await closes.list_days_read(
                conn,
                batch.benchmark_symbol,
                first=batch.run_date,
                last=checkpoint_date(batch.run_date, CHECKPOINT_DAYS),
            ),
            questions=await generations.list_questions(conn, batch.series, batch.run_date),
            rehearsed=await rehearsed.is_rehearsed_on_connection(conn),
            stamps=await timestamps.list_covering(conn, batch.id),
            has_stamps=await timestamps.exists(conn),
            opens_at=await timestamps.get_first_open(conn, batch, sessions),
            further=await further_benchmarks.list_of_batch(conn, batch.id),
        )


def _batch_lines(record: _BatchRecord, sessions: Calendar, now: datetime) -> Iterator[Table | str]:
    """Yield everything that is printed of a batch, in order."""
    batch = record.batch
    late = ", late" if batch.late else ""
    yield f"Batch of Monday {batch.run_date} ({batch.series}): {batch.status}{late}"
    if record.has_stamps and not batch.failure:
        yield _stamp_line(record, now)
    if record.rehearsed:
        yield "REHEARSED: every price and every word of it is made up."
    yield from question_sentences(record.questions)
    if batch.failure:
        yield f"{batch.failure_reason}: {batch.failure}"
        return
    yield _checkpoint_table(record)
    yield (
        "Day 0 shows prices. Later days show each share's change since day 0, for BUY and SELL "
        "alike."
    )
    yield from _call_lines(record)
    yield from _total_lines(record)
    yield from _further_lines(record)
    yield from _closure_sentences(record)
    if batch.status == BatchStatus.ACTIVE:
        # The days of a rehearsal are simulated, so they cannot be compared with the real time.
        yield _next_figures_line(record, sessions, None if record.rehearsed else now)
    if record.has_unusual_move:
        yield (
            f"{_UNUSUAL} The figure contains a move of a tenth or more in one session that no "
            "known split explains."
        )


def _stamp_line(record: _BatchRecord, now: datetime) -> str:
    """Return the line about the timestamp of a batch, in a record that has timestamps."""
    if not record.stamps:
        is_open_coming = now < record.opens_at and not record.batch.late
        return "Not stamped yet." if is_open_coming else "Not stamped before the open."
    first = record.stamps[0]
    when = "before" if is_before(record.stamps, record.opens_at) else "after"
    return (
        f"Stamped {format_new_york(first.at)}, {when} the open: {first.authority}, entry "
        f"{first.seq} of the journal."
    )


def _checkpoint_table(record: _BatchRecord) -> Table:
    """Return a table with a row for each checkpoint and a column for each pick."""
    pick_columns = [_pick_title(pick, record.tickers) for pick in record.picks]
    table = _table(["day", "date", record.batch.benchmark_symbol, *pick_columns, "note"])
    for checkpoint in record.checkpoints:
        cells = [
            str(checkpoint.day),
            str(checkpoint.checkpoint_date),
            _benchmark_cell(record.batch, checkpoint),
            *_pick_cells(record, checkpoint),
            _note(checkpoint),
        ]
        table.add_row(*cells)
    return table


def _benchmark_cell(batch: Batch, checkpoint: Checkpoint) -> str:
    if checkpoint.day == 0:
        cell = f"{batch.benchmark_initial_price:f}"
    else:
        cell = _percent(checkpoint.benchmark_return_pct)
    if checkpoint.benchmark_unusual_move:
        return f"{cell} {_UNUSUAL}"
    return cell


def _pick_cells(record: _BatchRecord, checkpoint: Checkpoint) -> list[str]:
    """Return the picks' initial prices for day 0, and their changes for later days."""
    if checkpoint.day == 0:
        return [format_decimal(pick.initial_price) for pick in record.picks]
    metrics = record.metrics[checkpoint.id]
    if not metrics:
        return ["" for _ in record.picks]
    return [_change(metrics[pick.id], pick, record.tickers) for pick in record.picks]


def _call_lines(record: _BatchRecord) -> Iterator[str]:
    """
    Yield a line for each pick: whether its call is right.

    This is decided by the batch's result, or by the last computed checkpoint if there is no result.
    """
    batch = record.batch
    measured = [
        checkpoint
        for checkpoint in record.checkpoints
        if checkpoint.day and checkpoint.status == CheckpointStatus.COMPUTED
    ]
    if not measured:
        yield "No call is right or wrong yet: there are no figures."
        return
    last = measured[-1]
    result = find_result(batch, record.checkpoints, record.days_with_price)
    if result:
        yield f"The result, of day {last.day}, closes of {last.trading_day}:"
    elif batch.status == BatchStatus.COMPLETED:
        yield f"Unresolved: the last session has no figures. The last ones are of day {last.day}:"
    so_far = " so far" if batch.status == BatchStatus.ACTIVE else ""
    for pick in record.picks:
        metric = record.metrics[last.id][pick.id]
        title = _pick_title(pick, record.tickers)
        points = pick.action.in_direction(metric.vs_benchmark_pct)
        is_right = "right" if points > 0 else "wrong"
        mark = ""
        if metric.unusual_move or last.benchmark_unusual_move:
            mark = f" {_UNUSUAL}"
        yield (
            f"{title}: {is_right}{so_far}, {_in_favour(metric.vs_benchmark_pct, pick)} points in "
            f"the call's favour against {batch.benchmark_symbol}{mark}"
        )


def _total_lines(record: _BatchRecord) -> Iterator[str]:
    """Yield a line with the points of each call with dividends, if the benchmark's are known."""
    result = find_result(record.batch, record.checkpoints, record.days_with_price)
    if result is None or result.benchmark_total_return_pct is None:
        return
    points = []
    for pick in record.picks:
        excess = record.metrics[result.id][pick.id].vs_benchmark_total_pct
        title = _pick_title(pick, record.tickers)
        known = "not known"
        if excess is not None:
            known = _in_favour(excess, pick)
        points.append(f"{title} {known}")
    symbol, total = record.batch.benchmark_symbol, result.benchmark_total_return_pct
    yield (
        f"With dividends, points in the calls' favour against {symbol} ({_percent(total)}): "
        f"{', '.join(points)}"
    )


def _further_lines(record: _BatchRecord) -> Iterator[str]:
    """Yield a line for each further benchmark: its return, and the points of each call over it."""
    result = find_result(record.batch, record.checkpoints, record.days_with_price)
    if result is None:
        return
    for further in record.further:
        points = []
        for pick in record.picks:
            metric = record.metrics[result.id][pick.id]
            excess = vs_pct(metric.absolute_return_pct, further.further_return_pct)
            points.append(f"{_pick_title(pick, record.tickers)} {_in_favour(excess, pick)}")
        yield (
            f"Against {further.symbol} ({_percent(further.further_return_pct)}): "
            f"{', '.join(points)} points in the calls' favour"
        )


def _in_favour(excess: Decimal, pick: Pick) -> str:
    """Return points in the call's favour: a SELL gains what its share loses to the benchmark."""
    return signed(pick.action.in_direction(excess)).replace(MINUS, "-")


def _closure_sentences(record: _BatchRecord) -> Iterator[str]:
    """Return sentences about closed days that decide the result."""
    taken, days_with_price = record.checkpoints, record.days_with_price
    result = find_result(record.batch, taken, days_with_price)
    return closure_sentences(
        [checkpoint_day(checkpoint, days_with_price) for checkpoint in taken],
        result_day=result.day if result else None,
        is_completed=record.batch.status == BatchStatus.COMPLETED,
    )


def _note(checkpoint: Checkpoint) -> str:
    """Return the note of a checkpoint; for a retake, the reason why it was skipped at first."""
    if checkpoint.status == CheckpointStatus.COMPUTED and checkpoint.skipped_at:
        return f"skipped at first: {checkpoint.note or checkpoint.skip_reason}"
    if checkpoint.note:
        return checkpoint.note
    if checkpoint.day == 0:
        return f"closes of {checkpoint.trading_day}"
    return ""


def _next_figures_line(record: _BatchRecord, sessions: Calendar, now: datetime | None) -> str:
    """Return a line about the next checkpoint with figures; `now` is None in a rehearsal."""
    run_date = record.batch.run_date
    taken_days = {checkpoint.day for checkpoint in record.checkpoints}
    open_days = [day for day in MEASURED_DAYS if day not in taken_days]
    day = sessions.first_measured_day(run_date, open_days)
    if day is None:
        end = format_new_york(due_at(run_date, CHECKPOINT_DAYS))
        return f"Next figures: none, no session is left. The fortnight ends on {end}."
    due = due_at(run_date, day)
    overdue = ""
    if now and due < now:
        overdue = "overdue since "
    return f"Next figures: day {day}, {overdue}{format_new_york(due)}."


def _table(columns: Sequence[str]) -> Table:
    """Return a table that wraps long cells."""
    # rich would cut them off on a narrow terminal.
    return Table(*(Column(name, overflow="fold") for name in columns))


def _pick_title(pick: Pick, tickers: Mapping[UUID, str]) -> str:
    title = f"{pick.action} {pick.ticker}"
    picked_as = tickers[pick.initial_close_id]
    if picked_as != pick.ticker:
        title += f" (picked as {picked_as})"
    return title


def _change(metric: PickMetric, pick: Pick, tickers: Mapping[UUID, str]) -> str:
    """Return a pick's change with its marks; `tickers` has the ticker of each reading."""
    ticker = pick.ticker
    if metric.close_id:
        ticker = tickers[metric.close_id]
    parts = [_percent(metric.absolute_return_pct)]
    if metric.unusual_move:
        parts.append(_UNUSUAL)
    if metric.ended:
        parts.append("ended")
    if ticker != tickers[pick.initial_close_id]:
        parts.append("renamed")
    return " ".join(parts)


def _percent(value: Any) -> str:
    return "" if value is None else f"{rounded(value):+f} %"


async def show_closes(pool: Pool, ticker: str) -> None:
    """
    Print every reading of a ticker's prices, splits and dividends.

    If a session has several readings, which differ, all of them but the first are marked.
    """
    async with pool.connection() as conn:
        readings = await closes.list_by_ticker(conn, ticker)
        factors = await splits.list_readings(conn, ticker)
        paid = await dividends.list_readings(conn, ticker)
    if not readings:
        raise Refused(
            f"There are no readings of {ticker}: it is neither a pick nor a benchmark of this "
            "record."
        )
    sources = sorted({reading.source for reading in readings})
    console.print(f"{ticker}, as read from {', '.join(sources)}")
    console.print(_closes_table(readings))
    if factors:
        console.print(_splits_table(factors))
    if paid:
        console.print(_dividends_table(paid))


def _closes_table(readings: Sequence[Close]) -> Table:
    table = _table(["session", "close", "open", "read at (UTC)", ""])
    earlier = None
    for reading in readings:
        mark = ""
        if earlier is not None and earlier.trading_day == reading.trading_day:
            mark = "read differently"
        cells = [
            str(reading.trading_day),
            format_decimal(reading.close),
            "" if reading.open is None else format_decimal(reading.open),
            f"{reading.read_at:%Y-%m-%d %H:%M:%S}",
            mark,
        ]
        table.add_row(*cells)
        earlier = reading
    return table


def _splits_table(factors: Sequence[Split]) -> Table:
    table = _table(["split from", "factor", "source", "read at (UTC)"])
    for split in factors:
        cells = [
            str(split.effective_date),
            format_decimal(split.factor),
            split.source,
            f"{split.read_at:%Y-%m-%d %H:%M:%S}",
        ]
        table.add_row(*cells)
    return table


def _dividends_table(readings: Sequence[Dividend]) -> Table:
    table = _table(["dividend of", "amount", "source", "read at (UTC)"])
    for dividend in readings:
        cells = [
            str(dividend.ex_date),
            format_decimal(dividend.amount),
            dividend.source,
            f"{dividend.read_at:%Y-%m-%d %H:%M:%S}",
        ]
        table.add_row(*cells)
    return table


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """
    Print rows as a table on a terminal.

    If the output is not a terminal, each row is a line with tabs between its cells, for grep and
    cut. A dash stands for an empty cell.
    """
    if not console.is_terminal:
        console.file.writelines("\t".join(cell or "-" for cell in row) + "\n" for row in rows)
        return
    table = _table(columns)
    for row in rows:
        # As plain text: rich would read brackets as markup.
        table.add_row(*map(Text, row))
    console.print(table)
