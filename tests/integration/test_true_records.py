"""
Records that are odd, and true: `alpha-monday verify` refuses none of them.

The kind: checkpoints that wait while others are taken. Members tried: a quota that suffices for the older batch alone,
a close that is missing while the service is up in the mornings only.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta

import pytest
from clocks import HandSetClock
from job_tools import MONDAY, House, World, an_answer, clock, completes, new_york, the_time_it_says, tools_for
from provider_server import ProviderServer
from record_server import record_server, silent

from app.errors import Misfit
from app.ops.verify import api, verify
from app.ops.verify import database as record_at
from jobs import daily

__all__ = ["clock"]

DAY = timedelta(days=1)
SECOND = MONDAY + 7 * DAY


@asynccontextmanager
async def house_with(database: str, pool, clock: HandSetClock, **settings: str) -> AsyncIterator[House]:
    """A house with these settings."""
    world = World(clock)
    world.prices |= {"GE": "100.0000", "XOM": "110.0000", "CVX": "150.2500", "COP": "99.9900"}
    async with ProviderServer() as provider, tools_for(database, pool, clock, provider.url, **settings) as tools:
        provider.answers = world
        yield House(tools, provider, world, clock)


async def told(database: str) -> list[str]:
    """What does not fit, by the database and by a server of it."""
    said = []
    async with record_server(database) as url:
        for opened in (record_at(database), api(url, asyncio.sleep)):
            try:
                async with opened as source:
                    await verify(source, [], silent)
            except Misfit as misfit:
                said.append(str(misfit))
    return said


async def morning(house: House, day: date, until: int) -> None:
    """Take what is due on a day, the oldest batch first, while the service is up: to an hour of the day."""
    house.clock.time = max(house.clock.time, new_york(day))
    for run_date in (MONDAY, SECOND):
        batch = await house.batch(run_date)
        if batch is None:
            continue
        for number in range(1, min((day - run_date).days, 14) + 1):
            while later := await the_time_it_says(
                lambda id=batch.id, number=number: daily.take(house.tools, id, number)
            ):
                if later >= new_york(day, until):
                    break
                house.clock.time = max(house.clock.time, later)


async def monday(house: House, day: date, *tickers: str) -> None:
    """Make the batch of a Monday."""
    house.world.model = [completes(an_answer(*tickers))]
    house.clock.time = max(house.clock.time, new_york(day))
    while later := await the_time_it_says(house.begin):
        house.clock.time = later
    assert await house.batch(day)


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        pytest.param(
            {"ALPHA_VANTAGE_PER_DAY": "4"}, False, id="a quota for the older batch alone", marks=pytest.mark.long
        ),
        pytest.param({}, True, id="no close, and no service in the evening"),
    ],
)
async def test_a_batch_waits_while_another_is_served(database, pool, clock, settings, absent):
    async with house_with(database, pool, clock, **settings) as house:
        if absent:
            house.world.absent |= {("COP", SECOND + number * DAY) for number in range(14)}
        await monday(house, MONDAY, "MSFT", "AAPL", "NVDA")
        await morning(house, SECOND - 2 * DAY, 13)
        await monday(house, SECOND, "XOM", "CVX", "COP")
        for days in range(5):
            await morning(house, SECOND + days * DAY, 13)
        waits = await house.batch(SECOND)
        assert waits
        assert await house.rows("SELECT count(*) FROM checkpoints WHERE batch_id = %s", waits.id) == [(1,)]
    assert await told(database) == []
