"""The supervised worker: what ends it, which jobs it leaves behind, and when it counts as alive."""

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
from job_context import MONDAY, JobHarness, World, logged, new_york, open_context
from job_context import harness as harness
from provider_server import ProviderServer
from silent_proxy import Proxy, fatal

from app.core.availability import UNAVAILABLE_ERRORS
from app.database import migrations, pools
from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres
from app.ops import snapshot
from jobs import daily, queue, worker
from jobs.worker import Worker, supervised

QUICK = {
    "fetch_job_polling_interval": 0.1,
    "update_heartbeat_interval": 0.3,
    "stalled_worker_timeout": 1.0,
    "shutdown_graceful_timeout": 1.0,
}


class FastSleepClock(HandSetClock):
    """
    A clock on which a sleep takes a tenth of a second, and changes the time by two seconds at most.
    """

    async def sleep(self, seconds: float) -> None:
        self.time += type(MONDAY.resolution)(seconds=min(seconds, 2))
        await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Do nothing: no sleep is long."""


@pytest.fixture
def clock() -> FastSleepClock:
    return FastSleepClock(new_york(MONDAY))


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch):
    """No worker gets the real Monday's tick."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})


async def until(happens: Callable[[], Awaitable[object]], seconds: float = 30) -> None:
    """Wait until a condition is true, also while the database is away."""
    deadline = monotonic() + seconds
    while True:
        try:
            if await happens():
                return
        except UNAVAILABLE_ERRORS:
            pass
        assert monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def living(harness: JobHarness) -> AsyncIterator[Worker]:
    """Run a supervised worker, with reconciliation."""
    async with supervised(queue.app, harness.context, lambda: QUICK) as living:
        yield living


async def mornings(harness: JobHarness, *days: int) -> None:
    """Make a batch whose checkpoints of these days are due, in the time of Postgres as well."""
    await harness.make_batch()
    harness.clock.time = new_york(MONDAY + max(days) * MONDAY.resolution)
    await harness.rows(
        "DELETE FROM procrastinate_jobs WHERE NOT (args ->> 'day')::integer = ANY(%s)", list(days)
    )
    await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")


async def taken(harness: JobHarness, *days: int) -> bool:
    """Return whether these days have their rows, and no job waits or runs."""
    stored = await harness.rows("SELECT day FROM checkpoints WHERE day = ANY(%s)", list(days))
    left = await harness.rows("SELECT id FROM procrastinate_jobs WHERE status IN ('todo', 'doing')")
    return len(stored) == len(days) and not left


async def another_morning(harness: JobHarness, day: int) -> None:
    """Defer a job that is due now; if it runs, the worker works."""
    ((batch,),) = await harness.rows("SELECT id FROM batches")
    harness.clock.time = new_york(MONDAY + day * MONDAY.resolution)
    await harness.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('default', "
        "'take_checkpoint', %s)",
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


async def test_a_connection_cut_when_a_job_ends(harness, database):
    """
    The job would stay `doing` under a living worker: the worker restarts, and the job is put back.
    """
    await mornings(harness, 1)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CUT)
        try:
            async with living(harness):
                await until(lambda: taken(harness, 1))
        finally:
            conn.execute("DROP FUNCTION cut CASCADE; DROP SEQUENCE cuts")
    assert await harness.rows("SELECT status::text FROM procrastinate_jobs") == [("succeeded",)]
    assert await harness.rows("SELECT surprises, deaths FROM operations.strikes") == [(0, 1)]


async def test_every_connection_killed(harness, database):
    """All of them at once, again and again: the checkpoints are taken all the same."""
    await mornings(harness, 1, 2, 3)
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        "current_database() AND pid <> %s"
    )
    async with living(harness):
        with psycopg.connect(database, autocommit=True) as conn:
            for _ in range(8):
                conn.execute(kill, (conn.info.backend_pid,))
                await asyncio.sleep(0.2)
        await until(lambda: taken(harness, 1, 2, 3))
        await another_morning(harness, 4)
        await until(lambda: taken(harness, 1, 2, 3, 4))


