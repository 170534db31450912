"""The rule `readings`: docs/journal.md, "Declarations and readings"."""

from decimal import Decimal

from independent_verifier.api import Row
from independent_verifier.declarations import is_sha256
from independent_verifier.declared import Declared
from independent_verifier.known import Entry, moment
from independent_verifier.refused import require
from independent_verifier.sessions import new_york_day

LISTS = {"CLOSES": "closes", "SPLITS": "splits", "DIVIDENDS": "dividends", "RATES": "rates"}
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
    if response["kind"] in ("CLOSES", "RATES") and last is not None:
        not_later = last <= str(new_york_day(entry.at))
        require(not_later, "readings", f"{entry.where} has a session after it was read: {last}")
    is_about_rates = response["kind"] == "RATES"
    for fits in ("ticker" not in response, "rates" in entry.content):
        require(fits == is_about_rates, "readings", f"{entry.where} has what only RATES have")
    is_about_dividends = response["kind"] == "DIVIDENDS"
    for fits in ("ex_dates" in response, "dividends" in entry.content):
        text = f"{entry.where} has what only DIVIDENDS have, or lacks it"
        require(fits == is_about_dividends, "readings", text)
    if is_about_dividends:
        check_ex_dates(entry, response)
    others = {table for (table, _), _ in entry.rows} - {LISTS[response["kind"]]}
    require(not others, "readings", f"{entry.where} has readings of another kind: {others}")


def check_ex_dates(entry: Entry, response: Row) -> None:
    """Check the rule `readings`, of the ex-dates of a response."""
    days = response["ex_dates"]
    fits = days == sorted(set(days))
    require(fits, "readings", f"{entry.where}: ex_dates are not in ascending order, each once")
    ends = (days[0], days[-1]) if days else (None, None)
    fits = (response.get("first_session"), response.get("last_session")) == ends
    require(fits, "readings", f"{entry.where}: its first and last session are not {ends}")


def check_dividend(entry: Entry, response: Row, row: Row) -> None:
    """Check the rule `readings`, of a dividend beside its response."""
    day = row["ex_date"]
    fits = day <= str(new_york_day(moment(row["read_at"])))
    require(fits, "readings", f"{entry.where}: {day} was still to come when it was read")
    is_paid = Decimal(row["amount"]) > 0
    fits = (day in response["ex_dates"]) == is_paid
    require(fits, "readings", f"{entry.where}: {day} has the amount {row['amount']}")


def check_row(entry: Entry, response: Row, table: str, row: Row) -> None:
    """Check the rule `readings`, of a reading beside its response."""
    for column in ("ticker", "read_at"):
        fits = row.get(column) == response.get(column)
        require(fits, "readings", f"{entry.where}: {column} of a reading is {row.get(column)}")
    fits = row["source"].startswith(response["source"])
    require(fits, "readings", f"{entry.where}: the source of a reading is {row['source']!r}")
    if table == "dividends":
        check_dividend(entry, response, row)
    if table in DAY:
        first, last = response.get("first_session"), response.get("last_session")
        day = row[DAY[table]]
        fits = first is not None and first <= day <= last
        require(fits, "readings", f"{entry.where}: {day} is not in the response")
