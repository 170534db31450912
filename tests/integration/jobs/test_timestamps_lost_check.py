"""The job that checks the timestamp of a Monday's batch, if an operator has deleted it."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from job_context import MONDAY, JobHarness, new_york
from job_context import clock as clock
from job_context import harness as harness

from app.database.pools import transaction
from app.providers.timestamp_authority import TimestampAuthority
from app.providers.timestamp_services import TimestampServices
from app.providers.webhook import WebhookReceiver
from app.simulation.timestamp_authority import SimulatedAuthority
from jobs import reconcile, timestamps

OPEN = new_york(MONDAY, 9, 30)
DUE = OPEN + timedelta(seconds=30)
DELETE = "DELETE FROM procrastinate_jobs WHERE task_name = 'check_stamp'"


@pytest.fixture
async def stamping(harness: JobHarness) -> Any:
    """A harness whose process has a time-stamping authority, which stamps nothing, and alerts."""
    roots = [SimulatedAuthority().root]
    authority = TimestampAuthority("http://127.0.0.1:9/timestamp", roots, harness.clock)
    services = TimestampServices({authority.name: authority})
    alerts = WebhookReceiver("ALERT_WEBHOOK_URL", "http://127.0.0.1:9/alert", harness.clock)
    harness.context = dataclasses.replace(harness.context, timestamps=services, alerts=alerts)
    yield harness
    await services.close()
    await alerts.close()


async def checks(harness: JobHarness) -> list[tuple[Any, ...]]:
    """Return the status and the time of every job that checks a timestamp."""
    return await harness.rows(
        "SELECT status::text, scheduled_at FROM procrastinate_jobs "
        "WHERE task_name = 'check_stamp' ORDER BY id"
    )


async def run_rounds(harness: JobHarness) -> None:
    """Do two rounds of reconciliation."""
    for _ in range(2):
        assert await reconcile.run_round(harness.context) is not None


async def test_a_deleted_check_comes_back_once(stamping):
    """It has the same time and arguments, and its alert is stored at the open."""
    batch = await stamping.make_batch()
    before = await stamping.jobs()
    await stamping.rows(DELETE)
    await run_rounds(stamping)
    assert await checks(stamping) == [("todo", DUE)]
    assert {repr(job) for job in before} <= {repr(job) for job in await stamping.jobs()}

    stamping.clock.time = DUE
    await timestamps.check(stamping.context, batch.id)
    await stamping.rows("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE status = 'todo'")
    await run_rounds(stamping)
    assert await checks(stamping) == [("succeeded", DUE)]
    alerts = await stamping.rows(
        "SELECT run_date FROM operations.alerts WHERE kind = 'batch_not_stamped'"
    )
    assert alerts == [(MONDAY,)]


async def test_a_check_that_was_deleted_just_after_the_open(stamping):
    """It runs at once."""
    await stamping.make_batch()
    await stamping.rows(DELETE)
    stamping.clock.time = DUE + timedelta(minutes=59)
    await run_rounds(stamping)
    assert await checks(stamping) == [("todo", stamping.clock.time)]


async def end_check(harness: JobHarness, status: str, *, strikes: int) -> None:
    """Give the job a status, and strikes."""
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = %s::procrastinate_job_status "
        "WHERE task_name = 'check_stamp'",
        status,
    )
    if strikes:
        await harness.rows(
            "INSERT INTO operations.strikes (job_id, surprises) "
            "SELECT id, %s FROM procrastinate_jobs WHERE task_name = 'check_stamp'",
            strikes,
        )


@pytest.mark.parametrize(
    ("status", "strikes"),
    [
        ("todo", 0),
        ("todo", 1),
        ("succeeded", 0),
        ("succeeded", 1),
        ("failed", 3),
        ("cancelled", 0),
        ("aborted", 0),
    ],
)
async def test_a_check_that_is_there(stamping, status, strikes):
    """There is no second one, whatever the status of the first one is."""
    await stamping.make_batch()
    await end_check(stamping, status, strikes=strikes)
    await run_rounds(stamping)
    assert await checks(stamping) == [(status, DUE)]


async def test_a_check_that_an_older_worker_has_ended(stamping):
    """It does not know the task, so the job fails without a strike. There is a second job."""
    await stamping.make_batch()
    await end_check(stamping, "failed", strikes=0)
    await run_rounds(stamping)
    assert await checks(stamping) == [("failed", DUE), ("todo", DUE)]


@pytest.mark.parametrize(
    "case", ["long after the open", "a late batch", "a failed batch", "a damaged batch", "no batch"]
)
async def test_nothing_to_check(stamping, case):
    """No job is deferred."""
    if case != "no batch":
        await stamping.make_batch()
    await stamping.rows(DELETE)
    changes = {
        "a late batch": "UPDATE batches SET late = true",
        "a failed batch": "UPDATE batches SET status = 'failed'",
        "a damaged batch": "UPDATE batches SET status = 'unknown'",
    }
    if case in changes:
        checks_of_rows = await stamping.rows(
            "SELECT conname FROM pg_constraint "
            "WHERE conrelid = 'batches'::regclass AND contype = 'c'"
        )
        async with transaction(stamping.context.pool) as conn:
            await conn.execute("SET LOCAL session_replication_role = replica")
            for (name,) in checks_of_rows:
                await conn.execute(f"ALTER TABLE batches DROP CONSTRAINT {name}".encode())
            await conn.execute(changes[case].encode())
    if case == "long after the open":
        stamping.clock.time = DUE + timedelta(hours=1, seconds=1)
    async with transaction(stamping.context.pool) as conn:
        assert await timestamps.defer_lost_check(conn, stamping.context) == 0
    assert await checks(stamping) == []


async def test_a_service_without_authorities(harness):
    """A batch that no authority stamps has no check."""
    await harness.make_batch()
    await run_rounds(harness)
    assert await checks(harness) == []
