"""
Plain SQL migrations: `migrations/NNNN_name.up.sql` and `.down.sql`, and then the queue's own files.

Each migration runs in one transaction. A table of the schema `operations` lists the applied
migrations with a checksum, so that a later change of a file is noticed. Several processes may start
at the same time, because an advisory lock protects the schema: the first one migrates, and the
others then find nothing to do. If a process is killed, Postgres releases its lock, so no lock
remains.
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
from app.core.settings import find_url_variable
from app.database import roles
from app.database.advice import display_address, quote_identifier
from app.database.sessions import Session
from app.domain.text import first_line, pluralize
from app.errors import ConfigurationError

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.up\.sql")

# A function that is called before any migration is taken back. It gets the connection, which is
# then in the transaction that takes the migrations back.
Guard = Callable[[AsyncConnection[Any]], Awaitable[None]]

# The names of a table's columns, by the name of the table in the form schema.table.
Columns = dict[str, list[str]]

# The oldest major version of Postgres that is tested.
OLDEST = 15

# The name of this module's sessions in pg_stat_activity.
_NAME = "migrate"

# A statement that waits for a table's lock blocks all later queries of that table. So a migration
# waits at most ten seconds for a lock, and then fails. The operator runs it again.
_SET_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"

# The checksums of a migration's file before it was changed. The changed file makes the same tables:
# it only differs for data to which the former file could not be applied.
_FORMER_CHECKSUMS = {
    # It stopped at a damaged entry of the journal.
    25: {"98e26417e0b94911398084a10f80c095f55832de741223c8ec84f051c605d282"},
}

# Errors about a name that is in use already.
_NAME_IN_USE = (
    errors.DuplicateTable,
    errors.DuplicateSchema,
    errors.DuplicateObject,
    errors.DuplicateFunction,
)

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
    """A numbered migration, with the SQL to apply it (`up`) and to take it back (`down`)."""

    number: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        """Return the checksum of `up`, which the history stores."""
        return hashlib.sha256(self.up.encode()).hexdigest()


class Loss(Struct, frozen=True):
    """
    Data that is deleted when a migration is taken back.

    `count` is the number of deleted rows of `table`. If `column` is set, it is the number of values
    in the deleted column.
    """

    table: str
    column: str | None
    count: int

    def __str__(self) -> str:
        table = self.table.removeprefix("public.")
        if self.column is None:
            return f"{table}: {pluralize(self.count, 'row')}"
        return f"{table}.{self.column}: {pluralize(self.count, 'value')}"


class MigrationStatus(Struct, frozen=True):
    """A migration, and when it was applied; None if it was not."""

    number: int
    name: str
    applied_at: datetime | None


def folder() -> Path:
    """Return the folder of the migrations, in the installed package or in the checkout."""
    installed = Path(__file__).parent / "migrations"
    if installed.exists():
        return installed
    return Path(__file__).parents[2] / "migrations"


def load_migrations(where: Path | None = None) -> list[Migration]:
    """
    Return our migrations in order.

    Raises ConfigurationError if a number or a .down.sql file is missing.
    """
    migrations: list[Migration] = []
    for up in sorted((where or folder()).glob("*.up.sql")):
        match = _FILE_NAME.fullmatch(up.name)
        down = up.with_name(up.name.replace(".up.sql", ".down.sql"))
        if not match or int(match[1]) != len(migrations) + 1 or not down.exists():
            raise ConfigurationError(
                f"{up.name}: migrations are numbered without gaps, each with its .down.sql."
            )
        migration = Migration(
            number=int(match[1]), name=match[2], up=up.read_text(), down=down.read_text()
        )
        migrations.append(migration)
    return migrations


async def migrate(
    conninfo: str, at: datetime, down_to: int | None = None, guard: Guard | None = None
) -> list[str]:
    """
    Apply all missing migrations. With `down_to`, take back those with a number above `down_to`.

    Return a line for each migration that was applied or taken back. `at` is the time that the
    history stores, and `guard` is explained in `migrate_connection`. Raises ConfigurationError if
    the user, the database or its history does not allow the migration.
    """
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        return await migrate_connection(conn, at, down_to=down_to, guard=guard)


async def migrate_connection(
    conn: AsyncConnection[Any], at: datetime, down_to: int | None = None, guard: Guard | None = None
) -> list[str]:
    """
    Do what `migrate` does, on a connection.

    The connection may be in a transaction. Then all changes belong to that transaction, and the
    settings search_path and lock_timeout stay changed until it ends. The lock of migrations is held
    until the connection ends.

    All migrations are taken back in one transaction. `guard` is called in that transaction before
    the first migration is taken back, while no other process can migrate or start a service. If
    `guard` raises an error, no migration is taken back.
    """
    known = load_migrations()
    _refuse_unknown_number(down_to, known)
    _refuse_old_postgres(conn)
    await conn.execute("SELECT pg_advisory_lock(%s)", (Lock.MIGRATIONS,))
    # `_HISTORY` is executed only if its tables do not exist: even with IF NOT EXISTS, it needs the
    # right to create them.
    if not await _has_history(conn):
        await _require_owner(conn, "make the tables")
        await conn.execute(_HISTORY)
    applied = await _check_history(conn, known)
    if down_to is None:
        return await _apply_missing(conn, known, applied, at=at)
    _refuse_newer_history(applied, known)
    if down_to < applied:
        await _require_owner(conn, f"take migration {applied:04} back")
    steps = _steps_back(known, applied, down_to)
    async with conn.transaction():
        if guard is not None and steps:
            await guard(conn)
        return [await _take_back(conn, step) for step in steps]


async def _apply_missing(
    conn: AsyncConnection[Any], known: Sequence[Migration], applied: int, at: datetime
) -> list[str]:
    missing = [step for step in known if step.number > applied]
    if missing:
        first = missing[0]
        await _require_owner(conn, f"apply migration {first.number:04} ({first.name})")
    lines = [await _apply(conn, step, at) for step in missing]
    return lines + await _migrate_queue(conn, at)


async def require_owner(conninfo: str, what: str, setting: str = "MIGRATE_DATABASE_URL") -> None:
    """
    Raise ConfigurationError if the user of an address may not change the tables of the database.

    The message says that the user may not do `what`, and names `setting`, the setting that must
    have the owner's address.
    """
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        await _require_owner(conn, what, setting)


async def _require_owner(
    conn: AsyncConnection[Any], what: str, setting: str = "MIGRATE_DATABASE_URL"
) -> None:
    """
    Do what `require_owner` does, on a connection.

    If the table `operations.migrations` exists, the user must have the rights of its owner. If only
    the schema `operations` exists, as after `alpha-monday roles --apply`, the user must have the
    right to create tables in it.
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
    row = await cursor.fetchone()
    if row is None:
        return
    user, owner, has_tables = row
    database = display_address(conn.info.dsn)
    belongs = f"the schema operations of the database {database} belongs to {owner}"
    if has_tables:
        belongs = f"the tables of the database {database} belong to {owner}"
    raise ConfigurationError(
        f"The user {user} may not {what}: {belongs}. "
        f"Set {setting} to that user's address, or as an administrator run "
        f"GRANT {quote_identifier(owner)} TO {quote_identifier(user)};"
    )


