"""
The rules of several series: their declarations, the draws of a control, and every Monday of each.

Each forgery is a rewritten record, chain and rows, that only the named rule detects.
"""

import json
from copy import deepcopy
from datetime import date
from uuid import uuid4

import psycopg
import pytest
from record_server import copy_of, silent
from sealing import is_claim
from several_series import several_series
from tampering import Content, one_of_each_rule, shifted

from app.domain import journal
from app.domain.declarations import sha256_of
from app.domain.model import batch_id
from app.domain.tickers import names_ticker
from app.domain.verification.entries import entry_batch_id
from app.ops.verify import open_database, verify
from tests.integration.domain.test_rules import check_forgery

__all__ = ["several_series"]

FIRST, NEXT, LAST = "2026-10-26", "2026-11-02", "2026-11-09"


def declarations_of(contents: list[Content], name: str) -> list[Content]:
    """Return the SERIES entries of a series, in their order."""
    return [one for one in contents if one.get("series", {}).get("name") == name]


def declared(name: str, nth=0, /, **values: object):
    """Return a change of a declaration; None removes a value. The profile's hash fits it."""

    def change(contents):
        series = declarations_of(contents, name)[nth]["series"]
        for member, value in values.items():
            series.pop(member, None)
            if value is not None:
                series[member] = value
        if "profile_sha256" not in values:
            series["profile_sha256"] = sha256_of(journal.canonical_json(series["profile"]))

    return change


def with_profile(name: str, nth=0, /, **values: object):
    """Return a change of the profile of a declaration, with a hash that fits."""

    def change(contents):
        profile = {**declarations_of(contents, name)[nth]["series"]["profile"], **values}
        declared(name, nth, profile=profile)(contents)

    return change


def inserted(of: str, monday: str, /, **values: object):
    """Return a change that inserts a declaration before the first question of a Monday."""

    def change(contents):
        place = next(
            number
            for number, one in enumerate(contents)
            if is_claim(one) and one["generation"]["run_date"] == monday
        )
        entry = deepcopy(declarations_of(contents, of)[0])
        entry["series"].update(values)
        entry["series"]["profile_sha256"] = sha256_of(
            journal.canonical_json(entry["series"]["profile"])
        )
        entry["at"] = contents[place]["at"]
        contents.insert(place, entry)

    return change


def without_declarations(name: str):
    """Return a change that removes the declarations of a series."""

    def change(contents):
        gone = declarations_of(contents, name)
        return [one for one in contents if one not in gone]

    return change


def without_series(name: str, monday: str):
    """Return a change that removes a Monday of a series, with its checkpoints."""

    def change(contents):
        batch = str(batch_id(name, date.fromisoformat(monday)))
        return [
            one
            for one in contents
            if not _is_of(one, name, monday) and entry_batch_id(one) != batch
        ]

    return change


def _is_of(content: Content, name: str, monday: str) -> bool:
    for member in ("generation", "batch"):
        row = content.get(member, {})
        if (row.get("series"), row.get("run_date")) == (name, monday):
            return True
    return False


def questions_of(contents: list[Content], name: str, monday: str) -> list[Content]:
    """Return the completions of the questions of a series and a Monday."""
    return [
        one
        for one in contents
        if _is_of(one, name, monday) and "accepted" in one.get("generation", {})
    ]


def other_draws(monday: str, edit):
    """Return a change of the accepted draws of a Monday, with picks that fit them."""

    def change(contents):
        question = questions_of(contents, "dice", monday)[-1]["generation"]
        answer = json.loads(question["answer"])
        edit(answer)
        question["answer"] = journal.canonical_json(answer)
        picks = [one for one in answer["draws"] if "skipped" not in one]
        batch = next(one for one in contents if "batch" in one and _is_of(one, "dice", monday))
        for pick, draw in zip(batch["picks"], picks, strict=True):
            pick["action"] = draw["action"]

    return change


def turned(answer: dict) -> None:
    """Turn the direction of the last draw, which is a pick."""
    last = answer["draws"][-1]
    last["action"] = "SELL" if last["action"] == "BUY" else "BUY"


def another_seed(answer: dict) -> None:
    answer["seed"] = "0" * 64


def another_universe(answer: dict) -> None:
    answer["universe_sha256"] = "0" * 64


def one_skipped_more(answer: dict) -> None:
    answer["draws"].insert(0, {"ticker": "AAPL", "action": "BUY", "skipped": "REFUSED"})


def refused_ticker(contents: list[Content]) -> str:
    """Return the ticker without a price on the first Monday."""
    refused = questions_of(contents, "dice", FIRST)[1]["generation"]
    return next(
        one["ticker"]
        for one in json.loads(refused["answer"])["draws"]
        if names_ticker(refused["refusal"], one["ticker"])
    )


def with_a_price(refusal: str | None = None):
    """
    Return a change that adds a close of the refused ticker, which was read two hours before.

    It may also change the refusal: `{}` becomes the ticker.
    """

    def change(contents):
        ticker = refused_ticker(contents)
        refused = questions_of(contents, "dice", FIRST)[1]["generation"]
        if refusal is not None:
            refused["refusal"] = refusal.format(ticker)
        place, read = next(
            (number, one) for number, one in enumerate(contents) if one["kind"] == "READINGS"
        )
        read = deepcopy(read)
        read["at"] = shifted(read["at"], hours=-2)
        read["response"].update(read_at=read["at"], ticker=ticker)
        close = read["closes"][-1]
        close.update(id=str(uuid4()), ticker=ticker, read_at=read["at"])
        read["closes"] = [close]
        contents.insert(place, read)

    return change


