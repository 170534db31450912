"""What a split means, when it counts, and which moves ask for one: arithmetic, nearly all of it without a database."""

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from api import schema
from app.domain import splits
from app.domain.model import Close, Split
from app.domain.returns import measure, return_pct

BASELINE, SESSION = date(2026, 10, 23), date(2026, 10, 28)
AT = datetime(2026, 10, 29, 13, tzinfo=UTC)

# What a provider writes: four decimals, or fewer.
written = st.integers(1, 30_000).map(lambda number: Decimal(number).scaleb(-4))
# Factors that a holder's count of shares really changes by, without a remainder in decimals.
exact = st.sampled_from([Decimal(text) for text in ("2", "4", "10", "20", "1.5", "1.25", "0.5", "0.1", "0.05", "0.04")])
prices = st.decimals(min_value="0.0001", max_value="100000", places=4)


def a_split(day: date, factor: str, *, minutes: int = 0) -> Split:
    """A reading of NVDA's split, some minutes after nine."""
    at = AT + timedelta(minutes=minutes)
    return Split(ticker="NVDA", effective_date=day, factor=Decimal(factor), source="a test", read_at=at)


def a_path(*closes: str, first: date = SESSION) -> list[Close]:
    """Closes of a day each."""
    return [
        Close(
            id=UUID(int=number),
            ticker="NVDA",
            trading_day=first + timedelta(days=number),
            open=None,
            close=Decimal(close),
            source="a test",
            read_at=AT,
        )
        for number, close in enumerate(closes)
    ]


# What a factor means


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param("0.0667", "0.06666666666666666666666666667", id="1:15"),
        pytest.param("0.3333", "0.3333333333333333333333333333", id="1:3"),
        pytest.param("0.1667", "0.1666666666666666666666666667", id="1:6"),
        pytest.param("0.1429", "0.1428571428571428571428571429", id="1:7"),
        pytest.param("0.0833", "0.08333333333333333333333333333", id="1:12"),
        pytest.param("0.0286", "0.02857142857142857142857142857", id="1:35"),
        pytest.param("0.0099", "0.009900990099009900990099009901", id="1:101, the only n that is written so"),
        pytest.param("0.5", "0.5", id="1:2, nothing was rounded"),
        pytest.param("0.5000", "0.5000", id="1:2 with zeros"),
        pytest.param("0.1000", "0.1000", id="1:10"),
        pytest.param("0.0400", "0.0400", id="1:25"),
        pytest.param("0.0100", "0.0100", id="1:100"),
        pytest.param("0.0125", "0.0125", id="1:80"),
        pytest.param("0.33", "0.3333333333333333333333333333", id="1:3 with two decimals"),
        pytest.param("0.333333", "0.3333333333333333333333333333", id="1:3 with six"),
        pytest.param("0.067", "0.06666666666666666666666666667", id="1:15 with three"),
        pytest.param("0.1", "0.1", id="one decimal: 1:10, or any n from 7 to 20"),
        pytest.param("0.3", "0.3", id="one decimal that is no 1:n: 1:3 might be meant, or 3:10; both are written so"),
        pytest.param("0.07", "0.07", id="two decimals: 1:14 or 1:15"),
        pytest.param("0.6667", "0.6667", id="2:3 is no 1:n"),
        pytest.param("0.7500", "0.7500", id="3:4"),
        pytest.param("0.4000", "0.4000", id="2:5"),
        pytest.param("0.9999", "0.9999", id="almost 1"),
        pytest.param("0.0067", "0.0067", id="1:149 or 1:150"),
        pytest.param("0.0001", "0.0001", id="1:10000, or thousands of others"),
        pytest.param("0", "0", id="nothing, which is refused elsewhere"),
        pytest.param("1", "1", id="none"),
        pytest.param("1.0000", "1.0000", id="none, with zeros"),
        pytest.param("1.2530", "1.2530", id="a spin-off"),
        pytest.param("1.3333", "1.3333", id="4:3 is no 1:n"),
        pytest.param("1.25", "1.25", id="5:4"),
        pytest.param("4.0000", "4.0000", id="4:1"),
        pytest.param("20", "20", id="20:1"),
    ],
)
def test_what_a_factor_means(said, expected):
    """A rounded 1/n means 1/n, with 28 digits; anything else is what it says, digit by digit."""
    assert str(splits.meant(Decimal(said))) == expected


@settings(deadline=None)
@given(st.integers(2, 100), st.integers(4, 8))
def test_a_rounded_nth_is_an_nth(n, places):
    """Whatever n up to a hundred: written with four decimals or more it is told from all others."""
    said = Decimal(f"{1 / Decimal(n):.{places}f}")
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        assert splits.meant(said) == 1 / Decimal(n)


@settings(deadline=None)
@given(written)
def test_what_is_meant_is_written_as_it_was_said(said):
    """Nothing is made of a factor that would not be written as it was; meaning it twice changes nothing."""
    meant = splits.meant(said)
    assert abs(meant - said) <= Decimal("0.00005")
    assert splits.meant(meant) == meant


