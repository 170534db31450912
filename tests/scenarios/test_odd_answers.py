"""
One odd answer of Alpha Vantage, or one odd row in it: what it costs, and what it must not cost.

Each kind of fault has the case that happened and further members of the kind.
`tests/unit/providers/test_alpha_vantage_answers.py` has tests of reading a single answer. It is the
Monday before New York's clocks go back, and its fortnight.
"""

import copy
import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from job_context import (
    BASELINE,
    CHOSEN,
    MONDAY,
    JobHarness,
    logged,
    new_york,
    open_context,
    run_until_done,
)
from job_context import clock as clock
from job_context import harness as harness
from provider_server import Reply, Request, says
from sealing import unseal

from app.database import migrations
from app.domain.calendar import due_at
from app.domain.model import Batch
from app.errors import ProviderUnavailable, UnknownTicker
from jobs import daily, splits
from jobs.prices import TemporarilyUnknownTicker, fetch_closes

TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)

SERIES = "Time Series (Daily)"
INVALID = says(
    {
        "Error Message": "Invalid API call. Please retry or visit the documentation for "
        "TIME_SERIES_DAILY."
    }
)
MINUTE_LEVEL = says(
    {"Information": "Minute-level rate limit exceeded. Please visit our premium plan page."}
)

Change = Callable[[dict[str, Any]], Any]


def change_answers(
    harness: JobHarness, function: str, ticker: str, change: Change, times: int | None = None
) -> list[Request]:
    """
    Change the answers about a ticker: the first `times`, or all. Return the list to which each
    request that gets a changed answer is added.
    """
    requests: list[Request] = []
    before = harness.provider.answers

    def answers(request: Request) -> Reply:
        good = before(request)
        if (request.query.get("function"), request.query.get("symbol")) != (function, ticker):
            return good
        if times is not None and len(requests) == times:
            return good
        requests.append(request)
        changed = change(json.loads(good.body))
        return changed if isinstance(changed, Reply) else says(changed)

    harness.provider.answers = answers
    return requests


def bar(day: date, **values: object) -> Change:
    """Change one bar of a series."""

    def change(answer: dict[str, Any]) -> dict[str, Any]:
        named = {"opened": "1. open", "close": "4. close"}
        new = {named[name]: value for name, value in values.items()}
        return {
            **answer,
            SERIES: {**answer[SERIES], str(day): {**answer[SERIES].get(str(day), {}), **new}},
        }

    return change


def rows_of_splits(*rows: object) -> Change:
    return lambda answer: {**answer, "data": list(rows)}


def split(day: date | str, factor: object) -> dict[str, object]:
    return {"effective_date": str(day), "split_factor": factor}


async def morning(
    harness: JobHarness, batch: Batch, day: int, *, again: bool = False
) -> list[dict[str, Any]]:
    """Take a checkpoint as the queue would, to its end; return the log."""
    harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
    with logged("WARNING", harness.clock) as lines:
        await run_until_done(
            harness, lambda: daily.take(harness.context, batch.id, day, retake=again)
        )
    return lines


def unreadable_reasons(lines: list[dict[str, Any]]) -> list[str]:
    return [line["reason"] for line in lines if line["event"] == "row cannot be read"]


async def status_of(harness: JobHarness, day: int, run_date: date = MONDAY) -> tuple[Any, ...]:
    ((status, reason, note),) = await harness.rows(
        "SELECT checkpoints.status, skip_reason, note FROM checkpoints JOIN batches ON batches.id "
        "= batch_id "
        "WHERE day = %s AND run_date = %s",
        day,
        run_date,
    )
    return status, reason, note


async def returns_of(harness: JobHarness, day: int) -> dict[str, Decimal]:
    rows = await harness.rows(
        "SELECT ticker, absolute_return_pct FROM pick_checkpoint_metrics metric "
        "JOIN picks ON picks.id = pick_id JOIN checkpoints ON checkpoints.id = checkpoint_id WHERE "
        "day = %s",
        day,
    )
    return dict(rows)


# A throttle, and an answer that the ticker is unknown: one is waited out


