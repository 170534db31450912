"""
What is read while a job waits for its batch: its entry is not older than what it rests on.

The kind: a time that is decided before a transaction waits. Members tried: a split, a reading with the open, both, a
split of the benchmark, a reading that a correction adopts; and nothing at all, which leaves the time as it was.

And what another process stores between a job's look at the readings and its entry: a reading without an open, which
hides the one that is used; a newer reading, of a job that takes hours over a morning, or over a Monday.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from job_tools import BASELINE, MONDAY, House, new_york, until_it_can
from job_tools import clock as clock
from job_tools import house as house
from msgspec.structs import replace
from provider_server import Reply, Request, says
from record_server import check_record

from app.database.pools import transaction
from app.domain.model import Batch, Close, Split
from app.store import batches, splits
from app.store.rows import insert
from jobs import corrections, daily

WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
NEXT_MONDAY = MONDAY + timedelta(days=7)
TUESDAY = MONDAY + timedelta(days=1)
LATER = new_york(TUESDAY, 9, 7)


def a_split(ticker: str) -> Split:
    """A split of the first session, read after the job began to wait."""
    return Split(ticker=ticker, effective_date=MONDAY, factor=Decimal("1.0500"), source="a test", read_at=LATER)


def a_reading(ticker: str, price: str, day: date = MONDAY, *, has_open: bool = True) -> Close:
    """Another reading of the first session, or of another day, read after the job began to wait."""
    return Close(
        id=uuid4(),
        ticker=ticker,
        trading_day=day,
        open=Decimal(price) if has_open else None,
        close=Decimal(price),
        source="a test",
        read_at=LATER,
    )


async def learn_meanwhile(
    house: House, batch: Batch, job: Callable[[], Awaitable[object]], readings: list[Split | Close]
) -> None:
    """Run a job that must wait for its batch, while another process stores readings."""
    async with transaction(house.tools.pool) as conn:
        await batches.hold(conn, batch.id)
        running = asyncio.ensure_future(job())
        while (await house.rows(WAITS))[0][0] == 0:
            assert not running.done(), "the job did not wait for its batch"
            await asyncio.sleep(0.02)
        house.clock.time = LATER
        for reading in readings:
            if isinstance(reading, Split):
                await splits.add(conn, reading)
            else:
                await insert(conn, "closes", reading)
    await running


async def taken_at(house: House, day: date) -> datetime:
    """When the checkpoint of a date was taken."""
    ((at,),) = await house.rows("SELECT taken_at FROM checkpoints WHERE checkpoint_date = %s", day)
    return at


@pytest.mark.parametrize(
    ("readings", "is_later"),
    [
        pytest.param([a_split("NVDA")], True, id="a split"),
        pytest.param([a_split("SPY")], True, id="a split of the benchmark"),
        pytest.param([a_reading("NVDA", "7.0500")], True, id="a reading with the open"),
        pytest.param([a_split("AAPL"), a_reading("AAPL", "80.5000")], True, id="a split and a reading"),
        pytest.param([], False, id="nothing"),
    ],
)
async def test_a_checkpoint(house, database, readings, is_later):
    """A checkpoint is taken when the newest of its readings and splits was there, at the earliest."""
    batch = await house.a_batch()
    house.clock.time = new_york(TUESDAY)
    await learn_meanwhile(house, batch, lambda: daily.take(house.tools, batch.id, 1), readings)
    at = await taken_at(house, TUESDAY)
    assert (at == LATER) if is_later else (new_york(TUESDAY) <= at < LATER)
    await check_record(database)


@pytest.mark.parametrize(
    "tickers",
    [
        pytest.param(["NVDA"], id="of one pick"),
        pytest.param(["NVDA", "AAPL", "MSFT"], id="of all picks", marks=pytest.mark.long),
    ],
)
async def test_a_reading_without_an_open(house, database, tickers):
    """A reading without an open that another process stores hides the open, until one is read that has it."""
    batch = await house.a_batch()
    house.clock.time = new_york(TUESDAY)
    readings: list[Split | Close] = [a_reading(ticker, "7.0500", has_open=False) for ticker in tickers]
    await learn_meanwhile(house, batch, lambda: daily.take(house.tools, batch.id, 1), readings)
    absent = await house.rows("SELECT ticker FROM picks WHERE entry_open IS NULL ORDER BY ticker")
    assert absent == [(ticker,) for ticker in sorted(tickers)]
    await check_record(database)


async def test_a_job_that_takes_hours(house, database):
    """A job whose readings have grown old, because it waited for splits, looks again before it measures."""
    first = await house.a_batch()
    for day in range(1, 8):
        house.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(house.tools, first.id, day)
    second = await house.a_batch(NEXT_MONDAY)
    house.clock.time = new_york(NEXT_MONDAY + timedelta(days=1))
    house.world.closes["NVDA", NEXT_MONDAY] = "9.0000"
    calls = 0

    async def another_process() -> None:
        reading = replace(a_reading("NVDA", "9.1000", NEXT_MONDAY), read_at=house.clock.now())
        async with house.tools.pool.connection() as conn:
            await insert(conn, "closes", reading)
        await daily.take(house.tools, first.id, 8)
        house.clock.forward(minutes=70)

    def answers(request: Request) -> Reply:
        nonlocal calls
        calls += request.query.get("function") == "SPLITS"
        if calls == 1 and request.query.get("function") == "SPLITS":
            house.clock.meanwhile = another_process
            return says({}, 500)
        return house.world(request)

    house.provider.answers = answers
    await until_it_can(house, lambda: daily.take(house.tools, second.id, 1))
    assert calls > 1
    used = await house.rows(
        "SELECT closes.close FROM pick_checkpoint_metrics JOIN closes ON closes.id = close_id "
        "WHERE closes.ticker = 'NVDA' AND trading_day = %s",
        NEXT_MONDAY,
    )
    assert used == [(Decimal("9.1000"),)] * 2
    await check_record(database)


async def test_a_monday_that_takes_hours(house, database):
    """A Monday whose readings have grown old looks again before its batch is stored."""
    house.clock.time = new_york(MONDAY)

    async def another_process() -> None:
        reading = replace(a_reading("SPY", "601.0000", BASELINE), read_at=house.clock.now())
        async with house.tools.pool.connection() as conn:
            await insert(conn, "closes", reading)
        house.clock.forward(minutes=70)

    def answers(request: Request) -> Reply:
        if request.query.get("symbol") == "NVDA" and house.asked.count("NVDA") == 1:
            house.clock.meanwhile = another_process
            return says({}, 500)
        return house.world(request)

    house.provider.answers = answers
    await house.begin()
    assert house.asked.count("NVDA") == 2
    assert await house.rows("SELECT benchmark_initial_price FROM batches") == [(Decimal("601.0000"),)]
    assert len(house.questions) == 1
    await check_record(database)


async def test_a_correction(house, database):
    """A correction is made when the reading that it adopts was there, at the earliest."""
    batch = await house.a_batch()
    house.clock.time = begun = new_york(TUESDAY)
    await daily.take(house.tools, batch.id, 1)
    pool = house.tools.pool
    await learn_meanwhile(
        house,
        batch,
        lambda: corrections.adopt(pool, begun, MONDAY, 1, "NVDA", "A wrong close."),
        [a_reading("NVDA", "7.0500")],
    )
    assert await house.rows("SELECT DISTINCT made_at FROM corrections") == [(LATER,)]
    await check_record(database)
