"""
Behind PgBouncer in transaction mode, as managed services offer it, everything works in the same
way.

`make test-pgbouncer` runs this file; it needs the program.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest
from ports import free_port
from processes import SLOW, ask, change, kill_one, live_through, serving
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database import pools, sessions
from app.database.embedded import _as_unprivileged_user
from app.database.queries import pool_fetcher, snapshot_fetcher

pytestmark = pytest.mark.pgbouncer

# Defaults of the database that a transaction can say otherwise.
UNLIKE_OURS = (
    "timezone = 'Asia/Kolkata'",
    "datestyle = 'SQL, DMY'",
    "jit = on",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_deferrable = on",
    "intervalstyle = 'iso_8601'",
    "bytea_output = 'escape'",
    "extra_float_digits = '-3'",
    "array_nulls = off",
    "transform_null_equals = on",
    "synchronous_commit = off",
    "session_replication_role = replica",
    "lock_timeout = '7s'",
    "client_encoding = 'LATIN1'",
)

# The same, but the tests' own connections would obey them, too.
FORBIDDING = ("search_path = elsewhere", "default_transaction_read_only = on")

CONFIGURATION = """
[databases]
* = {there}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
logfile = {folder}/pgbouncer.log
"""


@pytest.fixture(scope="session")
def bouncer(server, tmp_path_factory) -> Iterator[int]:
    """The port of a PgBouncer in front of the test server."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program, "pgbouncer is missing. On Debian: apt-get install pgbouncer"
    folder = tmp_path_factory.mktemp("bouncer")
    there = conninfo_to_dict(server("postgres"))
    listen = free_port()
    known = " ".join(
        f"{name}={there[name]}" for name in ("host", "port", "user", "password") if there.get(name)
    )
    text = CONFIGURATION.format(there=known, listen=listen, folder=folder)
    (folder / "pgbouncer.ini").write_text(text)
    process = subprocess.Popen(
        [*_as_unprivileged_user(), program, "-q", folder / "pgbouncer.ini"], stderr=subprocess.PIPE
    )
    try:
        until_it_listens(listen, process)
        yield listen
    finally:
        process.terminate()
        process.wait(10)
        assert process.stderr
        process.stderr.close()


def until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None
        time.sleep(0.01)
    raise AssertionError("PgBouncer does not listen.")


@pytest.fixture
def pooled(bouncer, create, migrated) -> Iterator[dict[str, str]]:
    """The settings for a database behind PgBouncer whose own defaults differ from our settings."""
    direct = create(str(conninfo_to_dict(migrated)["dbname"]))
    name = conninfo_to_dict(direct)["dbname"]
    for setting in UNLIKE_OURS:
        change(direct, f"ALTER DATABASE {name} SET {setting}")
    through = make_conninfo(direct, host="127.0.0.1", port=bouncer)
    return {"DATABASE_URL": through, "QUEUE_DATABASE_URL": direct, "DATABASE_POOLED": "true"}


async def test_two_servers_and_two_workers(pooled, tmp_path):
    """
    Each job is done once, and what one process changes is in the other processes' responses
    within a second.
    """
    direct = pooled["QUEUE_DATABASE_URL"]
    async with pools.opened(pools.make_pool(direct)) as pool:
        await live_through(tmp_path, direct, pool, **pooled)


async def test_a_worker_that_is_killed(pooled, tmp_path):
    """Its jobs are put back into the queue and done by the other worker."""
    direct = pooled["QUEUE_DATABASE_URL"]
    async with pools.opened(pools.make_pool(direct)) as pool:
        await kill_one(tmp_path, direct, pool, **pooled)


