"""
Plain SQL migrations: `migrations/NNNN_name.up.sql` and `.down.sql`, one transaction each, and then the queue's own.

What was applied is remembered in the schema `operations`, with the text's checksum, so that a file changed after the
fact is noticed. One advisory lock lets several processes start at once: the first migrates, the others find it done. It
is Postgres's lock, not a row, so a process killed half-way leaves nothing behind that a person must break.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from procrastinate.schema import SchemaManager, migrations_path
from psycopg import AsyncConnection, errors, sql

from app.core.locks import Lock
from app.core.settings import name_of_address
from app.database import roles
from app.database.advice import quoted, where
from app.database.sessions import Session
from app.domain.text import counted, first_line
from app.errors import ConfigurationError

_FILE = re.compile(r"(\d{4})_(\w+)\.up\.sql")

# Called before anything is taken back, on its connection and in its transaction.
Guard = Callable[[AsyncConnection[Any]], Awaitable[None]]

# Tables with their columns.
Columns = dict[str, list[str]]

# The oldest major version of Postgres that is tested.
OLDEST = 15

# How its connections are called in pg_stat_activity.
_NAME = "migrate"

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


class Loss(Struct, frozen=True):
    """What is lost with a migration that is taken back: rows of a table, or the values of one of its columns."""

    table: str
    column: str | None
    count: int

    def __str__(self) -> str:
        table = self.table.removeprefix("public.")
        if self.column is None:
            return f"{table}: {counted(self.count, 'row')}"
        return f"{table}.{self.column}: {counted(self.count, 'value')}"


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


async def migrate(conninfo: str, at: datetime, down_to: int | None = None, guard: Guard | None = None) -> list[str]:
    """Bring the database up to date, or back to `down_to`; return what was done, a line each."""
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        return await bring(conn, at, down_to, guard)


async def bring(
    conn: AsyncConnection[Any], at: datetime, down_to: int | None = None, guard: Guard | None = None
) -> list[str]:
    """
    Do the same on a connection. In a transaction all of it is undone with that, and its search_path is changed.

    All steps back are one transaction. `guard` is called in it before the first of them, when no other process can
    migrate or start a service: it raises if nothing may be dropped.
    """
    ours = known()
    _refuse_unknown(down_to, ours)
    _refuse_too_old(conn)
    await conn.execute("SELECT pg_advisory_lock(%s)", (Lock.MIGRATIONS,))
    # Only where it is not there: even IF NOT EXISTS wants the right to create it.
    if not await _has_history(conn):
        await _refuse_another_than_the_owner(conn, "make the tables")
        await conn.execute(_HISTORY)
    applied = await _applied(conn, ours)
    if down_to is None:
        missing = [step for step in ours if step.number > applied]
        if missing:
            await _refuse_another_than_the_owner(conn, f"apply migration {missing[0].number:04} ({missing[0].name})")
        done = [await _up(conn, step, at) for step in missing]
        return done + await _queue(conn, at)
    _refuse_ahead(applied, ours)
    if down_to < applied:
        await _refuse_another_than_the_owner(conn, f"take migration {applied:04} back")
    steps = _steps_back(ours, applied, down_to)
    async with conn.transaction():
        if guard is not None and steps:
            await guard(conn)
        return [await _down(conn, step) for step in steps]


async def refuse_another_than_the_owner(conninfo: str, what: str, setting: str = "MIGRATE_DATABASE_URL") -> None:
    """Refuse a user that may not change the tables of a database; `setting` is where the owner's address belongs."""
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        await _refuse_another_than_the_owner(conn, what, setting)


async def _refuse_another_than_the_owner(
    conn: AsyncConnection[Any], what: str, setting: str = "MIGRATE_DATABASE_URL"
) -> None:
    """
    Refuse, before a statement of a migration, a user that may not change the tables that are there.

    In an empty database in which `alpha-monday roles --apply` was run, there is the schema alone, which is the owner's.
    """
    cursor = await conn.execute(
        """
        SELECT current_user, pg_get_userbyid(coalesce(relowner, nspowner)), relowner IS NOT NULL
        FROM pg_catalog.pg_namespace
        LEFT JOIN pg_catalog.pg_class ON relnamespace = pg_namespace.oid AND relname = 'migrations'
        WHERE nspname = 'operations' AND CASE
            WHEN relowner IS NULL THEN NOT has_schema_privilege(pg_namespace.oid, 'CREATE')
            ELSE NOT pg_has_role(relowner, 'USAGE')
        END
        """
    )
    if found := await cursor.fetchone():
        user, owner, has_tables = found
        belongs = "the tables of" if has_tables else "the schema operations of"
        verb = "belong" if has_tables else "belongs"
        raise ConfigurationError(
            f"The user {user} may not {what}: {belongs} the database {where(conn.info.dsn)} {verb} to {owner}. "
            f"Set {setting} to that user's address, or as an administrator run "
            f"GRANT {quoted(owner)} TO {quoted(user)};"
        )


