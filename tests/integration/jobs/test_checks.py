"""
Yearly checks: written once when they are due, from the entries of the journal before.

The kind: a record that reaches the time of a check. Members tried: a record that is sealed and one
that is not, the hour before, two processes, two checks at once after an outage, a pick without a
close at its result, a late check, and a record whose check was left out.
"""

import asyncio
import json
from collections.abc import Mapping
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from api_records import engine_on
from job_context import BASELINE, CHOSEN, MONDAY, JobHarness, logged, new_york, run_until_done
from job_context import clock as clock
from job_context import harness as harness
from sealing import unseal

from app.domain.calendar import due_at
from app.domain.check_contents import RULES_SHA256
from app.errors import Discrepancy
from app.ops.verify import open_database as record_at
from app.ops.verify import verify
from jobs import checks, corrections, daily, rates, reconcile, weekly

WEEK = timedelta(weeks=1)
ON = MONDAY + 52 * WEEK
HELD = ON + timedelta(days=21)


async def a_fortnight(
    harness: JobHarness, restated: Mapping[tuple[str, date], str] = MappingProxyType({})
) -> None:
    """
    Make a batch and its checkpoints, and read the rates of its first Sunday.

    From day 3 on, the provider returns the restated closes.
    """
    harness.world.rates = [(MONDAY - timedelta(days=24), "3.65")]
    batch = await harness.make_batch()
    for day in range(1, 15):
        if day == 3:
            harness.world.closes |= restated
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))
    harness.clock.time = new_york(MONDAY + timedelta(days=13), 11)
    await rates.refresh(harness.context, MONDAY + timedelta(days=13))


async def hold(harness: JobHarness, hour: int = 9, day=HELD) -> int:
    """Hold what is due at a time, as a round of the reconciliation does."""
    harness.clock.time = new_york(day, hour)
    return await hold_now(harness)


async def hold_now(harness: JobHarness) -> int:
    async with harness.context.pool.connection() as conn, conn.transaction():
        await weekly.record_missed_mondays(conn, harness.context)
        return await checks.hold_due(conn, harness.context)


async def rewrite(harness: JobHarness, change: str) -> None:
    """Change entries of the journal, as an owner of the database can."""
    async with harness.context.pool.connection() as conn, conn.transaction():
        await conn.execute("ALTER TABLE journal DISABLE TRIGGER USER")
        await conn.execute(change.encode())
        await conn.execute("ALTER TABLE journal ENABLE TRIGGER USER")


async def contents(harness: JobHarness, kind: str) -> list[dict]:
    return [json.loads(one.content) for one in await harness.journal() if one.kind == kind]


async def check_record(database: str) -> None:
    async with record_at(database) as source:
        await verify(source, heads=[], report_progress=lambda *_: None)


async def test_a_check_is_held_once(harness, database):
    await a_fortnight(harness)
    assert await hold(harness, 8) == 0
    (rules,) = await contents(harness, "RULES")
    assert rules["rules"] == {"version": "1", "sha256": RULES_SHA256, "from_check": "1"}
    before = (await harness.journal())[-1]
    assert await hold(harness) == 1
    assert await hold(harness, 10) == 0
    (entry,) = await contents(harness, "CHECK")
    assert entry["check"]["head"] == {"seq": str(before.seq), "hash": before.hash}
    assert [rate["value_pct"] for rate in entry["rates"]] == ["3.65"]
    (series,) = entry["check"].pop("series")
    assert entry["check"] == {
        "number": "1",
        "on": str(ON),
        "late": "false",
        "rules": "1",
        "head": {"seq": str(before.seq), "hash": before.hash},
        "risk": "0.025000000",
        "order": [],
        "findings": [],
    }
    assert series["name"] == "main"
    assert (series["weeks"], series["imputed"]) == ("2", "0")
    # Monday's batch has picks, and the other 51 Mondays of the year have none.
    assert (series["tested"], series["reason"]) == ("false", "FAILED_MONDAYS")
    assert series["failed_mondays"] == "51"
    await check_record(database)


async def test_the_api_shows_what_the_entry_says(harness):
    """Before its entry is written, the check waits; a correction afterwards does not change it."""
    engine = engine_on(harness.context.pool)
    query = """{ trackRecord { batchResults { alphaPct { mean } } verdict { words nextLook looks {
        number on seq weeks batches failedMondays untestedReason } } } }"""

    async def read() -> dict[str, Any]:
        return json.loads((await engine.execute(query)).body)["data"]["trackRecord"]

    await a_fortnight(harness, {("MSFT", BASELINE): "3.2000"})
    await hold(harness, 8)
    before = await read()
    assert (before["verdict"]["looks"], before["verdict"]["nextLook"]) == ([], str(ON))
    assert f"The yearly check of {ON} waits until {HELD} for figures" in before["verdict"]["words"]
    await hold(harness)
    held = await read()
    entry = (await harness.journal())[-1]
    assert held["verdict"]["looks"] == [{
        "number": 1, "on": str(ON), "seq": str(entry.seq), "weeks": 2, "batches": 1,
        "failedMondays": 51, "untestedReason": "FAILED_MONDAYS",
    }]  # fmt: skip
    assert held["verdict"]["words"].endswith(f"The next yearly check is on {ON + 52 * WEEK}.")
    assert await corrections.adopt(
        harness.context.pool,
        now=harness.context.now(),
        run_date=MONDAY,
        day=0,
        ticker="MSFT",
        reason="The exchange published a corrected close.",
        in_force=None,
    )
    corrected = await read()
    assert corrected["batchResults"] != held["batchResults"]
    assert corrected["verdict"] == held["verdict"]


