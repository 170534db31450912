"""
A pick whose share has a new ticker from a session on.

The kind: what is read under a ticker is not always of the same share. Tried besides the example of
the issue (another security's older bars under the new ticker, which gave +100.25 %): its Monday
open, its older splits, its splits that another batch reads, the old ticker of the share used by
another company (bars and a split), a rename on the first session, twice, and back, a split of the
new ticker with and after the rename, a rename after the day was computed, in a completed batch,
with corrections after it, before an ending, without a date (as earlier versions recorded it), a
ticker that another pick of the batch had, and seven reasons to refuse.
"""

import asyncio
import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from api_records import engine_on
from commands import run, without_place
from job_context import (
    ALPHA_VANTAGE_KEY,
    MONDAY,
    JobHarness,
    make_completion,
    new_york,
    run_until_done,
)
from job_context import clock as clock
from job_context import harness as harness
from provider_server import Reply, says
from record_server import record_server, silent

from app.database import pools
from app.domain.calendar import due_at
from app.domain.model import Batch, JournalEntry, JournalKind
from app.errors import Discrepancy, Refused, TryAgainAt
from app.ops.verify import open_api, verify
from app.ops.verify import open_database as database_of
from app.simulation.faults import BAD_KEY, BURST, PREMIUM, QUOTA
from app.store import batches, journal, rehearsed
from app.web.feeds.export import ExportRange, read_parts
from jobs import corrections, daily, picks, prices, splits, weekly
from tests.integration.ops.test_verify import rewrite
from tests.scenarios.test_independent_verifier import outside

TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = (MONDAY + timedelta(days=days) for days in range(1, 5))
BASELINE = MONDAY - timedelta(days=3)
NEXT_MONDAY = MONDAY + timedelta(days=7)
SOURCE = "8-K of 2026-10-27"

FIGURES = """
SELECT day, closes.ticker, current_price, split_factor, round(absolute_return_pct, 2), unusual_move
FROM pick_checkpoint_metrics AS metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
LEFT JOIN closes ON closes.id = close_id
WHERE picks.position = 1 AND picks.batch_id = %s
ORDER BY day
"""
CORRECTED = (
    "SELECT day, corrections.ticker, field FROM corrections JOIN checkpoints ON "
    "checkpoints.id = checkpoint_id"
)
FIRST = "SELECT ticker, entry_open FROM picks WHERE position = 1"


def trades(harness: JobHarness, ticker: str, first: date, price: str, days: int = 20) -> None:
    """From a day on, a ticker closes at this price."""
    harness.world.closes |= {
        (ticker, first + timedelta(days=number)): price for number in range(days)
    }


def gone(harness: JobHarness, ticker: str, first: date, days: int = 40) -> None:
    """From a day on, a ticker has no bars."""
    harness.world.absent |= {(ticker, first + timedelta(days=number)) for number in range(days)}


async def mornings(harness: JobHarness, batch: Batch, *days: int, again: bool = False) -> None:
    """Take these days, each until it is stored, as the queue would."""
    for day in days:
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(
            harness, lambda day=day: daily.take(harness.context, batch.id, day, retake=again)
        )


def without_readings(entries: list[JournalEntry]) -> list[JournalEntry]:
    """Return the entries without READINGS: a refused command may have requested closes."""
    return [entry for entry in entries if entry.kind != JournalKind.READINGS]


async def renamed(
    harness: JobHarness,
    first: date,
    ticker: str = "MSFT",
    new: str = "KO",
    run_date: date = MONDAY,
    *,
    force: bool = False,
) -> int:
    return await picks.rename(
        harness.context,
        run_date=run_date,
        ticker=ticker,
        new=new,
        from_session=first,
        source=SOURCE,
        force=force,
    )


async def figures(harness: JobHarness, batch: Batch | None = None) -> list[tuple[Any, ...]]:
    """Return the first pick's figures by day: ticker, price, factor, return and mark."""
    batch = batch or await harness.batch()
    assert batch
    return [
        (day, name, *map(str, rest)) for day, name, *rest in await harness.rows(FIGURES, batch.id)
    ]


async def request_splits(harness: JobHarness, batch: Batch, ticker: str, day: int = 6) -> None:
    """Request a ticker's splits on a Sunday."""
    harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
    await splits.refresh_on_sunday(harness.context, batch, tickers=[ticker], day=day)


async def it_verifies(harness: JobHarness, address: str) -> None:
    """Verify by the command, from inside and outside, and with the independent verifier."""
    entries = len(await harness.journal())
    async with database_of(address) as source:
        assert (await verify(source, [], silent)).seq == entries
    async with record_server(address) as url, open_api(url, harness.context.sleep) as source:
        assert (await verify(source, [], silent)).seq == entries
    assert (await outside(address)).entries == entries


# Another share under the new ticker, before the rename


async def another_had_it(harness: JobHarness) -> Batch:
    """
    KO is another share at 6.01 until Tuesday, and MSFT's at 3.02 from Wednesday on; MSFT is no
    longer known.
    """
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    trades(harness=harness, ticker="KO", first=BASELINE - timedelta(days=30), price="6.01", days=34)
    trades(harness=harness, ticker="KO", first=WEDNESDAY, price="3.02")
    harness.world.unknown.add("MSFT")
    return batch


