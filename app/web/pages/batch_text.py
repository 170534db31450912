"""
The words and values that pages show for a batch.

A batch, a pick, a metric or a checkpoint is a mapping, as the API returns it.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from app.domain import closures
from app.domain.calendar import MEASURED_DAYS, Calendar, due_at
from app.domain.lost_answers import Question, question_sentences
from app.domain.model import CHECKPOINT_DAYS, Action
from app.domain.returns import format_decimal
from app.domain.text import join_words
from app.domain.yearly_check import MIN_WEEKS
from app.web.formatting import add_days, format_sentence, short_date

Node = dict[str, Any]

# The headline of a Monday without picks, by the reason. On a page, the record's own sentence about
# the reason follows the headline.
FAILURE_HEADLINES = {
    "MISSED": "This Monday was missed.",
    "NO_USABLE_ANSWER": "No picks: the model gave no usable answer.",
    "MISSING_CLOSE": "No picks: a price was missing.",
    "PROVIDER_ERROR": "No picks: a provider did not return the requested data.",
    "CONFIGURATION": "No picks: a key, an account or a setting was wrong.",
}

# A control has no model: a draw cannot be used if one of its shares has no price.
_CONTROL_HEADLINES = {
    **FAILURE_HEADLINES,
    "NO_USABLE_ANSWER": "No picks: none of the draws could be used.",
}

# The headline of the record, by the finding of the yearly checks.
FINDING_HEADLINES = {
    "UNDECIDED": "Cannot be distinguished from luck.",
    "BETTER": "Better than luck explains.",
    "WORSE": "Worse than bad luck explains.",
}
TOO_EARLY_HEADLINE = "Too early to tell."

# Why a yearly check did not test a series.
UNTESTED_REASONS = {
    "LATE": "it was due before its rules were in the journal, and tested main only",
    "CONTROL": "a control",
    "TOOLS": "its model has tools or a search",
    "RETIRED": "retired",
    "FAILED_MONDAYS": "more than four failed or late Mondays since the check before",
    "TOO_FEW_WEEKS": f"fewer than {MIN_WEEKS} weeks without a gap",
    "NO_PROBABILITY": "a price of the benchmark or a rate was missing, or the weeks did not differ "
    "enough",
}
# With these reasons, no check ever tests the series.
_NEVER_TESTED = frozenset({"CONTROL", "TOOLS"})

_SKIPPED_AT_FIRST = "skipped at first"

# The reasons whose sentence quotes a provider or a model. The dates and numbers of quotes are shown
# unchanged.
_QUOTING_REASONS = frozenset({"NO_USABLE_ANSWER", "PROVIDER_ERROR", "CONFIGURATION"})


class StripDay(Struct, frozen=True):
    """
    A day of the fortnight in the strip of days.

    `state` is one of these; the last two are only for days whose checkpoint is not taken yet:

    - `baseline`: day 0
    - `computed`
    - `closed`: there was, or will be, no session on the day before
    - `missing`: a price was not available
    - `next`: the first day that will have figures
    - `coming`: a later day that will have figures

    `words` explain the state. `is_past` is false for a day whose checkpoint has not been taken.
    """

    day: int
    calendar_date: date
    state: str
    words: str
    is_past: bool = True
    is_result: bool = False
    is_corrected: bool = False


def headline(batch: Node, *, is_control: bool = False) -> str:
    """Return the outcome of a batch, of a control or of a model, in one sentence."""
    if batch["status"] == "FAILED":
        headlines = _CONTROL_HEADLINES if is_control else FAILURE_HEADLINES
        return headlines[batch["failureReason"]]
    if batch["status"] == "COMPLETED":
        if not batch["result"]:
            return "This fortnight stays unresolved."
        hits = [pick["result"]["hit"] for pick in batch["picks"]]
        return f"{_count_calls(hits, 'was', 'were')} right."
    if not batch["latestCheckpoint"]:
        return f"{len(batch['picks'])} picks, and no morning has figures yet."
    hits = [pick["latestMetric"]["hit"] for pick in batch["picks"]]
    return f"{_count_calls(hits, 'is', 'are')} right so far."


def _count_calls(hits: Sequence[bool], singular: str, plural: str) -> str:
    """Return a phrase such as "2 of 3 calls were", with the form of the verb for the number."""
    count = sum(hits)
    verb = singular if count == 1 else plural
    return f"{count or 'None'} of {len(hits)} calls {verb}"


def record_headline(record: Node, *, is_never_tested: bool = False) -> str:
    """
    Return the finding of the record's yearly checks, or why the record has none.

    `is_never_tested` says that no check tests the series: it is a control, or a model with tools.
    """
    if not record["batches"]["total"]:
        return "The record is empty."
    verdict = record["verdict"]
    if verdict["finding"]:
        return FINDING_HEADLINES[verdict["finding"]]
    reason = None
    if verdict["looks"]:
        reason = verdict["looks"][-1]["untestedReason"]
    if is_never_tested or reason in _NEVER_TESTED:
        return "Shown, not tested."
    if reason in (None, "TOO_FEW_WEEKS"):
        return TOO_EARLY_HEADLINE
    return "The last yearly check has no finding."


def finding_text(look: Node) -> str:
    """Return the finding of a yearly check, or the reason why it did not test the series."""
    if look["finding"]:
        return FINDING_HEADLINES[look["finding"]]
    return f"not tested: {UNTESTED_REASONS[look['untestedReason']]}"


def failure_sentence(batch: Node) -> str:
    """Return the record's sentence about why a Monday has no picks."""
    return _record_sentence(batch["failure"], batch["failureReason"])


