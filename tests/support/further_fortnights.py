"""Fortnights of a record with further benchmarks: live through their days with a harness."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta

from job_context import MONDAY, HandSetClock, JobHarness, allow, new_york, open_harness, run_attempt

from app.domain.calendar import MEASURED_DAYS, new_york_date
from jobs import daily, further_benchmarks

# The session of the result of the batch of MONDAY, and the two Sundays of its fortnight.
RESULT = MONDAY + timedelta(days=11)
SUNDAYS = (MONDAY + timedelta(days=6), MONDAY + timedelta(days=13))


@asynccontextmanager
async def harness_with(
    database: str, clock: HandSetClock, **environment: str
) -> AsyncIterator[JobHarness]:
    async with open_harness(database, clock, **environment) as harness:
        allow(harness, 500)
        harness.world.prices["RSP"] = "100.0000"
        yield harness


async def live(
    harness: JobHarness,
    *,
    until: date = MONDAY + timedelta(days=14),
    sundays: Sequence[date] | None = None,
    has_room: bool = True,
) -> None:
    """
    Live through the days up to `until`: Mondays, checkpoints, and the given Sundays.

    Without `sundays`, the further benchmarks are read on every Sunday. `has_room` is whether the
    quota has room for them.
    """
    day = new_york_date(harness.clock.now())
    while day < until:
        day += timedelta(days=1)
        harness.clock.time = new_york(day)
        if day.weekday() == 0:
            await harness.begin()
        for age in MEASURED_DAYS:
            batch = await harness.batch(day - timedelta(days=age))
            if batch is not None and batch.trading_day:
                await daily.take(harness.context, batch.id, age)
        if day.weekday() == 6 and (sundays is None or day in sundays):
            allow(harness, 500 if has_room else 8)
            await read_on(harness, day)
            allow(harness, 500)


async def read_on(harness: JobHarness, sunday: date) -> datetime | None:
    """Read the further benchmarks on a Sunday. Return when the job is tried again."""
    harness.clock.time = new_york(sunday, 10, 30)
    return await run_attempt(lambda: further_benchmarks.refresh(harness.context, sunday))
