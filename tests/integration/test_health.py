"""What `/live`, `/health` and `status` say while something is wrong, and when it is over."""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from commands import run
from job_tools import MONDAY, new_york
from job_tools import clock as clock
from job_tools import house as house
from processes import KEYS, Started, asked, change, serving, settle, started, until
from provider_server import Reply, refusing
from silent_proxy import Proxy

from app.commands import status
from app.core import settings
from app.database import migrations, pools
from app.database.embedded import FAST, EmbeddedPostgres
from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.ops import snapshot
from jobs import daily, reconcile
from jobs.context import RealClock
from jobs.worker import LASTING

WELL = {"database": "alive", "worker": "alive"}
HEARD = "SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - interval '6 s'"


class Lived(NamedTuple):
    """A service on a Postgres of its own, whose providers are both out of reach."""

    postgres: EmbeddedPostgres
    database: str
    folder: Path
    server: Started

    def health(self) -> tuple[int, dict[str, str]]:
        """What `/health` says; `/live` says that the process answers, whatever else is wrong."""
        assert httpx.get(f"{self.server.told}/live").json() == {"status": "alive"}
        answer = httpx.get(f"{self.server.told}/health", timeout=10)
        return answer.status_code, answer.json()

    def status(self) -> tuple[int, list[str]]:
        """What `alpha-monday status` says, but for the line that names the database."""
        done = run("status", cwd=self.folder, DATABASE_URL=self.database)
        lines = (done.stdout + done.stderr).splitlines()
        return done.returncode, [line for line in lines if not line.startswith("Database: ")]


@asynccontextmanager
async def lives(folder: Path, *, quiet: bool = True) -> AsyncIterator[Lived]:
    """Serve and work: this week's Monday has failed, nothing is due, and no provider can be reached."""
    with (
        tempfile.TemporaryDirectory(prefix="am-test-") as data,
        EmbeddedPostgres(Path(data), FAST) as postgres,
        refusing() as nobody,
    ):
        database = postgres.database("health")
        await migrations.migrate(database, RealClock().now())
        async with pools.opened(pools.make_pool(database)) as pool:
            await settle(pool)
        there = {"DATABASE_URL": database, "OPENAI_BASE_URL": nobody, "ALPHA_VANTAGE_BASE_URL": nobody, **KEYS}
        with started("serve", cwd=folder, says="Serving GraphQL at ", quiet=quiet, **there) as server:
            lived = Lived(postgres, database, folder, server)
            until(lambda: asked(database, HEARD) and lived.health() == (200, WELL), 30)
            yield lived


async def test_a_failed_monday_and_a_spent_quota(tmp_path):
    """Both are no matter of health, and `status` tells of them; nor is a provider that is out of reach."""
    async with lives(tmp_path) as lived:
        monday = calendar.latest_run_date(RealClock().now())
        lasts = monday == calendar.today(RealClock().now())
        code, said = lived.status()
        assert f"Monday {monday}: failed (MISSED): It is only a test." in said
        assert (code, lived.health()) == (1 if lasts else 0, (200, WELL))
        assert said[-1].endswith("runs it again, until it is over in New York." if lasts else "Nothing needs a person.")

        change(
            lived.database,
            "INSERT INTO operations.provider_requests (provider, function, symbol, at, ended_at, outcome) "
            "SELECT 'alphavantage', 'SPLITS', 'XOM', at, at, 'answered' "
            "FROM generate_series(now() - interval '24 min', now(), '1 min') AS at",
        )
        _, said = lived.status()
        (spent,) = [line for line in said if "quota" in line]
        assert spent.startswith("note: The quota of Alpha Vantage is spent until ")
        assert spent.endswith(" in New York: what needs prices waits.")
        assert lived.health() == (200, WELL)


