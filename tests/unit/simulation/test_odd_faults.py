"""
Odd answers of the provider simulators: each differs from the good one, and the truth stays where it
was.
"""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest

from app.domain.calendar import Calendar
from app.simulation.faults import SERIES, SimulatedRequest, json_reply, read_script
from app.simulation.market import SHARES, Market, alpha_vantage_bar
from app.simulation.odd_faults import (
    ALL_FAULTS,
    ODD_ALPHA_VANTAGE_FAULTS,
    ODD_FAULTS,
    ODD_OPENAI_FAULTS,
)
from app.simulation.odd_providers import (
    ANY_REQUEST,
    BARS,
    DIVIDEND_ROWS,
    FAULT_CHANCE,
    METADATA,
    PERMANENT,
    SLIPS,
    SPLIT_CHANCE,
    SPLITS,
    OddProviders,
)

AT = datetime(2026, 10, 13, 13, 0, 1, tzinfo=UTC)  # a Tuesday
MARKET = Market(Calendar(), split_chance=SPLIT_CHANCE)


def _split_lately() -> str:
    """
    Return a ticker with a split among its latest hundred sessions, but not within the last
    fortnight.
    """
    since, until = date(2026, 6, 15), date(2026, 9, 28)
    return next(
        ticker
        for ticker in SHARES
        if any(since < day < until for day, _ in MARKET.splits(ticker, until))
    )


TICKER = _split_lately()
DAILY = SimulatedRequest(
    provider="alphavantage",
    function="TIME_SERIES_DAILY",
    key="k",
    symbol=TICKER,
    at=AT,
    market=MARKET,
)
LISTED = msgspec.structs.replace(DAILY, function="SPLITS")
BARS_REPLY = json_reply(
    {
        "Meta Data": {"1. Information": "Daily Prices", "2. Symbol": TICKER},
        SERIES: {
            str(day): alpha_vantage_bar(bar)
            for day, bar in reversed(MARKET.bars(TICKER, date(2026, 10, 12)))
        },
    }
)
# As if one were effective today, for those that list one late.
SPLITS_REPLY = json_reply(
    {
        "symbol": TICKER,
        "data": [
            {"effective_date": "2026-10-12", "split_factor": "4.0000"},
            {"effective_date": "2024-06-10", "split_factor": "0.0667"},
        ],
    }
)
DIVIDENDS_REQUEST = msgspec.structs.replace(DAILY, function="DIVIDENDS")
DIVIDENDS_REPLY = json_reply(
    {
        "symbol": TICKER,
        "data": [
            {"ex_dividend_date": "2026-10-12", "amount": "0.5100"},
            {"ex_dividend_date": "2026-07-10", "amount": "0.5100"},
        ],
    }
)
IDEAS = {
    "picks": [
        {"ticker": ticker, "action": "BUY", "reasoning": "Because."}
        for ticker in ("AAPL", "MSFT", "GE")
    ]
}
ANSWER = json_reply(
    {
        "choices": [
            {"message": {"role": "assistant", "content": json.dumps(IDEAS, separators=(",", ":"))}}
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 10},
    }
)
QUESTION = SimulatedRequest(provider="openai", key="k", symbol="", at=AT)


@pytest.mark.parametrize("name", ODD_ALPHA_VANTAGE_FAULTS)
def test_an_odd_answer_about_prices_differs(name):
    """It differs in bars, in splits, in dividends, or in several of them."""
    fault = ODD_ALPHA_VANTAGE_FAULTS[name]
    good = (BARS_REPLY, SPLITS_REPLY, DIVIDENDS_REPLY)
    requests = (DAILY, LISTED, DIVIDENDS_REQUEST)
    assert tuple(map(fault, good, requests)) != good


@pytest.mark.parametrize("name", ODD_OPENAI_FAULTS)
def test_an_odd_answer_of_the_model_differs(name):
    """It differs in its picks or beside them."""
    assert ODD_OPENAI_FAULTS[name](ANSWER, QUESTION) != ANSWER


