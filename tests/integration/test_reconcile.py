"""Upkeep: what a round finds to do, what it leaves alone, and what it says of itself."""

import asyncio
from datetime import date, timedelta

import psycopg
import pytest
from job_tools import MONDAY, logged, new_york, the_time_it_says
from job_tools import clock as clock
from job_tools import house as house
from procrastinate.exceptions import ConnectorException
from psycopg.types.json import Jsonb

from app.database import pools
from app.database.revision import Revision
from app.domain.model import SERIES, batch_id
from app.errors import TryAgainAt
from jobs import daily, queue, reconcile, weekly
from jobs.reconcile import Mended

# Postgres's own clock decides what is due, so the queue's jobs of these days are ones that wait.
TUESDAY = date(2026, 10, 27)


async def told_of(house) -> list[tuple]:
    """What upkeep wrote down of itself."""
    return await house.rows("SELECT last_round_at, last_mended_at, mended FROM operations.upkeep")


async def test_a_round_is_written_down(house):
    """The last round, and the last one that mended anything with what it mended."""
    await house.a_batch()
    await reconcile.look_after(house.tools)
    assert await told_of(house) == [(house.clock.now(), None, {})]

    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    house.clock.forward(days=1)
    await reconcile.look_after(house.tools)
    mended_at = house.clock.now()
    assert [(at, mended["deferred"]) for _, at, mended in await told_of(house)] == [(mended_at, 1)]

    house.clock.forward(minutes=1)
    await reconcile.look_after(house.tools)
    assert [(last, at, mended["deferred"]) for last, at, mended in await told_of(house)] == [
        (house.clock.now(), mended_at, 1)
    ]


async def test_a_round_that_mends_nothing_moves_nothing(house, database):
    """The record's revision stays, and with it every kept answer; a mended Monday is announced."""
    await house.a_batch()
    revision = Revision()
    pools.tell(house.tools.pool, revision.moved)
    async with revision.heard(database):
        while (before := revision.now()) is None:
            await asyncio.sleep(0.01)
        await reconcile.look_after(house.tools)
        assert await told_of(house)
        await asyncio.sleep(0.2)
        assert revision.now() == before
        house.clock.time = new_york(MONDAY + timedelta(days=8))
        assert (await reconcile.look_after(house.tools)).missed == 1
        await asyncio.sleep(0.2)
        assert revision.now() > before


# What never succeeds


async def worked() -> None:
    """Run a worker until nothing is left that is due."""
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)


async def until_nothing_waits(house, rounds: int = 8) -> None:
    """Work, and let every retry be due at once, in Postgres's time too."""
    for _ in range(rounds):
        await house.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE status = 'todo' AND attempts > 0")
        await worked()


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch):
    """The real Monday's tick is offered to no worker."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})


@pytest.fixture
def poison(monkeypatch):
    """Whatever a morning or a Monday does ends in a way that nobody expects; the list holds when, once it is told."""
    runs = []

    async def explode(*_: object, **__: object) -> None:
        runs.append(queue.app.now())
        raise ZeroDivisionError

    monkeypatch.setattr(daily, "closes_of", explode)
    monkeypatch.setattr(weekly, "_ask", explode)
    return runs


STATES = "SELECT status::text, surprises, deaths FROM procrastinate_jobs LEFT JOIN operations.strikes ON job_id = id"


@pytest.fixture
async def due_morning(house):
    """Tuesday, with its job due in Postgres's time as well, and no other."""
    await house.a_batch()
    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '1'")
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    house.clock.time = new_york(TUESDAY)
    return house


async def test_a_poison_checkpoint_is_skipped(due_morning, poison):
    """Five surprises and no more, however often it waited before; then upkeep skips it, says why, and lets it be."""
    house = due_morning
    await house.rows("UPDATE procrastinate_jobs SET attempts = 40")
    await until_nothing_waits(house)
    assert len(poison) == 5
    assert await house.rows(STATES) == [("failed", 5, 0)]
    assert await reconcile.look_after(house.tools) == Mended(given_up=1)
    ((job,),) = await house.rows("SELECT id FROM procrastinate_jobs")
    assert await house.rows("SELECT status, skip_reason, note FROM checkpoints WHERE day = 1") == [
        ("skipped", "PROVIDER_ERROR", f"Job {job} failed, by no fault of the provider; its log says why.")
    ]
    assert not await reconcile.look_after(house.tools)
    assert len(await house.jobs()) == 0