async def preview_losses(conninfo: str, down_to: int) -> tuple[list[str], list[Loss]]:
    """
    Return the migrations that `migrate` would take back, and the data that this would delete.

    Nothing is changed. Raises ConfigurationError if `down_to` is not a known number, or if the user
    or the history of the database does not allow `migrate` to take the migrations back.
    """
    known = load_migrations()
    _refuse_unknown_number(down_to, known)
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", (Lock.MIGRATIONS,))
        if not await _has_history(conn):
            return [], []
        applied = await _check_history(conn, known)
        _refuse_newer_history(applied, known)
        if down_to < applied:
            await _require_owner(conn, f"take migration {applied:04} back")
        steps = _steps_back(known, applied, down_to)
        names = [f"{step.number:04} {step.name}" for step in steps]
        return names, await preview_losses_on(conn, down_to)


async def preview_losses_on(conn: AsyncConnection[Any], down_to: int) -> list[Loss]:
    """
    Return the data that would be deleted if the migrations after `down_to` were taken back.

    The caller holds the lock of migrations. The migrations are taken back in a transaction that is
    then rolled back: so the catalogue shows which tables and columns are dropped, and no SQL has to
    be interpreted.
    """
    async with conn.transaction(force_rollback=True):
        await conn.execute(_SET_LOCK_TIMEOUT)
        columns = await _list_columns(conn)
        rows = {table: await _count(conn, table) for table in columns}
        async with conn.transaction(force_rollback=True):
            applied = await get_last_applied(conn)
            for step in _steps_back(load_migrations(), applied, down_to):
                await _take_back(conn, step)
            columns_left = await _list_columns(conn)
            rows_left = {table: await _count(conn, table) for table in columns_left}

        losses = []
        for table in columns:
            deleted = rows[table] - rows_left.get(table, 0)
            losses.append(Loss(table=table, column=None, count=deleted))
        # Only now it is known which columns are dropped, and the rollback has restored them, so
        # their values can be counted.
        for table, names_left in columns_left.items():
            for column in columns.get(table, []):
                if column not in names_left:
                    values = await _count(conn, table, column)
                    losses.append(Loss(table=table, column=column, count=values))
    return [loss for loss in losses if loss.count > 0]


