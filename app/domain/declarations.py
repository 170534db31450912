"""
Declarations: what the journal states about the record before it records anything else.

A declaration is an entry of one of three kinds:

- GENESIS begins a sealed record: its id, its origin, and its first settings.
- SETTINGS has the settings of the record after a change.
- SERIES has the profile of a series: everything that decides what the model is asked, or what a
  control draws from. It also says that a series is retired: that it is asked no more.

A process that records compares what is in force in it with the newest declarations, and first
writes a new declaration where the two differ. So each change of a setting that decides a figure has
an entry that shows it. docs/journal.md#declarations has the rules.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from app.domain import journal
from app.domain.calendar import Calendar, is_weekday
from app.domain.control import UNIVERSE_NOTICE
from app.domain.model import DescribedEnum, SeriesKind

# The calendar of a declaration ends with the year that is this many years after the current one.
_YEARS_AHEAD = 2
# In bytes: the length of a record's id.
_ID_BYTES = 16

_DAY = timedelta(days=1)
_DAYS_PER_WEEK = 7


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
    - `further_benchmarks`: the tickers that are shown beside the benchmark, in the order of the
      setting BENCHMARKS; None if there are none
    """

    version: str
    benchmark: str
    price_source: str
    calendar_from: date
    calendar_to: date
    days_without_session: tuple[date, ...] = ()
    closed_days: tuple[date, ...] = ()
    timestamp_roots: tuple[str, ...] = ()
    further_benchmarks: tuple[str, ...] | None = None


class Profile(Struct, frozen=True, kw_only=True):
    """
    Everything that decides what a model is asked, except the question of one Monday.

    It has no key. `base_url` has no user information, no query and no fragment. It is empty for the
    default address. The members that are None are not sent: `temperature`, `reasoning_effort`,
    `max_tokens` with the name under which it is sent, `token_limit_as`, and `extra_body`, which has
    additional members of a request as JSON. `tools` is true if the model has tools or searches the
    web. The members that end in `_sha256` are hashes of texts, as 64 hexadecimal digits: of the
    system prompt, and of the template of the user prompt. `schema` is the JSON schema of an answer,
    as it is sent.
    """

    base_url: str
    model: str
    response_format: str
    temperature: str | None = None
    reasoning_effort: str | None = None
    max_tokens: str | None = None
    token_limit_as: str | None = None
    extra_body: str | None = None
    tools: bool | None = None
    timeout_seconds: str
    prompt_version: str
    system_prompt_sha256: str
    user_prompt_sha256: str
    schema: str

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the profile's canonical JSON, as 64 hexadecimal digits."""
        return _sha256_of_profile(self)


class ControlProfile(Struct, frozen=True, kw_only=True):
    """
    Everything that decides what a control draws, except the Monday.

    `draw_version` is the version of the rules of the draws (`app.domain.control`). `universe` are
    the tickers to draw from, in ascending order, and `universe_source` says where they come from.
    """

    draw_version: str
    universe: tuple[str, ...]
    universe_source: str

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the profile's canonical JSON, as 64 hexadecimal digits."""
        return _sha256_of_profile(self)


def _sha256_of_profile(profile: Profile | ControlProfile) -> str:
    return sha256_of(journal.canonical_json(asdict(profile)))


class SeriesDeclaration(Struct, frozen=True, kw_only=True):
    """
    A series, as the journal states it: its names, its kind and its profile.

    `holds_from` is the first Monday of this profile. `retired` is True if the series is asked no
    more from that Monday on. The two subclasses have the profiles of the two kinds.
    """

    name: str
    label: str
    holds_from: date
    retired: bool | None = None
    profile_sha256: str

    @property
    def terms(self) -> tuple[object, ...]:
        """Return what must differ between two declarations of a series that follow each other."""
        kind = declared_kind(self)
        return self.label, kind, self.profile_sha256, bool(self.retired)


class ModelDeclaration(SeriesDeclaration, frozen=True, kw_only=True):
    """The declaration of a series that asks a model."""

    kind: Literal["model"] = "model"
    profile: Profile


class ControlDeclaration(SeriesDeclaration, frozen=True, kw_only=True):
    """The declaration of a control."""

    kind: Literal["random"] = "random"
    profile: ControlProfile


AnyDeclaration = ModelDeclaration | ControlDeclaration


def declared_kind(declaration: SeriesDeclaration) -> SeriesKind:
    """Return the kind of a declared series."""
    if isinstance(declaration, ControlDeclaration):
        return SeriesKind.RANDOM
    return SeriesKind.MODEL


def is_known_kind(series: object) -> bool:
    """
    Return whether this version knows the kind of the member `series` of a SERIES entry.

    A later version may write other kinds. A member that cannot be read counts as known: it may be
    damaged.
    """
    if not isinstance(series, Mapping) or not isinstance(series.get("kind"), str):
        return True
    return series["kind"] in tuple(SeriesKind)


