"""
The rules `every-monday` and `every-day`: which Mondays and days the whole journal must have.

Work that was due shortly before the newest entries may not be done yet, and after an outage the
service does it late. So these rules require only the Mondays and days that were long over
(docs/journal.md#what-is-long-over).
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from app.domain import calendar
from app.domain.declarations import expected_mondays
from app.domain.model import CHECKPOINT_DAYS, Batch
from app.domain.verification.discrepancies import Rule, discrepancy, format_utc
from app.domain.verification.rules.tolerance import overdue_limit
from app.domain.verification.state import JournalState

# How long a batch may wait for its prices while other batches get theirs. There are two reasons for
# such a wait. With a small quota, the oldest batch is served first. And a checkpoint whose close is
# missing is skipped only after the day's last price retry. If the service does not run between that
# retry and midnight, it requests the close again on the next day.
PRICE_WAIT = timedelta(days=CHECKPOINT_DAYS)


def check_end(state: JournalState) -> None:
    """Raise Discrepancy if a Monday or a day was long over and is not in the journal."""
    _check_mondays(state)
    _check_days(state)


def _check_mondays(state: JournalState) -> None:
    first_of_record = min((monday for _, monday in state.mondays), default=None)
    if first_of_record is None:
        return
    limit = overdue_limit(sorted(state.worked_at))
    for series in sorted(state.series | state.declared_series.keys()):
        mondays = sorted(monday for name, monday in state.mondays if name == series)
        declared = [one.declaration for one in state.declared_series.get(series, ())]
        expected = expected_mondays(
            declared,
            mondays,
            asked={monday for name, monday in state.questions_of if name == series},
            first_of_record=first_of_record,
            until=_expected_until(mondays, limit),
        )
        for monday in expected:
            if (series, monday) not in state.mondays:
                raise discrepancy(
                    Rule.EVERY_MONDAY, _describe_missing_monday(series, monday, mondays)
                )


def _expected_until(mondays: Sequence[date], limit: datetime | None) -> date:
    """
    Return the day before which a series must have each Monday.

    `mondays` are those that it has: each Monday before its newest one must be there, too. So must
    be each Monday that was over at `limit`.
    """
    ends = [date.min, *mondays]
    if limit is not None:
        # The day of `limit` itself is over only if `limit` is its end.
        ends.append(calendar.new_york_date(limit))
    return max(ends)


def _describe_missing_monday(series: str, monday: date, mondays: Sequence[date]) -> str:
    missing = f"No entry of the journal mentions a batch of {series} of Monday {monday}"
    if mondays and monday < mondays[-1]:
        return (
            f"{missing}, but the journal has batches of {mondays[0]} and of {mondays[-1]}. "
            "Its entries were removed."
        )
    ended = format_utc(calendar.end_of_day(monday))
    return f"{missing}, but it ended at {ended}, and there are entries long after that."


def _check_days(state: JournalState) -> None:
    limit = overdue_limit(sorted(state.worked_at))
    priced = _price_limit(state)
    for batch in state.batches.values():
        if not state.has_picks(batch):
            continue
        # A day that needs prices is long over if it was due at or before either of two limits, so
        # the later limit decides. One limit follows from the entries of its own batch, the other
        # one from the entries of all batches.
        own = overdue_limit(sorted(state.priced_at[batch.id]))
        price_limits = [one for one in (own, priced) if one is not None]
        for day in range(CHECKPOINT_DAYS + 1):
            if day not in state.days_of.get(batch.id, {}):
                _check_missing_day(
                    batch,
                    day,
                    limit=limit,
                    price_limit=max(price_limits, default=None),
                    state=state,
                )


def _price_limit(state: JournalState) -> datetime | None:
    """
    Return the limit that follows from the entries of all batches.

    A checkpoint that needs prices is long over if it was due at or before this limit. If the limit
    is None, no such checkpoint is long over.
    """
    times: list[datetime] = []
    for of_batch in state.priced_at.values():
        times += of_batch
    limit = overdue_limit(sorted(times))
    if limit is None:
        return None
    return limit - PRICE_WAIT


def _check_missing_day(
    batch: Batch,
    day: int,
    *,
    limit: datetime | None,
    price_limit: datetime | None,
    state: JournalState,
) -> None:
    """Raise Discrepancy if a day without a checkpoint was long over."""
    due = calendar.due_at(batch.run_date, day)
    day_before = calendar.checkpoint_date(batch.run_date, day - 1)
    if state.may_be_session(day_before):
        limit = price_limit  # the checkpoint needs prices
    if limit is not None and due <= limit:
        raise discrepancy(
            Rule.EVERY_DAY,
            f"No entry of the journal mentions day {day} of the batch of {batch.run_date}, "
            f"but it was due at {format_utc(due)}, and there are entries long after that. "
            "Its entry was removed.",
        )