@pytest.mark.parametrize("ticker", ["SPY", "AAPL"])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(MINUTE_LEVEL, id="a minute-level limit, with a premium plan"),
        pytest.param(
            says({"Error Message": "Too many requests. Go premium."}),
            id="an error that is a throttle",
        ),
        pytest.param(says({"message": "Bandwidth is kept for premium keys."}), id="a message"),
        pytest.param(says({"Information": "This is new. Premium!"}), id="a notice in new words"),
        pytest.param(says({"Information": ["premium"]}), id="a notice that is a list"),
        pytest.param(INVALID, id="an invalid call"),
        pytest.param(says({}), id="nothing"),
        pytest.param(says({"Meta Data": {}, SERIES: {}}), id="an empty series"),
        pytest.param(
            says({"Meta Data": {"2. Symbol": "GE"}, SERIES: {str(BASELINE): {}}}),
            id="another symbol",
        ),
        pytest.param(says({"Weekly Time Series": {}, "Meta Data": {}}), id="another series"),
    ],
)
@pytest.mark.sampled(6)
async def test_one_odd_answer_on_a_monday(harness, ticker, reply):
    """Neither the Monday nor a question is lost."""
    requests = change_answers(
        harness=harness,
        function="TIME_SERIES_DAILY",
        ticker=ticker,
        change=lambda _: reply,
        times=1,
    )
    await harness.begin()
    assert (await harness.batch()).status == "active"
    assert len(requests) == 1
    assert len(harness.questions) == 1
    assert await harness.rows("SELECT accepted FROM generations") == [(True,)]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=429, headers={"retry-after": "86400"}), id="a day, in a header"),
        pytest.param(Reply(status=503, headers={"retry-after": "999999"}), id="eleven days"),
        pytest.param(
            Reply(status=429, headers={"retry-after": "Tue, 27 Oct 2026 13:00:00 GMT"}), id="a date"
        ),
        pytest.param(
            says({"Note": "Too many requests. Please wait 1440 minutes."}), id="a day, in minutes"
        ),
        pytest.param(says({"Note": "Rate limit. Retry after 9999 h."}), id="a year"),
        pytest.param(
            says({"Note": "Too many requests per minute; try again in 20 hours."}),
            id="until tomorrow",
        ),
    ],
)
@pytest.mark.sampled(2)
async def test_one_answer_that_asks_for_a_long_rest(harness, reply):
    """The next request is sent within an hour, on the same Monday."""
    harness.world.instead = [reply]
    times = await run_until_done(harness, harness.begin)
    assert [time - new_york(MONDAY) < timedelta(minutes=61) for time in times] == [True]
    assert (await harness.batch()).status == "active"


@pytest.mark.parametrize(
    "reply", [INVALID, says({}), MINUTE_LEVEL, says({"symbol": "NVDA"}), says({"symbol": "GE"})]
)
@pytest.mark.sampled(2)
async def test_one_odd_answer_about_splits(harness, reply):
    """A four for one is requested again, and counted: (1.75 * 4 - 7) / 7 = 0, not -75 %."""
    batch = await harness.make_batch()
    harness.world.closes["NVDA", MONDAY] = "1.7500"
    harness.world.splits["NVDA"] = [(MONDAY, "4.0000")]
    change_answers(
        harness=harness, function="SPLITS", ticker="NVDA", change=lambda _: reply, times=1
    )
    await morning(harness, batch, 1)
    assert (await returns_of(harness, 1))["NVDA"] == 0


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([("1999-05-03", "2.0000")], id="an old list"),
        pytest.param([("2027-05-03", "2.0000"), ("1999-05-03", "2.0000")], id="with one to come"),
        pytest.param([("2026-10-27", "2.0000")], id="with another since"),
    ],
)
async def test_one_list_without_a_known_split(harness, rows):
    """
    One such list withdraws nothing, not for a day and not in a correction; a second one without it
    does.
    """
    batch = await harness.make_batch()
    harness.world.closes["NVDA", MONDAY] = "6.7000"
    harness.world.splits["NVDA"] = [(MONDAY, "1.0500")]
    await morning(harness, batch, 1)
    harness.clock.time = due_at(MONDAY, 6)
    await splits.refresh_on_sunday(harness.context, batch, tickers=["NVDA"], day=6)
    right = await returns_of(harness, 1)
    change_answers(
        harness=harness,
        function="SPLITS",
        ticker="NVDA",
        change=rows_of_splits(*(split(*row) for row in rows)),
        times=1,
    )
    harness.clock.time = due_at(MONDAY, 13)
    await splits.refresh_on_sunday(harness.context, batch, tickers=["NVDA"], day=13)
    assert harness.requested_splits[-2:] == ["NVDA", "NVDA"]
    assert await returns_of(harness, 1) == right
    harness.clock.forward(days=1)
    change_answers(
        harness=harness,
        function="SPLITS",
        ticker="NVDA",
        change=rows_of_splits(split("1999-05-03", "2.0000")),
    )
    await splits.refresh(
        harness.context, "NVDA", since=harness.clock.now(), needed_since=harness.clock.now()
    )
    assert (await returns_of(harness, 1))["NVDA"] < -4


