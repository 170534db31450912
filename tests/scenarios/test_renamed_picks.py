"""
A pick whose share has a new ticker from a session on.

The kind: what is read under a ticker is not always of the same share. Tried besides the example of the issue (another
security's older bars under the new ticker, which gave +100.25 %): its Monday open, its older splits, splits that
another batch learns of it, the old ticker in the hands of another company (bars and a split), a rename on the first
session, twice, and back, a split of the new ticker with and after the rename, a rename after the day was computed,
in a completed batch, with corrections after it, before an ending, without a date (as earlier versions recorded it),
a ticker that another pick of the batch had, and seven reasons to refuse.
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
from job_tools import ALPHA_VANTAGE_KEY, MONDAY, House, completes, new_york, until_it_can
from job_tools import clock as clock
from job_tools import house as house
from provider_server import Reply, says
from record_server import record_server, silent
from test_stranger import outside
from test_verify import rewrite

from app.database import pools, rehearsed
from app.domain.calendar import due_at
from app.domain.model import Batch, JournalKind
from app.errors import Misfit, Refused, TryAgainAt
from app.ops.verify import api, verify
from app.ops.verify import database as database_of
from app.simulation.faults import BAD_KEY, BURST, PREMIUM, QUOTA
from app.store import batches, journal
from app.web.feeds.export import Wanted, parts
from jobs import corrections, daily, picks, prices, splits, weekly

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
CORRECTED = "SELECT day, corrections.ticker, field FROM corrections JOIN checkpoints ON checkpoints.id = checkpoint_id"
FIRST = "SELECT ticker, entry_open FROM picks WHERE position = 1"


def trades(house: House, ticker: str, first: date, price: str, days: int = 20) -> None:
    """From a day on, a ticker closes at this price."""
    house.world.closes |= {(ticker, first + timedelta(days=number)): price for number in range(days)}


def gone(house: House, ticker: str, first: date, days: int = 40) -> None:
    """From a day on, a ticker has no bars."""
    house.world.absent |= {(ticker, first + timedelta(days=number)) for number in range(days)}


async def mornings(house: House, batch: Batch, *days: int, again: bool = False) -> None:
    """Take these days, each to its end, as the queue would."""
    for day in days:
        house.clock.time = max(house.clock.time, due_at(batch.run_date, day))
        await until_it_can(house, lambda day=day: daily.take(house.tools, batch.id, day, again=again))


async def renamed(
    house: House, first: date, ticker: str = "MSFT", new: str = "KO", run_date: date = MONDAY, *, force: bool = False
) -> int:
    return await picks.rename(house.tools, run_date, ticker, new, first, SOURCE, force=force)


async def figures(house: House, batch: Batch | None = None) -> list[tuple[Any, ...]]:
    """How the first pick stood, by day: under which ticker, at which price, with which factor, return and mark."""
    batch = batch or await house.batch()
    assert batch
    return [(day, name, *map(str, rest)) for day, name, *rest in await house.rows(FIGURES, batch.id)]


async def learns(house: House, batch: Batch, ticker: str, day: int = 6) -> None:
    """Ask for a ticker's splits on a Sunday."""
    house.clock.time = max(house.clock.time, due_at(batch.run_date, day))
    await splits.look_on_sunday(house.tools, batch, [ticker], day)


async def it_verifies(house: House, address: str) -> None:
    """By the command, from inside and from outside, and by the independent verifier."""
    entries = len(await house.journal())
    async with database_of(address) as source:
        assert (await verify(source, [], silent)).seq == entries
    async with record_server(address) as url, api(url, house.tools.sleep) as source:
        assert (await verify(source, [], silent)).seq == entries
    assert (await outside(address)).entries == entries


# Another share under the new ticker, before the rename


async def another_had_it(house: House) -> Batch:
    """KO is another share at 6.01 until Tuesday, and MSFT's at 3.02 from Wednesday on; MSFT is no longer known."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    trades(house, "KO", BASELINE - timedelta(days=30), "6.01", 34)
    trades(house, "KO", WEDNESDAY, "3.02")
    house.world.unknown.add("MSFT")
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
async def test_another_share_had_the_new_ticker(house, database, listed):
    """Its bars and its splits from before the rename are not the pick's, whenever they are learnt."""
    batch = await another_had_it(house)
    house.world.splits["KO"] = listed
    house.clock.time = new_york(THURSDAY, 8)
    assert await renamed(house, WEDNESDAY) == 0
    await mornings(house, batch, 3, 4)
    await mornings(house, batch, 6)  # a Sunday: its splits are asked for
    assert "KO" in house.asked_for_splits
    assert await figures(house) == THE_SHARE
    assert await house.rows(CORRECTED) == []
    await it_verifies(house, database)


