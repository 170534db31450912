"""
The fast path of the API's queries: one statement, sent with libpq directly.

psycopg's cursors, adapters and waiting functions serve all purposes. Here parameters are sent as
text, Postgres infers their types, and the result is one row of bytes. This takes a third of the CPU
time that psycopg's functions take. The pool, its connections and their errors are psycopg's.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import (
    CardinalityViolation,
    InternalError_,
    ProgramLimitExceeded,
    error_from_result,
)
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from app.database.pools import Pool, disconnect

# A function that runs a statement with parameters `$1`, `$2`, ... The statement returns at most one
# row. The function returns the row's columns as the bytes that Postgres sent (empty for NULL), or
# an empty list if there is no row.
Fetch = Callable[[str, Sequence[str | None]], Awaitable[list[bytes]]]

# The names of a session's prepared statements, by their SQL. The least recently used one is first.
StatementNames = OrderedDict[str, bytes]

# The maximum number of a session's prepared statements, the same as in psycopg: a plan takes up to
# a megabyte of Postgres's memory.
MAX_PREPARED = 100

# After a row with more bytes than this, the connection is closed: see `pool_fetcher`.
_MAX_KEPT_BUFFER = 16 * 1024 * 1024

# The interval at which a timer looks for a result, in seconds: see `_ResultReader`.
_POLL_INTERVAL = 0.5

# How much longer than `statement_timeout` a statement may take before its connection is ended, in
# seconds.
_TIMEOUT_MARGIN = 1

# After these errors a transaction can continue from its savepoint: only the statement failed.
_STATEMENT_ERRORS = (
    psycopg.DataError,
    CardinalityViolation,
    InternalError_,
    ProgramLimitExceeded,
)

_statement_numbers = count()


def pool_fetcher(pool: Pool, *, pooled: bool = False, statement_timeout: int = 0) -> Fetch:
    """
    Return a function that runs each statement on a connection of `pool`.

    `pooled` says that the pool's address is a PgBouncer's: then no statement is prepared.
    `statement_timeout` is the timeout of the pool's sessions, in seconds; 0 means no limit. If a
    statement has not ended one second after the timeout, because Postgres or the network is silent,
    the connection is ended.
    """
    prepared: WeakKeyDictionary[AsyncConnection[Any], StatementNames] = WeakKeyDictionary()

    async def run(conn: AsyncConnection[Any], sql: str, values: list[bytes | None]) -> PGresult:
        if pooled:
            async with conn.transaction():
                conn.pgconn.send_query_params(sql.encode(), values)
                return await wait_for_result(conn.pgconn)
        names = prepared.setdefault(conn, OrderedDict())
        name = await prepare(conn.pgconn, names, sql)
        conn.pgconn.send_query_prepared(name, values)
        return await wait_for_result(conn.pgconn)

    async def fetch(sql: str, parameters: Sequence[str | None]) -> list[bytes]:
        values = _encode(parameters)
        async with pool.connection() as conn:
            with _disconnected_after(conn, statement_timeout):
                result = await run(conn, sql, values)
            columns = _columns_of(result)
            # libpq's buffer has grown to the length of the row, and it never shrinks while the
            # connection exists.
            if sum(map(len, columns)) > _MAX_KEPT_BUFFER:
                await conn.close()
        return columns

    return fetch


@asynccontextmanager
async def snapshot_fetcher(pool: Pool, *, statement_timeout: int = 0) -> AsyncIterator[Fetch]:
    """
    Yield a function that reads one snapshot of the record, even if the record changes meanwhile.

    The first statement takes the snapshot. The context keeps one connection of the pool until it
    ends. No statement is prepared. `statement_timeout`, in seconds, is set for the transaction; 0
    means no limit.
    """
    async with pool.connection() as conn, conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await conn.execute(f"SET LOCAL statement_timeout = '{statement_timeout}s'")
        yield connection_fetcher(conn, statement_timeout)


def connection_fetcher(conn: AsyncConnection[Any], statement_timeout: int = 0) -> Fetch:
    """
    Return a function that runs statements in the transaction of `conn`, one at a time.

    After one of `_STATEMENT_ERRORS`, the transaction continues with the same snapshot. After any
    other error, such as a timeout, the function cannot be used any more. `statement_timeout` is
    the timeout of the session, in seconds, as in `pool_fetcher`.
    """
    has_savepoint = False

    async def run(sql: bytes) -> None:
        conn.pgconn.send_query_params(sql, None)
        await wait_for_result(conn.pgconn)

    async def fetch(sql: str, parameters: Sequence[str | None]) -> list[bytes]:
        nonlocal has_savepoint
        if not has_savepoint:
            await run(b"SAVEPOINT before_fetching")
            has_savepoint = True
        with _disconnected_after(conn, statement_timeout):
            try:
                conn.pgconn.send_query_params(sql.encode(), _encode(parameters))
                result = await wait_for_result(conn.pgconn)
            except _STATEMENT_ERRORS:
                await run(b"ROLLBACK TO SAVEPOINT before_fetching")
                raise
        return _columns_of(result)

    return fetch


@contextmanager
def _disconnected_after(conn: AsyncConnection[Any], statement_timeout: int) -> Iterator[None]:
    """End `conn` if the block lasts longer than the timeout plus `_TIMEOUT_MARGIN`."""
    if not statement_timeout:
        yield
        return
    loop = asyncio.get_running_loop()
    disconnecting = loop.call_later(statement_timeout + _TIMEOUT_MARGIN, disconnect, conn)
    try:
        yield
    finally:
        disconnecting.cancel()


def _encode(parameters: Sequence[str | None]) -> list[bytes | None]:
    """Return parameters in the form that libpq needs: bytes, or None for NULL."""
    return [None if text is None else text.encode() for text in parameters]


def _columns_of(result: PGresult) -> list[bytes]:
    """Return the columns of a result's only row, or an empty list if it has no row."""
    if not result.ntuples:
        return []
    return [result.get_value(0, column) or b"" for column in range(result.nfields)]


