"""What a person records of a pick: that its share ended, or has another ticker."""

from app.domain import calendar
from app.domain.model import Ending, JournalKind, Pick, Renaming
from app.domain.verification.entries import Entry
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.state import State, where


def check(entry: Entry, state: State) -> None:
    """Refuse an entry that breaks one of these rules; raises Misfit."""
    for mention in entry.mentions_of(Pick):
        pick, before = mention.row, mention.before
        if not isinstance(pick, Pick) or not isinstance(before, Pick):
            continue
        if entry.kind is JournalKind.PICK_ENDED and entry.ending is not None:
            _refuse(entry, state, Rule.ENDING, pick, _ending(entry, state, pick, before))
        if entry.kind is JournalKind.PICK_RENAMED:
            _refuse(entry, state, Rule.RENAMING, pick, _renaming(entry, state, pick, before))


def _refuse(entry: Entry, state: State, rule: Rule, pick: Pick, problem: str | None) -> None:
    if problem is not None:
        raise misfit(rule, f"{where(entry, state, pick)}: {problem}.")


def _ending(entry: Entry, state: State, pick: Pick, before: Pick) -> str | None:
    """Return what is wrong with the ending of a pick."""
    ending = entry.ending
    assert isinstance(ending, Ending)
    if ending.pick_id != pick.id:
        return f"its ending is of the pick {ending.pick_id}"
    if before.ended or not pick.ended:
        return f"ended was {before.ended} and is {pick.ended}"
    if not state.sessions.is_session(ending.last_session):
        return f"its last_session {ending.last_session} is no session"
    baseline = state.batch(pick.batch_id).trading_day
    if baseline and ending.last_session < baseline:
        return f"its last_session {ending.last_session} lies before the baseline's, {baseline}"
    if ending.last_session >= calendar.today(entry.at):
        return f"its last_session {ending.last_session} was not over when it was recorded"
    return None


def _renaming(entry: Entry, state: State, pick: Pick, before: Pick) -> str | None:
    """Return what is wrong with the new ticker of a pick."""
    batch = state.batch(pick.batch_id)
    if entry.content.get("before") != before.ticker:
        return f"its ticker before was {before.ticker}, not {entry.content.get('before')}"
    if pick.ticker == before.ticker:
        return "its ticker does not change"
    if pick.ticker == batch.benchmark_symbol:
        return "its new ticker is the benchmark's"
    others = [state.picks[id] for id in state.picks_of[batch.id] if id != pick.id]
    if any(other.ticker == pick.ticker for other in others):
        return "its new ticker is that of another pick of the batch"
    if entry.renaming is None:  # an entry of an earlier version
        return None
    return _session_of(entry, state, pick, entry.renaming)


def _session_of(entry: Entry, state: State, pick: Pick, renaming: Renaming) -> str | None:
    """Return what is wrong with the session from which a pick has its new ticker."""
    first = renaming.from_session
    if renaming.pick_id != pick.id:
        return f"its renaming is of the pick {renaming.pick_id}"
    if not state.sessions.is_session(first):
        return f"its from_session {first} is no session"
    baseline = state.batch(pick.batch_id).trading_day
    if baseline and first <= baseline:
        return f"its from_session {first} is not after the baseline's, {baseline}"
    # The last period is the one that this renaming begins.
    since = state.shares[pick.id].periods[-2].first
    if first <= since:
        return f"its from_session {first} is not after that of the renaming before, {since}"
    if first > calendar.today(entry.at):
        return f"its from_session {first} was to come when it was recorded"
    ending = state.endings.get(pick.id)
    if ending and first > ending.last_session:
        return f"its from_session {first} is after its last session, {ending.last_session}"
    return None
