"""
The rules of yearly checks: each forgery is a rewritten sealed record that only the rule detects.

The record is a rehearsal of four weeks, to which the check of its first year is appended.
"""

from copy import deepcopy
from datetime import date, datetime, timedelta

import pytest
from eventful import eventful_as_recorded
from record_server import as_recorded, copy_of
from tampering import Content, forge, one_of_each_rule, shifted

from app.domain import journal, yearly_check
from app.domain.check_contents import check_content, rules_content
from app.domain.model import batch_id
from app.domain.verification.check_inputs import first_monday, next_check, read_inputs
from app.domain.verification.replay import JournalReplay
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["as_recorded", "eventful_as_recorded"]


def replayed(contents: list[Content]) -> JournalReplay:
    """Read contents as the entries of a journal."""
    replay, previous = JournalReplay(), journal.GENESIS_HASH
    for seq, content in enumerate(contents, 1):
        text = journal.canonical_json({**content, "seq": str(seq)})
        digest = journal.entry_hash(previous, text)
        replay.add({"seq": str(seq), "content": text, "previous": previous, "hash": digest})
        previous = digest
    return replay


def held(contents: list[Content], **late: float) -> list[Content]:
    """Append the next check of a record, so much later than it is due."""
    replay = replayed(contents)
    state = replay.state
    due = next_check(first_monday(state), state.held_checks)
    inputs = read_inputs(state, due, head=replay.head, rules_at=state.rules_at)
    entry = {
        "kind": "CHECK",
        "at": shifted(journal.format_timestamp(due.held_at), **late),
        "check": journal.to_texts(check_content(inputs)),
        "rates": [journal.to_texts({"rate": rate})["rate"] for rate in inputs.rates],
    }
    return [*contents, entry]


def checked(change):
    """Return a change of the members of a check that was appended."""

    def forged(contents):
        contents = held(contents)
        change(contents[-1])
        return contents

    return forged


def values(**members: object):
    """Return a change of some members of the check."""
    return checked(lambda entry: entry["check"].update(members))


def of_main(side: str | None = None, **members: str):
    """Return a change of some members of the series `main`, or of one side of it."""

    def change(entry):
        series = next(one for one in entry["check"]["series"] if one["name"] == "main")
        (series[side] if side else series).update(members)

    return checked(change)


def rules(**members: str):
    """Return a change of the rules."""

    def change(contents):
        rules_of(contents)["rules"].update(members)

    return change


def rules_of(contents) -> Content:
    return next(one for one in contents if one["kind"] == "RULES")


def rules_twice(contents):
    contents.append({**rules_of(contents), "at": contents[-1]["at"]})


def no_rules(contents):
    contents = held(contents)
    contents.remove(rules_of(contents))
    # The head of the check is that of the shorter journal.
    head = replayed(contents[:-1]).head
    contents[-1]["check"]["head"] = {"seq": str(head.seq), "hash": head.hash}
    return contents


def too_early(contents):
    contents = held(contents)
    contents[-1]["at"] = shifted(contents[-1]["at"], seconds=-1)
    return contents


def another_head(contents):
    contents = held(contents)
    head = replayed(contents[:-2]).head
    contents[-1]["check"]["head"] = {"seq": str(head.seq), "hash": head.hash}
    return contents


def another_rate(entry):
    entry["rates"].pop()


def found(entry):
    entry["check"]["findings"].append({"series": "main", "side": "BETTER"})


def missed(contents: list[Content], week: int) -> Content:
    """Return the entry of a Monday that was missed, so many weeks after the first one."""
    first = first_monday(replayed(contents).state)
    monday = first + timedelta(weeks=week)
    at = journal.format_timestamp(
        datetime.fromisoformat(f"{monday + timedelta(days=1)}T14:00:00+00:00")
    )
    settings = next(one["settings"] for one in contents if "settings" in one)
    batch = {
        "id": str(batch_id("main", monday)),
        "series": "main",
        "run_date": str(monday),
        "created_at": at,
        "status": "failed",
        "late": "true",
        "failure_reason": "MISSED",
        "failure": "Nobody was there to ask on that Monday.",
        "benchmark_symbol": settings["benchmark"],
    }
    return {"kind": "FAILURE", "at": at, "batch": batch}