def skip_note(checkpoint: Node) -> str:
    """Return the record's sentence about why a checkpoint was skipped; empty if there is none."""
    return _record_sentence(checkpoint["note"] or "", checkpoint["skipReason"])


def _record_sentence(text: str, reason: str) -> str:
    """Return a sentence of the record with its dates formatted, unless it contains a quote."""
    if reason in _QUOTING_REASONS:
        return text
    return format_sentence(text)


def verdict(batch: Node, metric: Node) -> str:
    """
    Return "right" or "wrong" for a pick's call.

    "so far" is added while the batch is active. If it is completed without a result, the day of its
    last figures is added.
    """
    right = "right" if metric["hit"] else "wrong"
    if batch["status"] != "COMPLETED":
        return f"{right} so far"
    if not batch["result"]:
        return f"{right} on day {batch['latestCheckpoint']['day']}"
    return right


def current_metric(pick: Node) -> Node | None:
    """Return the metric that counts for a pick: its result, else its latest metric, else None."""
    metric: Node | None = pick["result"] or pick["latestMetric"]
    return metric


def is_benchmark_unusual(batch: Node) -> bool:
    """Return whether the benchmark's latest figures contain an unusual move."""
    latest = batch["latestCheckpoint"]
    if not latest:
        return False
    return any(
        checkpoint["benchmarkUnusualMove"]
        for checkpoint in batch["checkpoints"]
        if checkpoint["day"] == latest["day"]
    )


def is_unusual(batch: Node, metric: Node) -> bool:
    """Return whether the latest figures of a pick or of the benchmark contain an unusual move."""
    latest = batch["result"] or batch["latestCheckpoint"]
    return bool(metric["unusualMove"] or latest["benchmarkUnusualMove"])


def is_result_unusual(pick: Node | None) -> bool:
    """
    Return whether the result of a pick, or that of the benchmark, contains an unusual move.

    None is a pick that the record no longer has.
    """
    if pick is None or not pick["result"]:
        return False
    return is_unusual(pick["batch"], pick["result"])


def any_unusual(batches: Sequence[Node]) -> bool:
    """Return whether the latest figures of any pick of these batches contain an unusual move."""
    for batch in batches:
        metrics = [current_metric(pick) for pick in batch["picks"]]
        if any(metric and is_unusual(batch, metric) for metric in metrics):
            return True
    return False


def strip_days(batch: Node, sessions: Calendar) -> list[StripDay]:
    """Return day 0 and the fourteen days of a batch's fortnight; none for a batch without picks."""
    taken = {checkpoint["day"]: checkpoint for checkpoint in batch["checkpoints"]}
    if not taken:
        return []
    result_day = batch["result"] and batch["result"]["day"]
    next_day = _next_measured_day(batch, sessions)
    days = []
    for day in (0, *MEASURED_DAYS):
        if day in taken:
            days.append(_past_day(taken[day], is_result=day == result_day))
        else:
            is_next = day == next_day
            days.append(_coming_day(batch, day, sessions, is_next=is_next))
    return days


