"""Connections that lie in a pool: found out when they have ended, and not asked when they have not."""

import asyncio

import psycopg
import pytest

from app.database import pools, sessions
from app.database.sessions import Setting
from jobs.queue import AWAY

SHORT = Setting("idle_in_transaction_session_timeout", "100ms", "the test")


@pytest.fixture
async def one(database):
    """A pool that holds a single connection."""
    async with pools.opened(pools.make_pool(database, size=1)) as opened:
        yield opened


async def pid_of(pool: pools.Pool) -> int:
    """The process behind the pool's connection."""
    async with pool.connection() as conn:
        return conn.info.backend_pid


async def test_a_connection_that_ended_in_the_pool_is_replaced(one, database):
    """Whoever asks after Postgres has ended a connection gets another one, and no error."""
    pid = await pid_of(one)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    async with one.connection() as conn:
        assert (await (await conn.execute("SELECT 1")).fetchone()) == (1,)
    assert await pid_of(one) != pid


async def test_a_connection_that_lives_is_not_asked(one, database):
    """Taking a connection sends nothing to Postgres."""
    async with one.connection() as conn:
        await conn.execute("SELECT 'the last that was asked'")
    pid = await pid_of(one)
    with psycopg.connect(database, autocommit=True) as conn:
        (last,) = conn.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
    assert last == "SELECT 'the last that was asked'"


async def test_a_transaction_that_stands_still_is_ended(database, monkeypatch):
    """A process that froze with a lock in its hands does not keep it: the others go on, and it learns of its end."""
    monkeypatch.setattr(sessions, "SETTINGS", (*sessions.SETTINGS, SHORT))
    lock = "SELECT pg_advisory_xact_lock(1)"
    async with (
        asyncio.timeout(10),
        pools.opened(pools.make_pool(database, size=2)) as pool,
        pool.connection() as frozen,
    ):
        await frozen.execute("BEGIN")
        await frozen.execute(lock)
        async with pool.connection() as other:
            await other.execute(lock)
        with pytest.raises(AWAY):
            await frozen.execute("SELECT 'what it would have written'")
