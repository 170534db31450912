"""`alpha-monday backup` and `restore`: what comes back is what was there, or nothing comes back and a line says why."""

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
from commands import ALPHA_MONDAY, Said, environment, run
from psycopg.conninfo import make_conninfo
from test_api_operations import OPERATIONS, VARIABLES

from app.database import migrations, pools
from app.database.rehearsed import CLOCK
from app.errors import Refused
from app.ops import backup as backing_up

NOW = datetime(2026, 2, 1, 17, 30, 0, 250, tzinfo=UTC)
RECORD = [table for table in backing_up.TABLES if table != backing_up.TOLD]

# What text may hold that a format for tables could trip over.
STRANGE = 'a\tb\\tc\r\n\\.\n\\N\n"quoted", \\ , \x1f \u2028 \x7f naïve 株価 🚀 \\'


def contents(address: str, tables: list[str] = RECORD) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, as Postgres writes it."""
    with psycopg.connect(address) as conn:
        return {
            table: conn.execute(f'SELECT t::text FROM {table} t ORDER BY t::text COLLATE "C"').fetchall()
            for table in tables
        }


async def answers(address: str) -> dict[str, bytes]:
    """What the API says to every document that people need."""
    async with pools.opened(pools.make_pool(address, size=2)) as pool:
        engine = engine_on(pool)
        return {name: (await engine.answer(text, VARIABLES.get(name))).body for name, text in OPERATIONS.items()}


def planted(address: str) -> None:
    """Write a record with everything in it that is hard to carry, and some requests. Its journal is not a whole one."""
    plant(address)
    with psycopg.connect(address) as conn:
        conn.execute(
            "UPDATE generations SET accepted = false, refusal = '', answer = %s WHERE accepted IS NULL", [STRANGE]
        )
        conn.execute(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at, ended_at, outcome) "
            "SELECT 'alpha_vantage', 'TIME_SERIES_DAILY', %s, now() - n * interval '1 min', now(), 'answered' "
            "FROM generate_series(1, 7) n", [STRANGE]
        )  # fmt: skip


def holds_nothing(address: str) -> bool:
    """Whether not even a schema was left."""
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
    """Make databases whose owner may nothing else: what a managed Postgres gives."""
    role, made = f"am_{uuid4().hex[:12]}", []

    def make() -> str:
        made.append(f"am_{uuid4().hex[:12]}")
        with psycopg.connect(server("postgres"), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {made[-1]} OWNER {role} TEMPLATE template0")
        return make_conninfo(server(made[-1]), user=role, password="known")

    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD 'known'")
    yield make
    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        for name in made:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        conn.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="module")
def begun(create, tmp_path_factory) -> str:
    """A rehearsal that stopped in the middle of its first fortnight; the address of its database."""
    address, folder = create(), tmp_path_factory.mktemp("rehearsal")
    done = run(
        "rehearse", "--weeks", 1, "--until", "2026-10-30", "--calm", "--no-serve", cwd=folder, DATABASE_URL=address
    )
    assert done.returncode == 0, done.stderr
    return address


@pytest.fixture
def backed_up(commanded, database, tmp_path) -> Path:
    """A backup of the planted record."""
    planted(database)
    file = tmp_path / "record.zip"
    assert commanded("backup", file, DATABASE_URL=database).code == 0
    return file


@pytest.fixture
def restored(commanded, empty) -> Callable[..., Said]:
    """Restore a file into the empty database."""
    return lambda file, *options: commanded("restore", file, *options, DATABASE_URL=empty)


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None], *, sums: bool = True) -> Path:
    """The same archive with other members; with `sums`, a manifest that fits them."""
    with ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if sums:
        manifest = json.loads(members[backing_up.MANIFEST])
        for table, written in manifest["tables"].items():
            written["sha256"] = hashlib.sha256(members[f"{table}.tsv"]).hexdigest()
        members[backing_up.MANIFEST] = json.dumps(manifest).encode()
    with ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_what_comes_back_is_what_was_there(commanded, owned, tmp_path):
    """Every answer byte for byte, every row digit for digit, for a role that owns the databases and nothing else."""
    there, back = owned(), owned()
    asyncio.run(migrations.migrate(there, NOW))
    planted(there)
    said = commanded("backup", tmp_path / "record.zip", DATABASE_URL=there)
    assert said.code == 0, said.err
    assert "50 checkpoints, " in said.out
    assert "The head: " in said.out
    done = commanded("restore", tmp_path / "record.zip", "--unverified", DATABASE_URL=back)
    assert done.code == 0, done.err
    assert done.out.split(": ", 1)[1].splitlines()[0] == said.out.split(": ", 1)[1].strip()
    before = asyncio.run(answers(there))
    assert len(before) == len(OPERATIONS)
    assert all(b'"errors"' not in body for body in before.values())
    assert asyncio.run(answers(back)) == before
    assert contents(back) == contents(there)
    with psycopg.connect(back) as conn:
        assert conn.execute("SELECT answer FROM generations WHERE refusal = ''").fetchall() == [(STRANGE,)]


def test_a_rehearsal_comes_back_verified_and_marked(begun, empty, commanded, restored, tmp_path):
    """It verifies as it did, and no service takes it for a live record."""
    assert commanded("backup", tmp_path / "rehearsal.zip", DATABASE_URL=begun).code == 0
    done = restored(tmp_path / "rehearsal.zip")
    assert done.code == 0, done.err
    assert "Everything fits." in done.out
    assert "all of it is made up" in done.err
    everything = list(backing_up.TABLES)
    assert contents(empty, everything) == contents(begun, everything)
    assert asyncio.run(answers(empty)) == asyncio.run(answers(begun))
    there, back = (commanded("verify", DATABASE_URL=address) for address in (begun, empty))
    assert (back.code, back.out) == (0, there.out)
    keys = {"OPENAI_API_KEY": "sk-1", "ALPHA_VANTAGE_API_KEY": "A1"}
    live = run("serve", cwd=tmp_path, DATABASE_URL=empty, PORT="0", **keys)
    assert (live.returncode, "holds a rehearsal" in live.stderr) == (1, True)


def test_it_goes_on_from_the_middle_of_a_fortnight(begun, empty, commanded, restored, tmp_path):
    """The queue was not in it, and yet every morning comes, at its own nine o'clock."""
    assert commanded("backup", tmp_path / "rehearsal.zip", DATABASE_URL=begun).code == 0
    assert restored(tmp_path / "rehearsal.zip").code == 0
    waiting = (
        "SELECT args, scheduled_at FROM queue.procrastinate_jobs WHERE status = 'todo' "
        "AND task_name = 'take_checkpoint' AND NOT args ? 'retake' ORDER BY scheduled_at, args::text"
    )
    with psycopg.connect(begun) as there, psycopg.connect(empty) as back:
        jobs = back.execute(waiting).fetchall()
        assert len(jobs) == 10
        assert jobs == there.execute(waiting).fetchall()
    on = run("rehearse", "--until", "2026-11-03", "--calm", "--no-serve", cwd=tmp_path, DATABASE_URL=empty)
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
    assert commanded("verify", DATABASE_URL=empty).code == 0


