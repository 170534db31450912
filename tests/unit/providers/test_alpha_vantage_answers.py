"""
What each answer of Alpha Vantage means.

Each table is a kind of fault: the first case really occurred, and the others are further members of
the kind.
"""

import json
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    QuotaSpent,
)
from app.providers.alpha_vantage_answers import (
    MaybeUnknownTicker,
    read_bars,
    read_dividends,
    read_splits,
)
from app.simulation.faults import BAD_KEY, BURST, NOTE, PREMIUM, QUOTA, UNKNOWN

KEY = "K7QZ4XW9J2VB8RTM"
NOW = datetime(2026, 10, 26, 13, tzinfo=UTC)
BAR = {"1. open": "9.5000", "4. close": "10.0000"}
SERIES = {"2026-10-23": BAR}
FRIDAY, THURSDAY = date(2026, 10, 23), date(2026, 10, 22)


def bars(answer: object, ticker: str = "IBM") -> Any:
    """Return the bars of an answer, which is an object or a text."""
    body = answer if isinstance(answer, str) else json.dumps(answer)
    return read_bars(body=body.encode(), ticker=ticker, key=KEY, now=NOW)


def splits(*rows: object, **members: object) -> Any:
    return read_splits(
        body=json.dumps({"symbol": "IBM", "data": rows, **members}).encode(),
        ticker="IBM",
        key=KEY,
        now=NOW,
    )


def meaning(answer: object) -> AlphaMondayError:
    """Return the error of an answer without bars."""
    with pytest.raises(AlphaMondayError) as raised:
        bars(answer)
    assert KEY not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("name", ["Note", "Information", "Error Message", "detail"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("symbol" + "!" * 400, id="marks"),
        pytest.param("ticker" + "! " * 20_000, id="marks and spaces"),
        pytest.param("invalid" + "." * 200_000, id="dots"),
        pytest.param("api key" + "-" * 200_000, id="dashes"),
        pytest.param("symbol" * 100_000, id="one word"),
        pytest.param("this is a premium " * 50_000, id="an advertisement"),
        pytest.param("daily " * 100_000, id="a day"),
        pytest.param(" " * 4_000_000 + "!", id="spaces"),
    ],
)
def test_a_notice_that_takes_long(name, text):
    """
    The meaning of a notice is found in a time proportional to its length, and only its beginning
    counts.
    """
    begun = time.process_time()
    meaning({name: text})
    assert time.process_time() - begun < 1


# Notices: a throttle, whichever plan it advertises

MINUTE = timedelta(seconds=61)
SECOND = timedelta(seconds=2)
PLANS = "Please subscribe to any of the premium plans at https://www.alphavantage.co/premium/."
THROTTLES = [
    pytest.param(
        f"Minute-level rate limit exceeded. {PLANS}", MINUTE, id="minute-level, with a premium plan"
    ),
    pytest.param(BURST, SECOND, id="a burst, which mentions the day's limit"),
    pytest.param(NOTE, MINUTE, id="the older one"),
    pytest.param(
        "Thank you! Please consider a premium plan for a higher API call volume.",
        MINUTE,
        id="volume",
    ),
    pytest.param(
        "Too many requests. This is a premium endpoint for unlimited use.", MINUTE, id="too many"
    ),
    pytest.param(
        "You have exceeded the rate limit of your plan. Upgrade to premium.",
        MINUTE,
        id="a rate limit",
    ),
    pytest.param(f"You are limited to 5 requests/min. {PLANS}", MINUTE, id="requests/min"),
    pytest.param(
        "Request throttled; the parameter apikey is missing in our cache.",
        MINUTE,
        id="and a missing key",
    ),
    pytest.param(
        "Please spread out your requests: this is a premium feature.", MINUTE, id="spread out"
    ),
    pytest.param(
        "Concurrent requests need a premium key. It is a premium feature.", MINUTE, id="concurrent"
    ),
    pytest.param("Bandwidth reserved for premium members.", MINUTE, id="bandwidth"),
    pytest.param("SLOW DOWN! You've reached our limit.", MINUTE, id="in capitals"),
    pytest.param(
        "Try again in 30 seconds: limit reached.", timedelta(seconds=31), id="with its own time"
    ),
    pytest.param(
        "Rate limit: please wait 5 minutes.", timedelta(seconds=301), id="with its own minutes"
    ),
    pytest.param(
        "Detected your API key as K7QZ4XW9J2VB8RTM: 1 request per second.",
        SECOND,
        id="with the key",
    ),
]


