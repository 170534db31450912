"""
Real parts for every test: a Postgres server for the process, a migrated database that is emptied between tests.

Before that, every test is kept apart from what is around it: the environment, the home folder, the current folder.
"""

import isolation

# First: what is imported below reads the environment, some of it while it is imported.
isolation.isolate()

import locale
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import chdir
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from commands import Said, command
from psycopg.conninfo import make_conninfo

from app.database import migrations, pools
from app.database.embedded import FAST, EmbeddedPostgres

BEFORE = datetime(2020, 1, 1, tzinfo=UTC)


def pytest_configure() -> None:
    """Refuse a Python that reads files in another encoding: it is chosen when a process starts, before this file."""
    if locale.getencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        raise pytest.UsageError("Files would not be read as UTF-8: set PYTHONUTF8=1.")


@pytest.fixture(autouse=True)
def own_folder(tmp_path) -> Iterator[None]:
    """Let each test stand in a folder of its own: `.alpha-monday` of the checkout belongs to `make run`."""
    with chdir(tmp_path):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests counted (`record_property`), over all of them."""
    counted: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        counted.update({what: number for what, number in report.user_properties if isinstance(number, int)})
    for what, number in counted.items():
        terminalreporter.write_line(f"{number:,} {what}")


@pytest.fixture(scope="session")
def server() -> Iterator[Callable[[str], str]]:
    """The address of any database on the test server: TEST_DATABASE_URL's, or a throw-away one of our own."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield lambda name: make_conninfo(url, dbname=name)
        return
    with tempfile.TemporaryDirectory(prefix="am-test-") as folder, EmbeddedPostgres(Path(folder), FAST) as postgres:
        yield postgres.address


@pytest.fixture(scope="session")
def create(server) -> Callable[..., str]:
    """
    Make a database of one's own, by the name or as a copy; all are dropped with the server.

    So are the roles whose names begin with the database's.
    """

    def make(template: str = "template0") -> str:
        name = f"am_{uuid4().hex[:12]}"
        with psycopg.connect(server("postgres"), autocommit=True) as conn:
            encoding = "ENCODING 'UTF8' LOCALE 'C'" if template == "template0" else ""
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} {encoding}")
        made.append(name)
        return server(name)

    made: list[str] = []
    yield make
    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        for name in made:
            conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        roles = conn.execute(
            "SELECT rolname FROM pg_roles, unnest(%s::text[]) d WHERE rolname LIKE d || '\\_%%'", (made,)
        )
        for (role,) in roles.fetchall():
            conn.execute(f"DROP ROLE {role}")


@pytest.fixture
def empty(create) -> str:
    """The address of a new database with nothing in it."""
    return create()


@pytest.fixture(scope="session")
def migrated(create) -> str:
    """The address of the migrated database that tests share."""
    import asyncio

    address = create()
    asyncio.run(migrations.migrate(address, BEFORE))
    return address


@pytest.fixture
def database(migrated) -> Iterator[str]:
    """The address of a migrated database that is empty at the start of the test."""
    yield migrated
    with psycopg.connect(migrated) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")  # the journal's triggers would refuse
        conn.execute("DROP SCHEMA IF EXISTS told CASCADE")
        tables = conn.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname IN ('public', 'queue', 'operations') AND tablename NOT LIKE '%migrations'"
        )
        for (table,) in tables.fetchall():
            conn.execute(f"DELETE FROM {table}")


@pytest.fixture
async def pool(database) -> AsyncIterator[pools.Pool]:
    """An open pool on `database`."""
    async with pools.opened(pools.make_pool(database, size=5)) as opened:
        yield opened


@pytest.fixture
def commanded(capsys) -> Callable[..., Said]:
    """Run an operator's command in this process."""
    return partial(command, capsys)
