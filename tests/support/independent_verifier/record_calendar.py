"""The sessions by the record itself: docs/journal.md, "The calendar of a sealed record"."""

from datetime import date

from independent_verifier.declared import Declared
from independent_verifier.sessions import CLOSED_ONCE, DAY, SessionCalendar, holidays

CLOSED, STRUCK_OFF, SESSION = "closed", "struck off", "a session"
WEEKEND = (5, 6)


class RecordCalendar:
    """
    The calendar that decides at an entry.

    For entries of a sealed record, this is the record's own; for other entries, the one that was
    `given` with the days that were closed on short notice.
    """

    def __init__(self, given: SessionCalendar, declared: Declared) -> None:
        self.given = given
        self.declared = declared

    def state(self, day: date) -> str:
        """Return what a day is in a sealed record."""
        if day.weekday() in WEEKEND or self.is_holiday(day):
            return CLOSED
        return STRUCK_OFF if str(day) in self.declared.listed else SESSION

    def is_holiday(self, day: date) -> bool:
        """Return whether a day is a holiday, and the first settings that have it list it."""
        if day not in holidays(day.year) | CLOSED_ONCE:
            return False
        for settings in self.declared.settings:
            if settings["calendar_from"] <= str(day) <= settings["calendar_to"]:
                return str(day) in settings["days_without_session"]
        return True

    def may_be_session(self, day: date) -> bool:
        """Return whether a day is a session; in a sealed record, it may be struck off."""
        if self.declared.sealed:
            return self.state(day) != CLOSED
        return self.given.is_session(day)

    def first_sessions(self, day: date) -> list[date]:
        """Return each day that may be the first session on or after a day."""
        if self.declared.sealed:
            return self.possible(day, DAY)
        return distinct(calendar.first_from(day) for calendar in (self.given, SessionCalendar()))

    def last_sessions(self, day: date) -> list[date]:
        """Return each day that may be the last session before a day."""
        if self.declared.sealed:
            return self.possible(day - DAY, -DAY)
        return distinct(calendar.last_before(day) for calendar in (self.given, SessionCalendar()))

    def baselines(self, run_date: date) -> list[date]:
        """Return the sessions that a Monday may begin at."""
        if self.declared.sealed:
            return self.last_sessions(run_date)
        return [self.given.last_before(run_date)]

    def possible(self, day: date, step) -> list[date]:
        """Return the days that are struck off, and after them the first session."""
        days = []
        while (state := self.state(day)) != SESSION:
            if state == STRUCK_OFF:
                days.append(day)
            day += step
        return [*days, day]

    def nearest_session(self, day: date, step) -> date:
        """Return the nearest session in one direction that is neither closed nor struck off."""
        return self.possible(day + step, step)[-1]


def distinct(days) -> list[date]:
    """Return days without repetition, in their order."""
    return list(dict.fromkeys(days))