THE_SHARE = [
    (1, "MSFT", "3.0000", "1", "0.00", "False"),
    (2, "MSFT", "3.0000", "1", "0.00", "False"),
    (3, "KO", "3.02", "1", "0.67", "False"),  # (3.02 - 3) / 3, and never (6.01 - 3) / 3 = 100.33 %
    (4, "KO", "3.02", "1", "0.67", "False"),
]


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param([], id="older bars"),
        pytest.param([(TUESDAY, "2.0000")], id="an older split too"),
        pytest.param([(MONDAY, "0.5000"), (TUESDAY, "4.0000")], id="two older splits"),
    ],
)
@pytest.mark.sampled(1)
async def test_another_share_had_the_new_ticker(harness, database, listed):
    """Its bars and splits from before the rename are not the pick's, whenever they arrive."""
    batch = await another_had_it(harness)
    harness.world.splits["KO"] = listed
    harness.clock.time = new_york(THURSDAY, 8)
    assert await renamed(harness, WEDNESDAY) == 0
    await mornings(harness, batch, 3, 4)
    await mornings(harness, batch, 6)  # a Sunday: its splits are requested
    assert "KO" in harness.requested_splits
    assert await figures(harness) == THE_SHARE
    assert await harness.rows(CORRECTED) == []
    await it_verifies(harness, database)


async def test_the_other_share_is_a_pick_of_another_batch(harness, database):
    """Its older bars and its split are stored already, because an older batch has it."""
    older = await harness.make_batch(MONDAY - timedelta(days=7), "KO", "AAPL", "NVDA")
    trades(harness=harness, ticker="KO", first=BASELINE - timedelta(days=30), price="6.01", days=34)
    harness.world.splits["KO"] = [(TUESDAY, "2.0000")]
    harness.world.model = [
        make_completion(
            {
                "picks": [
                    {"ticker": ticker, "action": "BUY", "reasoning": "So.", "probability": 60}
                    for ticker in ("MSFT", "AAPL", "NVDA")
                ]
            }
        )
    ]
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    await mornings(harness, older, 9)
    await request_splits(harness=harness, batch=older, ticker="KO", day=9)
    trades(harness=harness, ticker="KO", first=WEDNESDAY, price="3.02")
    harness.clock.time = new_york(THURSDAY, 8)
    await renamed(harness, WEDNESDAY)
    await mornings(harness, batch, 3, 4)
    assert await figures(harness, batch) == THE_SHARE
    await mornings(harness, older, *range(1, 9))
    await it_verifies(harness, database)


@pytest.mark.parametrize(
    ("first", "opened"),
    [
        pytest.param(WEDNESDAY, None, id="the open of Monday is another share's"),
        pytest.param(MONDAY, Decimal("6.05"), id="the rename is of the first session"),
    ],
)
async def test_the_open_under_the_ticker_of_its_session(harness, database, first, opened):
    """`entryOpen` only comes from bars of the share itself."""
    batch = await harness.make_batch()
    harness.world.unknown.add("MSFT")
    trades(harness=harness, ticker="KO", first=BASELINE - timedelta(days=30), price="6.01", days=34)
    trades(harness=harness, ticker="KO", first=MONDAY if opened else WEDNESDAY, price="3.02")
    harness.world.opens["KO", MONDAY] = "6.05"
    await mornings(harness, batch, 1)
    harness.clock.time = new_york(THURSDAY, 8)
    assert await renamed(harness, first) == (
        1 if opened else 0
    )  # day 1 is retaken if KO has its close
    await mornings(harness, batch, 3)
    assert (await harness.rows(FIRST)) == [("KO", opened)]
    assert await figures(harness) == THE_SHARE[2:3]
    await it_verifies(harness, database)


# Another share under the old ticker, after the rename


async def test_another_company_takes_the_old_ticker(harness, database):
    """Its bars and its split, which a newer batch reads, are not the pick's."""
    batch = await harness.make_batch()
    trades(harness=harness, ticker="MSFT", first=FRIDAY, price="99.00")
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    await mornings(harness, batch, 1, 2)
    harness.clock.time = new_york(THURSDAY, 8)
    await renamed(harness, WEDNESDAY)
    await mornings(harness, batch, *range(3, 8))
    newer = await harness.make_batch(NEXT_MONDAY, "MSFT", "AAPL", "NVDA")
    harness.world.splits["MSFT"] = [(FRIDAY, "10.0000"), (NEXT_MONDAY, "3.0000")]
    await mornings(harness, newer, 1)
    await request_splits(harness, newer, "MSFT")
    await mornings(harness, batch, 8, 9)
    rows = await figures(harness, batch)
    assert {row[2:] for row in rows} == {
        (price, "1", "0.00", "False") for price in ("3.0000", "3.00")
    }
    assert [row[1] for row in rows] == ["MSFT"] * 2 + ["KO"] * 5
    await it_verifies(harness, database)


# One rename after another, and splits with them