async def test_the_other_share_is_a_pick_of_another_batch(house, database):
    """Its older bars and its split are stored already, because an older batch has it."""
    older = await house.a_batch(MONDAY - timedelta(days=7), "KO", "AAPL", "NVDA")
    trades(house, "KO", BASELINE - timedelta(days=30), "6.01", 34)
    house.world.splits["KO"] = [(TUESDAY, "2.0000")]
    house.world.model = [completes({"picks": [
        {"ticker": ticker, "action": "BUY", "reasoning": "So."} for ticker in ("MSFT", "AAPL", "NVDA")
    ]})]  # fmt: skip
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    await mornings(house, older, 9)
    await learns(house, older, "KO", 9)
    trades(house, "KO", WEDNESDAY, "3.02")
    house.clock.time = new_york(THURSDAY, 8)
    await renamed(house, WEDNESDAY)
    await mornings(house, batch, 3, 4)
    assert await figures(house, batch) == THE_SHARE
    await mornings(house, older, *range(1, 9))
    await it_verifies(house, database)


@pytest.mark.parametrize(
    ("first", "opened"),
    [
        pytest.param(WEDNESDAY, None, id="the open of Monday is another share's"),
        pytest.param(MONDAY, Decimal("6.05"), id="the rename is of the first session"),
    ],
)
async def test_the_open_under_the_ticker_of_its_session(house, database, first, opened):
    """`entryOpen` is only known of bars that are the share's."""
    batch = await house.a_batch()
    house.world.unknown.add("MSFT")
    trades(house, "KO", BASELINE - timedelta(days=30), "6.01", 34)
    trades(house, "KO", MONDAY if opened else WEDNESDAY, "3.02")
    house.world.opens["KO", MONDAY] = "6.05"
    await mornings(house, batch, 1)
    house.clock.time = new_york(THURSDAY, 8)
    assert await renamed(house, first) == (1 if opened else 0)  # day 1 is looked at again if KO has its close
    await mornings(house, batch, 3)
    assert (await house.rows(FIRST)) == [("KO", opened)]
    assert await figures(house) == THE_SHARE[2:3]
    await it_verifies(house, database)


# Another share under the old ticker, after the rename


async def test_another_company_takes_the_old_ticker(house, database):
    """Its bars and its split, which a newer batch learns, are not the pick's."""
    batch = await house.a_batch()
    trades(house, "MSFT", FRIDAY, "99.00")
    trades(house, "KO", BASELINE, "3.00")
    await mornings(house, batch, 1, 2)
    house.clock.time = new_york(THURSDAY, 8)
    await renamed(house, WEDNESDAY)
    await mornings(house, batch, *range(3, 8))
    newer = await house.a_batch(NEXT_MONDAY, "MSFT", "AAPL", "NVDA")
    house.world.splits["MSFT"] = [(FRIDAY, "10.0000"), (NEXT_MONDAY, "3.0000")]
    await mornings(house, newer, 1)
    await learns(house, newer, "MSFT")
    await mornings(house, batch, 8, 9)
    rows = await figures(house, batch)
    assert {row[2:] for row in rows} == {(price, "1", "0.00", "False") for price in ("3.0000", "3.00")}
    assert [row[1] for row in rows] == ["MSFT"] * 2 + ["KO"] * 5
    await it_verifies(house, database)


# One rename after another, and splits with them


async def test_renamed_twice_and_back(house, database):
    """Each ticker's bars and splits count while the share has it."""
    batch = await house.a_batch()
    trades(house, "KO", BASELINE, "3.00")
    trades(house, "KO", THURSDAY, "77.00")
    trades(house, "BRK.B", BASELINE, "3.00")
    await mornings(house, batch, 1)
    house.clock.time = new_york(FRIDAY, 8)
    await renamed(house, TUESDAY)
    house.world.closes |= {("BRK.B", THURSDAY): "3.03"}
    with pytest.raises(Refused, match="--from must be after 2026-10-27, from which KO has its ticker"):
        await renamed(house, TUESDAY, "KO", "BRK.B")
    await renamed(house, THURSDAY, "KO", "BRK.B")
    await mornings(house, batch, 2, 3, 4)
    house.clock.time = new_york(FRIDAY, 18)
    trades(house, "MSFT", FRIDAY, "3.06")
    house.clock.time = new_york(FRIDAY + timedelta(days=1), 8)
    await renamed(house, FRIDAY, "BRK.B", "MSFT")
    await mornings(house, batch, 5)
    for ticker, day, factor in (("KO", WEDNESDAY, "1.01"), ("KO", FRIDAY, "7"), ("MSFT", WEDNESDAY, "5")):
        house.world.splits[ticker] = [*house.world.splits.get(ticker, ()), (day, factor)]
    await learns(house, batch, "KO")
    await learns(house, batch, "MSFT")
    assert [(day, name, price, factor) for day, name, price, factor, *_ in await figures(house)] == [
        (1, "MSFT", "3.0000", "1"),
        (2, "KO", "3.00", "1"),
        (3, "KO", "3.00", "1.01"),
        (4, "BRK.B", "3.03", "1.01"),
        (5, "MSFT", "3.06", "1.01"),
    ]
    assert await house.rows(FIRST) == [("MSFT", Decimal("3.0000"))]
    await it_verifies(house, database)


