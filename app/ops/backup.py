"""
A backup: the record, its journal and the ledger of requests in one file, as they stood at one moment.

The file is a ZIP archive that can be read without us: for each table a text, as Postgres's COPY writes it, and at the
end `manifest.json`, so that a file that was cut off has none. The queue is not in it: the jobs that the record needs
are deferred anew.

A restore inserts rows in the order in which they refer to each other, the journal's in theirs, and changes none. So no
guard of the record has to be switched off: each of them judges every row once more.
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
from app.database.advice import where
from app.database.rehearsed import CLOCK
from app.domain.calendar import Calendar
from app.domain.text import first_line
from app.errors import Misfit, Refused
from app.ops.in_use import refuse_in_use
from app.ops.verify import Database, Tell, verify
from app.store import checkpoints
from jobs import daily

FORMAT = 1
_RESTORE = "restore"  # how its session is called
MANIFEST = "manifest.json"

# A rehearsal's clock is what marks its record as made up, so it goes wherever that goes.
TOLD = "told.clock"

# What rows refer to comes before them.
TABLES = (
    TOLD,
    "public.closes",
    "public.splits",
    "public.batches",
    "public.picks",
    "public.checkpoints",
    "public.pick_checkpoint_metrics",
    "public.generations",
    "public.corrections",
    "public.journal",
    "operations.provider_requests",
)

_ABOUT = (
    "A backup of Alpha Monday: `alpha-monday restore` reads it. Each .tsv holds a table in the text format of "
    "PostgreSQL's COPY: a line with the columns' names, then a line for each row, a tab between columns, \\N for what "
    "there is not, and \\t, \\n, \\r and \\\\ for a tab, a line feed, a carriage return and a backslash."
)
_BLOCK = 1 << 16
_HEAD = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")

# What reading an archive raises when a byte of it is not what was written.
_DAMAGE = (BadZipFile, zlib.error, EOFError, RuntimeError, LookupError, ValueError, OSError, struct.error)


class Written(Struct, frozen=True):
    """What was written of a table: how many rows, and the SHA-256 of its file."""

    rows: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup holds, and of what: `head` is the newest entry's number and hash, `made_at` the moment."""

    about: str = _ABOUT
    format: int = FORMAT
    software: str
    made_at: datetime
    migration: int
    head: str | None
    tables: dict[str, Written]

    @property
    def rows(self) -> int:
        """Return how many rows it holds."""
        return sum(table.rows for table in self.tables.values())


class _Newer(Struct):
    """What every format says of itself."""

    format: int
    software: str


async def write(address: str, to: IO[bytes], at: datetime, tell: Tell) -> Manifest:
    """Write a backup of the database at `address`, all of it as it stands now. `tell` hears which table is next."""
    async with pools.snapshot(address, "backup") as conn:
        migration, present, tables = await _migration(conn, address), await _present(conn), {}
        with ZipFile(to, "w") as archive:
            for number, table in enumerate(present):
                tell("tables", number, len(present))
                with archive.open(_named(f"{table}.tsv", at), "w", force_zip64=True) as member:
                    tables[table] = await _copy_out(conn, table, member)
            head = await Database(conn).head()
            manifest = Manifest(
                software=version("alpha-monday"),
                made_at=at,
                migration=migration,
                head=f"{head[0]}:{head[1]}" if head else None,
                tables=tables,
            )
            archive.writestr(_named(MANIFEST, at), msgspec.json.format(msgspec.json.encode(manifest)))
    tell("tables", len(present), len(present))
    return manifest


async def restore(
    address: str,
    file: Path,
    at: datetime,
    tell: Tell,
    *,
    sessions: Calendar | None = None,
    unverified: bool = False,
) -> Manifest:
    """
    Fill the empty database at `address` from a backup, in one transaction: all of it, or nothing.

    The schema is brought to where the backup's was and, with the rows in it, up to date. Every byte is compared with
    the manifest before, and the record verified with the exchange's `sessions` after that, unless it is to be restored
    `unverified`.
    """
    with _opened(file) as archive:
        manifest = _checked(archive, file, tell)
        async with (
            pools.opened(pools.make_pool(address, size=1, name=_RESTORE)) as pool,
            pool.connection() as conn,
            conn.transaction(),
        ):
            await _refuse_full(conn)
            await migrations.bring(conn, at)
            await _refuse_full(conn)  # another restore, which was first to make the tables, may have filled them
            # A service that waits for its first Monday would go on, and not know in what. Another restore waits here.
            await refuse_in_use(conn, apart_from=_RESTORE)
            await migrations.bring(conn, at, manifest.migration)
            if TOLD in manifest.tables:
                await conn.execute(CLOCK)
            await _fill(conn, archive, file, manifest, tell)
            await migrations.bring(conn, at)
            await conn.execute("SET LOCAL search_path = public, queue")
            if not unverified:
                await _verify(conn, manifest, tell, sessions)
            await daily.defer(conn, await checkpoints.awaiting(conn, date.max))
    return manifest


async def _migration(conn: AsyncConnection[Any], address: str) -> int:
    """Return the number of the last migration; refuse a database that has none, or later tables than we know."""
    migration = await migrations.last(conn)
    if not migration:
        raise Refused(
            f"The database {where(address)} holds no record of Alpha Monday, not even its tables, so there is nothing "
            "to back up. Check that DATABASE_URL names the right database."
        )
    if migration > len(migrations.known()):
        raise Refused(
            f"The database has migration {migration:04}, which this version does not know: "
            "back it up with the version that applied it."
        )
    return migration


