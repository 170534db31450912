"""
Pooled connections: those that have ended are replaced, and others are used without a query.
Besides, how soon a pool works again after an outage, and what happens to a session that cannot
write.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from time import monotonic

import psycopg
import pytest
import structlog
from procrastinate.exceptions import ConnectorException
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import PoolTimeout
from silent_proxy import Proxy, fatal

from app.core.availability import UNAVAILABLE_ERRORS, ReadOnlyError, is_unavailable
from app.database import pools, sessions
from app.database.revision import Revision
from app.database.sessions import Setting
from app.providers.rate_limiter import RequestLedger, rate_limits
from jobs import queue
from jobs.context import RealClock

SHORT = Setting("idle_in_transaction_session_timeout", "100ms", "the test")


@pytest.fixture
async def one(database):
    """A pool of a single connection."""
    async with pools.opened(pools.make_pool(database, max_size=1)) as opened:
        yield opened


async def pid_of(pool: pools.Pool) -> int:
    """Return the server process of the pool's connection."""
    async with pool.connection() as conn:
        return conn.info.backend_pid


async def test_a_connection_that_ended_in_the_pool_is_replaced(one, database):
    """
    After Postgres has ended an idle connection, the next request gets another one, and no
    error.
    """
    pid = await pid_of(one)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    async with one.connection() as conn:
        assert (await (await conn.execute("SELECT 1")).fetchone()) == (1,)
    assert await pid_of(one) != pid


async def test_a_live_connection_is_not_checked(one, database):
    """Taking a connection from the pool sends nothing to Postgres."""
    async with one.connection() as conn:
        await conn.execute("SELECT 'the last statement'")
    pid = await pid_of(one)
    with psycopg.connect(database, autocommit=True) as conn:
        (last,) = conn.execute(
            "SELECT query FROM pg_stat_activity WHERE pid = %s", (pid,)
        ).fetchone()
    assert last == "SELECT 'the last statement'"


# Messages that Postgres sends without a query. After one, the pool must check whether an idle
# connection still works.
UNASKED = {
    "a notice": b"SNOTICE\0C00000\0Mhello\0\0",
    "a warning": b"SWARNING\0C01000\0Mhello\0\0",
    "a changed setting": b"application_name\0other\0",
    "a standby that was promoted": b"in_hot_standby\0off\0",
    "a notification": (1).to_bytes(4) + b"record\0\0",
}
TYPES = {"a notice": b"N", "a warning": b"N", "a notification": b"A"}


@pytest.mark.parametrize("what", UNASKED)
@pytest.mark.sampled(2)
async def test_a_connection_with_unread_words_on_a_silent_network(database, what):
    """
    The check of an idle connection has a timeout of its own: the request gets an error in time.
    """
    message = TYPES.get(what, b"S") + (len(UNASKED[what]) + 4).to_bytes(4) + UNASKED[what]
    async with (
        asyncio.timeout(20),
        Proxy().leading_to(database) as proxy,
        pools.opened(pools.make_pool(proxy.address, max_size=1, acquire_timeout=0.2)) as pool,
    ):
        pid = await pid_of(pool)
        proxy.tell(message)
        await asyncio.sleep(0.05)
        assert await pid_of(pool) == pid  # it lives, and says so
        proxy.tell(message)
        await asyncio.sleep(0.05)
        proxy.silent = True
        began = monotonic()
        with pytest.raises(PoolTimeout):
            await pid_of(pool)
        assert monotonic() - began < 5
        proxy.silent = False


async def test_a_transaction_that_stands_still_is_ended(database, monkeypatch):
    """
    A process that hangs in a transaction loses its lock: the others continue, and it gets an
    error.
    """
    monkeypatch.setattr(sessions, "SETTINGS", (*sessions.SETTINGS, SHORT))
    lock = "SELECT pg_advisory_xact_lock(1)"
    async with (
        asyncio.timeout(10),
        pools.opened(pools.make_pool(database, max_size=2)) as pool,
        pool.connection() as frozen,
    ):
        await frozen.execute("BEGIN")
        await frozen.execute(lock)
        async with pool.connection() as other:
            await other.execute(lock)
        with pytest.raises(UNAVAILABLE_ERRORS):
            await frozen.execute("SELECT 'what it would have written'")


