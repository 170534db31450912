"""A Monday: its batch, its picks and its baseline."""

from collections.abc import Iterator

from app.domain import calendar, prompt
from app.domain.model import (
    PICKS_PER_BATCH,
    QUESTIONS_PER_MONDAY,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    FailureReason,
    Generation,
    JournalKind,
    Pick,
    batch_id,
)
from app.domain.verification.entries import Entry, Mention, shortened
from app.domain.verification.misfits import Rule, in_utc, misfit, truth
from app.domain.verification.rules.questions import ideas_of
from app.domain.verification.rules.tolerance import ABOUT
from app.domain.verification.state import State, where
from app.errors import UnusableAnswer


def check(entry: Entry, state: State) -> None:
    """Refuse an entry that breaks one of these rules; raises Misfit."""
    for mention in entry.mentions_of(Batch):
        batch = mention.row
        assert isinstance(batch, Batch)
        place = where(entry, state, batch)
        _check_id(place, batch)
        if entry.kind not in (JournalKind.BATCH, JournalKind.FAILURE):
            continue
        _check_run_again(place, mention)
        _check_result(place, entry.kind, batch)
        _check_time(place, entry.kind, batch, state)
        _check_late(place, batch, state)
        if entry.kind is JournalKind.FAILURE:
            _check_reason(place, batch, state)
            continue
        _check_baseline(place, batch, state)
        _check_picks(place, batch, entry.rows(Pick))
        _check_answer(place, batch, entry.rows(Pick), state)
        _check_day_zero(place, batch, entry.rows(Checkpoint))


def _check_id(place: str, batch: Batch) -> None:
    expected = batch_id(batch.series, batch.run_date)
    if batch.id != expected:
        raise misfit(
            Rule.BATCH_ID,
            f"{place}: id is {batch.id}, but that of the batch {batch.series}/{batch.run_date} is {expected}.",
        )


def _check_run_again(place: str, mention: Mention) -> None:
    former = mention.before
    if isinstance(former, Batch) and former.status is not BatchStatus.FAILED:
        raise misfit(
            Rule.RUN_AGAIN,
            f"{place}: the Monday has its picks by an earlier entry; only a failed one is run again.",
        )


def _check_result(place: str, kind: JournalKind, batch: Batch) -> None:
    """Refuse a batch that is not what its entry's kind says."""
    for problem in _problems(kind, batch):
        raise misfit(Rule.FAILED, f"{place}: a {kind} entry whose batch {problem}.")


def _problems(kind: JournalKind, batch: Batch) -> Iterator[str]:
    failed = kind is JournalKind.FAILURE
    status = BatchStatus.FAILED if failed else BatchStatus.ACTIVE
    if batch.status is not status:
        yield f"has the status {batch.status}, not {status}"
    reasons = {"failure_reason": batch.failure_reason, "failure": batch.failure}
    prices = {
        "benchmark_initial_price": batch.benchmark_initial_price,
        "benchmark_initial_close_id": batch.benchmark_initial_close_id,
        "trading_day": batch.trading_day,
    }
    needed, others = (reasons, prices) if failed else (prices, reasons)
    for name, value in needed.items():
        if value is None:
            yield f"has no {name}"
    for name, value in others.items():
        if value is not None:
            yield f"has a {name}"


def _check_time(place: str, kind: JournalKind, batch: Batch, state: State) -> None:
    if batch.run_date.weekday() != 0:
        raise misfit(Rule.MONDAY, f"{place}: run_date is a {batch.run_date:%A}, but must be a Monday.")
    made = f"created_at is {in_utc(batch.created_at)}"
    if batch.created_at < (begins := calendar.due_at(batch.run_date)):
        raise misfit(Rule.MONDAY, f"{place}: {made}, but the Monday begins at {in_utc(begins)}.")
    for question in state.asked((batch.series, batch.run_date)):
        # Another process may have asked meanwhile; what a batch rests on was there before.
        rests_on_it = question.accepted or batch.failure_reason is FailureReason.NO_USABLE_ANSWER
        if rests_on_it and question.answered_at and batch.created_at < question.answered_at - ABOUT:
            raise misfit(
                Rule.MONDAY,
                f"{place}: {made}, but question {question.attempt} of that Monday was answered at "
                f"{in_utc(question.answered_at)}.",
            )
    is_over = calendar.today(batch.created_at) > batch.run_date
    if kind is JournalKind.BATCH and is_over:
        raise misfit(Rule.MONDAY, f"{place}: {made}, but picks are made on the Monday itself, in New York.")
    if batch.failure_reason is FailureReason.MISSED and not is_over:
        raise misfit(
            Rule.MONDAY, f"{place}: {made}, but failure_reason is MISSED, which is known when the Monday is over."
        )


def _check_late(place: str, batch: Batch, state: State) -> None:
    if batch.late not in {one.is_late(batch.run_date, batch.created_at) for one in state.calendars}:
        opens = calendar.at(state.sessions.session_from(batch.run_date), calendar.OPEN)
        raise misfit(
            Rule.LATE,
            f"{place}: late is {truth(batch.late)}, but created_at is {in_utc(batch.created_at)} "
            f"and the session opens at {in_utc(opens)}.",
        )


