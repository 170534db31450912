"""
How the figures of a checkpoint follow from its prices and the splits since the baseline
(docs/record.md#how-a-number-is-made).

Used when a checkpoint is computed and when it is corrected, so that both come to the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import asdict, replace

from app.domain import returns, splits
from app.domain.journal import written
from app.domain.model import Batch, Checkpoint, Close, Correction, Pick, PickMetric, Split
from app.domain.tickers import Tickers


class Course(Struct, frozen=True):
    """
    What a ticker's figures depend on besides two prices.

    `splits` are in force. `used` are the readings that the batch's figures rest on, by session: that of the baseline
    and those of the computed checkpoints. `newest` are the newest readings of the fortnight's sessions. `entry_day` is
    the day of whose shares the pick's open is, if that is known; `last_session` is an ended pick's; `tickers` are the
    share's.
    """

    tickers: Tickers
    splits: Sequence[Split]
    used: Mapping[date, Close] = {}
    newest: Sequence[Close] = ()
    entry_day: date | None = None
    last_session: date | None = None

    def last(self, session: date) -> date:
        """Return `session`, or an ended pick's last one if that was before."""
        return min(session, self.last_session or session)

    def shares_at(self, session: date) -> date:
        """
        Return the day of whose shares the price of `session` is, which splits count from or up to.

        That is the session itself, unless its reading was restated (see `splits.shares_of`); an ended pick had no
        splits after its last session.
        """
        last = self.last(session)
        reading = self.used.get(session) if last == session else None
        return splits.shares_of(reading.source, session) if reading else last

    def using(self, *readings: Close) -> "Course":
        """Return this course with the readings that the figures of their sessions are to rest on."""
        return replace(self, used={**self.used, **{one.trading_day: one for one in readings}})

    def is_unusual(self, session: date) -> bool:
        """
        Return whether the figure of `session` holds a move that no split explains (see `splits.unexplained`).

        Its price may also be another share's, because a rename was forced; then it is marked whatever the prices say.
        """
        if self.tickers.forced_from is not None and self.tickers.forced_from <= session:
            return True
        through = self.last(session)
        used = [self.used[day] for day in sorted(self.used) if day <= through]
        newest = [one for one in self.newest if one.trading_day <= through]
        if used and newest and newest[-1].trading_day > used[-1].trading_day:
            used.append(newest[-1])  # an ended pick's last session, of which no checkpoint has the close
        return splits.unexplained(used, self.splits, newest)


def of_benchmark(batch: Batch, checkpoint: Checkpoint, course: Course) -> Checkpoint:
    """Return `checkpoint` with the figures that follow from its benchmark's price."""
    assert batch.benchmark_initial_price
    assert checkpoint.benchmark_price
    factor = splits.factor(course.splits, course.shares_at(_session(batch)), course.shares_at(_session(checkpoint)))
    change = returns.return_pct(batch.benchmark_initial_price, checkpoint.benchmark_price, factor)
    return replace(
        checkpoint,
        benchmark_split_factor=factor,
        benchmark_return_pct=change,
        benchmark_unusual_move=course.is_unusual(_session(checkpoint)),
    )


def of_pick(batch: Batch, checkpoint: Checkpoint, pick: Pick, price: Decimal, course: Course) -> dict[str, Any]:
    """Return the columns of a pick's metric that follow from its price, the benchmark's figures being there."""
    session = _session(checkpoint)
    factor = splits.factor(course.splits, course.shares_at(_session(batch)), course.shares_at(session))
    assert checkpoint.benchmark_return_pct is not None
    measure = returns.measure(pick.initial_price, price, factor, checkpoint.benchmark_return_pct)
    return {
        "split_factor": factor,
        "absolute_return_pct": measure.absolute_return_pct,
        "vs_benchmark_pct": measure.vs_benchmark_pct,
        "return_from_open_pct": from_open(pick, price, course, session),
        "unusual_move": course.is_unusual(session),
    }


def from_open(pick: Pick, price: Decimal, course: Course, session: date) -> Decimal | None:
    """Return a pick's change in percent since its open, or None while that is not known."""
    if pick.entry_open is None or course.entry_day is None:
        return None
    factor = splits.factor(course.splits, course.entry_day, course.shares_at(session))
    return returns.return_pct(pick.entry_open, price, factor)


def _session(row: Batch | Checkpoint) -> date:
    assert row.trading_day, "without prices there are no figures"
    return row.trading_day


def splits_counted(batch: Batch, checkpoint: Checkpoint, courses: Iterable[Course]) -> list[Split]:
    """Return the readings of splits that the figures of a checkpoint count on."""
    return [
        split
        for course in courses
        for split in splits.between(
            course.splits, course.shares_at(_session(batch)), course.shares_at(_session(checkpoint))
        )
    ]


def not_before(at: datetime, readings: Iterable[Close], counted: Iterable[Split]) -> datetime:
    """Return `at`, or when the newest of the readings and splits that figures rest on was read, if that was later."""
    return max([at, *(one.read_at for one in readings), *(one.read_at for one in counted)])


Row = Batch | Pick | Checkpoint | PickMetric
R = TypeVar("R", Batch, Pick, Checkpoint, PickMetric)


def only_changed(stood: R, should: R) -> R:
    """Return `stood` with the columns that differ: a value that only is written otherwise stays as it is."""
    return replace(stood, **{name: value for name, value in asdict(should).items() if getattr(stood, name) != value})


def corrections(
    rows: Iterable[tuple[Row, Row, str | None]], checkpoint: Checkpoint, reason: str, at: datetime
) -> list[Correction]:
    """Return a correction for each column in which a row, as it stood and as it should be, differs; with its ticker."""
    return [
        Correction(
            id=uuid4(),
            checkpoint_id=checkpoint.id,
            field=field,
            ticker=ticker,
            before=written(before),
            after=written(after),
            reason=reason,
            made_at=at,
        )
        for stood, should, ticker in rows
        for field, before in asdict(stood).items()
        if (after := getattr(should, field)) != before
    ]
