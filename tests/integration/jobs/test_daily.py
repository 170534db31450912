"""The checkpoints of a fortnight, and the reconciliation that makes sure that none is lost."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from job_context import (
    ALPHA_VANTAGE_KEY,
    BASELINE,
    CHOSEN,
    MONDAY,
    JobHarness,
    make_answer,
    make_completion,
    new_york,
    open_context,
    rows,
    run_until_done,
    standins,
)
from job_context import clock as clock
from job_context import harness as harness
from provider_server import Reply, says

from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import Batch, batch_id
from app.errors import QuotaSpent, TryAgainAt
from app.store import checkpoints
from app.store.batches import complete
from jobs import daily, reconcile, weekly
from jobs.reconcile import ReconcileResult

TUESDAY = MONDAY + timedelta(days=1)
WEDNESDAY = MONDAY + timedelta(days=2)


async def take(harness: JobHarness, batch: Batch, day: int, hour: int = 9, minute: int = 0) -> None:
    """Take a checkpoint at this time of its day."""
    harness.clock.time = new_york(batch.run_date + timedelta(days=day), hour, minute)
    await daily.take(harness.context, batch.id, day)


async def checkpoint(harness: JobHarness, batch: Batch, day: int) -> checkpoints.Checkpoint | None:
    """Return the checkpoint of a day."""
    async with harness.context.pool.connection() as conn:
        return await checkpoints.get(conn, batch.id, day)


METRICS = """
SELECT ticker, current_price, absolute_return_pct, vs_benchmark_pct
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
ORDER BY position
"""


async def test_a_checkpoint(harness):
    """Every figure of a checkpoint equals the one computed manually."""
    batch = await harness.make_batch()  # SPY 600, MSFT 3, AAPL 80, NVDA 7
    monday = {"SPY": "606.0000", "MSFT": "4.0000", "AAPL": "81.0000", "NVDA": "6.0000"}
    harness.world.closes |= {(ticker, MONDAY): price for ticker, price in monday.items()}
    await take(harness, batch, 1)

    taken = await checkpoint(harness, batch, 1)
    assert (taken.status, taken.checkpoint_date, taken.trading_day) == ("computed", TUESDAY, MONDAY)
    assert (taken.benchmark_price, taken.benchmark_split_factor) == (Decimal(606), 1)
    assert taken.benchmark_return_pct == 1  # (606 - 600) / 600 * 100
    assert (taken.skip_reason, taken.note, taken.skipped_at) == (None, None, None)
    assert await harness.rows(METRICS) == [
        # (4 - 3) / 3 is 0.3333333333333333333333333333 to 28 digits
        (
            "MSFT",
            4,
            Decimal("33.33333333333333333333333333"),
            Decimal("32.33333333333333333333333333"),
        ),
        # (81 - 80) / 80 is 0.0125
        ("AAPL", 81, Decimal("1.25"), Decimal("0.25")),
        # (6 - 7) / 7 is -0.1428571428571428571428571429 to 28 digits
        (
            "NVDA",
            6,
            Decimal("-14.28571428571428571428571429"),
            Decimal("-15.28571428571428571428571429"),
        ),
    ]
    assert harness.requested_tickers == ["SPY", *CHOSEN]


async def test_a_checkpoint_names_its_readings(harness):
    """
    Each figure refers to the reading that it uses, and the journal entry has exactly these
    readings.
    """
    batch = await harness.make_batch()
    await take(harness, batch, 1)
    readings = await harness.rows(
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
    entry = (await harness.journal())[-1]
    recorded = json.loads(entry.content)
    assert (entry.kind, entry.batch_id) == ("CHECKPOINT", batch.id)
    assert recorded["checkpoint"]["day"] == "1"
    assert len(recorded["metrics"]) == 3
    assert sorted(close["ticker"] for close in recorded["closes"]) == [
        "AAPL",
        "MSFT",
        "NVDA",
        "SPY",
    ]
    assert "batch" not in recorded


async def test_a_closed_market(harness):
    """
    The checkpoint after a day without a session is skipped, with its reason and without a request.
    """
    batch = await harness.make_batch()
    await take(harness, batch, 6)  # Sunday, the day on which summer time ends
    skipped = await checkpoint(harness, batch, 6)
    assert (skipped.status, skipped.skip_reason, skipped.trading_day) == (
        "skipped",
        "MARKET_CLOSED",
        None,
    )
    assert skipped.note == "2026-10-31 was no session."
    assert skipped.taken_at == skipped.skipped_at == datetime(2026, 11, 1, 14, tzinfo=UTC)
    assert harness.requested_tickers == []
    assert harness.requested_splits == ["SPY", *CHOSEN]
    assert (await harness.kinds())[-5:] == ["CHECKPOINT", *["READINGS"] * 4]


@pytest.mark.parametrize(
    ("run_date", "day", "session"),
    [
        pytest.param(date(2026, 10, 26), 1, date(2026, 10, 26), id="Tuesday uses Monday"),
        pytest.param(date(2026, 10, 26), 5, date(2026, 10, 30), id="Saturday uses Friday"),
        pytest.param(date(2026, 10, 26), 6, None, id="Sunday uses nothing"),
        pytest.param(date(2026, 10, 26), 7, None, id="Monday uses nothing"),
        pytest.param(date(2026, 9, 7), 1, None, id="the day after a holiday Monday uses nothing"),
        pytest.param(date(2026, 9, 7), 2, date(2026, 9, 8), id="the day after that uses it"),
        pytest.param(
            date(2026, 11, 23), 5, date(2026, 11, 27), id="Saturday uses Friday's half day"
        ),
        pytest.param(date(2026, 11, 23), 4, None, id="the day after Thanksgiving uses nothing"),
    ],
)
async def test_the_session_of_a_morning(harness, run_date, day, session):
    """A checkpoint uses the closes of the calendar day before it, if that was a session."""
    batch = await harness.make_batch(run_date)
    await take(harness, batch, day)
    taken = await checkpoint(harness, batch, day)
    assert taken.trading_day == session
    assert (taken.skip_reason == "MARKET_CLOSED") == (session is None)


async def test_a_late_checkpoint(harness):
    """A checkpoint that is taken days late uses its own session, never today's."""
    batch = await harness.make_batch()
    harness.world.closes |= {("SPY", MONDAY): "606.0000", ("SPY", date(2026, 10, 29)): "660.0000"}
    harness.clock.time = new_york(MONDAY + timedelta(days=4), 15)
    await daily.take(harness.context, batch.id, 1)
    taken = await checkpoint(harness, batch, 1)
    assert (taken.trading_day, taken.checkpoint_date) == (MONDAY, TUESDAY)
    assert taken.benchmark_price == 606
    assert taken.taken_at > new_york(MONDAY + timedelta(days=4), 15)


