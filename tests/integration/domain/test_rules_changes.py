"""
Rules about the contents of an entry, about changes between two mentions of a row, and about manual
changes.
"""

import copy
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from record_server import copy_of, rehearsed
from tampering import Content, entry_of, forge, one_of_each_rule

from app.domain.model import batch_id
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["rehearsed"]

Contents = list[Content]
MONDAY = "2026-10-12"
ANOTHER = "00000000-0000-4000-8000-000000000001"


def day(contents: Contents, number: str = "3") -> Content:
    """Return the entry of a day of the Monday that is forged."""
    return entry_of(contents, "CHECKPOINT", run_date=MONDAY, day=number)


def monday(contents: Contents, run_date: str = MONDAY) -> Content:
    """Return the entry of the batch of a Monday."""
    return entry_of(contents, "BATCH", run_date=run_date)


def edited(member: str, **values: str | None) -> Callable[[Contents], None]:
    """Return a change of a row in the entry of day 3; None removes a column."""

    def change(contents: Contents) -> None:
        row = day(contents)[member]
        row = row[0] if isinstance(row, list) else row
        for name, value in values.items():
            row.pop(name, None)
            if value is not None:
                row[name] = value

    return change


def added(kind: str, member: str, **more: Any) -> Callable[[Contents], None]:
    """Return a change that appends an entry about the first pick of the Monday."""

    def change(contents: Contents) -> None:
        pick = {**monday(contents)["picks"][0]}
        for content in contents:
            for row in content.get("picks", []):
                pick = {**row} if row["id"] == pick["id"] else pick
        at = contents[-1]["at"]
        entry = {"kind": kind, "at": at, "pick": pick, **copy.deepcopy(more)}
        if kind == "PICK_ENDED":
            entry["pick"]["ended"] = "true"
        else:
            entry.setdefault("before", pick["ticker"])
            entry["pick"]["ticker"] = member
        for name in ("ending", "renaming"):
            if name in entry:
                entry[name].setdefault("pick_id", pick["id"])
        contents.append(entry)

    return change


def corrected(*corrections: dict[str, str], **changes: str) -> Callable[[Contents], None]:
    """Return a change that appends a correction of the first metric of day 3."""

    def change(contents: Contents) -> None:
        entry = day(contents)
        checkpoint, metric = {**entry["checkpoint"]}, {**entry["metrics"][0], **changes}
        tickers = {pick["id"]: pick["ticker"] for pick in monday(contents)["picks"]}
        at = contents[-1]["at"]
        rows = [
            {
                "id": f"00000000-0000-4000-8000-{number:012}",
                "checkpoint_id": checkpoint["id"],
                "ticker": tickers[metric["pick_id"]],
                "reason": "A reason.",
                "made_at": at,
                **one,
            }
            for number, one in enumerate(corrections)
        ]
        contents.append(
            {
                "kind": "CORRECTION",
                "at": at,
                "checkpoint": checkpoint,
                "metrics": [metric],
                "corrections": rows,
            }
        )

    return change


def mentioned_again(contents: Contents) -> None:
    """Mention a batch again, with another `late`, in an entry that completes it."""
    entry = day(contents, "14")
    entry["batch"]["late"] = "true"


def another_reasoning(contents: Contents) -> None:
    """Change a column in the entry in which the open becomes known."""
    entry = day(contents, "1") if "picks" in day(contents, "1") else day(contents, "2")
    entry["picks"][0]["reasoning"] = "Something else."


def a_metric_of_another_day(contents: Contents) -> None:
    """Give a metric the checkpoint of the day before."""
    day(contents)["metrics"][0]["checkpoint_id"] = day(contents, "2")["checkpoint"]["id"]


def a_metric_of_another_batch(contents: Contents) -> None:
    """Give a metric a pick of another Monday."""
    pick = monday(contents, "2026-10-05")["picks"][0]
    day(contents)["metrics"][0]["pick_id"] = pick["id"]


