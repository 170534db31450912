"""
Splits that are listed after the fortnight: asked for on two more Sundays, while the ledger has room.

The kind: a split or spin-off that the provider lists late. Members tried: 10 to 25 % after the second Sunday, on day 20
and on day 27; a small one under a tenth; the benchmark's; one that is taken back; no room on the Sunday, for the whole
week, or only for some of the tickers; a service that was down on the Sunday, or all week; a provider that is down; an
answer that another batch got that morning; an ended pick; a batch that an older version made.
"""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from job_tools import CHOSEN, MONDAY, House, new_york, the_time_it_says, until_it_can
from job_tools import clock as clock
from job_tools import house as house
from provider_server import Reply, Request

from app.domain.calendar import due_at
from app.domain.model import Batch
from app.errors import TryAgainAt
from app.ops.verify import database as record_at
from app.ops.verify import verify
from app.providers.rate_limiter import windows
from jobs import daily, late_splits, picks, reconcile, splits

TUESDAY = MONDAY + timedelta(days=1)
FIRST, SECOND = (MONDAY + timedelta(days=day) for day in (20, 27))
ALL = ["SPY", *CHOSEN]
JOBS = "SELECT args ->> 'day', status::text FROM procrastinate_jobs WHERE task_name = 'look_for_splits' ORDER BY id"
RETURNS = """
SELECT day, split_factor, absolute_return_pct, unusual_move
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
WHERE ticker = 'NVDA'
ORDER BY day
"""
CORRECTED = "SELECT DISTINCT day FROM corrections JOIN checkpoints ON checkpoints.id = checkpoint_id ORDER BY day"


async def a_completed_batch(house: House, price: str = "6.20", first: date = TUESDAY) -> Batch:
    """A batch whose NVDA falls from 7 to a price on Tuesday, and whose fortnight is over."""
    for number in range(50):
        house.world.closes["NVDA", first + timedelta(days=number)] = price
    batch = await house.a_batch()
    for day in range(1, 15):
        house.clock.time = max(house.clock.time, due_at(batch.run_date, day))
        await until_it_can(house, lambda day=day: daily.take(house.tools, batch.id, day))
    house.provider.requests.clear()
    completed = await house.batch()
    assert completed
    assert completed.status == "completed"
    return completed


async def offered(house: House, day: date, hour: int = 10) -> list[tuple[str, str]]:
    """Let the reconciler do a round; return the jobs that there are."""
    house.clock.time = new_york(day, hour)
    await reconcile.look_after(house.tools)
    return await house.rows(JOBS)


async def test_a_spin_off_that_is_listed_on_day_16(house, database):
    """6.20 of 7 is -11.4 %, marked; with 1.1290 shares for each it is zero: every figure of the batch is put right."""
    batch = await a_completed_batch(house)
    before = await house.rows(RETURNS)
    assert {row[1:] for row in before if row[0] > 1} == {(1, Decimal("-11.42857142857142857142857143"), True)}
    house.world.splits["NVDA"] = [(TUESDAY, "1.1290")]
    assert await offered(house, FIRST) == [("20", "todo")]
    await late_splits.look(house.tools, batch.id, 20)
    assert house.asked_for_splits == ALL
    # (6.20 * 1.1290 - 7) / 7 = -0.0002 / 7
    assert {row[1:] for row in await house.rows(RETURNS) if row[0] > 1} == {
        (Decimal("1.1290"), Decimal("-0.002857142857142857142857142857"), False)
    }
    assert await house.rows(CORRECTED) == [(day,) for day in (2, 3, 4, 5, 8, 9, 10, 11, 12)]
    assert (await house.batch()).status == "completed"
    async with record_at(database) as source:
        await verify(source, [], lambda *_: None)


@pytest.mark.parametrize(
    ("price", "factor"),
    [
        pytest.param("6.72", "1.0416", id="a small one, which no move shows"),
        pytest.param("5.60", "1.2500", id="five for four"),
        pytest.param("7.70", "0.9091", id="the other way"),
    ],
)
async def test_one_that_is_listed_only_by_the_second_sunday(house, price, factor):
    """Nothing is learnt on the first; the second is a question of its own."""
    batch = await a_completed_batch(house, price)
    assert await offered(house, FIRST) == [("20", "todo")]
    await late_splits.look(house.tools, batch.id, 20)
    assert await house.rows(CORRECTED) == []
    house.world.splits["NVDA"] = [(TUESDAY, factor)]
    assert [day for day, _ in await offered(house, SECOND)] == ["20", "27"]
    await late_splits.look(house.tools, batch.id, 27)
    assert house.asked_for_splits == ALL * 2
    assert {row[1] for row in await house.rows(RETURNS) if row[0] > 1} == {Decimal(factor)}