@pytest.mark.parametrize(
    "member", ["Information", "Note", "Error Message", "information", "message", "Error", "detail"]
)
@pytest.mark.parametrize(("text", "rest"), THROTTLES)
def test_a_throttle(text, rest, member):
    """The provider asks to slow down, and says how long to wait, in a member of any name."""
    error = meaning({member: text})
    assert type(error) is ProviderBusy
    assert error.until == NOW + rest


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(QUOTA.format(key=KEY), id="the usual"),
        pytest.param(
            "You have reached the daily limit of 25 requests. Please slow down.", id="with advice"
        ),
        pytest.param("Daily quota exceeded. This is a premium feature.", id="as premium"),
        pytest.param("Your 25 requests per day are used. Premium plans have more.", id="used"),
        pytest.param("No more requests today.", id="today"),
        pytest.param("The limit is 25 requests/day; upgrade to premium.", id="requests/day"),
        pytest.param("Your quota of free requests is spent.", id="a quota"),
        pytest.param("API limit for the last 24 hours reached.", id="24 hours"),
    ],
)
def test_a_spent_quota(text):
    """The day's quota is used up: for an hour no request is sent."""
    error = meaning({"Information": text})
    assert type(error) is QuotaSpent
    assert error.at == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("member", "text"),
    [
        pytest.param("Error Message", BAD_KEY, id="the key"),
        pytest.param(
            "Information", "The apikey parameter is missing.", id="the key, as information"
        ),
        pytest.param("error", "Invalid API key.", id="the key, in short"),
        pytest.param("Information", PREMIUM, id="premium"),
        pytest.param(
            "Note",
            "The outputsize=full value is a premium feature for this function.",
            id="a feature",
        ),
    ],
)
def test_an_operator_must_change_something(member, text):
    """Only these notices prove that another request is of no use."""
    assert type(meaning({member: text})) is ConfigurationError


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(
            {"Information": "We are moving."},
            "notice in place of data: We are moving.",
            id="unknown words",
        ),
        pytest.param(
            {"Information": "Go premium!"},
            "notice in place of data: Go premium!",
            id="premium alone",
        ),
        pytest.param(
            {"Note": "You have used your allowance; a premium API endpoint has more."},
            "data: You have used your allowance; a premium API endpoint has more.",
            id="an allowance",
        ),
        pytest.param(
            {"Note": "Get a premium data plan."},
            "data: Get a premium data plan.",
            id="a premium plan",
        ),
        pytest.param(
            {"Note": "Busy. Try an API premium service."},
            "data: Busy. Try an API premium service.",
            id="busy",
        ),
        pytest.param(
            {"Error Message": f"No {KEY} here."}, "data: No *** here.", id="an error with the key"
        ),
        pytest.param(
            {"Error Message": "Your apikey is fine."},
            "data: Your apikey is fine.",
            id="a key that is fine",
        ),
        pytest.param({"Note": "x" * 5000}, f"data: {'x' * 200}", id="a long one"),
        pytest.param({"Information": ["Invalid API key."]}, "without a daily series", id="a list"),
        pytest.param(
            {"Information": {"message": BAD_KEY}}, "without a daily series", id="an object"
        ),
        pytest.param({"Information": 429}, "without a daily series", id="a number"),
        pytest.param(
            '{"Note": "Invalid API key", "Note": "OK"}', "without a daily series", id="two notices"
        ),
    ],
)
def test_a_notice_that_proves_nothing(answer, words):
    """
    The request is repeated; in the end the error quotes the notice, shortened and without the key.
    """
    error = meaning(answer)
    assert type(error) is ProviderUnavailable
    assert str(error).endswith((words, f"{words}."))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Unlimited access is a premium service.", id="no limit is premium"),
        pytest.param("Faster access is a premium feature.", id="speed is premium"),
        pytest.param("More requests are a premium feature.", id="more is premium"),
        pytest.param("Throughput exceeded. This is a premium feature.", id="throughput"),
        pytest.param(
            "Our servers are at capacity. Dedicated capacity is a premium feature.", id="capacity"
        ),
        pytest.param(
            "TIME_SERIES_DAILY is a premium endpoint at peak times; please retry.", id="for a time"
        ),
        pytest.param(
            "We could not see whether your API key is invalid or missing.",
            id="a key that was not checked",
        ),
        pytest.param(
            "Invalid API key? Our key service has an outage.", id="a key service that is down"
        ),
        pytest.param("We are updating today's data.", id="today's data"),
        pytest.param("The daily series is being refreshed.", id="a daily series"),
        pytest.param("Back tomorrow.", id="tomorrow"),
        pytest.param("Limite de 5 requêtes par minute dépassée. Offre premium.", id="in French"),
    ],
)
def test_other_words_prove_nothing(text):
    """They prove neither that an operator must change something, nor that the quota is used up."""
    for member in ("Information", "Error Message"):
        error = meaning({member: text})
        assert type(error) is ProviderUnavailable
        assert text.split(".")[0] in str(error)