async def test_splits_that_are_never_listed(harness):
    """
    An answer that the ticker is unknown is never the answer that it had no split: nothing is
    measured.
    """
    batch = await harness.make_batch()
    harness.world.closes["NVDA", MONDAY] = "1.7500"
    requests = change_answers(
        harness=harness, function="SPLITS", ticker="NVDA", change=lambda _: INVALID
    )
    await morning(harness, batch, 1)
    assert (await status_of(harness, 1))[:2] == ("skipped", "PROVIDER_ERROR")
    assert len(requests) == 5


async def test_a_ticker_that_was_read_lately_is_not_unknown(harness):
    """
    A ticker with bars of the last ten days is unknown for a while only; so is the benchmark if any
    bar of it was ever stored.
    """
    await harness.make_batch()
    harness.world.unknown |= {"SPY", "AAPL", "KO"}
    for days, ticker, error in (
        (9, "AAPL", TemporarilyUnknownTicker),
        (9, "KO", UnknownTicker),
        (11, "AAPL", UnknownTicker),
        (11, "SPY", TemporarilyUnknownTicker),
        (400, "SPY", TemporarilyUnknownTicker),
    ):
        harness.clock.time = new_york(MONDAY + timedelta(days=days))
        session = harness.context.calendar.session_before(MONDAY + timedelta(days=days))
        with pytest.raises((ProviderUnavailable, UnknownTicker)) as raised:
            await fetch_closes(harness.context, [ticker], session)
        assert type(raised.value) is error, (days, ticker)
        assert str(raised.value).startswith(f"Alpha Vantage does not know {ticker}.")


# One row that cannot be read


LONG_AGO = date(2026, 9, 1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            bar(LONG_AGO, opened="0.0000", close="0.0000"), id="no price of three months ago"
        ),
        pytest.param(bar(LONG_AGO, close=None), id="no close"),
        pytest.param(bar(LONG_AGO, close=12.5), id="a number"),
        pytest.param(lambda answer: {**answer, SERIES: {**answer[SERIES], "n/a": {}}}, id="no day"),
        pytest.param(
            lambda answer: {**answer, SERIES: {**answer[SERIES], str(LONG_AGO): "none"}},
            id="a text",
        ),
        pytest.param(
            lambda answer: {**answer, SERIES: {**answer[SERIES], "2026-08-29": {}}}, id="a Saturday"
        ),
        pytest.param(
            lambda answer: {**answer, SERIES: {**answer[SERIES], str(TUESDAY): {}}}, id="today"
        ),
        pytest.param(
            lambda answer: {**answer, SERIES: {**answer[SERIES], "2026-10-25": {}}}, id="Sunday"
        ),
        pytest.param(
            lambda answer: {**answer, "Note": "Our premium plans have no rate limit."},
            id="and a note",
        ),
    ],
)
@pytest.mark.sampled(3)
async def test_a_bar_that_is_not_needed(harness, change):
    """It costs nothing: there is one request, the figures, and no line in the log."""
    batch = await harness.make_batch()
    requests = change_answers(
        harness=harness, function="TIME_SERIES_DAILY", ticker="SPY", change=change
    )
    lines = await morning(harness, batch, 1)
    assert (await status_of(harness, 1))[0] == "computed"
    assert len(requests) == 1
    assert unreadable_reasons(lines) == []


