"""
What is read while a job waits for its batch: its journal entry is not older than what it uses. The
kind: a time that is decided before a transaction waits. Members tried: a split, a reading with the
open, both, a split of the benchmark, a reading that a correction adopts; and nothing at all, which
leaves the time as it was. And what another process stores between a job's reading of closes and its
entry: a reading without an open, which hides the one that is used; a newer reading, for a job that
takes hours for a checkpoint, or for a Monday.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from job_context import BASELINE, MONDAY, JobHarness, new_york, run_until_done, store_reading
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from provider_server import Reply, Request, says
from record_server import check_record

from app.database.pools import transaction
from app.domain.model import Batch, Close, Split
from app.providers.alpha_vantage import SOURCE, SPLITS_SOURCE
from app.store import batches
from jobs import corrections, daily

# How many sessions wait for a lock of one session. A wait for another lock does not count: the job
# may wait for one before it has read the time.
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
NEXT_MONDAY = MONDAY + timedelta(days=7)
TUESDAY = MONDAY + timedelta(days=1)
LATER = new_york(TUESDAY, 9, 7)


def a_split(ticker: str) -> Split:
    """A split of the first session, read after the job began to wait."""
    return Split(
        ticker=ticker,
        effective_date=MONDAY,
        factor=Decimal("1.0500"),
        source=SPLITS_SOURCE,
        read_at=LATER,
    )


def a_reading(ticker: str, price: str, day: date = MONDAY, *, has_open: bool = True) -> Close:
    """Another reading of the first session, or of another day, read after the job began to wait."""
    return Close(
        id=uuid4(),
        ticker=ticker,
        trading_day=day,
        open=Decimal(price) if has_open else None,
        close=Decimal(price),
        source=SOURCE,
        read_at=LATER,
    )


async def store_meanwhile(
    harness: JobHarness,
    batch: Batch,
    job: Callable[[], Awaitable[object]],
    readings: list[Split | Close],
) -> None:
    """Run a job that must wait for its batch, while another process stores readings."""
    async with transaction(harness.context.pool) as conn:
        await batches.lock_for_update(conn, batch.id)
        running = asyncio.ensure_future(job())
        while (await harness.rows(WAITS, conn.info.backend_pid))[0][0] == 0:
            assert not running.done(), "the job did not wait for its batch"
            await asyncio.sleep(0.02)
        harness.clock.time = LATER
        for reading in readings:
            await store_reading(conn, harness.context, reading)
    await running


async def taken_at(harness: JobHarness, day: date) -> datetime:
    """Return when the checkpoint of a date was taken."""
    ((at,),) = await harness.rows(
        "SELECT taken_at FROM checkpoints WHERE checkpoint_date = %s", day
    )
    return at


@pytest.mark.parametrize(
    ("readings", "is_later"),
    [
        pytest.param([a_split("NVDA")], True, id="a split"),
        pytest.param([a_split("SPY")], True, id="a split of the benchmark"),
        pytest.param([a_reading("NVDA", "7.0500")], True, id="a reading with the open"),
        pytest.param(
            [a_split("AAPL"), a_reading("AAPL", "80.5000")], True, id="a split and a reading"
        ),
        pytest.param([], False, id="nothing"),
    ],
)
async def test_a_checkpoint(harness, database, readings, is_later):
    """
    A checkpoint is taken when the newest of its readings and splits was read, at the earliest.
    """
    batch = await harness.make_batch()
    harness.clock.time = new_york(TUESDAY)
    await store_meanwhile(
        harness=harness,
        batch=batch,
        job=lambda: daily.take(harness.context, batch.id, 1),
        readings=readings,
    )
    at = await taken_at(harness, TUESDAY)
    assert (at == LATER) if is_later else (new_york(TUESDAY) <= at < LATER)
    await check_record(database)


@pytest.mark.parametrize(
    "tickers",
    [
        pytest.param(["NVDA"], id="of one pick"),
        pytest.param(["NVDA", "AAPL", "MSFT"], id="of all picks", marks=pytest.mark.long),
    ],
)
async def test_a_reading_without_an_open(harness, database, tickers):
    """A reading without an open hides the open, until there is one that has it."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(TUESDAY)
    readings: list[Split | Close] = [
        a_reading(ticker, "7.0500", has_open=False) for ticker in tickers
    ]
    await store_meanwhile(
        harness=harness,
        batch=batch,
        job=lambda: daily.take(harness.context, batch.id, 1),
        readings=readings,
    )
    absent = await harness.rows("SELECT ticker FROM picks WHERE entry_open IS NULL ORDER BY ticker")
    assert absent == [(ticker,) for ticker in sorted(tickers)]
    await check_record(database)


