"""
The benchmark's moves that no split explains: marked as a pick's are, and examined only from this column on.

Members of the kind: a fall, a rise, a slow move, a move over a skipped day, one that a split explains, one of which the
split is learnt later, one before the column was there. (Restated series of SPY: test_restated_series.)
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from api_records import engine_on
from job_tools import CHOSEN, MONDAY, House, new_york, until_it_can
from job_tools import clock as clock
from job_tools import house as house
from msgspec.structs import replace

from app.database import migrations
from app.database.pools import transaction
from app.domain import calendar, measurement, returns
from app.domain.calendar import due_at
from app.domain.model import Batch, Checkpoint, CheckpointStatus, PickMetric, Split
from app.errors import Misfit
from app.ops.verify import database as record_at
from app.ops.verify import verify
from app.store import batches, checkpoints, corrections, courses, opens, splits
from app.store.checkpoints import Learnt
from jobs import daily, weekly
from jobs.prices import closes_of

MARKS = "SELECT day, benchmark_unusual_move FROM checkpoints WHERE status = 'computed' ORDER BY day"


def session_of(day: int) -> date:
    """The session whose closes a morning uses."""
    return MONDAY + timedelta(days=day - 1)


async def mornings(house: House, batch: Batch, *days: int) -> None:
    """Take these mornings as the queue would."""
    for day in days:
        house.clock.time = max(house.clock.time, due_at(batch.run_date, day))
        await until_it_can(house, lambda day=day: daily.take(house.tools, batch.id, day))


def trades(house: House, prices: Sequence[str]) -> None:
    """Let SPY close so from Monday on; the last price lasts."""
    for number in range(20):
        house.world.closes["SPY", MONDAY + timedelta(days=number)] = prices[min(number, len(prices) - 1)]


CASES = [
    pytest.param(["606", "540", "545"], [], [False, True, True], id="a fall of a tenth and more"),
    pytest.param(["606", "666.6", "660"], [], [False, True, True], id="a rise of a tenth"),
    pytest.param(["606", "666.5", "660"], [], [False, False, False], id="almost a tenth"),
    pytest.param(["630", "661", "694"], [], [False, False, False], id="a slow rise"),
    pytest.param(
        ["606", "303", "304"], [(session_of(2), "2.0000")], [False, False, False], id="a split that is listed"
    ),
    pytest.param(["606", "303", "304"], [], [False, True, True], id="one that is not"),
]


@pytest.mark.parametrize(("prices", "listed", "marks"), CASES)
async def test_marks(house, prices, listed, marks):
    """Decided as a pick's mark is; the baseline has none."""
    trades(house, prices)
    house.world.splits["SPY"] = listed
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2, 3)
    assert await house.rows(MARKS) == [(0, None), *enumerate(marks, 1)]
    assert await house.rows("SELECT DISTINCT unusual_move FROM pick_checkpoint_metrics") == [(False,)]


async def test_what_the_api_says(house):
    """Null on day 0 and where the day was skipped."""
    trades(house, ["606", "540"])
    house.world.absent.add(("SPY", session_of(3)))
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2, 3)
    document = f'{{ batchOn(runDate: "{MONDAY}") {{ checkpoints {{ day benchmarkUnusualMove }} }} }}'
    answer = json.loads((await engine_on(house.tools.pool).answer(document)).body)
    shown = answer["data"]["batchOn"]["checkpoints"]
    assert [one["benchmarkUnusualMove"] for one in shown] == [None, False, True, None]


