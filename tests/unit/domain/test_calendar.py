"""New York's time and its sessions: what is due when, and which day's closes are used."""

from datetime import UTC, date, datetime, timedelta

import pytest

from app.domain import calendar
from app.domain.calendar import MEASURED_DAYS, Calendar, checkpoint_date

SESSIONS = Calendar()


def utc(text: str) -> datetime:
    """Return a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def mondays(first: int, last: int) -> list[date]:
    """Return every Monday from one year to another, both included."""
    days = (
        date(first, 1, 1) + timedelta(days=number) for number in range(366 * (last - first + 1))
    )
    return [day for day in days if day.weekday() == 0 and day.year <= last]


def trading_days(run_date: date, sessions: Calendar = SESSIONS) -> dict[int, date]:
    """
    Return the days of a fortnight that are computed, each with the session whose closes it uses.
    """
    sessions_of = {
        day: sessions.trading_day(checkpoint_date(run_date, day)) for day in MEASURED_DAYS
    }
    return {day: session for day, session in sessions_of.items() if session}


def result_day(run_date: date) -> int:
    """Return the day that uses the last session before day 14."""
    return (SESSIONS.session_before(checkpoint_date(run_date, 14)) - run_date).days + 1


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param("2026-01-05T14:00:00", date(2026, 1, 5), id="nine in winter"),
        pytest.param("2026-01-05T13:59:59.999999", None, id="a microsecond before nine"),
        pytest.param("2026-01-05T13:00:00", None, id="an hour early in winter"),
        pytest.param("2026-07-06T13:00:00", date(2026, 7, 6), id="nine in summer"),
        pytest.param("2026-07-06T12:59:59.999999", None, id="a microsecond before nine in summer"),
        pytest.param("2026-01-06T04:59:59", date(2026, 1, 5), id="still Monday night in New York"),
        pytest.param("2026-01-06T05:00:00", None, id="Tuesday has begun in New York"),
        pytest.param("2026-01-05T02:00:00", None, id="Monday in UTC, Sunday in New York"),
        pytest.param("2026-01-07T15:00:00", None, id="a Wednesday"),
        pytest.param(
            "2026-03-09T13:00:00", date(2026, 3, 9), id="nine on the first Monday of summer time"
        ),
        pytest.param(
            "2026-11-02T13:59:00", None, id="before nine on the first Monday of winter time"
        ),
        pytest.param(
            "2026-09-07T13:00:00", date(2026, 9, 7), id="a holiday is a run date all the same"
        ),
    ],
)
def test_run_date(at, expected):
    """A Monday begins at nine in New York, in summer and in winter, and ends at midnight there."""
    assert calendar.run_date(utc(at)) == expected


@pytest.mark.parametrize(
    ("run_date", "day", "expected"),
    [
        pytest.param(date(2026, 1, 5), 0, "2026-01-05T14:00:00", id="a Monday in winter"),
        pytest.param(date(2026, 7, 6), 0, "2026-07-06T13:00:00", id="a Monday in summer"),
        pytest.param(
            date(2026, 3, 2), 0, "2026-03-02T14:00:00", id="the Monday before summer time"
        ),
        pytest.param(date(2026, 3, 2), 5, "2026-03-07T14:00:00", id="the day before summer time"),
        pytest.param(
            date(2026, 3, 2), 6, "2026-03-08T13:00:00", id="the day on which summer time begins"
        ),
        pytest.param(date(2026, 3, 2), 7, "2026-03-09T13:00:00", id="the day after it began"),
        pytest.param(
            date(2026, 3, 2),
            14,
            "2026-03-16T13:00:00",
            id="the fortnight's end, an hour earlier in UTC",
        ),
        pytest.param(
            date(2026, 10, 26), 0, "2026-10-26T13:00:00", id="the Monday before winter time"
        ),
        pytest.param(date(2026, 10, 26), 5, "2026-10-31T13:00:00", id="the day before winter time"),
        pytest.param(
            date(2026, 10, 26), 6, "2026-11-01T14:00:00", id="the day on which winter time begins"
        ),
        pytest.param(
            date(2026, 10, 26),
            14,
            "2026-11-09T14:00:00",
            id="the fortnight's end, an hour later in UTC",
        ),
        pytest.param(
            date(2025, 12, 22), 10, "2026-01-01T14:00:00", id="New Year's Day is due like any other"
        ),
    ],
)
def test_due_at(run_date, day, expected):
    """A checkpoint is due at nine in New York, before and after both changes of the clocks."""
    due = calendar.due_at(run_date, day)
    assert due == utc(expected)
    assert due.tzinfo is UTC


@pytest.mark.parametrize(
    ("at", "latest", "following"),
    [
        pytest.param(
            "2026-01-05T14:00:00", date(2026, 1, 5), "2026-01-12T14:00:00", id="nine sharp"
        ),
        pytest.param(
            "2026-01-05T13:59:59.999999",
            date(2025, 12, 29),
            "2026-01-05T14:00:00",
            id="just before nine",
        ),
        pytest.param("2026-01-11T23:00:00", date(2026, 1, 5), "2026-01-12T14:00:00", id="a Sunday"),
        pytest.param(
            "2026-01-12T03:00:00",
            date(2026, 1, 5),
            "2026-01-12T14:00:00",
            id="Sunday night in New York",
        ),
        pytest.param(
            "2026-03-08T12:00:00",
            date(2026, 3, 2),
            "2026-03-09T13:00:00",
            id="summer time has begun",
        ),
        pytest.param(
            "2026-03-02T14:00:00",
            date(2026, 3, 2),
            "2026-03-09T13:00:00",
            id="a week without an hour",
        ),
        pytest.param(
            "2026-10-26T13:00:00",
            date(2026, 10, 26),
            "2026-11-02T14:00:00",
            id="a week with one more",
        ),
        pytest.param(
            "2026-11-02T13:30:00",
            date(2026, 10, 26),
            "2026-11-02T14:00:00",
            id="half past eight again",
        ),
    ],
)
def test_latest_and_next_run(at, latest, following):
    """
    The latest run date has begun, and the next run is in the future; at nine sharp, the Monday has
    begun.
    """
    assert calendar.latest_run_date(utc(at)) == latest
    assert calendar.next_run_at(utc(at)) == utc(following)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param("2026-01-06T05:00:00", "2026-01-06T14:30:00", id="midnight"),
        pytest.param("2026-01-06T14:00:05", "2026-01-06T14:30:00", id="after nine: at half past"),
        pytest.param("2026-01-06T14:30:00", "2026-01-06T15:30:00", id="at 09:30: at 10:30"),
        pytest.param(
            "2026-01-06T15:30:00.000001", "2026-01-06T17:30:00", id="after 10:30: at 12:30"
        ),
        pytest.param("2026-01-06T20:00:00", "2026-01-06T21:30:00", id="in the afternoon: at 16:30"),
        pytest.param(
            "2026-01-06T21:31:00",
            "2026-01-07T01:30:00",
            id="after 16:30: at 20:30, tomorrow in UTC",
        ),
        pytest.param("2026-01-07T01:30:00", None, id="at 20:30: no more"),
        pytest.param("2026-01-07T04:59:59", None, id="late in the evening: no more"),
        pytest.param("2026-07-07T13:00:05", "2026-07-07T13:30:00", id="in summer"),
        pytest.param(
            "2026-03-08T13:00:05",
            "2026-03-08T13:30:00",
            id="on the day on which summer time begins",
        ),
        pytest.param(
            "2026-11-01T14:00:05",
            "2026-11-01T14:30:00",
            id="on the day on which winter time begins",
        ),
    ],
)
def test_next_price_retry_at(at, expected):
    """A missing close is requested at five times of the day in New York, and no more."""
    assert calendar.next_price_retry_at(utc(at)) == (utc(expected) if expected else None)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param("2026-01-06T14:00:00", "2026-01-06T14:00:00", id="nine sharp"),
        pytest.param(
            "2026-01-06T14:29:59.999999", "2026-01-06T14:00:00", id="until half past: nine"
        ),
        pytest.param("2026-01-06T14:30:00", "2026-01-06T14:30:00", id="half past"),
        pytest.param("2026-01-06T16:00:00", "2026-01-06T15:30:00", id="before noon"),
        pytest.param("2026-01-07T02:00:00", "2026-01-07T01:30:00", id="in the evening"),
        pytest.param(
            "2026-01-06T13:59:59", "2026-01-06T01:30:00", id="before nine: yesterday evening"
        ),
        pytest.param(
            "2026-03-08T05:30:00", "2026-03-08T01:30:00", id="yesterday evening, before summer time"
        ),
        pytest.param(
            "2026-03-08T12:30:00",
            "2026-03-08T01:30:00",
            id="the same, after the clocks were changed",
        ),
        pytest.param(
            "2026-11-01T06:30:00", "2026-11-01T00:30:00", id="in the hour that comes twice"
        ),
    ],
)
def test_latest_price_request_at(at, expected):
    """A response is valid until closes are to be requested again."""
    assert calendar.latest_price_request_at(utc(at)) == utc(expected)


def test_today():
    """The date is New York's."""
    assert calendar.new_york_date(utc("2026-01-06T04:59:59")) == date(2026, 1, 5)
    assert calendar.new_york_date(utc("2026-01-06T05:00:00")) == date(2026, 1, 6)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        pytest.param(date(2026, 1, 6), True, id="a Tuesday"),
        pytest.param(date(2026, 1, 10), False, id="a Saturday"),
        pytest.param(date(2026, 1, 11), False, id="a Sunday"),
        pytest.param(date(2026, 1, 19), False, id="Martin Luther King Jr. Day"),
        pytest.param(date(2026, 4, 3), False, id="Good Friday"),
        pytest.param(date(2026, 4, 6), True, id="Easter Monday"),
        pytest.param(date(2024, 6, 19), False, id="Juneteenth"),
        pytest.param(date(2026, 6, 19), False, id="Juneteenth on a Friday"),
        pytest.param(
            date(2027, 6, 18), False, id="Juneteenth on a Saturday, observed the day before"
        ),
        pytest.param(
            date(2026, 7, 3), False, id="Independence Day on a Saturday, observed the day before"
        ),
        pytest.param(
            date(2027, 7, 5), False, id="Independence Day on a Sunday, observed the day after"
        ),
        pytest.param(
            date(2027, 12, 31),
            True,
            id="New Year's Day on a Saturday is not observed the day before",
        ),
        pytest.param(date(2026, 10, 12), True, id="Columbus Day, which only banks observe"),
        pytest.param(date(2026, 11, 11), True, id="Veterans Day, which only banks observe"),
        pytest.param(date(2026, 11, 26), False, id="Thanksgiving"),
        pytest.param(date(2026, 11, 27), True, id="the half day after Thanksgiving"),
        pytest.param(date(2026, 12, 24), True, id="the half day before Christmas"),
        pytest.param(date(2025, 7, 3), True, id="the half day before Independence Day"),
        pytest.param(date(2025, 1, 9), False, id="the day of mourning for a president"),
    ],
)
def test_sessions(day, expected):
    """A session is a day on which the exchange trades, and half days count."""
    assert SESSIONS.is_session(day) is expected


