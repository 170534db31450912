"""
The habits of the simulated models: how each chooses its picks, and in which words.

A model's ideas depend only on the Monday and on a seed, so they are the same in every process. No
model knows anything: about half of its picks turn out right, whatever probability it states. So
the careful model is roughly calibrated, and the other two are overconfident, the bold one most.
"""

from collections.abc import Callable
from datetime import date
from random import Random
from typing import Any

from msgspec import Struct

from app.domain.model import PICKS_PER_BATCH
from app.domain.prompt import MAX_PROBABILITY, MIN_PROBABILITY
from app.simulation.market import BENCHMARK_TICKER, SHARES, MarketShare


class Habit(Struct, frozen=True, kw_only=True):
    """
    How a simulated model chooses.

    - `buy_chance`: the chance that a pick is a BUY
    - `likes`: whether the model considers a share
    - `probabilities`: the lowest and the highest probability that it states, in percent
    - `buy`, `sell`: its reasonings, with `name`, `tailwind` and `headwind` of the share
    """

    buy_chance: float
    likes: Callable[[MarketShare], bool]
    probabilities: tuple[int, int]
    buy: tuple[str, ...]
    sell: tuple[str, ...]


# The habit of the model that is simulated at OpenAI's own path.
USUAL = Habit(
    buy_chance=0.65,
    likes=lambda _: True,
    probabilities=(MIN_PROBABILITY, MAX_PROBABILITY),
    buy=(
        "{name} goes into the next two weeks with {tailwind}, and the market still prices in a "
        "slowdown. Positioning is light after the last pullback, which leaves room for a re-rating "
        "against the index.",
        "Estimates for {name} have been moving up on {tailwind}. The shares have lagged their "
        "sector, and a catch-up is more likely than a further slide over a fortnight.",
        "I expect {name} to do better than the index: {tailwind} should outweigh {headwind} in the "
        "near term, and the chart has held its 50-day average.",
        "{name} combines {tailwind} with a balance sheet that cushions surprises. Nervous tapes "
        "reward that.",
    ),
    sell=(
        "{name} faces {headwind}, which consensus has been slow to reflect. After a strong run the "
        "risk over the next two weeks lies to the downside.",
        "The optimism about {tailwind} at {name} looks fully priced, while {headwind} is not. "
        "I expect it to do worse than the index.",
        "Momentum in {name} has faded. With {headwind} ahead, holders have reason to take profits "
        "before the next report.",
        "At this valuation {name} needs everything to go right; with {headwind} that is unlikely "
        "within a fortnight.",
    ),
)
# Quiet shares, as many sales as purchases, and probabilities near a half.
CAREFUL = Habit(
    buy_chance=0.5,
    likes=lambda share: share.beta <= 1.0,
    probabilities=(51, 62),
    buy=(
        "A small edge at best. {name} has {tailwind}, and its price moves less than most. "
        "I could easily be wrong over two weeks.",
        "{name}: {tailwind}. The risk is {headwind}, which I consider to be largely known.",
    ),
    sell=(
        "A small edge at best. I see {headwind} at {name}, and little that would change it within "
        "two weeks.",
        "{name}: {headwind}. What speaks against this pick is {tailwind}.",
    ),
)
# Volatile shares, mostly purchases, and high probabilities.
BOLD = Habit(
    buy_chance=0.85,
    likes=lambda share: share.beta >= 1.1,
    probabilities=(70, 95),
    buy=(
        "{name} is the clearest trade of the week: {tailwind}. I expect a strong move up.",
        "Buy {name}. With {tailwind}, the doubts about {headwind} will not last.",
    ),
    sell=("{name} is priced for perfection, and gets {headwind} instead. I expect a sharp fall.",),
)


def ideas(monday: date, seed: str, habit: Habit = USUAL) -> list[dict[str, Any]]:
    """Return three ideas for a Monday in the words of a model."""
    rng = Random(f"{seed}/ideas/{monday}")  # noqa: S311
    candidates = [
        ticker
        for ticker, share in SHARES.items()
        if ticker != BENCHMARK_TICKER and habit.likes(share)
    ]
    tickers = rng.sample(candidates, PICKS_PER_BATCH)
    return [_make_idea(ticker, habit, rng=rng, seed=f"{seed}/ideas/{monday}") for ticker in tickers]


def _make_idea(ticker: str, habit: Habit, *, rng: Random, seed: str) -> dict[str, Any]:
    share = SHARES[ticker]
    action, templates = "SELL", habit.sell
    if rng.random() < habit.buy_chance:
        action, templates = "BUY", habit.buy
    reasoning = rng.choice(templates).format(
        name=share.name, tailwind=share.tailwind, headwind=share.headwind
    )
    # Drawn from another stream, so that the ideas are the same with and without it.
    chance = Random(f"{seed}/probability/{ticker}")  # noqa: S311
    lowest, highest = habit.probabilities
    return {
        "ticker": ticker,
        "action": action,
        "reasoning": reasoning,
        "probability": chance.randint(lowest, highest),
    }