async def test_renamed_twice_and_back(harness, database):
    """Each ticker's bars and splits count while the share has it."""
    batch = await harness.make_batch()
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    trades(harness=harness, ticker="KO", first=THURSDAY, price="77.00")
    trades(harness=harness, ticker="BRK.B", first=BASELINE, price="3.00")
    await mornings(harness, batch, 1)
    harness.clock.time = new_york(FRIDAY, 8)
    await renamed(harness, TUESDAY)
    harness.world.closes |= {("BRK.B", THURSDAY): "3.03"}
    with pytest.raises(
        Refused, match="--from must be after 2026-10-27, the first session of the ticker KO"
    ):
        await renamed(harness=harness, first=TUESDAY, ticker="KO", new="BRK.B")
    await renamed(harness=harness, first=THURSDAY, ticker="KO", new="BRK.B")
    await mornings(harness, batch, 2, 3, 4)
    harness.clock.time = new_york(FRIDAY, 18)
    trades(harness=harness, ticker="MSFT", first=FRIDAY, price="3.06")
    harness.clock.time = new_york(FRIDAY + timedelta(days=1), 8)
    await renamed(harness=harness, first=FRIDAY, ticker="BRK.B", new="MSFT")
    await mornings(harness, batch, 5)
    for ticker, day, factor in (
        ("KO", WEDNESDAY, "1.01"),
        ("KO", FRIDAY, "7"),
        ("MSFT", WEDNESDAY, "5"),
    ):
        harness.world.splits[ticker] = [*harness.world.splits.get(ticker, ()), (day, factor)]
    await request_splits(harness, batch, "KO")
    await request_splits(harness, batch, "MSFT")
    assert [
        (day, name, price, factor) for day, name, price, factor, *_ in await figures(harness)
    ] == [
        (1, "MSFT", "3.0000", "1"),
        (2, "KO", "3.00", "1"),
        (3, "KO", "3.00", "1.01"),
        (4, "BRK.B", "3.03", "1.01"),
        (5, "MSFT", "3.06", "1.01"),
    ]
    assert await harness.rows(FIRST) == [("MSFT", Decimal("3.0000"))]
    await it_verifies(harness, database)


@pytest.mark.parametrize(
    "effective", [WEDNESDAY, THURSDAY], ids=["with the rename", "after the rename"]
)
async def test_a_split_of_the_new_ticker(harness, database, effective):
    """It counts; if the rename came with it, it is requested before the closes are compared."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    trades(harness=harness, ticker="KO", first=BASELINE - timedelta(days=30), price="6.01", days=34)
    trades(harness=harness, ticker="KO", first=WEDNESDAY, price="3.03")
    trades(harness=harness, ticker="KO", first=effective, price="30.30")
    harness.world.splits["KO"] = [(effective, "0.1000")]
    harness.clock.time = new_york(THURSDAY, 8)
    await renamed(harness, WEDNESDAY)
    assert harness.requested_splits == (["KO"] if effective == WEDNESDAY else [])
    await mornings(harness, batch, 3, 4)
    assert [row[3:] for row in (await figures(harness))[2:]] == [
        ("0.1000" if effective == WEDNESDAY else "1", "1.00", "False"),
        ("0.1000", "1.00", "False"),
    ]
    await it_verifies(harness, database)


# Days that were computed before, and corrections


async def computed_before(harness: JobHarness) -> Batch:
    """Day 3 was computed from MSFT's close, although the share has been KO since Wednesday."""
    batch = await harness.make_batch()
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    trades(harness=harness, ticker="KO", first=WEDNESDAY, price="3.09")
    await mornings(harness, batch, 1, 2, 3)
    harness.clock.time = new_york(THURSDAY, 12)
    await renamed(harness, WEDNESDAY)
    await mornings(harness, batch, 4)
    return batch


async def test_a_day_that_was_computed_before(harness, database):
    """It keeps its reading and its splits, also those of the old ticker that arrive later."""
    batch = await computed_before(harness)
    stood = await figures(harness)
    assert [row[:5] for row in stood[2:]] == [
        (3, "MSFT", "3.0000", "1", "0.00"),
        (4, "KO", "3.09", "1", "3.00"),
    ]
    harness.world.splits["KO"] = [(WEDNESDAY, "1.0100")]
    await request_splits(harness, batch, "KO")
    assert [row[3] for row in await figures(harness)] == ["1", "1", "1", "1.0100"]
    harness.world.splits["MSFT"] = [(TUESDAY, "1.0200"), (WEDNESDAY, "1.0300")]
    await request_splits(harness, batch, "MSFT")
    assert [row[3] for row in await figures(harness)] == ["1", "1.0200", "1.05060000", "1.03020000"]
    await it_verifies(harness, database)


async def test_a_day_that_is_corrected_to_the_new_ticker(harness, database):
    """
    `checkpoint correct` takes the reading under the ticker that the share has on that session.
    """
    batch = await computed_before(harness)
    harness.world.splits["MSFT"] = [(TUESDAY, "1.0200"), (WEDNESDAY, "1.0300")]
    await request_splits(harness, batch, "MSFT")
    context = harness.context
    assert (
        await corrections.adopt(
            context.pool,
            now=context.now(),
            run_date=MONDAY,
            day=3,
            ticker="KO",
            reason="It is KO's session.",
            in_force=None,
        )
        == 1
    )
    assert [row[:4] for row in (await figures(harness))[2:]] == [
        (3, "KO", "3.09", "1.0200"),
        (4, "KO", "3.09", "1.0200"),
    ]
    message = (
        "^MSFT was read as 3.0000 for 2026-10-27, and nothing else was read since. "
        "`alpha-monday closes MSFT` shows"
    )
    with pytest.raises(Refused, match=message):
        await corrections.adopt(
            context.pool,
            now=context.now(),
            run_date=MONDAY,
            day=2,
            ticker="KO",
            reason="Nothing else was read.",
            in_force=None,
        )
    await it_verifies(harness, database)