@pytest.mark.parametrize(
    ("run_date", "baseline"),
    [
        pytest.param(date(2026, 1, 12), date(2026, 1, 9), id="the Friday before"),
        pytest.param(
            date(2026, 9, 7),
            date(2026, 9, 4),
            id="a holiday Monday: the Friday before all the same",
        ),
        pytest.param(date(2026, 4, 6), date(2026, 4, 2), id="Good Friday: the Thursday before"),
        pytest.param(
            date(2026, 6, 22), date(2026, 6, 18), id="Juneteenth on the Friday: the Thursday before"
        ),
        pytest.param(date(2026, 11, 30), date(2026, 11, 27), id="the half day before"),
        pytest.param(
            date(2027, 1, 4),
            date(2026, 12, 31),
            id="New Year's Day on the Friday: last year's last session",
        ),
    ],
)
def test_baseline_session(run_date, baseline):
    """The baseline is the last session before the run date."""
    assert SESSIONS.session_before(run_date) == baseline


LABOR_DAY = {2: 8, 3: 9, 4: 10, 5: 11, 8: 14, 9: 15, 10: 16, 11: 17, 12: 18}
MLK_DAY = {2: 20, 3: 21, 4: 22, 5: 23, 8: 26, 9: 27, 10: 28, 11: 29, 12: 30}


