"""The arithmetic of splits: what a factor means, when a split counts, and which moves need one."""

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from app.domain import calendar, splits
from app.domain.model import Bar, Close, Split
from app.domain.returns import measure_returns, return_pct

BASELINE, SESSION = date(2026, 10, 23), date(2026, 10, 28)
AT = datetime(2026, 10, 29, 13, tzinfo=UTC)

# The factors as a provider lists them: with four decimals, or fewer.
listed_factors = st.integers(1, 30_000).map(lambda number: Decimal(number).scaleb(-4))
# Factors that a holder's count of shares really changes by, without a remainder in decimals.
exact = st.sampled_from(
    [Decimal(text) for text in ("2", "4", "10", "20", "1.5", "1.25", "0.5", "0.1", "0.05", "0.04")]
)
prices = st.decimals(min_value="0.0001", max_value="100000", places=4)


def a_split(day: date, factor: str, *, minutes: int = 0) -> Split:
    """Return a reading of NVDA's split, some minutes after nine."""
    at = AT + timedelta(minutes=minutes)
    return Split(
        ticker="NVDA", effective_date=day, factor=Decimal(factor), source="a test", read_at=at
    )


def a_path(*closes: str, first: date = SESSION) -> list[Close]:
    """Return the closes of consecutive days, all read long afterwards."""
    return [
        Close(
            id=UUID(int=number),
            ticker="NVDA",
            trading_day=first + timedelta(days=number),
            open=None,
            close=Decimal(close),
            source="a test",
            read_at=AT + timedelta(days=60),
        )
        for number, close in enumerate(closes)
    ]


# What a factor means


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        pytest.param("0.0667", "0.06666666666666666666666666667", id="1:15"),
        pytest.param("0.3333", "0.3333333333333333333333333333", id="1:3"),
        pytest.param("0.1667", "0.1666666666666666666666666667", id="1:6"),
        pytest.param("0.1429", "0.1428571428571428571428571429", id="1:7"),
        pytest.param("0.0833", "0.08333333333333333333333333333", id="1:12"),
        pytest.param("0.0286", "0.02857142857142857142857142857", id="1:35"),
        pytest.param(
            "0.0099", "0.009900990099009900990099009901", id="1:101, the only n that is written so"
        ),
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
        pytest.param(
            "0.3",
            "0.3",
            id="one decimal that is no 1:n: 1:3 might be meant, or 3:10; both are written so",
        ),
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
def test_what_a_factor_means(factor, expected):
    """A rounded 1/n means 1/n, with 28 digits; any other factor stays, digit by digit."""
    assert str(splits.intended_factor(Decimal(factor))) == expected


@settings(deadline=None)
@given(st.integers(2, 100), st.integers(4, 8))
def test_a_rounded_nth_is_an_nth(n, places):
    """Every n up to a hundred is recognized from four or more decimals."""
    factor = Decimal(f"{1 / Decimal(n):.{places}f}")
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        assert splits.intended_factor(factor) == 1 / Decimal(n)


@settings(deadline=None)
@given(listed_factors)
def test_an_intended_factor_is_listed_as_its_factor(factor):
    """The intended factor would be listed as this factor, and its own intended factor is itself."""
    meant = splits.intended_factor(factor)
    assert abs(meant - factor) <= Decimal("0.00005")
    assert splits.intended_factor(meant) == meant


@settings(deadline=None)
@given(listed_factors)
def test_no_other_decimal_context_changes_a_factor(factor):
    """Another precision has no effect."""
    expected = splits.intended_factor(factor)
    with localcontext(Context(prec=3)):
        assert splits.intended_factor(factor) == expected


# What holds of several readings


def test_newest_by_effective_date():
    """
    The newest reading of each date counts, in any order of input; a factor of 1 removes a split;
    the oldest date is first.
    """
    first, second, third = SESSION, SESSION + timedelta(days=1), SESSION + timedelta(days=2)
    readings = [
        a_split(third, "2", minutes=3),
        a_split(second, "1", minutes=2),
        a_split(first, "3", minutes=5),
        a_split(second, "4", minutes=1),
        a_split(first, "2", minutes=4),
    ]
    assert [
        (one.effective_date, one.factor) for one in splits.newest_by_effective_date(readings)
    ] == [
        (first, 3),
        (second, 1),
        (third, 2),
    ]
    assert splits.newest_by_effective_date([]) == []


