"""Readings of splits: each that is in force is counted by every figure that it concerns."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import partial

from msgspec import Struct

from app.domain import calendar, splits
from app.domain.model import Checkpoint, JournalKind, PickMetric, Split
from app.domain.returns import plain
from app.domain.tickers import Tickers
from app.domain.verification.entries import Entry
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.rules.figures import shares_of
from app.domain.verification.rules.tolerance import MEANWHILE
from app.domain.verification.state import State, has_figures, where

# The entries that compute the figures of a checkpoint, at first or once more.
_OF_FIGURES = (JournalKind.CHECKPOINT, JournalKind.CORRECTION)

Readings = Mapping[str, Collection[Split]]


class Span(Struct, frozen=True):
    """The days over which a figure counts its share's splits: after `after`, up to and including `through`."""

    row: Checkpoint | PickMetric
    field: str
    tickers: Tickers
    after: date
    through: date

    def counted(self, readings: Readings, tickers: Tickers | None = None) -> list[Split]:
        """Return the readings in force of these days."""
        share = tickers or self.tickers
        of_its_tickers = (split for ticker in share.all for split in readings.get(ticker, ()))
        return splits.between(share.splits_of(of_its_tickers), self.after, self.through)


class Count(Struct, frozen=True):
    """What the figure of an entry counts, as it was known then: `span.row` is the row of the entry."""

    place: Callable[[], str]
    at: datetime
    span: Span
    counted: Sequence[Split]


def check(entry: Entry, state: State) -> None:
    """Refuse a computed checkpoint whose entry does not hold the splits that its figures count; raises Misfit."""
    for metric in entry.rows(PickMetric):
        if metric.pick_id in state.shares:
            state.shares_of_metric[metric.id] = state.shares[metric.pick_id]
    checkpoint = entry.one(Checkpoint)
    if entry.kind not in _OF_FIGURES or checkpoint is None or not has_figures(checkpoint):
        return
    is_new = entry.kind is JournalKind.CHECKPOINT
    readings = {ticker: known.values() for ticker, known in state.splits.items()}
    spans = [_of_benchmark(checkpoint, state)]
    spans += [_of_metric(metric, state, is_new=is_new) for metric in state.metrics_at(checkpoint.id)]
    counted = set[Split]()
    for span in filter(None, spans):
        its = span.counted(readings)
        state.counts.append(Count(partial(where, entry, state, span.row), entry.at, span, its))
        counted.update(its)
    held = set(entry.rows(Split))
    place = where(entry, state, checkpoint)
    for split in sorted(counted - held, key=_key):
        text = f"{place}: its figures count {state.name(split)}, which the entry does not hold."
        raise misfit(Rule.SPLIT_COUNTED, text)
    for split in sorted(held - counted, key=_key):
        text = f"{place}: the entry holds {state.name(split)}, but its figures do not count this reading."
        raise misfit(Rule.SPLIT_COUNTED, text)


def check_end(state: State) -> None:
    """Refuse a figure that does not count a split of the record, when all rows were read; raises Misfit."""
    readings = state.all_splits()
    for count in state.counts:
        _check_count(count, readings)
    unused = set(state.unused_splits)
    for span in _spans(state):
        stored = getattr(span.row, span.field)
        counted = span.counted(readings)
        # A rename since leaves the tickers of a stored figure as they were.
        before = span.counted(readings, state.shares_of_metric.get(span.row.id))
        if stored in (_factor(counted), _factor(before)):
            continue
        text = f"{state.name(span.row)}: {span.field} is {plain(stored)}, but "
        uncounted = next((one for one in counted if one in unused), None)
        if uncounted is None:
            text += f"the splits of the record give {plain(_factor(counted))}."
        else:
            text += f"{state.name(uncounted)} by {plain(uncounted.factor)} is in the record, and no entry counts it."
        raise misfit(Rule.SPLIT_COUNTED, text)


def _check_count(count: Count, readings: Readings) -> None:
    """Refuse a figure that did not count a split which had long been read when it was computed."""
    known = {
        ticker: [one for one in readings.get(ticker, ()) if one.read_at < count.at - MEANWHILE]
        for ticker in count.span.tickers.all
    }
    for split in count.counted:
        known[split.ticker].append(split)
    if _factor(count.span.counted(known)) != _factor(count.counted):
        late = next(split for split in count.span.counted(known) if split not in count.counted)
        raise misfit(
            Rule.SPLIT_COUNTED,
            f"{count.place()}: {count.span.field} does not count the split of {late.ticker} of {late.effective_date} "
            f"by {plain(late.factor)}, which had been read at {late.read_at}.",
        )


def _key(split: Split) -> tuple[str, date]:
    return split.ticker, split.effective_date


def _factor(counted: Sequence[Split]) -> Decimal:
    return splits.factor(counted, date.min, date.max)


def _spans(state: State) -> Iterator[Span]:
    """Yield what every figure of the record counts."""
    for checkpoint in state.checkpoints.values():
        if not has_figures(checkpoint) or checkpoint.batch_id not in state.batches:
            continue
        found = [_of_benchmark(checkpoint, state)]
        found += [_of_metric(metric, state) for metric in state.metrics_at(checkpoint.id)]
        end = calendar.checkpoint_date(state.batches[checkpoint.batch_id].run_date, calendar.FORTNIGHT[-1])
        # A split from the end of the fortnight on corrects nothing, though a restated reading may count it.
        yield from (span for span in found if span and span.through < end)


def _of_benchmark(checkpoint: Checkpoint, state: State) -> Span | None:
    batch = state.batches.get(checkpoint.batch_id)
    if batch is None:
        return None
    baseline = state.closes.get(batch.benchmark_initial_close_id) if batch.benchmark_initial_close_id else None
    close = state.closes.get(checkpoint.benchmark_close_id) if checkpoint.benchmark_close_id else None
    if baseline is None or close is None:
        return None
    return Span(
        row=checkpoint,
        field="benchmark_split_factor",
        tickers=Tickers.only(batch.benchmark_symbol),
        after=shares_of(baseline),
        through=shares_of(close),
    )


def _of_metric(metric: PickMetric, state: State, *, is_new: bool = False) -> Span | None:
    """Return what a metric counts; one that is new was read under the tickers that its share has now."""
    pick, checkpoint = state.picks.get(metric.pick_id), state.checkpoints.get(metric.checkpoint_id)
    if pick is None or checkpoint is None:
        return None
    session = checkpoint.trading_day
    share = state.shares[pick.id]
    baseline = state.closes.get(pick.initial_close_id)
    ending = state.endings.get(pick.id)
    if metric.close_id is not None:
        close = state.closes.get(metric.close_id)
        if close is None:
            return None
        if not is_new:
            share = share.as_read(close.ticker, close.trading_day)
        through = shares_of(close)
    elif ending is not None and session is not None:
        through = min(session, ending.last_session)
    else:
        return None
    if baseline is None:
        return None
    return Span(row=metric, field="split_factor", tickers=share, after=shares_of(baseline), through=through)
