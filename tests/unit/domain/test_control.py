"""The draws of a control follow from its seed and its universe alone, and are uniform."""

import hashlib
from collections import Counter
from datetime import date
from itertools import count

import pytest
from scipy import stats

from app.domain import control
from app.domain.control import Draw, RandomStream, SkippedDraw
from app.domain.model import Action
from app.errors import UnusableAnswer

HASH = "ab" * 32
MONDAY = date(2027, 3, 1)
UNIVERSE = ["AAPL", "BRK.B", "KO", "MSFT", "NVDA", "PEP", "XOM"]


def by_hand(universe, first_hash, run_date, unusable=()):
    """
    Compute the draws a second time: from the text of docs/record.md, in another way.

    Return the drawn tickers with their actions, also the repeated and the unusable ones.
    """
    seed = hashlib.sha256((first_hash + "\n" + run_date.isoformat()).encode("ascii")).digest()
    stream = hashlib.shake_256(seed).digest(4 * 100_000)
    numbers = (int(stream[4 * i : 4 * i + 4].hex(), 16) for i in count())

    def below(bound):
        number = next(numbers)
        while number >= (2**32 // bound) * bound:
            number = next(numbers)
        return number % bound

    drawn, picks = [], []
    while len(picks) < 3:
        ticker = universe[below(len(universe))]
        action = "BUY" if below(2) == 0 else "SELL"
        drawn.append((ticker, action))
        if ticker not in picks and ticker not in unusable:
            picks.append(ticker)
    return drawn


def test_a_monday_by_hand():
    """The seed is the SHA-256 of a line, and the stream is SHAKE-256 of its bytes."""
    seed = control.draw_seed(HASH, MONDAY)
    text = b"abababababababababababababababababababababababababababababababab\n2027-03-01"
    assert seed == hashlib.sha256(text).hexdigest()
    assert RandomStream(seed).below(2**32) == int.from_bytes(
        hashlib.shake_256(bytes.fromhex(seed)).digest(4)
    )


@pytest.mark.parametrize("unusable", [(), ("KO",), ("KO", "AAPL"), ("AAPL", "KO", "MSFT")])
@pytest.mark.parametrize("number", range(20))
def test_draws_are_as_by_hand(unusable, number):
    """With repeated and refused tickers, and the benchmark among the universe."""
    first_hash = hashlib.sha256(bytes([number])).hexdigest()
    seed = control.draw_seed(first_hash, MONDAY)
    draws = control.draw(UNIVERSE, seed, benchmark="PEP", refused=unusable)
    expected = by_hand(UNIVERSE, first_hash, MONDAY, unusable={*unusable, "PEP"})
    assert [(one.ticker, one.action) for one in draws] == expected


def test_a_refused_ticker_changes_nothing_before_it():
    """The stream goes on: earlier draws stay as they are."""
    seed = control.draw_seed(HASH, MONDAY)
    first = control.draw(UNIVERSE, seed, benchmark="SPY")
    refused = first[1].ticker
    second = control.draw(UNIVERSE, seed, benchmark="SPY", refused=[refused])
    assert second[0] == first[0]
    assert second[1] == Draw(ticker=refused, action=first[1].action, skipped=SkippedDraw.REFUSED)
    assert [one.ticker for one in second[: len(first)]] == [one.ticker for one in first]


def test_picks_are_three_different_tickers():
    """Over many Mondays, with as few tickers as possible, so that most draws are repeated."""
    reasons = Counter()
    for number in range(500):
        seed = control.draw_seed(HASH, date.fromordinal(738_000 + 7 * number))
        draws = control.draw(UNIVERSE[:4], seed, benchmark="KO", refused=())
        picks = [one.ticker for one in draws if one.skipped is None]
        assert sorted(picks) == ["AAPL", "BRK.B", "MSFT"]
        assert draws[-1].skipped is None
        reasons.update(one.skipped for one in draws)
    assert reasons[SkippedDraw.REPEATED] > 500
    assert reasons[SkippedDraw.BENCHMARK] > 100


@pytest.mark.parametrize(
    ("universe", "refused"),
    [
        (["AAPL", "KO"], []),
        (["AAPL", "KO", "SPY"], []),
        (["AAPL", "KO", "MSFT"], ["KO"]),
        (["AAPL", "KO", "MSFT"], ["KO", "AAPL", "MSFT"]),
        (["SPY"], []),
    ],
)
def test_a_universe_that_is_too_small(universe, refused):
    """There is one clear error, and no endless loop."""
    with pytest.raises(UnusableAnswer, match="3 are needed"):
        control.draw(universe, control.draw_seed(HASH, MONDAY), benchmark="SPY", refused=refused)


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 503, 2**31, 2**31 + 1, 2**32 - 1, 2**32])
def test_numbers_are_below_their_bound(bound):
    """Also where almost half of the numbers of the stream are skipped."""
    stream = RandomStream(HASH)
    assert all(0 <= stream.below(bound) < bound for _ in range(2000))


def test_no_remainder_is_small_too_often():
    """
    With a bound of 3 * 2^30, a plain remainder would be below 2^30 half of the time, and not a
    third.
    """
    stream, bound = RandomStream(HASH), 3 * 2**30
    numbers = [stream.below(bound) for _ in range(30_000)]
    below = sum(number < 2**30 for number in numbers)
    assert stats.binomtest(below, len(numbers), 1 / 3).pvalue > 0.001


def test_draws_are_uniform():
    """100,000 draws from 503 tickers: tickers, actions and both together."""
    universe = [f"T{number:03}" for number in range(503)]
    tickers, actions, pairs, drawn = Counter(), Counter(), Counter(), 0
    for number in count():
        seed = control.draw_seed(HASH, date.fromordinal(1 + number))
        for one in control.draw(universe, seed, benchmark="SPY"):
            drawn += 1
            tickers[one.ticker] += 1
            actions[one.action] += 1
            pairs[one.ticker, one.action] += 1
        if drawn >= 100_000:
            break
    assert len(tickers) == 503
    assert stats.chisquare(list(tickers.values())).pvalue > 0.001
    assert stats.chisquare([actions[action] for action in Action]).pvalue > 0.001
    assert len(pairs) == 2 * 503
    assert stats.chisquare(list(pairs.values())).pvalue > 0.001


def test_the_text_of_an_answer():
    """Canonical JSON: sorted members, no white space, no member without a value."""
    draws = [
        Draw(ticker="KO", action=Action.BUY),
        Draw(ticker="KO", action=Action.SELL, skipped=SkippedDraw.REPEATED),
    ]
    universe_hash = hashlib.sha256(b"AAPL\nKO\n").hexdigest()
    assert control.answer_text(["AAPL", "KO"], HASH, draws) == (
        '{"draws":[{"action":"BUY","ticker":"KO"},'
        '{"action":"SELL","skipped":"REPEATED","ticker":"KO"}],'
        f'"seed":"{HASH}","universe_sha256":"{universe_hash}"}}'
    )
