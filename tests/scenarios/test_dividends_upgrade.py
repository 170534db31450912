"""
A record of version 0.4.0 goes on with this version, which adds total returns, and the way back.

The database of version 0.4.0 has no object of migration 0024: no readings of dividends, and no
column of a total return. Its journal has neither of them.
"""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import aclosing
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from api_records import FACTS
from clocks import HandSetClock
from commands import run
from independent_verifier.verifier import verify as verify_from_outside
from job_context import (
    MONDAY,
    JobHarness,
    clock,
    make_dividend,
    new_york,
    open_harness,
    run_until_done,
)
from paid_dividends import add_total_returns, refresh_dividends
from record_server import check_record, copy_of, record_server, silent, unguarded, without_triggers
from several_series import take_checkpoints

from api.engine import Engine
from api.schema import schema
from app.database import migrations
from app.database.queries import snapshot_fetcher
from app.domain.journal import canonical_json
from app.domain.model import BatchStatus
from app.errors import Discrepancy
from app.ops.verify import open_api, open_database, verify
from app.web.feeds.export import ExportRange, read_parts
from jobs import late_splits

__all__ = ["clock"]

# The first batch is completed at the upgrade, the second one is in its second week.
SECOND, THIRD = MONDAY + timedelta(weeks=1), MONDAY + timedelta(weeks=2)
UPGRADE = THIRD + timedelta(days=2)
# The first Sunday after the upgrade: day 20 of the first batch, day 13 of the second one.
FIRST_SUNDAY = SECOND + timedelta(days=13)
SECOND_SUNDAY = FIRST_SUNDAY + timedelta(weeks=1)
# The newest migration of version 0.4.0.
BEFORE = 23

PAID = date(2026, 11, 5)
SPLIT = date(2026, 11, 4)

DIVIDENDS = "SELECT ticker, ex_date, amount, source, read_at FROM dividends ORDER BY 1, 2, 5"
JOURNAL = "SELECT seq, content, hash FROM journal ORDER BY seq"
# Of each day with a total return, or of all days.
TOTALS = """
SELECT
    run_date, day, ticker, benchmark_dividends, benchmark_total_return_pct,
    benchmark_spin_off_counted_once, dividends, total_return_pct, vs_benchmark_total_pct,
    spin_off_counted_once
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
JOIN batches ON batches.id = checkpoints.batch_id
WHERE num_nonnulls(benchmark_dividends, benchmark_total_return_pct, benchmark_spin_off_counted_once,
    dividends, total_return_pct, vs_benchmark_total_pct, spin_off_counted_once) > 0
ORDER BY run_date, day, picks.position
"""
# Deletes what the database of version 0.4.0 does not have. What was there can be put back.
WITHOUT_TOTALS = """
CREATE SCHEMA kept;
CREATE TABLE kept.dividends AS SELECT * FROM dividends;
CREATE TABLE kept.checkpoints AS SELECT * FROM checkpoints;
CREATE TABLE kept.metrics AS SELECT * FROM pick_checkpoint_metrics;
UPDATE checkpoints SET benchmark_dividends = NULL, benchmark_total_return_pct = NULL,
    benchmark_spin_off_counted_once = NULL;
UPDATE pick_checkpoint_metrics SET dividends = NULL, total_return_pct = NULL,
    vs_benchmark_total_pct = NULL, spin_off_counted_once = NULL;
DELETE FROM dividends
"""
WITH_TOTALS = """
INSERT INTO dividends SELECT * FROM kept.dividends;
UPDATE checkpoints SET benchmark_dividends = kept.benchmark_dividends,
    benchmark_total_return_pct = kept.benchmark_total_return_pct,
    benchmark_spin_off_counted_once = kept.benchmark_spin_off_counted_once
FROM kept.checkpoints AS kept WHERE kept.id = checkpoints.id;
UPDATE pick_checkpoint_metrics SET dividends = kept.dividends,
    total_return_pct = kept.total_return_pct, vs_benchmark_total_pct = kept.vs_benchmark_total_pct,
    spin_off_counted_once = kept.spin_off_counted_once
FROM kept.metrics AS kept WHERE kept.id = pick_checkpoint_metrics.id;
DROP SCHEMA kept CASCADE
"""
OF_THIS_VERSION = ("read_dividends", "add_total_returns")


