"""
`alpha-monday backup` and `restore`: a restore returns every row exactly, or writes nothing and
prints one line with the reason.
"""

import asyncio
import hashlib
import json
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import ZipFile

import psycopg
import pytest
from api_records import engine_on, plant
from commands import ALPHA_MONDAY, CommandResult, environment, run
from later_kinds import LATER_KINDS, append_later
from psycopg.conninfo import make_conninfo
from record_server import copy_of

from app.database import migrations, pools
from app.errors import Refused
from app.ops import backup as backing_up
from app.store.rehearsed import CREATE_CLOCK_TABLE
from tests.integration.api.test_persisted_operations import OPERATIONS, VARIABLES

NOW = datetime(2026, 2, 1, 17, 30, 0, 250, tzinfo=UTC)
RECORD = [table for table in backing_up.TABLES if table != backing_up.CLOCK_TABLE]

# Text that a format for tables could write or read wrongly.
STRANGE = 'a\tb\\tc\r\n\\.\n\\N\n"quoted", \\ , \x1f \u2028 \x7f naïve 株価 🚀 \\'


def contents(address: str, tables: list[str] = RECORD) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, as Postgres writes it."""
    with psycopg.connect(address) as conn:
        return {
            table: conn.execute(
                f'SELECT t::text FROM {table} t ORDER BY t::text COLLATE "C"'
            ).fetchall()
            for table in tables
        }


async def answers(address: str) -> dict[str, bytes]:
    """Return the API's responses to every persisted document."""
    async with pools.opened(pools.make_pool(address, max_size=2)) as pool:
        engine = engine_on(pool)
        return {
            name: (await engine.execute(text, VARIABLES.get(name))).body
            for name, text in OPERATIONS.items()
        }


def planted(address: str) -> None:
    """
    Write a record with every value that is hard to copy, and some requests. Its journal is
    incomplete.
    """
    plant(address)
    with psycopg.connect(address) as conn:
        conn.execute(
            "UPDATE generations SET accepted = false, refusal = '', answer = %s WHERE "
            "accepted IS NULL",
            [STRANGE],
        )
        conn.execute(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at, "
            "ended_at, outcome) "
            "SELECT 'alpha_vantage', 'TIME_SERIES_DAILY', %s, now() - n * interval '1 min', "
            "now(), 'answered' "
            "FROM generate_series(1, 7) n", [STRANGE]
        )  # fmt: skip


def holds_nothing(address: str) -> bool:
    """Return whether a database has not even a schema of ours."""
    with psycopg.connect(address) as conn:
        return (
            conn.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname IN ('operations', 'queue', 'told') "
                "UNION SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            ).fetchall()
            == []
        )


@pytest.fixture(scope="module")
def owned(server) -> Iterator[Callable[[], str]]:
    """Create databases whose owner has no other rights, as a managed Postgres does."""
    role, made = f"am_{uuid4().hex[:12]}", []

    def make() -> str:
        made.append(f"am_{uuid4().hex[:12]}")
        with psycopg.connect(server("postgres"), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {made[-1]} OWNER {role} TEMPLATE template0")
        return make_conninfo(server(made[-1]), user=role, password="known")

    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        conn.execute(
            f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD 'known'"
        )
    yield make
    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        for name in made:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        conn.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="module")
def begun(made_once, tmp_path_factory) -> str:
    """The address of a rehearsal that stopped in the middle of its first fortnight."""

    def rehearse(address: str) -> None:
        weeks = ("--weeks", 1, "--until", "2026-10-30", "--calm", "--no-serve")
        folder = tmp_path_factory.mktemp("rehearsal")
        done = run("rehearse", "--single", *weeks, cwd=folder, DATABASE_URL=address)
        assert done.returncode == 0, done.stderr

    return made_once("begun", rehearse)


@pytest.fixture
def backed_up(commanded, database, tmp_path) -> Path:
    """A backup of the planted record."""
    planted(database)
    file = tmp_path / "record.zip"
    assert commanded("backup", file, DATABASE_URL=database).exit_code == 0
    return file