@settings(deadline=None)
@given(written)
def test_nobody_elses_context_changes_a_meaning(said):
    """A foreign precision has no effect."""
    expected = splits.meant(said)
    with localcontext(Context(prec=3)):
        assert splits.meant(said) == expected


# What holds of several readings


def test_in_force():
    """Of each date the newest reading, whatever the order they come in; a factor of 1 takes back; oldest date first."""
    first, second, third = SESSION, SESSION + timedelta(days=1), SESSION + timedelta(days=2)
    readings = [
        a_split(third, "2", minutes=3),
        a_split(second, "1", minutes=2),
        a_split(first, "3", minutes=5),
        a_split(second, "4", minutes=1),
        a_split(first, "2", minutes=4),
    ]
    assert [(one.effective_date, one.factor) for one in splits.in_force(readings)] == [
        (first, 3),
        (second, 1),
        (third, 2),
    ]
    assert splits.in_force([]) == []


def test_a_split_that_is_taken_back_and_listed_again():
    """The newest word counts."""
    readings = [a_split(SESSION, "4"), a_split(SESSION, "1.0000", minutes=1), a_split(SESSION, "5", minutes=2)]
    assert splits.factor(splits.in_force(readings[:2]), date.min, date.max) == 1
    assert [one.factor for one in splits.in_force(readings)] == [5]


# When a split counts


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        pytest.param("2026-10-22", "1", id="before the baseline session"),
        pytest.param("2026-10-23", "1", id="on the baseline session, whose close has it in it"),
        pytest.param("2026-10-24", "4", id="the day after"),
        pytest.param("2026-10-26", "4", id="on the run date"),
        pytest.param("2026-10-28", "4", id="on the trading day"),
        pytest.param("2026-10-29", "1", id="the day after the trading day"),
    ],
)
def test_the_window(effective, expected):
    """Splits count that came into force after the baseline session, up to and including the trading day."""
    assert splits.factor([a_split(date.fromisoformat(effective), "4")], BASELINE, SESSION) == Decimal(expected)


def test_several_splits_multiply():
    """Each counts from its own day on; the order of rounding is that of their dates."""
    third = "0.3333333333333333333333333333"
    both = [a_split(date(2026, 10, 26), third), a_split(date(2026, 10, 28), "7")]
    assert splits.factor(both, BASELINE, date(2026, 10, 27)) == Decimal(third)
    assert str(splits.factor(both, BASELINE, SESSION)) == "2.333333333333333333333333333"
    assert splits.factor(both, date(2026, 10, 26), SESSION) == 7
    assert splits.factor((), BASELINE, SESSION) == 1


# Which moves ask, and which are marked


@pytest.mark.parametrize(
    ("closes", "expected"),
    [
        pytest.param(("100", "110"), True, id="a tenth up"),
        pytest.param(("100", "90"), True, id="a tenth down"),
        pytest.param(("100", "109.9999"), False, id="almost a tenth up"),
        pytest.param(("100", "90.0001"), False, id="almost a tenth down"),
        pytest.param(("0.0010", "0.0011"), True, id="a tenth of little"),
        pytest.param(("187.43", "206.173"), True, id="a tenth, as no float has it"),
        pytest.param(("100", "105", "110.24"), False, id="two halves of a tenth"),
        pytest.param(("100",), False, id="one session"),
        pytest.param((), False, id="none"),
    ],
)
def test_a_move_that_asks(closes, expected):
    """A tenth or more between neighbours, exactly."""
    path = a_path(*closes)
    assert splits.suspicious(path) == ([path[-1].trading_day] if expected else [])


def test_every_move_that_asks_is_named():
    """By the session that it led to, whatever splits are known: they may not be all."""
    path = a_path("100", "25", "26", "30", "30")
    assert splits.suspicious(path) == [path[1].trading_day, path[3].trading_day]


FOUR = a_split(SESSION + timedelta(days=1), "4")


@pytest.mark.parametrize(
    ("closes", "known", "expected"),
    [
        pytest.param(("100", "125"), [], True, id="a quarter up"),
        pytest.param(("100", "75"), [], True, id="a quarter down"),
        pytest.param(("100", "124.9999"), [], False, id="almost a quarter up"),
        pytest.param(("100", "75.0001"), [], False, id="almost a quarter down"),
        pytest.param(("100", "25"), [], True, id="a split that nobody knows of"),
        pytest.param(("100", "25"), [FOUR], False, id="a split that explains it"),
        pytest.param(("100", "31.25"), [FOUR], True, id="exactly a quarter more than the split explains"),
        pytest.param(("100", "31.2499"), [FOUR], False, id="almost"),
        pytest.param(("100", "18.75"), [FOUR], True, id="exactly a quarter less"),
        pytest.param(("100", "18.7501"), [FOUR], False, id="almost, too"),
        pytest.param(("100", "100"), [FOUR], True, id="a split without its move"),
        pytest.param(("100", "100", "25"), [FOUR], True, id="a split a day before its move"),
        pytest.param(("100", "80"), [a_split(FOUR.effective_date, "1.25")], False, id="five for four"),
        pytest.param(("100", "125", "125", "125"), [], True, id="once is enough"),
        pytest.param(("100", "110", "121", "133.1"), [], False, id="a third in all, in tenths"),
    ],
)
def test_a_move_that_is_marked(closes, known, expected):
    """A quarter or more between neighbours, exactly, after the splits in between."""
    assert splits.unexplained(a_path(*closes), known) is expected


