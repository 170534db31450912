"""The ticker of a share on each session: a renamed share has one ticker after another."""

import decimal
import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from app.domain import dividends, splits
from app.domain.dividends import DividendPeriod
from app.domain.model import Close, Dividend, Split
from app.domain.returns import DECIMAL_CONTEXT

_DAY = timedelta(days=1)


class TickerPeriod(Struct, frozen=True):
    """
    The days from `first` to `last`, both included, on which a share has `tickers`.

    `tickers` has one item, with one exception: earlier versions of `pick rename` recorded renames
    without a date. After such a rename, the old and the new ticker belong to the same period: the
    readings of both count, and requests use the new one, which comes last. `forced` says that the
    period begins with a forced rename: the closes under the tickers before and after the rename
    were not compared.
    """

    tickers: tuple[str, ...]
    first: date = date.min
    last: date = date.max
    forced: bool = False

    @property
    def ticker(self) -> str:
        """Return the ticker to request."""
        return self.tickers[-1]

    @property
    def before(self) -> date:
        """Return the day before the period; `date.min` if it has no first day."""
        if self.first == date.min:
            return self.first
        return self.first - _DAY


class TickerHistory(Struct, frozen=True):
    """The tickers of one share: periods without a gap, oldest first."""

    periods: tuple[TickerPeriod, ...]

    @classmethod
    def unchanged(cls, ticker: str) -> Self:
        """Return the history of a share that was never renamed."""
        return cls((TickerPeriod((ticker,)),))

    def with_rename(self, ticker: str, from_session: date | None, *, forced: bool = False) -> Self:
        """
        Return this history with a rename to `ticker`, from a session on.

        Without a session, as in entries of earlier versions, the ticker joins the last period.
        """
        *earlier, last = self.periods
        if from_session is None:
            both = replace(last, tickers=(*last.tickers, ticker))
            return replace(self, periods=(*earlier, both))
        ended = replace(last, last=from_session - _DAY)
        current = TickerPeriod((ticker,), first=from_session, forced=forced)
        return replace(self, periods=(*earlier, ended, current))

    def period(self, day: date) -> TickerPeriod:
        """Return the period that `day` belongs to."""
        return next(period for period in self.periods if day <= period.last)

    def ticker_on(self, session: date) -> str:
        """Return the ticker under which `session` is requested."""
        return self.period(session).ticker

    def is_ticker_on(self, ticker: str, day: date) -> bool:
        """Return whether a reading of `day` under `ticker` belongs to this share."""
        return ticker in self.period(day).tickers

    def splits_in_force(self, readings: Iterable[Split]) -> list[Split]:
        """
        Return the newest reading of each of this share's splits, oldest split first.

        A reading counts only if the share has the reading's ticker on its effective date. If the
        provider took back a split, its newest reading has the factor 1.
        """
        return splits.newest_by_effective_date(
            one for one in readings if self.is_ticker_on(one.ticker, one.effective_date)
        )

    def dividends_in_force(self, readings: Iterable[Dividend]) -> list[Dividend]:
        """
        Return the newest reading of each of this share's dividends, oldest ex-date first.

        A reading counts only if the share has the reading's ticker on its ex-date. If the provider
        took back a dividend, its newest reading has the amount 0.
        """
        return dividends.newest_by_ex_date(
            one for one in readings if self.is_ticker_on(one.ticker, one.ex_date)
        )

    def dividend_periods(self, after: date, through: date) -> list[DividendPeriod]:
        """
        Return the days after `after`, up to and including `through`, with the share's ticker.

        Each item is a period with one ticker to request.
        """
        return [
            DividendPeriod(
                ticker=period.ticker,
                after=max(after, period.before),
                through=min(through, period.last),
            )
            for period in self.periods
            if period.first <= through and period.last > after
        ]

    def as_read(self, ticker: str, session: date) -> Self:
        """
        Return the history as it was when `session` was read under `ticker`.

        A metric that was computed before a rename keeps its reading. So it also keeps the splits
        that belong to that reading. Renames are undone, the last one first, until the share has
        `ticker` on `session`, or no rename is left.
        """
        history = self
        while len(history.periods) > 1 and not history.is_ticker_on(ticker, session):
            *earlier, last = history.periods[:-1]
            history = replace(history, periods=(*earlier, replace(last, last=date.max)))
        return history

    def has_ticker_since(self, ticker: str, day: date) -> bool:
        """Return whether the share has `ticker` on `day` or later."""
        return any(ticker in period.tickers and day <= period.last for period in self.periods)

    @property
    def all_tickers(self) -> frozenset[str]:
        """Return every ticker that the share has or had."""
        return frozenset[str]().union(*(period.tickers for period in self.periods))

    @property
    def renamed_from(self) -> date:
        """Return the first session of the present ticker; `date.min` without a dated rename."""
        return self.periods[-1].first

    @property
    def forced_from(self) -> date | None:
        """Return the first session of the first forced rename; None without one."""
        return next((period.first for period in self.periods if period.forced), None)


class CloseComparison(Struct, frozen=True):
    """
    Whether the closes under two tickers can belong to one share.

    `old` is the last close under the old ticker. `first` is the first close under the new ticker
    on or after the session of the rename, if there is one.
    """

    fits: bool
    old: Close
    first: Close | None


def compare_closes(
    old: Sequence[Close], new: Sequence[Close], factors: Sequence[Split], from_session: date
) -> CloseComparison:
    """
    Compare the closes of a share before a rename with those under its new ticker.

    `old` and `new` are closes by session, oldest first; `old` has at least one. `factors` are the
    splits of the new ticker. Only the last old close is compared. The closes fit in two cases:

    - The provider has moved the history of the share to the new ticker: in the session of the last
      old close, the new ticker has a close that differs from it by a cent at most.
    - The new ticker's first close on or after `from_session` differs from the last old close by
      less than 10 %. Splits from `from_session` on are counted.

    Definition: docs/journal.md#closes-that-fit.
    """
    last = old[-1]
    first = next((one for one in new if one.trading_day >= from_session), None)

    same_session = [one for one in new if one.trading_day == last.trading_day]
    is_moved = any(abs(one.close - last.close) <= splits.ROUNDING_TOLERANCE for one in same_session)
    is_near = first is not None and _is_near(
        last, first, factors=factors, from_session=from_session
    )
    return CloseComparison(fits=is_moved or is_near, old=last, first=first)


def _is_near(last: Close, first: Close, *, factors: Sequence[Split], from_session: date) -> bool:
    counted = [one for one in factors if one.effective_date >= from_session]
    with decimal.localcontext(DECIMAL_CONTEXT):
        factor = splits.total_factor(counted, last.trading_day, first.trading_day)
        price = first.close * factor
    return not splits.is_large_change(last.close, price)


def names_ticker(sentence: str, ticker: str) -> bool:
    """
    Return whether a sentence contains a ticker as a word of its own.

    A part of another ticker or of a word does not count: a text with BRK.B does not name BRK, and
    "Alpha Vantage" names neither A nor V.
    """
    word = rf"(?<![A-Za-z.]){re.escape(ticker)}(?![A-Za-z])(?!\.[A-Z]\b)"
    return re.search(word, sentence) is not None
