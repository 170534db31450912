"""What a page says of a batch, in words. A batch is what the API tells of it: a mapping of its answer."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from app.domain.calendar import FORTNIGHT, Calendar, due_at
from app.domain.model import CHECKPOINT_DAYS
from app.web.formatting import after, listed, sentence, short_day

Told = Mapping[str, Any]

# What a page says of a Monday without picks, before the sentence that the record has of it.
FAILED = {
    "MISSED": "This Monday was missed.",
    "NO_USABLE_ANSWER": "No picks: the model gave no usable answer.",
    "MISSING_CLOSE": "No picks: a price was missing.",
    "PROVIDER_ERROR": "No picks: a provider did not give what was asked of it.",
    "CONFIGURATION": "No picks: a key, an account or a setting was not as it must be.",
}

# What the last look at the whole record found, as a headline; None before the first.
FOUND = {
    None: "Too early to tell.",
    "UNDECIDED": "Not to be told from luck.",
    "BETTER": "Better than luck explains.",
    "WORSE": "Worse than bad luck explains.",
}

_AT_FIRST = "skipped at first"

# Whose sentence quotes what a provider or a model said.
_QUOTED = frozenset({"NO_USABLE_ANSWER", "PROVIDER_ERROR", "CONFIGURATION"})


class Morning(Struct, frozen=True):
    """
    A day of the fortnight as its strip shows it.

    `state` is `baseline`, `computed`, `closed` (no session the day before), `missing` (a price could not be had),
    `next` (the next figures) or `coming`; `words` say the same, and more of it. `taken` is false for what is to come.
    """

    day: int
    on: date
    state: str
    words: str
    taken: bool = True
    result: bool = False
    corrected: bool = False


def headline(batch: Told) -> str:
    """Return the one sentence that a reader takes along."""
    if batch["status"] == "FAILED":
        return FAILED[batch["failureReason"]]
    if batch["status"] == "COMPLETED":
        if not batch["result"]:
            return "This fortnight stays unresolved."
        return _calls([pick["result"]["hit"] for pick in batch["picks"]], "was", "were", "right.")
    if not batch["latestCheckpoint"]:
        return f"{len(batch['picks'])} picks, and no morning has figures yet."
    return _calls([pick["latestMetric"]["hit"] for pick in batch["picks"]], "is", "are", "right so far.")


def _calls(hits: Sequence[bool], one: str, more: str, right: str) -> str:
    count = sum(hits)
    return f"{count or 'None'} of {len(hits)} calls {one if count == 1 else more} {right}"


def failure(batch: Told) -> str:
    """Return the record's sentence of why a Monday has no picks."""
    return _as_written(batch["failure"], batch["failureReason"])


def note(one: Told) -> str:
    """Return the record's sentence of why a checkpoint was skipped; empty where it has none."""
    return _as_written(one["note"] or "", one["skipReason"])


def _as_written(words: str, reason: str) -> str:
    """Return a sentence as pages write theirs, unless it quotes: then to the letter."""
    return words if reason in _QUOTED else sentence(words)


def verdict(batch: Told, metric: Told) -> str:
    """Return whether a pick's call is, or was, right."""
    right = "right" if metric["hit"] else "wrong"
    return right if batch["status"] == "COMPLETED" and batch["result"] else f"{right} so far"


def standing(pick: Told) -> Told | None:
    """Return the figures a pick is judged by: those of the result, or the last ones that there are."""
    found: Told | None = pick["result"] or pick["latestMetric"]
    return found


def benchmark_unusual(batch: Told) -> bool:
    """Return whether the benchmark's newest change holds a move that no split explains."""
    last = batch["latestCheckpoint"]
    return any(one["benchmarkUnusualMove"] for one in batch["checkpoints"] if last and one["day"] == last["day"])


def unusual(batch: Told, metric: Told) -> bool:
    """Return whether the points of a pick's newest figures hold a move that no split explains, of either side."""
    last = batch["result"] or batch["latestCheckpoint"]
    return bool(metric["unusualMove"] or last["benchmarkUnusualMove"])


def any_unusual(told: Sequence[Told]) -> bool:
    """Return whether any pick of these batches has such points."""
    standings = [(batch, standing(pick)) for batch in told for pick in batch["picks"]]
    return any(metric and unusual(batch, metric) for batch, metric in standings)


def strip(batch: Told, sessions: Calendar) -> list[Morning]:
    """Return day 0 and the fortnight."""
    taken = {one["day"]: one for one in batch["checkpoints"]}
    last = batch["result"] and batch["result"]["day"]
    following = _next_with_figures(batch, sessions)
    return [
        _taken(taken[day], result=day == last) if day in taken else _to_come(batch, day, following, sessions)
        for day in (0, *FORTNIGHT)
        if taken
    ]