def _steps_back(known: Sequence[Migration], applied: int, down_to: int) -> list[Migration]:
    """Return the migrations to take back, newest first; `applied` is the last applied number."""
    return [step for step in reversed(known) if down_to < step.number <= applied]


def _refuse_old_postgres(conn: AsyncConnection[Any]) -> None:
    version = conn.info.server_version
    if version < OLDEST * 10_000:
        raise ConfigurationError(
            f"The database {display_address(conn.info.dsn)} runs Postgres {version // 10_000}, and "
            f"Alpha Monday needs {OLDEST} or newer. Set DATABASE_URL to a newer one."
        )


def _refuse_unknown_number(down_to: int | None, known: Sequence[Migration]) -> None:
    if down_to is not None and not 0 <= down_to <= len(known):
        raise ConfigurationError(f"--down-to takes a number from 0 to {len(known)}, not {down_to}.")


def _refuse_newer_history(applied: int, known: Sequence[Migration]) -> None:
    if applied > len(known):
        raise ConfigurationError(
            f"The database has migration {applied:04}, which this version does not know: "
            "take it back with the version that applied it."
        )


async def _has_history(conn: AsyncConnection[Any]) -> bool:
    cursor = await conn.execute(
        "SELECT to_regclass('operations.migrations') IS NOT NULL "
        "AND to_regclass('operations.queue_migrations') IS NOT NULL"
    )
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def _has_migrations_table(conn: AsyncConnection[Any]) -> bool:
    cursor = await conn.execute("SELECT to_regclass('operations.migrations') IS NOT NULL")
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def _list_columns(conn: AsyncConnection[Any]) -> Columns:
    """Return our tables with their columns, without the tables about migrations and roles."""
    columns: Columns = {}
    rows = await _fetch(
        conn,
        """
        SELECT nspname || '.' || relname, attname
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname IN ('public', 'queue', 'operations') AND relkind = 'r'
            AND attnum > 0 AND NOT attisdropped
            AND (nspname, relname) NOT IN (
                ('operations', 'migrations'), ('operations', 'queue_migrations'),
                ('operations', 'roles'))
        ORDER BY array_position(ARRAY['public', 'queue', 'operations']::name[], nspname),
            relname, attnum
        """,
    )
    for table, column in rows:
        columns.setdefault(table, []).append(column)
    return columns


