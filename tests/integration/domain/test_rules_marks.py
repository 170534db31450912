"""
Wrong marks of unusual moves, and splits that figures do not count.

Kinds: a mark that was set, removed, left or missing, on a pick, an ended pick or the benchmark,
when a figure is computed or corrected; and a split that is in the record, or in an entry, but not
in the figures.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from clocks import HandSetClock
from job_context import MONDAY, JobHarness, World, new_york, open_context, run_until_done
from provider_server import ProviderServer
from record_server import copy_of, rehearsed, unguarded
from sealing import unseal
from tampering import Content, entry_of, forge, one_of_each_rule, rows_of

from app.database import migrations, pools
from app.domain.calendar import due_at
from jobs import daily, picks, weekly
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["rehearsed"]

DAYS = {day: MONDAY + timedelta(days=day - 1) for day in range(1, 12)}  # the session of each day


async def run_two_weeks(harness: JobHarness) -> None:
    """
    Run two weeks in which each pick moves.

    NVDA falls by 11 % without a split. AAPL halves on day 3; the split is listed on Sunday. MSFT
    rises by 9 % on each side of a skipped checkpoint. NVDA ends in the second week. SPY has a small
    split that is listed on Sunday.
    """
    closes = harness.world.closes
    for day, session in DAYS.items():
        closes["NVDA", session] = "7.0000" if day < 2 else "6.2000"
        closes["AAPL", session] = "80.0000" if day < 3 else "40.0000"
        closes["MSFT", session] = "3.0000" if day < 4 else "3.5400"
        closes["SPY", session] = "600.0000"
    closes["MSFT", DAYS[4]] = "3.2700"
    harness.world.absent.add(("MSFT", DAYS[4]))
    batch = await harness.make_batch()
    for day in range(1, 11):
        if day == 5:
            harness.world.absent.clear()
        if day == 6:
            harness.world.splits = {"AAPL": [(DAYS[3], "2.0000")], "SPY": [(DAYS[2], "1.0050")]}
        if day == 9:
            context = harness.context
            harness.clock.time = new_york(DAYS[10], 8)
            await picks.end(
                context.pool,
                calendar=context.calendar,
                now=context.now(),
                run_date=MONDAY,
                ticker="NVDA",
                last_session=DAYS[8],
                value=Decimal("6.30"),
                source="8-K",
                in_force=None,
            )
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))


async def make(address: str) -> None:
    """Make that record with the real jobs."""
    clock = HandSetClock(new_york(MONDAY))
    await migrations.migrate(address, clock.now())
    world = World(clock)
    async with (
        pools.opened(pools.make_pool(address, max_size=4)) as pool,
        ProviderServer() as provider,
    ):
        provider.answers = world
        async with open_context(
            database=address, pool=pool, clock=clock, base_url=provider.url
        ) as context:
            await run_two_weeks(
                JobHarness(context=context, provider=provider, world=world, clock=clock)
            )
            async with pools.transaction(pool) as conn:
                await weekly.record_missed_mondays(conn, context)


@pytest.fixture(scope="module")
def record_with_moves(made_once: Callable[..., str]) -> str:
    """
    The address of the record of a batch whose shares move, as a version before the sealing
    recorded it: only there may a split be in no entry.
    """
    copy = made_once("record_with_moves", lambda address: asyncio.run(make(address)))
    unseal(copy)
    return copy


@pytest.fixture
def copy(record_with_moves: str, create: Callable[..., str]) -> str:
    """A copy of that record that a test may change."""
    return copy_of(record_with_moves, create)


def pick_of(contents: list[Content], ticker: str) -> str:
    """Return the id of a pick."""
    return next(pick["id"] for pick in contents_of(contents, "picks") if pick["ticker"] == ticker)


def contents_of(contents: list[Content], table: str) -> list[dict[str, str]]:
    """Return all rows of a table that the journal mentions."""
    return [row for content in contents for its, row in rows_of(content) if its == table]


def checkpoint_of(contents: list[Content], day: int) -> str:
    """Return the id of a checkpoint."""
    return next(row["id"] for row in contents_of(contents, "checkpoints") if row["day"] == str(day))


def marked(ticker: str, day: int, mark: str) -> Callable[[list[Content]], None]:
    """Return a change that sets a metric's mark in every mention, and removes its corrections."""

    def change(contents: list[Content]) -> None:
        pick, checkpoint = pick_of(contents, ticker), checkpoint_of(contents, day)
        for row in contents_of(contents, "pick_checkpoint_metrics"):
            if (row["pick_id"], row["checkpoint_id"]) == (pick, checkpoint):
                row["unusual_move"] = mark
        for content in contents:
            if "corrections" in content and content["checkpoint"]["id"] == checkpoint:
                held = content["corrections"]
                its_own = ("unusual_move", ticker)
                content["corrections"] = [
                    one for one in held if (one["field"], one.get("ticker")) != its_own
                ]

    return change


