"""
Dividends: requested on Sundays, journaled, and added to the result of a fortnight.

The kind: what the provider says about the dividends of a fortnight, and when. Members tried: none,
a refusal, a provider without the function, a dividend that is listed late, withdrawn, moved,
changed, restated, or cannot be read; one of the future; a split before it, after it, on its day, or
learnt late; a spin-off that is listed twice; a renamed pick, an ended one; a result that is
computed weeks later; a failed Monday; two series; a quota without room; a record that is not
sealed; a corrected price; and a price that a version without total returns has corrected.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import psycopg
import pytest
from clocks import HandSetClock
from job_context import (
    BASELINE,
    CHOSEN,
    MONDAY,
    JobHarness,
    World,
    allow,
    logged,
    make_answer,
    make_completion,
    make_dividend,
    new_york,
    open_harness,
    run_attempt,
    run_until_done,
    store_reading,
)
from job_context import clock as clock
from provider_server import Reply, Request, says
from record_server import check_record, without_triggers
from sealing import unseal
from served_pages import pages_on
from several_series import make_batches, open_series, take_checkpoints

from app.commands import status
from app.core import settings
from app.database import migrations
from app.database.pools import transaction
from app.domain.calendar import due_at
from app.domain.journal import GENESIS_HASH, canonical_json
from app.domain.model import SERIES, Close, batch_id
from app.ops import snapshot
from app.simulation.faults import PREMIUM, UNKNOWN
from jobs import corrections, daily, dividends, picks, reconcile, splits, total_returns, weekly

ALL = ["SPY", *CHOSEN]
ID = batch_id(SERIES, MONDAY)
WEEK = timedelta(weeks=1)
DAY = timedelta(days=1)
# The Sunday after the result, and the two later ones.
SUNDAY, SECOND, THIRD = (MONDAY + timedelta(days=day) for day in (13, 27, 41))
# The session of the result.
RESULT = MONDAY + timedelta(days=11)
WEDNESDAY = MONDAY + timedelta(days=2)
THURSDAY = MONDAY + timedelta(days=3)

SPY_DIVIDEND = make_dividend(RESULT, "1.8310")
AAPL_DIVIDEND = make_dividend(MONDAY, "0.2500")
# (606 + 1.8310 - 600) / 600 * 100
SPY_TOTAL = "1.305166666666666666666666667"

BENCHMARK = (
    "SELECT benchmark_dividends, benchmark_total_return_pct, benchmark_spin_off_counted_once "
    "FROM checkpoints WHERE benchmark_total_return_pct IS NOT NULL"
)
METRICS = """
SELECT ticker, dividends, total_return_pct, vs_benchmark_total_pct, spin_off_counted_once
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
WHERE total_return_pct IS NOT NULL
ORDER BY ticker
"""
CORRECTED = """
SELECT ticker, field, before, after, reason FROM corrections ORDER BY ticker NULLS FIRST, field
"""
READINGS = "SELECT ticker, ex_date, amount FROM dividends ORDER BY ticker, ex_date, read_at"
JOBS = (
    "SELECT args ->> 'sunday', status::text FROM procrastinate_jobs "
    "WHERE task_name = 'read_dividends' ORDER BY id"
)


def set_prices(world: World) -> None:
    """Let SPY rise from 600 to 606, MSFT from 3 to 3.06 and NVDA from 7 to 7.70; AAPL stays 80."""
    day = MONDAY
    while day < MONDAY + 20 * WEEK:
        world.closes["SPY", day] = "606.0000"
        world.closes["MSFT", day] = "3.0600"
        world.closes["NVDA", day] = "7.7000"
        day += timedelta(days=1)


async def take(harness: JobHarness, *days: int) -> None:
    """Take the checkpoints of some days."""
    for day in days:
        harness.clock.time = max(harness.clock.time, due_at(MONDAY, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, ID, day))


@pytest.fixture(scope="session")
def at_day_12(made_once) -> Callable[[], str]:
    """Return the function that copies a record: its result is computed, its Sunday comes next."""

    async def fill(address: str) -> None:
        clock = HandSetClock(new_york(MONDAY))
        await migrations.migrate(address, clock.now())
        async with open_harness(address, clock) as harness:
            set_prices(harness.world)
            await harness.make_batch()
            await take(harness, *range(1, 13))

    return lambda: made_once("dividends", lambda address: asyncio.run(fill(address)))


@pytest.fixture
def record(at_day_12) -> str:
    """The address of a copy of that record."""
    return at_day_12()


@pytest.fixture
async def harness(record, clock) -> AsyncIterator[JobHarness]:
    """A harness on the record, on the Sunday; no request counts any more."""
    clock.time = new_york(SUNDAY, 11) + timedelta(minutes=30)
    async with open_harness(
        record, clock, ALERT_WEBHOOK_URL="http://127.0.0.1:9/alerts"
    ) as harness:
        set_prices(harness.world)
        await harness.rows("DELETE FROM operations.provider_requests")
        yield harness


async def ask(harness: JobHarness, sunday: date = SUNDAY) -> list[Any]:
    """Request the dividends of a Sunday as its job does. Return when it tries again."""
    at = new_york(sunday, 11) + timedelta(minutes=30)
    harness.clock.time = max(harness.clock.time, at)
    return await run_until_done(harness, lambda: dividends.refresh(harness.context, sunday))


async def complete(harness: JobHarness) -> None:
    """Complete the batch, and run the jobs that this defers for total returns."""
    await take(harness, 13, 14)
    await run_jobs(harness)


async def run_jobs(harness: JobHarness) -> None:
    """Run the waiting jobs for total returns."""
    for task, arguments, _ in await harness.jobs():
        if task == total_returns.add_total_returns.name:
            await total_returns.add_total_returns(**arguments)


async def live(harness: JobHarness, **listed: list[dict[str, str]]) -> None:
    """Ask on the Sunday about dividends that are listed, and complete the batch."""
    harness.world.dividends = listed
    assert await ask(harness) == []
    await complete(harness)


async def totals(harness: JobHarness) -> dict[str, tuple[str, str]]:
    """Return the dividends and the total return of each row that has one, by ticker."""
    found = {}
    for received, total, _ in await harness.rows(BENCHMARK):
        found["SPY"] = (str(received), str(total))
    for ticker, received, total, _, _ in await harness.rows(METRICS):
        found[ticker] = (str(received), str(total))
    return found


NONE = {
    "SPY": ("0", "1"),
    "AAPL": ("0", "0"),
    "MSFT": ("0", "2"),
    "NVDA": ("0", "10"),
}


def same(found: dict[str, tuple[str, str]], **expected: tuple[str, str]) -> bool:
    """Return whether the totals are those without dividends, except these, as numbers."""
    wanted = {**NONE, **expected}
    return {ticker: tuple(map(Decimal, pair)) for ticker, pair in found.items()} == {
        ticker: tuple(map(Decimal, pair)) for ticker, pair in wanted.items()
    }


async def entries(harness: JobHarness, kind: str) -> list[dict[str, Any]]:
    return [json.loads(entry.content) for entry in await harness.journal() if entry.kind == kind]


async def check(harness: JobHarness, record: str) -> None:
    """Verify the record. The service had no time for the other Mondays: they are recorded first."""
    async with transaction(harness.context.pool) as conn:
        await weekly.record_missed_mondays(conn, harness.context)
    await check_record(record)


# What the provider lists


async def test_a_fortnight_with_dividends(harness, record):
    """The totals appear when the batch is completed, and equal the values by hand."""
    harness.world.dividends = {
        "SPY": [SPY_DIVIDEND, make_dividend(BASELINE, "9")],
        "AAPL": [AAPL_DIVIDEND],
        "NVDA": [make_dividend(WEDNESDAY, "0.02"), make_dividend(WEDNESDAY, "0.05")],
    }
    assert await ask(harness) == []
    assert harness.requested_dividends == ALL
    assert await totals(harness) == {}
    assert await harness.rows(READINGS) == [
        ("AAPL", MONDAY, Decimal("0.2500")),
        ("NVDA", WEDNESDAY, Decimal("0.07")),
        ("SPY", RESULT, Decimal("1.8310")),
    ]
    await take(harness, 13)
    assert await totals(harness) == {}
    await complete(harness)
    assert await harness.rows(BENCHMARK) == [(Decimal("1.8310"), Decimal(SPY_TOTAL), False)]
    # (80 + 0.25 - 80) / 80 and (7.70 + 0.07 - 7) / 7, in percent, and less SPY's.
    assert await harness.rows(METRICS) == [
        (
            "AAPL",
            Decimal("0.2500"),
            Decimal("0.3125"),
            Decimal("-0.992666666666666666666666667"),
            False,
        ),
        ("MSFT", 0, 2, Decimal("0.694833333333333333333333333"), False),
        ("NVDA", Decimal("0.07"), 11, Decimal("9.694833333333333333333333333"), False),
    ]
    (extension,) = await entries(harness, "EXTENSION")
    assert {one["ticker"] for one in extension["dividends"]} == {"AAPL", "NVDA", "SPY"}
    assert await harness.rows(CORRECTED) == []
    await check(harness, record)


async def test_no_dividends(harness, record):
    """Asked, none: this is zero, and not null."""
    await live(harness)
    assert same(await totals(harness))
    assert await harness.rows(READINGS) == []
    responses = [one["response"] for one in await entries(harness, "READINGS")]
    asked = [one for one in responses if one["kind"] == "DIVIDENDS"]
    assert [(one["ticker"], one["ex_dates"]) for one in asked] == [(name, []) for name in ALL]
    await check(harness, record)


async def test_a_provider_that_refuses(harness, record):
    """Results stand without total returns. Two requests a week, with warnings, and a note."""
    with structlog_events(harness) as events:
        await answered_instead(harness, says({"Information": PREMIUM}))
        assert await ask(harness) == []
        await complete(harness)
        assert len(harness.requested_dividends) == 2
        for week in range(1, 4):
            assert await ask(harness, SUNDAY + week * WEEK) == []
            assert len(harness.requested_dividends) == 2 + 2 * week
    refused = [one for one in events if one["event"] == "dividends refused by the provider"]
    assert len(refused) == 8
    assert {one["level"] for one in refused} == {"warning"}
    assert await totals(harness) == {}
    assert await harness.rows("SELECT count(*) FROM checkpoints WHERE status = 'skipped'") == (
        await harness.rows("SELECT count(*) FROM checkpoints WHERE skip_reason = 'MARKET_CLOSED'")
    )
    assert (await harness.batch()).status == "completed"
    state = await snapshot.read_for_operator(harness.context.pool, settings.load({}), harness.clock)
    assert any("refused the last request for dividends" in one for one in status.notes(state))
    await check(harness, record)


@pytest.mark.long
async def test_a_provider_without_the_function(harness, record):
    """At most four tickers are tried a day, twice each; the closes of the week have their room."""
    await answered_instead(harness, says({"Error Message": UNKNOWN}))
    begun = harness.clock.time
    times = await ask(harness)
    assert times == [begun + timedelta(days=number) for number in range(1, 8)]
    sent = await harness.rows(
        "SELECT count(*), count(DISTINCT symbol) FROM operations.provider_requests "
        "WHERE function = 'DIVIDENDS' GROUP BY (at AT TIME ZONE 'America/New_York')::date"
    )
    assert len(sent) == 7
    assert all(requests <= 8 and tickers <= 4 for requests, tickers in sent)
    await complete(harness)
    assert await totals(harness) == {}
    assert (await harness.batch()).status == "completed"
    await check(harness, record)
    # When it has the function, the next Sunday's requests find what was missing.
    harness.provider.answers = harness.world
    assert await ask(harness, SUNDAY + WEEK) == []
    assert same(await totals(harness))
    await check(harness, record)


async def answered_instead(harness: JobHarness, reply: Reply) -> None:
    """Let the provider answer every request for dividends with a reply."""
    world = harness.world

    def answers(request: Request) -> Reply:
        return reply if request.query.get("function") == "DIVIDENDS" else world(request)

    harness.provider.answers = answers


def structlog_events(harness: JobHarness):
    return logged("INFO", harness.clock)


# What it lists later


async def test_a_dividend_that_is_listed_three_weeks_late(harness, record):
    """The total is corrected; the corrections and the feed say so."""
    await live(harness, SPY=[SPY_DIVIDEND])
    harness.world.dividends["AAPL"] = [AAPL_DIVIDEND]
    await ask(harness, SECOND)
    assert same(await totals(harness), SPY=("1.8310", SPY_TOTAL), AAPL=("0.25", "0.3125"))
    reason = f"AAPL: the dividend of {MONDAY} was read as 0.2500."
    assert await harness.rows(CORRECTED) == [
        ("AAPL", "dividends", "0", "0.2500", reason),
        ("AAPL", "total_return_pct", "0", "0.312500", reason),
        (
            "AAPL",
            "vs_benchmark_total_pct",
            "-1.305166666666666666666666667",
            "-0.992666666666666666666666667",
            reason,
        ),
    ]
    (correction,) = await entries(harness, "CORRECTION")
    assert {one["ticker"] for one in correction["dividends"]} == {"SPY", "AAPL"}
    async with pages_on(harness.context.pool) as browser:
        feed = ElementTree.fromstring((await browser.get("/feed.atom")).content)
    words = "".join(feed.itertext())
    change = "AAPL, change with dividends, whatever the call, %, from 0 to 0.3125."
    assert f"Corrected: {change} {reason}" in words
    await check(harness, record)


@pytest.mark.parametrize(
    ("now", "received", "total"),
    [
        pytest.param([], "0", "0", id="withdrawn"),
        pytest.param([make_dividend(WEDNESDAY, "0.2500")], "0.25", "0.3125", id="moved"),
        pytest.param([make_dividend(SUNDAY, "0.2500")], "0", "0", id="moved out"),
        pytest.param([make_dividend("None", "0.2500")], "0", "0", id="without an ex-date now"),
        pytest.param([make_dividend(BASELINE, "0.2500")], "0", "0", id="moved back"),
        pytest.param([make_dividend(MONDAY, "0.2600")], "0.26", "0.325", id="changed"),
        pytest.param([make_dividend(MONDAY, "0.2501")], "0.2501", "0.312625", id="a bit"),
        pytest.param(
            [AAPL_DIVIDEND, make_dividend(MONDAY, "4.0000")], "4.25", "5.3125", id="a special one"
        ),
    ],
)
@pytest.mark.sampled(2)
async def test_a_dividend_that_changes(harness, record, now, received, total):
    """It is corrected, and corrected back when the provider lists the first row again."""
    await live(harness, AAPL=[AAPL_DIVIDEND])
    assert same(await totals(harness), AAPL=("0.25", "0.3125"))
    harness.world.dividends["AAPL"] = now
    await ask(harness, SECOND)
    assert same(await totals(harness), AAPL=(received, total))
    await check(harness, record)
    harness.world.dividends["AAPL"] = [AAPL_DIVIDEND]
    await ask(harness, THIRD)
    assert same(await totals(harness), AAPL=("0.25", "0.3125"))
    await check(harness, record)


async def test_a_dividend_that_is_only_restated(harness, record):
    """One alert, whatever how often it is listed; nothing is corrected."""
    await live(harness, NVDA=[make_dividend(WEDNESDAY, "0.0700")])
    # Four for one, after the fortnight.
    harness.world.splits["NVDA"] = [(SUNDAY + timedelta(days=2), "4.0000")]
    harness.world.dividends["NVDA"] = [make_dividend(WEDNESDAY, "0.0175")]
    harness.clock.time = new_york(SUNDAY + WEEK, 9)
    await request_splits(harness, "NVDA", day=20)
    for sunday in (SECOND, THIRD):
        await ask(harness, sunday)
    assert same(await totals(harness), NVDA=("0.07", "11"))
    assert await harness.rows(CORRECTED) == []
    alerts = "SELECT reason FROM operations.alerts WHERE kind = 'dividend_restated'"
    assert await harness.rows(alerts) == [(f"NVDA {WEDNESDAY} 0.0175",)]
    await check(harness, record)


async def request_splits(harness: JobHarness, ticker: str, day: int) -> None:
    """Request a ticker's splits on a Sunday."""
    batch = await harness.batch()
    await splits.refresh_on_sunday(harness.context, batch, tickers=[ticker], day=day)


