"""The dividends of the simulated market: what was really paid, and what the provider lists."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from app.domain.calendar import Calendar
from app.errors import ConfigurationError
from app.providers.alpha_vantage_answers import read_dividends
from app.simulation.dividends import (
    DIVIDENDS_LISTED_WRONGLY,
    RESTATED,
    DeclaredDividend,
    list_wrongly,
    restate,
)
from app.simulation.faults import ALPHA_VANTAGE, FaultRule, FaultScript, is_premium_week
from app.simulation.market import SHARES, Market
from app.simulation.odd_providers import SPLIT_CHANCE
from app.simulation.provider_simulators import ProviderSimulators

CALENDAR = Calendar()
CALM = Market(CALENDAR)
# Markets for `--hostile` and for `--odd`: the second one has more splits.
HOSTILE = Market(CALENDAR, split_chance=SPLIT_CHANCE, hostile="a seed")
LAST = date(2026, 12, 31)
KEY = "K7QZ4XW9J2VB8RTM"


def at(day: date) -> datetime:
    """Return the time after nine in New York."""
    return datetime.combine(day, time(14, 30), UTC)


def ask(market: Market, ticker: str, day: date, script: FaultScript | None = None) -> bytes:
    """Return the body of the simulator's answer."""
    simulators = ProviderSimulators(market, None, script=script, limits=False)
    query = f"function=DIVIDENDS&symbol={ticker.replace('.', '-')}&apikey={KEY}"
    scope = {"method": "GET", "path": "/query", "query_string": query.encode()}
    return simulators.reply(scope, b"", at(day)).body


def listed_sums(market: Market, ticker: str, day: date) -> dict[date, Decimal]:
    """Return the amount of each ex-date, as the service reads it."""
    listed, _ = read_dividends(ask(market, ticker, day), ticker, key=KEY, now=at(day))
    return {one.ex_date: one.amount for one in listed}


def true_sums(market: Market, ticker: str, last: date = LAST) -> dict[date, Decimal]:
    sums: dict[date, Decimal] = {}
    for one in market.true_dividends(ticker, last):
        sums[one.ex_date] = sums.get(one.ex_date, Decimal(0)) + Decimal(one.amount)
    return sums


def test_the_benchmark_pays_every_quarter():
    """
    The ex-date is the third Friday of the quarter's last month; in June 2026 this is a holiday, so
    it is the session before.
    """
    days = [one.ex_date for one in CALM.true_dividends("SPY", LAST)]
    assert days[-8:] == [
        date(2025, 3, 21),
        date(2025, 6, 20),
        date(2025, 9, 19),
        date(2025, 12, 19),
        date(2026, 3, 20),
        date(2026, 6, 18),
        date(2026, 9, 18),
        date(2026, 12, 18),
    ]
    for one in CALM.true_dividends("SPY", LAST):
        assert len(one.amount.partition(".")[2]) == 4
        assert not one.is_special


@pytest.mark.parametrize("market", [CALM, HOSTILE], ids=["calm", "hostile"])
def test_about_two_thirds_of_the_shares_pay(market):
    """Every quarter they pay 0.2 to 1 % of their price, and some pay a special dividend once."""
    payers, specials = 0, 0
    for ticker in SHARES:
        paid = market.true_dividends(ticker, date(2028, 12, 31))
        ordinary = [one for one in paid if not one.is_special]
        payers += bool(ordinary)
        specials += len(paid) - len(ordinary)
        assert len(paid) - len(ordinary) <= 1
        for earlier, later in pairwise(ordinary):
            assert 80 < (later.ex_date - earlier.ex_date).days < 100
        for one in paid:
            assert CALENDAR.is_session(one.ex_date)
            assert 20 <= (one.ex_date - one.declared_on).days <= 40
            ((_, bar),) = market.bars(ticker, one.ex_date - timedelta(days=1), count=1)
            assert Decimal("0.0005") < Decimal(one.amount) / Decimal(bar.close) < Decimal("0.12")
    assert len(SHARES) * 0.5 < payers < len(SHARES) * 0.85
    assert specials > 3


