"""
Connection pools that reconnect, and transactions, snapshots and checks on their connections.

`app/database/sessions.py` opens each connection and sets its settings. With `pooled`, connections
go through a PgBouncer in transaction mode. It refuses start-up options, and each transaction may
run in another session. So no statement is prepared, and each transaction sets its own settings.
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

from app.core import availability
from app.core.availability import MAX_RETRY_PAUSE, ReadOnlyError
from app.database.advice import availability_key, display_address, unreachable_error
from app.database.sessions import PooledSession, Session
from app.errors import ConfigurationError

Pool = AsyncConnectionPool[AsyncConnection[Any]]

# Connections of a pool often end together, and the pool notices their ends one after the other. So
# it replaces its idle connections at most once within this time, in seconds.
_ENDED_TOGETHER_SECONDS = 1.0

# How long to check whether an idle connection still works, in seconds. The pool's own timeout does
# not end such a check: without this timeout, a check would last as long as the network is silent.
_CHECK_TIMEOUT = 1.0

# A connection is replaced after this time, in seconds: managed services end connections after ten
# minutes.
_MAX_LIFETIME = 600

# After this time, in seconds, a connection above the pool's minimum is closed if it is idle.
_MAX_IDLE = 300

# Whether any session holds an advisory lock in this database. The parameters are the two halves of
# the lock's key, as pg_locks shows them. The query needs no right, so it also works for a user who
# may not call the lock functions.
_IS_LOCK_HELD = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = %s AND objid = %s
        AND database = (
            SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
        )
)
"""

_transaction_callbacks: WeakKeyDictionary[Pool, Callable[[], None]] = WeakKeyDictionary()


def make_pool(
    conninfo: str,
    *,
    pooled: bool = False,
    max_size: int = 10,
    min_size: int = 1,
    name: str = "app",
    autocommit: bool = True,
    statement_timeout: int = 0,
    generic_plans: bool = False,
    acquire_timeout: float = 10,
    max_use_seconds: float = 0,
    separate_user: bool = False,
) -> Pool:
    """
    Return a pool of at most `max_size` connections, which is not opened yet.

    - `pooled`: `conninfo` is the address of a PgBouncer.
    - `min_size`: with 0, the pool opens its first connection for the first request, and closes it
      again after five idle minutes.
    - `name`: the name of the pool's sessions in pg_stat_activity.
    - `autocommit`: a single read runs without a transaction. This saves a round trip.
    - `statement_timeout`: how many seconds a statement may take; 0 means no limit.
    - `generic_plans`: use one plan of a prepared statement for all parameters (see below).
    - `acquire_timeout`: how many seconds to wait for a free connection.
    - `max_use_seconds`: a connection that is in use for longer is ended, because then the server or
      a proxy no longer responds; 0 means no limit.
    - `separate_user`: the pool's user differs from the user of the other pools. So if only this
      user cannot connect, the database still counts as available for the other pools.

    Without `generic_plans`, Postgres plans a statement on a long table again at every execution. It
    estimates that a generic plan costs too much, because it assumes that a LIMIT with an unknown
    value returns a tenth of the table. `generic_plans` also lowers the setting random_page_cost:
    otherwise Postgres would collect three rows in a bitmap and sort them, instead of reading them
    from the index in order.
    """
    session_class: type[AsyncConnection[Any]] = Session
    if pooled:
        session_class = PooledSession
    session_options: dict[str, Any] = {
        "name": name,
        "statement_timeout": statement_timeout,
        "generic_plans": generic_plans,
    }
    # If `autocommit` is False, the option is not passed at all, instead of passed as False.
    # Procrastinate itself passes True for its connection that listens, and an option cannot be
    # passed twice.
    if autocommit:
        session_options["autocommit"] = True
    return ReconnectingPool(
        conninfo,
        pooled=pooled,
        max_use_seconds=max_use_seconds,
        separate_user=separate_user,
        connection_class=session_class,
        kwargs=session_options,
        min_size=min_size,
        max_size=max_size,
        timeout=acquire_timeout,
        max_lifetime=_MAX_LIFETIME,
        max_idle=_MAX_IDLE,
        name=name,
        open=False,
    )