@pytest.mark.parametrize("amount", ["None", "", "0.25 USD", "1,000", "-0.25"])
@pytest.mark.sampled(1)
async def test_an_amount_that_cannot_be_read(harness, record, amount):
    """This total stays null, and the others do not. It becomes known when it can be read."""
    await live(harness, SPY=[SPY_DIVIDEND], AAPL=[make_dividend(MONDAY, amount)])
    assert (await totals(harness)).keys() == {"SPY", "MSFT", "NVDA"}
    await check(harness, record)
    # An ordinary week asks for what is missing, also between the three Sundays.
    harness.world.dividends["AAPL"] = [AAPL_DIVIDEND]
    harness.provider.requests.clear()
    await ask(harness, SUNDAY + WEEK)
    assert harness.requested_dividends == ["AAPL"]
    assert same(await totals(harness), SPY=("1.8310", SPY_TOTAL), AAPL=("0.25", "0.3125"))
    # The second entry mentions the checkpoint again, and holds only what AAPL counts.
    held = [one["dividends"] for one in await entries(harness, "EXTENSION")]
    assert [[one["ticker"] for one in dividends] for dividends in held] == [["SPY"], ["AAPL"]]
    assert await harness.rows(CORRECTED) == []
    await check(harness, record)


async def test_an_amount_of_the_benchmark_that_cannot_be_read(harness, record):
    """Every total needs it: all stay null until it can be read."""
    await live(harness, SPY=[make_dividend(RESULT, "None")])
    assert await totals(harness) == {}
    await check(harness, record)
    harness.world.dividends["SPY"] = [SPY_DIVIDEND]
    await ask(harness, SUNDAY + WEEK)
    assert same(await totals(harness), SPY=("1.8310", SPY_TOTAL))
    await check(harness, record)


