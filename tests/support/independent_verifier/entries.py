"""The rules of entries: docs/journal.md, "The rules", first table (from `at` on)."""

from datetime import datetime, timedelta

from independent_verifier.api import Key, Row
from independent_verifier.claims import OUTCOME
from independent_verifier.known import ABOUT, LEFT_OUT, Entry, Known, moment, same
from independent_verifier.long_over import days_back
from independent_verifier.refused import RecordRefused, require

CORRECTED = {
    "batches": {"benchmark_initial_price", "benchmark_initial_close_id"},
    "picks": {"initial_price", "initial_close_id"},
    "checkpoints": {
        "benchmark_price",
        "benchmark_close_id",
        "benchmark_split_factor",
        "benchmark_return_pct",
        "benchmark_unusual_move",
        *LEFT_OUT["checkpoints"],
    },
    "pick_checkpoint_metrics": {
        "current_price",
        "close_id",
        "split_factor",
        "absolute_return_pct",
        "vs_benchmark_pct",
        "return_from_open_pct",
        "unusual_move",
        *LEFT_OUT["pick_checkpoint_metrics"],
    },
    "further_benchmarks": {"further_split_factor", "further_return_pct"},
}
MARK = "benchmark_unusual_move"
FOUR_WEEKS = timedelta(days=28)
ON_DAY_ZERO = {"benchmark_price", "benchmark_close_id"}  # of a checkpoint


def check_hindsight(entry: Entry, known: Known) -> None:
    """
    Check the rule `at` against the entries before.

    `known` does not have the time of this entry yet.
    """
    oldest = days_back(known.times)
    hindsight = oldest is not None and entry.at < oldest
    require(not hindsight, "at", f"{entry.where} lies days before the entries before it")


def check_declared_at(entry: Entry, before: dict | None) -> None:
    """Check the rule `at` of the entry before, if it is a declaration. `before` is its content."""
    if before is None:
        return
    declares = before["kind"] in ("GENESIS", "SETTINGS", "SERIES") and "sealed" not in before
    if declares or "adopted" in before:
        fits = moment(before["at"]) == entry.at
        require(fits, "at", f"the declaration before {entry.where} is of {before['at']}")


def check_at(entry: Entry, *, sealed: bool) -> None:
    """Check the rule `at` against the entry's own rows."""
    match entry.kind:
        case "BATCH" | "FAILURE":
            times = [entry.content["batch"]["created_at"]]
        case "CHECKPOINT":
            times = [entry.content["checkpoint"]["taken_at"]]
        case "CORRECTION":
            times = [row["made_at"] for row in entry.content.get("corrections", [])]
        case "EXTENSION":
            times = [row["measured_at"] for _, row in entry.of("further_benchmarks")]
        case _:
            times = []
    for time in times:
        require(moment(time) == entry.at, "at", f"{entry.where} is not of {time}")
    for key, question in entry.of("generations"):
        if sealed and key not in entry.before and "accepted" not in question:
            asked_at = question["asked_at"]
            fits = moment(asked_at) == entry.at
            require(fits, "at", f"{entry.where}, a claim, is not of {asked_at}")
        over = question.get("answered_at", question["asked_at"])
        early = entry.at < moment(over) - ABOUT
        require(not early, "at", f"{entry.where} is earlier than {over}, when it was answered")


def check_belongs(entry: Entry, known: Known) -> None:
    """Check the rule `belongs`. `known` contains this entry, too."""
    batches = set()
    for (table, _), row in entry.rows:
        match table:
            case "batches":
                batches.add(row["id"])
            case "picks" | "checkpoints" | "further_benchmarks":
                batches.add(row["batch_id"])
            case "corrections":
                batches.add(batch_of_checkpoint(entry, known, row))
            case "pick_checkpoint_metrics":
                batch = batch_of_checkpoint(entry, known, row)
                batches.add(batch)
                pick = known.newest.get(("picks", row["pick_id"]))
                require(pick, "belongs", f"{entry.where}: no entry mentions the pick of a metric")
                require(pick["batch_id"] == batch, "belongs", f"{entry.where}: pick and checkpoint")
    require(len(batches) <= 1, "belongs", f"{entry.where} has rows of several batches")
    for batch in batches:
        mentioned = ("batches", batch) in known.newest
        require(mentioned, "belongs", f"{entry.where}: no entry mentions the batch {batch}")
    check_its_checkpoint(entry)


