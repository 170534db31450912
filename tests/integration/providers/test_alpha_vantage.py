"""Alpha Vantage over real HTTP: what every body means, and which outcome its request gets."""

import asyncio
import hashlib
import json
import logging
import time
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

import pytest
import structlog
from clocks import HandSetClock
from hostile_bodies import compressed, endless, endless_headers, plain
from job_context import logged
from provider_server import CUT, CUT_IN_THE_BODY, HANGING, STALLED, Reply, refusing, says
from provider_server import provider as provider

from app.domain.model import Bar
from app.errors import (
    ConfigurationError,
    ProviderBusy,
    ProviderError,
    ProviderUnavailable,
    QuotaSpent,
    UnknownTicker,
)
from app.providers import alpha_vantage
from app.providers.alpha_vantage import (
    MAX_ATTEMPTS,
    AlphaVantage,
    BarsAnswer,
    DividendsAnswer,
)
from app.providers.alpha_vantage_answers import ListedDividend
from app.providers.rate_limiter import (
    GRANT_LIFETIME,
    AlreadyAnswered,
    RateLimit,
    RequestLedger,
    RequestOutcome,
    rate_limits,
)

KEY = "ABC123XYZ"
NOW = datetime(2025, 8, 28, 13, tzinfo=UTC)
NINE = NOW

NO_LIMITS = rate_limits(1000, 1000, 1000)

# Answers as the documentation and the threads of client libraries show them.
DAILY_SERIES = """
{"Meta Data": {"1. Information": "Daily Prices (open, high, low, close) and Volumes",
 "2. Symbol": "IBM", "3. Last Refreshed": "2025-08-27", "4. Output Size": "Compact",
 "5. Time Zone": "US/Eastern"},
 "Time Series (Daily)": {
  "2025-08-27": {"1. open": "242.8700", "2. high": "245.9600", "3. low": "242.0000",
   "4. close": "244.8400", "5. volume": "3698372"},
  "2025-08-26": {"1. open": "240.1000", "2. high": "243.0000", "3. low": "239.5500",
   "4. close": "242.6300", "5. volume": "3000000"}}}
"""
UNKNOWN_SYMBOL = (
    '{"Error Message": "Invalid API call. Please retry or visit the documentation '
    '(https://www.alphavantage.co/documentation/) for TIME_SERIES_DAILY."}'
)
BAD_KEY = (
    '{"Error Message": "the parameter apikey is invalid or missing. Please claim your free API key '
    'on (https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."}'
)
BURST = (
    '{"Information": "Thank you for using Alpha Vantage! Please consider spreading out your free '
    "API requests more sparingly (1 request per second). You may subscribe to any of the premium "
    "plans at https://www.alphavantage.co/premium/ to lift the free key rate limit (25 requests "
    'per day) and instantly remove all daily rate limits."}'
)
DAILY_QUOTA = (
    '{"Information": "We have detected your API key as ABC123XYZ and our standard API rate limit '
    "is 25 requests per day. Please subscribe to any of the premium plans at "
    'https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."}'
)
PREMIUM = (
    '{"Information": "Thank you for using Alpha Vantage! This is a premium endpoint. You may '
    "subscribe to any of the premium plans at https://www.alphavantage.co/premium/ to instantly "
    'unlock all premium endpoints"}'
)
OLDER_THROTTLE = (
    '{"Note": "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per '
    "minute and 500 calls per day. Please visit https://www.alphavantage.co/premium/ if you would "
    'like to target a higher API call frequency."}'
)
SPLITS = (
    '{"symbol": "NVDA", "data": [{"effective_date": "2024-06-10", "split_factor": "10.0000"}, '
    '{"effective_date": "2021-07-20", "split_factor": "4.0000"}]}'
)
DIVIDENDS = (
    '{"symbol": "IBM", "data": [{"ex_dividend_date": "2025-11-10", "declaration_date": '
    '"2025-08-27", "record_date": "2025-11-10", "payment_date": "2025-12-10", "amount": "1.69"}, '
    '{"ex_dividend_date": "2025-08-08", "declaration_date": "None", "record_date": "None", '
    '"payment_date": "None", "amount": "1.6800"}]}'
)
NO_QUOTE = '{"Global Quote": {}}'


def series(*bars: tuple[str, str, str]) -> Reply:
    """Return a daily series of (day, open, close), in this order."""
    days = {
        day: {
            "1. open": opened,
            "2. high": "1",
            "3. low": "1",
            "4. close": closed,
            "5. volume": "1",
        }
        for day, opened, closed in bars
    }
    return says({"Meta Data": {}, "Time Series (Daily)": days})


GOOD = series(("2025-08-27", "242.8700", "244.8400"))


@pytest.fixture
def clock() -> HandSetClock:
    """A clock that shows nine in New York on a Thursday."""
    return HandSetClock(NOW)


Client = Callable[..., AlphaVantage]


