"""
Declarations: what the journal states about the record before it records anything else.

A declaration is an entry of one of three kinds:

- GENESIS begins a sealed record: its id, its origin, and its first settings.
- SETTINGS has the settings of the record after a change.
- SERIES has the profile of a series: everything that decides what the model is asked.

A process that records compares what is in force in it with the newest declarations, and first
writes a new declaration where the two differ. So each change of a setting that decides a figure has
an entry that shows it. docs/journal.md#declarations has the rules.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from app.domain import journal
from app.domain.calendar import Calendar, is_weekday
from app.domain.model import DescribedEnum

# The calendar of a declaration ends with the year that is this many years after the current one.
_YEARS_AHEAD = 2
# In bytes: the length of a record's id.
_ID_BYTES = 16

_DAY = timedelta(days=1)


class Origin(DescribedEnum):
    """Where the record comes from."""

    LIVE = "LIVE", "The record was made by a live service, from its first entry on."
    REHEARSED = "REHEARSED", "The record is a rehearsal: a simulated past. It is made up."
    UNKNOWN = (
        "UNKNOWN",
        "The record does not say where it comes from: it is not sealed, or it was sealed when it "
        "already had entries.",
    )


class Genesis(Struct, frozen=True, kw_only=True):
    """
    The beginning of a sealed record.

    `record_id` is a random number of 128 bits, as 32 hexadecimal digits. `late` is whether the
    record already had entries when it was sealed.
    """

    record_id: str
    origin: Origin
    late: bool


class RecordSettings(Struct, frozen=True, kw_only=True):
    """
    The settings that decide what the record's figures are.

    - `version`: the version of the software
    - `benchmark`: the ticker that picks are measured against
    - `price_source`: the provider of prices
    - `calendar_from`, `calendar_to`: the first and the last day of the calendar
    - `days_without_session`: the days from Monday to Friday, in the calendar, on which the exchange
      does not trade; in ascending order
    - `closed_days`: the setting MARKET_CLOSED_DAYS: closures that were announced on short notice;
      in ascending order
    - `timestamp_roots`: the SHA-256 of each root certificate that a timestamp may lead to, as 64
      hexadecimal digits; in ascending order
    """

    version: str
    benchmark: str
    price_source: str
    calendar_from: date
    calendar_to: date
    days_without_session: tuple[date, ...] = ()
    closed_days: tuple[date, ...] = ()
    timestamp_roots: tuple[str, ...] = ()


class Profile(Struct, frozen=True, kw_only=True):
    """
    Everything that decides what a model is asked, except the question of one Monday.

    It has no key. `base_url` has no user information, no query and no fragment. It is empty for the
    default address. `temperature` is None if none is sent. The members that end in `_sha256` are
    hashes of texts, as 64 hexadecimal digits: of the system prompt, and of the template of the user
    prompt. `schema` is the JSON schema of an answer, as it is sent.
    """

    base_url: str
    model: str
    response_format: str
    temperature: str | None = None
    timeout_seconds: str
    prompt_version: str
    system_prompt_sha256: str
    user_prompt_sha256: str
    schema: str

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the profile's canonical JSON, as 64 hexadecimal digits."""
        return sha256_of(journal.canonical_json(asdict(self)))


class SeriesDeclaration(Struct, frozen=True, kw_only=True):
    """
    A series, as the journal states it: its names, its kind and its profile.

    `holds_from` is the first Monday whose questions are asked with this profile.
    """

    name: str
    label: str
    kind: Literal["model"]
    holds_from: date
    profile: Profile
    profile_sha256: str


class ResponseKind(DescribedEnum):
    """What a provider's response contains."""

    CLOSES = "CLOSES", "Closing and opening prices of a ticker."
    SPLITS = "SPLITS", "Splits of a ticker."


class ProviderResponse(Struct, frozen=True, kw_only=True):
    """
    A response of a provider that was read: a READINGS entry states it with what was kept of it.

    `first_session` and `last_session` are the first and the last day in the body; None if it has no
    day. `sha256` is the hash of the body as it was received, as 64 hexadecimal digits.
    """

    source: str
    kind: ResponseKind
    ticker: str
    read_at: datetime
    first_session: date | None = None
    last_session: date | None = None
    sha256: str