def test_a_split_in_two_has_the_same_product():
    """For every factor in the simulated market."""
    for factor_text in (
        "2.0000",
        "3.0000",
        "10.0000",
        "1.2530",
        "1.1034",
        "0.5000",
        "0.1000",
        "0.0667",
        "0.3333",
    ):
        reply = json_reply(
            {
                "symbol": TICKER,
                "data": [{"effective_date": "2026-10-12", "split_factor": factor_text}],
            }
        )
        listed = json.loads(ODD_ALPHA_VANTAGE_FAULTS["split_in_two"](reply, LISTED).body)["data"]
        factors = [float(one["split_factor"]) for one in listed]
        assert len(set(factors)) == len(factors) > 1
        product = 1.0
        for factor in factors:
            product *= factor
        assert product == pytest.approx(float(factor_text))


def test_a_restated_series_has_no_jump_at_the_split():
    """Bars from the split on are unchanged."""
    known = {day for day, _ in MARKET.splits(TICKER, date(2026, 10, 12))}
    last = str(max(known))
    before, after = (
        json.loads(one.body)[SERIES]
        for one in (BARS_REPLY, ODD_ALPHA_VANTAGE_FAULTS["restated"](BARS_REPLY, DAILY))
    )
    assert {day for day in before if before[day] != after[day]} == {
        day for day in before if day < last
    }


def test_one_request_in_four():
    """The seed decides which, and they are the same each time."""
    names = [
        [one.name for one in _many_faults("a seed")],
        [one.name for one in _many_faults("a seed")],
    ]
    assert names[0] == names[1]
    passing = [name for name in names[0] if name in (*ANY_REQUEST, *BARS)]
    assert len(passing) == pytest.approx(2000 * FAULT_CHANCE, rel=0.15)
    assert set(passing) == {*ANY_REQUEST, *BARS}


def _many_faults(seed: str):
    odd = OddProviders(seed)
    for number in range(2000):
        at = AT + timedelta(days=number % 400)
        yield from odd.faults(msgspec.structs.replace(DAILY, symbol="SPY", at=at))


def test_the_faults_of_dividends():
    """One request in four has a fault, and in some weeks dividends are a premium function."""
    odd, names = OddProviders("a seed"), Counter()
    for number in range(2000):
        at = AT + timedelta(days=number % 400)
        request = msgspec.structs.replace(DIVIDENDS_REQUEST, symbol="SPY", at=at)
        names.update([one.name for one in odd.faults(request)])
    specific = {*ANY_REQUEST, *DIVIDEND_ROWS}
    passing = sum(count for name, count in names.items() if name in specific)
    days_of_the_key = sum(names[name] for name in PERMANENT["alphavantage"])
    answered = 2000 - names["premium_dividends"] - days_of_the_key
    assert passing == pytest.approx(answered * FAULT_CHANCE, rel=0.15)
    assert names["premium_dividends"] == pytest.approx(200, rel=0.75)
    assert specific <= set(names) <= {*specific, "premium_dividends", *PERMANENT["alphavantage"]}


def test_the_third_question_of_a_day_always_succeeds():
    """Except for permanent faults."""
    odd, third = OddProviders("a seed"), Counter()
    for number in range(600):
        at = AT + timedelta(days=number)
        faults = [odd.faults(msgspec.structs.replace(QUESTION, at=at)) for _ in range(3)]
        third.update(one.name for one in faults[2])
    assert set(third) == {*METADATA, *PERMANENT["openai"]}


def test_the_mix_has_every_odd_fault():
    """Each odd fault is in the mix, and the mix has no other names."""
    lasting = {
        "restated",
        "baseline_corrected",
        "very_late_split",
        "split_in_two",
        "close_unreadable",
    }
    prices = {*ANY_REQUEST, *BARS, *SPLITS, *DIVIDEND_ROWS, *lasting, *PERMANENT["alphavantage"]}
    model = {*METADATA, *SLIPS, *PERMANENT["openai"]}
    assert set(ODD_FAULTS["alphavantage"]) <= prices <= set(ALL_FAULTS["alphavantage"])
    assert set(ODD_FAULTS["openai"]) <= model <= set(ALL_FAULTS["openai"])


def test_a_script_can_name_an_odd_fault():
    """It is named like any other fault."""
    (rule,) = read_script(
        b'[{"provider": "openai", "fault": "usage_float", "times": 1}]', ALL_FAULTS
    )
    assert rule.fault == "usage_float"