async def test_a_worker_whose_row_was_pruned(harness):
    """The worker ends when it fetches the next job, and another worker starts."""
    await mornings(harness, 1)
    async with living(harness):
        await until(lambda: taken(harness, 1))
        await harness.rows("DELETE FROM procrastinate_workers")
        await another_morning(harness, 2)
        await until(lambda: taken(harness, 1, 2))


async def test_an_exhausted_pool(harness):
    """A job waits while no connection is free; when there is one, it is done."""
    await mornings(harness, 1)
    pool = harness.context.pool
    held = [await pool.getconn() for _ in range(pool.max_size)]
    pool.timeout = 0.5
    async with living(harness) as alive:
        await asyncio.sleep(2)
        assert alive.is_alive
        for conn in held:
            await pool.putconn(conn)
        await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
        await until(lambda: taken(harness, 1))


def lasting(*seconds: int, long: tuple[int, ...]) -> pytest.MarkDecorator:
    """How long Postgres is away; the long ones are for `make test-long`."""
    return pytest.mark.parametrize(
        "seconds", [*seconds, *(pytest.param(one, marks=pytest.mark.long) for one in long)]
    )


@asynccontextmanager
async def a_postgres_of_its_own(
    clock: FastSleepClock,
) -> AsyncIterator[tuple[EmbeddedPostgres, JobHarness]]:
    """A server that may be stopped, with what uses it."""
    with (
        tempfile.TemporaryDirectory(prefix="am-test-") as folder,
        EmbeddedPostgres(Path(folder), FAST_SETTINGS) as postgres,
    ):
        address = postgres.ensure_database("restarted")
        await migrations.migrate(address, clock.now())
        async with (
            ProviderServer() as provider,
            pools.opened(pools.make_pool(address, max_size=5)) as pool,
            open_context(
                database=address, pool=pool, clock=clock, base_url=provider.url
            ) as context,
        ):
            provider.answers = World(clock)
            yield (
                postgres,
                JobHarness(context=context, provider=provider, world=provider.answers, clock=clock),
            )


async def away(postgres: EmbeddedPostgres, seconds: int, harness: JobHarness) -> None:
    """Stop Postgres for so long."""
    await asyncio.to_thread(postgres.stop)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(postgres.start)
    await until(lambda: harness.rows("SELECT 1"))


@lasting(0, long=(13, 60))
async def test_a_restart_of_postgres(clock, seconds):
    """
    Short, longer than a pool waits, and a minute: the worker comes back and takes all checkpoints.
    """
    async with a_postgres_of_its_own(clock) as (postgres, harness):
        await mornings(harness, 1)
        async with living(harness):
            await until(lambda: taken(harness, 1))
            await away(postgres, seconds, harness)
            await another_morning(harness, 2)
            await until(lambda: taken(harness, 1, 2))


@pytest.mark.long
@lasting(1, long=(60,))
async def test_postgres_goes_in_the_middle_of_a_monday(clock, seconds):
    """
    Postgres stops while the model thinks: one batch in the end, and the question whose answer was
    lost is recorded.
    """
    async with a_postgres_of_its_own(clock) as (postgres, harness):
        harness.clock.time = new_york(MONDAY, 9, 2)  # its tick was lost; reconciliation starts it
        harness.world.model = [replace(harness.world.model[0], delay=2)]
        async with living(harness):
            await asyncio.wait_for(harness.provider.request_arrived.wait(), 20)
            await away(postgres, seconds, harness)
            await until(lambda: harness.rows("SELECT 1 FROM batches"), 90)
            weekly = (
                "SELECT 1 FROM procrastinate_jobs WHERE task_name = 'pick_week' AND status = "
                "'succeeded'"
            )
            await until(lambda: harness.rows(weekly))
        assert await harness.rows("SELECT run_date, status, late FROM batches") == [
            (MONDAY, "active", False)
        ]
        questions = await harness.rows(
            "SELECT attempt, accepted, answer IS NULL FROM generations ORDER BY attempt"
        )
        assert questions in ([(1, True, False)], [(1, False, True), (2, True, False)])
        assert len(harness.questions) == len(questions)
        kinds = await harness.rows(
            "SELECT kind::text FROM journal WHERE kind NOT IN ('READINGS', 'RULES') ORDER BY seq"
        )
        # Each question has an entry before it is sent, and another one about its outcome.
        asked = ["GENERATION", "GENERATION"] * len(questions)
        assert [kind for (kind,) in kinds] == ["GENESIS", "SERIES", *asked, "BATCH"]