def next_figures_at(batch: Node, sessions: Calendar) -> datetime | None:
    """
    Return when the next figures of an active batch are due; None if there will be none.

    The API's `nextCheckpointAt` can be the time of a checkpoint that will be skipped, because there
    is no session on the day before it.
    """
    day = _next_measured_day(batch, sessions)
    if day is None:
        return None
    return due_at(date.fromisoformat(batch["runDate"]), day)


def ends_at(batch: Node) -> datetime:
    """Return when the last checkpoint of a batch is due."""
    return due_at(date.fromisoformat(batch["runDate"]), CHECKPOINT_DAYS)


def _next_measured_day(batch: Node, sessions: Calendar) -> int | None:
    if batch["status"] != "ACTIVE":
        return None
    taken = {checkpoint["day"] for checkpoint in batch["checkpoints"]}
    open_days = [day for day in MEASURED_DAYS if day not in taken]
    return sessions.first_measured_day(date.fromisoformat(batch["runDate"]), open_days)


def _past_day(checkpoint: Node, *, is_result: bool) -> StripDay:
    return StripDay(
        day=checkpoint["day"],
        calendar_date=date.fromisoformat(checkpoint["checkpointDate"]),
        state=_state(checkpoint),
        words=_words(checkpoint),
        is_result=is_result,
        is_corrected=bool(checkpoint["corrections"]),
    )


def _state(checkpoint: Node) -> str:
    if checkpoint["status"] == "COMPUTED" and checkpoint["day"] == 0:
        return "baseline"
    if checkpoint["status"] == "COMPUTED":
        return "computed"
    if not checkpoint["wasSession"]:
        return "closed"
    return "missing"


def _words(checkpoint: Node) -> str:
    if checkpoint["status"] == "COMPUTED":
        words = f"closes of {short_date(checkpoint['tradingDay'])}"
        if checkpoint["skippedAt"]:
            return f"{words}, {_SKIPPED_AT_FIRST}. {skip_note(checkpoint)}".strip()
        return words
    if _is_contradicted(checkpoint):
        return "skipped as a closed day, but a price of that session was read"
    if not checkpoint["wasSession"]:
        day_before = add_days(checkpoint["checkpointDate"], -1)
        return f"skipped: {short_date(day_before)} was no session"
    return f"skipped: {skip_note(checkpoint) or 'a price was not available'}"


def _coming_day(batch: Node, day: int, sessions: Calendar, *, is_next: bool) -> StripDay:
    on = add_days(batch["runDate"], day)
    if not sessions.trading_day(on):
        state = "closed"
        words = f"without figures: {short_date(add_days(str(on), -1))} is no session"
    else:
        state = "next" if is_next else "coming"
        words = "due at 09:00 in New York"
    return StripDay(
        day=day,
        calendar_date=on,
        state=state,
        words=words,
        is_past=False,
    )


def gap_sentences(batch: Node, sessions: Calendar) -> list[str]:
    """Return sentences about past days that have no figures, or had none at first."""
    past = [day for day in strip_days(batch, sessions) if day.is_past]
    sentences = []
    closed = [str(day.day) for day in past if day.state == "closed"]
    if closed:
        label = "Day" if len(closed) == 1 else "Days"
        sentences.append(f"{label} {join_words(closed)}: the exchange was closed the day before.")
    # The sentences about closed days that count as sessions come last.
    contradicted = {one["day"] for one in batch["checkpoints"] if _is_contradicted(one)}
    missing = [day for day in past if day.state == "missing" and day.day not in contradicted]
    sentences += [f"Day {day.day} was {day.words}" for day in missing]
    computed = [day for day in past if day.state == "computed"]
    sentences += [
        f"Day {day.day}: {day.words}" for day in computed if _SKIPPED_AT_FIRST in day.words
    ]
    return [*sentences, *closure_sentences(batch)]


def closure_sentences(batch: Mapping[str, Any]) -> list[str]:
    """Return sentences about closed days that decide, or would decide, the result of a batch."""
    days = [
        closures.CheckpointDay(
            day=checkpoint["day"],
            checkpoint_date=add_days(batch["runDate"], checkpoint["day"]),
            is_closed=checkpoint["skipReason"] == "MARKET_CLOSED",
            was_session=checkpoint["wasSession"],
        )
        for checkpoint in batch["checkpoints"]
    ]
    sentences = closures.closure_sentences(
        days,
        result_day=batch["result"] and batch["result"]["day"],
        is_completed=batch["status"] == "COMPLETED",
    )
    return [format_sentence(sentence) for sentence in sentences]