@pytest.fixture
def restored(commanded, empty) -> Callable[..., CommandResult]:
    """Restore a file into the empty database."""
    return lambda file, *options: commanded("restore", file, *options, DATABASE_URL=empty)


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None], *, sums: bool = True) -> Path:
    """
    Return the same archive with other members; with `sums`, its manifest has the right
    checksums.
    """
    with ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if sums:
        manifest = json.loads(members[backing_up.MANIFEST])
        for table, entry in manifest["tables"].items():
            entry["sha256"] = hashlib.sha256(members[f"{table}.tsv"]).hexdigest()
        members[backing_up.MANIFEST] = json.dumps(manifest).encode()
    with ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_a_restored_record_equals_the_original(commanded, owned, tmp_path):
    """
    Every response is the same byte for byte, and every row digit for digit, for a role that
    owns only the databases.
    """
    there, back = owned(), owned()
    asyncio.run(migrations.migrate(there, NOW))
    planted(there)
    result = commanded("backup", tmp_path / "record.zip", DATABASE_URL=there)
    assert result.exit_code == 0, result.error
    assert "50 checkpoints, " in result.output
    assert "The head: " in result.output
    done = commanded("restore", tmp_path / "record.zip", "--unverified", DATABASE_URL=back)
    assert done.exit_code == 0, done.error
    assert done.output.split(": ", 1)[1].splitlines()[0] == result.output.split(": ", 1)[1].strip()
    before = asyncio.run(answers(there))
    assert len(before) == len(OPERATIONS)
    assert all(b'"errors"' not in body for body in before.values())
    assert asyncio.run(answers(back)) == before
    assert contents(back) == contents(there)
    with psycopg.connect(back) as conn:
        assert conn.execute("SELECT answer FROM generations WHERE refusal = ''").fetchall() == [
            (STRANGE,)
        ]


@pytest.mark.long
def test_a_restored_rehearsal_verifies_and_stays_a_rehearsal(
    begun, empty, commanded, restored, tmp_path
):
    """A restored rehearsal verifies as before, and no service accepts it as a live record."""
    assert commanded("backup", tmp_path / "rehearsal.zip", DATABASE_URL=begun).exit_code == 0
    done = restored(tmp_path / "rehearsal.zip")
    assert done.exit_code == 0, done.error
    assert "Everything fits." in done.output
    assert "all of it is made up" in done.error
    everything = list(backing_up.TABLES)
    assert contents(empty, everything) == contents(begun, everything)
    assert asyncio.run(answers(empty)) == asyncio.run(answers(begun))
    there, back = (commanded("verify", DATABASE_URL=address) for address in (begun, empty))
    assert (back.exit_code, back.output) == (0, there.output)
    keys = {"OPENAI_API_KEY": "sk-1", "ALPHA_VANTAGE_API_KEY": "A1"}
    live = run("serve", cwd=tmp_path, DATABASE_URL=empty, PORT="0", **keys)
    assert (live.returncode, "holds a rehearsal" in live.stderr) == (1, True)


def test_a_restored_record_continues_in_the_middle_of_a_fortnight(
    begun, empty, commanded, restored, tmp_path
):
    """The backup does not have the queue, but every checkpoint is taken at its own nine o'clock."""
    assert commanded("backup", tmp_path / "rehearsal.zip", DATABASE_URL=begun).exit_code == 0
    assert restored(tmp_path / "rehearsal.zip").exit_code == 0
    waiting = (
        "SELECT args, scheduled_at FROM queue.procrastinate_jobs WHERE status = 'todo' "
        "AND task_name = 'take_checkpoint' AND NOT args ? 'retake' ORDER BY scheduled_at, "
        "args::text"
    )
    with psycopg.connect(begun) as there, psycopg.connect(empty) as back:
        jobs = back.execute(waiting).fetchall()
        assert len(jobs) == 10
        assert jobs == there.execute(waiting).fetchall()
    on = run(
        "rehearse",
        "--single",
        "--until",
        "2026-11-03",
        "--calm",
        "--no-serve",
        cwd=tmp_path,
        DATABASE_URL=empty,
    )
    assert on.returncode == 0, on.stderr
    with psycopg.connect(empty) as back:
        taken = back.execute(
            "SELECT run_date::text, day, checkpoints.status, to_char(taken_at, 'DD HH24') "
            "FROM checkpoints JOIN batches ON batches.id = batch_id WHERE taken_at > '2026-10-31' "
            "ORDER BY checkpoint_date, run_date"
        ).fetchall()
    assert taken == [
        ("2026-10-26", 5, "computed", "31 13"),
        ("2026-10-26", 6, "skipped", "01 14"),
        ("2026-10-26", 7, "skipped", "02 14"),
        ("2026-11-02", 0, "computed", "02 14"),
        ("2026-10-26", 8, "computed", "03 14"),
        ("2026-11-02", 1, "computed", "03 14"),
    ]
    assert commanded("verify", DATABASE_URL=empty).exit_code == 0


