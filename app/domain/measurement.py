"""
The figures of a checkpoint, computed from its prices and the splits since the baseline.

The same functions are used when a checkpoint is computed and when it is corrected, so that both
give the same figures. Formulas: docs/record.md#how-a-number-is-made.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import asdict, replace

from app.domain import dividends, returns, splits
from app.domain.dividends import ReceivedDividends
from app.domain.journal import to_text
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    Correction,
    Dividend,
    FurtherBenchmark,
    Pick,
    PickMetric,
    Split,
)
from app.domain.tickers import TickerHistory


class ShareHistory(Struct, frozen=True):
    """
    What the figures of a share depend on, in addition to its initial price and its current price.

    - `tickers`: the tickers of the share.
    - `splits`: its splits in force.
    - `dividends`: its dividends in force. Only total returns need them.
    - `used`: the readings that the batch's figures of this share use, by session. The sessions are
      the baseline session and those of the computed checkpoints.
    - `newest`: the newest reading of each session from the baseline session to day 14, oldest
      session first.
    - `entry_basis_date`: the basis date of the pick's entry open (see `splits.basis_date`), if the
      open is known.
    - `last_session`: the last session of a pick that ended; None if it did not end.
    """

    tickers: TickerHistory
    splits: Sequence[Split]
    used: Mapping[date, Close] = {}
    newest: Sequence[Close] = ()
    entry_basis_date: date | None = None
    last_session: date | None = None
    dividends: Sequence[Dividend] = ()

    def effective_session(self, session: date) -> date:
        """Return `session`, or the last session of an ended pick if that was earlier."""
        if self.last_session is None:
            return session
        return min(session, self.last_session)

    def basis_date(self, session: date) -> date:
        """
        Return the basis date of the price that is used for `session` (see `splits.basis_date`).

        A figure counts the splits after the basis date of the initial price, up to the basis date
        of the current price. The basis date is the session itself, unless the reading of the
        session is restated. If an ended pick's last session is earlier than `session`, the basis
        date is that last session.
        """
        last = self.effective_session(session)
        if last != session:
            return last
        reading = self.used.get(session)
        if reading is None:
            return last
        return splits.basis_date(reading.source, session)

    def with_used(self, *readings: Close) -> "ShareHistory":
        """Return a copy in which each of `readings` is the used reading of its session."""
        return replace(self, used={**self.used, **{one.trading_day: one for one in readings}})

    def is_unusual(self, session: date) -> bool:
        """
        Return whether the figure of `session` contains a move that no split explains.

        See `splits.has_unexplained_move`. A forced rename is recorded without a comparison of
        closes. So the prices after it may belong to another share, and every figure from the
        rename's first session on is marked.
        """
        forced_from = self.tickers.forced_from
        if forced_from is not None and forced_from <= session:
            return True

        through = self.effective_session(session)
        used = [self.used[day] for day in sorted(self.used) if day <= through]
        newest = [one for one in self.newest if one.trading_day <= through]
        # The moves of an ended pick are checked up to its last session. Its metrics have the
        # recorded value instead of a close, so `used` may lack the close of that session.
        if used and newest and newest[-1].trading_day > used[-1].trading_day:
            used.append(newest[-1])
        return splits.has_unexplained_move(used, self.splits, newest)


def measure_benchmark(batch: Batch, checkpoint: Checkpoint, history: ShareHistory) -> Checkpoint:
    """Return `checkpoint` with the figures that follow from its benchmark's price."""
    assert batch.benchmark_initial_price
    assert checkpoint.benchmark_price
    factor = splits.total_factor(
        history.splits,
        after=history.basis_date(_session(batch)),
        through=history.basis_date(_session(checkpoint)),
    )
    change = returns.return_pct(batch.benchmark_initial_price, checkpoint.benchmark_price, factor)
    return replace(
        checkpoint,
        benchmark_split_factor=factor,
        benchmark_return_pct=change,
        benchmark_unusual_move=history.is_unusual(_session(checkpoint)),
    )


def measure_pick(
    batch: Batch, checkpoint: Checkpoint, pick: Pick, price: Decimal, history: ShareHistory
) -> dict[str, Any]:
    """
    Return the columns of a pick's metric that follow from `price`, the current price of the pick.

    `checkpoint` must have the benchmark's figures already.
    """
    assert checkpoint.benchmark_return_pct is not None
    session = _session(checkpoint)
    factor = splits.total_factor(
        history.splits,
        after=history.basis_date(_session(batch)),
        through=history.basis_date(session),
    )
    figures = returns.measure_returns(
        initial=pick.initial_price,
        current=price,
        factor=factor,
        benchmark_return_pct=checkpoint.benchmark_return_pct,
    )
    return {
        "split_factor": factor,
        "absolute_return_pct": figures.absolute_return_pct,
        "vs_benchmark_pct": figures.vs_benchmark_pct,
        "return_from_open_pct": return_from_open(
            pick=pick, price=price, history=history, session=session
        ),
        "unusual_move": history.is_unusual(session),
    }


