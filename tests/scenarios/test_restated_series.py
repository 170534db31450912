"""
Series that the provider restates: the move that is examined is the move that is published.

The kind: the provider changes a session's price after figures use it. Each case describes the
fortnight's first mornings: which price of which session the provider returns from which morning on,
which splits it lists, and which mornings have no close. NVDA (or SPY) begins at 1000. The figures
are computed manually, as fractions. No case ends with a wrong figure that is not marked, and none
with a mark that stays on a right one.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import pytest
from job_context import BASELINE, MONDAY, JobHarness, run_until_done
from job_context import clock as clock
from job_context import harness as harness

from app.database.pools import transaction
from app.domain.calendar import due_at
from app.domain.model import Batch
from app.ops.verify import open_database as record_at
from app.ops.verify import verify
from app.store import declarations
from jobs import corrections, daily

ALL = ["SPY", "MSFT", "AAPL", "NVDA"]


def session_of(day: int) -> date:
    """Return the session whose closes a checkpoint uses; for day 0 the baseline session."""
    return MONDAY + timedelta(days=day - 1) if day else BASELINE


FIGURES = """
SELECT day, split_factor, absolute_return_pct, unusual_move
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
WHERE ticker = %s
ORDER BY day
"""
OF_BENCHMARK = """
SELECT day, benchmark_split_factor, benchmark_return_pct, benchmark_unusual_move
FROM checkpoints
WHERE day > 0 AND status = 'computed'
ORDER BY day
"""


async def figures(
    harness: JobHarness, ticker: str = "NVDA"
) -> list[tuple[int, Fraction, Fraction, bool]]:
    """
    Return by day: the factor, the change since the baseline as a share (exact, if the decimals
    end), and the mark.
    """
    rows = await (harness.rows(OF_BENCHMARK) if ticker == "SPY" else harness.rows(FIGURES, ticker))
    return [
        (day, Fraction(factor), Fraction(change) / 100, mark) for day, factor, change, mark in rows
    ]


def near(
    actual: list[tuple[int, Fraction, Fraction, bool]],
    expected: Mapping[int, tuple[str, str, bool]],
) -> bool:
    """
    Return whether figures are equal to those expected: day, factor, share of the baseline price,
    mark.
    """
    wanted = [
        (day, Fraction(factor), of(share) - 1, mark)
        for day, (factor, share, mark) in expected.items()
    ]
    return len(actual) == len(wanted) and all(
        (day, mark) == (its_day, its_mark)
        and abs(factor - its) < TINY
        and abs(change - other) < TINY
        for (day, factor, change, mark), (its_day, its, other, its_mark) in zip(
            actual, wanted, strict=True
        )
    )


TINY = Fraction(1, 10**20)


def of(share: str) -> Fraction:
    """Return the number of a share such as `100.5/1000`."""
    price, initial = share.split("/")
    return Fraction(price) / Fraction(initial)


async def make_batch(harness: JobHarness, ticker: str = "NVDA") -> Batch:
    """A batch in which a ticker begins at 1000, and stays there."""
    for number in range(-60, 40):
        harness.world.closes[ticker, BASELINE + timedelta(days=number)] = "1000"
    return await harness.make_batch()


def set_closes(harness: JobHarness, ticker: str, of_days: Mapping[int, str]) -> None:
    """
    Set the closes that the provider returns from now on for the sessions of these days; later
    sessions get the last one.
    """
    for day, price in of_days.items():
        harness.world.closes[ticker, session_of(day)] = price
    last = max(of_days)
    for number in range(1, 20):
        later = session_of(last) + timedelta(days=number)
        if last:
            harness.world.closes[ticker, later] = of_days[last]


async def take(harness: JobHarness, batch: Batch, day: int, *, retake: bool = False) -> list[str]:
    """Take a morning as the queue would; return the tickers whose splits were requested."""
    before = len(harness.requested_splits)
    harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
    await run_until_done(harness, lambda: daily.take(harness.context, batch.id, day, retake=retake))
    return harness.requested_splits[before:]


async def take_mornings(
    harness: JobHarness,
    batch: Batch,
    ticker: str,
    *,
    served: Mapping[int, Mapping[int, str]],
    listed: Mapping[int, Any],
    without: tuple[int, ...] = (),
    until: int = 5,
) -> dict[int, list[str]]:
    """
    Take the mornings of a case, one by one.

    A morning in `without` has no close until the next day, and is then retaken.
    """
    requested: dict[int, list[str]] = {}
    for day in range(1, until + 1):
        if day in served:
            set_closes(harness, ticker, served[day])
        if day in listed:
            harness.world.splits[ticker] = [
                (session_of(its), factor) for its, factor in listed[day]
            ]
        if day in without:
            harness.world.absent.add((ticker, session_of(day)))
        requested[day] = await take(harness, batch, day)
        for missed in without:
            if missed == day - 1:
                harness.world.absent.discard((ticker, session_of(missed)))
                harness.clock.forward(hours=1)
                harness.provider.requests.clear()
                await take(harness, batch, missed, retake=True)
    return {day: tickers for day, tickers in requested.items() if tickers}


# 10:1 from Tuesday's session (day 2) on: before it 1010, after it 100.5, 101, 101.
PLAIN = {1: {1: "1010"}, 2: {2: "100.5"}, 3: {3: "101"}}
# The same, and on Wednesday morning everything before is restated.
RESTATED = {1: {1: "1010"}, 2: {0: "100", 1: "101", 2: "100.5"}, 3: {3: "101"}}
TEN = [(2, "10.0000")]
RIGHT = {
    1: ("1", "1010/1000", False),
    2: ("10", "1005/1000", False),
    3: ("10", "1010/1000", False),
    4: ("10", "1010/1000", False),
    5: ("10", "1010/1000", False),
}
WRONG = {
    1: ("1", "1010/1000", False),
    2: ("1", "100.5/1000", True),
    3: ("1", "101/1000", True),
    4: ("1", "101/1000", True),
    5: ("1", "101/1000", True),
}

CASES = [
    pytest.param("NVDA", PLAIN, {1: TEN}, (), RIGHT, {2: ["NVDA"]}, id="not restated, 10:1"),
    pytest.param("NVDA", RESTATED, {1: TEN}, (), RIGHT, {2: ["NVDA"]}, id="restated, 10:1"),
    pytest.param(
        "NVDA",
        RESTATED,
        {},
        (),
        WRONG,
        {2: ["NVDA"]},
        id="restated, not listed: marked from the first morning on",
    ),
    pytest.param(
        "NVDA",
        {1: {0: "100", 1: "100.5"}, 2: {2: "101"}},
        {1: [(1, "10.0000")]},
        (),
        {1: ("10", "1005/1000", False)} | dict.fromkeys((2, 3, 4, 5), ("10", "1010/1000", False)),
        {1: ["NVDA"]},
        id="restated before the first checkpoint",
    ),
    pytest.param(
        "NVDA",
        {
            1: {1: "1010"},
            2: {2: "1020"},
            3: {0: "100", 1: "101", 2: "102", 3: "100.5"},
            4: {4: "101"},
        },
        {1: [(3, "10.0000")]},
        (2,),
        # Day 2 is computed on Thursday, from a reading of the new scale, whose source names the
        # scale: the split counts in it.
        {
            1: ("1", "1010/1000", False),
            2: ("10", "1020/1000", False),
            3: ("10", "1005/1000", False),
            4: ("10", "1010/1000", False),
            5: ("10", "1010/1000", False),
        },
        {3: ["NVDA"]},
        id="a skipped day that was read later, of the new scale",
    ),
    pytest.param(
        "NVDA",
        {1: {1: "1010"}, 2: {0: "15000", 1: "15150", 2: "15075"}},
        {1: [(2, "0.0667")]},
        (),
        {1: ("1", "1010/1000", False)} | dict.fromkeys((2, 3, 4, 5), ("1/15", "1005/1000", False)),
        {2: ["NVDA"]},
        id="1:15",
    ),
    pytest.param(
        "NVDA",
        {1: {1: "1010"}, 2: {0: "994", 1: "1004", 2: "1001"}},
        {},
        (),
        {1: ("1", "1010/1000", False)} | dict.fromkeys((2, 3, 4, 5), ("1", "1001/1000", False)),
        {2: ["NVDA"]},
        id="by a dividend: one request, nothing else",
    ),
    pytest.param("SPY", RESTATED, {1: TEN}, (), RIGHT, {2: ["SPY"]}, id="the benchmark"),
    pytest.param(
        "SPY", RESTATED, {}, (), WRONG, {2: ["SPY"]}, id="the benchmark, not listed: marked as well"
    ),
    pytest.param(
        "NVDA",
        {1: {1: "1010"}, 2: {0: "500", 1: "505", 2: "502"}, 4: {4: "100.8"}},
        {1: [(2, "2.0000")], 4: [(4, "5.0000"), (2, "2.0000")]},
        (),
        {
            1: ("1", "1010/1000", False),
            2: ("2", "1004/1000", False),
            3: ("2", "1004/1000", False),
            4: ("10", "1008/1000", False),
            5: ("10", "1008/1000", False),
        },
        {2: ["NVDA"], 4: ["NVDA"]},
        id="two splits, the first restated and the second not",
    ),
    pytest.param(
        "NVDA",
        {
            1: {1: "1010"},
            2: {0: "100", 1: "101", 2: "100.5"},
            3: {0: "1000", 1: "1010", 2: "1005", 3: "1007"},
        },
        {},
        (),
        # What was published on Tuesday is wrong and marked; the next figures are right.
        {1: ("1", "1010/1000", False), 2: ("1", "100.5/1000", True)}
        | dict.fromkeys((3, 4, 5), ("1", "1007/1000", False)),
        {2: ["NVDA"], 3: ["NVDA"]},
        id="a restatement that is taken back",
    ),
    pytest.param(
        "NVDA",
        {1: {1: "1010"}, 2: {0: "1000.004", 1: "1010.01", 2: "1005"}},
        {},
        (),
        {1: ("1", "1010/1000", False)} | dict.fromkeys((2, 3, 4, 5), ("1", "1005/1000", False)),
        {},
        id="by a rounding: no request",
    ),
    pytest.param(
        "NVDA",
        {1: {1: "1010"}, 2: {2: "886"}},
        {},
        (),
        {1: ("1", "1010/1000", False)} | dict.fromkeys((2, 3, 4, 5), ("1", "886/1000", True)),
        {2: ["NVDA"]},
        id="an eighth down and not listed: marked, in every figure that holds it",
    ),
]


@pytest.mark.parametrize(("ticker", "served", "listed", "without", "expected", "requested"), CASES)
@pytest.mark.sampled(4)
async def test_a_restated_series(
    harness, database, ticker, served, listed, without, expected, requested
):
    """
    Figures are right from the first morning on if the split is listed, and marked from the first on
    if not; nothing is requested twice.
    """
    batch = await make_batch(harness, ticker)
    assert (
        await take_mornings(harness, batch, ticker, served=served, listed=listed, without=without)
        == requested
    )
    assert near(await figures(harness, ticker), expected)
    assert await harness.rows("SELECT count(*) FROM corrections") == [(0,)]
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


@pytest.mark.parametrize("ticker", ["NVDA", "SPY"])
async def test_a_split_that_is_listed_three_days_late(harness, ticker):
    """
    -89.95 %, marked from the first morning on; when the split becomes known, the figures and marks
    of all days are right.
    """
    batch = await make_batch(harness, ticker)
    assert await take_mornings(harness, batch, ticker, served=RESTATED, listed={}) == {2: [ticker]}
    assert near(await figures(harness, ticker), WRONG)
    assert (await figures(harness, ticker))[1][2] == Fraction("-0.8995")
    harness.world.splits[ticker] = [(session_of(2), "10.0000")]
    assert await take(harness, batch, 6) == ALL
    assert near(await figures(harness, ticker), RIGHT)
    marks = (
        "SELECT day, before, after FROM corrections JOIN checkpoints ON checkpoints.id = "
        "checkpoint_id "
    )
    assert await harness.rows(marks + "WHERE field LIKE '%%unusual_move' ORDER BY day") == [
        (day, "true", "false") for day in (2, 3, 4, 5)
    ]
    assert await take(harness, batch, 7) == []
    assert await take(harness, batch, 8) == []
    assert near(await figures(harness, ticker), RIGHT | {8: ("10", "1010/1000", False)})


async def test_a_bar_of_a_saturday(harness):
    """An older version stored one, of 90 after 1000: it causes no mark and no request."""
    batch = await make_batch(harness)
    await take_mornings(harness, batch, "NVDA", served={1: {1: "1010"}}, listed={})
    saturday = MONDAY + timedelta(days=5)
    async with transaction(harness.context.pool) as conn:
        await declarations.declare_version(conn)
        await conn.execute(
            "INSERT INTO closes (id, ticker, trading_day, close, source, read_at) "
            "VALUES (gen_random_uuid(), 'NVDA', %s, 90, 'test', %s)",
            (saturday, due_at(MONDAY, 6)),
        )
    assert await take(harness, batch, 6) == ALL
    assert await take(harness, batch, 7) == []
    assert await take(harness, batch, 8) == []
    assert [mark for *_, mark in await figures(harness)] == [False] * 6


async def test_a_reading_of_another_scale_is_not_adopted(harness):
    """It would count the split twice; one that was corrected as well may be."""
    batch = await make_batch(harness)
    await take_mornings(harness, batch, "NVDA", served=RESTATED, listed={1: TEN})
    adopts = lambda day: corrections.adopt(  # noqa: E731
        harness.context.pool,
        now=harness.context.now(),
        run_date=MONDAY,
        day=day,
        ticker="NVDA",
        reason="A misprint.",
        in_force=None,
    )
    with pytest.raises(corrections.Refused, match=r"restated for a split after that session"):
        await adopts(0)
    with pytest.raises(
        corrections.Refused, match=r"NVDA was read as 1010 for 2026-10-26 and is now 101: .*twice"
    ):
        await adopts(1)
    assert near(await figures(harness), RIGHT)


async def test_a_wrong_reading_that_is_adopted_takes_its_mark_with_it(harness):
    """
    A misprint of 100 on Tuesday marks it and all later days, because Tuesday is read again only
    later.
    """
    batch = await make_batch(harness)
    served = {1: {1: "1010"}, 2: {2: "100"}, 3: {3: "1020"}}
    assert await take_mornings(harness, batch, "NVDA", served=served, listed={}) == {
        2: ["NVDA"],
        3: ["NVDA"],
    }
    assert [mark for *_, mark in await figures(harness)] == [False, True, True, True, True]
    set_closes(harness, "NVDA", {2: "1015"})
    set_closes(harness, "NVDA", {3: "1020"})
    await take(harness, batch, 6)
    await take(harness, batch, 8)
    assert (
        await corrections.adopt(
            harness.context.pool,
            now=harness.context.now(),
            run_date=MONDAY,
            day=2,
            ticker="NVDA",
            reason="A misprint.",
            in_force=None,
        )
        == 4
    )
    assert near(
        await figures(harness),
        {1: ("1", "1010/1000", False), 2: ("1", "1015/1000", False)}
        | dict.fromkeys((3, 4, 5, 8), ("1", "1020/1000", False)),
    )
