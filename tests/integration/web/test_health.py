"""`/live`, `/health` and `status` while something is wrong, and after it has ended."""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from commands import CommandResult
from job_context import MONDAY, new_york
from job_context import clock as clock
from job_context import harness as harness
from processes import KEYS, Started, change, query_rows, serving, settle, started, until
from provider_server import Reply, refusing
from silent_proxy import Proxy

from app.commands import status
from app.core import settings
from app.database import migrations, pools
from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres
from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.ops import snapshot
from jobs import daily, reconcile
from jobs.context import RealClock
from jobs.worker import STABLE_AFTER

WELL = {"database": "alive", "worker": "alive"}
LIVE_WORKERS = "SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - interval '6 s'"


class Lived(NamedTuple):
    """A service with a Postgres of its own, whose two providers cannot be reached."""

    postgres: EmbeddedPostgres
    database: str
    folder: Path
    server: Started

    def health(self) -> tuple[int, dict[str, str]]:
        """Return the response of `/health`, after checking that `/live` answers."""
        assert httpx.get(f"{self.server.address}/live").json() == {"status": "alive"}
        answer = httpx.get(f"{self.server.address}/health", timeout=10)
        return answer.status_code, answer.json()

    def status(self, commanded: Callable[..., CommandResult]) -> tuple[int, list[str]]:
        """Return the output of `alpha-monday status`, without the line that names the database."""
        done = commanded("status", DATABASE_URL=self.database)
        lines = (done.output + done.error).splitlines()
        return done.exit_code, [line for line in lines if not line.startswith("Database: ")]


@asynccontextmanager
async def lives(folder: Path, *, quiet: bool = True) -> AsyncIterator[Lived]:
    """
    Serve and work: this week's Monday has failed, nothing is due, and no provider can be
    reached.
    """
    with (
        tempfile.TemporaryDirectory(prefix="am-test-") as data,
        EmbeddedPostgres(Path(data), FAST_SETTINGS) as postgres,
        refusing() as unreachable,
    ):
        database = postgres.ensure_database("health")
        await migrations.migrate(database, RealClock().now())
        async with pools.opened(pools.make_pool(database)) as pool:
            await settle(pool)
        there = {
            "DATABASE_URL": database,
            "OPENAI_BASE_URL": unreachable,
            "ALPHA_VANTAGE_BASE_URL": unreachable,
            **KEYS,
        }
        with started(
            "serve", cwd=folder, says="Serving GraphQL at ", quiet=quiet, **there
        ) as server:
            lived = Lived(postgres=postgres, database=database, folder=folder, server=server)
            until(lambda: query_rows(database, LIVE_WORKERS) and lived.health() == (200, WELL), 30)
            yield lived


async def test_a_failed_monday_and_a_spent_quota(tmp_path, commanded):
    """
    Neither changes the health, nor does a provider that cannot be reached; `status` reports
    both.
    """
    async with lives(tmp_path) as lived:
        monday = calendar.latest_run_date(RealClock().now())
        lasts = monday == calendar.new_york_date(RealClock().now())
        code, lines = lived.status(commanded)
        assert f"Monday {monday}: failed (MISSED): It is only a test." in lines
        assert (code, lived.health()) == (1 if lasts else 0, (200, WELL))
        assert lines[-1].endswith(
            "`alpha-monday pick` before midnight in New York." if lasts else "No action is needed."
        )

        change(
            lived.database,
            "INSERT INTO operations.provider_requests (provider, function, symbol, at, "
            "ended_at, outcome) "
            "SELECT 'alphavantage', 'SPLITS', 'XOM', at, at, 'answered' "
            "FROM generate_series(now() - interval '24 min', now(), '1 min') AS at",
        )
        _, lines = lived.status(commanded)
        (spent,) = [line for line in lines if "quota" in line]
        assert spent.startswith("note: The quota of Alpha Vantage is used up until ")
        assert spent.endswith(" in New York. Jobs that need prices wait.")
        assert lived.health() == (200, WELL)