def test_a_split_that_is_taken_back_and_listed_again():
    """The newest reading counts."""
    readings = [
        a_split(SESSION, "4"),
        a_split(SESSION, "1.0000", minutes=1),
        a_split(SESSION, "5", minutes=2),
    ]
    assert (
        splits.total_factor(splits.newest_by_effective_date(readings[:2]), date.min, date.max) == 1
    )
    assert [one.factor for one in splits.newest_by_effective_date(readings)] == [5]


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
    """
    Splits count that became effective after the baseline session, up to and including the trading
    day.
    """
    assert splits.total_factor(
        [a_split(date.fromisoformat(effective), "4")], BASELINE, SESSION
    ) == Decimal(expected)


def test_several_splits_multiply():
    """
    Each counts from its own date on, and they are multiplied and rounded in the order of their
    dates.
    """
    third = "0.3333333333333333333333333333"
    both = [a_split(date(2026, 10, 26), third), a_split(date(2026, 10, 28), "7")]
    assert splits.total_factor(both, BASELINE, date(2026, 10, 27)) == Decimal(third)
    assert str(splits.total_factor(both, BASELINE, SESSION)) == "2.333333333333333333333333333"
    assert splits.total_factor(both, date(2026, 10, 26), SESSION) == 7
    assert splits.total_factor((), BASELINE, SESSION) == 1


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
def test_a_move_that_needs_a_request(closes, expected):
    """A tenth or more between neighbouring sessions, exactly, causes a request for splits."""
    path = a_path(*closes)
    assert splits.suspicious_sessions(path) == ([path[-1].trading_day] if expected else [])


def test_every_move_that_needs_a_request_is_returned():
    """
    The session after the move is returned, also if splits are known: they may not be complete.
    """
    path = a_path("100", "25", "26", "30", "30")
    assert splits.suspicious_sessions(path) == [path[1].trading_day, path[3].trading_day]


FOUR = a_split(SESSION + timedelta(days=1), "4")


@pytest.mark.parametrize(
    ("closes", "known", "expected"),
    [
        pytest.param(("100", "110"), [], True, id="a tenth up"),
        pytest.param(("100", "90"), [], True, id="a tenth down"),
        pytest.param(("100", "109.9999"), [], False, id="almost a tenth up"),
        pytest.param(("100", "90.0001"), [], False, id="almost a tenth down"),
        pytest.param(("100", "88"), [], True, id="a spin-off of an eighth that is not listed"),
        pytest.param(("100", "25"), [], True, id="a split that is not listed"),
        pytest.param(("100", "25"), [FOUR], False, id="a split that explains it"),
        pytest.param(
            ("100", "27.5"), [FOUR], True, id="exactly a tenth more than the split explains"
        ),
        pytest.param(("100", "27.4999"), [FOUR], False, id="almost a tenth more"),
        pytest.param(("100", "22.5"), [FOUR], True, id="exactly a tenth less"),
        pytest.param(("100", "22.5001"), [FOUR], False, id="almost a tenth less"),
        pytest.param(("100", "100"), [FOUR], True, id="a split without its move"),
        pytest.param(
            ("100", "100", "25"),
            [FOUR],
            False,
            id="a split a day before its move: the last figure is right",
        ),
        pytest.param(
            ("100", "80"), [a_split(FOUR.effective_date, "1.25")], False, id="five for four"
        ),
        pytest.param(("100", "110", "110", "110"), [], True, id="once is enough"),
        pytest.param(
            ("100", "112", "101", "99"), [], True, id="a move that was undone stays in the figure"
        ),
        pytest.param(
            ("100", "112", "107", "105"), [], True, id="also when less than a tenth is left of it"
        ),
        pytest.param(
            ("100", "109", "118", "128"), [], False, id="more than a quarter in all, each step less"
        ),
        pytest.param(("100",), [], False, id="the baseline alone"),
        pytest.param((), [], False, id="nothing"),
    ],
)
def test_a_move_that_is_marked(closes, known, expected):
    """A tenth or more between neighbouring sessions, exactly, after the splits in between."""
    assert splits.has_unexplained_move(a_path(*closes), known) is expected


