"""
Whether a service lives on a database: asked before anything is dropped, restored into, or stopped.

A process is seen by its sessions, which are called `alpha-monday ...` in pg_stat_activity: a web server, a worker, a
rehearsal, a backup. Behind PgBouncer a session may not show, and a worker is then seen by its heartbeats in the queue.
"""

import asyncio
from typing import Any

from psycopg import AsyncConnection

from app.database import sessions
from app.domain.text import counted, printable
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

# A process that ended a moment ago may still show, so it is looked for again, for three seconds in all.
_ATTEMPTS = 12
_PAUSE = 0.25  # seconds


async def refuse_in_use(conn: AsyncConnection[Any], *, apart_from: str | None = None) -> None:
    """
    Refuse the database of a connection while another process of ours uses it.

    Sessions that were connected with the name `apart_from` do not count. Raises Refused, which names the users.
    """
    for _ in range(_ATTEMPTS):
        users = await _users(conn, apart_from)
        if not users:
            return
        await asyncio.sleep(_PAUSE)
    raise Refused(
        f"A service runs on this database. Stop it first: it has {', '.join(users)}. (A command such as `backup` "
        "counts, too, and for half a minute a worker that was killed.) Nothing was changed."
    )


async def _users(conn: AsyncConnection[Any], apart_from: str | None) -> list[str]:
    exempt = None if apart_from is None else sessions.application_name(apart_from)
    async with conn.transaction():
        await conn.execute("SET LOCAL lock_timeout = '10s'")
        await conn.execute("SELECT pg_stat_clear_snapshot()")  # a transaction would see the same sessions again
        rows = await (await conn.execute(_SESSIONS, [sessions.APPLICATION, exempt])).fetchall()
        users = [f"{printable(name)} ({counted(count, 'session')})" for name, count in rows]
        if await queue_tables.are_installed(conn):
            await conn.execute("SET LOCAL search_path = public, queue")
            if await queue_tables.has_live_worker(conn):
                users.append("a worker that gave a sign of life in the last half minute")
    return users
