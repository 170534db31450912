"""
The operator's commands: one clear line and a correct exit code.

A test starts a process where it is about the process: its imports, its server, its signals and what
it leaves behind. Elsewhere a command runs in the test's own process (`commanded`).
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from uuid import uuid4

import click
import httpx
import psycopg
import pytest
from click.testing import CliRunner
from commands import ALPHA_MONDAY, environment, run, served, standins, without_place
from processes import until
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.commands.cli import group
from app.commands.server import NEXT_PORTS
from app.core.settings import load
from app.database.embedded import FOLDER, EmbeddedPostgres

KEYS = {"OPENAI_API_KEY": "sk-test", "ALPHA_VANTAGE_API_KEY": "av-test"}


def one_line(text: str) -> str:
    """Return the one line of a refusal, without the line that names the database."""
    lines = [line for line in without_place(text).splitlines() if line]
    assert len(lines) == 1, text
    assert lines[0].startswith("alpha-monday: ")
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({}, "OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY must be set", id="no keys"),
        pytest.param(
            {"OPENAI_API_KEY": "sk-test"}, "ALPHA_VANTAGE_API_KEY must be set", id="one key missing"
        ),
        pytest.param(
            {**KEYS, "PORT": "x"},
            "PORT must be a port number, 0 to 65535, for example PORT=8080",
            id="port",
        ),
        pytest.param(
            {**KEYS, "OPENAI_TEMPERATURE": "hot"},
            "OPENAI_TEMPERATURE must be a number",
            id="temperature",
        ),
        pytest.param(
            {**KEYS, "ALPHA_VANTAGE_PER_DAY": "6", "PORT": "0"},
            "the closes of one series need up to 7 requests a day",
            id="too few requests a day",
        ),
        pytest.param(
            {**KEYS, "HOST": "203.0.113.7"},
            "Cannot listen on 203.0.113.7 port 8080",
            id="not our address",
        ),
        pytest.param(
            {**KEYS, "HOST": "nowhere.invalid"},
            "Cannot listen on nowhere.invalid port 8080: ",
            id="no name",
        ),
        pytest.param(
            {**KEYS, "DATABASE_POOLED": "true", "DATABASE_URL": "postgresql://h/d"},
            "QUEUE_DATABASE_URL must be set when DATABASE_POOLED is true",
            id="pooled without a direct connection",
        ),
    ],
)
def test_serve_refuses_with_one_line(commanded, settings, says):
    """The line says what is wrong and what is needed; the exit code is 1, without a traceback."""
    done = commanded("serve", **settings)
    assert done.exit_code == 1
    assert says in one_line(done.error)


@pytest.mark.parametrize("command", ["serve", "work", "rehearse"])
def test_closes_that_do_not_fit(commanded, tmp_path, command):
    """Five series need 31 requests a day, four need 25; the control counts like a model."""
    names = ["one", "two", "three", "four"]
    tables = [f'[{name}]\nmodel = "m"\nlabel = "{name}"\n' for name in names]
    path = tmp_path / "series.toml"
    path.write_text("".join([*tables, '[dice]\nkind = "random"\n']))
    unreachable = "postgresql://127.0.0.1:1/none"
    settings = {**KEYS, "SERIES_FILE": str(path), "DATABASE_URL": unreachable, "PORT": "0"}
    done = commanded(command, **settings)
    assert (done.exit_code, one_line(done.error)) == (
        1,
        "alpha-monday: ALPHA_VANTAGE_PER_DAY is 25, but the closes of 5 series need up to 31 "
        "requests a day: SPY, and 2 active batches with 3 picks for each series. Set "
        "ALPHA_VANTAGE_PER_DAY to 31 or more if the key allows it, or take series out of "
        "SERIES_FILE.",
    )
    # With enough, the database is the next thing that is checked.
    done = commanded(command, **settings, ALPHA_VANTAGE_PER_DAY="31")
    assert "cannot be reached" in one_line(done.error)
    path.write_text("".join(tables))
    assert "cannot be reached" in one_line(commanded(command, **settings).error)


def test_serve_without_a_database_is_one_line(tmp_path):
    """If the database is away after the port is taken, that is one line too, without a secret."""
    address = "postgresql://user:secret-word@127.0.0.1:1/none"
    done = run("serve", cwd=tmp_path, DATABASE_URL=address, **KEYS)
    assert done.returncode == 1
    assert "The database at 127.0.0.1:1/none cannot be reached" in one_line(done.stderr)
    assert "secret-word" not in done.stderr


def test_a_port_in_use_is_one_line(tmp_path):
    """The refusal names the port and what to set, before anything else is done."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", cwd=tmp_path, PORT=str(port), **KEYS)
    assert done.returncode == 1
    assert (
        f"Cannot listen on 127.0.0.1 port {port}: Address already in use. Set HOST or PORT"
        in one_line(done.stderr)
    )
    assert not (tmp_path / ".alpha-monday").exists()


