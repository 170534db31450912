"""The supervised worker: what ends it, what it leaves behind, and what it says of itself."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from clocks import HandSetClock
from job_tools import MONDAY, House, World, logged, new_york, tools_for
from job_tools import house as house
from provider_server import ProviderServer
from silent_proxy import Proxy, fatal

from app.core.presence import AWAY
from app.database import migrations, pools
from app.database.embedded import FAST, EmbeddedPostgres
from app.ops import snapshot
from jobs import daily, queue, worker
from jobs.worker import Worker, supervised

QUICK = {
    "fetch_job_polling_interval": 0.1,
    "update_heartbeat_interval": 0.3,
    "stalled_worker_timeout": 1.0,
    "shutdown_graceful_timeout": 1.0,
}


class PatientClock(HandSetClock):
    """A clock on which sleeping takes a moment, and never moves it far."""

    async def sleep(self, seconds: float) -> None:
        self.time += type(MONDAY.resolution)(seconds=min(seconds, 2))
        await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Nobody sleeps for long."""


@pytest.fixture
def clock() -> PatientClock:
    return PatientClock(new_york(MONDAY))


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch):
    """The real Monday's tick is offered to no worker."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})


async def until(happens: Callable[[], Awaitable[object]], seconds: float = 30) -> None:
    """Wait until something is so, also while the database is away."""
    deadline = monotonic() + seconds
    while True:
        try:
            if await happens():
                return
        except AWAY:
            pass
        assert monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def living(house: House) -> AsyncIterator[Worker]:
    """A supervised worker, with its upkeep."""
    async with supervised(queue.app, house.tools, lambda: QUICK) as living:
        yield living


async def mornings(house: House, *days: int) -> None:
    """A batch whose mornings of these days are due, in Postgres's time as well."""
    await house.a_batch()
    house.clock.time = new_york(MONDAY + max(days) * MONDAY.resolution)
    await house.rows("DELETE FROM procrastinate_jobs WHERE NOT (args ->> 'day')::integer = ANY(%s)", list(days))
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")


async def taken(house: House, *days: int) -> bool:
    """Whether these days have their rows, and no job is left that waits or runs."""
    stored = await house.rows("SELECT day FROM checkpoints WHERE day = ANY(%s)", list(days))
    left = await house.rows("SELECT id FROM procrastinate_jobs WHERE status IN ('todo', 'doing')")
    return len(stored) == len(days) and not left


async def another_morning(house: House, day: int) -> None:
    """A job that becomes due now; that it is taken shows that a worker works."""
    ((batch,),) = await house.rows("SELECT id FROM batches")
    house.clock.time = new_york(MONDAY + day * MONDAY.resolution)
    await house.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('default', 'take_checkpoint', %s)",
        f'{{"batch_id": "{batch}", "day": {day}}}',
    )


# What ends it


CUT = """
CREATE SEQUENCE cuts;
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('cuts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER cut BEFORE UPDATE ON queue.procrastinate_jobs
    FOR EACH ROW WHEN (NEW.status = 'succeeded') EXECUTE FUNCTION cut();
"""


async def test_a_connection_cut_when_a_job_ends(house, database):
    """The job would stay `doing` under a worker that lives: the worker is started anew, and the job put back."""
    await mornings(house, 1)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CUT)
        try:
            async with living(house):
                await until(lambda: taken(house, 1))
        finally:
            conn.execute("DROP FUNCTION cut CASCADE; DROP SEQUENCE cuts")
    assert await house.rows("SELECT status::text FROM procrastinate_jobs") == [("succeeded",)]
    assert await house.rows("SELECT surprises, deaths FROM operations.strikes") == [(0, 1)]


async def test_every_connection_killed(house, database):
    """All of them at once, again and again: the mornings are taken all the same."""
    await mornings(house, 1, 2, 3)
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
    async with living(house):
        with psycopg.connect(database, autocommit=True) as conn:
            for _ in range(8):
                conn.execute(kill, (conn.info.backend_pid,))
                await asyncio.sleep(0.2)
        await until(lambda: taken(house, 1, 2, 3))
        await another_morning(house, 4)
        await until(lambda: taken(house, 1, 2, 3, 4))


async def test_a_worker_whose_row_was_pruned(house):
    """It ends at its next look for a job, and another is there."""
    await mornings(house, 1)
    async with living(house):
        await until(lambda: taken(house, 1))
        await house.rows("DELETE FROM procrastinate_workers")
        await another_morning(house, 2)
        await until(lambda: taken(house, 1, 2))


async def test_an_exhausted_pool(house):
    """While no connection is free a job waits; when there is one, it is done."""
    await mornings(house, 1)
    pool = house.tools.pool
    held = [await pool.getconn() for _ in range(pool.max_size)]
    pool.timeout = 0.5
    async with living(house) as alive:
        await asyncio.sleep(2)
        assert alive.alive
        for conn in held:
            await pool.putconn(conn)
        await house.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
        await until(lambda: taken(house, 1))


