"""A seal: what it writes, when it is refused, and what happens to the work that is under way."""

import asyncio
import dataclasses
import json
from datetime import date, timedelta

import psycopg
import pytest
from declaring import question
from job_context import MONDAY, new_york
from job_context import clock as clock
from job_context import harness as harness

from app.core.locks import Lock
from app.database import pools
from app.domain.declarations import Origin
from app.errors import Discrepancy, Refused, TryAgainAt
from app.ops import seal
from app.ops.verify import DatabaseRecord, verify
from app.store import generations
from app.store.rehearsed import CREATE_CLOCK_TABLE
from jobs import daily

SECOND = MONDAY + timedelta(days=7)


@pytest.fixture
def older(harness):
    """A harness that records as a version before the seal does."""
    process = harness.context.in_force
    harness.context = dataclasses.replace(harness.context, in_force=None)
    harness.upgrade = lambda: setattr(
        harness, "context", dataclasses.replace(harness.context, in_force=process)
    )
    harness.process = process
    return harness


async def take(harness, day, run_date=MONDAY):
    """Take a checkpoint at nine."""
    batch = await harness.batch(run_date)
    harness.clock.time = new_york(run_date + timedelta(days=day))
    await daily.take(harness.context, batch.id, day)


async def contents(harness) -> list[str]:
    return [entry.content for entry in await harness.journal()]


async def verified(database) -> str:
    """Verify the record, and return the last line of the result."""
    async with pools.snapshot(database, "test") as conn:
        return str(await verify(DatabaseRecord(conn), [], lambda *_: None, None))


async def preview(harness, database):
    return await seal.preview(database, harness.process, harness.clock.now(), lambda *_: None)


async def sealed(harness, database):
    return await seal.seal(database, harness.process, harness.clock.now())


async def test_a_fortnight_that_runs(older, database):
    """
    An upgraded record goes on as before. A seal adds entries and changes none; then Mondays and
    mornings go on, each question and each response has its entry, and the record verifies.
    """
    await older.make_batch()
    await take(older, 1)
    older.upgrade()
    await take(older, 2)
    assert set(await older.kinds()) == {"GENERATION", "BATCH", "CHECKPOINT"}
    before = await contents(older)

    plan = await preview(older, database)
    assert await contents(older) == before
    done = await sealed(older, database)
    assert done == plan
    assert (plan.origin, plan.entries, plan.splits, plan.questions) == (Origin.UNKNOWN, 4, 0, 0)
    # Stored and not used: the benchmark and three picks, each with the session before its baseline.
    assert plan.closes == 4
    assert plan.settings.calendar_from == date(2026, 10, 23)
    assert (await contents(older))[: len(before)] == before
    assert (await older.kinds())[len(before) :] == ["GENESIS", "READINGS", "SETTINGS"]
    genesis, adopted, marker = [json.loads(one) for one in (await contents(older))[len(before) :]]
    assert (genesis["genesis"]["late"], genesis["genesis"]["origin"]) == ("true", "UNKNOWN")
    assert adopted["adopted"] == marker["sealed"] == "true"
    assert genesis["settings"] == marker["settings"]
    await verified(database)

    number = len(await older.kinds())
    older.provider.requests.clear()
    for day in range(3, 7):
        await take(older, day)
    older.clock.time = new_york(SECOND)
    await older.begin()
    await take(older, 7)
    await take(older, 8)
    kinds = (await older.kinds())[number:]
    assert kinds.count("SERIES") == 1
    assert kinds[kinds.index("SERIES") :][:3] == ["SERIES", "GENERATION", "GENERATION"]
    assert "SETTINGS" not in kinds
    assert "GENESIS" not in kinds
    assert kinds.count("READINGS") == len(older.requested_tickers + older.requested_splits)
    await verified(database)


async def test_a_seal_is_refused(older, database):
    """On an empty journal, for a second time, and on a record that does not verify."""
    with pytest.raises(Refused, match="has no entry yet: it will be sealed from its first entry"):
        await sealed(older, database)
    await older.make_batch()
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE picks SET reasoning = 'Better.' WHERE position = 1")
    with pytest.raises(Discrepancy):
        await preview(older, database)
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(
            "UPDATE picks SET reasoning = ticker || ' has its reasons.' WHERE position = 1"
        )
    await preview(older, database)
    await sealed(older, database)
    before = await contents(older)
    for step in (preview, sealed):
        with pytest.raises(Refused, match="sealed already: its journal has a GENESIS entry"):
            await step(older, database)
    assert await contents(older) == before


async def test_two_seals_at_once(older, database):
    """One of them is refused, and the record has one GENESIS entry."""
    await older.make_batch()
    both = [sealed(older, database), sealed(older, database)]
    done = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Refused", "SealPlan"]
    assert (await older.kinds()).count("GENESIS") == 1


async def test_an_open_question_is_adopted(older, database):
    """The seal mentions it, and its outcome is stored afterwards, without a profile."""
    await older.make_batch()
    asked = question(SECOND, new_york(SECOND))
    older.clock.time = new_york(SECOND)
    async with pools.transaction(older.context.pool) as conn:
        await generations.claim(conn, asked, in_force=None)
    older.upgrade()
    plan = await sealed(older, database)
    assert plan.questions == 1
    adopted = [json.loads(one).get("generations", []) for one in await contents(older)]
    assert [one["id"] for (one,) in filter(None, adopted)] == [str(asked.id)]
    await verified(database)
    older.clock.forward(minutes=10)
    await older.begin()
    assert (await older.batch(SECOND)).status == "active"
    assert await older.rows(
        "SELECT attempt, profile_sha256 IS NULL FROM generations WHERE run_date = %s "
        "ORDER BY attempt",
        SECOND,
    ) == [(1, True), (2, False)]
    await verified(database)


