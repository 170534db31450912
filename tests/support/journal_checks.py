"""
Check that the journal's last mention of every row is equal to the row; and wait for blocked
connections.
"""

import asyncio
import json
from typing import Any

import pytest
from job_context import JobHarness

from app.domain.journal import canonical_json
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    Correction,
    Generation,
    Pick,
    PickMetric,
    Split,
)
from app.store.rows import select_rows

# Under which members an entry holds a table's rows, one or several.
MEMBERS = {
    "batches": (Batch, ("batch",)),
    "picks": (Pick, ("pick", "picks")),
    "checkpoints": (Checkpoint, ("checkpoint",)),
    "pick_checkpoint_metrics": (PickMetric, ("metrics",)),
    "corrections": (Correction, ("corrections",)),
    "closes": (Close, ("closes",)),
    "generations": (Generation, ("generation",)),
}
JOURNAL_LOCK = "SELECT pg_advisory_xact_lock(4021970433)"


async def check_rows_against_journal(harness: JobHarness) -> None:
    """
    Check that every row is as its last mention in the journal, and that every mention has a
    row.
    """
    entries = [json.loads(entry.content) for entry in await harness.journal()]
    for table, (type_, members) in MEMBERS.items():
        last: dict[str, Any] = {}
        for entry in entries:
            for member in members:
                mentioned = entry.get(member) or []
                last |= {
                    one["id"]: one
                    for one in (mentioned if isinstance(mentioned, list) else [mentioned])
                }
        async with harness.context.pool.connection() as conn:
            rows = {
                str(row.id): canonical_json({"row": row})
                for row in await select_rows(conn, type_, table=table)
            }
        assert rows == {id: canonical_json({"row": one}) for id, one in last.items()}, table


async def check_splits_against_journal(harness: JobHarness) -> None:
    """Check that the splits in the journal's entries are the stored readings."""
    async with harness.context.pool.connection() as conn:
        stored = {
            canonical_json({"row": row}) for row in await select_rows(conn, Split, table="splits")
        }
    mentioned = [
        one
        for entry in await harness.journal()
        for one in json.loads(entry.content).get("splits", ())
    ]
    assert {canonical_json({"row": one}) for one in mentioned} == stored


@pytest.fixture(autouse=True)
async def check_journal(harness: JobHarness) -> Any:
    """Compare the journal with the rows at the end of every test."""
    yield
    await check_rows_against_journal(harness)
    await check_splits_against_journal(harness)


async def wait_for_blocked_connections(harness: JobHarness, count: int = 1) -> list[int]:
    """
    Wait until so many connections of the test's database wait for a lock; return their
    processes.
    """
    for _ in range(500):
        blocked = await harness.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND "
            "wait_event_type = 'Lock' "
            "ORDER BY state_change"
        )
        if len(blocked) == count:
            return [pid for (pid,) in blocked]
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(blocked)} wait")