# A database that is away


# How it is away, and what a new connection then gets; the address of the last leads nowhere at all.
ABSENT = {
    "connections end at once": b"",
    "57P01: shuts down": fatal("57P01", "terminating connection due to administrator command"),
    "57P03: starts up": fatal("57P03", "the database system is starting up"),
    "53300: takes no more connections": fatal("53300", "sorry, too many clients already"),
    "28P01: a failover changes the password": fatal(
        "28P01", 'password authentication failed for user "am"'
    ),
    "08P01: PgBouncer's": fatal("08P01", "no more connections allowed (max_client_conn)"),
}
NO_NAME = "no such host"


async def attempts_of(pool: pools.Pool, seconds: float) -> list[float]:
    """Return when a pool tried to connect, in seconds, from the start to the end of this time."""
    began = monotonic()
    times, seen = [0.0], pool.get_stats()["connections_num"]
    while (now := monotonic() - began) < seconds:
        if (number := pool.get_stats()["connections_num"]) != seen:
            seen = number
            times.append(now)
        await asyncio.sleep(0.05)
    return [*times, seconds]


async def used_now_and_then(pool: pools.Pool) -> None:
    """Request a connection again and again, as a client does."""
    while True:
        with suppress(psycopg.OperationalError):
            async with pool.connection(timeout=0.5):
                pass
        await asyncio.sleep(0.5)


@pytest.mark.long
@pytest.mark.parametrize("is_used", [False, True], ids=["idle", "used"])
async def test_an_absent_database_is_tried_again_every_few_seconds(database, is_used):
    """
    Whatever the cause, and with or without requests, the pauses do not grow. When the database
    is back, so is the pool.
    """
    async with AsyncExitStack() as stack:
        by_cause: dict[str, tuple[Proxy, pools.Pool]] = {}
        for name in ABSENT:
            proxy = await stack.enter_async_context(Proxy().leading_to(database))
            by_cause[name] = (
                proxy,
                await stack.enter_async_context(
                    pools.opened(pools.make_pool(proxy.address, max_size=3))
                ),
            )
        nowhere = pools.make_pool(make_conninfo(database, host="nowhere.invalid"), max_size=3)
        await nowhere.open()
        stack.push_async_callback(nowhere.close)
        for name, (proxy, _) in by_cause.items():
            proxy.cut(ABSENT[name])
        await asyncio.sleep(0.1)  # until their ends have arrived
        for _, pool in by_cause.values():
            with pytest.raises(PoolTimeout):
                async with pool.connection(timeout=0.1):
                    pass
        watched = {name: pool for name, (_, pool) in by_cause.items()} | {NO_NAME: nowhere}
        using = [
            asyncio.create_task(used_now_and_then(pool)) for pool in watched.values() if is_used
        ]
        attempts = await asyncio.gather(*(attempts_of(pool, 8) for pool in watched.values()))
        times = dict(zip(watched, attempts, strict=True))
        for task in using:
            task.cancel()
        await asyncio.gather(*using, return_exceptions=True)
        for name, tries in times.items():
            assert max(later - earlier for earlier, later in pairwise(tries)) < 5, name
            # A pool whose pauses grow tries three times: after one second, three and seven.
            assert 5 <= len(tries) - 2 <= 30, (name, tries)
        for proxy, _ in by_cause.values():
            proxy.instead = None
        for name, (_, pool) in by_cause.items():
            async with pool.connection(timeout=10) as conn:
                assert await (await conn.execute("SELECT 1")).fetchone() == (1,), name