async def test_it_is_one_moment(database, empty, tmp_path):
    """What is recorded while a backup is written is in none of its tables."""
    planted(database)
    before = contents(database)

    def tell(what: str, done: int, total: int) -> None:
        if done == 3:  # some tables are written, others not
            with psycopg.connect(database) as conn:
                conn.execute("SET LOCAL session_replication_role = replica")
                for table in ("splits", "corrections", "journal", "operations.provider_requests"):
                    conn.execute(f"DELETE FROM {table}")
                conn.execute("UPDATE closes SET close = close + 1")

    with (tmp_path / "record.zip").open("wb") as to:
        manifest = await backing_up.write(database, to, NOW, tell)
    assert contents(database) != before
    await backing_up.restore(empty, tmp_path / "record.zip", NOW, lambda *_: None, unverified=True)
    assert contents(empty) == before
    assert {table: written.rows for table, written in manifest.tables.items()} == {
        table: len(found) for table, found in before.items()
    }


def test_the_ledger_goes_on(backed_up, restored, empty):
    """A restored service knows what the day's quota was spent on, and writes on after it."""
    assert restored(backed_up, "--unverified").code == 0
    with psycopg.connect(empty) as conn:
        last, count = conn.execute("SELECT max(id), count(*) FROM operations.provider_requests").fetchone()
        (new,) = conn.execute(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at) VALUES ('a', 'b', 'c', now()) "
            "RETURNING id"
        ).fetchone()
    assert (count, new) == (7, last + 1)


