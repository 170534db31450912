"""
Splits that are listed after the fortnight: requested on two more Sundays, if the quota leaves room.
The kind: a split or spin-off that the provider lists late. Members tried: 10 to 25 % after the
second Sunday, on day 20 and on day 27; a small one under a tenth; the benchmark's; one that is
withdrawn; no room on the Sunday, for the whole week, or only for some of the tickers; a service
that was down on the Sunday, or all week; a provider that is down; an answer that another batch got
that morning; an ended pick; a batch that an older version made.
"""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from job_context import CHOSEN, MONDAY, JobHarness, new_york, run_attempt, run_until_done
from job_context import clock as clock
from job_context import harness as harness
from provider_server import Reply, Request

from app.domain.calendar import due_at
from app.domain.model import Batch
from app.errors import TryAgainAt
from app.ops.verify import open_database as record_at
from app.ops.verify import verify
from app.providers.rate_limiter import rate_limits
from jobs import daily, late_splits, picks, reconcile, splits

TUESDAY = MONDAY + timedelta(days=1)
FIRST, SECOND = (MONDAY + timedelta(days=day) for day in (20, 27))
ALL = ["SPY", *CHOSEN]
# What the Sunday leaves for the Monday: four closes, seven requests for a ticker that the provider
# does not know, and one.
RESERVE = 12
JOBS = (
    "SELECT args ->> 'day', status::text FROM procrastinate_jobs WHERE task_name = "
    "'look_for_splits' ORDER BY id"
)
RETURNS = """
SELECT day, split_factor, absolute_return_pct, unusual_move
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
WHERE ticker = 'NVDA'
ORDER BY day
"""
CORRECTED = (
    "SELECT DISTINCT day FROM corrections JOIN checkpoints ON checkpoints.id = "
    "checkpoint_id ORDER BY day"
)


async def a_completed_batch(
    harness: JobHarness, price: str = "6.20", first: date = TUESDAY
) -> Batch:
    """A batch whose NVDA falls from 7 to a price on Tuesday, and whose fortnight is over."""
    for number in range(50):
        harness.world.closes["NVDA", first + timedelta(days=number)] = price
    batch = await harness.make_batch()
    for day in range(1, 15):
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))
    harness.provider.requests.clear()
    completed = await harness.batch()
    assert completed
    assert completed.status == "completed"
    return completed


async def offered(harness: JobHarness, day: date, hour: int = 10) -> list[tuple[str, str]]:
    """Run a round of the reconciliation at a time, and return the jobs."""
    harness.clock.time = new_york(day, hour)
    await reconcile.run_round(harness.context)
    return await harness.rows(JOBS)


async def test_a_spin_off_that_is_listed_on_day_16(harness, database):
    """
    6.20 of 7 is -11.4 %, marked; with 1.1290 shares for each it is zero: every figure is corrected.
    """
    batch = await a_completed_batch(harness)
    before = await harness.rows(RETURNS)
    assert {row[1:] for row in before if row[0] > 1} == {
        (1, Decimal("-11.42857142857142857142857143"), True)
    }
    harness.world.splits["NVDA"] = [(TUESDAY, "1.1290")]
    assert await offered(harness, FIRST) == [("20", "todo")]
    await late_splits.refresh(harness.context, batch.id, 20)
    assert harness.requested_splits == ALL
    # (6.20 * 1.1290 - 7) / 7 = -0.0002 / 7
    assert {row[1:] for row in await harness.rows(RETURNS) if row[0] > 1} == {
        (Decimal("1.1290"), Decimal("-0.002857142857142857142857142857"), False)
    }
    assert await harness.rows(CORRECTED) == [(day,) for day in (2, 3, 4, 5, 8, 9, 10, 11, 12)]
    assert (await harness.batch()).status == "completed"
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
@pytest.mark.sampled(1)
async def test_one_that_is_listed_only_by_the_second_sunday(harness, price, factor):
    """The first Sunday's requests return no split; the second Sunday sends its own."""
    batch = await a_completed_batch(harness, price)
    assert await offered(harness, FIRST) == [("20", "todo")]
    await late_splits.refresh(harness.context, batch.id, 20)
    assert await harness.rows(CORRECTED) == []
    harness.world.splits["NVDA"] = [(TUESDAY, factor)]
    assert [day for day, _ in await offered(harness, SECOND)] == ["20", "27"]
    await late_splits.refresh(harness.context, batch.id, 27)
    assert harness.requested_splits == ALL * 2
    assert {row[1] for row in await harness.rows(RETURNS) if row[0] > 1} == {Decimal(factor)}


