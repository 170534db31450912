"""
Real parts for every test: a Postgres server for the process, and a migrated database that is
emptied between tests.

Before that, every test is isolated from its surroundings: the environment, the home folder, the
current folder.
"""

import isolation

# First: what is imported below reads the environment, some of it while it is imported.
isolation.isolate()
isolation.restore_interrupt()

import gc
import locale
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import certificates
import forked_commands
import psycopg
import pytest
from commands import CommandResult, command
from psycopg.conninfo import make_conninfo
from shared_database import mark_as_shared

from app.database import migrations, pools
from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres

certificates.read_once()

BEFORE = datetime(2020, 1, 1, tzinfo=UTC)

# The workers share one server, each with databases of its own, and some tests open many pools.
# The server is thrown away before a checkpoint of all that was copied would be worth its work.
SETTINGS = {
    **FAST_SETTINGS,
    "max_connections": "300",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
}

_BEGUN = time.monotonic()
_RUN = pytest.StashKey[str]()
_SERVER = pytest.StashKey[ExitStack]()
_ADDRESS = pytest.StashKey[str]()


# The files that take longest in `make test`, in the order of their lengths. With `--slow-first`
# they are run before the others, so that several workers end together.
SLOWEST = (
    "integration/commands/test_cli.py",
    "integration/jobs/test_weekly.py",
    "scenarios/test_renamed_picks.py",
    "project/test_chaos.py",
    "integration/web/test_export.py",
    "scenarios/test_changed_picks.py",
    "scenarios/test_odd_answers.py",
    "integration/web/test_pages.py",
    "integration/api/test_cache.py",
    "scenarios/test_hostile_rehearsal.py",
    "integration/commands/test_db.py",
    "integration/database/test_roles.py",
    "integration/domain/test_rules_sealed.py",
    "integration/ops/test_verify.py",
    "scenarios/test_independent_verifier.py",
    "integration/jobs/test_timestamps.py",
    "integration/commands/test_jobs.py",
    "integration/jobs/test_worker.py",
    "scenarios/test_cheats.py",
    "integration/providers/test_alpha_vantage.py",
    "scenarios/test_wrong_providers.py",
    "scenarios/test_pressure.py",
    "scenarios/test_many_machines.py",
    "scenarios/test_split_mornings.py",
    "scenarios/test_rehearsal.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make test`."""
    parser.addoption("--slow-first", action="store_true", help="run the slowest files first")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """
    Collect no garbage while tests are collected, and never look at the tests themselves.

    They are a million objects that stay to the end, and each full collection would visit all.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Mark cases as long before pytest selects by markers, and put the slowest files first."""
    _mark_cases_that_are_not_sampled(items)
    yield
    if not config.getoption("--slow-first"):
        return
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(SLOWEST)}
    assert all(path.exists() for path in places)
    items.sort(key=lambda item: places.get(item.path, len(places)))