@pytest.fixture
async def client(pool, clock, provider) -> AsyncIterator[Client]:
    """Make clients of the provider, by default one without limits."""
    async with AsyncExitStack() as stack:

        def make(
            base_url: str = "", limits: list[RateLimit] = NO_LIMITS, attempts: int = MAX_ATTEMPTS
        ) -> AlphaVantage:
            ledger = RequestLedger(pool=pool, provider="alphavantage", limits=limits, clock=clock)
            made = AlphaVantage(
                key=KEY,
                ledger=ledger,
                clock=clock,
                base_url=base_url or provider.url,
                attempts=attempts,
            )
            stack.push_async_callback(made.close)
            return made

        yield make


async def outcomes(pool) -> list[str | None]:
    """Return the outcomes of the requests, in their order."""
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT outcome FROM operations.provider_requests ORDER BY id")
        return [outcome for (outcome,) in await cursor.fetchall()]


async def settle(client: AlphaVantage, answer: BarsAnswer | AlreadyAnswered) -> None:
    """Store the outcome of an answer, as a job does."""
    assert isinstance(answer, BarsAnswer)
    async with client.ledger.pool.connection() as conn:
        await client.ledger.store_outcome(conn, answer.grant, RequestOutcome.ANSWERED)


async def test_a_daily_series(client, provider, pool):
    """A good answer gives its bars, oldest first, with every price exactly as it was written."""
    provider.play(Reply(DAILY_SERIES.encode()))
    vendor = client()
    answer = await vendor.bars("IBM", NINE)
    assert answer.bars == [
        Bar(trading_day=date(2025, 8, 26), open=Decimal("240.1000"), close=Decimal("242.6300")),
        Bar(trading_day=date(2025, 8, 27), open=Decimal("242.8700"), close=Decimal("244.8400")),
    ]
    assert [str(bar.close) for bar in answer.bars] == ["242.6300", "244.8400"]
    assert await outcomes(pool) == [None]  # until the job has stored the answer
    await settle(vendor, answer)
    assert await outcomes(pool) == ["answered"]


async def test_the_parameters_of_a_request(client, provider):
    """A request names the function, the symbol, the free size and the key, and nothing else."""
    provider.play(GOOD)
    await client().bars("IBM", NINE)
    (request,) = provider.requests
    assert (request.method, request.path) == ("GET", "/query")
    assert request.query == {
        "function": "TIME_SERIES_DAILY",
        "symbol": "IBM",
        "outputsize": "compact",
        "apikey": KEY,
    }


async def test_bars_out_of_order(client, provider):
    """The order of the bars in the answer does not matter."""
    provider.play(
        series(("2025-08-26", "2", "2"), ("2025-08-27", "3", "3"), ("2025-08-25", "1", "1"))
    )
    answer = await client().bars("IBM", NINE)
    assert [(bar.trading_day.day, bar.close) for bar in answer.bars] == [(25, 1), (26, 2), (27, 3)]


@pytest.mark.parametrize(
    "price",
    ["0.0001", "244.8400", "123456789.123456789123456789123456789", "7", "00012.5", "1000000"],
)
async def test_a_price_keeps_every_digit(client, provider, price):
    """A price is read from the provider's text without a float and without rounding."""
    provider.play(series(("2025-08-27", price, price)))
    answer = await client().bars("IBM", NINE)
    assert answer.bars[0].close == Decimal(price)
    assert answer.bars[0].close.as_tuple() == Decimal(price).as_tuple()


NO_DAY = '{"Time Series (Daily)": {"today": {}}}'
NO_BAR = '{"Time Series (Daily)": {"2025-08-27": 5}}'
ELSEWHERE = Reply(status=302, headers={"location": "/query"})