def benchmark_marked(day: int, mark: str | None) -> Callable[[list[Content]], None]:
    """
    Return a change that sets or removes the benchmark's mark of a checkpoint in every mention.
    """

    def change(contents: list[Content]) -> None:
        checkpoint = checkpoint_of(contents, day)
        for row in contents_of(contents, "checkpoints"):
            if row["id"] != checkpoint:
                continue
            if mark is None:
                del row["benchmark_unusual_move"]
            else:
                row["benchmark_unusual_move"] = mark

    return change


def mark_left_by_the_correction(contents: list[Content]) -> None:
    """Let the correction of AAPL's fifth day count the split, but leave the mark."""
    pick, checkpoint = pick_of(contents, "AAPL"), checkpoint_of(contents, 5)
    for content in contents:
        if content["kind"] != "CORRECTION" or content["checkpoint"]["id"] != checkpoint:
            continue
        for row in content.get("metrics", []):
            if row["pick_id"] == pick:
                row["unusual_move"] = "true"
        held = content["corrections"]
        content["corrections"] = [one for one in held if one["field"] != "unusual_move"]


MARKS = [
    pytest.param(
        "unusual-move", marked("NVDA", 2, "false"), id="unusual-move: the mark of a fall removed"
    ),
    pytest.param(
        "unusual-move",
        marked("NVDA", 5, "false"),
        id="unusual-move: the mark of a later day removed",
    ),
    pytest.param(
        "unusual-move",
        marked("NVDA", 10, "false"),
        id="unusual-move: the mark of an ended pick removed",
    ),
    pytest.param("unusual-move", marked("NVDA", 1, "true"), id="unusual-move: set before the fall"),
    pytest.param(
        "unusual-move", marked("AAPL", 2, "true"), id="unusual-move: set before the split"
    ),
    pytest.param(
        "unusual-move",
        marked("AAPL", 5, "false"),
        id="unusual-move: never set, although the split came later",
    ),
    pytest.param(
        "unusual-move",
        marked("AAPL", 8, "true"),
        id="unusual-move: set, although the split is counted",
    ),
    pytest.param(
        "unusual-move",
        marked("MSFT", 5, "true"),
        id="unusual-move: set, although a reading that nothing uses explains it",
    ),
    pytest.param(
        "unusual-move",
        mark_left_by_the_correction,
        id="unusual-move: left by the correction that counts the split",
    ),
    pytest.param(
        "unusual-move",
        benchmark_marked(1, "true"),
        id="unusual-move: a mark of the benchmark added",
    ),
    pytest.param(
        "unusual-move",
        benchmark_marked(9, "true"),
        id="unusual-move: a mark of the benchmark added on a later day",
    ),
    pytest.param(
        "unusual-move",
        benchmark_marked(9, None),
        id="unusual-move: the mark of the benchmark missing",
    ),
]


