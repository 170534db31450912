"""
The days that settings strike off: whether they are sessions.

An entry may treat a day that is struck off as a session or not, because the readings that decide
this may come later. So such entries are collected, and are checked after all rows were read. The
rules are those of the entries: `session`, `baseline-session`, `late` and `entry-open`. Definition:
docs/journal.md#the-calendar-of-a-sealed-record.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import date
from enum import Enum, auto

from msgspec import Struct

from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.record_calendar import RecordCalendar
from app.domain.verification.state import JournalState


class SessionChoice(Struct, frozen=True):
    """
    What an entry takes for a session, where days that are struck off decide it.

    - `possible`: the days that may be the session, in the order in which they are tried. All of
      them except the last are struck off. None in place of a day means that there is no session.
    - `chosen`: the days among them with which the entry is right
    - `listed`: the days among them that the newest settings list
    - `benchmark`: the ticker whose readings decide
    - `place`: returns the beginning of a message
    """

    rule: Rule
    place: Callable[[], str]
    benchmark: str
    possible: Sequence[date | None]
    chosen: Collection[date | None]
    listed: Collection[date]


class _Verdict(Enum):
    """Whether a day that is struck off is a session."""

    SESSION = auto()
    CLOSED = auto()
    UNDECIDED = auto()


def choose(
    state: JournalState,
    *,
    rule: Rule,
    place: Callable[[], str],
    benchmark: str,
    possible: Sequence[date | None],
    chosen: Collection[date | None],
) -> None:
    """Add what an entry takes for a session, unless no day that is struck off decides it."""
    if len(possible) < 2:
        return
    calendar = state.record_calendar
    listed = [day for day in possible if day is not None and calendar.is_listed(day)]
    state.choices.append(
        SessionChoice(
            rule=rule,
            place=place,
            benchmark=benchmark,
            possible=possible,
            chosen=chosen,
            listed=listed,
        )
    )


def check_end(state: JournalState) -> None:
    """Raise Discrepancy for an entry that takes the wrong day for a session."""
    if not state.choices:
        return
    bars = {(close.ticker, close.trading_day) for close in state.all_closes()}
    for choice in state.choices:
        _check_choice(choice, state, bars=bars)


def _check_choice(
    choice: SessionChoice, state: JournalState, *, bars: Collection[tuple[str, date]]
) -> None:
    """
    Raise Discrepancy if an entry takes the wrong day for a session.

    The possible days are tried in their order. The entry is right with the first chosen day that is
    not known to be closed. It is wrong if a day before that is a session, or if there is no such
    day. `bars` are the tickers and the days of all readings.
    """
    # A chosen day that turned out to be closed, for the message.
    skipped: date | None = None
    for day in choice.possible:
        verdict = _Verdict.UNDECIDED
        if day is not None and state.record_calendar.is_struck_off(day):
            verdict = _decide(day, choice.benchmark, state, bars=bars)
        # A process knew of the closure only if the newest settings list the day.
        is_closed = verdict is _Verdict.CLOSED and day in choice.listed
        if day in choice.chosen and not is_closed:
            return
        if verdict is _Verdict.SESSION:
            raise discrepancy(
                choice.rule,
                f"{choice.place()}: it takes {day} for a day without a session, because settings "
                f"list that day, but the record has a reading of {choice.benchmark} of {day}: the "
                "exchange traded.",
            )
        if day in choice.chosen:
            skipped = day
    raise discrepancy(
        choice.rule,
        f"{choice.place()}: it takes {skipped} for a session, but settings list that day, and a "
        f"response about {choice.benchmark} has prices of the sessions before and after it, and "
        "none of that day.",
    )


def _decide(
    day: date, benchmark: str, state: JournalState, *, bars: Collection[tuple[str, date]]
) -> _Verdict:
    """Return whether a day that is struck off is a session, by the readings of the record."""
    if (benchmark, day) in bars:
        return _Verdict.SESSION
    before, after = _neighbours(day, state.record_calendar)
    for first, last in state.covered.get(benchmark, ()):
        if first <= before and after <= last:
            return _Verdict.CLOSED
    return _Verdict.UNDECIDED


def _neighbours(day: date, calendar: RecordCalendar) -> tuple[date, date]:
    """Return the nearest sessions before and after a day that no settings list."""
    return calendar.possible_before(day)[-1], calendar.possible_from(day)[-1]
