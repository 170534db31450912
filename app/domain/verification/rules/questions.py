"""
The rules of a Monday's questions and their answers (docs/journal.md#questions).

Answers are parsed by `app.domain.prompt`, as on the Monday itself. No pick may be the benchmark, so
the parser needs the benchmark: see `benchmark_of`.
"""

from collections.abc import Sequence

from app.domain import calendar, control, prompt
from app.domain.model import QUESTIONS_PER_MONDAY, BatchStatus, Generation, Idea, batch_id
from app.domain.text import make_storable
from app.domain.tickers import names_ticker
from app.domain.verification.discrepancies import Rule, discrepancy, format_utc
from app.domain.verification.entries import ParsedEntry
from app.domain.verification.rules.tolerance import CLOCK_TOLERANCE
from app.domain.verification.state import JournalState, locate
from app.errors import UnusableAnswer

# An answer may have one of these refusals although its stored text follows the rules: the stored
# text is not complete, or is no answer of the model. docs/journal.md#an-answer lists the refusals.
_MODEL_REFUSED = "The model refused: "
_PROVIDER_REFUSALS = (
    "The answer was truncated.",
    "The provider's content filter stopped the answer.",
    "The answer held bytes that are no UTF-8.",
    # In the next three cases the provider sent no chat completion. Its response is stored as the
    # answer.
    "The answer had no choices.",
    "The provider's answer was not JSON, or not all of it.",
    "The provider answered with a web page in place of JSON.",
)
# This character replaces each character that Postgres cannot store. So a stored answer that
# contains it may follow the rules although the original answer broke them.
_REPLACEMENT_CHARACTER = make_storable("\0")

# The columns that a question gets when it is completed.
COMPLETION_COLUMNS = (
    "answered_at",
    "answered_model",
    "answer",
    "request_id",
    "prompt_tokens",
    "completion_tokens",
    "finish_reason",
    "system_fingerprint",
    "reasoning_tokens",
    "accepted",
    "refusal",
)

# How much of a refusal a message quotes, in characters.
_MAX_QUOTED = 120


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an entry that breaks one of the rules of questions."""
    for mention in entry.mentions_of(Generation):
        question, former = mention.row, mention.before
        assert isinstance(question, Generation)
        place = locate(entry, state, question)
        is_new = former is None
        is_claim = state.is_sealed and is_new
        if is_claim or entry.is_adoption:
            _check_open(place, question)
        if is_new:
            _check_number(place, question, state)
            _check_time(place, question, state)
            _check_count(place, question, state)
        if entry.is_adoption:
            # A question from before the sealing was mentioned by no entry: only its form is known.
            continue
        _check_answered_at(place, question)
        _check_order(place, question, state, is_new=is_new)
        if is_new:
            _check_prompt(place, question, state)
        if is_claim:
            continue
        if question.accepted:
            _check_accepted_question(place, question, state)
        else:
            was_accepted = isinstance(former, Generation) and bool(former.accepted)
            _check_refused_question(place, question, state, was_accepted=was_accepted)


def parse_ideas(question: Generation, benchmark: str) -> list[Idea]:
    """Return the ideas of a question's answer; raises UnusableAnswer if it breaks a rule."""
    if question.prompt_version == control.QUESTION_VERSION:
        return control.parse_answer(question.answer or "", benchmark)
    return prompt.parse_answer(question.answer or "", benchmark, question.prompt_version)


def _earlier(question: Generation, state: JournalState) -> list[Generation]:
    """Return the questions of the same Monday that were mentioned before `question`."""
    questions = state.questions_on((question.series, question.run_date))
    ids = [one.id for one in questions]
    return questions[: ids.index(question.id)]


def _check_number(place: str, question: Generation, state: JournalState) -> None:
    expected = len(_earlier(question, state)) + 1
    if question.attempt != expected:
        raise discrepancy(
            Rule.QUESTION_NUMBER,
            f"{place}: attempt is {question.attempt}, but the journal mentions {expected - 1} "
            "earlier questions of this Monday. Questions were removed, or the number was changed.",
        )


