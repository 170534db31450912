"""
What each answer about dividends means.

Each table is a kind of answer; the first case is as the documentation shows it.
"""

import json
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    QuotaSpent,
)
from app.providers.alpha_vantage_answers import (
    ListedDividend,
    MaybeUnknownTicker,
    find_ex_dates,
    read_dividends,
    read_splits,
)
from app.simulation.faults import BAD_KEY, BURST, PREMIUM, QUOTA, UNKNOWN

KEY = "K7QZ4XW9J2VB8RTM"
NOW = datetime(2026, 10, 26, 13, tzinfo=UTC)
AUGUST, MAY = date(2026, 8, 10), date(2026, 5, 8)


def dividends(*rows: object, **members: object) -> Any:
    return read_body({"symbol": "IBM", "data": rows, **members})


def read_body(answer: object, ticker: str = "IBM") -> Any:
    """Return the dividends of an answer, which is an object or a text."""
    body = answer if isinstance(answer, str) else json.dumps(answer)
    return read_dividends(body.encode(), ticker=ticker, key=KEY, now=NOW)


def row(day: object, amount: object, **members: object) -> dict[str, object]:
    return {
        "ex_dividend_date": day,
        "declaration_date": "2026-07-29",
        "record_date": "2026-08-10",
        "payment_date": "2026-09-10",
        "amount": amount,
        **members,
    }


OLD = row("2026-05-08", "1.6800")


def test_the_dividends_are_oldest_first():
    """An amount keeps every digit that was sent."""
    listed, unreadable = dividends(row("2026-08-10", "1.69"), OLD)
    assert listed == [
        ListedDividend(MAY, Decimal("1.6800"), "1.6800"),
        ListedDividend(AUGUST, Decimal("1.69"), "1.69"),
    ]
    assert [str(one.amount) for one in listed] == ["1.6800", "1.69"]
    assert unreadable == []


def test_an_empty_list_is_an_answer():
    """The ticker pays no dividends."""
    assert dividends() == ([], [])


def test_a_dividend_of_the_future_is_read():
    listed, unreadable = dividends(row("2027-02-10", "1.69"))
    assert [one.ex_date for one in listed] == [date(2027, 2, 10)]
    assert unreadable == []


@pytest.mark.parametrize("member", ["declaration_date", "record_date", "payment_date"])
@pytest.mark.parametrize("odd", ["None", "", None, "soon", "2026-02-30", 5, [], {"a": [1]}, True])
def test_the_other_dates_do_not_matter(member, odd):
    listed, unreadable = dividends(row("2026-08-10", "1.69", **{member: odd}))
    assert listed == [ListedDividend(AUGUST, Decimal("1.69"), "1.69")]
    assert unreadable == []


def test_the_other_members_may_be_absent():
    listed, _ = dividends({"ex_dividend_date": "2026-08-10", "amount": "1.69"})
    assert listed == [ListedDividend(AUGUST, Decimal("1.69"), "1.69")]


# Several rows of one ex-date


@pytest.mark.parametrize(
    ("amounts", "amount", "text"),
    [
        pytest.param(("0.50", "2.00"), "2.50", "0.50 + 2.00", id="ordinary and special"),
        pytest.param(("2.00", "0.50"), "2.50", "0.50 + 2.00", id="in the other order"),
        pytest.param(("1.6900", "0.1"), "1.7900", "0.1 + 1.6900", id="other decimals"),
        pytest.param(("3", "1", "2"), "6", "1 + 2 + 3", id="three"),
        pytest.param(
            ("1" + "0" * 40, "0." + "0" * 40 + "1"),
            "1" + "0" * 40 + "." + "0" * 40 + "1",
            "0." + "0" * 40 + "1 + 1" + "0" * 40,
            id="without rounding",
        ),
    ],
)
def test_different_rows_of_one_ex_date_are_added_up(amounts, amount, text):
    """The order of the rows makes no difference."""
    (older, listed), unreadable = dividends(*(row("2026-08-10", one) for one in amounts), OLD)
    assert str(listed.amount) == amount
    assert (listed.ex_date, listed.text, older.amount) == (AUGUST, text, Decimal("1.68"))
    assert unreadable == []