def lasting(*seconds: int, long: tuple[int, ...]) -> pytest.MarkDecorator:
    """How long Postgres is away; the long ones are for `make test-long`."""
    return pytest.mark.parametrize("seconds", [*seconds, *(pytest.param(one, marks=pytest.mark.long) for one in long)])


@asynccontextmanager
async def a_postgres_of_its_own(clock: PatientClock) -> AsyncIterator[tuple[EmbeddedPostgres, House]]:
    """A server that may be stopped, and what lives on it."""
    with tempfile.TemporaryDirectory(prefix="am-test-") as folder, EmbeddedPostgres(Path(folder), FAST) as postgres:
        address = postgres.database("restarted")
        await migrations.migrate(address, clock.now())
        async with (
            ProviderServer() as provider,
            pools.opened(pools.make_pool(address, size=5)) as pool,
            tools_for(address, pool, clock, provider.url) as tools,
        ):
            provider.answers = World(clock)
            yield postgres, House(tools, provider, provider.answers, clock)


async def away(postgres: EmbeddedPostgres, seconds: int, house: House) -> None:
    """Stop Postgres for so long."""
    await asyncio.to_thread(postgres.stop)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(postgres.start)
    await until(lambda: house.rows("SELECT 1"))


@lasting(0, long=(13, 60))
async def test_a_restart_of_postgres(clock, seconds):
    """Short, longer than a pool waits, and a minute: the worker comes back, and every morning is taken."""
    async with a_postgres_of_its_own(clock) as (postgres, house):
        await mornings(house, 1)
        async with living(house):
            await until(lambda: taken(house, 1))
            await away(postgres, seconds, house)
            await another_morning(house, 2)
            await until(lambda: taken(house, 1, 2))


@pytest.mark.long
@lasting(1, long=(60,))
async def test_postgres_goes_in_the_middle_of_a_monday(clock, seconds):
    """While the model thinks: one batch in the end, and the question that nobody heard the answer to is told of."""
    async with a_postgres_of_its_own(clock) as (postgres, house):
        house.clock.time = new_york(MONDAY, 9, 2)  # its tick was lost, upkeep begins it
        house.world.model = [replace(house.world.model[0], delay=2)]
        async with living(house):
            await asyncio.wait_for(house.provider.asked.wait(), 20)
            await away(postgres, seconds, house)
            await until(lambda: house.rows("SELECT 1 FROM batches"), 90)
            weekly = "SELECT 1 FROM procrastinate_jobs WHERE task_name = 'pick_week' AND status = 'succeeded'"
            await until(lambda: house.rows(weekly))
        assert await house.rows("SELECT run_date, status, late FROM batches") == [(MONDAY, "active", False)]
        asked = await house.rows("SELECT attempt, accepted, answer IS NULL FROM generations ORDER BY attempt")
        assert asked in ([(1, True, False)], [(1, False, True), (2, True, False)])
        assert len(house.questions) == len(asked)
        assert await house.rows("SELECT kind FROM journal ORDER BY seq") == [("GENERATION",)] * len(asked) + [
            ("BATCH",)
        ]


@pytest.mark.long
@lasting(1, long=(60,))
async def test_postgres_goes_in_the_middle_of_a_morning(clock, seconds):
    """While the prices are asked for: every pick is measured, once."""
    async with a_postgres_of_its_own(clock) as (postgres, house):
        await mornings(house, 1)
        house.provider.answers = lambda request: replace(house.world(request), delay=1)
        house.provider.asked.clear()
        async with living(house):
            await asyncio.wait_for(house.provider.asked.wait(), 20)
            await away(postgres, seconds, house)
            await until(lambda: taken(house, 1), 90)
        assert await house.rows("SELECT day, status FROM checkpoints WHERE day > 0") == [(1, "computed")]
        assert await house.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(3,)]
        assert len(house.asked) <= 4 + 3  # those under way may be asked once more


