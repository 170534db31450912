"""
A market that never was: real tickers, real sessions, made-up prices that look real.

Every price hangs on nothing but the seed, the ticker and the session, so that two processes, or two runs, see the same
market. A share follows the market by its beta and goes its own way besides; prices are cents, as exchanges write them.
"""

from bisect import bisect_right
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from random import Random
from typing import NamedTuple

from msgspec import Struct

from app.domain.calendar import Calendar
from app.domain.splits import meant

# How often a share is split, more often than in life so that a rehearsal sees it, and how: dear ones into more shares,
# cheap ones into fewer, others by a spin-off. And how often a share jumps.
_OFTEN = 0.0025
_DEAR = ("2.0000", "3.0000", "4.0000", "10.0000", "1.5000", "1.2500")
_CHEAP = ("0.5000", "0.1000", "0.0667", "0.3333")
_SPUN_OFF = ("1.2530", "1.1034")
_JUMPS = 0.003

BEGIN = date(2023, 1, 3)
MARKET = "SPY"


class Share(Struct, frozen=True):
    """A company of the made-up market; `tailwind` and `headwind` are what a model would say of it."""

    name: str
    price: int
    beta: float
    tailwind: str
    headwind: str


SHARES = {
    MARKET: Share("SPDR S&P 500", 380, 1.0, "", ""),
    "AAPL": Share("Apple", 125, 1.1, "services growth and an early upgrade cycle", "soft handset demand in China"),
    "MSFT": Share("Microsoft", 240, 1.0, "steady cloud bookings", "capital spending that outpaces revenue"),
    "NVDA": Share("Nvidia", 143, 1.7, "data-center orders that exceed supply", "export limits and crowded positioning"),
    "AMZN": Share("Amazon", 86, 1.2, "widening retail margins", "slowing growth of its cloud"),
    "GOOGL": Share("Alphabet", 89, 1.1, "resilient search advertising", "antitrust remedies still open"),
    "META": Share("Meta Platforms", 125, 1.3, "rising ad prices", "heavy spending on headsets"),
    "BRK.B": Share("Berkshire Hathaway", 309, 0.7, "a record cash position", "softer insurance pricing"),
    "JPM": Share("JPMorgan Chase", 135, 1.0, "higher-for-longer net interest income", "normalising card losses"),
    "V": Share("Visa", 208, 0.9, "cross-border travel volumes", "regulatory pressure on fees"),
    "MA": Share("Mastercard", 347, 0.9, "services attached to payments", "a demanding valuation"),
    "UNH": Share("UnitedHealth", 490, 0.6, "scale in managed care", "rising medical-cost trends"),
    "LLY": Share("Eli Lilly", 365, 0.5, "obesity-drug demand", "supply limits already in the price"),
    "JNJ": Share("Johnson & Johnson", 177, 0.5, "a defensive earnings mix", "litigation overhang"),
    "MRK": Share("Merck", 111, 0.5, "oncology growth", "patent expiry ahead"),
    "PFE": Share("Pfizer", 51, 0.6, "cost cuts coming through", "a shrinking pandemic franchise"),
    "XOM": Share("Exxon Mobil", 110, 0.9, "disciplined capital returns", "weak refining margins"),
    "CVX": Share("Chevron", 180, 0.9, "Permian output growth", "falling crude prices"),
    "HD": Share("Home Depot", 316, 1.0, "a recovering housing turnover", "deferred big-ticket projects"),
    "LOW": Share("Lowe's", 199, 1.0, "gains with professional customers", "a weak do-it-yourself season"),
    "COST": Share("Costco", 456, 0.8, "membership renewal rates", "a multiple that leaves no room"),
    "WMT": Share("Walmart", 144, 0.5, "share gains in groceries", "tariff exposure of general merchandise"),
    "PG": Share("Procter & Gamble", 152, 0.4, "pricing that sticks", "volume declines abroad"),
    "KO": Share("Coca-Cola", 64, 0.5, "organic growth in emerging markets", "a strong dollar"),
    "PEP": Share("PepsiCo", 181, 0.5, "productivity savings", "softening snack volumes"),
    "MCD": Share("McDonald's", 264, 0.6, "a value menu that brings traffic", "stretched lower-income guests"),
    "NKE": Share("Nike", 118, 1.1, "cleaner inventories", "a slow product cycle"),
    "DIS": Share("Disney", 88, 1.2, "streaming turning profitable", "soft park attendance"),
    "NFLX": Share("Netflix", 295, 1.3, "paid sharing and an ad tier", "tough subscriber comparisons"),
    "CRM": Share("Salesforce", 134, 1.2, "margin discipline", "longer sales cycles"),
    "ORCL": Share("Oracle", 84, 1.0, "a swelling cloud backlog", "debt-funded capacity"),
    "ADBE": Share("Adobe", 336, 1.2, "new tools priced into plans", "competition from generative newcomers"),
    "AMD": Share("AMD", 64, 1.7, "accelerator share gains", "a console business in decline"),
    "INTC": Share("Intel", 26, 1.2, "foundry milestones", "lost server share"),
    "QCOM": Share("Qualcomm", 110, 1.2, "premium handset content", "a large customer leaving"),
    "CAT": Share("Caterpillar", 240, 1.1, "infrastructure spending", "dealer destocking"),
    "DE": Share("Deere", 428, 1.0, "precision-farming revenue", "falling farm incomes"),
    "BA": Share("Boeing", 190, 1.4, "a production ramp", "quality findings on the line"),
    "GE": Share("GE Aerospace", 52, 1.1, "engine aftermarket demand", "supply-chain bottlenecks"),
    "UPS": Share("UPS", 174, 0.9, "cost take-out", "low-margin volumes"),
}


