"""
Commands that destroy data: they name the database and what is lost, ask, and refuse while a process
uses it.
"""

import asyncio
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from commands import ALPHA_MONDAY, command, environment, run, served
from processes import until

from app.commands import db
from app.database import migrations
from app.database.embedded import FAST_SETTINGS, FOLDER, EmbeddedPostgres
from app.errors import ConfigurationError, Refused
from app.ops import in_use

AT = datetime(2026, 1, 1, tzinfo=UTC)
MIGRATIONS = migrations.load_migrations()
LAST = len(MIGRATIONS)

# A failed Monday with its journal's entry, a skipped close, an alert, two requests of which one
# could not be read.
ROWS = """
INSERT INTO batches
    (id, series, run_date, created_at, status, late, failure_reason, failure, benchmark_symbol)
VALUES (gen_random_uuid(), 'main', '2026-11-16', now(), 'failed', false, 'MISSED',
    'It was down.', 'SPY');
INSERT INTO closes (id, ticker, trading_day, close, source, read_at)
SELECT gen_random_uuid(), 'SPY', '2026-11-13'::date - number, 1, 'a test', now() FROM
    generate_series(1, 1200) number;
INSERT INTO operations.alerts (id, kind, at, text, to_do) VALUES (gen_random_uuid(), 'test',
    now(), 'a', 'b');
INSERT INTO operations.provider_requests (provider, function, symbol, at, rest_until, unreadable)
VALUES ('alphavantage', 'DAILY', 'SPY', now(), now(), '[1]'), ('alphavantage', 'DAILY', 'KO',
    now(), now(), NULL);
SET LOCAL search_path = public, queue;
INSERT INTO procrastinate_jobs (task_name, queue_name) VALUES ('take_checkpoint', 'default');
"""


@pytest.fixture
def filled(empty) -> str:
    """The address of a separate database with some rows."""
    asyncio.run(migrations.migrate(empty, AT))
    with psycopg.connect(empty) as conn:
        conn.execute(ROWS)
    return empty


def counted(address: str) -> int:
    with psycopg.connect(address) as conn:
        return conn.execute("SELECT count(*) FROM closes").fetchone()[0]


def name_of(address: str) -> str:
    with psycopg.connect(address) as conn:
        return conn.info.dbname


# The cases: a step back that loses rows of tables, values of columns, both, or nothing.
@pytest.mark.parametrize(
    ("down_to", "lost", "unaffected"),
    [
        pytest.param(
            0,
            ["batches: 1 row", "closes: 1,200 rows", "queue.procrastinate_jobs: 1 row"],
            [],
            id="all",
        ),
        pytest.param(
            1, ["queue.procrastinate_jobs: 1 row"], ["closes", "batches"], id="all but the record"
        ),
        pytest.param(
            3, ["operations.provider_requests: 2 rows"], ["procrastinate_jobs"], id="the ledger"
        ),
        pytest.param(
            8,
            ["operations.provider_requests.rest_until: 2 values"],
            ["closes"],
            id="a column, and tables",
        ),
        pytest.param(10, ["operations.alerts: 1 row"], ["rest_until"], id="a table"),
        pytest.param(
            12,
            ["operations.provider_requests.unreadable: 1 value"],
            ["alerts", "requests: "],
            id="a column",
        ),
    ],
)
def test_lost_rows_and_values_are_named(filled, capsys, down_to, lost, unaffected):
    """
    Each deleted table is named with its rows, and each deleted column with its values; without an
    answer nothing is changed.
    """
    before = counted(filled)
    result = command(capsys, "migrate", "--down-to", down_to, DATABASE_URL=filled)
    assert (result.exit_code, result.output) == (1, "")
    lines = [line.strip() for line in result.error.splitlines()]
    assert f"/{name_of(filled)}" in lines[0]
    assert set(lost) <= set(lines)
    for name in unaffected:
        assert not [line for line in lines if line.startswith((name, f"operations.{name}"))]
    assert "Nothing was changed" in lines[-1]
    assert "--yes" in lines[-1]
    assert counted(filled) == before


def test_a_command_that_loses_nothing(empty, capsys):
    """An empty database needs --yes, too; if there is nothing to do, the command does not ask."""
    asyncio.run(migrations.migrate(empty, AT))
    assert (
        "No row is lost." in command(capsys, "migrate", "--down-to", 11, DATABASE_URL=empty).error
    )
    done = command(capsys, "migrate", "--down-to", 11, "--yes", DATABASE_URL=empty)
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [f"{step.number:04} {step.name}: taken back" for step in reversed(MIGRATIONS[11:])],
    )
    again = command(capsys, "migrate", "--down-to", 11, DATABASE_URL=empty)
    assert (again.exit_code, again.output) == (
        0,
        "Nothing to take back: the database has no migration after 0011.\n",
    )