def _check_count(place: str, question: Generation, state: JournalState) -> None:
    failures = state.failures[batch_id(question.series, question.run_date)]
    # After each failure, the Monday may be run again, with three more questions.
    most = QUESTIONS_PER_MONDAY * (1 + failures)
    number = len(_earlier(question, state)) + 1
    if number > most:
        raise discrepancy(
            Rule.QUESTION_COUNT,
            f"{place}: a Monday with {failures} earlier FAILURE entries has at most {most} "
            f"questions, and this is question {number}.",
        )


def _check_time(place: str, question: Generation, state: JournalState) -> None:
    if question.run_date.weekday() != 0:
        raise discrepancy(
            Rule.QUESTION_TIME,
            f"{place}: run_date is a {question.run_date:%A}, but must be a Monday.",
        )
    beginning = f"{place}: asked_at is {format_utc(question.asked_at)}"
    begins = calendar.due_at(question.run_date)
    if question.asked_at < begins:
        raise discrepancy(
            Rule.QUESTION_TIME, f"{beginning}, but the Monday begins at {format_utc(begins)}."
        )
    ends = calendar.end_of_day(question.run_date)
    if question.asked_at >= ends:
        raise discrepancy(
            Rule.QUESTION_TIME, f"{beginning}, but the Monday ended at {format_utc(ends)}."
        )
    _check_answered_at(place, question)
    # Only one question of a Monday is open at a time.
    for one in _earlier(question, state):
        open_until = one.answered_at or one.asked_at
        if question.asked_at < open_until - CLOCK_TOLERANCE:
            raise discrepancy(
                Rule.QUESTION_TIME,
                f"{beginning}, but question {one.attempt} was open until {format_utc(open_until)}.",
            )


def _check_answered_at(place: str, question: Generation) -> None:
    answered_at = question.answered_at
    if answered_at and answered_at < question.asked_at - CLOCK_TOLERANCE:
        raise discrepancy(
            Rule.QUESTION_TIME,
            f"{place}: answered_at is {format_utc(answered_at)}, before asked_at, "
            f"{format_utc(question.asked_at)}.",
        )


def _check_open(place: str, question: Generation) -> None:
    """Raise Discrepancy if the claim of a question already has a part of its outcome."""
    for column in COMPLETION_COLUMNS:
        if getattr(question, column) is not None:
            raise discrepancy(
                Rule.CLAIM,
                f"{place}: its first mention has {column}, but in a sealed record a question is "
                "journaled before it is sent.",
            )


def _check_order(place: str, question: Generation, state: JournalState, *, is_new: bool) -> None:
    # After a batch with picks is stored, no question of its Monday is asked or changed any more.
    batch = state.batches.get(batch_id(question.series, question.run_date))
    if batch is not None and batch.status is not BatchStatus.FAILED:
        raise discrepancy(
            Rule.QUESTION_ORDER,
            f"{place}: it comes after the BATCH entry of its Monday, whose picks were already "
            "made.",
        )
    if not is_new:
        return
    for one in _earlier(question, state):
        if one.accepted:
            raise discrepancy(
                Rule.QUESTION_ORDER,
                f"{place}: it was asked although question {one.attempt} of that Monday was already "
                "accepted.",
            )
        # Before the record is sealed, no entry mentions an open question.
        if one.accepted is None:
            raise discrepancy(
                Rule.QUESTION_ORDER,
                f"{place}: it was asked although question {one.attempt} of that Monday was still "
                "open.",
            )


def _check_prompt(place: str, question: Generation, state: JournalState) -> None:
    """
    Raise Discrepancy unless the prompt has exactly the refusals of the Monday's earlier answers.

    A question that got no answer has a refusal, too, but the model is not told of it. A question of
    a control has no prompt.
    """
    if question.prompt_version == control.QUESTION_VERSION:
        return
    refusals = [one.refusal for one in _earlier(question, state) if one.answered_at and one.refusal]
    for refusal in refusals:
        if refusal not in question.user_prompt:
            raise discrepancy(
                Rule.PROMPT_SAYS_WHY,
                f"{place}: user_prompt does not contain the refusal of an earlier answer: "
                f"{refusal[:_MAX_QUOTED]}",
            )
    _, intro, _ = question.user_prompt.partition(prompt.REFUSALS_INTRO)
    if intro and not question.user_prompt.endswith(prompt.refusals_text(refusals)):
        raise discrepancy(
            Rule.PROMPT_SAYS_WHY,
            f"{place}: user_prompt lists refusals that are not in the journal. Earlier questions "
            "were removed.",
        )