def test_a_gap_in_the_path():
    """Over a session that nobody read, both days' splits count."""
    first, _, last = a_path("100", "0", "50")
    between = [a_split(first.trading_day + timedelta(days=1), "1.6"), a_split(last.trading_day, "1.25")]
    assert not splits.unexplained([first, last], between)
    assert splits.unexplained([first, last], between[:1]) is False  # 80 of 100
    assert splits.unexplained([first, last], between[1:])  # 62.50 of 100


# Whatever the numbers


@settings(deadline=None)
@given(initial=prices, current=prices, factor=exact)
def test_an_exact_split_changes_no_return(initial, current, factor):
    """A share that is worth the same in other pieces has the same return, to the last digit."""
    with localcontext(Context(prec=60)):
        in_pieces = current / factor
        assume(in_pieces * factor == current)
    assert return_pct(initial, in_pieces, factor) == return_pct(initial, current)


@settings(deadline=None)
@given(initial=prices, current=prices, factors=st.lists(exact, max_size=4))
def test_a_return_counts_every_split(initial, current, factors):
    """What the law says, in fractions: they agree to the 26th digit of the larger of 100 and the price's share."""
    known = [a_split(BASELINE + timedelta(days=1 + number), str(one)) for number, one in enumerate(factors)]
    got = return_pct(initial, current, splits.factor(known, BASELINE, BASELINE + timedelta(days=9)))
    share = Fraction(current) / Fraction(initial)
    for one in factors:
        share *= Fraction(one)
    assert abs(Fraction(got) - (share - 1) * 100) <= max(share, 1) * Fraction(1, 10**25)


@settings(deadline=None)
@given(initial=prices, current=prices, factor=exact, b0=prices, b=prices)
def test_vs_benchmark_is_the_difference(initial, current, factor, b0, b):
    """After splits as before: the pick's return less the benchmark's; and a benchmark's split changes none."""
    benchmark = return_pct(b0, b)
    measured = measure(initial, current, factor, benchmark)
    assert measured.vs_benchmark_pct == Context(prec=28).subtract(measured.absolute_return_pct, benchmark)
    with localcontext(Context(prec=60)):
        in_pieces = b / factor
        assume(in_pieces * factor == b)
    assert measure(initial, current, factor, return_pct(b0, in_pieces, factor)) == measured


@settings(deadline=None)
@given(st.lists(prices, min_size=2, max_size=6), exact, st.integers(1, 5))
def test_a_split_that_is_known_marks_nothing_more(closes, factor, at):
    """Cut from some day on into pieces, with the split known, a path is marked if and only if it was before."""
    path = a_path(*map(str, closes))
    cut = path[0].trading_day + timedelta(days=at)
    with localcontext(Context(prec=60)):
        pieces = [str(one / factor) if number >= at else str(one) for number, one in enumerate(closes)]
    known = [a_split(cut, str(factor))]
    assert splits.unexplained(a_path(*pieces), known) == splits.unexplained(path, ())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(initial=prices, current=prices, factor=exact, benchmark=st.decimals(-100, 1000, places=26))
def test_directional_figures_mirror(database, initial, current, factor, benchmark):
    """Whatever a BUY and a SELL of the same share have: the same two figures, and in their direction the opposite."""
    measured = measure(initial, current, factor, benchmark)
    fields = {
        field.python_name: field.metadata["source"] for field in schema.PickMetric.__strawberry_definition__.fields
    }
    with psycopg.connect(database) as conn:
        buy, sell = conn.execute(
            f"""
            WITH picks (id, action) AS (VALUES (1, 'BUY'), (2, 'SELL')),
                pick_checkpoint_metrics (pick_id, absolute_return_pct, vs_benchmark_pct) AS (
                    SELECT id, %s::numeric, %s::numeric FROM picks)
            SELECT {fields["directional_return_pct"].sql}, {fields["alpha_pct"].sql}, {fields["hit"].sql}
            FROM pick_checkpoint_metrics
            ORDER BY pick_id
            """,
            (measured.absolute_return_pct, measured.vs_benchmark_pct),
        ).fetchall()
    assert buy[:2] == (measured.absolute_return_pct, measured.vs_benchmark_pct)
    assert sell[:2] == (-buy[0], -buy[1])
    assert (buy[2], sell[2]) == (buy[1] > 0, buy[1] < 0)
