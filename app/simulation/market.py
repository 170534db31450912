"""
A simulated market: real tickers and real sessions, with generated prices that look real.

Every price depends only on the ticker, the session and the arguments of `Market`, so the market is
the same in every process and every run. The move of a share is the move of the market times the
beta of the share, plus a random move. Prices are rounded to cents, as on an exchange.

The shares pay dividends (`app.simulation.dividends`), but these do not change the prices.
"""

from bisect import bisect_right
from collections import defaultdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import chain
from random import Random
from typing import NamedTuple

from msgspec import Struct

from app.core import universe
from app.domain.calendar import Calendar, new_york_date
from app.domain.splits import intended_factor
from app.simulation import dividends
from app.simulation.dividends import DeclaredDividend, PlannedDividend

# The chance of a split per share and session: higher than in reality, so that a split happens in a
# rehearsal of some weeks.
_SPLIT_CHANCE = 0.0025
# Factors of splits. Expensive shares have a split, cheap shares a reverse split, and others a
# spin-off.
_SPLIT_FACTORS = ("2.0000", "3.0000", "4.0000", "10.0000", "1.5000", "1.2500")
_REVERSE_SPLIT_FACTORS = ("0.5000", "0.1000", "0.0667", "0.3333")
_SPIN_OFF_FACTORS = ("1.2530", "1.1034")
_EXPENSIVE = 200
_CHEAP = 20
# The chance of a jump of the price per share and session.
_JUMP_CHANCE = 0.003

FIRST_DAY = date(2023, 1, 3)
BENCHMARK_TICKER = "SPY"


class MarketShare(Struct, frozen=True):
    """
    A share of the simulated market.

    `price` is the first price in dollars. `tailwind` is a reason that the simulated model gives for
    the share, and `headwind` a reason against the share.
    """

    name: str
    price: int
    beta: float
    tailwind: str
    headwind: str


# Ticker: name, first price, beta, tailwind, headwind.
_SHARES: dict[str, tuple[str, int, float, str, str]] = {
    BENCHMARK_TICKER: ("SPDR S&P 500", 380, 1.0, "", ""),
    "AAPL": (
        "Apple",
        125,
        1.1,
        "services growth and an early upgrade cycle",
        "soft handset demand in China",
    ),
    "MSFT": (
        "Microsoft",
        240,
        1.0,
        "steady cloud bookings",
        "capital spending that outpaces revenue",
    ),
    "NVDA": (
        "Nvidia",
        143,
        1.7,
        "data-center orders that exceed supply",
        "export limits and crowded positioning",
    ),
    "AMZN": ("Amazon", 86, 1.2, "widening retail margins", "slowing growth of its cloud"),
    "GOOGL": ("Alphabet", 89, 1.1, "resilient search advertising", "antitrust remedies still open"),
    "META": ("Meta Platforms", 125, 1.3, "rising ad prices", "heavy spending on headsets"),
    "BRK.B": ("Berkshire Hathaway", 309, 0.7, "a record cash position", "softer insurance pricing"),
    "JPM": (
        "JPMorgan Chase",
        135,
        1.0,
        "higher-for-longer net interest income",
        "normalising card losses",
    ),
    "V": ("Visa", 208, 0.9, "cross-border travel volumes", "regulatory pressure on fees"),
    "MA": ("Mastercard", 347, 0.9, "services attached to payments", "a demanding valuation"),
    "UNH": ("UnitedHealth", 490, 0.6, "scale in managed care", "rising medical-cost trends"),
    "LLY": ("Eli Lilly", 365, 0.5, "obesity-drug demand", "supply limits already in the price"),
    "JNJ": ("Johnson & Johnson", 177, 0.5, "a defensive earnings mix", "litigation overhang"),
    "MRK": ("Merck", 111, 0.5, "oncology growth", "patent expiry ahead"),
    "PFE": ("Pfizer", 51, 0.6, "cost cuts coming through", "a shrinking pandemic franchise"),
    "XOM": ("Exxon Mobil", 110, 0.9, "disciplined capital returns", "weak refining margins"),
    "CVX": ("Chevron", 180, 0.9, "Permian output growth", "falling crude prices"),
    "HD": ("Home Depot", 316, 1.0, "a recovering housing turnover", "deferred big-ticket projects"),
    "LOW": (
        "Lowe's",
        199,
        1.0,
        "gains with professional customers",
        "a weak do-it-yourself season",
    ),
    "COST": ("Costco", 456, 0.8, "membership renewal rates", "a multiple that leaves no room"),
    "WMT": (
        "Walmart",
        144,
        0.5,
        "share gains in groceries",
        "tariff exposure of general merchandise",
    ),
    "PG": ("Procter & Gamble", 152, 0.4, "pricing that sticks", "volume declines abroad"),
    "KO": ("Coca-Cola", 64, 0.5, "organic growth in emerging markets", "a strong dollar"),
    "PEP": ("PepsiCo", 181, 0.5, "productivity savings", "softening snack volumes"),
    "MCD": (
        "McDonald's",
        264,
        0.6,
        "a value menu that brings traffic",
        "stretched lower-income guests",
    ),
    "NKE": ("Nike", 118, 1.1, "cleaner inventories", "a slow product cycle"),
    "DIS": ("Disney", 88, 1.2, "streaming turning profitable", "soft park attendance"),
    "NFLX": ("Netflix", 295, 1.3, "paid sharing and an ad tier", "tough subscriber comparisons"),
    "CRM": ("Salesforce", 134, 1.2, "margin discipline", "longer sales cycles"),
    "ORCL": ("Oracle", 84, 1.0, "a swelling cloud backlog", "debt-funded capacity"),
    "ADBE": (
        "Adobe",
        336,
        1.2,
        "new tools priced into plans",
        "competition from generative newcomers",
    ),
    "AMD": ("AMD", 64, 1.7, "accelerator share gains", "a console business in decline"),
    "INTC": ("Intel", 26, 1.2, "foundry milestones", "lost server share"),
    "QCOM": ("Qualcomm", 110, 1.2, "premium handset content", "a large customer leaving"),
    "CAT": ("Caterpillar", 240, 1.1, "infrastructure spending", "dealer destocking"),
    "DE": ("Deere", 428, 1.0, "precision-farming revenue", "falling farm incomes"),
    "BA": ("Boeing", 190, 1.4, "a production ramp", "quality findings on the line"),
    "GE": ("GE Aerospace", 52, 1.1, "engine aftermarket demand", "supply-chain bottlenecks"),
    "UPS": ("UPS", 174, 0.9, "cost take-out", "low-margin volumes"),
}
SHARES = {ticker: MarketShare(*row) for ticker, row in _SHARES.items()}
# The first price in dollars and the beta of a share that is not in SHARES.
_OTHER_PRICES = (15, 500)
_OTHER_BETAS = (0.4, 1.7)