@pytest.mark.parametrize(
    "text", [BURST, BAD_KEY, PREMIUM, UNKNOWN, "We are moving.", QUOTA.format(key=KEY)]
)
@pytest.mark.parametrize("member", ["Information", "Note", "Error Message", "message"])
def test_a_notice_beside_data(member, text):
    """Data that can be read counts."""
    assert bars({member: text, "Time Series (Daily)": SERIES})[0][0].close == Decimal("10.0000")
    row = {"effective_date": "2026-10-23", "split_factor": "4.0000"}
    assert splits(row, **{member: text})[0][0].factor == 4


@pytest.mark.parametrize(
    ("text", "error"),
    [(BURST, ProviderBusy), (QUOTA.format(key=KEY), QuotaSpent), (BAD_KEY, ConfigurationError)],
)
def test_a_refusal_beside_an_empty_list_of_splits(text, error):
    """It does not say that the ticker had no splits."""
    with pytest.raises(error):
        splits(Information=text)
    assert splits(Information="Good morning.") == ([], [])


# An answer that says that the ticker is unknown, or that has no data


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"Error Message": UNKNOWN}, id="an invalid call"),
        pytest.param({}, id="nothing"),
        pytest.param({"Time Series (Daily)": {}}, id="an empty series"),
        pytest.param({"Meta Data": {"2. Symbol": "IBM"}}, id="no series"),
        pytest.param({"Meta Data": {}, "Time Series (Daily)": None}, id="null"),
        pytest.param({"Time Series (Daily)": []}, id="an empty list"),
        pytest.param({"Global Quote": {}}, id="an empty quote"),
        pytest.param({"Information": "Unknown symbol: IBM"}, id="in other words"),
    ],
)
def test_an_answer_that_says_that_a_ticker_is_unknown(answer):
    """One such answer alone proves nothing."""
    assert type(meaning(answer)) is MaybeUnknownTicker


# One row that cannot be read

NO_PRICES = [
    "0.0000",
    "-1",
    "NaN",
    "",
    None,
    9.5,
    [],
    {},
    True,
    "1e3",
    "1,000",
    "\ud800",
    "9" * 300,
]