@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [
        pytest.param("n", 1, 1200, marks=pytest.mark.long),
        ("", 1, 1200),
        ("y", 0, 1200),
    ],
)
@pytest.mark.sampled(1)
def test_a_person_is_asked_at_a_terminal(filled, tmp_path, answer, code, left):
    """Without agreement nothing is done, and the exit code says so."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [ALPHA_MONDAY, "migrate", "--down-to", "12"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=filled),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    _, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == code, err
    assert "Take them back? [y/N]" in err
    assert counted(filled) == left
    at = [step.number for step in asyncio.run(migrations.status(filled)) if step.applied_at][-1]
    assert at == (12 if code == 0 else LAST)


@contextmanager
def session(address: str, name: str) -> Iterator[None]:
    """Open a session as a process of ours does."""
    with psycopg.connect(address, application_name=name):
        yield


@contextmanager
def worker(address: str, seconds: int) -> Iterator[None]:
    """Store a worker whose last heartbeat is so many seconds old."""
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO queue.procrastinate_workers (last_heartbeat) VALUES (now() - "
            "make_interval(secs => %s))",
            [seconds],
        )
        yield


# The cases: processes of ours that use the database, however they are started.
USERS = [
    pytest.param(
        lambda address: session(address, "alpha-monday api"),
        "alpha-monday api (1 session)",
        id="an API",
    ),
    pytest.param(
        lambda address: session(address, "alpha-monday queue"),
        "alpha-monday queue",
        id="procrastinate's",
    ),
    pytest.param(
        lambda address: session(address, "alpha-monday app"),
        "alpha-monday app",
        id="a worker or rehearsal",
    ),
    pytest.param(
        lambda address: session(address, "alpha-monday backup"),
        "alpha-monday backup",
        id="a long backup",
    ),
    pytest.param(
        lambda address: session(address, "alpha-monday announcements"),
        "alpha-monday announcements",
        id="a listener",
    ),
    pytest.param(
        lambda address: worker(address, 3),
        "a worker with a heartbeat",
        id="behind PgBouncer",
    ),
]


@pytest.fixture
def quick(monkeypatch) -> None:
    """
    Look for users of the database once or twice only: these tests are not about a process that
    has just ended.
    """
    monkeypatch.setattr(in_use, "_ATTEMPTS", 2)
    monkeypatch.setattr(db, "_ATTEMPTS", 2)


@pytest.mark.parametrize(("uses", "named"), USERS)
@pytest.mark.sampled(2)
def test_a_database_in_use_is_not_deleted(filled, capsys, quick, uses, named):
    """The record of a running service is not deleted, even with --yes."""
    with uses(filled):
        result = command(capsys, "migrate", "--down-to", 0, "--yes", DATABASE_URL=filled)
    assert result.exit_code == 1
    assert "A service runs on this database. Stop it first" in result.error
    assert named in result.error
    assert counted(filled) == 1200


def test_a_dead_worker_does_not_prevent_the_command(filled, capsys):
    """A killed worker and another program's session do not prevent the command."""
    with worker(filled, 60), session(filled, "psql"):
        result = command(capsys, "migrate", "--down-to", 12, "--yes", DATABASE_URL=filled)
    assert result.exit_code == 0, result.error


def test_the_database_of_a_service_without_a_worker_is_not_deleted(filled, capsys, tmp_path):
    """A real service is recognised by the names of its sessions."""
    with served("serve", "--no-worker", cwd=tmp_path, DATABASE_URL=filled) as url:
        until(lambda: httpx.get(f"{url}/health").status_code == 200, 30)
        result = command(capsys, "migrate", "--down-to", "0", "--yes", DATABASE_URL=filled)
    assert result.exit_code == 1
    assert "A service runs on this database" in result.error
    assert counted(filled) == 1200


def test_a_rehearsal_does_not_begin_where_a_server_shows_a_live_record(empty, capsys):
    """The database has no row and no job, but a server there would show the rehearsal as live."""
    asyncio.run(migrations.migrate(empty, AT))
    with session(empty, "alpha-monday api"):
        result = command(capsys, "rehearse", "--no-serve", DATABASE_URL=empty)
    assert (result.exit_code, "holds a live record" in result.error) == (1, True), result.error


