"""
The rules of readings: when they were read, which one a row uses, and the opens and ends of picks.

The rules are `reading-session`, `read-before-used`, `newest-reading`, `entry-open`, `from-open` and
`ended` (docs/journal.md#prices). The module `figures` checks that a reading is of the session and
the ticker of the row that uses it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from functools import partial
from uuid import UUID

from msgspec import Struct

from app.domain import splits
from app.domain.calendar import new_york_date
from app.domain.journal import format_bool
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    Dividend,
    Ending,
    FurtherBenchmark,
    JournalKind,
    Pick,
    PickMetric,
    Split,
)
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import Mention, ParsedEntry
from app.domain.verification.rules import closures
from app.domain.verification.rules.tolerance import CLOCK_TOLERANCE, CONCURRENT_WINDOW
from app.domain.verification.state import JournalState, locate

# The columns in which a row names a reading, by the type of the row.
_READING_COLUMNS: dict[type, tuple[str, ...]] = {
    Batch: ("benchmark_initial_close_id",),
    Pick: ("initial_close_id", "entry_close_id"),
    Checkpoint: ("benchmark_close_id",),
    PickMetric: ("close_id",),
    FurtherBenchmark: ("further_initial_close_id", "further_close_id"),
}


class ReadingUse(Struct, frozen=True):
    """
    The use of a reading by a row, in the first entry in which `column` of the row names `close`.

    `at` is the time of the entry. `place` returns the beginning of a message. It is a function,
    because there are many uses, and few of them need a message.
    """

    place: Callable[[], str]
    at: datetime
    column: str
    close: Close


class PickWithoutOpen(Struct, frozen=True):
    """
    A pick whose `entry_open` was not known when a journal entry computed a day of its batch.

    `session` is the first session of the pick, and `ticker` is its ticker on that session. `used`
    is the reading of that session that the journal entry used, if any.
    """

    place: Callable[[], str]
    at: datetime
    ticker: str
    session: date
    used: Close | None


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an entry that breaks one of the rules of this module."""
    _check_readings(entry, state)
    for mention in entry.mentions:
        _check_uses(entry, state, mention)
    for pick in entry.rows(Pick):
        _check_entry_open(entry, state, pick)
    for mention in entry.mentions_of(PickMetric):
        _check_metric(entry, state, mention)
    state.picks_without_open += _picks_without_open(entry, state)


def _check_readings(entry: ParsedEntry, state: JournalState) -> None:
    if entry.is_adoption:
        # These rules did not hold for readings that no entry mentioned.
        for close in entry.rows(Close):
            check_restated(locate(entry, state, close), close)
        return
    for close in entry.rows(Close):
        place = locate(entry, state, close)
        _check_reading(place, state, close)
        _check_read_before(place, entry, close)
    for split in entry.rows(Split):
        _check_read_before(locate(entry, state, split), entry, split)
    for dividend in entry.rows(Dividend):
        _check_read_before(locate(entry, state, dividend), entry, dividend)


def check_end(state: JournalState) -> None:
    """
    Raise Discrepancy for a row that uses an older reading than it should.

    Also raise it for a pick that has no open, although the record knew the open.
    """
    readings: dict[tuple[str, date], list[Close]] = defaultdict(list)
    for close in state.all_closes():
        readings[close.ticker, close.trading_day].append(close)
    for use in state.reading_uses:
        _check_newest(use, readings[use.close.ticker, use.close.trading_day])
    for pick in state.picks_without_open:
        _check_without_open(pick, readings[pick.ticker, pick.session])


def _check_uses(entry: ParsedEntry, state: JournalState, mention: Mention) -> None:
    for column, id in _first_uses(mention):
        used = state.closes.get(id)
        if used is None:  # the rule `reading` forbids a missing reading
            continue
        place = partial(locate, entry, state, mention.row)
        _check_read_before(f"{place()}: {column} is {id}", entry, used)
        state.reading_uses.append(ReadingUse(place=place, at=entry.at, column=column, close=used))


def _first_uses(mention: Mention) -> Iterator[tuple[str, UUID]]:
    """Yield each column that names another reading than in the mention before, and its id."""
    for column in _READING_COLUMNS.get(type(mention.row), ()):
        now = getattr(mention.row, column)
        was = getattr(mention.before, column, None)
        if now is not None and now != was:
            yield column, now


