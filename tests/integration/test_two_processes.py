"""
Two processes on one Monday: the journal holds what one of them did, and nothing that the other contradicts.

The kind: one process refuses an accepted answer while another makes the batch of it. Members tried: the refusal is
first, the batch is first, a failed Monday that is run again by hand (both orders), a refusal long after the batch, a
second question answered after the batch. The order is set by the journal's lock, which the test holds meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from clocks import HandSetClock
from job_tools import (
    BASELINE,
    MONDAY,
    House,
    World,
    an_answer,
    completes,
    new_york,
    rows,
    the_time_it_says,
    tools_for,
)
from job_tools import clock as clock
from job_tools import house as house
from msgspec.structs import replace
from provider_server import ProviderServer
from record_server import check_record

from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import SERIES, Close, Generation
from app.store import generations
from app.store.rows import insert
from jobs import weekly

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
KINDS = "SELECT kind FROM journal ORDER BY seq"
QUESTIONS = "SELECT attempt, accepted FROM generations ORDER BY attempt"


async def an_accepted_answer(house: House) -> Generation:
    """Let the Monday have an accepted answer, whose prices are not there yet."""
    house.world.absent.add(("NVDA", BASELINE))
    assert await the_time_it_says(house.begin)
    house.world.absent.clear()
    house.clock.time = new_york(MONDAY, 9, 30)
    async with house.tools.pool.connection() as conn:
        (question,) = await generations.of(conn, SERIES, MONDAY)
    assert question.accepted
    return question


def refuse(house: House, question: Generation) -> Awaitable[None]:
    """Refuse an accepted answer, as the process does that finds no price of one of its ideas."""
    refusal = "Alpha Vantage does not know NVDA."
    return weekly._complete(house.tools, replace(question, accepted=False, refusal=refusal))


@asynccontextmanager
async def in_this_order(house: House) -> AsyncIterator[list[asyncio.Future[None]]]:
    """Let what is started in the context come to the journal in this order, and wait until all of it is done."""
    started: list[asyncio.Future[None]] = []
    async with transaction(house.tools.pool) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
        yield started
    await asyncio.gather(*started)


async def begins(house: House, started: list[asyncio.Future[None]], job: Awaitable[None]) -> None:
    """Start a job, and wait until it waits for a lock."""
    started.append(asyncio.ensure_future(job))
    while (await house.rows(WAITING))[0][0] < len(started):
        assert not started[-1].done(), "the job did not wait"
        await asyncio.sleep(0.02)


async def test_the_refusal_is_first(house, database):
    """The batch is not made of an answer that was refused meanwhile: the model is asked again."""
    question = await an_accepted_answer(house)
    async with in_this_order(house) as started:
        await begins(house, started, refuse(house, question))
        await begins(house, started, house.begin())
        house.world.model = [completes(an_answer("KO", "AAPL", "MSFT"))]
    assert await house.rows(QUESTIONS) == [(1, False), (2, True)]
    assert await house.rows(KINDS) == [("GENERATION",), ("GENERATION",), ("GENERATION",), ("BATCH",)]
    assert await house.rows("SELECT ticker FROM picks ORDER BY position") == [("KO",), ("AAPL",), ("MSFT",)]
    await check_record(database)


async def test_the_batch_is_first(house, database):
    """An answer of which the batch is made stays accepted."""
    question = await an_accepted_answer(house)
    async with in_this_order(house) as started:
        await begins(house, started, house.begin())
        await begins(house, started, refuse(house, question))
    assert await house.rows(QUESTIONS) == [(1, True)]
    assert await house.rows(KINDS) == [("GENERATION",), ("BATCH",)]
    await check_record(database)


@pytest.mark.parametrize("batch_first", [True, False], ids=["the batch is first", "the refusal is first"])
async def test_run_again_by_hand(house, database, batch_first):
    """A failed Monday that is run again by hand has no batch of a refused answer, either."""
    await an_accepted_answer(house)
    async with transaction(house.tools.pool) as conn:
        assert await weekly.give_up(conn, house.tools, MONDAY, "The job failed.")
    async with house.tools.pool.connection() as conn:
        (question,) = await generations.of(conn, SERIES, MONDAY)
    house.world.model = [completes(an_answer("KO", "AAPL", "MSFT"))]
    jobs = [house.begin(questions=6), refuse(house, question)]
    async with in_this_order(house) as started:
        for job in jobs if batch_first else reversed(jobs):
            await begins(house, started, job)
    expected = [(1, True)] if batch_first else [(1, False), (2, True)]
    assert await house.rows(QUESTIONS) == expected
    assert (await house.batch()).status == "active"
    await check_record(database)


async def test_a_refusal_after_the_batch(house, database):
    """A process that comes late, with an answer in hand that it cannot price, leaves the Monday as it is, and ends."""
    question = await an_accepted_answer(house)
    await house.begin()
    await refuse(house, question)
    assert await house.rows(KINDS) == [("GENERATION",), ("BATCH",)]
    await check_record(database)


async def test_the_job_that_comes_late_ends(house, database):
    """A job that gives up a ticker, and then finds the batch of another process, refuses and asks nothing more."""
    await an_accepted_answer(house)
    house.clock.time = new_york(MONDAY, 20, 30)
    house.world.unknown.add("NVDA")

    async def another_process() -> None:
        reading = Close(
            id=uuid4(),
            ticker="NVDA",
            trading_day=BASELINE,
            close=Decimal("7.0000"),
            source="a test",
            read_at=house.clock.now(),
        )
        async with house.tools.pool.connection() as conn:
            await insert(conn, "closes", reading)
        await house.begin(job_id=2)

    house.clock.meanwhile = another_process
    await house.begin()
    assert await house.rows(KINDS) == [("GENERATION",), ("BATCH",)]
    assert len(house.questions) == 1
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
    """Whenever the Monday ends while its batch is made: there is a batch of the Monday, or it was missed."""
    clock = LeapingClock(new_york(MONDAY, 23, 50))
    world = World(clock)
    async with ProviderServer() as provider, tools_for(database, pool, clock, provider.url) as tools:
        provider.answers = world
        await weekly.begin(tools, 1, None)
        reads = clock.reads
        for week in range(1, 9):
            monday = MONDAY + timedelta(weeks=week)
            clock.time, clock.then = new_york(monday, 23, 50), new_york(monday + timedelta(days=1), 0, 1)
            clock.reads, clock.after = 0, reads - 7 + week
            await weekly.begin(tools, 1, None)
    made = await rows(pool, "SELECT run_date, status, created_at FROM batches ORDER BY run_date")
    for run_date, status, created_at in made:
        assert (calendar.today(created_at) == run_date) == (status == "active"), (run_date, status, created_at)
    assert {status for _, status, _ in made} == {"active", "failed"}