def refused_at_once(answer: str | None, refusal: str):
    """
    Return a change of the first question of a control: its answer was never accepted.

    `{}` in the refusal becomes the ticker that was really refused. None keeps the answer.
    """

    def change(contents):
        accepted, refused = questions_of(contents, "dice", FIRST)[:2]
        refused["generation"]["refusal"] = refusal.format(refused_ticker(contents))
        if answer is not None:
            refused["generation"]["answer"] = answer
        contents.remove(accepted)

    return change


def retired_after_its_answer(contents):
    """Retire a series on a Monday on which it was asked."""
    retirement = declarations_of(contents, "second")[1]
    retirement["series"]["holds_from"] = NEXT
    contents.remove(retirement)
    question = questions_of(contents, "second", NEXT)[-1]
    place = contents.index(question) + 1
    retirement["at"] = contents[place]["at"]
    contents.insert(place, retirement)
    batch = str(batch_id("second", date.fromisoformat(NEXT)))
    return [one for one in contents if "generation" in one or entry_batch_id(one) != batch]


def spaces(contents):
    """Write the same draws with white space."""
    question = questions_of(contents, "dice", FIRST)[-1]["generation"]
    question["answer"] = json.dumps(json.loads(question["answer"]))


def question(name: str, monday: str, **values: str):
    """Return a change of a question in both mentions."""

    def change(contents):
        for one in contents:
            if _is_of(one, name, monday) and "generation" in one:
                one["generation"].update(values)

    return change


def undeclared_failure(contents):
    """Add a Monday of a series that was never declared."""
    entry = deepcopy(next(one for one in contents if one["kind"] == "BATCH"))
    batch = entry["batch"]
    kept = ("run_date", "created_at", "late", "benchmark_symbol")
    entry["batch"] = {name: batch[name] for name in kept}
    entry["batch"].update(
        id=str(batch_id("ghost", date.fromisoformat(batch["run_date"]))),
        series="ghost",
        status="failed",
        failure_reason="CONFIGURATION",
        failure="No key.",
    )
    place = contents.index(next(one for one in contents if one["kind"] == "BATCH")) + 1
    failure = {"kind": "FAILURE", "at": entry["at"], "batch": entry["batch"]}
    contents.insert(place, failure)


def unsorted(contents):
    universe = declarations_of(contents, "dice")[0]["series"]["profile"]["universe"]
    with_profile("dice", universe=universe[::-1])(contents)


def small(**more: str):
    """Return values with another universe."""
    profile = {"draw_version": "1", "universe": ["A", "B", "C"], "universe_source": "x", **more}
    return {"label": "Dice", "profile": profile}


FORGERIES = [
    pytest.param(rule, change, id=f"{rule}: {name}")
    for rule, name, change in [
        ("series", "retired afterwards", declared("second", 1, holds_from=NEXT)),
        ("series", "retired and unknown", declared("third", retired="true")),
        ("series", "another kind", inserted("dice", LAST, name="main", **small())),
        ("series", "a universe at once", inserted("dice", LAST, holds_from=LAST, **small())),
        (
            "series",
            "a universe a day early",
            inserted("dice", LAST, holds_from="2026-11-30", **small()),
        ),
        ("series", "a universe backwards", unsorted),
        ("series", "a ticker in small letters", with_profile("dice", universe=["AAPL", "ko"])),
        ("series", "no source", with_profile("dice", universe_source=" ")),
        ("series", "no version of the draws", with_profile("dice", draw_version="")),
        ("series", "retired twice", inserted("third", LAST, name="second", retired="true")),
        ("series", "nobody declared it", undeclared_failure),
        ("series", "tools that are false", with_profile("third", tools="false")),
        ("row-form", "retired perhaps", declared("second", 1, retired="yes")),
        ("row-form", "a model with a universe", with_profile("third", universe=["A"])),
        ("row-form", "a control with a model", with_profile("dice", model="gpt-9")),
        ("profile", "asked after it was retired", inserted("third", LAST, retired="true")),
        ("profile", "never declared", without_declarations("second")),
        ("profile", "a control with a prompt", question("dice", NEXT, user_prompt="Draw.")),
        ("profile", "a control with a model", question("dice", NEXT, requested_model="gpt-9")),
        ("profile", "another draw", question("dice", NEXT, prompt_version="1")),
        ("profile", "another effort", question("second", NEXT, reasoning_effort="high")),
        ("draws", "another direction", other_draws(FIRST, turned)),
        ("draws", "another seed", other_draws(NEXT, another_seed)),
        ("draws", "another universe", other_draws(NEXT, another_universe)),
        ("draws", "one skipped more", other_draws(NEXT, one_skipped_more)),
        ("draws", "white space", spaces),
        ("draws", "another first entry", declared("dice", label="Dice")),
        ("draws", "no draws", refused_at_once("No draws.", "It is no text of draws.")),
        ("answer-refused", "a model", refused_at_once(None, "The model refused: {}")),
        ("answer-refused", "a price was read", with_a_price()),
        ("answer-refused", "no benchmark", with_a_price("{} is no benchmark for others.")),
        ("every-monday", "retired after its answer", retired_after_its_answer),
        ("every-monday", "a joined series starts late", without_series("second", NEXT)),
    ]
]


async def test_the_record_fits(several_series, create):
    """The record with joins, a retirement and a refused draw keeps every rule."""
    copy = copy_of(several_series, create)
    async with open_database(copy) as source:
        verification = await verify(source, [], silent)
    assert verification.links == 0
    with psycopg.connect(copy) as conn:
        refused = conn.execute("SELECT answer FROM generations WHERE answer LIKE '%REFUSED%'")
        assert refused.rowcount == 1


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery_of_several_series(several_series, create, rule, change):
    await check_forgery(copy_of(several_series, create), change, rule)