@pytest.mark.parametrize("odd", NO_PRICES)
def test_a_close_that_cannot_be_read(odd):
    """Only its own session is unreadable."""
    read_bars, (unreadable,) = bars(
        {"Time Series (Daily)": {**SERIES, "2026-10-22": {**BAR, "4. close": odd}}}
    )
    assert [bar.trading_day for bar in read_bars] == [FRIDAY]
    assert unreadable.day == THURSDAY
    assert unreadable.reason.startswith("IBM, 2026-10-22: ")


@pytest.mark.parametrize("odd", NO_PRICES)
def test_an_open_that_cannot_be_read(odd):
    """The close counts."""
    ((bar,), unreadable) = bars({"Time Series (Daily)": {"2026-10-23": {**BAR, "1. open": odd}}})
    assert (bar.open, bar.close, unreadable) == (None, Decimal("10.0000"), [])


@pytest.mark.parametrize(
    ("name", "values", "day"),
    [
        pytest.param("2026-10-22", "none", THURSDAY, id="a text"),
        pytest.param("2026-10-22", None, THURSDAY, id="null"),
        pytest.param("2026-10-22", ["1", "2"], THURSDAY, id="a list"),
        pytest.param("2026-10-22", {}, THURSDAY, id="empty"),
        pytest.param("2026-10-22 16:00:00", BAR, THURSDAY, id="with a time"),
        pytest.param("20261022", BAR, THURSDAY, id="in another spelling"),
        pytest.param("2026-10-32", BAR, None, id="no day of the month"),
        pytest.param("today", BAR, None, id="no date"),
        pytest.param("", BAR, None, id="no name"),
        pytest.param("2026-W43-4", BAR, None, id="a week"),
    ],
)
def test_a_row_that_is_no_bar(name, values, day):
    """Only its own session is unreadable, if it names one."""
    read_bars, (unreadable,) = bars({"Time Series (Daily)": {name: values, **SERIES}})
    assert [bar.trading_day for bar in read_bars] == [FRIDAY]
    assert unreadable.day == day


def test_a_session_in_two_spellings():
    """It is unclear which of them is true, so the session is missing; the others are read."""
    read_bars, _ = bars({"Time Series (Daily)": {"20261022": BAR, "2026-10-22": BAR, **SERIES}})
    assert [bar.trading_day for bar in read_bars] == [FRIDAY]


def test_a_series_without_a_readable_bar():
    """It is no answer."""
    error = meaning(
        {"Time Series (Daily)": {"2026-10-22": {"4. close": "0"}, "2026-10-23": "none"}}
    )
    assert type(error) is ProviderUnavailable
    assert str(error) == "IBM, 2026-10-22: a price must be above zero, not '0'."


# Splits


def row(day: object, factor: object) -> dict[str, object]:
    return {"effective_date": day, "split_factor": factor}


@pytest.mark.parametrize(
    ("factors", "factor", "text"),
    [
        pytest.param(
            ("0.1000", "1.2530"), "0.1253", "0.1000 and 1.2530", id="a reverse split and a spin-off"
        ),
        pytest.param(("1.2530", "0.1000"), "0.1253", "0.1000 and 1.2530", id="in the other order"),
        pytest.param(("4.0000", "4.0000"), "4", "4.0000", id="twice the same"),
        pytest.param(("4.0000", "4.0", "4"), "4", "4", id="three spellings"),
        pytest.param(("2", "1.5", "1.1"), "3.3", "1.1 and 1.5 and 2", id="three factors"),
        pytest.param(("0.0667", "15"), "1", "0.0667 and 15", id="a rounded fifteenth"),
        pytest.param(("1.0000", "4.0000"), "4", "1.0000 and 4.0000", id="one, and four"),
        pytest.param(
            ("0.0667", "0.06667"),
            "0.06666666666666666666666666667",
            "0.0667",
            id="a fifteenth, rounded twice",
        ),
        pytest.param(("1.05", "1.0512"), "1.0512", "1.0512", id="once with fewer decimals"),
        pytest.param(("4", "4.0001"), "4.0001", "4.0001", id="once without decimals"),
        pytest.param(
            ("2." + "0" * 60, "2." + "0" * 60 + "1"),
            "2",
            "2." + "0" * 60 + "1",
            id="once with sixty decimals",
        ),
        pytest.param(("1.05", "1.06"), "1.113", "1.05 and 1.06", id="two small ones"),
        pytest.param(
            ("0.3333", "2.0000"),
            "0.6666666666666666666666666666",
            "0.3333 and 2.0000",
            id="a third",
        ),
    ],
)
def test_factors_of_one_date(factors, factor, text):
    """Different factors multiply, each with its intended value; equal ones count once."""
    (older, listed), unreadable = splits(
        *(row("2026-10-23", one) for one in factors), row("1999-01-04", "2")
    )
    assert abs(listed.factor - Decimal(factor)) < Decimal("1e-27")
    assert (listed.effective_date, listed.text) == (FRIDAY, text)
    assert (older.factor, unreadable) == (2, [])