def a_pick_of_another_batch(contents: Contents) -> None:
    """Give a pick the batch of another Monday."""
    batch = monday(contents, "2026-10-05")["batch"]
    monday(contents)["picks"][0]["batch_id"] = batch["id"]


def a_checkpoint_of_no_batch(contents: Contents) -> None:
    """Give a checkpoint a batch that the journal does not have."""
    day(contents, "6")["checkpoint"]["batch_id"] = "00000000-0000-4000-8000-000000000000"


def a_pick_that_comes_later(contents: Contents) -> None:
    """Add a fourth pick in a day's entry."""
    fourth = {**monday(contents)["picks"][0], "id": "00000000-0000-4000-8000-000000000004"}
    day(contents)["picks"] = [{**fourth, "position": "3", "ticker": "ZZZZ"}]


def a_day_in_a_batch_entry(contents: Contents) -> None:
    """Put day 1 into the entry of a batch in place of day 0."""
    monday(contents)["checkpoint"]["day"] = "1"


def created_later(contents: Contents) -> None:
    """Let the batch be created a second after its entry."""
    batch = monday(contents)["batch"]
    batch["created_at"] = batch["created_at"].replace(":0", ":1", 1)


def answered_after(contents: Contents) -> None:
    """Let an answer arrive after it was journalled."""
    entry_of(contents, "GENERATION", run_date=MONDAY)["generation"]["answered_at"] = (
        "2026-10-13T15:00:00.000000Z"
    )


def without_closes(contents: Contents) -> None:
    """Remove a member of the entry of a batch."""
    del monday(contents)["closes"]


def with_a_metric(contents: Contents) -> None:
    """Add metrics to the entry of a batch."""
    monday(contents)["metrics"] = day(contents)["metrics"]


def a_list_for_one(contents: Contents) -> None:
    """Write a list where a single batch belongs."""
    monday(contents)["batch"] = [monday(contents)["batch"]]


def twice(contents: Contents) -> None:
    """Mention one metric twice."""
    day(contents)["metrics"].append({**day(contents)["metrics"][0]})


ENDED = {"last_session": "2026-10-20", "value": "12.5000", "source": "8-K"}
RENAMED = {"from_session": "2026-10-20", "source": "8-K", "forced": "true"}


def adopted(**values: str | None) -> Callable[[Contents], None]:
    """
    Return a change that bases a metric on a later reading of its price; `values` are the
    correction's values.
    """

    def change(contents: Contents) -> None:
        close = next(
            one
            for one in day(contents)["closes"]
            if one["id"] == day(contents)["metrics"][0]["close_id"]
        )
        correction = {"field": "close_id", "before": close["id"], "after": ANOTHER}
        corrected(correction, close_id=ANOTHER)(contents)
        entry = contents[-1]
        entry["closes"] = [close | {"id": ANOTHER, "read_at": entry["at"]}]
        (correction,) = entry["corrections"]
        for name, value in values.items():
            correction.pop(name)
            if value is not None:
                correction[name] = value

    return change


def without_the_mark(contents: Contents) -> None:
    """
    Correct a metric and remove the benchmark's mark, months after the version that added the mark.
    """
    adopted()(contents)
    entry = contents[-1]
    at = "2027-03-01T14:00:00.000000Z"
    entry["at"] = entry["corrections"][0]["made_at"] = at
    del entry["checkpoint"]["benchmark_unusual_move"]


def reading(**values: str) -> Callable[[Contents], None]:
    """
    Return a change that puts another form of a reading before it, in the first entry that has it.
    """

    def change(contents: Contents) -> None:
        closes = entry_of(contents, "CHECKPOINT", day="1")["closes"]
        closes.insert(0, closes[0] | values)

    return change