async def test_a_bar_that_is_needed(harness, clock, database, pool):
    """
    It is requested at the set times, once each; it is logged once, in one process only; and it is
    read in the end.
    """
    batch = await harness.make_batch()
    requests = change_answers(
        harness=harness,
        function="TIME_SERIES_DAILY",
        ticker="AAPL",
        change=bar(MONDAY, close="0.0000"),
        times=8,
    )
    lines = await morning(harness, batch, 1)
    assert (await status_of(harness, 1))[:2] == ("skipped", "MISSING_CLOSE")
    assert len(requests) == 6
    assert unreadable_reasons(lines) == [
        "AAPL, 2026-10-26: a price must be above zero, not '0.0000'."
    ]
    async with open_context(
        database=database, pool=pool, clock=clock, base_url=harness.provider.url
    ) as context:  # another process
        again = JobHarness(
            context=context, provider=harness.provider, world=harness.world, clock=clock
        )
        clock.time = new_york(WEDNESDAY)
        assert unreadable_reasons(await morning(again, batch, 2)) == []
        clock.time = new_york(WEDNESDAY, 10)
        assert unreadable_reasons(await morning(again, batch, 1, again=True)) == []
        clock.time = new_york(WEDNESDAY, 11)
        await morning(again, batch, 1, again=True)
    assert [(await status_of(harness, day))[0] for day in (1, 2)] == ["computed", "computed"]
    assert [unreadable for (unreadable,) in await harness.rows(
        "SELECT unreadable -> 0 ->> 'day' FROM operations.provider_requests WHERE unreadable IS "
        "NOT NULL"
    )] == [str(MONDAY)] * 8  # fmt: skip


@pytest.mark.parametrize("opened", ["0.0000", None, "NaN", 12.5, "n/a"])
@pytest.mark.sampled(2)
async def test_an_open_that_is_needed(harness, opened):
    """The morning is measured without it, and it is filled in once it can be read."""
    batch = await harness.make_batch()
    change_answers(
        harness=harness,
        function="TIME_SERIES_DAILY",
        ticker="AAPL",
        change=bar(MONDAY, opened=opened),
        times=1,
    )
    await morning(harness, batch, 1)
    query = "SELECT entry_open FROM picks WHERE ticker = 'AAPL'"
    assert (await status_of(harness, 1))[0] == "computed"
    assert await harness.rows(query) == [(None,)]
    await morning(harness, batch, 2)
    assert await harness.rows(query) == [(80,)]
    change_answers(
        harness=harness,
        function="TIME_SERIES_DAILY",
        ticker="AAPL",
        change=bar(MONDAY, opened=opened),
    )
    await morning(harness, batch, 3)
    readings = "SELECT open FROM closes WHERE ticker = 'AAPL' AND trading_day = %s ORDER BY read_at"
    assert await harness.rows(readings, MONDAY) == [(None,), (80,)]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(
            [split("1999-05-03", "0.5"), split("1999-05-03", "2.3")], id="two of 1999 on one date"
        ),
        pytest.param([split("1999-05-03", "0.0000")], id="zero"),
        pytest.param([split("1999-05-03", None)], id="no factor"),
        pytest.param(
            [split("1999-05-03", "4:1"), split("1999-05-03", "4")], id="one of two of a date"
        ),
        pytest.param([split("1999/05/03", "4")], id="another spelling"),
        pytest.param([split("1999-02-30", "4"), split("1987-01-05", "2")], id="no such day"),
        pytest.param(
            [split("2001-05-03", "2"), None, "4:1", {}], id="rows that are none, at the end"
        ),
    ],
)
@pytest.mark.sampled(2)
async def test_a_split_that_is_not_needed(harness, rows):
    """It costs nothing: one request, and the figures with the split that is needed."""
    batch = await harness.make_batch()
    harness.world.closes["NVDA", MONDAY] = "1.7500"
    requests = change_answers(
        harness=harness,
        function="SPLITS",
        ticker="NVDA",
        change=rows_of_splits(split(MONDAY, "4.0000"), *rows),
    )
    lines = await morning(harness, batch, 1)
    assert (await returns_of(harness, 1))["NVDA"] == 0
    assert len(requests) == 1
    assert unreadable_reasons(lines) == []


async def test_rows_without_a_day_beside_the_split_that_is_needed(harness):
    """The move has its explanation: the figure is measured, and the rows are logged once."""
    batch = await harness.make_batch()
    harness.world.closes |= {("NVDA", MONDAY): "1.7500", ("NVDA", TUESDAY): "2.1000"}
    rows = [split(MONDAY, "4.0000"), None, split(None, "2"), split("0000-00-00", "2")]
    change_answers(harness=harness, function="SPLITS", ticker="NVDA", change=rows_of_splits(*rows))
    assert len(unreadable_reasons(await morning(harness, batch, 1))) == 3
    assert unreadable_reasons(await morning(harness, batch, 2)) == []
    assert (await returns_of(harness, 1))["NVDA"] == 0