def test_rows_that_are_equal_in_every_member_count_once():
    """The order of the members makes no difference."""
    one = row("2026-08-10", "1.69")
    listed, _ = dividends(one, OLD, dict(reversed(one.items())), one)
    assert [one.text for one in listed] == ["1.6800", "1.69"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({}, {"payment_date": "2026-09-11"}, id="paid on another day"),
        pytest.param({}, {"record_date": "2026-08-11"}, id="recorded on another day"),
        pytest.param({}, {"declaration_date": "2026-07-30"}, id="declared on another day"),
        pytest.param(
            {"record_date": "None"},
            {"declaration_date": "2026-07-30"},
            id="declared on another day, recorded on an unknown one",
        ),
        pytest.param(
            {"record_date": None},
            {"declaration_date": None, "payment_date": "2026-09-11"},
            id="paid on another day, all else unknown",
        ),
    ],
)
def test_rows_with_another_known_date_are_two_dividends(one, other):
    """Their amounts are equal, but one of the other dates is known in both rows, and differs."""
    rows = [row("2026-08-10", "1.69", **one), row("2026-08-10", "1.69", **other)]
    for several in (rows, reversed(rows)):
        (listed,), _ = dividends(*several)
        assert (listed.amount, listed.text) == (Decimal("3.38"), "1.69 + 1.69")


@pytest.mark.parametrize("text", ["1.69", "1.690"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({}, {}, id="equal dates"),
        pytest.param({}, {"payment_date": "None"}, id="an unknown payment date"),
        pytest.param({}, {"record_date": "None"}, id="an unknown record date"),
        pytest.param({}, {"declaration_date": None}, id="an unknown declaration date"),
        pytest.param({}, {"declaration_date": "10 July 2026"}, id="a date in other words"),
        pytest.param({}, {"payment_date": "2026-09-31"}, id="a date that does not exist"),
        pytest.param({}, {"payment_date": 20260910}, id="a number"),
        pytest.param(
            {"payment_date": "None"}, {"record_date": "None"}, id="each lacks another date"
        ),
        pytest.param({"payment_date": "None"}, {"payment_date": None}, id="a text and null"),
        pytest.param({"payment_date": [1, 2]}, {"payment_date": [2, 1]}, id="two lists"),
        pytest.param({}, {"note": "final"}, id="a member that is no date"),
    ],
)
def test_one_dividend_that_is_listed_twice(one, other, text):
    """Its other dates are equal, or not known in both rows: it counts once."""
    rows = [row("2026-08-10", "1.69", **one), row("2026-08-10", text, **other)]
    for several in (rows, reversed(rows)):
        (listed,), unreadable = dividends(*several)
        assert (listed.amount, unreadable) == (Decimal("1.69"), [])


@pytest.mark.parametrize("text", ["1.68", "1.6901", "0.01", "2", "100"])
def test_another_amount_is_another_dividend(text):
    """Also if one of the other dates is unknown."""
    one, other = row("2026-08-10", "1.69"), row("2026-08-10", text, payment_date="None")
    (listed,), _ = dividends(one, other)
    assert listed.amount == Decimal("1.69") + Decimal(text)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_two_dividends_of_one_amount_and_rows_with_fewer_dates(order):
    """The last two rows are one of the first two."""
    rows = [
        row("2026-08-10", "1.69"),
        row("2026-08-10", "1.69", payment_date="2026-09-11"),
        row("2026-08-10", "1.69", payment_date="None"),
        {"ex_dividend_date": "2026-08-10", "amount": "1.69"},
    ]
    (listed,), _ = dividends(*(rows[place] for place in order))
    assert listed.text == "1.69 + 1.69"


# Rows that cannot be read

NO_AMOUNTS = [
    "None",
    "",
    "0",
    "0.0000",
    "-1",
    "+1",
    "1e3",
    "NaN",
    "Infinity",
    "1,000",
    "1_000",
    ".5",
    "٣",
    " 1",
    1.69,
    5,
    [],
    {},
    None,
    True,
    "\ud800",
    "9" * 300,
]


@pytest.mark.parametrize("odd", NO_AMOUNTS)
def test_an_amount_that_cannot_be_read(odd):
    """Only its own ex-date has no dividend, and the ex-date is still listed."""
    listed, unreadable = dividends(row("2026-08-10", odd), OLD)
    assert [one.ex_date for one in listed] == [MAY]
    assert [one.day for one in unreadable] == [AUGUST]
    assert unreadable[0].reason.startswith("IBM, 2026-08-10: ")
    assert find_ex_dates(listed, unreadable) == [MAY, AUGUST]