async def test_a_backup_is_one_snapshot(database, empty, tmp_path):
    """Changes during a backup are in none of its tables."""
    planted(database)
    before = contents(database)

    def report_progress(what: str, done: int, total: int) -> None:
        if done == 3:  # some tables are written, others not
            with psycopg.connect(database) as conn:
                conn.execute("SET LOCAL session_replication_role = replica")
                for table in ("splits", "corrections", "journal", "operations.provider_requests"):
                    conn.execute(f"DELETE FROM {table}")
                conn.execute("UPDATE closes SET close = close + 1")

    with (tmp_path / "record.zip").open("wb") as to:
        manifest = await backing_up.write(
            address=database, output=to, now=NOW, report_progress=report_progress
        )
    assert contents(database) != before
    await backing_up.restore(
        address=empty,
        file=tmp_path / "record.zip",
        now=NOW,
        report_progress=lambda *_: None,
        unverified=True,
    )
    assert contents(empty) == before
    assert {table: entry.rows for table, entry in manifest.tables.items()} == {
        table: len(rows) for table, rows in before.items()
    }


def test_the_ledger_continues(backed_up, restored, empty):
    """A restored service knows which requests used up the day's quota, and continues the ledger."""
    assert restored(backed_up, "--unverified").exit_code == 0
    with psycopg.connect(empty) as conn:
        last, count = conn.execute(
            "SELECT max(id), count(*) FROM operations.provider_requests"
        ).fetchone()
        (new,) = conn.execute(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at) VALUES "
            "('a', 'b', 'c', now()) "
            "RETURNING id"
        ).fetchone()
    assert (count, new) == (7, last + 1)


@pytest.mark.parametrize(
    "migration", [pytest.param(8, id="before 0009"), pytest.param(13, id="of version 0.1.0")]
)
def test_an_older_backup_is_brought_up_to_date(
    commanded, empty, restored, create, tmp_path, migration
):
    """A backup from before a migration is restored into a database that has it."""
    older = create()
    asyncio.run(migrations.migrate(older, NOW))
    planted(older)
    asyncio.run(migrations.migrate(older, NOW, migration))
    assert commanded("backup", tmp_path / "older.zip", DATABASE_URL=older).exit_code == 0
    assert restored(tmp_path / "older.zip", "--unverified").exit_code == 0
    asyncio.run(migrations.require_current(empty))
    asyncio.run(migrations.migrate(older, NOW))
    assert contents(empty) == contents(older)


def test_entries_of_later_kinds_are_restored(begun, commanded, create, restored, empty, tmp_path):
    """The restored record fits, with entries of kinds that only later versions write."""
    copy = copy_of(begun, create)
    with psycopg.connect(copy) as conn:
        last = [append_later(conn, kind) for kind in LATER_KINDS][-1]
    assert commanded("backup", tmp_path / "later.zip", DATABASE_URL=copy).exit_code == 0
    result = restored(tmp_path / "later.zip")
    assert result.exit_code == 0, result.error
    assert f"The head: {last.seq}:{last.hash}" in result.output
    assert "Everything fits." in result.output
    assert contents(empty) == contents(copy)