async def prepare(pgconn: PGconn, names: StatementNames, sql: str) -> bytes:
    """
    Return the name of the prepared statement for `sql`. Prepare it if `names` does not have it.

    If the session has `MAX_PREPARED` statements, the least recently used one is deallocated.
    """
    known = names.get(sql)
    if known:
        names.move_to_end(sql)
        return known
    if len(names) == MAX_PREPARED:
        _, oldest = names.popitem(last=False)
        pgconn.send_query_params(b"DEALLOCATE %b" % oldest, None)
        await wait_for_result(pgconn)
    name = b"read_%d" % next(_statement_numbers)
    pgconn.send_prepare(name, sql.encode())
    await wait_for_result(pgconn)
    names[sql] = name
    return name


async def wait_for_result(pgconn: PGconn) -> PGresult:
    """
    Wait for the result of the statement that was sent last, and return it.

    Raises psycopg's error if the statement or the connection fails. If the caller is cancelled, the
    connection is still busy; the pool then ends it.
    """
    return await _ResultReader(pgconn).read()


class _ResultReader:
    """
    Reads the results of one statement when the loop reports that the socket is ready.

    libpq closes the socket as soon as it notices that the connection has ended. The next socket of
    the process may get the same file descriptor. So the call in which libpq closes the socket must
    also make the loop stop watching the descriptor. A later call could end the watching of the next
    socket instead.

    The loop does not report every end of a connection. If Postgres's last message and the end of
    the connection arrive together, as after a crash, uvloop reports the message and never the end.
    So a timer looks for a result, too.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        self._socket = pgconn.socket
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._results: list[PGresult] = []
        self._timer: asyncio.TimerHandle | None = None

    async def read(self) -> PGresult:
        """Return the last result, or raise its error."""
        is_unsent = self._pgconn.flush()
        self._timer = self._loop.call_later(_POLL_INTERVAL, self._poll)
        self._loop.add_reader(self._socket, self._advance)
        if is_unsent:
            self._loop.add_writer(self._socket, self._advance)
        try:
            await self._done
        except asyncio.CancelledError:
            if not self._done.done() or self._done.cancelled():
                self._stop()
            raise
        last = self._results[-1]
        if last.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(last)
        return last

    def _poll(self) -> None:
        self._timer = self._loop.call_later(_POLL_INTERVAL, self._poll)
        self._advance()

    def _advance(self) -> None:
        """Send the unsent part of the statement, and read the data that has arrived."""
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._socket)
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self._stop()
                    self._done.set_result(None)
                    return
                self._results.append(result)
        except psycopg.Error as error:
            self._stop()
            self._done.set_exception(error)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            # The timer and this object refer to each other. Such a cycle would keep the results in
            # memory until the next full garbage collection, and they may be megabytes.
            self._timer = None
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