def a_reading_at_the_baseline(contents: Contents) -> None:
    """Put a reading of another share into the entry of a batch."""
    closes = monday(contents)["closes"]
    closes.append(closes[0] | {"id": ANOTHER, "ticker": "ZZZ"})


def repeated(kind: str) -> Callable[[Contents], None]:
    """Return a change that repeats the first entry of a kind directly after it."""

    def change(contents: Contents) -> None:
        entry = entry_of(contents, kind)
        contents.insert(contents.index(entry) + 1, copy.deepcopy(entry))

    return change


def a_failure_twice(contents: Contents) -> None:
    """Put a missed Monday before the first one, and record it twice."""
    batch = {
        "id": str(batch_id("main", date(2026, 9, 28))),
        "series": "main",
        "run_date": "2026-09-28",
        "created_at": "2026-09-29T14:00:00.000000Z",
        "status": "failed",
        "late": "true",
        "failure_reason": "MISSED",
        "failure": "Nobody was there.",
        "benchmark_symbol": "SPY",
    }
    entry = {"kind": "FAILURE", "at": batch["created_at"], "batch": batch}
    contents[:0] = [entry, copy.deepcopy(entry)]


FORGERIES = [
    pytest.param("unchanged", reading(close="1.0000"), id="unchanged: two closes of one reading"),
    pytest.param("unchanged", reading(open="1.0000"), id="unchanged: two opens of one reading"),
    pytest.param(
        "unchanged", reading(source="Another."), id="unchanged: two sources of one reading"
    ),
    pytest.param(
        "unchanged",
        reading(read_at="2026-10-06T12:00:00.000000Z"),
        id="unchanged: two times of one reading",
    ),
    pytest.param(
        "belongs", reading(id=ANOTHER, ticker="ZZZ"), id="belongs: a reading of another share"
    ),
    pytest.param(
        "belongs",
        a_reading_at_the_baseline,
        id="belongs: a reading of another share at the baseline",
    ),
    pytest.param(
        "at",
        edited("checkpoint", taken_at="2026-10-15T13:00:00.000001Z"),
        id="at: the time of a checkpoint",
    ),
    pytest.param("at", created_later, id="at: a batch's time"),
    pytest.param("at", answered_after, id="at: an answer's time"),
    pytest.param("members", without_closes, id="members: a member left out"),
    pytest.param("members", with_a_metric, id="members: an additional member"),
    pytest.param("members", a_list_for_one, id="members: a list in place of a row"),
    pytest.param("members", twice, id="members: a row twice"),
    pytest.param("row-form", edited("metrics", split_factor="1E0"), id="row-form: an exponent"),
    pytest.param("row-form", edited("metrics", current_price="0"), id="row-form: a price of zero"),
    pytest.param(
        "row-form", edited("metrics", current_price="-3.2000"), id="row-form: a price below zero"
    ),
    pytest.param(
        "row-form", edited("metrics", unusual_move="0"), id="row-form: false in another form"
    ),
    pytest.param(
        "row-form", edited("metrics", vs_benchmark_pct=None), id="row-form: a figure left out"
    ),
    pytest.param("row-form", edited("metrics", colour="red"), id="row-form: an additional column"),
    pytest.param(
        "row-form", edited("checkpoint", status="COMPUTED"), id="row-form: an unknown status"
    ),
    pytest.param(
        "row-form",
        edited("checkpoint", taken_at="2026-10-15T13:00:00Z"),
        id="row-form: a time without its decimals",
    ),
    pytest.param("belongs", a_metric_of_another_day, id="belongs: a metric of another day"),
    pytest.param("belongs", a_metric_of_another_batch, id="belongs: a metric of another batch"),
    pytest.param("belongs", a_pick_of_another_batch, id="belongs: a pick of another batch"),
    pytest.param("belongs", a_checkpoint_of_no_batch, id="belongs: a checkpoint of no batch"),
    pytest.param(
        "first-mention", a_pick_that_comes_later, id="first-mention: a pick that comes later"
    ),
    pytest.param(
        "first-mention", a_day_in_a_batch_entry, id="first-mention: a day in a batch's entry"
    ),
    pytest.param("first-mention", repeated("GENERATION"), id="first-mention: a question twice"),
    pytest.param("first-mention", repeated("CHECKPOINT"), id="first-mention: a computed day twice"),
    pytest.param("first-mention", a_failure_twice, id="first-mention: a failed Monday twice"),
    pytest.param("unchanged", mentioned_again, id="unchanged: late when it is completed"),
    pytest.param(
        "unchanged", another_reasoning, id="unchanged: a reasoning when the open is known"
    ),
    pytest.param("corrected", corrected(), id="corrected: no correction"),
    pytest.param(
        "corrected",
        corrected({"field": "split_factor", "before": "1", "after": "2"}),
        id="corrected: a correction without its change",
    ),
    pytest.param(
        "corrected",
        corrected({"field": "note", "before": "a", "after": "b"}),
        id="corrected: another vocabulary",
    ),
    pytest.param("corrected", adopted(before=ANOTHER), id="corrected: another value before"),
    pytest.param("corrected", adopted(before=None), id="corrected: no value before"),
    pytest.param("corrected", adopted(after=None), id="corrected: no value after"),
    pytest.param("corrected", adopted(field="current_price"), id="corrected: another column"),
    pytest.param("corrected", adopted(ticker="ZZZ"), id="corrected: another ticker"),
    pytest.param("corrected", adopted(ticker=None), id="corrected: no ticker"),
    pytest.param("corrected", without_the_mark, id="corrected: a mark that is absent later"),
    pytest.param(
        "ending",
        added("PICK_ENDED", "", ending={**ENDED, "last_session": "2026-10-18"}),
        id="ending: a Sunday",
    ),
    pytest.param(
        "ending",
        added("PICK_ENDED", "", ending={**ENDED, "last_session": "2026-10-05"}),
        id="ending: too early",
    ),
    pytest.param(
        "ending",
        added("PICK_ENDED", "", ending={**ENDED, "last_session": "2026-12-01"}),
        id="ending: in the future",
    ),
    pytest.param(
        "ending",
        added(
            "PICK_ENDED", "", ending={**ENDED, "pick_id": "00000000-0000-4000-8000-000000000000"}
        ),
        id="ending: of another pick",
    ),
    pytest.param(
        "row-form",
        added("PICK_ENDED", "", ending={**ENDED, "value": "0"}),
        id="row-form: an end with the value zero",
    ),
    pytest.param(
        "renaming",
        added("PICK_RENAMED", "SPY", renaming=RENAMED),
        id="renaming: the benchmark's ticker",
    ),
    pytest.param(
        "renaming",
        added("PICK_RENAMED", "NEWER", renaming={**RENAMED, "from_session": "2026-10-18"}),
        id="renaming: from a Sunday",
    ),
    pytest.param(
        "renaming",
        added("PICK_RENAMED", "NEWER", renaming={**RENAMED, "from_session": "2026-10-09"}),
        id="renaming: from its baseline",
    ),
    pytest.param(
        "renaming",
        added("PICK_RENAMED", "NEWER", renaming={**RENAMED, "from_session": "2026-12-01"}),
        id="renaming: from a future day",
    ),
    pytest.param(
        "renaming",
        added("PICK_RENAMED", "NEWER", before="OTHER"),
        id="renaming: another ticker before",
    ),
]


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery(rehearsed, create, rule, change):
    """Database and server both name the rule that the forgery breaks."""
    await check_forgery(copy_of(rehearsed, create), change, rule)


async def test_a_correct_adoption(rehearsed, create):
    """The unchanged correction, from which the forgeries differ, breaks no rule."""
    copied = copy_of(rehearsed, create)
    forge(copied, adopted())
    assert await discrepancies_of(copied) == []