@pytest.mark.parametrize(
    ("run_date", "expected"),
    [
        pytest.param(
            date(2026, 1, 5),
            {day: date(2026, 1, 4 + day) for day in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12)},
            id="ten sessions",
        ),
        pytest.param(
            date(2026, 9, 7),
            {day: date(2026, 9, on) for day, on in LABOR_DAY.items()},
            id="a Monday that is Labor Day",
        ),
        pytest.param(
            date(2026, 1, 19),
            {day: date(2026, 1, on) for day, on in MLK_DAY.items()},
            id="a Monday that is MLK Day",
        ),
        pytest.param(
            date(2026, 3, 23),
            {day: date(2026, 3, 22 + day) for day in (1, 2, 3, 4, 5, 8, 9)}
            | {10: date(2026, 4, 1), 11: date(2026, 4, 2)},
            id="Good Friday at the end",
        ),
        pytest.param(
            date(2026, 11, 23),
            {
                1: date(2026, 11, 23),
                2: date(2026, 11, 24),
                3: date(2026, 11, 25),
                5: date(2026, 11, 27),
            }
            | {8: date(2026, 11, 30)}
            | {day: date(2026, 12, day - 8) for day in (9, 10, 11, 12)},
            id="Thanksgiving out, the half day in",
        ),
        pytest.param(
            date(2025, 1, 6),
            {1: date(2025, 1, 6), 2: date(2025, 1, 7), 3: date(2025, 1, 8), 5: date(2025, 1, 10)}
            | {day: date(2025, 1, 5 + day) for day in (8, 9, 10, 11, 12)},
            id="a day of mourning",
        ),
        pytest.param(
            date(2025, 12, 22),
            {
                1: date(2025, 12, 22),
                2: date(2025, 12, 23),
                3: date(2025, 12, 24),
                5: date(2025, 12, 26),
            }
            | {
                8: date(2025, 12, 29),
                9: date(2025, 12, 30),
                10: date(2025, 12, 31),
                12: date(2026, 1, 2),
            },
            id="Christmas and New Year",
        ),
    ],
)
def test_trading_days_of_a_fortnight(run_date, expected):
    """A checkpoint uses the session of the calendar day before it; without one it is skipped."""
    assert trading_days(run_date) == expected


