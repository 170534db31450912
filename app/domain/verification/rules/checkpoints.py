"""The checkpoints of a batch: their days, sessions, skips and metrics."""

from datetime import timedelta

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
from app.domain.verification.entries import Entry, Mention
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.rules.tolerance import ABOUT
from app.domain.verification.state import State, where

# What only a computed checkpoint has.
_FIGURES = (
    "trading_day",
    "benchmark_price",
    "benchmark_close_id",
    "benchmark_split_factor",
    "benchmark_return_pct",
    "benchmark_unusual_move",
)
# What a computed checkpoint of day 1 or later must have.
_NEEDED = _FIGURES[:-1]
_OF_A_SKIP = ("skip_reason", "note", "skipped_at")


def check(entry: Entry, state: State) -> None:
    """Refuse an entry that breaks one of these rules; raises Misfit."""
    for mention in entry.mentions_of(Checkpoint):
        _check_checkpoint(entry, state, mention)
    _check_metrics(entry, state)
    _check_completed(entry, state)


def _check_checkpoint(entry: Entry, state: State, mention: Mention) -> None:
    checkpoint = mention.row
    assert isinstance(checkpoint, Checkpoint)
    before = mention.before if isinstance(mention.before, Checkpoint) else None
    place = where(entry, state, checkpoint)
    batch = state.batches.get(checkpoint.batch_id)
    if batch is None:
        raise misfit(Rule.BELONGS, f"{place}: no entry up to this one mentions its batch.")
    _check_day(place, state, batch, checkpoint)
    _check_due(place, batch, checkpoint)
    _check_session(place, state, checkpoint)
    if checkpoint.status is CheckpointStatus.SKIPPED:
        _check_skipped(place, state, checkpoint, before)
    elif checkpoint.day > 0:
        _check_computed(place, checkpoint, before)


def _check_day(place: str, state: State, batch: Batch, checkpoint: Checkpoint) -> None:
    if not 0 <= checkpoint.day <= CHECKPOINT_DAYS:
        raise misfit(Rule.DAY, f"{place}: day is {checkpoint.day}, but days go from 0 to {CHECKPOINT_DAYS}.")
    expected = calendar.checkpoint_date(batch.run_date, checkpoint.day)
    if checkpoint.checkpoint_date != expected:
        raise misfit(
            Rule.DAY,
            f"{place}: checkpoint_date is {checkpoint.checkpoint_date}, but its batch and day give {expected}.",
        )
    first = state.days_of[batch.id][checkpoint.day]
    if first != checkpoint.id:
        raise misfit(Rule.DAY, f"{place} is checkpoint {checkpoint.id}, but checkpoint {first} is of that day already.")
    if batch.status is BatchStatus.FAILED:
        raise misfit(Rule.DAY, f"{place} is a checkpoint of a batch that failed, but such a batch has none.")


def _check_due(place: str, batch: Batch, checkpoint: Checkpoint) -> None:
    due = calendar.due_at(batch.run_date, checkpoint.day)
    if checkpoint.taken_at < due:
        raise misfit(Rule.DUE, f"{place}: taken_at is {checkpoint.taken_at}, but it was not due before {due}.")


def _check_session(place: str, state: State, checkpoint: Checkpoint) -> None:
    if checkpoint.day == 0:
        return
    eve = checkpoint.checkpoint_date - timedelta(days=1)
    is_skipped = checkpoint.status is CheckpointStatus.SKIPPED
    is_closed = checkpoint.skip_reason is SkipReason.MARKET_CLOSED
    if state.sessions.is_session(eve):
        if is_closed:
            raise misfit(
                Rule.SESSION,
                f"{place}: skip_reason is MARKET_CLOSED, but {eve} was a session. {state.if_closed(eve)}",
            )
        if not is_skipped and checkpoint.trading_day != eve:
            raise misfit(Rule.SESSION, f"{place}: trading_day is {checkpoint.trading_day}, but must be {eve}.")
        return
    # A closure may have been announced after the morning had looked for prices in vain.
    is_excused = eve in state.sessions.closed
    if not is_skipped or not (is_closed or is_excused):
        found = f"skip_reason is {checkpoint.skip_reason}" if is_skipped else f"status is {checkpoint.status}"
        raise misfit(
            Rule.SESSION, f"{place}: {found}, but {eve} was no session, so it must be skipped with MARKET_CLOSED."
        )


