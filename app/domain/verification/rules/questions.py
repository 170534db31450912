"""
The questions of a Monday, and which answers were accepted.

Answers are read as the Monday read them, by `app.domain.prompt`. Between an answer and its batch nothing but the
question itself says which ticker the benchmark is.
"""

import re
from collections.abc import Sequence

from app.domain import calendar, prompt
from app.domain.model import QUESTIONS_PER_MONDAY, BatchStatus, Generation, Idea, batch_id
from app.domain.text import storable
from app.domain.verification.entries import Entry, Mention
from app.domain.verification.misfits import Rule, in_utc, misfit
from app.domain.verification.rules.tolerance import ABOUT
from app.domain.verification.state import State, where
from app.errors import UnusableAnswer

# Why an answer is refused whose text may keep the rules: the model, or its provider, said that it is not whole.
_REFUSED = "The model refused: "
_NOT_WHOLE = (
    "The answer was truncated.",
    "The provider's content filter stopped the answer.",
    "The answer held bytes that are no UTF-8.",
    # What came was no completion, but the text that should have stood in one.
    "The answer had no choices.",
    "The provider's answer was not JSON, or not all of it.",
    "The provider answered with a web page in place of JSON.",
)
# Where an answer held what Postgres cannot carry, this stands for it, and the refusal is about what stood there.
_REPLACED = storable("\0")


def check(entry: Entry, state: State) -> None:
    """Refuse an entry that breaks one of these rules; raises Misfit."""
    for mention in entry.mentions_of(Generation):
        question = mention.row
        assert isinstance(question, Generation)
        place = where(entry, state, question)
        if mention.before is None:
            _check_number(place, question, state)
            _check_time(place, question, state)
            _check_count(place, question, state)
        _check_order(place, mention, question, state)
        if mention.before is None:
            _check_prompt(place, question, state)
        if question.accepted:
            _check_accepted(place, question, state)
        else:
            _check_refused(place, mention, question, state)


def ideas_of(question: Generation, benchmark: str) -> list[Idea]:
    """Return the ideas of an answer; raises UnusableAnswer."""
    return prompt.read(question.answer or "", benchmark)


def _earlier(question: Generation, state: State) -> list[Generation]:
    """Return the questions of the same Monday that were mentioned before this one."""
    asked = state.asked((question.series, question.run_date))
    ids = [one.id for one in asked]
    return asked[: ids.index(question.id)]


def _check_number(place: str, question: Generation, state: State) -> None:
    expected = len(_earlier(question, state)) + 1
    if question.attempt != expected:
        raise misfit(
            Rule.QUESTION_NUMBER,
            f"{place}: attempt is {question.attempt}, but it is question {expected} of its Monday "
            "that the journal mentions. The questions between were taken out, or the number was changed.",
        )


def _check_count(place: str, question: Generation, state: State) -> None:
    failures = state.failures[batch_id(question.series, question.run_date)]
    most = QUESTIONS_PER_MONDAY * (1 + failures)
    if len(_earlier(question, state)) + 1 > most:
        raise misfit(
            Rule.QUESTION_COUNT,
            f"{place}: at most {most} questions are asked for a Monday with {failures} FAILURE entries before.",
        )


def _check_time(place: str, question: Generation, state: State) -> None:
    if question.run_date.weekday() != 0:
        raise misfit(Rule.QUESTION_TIME, f"{place}: run_date is a {question.run_date:%A}, but must be a Monday.")
    if question.asked_at < (begins := calendar.due_at(question.run_date)):
        raise misfit(
            Rule.QUESTION_TIME,
            f"{place}: asked_at is {in_utc(question.asked_at)}, but the Monday begins at {in_utc(begins)}.",
        )
    if question.asked_at >= (ends := calendar.end_of(question.run_date)):
        raise misfit(
            Rule.QUESTION_TIME,
            f"{place}: asked_at is {in_utc(question.asked_at)}, but the Monday ended at {in_utc(ends)}.",
        )
    if question.answered_at and question.answered_at < question.asked_at - ABOUT:
        raise misfit(
            Rule.QUESTION_TIME,
            f"{place}: answered_at is {in_utc(question.answered_at)}, before asked_at, {in_utc(question.asked_at)}.",
        )
    for one in _earlier(question, state):
        if question.asked_at < (one.answered_at or one.asked_at) - ABOUT:
            raise misfit(
                Rule.QUESTION_TIME,
                f"{place}: asked_at is {in_utc(question.asked_at)}, but question {one.attempt} was open "
                f"until {in_utc(one.answered_at or one.asked_at)}.",
            )


