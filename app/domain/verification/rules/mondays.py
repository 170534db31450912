"""The rules of a Monday: its batch, its picks and its baseline (docs/journal.md#mondays)."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial

from app.domain import calendar, prompt
from app.domain.journal import format_bool
from app.domain.model import (
    PICKS_PER_BATCH,
    QUESTIONS_PER_MONDAY,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    FailureReason,
    Generation,
    Idea,
    JournalKind,
    Pick,
    batch_id,
)
from app.domain.text import pluralize
from app.domain.verification.discrepancies import Rule, discrepancy, format_utc
from app.domain.verification.entries import Mention, ParsedEntry, show_difference
from app.domain.verification.rules import closures
from app.domain.verification.rules.questions import parse_ideas
from app.domain.verification.rules.tolerance import CLOCK_TOLERANCE
from app.domain.verification.state import JournalState, locate
from app.errors import UnusableAnswer


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an entry that breaks one of the rules of a Monday."""
    for mention in entry.mentions_of(Batch):
        batch = mention.row
        assert isinstance(batch, Batch)
        place = locate(entry, state, batch)
        _check_id(place, batch)
        if entry.kind in (JournalKind.BATCH, JournalKind.FAILURE):
            _check_new_batch(entry, state, mention)


def _check_new_batch(entry: ParsedEntry, state: JournalState, mention: Mention) -> None:
    """Check a batch in the entry that creates it."""
    batch = mention.row
    assert isinstance(batch, Batch)
    place = locate(entry, state, batch)
    _check_run_again(place, mention)
    _check_result(place, entry.kind, batch)
    _check_time(place, batch, state, kind=entry.kind)
    locate_batch = partial(locate, entry, state, batch)
    _check_late(locate_batch, batch, state)
    if entry.kind is JournalKind.FAILURE:
        _check_reason(place, batch, state)
        return
    _check_baseline(locate_batch, batch, state)
    _check_picks(place, batch, entry.rows(Pick))
    _check_answer(place, batch, state, picks=entry.rows(Pick))
    _check_day_zero(place, batch, entry.rows(Checkpoint))


def _check_id(place: str, batch: Batch) -> None:
    # The id follows from the Monday, so a Monday cannot have a second batch under another id.
    expected = batch_id(batch.series, batch.run_date)
    if batch.id != expected:
        raise discrepancy(
            Rule.BATCH_ID,
            f"{place}: id is {batch.id}, but the batch {batch.series}/{batch.run_date} has the id "
            f"{expected}.",
        )


def _check_run_again(place: str, mention: Mention) -> None:
    former = mention.before
    # The picks of a Monday are final: only a failed Monday may get another batch.
    if isinstance(former, Batch) and former.status is not BatchStatus.FAILED:
        raise discrepancy(
            Rule.RUN_AGAIN,
            f"{place}: an earlier entry already has this Monday's picks; only a failed Monday is "
            "run again.",
        )


def _check_result(place: str, kind: JournalKind, batch: Batch) -> None:
    """Raise Discrepancy for a batch whose columns do not fit the kind of its entry."""
    for problem in _column_problems(kind, batch):
        raise discrepancy(Rule.FAILED, f"{place}: a {kind} entry whose batch {problem}.")


def _column_problems(kind: JournalKind, batch: Batch) -> Iterator[str]:
    reasons: dict[str, object] = {"failure_reason": batch.failure_reason, "failure": batch.failure}
    prices: dict[str, object] = {
        "benchmark_initial_price": batch.benchmark_initial_price,
        "benchmark_initial_close_id": batch.benchmark_initial_close_id,
        "trading_day": batch.trading_day,
    }
    # A batch with picks has prices and no reasons; a failed batch has reasons and no prices.
    status, required, forbidden = BatchStatus.ACTIVE, prices, reasons
    if kind is JournalKind.FAILURE:
        status, required, forbidden = BatchStatus.FAILED, reasons, prices

    if batch.status is not status:
        yield f"has the status {batch.status}, not {status}"
    for name, value in required.items():
        if value is None:
            yield f"has no {name}"
    for name, value in forbidden.items():
        if value is not None:
            yield f"has a {name}"


def _check_time(place: str, batch: Batch, state: JournalState, *, kind: JournalKind) -> None:
    if batch.run_date.weekday() != 0:
        raise discrepancy(
            Rule.MONDAY, f"{place}: run_date is a {batch.run_date:%A}, but must be a Monday."
        )
    prefix = f"{place}: created_at is {format_utc(batch.created_at)}"
    begins = calendar.due_at(batch.run_date)
    if batch.created_at < begins:
        raise discrepancy(Rule.MONDAY, f"{prefix}, but the Monday begins at {format_utc(begins)}.")
    _check_after_answers(prefix, batch, state)

    # A process can make the picks until the Monday is over.
    is_over = calendar.new_york_date(batch.created_at) > batch.run_date
    if kind is JournalKind.BATCH and is_over:
        raise discrepancy(
            Rule.MONDAY, f"{prefix}, but picks are made on the Monday itself, in New York."
        )
    if batch.failure_reason is FailureReason.MISSED and not is_over:
        raise discrepancy(
            Rule.MONDAY,
            f"{prefix}, but failure_reason is MISSED, which is known only after the Monday.",
        )


