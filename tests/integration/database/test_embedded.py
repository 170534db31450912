"""
The embedded Postgres after accidents: a kill, a start that takes too long, a process id of another
program, a folder of another user.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from app.database import embedded
from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres
from app.errors import ConfigurationError


def lives(folder: Path) -> bool:
    """Return whether a server starts on the folder and accepts a connection."""
    with (
        EmbeddedPostgres(folder, FAST_SETTINGS) as postgres,
        psycopg.connect(postgres.address()) as conn,
    ):
        return conn.execute("SELECT 1").fetchone() == (1,)


def test_killed_while_it_is_set_up(tmp_path):
    """
    If the machine or container is killed during the first start, nothing is left that a person
    must remove.
    """
    starts = (
        "from app.database.embedded import EmbeddedPostgres, Path; EmbeddedPostgres(Path()).start()"
    )
    process = subprocess.Popen([sys.executable, "-c", starts], cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*/PG_VERSION")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)  # initdb is of its group
    process.wait()
    assert lives(tmp_path)
    assert not list(tmp_path.glob("initdb-*"))


def test_an_owner_that_ends_without_a_server(tmp_path):
    """
    `db reset` and a failed start hold the lock for a while; a process that waits for it then
    starts the server.
    """
    postgres = EmbeddedPostgres(tmp_path, FAST_SETTINGS)
    holds = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print(flush=True); input()"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", holds, tmp_path / "lock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as owner,
        ThreadPoolExecutor(1) as thread,
    ):
        assert owner.stdout
        owner.stdout.readline()
        started = thread.submit(lives, tmp_path)
        with pytest.raises(TimeoutError):
            started.result(0.5)
        owner.communicate(b"\n")
        assert started.result(30)
    postgres.reset()
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "mark"}


@pytest.mark.parametrize("detach", [False, True], ids=["owned", "detached"])
@pytest.mark.sampled(1)
def test_a_server_that_does_not_accept_connections_in_time(tmp_path, monkeypatch, detach):
    """
    A start that fails stops its server, also a detached one, and releases the lock: the next start
    works.
    """
    postgres = EmbeddedPostgres(tmp_path, FAST_SETTINGS)
    with monkeypatch.context() as patches:
        patches.setattr(embedded, "_TIMEOUT", 2.0)
        patches.setattr(postgres, "is_running", lambda: False)
        with pytest.raises(ConfigurationError, match="does not start"):
            postgres.start(detach=detach)
    assert postgres.process
    assert postgres.process.poll() is not None
    assert not postgres.is_detached
    assert lives(tmp_path)


def assert_nothing_is_left(postgres: EmbeddedPostgres) -> None:
    """Fail if a failed start has left a server, a mark, a socket's folder, or the lock."""
    other = EmbeddedPostgres(postgres.folder)
    with (postgres.folder / "lock").open("w") as lock:
        # Raises BlockingIOError if the failed start still holds the lock.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not other.is_running()
    assert not other.is_detached
    assert not other.stop_any()
    assert not postgres.socket.exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the data of a server that was stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    assert lives(folder)
    return folder


# The kind: a start that ends in another way than without a connection in time.
@pytest.mark.parametrize(
    ("error", "detach"),
    [
        pytest.param(KeyboardInterrupt(), True, id="Ctrl-C, detached"),
        pytest.param(KeyboardInterrupt(), False, id="Ctrl-C, owned"),
        pytest.param(SystemExit(143), True, id="SIGTERM"),
        pytest.param(OSError(24, "Too many open files"), True, id="an error of the system"),
        pytest.param(psycopg.ProgrammingError("invalid"), True, id="an error of the address"),
    ],
)
def test_a_start_that_is_interrupted(folder, error, detach):
    """The server is stopped, also a detached one, and the lock is free."""

    def is_running() -> bool:
        if postgres.process:
            raise error
        return False

    postgres = EmbeddedPostgres(folder, FAST_SETTINGS)
    postgres.is_running = is_running
    with pytest.raises(type(error)):
        postgres.start(detach=detach)
    assert postgres.process
    assert postgres.process.poll() is not None
    assert_nothing_is_left(postgres)


def test_a_signal_just_after_the_start(monkeypatch):
    """The server of a command stops with its process, even if the command is interrupted then."""
    stops = []
    monkeypatch.setattr(embedded, "_started", [])
    monkeypatch.setattr(embedded.atexit, "register", stops.append)
    start = EmbeddedPostgres.start

    def start_and_interrupt(server: EmbeddedPostgres) -> None:
        start(server)
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddedPostgres, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        embedded.resolve_database_url("", create=True)
    assert EmbeddedPostgres().is_running()
    for stop in stops:
        stop()
    assert not EmbeddedPostgres().is_running()


def test_a_server_that_ends_at_once(folder):
    """A setting that Postgres refuses ends the server; nothing else of the start is left."""
    postgres = EmbeddedPostgres(folder, {**FAST_SETTINGS, "shared_buffers": "none"})
    with pytest.raises(ConfigurationError, match="does not start"):
        postgres.start(detach=True)
    assert_nothing_is_left(postgres)


@pytest.mark.parametrize("version", ["", "9"], ids=["damaged", "of another version"])
def test_data_that_cannot_be_used(tmp_path, version):
    """The data are refused before a server is started, and the lock is free."""
    postgres = EmbeddedPostgres(tmp_path, FAST_SETTINGS)
    postgres.data.mkdir()
    (postgres.data / "PG_VERSION").write_text(version)
    with pytest.raises(ConfigurationError, match="Nothing was changed"):
        postgres.start(detach=True)
    assert postgres.process is None
    assert_nothing_is_left(postgres)


def test_an_initdb_that_fails(tmp_path, monkeypatch):
    """Its reason is reported, no server is started, and the lock is free."""
    postgres = EmbeddedPostgres(tmp_path, FAST_SETTINGS)
    with monkeypatch.context() as patches:
        # `false` runs in place of initdb.
        patches.setattr(embedded, "_as_unprivileged_user", lambda: ["false"])
        with pytest.raises(ConfigurationError, match="cannot be set up"):
            postgres.start(detach=True)
    assert postgres.process is None
    assert_nothing_is_left(postgres)


def test_a_process_id_that_another_program_has(tmp_path):
    """After a crash the server's old process id may belong to another program."""
    assert lives(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "data" / "postmaster.pid").write_text(
            f"{other.pid}\n{tmp_path}\n1\n5432\n/tmp\n\n 1 1\nready\n"
        )
        assert lives(tmp_path)
        assert other.poll() is None
        other.kill()


def test_a_socket_folder_that_others_can_reach(tmp_path):
    """
    The socket's folder is refused if other users can access it: clients trust the program that
    listens there.
    """
    postgres = EmbeddedPostgres(tmp_path, FAST_SETTINGS)
    postgres.socket.mkdir()
    postgres.socket.chmod(0o777)
    try:
        with pytest.raises(ConfigurationError, match="can be used by another user"):
            postgres.start()
    finally:
        postgres.stop()
        postgres.socket.rmdir()
