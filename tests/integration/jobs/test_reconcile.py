"""Reconciliation: what a round repairs, what it leaves alone, and what it stores about itself."""

import asyncio
from datetime import date, timedelta

import psycopg
import pytest
from job_context import DECLARED, MONDAY, logged, new_york, run_attempt
from job_context import clock as clock
from job_context import harness as harness
from procrastinate.exceptions import ConnectorException
from psycopg.types.json import Jsonb

from app.database import pools
from app.database.revision import Revision
from app.domain.model import SERIES, batch_id
from app.errors import TryAgainAt
from jobs import daily, queue, reconcile, weekly
from jobs.reconcile import ReconcileResult

# Postgres's own clock decides what is due, so the queue's jobs of these days are ones that wait.
TUESDAY = date(2026, 10, 27)


async def stored_rounds(harness) -> list[tuple]:
    """Return what reconciliation has stored about its rounds."""
    return await harness.rows("SELECT last_round_at, last_mended_at, mended FROM operations.upkeep")


async def test_a_round_is_stored(harness):
    """The last round is stored, and what the last round that repaired anything repaired."""
    await harness.make_batch()
    await reconcile.run_round(harness.context)
    assert await stored_rounds(harness) == [(harness.clock.now(), None, {})]

    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    harness.clock.forward(days=1)
    await reconcile.run_round(harness.context)
    mended_at = harness.clock.now()
    assert [(at, mended["deferred"]) for _, at, mended in await stored_rounds(harness)] == [
        (mended_at, 1)
    ]

    harness.clock.forward(minutes=1)
    await reconcile.run_round(harness.context)
    assert [
        (last, at, mended["deferred"]) for last, at, mended in await stored_rounds(harness)
    ] == [(harness.clock.now(), mended_at, 1)]


async def test_a_round_that_repairs_nothing_changes_no_revision(harness, database):
    """The record's revision and cached responses stay; a repaired Monday changes the revision."""
    await harness.make_batch()
    # The first round after the first picks journals the rules of the yearly checks.
    await reconcile.run_round(harness.context)
    revision = Revision()
    pools.set_transaction_callback(harness.context.pool, revision.mark_changed)
    async with revision.listen(database):
        while (before := revision.current()) is None:
            await asyncio.sleep(0.01)
        await reconcile.run_round(harness.context)
        assert await stored_rounds(harness)
        await asyncio.sleep(0.2)
        assert revision.current() == before
        harness.clock.time = new_york(MONDAY + timedelta(days=8))
        assert (await reconcile.run_round(harness.context)).missed == 1
        await asyncio.sleep(0.2)
        assert revision.current() > before


# Jobs that never succeed


async def worked() -> None:
    """Run a worker until no job is due."""
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)


async def until_nothing_waits(harness, rounds: int = 8) -> None:
    """Run workers, and make every retry due at once, in Postgres's time too."""
    for _ in range(rounds):
        await harness.rows(
            "UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE status = 'todo' AND attempts "
            "> 0"
        )
        await worked()


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch):
    """No worker gets the real Monday's tick."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})


@pytest.fixture
def poison(monkeypatch):
    """Let each checkpoint or Monday raise an unexpected error; the list has the times."""
    runs = []

    async def explode(*_: object, **__: object) -> None:
        runs.append(queue.app.now())
        raise ZeroDivisionError

    monkeypatch.setattr(daily, "fetch_closes", explode)
    monkeypatch.setattr(weekly, "_ask", explode)
    return runs


STATES = (
    "SELECT status::text, surprises, deaths FROM procrastinate_jobs LEFT JOIN "
    "operations.strikes ON job_id = id"
)


@pytest.fixture
async def due_morning(harness):
    """Tuesday, with its job due in Postgres's time as well, and no other job."""
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '1'")
    await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    harness.clock.time = new_york(TUESDAY)
    return harness


async def test_a_poison_checkpoint_is_skipped(due_morning, poison):
    """
    After five unexpected errors, however often it waited before, it is skipped with the reason, and
    stays so.
    """
    harness = due_morning
    await harness.rows("UPDATE procrastinate_jobs SET attempts = 40")
    await until_nothing_waits(harness)
    assert len(poison) == 5
    assert await harness.rows(STATES) == [("failed", 5, 0)]
    assert await reconcile.run_round(harness.context) == ReconcileResult(given_up=1)
    ((job,),) = await harness.rows("SELECT id FROM procrastinate_jobs")
    assert await harness.rows(
        "SELECT status, skip_reason, note FROM checkpoints WHERE day = 1"
    ) == [
        (
            "skipped",
            "PROVIDER_ERROR",
            f"Job {job} failed, by no fault of the provider; its log says why.",
        )
    ]
    assert not await reconcile.run_round(harness.context)
    assert len(await harness.jobs()) == 0


