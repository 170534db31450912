"""
Simulated choosers: the picks of a given kind of chooser in a given market, in the form that the
track record uses.

The market moves by a normal return each week, and a share by beta times that and something of its
own (Student's t with five degrees of freedom, so that single weeks are wild). Figures are in
percent of the initial price, as the record's are, so that a fortnight's second week builds on its
first.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

from msgspec import Struct

from app.domain.model import Action, BatchStatus
from app.domain.track_record import TrackedBatch, TrackedPick
from app.domain.yearly_check import BatchResult, PickResult

FIRST = date(2020, 1, 6)


class Chooser(Struct, frozen=True):
    """
    What it picks and what it knows, in a market whose mean week is `drift` percent.

    `repeat_probability` is how probable it is that a pick is the same as last Monday's, with its
    action; `buys` is how probable it is that an action is BUY; `skill` is what it knows beforehand
    of each week's own move of a share, in percent.
    """

    buys: float = 0.5
    repeat_probability: float = 0.0
    beta: float | None = None
    skill: float = 0.0
    drift: float = 0.2


KINDS = {
    "independent": Chooser(),
    "repeating tickers": Chooser(repeat_probability=0.85),
    "all BUY with beta 1.3 while the market rises": Chooser(buys=1.0, beta=1.3, drift=0.5),
}
SKILLED = Chooser(skill=0.5)


def record(chooser: Chooser, seed: int, mondays: int) -> list[TrackedBatch]:
    """A record of so many Mondays: one in twenty has failed, one in twenty is unresolved."""
    random = Random(seed)
    market = [random.gauss(chooser.drift, 2.2) for _ in range(mondays + 1)]
    own: dict[tuple[str, int], float] = {}
    picks: list[tuple[str, Action]] = []
    made = []
    for week in range(mondays):
        picks = list(chosen(chooser=chooser, random=random, before=picks, week=week))
        outcome = random.random()
        on = FIRST + timedelta(weeks=week)
        if outcome < 0.05:
            made.append(TrackedBatch(on, BatchStatus.FAILED, False))
            continue
        last = None if outcome < 0.1 else two(market[week], market[week + 1])
        held = [
            measured(chooser=chooser, random=random, pick=pick, week=week, market=market, own=own)
            for pick in picks
        ]
        made.append(
            TrackedBatch(
                run_date=on,
                status=BatchStatus.COMPLETED,
                late=False,
                middle_benchmark_pct=exact(market[week]),
                benchmark_pct=last and exact(last),
                picks=held,
            )
        )
    return made


def results(batches: list[TrackedBatch]) -> list[BatchResult]:
    """Return what a yearly check uses of a record. Each batch has a result, as its picks have."""
    made = []
    for batch in batches:
        if batch.middle_benchmark_pct is None:
            continue
        some = batch.picks[0]
        middle = float(batch.middle_benchmark_pct)
        whole = float(some.absolute_return_pct - some.vs_benchmark_pct)
        made.append(
            BatchResult(
                monday=batch.run_date,
                picks=[
                    PickResult(
                        float(pick.in_direction(pick.middle_vs_benchmark_pct)),
                        float(pick.alpha_pct),
                    )
                    for pick in batch.picks
                ],
                benchmark=(middle, whole - middle),
                risk_free=(0.0, 0.0),
            )
        )
    return made


def chosen(
    chooser: Chooser, random: Random, before: list[tuple[str, Action]], week: int
) -> Iterator[tuple[str, Action]]:
    """Three different shares of forty."""
    tickers = [f"T{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(40)]
    taken: set[str] = set()
    for n in range(3):
        pick = before[n] if before and random.random() < chooser.repeat_probability else None
        if pick is None or pick[0] in taken:
            ticker = random.choice([ticker for ticker in tickers if ticker not in taken])
            pick = ticker, Action.BUY if random.random() < chooser.buys else Action.SELL
        taken.add(pick[0])
        yield pick


def measured(
    chooser: Chooser, random: Random, pick: tuple[str, Action], week: int, market: list[float],
    own: dict[tuple[str, int], float],
) -> TrackedPick:  # fmt: skip
    """
    Return a pick with its figures. A share's own move in a week is the same in every batch that
    holds it.
    """
    ticker, action = pick
    beta = chooser.beta or 0.5 + (ord(ticker[1]) * 26 + ord(ticker[2])) % 11 / 10
    moves = []
    for at in (week, week + 1):
        if (ticker, at) not in own:
            own[ticker, at] = 3.5 * wild(random)
        known = -chooser.skill if action is Action.SELL else chooser.skill
        moves.append(beta * market[at] + own[ticker, at] + known)
    whole = two(*moves)
    return TrackedPick(
        id=str(UUID(int=week)),
        ticker=ticker,
        action=action,
        middle_vs_benchmark_pct=exact(moves[0] - market[week]),
        vs_benchmark_pct=exact(whole - two(market[week], market[week + 1])),
        absolute_return_pct=exact(whole),
    )


def wild(random: Random) -> float:
    """Student's t with five degrees of freedom, scaled to a variance of one."""
    return random.gauss(0, 1) / (random.gammavariate(2.5, 2) / 5) ** 0.5 / (5 / 3) ** 0.5


def two(first: float, second: float) -> float:
    """Two weeks' changes in percent, as one of the initial price."""
    return ((1 + first / 100) * (1 + second / 100) - 1) * 100


def exact(value: float) -> Decimal:
    return Decimal(f"{value:.10f}")