@pytest.mark.parametrize("effective", [WEDNESDAY, THURSDAY], ids=["with the rename", "after the rename"])
async def test_a_split_of_the_new_ticker(house, database, effective):
    """It counts; and where the rename came with it, it is asked for before the closes are compared."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    trades(house, "KO", BASELINE - timedelta(days=30), "6.01", 34)
    trades(house, "KO", WEDNESDAY, "3.03")
    trades(house, "KO", effective, "30.30")
    house.world.splits["KO"] = [(effective, "0.1000")]
    house.clock.time = new_york(THURSDAY, 8)
    await renamed(house, WEDNESDAY)
    assert house.asked_for_splits == (["KO"] if effective == WEDNESDAY else [])
    await mornings(house, batch, 3, 4)
    assert [row[3:] for row in (await figures(house))[2:]] == [
        ("0.1000" if effective == WEDNESDAY else "1", "1.00", "False"),
        ("0.1000", "1.00", "False"),
    ]
    await it_verifies(house, database)


# Days that were computed before, and corrections


async def computed_before(house: House) -> Batch:
    """Day 3 was computed from MSFT's close, although the share has been KO since Wednesday."""
    batch = await house.a_batch()
    trades(house, "KO", BASELINE, "3.00")
    trades(house, "KO", WEDNESDAY, "3.09")
    await mornings(house, batch, 1, 2, 3)
    house.clock.time = new_york(THURSDAY, 12)
    await renamed(house, WEDNESDAY)
    await mornings(house, batch, 4)
    return batch


async def test_a_day_that_was_computed_before(house, database):
    """It keeps its reading and its splits, also those of the old ticker that are learnt later."""
    batch = await computed_before(house)
    stood = await figures(house)
    assert [row[:5] for row in stood[2:]] == [
        (3, "MSFT", "3.0000", "1", "0.00"),
        (4, "KO", "3.09", "1", "3.00"),
    ]
    house.world.splits["KO"] = [(WEDNESDAY, "1.0100")]
    await learns(house, batch, "KO")
    assert [row[3] for row in await figures(house)] == ["1", "1", "1", "1.0100"]
    house.world.splits["MSFT"] = [(TUESDAY, "1.0200"), (WEDNESDAY, "1.0300")]
    await learns(house, batch, "MSFT")
    assert [row[3] for row in await figures(house)] == ["1", "1.0200", "1.05060000", "1.03020000"]
    await it_verifies(house, database)


async def test_a_day_that_is_corrected_to_the_new_ticker(house, database):
    """`checkpoint correct` takes the reading under the ticker that the share has on that session."""
    batch = await computed_before(house)
    house.world.splits["MSFT"] = [(TUESDAY, "1.0200"), (WEDNESDAY, "1.0300")]
    await learns(house, batch, "MSFT")
    tools = house.tools
    assert await corrections.adopt(tools.pool, tools.now(), MONDAY, 3, "KO", "It is KO's session.") == 1
    assert [row[:4] for row in (await figures(house))[2:]] == [
        (3, "KO", "3.09", "1.0200"),
        (4, "KO", "3.09", "1.0200"),
    ]
    said = "^MSFT was read as 3.0000 for 2026-10-27, and nothing else was read since. `alpha-monday closes MSFT` shows"
    with pytest.raises(Refused, match=said):
        await corrections.adopt(tools.pool, tools.now(), MONDAY, 2, "KO", "Nothing else was read.")
    await it_verifies(house, database)


# The kind: a reading named by another ticker than that under which it was read.
@pytest.mark.parametrize(
    ("ticker", "day", "says"),
    [
        pytest.param("KO", 0, "MSFT was read as 3.0000 for 2026-10-23, and nothing else was", id="the baseline"),
        pytest.param("KO", 1, "MSFT was read as 3.0000 for 2026-10-26, and nothing else was", id="before the rename"),
        pytest.param("KO", 4, "KO was read as 3.09 for 2026-10-29, and nothing else was", id="after it"),
        pytest.param("AAPL", 4, "AAPL was read as 80.0000 for 2026-10-29, and nothing else was", id="another pick"),
        pytest.param("SPY", 1, "SPY was read as 600.0000 for 2026-10-26, and nothing else was", id="the benchmark"),
    ],
)
async def test_the_ticker_that_a_reading_has(house, ticker, day, says):
    """It is that under which it was read."""
    await computed_before(house)
    with pytest.raises(Refused) as refused:
        await corrections.adopt(house.tools.pool, house.tools.now(), MONDAY, day, ticker, "So.")
    assert str(refused.value).startswith(says)