async def _count(conn: AsyncConnection[Any], table: str, column: str | None = None) -> int:
    """Return the number of a table's rows, or of a column's values that are not null."""
    counted: sql.Composable = sql.SQL("*")
    if column is not None:
        counted = sql.Identifier(column)
    statement = sql.SQL("SELECT count({}) FROM {}").format(
        counted, sql.Identifier(*table.split("."))
    )
    cursor = await conn.execute(statement)
    (count,) = await cursor.fetchone() or (0,)
    return int(count)


async def status(conninfo: str) -> list[MigrationStatus]:
    """Return our migrations with the times at which they were applied. Nothing is changed."""
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        return await _status(conn)


async def _status(conn: AsyncConnection[Any]) -> list[MigrationStatus]:
    applied_at: dict[int, datetime] = {}
    if await _has_migrations_table(conn):
        rows = await _fetch(conn, "SELECT number, applied_at FROM operations.migrations")
        applied_at = dict(rows)
    return [
        MigrationStatus(number=step.number, name=step.name, applied_at=applied_at.get(step.number))
        for step in load_migrations()
    ]


async def get_last_applied(conn: AsyncConnection[Any]) -> int:
    """
    Return the number of the last applied migration; 0 if none is applied.

    The migration may belong to a newer version of the service, so that this version does not know
    it.
    """
    if not await _has_migrations_table(conn):
        return 0
    numbers = await _fetch(conn, "SELECT number FROM operations.migrations")
    return max((number for (number,) in numbers), default=0)


async def require_current(conninfo: str) -> None:
    """
    Raise ConfigurationError if the database lacks a migration.

    The error is also raised if Postgres is too old, or if another process still migrates or
    restores the database after ten seconds. A database with newer migrations is accepted, because
    every migration also works with the previous version of the code.
    """
    async with await Session.connect(conninfo, name=_NAME, autocommit=True) as conn:
        _refuse_old_postgres(conn)
        # If another process migrates, the second statement below waits for its end. A process that
        # begins to migrate later waits until this session ends. `alpha-monday migrate --down-to`
        # looks for sessions of a service while the command holds the lock of migrations. A service
        # opens its sessions before it calls this function. So either the command finds the service,
        # or this function finds that a migration is missing.
        try:
            await conn.execute("SET lock_timeout = '10s'")
            await conn.execute("SELECT pg_advisory_lock_shared(%s)", (Lock.MIGRATIONS,))
        except errors.LockNotAvailable:
            raise ConfigurationError(
                "Another process migrates or restores the database "
                f"{display_address(conninfo)}. Wait for its end, and try again."
            ) from None
        missing = [step for step in await _status(conn) if step.applied_at is None]
    if not missing:
        return
    first = missing[0]
    lacks = (
        f"The database {display_address(conninfo)} lacks migration {first.number:04} ({first.name})"
    )
    if first.number == 1:
        raise ConfigurationError(
            f"{lacks}. Run `alpha-monday migrate`, or `alpha-monday serve --migrate`, to make the "
            f"tables there. If it should have them, check {find_url_variable(conninfo)}."
        )
    raise ConfigurationError(
        f"{lacks}. Run `alpha-monday migrate`, or `alpha-monday serve --migrate`."
    )


def queue_files() -> list[str]:
    """Return the names of the migration files of the installed Procrastinate, in order."""
    return sorted(path.name for path in Path(migrations_path).glob("*.sql"))