@pytest.mark.long
async def test_a_known_amount_that_cannot_be_read_later(harness, record):
    """It keeps its reading, and the total stands."""
    await live(harness, AAPL=[AAPL_DIVIDEND])
    harness.world.dividends["AAPL"] = [make_dividend(MONDAY, "None")]
    await ask(harness, SECOND)
    assert same(await totals(harness), AAPL=("0.25", "0.3125"))
    await check(harness, record)


@pytest.mark.parametrize("day", ["None", "", "0000-00-00"])
@pytest.mark.sampled(1)
async def test_a_row_without_an_ex_date(harness, record, day):
    """The row counts nowhere; it counts when it has its ex-date."""
    await live(harness, AAPL=[make_dividend(day, "0.2500")])
    assert same(await totals(harness))
    await check(harness, record)
    harness.world.dividends["AAPL"] = [AAPL_DIVIDEND]
    await ask(harness, SECOND)
    assert same(await totals(harness), AAPL=("0.25", "0.3125"))
    await check(harness, record)


@pytest.mark.parametrize(
    "day",
    [f"{MONDAY}T00:00:00", f"{MONDAY:%Y/%m/%d}", f"{MONDAY:%Y%m%d}", "2026-13-01", "soon"],
)
@pytest.mark.sampled(2)
async def test_an_ex_date_that_cannot_be_read(harness, record, day):
    """The total return stays null: the share had a dividend. A known dividend keeps its reading."""
    harness.world.dividends = {"AAPL": [make_dividend(day, "0.2500")]}
    await ask(harness)
    await complete(harness)
    assert "AAPL" not in await totals(harness)
    harness.world.dividends["AAPL"] = [AAPL_DIVIDEND]
    await ask(harness, SUNDAY + WEEK)
    assert same(await totals(harness), AAPL=("0.25", "0.3125"))
    harness.world.dividends["AAPL"] = [make_dividend(day, "0.2500")]
    await ask(harness, SECOND)
    assert same(await totals(harness), AAPL=("0.25", "0.3125"))
    assert await harness.rows(CORRECTED) == []
    await check(harness, record)