class ReconnectingPool(AsyncConnectionPool[AsyncConnection[Any]]):
    """
    A pool that works again as soon as its database is available again.

    psycopg's pool doubles its pause after each failed attempt to connect. After `reconnect_timeout`
    it does not try again until a connection is requested. This timeout is short here, so that the
    pauses stay short. When it is over, `_reconnect` requests a connection, and the pool tries
    again. Errors and new connections are reported to `app.core.availability`.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        pooled: bool,
        max_use_seconds: float,
        separate_user: bool = False,
        connection_class: type[AsyncConnection[Any]] = AsyncConnection,
        **options: Any,
    ) -> None:
        database = availability.for_database(
            availability_key(conninfo, separate_user=separate_user)
        )
        super().__init__(
            conninfo,
            connection_class=_reporting_class(connection_class, database),
            check=self._refuse_ended,
            reconnect_timeout=MAX_RETRY_PAUSE,
            reconnect_failed=self._start_reconnecting,
            **options,
        )
        self._availability = database
        self._availability.is_pooled = pooled
        self._max_use_seconds = max_use_seconds
        self._reconnecting: asyncio.Task[None] | None = None
        self._replaced_at = 0.0

    @asynccontextmanager
    async def connection(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class has it
    ) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a connection, and close it after an error that shows that it is read-only."""
        async with super().connection(timeout) as conn:
            disconnecting = None
            if self._max_use_seconds:
                loop = asyncio.get_running_loop()
                disconnecting = loop.call_later(self._max_use_seconds, disconnect, conn)
            try:
                yield conn
            except ReadOnlyError as error:
                # Otherwise the pool would give the same read-only connection to the next request.
                await conn.close()
                self._availability.record_failure(error)
                raise
            except Error as error:
                self._availability.record_failure(error)
                if conn.closed:
                    await self._replace_idle()
                raise
            finally:
                if disconnecting:
                    disconnecting.cancel()
            if self._availability.has_outage:
                self._availability.record_success(conn)

    async def open(
        self,
        wait: bool = False,
        timeout: float = 30.0,  # noqa: ASYNC109 - the base class has it
    ) -> None:
        """
        Open the pool; with `wait`, wait for its first connections for at most `timeout` seconds.

        If it fails or is cancelled, the pool is closed. The base class closes it only after a
        timeout, and its tasks ignore a cancellation while they connect: when the event loop ended,
        it would wait for them for ever, and Ctrl-C during the start would not end the process.
        """
        try:
            await super().open(wait, timeout)
        except BaseException:
            await self.close()
            raise

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the base class has it
        """Close the pool and stop reconnecting."""
        if self._reconnecting:
            self._reconnecting.cancel()
        await super().close(timeout)

    async def _refuse_ended(self, conn: AsyncConnection[Any]) -> None:
        """Raise an error if an idle connection has ended. The pool then uses another one."""
        try:
            await check_alive(conn)
        except Error:
            await self._replace_idle()
            raise

    async def _replace_idle(self) -> None:
        """
        Replace all idle connections, because one has ended and probably the others have, too.

        Otherwise the pool would check them one after the other, with pauses of one, two, four, ...
        seconds between them.
        """
        if not self.closed and monotonic() - self._replaced_at > _ENDED_TOGETHER_SECONDS:
            self._replaced_at = monotonic()
            await self.drain()

    async def _start_reconnecting(self, _: Any) -> None:
        """Start `_reconnect` unless it runs. The pool calls this after `reconnect_timeout`."""
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Request connections until the pool gives one, or has as many as it needs."""
        while not self.closed:
            stats = self.get_stats()
            needed = self.min_size
            if stats.get("requests_waiting"):
                needed = max(needed, 1)
            if stats["pool_size"] >= needed:
                return
            with suppress(OperationalError):
                async with self.connection(timeout=MAX_RETRY_PAUSE):
                    return


def _reporting_class(
    base: type[AsyncConnection[Any]], database: availability.Availability
) -> type[AsyncConnection[Any]]:
    """Return a subclass of `base` that reports each attempt to connect to `database`."""

    class ReportingConnection(base):  # type: ignore[valid-type, misc]
        @classmethod
        async def connect(cls, *conninfo: Any, **options: Any) -> Any:
            try:
                conn = await super().connect(*conninfo, **options)
            except Error as error:
                database.record_failure(error, is_connect_error=True)
                raise
            database.record_connection(conn)
            return conn

    return ReportingConnection


async def check_alive(conn: AsyncConnection[Any]) -> None:
    """
    Raise an error if an idle connection has ended.

    If the server has sent nothing, the connection counts as alive without a query. A round trip
    before every statement would take a quarter of the time of a read.
    """
    # A server that ends a connection sends a last message, or closes the socket: in both cases the
    # socket becomes readable.
    readable = select.poll()
    readable.register(conn.fileno(), select.POLLIN)
    if not readable.poll(0):
        return

    # After the timeout the connection is ended. Cancelling the check would take ten seconds if the
    # network is silent.
    disconnecting = asyncio.get_running_loop().call_later(_CHECK_TIMEOUT, disconnect, conn)
    try:
        await AsyncConnectionPool.check_connection(conn)
    finally:
        disconnecting.cancel()


@asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[Pool]:
    """
    Open `pool` for the time of the context.

    Raises ConfigurationError, with one line that names the reason, if the database cannot be used.
    """
    # The check comes before the pool is opened, because the pool's error would only say that the
    # pool timed out.
    await check(pool.conninfo, pooled=issubclass(pool.connection_class, PooledSession))
    try:
        await pool.open(wait=True, timeout=10)
    except PoolTimeout:
        raise ConfigurationError(
            f"The database at {display_address(pool.conninfo)} did not give a connection in time."
        ) from None
    try:
        yield pool
    finally:
        await pool.close()


async def check(conninfo: Any, *, pooled: bool = False) -> None:
    """
    Connect once, and disconnect.

    Raises ConfigurationError, which names the address and the reason, if the database cannot be
    reached or cannot hold the record.
    """
    try:
        async with await _session_class(pooled).connect(conninfo, name="check"):
            pass
    except OperationalError as error:
        raise unreachable_error(conninfo, error) from None
    except UnicodeError:
        # psycopg resolves the host with Python's own function, which first encodes the host's name.
        # This raises UnicodeError if a part of the name is empty or too long.
        raise unreachable_error(
            conninfo, OperationalError("failed to resolve host: a part of it is empty or too long")
        ) from None


def _session_class(pooled: bool) -> type[Session] | type[PooledSession]:
    if pooled:
        return PooledSession
    return Session


async def is_same_database(direct: str, other: str, *, pooled: bool = False) -> bool:
    """
    Return whether two addresses lead to the same database.

    It takes an advisory lock on a connection to `direct`, and looks for that lock on a connection
    to `other`. `pooled` says that `other` is the address of a PgBouncer. Raises ConfigurationError
    if one of the databases cannot be used.
    """
    await check(other, pooled=pooled)
    await check(direct)
    key = secrets.randbits(63)
    async with (
        await Session.connect(direct, name="check", autocommit=True) as locking,
        await _session_class(pooled).connect(other, name="check", autocommit=True) as looking,
        locking.transaction(),
        looking.transaction(),
    ):
        await locking.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        cursor = await looking.execute(_IS_LOCK_HELD, (key >> 32, key & 0xFFFFFFFF))
        (is_held,) = await cursor.fetchone() or (False,)
    return bool(is_held)


@asynccontextmanager
async def transaction(pool: Pool, *, notify: bool = True) -> AsyncIterator[AsyncConnection[Any]]:
    """
    Yield a connection in a transaction, for the record and the queue.

    With `notify`, the pool's transaction callback is called at the end, so that no client of this
    process gets an old cached response afterwards. Without `notify`, this process learns of the
    commit from Postgres's notification. That is enough for a transaction that rarely changes the
    record.
    """
    try:
        async with pool.connection() as conn, conn.transaction():
            yield conn
    finally:
        # The callback is called after an error, too: Postgres may have committed although its
        # response was lost.
        if notify:
            callback = _transaction_callbacks.get(pool)
            if callback:
                callback()


@asynccontextmanager
async def snapshot(conninfo: str, name: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Yield a read-only connection that sees one snapshot of the database, and no later commit."""
    pool = make_pool(conninfo, max_size=1, name=name)
    async with opened(pool), pool.connection() as conn:
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await conn.set_read_only(True)
        async with conn.transaction():
            yield conn


def set_transaction_callback(pool: Pool, callback: Callable[[], None]) -> None:
    """Call `callback` at the end of each `transaction` of `pool`, before its caller continues."""
    _transaction_callbacks[pool] = callback


def disconnect(conn: AsyncConnection[Any]) -> None:
    """
    End a connection, so that a coroutine that waits for its response gets an error at once.

    If the connection were only closed, the coroutine would not wake up.
    """
    # The socket is shut down through a duplicate of its file descriptor. At the end of the block
    # only the duplicate is closed, and the connection's own descriptor stays open.
    with suppress(OSError, Error), socket.socket(fileno=os.dup(conn.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