async def test_a_checkpoint_before_its_time(harness):
    """A job that runs early waits until 09:00."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(TUESDAY, 8, 59)
    with pytest.raises(TryAgainAt) as early:
        await daily.take(harness.context, batch.id, 1)
    assert early.value.at == new_york(TUESDAY)
    assert harness.provider.requests == []
    assert await checkpoint(harness, batch, 1) is None


async def test_a_second_run_changes_nothing(harness):
    """A stored checkpoint does not change: no request, no row, no entry."""
    batch = await harness.make_batch()
    await take(harness, batch, 1)
    before = (
        await checkpoint(harness, batch, 1),
        await harness.journal(),
        await harness.rows(METRICS),
    )
    harness.provider.requests.clear()
    harness.world.closes["SPY", MONDAY] = "700.0000"
    await take(harness=harness, batch=batch, day=1, hour=11)
    assert (
        await checkpoint(harness, batch, 1),
        await harness.journal(),
        await harness.rows(METRICS),
    ) == before
    assert harness.provider.requests == []


async def test_two_runs_at_once(harness):
    """Of two runs at the same time, one stores the checkpoint."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(TUESDAY)
    await asyncio.gather(*(daily.take(harness.context, batch.id, 1) for _ in range(3)))
    assert await harness.rows("SELECT count(*) FROM checkpoints WHERE day = 1") == [(1,)]
    assert await harness.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(3,)]
    assert [entry.kind for entry in await harness.journal()].count("CHECKPOINT") == 1


async def test_no_such_batch(harness):
    """A job of a batch that does not exist ends without an error."""
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch_id("main", MONDAY), 1)
    assert harness.provider.requests == []


