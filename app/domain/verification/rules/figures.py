"""
The rules `reading`, `figure` and `forced-rename`: prices, and the figures computed from them.

Every price must equal the price of its reading, or the value of the ending if the pick ended. Every
figure must equal what its prices and splits give. Formulas: docs/journal.md#the-figures, which also
defines `forced-rename`.
"""

from collections.abc import Collection, Iterator
from datetime import date
from decimal import Decimal
from uuid import UUID

from app.domain import returns, splits
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    FurtherBenchmark,
    Pick,
    PickMetric,
    Split,
)
from app.domain.tickers import TickerHistory
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import AnyRow, Mention, ParsedEntry
from app.domain.verification.state import JournalState, locate

# A column and the value that it must have.
Figure = tuple[str, Decimal]


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Compute the figures of an entry's rows again; raises Discrepancy if a stored one differs."""
    for mention in entry.mentions:
        place = locate(entry, state, mention.row)
        try:
            for field, expected in expected_figures(mention, state):
                _compare(place, mention.row, field=field, expected=expected)
                state.figures += 1
        # The figure cannot be computed: the entry names a reading that no entry mentions, or a
        # reading of another session or ticker.
        except LookupError as error:
            raise discrepancy(
                Rule.READING,
                f"{place}: its figures need {error}, which the journal does not have.",
            ) from None
        except ArithmeticError:
            raise discrepancy(Rule.FIGURE, f"{place}: its figures are no numbers.") from None
        if isinstance(mention.row, PickMetric):
            _check_forced(place, mention, state)


def check_end(state: JournalState) -> None:
    """
    Raise Discrepancy for returns that differ from what the prices of the last mentions give.

    A corrected baseline changes the returns of other days, too, and the entry of the correction
    need not mention these days. The factors are taken from the rows: the rule module
    `counted_splits` checks them.
    """
    for checkpoint in state.checkpoints.values():
        _check_last_benchmark(checkpoint, state)
    for metric in state.metrics.values():
        _check_last_metric(metric, state)


def _check_last_benchmark(checkpoint: Checkpoint, state: JournalState) -> None:
    price, factor = checkpoint.benchmark_price, checkpoint.benchmark_split_factor
    if checkpoint.day == 0 or price is None or factor is None:
        return
    batch = state.batch(checkpoint.batch_id)
    initial = _required_value(batch, "benchmark_initial_price")
    expected = returns.return_pct(initial, price, factor)
    _compare(
        place=state.name(checkpoint),
        row=checkpoint,
        field="benchmark_return_pct",
        expected=expected,
    )


def _check_last_metric(metric: PickMetric, state: JournalState) -> None:
    pick, checkpoint = state.pick(metric.pick_id), state.checkpoint(metric.checkpoint_id)
    figures = returns.measure_returns(
        initial=pick.initial_price,
        current=metric.current_price,
        factor=metric.split_factor,
        benchmark_return_pct=_required_value(checkpoint, "benchmark_return_pct"),
    )
    for field in ("absolute_return_pct", "vs_benchmark_pct"):
        _compare(
            place=state.name(metric), row=metric, field=field, expected=getattr(figures, field)
        )


def _compare(place: str, row: AnyRow, *, field: str, expected: Decimal) -> None:
    stored = getattr(row, field)
    if stored == expected:
        return
    shown = "absent"
    if stored is not None:
        shown = returns.format_decimal(stored)
    raise discrepancy(
        Rule.FIGURE,
        f"{place}: {field} is {shown}, but its prices and splits give "
        f"{returns.format_decimal(expected)}. The service did not compute this figure.",
    )


