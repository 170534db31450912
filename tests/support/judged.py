"""
What a checker of rehearsals uses: the series of the provider simulators, and its own arithmetic.
"""

from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import httpx


class Series(NamedTuple):
    """One ticker's closes and opens by session, and its splits."""

    closes: dict[date, str]
    opens: dict[date, str]
    splits: dict[date, Decimal]

    def factor(self, after: date, through: date) -> Decimal:
        """Return how many shares one became after a session, up to and including another."""
        product = Decimal(1)
        for day, factor in sorted(self.splits.items()):
            if after < day <= through:
                product *= factor
        return product


def series_of(url: str, ticker: str) -> Series:
    """Return the series of a ticker, as the simulators serve it to every client."""
    bars = _ask(url, ticker, "TIME_SERIES_DAILY")["Time Series (Daily)"]
    listed = _ask(url, ticker, "SPLITS")["data"]
    return Series(
        {date.fromisoformat(day): bar["4. close"] for day, bar in bars.items()},
        {date.fromisoformat(day): bar["1. open"] for day, bar in bars.items()},
        {date.fromisoformat(one["effective_date"]): _factor(one["split_factor"]) for one in listed},
    )


def _ask(url: str, ticker: str, function: str) -> Any:
    query = {"function": function, "symbol": ticker.replace(".", "-"), "apikey": "x"}
    return httpx.get(f"{url}/query", params=query).json()


def _factor(listed: str) -> Decimal:
    """Return a split's factor. A reverse split is rounded to four decimals: 0.0667 is 1:15."""
    return {"0.0667": Decimal(1) / 15, "0.3333": Decimal(1) / 3}.get(listed, Decimal(listed))