def _is_contradicted(checkpoint: Node) -> bool:
    """Return whether a checkpoint was skipped as a closed day, but is one of a session."""
    return bool(checkpoint["skipReason"] == "MARKET_CLOSED" and checkpoint["wasSession"])


def sentences_about_questions(batch: Node) -> list[str]:
    """Return sentences about answers that were lost, or have not arrived yet."""
    questions = [
        Question(
            attempt=question["attempt"],
            accepted=question["accepted"],
            has_answer=question["answeredAt"] is not None,
        )
        for question in batch["generations"]
    ]
    return question_sentences(questions)


def update_message(batch: Node | None, *, is_control: bool = False) -> str:
    """Return the message that an open page shows when the batch has changed."""
    if batch is None:
        return ""
    words = headline(batch, is_control=is_control)
    latest = batch["latestCheckpoint"]
    if not latest:
        return words
    return f"{words} Day {latest['day']}, closes of {short_date(latest['tradingDay'])}."


def next_run_at(batch: Node) -> datetime:
    """Return when the next Monday's run begins, a week after the run of this batch."""
    return due_at(date.fromisoformat(batch["runDate"]), 7)


def readings(batch: Node) -> list[Node]:
    """Return the price readings that a batch's figures use, each one once, ordered by session."""
    used = [batch["benchmarkInitialClose"], *(pick["initialClose"] for pick in batch["picks"])]
    for checkpoint in batch["checkpoints"]:
        used.append(checkpoint["benchmarkClose"])
        used += [metric["close"] for metric in checkpoint["metrics"]]
    for further in batch["furtherBenchmarks"]:
        used += [further["initialClose"], further["close"]]
    by_key = {
        (reading["tradingDay"], reading["ticker"], reading["readAt"]): reading
        for reading in used
        if reading
    }
    # The sort is stable, so the readings of one session stay in the order of the figures.
    return sorted(by_key.values(), key=lambda reading: str(reading["tradingDay"]))


def has_total_returns(batch: Node) -> bool:
    """Return whether the benchmark's dividends are known at the result of a batch."""
    result = batch["result"]
    return bool(result and result["benchmarkTotalReturnPct"])


def lacks_total_returns(batch: Node) -> bool:
    """Return whether the result of a pick has no total return."""
    return any(pick["result"] and not pick["result"]["totalReturnPct"] for pick in batch["picks"])


def in_favour(excess_pct: str, action: str) -> str:
    """Return an excess in points in the direction of a call: for a SELL, with the other sign."""
    return format_decimal(Action(action).in_direction(Decimal(excess_pct)))


def model_name(batch: Node) -> str:
    """
    Return the name of the model that made the picks; empty if no answer was accepted.

    It is the name that the provider reported, or the requested name if none was reported.
    """
    for question in batch["generations"]:
        if question["accepted"]:
            return str(question["answeredModel"] or question["requestedModel"])
    return ""


def accepted_sentence(batch: Node, *, is_control: bool = False) -> str:
    """
    Return what an accepted answer, or the accepted draws of a control, led to.

    A batch can fail after its answer was accepted, for example because the Monday ended before
    every price was read.
    """
    subject = "These draws" if is_control else "This answer"
    if batch["picks"]:
        return f"{subject} became the picks."
    verb = "were" if is_control else "was"
    return f"{subject} {verb} accepted, but this Monday has no picks."


def is_answer_cut(question: Node) -> bool:
    """Return whether a page shows only the beginning of the answer to a question."""
    shown_bytes = len(question["answerBeginning"].encode())
    return bool(question["answerBytes"] > shown_bytes)


def split_phrases(batch: Node) -> list[str]:
    """Return the splits in the latest figures, as in "one NVDA became 10"."""
    factors: dict[str, Decimal] = {}
    for checkpoint in batch["checkpoints"]:
        # A skipped checkpoint has no factors. The factors of the checkpoint before it remain valid.
        if checkpoint["benchmarkSplitFactor"]:
            factors[batch["benchmarkSymbol"]] = Decimal(checkpoint["benchmarkSplitFactor"])
        for metric in checkpoint["metrics"]:
            factors[metric["pick"]["ticker"]] = Decimal(metric["splitFactor"])
    return [
        f"one {ticker} became {factor.normalize():f}"
        for ticker, factor in factors.items()
        if factor != 1
    ]