def declaration_type(series: object) -> type[AnyDeclaration]:
    """Return the type of the member `series` of a SERIES entry, which is not decoded yet."""
    if isinstance(series, Mapping) and series.get("kind") == SeriesKind.RANDOM:
        return ControlDeclaration
    return ModelDeclaration


class ResponseKind(DescribedEnum):
    """What a provider's response contains."""

    CLOSES = "CLOSES", "Closing and opening prices of a ticker."
    SPLITS = "SPLITS", "Splits of a ticker."
    DIVIDENDS = "DIVIDENDS", "Dividends of a ticker."
    RATES = "RATES", "The rate of a loan without risk, week by week."


class ProviderResponse(Struct, frozen=True, kw_only=True):
    """
    A response of a provider that was read: a READINGS entry states it with what was kept of it.

    `ticker` is None for rates. `first_session` and `last_session` are the first and the last day in
    the body; None if it has no day. `ex_dates` are all ex-dates in the body, in ascending order,
    future ones too; only a response with dividends has them. `sha256` is the hash of the body as it
    was received, as 64 hexadecimal digits.
    """

    source: str
    kind: ResponseKind
    ticker: str | None = None
    read_at: datetime
    first_session: date | None = None
    last_session: date | None = None
    ex_dates: tuple[date, ...] | None = None
    sha256: str


class SeriesInForce(Struct, frozen=True, kw_only=True):
    """A series as this process runs it; a SERIES entry states it."""

    name: str
    label: str
    profile: Profile | ControlProfile

    @property
    def kind(self) -> SeriesKind:
        """Return the kind of the series."""
        if isinstance(self.profile, ControlProfile):
            return SeriesKind.RANDOM
        return SeriesKind.MODEL


class InForce(Struct, frozen=True, kw_only=True):
    """
    What is in force in this process: the values that it declares before it records.

    `calendar` is the calendar of the process, with MARKET_CLOSED_DAYS. `further_benchmarks` are the
    tickers that are shown beside the benchmark. `is_command` is true in a command of an operator.
    Such a command compares only what decides its figures: the benchmark, the calendar and the
    source of prices. So a command of another version writes no declaration. No command stores a
    batch, so the further benchmarks decide none of its figures.
    """

    version: str
    benchmark: str
    price_source: str
    calendar: Calendar
    timestamp_roots: tuple[str, ...] = ()
    further_benchmarks: tuple[str, ...] = ()
    series: tuple[SeriesInForce, ...] = ()
    is_command: bool = False

    def series_named(self, name: str) -> SeriesInForce | None:
        """Return a series of this process; None if the process does not run it."""
        return next((one for one in self.series if one.name == name), None)


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
        further_benchmarks=in_force.further_benchmarks or None,
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
        declared = replace(
            declared,
            version=newest.version,
            timestamp_roots=newest.timestamp_roots,
            further_benchmarks=newest.further_benchmarks,
        )
    if differing_fields(newest, declared):
        return declared
    return None


def differing_fields(before: RecordSettings, after: RecordSettings) -> list[str]:
    """Return the names of the fields in which two settings differ, in the order of the fields."""
    names = RecordSettings.__struct_fields__
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def declare_series(series: SeriesInForce, holds_from: date) -> AnyDeclaration:
    """Return the declaration of a series that holds from a Monday on."""
    if isinstance(series.profile, ControlProfile):
        return ControlDeclaration(
            name=series.name,
            label=series.label,
            holds_from=holds_from,
            profile=series.profile,
            profile_sha256=series.profile.sha256,
        )
    return ModelDeclaration(
        name=series.name,
        label=series.label,
        holds_from=holds_from,
        profile=series.profile,
        profile_sha256=series.profile.sha256,
    )


def is_declared(series: SeriesInForce, newest: SeriesDeclaration | None) -> bool:
    """Return whether the newest declaration of a series states it as this process runs it."""
    if newest is None:
        return False
    return newest.terms == (series.label, series.kind, series.profile.sha256, False)


def explain_other_kind(series: SeriesInForce, newest: AnyDeclaration | None) -> str | None:
    """Return why a series cannot be asked if the record has one of another kind; else None."""
    if newest is None or declared_kind(newest) is series.kind:
        return None
    return (
        f"SERIES_FILE: [{series.name}] is of the kind {series.kind}, but the record has a series "
        f"of this name of the kind {declared_kind(newest)}. A name lasts: give the new series "
        "another name."
    )