async def test_a_poison_checkpoint_of_a_closed_day(house):
    """It is skipped for what it is: a day that needed no closes."""
    await house.a_batch()
    house.clock.time = new_york(MONDAY + timedelta(days=6))
    await house.rows("UPDATE procrastinate_jobs SET status = 'failed' WHERE args ->> 'day' = '6'")
    await reconcile.look_after(house.tools)
    assert await house.rows("SELECT skip_reason, note FROM checkpoints WHERE day = 6") == [
        ("MARKET_CLOSED", "2026-10-31 was no session.")
    ]


async def test_a_poison_monday_fails(house, poison):
    """Five surprises, then the Monday has its row, and nobody begins it again but by hand."""
    async with house.tools.pool.connection() as conn:
        job = await weekly.begin_again(conn, house.clock.now())
    await until_nothing_waits(house)
    assert len(poison) == 5
    house.clock.forward(minutes=2)
    assert await reconcile.look_after(house.tools) == Mended(given_up=1)
    batch = await house.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "CONFIGURATION")
    assert batch.failure == f"Job {job} failed, by no fault of the provider; its log says why."
    house.clock.forward(minutes=1)
    assert not await reconcile.look_after(house.tools)
    assert len(await house.journal()) == 1


async def test_waits_are_no_surprises(due_morning, monkeypatch):
    """A job that waits and finds the database away, twelve times over, is still tried again."""
    house = due_morning
    ends = [TryAgainAt("Wait.", house.clock.now()), psycopg.OperationalError(), ConnectorException()] * 4

    async def waits(*_: object, **__: object) -> None:
        if ends:
            raise ends.pop()

    monkeypatch.setattr(daily, "take", waits)
    await until_nothing_waits(house, 15)
    assert ends == []
    assert await house.rows(STATES) == [("succeeded", None, None)]


async def dies(house, *days: int) -> None:
    """A worker takes the jobs of these days and is never heard of again."""
    await house.rows(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = NULL "
        "WHERE status = 'todo' AND (args ->> 'day')::integer = ANY(%s)",
        list(days),
    )


async def test_a_job_whose_process_dies_every_time(due_morning):
    """It is put back, from the second time on to run without others like it, and given up after the tenth death."""
    house = due_morning
    for death in range(1, 10):
        await dies(house, 1)
        assert await reconcile.look_after(house.tools) == Mended(put_back=1)
        assert await house.rows("SELECT status::text, lock, deaths FROM procrastinate_jobs, operations.strikes") == [
            ("todo", None if death == 1 else "suspects", death)
        ]
    await dies(house, 1)
    assert await reconcile.look_after(house.tools) == Mended(put_back=1, given_up=1)
    assert await house.rows(STATES) == [("failed", 0, 10)]
    assert await house.rows("SELECT status FROM checkpoints WHERE day = 1") == [("skipped",)]
    assert not await reconcile.look_after(house.tools)


async def test_who_stood_beside_it_is_not_given_up(house):
    """Two that died together run one after the other: the innocent one ends in order, and is done."""
    await house.a_batch()
    house.clock.time = new_york(TUESDAY + timedelta(days=1))
    await house.rows("DELETE FROM procrastinate_jobs WHERE (args ->> 'day')::integer > 2")
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    for _ in range(2):
        await dies(house, 1, 2)
        await reconcile.look_after(house.tools)
    await dies(house, 1)
    await worked()  # the other's lock is taken
    states = "SELECT args ->> 'day', status::text FROM procrastinate_jobs ORDER BY 1"
    assert await house.rows(states) == [("1", "doing"), ("2", "todo")]
    for _ in range(8):
        await reconcile.look_after(house.tools)
        await dies(house, 1)
    await worked()
    assert await house.rows(states) == [("1", "failed"), ("2", "succeeded")]
    assert await house.rows("SELECT day, status FROM checkpoints WHERE day > 0 ORDER BY day") == [
        (1, "skipped"),
        (2, "computed"),
    ]


# Missed work, and old work


async def test_missed_work_is_told_once_with_how_late_it_was(house):
    """A lost Monday by upkeep, a late morning by its job; not again with every round."""
    house.clock.time = new_york(MONDAY, 11)
    with logged("WARNING", house.clock) as lines:
        for _ in range(3):
            await reconcile.look_after(house.tools)
            house.clock.forward(minutes=1)
    assert [(line["event"], line["late"]) for line in lines] == [("this Monday had not begun", "2:00:00")]