async def test_the_ticker_of_a_reading_whose_session_has_another_now(house):
    """Day 3 rests on MSFT's reading, and KO's of that session is the same."""
    batch = await house.a_batch()
    trades(house, "KO", BASELINE, "3.0000")
    await mornings(house, batch, 1, 2, 3)
    house.clock.time = new_york(THURSDAY, 12)
    await renamed(house, WEDNESDAY)
    with pytest.raises(Refused) as refused:
        await corrections.adopt(house.tools.pool, house.tools.now(), MONDAY, 3, "KO", "So.")
    assert str(refused.value) == (
        "MSFT was read as 3.0000 for 2026-10-28, and KO was not read as anything else. "
        "`alpha-monday closes KO` shows all readings."
    )


async def test_a_split_learnt_late_before_and_after_the_rename(house, database):
    """Old days by the old ticker, new ones by both."""
    batch = await another_had_it(house)
    house.clock.time = new_york(THURSDAY, 8)
    await renamed(house, WEDNESDAY)
    await mornings(house, batch, 3, 4)
    house.world.unknown.clear()
    house.world.splits |= {"MSFT": [(TUESDAY, "1.0500"), (THURSDAY, "3.0000")], "KO": [(THURSDAY, "1.0100")]}
    await learns(house, batch, "MSFT")
    await learns(house, batch, "KO")
    assert [row[3] for row in await figures(house)] == ["1", "1.0500", "1.0500", "1.06050000"]
    assert {(day, ticker) for day, ticker, _ in await house.rows(CORRECTED)} == {(2, "KO"), (3, "KO"), (4, "KO")}
    await it_verifies(house, database)


async def test_a_completed_batch(house, database):
    """The skipped days from the session on are looked at again; earlier ones are the old ticker's."""
    batch = await house.a_batch()
    gone(house, "MSFT", TUESDAY)
    await mornings(house, batch, *range(1, 15))
    trades(house, "KO", WEDNESDAY, "3.02", 30)
    assert await renamed(house, WEDNESDAY) == 8
    days = "SELECT (args ->> 'day')::integer FROM procrastinate_jobs WHERE args ? 'retake' ORDER BY 1"
    again = [day for (day,) in await house.rows(days)]
    assert again == [3, 4, 5, 8, 9, 10, 11, 12]
    await mornings(house, batch, 2, *again, again=True)
    async with pools.transaction(house.tools.pool) as conn:
        await weekly.record_missed(conn, house.tools)
    assert [(day, name) for day, name, *_ in await figures(house)] == [(1, "MSFT"), *((day, "KO") for day in again)]
    await it_verifies(house, database)


async def test_ended_after_it_was_renamed(house, database):
    """The value counts from then on, with the splits of both tickers."""
    batch = await another_had_it(house)
    house.clock.time = new_york(THURSDAY, 8)
    await renamed(house, WEDNESDAY)
    await mornings(house, batch, 3)
    house.clock.time = new_york(FRIDAY, 8)
    tools = house.tools
    await picks.end(tools.pool, tools.calendar, tools.now(), MONDAY, "KO", WEDNESDAY, Decimal("3.30"), "8-K")
    await mornings(house, batch, 4, 5)
    assert (await figures(house))[2:] == [
        THE_SHARE[2], (4, None, "3.30", "1", "10.00", "False"), (5, None, "3.30", "1", "10.00", "False")
    ]  # fmt: skip
    await it_verifies(house, database)


# Entries of earlier versions


async def test_a_rename_without_a_date(house, database):
    """As earlier versions recorded it: the bars and splits of both tickers count; a dated one can follow."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    trades(house, "KO", BASELINE, "3.03")
    house.world.splits["KO"] = [(TUESDAY, "1.0100")]
    async with pools.transaction(house.tools.pool) as conn:
        await conn.execute("UPDATE picks SET ticker = 'KO' WHERE position = 1")
        pick, *_ = await batches.picks_of(conn, batch.id)
        recorded = {"pick": pick, "before": "MSFT"}
        await journal.append(conn, JournalKind.PICK_RENAMED, house.tools.now(), recorded, batch.id)
    await mornings(house, batch, 3)
    house.world.splits["MSFT"] = [(WEDNESDAY, "1.0200")]
    await learns(house, batch, "KO")
    await learns(house, batch, "MSFT")
    assert [(row[1], row[3]) for row in await figures(house)] == [
        ("MSFT", "1"), ("MSFT", "1.0100"), ("KO", "1.03020000")
    ]  # fmt: skip
    await it_verifies(house, database)
    trades(house, "BRK.B", BASELINE, "3.03")
    await renamed(house, FRIDAY, "KO", "BRK.B")
    await mornings(house, batch, 5)
    assert (await figures(house))[3][1:4] == ("BRK.B", "3.03", "1.03020000")
    await it_verifies(house, database)


# Whether it is the same share


async def test_a_share_that_is_another(house):
    """`rename MCD GE`: refused with both closes; by force it is recorded, and marked from that session on."""
    batch = await house.a_batch()
    trades(house, "KO", BASELINE, "0.84")
    await mornings(house, batch, 1, 2)
    house.clock.time = new_york(THURSDAY, 8)
    entries = await house.journal()
    with pytest.raises(Refused) as refused:
        await renamed(house, WEDNESDAY)
    assert str(refused.value) == (
        "KO closed at 0.84 on 2026-10-28, but MSFT closed at 3.0000 on 2026-10-27: that is no fit. Check the ticker "
        "and the session. With --force it is recorded without comparing closes, and later figures of the pick are "
        "marked unusualMove."
    )
    assert await house.journal() == entries
    await renamed(house, WEDNESDAY, force=True)
    await mornings(house, batch, 3, 4)
    assert [row[4:] for row in await figures(house)] == [
        ("0.00", "False"), ("0.00", "False"), ("-72.00", "True"), ("-72.00", "True")
    ]  # fmt: skip


async def test_a_forced_rename_is_marked_whatever_the_move(house, database):
    """Days before it are not, nor those that keep the old ticker's close."""
    batch = await house.a_batch()
    trades(house, "KO", BASELINE, "3.00")
    await mornings(house, batch, 1, 2, 3)
    await renamed(house, WEDNESDAY, force=True)
    assert "KO" not in house.asked
    await mornings(house, batch, 4)
    await learns(house, batch, "KO")
    assert [row[5] for row in await figures(house)] == ["False", "False", "False", "True"]
    await it_verifies(house, database)


