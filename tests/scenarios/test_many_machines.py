"""More than one machine: any number of servers and workers share one Postgres."""

import asyncio
import signal
import time

import httpx
import psycopg
import pytest
from commands import run
from processes import (
    KEYS,
    QUICKLY,
    SLOW,
    ask,
    eventually,
    kill_one,
    left,
    live_through,
    make_jobs_due,
    pick,
    providers,
    query_rows,
    serving,
    settle,
    started,
    working,
)


@pytest.mark.long
async def test_two_servers_and_two_workers(database, pool, tmp_path):
    """
    Each job is done once, by one of the two workers, and both servers soon return each change.
    """
    await live_through(tmp_path, database, pool, DATABASE_URL=database)


def test_a_server_without_a_worker_is_healthy(database, tmp_path):
    """It needs no keys, reports no missing worker, and registers none."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        health = httpx.get(f"{server.address}/health")
        assert (health.status_code, health.json()) == (
            200,
            {"database": "alive", "worker": "switched off"},
        )
        assert query_rows(database, "SELECT FROM procrastinate_workers") == []


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)],
    ids=["SIGTERM", "SIGINT"],
)
async def test_a_worker_drains(number, database, pool, tmp_path):
    """
    After a signal, the worker unregisters within its time limit; a job that hangs returns to the
    queue.
    """
    await settle(pool)
    async with providers() as (provider, world):
        await pick(database=database, pool=pool, provider=provider, world=world)
        world.slow = 3600
        there = {"OPENAI_BASE_URL": provider.url, "ALPHA_VANTAGE_BASE_URL": provider.url}
        with working(tmp_path, DATABASE_URL=database, **there) as worker:
            make_jobs_due(database)
            await eventually(lambda: ("doing", 0, 8) in left(database), 20)
            began = time.monotonic()
            worker.process.send_signal(number)
            await eventually(lambda: worker.process.poll() is not None, 30)
            print(f"drained in {time.monotonic() - began:.1f} s")
            assert worker.process.returncode == 0, worker.log
        assert "Working: jobs and reconciliation, no web server" in worker.log
        assert [
            status for status, _, _ in left(database) if status not in ("todo", "succeeded")
        ] == []
        assert query_rows(database, "SELECT FROM procrastinate_workers") == []


def test_a_worker_needs_keys(tmp_path):
    """Without its keys a worker ends with an error that names them."""
    done = run("work", cwd=tmp_path)
    assert (
        done.returncode,
        "OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY must be set" in done.stderr,
    ) == (1, True)


@pytest.mark.long
async def test_a_worker_that_is_killed(database, pool, tmp_path):
    """
    Half a minute after its last heartbeat, its jobs return to the queue, and the other worker does
    them.
    """
    await kill_one(tmp_path, database, pool, DATABASE_URL=database)


@pytest.mark.long
async def test_a_service_drains_its_requests_and_its_jobs(database, pool, tmp_path):
    """
    After SIGTERM, with a query that waits and jobs that hang, the service ends within its limits of
    ten and twenty seconds.
    """
    await settle(pool)
    async with providers() as (provider, world):
        await pick(database=database, pool=pool, provider=provider, world=world)
        world.slow = 3600
        there = {
            "OPENAI_BASE_URL": provider.url,
            "ALPHA_VANTAGE_BASE_URL": provider.url,
            "DATABASE_URL": database,
        }
        with started(
            "serve", cwd=tmp_path, says="Serving GraphQL at ", **KEYS, **QUICKLY, **there
        ) as server:
            make_jobs_due(database)
            await eventually(lambda: ("doing", 0, 8) in left(database), 20)
            with psycopg.connect(database) as conn:
                conn.execute("LOCK TABLE corrections")
                waiting = asyncio.create_task(asyncio.to_thread(ask, server.address, SLOW))
                await asyncio.sleep(0.5)
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                answer = await waiting
                print(f"the query's {answer.status_code} after {time.monotonic() - began:.1f} s")
                await eventually(lambda: server.process.poll() is not None, 40)
            took = time.monotonic() - began
            print(f"drained in {took:.1f} s")
            assert took < 30
        assert {status for status, _, _ in left(database)} <= {"todo", "succeeded"}
        assert query_rows(database, "SELECT FROM procrastinate_workers") == []
