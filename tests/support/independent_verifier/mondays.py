"""The rules of Mondays: docs/journal.md, "The rules", third table, and `every-monday`."""

import uuid
from datetime import date, timedelta
from decimal import Decimal

from independent_verifier.answers import named_benchmark, picks_of
from independent_verifier.api import Row
from independent_verifier.known import ABOUT, Entry, Known, day_of, moment
from independent_verifier.long_over import LongOver
from independent_verifier.refused import require
from independent_verifier.sessions import MONDAY, in_new_york, new_york_day

NAMESPACE = uuid.UUID("8a1c8f0e-6d0b-5c55-9a37-3f0d7a1e6b52")


def check_monday(entry: Entry, known: Known, kind_before: str | None) -> None:
    """Check all rules of the batch of a BATCH or FAILURE entry."""
    if entry.kind not in ("BATCH", "FAILURE"):
        return
    batch = entry.content["batch"]
    check_id(entry, batch)
    again = kind_before is None or kind_before == "FAILURE"
    require(again, "run-again", f"{entry.where} follows a {kind_before} of the same batch")
    check_day(entry, known, batch)
    check_late(entry, known, batch)
    if entry.kind == "FAILURE":
        check_failed(entry, known, batch)
    else:
        check_active(entry, batch)
    if "trading_day" in batch:
        sessions = known.calendar.baselines(day_of(batch["run_date"]))
        fits = day_of(batch["trading_day"]) in sessions
        require(fits, "baseline-session", f"{entry.where}: {batch['trading_day']}, not {sessions}")
    if entry.kind == "BATCH":
        check_picks(entry, batch)
        check_answer(entry, known, batch)
        check_day_zero(entry, batch)


def check_id(entry: Entry, batch: Row) -> None:
    """Check the rule `batch-id`."""
    name = f"{batch['series']}/{batch['run_date']}"
    fits = batch["id"] == str(uuid.uuid5(NAMESPACE, name))
    require(fits, "batch-id", f"{entry.where}: {batch['id']} is not the id of {name}")


def check_day(entry: Entry, known: Known, batch: Row) -> None:
    """Check the rule `monday`."""
    run_date, created = day_of(batch["run_date"]), moment(batch["created_at"])
    require(run_date.weekday() == MONDAY, "monday", f"{entry.where}: {run_date}")
    early = created < in_new_york(run_date, 9)
    require(not early, "monday", f"{entry.where} is stored before 09:00 of its Monday")
    if entry.kind == "BATCH":
        fits = new_york_day(created) == run_date
        require(fits, "monday", f"{entry.where} has picks, but is not stored on its Monday")
    if batch.get("failure_reason") == "MISSED":
        fits = new_york_day(created) > run_date
        require(fits, "monday", f"{entry.where} is missed, but stored on its Monday")
    for question in questions_of(known, batch):
        if "answered_at" in question:
            early = created < moment(question["answered_at"]) - ABOUT
            require(not early, "monday", f"{entry.where} is stored before an answer")


def questions_of(known: Known, batch: Row) -> list[Row]:
    """Return the questions of a batch's Monday so far, in their order."""
    keys = known.questions[batch["series"], batch["run_date"]]
    return [known.newest[key] for key in keys]


def check_late(entry: Entry, known: Known, batch: Row) -> None:
    """Check the rule `late`."""
    sessions = known.calendar.first_sessions(day_of(batch["run_date"]))
    fits = any(is_late(batch, session) == batch["late"] for session in sessions)
    require(fits, "late", f"{entry.where}: stored at {batch['created_at']}, late {batch['late']}")


def is_late(batch: Row, session: date) -> str:
    """Return what `late` is if a session is the first one."""
    return str(moment(batch["created_at"]) >= in_new_york(session, 9, 30)).lower()


def check_failed(entry: Entry, known: Known, batch: Row) -> None:
    """Check the rule `failed`, of a FAILURE entry."""
    require(batch["status"] == "failed", "failed", f"{entry.where}: {batch['status']}")
    for column in ("failure_reason", "failure"):
        require(column in batch, "failed", f"{entry.where} has no {column}")
    for column in ("benchmark_initial_price", "benchmark_initial_close_id", "trading_day"):
        require(column not in batch, "failed", f"{entry.where} has a {column}")
    questions = questions_of(known, batch)
    accepted = any(row.get("accepted") == "true" for row in questions)
    given_up = not accepted and len(questions) >= 3
    evening = in_new_york(day_of(batch["run_date"]), 20, 30)
    no_prices = accepted and moment(batch["created_at"]) >= evening
    match batch["failure_reason"]:
        case "NO_USABLE_ANSWER":
            fits = given_up
        case "MISSING_CLOSE":
            fits = no_prices
        case "PROVIDER_ERROR":
            fits = no_prices or (given_up and "answered_at" not in questions[-1])
        case _:
            fits = True
    require(fits, "failed", f"{entry.where}: not so, {batch['failure_reason']}")


