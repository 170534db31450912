"""
Forgeries of a record with every kind of event (tests/support/eventful.py): each is named by its
rule.

The kind: a record that was rewritten consistently, chain and rows, so that it contradicts
docs/record.md by what the journal itself, the readings or the calendar say. Where a figure depends
on what was forged, it is computed again.
"""

import json
from copy import deepcopy
from functools import partial
from typing import Any

import psycopg
import pytest
from eventful import (
    ADOPTED,
    ASKED,
    CHANGED,
    LATE,
    MISSED,
    OPEN,
    OPENED_LATER,
    REFUSED,
    RUN_AGAIN,
    UNKNOWN,
    eventful,
)
from forging import Contents, all_of, edited, entries, forged_id, refigured, removed, rows
from job_context import make_answer
from record_server import changed, copy_of, silent
from tampering import Change, Content, rows_of, shifted

from app.domain import prompt
from app.ops.verify import open_database, verify
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["eventful"]

BATCHES, PICKS, CHECKPOINTS, METRICS = "batches", "picks", "checkpoints", "pick_checkpoint_metrics"


def contents_of(address: str) -> Contents:
    """Return the contents of the entries of a record."""
    with psycopg.connect(address) as conn:
        return [
            json.loads(content)
            for (content,) in conn.execute("SELECT content FROM journal ORDER BY seq")
        ]


def then_refigured(change: Change) -> Change:
    """
    Return a change after which all figures are computed from the prices, with corrections where
    they change.
    """
    return all_of(change, refigured)


def of_monday(contents: Contents, run_date: Any) -> Contents:
    """Return all entries of a Monday, with its questions."""
    batch = rows(contents, BATCHES, run_date=run_date)[0]["id"]
    return [content for content in contents if _monday_of(content) in (batch, str(run_date))]


def _monday_of(content: Content) -> str:
    if "generation" in content:
        return content["generation"]["run_date"]
    if "batch" in content:
        return content["batch"]["id"]
    row = content.get("checkpoint") or content.get("pick") or {}
    return row.get("batch_id", "")


def without(contents: Contents, gone: Contents) -> Contents:
    """Return the contents without these."""
    return [content for content in contents if not any(content is one for one in gone)]


# --- Corrections in the journal --------------------------------------------


def of_jpm(contents: Contents) -> Contents:
    """Return the corrections for the split of JPM, which became known on day 20."""
    return entries(contents, "CORRECTION", run_date=UNKNOWN)


def corrected(member: str, **values: str) -> Change:
    """Return a change of the first of these corrections."""

    def change(contents: Contents) -> None:
        held = of_jpm(contents)[0][member]
        for row in held if isinstance(held, list) else [held]:
            row.update(values)

    return change


def first_correction(**values: str) -> Change:
    return lambda contents: of_jpm(contents)[0]["corrections"][0].update(values)


def a_correction_less(contents: Contents) -> None:
    of_jpm(contents)[0]["corrections"].pop()


def without_the_split(contents: Contents) -> None:
    for content in of_jpm(contents):
        content["splits"] = []


def figures_stay(contents: Contents) -> Contents:
    """Remove the corrections, and give the checkpoints the corrected figures from the beginning."""
    last = {
        row["id"]: row
        for content in contents
        for table, row in rows_of(content)
        if table == METRICS
    }
    for content in entries(contents, "CHECKPOINT", run_date=UNKNOWN):
        content["metrics"] = [dict(last[row["id"]]) for row in content["metrics"]]
    return without(contents, of_jpm(contents))


def moved_corrections(contents: Contents, **by: float) -> None:
    for content in of_jpm(contents):
        content["at"] = shifted(content["at"], **by)
        for row in content["corrections"]:
            row["made_at"] = content["at"]


def on_another_day(contents: Contents) -> None:
    other = rows(contents, CHECKPOINTS, run_date=UNKNOWN, day=9)[0]
    of_jpm(contents)[0]["corrections"][0]["checkpoint_id"] = other["id"]


def the_baseline_alone(contents: Contents) -> Contents:
    """Correct the baseline of TGT, but none of the days that depend on it."""
    held = entries(contents, "CORRECTION", run_date=ADOPTED)
    days = [one for one in held if any(row.get("ticker") == "TGT" for row in one["corrections"])]
    return without(contents, [one for one in days if one["checkpoint"]["day"] != "0"])