async def as_before(house: House, batch: Batch, day: int) -> None:
    """Store a morning as the version before the column did: the same figures, and nothing about the benchmark."""
    house.clock.time = due_at(batch.run_date, day)
    session = calendar.checkpoint_date(batch.run_date, day - 1)
    number = 10_000 * (batch.run_date - MONDAY).days + day
    found = await closes_of(house.tools, [batch.benchmark_symbol, *CHOSEN], session)
    benchmark = found[batch.benchmark_symbol]
    priced = Checkpoint(
        id=an_id(number),
        batch_id=batch.id,
        day=day,
        checkpoint_date=calendar.checkpoint_date(batch.run_date, day),
        trading_day=session,
        status=CheckpointStatus.COMPUTED,
        taken_at=house.tools.now(),
        benchmark_price=benchmark.close,
        benchmark_close_id=benchmark.id,
    )
    async with transaction(house.tools.pool) as conn:
        picks = await batches.picks_of(conn, batch.id)
        opened, entries = await opens.look_up(conn, house.tools.calendar, batch, picks)
        picks = [opened.get(pick.id, pick) for pick in picks]
        of_picks = await courses.of_picks(conn, batch, picks)
        course = (await courses.of_benchmark(conn, batch)).using(benchmark)
        checkpoint = measurement.of_benchmark(batch, priced, course)
        metrics = [
            PickMetric(
                id=an_id(100 * number + pick.position),
                checkpoint_id=checkpoint.id,
                pick_id=pick.id,
                current_price=found[pick.ticker].close,
                close_id=found[pick.ticker].id,
                **measurement.of_pick(
                    batch, checkpoint, pick, found[pick.ticker].close, of_picks[pick.id].using(found[pick.ticker])
                ),
            )
            for pick in picks
        ]
        stored = replace(checkpoint, benchmark_unusual_move=None)
        learnt = Learnt(
            splits=measurement.splits_counted(batch, checkpoint, [course]),
            opened=list(opened.values()),
            filled=await opens.fill(conn, batch, opened, of_picks),
        )
        readings = {one.id: one for one in (*found.values(), *entries)}
        assert await checkpoints.add(conn, stored, metrics, list(readings.values()), learnt)


async def correct_as_before(house: House, batch: Batch, stood: Checkpoint) -> None:
    """Count a small split of the benchmark on one day, as the version before the column did."""
    now = house.tools.now()
    assert stood.trading_day
    split = Split(
        ticker=batch.benchmark_symbol,
        effective_date=stood.trading_day,
        factor=Decimal("1.0050"),
        source="test",
        read_at=now,
    )
    async with transaction(house.tools.pool) as conn:
        await splits.add(conn, split)
        course = await courses.of_benchmark(conn, batch)
        checkpoint = replace(measurement.of_benchmark(batch, stood, course), benchmark_unusual_move=None)
        assert checkpoint.benchmark_return_pct
        rows: list[tuple[measurement.Row, measurement.Row, str | None]] = [(stood, checkpoint, None)]
        tickers = {pick.id: pick.ticker for pick in await batches.picks_of(conn, batch.id)}
        for metric in await checkpoints.metrics_of(conn, stood.id):
            against = returns.CONTEXT.subtract(metric.absolute_return_pct, checkpoint.benchmark_return_pct)
            rows.append((metric, replace(metric, vs_benchmark_pct=against), tickers[metric.pick_id]))
        found = measurement.corrections(rows, stood, "A split.", now)
        changed = [(before, after) for before, after, _ in rows]
        await corrections.make(conn, batch.id, changed, found, [], [split], now)


def an_id(number: int) -> UUID:
    """An id by its number."""
    return UUID(int=number)


@pytest.mark.parametrize("prices", [["606", "612", "610"], ["606", "303", "304"]], ids=["nothing to mark", "a split"])
async def test_a_fortnight_from_before_the_column(house, database, prices):
    """Half of it has no mark and never gets one without a reason; the other half has. All of it fits its journal."""
    trades(house, prices)
    batch = await house.a_batch()
    for day in range(1, 6):
        await as_before(house, batch, day)
    # Now the database is, to the letter, what the version before leaves.
    await migrations.migrate(database, house.tools.now(), 11)
    assert (await migrations.migrate(database, house.tools.now()))[0] == "0012 benchmark_mark: applied"
    await mornings(house, batch, *range(6, 13))
    moved = prices[1] == "303"
    old, new = [(day, None) for day in range(6)], [(day, moved) for day in range(8, 13)]
    assert await house.rows(MARKS) == old + new

    house.world.splits["SPY"] = [(session_of(2), "2.0000")] if moved else [(session_of(2), "1.0050")]
    await mornings(house, batch, 13, 14)
    fields = {field for (field,) in await house.rows("SELECT field FROM corrections")}
    assert "benchmark_split_factor" in fields
    marked = await house.rows(
        "SELECT day, before, after FROM corrections JOIN checkpoints ON checkpoints.id = checkpoint_id "
        "WHERE field = 'benchmark_unusual_move' ORDER BY day"
    )
    assert marked == ([(day, "true", "false") for day in range(8, 13)] if moved else [])
    assert await house.rows(MARKS) == old + [(day, False) for day in range(8, 13)]
    assert (await house.batch()).status == "completed"
    async with transaction(house.tools.pool) as conn:
        await weekly.record_missed(conn, house.tools)
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


