"""
Connections: one small pool for the queue, another for everything else.

How each connection is made and what is set on it stands in `app/database/sessions.py`. Behind PgBouncer in transaction
mode, which refuses start-up options and may hand every transaction another session, nothing is prepared, and each
transaction says what it needs as it begins.
"""

import asyncio
import os
import secrets
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from psycopg import AsyncConnection, Error, IsolationLevel, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from app.core import presence
from app.core.presence import READ_ONLY, RETRY
from app.database.advice import known_as, unreachable, where
from app.database.sessions import PooledSession, Session
from app.errors import ConfigurationError

Pool = AsyncConnectionPool[AsyncConnection[Any]]

# The connections of a pool that end together are found out within this time, in seconds.
_ENDED_TOGETHER = 1.0

# How long a connection that lay in the pool may take to answer, in seconds, where it must be asked whether it lives.
# The pool's own limit does not end that question: without this one it lasts as long as the network is silent.
_CHECK = 1.0

_told: WeakKeyDictionary[Pool, Callable[[], None]] = WeakKeyDictionary()


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
    longest: float = 0,
    apart: bool = False,
) -> Pool:
    """
    Return an unopened pool of at most `size` connections; `pooled` says that a PgBouncer stands before Postgres.

    With 0 as `least` it has none before it is asked, and none again after five minutes in which it was not.
    `autocommit` saves a round trip around every single read; Procrastinate sets it itself where it wants it. `limit` is
    how many seconds a statement may take, 0 being without end.
    `generic` says that a prepared statement's plan serves for any parameters: Postgres, which takes a LIMIT that it
    does not know for a tenth of the table, would otherwise plan anew at every execution once the table is long. And it
    may take a page of an index for as near as any other, or three rows would be gathered in a bitmap and sorted.
    A connection is waited for no longer than `wait` seconds. `longest` is how many seconds it may be used at a time,
    0 being without end: then it is ended, because the server or a proxy before it has fallen silent. `apart` says that
    its user is another than that of the other pools: where that one cannot connect, the database is there for them.
    """
    session: Any = PooledSession if pooled else Session
    kwargs: dict[str, Any] = {"name": name, "limit": limit, "generic": generic}
    if autocommit:  # otherwise the key is left out: Procrastinate passes it itself where it listens
        kwargs["autocommit"] = True
    return ReconnectingPool(
        conninfo,
        pooled=pooled,
        longest=longest,
        apart=apart,
        connection_class=session,
        kwargs=kwargs,
        min_size=least,
        max_size=size,
        timeout=wait,
        # Managed services end connections after ten minutes.
        max_lifetime=600,
        max_idle=300,
        name=name,
        open=False,
    )