@pytest.mark.parametrize(
    ("reply", "error", "outcome", "requests"),
    [
        pytest.param(UNKNOWN_SYMBOL, UnknownTicker, "unknown", 5, id="unknown symbol"),
        pytest.param(BAD_KEY, ConfigurationError, "refused", 1, id="bad key"),
        pytest.param(
            BURST, ProviderBusy, "failed", 5, id="burst, which mentions the day's limit too"
        ),
        pytest.param(DAILY_QUOTA, QuotaSpent, "quota_spent", 1, id="daily quota"),
        pytest.param(PREMIUM, ConfigurationError, "refused", 1, id="premium"),
        pytest.param(OLDER_THROTTLE, ProviderBusy, "failed", 5, id="older throttle"),
        pytest.param(
            '{"Information": "We are moving."}',
            ProviderUnavailable,
            "failed",
            5,
            id="another Information",
        ),
        pytest.param("{}", UnknownTicker, "unknown", 5, id="empty object"),
        pytest.param(SPLITS, ProviderUnavailable, "failed", 5, id="another function's answer"),
        pytest.param(NO_QUOTE, UnknownTicker, "unknown", 5, id="an empty quote"),
        pytest.param(
            '{"Time Series (Daily)": []}', UnknownTicker, "unknown", 5, id="an empty list as series"
        ),
        pytest.param(
            '{"Time Series (Daily)": [1]}',
            ProviderUnavailable,
            "failed",
            5,
            id="a series that is a list",
        ),
        pytest.param(NO_DAY, ProviderUnavailable, "failed", 5, id="a day that is none"),
        pytest.param(NO_BAR, ProviderUnavailable, "failed", 5, id="a bar that is none"),
        pytest.param(
            "<html><body>Welcome</body></html>", ProviderUnavailable, "failed", 5, id="HTML"
        ),
        pytest.param(DAILY_SERIES[:200], ProviderUnavailable, "failed", 5, id="truncated JSON"),
        pytest.param("[]", ProviderUnavailable, "failed", 5, id="a list"),
        pytest.param("null", ProviderUnavailable, "failed", 5, id="null"),
        pytest.param('"text"', ProviderUnavailable, "failed", 5, id="a string"),
        pytest.param("", ProviderUnavailable, "failed", 5, id="nothing"),
        pytest.param(
            b'{"Information": "\xff\xfe"}', ProviderUnavailable, "failed", 5, id="no UTF-8"
        ),
        pytest.param("[" * 100_000, ProviderUnavailable, "failed", 5, id="very deep"),
        pytest.param(Reply(status=500), ProviderUnavailable, "failed", 5, id="500"),
        pytest.param(Reply(b"<html>", status=503), ProviderUnavailable, "failed", 5, id="503"),
        pytest.param(Reply(status=429), ProviderBusy, "failed", 5, id="429"),
        pytest.param(ELSEWHERE, ProviderUnavailable, "failed", 5, id="redirect"),
        pytest.param(CUT, ProviderUnavailable, "failed", 5, id="cut before the answer"),
        pytest.param(CUT_IN_THE_BODY, ProviderUnavailable, "failed", 5, id="cut within the answer"),
    ],
)
async def test_what_an_answer_means(client, provider, pool, reply, error, outcome, requests):
    """
    Each answer without data raises the error that says what to do, and the request's outcome is
    stored.
    """
    body = reply.encode() if isinstance(reply, str) else reply
    provider.play(body if isinstance(body, Reply) else Reply(body))
    with pytest.raises(error) as raised:
        await client().bars("IBM", NINE)
    assert type(raised.value) is error
    assert await outcomes(pool) == [outcome] * requests
    assert len(provider.requests) == requests
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert KEY not in repr(raised.value.args)


async def test_a_refused_connection(client, pool):
    """If no server listens, five attempts are made."""
    with (
        refusing() as address,
        pytest.raises(ProviderUnavailable, match="cannot be reached") as raised,
    ):
        await client(address).bars("IBM", NINE)
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert await outcomes(pool) == ["failed"] * 5


