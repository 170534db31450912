"""
Plain SQL migrations: `migrations/NNNN_name.up.sql` and `.down.sql`, one transaction each, and then the queue's own.

What was applied is remembered in the schema `operations`, with the text's checksum, so that a file changed after the
fact is noticed. One advisory lock lets several processes start at once: the first migrates, the others find it done. It
is Postgres's lock, not a row, so a process killed half-way leaves nothing behind that a person must break.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from procrastinate.schema import SchemaManager, migrations_path
from psycopg import AsyncConnection

from app.core.locks import Lock
from app.database.sessions import Session
from app.errors import ConfigurationError

_FILE = re.compile(r"(\d{4})_(\w+)\.up\.sql")

# A statement that waits for a lock blocks whoever comes after it; better to fail and be run again.
_PATIENCE = "SET LOCAL lock_timeout = '10s'"

_HISTORY = """
CREATE SCHEMA IF NOT EXISTS operations;
CREATE TABLE IF NOT EXISTS operations.migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS operations.queue_migrations (
    file text PRIMARY KEY,
    applied_at timestamptz NOT NULL
);
"""


class Migration(Struct, frozen=True):
    """A numbered step of the schema, with its way back."""

    number: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        """Return what the history remembers of the way up."""
        return hashlib.sha256(self.up.encode()).hexdigest()


class Step(Struct, frozen=True):
    """A migration and when it was applied, if it was."""

    number: int
    name: str
    applied_at: datetime | None


def folder() -> Path:
    """Return where the migrations are: inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).parent / "migrations"
    return inside if inside.exists() else Path(__file__).parents[2] / "migrations"


def known(where: Path | None = None) -> list[Migration]:
    """Return our migrations in order; refuse a gap in the numbers or a missing way down."""
    found: list[Migration] = []
    for up in sorted((where or folder()).glob("*.up.sql")):
        match = _FILE.fullmatch(up.name)
        down = up.with_name(up.name.replace(".up.sql", ".down.sql"))
        if not match or int(match[1]) != len(found) + 1 or not down.exists():
            raise ConfigurationError(f"{up.name}: migrations are numbered without gaps, each with its .down.sql.")
        found.append(Migration(int(match[1]), match[2], up.read_text(), down.read_text()))
    return found


async def migrate(conninfo: str, at: datetime, down_to: int | None = None) -> list[str]:
    """Bring the database up to date, or back to `down_to`; return what was done, a line each."""
    async with await Session.connect(conninfo, name="migrations", autocommit=True) as conn:
        return await bring(conn, at, down_to)


async def bring(conn: AsyncConnection[Any], at: datetime, down_to: int | None = None) -> list[str]:
    """Do the same on a connection. In a transaction all of it is undone with that, and its search_path is changed."""
    ours = known()
    if down_to is not None and not 0 <= down_to <= len(ours):
        raise ConfigurationError(f"--down-to takes a number from 0 to {len(ours)}, not {down_to}.")
    await conn.execute("SELECT pg_advisory_lock(%s)", (Lock.MIGRATIONS,))
    await conn.execute(_HISTORY)
    applied = await _applied(conn, ours)
    if down_to is not None and applied > len(ours):
        raise ConfigurationError(
            f"The database has migration {applied:04}, which this version does not know: "
            "take it back with the version that applied it."
        )
    if down_to is not None:
        return [await _down(conn, step) for step in reversed(ours) if down_to < step.number <= applied]
    done = [await _up(conn, step, at) for step in ours if step.number > applied]
    return done + await _queue(conn, at)


async def status(conninfo: str) -> list[Step]:
    """Return every migration with the time of its application; the database is not changed."""
    async with await Session.connect(conninfo, name="migrations", autocommit=True) as conn:
        cursor = await conn.execute("SELECT to_regclass('operations.migrations') IS NOT NULL")
        there = bool((await cursor.fetchone() or (False,))[0])
        rows = await _rows(conn, "SELECT number, applied_at FROM operations.migrations") if there else []
        at = dict(rows)
        return [Step(step.number, step.name, at.get(step.number)) for step in known()]


