"""Manual corrections: a baseline or a later price that was wrong, and what is refused."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from job_context import (
    BASELINE,
    CHOSEN,
    MONDAY,
    JobHarness,
    make_completion,
    new_york,
    run_until_done,
)
from job_context import clock as clock
from job_context import harness as harness
from journal_checks import JOURNAL_LOCK, wait_for_blocked_connections
from journal_checks import check_journal as check_journal
from provider_server import Reply, Request

from app.domain.calendar import due_at
from app.domain.model import Batch
from app.errors import Refused
from jobs import corrections, daily, picks

TUESDAY, WEDNESDAY, THURSDAY = (MONDAY + timedelta(days=days) for days in range(1, 4))
REASON = "The exchange published a corrected close."

CORRECTED = """
SELECT day, ticker, field, before, after
FROM corrections JOIN checkpoints ON checkpoints.id = checkpoint_id
ORDER BY day, ticker NULLS FIRST, field
"""
FIGURES = """
SELECT
    day, ticker, current_price, benchmark_return_pct, absolute_return_pct, vs_benchmark_pct,
    unusual_move
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
ORDER BY day, position
"""


async def mornings(harness: JobHarness, batch: Batch, *days: int) -> None:
    """Take these days, each until it is stored, as the queue would."""
    for day in days:
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))


async def adopted(harness: JobHarness, day: int, ticker: str, run_date: date = MONDAY) -> int:
    """Adopt the newest reading."""
    return await corrections.adopt(
        harness.context.pool,
        now=harness.context.now(),
        run_date=run_date,
        day=day,
        ticker=ticker,
        reason=REASON,
        in_force=None,
    )


async def restate_closes(
    harness: JobHarness, *prices: tuple[str, date, str], days: Sequence[int] = (1, 2)
) -> Batch:
    """Make a batch, take these days, and then let the provider return other closes."""
    batch = await harness.make_batch()
    await mornings(harness, batch, *days)
    harness.world.closes |= {(ticker, day): price for ticker, day, price in prices}
    harness.world.opens |= {(ticker, day): "1" for ticker, day, _ in prices}
    await mornings(harness, batch, days[-1] + 1)
    assert await harness.rows(CORRECTED) == []
    harness.clock.forward(hours=3)
    return batch


async def readings(harness: JobHarness, ticker: str, session: date) -> list[str]:
    """Return the ids of a session's readings, in order."""
    rows = await harness.rows(
        "SELECT id FROM closes WHERE ticker = %s AND trading_day = %s ORDER BY read_at",
        ticker,
        session,
    )
    return [str(id) for (id,) in rows]


