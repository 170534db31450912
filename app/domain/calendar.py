"""
When things happen: New York's time and its sessions.

The only module that names the time zone. Sessions are the days on which the New York Stock Exchange trades, half days
included, as the `holidays` package knows them; a closure announced on short notice is added by a setting.
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

DUE = time(9)
OPEN = time(9, 30)
# When skipped checkpoints get their daily second chance: after the morning's own, whose answers often bring the close.
RETAKE = time(10)
FORTNIGHT = range(1, CHECKPOINT_DAYS + 1)
# The fortnight's Sundays, whose mornings need no closes: every ticker's splits are asked for.
SUNDAYS = (6, 13)
# The two Sundays after it, on which they are asked for once more: small splits and spin-offs are often listed late.
LATE_SUNDAYS = (20, 27)

# When a close that was not there at nine is asked for again.
ASK_AGAIN = (time(9, 30), time(10, 30), time(12, 30), time(16, 30), time(20, 30))

_DAY = timedelta(days=1)


class Clock(Protocol):
    """What tells the time and waits: the real one, or a rehearsal's."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """
        Wait; never while holding a connection, a lock or a semaphore.

        Raises TryAgainAt when the process is told to stop meanwhile: what only waits need not be waited for.
        """
        ...

    def stop(self) -> None:
        """End all waiting."""
        ...


def at(day: date, clock: time) -> datetime:
    """Return the moment in UTC at which New York's clocks show `clock` on `day`."""
    return datetime.combine(day, clock, NEW_YORK).astimezone(UTC)


def today(now: datetime) -> date:
    """Return the date in New York at `now`."""
    return now.astimezone(NEW_YORK).date()


def run_date(now: datetime) -> date | None:
    """Return the Monday that has begun at `now`, or None before nine and on other days."""
    local = now.astimezone(NEW_YORK)
    return local.date() if local.weekday() == 0 and local.time() >= DUE else None


def latest_run_date(now: datetime) -> date:
    """Return the newest Monday whose nine o'clock is not after `now`."""
    monday = today(now) - _DAY * today(now).weekday()
    return monday if due_at(monday) <= now else monday - 7 * _DAY


def refuse_other_days(run_date: date) -> None:
    """Raise Refused for the date of a batch that is no Monday, naming the Monday of its week."""
    if run_date.weekday() != 0:
        monday = run_date - _DAY * run_date.weekday()
        raise Refused(f"{run_date} is a {run_date:%A}, and batches are of Mondays. Its week began on {monday}.")


def next_run_at(now: datetime) -> datetime:
    """Return the first Monday's nine o'clock after `now`."""
    return due_at(latest_run_date(now), 7)


def checkpoint_date(run_date: date, day: int) -> date:
    """Return the calendar day of a batch's checkpoint."""
    return run_date + day * _DAY


def due_at(run_date: date, day: int = 0) -> datetime:
    """Return when a checkpoint is due, or with day 0 when the Monday begins: at nine, whatever the season."""
    return at(checkpoint_date(run_date, day), DUE)


def end_of(day: date) -> datetime:
    """Return the midnight in New York at which a day ends."""
    return at(day + _DAY, time(0))


def ask_again_at(now: datetime) -> datetime | None:
    """Return the next time of this day in New York at which a missing close is asked for, or None after the last."""
    moments = (at(today(now), clock) for clock in ASK_AGAIN)
    return next((moment for moment in moments if moment > now), None)


def asked_since(now: datetime) -> datetime:
    """Return the last moment up to `now` at which closes were to be asked for: an answer since then still holds."""
    moments = [at(day, clock) for day in (today(now) - _DAY, today(now)) for clock in (DUE, *ASK_AGAIN)]
    return max(moment for moment in moments if moment <= now)


def load() -> None:
    """
    Load the exchange's holidays, which the first question otherwise does.

    It imports some 300 modules of the package: on the event loop of a service that stops every request for 0.1 s and
    more.
    """
    _holidays(2000)  # any year


@lru_cache(maxsize=256)
def _holidays(year: int) -> frozenset[date]:
    return frozenset(holidays.financial_holidays("NYSE", years=year))


class Calendar:
    """The exchange's sessions, less the days in `closed` that were announced on short notice."""

    def __init__(self, closed: Iterable[date] = ()) -> None:
        self.closed = frozenset(closed)

    def is_session(self, day: date) -> bool:
        """Return whether the exchange trades on `day`; a half day counts."""
        return day.weekday() < 5 and day not in self.closed and day not in _holidays(day.year)

    def session_before(self, day: date) -> date:
        """Return the last session before `day`; before a run date, that is the baseline session."""
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
        """Return the session whose closes a checkpoint uses: the calendar day before it, or None if that was none."""
        before = checkpoint_date - _DAY
        return before if self.is_session(before) else None

    def first_with_figures(self, run_date: date, days: Iterable[int]) -> int | None:
        """
        Return the first of `days` of a fortnight whose checkpoint has a session to measure.

        The other days' checkpoints are always skipped. None if all of them are.
        """
        for day in days:
            if self.trading_day(checkpoint_date(run_date, day)):
                return day
        return None

    def is_late(self, run_date: date, created_at: datetime) -> bool:
        """Return whether `created_at` is at or after the open of the first session on or after the run date."""
        return created_at >= at(self.session_from(run_date), OPEN)