def next_figures(batch: Told, sessions: Calendar) -> datetime | None:
    """
    Return when the next figures of an active batch are due; None if none are to come.

    Its next checkpoint may be one that is always skipped, because the day before it is no session.
    """
    day = _next_with_figures(batch, sessions)
    return None if day is None else due_at(date.fromisoformat(batch["runDate"]), day)


def ends_at(batch: Told) -> datetime:
    """Return when the last checkpoint of a batch is due."""
    return due_at(date.fromisoformat(batch["runDate"]), CHECKPOINT_DAYS)


def _next_with_figures(batch: Told, sessions: Calendar) -> int | None:
    if batch["status"] != "ACTIVE":
        return None
    taken = {one["day"] for one in batch["checkpoints"]}
    open_days = [day for day in FORTNIGHT if day not in taken]
    return sessions.first_with_figures(date.fromisoformat(batch["runDate"]), open_days)


def _taken(one: Told, *, result: bool) -> Morning:
    return Morning(
        one["day"],
        date.fromisoformat(one["checkpointDate"]),
        _state(one),
        _words(one),
        result=result,
        corrected=bool(one["corrections"]),
    )


def _state(one: Told) -> str:
    if one["status"] == "COMPUTED":
        return "computed" if one["day"] else "baseline"
    return "closed" if one["skipReason"] == "MARKET_CLOSED" else "missing"


def _words(one: Told) -> str:
    if one["status"] == "COMPUTED":
        words = f"closes of {short_day(one['tradingDay'])}"
        return f"{words}, {_AT_FIRST}. {note(one)}".strip() if one["skippedAt"] else words
    if one["skipReason"] == "MARKET_CLOSED":
        return f"skipped: {short_day(after(one['checkpointDate'], -1))} was no session"
    return f"skipped: {note(one) or 'a price could not be had'}"


def _to_come(batch: Told, day: int, following: int | None, sessions: Calendar) -> Morning:
    on = after(batch["runDate"], day)
    if not sessions.trading_day(on):
        words = f"without figures: {short_day(after(str(on), -1))} is no session"
        return Morning(day, on, "closed", words, taken=False)
    state = "next" if day == following else "coming"
    return Morning(day, on, state, "due at 09:00 in New York", taken=False)


def gaps(batch: Told, sessions: Calendar) -> list[str]:
    """Return a sentence for each kind of day that has no figures, and for each that got them later."""
    mornings = [one for one in strip(batch, sessions) if one.taken]
    closed = [one.day for one in mornings if one.state == "closed"]
    said = [f"{_days(closed)}: the exchange was closed the day before."] if closed else []
    said += [f"Day {one.day} was {one.words}" for one in mornings if one.state == "missing"]
    said += [f"Day {one.day}: {one.words}" for one in mornings if one.state == "computed" and _AT_FIRST in one.words]
    return said


def _days(days: Sequence[int]) -> str:
    return f"{'Day' if len(days) == 1 else 'Days'} {listed([str(day) for day in days])}"


def news(batch: Told | None) -> str:
    """Return what somebody who has the page open is told when it changed."""
    if batch is None:
        return ""
    last = batch["latestCheckpoint"]
    on = f" Day {last['day']}, closes of {short_day(last['tradingDay'])}." if last else ""
    return f"{headline(batch)}{on}"


def next_batch(batch: Told) -> datetime:
    """Return when the Monday after a batch's begins."""
    return due_at(date.fromisoformat(batch["runDate"]), 7)


def readings(batch: Told) -> list[Told]:
    """Return the readings that a batch's prices came from, by session and then in the order of its figures."""
    found = [batch["benchmarkInitialClose"], *(pick["initialClose"] for pick in batch["picks"])]
    for one in batch["checkpoints"]:
        found += [one["benchmarkClose"], *(metric["close"] for metric in one["metrics"])]
    known = {(one["tradingDay"], one["ticker"], one["readAt"]): one for one in found if one}
    return sorted(known.values(), key=lambda one: str(one["tradingDay"]))


def model(batch: Told) -> str:
    """Return the name of the model whose picks these are, as it names itself."""
    for question in batch["generations"]:
        if question["accepted"]:
            return str(question["answeredModel"] or question["requestedModel"])
    return ""


def is_cut(question: Told) -> bool:
    """Return whether a page shows only the beginning of a question's answer."""
    bytes_of_all: int = question["answerBytes"]
    return bytes_of_all > len(question["answerBeginning"].encode())


def splits(batch: Told) -> list[str]:
    """Return the split factors that the newest figures count with."""
    factors: dict[str, Decimal] = {}
    for one in batch["checkpoints"]:
        if one["benchmarkSplitFactor"]:  # a skipped morning has none, and takes none away
            factors[batch["benchmarkSymbol"]] = Decimal(one["benchmarkSplitFactor"])
        factors |= {metric["pick"]["ticker"]: Decimal(metric["splitFactor"]) for metric in one["metrics"]}
    return [f"one {ticker} became {factor.normalize():f}" for ticker, factor in factors.items() if factor != 1]
