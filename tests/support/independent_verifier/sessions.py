"""The sessions of the New York Stock Exchange: docs/journal.md, "The calendar"."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
DAY = timedelta(days=1)
MONDAY, THURSDAY, SATURDAY, SUNDAY = 0, 3, 5, 6

CLOSED_ONCE = frozenset(
    date.fromisoformat(day)
    for day in (
        "2001-09-11",
        "2001-09-12",
        "2001-09-13",
        "2001-09-14",
        "2004-06-11",
        "2007-01-02",
        "2012-10-29",
        "2012-10-30",
        "2018-12-05",
        "2025-01-09",
    )
)


def easter(year: int) -> date:
    """Return Easter Sunday of the Gregorian calendar."""
    a, b, c = year % 19, year // 100, year % 100
    h = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    l = (32 + 2 * (b % 4) + 2 * (c // 4) - h - c % 4) % 7  # noqa: E741
    m = (a + 11 * h + 22 * l) // 451
    month = (h + l - 7 * m + 114) // 31
    day = (h + l - 7 * m + 114) % 31 + 1
    return date(year, month, day)


def nth(year: int, month: int, weekday: int, number: int) -> date:
    """Return the first, second, ... such weekday of a month."""
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))


def last_monday(year: int, month: int) -> date:
    """Return the last Monday of a month that has 31 days."""
    end = date(year, month, 31)
    return end - timedelta(days=end.weekday())


def observed(holiday: date) -> date:
    """Return the day on which a holiday is observed."""
    if holiday.weekday() == SATURDAY:
        return holiday - DAY
    if holiday.weekday() == SUNDAY:
        return holiday + DAY
    return holiday


@cache
def holidays(year: int) -> frozenset[date]:
    """Return the days of a year on which a holiday is observed."""
    days = {
        nth(year=year, month=1, weekday=MONDAY, number=3),
        nth(year=year, month=2, weekday=MONDAY, number=3),
        easter(year) - 2 * DAY,
        last_monday(year, 5),
        observed(date(year, 7, 4)),
        nth(year=year, month=9, weekday=MONDAY, number=1),
        nth(year=year, month=11, weekday=THURSDAY, number=4),
        observed(date(year, 12, 25)),
    }
    new_year = date(year, 1, 1)
    if new_year.weekday() != SATURDAY:  # then it is not observed
        days.add(observed(new_year))
    if year >= 2022:
        days.add(observed(date(year, 6, 19)))
    return frozenset(days)


class SessionCalendar:
    """The sessions, without the days that were closed on short notice."""

    def __init__(self, closed: Iterable[date] = ()) -> None:
        self.closed = frozenset(closed)

    def is_session(self, day: date) -> bool:
        """Return whether the exchange trades on a day."""
        if day.weekday() in (SATURDAY, SUNDAY):
            return False
        return day not in holidays(day.year) | CLOSED_ONCE | self.closed

    def last_before(self, day: date) -> date:
        """Return the last session before a day."""
        day -= DAY
        while not self.is_session(day):
            day -= DAY
        return day

    def first_from(self, day: date) -> date:
        """Return the first session on or after a day."""
        while not self.is_session(day):
            day += DAY
        return day


def in_new_york(day: date, hour: int, minute: int = 0) -> datetime:
    """
    Return a time of a day in New York, in UTC.

    Python compares two local times of one zone by the clock, which is wrong when the clocks change.
    """
    return datetime.combine(day, time(hour, minute), NEW_YORK).astimezone(UTC)


def new_york_day(moment: datetime) -> date:
    """Return the date in New York at a moment."""
    return moment.astimezone(NEW_YORK).date()