def test_prices_and_splits_do_not_depend_on_the_faults():
    """The same seed gives the same market, and the same true dividends, with and without them."""
    other = Market(CALENDAR, split_chance=SPLIT_CHANCE)
    for ticker in ("SPY", "AAPL", "BRK.B", "GE"):
        assert HOSTILE.bars(ticker, LAST) == other.bars(ticker, LAST)
        assert HOSTILE.splits(ticker, LAST) == other.splits(ticker, LAST)
        assert HOSTILE.true_dividends(ticker, LAST) == other.true_dividends(ticker, LAST)


def test_a_later_day_changes_no_earlier_dividend():
    """What was paid until a day is the same however far the market was asked for."""
    for ticker in SHARES:
        fresh = Market(CALENDAR)
        early = fresh.true_dividends(ticker, date(2026, 6, 30))
        later = CALM.true_dividends(ticker, date(2031, 12, 31))
        assert early == [one for one in later if one.ex_date <= date(2026, 6, 30)]


def test_a_calm_provider_lists_what_was_declared():
    """Also what has an ex-date of the future; the newest comes first, and old rows lack dates."""
    day = date(2026, 11, 30)
    is_future_listed = False
    for ticker in SHARES:
        body = json.loads(ask(CALM, ticker, day))
        paid = CALM.true_dividends(ticker, day + timedelta(days=60))
        declared = [one for one in paid if one.declared_on <= day]
        rows = body["data"]
        assert body["symbol"] == ticker.replace(".", "-")
        assert rows == CALM.dividends_known(ticker, at(day))
        assert sorted(row["ex_dividend_date"] for row in rows) == [
            str(one.ex_date) for one in declared
        ]
        days = [row["ex_dividend_date"] for row in rows]
        assert days == sorted(days, reverse=True)
        is_future_listed |= any(one.ex_date > day for one in declared)
        assert listed_sums(CALM, ticker, day) == true_sums(CALM, ticker, max(_days(declared, day)))
        for row in rows:
            assert ("None" in row.values()) == (row["ex_dividend_date"] < "2025-01-01")
    assert is_future_listed


def _days(declared: list[DeclaredDividend], day: date) -> Iterator[date]:
    yield day
    for one in declared:
        yield one.ex_date


def test_a_later_split_does_not_restate_an_amount():
    """A calm provider lists an amount as it was declared."""
    for ticker in SHARES:
        market = Market(CALENDAR, split_chance=SPLIT_CHANCE)
        for one in market.true_dividends(ticker, LAST):
            later = market.dividends_known(ticker, at(LAST))
            assert (str(one.ex_date), one.amount) in [
                (row["ex_dividend_date"], row["amount"]) for row in later
            ]


def test_a_hostile_provider_has_every_fault():
    """Within a year, for the shares that the models choose from."""
    faults: Counter[str | None] = Counter()
    for ticker in SHARES:
        for one in HOSTILE.true_dividends(ticker, LAST):
            if one.ex_date.year == 2026:
                faults[HOSTILE.dividend_fault(ticker, one)] += 1
    assert {*DIVIDENDS_LISTED_WRONGLY, RESTATED, None} == set(faults)


def test_what_a_hostile_provider_lists_in_the_end():
    """
    After the faults have ended it lists the true dividends, except amounts that it restates and
    spin-offs that it lists as dividends.
    """
    until = date(2026, 9, 30)
    restated, spin_offs = 0, 0
    for ticker in SHARES:
        listed = listed_sums(HOSTILE, ticker, until + timedelta(days=31))
        expected = true_sums(HOSTILE, ticker, until)
        by_day = {one.ex_date: one for one in HOSTILE.true_dividends(ticker, until)}
        odd_days = {day for day, _ in HOSTILE.spin_offs_as_dividends(ticker, until)}
        spin_offs += len(odd_days & set(listed))
        for day, one in by_day.items():
            if HOSTILE.dividend_fault(ticker, one) == RESTATED:
                odd_days.add(day)
                restated += listed[day] != expected[day]
        specials = {one.ex_date for one in HOSTILE.true_dividends(ticker, until) if one.is_special}
        skipped = odd_days | specials
        assert {day: listed[day] for day in expected if day not in skipped} == {
            day: amount for day, amount in expected.items() if day not in skipped
        }
        later = {day for day in listed if day > until}
        assert set(listed) - later <= set(expected) | odd_days
    assert restated > 3
    assert spin_offs > 3


