"""
Whether a database contains a rehearsal. Rehearsed and live data never share a database.

A rehearsal is recognised by two signs. One is the table of the simulated clock: only a rehearsal
creates it. The other is the journal: the GENESIS entry of a sealed record states the origin of the
record. So a rehearsal stays a rehearsal if its clock is deleted.
"""

from datetime import datetime
from typing import Any

from msgspec import Struct
from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool

from app.domain.declarations import Origin
from app.errors import ConfigurationError

# What people read wherever the record of a rehearsal is shown.
REHEARSED_NOTICE = "Rehearsed: every price and every word of this record is made up."

# The schema has its name from "told time", an older term for simulated time. `lag` is the number of
# seconds by which simulated time is behind real time, `seen` the real time at which that number was
# stored, and `until` the time at which the rehearsal stops.
CREATE_CLOCK_TABLE = """
CREATE SCHEMA IF NOT EXISTS told;
CREATE TABLE IF NOT EXISTS told.clock (
    lag float8 NOT NULL, seen timestamptz NOT NULL, until timestamptz
);
"""

# The queries below read the catalogue, which every user may read. The function to_regclass would
# need the right USAGE on the schema.
_TABLE_EXISTS = """
    SELECT FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = '{schema}' AND relname = '{table}'"""
# SQL conditions: whether the database has the clock of a rehearsal, and whether it has a journal.
HAS_CLOCK = f"EXISTS ({_TABLE_EXISTS.format(schema='told', table='clock')})"
_HAS_JOURNAL = f"EXISTS ({_TABLE_EXISTS.format(schema='public', table='journal')})"


def genesis_sql(pattern: str) -> str:
    """
    Return a SELECT of one member of the first GENESIS entry: null if that member is not readable.

    `pattern` is a regular expression with one group, the value. The SELECT has no row if the
    journal has no GENESIS entry. The content is not parsed as JSON: Postgres raises an error for a
    damaged text, and then nothing at all could be read.
    """
    # In canonical JSON, a text cannot contain a quotation mark that is not escaped. So the pattern
    # finds nothing inside another text.
    return f"""
        SELECT substring(genesis.content FROM '"genesis":\\{{[^{{}}]*{pattern}')
        FROM public.journal genesis
        WHERE genesis.kind = 'GENESIS'
        ORDER BY genesis.seq
        LIMIT 1"""  # noqa: S608 - the patterns are constants of this module


# An SQL condition: whether the journal has a GENESIS entry.
HAS_GENESIS = "EXISTS (SELECT FROM public.journal WHERE journal.kind = 'GENESIS')"
# The origin that the journal states, and the id of the record.
STATED_ORIGIN = genesis_sql('"origin":"([A-Z]+)"')
STATED_RECORD_ID = genesis_sql('"record_id":"([0-9a-f]{32})"')
IS_STATED_LATE = genesis_sql('"late":"(true|false)"')
# An SQL condition: whether the journal calls the record a rehearsal.
SAYS_REHEARSED = f"coalesce(({STATED_ORIGIN}) = 'REHEARSED', false)"

# The message about a rehearsal whose clock was deleted.
WITHOUT_CLOCK = (
    "This database holds a rehearsal: the GENESIS entry of its journal says so. Its clock was "
    "deleted, so the rehearsal cannot continue, and it never becomes a live record. "
    "Set DATABASE_URL to another database."
)


async def is_rehearsed(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> bool:
    """Return whether the database contains a rehearsal."""
    async with pool.connection() as conn:
        return await is_rehearsed_on_connection(conn)


async def is_rehearsed_on_connection(conn: AsyncConnection[Any]) -> bool:
    """Return whether the database of `conn` contains a rehearsal."""
    return await has_clock(conn) or await _says_rehearsed(conn)


def is_rehearsed_sync(conn: Connection[Any]) -> bool:
    """Return what `is_rehearsed_on_connection` returns, for a connection that is not async."""
    signs = conn.execute(f"SELECT {HAS_CLOCK}, {_HAS_JOURNAL}").fetchone() or (False, False)
    has_clock, has_journal = signs
    # A database without migrations has no journal.
    if has_clock or not has_journal:
        return bool(has_clock)
    (is_stated,) = conn.execute(f"SELECT {SAYS_REHEARSED}").fetchone() or (False,)
    return bool(is_stated)


async def has_clock(conn: AsyncConnection[Any]) -> bool:
    """Return whether the database of `conn` has the clock of a rehearsal."""
    cursor = await conn.execute(f"SELECT {HAS_CLOCK}")
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def _says_rehearsed(conn: AsyncConnection[Any]) -> bool:
    # A database without migrations has no journal.
    cursor = await conn.execute(f"SELECT {_HAS_JOURNAL}")
    (exists,) = await cursor.fetchone() or (False,)
    if not exists:
        return False
    cursor = await conn.execute(f"SELECT {SAYS_REHEARSED}")
    (is_stated,) = await cursor.fetchone() or (False,)
    return bool(is_stated)


class RecordIdentity(Struct, frozen=True, kw_only=True):
    """
    Which record a database contains.

    `id` and `origin` are those of the GENESIS entry. If it is not there or not readable, `id` is
    None, and `origin` is REHEARSED if the database has the clock of a rehearsal, otherwise UNKNOWN.
    """

    id: str | None
    origin: Origin
    sealed: bool


async def get_identity(conn: AsyncConnection[Any]) -> RecordIdentity:
    """Return which record the database of `conn` contains, as its journal states it."""
    cursor = await conn.execute(
        f"SELECT {HAS_GENESIS}, ({STATED_RECORD_ID}), ({STATED_ORIGIN}), {HAS_CLOCK}"
    )
    sealed, id, stated, has_clock = await cursor.fetchone() or (False, None, None, False)
    origin = Origin.REHEARSED if has_clock else Origin.UNKNOWN
    if stated in list(Origin):
        origin = Origin(stated)
    return RecordIdentity(id=id, origin=origin, sealed=sealed)


async def get_simulated_time(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> datetime | None:
    """
    Return the simulated time that the database's rehearsal has reached.

    Return None if the rehearsal has caught up with real time, if its clock was deleted, or if the
    database has no rehearsal.
    """
    async with pool.connection() as conn:
        return await get_simulated_time_on_connection(conn)


async def get_simulated_time_on_connection(conn: AsyncConnection[Any]) -> datetime | None:
    """Return what `get_simulated_time` returns, for the database of `conn`."""
    if not await has_clock(conn):
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
    async with pool.connection() as conn:
        if await has_clock(conn):
            raise ConfigurationError(
                "This database holds a rehearsal, and rehearsed and live data never share one. "
                "Set DATABASE_URL to another database, or run `alpha-monday rehearse` to continue "
                "the rehearsal."
            )
    await refuse_rehearsal_without_clock(pool)


async def refuse_rehearsal_without_clock(pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
    """
    Raise ConfigurationError if the database contains a rehearsal whose clock was deleted.

    An operator may change the record of a rehearsal that has its clock. Without the clock, nothing
    may be recorded any more: the entries would have real times beside simulated ones.
    """
    async with pool.connection() as conn:
        if not await has_clock(conn) and await _says_rehearsed(conn):
            raise ConfigurationError(WITHOUT_CLOCK)