async def test_a_running_session_does_not_count(harness):
    """A bar dated today is neither used nor stored; the close of the session before it is used."""
    batch = await harness.make_batch()
    days = {
        str(day): {"1. open": "1", "4. close": close}
        for day, close in ((TUESDAY, "9"), (MONDAY, "606"))
    }
    harness.world.instead = [
        says(
            {"Meta Data": {"3. Last Refreshed": "2026-10-27 10:31:00"}, "Time Series (Daily)": days}
        )
    ]
    await take(harness=harness, batch=batch, day=1, hour=10, minute=31)
    assert (await checkpoint(harness, batch, 1)).benchmark_price == 606
    assert await harness.rows("SELECT count(*) FROM closes WHERE trading_day >= '2026-10-27'") == [
        (0,)
    ]


async def test_bars_are_stored_from_the_oldest_active_baseline_on(harness):
    """A response fills gaps: later checkpoints need no request for a session that it contained."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(MONDAY + timedelta(days=3))
    for day in (3, 2, 1):
        await daily.take(harness.context, batch.id, day)
    assert [(await checkpoint(harness, batch, day)).status for day in (1, 2, 3)] == ["computed"] * 3
    assert harness.requested_tickers == ["SPY", *CHOSEN]
    (oldest,) = await harness.rows(
        "SELECT min(trading_day) FROM closes WHERE read_at > '2026-10-28'"
    )
    assert oldest >= (BASELINE,)


async def test_a_close_that_never_comes(harness):
    """
    The close is requested at five more times of the day; then the checkpoint is skipped, and names
    the tickers.
    """
    batch = await harness.make_batch()
    harness.world.absent |= {("AAPL", MONDAY), ("NVDA", MONDAY)}
    harness.clock.time = new_york(TUESDAY)
    times = await run_until_done(harness, lambda: daily.take(harness.context, batch.id, 1))
    assert times == [
        new_york(TUESDAY, *clock) for clock in ((9, 30), (10, 30), (12, 30), (16, 30), (20, 30))
    ]
    skipped = await checkpoint(harness, batch, 1)
    assert (skipped.status, skipped.skip_reason) == ("skipped", "MISSING_CLOSE")
    assert skipped.note == "AAPL, NVDA: no close of 2026-10-26 by the last time of asking."
    assert harness.requested_tickers == ["SPY", "MSFT", *["AAPL", "NVDA"] * 6]
    assert await harness.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(0,)]


async def test_a_close_that_comes_late(harness):
    """The checkpoint is computed when the close is available; nothing partial is stored before."""
    batch = await harness.make_batch()
    harness.world.absent.add(("AAPL", MONDAY))
    with pytest.raises(TryAgainAt, match="AAPL: no close of 2026-10-26 yet"):
        await take(harness, batch, 1)
    assert await checkpoint(harness, batch, 1) is None
    harness.world.absent.clear()
    await take(harness=harness, batch=batch, day=1, hour=9, minute=30)
    assert (await checkpoint(harness, batch, 1)).status == "computed"
    assert harness.requested_tickers == ["SPY", "MSFT", "AAPL", "NVDA", "AAPL"]


async def test_a_benchmark_without_its_close(harness):
    """If the benchmark has no close, no other is requested, and only the benchmark is named."""
    batch = await harness.make_batch()
    harness.world.absent.add(("SPY", MONDAY))
    harness.clock.time = new_york(TUESDAY)
    await run_until_done(harness, lambda: daily.take(harness.context, batch.id, 1))
    skipped = await checkpoint(harness, batch, 1)
    assert skipped.note == "SPY: no close of 2026-10-26 by the last time of asking."
    assert harness.requested_tickers == ["SPY"] * 6


UNKNOWN = [says({"Error Message": "Invalid API call."})]


@pytest.mark.parametrize(
    ("replies", "note"),
    [
        pytest.param([Reply(status=503)] * 5, "Alpha Vantage answered 503.", id="down"),
        pytest.param(UNKNOWN * 5, "does not know SPY. It did on", id="unknown"),
        pytest.param(
            [says({"Information": "This is a premium endpoint."})],
            "asks for a premium key",
            id="premium",
        ),
        pytest.param(
            [says({"Information": "We are moving."})] * 5, "We are moving.", id="a notice"
        ),
        pytest.param(
            [says({"Time Series (Daily)": {"2026-10-26": {"1. open": "1", "4. close": "NaN"}}})]
            * 5,
            "SPY, 2026-10-26: 'NaN' is not a price.",
            id="a price of another form",
        ),
        pytest.param(
            [
                says(
                    {
                        "Time Series (Daily)": {
                            "2026-10-26": {"1. open": "1", "4. close": ALPHA_VANTAGE_KEY}
                        }
                    }
                )
            ]
            * 5,
            "'***' is not a price.",
            id="a price that is the key",
        ),
    ],
)
async def test_a_provider_without_an_answer(harness, replies, note):
    """The checkpoint is skipped with the provider's message, without the key."""
    batch = await harness.make_batch()
    harness.world.instead = list(replies)
    await take(harness, batch, 1)
    skipped = await checkpoint(harness, batch, 1)
    assert (skipped.status, skipped.skip_reason) == ("skipped", "PROVIDER_ERROR")
    assert note in skipped.note
    assert ALPHA_VANTAGE_KEY not in skipped.note
    assert harness.world.instead == []
    assert set(harness.requested_tickers) == {"SPY"}