def _check_after_answers(prefix: str, batch: Batch, state: JournalState) -> None:
    """Raise Discrepancy for a batch that is older than an answer on which it is based."""
    for question in state.questions_on((batch.series, batch.run_date)):
        # The batch is based on the accepted answer, or on all answers if none was usable. Other
        # questions do not count: another process may have asked them at the same time.
        is_basis = question.accepted or batch.failure_reason is FailureReason.NO_USABLE_ANSWER
        answered_at = question.answered_at
        if not is_basis or answered_at is None:
            continue
        if batch.created_at < answered_at - CLOCK_TOLERANCE:
            raise discrepancy(
                Rule.MONDAY,
                f"{prefix}, but question {question.attempt} of that Monday was answered at "
                f"{format_utc(answered_at)}.",
            )


def _check_late(place: Callable[[], str], batch: Batch, state: JournalState) -> None:
    # Perhaps the market was closed on short notice, and the process did not know it. So `late` may
    # be right by the calendar with such closures, or by the calendar without them.
    possible = state.first_sessions(batch.run_date)
    right = [day for day in possible if _is_late(batch, day) == batch.late]
    if right:
        if state.is_sealed:
            closures.choose(
                state,
                rule=Rule.LATE,
                place=place,
                benchmark=batch.benchmark_symbol,
                possible=possible,
                chosen=right,
            )
        return
    session = possible[-1]
    opens = calendar.from_new_york(session, calendar.OPEN_TIME)
    raise discrepancy(
        Rule.LATE,
        f"{place()}: late is {format_bool(batch.late)}, but created_at is "
        f"{format_utc(batch.created_at)} and the session opens at {format_utc(opens)}.",
    )


def _is_late(batch: Batch, first_session: date) -> bool:
    """Return whether a batch was created at the open of its first session, or later."""
    return batch.created_at >= calendar.from_new_york(first_session, calendar.OPEN_TIME)


def _check_reason(place: str, batch: Batch, state: JournalState) -> None:
    """Raise Discrepancy for a failure reason that the questions of the Monday contradict."""
    reason = batch.failure_reason
    questions = state.questions_on((batch.series, batch.run_date))
    if reason is FailureReason.NO_USABLE_ANSWER:
        _check_no_usable_answer(place, batch, questions)
    if reason in (FailureReason.MISSING_CLOSE, FailureReason.PROVIDER_ERROR):
        if any(one.accepted for one in questions):
            _check_given_up(place, batch)
        else:
            _check_unanswered(place, batch, questions)


def _check_no_usable_answer(place: str, batch: Batch, questions: Sequence[Generation]) -> None:
    # There may be more questions than QUESTIONS_PER_MONDAY: each time that a failed Monday is run
    # again, it may use as many again.
    if len(questions) < QUESTIONS_PER_MONDAY:
        raise discrepancy(
            Rule.FAILED,
            f"{place}: failure_reason is {batch.failure_reason}, but the journal mentions "
            f"{len(questions)} questions of that Monday, not {QUESTIONS_PER_MONDAY} or more.",
        )
    accepted = _find_accepted(questions)
    if accepted:
        raise discrepancy(
            Rule.FAILED,
            f"{place}: failure_reason is {batch.failure_reason}, but the answer to question "
            f"{accepted.attempt} is accepted.",
        )


def _check_unanswered(place: str, batch: Batch, questions: Sequence[Generation]) -> None:
    """
    Raise Discrepancy for a reason that does not fit a Monday without an accepted answer.

    No prices were requested on such a Monday, so the reason cannot be MISSING_CLOSE. It can be
    PROVIDER_ERROR only if all questions were used, and the model's provider did not answer the last
    one.
    """
    is_provider_error = batch.failure_reason is FailureReason.PROVIDER_ERROR
    has_all_questions = len(questions) >= QUESTIONS_PER_MONDAY
    if is_provider_error and has_all_questions and questions[-1].answered_at is None:
        return
    problem = "no answer of that Monday was accepted"
    if is_provider_error and has_all_questions:
        problem += ", and its last question was answered"
    elif is_provider_error:
        count = pluralize(len(questions), "question")
        problem += f", and the journal mentions {count}, not {QUESTIONS_PER_MONDAY} or more"
    raise discrepancy(
        Rule.FAILED,
        f"{place}: failure_reason is {batch.failure_reason}, but {problem}.",
    )


def _check_given_up(place: str, batch: Batch) -> None:
    """Raise Discrepancy for a Monday that failed before the last price retry of the day."""
    last_time = calendar.from_new_york(batch.run_date, calendar.PRICE_RETRY_TIMES[-1])
    if batch.created_at < last_time:
        raise discrepancy(
            Rule.FAILED,
            f"{place}: failure_reason is {batch.failure_reason}, but created_at is "
            f"{format_utc(batch.created_at)}, and prices are requested until "
            f"{format_utc(last_time)}.",
        )


