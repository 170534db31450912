"""Prices and percentages, to the last digit."""

import decimal
import re
from datetime import date
from decimal import ROUND_UP, Context, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import returns
from app.domain.returns import format_decimal, measure_returns, parse_price, return_pct
from app.errors import ProviderUnavailable

SESSION = date(2026, 1, 9)

prices = st.decimals(min_value="0.0001", max_value="1000000", places=4)
factors = st.sampled_from([Decimal(text) for text in ("1", "2", "4", "10", "1.5", "0.1", "0.05")])
percentages = st.decimals(min_value="-100", max_value="100000", places=26)


@pytest.mark.parametrize(
    ("initial", "current", "expected"),
    [
        pytest.param("80", "84", "5", id="up"),
        pytest.param("250.50", "125.25", "-50", id="down to the half"),
        pytest.param("61.0700", "61.0700", "0", id="unmoved"),
        pytest.param("3", "4", "33.33333333333333333333333333", id="a third: cut after 28 digits"),
        pytest.param("3", "5", "66.66666666666666666666666667", id="two thirds: rounded up"),
        pytest.param("7", "8", "14.28571428571428571428571429", id="a seventh"),
        pytest.param("190.15", "187.42", "-1.435708651064948724691033395", id="a usual day"),
        pytest.param(
            "687.21", "691.78", "0.6650077851020794225928027823", id="a usual day of the benchmark"
        ),
        pytest.param(
            "1", "1.0000000000000000000000000005", "0", id="a tie goes to the even digit below"
        ),
        pytest.param(
            "1", "1.0000000000000000000000000015", "0.0000000000000000000000002", id="or above"
        ),
    ],
)
def test_return(initial, current, expected):
    """
    A return is the change in percent, each operation rounded to 28 significant digits, half-even.
    """
    assert return_pct(Decimal(initial), Decimal(current)) == Decimal(expected)


@pytest.mark.parametrize(
    ("initial", "current", "factor", "expected"),
    [
        pytest.param("200", "55", "4", "10", id="four for one"),
        pytest.param("5", "60", "0.1", "20", id="one for ten"),
        pytest.param("90", "30", "3", "0", id="two splits, two and one and a half"),
        pytest.param("100", "33.34", "3", "0.02", id="three for one"),
        pytest.param(
            "3", "0.7", "10", "133.3333333333333333333333333", id="ten for one, with digits"
        ),
    ],
)
def test_return_after_splits(initial, current, factor, expected):
    """A split changes the number of shares, and not their value."""
    assert return_pct(Decimal(initial), Decimal(current), Decimal(factor)) == Decimal(expected)


def test_measure():
    """A pick has its return and its excess over the benchmark: 5 and 33.33... percent."""
    measured = measure_returns(
        initial=Decimal(80),
        current=Decimal(21),
        factor=Decimal(4),
        benchmark_return_pct=return_pct(Decimal(3), Decimal(4)),
    )
    assert measured.absolute_return_pct == Decimal("5")
    assert measured.vs_benchmark_pct == Decimal("-28.33333333333333333333333333")


def test_measure_rounds_the_difference():
    """
    The difference is rounded to 28 digits, too: 100 less a seventh of 100, which has 28 digits
    after the point.
    """
    against = Decimal("0.1428571428571428571428571429")
    measured = measure_returns(
        initial=Decimal(1), current=Decimal(2), factor=Decimal(1), benchmark_return_pct=against
    )
    assert measured.vs_benchmark_pct == Decimal("99.85714285714285714285714286")


@settings(deadline=None)
@given(initial=prices, current=prices, factor=factors, benchmark=percentages)
def test_vs_benchmark_is_the_difference(initial, current, factor, benchmark):
    """For any prices, the excess is the pick's return less the benchmark's."""
    measured = measure_returns(
        initial=initial, current=current, factor=factor, benchmark_return_pct=benchmark
    )
    assert measured.absolute_return_pct == return_pct(initial, current, factor)
    assert measured.vs_benchmark_pct == Context(prec=28).subtract(
        measured.absolute_return_pct, benchmark
    )