def test_a_withdrawn_dividend_is_listed_for_a_while():
    """It is listed before its ex-date, and no longer some days after it; nobody was paid."""
    ghosts: dict[tuple[str, str], list[date]] = {}
    for ticker in SHARES:
        paid = {str(one.ex_date) for one in HOSTILE.true_dividends(ticker, date(2027, 6, 1))}
        spin_offs = {str(day) for day, _ in HOSTILE.spin_offs_as_dividends(ticker, LAST)}
        wrong = {
            row["ex_dividend_date"]
            for one in HOSTILE.true_dividends(ticker, date(2027, 6, 1))
            for fault in ("dividend_a_day_early", "dividend_a_day_late")
            for row in list_wrongly(
                fault,
                {"ex_dividend_date": str(one.ex_date), "amount": "1"},
                today=one.ex_date,
                calendar=CALENDAR,
            )
        }
        for week in range(26):
            day = date(2026, 6, 1) + timedelta(weeks=week)
            for row in HOSTILE.dividends_known(ticker, at(day)):
                ex_date = row["ex_dividend_date"]
                if ex_date not in {*paid, *spin_offs, *wrong, "None"}:
                    ghosts.setdefault((ticker, ex_date), []).append(day)
    assert len(ghosts) > 3
    for (_, ex_date), days in ghosts.items():
        day = date.fromisoformat(ex_date)
        assert day - timedelta(days=20) <= min(days)
        assert max(days) < day + timedelta(days=8)


ROW = {
    "ex_dividend_date": "2026-08-10",
    "declaration_date": "None",
    "record_date": "2026-08-10",
    "payment_date": "2026-09-10",
    "amount": "0.51",
}


@pytest.mark.parametrize(
    ("fault", "days", "rows"),
    [
        pytest.param("late_dividend", 9, [], id="late"),
        pytest.param("very_late_dividend", 22, [], id="three weeks late"),
        pytest.param("dividend_a_day_early", 8, [("2026-08-07", "0.51")], id="early"),
        pytest.param("dividend_a_day_late", 8, [("2026-08-11", "0.51")], id="a day late"),
        pytest.param("corrected_amount", 10, [("2026-08-10", "0.5355")], id="corrected"),
        pytest.param("ex_date_is_none", 9, [("None", "0.51")], id="no ex-date"),
        pytest.param("amount_is_none", 9, [("2026-08-10", "None")], id="no amount"),
        pytest.param("dividend_twice", 999, [("2026-08-10", "0.51")] * 2, id="twice"),
        pytest.param(
            "dividend_in_two",
            999,
            [("2026-08-10", "0.1700"), ("2026-08-10", "0.3400")],
            id="in two",
        ),
    ],
)
def test_how_long_a_dividend_is_listed_wrongly(fault, days, rows):
    """The fault lasts until some days after the ex-date, or for ever. 10 August is a Monday."""
    ex_date = date(2026, 8, 10)
    for today in (ex_date - timedelta(days=9), ex_date, ex_date + timedelta(days=days - 1)):
        listed = list_wrongly(fault, ROW, today=today, calendar=CALENDAR)
        assert [(one["ex_dividend_date"], one["amount"]) for one in listed] == rows
    if days < 999:
        today = ex_date + timedelta(days=days)
        assert list_wrongly(fault, ROW, today=today, calendar=CALENDAR) == [ROW]