def return_from_open(
    pick: Pick, price: Decimal, history: ShareHistory, session: date
) -> Decimal | None:
    """Return a pick's change since its entry open, in percent; None while the open is unknown."""
    if pick.entry_open is None or history.entry_basis_date is None:
        return None
    factor = splits.total_factor(
        history.splits, after=history.entry_basis_date, through=history.basis_date(session)
    )
    return returns.return_pct(pick.entry_open, price, factor)


def receive_dividends(
    batch: Batch, checkpoint: Checkpoint, *, initial: Decimal, history: ShareHistory
) -> ReceivedDividends:
    """Return what a holder received between the baseline and a checkpoint's session."""
    baseline = _session(batch)
    return dividends.receive(
        history.dividends,
        initial=initial,
        factors=history.splits,
        basis=history.basis_date(baseline),
        after=baseline,
        through=history.effective_session(_session(checkpoint)),
    )


def total_of_benchmark(
    batch: Batch, checkpoint: Checkpoint, history: ShareHistory
) -> tuple[Checkpoint, list[Dividend]]:
    """
    Return `checkpoint`, which has the benchmark's figures, with the total return.

    Also return the dividends that it counts.
    """
    assert batch.benchmark_initial_price
    assert checkpoint.benchmark_price
    assert checkpoint.benchmark_split_factor
    received = receive_dividends(
        batch, checkpoint, initial=batch.benchmark_initial_price, history=history
    )
    total = dividends.total_return_pct(
        batch.benchmark_initial_price,
        checkpoint.benchmark_price,
        factor=checkpoint.benchmark_split_factor,
        received=received.per_share,
    )
    with_total = replace(
        checkpoint,
        benchmark_dividends=received.per_share,
        benchmark_total_return_pct=total,
        benchmark_spin_off_counted_once=received.spin_off_counted_once,
    )
    return with_total, received.counted


def total_of_pick(
    batch: Batch, checkpoint: Checkpoint, *, pick: Pick, metric: PickMetric, history: ShareHistory
) -> tuple[PickMetric, list[Dividend]]:
    """
    Return `metric`, which has its price figures, with the total return.

    `checkpoint` must have the benchmark's total return already. Also return the dividends that the
    total return of the pick counts.
    """
    assert checkpoint.benchmark_total_return_pct is not None
    received = receive_dividends(batch, checkpoint, initial=pick.initial_price, history=history)
    total = dividends.total_return_pct(
        pick.initial_price,
        metric.current_price,
        factor=metric.split_factor,
        received=received.per_share,
    )
    excess = returns.subtract(total, checkpoint.benchmark_total_return_pct)
    with_total = replace(
        metric,
        dividends=received.per_share,
        total_return_pct=total,
        vs_benchmark_total_pct=excess,
        spin_off_counted_once=received.spin_off_counted_once,
    )
    return with_total, received.counted


def _session(row: Batch | Checkpoint) -> date:
    assert row.trading_day, "a row without prices has no figures"
    return row.trading_day


def counted_splits(
    batch: Batch, checkpoint: Checkpoint, histories: Iterable[ShareHistory]
) -> list[Split]:
    """Return the readings of splits that the figures of a checkpoint count."""
    counted: list[Split] = []
    for history in histories:
        counted += splits.effective_between(
            history.splits,
            after=history.basis_date(_session(batch)),
            through=history.basis_date(_session(checkpoint)),
        )
    return counted


def not_before_readings(
    at: datetime, readings: Iterable[Close], counted: Iterable[Split | Dividend]
) -> datetime:
    """
    Return the later of two times: `at`, and the time of the newest reading that the figures use.

    Readings of splits and dividends are included. A reading can be newer than `at`: while a
    transaction waits for the lock of its batch, another process may store a reading, and the
    transaction then uses it.
    """
    return max([at, *(one.read_at for one in readings), *(one.read_at for one in counted)])


MeasuredRow = Batch | Pick | Checkpoint | PickMetric | FurtherBenchmark
# `with_changes` returns a row of the same type as its arguments.
R = TypeVar("R", Batch, Pick, Checkpoint, PickMetric, FurtherBenchmark)


def with_changes(stored: R, expected: R) -> R:
    """
    Return `stored` with the columns of `expected` that differ.

    If a value is equal but is written in another form, such as 1.0 and 1.00, its stored form stays.
    """
    changed = {
        name: value for name, value in asdict(expected).items() if getattr(stored, name) != value
    }
    return replace(stored, **changed)


def build_corrections(
    rows: Iterable[tuple[MeasuredRow, MeasuredRow, str | None]],
    checkpoint: Checkpoint,
    reason: str,
    at: datetime,
) -> list[Correction]:
    """
    Return one correction for each column that changes.

    `rows` are triples: a row as it is stored, the row as it must be, and the ticker of its pick or
    its further benchmark (None for a batch or a checkpoint).
    """
    corrections = []
    for stored, expected, ticker in rows:
        for field, before in asdict(stored).items():
            after = getattr(expected, field)
            if after == before:
                continue
            correction = Correction(
                id=uuid4(),
                checkpoint_id=checkpoint.id,
                field=field,
                ticker=ticker,
                before=to_text(before),
                after=to_text(after),
                reason=reason,
                made_at=at,
            )
            corrections.append(correction)
    return corrections
