"""The rules of checkpoints: days, sessions, skips and metrics (docs/journal.md#checkpoints)."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from app.domain import calendar
from app.domain.model import (
    CHECKPOINT_DAYS,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Pick,
    PickMetric,
    SkipReason,
)
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import Mention, ParsedEntry
from app.domain.verification.rules import closures
from app.domain.verification.rules.tolerance import CLOCK_TOLERANCE
from app.domain.verification.state import JournalState, has_figures, locate

# The columns that only a computed checkpoint has.
_FIGURE_COLUMNS = (
    "trading_day",
    "benchmark_price",
    "benchmark_close_id",
    "benchmark_split_factor",
    "benchmark_return_pct",
    "benchmark_unusual_move",
)
# The columns that a computed checkpoint of day 1 or later must have: all except the benchmark's
# mark (benchmark_unusual_move). Earlier versions did not write the mark. The rule `unusual-move`
# decides where it may be absent.
_REQUIRED_COLUMNS = _FIGURE_COLUMNS[:-1]
_SKIP_COLUMNS = ("skip_reason", "note", "skipped_at")


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an entry that breaks one of the rules of checkpoints."""
    for mention in entry.mentions_of(Checkpoint):
        _check_checkpoint(entry, state, mention)
    _check_metrics(entry, state)
    _check_completed(entry, state)


def _check_checkpoint(entry: ParsedEntry, state: JournalState, mention: Mention) -> None:
    checkpoint, before = mention.row, mention.before
    assert isinstance(checkpoint, Checkpoint)
    assert before is None or isinstance(before, Checkpoint)
    place = locate(entry, state, checkpoint)
    batch = state.batches.get(checkpoint.batch_id)
    if batch is None:
        raise discrepancy(Rule.BELONGS, f"{place}: no entry up to this one mentions its batch.")
    _check_day(place, state, batch=batch, checkpoint=checkpoint)
    _check_due(place, batch, checkpoint)
    if state.is_sealed:
        locate_checkpoint = partial(locate, entry, state, checkpoint)
        _check_sealed_session(locate_checkpoint, state, batch=batch, checkpoint=checkpoint)
    else:
        _check_session(place, state, checkpoint)
    if checkpoint.status is CheckpointStatus.SKIPPED:
        _check_skipped(place, state, checkpoint=checkpoint, before=before)
    elif checkpoint.day > 0:
        _check_computed(place, checkpoint, before)


def _check_day(place: str, state: JournalState, *, batch: Batch, checkpoint: Checkpoint) -> None:
    if not 0 <= checkpoint.day <= CHECKPOINT_DAYS:
        raise discrepancy(
            Rule.DAY, f"{place}: day is {checkpoint.day}, but days go from 0 to {CHECKPOINT_DAYS}."
        )
    expected = calendar.checkpoint_date(batch.run_date, checkpoint.day)
    if checkpoint.checkpoint_date != expected:
        raise discrepancy(
            Rule.DAY,
            f"{place}: checkpoint_date is {checkpoint.checkpoint_date}, but must be {expected}.",
        )
    # `days_of` has, for each day, the checkpoint that was mentioned first. A second checkpoint of
    # the same day has another id.
    first = state.days_of[batch.id][checkpoint.day]
    if first != checkpoint.id:
        raise discrepancy(
            Rule.DAY,
            f"{place} is checkpoint {checkpoint.id}, but the batch already has checkpoint {first} "
            "of that day.",
        )
    if batch.status is BatchStatus.FAILED:
        raise discrepancy(
            Rule.DAY, f"{place} is a checkpoint of a failed batch, but a failed batch has none."
        )


def _check_due(place: str, batch: Batch, checkpoint: Checkpoint) -> None:
    due = calendar.due_at(batch.run_date, checkpoint.day)
    if checkpoint.taken_at < due:
        raise discrepancy(
            Rule.DUE,
            f"{place}: taken_at is {checkpoint.taken_at}, but the checkpoint is due at {due}.",
        )


def _check_session(place: str, state: JournalState, checkpoint: Checkpoint) -> None:
    if checkpoint.day == 0:
        return
    day_before = checkpoint.checkpoint_date - timedelta(days=1)
    if state.sessions.is_session(day_before):
        _check_after_session(place, state, checkpoint)
    else:
        _check_after_closure(place, state, checkpoint)