def test_every_table_is_in_a_backup(database):
    """Every table of the record is in a backup; only the ledger has a sequence to restore."""
    with psycopg.connect(database) as conn:
        public = conn.execute(
            "SELECT 'public.' || tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        counting = conn.execute(
            "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns "
            "WHERE is_identity = 'YES' OR column_default LIKE 'nextval%'"
        ).fetchall()
    assert {table for (table,) in public} == {
        table for table in RECORD if table.startswith("public.")
    }
    assert [one for one in counting if one[0] in RECORD] == [("operations.provider_requests", "id")]


def test_a_backup_can_be_read_without_the_product(backed_up):
    """
    A backup is an archive of texts with a line for each row, and a manifest whose checksums any
    tool can verify.
    """
    with ZipFile(backed_up) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert archive.namelist() == [*(f"{table}.tsv" for table in RECORD), "manifest.json"]
        for table, entry in manifest["tables"].items():
            text = archive.read(f"{table}.tsv")
            assert hashlib.sha256(text).hexdigest() == entry["sha256"]
            assert text.count(b"\n") == entry["rows"] + 1
        header, first, *_ = archive.read("public.journal.tsv").decode().splitlines()
    assert header == "seq\tkind\tat\tcontent\tprevious\thash\tbatch_id"
    assert first.startswith("1\t")
    assert manifest["migration"] == len(migrations.load_migrations())
    assert "PostgreSQL" in manifest["about"]


def in_member(
    change: Callable[[bytes], bytes], table: str = "public.picks", **how: bool
) -> Callable[[Path], Path]:
    """Return a change of one table in a file."""
    name = f"{table}.tsv"
    return lambda file: rewritten(
        file, lambda members: members.update({name: change(members[name])}), **how
    )


def without(name: str) -> Callable[[Path], Path]:
    """Return a change that removes a member."""
    return lambda file: rewritten(file, lambda members: members.pop(name), sums=False)


def says(**members: object) -> Callable[[Path], Path]:
    """Return a change of the manifest."""
    name = backing_up.MANIFEST
    return lambda file: rewritten(
        file,
        lambda of: of.update({name: json.dumps(json.loads(of[name]) | members).encode()}),
        sums=False,
    )


DAMAGED = {
    "an empty file": (lambda file: file.write_bytes(b""), "is not a backup of Alpha Monday."),
    "a foreign file": (
        lambda file: file.write_text("CREATE TABLE"),
        "is not a backup of Alpha Monday.",
    ),
    "an incomplete archive": (without("manifest.json"), "has no manifest.json"),
    "a newer format": (
        says(format=2, software="9.9.9", tables=None),
        "has format 2, which this version does not read: restore it with version 9.9.9",
    ),
    "a newer schema": (
        says(migration=9999, software="9.9.9"),
        "has migration 9999, which this version does not know: restore it with version 9.9.9",
    ),
    "no schema": (says(migration=0), "does not hold the tables of migration 0000"),
    "another member": (
        in_member(lambda text: text + b"\n", sums=False),
        "is damaged: public.picks is not what was",
    ),
    "a missing member": (
        without("public.picks.tsv"),
        "is damaged: public.picks is not what was written.",
    ),
    "other columns": (
        in_member(lambda text: text.replace(b"ticker", b"tick", 1)),
        "public.picks of ",
    ),
    "deleted rows": (
        in_member(lambda text: text.split(b"\n")[0] + b"\n", "public.closes"),
        "is damaged: public.closes has another number of rows than its manifest says",
    ),
    "a row that breaks a constraint": (
        in_member(lambda text: text.replace(b"BUY", b"BYE")),
        "action_is_known",
    ),
}


@pytest.mark.parametrize(("damage", "line"), DAMAGED.values(), ids=DAMAGED)
def test_a_wrong_file_is_refused(damage, line, backed_up, restored, empty):
    """A wrong file is refused with one line, and not even a schema is created."""
    damage(backed_up)
    result = restored(backed_up, "--unverified")
    assert result.exit_code == 1
    assert line in result.error
    assert result.error.strip().count("\n") <= 2  # the database, the bar, and the line
    assert "Traceback" not in result.error
    assert holds_nothing(empty)


