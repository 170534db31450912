"""The rules of checkpoints: docs/journal.md, "The rules", fourth table."""

from datetime import timedelta

from independent_verifier.api import Row
from independent_verifier.known import ABOUT, LEFT_OUT, Entry, Known, day_of, moment
from independent_verifier.long_over import LongOver
from independent_verifier.record_calendar import CLOSED, STRUCK_OFF
from independent_verifier.refused import require
from independent_verifier.sessions import DAY, in_new_york

BENCHMARK = (
    "benchmark_price",
    "benchmark_close_id",
    "benchmark_split_factor",
    "benchmark_return_pct",
    "benchmark_unusual_move",
)
# What a skipped checkpoint never has.
FIGURES = ("trading_day", *BENCHMARK, *LEFT_OUT["checkpoints"])
DAYS = {str(number) for number in range(15)}


def check_checkpoints(entry: Entry, known: Known) -> None:
    """Check all rules of the checkpoint of an entry, and `completed` of its batch."""
    for key, row in entry.of("checkpoints"):
        check_day(entry, known, row)
        due = in_new_york(day_of(row["checkpoint_date"]), 9)
        early = moment(row["taken_at"]) < due
        require(not early, "due", f"{entry.where} is taken before {due}")
        if row["day"] != "0":
            check_session(entry, known, row)
        if row["status"] == "skipped":
            check_skipped(entry, known, row, first=key not in entry.before)
        elif row["day"] != "0":
            check_computed(entry, row, entry.before.get(key))
        check_metrics(entry, known, row)
    check_completed(entry, known)


def check_day(entry: Entry, known: Known, row: Row) -> None:
    """Check the rule `day`."""
    require(row["day"] in DAYS, "day", f"{entry.where} is of day {row['day']}")
    batch = known.batch(row["batch_id"])
    expected = day_of(batch["run_date"]) + timedelta(days=int(row["day"]))
    fits = row["checkpoint_date"] == str(expected)
    require(fits, "day", f"{entry.where}: day {row['day']} is {expected}")
    only = known.checkpoints_of[batch["id"]][row["day"]] == row["id"]
    require(only, "day", f"{entry.where} is a second checkpoint of day {row['day']}")
    require(batch["status"] != "failed", "day", f"{entry.where} is of a failed batch")


def check_session(entry: Entry, known: Known, row: Row) -> None:
    """Check the rule `session`."""
    day_before = day_of(row["checkpoint_date"]) - DAY
    reason = row.get("skip_reason")
    if known.declared.sealed:
        state = known.calendar.state(day_before)
        if state == STRUCK_OFF:
            fits = row["status"] == "skipped" or row.get("trading_day") == str(day_before)
            require(fits, "session", f"{entry.where}: {day_before} was struck off")
            return
        is_session = state != CLOSED
    else:
        if day_before in known.calendar.given.closed:
            fits = row["status"] == "skipped"
            require(fits, "session", f"{entry.where}: {day_before} was closed on short notice")
            return
        is_session = known.calendar.given.is_session(day_before)
    if is_session:
        fits = reason != "MARKET_CLOSED"
        require(fits, "session", f"{entry.where}: {day_before} was a session")
        if row["status"] == "computed":
            fits = row.get("trading_day") == str(day_before)
            require(fits, "session", f"{entry.where}: {row.get('trading_day')}, not {day_before}")
    else:
        fits = row["status"] == "skipped" and reason == "MARKET_CLOSED"
        require(fits, "session", f"{entry.where}: {day_before} was no session")


def check_skipped(entry: Entry, known: Known, row: Row, *, first: bool) -> None:
    """Check the rule `skipped`."""
    there = set(FIGURES) & set(row)
    require(not there, "skipped", f"{entry.where} is skipped, but has {there}")
    has_metrics = known.metrics_of[row["id"]] != []
    require(not has_metrics, "skipped", f"{entry.where} is skipped, but has metrics")
    missing = {"skip_reason", "skipped_at"} - set(row)
    require(not missing, "skipped", f"{entry.where} is skipped, but has no {missing}")
    if first:
        alike = row["skipped_at"] == row["taken_at"]
        require(alike, "skipped", f"{entry.where} is skipped at another time than it is taken")
    if row["skip_reason"] == "MISSING_CLOSE":
        earliest = in_new_york(day_of(row["checkpoint_date"]), 20, 30)
        early = moment(row["skipped_at"]) < earliest
        require(not early, "skipped", f"{entry.where} gives up a close before 20:30")


def check_computed(entry: Entry, row: Row, was: Row | None) -> None:
    """Check the rule `computed`."""
    missing = {"trading_day", *BENCHMARK[:-1]} - set(row)
    require(not missing, "computed", f"{entry.where} is computed, but has no {missing}")
    if "skipped_at" in row:
        fits = moment(row["taken_at"]) >= moment(row["skipped_at"]) - ABOUT
        require(fits, "computed", f"{entry.where} is computed before it is skipped")
    if was is not None:
        for column in ("skip_reason", "note", "skipped_at"):
            unchanged = row.get(column) == was.get(column)
            require(unchanged, "computed", f"{entry.where} has another {column} than before")
    if was is None:
        there = {"skip_reason", "note", "skipped_at"} & set(row)
        require(not there, "computed", f"{entry.where} was never skipped, but has {there}")


def check_metrics(entry: Entry, known: Known, row: Row) -> None:
    """Check the rule `every-metric`."""
    picks = [metric["pick_id"] for _, metric in known.metrics(row["id"])]
    require(len(picks) == len(set(picks)), "every-metric", f"{entry.where}: two of one pick")
    if row["status"] == "computed" and row["day"] != "0":
        fits = set(picks) == set(known.picks_of[row["batch_id"]])
        require(fits, "every-metric", f"{entry.where} has {len(picks)} metrics")


def check_completed(entry: Entry, known: Known) -> None:
    """Check the rule `completed`."""
    for _, row in entry.rows:
        id = row.get("batch_id")
        if id is None or known.batch(id)["status"] == "failed":
            continue
        status = "completed" if len(known.checkpoints_of[id]) == len(DAYS) else "active"
        fits = known.batch(id)["status"] == status
        require(fits, "completed", f"{entry.where}: its batch is not {status}")


def check_every_day(known: Known, long_over: LongOver) -> None:
    """Check the rule `every-day`, after the last entry."""
    for id in known.batch_of_monday.values():
        batch = known.batch(id)
        if batch["status"] != "active":
            continue
        for day in sorted(DAYS, key=int):
            date = day_of(batch["run_date"]) + int(day) * DAY
            due = in_new_york(date, 9)
            if known.calendar.may_be_session(date - DAY):
                over = long_over.with_prices(batch["id"], due)
            else:
                over = long_over.without_prices(due)
            if over:
                there = day in known.checkpoints_of[id]
                require(there, "every-day", f"{batch['run_date']} has no checkpoint of day {day}")