async def test_a_request_that_waits_when_the_pool_gives_up(database):
    """
    A request that waits when the pool gives up still gets a connection, although no other
    request comes.
    """
    async with (
        Proxy().leading_to(database) as proxy,
        pools.opened(pools.make_pool(proxy.address, min_size=0)) as pool,
    ):
        proxy.cut()

        async def asks(after: float, timeout: float) -> bool:
            await asyncio.sleep(after)
            with suppress(PoolTimeout):
                async with pool.connection(timeout=timeout):
                    return True
            return False

        async def returns() -> None:
            await asyncio.sleep(4)
            proxy.instead = None

        first, second, _ = await asyncio.gather(asks(0, 0.5), asks(2.5, 7), returns())
        assert (first, second) == (False, True)


@pytest.mark.parametrize("size", [2, 8])
async def test_many_connections_that_ended_in_the_pool(database, size):
    """
    If all idle connections have ended, the first request gets a new one, instead of trying one
    after the other.
    """
    async with pools.opened(
        pools.make_pool(database, max_size=size, min_size=size, acquire_timeout=5)
    ) as pool:
        await pool.wait()
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE application_name = 'alpha-monday app' AND datname = current_database()"
            )
        before = pool.get_stats()["connections_num"]
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
        while pool.get_stats()["pool_available"] < size:
            await asyncio.sleep(0.01)
        # Each is replaced, once.
        assert pool.get_stats()["connections_num"] - before <= size + 1


async def test_a_connection_that_fell_silent_is_ended(database):
    """
    A connection that is used for too long is ended: a proxy may have lost its Postgres and keep
    the connection open.
    """
    async with (
        asyncio.timeout(20),
        Proxy().leading_to(database) as proxy,
        pools.opened(pools.make_pool(proxy.address, max_size=1, max_use_seconds=0.5)) as pool,
    ):
        proxy.silent = True
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection() as conn:
                await conn.execute("SELECT 1")
        proxy.silent = False
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")


# A session that cannot write. The cases: all code that writes over a pooled connection.

Writes = Callable[[pools.Pool], Awaitable[object]]
WRITE = "INSERT INTO operations.mended (kind, times) VALUES ('put_back', 1)"


async def alone(pool: pools.Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute(WRITE)


async def in_a_transaction(pool: pools.Pool) -> None:
    async with pools.transaction(pool) as conn:
        await conn.execute(WRITE)


async def in_a_savepoint(pool: pools.Pool) -> None:
    async with pools.transaction(pool) as conn, conn.transaction():
        await conn.execute(WRITE)


async def with_a_lock(pool: pools.Pool) -> None:
    async with pools.transaction(pool) as conn:
        await conn.execute("SELECT FROM operations.mended FOR UPDATE")


async def in_the_ledger(pool: pools.Pool) -> None:
    await RequestLedger(
        pool=pool, provider="alphavantage", limits=rate_limits(10, 100, 1000), clock=RealClock()
    ).acquire("SPLITS", "KO")


@pytest.mark.parametrize(
    "write", [alone, in_a_transaction, in_a_savepoint, with_a_lock, in_the_ledger]
)
async def test_a_session_that_cannot_write_is_ended(database, write: Writes):
    """
    A read-only session fails once and is replaced, although the pool would keep it for ten
    minutes.
    """
    async with pools.opened(pools.make_pool(database, max_size=1)) as pool:
        async with pool.connection() as conn:
            await conn.execute("SET default_transaction_read_only = on")
        with pytest.raises(ReadOnlyError):
            await write(pool)
        await write(pool)


async def test_a_session_of_the_queue_that_cannot_write_is_ended(database):
    """
    The same holds for Procrastinate's pool: when it fetches a job, sends a heartbeat, or ends a
    job.
    """
    connector = queue.make_connector(database)
    async with AsyncExitStack() as stack:
        stack.enter_context(queue.app.replace_connector(connector))
        await stack.enter_async_context(queue.app.open_async())
        async with connector.pool.connection() as conn:
            await conn.execute("SET default_transaction_read_only = on")
            await conn.commit()
        with pytest.raises(ConnectorException) as failed:
            await queue.app.job_manager.register_worker()
        assert is_unavailable(failed.value)
        assert await queue.app.job_manager.register_worker()


async def test_a_session_that_cannot_write_still_reads(database):
    """A read-only session still serves reads."""
    async with pools.opened(pools.make_pool(database, max_size=1)) as pool:
        async with pool.connection() as conn:
            await conn.execute("SET default_transaction_read_only = on")
            pid = conn.info.backend_pid
        async with pools.transaction(pool) as conn:
            await conn.execute("SELECT FROM journal")
        assert await pid_of(pool) == pid


# What a person can do to a database while the service runs, so that connections are refused by what
# they find. The kind beside these: another password, NOLOGIN, no right to connect, another
# pg_hba.conf, ALLOW_CONNECTIONS, a limit of connections, a database that is renamed or dropped.
# Those are Postgres's own refusals (ABSENT).
UNFIT = {
    "the guards are off": (
        ["ALTER ROLE {role} SET session_replication_role = replica"],
        ["ALTER ROLE {role} RESET session_replication_role"],
    ),
    "in another encoding": (
        [
            "ALTER DATABASE {name} RENAME TO {name}_renamed",
            "CREATE DATABASE {name} OWNER {role} TEMPLATE template0 ENCODING 'SQL_ASCII' "
            "LOCALE 'C'",
        ],
        ["DROP DATABASE {name} WITH (FORCE)", "ALTER DATABASE {name}_renamed RENAME TO {name}"],
    ),
}


@asynccontextmanager
async def a_login(
    create: Callable[..., str], migrated: str, server: Callable[[str], str]
) -> AsyncIterator[str]:
    """The address of a migrated database for a role without rights, which is dropped with it."""
    address = create(conninfo_to_dict(migrated)["dbname"])
    name = str(conninfo_to_dict(address)["dbname"])
    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {name}_user LOGIN PASSWORD 'known'")
        conn.execute(f"GRANT CONNECT ON DATABASE {name} TO {name}_user")
        try:
            with psycopg.connect(address, autocommit=True) as owner:
                owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}_user")
            yield make_conninfo(address, user=f"{name}_user", password="known")
        finally:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
            conn.execute(f"DROP ROLE {name}_user")