def _find_accepted(questions: Sequence[Generation]) -> Generation | None:
    """Return the question whose answer was accepted; None if there is no such question."""
    return next((one for one in questions if one.accepted), None)


def _check_baseline(place: Callable[[], str], batch: Batch, state: JournalState) -> None:
    possible = state.sessions_before(batch.run_date)
    if batch.trading_day in possible:
        closures.choose(
            state,
            rule=Rule.BASELINE_SESSION,
            place=place,
            benchmark=batch.benchmark_symbol,
            possible=possible,
            chosen=[batch.trading_day],
        )
    else:
        expected = possible[0]
        raise discrepancy(
            Rule.BASELINE_SESSION,
            f"{place()}: trading_day is {batch.trading_day}, but the last session before "
            f"{batch.run_date} is {expected}. {state.closure_advice(expected)}",
        )


def _check_picks(place: str, batch: Batch, picks: Sequence[Pick]) -> None:
    positions = [pick.position for pick in picks]
    if positions != [*range(1, PICKS_PER_BATCH + 1)]:
        raise discrepancy(
            Rule.THREE_PICKS,
            f"{place}: its picks have the positions {_join(positions)}, but must have 1, 2, 3 "
            "in this order.",
        )
    # The benchmark is the fourth ticker: a pick cannot be measured against itself.
    tickers = [pick.ticker for pick in picks]
    if len({*tickers, batch.benchmark_symbol}) != PICKS_PER_BATCH + 1:
        raise discrepancy(
            Rule.THREE_PICKS,
            f"{place}: its picks are {_join(tickers)} and its benchmark is "
            f"{batch.benchmark_symbol}, but they must be four different tickers.",
        )
    for pick in picks:
        if pick.ended or pick.entry_open is not None or pick.entry_close_id is not None:
            raise discrepancy(
                Rule.THREE_PICKS,
                f"{place}: the pick {pick.ticker} must not be ended, and must have no entry_open "
                "and no entry_close_id, in the entry of its batch.",
            )


def _join(values: Sequence[int] | Sequence[str]) -> str:
    return ", ".join(map(str, values)) or "none"


def _check_answer(place: str, batch: Batch, state: JournalState, *, picks: Sequence[Pick]) -> None:
    """Raise Discrepancy unless the picks are the ideas of the accepted answer."""
    accepted = _find_accepted(state.questions_on((batch.series, batch.run_date)))
    if accepted is None:
        raise discrepancy(
            Rule.PICKS_OF_THE_ANSWER,
            f"{place}: it has picks, but no answer of that Monday is accepted.",
        )
    # BENCHMARK_SYMBOL may have changed after the question was asked. The batch must use the
    # benchmark that the question names.
    benchmark = prompt.benchmark_in_prompt(accepted.user_prompt)
    if benchmark not in (None, batch.benchmark_symbol):
        raise discrepancy(
            Rule.PICKS_OF_THE_ANSWER,
            f"{place}: benchmark_symbol is {batch.benchmark_symbol}, but question "
            f"{accepted.attempt} names {benchmark}.",
        )
    try:
        ideas = parse_ideas(accepted, batch.benchmark_symbol)
    except UnusableAnswer as error:
        raise discrepancy(
            Rule.PICKS_OF_THE_ANSWER,
            f"{place}: the answer to question {accepted.attempt} gives no picks with this "
            f"benchmark: {error}",
        ) from None
    # Both lists have three items, as was checked before.
    for pick, idea in zip(picks, ideas, strict=True):
        _check_idea(place, pick, idea, question=accepted)


def _check_idea(place: str, pick: Pick, idea: Idea, *, question: Generation) -> None:
    for field in ("ticker", "action", "reasoning", "probability"):
        stored, proposed = getattr(pick, field), getattr(idea, field)
        if stored == proposed:
            continue
        here, there = show_difference(stored, proposed)
        raise discrepancy(
            Rule.PICKS_OF_THE_ANSWER,
            f"{place}: {field} of pick {pick.position} is {here}, but the answer to question "
            f"{question.attempt} says {there}.",
        )


def _check_day_zero(place: str, batch: Batch, checkpoints: Sequence[Checkpoint]) -> None:
    # A BATCH entry has exactly one checkpoint: this was checked with the members of the entry.
    (checkpoint,) = checkpoints
    expected = {
        "day": 0,
        "checkpoint_date": batch.run_date,
        "status": CheckpointStatus.COMPUTED,
        "trading_day": batch.trading_day,
        "taken_at": batch.created_at,
        "benchmark_price": batch.benchmark_initial_price,
        "benchmark_close_id": batch.benchmark_initial_close_id,
        "benchmark_split_factor": 1,
        "benchmark_return_pct": None,
        "benchmark_unusual_move": None,
        "skip_reason": None,
        "skipped_at": None,
        "note": None,
    }
    for field, value in expected.items():
        stored = getattr(checkpoint, field)
        if stored != value:
            raise discrepancy(
                Rule.DAY_ZERO,
                f"{place}: {field} of its day 0 is {_format_value(stored)}, but must be "
                f"{_format_value(value)}.",
            )


def _format_value(value: object) -> str:
    if value is None:
        return "absent"
    return str(value)