@pytest.mark.long
@lasting(1, long=(60,))
async def test_postgres_goes_in_the_middle_of_a_morning(clock, seconds):
    """Postgres stops while prices are requested: every pick is measured once."""
    async with a_postgres_of_its_own(clock) as (postgres, harness):
        await mornings(harness, 1)
        harness.provider.answers = lambda request: replace(harness.world(request), delay=1)
        harness.provider.request_arrived.clear()
        async with living(harness):
            await asyncio.wait_for(harness.provider.request_arrived.wait(), 20)
            await away(postgres, seconds, harness)
            await until(lambda: taken(harness, 1), 90)
        assert await harness.rows("SELECT day, status FROM checkpoints WHERE day > 0") == [
            (1, "computed")
        ]
        assert await harness.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(3,)]
        assert len(harness.requested_tickers) <= 4 + 3  # requests in progress may be repeated once


@pytest.mark.long
async def test_a_failover_and_back(clock):
    """
    While Postgres is a standby it accepts no writes, so it counts as away, and the worker with it.
    The log has one line per change, with the cause, and no messages of libraries.
    """
    async with a_postgres_of_its_own(clock) as (postgres, harness):
        await mornings(harness, 1)
        with logged("INFO", clock) as lines:
            async with living(harness) as worker:
                await until(lambda: taken(harness, 1))
                await asyncio.to_thread(postgres.stop)
                (postgres.data / "standby.signal").touch()
                await asyncio.to_thread(postgres.start)
                await until(lambda: harness.rows("SELECT 1"))

                async def unwell() -> bool:
                    health = await snapshot.health(harness.context.pool, worker)
                    return (health.database, health.worker) == ("away", "away")

                await until(unwell)
                assert await harness.rows("SELECT day FROM checkpoints WHERE day = 1") == [
                    (1,)
                ]  # it can be read
                await asyncio.sleep(2)
                assert await unwell()
                await harness.rows("SELECT pg_promote()")
                await another_morning(harness, 2)
                began = monotonic()
                await until(lambda: taken(harness, 1, 2))
                print(f"back {monotonic() - began:.1f} s after the promotion")

                async def well() -> bool:
                    return (await snapshot.health(harness.context.pool, worker)).is_well

                await until(well)
                await asyncio.sleep(2.5)  # until it is stable
                await well()
    changes = [
        line
        for line in lines
        if line["event"] in ("the database is unavailable", "the database is available again")
    ]
    assert [line["level"] for line in changes] == ["warning", "info"] * (len(changes) // 2)
    assert 1 <= len(changes) // 2 <= 3
    reasons = " ".join(line.get("reason", "") for line in changes)
    assert "read-only" in reasons
    assert not [line for line in lines if "Database error" in str(line) or "exception" in line]
    assert len(lines) < 30


@pytest.mark.long
async def test_a_connection_of_the_queue_that_falls_silent(database, pool, clock, monkeypatch):
    """
    A proxy lost its Postgres and keeps the connections open: the worker does not wait without end.
    """
    monkeypatch.setattr(queue, "MAX_CONNECTION_USE", 1.0)
    async with (
        Proxy().leading_to(database) as proxy,
        ProviderServer() as provider,
        open_context(
            database=proxy.address, pool=pool, clock=clock, base_url=provider.url
        ) as context,
    ):
        provider.answers = World(clock)
        harness = JobHarness(
            context=context, provider=provider, world=provider.answers, clock=clock
        )
        await mornings(harness, 1)
        async with living(harness) as worker:
            await until(lambda: taken(harness, 1))
            proxy.silent = True
            await asyncio.sleep(1.5)  # data in transit is lost for good
            proxy.silent = False
            await another_morning(harness, 2)
            await until(lambda: taken(harness, 1, 2))
            # The job may be done before the worker notices that its own connections are silent.
            async with asyncio.timeout(30):
                while not worker.is_alive:
                    await asyncio.sleep(0.05)


@pytest.mark.long
async def test_a_worker_that_gets_too_few_connections(database, pool, clock):
    """
    Its pool has connections, but LISTEN is refused: one worker after another works for a moment.
    This happens if its role has a CONNECTION LIMIT, if Postgres is full, or if a PgBouncer limits
    its clients.
    """
    async with (
        Proxy().leading_to(database) as proxy,
        ProviderServer() as provider,
        open_context(
            database=proxy.address, pool=pool, clock=clock, base_url=provider.url
        ) as context,
    ):
        provider.answers = World(clock)
        harness = JobHarness(
            context=context, provider=provider, world=provider.answers, clock=clock
        )
        await mornings(harness, 1)
        with logged("INFO", clock) as lines:
            async with living(harness) as worker:
                await until(lambda: taken(harness, 1))
                proxy.instead = fatal("53300", "sorry, too many clients already")
                worker.restart()
                await asyncio.sleep(8)
                proxy.instead = None
                await another_morning(harness, 2)
                await until(lambda: taken(harness, 1, 2))
        reasons = [line["reason"] for line in lines if line["event"] == "worker restarts"]
        assert len(reasons) == 2, reasons  # the worker ended, and there was no connection
        workers = await harness.rows("SELECT last_value FROM procrastinate_workers_id_seq")
        print(reasons, workers)


# What it leaves behind


async def test_a_stop_leaves_nothing_doing(harness, monkeypatch):
    """
    A job that does not end within the drain goes back to the queue; the worker removes its row.
    """
    started = asyncio.Event()

    async def hangs(*_: object, **__: object) -> None:
        started.set()
        await asyncio.sleep(60)

    await mornings(harness, 1, 2)
    monkeypatch.setattr(daily, "fetch_closes", hangs)
    async with living(harness):
        await asyncio.wait_for(started.wait(), 10)
        stopping = monotonic()
    assert monotonic() - stopping < 5
    assert await harness.rows("SELECT DISTINCT status::text FROM procrastinate_jobs") == [("todo",)]
    assert await harness.rows("SELECT id FROM procrastinate_workers") == []


# Whether it is alive


async def test_a_worker_that_fails_over_and_over(harness, monkeypatch):
    """The worker does not count as alive, although it may just be running; one that lasts does."""
    monkeypatch.setattr(worker, "STABLE_AFTER", 0.5)
    monkeypatch.setattr(worker, "RESTART_PAUSE_AFTER_FAILURE", 0.05)
    runs, run = [], queue.app.run_worker_async

    async def fails(**options: object) -> None:
        runs.append(options)
        if len(runs) > 20:
            await run(**options)
        await asyncio.sleep(0.05)

    monkeypatch.setattr(queue.app, "run_worker_async", fails)
    async with living(harness) as alive:
        seen = set()
        while len(runs) <= 20:
            if len(runs) > 1:
                seen.add(alive.is_alive)
            await asyncio.sleep(0.01)
        assert seen == {False}
        assert not alive.is_alive
        await asyncio.sleep(0.6)
        assert alive.is_alive
    assert not alive.is_alive