def _check_reason(place: str, batch: Batch, state: State) -> None:
    reason = batch.failure_reason
    asked = state.asked((batch.series, batch.run_date))
    if reason is FailureReason.NO_USABLE_ANSWER:
        if len(asked) < QUESTIONS_PER_MONDAY:
            raise misfit(
                Rule.FAILED,
                f"{place}: failure_reason is {reason}, but the journal mentions {len(asked)} questions "
                f"of that Monday, not {QUESTIONS_PER_MONDAY} or more.",
            )
        if accepted := next((one for one in asked if one.accepted), None):
            raise misfit(
                Rule.FAILED, f"{place}: failure_reason is {reason}, but question {accepted.attempt} is accepted."
            )
    if reason in (FailureReason.MISSING_CLOSE, FailureReason.PROVIDER_ERROR):
        _check_provider(place, batch, asked)


def _check_provider(place: str, batch: Batch, asked: list[Generation]) -> None:
    """Refuse a Monday that failed for want of an answer or a price, but of which more was to be asked."""
    reason = batch.failure_reason
    if not any(one.accepted for one in asked):
        # Prices are asked for when an answer is accepted, so it was the model's provider that did not answer.
        is_unanswered = len(asked) >= QUESTIONS_PER_MONDAY and asked[-1].answered_at is None
        if reason is FailureReason.MISSING_CLOSE or not is_unanswered:
            raise misfit(
                Rule.FAILED,
                f"{place}: failure_reason is {reason}, but no question of that Monday is accepted"
                + (", and the last of three or more was answered." if asked else "."),
            )
        return
    last_time = calendar.at(batch.run_date, calendar.ASK_AGAIN[-1])
    if batch.created_at < last_time:
        raise misfit(
            Rule.FAILED,
            f"{place}: failure_reason is {reason}, but created_at is {in_utc(batch.created_at)}, "
            f"and prices are asked for until {in_utc(last_time)}.",
        )


def _check_baseline(place: str, batch: Batch, state: State) -> None:
    expected = state.sessions.session_before(batch.run_date)
    if batch.trading_day != expected:
        raise misfit(
            Rule.BASELINE_SESSION,
            f"{place}: trading_day is {batch.trading_day}, but the last session before {batch.run_date} is {expected}. "
            f"{state.if_closed(expected)}",
        )


def _check_picks(place: str, batch: Batch, picks: list[Pick]) -> None:
    positions = [pick.position for pick in picks]
    if positions != [*range(1, PICKS_PER_BATCH + 1)]:
        raise misfit(
            Rule.THREE_PICKS,
            f"{place}: its picks have the positions {_listed(positions)}, but must have 1, 2, 3 in this order.",
        )
    tickers = [pick.ticker for pick in picks]
    if len({*tickers, batch.benchmark_symbol}) != PICKS_PER_BATCH + 1:
        raise misfit(
            Rule.THREE_PICKS,
            f"{place}: its picks are {_listed(tickers)} and its benchmark is {batch.benchmark_symbol}, "
            "but they must be four different tickers.",
        )
    for pick in picks:
        if pick.ended or pick.entry_open is not None or pick.entry_close_id is not None:
            raise misfit(
                Rule.THREE_PICKS,
                f"{place}: the pick {pick.ticker} is ended or has an entry_open, which no pick has at its beginning.",
            )


def _listed(values: list[int] | list[str]) -> str:
    return ", ".join(map(str, values)) or "none"


def _check_answer(place: str, batch: Batch, picks: list[Pick], state: State) -> None:
    asked = state.asked((batch.series, batch.run_date))
    accepted = next((one for one in asked if one.accepted), None)
    if accepted is None:
        raise misfit(Rule.PICKS_OF_THE_ANSWER, f"{place}: it has picks, but no answer of that Monday is accepted.")
    named = prompt.benchmark_of(accepted.user_prompt)
    if named not in (None, batch.benchmark_symbol):
        raise misfit(
            Rule.PICKS_OF_THE_ANSWER,
            f"{place}: benchmark_symbol is {batch.benchmark_symbol}, but question {accepted.attempt} names {named}.",
        )
    try:
        ideas = ideas_of(accepted, batch.benchmark_symbol)
    except UnusableAnswer as error:
        raise misfit(
            Rule.PICKS_OF_THE_ANSWER,
            f"{place}: the answer to question {accepted.attempt} gives no picks with this benchmark: {error}",
        ) from None
    for pick, idea in zip(picks, ideas, strict=True):
        for field in ("ticker", "action", "reasoning"):
            here, there = getattr(pick, field), getattr(idea, field)
            if here != there:
                was, said = shortened(here, there)
                raise misfit(
                    Rule.PICKS_OF_THE_ANSWER,
                    f"{place}: {field} of pick {pick.position} is {was}, but the answer to question "
                    f"{accepted.attempt} says {said}.",
                )


def _check_day_zero(place: str, batch: Batch, checkpoints: list[Checkpoint]) -> None:
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
        found = getattr(checkpoint, field)
        if found != value:
            here, there = ("absent" if one is None else str(one) for one in (found, value))
            raise misfit(Rule.DAY_ZERO, f"{place}: {field} of its day 0 is {here}, but must be {there}.")