# Funds that only a benchmark may be: no model and no control picks them. They follow the market
# closely, with a small drift of their own.
_FUND_NAMES = {
    # Ticker: name, first price, beta.
    "RSP": ("Invesco S&P 500 Equal Weight", 141, 0.9),
    "IWM": ("iShares Russell 2000", 174, 1.2),
    "QQQ": ("Invesco QQQ", 266, 1.2),
    "VTI": ("Vanguard Total Stock Market", 191, 1.0),
}
_FUNDS = {
    ticker: MarketShare(name=name, price=price, beta=beta, tailwind="", headwind="")
    for ticker, (name, price, beta) in _FUND_NAMES.items()
}
_FUND_DRIFT = 0.003


@cache
def find_share(ticker: str) -> MarketShare | None:
    """
    Return a share of the market; None for an unknown ticker.

    The market has the shares of SHARES, which the simulated models choose from, some funds, and
    every other ticker of the universe, which a control draws from.
    """
    if ticker in SHARES:
        return SHARES[ticker]
    if ticker in _FUNDS:
        return _FUNDS[ticker]
    if ticker not in _universe():
        return None
    rng = Random(f"share/{ticker}")  # noqa: S311
    return MarketShare(
        name=ticker,
        price=rng.randint(*_OTHER_PRICES),
        beta=round(rng.uniform(*_OTHER_BETAS), 1),
        tailwind="",
        headwind="",
    )


@cache
def _universe() -> frozenset[str]:
    return frozenset(universe.load().tickers)


class MarketBar(NamedTuple):
    """
    One session of one share.

    Prices are rounded to cents, and written with four decimals as Alpha Vantage writes them.
    """

    open: str
    high: str
    low: str
    close: str
    volume: str


def alpha_vantage_bar(bar: MarketBar) -> dict[str, str]:
    """Return a bar with the member names of Alpha Vantage."""
    return {
        "1. open": bar.open,
        "2. high": bar.high,
        "3. low": bar.low,
        "4. close": bar.close,
        "5. volume": bar.volume,
    }