@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.long)])
async def test_postgres_is_away(tmp_path, seconds):
    """It is told of at once, and so is its return; the worker is back a little later, by itself."""
    async with lives(tmp_path, quiet=False) as lived:
        lived.postgres.stop()
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            code, parts = lived.health()
            assert (code, parts["database"]) == (503, "away")
            refused = httpx.post(f"{lived.server.told}/graphql", json={"query": "{ latestBatch { id } }"}, timeout=10)
            assert refused.status_code == 503
        code, said = lived.status()
        assert (code, len(said)) == (1, 1)
        assert re.fullmatch("alpha-monday: The database at .* cannot be reached: .* `alpha-monday db up` .*", said[0])

        lived.postgres.start()
        there = until(lambda: lived.health()[1]["database"] == "alive", 40)
        heard = until(lambda: asked(lived.database, HEARD), 60)
        assert not [line for line in lived.status()[1] if "No worker" in line]
        print(f"away for {seconds} s: there {there:.1f} s after its return, a worker heard {heard:.1f} s later")
        print(f"healthy {until(lambda: lived.health() == (200, WELL), 40):.1f} s later")
        # The log says once that it went, with the cause, and once that it is back; what the libraries say is left out.
        until(lambda: "the database is back" in lived.server.log, 20)
        assert lived.server.log.count('"the database is away"') == 1
        assert lived.server.log.count('"the database is back"') == 1
        assert re.search('"the database is away".*"reason": "connection failed: ', lived.server.log)
        assert "Database error" not in lived.server.log
        assert "Traceback" not in lived.server.log
        assert "error connecting in" not in lived.server.log


@pytest.mark.long
async def test_a_database_that_falls_silent(database, tmp_path):
    """Nothing arrives and nothing ends: that it is away is said while whoever asks still listens."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy().leading_to(database))
        there = {"DATABASE_URL": proxy.address, "QUEUE_DATABASE_URL": database}
        server = await asyncio.to_thread(stack.enter_context, serving(tmp_path, **there))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.told, timeout=30))
        assert (await client.get("/health")).status_code == 200
        proxy.silent = True
        for _ in range(2):
            began = time.monotonic()
            answer = await client.get("/health")
            assert (answer.status_code, answer.json()["database"]) == (503, "away")
            assert time.monotonic() - began < 4 + 2  # for a connection and for its answer; a busy machine
        proxy.silent = False


async def test_a_worker_that_fails_over_and_over(tmp_path):
    """`/health` says that it is away, `status` that none is heard, and where it is said why."""
    async with lives(tmp_path, quiet=False) as lived:
        change(lived.database, "ALTER FUNCTION queue.procrastinate_fetch_job_v2 RENAME TO gone")
        took = until(lambda: lived.health() == (503, {"database": "alive", "worker": "away"}), 30)
        print(f"told of after {took:.1f} s")
        until(lambda: not asked(lived.database, "SELECT FROM procrastinate_workers"), 10)
        code, said = lived.status()
        assert code == 1
        (line,) = [line for line in said if "No worker" in line]
        assert re.match(
            r"to do: No worker runs \(.* ago\), so nothing is picked or measured: start the service, ", line
        )
        assert line.endswith(
            " One that runs has another within a minute, or its log says why not: `worker starts again`."
        )
        assert "worker starts again" in lived.server.log

        # Once the cause is removed, it is away for as long as the next worker takes to prove that it lasts.
        change(lived.database, "ALTER FUNCTION queue.gone RENAME TO procrastinate_fetch_job_v2")
        took = until(lambda: lived.health() == (200, WELL), 60)
        assert took < LASTING


def test_a_server_without_a_worker(database, tmp_path):
    """It is healthy without one; that nobody works is what `status` says, and what to start beside it."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        assert httpx.get(f"{server.told}/health").json() == {"database": "alive", "worker": "switched off"}
        done = run("status", cwd=tmp_path, DATABASE_URL=database)
        assert done.returncode == 1
        assert "workers: none" in done.stdout
        assert (
            "to do: No worker runs, so nothing is picked or measured: start the service, `alpha-monday serve` or "
            "`alpha-monday work`.\n" in done.stdout
        )


async def test_a_provider_that_is_down(house):
    """The morning ends skipped with what was said, and is looked at again by itself; nobody needs to do anything."""
    await house.a_batch()
    tuesday = MONDAY + timedelta(days=1)
    house.clock.time = new_york(tuesday)
    house.world.instead = [Reply(status=503)] * 5
    await daily.take(house.tools, batch_id(SERIES, MONDAY), 1)
    await house.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")
    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    await reconcile.look_after(house.tools)
    stands = await snapshot.for_operator(house.tools.pool, settings.load({}), house.clock)
    assert list(status.notes(stands)) == [
        "Day 1 of 2026-10-26 has no prices (PROVIDER_ERROR): Alpha Vantage answered 503. Upkeep has it looked at "
        "again once a day."
    ]
    assert list(status.needs(stands)) == []
