"""
Forgeries of the questions of a Monday and of the batch made from them: each is named by its rule.

The kind: a record rewritten with its whole chain, in which part of a Monday contradicts what the
journal itself or the calendar says.
"""

import json
from copy import deepcopy
from datetime import date, time, timedelta
from uuid import uuid4

import pytest
from job_context import (
    BASELINE,
    CHOSEN,
    MONDAY,
    clock,
    harness,
    make_answer,
    make_completion,
    new_york,
    open_context,
    run_until_done,
)
from provider_server import Reply, says
from record_server import copy_of, rehearsed, silent, unguarded
from sealing import without_sealing
from tampering import Content, entry_of, forge, one_of_each_rule, shifted

from app.domain import calendar, journal
from app.domain.model import batch_id
from app.errors import Discrepancy, TryAgainAt
from app.ops.verify import open_database as opened
from app.ops.verify import verify
from jobs import daily, weekly
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["clock", "harness", "rehearsed"]

# The Mondays of the rehearsal; the last two are active.
FIRST, SECOND, THIRD, LAST = "2026-10-05", "2026-10-12", "2026-10-19", "2026-10-26"


def question(contents, run_date=SECOND) -> Content:
    return entry_of(contents, "GENERATION", run_date=run_date)["generation"]


def made(contents, run_date=SECOND) -> Content:
    return entry_of(contents, "BATCH", run_date=run_date)


def without(contents, run_date, *, and_its_question: bool) -> list[Content]:
    """Return the contents without a Monday."""
    its = made(contents, run_date)["batch"]["id"]
    others = []
    for content in contents:
        about = content.get("batch", {}).get("id") or content.get(
            "checkpoint", content.get("pick", {})
        ).get("batch_id")
        is_question = content.get("generation", {}).get("run_date") == run_date
        if about != its and not (is_question and and_its_question):
            others.append(content)
    return others


def changes_question(**changes):
    def change(contents):
        question(contents).update(changes)

    return change


def changes_batch(**changes):
    """Return a change of the second Monday's batch in every mention."""

    def change(contents):
        its = made(contents)["batch"]["id"]
        for content in contents:
            if content.get("batch", {}).get("id") == its:
                content["batch"].update(changes)

    return change


def shift_creation(**by):
    """Return a change of the time at which a batch was made, in every mention."""

    def change(contents):
        entry = made(contents)
        at = shifted(entry["batch"]["created_at"], **by)
        changes_batch(created_at=at)(contents)
        entry["at"] = entry["checkpoint"]["taken_at"] = at

    return change


def add_refused_question(
    contents, refusal="MSFT was chosen more than once; the picks must differ.", **changes
):
    """Put a refused question before that of a Monday; return the new entry."""
    entry = entry_of(contents, "GENERATION", run_date=SECOND)
    former = deepcopy(entry)
    earlier = former["generation"]
    answer = json.loads(earlier["answer"])
    answer["picks"][1]["ticker"] = answer["picks"][0]["ticker"]
    earlier.update(id=str(uuid4()), accepted="false", refusal=refusal, answer=json.dumps(answer))
    entry["generation"]["attempt"] = "2"
    entry["generation"]["user_prompt"] += f"\n- {refusal}"
    entry["generation"].update(changes)
    contents.insert(contents.index(entry), former)
    return former


def failure(contents, reason, run_date=SECOND, **changes):
    """Turn a Monday into a failed one: its FAILURE entry takes the place of the batch."""
    entry = made(contents, run_date)
    place = contents.index(entry)
    batch = entry["batch"]
    names = ("id", "series", "run_date", "created_at", "late", "benchmark_symbol")
    failed = {name: batch[name] for name in names}
    failed.update(status="failed", failure_reason=reason, failure="It failed.", **changes)
    entry_of_failure = {"kind": "FAILURE", "at": failed["created_at"], "batch": failed}
    before = contents[:place]
    return [*before, entry_of_failure, *without(contents[place:], run_date, and_its_question=False)]


# --- Questions -------------------------------------------------------------


def missing_second_number(contents):
    add_refused_question(contents, attempt="3")


def two_of_one_number(contents):
    add_refused_question(contents, attempt="1")


def in_reverse_order(contents):
    former = add_refused_question(contents)
    former["generation"]["attempt"] = "2"
    question_of_attempt = contents[contents.index(former) + 1]["generation"]
    question_of_attempt["attempt"] = "1"