def check_active(entry: Entry, batch: Row) -> None:
    """Check the rule `failed`, of a BATCH entry."""
    require(batch["status"] == "active", "failed", f"{entry.where}: {batch['status']}")
    for column in ("failure_reason", "failure"):
        require(column not in batch, "failed", f"{entry.where} has a {column}")
    for column in ("benchmark_initial_price", "benchmark_initial_close_id", "trading_day"):
        require(column in batch, "failed", f"{entry.where} has no {column}")


def check_picks(entry: Entry, batch: Row) -> None:
    """Check the rule `three-picks`."""
    picks = entry.content.get("picks", [])
    positions = [pick["position"] for pick in picks]
    require(positions == ["1", "2", "3"], "three-picks", f"{entry.where}: {positions}")
    tickers = {pick["ticker"] for pick in picks}
    require(len(tickers) == 3, "three-picks", f"{entry.where}: {tickers}")
    benchmark = batch["benchmark_symbol"]
    require(benchmark not in tickers, "three-picks", f"{entry.where} picks the benchmark")
    for pick in picks:
        new = pick["ended"] == "false" and "entry_open" not in pick and "entry_close_id" not in pick
        require(new, "three-picks", f"{entry.where}: {pick['ticker']} has a past")


def check_answer(entry: Entry, known: Known, batch: Row) -> None:
    """Check the rule `picks-of-the-answer`."""
    questions = questions_of(known, batch)
    accepted = [row for row in questions if row.get("accepted") == "true"]
    one = len(accepted) == 1
    require(one, "picks-of-the-answer", f"{entry.where}: {len(accepted)} accepted answers")
    chosen = picks_of(accepted[0]["answer"], accepted[0]["prompt_version"])
    columns = ("ticker", "action", "reasoning", "probability")
    picks = [
        {name: pick[name] for name in columns if name in pick} for pick in entry.content["picks"]
    ]
    require(picks == chosen, "picks-of-the-answer", f"{entry.where}: {picks}, not {chosen}")
    benchmark = named_benchmark(accepted[0]["user_prompt"])
    fits = benchmark in (None, batch["benchmark_symbol"])
    require(fits, "picks-of-the-answer", f"{entry.where}: the question names {benchmark}")


def check_day_zero(entry: Entry, batch: Row) -> None:
    """Check the rule `day-zero`."""
    row = entry.content["checkpoint"]
    expected = {
        "day": "0",
        "checkpoint_date": batch["run_date"],
        "status": "computed",
        "taken_at": batch["created_at"],
        "trading_day": batch["trading_day"],
        "benchmark_close_id": batch["benchmark_initial_close_id"],
    }
    for column, value in expected.items():
        fits = row.get(column) == value
        require(fits, "day-zero", f"{entry.where}: {column} is {row.get(column)}, not {value}")
    prices = row.get("benchmark_price"), batch["benchmark_initial_price"]
    same = prices[0] is not None and Decimal(prices[0]) == Decimal(prices[1])
    require(same, "day-zero", f"{entry.where}: the benchmark's price is {prices}")
    factor = row.get("benchmark_split_factor")
    same = factor is not None and Decimal(factor) == 1
    require(same, "day-zero", f"{entry.where}: the benchmark's factor is {factor}")
    absent = ("benchmark_return_pct", "benchmark_unusual_move", "skip_reason", "note", "skipped_at")
    there = set(absent) & set(row)
    require(not there, "day-zero", f"{entry.where}: day 0 has {there}")


def check_every_monday(known: Known, long_over: LongOver) -> None:
    """Check the rule `every-monday`, after the last entry."""
    run_dates: dict[str, set] = {series: set() for series in known.declared.series}
    for series, run_date in known.batch_of_monday:
        run_dates.setdefault(series, set()).add(day_of(run_date))
    first_of_all = min((day_of(run_date) for _, run_date in known.batch_of_monday), default=None)
    for series, days in run_dates.items() if first_of_all else ():
        firsts = {min(days)} if days else set()
        if declared := known.declared.series.get(series):
            firsts.add(max(day_of(declared[0][0]["holds_from"]), first_of_all))
        day, last = min(firsts), max(days, default=date.min)
        while day <= last or long_over.without_prices(in_new_york(day + timedelta(days=1), 0)):
            in_force = known.declared.series_in_force(series, str(day))
            retired = in_force is not None and "retired" in in_force
            may_lack = retired and not known.questions.get((series, str(day)))
            require(may_lack or day in days, "every-monday", f"{series} has no batch of {day}")
            day += timedelta(days=7)
