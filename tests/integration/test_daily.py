"""The mornings of a fortnight, and the upkeep that sees to it that none is lost."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from job_tools import (
    ALPHA_VANTAGE_KEY,
    BASELINE,
    CHOSEN,
    MONDAY,
    House,
    an_answer,
    completes,
    new_york,
    rows,
    standins,
    tools_for,
    until_it_can,
)
from job_tools import clock as clock
from job_tools import house as house
from provider_server import Reply, says

from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import Batch, batch_id
from app.errors import QuotaSpent, TryAgainAt
from app.store import checkpoints
from app.store.batches import complete
from jobs import daily, reconcile, weekly
from jobs.reconcile import Mended

TUESDAY = MONDAY + timedelta(days=1)
WEDNESDAY = MONDAY + timedelta(days=2)


async def take(house: House, batch: Batch, day: int, hour: int = 9, minute: int = 0) -> None:
    """Take a checkpoint at this time of its own morning."""
    house.clock.time = new_york(batch.run_date + timedelta(days=day), hour, minute)
    await daily.take(house.tools, batch.id, day)


async def checkpoint(house: House, batch: Batch, day: int) -> checkpoints.Checkpoint | None:
    """The checkpoint of a day."""
    async with house.tools.pool.connection() as conn:
        return await checkpoints.at(conn, batch.id, day)


METRICS = """
SELECT ticker, current_price, absolute_return_pct, vs_benchmark_pct
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
ORDER BY position
"""


async def test_a_checkpoint(house):
    """Every figure of a checkpoint, worked by hand."""
    batch = await house.a_batch()  # SPY 600, MSFT 3, AAPL 80, NVDA 7
    monday = {"SPY": "606.0000", "MSFT": "4.0000", "AAPL": "81.0000", "NVDA": "6.0000"}
    house.world.closes |= {(ticker, MONDAY): price for ticker, price in monday.items()}
    await take(house, batch, 1)

    taken = await checkpoint(house, batch, 1)
    assert (taken.status, taken.checkpoint_date, taken.trading_day) == ("computed", TUESDAY, MONDAY)
    assert (taken.benchmark_price, taken.benchmark_split_factor) == (Decimal(606), 1)
    assert taken.benchmark_return_pct == 1  # (606 - 600) / 600 * 100
    assert (taken.skip_reason, taken.note, taken.skipped_at) == (None, None, None)
    assert await house.rows(METRICS) == [
        # (4 - 3) / 3 is 0.3333333333333333333333333333 to 28 digits
        ("MSFT", 4, Decimal("33.33333333333333333333333333"), Decimal("32.33333333333333333333333333")),
        # (81 - 80) / 80 is 0.0125
        ("AAPL", 81, Decimal("1.25"), Decimal("0.25")),
        # (6 - 7) / 7 is -0.1428571428571428571428571429 to 28 digits
        ("NVDA", 6, Decimal("-14.28571428571428571428571429"), Decimal("-15.28571428571428571428571429")),
    ]
    assert house.asked == ["SPY", *CHOSEN]


async def test_a_checkpoint_names_its_readings(house):
    """Each figure leads to the reading it came from, and that is what the journal's entry holds."""
    batch = await house.a_batch()
    await take(house, batch, 1)
    readings = await house.rows(
        """
        SELECT closes.ticker, closes.trading_day, closes.read_at >= %s
        FROM pick_checkpoint_metrics
        JOIN closes ON closes.id = close_id
        UNION ALL
        SELECT closes.ticker, closes.trading_day, closes.read_at >= %s
        FROM checkpoints
        JOIN closes ON closes.id = benchmark_close_id
        WHERE day = 1
        ORDER BY 1
        """,
        new_york(TUESDAY),
        new_york(TUESDAY),
    )
    assert readings == [(ticker, MONDAY, True) for ticker in ("AAPL", "MSFT", "NVDA", "SPY")]
    entry = (await house.journal())[-1]
    recorded = json.loads(entry.content)
    assert (entry.kind, entry.batch_id) == ("CHECKPOINT", batch.id)
    assert recorded["checkpoint"]["day"] == "1"
    assert len(recorded["metrics"]) == 3
    assert sorted(close["ticker"] for close in recorded["closes"]) == ["AAPL", "MSFT", "NVDA", "SPY"]
    assert "batch" not in recorded