UNREADABLE = [
    pytest.param([split(MONDAY, "0.0000")], "above zero, not '0.0000'.", id="zero"),
    pytest.param([split(MONDAY, 4)], "NVDA, 2026-10-26: 4 is not a factor.", id="a number"),
    pytest.param([split(MONDAY, "4:1")], "'4:1' is not a factor.", id="a ratio"),
    pytest.param(
        [split(MONDAY, "4"), split(MONDAY, "4,0")],
        "'4,0' is not a factor.",
        id="one of two of the date",
    ),
    pytest.param(
        [split("2026/10/26", "4")], "'2026/10/26' is not a split's day.", id="another spelling"
    ),
    pytest.param(
        [split("Monday", "4")], "'Monday' is not a split's day.", id="a day that may be that one"
    ),
    pytest.param([{"split_factor": "4"}], "None is not a split's day.", id="no day"),
]


@pytest.mark.parametrize(("rows", "what"), UNREADABLE)
@pytest.mark.sampled(2)
async def test_a_split_that_is_needed(harness, rows, what):
    """
    Without it nothing is measured, in any batch; it is requested again later, and then it counts.
    """
    harness.clock.time = new_york(MONDAY)
    first = await harness.make_batch(MONDAY - timedelta(days=7))
    second = await harness.make_batch(MONDAY)
    harness.world.closes["NVDA", MONDAY] = "1.7500"
    harness.world.splits["NVDA"] = [(MONDAY, "4.0000")]
    requests = change_answers(
        harness=harness,
        function="SPLITS",
        ticker="NVDA",
        change=rows_of_splits(*rows, split("1999-05-03", "2")),
        times=1,
    )
    lines = [*await morning(harness, first, 8), *await morning(harness, second, 1)]
    for run_date, day in ((first.run_date, 8), (second.run_date, 1)):
        status, reason, note = await status_of(harness, day, run_date)
        assert (status, reason) == ("skipped", "PROVIDER_ERROR")
        assert note.startswith("A split that the figure needs cannot be read. NVDA")
        assert what in note
    assert len(requests) == 1
    assert len(unreadable_reasons(lines)) == 1
    harness.clock.time = new_york(TUESDAY, 10)
    await morning(harness, first, 8, again=True)
    await morning(harness, second, 1, again=True)
    assert (await status_of(harness, 8, first.run_date))[0] == "computed"
    assert (await returns_of(harness, 1))["NVDA"] == 0


async def test_a_split_that_stays_unreadable(harness):
    """It is requested once at each of the day's times, and logged once."""
    batch = await harness.make_batch()
    harness.world.closes["NVDA", MONDAY] = "1.7500"
    requests = change_answers(
        harness=harness,
        function="SPLITS",
        ticker="NVDA",
        change=rows_of_splits(split(MONDAY, "four"), split("1999-05-03", "2")),
    )
    lines = await morning(harness, batch, 1)
    for hour in (9, 10, 10, 10, 12, 12):
        harness.clock.time = max(harness.clock.time, new_york(TUESDAY, hour, 31))
        lines += await morning(harness, batch, 1, again=True)
    assert [request.query["symbol"] for request in requests] == [
        "NVDA"
    ] * 4  # 9:00, 9:30, 10:30, 12:30
    assert unreadable_reasons(lines) == ["NVDA, 2026-10-26: 'four' is not a factor."]
    # On Sunday nothing is measured, and so nothing is wrong.
    await morning(harness, batch, 6)
    assert (await status_of(harness, 6))[:2] == ("skipped", "MARKET_CLOSED")


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([split(MONDAY, "4,0"), split("1999-05-03", "2")], id="its factor"),
        pytest.param([split("2026-10-26 ", "4"), split("1999-05-03", "2")], id="its day"),
        pytest.param(
            [split(MONDAY, "4"), split(MONDAY, "x"), split("1999-05-03", "2")], id="a second row"
        ),
        pytest.param([], id="all"),
    ],
)
@pytest.mark.sampled(2)
async def test_a_split_that_was_read_before(harness, rows):
    """It stays in force, and is not taken back."""
    batch = await harness.make_batch()
    harness.world.closes |= {("NVDA", MONDAY): "1.7500", ("NVDA", TUESDAY): "2.1000"}
    harness.world.splits["NVDA"] = [(MONDAY, "4.0000")]
    await morning(harness, batch, 1)
    change_answers(harness=harness, function="SPLITS", ticker="NVDA", change=rows_of_splits(*rows))
    await morning(harness, batch, 2)
    assert (await returns_of(harness, 2))["NVDA"] == 20  # (2.1 * 4 - 7) / 7
    assert await harness.rows("SELECT factor FROM splits") == [(4,)]


