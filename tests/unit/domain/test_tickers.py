"""
Under which ticker a share is read on which day, and whether the closes under two tickers can be of
one share.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from independent_verifier.answers import names

from app.domain.model import Close, Split
from app.domain.tickers import TickerHistory, compare_closes, names_ticker

AT = datetime.fromisoformat("2026-11-01T12:00:00Z")
FIRST = date(2026, 10, 26)


def day(number: int) -> date:
    """Return a day of the fortnight."""
    return FIRST + timedelta(days=number)


ONE = TickerHistory.unchanged("A")
DATED = ONE.with_rename("B", day(2))
UNDATED = ONE.with_rename("B", None)


@pytest.mark.parametrize(
    ("share", "requested", "counted"),
    [
        pytest.param(ONE, "AAAAA", ["A"] * 5, id="never renamed"),
        pytest.param(DATED, "AABBB", ["A", "A", "B", "B", "B"], id="once"),
        pytest.param(ONE.with_rename("B", day(0)), "BBBBB", ["B"] * 5, id="on the first day"),
        pytest.param(
            DATED.with_rename("C", day(4)), "AABBC", ["A", "A", "B", "B", "C"], id="twice"
        ),
        pytest.param(
            DATED.with_rename("A", day(3)), "AABAA", ["A", "A", "B", "A", "A"], id="and back"
        ),
        pytest.param(UNDATED, "BBBBB", ["AB"] * 5, id="without a date"),
        pytest.param(
            UNDATED.with_rename("A", None), "AAAAA", ["AB"] * 5, id="without a date and back"
        ),
        pytest.param(
            UNDATED.with_rename("C", day(3)),
            "BBBCC",
            ["AB", "AB", "AB", "C", "C"],
            id="then with a date",
        ),
        pytest.param(
            DATED.with_rename("C", None),
            "AACCC",
            ["A", "A", "BC", "BC", "BC"],
            id="then without one",
        ),
    ],
)
def test_the_tickers_of_a_day(share, requested, counted):
    """The ticker to request, and the tickers whose readings count."""
    assert "".join(share.ticker_on(day(number)) for number in range(5)) == requested
    for number, tickers in enumerate(counted):
        assert [ticker for ticker in "ABC" if share.is_ticker_on(ticker, day(number))] == list(
            tickers
        )


def test_the_tickers_as_they_were():
    """For a day that was read before a rename, the share is returned without that rename."""
    twice = DATED.with_rename("C", day(3))
    assert twice.as_read("A", day(1)) == twice
    assert twice.as_read("A", day(2)) == ONE
    assert twice.as_read("A", day(4)) == ONE
    assert twice.as_read("B", day(4)) == DATED
    assert twice.as_read("C", day(4)) == twice


@pytest.mark.parametrize(
    ("under_new", "factor", "fits"),
    [
        pytest.param({2: "10.99"}, None, True, id="less than a tenth up"),
        pytest.param({2: "11.00"}, None, False, id="a tenth up"),
        pytest.param({2: "9.01"}, None, True, id="less than a tenth down"),
        pytest.param({2: "9.00"}, None, False, id="a tenth down"),
        pytest.param({1: "10.01", 2: "20"}, None, True, id="the same history under the new ticker"),
        pytest.param({1: "10.02", 2: "20"}, None, False, id="the history of another share"),
        pytest.param({0: "10.00", 2: "20"}, None, False, id="another session of the history"),
        pytest.param({1: "10.00"}, None, True, id="no close since but the same history"),
        pytest.param({1: "11.00"}, None, False, id="no close since"),
        pytest.param({2: "100"}, (2, "0.1"), True, id="a split with the rename"),
        pytest.param({3: "100"}, (3, "0.1"), True, id="a split before the first close since"),
        pytest.param({2: "100"}, (3, "0.1"), False, id="a split after it"),
        pytest.param(
            {2: "100"}, (1, "0.1"), False, id="a split of the share that had the ticker before"
        ),
    ],
)
def test_closes_around_a_rename(under_new, factor, fits):
    """A's last close is 10; B has these closes, and is A's share from day 2 on."""

    def close(ticker: str, number: int, price: str) -> Close:
        return Close(
            id=UUID(int=number),
            ticker=ticker,
            trading_day=day(number),
            open=None,
            close=Decimal(price),
            source="test",
            read_at=AT,
        )

    old = [close("A", 0, "12"), close("A", 1, "10")]
    splits = []
    if factor:
        number, text = factor
        splits = [
            Split(
                ticker="B",
                effective_date=day(number),
                factor=Decimal(text),
                source="test",
                read_at=AT,
            )
        ]
    comparison = compare_closes(
        old=old,
        new=[close("B", *one) for one in under_new.items()],
        factors=splits,
        from_session=day(2),
    )
    assert (comparison.fits, comparison.old.close) == (fits, 10)


@pytest.mark.parametrize(
    ("sentence", "ticker", "is_named"),
    [
        ("Alpha Vantage does not know KO.", "KO", True),
        ("KO, BRK.B and A have no recent price.", "A", True),
        ("Alpha Vantage does not know KO.", "A", False),
        ("Alpha Vantage does not know KO.", "V", False),
        ("The close of BRK.B is missing.", "BRK", False),
        ("The close of BRK.B is missing.", "B", False),
        ("KO has no recent price.", "K", False),
    ],
)
def test_a_ticker_is_named_as_a_word(sentence, ticker, is_named):
    assert names_ticker(sentence, ticker) == is_named
    assert names(sentence, ticker) == is_named