async def test_what_the_jobs_recorded(record_with_moves):
    """The record has the moves that the forgeries change, and it verifies."""
    assert await discrepancies_of(record_with_moves) == []
    with unguarded(record_with_moves) as conn:
        marks = conn.execute(
            "SELECT ticker, array_agg(day ORDER BY day) FROM pick_checkpoint_metrics "
            "JOIN checkpoints ON checkpoints.id = checkpoint_id JOIN picks ON picks.id = pick_id "
            "WHERE unusual_move GROUP BY ticker"
        ).fetchall()
        assert marks == [("NVDA", [2, 3, 5, 8, 9, 10])]
        assert conn.execute("SELECT DISTINCT field FROM corrections ORDER BY 1").fetchall() == [
            (field,)
            for field in (
                "absolute_return_pct",
                "benchmark_return_pct",
                "benchmark_split_factor",
                "return_from_open_pct",
                "split_factor",
                "unusual_move",
                "vs_benchmark_pct",
            )
        ]
        conn.rollback()


@pytest.mark.parametrize("mark", ["true", None], ids=["set", "left out"])
async def test_a_calm_record(rehearsed, create, mark):
    """A changed mark of the benchmark on one day of four calm weeks is named."""

    def change(contents: list[Content]) -> None:
        entry = entry_of(contents, "CHECKPOINT", run_date="2026-10-12", day="3")
        if mark:
            entry["checkpoint"]["benchmark_unusual_move"] = mark
        else:
            del entry["checkpoint"]["benchmark_unusual_move"]

    await check_forgery(copy_of(rehearsed, create), change, "unusual-move")


async def test_a_deleted_reading_that_explains_a_move(copy):
    """No entry mentions the reading, so only this rule notices that it is missing."""
    with unguarded(copy) as conn:
        gone = conn.execute(
            "DELETE FROM closes WHERE ticker = 'MSFT' AND trading_day = %s", (DAYS[4],)
        )
        assert gone.rowcount == 1
    discrepancies = await discrepancies_of(copy)
    assert len(discrepancies) == 2
    for text in discrepancies:
        assert "MSFT on day 5 of 2026-10-26: unusual_move is false" in text
        assert text.endswith("(rule: unusual-move)")


def unmarked_until(at: str) -> Callable[[list[Content]], None]:
    """
    Return a change that removes the benchmark's mark from checkpoints before a day, as if an
    earlier version had computed them.
    """

    def change(contents: list[Content]) -> None:
        for content in contents:
            if content["kind"] in ("CHECKPOINT", "CORRECTION") and content["at"] < at:
                content["checkpoint"].pop("benchmark_unusual_move", None)

    return change


async def test_an_upgrade_during_the_batch(rehearsed, create):
    """Checkpoints of an earlier version have no mark, even between those of the newer one."""
    copy = copy_of(rehearsed, create)
    forge(copy, unmarked_until("2026-10-16"))
    assert await discrepancies_of(copy) == []

    def change(contents: list[Content]) -> None:
        entry = entry_of(contents, "CHECKPOINT", run_date="2026-10-19", day="3")
        del entry["checkpoint"]["benchmark_unusual_move"]

    forge(copy, change)
    assert await discrepancies_of(copy) == []


# Splits


def insert(copy: str, ticker: str, day: object, factor: str, read_at: datetime) -> None:
    """Insert a reading of a split that no entry mentions."""
    with unguarded(copy) as conn:
        conn.execute(
            "INSERT INTO splits VALUES (%s, %s, %s, 'Alpha Vantage', %s)",
            (ticker, day, factor, read_at),
        )


LATER = datetime(2026, 11, 20, tzinfo=UTC)
EARLIER = datetime(2026, 10, 1, tzinfo=UTC)
MEANWHILE = new_york(MONDAY + timedelta(days=6), 8, 59)  # a minute before the split was read