# The kind: a reading named by another ticker than that under which it was read.
@pytest.mark.parametrize(
    ("ticker", "day", "message"),
    [
        pytest.param(
            "KO",
            0,
            "MSFT was read as 3.0000 for 2026-10-23, and nothing else was",
            id="the baseline",
        ),
        pytest.param(
            "KO",
            1,
            "MSFT was read as 3.0000 for 2026-10-26, and nothing else was",
            id="before the rename",
        ),
        pytest.param(
            "KO", 4, "KO was read as 3.09 for 2026-10-29, and nothing else was", id="after it"
        ),
        pytest.param(
            "AAPL",
            4,
            "AAPL was read as 80.0000 for 2026-10-29, and nothing else was",
            id="another pick",
        ),
        pytest.param(
            "SPY",
            1,
            "SPY was read as 600.0000 for 2026-10-26, and nothing else was",
            id="the benchmark",
        ),
    ],
)
async def test_the_ticker_that_a_reading_has(harness, ticker, day, message):
    """It is the one under which it was read."""
    await computed_before(harness)
    with pytest.raises(Refused) as refused:
        await corrections.adopt(
            harness.context.pool,
            now=harness.context.now(),
            run_date=MONDAY,
            day=day,
            ticker=ticker,
            reason="So.",
            in_force=None,
        )
    assert str(refused.value).startswith(message)


async def test_the_ticker_of_a_reading_whose_session_has_another_now(harness):
    """Day 3 uses MSFT's reading, and KO's of that session is the same."""
    batch = await harness.make_batch()
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.0000")
    await mornings(harness, batch, 1, 2, 3)
    harness.clock.time = new_york(THURSDAY, 12)
    await renamed(harness, WEDNESDAY)
    with pytest.raises(Refused) as refused:
        await corrections.adopt(
            harness.context.pool,
            now=harness.context.now(),
            run_date=MONDAY,
            day=3,
            ticker="KO",
            reason="So.",
            in_force=None,
        )
    assert str(refused.value) == (
        "MSFT was read as 3.0000 for 2026-10-28, and KO was not read as anything else. "
        "`alpha-monday closes KO` shows all readings."
    )


async def test_late_splits_before_and_after_the_rename(harness, database):
    """Old days use the old ticker's splits, new ones those of both."""
    batch = await another_had_it(harness)
    harness.clock.time = new_york(THURSDAY, 8)
    await renamed(harness, WEDNESDAY)
    await mornings(harness, batch, 3, 4)
    harness.world.unknown.clear()
    harness.world.splits |= {
        "MSFT": [(TUESDAY, "1.0500"), (THURSDAY, "3.0000")],
        "KO": [(THURSDAY, "1.0100")],
    }
    await request_splits(harness, batch, "MSFT")
    await request_splits(harness, batch, "KO")
    assert [row[3] for row in await figures(harness)] == ["1", "1.0500", "1.0500", "1.06050000"]
    assert {(day, ticker) for day, ticker, _ in await harness.rows(CORRECTED)} == {
        (2, "KO"),
        (3, "KO"),
        (4, "KO"),
    }
    await it_verifies(harness, database)


async def test_a_completed_batch(harness, database):
    """The skipped days from the session on are retaken; earlier ones belong to the old ticker."""
    batch = await harness.make_batch()
    gone(harness, "MSFT", TUESDAY)
    await mornings(harness, batch, *range(1, 15))
    trades(harness=harness, ticker="KO", first=WEDNESDAY, price="3.02", days=30)
    assert await renamed(harness, WEDNESDAY) == 8
    days = (
        "SELECT (args ->> 'day')::integer FROM procrastinate_jobs WHERE args ? 'retake' ORDER BY 1"
    )
    again = [day for (day,) in await harness.rows(days)]
    assert again == [3, 4, 5, 8, 9, 10, 11, 12]
    await mornings(harness, batch, 2, *again, again=True)
    async with pools.transaction(harness.context.pool) as conn:
        await weekly.record_missed_mondays(conn, harness.context)
    assert [(day, name) for day, name, *_ in await figures(harness)] == [
        (1, "MSFT"),
        *((day, "KO") for day in again),
    ]
    await it_verifies(harness, database)


async def test_ended_after_it_was_renamed(harness, database):
    """The value counts from then on, with the splits of both tickers."""
    batch = await another_had_it(harness)
    harness.clock.time = new_york(THURSDAY, 8)
    await renamed(harness, WEDNESDAY)
    await mornings(harness, batch, 3)
    harness.clock.time = new_york(FRIDAY, 8)
    context = harness.context
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="KO",
        last_session=WEDNESDAY,
        value=Decimal("3.30"),
        source="8-K",
        in_force=None,
    )
    await mornings(harness, batch, 4, 5)
    assert (await figures(harness))[2:] == [
        THE_SHARE[2],
        (4, None, "3.30", "1", "10.00", "False"),
        (5, None, "3.30", "1", "10.00", "False"),
    ]
    await it_verifies(harness, database)


# Entries of earlier versions


async def test_a_rename_without_a_date(harness, database):
    """
    As earlier versions recorded it: bars and splits of both tickers count; a dated rename is
    possible afterwards.
    """
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.03")
    harness.world.splits["KO"] = [(TUESDAY, "1.0100")]
    async with pools.transaction(harness.context.pool) as conn:
        await conn.execute("UPDATE picks SET ticker = 'KO' WHERE position = 1")
        pick, *_ = await batches.list_picks(conn, batch.id)
        recorded = {"pick": pick, "before": "MSFT"}
        await journal.append(
            conn,
            JournalKind.PICK_RENAMED,
            at=harness.context.now(),
            recorded=recorded,
            batch_id=batch.id,
        )
    await mornings(harness, batch, 3)
    harness.world.splits["MSFT"] = [(WEDNESDAY, "1.0200")]
    await request_splits(harness, batch, "KO")
    await request_splits(harness, batch, "MSFT")
    assert [(row[1], row[3]) for row in await figures(harness)] == [
        ("MSFT", "1"), ("MSFT", "1.0100"), ("KO", "1.03020000")
    ]  # fmt: skip
    await it_verifies(harness, database)
    trades(harness=harness, ticker="BRK.B", first=BASELINE, price="3.03")
    await renamed(harness=harness, first=FRIDAY, ticker="KO", new="BRK.B")
    await mornings(harness, batch, 5)
    assert (await figures(harness))[3][1:4] == ("BRK.B", "3.03", "1.03020000")
    await it_verifies(harness, database)


