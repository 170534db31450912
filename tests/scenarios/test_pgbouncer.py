"""
PgBouncer in transaction mode before Postgres, as managed services have it: everything holds all the same.

`make test-pgbouncer` runs this; it needs the program.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest
from processes import SLOW, ask, change, kill_one, live_through, serving
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database import pools
from app.database.embedded import _as_somebody
from app.database.queries import fetcher

pytestmark = pytest.mark.pgbouncer

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
    """The port of a PgBouncer before the test server."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program, "pgbouncer is missing. On Debian: apt-get install pgbouncer"
    folder = tmp_path_factory.mktemp("bouncer")
    there = conninfo_to_dict(server("postgres"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = free.getsockname()[1]
    known = " ".join(f"{name}={there[name]}" for name in ("host", "port", "user", "password") if there.get(name))
    text = CONFIGURATION.format(there=known, listen=listen, folder=folder)
    (folder / "pgbouncer.ini").write_text(text)
    process = subprocess.Popen([*_as_somebody(), program, "-q", folder / "pgbouncer.ini"], stderr=subprocess.PIPE)
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
    """The settings that lead through PgBouncer to a database whose own sessions are unlike ours."""
    direct = create(str(conninfo_to_dict(migrated)["dbname"]))
    name = conninfo_to_dict(direct)["dbname"]
    for setting in ("timezone = 'Asia/Kolkata'", "datestyle = 'SQL, DMY'", "jit = on"):
        change(direct, f"ALTER DATABASE {name} SET {setting}")
    through = make_conninfo(direct, host="127.0.0.1", port=bouncer)
    return {"DATABASE_URL": through, "QUEUE_DATABASE_URL": direct, "DATABASE_POOLED": "true"}


async def test_two_servers_and_two_workers(pooled, tmp_path):
    """Each job is done once, and what one process changes, the others answer within a second."""
    direct = pooled["QUEUE_DATABASE_URL"]
    async with pools.opened(pools.make_pool(direct)) as pool:
        await live_through(tmp_path, direct, pool, **pooled)


async def test_a_worker_that_is_killed(pooled, tmp_path):
    """Its jobs are put back and done by the other."""
    direct = pooled["QUEUE_DATABASE_URL"]
    async with pools.opened(pools.make_pool(direct)) as pool:
        await kill_one(tmp_path, direct, pool, **pooled)


def test_the_limit_of_a_statement(pooled, tmp_path):
    """A query that takes too long ends, although PgBouncer lets nobody say so when connecting."""
    direct = pooled["QUEUE_DATABASE_URL"]
    with serving(tmp_path, **pooled) as server, psycopg.connect(direct) as conn:
        conn.execute("LOCK TABLE corrections IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        answer = ask(server.told, SLOW)
        took = time.monotonic() - began
        assert answer.json()["errors"][0]["extensions"]["code"] == "OPERATION_TOO_LARGE"
        assert 4.5 < took < 6.5


async def test_what_holds_in_a_session(pooled):
    """Search path, time zone, style of dates, JIT and limit are ours in reads; time zone and dates in all that is."""
    async with pools.opened(pools.make_pool(pooled["DATABASE_URL"], pooled=True, size=3)) as pool:
        fetch = fetcher(pool, pooled=True, limit=5)
        for _ in range(20):
            names = ("search_path", "timezone", "datestyle", "jit", "statement_timeout")
            columns = await fetch(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}", [])
            assert columns == [b"public, queue", b"UTC", b"ISO, DMY", b"off", b"5s"]
            async with pool.connection() as conn:
                (at,) = await (await conn.execute("SELECT timestamptz '2026-11-23 14:00+00'")).fetchone()
            assert at.isoformat() == "2026-11-23T14:00:00+00:00"
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):  # so the setting is needed
        psycopg.connect(pooled["DATABASE_URL"], options="-c statement_timeout=5s")