async def is_waiting(conn, kind: str) -> bool:
    cursor = await conn.execute("SELECT FROM pg_locks WHERE locktype = %s AND NOT granted", (kind,))
    return await cursor.fetchone() is not None


async def wait_for_lock(harness, kind: str) -> None:
    """Wait until a transaction waits for a lock of this kind."""
    async with asyncio.timeout(20):
        async with harness.context.pool.connection() as conn:
            while not await is_waiting(conn, kind):
                await asyncio.sleep(0.01)


async def test_a_seal_while_a_question_is_claimed(older, database):
    """
    The claim waits for the seal, and is made again: then the question has a profile and an entry.
    """
    await older.make_batch()
    older.upgrade()
    older.clock.time = new_york(SECOND)
    async with older.context.pool.connection() as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", (Lock.JOURNAL,))
        sealing = asyncio.create_task(sealed(older, database))
        await wait_for_lock(older, "advisory")
        # The seal has locked the tables, and waits for the journal.
        claiming = asyncio.create_task(older.begin())
        await wait_for_lock(older, "relation")
        await conn.execute("SELECT pg_advisory_unlock(%s)", (Lock.JOURNAL,))
        await sealing
        with pytest.raises(TryAgainAt, match="sealed or begun at this moment"):
            await claiming
    assert await older.rows("SELECT id FROM generations WHERE run_date = %s", SECOND) == []
    await older.begin()
    assert (await older.batch(SECOND)).status == "active"
    await verified(database)


async def test_a_seal_while_a_response_is_stored(older, database):
    """
    A response that is being stored when the seal begins is adopted; one that waits for the seal has
    an entry of its own.
    """
    await older.make_batch()
    older.upgrade()
    # The seal holds the tables' locks and waits for the journal; the checkpoint's response waits
    # for the tables.
    async with older.context.pool.connection() as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", (Lock.JOURNAL,))
        sealing = asyncio.create_task(sealed(older, database))
        await wait_for_lock(older, "advisory")
        taking = asyncio.create_task(take(older, 1))
        await wait_for_lock(older, "relation")
        await conn.execute("SELECT pg_advisory_unlock(%s)", (Lock.JOURNAL,))
        await asyncio.gather(sealing, taking)
    kinds = await older.kinds()
    assert kinds[kinds.index("SETTINGS") :] == ["SETTINGS", *["READINGS"] * 4, "CHECKPOINT"]
    await verified(database)


@pytest.mark.parametrize(
    "statement",
    [
        "LOCK TABLE closes IN ROW EXCLUSIVE MODE",
        "LOCK TABLE splits IN SHARE UPDATE EXCLUSIVE MODE",
        "LOCK TABLE generations IN ACCESS EXCLUSIVE MODE",
        "DELETE FROM splits WHERE false",
        f"SELECT pg_advisory_xact_lock({Lock.JOURNAL:d})",
    ],
)
async def test_a_lock_that_is_not_released(older, database, monkeypatch, statement):
    """The seal gives up, so that no reading waits behind it; later it succeeds."""
    assert "'10s'" in seal._SET_LOCK_TIMEOUT
    monkeypatch.setattr(seal, "_SET_LOCK_TIMEOUT", "SET LOCAL lock_timeout = '200ms'")
    await older.make_batch()
    async with older.context.pool.connection() as conn, conn.transaction():
        await conn.execute(statement)
        with pytest.raises(Refused) as refused:
            await asyncio.wait_for(sealed(older, database), 10)
    (line,) = str(refused.value).splitlines()
    assert line.startswith("Another session held a lock that the seal needs.")
    assert line.endswith("Nothing was sealed: run it again.")
    assert await older.kinds() == ["GENERATION", "BATCH"]
    await sealed(older, database)
    await verified(database)


async def test_a_rehearsal_stays_rehearsed(older, database):
    """Its origin is REHEARSED, and its entries have simulated time."""
    await older.make_batch()
    async with older.context.pool.connection() as conn:
        await conn.execute(CREATE_CLOCK_TABLE)
        await conn.execute("INSERT INTO told.clock VALUES (3600, '2026-10-28T15:00:00Z', NULL)")
    plan = await preview(older, database)
    assert plan.origin is Origin.REHEARSED
    assert await sealed(older, database) == plan
    at = {entry.at.isoformat() for entry in (await older.journal())[2:]}
    assert at == {"2026-10-28T14:00:00+00:00"}


async def test_many_rows_make_many_entries(older, database):
    """An entry adopts at most 500 rows, and together they adopt each row once."""
    await older.make_batch()
    with psycopg.connect(database) as conn:
        conn.execute(
            """
            INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at)
            SELECT gen_random_uuid(), 'KO', date '2026-10-23', 1, n, 'alphavantage X',
                timestamptz '2026-10-26 14:00Z' + n * interval '1 ms'
            FROM generate_series(1, 1200) AS n
            """
        )
    plan = await sealed(older, database)
    adopted = [json.loads(one) for one in await contents(older)]
    counts = [len(one["closes"]) for one in adopted if "adopted" in one]
    assert counts == [500, 500, plan.closes - 1000]
    ids = [close["id"] for one in adopted for close in one.get("closes", [])]
    assert len(ids) == len(set(ids)) == len(await older.rows("SELECT id FROM closes"))
