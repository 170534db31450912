"""
Migration 0025: a record with a running fortnight goes on, and the rows of the table come back from
the journal.

The kind: an entry about a further benchmark that the migration cannot use. Members tried: no JSON,
another form, values of another type, values that the table refuses, a row of another batch.
"""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from clocks import HandSetClock
from further_fortnights import harness_with, live
from job_context import MONDAY, new_york
from record_server import check_record, copy_of, silent, unguarded

from app.database import migrations
from app.domain.journal import canonical_json
from app.errors import Discrepancy
from app.ops.verify import open_database, verify

BEFORE = 24
WEDNESDAY = MONDAY + timedelta(days=9)
AT = new_york(MONDAY + timedelta(days=15))
ROWS = "SELECT * FROM further_benchmarks ORDER BY batch_id, position"
JOURNAL = "SELECT seq, content, hash FROM journal ORDER BY seq"
BOTH = {"BENCHMARKS": "SPY,RSP"}


def rows(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as conn:
        return conn.execute(query.encode()).fetchall()


async def live_a_fortnight(database: str) -> None:
    """Live through a fortnight; in its second week, the schema is upgraded over the migration."""
    clock = HandSetClock(new_york(MONDAY))
    await migrations.migrate(database, clock.now())
    async with harness_with(database, clock, **BOTH) as harness:
        await harness.make_batch()
        await live(harness, until=WEDNESDAY)
    for down_to in (BEFORE, None):
        await migrations.migrate(database, clock.now(), down_to)
    async with harness_with(database, clock, **BOTH) as harness:
        await live(harness)


@pytest.fixture(scope="session")
def finished(made_once: Callable[..., str]) -> str:
    return made_once("further_upgrade", lambda address: asyncio.run(live_a_fortnight(address)))


@pytest.fixture
def copy(finished, create) -> str:
    """A copy of the record, which a test may change."""
    return copy_of(finished, create)


async def test_a_running_fortnight_goes_on(copy):
    """The batch has its further benchmark at the end, and after one way back and another."""
    before, chain = rows(copy, ROWS), rows(copy, JOURNAL)
    assert len(before) == 1
    await check_record(copy)
    for _ in range(2):
        taken_back = await migrations.migrate(copy, AT, BEFORE)
        assert taken_back == ["0025 further_benchmarks: taken back"]
        await migrations.migrate(copy, AT)
        assert (rows(copy, ROWS), rows(copy, JOURNAL)) == (before, chain)
    await check_record(copy)


DAMAGED = {
    "no JSON": '{"further_benchmark":{"id":',
    "deep": '{"further_benchmark":{"id":' + "[" * 20_000,
    "a list": '[{"further_benchmark":{"id":"1"}}]',
    "elsewhere": '{"x":{"further_benchmark":{"id":"1"}}}',
    "twice": '{"further_benchmark":{"id":"1"},"further_benchmark":5}',
    "empty": '{"further_benchmark":{}}',
    "texts": '{"further_benchmark":{"id":"x"}}',
    "a null character": '{"further_benchmark":{"id":"\\u0000"}}',
}
CHANGES = {
    "no number": {"further_return_pct": "much"},
    "not finite": {"further_return_pct": "NaN"},
    "negative": {"further_price": "-1"},
    "no price": {"further_price": None},
    "an unknown close": {"further_close_id": "4be0643f-1d98-573b-97cd-ca98a65347dd"},
    "an unknown batch": {"batch_id": "4be0643f-1d98-573b-97cd-ca98a65347dd"},
    "no ticker": {"symbol": "R S P"},
    "the benchmark": {"symbol": "SPY"},
    "another day": {"trading_day": "2026-11-01"},
    "too large": {"position": "99999999999"},
}


@pytest.mark.parametrize("damage", [*DAMAGED, *CHANGES])
@pytest.mark.sampled(4)
async def test_a_damaged_entry_does_not_stop_the_migration(copy, damage):
    """The row is left out, and `verify` names the entry."""
    with unguarded(copy) as conn:
        seq, content = conn.execute(
            "SELECT seq, content FROM journal WHERE kind = 'EXTENSION' ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        entry = json.loads(content)
        assert entry["further_benchmark"]
        entry["further_benchmark"] |= CHANGES.get(damage, {})
        damaged = DAMAGED.get(damage) or canonical_json(entry)
        conn.execute("UPDATE journal SET content = %s WHERE seq = %s", (damaged, seq))
    for down_to in (BEFORE, None):
        await migrations.migrate(copy, AT, down_to)
    assert rows(copy, ROWS) == []
    async with open_database(copy) as source:
        with pytest.raises(Discrepancy, match=f"ntry {seq} of the journal"):
            await verify(source, [], silent)
