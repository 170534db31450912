"""
What every answer of the API costs: one statement, asked of libpq itself.

psycopg's cursor, adapters and waiting are made for everything; here parameters travel as text, Postgres infers their
types, and the answer is one row of bytes. That is a third of the CPU. The pool, its connections and their errors are
psycopg's.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import CardinalityViolation, InternalError_, ProgramLimitExceeded, error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from app.database.pools import Pool, hang_up

Fetch = Callable[[str, Sequence[str | None]], Awaitable[list[bytes]]]
Names = OrderedDict[str, bytes]

# What a session may keep prepared, as psycopg has it: a plan takes up to a megabyte of Postgres's memory.
MOST_PREPARED = 100

# A connection that gave a longer row than this, in bytes, is ended: see `fetcher`.
LARGEST_KEPT = 16 * 1024 * 1024

# How often an answer that has not come is looked for without being told of it: seconds.
LOOK = 0.5
_numbers = count()


def fetcher(pool: Pool, *, pooled: bool = False, limit: int = 0) -> Fetch:
    """
    Return what runs one statement that gives one row or none, and returns its columns as the bytes Postgres wrote.

    Parameters are `$1`, `$2`, ... `pooled` says that a PgBouncer stands before Postgres: nothing is prepared then. With
    a `limit`, a Postgres that did not end the statement by itself a second after it, because it or the network stands
    still, is left.
    """
    known: WeakKeyDictionary[AsyncConnection[Any], Names] = WeakKeyDictionary()

    async def ask(conn: AsyncConnection[Any], sql: str, values: list[bytes | None]) -> PGresult:
        if pooled:
            async with conn.transaction():
                conn.pgconn.send_query_params(sql.encode(), values)
                return await result(conn.pgconn)
        name = await prepared(conn.pgconn, known.setdefault(conn, OrderedDict()), sql)
        conn.pgconn.send_query_prepared(name, values)
        return await result(conn.pgconn)

    async def fetch(sql: str, parameters: Sequence[str | None]) -> list[bytes]:
        values = [None if value is None else value.encode() for value in parameters]
        async with pool.connection() as conn:
            leaving = asyncio.get_running_loop().call_later(limit + 1, hang_up, conn) if limit else None
            try:
                row = await ask(conn, sql, values)
            finally:
                if leaving:
                    leaving.cancel()
            columns = columns_of(row)
            # libpq's buffer has grown to the length of the row, and stays so for as long as the connection lives.
            if sum(map(len, columns)) > LARGEST_KEPT:
                await conn.close()
        return columns

    return fetch


@asynccontextmanager
async def standing(pool: Pool, *, limit: int = 0) -> AsyncIterator[Fetch]:
    """
    Give what fetches from the record as it stands at the first statement, whatever is written meanwhile.

    It keeps a connection, so it may not last. Nothing is prepared. `limit` is as in `fetcher`.
    """
    async with pool.connection() as conn, conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await conn.execute(f"SET LOCAL statement_timeout = '{limit}s'")
        yield fetching(conn, limit)


def fetching(conn: AsyncConnection[Any], limit: int = 0) -> Fetch:
    """
    Return what runs a statement on a connection of one's own, in its transaction, one at a time.

    A statement that fails leaves the transaction, and the snapshot, as it was.
    """
    begun = False

    async def run(sql: bytes) -> None:
        conn.pgconn.send_query_params(sql, None)
        await result(conn.pgconn)

    async def fetch(sql: str, parameters: Sequence[str | None]) -> list[bytes]:
        nonlocal begun
        if not begun:
            await run(b"SAVEPOINT before_fetching")
            begun = True
        leaving = asyncio.get_running_loop().call_later(limit + 1, hang_up, conn) if limit else None
        try:
            conn.pgconn.send_query_params(sql.encode(), [None if one is None else one.encode() for one in parameters])
            row = await result(conn.pgconn)
        except (psycopg.DataError, CardinalityViolation, InternalError_, ProgramLimitExceeded):
            await run(b"ROLLBACK TO SAVEPOINT before_fetching")
            raise
        finally:
            if leaving:
                leaving.cancel()
        return columns_of(row)

    return fetch


def columns_of(result: PGresult) -> list[bytes]:
    """Return the columns of a result's one row; none if it has no row."""
    if not result.ntuples:
        return []
    return [result.get_value(0, column) or b"" for column in range(result.nfields)]


async def prepared(pgconn: PGconn, known: Names, sql: str) -> bytes:
    """Return the name under which a session knows a statement; the one that was not asked for longest makes room."""
    if name := known.get(sql):
        known.move_to_end(sql)
        return name
    if len(known) == MOST_PREPARED:
        pgconn.send_query_params(b"DEALLOCATE %b" % known.popitem(last=False)[1], None)
        await result(pgconn)
    name = b"read_%d" % next(_numbers)
    pgconn.send_prepare(name, sql.encode())
    await result(pgconn)
    known[sql] = name
    return name


async def result(pgconn: PGconn) -> PGresult:
    """
    Wait for what the statement that was sent gives, or raise what Postgres says.

    Whoever stops waiting leaves a busy connection behind, which the pool then ends.

    libpq closes the socket as soon as it finds the connection ended, and the next one that is made may have the same
    number. So the loop stops looking at it in that very call, or it would be the other's that is forgotten.

    The loop is not trusted alone: where Postgres's last words and the end of the connection arrive together, as after a
    crash, uvloop tells of the words and never of the end.
    """
    loop, socket = asyncio.get_running_loop(), pgconn.socket
    answered: asyncio.Future[None] = loop.create_future()
    results: list[PGresult] = []
    looking: asyncio.TimerHandle | None = None

    def leave() -> None:
        if looking:
            looking.cancel()
        loop.remove_reader(socket)
        loop.remove_writer(socket)

    def look() -> None:
        nonlocal looking
        # Pyflakes takes it for undefined because of the `del` below, after which this is never called.
        looking = loop.call_later(LOOK, look)  # noqa: F821
        go_on()

    def go_on() -> None:
        try:
            if not pgconn.flush():
                loop.remove_writer(socket)
            pgconn.consume_input()
            while not pgconn.is_busy():
                if (found := pgconn.get_result()) is None:
                    leave()
                    answered.set_result(None)
                    return
                results.append(found)
        except psycopg.Error as error:
            leave()
            answered.set_exception(error)

    is_unsent = pgconn.flush()
    looking = loop.call_later(LOOK, look)
    loop.add_reader(socket, go_on)
    if is_unsent:
        loop.add_writer(socket, go_on)
    try:
        await answered
    except asyncio.CancelledError:
        if not answered.done() or answered.cancelled():
            leave()
        raise
    finally:
        # It refers to itself, and to the results: megabytes would stay until the next full garbage collection.
        del look
    if results[-1].status == ExecStatus.FATAL_ERROR:
        raise error_from_result(results[-1])
    return results[-1]