WEEK = ("rehearse", "--single", "--weeks", "1", "--until", "2026-10-09", "--calm")
DEFAULT_PORT = load({}).port
PORTS = range(DEFAULT_PORT, DEFAULT_PORT + 1 + NEXT_PORTS)


@pytest.fixture
def host() -> str:
    """Return a loopback address on which the default port and the next ones are free."""
    address = ".".join(["127", *(str(SystemRandom().randint(1, 254)) for _ in range(3))])
    for port in PORTS:
        try:
            socket.create_server((address, port)).close()
        except OSError as error:
            pytest.skip(
                f"Another process listens on port {port} of every address: {error.strerror}"
            )
    return address


@pytest.fixture
def rehearsed(made_once, tmp_path_factory) -> str:
    """Return the address of a database with a rehearsed week, so that it is served at once."""

    def rehearse(address: str) -> None:
        folder = tmp_path_factory.mktemp("rehearsed")
        done = run(*WEEK, "--no-serve", cwd=folder, DATABASE_URL=address)
        assert done.returncode == 0, done.stderr

    return made_once("week", rehearse)


@pytest.fixture
def taken(host, request) -> Iterator[None]:
    """Listen on the first ports; the test's parameter is their number."""
    with ExitStack() as stack:
        for port in PORTS[: request.param]:
            stack.enter_context(socket.create_server((host, port)))
        yield


@pytest.mark.parametrize(
    ("taken", "expected_port"),
    [
        pytest.param(0, DEFAULT_PORT, id="the default is free", marks=pytest.mark.long),
        pytest.param(1, DEFAULT_PORT + 1, id="the default is in use"),
        pytest.param(2, DEFAULT_PORT + 2, id="the next one too", marks=pytest.mark.long),
        pytest.param(len(PORTS), None, id="all that are tried"),
    ],
    indirect=["taken"],
)
@pytest.mark.sampled(1)
def test_a_rehearsal_without_a_set_port_chooses_a_free_one(
    tmp_path, host, rehearsed, taken, expected_port
):
    """The rehearsal serves on the next free port, and reports both ports in one line."""
    settings = environment(HOST=host, DATABASE_URL=rehearsed)
    with subprocess.Popen(
        [ALPHA_MONDAY, *WEEK], cwd=tmp_path, env=settings, stderr=subprocess.PIPE
    ) as process:
        output = []
        try:
            for line in map(bytes.decode, process.stderr):
                output.append(line)
                if address := re.search(rf"http://{host}:(\d+)(?=/graphql)", line):
                    break
            else:
                raise AssertionError("".join(output))
            answer = httpx.get(f"{address[0]}/live")
        finally:
            process.terminate()
            process.communicate(timeout=60)
    port = int(address[1])
    assert answer.headers["x-rehearsed"] == "true"
    assert port == expected_port if expected_port else port not in PORTS
    expected = (
        f"Port {DEFAULT_PORT} is in use: the rehearsal will be served on port {port} instead. "
        "Set PORT to choose another.\n"
    )
    assert [line for line in output if "in use" in line] == (
        [] if port == DEFAULT_PORT else [expected]
    )


@pytest.mark.parametrize("taken", [pytest.param(1, id="the default is in use")], indirect=True)
@pytest.mark.parametrize(
    ("command", "settings"),
    [
        pytest.param("rehearse", {"PORT": str(DEFAULT_PORT)}, id="a rehearsal whose port is set"),
        pytest.param("serve", KEYS, id="a live service"),
    ],
)
def test_a_port_that_is_set_and_in_use_is_refused(tmp_path, host, taken, command, settings):
    """A port that is set is used or refused; a live service never chooses another port."""
    done = run(command, cwd=tmp_path, HOST=host, **settings)
    assert done.returncode == 1
    refusal = (
        f"Cannot listen on {host} port {DEFAULT_PORT}: Address already in use. Set HOST or PORT"
    )
    assert refusal in one_line(done.stderr)
    assert not (tmp_path / ".alpha-monday").exists()


@pytest.mark.parametrize("port", [{}, {"PORT": "0"}], ids=["its port is not set", "it is set"])
@pytest.mark.sampled(1)
def test_a_second_rehearsal_of_a_folder_is_refused(tmp_path, host, port):
    """
    It would lose its Postgres when the first one ends, so it is refused; the first one continues.
    """
    with served(*WEEK, cwd=tmp_path) as address:
        done = run(*WEEK, cwd=tmp_path, HOST=host, **port)
        assert done.returncode == 1
        assert "A rehearsal or a service of this folder is running already" in one_line(done.stderr)
        assert httpx.get(f"{address}/health").status_code == 200