def not_taken_back_on_a_day(contents: Contents) -> Contents:
    """Keep the withdrawn factor on one day."""
    held = entries(contents, "CORRECTION", run_date=REFUSED)
    return without(contents, held[-1:])


def another_baseline(contents: Contents) -> Contents:
    """Let TGT's baseline use its second reading from the beginning."""
    new = rows(contents, "closes", ticker="TGT", close="137.2000")[0]
    entry = entries(contents, "BATCH", run_date=ADOPTED)[0]
    for row in rows(contents, PICKS, run_date=ADOPTED, ticker="TGT"):
        row["initial_close_id"] = new["id"]
    entry["closes"] = [one for one in entry["closes"] if one["ticker"] != "TGT"] + [dict(new)]
    return refigured(contents)


def the_later_reading_first(contents: Contents) -> Contents:
    """Let day 2 of WMT use the reading that was adopted later."""
    new = rows(contents, "closes", ticker="WMT", close="92.7000")[0]
    entry = entries(contents, "CHECKPOINT", run_date=ADOPTED, day=2)[0]
    for row in rows(contents, METRICS, run_date=ADOPTED, day=2, ticker="WMT"):
        row["close_id"] = new["id"]
    entry["closes"].append(dict(new))
    return refigured(contents)


def without_readings(contents: Contents) -> None:
    """Remove the readings from the entry of a day that was corrected later."""
    entries(contents, "CHECKPOINT", run_date=UNKNOWN, day=3)[0]["closes"] = []


CORRECTIONS = {
    "the readings of a corrected day are missing": ("reading", without_readings),
    "the split of corrections is missing": ("figure", without_the_split),
    "the split of one correction is missing": (
        "split-counted",
        lambda contents: of_jpm(contents)[-1].update(splits=[]),
    ),
    "deleted while the figures stay changed": ("figure", figures_stay),
    "one of a day deleted": ("split-counted", removed("CORRECTION", run_date=UNKNOWN, day=3)),
    "a row deleted": ("corrected", a_correction_less),
    "before": ("corrected", first_correction(before="7")),
    "after": ("corrected", first_correction(after="7")),
    "the ticker": ("corrected", first_correction(ticker="KO")),
    "the field": ("corrected", first_correction(field="current_price")),
    "the reason of one row": ("corrected", first_correction(reason="Something else.")),
    "the time of one row": ("at", first_correction(made_at="2026-11-15T15:00:00.000000Z")),
    "the checkpoint of one row": ("belongs", on_another_day),
    "made before the split was read": ("read-before-used", partial(moved_corrections, hours=-3)),
    "the figure": ("figure", corrected("metrics", split_factor="1.1000")),
    "a baseline whose days keep their figures": ("figure", the_baseline_alone),
    "a split withdrawn except on one day": ("split-counted", not_taken_back_on_a_day),
    "a baseline of another reading without a correction": ("read-before-used", another_baseline),
    "an adopted reading that was used from the beginning": (
        "read-before-used",
        the_later_reading_first,
    ),
}


# --- The times at which data was known -------------------------------------


def read_earlier(table: str, **facts: Any) -> Change:
    """Return a change that dates a reading before the figures that were computed without it."""
    days = {"splits": -15, "closes": -2}[table]
    return edited(table, {"read_at": lambda text: shifted(text, days=days, hours=-2)}, **facts)


def opens_never_filled(contents: Contents) -> None:
    """Leave PG's open empty, although a reading has it."""
    for row in rows(contents, PICKS, run_date=OPENED_LATER, ticker="PG"):
        row.pop("entry_open", None)
        row.pop("entry_close_id", None)
    for row in rows(contents, METRICS, run_date=OPENED_LATER, ticker="PG"):
        row.pop("return_from_open_pct", None)


def the_open_of(ticker: str, session: str) -> Change:
    """Return a change that gives PG the open of another reading."""

    def change(contents: Contents) -> Contents:
        reading = rows(contents, "closes", ticker=ticker, trading_day=session)[0]
        for row in rows(contents, PICKS, run_date=OPENED_LATER, ticker="PG"):
            if "entry_close_id" in row:
                row["entry_close_id"] = reading["id"]
        return refigured(contents)

    return change


def day_one_is_not_filled(contents: Contents) -> None:
    entry = entries(contents, "CHECKPOINT", run_date=OPENED_LATER, day=2)[0]
    entry["metrics"] = [
        row for row in entry["metrics"] if row["checkpoint_id"] == entry["checkpoint"]["id"]
    ]