async def test_a_job_that_takes_hours(harness, database):
    """
    A job whose readings have grown old, because it waited for splits, reads again before it
    measures.
    """
    first = await harness.make_batch()
    for day in range(1, 8):
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(harness.context, first.id, day)
    second = await harness.make_batch(NEXT_MONDAY)
    harness.clock.time = new_york(NEXT_MONDAY + timedelta(days=1))
    harness.world.closes["NVDA", NEXT_MONDAY] = "9.0000"
    calls = 0

    async def another_process() -> None:
        reading = replace(a_reading("NVDA", "9.1000", NEXT_MONDAY), read_at=harness.clock.now())
        async with transaction(harness.context.pool) as conn:
            await store_reading(conn, harness.context, reading)
        await daily.take(harness.context, first.id, 8)
        harness.clock.forward(minutes=70)

    def answers(request: Request) -> Reply:
        nonlocal calls
        calls += request.query.get("function") == "SPLITS"
        if calls == 1 and request.query.get("function") == "SPLITS":
            harness.clock.meanwhile = another_process
            return says({}, 500)
        return harness.world(request)

    harness.provider.answers = answers
    await run_until_done(harness, lambda: daily.take(harness.context, second.id, 1))
    assert calls > 1
    used = await harness.rows(
        "SELECT closes.close FROM pick_checkpoint_metrics JOIN closes ON closes.id = close_id "
        "WHERE closes.ticker = 'NVDA' AND trading_day = %s",
        NEXT_MONDAY,
    )
    assert used == [(Decimal("9.1000"),)] * 2
    await check_record(database)


async def test_a_monday_that_takes_hours(harness, database):
    """A Monday whose readings have grown old reads again before its batch is stored."""
    harness.clock.time = new_york(MONDAY)

    async def another_process() -> None:
        reading = replace(a_reading("SPY", "601.0000", BASELINE), read_at=harness.clock.now())
        async with transaction(harness.context.pool) as conn:
            await store_reading(conn, harness.context, reading)
        harness.clock.forward(minutes=70)

    def answers(request: Request) -> Reply:
        if request.query.get("symbol") == "NVDA" and harness.requested_tickers.count("NVDA") == 1:
            harness.clock.meanwhile = another_process
            return says({}, 500)
        return harness.world(request)

    harness.provider.answers = answers
    await harness.begin()
    assert harness.requested_tickers.count("NVDA") == 2
    assert await harness.rows("SELECT benchmark_initial_price FROM batches") == [
        (Decimal("601.0000"),)
    ]
    assert len(harness.questions) == 1
    await check_record(database)


async def test_a_correction(harness, database):
    """A correction is made when the reading that it adopts was read, at the earliest."""
    batch = await harness.make_batch()
    harness.clock.time = begun = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    pool = harness.context.pool
    await store_meanwhile(
        harness=harness,
        batch=batch,
        job=lambda: corrections.adopt(
            pool,
            now=begun,
            run_date=MONDAY,
            day=1,
            ticker="NVDA",
            reason="A wrong close.",
            in_force=None,
        ),
        readings=[a_reading("NVDA", "7.0500")],
    )
    assert await harness.rows("SELECT DISTINCT made_at FROM corrections") == [(LATER,)]
    await check_record(database)
