"""Several processes that share one record: workers, servers, and Mondays for them to work on."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
from clocks import HandSetClock
from commands import ALPHA_MONDAY, environment, start
from forked_commands import Process
from job_context import ALPHA_VANTAGE_KEY, CHOSEN, OPENAI_KEY, World, new_york, open_context
from provider_server import ProviderServer, Reply, Request

from app.database.pools import Pool
from app.domain import calendar
from app.domain.model import SERIES, Batch, BatchStatus, FailureReason, batch_id
from app.store import batches
from jobs import weekly
from jobs.context import RealClock

KEYS = {"OPENAI_API_KEY": OPENAI_KEY, "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY}
QUICKLY = {f"ALPHA_VANTAGE_PER_{span}": "100000" for span in ("SECOND", "MINUTE", "DAY")}

# Reads a table that no job of a market's closed day needs: locked, it makes a slow query of this
# one only.
SLOW = "{ latestBatch { checkpoints { corrections { field } } } }"

WAITING = (
    "SELECT FROM procrastinate_jobs WHERE task_name = 'take_checkpoint' AND status IN "
    "('todo', "
    "'doing')"
)
DOING = "SELECT FROM procrastinate_jobs WHERE task_name = 'take_checkpoint' AND status = 'doing'"


class Started:
    """
    A process that has started; its log is in a file.

    `address` is what follows `says` in the line that the process printed: a server's address.
    """

    def __init__(self, process: Process, log: Path, address: str) -> None:
        self.process = process
        self.address = address
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def started(
    *arguments: str, cwd: Path, says: str, quiet: bool = True, **settings: str
) -> Iterator[Started]:
    """
    Start a command, wait for its line that begins with `says`, and stop it at the end.

    It must end with code 0, unless it was killed. With `quiet` its log must have no unexpected
    error.
    """
    path = cwd / f"{'-'.join(arguments)}-{time.monotonic_ns()}.log"
    with path.open("wb") as log:
        process = start(*arguments, cwd=cwd, stdout=log, stderr=log, **settings)
    try:
        until(lambda: says in path.read_text() or process.poll() is not None, 60)
        (line,) = [line for line in path.read_text().splitlines() if line.startswith(says)] or [
            None
        ]
        assert line, path.read_text()
        yield Started(process, path, line.removeprefix(says).split("/graphql")[0])
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            # As a child, uvicorn raises the signal that stopped it once more.
            assert process.wait(60) in (0, -signal.SIGTERM), path.read_text()
        assert not (quiet and "Traceback" in path.read_text())
    finally:
        process.kill()
        process.wait()


def serving(cwd: Path, **settings: str) -> Any:
    """Start a server without a worker, which needs no keys."""
    return started("serve", "--no-worker", cwd=cwd, says="Serving GraphQL at ", **settings)


def working(cwd: Path, **settings: str) -> Any:
    """Start a worker without a server."""
    return started("work", cwd=cwd, says="Working: ", **{**KEYS, **QUICKLY, **settings})


def until(true: Callable[[], Any], within: float) -> float:
    """Wait until a condition is true. Return how many seconds that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within
        time.sleep(0.01)
    return time.monotonic() - began


