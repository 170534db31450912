"""Under which ticker a share is read on which session: a renamed share has one ticker after another."""

import decimal
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from app.domain import splits
from app.domain.model import Close, Split
from app.domain.returns import CONTEXT


class Period(Struct, frozen=True):
    """
    The days from `first` to `last`, both included, on which a share has `tickers`.

    It has one ticker, unless the share was renamed without a date, as `pick rename` once did: then
    the readings of all of them count, and the last ticker is the one to ask for. `forced` says that
    the rename which began the period was not compared with the prices.
    """

    tickers: tuple[str, ...]
    first: date = date.min
    last: date = date.max
    forced: bool = False

    @property
    def ticker(self) -> str:
        """Return the ticker to ask for."""
        return self.tickers[-1]

    @property
    def before(self) -> date:
        """Return the day before the period; `date.min` if it has no first day."""
        return self.first if self.first == date.min else self.first - timedelta(days=1)


class Tickers(Struct, frozen=True):
    """The tickers of one share: periods without a gap, oldest first."""

    periods: tuple[Period, ...]

    @classmethod
    def only(cls, ticker: str) -> Self:
        """Return the tickers of a share that was never renamed."""
        return cls((Period((ticker,)),))

    def renamed(self, ticker: str, from_session: date | None, *, forced: bool = False) -> Self:
        """Return the tickers after a rename to `ticker` from a session on, or without a date."""
        *earlier, last = self.periods
        if from_session is None:
            return replace(self, periods=(*earlier, replace(last, tickers=(*last.tickers, ticker))))
        ended = replace(last, last=from_session - timedelta(days=1))
        return replace(self, periods=(*earlier, ended, Period((ticker,), first=from_session, forced=forced)))

    def period(self, day: date) -> Period:
        """Return the period that `day` belongs to."""
        return next(period for period in self.periods if day <= period.last)

    def at(self, session: date) -> str:
        """Return the ticker under which `session` is asked for."""
        return self.period(session).ticker

    def counts(self, ticker: str, day: date) -> bool:
        """Return whether a reading of `day` under `ticker` is one of this share."""
        return ticker in self.period(day).tickers

    def splits_of(self, readings: Iterable[Split]) -> list[Split]:
        """Return this share's splits in force, oldest first: of each day those under its ticker of that day."""
        return splits.in_force(one for one in readings if self.counts(one.ticker, one.effective_date))

    def as_read(self, ticker: str, session: date) -> Self:
        """
        Return the tickers as they were when `session` was read under `ticker`.

        A metric that was computed before a rename keeps its reading, and with it the splits that belong to it.
        """
        share = self
        while share.periods[1:] and not share.counts(ticker, session):
            *earlier, last = share.periods[:-1]
            share = replace(share, periods=(*earlier, replace(last, last=date.max)))
        return share

    def reaches(self, ticker: str, day: date) -> bool:
        """Return whether the share has `ticker` on `day` or later."""
        return any(ticker in period.tickers and day <= period.last for period in self.periods)

    @property
    def all(self) -> frozenset[str]:
        """Return every ticker that the share has or had."""
        return frozenset(ticker for period in self.periods for ticker in period.tickers)

    @property
    def since(self) -> date:
        """Return the session from which the share has its present ticker; `date.min` without a dated rename."""
        return self.periods[-1].first

    @property
    def forced_from(self) -> date | None:
        """Return the session of the first rename that was not compared with the prices."""
        return next((period.first for period in self.periods if period.forced), None)


class Fit(Struct, frozen=True):
    """
    Whether the closes under two tickers can be one share's.

    `old` is the last close under the old ticker; `first` is the first one under the new ticker from the
    session of the rename on, if there is one.
    """

    fits: bool
    old: Close
    first: Close | None


def fit(old: Sequence[Close], new: Sequence[Close], factors: Sequence[Split], from_session: date) -> Fit:
    """
    Compare the closes of a share before a rename with those under its new ticker.

    They fit if the provider moved the history to the new ticker: its last close before `from_session`
    is the old ticker's, to a cent. They also fit if the new ticker's first close since is less than a
    tenth away, after the splits (`factors`) of the new ticker since.
    """
    last = old[-1]
    first = next((one for one in new if one.trading_day >= from_session), None)
    same_session = [one for one in new if one.trading_day == last.trading_day]
    is_moved = any(abs(one.close - last.close) <= splits.ROUNDING for one in same_session)
    is_near = first is not None and _is_near(last, first, factors, from_session)
    return Fit(fits=is_moved or is_near, old=last, first=first)


def _is_near(last: Close, first: Close, factors: Sequence[Split], from_session: date) -> bool:
    counted = [one for one in factors if one.effective_date >= from_session]
    with decimal.localcontext(CONTEXT):
        price = first.close * splits.factor(counted, last.trading_day, first.trading_day)
    return not splits.is_large(last.close, price)