class Market:
    """
    The bars of every share, generated session by session.

    `split_chance` is the chance of a split per share and session. With a seed in `hostile`, the
    provider lists some dividends wrongly, at least for a while; the seed decides which. Prices,
    splits and the true dividends do not depend on it.
    """

    def __init__(
        self,
        calendar: Calendar,
        seed: str = "alpha monday",
        split_chance: float = _SPLIT_CHANCE,
        hostile: str = "",
    ) -> None:
        self.calendar = calendar
        self.seed = seed
        self.split_chance = split_chance
        self.hostile = hostile
        self._series: defaultdict[str, list[tuple[date, MarketBar]]] = defaultdict(list)
        self._splits: defaultdict[str, list[tuple[date, str]]] = defaultdict(list)

    def bars(self, ticker: str, last: date, count: int = 100) -> list[tuple[date, MarketBar]]:
        """
        Return the latest `count` sessions of `ticker` up to and including `last`, oldest first.
        """
        series = self._series[ticker]
        self._generate(ticker, last)
        end = bisect_right(series, last, key=lambda item: item[0])
        return series[max(0, end - count) : end]

    def splits(self, ticker: str, last: date) -> list[tuple[date, str]]:
        """
        Return the splits of `ticker` up to and including `last`, oldest first.

        Factors have four decimals, as the price provider writes them.
        """
        self._generate(ticker, last)
        return [(day, factor) for day, factor in self._splits[ticker] if day <= last]

    def true_dividends(self, ticker: str, last: date) -> list[DeclaredDividend]:
        """
        Return the dividends that `ticker` really paid, with ex-dates up to `last`, oldest first.

        `amount` is per share of the ex-date, as it was declared; no later split changes it. An
        ordinary and a special dividend may have the same ex-date: both count. The value of a
        spin-off is no dividend here: it is in the splits.

        A checker of total returns computes with these. They are what the provider lists in the end,
        except amounts that it restates for a later split, and spin-offs that it lists as dividends
        (see `dividend_fault`).
        """
        planned = dividends.plan_dividends(
            self.seed,
            ticker,
            is_benchmark=ticker == BENCHMARK_TICKER,
            calendar=self.calendar,
            first=FIRST_DAY,
            last=last,
        )
        return [self._declare(ticker, one) for one in planned]

    def dividends_known(self, ticker: str, on: datetime) -> list[dividends.Row]:
        """
        Return the rows that the provider lists for `ticker` at a time, newest first.

        They are the declared dividends, also those whose ex-date is up to 40 days ahead, in the
        provider's own form. Without `hostile`, they are all right. With it, they are what the
        provider lists on that day. A fault of a single request is not in them.
        """
        today = new_york_date(on)
        latest = today + dividends.DECLARED_AT_MOST_BEFORE
        rows: list[tuple[date, list[dividends.Row]]] = []
        for dividend in self.true_dividends(ticker, latest):
            if dividend.declared_on <= today:
                rows.append((dividend.ex_date, self._list_dividend(ticker, dividend, today)))
        if self.hostile:
            rows += self._list_withdrawn(ticker, today)
            rows += [(day, [row]) for day, row in self.spin_offs_as_dividends(ticker, today)]
        # Only the ex-dates are compared, so the rows of one ex-date keep their order.
        rows.sort(key=lambda item: item[0], reverse=True)
        return list(chain.from_iterable(several for _, several in rows))

    def dividend_fault(self, ticker: str, dividend: DeclaredDividend) -> str | None:
        """
        Return the fault with which the provider lists a dividend, or None.

        The name is one of `app.simulation.dividends.DIVIDENDS_LISTED_WRONGLY`, or RESTATED there.
        """
        if not self.hostile:
            return None
        soon = dividend.ex_date + dividends.RESTATED_WITHIN
        split_days = [day for day, _ in self.splits(ticker, soon)]
        return dividends.choose_fault(self.hostile, ticker, dividend, split_days=split_days)

    def spin_offs_as_dividends(
        self, ticker: str, last: date, *, every_split: bool = False
    ) -> list[tuple[date, dividends.Row]]:
        """
        Return the spin-offs up to `last` that a hostile provider lists as dividends, too.

        Each has its day, and its row: the amount is the value of what was spun off, per share. Half
        of the spin-offs are listed so; with `every_split`, all splits that increase the number of
        shares are.
        """
        listed = []
        for day, factor in self.splits(ticker, last):
            is_listed = factor in _SPIN_OFF_FACTORS and dividends.is_spin_off_listed(
                self.hostile, ticker, day
            )
            shares = Decimal(factor)
            if shares > 1 and (is_listed or every_split):
                price = self._close_before(ticker, day)
                row = dividends.make_spin_off_row(day, price * (1 - 1 / shares))
                listed.append((day, row))
        return listed

    def _declare(self, ticker: str, planned: PlannedDividend) -> DeclaredDividend:
        """Return a dividend with its amount: a part of the price when it was declared."""
        price = self._close_before(ticker, planned.declared_on)
        # The amount is per share of the ex-date.
        for day, factor in self.splits(ticker, planned.ex_date):
            if day >= planned.declared_on:
                price /= intended_factor(Decimal(factor))
        unit = Decimal((0, (1,), -planned.decimals))
        amount = max(unit, (price * planned.rate).quantize(unit))
        return DeclaredDividend(
            ex_date=planned.ex_date,
            declared_on=planned.declared_on,
            paid_on=planned.paid_on,
            amount=str(amount),
            is_special=planned.is_special,
        )

    def _close_before(self, ticker: str, day: date) -> Decimal:
        ((_, bar),) = self.bars(ticker, day - timedelta(days=1), count=1)
        return Decimal(bar.close)

    def _list_dividend(
        self, ticker: str, dividend: DeclaredDividend, today: date
    ) -> list[dividends.Row]:
        row = dividends.make_row(dividend, self.seed, ticker)
        fault = self.dividend_fault(ticker, dividend)
        if fault == dividends.RESTATED:
            return [self.restate_dividend(ticker, row, today)]
        if fault:
            return dividends.list_wrongly(fault, row, today=today, calendar=self.calendar)
        return [row]

    def restate_dividend(self, ticker: str, row: dividends.Row, today: date) -> dividends.Row:
        """Return a row with its amount divided by the factors of the splits from then to today."""
        ex_date = date.fromisoformat(row["ex_dividend_date"])
        factors = [
            intended_factor(Decimal(factor))
            for day, factor in self.splits(ticker, today)
            if day > ex_date
        ]
        return dividends.restate(row, factors) if factors else row

    def _list_withdrawn(self, ticker: str, today: date) -> list[tuple[date, list[dividends.Row]]]:
        # Every result depends on the benchmark, so its dividends are never withdrawn.
        if ticker == BENCHMARK_TICKER:
            return []
        planned = dividends.plan_withdrawn(
            self.hostile, ticker, calendar=self.calendar, first=FIRST_DAY, on=today
        )
        listed = [self._declare(ticker, one) for one in planned]
        return [(one.ex_date, [dividends.make_row(one, self.seed, ticker)]) for one in listed]

    def _generate(self, ticker: str, last: date) -> None:
        """Add the missing sessions of `ticker` up to and including `last`."""
        series = self._series[ticker]
        day, close = FIRST_DAY, None
        if series:
            newest, bar = series[-1]
            day, close = newest + timedelta(days=1), bar.close
        while day <= last:
            if self.calendar.is_session(day):
                bar = self._make_bar(ticker, day, close)
                series.append((day, bar))
                close = bar.close
            day += timedelta(days=1)

    def _make_bar(self, ticker: str, day: date, previous_close: str | None) -> MarketBar:
        share = find_share(ticker)
        assert share
        # Each bar has its own random generator. The order of the calls of `rng` must not change: in
        # another order, the same seed would give other prices.
        rng = Random(f"{self.seed}/{ticker}/{day}")  # noqa: S311
        is_benchmark = ticker == BENCHMARK_TICKER or ticker in _FUNDS
        drift = rng.gauss(0, _drift_of(ticker))
        if not is_benchmark and rng.random() < _JUMP_CHANCE:
            drift += rng.choice((-1, 1)) * rng.uniform(0.1, 0.35)
        move = share.beta * _market_move(self.seed, day) + drift

        last = float(previous_close or share.price)
        opening = last * (1 + move * rng.uniform(0.1, 0.6) + rng.gauss(0, 0.002))
        close = max(1.0, last * (1 + move))
        high = max(opening, close) * (1 + abs(rng.gauss(0, 0.004)))
        low = min(opening, close) * (1 - abs(rng.gauss(0, 0.004)))
        volume = rng.randrange(1_000_000, 60_000_000)

        prices = [opening, high, low, close]
        if not is_benchmark and rng.random() < self.split_chance:
            factor = rng.choice(_possible_factors(last))
            self._splits[ticker].append((day, factor))
            shares = float(intended_factor(Decimal(factor)))
            prices = [price / shares for price in prices]
        opening, high, low, close = prices
        return MarketBar(
            open=_cents(opening),
            high=_cents(high),
            low=_cents(low),
            close=_cents(close),
            volume=str(volume),
        )


def _drift_of(ticker: str) -> float:
    """Return the standard deviation of a share's own move in one session."""
    if ticker == BENCHMARK_TICKER:
        return 0.0
    return _FUND_DRIFT if ticker in _FUNDS else 0.011


def _possible_factors(price: float) -> tuple[str, ...]:
    """Return the factors of splits that suit a price."""
    if price > _EXPENSIVE:
        return _SPLIT_FACTORS
    if price < _CHEAP:
        return _REVERSE_SPLIT_FACTORS
    return _SPIN_OFF_FACTORS


def _cents(value: float) -> str:
    return f"{round(value, 2):.4f}"


@cache
def _market_move(seed: str, day: date) -> float:
    return Random(f"{seed}/market/{day}").gauss(0.0004, 0.008)  # noqa: S311