def in_hindsight(run_date: Any) -> Change:
    """
    Return a change that moves all entries of a Monday to the end of the journal, with their times.
    """

    def change(contents: Contents) -> Contents:
        its = of_monday(contents, run_date)
        return [*without(contents, its), *its]

    return change


def a_day_in_hindsight(contents: Contents) -> Contents:
    its = entries(contents, "CHECKPOINT", run_date=OPEN, day=2)
    return [*without(contents, its), *its]


def another_value_at_one_place(contents: Contents) -> Contents:
    """Change a reading of the benchmark that two batches use, in the second of its entries only."""
    edited("closes", {"close": "610.0000"}, nth=1, ticker="SPY", trading_day="2026-10-27")(contents)
    return refigured(contents)


RESTATED = {"ticker": "COST", "trading_day": "2026-12-08"}
KNOWN = {
    "a split that was read before the figures without it": (
        "split-counted",
        read_earlier("splits", ticker="JPM"),
    ),
    "a reading that was read before the figure without it": (
        "newest-reading",
        read_earlier("closes", ticker="WMT", close="92.7000"),
    ),
    "a Monday in hindsight": ("at", in_hindsight(LATE)),
    "an active Monday in hindsight": ("at", in_hindsight(OPENED_LATER)),
    "a day in hindsight": ("at", a_day_in_hindsight),
    "corrections in hindsight": (
        "at",
        all_of(read_earlier("splits", ticker="JPM"), partial(moved_corrections, days=-15)),
    ),
    "a baseline that was read later": (
        "read-before-used",
        edited(
            "closes",
            {"read_at": lambda text: shifted(text, days=3)},
            ticker="XOM",
            trading_day="2026-11-13",
        ),
    ),
    "a reading of a session that was not over": (
        "reading-session",
        edited(
            "closes",
            {"read_at": "2026-12-15T12:00:00.000000Z"},
            ticker="KO",
            trading_day="2026-12-15",
        ),
    ),
    "a reading with two values": ("unchanged", another_value_at_one_place),
    "a restated reading as traded": (
        "split-counted",
        then_refigured(edited("closes", {"source": "alphavantage TIME_SERIES_DAILY"}, **RESTATED)),
    ),
    "restated before its session": (
        "reading-session",
        edited(
            "closes", {"source": lambda text: text.replace("2026-12-10", "2026-12-01")}, **RESTATED
        ),
    ),
    "restated after it was read": (
        "reading-session",
        edited(
            "closes", {"source": lambda text: text.replace("2026-12-10", "2026-12-11")}, **RESTATED
        ),
    ),
    "a split by another factor": (
        "unusual-move",
        then_refigured(edited("splits", {"factor": "5.0000"}, ticker="NVDA")),
    ),
    "a split a day earlier": (
        "split-counted",
        then_refigured(edited("splits", {"effective_date": "2026-10-20"}, ticker="NVDA")),
    ),
    "an open that was read and never filled": ("entry-open", opens_never_filled),
    "an open of another share": ("reading", the_open_of("PEP", "2026-12-07")),
    "an open of another session": ("entry-open", the_open_of("PG", "2026-12-08")),
    "a return from an open that was not filled": ("from-open", day_one_is_not_filled),
}


# --- Mondays and questions --------------------------------------------------


def renumbered(contents: Contents, run_date: Any) -> None:
    """Number the questions of a Monday again."""
    questions = rows(contents, "generations", run_date=run_date)
    attempts = sorted({row["attempt"] for row in questions})
    for row in questions:
        row["attempt"] = str(attempts.index(row["attempt"]) + 1)


def hidden(run_date: Any, *more: Change) -> Change:
    """Return a change that removes the first question of a Monday, and numbers the others again."""
    return all_of(
        *more,
        removed("GENERATION", run_date=run_date, attempt=1),
        partial(renumbered, run_date=run_date),
    )


def whole_monday(run_date: Any) -> Change:
    return lambda contents: without(contents, of_monday(contents, run_date))


def promoted(**values: str) -> Change:
    """Return a change that adds an entry for the question that has no answer yet."""

    def change(contents: Contents) -> None:
        asked_at = "2026-12-21T14:00:00.000000Z"
        question = dict(rows(contents, "generations", run_date=OPEN)[0])
        question |= {"id": forged_id("question"), "run_date": str(ASKED), "asked_at": asked_at}
        for name in set(question) & {"accepted", "answered_at", "answer"} - set(values):
            del question[name]
        contents.append(
            {
                "kind": "GENERATION",
                "at": shifted(asked_at, minutes=2),
                "generation": question | values,
            }
        )

    return change