@pytest.mark.parametrize(
    ("bad", "day", "not_after"),
    [
        pytest.param(row("1999-05-03", "0.0000"), date(1999, 5, 3), None, id="zero"),
        pytest.param(row("1999-05-03", None), date(1999, 5, 3), None, id="no factor"),
        pytest.param(row("1999-05-03", "4:1"), date(1999, 5, 3), None, id="as a ratio"),
        pytest.param(row("1999-05-03", 4), date(1999, 5, 3), None, id="a number"),
        pytest.param(row("1999/05/03", "4"), date(1999, 5, 3), None, id="with slashes"),
        pytest.param(row("0000-00-00", "4"), None, FRIDAY, id="a day that is none"),
        pytest.param(row("1999-02-30", "4"), None, date(1999, 12, 31), id="no day of that year"),
        pytest.param(row(None, "4"), None, FRIDAY, id="no day"),
        pytest.param("4:1", None, FRIDAY, id="no object"),
        pytest.param([], None, FRIDAY, id="a list"),
        pytest.param(None, None, FRIDAY, id="null"),
    ],
)
def test_a_split_that_cannot_be_read(bad, day, not_after):
    """
    Only its own date is unreadable; a row without a date is placed by the order of the list, the
    newest first.
    """
    listed, (unreadable,) = splits(row("2026-10-23", "4.0000"), bad, row("1987-01-05", "2"))
    assert [one.factor for one in listed] == [2, 4]
    assert (unreadable.day, unreadable.not_after) == (day, not_after)
    after = date(2026, 10, 23)
    assert not unreadable.may_fall_within(after, date(2026, 10, 30))


def test_a_row_without_a_date_that_may_be_needed():
    """At the top of the list, or in an unordered one, it may be of any day."""
    for rows in (
        [None, row("2026-10-23", "4")],
        [row("1987-01-05", "2"), None, row("2026-10-23", "4")],
    ):
        _, (unreadable,) = splits(*rows)
        assert unreadable.may_fall_within(date(2026, 10, 24), date(2026, 10, 30))


def test_a_date_with_a_row_that_can_be_read_and_one_that_cannot():
    """The date is unreadable, and the others are read."""
    listed, (unreadable,) = splits(
        row("2026-10-23", "4.0000"), row("2026-10-23", "1,25"), row("1987-01-05", "2")
    )
    assert [one.effective_date.year for one in listed] == [1987]
    assert unreadable.day == FRIDAY


# A name that occurs twice