def _check_newest(use: ReadingUse, readings: Sequence[Close]) -> None:
    """Raise Discrepancy if the record had a newer reading than the one that the row uses."""
    # In the hour before the entry, another job may have stored a newer reading that the entry's job
    # did not see.
    visible_until = use.at - CONCURRENT_WINDOW
    newer = [one for one in readings if use.close.read_at < one.read_at < visible_until]
    if newer:
        raise discrepancy(
            Rule.NEWEST_READING,
            f"{use.place()}: {use.column} is {use.close.id}, which was read at "
            f"{use.close.read_at}, but the record had a newer reading of {use.close.ticker} of "
            f"{use.close.trading_day}, of {newer[0].read_at}.",
        )


def _picks_without_open(entry: ParsedEntry, state: JournalState) -> Iterator[PickWithoutOpen]:
    """Yield the picks whose open is unknown although the entry computes a day of their batch."""
    checkpoint = entry.first_row(Checkpoint)
    if entry.kind is not JournalKind.CHECKPOINT or checkpoint is None:
        return
    if checkpoint.trading_day is None:
        return
    sessions = state.first_sessions(state.batch(checkpoint.batch_id).run_date)
    # After a closure on short notice there are two possible first sessions. The process may have
    # used either of them, so nothing is checked.
    if len(sessions) > 1:
        return

    session = sessions[0]
    used: dict[UUID, Close | None] = {}
    if checkpoint.trading_day == session:
        used = {
            metric.pick_id: state.closes.get(metric.close_id)
            for metric in entry.rows(PickMetric)
            if metric.close_id
        }
    for pick in map(state.pick, state.picks_of[checkpoint.batch_id]):
        if pick.entry_open is None:
            yield PickWithoutOpen(
                place=partial(locate, entry, state, pick),
                at=entry.at,
                ticker=state.shares[pick.id].ticker_on(session),
                session=session,
                used=used.get(pick.id),
            )


def _check_without_open(pick: PickWithoutOpen, readings: Sequence[Close]) -> None:
    """
    Raise Discrepancy if a pick lacks its open although the entry's process knew it.

    The process knew the reading that the entry used, if any, and the readings that were read more
    than an hour before the entry. If the newest of these readings has an open, the pick must have
    it, too. There is one exception: another process may have stored a newer reading without an open
    just before the entry was written. See docs/journal.md#a-pick-without-an-open.
    """
    known = [close for close in readings if close.read_at < pick.at - CONCURRENT_WINDOW]
    if pick.used:
        known.append(pick.used)
    if not known:
        return
    # A newer reading replaces an older one, so only the newest decides whether an open was known.
    newest = max(known, key=_read_at)
    # The entry is stored later than its `at`. Between the two times, another process may store a
    # reading.
    until = pick.at + CONCURRENT_WINDOW
    concurrent = [close for close in readings if newest.read_at < close.read_at <= until]
    if all(close.open is not None for close in (newest, *concurrent)):
        raise discrepancy(
            Rule.ENTRY_OPEN,
            f"{pick.place()}: entry_open is absent, but the record had a reading of "
            f"{newest.ticker} of {pick.session} with an open, of {newest.read_at}.",
        )


def _read_at(close: Close) -> datetime:
    return close.read_at


def _check_reading(place: str, state: JournalState, close: Close) -> None:
    if not state.may_be_session(close.trading_day):
        raise discrepancy(
            Rule.READING_SESSION,
            f"{place}: trading_day is {close.trading_day}, but that was no session.",
        )
    # The close of a day is final only when the day is over in New York.
    if close.trading_day >= new_york_date(close.read_at):
        raise discrepancy(
            Rule.READING_SESSION,
            f"{place}: read_at is {close.read_at}, but then the session of {close.trading_day} was "
            "not over.",
        )
    check_restated(place, close)


def check_restated(place: str, close: Close) -> None:
    """
    Raise Discrepancy for a reading with an impossible basis date.

    The basis date of a restated reading must be after its session, and not after the day on which
    the price was read.
    """
    basis = splits.basis_date(close.source, close.trading_day)
    # Without a restatement, the basis date is the session, and the source does not name it.
    is_restated = close.source.endswith(splits.restated_source("", basis))
    read_on = new_york_date(close.read_at)
    if is_restated and not close.trading_day < basis <= read_on:
        raise discrepancy(
            Rule.READING_SESSION,
            f"{place}: its source states that it was restated as of {basis}, but this day must be "
            f"after its session, {close.trading_day}, and not after the day on which it was read, "
            f"{read_on}.",
        )