async def test_one_ticker_that_is_refused(harness, record):
    """The provider calls one ticker premium: only this ticker has no total return."""
    world = harness.world

    def answers(request: Request) -> Reply:
        is_refused = request.query.get("function") == "DIVIDENDS"
        if is_refused and request.query["symbol"] == "MSFT":
            return says({"Information": PREMIUM})
        return world(request)

    harness.provider.answers = answers
    await ask(harness)
    await complete(harness)
    assert (await totals(harness)).keys() == {"SPY", "AAPL", "NVDA"}
    # A dividend that is listed late is found for the others, whichever ticker comes first.
    world.dividends = {"AAPL": [AAPL_DIVIDEND], "NVDA": [make_dividend(THURSDAY, "0.0700")]}
    await ask(harness, SECOND)
    found = await totals(harness)
    assert (found["AAPL"][0], found["NVDA"][0]) == ("0.2500", "0.0700")
    await check(harness, record)


async def test_dividends_of_the_future(harness, record):
    """They are no readings, and not in the way of a total."""
    await live(
        harness,
        SPY=[make_dividend(SUNDAY + timedelta(days=1), "1"), SPY_DIVIDEND],
        AAPL=[make_dividend(SUNDAY + 20 * WEEK, "None")],
    )
    assert same(await totals(harness), SPY=("1.8310", SPY_TOTAL))
    assert len(await harness.rows(READINGS)) == 1
    await check(harness, record)


# Splits