async def test_a_closed_market(house):
    """The morning after a day without a session is skipped, with its reason and without a request."""
    batch = await house.a_batch()
    await take(house, batch, 6)  # Sunday, the day on which summer time ends
    skipped = await checkpoint(house, batch, 6)
    assert (skipped.status, skipped.skip_reason, skipped.trading_day) == ("skipped", "MARKET_CLOSED", None)
    assert skipped.note == "2026-10-31 was no session."
    assert skipped.taken_at == skipped.skipped_at == datetime(2026, 11, 1, 14, tzinfo=UTC)
    assert house.asked == []
    assert house.asked_for_splits == ["SPY", *CHOSEN]
    assert (await house.journal())[-1].kind == "CHECKPOINT"


@pytest.mark.parametrize(
    ("run_date", "day", "session"),
    [
        pytest.param(date(2026, 10, 26), 1, date(2026, 10, 26), id="Tuesday uses Monday"),
        pytest.param(date(2026, 10, 26), 5, date(2026, 10, 30), id="Saturday uses Friday"),
        pytest.param(date(2026, 10, 26), 6, None, id="Sunday uses nothing"),
        pytest.param(date(2026, 10, 26), 7, None, id="Monday uses nothing"),
        pytest.param(date(2026, 9, 7), 1, None, id="the day after a holiday Monday uses nothing"),
        pytest.param(date(2026, 9, 7), 2, date(2026, 9, 8), id="the day after that uses it"),
        pytest.param(date(2026, 11, 23), 5, date(2026, 11, 27), id="Saturday uses Friday's half day"),
        pytest.param(date(2026, 11, 23), 4, None, id="the day after Thanksgiving uses nothing"),
    ],
)
async def test_the_session_of_a_morning(house, run_date, day, session):
    """A checkpoint uses the closes of the calendar day before it, if that was a session."""
    batch = await house.a_batch(run_date)
    await take(house, batch, day)
    taken = await checkpoint(house, batch, day)
    assert taken.trading_day == session
    assert (taken.skip_reason == "MARKET_CLOSED") == (session is None)


async def test_a_late_checkpoint(house):
    """Taken days late, a checkpoint uses the session that it was due for, never today's."""
    batch = await house.a_batch()
    house.world.closes |= {("SPY", MONDAY): "606.0000", ("SPY", date(2026, 10, 29)): "660.0000"}
    house.clock.time = new_york(MONDAY + timedelta(days=4), 15)
    await daily.take(house.tools, batch.id, 1)
    taken = await checkpoint(house, batch, 1)
    assert (taken.trading_day, taken.checkpoint_date) == (MONDAY, TUESDAY)
    assert taken.benchmark_price == 606
    assert taken.taken_at > new_york(MONDAY + timedelta(days=4), 15)


async def test_a_checkpoint_before_its_time(house):
    """A job that runs early comes back at nine."""
    batch = await house.a_batch()
    house.clock.time = new_york(TUESDAY, 8, 59)
    with pytest.raises(TryAgainAt) as early:
        await daily.take(house.tools, batch.id, 1)
    assert early.value.at == new_york(TUESDAY)
    assert house.provider.requests == []
    assert await checkpoint(house, batch, 1) is None


async def test_a_second_run_changes_nothing(house):
    """A checkpoint that is there is left alone: no request, no row, no entry."""
    batch = await house.a_batch()
    await take(house, batch, 1)
    before = await checkpoint(house, batch, 1), await house.journal(), await house.rows(METRICS)
    house.provider.requests.clear()
    house.world.closes["SPY", MONDAY] = "700.0000"
    await take(house, batch, 1, 11)
    assert (await checkpoint(house, batch, 1), await house.journal(), await house.rows(METRICS)) == before
    assert house.provider.requests == []


async def test_two_runs_at_once(house):
    """Of two runs at the same time one stores the checkpoint."""
    batch = await house.a_batch()
    house.clock.time = new_york(TUESDAY)
    await asyncio.gather(*(daily.take(house.tools, batch.id, 1) for _ in range(3)))
    assert await house.rows("SELECT count(*) FROM checkpoints WHERE day = 1") == [(1,)]
    assert await house.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(3,)]
    assert [entry.kind for entry in await house.journal()].count("CHECKPOINT") == 1


