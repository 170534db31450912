"""Which readings of a share were the newest at a time."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from app.domain.model import Close
from app.domain.tickers import Tickers


def newest_of(
    share: Tickers,
    closes: Mapping[str, Sequence[Close]],
    first: date,
    last: date,
    until: datetime,
) -> dict[date, Close]:
    """
    Return the newest readings of a share up to a time, by session, from the day `first` to `last`.

    `closes` are readings by ticker. Each session counts under the ticker that the share has on it; of several, under
    the last one that has a reading.
    """
    newest: dict[date, Close] = {}
    for period in share.periods:
        for ticker in period.tickers:
            of_ticker: dict[date, Close] = {}
            for close in closes.get(ticker, ()):
                day = close.trading_day
                if not max(first, period.first) <= day <= min(last, period.last) or close.read_at > until:
                    continue
                if day not in of_ticker or of_ticker[day].read_at < close.read_at:
                    of_ticker[day] = close
            newest |= of_ticker
    return newest