async def test_a_reverse_split_and_a_spin_off_of_one_day(harness):
    """Two factors multiply: 62.66 * 0.1 * 1.253 = 7.851298, up from 7 by 12.16 %."""
    batch = await harness.make_batch()
    harness.world.closes["NVDA", MONDAY] = "62.6600"
    harness.world.splits["NVDA"] = [(MONDAY, "0.1000"), (MONDAY, "1.2530")]
    await morning(harness, batch, 1)
    assert (await returns_of(harness, 1))["NVDA"] == Decimal("12.16140000")
    assert await harness.rows("SELECT factor, source FROM splits") == [
        (Decimal("0.12530000"), "alphavantage SPLITS, as 0.1000 and 1.2530")
    ]
    harness.world.splits["NVDA"].reverse()
    harness.world.closes["NVDA", TUESDAY] = "80.0000"
    await morning(harness, batch, 2)
    assert len(await harness.rows("SELECT factor FROM splits")) == 1


# A name that stands there twice, and what is about something else


@pytest.mark.parametrize("doubled", ["bar", "close"])
async def test_a_session_with_two_closes(harness, doubled):
    """
    The close is missing until an answer has it only once: 84.00 or 129.30, whichever came last, is
    never published.
    """
    batch = await harness.make_batch()

    def twice(answer: dict[str, Any]) -> Reply:
        marked = copy.deepcopy(answer)
        marked[SERIES][str(MONDAY)] = "MARK"
        one, two = (
            '"1. open": "80.0000", "4. close": "84.0000"',
            '"1. open": "80.0000", "4. close": "129.3000"',
        )
        text = (
            f'{{{one}, "4. close": "129.3000"}}'
            if doubled == "close"
            else f'{{{one}}}, "{MONDAY}": {{{two}}}'
        )
        return Reply(json.dumps(marked).replace('"MARK"', text).encode())

    change_answers(
        harness=harness, function="TIME_SERIES_DAILY", ticker="AAPL", change=twice, times=1
    )
    lines = await morning(harness, batch, 1)
    assert (await returns_of(harness, 1))["AAPL"] == 0
    assert ["two values for one name" in reason for reason in unreadable_reasons(lines)] == [True]


@pytest.mark.parametrize(
    "day",
    [
        pytest.param(date(2026, 10, 31), id="a Saturday"),
        pytest.param(date(2026, 11, 1), id="a Sunday"),
        pytest.param(date(2026, 10, 29), id="a day that was called off"),
        pytest.param(date(2026, 11, 2), id="today"),
        pytest.param(date(2026, 11, 26), id="a holiday to come"),
    ],
)
@pytest.mark.sampled(2)
async def test_a_bar_of_no_session(harness, clock, database, pool, day):
    """It is not stored, and enters no figure."""
    await harness.make_batch()
    closed = {"MARKET_CLOSED_DAYS": "2026-10-29"}
    # A bar of the benchmark would show that the exchange traded on that day after all.
    harness.world.absent.add(("SPY", day))
    async with open_context(
        database=database, pool=pool, clock=clock, base_url=harness.provider.url, **closed
    ) as context:
        change_answers(
            harness=harness,
            function="TIME_SERIES_DAILY",
            ticker="AAPL",
            change=bar(day, opened="90.0000", close="90.0000"),
        )
        clock.time = new_york(date(2026, 11, 2))
        closes = await fetch_closes(context, ["SPY", *CHOSEN], date(2026, 10, 30))
    assert closes["AAPL"].close == 80
    assert await harness.rows("SELECT trading_day FROM closes WHERE close = 90") == []


# From the database as it was


async def test_a_ledger_from_before(harness, database):
    """
    A fortnight that runs goes on after the migration; what was answered before counts as read in
    full.
    """
    batch = await harness.make_batch()
    await morning(harness, batch, 1)
    rows = "SELECT id, symbol, at, ended_at, outcome FROM operations.provider_requests ORDER BY id"
    before = await harness.rows(rows)
    (number,) = [step.number for step in migrations.load_migrations() if step.name == "unreadable"]
    unseal(database)
    await migrations.migrate(database, harness.clock.now(), number - 1)
    await migrations.migrate(database, harness.clock.now())
    assert await harness.rows(rows) == before
    await morning(harness, batch, 2)
    assert (await status_of(harness, 2))[0] == "computed"
    columns = "SELECT DISTINCT unreadable FROM operations.provider_requests"
    assert await harness.rows(columns) == [(None,)]