def _check_sealed_session(
    place: Callable[[], str], state: JournalState, *, batch: Batch, checkpoint: Checkpoint
) -> None:
    """Check a checkpoint against the calendar of a sealed record."""
    if checkpoint.day == 0:
        return
    day_before = checkpoint.checkpoint_date - timedelta(days=1)
    if not state.record_calendar.may_be_session(day_before):
        _check_after_closure(place(), state, checkpoint)
        return
    if not state.record_calendar.is_struck_off(day_before):
        _check_after_session(place(), state, checkpoint)
        return
    if checkpoint.skip_reason is SkipReason.MARKET_CLOSED:
        closures.choose(
            state,
            rule=Rule.SESSION,
            place=place,
            benchmark=batch.benchmark_symbol,
            possible=[day_before, None],
            chosen=[None],
        )
    else:
        _check_after_session(place(), state, checkpoint)


def _check_after_session(place: str, state: JournalState, checkpoint: Checkpoint) -> None:
    day_before = checkpoint.checkpoint_date - timedelta(days=1)
    if checkpoint.skip_reason is SkipReason.MARKET_CLOSED:
        raise discrepancy(
            Rule.SESSION,
            f"{place}: skip_reason is MARKET_CLOSED, but {day_before} was a session. "
            f"{state.closure_advice(day_before)}",
        )
    is_skipped = checkpoint.status is CheckpointStatus.SKIPPED
    if not is_skipped and checkpoint.trading_day != day_before:
        raise discrepancy(
            Rule.SESSION,
            f"{place}: trading_day is {checkpoint.trading_day}, but must be {day_before}.",
        )


def _check_after_closure(place: str, state: JournalState, checkpoint: Checkpoint) -> None:
    day_before = checkpoint.checkpoint_date - timedelta(days=1)
    problem = f"status is {checkpoint.status}"
    if checkpoint.status is CheckpointStatus.SKIPPED:
        # A closure on short notice may have been announced after the job had requested prices
        # without success. Then each skip reason is allowed.
        is_short_notice = not state.is_sealed and day_before in state.sessions.closed
        if is_short_notice or checkpoint.skip_reason is SkipReason.MARKET_CLOSED:
            return
        problem = f"skip_reason is {checkpoint.skip_reason}"
    raise discrepancy(
        Rule.SESSION,
        f"{place}: {problem}, but {day_before} was no session, so it must be skipped with "
        "MARKET_CLOSED.",
    )


def _check_skipped(
    place: str, state: JournalState, *, checkpoint: Checkpoint, before: Checkpoint | None
) -> None:
    for field in _FIGURE_COLUMNS:
        if getattr(checkpoint, field) is not None:
            raise discrepancy(Rule.SKIPPED, f"{place}: it is skipped, but has {field}.")
    if state.metrics_of.get(checkpoint.id):
        raise discrepancy(Rule.SKIPPED, f"{place}: it is skipped, but has metrics.")
    if checkpoint.skip_reason is None:
        raise discrepancy(Rule.SKIPPED, f"{place}: it is skipped, but has no skip_reason.")
    if checkpoint.skipped_at is None:
        raise discrepancy(Rule.SKIPPED, f"{place}: it is skipped, but has no skipped_at.")
    # If a skip is mentioned again, its skipped_at is the time of the first skip.
    if before is None and checkpoint.skipped_at != checkpoint.taken_at:
        raise discrepancy(
            Rule.SKIPPED,
            f"{place}: skipped_at is {checkpoint.skipped_at}, but taken_at is "
            f"{checkpoint.taken_at}.",
        )
    # A missing close is given up only after the last request on the checkpoint's date.
    last = calendar.from_new_york(checkpoint.checkpoint_date, calendar.PRICE_RETRY_TIMES[-1])
    if checkpoint.skip_reason is SkipReason.MISSING_CLOSE and checkpoint.skipped_at < last:
        raise discrepancy(
            Rule.SKIPPED,
            f"{place}: skipped_at is {checkpoint.skipped_at}, but closes must be requested "
            f"until {last}.",
        )