@pytest.mark.parametrize("odd", NO_AMOUNTS)
def test_a_part_of_a_sum_is_no_sum(odd):
    """If one of two rows of an ex-date cannot be read, the ex-date has no dividend."""
    good, bad = row("2026-08-10", "1.69"), row("2026-08-10", odd)
    for rows in ([good, bad, OLD], [bad, good, OLD]):
        listed, unreadable = dividends(*rows)
        assert [one.ex_date for one in listed] == [MAY]
        assert [one.day for one in unreadable] == [AUGUST]


def test_an_amount_that_is_missing():
    listed, (unreadable,) = dividends({"ex_dividend_date": "2026-08-10"}, OLD)
    assert [one.ex_date for one in listed] == [MAY]
    assert unreadable.reason == "IBM, 2026-08-10: None is not a dividend."


@pytest.mark.parametrize(
    ("bad", "not_after"),
    [
        pytest.param(row("None", "1.69"), AUGUST, id="the text None"),
        pytest.param(row(None, "1.69"), AUGUST, id="null"),
        pytest.param(row("", "1.69"), AUGUST, id="an empty text"),
        pytest.param(row("0000-00-00", "1.69"), AUGUST, id="a day that is none"),
        pytest.param(row("1999-02-30", "1.69"), date(1999, 12, 31), id="no day of that year"),
    ],
)
def test_a_row_without_an_ex_date(bad, not_after):
    """
    The row has no day. Its latest possible day follows from its text, and from the order of the
    list, the newest first.
    """
    listed, (unreadable,) = dividends(row("2026-08-10", "1.69"), bad, OLD)
    assert [one.ex_date for one in listed] == [MAY, AUGUST]
    assert (unreadable.day, unreadable.not_after) == (None, not_after)
    assert find_ex_dates(listed, [unreadable]) == [MAY, AUGUST]


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20260610", date(2026, 6, 10)),
        ("2026/06/10", date(2026, 6, 10)),
        ("2026-06-10T00:00:00", date(2026, 6, 10)),
        ("2026-06-10 ", date(2026, 6, 10)),
        ("2026.6.10", date(2026, 6, 10)),
        ("1999/05/03", date(1999, 5, 3)),
    ],
)
def test_an_ex_date_in_another_spelling(text, day):
    """The day is listed, and its amount cannot be read: it is no day without a dividend."""
    listed, (unreadable,) = dividends(row("2026-08-10", "1.69"), row(text, "1.69"), OLD)
    assert unreadable.day == day
    assert day in find_ex_dates(listed, [unreadable])
    assert day not in {one.ex_date for one in listed}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(row("soon", "1.69"), id="a word"),
        pytest.param(row("2026-W33-1", "1.69"), id="a week"),
        pytest.param(row("10/26/2026", "1.69"), id="the month first"),
        pytest.param(row("2026-13-01", "1.69"), id="no day of this year"),
        pytest.param(row(20260610, "1.69"), id="a number"),
        pytest.param(row(["2026-06-10"], "1.69"), id="a list in a row"),
        pytest.param({"amount": "1.69"}, id="no ex-date"),
        pytest.param("1.69", id="a text"),
        pytest.param([], id="a list"),
        pytest.param(None, id="null as a row"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_ex_date_that_cannot_be_read(bad, place):
    """The dividend is real, and nothing says of which day it is: the response is refused."""
    rows: list[object] = [row("2026-08-10", "1.69"), OLD]
    rows.insert(place, bad)
    with pytest.raises(ProviderUnavailable, match=r"^IBM: "):
        dividends(*rows)


def test_an_ex_date_above_the_newest_may_be_of_any_day():
    """This is a dividend that was declared without an ex-date."""
    _, (unreadable,) = dividends(row("None", "1.69"), OLD)
    assert (unreadable.day, unreadable.not_after) == (None, None)


def test_only_rows_without_an_ex_date_are_an_answer():
    """The company declared its first dividend, and its ex-date is not known yet."""
    listed, (unreadable,) = dividends(row("None", "1.69"))
    assert (listed, unreadable.day) == ([], None)
    assert unreadable.reason == "IBM: 'None' is not a dividend's ex-date."


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([{"effective_date": "2026-08-10", "split_factor": "4.0000"}], id="splits"),
        pytest.param([{"date": "2026-08-10", "value": "3.87"}], id="rates"),
        pytest.param(["2026-08-10", "1.69"], id="texts"),
        pytest.param([None], id="null"),
        pytest.param([{}], id="an empty row"),
    ],
)
def test_another_list_is_no_answer(rows):
    """No row has the member for an ex-date."""
    with pytest.raises(ProviderUnavailable, match=r"^IBM: "):
        dividends(*rows)


