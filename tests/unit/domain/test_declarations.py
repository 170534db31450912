"""Declarations: what a process states about the record, and when it must state it again."""

import hashlib
from datetime import date

import pytest
from declaring import PROFILE, in_force
from msgspec.structs import replace

from app.domain import declarations
from app.domain.calendar import Calendar
from app.domain.declarations import InForce, RecordSettings

TODAY = date(2026, 10, 26)
BASELINE = date(2026, 10, 23)
END = date(2028, 12, 31)
THANKSGIVING = date(2026, 11, 26)
CLOSURE = date(2026, 11, 24)


def declared(process: InForce, calendar_to: date = END) -> RecordSettings:
    """Return the settings that a process declares."""
    return declarations.settings_in_force(process, calendar_from=BASELINE, calendar_to=calendar_to)


def test_the_days_without_a_session_are_listed():
    """Holidays and short-notice closures from Monday to Friday, each once; no weekend."""
    days = declared(in_force(calendar=Calendar([CLOSURE, THANKSGIVING, date(2026, 11, 28)])))
    assert days.days_without_session[:3] == (CLOSURE, THANKSGIVING, date(2026, 12, 25))
    assert days.closed_days == (CLOSURE, THANKSGIVING, date(2026, 11, 28))
    assert len(set(days.days_without_session)) == len(days.days_without_session)
    assert all(day.weekday() < 5 for day in days.days_without_session)
    # From the exchange's list: two holidays in the rest of 2026, ten in 2027. In 2028, New Year is
    # a Saturday, for which the exchange does not close: nine.
    assert len(days.days_without_session) == 1 + 2 + 10 + 9


def test_a_restart_declares_nothing():
    """A process with the same settings declares nothing, in the same year."""
    newest = declared(in_force())
    assert declarations.changed_settings(in_force(), newest, TODAY) is None
    assert declarations.changed_settings(in_force(), newest, date(2026, 12, 31)) is None


def test_the_calendar_is_extended_once_a_year():
    """
    Whichever of two processes is first in the new year extends it; the other one, whose clock still
    shows the old year, does not shorten it.
    """
    newest = declared(in_force())
    extended = declarations.changed_settings(in_force(), newest, date(2027, 1, 1))
    assert extended is not None
    assert (extended.calendar_from, extended.calendar_to) == (BASELINE, date(2029, 12, 31))
    assert declarations.differing_fields(newest, extended) == [
        "calendar_to",
        "days_without_session",
    ]
    for today in (date(2026, 12, 31), date(2027, 1, 1), date(2027, 12, 31)):
        assert declarations.changed_settings(in_force(), extended, today) is None


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"version": "0.3.1"}, ["version"]),
        ({"benchmark": "QQQ"}, ["benchmark"]),
        ({"price_source": "another"}, ["price_source"]),
        ({"calendar": Calendar([CLOSURE])}, ["days_without_session", "closed_days"]),
        ({"timestamp_roots": ("c" * 64,)}, ["timestamp_roots"]),
        # A holiday, and a day outside the calendar: the setting changes, no session does.
        ({"calendar": Calendar([THANKSGIVING])}, ["closed_days"]),
        ({"calendar": Calendar([date(2024, 12, 5)])}, ["closed_days"]),
    ],
)
def test_a_process_declares_each_change(change, fields):
    """The new settings differ in these fields only, and the way back is a declaration, too."""
    newest = declared(in_force())
    changed = declarations.changed_settings(in_force(**change), newest, TODAY)
    assert changed is not None
    assert declarations.differing_fields(newest, changed) == fields
    assert declarations.changed_settings(in_force(), changed, TODAY) == newest


def test_a_command_compares_what_decides_its_figures():
    """Its version and its roots are no change, and it does not extend the calendar."""
    newest = declared(in_force(timestamp_roots=("c" * 64,)))
    command = in_force(version="0.4.0", is_command=True)
    assert declarations.changed_settings(command, newest, date(2027, 1, 1)) is None


def test_a_command_declares_only_what_it_compares():
    """The version and the roots of the workers stay declared, and so does the calendar's end."""
    newest = declared(in_force(timestamp_roots=("c" * 64,)))
    command = in_force(version="0.4.0", benchmark="QQQ", is_command=True)
    changed = declarations.changed_settings(command, newest, date(2027, 1, 1))
    assert changed == replace(newest, benchmark="QQQ")


def test_a_series_is_declared_again_after_any_change():
    """Another label or another profile is a change; another series does not count."""
    (one,) = in_force().series
    newest = declarations.declare_series(one, TODAY)
    assert declarations.is_declared(one, newest)
    assert not declarations.is_declared(one, None)
    assert not declarations.is_declared(replace(one, label="Another"), newest)
    for change in ({"temperature": "0"}, {"base_url": "http://localhost/v1"}, {"schema": "[]"}):
        changed = replace(one, profile=replace(PROFILE, **change))
        assert not declarations.is_declared(changed, newest)


def test_the_hash_of_a_profile():
    """SHA-256 of its canonical JSON: members in order, and none without a value."""
    text = (
        '{"base_url":"","model":"gpt-5.4-mini","prompt_version":"1",'
        '"response_format":"json_schema","schema":"{}",'
        f'"system_prompt_sha256":"{"a" * 64}","timeout_seconds":"180",'
        f'"user_prompt_sha256":"{"b" * 64}"}}'
    )
    assert hashlib.sha256(text.encode()).hexdigest() == PROFILE.sha256