def throttled() -> Reply:
    return says({"Information": "We have detected your API key and our standard limit is 25 requests per day."})


def unknown(house: House) -> None:
    house.world.unknown.add("KO")


def unreadable(house: House) -> None:
    house.world.instead = [Reply(b"<html>", status=500)] * 9


def spent(house: House) -> None:
    house.world.instead = [throttled()]


def early(house: House) -> None:
    gone(house, "KO", WEDNESDAY)
    trades(house, "KO", BASELINE, "2.50")


def far(house: House) -> None:
    trades(house, "KO", BASELINE, "3.30")


def swapped(house: House) -> None:
    trades(house, "KO", WEDNESDAY, "2.70")


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        pytest.param(unknown, "KO", id="unknown"),
        pytest.param(unreadable, "The closes of KO could not be read: Alpha Vantage answered 500.", id="unreadable"),
        pytest.param(spent, "The closes of KO could not be read: ", id="no requests left"),
        pytest.param(early, "KO has no close from 2026-10-28 on yet, and MSFT closed at 3.0000 on", id="too early"),
        pytest.param(far, "KO closed at 3.30 on 2026-10-28, but MSFT closed at 3.0000 on 2026-10-27", id="a tenth up"),
        pytest.param(swapped, "KO closed at 2.70 on 2026-10-28, but MSFT closed at 3.0000", id="a tenth down"),
    ],
)
async def test_closes_that_do_not_fit(house, happens, says):
    """Refused with what to do, and nothing is recorded; by force it is."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    house.clock.time = new_york(THURSDAY, 8)
    happens(house)
    entries = await house.journal()
    with pytest.raises(Refused) as refused:
        await renamed(house, WEDNESDAY)
    assert str(refused.value).startswith(says) or says in str(refused.value)
    assert "With --force it is recorded" in str(refused.value)
    assert await house.journal() == entries
    assert await house.rows(FIRST) == [("MSFT", Decimal("3.0000"))]
    house.provider.requests.clear()
    await renamed(house, WEDNESDAY, force=True)
    assert house.provider.requests == []
    assert json.loads((await house.journal())[-1].content)["renaming"]["forced"] == "true"


@pytest.mark.parametrize(
    ("closes", "first", "requests"),
    [
        pytest.param({THURSDAY: "3.01"}, WEDNESDAY, 1, id="the first close since comes a session later"),
        pytest.param({TUESDAY: "3.01", WEDNESDAY: "4.20"}, WEDNESDAY, 1, id="the whole history moved"),
        pytest.param({WEDNESDAY: "2.71"}, WEDNESDAY, 1, id="less than a tenth down"),
        pytest.param({TUESDAY: "6.01", WEDNESDAY: "3.29"}, WEDNESDAY, 1, id="less than a tenth up"),
        pytest.param({WEDNESDAY: "3.00", TUESDAY: "3.00"}, THURSDAY, 0, id="no bar yet but the history moved"),
    ],
)
async def test_closes_that_fit(house, closes, first, requests):
    """One request, and none where what is stored is enough."""
    batch = await house.a_batch()
    gone(house, "KO", BASELINE, 30)
    await mornings(house, batch, 1, 2)
    for day, price in closes.items():
        house.world.absent.discard(("KO", day))
        house.world.closes["KO", day] = price
    if first == THURSDAY:
        await mornings(house, batch, 3)
        requests = 1
    house.clock.time = new_york(FRIDAY if THURSDAY in closes else THURSDAY, 8)
    house.provider.requests.clear()
    await renamed(house, first)
    assert house.asked == ["KO"] * requests
    assert json.loads((await house.journal())[-1].content)["renaming"]["forced"] == "false"


async def test_what_is_stored_is_not_asked_for(house):
    """Another batch has read the new ticker's closes."""
    house.clock.time = new_york(MONDAY)
    batch = await house.a_batch(MONDAY)
    trades(house, "KO", BASELINE, "3.00")
    newer = await house.a_batch(NEXT_MONDAY, "KO", "AAPL", "NVDA")
    assert newer
    house.provider.requests.clear()
    house.clock.time = new_york(NEXT_MONDAY, 12)
    await mornings(house, batch, 1, 2, 3, 4, 5)
    house.provider.requests.clear()
    await renamed(house, FRIDAY)
    assert house.provider.requests == []


