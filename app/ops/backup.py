"""
A backup: the record, its journal and the ledger of requests in one file, as of one moment.

The file is a ZIP archive, which can be read without Alpha Monday. It contains one text file for
each table, in the format of Postgres's COPY. Its last file is `manifest.json`, so an archive that
was cut off has no manifest. The backup does not contain the queue: a restore defers the jobs that
the record needs.

A restore inserts a row after the rows that the row refers to, and the entries of the journal in
the order of their numbers. It changes no row. The triggers that protect the record allow that. So
they stay switched on, and check every row again.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import msgspec
import psycopg
from msgspec import Struct
from psycopg import AsyncConnection, sql

from app.database import migrations, pools
from app.database.advice import display_address
from app.domain.calendar import Calendar
from app.domain.text import first_line
from app.errors import Discrepancy, Refused
from app.ops.in_use import refuse_in_use
from app.ops.verify import DatabaseRecord, ReportProgress, verify
from app.store import checkpoints, declarations
from app.store.rehearsed import CREATE_CLOCK_TABLE
from jobs import daily

FORMAT = 1
MANIFEST = "manifest.json"

# The name of a restore's session in Postgres.
_RESTORE = "restore"

# This table marks a record as made by a rehearsal, so it is always backed up with the record.
CLOCK_TABLE = "told.clock"

# The tables of a backup. A table comes after the tables that its rows refer to.
TABLES = (
    CLOCK_TABLE,
    "public.closes",
    "public.splits",
    "public.dividends",
    "public.rates",
    "public.batches",
    "public.picks",
    "public.checkpoints",
    "public.pick_checkpoint_metrics",
    "public.further_benchmarks",
    "public.generations",
    "public.corrections",
    "public.journal",
    "public.timestamps",
    "operations.provider_requests",
)

_ABOUT = (
    "A backup of Alpha Monday: `alpha-monday restore` reads it. Each .tsv holds a table in the "
    "text format of PostgreSQL's COPY: a line with the columns' names, then a line for each row, "
    "a tab between columns, \\N for what there is not, and \\t, \\n, \\r and \\\\ for a tab, "
    "a line feed, a carriage return and a backslash."
)
_BLOCK = 1 << 16
_HEAD = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")

# The errors that zipfile and the decoders raise when a byte of an archive has changed.
_DAMAGE_ERRORS = (
    BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    OSError,
    struct.error,
)


class BackedUpTable(Struct, frozen=True):
    """One table of a backup: its number of rows, and the SHA-256 of its file."""

    rows: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """
    What a backup contains.

    `head` is the number and the hash of the journal's newest entry, as `812:3f...`, and None for an
    empty journal. `made_at` is the time of the backup, `migration` the number of the database's
    last migration, and `software` the version that wrote the backup.
    """

    about: str = _ABOUT
    format: int = FORMAT
    software: str
    made_at: datetime
    migration: int
    head: str | None
    tables: dict[str, BackedUpTable]

    @property
    def rows(self) -> int:
        """Return the number of rows of all tables."""
        return sum(table.rows for table in self.tables.values())


class _AnyManifest(Struct):
    """The fields that the manifest of every format has."""

    format: int
    software: str


async def write(
    address: str, output: IO[bytes], now: datetime, report_progress: ReportProgress
) -> Manifest:
    """
    Write a backup of the database at `address`, as of one moment. Return its manifest.

    Raises Refused for a database without our tables, or with migrations that this version does not
    have.
    """
    async with pools.snapshot(address, "backup") as conn:
        migration = await _last_migration(conn, address)
        names = await _existing_tables(conn)
        tables = {}
        with ZipFile(output, "w") as archive:
            for number, table in enumerate(names):
                report_progress("tables", number, len(names))
                member_info = _member_info(f"{table}.tsv", now)
                with archive.open(member_info, "w", force_zip64=True) as member:
                    tables[table] = await _copy_out(conn, table, member)
            head = await DatabaseRecord(conn).head()
            manifest = Manifest(
                software=version("alpha-monday"),
                made_at=now,
                migration=migration,
                head=f"{head[0]}:{head[1]}" if head else None,
                tables=tables,
            )
            text = msgspec.json.format(msgspec.json.encode(manifest))
            archive.writestr(_member_info(MANIFEST, now), text)
    report_progress("tables", len(names), len(names))
    return manifest


async def restore(
    address: str,
    file: Path,
    now: datetime,
    report_progress: ReportProgress,
    *,
    sessions: Calendar | None = None,
    unverified: bool = False,
) -> Manifest:
    """
    Fill the empty database at `address` from a backup, in one transaction. Return the manifest.

    1. Every byte of the tables' files is compared with the manifest.
    2. The schema is migrated to the backup's migration, and the rows are inserted.
    3. The migrations after the backup's are applied.
    4. The record is verified with the exchange's `sessions`, unless `unverified` is set.
    5. The jobs of the checkpoints that the record still needs are deferred.

    Raises Refused if the file or the database cannot be used, and Discrepancy if the record does
    not verify. In both cases nothing is restored.
    """
    with _open_archive(file) as archive:
        manifest = _read_manifest(archive, file, report_progress)
        async with (
            pools.opened(pools.make_pool(address, max_size=1, name=_RESTORE)) as pool,
            pool.connection() as conn,
            conn.transaction(),
        ):
            await _prepare_schema(conn, manifest, now)
            await _fill(
                conn=conn,
                archive=archive,
                file=file,
                manifest=manifest,
                report_progress=report_progress,
            )
            await migrations.migrate_connection(conn, now)
            await conn.execute("SET LOCAL search_path = public, queue")
            if not unverified:
                await _verify(conn, manifest, report_progress=report_progress, sessions=sessions)
            await daily.defer_checkpoints(conn, await checkpoints.list_due(conn, date.max))
    return manifest


async def _prepare_schema(conn: AsyncConnection[Any], manifest: Manifest, now: datetime) -> None:
    """
    Migrate an empty database to the migration of a backup.

    Raises Refused if the database has rows, or if a service uses it.
    """
    await _refuse_filled(conn)
    # This creates the tables, which are then locked against another restore. Afterwards the schema
    # goes back to the migration of the backup.
    await migrations.migrate_connection(conn, now)
    # Checked again, because another restore may have created and filled the tables before this one
    # could lock them.
    await _refuse_filled(conn)
    # A service that waits for its first Monday has stored no rows yet. Without this check it would
    # continue with the restored record. Another restore waits for the locks, so its session does
    # not count.
    await refuse_in_use(conn, ignore=_RESTORE)
    await migrations.migrate_connection(conn, now, manifest.migration)
    if CLOCK_TABLE in manifest.tables:
        await conn.execute(CREATE_CLOCK_TABLE)


async def _last_migration(conn: AsyncConnection[Any], address: str) -> int:
    """
    Return the number of the last applied migration.

    Raises Refused for a database without our tables, or with migrations that this version does not
    have.
    """
    migration = await migrations.get_last_applied(conn)
    if not migration:
        raise Refused(
            f"The database {display_address(address)} holds no record of Alpha Monday, not even "
            "its tables, so there is nothing to back up. Check that DATABASE_URL is set and "
            "names the right database."
        )
    if migration > len(migrations.load_migrations()):
        raise Refused(
            f"The database has migration {migration:04}, which this version does not know: "
            "back it up with the version that applied it."
        )
    return migration


async def _existing_tables(conn: AsyncConnection[Any]) -> list[str]:
    """Return the tables of TABLES that exist, in the order of TABLES."""
    cursor = await conn.execute(
        "SELECT name FROM unnest(%s::text[]) WITH ORDINALITY known (name, place) "
        "WHERE to_regclass(name) IS NOT NULL ORDER BY place",
        (list(TABLES),),
    )
    return [name for (name,) in await cursor.fetchall()]


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


def _member_info(name: str, modified_at: datetime) -> ZipInfo:
    member = ZipInfo(name, modified_at.timetuple()[:6])
    member.compress_type = ZIP_DEFLATED
    return member


async def _copy_out(conn: AsyncConnection[Any], table: str, member: IO[bytes]) -> BackedUpTable:
    """Copy a table into a file of the archive."""
    # Ordered by the first column, which is the number of an entry in the journal's table. A trigger
    # of this table accepts entries only in the order of their numbers.
    statement = sql.SQL("COPY (SELECT * FROM {} ORDER BY 1) TO STDOUT (HEADER, ENCODING 'UTF8')")
    digest = sha256()
    async with conn.cursor() as cursor:
        async with cursor.copy(statement.format(_identifier(table))) as lines:
            async for line in lines:
                digest.update(line)
                member.write(line)
        return BackedUpTable(cursor.rowcount, digest.hexdigest())


@contextmanager
def _open_archive(file: Path) -> Iterator[ZipFile]:
    with file.open("rb") as opened:
        if opened.read(4) != b"PK\3\4":
            raise Refused(f"{file} is not a backup of Alpha Monday. Nothing was restored.")
        try:
            archive = ZipFile(opened)
        except _DAMAGE_ERRORS:
            raise Refused(
                f"{file} was cut off or damaged: its end is missing. Nothing was restored."
            ) from None
        with archive:
            yield archive


def _read_manifest(archive: ZipFile, file: Path, report_progress: ReportProgress) -> Manifest:
    """Compare every byte of the archive's tables with its manifest, and return the manifest."""
    if MANIFEST not in archive.namelist():
        raise Refused(
            f"{file} has no {MANIFEST}: it is not a backup of Alpha Monday, or it is incomplete."
        )
    # The part that is being read, for the message about damage.
    part = MANIFEST
    try:
        text = archive.read(MANIFEST)
        _refuse_other_format(text, file)
        manifest = msgspec.json.decode(text, type=Manifest)
        for number, (part, table) in enumerate(manifest.tables.items()):
            report_progress("tables compared", number, len(manifest.tables))
            with archive.open(f"{part}.tsv") as member:
                if _sha256_of(member) != table.sha256:
                    raise BadZipFile
    except (*_DAMAGE_ERRORS, msgspec.MsgspecError):
        raise Refused(
            f"{file} is damaged: {part} is not what was written. Nothing was restored."
        ) from None
    if manifest.migration > len(migrations.load_migrations()):
        raise Refused(
            f"{file} has migration {manifest.migration:04}, which this version does not know: "
            f"restore it with version {manifest.software}, which wrote it."
        )
    return manifest