async def test_no_such_batch(house):
    """A job of a batch that is not there ends quietly."""
    house.clock.time = new_york(TUESDAY)
    await daily.take(house.tools, batch_id("main", MONDAY), 1)
    assert house.provider.requests == []


async def test_a_running_session_does_not_count(house):
    """A bar dated today is neither used nor kept; of the session before it, the close is taken."""
    batch = await house.a_batch()
    days = {str(day): {"1. open": "1", "4. close": close} for day, close in ((TUESDAY, "9"), (MONDAY, "606"))}
    house.world.instead = [
        says({"Meta Data": {"3. Last Refreshed": "2026-10-27 10:31:00"}, "Time Series (Daily)": days})
    ]
    await take(house, batch, 1, 10, 31)
    assert (await checkpoint(house, batch, 1)).benchmark_price == 606
    assert await house.rows("SELECT count(*) FROM closes WHERE trading_day >= '2026-10-27'") == [(0,)]


async def test_bars_are_kept_from_the_oldest_active_baseline_on(house):
    """A response fills gaps: later mornings need no request for a session that was seen."""
    batch = await house.a_batch()
    house.clock.time = new_york(MONDAY + timedelta(days=3))
    for day in (3, 2, 1):
        await daily.take(house.tools, batch.id, day)
    assert [(await checkpoint(house, batch, day)).status for day in (1, 2, 3)] == ["computed"] * 3
    assert house.asked == ["SPY", *CHOSEN]
    (oldest,) = await house.rows("SELECT min(trading_day) FROM closes WHERE read_at > '2026-10-28'")
    assert oldest >= (BASELINE,)


async def test_a_close_that_never_comes(house):
    """It is asked for at five more times of the day, then the morning is skipped and names what was missing."""
    batch = await house.a_batch()
    house.world.absent |= {("AAPL", MONDAY), ("NVDA", MONDAY)}
    house.clock.time = new_york(TUESDAY)
    times = await until_it_can(house, lambda: daily.take(house.tools, batch.id, 1))
    assert times == [new_york(TUESDAY, *clock) for clock in ((9, 30), (10, 30), (12, 30), (16, 30), (20, 30))]
    skipped = await checkpoint(house, batch, 1)
    assert (skipped.status, skipped.skip_reason) == ("skipped", "MISSING_CLOSE")
    assert skipped.note == "AAPL, NVDA: no close of 2026-10-26 by the last time of asking."
    assert house.asked == ["SPY", "MSFT", *["AAPL", "NVDA"] * 6]
    assert await house.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(0,)]


async def test_a_close_that_comes_late(house):
    """As soon as it is there the checkpoint is computed; nothing partial was stored before."""
    batch = await house.a_batch()
    house.world.absent.add(("AAPL", MONDAY))
    with pytest.raises(TryAgainAt, match="AAPL: no close of 2026-10-26 yet"):
        await take(house, batch, 1)
    assert await checkpoint(house, batch, 1) is None
    house.world.absent.clear()
    await take(house, batch, 1, 9, 30)
    assert (await checkpoint(house, batch, 1)).status == "computed"
    assert house.asked == ["SPY", "MSFT", "AAPL", "NVDA", "AAPL"]


async def test_a_benchmark_without_its_close(house):
    """When the market itself has no close nothing else is asked for, and it alone is named."""
    batch = await house.a_batch()
    house.world.absent.add(("SPY", MONDAY))
    house.clock.time = new_york(TUESDAY)
    await until_it_can(house, lambda: daily.take(house.tools, batch.id, 1))
    skipped = await checkpoint(house, batch, 1)
    assert skipped.note == "SPY: no close of 2026-10-26 by the last time of asking."
    assert house.asked == ["SPY"] * 6


UNKNOWN = [says({"Error Message": "Invalid API call."})]


