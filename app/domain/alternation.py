"""
Declarations that alternate: the sign of two processes that record with different settings.

A process declares its settings before it records, if the newest ones differ
(`app.domain.declarations`). So if two processes differ and both record, each declares its own
settings again and again: A, B, A, B. A change is one entry (A, B), and a rollback is two (A, B, A).
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace

from app.domain.declarations import AnyDeclaration, RecordSettings
from app.domain.model import SERIES

T = TypeVar("T", RecordSettings, AnyDeclaration)

# This many of the newest declarations must alternate: a rollback that is taken back is not enough.
_LEAST_ENTRIES = 4

# They must alternate for this long: during a deployment, an old and a new process work side by side
# for some minutes.
_LEAST_TIME = timedelta(hours=1)

# Without a declaration for this long, the processes do not differ any more. The mornings of two
# days are 24 hours apart, so such a pause contains a morning.
LONGEST_PAUSE = timedelta(hours=36)

# What a field of a declaration comes from. The fields of a series that SERIES_FILE has come from
# `_SOURCES_IN_FILE`, if they are listed there.
_SOURCES = {
    "version": "the version of Alpha Monday",
    "benchmark": "BENCHMARK_SYMBOL",
    "further_benchmarks": "BENCHMARKS",
    "price_source": "the provider of prices",
    "days_without_session": "the calendar of the exchange",
    "closed_days": "MARKET_CLOSED_DAYS",
    "timestamp_roots": "TIMESTAMP_ROOTS",
    "label": "the name of the series",
    "base_url": "OPENAI_BASE_URL",
    "model": "OPENAI_MODEL",
    "temperature": "OPENAI_TEMPERATURE",
    "timeout_seconds": "OPENAI_TIMEOUT",
    "response_format": "the response format",
    "prompt_version": "the version of the prompt",
    "system_prompt_sha256": "the system prompt",
    "user_prompt_sha256": "the prompt",
    "schema": "the JSON schema of an answer",
    "reasoning_effort": "reasoning_effort in SERIES_FILE",
    "max_tokens": "max_tokens in SERIES_FILE",
    "token_limit_as": "token_limit_as in SERIES_FILE",
    "extra_body": "extra_body in SERIES_FILE",
    "tools": "tools in SERIES_FILE",
    "kind": "kind in SERIES_FILE",
    "retired": "whether SERIES_FILE has the series",
    "draw_version": "the version of the draws",
    "universe": "the tickers that a control draws from",
}
# The options of a table of SERIES_FILE from which a field comes, by the field.
_SOURCES_IN_FILE = {
    "label": "label",
    "base_url": "base_url",
    "model": "model",
    "temperature": "temperature",
    "timeout_seconds": "timeout_seconds",
    "response_format": "response_format",
    "reasoning_effort": "reasoning_effort",
    "max_tokens": "max_tokens",
    "token_limit_as": "token_limit_as",
    "extra_body": "extra_body",
    "tools": "tools",
    "kind": "kind",
}

# These fields are compared, but their values are too long to be shown.
_WITHOUT_VALUES = frozenset(
    {
        "days_without_session",
        "extra_body",
        "schema",
        "system_prompt_sha256",
        "universe",
        "user_prompt_sha256",
    }
)

# If the field on the left differs, the field on the right differs because of it.
_CAUSES = {"closed_days": "days_without_session", "model": "label"}


class Declared(Struct, Generic[T], frozen=True):
    """Settings, or a series, with the time of the entry that declares them."""

    at: datetime
    value: T


class Difference(Struct, frozen=True):
    """
    A field in which two processes differ.

    `source` is what the value comes from, such as `BENCHMARK_SYMBOL`. `values` are the newest value
    and the one before it, as texts; the tuple is empty if they are too long.
    """

    field: str
    source: str
    values: tuple[str, ...]


class Alternation(Struct, frozen=True):
    """
    Two processes that differ.

    `since` is the time of the first entry after the newest pause of more than LONGEST_PAUSE.
    `differences` are the fields in which the two newest entries differ. `series` is the name of the
    series that they declare; None for the settings of the record.
    """

    since: datetime
    differences: list[Difference]
    series: str | None = None


def find_alternation(
    entries: Sequence[Declared[T]], now: datetime, *, has_file: bool = False
) -> Alternation | None:
    """
    Return how the newest of `entries` alternate; None if they do not, or not any more.

    `entries` are the newest declarations of one kind, or of one series, the newest one first.
    `has_file` is whether the series of this process come from SERIES_FILE: then the differences
    name its options.
    """
    # The yearly extension of the calendar is an entry of its own, which changes no setting.
    changes = [
        entry for entry, before in pairwise(entries) if _differing_fields(entry.value, before.value)
    ]
    changes += entries[-1:]
    if not changes or changes[0].at < now - LONGEST_PAUSE:
        return None
    alternating = _alternating(changes)
    is_long = changes[0].at - alternating[-1].at >= _LEAST_TIME
    if len(alternating) < _LEAST_ENTRIES or not is_long:
        return None

    since = changes[0].at
    for entry in changes[1:]:
        if since - entry.at > LONGEST_PAUSE:
            break
        since = entry.at
    newest = changes[0].value
    differences = _describe(newest, changes[1].value, has_file=has_file)
    return Alternation(since, differences, _series_name(newest))


def _series_name(declared: RecordSettings | AnyDeclaration) -> str | None:
    return None if isinstance(declared, RecordSettings) else declared.name


def _alternating(changes: Sequence[Declared[T]]) -> list[Declared[T]]:
    """Return the newest of `changes`, up to the first one that breaks the order A, B, A, B."""
    found = list(changes[:2])
    for entry in changes[2:]:
        if _differing_fields(entry.value, found[-2].value):
            break
        found.append(entry)
    return found


def _describe(newest: T, before: T, *, has_file: bool) -> list[Difference]:
    series = _series_name(newest)
    names = _differing_fields(newest, before)
    caused = {_CAUSES.get(name) for name in names}
    after, earlier = _fields(newest), _fields(before)
    differences = []
    for name in names:
        values: tuple[str, ...] = ()
        if name not in _WITHOUT_VALUES:
            values = (_to_text(after[name]), _to_text(earlier[name]))
        if name not in caused:
            source = _source(name, series, has_file=has_file)
            differences.append(Difference(name, source, values))
    return differences


def _source(field: str, series: str | None, *, has_file: bool) -> str:
    """Return what a field comes from. `series` is the series that has the field, if one has it."""
    if series is None:
        return _SOURCES[field]
    # Only a file can have a series with another name than the usual one.
    if series == SERIES and not has_file:
        return _SOURCES[field]
    if field == "retired":
        return f"whether SERIES_FILE has [{series}]"
    if field in _SOURCES_IN_FILE:
        return f"{_SOURCES_IN_FILE[field]} of [{series}] in SERIES_FILE"
    return f"{_SOURCES[field]} (series {series})"


def _differing_fields(newest: T, before: T) -> list[str]:
    after, earlier = _fields(newest), _fields(before)
    if isinstance(newest, RecordSettings) and isinstance(before, RecordSettings):
        # The end of the calendar is no setting: only the days that both calendars have are
        # compared.
        end = min(newest.calendar_to, before.calendar_to)
        after, earlier = _fields(_until(newest, end)), _fields(_until(before, end))
    if after.get("kind") != earlier.get("kind"):
        # A model and a control have different fields.
        return ["kind"]
    return [name for name in after if after[name] != earlier[name]]


def _fields(declared: RecordSettings | AnyDeclaration) -> dict[str, object]:
    """Return the fields that a process decides."""
    fields = asdict(declared)
    if not isinstance(declared, RecordSettings):
        fields = {
            "kind": declared.kind,
            "label": declared.label,
            "retired": declared.retired,
            **asdict(declared.profile),
        }
    return {name: value for name, value in fields.items() if name in _SOURCES}


def _until(settings: RecordSettings, end: date) -> RecordSettings:
    days = tuple(day for day in settings.days_without_session if day <= end)
    return replace(settings, days_without_session=days)


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in (None, "") else "not set"
