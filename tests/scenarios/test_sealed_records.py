"""
A record that an earlier version made, with a running fortnight: upgraded, sealed, and continued.

The commands run as processes, and an older version is one that does not declare that it knows
sealed records.
"""

import asyncio
import dataclasses
from datetime import timedelta

import psycopg
import pytest
from commands import run
from job_context import MONDAY, first_attempt, new_york
from job_context import clock as clock
from job_context import harness as harness
from structlog.testing import capture_logs

from app.database import pools
from jobs import daily, queue

SECOND = MONDAY + timedelta(days=7)
OLD_CLOSE = (
    "INSERT INTO closes (id, ticker, trading_day, close, source, read_at) "
    "VALUES (gen_random_uuid(), 'KO', '2026-10-23', 60, 'alphavantage X', now())"
)
REFUSAL = (
    "This record is sealed: use version 0.3.0 or newer of alpha-monday to record in it. "
    "This program is older."
)


async def mornings(harness, run_date, days):
    """Take checkpoints of a batch, each at nine."""
    for day in days:
        batch = await harness.batch(run_date)
        harness.clock.time = new_york(run_date + timedelta(days=day))
        await daily.take(harness.context, batch.id, day)


async def verified(database, tmp_path) -> str:
    """Verify the record with the command, and return what it says."""
    done = await asyncio.to_thread(run, "verify", cwd=tmp_path, DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def sealed(harness, database, tmp_path):
    """Seal the record with the command, in the environment of the service."""
    return await asyncio.to_thread(
        run,
        *("seal", "--yes"),
        cwd=tmp_path,
        DATABASE_URL=database,
        ALPHA_VANTAGE_BASE_URL=harness.provider.url,
    )


@pytest.mark.long
async def test_the_steps_of_an_upgrade(harness, database, tmp_path):
    """
    Monday and two mornings of an earlier version; two mornings and a Monday of this version, which
    is not sealed yet and writes the same kinds of entries; the seal; then mornings and a Monday,
    with their claims and readings. The record verifies after each step, and the head of each step
    stays in it.
    """
    process = harness.context.in_force
    harness.context = dataclasses.replace(harness.context, in_force=None)
    await harness.make_batch()
    await mornings(harness, MONDAY, (1, 2))
    harness.context = dataclasses.replace(harness.context, in_force=process)
    assert "Not sealed" in await verified(database, tmp_path)
    await mornings(harness, MONDAY, (3, 4, 5, 6))
    harness.clock.time = new_york(SECOND)
    await harness.begin()
    assert set(await harness.kinds()) == {"GENERATION", "BATCH", "CHECKPOINT"}
    assert await harness.rows("SELECT id FROM generations WHERE profile_sha256 IS NOT NULL") == []
    assert "Not sealed" in await verified(database, tmp_path)
    head = (await harness.journal())[-1]

    done = await sealed(harness, database, tmp_path)
    assert (done.returncode, done.stdout[:7]) == (0, "Sealed:")
    assert "Sealed since entry" in await verified(database, tmp_path)

    harness.provider.requests.clear()
    await mornings(harness, MONDAY, range(7, 14))
    harness.clock.time = new_york(SECOND + timedelta(days=7))
    await harness.begin()
    await mornings(harness, MONDAY, (14,))
    assert (await harness.batch()).status == "completed"
    kinds = (await harness.kinds())[head.seq :]
    assert kinds[0] == "GENESIS"
    assert [kind for kind in kinds if kind in ("SETTINGS", "SERIES")] == ["SETTINGS", "SERIES"]
    assert kinds.count("READINGS") == 1 + len(harness.requested_tickers + harness.requested_splits)
    kept = await asyncio.to_thread(
        run, "verify", "--head", f"{head.seq}:{head.hash}", cwd=tmp_path, DATABASE_URL=database
    )
    assert kept.returncode == 0


async def test_an_older_worker_after_the_seal(harness, database, tmp_path):
    """Its reading is refused in one clear line, its job waits, and the record verifies."""
    process = harness.context.in_force
    harness.context = dataclasses.replace(harness.context, in_force=None)
    await harness.make_batch()
    harness.context = dataclasses.replace(harness.context, in_force=process)
    done = await sealed(harness, database, tmp_path)
    assert done.returncode == 0

    async def job() -> None:
        async with pools.transaction(harness.context.pool) as conn:
            await conn.execute(OLD_CLOSE)

    with pytest.raises(queue.RecordSealed) as later:
        await queue.count_failures(job, first_attempt("take_checkpoint"), None)
    with capture_logs() as logs:
        queue._log_error(later.value)
    assert str(later.value) == REFUSAL
    assert later.value.at == harness.clock.now() + queue.SEALED_DELAY
    (line,) = [log for log in logs if log["event"] == "this version is too old for the record"]
    assert line["reason"] == REFUSAL
    await verified(database, tmp_path)


async def test_a_row_that_is_put_in_later(harness, database, tmp_path):
    """
    A superuser who inserts a reading, or a question, without its entry: `verify` names the row.
    """
    await harness.make_batch()
    await verified(database, tmp_path)
    with psycopg.connect(database) as conn:
        conn.execute("SET alpha_monday.knows_sealed_records = 'yes'")
        conn.execute(OLD_CLOSE)
    done = await asyncio.to_thread(run, "verify", cwd=tmp_path, DATABASE_URL=database)
    assert done.returncode == 1
    ((id,),) = await harness.rows("SELECT id::text FROM closes WHERE ticker = 'KO'")
    assert id in done.stdout + done.stderr
