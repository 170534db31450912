"""
Simulated records of several series in one market, for the yearly check.

The market moves by a normal return each week. A share moves by the rate without risk, by beta times
what the market does beyond this rate, and by something of its own (Student's t with five degrees of
freedom, so that single weeks are wild). All series of a record see the same shares, so their weeks
are not independent. Figures are in percent of the initial price, as the record's are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from app.domain.yearly_check import BatchResult, PickResult

FIRST = date(2020, 1, 6)
SHARES = 40
# In percent a week.
RATE = 0.08
DRIFT = 0.2
VOLATILITY = 2.2
OWN_VOLATILITY = 3.5

# Returns whether the reading of a pick's middle and of its result is withheld: arrays of the same
# shape, from the alphas at the middle and at the result.
Withhold = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def withhold_nothing(middles: np.ndarray, results: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(middles, dtype=bool), np.zeros_like(results, dtype=bool)


@dataclass(frozen=True)
class SimulatedSeries:
    """
    How a series picks.

    `skill_pct` is what it knows beforehand of each week's own move of a share, in percent. `buys`
    is how probable a BUY is. If `beta` is set, its shares have this beta, whatever they are.
    `withhold` chooses the readings that are missing.
    """

    skill_pct: float = 0.0
    buys: float = 0.5
    beta: float | None = None
    own_volatility: float = OWN_VOLATILITY
    withhold: Withhold = field(default=withhold_nothing)


def simulate(series: Sequence[SimulatedSeries], seed: int, mondays: int) -> list[list[BatchResult]]:
    """Return the batches of each series over so many Mondays of one market."""
    random = np.random.default_rng(seed)
    market = random.normal(DRIFT, VOLATILITY, mondays + 1)
    betas = 0.5 + np.arange(SHARES) % 11 / 10
    own = random.standard_t(5, (SHARES, mondays + 1)) / np.sqrt(5 / 3)
    return [_batches(one, random, market, betas, own) for one in series]


def _batches(
    series: SimulatedSeries,
    random: np.random.Generator,
    market: np.ndarray,
    betas: np.ndarray,
    own: np.ndarray,
) -> list[BatchResult]:
    mondays = len(market) - 1
    shares = random.random((mondays, SHARES)).argsort(axis=1)[:, :3]
    signs = np.where(random.random((mondays, 3)) < series.buys, 1, -1)
    of_share = betas[shares] if series.beta is None else np.full((mondays, 3), series.beta)

    def moves(offset: int) -> np.ndarray:
        week = np.arange(mondays)[:, None] + offset
        beyond_rate = of_share * (market[week] - RATE)
        return RATE + beyond_rate + series.own_volatility * own[shares, week] + skill

    skill = signs * series.skill_pct
    first, second = moves(0), moves(1)
    market_first, market_both = market[:-1], _both(market[:-1], market[1:])
    middles = signs * (first - market_first[:, None])
    results = signs * (_both(first, second) - market_both[:, None])
    no_middle, no_result = series.withhold(middles, results)
    batches = []
    for week in range(mondays):
        picks = [
            PickResult(
                middle=None if no_middle[week, pick] else float(middles[week, pick]),
                result=None if no_result[week, pick] else float(results[week, pick]),
            )
            for pick in range(3)
        ]
        batch = BatchResult(
            monday=FIRST + timedelta(weeks=week),
            picks=picks,
            benchmark=(float(market_first[week]), float(market_both[week] - market_first[week])),
            risk_free=(RATE, RATE),
        )
        batches.append(batch)
    return batches


def _both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return two weeks' changes in percent, as one of the initial price."""
    return ((1 + first / 100) * (1 + second / 100) - 1) * 100