async def test_a_ticker_that_another_pick_had(house):
    """It would be two shares' at once, if it was given from a session on at which the other still had it."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2, 3)
    trades(house, "KO", BASELINE, "3.00")
    house.clock.time = new_york(FRIDAY, 8)
    await renamed(house, THURSDAY)
    with pytest.raises(Refused, match="MSFT stands in the batch of 2026-10-26 already"):
        await renamed(house, WEDNESDAY, "AAPL", "MSFT", force=True)
    await renamed(house, THURSDAY, "AAPL", "MSFT", force=True)


async def test_the_mark_of_a_large_move_with_the_rename(house, database):
    """The history moved, so it is the same share; that it fell by a third that day is marked as any such move."""
    batch = await house.a_batch()
    trades(house, "KO", BASELINE, "3.00")
    trades(house, "KO", WEDNESDAY, "2.00")
    await mornings(house, batch, 1, 2)
    house.clock.time = new_york(THURSDAY, 8)
    await renamed(house, WEDNESDAY)
    await mornings(house, batch, 3)
    assert house.asked_for_splits == ["KO"]
    assert (await figures(house))[2][1:] == ("KO", "2.00", "1", "-33.33", "True")
    await it_verifies(house, database)


async def test_the_open_of_a_session_that_is_renamed_afterwards(house, database):
    """An open that was read under the old ticker stays, as the closes do."""
    batch = await house.a_batch()
    trades(house, "KO", BASELINE, "3.00")
    house.world.opens |= {("MSFT", MONDAY): "3.01", ("KO", MONDAY): "2.99"}
    await mornings(house, batch, 1, 2)
    house.clock.time = new_york(THURSDAY, 8)
    await renamed(house, MONDAY)
    await mornings(house, batch, 3)
    assert await house.rows(FIRST) == [("KO", Decimal("3.01"))]
    assert [row[1] for row in await figures(house)] == ["MSFT", "MSFT", "KO"]
    await it_verifies(house, database)


async def test_an_open_that_becomes_known_by_the_rename(house, database):
    """It fills the figures from before too; these keep the splits of the ticker that they were read under."""
    batch = await house.a_batch()
    house.world.absent.add(("MSFT", MONDAY))
    house.world.closes["MSFT", WEDNESDAY] = "1.50"
    house.world.splits["MSFT"] = [(WEDNESDAY, "2.0000")]
    await mornings(house, batch, 1, 2, 3)
    trades(house, "KO", BASELINE, "3.00")
    house.world.opens["KO", MONDAY] = "2.99"
    house.clock.time = new_york(THURSDAY, 12)
    await renamed(house, MONDAY)
    await mornings(house, batch, 4)
    assert await house.rows(FIRST) == [("KO", Decimal("2.99"))]
    assert await figures(house) == [
        (2, "MSFT", "3.0000", "1", "0.00", "False"),
        (3, "MSFT", "1.50", "2.0000", "0.00", "False"),
        (4, "KO", "3.00", "1", "0.00", "False"),
    ]
    opened = "SELECT DISTINCT round(return_from_open_pct, 4) FROM pick_checkpoint_metrics AS metrics JOIN picks"
    assert await house.rows(f"{opened} ON picks.id = pick_id WHERE position = 1") == [(Decimal("0.3344"),)]
    await it_verifies(house, database)


async def test_a_rename_while_closes_are_read(house):
    """The closes are those of the old ticker: the day is taken again."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    house.clock.time = due_at(MONDAY, 3)
    found = await prices.closes_of(house.tools, ["SPY", "MSFT", "AAPL", "NVDA"], WEDNESDAY)
    await renamed(house, WEDNESDAY, force=True)
    with pytest.raises(TryAgainAt, match="KO was renamed while its close was read"):
        await daily._compute(house.tools, batch, 3, None, found, house.tools.now())
    assert [row[0] for row in await figures(house)] == [1, 2]
    await mornings(house, batch, 3)
    assert [row[1] for row in await figures(house)] == ["MSFT", "MSFT", "KO"]


# What a verifier must find