def test_a_gap_in_the_path():
    """Over a session without a reading, the splits of both days count."""
    first, _, last = a_path("100", "0", "50")
    between = [
        a_split(first.trading_day + timedelta(days=1), "1.6"),
        a_split(last.trading_day, "1.25"),
    ]
    assert not splits.has_unexplained_move([first, last], between)
    assert splits.has_unexplained_move([first, last], between[:1])  # 80 of 100
    assert splits.has_unexplained_move([first, last], between[1:])  # 62.50 of 100


# The kind: a path whose readings are of several scales, because a provider restated its series.
# Each case has the close that each session's figure used (`-`: none, the checkpoint was skipped),
# and the session's newest reading (`-`: the same). A split is (its first session, its factor),
# where the baseline is session 0.
RESTATED = [
    pytest.param("1000 1010 100.5", "100 101 -", [], True, id="10:1, not listed yet"),
    pytest.param("1000 1010 100.5", "100 101 -", [(2, "10")], False, id="10:1, listed"),
    pytest.param("1000 100.5", "100 -", [], True, id="before the first checkpoint, not listed yet"),
    pytest.param(
        "1000 100.5", "100 -", [(1, "10")], False, id="before the first checkpoint, listed"
    ),
    pytest.param("1000 - 100.5", "100 101 -", [], True, id="over a skipped day, not listed yet"),
    pytest.param("1000 - 100.5", "100 101 -", [(2, "10")], False, id="over a skipped day"),
    pytest.param(
        "1000 101 100.5",
        "100 - -",
        [(2, "10")],
        False,
        id="a skipped day that was computed after it",
    ),
    pytest.param(
        "1000 101", "100 -", [(2, "10")], True, id="that day itself, whose figure is wrong"
    ),
    pytest.param("1000 101 100.5", "100 - -", [], True, id="the same, not listed yet"),
    pytest.param("2 2.02 30.15", "30 30.3 -", [(2, "0.0667")], False, id="1:15"),
    pytest.param("2 2.02 30.15", "30 30.3 -", [], True, id="1:15, not listed yet"),
    pytest.param(
        "2 30.3 30.15",
        "30 - -",
        [(2, "0.0667")],
        False,
        id="1:15, a skipped day that was computed after it",
    ),
    pytest.param("100 101 99.8", "99.4 100.4 -", [], False, id="by a dividend"),
    pytest.param(
        "100 - 89", "99 94 -", [], False, id="by a dividend, and a skipped day of a slow fall"
    ),
    pytest.param("100 - 89", "99 - -", [], True, id="a fall over a skipped day without a reading"),
    pytest.param(
        "600 606 303", "300 303 -", [(2, "2")], False, id="two splits, the first of them restated"
    ),
    pytest.param(
        "600 606 303 102", "300 303 - -", [(2, "2"), (3, "3")], False, id="two splits, both listed"
    ),
    pytest.param(
        "600 606 303 102", "300 303 - -", [(2, "2")], True, id="two splits, one not listed yet"
    ),
    pytest.param(
        "600 101 303 102",
        "100 - - -",
        [(2, "2"), (3, "3")],
        False,
        id="two splits, a day beyond both",
    ),
    pytest.param(
        "1000 1010 101 1012", "- - 1011 -", [], False, id="a restatement that was taken back"
    ),
    pytest.param(
        "1000 1010 101 1012", "- - - -", [], True, id="one of a day that was never read again"
    ),
    pytest.param(
        "100 1010 1012", "1000 - -", [], True, id="a baseline that was restated by mistake"
    ),
    pytest.param(
        "100 101 100.5",
        "- - -",
        [(2, "10")],
        True,
        id="a baseline of the new scale: figures are wrong",
    ),
    pytest.param(
        "1000 - 1010",
        "- 101 -",
        [],
        False,
        id="a skipped day read of the wrong scale marks nothing",
    ),
    pytest.param(
        "1000 - 885",
        "- 94 -",
        [(3, "10")],
        False,
        id="a slow fall over a skipped day of the new scale",
    ),
    pytest.param(
        "100 88 89",
        "- - -",
        [],
        True,
        id="an eighth down on the second day stays in the third's figure",
    ),
]