def chosen_again(contents: Contents) -> None:
    """
    Put an accepted answer before that of a Monday, and refuse it although its price was known.
    """
    entry = entries(contents, "GENERATION", run_date=LATE)[0]
    refusal = "Alpha Vantage does not know GE."
    first, answer = deepcopy(entry), json.dumps(make_answer("GE", "JPM", "KO"))
    first["generation"] |= {"id": forged_id("question"), "answer": answer}
    again = deepcopy(first)
    again["generation"] |= {"accepted": "false", "refusal": refusal}
    entry["generation"]["attempt"] = "2"
    entry["generation"]["user_prompt"] += f"\n\n{prompt.refusals_text([refusal])}"
    place = contents.index(entry)
    contents[place:place] = [first, again]


MONDAYS = {
    "an answer refused for a price that was known": ("answer-refused", chosen_again),
    "another reasoning than the answer's": (
        "picks-of-the-answer",
        edited(PICKS, {"reasoning": "So."}, run_date=REFUSED, position=1),
    ),
    "another action than the answer's": (
        "picks-of-the-answer",
        edited(PICKS, {"action": "BUY"}, run_date=RUN_AGAIN, position=1),
    ),
    "the picks of the refused answer": (
        "picks-of-the-answer",
        edited(
            "generations",
            {"answer": json.dumps(make_answer("KO", "T", "JPM"))},
            run_date=UNKNOWN,
            attempt=2,
        ),
    ),
    "late, but not marked as late": ("late", edited(BATCHES, {"late": "false"}, run_date=LATE)),
    "in time, but marked as late": ("late", edited(BATCHES, {"late": "true"}, run_date=REFUSED)),
    "a missed Monday removed": ("every-monday", removed("FAILURE", run_date=MISSED)),
    "a whole Monday removed": ("every-monday", whole_monday(LATE)),
    "the last Monday removed": ("every-monday", whole_monday(OPEN)),
    "the failure before it was run again removed": (
        "question-count",
        removed("FAILURE", run_date=RUN_AGAIN),
    ),
    "a missed Monday marked as one without a usable answer": (
        "failed",
        edited(BATCHES, {"failure_reason": "NO_USABLE_ANSWER"}, run_date=MISSED),
    ),
    "a failed Monday marked as missed": (
        "monday",
        edited(BATCHES, {"failure_reason": "MISSED"}, nth=0, run_date=RUN_AGAIN),
    ),
    "attempts that begin at 2": (
        "question-number",
        edited("generations", {"attempt": "2"}, run_date=LATE),
    ),
    "a refused question removed": (
        "question-number",
        removed("GENERATION", run_date=REFUSED, attempt=1),
    ),
    "a refused question hidden": ("prompt-says-why", hidden(REFUSED)),
    "an accepted question hidden": ("prompt-says-why", hidden(UNKNOWN)),
    "a failure and its first question hidden": (
        "prompt-says-why",
        hidden(RUN_AGAIN, removed("FAILURE", run_date=RUN_AGAIN)),
    ),
    "the refusal of an accepted answer removed": (
        "question-order",
        removed("GENERATION", nth=1, run_date=UNKNOWN, attempt=1),
    ),
    "refused at once, though its answer obeys the rules": (
        "answer-refused",
        removed("GENERATION", nth=0, run_date=UNKNOWN, attempt=1),
    ),
    "refused for a ticker that is not in it": (
        "answer-refused",
        edited(
            "generations",
            {"refusal": "Alpha Vantage does not know FOO."},
            nth=1,
            run_date=UNKNOWN,
            attempt=1,
        ),
    ),
    "an open question accepted without an answer": ("answer-accepted", promoted(accepted="true")),
    "an open question mentioned": ("answer-refused", promoted()),
}


# --- Checkpoints ------------------------------------------------------------


def completed_a_day_early(contents: Contents) -> None:
    entry = next(
        content for content in contents if content["kind"] == "CHECKPOINT" and "batch" in content
    )
    its = entries(contents, "CHECKPOINT", run_date=entry["batch"]["run_date"])
    before = its[[one is entry for one in its].index(True) - 1]
    before["batch"] = entry.pop("batch")