@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.long)])
async def test_postgres_is_away(tmp_path, commanded, seconds):
    """The outage and its end are reported at once; the worker restarts by itself a little later."""
    async with lives(tmp_path, quiet=False) as lived:
        lived.postgres.stop()
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            code, parts = lived.health()
            assert (code, parts["database"]) == (503, "away")
            refused = httpx.post(
                f"{lived.server.address}/graphql",
                json={"query": "{ latestBatch { id } }"},
                timeout=10,
            )
            assert refused.status_code == 503
        code, lines = lived.status(commanded)
        assert (code, len(lines)) == (1, 1)
        assert re.fullmatch(
            "alpha-monday: The database at .* cannot be reached: .* `alpha-monday db up` .*",
            lines[0],
        )

        lived.postgres.start()
        there = until(lambda: lived.health()[1]["database"] == "alive", 40)
        worker_alive = until(lambda: query_rows(lived.database, LIVE_WORKERS), 60)
        # After a short outage, the row that was found may be that of the worker before, which
        # removes it when it ends.
        until(lambda: "No worker" not in "".join(lived.status(commanded)[1]), 60)
        print(
            f"away for {seconds} s: there {there:.1f} s after its return, a worker alive "
            f"{worker_alive:.1f} s later"
        )
        print(f"healthy {until(lambda: lived.health() == (200, WELL), 40):.1f} s later")
        # The log says once that it went, with the cause, and once that it is back; what the
        # libraries say is left out.
        until(lambda: "the database is available again" in lived.server.log, 20)
        assert lived.server.log.count('"the database is unavailable"') == 1
        assert lived.server.log.count('"the database is available again"') == 1
        # Which error comes first depends on the moment: a connection that ends, or a new one.
        assert re.search(
            '"the database is unavailable".*"reason": "[^"]*connection', lived.server.log
        )
        assert "Database error" not in lived.server.log
        assert "Traceback" not in lived.server.log
        assert "error connecting in" not in lived.server.log


@pytest.mark.long
async def test_a_database_that_falls_silent(database, tmp_path):
    """
    The connections stay open and nothing arrives: the outage is reported before the client's
    timeout.
    """
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy().leading_to(database))
        there = {"DATABASE_URL": proxy.address, "QUEUE_DATABASE_URL": database}
        server = await asyncio.to_thread(stack.enter_context, serving(tmp_path, **there))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=server.address, timeout=30)
        )
        assert (await client.get("/health")).status_code == 200
        proxy.silent = True
        for _ in range(2):
            began = time.monotonic()
            answer = await client.get("/health")
            assert (answer.status_code, answer.json()["database"]) == (503, "away")
            assert (
                time.monotonic() - began < 4 + 2
            )  # for a connection and for its answer; a busy machine
        proxy.silent = False


@pytest.mark.long
async def test_a_worker_that_fails_over_and_over(tmp_path, commanded):
    """
    `/health` reports no worker, and `status` reports it with the place where the reason is
    logged.
    """
    async with lives(tmp_path, quiet=False) as lived:
        change(lived.database, "ALTER FUNCTION queue.procrastinate_fetch_job_v2 RENAME TO gone")
        took = until(lambda: lived.health() == (503, {"database": "alive", "worker": "away"}), 30)
        print(f"reported after {took:.1f} s")
        until(lambda: not query_rows(lived.database, "SELECT FROM procrastinate_workers"), 10)
        code, lines = lived.status(commanded)
        assert code == 1
        (line,) = [line for line in lines if "No worker" in line]
        assert re.match(
            r"to do: No worker runs \(.* ago\), so nothing is picked or measured: start the "
            r"service, ",
            line,
        )
        assert line.endswith(
            " If the service runs, it starts another worker within a minute. If it does not, look "
            "for `worker restarts` in its log."
        )
        assert "worker restarts" in lived.server.log

        # Once the cause is removed, it is away for as long as the next worker takes to prove that
        # it lasts.
        change(lived.database, "ALTER FUNCTION queue.gone RENAME TO procrastinate_fetch_job_v2")
        took = until(lambda: lived.health() == (200, WELL), 60)
        assert took < STABLE_AFTER


def test_a_server_without_a_worker(database, tmp_path, commanded):
    """The server is healthy; `status` reports that no worker runs, and which command starts one."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        assert httpx.get(f"{server.address}/health").json() == {
            "database": "alive",
            "worker": "switched off",
        }
        done = commanded("status", DATABASE_URL=database)
        assert done.exit_code == 1
        assert "workers: none" in done.output
        assert (
            "to do: No worker runs, so nothing is picked or measured: start the service, "
            "`alpha-monday serve` or "
            "`alpha-monday work`.\n" in done.output
        )


async def test_a_provider_that_is_down(harness):
    """
    The checkpoint is skipped with the provider's error, and is tried again without any action.
    """
    await harness.make_batch()
    tuesday = MONDAY + timedelta(days=1)
    harness.clock.time = new_york(tuesday)
    harness.world.instead = [Reply(status=503)] * 5
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    await harness.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    await reconcile.run_round(harness.context)
    stands = await snapshot.read_for_operator(
        harness.context.pool, settings.load({}), harness.clock
    )
    assert list(status.notes(stands)) == [
        "Day 1 of 2026-10-26 has no prices (PROVIDER_ERROR): Alpha Vantage answered 503. The "
        "reconciliation retakes it once a day."
    ]
    assert list(status.to_dos(stands)) == []
