"""
Tests and tools depend on nothing outside of their own folder and process, and two checkouts do not
affect each other.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import strftime

import isolation
import psycopg
import pytest
from commands import environment
from document_text import HOUSE

from app.core.settings import Settings
from app.database import sessions
from app.database.embedded import FAST_SETTINGS, FOLDER, EmbeddedPostgres
from app.simulation.provider_simulators import CLOCK_VARIABLE

# A port to listen on or to connect to: after an address, as an argument, or as a setting.
PORT = re.compile(
    r"""
    (?: (?: \b127\.0\.0\.1 | \blocalhost | \b0\.0\.0\.0 | \[::1?\] ) ["']? [:,] \s* ["']?
      | \bport \b ["']? \s* [=:] \s* ["']?
      | --port [\s=,"']+
    ) (\d+) (?! \d | \.\d )  # and no other address
    """,
    re.VERBOSE | re.IGNORECASE,
)

FREE = "The kernel chooses a free port."
REFUSED = "Nothing listens on a port that is so low: a connection is refused."
NO_PORT = "It is too large for a port."
EXAMPLE = "A comment's example of a command."
TEXT = "A text that is compared: nothing listens on it or connects to it."

ANYWHERE = {"0": FREE, "1": REFUSED, "9": REFUSED, "99999": NO_PORT}
SOMEWHERE = {
    ("dev/bench/peers/mercurius.js", "8082"): EXAMPLE,
    ("dev/bench/peers/postgraphile.js", "8081"): EXAMPLE,
    ("dev/bench/post.lua", "8080"): EXAMPLE,
    ("dev/bench/raw.py", "8080"): EXAMPLE,
    ("dev/bench/raw.py", "8081"): EXAMPLE,
    ("dev/bench/serve.py", "8080"): EXAMPLE,
    ("tests/integration/commands/test_cli.py", "8080"): TEXT,
    ("tests/integration/jobs/test_in_force.py", "11434"): TEXT,
    ("tests/integration/jobs/test_in_force.py", "40001"): TEXT,
    ("tests/integration/ops/test_verify_stamps.py", "80"): TEXT,
    ("tests/integration/providers/test_timestamp_authority.py", "8090"): TEXT,
    ("tests/project/test_bench.py", "8184"): TEXT,
    ("tests/project/test_readme.py", "8080"): TEXT,
    ("tests/unit/core/test_series_file.py", "11434"): TEXT,
    ("tests/unit/simulation/test_rehearsed_series.py", "11434"): TEXT,
    ("tests/unit/simulation/test_rehearsed_series.py", "8090"): TEXT,
    ("tests/unit/simulation/test_rehearsed_series.py", "9000"): TEXT,
}
# That file only reads settings, so it may contain any number.
NOTHING_LISTENS = "tests/unit/core/test_settings.py"
WRITTEN_HERE = ("tests/project/test_isolation.py", "8080")  # in HOSTILE, with a listener on it


def test_no_test_and_no_tool_has_a_fixed_port():
    """Another process could use it, for example `make run`. Every exception is still needed."""
    ports = {
        (str(path.relative_to(HOUSE)), port)
        for path in programs(HOUSE / "tests", HOUSE / "dev")
        for port in PORT.findall(path.read_text())
    }
    fixed = {
        (path, port) for path, port in ports if port not in ANYWHERE and path != NOTHING_LISTENS
    }
    assert fixed == SOMEWHERE.keys() | {WRITTEN_HERE}


def programs(*folders: Path) -> Iterator[Path]:
    """Yield every program below some folders, without the packages of npm and pip."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            brought = {"node_modules", ".venv", "generated"} & set(path.parts)
            if path.suffix in {".py", ".mjs", ".js", ".ts", ".lua"} and not brought:
                yield path


@pytest.mark.parametrize(
    "text",
    [
        'create_server(("127.0.0.1", 8080))',
        "http://localhost:8080/graphql",
        'environment(PORT="8080")',
        '{"PORT": "8080"}',
        "uvicorn.run(app, port=8080)",
        '["standins", "--port", "8080"]',
        "process.env.PORT = 8080",
    ],
)
def test_a_fixed_port_is_found(text):
    """It is found in every form."""
    assert PORT.findall(text) == ["8080"]


# Every setting of the product with a value that would be refused, and variables that would mislead
# its libraries.
HOSTILE = {
    **{name.upper(): "hostile" for name in Settings.__struct_fields__},
    "PORT": "8080",
    "DATABASE_URL": "postgresql://hostile@127.0.0.1:1/none",
    "ENV_FOR_DYNACONF": "hostile",
    "SETTINGS_FILE_FOR_DYNACONF": "hostile.toml",
    "OPENAI_ORG_ID": "hostile",
    "OPENAI_CUSTOM_HEADERS": "authorization: hostile",
    CLOCK_VARIABLE: "host=hostile",
    "PROCRASTINATE_APP": "hostile",
    "PGHOST": "127.0.0.1",
    "PGHOSTADDR": "127.0.0.1",
    "PGPORT": "1",
    "PGUSER": "hostile",
    "PGDATABASE": "hostile",
    "PGSERVICE": "hostile",
    "PGSSLMODE": "verify-full",
    "PGOPTIONS": "-c default_transaction_read_only=on -c timezone=Asia/Tokyo -c datestyle=SQL,DMY",
    "PGTZ": "Asia/Tokyo",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "SSL_CERT_FILE": "hostile.pem",
    "SSL_CERT_DIR": "hostile",
    "TZ": "Asia/Tokyo",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "COLUMNS": "20",
    "LINES": "3",
    "TERM": "xterm-256color",
    "FORCE_COLOR": "1",
    "NO_COLOR": "",
    "PYTHONWARNINGS": "ignore",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONDEVMODE": "",
    "PYTHONSAFEPATH": "1",
    "GIT_DIR": "hostile",
    "GIT_INDEX_FILE": "hostile",
    "XDG_CONFIG_HOME": "hostile",
}

# Quick tests of each folder: settings, the command line, Postgres, HTTP in and out, times, git, the
# width of a table.
QUICK = [
    "tests/unit/core/test_settings.py::test_the_environment",
    "tests/unit/core/test_settings.py::test_a_wrong_setting_is_one_line_on_the_terminal",
    "tests/unit/domain/test_calendar.py::test_sessions",
    "tests/integration/providers/test_alpha_vantage.py::test_a_daily_series",
    "tests/integration/commands/test_cli.py::test_misuse[future]",
    "tests/integration/commands/test_jobs.py::test_list",
    "tests/integration/providers/test_llm.py::test_a_good_answer",
    "tests/integration/providers/test_webhook.py::test_a_post",
    "tests/scenarios/test_many_machines.py::test_a_server_without_a_worker_is_healthy",
    "tests/project/test_house.py::test_no_tracked_file_names_a_registry_or_a_machine",
    "tests/project/test_isolation.py::test_a_test_is_isolated",
]


@pytest.fixture
def taken() -> Iterator[None]:
    """Listen on the port of `make run`, unless it runs already."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 8080)))
        yield


@pytest.mark.long
def test_the_tests_ignore_hostile_surroundings(tmp_path, taken):
    """
    Wrong settings, proxies and Postgres variables, another checkout on the path, another time zone,
    a narrow terminal, and a shell that ignores Ctrl-C have no effect.
    """
    other = tmp_path / "other"
    for name in ("app", "jobs", "api", "commands", "isolation"):
        (other / name).mkdir(parents=True)
        (other / name / "__init__.py").write_text(
            f"raise SystemExit('This is the {name} of another checkout.')"
        )
    hostile = {
        **HOSTILE,
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(other),
    }
    command = [
        *("sh", "-c", 'trap "" INT; exec "$@"', "sh"),
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *QUICK,
    ]
    done = subprocess.run(
        command, cwd=HOUSE, env=hostile, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_test_is_isolated(tmp_path):
    """
    A test runs in its own folder, with few variables, in UTC, and Ctrl-C ends it.

    The commands that it starts belong to this checkout.
    """
    assert Path.cwd() == tmp_path
    ours = {"HOME", "TZ", *isolation.ALLOWED, *isolation.moved_clock()}
    assert [
        name
        for name in os.environ
        if name not in ours and not name.startswith(isolation.ALLOWED_PREFIXES)
    ] == []
    assert strftime("%Z") == "UTC"
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    program = (
        "import app, jobs, api.schema; print(app.__path__[0], jobs.__path__[0], "
        "api.schema.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        str(HOUSE / part) for part in ("app", "jobs", "graphql/api/schema.py")
    ]


def test_another_encoding_is_refused():
    """A process has one encoding from its start, which cannot be changed later."""
    variables = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", __file__]
    done = subprocess.run(
        command,
        cwd=HOUSE,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Files would not be read as UTF-8: set PYTHONUTF8=1." in done.stderr


# The embedded Postgres of two checkouts


def test_two_checkouts_have_two_servers(tmp_path):
    """
    A checkout and its copy, with all files of the original's server, each read only what they have
    written.
    """
    second = tmp_path / "second"
    first = tmp_path.joinpath("backup", *second.parts[1:])  # its path ends like the other's
    first.mkdir(parents=True)
    with embedded(first) as original:
        remember(original, "one")
        shutil.copytree(first, second)  # with postmaster.pid, as a live server has it
        with embedded(second) as copy:
            assert copy.process
            assert copy.socket != original.socket
            remember(copy, "copy")
            assert (remembered(original), remembered(copy)) == (["one"], ["one", "copy"])
        assert original.is_running()


def test_a_symbolic_link_leads_to_the_same_server(tmp_path):
    """It is one checkout with two names."""
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    with embedded(tmp_path / "one") as original, embedded(tmp_path / "link") as same:
        assert same.process is None
        assert same.address() == original.address()
        remember(same, "through the link")
        assert remembered(original) == ["through the link"]
    assert not original.is_running()


def test_a_new_checkout_in_the_place_of_another(tmp_path):
    """
    The old server may run for a minute after its folder was deleted. No command connects to it.
    """
    (tmp_path / "one").mkdir()
    with embedded(tmp_path / "one") as old:
        address = old.address()
        remember(old, "old")
        (tmp_path / "one").rename(tmp_path / "gone")
        (tmp_path / "one").mkdir()
        with embedded(tmp_path / "one") as new:
            assert new.address() != address
            remember(new, "new")
            assert remembered(new) == ["new"]


def test_a_checkout_that_is_moved_finds_its_server(tmp_path):
    """
    A running server is stopped under its new path, because two servers would damage the same data.
    """
    (tmp_path / "one").mkdir()
    before = EmbeddedPostgres(tmp_path / "one" / FOLDER, FAST_SETTINGS).start(detach=True)
    remember(before, "before the move")
    before.stop()
    (tmp_path / "one").rename(tmp_path / "two")
    with embedded(tmp_path / "two") as after:
        assert before.process
        before.process.wait(
            10
        )  # with an error, because it misses a file by its old name; the next start recovers
        assert remembered(after) == ["before the move"]


def test_the_port_of_another_server_does_not_matter(tmp_path, monkeypatch):
    """PGPORT is meant for servers on TCP; it would change the name of the socket."""
    monkeypatch.setattr(sessions, "_removed_variables", {})
    monkeypatch.setenv("PGPORT", "1")
    with embedded(tmp_path) as postgres:
        assert postgres.is_running()


def embedded(checkout: Path) -> EmbeddedPostgres:
    """Return the embedded Postgres of a checkout."""
    return EmbeddedPostgres(checkout / FOLDER, FAST_SETTINGS)


def remember(postgres: EmbeddedPostgres, word: str) -> None:
    """Write a word into a server."""
    with psycopg.connect(postgres.address()) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        conn.execute("INSERT INTO words VALUES (%s)", (word,))
        conn.commit()
        conn.autocommit = True
        conn.execute("CHECKPOINT")  # so that a copy of the files has it


def remembered(postgres: EmbeddedPostgres) -> list[str]:
    """Return the words of a server."""
    with psycopg.connect(postgres.address()) as conn:
        return [word for (word,) in conn.execute("SELECT word FROM words").fetchall()]
