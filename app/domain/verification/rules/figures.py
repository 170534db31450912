"""
Every price is that of its reading, and every figure follows from its prices and splits.

The formulas: docs/journal.md#the-figures. The rule `forced-rename` is here, too, as it stands among them.
"""

from collections.abc import Collection, Iterator
from datetime import date
from decimal import Decimal
from uuid import UUID

from app.domain import returns, splits
from app.domain.model import Batch, Checkpoint, Close, Pick, PickMetric
from app.domain.tickers import Tickers
from app.domain.verification.entries import AnyRow, Entry, Mention
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.state import State, where

Figure = tuple[str, Decimal]


def check(entry: Entry, state: State) -> None:
    """Recompute the figures of the rows that an entry mentions; raises Misfit."""
    for mention in entry.mentions:
        place = where(entry, state, mention.row)
        try:
            for field, expected in _figures(mention, state):
                _compare(place, mention.row, field, expected)
                state.figures += 1
        except LookupError as error:
            text = f"{place}: its figures need {error}, which the journal does not have."
            raise misfit(Rule.READING, text) from None
        except ArithmeticError:
            raise misfit(Rule.FIGURE, f"{place}: its figures are no numbers.") from None
        if isinstance(mention.row, PickMetric):
            _check_forced(place, mention, state)


def check_end(state: State) -> None:
    """
    Refuse returns that do not follow from the newest prices, when the journal ends; raises Misfit.

    A baseline that was corrected changes returns of other days, which need not be mentioned with it. The factors are
    those of the rows: `uncounted` checks them.
    """
    for checkpoint in state.checkpoints.values():
        if checkpoint.day == 0 or checkpoint.benchmark_price is None or checkpoint.benchmark_split_factor is None:
            continue
        initial = _price(state.batch(checkpoint.batch_id).benchmark_initial_price, checkpoint.batch_id)
        expected = returns.return_pct(initial, checkpoint.benchmark_price, checkpoint.benchmark_split_factor)
        _compare(state.name(checkpoint), checkpoint, "benchmark_return_pct", expected)
    for metric in state.metrics.values():
        pick, checkpoint = state.pick(metric.pick_id), state.checkpoint(metric.checkpoint_id)
        benchmark = _price(checkpoint.benchmark_return_pct, checkpoint.id)
        measured = returns.measure(pick.initial_price, metric.current_price, metric.split_factor, benchmark)
        _compare(state.name(metric), metric, "absolute_return_pct", measured.absolute_return_pct)
        _compare(state.name(metric), metric, "vs_benchmark_pct", measured.vs_benchmark_pct)


def _compare(place: str, row: AnyRow, field: str, expected: Decimal) -> None:
    found = getattr(row, field)
    if found == expected:
        return
    shown = "absent" if found is None else returns.plain(found)
    raise misfit(
        Rule.FIGURE,
        f"{place}: {field} is {shown}, but what it comes from gives {returns.plain(expected)}. "
        "The figure was never computed so.",
    )


def _figures(mention: Mention, state: State) -> Iterator[Figure]:
    """Yield what each price and figure of a row must be."""
    match mention.row:
        case Batch() as batch if batch.benchmark_initial_close_id is not None:
            session = _session(batch.trading_day, batch.id)
            close = _reading(state, batch.benchmark_initial_close_id, session, {batch.benchmark_symbol})
            yield "benchmark_initial_price", close.close
        case Pick() as pick:
            yield from _of_a_pick(pick, mention.before, state)
        case Checkpoint() as checkpoint if checkpoint.benchmark_close_id is not None:
            yield from _of_the_benchmark(checkpoint, state)
        case PickMetric() as metric:
            yield from _of_a_metric(metric, mention.before, state)


def _of_a_pick(pick: Pick, before: AnyRow | None, state: State) -> Iterator[Figure]:
    batch = state.batch(pick.batch_id)
    former = before if isinstance(before, Pick) else None
    session = _session(batch.trading_day, batch.id)
    was = former.initial_close_id if former else None
    close = _own_reading(state, pick.id, pick.initial_close_id, session, was)
    yield "initial_price", close.close
    if pick.entry_close_id is not None:
        opened = state.close(pick.entry_close_id)
        was = former.entry_close_id if former else None
        _own_reading(state, pick.id, pick.entry_close_id, opened.trading_day, was)
        if opened.open is None:
            raise LookupError(f"the open of {opened.id} of closes")
        yield "entry_open", opened.open


