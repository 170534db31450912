"""
The rule `unusual-move`: the marks of unusual moves (docs/journal.md#marks).

A mark is decided when its figure is computed, and again when the figure is corrected. Besides the
readings that the figures use, the job that decides a mark uses the newest readings of the record,
which the journal need not mention. So if the journal alone does not decide a mark, this mark stays
pending, and is checked after all rows were read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from app.domain import calendar
from app.domain.calendar import Calendar
from app.domain.journal import format_bool
from app.domain.measurement import ShareHistory
from app.domain.model import Batch, Checkpoint, Close, JournalKind, PickMetric, Split
from app.domain.tickers import TickerHistory
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import Mention, ParsedEntry
from app.domain.verification.rules.figures import basis_date
from app.domain.verification.rules.readings import newest_readings
from app.domain.verification.rules.tolerance import CLOCK_TOLERANCE
from app.domain.verification.state import JournalState, has_figures, locate
from app.errors import Discrepancy

# How long an earlier version of the service may still compute checkpoints after the upgrade that
# introduced the benchmark's mark. An operator may return to an earlier version without a change of
# the schema (docs/operate/upgrade.md#roll-back-the-code-only).
UPGRADE_WINDOW = timedelta(days=28)

# The columns of a metric that change only if the prices or the splits of the metric's own share
# change.
_OWN_COLUMNS = ("current_price", "close_id", "split_factor", "absolute_return_pct", "unusual_move")
_BENCHMARK_COLUMNS = (
    "benchmark_price",
    "benchmark_close_id",
    "benchmark_split_factor",
    "benchmark_return_pct",
    "benchmark_unusual_move",
)

# The sessions from which newest readings are used. This calendar has no closures on short notice:
# there are no readings of such days. The jobs that decide marks use the same calendar.
_SESSIONS = Calendar()


class PendingMark(Struct, frozen=True):
    """
    A mark that the newest readings of the record decide.

    `at` is the time of the entry that decides the mark. `history` has the readings on which the
    figures are based at that time. `known` are the readings of splits that the journal had
    mentioned by then. `counted` is a pair of dates: the entry mentions every known split after the
    first date, up to and including the second.
    """

    place: str
    field: str
    mark: bool
    session: date
    at: datetime
    batch: Batch
    history: ShareHistory
    known: frozenset[Split]
    counted: tuple[date, date]


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a mark that differs from what the readings of its time give."""
    if entry.kind not in (JournalKind.CHECKPOINT, JournalKind.CORRECTION):
        return
    for mention in entry.mentions:
        if isinstance(mention.row, Checkpoint):
            _check_has_benchmark_mark(entry, mention, state)
    place = f"Entry {entry.seq} of the journal"
    try:
        for pending in _decided_marks(entry, state):
            _check_mark(pending, state)
    except LookupError as error:
        raise discrepancy(
            Rule.UNUSUAL_MOVE,
            f"{place}: its marks cannot be computed: the journal does not have {error}.",
        ) from None
    except ArithmeticError:
        raise discrepancy(
            Rule.UNUSUAL_MOVE, f"{place}: its marks cannot be computed: a price is not a number."
        ) from None


def check_end(state: JournalState) -> None:
    """Raise Discrepancy for a pending mark that no reading of the record explains."""
    if not state.pending_marks:
        return
    closes: dict[str, list[Close]] = {}
    for close in state.all_closes():
        closes.setdefault(close.ticker, []).append(close)
    splits = state.all_splits()

    for pending in state.pending_marks:
        tickers = pending.history.tickers.all_tickers
        own_closes = {ticker: closes.get(ticker, []) for ticker in tickers}
        own_splits: list[Split] = []
        for ticker in tickers:
            own_splits += splits.get(ticker, [])
        possible = _possible_marks(pending, own_closes, own_splits)
        if not any(mark is pending.mark for mark in possible):
            raise _mark_discrepancy(pending)


def _check_has_benchmark_mark(entry: ParsedEntry, mention: Mention, state: JournalState) -> None:
    """
    Raise Discrepancy for a computed checkpoint without the benchmark's mark.

    Two cases are allowed, because an earlier version may have computed the checkpoint:

    - No entry up to this one has the mark.
    - The first entry with the mark comes after checkpoints without the mark, and is at most
      UPGRADE_WINDOW older than this entry.
    """
    checkpoint = mention.row
    assert isinstance(checkpoint, Checkpoint)
    if entry.kind is not JournalKind.CHECKPOINT or not has_figures(checkpoint):
        return
    if checkpoint.benchmark_unusual_move is not None:
        state.marked_since = state.marked_since or entry.at
        return

    since = state.marked_since
    # No checkpoint has had the mark yet, so an earlier version wrote the journal up to here.
    if since is None:
        state.has_unmarked = True
        return
    if state.has_unmarked and entry.at <= since + UPGRADE_WINDOW:
        return
    raise discrepancy(
        Rule.UNUSUAL_MOVE,
        f"{locate(entry, state, checkpoint)}: benchmark_unusual_move is absent, but since "
        f"{since:%Y-%m-%d} computed checkpoints have it.",
    )


