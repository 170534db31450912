"""
The rule `split-counted`: every figure counts all splits of its share on certain days.

`SplitSpan` says which days these are. Definition: docs/journal.md#splits-that-no-entry-mentions.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import partial

from msgspec import Struct

from app.domain import calendar, splits
from app.domain.model import Checkpoint, FurtherBenchmark, JournalKind, PickMetric, Split
from app.domain.returns import format_decimal
from app.domain.tickers import TickerHistory
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import AnyRow, ParsedEntry
from app.domain.verification.rules.figures import basis_date
from app.domain.verification.rules.tolerance import CONCURRENT_WINDOW
from app.domain.verification.state import JournalState, has_figures, locate

# The kinds of entry that compute the figures of a checkpoint, for the first time or again.
_KINDS_WITH_FIGURES = (JournalKind.CHECKPOINT, JournalKind.CORRECTION)

# Readings of splits by ticker.
Readings = Mapping[str, Collection[Split]]


class SplitSpan(Struct, frozen=True):
    """
    The days whose splits a figure counts.

    These are the days after `after`, up to and including `through`. The factor of the splits is in
    the column `field` of `row`. `tickers` are the tickers of the figure's share.
    """

    row: Checkpoint | PickMetric | FurtherBenchmark
    field: str
    tickers: TickerHistory
    after: date
    through: date

    def list_splits(self, readings: Readings, tickers: TickerHistory | None = None) -> list[Split]:
        """
        Return the splits of these days: for each effective date, the newest reading of a split.

        If `tickers` is given, it replaces the tickers of the span.
        """
        share = tickers or self.tickers
        own: list[Split] = []
        for ticker in share.all_tickers:
            own += readings.get(ticker, ())
        return splits.effective_between(share.splits_in_force(own), self.after, self.through)


class SplitCount(Struct, frozen=True):
    """
    The splits that a figure of an entry counts: those that the journal mentions up to this entry.

    `place` returns the beginning of an error message: the place of the figure. `at` is the time of
    the entry.
    """

    place: Callable[[], str]
    at: datetime
    span: SplitSpan
    counted: Sequence[Split]


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy unless an entry holds exactly the splits that its figures count."""
    # A later rename does not change a stored figure. So the tickers that the share has at this
    # entry are stored for the figure.
    for metric in entry.rows(PickMetric):
        if metric.pick_id in state.shares:
            state.shares_of_metric[metric.id] = state.shares[metric.pick_id]
    spans: list[SplitSpan] = []
    rows: list[AnyRow] = []
    checkpoint = entry.first_row(Checkpoint)
    if entry.kind in _KINDS_WITH_FIGURES and checkpoint is not None and has_figures(checkpoint):
        rows.append(checkpoint)
        spans += _spans_of(checkpoint, state, is_new=entry.kind is JournalKind.CHECKPOINT)
    # An entry counts the splits of a further benchmark only if it has the row.
    for further in entry.rows(FurtherBenchmark):
        rows.append(further)
        spans += _spans_of_further(further, state)
    if not rows:
        return

    readings = {ticker: known.values() for ticker, known in state.splits.items()}
    counted = set[Split]()
    for span in spans:
        figure_splits = span.list_splits(readings)
        place = partial(locate, entry, state, span.row)
        state.counts.append(SplitCount(place=place, at=entry.at, span=span, counted=figure_splits))
        counted.update(figure_splits)
    _check_entry_splits(entry, state, rows[0], counted=counted)


def _check_entry_splits(
    entry: ParsedEntry, state: JournalState, row: AnyRow, *, counted: set[Split]
) -> None:
    held = set(entry.rows(Split))
    place = locate(entry, state, row)
    # The splits are sorted so that the same one is named every time.
    for split in sorted(counted - held, key=_sort_key):
        raise discrepancy(
            Rule.SPLIT_COUNTED,
            f"{place}: its figures count {state.name(split)}, which the entry does not hold.",
        )
    for split in sorted(held - counted, key=_sort_key):
        raise discrepancy(
            Rule.SPLIT_COUNTED,
            f"{place}: the entry holds {state.name(split)}, but its figures do not count this "
            "reading.",
        )


def check_end(state: JournalState) -> None:
    """Raise Discrepancy for a figure that does not count a split that it should count."""
    readings = state.all_splits()
    for count in state.counts:
        _check_known_splits(count, readings)
    unused = set(state.uncounted_splits())
    for span in _final_spans(state):
        _check_final_factor(span, readings, unused=unused, state=state)


def _check_known_splits(count: SplitCount, readings: Readings) -> None:
    """
    Raise Discrepancy if a figure does not count a split that was known when it was computed.

    The known splits are those that were read more than an hour before the entry was written. A
    split that does not change the factor need not be counted.
    """
    limit = count.at - CONCURRENT_WINDOW
    known: dict[str, list[Split]] = {}
    for ticker in count.span.tickers.all_tickers:
        known[ticker] = [one for one in readings.get(ticker, ()) if one.read_at < limit]
    # A split that was read in the last hour before the entry may be counted, but need not be.
    for split in count.counted:
        known[split.ticker].append(split)

    expected = count.span.list_splits(known)
    if _factor(expected) == _factor(count.counted):
        return
    uncounted = next(split for split in expected if split not in count.counted)
    raise discrepancy(
        Rule.SPLIT_COUNTED,
        f"{count.place()}: {count.span.field} does not count the split of {uncounted.ticker} of "
        f"{uncounted.effective_date} by {format_decimal(uncounted.factor)}, which had been read at "
        f"{uncounted.read_at}.",
    )