def test_dividends_are_no_splits():
    """An answer for the other function is refused."""
    body = json.dumps({"symbol": "IBM", "data": [OLD]}).encode()
    with pytest.raises(ProviderUnavailable):
        read_splits(body, ticker="IBM", key=KEY, now=NOW)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        pytest.param('"2026-08-10", "amount": "1", "amount": "2"', [AUGUST], id="two amounts"),
        pytest.param('"2026-08-10", "amount": "1", "amount": 1', [AUGUST], id="and a number"),
        pytest.param('"2026-08-10", "amount": "1", "amount": "1"', [], id="the same amount"),
        pytest.param(
            '"2026-08-10", "amount": "1", "record_date": "1", "record_date": "2"',
            [],
            id="no matter",
        ),
    ],
)
def test_a_name_that_occurs_twice_in_a_row(text, days):
    """With two values it cannot be read; with one it can, and so can the other rows."""
    body = f'{{"data": [{{"ex_dividend_date": {text}}}, {json.dumps(OLD)}]}}'
    listed, unreadable = read_body(body)
    assert [one.day for one in unreadable] == days
    assert [one.ex_date for one in listed] == [MAY, *([] if days else [AUGUST])]


# The symbol and the members of an answer


@pytest.mark.parametrize("symbol", ["BRK-B", "BRK.B", "brk-b", None])
def test_the_requested_symbol(symbol):
    """It may be spelled in several ways, or be absent."""
    listed, _ = read_body({"symbol": symbol, "data": [OLD]}, "BRK.B")
    assert [one.ex_date for one in listed] == [MAY]
    assert read_body({"data": [OLD]}, "BRK.B")[0] == listed


@pytest.mark.parametrize("symbol", ["MSFT", "IBM.LON", "IBMX", "", 7, [], {"a": 1}, True, "ＩＢＭ"])
def test_another_symbol(symbol):
    with pytest.raises(ProviderUnavailable, match=r"^IBM: Alpha Vantage answered about "):
        dividends(OLD, symbol=symbol)


def test_two_symbols():
    with pytest.raises(ProviderUnavailable, match="answer names two symbols"):
        read_body('{"symbol": "IBM", "symbol": "GE", "data": []}')


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"symbol": "IBM", "data": {}}, id="an object"),
        pytest.param({"symbol": "IBM", "data": "none"}, id="a text"),
        pytest.param({"symbol": "IBM", "data": None}, id="null"),
        pytest.param({"symbol": "IBM"}, id="no list"),
        pytest.param({}, id="nothing"),
        pytest.param([], id="no object"),
        pytest.param("<html>", id="HTML"),
        pytest.param("", id="no body"),
        pytest.param('{"data": [], "data": [{}]}', id="two lists"),
        pytest.param('{"data": [' + "[" * 100_000, id="very deep"),
        pytest.param({"data": [None] * 1500}, id="too many unreadable rows"),
        pytest.param(
            {"data": [row("2026-08-10", "None", payment_date=n) for n in range(1500)]},
            id="too many unreadable amounts",
        ),
    ],
)
def test_an_answer_without_dividends(answer):
    """It is no answer, and the error names the ticker."""
    with pytest.raises(ProviderUnavailable, match=r"^IBM: |^IBM, "):
        read_body(answer)


@pytest.mark.parametrize(
    ("member", "text", "error"),
    [
        pytest.param("Information", PREMIUM, ConfigurationError, id="premium"),
        pytest.param(
            "Information",
            "The DIVIDENDS function is a premium function.",
            ConfigurationError,
            id="premium, in other words",
        ),
        pytest.param(
            "Note", "DIVIDENDS is now a premium endpoint.", ConfigurationError, id="by its name"
        ),
        pytest.param("Error Message", BAD_KEY, ConfigurationError, id="a bad key"),
        pytest.param("Information", BURST, ProviderBusy, id="too many requests"),
        pytest.param("Information", QUOTA.format(key=KEY), QuotaSpent, id="quota"),
        pytest.param("Error Message", UNKNOWN, MaybeUnknownTicker, id="unknown"),
        pytest.param("Information", "We are moving.", ProviderUnavailable, id="other words"),
    ],
)
def test_a_notice_is_its_error(member, text, error):
    """It has no part of the key."""
    with pytest.raises(AlphaMondayError) as raised:
        read_body({member: text})
    assert type(raised.value) is error
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("text", [BURST, BAD_KEY, PREMIUM, QUOTA.format(key=KEY)])
def test_a_refusal_beside_an_empty_list(text):
    """It does not say that the ticker pays no dividends. Beside a dividend, it does not matter."""
    with pytest.raises((ProviderBusy, QuotaSpent, ConfigurationError)):
        dividends(Information=text)
    assert dividends(OLD, Information=text)[0]