def _check_computed(place: str, checkpoint: Checkpoint, before: Checkpoint | None) -> None:
    for field in _REQUIRED_COLUMNS:
        if getattr(checkpoint, field) is None:
            raise discrepancy(Rule.COMPUTED, f"{place}: it is computed, but has no {field}.")
    # A checkpoint that was skipped at first keeps the columns of its skip.
    for field in _SKIP_COLUMNS:
        now, was = getattr(checkpoint, field), getattr(before, field, None)
        if now != was:
            raise discrepancy(
                Rule.COMPUTED, f"{place}: {field} is {_describe_skip_change(now, was)}."
            )
    skipped_at = checkpoint.skipped_at
    if skipped_at is not None and checkpoint.taken_at < skipped_at - CLOCK_TOLERANCE:
        raise discrepancy(
            Rule.COMPUTED,
            f"{place}: taken_at is {checkpoint.taken_at}, before skipped_at, {skipped_at}.",
        )


def _describe_skip_change(now: object, was: object) -> str:
    shown, earlier = now, f"it was skipped with {was}"
    if now is None:
        shown = "absent"
    if was is None:
        earlier = "it was not skipped before"
    return f"{shown}, but {earlier}"


def _check_metrics(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy for metrics that must not exist, and for missing metrics.

    An entry that computes a checkpoint has one metric of each pick.
    """
    for metric in entry.rows(PickMetric):
        _check_metric(locate(entry, state, metric), state, metric)
    for mention in entry.mentions_of(Checkpoint):
        now, before = mention.row, mention.before
        assert isinstance(now, Checkpoint)
        was_computed = isinstance(before, Checkpoint) and before.status is CheckpointStatus.COMPUTED
        if has_figures(now) and not was_computed:
            _check_each_pick(entry, state, now)


def _check_metric(place: str, state: JournalState, metric: PickMetric) -> None:
    first = state.metrics_of[metric.checkpoint_id][metric.pick_id]
    if first != metric.id:
        raise discrepancy(
            Rule.EVERY_METRIC,
            f"{place} is metric {metric.id}, but metric {first} of that pick and day exists.",
        )
    checkpoint = state.checkpoints.get(metric.checkpoint_id)
    if checkpoint and checkpoint.status is CheckpointStatus.SKIPPED:
        raise discrepancy(Rule.SKIPPED, f"{place} is a metric, but that day is skipped.")
    if checkpoint and checkpoint.day == 0:
        raise discrepancy(Rule.EVERY_METRIC, f"{place} is a metric, but day 0 has none.")


def _check_each_pick(entry: ParsedEntry, state: JournalState, checkpoint: Checkpoint) -> None:
    measured = {
        metric.pick_id for metric in entry.rows(PickMetric) if metric.checkpoint_id == checkpoint.id
    }
    picks = state.picks_of.get(checkpoint.batch_id, [])
    place = locate(entry, state, checkpoint)
    for pick in picks:
        if pick not in measured:
            ticker = state.pick(pick).ticker
            raise discrepancy(
                Rule.EVERY_METRIC, f"{place}: it is computed, but has no metric of {ticker}."
            )
    foreign_picks = sorted(map(str, measured - {*picks}))
    if foreign_picks:
        raise discrepancy(
            Rule.EVERY_METRIC,
            f"{place}: it has a metric of {foreign_picks[0]}, which is no pick of its batch.",
        )


def _check_completed(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy for a batch that is completed too early, or not completed in time.

    A batch is completed by the entry of its last checkpoint.
    """
    # Only rows of these three types can change what is compared below: the status of a batch, the
    # number of its checkpoints, and whether it has picks.
    batch_ids = {batch.id for batch in entry.rows(Batch)}
    batch_ids |= {row.batch_id for row in entry.rows(Checkpoint)}
    batch_ids |= {row.batch_id for row in entry.rows(Pick)}
    for id in sorted(batch_ids):
        batch = state.batches.get(id)
        if batch is None or not state.has_picks(batch):
            continue
        stored, expected = len(state.days_of.get(id, ())), 1 + CHECKPOINT_DAYS
        is_completed = batch.status is BatchStatus.COMPLETED
        if is_completed != (stored == expected):
            raise discrepancy(
                Rule.COMPLETED,
                f"{locate(entry, state, batch)}: status is {batch.status}, but the journal has "
                f"{stored} of its {expected} checkpoints.",
            )