async def test_two_processes_hold_one_check(harness, database):
    await a_fortnight(harness)
    harness.clock.time = new_york(HELD)
    await asyncio.gather(*(reconcile.run_round(harness.context) for _ in range(3)))
    assert len(await contents(harness, "CHECK")) == 1
    assert len(await contents(harness, "RULES")) == 1
    await check_record(database)


async def test_checks_after_an_outage(harness, database):
    """Two checks are due, and both are held at once; failed Mondays are counted."""
    await a_fortnight(harness)
    await hold(harness, day=MONDAY + timedelta(days=15))
    assert await hold(harness, day=HELD + 52 * WEEK) == 2
    first, second = await contents(harness, "CHECK")
    assert (first["check"]["number"], second["check"]["number"]) == ("1", "2")
    assert first["check"]["late"] == second["check"]["late"] == "false"
    (series,) = second["check"]["series"]
    assert (series["failed_mondays"], series["reason"]) == ("52", "FAILED_MONDAYS")
    await check_record(database)


@pytest.mark.long
async def test_a_check_that_was_due_before_its_rules_is_late(harness, database):
    await a_fortnight(harness)
    assert await hold(harness, day=HELD + WEEK) == 1
    (entry,) = await contents(harness, "CHECK")
    assert entry["check"]["late"] == "true"
    await check_record(database)


@pytest.mark.long
async def test_a_record_that_is_not_sealed(harness, database):
    await a_fortnight(harness)
    unseal(database)
    assert await hold(harness, day=HELD) == 1
    (entry,) = await contents(harness, "CHECK")
    assert len(entry["rates"]) == 1
    await check_record(database)


@pytest.mark.parametrize("missing", ["result", "middle"])
@pytest.mark.sampled(1)
async def test_only_the_pick_without_a_close_has_a_gap(harness, database, missing):
    """The checkpoint is skipped, but the other two picks have readings of its session."""
    session = MONDAY + timedelta(days=11 if missing == "result" else 4)
    first = CHOSEN[0]
    harness.world.absent.add((first, session))
    for ticker, price in zip(CHOSEN[1:], ("84.0000", "7.7000"), strict=True):
        harness.world.closes[ticker, session] = price
    await a_fortnight(harness)
    await hold(harness)
    (entry,) = await contents(harness, "CHECK")
    (series,) = entry["check"]["series"]
    assert (series["weeks"], series["imputed"]) == ("2", "2")
    # The second pick is a BUY of 80 to 84 (+5 %), the third a SELL of 7 to 7.7 (-10 %). The lowest
    # and the highest weekly alpha are those of these two picks. The gap of the first pick gets -10
    # for better in the week that ends at the session, and 5 for worse.
    if missing == "result":
        # Week 1 is 0. Week 2: (-10 + 5 - 10) / 3 = -5 and (5 + 5 - 10) / 3 = 0. Mean: half of it.
        assert series["better"]["mean_pct"] == "-2.500000"
        assert series["worse"]["mean_pct"] == "0.000000"
    else:
        # The second week of each pick undoes its first: the highest weekly alpha is 10, of the
        # SELL that falls back. So all weeks together have a mean of 0 on both sides.
        assert series["better"]["mean_pct"] == series["worse"]["mean_pct"] == "0.000000"
    await check_record(database)


async def test_a_damaged_journal_is_read_once_an_hour(harness, database):
    """While an entry is damaged, no check is held; an hour after its repair, the check is held."""
    await a_fortnight(harness)
    damage = "UPDATE journal SET seq = -3 WHERE seq = 3"
    repair = "UPDATE journal SET seq = 3 WHERE seq = -3"
    await rewrite(harness, damage)
    with logged("WARNING", harness.clock) as lines:
        assert await hold(harness, 9) == 0
        harness.clock.forward(minutes=30)
        assert await hold_now(harness) == 0
    (line,) = [line for line in lines if line["event"].startswith("yearly check not held")]
    assert "Entry 3 of the journal is not there: after entry 2 comes 4." in line["reason"]
    await rewrite(harness, repair)
    harness.clock.forward(minutes=29)
    assert await hold_now(harness) == 0
    harness.clock.forward(minutes=1)
    assert await hold_now(harness) == 1
    await check_record(database)


async def test_a_check_that_was_left_out_is_missing(harness, database):
    await a_fortnight(harness)
    await hold(harness, day=MONDAY + timedelta(days=15))
    for week in (53, 56, 57, 58, 59):
        harness.clock.time = new_york(MONDAY + week * WEEK, 10)
        async with harness.context.pool.connection() as conn, conn.transaction():
            await weekly.record_missed_mondays(conn, harness.context)
    with pytest.raises(Discrepancy, match="rule: every-check"):
        await check_record(database)