def _refuse_other_format(text: bytes, file: Path) -> None:
    manifest = msgspec.json.decode(text, type=_AnyManifest)
    if manifest.format != FORMAT:
        raise Refused(
            f"{file} has format {manifest.format}, which this version does not read: "
            f"restore it with version {manifest.software}, which wrote it."
        )


def _sha256_of(member: IO[bytes]) -> str:
    digest = sha256()
    while block := member.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


async def _refuse_filled(conn: AsyncConnection[Any]) -> None:
    """
    Raise Refused if this database has rows in a table of a backup, or if it holds a rehearsal.

    The tables are locked against writes until the end of the transaction.
    """
    tables = await _existing_tables(conn)
    if CLOCK_TABLE in tables:
        raise Refused(
            "This database holds a rehearsal. Restore into an empty one: set DATABASE_URL to it."
        )
    for table in tables:
        await conn.execute(
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(_identifier(table))
        )
        cursor = await conn.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(_identifier(table)))
        if await cursor.fetchone() is not None:
            raise Refused(
                f"This database is not empty: {table} holds rows. A restore never overwrites rows: "
                "restore into an empty one, and set DATABASE_URL to it."
            )


async def _fill(
    *,
    conn: AsyncConnection[Any],
    archive: ZipFile,
    file: Path,
    manifest: Manifest,
    report_progress: ReportProgress,
) -> None:
    """Insert the rows of all tables."""
    tables = await _existing_tables(conn)
    if set(tables) != set(manifest.tables):
        different = ", ".join(sorted(set(tables) ^ set(manifest.tables)))
        raise Refused(
            f"{file} does not hold the tables of migration {manifest.migration:04}: {different}."
        )
    # Otherwise Postgres would refuse the entries after the GENESIS, as those of an older version.
    await declarations.declare_version(conn)
    for number, table in enumerate(tables):
        report_progress("tables", number, len(tables))
        try:
            rows = await _copy_in(conn, table, archive)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise Refused(
                f"{table} of {file} does not fit the record: {first_line(error)}. "
                "Nothing was restored."
            ) from None
        if rows != manifest.tables[table].rows:
            raise Refused(
                f"{file} is damaged: {table} has another number of rows than its manifest says."
            )
    # The next request must get an id that the backup does not have.
    await conn.execute(
        "SELECT setval(pg_get_serial_sequence('operations.provider_requests', 'id'), max(id)) "
        "FROM operations.provider_requests"
    )


async def _copy_in(conn: AsyncConnection[Any], table: str, archive: ZipFile) -> int:
    """Insert the rows of one table. Return their number."""
    statement = sql.SQL("COPY {} FROM STDIN (HEADER MATCH, ENCODING 'UTF8')")
    async with conn.cursor() as cursor:
        async with cursor.copy(statement.format(_identifier(table))) as copy:
            with archive.open(f"{table}.tsv") as member:
                while block := member.read(_BLOCK):
                    await copy.write(block)
        return cursor.rowcount


async def _verify(
    conn: AsyncConnection[Any],
    manifest: Manifest,
    *,
    report_progress: ReportProgress,
    sessions: Calendar | None,
) -> None:
    """Verify the restored record, and that its journal contains the head of the backup."""
    heads = []
    if match := _HEAD.fullmatch(manifest.head or ""):
        heads.append((int(match[1]), match[2]))
    try:
        await verify(
            source=DatabaseRecord(conn),
            heads=heads,
            report_progress=report_progress,
            sessions=sessions,
        )
    except Discrepancy as error:
        raise Discrepancy(
            f"The backup does not verify, so nothing was restored. {error} "
            "`--unverified` restores it without this check."
        ) from None
