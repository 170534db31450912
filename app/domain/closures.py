"""
Sessions that were struck off, and what a reader is told where that decides a result.

A session is struck off if it is a session by the exchange's ordinary calendar, and the record says
that the exchange was closed on it. That happens on short notice (the setting MARKET_CLOSED_DAYS).
It moves a result to an earlier day. If a price of the benchmark was read for that session, the
exchange was not closed: the session counts, and its checkpoint has no figures.
docs/record.md#what-happens has the rule.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta

from msgspec import Struct

from app.domain.calendar import ORDINARY_CALENDAR, is_weekday
from app.domain.model import Batch, BatchStatus, Checkpoint, CheckpointStatus, SkipReason
from app.domain.text import join_words

_DAY = timedelta(days=1)


class CheckpointDay(Struct, frozen=True):
    """
    A checkpoint of a fortnight, after day 0.

    `is_closed` is whether it was skipped as a closed day. `was_session` is whether the day before
    it counts as a session: in spite of such a skip, it does if a price of that day was read.
    """

    day: int
    checkpoint_date: date
    is_closed: bool
    was_session: bool

    @property
    def day_before(self) -> date:
        """Return the day whose closes the checkpoint uses."""
        return self.checkpoint_date - _DAY

    @property
    def is_struck_off(self) -> bool:
        """Return whether the exchange was closed on short notice on the day before."""
        is_closed = self.is_closed and not self.was_session
        return is_closed and ORDINARY_CALENDAR.is_session(self.day_before)

    @property
    def is_contradicted(self) -> bool:
        """Return whether it was skipped as a closed day although a price of that day was read."""
        return self.is_closed and self.was_session


def counts_as_session(
    *, is_closed: bool, checkpoint_date: date, days_with_price: frozenset[date]
) -> bool:
    """
    Return whether the day before a checkpoint counts as a session.

    `is_closed` is whether the checkpoint was skipped as a closed day, and `days_with_price` are the
    days for which a price of the batch's benchmark was read. `api.schema.counts_as_session` states
    the same rule in SQL.
    """
    if not is_closed:
        return True
    day_before = checkpoint_date - _DAY
    return is_weekday(day_before) and day_before in days_with_price


def checkpoint_day(checkpoint: Checkpoint, days_with_price: frozenset[date]) -> CheckpointDay:
    """
    Return what a checkpoint of day 1 or later says about its session.

    `days_with_price` are the days for which a price of the benchmark was read.
    """
    is_closed = checkpoint.skip_reason == SkipReason.MARKET_CLOSED
    return CheckpointDay(
        day=checkpoint.day,
        checkpoint_date=checkpoint.checkpoint_date,
        is_closed=is_closed,
        was_session=counts_as_session(
            is_closed=is_closed,
            checkpoint_date=checkpoint.checkpoint_date,
            days_with_price=days_with_price,
        ),
    )


def find_result(
    batch: Batch, taken: Sequence[Checkpoint], days_with_price: frozenset[date]
) -> Checkpoint | None:
    """
    Return a completed batch's checkpoint of the last session before day 14.

    `taken` are the batch's checkpoints. `days_with_price` are the days for which a price of the
    benchmark was read. Returns None if the batch is not completed, or if that checkpoint was
    skipped.
    """
    if batch.status != BatchStatus.COMPLETED:
        return None
    return find_result_of_completed(taken, days_with_price)


def find_result_of_completed(
    taken: Iterable[Checkpoint], days_with_price: frozenset[date]
) -> Checkpoint | None:
    """Return what `find_result` returns for a batch that is known to be completed."""
    after_sessions = [
        checkpoint
        for checkpoint in taken
        if checkpoint.day and checkpoint_day(checkpoint, days_with_price).was_session
    ]
    last = max(after_sessions, key=lambda checkpoint: checkpoint.day, default=None)
    if last is None or last.status != CheckpointStatus.COMPUTED:
        return None
    return last


def closure_sentences(
    days: Sequence[CheckpointDay], *, result_day: int | None, is_completed: bool
) -> Iterator[str]:
    """
    Yield sentences about closed days that decide, or would decide, the result of a batch.

    `result_day` is the day of the result; None if there is none. Dates are written as YYYY-MM-DD.
    """
    if result_day is not None:
        moved = [day for day in days if day.is_struck_off and day.day > result_day]
        if moved:
            dates = join_words([str(day.day_before) for day in moved])
            yield (
                f"The exchange was closed on short notice on {dates}, so the result is that of day "
                f"{result_day}."
            )
    last_session = max((day.day for day in days if day.was_session), default=None)
    for day in days:
        if not day.is_contradicted:
            continue
        sentence = (
            f"Day {day.day} was skipped as a closed day, but a price of that session was read."
        )
        if is_completed and day.day == last_session:
            sentence += " So the batch has no result."
        yield sentence
