"""
The marks of unusual moves: decided when a figure is computed, and again when it is corrected.

The writers also look at the newest readings of the record, which the journal need not mention. So a mark that the
journal alone does not decide is kept as a question, and is answered when all rows were read.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from app.domain import calendar
from app.domain.calendar import Calendar
from app.domain.measurement import Course
from app.domain.model import Batch, Checkpoint, Close, JournalKind, PickMetric, Split
from app.domain.tickers import Tickers
from app.domain.verification.entries import Entry, Mention
from app.domain.verification.misfits import Rule, misfit, truth
from app.domain.verification.rules.figures import shares_of
from app.domain.verification.rules.readings import newest_of
from app.domain.verification.rules.tolerance import ABOUT
from app.domain.verification.state import State, has_figures, where

# How long after the upgrade that brought the benchmark's mark an earlier version may have computed a checkpoint: it
# works on the newer schema, too (docs/operate/upgrade.md#back-the-code-alone).
UPGRADE = timedelta(days=28)

# The columns of a metric that change only when its own share's prices or splits do.
_OWN = ("current_price", "close_id", "split_factor", "absolute_return_pct", "unusual_move")
_OF_BENCHMARK = (
    "benchmark_price",
    "benchmark_close_id",
    "benchmark_split_factor",
    "benchmark_return_pct",
    "benchmark_unusual_move",
)

# The sessions that a share's newest readings are of: the store knows no closures on short notice, and needs none.
_SESSIONS = Calendar()


class Open(Struct, frozen=True):
    """
    A mark that the newest readings of the record decide.

    `course` has the readings that the figures rest on at the time `at`, `known` are the readings of splits that the
    journal had mentioned then. Of the days in `counted` (after the first, up to the second) the entry mentions every
    split that was known.
    """

    place: str
    field: str
    mark: bool
    session: date
    at: datetime
    batch: Batch
    course: Course
    known: frozenset[Split]
    counted: tuple[date, date]


def check(entry: Entry, state: State) -> None:
    """Refuse a mark that does not follow from the readings and splits of its time; raises Misfit."""
    if entry.kind not in (JournalKind.CHECKPOINT, JournalKind.CORRECTION):
        return
    for mention in entry.mentions:
        if isinstance(mention.row, Checkpoint):
            _check_examined(entry, mention, state)
    try:
        for one in _decided(entry, state):
            _check(one, state)
    except LookupError as error:
        text = f"Entry {entry.seq} of the journal: its marks need {error}, which the journal does not have."
        raise misfit(Rule.UNUSUAL_MOVE, text) from None
    except ArithmeticError:
        text = f"Entry {entry.seq} of the journal: its marks follow from prices that are no numbers."
        raise misfit(Rule.UNUSUAL_MOVE, text) from None


def check_end(state: State) -> None:
    """Decide the marks that only the readings of the record decide, when all rows were read; raises Misfit."""
    if not state.open_marks:
        return
    closes: dict[str, list[Close]] = {}
    for close in state.all_closes():
        closes.setdefault(close.ticker, []).append(close)
    factors = state.all_splits()
    for one in state.open_marks:
        share = one.course.tickers
        its_closes = {ticker: closes.get(ticker, []) for ticker in share.all}
        its_factors = [split for ticker in share.all for split in factors.get(ticker, [])]
        if not any(found is one.mark for found in _possible(one, its_closes, its_factors)):
            raise _misfit(one)


def _check_examined(entry: Entry, mention: Mention, state: State) -> None:
    """Refuse a computed checkpoint without the benchmark's mark, unless an earlier version may have computed it."""
    checkpoint = mention.row
    assert isinstance(checkpoint, Checkpoint)
    if entry.kind is not JournalKind.CHECKPOINT or not has_figures(checkpoint):
        return
    if checkpoint.benchmark_unusual_move is not None:
        state.examined_since = state.examined_since or entry.at
        return
    since = state.examined_since
    if since is None:
        state.has_unexamined = True
    elif not state.has_unexamined or entry.at > since + UPGRADE:
        raise misfit(
            Rule.UNUSUAL_MOVE,
            f"{where(entry, state, checkpoint)}: benchmark_unusual_move is absent, but since {since:%Y-%m-%d} "
            "computed checkpoints have it.",
        )


def _decided(entry: Entry, state: State) -> Iterator[Open]:
    """Yield the marks that an entry decides."""
    for mention in entry.mentions:
        row = mention.row
        if isinstance(row, Checkpoint) and _is_examined(row) and _is_new(entry, mention, _OF_BENCHMARK):
            yield _of_benchmark(entry, row, state)
        if isinstance(row, PickMetric) and _is_new(entry, mention, _OWN):
            checkpoint = state.checkpoint(row.checkpoint_id)
            if _is_examined(checkpoint):
                yield _of_pick(entry, row, state)


def _is_examined(checkpoint: Checkpoint) -> bool:
    """Return whether this version decided a checkpoint's marks: earlier ones had another threshold and path."""
    return has_figures(checkpoint) and checkpoint.benchmark_unusual_move is not None


def _is_new(entry: Entry, mention: Mention, names: Sequence[str]) -> bool:
    """
    Return whether an entry decides the mark of a row, rather than mentions it for another reason.

    A correction decides it if it changes one of the columns `names`.
    """
    row, before = mention.row, mention.before
    if before is None or (isinstance(before, Checkpoint) and not has_figures(before)):
        return True
    if entry.kind is not JournalKind.CORRECTION:
        return False
    return any(getattr(row, name) != getattr(before, name) for name in names)