@pytest.mark.parametrize("behind", [1, 40, 3600, 86_400], ids="by {} s".format)
async def test_a_process_whose_clock_is_behind(house, behind):
    """Another process offered the job: this one waits until its own clock has come to the Sunday, and then asks."""
    batch = await a_completed_batch(house)
    await offered(house, FIRST)
    began = house.clock.time
    house.clock.time -= timedelta(seconds=behind)
    times = await until_it_can(house, lambda: late_splits.look(house.tools, batch.id, 20))
    assert times == [began]
    assert house.asked_for_splits == ALL


async def test_when_it_is_offered(house):
    """From ten on the Sunday to the next Sunday morning, once; what ended in any way is not begun again."""
    await a_completed_batch(house)
    assert await offered(house, FIRST - timedelta(days=1), 20) == []
    assert await offered(house, FIRST, 9) == []
    assert await offered(house, FIRST) == [("20", "todo")]
    assert await offered(house, FIRST, 11) == [("20", "todo")]
    for status in ("succeeded", "failed", "cancelled", "aborted"):
        await house.rows("UPDATE procrastinate_jobs SET status = %s WHERE task_name = 'look_for_splits'", status)
        assert await offered(house, FIRST, 12) == [("20", status)]
    # Nobody was there on the second Sunday.
    assert [day for day, _ in await offered(house, SECOND + timedelta(days=4))] == ["20", "27"]


async def test_a_service_that_was_down_for_a_week(house):
    """The first look is over; nothing is owed."""
    await a_completed_batch(house)
    assert await offered(house, SECOND, 10) == [("27", "todo")]
    assert await offered(house, SECOND + timedelta(days=7), 10) == [("27", "todo")]


async def test_a_week_without_anybody(house):
    """After the second look's week nothing is offered."""
    await a_completed_batch(house)
    assert await offered(house, SECOND + timedelta(days=7), 10) == []


async def test_a_batch_that_is_not_completed(house):
    """Its own Sundays and mornings ask; it has no late look."""
    batch = await house.a_batch()
    house.clock.time = due_at(batch.run_date, 5)
    await daily.take(house.tools, batch.id, 5)
    assert await offered(house, FIRST) == []


def allows(house: House, per_day: int) -> None:
    """Let the key allow so many requests a day; none was sent so far."""
    house.tools.prices.ledger.limits = windows(per_second=100, per_minute=100, per_day=per_day)


@pytest.mark.parametrize(
    ("room", "asked"),
    [
        pytest.param(late_splits.RESERVE, [], id="none"),
        pytest.param(late_splits.RESERVE + 1, ALL[:1], id="for one"),
        pytest.param(late_splits.RESERVE + 3, ALL[:3], id="for three"),
        pytest.param(late_splits.RESERVE + 4, ALL, id="for all"),
    ],
)
async def test_room(house, room, asked):
    """It leaves twelve requests of the day's quota unused; what does not fit is asked for the next day."""
    batch = await a_completed_batch(house)
    await house.rows("DELETE FROM operations.provider_requests")
    allows(house, room)
    house.clock.time = new_york(FIRST, 10)
    later = await the_time_it_says(lambda: late_splits.look(house.tools, batch.id, 20))
    assert house.asked_for_splits == asked
    assert later == (None if asked == ALL else new_york(FIRST + timedelta(days=1), 10))
    async with house.tools.pool.connection() as conn:
        left = await house.tools.prices.ledger.left(conn, house.tools.now())
    assert left.requests[-1] >= late_splits.RESERVE


async def test_what_is_left_over_is_asked_for_the_next_day(house):
    """Those that were answered since the Sunday are not asked for again."""
    batch = await a_completed_batch(house)
    await house.rows("DELETE FROM operations.provider_requests")
    allows(house, late_splits.RESERVE + 3)
    house.clock.time = new_york(FIRST, 10)
    times = await until_it_can(house, lambda: late_splits.look(house.tools, batch.id, 20))
    assert times == [new_york(FIRST + timedelta(days=1), 10), new_york(FIRST + timedelta(days=2), 10)][: len(times)]
    assert house.asked_for_splits == ALL


async def test_a_week_without_room(house):
    """Every day of the week, then no more."""
    batch = await a_completed_batch(house)
    allows(house, 5)
    house.clock.time = new_york(FIRST, 10)
    times = await until_it_can(house, lambda: late_splits.look(house.tools, batch.id, 20))
    assert times == [new_york(FIRST + timedelta(days=number), 10) for number in range(1, 8)]
    assert house.asked_for_splits == []


