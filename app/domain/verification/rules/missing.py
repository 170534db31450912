"""
What is said of prices that were missing, or of prices that fit: only all readings of the record decide it.

The claims of entries are kept, and are checked when all rows were told.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from msgspec import Struct

from app.domain import prompt, tickers
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    FailureReason,
    Generation,
    JournalKind,
    Pick,
    SkipReason,
    Split,
)
from app.domain.splits import in_force
from app.domain.tickers import Tickers
from app.domain.verification.entries import Entry
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.rules.questions import ideas_of, names
from app.domain.verification.rules.readings import newest_of
from app.domain.verification.rules.tolerance import ABOUT, MEANWHILE
from app.domain.verification.state import State, where
from app.errors import UnusableAnswer

Readings = dict[str, list[Close]]


class Missing(Struct, frozen=True):
    """What an entry claims: that it had no close of `session` of at least one of these tickers."""

    rule: Rule
    place: str
    at: datetime
    session: date
    tickers: Sequence[str]


class Fitting(Struct, frozen=True):
    """What an entry claims: that the closes of a share fit those under a new ticker, which it has from a session on."""

    place: str
    at: datetime
    share: Tickers
    new: str
    baseline: date
    before: date
    from_session: date


def check(entry: Entry, state: State) -> None:
    """Keep what an entry claims of prices that are no part of it."""
    missing = [*_skipped(entry, state), *_refused(entry, state), *_failed(entry, state)]
    state.claims += missing
    state.claims += _renamed(entry, state)
    # An API tells the readings of a ticker only if it is asked for them.
    state.tickers.update(ticker for claim in missing for ticker in claim.tickers)


def check_end(state: State) -> None:
    """Refuse what the readings of the record contradict, when all rows were told; raises Misfit."""
    closes: Readings = defaultdict(list)
    for close in state.all_closes():
        closes[close.ticker].append(close)
    factors = state.all_splits()
    for claim in state.claims:
        if isinstance(claim, Missing):
            _check_missing(claim, closes)
        else:
            _check_fitting(claim, closes, factors.get(claim.new, []))


def _skipped(entry: Entry, state: State) -> Iterator[Missing]:
    for mention in entry.mentions_of(Checkpoint):
        checkpoint = mention.row
        assert isinstance(checkpoint, Checkpoint)
        if mention.before is not None or checkpoint.skip_reason is not SkipReason.MISSING_CLOSE:
            continue
        ids = state.picks_of[checkpoint.batch_id]
        # An ending or a rename may have been recorded while the closes were looked for.
        if any(id in state.endings or len(state.shares[id].periods) > 1 for id in ids):
            continue
        yield Missing(
            rule=Rule.SKIPPED,
            place=where(entry, state, checkpoint),
            at=entry.at,
            session=checkpoint.checkpoint_date - timedelta(days=1),
            tickers=[state.batch(checkpoint.batch_id).benchmark_symbol, *(state.pick(id).ticker for id in ids)],
        )


def _refused(entry: Entry, state: State) -> Iterator[Missing]:
    for mention in entry.mentions_of(Generation):
        question, former = mention.row, mention.before
        assert isinstance(question, Generation)
        if not isinstance(former, Generation) or not former.accepted or "benchmark" in (question.refusal or ""):
            continue
        sessions = state.baseline_sessions(question.run_date)
        if len(sessions) > 1:  # a closure on short notice, of which the process may not have known
            continue
        try:
            ideas = ideas_of(question, prompt.benchmark_of(question.user_prompt) or "")
        except UnusableAnswer:  # another version had accepted it
            continue
        yield Missing(
            rule=Rule.ANSWER_REFUSED,
            place=where(entry, state, question),
            at=entry.at,
            session=sessions.pop(),
            tickers=[idea.ticker for idea in ideas if names(question.refusal or "", idea.ticker)],
        )


def _failed(entry: Entry, state: State) -> Iterator[Missing]:
    for batch in entry.rows(Batch):
        if entry.kind is not JournalKind.FAILURE or batch.failure_reason is not FailureReason.MISSING_CLOSE:
            continue
        accepted = next((one for one in state.asked((batch.series, batch.run_date)) if one.accepted), None)
        sessions = state.baseline_sessions(batch.run_date)
        if accepted is None or len(sessions) > 1:  # a closure on short notice, of which the process may not have known
            continue
        try:
            ideas = ideas_of(accepted, batch.benchmark_symbol)
        except UnusableAnswer:  # another version had accepted it
            continue
        yield Missing(
            rule=Rule.FAILED,
            place=where(entry, state, batch),
            at=entry.at,
            session=sessions.pop(),
            tickers=[batch.benchmark_symbol, *(idea.ticker for idea in ideas)],
        )


def _renamed(entry: Entry, state: State) -> Iterator[Fitting]:
    pick, renaming = entry.one(Pick), entry.renaming
    if entry.kind is not JournalKind.PICK_RENAMED or pick is None or renaming is None or renaming.forced:
        return
    baseline = state.batch(pick.batch_id).trading_day
    if baseline is not None:
        yield Fitting(
            place=where(entry, state, pick),
            at=entry.at,
            share=state.shares[pick.id],
            new=pick.ticker,
            baseline=baseline,
            before=state.sessions.session_before(renaming.from_session),
            from_session=renaming.from_session,
        )


def _check_missing(claim: Missing, closes: Readings) -> None:
    def is_there(ticker: str) -> bool:
        of_session = (close for close in closes[ticker] if close.trading_day == claim.session)
        return any(close.read_at < claim.at - MEANWHILE for close in of_session)

    if all(map(is_there, claim.tickers)):
        raise misfit(
            claim.rule,
            f"{claim.place}: it says that a close was missing, but the record had those of {claim.session} of "
            f"{', '.join(claim.tickers)}.",
        )


def _check_fitting(claim: Fitting, closes: Readings, factors: Sequence[Split]) -> None:
    """Refuse a rename without force whose closes do not fit, whatever was read while they were compared."""
    until = claim.at + ABOUT
    moments = {until}
    for ticker in claim.share.all:
        moments |= {close.read_at for close in closes[ticker] if claim.at - MEANWHILE < close.read_at <= until}
    if any(_fits(claim, closes, factors, moment) for moment in moments):
        return
    raise misfit(
        Rule.RENAMING,
        f"{claim.place}: forced is false, but the closes under {claim.new} from {claim.from_session} on do not fit "
        "those before.",
    )


def _fits(claim: Fitting, closes: Readings, factors: Sequence[Split], until: datetime) -> bool:
    # The share's last ticker is the new one, and has no session up to then.
    before = newest_of(claim.share, closes, claim.baseline, claim.before, until)
    old = [before[day] for day in sorted(before)]
    if not old:
        return True  # an earlier version compared nothing
    newest = newest_of(Tickers.only(claim.new), closes, claim.before, date.max, until)
    new = [newest[day] for day in sorted(newest)]
    known = in_force(split for split in factors if split.read_at <= until)
    return tickers.fit(old, new, known, claim.from_session).fits