@pytest.mark.parametrize(
    ("text", "days"),
    [
        pytest.param(
            '"2026-10-23": {"4. close": "1"}, "2026-10-23": {"4. close": "2"}',
            [THURSDAY],
            id="a session",
        ),
        pytest.param('"2026-10-23": {"4. close": "1", "4. close": "2"}', [THURSDAY], id="a close"),
        pytest.param(
            '"2026-10-23": {"4. close": "1", "4. close": 1}', [THURSDAY], id="a close and a number"
        ),
        pytest.param(
            '"2026-10-23": {"4. close": "1"}, "2026-10-23": null',
            [THURSDAY],
            id="a session and null",
        ),
        pytest.param(
            '"2026-10-23": {"4. close": "1", "4. close": "1"}',
            [THURSDAY, FRIDAY],
            id="the same close",
        ),
        pytest.param(
            '"2026-10-23": {"4. close": "1"}, "2026-10-23": {"4. close": "1"}',
            [THURSDAY, FRIDAY],
            id="the same bar",
        ),
        pytest.param(
            '"2026-10-23": {"4. close": "1", "1. open": "1", "1. open": "2"}',
            [THURSDAY, FRIDAY],
            id="an open",
        ),
        pytest.param(
            '"2026-10-23": {"4. close": "1", "5. volume": "1", "5. volume": "2"}',
            [THURSDAY, FRIDAY],
            id="a volume",
        ),
    ],
)
def test_a_name_that_occurs_twice_in_bars(text, days):
    """With two values it cannot be read; with one it can."""
    read_bars, unreadable = bars(
        f'{{"Time Series (Daily)": {{"2026-10-22": {{"4. close": "1"}}, {text}}}}}'
    )
    assert [bar.trading_day for bar in read_bars] == days
    assert [row.day for row in unreadable] == ([FRIDAY] if len(days) == 1 else [])


@pytest.mark.parametrize(
    "text",
    [
        '{"Time Series (Daily)": {"2026-10-23": {"4. close": "1"}}, "Time Series (Daily)": {}}',
        '{"Time Series (Daily)": {"2026-10-23": {"4. close": "1"}}, "Time Series (Daily)": null}',
        '{"Meta Data": {"2. Symbol": "IBM"}, "Meta Data": {"2. Symbol": "GE"}, '
        '"Time Series (Daily)": {"2026-10-23": {"4. close": "1"}}}',
        '{"Meta Data": {"2. Symbol": "IBM", "2. Symbol": "GE"}, "Time Series (Daily)": '
        '{"2026-10-23": {"4. close": "1"}}}',
    ],
)
def test_a_member_that_occurs_twice_in_an_answer(text):
    """It is no answer."""
    assert type(meaning(text)) is ProviderUnavailable


# The kind: an answer that names two symbols.
@pytest.mark.parametrize(
    "about",
    [
        pytest.param(
            '"Meta Data": {"2. Symbol": "IBM", "2. Symbol": "GE"}', id="both wanted and another"
        ),
        pytest.param(
            '"Meta Data": {"2. Symbol": "GE", "2. Symbol": "IBM"}', id="the other way round"
        ),
        pytest.param('"Meta Data": {"2. Symbol": "IBM", "2. Symbol": null}', id="one of them null"),
        pytest.param('"Meta Data": {"Ticker": "IBM", "Ticker": "ibm"}', id="two spellings"),
        pytest.param('"symbol": "IBM", "symbol": "GE"', id="at the top"),
        pytest.param('"symbol": "IBM", "symbol": 5', id="a number"),
    ],
)
@pytest.mark.parametrize("reader", [read_bars, read_splits, read_dividends])
def test_an_answer_that_names_two_symbols(about, reader):
    """The error says so, for bars, splits and dividends alike."""
    text = f'{{{about}, "Time Series (Daily)": {{"2026-10-23": {{"4. close": "1"}}}}, "data": []}}'
    with pytest.raises(ProviderUnavailable) as refused:
        reader(text.encode(), "IBM", KEY, NOW)
    assert str(refused.value) == "IBM: Alpha Vantage's answer names two symbols."


@pytest.mark.parametrize(
    "text",
    [
        '{"effective_date": "2026-10-23", "split_factor": "4", "split_factor": "2"}',
        '{"effective_date": "2026-10-23", "effective_date": "2026-10-22", "split_factor": "4"}',
    ],
)
def test_a_name_that_occurs_twice_in_splits(text):
    """The row cannot be read."""
    body = f'{{"data": [{text}, {{"effective_date": "1987-01-05", "split_factor": "2"}}]}}'
    listed, (unreadable,) = read_splits(
        body=body.encode(),
        ticker="IBM",
        key=KEY,
        now=NOW,
    )
    assert [one.effective_date.year for one in listed] == [1987]
    assert "two values for one name" in unreadable.reason
    with pytest.raises(ProviderUnavailable):
        read_splits(body=b'{"data": [], "data": [{}]}', ticker="IBM", key=KEY, now=NOW)