@pytest.mark.parametrize(
    ("replies", "note"),
    [
        pytest.param([Reply(status=503)] * 5, "Alpha Vantage answered 503.", id="down"),
        pytest.param(UNKNOWN * 5, "does not know SPY. It did on", id="unknown"),
        pytest.param([says({"Information": "This is a premium endpoint."})], "asks for a premium key", id="premium"),
        pytest.param([says({"Information": "We are moving."})] * 5, "We are moving.", id="a notice"),
        pytest.param(
            [says({"Time Series (Daily)": {"2026-10-26": {"1. open": "1", "4. close": "NaN"}}})] * 5,
            "SPY, 2026-10-26: 'NaN' is not a price.",
            id="a price that is none",
        ),
        pytest.param(
            [says({"Time Series (Daily)": {"2026-10-26": {"1. open": "1", "4. close": ALPHA_VANTAGE_KEY}}})] * 5,
            "'***' is not a price.",
            id="a price that is the key",
        ),
    ],
)
async def test_a_provider_that_does_not_help(house, replies, note):
    """The morning is skipped and says what the provider said; the key is not part of it."""
    batch = await house.a_batch()
    house.world.instead = list(replies)
    await take(house, batch, 1)
    skipped = await checkpoint(house, batch, 1)
    assert (skipped.status, skipped.skip_reason) == ("skipped", "PROVIDER_ERROR")
    assert note in skipped.note
    assert ALPHA_VANTAGE_KEY not in skipped.note
    assert house.world.instead == []
    assert set(house.asked) == {"SPY"}


async def test_a_notice_that_postgres_cannot_carry(house):
    """A morning that the provider refuses with odd characters is skipped like any other."""
    batch = await house.a_batch()
    house.clock.time = calendar.due_at(MONDAY, 1)
    house.world.instead = [says({"Information": "Something\0 else."})] * 5
    await daily.take(house.tools, batch.id, 1)
    assert await house.rows("SELECT skip_reason, note FROM checkpoints WHERE day = 1") == [
        (
            "PROVIDER_ERROR",
            "Alpha Vantage answered with a notice in place of data: Something\N{REPLACEMENT CHARACTER} else.",
        )
    ]


async def test_a_spent_quota_is_waited_for(house):
    """A quota is no failure: nothing is stored, and the job comes back when the ledger lets it."""
    batch = await house.a_batch()
    house.world.instead = [says({"Information": "We have detected your API key as AVKEY4711 and 25 requests per day."})]
    with pytest.raises(QuotaSpent) as spent:
        await take(house, batch, 1)
    assert spent.value.at == new_york(TUESDAY, 10)
    assert ALPHA_VANTAGE_KEY not in str(spent.value)
    assert await checkpoint(house, batch, 1) is None
    house.clock.time = spent.value.at
    await daily.take(house.tools, batch.id, 1)
    assert (await checkpoint(house, batch, 1)).status == "computed"


async def test_a_ticker_of_two_batches_is_asked_for_once(house):
    """On one morning the readings serve every batch."""
    older = await house.a_batch(date(2026, 10, 19), "AAPL", "KO", "NVDA")
    newer = await house.a_batch(MONDAY, "MSFT", "AAPL", "NVDA")
    house.clock.time = new_york(WEDNESDAY)
    await daily.take(house.tools, older.id, 9)
    await daily.take(house.tools, newer.id, 2)
    assert house.asked == ["SPY", "AAPL", "KO", "NVDA", "MSFT"]
    ((one,),) = await house.rows(
        """
        SELECT count(DISTINCT close_id)
        FROM pick_checkpoint_metrics
        JOIN picks ON picks.id = pick_id
        WHERE ticker = 'AAPL'
        """
    )
    assert one == 1


async def test_a_close_that_is_said_differently_later(house):
    """The second word is a second reading: what was stored keeps the first, new work uses the newest."""
    batch = await house.a_batch()
    await take(house, batch, 1)
    house.world.closes["SPY", BASELINE] = house.world.closes["SPY", MONDAY] = "601.0000"
    await take(house, batch, 2)
    assert (await checkpoint(house, batch, 1)).benchmark_price == 600
    assert (await checkpoint(house, batch, 0)).benchmark_price == 600
    assert (await checkpoint(house, batch, 2)).benchmark_return_pct == 0
    assert await house.rows(
        "SELECT close FROM closes WHERE ticker = 'SPY' AND trading_day = '2026-10-26' ORDER BY read_at"
    ) == [(600,), (601,)]