@pytest.mark.parametrize("days", [7, 8, 9])
def test_a_split_does_not_hide_a_move_before_it(days):
    """
    A sixth up in a session, read on the next morning; on the day after it a split by a tenth came
    into force.
    """
    path = a_path(
        "54.42", "53.15", "54.24", "54.49", "55.39", "55.71", "55.94", "64.98", "60.60", "59.27"
    )[: days + 1]
    read = [replace(one, read_at=calendar.due_at(one.trading_day, 1)) for one in path]
    split = a_split(SESSION + timedelta(days=8), "1.1034")
    assert splits.has_unexplained_move(read, [split], read)
    assert not splits.has_unexplained_move(read[:7], [split], read[:7])


@pytest.mark.parametrize(("used", "newest", "known", "expected"), RESTATED)
def test_a_restated_path_is_marked_if_its_figure_may_be_wrong(used, newest, known, expected):
    """
    The first and the last reading count unchanged; those in between can only explain the move.
    """
    on = a_path(*(price.replace("-", "0") for price in used.split()))
    again = a_path(*(price.replace("-", "0") for price in newest.split()))
    newest_of = [last if last.close else first for first, last in zip(on, again, strict=True)]
    listed = [
        a_split(SESSION + timedelta(days=day), str(splits.intended_factor(Decimal(factor))))
        for day, factor in known
    ]
    is_marked = splits.has_unexplained_move(
        used=[one for one in on if one.close],
        splits=listed,
        newest=[one for one in newest_of if one.close],
    )
    assert is_marked is expected


@pytest.mark.parametrize(
    ("used", "newest", "known", "expected"),
    [
        pytest.param("1000", "100", [(1, "10")], True, id="10:1"),
        pytest.param("1000", "100.5", [(1, "10")], True, id="10:1, and half a percent"),
        pytest.param(
            "1000",
            "110",
            [(1, "10")],
            False,
            id="10:1, and a tenth more: something else is wrong, too",
        ),
        pytest.param("1000", "100", [], False, id="without a split"),
        pytest.param("1000", "100", [(0, "10")], False, id="a split before that session"),
        pytest.param(
            "100",
            "1000",
            [(1, "10")],
            False,
            id="the other way round: the first reading was restated",
        ),
        pytest.param("2", "30", [(1, "0.0667")], True, id="1:15"),
        pytest.param("600", "300", [(1, "2"), (3, "3")], True, id="for the first of two"),
        pytest.param("600", "100", [(1, "2"), (3, "3")], True, id="for both of two"),
        pytest.param(
            "100", "101", [(1, "4")], False, id="a plain correction of a share with a split"
        ),
        pytest.param("100", "79.8", [(1, "1.2530")], True, id="a spin-off"),
        pytest.param(
            "100", "99.9", [(1, "1.0050")], False, id="nearer to no change than to a tiny split"
        ),
        pytest.param("100", "101", [(1, "1")], False, id="a split that was taken back"),
    ],
)
def test_a_reading_that_is_restated(used, newest, known, expected):
    """
    The ratio of its two closes is, within a hundredth, that of splits that became effective after
    its session.
    """
    (first,), (second,) = a_path(used), a_path(newest)
    listed = [
        a_split(SESSION + timedelta(days=day), str(splits.intended_factor(Decimal(factor))))
        for day, factor in known
    ]
    assert splits.is_restated(first, second, listed) is expected


@pytest.mark.parametrize(
    ("closes", "expected"),
    [
        pytest.param(["100", "10"], 1, id="a tenth of it"),
        pytest.param(["100", "100.02"], 1, id="two cents"),
        pytest.param(["100", "100.01"], None, id="a cent: a rounding"),
        pytest.param(["83.17", "83.1749"], None, id="more decimals"),
        pytest.param(["100", "100"], None, id="another open"),
        pytest.param(["100", "10", "10.01"], 1, id="again, by a rounding: the first counts"),
        pytest.param(["100", "10", "100"], 2, id="taken back: the last counts"),
        pytest.param(["100"], None, id="read once"),
        pytest.param([], None, id="never read"),
    ],
)
def test_a_session_that_is_read_differently(closes, expected):
    """A difference of more than a rounding causes a request for splits since that session."""
    at = [AT + timedelta(minutes=number) for number in range(len(closes))]
    readings = [
        replace(a_path(close)[0], read_at=moment) for close, moment in zip(closes, at, strict=True)
    ]
    later = a_path("7", first=SESSION + timedelta(days=1))  # another session is no other reading
    assert splits.last_changed_reading_at([*readings, *later]) == (
        None if expected is None else at[expected]
    )