UNCOUNTED = [
    pytest.param(("NVDA", DAYS[2], "1.1290", LATER), id="the split that explains the fall"),
    pytest.param(("AAPL", DAYS[3], "1", LATER), id="one that withdraws a counted split"),
    pytest.param(("AAPL", DAYS[3], "3.0000", LATER), id="another factor"),
    pytest.param(("AAPL", DAYS[8], "1.0100", EARLIER), id="a second one, read early"),
    pytest.param(
        ("AAPL", DAYS[3], "7.0000", EARLIER),
        id="one that figures did not count until it was replaced",
    ),
    pytest.param(("SPY", DAYS[9], "0.5000", LATER), id="one of the benchmark"),
    pytest.param(("NVDA", DAYS[8], "2.0000", LATER), id="on the last session of an ended pick"),
]


@pytest.mark.parametrize("row", UNCOUNTED)
@pytest.mark.sampled(2)
async def test_a_split_that_no_figure_counts(copy, row):
    """The split is in the record only, and the figures are not corrected: the rule is named."""
    insert(copy, *row)
    discrepancies = await discrepancies_of(copy)
    assert len(discrepancies) == 2, discrepancies
    assert all(text.endswith("(rule: split-counted)") for text in discrepancies), discrepancies


NOT_TO_BE_COUNTED = [
    pytest.param(
        ("AAPL", MONDAY - timedelta(days=3), "2.0000", LATER), id="of the baseline session"
    ),
    pytest.param(("AAPL", DAYS[11], "2.0000", LATER), id="after the last checkpoint"),
    pytest.param(("AAPL", DAYS[3], "2.0", LATER), id="the same factor again"),
    pytest.param(
        ("AAPL", DAYS[3], "7.0000", MEANWHILE),
        id="an older reading of the split, from the same morning",
    ),
    pytest.param(("KO", DAYS[3], "2.0000", LATER), id="of another share"),
    pytest.param(("NVDA", DAYS[9], "2.0000", LATER), id="after the last session of an ended pick"),
    pytest.param(("MSFT", DAYS[3], "1", LATER), id="a factor of 1"),
]


@pytest.mark.parametrize("row", NOT_TO_BE_COUNTED)
@pytest.mark.sampled(2)
async def test_a_split_that_no_figure_needs(copy, row):
    """The split is in the record, and no figure has to count it: the record verifies."""
    insert(copy, *row)
    assert await discrepancies_of(copy) == []


def without_last_correction(contents: list[Content]) -> list[Content]:
    """Remove the last correction of the split of AAPL; other entries still have the split."""
    last = [
        content
        for content in contents
        if content["kind"] == "CORRECTION" and is_about(content, "AAPL")
    ][-1]
    return [content for content in contents if content is not last]


def is_about(content: Content, ticker: str) -> bool:
    return any(
        one.get("ticker") == ticker and one["field"] == "split_factor"
        for one in content["corrections"]
    )


def change_splits(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[list[Content]], None]:
    """Return a change of the splits in the entry of day 10."""

    def changed(contents: list[Content]) -> None:
        change(entry_of(contents, "CHECKPOINT", run_date="2026-10-26", day="10")["splits"])

    return changed


def add_another(held: list[dict[str, Any]]) -> None:
    held.append({**held[0], "effective_date": "2026-10-01"})


OF_ENTRIES = [
    pytest.param(
        "split-counted",
        without_last_correction,
        id="split-counted: a day whose correction is removed",
    ),
    pytest.param(
        "split-counted",
        change_splits(lambda held: held.pop(0)),
        id="split-counted: an entry without a split that it counts",
    ),
    pytest.param(
        "split-counted",
        change_splits(lambda held: held.clear()),
        id="split-counted: an entry without any split",
    ),
    pytest.param(
        "split-counted",
        change_splits(add_another),
        id="split-counted: an entry with one that it does not count",
    ),
]

FORGERIES = [*MARKS, *OF_ENTRIES]


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery(copy, rule, change):
    """Database and server both name the rule that the forgery breaks."""
    await check_forgery(copy, change, rule)