def numbers(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return corrections of figures, with numbers as numbers, and without those of readings."""
    return [
        (*rest, Decimal(before), Decimal(after))
        for *rest, field, before, after in rows
        for rest in [[*rest, field]]
        if not field.endswith("close_id")
    ]


async def test_a_picks_baseline(harness):
    """
    MSFT began at 3.20, not at 3: the baseline is corrected on day 0, and so is every later day.
    """
    await restate_closes(harness, ("MSFT", BASELINE, "3.2000"))
    assert await adopted(harness, 0, " msft ") == 4
    old, new = await readings(harness, "MSFT", BASELINE)
    corrected = await harness.rows(CORRECTED)
    assert corrected[:2] == [
        (0, "MSFT", "initial_close_id", old, new),
        (0, "MSFT", "initial_price", "3.0000", "3.2000"),
    ]
    fall = Decimal("-6.25")  # (3 - 3.2) / 3.2
    assert numbers(corrected)[1:] == [
        (day, "MSFT", field, 0, fall)
        for day in (1, 2, 3)
        for field in ("absolute_return_pct", "vs_benchmark_pct")
    ]
    assert await harness.rows(
        "SELECT initial_price, initial_close_id::text FROM picks WHERE position = 1"
    ) == [(Decimal("3.2"), new)]
    assert [row[1:6] for row in await harness.rows(FIGURES)] == [
        ("MSFT", 3, 0, fall, fall), ("AAPL", 80, 0, 0, 0), ("NVDA", 7, 0, 0, 0)
    ] * 3  # fmt: skip


async def test_the_benchmarks_baseline(harness):
    """
    SPY began at 640, not at 600: on the batch, on day 0, and in all figures measured against it.
    """
    await restate_closes(harness, ("SPY", BASELINE, "640.0000"))
    assert await adopted(harness, 0, "SPY") == 4
    old, new = await readings(harness, "SPY", BASELINE)
    corrected = await harness.rows(CORRECTED)
    assert corrected[:4] == [
        (0, None, "benchmark_close_id", old, new),
        (0, None, "benchmark_initial_close_id", old, new),
        (0, None, "benchmark_initial_price", "600.0000", "640.0000"),
        (0, None, "benchmark_price", "600.0000", "640.0000"),
    ]
    assert numbers(corrected)[2:] == [
        one
        for day in (1, 2, 3)
        for one in (
            (day, None, "benchmark_return_pct", 0, Decimal("-6.25")),
            *((day, ticker, "vs_benchmark_pct", 0, Decimal("6.25")) for ticker in sorted(CHOSEN)),
        )
    ]
    batch = await harness.batch()
    assert (batch.benchmark_initial_price, str(batch.benchmark_initial_close_id)) == (640, new)
    await mornings(harness, batch, 4)
    assert {row[3:6] for row in await harness.rows(FIGURES)} == {
        (Decimal("-6.25"), 0, Decimal("6.25"))
    }


async def test_a_later_price(harness):
    """
    A corrected close of Tuesday changes only its own day. Other batches and days keep their
    readings.
    """
    await restate_closes(harness, ("MSFT", TUESDAY, "3.1000"))
    assert await adopted(harness, 2, "MSFT") == 1
    old, new = await readings(harness, "MSFT", TUESDAY)
    corrected = await harness.rows(CORRECTED)
    assert [row[:3] for row in corrected] == [
        (2, "MSFT", field)
        for field in (
            "absolute_return_pct",
            "close_id",
            "current_price",
            "return_from_open_pct",
            "vs_benchmark_pct",
        )
    ]
    assert corrected[1:3] == [
        (2, "MSFT", "close_id", old, new),
        (2, "MSFT", "current_price", "3.0000", "3.1000"),
    ]
    third = Decimal("3.333333333333333333333333333")  # (3.1 - 3) / 3
    assert [row[4:6] for row in await harness.rows(FIGURES) if row[1] == "MSFT"] == [
        (0, 0),
        (third, third),
        (0, 0),
    ]


async def test_a_price_after_a_split(harness):
    """The split factor counts in a corrected figure as in any other."""
    harness.world.splits["MSFT"] = [(TUESDAY, "4.0000")]
    harness.world.closes |= {
        ("MSFT", MONDAY + timedelta(days=day)): "0.7500" for day in range(1, 10)
    }
    await restate_closes(harness, ("MSFT", TUESDAY, "0.7600"), ("MSFT", BASELINE, "3.2000"))
    assert (await adopted(harness, 2, "MSFT"), await adopted(harness, 0, "MSFT")) == (1, 4)
    fall = Decimal("-6.25")  # (0.75 * 4 - 3.2) / 3.2
    assert [row[4:6] for row in await harness.rows(FIGURES) if row[1] == "MSFT"] == [
        (fall, fall),
        (-5, -5),
        (fall, fall),
    ]


async def test_a_later_price_of_the_benchmark(harness):
    """All three picks are measured against the corrected close."""
    await restate_closes(harness, ("SPY", TUESDAY, "630.0000"))
    assert await adopted(harness, 2, "SPY") == 1
    assert [row[:3] for row in await harness.rows(CORRECTED)] == [
        *(
            (2, None, field)
            for field in ("benchmark_close_id", "benchmark_price", "benchmark_return_pct")
        ),
        *((2, ticker, "vs_benchmark_pct") for ticker in sorted(CHOSEN)),
    ]
    assert {row[3:6] for row in await harness.rows(FIGURES) if row[0] == 2} == {(5, 0, -5)}


async def test_the_journal_of_an_adopted_reading(harness):
    """
    The entries have the reading, the rows as they are now, and the corrections with the reason.
    """
    batch = await restate_closes(harness, ("SPY", BASELINE, "640.0000"))
    seq = (await harness.journal())[-1].seq
    await adopted(harness, 0, "SPY")
    entries = [entry for entry in await harness.journal() if entry.seq > seq]
    assert [(entry.kind, entry.batch_id, entry.at) for entry in entries] == [
        ("CORRECTION", batch.id, harness.clock.time)
    ] * 4
    first, *rest = [json.loads(entry.content) for entry in entries]
    _, new = await readings(harness, "SPY", BASELINE)
    assert [one["id"] for one in first["closes"]] == [new]
    assert (first["batch"]["benchmark_initial_price"], first["checkpoint"]["day"]) == (
        "640.0000",
        "0",
    )
    assert {one["reason"] for one in first["corrections"]} == {REASON}
    assert not {"picks", "metrics"} & first.keys()
    for content in rest:
        assert len(content["metrics"]) == 3
        assert not {"batch", "picks", "closes"} & content.keys()


async def test_a_mark_caused_by_a_wrong_close(harness):
    """
    A wrong close marked two moves; the right one removes the mark from that day and all later ones.
    """
    batch = await harness.make_batch()
    harness.world.closes["MSFT", TUESDAY] = "30.0000"
    await mornings(harness, batch, 1, 2)
    del harness.world.closes["MSFT", TUESDAY]
    await mornings(harness, batch, 3)
    assert [row[-1] for row in await harness.rows(FIGURES) if row[1] == "MSFT"] == [
        False,
        True,
        False,
    ]
    harness.clock.forward(hours=3)
    assert await adopted(harness, 2, "MSFT") == 1
    assert (2, "MSFT", "unusual_move", "true", "false") in await harness.rows(CORRECTED)
    assert [row[-1] for row in await harness.rows(FIGURES) if row[1] == "MSFT"] == [False] * 3


async def test_a_completed_batch_is_corrected(harness):
    """A completed batch can be corrected at any time; it stays completed."""
    batch = await restate_closes(harness, ("MSFT", BASELINE, "3.2000"))
    await mornings(harness, batch, *range(4, 15))
    assert (await harness.batch()).status == "completed"
    assert await adopted(harness, 0, "MSFT") == 11
    assert (await harness.batch()).status == "completed"


async def test_a_correction_of_a_correction(harness):
    """A third reading may replace the second; the value before is that of the second."""
    batch = await restate_closes(harness, ("MSFT", TUESDAY, "3.1000"))
    await adopted(harness, 2, "MSFT")
    harness.world.closes["MSFT", TUESDAY] = "3.3000"
    await mornings(harness, batch, 4)
    await adopted(harness, 2, "MSFT")
    prices = [row[3:] for row in await harness.rows(CORRECTED) if row[2] == "current_price"]
    assert sorted(prices) == [("3.0000", "3.1000"), ("3.1000", "3.3000")]


REFUSED = [
    pytest.param(
        2,
        "NVDA",
        TUESDAY,
        "2026-10-27 is a Tuesday, and batches are of Mondays. Its week",
        id="a Tuesday",
    ),
    pytest.param(
        2,
        "NVDA",
        MONDAY,
        "NVDA was read as 7.0000 for 2026-10-27, and nothing else was read",
        id="no other",
    ),
    pytest.param(
        1,
        "MSFT",
        MONDAY,
        "MSFT was read as 3.0000 for 2026-10-26, and nothing else",
        id="another day's",
    ),
    pytest.param(
        2, "KO", MONDAY, "KO is no pick of 2026-10-26; its picks: MSFT, AAPL, NVDA.", id="no pick"
    ),
    pytest.param(6, "MSFT", MONDAY, "Day 6 of 2026-10-26 has no prices.", id="a skipped day"),
    pytest.param(9, "MSFT", MONDAY, "Day 9 of 2026-10-26 has no prices.", id="a future day"),
    pytest.param(15, "MSFT", MONDAY, "Day 15 of 2026-10-26 has no prices.", id="no day"),
    pytest.param(
        5,
        "AAPL",
        MONDAY,
        "AAPL has ended; its price was recorded by an operator",
        id="an ended pick",
    ),
    pytest.param(
        2,
        "MSFT",
        date(2026, 10, 19),
        "There is no batch of 2026-10-19, or it has no picks.",
        id="no batch",
    ),
]


@pytest.mark.parametrize(("day", "ticker", "run_date", "says"), REFUSED)
@pytest.mark.sampled(3)
async def test_what_is_refused(harness, day, ticker, run_date, says):
    """Each refusal has its own message, and nothing changes."""
    batch = await restate_closes(harness, ("MSFT", TUESDAY, "3.1000"))
    context = harness.context
    harness.clock.time = new_york(THURSDAY, 23)
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="AAPL",
        last_session=WEDNESDAY,
        value=Decimal(90),
        source="8-K",
        in_force=None,
    )
    await mornings(harness, batch, 4, 5, 6)
    before = await harness.journal(), await harness.rows(FIGURES)
    with pytest.raises(Refused) as refused:
        await adopted(harness=harness, day=day, ticker=ticker, run_date=run_date)
    assert says in str(refused.value)
    assert (await harness.journal(), await harness.rows(FIGURES)) == before


@pytest.mark.parametrize(
    "reason",
    [
        "",
        " ",
        "a NUL \0",
        "half a \ud800",
        "a" * 1001,
        "two\nlines",
        "an escape \x1b[2J",
        "a turn \u202e",
    ],
)
async def test_a_reason_that_cannot_be_stored(harness, reason):
    """The reason is published, so it must be there, and be plain text."""
    with pytest.raises(Refused, match="--reason must say why"):
        await corrections.adopt(
            harness.context.pool,
            now=harness.context.now(),
            run_date=MONDAY,
            day=0,
            ticker=CHOSEN[0],
            reason=reason,
            in_force=None,
        )


async def test_a_failed_monday_has_nothing_to_correct(harness):
    """A correction of a failed Monday is refused."""
    harness.world.model = [make_completion("no")]
    await harness.begin()
    with pytest.raises(Refused, match="There is no batch of 2026-10-26, or it has no picks"):
        await adopted(harness, 0, "MSFT")


async def test_a_reading_is_adopted_once(harness):
    """A second command finds nothing newer, even at the same moment."""
    await restate_closes(harness, ("MSFT", BASELINE, "3.2000"))
    results = await asyncio.gather(
        *(adopted(harness, 0, "MSFT") for _ in range(3)), return_exceptions=True
    )
    assert sorted(map(str, results))[0] == "4"
    assert [str(one)[:33] for one in results if isinstance(one, Refused)] == [
        "MSFT was read as 3.2000 for 2026-"
    ] * 2
    assert [entry.kind for entry in await harness.journal()].count("CORRECTION") == 4


# What Postgres refuses


CHANGES = [
    pytest.param(
        "UPDATE batches SET benchmark_initial_price = 1",
        "a_baseline_is_only_corrected",
        id="baseline",
    ),
    pytest.param(
        "UPDATE picks SET initial_price = 1", "a_baseline_is_only_corrected", id="a pick's baseline"
    ),
    pytest.param("UPDATE picks SET entry_open = 1", "an_open_is_filled_once", id="an open"),
    pytest.param(
        "UPDATE checkpoints SET benchmark_return_pct = 1 WHERE day = 1",
        "a_figure_is_only_corrected",
        id="b",
    ),
    pytest.param(
        "UPDATE checkpoints SET benchmark_price = 1 WHERE day = 0",
        "a_figure_is_only_corrected",
        id="day 0",
    ),
    *(
        pytest.param(
            f"UPDATE pick_checkpoint_metrics SET {change}", "a_figure_is_only_corrected", id=change
        )
        for change in (
            "current_price = 1",
            "split_factor = 2",
            "absolute_return_pct = 1",
            "vs_benchmark_pct = 1",
            "unusual_move = true",
            "absolute_return_pct = 0.0",
        )
    ),
    pytest.param(
        "UPDATE pick_checkpoint_metrics SET return_from_open_pct = NULL",
        "a_return_from_the_open_is_only_corrected",
        id="from the open",
    ),
]


@pytest.mark.parametrize(("change", "rule"), CHANGES)
async def test_a_figure_without_its_correction(harness, change, rule):
    """Postgres refuses the change by name, for every user."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    with pytest.raises(psycopg.errors.RestrictViolation) as refused:
        await harness.rows(change)
    assert refused.value.diag.constraint_name == rule


async def test_a_correction_of_something_else(harness, database):
    """
    A correction with another ticker, field, day or value does not allow a change; the right one
    does.
    """
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    right = {"day": 1, "field": "vs_benchmark_pct", "ticker": "MSFT", "before": None, "after": "5"}
    ((right["before"],),) = await harness.rows(
        "SELECT vs_benchmark_pct::text FROM pick_checkpoint_metrics JOIN picks ON picks.id = "
        "pick_id "
        "JOIN checkpoints ON checkpoints.id = checkpoint_id WHERE ticker = 'MSFT' AND day = 1"
    )
    wrong = [
        {"day": 2},
        {"field": "absolute_return_pct"},
        {"ticker": "AAPL"},
        {"ticker": None},
        {"before": "1"},
        {"after": "5.0"},
    ]
    async with await psycopg.AsyncConnection.connect(database) as conn:
        for change in (*wrong, {}):
            async with conn.transaction(force_rollback=True):
                await conn.execute(
                    """
                    INSERT INTO corrections
                        (id, checkpoint_id, field, ticker, before, after, reason, made_at)
                    SELECT
                        gen_random_uuid(), id, %(field)s, %(ticker)s, %(before)s, %(after)s,
                        'because', now()
                    FROM checkpoints WHERE day = %(day)s
                    """,
                    {**right, **change},
                )
                changing = conn.execute(
                    "UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = 5 FROM picks, "
                    "checkpoints "
                    "WHERE picks.id = pick_id AND checkpoints.id = checkpoint_id AND ticker = "
                    "'MSFT' AND day = 1"
                )
                if change:
                    with pytest.raises(psycopg.errors.RestrictViolation):
                        async with conn.transaction():
                            await changing
                else:
                    assert (await changing).rowcount == 1


# At the same time


def slow(harness: JobHarness, ticker: str) -> asyncio.Event:
    """Let the next bars of a ticker take a while; the event says that they were requested."""
    requested, world = asyncio.Event(), harness.world

    def answers(request: Request) -> Reply:
        if request.query.get("symbol") != ticker or requested.is_set():
            return world(request)
        requested.set()
        return replace(world(request), delay=1)

    harness.provider.answers = answers
    return requested


async def test_a_baseline_corrected_while_a_morning_reads(harness):
    """The checkpoint uses the baseline as it is when it is stored, not as it was at the start."""
    batch = await restate_closes(harness, ("SPY", BASELINE, "640.0000"))
    harness.clock.time = due_at(MONDAY, 4)
    requested = slow(harness, "NVDA")
    morning = asyncio.create_task(daily.take(harness.context, batch.id, 4))
    await requested.wait()
    await adopted(harness, 0, "SPY")
    await morning
    assert {row[3:6] for row in await harness.rows(FIGURES)} == {
        (Decimal("-6.25"), 0, Decimal("6.25"))
    }


async def test_a_pick_ended_while_a_morning_reads(harness):
    """The checkpoint uses the recorded value, marked `ended`."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    harness.clock.time = due_at(MONDAY, 2)
    requested, context = slow(harness, "NVDA"), harness.context
    morning = asyncio.create_task(daily.take(context, batch.id, 2))
    await requested.wait()
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="MSFT",
        last_session=MONDAY,
        value=Decimal("3.3"),
        source="8-K",
        in_force=None,
    )
    await morning
    assert await harness.rows(
        "SELECT current_price, absolute_return_pct, metrics.ended, close_id FROM "
        "pick_checkpoint_metrics AS metrics "
        "JOIN checkpoints ON checkpoints.id = checkpoint_id JOIN picks ON picks.id = pick_id "
        "WHERE day = 2 AND position = 1"
    ) == [(Decimal("3.3"), 10, True, None)]


async def test_two_corrections_at_once(harness, database):
    """
    The second computes from the result of the first; its price, a tenth up, marks the day after as
    well.
    """
    await restate_closes(harness, ("SPY", BASELINE, "640.0000"), ("MSFT", TUESDAY, "3.3000"))
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute(JOURNAL_LOCK)
        first = asyncio.create_task(adopted(harness, 0, "SPY"))
        await wait_for_blocked_connections(harness)
        second = asyncio.create_task(adopted(harness, 2, "MSFT"))
        await wait_for_blocked_connections(harness, 2)
    assert await asyncio.gather(first, second) == [4, 2]
    assert [row[6] for row in await harness.rows(FIGURES) if row[1] == "MSFT"] == [
        False,
        True,
        True,
    ]
    assert {row[3] for row in await harness.rows(FIGURES)} == {Decimal("-6.25")}
    assert [row[4:6] for row in await harness.rows(FIGURES) if row[1] == "MSFT"] == [
        (0, Decimal("6.25")), (10, Decimal("16.25")), (0, Decimal("6.25"))
    ]  # fmt: skip