async def last(conn: AsyncConnection[Any]) -> int:
    """Return the number of the last migration that was applied, by whichever version; 0 where none was."""
    cursor = await conn.execute("SELECT to_regclass('operations.migrations') IS NOT NULL")
    if not (await cursor.fetchone() or (False,))[0]:
        return 0
    return max((number for (number,) in await _rows(conn, "SELECT number FROM operations.migrations")), default=0)


async def refuse_old(conninfo: str) -> None:
    """Refuse a database that lacks a migration. One that is ahead is fine: migrations work with the code before."""
    if missing := [step for step in await status(conninfo) if step.applied_at is None]:
        raise ConfigurationError(
            f"The database lacks migration {missing[0].number:04} ({missing[0].name}). "
            "Run `alpha-monday migrate`, or `alpha-monday serve --migrate`."
        )


def queue_files() -> list[str]:
    """Return the names of the installed queue's migration files, in the order in which they apply."""
    return sorted(path.name for path in Path(migrations_path).glob("*.sql"))


async def _applied(conn: AsyncConnection[Any], ours: Sequence[Migration]) -> int:
    """Return the number of the last applied migration; refuse a history that is not ours."""
    history = dict(await _rows(conn, "SELECT number, checksum FROM operations.migrations"))
    for step in ours:
        if history.get(step.number, step.checksum) != step.checksum:
            raise ConfigurationError(
                f"Migration {step.number:04} ({step.name}) was changed after it was applied to this database. "
                "Restore the file, and put the change into a new migration."
            )
    last = max(history, default=0)
    if gap := [step for step in ours if step.number < last and step.number not in history]:
        raise ConfigurationError(
            f"Migration {gap[0].number:04} ({gap[0].name}) was never applied to this database, but {last:04} was. "
            "Restore a backup, or take the later ones back by hand."
        )
    return last


async def _up(conn: AsyncConnection[Any], step: Migration, at: datetime) -> str:
    async with conn.transaction():
        await conn.execute(_PATIENCE)
        await conn.execute("SET LOCAL search_path = public")
        await conn.execute(step.up.encode())
        await conn.execute(
            "INSERT INTO operations.migrations (number, name, checksum, applied_at) VALUES (%s, %s, %s, %s)",
            (step.number, step.name, step.checksum, at),
        )
    return f"{step.number:04} {step.name}: applied"


async def _down(conn: AsyncConnection[Any], step: Migration) -> str:
    async with conn.transaction():
        await conn.execute(_PATIENCE)
        await conn.execute("SET LOCAL search_path = public")
        await conn.execute(step.down.encode())
        await conn.execute("DELETE FROM operations.migrations WHERE number = %s", (step.number,))
        if step.name == "queue":
            await conn.execute("DELETE FROM operations.queue_migrations")
    return f"{step.number:04} {step.name}: taken back"


async def _queue(conn: AsyncConnection[Any], at: datetime) -> list[str]:
    """Install the queue's schema, or apply the files of the installed version that are not yet applied."""
    applied = {file for (file,) in await _rows(conn, "SELECT file FROM operations.queue_migrations")}
    missing = [file for file in queue_files() if file not in applied]
    if not missing:
        return []
    texts = [Path(migrations_path, file).read_text() for file in missing] if applied else [SchemaManager.get_schema()]
    async with conn.transaction():
        await conn.execute(_PATIENCE)
        await conn.execute("SET LOCAL search_path = queue")
        for text in texts:
            await conn.execute(text.encode())
        for file in missing:
            await conn.execute("INSERT INTO operations.queue_migrations (file, applied_at) VALUES (%s, %s)", (file, at))
    return [f"queue: {', '.join(missing)}" if applied else "queue: installed"]


async def _rows(conn: AsyncConnection[Any], sql: str) -> list[tuple[Any, ...]]:
    return await (await conn.execute(sql.encode())).fetchall()