def test_an_older_backup_is_brought_up_to_date(commanded, empty, restored, create, tmp_path):
    """One from before a migration comes back into a database with it."""
    older = create()
    asyncio.run(migrations.migrate(older, NOW))
    planted(older)
    asyncio.run(migrations.migrate(older, NOW, 8))
    assert commanded("backup", tmp_path / "older.zip", DATABASE_URL=older).code == 0
    assert restored(tmp_path / "older.zip", "--unverified").code == 0
    asyncio.run(migrations.refuse_old(empty))
    asyncio.run(migrations.migrate(older, NOW))
    assert contents(empty) == contents(older)


def test_nothing_is_forgotten(database):
    """Every table of the record is in a backup, and only the ledger counts by itself."""
    with psycopg.connect(database) as conn:
        public = conn.execute("SELECT 'public.' || tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        counting = conn.execute(
            "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns "
            "WHERE is_identity = 'YES' OR column_default LIKE 'nextval%'"
        ).fetchall()
    assert {table for (table,) in public} == {table for table in RECORD if table.startswith("public.")}
    assert [one for one in counting if one[0] in RECORD] == [("operations.provider_requests", "id")]


def test_it_can_be_read_without_us(backed_up):
    """It is an archive of texts with a line for each row, and a manifest whose sums any tool can check."""
    with ZipFile(backed_up) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert archive.namelist() == [*(f"{table}.tsv" for table in RECORD), "manifest.json"]
        for table, written in manifest["tables"].items():
            text = archive.read(f"{table}.tsv")
            assert hashlib.sha256(text).hexdigest() == written["sha256"]
            assert text.count(b"\n") == written["rows"] + 1
        header, first, *_ = archive.read("public.journal.tsv").decode().splitlines()
    assert header == "seq\tkind\tat\tcontent\tprevious\thash\tbatch_id"
    assert first.startswith("1\t")
    assert manifest["migration"] == len(migrations.known())
    assert "PostgreSQL" in manifest["about"]


def in_member(change: Callable[[bytes], bytes], table: str = "public.picks", **how: bool) -> Callable[[Path], Path]:
    """Change what a file says of a table."""
    name = f"{table}.tsv"
    return lambda file: rewritten(file, lambda members: members.update({name: change(members[name])}), **how)


def without(name: str) -> Callable[[Path], Path]:
    """Take a member out."""
    return lambda file: rewritten(file, lambda members: members.pop(name), sums=False)


def says(**members: object) -> Callable[[Path], Path]:
    """Let the manifest say something else."""
    name = backing_up.MANIFEST
    return lambda file: rewritten(
        file, lambda of: of.update({name: json.dumps(json.loads(of[name]) | members).encode()}), sums=False
    )


DAMAGED = {
    "an empty file": (lambda file: file.write_bytes(b""), "is no backup of Alpha Monday."),
    "a foreign file": (lambda file: file.write_text("CREATE TABLE"), "is no backup of Alpha Monday."),
    "an archive that never came to its end": (without("manifest.json"), "has no manifest.json"),
    "a newer format": (
        says(format=2, software="9.9.9", tables=None),
        "has format 2, which this version does not read: restore it with version 9.9.9",
    ),
    "a newer schema": (
        says(migration=9999, software="9.9.9"),
        "has migration 9999, which this version does not know: restore it with version 9.9.9",
    ),
    "no schema": (says(migration=0), "does not hold the tables of migration 0000"),
    "another member": (in_member(lambda text: text + b"\n", sums=False), "is damaged: public.picks is not what was"),
    "no such member": (without("public.picks.tsv"), "is damaged: public.picks is not what was written."),
    "other columns": (in_member(lambda text: text.replace(b"ticker", b"tick", 1)), "public.picks of "),
    "rows taken out": (
        in_member(lambda text: text.split(b"\n")[0] + b"\n", "public.closes"),
        "is damaged: public.closes has other rows than its manifest says",
    ),
    "a row that no guard lets in": (in_member(lambda text: text.replace(b"BUY", b"BYE")), "action_is_known"),
}


