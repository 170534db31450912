"""
The calendar of the record: New York time, and the sessions of the exchange.

This is the only module that names the time zone. A session is a day on which the New York Stock
Exchange trades, half days included. The `holidays` package knows the regular closures; a closure
that is announced on short notice is added by a setting.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

import holidays

from app.domain.model import CHECKPOINT_DAYS
from app.errors import Refused

TIME_ZONE = "America/New_York"
NEW_YORK = ZoneInfo(TIME_ZONE)

# All times of day in this module are times in New York.

# When a Monday's run begins, and when each checkpoint is due.
DUE_TIME = time(9)
# When the exchange opens.
OPEN_TIME = time(9, 30)
# When skipped checkpoints are taken again each day. This is an hour after the day's regular
# checkpoints, because the response to one of their requests often contains the missing close.
RETAKE_TIME = time(10)

# The checkpoint days of a batch that are measured; day 0 is the baseline.
MEASURED_DAYS = range(1, CHECKPOINT_DAYS + 1)
# The two Sundays of a batch's fortnight. Their checkpoints need no closes, so the day's quota is
# used to request the splits of all tickers of the batch.
SPLIT_CHECK_DAYS = (6, 13)
# Two Sundays after the fortnight on which splits are requested again: small splits and spin-offs
# are often listed late.
LATE_SPLIT_CHECK_DAYS = (20, 27)

# When a close that was missing at nine is requested again.
PRICE_RETRY_TIMES = (time(9, 30), time(10, 30), time(12, 30), time(16, 30), time(20, 30))

# The names of the annual holidays in the `holidays` package.
_ANNUAL_HOLIDAYS = frozenset(
    {
        "New Year's Day",
        "Martin Luther King Jr. Day",
        "Washington's Birthday",
        "Good Friday",
        "Memorial Day",
        "Juneteenth National Independence Day",
        "Independence Day",
        "Labor Day",
        "Thanksgiving Day",
        "Christmas Day",
    }
)

_DAY = timedelta(days=1)
_MONDAY = 0
_SATURDAY = 5


class Clock(Protocol):
    """The source of the time, and the only way to wait: a real clock or a simulated one."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """
        Wait. The caller must not hold a connection, a lock or a semaphore while it waits.

        Raises TryAgainAt when the process has to stop: a job that only waits must not delay the
        end of the process.
        """
        ...

    def stop(self) -> None:
        """End every `sleep` that is under way."""
        ...


def from_new_york(day: date, clock: time) -> datetime:
    """Return the moment, in UTC, at which the clocks of New York show `clock` on `day`."""
    return datetime.combine(day, clock, NEW_YORK).astimezone(UTC)


def new_york_date(now: datetime) -> date:
    """Return the date in New York at the moment `now`."""
    return now.astimezone(NEW_YORK).date()


def is_weekday(day: date) -> bool:
    """Return whether a day is one from Monday to Friday."""
    return day.weekday() < _SATURDAY


def run_date(now: datetime) -> date | None:
    """Return the Monday whose run has begun at `now`; None before 09:00 and on other days."""
    local = now.astimezone(NEW_YORK)
    if local.weekday() != _MONDAY or local.time() < DUE_TIME:
        return None
    return local.date()


def latest_run_date(now: datetime) -> date:
    """Return the latest Monday whose run has begun at `now` or earlier."""
    today = new_york_date(now)
    monday = today - _DAY * today.weekday()
    # On a Monday before nine, the latest run is that of the week before.
    if due_at(monday) > now:
        monday -= 7 * _DAY
    return monday


def require_monday(run_date: date) -> None:
    """Raise Refused if the date of a batch is no Monday; the text names the Monday of its week."""
    if run_date.weekday() == _MONDAY:
        return
    monday = run_date - _DAY * run_date.weekday()
    raise Refused(
        f"{run_date} is a {run_date:%A}, and batches are of Mondays. Its week began on {monday}."
    )


def next_run_at(now: datetime) -> datetime:
    """Return the time of the first run after `now`."""
    return due_at(latest_run_date(now), 7)


def checkpoint_date(run_date: date, day: int) -> date:
    """Return the calendar day of a batch's checkpoint."""
    return run_date + day * _DAY