def test_the_limit_of_a_statement(pooled, tmp_path):
    """
    A query that takes too long is ended, although PgBouncer accepts no such option when
    connecting.
    """
    direct = pooled["QUEUE_DATABASE_URL"]
    with serving(tmp_path, **pooled) as server, psycopg.connect(direct) as conn:
        conn.execute("LOCK TABLE corrections IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        answer = ask(server.address, SLOW)
        took = time.monotonic() - began
        assert answer.json()["errors"][0]["extensions"]["code"] == "OPERATION_TOO_LARGE"
        assert 4.5 < took < 6.5


HOLDS = {
    "search_path": "public, queue",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "jit": "off",
    "statement_timeout": "5s",
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "transaction_deferrable": "off",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "synchronous_commit": "on",
    "session_replication_role": "origin",
    "lock_timeout": "0",
    "client_encoding": "UTF8",
    "idle_in_transaction_session_timeout": "30s",
}


async def test_what_holds_in_a_session(pooled):
    """
    All settings of ours are in force in the API's reads, in a transaction, and in a statement
    outside of one.
    """
    direct = pooled["QUEUE_DATABASE_URL"]
    for setting in FORBIDDING:
        change(direct, f"ALTER DATABASE {conninfo_to_dict(direct)['dbname']} SET {setting}")
    query = f"SELECT {', '.join(f'current_setting({name!r})' for name in HOLDS)}"
    wanted = tuple(HOLDS.values())
    async with pools.opened(
        pools.make_pool(pooled["DATABASE_URL"], pooled=True, max_size=3, statement_timeout=5)
    ) as pool:
        fetch = pool_fetcher(pool, pooled=True, statement_timeout=5)
        for _ in range(20):
            assert tuple(column.decode() for column in await fetch(query, [])) == wanted
            async with pools.transaction(pool) as conn:
                assert await (await conn.execute(query)).fetchone() == wanted
            async with pool.connection() as conn:
                assert await (await conn.execute(query)).fetchone() == wanted
                (at,) = await (
                    await conn.execute("SELECT timestamptz '2026-11-23 14:00+00'")
                ).fetchone()
            assert at.isoformat() == "2026-11-23T14:00:00+00:00"
            async with snapshot_fetcher(pool, statement_timeout=4) as fetch_standing:
                (isolation,) = await fetch_standing(
                    "SELECT current_setting('transaction_isolation')", []
                )
            assert isolation == b"repeatable read"
    with psycopg.connect(direct) as conn:  # of the session nothing was changed
        assert conn.execute("SHOW session_replication_role").fetchone() == ("replica",)
    with pytest.raises(
        psycopg.OperationalError, match="unsupported startup parameter"
    ):  # so the setting is needed
        psycopg.connect(pooled["DATABASE_URL"], options="-c statement_timeout=5s")


async def test_a_write_without_a_transaction_lasts(pooled):
    """A statement outside of a transaction is committed at once, also if a cursor runs it."""
    async with (
        pools.opened(pools.make_pool(pooled["DATABASE_URL"], pooled=True, max_size=2)) as pool,
        pool.connection() as conn,
        conn.cursor() as cursor,
    ):
        await conn.execute("INSERT INTO operations.queue_migrations VALUES ('a test', now())")
        await cursor.executemany(
            "DELETE FROM operations.queue_migrations WHERE file = %s", [("a test",)]
        )
        assert cursor.rowcount == 1
        assert conn.info.transaction_status.name == "IDLE"


async def test_libpqs_variables_behind_a_pgbouncer(pooled, monkeypatch):
    """
    PgBouncer refuses unknown start-up parameters, and libpq would send PGGEQO, PGTZ and
    PGDATESTYLE.
    """
    monkeypatch.setattr(sessions, "_removed_variables", {})
    for name in ("PGGEQO", "PGTZ", "PGDATESTYLE", "PGOPTIONS", "PGCLIENTENCODING", "PGAPPNAME"):
        monkeypatch.setenv(name, "nonsense")
    async with (
        pools.opened(pools.make_pool(pooled["DATABASE_URL"], pooled=True)) as pool,
        pool.connection() as conn,
    ):
        assert await (await conn.execute("SHOW timezone")).fetchone() == ("UTC",)