def four_questions(contents):
    entry = entry_of(contents, "GENERATION", run_date=SECOND)
    for _ in range(3):
        add_refused_question(contents)
    questions = [one for one in contents if one.get("generation", {}).get("run_date") == SECOND]
    for attempt, one in enumerate(questions, 1):
        one["generation"]["attempt"] = str(attempt)
        one["generation"]["user_prompt"] = entry["generation"]["user_prompt"]


def four_before_a_failure(contents):
    four_questions(contents)
    last = [one for one in contents if one.get("generation", {}).get("run_date") == SECOND][-1][
        "generation"
    ]
    last.update(accepted="false", refusal="The answer was truncated.")
    return failure(contents, "NO_USABLE_ANSWER")


def four_without_answers(contents):
    four_questions(contents)
    for one in contents:
        row = one.get("generation", {})
        if row.get("run_date") == SECOND and row["accepted"] == "false":
            row["refusal"] = "The model's provider did not answer."
            for name in ("answer", "answered_at", "answered_model", "request_id"):
                row.pop(name, None)


def asked_before_nine(contents):
    its = question(contents)
    its["asked_at"] = shifted(its["asked_at"], hours=-1)


def asked_on_sunday(contents):
    its = question(contents)
    its["asked_at"] = shifted(its["asked_at"], days=-1)


def answered_before_asked(contents):
    its = question(contents)
    its["answered_at"] = shifted(its["asked_at"], minutes=-2)


def asked_while_another_was_open(contents):
    former = add_refused_question(contents)
    later = shifted(former["generation"]["asked_at"], minutes=5)
    former["generation"]["answered_at"] = former["at"] = later


def asked_on_tuesday(contents):
    entry = entry_of(contents, "GENERATION", run_date=SECOND)
    for name in ("asked_at", "answered_at"):
        entry["generation"][name] = shifted(entry["generation"][name], days=1)
    entry["at"] = shifted(entry["at"], days=1)


def recorded_before_it_was_asked(contents):
    """Record a question without an answer an hour before it was asked."""
    former = add_refused_question(contents, "The model's provider did not answer.")
    for name in (
        "answer",
        "answered_at",
        "answered_model",
        "request_id",
        "prompt_tokens",
        "completion_tokens",
    ):
        former["generation"].pop(name, None)
    former["at"] = shifted(former["generation"]["asked_at"], hours=-1)


def of_a_tuesday(contents):
    question(contents)["run_date"] = "2026-10-13"


def moved_after_its_batch(contents):
    entry = entry_of(contents, "GENERATION", run_date=SECOND)
    contents.remove(entry)
    contents.insert(contents.index(made(contents)) + 1, entry)


def another_after_its_batch(contents):
    former = add_refused_question(contents)
    contents.remove(former)
    former["generation"]["attempt"] = "2"
    question(contents).update(attempt="1")
    contents.insert(contents.index(made(contents)) + 1, former)


def refused_after_its_batch(contents):
    entry = deepcopy(entry_of(contents, "GENERATION", run_date=SECOND))
    ticker = made(contents)["picks"][0]["ticker"]
    entry["generation"].update(accepted="false", refusal=f"Alpha Vantage does not know {ticker}.")
    contents.insert(contents.index(made(contents)) + 1, entry)


def two_accepted(contents):
    former = add_refused_question(contents)
    answer = question(contents, LAST)["answer"]
    former["generation"].update(accepted="true", answer=answer)
    former["generation"].pop("refusal")


def the_answer(change):
    def changes(contents):
        its = question(contents)
        its["answer"] = change(its["answer"])

    return changes


def edited(change):
    def changes(answer):
        parsed = json.loads(answer)
        change(parsed["picks"])
        return json.dumps(parsed)

    return the_answer(changes)


def answer_without(name):
    def changes(contents):
        question(contents).pop(name)

    return changes


def refused_with(refusal):
    def changes(contents):
        former = add_refused_question(contents, refusal)
        former["generation"]["answer"] = question(contents, LAST)["answer"]

    return changes


def refused_later_without_cause(contents):
    entry = entry_of(contents, "GENERATION", run_date=SECOND)
    second = deepcopy(entry)
    second["generation"].update(accepted="false", refusal="Alpha Vantage does not know ZZZZZ.")
    contents.insert(contents.index(entry) + 1, second)