@pytest.mark.parametrize(
    ("split_day", "amount", "received"),
    [
        pytest.param(THURSDAY, "0.0700", "0.07", id="after the ex-date"),
        pytest.param(WEDNESDAY, "0.0350", "0.07", id="on the ex-date"),
        pytest.param(MONDAY + timedelta(days=1), "0.0350", "0.07", id="before the ex-date"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["known on the Sunday", "learnt late"])
@pytest.mark.sampled(2)
async def test_a_split_in_the_fortnight(harness, record, split_day, amount, received, late):
    """
    The amount is per share of its ex-date. A split that is learnt late corrects the total, too.
    """
    if not late:
        harness.world.splits["NVDA"] = [(split_day, "2.0000")]
        harness.clock.time = new_york(SUNDAY)
        await request_splits(harness, "NVDA", day=13)
    await live(harness, NVDA=[make_dividend(WEDNESDAY, amount)])
    if late:
        share = Decimal(amount)
        assert same(await totals(harness), NVDA=(amount, str((Decimal("0.7") + share) / 7 * 100)))
        harness.world.splits["NVDA"] = [(split_day, "2.0000")]
        harness.clock.time = new_york(SUNDAY + WEEK)
        await request_splits(harness, "NVDA", day=20)
        assert {field for _, field, *_ in await harness.rows(CORRECTED)} >= {"total_return_pct"}
    # (7.70 * 2 + 0.07 - 7) / 7
    (found,) = [row for row in await harness.rows(METRICS) if row[0] == "NVDA"]
    assert found[1] == Decimal(received)
    assert found[2] == 121
    await check(harness, record)


async def test_a_spin_off_that_is_listed_twice(harness, record):
    """As a split by 1.25, and as a dividend of about a fifth of the price: it counts as a split."""
    harness.world.splits["AAPL"] = [(WEDNESDAY, "1.2500")]
    harness.clock.time = new_york(SUNDAY)
    await request_splits(harness, "AAPL", day=13)
    await live(harness, AAPL=[make_dividend(WEDNESDAY, "15.8000")])
    assert same(await totals(harness), AAPL=("0", "25"))
    (row,) = [row for row in await harness.rows(METRICS) if row[0] == "AAPL"]
    assert row[-1] is True
    await check(harness, record)


# Picks that change


@pytest.fixture
async def fresh(database, clock) -> AsyncIterator[JobHarness]:
    """A harness on an empty record, on the Monday."""
    async with open_harness(database, clock) as harness:
        set_prices(harness.world)
        yield harness


async def test_a_renamed_pick(fresh, database):
    """Both tickers are asked, and each counts on its own days."""
    await fresh.make_batch()
    await take(fresh, 1, 2)
    for number in range(60):
        day = WEDNESDAY + timedelta(days=number)
        fresh.world.absent.add(("MSFT", day))
        fresh.world.closes["KO", day] = "3.0600"
    fresh.clock.time = new_york(THURSDAY, 8)
    await rename(fresh, "MSFT", "KO")
    await take(fresh, *range(3, 13))
    fresh.provider.requests.clear()
    await live(
        fresh,
        # The first row of each ticker is not of its days.
        MSFT=[make_dividend(WEDNESDAY, "5.0000"), make_dividend(WEDNESDAY - DAY, "0.0300")],
        KO=[make_dividend(WEDNESDAY - DAY, "5.0000"), make_dividend(WEDNESDAY, "0.0600")],
    )
    assert sorted(fresh.requested_dividends) == ["AAPL", "KO", "MSFT", "NVDA", "SPY"]
    found = await totals(fresh)
    found["MSFT"] = found.pop("KO")
    # (3.06 + 0.09 - 3) / 3
    assert same(found, MSFT=("0.09", "5"))
    await check(fresh, database)


async def rename(harness: JobHarness, ticker: str, new: str) -> None:
    """Record that a pick has another ticker from Wednesday on."""
    await picks.rename(
        harness.context,
        run_date=MONDAY,
        ticker=ticker,
        new=new,
        from_session=WEDNESDAY,
        source="8-K",
    )


@pytest.mark.long
async def test_a_pick_that_is_renamed_after_its_total_is_known(harness, record):
    """Its figures keep their readings, and so do its dividends. No change is a correction."""
    harness.world.closes.update(
        {("KO", WEDNESDAY + number * DAY): "3.0600" for number in range(60)}
    )
    await live(harness, MSFT=[make_dividend(THURSDAY, "0.0600")])
    assert same(await totals(harness), MSFT=("0.06", "4"))
    await rename(harness, "MSFT", "KO")
    harness.world.dividends["KO"] = harness.world.dividends["MSFT"]
    await ask(harness, SECOND)
    await ask(harness, THIRD)
    found = await totals(harness)
    found["MSFT"] = found.pop("KO")
    assert same(found, MSFT=("0.06", "4"))
    assert await harness.rows(CORRECTED) == []
    await check(harness, record)


async def test_an_ended_pick(fresh, database):
    """Dividends count up to its last session, and no further."""
    await fresh.make_batch()
    await take(fresh, 1, 2, 3, 4)
    fresh.world.absent |= {("NVDA", THURSDAY + number * DAY) for number in range(1, 40)}
    fresh.clock.time = new_york(THURSDAY + 2 * DAY)
    await end(fresh, last_session=THURSDAY)
    await take(fresh, *range(5, 13))
    await live(
        fresh,
        NVDA=[make_dividend(THURSDAY + DAY, "5.0000"), make_dividend(THURSDAY, "0.0700")],
    )
    # (7.35 + 0.07 - 7) / 7
    assert same(await totals(fresh), NVDA=("0.07", "6"))
    await check(fresh, database)


async def end(harness: JobHarness, last_session: date) -> None:
    """Record that NVDA has ended, and is worth 7.35."""
    context = harness.context
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="NVDA",
        last_session=last_session,
        value=Decimal("7.35"),
        source="8-K",
        in_force=None,
    )


async def test_a_pick_that_ended_with_its_baseline(fresh, database):
    """No dividend counts, so none needs to be asked for."""
    await fresh.make_batch()
    fresh.world.absent |= {("NVDA", MONDAY + number * DAY) for number in range(40)}
    fresh.clock.time = new_york(MONDAY + DAY)
    await end(fresh, last_session=BASELINE)
    await take(fresh, *range(1, 13))
    await live(fresh, NVDA=[make_dividend(MONDAY, "5.0000")])
    # (7.35 - 7) / 7
    assert same(await totals(fresh), NVDA=("0", "5"))
    await check(fresh, database)


@pytest.mark.long
async def test_an_end_that_is_recorded_after_the_total(harness, record):
    """The figures of computed days stay as they are, and so does the total."""
    await live(harness, NVDA=[make_dividend(THURSDAY + DAY, "0.0700")])
    await end(harness, last_session=THURSDAY)
    await ask(harness, SECOND)
    assert same(await totals(harness), NVDA=("0.07", "11"))
    assert await harness.rows(CORRECTED) == []
    await check(harness, record)


# Results and Mondays that are late


@pytest.mark.parametrize("asked_before", [True, False])
@pytest.mark.sampled(1)
async def test_a_result_that_is_computed_weeks_later(fresh, database, asked_before):
    """It gets its total return then, or when its dividends are asked."""
    await fresh.make_batch()
    fresh.world.absent.add(("AAPL", RESULT))
    await take(fresh, *range(1, 13))
    fresh.world.dividends = {"AAPL": [AAPL_DIVIDEND]}
    if asked_before:
        assert await ask(fresh) == []
    await complete(fresh)
    assert await totals(fresh) == {}
    fresh.world.absent.clear()
    fresh.clock.time = new_york(SUNDAY + 2 * WEEK, 9)
    await daily.take(fresh.context, ID, 12, retake=True)
    await run_jobs(fresh)
    if not asked_before:
        assert await totals(fresh) == {}
        await ask(fresh, SUNDAY + 3 * WEEK)
    assert same(await totals(fresh), AAPL=("0.25", "0.3125"))
    await check(fresh, database)


@pytest.mark.long
async def test_an_old_result_whose_dividends_become_known_for_another_batch(harness, record):
    """Nothing is asked for it any more, but a response serves every batch."""
    await answered_instead(harness, says({"Information": PREMIUM}))
    await ask(harness)
    await complete(harness)
    harness.provider.answers = harness.world
    harness.world.dividends = {
        "SPY": [make_dividend(MONDAY + 23 * WEEK, "2.0000"), SPY_DIVIDEND],
        "AAPL": [AAPL_DIVIDEND],
    }
    later = await harness.make_batch(MONDAY + 22 * WEEK, "AAPL", "KO", "GE")
    for day in range(1, 13):
        harness.clock.time = max(harness.clock.time, due_at(later.run_date, day))
        await daily.take(harness.context, later.id, day)
    assert await totals(harness) == {}
    await ask(harness, later.run_date + 13 * DAY)
    assert await totals(harness) == {"SPY": ("1.8310", SPY_TOTAL), "AAPL": ("0.2500", "0.312500")}
    await check(harness, record)


async def test_a_failed_monday_needs_no_dividends(harness, record):
    """It has no picks. On the Sundays of its fortnight nothing is asked for it."""
    await live(harness)
    await check(harness, record)
    assert await harness.rows("SELECT status::text FROM batches ORDER BY run_date") == [
        ("completed",),
        ("failed",),
    ]
    harness.provider.requests.clear()
    assert await ask(harness, SUNDAY + WEEK) == []
    assert harness.requested_dividends == []


async def test_two_series_with_the_same_tickers(database, clock, tmp_path):
    """One request for each ticker serves both."""
    async with open_series(database, clock, tmp_path, ["main", "second"]) as harness:
        set_prices(harness.world)
        await make_batches(harness)
        await take_checkpoints(harness, SUNDAY)
        harness.provider.requests.clear()
        harness.world.dividends = {"AAPL": [AAPL_DIVIDEND], "SPY": [SPY_DIVIDEND]}
        await ask(harness)
        assert sorted(harness.requested_dividends) == sorted(ALL)
        await take_checkpoints(harness, SUNDAY + DAY)
        await run_jobs(harness)
        assert await harness.rows(BENCHMARK) == [(Decimal("1.8310"), Decimal(SPY_TOTAL), False)] * 2
        aapl = [row[:3] for row in await harness.rows(METRICS) if row[0] == "AAPL"]
        assert aapl == [("AAPL", Decimal("0.2500"), Decimal("0.3125"))] * 2
        # A late one corrects both.
        harness.world.dividends["NVDA"] = [make_dividend(THURSDAY, "0.0700")]
        await ask(harness, SECOND)
        nvda = [row[:3] for row in await harness.rows(METRICS) if row[0] == "NVDA"]
        assert nvda == [("NVDA", Decimal("0.0700"), 11)] * 2
        await check(harness, database)


# When they are requested


async def due(harness: JobHarness, day: date, hour: int = 12) -> list[tuple[str, str]]:
    """Run a round of the reconciliation at a time, and return the jobs."""
    harness.clock.time = new_york(day, hour)
    await reconcile.run_round(harness.context)
    return await harness.rows(JOBS)


async def test_each_sunday_has_one_job(harness):
    """From 11:30 on, also if the service runs only later in the week; not before a first result."""
    sundays = [(str(SUNDAY), "todo"), (str(SUNDAY + WEEK), "todo")]
    assert await due(harness, SUNDAY - DAY) == []
    assert await due(harness, SUNDAY, 11) == []
    assert await due(harness, SUNDAY) == sundays[:1]
    assert await due(harness, SUNDAY + 3 * DAY) == sundays[:1]
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'succeeded' WHERE task_name = 'read_dividends'"
    )
    sundays[0] = (str(SUNDAY), "succeeded")
    assert await due(harness, SUNDAY + 4 * DAY) == sundays[:1]
    assert await due(harness, SUNDAY + WEEK + DAY) == sundays