@pytest.mark.parametrize(
    "hanging",
    [pytest.param(HANGING, id="before the answer"), pytest.param(STALLED, id="within the answer")],
)
async def test_a_hanging_connection(client, provider, pool, monkeypatch, hanging):
    """A provider that accepts a request and does not respond is abandoned after the time limit."""
    monkeypatch.setattr(alpha_vantage, "_TIME_LIMIT", 0.05)
    provider.play(hanging)
    with pytest.raises(ProviderUnavailable, match="did not answer within"):
        await client().bars("IBM", NINE)
    assert await outcomes(pool) == ["failed"] * 5


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(
            plain(20_000_000), "more than 5,000,000 bytes", id="plain", marks=pytest.mark.long
        ),
        pytest.param(endless(), "more than 5,000,000 bytes", id="endless chunks"),
        pytest.param(compressed(100_000_000), "more than 5,000,000 bytes", id="gzip"),
        pytest.param(
            compressed(100_000_000, b"deflate"),
            "more than 5,000,000 bytes",
            id="deflate",
            marks=pytest.mark.long,
        ),
        pytest.param(
            endless(more=b"Content-Encoding: br\r\n"),
            "Alpha Vantage compressed its answer in a way that was not asked for",
            id="another coding",
        ),
        pytest.param(
            endless(500),
            "answered 500",
            id="the body of an error is not read",
            marks=pytest.mark.long,
        ),
        pytest.param(
            endless_headers(),
            "cannot be reached",
            id="endless headers",
            marks=pytest.mark.long,
        ),
        pytest.param(endless_headers(b"a"), "cannot be reached", id="one endless header"),
    ],
)
async def test_an_answer_that_is_too_large(client, provider, reply, error):
    """An endless answer is not read to its end, and only a bounded part of it is held in memory."""
    one = client(attempts=1)
    provider.play(GOOD)
    await one.bars("MSFT", NINE)
    provider.play(reply)
    tracemalloc.start()
    try:
        with pytest.raises(ProviderUnavailable, match=error):
            await one.bars("IBM", NINE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16_000_000, f"{peak:,} bytes"


async def test_no_compression_is_requested(client, provider):
    """Bodies are small, so the client asks for none to be compressed."""
    provider.play(GOOD)
    await client().bars("IBM", NINE)
    assert [request.headers["accept-encoding"] for request in provider.requests] == ["identity"]


async def test_a_burst_is_distinguished_from_a_spent_quota(client, provider, pool):
    """The text about a burst also mentions 25 requests per day, but it means a burst."""
    assert "25 requests per day" in BURST
    provider.play(Reply(BURST.encode()), GOOD)
    assert isinstance(await client().bars("IBM", NINE), BarsAnswer)
    assert await outcomes(pool) == ["failed", None]


async def test_a_spent_quota(client, provider, clock, pool):
    """
    After the provider says that the day's quota is spent, no client sends a request for an hour.
    """
    provider.play(Reply(DAILY_QUOTA.encode()), GOOD)
    with pytest.raises(QuotaSpent) as raised:
        await client().bars("IBM", NINE)
    assert raised.value.at == NOW + timedelta(hours=1)
    assert "detected your API key as ***" in str(raised.value)
    with pytest.raises(QuotaSpent) as again:
        await client().bars("MSFT", NINE)  # another client, another ticker, the same ledger
    assert again.value.at == NOW + timedelta(hours=1)
    assert len(provider.requests) == 1
    clock.time = again.value.at
    assert isinstance(await client().bars("MSFT", NINE), BarsAnswer)


async def test_a_key_that_is_not_accepted(client, provider):
    """The message names the setting to change."""
    provider.play(Reply(BAD_KEY.encode()))
    with pytest.raises(ConfigurationError, match="set ALPHA_VANTAGE_API_KEY"):
        await client().bars("IBM", NINE)


async def test_an_unknown_ticker_is_named(client, provider):
    """The error has the ticker that it is about."""
    provider.play(Reply(UNKNOWN_SYMBOL.encode()))
    with pytest.raises(UnknownTicker, match="does not know IBMX") as raised:
        await client().bars("IBMX", NINE)
    assert raised.value.ticker == "IBMX"


ODD = [
    "",
    " 1",
    "1e3",
    "1_000",
    "1,000.00",
    "-5",
    "+5",
    "NaN",
    "Infinity",
    "0",
    "0.0000",
    "٣",
    ".",
    "--",
    244.84,
    {},
]


@pytest.mark.parametrize(
    "bar",
    [
        *(pytest.param({"1. open": "242.87", "4. close": odd}, id=f"close {odd}") for odd in ODD),
        pytest.param({"1. open": "242.87"}, id="no close"),
    ],
)
async def test_a_number_in_odd_form(client, provider, bar):
    """A close that is not a plain number above zero is refused, with its ticker and session."""
    provider.play(says({"Time Series (Daily)": {"2025-08-27": bar}}))
    with pytest.raises(ProviderUnavailable, match=r"^IBM, 2025-08-27: "):
        await client().bars("IBM", NINE)


@pytest.mark.parametrize("opened", [*ODD, None])
async def test_an_open_in_odd_form(client, provider, opened):
    """A bar with an unreadable open still has its close."""
    provider.play(
        says({"Time Series (Daily)": {"2025-08-27": {"1. open": opened, "4. close": "244.84"}}})
    )
    answer = await client().bars("IBM", NINE)
    assert answer.bars == [Bar(trading_day=date(2025, 8, 27), open=None, close=Decimal("244.84"))]


async def test_five_attempts(client, provider, clock, pool):
    """
    A temporary error is tried five times, with waits that double and vary; the test simulates the
    waits.
    """
    provider.play(*[Reply(status=503)] * 4, GOOD)
    answer = await client().bars("IBM", NINE)
    assert answer.bars
    assert await outcomes(pool) == ["failed"] * 4 + [None]
    assert len(clock.slept) == 4
    for pause, longest in zip(clock.slept, (2, 4, 8, 16), strict=True):
        assert longest / 2 <= pause <= longest <= 60
    assert clock.now() - NOW == pytest.approx(
        timedelta(seconds=sum(clock.slept)), abs=timedelta(seconds=0.001)
    )


@pytest.mark.parametrize(
    "reply", [UNKNOWN_SYMBOL, "{}", '{"Time Series (Daily)": {}}', '{"Meta Data": {}}']
)
async def test_a_ticker_is_unknown_after_five_such_answers(client, provider, clock, pool, reply):
    """
    The attempts spread over more than three minutes, so a short fault does not make a ticker
    unknown.
    """
    provider.play(Reply(reply.encode()))
    with pytest.raises(UnknownTicker):
        await client().bars("IBMX", NINE)
    assert await outcomes(pool) == ["unknown"] * 5
    for pause, about in zip(clock.slept, (5, 15, 60, 120), strict=True):
        assert pause == pytest.approx(about, rel=0.11)


@pytest.mark.parametrize(
    "replies",
    [
        pytest.param([UNKNOWN_SYMBOL] * 4 + ["<html>"], id="the last one differs"),
        pytest.param(
            ["{", UNKNOWN_SYMBOL, UNKNOWN_SYMBOL, UNKNOWN_SYMBOL, UNKNOWN_SYMBOL],
            id="the first one differs",
        ),
        pytest.param(
            [UNKNOWN_SYMBOL, UNKNOWN_SYMBOL, BURST, UNKNOWN_SYMBOL, UNKNOWN_SYMBOL],
            id="one is a burst",
        ),
        pytest.param(["{}", "{}", '{"Note": "We are moving."}', "{}", "{}"], id="one is a notice"),
        pytest.param(
            ["{}", "{}", '{"Meta Data": {"2. Symbol": "GE"}}', "{}", "{}"],
            id="one is about another symbol",
        ),
    ],
)
async def test_a_ticker_is_not_unknown_after_one_other_answer(client, provider, replies):
    """If one of the five answers is a different one, the provider counts as unavailable."""
    provider.play(*(Reply(text.encode()) for text in replies))
    with pytest.raises((ProviderUnavailable, ProviderBusy)):
        await client().bars("IBMX", NINE)
    assert len(provider.requests) == 5


async def test_answers_that_a_ticker_is_unknown_are_counted_across_processes(
    client, provider, clock, pool
):
    """The ledger stores them: three by a process that died and two by another make five."""
    provider.play(Reply(UNKNOWN_SYMBOL.encode()))

    async def dies() -> None:
        async def dies_too() -> None:
            async def now_it_does() -> None:
                raise KeyboardInterrupt

            clock.meanwhile = now_it_does

        clock.meanwhile = dies_too

    clock.meanwhile = dies
    with pytest.raises(KeyboardInterrupt):
        await client().bars("IBMX", NINE)
    assert await outcomes(pool) == ["unknown"] * 3
    with pytest.raises(UnknownTicker):
        await client().bars("IBMX", NINE)
    assert await outcomes(pool) == ["unknown"] * 5


async def test_splits_never_make_a_ticker_unknown(client, provider, pool):
    """Splits are requested only for tickers that had prices."""
    provider.play(Reply(UNKNOWN_SYMBOL.encode()))
    with pytest.raises(ProviderUnavailable) as raised:
        await client().splits("NVDA", NINE)
    assert type(raised.value) is ProviderUnavailable
    assert await outcomes(pool) == ["unknown"] * 5


async def test_dividends(client, provider, pool):
    """The request names the function, the symbol and the key; the answer has every digit."""
    provider.play(Reply(DIVIDENDS.encode()))
    vendor = client()
    answer = await vendor.dividends("IBM", NINE)
    assert [request.query for request in provider.requests] == [
        {"function": "DIVIDENDS", "symbol": "IBM", "apikey": KEY}
    ]
    assert isinstance(answer, DividendsAnswer)
    days = [date(2025, 8, 8), date(2025, 11, 10)]
    assert answer.dividends == [
        ListedDividend(days[0], Decimal("1.6800"), "1.6800"),
        ListedDividend(days[1], Decimal("1.69"), "1.69"),
    ]
    assert [str(one.amount) for one in answer.dividends] == ["1.6800", "1.69"]
    assert (answer.unreadable, answer.ex_dates, answer.undated) == ([], days, 0)
    assert answer.body_sha256 == hashlib.sha256(DIVIDENDS.encode()).hexdigest()
    async with pool.connection() as conn:
        await vendor.ledger.store_outcome(conn, answer.grant, RequestOutcome.ANSWERED)
    assert await vendor.dividends("IBM", NINE) == AlreadyAnswered()
    assert await outcomes(pool) == ["answered"]


async def test_a_ticker_without_dividends(client, provider, pool):
    """An empty list is an answer."""
    provider.play(says({"symbol": "BRK-B", "data": []}))
    answer = await client().dividends("BRK.B", NINE)
    assert isinstance(answer, DividendsAnswer)
    assert (answer.dividends, answer.ex_dates, answer.undated) == ([], [], 0)
    assert [request.query["symbol"] for request in provider.requests] == ["BRK-B"]
    assert await outcomes(pool) == [None]


async def test_dividends_that_cannot_be_read(client, provider):
    """The answer has all ex-dates, the number of rows without one, and no part of the key."""
    rows = [
        {"ex_dividend_date": "None", "amount": "1.69"},
        {"ex_dividend_date": "2025-08-08", "amount": KEY},
        {"ex_dividend_date": "2025-08-08", "amount": "1.68"},
        {"ex_dividend_date": "2025-05-09", "amount": "1.68"},
        {"ex_dividend_date": "", "amount": "1.68"},
    ]
    provider.play(says({"symbol": "IBM", "data": rows}))
    answer = await client().dividends("IBM", NINE)
    assert isinstance(answer, DividendsAnswer)
    assert [one.ex_date for one in answer.dividends] == [date(2025, 5, 9)]
    assert answer.ex_dates == [date(2025, 5, 9), date(2025, 8, 8)]
    assert answer.undated == 2
    assert [(row.day, row.reason) for row in answer.unreadable] == [
        (date(2025, 8, 8), "IBM, 2025-08-08: '***' is not a dividend."),
        (None, "IBM: 'None' is not a dividend's ex-date."),
        (None, "IBM: '' is not a dividend's ex-date."),
    ]


async def test_an_ex_date_that_holds_the_key(client, provider):
    """The response is refused, and the error has no part of the key."""
    rows = [{"ex_dividend_date": KEY, "amount": "1.68"}]
    provider.play(*5 * [says({"symbol": "IBM", "data": rows})])
    with pytest.raises(ProviderUnavailable) as failed:
        await client().dividends("IBM", NINE)
    assert str(failed.value) == "IBM: '***' is not a dividend's ex-date."


@pytest.mark.parametrize(
    ("reply", "error", "outcome", "requests"),
    [
        pytest.param(PREMIUM, ConfigurationError, "refused", 1, id="premium"),
        pytest.param(BAD_KEY, ConfigurationError, "refused", 1, id="bad key"),
        pytest.param(DAILY_QUOTA, QuotaSpent, "quota_spent", 1, id="daily quota"),
        pytest.param(BURST, ProviderBusy, "failed", 5, id="burst"),
        pytest.param(UNKNOWN_SYMBOL, ProviderUnavailable, "unknown", 5, id="unknown symbol"),
        pytest.param("{}", ProviderUnavailable, "unknown", 5, id="empty object"),
        pytest.param(SPLITS, ProviderUnavailable, "failed", 5, id="splits of another symbol"),
        pytest.param(DAILY_SERIES, ProviderUnavailable, "failed", 5, id="bars"),
        pytest.param(SPLITS.replace("NVDA", "IBM"), ProviderUnavailable, "failed", 5, id="splits"),
        pytest.param(
            '{"symbol": "GE", "data": []}', ProviderUnavailable, "failed", 5, id="another symbol"
        ),
        pytest.param(DIVIDENDS[:200], ProviderUnavailable, "failed", 5, id="truncated JSON"),
        pytest.param("<html>", ProviderUnavailable, "failed", 5, id="HTML"),
    ],
)
async def test_what_an_answer_about_dividends_means(
    client, provider, pool, reply, error, outcome, requests
):
    """
    Each answer without dividends raises the error that says what to do; the ticker never becomes
    unknown.
    """
    provider.play(Reply(reply.encode()))
    with pytest.raises(error) as raised:
        await client().dividends("IBM", NINE)
    assert type(raised.value) is error
    assert await outcomes(pool) == [outcome] * requests
    assert KEY not in "".join(traceback.format_exception(raised.value))


async def test_dividends_with_fewer_attempts(client, provider, pool):
    """The caller can have fewer attempts than other requests have."""
    provider.play(Reply(status=503))
    with pytest.raises(ProviderUnavailable):
        await client().dividends("IBM", NINE, max_attempts=2)
    assert await outcomes(pool) == ["failed"] * 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(endless(), "more than 5,000,000 bytes", id="endless chunks"),
        pytest.param(compressed(100_000_000), "more than 5,000,000 bytes", id="gzip"),
        pytest.param(endless_headers(b"a"), "cannot be reached", id="one endless header"),
        pytest.param(plain(4_000_000), "did not answer with a JSON object", id="only spaces"),
        pytest.param(
            plain(4_000_000, fill=b"["), "did not answer with a JSON object", id="very deep"
        ),
    ],
)
async def test_hostile_dividends(client, provider, reply, error):
    """The request fails with the provider's error, whatever the provider sends."""
    provider.play(reply)
    with pytest.raises(ProviderUnavailable, match=error):
        await client(attempts=1).dividends("IBM", NINE)