# Whether it is the same share


async def test_a_share_that_is_another(harness):
    """
    `rename MCD GE`: refused with both closes; with --force it is recorded, and marked from that
    session on.
    """
    batch = await harness.make_batch()
    trades(harness=harness, ticker="KO", first=BASELINE, price="0.84")
    await mornings(harness, batch, 1, 2)
    harness.clock.time = new_york(THURSDAY, 8)
    entries = await harness.journal()
    with pytest.raises(Refused) as refused:
        await renamed(harness, WEDNESDAY)
    assert str(refused.value) == (
        "KO closed at 0.84 on 2026-10-28, but MSFT closed at 3.0000 on 2026-10-27: these do not "
        "fit. Check the ticker and the session. With --force it is recorded without comparing "
        "closes, and later figures of the pick are marked unusualMove."
    )
    assert without_readings(await harness.journal()) == without_readings(entries)
    await renamed(harness, WEDNESDAY, force=True)
    await mornings(harness, batch, 3, 4)
    assert [row[4:] for row in await figures(harness)] == [
        ("0.00", "False"), ("0.00", "False"), ("-72.00", "True"), ("-72.00", "True")
    ]  # fmt: skip


async def test_a_forced_rename_is_marked_whatever_the_move(harness, database):
    """Days before it are not, nor those that keep the old ticker's close."""
    batch = await harness.make_batch()
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    await mornings(harness, batch, 1, 2, 3)
    await renamed(harness, WEDNESDAY, force=True)
    assert "KO" not in harness.requested_tickers
    await mornings(harness, batch, 4)
    await request_splits(harness, batch, "KO")
    assert [row[5] for row in await figures(harness)] == ["False", "False", "False", "True"]
    await it_verifies(harness, database)


def throttled() -> Reply:
    return says(
        {
            "Information": (
                "We have detected your API key and our standard limit is 25 requests per day."
            )
        }
    )


def unknown(harness: JobHarness) -> None:
    harness.world.unknown.add("KO")


def unreadable(harness: JobHarness) -> None:
    harness.world.instead = [Reply(b"<html>", status=500)] * 9


def spent(harness: JobHarness) -> None:
    harness.world.instead = [throttled()]


def early(harness: JobHarness) -> None:
    gone(harness, "KO", WEDNESDAY)
    trades(harness=harness, ticker="KO", first=BASELINE, price="2.50")


def far(harness: JobHarness) -> None:
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.30")


def swapped(harness: JobHarness) -> None:
    trades(harness=harness, ticker="KO", first=WEDNESDAY, price="2.70")


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        pytest.param(unknown, "KO", id="unknown"),
        pytest.param(
            unreadable,
            "The closes of KO could not be read: Alpha Vantage answered 500.",
            id="unreadable",
        ),
        pytest.param(spent, "The closes of KO could not be read: ", id="no requests left"),
        pytest.param(
            early,
            "KO has no close from 2026-10-28 on yet, and MSFT closed at 3.0000 on",
            id="too early",
        ),
        pytest.param(
            far,
            "KO closed at 3.30 on 2026-10-28, but MSFT closed at 3.0000 on 2026-10-27",
            id="a tenth up",
        ),
        pytest.param(
            swapped, "KO closed at 2.70 on 2026-10-28, but MSFT closed at 3.0000", id="a tenth down"
        ),
    ],
)
@pytest.mark.sampled(2)
async def test_closes_that_do_not_fit(harness, happens, message):
    """Refused with what to do, and nothing is recorded; with --force it is."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    harness.clock.time = new_york(THURSDAY, 8)
    happens(harness)
    entries = await harness.journal()
    with pytest.raises(Refused) as refused:
        await renamed(harness, WEDNESDAY)
    assert str(refused.value).startswith(message) or message in str(refused.value)
    assert "With --force it is recorded" in str(refused.value)
    assert without_readings(await harness.journal()) == without_readings(entries)
    assert await harness.rows(FIRST) == [("MSFT", Decimal("3.0000"))]
    harness.provider.requests.clear()
    await renamed(harness, WEDNESDAY, force=True)
    assert harness.provider.requests == []
    assert json.loads((await harness.journal())[-1].content)["renaming"]["forced"] == "true"


@pytest.mark.parametrize(
    ("closes", "first", "requests"),
    [
        pytest.param(
            {THURSDAY: "3.01"}, WEDNESDAY, 1, id="the first close since comes a session later"
        ),
        pytest.param(
            {TUESDAY: "3.01", WEDNESDAY: "4.20"}, WEDNESDAY, 1, id="the whole history moved"
        ),
        pytest.param({WEDNESDAY: "2.71"}, WEDNESDAY, 1, id="less than a tenth down"),
        pytest.param({TUESDAY: "6.01", WEDNESDAY: "3.29"}, WEDNESDAY, 1, id="less than a tenth up"),
        pytest.param(
            {WEDNESDAY: "3.00", TUESDAY: "3.00"}, THURSDAY, 0, id="no bar yet but the history moved"
        ),
    ],
)
async def test_closes_that_fit(harness, closes, first, requests):
    """One request, and none if the stored closes are enough."""
    batch = await harness.make_batch()
    gone(harness=harness, ticker="KO", first=BASELINE, days=30)
    await mornings(harness, batch, 1, 2)
    for day, price in closes.items():
        harness.world.absent.discard(("KO", day))
        harness.world.closes["KO", day] = price
    if first == THURSDAY:
        await mornings(harness, batch, 3)
        requests = 1
    harness.clock.time = new_york(FRIDAY if THURSDAY in closes else THURSDAY, 8)
    harness.provider.requests.clear()
    await renamed(harness, first)
    assert harness.requested_tickers == ["KO"] * requests
    assert json.loads((await harness.journal())[-1].content)["renaming"]["forced"] == "false"


async def test_stored_closes_are_not_requested(harness):
    """Another batch has read the new ticker's closes."""
    harness.clock.time = new_york(MONDAY)
    batch = await harness.make_batch(MONDAY)
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    newer = await harness.make_batch(NEXT_MONDAY, "KO", "AAPL", "NVDA")
    assert newer
    harness.provider.requests.clear()
    harness.clock.time = new_york(NEXT_MONDAY, 12)
    await mornings(harness, batch, 1, 2, 3, 4, 5)
    harness.provider.requests.clear()
    await renamed(harness, FRIDAY)
    assert harness.provider.requests == []


