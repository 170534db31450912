"""
Whether a database contains a rehearsal. Rehearsed and live data never share a database.

A rehearsal is recognised by the table of the simulated clock: only a rehearsal creates it.
"""

from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from app.errors import ConfigurationError

# The schema has its name from "told time", an older term for simulated time. `lag` is the number of
# seconds by which simulated time is behind real time, `seen` the real time at which that number was
# stored, and `until` the time at which the rehearsal stops.
CREATE_CLOCK_TABLE = """
CREATE SCHEMA IF NOT EXISTS told;
CREATE TABLE IF NOT EXISTS told.clock (
    lag float8 NOT NULL, seen timestamptz NOT NULL, until timestamptz
);
"""


async def is_rehearsed(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> bool:
    """Return whether the database contains a rehearsal."""
    async with pool.connection() as conn:
        return await is_rehearsed_on_connection(conn)


async def is_rehearsed_on_connection(conn: AsyncConnection[Any]) -> bool:
    """Return whether the database of `conn` contains a rehearsal."""
    # The query reads the catalogue, which every user may read. The function to_regclass would need
    # the right USAGE on the schema.
    cursor = await conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_class
            JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname = 'told' AND relname = 'clock'
        )
        """
    )
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def get_simulated_time(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> datetime | None:
    """
    Return the simulated time that the database's rehearsal has reached.

    Return None if the rehearsal has caught up with real time, or if the database has no rehearsal.
    """
    async with pool.connection() as conn:
        return await get_simulated_time_on_connection(conn)


async def get_simulated_time_on_connection(conn: AsyncConnection[Any]) -> datetime | None:
    """Return what `get_simulated_time` returns, for the database of `conn`."""
    if not await is_rehearsed_on_connection(conn):
        return None
    cursor = await conn.execute(
        """
        SELECT least(seen - make_interval(secs => lag), until)
        FROM told.clock
        WHERE lag > 0
        """
    )
    (time,) = await cursor.fetchone() or (None,)
    return time


async def refuse_rehearsal(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
    """Raise ConfigurationError if the database contains a rehearsal, not a live record."""
    if await is_rehearsed(pool):
        raise ConfigurationError(
            "This database holds a rehearsal, and rehearsed and live data never share one. "
            "Set DATABASE_URL to another database, or run `alpha-monday rehearse` to continue the "
            "rehearsal."
        )