def _decided_marks(entry: ParsedEntry, state: JournalState) -> Iterator[PendingMark]:
    """Yield the marks that an entry decides."""
    for mention in entry.mentions:
        row = mention.row
        match row:
            case Checkpoint() if _has_benchmark_mark(row):
                if _decides(entry, mention, _BENCHMARK_COLUMNS):
                    yield _benchmark_mark(entry, row, state)
            case PickMetric() if _decides(entry, mention, _OWN_COLUMNS):
                if _has_benchmark_mark(state.checkpoint(row.checkpoint_id)):
                    yield _pick_mark(entry, row, state)


def _has_benchmark_mark(checkpoint: Checkpoint) -> bool:
    """
    Return whether a checkpoint has figures and the benchmark's mark.

    If so, a version with the present rules decided its marks. Earlier versions did not write the
    benchmark's mark, and they had other rules: another threshold, and another search for a path of
    prices (see `splits.has_unexplained_move`).
    """
    return has_figures(checkpoint) and checkpoint.benchmark_unusual_move is not None


def _decides(entry: ParsedEntry, mention: Mention, columns: Sequence[str]) -> bool:
    """
    Return whether an entry decides the mark of a row.

    An entry that gives the row its first figures decides the mark. A correction decides the mark if
    one of `columns` changes. An entry that mentions the row for another reason keeps the mark.
    """
    row, before = mention.row, mention.before
    # A skipped checkpoint that is now computed gets its first figures, like a row that is new.
    if before is None or (isinstance(before, Checkpoint) and not has_figures(before)):
        return True
    if entry.kind is not JournalKind.CORRECTION:
        return False
    return any(getattr(row, name) != getattr(before, name) for name in columns)


def _benchmark_mark(entry: ParsedEntry, checkpoint: Checkpoint, state: JournalState) -> PendingMark:
    batch = state.batch(checkpoint.batch_id)
    ids = [batch.benchmark_initial_close_id]
    ids += [one.benchmark_close_id for one in state.checkpoints_of(batch.id) if has_figures(one)]
    return _pending_mark(
        state,
        place=locate(entry, state, checkpoint),
        field="benchmark_unusual_move",
        mark=checkpoint.benchmark_unusual_move is True,
        at=entry.at,
        batch=batch,
        checkpoint=checkpoint,
        used=[state.close(id) for id in ids],
        share=TickerHistory.unchanged(batch.benchmark_symbol),
        last_session=None,
    )


def _pick_mark(entry: ParsedEntry, metric: PickMetric, state: JournalState) -> PendingMark:
    checkpoint = state.checkpoint(metric.checkpoint_id)
    pick = state.pick(metric.pick_id)
    metrics = [state.metrics[id] for id in state.metrics_of_pick[pick.id]]
    ids = [pick.initial_close_id, *(one.close_id for one in metrics if one.close_id is not None)]

    share = state.shares[pick.id]
    if metric.close_id is not None:
        own = state.close(metric.close_id)
        share = share.as_read(own.ticker, own.trading_day)
    last_session = None
    if metric.ended and pick.id in state.endings:
        last_session = state.endings[pick.id].last_session
    return _pending_mark(
        state,
        place=locate(entry, state, metric),
        field="unusual_move",
        mark=metric.unusual_move,
        at=entry.at,
        batch=state.batch(pick.batch_id),
        checkpoint=checkpoint,
        used=[state.close(id) for id in ids],
        share=share,
        last_session=last_session,
    )


def _pending_mark(
    state: JournalState,
    *,
    place: str,
    field: str,
    mark: bool,
    at: datetime,
    batch: Batch,
    checkpoint: Checkpoint,
    used: Iterable[Close],
    share: TickerHistory,
    last_session: date | None,
) -> PendingMark:
    """Return a mark with everything that the journal has recorded about it so far."""
    if checkpoint.trading_day is None or batch.trading_day is None:
        raise LookupError(f"the trading day of {checkpoint.id}")
    history = ShareHistory(
        tickers=share,
        splits=(),
        used={one.trading_day: one for one in used},
        last_session=last_session,
    )
    known: set[Split] = set()
    for ticker in share.all_tickers:
        known.update(state.splits[ticker].values())
    return PendingMark(
        place=place,
        field=field,
        mark=mark,
        session=checkpoint.trading_day,
        at=at,
        batch=batch,
        history=history,
        # Hashable, because `_possible_marks` makes a set of the possible readings.
        known=frozenset(known),
        counted=(
            history.basis_date(batch.trading_day),
            history.basis_date(checkpoint.trading_day),
        ),
    )