# The symbol of an answer


@pytest.mark.parametrize("symbol", ["BRK-B", "BRK.B", "brk-b", None])
def test_the_requested_symbol(symbol):
    """It may be spelled in several ways, or be absent."""
    assert bars({"Meta Data": {"2. Symbol": symbol}, "Time Series (Daily)": SERIES}, "BRK.B")[0]
    assert bars({"Meta Data": {}, "Time Series (Daily)": SERIES}, "BRK.B")[0]
    assert bars({"Meta Data": "none", "Time Series (Daily)": SERIES}, "BRK.B")[0]


@pytest.mark.parametrize(
    "about",
    [
        pytest.param({"Meta Data": [{"2. Symbol": "MSFT"}]}, id="in a list"),
        pytest.param({"meta": {"symbol": "MSFT"}}, id="elsewhere"),
        pytest.param({"meta data": {"2. Symbol": "MSFT"}}, id="in small letters"),
        pytest.param({"Meta Data": {"2. Ticker": "MSFT"}}, id="as a ticker"),
        pytest.param({"ticker": "MSFT"}, id="at the top"),
    ],
)
def test_another_symbol_elsewhere(about):
    """An answer may name another symbol at any place."""
    assert type(meaning({**about, "Time Series (Daily)": SERIES})) is ProviderUnavailable
    with pytest.raises(ProviderUnavailable):
        splits(**about)


# Letters that upper() turns into an I are among them.
@pytest.mark.parametrize(
    "symbol",
    ["MSFT", "IBM.LON", "IBMX", "", 7, [], {"a": 1}, True, "ＩＢＭ", " IBM", "ıBM", "ıbm"],
)
@pytest.mark.parametrize("member", ["2. Symbol", "2. symbol", "Symbol", "1. SYMBOL"])
def test_another_symbol(symbol, member):
    """The answer is about another symbol; the error names both."""
    error = meaning({"Meta Data": {member: symbol}, "Time Series (Daily)": SERIES})
    assert type(error) is ProviderUnavailable
    assert str(error).startswith("IBM: Alpha Vantage answered about ")
    with pytest.raises(ProviderUnavailable, match="IBM: Alpha Vantage answered about "):
        splits(symbol=symbol)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"Weekly Time Series": SERIES}, id="weekly"),
        pytest.param({"Time Series (5min)": SERIES}, id="intraday"),
        pytest.param({"Monthly Adjusted Time Series": SERIES}, id="monthly"),
        pytest.param({"symbol": "IBM", "data": [row("2026-10-23", "4")]}, id="splits"),
        pytest.param(
            {"Meta Data": {"5. Time Zone": "Asia/Tokyo"}, "Time Series (Daily)": SERIES},
            id="Tokyo's days",
        ),
        pytest.param(
            {"Meta Data": {"5. Time Zone": "UTC"}, "Time Series (Daily)": SERIES}, id="UTC's days"
        ),
    ],
)
def test_another_series(answer):
    """It is not the daily series of New York."""
    error = meaning(answer)
    assert type(error) is ProviderUnavailable
    assert "IBM: Alpha Vantage answered without a daily series" in str(error)


@pytest.mark.parametrize(
    "zone", ["US/Eastern", "America/New_York", "EST5EDT", "Eastern", "", 5, None, "../etc/passwd"]
)
def test_the_time_zone_that_is_meant(zone):
    """New York's time zone is accepted under any of its names; an unknown name is ignored."""
    assert bars({"Meta Data": {"5. Time Zone": zone}, "Time Series (Daily)": SERIES})[0]