async def test_a_poison_checkpoint_of_a_closed_day(harness):
    """The checkpoint is skipped for the closed market, because it needed no closes."""
    await harness.make_batch()
    harness.clock.time = new_york(MONDAY + timedelta(days=6))
    await harness.rows("UPDATE procrastinate_jobs SET status = 'failed' WHERE args ->> 'day' = '6'")
    await reconcile.run_round(harness.context)
    assert await harness.rows("SELECT skip_reason, note FROM checkpoints WHERE day = 6") == [
        ("MARKET_CLOSED", "2026-10-31 was no session.")
    ]


async def test_a_poison_monday_fails(harness, poison):
    """
    After five unexpected errors the Monday has its row, and only a manual run starts it again.
    """
    async with harness.context.pool.connection() as conn:
        job = await weekly.defer_run(conn, harness.clock.now())
    await until_nothing_waits(harness)
    assert len(poison) == 5
    harness.clock.forward(minutes=2)
    assert await reconcile.run_round(harness.context) == ReconcileResult(given_up=1)
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "CONFIGURATION")
    assert batch.failure == f"Job {job} failed, by no fault of the provider; its log says why."
    harness.clock.forward(minutes=1)
    assert not await reconcile.run_round(harness.context)
    assert await harness.kinds() == [*DECLARED, "FAILURE"]


async def test_waits_are_no_unexpected_errors(due_morning, monkeypatch):
    """A job that waits, and finds the database away twelve times, is still tried again."""
    harness = due_morning
    ends = [
        TryAgainAt("Wait.", harness.clock.now()),
        psycopg.OperationalError(),
        ConnectorException(),
    ] * 4

    async def waits(*_: object, **__: object) -> None:
        if ends:
            raise ends.pop()

    monkeypatch.setattr(daily, "take", waits)
    await until_nothing_waits(harness, 15)
    assert ends == []
    assert await harness.rows(STATES) == [("succeeded", None, None)]


async def dies(harness, *days: int) -> None:
    """A worker fetches the jobs of these days, and its process dies."""
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = NULL "
        "WHERE status = 'todo' AND (args ->> 'day')::integer = ANY(%s)",
        list(days),
    )


async def test_a_job_whose_process_dies_every_time(due_morning):
    """
    The job is put back, from the second time on to run alone, and given up after the tenth death.
    """
    harness = due_morning
    for death in range(1, 10):
        await dies(harness, 1)
        assert await reconcile.run_round(harness.context) == ReconcileResult(put_back=1)
        assert await harness.rows(
            "SELECT status::text, lock, deaths FROM procrastinate_jobs, operations.strikes"
        ) == [("todo", None if death == 1 else "suspects", death)]
    await dies(harness, 1)
    assert await reconcile.run_round(harness.context) == ReconcileResult(put_back=1, given_up=1)
    assert await harness.rows(STATES) == [("failed", 0, 10)]
    assert await harness.rows("SELECT status FROM checkpoints WHERE day = 1") == [("skipped",)]
    assert not await reconcile.run_round(harness.context)


async def test_an_innocent_job_is_not_given_up(harness):
    """Two jobs whose process died run one after the other: the innocent one succeeds."""
    await harness.make_batch()
    harness.clock.time = new_york(TUESDAY + timedelta(days=1))
    await harness.rows("DELETE FROM procrastinate_jobs WHERE (args ->> 'day')::integer > 2")
    await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    for _ in range(2):
        await dies(harness, 1, 2)
        await reconcile.run_round(harness.context)
    await dies(harness, 1)
    await worked()  # the other's lock is taken
    states = "SELECT args ->> 'day', status::text FROM procrastinate_jobs ORDER BY 1"
    assert await harness.rows(states) == [("1", "doing"), ("2", "todo")]
    for _ in range(8):
        await reconcile.run_round(harness.context)
        await dies(harness, 1)
    await worked()
    assert await harness.rows(states) == [("1", "failed"), ("2", "succeeded")]
    assert await harness.rows("SELECT day, status FROM checkpoints WHERE day > 0 ORDER BY day") == [
        (1, "skipped"),
        (2, "computed"),
    ]


# Missed work, and old work


async def test_missed_work_is_logged_once_with_its_delay(harness):
    """Reconciliation logs a lost Monday, and a late checkpoint's job logs itself; only once."""
    harness.clock.time = new_york(MONDAY, 11)
    with logged("WARNING", harness.clock) as lines:
        for _ in range(3):
            await reconcile.run_round(harness.context)
            harness.clock.forward(minutes=1)
    assert [(line["event"], line["late"]) for line in lines] == [
        ("Monday run deferred by reconciliation", "2:00:00")
    ]


async def test_a_late_checkpoint_is_logged_once(harness):
    """The first attempt of a late job logs how late it is; its retries do not."""
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '1'")
    await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = '2020-01-07 14:00+00'")
    harness.clock.time = new_york(TUESDAY, 12)
    harness.world.absent.add(("SPY", MONDAY))
    with logged("WARNING", harness.clock) as lines:
        for _ in range(2):
            await worked()
            await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = '2020-01-07 14:00+00'")
    assert [line["event"] for line in lines] == ["job started late"]
    assert lines[0]["late"].startswith("2485 days")


