"""The real client asks the process of the simulators for dividends."""

import json
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from clocks import HandSetClock
from commands import environment

from app.domain.calendar import Calendar
from app.errors import ConfigurationError
from app.providers.alpha_vantage import AlphaVantage, DividendsAnswer
from app.providers.rate_limiter import RequestLedger, rate_limits
from app.simulation.market import Market
from app.simulation.odd_providers import SPLIT_CHANCE

NOW = datetime(2026, 11, 29, 14, tzinfo=UTC)
PREMIUM = [{"provider": "alphavantage", "function": "DIVIDENDS", "fault": "premium"}]


@pytest.fixture
def start_standins(tmp_path):
    """Start the simulators with some options, and return their address; they end with the test."""
    processes = []

    def start(*options: object) -> str:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "app.simulation.provider_simulators", "--no-limits"),
                *("--now", NOW.isoformat(), "--until-input-ends", *map(str, options)),
            ],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in processes:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def client_of(pool, url: str) -> AlphaVantage:
    clock = HandSetClock(NOW)
    ledger = RequestLedger(
        pool=pool, provider="alphavantage", limits=rate_limits(1000, 1000, 1000), clock=clock
    )
    return AlphaVantage(key="a key", ledger=ledger, clock=clock, base_url=url)


async def test_the_dividends_of_the_simulators(pool, start_standins):
    """The client reads what the market paid, and what is declared for a future day."""
    client, market = client_of(pool, start_standins()), Market(Calendar())
    newest = [one.amount for one in market.true_dividends("SPY", date(2026, 12, 31))][-2:]
    for ticker in ("SPY", "CVX", "BRK.B"):
        answer = await client.dividends(ticker, NOW)
        assert isinstance(answer, DividendsAnswer)
        sums: dict[date, Decimal] = {}
        for one in market.true_dividends(ticker, NOW.date() + timedelta(days=40)):
            if one.declared_on <= NOW.date():
                sums[one.ex_date] = sums.get(one.ex_date, Decimal(0)) + Decimal(one.amount)
        assert {one.ex_date: one.amount for one in answer.dividends} == sums
        assert answer.ex_dates == sorted(sums)
        assert (answer.unreadable, answer.undated) == ([], 0)
        if ticker == "SPY":
            assert [one.text for one in answer.dividends][-2:] == newest
    await client.close()


@pytest.mark.parametrize(("option", "split_chance"), [("--hostile", None), ("--odd", SPLIT_CHANCE)])
def test_the_options_with_faults(start_standins, option, split_chance):
    """The simulators list what the hostile market of the same seed lists."""
    chances = {"split_chance": split_chance} if split_chance else {}
    market = Market(Calendar(), hostile="a seed", **chances)
    url, asked = start_standins(option, "a seed"), []
    # Some requests have a passing fault, so several tickers are asked for.
    for ticker in ("CVX", "GE", "META", "PG", "KO", "MCD", "HD", "XOM"):
        query = {"function": "DIVIDENDS", "symbol": ticker, "apikey": "k"}
        with suppress(httpx.HTTPError, ValueError):
            answer = httpx.get(f"{url}/query", params=query).json()
            asked.append(answer.get("data") == market.dividends_known(ticker, NOW))
    assert sum(asked) >= 3


async def test_dividends_as_a_premium_function(pool, start_standins, tmp_path):
    """A script refuses dividends, and nothing else, for ever."""
    (tmp_path / "faults.json").write_text(json.dumps(PREMIUM))
    client = client_of(pool, start_standins("--faults", "faults.json"))
    for ticker in ("SPY", "CVX"):
        with pytest.raises(ConfigurationError, match="premium"):
            await client.dividends(ticker, NOW)
        assert (await client.bars(ticker, NOW)).bars
    await client.close()
