"""
Two processes on one Monday: the journal has what one of them did, and no contradiction by the
other. The kind: one process refuses an accepted answer while another makes the batch of it. Members
tried: the refusal is first, the batch is first, a failed Monday that is run again manually (both
orders), a refusal long after the batch, a second question answered after the batch. The test holds
the journal's lock, which sets the order.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from clocks import HandSetClock
from job_context import (
    BASELINE,
    MONDAY,
    JobHarness,
    World,
    make_answer,
    make_completion,
    new_york,
    open_context,
    rows,
    run_attempt,
    store_reading,
)
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from provider_server import ProviderServer
from record_server import check_record

from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import SERIES, Close, Generation
from app.providers.alpha_vantage import SOURCE
from app.store import generations
from jobs import weekly

WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
    "wait_event_type = 'Lock'"
)
KINDS = "SELECT kind FROM journal WHERE batch_id IS NOT NULL ORDER BY seq"
QUESTIONS = "SELECT attempt, accepted FROM generations ORDER BY attempt"


async def an_accepted_answer(harness: JobHarness) -> Generation:
    """Give the Monday an accepted answer, whose prices are not available yet."""
    harness.world.absent.add(("NVDA", BASELINE))
    assert await run_attempt(harness.begin)
    harness.world.absent.clear()
    harness.clock.time = new_york(MONDAY, 9, 30)
    async with harness.context.pool.connection() as conn:
        (question,) = await generations.list_by_run_date(conn, SERIES, MONDAY)
    assert question.accepted
    return question


async def a_priced_answer(harness: JobHarness) -> Generation:
    """Give the Monday an accepted answer, whose prices are stored: only its batch is missing."""
    question = await an_accepted_answer(harness)
    async with transaction(harness.context.pool) as conn:
        await store_reading(conn, harness.context, a_reading(harness))
    return question


def a_reading(harness: JobHarness) -> Close:
    """Return the reading that is missing after `an_accepted_answer`."""
    return Close(
        id=uuid4(),
        ticker="NVDA",
        trading_day=BASELINE,
        close=Decimal("7.0000"),
        source=SOURCE,
        read_at=harness.clock.now(),
    )


def refuse(harness: JobHarness, question: Generation) -> Awaitable[None]:
    """Refuse an accepted answer, as a process does that finds no price for one of its ideas."""
    refusal = "Alpha Vantage does not know NVDA."
    return weekly._complete(harness.context, replace(question, accepted=False, refusal=refusal))


@asynccontextmanager
async def in_this_order(harness: JobHarness) -> AsyncIterator[list[asyncio.Future[None]]]:
    """
    Let tasks that are started in the context reach the journal in this order, and wait for them.
    """
    started: list[asyncio.Future[None]] = []
    async with transaction(harness.context.pool) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
        yield started
    await asyncio.gather(*started)


async def begins(
    harness: JobHarness, started: list[asyncio.Future[None]], job: Awaitable[None]
) -> None:
    """Start a job, and wait until it waits for a lock."""
    started.append(asyncio.ensure_future(job))
    while (await harness.rows(WAITING))[0][0] < len(started):
        assert not started[-1].done(), "the job did not wait"
        await asyncio.sleep(0.02)


async def test_the_refusal_is_first(harness, database):
    """No batch is made of an answer that was refused meanwhile: the model is asked again."""
    question = await a_priced_answer(harness)
    async with in_this_order(harness) as started:
        await begins(harness, started, refuse(harness, question))
        await begins(harness, started, harness.begin())
        harness.world.model = [make_completion(make_answer("KO", "AAPL", "MSFT"))]
    assert await harness.rows(QUESTIONS) == [(1, False), (2, True)]
    assert await harness.rows(KINDS) == [
        *[("GENERATION",)] * 5,  # an answer and its refusal, and another answer
        ("BATCH",),
    ]
    assert await harness.rows("SELECT ticker FROM picks ORDER BY position") == [
        ("KO",),
        ("AAPL",),
        ("MSFT",),
    ]
    await check_record(database)


async def test_the_batch_is_first(harness, database):
    """An answer stays accepted once its batch is made."""
    question = await a_priced_answer(harness)
    async with in_this_order(harness) as started:
        await begins(harness, started, harness.begin())
        await begins(harness, started, refuse(harness, question))
    assert await harness.rows(QUESTIONS) == [(1, True)]
    assert await harness.rows(KINDS) == [*[("GENERATION",)] * 2, ("BATCH",)]
    await check_record(database)


@pytest.mark.parametrize(
    "batch_first", [True, False], ids=["the batch is first", "the refusal is first"]
)
async def test_run_again_manually(harness, database, batch_first):
    """A failed Monday that is run again manually gets no batch of a refused answer, either."""
    await a_priced_answer(harness)
    async with transaction(harness.context.pool) as conn:
        assert await weekly.give_up(conn, harness.context, MONDAY, failure="The job failed.")
    async with harness.context.pool.connection() as conn:
        (question,) = await generations.list_by_run_date(conn, SERIES, MONDAY)
    harness.world.model = [make_completion(make_answer("KO", "AAPL", "MSFT"))]
    jobs = [harness.begin(questions=6), refuse(harness, question)]
    async with in_this_order(harness) as started:
        for job in jobs if batch_first else reversed(jobs):
            await begins(harness, started, job)
    expected = [(1, True)] if batch_first else [(1, False), (2, True)]
    assert await harness.rows(QUESTIONS) == expected
    assert (await harness.batch()).status == "active"
    await check_record(database)


async def test_a_refusal_after_the_batch(harness, database):
    """A late process that cannot price the answer does not change the Monday, and ends."""
    question = await a_priced_answer(harness)
    await harness.begin()
    await refuse(harness, question)
    assert await harness.rows(KINDS) == [*[("GENERATION",)] * 2, ("BATCH",)]
    await check_record(database)


async def test_the_job_that_comes_late_ends(harness, database):
    """A job that refuses a ticker, and then finds another process's batch, asks nothing more."""
    await an_accepted_answer(harness)
    harness.clock.time = new_york(MONDAY, 20, 30)
    harness.world.unknown.add("NVDA")

    async def another_process() -> None:
        async with transaction(harness.context.pool) as conn:
            await store_reading(conn, harness.context, a_reading(harness))
        await harness.begin(job_id=2)

    harness.clock.meanwhile = another_process
    await harness.begin()
    assert await harness.rows(KINDS) == [*[("GENERATION",)] * 2, ("BATCH",)]
    assert len(harness.questions) == 1
    await check_record(database)


