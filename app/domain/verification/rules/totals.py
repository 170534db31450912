"""
The rules of total returns: `dividend-listed`, `total-return` and `every-total`.

A total return follows from the figures of its row and from the dividends in force. It is added by
an EXTENSION entry, to the result of a completed batch, and changes only by a CORRECTION.
Definition: docs/journal.md#total-returns.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from msgspec import Struct

from app.domain import calendar, dividends, returns
from app.domain.closures import find_result
from app.domain.declarations import ResponseKind
from app.domain.dividends import DividendPeriod, DividendResponse, ReceivedDividends
from app.domain.journal import format_bool
from app.domain.model import (
    BatchStatus,
    Checkpoint,
    Dividend,
    JournalKind,
    PickMetric,
    SkipReason,
    Split,
)
from app.domain.tickers import TickerHistory
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import AnyRow, ParsedEntry
from app.domain.verification.rules.figures import basis_date
from app.domain.verification.rules.tolerance import overdue_limit
from app.domain.verification.state import JournalState, has_figures, locate

# A version that does not know total returns may run for so long beside or in place of this one. It
# corrects a price without the total return, and adds no total return.
_UPGRADE_WINDOW = timedelta(days=28)

# A row with a total return.
_Row = Checkpoint | PickMetric
# A column of a row, and the value that it must have.
_Column = tuple[str, Decimal | bool]


class _Holding(Struct, frozen=True):
    """
    What a holder of a share held between the baseline and the session of a row.

    - `tickers`: the tickers of the share
    - `initial`, `current`, `factor`: the two prices, and the factor of the splits between them
    - `basis`: the basis date of the initial price
    - `after`, `through`: the days whose dividends count are those after `after`, up to `through`
    """

    tickers: TickerHistory
    initial: Decimal
    current: Decimal
    factor: Decimal
    basis: date
    after: date
    through: date

    def receive(self, state: JournalState) -> ReceivedDividends:
        """Return the dividends that the holder received, as far as the journal mentions them."""
        return dividends.receive(
            _dividends_in_force(state, self.tickers),
            initial=self.initial,
            factors=_splits_in_force(state, self.tickers),
            basis=self.basis,
            after=self.after,
            through=self.through,
        )

    def total(self, received: ReceivedDividends) -> Decimal:
        """Return the total return in percent."""
        return dividends.total_return_pct(
            self.initial, self.current, factor=self.factor, received=received.per_share
        )

    @property
    def periods(self) -> list[DividendPeriod]:
        """Return the tickers and days for which a response about dividends is needed."""
        return self.tickers.dividend_periods(self.after, self.through)


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an entry that breaks one of the rules of this module."""
    _check_listed(entry, state)
    checkpoint = entry.first_row(Checkpoint)
    # An entry about a further benchmark has no checkpoint.
    if entry.kind is JournalKind.EXTENSION and checkpoint is not None:
        _check_added(entry, state, checkpoint)
    counted: set[Dividend] = set()
    for before, row in _rows_with_totals(entry, state):
        received = _check_row(row, state, place=locate(entry, state, row))
        # An EXTENSION entry may mention its checkpoint again, only to add a metric's total return.
        if entry.kind is not JournalKind.EXTENSION or _is_added(before, row):
            counted.update(received)
    _check_held(entry, state, counted)


def check_end(state: JournalState) -> None:
    """
    Raise Discrepancy for a total return that differs from what the last mentions give.

    Also raise it for a result that lacks a total return, although its dividends have been known for
    four weeks.
    """
    now = max(state.times, default=None)
    rows: list[_Row] = [*state.checkpoints.values(), *state.metrics.values()]
    for row in rows:
        left_out_at = state.left_out_at.get(row.id)
        if now is None or not row.has_totals:
            continue
        if left_out_at is not None and now - left_out_at <= _UPGRADE_WINDOW:
            continue
        _check_row(row, state, place=state.name(row))
    limit = overdue_limit(state.times)
    if limit is None or not state.is_sealed:
        return
    days_with_price = _days_with_price(state)
    for batch in state.batches.values():
        days = frozenset(days_with_price.get(batch.benchmark_symbol, ()))
        result = find_result(batch, state.checkpoints_of(batch.id), days)
        if result is not None:
            _check_every_total(result, state, limit=limit)