@settings(deadline=None)
@given(initial=prices, current=prices, factor=factors, benchmark=percentages)
def test_no_other_decimal_context_changes_a_figure(initial, current, factor, benchmark):
    """Another precision, rounding or trap has no effect, and the context stays unchanged."""
    expected = measure_returns(
        initial=initial, current=current, factor=factor, benchmark_return_pct=benchmark
    )
    with decimal.localcontext(
        Context(prec=5, rounding=ROUND_UP, traps=[decimal.Inexact])
    ) as foreign:
        assert (
            measure_returns(
                initial=initial, current=current, factor=factor, benchmark_return_pct=benchmark
            )
            == expected
        )
        assert parse_price(format_decimal(initial), "KO", SESSION) == initial
        assert Decimal(format_decimal(expected.absolute_return_pct)) == expected.absolute_return_pct
        assert not foreign.flags[decimal.Inexact]


def test_the_decimal_context():
    """28 significant digits, half-even."""
    assert (returns.DECIMAL_CONTEXT.prec, returns.DECIMAL_CONTEXT.rounding) == (
        28,
        "ROUND_HALF_EVEN",
    )


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "187.42",
        "0.0001",
        "742115.0000",
        "100000000000000000000000000000.01",
        "5.00000000000000000000000000001",
    ],
)
def test_price(text):
    """A price has every digit of its text."""
    assert str(parse_price(text, "KO", SESSION)) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("NaN", id="no number"),
        pytest.param("sNaN", id="a signalling NaN"),
        pytest.param("Infinity", id="infinity"),
        pytest.param("-Infinity", id="minus infinity"),
        pytest.param("inf", id="infinity, short"),
        pytest.param("0", id="zero"),
        pytest.param("0.0000", id="zero with digits"),
        pytest.param("-1", id="negative"),
        pytest.param("-0", id="negative zero"),
        pytest.param("+1", id="a plus sign"),
        pytest.param("1e3", id="an exponent"),
        pytest.param("1_000", id="an underscore"),
        pytest.param("1,000.00", id="a comma"),
        pytest.param("$12", id="a currency"),
        pytest.param("", id="nothing"),
        pytest.param(" ", id="a space"),
        pytest.param(" 1", id="a space before"),
        pytest.param("1\n", id="a line feed after"),
        pytest.param("1.", id="no digit after the point"),
        pytest.param(".5", id="no digit before the point"),
        pytest.param(".", id="only a point"),
        pytest.param("1.2.3", id="two points"),
        pytest.param("１２", id="full-width digits"),
        pytest.param("٣", id="an Arabic digit"),
        pytest.param("²", id="a superscript"),
        pytest.param("1\x000", id="a NUL"),
        pytest.param(None, id="null"),
        pytest.param(12.5, id="a float"),
        pytest.param(12, id="an integer"),
        pytest.param(True, id="a truth value"),
        pytest.param(["1"], id="a list"),
        pytest.param("9" * 200 + "x", id="a long text"),
    ],
)
def test_refused_prices(text):
    """
    A text that is no finite number above zero in plain notation is refused, with the ticker and the
    session.
    """
    with pytest.raises(ProviderUnavailable, match=r"^BRK\.B, 2026-01-09: ") as refused:
        parse_price(text, "BRK.B", SESSION)
    assert len(str(refused.value)) < 150
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("5.00", "5.00", id="zeros stay"),
        pytest.param("1E+3", "1000", id="no exponent"),
        pytest.param("1E-10", "0.0000000001", id="no negative exponent"),
        pytest.param("0E-7", "0.0000000", id="zero with its digits"),
        pytest.param("0E+2", "0", id="zero without"),
        pytest.param(
            "-28.33333333333333333333333333", "-28.33333333333333333333333333", id="every digit"
        ),
        pytest.param(
            "123456789012345678901234567890.5",
            "123456789012345678901234567890.5",
            id="more than 28",
        ),
    ],
)
def test_plain(value, expected):
    """A number is written out, without an exponent and without rounding."""
    assert format_decimal(Decimal(value)) == expected


@settings(deadline=None)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=30)
    | st.decimals(-(10**9), 10**9, places=4)
)
def test_plain_and_back(value):
    """The plain notation of a number reads as the same number."""
    assert Decimal(format_decimal(value)) == value
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", format_decimal(value))