def benchmark_of(question: Generation, state: JournalState) -> str:
    """
    Return the benchmark of a question.

    Usually the question names it. Otherwise the Monday's batch does: a failed Monday that is run
    again already has a batch. An empty text means that the benchmark is unknown.
    """
    named = prompt.benchmark_in_prompt(question.user_prompt)
    if named:
        return named
    batch = state.batches.get(batch_id(question.series, question.run_date))
    if batch is not None:
        return batch.benchmark_symbol
    if question.prompt_version == control.QUESTION_VERSION and state.record_calendar.newest:
        return state.record_calendar.newest.benchmark
    return ""


def _check_accepted_question(place: str, question: Generation, state: JournalState) -> None:
    problem = _accepted_problem(question, state)
    if problem:
        raise discrepancy(Rule.ANSWER_ACCEPTED, f"{place}: accepted is true, but {problem}")


def _accepted_problem(question: Generation, state: JournalState) -> str | None:
    """Return why a question cannot be accepted; None if it can."""
    if question.answer is None or question.answered_at is None:
        return "it has no answer"
    if question.refusal is not None:
        return "it has a refusal"
    try:
        parse_ideas(question, benchmark_of(question, state))
    except UnusableAnswer as error:
        return f"its answer breaks a rule: {error}"
    return None


def _check_refused_question(
    place: str, question: Generation, state: JournalState, *, was_accepted: bool
) -> None:
    if question.accepted is None:
        raise discrepancy(
            Rule.ANSWER_REFUSED,
            f"{place}: it is open, but the journal mentions a question only when it is accepted or "
            "refused.",
        )
    if not question.refusal:
        raise discrepancy(
            Rule.ANSWER_REFUSED, f"{place}: accepted is false, but there is no refusal."
        )
    if question.answered_at is None:
        if question.answer is not None or was_accepted:
            raise discrepancy(
                Rule.ANSWER_REFUSED,
                f"{place}: it has an answer, or had one, but answered_at is absent.",
            )
        return
    if question.answer is None:
        raise discrepancy(
            Rule.ANSWER_REFUSED, f"{place}: it was answered, but the answer is absent."
        )
    _check_reason_of_refusal(place, question, state, was_accepted=was_accepted)


def _check_reason_of_refusal(
    place: str, question: Generation, state: JournalState, *, was_accepted: bool
) -> None:
    """
    Raise Discrepancy for an answer that follows the rules, but was refused.

    docs/journal.md#an-answer lists the reasons for which such a refusal is allowed.
    """
    try:
        ideas = parse_ideas(question, benchmark_of(question, state))
    except UnusableAnswer:
        return
    refusal = question.refusal or ""
    if was_accepted:
        has_reason = _is_about_setting_or_price(refusal, ideas)
    else:
        has_reason = _is_about_incomplete_text(refusal, question)
    if not has_reason:
        raise discrepancy(
            Rule.ANSWER_REFUSED,
            f"{place}: its answer follows the rules, but was refused: {refusal[:_MAX_QUOTED]}",
        )


def _is_about_incomplete_text(refusal: str, question: Generation) -> bool:
    """
    Return whether an answer was refused because it was not complete, or could not be stored.

    A control has no provider: its draws are always complete.
    """
    if question.prompt_version == control.QUESTION_VERSION:
        return False
    is_incomplete = refusal in _PROVIDER_REFUSALS or refusal.startswith(_MODEL_REFUSED)
    return is_incomplete or _REPLACEMENT_CHARACTER in (question.answer or "")


def _is_about_setting_or_price(refusal: str, ideas: Sequence[Idea]) -> bool:
    """Return whether a refusal is about a changed benchmark, or about the price of a ticker."""
    is_about_price = any(names_ticker(refusal, idea.ticker) for idea in ideas)
    return refusal == prompt.BENCHMARK_CHANGED or is_about_price
