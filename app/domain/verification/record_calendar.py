"""
The calendar of a sealed record: the days without a session that the journal's settings list.

The settings of a journal list the days from Monday to Friday on which the exchange does not trade.
Such a day is *closed* if it is a regular holiday, and the first settings whose calendar has the day
list it. Every other day that settings list is *struck off*: it was closed on short notice, or the
operator says so. The readings of the record decide whether a day that is struck off is a session.
Definition: docs/journal.md#the-calendar-of-a-sealed-record.
"""

from collections.abc import Iterator
from datetime import date, timedelta

from app.domain.calendar import ORDINARY_CALENDAR, is_weekday
from app.domain.declarations import RecordSettings

_DAY = timedelta(days=1)


class RecordCalendar:
    """
    The calendar of a sealed record, as the settings of its journal state it so far.

    `newest` are the newest settings, None before the first ones. `sources` are the sources of
    prices that any settings name.
    """

    def __init__(self) -> None:
        self.newest: RecordSettings | None = None
        self.sources = set[str]()
        self._closed = set[date]()
        self._struck_off = set[date]()

    def add(self, settings: RecordSettings) -> None:
        """Add the settings of the next entry that has some."""
        for day in settings.days_without_session:
            if day in self._closed:
                continue
            # These are the first settings that have the day.
            is_first = not self._is_covered(day)
            if is_first and not ORDINARY_CALENDAR.is_session(day):
                self._closed.add(day)
            else:
                self._struck_off.add(day)
        # The name of the provider is the first word; its address may follow.
        self.sources.add(settings.price_source.partition(" ")[0])
        self.newest = settings

    def _is_covered(self, day: date) -> bool:
        """Return whether the calendar of any settings so far has a day."""
        # The first day of the calendar never changes, and its last day never moves back.
        newest = self.newest
        return newest is not None and newest.calendar_from <= day <= newest.calendar_to

    def is_struck_off(self, day: date) -> bool:
        """Return whether settings list a day that is no closed holiday."""
        return day in self._struck_off

    def is_session(self, day: date) -> bool:
        """Return whether a day is a session that no settings list."""
        if not is_weekday(day) or day in self._closed or day in self._struck_off:
            return False
        return self._is_covered(day) or ORDINARY_CALENDAR.is_session(day)

    def may_be_session(self, day: date) -> bool:
        """Return whether a day is a session, or is struck off."""
        return self.is_struck_off(day) or self.is_session(day)

    def is_listed(self, day: date) -> bool:
        """Return whether the newest settings list a day."""
        return self.newest is not None and day in self.newest.days_without_session

    def possible_from(self, day: date) -> list[date]:
        """
        Return the days that may be the first session on or after a day, the earliest first.

        All of them except the last are struck off.
        """
        return list(self._possible(day, _DAY))

    def possible_before(self, day: date) -> list[date]:
        """
        Return the days that may be the last session before a day, the latest first.

        All of them except the last are struck off.
        """
        return list(self._possible(day - _DAY, -_DAY))

    def _possible(self, day: date, step: timedelta) -> Iterator[date]:
        while not self.is_session(day):
            if self.is_struck_off(day):
                yield day
            day += step
        yield day
