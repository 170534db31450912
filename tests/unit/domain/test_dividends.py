"""The rules of dividends: what a response changes, what is known, and what a holder received."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import dividends
from app.domain.dividends import DividendPeriod, DividendResponse, ListedAmount
from app.domain.model import Dividend, Split

NOW = datetime(2026, 11, 8, 17, tzinfo=UTC)
BASELINE, RESULT = date(2026, 10, 23), date(2026, 11, 6)
DAY = date(2026, 10, 28)


def a_dividend(day: date = DAY, amount: str = "1.00", ticker: str = "IBM") -> Dividend:
    return Dividend(
        ticker=ticker,
        ex_date=day,
        amount=Decimal(amount),
        source="test",
        read_at=NOW - timedelta(days=7),
    )


def a_split(day: date, factor: str) -> Split:
    return Split(
        ticker="IBM", effective_date=day, factor=Decimal(factor), source="test", read_at=NOW
    )


def changes(known, listed, ex_dates=None, factors=()):
    """Return the changes of a response: its readings as (day, amount), and what is restated."""
    found = dividends.find_changes(
        [ListedAmount(day, Decimal(amount), "test") for day, amount in listed],
        ticker="IBM",
        ex_dates={day for day, _ in listed} if ex_dates is None else ex_dates,
        since=BASELINE,
        known=known,
        factors=factors,
        withdrawn_source="test, no longer listed",
        now=NOW,
    )
    assert all(one.read_at == NOW for one in found.readings)
    readings = [(one.ex_date, str(one.amount)) for one in found.readings]
    return readings, [str(one.listed) for one in found.restated]


OTHER = DAY + timedelta(days=1)


@pytest.mark.parametrize(
    ("known", "listed", "expected"),
    [
        pytest.param([], [(DAY, "1.00")], [(DAY, "1.00")], id="new"),
        pytest.param([a_dividend()], [(DAY, "1.0")], [], id="the same, written otherwise"),
        pytest.param([a_dividend()], [(DAY, "1.10")], [(DAY, "1.10")], id="changed"),
        pytest.param([a_dividend()], [], [(DAY, "0")], id="withdrawn"),
        pytest.param([a_dividend()], [(OTHER, "1.00")], [(OTHER, "1.00"), (DAY, "0")], id="moved"),
        pytest.param([a_dividend(amount="0")], [], [], id="withdrawn before"),
        pytest.param([a_dividend(amount="0")], [(DAY, "1.00")], [(DAY, "1.00")], id="back again"),
        pytest.param([], [(BASELINE, "1.00")], [], id="on the baseline"),
        pytest.param([], [(date(2026, 11, 8), "1.00")], [(date(2026, 11, 8), "1.00")], id="today"),
        pytest.param([], [(date(2026, 11, 9), "1.00")], [], id="in the future"),
    ],
)
def test_what_a_response_changes(known, listed, expected):
    assert changes(known, listed) == (expected, [])


def test_an_amount_that_cannot_be_read_keeps_what_is_known():
    assert changes([a_dividend()], [], ex_dates={DAY}) == ([], [])


@pytest.mark.parametrize(
    ("amount", "listed", "factors"),
    [
        pytest.param("1.69", "0.845", ["2"], id="2:1"),
        pytest.param("1.69", "0.5633", ["3"], id="3:1, rounded"),
        pytest.param("1.00", "0.1", ["2", "5"], id="two splits"),
        pytest.param("1.00", "0.5", ["2", "5"], id="the first of two splits"),
        pytest.param("0.10", "1.5", ["0.06666666666666666666666666667"], id="1:15"),
    ],
)
def test_a_restated_amount_corrects_nothing(amount, listed, factors):
    later = [a_split(DAY + timedelta(days=n), factor) for n, factor in enumerate(factors, 1)]
    known = [a_dividend(amount=amount)]
    assert changes(known, [(DAY, listed)], factors=later) == ([], [listed])


@pytest.mark.parametrize(
    ("listed", "day"),
    [
        pytest.param("0.83", DAY + timedelta(days=1), id="another amount"),
        pytest.param("0.845", DAY, id="a split of the ex-date"),
        pytest.param("0.845", DAY - timedelta(days=1), id="an earlier split"),
        pytest.param("3.38", DAY + timedelta(days=1), id="multiplied"),
        pytest.param("1.70", DAY + timedelta(days=1), id="nearly the same"),
    ],
)
def test_another_amount_is_a_change(listed, day):
    known = [a_dividend(amount="1.69")]
    assert changes(known, [(DAY, listed)], factors=[a_split(day, "2")]) == ([(DAY, listed)], [])


PERIOD = DividendPeriod(ticker="IBM", after=BASELINE, through=RESULT)
AFTER = datetime(2026, 11, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("responses", "known", "is_known"),
    [
        pytest.param({}, [], False, id="not asked"),
        pytest.param({"IBM": DividendResponse(AFTER, [])}, [], True, id="asked, none"),
        pytest.param(
            {"IBM": DividendResponse(AFTER, [DAY])}, [a_dividend()], True, id="asked, one"
        ),
        pytest.param({"IBM": DividendResponse(AFTER, [DAY])}, [], False, id="unreadable"),
        pytest.param(
            {"IBM": DividendResponse(AFTER, [DAY])},
            [a_dividend(amount="0")],
            False,
            id="withdrawn, listed",
        ),
        pytest.param(
            {"IBM": DividendResponse(AFTER, [BASELINE, AFTER.date()])}, [], True, id="other days"
        ),
        pytest.param({"KO": DividendResponse(AFTER, [])}, [], False, id="another ticker"),
        # 23:00 in New York on the day of the result.
        pytest.param(
            {"IBM": DividendResponse(datetime(2026, 11, 7, 4, tzinfo=UTC), [])},
            [],
            False,
            id="too early",
        ),
    ],
)
def test_what_is_known(responses, known, is_known):
    unknown = dividends.find_unknown([PERIOD], responses=responses, in_force=known, through=RESULT)
    assert unknown == (None if is_known else "IBM")


@pytest.mark.parametrize(
    ("amount", "counts_once"),
    [("4.9999", False), ("5", True), ("10", True), ("20", True), ("20.0001", False)],
)
def test_the_value_of_a_spin_off(amount, counts_once):
    """A split by 10/9 of a share of 100 states that 10 were spun off: from 5 to 20 is near it."""
    factor = a_split(DAY, "1.25")
    got = dividends.receive(
        [a_dividend(amount=amount)],
        initial=Decimal(50),
        factors=[factor],
        basis=BASELINE,
        after=BASELINE,
        through=RESULT,
    )
    assert got.spin_off_counted_once == counts_once
    assert (got.per_share == 0) == counts_once


def test_shares_before_a_restated_baseline():
    """A price that is restated as of a later day is per share of that day."""
    factors = [a_split(DAY, "2"), a_split(OTHER, "3")]
    assert dividends.shares_on(factors, basis=BASELINE, day=DAY) == 2
    assert dividends.shares_on(factors, basis=DAY, day=OTHER) == 3
    assert dividends.shares_on(factors, basis=DAY, day=BASELINE) == Decimal("0.5")
    assert dividends.shares_on(factors, basis=OTHER, day=OTHER) == 1


DAYS = st.dates(BASELINE - timedelta(days=3), RESULT + timedelta(days=3))
AMOUNTS = st.decimals("0.0001", "0.5", places=4)
FACTORS = st.sampled_from(["2", "3", "0.5", "10", "1"])


@given(
    st.dictionaries(DAYS, AMOUNTS, max_size=4),
    st.dictionaries(DAYS, FACTORS, max_size=3),
    st.decimals("50", "500", places=4),
    st.decimals("50", "500", places=4),
)
def test_any_total_return(paid, listed, initial, current):
    """It equals a computation with fractions, to 25 digits."""
    factors = [a_split(day, factor) for day, factor in sorted(listed.items())]
    held = [a_dividend(day, str(amount)) for day, amount in sorted(paid.items())]
    got = dividends.receive(
        held, initial=initial, factors=factors, basis=BASELINE, after=BASELINE, through=RESULT
    )

    def shares(day: date) -> Fraction:
        product = Fraction(1)
        for one in factors:
            if BASELINE < one.effective_date <= day:
                product *= Fraction(one.factor)
        return product

    received = sum(
        (
            Fraction(amount) * shares(day)
            for day, amount in paid.items()
            if BASELINE < day <= RESULT
        ),
        Fraction(0),
    )
    # So small an amount is never a spin-off.
    assert not got.spin_off_counted_once
    factor = shares(RESULT)
    expected = (Fraction(current) * factor + received - Fraction(initial)) / Fraction(initial) * 100
    total = dividends.total_return_pct(
        initial,
        current,
        factor=Decimal(factor.numerator) / factor.denominator,
        received=got.per_share,
    )
    assert abs(Fraction(total) - expected) <= Fraction(1, 10**20)
