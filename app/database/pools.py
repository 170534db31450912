"""
Connections: one small pool for the queue, another for everything else.

Both reach the record (`public`) and the queue (`queue`) by search_path. Behind PgBouncer in transaction mode, which
refuses start-up options and may hand every transaction another session, nothing is prepared, and nothing is set on
connections but what PgBouncer itself carries from session to session: the time zone and the style of dates. A
transaction that needs more says so itself (`transaction`, `queries.fetcher`).
"""

import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from psycopg import AsyncConnection, Error, IsolationLevel, OperationalError, ProgrammingError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from app.database.advice import unfit, unreachable, where
from app.errors import ConfigurationError

Pool = AsyncConnectionPool[AsyncConnection[Any]]

SEARCH_PATH = "public, queue"

# A half-open connection must not hang a worker for the two hours that TCP would allow.
KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_told: WeakKeyDictionary[Pool, Callable[[], None]] = WeakKeyDictionary()
_ON_EVERY_SESSION = {
    "search_path": SEARCH_PATH,
    "timezone": "UTC",
    "datestyle": "ISO",
    "jit": "off",
    # A process that stands still in a transaction holds its locks; after as long its jobs are put back, too.
    "idle_in_transaction_session_timeout": "30s",
}
_GENERIC = {"plan_cache_mode": "force_generic_plan", "random_page_cost": "1"}
_CARRIED = "SET timezone = 'UTC'; SET datestyle = 'ISO'"


def make_pool(
    conninfo: str,
    *,
    pooled: bool = False,
    size: int = 10,
    least: int = 1,
    name: str = "app",
    autocommit: bool = True,
    limit: int = 0,
    generic: bool = False,
    wait: float = 10,
) -> Pool:
    """
    Return an unopened pool of at most `size` connections; `pooled` says that a PgBouncer stands before Postgres.

    With 0 as `least` it has none before it is asked, and none again after five minutes in which it was not.
    `autocommit` saves a round trip around every single read; Procrastinate sets it itself where it wants it. `limit` is
    how many seconds a statement may take, 0 being without end; behind a PgBouncer `queries.fetcher` says it to each.
    `generic` says that a prepared statement's plan serves for any parameters: Postgres, which takes a LIMIT that it
    does not know for a tenth of the table, would otherwise plan anew at every execution once the table is long. And it
    may take a page of an index for as near as any other, or three rows would be gathered in a bitmap and sorted.
    A connection is waited for no longer than `wait` seconds.
    """
    kwargs: dict[str, Any] = {**KEEPALIVES, "connect_timeout": 10, "application_name": f"alpha-monday {name}"}
    if autocommit:
        kwargs["autocommit"] = True
    if pooled:
        kwargs["prepare_threshold"] = None
    else:
        session = {**_ON_EVERY_SESSION, "statement_timeout": f"{limit}s", **(_GENERIC if generic else {})}
        kwargs["options"] = " ".join(f"-c {key}={value.replace(' ', '')}" for key, value in session.items())
    return AsyncConnectionPool(
        conninfo,
        kwargs=kwargs,
        min_size=least,
        max_size=size,
        timeout=wait,
        # Managed services end connections after ten minutes.
        max_lifetime=600,
        max_idle=300,
        configure=_carry if pooled else None,
        check=alive,
        name=name,
        open=False,
    )


async def _carry(conn: AsyncConnection[Any]) -> None:
    await conn.execute(_CARRIED)


async def alive(conn: AsyncConnection[Any]) -> None:
    """
    Raise if a connection that lay in the pool has ended.

    Its last words and its end can be read without asking: a round trip before every statement would be a quarter of
    what a read costs.
    """
    unread = select.poll()
    unread.register(conn.fileno(), select.POLLIN)
    if unread.poll(0):
        await AsyncConnectionPool.check_connection(conn)


@asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[Pool]:
    """Open `pool` for the time of the context; one clear line if the database is not there."""
    await check(pool.conninfo)  # the pool itself would only say that it timed out
    try:
        await pool.open(wait=True, timeout=10)
    except PoolTimeout:
        await pool.close()
        raise ConfigurationError(f"The database at {where(pool.conninfo)} gives no connection.") from None
    try:
        yield pool
    finally:
        await pool.close()


async def check(conninfo: Any) -> None:
    """Refuse, naming the place and the reason, if the database cannot be reached."""
    try:
        async with await AsyncConnection.connect(conninfo, connect_timeout=10):
            pass
    except OperationalError as error:
        raise unreachable(conninfo, error) from None
    except ProgrammingError as error:  # of the address itself: a parameter that libpq or psycopg cannot read
        raise unfit(conninfo, error) from None


@asynccontextmanager
async def transaction(pool: Pool, *, at_once: bool = True) -> AsyncIterator[AsyncConnection[Any]]:
    """
    Give a connection in a transaction that reaches the record and the queue.

    Its end is told `at_once`, for whoever reads on. Where nobody does, and most times nothing of the record was
    written, what Postgres announces is soon enough.
    """
    try:
        async with pool.connection() as conn, conn.transaction():
            await conn.execute(f"SET LOCAL search_path = {SEARCH_PATH}")
            yield conn
    finally:
        # Also after an error: a commit whose answer was lost is a commit.
        if at_once:
            _told.get(pool, int)()


@asynccontextmanager
async def snapshot(conninfo: str, name: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Give a connection that sees the database as it stands now, whatever is written meanwhile, and writes nothing."""
    async with opened(make_pool(conninfo, size=1, name=name)) as pool, pool.connection() as conn:
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await conn.set_read_only(True)
        async with conn.transaction():
            yield conn


def tell(pool: Pool, ended: Callable[[], None]) -> None:
    """Let `ended` be called when a transaction of this process is over, before whoever ran it goes on."""
    _told[pool] = ended


def hang_up(conn: AsyncConnection[Any]) -> None:
    """End a connection for whoever waits on it; closing it would not wake them."""
    with suppress(OSError, Error), socket.socket(fileno=os.dup(conn.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)