def _mark_cases_that_are_not_sampled(items: Iterable[pytest.Item]) -> None:
    """
    Mark the cases of a test with the marker `sampled` as long, but as many as it says.

    The cases that are left are spread evenly, because similar cases often follow each other.
    """
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("long"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        (kept,) = cases[0].get_closest_marker("sampled").args
        chosen = {len(cases) * number // kept for number in range(kept)}
        for place, case in enumerate(cases):
            if place not in chosen:
                case.add_marker(pytest.mark.long)


def pytest_configure(config: pytest.Config) -> None:
    """
    Refuse a Python that reads files in another encoding than UTF-8, and give the run a name.

    The encoding is fixed when a process starts, before this file is read.
    """
    if locale.getencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        raise pytest.UsageError("Files would not be read as UTF-8: set PYTHONUTF8=1.")
    given = getattr(config, "workerinput", {})
    config.stash[_RUN] = given.get("run") or uuid4().hex[:12]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the name of the run and the address of the shared server to a worker of pytest-xdist."""
    node.workerinput["run"] = node.config.stash[_RUN]
    if os.environ.get("TEST_DATABASE_URL"):
        return
    if _SERVER not in node.config.stash:
        stack = node.config.stash[_SERVER] = ExitStack()
        node.config.stash[_ADDRESS] = stack.enter_context(_own_server())("postgres")
    node.workerinput["server"] = node.config.stash[_ADDRESS]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """
    Stop what this process has started, and remove what the workers shared when all have ended.
    """
    forked_commands.stop()
    if hasattr(session.config, "workerinput"):
        return
    if stack := session.config.stash.get(_SERVER, None):
        stack.close()
    elif url := os.environ.get("TEST_DATABASE_URL"):
        _drop(url, f"am_{session.config.stash[_RUN]}")


@pytest.fixture(scope="session")
def own_folders(tmp_path_factory) -> Iterator[Path]:
    """New folders, one after the other; `tmp_path` is slower, because it looks for a free name."""
    folder = tmp_path_factory.mktemp("own")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def own_folder(request, own_folders) -> Iterator[None]:
    """
    Run each test in a folder of its own: `.alpha-monday` of the checkout belongs to `make run`.
    """
    if "tmp_path" in request.fixturenames:
        folder = request.getfixturevalue("tmp_path")
    else:
        folder = next(own_folders)
        folder.mkdir()
    with chdir(folder):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """
    Print the sums of what all tests counted (`record_property`), and the time that the run
    took.
    """
    counted: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        counted.update(
            {what: number for what, number in report.user_properties if isinstance(number, int)}
        )
    for what, number in counted.items():
        terminalreporter.write_line(f"{number:,} {what}")
    # The workers, what they started, and Postgres have ended, so they count as children.
    times = os.times()
    cpu = times.user + times.system + times.children_user + times.children_system
    terminalreporter.write_line(
        f"{time.monotonic() - _BEGUN:.0f} seconds, {cpu:.0f} CPU seconds (tests, what they "
        "started, and Postgres)"
    )


@contextmanager
def _own_server() -> Iterator[Callable[[str], str]]:
    """Run a temporary server, which ends with this process."""
    with (
        tempfile.TemporaryDirectory(prefix="am-test-") as folder,
        EmbeddedPostgres(Path(folder), SETTINGS) as postgres,
    ):
        yield postgres.address
        assert postgres.process
        postgres.process.send_signal(signal.SIGQUIT)  # at once, without a checkpoint
        postgres.process.wait(60)
        shutil.rmtree(postgres.socket, ignore_errors=True)


@pytest.fixture(scope="session")
def server(pytestconfig) -> Iterator[Callable[[str], str]]:
    """
    Return a function that gives the address of any database on the test server.

    The server is TEST_DATABASE_URL's, the one that all workers share, or a temporary one of
    this process.
    """
    shared = getattr(pytestconfig, "workerinput", {}).get("server")
    if url := os.environ.get("TEST_DATABASE_URL") or shared:
        yield lambda name: make_conninfo(url, dbname=name)
        return
    with _own_server() as address:
        yield address


@pytest.fixture(scope="session")
def create(server) -> Iterator[Callable[..., str]]:
    """
    Create a database with a random name, empty or as a copy.

    All of them are dropped at the end of the run, with the roles whose names begin with the
    database's.
    """

    def make(template: str = "template0") -> str:
        name = f"am_{uuid4().hex[:12]}"
        with psycopg.connect(server("postgres"), autocommit=True) as conn:
            _create(conn, name, template)
        made.append(name)
        return server(name)

    made: list[str] = []
    yield make
    if url := os.environ.get("TEST_DATABASE_URL"):  # another server ends, and takes them along
        for name in made:
            _drop(url, name)


def _create(conn: psycopg.Connection, name: str, template: str = "template0") -> None:
    encoding = "ENCODING 'UTF8' LOCALE 'C'" if template == "template0" else ""
    conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} {encoding}")


def _drop(url: str, beginning: str) -> None:
    """Drop the databases whose names begin so, then the roles that were named after them."""
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as conn:
        for (name,) in conn.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (beginning,)
        ).fetchall():
            conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        for (role,) in conn.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (beginning,)
        ).fetchall():
            conn.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="session")
def made_once(server, create, pytestconfig) -> Callable[[str, Callable[[str], None]], str]:
    """
    Return a copy of a database that is filled once for all tests and workers of a run.

    `made_once(name, fill)` calls `fill(address)` in the first worker that requests this name;
    the others wait for it. The original has no connections afterwards, so it can always be
    copied.
    """

    def copied(name: str, fill: Callable[[str], None]) -> str:
        original = f"am_{pytestconfig.stash[_RUN]}_{name}"
        with psycopg.connect(server("postgres"), autocommit=True) as conn:
            conn.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (original,))
            query = "SELECT FROM pg_database WHERE datname = %s"
            if conn.execute(query, (original,)).fetchone() is None:
                _create(conn, original)
                try:
                    fill(server(original))
                except BaseException:
                    conn.execute(f"DROP DATABASE {original} WITH (FORCE)")
                    raise
        return create(original)

    return copied


@pytest.fixture
def empty(create) -> str:
    """The address of a new, empty database."""
    return create()


@pytest.fixture(scope="session")
def migrated(create) -> str:
    """The address of the migrated database that tests share."""
    import asyncio

    address = create()
    asyncio.run(migrations.migrate(address, BEFORE))
    mark_as_shared(address)
    return address


@pytest.fixture
def database(migrated) -> Iterator[str]:
    """The address of a migrated database that is empty at the start of the test."""
    yield migrated
    with psycopg.connect(migrated) as conn:
        conn.execute(
            "SET LOCAL session_replication_role = replica"
        )  # the journal's triggers would refuse
        conn.execute("DROP SCHEMA IF EXISTS told CASCADE")
        (statements,) = conn.execute(
            "SELECT string_agg(format('DELETE FROM %I.%I', schemaname, tablename), '; ') "
            "FROM pg_tables "
            "WHERE schemaname IN ('public', 'queue', 'operations') AND tablename NOT LIKE "
            "'%migrations'"
        ).fetchone()
        conn.execute(statements)


@pytest.fixture
async def pool(database) -> AsyncIterator[pools.Pool]:
    """An open pool on `database`."""
    async with pools.opened(pools.make_pool(database, max_size=5)) as opened:
        yield opened


@pytest.fixture
def commanded(capsys) -> Callable[..., CommandResult]:
    """Run an operator's command in this process."""
    return partial(command, capsys)