class LeapingClock(HandSetClock):
    """A clock that shows `then` after it was read some more times; `reads` counts."""

    def __init__(self, time: datetime) -> None:
        super().__init__(time)
        self.reads, self.after, self.then = 0, 0, time

    def now(self) -> datetime:
        self.reads += 1
        if self.reads == self.after:
            self.time = self.then
        return self.time


async def test_midnight_at_every_moment_of_the_end(database, pool):
    """
    Whenever the Monday ends while its batch is made, there is a batch of the Monday, or it was
    missed.
    """
    clock = LeapingClock(new_york(MONDAY, 23, 50))
    world = World(clock)
    async with (
        ProviderServer() as provider,
        open_context(database=database, pool=pool, clock=clock, base_url=provider.url) as context,
    ):
        provider.answers = world
        await weekly.run_if_due(context, 1, None)
        reads = clock.reads
        for week in range(1, 9):
            monday = MONDAY + timedelta(weeks=week)
            clock.time, clock.then = (
                new_york(monday, 23, 50),
                new_york(monday + timedelta(days=1), 0, 1),
            )
            clock.reads, clock.after = 0, reads - 7 + week
            await weekly.run_if_due(context, 1, None)
    made = await rows(pool, "SELECT run_date, status, created_at FROM batches ORDER BY run_date")
    for run_date, status, created_at in made:
        assert (calendar.new_york_date(created_at) == run_date) == (status == "active"), (
            run_date,
            status,
            created_at,
        )
    assert {status for _, status, _ in made} == {"active", "failed"}