@pytest.mark.long
async def test_what_is_asked_on_each_sunday(harness):
    """All tickers on three Sundays, and on the others only those of a missing total."""
    await answered_instead(harness, says({"symbol": "none", "data": []}))
    for days in range(13, 168, 7):
        harness.provider.requests.clear()
        harness.clock.time = new_york(MONDAY + days * DAY, 11) + timedelta(minutes=30)
        if days == 20:
            harness.provider.answers = harness.world
            harness.world.dividends = {"AAPL": [make_dividend(MONDAY, "None")]}
            await complete_late(harness)
        assert days < 20 or await ask(harness, MONDAY + days * DAY) == []
        asked = sorted(set(harness.requested_dividends))
        if days in (20, 27, 41):
            assert asked == sorted(ALL)
        elif days <= 140 and days > 20:
            # Twenty weeks; AAPL's amount cannot be read.
            assert asked == ["AAPL"]
        elif days > 140:
            assert asked == []


async def complete_late(harness: JobHarness) -> None:
    """Complete the batch at the present time, which is after its fortnight."""
    for day in (13, 14):
        await daily.take(harness.context, ID, day)


@pytest.mark.parametrize(
    ("per_day", "on_sunday"),
    [
        pytest.param(13, 0, id="no room on the Sunday"),
        pytest.param(14, 1, id="room for one"),
        pytest.param(16, 3, id="room for three"),
        pytest.param(25, 4, id="room for all"),
    ],
)
@pytest.mark.sampled(2)
async def test_room(harness, per_day, on_sunday):
    """
    What has no room is asked on later days. Closes are never late, and no quota is exceeded.

    On the Sunday, thirteen requests stay unused: one, four closes of the Monday, seven for a ticker
    that the provider does not know, and one for the rate of the week.
    """
    allow(harness, per_day)
    await take_at_nine(harness)
    waits_until = await run_attempt(lambda: dividends.refresh(harness.context, SUNDAY))
    assert len(harness.requested_dividends) == on_sunday
    for number in range(1, 7):
        morning = SUNDAY + number * DAY
        harness.clock.time = new_york(morning)
        if number == 1:
            await daily.take(harness.context, ID, 14)
            await run_jobs(harness)
            await harness.begin()
            batch = await harness.batch(morning)
            assert batch.status == "active"
            assert batch.created_at < new_york(morning) + timedelta(minutes=2)
        else:
            await daily.take(harness.context, batch.id, number - 1)
        if waits_until is not None:
            assert waits_until == new_york(morning, 11) + timedelta(minutes=30)
            harness.clock.time = waits_until
            waits_until = await run_attempt(lambda: dividends.refresh(harness.context, SUNDAY))
    assert waits_until is None
    assert Counter(harness.requested_dividends) == Counter(ALL)
    assert same(await totals(harness))
    times = await harness.rows("SELECT at FROM operations.provider_requests ORDER BY at")
    for (first,), (last,) in zip(times, times[per_day:], strict=False):
        assert last - first >= DAY


