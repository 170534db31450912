"""
A job that needs a damaged row fails at once, and does not disturb other jobs. The kind: each row of
an old batch that a job reads as a value, damaged in a database without its triggers.
"""

from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from clocks import HandSetClock
from job_context import MONDAY, JobHarness, logged, new_york, open_harness
from job_context import clock as clock

from app.domain.model import SERIES, batch_id
from jobs import queue, reconcile

NEXT = MONDAY + timedelta(weeks=1)
TUESDAY = NEXT + timedelta(days=1)
OLD = f"'{batch_id(SERIES, MONDAY)}'"
FREE = "ALTER TABLE {} DROP CONSTRAINT {}"

DAMAGES = {
    "an unknown action of a pick": [
        FREE.format("picks", "action_is_known"),
        f"UPDATE picks SET action = 'HOLD' WHERE batch_id = {OLD} AND position = 1",
    ],
    "a pick without a price": [
        "ALTER TABLE picks ALTER initial_price DROP NOT NULL",
        f"UPDATE picks SET initial_price = NULL WHERE batch_id = {OLD} AND position = 2",
    ],
    "a batch of which it is not known whether it is late": [
        "ALTER TABLE batches ALTER late DROP NOT NULL",
        f"UPDATE batches SET late = NULL WHERE id = {OLD}",
    ],
    "a batch without a benchmark": [
        "ALTER TABLE batches ALTER benchmark_symbol DROP NOT NULL",
        f"UPDATE batches SET benchmark_symbol = NULL WHERE id = {OLD}",
    ],
    "a batch with an unknown reason of failure": [
        FREE.format("batches", "failure_reason_is_known"),
        FREE.format("batches", "failed_has_a_reason"),
        f"UPDATE batches SET failure_reason = 'HOLIDAY' WHERE id = {OLD}",
    ],
}


@pytest.fixture
async def harness(create, migrated, clock: HandSetClock, monkeypatch) -> AsyncIterator[JobHarness]:
    """A harness with a database of its own, because its triggers are removed."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})
    address = create(psycopg.conninfo.conninfo_to_dict(migrated)["dbname"])
    async with open_harness(address, clock) as harness:
        yield harness


async def damage(harness: JobHarness, name: str) -> None:
    async with harness.context.pool.connection() as conn:
        await conn.execute("SET session_replication_role = replica")
        for statement in DAMAGES[name]:
            await conn.execute(statement)
        await conn.execute("SET session_replication_role = origin")


async def works(harness: JobHarness, days: str) -> None:
    """Let a worker run these days' jobs and no others; retries are due at once."""
    of_these = f"(args ->> 'batch_id', (args ->> 'day')::integer) IN ({days})"
    await harness.rows(f"DELETE FROM procrastinate_jobs WHERE NOT {of_these}")
    for _ in range(3):
        await harness.rows(
            "UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE status = 'todo'"
        )
        await queue.app.run_worker_async(
            wait=False, install_signal_handlers=False, listen_notify=False
        )


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_batch_stops_no_other(harness, name):
    """
    The checkpoint of the damaged batch fails at the first attempt; the younger batch and the next
    Monday succeed.
    """
    await harness.make_batch()
    young = await harness.make_batch(NEXT, "KO", "BRK.B", "MSFT")
    await damage(harness, name)
    harness.clock.time = new_york(TUESDAY)
    with logged("INFO", harness.clock) as lines:
        await works(harness, f"({OLD}, 8), ('{young.id}', 1)")
    of_the_old = "SELECT status::text, attempts FROM procrastinate_jobs WHERE args ->> 'day' = '8'"
    assert await harness.rows(of_the_old) == [("failed", 1)]
    assert [
        one["reason"].split(":")[0] for one in lines if one["event"] == "the record is damaged"
    ] == ["The record is damaged"]
    taken = "SELECT day FROM checkpoints WHERE batch_id = %s AND status = 'computed' ORDER BY day"
    assert await harness.rows(taken, young.id) == [(0,), (1,)]

    # Reconciliation serves the others all the same.
    harness.clock.time = new_york(TUESDAY + timedelta(days=1))
    await reconcile.run_round(harness.context)  # defers the jobs of the days whose jobs are gone
    await harness.rows("UPDATE procrastinate_jobs SET status = 'failed' WHERE status = 'todo'")
    with logged("INFO", harness.clock) as lines:
        mended = await reconcile.run_round(harness.context)
    assert mended.given_up >= 1
    assert await harness.rows(
        "SELECT day FROM checkpoints WHERE batch_id = %s AND status = 'skipped'", young.id
    ) == [(2,)]
    assert "reconciliation failed" not in {one["event"] for one in lines}
    harness.clock.time = new_york(NEXT + timedelta(weeks=1))
    await harness.begin()
    assert (await harness.batch(NEXT + timedelta(weeks=1))).status == "active"
