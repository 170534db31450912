"""
Checks whether a service uses a database, before tables are dropped or filled, or migrations are
taken back.

A process (a web server, a worker, a rehearsal, or a command such as `backup`) is recognized by its
sessions: their names in pg_stat_activity begin with `alpha-monday`. If a process connects through a
PgBouncer, its sessions may be missing in pg_stat_activity. Then only a worker is recognized: by its
heartbeats in the queue.
"""

import asyncio
from typing import Any

from psycopg import AsyncConnection

from app.database import sessions
from app.domain.text import escape_unprintable, pluralize
from app.errors import Refused
from jobs import queue_tables

_SESSIONS = """
SELECT application_name, count(*)
FROM pg_stat_activity
WHERE datname = current_database() AND starts_with(application_name, %s) AND pid <> pg_backend_pid()
    AND application_name IS DISTINCT FROM %s
GROUP BY application_name
ORDER BY application_name
"""

# The session of a process that has just ended may still be listed. So sessions are read several
# times, over three seconds in all.
_ATTEMPTS = 12
_PAUSE = 0.25  # seconds


async def refuse_in_use(conn: AsyncConnection[Any], *, ignore: str | None = None) -> None:
    """
    Raise Refused if another process of the service uses the database of `conn`.

    The error is raised only if a process still uses it after three seconds. Sessions with the name
    `ignore` do not count as use. The message names the processes.
    """
    for _ in range(_ATTEMPTS):
        users = await _list_users(conn, ignore)
        if not users:
            return
        await asyncio.sleep(_PAUSE)
    raise Refused(
        f"A service runs on this database. Stop it first: it has {', '.join(users)}. (A command "
        "such as `backup` counts, too, and so does a killed worker for half a minute.) "
        "Nothing was changed."
    )


async def _list_users(conn: AsyncConnection[Any], ignore: str | None) -> list[str]:
    """Return a description of each other process that uses the database."""
    ignored = None if ignore is None else sessions.application_name(ignore)
    async with conn.transaction():
        await conn.execute("SET LOCAL lock_timeout = '10s'")
        # Postgres reads the list of sessions once in a transaction. Without this statement, every
        # attempt would see the same list if the caller has begun a transaction.
        await conn.execute("SELECT pg_stat_clear_snapshot()")
        cursor = await conn.execute(_SESSIONS, [sessions.APPLICATION_PREFIX, ignored])
        rows = await cursor.fetchall()
        users = [
            f"{escape_unprintable(name)} ({pluralize(count, 'session')})" for name, count in rows
        ]
        if await queue_tables.has_tables(conn):
            await conn.execute("SET LOCAL search_path = public, queue")
            if await queue_tables.has_live_worker(conn):
                users.append("a worker with a heartbeat in the last half minute")
    return users