async def _present(conn: AsyncConnection[Any]) -> list[str]:
    """Return those of our tables that are there."""
    cursor = await conn.execute(
        "SELECT name FROM unnest(%s::text[]) WITH ORDINALITY known (name, place) "
        "WHERE to_regclass(name) IS NOT NULL ORDER BY place",
        (list(TABLES),),
    )
    return [name for (name,) in await cursor.fetchall()]


def _table(name: str) -> sql.Identifier:
    return sql.Identifier(*name.split("."))


def _named(name: str, at: datetime) -> ZipInfo:
    member = ZipInfo(name, at.timetuple()[:6])
    member.compress_type = ZIP_DEFLATED
    return member


async def _copy_out(conn: AsyncConnection[Any], table: str, member: IO[bytes]) -> Written:
    # By the first column, because the journal's guard takes its entries in their order.
    statement = sql.SQL("COPY (SELECT * FROM {} ORDER BY 1) TO STDOUT (HEADER, ENCODING 'UTF8')")
    digest = sha256()
    async with conn.cursor() as cursor:
        async with cursor.copy(statement.format(_table(table))) as lines:
            async for line in lines:
                digest.update(line)
                member.write(line)
        return Written(cursor.rowcount, digest.hexdigest())


@contextmanager
def _opened(file: Path) -> Iterator[ZipFile]:
    with file.open("rb") as opened:
        if opened.read(4) != b"PK\3\4":
            raise Refused(f"{file} is no backup of Alpha Monday. Nothing was restored.")
        try:
            archive = ZipFile(opened)
        except _DAMAGE:
            raise Refused(f"{file} was cut off or damaged: its end is missing. Nothing was restored.") from None
        with archive:
            yield archive


def _checked(archive: ZipFile, file: Path, tell: Tell) -> Manifest:
    """Return the manifest of an archive in which every byte of every table is what was written."""
    if MANIFEST not in archive.namelist():
        raise Refused(f"{file} has no {MANIFEST}: no backup of Alpha Monday, or one that never came to its end.")
    at = MANIFEST
    try:
        text = archive.read(MANIFEST)
        newer = msgspec.json.decode(text, type=_Newer)
        if newer.format != FORMAT:
            raise Refused(
                f"{file} has format {newer.format}, which this version does not read: "
                f"restore it with version {newer.software}, which wrote it."
            )
        manifest = msgspec.json.decode(text, type=Manifest)
        for number, (at, written) in enumerate(manifest.tables.items()):
            tell("tables compared", number, len(manifest.tables))
            with archive.open(f"{at}.tsv") as member:
                if _sum(member) != written.sha256:
                    raise BadZipFile
    except (*_DAMAGE, msgspec.MsgspecError):
        raise Refused(f"{file} is damaged: {at} is not what was written. Nothing was restored.") from None
    if manifest.migration > len(migrations.known()):
        raise Refused(
            f"{file} has migration {manifest.migration:04}, which this version does not know: "
            f"restore it with version {manifest.software}, which wrote it."
        )
    return manifest


def _sum(member: IO[bytes]) -> str:
    digest = sha256()
    while block := member.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


async def _refuse_full(conn: AsyncConnection[Any]) -> None:
    """Refuse a database that holds anything that a backup would, and let nobody write until we have."""
    there = await _present(conn)
    if TOLD in there:
        raise Refused("This database holds a rehearsal. Restore into an empty one: set DATABASE_URL to it.")
    for table in there:
        await conn.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(_table(table)))
        cursor = await conn.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(_table(table)))
        if await cursor.fetchone() is not None:
            raise Refused(
                f"This database is not empty: {table} holds rows. Nothing is ever written over: "
                "restore into an empty one, and set DATABASE_URL to it."
            )


async def _fill(conn: AsyncConnection[Any], archive: ZipFile, file: Path, manifest: Manifest, tell: Tell) -> None:
    there = await _present(conn)
    if set(there) != set(manifest.tables):
        odd = ", ".join(sorted(set(there) ^ set(manifest.tables)))
        raise Refused(f"{file} does not hold the tables of migration {manifest.migration:04}: {odd}.")
    for number, table in enumerate(there):
        tell("tables", number, len(there))
        try:
            if await _copy_in(conn, table, archive) != manifest.tables[table].rows:
                raise Refused(f"{file} is damaged: {table} has other rows than its manifest says.")
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            reason = first_line(error)
            raise Refused(f"{table} of {file} does not fit the record: {reason}. Nothing was restored.") from None
    await conn.execute(
        "SELECT setval(pg_get_serial_sequence('operations.provider_requests', 'id'), max(id)) "
        "FROM operations.provider_requests"
    )


async def _copy_in(conn: AsyncConnection[Any], table: str, archive: ZipFile) -> int:
    statement = sql.SQL("COPY {} FROM STDIN (HEADER MATCH, ENCODING 'UTF8')").format(_table(table))
    async with conn.cursor() as cursor:
        async with cursor.copy(statement) as copy:
            with archive.open(f"{table}.tsv") as member:
                while block := member.read(_BLOCK):
                    await copy.write(block)
        return cursor.rowcount


async def _verify(
    conn: AsyncConnection[Any],
    manifest: Manifest,
    tell: Tell,
    sessions: Calendar | None,
) -> None:
    head = _HEAD.fullmatch(manifest.head or "")
    try:
        await verify(Database(conn), [(int(head[1]), head[2])] if head else [], tell, sessions)
    except Misfit as error:
        raise Misfit(
            f"The backup does not verify, so nothing was restored. {error} `--unverified` restores it as it is."
        ) from None