async def test_a_notice_that_postgres_cannot_store(harness):
    """A checkpoint that the provider refuses with odd characters is skipped like any other."""
    batch = await harness.make_batch()
    harness.clock.time = calendar.due_at(MONDAY, 1)
    harness.world.instead = [says({"Information": "Something\0 else."})] * 5
    await daily.take(harness.context, batch.id, 1)
    assert await harness.rows("SELECT skip_reason, note FROM checkpoints WHERE day = 1") == [
        (
            "PROVIDER_ERROR",
            "Alpha Vantage answered with a notice in place of data: "
            "Something\N{REPLACEMENT CHARACTER} else.",
        )
    ]


async def test_a_spent_quota_is_waited_for(harness):
    """
    A spent quota is no failure: nothing is stored, and the job runs again when the ledger allows
    it.
    """
    batch = await harness.make_batch()
    harness.world.instead = [
        says({"Information": "We have detected your API key as AVKEY4711 and 25 requests per day."})
    ]
    with pytest.raises(QuotaSpent) as spent:
        await take(harness, batch, 1)
    assert spent.value.at == new_york(TUESDAY, 10)
    assert ALPHA_VANTAGE_KEY not in str(spent.value)
    assert await checkpoint(harness, batch, 1) is None
    harness.clock.time = spent.value.at
    await daily.take(harness.context, batch.id, 1)
    assert (await checkpoint(harness, batch, 1)).status == "computed"


async def test_a_ticker_of_two_batches_is_requested_once(harness):
    """The readings of one morning serve all batches."""
    older = await harness.make_batch(date(2026, 10, 19), "AAPL", "KO", "NVDA")
    newer = await harness.make_batch(MONDAY, "MSFT", "AAPL", "NVDA")
    harness.clock.time = new_york(WEDNESDAY)
    await daily.take(harness.context, older.id, 9)
    await daily.take(harness.context, newer.id, 2)
    assert harness.requested_tickers == ["SPY", "AAPL", "KO", "NVDA", "MSFT"]
    ((one,),) = await harness.rows(
        """
        SELECT count(DISTINCT close_id)
        FROM pick_checkpoint_metrics
        JOIN picks ON picks.id = pick_id
        WHERE ticker = 'AAPL'
        """
    )
    assert one == 1


async def test_a_close_that_changes_later(harness):
    """
    A changed close is a second reading: stored figures keep the first, new ones use the newest.
    """
    batch = await harness.make_batch()
    await take(harness, batch, 1)
    harness.world.closes["SPY", BASELINE] = harness.world.closes["SPY", MONDAY] = "601.0000"
    await take(harness, batch, 2)
    assert (await checkpoint(harness, batch, 1)).benchmark_price == 600
    assert (await checkpoint(harness, batch, 0)).benchmark_price == 600
    assert (await checkpoint(harness, batch, 2)).benchmark_return_pct == 0
    assert await harness.rows(
        "SELECT close FROM closes WHERE ticker = 'SPY' AND trading_day = '2026-10-26' ORDER BY "
        "read_at"
    ) == [(600,), (601,)]