# Whatever the numbers


@settings(deadline=None)
@given(initial=prices, current=prices, factor=exact)
def test_an_exact_split_changes_no_return(initial, current, factor):
    """
    A share that is split without a change of its value has the same return, to the last digit.
    """
    with localcontext(Context(prec=60)):
        in_pieces = current / factor
        assume(in_pieces * factor == current)
    assert return_pct(initial, in_pieces, factor) == return_pct(initial, current)


@settings(deadline=None)
@given(initial=prices, current=prices, factors=st.lists(exact, max_size=4))
def test_a_return_counts_every_split(initial, current, factors):
    """
    The return equals its definition in fractions, to the 26th digit of the larger of 100 and the
    price's share.
    """
    known = [
        a_split(BASELINE + timedelta(days=1 + number), str(one))
        for number, one in enumerate(factors)
    ]
    got = return_pct(
        initial, current, splits.total_factor(known, BASELINE, BASELINE + timedelta(days=9))
    )
    share = Fraction(current) / Fraction(initial)
    for one in factors:
        share *= Fraction(one)
    assert abs(Fraction(got) - (share - 1) * 100) <= max(share, 1) * Fraction(1, 10**25)


@settings(deadline=None)
@given(initial=prices, current=prices, factor=exact, b0=prices, b=prices)
def test_vs_benchmark_is_the_difference(initial, current, factor, b0, b):
    """
    Before and after splits, it is the pick's return less the benchmark's; a split of the benchmark
    changes neither.
    """
    benchmark = return_pct(b0, b)
    measured = measure_returns(
        initial=initial, current=current, factor=factor, benchmark_return_pct=benchmark
    )
    assert measured.vs_benchmark_pct == Context(prec=28).subtract(
        measured.absolute_return_pct, benchmark
    )
    with localcontext(Context(prec=60)):
        in_pieces = b / factor
        assume(in_pieces * factor == b)
    assert (
        measure_returns(
            initial=initial,
            current=current,
            factor=factor,
            benchmark_return_pct=return_pct(b0, in_pieces, factor),
        )
        == measured
    )


@settings(deadline=None)
@given(st.lists(prices, min_size=2, max_size=6), exact, st.integers(1, 5))
def test_a_split_that_is_known_marks_nothing_more(closes, factor, at):
    """
    If the shares are split from some day on, and the split is known, a path that was not marked is
    not marked.

    A path that was marked may become unmarked: a move of exactly the factor, which the split
    undoes, is a reading of another scale.
    """
    path = a_path(*map(str, closes))
    cut = path[0].trading_day + timedelta(days=at)
    with localcontext(Context(prec=60)):
        pieces = [
            str(one / factor) if number >= at else str(one) for number, one in enumerate(closes)
        ]
    known = [a_split(cut, str(factor))]
    assert splits.has_unexplained_move(path, ()) or not splits.has_unexplained_move(
        a_path(*pieces), known
    )


# Restated series: which bars of an answer are prices of later shares.

FIRST = date(2026, 11, 2)  # a Monday; sessions are counted from it
READ = date(2026, 11, 12)


def session(number: int) -> date:
    return calendar.Calendar().session_from(FIRST) + timedelta(days=number)


def stored(number: int, *readings: str) -> list[Close]:
    """
    Return the readings of a session, each written as "price" or "price, restated as of day", one
    for each morning.
    """
    return [
        Close(
            id=UUID(int=100 * number + place),
            ticker="NVDA",
            trading_day=session(number),
            open=None,
            close=Decimal(reading.partition(",")[0]),
            source="a provider" + "".join(reading.partition(",")[1:]),
            read_at=calendar.due_at(session(number), 1 + place),
        )
        for place, reading in enumerate(readings)
    ]


AS_OF = f", restated as of {session(3)}"