@pytest.mark.parametrize("behind", [1, 40, 3600, 86_400], ids="by {} s".format)
@pytest.mark.sampled(1)
async def test_a_process_whose_clock_is_behind(harness, behind):
    """Another process deferred the job: this one waits for the Sunday of its own clock."""
    batch = await a_completed_batch(harness)
    await offered(harness, FIRST)
    began = harness.clock.time
    harness.clock.time -= timedelta(seconds=behind)
    times = await run_until_done(
        harness, lambda: late_splits.refresh(harness.context, batch.id, 20)
    )
    assert times == [began]
    assert harness.requested_splits == ALL


async def test_when_it_is_offered(harness):
    """
    From 10:00 on the Sunday to the next Sunday morning, once; a job that ended is not repeated.
    """
    await a_completed_batch(harness)
    assert await offered(harness, FIRST - timedelta(days=1), 20) == []
    assert await offered(harness, FIRST, 9) == []
    assert await offered(harness, FIRST) == [("20", "todo")]
    assert await offered(harness, FIRST, 11) == [("20", "todo")]
    for status in ("succeeded", "failed", "cancelled", "aborted"):
        await harness.rows(
            "UPDATE procrastinate_jobs SET status = %s WHERE task_name = 'look_for_splits'", status
        )
        assert await offered(harness, FIRST, 12) == [("20", status)]
    # No service ran on the second Sunday.
    assert [day for day, _ in await offered(harness, SECOND + timedelta(days=4))] == ["20", "27"]


async def test_a_service_that_was_down_for_a_week(harness):
    """The week of the first Sunday is over; nothing remains to be done."""
    await a_completed_batch(harness)
    assert await offered(harness, SECOND, 10) == [("27", "todo")]
    assert await offered(harness, SECOND + timedelta(days=7), 10) == [("27", "todo")]


async def test_a_week_without_a_service(harness):
    """After the second Sunday's week no job is deferred."""
    await a_completed_batch(harness)
    assert await offered(harness, SECOND + timedelta(days=7), 10) == []


async def test_a_batch_that_is_not_completed(harness):
    """Its own Sundays and checkpoints request splits; it has no late job."""
    batch = await harness.make_batch()
    harness.clock.time = due_at(batch.run_date, 5)
    await daily.take(harness.context, batch.id, 5)
    assert await offered(harness, FIRST) == []


def allows(harness: JobHarness, per_day: int) -> None:
    """Let the key allow so many requests a day; none was sent so far."""
    harness.context.prices.ledger.limits = rate_limits(
        per_second=100, per_minute=100, per_day=per_day
    )


@pytest.mark.parametrize(
    ("room", "requested"),
    [
        pytest.param(RESERVE, [], id="none"),
        pytest.param(RESERVE + 1, ALL[:1], id="for one"),
        pytest.param(RESERVE + 3, ALL[:3], id="for three"),
        pytest.param(RESERVE + 4, ALL, id="for all"),
    ],
)
@pytest.mark.sampled(2)
async def test_room(harness, room, requested):
    """Twelve requests of the day's quota stay unused; the rest is requested the next day."""
    batch = await a_completed_batch(harness)
    await harness.rows("DELETE FROM operations.provider_requests")
    allows(harness, room)
    harness.clock.time = new_york(FIRST, 10)
    later = await run_attempt(lambda: late_splits.refresh(harness.context, batch.id, 20))
    assert harness.requested_splits == requested
    assert later == (None if requested == ALL else new_york(FIRST + timedelta(days=1), 10))
    async with harness.context.pool.connection() as conn:
        left = await harness.context.prices.ledger.remaining(conn, harness.context.now())
    assert left.requests[-1] >= RESERVE


async def test_the_rest_is_requested_the_next_day(harness):
    """Tickers that were answered since the Sunday are not requested again."""
    batch = await a_completed_batch(harness)
    await harness.rows("DELETE FROM operations.provider_requests")
    allows(harness, RESERVE + 3)
    harness.clock.time = new_york(FIRST, 10)
    times = await run_until_done(
        harness, lambda: late_splits.refresh(harness.context, batch.id, 20)
    )
    assert (
        times
        == [new_york(FIRST + timedelta(days=1), 10), new_york(FIRST + timedelta(days=2), 10)][
            : len(times)
        ]
    )
    assert harness.requested_splits == ALL


async def test_a_week_without_room(harness):
    """The job tries on every day of the week, and then no more."""
    batch = await a_completed_batch(harness)
    allows(harness, 1)
    harness.clock.time = new_york(FIRST, 10)
    times = await run_until_done(
        harness, lambda: late_splits.refresh(harness.context, batch.id, 20)
    )
    assert times == [new_york(FIRST + timedelta(days=number), 10) for number in range(1, 8)]
    assert harness.requested_splits == []