def changed_series(
    series: SeriesInForce, newest: AnyDeclaration | None, *, run_date: date, today: date
) -> AnyDeclaration | None:
    """
    Return the declaration of a series that is due before a question of the Monday `run_date`.

    None if the newest declaration states the series as this process runs it. A new profile of a
    model holds at once. A new profile of a control is declared `UNIVERSE_NOTICE` before it holds:
    otherwise an operator could choose among several universes when the draws of each are known.
    The first one holds at once, because the draws depend on its own entry.

    None also if the record has a series of this name and of another kind: it is not asked at all
    (`app.store.generations.claim`), and must not hinder the questions of other series.
    """
    if is_declared(series, newest):
        return None
    if newest is not None and declared_kind(newest) is not series.kind:
        return None
    if newest is None:
        return declare_series(series, run_date)
    holds_from = max(run_date, newest.holds_from)
    is_new_profile = newest.profile_sha256 != series.profile.sha256
    if series.kind is not SeriesKind.RANDOM or not is_new_profile:
        return declare_series(series, holds_from)
    if newest.retired:
        # A control that comes back draws from its former universe until the new one holds, which
        # the next question declares.
        return replace(newest, label=series.label, holds_from=holds_from, retired=None)
    notice_ends = next_monday(today + UNIVERSE_NOTICE)
    return declare_series(series, max(holds_from, notice_ends))


def retirement(newest: AnyDeclaration, run_date: date) -> AnyDeclaration:
    """Return the declaration that a series is asked no more from the Monday `run_date` on."""
    return replace(newest, holds_from=max(run_date, newest.holds_from), retired=True)


def next_monday(day: date) -> date:
    """Return the first Monday that is `day` or later."""
    return day + timedelta(days=-day.weekday() % _DAYS_PER_WEEK)


def in_force_on(declared: Iterable[AnyDeclaration], run_date: date) -> AnyDeclaration | None:
    """
    Return the declaration that holds on a Monday; None if there is none.

    `declared` are the declarations of one series, in the order of the journal. The newest one that
    holds from that Monday, or from an earlier one, is in force.
    """
    found = None
    for one in declared:
        if one.holds_from <= run_date:
            found = one
    return found


def expected_mondays(
    declared: Sequence[AnyDeclaration],
    recorded: Collection[date],
    *,
    asked: Collection[date],
    first_of_record: date,
    until: date,
) -> Iterator[date]:
    """
    Yield the Mondays before `until` on which a series must have a row, in ascending order.

    `declared` are the declarations of the series, in the order of the journal, and `recorded` its
    Mondays with a row. The first Monday is that of its first row, or that of its first declaration
    if it joined a record that already had a Monday, `first_of_record`. On a Monday of which it is
    retired, the series need not have a row. But if it was `asked` on this Monday, it must have one:
    otherwise an operator could retire it after seeing the answer, and the answer would be of no
    batch.
    """
    first = min(recorded, default=None)
    if declared:
        joined = max(declared[0].holds_from, first_of_record)
        first = joined if first is None else min(first, joined)
    if first is None:
        return
    for days in range(0, max(0, (until - first).days), _DAYS_PER_WEEK):
        monday = first + timedelta(days=days)
        in_force = in_force_on(declared, monday)
        is_retired = in_force is not None and in_force.retired
        if not is_retired or monday in asked:
            yield monday


def find_renamed(
    series: Iterable[SeriesInForce], declared: Iterable[AnyDeclaration]
) -> tuple[str, str] | None:
    """
    Return the old and the new name of a series that seems to be renamed; None if there is none.

    `declared` are the newest declarations of all series. A series seems to be renamed if this
    process no longer runs it, and runs a new series that asks the same model in the same way. The
    name of a series lasts: its results would otherwise be torn in two.
    """
    series = list(series)
    names = {one.name for one in series}
    active = [one for one in declared if not one.retired]
    known = {one.name for one in declared}
    for missing in active:
        for one in series:
            is_new = missing.name not in names and one.name not in known
            if is_new and _asks_alike(one.profile, missing.profile):
                return missing.name, one.name
    return None


def _asks_alike(one: Profile | ControlProfile, other: Profile | ControlProfile) -> bool:
    """Return whether two profiles ask the same model alike, or are both of controls."""
    if isinstance(one, Profile) and isinstance(other, Profile):
        return _requested(one) == _requested(other)
    return isinstance(one, ControlProfile) and isinstance(other, ControlProfile)


def _requested(profile: Profile) -> tuple[object, ...]:
    return (
        profile.base_url,
        profile.model,
        profile.reasoning_effort,
        profile.temperature,
        profile.extra_body,
    )


def _weekdays(first: date, last: date) -> Iterable[date]:
    """Yield the days from Monday to Friday, from `first` to `last`."""
    day = first
    while day <= last:
        if is_weekday(day):
            yield day
        day += _DAY