async def test_a_fortnight_with_the_simulators(database, pool, clock):
    """
    All fourteen checkpoints: four skipped, ten computed; the last missing one completes the batch.
    """
    async with (
        standins(clock) as url,
        open_context(database=database, pool=pool, clock=clock, base_url=url) as context,
    ):
        await weekly.run_if_due(context, 1, None)
        ((id,),) = await rows(pool, "SELECT id FROM batches")
        for day in (*range(1, 9), *range(10, 15), 9):  # the ninth morning's job was late
            clock.time = calendar.due_at(MONDAY, max(day, 14) if day == 9 else day)
            assert await rows(pool, "SELECT status FROM batches") == [("active",)]
            await daily.take(context, id, day)
    taken = await rows(pool, "SELECT day, trading_day FROM checkpoints ORDER BY day")
    closed = {6, 7, 13, 14}
    assert taken == [
        (0, BASELINE),
        *(
            (day, None if day in closed else MONDAY + timedelta(days=day - 1))
            for day in range(1, 15)
        ),
    ]
    assert await rows(pool, "SELECT status FROM batches") == [("completed",)]
    entries = await rows(pool, "SELECT content FROM journal WHERE kind = 'CHECKPOINT' ORDER BY seq")
    statuses = [json.loads(content).get("batch", {}).get("status") for (content,) in entries]
    assert statuses == [None] * 13 + ["completed"]
    assert await rows(pool, "SELECT count(*) FROM pick_checkpoint_metrics") == [(30,)]
    async with transaction(pool) as conn:
        assert not await complete(conn, id)  # once is enough


# Reconciliation


async def without_jobs(harness: JobHarness) -> None:
    """All jobs have been deleted."""
    await harness.rows("DELETE FROM procrastinate_jobs")


async def a_worker(harness: JobHarness, silent_for: float) -> int:
    """Store a worker whose last heartbeat was so many real seconds ago."""
    ((id,),) = await harness.rows(
        "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => "
        "%s)) RETURNING id",
        silent_for,
    )
    return id


async def test_jobs_of_a_dead_worker_are_put_back(harness):
    """A job of a dead worker is put back, due at once; one of a living worker is not."""
    await harness.make_batch()
    dead, alive = await a_worker(harness, 60), await a_worker(harness, 5)
    for day, worker in ((1, dead), (2, alive), (3, None)):
        await harness.rows(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE args ->> 'day' "
            "= %s",
            worker,
            str(day),
        )
    assert await reconcile.run_round(harness.context) == ReconcileResult(put_back=2)
    assert await harness.rows(
        """
        SELECT (args ->> 'day')::integer, status::text, scheduled_at
        FROM procrastinate_jobs
        WHERE args ->> 'day' IN ('1', '2', '3')
        ORDER BY id
        """
    ) == [(1, "todo", None), (2, "doing", calendar.due_at(MONDAY, 2)), (3, "todo", None)]
    assert await reconcile.run_round(harness.context) == ReconcileResult()


async def test_a_due_checkpoint_whose_job_is_gone_is_deferred(harness):
    """Each due day with neither row nor job gets one job, and uses the session of its own day."""
    batch = await harness.make_batch()
    await take(harness, batch, 1)
    await without_jobs(harness)
    harness.clock.time = new_york(MONDAY + timedelta(days=3))
    assert await reconcile.run_round(harness.context) == ReconcileResult(deferred=2)
    assert await harness.jobs() == [
        ("take_checkpoint", {"batch_id": str(batch.id), "day": day}, calendar.due_at(MONDAY, day))
        for day in (2, 3)
    ]
    assert await reconcile.run_round(harness.context) == ReconcileResult()
    await daily.take(harness.context, batch.id, 2)
    assert (await checkpoint(harness, batch, 2)).trading_day == TUESDAY


async def test_a_checkpoint_is_not_deferred_before_nine(harness):
    """Today's checkpoint is not missing before it is due."""
    await harness.make_batch()
    await without_jobs(harness)
    harness.clock.time = new_york(TUESDAY, 8, 59)
    assert await reconcile.run_round(harness.context) == ReconcileResult()
    harness.clock.time = new_york(TUESDAY)
    assert await reconcile.run_round(harness.context) == ReconcileResult(deferred=1)


@pytest.mark.parametrize("status", ["todo", "doing"])
async def test_a_checkpoint_on_its_way_is_not_deferred(harness, status):
    """A job that waits or runs is enough."""
    await harness.make_batch()
    worker = await a_worker(harness, 1) if status == "doing" else None
    await harness.rows("UPDATE procrastinate_jobs SET status = %s, worker_id = %s", status, worker)
    harness.clock.time = new_york(MONDAY + timedelta(days=14))
    assert await reconcile.run_round(harness.context) == ReconcileResult(
        missed=1
    )  # the Monday between


async def test_a_checkpoint_whose_job_failed_is_skipped(harness):
    """
    A job that was given up is not deferred each minute: the day is skipped, and retaken once a day.
    """
    await harness.make_batch()
    await harness.rows("UPDATE procrastinate_jobs SET status = 'failed' WHERE args ->> 'day' = '1'")
    harness.clock.time = new_york(TUESDAY)
    assert await reconcile.run_round(harness.context) == ReconcileResult(given_up=1)