async def test_a_late_morning_says_so_once(house):
    """The first attempt of a job that waited for its process says how late it is; its retries do not."""
    await house.a_batch()
    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '1'")
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = '2020-01-07 14:00+00'")
    house.clock.time = new_york(TUESDAY, 12)
    house.world.absent.add(("SPY", MONDAY))
    with logged("WARNING", house.clock) as lines:
        for _ in range(2):
            await worked()
            await house.rows("UPDATE procrastinate_jobs SET scheduled_at = '2020-01-07 14:00+00'")
    assert [line["event"] for line in lines] == ["this job is late"]
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
async def test_arguments_that_nobody_can_read(house, task, args, status):
    """What somebody deferred with a slip of the pen keeps no other job and no round from its work."""
    await house.a_batch()
    await house.rows("DELETE FROM procrastinate_jobs")
    # Under a worker that lives, so that it is nobody's to put back.
    (worker,) = (await house.rows("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id"))[0]
    args = {"batch_id": str(batch_id(SERIES, MONDAY)), **args}
    await house.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, worker_id) VALUES (%s, %s, %s, %s, %s)",
        *("default", task, Jsonb(args), status, worker),
    )
    house.clock.time = new_york(TUESDAY, 21)
    house.world.absent.add(("SPY", MONDAY))
    await daily.take(house.tools, batch_id(SERIES, MONDAY), 1)
    house.clock.time = new_york(MONDAY + timedelta(days=7), 11)
    with logged("ERROR", house.clock) as lines:
        assert await reconcile.look_after(house.tools) == Mended(deferred=6, begun=True)
    assert lines == []
    await house.begin()
    await reconcile.look_after(house.tools)
    retaken = "SELECT args ->> 'day' FROM procrastinate_jobs WHERE args ->> 'retake' = '2026-11-02'"
    assert await house.rows(retaken) == [("1",)]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "aborted"])
async def test_jobs_that_ended_are_readable_for_thirty_days(house, status):
    """Then they are deleted, with what was held against them; what waits or runs stays however old it is."""
    await house.a_batch()
    await house.rows("DELETE FROM procrastinate_jobs WHERE (args ->> 'day')::integer > 3")
    await house.rows("INSERT INTO operations.strikes (job_id, deaths) SELECT id, 1 FROM procrastinate_jobs")
    await house.rows(f"UPDATE procrastinate_jobs SET status = '{status}' WHERE (args ->> 'day')::integer IN (1, 2)")
    old = "UPDATE procrastinate_events SET at = now() - interval '%s' FROM procrastinate_jobs AS jobs "
    old += "WHERE jobs.id = job_id "
    await house.rows(old % "30 days 1 minute" + "AND args ->> 'day' IN ('1', '3')")
    await house.rows(old % "29 days 23 hours" + "AND args ->> 'day' = '2'")
    await reconcile.look_after(house.tools)
    assert await house.rows(
        "SELECT args ->> 'day', deaths FROM procrastinate_jobs JOIN operations.strikes ON job_id = id ORDER BY 1"
    ) == [("2", 1), ("3", 1)]


async def test_a_step_that_fails_takes_no_other_with_it(house, monkeypatch):
    """A checkpoint is deferred although missed Mondays cannot be recorded; the round is written down."""
    await house.a_batch()
    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    house.clock.time = new_york(TUESDAY)

    async def fails(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(reconcile, "_record_missed", fails)
    assert await reconcile.look_after(house.tools) == Mended(deferred=1)
    assert await told_of(house)


async def test_a_monday_whose_job_lived_until_it_was_over(house):
    """Somebody was there and asked: it says that the Monday was over, not that nobody was there."""
    await house.a_batch(MONDAY - timedelta(weeks=1))
    house.world.absent.add(("SPY", date(2026, 10, 23)))
    house.clock.time = new_york(MONDAY, 16)
    assert await the_time_it_says(house.begin) == new_york(MONDAY, 16, 30)
    house.clock.time = new_york(TUESDAY, 0, 1)
    assert (await reconcile.look_after(house.tools)).missed == 1
    assert (await house.batch()).failure == "The Monday was over before its batch was made."


async def test_no_retakes_while_a_monday_waits(house):
    """They would use up the requests that the Monday needs; when it is done, they are offered."""
    batch = await house.a_batch()
    house.world.absent.add(("NVDA", MONDAY))
    house.clock.time = new_york(TUESDAY, 21)
    await daily.take(house.tools, batch.id, 1)
    next_monday = MONDAY + timedelta(days=7)
    house.clock.time = new_york(next_monday, 11)
    retakes = "SELECT count(*) FROM procrastinate_jobs WHERE args ? 'retake'"
    await reconcile.look_after(house.tools)
    assert await house.rows(retakes) == [(0,)]
    await house.begin()
    await reconcile.look_after(house.tools)
    assert await house.rows(retakes) == [(1,)]