async def test_an_unknown_notice_is_quoted(client, provider):
    """
    After five attempts the error quotes the notice, redacted before it is shortened, so that no
    part of the key is left.
    """
    provider.play(says({"Information": f"We moved to premium. {'x' * 172} {KEY} is not welcome."}))
    with pytest.raises(ProviderUnavailable) as raised:
        await client().bars("IBM", NINE)
    start = "Alpha Vantage answered with a notice in place of data: We moved to premium. "
    assert str(raised.value).startswith(start)
    assert KEY[:3] not in str(raised.value)
    assert len(provider.requests) == 5


async def test_unreadable_rows_are_stored_with_the_answer(client, provider, pool):
    """
    Each job that shares the answer gets its unreadable rows, without the key; only new ones are
    logged.
    """
    bar = {"1. open": "1", "4. close": "2"}
    odd = {
        "2025-08-27": bar,
        "2025-08-26": {**bar, "4. close": KEY},
        "2025-08-25": {**bar, "4. close": "0"},
    }
    provider.play(says({"Time Series (Daily)": odd}))
    vendor, news = client(), []
    for _ in range(3):
        vendor.clock.forward(hours=1)
        answer = await vendor.bars("IBM", vendor.clock.now())
        assert [row.reason for row in answer.unreadable] == [
            "IBM, 2025-08-25: a price must be above zero, not '0'.",
            "IBM, 2025-08-26: '***' is not a price.",
        ]
        async with pool.connection() as conn:
            news.append(
                await vendor.ledger.store_answered(
                    conn, answer.grant, answer.unreadable[: len(news) + 1]
                )
            )
    assert [[row.day.day for row in rows] for rows in news] == [[25], [26], []]
    assert await vendor.bars("IBM", NINE) == AlreadyAnswered(tuple(answer.unreadable))