def _check_read_before(place: str, entry: ParsedEntry, reading: Close | Split | Dividend) -> None:
    if reading.read_at > entry.at + CLOCK_TOLERANCE:
        raise discrepancy(
            Rule.READ_BEFORE_USED,
            f"{place}: read_at is {reading.read_at}, but the entry was written at {entry.at}.",
        )


def _check_entry_open(entry: ParsedEntry, state: JournalState, pick: Pick) -> None:
    place = locate(entry, state, pick)
    has_open, has_reading = pick.entry_open is not None, pick.entry_close_id is not None
    if has_open and not has_reading:
        raise discrepancy(
            Rule.ENTRY_OPEN, f"{place}: entry_open is present, but entry_close_id is absent."
        )
    if has_reading and not has_open:
        raise discrepancy(
            Rule.ENTRY_OPEN, f"{place}: entry_close_id is present, but entry_open is absent."
        )
    batch = state.batches.get(pick.batch_id)
    if batch is None or pick.entry_close_id not in state.closes:
        return

    reading = state.close(pick.entry_close_id)
    possible = state.first_sessions(batch.run_date)
    if reading.trading_day not in possible:
        raise discrepancy(
            Rule.ENTRY_OPEN,
            f"{place}: entry_close_id is of a reading of {reading.trading_day}, but the first "
            f"session is {possible[-1]}.",
        )
    if state.is_sealed:
        closures.choose(
            state,
            rule=Rule.ENTRY_OPEN,
            place=partial(locate, entry, state, pick),
            benchmark=batch.benchmark_symbol,
            possible=possible,
            chosen=[reading.trading_day],
        )
    # When a pick gets its open, all its earlier metrics get their `return_from_open_pct`.
    for id in state.metrics_of_pick.get(pick.id, ()):
        _check_from_open(locate(entry, state, state.metrics[id]), state.metrics[id], pick)


def _check_metric(entry: ParsedEntry, state: JournalState, mention: Mention) -> None:
    metric = mention.row
    assert isinstance(metric, PickMetric)
    place = locate(entry, state, metric)
    pick, checkpoint = state.picks.get(metric.pick_id), state.checkpoints.get(metric.checkpoint_id)
    if pick is None or checkpoint is None or checkpoint.trading_day is None:
        raise discrepancy(
            Rule.BELONGS,
            f"{place}: the journal does not have its pick, or its computed checkpoint.",
        )
    _check_ended(place, metric)
    # A later ending does not change a metric that was computed before it.
    if mention.before is None:
        _check_ended_in_time(
            place, metric, ending=state.endings.get(pick.id), session=checkpoint.trading_day
        )
    _check_from_open(place, metric, pick)


def _check_ended(place: str, metric: PickMetric) -> None:
    """Raise Discrepancy if an ended metric has a reading, or one that is not ended has none."""
    if metric.ended == (metric.close_id is None):
        return
    reading = "has a close_id"
    if metric.close_id is None:
        reading = "has no close_id"
    raise discrepancy(
        Rule.ENDED, f"{place}: ended is {format_bool(metric.ended)}, but it {reading}."
    )


def _check_ended_in_time(
    place: str, metric: PickMetric, *, ending: Ending | None, session: date
) -> None:
    """
    Raise Discrepancy if the `ended` of a new metric is wrong.

    `ended` must be true if the pick ended before `session`, and false otherwise.
    """
    has_ended = ending is not None and ending.last_session < session
    if metric.ended == has_ended:
        return
    end = "no entry records that its pick ended"
    if ending:
        end = f"its last session is {ending.last_session}"
    raise discrepancy(Rule.ENDED, f"{place}: ended is {format_bool(metric.ended)}, but {end}.")


def _check_from_open(place: str, metric: PickMetric, pick: Pick) -> None:
    """
    Raise Discrepancy if one of two values is present and the other is absent.

    The two values are the pick's open, and the metric's return from that open.
    """
    has_return, has_open = metric.return_from_open_pct is not None, pick.entry_open is not None
    if has_return and not has_open:
        raise discrepancy(
            Rule.FROM_OPEN,
            f"{place}: return_from_open_pct is present, but its pick has no entry_open.",
        )
    if has_open and not has_return:
        raise discrepancy(
            Rule.FROM_OPEN,
            f"{place}: return_from_open_pct is absent, but its pick has entry_open.",
        )