async def test_nothing_is_deferred_for_a_completed_batch(harness):
    """When all days are stored, none is missing."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(MONDAY + timedelta(days=14))
    for day in range(1, 15):
        await daily.take(harness.context, batch.id, day)
    await without_jobs(harness)
    assert (await harness.batch()).status == "completed"
    harness.clock.time = new_york(
        MONDAY + timedelta(days=14)
    )  # the requests for splits on the Sundays took seconds
    assert await reconcile.run_round(harness.context) == ReconcileResult(
        missed=1
    )  # the Monday between


async def test_a_monday_whose_tick_was_lost(harness):
    """A minute after 09:00, reconciliation starts the Monday that no tick has started, once."""
    harness.clock.time = new_york(MONDAY, 9, 0)
    assert (
        await reconcile.run_round(harness.context) == ReconcileResult()
    )  # the minute of the tick itself
    harness.clock.time = new_york(MONDAY, 9, 1)
    assert await reconcile.run_round(harness.context) == ReconcileResult(begun=True)
    ((task, args, at),) = await harness.jobs()
    assert (task, args, at) == (
        "pick_week",
        {"timestamp": int(harness.clock.now().timestamp()), "questions": None},
        None,
    )
    assert await reconcile.run_round(harness.context) == ReconcileResult()
    ((job,),) = await harness.rows("SELECT id FROM procrastinate_jobs")
    await harness.begin(job)
    assert (await harness.batch()).status == "active"


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(new_york(MONDAY, 8, 59), id="before nine"),
        pytest.param(new_york(TUESDAY), id="Tuesday"),
        pytest.param(new_york(MONDAY - timedelta(days=1), 12), id="Sunday"),
    ],
)
async def test_reconciliation_starts_no_other_day(harness, now):
    """Only a Monday that has begun can have been missed."""
    harness.clock.time = now
    assert await reconcile.run_round(harness.context) == ReconcileResult()


@pytest.mark.parametrize("content", [make_answer(*CHOSEN), "no"], ids=["with picks", "failed"])
async def test_reconciliation_leaves_a_monday_alone_that_has_its_row(harness, content):
    """An active batch stays; a failed one is only run again manually."""
    harness.world.model = [make_completion(content)]
    await harness.begin()
    harness.clock.time = new_york(MONDAY, 12)
    assert await reconcile.run_round(harness.context) == ReconcileResult()


async def test_one_reconciliation_at_a_time(harness, pool):
    """While another process does a round, this one does nothing; two at once repair once."""
    await harness.make_batch()
    await without_jobs(harness)
    harness.clock.time = new_york(TUESDAY)
    async with transaction(pool) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
        assert await reconcile.run_round(harness.context) is None
    await asyncio.gather(*(reconcile.run_round(harness.context) for _ in range(3)))
    assert len(await harness.jobs()) == 1


async def test_reconciliation_runs_twice_a_minute(harness):
    """The loop waits half a minute of simulated time between two rounds."""
    await harness.make_batch()
    await without_jobs(harness)
    harness.clock.time = new_york(TUESDAY)
    keeping = asyncio.create_task(reconcile.run_forever(harness.context))
    while len(harness.clock.slept) < 3:
        await asyncio.sleep(0.005)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert set(harness.clock.slept) == {30.0}
    assert len(await harness.jobs()) == 1


async def test_each_round_uses_the_current_stall_time(harness):
    """
    A rehearsal's worker sends heartbeats every second, and every five once it goes on in real time.
    """
    await harness.make_batch()
    worker, limits = await a_worker(harness, 8), iter([30.0, 30.0, 6.0, 6.0])
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE args ->> 'day' = '1'",
        worker,
    )
    seen = []

    async def look() -> None:
        seen.extend(
            await harness.rows(
                "SELECT status::text FROM procrastinate_jobs WHERE args ->> 'day' = '1'"
            )
        )
        harness.clock.meanwhile = stop

    async def stop() -> None:
        seen.extend(
            await harness.rows(
                "SELECT status::text FROM procrastinate_jobs WHERE args ->> 'day' = '1'"
            )
        )
        raise TryAgainAt("The process was told to stop.", harness.clock.now())

    harness.clock.meanwhile = look
    await reconcile.run_forever(harness.context, lambda: next(limits))
    assert seen == [("doing",), ("todo",)]