async def test_a_failover_and_back(clock):
    """
    Postgres is a standby for a while: nothing can be written, so it is away, and the worker with it; then it is not.

    The log says so once per change, with the cause, and passes on nothing of what the libraries say each time.
    """
    async with a_postgres_of_its_own(clock) as (postgres, house):
        await mornings(house, 1)
        with logged("INFO", clock) as lines:
            async with living(house) as worker:
                await until(lambda: taken(house, 1))
                await asyncio.to_thread(postgres.stop)
                (postgres.data / "standby.signal").touch()
                await asyncio.to_thread(postgres.start)
                await until(lambda: house.rows("SELECT 1"))

                async def unwell() -> bool:
                    health = await snapshot.health(house.tools.pool, worker)
                    return (health.database, health.worker) == ("away", "away")

                await until(unwell)
                assert await house.rows("SELECT day FROM checkpoints WHERE day = 1") == [(1,)]  # it can be read
                await asyncio.sleep(2)
                assert await unwell()
                await house.rows("SELECT pg_promote()")
                await another_morning(house, 2)
                began = monotonic()
                await until(lambda: taken(house, 1, 2))
                print(f"back {monotonic() - began:.1f} s after the promotion")

                async def well() -> bool:
                    return (await snapshot.health(house.tools.pool, worker)).is_well

                await until(well)
                await asyncio.sleep(2.5)  # until it is steady
                await well()
    told = [line for line in lines if line["event"] in ("the database is away", "the database is back")]
    assert [line["level"] for line in told] == ["warning", "info"] * (len(told) // 2)
    assert 1 <= len(told) // 2 <= 3
    reasons = " ".join(line.get("reason", "") for line in told)
    assert "read-only" in reasons
    assert not [line for line in lines if "Database error" in str(line) or "exception" in line]
    assert len(lines) < 30


@pytest.mark.long
async def test_a_connection_of_the_queue_that_falls_silent(database, pool, clock, monkeypatch):
    """A proxy lost its Postgres and keeps the connections open: the worker does not wait for it for ever."""
    monkeypatch.setattr(queue, "LONGEST_OF_QUEUE", 1.0)
    async with (
        Proxy().leading_to(database) as proxy,
        ProviderServer() as provider,
        tools_for(proxy.address, pool, clock, provider.url) as tools,
    ):
        provider.answers = World(clock)
        house = House(tools, provider, provider.answers, clock)
        await mornings(house, 1)
        async with living(house) as worker:
            await until(lambda: taken(house, 1))
            proxy.silent = True
            await asyncio.sleep(1.5)  # whatever was on its way is lost for good
            proxy.silent = False
            await another_morning(house, 2)
            await until(lambda: taken(house, 1, 2))
            # The job may have been done before the worker's own silent connections were found out.
            async with asyncio.timeout(30):
                while not worker.alive:
                    await asyncio.sleep(0.05)


@pytest.mark.long
async def test_a_worker_that_gets_too_few_connections(database, pool, clock):
    """
    Its pool has connections and what listens is refused: one worker after another works for a moment.

    The same as where its role has a CONNECTION LIMIT, Postgres no room, or a PgBouncer a limit of clients.
    """
    async with (
        Proxy().leading_to(database) as proxy,
        ProviderServer() as provider,
        tools_for(proxy.address, pool, clock, provider.url) as tools,
    ):
        provider.answers = World(clock)
        house = House(tools, provider, provider.answers, clock)
        await mornings(house, 1)
        with logged("INFO", clock) as lines:
            async with living(house) as worker:
                await until(lambda: taken(house, 1))
                proxy.instead = fatal("53300", "sorry, too many clients already")
                worker.start_anew()
                await asyncio.sleep(8)
                proxy.instead = None
                await another_morning(house, 2)
                await until(lambda: taken(house, 1, 2))
        said = [line["reason"] for line in lines if line["event"] == "worker starts again"]
        assert len(said) == 2, said  # that it ended, and that there was no connection
        workers = await house.rows("SELECT last_value FROM procrastinate_workers_id_seq")
        print(said, workers)


# What it leaves behind


async def test_a_stop_leaves_nothing_doing(house, monkeypatch):
    """What does not end within the drain goes back to the queue; the worker signs off."""
    started = asyncio.Event()

    async def hangs(*_: object, **__: object) -> None:
        started.set()
        await asyncio.sleep(60)

    await mornings(house, 1, 2)
    monkeypatch.setattr(daily, "closes_of", hangs)
    async with living(house):
        await asyncio.wait_for(started.wait(), 10)
        stopping = monotonic()
    assert monotonic() - stopping < 5
    assert await house.rows("SELECT DISTINCT status::text FROM procrastinate_jobs") == [("todo",)]
    assert await house.rows("SELECT id FROM procrastinate_workers") == []


# What it says of itself


async def test_a_worker_that_fails_over_and_over(house, monkeypatch):
    """It is not alive, although it may just be running; one that lasts is."""
    monkeypatch.setattr(worker, "LASTING", 0.5)
    monkeypatch.setattr(worker, "PAUSE_OF_THE_FAILING", 0.05)
    runs, run = [], queue.app.run_worker_async

    async def fails(**options: object) -> None:
        runs.append(options)
        if len(runs) > 20:
            await run(**options)
        await asyncio.sleep(0.05)

    monkeypatch.setattr(queue.app, "run_worker_async", fails)
    async with living(house) as alive:
        seen = set()
        while len(runs) <= 20:
            if len(runs) > 1:
                seen.add(alive.alive)
            await asyncio.sleep(0.01)
        assert seen == {False}
        assert not alive.alive
        await asyncio.sleep(0.6)
        assert alive.alive
    assert not alive.alive