def query_rows(database: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(database, options="-c search_path=public,queue") as conn:
        return conn.execute(query.encode(), values).fetchall()


def change(database: str, statement: str) -> None:
    """Run a statement."""
    with psycopg.connect(database, options="-c search_path=public,queue") as conn:
        conn.execute(statement.encode())


def mondays() -> list[date]:
    """Two Mondays whose fortnights are over, two missed ones, and this week's."""
    this = calendar.latest_run_date(RealClock().now())
    return [this - timedelta(weeks=weeks) for weeks in (4, 3)]


class Slow(World):
    """Providers that respond slowly."""

    slow = 0.0

    def __call__(self, request: Request) -> Reply:
        return replace(super().__call__(request), delay=self.slow)


@asynccontextmanager
async def providers() -> AsyncIterator[tuple[ProviderServer, Slow]]:
    """Both providers, with the present time."""
    async with ProviderServer() as provider:
        world = Slow(HandSetClock(RealClock().now()))
        provider.answers = world
        yield provider, world


# Longer than a test takes that begins with a settled Monday.
_BEFORE_NINE = timedelta(seconds=90)


async def settle(pool: Pool, weeks: int = 0) -> None:
    """
    Let this week's Monday, or an earlier one, have failed, so that no job asks the model about it.

    Just before nine on a Monday this waits: otherwise the processes of the test would start that
    Monday.
    """
    left = calendar.next_run_at(RealClock().now()) - RealClock().now()
    if left < _BEFORE_NINE:
        await asyncio.sleep(left.total_seconds() + 1)
    this = calendar.latest_run_date(RealClock().now()) - timedelta(weeks=weeks)
    failed = Batch(
        id=batch_id(SERIES, this),
        series=SERIES,
        run_date=this,
        created_at=RealClock().now(),
        status=BatchStatus.FAILED,
        late=False,
        failure_reason=FailureReason.MISSED,
        failure="It is only a test.",
        benchmark_symbol="SPY",
    )
    async with pool.connection() as conn, conn.transaction():
        await batches.insert_failed(conn, failed, in_force=None)


async def pick(database: str, pool: Pool, provider: ProviderServer, world: World) -> None:
    """
    Make the batches of the two Mondays with their own times.

    Their checkpoint jobs wait until `make_jobs_due` is called.
    """
    async with open_context(
        database=database, pool=pool, clock=world.clock, base_url=provider.url
    ) as context:
        for monday in mondays():
            world.clock.time = new_york(monday)
            await weekly.run_if_due(context, 1, None)
    change(database, "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 day'")
    change(database, "DELETE FROM operations.provider_requests")
    world.clock.time = RealClock().now()
    provider.requests.clear()


def make_jobs_due(database: str, which: str = "true") -> None:
    """Make all jobs due, or those that match the condition `which`."""
    change(database, f"UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE {which}")


def left(database: str) -> list[tuple[str, int, int]]:
    """Return the checkpoint jobs by status and attempts, with their number."""
    return query_rows(
        database,
        "SELECT status::text, attempts, count(*) FROM procrastinate_jobs WHERE task_name = "
        "'take_checkpoint' "
        "GROUP BY 1, 2 ORDER BY 1, 2",
    )


def recorded(database: str) -> list[tuple[date, int, int]]:
    """
    Return each completed batch, its number of checkpoints, and the number of their journal entries.
    """
    return query_rows(
        database,
        """
        SELECT run_date,
            (SELECT count(*) FROM checkpoints WHERE batch_id = batches.id AND day > 0),
            (SELECT count(*) FROM journal WHERE batch_id = batches.id AND kind = 'CHECKPOINT')
        FROM batches WHERE status = 'completed' ORDER BY run_date
        """,
    )


async def eventually(true: Callable[[], Any], within: float) -> float:
    """Wait until a condition is true, while other tasks run. Return how many seconds that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def ask(address: str, query: str) -> httpx.Response:
    """Send a query to a server."""
    return httpx.post(f"{address}/graphql", json={"query": query}, timeout=30)


async def live_through(cwd: Path, database: str, pool: Pool, **settings: str) -> None:
    """
    Two servers and two workers: each checkpoint is taken once, by both workers together, and both
    servers show it. `settings` lead the processes to `database`.
    """
    await settle(pool)
    async with providers() as (provider, world):
        await pick(database=database, pool=pool, provider=provider, world=world)
        world.slow = 0.3
        there = {
            "OPENAI_BASE_URL": f"{provider.url}/v1",
            "ALPHA_VANTAGE_BASE_URL": provider.url,
            **settings,
        }
        with (
            serving(cwd, **settings) as one,
            serving(cwd, **settings) as two,
            working(cwd, **there) as three,
            working(cwd, **there) as four,
        ):
            for server in (one, two):
                health = httpx.get(f"{server.address}/health")
                assert (health.status_code, health.json()["worker"]) == (200, "switched off")
            make_jobs_due(database)
            took = await eventually(lambda: not query_rows(database, WAITING), 60)
            print(f"28 jobs in {took:.1f} s")
            assert left(database) == [("succeeded", 1, 28)]
            assert recorded(database) == [(monday, 14, 14) for monday in mondays()]
            assert all("checkpoint computed" in worker.log for worker in (three, four))
            bars = Counter(
                one.query["symbol"]
                for one in provider.requests
                if "DAILY" in one.query.get("function", "")
            )
            assert bars == dict.fromkeys(["SPY", *CHOSEN], 1)
            await a_change_is_seen(cwd=cwd, database=database, one=one, two=two, **settings)


async def a_change_is_seen(
    cwd: Path, database: str, one: Started, two: Started, **settings: str
) -> None:
    """
    Both servers show the change of a third process within a second of its commit, whatever they had
    cached.
    """
    query = f'{{ batchOn(runDate: "{mondays()[0]}") {{ picks {{ ticker }} }} }}'
    for server in (one, two):
        before = [ask(server.address, query).json() for _ in range(3)]
        assert [pick["ticker"] for pick in before[2]["data"]["batchOn"]["picks"]] == list(CHOSEN)
    since = calendar.Calendar().session_from(mondays()[0])  # the Monday itself may be a holiday
    renaming = await asyncio.create_subprocess_exec(
        *(ALPHA_MONDAY, "pick", "rename", str(mondays()[0]), CHOSEN[0], "META"),
        *("--from", str(since), "--source", "a test", "--force"),
        cwd=cwd,
        env=environment(**settings),
    )
    await eventually(lambda: query_rows(database, "SELECT FROM picks WHERE ticker = 'META'"), 20)
    took = await eventually(
        lambda: all("META" in ask(server.address, query).text for server in (one, two)), 1
    )
    print(f"seen by both {took:.3f} s after the commit")
    assert await renaming.wait() == 0


async def kill_one(cwd: Path, database: str, pool: Pool, **settings: str) -> None:
    """
    Kill one of two workers while it runs jobs: the other one takes over, and each checkpoint is
    taken once.
    """
    await settle(pool)
    async with providers() as (provider, world):
        await pick(database=database, pool=pool, provider=provider, world=world)
        world.slow = 1.5
        there = {
            "OPENAI_BASE_URL": provider.url,
            "ALPHA_VANTAGE_BASE_URL": provider.url,
            **settings,
        }
        with working(cwd, **there) as killed, working(cwd, **there):
            make_jobs_due(database)
            await eventually(lambda: ("doing", 0, 16) in left(database), 20)
            killed.kill()
            began = time.monotonic()
            world.slow = 0
            await eventually(lambda: not query_rows(database, DOING), 150)
            print(f"put back {time.monotonic() - began:.1f} s after the kill")
            await eventually(lambda: not query_rows(database, WAITING), 60)
            print(f"all done {time.monotonic() - began:.1f} s after the kill")
        assert {status for status, _, _ in left(database)} == {"succeeded"}
        assert recorded(database) == [(monday, 14, 14) for monday in mondays()]
