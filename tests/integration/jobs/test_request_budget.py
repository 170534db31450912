"""
What has room: the splits of three series on a Sunday, and in what order; and whose turn it is on a
morning.
"""

import asyncio
from datetime import timedelta

import pytest
from job_context import JobHarness, allow, new_york
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from scarce_series import FIRST_MONDAY, PRICE, SERIES, store_batches, tickers_of

from app.domain.model import batch_id
from app.domain.request_plan import in_turn
from app.store import batches
from jobs import daily, late_splits, request_budget

SUNDAY = FIRST_MONDAY + timedelta(days=6)
TUESDAY = FIRST_MONDAY + timedelta(days=1)
IDS = {series: batch_id(series, FIRST_MONDAY) for series in SERIES}
# Sunday's order: SPY, the first ticker of each series, the second of each, the third of each.
TURNS = in_turn(SERIES, SUNDAY)
ORDER = ["SPY"]
for place in range(3):
    ORDER += [tickers_of(series, FIRST_MONDAY)[place] for series in TURNS]


async def begin(harness: JobHarness) -> None:
    """Store the batches of the first Monday."""
    harness.world.prices |= dict.fromkeys(ORDER, str(PRICE))
    harness.clock.time = new_york(FIRST_MONDAY, 9, 20)
    await store_batches(harness.context, FIRST_MONDAY)


@pytest.fixture
async def sunday(harness: JobHarness) -> JobHarness:
    """The Sunday of the first week, after all mornings but its own; no request counts any more."""
    await begin(harness)
    harness.clock.time = new_york(SUNDAY - timedelta(days=1))
    for series in SERIES:
        # The bars of the last session have those of the others.
        for day in (5, 4, 3, 2, 1):
            await daily.take(harness.context, IDS[series], day)
    await harness.rows("DELETE FROM operations.provider_requests")
    harness.provider.requests.clear()
    harness.clock.time = new_york(SUNDAY)
    return harness


async def with_room(harness: JobHarness) -> list[str]:
    """Return the tickers whose splits have room."""
    return [
        ticker
        for ticker in ORDER
        if await request_budget.has_room_for_splits(harness.context, ticker)
    ]


@pytest.mark.parametrize(("per_day", "room"), [(1, 0), (5, 4), (10, 9), (11, 10), (25, 10)])
@pytest.mark.sampled(2)
async def test_at_nine(sunday, per_day, room):
    """The whole day's limit but one has room: what is sent at nine does not count on Monday."""
    allow(sunday, per_day)
    assert await with_room(sunday) == ORDER[:room]


@pytest.mark.parametrize(("per_day", "room"), [(12, 0), (15, 3), (22, 10)])
@pytest.mark.sampled(1)
async def test_at_ten(sunday, per_day, room):
    """Monday keeps twelve: the four closes of `main`, seven for an unknown ticker, and one."""
    allow(sunday, per_day)
    sunday.clock.time = new_york(SUNDAY, 10)
    assert await with_room(sunday) == ORDER[:room]


async def test_closes_come_first(harness):
    """As long as the ten closes of five mornings are missing, they keep ten requests."""
    await begin(harness)
    harness.clock.time = new_york(SUNDAY)
    for per_day, room in ((11, 0), (12, 1), (15, 4)):
        allow(harness, per_day)
        assert await with_room(harness) == ORDER[:room]


async def test_what_the_sunday_leaves_is_requested_on_monday(sunday):
    """
    With five requests a day, four splits have room at nine: SPY, and one of each series. A job of
    each batch requests the others on Monday at ten.
    """
    allow(sunday, 5)
    for series in SERIES:
        await daily.take(sunday.context, IDS[series], 6)
    assert sorted(sunday.requested_splits) == sorted(ORDER[:4])
    jobs = [job for job in await sunday.jobs() if job[0] == late_splits.look_for_splits.name]
    monday = new_york(SUNDAY + timedelta(days=1), 10)
    assert jobs == [
        ("look_for_splits", {"batch_id": str(IDS[series]), "day": 6}, monday) for series in SERIES
    ]
    # A checkpoint that is put back does not defer a second job.
    await daily.take(sunday.context, IDS["alpha"], 6)
    assert len(await sunday.jobs()) == 14 * len(SERIES) + len(SERIES)
    # On Monday, `main` keeps twelve requests, because it has no batch yet, and Tuesday needs
    # fourteen at most: 25 leave room for all six.
    allow(sunday, 25)
    sunday.clock.time = monday
    for series in SERIES:
        await late_splits.refresh(sunday.context, IDS[series], 6)
    assert sorted(sunday.requested_splits) == sorted(ORDER)


async def test_turns_of_a_morning(harness):
    """Jobs that run at the same time wait for each other in the order of the turns."""
    await begin(harness)
    harness.clock.time = new_york(TUESDAY)
    await harness.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE args ->> 'day' = '1'")
    ahead = {}
    for series in in_turn(SERIES, TUESDAY):
        async with harness.context.pool.connection() as conn:
            batch = await batches.get(conn, IDS[series])
        ahead[series] = [await daily._count_ahead(harness.context, batch, day) for day in (1, 2)]
    # Each of the first day waits for those before it; those of the second day wait for all three.
    assert list(ahead.values()) == [[0, 3], [1, 3], [2, 3]]
    assert await later_batch_waits(harness) == 3
    await harness.rows(
        "UPDATE procrastinate_jobs SET args = args || '{\"retake\": \"x\"}' WHERE status = 'doing'"
    )
    assert await later_batch_waits(harness) == 0


async def later_batch_waits(harness: JobHarness) -> int:
    """Return for how many jobs the first checkpoint of the next Monday's batch waits."""
    async with harness.context.pool.connection() as conn:
        batch = await batches.get(conn, IDS["beta"])
    later = replace(batch, run_date=FIRST_MONDAY + timedelta(days=7))
    return await daily._count_ahead(harness.context, later, 1)


async def test_the_first_in_turn_is_complete(harness):
    """With four requests, the job whose turn it is gets all of them, although all begin at once."""
    await begin(harness)
    allow(harness, 4)
    harness.clock.time = new_york(TUESDAY)
    await harness.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE args ->> 'day' = '1'")
    turns = in_turn(SERIES, TUESDAY)

    async def run(series: str) -> None:
        try:
            await daily.take(harness.context, IDS[series], 1)
        finally:
            await harness.rows(
                "UPDATE procrastinate_jobs SET status = 'succeeded' "
                "WHERE args ->> 'day' = '1' AND args ->> 'batch_id' = %s",
                str(IDS[series]),
            )

    results = await asyncio.gather(*(run(series) for series in SERIES), return_exceptions=True)
    done = [series for series, result in zip(SERIES, results, strict=True) if result is None]
    assert done == [turns[0]]
    assert harness.requested_tickers == ["SPY", *tickers_of(turns[0], FIRST_MONDAY)]
