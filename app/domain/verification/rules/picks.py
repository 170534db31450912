"""The rules of what an operator records about a pick: it ended, or its share has a new ticker."""

from app.domain import calendar
from app.domain.model import Ending, JournalKind, Pick, Renaming
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import ParsedEntry
from app.domain.verification.state import JournalState, locate


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an entry that breaks one of the rules of this module."""
    for mention in entry.mentions_of(Pick):
        pick, before = mention.row, mention.before
        if not isinstance(pick, Pick) or not isinstance(before, Pick):
            continue
        place = locate(entry, state, pick)
        if entry.kind is JournalKind.PICK_ENDED and entry.ending is not None:
            problem = _ending_problem(entry, state, pick=pick, before=before)
            if problem is not None:
                raise discrepancy(Rule.ENDING, f"{place}: {problem}.")
        if entry.kind is JournalKind.PICK_RENAMED:
            problem = _renaming_problem(entry, state, pick=pick, before=before)
            if problem is not None:
                raise discrepancy(Rule.RENAMING, f"{place}: {problem}.")


def _ending_problem(
    entry: ParsedEntry, state: JournalState, *, pick: Pick, before: Pick
) -> str | None:
    """Return what is wrong with the ending of a pick; None if nothing is."""
    ending = entry.ending
    assert isinstance(ending, Ending)
    if ending.pick_id != pick.id:
        return f"its ending is of the pick {ending.pick_id}"
    if before.ended or not pick.ended:
        return f"ended was {before.ended} and is {pick.ended}"
    last = f"its last_session {ending.last_session}"
    if not state.may_be_session(ending.last_session):
        return f"{last} is no session"
    baseline = state.batch(pick.batch_id).trading_day
    if baseline and ending.last_session < baseline:
        return f"{last} is before the baseline session, {baseline}"
    if ending.last_session >= calendar.new_york_date(entry.at):
        return f"{last} was not over when it was recorded"
    return None


def _renaming_problem(
    entry: ParsedEntry, state: JournalState, *, pick: Pick, before: Pick
) -> str | None:
    """Return what is wrong with the new ticker of a pick; None if nothing is."""
    batch = state.batch(pick.batch_id)
    stated = entry.content.get("before")
    if stated != before.ticker:
        return f"its ticker before was {before.ticker}, not {stated}"
    if pick.ticker == before.ticker:
        return "its ticker does not change"
    if pick.ticker == batch.benchmark_symbol:
        return "its new ticker is the benchmark's"
    others = [state.picks[id] for id in state.picks_of[batch.id] if id != pick.id]
    if any(other.ticker == pick.ticker for other in others):
        return "its new ticker is the ticker of another pick of the batch"
    if entry.renaming is None:  # an entry of an earlier version, which names no session
        return None
    return _session_problem(entry, state, pick=pick, renaming=entry.renaming)


def _session_problem(
    entry: ParsedEntry, state: JournalState, *, pick: Pick, renaming: Renaming
) -> str | None:
    """Return what is wrong with the first session of a new ticker; None if nothing is."""
    if renaming.pick_id != pick.id:
        return f"its renaming is of the pick {renaming.pick_id}"
    session = renaming.from_session
    first = f"its from_session {session}"
    if not state.may_be_session(session):
        return f"{first} is no session"
    baseline = state.batch(pick.batch_id).trading_day
    if baseline and session <= baseline:
        return f"{first} is not after the baseline session, {baseline}"
    # The state has this renaming already: it begins the last period of the share.
    previous = state.shares[pick.id].periods[-2].first
    if session <= previous:
        return f"{first} is not after the from_session of the renaming before, {previous}"
    if session > calendar.new_york_date(entry.at):
        return f"{first} was in the future when it was recorded"
    ending = state.endings.get(pick.id)
    if ending and session > ending.last_session:
        return f"{first} is after its last session, {ending.last_session}"
    return None