async def test_an_expired_grant_is_not_used(client, provider, pool):
    """
    A process that stalls between its grant and its request acquires a new grant, and sends one
    request.
    """
    provider.play(GOOD)
    vendor = client()
    build, stalls = vendor.http.build_request, [GRANT_LIFETIME.total_seconds() + 0.1]

    def after_a_while(*arguments, **more):
        time.sleep(stalls.pop() if stalls else 0)
        return build(*arguments, **more)

    vendor.http.build_request = after_a_while
    assert (await vendor.bars("IBM", NINE)).bars
    assert len(provider.requests) == 1
    assert await outcomes(pool) == ["failed", None]


async def test_attempts_are_counted_across_clients(client, provider, clock, pool):
    """
    There are five attempts since the work began, across clients and waits; a later client has one.
    """
    provider.play(Reply(status=503))
    for attempts in (5, 1, 1):
        provider.requests.clear()
        with pytest.raises(ProviderUnavailable):
            await client().bars("IBM", clock.now(), NINE)
        assert len(provider.requests) == attempts
        clock.forward(hours=2)
    provider.requests.clear()
    with pytest.raises(ProviderUnavailable):
        await client().bars("IBM", clock.now())  # other work, which begins now
    assert len(provider.requests) == 5


LATER = NOW + timedelta(minutes=5)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("300", id="seconds"),
        pytest.param(format_datetime(LATER, usegmt=True), id="a date"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_after_pauses_all_requests(client, provider, clock, pool, header, status):
    """
    No client sends a request before the time of the Retry-After header; then the second attempt is
    made.
    """
    provider.play(Reply(status=status, headers={"retry-after": header}), GOOD)
    with logged("WARNING", clock) as lines:
        for ticker in ("IBM", "MSFT"):
            with pytest.raises(QuotaSpent) as spent:
                await client().bars(ticker, NINE)
            assert abs(spent.value.at - LATER) < timedelta(seconds=2)
    assert len(provider.requests) == 1
    assert [line["event"] for line in lines] == ["provider requests paused"]
    clock.time = spent.value.at
    assert isinstance(await client().bars("IBM", NINE), BarsAnswer)


@pytest.mark.parametrize(
    "header", ["", "soon", "-5", "0", "9" * 400, "Mon, 99 Foo 2026 00:00:00 GMT"]
)
async def test_an_invalid_retry_after_is_ignored(client, provider, header):
    """A time that cannot be parsed counts as none."""
    provider.play(Reply(status=429, headers={"retry-after": header}), GOOD)
    assert isinstance(await client().bars("IBM", NINE), BarsAnswer)


async def test_a_notice_about_the_minutes_limit(client, provider, clock):
    """
    The older notice names the limit per minute: all clients wait a minute, and the second attempt
    is answered.
    """
    provider.play(Reply(OLDER_THROTTLE.encode()), GOOD)
    assert isinstance(await client().bars("IBM", NINE), BarsAnswer)
    assert clock.now() - NOW >= timedelta(seconds=61)
    assert len(provider.requests) == 2


async def test_attempts_keep_the_limits(client, provider, pool, clock):
    """Attempts are requests like any other, so the ledger's limits apply to them."""
    provider.play(*[Reply(status=503)] * 4, GOOD)
    await client(limits=[RateLimit(1, timedelta(seconds=20))]).bars("IBM", NINE)
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT at - lag(at) OVER (ORDER BY at) FROM operations.provider_requests ORDER BY at"
        )
        (_, *gaps) = [gap for (gap,) in await cursor.fetchall()]
    assert gaps == [timedelta(seconds=20)] * 4


