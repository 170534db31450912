"""What the journal says last of every row, beside what the row says; and how to see who waits for a lock."""

import asyncio
import json
from typing import Any

import pytest
from job_tools import House

from app.domain.journal import canonical
from app.domain.model import Batch, Checkpoint, Correction, Pick, PickMetric, Split
from app.store.rows import select

# Under which members an entry holds a table's rows, one or several.
MEMBERS = {
    "batches": (Batch, ("batch",)),
    "picks": (Pick, ("pick", "picks")),
    "checkpoints": (Checkpoint, ("checkpoint",)),
    "pick_checkpoint_metrics": (PickMetric, ("metrics",)),
    "corrections": (Correction, ("corrections",)),
}
JOURNAL_LOCK = "SELECT pg_advisory_xact_lock(4021970433)"


async def the_journal_tells_every_row(house: House) -> None:
    """Every row is what its last mention in the journal says, as canonical text; and no mention is of no row."""
    entries = [json.loads(entry.content) for entry in await house.journal()]
    for table, (type_, members) in MEMBERS.items():
        last: dict[str, Any] = {}
        for entry in entries:
            for member in members:
                told = entry.get(member) or []
                last |= {one["id"]: one for one in (told if isinstance(told, list) else [told])}
        async with house.tools.pool.connection() as conn:
            rows = {str(row.id): canonical({"row": row}) for row in await select(conn, type_, table, "")}
        assert rows == {id: canonical({"row": one}) for id, one in last.items()}, table


async def the_splits_are_in_the_journal(house: House) -> None:
    """What an entry says of splits are readings that are kept."""
    async with house.tools.pool.connection() as conn:
        kept = {canonical({"row": row}) for row in await select(conn, Split, "splits", "")}
    told = [one for entry in await house.journal() for one in json.loads(entry.content).get("splits", ())]
    assert {canonical({"row": one}) for one in told} <= kept


@pytest.fixture(autouse=True)
async def _walked(house: House) -> Any:
    """At the end of every test the journal tells what the rows say."""
    yield
    await the_journal_tells_every_row(house)
    await the_splits_are_in_the_journal(house)


async def waiting(house: House, count: int = 1) -> list[int]:
    """Wait until so many connections of the test's database wait for a lock; return their processes."""
    for _ in range(500):
        found = await house.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "ORDER BY state_change"
        )
        if len(found) == count:
            return [pid for (pid,) in found]
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(found)} wait")