@pytest.mark.parametrize(
    ("amount", "part", "rest"),
    [("0.01", "0.0033", "0.0067"), ("0.02", "0.0067", "0.0133"), ("1", "0.33", "0.67")],
)
def test_a_dividend_in_two_has_two_different_parts(amount, part, rest):
    """Equal rows would count once."""
    listed = list_wrongly(
        "dividend_in_two", {**ROW, "amount": amount}, today=LAST, calendar=CALENDAR
    )
    assert [one["amount"] for one in listed] == [part, rest]


@pytest.mark.parametrize(
    ("amount", "factors", "restated"),
    [
        ("1.8310", ["2"], "0.9155"),
        ("1.8310", ["4", "2"], "0.228875"),
        ("0.50", ["10"], "0.05"),
        ("1.0000", ["3"], "0.3333333333"),
        ("0.0500", ["0.1"], "0.5"),
        ("5.00", ["0.5"], "10"),
    ],
)
def test_a_restated_amount(amount, factors, restated):
    """It is divided by the factors of later splits."""
    row = restate({**ROW, "amount": amount}, [Decimal(factor) for factor in factors])
    assert row == {**ROW, "amount": restated}


@pytest.mark.parametrize(
    "name",
    [
        "no_dividends",
        "dividends_are_text",
        "amount_is_zero",
        "amount_is_a_number",
        "amount_is_the_key",
        "premium_dividends",
        "spin_off_as_dividend",
        RESTATED,
        *DIVIDENDS_LISTED_WRONGLY,
    ],
)
def test_a_fault_that_a_script_names(name):
    """It changes the answer about dividends, and no other answer."""
    ticker, day = _dividend_before_a_split()
    market = Market(CALENDAR, split_chance=SPLIT_CHANCE)
    rules = [FaultRule(provider="alphavantage", fault=name)]
    assert ask(market, ticker, day, FaultScript(rules)) != ask(market, ticker, day)
    simulators = ProviderSimulators(market, None, script=FaultScript(rules), limits=False)
    good = ProviderSimulators(market, None, limits=False)
    for function in ("TIME_SERIES_DAILY", "SPLITS", "TREASURY_YIELD"):
        query = f"function={function}&symbol={ticker.replace('.', '-')}&apikey={KEY}"
        scope = {"method": "GET", "path": "/query", "query_string": query.encode()}
        assert simulators.reply(scope, b"", at(day)) == good.reply(scope, b"", at(day))


def _dividend_before_a_split() -> tuple[str, date]:
    """
    Return a ticker and the day of its split, some days after an ex-date.

    The split increases the number of shares.
    """
    market = Market(CALENDAR, split_chance=SPLIT_CHANCE)
    return next(
        (ticker, day)
        for ticker in SHARES
        for day, factor in market.splits(ticker, LAST)
        for one in market.true_dividends(ticker, day)
        if Decimal(factor) > 1 and 0 < (day - one.ex_date).days < 8
    )


@pytest.mark.parametrize("fault", ["premium", "premium_dividends"])
def test_dividends_may_be_a_premium_function_for_ever_or_for_a_while(fault):
    """The client takes the notice as a matter of configuration."""
    day = date(2026, 10, 26)
    for until in (None, at(day + timedelta(days=7))):
        rule = FaultRule(provider="alphavantage", fault=fault, function="DIVIDENDS", until=until)
        script = FaultScript([rule])
        with pytest.raises(ConfigurationError, match="premium"):
            read_dividends(ask(CALM, "SPY", day, script), "SPY", key=KEY, now=at(day))
        later = ask(CALM, "SPY", day + timedelta(days=70), script)
        assert (b"premium" in later) == (until is None)


def test_a_premium_week_of_a_hostile_provider():
    """It lasts from Saturday to Friday; about one week in ten is one."""
    saturday = date(2026, 1, 3)
    premium = 0
    for week in range(500):
        first = saturday + timedelta(weeks=week)
        days = {is_premium_week("a seed", first + timedelta(days=number)) for number in range(7)}
        assert len(days) == 1
        premium += days == {True}
    assert premium == pytest.approx(50, rel=0.4)


def test_every_fault_of_dividends_has_a_name():
    assert {*DIVIDENDS_LISTED_WRONGLY, RESTATED} <= set(ALPHA_VANTAGE)