class Bar(NamedTuple):
    """One session of one share, as exchanges write it."""

    open: str
    high: str
    low: str
    close: str
    volume: str


def as_listed(bar: Bar) -> dict[str, str]:
    """Return a bar under the names that the price provider gives its members."""
    return {
        "1. open": bar.open,
        "2. high": bar.high,
        "3. low": bar.low,
        "4. close": bar.close,
        "5. volume": bar.volume,
    }


class Market:
    """The bars of every share, session by session; `splits_often` is the chance of a split per share and session."""

    def __init__(self, calendar: Calendar, seed: str = "alpha monday", splits_often: float = _OFTEN) -> None:
        self.calendar, self.seed, self.splits_often = calendar, seed, splits_often
        self._series: dict[str, list[tuple[date, Bar]]] = {ticker: [] for ticker in SHARES}
        self._splits: dict[str, list[tuple[date, str]]] = {ticker: [] for ticker in SHARES}

    def bars(self, ticker: str, last: date, count: int = 100) -> list[tuple[date, Bar]]:
        """Return the latest `count` sessions of `ticker` up to and including `last`, oldest first."""
        series = self._series[ticker]
        day = series[-1][0] + timedelta(days=1) if series else BEGIN
        while day <= last:
            if self.calendar.is_session(day):
                series.append((day, self._bar(ticker, day, series[-1][1].close if series else None)))
            day += timedelta(days=1)
        end = bisect_right(series, last, key=lambda item: item[0])
        return series[max(0, end - count) : end]

    def splits(self, ticker: str, last: date) -> list[tuple[date, str]]:
        """Return the splits of `ticker` up to and including `last`, oldest first, with factors of four decimals."""
        self.bars(ticker, last)
        return [(day, factor) for day, factor in self._splits[ticker] if day <= last]

    def _bar(self, ticker: str, day: date, before: str | None) -> Bar:
        share, own = SHARES[ticker], Random(f"{self.seed}/{ticker}/{day}")  # noqa: S311
        drift = own.gauss(0, 0.011 if ticker != MARKET else 0.0)
        if ticker != MARKET and own.random() < _JUMPS:
            drift += own.choice((-1, 1)) * own.uniform(0.1, 0.35)
        move = share.beta * _market_move(self.seed, day) + drift
        last = float(before) if before else float(share.price)
        opened = last * (1 + move * own.uniform(0.1, 0.6) + own.gauss(0, 0.002))
        closed = max(1.0, last * (1 + move))
        high = max(opened, closed) * (1 + abs(own.gauss(0, 0.004)))
        low = min(opened, closed) * (1 - abs(own.gauss(0, 0.004)))
        volume = own.randrange(1_000_000, 60_000_000)
        if ticker != MARKET and own.random() < self.splits_often:
            said = own.choice(_DEAR if last > 200 else _CHEAP if last < 20 else _SPUN_OFF)
            self._splits[ticker].append((day, said))
            shares = float(meant(Decimal(said)))
            opened, high, low, closed = opened / shares, high / shares, low / shares, closed / shares
        return Bar(_cents(opened), _cents(high), _cents(low), _cents(closed), str(volume))


def _cents(value: float) -> str:
    return f"{round(value, 2):.4f}"


@cache
def _market_move(seed: str, day: date) -> float:
    return Random(f"{seed}/market/{day}").gauss(0.0004, 0.008)  # noqa: S311
