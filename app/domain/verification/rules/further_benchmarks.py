"""
The rule `further-benchmark`: which further benchmarks a batch has, and when they are measured.

Its prices, splits and figures follow the rules of all figures, in the modules `figures`, `prices`
and `counted_splits`. Definition: docs/journal.md#checkpoints.
"""

from app.domain.calendar import new_york_date
from app.domain.model import (
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    FurtherBenchmark,
    JournalKind,
    SkipReason,
    further_benchmark_id,
)
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import ParsedEntry
from app.domain.verification.state import JournalState, locate


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a wrong row; add the further benchmarks of a new batch to the state."""
    if entry.kind is JournalKind.BATCH:
        settings = state.record_calendar.newest
        for batch in entry.rows(Batch):
            state.further_of_batch[batch.id] = (settings and settings.further_benchmarks) or ()
    for further in entry.rows(FurtherBenchmark):
        if entry.kind is JournalKind.EXTENSION:
            problem = _row_problem(further, state) or _readings_problem(entry, further)
        else:
            problem = _corrected_day_problem(entry, further)
        if problem is not None:
            raise discrepancy(
                Rule.FURTHER_BENCHMARK, f"{locate(entry, state, further)}: {problem}."
            )


def _row_problem(further: FurtherBenchmark, state: JournalState) -> str | None:
    batch = state.batch(further.batch_id)
    named = state.further_of_batch.get(batch.id, ())
    if further.symbol not in named:
        return f"the newest settings up to its batch do not name {further.symbol}"
    place = named.index(further.symbol) + 1
    if further.position != place:
        return f"position is {further.position}, but its place in these settings is {place}"
    id = further_benchmark_id(batch.id, further.symbol)
    if further.id != id:
        return f"id is {further.id}, but its batch and its symbol give {id}"
    if batch.status is not BatchStatus.COMPLETED:
        return "its batch is not completed"
    result = _find_result(batch, state)
    if result is None:
        return "its batch has no result"
    if further.trading_day != result.trading_day:
        return (
            f"trading_day is {further.trading_day}, but that of the result is {result.trading_day}"
        )
    read_at = state.splits_read_at.get(further.symbol)
    if read_at is None or new_york_date(read_at) <= further.trading_day:
        return (
            f"no entry states a response with splits of {further.symbol} that was read after the "
            f"session of {further.trading_day}"
        )
    return None


def _find_result(batch: Batch, state: JournalState) -> Checkpoint | None:
    """Return the last checkpoint that was not skipped as a closed day, if it is computed."""
    days = [
        checkpoint
        for checkpoint in state.checkpoints_of(batch.id)
        if checkpoint.day > 0 and checkpoint.skip_reason is not SkipReason.MARKET_CLOSED
    ]
    if not days or days[-1].status is not CheckpointStatus.COMPUTED:
        return None
    return days[-1]


def _readings_problem(entry: ParsedEntry, further: FurtherBenchmark) -> str | None:
    held = [close.id for close in entry.rows(Close)]
    if held != [further.further_initial_close_id, further.further_close_id]:
        return "the closes of the entry are not its two readings, the initial one first"
    return None


def _corrected_day_problem(entry: ParsedEntry, further: FurtherBenchmark) -> str | None:
    checkpoint = entry.first_row(Checkpoint)
    if checkpoint is None or checkpoint.day == 0:
        return "it is corrected in an entry that is not about a day after day 0"
    if checkpoint.trading_day != further.trading_day:
        return (
            f"it is corrected in an entry about day {checkpoint.day}, but its figures are those of "
            f"the session of {further.trading_day}"
        )
    return None