def due_at(run_date: date, day: int = 0) -> datetime:
    """
    Return the time at which a batch's checkpoint is due.

    It is 09:00 in New York, in summer and in winter. For day 0, this is the time at which the
    Monday's run begins.
    """
    return from_new_york(checkpoint_date(run_date, day), DUE_TIME)


def end_of_day(day: date) -> datetime:
    """Return the midnight in New York at which a day ends."""
    return from_new_york(day + _DAY, time(0))


def next_price_retry_at(now: datetime) -> datetime | None:
    """
    Return the next time after `now` at which a missing close is requested again.

    Only times on the New York day of `now` count. Return None after the last of these times.
    """
    today = new_york_date(now)
    moments = (from_new_york(today, clock) for clock in PRICE_RETRY_TIMES)
    return next((moment for moment in moments if moment > now), None)


def latest_price_request_at(now: datetime) -> datetime:
    """
    Return the latest time, not after `now`, at which a request of closes was due.

    A response that was received after this time is still valid at `now`: since this time, no other
    request has become due.
    """
    today = new_york_date(now)
    moments = []
    # Before nine, the latest request was due yesterday.
    for day in (today - _DAY, today):
        moments += [from_new_york(day, clock) for clock in (DUE_TIME, *PRICE_RETRY_TIMES)]
    return max(moment for moment in moments if moment <= now)


def load_holidays() -> None:
    """
    Load the holidays of the exchange in advance.

    At its first use the `holidays` package imports about 300 modules. On the event loop of a
    service, this would block all requests for 0.1 s or more.
    """
    _holidays(2000)  # the year does not matter


@lru_cache(maxsize=256)
def _holidays(year: int) -> frozenset[date]:
    return frozenset(holidays.financial_holidays("NYSE", years=year))


@lru_cache(maxsize=256)
def annual_holidays(year: int) -> frozenset[date]:
    """
    Return the days from Monday to Friday of a year on which an annual holiday is observed.

    Closures for a single event, such as a hurricane, are not among them: a program that is older
    than the event cannot know them. docs/journal.md#the-calendar has the rules of these holidays.
    """
    named = holidays.financial_holidays("NYSE", years=year)
    return frozenset(day for day, name in named.items() if _is_annual(day, name))


def _is_annual(day: date, name: str) -> bool:
    return is_weekday(day) and name.removesuffix(" (observed)") in _ANNUAL_HOLIDAYS


class Calendar:
    """The sessions of the exchange, without the days in `closed` (closures on short notice)."""

    def __init__(self, closed: Iterable[date] = ()) -> None:
        self.closed = frozenset(closed)

    def is_session(self, day: date) -> bool:
        """Return whether the exchange trades on `day`; a half day counts."""
        if not is_weekday(day) or day in self.closed:
            return False
        return day not in _holidays(day.year)

    def session_before(self, day: date) -> date:
        """Return the last session before `day`; for a run date this is the baseline session."""
        day -= _DAY
        while not self.is_session(day):
            day -= _DAY
        return day

    def session_from(self, day: date) -> date:
        """Return the first session on or after `day`."""
        while not self.is_session(day):
            day += _DAY
        return day

    def trading_day(self, checkpoint_date: date) -> date | None:
        """
        Return the session whose closes a checkpoint uses: the calendar day before the checkpoint.

        None if that day is no session. This is the rule for day 1 and later; day 0 uses the
        baseline session (`session_before`).
        """
        before = checkpoint_date - _DAY
        if not self.is_session(before):
            return None
        return before

    def first_measured_day(self, run_date: date, days: Iterable[int]) -> int | None:
        """
        Return the first of a batch's `days` whose checkpoint has a session to measure.

        None if there is no such day. A checkpoint without a session is always skipped.
        """
        for day in days:
            if self.trading_day(checkpoint_date(run_date, day)):
                return day
        return None

    def is_late(self, run_date: date, created_at: datetime) -> bool:
        """
        Return whether a batch was created too late to trade its picks at the first open.

        The first open is the open of the first session on or after the run date. A batch that was
        created at that moment or later is late.
        """
        return created_at >= from_new_york(self.session_from(run_date), OPEN_TIME)


# The calendar of the exchange without closures on short notice.
ORDINARY_CALENDAR = Calendar()