def expected_figures(mention: Mention, state: JournalState) -> Iterator[Figure]:
    """
    Yield each price and figure of a row with its expected value.

    Raises LookupError if the journal does not have a row that a value needs.
    """
    match mention.row:
        # A failed batch and a skipped checkpoint have no reading, and so no figures.
        case Batch() as batch if batch.benchmark_initial_close_id is not None:
            close = _find_reading(
                state,
                batch.benchmark_initial_close_id,
                session=_required_session(batch.trading_day, batch.id),
                tickers={batch.benchmark_symbol},
            )
            yield "benchmark_initial_price", close.close
        case Pick() as pick:
            yield from _figures_of_pick(pick, mention.before, state)
        case Checkpoint() as checkpoint if checkpoint.benchmark_close_id is not None:
            yield from _figures_of_benchmark(checkpoint, state)
        case PickMetric() as metric:
            yield from _figures_of_metric(metric, mention.before, state)
        case FurtherBenchmark() as further:
            yield from _figures_of_further(further, state)


def _figures_of_pick(pick: Pick, before: AnyRow | None, state: JournalState) -> Iterator[Figure]:
    batch = state.batch(pick.batch_id)
    close = _find_own_reading(
        state,
        pick.id,
        pick.initial_close_id,
        session=_required_session(batch.trading_day, batch.id),
        former=getattr(before, "initial_close_id", None),
    )
    yield "initial_price", close.close

    if pick.entry_close_id is None:
        return
    # The session is taken from the reading itself, so it is not checked here. The rule `entry-open`
    # checks it: which session is right may depend on a closure on short notice.
    reading = state.close(pick.entry_close_id)
    _find_own_reading(
        state,
        pick.id,
        pick.entry_close_id,
        session=reading.trading_day,
        former=getattr(before, "entry_close_id", None),
    )
    if reading.open is None:
        raise LookupError(f"the open of {reading.id} of closes")
    yield "entry_open", reading.open


def _figures_of_benchmark(checkpoint: Checkpoint, state: JournalState) -> Iterator[Figure]:
    batch = state.batch(checkpoint.batch_id)
    close = _find_reading(
        state,
        checkpoint.benchmark_close_id,
        session=_required_session(checkpoint.trading_day, checkpoint.id),
        tickers={batch.benchmark_symbol},
    )
    yield "benchmark_price", close.close

    factor = split_product(
        state,
        TickerHistory.unchanged(batch.benchmark_symbol),
        after=basis_date(state.close(batch.benchmark_initial_close_id)),
        through=basis_date(close),
    )
    yield "benchmark_split_factor", factor
    # Day 0 is the baseline itself, so it has a factor and no return.
    if checkpoint.day != 0:
        initial = _required_value(batch, "benchmark_initial_price")
        yield "benchmark_return_pct", returns.return_pct(initial, close.close, factor)


def _figures_of_metric(
    metric: PickMetric, before: AnyRow | None, state: JournalState
) -> Iterator[Figure]:
    pick = state.pick(metric.pick_id)
    checkpoint = state.checkpoint(metric.checkpoint_id)
    session = _required_session(checkpoint.trading_day, checkpoint.id)
    share = state.shares[pick.id]
    if metric.close_id is None:
        # For a pick that ended, the price is the value of its ending, and no splits after its last
        # session count.
        ending = state.endings.get(pick.id)
        if ending is None:
            raise LookupError(f"an ending of {pick.ticker}")
        price, through = ending.value, min(session, ending.last_session)
    else:
        close = _find_own_reading(
            state,
            pick.id,
            metric.close_id,
            session=session,
            former=getattr(before, "close_id", None),
        )
        share = share.as_read(close.ticker, close.trading_day)
        price, through = close.close, basis_date(close)
    yield "current_price", price

    baseline = state.close(pick.initial_close_id)
    factor = split_product(state, share, after=basis_date(baseline), through=through)
    yield "split_factor", factor
    figures = returns.measure_returns(
        initial=pick.initial_price,
        current=price,
        factor=factor,
        benchmark_return_pct=_required_value(checkpoint, "benchmark_return_pct"),
    )
    yield "absolute_return_pct", figures.absolute_return_pct
    yield "vs_benchmark_pct", figures.vs_benchmark_pct

    if metric.return_from_open_pct is not None:
        opened = state.close(pick.entry_close_id)
        factor = split_product(state, share, after=basis_date(opened), through=through)
        entry_open = _required_value(pick, "entry_open")
        yield "return_from_open_pct", returns.return_pct(entry_open, price, factor)


