"""The rule `profile`, and the calendar of a question: docs/journal.md, "Questions"."""

import hashlib
from datetime import date

from independent_verifier.api import Row
from independent_verifier.declared import Declared
from independent_verifier.known import Entry
from independent_verifier.refused import require
from independent_verifier.sessions import DAY


def check_profiles(entry: Entry, declared: Declared) -> None:
    """Check the rule `profile` at the first mention of each question of an entry."""
    for key, row in entry.of("generations"):
        if key in entry.before:
            continue
        if declared.sealed:
            check_profile(entry, declared, row)
            last = date.fromisoformat(declared.settings[-1]["calendar_to"])
            fits = last - date.fromisoformat(row["run_date"]) >= 14 * DAY
            require(fits, "settings", f"{entry.where}: the calendar ends on {last}")
        else:
            has_none = "profile_sha256" not in row
            require(has_none, "profile", f"{entry.where} has a profile in an unsealed record")


def check_profile(entry: Entry, declared: Declared, row: Row) -> None:
    """Check a question against the declaration of its series."""
    series = declared.newest_series(row["series"])
    if series and series["kind"] == "random":
        series = declared.series_in_force(row["series"], row["run_date"]) or series
    require(series, "profile", f"{entry.where}: no SERIES entry declares {row['series']}")
    fits = row.get("profile_sha256") == series["profile_sha256"]
    require(fits, "profile", f"{entry.where}: profile_sha256 is {row.get('profile_sha256')}")
    fits = row["run_date"] >= series["holds_from"]
    require(fits, "profile", f"{entry.where}: the profile holds from {series['holds_from']}")
    require("retired" not in series, "profile", f"{entry.where}: the series is retired")
    profile = series["profile"]
    if series["kind"] == "random":
        found = [row[name] for name in ("requested_model", "system_prompt", "user_prompt")]
        require(found == ["random", "", ""], "profile", f"{entry.where}: no draw asks {found}")
        fits = row["prompt_version"] == f"draw-{profile['draw_version']}"
        require(fits, "profile", f"{entry.where}: prompt_version is {row['prompt_version']}")
        return
    fits = row["requested_model"] == profile["model"]
    require(fits, "profile", f"{entry.where} asks {row['requested_model']}")
    fits = row["prompt_version"] == profile["prompt_version"]
    require(fits, "profile", f"{entry.where}: prompt_version is {row['prompt_version']}")
    fits = row.get("reasoning_effort") == profile.get("reasoning_effort")
    require(fits, "profile", f"{entry.where}: its reasoning_effort is another one")
    hashed = hashlib.sha256(row["system_prompt"].encode("utf-8")).hexdigest()
    fits = hashed == profile["system_prompt_sha256"]
    require(fits, "profile", f"{entry.where} has another system_prompt")