async def _check_history(conn: AsyncConnection[Any], known: Sequence[Migration]) -> int:
    """
    Return the number of the last applied migration.

    Raises ConfigurationError if a file was changed after it was applied, or if a migration before
    the last applied one was never applied.
    """
    history = dict(await _fetch(conn, "SELECT number, checksum FROM operations.migrations"))
    for step in known:
        accepted = {step.checksum, *_FORMER_CHECKSUMS.get(step.number, ())}
        if history.get(step.number, step.checksum) not in accepted:
            raise ConfigurationError(
                f"Migration {step.number:04} ({step.name}) was changed after it was applied to "
                "this database. Restore the file, and put the change into a new migration."
            )
    last = max(history, default=0)
    for step in known:
        if step.number < last and step.number not in history:
            raise ConfigurationError(
                f"Migration {step.number:04} ({step.name}) was never applied to this database, but "
                f"{last:04} was. Restore a backup, or take the later ones back manually."
            )
    return last


async def _apply(conn: AsyncConnection[Any], step: Migration, at: datetime) -> str:
    async with conn.transaction(), _name_conflicts_explained(step):
        await conn.execute(_SET_LOCK_TIMEOUT)
        await conn.execute("SET LOCAL search_path = public")
        await conn.execute(step.up.encode())
        await conn.execute(
            "INSERT INTO operations.migrations (number, name, checksum, applied_at) "
            "VALUES (%s, %s, %s, %s)",
            (step.number, step.name, step.checksum, at),
        )
        await roles.regrant(conn)
    return f"{step.number:04} {step.name}: applied"


@asynccontextmanager
async def _name_conflicts_explained(step: Migration) -> AsyncIterator[None]:
    """Raise a ConfigurationError if a name that the migration needs is in use already."""
    try:
        yield
    except _NAME_IN_USE as error:
        raise ConfigurationError(
            f"Migration {step.number:04} ({step.name}) cannot be applied: {first_line(error)}. The "
            "database seems to hold another program's tables. Make an empty database for Alpha "
            "Monday, and set DATABASE_URL to it."
        ) from None


async def _take_back(conn: AsyncConnection[Any], step: Migration) -> str:
    async with conn.transaction():
        await conn.execute(_SET_LOCK_TIMEOUT)
        await conn.execute("SET LOCAL search_path = public")
        await conn.execute(step.down.encode())
        await conn.execute("DELETE FROM operations.migrations WHERE number = %s", (step.number,))
        # The migration `queue` created the schema of the queue's tables, so taking it back drops
        # these tables. Then none of the queue's files is applied any more.
        if step.name == "queue":
            await conn.execute("DELETE FROM operations.queue_migrations")
        await roles.regrant(conn)
    return f"{step.number:04} {step.name}: taken back"


async def _migrate_queue(conn: AsyncConnection[Any], at: datetime) -> list[str]:
    """Install the queue's schema if it is missing, otherwise apply the queue's missing files."""
    rows = await _fetch(conn, "SELECT file FROM operations.queue_migrations")
    applied = {file for (file,) in rows}
    missing = [file for file in queue_files() if file not in applied]
    if not missing:
        return []

    # The schema file of the installed Procrastinate contains the changes of all its migration
    # files.
    scripts = [SchemaManager.get_schema()]
    line = "queue: installed"
    if applied:
        await _require_owner(conn, f"apply {missing[0]} of the queue")
        scripts = [Path(migrations_path, file).read_text() for file in missing]
        line = f"queue: {', '.join(missing)}"

    async with conn.transaction():
        await conn.execute(_SET_LOCK_TIMEOUT)
        await conn.execute("SET LOCAL search_path = queue")
        for script in scripts:
            await conn.execute(script.encode())
        for file in missing:
            await conn.execute(
                "INSERT INTO operations.queue_migrations (file, applied_at) VALUES (%s, %s)",
                (file, at),
            )
        await roles.regrant(conn)
    return [line]


async def _fetch(conn: AsyncConnection[Any], query: str) -> list[tuple[Any, ...]]:
    cursor = await conn.execute(query.encode())
    return await cursor.fetchall()
