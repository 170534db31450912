"""The rules of declarations: docs/journal.md, "Declarations and readings"."""

import hashlib
import re
from datetime import date

from independent_verifier.declared import Declared, Settings
from independent_verifier.forms import canonical, is_ticker, is_written
from independent_verifier.known import Entry
from independent_verifier.refused import require
from independent_verifier.sessions import (
    DAY,
    MONDAY,
    SATURDAY,
    holidays,
    in_new_york,
    new_york_day,
)

SHA256 = re.compile(r"[0-9a-f]{64}")
RECORD_ID = re.compile(r"[0-9a-f]{32}")
NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
NEEDED_IN_PROFILE = ("model", "response_format", "timeout_seconds", "prompt_version", "schema")


def is_sha256(text: str) -> bool:
    """Return whether a text is a SHA-256 in lower case."""
    return SHA256.fullmatch(text) is not None


def check_declarations(
    entry: Entry,
    declared: Declared,
    *,
    hash: str,
    mondays: list[tuple[str, str]],
    series_of_rows: set[str],
) -> None:
    """
    Check the rules `genesis`, `settings` and `series`, and add the entry's declarations.

    `hash` is the hash of the entry, `mondays` are the batches that earlier entries mention, and
    `series_of_rows` the series of the rows up to this entry.
    """
    check_genesis(entry, declared)
    if settings := entry.content.get("settings"):
        check_settings(entry, settings)
        if declared.settings:
            check_new_settings(entry, settings, declared.settings[-1])
        if entry.kind == "GENESIS":
            check_first_calendar(entry, settings, [run_date for _, run_date in mondays])
    if series := entry.content.get("series"):
        check_series(entry, series, declared.newest_series(series["name"]))
    if entry.kind == "GENESIS" and entry.content["genesis"]["late"] == "true":
        declared.series_before_seal = set(series_of_rows)
    declared.learn(entry.content, hash)
    if entry.kind in ("BATCH", "FAILURE") and declared.sealed:
        symbol = entry.content["batch"]["benchmark_symbol"]
        fits = symbol == declared.settings[-1]["benchmark"]
        require(fits, "settings", f"{entry.where}: {symbol} is not the declared benchmark")
        name = entry.content["batch"]["series"]
        fits = name in declared.series or name in (declared.series_before_seal or ())
        require(fits, "series", f"{entry.where}: {name} is not declared")


def check_genesis(entry: Entry, declared: Declared) -> None:
    """Check the rule `genesis`."""
    if entry.kind == "GENESIS":
        require(declared.genesis is None, "genesis", f"{entry.where} is a second one")
        genesis = entry.content["genesis"]
        late = entry.seq > 1
        fits = genesis["late"] == str(late).lower()
        require(fits, "genesis", f"{entry.where}: late is {genesis['late']}")
        origins = ("REHEARSED", "UNKNOWN") if late else ("LIVE", "REHEARSED")
        fits = genesis["origin"] in origins
        require(fits, "genesis", f"{entry.where}: the origin is {genesis['origin']}")
        fits = RECORD_ID.fullmatch(genesis["record_id"])
        require(fits, "genesis", f"{entry.where}: the record_id is {genesis['record_id']!r}")
        return
    if entry.kind in ("SETTINGS", "SERIES", "READINGS"):
        require(declared.genesis is not None, "genesis", f"{entry.where} is before a GENESIS")
    of_sealing = "adopted" in entry.content or "sealed" in entry.content
    fits = of_sealing == declared.is_being_sealed
    require(fits, "genesis", f"{entry.where}: the record is being sealed, or it is not")


def check_sealing_ended(declared: Declared) -> None:
    """Check the rule `genesis` after the last entry."""
    ended = not declared.is_being_sealed
    require(ended, "genesis", "the journal ends while the record is being sealed")


def check_settings(entry: Entry, settings: Settings) -> None:
    """Check the rule `settings`, of any settings."""
    for name in ("version", "price_source"):
        require(is_written(settings[name]), "settings", f"{entry.where}: {name} is empty")
    fits = not settings["price_source"].startswith(" ")
    require(fits, "settings", f"{entry.where}: price_source begins with a space")
    fits = is_ticker(settings["benchmark"])
    require(fits, "settings", f"{entry.where}: the benchmark is {settings['benchmark']!r}")
    if (further := settings.get("further_benchmarks")) is not None:
        alone = further and len(set(further)) == len(further)
        fits = alone and settings["benchmark"] not in further and all(map(is_ticker, further))
        require(fits, "settings", f"{entry.where}: the further benchmarks are {further}")
    first, last = settings["calendar_from"], settings["calendar_to"]
    require(first <= last, "settings", f"{entry.where}: the calendar is from {first} to {last}")
    for name in ("days_without_session", "closed_days", "timestamp_roots"):
        fits = settings[name] == sorted(set(settings[name]))
        require(fits, "settings", f"{entry.where}: {name} is not in ascending order")
    listed = settings["days_without_session"]
    for day in listed:
        require(is_workday(settings, day), "settings", f"{entry.where} lists {day}")
    for day in settings["closed_days"]:
        fits = day in listed or not is_workday(settings, day)
        require(fits, "settings", f"{entry.where} does not list {day}, which is closed")
    first_year, last_year = int(first[:4]), int(last[:4])
    for year in range(max(first_year, 2000), min(last_year, 2099) + 1):
        for day in map(str, sorted(holidays(year))):
            fits = day in listed or not is_workday(settings, day)
            require(fits, "settings", f"{entry.where} does not list {day}, a holiday")
    for root in settings["timestamp_roots"]:
        require(is_sha256(root), "settings", f"{entry.where}: {root!r} is no SHA-256")


