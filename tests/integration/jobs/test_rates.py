"""
The rate of a loan without risk: requested once a week, stored if it is new, journaled if sealed.

The kind: a Sunday's request. Members tried: the first one, a value that changes, a response with
nothing new; no batch yet, a Sunday that is not over; no room in the quota, a premium notice, a
provider that is down, and the day after.
"""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from job_context import MONDAY, JobHarness, new_york, run_attempt
from job_context import clock as clock
from job_context import harness as harness
from provider_server import Reply, says

from app.errors import TryAgainAt
from app.ops.verify import open_database as record_at
from app.ops.verify import verify
from app.providers.rate_limiter import rate_limits
from app.simulation.faults import PREMIUM
from jobs import rates, reconcile, request_budget

SUNDAY = MONDAY + timedelta(days=6)
FRIDAY = MONDAY - timedelta(days=3)
ROWS = "SELECT observed_on, value_pct FROM rates ORDER BY observed_on, read_at"
JOBS = "SELECT args ->> 'sunday' FROM procrastinate_jobs WHERE task_name = 'read_rates' ORDER BY id"


async def due(harness: JobHarness, day: date, hour: int = 11) -> list[str]:
    """Run a round of the reconciliation at a time, and return the Sundays with a job."""
    harness.clock.time = new_york(day, hour)
    await reconcile.run_round(harness.context)
    return [sunday for (sunday,) in await harness.rows(JOBS)]


def requested(harness: JobHarness) -> list[dict[str, str]]:
    queries = [request.query for request in harness.provider.requests if request.path == "/query"]
    return [query for query in queries if query["function"] == "TREASURY_YIELD"]


async def check_record(database: str) -> None:
    async with record_at(database) as source:
        await verify(source, heads=[], report_progress=lambda *_: None)


async def test_each_sunday_has_one_job(harness):
    assert await due(harness, SUNDAY) == []
    await harness.make_batch()
    assert await due(harness, SUNDAY, 10) == []
    assert await due(harness, SUNDAY) == [str(SUNDAY)]
    assert await due(harness, SUNDAY + timedelta(days=3)) == [str(SUNDAY)]
    later = SUNDAY + timedelta(days=8)
    assert await due(harness, later) == [str(SUNDAY), str(SUNDAY + timedelta(days=7))]


async def test_new_and_changed_rates_are_stored_and_journaled(harness, database):
    await harness.make_batch()
    # The baseline session is the Friday before the Monday; 35 days before it is a Friday, too.
    oldest = FRIDAY - timedelta(days=35)
    too_old = oldest - timedelta(days=7)
    harness.world.rates = [(FRIDAY, "3.87"), (oldest, "3.80"), (too_old, "3.70")]
    harness.clock.time = new_york(SUNDAY, 11)
    await rates.refresh(harness.context, SUNDAY)
    (query,) = requested(harness)
    assert (query["maturity"], query["interval"]) == ("3month", "weekly")
    assert await harness.rows(ROWS) == [(oldest, Decimal("3.80")), (FRIDAY, Decimal("3.87"))]
    newest = (await harness.journal())[-1]
    assert newest.kind == "READINGS"
    assert '"kind":"RATES"' in newest.content
    assert newest.content.count('"value_pct"') == 2

    # The same Sunday is not requested twice.
    await rates.refresh(harness.context, SUNDAY)
    assert len(requested(harness)) == 1

    # A response without news has an entry, and no reading.
    harness.clock.time = new_york(SUNDAY + timedelta(days=7), 11)
    await rates.refresh(harness.context, SUNDAY + timedelta(days=7))
    assert '"rates":[]' in (await harness.journal())[-1].content

    harness.world.rates[0] = (FRIDAY, "3.88")
    harness.clock.time = new_york(SUNDAY + timedelta(days=14), 11)
    await rates.refresh(harness.context, SUNDAY + timedelta(days=14))
    assert await harness.rows(ROWS) == [
        (oldest, Decimal("3.80")),
        (FRIDAY, Decimal("3.87")),
        (FRIDAY, Decimal("3.88")),
    ]
    await check_record(database)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(says({"Information": PREMIUM}), id="premium"),
        pytest.param(Reply(b"", status=500), id="down"),
        pytest.param(says({"data": []}), id="odd"),
    ],
)
async def test_a_failure_is_repeated_the_next_day(harness, reply):
    await harness.make_batch()
    harness.world.instead = [reply] * 5
    harness.clock.time = new_york(SUNDAY, 11)
    tomorrow = new_york(SUNDAY + timedelta(days=1), 11)
    assert await run_attempt(lambda: rates.refresh(harness.context, SUNDAY)) == tomorrow
    harness.clock.time = tomorrow
    harness.world.instead.clear()
    await rates.refresh(harness.context, SUNDAY)
    assert await harness.rows(ROWS)


async def test_the_quota_comes_first(harness):
    await harness.make_batch()
    harness.clock.time = new_york(SUNDAY, 11)
    harness.context.prices.ledger.limits = rate_limits(per_second=1, per_minute=5, per_day=12)
    with pytest.raises(TryAgainAt):
        await rates.refresh(harness.context, SUNDAY)
    assert not requested(harness)


@pytest.mark.parametrize("reply", [Reply(b"", status=500), says({})], ids=["down", "odd"])
@pytest.mark.parametrize(("per_day", "attempts"), [(17, 1), (18, 2), (25, 5)])
async def test_attempts_use_only_what_is_left(harness, reply, per_day, attempts):
    """A provider that never returns rates must not cost the closes of the next morning."""
    await harness.make_batch()
    harness.world.instead = [reply] * 5
    harness.clock.time = new_york(SUNDAY, 11)
    harness.context.prices.ledger.limits = rate_limits(per_second=1, per_minute=5, per_day=per_day)
    async with harness.context.pool.connection() as conn:
        spare = await request_budget.count_spare(conn, harness.context)
    assert min(spare, 5) == attempts
    with pytest.raises(TryAgainAt):
        await rates.refresh(harness.context, SUNDAY)
    assert len(requested(harness)) == attempts


async def test_a_week_that_is_over_is_not_made_up_for(harness):
    await harness.make_batch()
    harness.clock.time = new_york(SUNDAY + timedelta(days=7), 11)
    await rates.refresh(harness.context, SUNDAY)
    assert not requested(harness)