@pytest.mark.parametrize("status", ["failed", "doing"])
@pytest.mark.parametrize(
    ("task", "args"),
    [
        pytest.param("take_checkpoint", {"day": "one"}, id="checkpoint"),
        pytest.param("take_checkpoint", {"day": [1], "retake": "2026-10-28"}, id="retake"),
        pytest.param("pick_week", {"timestamp": "now"}, id="Monday"),
    ],
)
async def test_unreadable_arguments(harness, task, args, status):
    """A job that was deferred with wrong arguments disturbs no other job and no round."""
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs")
    # Under a living worker, so that no round puts it back.
    (worker,) = (
        await harness.rows("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id")
    )[0]
    args = {"batch_id": str(batch_id(SERIES, MONDAY)), **args}
    await harness.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, worker_id) VALUES "
        "(%s, %s, %s, %s, %s)",
        *("default", task, Jsonb(args), status, worker),
    )
    harness.clock.time = new_york(TUESDAY, 21)
    harness.world.absent.add(("SPY", MONDAY))
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    harness.clock.time = new_york(MONDAY + timedelta(days=7), 11)
    with logged("ERROR", harness.clock) as lines:
        assert await reconcile.run_round(harness.context) == ReconcileResult(deferred=6, begun=True)
    assert lines == []
    await harness.begin()
    await reconcile.run_round(harness.context)
    retaken = "SELECT args ->> 'day' FROM procrastinate_jobs WHERE args ->> 'retake' = '2026-11-02'"
    assert await harness.rows(retaken) == [("1",)]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "aborted"])
async def test_jobs_that_ended_are_readable_for_thirty_days(harness, status):
    """
    After thirty days they are deleted, with their strikes; jobs that wait or run stay, however old
    they are.
    """
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs WHERE (args ->> 'day')::integer > 3")
    await harness.rows(
        "INSERT INTO operations.strikes (job_id, deaths) SELECT id, 1 FROM procrastinate_jobs"
    )
    await harness.rows(
        f"UPDATE procrastinate_jobs SET status = '{status}' WHERE (args ->> 'day')::integer IN "
        "(1, 2)"
    )
    old = (
        "UPDATE procrastinate_events SET at = now() - interval '%s' FROM procrastinate_jobs AS "
        "jobs "
    )
    old += "WHERE jobs.id = job_id "
    await harness.rows(old % "30 days 1 minute" + "AND args ->> 'day' IN ('1', '3')")
    await harness.rows(old % "29 days 23 hours" + "AND args ->> 'day' = '2'")
    await reconcile.run_round(harness.context)
    assert await harness.rows(
        "SELECT args ->> 'day', deaths FROM procrastinate_jobs JOIN operations.strikes ON job_id "
        "= id ORDER BY 1"
    ) == [("2", 1), ("3", 1)]


async def test_a_step_that_fails_takes_no_other_with_it(harness, monkeypatch):
    """A checkpoint is deferred although missed Mondays cannot be recorded; the round is stored."""
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    harness.clock.time = new_york(TUESDAY)

    async def fails(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(weekly, "record_missed_mondays", fails)
    assert await reconcile.run_round(harness.context) == ReconcileResult(deferred=1)
    assert await stored_rounds(harness)


async def test_a_monday_whose_job_lived_until_it_was_over(harness):
    """If the model was asked, the reason is that the Monday was over, not that no service ran."""
    await harness.make_batch(MONDAY - timedelta(weeks=1))
    harness.world.absent.add(("SPY", date(2026, 10, 23)))
    harness.clock.time = new_york(MONDAY, 16)
    assert await run_attempt(harness.begin) == new_york(MONDAY, 16, 30)
    harness.clock.time = new_york(TUESDAY, 0, 1)
    assert (await reconcile.run_round(harness.context)).missed == 1
    assert (await harness.batch()).failure == "The Monday was over before its batch was made."


async def test_no_retakes_while_a_monday_waits(harness):
    """
    Retakes would use up the requests that the Monday needs, so they are deferred when it is done.
    """
    batch = await harness.make_batch()
    harness.world.absent.add(("NVDA", MONDAY))
    harness.clock.time = new_york(TUESDAY, 21)
    await daily.take(harness.context, batch.id, 1)
    next_monday = MONDAY + timedelta(days=7)
    harness.clock.time = new_york(next_monday, 11)
    retakes = "SELECT count(*) FROM procrastinate_jobs WHERE args ? 'retake'"
    await reconcile.run_round(harness.context)
    assert await harness.rows(retakes) == [(0,)]
    await harness.begin()
    await reconcile.run_round(harness.context)
    assert await harness.rows(retakes) == [(1,)]