@pytest.mark.parametrize("member", ["Information", "Note", "Error Message"])
@pytest.mark.parametrize(
    "text", ["Internal error", UNKNOWN, "We are doing maintenance.", "Good morning.", {"a": 1}]
)
def test_a_notice_beside_an_empty_list(member, text):
    """Any notice may be an error: only an empty list alone says that there are no dividends."""
    with pytest.raises(ProviderUnavailable):
        dividends(**{member: text})
    assert dividends(OLD, **{member: text})[0]
    assert dividends(currency="USD") == ([], [])


def test_two_ex_dates_in_one_row():
    body = '{"data": [{"ex_dividend_date": "2026-08-10", "ex_dividend_date": "2026-08-11"}]}'
    with pytest.raises(ProviderUnavailable, match=r"^IBM: "):
        read_body(body)


def test_many_rows_take_little_time():
    """The time is proportional to the number of rows."""
    days = [str(date(2026, 1, 1) + timedelta(days=number)) for number in range(20_000)]
    rows = [row("2026-08-10", "0.0001", payment_date=day) for day in days]
    begun = time.process_time()
    (listed,), _ = dividends(*rows)
    assert time.process_time() - begun < 3
    assert listed.amount == 2


# Any rows

DAYS = st.dates(date(2026, 1, 1), date(2026, 1, 5)).map(str)
AMOUNTS = st.decimals("0.0001", "99", places=4).map(lambda amount: f"{amount:.4f}")
ROWS = st.builds(
    row,
    DAYS | st.sampled_from(["None", "", None]),
    AMOUNTS | st.sampled_from(["None", "0", "-1", 1.5, None]),
    payment_date=st.sampled_from(["None", "2026-02-02", "2026-02-03"]),
)


@given(st.lists(ROWS, max_size=8))
def test_every_row_is_counted_or_reported(rows):
    """
    Each dividend is part of one sum, or makes its ex-date unreadable; and the order of the rows
    makes no difference. Each amount counts once for each of its payment dates, or once in all if it
    has none that is known.
    """
    listed, unreadable = dividends(*rows)
    different = {tuple(one.items()) for one in rows}
    bad = [dict(one) for one in different if not _is_readable(dict(one))]
    bad_days = {one["ex_dividend_date"] for one in bad}
    paid: dict[tuple[str, str], set[str]] = {}
    for one in map(dict, different):
        if one["ex_dividend_date"] not in bad_days:
            key = (str(one["ex_dividend_date"]), str(one["amount"]))
            paid.setdefault(key, set()).add(str(one["payment_date"]))
    sums: dict[object, Decimal] = {}
    for (day, amount), payments in paid.items():
        times = max(1, len(payments - {"None"}))
        sums[day] = sums.get(day, Decimal(0)) + times * Decimal(amount)
    assert {str(one.ex_date): one.amount for one in listed} == sums
    assert len(unreadable) == len(bad)
    assert dividends(*reversed(rows))[0] == listed


def _is_readable(one: dict[str, Any]) -> bool:
    try:
        date.fromisoformat(one["ex_dividend_date"])
    except (ValueError, TypeError):
        return False
    return isinstance(one["amount"], str) and one["amount"] not in ("None", "0", "-1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["symbol", "data", "Information", "Note", "Error Message"]), JSON
    )
    | st.builds(lambda data: {"data": data}, st.lists(JSON | ROWS)),
)
def test_any_json_is_read_or_refused(answer):
    """No answer causes an error of another kind."""
    try:
        listed, unreadable = read_body(answer)
    except AlphaMondayError:
        return
    days = [one.ex_date for one in listed]
    assert days == sorted(set(days))
    assert not {row.day for row in unreadable} & set(days)
    assert all(one.amount > 0 for one in listed)