@pytest.mark.parametrize("how", UNFIT)
@pytest.mark.sampled(1)
async def test_a_database_that_is_no_longer_fit_counts_as_away(create, migrated, server, how):
    """
    The log says once that it is unavailable, and once that it is available again; pools and
    listeners then continue.
    """
    spoil, mend = UNFIT[how]

    async def until(happens: Callable[[], object]) -> None:
        deadline = monotonic() + 30
        while not happens():
            assert monotonic() < deadline
            await asyncio.sleep(0.05)

    with structlog.testing.capture_logs() as lines:
        async with (
            a_login(create, migrated, server) as address,
            pools.opened(pools.make_pool(address)) as pool,
        ):
            names = {
                "name": conninfo_to_dict(address)["dbname"],
                "role": conninfo_to_dict(address)["user"],
            }
            revision = Revision()

            def logged(event: str) -> list[str]:
                return [str(line.get("reason")) for line in lines if line["event"] == event]

            async with revision.listen(address):
                await until(lambda: revision.current() is not None)
                with psycopg.connect(server("postgres"), autocommit=True) as conn:
                    ended = (
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
                    )
                    conn.execute("ALTER ROLE {role} NOLOGIN".format(**names))
                    conn.execute(ended, (names["role"],))
                    await until(lambda: revision.current() is None)
                    await asyncio.sleep(0.2)  # until the sessions have ended
                    for statement in spoil:
                        conn.execute(statement.format(**names))
                    conn.execute("ALTER ROLE {role} LOGIN".format(**names))
                    with pytest.raises(PoolTimeout):
                        async with pool.connection(timeout=4):
                            pass
                    assert revision.current() is None
                    for statement in mend:
                        conn.execute(statement.format(**names))
                async with pool.connection(timeout=10) as session:
                    await session.execute("SELECT FROM journal")
                await until(lambda: revision.current() is not None)
                await until(lambda: logged("the database is available again"))
    assert (
        len(logged("the database is unavailable"))
        == len(logged("the database is available again"))
        == 1
    )
