"""
What must be there when the journal ends: a batch of every Monday, a checkpoint of every day.

What was due shortly before the newest entries may still be under way, and after an outage of the
service or of its prices it is made up for. So only what was long over must be there.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from app.domain import calendar
from app.domain.model import CHECKPOINT_DAYS, Batch
from app.domain.verification.misfits import Rule, in_utc, misfit
from app.domain.verification.rules.tolerance import long_over
from app.domain.verification.state import State

# How long a batch may wait for its prices while others have theirs: a small quota serves the oldest first, and a close
# that is missing is given up only by a service that is up at the day's last time of asking.
WAITS = timedelta(days=CHECKPOINT_DAYS)


def check_end(state: State) -> None:
    """Refuse a journal in which a Monday or a day is missing; raises Misfit."""
    _check_mondays(state)
    _check_days(state)


def _check_mondays(state: State) -> None:
    limit = long_over(sorted(state.worked_at))
    for series in state.series:
        mondays = sorted(monday for name, monday in state.mondays if name == series)
        if not mondays:
            continue
        monday = mondays[0]
        while monday <= mondays[-1] or (limit is not None and calendar.end_of(monday) <= limit):
            if (series, monday) not in state.mondays:
                raise misfit(Rule.EVERY_MONDAY, _without_batch(series, monday, mondays, limit))
            monday = calendar.checkpoint_date(monday, 7)


def _without_batch(series: str, monday: date, mondays: Sequence[date], limit: datetime | None) -> str:
    missing = f"No entry of the journal mentions a batch of {series} of Monday {monday}"
    if monday < mondays[-1]:
        return f"{missing}, but there are some of {mondays[0]} and of {mondays[-1]}. Its entries were taken out."
    return f"{missing}, but it ended at {in_utc(calendar.end_of(monday))}, and entries go on long after that."


def _check_days(state: State) -> None:
    limit = long_over(sorted(state.worked_at))
    priced = long_over(sorted(at for times in state.priced_at.values() for at in times))
    for batch in state.batches.values():
        if not state.is_made(batch):
            continue
        own = long_over(sorted(state.priced_at[batch.id]))
        limits = [one for one in (own, priced and priced - WAITS) if one is not None]
        for day in range(CHECKPOINT_DAYS + 1):
            if day not in state.days_of.get(batch.id, {}):
                _check_day(batch, day, limit, max(limits, default=None), state)


def _check_day(batch: Batch, day: int, limit: datetime | None, priced: datetime | None, state: State) -> None:
    """Refuse a day without a checkpoint that was long over; `priced` is the limit of one that needs prices."""
    due = calendar.due_at(batch.run_date, day)
    if state.sessions.trading_day(calendar.checkpoint_date(batch.run_date, day)) is not None:
        limit = priced
    if limit is not None and due <= limit:
        raise misfit(
            Rule.EVERY_DAY,
            f"No entry of the journal mentions day {day} of the batch of {batch.run_date}, "
            f"but it was due at {in_utc(due)}, and entries go on long after that. Its entry was taken out.",
        )
