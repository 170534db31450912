"""
Records that are odd but correct: `alpha-monday verify` finds no discrepancy in them.

The kind: checkpoints that wait while others are taken. Members tried: a quota that is enough for
the older batch only, a close that is missing while the service runs in the mornings only.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta

import pytest
from clocks import HandSetClock
from job_context import (
    MONDAY,
    JobHarness,
    World,
    clock,
    make_answer,
    make_completion,
    new_york,
    open_context,
    run_attempt,
)
from provider_server import ProviderServer
from record_server import record_server, silent

from app.errors import Discrepancy
from app.ops.verify import open_api, verify
from app.ops.verify import open_database as record_at
from jobs import daily

__all__ = ["clock"]

DAY = timedelta(days=1)
SECOND = MONDAY + 7 * DAY


@asynccontextmanager
async def harness_with(
    database: str, pool, clock: HandSetClock, **settings: str
) -> AsyncIterator[JobHarness]:
    """A harness with these settings."""
    world = World(clock)
    world.prices |= {"GE": "100.0000", "XOM": "110.0000", "CVX": "150.2500", "COP": "99.9900"}
    async with (
        ProviderServer() as provider,
        open_context(
            database=database, pool=pool, clock=clock, base_url=provider.url, **settings
        ) as context,
    ):
        provider.answers = world
        yield JobHarness(context=context, provider=provider, world=world, clock=clock)


async def discrepancies(database: str) -> list[str]:
    """Return the discrepancies, from the database and from a server of it."""
    messages = []
    async with record_server(database) as url:
        for opened in (record_at(database), open_api(url, asyncio.sleep)):
            try:
                async with opened as source:
                    await verify(source, [], silent)
            except Discrepancy as error:
                messages.append(str(error))
    return messages


async def morning(harness: JobHarness, day: date, until: int) -> None:
    """
    Take the due checkpoints of a day, the oldest batch first, until the service stops at this hour.
    """
    harness.clock.time = max(harness.clock.time, new_york(day))
    for run_date in (MONDAY, SECOND):
        batch = await harness.batch(run_date)
        if batch is None:
            continue
        for number in range(1, min((day - run_date).days, 14) + 1):
            while later := await run_attempt(
                lambda id=batch.id, number=number: daily.take(harness.context, id, number)
            ):
                if later >= new_york(day, until):
                    break
                harness.clock.time = max(harness.clock.time, later)


async def monday(harness: JobHarness, day: date, *tickers: str) -> None:
    """Make the batch of a Monday."""
    harness.world.model = [make_completion(make_answer(*tickers))]
    harness.clock.time = max(harness.clock.time, new_york(day))
    while later := await run_attempt(harness.begin):
        harness.clock.time = later
    assert await harness.batch(day)


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        pytest.param(
            {"ALPHA_VANTAGE_PER_DAY": "4"},
            False,
            id="a quota for the older batch only",
            marks=pytest.mark.long,
        ),
        pytest.param({}, True, id="a missing close, and no service in the evening"),
    ],
)
async def test_one_batch_waits_while_another_is_measured(database, pool, clock, settings, absent):
    async with harness_with(database, pool, clock, **settings) as harness:
        if absent:
            harness.world.absent |= {("COP", SECOND + number * DAY) for number in range(14)}
        await monday(harness, MONDAY, "MSFT", "AAPL", "NVDA")
        await morning(harness, SECOND - 2 * DAY, 13)
        await monday(harness, SECOND, "XOM", "CVX", "COP")
        for days in range(5):
            await morning(harness, SECOND + days * DAY, 13)
        waits = await harness.batch(SECOND)
        assert waits
        assert await harness.rows(
            "SELECT count(*) FROM checkpoints WHERE batch_id = %s", waits.id
        ) == [(1,)]
    assert await discrepancies(database) == []