@pytest.fixture(scope="module")
def first_rehearsal(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A folder, and a process that has started its Postgres, as a rehearsal does."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "faults.json").write_text("[]")
    (folder / "link").symlink_to(folder)
    program = (
        "from app.database import embedded\n"
        "with embedded.EmbeddedPostgres(settings=embedded.FAST_SETTINGS):\n"
        "    print('started', flush=True)\n"
        "    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"started\n"
        yield folder, process
        process.communicate(b"\n")


# The kind: an option or a setting that has nothing to do with a second rehearsal.
@pytest.mark.parametrize(
    ("words", "settings"),
    [
        pytest.param(
            ["--weeks", "4", "--odd", "a-seed", "--faults", "faults.json"], {}, id="options"
        ),
        pytest.param(
            [],
            {"HOST": "127.0.0.1", "PUBLIC_URL": "http://x.example", "DATABASE_URL": " "},
            id="HOST, PUBLIC_URL, and a blank DATABASE_URL",
        ),
        pytest.param(
            [],
            {
                "OPENAI_BASE_URL": "http://127.0.0.1:1",
                "ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:1",
                **KEYS,
            },
            id="real providers",
        ),
    ],
)
@pytest.mark.sampled(1)
def test_no_other_setting_allows_a_second_rehearsal(first_rehearsal, words, settings):
    """It is refused before anything else, whatever else is set."""
    done = run("rehearse", *words, cwd=first_rehearsal[0], timeout=60, **settings)
    assert done.returncode == 1
    assert "A rehearsal or a service of this folder is running already" in one_line(done.stderr)


def test_another_path_does_not_allow_a_second_rehearsal(first_rehearsal):
    """A folder that is reached by a symbolic link is the same folder."""
    done = run("rehearse", cwd=first_rehearsal[0] / "link", timeout=60)
    assert done.returncode == 1
    assert "A rehearsal or a service of this folder is running already" in one_line(done.stderr)


def test_a_second_rehearsal_beside_a_paused_one(first_rehearsal):
    """A process that is stopped (Ctrl-Z) continues later, and then needs its Postgres."""
    folder, process = first_rehearsal
    process.send_signal(signal.SIGSTOP)
    try:
        done = run("rehearse", cwd=folder, timeout=60)
    finally:
        process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    assert "A rehearsal or a service of this folder is running already" in one_line(done.stderr)


def accepts_connections(port: int) -> bool:
    """Return whether a process listens on this port of the loopback address."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_second_rehearsal_beside_one_that_is_starting(tmp_path):
    """It is refused when the Postgres of the first one has started, for which it waits."""
    program = (
        "from app.database import embedded\n"
        "server = embedded.EmbeddedPostgres(settings=embedded.FAST_SETTINGS)\n"
        "initialise = server._initialise\n"
        "def initialise_later():\n"
        "    print('locked', flush=True)\n"
        "    input()\n"
        "    initialise()\n"
        "server._initialise = initialise_later\n"
        "with server:\n"
        "    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with ThreadPoolExecutor(1) as thread:
            second = thread.submit(
                run, "rehearse", cwd=tmp_path, HOST="127.0.0.1", PORT=str(port), timeout=120
            )
            # It listens only after its first check, which has found no server.
            until(lambda: second.done() or accepts_connections(port), within=60)
            assert not second.done()
            process.stdin.write(b"\n")
            process.stdin.flush()
            done = second.result()
        process.communicate(b"\n")
    assert done.returncode == 1
    assert "A rehearsal or a service of this folder is running already" in one_line(done.stderr)


def test_serve_refuses_a_database_without_migrations(tmp_path, create):
    """
    Without --migrate a database that lacks a migration is refused, and the message names the
    command.
    """
    done = run("serve", cwd=tmp_path, PORT="0", DATABASE_URL=create(), **KEYS)
    assert done.returncode == 1
    assert "lacks migration 0001 (record). Run `alpha-monday migrate`" in one_line(done.stderr)


def test_serve_starts_and_stops(tmp_path, create):
    """
    On an empty database it is healthy, shows an empty record, and ends on SIGTERM.

    Its worker removes its own row.
    """
    address, no_server = create(), "http://127.0.0.1:9"
    providers = {"OPENAI_BASE_URL": no_server, "ALPHA_VANTAGE_BASE_URL": no_server}
    with served(
        "serve", "--migrate", cwd=tmp_path, DATABASE_URL=address, **KEYS, **providers
    ) as url:
        deadline = time.monotonic() + 20
        while (health := httpx.get(f"{url}/health")).status_code != 200:
            assert time.monotonic() < deadline, health.text
        assert health.json() == {"database": "alive", "worker": "alive"}
        assert httpx.get(f"{url}/live").json() == {"status": "alive"}
        assert "x-rehearsed" not in health.headers
        assert "server" not in health.headers
        query = '{ picks(ticker: "AAPL") { nodes { id } } service { rehearsed } }'
        data = httpx.post(f"{url}/graphql", json={"query": query}).json()["data"]
        assert data == {"picks": {"nodes": []}, "service": {"rehearsed": False}}
    with psycopg.connect(address) as conn:
        assert conn.execute("SELECT count(*) FROM queue.procrastinate_workers").fetchone() == (0,)


@pytest.mark.parametrize(
    ("command", "model", "warned"),
    [
        pytest.param(["work"], "o1", True, id="work, with a model that has ended"),
        pytest.param(
            ["serve"],
            "openai/o1-mini",
            True,
            id="serve, with a relay's name of such a model",
            marks=pytest.mark.long,
        ),
        pytest.param(["serve", "--no-worker"], "o1", False, id="a process that asks no model"),
        pytest.param(
            ["work"],
            "llama3.2:3b",
            False,
            id="work, with another kind of model",
            marks=pytest.mark.long,
        ),
    ],
)
@pytest.mark.sampled(1)
def test_a_model_that_has_ended_is_logged_at_the_start(tmp_path, create, command, model, warned):
    """The log warns before the first Monday."""
    with subprocess.Popen(
        [ALPHA_MONDAY, *command, "--migrate"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=create(), OPENAI_MODEL=model, **KEYS),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        output = ""
        for line in process.stderr:
            output += line
            if '"alive"' in line or "Working:" in line or "/graphql" in line:
                break
        process.send_signal(signal.SIGTERM)
        output += process.communicate(timeout=60)[1]
    assert ('"event": "OpenAI retires the model"' in output) is warned, output
    assert (f"OpenAI ended {model} on 202" in output) is warned


@pytest.mark.long
def test_rehearsed_and_live_data_never_share_a_database(tmp_path, create):
    """A rehearsal does not start in a live database, and a service not in a rehearsed one."""
    live, rehearsed = create(), create()
    assert run("migrate", cwd=tmp_path, DATABASE_URL=live).returncode == 0
    with psycopg.connect(live) as conn:
        conn.execute(
            "INSERT INTO batches "
            "(id, series, run_date, created_at, status, late, failure_reason, failure, "
            "benchmark_symbol) VALUES "
            "(gen_random_uuid(), 'main', '2026-11-16', now(), 'failed', false, 'MISSED', 'Nobody "
            "was there.', 'SPY')"
        )
    refused = run("rehearse", "--no-serve", cwd=tmp_path, DATABASE_URL=live)
    assert refused.returncode == 1
    assert "holds a live record" in one_line(refused.stderr)
    done = run(
        "rehearse",
        "--single",
        "--weeks",
        "1",
        "--until",
        "2026-11-03",
        "--calm",
        "--no-serve",
        cwd=tmp_path,
        DATABASE_URL=rehearsed,
    )
    assert done.returncode == 0, done.stderr
    weeks = re.findall("Rehearsing the week of (.*)", done.stderr)
    assert weeks == ["2026-11-02"]  # the first one, too
    for command in ("serve", "pick"):
        refused = run(command, cwd=tmp_path, DATABASE_URL=rehearsed, PORT="0", **KEYS)
        assert refused.returncode == 1
        assert "holds a rehearsal" in refused.stderr or "No Monday has begun" in refused.stderr
    shown = run("show", "2026-11-02", cwd=tmp_path, DATABASE_URL=rehearsed)
    assert "REHEARSED" in shown.stdout
    assert re.search(r"SPY +│ (BUY|SELL) [A-Z.]+ ", shown.stdout.replace("┃", "│"))


def test_a_wrong_reading_is_corrected(commanded, rehearsed):
    """
    Both readings are shown. The newer one is adopted with a reason, as a correction, and only once.
    """
    with psycopg.connect(rehearsed) as conn:
        (ticker,) = conn.execute("SELECT ticker FROM picks ORDER BY position LIMIT 1").fetchone()
        # Without it, Postgres refuses a reading: it looks like one of an older version.
        conn.execute("SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true)")
        conn.execute(
            "INSERT INTO closes SELECT gen_random_uuid(), ticker, trading_day, open, close * 2, "
            "'second', "
            "read_at + interval '1 h' FROM closes WHERE ticker = %s AND trading_day = '2026-10-02'",
            [ticker],
        )
    shown = commanded("closes", ticker.lower(), DATABASE_URL=rehearsed)
    assert shown.exit_code == 0, shown.error
    assert shown.output.count("2026-10-02") == 2
    assert shown.output.count("read differently") == 1
    narrow = commanded("closes", ticker, DATABASE_URL=rehearsed, COLUMNS="30")
    assert "…" not in narrow.output  # folded

    correct = (
        "checkpoint",
        "correct",
        "2026-10-05",
        0,
        ticker,
        "--reason",
        "The first close was a misprint.",
    )
    done = commanded(*correct, DATABASE_URL=rehearsed)
    assert (done.exit_code, done.error.splitlines()[1:]) == (0, ["Corrected: 5 checkpoints."]), (
        done.error
    )
    again = commanded(*correct, DATABASE_URL=rehearsed)
    assert again.exit_code == 1
    assert f"`alpha-monday closes {ticker}` shows all readings" in one_line(again.error)
    with psycopg.connect(rehearsed) as conn:
        made = conn.execute(
            "SELECT field, ticker, after::numeric / before::numeric FROM corrections WHERE field = "
            "'initial_price'"
        ).fetchall()
    assert made == [("initial_price", ticker, 2)]


def test_closes_of_an_unknown_ticker(commanded, database):
    """A ticker without readings is refused."""
    done = commanded("closes", "ZZZ", DATABASE_URL=database)
    assert done.exit_code == 1
    assert "There are no readings of ZZZ" in one_line(done.error)


@pytest.mark.long
def test_weeks_that_a_real_provider_does_not_have_are_refused(tmp_path, create):
    """
    With a real price server, the first baseline session must be among the bars that it returns.
    """
    with standins(tmp_path, datetime.now(UTC).isoformat()) as url:
        settings = {
            "DATABASE_URL": create(),
            "ALPHA_VANTAGE_BASE_URL": url,
            "ALPHA_VANTAGE_API_KEY": "x",
        }
        for _ in range(2):  # refused once is refused again
            done = run("rehearse", "--weeks", "40", "--no-serve", cwd=tmp_path, **settings)
            assert done.returncode == 1
            assert "The bars of ALPHA_VANTAGE_BASE_URL begin on" in done.stderr
            assert "Traceback" not in done.stderr
        done = run("rehearse", "--single", "--weeks", "1", "--no-serve", cwd=tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        assert "Rehearsed: 1 Monday," in done.stderr


def test_a_service_that_waits_for_its_first_monday_is_live(tmp_path, database):
    """Its database is refused for a rehearsal, although it has no batch yet."""
    with psycopg.connect(database) as conn:
        conn.execute("INSERT INTO queue.procrastinate_workers DEFAULT VALUES")
    refused = run("rehearse", "--no-serve", cwd=tmp_path, DATABASE_URL=database)
    assert refused.returncode == 1
    assert "holds a live record" in one_line(refused.stderr)


@pytest.mark.long
def test_a_rehearsal_cannot_go_back(tmp_path, rehearsed):
    """
    A record that was rehearsed until October is not served as of September; the same day again
    works.
    """

    def until(day: str) -> subprocess.CompletedProcess[str]:
        arguments = ("rehearse", "--single", "--weeks", "1", "--until", day, "--calm", "--no-serve")
        return run(*arguments, cwd=tmp_path, DATABASE_URL=rehearsed)

    for day, code in (("2026-10-02", 1), ("2026-10-09", 0), ("2026-10-10", 0)):
        done = until(day)
        assert done.returncode == code, done.stderr
        assert ("--until cannot go back" in done.stderr) == bool(code)


def test_the_simulators_do_not_get_the_password_as_an_argument(tmp_path, rehearsed):
    """The password is no argument, because every user of the machine can see arguments."""
    with served(*WEEK, cwd=tmp_path, DATABASE_URL=rehearsed):
        commands = [
            path.read_bytes()
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if _is_ours(path, tmp_path)
        ]
    assert any(b"app.simulation.provider_simulators" in command for command in commands)
    assert not any(b"dbname" in command for command in commands)


@pytest.mark.parametrize(
    ("line", "times"),
    [
        pytest.param("Rehearsed:", 1, id="Rehearsed"),
        pytest.param("Rehearsed:", 3, id="Rehearsed, again", marks=pytest.mark.long),
        pytest.param("Serving GraphQL", 3, id="Serving GraphQL", marks=pytest.mark.long),
    ],
)
def test_a_signal_between_the_rehearsal_and_the_service(tmp_path, rehearsed, line, times):
    """
    The process ends on SIGTERM after the loop of the rehearsal is closed and before the loop of the
    service exists.
    """
    settings = environment(DATABASE_URL=rehearsed)
    for _ in range(times):
        with subprocess.Popen(
            [ALPHA_MONDAY, *WEEK], cwd=tmp_path, env=settings, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr
            assert any(line in text for text in process.stderr)
            process.terminate()
            try:
                assert process.wait(30) in (0, 143, -signal.SIGTERM)
            finally:
                process.kill()
            assert "Traceback" not in process.stderr.read()


def _is_ours(path: Path, folder: Path) -> bool:
    try:
        return (path.parent / "cwd").readlink() == folder
    except OSError:
        return False


def test_a_user_without_rights_is_one_line(commanded, create):
    """The database exists, but its user may not use it: the error is one line."""
    address, role = (
        create(),
        f"am_{uuid4().hex[:12]}",
    )  # roles are the whole server's, which others may use
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'known'")
        try:
            refused = commanded(
                "migrate", DATABASE_URL=make_conninfo(address, user=role, password="known")
            )
        finally:
            conn.execute(f"DROP ROLE {role}")
    assert refused.exit_code == 1
    assert "permission denied" in one_line(refused.error)
    assert (
        f"GRANT CREATE ON DATABASE {conninfo_to_dict(address)['dbname']} TO {role};"
        in refused.error
    )


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, commanded):
    """A file has the name of the folder: the error is one line."""
    (tmp_path / ".alpha-monday").touch()
    refused = commanded("rehearse", "--no-serve")
    assert refused.exit_code == 1
    assert "Not a directory" in one_line(refused.error)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(
            ["rehearse", "--until", "2999-01-01"],
            1,
            "--until must be a day before today",
            id="future",
        ),
        pytest.param(
            ["rehearse", "--until", "tomorrow"], 2, "'tomorrow' is not a day such as", id="no date"
        ),
        pytest.param(["rehearse", "--weeks", "0"], 2, "0 is not in the range", id="no weeks"),
        pytest.param(
            ["migrate", "--down-to", "-1"], 2, "-1 is not in the range", id="negative migration"
        ),
        pytest.param(
            ["standins", "--port", "99999"],
            2,
            "'99999' is not a number from 0 to 65535",
            id="no port",
        ),
        pytest.param(
            ["standins", "--now", "2026-11-16T09:00"],
            2,
            "is not a time such as 2026-11-16T09:00:00-05:00",
            id="no time",
        ),
        # The kind: a time at which the simulated market could not answer a request.
        pytest.param(
            ["standins", "--now", "2023-01-03T23:59:59-05:00"],
            2,
            "of a day in New York from 2023-01-04 to 2099-12-31",
            id="before the second session of the market",
        ),
        pytest.param(
            ["standins", "--now", "0001-01-01T00:00:00+14:00"],
            2,
            "is not a time such as 2026-11-16T09:00:00-05:00",
            id="before the calendar",
        ),
        pytest.param(
            ["standins", "--now", "9999-12-31T23:59:59-14:00"],
            2,
            "is not a time such as 2026-11-16T09:00:00-05:00",
            id="after the calendar",
        ),
        pytest.param(
            ["standins", "--closed", "Friday"], 2, "'Friday' are not days such as", id="no days"
        ),
        # The kind: options that set the random faults twice, or with an empty value.
        pytest.param(
            ["rehearse", "--odd", "a", "--calm"],
            2,
            "--odd and --calm contradict each other",
            id="odd, calm",
        ),
        pytest.param(
            ["rehearse", "--calm", "--odd=a", "--faults", os.devnull],
            2,
            "--odd and --calm",
            id="calm, odd",
        ),
        pytest.param(["rehearse", "--odd", ""], 2, "--odd needs a seed", id="an empty seed"),
        pytest.param(["rehearse", "--odd="], 2, "--odd needs a seed", id="an empty seed after ="),
        pytest.param(
            ["rehearse", "--odd", " ", "--calm"], 2, "--odd needs a seed", id="a blank seed"
        ),
        pytest.param(
            ["standins", "--odd", "a", "--hostile", "b"],
            2,
            "--hostile: not allowed with argument --odd",
            id="odd, hostile",
        ),
        pytest.param(
            ["standins", "--hostile=b", "--odd=a"], 2, "--odd: not allowed with", id="hostile, odd"
        ),
        pytest.param(
            ["standins", "--odd", ""], 2, "--odd: a seed is a text", id="standins, an empty seed"
        ),
        pytest.param(
            ["standins", "--hostile", ""],
            2,
            "--hostile: a seed is a text",
            id="an empty hostile seed",
        ),
        pytest.param(
            ["standins", "--hostile", "  "],
            2,
            "--hostile: a seed is a text",
            id="a blank hostile seed",
        ),
        pytest.param(
            ["standins", "--faults", "none.json"],
            1,
            "none.json: No such file or directory.",
            id="no script",
        ),
        pytest.param(
            ["show"],
            1,
            "DATABASE_URL is not set, and there is no embedded Postgres in",
            id="no record",
        ),
        pytest.param(["show", "2026-11-24"], 1, "Its week began on 2026-11-23.", id="a Tuesday"),
        pytest.param(
            ["checkpoint", "retake", "2026-11-24", "4"],
            1,
            "2026-11-24 is a Tuesday",
            id="retake, a Tuesday",
        ),
        pytest.param(
            ["checkpoint", "correct", "2026-11-29", "0", "MSFT", "--reason", "So."],
            1,
            "2026-11-29 is a Sunday, and batches are of Mondays. Its week began on 2026-11-23.",
            id="correct, a Sunday",
        ),
        pytest.param(
            [
                "pick",
                "end",
                "2026-11-25",
                "MSFT",
                "--last-session",
                "2026-11-24",
                "--value",
                "1",
                "--source",
                "8-K",
            ],
            1,
            "2026-11-25 is a Wednesday",
            id="end, a Wednesday",
        ),
        pytest.param(
            [
                "pick",
                "rename",
                "2026-11-27",
                "MSFT",
                "KO",
                "--from",
                "2026-11-24",
                "--source",
                "8-K",
                "--force",
            ],
            1,
            "2026-11-27 is a Friday",
            id="rename, a Friday",
        ),
        pytest.param(["db", "down"], 0, "", id="nothing to stop"),
    ],
)
def test_misuse(commanded, arguments, code, says):
    """Wrong arguments are named, with exit code 2."""
    done = commanded(*arguments)
    assert (done.exit_code, says in done.error) == (code, True), done.error
    assert "Traceback" not in done.error


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["sell"], 2, "No such command 'sell'", id="no such command"),
        pytest.param(["rehearse", "--until", "2999-01-01"], 1, "before today", id="future"),
    ],
)
def test_misuse_of_a_process(tmp_path, arguments, code, says):
    """The same cases as above, with the exit code and the standard error of a process."""
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def commands() -> list[list[str]]:
    nested = [
        [name, inner]
        for name, command in group.commands.items()
        for inner in getattr(command, "commands", {})
    ]
    return [[name] for name in group.commands] + nested


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(commanded, command):
    """Each help text has a line that can be copied."""
    done = commanded(*command, "--help")
    assert done.exit_code == 0
    assert re.search(rf"Examples?:.*alpha-monday {' '.join(command)}", done.output, re.DOTALL)


# The kind: an example that the command itself refuses, as one with "[--force]" at its end.
@pytest.mark.parametrize(
    "words", [[], *commands()], ids=lambda words: " ".join(words) or "alpha-monday"
)
def test_every_example_can_be_copied(tmp_path, monkeypatch, words):
    """The shell accepts it unchanged, and the command accepts each word of it."""
    monkeypatch.chdir(tmp_path)
    for name in ("faults.json", "monday.zip"):
        (tmp_path / name).write_text("[]")
    output = CliRunner().invoke(group, [*words, "--help"]).output
    # A setting may come before the command, and the shell's syntax to store its output around it.
    form = r"^    (?:[A-Z_]+=\S+ )?(?:export [A-Z_]+=\"\$\()?(alpha-monday .+?)(?:\)\")?$"
    examples = re.findall(form, output, re.MULTILINE)
    if words == ["standins"]:
        examples = re.findall(r"Example: (alpha-monday .+?)\. ", " ".join(output.split()))
    assert examples
    for example in examples:
        assert not re.search(r"[][<>…]|\.\.\.", example.partition(" | ")[0]), example
        command: click.Command = group
        rest = shlex.split(example.partition(" | ")[0], comments=True)[1:]
        while isinstance(command, click.Group) and rest and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        assert command is not group
        command.make_context(str(command.name), rest)  # raises UsageError


def test_help_names_every_command_and_its_purpose_in_full(tmp_path):
    """Each command is listed under a heading, and no line is cut off with three dots."""
    assert sorted(name for names in group.sections.values() for name in names) == sorted(
        group.commands
    )
    output = [run(*command, "--help", cwd=tmp_path).stdout for command in ((), ("jobs",))]
    assert "\nLook:\n  status  Show what runs" in output[0]
    assert not [line for text in output for line in text.splitlines()[1:] if line.endswith("...")]


def test_a_full_disk_is_one_line(tmp_path):
    """The output cannot be written: no traceback, and Python does not try again at its end."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [ALPHA_MONDAY, "--help"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert (
        one_line(done.stderr)
        == "alpha-monday: The output could not be written: No space left on device"
    )


def test_a_full_disk_after_verify_is_no_discrepancy(tmp_path, database):
    """Exit code 1 of `verify` means a discrepancy, and not a full disk."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [ALPHA_MONDAY, "verify"],
            cwd=tmp_path,
            env=environment(DATABASE_URL=database),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert one_line(done.stderr).startswith(
        "alpha-monday: Everything fits, but that could not be written:"
    )


def test_db_up_reports_a_server_of_another_command(tmp_path):
    """A server that another command started stops with that command, and `db up` says so."""
    with EmbeddedPostgres(tmp_path / FOLDER):
        borrowed = run("db", "up", cwd=tmp_path)
    assert borrowed.returncode == 0
    assert "Postgres stops when that command ends." in one_line(f"alpha-monday: {borrowed.stderr}")


def test_show_without_a_record(commanded, database):
    """An empty record is refused with a sentence, not shown as an empty table."""
    done = commanded("show", DATABASE_URL=database)
    assert (done.exit_code, one_line(done.error)) == (1, "alpha-monday: There is no batch yet.")


def test_migrate(commanded, create):
    """Migrate, list the migrations, take one back, and migrate again."""
    address = create()

    def migrate(*options: str) -> str:
        done = commanded("migrate", *options, DATABASE_URL=address)
        assert done.exit_code == 0, done.error
        return done.output

    assert "0001 record: not applied" in migrate("--status")
    assert "0001 record: applied" in migrate()
    assert "The database is up to date." in migrate()
    assert "0003 queue: taken back" in migrate("--down-to", "2", "--yes")
    migrate()
    assert "not applied" not in migrate("--status")


def test_an_embedded_postgres_that_stays(tmp_path):
    """
    `db up` starts a server that stays, other commands use it, `db down` stops it, `db reset`
    deletes its data.
    """
    up = run("db", "up", cwd=tmp_path)
    assert up.returncode == 0, up.stderr
    address = up.stdout.strip()
    try:
        with psycopg.connect(address) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert run("migrate", cwd=tmp_path).returncode == 0
        assert run("db", "up", cwd=tmp_path).stdout.strip() == address
    finally:
        assert run("db", "down", cwd=tmp_path).stdout.strip() == "Stopped."
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(address)
    assert (tmp_path / ".alpha-monday" / "postgres" / "data").exists()
    assert run("db", "reset", "--yes", cwd=tmp_path).returncode == 0
    left = {path.name for path in (tmp_path / ".alpha-monday" / "postgres").iterdir()}
    # The address, which a DATABASE_URL may contain, depends on the mark. A new lock file would be
    # a second lock.
    assert left == {"mark", "lock"}


# The kind: a variable of a library of ours, or of Python, that ended the import or the start with a
# traceback, or may.
VARIABLES = [
    "REDIS_PORT_FOR_DYNACONF=x",
    "REDIS_DB_FOR_DYNACONF=x",
    "VAULT_TIMEOUT_FOR_DYNACONF=[",
    "LOADERS_FOR_DYNACONF=nothing.like.that",
    "SETTINGS_FILE_FOR_DYNACONF=@format {none}",
    "DYNACONF_PORT=@int x",
    "CORE_LOADERS_FOR_DYNACONF=@json {",
    "PSYCOPG_IMPL=nonsense",
    "PROMETHEUS_MULTIPROC_DIR=/nonexistent",
    "prometheus_multiproc_dir=/nonexistent",
    "WEB_CONCURRENCY=many",
    "LITESTAR_APP=none:none",
    "LITESTAR_WARN_IMPLICIT_SYNC_TO_THREAD=1",
    "PYTHONOPTIMIZE=2",
    "PYTHONWARNINGS=error",
    "FORWARDED_ALLOW_IPS=x",
    "COLUMNS=wide",
    "OPENAI_LOG=loud",
]


def check_harmless(folder: Path, *variables: str) -> None:
    """
    Start the service with some of these variables: it must end with its own refusal, without a
    traceback.
    """
    done = run(
        "serve",
        cwd=folder,
        DATABASE_URL="postgresql://user@127.0.0.1:1/none",
        **KEYS,
        **dict(variable.split("=", 1) for variable in variables),
    )
    assert done.returncode == 1
    assert "The database at 127.0.0.1:1/none cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_variables_of_libraries_do_no_harm(tmp_path):
    """The command ends with its own message, without a traceback."""
    check_harmless(tmp_path, *VARIABLES)


@pytest.mark.long
@pytest.mark.parametrize("variable", VARIABLES)
def test_one_variable_of_a_library_does_no_harm(tmp_path, variable):
    """The same with one variable at a time, so that none hides the effect of another."""
    check_harmless(tmp_path, variable)


# The kind: a moment of the imports, early or late. Python itself reports each import, so that no
# test has to guess how long they take.
@pytest.mark.parametrize(
    "module",
    [
        "app.commands.startup",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("asyncio", "click", "psycopg", "litestar")
        ),
        "jobs.queue",
    ],
)
def test_ctrl_c_while_modules_are_imported(tmp_path, module):
    """No traceback, at any import."""
    process = subprocess.Popen(
        [ALPHA_MONDAY, "show"],
        cwd=tmp_path,
        env=environment(PYTHONPROFILEIMPORTTIME="1"),
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.rpartition("|")[2].strip() == module:
            break
    else:
        raise AssertionError(f"{module} is not imported.")
    if module == "app.commands.startup":  # its function is called right after it is imported
        next(process.stderr)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode in (130, 1)  # 1: the command was already at its own refusal


# The kind: a moment of the start, from the first line to the first simulated week. A line says that
# it has come, so that no test has to guess how long the start takes.
@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Database: rehearsal", marks=pytest.mark.long),
        pytest.param("0001 record: applied", marks=pytest.mark.long),
        "queue: installed",
        pytest.param("Rehearsing the week", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(
    "seconds",
    [0.0, *(pytest.param(0.2 * number, marks=pytest.mark.long) for number in range(1, 8))],
)
def test_ctrl_c_stops_a_rehearsal(tmp_path, line, seconds):
    """No traceback, and the embedded Postgres stops, whenever it comes."""
    with subprocess.Popen(
        [ALPHA_MONDAY, "rehearse", "--no-serve"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert any(printed.startswith(line) for printed in process.stderr)
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, output = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in output
    pid = Path(tmp_path / ".alpha-monday" / "postgres" / "data" / "postmaster.pid")
    assert not pid.exists() or not _alive(int(pid.read_text().split()[0]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