@pytest.mark.parametrize(
    ("known", "bars", "expected"),
    [
        pytest.param({0: ["1000"], 1: ["1010"]}, ["1000", "1010", "1020"], {}, id="as it was"),
        pytest.param({}, ["100", "101", "102"], {}, id="never read before"),
        pytest.param(
            {0: ["1000"]},
            ["100", "101", "102"],
            {0: READ, 1: READ, 2: READ},
            id="all before is restated",
        ),
        pytest.param(
            {0: ["1000"], 1: ["1010"]}, ["1000", "101", "1020"], {}, id="one price is corrected"
        ),
        pytest.param(
            {0: ["1000"]}, ["950", "960"], {}, id="the first is corrected, by less than a tenth"
        ),
        pytest.param(
            {0: ["1000"], 1: ["1010"]},
            ["1000", "1015"],
            {},
            id="the last is corrected by half a percent",
        ),
        pytest.param(
            {0: ["1000"], 1: ["1010"]}, ["995", "1005", "1015"], {}, id="adjusted for a dividend"
        ),
        pytest.param(
            {0: ["1000"], 1: ["1010"], 2: ["1020"]},
            ["1000", "101", "102", "103"],
            {1: READ, 2: READ, 3: READ},
            id="restated in part: two consecutive ones",
        ),
        pytest.param(
            {0: ["1000"], 3: ["101"]},
            ["100", "100.5", "100.7", "101", "102"],
            {0: READ, 1: READ, 2: READ},
            id="a session after the split was read in time",
        ),
        pytest.param(
            {0: ["1000", f"100{AS_OF}"]},
            ["100", "101", "102", "103", "104"],
            {n: session(3) for n in range(3)},
            id="restated days ago: later sessions are as traded",
        ),
        pytest.param(
            {0: [f"100{AS_OF}"], 1: [f"101{AS_OF}"]},
            ["100", "101", "102"],
            {n: session(3) for n in range(3)},
            id="nothing was read in time",
        ),
        pytest.param(
            {0: [f"100{AS_OF}"]},
            ["50", "50.5"],
            {0: READ, 1: READ},
            id="restated again",
        ),
        pytest.param(
            {0: ["1000", f"100{AS_OF}"], 1: [f"101{AS_OF}"]},
            ["1000", "1010", "1020"],
            {},
            id="taken back",
        ),
        pytest.param(
            {0: ["1000", "100"], 1: ["1010"]},
            ["100", "101", "102"],
            {0: session(2), 1: READ, 2: READ},
            id="a second reading of a version that did not say so",
        ),
        pytest.param(
            {0: ["187.19"], 1: ["187.31"], 2: ["184.95"]},
            ["169.6484", "169.7571", "167.6183", "164.5"],
            {0: READ, 1: READ, 2: READ, 3: READ},
            id="a spin-off of 1.1034, which falls by less than a tenth",
        ),
        pytest.param(
            {0: ["1000"], 1: ["1010"]}, ["980", "1050", "1060"], {}, id="two prices are corrected"
        ),
        pytest.param({0: ["100"]}, ["1500", "1510"], {0: READ, 1: READ}, id="a reverse split"),
    ],
)
def test_which_bars_are_restated(known, bars, expected):
    """
    The kind: a price of later shares than the session's, which is mistaken for the session's.

    A correction of one price is no restatement. A bar on or after the day on which the series was
    first read in the new scale is not restated either.
    """
    answer = [
        Bar(trading_day=session(n), open=None, close=Decimal(price)) for n, price in enumerate(bars)
    ]
    readings = {session(n): stored(n, *texts) for n, texts in known.items()}
    assert splits.find_restated_sessions(answer, readings, READ) == {
        session(n): since for n, since in expected.items()
    }


@pytest.mark.parametrize(
    ("source", "shares"),
    [
        ("a provider", session(1)),
        (f"a provider{AS_OF}", session(3)),
        ("a provider, restated as of 2026-12-31", date(2026, 12, 31)),
    ],
)
def test_the_date_of_a_prices_shares(source, shares):
    assert splits.basis_date(source, session(1)) == shares


def test_a_source_names_the_day():
    assert splits.basis_date(
        splits.restated_source("a provider", session(3)), session(1)
    ) == session(3)
