"""Whether a database holds a rehearsal: rehearsed and live data never share one."""

from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from app.errors import ConfigurationError

# How far told time is behind, when it was last told, and where it stops. That the table is there is the mark.
CLOCK = """
CREATE SCHEMA IF NOT EXISTS told;
CREATE TABLE IF NOT EXISTS told.clock (lag float8 NOT NULL, seen timestamptz NOT NULL, until timestamptz);
"""


async def is_rehearsed(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> bool:
    """Return whether the rehearsal's clock stands in the database."""
    async with pool.connection() as conn:
        return await is_rehearsed_on(conn)


async def is_rehearsed_on(conn: AsyncConnection[Any]) -> bool:
    """Return the same over a connection that is there already."""
    # In the catalogue, for which no right is needed: to_regclass wants the right to use the schema.
    cursor = await conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname = 'told' AND relname = 'clock'
        )
        """
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def stands_at(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> datetime | None:
    """Return the time at which a rehearsal stands or stood last; None if it lives in real time, or there is none."""
    async with pool.connection() as conn:
        return await stands_at_on(conn)


async def stands_at_on(conn: AsyncConnection[Any]) -> datetime | None:
    """Return the same over a connection that is there already."""
    if not await is_rehearsed_on(conn):
        return None
    cursor = await conn.execute(
        """
        SELECT least(seen - make_interval(secs => lag), until)
        FROM told.clock
        WHERE lag > 0
        """
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def refuse(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
    """Refuse to live in a database that holds a rehearsal."""
    if await is_rehearsed(pool):
        raise ConfigurationError(
            "This database holds a rehearsal, and rehearsed and live data never share one. "
            "Set DATABASE_URL to another database, or run `alpha-monday rehearse` to go on with the rehearsal."
        )