def _of_the_benchmark(checkpoint: Checkpoint, state: State) -> Iterator[Figure]:
    batch = state.batch(checkpoint.batch_id)
    session = _session(checkpoint.trading_day, checkpoint.id)
    close = _reading(state, checkpoint.benchmark_close_id, session, {batch.benchmark_symbol})
    yield "benchmark_price", close.close
    share = Tickers.only(batch.benchmark_symbol)
    since = shares_of(state.close(batch.benchmark_initial_close_id))
    split_factor = factor(state, share, since, shares_of(close))
    yield "benchmark_split_factor", split_factor
    if checkpoint.day != 0:
        initial = _price(batch.benchmark_initial_price, batch.id)
        yield "benchmark_return_pct", returns.return_pct(initial, close.close, split_factor)


def _of_a_metric(metric: PickMetric, before: AnyRow | None, state: State) -> Iterator[Figure]:
    pick = state.pick(metric.pick_id)
    checkpoint = state.checkpoint(metric.checkpoint_id)
    session = _session(checkpoint.trading_day, checkpoint.id)
    share = state.shares[pick.id]
    if metric.close_id is not None:
        was = before.close_id if isinstance(before, PickMetric) else None
        close = _own_reading(state, pick.id, metric.close_id, session, was)
        share = share.as_read(close.ticker, close.trading_day)
        price, through = close.close, shares_of(close)
    else:
        ending = state.endings.get(pick.id)
        if ending is None:
            raise LookupError(f"an ending of {pick.ticker}")
        price, through = ending.value, min(session, ending.last_session)
    yield "current_price", price
    split_factor = factor(state, share, shares_of(state.close(pick.initial_close_id)), through)
    yield "split_factor", split_factor
    benchmark = _price(checkpoint.benchmark_return_pct, checkpoint.id)
    measured = returns.measure(pick.initial_price, price, split_factor, benchmark)
    yield "absolute_return_pct", measured.absolute_return_pct
    yield "vs_benchmark_pct", measured.vs_benchmark_pct
    if metric.return_from_open_pct is not None:
        since_open = factor(state, share, shares_of(state.close(pick.entry_close_id)), through)
        entry_open = _price(pick.entry_open, pick.id)
        yield "return_from_open_pct", returns.return_pct(entry_open, price, since_open)


def shares_of(close: Close) -> date:
    """Return the day of whose shares the price of a reading is (see `splits.shares_of`)."""
    return splits.shares_of(close.source, close.trading_day)


def factor(state: State, share: Tickers, after: date, through: date) -> Decimal:
    """Return the product of a share's splits, each read under the ticker that it had on that day."""
    readings = (split for ticker in share.all for split in state.splits[ticker].values())
    return splits.factor(share.splits_of(readings), after, through)


def _own_reading(state: State, pick: UUID, close: UUID, session: date, former: UUID | None) -> Close:
    """Return a pick's reading: under its session's ticker, unless the row named it before a rename."""
    share = state.shares[pick]
    tickers = share.all if former == close else share.period(session).tickers
    return _reading(state, close, session, tickers)


def _reading(state: State, id: UUID | None, session: date, tickers: Collection[str]) -> Close:
    """Return a reading, which must be of one of these tickers and of this session."""
    close = state.close(id)
    if close.trading_day != session or close.ticker not in tickers:
        found = f"the reading {id} is of {close.ticker} on {close.trading_day}"
        raise LookupError(f"a reading of {'/'.join(sorted(tickers))} on {session} ({found})")
    return close


def _session(day: date | None, id: UUID) -> date:
    if day is None:
        raise LookupError(f"the trading day of {id}")
    return day


def _price(price: Decimal | None, id: UUID) -> Decimal:
    if price is None:
        raise LookupError(f"a price of {id}")
    return price


def _check_forced(place: str, mention: Mention, state: State) -> None:
    """Refuse a metric that was made after a forced rename and is not marked."""
    metric, former = mention.row, mention.before
    assert isinstance(metric, PickMetric)
    forced_from = state.shares[metric.pick_id].forced_from
    session = state.checkpoint(metric.checkpoint_id).trading_day
    is_new = not isinstance(former, PickMetric) or former.close_id != metric.close_id
    if forced_from and session and forced_from <= session and is_new and not metric.unusual_move:
        raise misfit(
            Rule.FORCED_RENAME,
            f"{place}: unusual_move is not true, but a rename from {forced_from} on was forced.",
        )