async def test_class_shares_are_requested_with_a_dash(client, provider, pool):
    """BRK.B is BRK-B in requests, and BRK.B in the ledger."""
    provider.play(GOOD)
    await client().bars("BRK.B", NINE)
    assert [request.query["symbol"] for request in provider.requests] == ["BRK-B"]
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT symbol FROM operations.provider_requests")
        assert await cursor.fetchall() == [("BRK.B",)]


async def test_class_shares_fall_back_to_the_dot(client, provider, pool, clock):
    """If a provider knows only the spelling with the dot, the client uses and remembers it."""

    def only_the_dot(request):
        return GOOD if "." in request.query["symbol"] else Reply(UNKNOWN_SYMBOL.encode())

    provider.answers = only_the_dot
    vendor = client()
    await settle(vendor, await vendor.bars("BRK.B", NINE))
    assert await outcomes(pool) == ["unknown", "answered"]
    clock.time = NOW + timedelta(days=1)
    await vendor.bars("BRK.B", NINE + timedelta(days=1))
    assert [request.query["symbol"] for request in provider.requests] == ["BRK-B", "BRK.B", "BRK.B"]


async def test_class_shares_that_are_unknown(client, provider, pool):
    """The five attempts alternate between the dash and the dot; the error has our spelling."""
    provider.play(Reply(UNKNOWN_SYMBOL.encode()))
    with pytest.raises(UnknownTicker) as raised:
        await client().bars("ABC.D", NINE)
    assert raised.value.ticker == "ABC.D"
    symbols = [request.query["symbol"] for request in provider.requests]
    assert symbols == ["ABC-D", "ABC.D", "ABC-D", "ABC.D", "ABC-D"]
    assert await outcomes(pool) == ["unknown"] * 5