def test_a_cut_file_is_refused_wherever_it_was_cut(backed_up, restored, empty):
    whole = backed_up.read_bytes()
    for length in sorted({5, 30, len(whole) // 2, len(whole) - 100, len(whole) - 1}):
        backed_up.write_bytes(whole[:length])
        result = restored(backed_up)
        assert (result.exit_code, "was cut off or damaged" in result.error) == (1, True)
    assert holds_nothing(empty)


def test_a_changed_byte_is_noticed(backed_up):
    """A file with any changed byte is refused, unless that byte does not concern the record."""

    def read() -> list[bytes] | None:
        try:
            with backing_up._open_archive(backed_up) as archive:
                manifest = backing_up._read_manifest(archive, backed_up, lambda *_: None)
                return [archive.read(f"{table}.tsv") for table in manifest.tables] + [
                    archive.read(backing_up.MANIFEST)
                ]
        except Refused:
            return None

    whole, right, chosen = backed_up.read_bytes(), read(), random.Random(1)
    assert right
    # The directory of the archive: every byte of it belongs to a header.
    end = range(whole.index(b"PK\1\2"), len(whole))
    refused = 0
    for place in [*chosen.sample(range(end[0]), 300), *end]:
        backed_up.write_bytes(
            whole[:place] + bytes([whole[place] ^ chosen.randrange(1, 256)]) + whole[place + 1 :]
        )
        members = read()
        assert members in (None, right), place
        refused += members is None
    assert refused > 400


def test_a_backup_of_a_changed_record_is_refused(begun, commanded, restored, empty, tmp_path):
    """
    The journal shows a changed pick even if all checksums are right; only --unverified restores it.
    """
    file = tmp_path / "record.zip"
    assert commanded("backup", file, DATABASE_URL=begun).exit_code == 0

    def change(members: dict[str, bytes]) -> None:
        lines = members["public.picks.tsv"].split(b"\n")
        lines[1] = (
            lines[1]
            .replace(b"\tBUY\t", b"\tSAVE\t")
            .replace(b"\tSELL\t", b"\tBUY\t")
            .replace(b"SAVE", b"SELL")
        )
        members["public.picks.tsv"] = b"\n".join(lines)

    rewritten(file, change)
    result = restored(file)
    assert result.exit_code == 1
    assert "does not verify, so nothing was restored. The pick " in result.error
    assert holds_nothing(empty)
    assert restored(file, "--unverified").exit_code == 0
    assert commanded("verify", DATABASE_URL=empty).exit_code == 1


FULL = {
    "a batch": (
        "INSERT INTO batches (id, series, run_date, created_at, status, late, failure_reason, "
        "failure, benchmark_symbol) VALUES (gen_random_uuid(), 'main', '2026-01-05', now(), "
        "'failed', true, 'MISSED', 'x', 'SPY')"
    ),
    "an entry": (
        "INSERT INTO journal (seq, kind, at, content, previous, hash) SELECT 1, 'BATCH', "
        "now(), '{}', g, encode(sha256(convert_to(g || chr(10) || '{}', 'UTF8')), 'hex') "
        "FROM repeat('0', 64) g"
    ),
    "a reading": (
        "INSERT INTO closes VALUES (gen_random_uuid(), 'SPY', '2026-01-02', 1, 1, 'x', now())"
    ),
}


@pytest.mark.parametrize("what", FULL)
def test_a_database_with_data_is_refused(what, backed_up, create, commanded):
    """A database that is not empty is refused, and the message says what to do."""
    full = create()
    asyncio.run(migrations.migrate(full, NOW))
    with psycopg.connect(full) as conn:
        conn.execute(FULL[what])
    before = contents(full)
    result = commanded("restore", backed_up, "--unverified", DATABASE_URL=full)
    assert result.exit_code == 1
    assert "is not empty" in result.error
    assert "restore into an empty one" in result.error
    assert contents(full) == before


async def test_two_restores_at_once(backed_up, empty):
    """
    Of two restores the second waits for the first, and then reports that the database is not
    empty.
    """
    twice = [
        backing_up.restore(
            address=empty, file=backed_up, now=NOW, report_progress=lambda *_: None, unverified=True
        )
        for _ in range(2)
    ]
    made = await asyncio.gather(*twice, return_exceptions=True)
    (refused,) = (one for one in made if isinstance(one, Exception))
    assert "is not empty" in str(refused), refused


def test_a_live_record_is_not_restored_into_a_rehearsal(
    backed_up, commanded, empty, begun, tmp_path
):
    """A rehearsal is refused as the target, even if it has no rows."""
    with psycopg.connect(empty) as conn:
        conn.execute(CREATE_CLOCK_TABLE)
    for address in (empty, begun):
        result = commanded("restore", backed_up, "--unverified", DATABASE_URL=address)
        assert (result.exit_code, "holds a rehearsal" in result.error) == (1, True)


def test_a_running_service_must_be_stopped_first(backed_up, restored, empty):
    asyncio.run(migrations.migrate(empty, NOW))
    with psycopg.connect(empty) as conn:
        conn.execute("INSERT INTO queue.procrastinate_workers (last_heartbeat) VALUES (now())")
    result = restored(backed_up, "--unverified")
    assert (result.exit_code, "A service runs on this database. Stop it" in result.error) == (
        1,
        True,
    )
    with psycopg.connect(empty) as conn:
        conn.execute(
            "UPDATE queue.procrastinate_workers SET last_heartbeat = now() - interval '1 minute'"
        )
    assert restored(backed_up, "--unverified").exit_code == 0


def test_the_file_is_private_and_complete(commanded, database, tmp_path):
    """
    An existing file is not overwritten without an option, and an error leaves the old file and
    no other.
    """
    planted(database)
    file = tmp_path / "record.zip"
    assert commanded("backup", file, DATABASE_URL=database).exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = commanded("backup", file, DATABASE_URL=database)
    assert (again.exit_code, "--force" in again.error) == (1, True)
    old = file.read_bytes()
    lost = commanded("backup", file, "--force", DATABASE_URL="postgresql://user@127.0.0.1:1/none")
    assert (lost.exit_code, file.read_bytes()) == (1, old)
    link = tmp_path / "newest.zip"
    link.symlink_to(file)
    assert commanded("backup", link, "--force", DATABASE_URL=database).exit_code == 0
    assert link.is_symlink()
    assert file.read_bytes() != old
    nowhere = commanded("backup", "/dev/null", "--force", DATABASE_URL=database)
    assert (nowhere.exit_code, "/dev/null is not a file. Choose another name" in nowhere.error) == (
        1,
        True,
    )
    assert commanded("backup", tmp_path / "no" / "folder.zip", DATABASE_URL=database).exit_code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"record.zip", "newest.zip"}


def test_to_the_standard_output(backed_up, database, empty, commanded, tmp_path):
    """A pipe gets the same backup; a full disk or a closed pipe is reported in one line."""
    file = tmp_path / "piped.zip"
    with file.open("ab") as to:
        done = subprocess.run(
            [ALPHA_MONDAY, "backup", "-"], env=environment(DATABASE_URL=database), cwd=tmp_path,
            stdout=to,
            stderr=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    assert "Backed up: " in done.stderr
    with ZipFile(file) as piped, ZipFile(backed_up) as named:
        assert [piped.read(name) for name in piped.namelist()[:-1]] == [
            named.read(name) for name in named.namelist()[:-1]
        ]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [ALPHA_MONDAY, "backup", "-"], env=environment(DATABASE_URL=database), cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "The backup could not be written to -: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr
    refused = commanded("backup", "-", DATABASE_URL=empty)
    assert (refused.exit_code, refused.output) == (1, "")


def test_a_database_that_this_version_cannot_back_up(commanded, empty, create, tmp_path):
    """
    A database without a record is refused, and so is one of a later version, whose tables are
    unknown.
    """
    result = commanded("backup", tmp_path / "none.zip", DATABASE_URL=empty)
    assert (result.exit_code, "holds no record" in result.error) == (1, True)
    asyncio.run(migrations.migrate(empty, NOW))
    with psycopg.connect(empty) as conn:
        conn.execute("INSERT INTO operations.migrations VALUES (9999, 'later', '', now())")
    result = commanded("backup", tmp_path / "later.zip", DATABASE_URL=empty)
    assert (result.exit_code, "has migration 9999" in result.error) == (1, True)
    assert not list(tmp_path.iterdir())