def never_completed(contents: Contents) -> None:
    for content in contents:
        if content["kind"] == "CHECKPOINT":
            content.pop("batch", None)


def without_a_close(contents: Contents) -> None:
    """
    Skip a day in the evening for a missing close, although all closes were read in the morning.
    """
    (entry,) = entries(contents, "CHECKPOINT", run_date=OPEN, day=3)
    row, at = entry["checkpoint"], "2026-12-18T01:30:00.000000Z"
    for name in [name for name in row if name.startswith("benchmark_") or name == "trading_day"]:
        del row[name]
    row |= {
        "status": "skipped",
        "skip_reason": "MISSING_CLOSE",
        "note": "KO",
        "skipped_at": at,
        "taken_at": at,
    }
    entry |= {"at": at, "metrics": []}


DAYS = {
    "a missing close, though the record has it": ("skipped", without_a_close),
    "a day absent": ("every-day", removed("CHECKPOINT", run_date=OPEN, day=3)),
    "a skipped day absent": ("completed", removed("CHECKPOINT", run_date=LATE, day=2)),
    "a retaken day whose skip is deleted": (
        "computed",
        removed("CHECKPOINT", nth=0, run_date=LATE, day=3),
    ),
    "a retaken day that was never skipped": (
        "computed",
        edited(
            CHECKPOINTS,
            {"skip_reason": None, "note": None, "skipped_at": None},
            nth=1,
            run_date=LATE,
            day=3,
        ),
    ),
    "skipped for another reason when it is retaken": (
        "computed",
        edited(CHECKPOINTS, {"skip_reason": "PROVIDER_ERROR"}, nth=0, run_date=LATE, day=3),
    ),
    "a missing close in the morning": (
        "skipped",
        edited(CHECKPOINTS, {"skip_reason": "MISSING_CLOSE"}, run_date=LATE, day=2),
    ),
    "closed on a session": (
        "session",
        edited(CHECKPOINTS, {"skip_reason": "MARKET_CLOSED"}, run_date=LATE, day=4),
    ),
    "an error on a holiday": (
        "session",
        edited(CHECKPOINTS, {"skip_reason": "PROVIDER_ERROR"}, run_date=LATE, day=11),
    ),
    "completed a day too early": ("completed", completed_a_day_early),
    "never completed": ("completed", never_completed),
    "an unexplained move without a mark": (
        "unusual-move",
        edited(METRICS, {"unusual_move": "false"}, run_date=RUN_AGAIN, day=3, ticker="GE"),
    ),
    "the same days later": (
        "unusual-move",
        edited(METRICS, {"unusual_move": "false"}, run_date=RUN_AGAIN, day=12, ticker="GE"),
    ),
    "a mark without a move": (
        "unusual-move",
        edited(METRICS, {"unusual_move": "true"}, run_date=OPEN, day=2, ticker="KO"),
    ),
    "the mark of the benchmark removed": (
        "unusual-move",
        edited(CHECKPOINTS, {"benchmark_unusual_move": "false"}, run_date=ADOPTED, day=3),
    ),
}


# --- Ended and renamed picks ------------------------------------------------


def ending(**values: str) -> Change:
    return lambda contents: entries(contents, "PICK_ENDED")[0]["ending"].update(values)


def ended_later(contents: Contents) -> Contents:
    """Record the ending after the days that have its value."""
    entry = entries(contents, "PICK_ENDED")[0]
    day = entries(contents, "CHECKPOINT", run_date=CHANGED, day=9)[-1]
    entry["at"] = day["at"]
    others = without(contents, [entry])
    others.insert([one is day for one in others].index(True) + 1, entry)
    return others


def ended_again(contents: Contents) -> None:
    again = deepcopy(entries(contents, "PICK_ENDED")[0])
    again["at"], again["ending"]["value"] = contents[-1]["at"], "30"
    contents.append(again)


def renaming(number: int, **values: str) -> Change:
    return lambda contents: entries(contents, "PICK_RENAMED")[number]["renaming"].update(values)


def earlier_under_the_new_ticker(contents: Contents) -> None:
    """Let META's first session be a day earlier, and give META that day's reading."""
    renaming(0, from_session="2026-11-30")(contents)
    for row in rows(contents, "closes", ticker="FB", trading_day="2026-11-30"):
        row["ticker"] = "META"