async def take_at_nine(harness: JobHarness) -> None:
    """Take the checkpoint of the Sunday, with its requests for splits. Return at 11:30."""
    harness.clock.time = new_york(SUNDAY)
    await daily.take(harness.context, ID, 13)
    harness.clock.time = new_york(SUNDAY, 11) + timedelta(minutes=30)


@pytest.mark.long
async def test_a_week_without_room(harness, record):
    """The job tries on each day of the week, and no more; the next Sunday asks again."""
    allow(harness, 1)
    begun = harness.clock.time
    assert await ask(harness) == [begun + number * DAY for number in range(1, 8)]
    assert harness.requested_dividends == []
    await complete(harness)
    assert await totals(harness) == {}
    allow(harness, 25)
    await ask(harness, SUNDAY + WEEK)
    assert same(await totals(harness))
    await check(harness, record)


@pytest.mark.long
async def test_a_week_that_is_over_is_not_made_up_for(harness):
    harness.clock.time = new_york(SUNDAY + WEEK, 12)
    await dividends.refresh(harness.context, SUNDAY)
    assert harness.requested_dividends == []


async def test_a_process_whose_clock_is_behind(harness):
    """It waits for the Sunday of its own clock."""
    harness.clock.time = new_york(SUNDAY, 11)
    again = await run_attempt(lambda: dividends.refresh(harness.context, SUNDAY))
    assert again == new_york(SUNDAY, 11) + timedelta(minutes=30)
    assert harness.requested_dividends == []


async def test_tickers_without_an_answer_do_not_stop_the_others(database, clock, tmp_path):
    """
    On an ordinary Sunday, too. Four missing tickers that the provider does not answer for come
    before others whose amounts can be read at last.
    """
    async with open_series(database, clock, tmp_path, ["main", "second"]) as harness:
        set_prices(harness.world)
        harness.world.model = [
            make_completion(make_answer("AA", "AB", "AC")),
            make_completion(make_answer("AC", "AD", "Z")),
        ]
        await make_batches(harness)
        await take_checkpoints(harness, SUNDAY + DAY)
        world, gone = harness.world, {"AA", "AB", "AC", "AD"}

        def answers(request: Request) -> Reply:
            query = request.query
            if query.get("function") == "DIVIDENDS" and query["symbol"] in gone:
                return says({"Error Message": UNKNOWN})
            return world(request)

        harness.provider.answers = answers
        # The week after the result, in which all tickers are asked, is over.
        await ask(harness, SUNDAY + WEEK)
        assert "Z" in harness.requested_dividends
        assert {row[0] for row in await harness.rows(METRICS)} == {"Z"}


async def test_a_record_that_is_not_sealed(harness, record):
    """Nothing is asked, and every total stays null: the journal could not show an answer."""
    unseal(record)
    await live(harness, SPY=[SPY_DIVIDEND])
    assert harness.requested_dividends == []
    assert await totals(harness) == {}
    await check(harness, record)


# Corrected prices


async def adopt(harness: JobHarness, ticker: str, day: int, price: str) -> None:
    """Let the provider state another price of a session, and adopt it as an operator does."""
    session = MONDAY + (day - 1) * DAY if day else BASELINE
    reading = Close(
        id=uuid4(),
        ticker=ticker,
        trading_day=session,
        open=None,
        close=Decimal(price),
        source="alphavantage",
        read_at=harness.context.now(),
    )
    async with transaction(harness.context.pool) as conn:
        await store_reading(conn, harness.context, reading)
    await corrections.adopt(
        harness.context.pool,
        now=harness.context.now(),
        run_date=MONDAY,
        day=day,
        ticker=ticker,
        reason="The provider has corrected this price.",
        in_force=harness.context.in_force,
    )


PRICES = [
    pytest.param("NVDA", 12, "7.8400", {"NVDA": ("0.07", "13")}, id="a pick's last price"),
    pytest.param("MSFT", 12, "3.0000", {"MSFT": ("0", "0")}, id="one without a dividend"),
    pytest.param("SPY", 12, "612.0000", {"SPY": ("3", "2.5")}, id="the benchmark's last price"),
    pytest.param("AAPL", 0, "100.0000", {"AAPL": ("0", "-20")}, id="a pick's first price"),
    pytest.param("SPY", 0, "500.0000", {"SPY": ("3", "21.8")}, id="the benchmark's first price"),
]


@pytest.mark.parametrize(("ticker", "day", "price", "expected"), PRICES)
@pytest.mark.sampled(2)
async def test_a_corrected_price_corrects_the_total(harness, record, ticker, day, price, expected):
    await live(harness, SPY=[make_dividend(RESULT, "3")], NVDA=[make_dividend(THURSDAY, "0.0700")])
    before = {"SPY": ("3", "1.5"), "NVDA": ("0.07", "11")}
    assert same(await totals(harness), **before)
    await adopt(harness, ticker, day, price)
    assert same(await totals(harness), **{**before, **expected})
    fields = {(name, field) for name, field, *_ in await harness.rows(CORRECTED)}
    if ticker == "SPY":
        assert (None, "benchmark_total_return_pct") in fields
        assert {(name, "vs_benchmark_total_pct") for name in CHOSEN} <= fields
    else:
        assert (ticker, "total_return_pct") in fields
    await check(harness, record)


