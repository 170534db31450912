"""
Claims about prices: that a close was missing, or that the closes of a renamed share fit together.

Such a claim can be decided only with all readings of the record. So the claims of entries are
collected, and are checked after all rows were read. The rules are `skipped`, `answer-refused`,
`failed` and `renaming`.
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
    Idea,
    JournalKind,
    Pick,
    SkipReason,
    Split,
)
from app.domain.splits import newest_by_effective_date
from app.domain.tickers import TickerHistory, names_ticker
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import ParsedEntry
from app.domain.verification.rules.questions import parse_ideas
from app.domain.verification.rules.readings import newest_readings
from app.domain.verification.rules.tolerance import CLOCK_TOLERANCE, CONCURRENT_WINDOW
from app.domain.verification.state import JournalState, locate
from app.errors import UnusableAnswer

Readings = dict[str, list[Close]]


class MissingCloseClaim(Struct, frozen=True):
    """
    An entry claims that at least one of `tickers` had no close of `session`.

    `unless_benchmark` is whether the claim is not about a price if one of them is a benchmark of
    the record.
    """

    rule: Rule
    place: str
    at: datetime
    session: date
    tickers: Sequence[str]
    unless_benchmark: bool = False


class FittingClosesClaim(Struct, frozen=True):
    """
    An entry claims that the closes under a share's old tickers fit those under its new ticker.

    The share has the ticker `new` from `from_session` on, and `before` is the session before
    `from_session`; it has several days if a day that is struck off decides it. Of the closes under
    the old tickers, only those from the session `baseline` on are compared.
    """

    place: str
    at: datetime
    share: TickerHistory
    new: str
    baseline: date
    before: Sequence[date]
    from_session: date


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Collect the claims of an entry about readings that the entry does not hold."""
    missing = [
        *_claims_of_skipped(entry, state),
        *_claims_of_refused(entry, state),
        *_claims_of_failed(entry, state),
    ]
    state.claims += missing
    state.claims += _claims_of_renamed(entry, state)
    # If the record is read from an API, readings are requested by ticker. The claims need the
    # readings of their tickers, so these readings are requested, too.
    for claim in missing:
        state.tickers.update(claim.tickers)


def check_end(state: JournalState) -> None:
    """Raise Discrepancy for a claim that the readings of the record contradict."""
    closes: Readings = defaultdict(list)
    for close in state.all_closes():
        closes[close.ticker].append(close)
    factors = state.all_splits()
    for claim in state.claims:
        if isinstance(claim, MissingCloseClaim):
            if not claim.unless_benchmark or state.benchmarks.isdisjoint(claim.tickers):
                _check_missing(claim, closes)
        else:
            _check_fitting(claim, closes, factors.get(claim.new, []))


def _claims_of_skipped(entry: ParsedEntry, state: JournalState) -> Iterator[MissingCloseClaim]:
    """Yield the claim of a checkpoint that is skipped because a close was missing."""
    for mention in entry.mentions_of(Checkpoint):
        checkpoint = mention.row
        assert isinstance(checkpoint, Checkpoint)
        if mention.before is not None or checkpoint.skip_reason is not SkipReason.MISSING_CLOSE:
            continue
        ids = state.picks_of[checkpoint.batch_id]
        # An ending or a rename may have been recorded while the job requested the closes. Then the
        # journal does not show which closes the job requested, so this claim is not checked.
        if any(id in state.endings or len(state.shares[id].periods) > 1 for id in ids):
            continue
        benchmark = state.batch(checkpoint.batch_id).benchmark_symbol
        yield MissingCloseClaim(
            rule=Rule.SKIPPED,
            place=locate(entry, state, checkpoint),
            at=entry.at,
            session=checkpoint.checkpoint_date - timedelta(days=1),
            tickers=[benchmark, *(state.pick(id).ticker for id in ids)],
        )


def _claims_of_refused(entry: ParsedEntry, state: JournalState) -> Iterator[MissingCloseClaim]:
    """Yield the claim of an accepted answer that is refused later because of a price."""
    for mention in entry.mentions_of(Generation):
        question, former = mention.row, mention.before
        assert isinstance(question, Generation)
        refusal = question.refusal or ""
        if not isinstance(former, Generation) or not former.accepted:
            continue
        # A refusal with the word "benchmark" is about the setting BENCHMARK_SYMBOL, not about a
        # price. In a sealed record, the new setting is declared before the next question.
        is_about_setting = "benchmark" in refusal
        if refusal == prompt.BENCHMARK_CHANGED or (is_about_setting and not state.is_sealed):
            continue
        session = _baseline_session(state, question.run_date)
        benchmark = prompt.benchmark_in_prompt(question.user_prompt) or ""
        ideas = _ideas_of(question, benchmark)
        if session is None or ideas is None:
            continue
        yield MissingCloseClaim(
            rule=Rule.ANSWER_REFUSED,
            place=locate(entry, state, question),
            at=entry.at,
            session=session,
            tickers=[idea.ticker for idea in ideas if names_ticker(refusal, idea.ticker)],
            unless_benchmark=is_about_setting,
        )