async def test_a_service_that_starts_meanwhile_is_refused(filled):
    """
    A service that starts while migrations are taken back waits, and then refuses to run without
    its tables.
    """
    starting: list[asyncio.Task[None]] = []

    async def guard(conn: psycopg.AsyncConnection) -> None:
        starting.append(asyncio.create_task(migrations.require_current(filled)))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
            "wait_event = 'advisory'"
        )
        for _ in range(400):
            await conn.execute("SELECT pg_stat_clear_snapshot()")
            if await (await conn.execute(waiting)).fetchone() == (1,):
                return
            await asyncio.sleep(0.02)
        raise AssertionError("The service did not wait.")

    await migrations.migrate(conninfo=filled, at=AT, down_to=0, guard=guard)
    with pytest.raises(ConfigurationError, match=r"lacks migration 0001"):
        await starting[0]


async def test_a_refusing_guard_prevents_the_deletion(filled):
    """If a process is found between the question and the deletion, nothing is deleted."""

    async def guard(_: psycopg.AsyncConnection) -> None:
        raise Refused("A service was started.")

    with pytest.raises(Refused):
        await migrations.migrate(conninfo=filled, at=AT, down_to=0, guard=guard)
    assert len([step for step in await migrations.status(filled) if step.applied_at]) == LAST
    assert counted(filled) == 1200