async def test_a_ticker_that_another_pick_had(harness):
    """From a session on which the other pick still had it, two shares would have it."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2, 3)
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    harness.clock.time = new_york(FRIDAY, 8)
    await renamed(harness, THURSDAY)
    with pytest.raises(Refused, match="MSFT is in the batch of 2026-10-26 already"):
        await renamed(harness=harness, first=WEDNESDAY, ticker="AAPL", new="MSFT", force=True)
    await renamed(harness=harness, first=THURSDAY, ticker="AAPL", new="MSFT", force=True)


async def test_the_mark_of_a_large_move_with_the_rename(harness, database):
    """
    The history moved, so it is the same share; its fall by a third that day is marked like any such
    move.
    """
    batch = await harness.make_batch()
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    trades(harness=harness, ticker="KO", first=WEDNESDAY, price="2.00")
    await mornings(harness, batch, 1, 2)
    harness.clock.time = new_york(THURSDAY, 8)
    await renamed(harness, WEDNESDAY)
    await mornings(harness, batch, 3)
    assert harness.requested_splits == ["KO"]
    assert (await figures(harness))[2][1:] == ("KO", "2.00", "1", "-33.33", "True")
    await it_verifies(harness, database)


async def test_the_open_of_a_session_that_is_renamed_afterwards(harness, database):
    """An open that was read under the old ticker stays, as the closes do."""
    batch = await harness.make_batch()
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    harness.world.opens |= {("MSFT", MONDAY): "3.01", ("KO", MONDAY): "2.99"}
    await mornings(harness, batch, 1, 2)
    harness.clock.time = new_york(THURSDAY, 8)
    await renamed(harness, MONDAY)
    await mornings(harness, batch, 3)
    assert await harness.rows(FIRST) == [("KO", Decimal("3.01"))]
    assert [row[1] for row in await figures(harness)] == ["MSFT", "MSFT", "KO"]
    await it_verifies(harness, database)


async def test_an_open_that_becomes_known_by_the_rename(harness, database):
    """
    It completes earlier figures too; these keep the splits of the ticker that they were read under.
    """
    batch = await harness.make_batch()
    harness.world.absent.add(("MSFT", MONDAY))
    harness.world.closes["MSFT", WEDNESDAY] = "1.50"
    harness.world.splits["MSFT"] = [(WEDNESDAY, "2.0000")]
    await mornings(harness, batch, 1, 2, 3)
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    harness.world.opens["KO", MONDAY] = "2.99"
    harness.clock.time = new_york(THURSDAY, 12)
    await renamed(harness, MONDAY)
    await mornings(harness, batch, 4)
    assert await harness.rows(FIRST) == [("KO", Decimal("2.99"))]
    assert await figures(harness) == [
        (2, "MSFT", "3.0000", "1", "0.00", "False"),
        (3, "MSFT", "1.50", "2.0000", "0.00", "False"),
        (4, "KO", "3.00", "1", "0.00", "False"),
    ]
    opened = (
        "SELECT DISTINCT round(return_from_open_pct, 4) FROM pick_checkpoint_metrics AS "
        "metrics JOIN picks"
    )
    assert await harness.rows(f"{opened} ON picks.id = pick_id WHERE position = 1") == [
        (Decimal("0.3344"),)
    ]
    await it_verifies(harness, database)


async def test_a_rename_while_closes_are_read(harness):
    """The closes are those of the old ticker: the day is taken again."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    harness.clock.time = due_at(MONDAY, 3)
    closes = await prices.fetch_closes(harness.context, ["SPY", "MSFT", "AAPL", "NVDA"], WEDNESDAY)
    await renamed(harness, WEDNESDAY, force=True)
    target = daily._Target(batch=batch, day=3, stored=None)
    with pytest.raises(TryAgainAt, match="KO was renamed while its close was read"):
        await daily._compute_and_store(
            harness.context, target, closes_by_ticker=closes, read_at=harness.context.now()
        )
    assert [row[0] for row in await figures(harness)] == [1, 2]
    await mornings(harness, batch, 3)
    assert [row[1] for row in await figures(harness)] == ["MSFT", "MSFT", "KO"]