def _of_benchmark(entry: Entry, checkpoint: Checkpoint, state: State) -> Open:
    batch = state.batch(checkpoint.batch_id)
    ids = [batch.benchmark_initial_close_id]
    ids += [one.benchmark_close_id for one in state.checkpoints_of(batch.id) if has_figures(one)]
    used = [state.close(id) for id in ids]
    return _open(
        state,
        place=where(entry, state, checkpoint),
        field="benchmark_unusual_move",
        mark=checkpoint.benchmark_unusual_move is True,
        at=entry.at,
        batch=batch,
        checkpoint=checkpoint,
        used=used,
        share=Tickers.only(batch.benchmark_symbol),
        last_session=None,
    )


def _of_pick(entry: Entry, metric: PickMetric, state: State) -> Open:
    checkpoint = state.checkpoint(metric.checkpoint_id)
    pick = state.pick(metric.pick_id)
    metrics = [state.metrics[id] for id in state.metrics_of_pick[pick.id]]
    ids = [pick.initial_close_id, *(one.close_id for one in metrics if one.close_id is not None)]
    share = state.shares[pick.id]
    if metric.close_id is not None:
        own = state.close(metric.close_id)
        share = share.as_read(own.ticker, own.trading_day)
    ending = state.endings.get(pick.id) if metric.ended else None
    return _open(
        state,
        place=where(entry, state, metric),
        field="unusual_move",
        mark=metric.unusual_move,
        at=entry.at,
        batch=state.batch(pick.batch_id),
        checkpoint=checkpoint,
        used=[state.close(id) for id in ids],
        share=share,
        last_session=ending.last_session if ending else None,
    )


def _open(
    state: State,
    *,
    place: str,
    field: str,
    mark: bool,
    at: datetime,
    batch: Batch,
    checkpoint: Checkpoint,
    used: Iterable[Close],
    share: Tickers,
    last_session: date | None,
) -> Open:
    """Return a mark with what is known of its share, its readings and its splits when the entry is made."""
    if checkpoint.trading_day is None or batch.trading_day is None:
        raise LookupError(f"the trading day of {checkpoint.id}")
    course = Course(
        tickers=share,
        splits=(),
        used={one.trading_day: one for one in used},
        last_session=last_session,
    )
    return Open(
        place=place,
        field=field,
        mark=mark,
        session=checkpoint.trading_day,
        at=at,
        batch=batch,
        course=course,
        known=frozenset(split for ticker in share.all for split in state.splits[ticker].values()),
        counted=(course.shares_at(batch.trading_day), course.shares_at(checkpoint.trading_day)),
    )


def _check(one: Open, state: State) -> None:
    """Refuse a mark that no other reading could make right; keep one that another reading decides."""
    is_unusual = _is_unusual(one, (), one.known)
    if _is_settled(one):
        if one.mark is is_unusual and (not one.mark or _is_forced(one)):
            return
        if not is_unusual or _is_forced(one):
            raise _misfit(one)
    # An entry that came while the rows were read may rest on readings that are not among them.
    if not state.rows_are_told:
        state.open_marks.append(one)


def _is_forced(one: Open) -> bool:
    forced_from = one.course.tickers.forced_from
    return forced_from is not None and forced_from <= one.session


def _is_settled(one: Open) -> bool:
    """
    Return whether readings that the journal does not mention can only explain a move.

    They can add one to the last session of an ended pick, which no figure rests on; and a split that no figure counts
    can change the price of a reading that was restated.
    """
    if _is_forced(one):
        return True
    through = one.course.last(one.session)
    used = [close for day, close in one.course.used.items() if day <= through]
    return through in one.course.used and all(shares_of(close) == close.trading_day for close in used)


def _is_unusual(one: Open, newest: Iterable[Close], readings: Iterable[Split]) -> bool:
    share = one.course.tickers
    return replace(one.course, splits=share.splits_of(readings), newest=tuple(newest)).is_unusual(one.session)


def _possible(one: Open, closes: dict[str, list[Close]], factors: Iterable[Split]) -> Iterator[bool]:
    """
    Yield what the mark may be, for what may have been known when it was decided.

    The clocks of the process that decided it and of those that stored readings may differ; and a split that was read
    may have been stored too late to be seen (docs/journal.md#marks, "What is not quite certain").
    """
    after, through = one.counted
    others = {
        split for split in factors if split.read_at <= one.at + ABOUT and not after < split.effective_date <= through
    }
    # What came with a reading that the figures rest on was certainly known.
    used = (close.read_at for close in one.course.used.values())
    with_used = max((read_at for read_at in used if read_at <= one.at + ABOUT), default=one.at)
    for readings in {one.known, one.known | others}:
        for until in (one.at, one.at + ABOUT, max(one.at - ABOUT, with_used)):
            yield _is_unusual(one, _newest(one, closes, until), readings)


def _newest(one: Open, closes: dict[str, list[Close]], until: datetime) -> list[Close]:
    """Return the newest readings up to a time, one a session, from the baseline to the end of the fortnight."""
    assert one.batch.trading_day
    first, last = one.batch.trading_day, calendar.checkpoint_date(one.batch.run_date, calendar.FORTNIGHT[-1])
    newest = newest_of(one.course.tickers, closes, first, last, until)
    return [newest[day] for day in sorted(newest) if _SESSIONS.is_session(day)]


def _misfit(one: Open) -> Exception:
    return misfit(
        Rule.UNUSUAL_MOVE,
        f"{one.place}: {one.field} is {truth(one.mark)}, but the readings and splits that were known then give "
        f"{truth(not one.mark)}.",
    )
