"""The rule `readings`: docs/journal.md, "Declarations and readings"."""

from independent_verifier.api import Row
from independent_verifier.declarations import is_sha256
from independent_verifier.declared import Declared
from independent_verifier.known import Entry, moment
from independent_verifier.refused import require
from independent_verifier.sessions import new_york_day

LISTS = {"CLOSES": "closes", "SPLITS": "splits", "RATES": "rates"}
# The column of a reading that is a day of its response.
DAY = {"closes": "trading_day", "rates": "observed_on"}


def check_sealed_readings(entry: Entry, declared: Declared) -> None:
    """Check the rule `readings`."""
    if entry.kind == "READINGS":
        keys = [key for key, _ in entry.rows]
        new = not entry.before and len(keys) == len(set(keys))
        require(new, "readings", f"{entry.where} mentions a row once more")
    elif declared.sealed:
        for key, _ in entry.rows:
            known = key[0] not in LISTS.values() or key in entry.before
            require(known, "readings", f"{entry.where}: no READINGS entry has {key}")
    if response := entry.content.get("response"):
        check_response(entry, declared, response)
        for key, row in entry.rows:
            check_row(entry, response, key[0], row)


def check_response(entry: Entry, declared: Declared, response: Row) -> None:
    """Check the rule `readings`, of a response."""
    fits = is_sha256(response["sha256"])
    require(fits, "readings", f"{entry.where}: sha256 is {response['sha256']!r}")
    providers = {settings["price_source"].split(" ")[0] for settings in declared.settings}
    source = response["source"]
    fits = source.startswith(tuple(providers))
    require(fits, "readings", f"{entry.where}: {source!r} is no declared provider")
    fits = moment(response["read_at"]) == entry.at
    require(fits, "readings", f"{entry.where} was read at {response['read_at']}")
    first, last = response.get("first_session"), response.get("last_session")
    both = (first is None) == (last is None)
    require(both, "readings", f"{entry.where} has only one of the first and the last session")
    in_order = first is None or first <= last
    require(in_order, "readings", f"{entry.where} is from {first} to {last}")
    if response["kind"] != "SPLITS" and last is not None:
        not_later = last <= str(new_york_day(entry.at))
        require(not_later, "readings", f"{entry.where} has a session after it was read: {last}")
    is_about_rates = response["kind"] == "RATES"
    for fits in ("ticker" not in response, "rates" in entry.content):
        require(fits == is_about_rates, "readings", f"{entry.where} has what only RATES have")
    others = {table for (table, _), _ in entry.rows} - {LISTS[response["kind"]]}
    require(not others, "readings", f"{entry.where} has readings of another kind: {others}")


def check_row(entry: Entry, response: Row, table: str, row: Row) -> None:
    """Check the rule `readings`, of a reading beside its response."""
    for column in ("ticker", "read_at"):
        fits = row.get(column) == response.get(column)
        require(fits, "readings", f"{entry.where}: {column} of a reading is {row.get(column)}")
    fits = row["source"].startswith(response["source"])
    require(fits, "readings", f"{entry.where}: the source of a reading is {row['source']!r}")
    if table in DAY:
        first, last = response.get("first_session"), response.get("last_session")
        day = row[DAY[table]]
        fits = first is not None and first <= day <= last
        require(fits, "readings", f"{entry.where}: {day} is not in the response")