class ReconnectingPool(AsyncConnectionPool[AsyncConnection[Any]]):
    """
    A pool that is back as soon as its database is.

    psycopg's pool doubles its wait after each failed attempt to connect. After `reconnect_timeout` it gives up, until a
    connection is asked for. So that time is short here, and `_reconnect` asks when the pool has given up. Errors and
    new connections are reported to `app.core.presence`.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        pooled: bool,
        longest: float,
        apart: bool = False,
        connection_class: type[AsyncConnection[Any]] = AsyncConnection,
        **options: Any,
    ) -> None:
        database = presence.of(known_as(conninfo, apart=apart))
        super().__init__(
            conninfo,
            connection_class=_reporting(connection_class, database),
            check=self._refuse_ended,
            reconnect_timeout=RETRY,
            reconnect_failed=self._reconnect_again,
            **options,
        )
        self._presence, self._longest = database, longest
        self._presence.pooled = pooled
        self._reconnecting: asyncio.Task[None] | None = None
        self._emptied_at = 0.0

    @asynccontextmanager
    async def connection(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class has it
    ) -> AsyncIterator[AsyncConnection[Any]]:
        """Give a connection; one that cannot write is ended, and not kept for the next that asks."""
        async with super().connection(timeout) as conn:
            ending = asyncio.get_running_loop().call_later(self._longest, hang_up, conn) if self._longest else None
            try:
                yield conn
            except READ_ONLY as error:
                await conn.close()
                self._presence.failed(error)
                raise
            except Error as error:
                self._presence.failed(error)
                if conn.closed:
                    await self._empty()
                raise
            finally:
                if ending:
                    ending.cancel()
            if self._presence.is_away:
                self._presence.worked(conn)

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the base class has it
        """Close the pool."""
        if self._reconnecting:
            self._reconnecting.cancel()
        await super().close(timeout)

    async def _refuse_ended(self, conn: AsyncConnection[Any]) -> None:
        """Raise if a connection that lay in the pool has ended."""
        try:
            await alive(conn)
        except Error:
            await self._empty()
            raise

    async def _empty(self) -> None:
        """
        Replace all connections that lie in the pool, because one has ended: most likely the others have, too.

        The pool would try one after the other, and wait a second, two, four, ... between them.
        """
        if not self.closed and monotonic() - self._emptied_at > _ENDED_TOGETHER:
            self._emptied_at = monotonic()
            await self.drain()

    async def _reconnect_again(self, _: Any) -> None:
        """Ask for a connection: the pool has given up, and tries again only when one is asked for."""
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        while not self.closed:
            stats = self.get_stats()
            wanted = max(self.min_size, 1 if stats.get("requests_waiting") else 0)
            if stats["pool_size"] >= wanted:
                return
            with suppress(OperationalError):
                async with self.connection(timeout=RETRY):
                    return


def _reporting(base: type[AsyncConnection[Any]], database: presence.Presence) -> type[AsyncConnection[Any]]:
    """Return a class of connections like `base`, which reports to `database` whether one could be made."""

    class Connection(base):  # type: ignore[valid-type, misc]
        @classmethod
        async def connect(cls, *conninfo: Any, **options: Any) -> Any:
            try:
                conn = await super().connect(*conninfo, **options)
            except Error as error:
                database.failed(error, connecting=True)
                raise
            database.connected(conn)
            return conn

    return Connection


async def alive(conn: AsyncConnection[Any]) -> None:
    """
    Raise if a connection that lay in the pool has ended.

    Its last words and its end can be read without asking: a round trip before every statement would be a quarter of
    what a read costs.
    """
    unread = select.poll()
    unread.register(conn.fileno(), select.POLLIN)
    if not unread.poll(0):
        return
    # Not cancelled: on a connection that died silently a cancellation takes ten seconds.
    hanging_up = asyncio.get_running_loop().call_later(_CHECK, hang_up, conn)
    try:
        await AsyncConnectionPool.check_connection(conn)
    finally:
        hanging_up.cancel()


@asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[Pool]:
    """Open `pool` for the time of the context; one clear line if the database is not there."""
    # The pool itself would only say that it timed out.
    await check(pool.conninfo, pooled=issubclass(pool.connection_class, PooledSession))
    try:
        await pool.open(wait=True, timeout=10)
    except PoolTimeout:
        await pool.close()
        raise ConfigurationError(f"The database at {where(pool.conninfo)} gives no connection.") from None
    try:
        yield pool
    finally:
        await pool.close()


async def check(conninfo: Any, *, pooled: bool = False) -> None:
    """Refuse, naming the place and the reason, if the database cannot be reached, or is not one for the record."""
    session = PooledSession if pooled else Session
    try:
        async with await session.connect(conninfo, name="check"):
            pass
    except OperationalError as error:
        raise unreachable(conninfo, error) from None
    except UnicodeError:  # of the host, which psycopg resolves by Python's own means
        raise unreachable(
            conninfo, OperationalError("failed to resolve host: a part of it is empty or too long")
        ) from None


# Whether a session holds an advisory lock in this database. The lock's key comes as its two halves, as
# pg_locks shows them. No right is needed for it, also where the right to call the lock functions was taken away.
_IS_HELD = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = %s AND objid = %s
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
)
"""


async def share_a_database(direct: str, other: str, *, pooled: bool = False) -> bool:
    """
    Return whether two addresses lead to one database: a lock that is held over `direct` is seen over `other`.

    `pooled` says that a PgBouncer stands before `other`.
    """
    await check(other, pooled=pooled)
    await check(direct)
    key = secrets.randbits(63)
    session = PooledSession if pooled else Session
    async with (
        await Session.connect(direct, name="check", autocommit=True) as one,
        await session.connect(other, name="check", autocommit=True) as two,
        one.transaction(),
        two.transaction(),
    ):
        await one.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        cursor = await two.execute(_IS_HELD, (key >> 32, key & 0xFFFFFFFF))
        (is_held,) = await cursor.fetchone() or (False,)
    return bool(is_held)


@asynccontextmanager
async def transaction(pool: Pool, *, at_once: bool = True) -> AsyncIterator[AsyncConnection[Any]]:
    """
    Give a connection in a transaction that reaches the record and the queue.

    Its end is told `at_once`, for whoever reads on. Where nobody does, and most times nothing of the record was
    written, what Postgres announces is soon enough.
    """
    try:
        async with pool.connection() as conn, conn.transaction():
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