def _check_skipped(place: str, state: State, checkpoint: Checkpoint, before: Checkpoint | None) -> None:
    for field in _FIGURES:
        if getattr(checkpoint, field) is not None:
            raise misfit(Rule.SKIPPED, f"{place}: it is skipped, but has {field}.")
    if state.metrics_of.get(checkpoint.id):
        raise misfit(Rule.SKIPPED, f"{place}: it is skipped, but has metrics.")
    if checkpoint.skip_reason is None or checkpoint.skipped_at is None:
        missing = "skip_reason" if checkpoint.skip_reason is None else "skipped_at"
        raise misfit(Rule.SKIPPED, f"{place}: it is skipped, but has no {missing}.")
    if before is None and checkpoint.skipped_at != checkpoint.taken_at:
        raise misfit(
            Rule.SKIPPED,
            f"{place}: skipped_at is {checkpoint.skipped_at}, but taken_at is {checkpoint.taken_at}.",
        )
    last = calendar.at(checkpoint.checkpoint_date, calendar.ASK_AGAIN[-1])
    if checkpoint.skip_reason is SkipReason.MISSING_CLOSE and checkpoint.skipped_at < last:
        raise misfit(
            Rule.SKIPPED,
            f"{place}: skipped_at is {checkpoint.skipped_at}, but closes were to be asked for until {last}.",
        )


def _check_computed(place: str, checkpoint: Checkpoint, before: Checkpoint | None) -> None:
    for field in _NEEDED:
        if getattr(checkpoint, field) is None:
            raise misfit(Rule.COMPUTED, f"{place}: it is computed, but has no {field}.")
    for field in _OF_A_SKIP:
        now = getattr(checkpoint, field)
        was = getattr(before, field) if before else None
        if now != was:
            found = "absent" if now is None else now
            earlier = "it was not skipped before" if was is None else f"it was skipped with {was}"
            raise misfit(Rule.COMPUTED, f"{place}: {field} is {found}, but {earlier}.")
    if checkpoint.skipped_at is not None and checkpoint.taken_at < checkpoint.skipped_at - ABOUT:
        raise misfit(
            Rule.COMPUTED,
            f"{place}: taken_at is {checkpoint.taken_at}, but it was skipped at {checkpoint.skipped_at} first.",
        )


def _check_metrics(entry: Entry, state: State) -> None:
    """Refuse an entry that computes a checkpoint without a metric of each pick, and a second metric of a pick."""
    for metric in entry.rows(PickMetric):
        first = state.metrics_of[metric.checkpoint_id][metric.pick_id]
        if first != metric.id:
            raise misfit(
                Rule.EVERY_METRIC,
                f"{where(entry, state, metric)} is metric {metric.id}, but metric {first} is of that pick and day "
                "already.",
            )
        checkpoint = state.checkpoints.get(metric.checkpoint_id)
        if checkpoint and checkpoint.status is CheckpointStatus.SKIPPED:
            raise misfit(Rule.SKIPPED, f"{where(entry, state, metric)} is a metric, but that day is skipped.")
        if checkpoint and checkpoint.day == 0:
            raise misfit(Rule.EVERY_METRIC, f"{where(entry, state, metric)} is a metric, but day 0 has none.")
    for mention in entry.mentions_of(Checkpoint):
        now, before = mention.row, mention.before
        assert isinstance(now, Checkpoint)
        was_computed = isinstance(before, Checkpoint) and before.status is CheckpointStatus.COMPUTED
        if now.day > 0 and now.status is CheckpointStatus.COMPUTED and not was_computed:
            _check_each_pick(entry, state, now)


def _check_each_pick(entry: Entry, state: State, checkpoint: Checkpoint) -> None:
    measured = {metric.pick_id for metric in entry.rows(PickMetric) if metric.checkpoint_id == checkpoint.id}
    picks = state.picks_of.get(checkpoint.batch_id, [])
    place = where(entry, state, checkpoint)
    for pick in picks:
        if pick not in measured:
            ticker = state.pick(pick).ticker
            raise misfit(Rule.EVERY_METRIC, f"{place}: it is computed, but has no metric of {ticker}.")
    if others := sorted(map(str, measured - {*picks})):
        raise misfit(Rule.EVERY_METRIC, f"{place}: it has a metric of {others[0]}, which is no pick of its batch.")


def _check_completed(entry: Entry, state: State) -> None:
    """Refuse a batch that is completed before its last checkpoint is there, and one that is not from then on."""
    touched = {batch.id for batch in entry.rows(Batch)}
    touched |= {row.batch_id for row in entry.rows(Checkpoint)}
    touched |= {row.batch_id for row in entry.rows(Pick)}
    for id in sorted(touched):
        batch = state.batches.get(id)
        if batch is None or not state.is_made(batch):
            continue
        there, all_days = len(state.days_of.get(id, ())), 1 + CHECKPOINT_DAYS
        if (batch.status is BatchStatus.COMPLETED) != (there == all_days):
            raise misfit(
                Rule.COMPLETED,
                f"{where(entry, state, batch)}: status is {batch.status}, but {there} of its {all_days} checkpoints "
                "are there.",
            )
