"""
Readings: when they were read, which of them a row must use, and what follows from the opens and ends of picks.

The rules here are `reading-session`, `read-before-used`, `newest-reading`, `entry-open`, `from-open` and `ended`. That
a reading is of a row's session and ticker is checked where the prices are: `figures`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from functools import partial
from uuid import UUID

from msgspec import Struct

from app.domain import splits
from app.domain.calendar import today
from app.domain.model import Batch, Checkpoint, Close, JournalKind, Pick, PickMetric, Split
from app.domain.verification.entries import Entry, Mention
from app.domain.verification.misfits import Rule, misfit, truth
from app.domain.verification.rules.tolerance import ABOUT, MEANWHILE
from app.domain.verification.state import State, where


class Use(Struct, frozen=True):
    """A row of an entry that uses a reading for the first time, in a column."""

    place: Callable[[], str]
    at: datetime
    column: str
    close: Close


class WithoutOpen(Struct, frozen=True):
    """
    A pick whose open was not known when an entry computed a day of its batch.

    It has `ticker` on its first session, `session`. `used` is the reading of that session that the entry used, if any.
    """

    place: Callable[[], str]
    at: datetime
    ticker: str
    session: date
    used: Close | None


def check(entry: Entry, state: State) -> None:
    """Refuse an entry that breaks one of these rules; raises Misfit."""
    for close in entry.rows(Close):
        _check_reading(entry, state, close)
        _check_read_before(entry, where(entry, state, close), close)
    for split in entry.rows(Split):
        _check_read_before(entry, where(entry, state, split), split)
    for mention in entry.mentions:
        for column, id in _first_uses(mention):
            used = state.closes.get(id)
            if used is not None:  # `reading` tells one that the journal does not have
                place = partial(where, entry, state, mention.row)
                _check_read_before(entry, f"{place()}: {column} is {id}", used)
                state.uses.append(Use(place, entry.at, column, used))
    for pick in entry.rows(Pick):
        _check_entry_open(entry, state, pick)
    for mention in entry.mentions_of(PickMetric):
        _check_metric(entry, state, mention)
    state.without_open += _without_open(entry, state)


def check_end(state: State) -> None:
    """Refuse rows that do not use what the record had when they were made, when all rows were read; raises Misfit."""
    readings: dict[tuple[str, date], list[Close]] = defaultdict(list)
    for close in state.all_closes():
        readings[close.ticker, close.trading_day].append(close)
    for use in state.uses:
        of_session = readings[use.close.ticker, use.close.trading_day]
        newer = [one for one in of_session if use.close.read_at < one.read_at < use.at - MEANWHILE]
        if newer:
            raise misfit(
                Rule.NEWEST_READING,
                f"{use.place()}: {use.column} is {use.close.id}, which was read at {use.close.read_at}, but the record "
                f"had a newer reading of {use.close.ticker} of {use.close.trading_day}, of {newer[0].read_at}.",
            )
    for one in state.without_open:
        _check_without_open(one, readings[one.ticker, one.session])


def _without_open(entry: Entry, state: State) -> Iterator[WithoutOpen]:
    """Yield the picks whose open is not known although an entry computes a day of their batch."""
    checkpoint = entry.one(Checkpoint)
    if entry.kind is not JournalKind.CHECKPOINT or checkpoint is None or checkpoint.trading_day is None:
        return
    sessions = state.first_sessions(state.batch(checkpoint.batch_id).run_date)
    if len(sessions) > 1:  # a closure on short notice, of which the process may not have known
        return
    (session,) = sessions
    used = {metric.pick_id: state.closes.get(metric.close_id) for metric in entry.rows(PickMetric) if metric.close_id}
    for pick in map(state.pick, state.picks_of[checkpoint.batch_id]):
        if pick.entry_open is None:
            yield WithoutOpen(
                place=partial(where, entry, state, pick),
                at=entry.at,
                ticker=state.shares[pick.id].at(session),
                session=session,
                used=used.get(pick.id) if checkpoint.trading_day == session else None,
            )


def _check_without_open(one: WithoutOpen, readings: Sequence[Close]) -> None:
    """
    Refuse a pick without an open if the newest reading of its first session that the entry saw has one.

    The entry saw the reading that it used, and those that were read more than an hour before. A newer reading without
    an open, which another process stored meanwhile, hides the open.
    """
    seen = [close for close in readings if close.read_at < one.at - MEANWHILE]
    if one.used:
        seen.append(one.used)
    if not seen:
        return
    last = max(seen, key=_read_at)
    meanwhile = [close for close in readings if last.read_at < close.read_at <= one.at + MEANWHILE]
    if all(close.open is not None for close in (last, *meanwhile)):
        raise misfit(
            Rule.ENTRY_OPEN,
            f"{one.place()}: entry_open is absent, but the record had a reading of {last.ticker} of {one.session} with "
            f"an open, of {last.read_at}.",
        )


def _read_at(close: Close) -> datetime:
    return close.read_at


def _check_reading(entry: Entry, state: State, close: Close) -> None:
    place = where(entry, state, close)
    if not state.sessions.is_session(close.trading_day):
        raise misfit(Rule.READING_SESSION, f"{place}: trading_day is {close.trading_day}, but that was no session.")
    if close.trading_day >= today(close.read_at):
        raise misfit(
            Rule.READING_SESSION,
            f"{place}: read_at is {close.read_at}, but then the session of {close.trading_day} was not over.",
        )
    check_restated(place, close)


def check_restated(place: str, close: Close) -> None:
    """Refuse a reading of a series that was restated on a day on which it cannot have been; raises Misfit."""
    restated = splits.shares_of(close.source, close.trading_day)
    is_restated = close.source.endswith(splits.restated_source("", restated))
    if is_restated and not close.trading_day < restated <= today(close.read_at):
        raise misfit(
            Rule.READING_SESSION,
            f"{place}: its source says that it was restated as of {restated}, which does not lie after its session, "
            f"{close.trading_day}, and up to the day on which it was read, {today(close.read_at)}.",
        )


def _check_read_before(entry: Entry, place: str, reading: Close | Split) -> None:
    if reading.read_at > entry.at + ABOUT:
        raise misfit(
            Rule.READ_BEFORE_USED, f"{place}: read_at is {reading.read_at}, but the entry was made at {entry.at}."
        )


def _first_uses(mention: Mention) -> Iterator[tuple[str, UUID]]:
    """Yield the columns in which a row names a reading that its mention before did not, each with the reading."""
    columns: tuple[str, ...] = ()
    match mention.row:
        case Batch():
            columns = ("benchmark_initial_close_id",)
        case Pick():
            columns = ("initial_close_id", "entry_close_id")
        case Checkpoint():
            columns = ("benchmark_close_id",)
        case PickMetric():
            columns = ("close_id",)
    for column in columns:
        now = getattr(mention.row, column)
        was = getattr(mention.before, column, None)
        if now is not None and now != was:
            yield column, now


def _check_entry_open(entry: Entry, state: State, pick: Pick) -> None:
    place = where(entry, state, pick)
    if (pick.entry_open is None) != (pick.entry_close_id is None):
        there, absent = ("entry_open", "entry_close_id")
        if pick.entry_open is None:
            there, absent = absent, there
        raise misfit(Rule.ENTRY_OPEN, f"{place}: {there} is there, but {absent} is not.")
    batch, reading = state.batches.get(pick.batch_id), state.closes.get(pick.entry_close_id or pick.id)
    if batch is None or reading is None:
        return
    if reading.trading_day not in state.first_sessions(batch.run_date):
        session = state.sessions.session_from(batch.run_date)
        raise misfit(
            Rule.ENTRY_OPEN,
            f"{place}: entry_close_id is of a reading of {reading.trading_day}, but the first session is {session}.",
        )
    for metric in map(state.metrics.__getitem__, state.metrics_of_pick.get(pick.id, ())):
        _check_from_open(entry, state, metric, pick)


def _check_metric(entry: Entry, state: State, mention: Mention) -> None:
    metric = mention.row
    assert isinstance(metric, PickMetric)
    place = where(entry, state, metric)
    pick, checkpoint = state.picks.get(metric.pick_id), state.checkpoints.get(metric.checkpoint_id)
    if pick is None or checkpoint is None or checkpoint.trading_day is None:
        raise misfit(Rule.BELONGS, f"{place}: the journal does not have its pick, or its computed checkpoint.")
    if metric.ended != (metric.close_id is None):
        has = "has no close_id" if metric.close_id is None else "has a close_id"
        raise misfit(Rule.ENDED, f"{place}: ended is {truth(metric.ended)}, but it {has}.")
    if mention.before is None:
        ending = state.endings.get(pick.id)
        has_ended = ending is not None and ending.last_session < checkpoint.trading_day
        if metric.ended != has_ended:
            end = f"its last session is {ending.last_session}" if ending else "no entry says that its pick ended"
            raise misfit(Rule.ENDED, f"{place}: ended is {truth(metric.ended)}, but {end}.")
    _check_from_open(entry, state, metric, pick)


def _check_from_open(entry: Entry, state: State, metric: PickMetric, pick: Pick) -> None:
    has_return, has_open = metric.return_from_open_pct is not None, pick.entry_open is not None
    if has_return != has_open:
        there = "is there" if has_return else "is absent"
        pick_has = "has" if has_open else "has no"
        raise misfit(
            Rule.FROM_OPEN,
            f"{where(entry, state, metric)}: return_from_open_pct {there}, but its pick {pick_has} entry_open.",
        )