def retired_until_the_check(contents: list[Content]) -> list[Content]:
    """Retire `main` after its last Monday, and let it come back on the day of its check."""
    series = [one["series"] for one in contents if "series" in one][-1]
    last = max(one["batch"]["run_date"] for one in contents if "batch" in one)
    retired = {
        "kind": "SERIES",
        "at": contents[-1]["at"],
        "series": {
            **series,
            "holds_from": str(date.fromisoformat(last) + timedelta(weeks=1)),
            "retired": "true",
        },
    }
    contents = [*contents[:-1], retired, contents[-1]]
    at = held(contents)[-1]["at"]
    held_on = date.fromisoformat(at[:10])
    monday = held_on - timedelta(days=held_on.weekday())
    back = {"kind": "SERIES", "at": at, "series": {**series, "holds_from": str(monday)}}
    return held([*contents, back])


def hidden_retirement(contents: list[Content]) -> list[Content]:
    contents = retired_until_the_check(contents)
    (series,) = contents[-1]["check"]["series"]
    assert series["reason"] == "RETIRED"
    series["reason"] = "TOO_FEW_WEEKS"
    return contents


def left_out(contents):
    """Let the service work for weeks after the check was due."""
    return [*contents, *(missed(contents, week) for week in (58, 59, 60))]


def held_too_late(contents):
    return held(left_out(contents), weeks=6)


FORGERIES = [
    pytest.param(rule, change, id=f"{rule}: {name}")
    for rule, name, change in [
        ("rules", "another hash", rules(sha256="0" * 64)),
        ("rules", "another version", rules(version="2")),
        ("rules", "from a later check on", rules(from_check="2")),
        ("rules", "one more member", rules(note="none")),
        ("rules", "twice", rules_twice),
        ("check", "without rules", no_rules),
        ("check", "a second early", too_early),
        ("check", "another number", values(number="2")),
        ("check", "another day", values(on="2027-10-11")),
        ("check", "late", values(late="true")),
        ("check", "another head", another_head),
        ("check", "another risk", values(risk="0.050000000")),
        ("check", "a finding", checked(found)),
        ("check", "no series", values(series=[])),
        ("check", "no object", checked(lambda entry: entry.update(check="held"))),
        ("check", "more weeks", of_main(weeks="30")),
        ("check", "a gap", of_main(imputed="1")),
        ("check", "another reason", of_main(reason="RETIRED")),
        ("check", "retired until it", hidden_retirement),
        ("check", "tested", of_main(tested="true")),
        ("check", "another mean", of_main("better", mean_pct="9.000000")),
        ("check", "another beta", of_main("worse", beta="9.000000")),
        ("check", "another intercept", of_main("better", beyond_beta_pct="9.000000")),
        ("check", "another probability", of_main(p="0.000000001")),
        ("check", "a number without its digits", of_main("better", mean_pct="0")),
        ("check", "a rate less", checked(another_rate)),
        ("every-check", "left out", left_out),
        ("every-check", "held too late", held_too_late),
    ]
]


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery_of_a_check(as_recorded, create, rule, change):
    """The verification of the database and of its API names the rule."""
    await check_forgery(copy_of(as_recorded, create), change, rule)


async def test_a_check_that_fits(as_recorded, create):
    copy = copy_of(as_recorded, create)
    forge(copy, held)
    assert await discrepancies_of(copy) == []


async def test_a_check_after_a_retirement_fits(as_recorded, create):
    """A series that was retired until its check is not tested."""
    copy = copy_of(as_recorded, create)
    forge(copy, retired_until_the_check)
    assert await discrepancies_of(copy) == []


@pytest.mark.long
async def test_a_check_of_all_events_fits(eventful_as_recorded, create):
    """Skipped, corrected, renamed and ended picks are counted as the rules say."""
    copy = copy_of(eventful_as_recorded, create)
    forge(copy, with_rules_and_check)
    assert await discrepancies_of(copy) == []


def with_rules_and_check(contents: list[Content]) -> list[Content]:
    """Append the rules, if the record has none, and the check of its first year."""
    contents = deepcopy(contents)
    if all(one["kind"] != "RULES" for one in contents):
        rules_entry = {
            "kind": "RULES",
            "at": contents[-1]["at"],
            "rules": journal.to_texts(rules_content()),
        }
        contents.append(rules_entry)
    return held(contents)


def test_the_first_year_of_the_record():
    """The check of a record that begins on 5 October 2026 is of 4 October 2027."""
    assert yearly_check.check_date(date(2026, 10, 5), 1) == date(2027, 10, 4)
