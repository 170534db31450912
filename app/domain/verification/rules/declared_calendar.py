"""
The rule `settings`, of the calendar that settings declare.

The days of the record come from this calendar. So it must have the days that its Mondays need, and
it must list the annual holidays. A holiday that is not listed would be a session without prices,
and a fortnight that ends with it would have no result.
"""

from datetime import date, timedelta

from app.domain import calendar
from app.domain.declarations import RecordSettings, last_calendar_day
from app.domain.model import CHECKPOINT_DAYS, Generation
from app.domain.verification.entries import ParsedEntry
from app.domain.verification.state import JournalState

# The years whose holidays are checked. A forged calendar may have ten thousand years.
_CENTURY = range(2000, 2100)

# The days from a Friday to the next Monday.
_TO_MONDAY = timedelta(days=3)
# The days from a Monday to its last checkpoint.
_FORTNIGHT = timedelta(days=CHECKPOINT_DAYS)


def form_problem(settings: RecordSettings) -> str | None:
    """Return what is wrong with the days of settings by themselves; None if nothing is."""
    first, last = settings.calendar_from, settings.calendar_to
    if first > last:
        return f"calendar_from is {first}, after calendar_to, {last}"
    for day in settings.days_without_session:
        if not _is_weekday_of(settings, day):
            return (
                f"days_without_session has {day}, a {day:%A}, but it has only days from Monday to "
                f"Friday from {first} to {last}"
            )
    listed = set(settings.days_without_session)
    for day in settings.closed_days:
        if _is_weekday_of(settings, day) and day not in listed:
            return f"closed_days has {day}, but days_without_session does not"
    return _holiday_problem(settings, listed)


def _is_weekday_of(settings: RecordSettings, day: date) -> bool:
    return calendar.is_weekday(day) and settings.calendar_from <= day <= settings.calendar_to


def _holiday_problem(settings: RecordSettings, listed: set[date]) -> str | None:
    for year in _years(settings):
        for day in sorted(calendar.annual_holidays(year)):
            if _is_weekday_of(settings, day) and day not in listed:
                return f"days_without_session does not have {day}, an annual holiday"
    return None


def _years(settings: RecordSettings) -> range:
    first, last = settings.calendar_from.year, settings.calendar_to.year
    return range(max(first, _CENTURY.start), min(last + 1, _CENTURY.stop))


def genesis_problem(
    entry: ParsedEntry, settings: RecordSettings, state: JournalState
) -> str | None:
    """Return why the calendar of a GENESIS entry is too short; None if it is not."""
    monday = _first_monday(entry, state)
    # The difference of two dates cannot overflow, whatever dates a forged record has.
    if monday - settings.calendar_from < _TO_MONDAY:
        return (
            f"calendar_from is {settings.calendar_from}, but the first Monday is {monday}, and the "
            "calendar begins before its weekend"
        )
    needed = last_calendar_day(calendar.new_york_date(entry.at))
    if settings.calendar_to < needed:
        return (
            f"calendar_to is {settings.calendar_to}, but the calendar of a GENESIS entry goes to "
            f"{needed} or later"
        )
    return None


def _first_monday(entry: ParsedEntry, state: JournalState) -> date:
    """Return the run date of the first batch, or of the latest Monday at the GENESIS entry."""
    run_dates = [run_date for _, run_date in state.mondays]
    return min([*run_dates, calendar.latest_run_date(entry.at)])


def question_problem(question: Generation, state: JournalState) -> str | None:
    """Return why the newest calendar is too short for a new question; None if it is not."""
    newest = state.record_calendar.newest
    if newest is None or newest.calendar_to - question.run_date >= _FORTNIGHT:
        return None
    return (
        f"it is asked for {question.run_date}, but the calendar of the newest settings ends on "
        f"{newest.calendar_to}, before the last checkpoint"
    )