def check_first_calendar(entry: Entry, settings: Settings, run_dates: list[str]) -> None:
    """Check the rule `settings`, of the calendar of a GENESIS entry."""
    today = new_york_day(entry.at)
    monday = today - today.weekday() * DAY
    if entry.at < in_new_york(monday, 9):
        monday -= 7 * DAY
    first_monday = min([*map(date.fromisoformat, run_dates), monday])
    fits = first_monday - date.fromisoformat(settings["calendar_from"]) >= 3 * DAY
    require(fits, "settings", f"{entry.where}: the calendar begins too late for {first_monday}")
    fits = settings["calendar_to"] >= f"{min(today.year + 2, 9999):04}-12-31"
    require(fits, "settings", f"{entry.where}: the calendar ends too early")


def is_workday(settings: Settings, day: str) -> bool:
    """Return whether a day is one from Monday to Friday of the settings' calendar."""
    has = settings["calendar_from"] <= day <= settings["calendar_to"]
    return has and date.fromisoformat(day).weekday() < SATURDAY


def check_new_settings(entry: Entry, settings: Settings, before: Settings) -> None:
    """Check the rule `settings`, of settings that follow others."""
    fits = settings["calendar_from"] == before["calendar_from"]
    require(fits, "settings", f"{entry.where}: the calendar begins on another day")
    fits = settings["calendar_to"] >= before["calendar_to"]
    require(fits, "settings", f"{entry.where}: the calendar ends earlier")
    fits = settings != before or "sealed" in entry.content
    require(fits, "settings", f"{entry.where} declares nothing new")


def check_series(entry: Entry, series: dict, before: dict | None) -> None:
    """Check the rule `series`. `before` is the newest series of the same name."""
    fits = NAME.fullmatch(series["name"])
    require(fits, "series", f"{entry.where}: the name is {series['name']!r}")
    require(is_written(series["label"]), "series", f"{entry.where}: the label is empty")
    profile = series["profile"]
    for marker in (series.get("retired"), profile.get("tools")):
        require(marker in (None, "true"), "series", f"{entry.where}: a marker is {marker!r}")
    if series["kind"] == "random":
        check_universe(entry, profile)
    else:
        for name in ("system_prompt_sha256", "user_prompt_sha256"):
            require(is_sha256(profile[name]), "series", f"{entry.where}: {name}")
        for name in NEEDED_IN_PROFILE:
            require(is_written(profile[name]), "series", f"{entry.where}: {name} is empty")
    hashed = hashlib.sha256(canonical(profile).encode("utf-8")).hexdigest()
    fits = series["profile_sha256"] == hashed
    require(fits, "series", f"{entry.where}: the profile has the hash {hashed}")
    holds_from = date.fromisoformat(series["holds_from"])
    fits = holds_from.weekday() == MONDAY
    require(fits, "series", f"{entry.where}: {holds_from} is no Monday")
    if before is None:
        require("retired" not in series, "series", f"{entry.where} retires an unknown series")
    else:
        check_next_series(entry, series, before)


def check_universe(entry: Entry, profile: dict) -> None:
    """Check the rule `series`, of the profile of a control."""
    for name in ("draw_version", "universe_source"):
        require(is_written(profile[name]), "series", f"{entry.where}: {name} is empty")
    universe = profile["universe"]
    fits = universe == sorted(set(universe)) and all(map(is_ticker, universe))
    require(fits, "series", f"{entry.where}: the universe is {universe[:9]}")


def check_next_series(entry: Entry, series: dict, before: dict) -> None:
    """Check the rule `series`, of a series that was declared before."""
    fits = series["kind"] == before["kind"]
    require(fits, "series", f"{entry.where} has another kind than before")
    fits = series["holds_from"] >= before["holds_from"]
    require(fits, "series", f"{entry.where} holds from an earlier Monday than before")
    today = new_york_day(entry.at)
    fits = series["holds_from"] >= str(today - today.weekday() * DAY)
    require(fits, "series", f"{entry.where} holds from before its own week")
    same_profile = series["profile_sha256"] == before["profile_sha256"]
    differs = any(series.get(name) != before.get(name) for name in ("label", "retired"))
    require(differs or not same_profile, "series", f"{entry.where} declares nothing new")
    fits = same_profile or "retired" not in series
    require(fits, "series", f"{entry.where} retires with another profile")
    if series["kind"] == "random" and not same_profile:
        notice = date.fromisoformat(series["holds_from"]) - today
        require(notice >= 28 * DAY, "series", f"{entry.where} holds {notice} later")