def renaming(content: dict[str, Any], **change: str) -> None:
    if "renaming" in content:
        content["renaming"].update(change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            {"from_session": str(FRIDAY)}, "its from_session 2026-10-30 was to come when it was recorded", id="later"
        ),
        pytest.param({"forced": "true"}, "unusual_move is not true, but a rename from 2026-10-28", id="not marked"),
        pytest.param({"from_session": "Wednesday"}, "what it calls renaming is none of a pick", id="no session"),
        pytest.param({"pick_id": str(UUID(int=1))}, "its renaming is of the pick", id="no pick"),
        pytest.param(
            {"from_session": "0001-01-01"}, "its from_session 0001-01-01 is not after the baseline's", id="before all"
        ),
        pytest.param({"forced": "perhaps"}, "what it calls renaming is none of a pick", id="neither true nor false"),
    ],
)
async def test_a_consistent_lie_about_a_rename(house, database, change, expected):
    """A journal that was written anew, with every hash right."""
    await computed_before(house)
    with psycopg.connect(database) as conn:
        # Only without its triggers, and not as `unguarded`: the database is the other tests', too.
        conn.execute("SET session_replication_role = replica")
        rewrite(conn, lambda content: renaming(content, **change))
    with pytest.raises(Misfit, match=expected):
        async with database_of(database) as source:
            await verify(source, [], silent)
    if "pick" not in expected:
        with pytest.raises(AssertionError, match=r"^(reading|renaming|forced-rename): "):
            await outside(database)


# Where it is shown

SHOWN = """{ batchOn(runDate: "2026-10-26") {
    picks { ticker pickedAs renamed }
    checkpoints(status: COMPUTED) { day metrics { pick { position } close { ticker } ended renamed } }
} }"""


async def test_where_a_new_ticker_is_shown(house, database, tmp_path):
    """In the API, the export and on a terminal: which ticker was picked, and whose prices were read under another."""
    batch = await computed_before(house)
    tools = house.tools
    house.clock.time = new_york(FRIDAY, 18)
    await picks.end(tools.pool, tools.calendar, tools.now(), MONDAY, "KO", THURSDAY, Decimal("3.30"), "8-K")
    await mornings(house, batch, 5)
    answer = json.loads((await engine_on(tools.pool).answer(SHOWN)).body)["data"]["batchOn"]
    assert answer["picks"] == [
        {"ticker": "KO", "pickedAs": "MSFT", "renamed": True},
        {"ticker": "AAPL", "pickedAs": "AAPL", "renamed": False},
        {"ticker": "NVDA", "pickedAs": "NVDA", "renamed": False},
    ]
    metrics = [(day["day"], one) for day in answer["checkpoints"] for one in day["metrics"]]
    first = [(day, one["close"], one["renamed"]) for day, one in metrics if one["pick"]["position"] == 1]
    assert first == [
        (1, {"ticker": "MSFT"}, False),
        (2, {"ticker": "MSFT"}, False),
        (3, {"ticker": "MSFT"}, False),  # it keeps its reading
        (4, {"ticker": "KO"}, True),
        (5, None, True),  # ended: by the pick
    ]
    assert not any(one["renamed"] for _, one in metrics if one["pick"]["position"] != 1)
    rows = [row async for part in parts(engine_on(tools.pool), Wanted()) for row in part.rows if row.position == 1]
    assert {(row.ticker, row.picked_as) for row in rows} == {("KO", "MSFT")}
    assert [row.renamed for row in rows] == [None, False, False, False, True, True]
    done = await asyncio.to_thread(run, "show", MONDAY, cwd=tmp_path, DATABASE_URL=database, COLUMNS="200")
    assert "SELL KO (picked as MSFT)" in done.stdout
    days = [line for line in done.stdout.splitlines() if "│ 2026-1" in line]
    assert ["renamed" in line for line in days] == [False, False, False, False, True, True]


# As an operator says it


async def commanded(
    house: House, database: str, tmp_path: Path, *arguments: object, key: str = ALPHA_VANTAGE_KEY
) -> tuple[int, str]:
    done = await asyncio.to_thread(
        run, "pick", "rename", *arguments, cwd=tmp_path, DATABASE_URL=database,
        ALPHA_VANTAGE_API_KEY=key, ALPHA_VANTAGE_BASE_URL=house.provider.url,
    )  # fmt: skip
    assert ("Traceback" in done.stderr, done.stdout) == (False, "")
    return done.returncode, without_place(done.stderr).strip()


async def test_the_command_asks_the_provider(house, database, tmp_path):
    """It has a client of its own, and the ledger that all share; a refusal has exit code 1."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    house.clock.time = new_york(THURSDAY, 8)
    facts = ("MSFT", "KO", "--from", WEDNESDAY, "--source", SOURCE)
    code, said = await commanded(house, database, tmp_path, MONDAY, *facts)
    asking = "Asking Alpha Vantage for {0}. (If it does not know {0}, this takes some minutes.)"
    assert (code, said.splitlines()[0], said.splitlines()[-1][:84]) == (
        1,
        asking.format("KO"),
        "alpha-monday: KO closed at 60.0000 on 2026-10-28, but MSFT closed at 3.0000 on 2026-",
    )
    assert house.asked.count("KO") == 1
    trades(house, "BRK.B", BASELINE, "3.01")
    facts = ("MSFT", "BRK.B", "--from", WEDNESDAY, "--source", SOURCE)
    assert await commanded(house, database, tmp_path, MONDAY, *facts) == (
        0, f"{asking.format('BRK.B')}\nRecorded. 0 skipped days are looked at again."
    )  # fmt: skip
    requests = await house.rows(
        "SELECT symbol, outcome FROM operations.provider_requests WHERE symbol IN ('KO', 'BRK.B') ORDER BY 1"
    )
    assert requests[0] == ("BRK.B", "answered")


async def test_a_rehearsal_is_refused(house, database, tmp_path):
    """Its prices are not Alpha Vantage's, and its time is not today."""
    await house.a_batch()
    for statement in filter(None, rehearsed.CLOCK.split(";")):
        await house.rows(statement)
    facts = ("MSFT", "KO", "--from", MONDAY, "--source", SOURCE, "--force")
    code, said = await commanded(house, database, tmp_path, MONDAY, *facts)
    assert (code, "This database holds a rehearsal" in said) == (1, True)