def far_from_the_old_ticker(contents: Contents) -> Contents:
    """Let X be worth twice as much as TWTR, and its rename be a compared one."""
    renaming(1, forced="false")(contents)
    for row in rows(contents, "closes", ticker="X"):
        row["close"] = "80.0000"
    return refigured(contents)


CHANGED_PICKS = {
    "renamed without force, though the closes do not fit": ("renaming", far_from_the_old_ticker),
    "an ending with another value": ("figure", ending(value="33")),
    "a later last session": ("ended", all_of(ending(last_session="2026-11-25"), refigured)),
    "an ending deleted": ("ended", removed("PICK_ENDED")),
    "an ending deleted, and its mark": (
        "ended",
        all_of(removed("PICK_ENDED"), edited(PICKS, {"ended": "false"}, run_date=CHANGED)),
    ),
    "an ending recorded too late": ("ended", ended_later),
    "an ending twice": ("ending", ended_again),
    "a day of an ended pick that is not ended": (
        "ended",
        edited(METRICS, {"ended": "false"}, run_date=CHANGED, day=9, ticker="INTC"),
    ),
    "an earlier day that is ended": (
        "ended",
        edited(METRICS, {"ended": "true"}, run_date=CHANGED, day=2, ticker="INTC"),
    ),
    "renamed from a session later": ("reading", renaming(0, from_session="2026-12-02")),
    "renamed from a session earlier, with its reading": ("reading", earlier_under_the_new_ticker),
    "renamed without force, but marked": ("unusual-move", renaming(1, forced="false")),
    "renamed by force, but not marked": ("forced-rename", renaming(0, forced="true")),
    "a forced rename without its mark": (
        "forced-rename",
        edited(METRICS, {"unusual_move": "false"}, run_date=CHANGED, day=11, ticker="X"),
    ),
    "a rename deleted": ("reading", removed("PICK_RENAMED", nth=0)),
    "another ticker before": (
        "renaming",
        lambda contents: entries(contents, "PICK_RENAMED")[0].update(before="FBX"),
    ),
    "renamed to the ticker of another pick": (
        "renaming",
        lambda contents: entries(contents, "PICK_RENAMED")[1]["pick"].update(ticker="META"),
    ),
}

FORGERIES = CORRECTIONS | KNOWN | MONDAYS | DAYS | CHANGED_PICKS
# `make test` tries these; the others are further members of their kinds.
STRONGEST = {
    "the split of corrections is missing",
    "deleted while the figures stay changed",
    "a baseline whose days keep their figures",
    "a Monday in hindsight",
    "a retaken day whose skip is deleted",
    "renamed from a session earlier, with its reading",
}


def _case(name: str) -> Any:
    rule, change = FORGERIES[name]
    marks = () if name in STRONGEST else pytest.mark.long
    return pytest.param(change, rule, id=name, marks=marks)


@pytest.mark.parametrize(("change", "rule"), [_case(name) for name in FORGERIES])
async def test_a_forgery(eventful, create, change, rule):
    """Database and server both name the rule that the forgery breaks."""
    await check_forgery(copy_of(eventful, create), change, rule)


async def test_the_unchanged_record(eventful):
    """The record verifies, and every entry, row and figure of it is counted."""
    assert await discrepancies_of(eventful) == []
    contents = contents_of(eventful)
    async with open_database(eventful) as source:
        result = await verify(source, [], silent)
    assert (result.seq, result.rows > 700, result.state.figures > 1000) == (
        len(contents),
        True,
        True,
    )
    kinds = {content["kind"] for content in contents}
    assert kinds == {
        "GENERATION",
        "BATCH",
        "FAILURE",
        "CHECKPOINT",
        "CORRECTION",
        "PICK_ENDED",
        "PICK_RENAMED",
        "RULES",
    }


def test_figures_computed_again_from_true_prices(eventful):
    """Computing the figures again changes nothing in an unchanged journal."""
    contents = contents_of(eventful)
    assert refigured(deepcopy(contents)) == contents


async def test_a_correction_whose_split_is_deleted(eventful, create):
    """
    The figures agree with the journal, but the split that they count is no longer in the record.
    """
    copy = copy_of(eventful, create)
    changed(copy, "DELETE FROM splits WHERE ticker = 'JPM'")
    for text in await discrepancies_of(copy):
        assert "The split of JPM of 2026-10-27" in text
        assert "is not in the record, though entry" in text
        assert text.endswith("(rule: row)")