def _check_final_factor(
    span: SplitSpan, readings: Readings, *, unused: set[Split], state: JournalState
) -> None:
    """Raise Discrepancy unless a stored factor equals what the splits of the record give."""
    stored = getattr(span.row, span.field)
    counted = span.list_splits(readings)
    # A later rename does not change a stored figure. So the factor may also follow from the tickers
    # that the share had when the figure was last mentioned.
    counted_at_mention = span.list_splits(readings, state.shares_of_metric.get(span.row.id))
    if stored in (_factor(counted), _factor(counted_at_mention)):
        return

    reason = f"the splits of the record give {format_decimal(_factor(counted))}"
    uncounted = next((one for one in counted if one in unused), None)
    if uncounted is not None:
        reason = (
            f"{state.name(uncounted)} by {format_decimal(uncounted.factor)} is in the record, and "
            "no entry counts it"
        )
    raise discrepancy(
        Rule.SPLIT_COUNTED,
        f"{state.name(span.row)}: {span.field} is {format_decimal(stored)}, but {reason}.",
    )


def _sort_key(split: Split) -> tuple[str, date]:
    return split.ticker, split.effective_date


def _factor(counted: Sequence[Split]) -> Decimal:
    return splits.total_factor(counted, date.min, date.max)


def _final_spans(state: JournalState) -> Iterator[SplitSpan]:
    """Yield the spans of the figures that are corrected if one of their splits is listed late."""
    for checkpoint in state.checkpoints.values():
        batch = state.batches.get(checkpoint.batch_id)
        if batch is None or not has_figures(checkpoint):
            continue
        end = calendar.checkpoint_date(batch.run_date, calendar.MEASURED_DAYS[-1])
        for span in _spans_of(checkpoint, state):
            # A split on the last day of the fortnight or later causes no correction. The span of a
            # figure with a restated reading may reach that day. Such a span is not yielded.
            if span.through < end:
                yield span
    for further in state.further_benchmarks.values():
        batch = state.batches.get(further.batch_id)
        if batch is None:
            continue
        end = calendar.checkpoint_date(batch.run_date, calendar.MEASURED_DAYS[-1])
        for span in _spans_of_further(further, state):
            if span.through < end:
                yield span


def _spans_of(
    checkpoint: Checkpoint, state: JournalState, *, is_new: bool = False
) -> list[SplitSpan]:
    """Return the spans of a checkpoint's benchmark and metrics. See `_span_of_metric`."""
    metrics = state.metrics_at(checkpoint.id)
    spans = [_span_of_benchmark(checkpoint, state)]
    spans += [_span_of_metric(metric, state, is_new=is_new) for metric in metrics]
    return [span for span in spans if span is not None]


def _spans_of_further(further: FurtherBenchmark, state: JournalState) -> list[SplitSpan]:
    """Return the span of a further benchmark's factor; empty if a reading is not mentioned."""
    initial = state.closes.get(further.further_initial_close_id)
    close = state.closes.get(further.further_close_id)
    if initial is None or close is None:
        return []
    span = SplitSpan(
        row=further,
        field="further_split_factor",
        tickers=TickerHistory.unchanged(further.symbol),
        after=basis_date(initial),
        through=basis_date(close),
    )
    return [span]


def _span_of_benchmark(checkpoint: Checkpoint, state: JournalState) -> SplitSpan | None:
    """Return the span of a benchmark's factor; None if a row that it needs is not mentioned."""
    batch = state.batches.get(checkpoint.batch_id)
    if batch is None:
        return None
    if batch.benchmark_initial_close_id is None or checkpoint.benchmark_close_id is None:
        return None
    baseline = state.closes.get(batch.benchmark_initial_close_id)
    close = state.closes.get(checkpoint.benchmark_close_id)
    if baseline is None or close is None:
        return None
    return SplitSpan(
        row=checkpoint,
        field="benchmark_split_factor",
        tickers=TickerHistory.unchanged(batch.benchmark_symbol),
        after=basis_date(baseline),
        through=basis_date(close),
    )


def _span_of_metric(
    metric: PickMetric, state: JournalState, *, is_new: bool = False
) -> SplitSpan | None:
    """
    Return the span of a metric's factor; None if a row that it needs is not mentioned.

    `is_new` says that the metric was computed for the entry that is being checked. Then its close
    was requested under the present tickers of its share. An older metric keeps the tickers that its
    share had when the close of the metric was read.
    """
    pick, checkpoint = state.picks.get(metric.pick_id), state.checkpoints.get(metric.checkpoint_id)
    if pick is None or checkpoint is None:
        return None
    baseline = state.closes.get(pick.initial_close_id)
    if baseline is None:
        return None

    share = state.shares[pick.id]
    ending = state.endings.get(pick.id)
    session = checkpoint.trading_day
    if metric.close_id is not None:
        close = state.closes.get(metric.close_id)
        if close is None:
            return None
        if not is_new:
            share = share.as_read(close.ticker, close.trading_day)
        through = basis_date(close)
    elif ending is not None and session is not None:
        through = min(session, ending.last_session)
    else:
        return None
    return SplitSpan(
        row=metric,
        field="split_factor",
        tickers=share,
        after=basis_date(baseline),
        through=through,
    )