# What a verifier must find


def renaming(content: dict[str, Any], **change: str) -> None:
    if "renaming" in content:
        content["renaming"].update(change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            {"from_session": str(FRIDAY)},
            "its from_session 2026-10-30 was in the future when it was recorded",
            id="later",
        ),
        pytest.param(
            {"forced": "true"},
            "unusual_move is not true, but the rename from 2026-10-28",
            id="not marked",
        ),
        pytest.param(
            {"from_session": "Wednesday"},
            "its member renaming is no renaming of a pick",
            id="no session",
        ),
        pytest.param({"pick_id": str(UUID(int=1))}, "its renaming is of the pick", id="no pick"),
        pytest.param(
            {"from_session": "0001-01-01"},
            "its from_session 0001-01-01 is not after the baseline session",
            id="before all",
        ),
        pytest.param(
            {"forced": "perhaps"},
            "its member renaming is no renaming of a pick",
            id="neither true nor false",
        ),
    ],
)
@pytest.mark.sampled(2)
async def test_a_consistent_forgery_of_a_rename(harness, database, change, expected):
    """
    The journal is written again with all hashes right, and `verify` names the rule that is broken.
    """
    await computed_before(harness)
    with psycopg.connect(database) as conn:
        # Only without its triggers, and not as `unguarded`: the database is the other tests', too.
        conn.execute("SET session_replication_role = replica")
        rewrite(conn, lambda content: renaming(content, **change))
    with pytest.raises(Discrepancy, match=expected):
        async with database_of(database) as source:
            await verify(source, [], silent)
    if "pick" not in expected:
        with pytest.raises(AssertionError, match=r"^(reading|renaming|forced-rename): "):
            await outside(database)


# Where it is shown

SHOWN = """{ batchOn(runDate: "2026-10-26") {
    picks { ticker pickedAs renamed }
    checkpoints(status: COMPUTED) {
        day metrics { pick { position } close { ticker } ended renamed }
    }
} }"""


async def test_where_a_new_ticker_is_shown(harness, database, tmp_path):
    """
    In the API, the export and on a terminal: the picked ticker, and whose prices were read under
    another.
    """
    batch = await computed_before(harness)
    context = harness.context
    harness.clock.time = new_york(FRIDAY, 18)
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="KO",
        last_session=THURSDAY,
        value=Decimal("3.30"),
        source="8-K",
        in_force=None,
    )
    await mornings(harness, batch, 5)
    answer = json.loads((await engine_on(context.pool).execute(SHOWN)).body)["data"]["batchOn"]
    assert answer["picks"] == [
        {"ticker": "KO", "pickedAs": "MSFT", "renamed": True},
        {"ticker": "AAPL", "pickedAs": "AAPL", "renamed": False},
        {"ticker": "NVDA", "pickedAs": "NVDA", "renamed": False},
    ]
    metrics = [(day["day"], one) for day in answer["checkpoints"] for one in day["metrics"]]
    first = [
        (day, one["close"], one["renamed"]) for day, one in metrics if one["pick"]["position"] == 1
    ]
    assert first == [
        (1, {"ticker": "MSFT"}, False),
        (2, {"ticker": "MSFT"}, False),
        (3, {"ticker": "MSFT"}, False),  # it keeps its reading
        (4, {"ticker": "KO"}, True),
        (5, None, True),  # ended: by the pick
    ]
    assert not any(one["renamed"] for _, one in metrics if one["pick"]["position"] != 1)
    rows = [
        row
        async for part in read_parts(engine_on(context.pool), ExportRange())
        for row in part.rows
        if row.position == 1
    ]
    assert {(row.ticker, row.picked_as) for row in rows} == {("KO", "MSFT")}
    assert [row.renamed for row in rows] == [None, False, False, False, True, True]
    done = await asyncio.to_thread(
        run, "show", MONDAY, cwd=tmp_path, DATABASE_URL=database, COLUMNS="200"
    )
    assert "SELL KO (picked as MSFT)" in done.stdout
    days = [line for line in done.stdout.splitlines() if "│ 2026-1" in line]
    assert ["renamed" in line for line in days] == [False, False, False, False, True, True]


# As an operator runs it


async def commanded(
    harness: JobHarness,
    database: str,
    tmp_path: Path,
    *arguments: object,
    key: str = ALPHA_VANTAGE_KEY,
) -> tuple[int, str]:
    done = await asyncio.to_thread(
        run, "pick", "rename", *arguments, cwd=tmp_path, DATABASE_URL=database,
        ALPHA_VANTAGE_API_KEY=key, ALPHA_VANTAGE_BASE_URL=harness.provider.url,
    )  # fmt: skip
    assert ("Traceback" in done.stderr, done.stdout) == (False, "")
    return done.returncode, without_place(done.stderr).strip()