def test_eight_to_ten_days_are_computed():
    """
    Days 6, 7, 13 and 14 never are, nor the mornings after holidays; eight only if two holidays are
    in one fortnight.
    """
    computed = {monday: trading_days(monday) for monday in mondays(2024, 2027)}
    assert len(computed) == 209
    assert all(
        8 <= len(days) <= 10 and not days.keys() & {6, 7, 13, 14} for days in computed.values()
    )
    eight = [monday for monday, days in computed.items() if len(days) == 8]
    assert eight == [date(2024, 12, 23), date(2024, 12, 30), date(2025, 12, 22), date(2026, 12, 21)]


def test_the_result_is_of_day_12_or_11():
    """Day 12 uses the second Friday; when that is closed, the result is of day 11."""
    days = {monday: result_day(monday) for monday in mondays(2024, 2027)}
    assert set(days.values()) == {11, 12}
    assert [monday for monday, day in days.items() if day == 11] == [
        date(2024, 3, 18),  # Good Friday
        date(2025, 4, 7),  # Good Friday
        date(2025, 6, 23),  # Independence Day
        date(2026, 3, 23),  # Good Friday
        date(2026, 6, 8),  # Juneteenth
        date(2026, 6, 22),  # Independence Day, observed the day before
        date(2026, 12, 14),  # Christmas
        date(2026, 12, 21),  # New Year's Day
        date(2027, 3, 15),  # Good Friday
        date(2027, 6, 7),  # Juneteenth, observed the day before
        date(2027, 12, 13),  # Christmas, observed the day before
    ]
    assert all(max(trading_days(monday)) == day for monday, day in days.items())


def test_a_day_closed_by_a_setting():
    """
    A closure on short notice is no session: not a trading day, not a baseline, and no first open.
    """
    sessions = Calendar([date(2026, 1, 9), date(2026, 1, 12)])
    assert not sessions.is_session(date(2026, 1, 9))
    assert sessions.session_before(date(2026, 1, 12)) == date(2026, 1, 8)
    assert sessions.session_from(date(2026, 1, 12)) == date(2026, 1, 13)
    assert sorted(trading_days(date(2026, 1, 5), sessions)) == [1, 2, 3, 4, 9, 10, 11, 12]
    assert SESSIONS.is_session(date(2026, 1, 9))


@pytest.mark.parametrize(
    ("run_date", "created_at", "late"),
    [
        pytest.param(
            date(2026, 1, 5),
            "2026-01-05T14:29:59.999999",
            False,
            id="a microsecond before the open",
        ),
        pytest.param(date(2026, 1, 5), "2026-01-05T14:30:00.000000", True, id="at the open"),
        pytest.param(
            date(2026, 7, 6), "2026-07-06T13:29:59.999999", False, id="before the open in summer"
        ),
        pytest.param(
            date(2026, 7, 6), "2026-07-06T13:30:00.000000", True, id="at the open in summer"
        ),
        pytest.param(
            date(2026, 9, 7), "2026-09-07T20:00:00", False, id="Labor Day, in the evening"
        ),
        pytest.param(
            date(2026, 9, 7),
            "2026-09-08T13:29:59.999999",
            False,
            id="Labor Day, before Tuesday's open",
        ),
        pytest.param(
            date(2026, 9, 7), "2026-09-08T13:30:00.000000", True, id="Labor Day, at Tuesday's open"
        ),
        pytest.param(
            date(2026, 1, 19),
            "2026-01-20T14:29:59.999999",
            False,
            id="MLK Day, before Tuesday's open",
        ),
        pytest.param(
            date(2026, 1, 19), "2026-01-20T14:30:00.000000", True, id="MLK Day, at Tuesday's open"
        ),
    ],
)
def test_late(run_date, created_at, late):
    """A batch is late at or after the open of the first session on or after the run date."""
    assert SESSIONS.is_late(run_date, utc(created_at)) is late