async def test_a_fortnight_with_the_stand_ins(database, pool, clock):
    """All fourteen mornings: four of them closed, ten computed; the last absent day completes the batch."""
    async with standins(clock) as url, tools_for(database, pool, clock, url) as tools:
        await weekly.begin(tools, 1, None)
        ((id,),) = await rows(pool, "SELECT id FROM batches")
        for day in (*range(1, 9), *range(10, 15), 9):  # the ninth morning's job was late
            clock.time = calendar.due_at(MONDAY, max(day, 14) if day == 9 else day)
            assert await rows(pool, "SELECT status FROM batches") == [("active",)]
            await daily.take(tools, id, day)
    taken = await rows(pool, "SELECT day, trading_day FROM checkpoints ORDER BY day")
    closed = {6, 7, 13, 14}
    assert taken == [
        (0, BASELINE),
        *((day, None if day in closed else MONDAY + timedelta(days=day - 1)) for day in range(1, 15)),
    ]
    assert await rows(pool, "SELECT status FROM batches") == [("completed",)]
    entries = await rows(pool, "SELECT content FROM journal WHERE kind = 'CHECKPOINT' ORDER BY seq")
    statuses = [json.loads(content).get("batch", {}).get("status") for (content,) in entries]
    assert statuses == [None] * 13 + ["completed"]
    assert await rows(pool, "SELECT count(*) FROM pick_checkpoint_metrics") == [(30,)]
    async with transaction(pool) as conn:
        assert not await complete(conn, id)  # once is enough


# Upkeep


async def without_jobs(house: House) -> None:
    """Somebody has deleted every job."""
    await house.rows("DELETE FROM procrastinate_jobs")


async def a_worker(house: House, silent_for: float) -> int:
    """A worker whose last sign of life was so many real seconds ago."""
    ((id,),) = await house.rows(
        "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => %s)) RETURNING id",
        silent_for,
    )
    return id


async def test_jobs_of_a_dead_worker_are_put_back(house):
    """A job that is done by nobody is put back, due at once; one of a living worker is not."""
    await house.a_batch()
    dead, alive = await a_worker(house, 60), await a_worker(house, 5)
    for day, worker in ((1, dead), (2, alive), (3, None)):
        await house.rows(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE args ->> 'day' = %s", worker, str(day)
        )
    assert await reconcile.look_after(house.tools) == Mended(put_back=2)
    assert await house.rows(
        """
        SELECT (args ->> 'day')::integer, status::text, scheduled_at
        FROM procrastinate_jobs
        WHERE args ->> 'day' IN ('1', '2', '3')
        ORDER BY id
        """
    ) == [(1, "todo", None), (2, "doing", calendar.due_at(MONDAY, 2)), (3, "todo", None)]
    assert await reconcile.look_after(house.tools) == Mended()


async def test_a_due_checkpoint_whose_job_is_gone_is_deferred(house):
    """Every due day with neither row nor job gets a job, once, and is taken for the session it was due for."""
    batch = await house.a_batch()
    await take(house, batch, 1)
    await without_jobs(house)
    house.clock.time = new_york(MONDAY + timedelta(days=3))
    assert await reconcile.look_after(house.tools) == Mended(deferred=2)
    assert await house.jobs() == [
        ("take_checkpoint", {"batch_id": str(batch.id), "day": day}, calendar.due_at(MONDAY, day)) for day in (2, 3)
    ]
    assert await reconcile.look_after(house.tools) == Mended()
    await daily.take(house.tools, batch.id, 2)
    assert (await checkpoint(house, batch, 2)).trading_day == TUESDAY


async def test_a_checkpoint_is_not_deferred_before_nine(house):
    """Today's checkpoint is not missed before it is due."""
    await house.a_batch()
    await without_jobs(house)
    house.clock.time = new_york(TUESDAY, 8, 59)
    assert await reconcile.look_after(house.tools) == Mended()
    house.clock.time = new_york(TUESDAY)
    assert await reconcile.look_after(house.tools) == Mended(deferred=1)


@pytest.mark.parametrize("status", ["todo", "doing"])
async def test_a_checkpoint_on_its_way_is_not_deferred(house, status):
    """A job that waits or runs is enough."""
    await house.a_batch()
    worker = await a_worker(house, 1) if status == "doing" else None
    await house.rows("UPDATE procrastinate_jobs SET status = %s, worker_id = %s", status, worker)
    house.clock.time = new_york(MONDAY + timedelta(days=14))
    assert await reconcile.look_after(house.tools) == Mended(missed=1)  # the Monday between