async def test_a_dot_that_did_not_work_is_not_remembered(client, provider, clock):
    """If neither spelling works for a while, later requests begin with the dash again."""
    vendor = client()
    provider.play(Reply(UNKNOWN_SYMBOL.encode()))
    with pytest.raises(UnknownTicker):
        await vendor.bars("BRK.B", NINE)
    clock.forward(minutes=10)
    provider.requests.clear()
    provider.play(GOOD)
    assert isinstance(await vendor.bars("BRK.B", clock.now()), BarsAnswer)
    assert [request.query["symbol"] for request in provider.requests] == ["BRK-B"]


async def test_the_dot_is_an_attempt(client, provider):
    """
    The spelling changes only after the answer that the ticker is unknown, and there are five
    attempts in all.
    """
    provider.play(Reply(status=503), Reply(UNKNOWN_SYMBOL.encode()), *[Reply(status=503)] * 2, GOOD)
    assert isinstance(await client().bars("BRK.B", NINE), BarsAnswer)
    assert [request.query["symbol"] for request in provider.requests] == ["BRK-B"] * 2 + [
        "BRK.B"
    ] * 3


async def test_at_most_three_in_flight(client, provider):
    """Of seven tickers at once, three requests at a time are in flight."""
    slow = Reply(GOOD.body, delay=0.5)
    provider.play(slow)
    vendor = client()
    await asyncio.gather(*(vendor.bars(ticker, NINE) for ticker in "ABCDEFG"))
    assert len(provider.requests) == 7
    assert provider.most_in_flight == 3


async def test_an_answer_is_shared_by_all_clients(client, provider, clock):
    """Data that was answered since the last request time is not requested again by any client."""
    provider.play(GOOD)
    first, second = client(), client()
    await settle(first, await first.bars("IBM", NINE))
    assert await second.bars("IBM", NINE) == AlreadyAnswered()
    assert len(provider.requests) == 1
    clock.time = NOW + timedelta(minutes=30)
    assert isinstance(await second.bars("IBM", clock.now()), BarsAnswer)
    assert len(provider.requests) == 2


async def test_an_answer_is_not_shared_before_it_is_stored(client, provider, clock):
    """
    A client waits while another one stores the answer; if it is never stored, the request is
    repeated.
    """
    provider.play(GOOD)
    first, second = client(), client()
    await first.bars("IBM", NINE)  # and its process dies
    assert isinstance(await second.bars("IBM", NINE), BarsAnswer)
    assert clock.now() - NOW == timedelta(seconds=60)


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
async def test_the_key_is_not_logged(client, provider, clock, level):
    """
    Neither the product's lines nor the HTTP library's contain the key, at any level, for any
    answer.
    """
    with logged(level, clock, KEY) as lines:
        for number, reply in enumerate([BURST, "", "[]", DAILY_SERIES, DAILY_QUOTA]):
            provider.play(Reply(reply.encode()))
            try:
                await client().bars(["A", "B", "C", "IBM", "E"][number], NINE)
            except (ProviderError, QuotaSpent):
                structlog.get_logger().exception("in vain")
    assert len(provider.requests) == 17
    assert [line["event"] for line in lines].count("in vain") == 4
    assert KEY not in json.dumps(lines)


async def test_the_library_does_not_log_the_key(client, provider, caplog):
    """
    The library's lines contain no key even if another program configures logging, as
    Procrastinate's command line does.
    """
    provider.play(GOOD)
    with caplog.at_level(logging.INFO):
        await client().bars("IBM", NINE)
    assert KEY not in caplog.text