async def test_the_command_asks_the_provider(harness, database, tmp_path):
    """It has a client of its own, and the shared ledger; a refusal has exit code 1."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    harness.clock.time = new_york(THURSDAY, 8)
    facts = ("MSFT", "KO", "--from", WEDNESDAY, "--source", SOURCE)
    code, output = await commanded(harness, database, tmp_path, MONDAY, *facts)
    progress_line = (
        "Asking Alpha Vantage for {0}. (If it does not know {0}, this takes some minutes.)"
    )
    assert (code, output.splitlines()[0], output.splitlines()[-1][:84]) == (
        1,
        progress_line.format("KO"),
        "alpha-monday: KO closed at 60.0000 on 2026-10-28, but MSFT closed at 3.0000 on 2026-",
    )
    assert harness.requested_tickers.count("KO") == 1
    trades(harness=harness, ticker="BRK.B", first=BASELINE, price="3.01")
    facts = ("MSFT", "BRK.B", "--from", WEDNESDAY, "--source", SOURCE)
    assert await commanded(harness, database, tmp_path, MONDAY, *facts) == (
        0, f"{progress_line.format('BRK.B')}\nRecorded. Skipped days that are taken again: 0."
    )  # fmt: skip
    requests = await harness.rows(
        "SELECT symbol, outcome FROM operations.provider_requests WHERE symbol IN ('KO', 'BRK.B') "
        "ORDER BY 1"
    )
    assert requests[0] == ("BRK.B", "answered")


async def test_a_rehearsal_is_refused(harness, database, tmp_path):
    """Its prices are not Alpha Vantage's, and its time is simulated."""
    await harness.make_batch()
    for statement in filter(None, rehearsed.CREATE_CLOCK_TABLE.split(";")):
        await harness.rows(statement)
    facts = ("MSFT", "KO", "--from", MONDAY, "--source", SOURCE, "--force")
    code, output = await commanded(harness, database, tmp_path, MONDAY, *facts)
    assert (code, "This database holds a rehearsal" in output) == (1, True)


# The kind: a request that cannot succeed. Without a key no request is sent, and a rename that needs
# no request is not refused.
@pytest.mark.parametrize(
    ("options", "stored", "code"),
    [
        pytest.param([], False, 1, id="a request is needed"),
        pytest.param(["--force"], False, 0, id="with --force"),
        pytest.param([], True, 0, id="the stored closes fit"),
    ],
)
@pytest.mark.parametrize(
    "key", ["", pytest.param("  ", marks=pytest.mark.long)], ids=["not set", "blank"]
)
@pytest.mark.sampled(1)
async def test_the_command_without_a_key(harness, database, tmp_path, options, stored, code, key):
    """It names the setting at once, and only where the key is needed; the model's key never is."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    harness.clock.time = new_york(THURSDAY, 8)
    if stored:
        await prices.fetch_closes(harness.context, ["KO"], WEDNESDAY)
    harness.provider.requests.clear()
    facts = ("MSFT", "KO", "--from", WEDNESDAY, "--source", SOURCE, *options)
    exit_code, output = await commanded(harness, database, tmp_path, MONDAY, *facts, key=key)
    assert (exit_code, harness.provider.requests) == (code, [])
    assert output == (
        "alpha-monday: The closes of KO could not be read: ALPHA_VANTAGE_API_KEY must be set to "
        "the key that the "
        "provider gave you, for example ALPHA_VANTAGE_API_KEY=abc123. With --force it is recorded "
        "without comparing "
        "closes, and later figures of the pick are marked unusualMove."
        if code
        else "Recorded. Skipped days that are taken again: 0."
    )


# The kind: what trying again does not help, and what it does.
@pytest.mark.parametrize(
    ("reply", "again"),
    [
        pytest.param({"Error Message": BAD_KEY}, False, id="an invalid key"),
        pytest.param(
            {"Information": "The API key is inactive."}, False, id="a key that is inactive"
        ),
        pytest.param({"Information": PREMIUM}, False, id="a premium function"),
        pytest.param({"Information": QUOTA.format(key="x")}, True, id="the day's quota"),
        pytest.param({"Information": BURST}, True, id="too fast"),
        pytest.param({"Note": "Something new."}, True, id="an unknown notice"),
        pytest.param(
            {"Note": "Something new, without an end"}, True, id="a notice without a mark at its end"
        ),
    ],
)
@pytest.mark.sampled(2)
async def test_when_a_rename_may_be_tried_again(harness, reply, again):
    """The message says to try again later only where that may help."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    harness.clock.time = new_york(THURSDAY, 8)
    harness.world.instead = [says(reply)] * 9
    with pytest.raises(Refused, match="The closes of KO could not be read: ") as refused:
        await renamed(harness, WEDNESDAY)
    assert (". Try again later. With --force" in str(refused.value)) == again


async def test_the_progress_of_requests(harness):
    """One line before the first request; none if there is no request."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    harness.clock.time = new_york(THURSDAY, 8)
    harness.provider.requests.clear()
    reported: list[tuple[str, int]] = []
    await picks.rename(
        harness.context,
        run_date=MONDAY,
        ticker="MSFT",
        new="KO",
        from_session=WEDNESDAY,
        source=SOURCE,
        report_progress=lambda line: reported.append((line, len(harness.provider.requests))),
    )
    assert reported == [
        ("Asking Alpha Vantage for KO. (If it does not know KO, this takes some minutes.)", 0)
    ]
    await picks.rename(
        harness.context,
        run_date=MONDAY,
        ticker="KO",
        new="BRK.B",
        from_session=THURSDAY,
        source=SOURCE,
        force=True,
        report_progress=lambda line: reported.append((line, 0)),
    )
    assert len(reported) == 1


async def test_a_longer_wait_is_reported(harness, database, tmp_path):
    """An unreadable answer is requested again, and the terminal shows when."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    trades(harness=harness, ticker="KO", first=BASELINE, price="3.00")
    harness.world.instead = [Reply(b"<html>", status=500)] * 2
    facts = ("MSFT", "KO", "--from", WEDNESDAY, "--source", SOURCE)
    code, output = await commanded(harness, database, tmp_path, MONDAY, *facts)
    assert (code, "The next request to Alpha Vantage is in " in output) == (0, True), output
