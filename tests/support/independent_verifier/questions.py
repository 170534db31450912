"""The rules of questions: docs/journal.md, "The rules", second table."""

from independent_verifier.answers import (
    PROVIDER_REFUSALS,
    BrokenRuleError,
    named_benchmark,
    names,
    picks_of,
)
from independent_verifier.api import Key, Row
from independent_verifier.claims import check_claim
from independent_verifier.known import ABOUT, Entry, Known, day_of, moment
from independent_verifier.refused import RecordRefused, require
from independent_verifier.sessions import MONDAY, in_new_york, new_york_day

EARLIER_ANSWERS = "Earlier answers could not be used:"


def check_questions(entry: Entry, known: Known) -> None:
    """Check all rules of the questions of an entry."""
    for key, row in entry.of("generations"):
        check_question(entry, known, key, row)


def check_question(entry: Entry, known: Known, key: Key, row: Row) -> None:
    """Check all rules of one question of an entry."""
    monday = row["series"], row["run_date"]
    keys = known.questions[monday]
    first, adopted = key not in entry.before, entry.kind == "READINGS"
    if first:
        keys = keys[: keys.index(key)]
    others = [known.newest[other] for other in keys if other != key]
    is_claim = adopted or (first and known.declared.sealed)
    if is_claim:
        check_claim(entry, row)
    if first:
        check_number(entry, row, len(others) + 1)
        allowed = 3 + 3 * known.failures[monday]
        count = len(others) + 1
        require(count <= allowed, "question-count", f"{entry.where} is question {count}")
    check_times(entry, row, others if first else [])
    if not adopted:
        check_order(entry=entry, known=known, row=row, others=others if first else [])
    if not is_claim:
        check_outcome(entry, known, key, row)
    if first and not adopted:
        check_prompt(entry, row, others)


def check_outcome(entry: Entry, known: Known, key: Key, row: Row) -> None:
    """Check the rules of a question that is accepted or refused."""
    benchmark = benchmark_of(known, row)
    if row.get("accepted") == "true":
        check_accepted(entry, row, benchmark)
    else:
        check_refused(entry, row, benchmark, once=key in known.accepted_once)


def check_number(entry: Entry, row: Row, number: int) -> None:
    """Check the rule `question-number`."""
    fits = row["attempt"] == str(number)
    require(fits, "question-number", f"{entry.where} is number {number}, not {row['attempt']}")


def check_times(entry: Entry, row: Row, others: list[Row]) -> None:
    """Check the rule `question-time`."""
    run_date, asked_at = day_of(row["run_date"]), moment(row["asked_at"])
    require(run_date.weekday() == MONDAY, "question-time", f"{entry.where}: {run_date}")
    early = asked_at < in_new_york(run_date, 9) or new_york_day(asked_at) != run_date
    require(not early, "question-time", f"{entry.where} is not asked on its Monday from 09:00 on")
    if "answered_at" in row:
        fits = moment(row["answered_at"]) >= asked_at - ABOUT
        require(fits, "question-time", f"{entry.where} is answered before it is asked")
    for other in earlier(row, others):
        over = moment(other.get("answered_at", other["asked_at"]))
        fits = asked_at >= over - ABOUT
        require(fits, "question-time", f"{entry.where} is asked before the one before was over")


def earlier(row: Row, others: list[Row]) -> list[Row]:
    """Return the questions of the Monday with a lower number."""
    return [other for other in others if int(other["attempt"]) < int(row["attempt"])]


def check_order(entry: Entry, known: Known, row: Row, others: list[Row]) -> None:
    """Check the rule `question-order`."""
    batch = known.batch_of_monday.get((row["series"], row["run_date"]))
    over = batch is not None and known.last_kind_of_batch[batch] == "BATCH"
    require(not over, "question-order", f"{entry.where} comes after its Monday's batch")
    over = all(other.get("accepted") == "false" for other in others)
    require(over, "question-order", f"{entry.where}: another one is accepted, or open")


def benchmark_of(known: Known, row: Row) -> str | None:
    """Return the benchmark that a question names, or else that of the batch before."""
    if named := named_benchmark(row["user_prompt"]):
        return named
    if batch := known.batch_of_monday.get((row["series"], row["run_date"])):
        return known.batch(batch)["benchmark_symbol"]
    if row["prompt_version"] == "draw-1" and known.declared.settings:
        return known.declared.settings[-1]["benchmark"]
    return None


def check_accepted(entry: Entry, row: Row, benchmark: str | None) -> None:
    """Check the rule `answer-accepted`."""
    for column in ("answer", "answered_at"):
        require(column in row, "answer-accepted", f"{entry.where} has no {column}")
    require("refusal" not in row, "answer-accepted", f"{entry.where} has a refusal")
    try:
        picks_of(row["answer"], row["prompt_version"], benchmark)
    except BrokenRuleError as error:
        raise RecordRefused("answer-accepted", f"{entry.where}: {error}") from None


def check_refused(entry: Entry, row: Row, benchmark: str | None, *, once: bool) -> None:
    """Check the rule `answer-refused`. `once` says whether the answer was accepted before."""
    refused = row.get("accepted") == "false" and row.get("refusal", "") != ""
    require(refused, "answer-refused", f"{entry.where} is neither accepted nor refused")
    both = ("answer" in row) == ("answered_at" in row)
    require(both, "answer-refused", f"{entry.where} has only one of answer and answered_at")
    if once:
        require("answer" in row, "answer-refused", f"{entry.where} was accepted without an answer")
    if "answer" not in row:
        return
    try:
        picks = picks_of(row["answer"], row["prompt_version"], benchmark)
    except BrokenRuleError:
        return
    why = row["refusal"]
    if once:
        named = any(names(why, pick["ticker"]) for pick in picks)
        fits = named or why == "The benchmark was changed."
    else:
        by_provider = why in PROVIDER_REFUSALS or why.startswith("The model refused: ")
        asks_model = row["prompt_version"] != "draw-1"
        fits = asks_model and (by_provider or "\ufffd" in row["answer"])
    require(fits, "answer-refused", f"{entry.where}: a good answer is refused, because: {why}")


def check_prompt(entry: Entry, row: Row, others: list[Row]) -> None:
    """Check the rule `prompt-says-why`."""
    if row["prompt_version"] == "draw-1":
        return
    prompt = row["user_prompt"]
    refusals = [
        other["refusal"]
        for other in earlier(row, others)
        if "answered_at" in other and "refusal" in other
    ]
    for refusal in refusals:
        require(refusal in prompt, "prompt-says-why", f"{entry.where}: not {refusal!r}")
    if EARLIER_ANSWERS in prompt:
        lines = [EARLIER_ANSWERS, *(f"- {refusal}" for refusal in refusals), "Answer anew."]
        fits = prompt.endswith("\n".join(lines))
        require(fits, "prompt-says-why", f"{entry.where} tells of refusals that are not there")