async def test_a_provider_that_is_down(harness):
    """Five attempts for one ticker, not for each; the next day begins with another one."""
    batch = await a_completed_batch(harness)
    world, down = harness.world, [Reply(status=503)] * 5

    def answers(request: Request) -> Reply:
        return down.pop() if down and request.query.get("function") == "SPLITS" else world(request)

    harness.provider.answers = answers
    harness.clock.time = new_york(FIRST, 10)
    times = await run_until_done(
        harness, lambda: late_splits.refresh(harness.context, batch.id, 20)
    )
    assert times == [new_york(FIRST + timedelta(days=1), 10)]
    assert harness.requested_splits == ["SPY"] * 5 + [*ALL[1:], ALL[0]]


async def test_one_ticker_that_the_provider_never_answers_for(harness):
    """
    It delays no other: in the end all others were requested, and only its splits stay unknown.
    """
    batch = await a_completed_batch(harness)
    world = harness.world

    def answers(request: Request) -> Reply:
        splits_of = (
            request.query.get("symbol") if request.query.get("function") == "SPLITS" else None
        )
        return Reply(status=503) if splits_of == "MSFT" else world(request)

    harness.provider.answers = answers
    harness.clock.time = new_york(FIRST, 10)
    await run_until_done(harness, lambda: late_splits.refresh(harness.context, batch.id, 20))
    assert {
        ticker: harness.requested_splits.count(ticker) for ticker in ALL if ticker != "MSFT"
    } == {
        "SPY": 1,
        "AAPL": 1,
        "NVDA": 1,
    }


async def test_a_split_that_cannot_be_read(harness):
    """It is requested again each day until it can be read; then the figures are corrected."""
    batch = await a_completed_batch(harness)
    harness.world.splits["NVDA"] = [(TUESDAY, "1:1.129")]
    harness.clock.time = new_york(FIRST, 10)
    with pytest.raises(TryAgainAt) as again:
        await late_splits.refresh(harness.context, batch.id, 20)
    assert again.value.at == new_york(FIRST + timedelta(days=1), 10)
    harness.world.splits["NVDA"] = [(TUESDAY, "1.1290")]
    harness.clock.time = again.value.at
    await late_splits.refresh(harness.context, batch.id, 20)
    assert {row[1] for row in await harness.rows(RETURNS) if row[0] > 1} == {Decimal("1.1290")}


async def test_an_answer_that_another_batch_got_that_morning(harness):
    """Another batch's requests of the Sunday serve the completed batch, too."""
    batch = await a_completed_batch(harness)
    harness.world.splits["NVDA"] = [(TUESDAY, "1.1290")]
    newer = await harness.make_batch(MONDAY + timedelta(days=14))
    harness.clock.time = due_at(newer.run_date, 6)
    assert harness.clock.time.date() == FIRST
    await splits.refresh_on_sunday(harness.context, newer, tickers=["SPY", "NVDA"], day=6)
    harness.clock.time = new_york(FIRST, 10)
    await late_splits.refresh(harness.context, batch.id, 20)
    assert harness.requested_splits == ["SPY", "NVDA", "MSFT", "AAPL"]
    assert {row[1] for row in await harness.rows(RETURNS) if row[0] > 1} == {Decimal("1.1290")}


async def test_an_ended_pick_is_not_requested(harness):
    """As on the fortnight's own Sundays."""
    batch = await a_completed_batch(harness)
    context = harness.context
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="AAPL",
        last_session=TUESDAY,
        value=Decimal(80),
        source="8-K",
        in_force=None,
    )
    harness.clock.time = new_york(FIRST, 10)
    await late_splits.refresh(context, batch.id, 20)
    assert harness.requested_splits == ["SPY", "MSFT", "NVDA"]


async def test_a_split_of_the_benchmark_that_is_taken_back_late(harness):
    """A late answer may also withdraw a split."""
    harness.world.splits["SPY"] = [(TUESDAY, "1.0500"), (date(2020, 1, 2), "2.0000")]
    batch = await a_completed_batch(harness)
    assert await harness.rows("SELECT max(benchmark_split_factor) FROM checkpoints") == [
        (Decimal("1.05"),)
    ]
    harness.world.splits["SPY"] = [(date(2020, 1, 2), "2.0000")]
    harness.clock.time = new_york(SECOND, 10)
    await late_splits.refresh(harness.context, batch.id, 27)
    assert await harness.rows("SELECT max(benchmark_split_factor) FROM checkpoints") == [(1,)]


async def test_a_batch_that_is_not_there(harness):
    """A job of another database does nothing."""
    batch = await harness.make_batch()
    await late_splits.refresh(harness.context, type(batch.id)(int=7), 20)
    assert harness.requested_splits == []
