"""Upkeep: what a round finds to do, what it leaves alone, and what it says of itself."""

from job_tools import clock as clock
from job_tools import house as house

from jobs import upkeep


async def told_of(house) -> list[tuple]:
    """What upkeep wrote down of itself."""
    return await house.rows("SELECT last_round_at, last_mended_at, mended FROM operations.upkeep")


async def test_a_round_is_written_down(house):
    """The last round, and the last one that mended anything with what it mended."""
    await house.a_batch()
    await upkeep.look_after(house.tools)
    assert await told_of(house) == [(house.clock.now(), None, {})]

    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    house.clock.forward(days=1)
    await upkeep.look_after(house.tools)
    mended_at = house.clock.now()
    assert [(at, mended["deferred"]) for _, at, mended in await told_of(house)] == [(mended_at, 1)]

    house.clock.forward(minutes=1)
    await upkeep.look_after(house.tools)
    assert [(last, at, mended["deferred"]) for last, at, mended in await told_of(house)] == [
        (house.clock.now(), mended_at, 1)
    ]