def _claims_of_failed(entry: ParsedEntry, state: JournalState) -> Iterator[MissingCloseClaim]:
    """Yield the claim of a Monday that failed because a close was missing."""
    if entry.kind is not JournalKind.FAILURE:
        return
    for batch in entry.rows(Batch):
        if batch.failure_reason is not FailureReason.MISSING_CLOSE:
            continue
        questions = state.questions_on((batch.series, batch.run_date))
        accepted = next((one for one in questions if one.accepted), None)
        session = _baseline_session(state, batch.run_date)
        if accepted is None or session is None:
            continue
        ideas = _ideas_of(accepted, batch.benchmark_symbol)
        if ideas is None:
            continue
        yield MissingCloseClaim(
            rule=Rule.FAILED,
            place=locate(entry, state, batch),
            at=entry.at,
            session=session,
            tickers=[batch.benchmark_symbol, *(idea.ticker for idea in ideas)],
        )


def _baseline_session(state: JournalState, run_date: date) -> date | None:
    """
    Return the last session before a Monday; None if it depends on a closure on short notice.

    The process may not have known of that closure.
    """
    sessions = state.baseline_sessions(run_date)
    if len(sessions) > 1:
        return None
    return sessions[0]


def _ideas_of(question: Generation, benchmark: str) -> list[Idea] | None:
    """Return the ideas of an accepted answer; None if this version would not accept it."""
    try:
        return parse_ideas(question, benchmark)
    except UnusableAnswer:
        return None


def _claims_of_renamed(entry: ParsedEntry, state: JournalState) -> Iterator[FittingClosesClaim]:
    """Yield the claim of a rename that was not forced."""
    pick, renaming = entry.first_row(Pick), entry.renaming
    if entry.kind is not JournalKind.PICK_RENAMED or pick is None:
        return
    if renaming is None or renaming.forced:
        return
    baseline = state.batch(pick.batch_id).trading_day
    if baseline is not None:
        yield FittingClosesClaim(
            place=locate(entry, state, pick),
            at=entry.at,
            share=state.shares[pick.id],
            new=pick.ticker,
            baseline=baseline,
            before=state.sessions_before(renaming.from_session),
            from_session=renaming.from_session,
        )


def _check_missing(claim: MissingCloseClaim, closes: Readings) -> None:
    """Raise Discrepancy if each ticker of the claim had its close an hour before the entry."""
    limit = claim.at - CONCURRENT_WINDOW
    for ticker in claim.tickers:
        # One ticker without a close is enough for the claim to be true.
        of_session = (close for close in closes[ticker] if close.trading_day == claim.session)
        if not any(close.read_at < limit for close in of_session):
            return
    raise discrepancy(
        claim.rule,
        f"{claim.place}: it states that a close was missing, but the record had the closes of "
        f"{claim.session} of {', '.join(claim.tickers)}.",
    )


def _check_fitting(claim: FittingClosesClaim, closes: Readings, factors: Sequence[Split]) -> None:
    """
    Raise Discrepancy for a rename whose closes do not fit.

    The entry does not show which readings its process saw: another process may have stored readings
    while the closes were compared. So the closes are compared as of several moments, and it is
    enough if they fit at one of them.
    """
    until = claim.at + CLOCK_TOLERANCE
    since = claim.at - CONCURRENT_WINDOW
    moments = {until}
    for ticker in claim.share.all_tickers:
        moments |= {close.read_at for close in closes[ticker] if since < close.read_at <= until}
    for before in claim.before:
        if any(_fits(claim, closes, factors, before=before, until=moment) for moment in moments):
            return
    raise discrepancy(
        Rule.RENAMING,
        f"{claim.place}: forced is false, but the closes under {claim.new} from "
        f"{claim.from_session} on do not fit the closes before.",
    )


def _fits(
    claim: FittingClosesClaim,
    closes: Readings,
    factors: Sequence[Split],
    *,
    before: date,
    until: datetime,
) -> bool:
    # `claim.share` already contains the rename. But on every session up to `before`, the share has
    # an old ticker, so the readings in `old` are under the old tickers.
    old = newest_readings(claim.share, closes, first=claim.baseline, last=before, until=until)
    if not old:
        return True  # earlier versions compared nothing in this case
    new = newest_readings(
        TickerHistory.unchanged(claim.new),
        closes,
        first=before,
        last=date.max,
        until=until,
    )
    known = newest_by_effective_date(split for split in factors if split.read_at <= until)
    comparison = tickers.compare_closes(
        old=[old[day] for day in sorted(old)],
        new=[new[day] for day in sorted(new)],
        factors=known,
        from_session=claim.from_session,
    )
    return comparison.fits