async def losses(conninfo: str, down_to: int) -> tuple[list[str], list[Loss]]:
    """Return which migrations `down_to` would take back, and what would be lost with them; nothing is changed."""
    ours = known()
    _refuse_unknown(down_to, ours)
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", (Lock.MIGRATIONS,))
        if not await _has_history(conn):
            return [], []
        applied = await _applied(conn, ours)
        _refuse_ahead(applied, ours)
        if down_to < applied:
            await _refuse_another_than_the_owner(conn, f"take migration {applied:04} back")
        steps = [f"{step.number:04} {step.name}" for step in _steps_back(ours, applied, down_to)]
        return steps, await losses_on(conn, down_to)


async def losses_on(conn: AsyncConnection[Any], down_to: int) -> list[Loss]:
    """
    Return what would be lost by going back to `down_to`; the caller holds the lock of migrations.

    The steps are taken back and undone, so that what is dropped is seen in the catalogue and not believed of a text.
    """
    async with conn.transaction(force_rollback=True):
        await conn.execute(_PATIENCE)
        before = await _columns(conn)
        held = {table: await _count(conn, table) for table in before}
        async with conn.transaction(force_rollback=True):
            for step in _steps_back(known(), await last(conn), down_to):
                await _down(conn, step)
            after = await _columns(conn)
            left = {table: await _count(conn, table) for table in after}
        lost = [Loss(table, None, held[table] - left.get(table, 0)) for table in before]
        dropped = [(table, column) for table in after for column in before.get(table, []) if column not in after[table]]
        for table, column in dropped:
            lost += [Loss(table, column, await _count(conn, table, column))]
    return [loss for loss in lost if loss.count > 0]


def _steps_back(ours: Sequence[Migration], applied: int, down_to: int) -> list[Migration]:
    """Return the migrations to take back, the newest first; `applied` is the number of the last one that is applied."""
    return [step for step in reversed(ours) if down_to < step.number <= applied]


def _refuse_too_old(conn: AsyncConnection[Any]) -> None:
    found = conn.info.server_version
    if found < OLDEST * 10_000:
        raise ConfigurationError(
            f"The database {where(conn.info.dsn)} runs Postgres {found // 10_000}, and Alpha Monday needs {OLDEST} or "
            "newer. Set DATABASE_URL to a newer one."
        )


def _refuse_unknown(down_to: int | None, ours: Sequence[Migration]) -> None:
    if down_to is not None and not 0 <= down_to <= len(ours):
        raise ConfigurationError(f"--down-to takes a number from 0 to {len(ours)}, not {down_to}.")


def _refuse_ahead(applied: int, ours: Sequence[Migration]) -> None:
    if applied > len(ours):
        raise ConfigurationError(
            f"The database has migration {applied:04}, which this version does not know: "
            "take it back with the version that applied it."
        )


async def _has_history(conn: AsyncConnection[Any]) -> bool:
    cursor = await conn.execute(
        "SELECT to_regclass('operations.migrations') IS NOT NULL "
        "AND to_regclass('operations.queue_migrations') IS NOT NULL"
    )
    return bool((await cursor.fetchone() or (False,))[0])


async def _columns(conn: AsyncConnection[Any]) -> Columns:
    """Return the tables of the record and the queue with their columns; the history of migrations is not among them."""
    found: Columns = {}
    rows = await _rows(
        conn,
        """
        SELECT nspname || '.' || relname, attname
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname IN ('public', 'queue', 'operations') AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
            AND (nspname, relname) NOT IN (
                ('operations', 'migrations'), ('operations', 'queue_migrations'), ('operations', 'roles'))
        ORDER BY array_position(ARRAY['public', 'queue', 'operations']::name[], nspname), relname, attnum
        """,
    )
    for table, column in rows:
        found.setdefault(table, []).append(column)
    return found


async def _count(conn: AsyncConnection[Any], table: str, column: str = "*") -> int:
    """Return how many rows a table has, or how many values a column."""
    what = sql.SQL("*") if column == "*" else sql.Identifier(column)
    statement = sql.SQL("SELECT count({}) FROM {}").format(what, sql.Identifier(*table.split(".")))
    cursor = await conn.execute(statement)
    (count,) = await cursor.fetchone() or (0,)
    return int(count)


async def status(conninfo: str) -> list[Step]:
    """Return every migration with the time of its application; the database is not changed."""
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        return await _status(conn)