# The kind: a request that cannot succeed. Without a key nothing is asked, and nothing that needs no request is refused.
@pytest.mark.parametrize(
    ("options", "stored", "code"),
    [
        pytest.param([], False, 1, id="something must be asked"),
        pytest.param(["--force"], False, 0, id="by force"),
        pytest.param([], True, 0, id="what is stored fits"),
    ],
)
@pytest.mark.parametrize("key", ["", "  "], ids=["not set", "blank"])
async def test_the_command_without_a_key(house, database, tmp_path, options, stored, code, key):
    """It names the setting at once, and only where the key is needed; the model's key never is."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    trades(house, "KO", BASELINE, "3.00")
    house.clock.time = new_york(THURSDAY, 8)
    if stored:
        await prices.closes_of(house.tools, ["KO"], WEDNESDAY)
    house.provider.requests.clear()
    facts = ("MSFT", "KO", "--from", WEDNESDAY, "--source", SOURCE, *options)
    done, said = await commanded(house, database, tmp_path, MONDAY, *facts, key=key)
    assert (done, house.provider.requests) == (code, [])
    assert said == (
        "alpha-monday: The closes of KO could not be read: ALPHA_VANTAGE_API_KEY must be set to the key that the "
        "provider gave you, for example ALPHA_VANTAGE_API_KEY=abc123. With --force it is recorded without comparing "
        "closes, and later figures of the pick are marked unusualMove."
        if code
        else "Recorded. 0 skipped days are looked at again."
    )


# The kind: what trying again does not help, and what it does.
@pytest.mark.parametrize(
    ("reply", "again"),
    [
        pytest.param({"Error Message": BAD_KEY}, False, id="an invalid key"),
        pytest.param({"Information": "The API key is inactive."}, False, id="a key that is inactive"),
        pytest.param({"Information": PREMIUM}, False, id="a premium function"),
        pytest.param({"Information": QUOTA.format(key="x")}, True, id="the day's quota"),
        pytest.param({"Information": BURST}, True, id="too fast"),
        pytest.param({"Note": "Something new."}, True, id="an unknown notice"),
        pytest.param({"Note": "Something new, without an end"}, True, id="a notice without a mark at its end"),
    ],
)
async def test_when_a_rename_may_be_tried_again(house, reply, again):
    """To try again later is only said where that may help."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    house.clock.time = new_york(THURSDAY, 8)
    house.world.instead = [says(reply)] * 9
    with pytest.raises(Refused, match="The closes of KO could not be read: ") as refused:
        await renamed(house, WEDNESDAY)
    assert (". Try again later. With --force" in str(refused.value)) == again


async def test_what_is_told_while_it_asks(house):
    """One line, before the first request; none where nothing is asked."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    trades(house, "KO", BASELINE, "3.00")
    house.clock.time = new_york(THURSDAY, 8)
    house.provider.requests.clear()
    told: list[tuple[str, int]] = []
    await picks.rename(
        house.tools, MONDAY, "MSFT", "KO", WEDNESDAY, SOURCE,
        tell=lambda line: told.append((line, len(house.provider.requests))),
    )  # fmt: skip
    assert told == [("Asking Alpha Vantage for KO. (If it does not know KO, this takes some minutes.)", 0)]
    await picks.rename(
        house.tools, MONDAY, "KO", "BRK.B", THURSDAY, SOURCE, force=True, tell=lambda line: told.append((line, 0))
    )
    assert len(told) == 1


async def test_a_longer_wait_is_told(house, database, tmp_path):
    """An answer that cannot be read is asked for again, and the terminal says when."""
    batch = await house.a_batch()
    await mornings(house, batch, 1, 2)
    trades(house, "KO", BASELINE, "3.00")
    house.world.instead = [Reply(b"<html>", status=500)] * 2
    facts = ("MSFT", "KO", "--from", WEDNESDAY, "--source", SOURCE)
    code, said = await commanded(house, database, tmp_path, MONDAY, *facts)
    assert (code, "The next request to Alpha Vantage is in " in said) == (0, True), said