def rows(database: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(database) as conn:
        return conn.execute(query.encode()).fetchall()


async def check(database: str) -> None:
    """Verify the record from its database, from its API, and with the independent verifier."""
    await check_record(database)
    async with record_server(database) as url, open_api(url, asyncio.sleep) as source:
        ours = await verify(source, [], silent)
        theirs = await asyncio.to_thread(verify_from_outside, url, (ours.seq, ours.hash))
    assert (theirs.entries, theirs.links) == (ours.seq, 0)


async def live_with_0_4_0(database: str) -> None:
    """Make three Mondays up to the Wednesday of the upgrade, as version 0.4.0 leaves them."""
    clock = HandSetClock(new_york(MONDAY))
    await migrations.migrate(database, clock.now())
    async with open_harness(database, clock) as harness:
        await harness.make_batch(MONDAY)
        await take_checkpoints(harness, SECOND)
        await harness.make_batch(SECOND, "KO", "AAPL", "BRK.B")
        await take_checkpoints(harness, THIRD)
        await harness.make_batch(THIRD, "NVDA", "MSFT", "KO")
        await take_checkpoints(harness, UPGRADE)
        # Version 0.4.0 does not defer these jobs.
        await harness.rows(
            "DELETE FROM procrastinate_jobs WHERE task_name = ANY(%s)", list(OF_THIS_VERSION)
        )
    await migrations.migrate(database, clock.now(), BEFORE)
    # What this version has written has no trace of total returns.
    for _, content, _ in rows(database, JOURNAL):
        assert "dividend" not in content.lower()
        assert "total_return" not in content


def with_dividends(harness: JobHarness) -> None:
    """Let the provider list dividends: of the benchmark, and of two picks."""
    harness.world.dividends = {
        "SPY": [make_dividend(PAID, "1.50"), make_dividend(date(2026, 8, 6), "1.40")],
        "MSFT": [make_dividend(PAID, "0.03")],
        "KO": [
            make_dividend(PAID, "0.60"),
            make_dividend(FIRST_SUNDAY + timedelta(days=2), "0.60"),
        ],
    }


async def live_on(database: str) -> None:
    """Upgrade a record of version 0.4.0, and run it until the second batch has total returns."""
    clock = HandSetClock(new_york(UPGRADE, 12))
    await migrations.migrate(database, clock.now())
    async with open_harness(database, clock) as harness:
        with_dividends(harness)
        await take_checkpoints(harness, FIRST_SUNDAY)
        await refresh_dividends(harness, FIRST_SUNDAY)
        await take_checkpoints(harness, FIRST_SUNDAY + timedelta(days=1))
        await harness.make_batch(FIRST_SUNDAY + timedelta(days=1))
        await add_total_returns(harness)


@pytest.fixture
def of_0_4_0(made_once: Callable[..., str]) -> str:
    """The address of a record that version 0.4.0 leaves, which a test may change."""
    return made_once("of_0_4_0", lambda address: asyncio.run(live_with_0_4_0(address)))


@pytest.fixture(scope="session")
def with_totals(made_once: Callable[..., str]) -> str:
    """The address of that record after the upgrade, with total returns. Tests change copies."""

    async def live(address: str) -> None:
        await live_with_0_4_0(address)
        await live_on(address)

    return made_once("of_0_4_0_with_totals", lambda address: asyncio.run(live(address)))


@pytest.fixture
def copy(with_totals, create) -> str:
    """A copy of the record with total returns, which a test may change."""
    return copy_of(with_totals, create)


FIGURES = """{ batches(first: 10) { nodes { runDate
    checkpoints { benchmarkDividends benchmarkTotalReturnPct benchmarkSpinOffCountedOnce }
    picks { metrics { dividends totalReturnPct vsBenchmarkTotalPct totalAlphaPct
        spinOffCountedOnce } } } } }"""


def values_of(data: Any) -> set[object]:
    """Return all values in an answer, except the dates of the batches."""
    if isinstance(data, dict):
        return set().union(*(values_of(data[name]) for name in data if name != "runDate"))
    if isinstance(data, list):
        return set().union(*map(values_of, data))
    return {data}


async def check_nothing_is_known(database: str, harness: JobHarness) -> None:
    """Check that every total return is null, in the database, in the API and in the export."""
    assert await harness.rows(TOTALS) == []
    async with record_server(database) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/graphql", json={"query": FIGURES})
    assert values_of(response.json()["data"]) == {None}
    async with (
        snapshot_fetcher(harness.context.pool) as fixed,
        aclosing(read_parts(Engine(schema, fixed, FACTS), ExportRange())) as reading,
    ):
        exported = [row async for part in reading for row in part.rows]
    assert len(exported) > 60
    of_total_returns = re.compile("dividend|total_|spin_off")
    figures = [
        getattr(row, name)
        for row in exported
        for name in row.__struct_fields__
        if of_total_returns.search(name)
    ]
    assert set(figures) <= {None}


async def test_a_running_fortnight_goes_on(of_0_4_0):
    """
    The chain is unbroken; every total return is null until the first Sunday. On that Sunday the
    completed batch gets its total returns, and the running one when it is completed.
    """
    database = of_0_4_0
    before = rows(database, JOURNAL)
    clock = HandSetClock(new_york(UPGRADE, 12))
    assert "0024 dividends: applied" in await migrations.migrate(database, clock.now())
    async with open_harness(database, clock) as harness:
        with_dividends(harness)
        await check_nothing_is_known(database, harness)
        await check_record(database)
        await take_checkpoints(harness, FIRST_SUNDAY)
        assert await harness.rows(TOTALS) == []

        await refresh_dividends(harness, FIRST_SUNDAY)
        assert await harness.rows(TOTALS) == [
            (MONDAY, 12, ticker, Decimal("1.50"), Decimal("0.25"), False, *of_pick, False)
            for ticker, of_pick in (
                ("MSFT", (Decimal("0.03"), Decimal(1), Decimal("0.75"))),
                ("AAPL", (Decimal(0), Decimal(0), Decimal("-0.25"))),
                ("NVDA", (Decimal(0), Decimal(0), Decimal("-0.25"))),
            )
        ]
        batch = await harness.batch(SECOND)
        assert batch.status is BatchStatus.ACTIVE

        await take_checkpoints(harness, FIRST_SUNDAY + timedelta(days=1))
        await add_total_returns(harness)
        # The second dividend of KO is not received: its ex-date is after the result.
        assert [row[2:5] + row[6:] for row in await harness.rows(TOTALS) if row[0] == SECOND] == [
            (ticker, Decimal("1.50"), Decimal("0.25"), *of_pick, False)
            for ticker, of_pick in (
                ("KO", (Decimal("0.60"), Decimal(1), Decimal("0.75"))),
                ("AAPL", (Decimal(0), Decimal(0), Decimal("-0.25"))),
                ("BRK.B", (Decimal(0), Decimal(0), Decimal("-0.25"))),
            )
        ]
        await harness.make_batch(FIRST_SUNDAY + timedelta(days=1))
    assert rows(database, JOURNAL)[: len(before)] == before
    await check(database)


async def test_the_way_back_and_up_again(copy, clock):
    """Dividends, total returns and the journal are as before, after one way back and another."""
    queries = (DIVIDENDS, TOTALS, JOURNAL)
    before = [rows(copy, query) for query in queries]
    assert [len(found) for found in before[:2]] == [3, 6]
    for _ in range(2):
        taken_back = await migrations.migrate(copy, clock.now(), BEFORE)
        assert taken_back[-1] == "0024 dividends: taken back"
        left = rows(
            copy,
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND (table_name || column_name) ~ 'dividend|total|spin'",
        )
        assert left == []
        await migrations.migrate(copy, clock.now())
        assert [rows(copy, query) for query in queries] == before
    await check(copy)


def without_guards(database: str, statements: str) -> None:
    """Run statements, separated by semicolons, without triggers."""
    with without_triggers(database) as conn:
        for statement in statements.split(";"):
            conn.execute(statement.encode())


async def correct_with_0_4_0(database: str) -> None:
    """Let version 0.4.0 correct the figures of the first batch: a split of MSFT is listed late."""
    async with open_harness(database, HandSetClock(new_york(SECOND_SUNDAY))) as harness:
        harness.world.splits["MSFT"] = [(SPLIT, "1.0500")]
        await take_checkpoints(harness, SECOND_SUNDAY)
        harness.clock.time = new_york(SECOND_SUNDAY, 11)
        first = await harness.batch(MONDAY)
        await run_until_done(harness, lambda: late_splits.refresh(harness.context, first.id, 27))


@pytest.mark.parametrize(
    "is_taken_back",
    [
        pytest.param(True, id="schema"),
        pytest.param(False, id="code only", marks=pytest.mark.long),
    ],
)
async def test_a_correction_of_the_older_version(copy, is_taken_back):
    """
    Version 0.4.0 mentions a row without its total return. The row keeps it, and it is corrected on
    the next Sunday, also if only the code was taken back.
    """
    totals, before = rows(copy, TOTALS), len(rows(copy, JOURNAL))
    now = new_york(SECOND_SUNDAY)
    without_guards(copy, WITHOUT_TOTALS)
    await correct_with_0_4_0(copy)
    entries = [json.loads(content) for _, content, _ in rows(copy, JOURNAL)[before:]]
    corrections = [entry for entry in entries if entry["kind"] == "CORRECTION"]
    assert any(entry["checkpoint"]["day"] == "12" for entry in corrections)
    for entry in corrections:
        assert "dividends" not in entry
        assert "benchmark_total_return_pct" not in entry["checkpoint"]
        assert all("total_return_pct" not in metric for metric in entry["metrics"])

    if is_taken_back:
        without_guards(copy, "DROP SCHEMA kept CASCADE")
        await migrations.migrate(copy, now, BEFORE)
        await migrations.migrate(copy, now)
    else:
        # The version that does not know these columns has left them as they were.
        without_guards(copy, WITH_TOTALS)
    assert rows(copy, TOTALS) == totals
    await check_record(copy)

    async with open_harness(copy, HandSetClock(now + timedelta(hours=4))) as harness:
        with_dividends(harness)
        await refresh_dividends(harness, SECOND_SUNDAY)
        corrected = {row[2]: row[6:9] for row in await harness.rows(TOTALS) if row[0] == MONDAY}
        # (3 * 1.05 + 0.03 * 1.05 - 3) / 3
        assert corrected == {
            "MSFT": (Decimal("0.0315"), Decimal("6.05"), Decimal("5.80")),
            "AAPL": (Decimal(0), Decimal(0), Decimal("-0.25")),
            "NVDA": (Decimal(0), Decimal(0), Decimal("-0.25")),
        }
    await check(copy)


def test_unchanged_without_dividends(of_0_4_0):
    """A record without total returns is the same after the way there and back."""
    before = rows(of_0_4_0, JOURNAL)
    for down_to in (None, BEFORE, None):
        asyncio.run(migrations.migrate(of_0_4_0, new_york(UPGRADE), down_to))
    assert (rows(of_0_4_0, TOTALS), rows(of_0_4_0, DIVIDENDS)) == ([], [])
    assert rows(of_0_4_0, JOURNAL) == before


# Contents that have the form of an entry up to a member, and texts that are no JSON object.
DAMAGED = {
    "empty": "",
    "null": "null",
    "a list": "[]",
    "cut off": '{"dividends":[{"ticker":"KO","benchmark_total_return_pct":"1',
    "deep": '{"dividends":[{"total_return_pct":' + "[" * 20_000,
    "no rows": '{"dividends":[{}],"checkpoint":{},"metrics":[{}],"total_return_pct":1}',
    "no list": '{"x":{"dividends":[{}]},"dividends":{},"metrics":{},"total_return_pct":1}',
    "a number": '{"x":{"dividends":[{}]},"checkpoint":1,"metrics":[1],"total_return_pct":1}',
    "texts": '{"dividends":[{"ticker":1,"ex_date":"soon","amount":"much"}]}',
    "a negative amount": (
        '{"dividends":[{"ticker":"KO","ex_date":"2026-11-05","amount":"-1","source":"x",'
        '"read_at":"2026-11-15T17:00:00Z"}]}'
    ),
    "a null character": '{"dividends":[{"ticker":"\\u0000","total_return_pct":"1"}]}',
    "no id": '{"metrics":[{"id":"x","total_return_pct":"1"}]}',
}


@pytest.mark.parametrize("kind", ["READINGS", "EXTENSION"])
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.sampled(2)
async def test_a_damaged_entry_does_not_stop_the_migration(copy, clock, kind, content):
    """What other entries mention is restored, and `verify` names the damaged one as before."""
    with unguarded(copy) as conn:
        (seq,) = conn.execute(
            "SELECT max(seq) FROM journal WHERE kind = %s AND content LIKE '%%\"dividends\":[{%%'",
            [kind],
        ).fetchone()
        conn.execute("UPDATE journal SET content = %s WHERE seq = %s", (content, seq))
    before, totals = rows(copy, DIVIDENDS), rows(copy, TOTALS)
    await migrations.migrate(copy, clock.now(), BEFORE)
    await migrations.migrate(copy, clock.now())
    # An EXTENSION entry mentions each counted dividend again.
    assert rows(copy, DIVIDENDS) == before
    # The last EXTENSION entry has the three total returns of the second batch.
    assert set(rows(copy, TOTALS)) <= set(totals)
    assert len(totals) - len(rows(copy, TOTALS)) == 3 * (kind == "EXTENSION")
    async with open_database(copy) as source:
        with pytest.raises(Discrepancy, match=f"ntry {seq} of the journal"):
            await verify(source, [], silent)


@pytest.mark.parametrize(
    "changes",
    [
        {"benchmark_total_return_pct": "NaN"},
        {"benchmark_total_return_pct": "much"},
        {"benchmark_dividends": "-1"},
        {"benchmark_dividends": None},
        {"benchmark_spin_off_counted_once": "perhaps"},
    ],
    ids=str,
)
async def test_a_damaged_total_does_not_stop_the_migration(copy, clock, changes):
    """A row whose values the table refuses gets none, although the entry has its usual form."""
    with unguarded(copy) as conn:
        seq, content = conn.execute(
            "SELECT seq, content FROM journal WHERE kind = 'EXTENSION' ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        entry = json.loads(content)
        entry["checkpoint"] |= changes
        damaged = canonical_json(entry)
        conn.execute("UPDATE journal SET content = %s WHERE seq = %s", (damaged, seq))
    await migrations.migrate(copy, clock.now(), BEFORE)
    await migrations.migrate(copy, clock.now())
    assert {run_date for run_date, *_ in rows(copy, TOTALS)} == {MONDAY}
    async with open_database(copy) as source:
        with pytest.raises(Discrepancy, match=f"ntry {seq} of the journal"):
            await verify(source, [], silent)


@pytest.mark.long
@pytest.mark.parametrize("is_older", [False, True], ids=["of this version", "of 0.4.0"])
def test_a_backup_has_the_total_returns(copy, empty, clock, tmp_path, is_older):
    """The restored record is the same, also if the older schema had no total returns."""
    queries = (DIVIDENDS, TOTALS, JOURNAL)
    before = [rows(copy, query) for query in queries]
    if is_older:
        asyncio.run(migrations.migrate(copy, clock.now(), BEFORE))
    for command, database in (("backup", copy), ("restore", empty)):
        done = run(command, "record.zip", cwd=tmp_path, DATABASE_URL=database)
        assert done.returncode == 0, done.stderr
    assert [rows(empty, query) for query in queries] == before
