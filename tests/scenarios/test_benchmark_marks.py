"""
Moves of the benchmark that no split explains are marked as a pick's are, since this column exists.

The cases are: a fall, a rise, a slow move, a move across a skipped day, one that a split explains,
one whose split arrives late, and one before the column existed. (For restated series of SPY see
tests/scenarios/test_restated_series.py.)
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from api_records import engine_on
from job_context import CHOSEN, MONDAY, JobHarness, new_york, run_until_done
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from sealing import unseal

from app.database import migrations
from app.database.pools import transaction
from app.domain import calendar, measurement, returns
from app.domain.calendar import due_at
from app.domain.model import Batch, Checkpoint, CheckpointStatus, PickMetric, Split
from app.errors import Discrepancy
from app.ops.verify import open_database as record_at
from app.ops.verify import verify
from app.store import batches, checkpoints, corrections, opens, share_histories, splits
from app.store.checkpoints import RelatedChanges
from jobs import daily, weekly
from jobs.prices import fetch_closes

MARKS = "SELECT day, benchmark_unusual_move FROM checkpoints WHERE status = 'computed' ORDER BY day"


def session_of(day: int) -> date:
    """Return the session whose closes a checkpoint uses."""
    return MONDAY + timedelta(days=day - 1)


async def mornings(harness: JobHarness, batch: Batch, *days: int) -> None:
    """Take these checkpoints as the queue would."""
    for day in days:
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))


def trades(harness: JobHarness, prices: Sequence[str]) -> None:
    """Set the closes of SPY from Monday on; the last price continues."""
    for number in range(20):
        harness.world.closes["SPY", MONDAY + timedelta(days=number)] = prices[
            min(number, len(prices) - 1)
        ]


CASES = [
    pytest.param(["606", "540", "545"], [], [False, True, True], id="a fall of a tenth and more"),
    pytest.param(["606", "666.6", "660"], [], [False, True, True], id="a rise of a tenth"),
    pytest.param(["606", "666.5", "660"], [], [False, False, False], id="almost a tenth"),
    pytest.param(["630", "661", "694"], [], [False, False, False], id="a slow rise"),
    pytest.param(
        ["606", "303", "304"],
        [(session_of(2), "2.0000")],
        [False, False, False],
        id="a split that is listed",
    ),
    pytest.param(["606", "303", "304"], [], [False, True, True], id="one that is not"),
]


@pytest.mark.parametrize(("prices", "listed", "marks"), CASES)
async def test_marks(harness, prices, listed, marks):
    """A benchmark's mark has the same rule as a pick's mark; the baseline has none."""
    trades(harness, prices)
    harness.world.splits["SPY"] = listed
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2, 3)
    assert await harness.rows(MARKS) == [(0, None), *enumerate(marks, 1)]
    assert await harness.rows("SELECT DISTINCT unusual_move FROM pick_checkpoint_metrics") == [
        (False,)
    ]


async def test_what_the_api_says(harness):
    """The field is null on day 0 and on skipped days."""
    trades(harness, ["606", "540"])
    harness.world.absent.add(("SPY", session_of(3)))
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2, 3)
    document = (
        f'{{ batchOn(runDate: "{MONDAY}") {{ checkpoints {{ day benchmarkUnusualMove }} }} }}'
    )
    answer = json.loads((await engine_on(harness.context.pool).execute(document)).body)
    shown = answer["data"]["batchOn"]["checkpoints"]
    assert [one["benchmarkUnusualMove"] for one in shown] == [None, False, True, None]


async def as_before(harness: JobHarness, batch: Batch, day: int) -> None:
    """
    Store a checkpoint as the previous version did: the same figures, without a mark of the
    benchmark.
    """
    harness.clock.time = due_at(batch.run_date, day)
    session = calendar.checkpoint_date(batch.run_date, day - 1)
    number = 10_000 * (batch.run_date - MONDAY).days + day
    closes = await fetch_closes(harness.context, [batch.benchmark_symbol, *CHOSEN], session)
    benchmark = closes[batch.benchmark_symbol]
    priced = Checkpoint(
        id=an_id(number),
        batch_id=batch.id,
        day=day,
        checkpoint_date=calendar.checkpoint_date(batch.run_date, day),
        trading_day=session,
        status=CheckpointStatus.COMPUTED,
        taken_at=harness.context.now(),
        benchmark_price=benchmark.close,
        benchmark_close_id=benchmark.id,
    )
    async with transaction(harness.context.pool) as conn:
        picks = await batches.list_picks(conn, batch.id)
        picks_with_open, entries = await opens.find_picks_with_open(
            conn=conn, calendar=harness.context.calendar, batch=batch, picks=picks
        )
        picks = [picks_with_open.get(pick.id, pick) for pick in picks]
        of_picks = await share_histories.for_picks(conn, batch, picks)
        course = (await share_histories.for_benchmark(conn, batch)).with_used(benchmark)
        checkpoint = measurement.measure_benchmark(batch, priced, course)
        metrics = [
            PickMetric(
                id=an_id(100 * number + pick.position),
                checkpoint_id=checkpoint.id,
                pick_id=pick.id,
                current_price=closes[pick.ticker].close,
                close_id=closes[pick.ticker].id,
                **measurement.measure_pick(
                    batch=batch,
                    checkpoint=checkpoint,
                    pick=pick,
                    price=closes[pick.ticker].close,
                    history=of_picks[pick.id].with_used(closes[pick.ticker]),
                ),
            )
            for pick in picks
        ]
        stored = replace(checkpoint, benchmark_unusual_move=None)
        changes = RelatedChanges(
            splits=measurement.counted_splits(batch, checkpoint, [course]),
            picks_with_open=list(picks_with_open.values()),
            completed_metrics=await opens.complete_metrics(
                conn=conn, batch=batch, picks_with_open=picks_with_open, histories=of_picks
            ),
        )
        readings = {one.id: one for one in (*closes.values(), *entries)}
        assert await checkpoints.insert(
            conn=conn,
            checkpoint=stored,
            metrics=metrics,
            readings=list(readings.values()),
            changes=changes,
            in_force=None,
        )


async def correct_as_before(harness: JobHarness, batch: Batch, stood: Checkpoint) -> None:
    """Correct one day for a small split of the benchmark, as the previous version did."""
    now = harness.context.now()
    assert stood.trading_day
    split = Split(
        ticker=batch.benchmark_symbol,
        effective_date=stood.trading_day,
        factor=Decimal("1.0050"),
        source="test",
        read_at=now,
    )
    async with transaction(harness.context.pool) as conn:
        await splits.insert(conn, split)
        course = await share_histories.for_benchmark(conn, batch)
        checkpoint = replace(
            measurement.measure_benchmark(batch, stood, course), benchmark_unusual_move=None
        )
        assert checkpoint.benchmark_return_pct
        rows: list[tuple[measurement.MeasuredRow, measurement.MeasuredRow, str | None]] = [
            (stood, checkpoint, None)
        ]
        tickers = {pick.id: pick.ticker for pick in await batches.list_picks(conn, batch.id)}
        for metric in await checkpoints.list_metrics(conn, stood.id):
            against = returns.DECIMAL_CONTEXT.subtract(
                metric.absolute_return_pct, checkpoint.benchmark_return_pct
            )
            rows.append(
                (metric, replace(metric, vs_benchmark_pct=against), tickers[metric.pick_id])
            )
        to_record = measurement.build_corrections(
            rows=rows, checkpoint=stood, reason="A split.", at=now
        )
        changed = [(before, after) for before, after, _ in rows]
        await corrections.apply(
            conn=conn,
            batch_id=batch.id,
            rows=changed,
            corrections=to_record,
            readings=[],
            splits=[split],
            dividends=[],
            at=now,
            in_force=None,
        )


def an_id(number: int) -> UUID:
    """Return an id by its number."""
    return UUID(int=number)


@pytest.mark.parametrize(
    "prices", [["606", "612", "610"], ["606", "303", "304"]], ids=["nothing to mark", "a split"]
)
async def test_a_fortnight_from_before_the_column(harness, database, prices):
    """
    The first days have no marks, and get none without a reason; the later days have marks. The
    journal agrees with all rows.
    """
    trades(harness, prices)
    batch = await harness.make_batch()
    for day in range(1, 6):
        await as_before(harness, batch, day)
    # Now the database is exactly as the previous version leaves it.
    unseal(database)
    await migrations.migrate(database, harness.context.now(), 11)
    assert (await migrations.migrate(database, harness.context.now()))[
        0
    ] == "0012 benchmark_mark: applied"
    await mornings(harness, batch, *range(6, 13))
    is_split = prices[1] == "303"
    old, new = [(day, None) for day in range(6)], [(day, is_split) for day in range(8, 13)]
    assert await harness.rows(MARKS) == old + new

    harness.world.splits["SPY"] = (
        [(session_of(2), "2.0000")] if is_split else [(session_of(2), "1.0050")]
    )
    await mornings(harness, batch, 13, 14)
    fields = {field for (field,) in await harness.rows("SELECT field FROM corrections")}
    assert "benchmark_split_factor" in fields
    marked = await harness.rows(
        "SELECT day, before, after FROM corrections JOIN checkpoints ON checkpoints.id = "
        "checkpoint_id "
        "WHERE field = 'benchmark_unusual_move' ORDER BY day"
    )
    assert marked == ([(day, "true", "false") for day in range(8, 13)] if is_split else [])
    assert await harness.rows(MARKS) == old + [(day, False) for day in range(8, 13)]
    assert (await harness.batch()).status == "completed"
    async with transaction(harness.context.pool) as conn:
        await weekly.record_missed_mondays(conn, harness.context)
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


async def test_down_and_up_again(harness, database):
    """The values of the column come back from the journal."""
    trades(harness, ["606", "540", "545"])
    batch = await harness.make_batch()
    await as_before(harness, batch, 1)
    await mornings(harness, batch, 2, 3)
    before = await harness.rows(MARKS)
    assert before == [(0, None), (1, None), (2, True), (3, True)]
    unseal(database)
    await migrations.migrate(database, harness.context.now(), 11)
    await migrations.migrate(database, harness.context.now())
    assert await harness.rows(MARKS) == before
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


# The columns of total returns, with their types.
LATER_COLUMNS = {
    "checkpoints": {
        "benchmark_dividends": "numeric",
        "benchmark_total_return_pct": "numeric",
        "benchmark_spin_off_counted_once": "boolean",
    },
    "pick_checkpoint_metrics": {
        "dividends": "numeric",
        "total_return_pct": "numeric",
        "vs_benchmark_total_pct": "numeric",
        "spin_off_counted_once": "boolean",
    },
}


async def test_down_and_a_correction_by_the_version_before(harness, database):
    """
    A checkpoint whose last journal entry is by the previous version has no mark, and gets none.
    """
    trades(harness, ["606", "540", "545"])
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    async with transaction(harness.context.pool) as conn:
        marked = await checkpoints.get(conn, batch.id, 2)
    assert marked
    assert marked.benchmark_unusual_move
    unseal(database)
    await migrations.migrate(database, harness.context.now(), 11)
    # The previous version did not read these columns, and the code here does.
    await harness.rows("ALTER TABLE picks ADD COLUMN probability smallint")
    for table, columns in LATER_COLUMNS.items():
        for column, type_ in columns.items():
            await harness.rows(f"ALTER TABLE {table} ADD COLUMN {column} {type_}")
    await correct_as_before(harness, batch, replace(marked, benchmark_unusual_move=None))
    await harness.rows("ALTER TABLE picks DROP COLUMN probability")
    for table, columns in LATER_COLUMNS.items():
        for column in columns:
            await harness.rows(f"ALTER TABLE {table} DROP COLUMN {column}")
    await migrations.migrate(database, harness.context.now())
    assert await harness.rows(MARKS) == [(0, None), (1, False), (2, None)]
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


async def test_a_move_that_a_correction_finds_on_an_old_day(harness, database):
    """
    A split arrives late that does not explain the move: days that were never examined are
    marked by a correction.
    """
    trades(harness, ["606", "612", "610"])
    batch = await harness.make_batch()
    for day in (1, 2, 3):
        await as_before(harness, batch, day)
    harness.world.splits["SPY"] = [(session_of(2), "2.0000")]
    harness.clock.time = new_york(MONDAY + timedelta(days=6))
    await daily.take(harness.context, batch.id, 6)
    assert await harness.rows(MARKS) == [(0, None), (1, None), (2, True), (3, True)]
    assert await harness.rows(
        "SELECT day, before, after FROM corrections JOIN checkpoints ON checkpoints.id = "
        "checkpoint_id "
        "WHERE field = 'benchmark_unusual_move' ORDER BY day"
    ) == [(2, None, "true"), (3, None, "true")]
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


# The first checkpoint with a mark is of the second morning, 13:00 UTC. A month later New York has
# left summer time, so that 28 days end between two mornings, an hour before the second.
BACK = [
    pytest.param(4, 1, True, True, id="the last morning of the 28 days"),
    pytest.param(4, 2, True, False, id="the first morning after them"),
    pytest.param(1, 1, True, True, id="within them", marks=pytest.mark.long),
    pytest.param(5, 1, True, False, id="long after them", marks=pytest.mark.long),
    pytest.param(1, 1, False, False, id="of a record that the newer version began"),
    pytest.param(4, 2, False, False, id="long after that", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("weeks", "day", "was_upgraded", "fits"), BACK)
async def test_the_version_before_comes_back(harness, database, weeks, day, was_upgraded, fits):
    """It computes checkpoints without a mark, for 28 days after the first one."""
    batch = await harness.make_batch()
    await (as_before if was_upgraded else mornings)(harness, batch, 1)
    await mornings(harness, batch, *range(2, 15 if weeks > 1 else 8))
    later = await harness.make_batch(MONDAY + timedelta(weeks=weeks))
    await mornings(harness, later, *range(1, day))
    await as_before(harness, later, day)
    if fits:
        async with record_at(database) as source:
            await verify(source, [], lambda *_: None)
        return
    with pytest.raises(
        Discrepancy,
        match=r"benchmark_unusual_move is absent, but since 2026-10-2.* \(rule: unusual-move\)",
    ):
        async with record_at(database) as source:
            await verify(source, [], lambda *_: None)
