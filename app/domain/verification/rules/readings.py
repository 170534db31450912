"""Which readings of a share were the newest at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime

from app.domain.model import Close
from app.domain.tickers import TickerHistory


def newest_readings(
    share: TickerHistory,
    closes: Mapping[str, Sequence[Close]],
    *,
    first: date,
    last: date,
    until: datetime,
) -> dict[date, Close]:
    """
    Return the newest readings of a share by session, for the sessions from `first` to `last`.

    `closes` are readings by ticker; those that were read after `until` do not count. A reading
    counts only under the ticker that the share has on the day of the session. If the share has
    several tickers on that day (a rename without a date), the last of them that has a reading of
    the session counts.
    """
    newest: dict[date, Close] = {}
    for period in share.periods:
        begin, end = max(first, period.first), min(last, period.last)
        for ticker in period.tickers:
            readings = _in_range(closes.get(ticker, ()), begin=begin, end=end, until=until)
            # If a period has several tickers, readings under a later ticker replace those of the
            # same session under an earlier ticker.
            newest |= _newest_by_session(readings)
    return newest


def _in_range(
    closes: Iterable[Close], *, begin: date, end: date, until: datetime
) -> Iterator[Close]:
    for close in closes:
        if begin <= close.trading_day <= end and close.read_at <= until:
            yield close


def _newest_by_session(closes: Iterable[Close]) -> dict[date, Close]:
    newest: dict[date, Close] = {}
    for close in closes:
        known = newest.get(close.trading_day)
        if known is None or known.read_at < close.read_at:
            newest[close.trading_day] = close
    return newest