def refused_without_a_reason(contents):
    add_refused_question(contents)["generation"].pop("refusal")


def prompt_without_the_refusal(contents):
    former = add_refused_question(contents)
    its = contents[contents.index(former) + 1]["generation"]
    its["user_prompt"] = former["generation"]["user_prompt"]


def prompt_with_another_refusal(contents):
    former = add_refused_question(contents)
    former["generation"]["refusal"] = "The answer had 4 picks; exactly 3 are needed."


def prompt_with_half_a_refusal(contents):
    former = add_refused_question(contents)
    its = contents[contents.index(former) + 1]["generation"]
    its["user_prompt"] = its["user_prompt"][:-10]


QUESTIONS = [
    ("question-number", "the first is two", changes_question(attempt="2")),
    ("question-number", "a gap", missing_second_number),
    ("question-number", "one number twice", two_of_one_number),
    ("question-number", "in reverse order", in_reverse_order),
    ("question-count", "four", four_questions),
    ("question-count", "four before a failure", four_before_a_failure),
    ("question-count", "four, three of them without an answer", four_without_answers),
    ("question-time", "asked before nine", asked_before_nine),
    ("question-time", "asked on Sunday", asked_on_sunday),
    ("question-time", "answered before it was asked", answered_before_asked),
    ("question-time", "asked while another was open", asked_while_another_was_open),
    ("question-time", "asked on Tuesday", asked_on_tuesday),
    ("question-time", "of a Tuesday", of_a_tuesday),
    ("at", "recorded before it was asked", recorded_before_it_was_asked),
    ("question-order", "after its batch", another_after_its_batch),
    ("question-order", "refused after its batch", refused_after_its_batch),
    ("question-order", "two accepted", two_accepted),
    (
        "answer-accepted",
        "four picks",
        edited(lambda picks: picks.append({**picks[0], "ticker": "ZZZZ"})),
    ),
    (
        "answer-accepted",
        "a ticker twice",
        edited(lambda picks: picks[0].update(ticker=picks[1]["ticker"])),
    ),
    ("answer-accepted", "the benchmark", edited(lambda picks: picks[0].update(ticker="SPY"))),
    ("answer-accepted", "no reasoning", edited(lambda picks: picks[0].update(reasoning=" "))),
    ("answer-accepted", "an unknown action", edited(lambda picks: picks[0].update(action="HOLD"))),
    ("answer-accepted", "half of an answer", the_answer(lambda answer: answer[: len(answer) // 2])),
    ("answer-accepted", "text before the JSON", the_answer(lambda answer: f"Here it is: {answer}")),
    ("answer-accepted", "absent", answer_without("answer")),
    ("answer-accepted", "never answered", answer_without("answered_at")),
    ("answer-refused", "for an unknown reason", refused_with("I did not like it.")),
    (
        "answer-refused",
        "for a wrong count of picks",
        refused_with("The answer had 4 picks; exactly 3 are needed."),
    ),
    ("answer-refused", "later, for a ticker that is not in it", refused_later_without_cause),
    ("answer-refused", "without a refusal", refused_without_a_reason),
    ("prompt-says-why", "no reason", prompt_without_the_refusal),
    ("prompt-says-why", "another reason", prompt_with_another_refusal),
    ("prompt-says-why", "cut off", prompt_with_half_a_refusal),
]


# --- Mondays ---------------------------------------------------------------


def another_id(new, run_date=SECOND):
    """Return a change that gives a batch another id, in every mention."""

    def change(contents):
        old = made(contents, run_date)["batch"]["id"]
        return json.loads(json.dumps(contents).replace(old, new))

    return change


def on_tuesday(contents):
    its = made(contents)["batch"]["id"]
    new = str(batch_id("main", date(2026, 10, 13)))
    changes_batch(run_date="2026-10-13")(contents)
    return json.loads(json.dumps(contents).replace(its, new))


def failed_with(reason, run_date=SECOND, **changes):
    def change(contents):
        return failure(contents, reason, run_date, **changes)

    return change


def made_before_its_answer(contents):
    entry = entry_of(contents, "GENERATION", run_date=SECOND)
    later = shifted(made(contents)["at"], minutes=5)
    entry["generation"]["answered_at"] = entry["at"] = later


def in_the_evening(reason):
    """Return a change to a Monday that failed after the last request time for prices."""

    def change(contents):
        contents = failure(contents, reason, late="true")
        entry = entry_of(contents, "FAILURE", run_date=SECOND)
        moment = calendar.from_new_york(date.fromisoformat(SECOND), time(20, 31))
        entry["at"] = entry["batch"]["created_at"] = journal.format_timestamp(moment)
        return contents

    return change


def failed_before_its_answer(contents):
    """Let a Monday fail in the evening, before the answer arrives."""
    contents = in_the_evening("MISSING_CLOSE")(contents)
    entry = entry_of(contents, "GENERATION", run_date=SECOND)
    entry["generation"]["answered_at"] = entry["at"] = shifted(
        f"{SECOND}T20:31:00-04:00", minutes=5
    )
    return contents


def without_an_answer(reason, number):
    """Return a change to a Monday that failed in the evening after so many refused questions."""

    def change(contents):
        for _ in range(number - 1):
            add_refused_question(contents)
        contents = in_the_evening(reason)(contents)
        first = True
        questions = [
            one["generation"]
            for one in contents
            if one.get("generation", {}).get("run_date") == SECOND
        ]
        refused = "MSFT was chosen more than once; the picks must differ."
        for attempt, its in enumerate(questions, 1):
            its.update(accepted="false", refusal=refused, answer="{}", attempt=str(attempt))
            if not first:
                its["user_prompt"] += f"\n- {refused}"
            first = False
        return contents

    return change


def failed_without(name):
    def change(contents):
        contents = failure(contents, "PROVIDER_ERROR")
        entry_of(contents, "FAILURE", run_date=SECOND)["batch"].pop(name)
        return contents

    return change


def run_twice(contents):
    entry = deepcopy(made(contents))
    contents.insert(contents.index(made(contents)) + 1, entry)


def run_again_weeks_later(contents):
    contents.append(deepcopy(made(contents, FIRST)))


def failed_after_its_batch(contents):
    entry = entry_of(failure(deepcopy(contents), "PROVIDER_ERROR", LAST), "FAILURE", run_date=LAST)
    contents.append(entry)


def picks(change):
    def changes(contents):
        chosen = made(contents)["picks"]
        changed = change(chosen)
        if changed is not None:
            made(contents)["picks"] = changed

    return changes


def on_every_mention(position, **changes):
    """Return a change of a pick in every mention."""

    def change(contents):
        id = made(contents)["picks"][position - 1]["id"]
        for content in contents:
            for pick in (*content.get("picks", ()), content.get("pick", {})):
                if pick.get("id") == id:
                    pick.update(changes)

    return change


def other_action(contents):
    pick = made(contents)["picks"][2]
    on_every_mention(3, action="BUY" if pick["action"] == "SELL" else "SELL")(contents)


def two_swapped(contents):
    one, two = (deepcopy(pick) for pick in made(contents)["picks"][:2])
    names = ("ticker", "action", "reasoning")
    on_every_mention(1, **{name: two[name] for name in names})(contents)
    on_every_mention(2, **{name: one[name] for name in names})(contents)


def another_answer(contents):
    question(contents)["answer"] = question(contents, LAST)["answer"]


def no_question(contents):
    contents.remove(entry_of(contents, "GENERATION", run_date=SECOND))


def numbered_from_two(chosen):
    """Number the picks from two on."""
    for number, one in enumerate(chosen, 2):
        one["position"] = str(number)


def day_zero(**changes):
    def change(contents):
        made(contents)["checkpoint"].update(changes)

    return change


def day_zero_taken(**by):
    def change(contents):
        checkpoint = made(contents)["checkpoint"]
        checkpoint["taken_at"] = shifted(checkpoint["taken_at"], **by)

    return change


MONDAYS = [
    ("batch-id", "any other", another_id(str(uuid4()))),
    ("batch-id", "of the Monday before", another_id(str(batch_id("main", date(2026, 9, 28))))),
    (
        "batch-id",
        "of another series",
        another_id(str(batch_id("other", date.fromisoformat(SECOND)))),
    ),
    ("monday", "a Tuesday", on_tuesday),
    ("monday", "made at eight", shift_creation(minutes=-61)),
    ("monday", "made on Tuesday", shift_creation(days=1)),
    ("monday", "made the week before", shift_creation(days=-7)),
    ("monday", "missed before it is over", failed_with("MISSED")),
    ("monday", "made before its answer", made_before_its_answer),
    ("monday", "failed before its answer", failed_before_its_answer),
    ("late", "marked, but in time", changes_batch(late="true")),
    ("late", "not marked at half past nine", shift_creation(minutes=31)),
    ("late", "not marked in the evening", shift_creation(hours=9)),
    ("failed", "two questions fewer", failed_with("NO_USABLE_ANSWER")),
    ("failed", "a close missing in the morning", failed_with("MISSING_CLOSE")),
    ("failed", "a close missing, and no answer", without_an_answer("MISSING_CLOSE", 1)),
    ("failed", "no prices in the morning", failed_with("PROVIDER_ERROR")),
    ("failed", "no provider after one refused answer", without_an_answer("PROVIDER_ERROR", 1)),
    (
        "failed",
        "no provider, though all questions were answered",
        without_an_answer("PROVIDER_ERROR", 3),
    ),
    ("failed", "with a trading day", failed_with("PROVIDER_ERROR", trading_day="2026-10-09")),
    ("failed", "with a price", failed_with("PROVIDER_ERROR", benchmark_initial_price="500.0000")),
    ("failed", "without a reason", failed_without("failure_reason")),
    ("failed", "without a sentence", failed_without("failure")),
    ("failed", "with picks, but a failure", changes_batch(failure="It failed.")),
    ("run-again", "at once", run_twice),
    ("run-again", "weeks later", run_again_weeks_later),
    ("run-again", "failed after its picks", failed_after_its_batch),
    ("baseline-session", "the session before", changes_batch(trading_day="2026-10-08")),
    ("baseline-session", "the Monday itself", changes_batch(trading_day="2026-10-12")),
    ("baseline-session", "a Sunday", changes_batch(trading_day="2026-10-11")),
    ("three-picks", "two", picks(lambda chosen: chosen[:2])),
    (
        "three-picks",
        "a fourth",
        picks(lambda chosen: [*chosen, {**chosen[0], "id": str(uuid4()), "position": "4"}]),
    ),
    ("three-picks", "none", picks(lambda _: [])),
    ("three-picks", "positions from two on", picks(numbered_from_two)),
    ("three-picks", "in reverse order", picks(lambda chosen: chosen[::-1])),
    (
        "three-picks",
        "one ticker twice",
        picks(lambda chosen: chosen[0].update(ticker=chosen[1]["ticker"])),
    ),
    ("three-picks", "the benchmark", picks(lambda chosen: chosen[0].update(ticker="SPY"))),
    (
        "three-picks",
        "ended from the beginning",
        picks(lambda chosen: chosen[0].update(ended="true")),
    ),
    (
        "three-picks",
        "an open before the session",
        picks(lambda chosen: chosen[0].update(entry_open="10.0000")),
    ),
    ("picks-of-the-answer", "another reasoning", on_every_mention(1, reasoning="It will rise.")),
    ("picks-of-the-answer", "another action", other_action),
    (
        "picks-of-the-answer",
        "measured against another index",
        changes_batch(benchmark_symbol="QQQ"),
    ),
    ("picks-of-the-answer", "two swapped", two_swapped),
    ("picks-of-the-answer", "another ticker", on_every_mention(2, ticker="ZZZZ")),
    ("picks-of-the-answer", "another answer", another_answer),
    ("picks-of-the-answer", "no question", no_question),
    ("picks-of-the-answer", "a question after its batch", moved_after_its_batch),
    ("first-mention", "day one", day_zero(day="1")),
    ("day-zero", "another date", day_zero(checkpoint_date="2026-10-13")),
    ("day-zero", "another session", day_zero(trading_day="2026-10-08")),
    ("day-zero", "taken later", day_zero_taken(seconds=1)),
    ("day-zero", "a mark", day_zero(benchmark_unusual_move="false")),
    ("day-zero", "a return", day_zero(benchmark_return_pct="0")),
    ("day-zero", "a factor", day_zero(benchmark_split_factor="2")),
    ("day-zero", "a note", day_zero(note="Computed later.")),
    ("day-zero", "skipped", day_zero(status="skipped", skip_reason="MISSING_CLOSE")),
]


# --- Absences --------------------------------------------------------------


def monday_removed(run_date, *, and_its_question=True):
    return lambda contents: without(contents, run_date, and_its_question=and_its_question)


def two_mondays_removed(contents):
    return without(without(contents, SECOND, and_its_question=True), THIRD, and_its_question=True)


def days_removed(*days, run_date=THIRD):
    """Return a change that removes days of an active batch."""

    def change(contents):
        its = made(contents, run_date)["batch"]["id"]
        return [
            content
            for content in contents
            if (checkpoint := content.get("checkpoint", {})).get("batch_id") != its
            or checkpoint["day"] not in days
        ]

    return change


ABSENCES = [
    ("every-monday", "one between", monday_removed(SECOND)),
    (
        "every-monday",
        "one between, except its question",
        monday_removed(SECOND, and_its_question=False),
    ),
    ("every-monday", "two between", two_mondays_removed),
    ("every-monday", "the last", monday_removed(LAST)),
    ("every-day", "a session's", days_removed("3")),
    ("every-day", "a Sunday's", days_removed("6")),
    ("every-day", "three in a row", days_removed("3", "4", "5")),
    ("every-day", "from the eighth on", days_removed(*map(str, range(8, 15)), run_date=SECOND)),
]


FORGERIES = [
    pytest.param(rule, change, id=f"{rule}: {name}")
    for rule, name, change in [*QUESTIONS, *MONDAYS, *ABSENCES]
]


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery_of_a_monday(rehearsed, create, rule, change):
    await check_forgery(copy_of(rehearsed, create), change, rule)


# --- Records without a forgery ---------------------------------------------


async def fits(address: str) -> list[str]:
    """Verify a record, and return the kinds of the entries of an unsealed record like it."""
    async with opened(address) as source:
        await verify(source, [], silent)
        contents = [json.loads(entry["content"]) async for entry in source.entries(0)]
    return [content["kind"] for content in without_sealing(contents)]


def cut(content: dict, reason: str = "length") -> Reply:
    """Return a completion that was cut off, although its text is a whole answer."""
    completion = json.loads(make_completion(content).body)
    completion["choices"][0]["finish_reason"] = reason
    return says(completion)


WHOLE = make_answer(*CHOSEN)

TRUE_ANSWERS = [
    pytest.param([cut(WHOLE)], id="truncated after its end"),
    pytest.param([cut(WHOLE, "content_filter")], id="stopped by a filter after its end"),
    pytest.param([says(WHOLE)], id="an answer that is no completion"),
    pytest.param([make_completion(make_answer("SPY", "KO", "AAPL"))], id="the benchmark"),
    pytest.param(
        [make_completion("{"), make_completion(make_answer("KO", "KO", "AAPL"))],
        id="two different faults",
    ),
    pytest.param(
        [make_completion(json.dumps(WHOLE).replace("reasons", "\0"))],
        id="a character that is not stored",
    ),
]


@pytest.mark.parametrize("refused", TRUE_ANSWERS)
async def test_a_correct_refusal(harness, database, refused):
    harness.world.model = [*refused, make_completion(make_answer("AAPL", "KO", "NVDA"))]
    await run_until_done(harness, harness.begin)
    assert await fits(database) == ["GENERATION"] * (len(refused) + 1) + ["BATCH"]


async def test_an_unknown_ticker(harness, database):
    """An accepted answer is refused later, and the next question gives the reason."""
    harness.world.unknown.add("MSFT")
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("AAPL", "KO", "NVDA")),
    ]
    await run_until_done(harness, harness.begin)
    assert await fits(database) == ["GENERATION", "GENERATION", "GENERATION", "BATCH"]


async def test_a_failed_monday_that_is_run_again(harness, database):
    harness.world.model = [
        make_completion("no"),
        make_completion("no"),
        make_completion("no"),
        make_completion("no"),
        make_completion(WHOLE),
    ]
    await run_until_done(harness, harness.begin)
    assert await fits(database) == ["GENERATION"] * 3 + ["FAILURE"]
    await run_until_done(harness, lambda: harness.begin(questions=6))
    assert await fits(database) == ["GENERATION"] * 3 + [
        "FAILURE",
        "GENERATION",
        "GENERATION",
        "BATCH",
    ]


async def test_a_model_that_does_not_answer(harness, database):
    harness.world.model = [Reply(status=503)] * 3
    await run_until_done(harness, harness.begin)
    assert (await harness.batch()).failure_reason == "PROVIDER_ERROR"
    assert await fits(database) == ["GENERATION"] * 3 + ["FAILURE"]


async def test_prices_that_are_missing_all_day(harness, database):
    harness.world.instead = [Reply(status=503)] * 200
    await run_until_done(harness, harness.begin)
    assert (await harness.batch()).failure_reason == "PROVIDER_ERROR"
    assert await fits(database) == ["GENERATION", "FAILURE"]


async def test_a_benchmark_that_changes_during_a_monday(harness, database, pool, clock):
    """
    The prompt named another benchmark, so the answer is refused, and the model is asked again.
    """
    harness.world.absent.add(("NVDA", BASELINE))
    with pytest.raises(TryAgainAt) as later:
        await harness.begin()
    harness.clock.time = later.value.at
    harness.world.model = [make_completion(make_answer("AAPL", "MSFT", "BRK.B"))]
    async with open_context(
        database=database,
        pool=pool,
        clock=clock,
        base_url=harness.provider.url,
        BENCHMARK_SYMBOL="KO",
    ) as context:
        await weekly.run_if_due(context, 1, None)
    batch = await harness.batch()
    assert (batch.benchmark_symbol, batch.status) == ("KO", "active")
    assert await fits(database) == ["GENERATION"] * 3 + ["BATCH"]


async def test_a_monday_that_ends_during_a_question(harness, database):
    """The model is not asked on Tuesday."""
    harness.clock.time = new_york(MONDAY, 23, 59)

    def answers(request):
        if request.path.endswith("/chat/completions"):
            harness.clock.time = new_york(MONDAY + timedelta(days=1), 0, 1)
            return make_completion("no")
        return harness.world(request)

    harness.provider.answers = answers
    await harness.begin()
    batch = await harness.batch()
    assert (batch.failure_reason, batch.failure) == (
        "MISSED",
        "The Monday was over before an answer was accepted.",
    )
    assert await fits(database) == ["GENERATION", "FAILURE"]


async def test_a_close_that_is_missing_all_day(harness, database):
    harness.world.absent.add(("SPY", BASELINE))
    await run_until_done(harness, harness.begin)
    assert await fits(database) == ["GENERATION", "FAILURE"]


async def test_missed_mondays_are_recorded_before_the_next(harness, database):
    """After an outage, the missed Mondays are journalled before the next one."""
    harness.world.model = [
        make_completion("no"),
        make_completion("no"),
        make_completion("no"),
        make_completion(WHOLE),
    ]
    await run_until_done(harness, harness.begin)
    harness.clock.time = new_york(MONDAY + timedelta(weeks=3))
    await harness.begin()
    assert await fits(database) == ["GENERATION"] * 3 + ["FAILURE"] * 3 + ["GENERATION", "BATCH"]


async def test_checkpoints_may_be_late_for_a_day_after_an_outage(harness, database):
    """
    Checkpoints that were due during an outage may be missing for a day after it, and no longer.
    """
    batch = await harness.make_batch()
    harness.clock.time = calendar.due_at(MONDAY, 5)
    await run_until_done(harness, lambda: daily.take(harness.context, batch.id, 5))
    await fits(database)
    harness.clock.time = calendar.due_at(MONDAY, 8)
    await run_until_done(harness, lambda: daily.take(harness.context, batch.id, 8))
    with pytest.raises(Discrepancy, match="day 1 of the batch of 2026-10-26"):
        await fits(database)
    for day in (1, 2, 3, 4, 6, 7):
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))
    await fits(database)


async def test_a_monday_that_failed_although_its_closes_were_read(rehearsed, create):
    """The closes stay in the record, although no entry mentions them any more."""
    copy, closes = copy_of(rehearsed, create), list[dict[str, str]]()

    def change(contents):
        closes.extend(made(contents)["closes"])
        return in_the_evening("MISSING_CLOSE")(contents)

    forge(copy, change)
    with unguarded(copy) as conn:
        for close in closes:
            columns, values = ", ".join(close), [*close.values()]
            places = ", ".join(["%s"] * len(values))
            statement = f"INSERT INTO closes ({columns}) VALUES ({places}) ON CONFLICT DO NOTHING"
            conn.execute(statement.encode(), values)
    discrepancies = await discrepancies_of(copy)
    assert len(discrepancies) == 2, discrepancies
    for text in discrepancies:
        assert text.endswith("(rule: failed)"), text
