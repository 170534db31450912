"""
Retakes of completed batches: they go on while the provider's response reaches back to the session,
and they use only the requests that nothing else needs.
"""

from datetime import date, timedelta

import pytest
from job_context import MONDAY, JobHarness, allow, new_york, run_until_done
from job_context import clock as clock
from job_context import harness as harness
from record_server import check_record

from app.domain.calendar import Calendar, due_at
from app.domain.model import Batch
from jobs import daily, reconcile

# The sessions of days 11 and 12 have no price of AAPL, so the batch has no result.
SKIPPED_DAYS = (11, 12)
WEDNESDAY = MONDAY + timedelta(days=16)

RETAKES = (
    "SELECT (args ->> 'day')::integer, args ->> 'retake' FROM procrastinate_jobs "
    "WHERE args ? 'retake' ORDER BY id"
)
STATUSES = (
    "SELECT batches.status::text, checkpoints.status::text "
    "FROM batches JOIN checkpoints ON checkpoints.batch_id = batches.id "
    "WHERE day IN (11, 12) ORDER BY day"
)


def session_of(day: int) -> date:
    """Return the session that the checkpoint of a day measures."""
    return MONDAY + timedelta(days=day - 1)


@pytest.fixture
async def batch(harness: JobHarness) -> Batch:
    """A completed batch without a result. Its prices are available now; no request counts."""
    made = await harness.make_batch()
    harness.world.absent |= {("AAPL", session_of(day)) for day in SKIPPED_DAYS}
    for day in range(1, 15):
        harness.clock.time = max(harness.clock.time, due_at(MONDAY, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, made.id, day))
    assert await harness.rows(STATUSES) == [("completed", "skipped")] * 2
    harness.world.absent.clear()
    await harness.rows("DELETE FROM procrastinate_jobs")
    await harness.rows("DELETE FROM operations.provider_requests")
    harness.provider.requests.clear()
    return made


async def retakes_at(harness: JobHarness, day: date, hour: int = 10) -> list[int]:
    """Return the days whose retakes a round of reconciliation defers."""
    before = len(await harness.rows(RETAKES))
    harness.clock.time = new_york(day, hour)
    await reconcile.run_round(harness.context)
    return [row[0] for row in (await harness.rows(RETAKES))[before:]]


async def test_the_result_arrives(harness, batch, database):
    """Both days are retaken on a day after the completion, and the record fits afterwards."""
    assert await retakes_at(harness, WEDNESDAY, 9) == []
    assert sorted(await retakes_at(harness, WEDNESDAY)) == list(SKIPPED_DAYS)
    # Not twice a day, also when they have run.
    assert await retakes_at(harness, WEDNESDAY, 11) == []
    for day in SKIPPED_DAYS:
        await daily.take(harness.context, batch.id, day, retake=True)
    assert await harness.rows(STATUSES) == [("completed", "computed")] * 2
    assert await retakes_at(harness, WEDNESDAY + timedelta(days=1)) == []
    await check_record(database)


async def done(harness: JobHarness) -> None:
    """The jobs that waited have run."""
    await harness.rows("UPDATE procrastinate_jobs SET status = 'succeeded'")


async def test_what_is_left_decides(harness, batch):
    """
    Each retake needs four requests. Five stay unused: one, and the four that Thursday may need.
    """
    allow(harness, 8)
    assert await retakes_at(harness, WEDNESDAY) == []
    allow(harness, 12)
    assert len(await retakes_at(harness, WEDNESDAY)) == 1
    await done(harness)
    assert await retakes_at(harness, WEDNESDAY, 11) == []
    allow(harness, 13)
    assert len(await retakes_at(harness, WEDNESDAY + timedelta(days=1))) == 2


@pytest.mark.long
async def test_each_day_begins_with_another_one(harness, batch):
    """With room for one, both have their turn."""
    allow(harness, 9)
    found = []
    for days in range(4):
        found += await retakes_at(harness, WEDNESDAY + timedelta(days=days))
        await done(harness)
    assert sorted(found) == [11, 11, 12, 12]


@pytest.mark.long
async def test_splits_come_first(harness, batch):
    """
    On the Sunday of day 20 the splits of four tickers wait, and Monday's batch may need twelve.
    """
    sunday = MONDAY + timedelta(days=20)
    allow(harness, 19)
    assert await retakes_at(harness, sunday) == []
    allow(harness, 20)
    assert len(await retakes_at(harness, sunday)) == 1


async def test_as_far_as_the_bars_reach(harness, batch):
    """A response has the bars of 100 sessions, so a retake of an older one would change nothing."""
    sessions = Calendar()
    day = session_of(11)
    for _ in range(100):
        day = sessions.session_from(day + timedelta(days=1))
    assert sorted(await retakes_at(harness, day)) == [11, 12]
    await done(harness)
    assert await retakes_at(harness, day + timedelta(days=1)) == [12]


@pytest.mark.long
async def test_a_retake_that_waits(harness, batch):
    """Its requests are not in the ledger yet, so no other one is deferred until it has run."""
    allow(harness, 9)
    assert len(await retakes_at(harness, WEDNESDAY)) == 1
    allow(harness, 25)
    assert await retakes_at(harness, WEDNESDAY + timedelta(days=1)) == []
    await done(harness)
    assert len(await retakes_at(harness, WEDNESDAY + timedelta(days=2))) == 2


@pytest.mark.long
async def test_a_monday_waits(harness, batch):
    """On a Monday, they wait until its batch is stored, as those of active batches do."""
    monday = MONDAY + timedelta(weeks=3)
    assert await retakes_at(harness, monday) == []
    await harness.begin()
    assert sorted(await retakes_at(harness, monday)) == list(SKIPPED_DAYS)