@pytest.mark.parametrize(("ticker", "day", "price", "expected"), PRICES)
@pytest.mark.sampled(2)
async def test_a_total_that_is_stale_is_mended(harness, record, ticker, day, price, expected):
    """
    A version that does not know total returns has corrected a price. Its entry leaves the columns
    out, and the stored rows keep their former totals until the next Sunday.
    """
    await live(harness, SPY=[make_dividend(RESULT, "3")], NVDA=[make_dividend(THURSDAY, "0.0700")])
    before = {"SPY": ("3", "1.5"), "NVDA": ("0.07", "11")}
    stored = await harness.rows(STORED_TOTALS)
    await adopt(harness, ticker, day, price)
    as_a_former_version(record, stored)
    assert same(await totals(harness), **before)
    await check(harness, record)
    await ask(harness, SUNDAY + WEEK)
    assert same(await totals(harness), **{**before, **expected})
    reasons = {row[4] for row in await harness.rows(CORRECTED) if "total" in row[1]}
    assert reasons == {"The total return is computed again from the present price and splits."}
    await check(harness, record)
    corrected = await harness.rows(CORRECTED)
    await ask(harness, SECOND)
    assert await harness.rows(CORRECTED) == corrected
    await check(harness, record)


async def test_an_outdated_total_of_an_old_batch(harness, record):
    """A version without total returns corrects a price of a batch that is older than 20 weeks."""
    await live(harness, NVDA=[make_dividend(THURSDAY, "0.0700")])
    stored = await harness.rows(STORED_TOTALS)
    harness.clock.time = new_york(RESULT + 21 * WEEK)
    await adopt(harness, "NVDA", 12, "7.8400")
    as_a_former_version(record, stored)
    assert same(await totals(harness), NVDA=("0.07", "11"))
    sunday = SUNDAY + 21 * WEEK
    await ask(harness, sunday)
    assert same(await totals(harness), NVDA=("0.07", "13"))
    await check(harness, record)


WAITING_SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
    "AND datname = current_database()"
)
END_WAITING_SESSIONS = f"SELECT pg_terminate_backend(pid) FROM ({WAITING_SESSIONS}) AS waiting"


async def waiting_sessions(conn: psycopg.AsyncConnection) -> list[Any]:
    cursor = await conn.execute(WAITING_SESSIONS)
    return await cursor.fetchall()


async def test_a_response_that_could_not_be_stored(harness, record):
    """The connection is lost in the transaction that stores it. The next attempt asks again."""
    harness.world.dividends = {"AAPL": [AAPL_DIVIDEND]}
    connecting = psycopg.AsyncConnection.connect(record, autocommit=True)
    async with await connecting as other, other.transaction():
        await other.execute("SELECT FROM batches FOR UPDATE")
        attempt = asyncio.create_task(dividends.refresh(harness.context, SUNDAY))
        while not await waiting_sessions(other):
            await asyncio.sleep(0.05)
        await other.execute(END_WAITING_SESSIONS)
        with pytest.raises(psycopg.Error):
            await attempt
    harness.clock.time += timedelta(seconds=5)
    await run_until_done(harness, lambda: dividends.refresh(harness.context, SUNDAY))
    assert set(harness.requested_dividends) == set(ALL)
    await complete(harness)
    assert same(await totals(harness), AAPL=("0.25", "0.3125"))
    await check(harness, record)


STORED_TOTALS = """
SELECT
    checkpoints.id, benchmark_dividends, benchmark_total_return_pct, pick_checkpoint_metrics.id,
    dividends, total_return_pct, vs_benchmark_total_pct
FROM checkpoints
JOIN pick_checkpoint_metrics ON checkpoint_id = checkpoints.id
WHERE total_return_pct IS NOT NULL
"""
TOTALS_OF_CHECKPOINT = (
    "benchmark_dividends",
    "benchmark_total_return_pct",
    "benchmark_spin_off_counted_once",
)
TOTALS_OF_METRIC = (
    "dividends",
    "total_return_pct",
    "vs_benchmark_total_pct",
    "spin_off_counted_once",
)


def as_a_former_version(record: str, stored: list[tuple[Any, ...]]) -> None:
    """
    Write the last corrections as a version without total returns would have written them.

    `stored` are the totals before the corrections.
    """
    with without_triggers(record) as conn:
        for checkpoint, received, total, metric, of_pick, total_of_pick, excess in stored:
            conn.execute(
                "UPDATE checkpoints SET benchmark_dividends = %s, benchmark_total_return_pct = %s "
                "WHERE id = %s",
                (received, total, checkpoint),
            )
            conn.execute(
                "UPDATE pick_checkpoint_metrics SET dividends = %s, total_return_pct = %s, "
                "vs_benchmark_total_pct = %s WHERE id = %s",
                (of_pick, total_of_pick, excess, metric),
            )
        fields = [*TOTALS_OF_CHECKPOINT, *TOTALS_OF_METRIC]
        conn.execute("DELETE FROM corrections WHERE field = ANY(%s)", (fields,))
        rows = conn.execute("SELECT seq, kind, content FROM journal ORDER BY seq").fetchall()
        previous = GENESIS_HASH
        for seq, kind, text in rows:
            content = json.loads(text)
            if kind == "CORRECTION":
                leave_out(content)
            text = canonical_json(content)
            hashed = hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()
            conn.execute(
                "UPDATE journal SET content = %s, previous = %s, hash = %s WHERE seq = %s",
                (text, previous, hashed, seq),
            )
            previous = hashed


def leave_out(content: dict[str, Any]) -> None:
    """Remove from an entry what a version without total returns does not write."""
    content.pop("dividends", None)
    fields = {*TOTALS_OF_CHECKPOINT, *TOTALS_OF_METRIC}
    content["corrections"] = [one for one in content["corrections"] if one["field"] not in fields]
    for name in TOTALS_OF_CHECKPOINT:
        content["checkpoint"].pop(name, None)
    for metric in content.get("metrics", ()):
        for name in TOTALS_OF_METRIC:
            metric.pop(name, None)