def _check_listed(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a known dividend that the newest response no longer lists."""
    response = entry.response
    if response is None or response.kind is not ResponseKind.DIVIDENDS or response.ticker is None:
        return
    tickers = TickerHistory.unchanged(response.ticker)
    for dividend in _dividends_in_force(state, tickers):
        if dividend.amount > 0 and dividend.ex_date not in (response.ex_dates or ()):
            raise discrepancy(
                Rule.DIVIDEND_LISTED,
                f"{locate(entry, state, dividend)}: the response does not list its ex_date, but "
                "no reading with the amount 0 takes it back.",
            )


def _check_added(entry: ParsedEntry, state: JournalState, checkpoint: Checkpoint) -> None:
    """Raise Discrepancy unless an EXTENSION entry adds total returns that could be known."""
    place = locate(entry, state, checkpoint)
    if not state.is_sealed:
        raise discrepancy(Rule.TOTAL_RETURN, f"{place}: the record is not sealed.")
    batch = state.batches.get(checkpoint.batch_id)
    is_completed = batch is not None and batch.status is BatchStatus.COMPLETED
    if not is_completed or not _may_be_result(checkpoint, state):
        raise discrepancy(Rule.TOTAL_RETURN, f"{place}: it is not the result of a completed batch.")
    if not checkpoint.has_totals:
        raise discrepancy(Rule.TOTAL_RETURN, f"{place}: the benchmark has no total return.")
    added = [mention.row for mention in entry.mentions if _is_added(mention.before, mention.row)]
    if not added or len(entry.rows(PickMetric)) != sum(
        isinstance(row, PickMetric) for row in added
    ):
        raise discrepancy(
            Rule.TOTAL_RETURN,
            f"{place}: the entry mentions a row without adding its total return.",
        )
    for row in added:
        assert isinstance(row, Checkpoint | PickMetric)
        _check_known(row, state, place=locate(entry, state, row))


def _is_added(before: object, row: object) -> bool:
    if not isinstance(row, Checkpoint | PickMetric) or not row.has_totals:
        return False
    return isinstance(before, Checkpoint | PickMetric) and not before.has_totals


def _may_be_result(checkpoint: Checkpoint, state: JournalState) -> bool:
    """Return whether no later day of the batch may have been a session."""
    if not has_figures(checkpoint):
        return False
    later = [one for one in state.checkpoints_of(checkpoint.batch_id) if one.day > checkpoint.day]
    return all(one.skip_reason is SkipReason.MARKET_CLOSED for one in later)


def _check_known(row: _Row, state: JournalState, *, place: str) -> None:
    """Raise Discrepancy if the journal does not show which dividends the share of a row had."""
    holding = _holding_of(row, state)
    unknown = _find_unknown(holding, state)
    if unknown is not None:
        raise discrepancy(
            Rule.TOTAL_RETURN,
            f"{place}: no response about the dividends of {unknown} was read after "
            f"{holding.through}, or an amount that it lists is not in the journal.",
        )


def _find_unknown(holding: _Holding, state: JournalState) -> str | None:
    responses = {ticker: known[-1] for ticker, known in state.dividend_responses.items()}
    return dividends.find_unknown(
        holding.periods,
        responses=responses,
        in_force=_mentioned_in_force(state, (period.ticker for period in holding.periods)),
        through=holding.through,
    )


def _rows_with_totals(entry: ParsedEntry, state: JournalState) -> Iterator[tuple[AnyRow, _Row]]:
    """
    Yield the rows of an entry that state a total return, each after its mention before.

    A row of an earlier version, which does not know total returns, states none: it keeps the former
    one, and its price may be newer.
    """
    for mention in entry.mentions:
        row = mention.row
        if not isinstance(row, Checkpoint | PickMetric) or row.id in state.left_out:
            continue
        if not row.has_totals:
            continue
        if mention.before is None:
            raise discrepancy(
                Rule.TOTAL_RETURN,
                f"{locate(entry, state, row)}: the entry that mentions it first has a total "
                "return.",
            )
        if entry.kind is not JournalKind.EXTENSION and _is_added(mention.before, row):
            raise discrepancy(
                Rule.TOTAL_RETURN,
                f"{locate(entry, state, row)}: only an EXTENSION entry adds a total return.",
            )
        yield mention.before, row


def _check_row(row: _Row, state: JournalState, *, place: str) -> list[Dividend]:
    """Raise Discrepancy unless the total return of a row is right; return what it counts."""
    try:
        holding = _holding_of(row, state)
        received = holding.receive(state)
        expected = [*_expected(row, state, holding=holding, received=received)]
    except LookupError as error:
        raise discrepancy(
            Rule.TOTAL_RETURN, f"{place}: its total return needs {error}, which is not there."
        ) from None
    except ArithmeticError:
        raise discrepancy(Rule.TOTAL_RETURN, f"{place}: its total return is no number.") from None
    for column, value in expected:
        stored = getattr(row, column)
        if stored != value:
            raise discrepancy(
                Rule.TOTAL_RETURN,
                f"{place}: {column} is {_show(stored)}, but its prices, splits and dividends give "
                f"{_show(value)}.",
            )
    state.figures += len(expected)
    return received.counted


def _expected(
    row: _Row, state: JournalState, *, holding: _Holding, received: ReceivedDividends
) -> Iterator[_Column]:
    """Yield the columns of a total return with their values."""
    total = holding.total(received)
    if isinstance(row, Checkpoint):
        yield "benchmark_dividends", received.per_share
        yield "benchmark_total_return_pct", total
        yield "benchmark_spin_off_counted_once", received.spin_off_counted_once
        return
    benchmark = state.checkpoint(row.checkpoint_id).benchmark_total_return_pct
    if benchmark is None:
        raise LookupError("the benchmark's total return")
    yield "dividends", received.per_share
    yield "total_return_pct", total
    yield "vs_benchmark_total_pct", returns.subtract(total, benchmark)
    yield "spin_off_counted_once", received.spin_off_counted_once


def _holding_of(row: _Row, state: JournalState) -> _Holding:
    """Return what a holder of a row's share held; raises LookupError if a row is missing."""
    if isinstance(row, Checkpoint):
        return _holding_of_benchmark(row, state)
    return _holding_of_pick(row, state)


def _holding_of_benchmark(row: Checkpoint, state: JournalState) -> _Holding:
    batch = state.batch(row.batch_id)
    return _Holding(
        tickers=TickerHistory.unchanged(batch.benchmark_symbol),
        initial=_required(batch.benchmark_initial_price, "the benchmark's initial price"),
        current=_required(row.benchmark_price, "the benchmark's price"),
        factor=_required(row.benchmark_split_factor, "the benchmark's split factor"),
        basis=basis_date(state.close(batch.benchmark_initial_close_id)),
        after=_required_day(batch.trading_day),
        through=_required_day(row.trading_day),
    )


def _holding_of_pick(row: PickMetric, state: JournalState) -> _Holding:
    pick, checkpoint = state.pick(row.pick_id), state.checkpoint(row.checkpoint_id)
    batch = state.batch(pick.batch_id)
    through = _required_day(checkpoint.trading_day)
    # A later rename does not change the tickers of a figure.
    tickers = state.shares_of_metric.get(row.id) or state.shares[pick.id]
    if row.close_id is None:
        ending = state.endings.get(pick.id)
        if ending is None:
            raise LookupError(f"an ending of {pick.ticker}")
        through = min(through, ending.last_session)
    else:
        close = state.close(row.close_id)
        tickers = tickers.as_read(close.ticker, close.trading_day)
    return _Holding(
        tickers=tickers,
        initial=pick.initial_price,
        current=row.current_price,
        factor=row.split_factor,
        basis=basis_date(state.close(pick.initial_close_id)),
        after=_required_day(batch.trading_day),
        through=through,
    )


def _check_held(entry: ParsedEntry, state: JournalState, counted: set[Dividend]) -> None:
    """Raise Discrepancy unless an entry holds exactly the dividends that its rows count."""
    if entry.kind not in (JournalKind.EXTENSION, JournalKind.CORRECTION):
        return
    checkpoint = entry.first_row(Checkpoint)
    if entry.kind is JournalKind.CORRECTION and checkpoint is not None:
        # A correction may leave out rows that it does not change: their dividends count, too.
        for metric in state.metrics_at(checkpoint.id):
            if metric.has_totals and metric.id not in state.left_out:
                counted.update(_holding_of(metric, state).receive(state).counted)
        if checkpoint.id in state.left_out:
            return
    held = set(entry.rows(Dividend))
    for dividend in sorted(counted ^ held, key=lambda one: (one.ticker, one.ex_date)):
        problem = "its total returns count {}, which the entry does not hold"
        if dividend in held:
            problem = "the entry holds {}, but its total returns do not count this reading"
        raise discrepancy(
            Rule.TOTAL_RETURN,
            f"Entry {entry.seq} of the journal: {problem.format(state.name(dividend))}.",
        )


def _check_every_total(result: Checkpoint, state: JournalState, *, limit: datetime) -> None:
    """Raise Discrepancy if a total return is missing four weeks after its dividends were known."""
    rows: list[_Row] = [result]
    # A pick gets its total return together with the benchmark's, or later.
    if result.has_totals:
        rows = [metric for metric in state.metrics_at(result.id) if not metric.has_totals]
    for row in rows:
        known_at = _known_at(row, state)
        if known_at is None:
            continue
        known_at = max(known_at, state.completed_at[result.batch_id])
        if known_at <= limit - _UPGRADE_WINDOW:
            raise discrepancy(
                Rule.EVERY_TOTAL,
                f"{state.name(row)}: it has no total return, although its dividends have been "
                f"known since {known_at:%Y-%m-%d}.",
            )


def _known_at(row: _Row, state: JournalState) -> datetime | None:
    """Return since when the dividends of a row are known; None if they are not."""
    try:
        holding = _holding_of(row, state)
    except LookupError:
        return None
    if _find_unknown(holding, state) is not None:
        return None
    times: list[datetime] = []
    for period in holding.periods:
        responses: Sequence[DividendResponse] = state.dividend_responses[period.ticker]
        times.append(
            min(
                one.read_at
                for one in responses
                if calendar.new_york_date(one.read_at) > holding.through
            )
        )
        readings = _mentioned_in_force(state, [period.ticker])
        counted = dividends.between(readings, period.after, period.through)
        times += [one.read_at for one in counted]
    return max(times)


def _days_with_price(state: JournalState) -> dict[str, set[date]]:
    """Return the days for which a price of each benchmark was read."""
    days: dict[str, set[date]] = {}
    for batch in state.batches.values():
        days.setdefault(batch.benchmark_symbol, set())
    for close in state.all_closes():
        if close.ticker in days:
            days[close.ticker].add(close.trading_day)
    return days


def _dividends_in_force(state: JournalState, tickers: TickerHistory) -> list[Dividend]:
    readings: list[Dividend] = []
    for ticker in tickers.all_tickers:
        readings += state.dividends[ticker].values()
    return tickers.dividends_in_force(readings)


def _mentioned_in_force(state: JournalState, tickers: Iterable[str]) -> list[Dividend]:
    """Return the dividends in force of some tickers, whatever share has them."""
    in_force: list[Dividend] = []
    for ticker in tickers:
        in_force += _dividends_in_force(state, TickerHistory.unchanged(ticker))
    return in_force


def _splits_in_force(state: JournalState, tickers: TickerHistory) -> list[Split]:
    readings: list[Split] = []
    for ticker in tickers.all_tickers:
        readings += state.splits[ticker].values()
    return tickers.splits_in_force(readings)


def _required(value: Decimal | None, name: str) -> Decimal:
    if value is None:
        raise LookupError(name)
    return value


def _required_day(day: date | None) -> date:
    if day is None:
        raise LookupError("a trading day")
    return day


def _show(value: Decimal | bool | None) -> str:
    """Return a value for a message."""
    match value:
        case None:
            return "absent"
        case bool():
            return format_bool(value)
    return returns.format_decimal(value)