def _check_mark(pending: PendingMark, state: JournalState) -> None:
    """
    Raise Discrepancy for a mark that the journal alone shows to be wrong.

    A mark that may depend on readings that the journal does not mention is stored for `check_end`.
    """
    is_unusual = _is_unusual(pending, (), pending.known)
    if _others_can_only_explain(pending):
        # Other readings can explain an unusual move, but they cannot make a usual move
        # unusual.
        is_final = not is_unusual or _is_forced(pending)
        if is_final and pending.mark is not is_unusual:
            raise _mark_discrepancy(pending)
        if is_final:
            return
    # An entry that was written while the rows of the tables were read may be based on a reading
    # that is not among these rows. So a mark of such an entry is not checked with them.
    if not state.rows_are_read:
        state.pending_marks.append(pending)


def _is_forced(pending: PendingMark) -> bool:
    forced_from = pending.history.tickers.forced_from
    return forced_from is not None and forced_from <= pending.session


def _others_can_only_explain(pending: PendingMark) -> bool:
    """
    Return whether readings that the journal does not mention can explain a move, but not cause one.

    After a forced rename they can do neither, because the mark is always set. Otherwise they can
    cause a move in two cases:

    - The pick has ended. Its path includes the newest reading of its last session, and no figure
      uses that reading.
    - A used reading is restated. Its as-traded price is computed with all known splits, also with a
      split that no figure counts. Such a split changes this price.
    """
    if _is_forced(pending):
        return True
    history = pending.history
    through = history.effective_session(pending.session)
    if through not in history.used:
        return False
    used = [close for day, close in history.used.items() if day <= through]
    return all(basis_date(close) == close.trading_day for close in used)


def _is_unusual(pending: PendingMark, newest: Iterable[Close], readings: Iterable[Split]) -> bool:
    """Return the mark that the rule gives with these newest readings and readings of splits."""
    history = replace(
        pending.history,
        splits=pending.history.tickers.splits_in_force(readings),
        newest=tuple(newest),
    )
    return history.is_unusual(pending.session)


def _possible_marks(
    pending: PendingMark, closes: Mapping[str, Sequence[Close]], splits: Iterable[Split]
) -> Iterator[bool]:
    """
    Yield the marks that the rule gives for everything that the deciding process may have known.

    The clock of this process may differ from the clocks of the processes that stored readings. And
    a split may have been read, but stored too late for this process to see it. See
    docs/journal.md#marks, "Uncertainty".
    """
    after, through = pending.counted
    latest = pending.at + CLOCK_TOLERANCE
    unmentioned_splits = {
        split
        for split in splits
        if split.read_at <= latest and not after < split.effective_date <= through
    }
    # The process certainly knew each reading that its figures use.
    used = (close.read_at for close in pending.history.used.values())
    latest_used_at = max((read_at for read_at in used if read_at <= latest), default=pending.at)
    earliest = max(pending.at - CLOCK_TOLERANCE, latest_used_at)

    for readings in {pending.known, pending.known | unmentioned_splits}:
        for read_until in (pending.at, latest, earliest):
            yield _is_unusual(pending, _newest(pending, closes, read_until), readings)


def _newest(
    pending: PendingMark, closes: Mapping[str, Sequence[Close]], read_until: datetime
) -> list[Close]:
    """Return the newest readings up to a time, one per session of the batch's fortnight."""
    batch = pending.batch
    assert batch.trading_day
    newest = newest_readings(
        pending.history.tickers,
        closes,
        first=batch.trading_day,
        last=calendar.checkpoint_date(batch.run_date, calendar.MEASURED_DAYS[-1]),
        until=read_until,
    )
    return [newest[day] for day in sorted(newest) if _SESSIONS.is_session(day)]


def _mark_discrepancy(pending: PendingMark) -> Discrepancy:
    return discrepancy(
        Rule.UNUSUAL_MOVE,
        f"{pending.place}: {pending.field} is {format_bool(pending.mark)}, but the readings and "
        f"splits that were known then give {format_bool(not pending.mark)}.",
    )