def _figures_of_further(further: FurtherBenchmark, state: JournalState) -> Iterator[Figure]:
    initial = _find_reading(
        state,
        further.further_initial_close_id,
        session=_required_session(state.batch(further.batch_id).trading_day, further.batch_id),
        tickers={further.symbol},
    )
    close = _find_reading(
        state,
        further.further_close_id,
        session=further.trading_day,
        tickers={further.symbol},
    )
    yield "further_initial_price", initial.close
    yield "further_price", close.close
    factor = split_product(
        state,
        TickerHistory.unchanged(further.symbol),
        after=basis_date(initial),
        through=basis_date(close),
    )
    yield "further_split_factor", factor
    yield "further_return_pct", returns.return_pct(initial.close, close.close, factor)


def basis_date(close: Close) -> date:
    """Return the basis date of a reading's price (see `splits.basis_date`)."""
    return splits.basis_date(close.source, close.trading_day)


def split_product(
    state: JournalState, share: TickerHistory, *, after: date, through: date
) -> Decimal:
    """
    Return the product of a share's splits after the day `after`, up to the day `through`.

    A split counts under the ticker that the share has on the effective date of the split.
    """
    readings: list[Split] = []
    for ticker in share.all_tickers:
        readings += state.splits[ticker].values()
    return splits.total_factor(share.splits_in_force(readings), after, through)


def _find_own_reading(
    state: JournalState, pick: UUID, close: UUID, *, session: date, former: UUID | None
) -> Close:
    """
    Return the reading of a pick; raises LookupError if its session or its ticker is wrong.

    The right ticker is the one that the share has on the session. `former` is the reading that the
    row named before this entry. If the row still names `former`, any ticker that the share has or
    had is right.
    """
    share = state.shares[pick]
    tickers: Collection[str] = share.period(session).tickers
    # A row that was computed before a rename keeps its reading under the earlier ticker.
    if former == close:
        tickers = share.all_tickers
    return _find_reading(state, close, session=session, tickers=tickers)


def _find_reading(
    state: JournalState, id: UUID | None, *, session: date, tickers: Collection[str]
) -> Close:
    """Return the reading `id`; raises LookupError unless its session and its ticker fit."""
    close = state.close(id)
    if close.trading_day != session or close.ticker not in tickers:
        actual = f"the reading {id} is of {close.ticker} on {close.trading_day}"
        raise LookupError(f"a reading of {'/'.join(sorted(tickers))} on {session} ({actual})")
    return close


def _required_session(day: date | None, id: UUID) -> date:
    if day is None:
        raise LookupError(f"the trading day of {id}")
    return day


def _required_value(row: Batch | Checkpoint | Pick, column: str) -> Decimal:
    """Return the price or figure in a column of a row; raises LookupError if it is null."""
    value: Decimal | None = getattr(row, column)
    if value is None:
        raise LookupError(f"the {column} of {row.id}")
    return value


def _check_forced(place: str, mention: Mention, state: JournalState) -> None:
    """Raise Discrepancy for a metric that was computed after a forced rename and is not marked."""
    metric, former = mention.row, mention.before
    assert isinstance(metric, PickMetric)
    if isinstance(former, PickMetric) and former.close_id == metric.close_id:
        return  # the metric keeps the reading that it had before the rename
    forced_from = state.shares[metric.pick_id].forced_from
    session = state.checkpoint(metric.checkpoint_id).trading_day
    if forced_from is None or session is None or session < forced_from:
        return
    if not metric.unusual_move:
        raise discrepancy(
            Rule.FORCED_RENAME,
            f"{place}: unusual_move is not true, but the rename from {forced_from} on was forced.",
        )