def check_readings(entry: Entry, known: Known) -> None:
    """
    Check the rule `belongs` for readings, and the rule `every-metric` for two metrics of one pick.

    This comes after the rules that are more specific.
    """
    checkpoint = entry.content.get("checkpoint")
    if checkpoint is None:
        symbols = {row["symbol"] for _, row in entry.of("further_benchmarks")}
        for _, row in entry.of("closes"):
            fits = row["ticker"] in symbols or not symbols
            require(fits, "belongs", f"{entry.where} holds {row['ticker']}")
        return
    tickers = {known.batch(checkpoint["batch_id"])["benchmark_symbol"]}
    for id in known.picks_of[checkpoint["batch_id"]]:
        tickers |= set(known.shares[id].all_tickers)
    for _, row in entry.of("closes"):
        require(row["ticker"] in tickers, "belongs", f"{entry.where} holds {row['ticker']}")
    for id in {row["checkpoint_id"] for _, row in entry.of("pick_checkpoint_metrics")}:
        picks = [metric["pick_id"] for _, metric in known.metrics(id)]
        once = len(picks) == len(set(picks))
        require(once, "every-metric", f"{entry.where}: a checkpoint has two metrics of one pick")


def batch_of_checkpoint(entry: Entry, known: Known, row: Row) -> str:
    """Return the batch of the checkpoint that a row names."""
    checkpoint = known.newest.get(("checkpoints", row["checkpoint_id"]))
    require(checkpoint, "belongs", f"{entry.where}: no entry mentions a row's checkpoint")
    return checkpoint["batch_id"]


def check_its_checkpoint(entry: Entry) -> None:
    """Check that metrics and corrections belong to the checkpoint of the entry."""
    checkpoints = {row["id"] for _, row in entry.of("checkpoints")}
    for key, row in entry.rows:
        if key[0] == "corrections":
            checkpoints.add(row["checkpoint_id"])
        if key[0] == "pick_checkpoint_metrics":
            again = entry.kind == "CHECKPOINT" and key in entry.before
            if not again:
                checkpoints.add(row["checkpoint_id"])
    require(len(checkpoints) <= 1, "belongs", f"{entry.where} is about several checkpoints")


def check_first_mention(entry: Entry) -> None:
    """Check the rule `first-mention`."""
    for key, row in entry.rows:
        table = key[0]
        if table in ("closes", "splits", "dividends", "rates"):
            continue
        if was := entry.before.get(key):
            news = is_new_mention(entry=entry, table=table, was=was, row=row)
            require(news, "first-mention", f"{entry.where} says a row of {table} once more")
            continue
        match table:
            case "generations":
                fits = entry.kind in ("GENERATION", "READINGS")
            case "batches":
                fits = entry.kind in ("BATCH", "FAILURE")
            case "picks":
                fits = entry.kind == "BATCH"
            case "checkpoints":
                kind = "BATCH" if row["day"] == "0" else "CHECKPOINT"
                fits = entry.kind == kind
            case "pick_checkpoint_metrics":
                fits = entry.kind == "CHECKPOINT"
            case "corrections":
                fits = entry.kind == "CORRECTION"
            case "further_benchmarks":
                fits = entry.kind == "EXTENSION"
        require(
            fits, "first-mention", f"{entry.where} mentions a row of {table} for the first time"
        )


def is_new_mention(entry: Entry, table: str, was: Row, row: Row) -> bool:
    """Return whether an entry may mention its own row again."""
    match table, entry.kind:
        case "generations", "GENERATION":
            return was.get("accepted") != row.get("accepted")
        case "checkpoints", "CHECKPOINT":
            return was["status"] != row["status"]
        case "further_benchmarks", "EXTENSION":
            return False
        case "batches", "FAILURE":
            return was["status"] != "failed" or was["created_at"] != row["created_at"]
    return True


def check_twice(entry: Entry) -> None:
    """Check the rule `unchanged` for readings that an entry holds twice."""
    twice: dict[Key, Row] = {}
    for key, row in entry.rows:
        alike = twice.setdefault(key, row) == row
        require(alike, "unchanged", f"{entry.where} holds {key} twice, with other values")


def check_unchanged(entry: Entry) -> None:
    """Check the rule `unchanged`."""
    for key, row in entry.rows:
        if was := entry.before.get(key):
            changed = {name for name in {*was, *row} if was.get(name) != row.get(name)}
            strange = changed - may_change(kind=entry.kind, table=key[0], was=was, row=row)
            require(not strange, "unchanged", f"{entry.where} changes {strange} of {key}")
            zeros = {name for name in changed if same(was.get(name), row.get(name), name)}
            require(not zeros, "unchanged", f"{entry.where} writes {zeros} of {key} otherwise")