def _check_order(place: str, mention: Mention, question: Generation, state: State) -> None:
    batch = state.batches.get(batch_id(question.series, question.run_date))
    if batch is not None and batch.status is not BatchStatus.FAILED:
        raise misfit(
            Rule.QUESTION_ORDER,
            f"{place}: a question of a Monday whose BATCH entry came before. Its picks were made already.",
        )
    if mention.before is not None:
        return
    for one in _earlier(question, state):
        if one.accepted:
            raise misfit(
                Rule.QUESTION_ORDER,
                f"{place}: it was asked while question {one.attempt} of that Monday is accepted.",
            )


def _check_prompt(place: str, question: Generation, state: State) -> None:
    refusals = [one.refusal for one in _earlier(question, state) if one.answered_at and one.refusal]
    for refusal in refusals:
        if refusal not in question.user_prompt:
            raise misfit(
                Rule.PROMPT_SAYS_WHY,
                f"{place}: user_prompt does not say why an answer before was refused: {refusal[:120]}",
            )
    _, says, _ = question.user_prompt.partition(prompt.EARLIER)
    if says and not question.user_prompt.endswith(prompt.told(refusals)):
        raise misfit(
            Rule.PROMPT_SAYS_WHY,
            f"{place}: user_prompt tells of refusals that the journal does not have. Questions before it were taken "
            "out.",
        )


def _benchmark_of(question: Generation, state: State) -> str:
    """Return the benchmark that the question names, or the batch's; an empty text if neither is known."""
    if named := prompt.benchmark_of(question.user_prompt):
        return named
    batch = state.batches.get(batch_id(question.series, question.run_date))
    return batch.benchmark_symbol if batch else ""


def _check_accepted(place: str, question: Generation, state: State) -> None:
    problem = None
    if question.answer is None or question.answered_at is None:
        problem = "it has no answer"
    elif question.refusal is not None:
        problem = "it has a refusal"
    else:
        try:
            ideas_of(question, _benchmark_of(question, state))
        except UnusableAnswer as error:
            problem = f"its answer breaks a rule: {error}"
    if problem:
        raise misfit(Rule.ANSWER_ACCEPTED, f"{place}: accepted is true, but {problem}")


def _check_refused(place: str, mention: Mention, question: Generation, state: State) -> None:
    if question.accepted is None:
        raise misfit(
            Rule.ANSWER_REFUSED,
            f"{place}: the journal mentions a question only when it is accepted or refused, but it is open.",
        )
    if not question.refusal:
        raise misfit(Rule.ANSWER_REFUSED, f"{place}: accepted is false, but no refusal says why.")
    former = mention.before
    was_accepted = isinstance(former, Generation) and bool(former.accepted)
    if question.answered_at is None:
        if question.answer is not None or was_accepted:
            raise misfit(Rule.ANSWER_REFUSED, f"{place}: it has an answer, or had one, but answered_at is absent.")
        return
    if question.answer is None:
        raise misfit(Rule.ANSWER_REFUSED, f"{place}: it was answered, but the answer is absent.")
    try:
        ideas = ideas_of(question, _benchmark_of(question, state))
    except UnusableAnswer:
        return
    has_reason = _is_for_a_setting_or_price if was_accepted else _is_for_its_form
    if not has_reason(question, ideas):
        raise misfit(
            Rule.ANSWER_REFUSED,
            f"{place}: its answer keeps the rules, but it was refused: {question.refusal[:120]}",
        )


def _is_for_its_form(question: Generation, _: Sequence[Idea]) -> bool:
    """Return whether an answer was refused for what its text alone does not show: what came was not whole."""
    refusal = question.refusal or ""
    is_whole = refusal not in _NOT_WHOLE and not refusal.startswith(_REFUSED)
    return not is_whole or _REPLACED in (question.answer or "")


def _is_for_a_setting_or_price(question: Generation, ideas: Sequence[Idea]) -> bool:
    """Return whether an accepted answer was refused for another benchmark, or for the price of one of its tickers."""
    refusal = question.refusal or ""
    return refusal == prompt.BENCHMARK_CHANGED or any(names(refusal, idea.ticker) for idea in ideas)


def names(sentence: str, ticker: str) -> bool:
    """Return whether a sentence names a ticker as a word of its own, not as a part of another ticker."""
    return re.search(rf"(?<![A-Z.]){re.escape(ticker)}(?![A-Z])(?!\.[A-Z]\b)", sentence) is not None