@pytest.mark.parametrize(("damage", "line"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_is_not_right_is_one_line(damage, line, backed_up, restored, empty):
    """And not even a schema is left behind."""
    damage(backed_up)
    said = restored(backed_up, "--unverified")
    assert said.code == 1
    assert line in said.err
    assert said.err.strip().count("\n") <= 2  # the database, the bar, and the line
    assert "Traceback" not in said.err
    assert holds_nothing(empty)


def test_a_cut_file_is_refused_wherever_it_was_cut(backed_up, restored, empty):
    whole = backed_up.read_bytes()
    for length in sorted({5, 30, len(whole) // 2, len(whole) - 100, len(whole) - 1}):
        backed_up.write_bytes(whole[:length])
        said = restored(backed_up)
        assert (said.code, "was cut off or damaged" in said.err) == (1, True)
    assert holds_nothing(empty)


def test_no_changed_byte_goes_unnoticed(backed_up):
    """Whichever byte is another one, the file is refused, or it was one that says nothing of the record."""

    def read() -> list[bytes] | None:
        try:
            with backing_up._opened(backed_up) as archive:
                manifest = backing_up._checked(archive, backed_up, lambda *_: None)
                return [archive.read(f"{table}.tsv") for table in manifest.tables] + [archive.read(backing_up.MANIFEST)]
        except Refused:
            return None

    whole, right, chosen = backed_up.read_bytes(), read(), random.Random(1)
    assert right
    end = range(whole.index(b"PK\1\2"), len(whole))  # the directory, in which every byte is a header's
    refused = 0
    for place in [*chosen.sample(range(end[0]), 300), *end]:
        backed_up.write_bytes(whole[:place] + bytes([whole[place] ^ chosen.randrange(1, 256)]) + whole[place + 1 :])
        found = read()
        assert found in (None, right), place
        refused += found is None
    assert refused > 400


def test_a_backup_of_a_changed_record_is_not_restored_unasked(begun, commanded, restored, empty, tmp_path):
    """Checksums that fit do not help whoever changes a price: the journal says otherwise."""
    file = tmp_path / "record.zip"
    assert commanded("backup", file, DATABASE_URL=begun).code == 0

    def change(members: dict[str, bytes]) -> None:
        lines = members["public.picks.tsv"].split(b"\n")
        lines[1] = lines[1].replace(b"\tBUY\t", b"\tSAVE\t").replace(b"\tSELL\t", b"\tBUY\t").replace(b"SAVE", b"SELL")
        members["public.picks.tsv"] = b"\n".join(lines)

    rewritten(file, change)
    said = restored(file)
    assert said.code == 1
    assert "does not verify, so nothing was restored. The pick " in said.err
    assert holds_nothing(empty)
    assert restored(file, "--unverified").code == 0
    assert commanded("verify", DATABASE_URL=empty).code == 1


FULL = {
    "a batch": "INSERT INTO batches (id, series, run_date, created_at, status, late, failure_reason, failure, "
    "benchmark_symbol) VALUES (gen_random_uuid(), 'main', '2026-01-05', now(), 'failed', true, 'MISSED', 'x', 'SPY')",
    "an entry": "INSERT INTO journal (seq, kind, at, content, previous, hash) SELECT 1, 'BATCH', now(), '{}', g, "
    "encode(sha256(convert_to(g || chr(10) || '{}', 'UTF8')), 'hex') FROM repeat('0', 64) g",
    "a reading": "INSERT INTO closes VALUES (gen_random_uuid(), 'SPY', '2026-01-02', 1, 1, 'x', now())",
}


@pytest.mark.parametrize("what", FULL)
def test_nothing_is_written_over(what, backed_up, create, commanded):
    """A database that holds anything is refused, and what to do is said."""
    full = create()
    asyncio.run(migrations.migrate(full, NOW))
    with psycopg.connect(full) as conn:
        conn.execute(FULL[what])
    before = contents(full)
    said = commanded("restore", backed_up, "--unverified", DATABASE_URL=full)
    assert said.code == 1
    assert "is not empty" in said.err
    assert "restore into an empty one" in said.err
    assert contents(full) == before


async def test_two_at_once(backed_up, empty):
    """One restores; the other waits for it, and is told that the database is not empty any more."""
    twice = [backing_up.restore(empty, backed_up, NOW, lambda *_: None, unverified=True) for _ in range(2)]
    made = await asyncio.gather(*twice, return_exceptions=True)
    (refused,) = (one for one in made if isinstance(one, Exception))
    assert "is not empty" in str(refused), refused


def test_live_and_rehearsed_never_meet(backed_up, commanded, empty, begun, tmp_path):
    """A live record is not restored into a rehearsal, not even into one that has nothing yet."""
    with psycopg.connect(empty) as conn:
        conn.execute(CLOCK)
    for address in (empty, begun):
        said = commanded("restore", backed_up, "--unverified", DATABASE_URL=address)
        assert (said.code, "holds a rehearsal" in said.err) == (1, True)


def test_a_service_that_runs_there_is_stopped_first(backed_up, restored, empty):
    asyncio.run(migrations.migrate(empty, NOW))
    with psycopg.connect(empty) as conn:
        conn.execute("INSERT INTO queue.procrastinate_workers (last_heartbeat) VALUES (now())")
    said = restored(backed_up, "--unverified")
    assert (said.code, "A service runs on this database. Stop it" in said.err) == (1, True)
    with psycopg.connect(empty) as conn:
        conn.execute("UPDATE queue.procrastinate_workers SET last_heartbeat = now() - interval '1 minute'")
    assert restored(backed_up, "--unverified").code == 0


def test_the_file_is_its_owners_and_whole(commanded, database, tmp_path):
    """It is never written over unasked, and whatever goes wrong leaves the old one and nothing else."""
    planted(database)
    file = tmp_path / "record.zip"
    assert commanded("backup", file, DATABASE_URL=database).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = commanded("backup", file, DATABASE_URL=database)
    assert (again.code, "--force" in again.err) == (1, True)
    old = file.read_bytes()
    lost = commanded("backup", file, "--force", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (lost.code, file.read_bytes()) == (1, old)
    link = tmp_path / "newest.zip"
    link.symlink_to(file)
    assert commanded("backup", link, "--force", DATABASE_URL=database).code == 0
    assert link.is_symlink()
    assert file.read_bytes() != old
    nowhere = commanded("backup", "/dev/null", "--force", DATABASE_URL=database)
    assert (nowhere.code, "/dev/null is no file. Choose another name" in nowhere.err) == (1, True)
    assert commanded("backup", tmp_path / "no" / "folder.zip", DATABASE_URL=database).code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"record.zip", "newest.zip"}


def test_to_the_standard_output(backed_up, database, empty, tmp_path):
    """A pipe gets the same backup, also at the end of a file; one that is full or gone is one line."""
    file = tmp_path / "piped.zip"
    with file.open("ab") as to:
        done = subprocess.run(
            [ALPHA_MONDAY, "backup", "-"], env=environment(DATABASE_URL=database), cwd=tmp_path, stdout=to,
            stderr=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    assert "Backed up: " in done.stderr
    with ZipFile(file) as piped, ZipFile(backed_up) as named:
        assert [piped.read(name) for name in piped.namelist()[:-1]] == [
            named.read(name) for name in named.namelist()[:-1]
        ]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [ALPHA_MONDAY, "backup", "-"], env=environment(DATABASE_URL=database), cwd=tmp_path, stdout=full,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "The backup could not be written to -: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr
    refused = run("backup", "-", cwd=tmp_path, DATABASE_URL=empty)
    assert (refused.returncode, refused.stdout) == (1, "")


def test_a_database_that_this_version_cannot_back_up(commanded, empty, create, tmp_path):
    """One without a record, and one of a later version, whose tables nobody here knows."""
    said = commanded("backup", tmp_path / "none.zip", DATABASE_URL=empty)
    assert (said.code, "holds no record" in said.err) == (1, True)
    asyncio.run(migrations.migrate(empty, NOW))
    with psycopg.connect(empty) as conn:
        conn.execute("INSERT INTO operations.migrations VALUES (9999, 'later', '', now())")
    said = commanded("backup", tmp_path / "later.zip", DATABASE_URL=empty)
    assert (said.code, "has migration 9999" in said.err) == (1, True)
    assert not list(tmp_path.iterdir())