def drops_mark(entry: Entry, key: Key, row: Row, first_marked: datetime | None) -> bool:
    """Return whether an entry drops a benchmark's mark as an earlier version may."""
    dropped = MARK in entry.before.get(key, {}) and MARK not in row
    has_correction = any(one["field"] == MARK for _, one in entry.of("corrections"))
    soon = first_marked is not None and entry.at <= first_marked + FOUR_WEEKS
    return dropped and not has_correction and soon


def may_change(kind: str, table: str, was: Row, row: Row) -> set[str]:
    """Return the columns of a row that an entry of a kind may change."""
    if kind == "CORRECTION":
        return CORRECTED.get(table, set())
    match table, kind:
        case "generations", "GENERATION":
            if "accepted" not in was:
                return OUTCOME
            if was["accepted"] == "true" and row.get("accepted") == "false":
                return {"accepted", "refusal"}
        case "batches", "BATCH" | "FAILURE":
            if was["status"] == "failed":
                return {*was, *row} - {"id", "series", "run_date"}
        case "batches", "CHECKPOINT":
            if was["status"] == "active" and row["status"] == "completed":
                return {"status"}
        case "picks", "PICK_RENAMED":
            return {"ticker"}
        case "picks", "PICK_ENDED":
            if was["ended"] == "false":
                return {"ended"}
        case "picks", "CHECKPOINT":
            if "entry_open" not in was:
                return {"entry_open", "entry_close_id"}
        case "checkpoints", "CHECKPOINT":
            if was["status"] == "skipped" and was["skip_reason"] != "MARKET_CLOSED":
                benchmarks = {name for name in {*was, *row} if name.startswith("benchmark_")}
                benchmarks -= set(LEFT_OUT[table])
                return {"status", "trading_day", "taken_at", *benchmarks}
        case "pick_checkpoint_metrics", "CHECKPOINT":
            if "return_from_open_pct" not in was:
                return {"return_from_open_pct"}
        case "checkpoints" | "pick_checkpoint_metrics", "EXTENSION":
            if not set(LEFT_OUT[table]) & set(was):
                return set(LEFT_OUT[table])
    return set()


def check_corrected(entry: Entry, known: Known, first_marked: datetime | None) -> None:
    """
    Check the rule `corrected`.

    `first_marked` is the time of the first entry with a benchmark's mark.
    """
    if entry.kind != "CORRECTION":
        return
    rows = [row for _, row in entry.of("corrections")]
    require(rows, "corrected", f"{entry.where} has no corrections")
    for column in ("checkpoint_id", "made_at", "reason"):
        alike = len({row[column] for row in rows}) == 1
        require(alike, "corrected", f"{entry.where}: its corrections differ in {column}")
    checkpoint = known.checkpoint(rows[0]["checkpoint_id"])
    check_day_of_corrections(entry, checkpoint)
    listed = sorted(words_of(row) for row in rows)
    done = sorted(changes_of(entry, known, first_marked))
    require(listed == done, "corrected", f"{entry.where} says {listed}, but changes {done}")


def words_of(row: Row) -> tuple[str, ...]:
    """Return the content of a correction, without its time and reason."""
    return (row["field"], row.get("ticker", ""), row.get("before", ""), row.get("after", ""))


def check_day_of_corrections(entry: Entry, checkpoint: Row) -> None:
    """Check that baselines are corrected on day 0, and figures on another day."""
    for (table, _), row in entry.rows:
        fits = True
        if table in ("batches", "picks"):
            fits = checkpoint["day"] == "0"
        if table == "pick_checkpoint_metrics":
            fits = checkpoint["day"] != "0" and row["checkpoint_id"] == checkpoint["id"]
        require(
            fits, "corrected", f"{entry.where}, of day {checkpoint['day']}, has rows of {table}"
        )


def changes_of(entry: Entry, known: Known, first_marked: datetime | None) -> list[tuple[str, ...]]:
    """Return all changes of an entry, in the form of corrections."""
    changes = []
    for key, row in entry.rows:
        if key[0] == "picks":
            ticker = row["ticker"]
        elif key[0] == "pick_checkpoint_metrics":
            ticker = known.pick(row["pick_id"])["ticker"]
        elif key[0] == "further_benchmarks":
            ticker = row["symbol"]
        else:
            ticker = ""
        for column in entry.changed(key, row):
            if key[0] == "checkpoints" and row["day"] == "0" and column not in ON_DAY_ZERO:
                raise RecordRefused("corrected", f"{entry.where} corrects {column} of day 0")
            if column == MARK and drops_mark(
                entry=entry, key=key, row=row, first_marked=first_marked
            ):
                continue
            was = entry.before[key]
            changes.append((column, ticker, was.get(column, ""), row.get(column, "")))
    return changes