async def test_down_and_up_again(house, database):
    """What the column said comes back from the journal."""
    trades(house, ["606", "540", "545"])
    batch = await house.a_batch()
    await as_before(house, batch, 1)
    await mornings(house, batch, 2, 3)
    before = await house.rows(MARKS)
    assert before == [(0, None), (1, None), (2, True), (3, True)]
    await migrations.migrate(database, house.tools.now(), 11)
    await migrations.migrate(database, house.tools.now())
    assert await house.rows(MARKS) == before
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


async def test_down_and_a_correction_by_the_version_before(house, database):
    """A checkpoint that the version before mentioned last has no mark there, and gets none back."""
    trades(house, ["606", "540", "545"])
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    async with transaction(house.tools.pool) as conn:
        marked = await checkpoints.at(conn, batch.id, 2)
    assert marked
    assert marked.benchmark_unusual_move
    await migrations.migrate(database, house.tools.now(), 11)
    await correct_as_before(house, batch, replace(marked, benchmark_unusual_move=None))
    await migrations.migrate(database, house.tools.now())
    assert await house.rows(MARKS) == [(0, None), (1, False), (2, None)]
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


async def test_a_move_that_a_correction_finds_on_an_old_day(house, database):
    """A split that explains nothing is learnt: days that were never examined are marked, in the open."""
    trades(house, ["606", "612", "610"])
    batch = await house.a_batch()
    for day in (1, 2, 3):
        await as_before(house, batch, day)
    house.world.splits["SPY"] = [(session_of(2), "2.0000")]
    house.clock.time = new_york(MONDAY + timedelta(days=6))
    await daily.take(house.tools, batch.id, 6)
    assert await house.rows(MARKS) == [(0, None), (1, None), (2, True), (3, True)]
    assert await house.rows(
        "SELECT day, before, after FROM corrections JOIN checkpoints ON checkpoints.id = checkpoint_id "
        "WHERE field = 'benchmark_unusual_move' ORDER BY day"
    ) == [(2, None, "true"), (3, None, "true")]
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


# The first checkpoint with a mark is of the second morning, 13:00 UTC. A month later New York has left summer time, so
# that 28 days end between two mornings, an hour before the second.
BACK = [
    pytest.param(4, 1, True, True, id="the last morning of the 28 days"),
    pytest.param(4, 2, True, False, id="the first morning after them"),
    pytest.param(1, 1, True, True, id="within them", marks=pytest.mark.long),
    pytest.param(5, 1, True, False, id="long after them", marks=pytest.mark.long),
    pytest.param(1, 1, False, False, id="of a record that the newer version began"),
    pytest.param(4, 2, False, False, id="long after that", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("weeks", "day", "was_upgraded", "fits"), BACK)
async def test_the_version_before_comes_back(house, database, weeks, day, was_upgraded, fits):
    """It computes checkpoints without a mark: for 28 days after the first one, in a record that had such before."""
    batch = await house.a_batch()
    await (as_before if was_upgraded else mornings)(house, batch, 1)
    await mornings(house, batch, *range(2, 15 if weeks > 1 else 8))
    later = await house.a_batch(MONDAY + timedelta(weeks=weeks))
    await mornings(house, later, *range(1, day))
    await as_before(house, later, day)
    if fits:
        async with record_at(database) as source:
            await verify(source, [], lambda *_: None)
        return
    with pytest.raises(Misfit, match=r"benchmark_unusual_move is absent, but since 2026-10-2.* \(rule: unusual-move\)"):
        async with record_at(database) as source:
            await verify(source, [], lambda *_: None)