async def test_a_step_that_fails_takes_none_back(filled, monkeypatch):
    """
    All steps are one transaction: if the last one does not get its lock, the first one is
    undone.
    """
    monkeypatch.setattr(migrations, "_SET_LOCK_TIMEOUT", "SET LOCAL lock_timeout = '50ms'")
    with psycopg.connect(filled) as conn:
        conn.execute("LOCK TABLE closes IN ACCESS SHARE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await migrations.migrate(filled, AT, 0)
    assert len([step for step in await migrations.status(filled) if step.applied_at]) == LAST


# The embedded Postgres of a folder.


@pytest.fixture
def folder(tmp_path) -> Iterator[str]:
    """Run an embedded Postgres with a migrated, empty database, and yield its address."""
    up = run("db", "up", cwd=tmp_path)
    assert up.returncode == 0, up.stderr
    address = up.stdout.strip()
    try:
        assert run("migrate", cwd=tmp_path).returncode == 0
        yield address
    finally:
        run("db", "down", "--yes", cwd=tmp_path)


def test_a_command_that_fails_after_the_start_leaves_no_server(tmp_path, capsys):
    """
    `db up` cannot create its database here. It stops the server that it has started, and leaves one
    that ran before.
    """
    server = EmbeddedPostgres(FOLDER, FAST_SETTINGS)
    with server, psycopg.connect(server.address(), autocommit=True) as conn:
        # CREATE DATABASE copies this one.
        conn.execute("ALTER DATABASE template1 IS_TEMPLATE false")
        conn.execute("DROP DATABASE template1")
    failed = command(capsys, "db", "up")
    assert failed.exit_code == 1
    assert "template1" in failed.error
    assert not server.is_running()
    assert not server.is_detached

    server.start(detach=True)
    try:
        assert run("db", "up", cwd=tmp_path).returncode == 1
        assert server.is_running()
        assert server.is_detached
    finally:
        server.stop_any()
        server.process.wait(60)
        server.stop()


def test_a_live_record_is_not_deleted_by_yes_alone(folder, tmp_path, capsys, quick):
    """
    A rehearsal can be made again and a live record cannot: `db reset` distinguishes them, and
    names the rows.
    """
    with psycopg.connect(folder) as conn:
        conn.execute(ROWS)
    refused = command(capsys, "db", "reset", "--yes")
    assert refused.exit_code == 1
    assert "alpha_monday: a LIVE record: 1 batches, 1,200 closes" in refused.error
    assert "--live-record" in refused.error
    assert counted(folder) == 1200
    with session(folder, "alpha-monday app"):
        for words in (("db", "reset", "--yes", "--live-record"), ("db", "down")):
            refused = command(capsys, *words)
            assert refused.exit_code == 1
            assert "alpha-monday app in alpha_monday" in refused.error
    assert counted(folder) == 1200
    unasked = command(capsys, "db", "reset")
    assert (unasked.exit_code, "--yes" in unasked.error) == (1, True)
    assert run("db", "reset", "--yes", "--live-record", cwd=tmp_path).returncode == 0
    assert not (tmp_path / ".alpha-monday" / "postgres" / "data").exists()


@pytest.mark.long
def test_a_rehearsal_is_deleted_by_yes_and_not_while_it_runs(tmp_path, capsys, quick):
    """While `make run` serves, `make db-reset` refuses instead of ending it."""
    with served(
        "rehearse", "--single", "--weeks", "1", "--until", "2026-10-09", "--calm", cwd=tmp_path
    ):
        for words in (("db", "reset", "--yes"), ("db", "down")):
            refused = command(capsys, *words)
            assert refused.exit_code == 1
            assert "Stop it first" in refused.error
    done = run("db", "reset", "--yes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rehearsal: a rehearsal, made up: 1 batches, " in done.stderr
    assert ", 3 picks, " in done.stderr


# The class of faults: a folder with incomplete data. No server starts on it, and no command may
# delete it.
DAMAGED = {
    "no PG_VERSION": lambda data: (data / "PG_VERSION").unlink(),
    "an empty PG_VERSION": lambda data: (data / "PG_VERSION").write_bytes(b""),
    "another version": lambda data: (data / "PG_VERSION").write_text("14\n"),
    "no pg_control": lambda data: (data / "global" / "pg_control").unlink(),
    "only one file": lambda data: (
        shutil.rmtree(data),
        data.mkdir(),
        (data / "base").write_bytes(b"x"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.sampled(2)
def test_a_damaged_folder_is_not_deleted(tmp_path, capsys, damage):
    """
    A damaged folder may be all that is left of a record; only `db reset --live-record` deletes it.
    """
    server = EmbeddedPostgres(tmp_path / ".alpha-monday" / "postgres", FAST_SETTINGS)
    with server:
        pass
    DAMAGED[damage](server.data)
    before = sorted(path.name for path in server.data.iterdir())
    with pytest.raises(ConfigurationError):
        EmbeddedPostgres(
            server.folder, FAST_SETTINGS
        ).start()  # as `db up`, `serve` and `rehearse` do
    refused = run("db", "reset", "--yes", cwd=tmp_path)
    assert (
        refused.returncode,
        "cannot be read, so they count as a live record" in refused.stderr,
    ) == (1, True)
    assert "Traceback" not in refused.stderr
    assert sorted(path.name for path in server.data.iterdir()) == before
    server.reset()
    assert not server.data.exists()


def test_files_that_cannot_be_deleted_are_reported(tmp_path, monkeypatch):
    """
    If files remain, the exit code is not 0, and the command does not print that they are
    deleted.
    """
    server = EmbeddedPostgres(tmp_path, FAST_SETTINGS)
    with server:
        pass
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match="Some files could not be deleted"):
        server.reset()


# The cases: an option that means the rehearsal, and a DATABASE_URL that leads to a live record.
@pytest.mark.parametrize(
    "words",
    [
        ("jobs", "cancel", "1"),
        ("jobs", "retry", "1"),
        ("jobs", "stalled", "--retry"),
        ("jobs", "list"),
        ("status",),
        ("show",),
        ("verify",),
        ("export", "-"),
        ("backup", "a.zip"),
    ],
    ids=" ".join,
)
def test_the_rehearsal_is_not_a_live_record(filled, capsys, monkeypatch, tmp_path, words):
    """With --rehearsal, a command does not touch the live record, and shows nothing of it."""
    monkeypatch.chdir(tmp_path)
    result = command(capsys, *words, "--rehearsal", DATABASE_URL=filled)
    assert result.exit_code == (2 if words == ("verify",) else 1)
    assert "--rehearsal asks for the record of a rehearsal" in result.error
    assert result.output == ""
    assert not list(tmp_path.iterdir())
    with psycopg.connect(filled) as conn:
        assert conn.execute("SELECT status FROM queue.procrastinate_jobs").fetchall() == [("todo",)]


# The cases: two addresses of which the second leads elsewhere. What only reads uses one of them.
@pytest.mark.parametrize(
    "words",
    [
        ("migrate",),
        ("migrate", "--down-to", "0", "--yes"),
        ("work",),  # and `serve`, which gets ready as it does
        ("checkpoint", "retake", "2026-11-16", "1"),
        (
            "pick",
            "end",
            "2026-11-16",
            "KO",
            "--last-session",
            "2026-11-17",
            "--value",
            "1",
            "--source",
            "a test",
        ),
    ],
    ids=" ".join,
)
def test_record_and_queue_are_in_one_database(filled, create, capsys, words):
    """Otherwise one database would be migrated or deleted, and the other one served."""
    keys = {"OPENAI_API_KEY": "k", "ALPHA_VANTAGE_API_KEY": "k", "PORT": "0"}
    other = create()
    result = command(capsys, *words, DATABASE_URL=other, QUEUE_DATABASE_URL=filled, **keys)
    assert result.exit_code == 1
    assert "the record and the queue share one" in result.error
    assert f"/{name_of(filled)}" in result.error
    assert f"/{name_of(other)}" in result.error
    assert counted(filled) == 1200


def test_two_addresses_of_one_database(filled, capsys):
    """Two addresses of the same database need not be the same text."""
    result = command(
        capsys, "migrate", DATABASE_URL=filled, QUEUE_DATABASE_URL=f"{filled} connect_timeout=3"
    )
    assert (result.exit_code, result.output) == (0, "The database is up to date.\n"), result.error