class SeriesInForce(Struct, frozen=True, kw_only=True):
    """A series as this process runs it; a SERIES entry states it."""

    name: str
    label: str
    kind: Literal["model"] = "model"
    profile: Profile


class InForce(Struct, frozen=True, kw_only=True):
    """
    What is in force in this process: the values that it declares before it records.

    `calendar` is the calendar of the process, with MARKET_CLOSED_DAYS. `is_command` is true in a
    command of an operator. Such a command compares only what decides its figures: the benchmark,
    the calendar and the source of prices. So a command of another version writes no declaration.
    """

    version: str
    benchmark: str
    price_source: str
    calendar: Calendar
    timestamp_roots: tuple[str, ...] = ()
    series: tuple[SeriesInForce, ...] = ()
    is_command: bool = False

    def profile_of(self, series: str) -> Profile | None:
        """Return the profile of a series; None if this process does not run the series."""
        return next((one.profile for one in self.series if one.name == series), None)


def sha256_of(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def new_record_id() -> str:
    """Return the id of a new record: 128 random bits, as 32 hexadecimal digits."""
    return secrets.token_hex(_ID_BYTES)


def schema_text(schema: object) -> str:
    """Return a JSON schema as a profile states it: sorted members, no white space."""
    return json.dumps(schema, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def first_calendar_day(first_run_date: date, sessions: Calendar) -> date:
    """Return the first day of a new record's calendar: the baseline session of its first Monday."""
    return sessions.session_before(first_run_date)


def settings_in_force(
    in_force: InForce, *, calendar_from: date, calendar_to: date
) -> RecordSettings:
    """Return the settings that a process declares, with a calendar of these days."""
    sessions = in_force.calendar
    return RecordSettings(
        version=in_force.version,
        benchmark=in_force.benchmark,
        price_source=in_force.price_source,
        calendar_from=calendar_from,
        calendar_to=calendar_to,
        days_without_session=tuple(
            day for day in _weekdays(calendar_from, calendar_to) if not sessions.is_session(day)
        ),
        closed_days=tuple(sorted(sessions.closed)),
        timestamp_roots=tuple(sorted(in_force.timestamp_roots)),
    )


def last_calendar_day(today: date) -> date:
    """Return the last day of a calendar that is declared today."""
    # A forged entry may be of the last year that a date can have.
    return date(min(today.year + _YEARS_AHEAD, date.max.year), 12, 31)


def changed_settings(
    in_force: InForce, newest: RecordSettings, today: date
) -> RecordSettings | None:
    """
    Return the settings that a process must declare before it records; None if nothing differs.

    The calendar is extended once a year. Its end is never moved back: otherwise two processes
    could declare two different ends by turns, around a new year.

    A command extends no calendar, and declares only the fields that it compares. The others stay as
    they are, because they describe the processes that record every day.
    """
    calendar_to = newest.calendar_to
    if not in_force.is_command:
        calendar_to = max(calendar_to, last_calendar_day(today))
    declared = settings_in_force(
        in_force, calendar_from=newest.calendar_from, calendar_to=calendar_to
    )
    if in_force.is_command:
        declared = replace(declared, version=newest.version, timestamp_roots=newest.timestamp_roots)
    if differing_fields(newest, declared):
        return declared
    return None


def differing_fields(before: RecordSettings, after: RecordSettings) -> list[str]:
    """Return the names of the fields in which two settings differ, in the order of the fields."""
    names = RecordSettings.__struct_fields__
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def declare_series(series: SeriesInForce, holds_from: date) -> SeriesDeclaration:
    """Return the declaration of a series that holds from a Monday on."""
    return SeriesDeclaration(
        name=series.name,
        label=series.label,
        kind=series.kind,
        holds_from=holds_from,
        profile=series.profile,
        profile_sha256=series.profile.sha256,
    )


def is_declared(series: SeriesInForce, newest: SeriesDeclaration | None) -> bool:
    """Return whether the newest declaration of a series states it as this process runs it."""
    if newest is None:
        return False
    declared = (newest.label, newest.kind, newest.profile_sha256)
    return declared == (series.label, series.kind, series.profile.sha256)


def _weekdays(first: date, last: date) -> Iterable[date]:
    """Yield the days from Monday to Friday, from `first` to `last`."""
    day = first
    while day <= last:
        if is_weekday(day):
            yield day
        day += _DAY