async def test_a_checkpoint_whose_job_failed_is_skipped(house):
    """A job that was given up is not begun again every minute: the day is skipped, and looked at once a day."""
    await house.a_batch()
    await house.rows("UPDATE procrastinate_jobs SET status = 'failed' WHERE args ->> 'day' = '1'")
    house.clock.time = new_york(TUESDAY)
    assert await reconcile.look_after(house.tools) == Mended(given_up=1)


async def test_nothing_is_deferred_for_a_completed_batch(house):
    """When all days are there nothing is missed any more."""
    batch = await house.a_batch()
    house.clock.time = new_york(MONDAY + timedelta(days=14))
    for day in range(1, 15):
        await daily.take(house.tools, batch.id, day)
    await without_jobs(house)
    assert (await house.batch()).status == "completed"
    house.clock.time = new_york(MONDAY + timedelta(days=14))  # the splits of the Sundays took their seconds
    assert await reconcile.look_after(house.tools) == Mended(missed=1)  # the Monday between


async def test_a_monday_whose_tick_was_lost(house):
    """A minute after nine, upkeep begins the Monday that nobody began: once."""
    house.clock.time = new_york(MONDAY, 9, 0)
    assert await reconcile.look_after(house.tools) == Mended()  # the tick's own minute
    house.clock.time = new_york(MONDAY, 9, 1)
    assert await reconcile.look_after(house.tools) == Mended(begun=True)
    ((task, args, at),) = await house.jobs()
    assert (task, args, at) == ("pick_week", {"timestamp": int(house.clock.now().timestamp()), "questions": None}, None)
    assert await reconcile.look_after(house.tools) == Mended()
    ((job,),) = await house.rows("SELECT id FROM procrastinate_jobs")
    await house.begin(job)
    assert (await house.batch()).status == "active"


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(new_york(MONDAY, 8, 59), id="before nine"),
        pytest.param(new_york(TUESDAY), id="Tuesday"),
        pytest.param(new_york(MONDAY - timedelta(days=1), 12), id="Sunday"),
    ],
)
async def test_upkeep_begins_no_other_day(house, now):
    """Only a Monday that has begun can have been missed."""
    house.clock.time = now
    assert await reconcile.look_after(house.tools) == Mended()


@pytest.mark.parametrize("content", [an_answer(*CHOSEN), "no"], ids=["with picks", "failed"])
async def test_upkeep_leaves_a_monday_alone_that_has_its_row(house, content):
    """An active batch is there; a failed one is a person's to run again."""
    house.world.model = [completes(content)]
    await house.begin()
    house.clock.time = new_york(MONDAY, 12)
    assert await reconcile.look_after(house.tools) == Mended()


async def test_one_upkeep_at_a_time(house, pool):
    """While another process is at it, upkeep does nothing; two at once mend once."""
    await house.a_batch()
    await without_jobs(house)
    house.clock.time = new_york(TUESDAY)
    async with transaction(pool) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
        assert await reconcile.look_after(house.tools) is None
    await asyncio.gather(*(reconcile.look_after(house.tools) for _ in range(3)))
    assert len(await house.jobs()) == 1


async def test_upkeep_goes_round_twice_a_minute(house):
    """The loop looks after the promises and waits half a told minute between two rounds."""
    await house.a_batch()
    await without_jobs(house)
    house.clock.time = new_york(TUESDAY)
    keeping = asyncio.create_task(reconcile.keep(house.tools))
    while len(house.clock.slept) < 3:
        await asyncio.sleep(0.005)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert set(house.clock.slept) == {30.0}
    assert len(await house.jobs()) == 1


async def test_how_long_a_worker_may_be_silent_is_asked_each_round(house):
    """A rehearsal's worker beats every second, and every five once it lives on in real time."""
    await house.a_batch()
    worker, limits = await a_worker(house, 8), iter([30.0, 30.0, 6.0, 6.0])
    await house.rows(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE args ->> 'day' = '1'", worker
    )
    seen = []

    async def look() -> None:
        seen.extend(await house.rows("SELECT status::text FROM procrastinate_jobs WHERE args ->> 'day' = '1'"))
        house.clock.meanwhile = stop

    async def stop() -> None:
        seen.extend(await house.rows("SELECT status::text FROM procrastinate_jobs WHERE args ->> 'day' = '1'"))
        raise TryAgainAt("The process was told to stop.", house.clock.now())

    house.clock.meanwhile = look
    await reconcile.keep(house.tools, lambda: next(limits))
    assert seen == [("doing",), ("todo",)]