async def test_a_provider_that_is_down(house):
    """Five attempts for one ticker, not for each; the next day begins with another, and asks for all."""
    batch = await a_completed_batch(house)
    world, down = house.world, [Reply(status=503)] * 5

    def answers(request: Request) -> Reply:
        return down.pop() if down and request.query.get("function") == "SPLITS" else world(request)

    house.provider.answers = answers
    house.clock.time = new_york(FIRST, 10)
    times = await until_it_can(house, lambda: late_splits.look(house.tools, batch.id, 20))
    assert times == [new_york(FIRST + timedelta(days=1), 10)]
    assert house.asked_for_splits == ["SPY"] * 5 + [*ALL[1:], ALL[0]]


async def test_one_ticker_that_the_provider_never_answers_for(house):
    """It keeps no other from its turn: in the end all others were asked for, and its own splits are not learnt."""
    batch = await a_completed_batch(house)
    world = house.world

    def answers(request: Request) -> Reply:
        splits_of = request.query.get("symbol") if request.query.get("function") == "SPLITS" else None
        return Reply(status=503) if splits_of == "MSFT" else world(request)

    house.provider.answers = answers
    house.clock.time = new_york(FIRST, 10)
    await until_it_can(house, lambda: late_splits.look(house.tools, batch.id, 20))
    assert {ticker: house.asked_for_splits.count(ticker) for ticker in ALL if ticker != "MSFT"} == {
        "SPY": 1,
        "AAPL": 1,
        "NVDA": 1,
    }


async def test_a_split_that_cannot_be_read(house):
    """It is asked for again the next day, until it can be read; then the figures are put right."""
    batch = await a_completed_batch(house)
    house.world.splits["NVDA"] = [(TUESDAY, "1:1.129")]
    house.clock.time = new_york(FIRST, 10)
    with pytest.raises(TryAgainAt) as again:
        await late_splits.look(house.tools, batch.id, 20)
    assert again.value.at == new_york(FIRST + timedelta(days=1), 10)
    house.world.splits["NVDA"] = [(TUESDAY, "1.1290")]
    house.clock.time = again.value.at
    await late_splits.look(house.tools, batch.id, 20)
    assert {row[1] for row in await house.rows(RETURNS) if row[0] > 1} == {Decimal("1.1290")}


async def test_an_answer_that_another_batch_got_that_morning(house):
    """Its picks' Sunday question serves the completed batch, too."""
    batch = await a_completed_batch(house)
    house.world.splits["NVDA"] = [(TUESDAY, "1.1290")]
    newer = await house.a_batch(MONDAY + timedelta(days=14))
    house.clock.time = due_at(newer.run_date, 6)
    assert house.clock.time.date() == FIRST
    await splits.look_on_sunday(house.tools, newer, ["SPY", "NVDA"], 6)
    house.clock.time = new_york(FIRST, 10)
    await late_splits.look(house.tools, batch.id, 20)
    assert house.asked_for_splits == ["SPY", "NVDA", "MSFT", "AAPL"]
    assert {row[1] for row in await house.rows(RETURNS) if row[0] > 1} == {Decimal("1.1290")}


async def test_an_ended_pick_is_not_asked_for(house):
    """As on the fortnight's own Sundays."""
    batch = await a_completed_batch(house)
    tools = house.tools
    await picks.end(tools.pool, tools.calendar, tools.now(), MONDAY, "AAPL", TUESDAY, Decimal(80), "8-K")
    house.clock.time = new_york(FIRST, 10)
    await late_splits.look(tools, batch.id, 20)
    assert house.asked_for_splits == ["SPY", "MSFT", "NVDA"]


async def test_a_split_of_the_benchmark_that_is_taken_back_late(house):
    """What is learnt late may be that there was none."""
    house.world.splits["SPY"] = [(TUESDAY, "1.0500"), (date(2020, 1, 2), "2.0000")]
    batch = await a_completed_batch(house)
    assert await house.rows("SELECT max(benchmark_split_factor) FROM checkpoints") == [(Decimal("1.05"),)]
    house.world.splits["SPY"] = [(date(2020, 1, 2), "2.0000")]
    house.clock.time = new_york(SECOND, 10)
    await late_splits.look(house.tools, batch.id, 27)
    assert await house.rows("SELECT max(benchmark_split_factor) FROM checkpoints") == [(1,)]


async def test_a_batch_that_is_not_there(house):
    """A job of another database does nothing."""
    batch = await house.a_batch()
    await late_splits.look(house.tools, type(batch.id)(int=7), 20)
    assert house.asked_for_splits == []