async def _status(conn: AsyncConnection[Any]) -> list[Step]:
    at = dict(await _rows(conn, "SELECT number, applied_at FROM operations.migrations")) if await _is_ours(conn) else {}
    return [Step(step.number, step.name, at.get(step.number)) for step in known()]


async def _is_ours(conn: AsyncConnection[Any]) -> bool:
    cursor = await conn.execute("SELECT to_regclass('operations.migrations') IS NOT NULL")
    return bool((await cursor.fetchone() or (False,))[0])


async def last(conn: AsyncConnection[Any]) -> int:
    """Return the number of the last migration that was applied, by whichever version; 0 where none was."""
    if not await _is_ours(conn):
        return 0
    return max((number for (number,) in await _rows(conn, "SELECT number FROM operations.migrations")), default=0)


async def refuse_old(conninfo: str) -> None:
    """
    Refuse a database that lacks a migration. One that is ahead is fine: migrations work with the code before.

    A process that migrates is waited for, and one that starts now makes it wait: `alpha-monday migrate --down-to` looks
    for sessions of a service while it holds the lock, and a service that has its sessions looks here after that.
    """
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        _refuse_too_old(conn)
        try:
            await conn.execute("SET lock_timeout = '10s'")
            await conn.execute("SELECT pg_advisory_lock_shared(%s)", (Lock.MIGRATIONS,))
        except errors.LockNotAvailable:
            raise ConfigurationError(
                f"Another process migrates or restores the database {where(conninfo)}. Wait for its end, and try again."
            ) from None
        missing = [step for step in await _status(conn) if step.applied_at is None]
    if missing and missing[0].number == 1:
        raise ConfigurationError(
            f"The database {where(conninfo)} lacks migration 0001 (record). Run `alpha-monday migrate`, "
            "or `alpha-monday serve --migrate`, to make the tables there. If it should have them, check "
            f"{name_of_address(conninfo)}."
        )
    if missing:
        raise ConfigurationError(
            f"The database {where(conninfo)} lacks migration {missing[0].number:04} ({missing[0].name}). "
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
    async with conn.transaction(), _explained(step):
        await conn.execute(_PATIENCE)
        await conn.execute("SET LOCAL search_path = public")
        await conn.execute(step.up.encode())
        await conn.execute(
            "INSERT INTO operations.migrations (number, name, checksum, applied_at) VALUES (%s, %s, %s, %s)",
            (step.number, step.name, step.checksum, at),
        )
        await roles.regrant(conn)
    return f"{step.number:04} {step.name}: applied"


@asynccontextmanager
async def _explained(step: Migration) -> AsyncIterator[None]:
    """Say of a name that is taken that another program may have taken it."""
    try:
        yield
    except (errors.DuplicateTable, errors.DuplicateSchema, errors.DuplicateObject, errors.DuplicateFunction) as error:
        raise ConfigurationError(
            f"Migration {step.number:04} ({step.name}) cannot be applied: {first_line(error)}. The database seems to "
            "hold another program's tables. Make an empty database for Alpha Monday, and set DATABASE_URL to it."
        ) from None


async def _down(conn: AsyncConnection[Any], step: Migration) -> str:
    async with conn.transaction():
        await conn.execute(_PATIENCE)
        await conn.execute("SET LOCAL search_path = public")
        await conn.execute(step.down.encode())
        await conn.execute("DELETE FROM operations.migrations WHERE number = %s", (step.number,))
        if step.name == "queue":
            await conn.execute("DELETE FROM operations.queue_migrations")
        await roles.regrant(conn)
    return f"{step.number:04} {step.name}: taken back"


async def _queue(conn: AsyncConnection[Any], at: datetime) -> list[str]:
    """Install the queue's schema, or apply the files of the installed version that are not yet applied."""
    applied = {file for (file,) in await _rows(conn, "SELECT file FROM operations.queue_migrations")}
    missing = [file for file in queue_files() if file not in applied]
    if not missing:
        return []
    texts = [Path(migrations_path, file).read_text() for file in missing] if applied else [SchemaManager.get_schema()]
    if applied:
        await _refuse_another_than_the_owner(conn, f"apply {missing[0]} of the queue")
    async with conn.transaction():
        await conn.execute(_PATIENCE)
        await conn.execute("SET LOCAL search_path = queue")
        for text in texts:
            await conn.execute(text.encode())
        for file in missing:
            await conn.execute("INSERT INTO operations.queue_migrations (file, applied_at) VALUES (%s, %s)", (file, at))
        await roles.regrant(conn)
    return [f"queue: {', '.join(missing)}" if applied else "queue: installed"]


async def _rows(conn: AsyncConnection[Any], sql: str) -> list[tuple[Any, ...]]:
    return await (await conn.execute(sql.encode())).fetchall()
