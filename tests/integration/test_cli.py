"""The operator's commands, started as an operator starts them: one clear line and an honest exit code."""

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
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
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.commands.cli import group
from app.commands.server import NEXT_PORTS
from app.core.settings import load
from app.database.embedded import FOLDER, EmbeddedPostgres

KEYS = {"OPENAI_API_KEY": "sk-test", "ALPHA_VANTAGE_API_KEY": "av-test"}


def one_line(text: str) -> str:
    """Return the one line that a refusal is, beside the one that names the database."""
    lines = [line for line in without_place(text).splitlines() if line]
    assert len(lines) == 1, text
    assert lines[0].startswith("alpha-monday: ")
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({}, "OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY must be set", id="no keys"),
        pytest.param({"OPENAI_API_KEY": "sk-test"}, "ALPHA_VANTAGE_API_KEY must be set", id="one key missing"),
        pytest.param({**KEYS, "PORT": "x"}, "PORT must be a port number, 0 to 65535, for example PORT=8080", id="port"),
        pytest.param({**KEYS, "OPENAI_TEMPERATURE": "hot"}, "OPENAI_TEMPERATURE must be a number", id="temperature"),
        pytest.param({**KEYS, "HOST": "203.0.113.7"}, "Cannot listen on 203.0.113.7 port 8080", id="not our address"),
        pytest.param({**KEYS, "HOST": "nowhere.invalid"}, "Cannot listen on nowhere.invalid port 8080: ", id="no name"),
        pytest.param(
            {**KEYS, "PORT": "0", "DATABASE_URL": "postgresql://nobody:secret-word@127.0.0.1:1/none"},
            "The database at 127.0.0.1:1/none cannot be reached",
            id="no database",
        ),
        pytest.param(
            {**KEYS, "DATABASE_POOLED": "true", "DATABASE_URL": "postgresql://h/d"},
            "QUEUE_DATABASE_URL must be set when DATABASE_POOLED is true",
            id="pooled without a direct connection",
        ),
    ],
)
def test_serve_refuses_with_one_line(tmp_path, settings, says):
    """What is wrong, what it must be, exit code 1; no traceback, no secret."""
    done = run("serve", cwd=tmp_path, **settings)
    assert done.returncode == 1
    assert says in one_line(done.stderr)
    assert "secret-word" not in done.stderr


def test_a_port_in_use_is_one_line(tmp_path):
    """It names the port, and what to set, before anything else is done."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", cwd=tmp_path, PORT=str(port), **KEYS)
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1 port {port}: Address already in use. Set HOST or PORT" in one_line(done.stderr)
    assert not (tmp_path / ".alpha-monday").exists()


WEEK = ("rehearse", "--weeks", "1", "--until", "2026-10-09", "--calm")
DEFAULT_PORT = load({}).port
PORTS = range(DEFAULT_PORT, DEFAULT_PORT + 1 + NEXT_PORTS)


@pytest.fixture
def host() -> str:
    """Return a loopback address of the test's own, on which the default port and those after it are free."""
    address = ".".join(["127", *(str(SystemRandom().randint(1, 254)) for _ in range(3))])
    for port in PORTS:
        try:
            socket.create_server((address, port)).close()
        except OSError as error:
            pytest.skip(f"Another process listens on port {port} of every address: {error.strerror}")
    return address


@pytest.fixture(scope="module")
def rehearsed(create, tmp_path_factory) -> str:
    """Return the address of a database in which a week is rehearsed, so that it is served at once."""
    address = create()
    done = run(*WEEK, "--no-serve", cwd=tmp_path_factory.mktemp("rehearsed"), DATABASE_URL=address)
    assert done.returncode == 0, done.stderr
    return address


@pytest.fixture
def taken(host, request) -> Iterator[None]:
    """Listen on the first ports, as many as the test's parameter says."""
    with ExitStack() as stack:
        for port in PORTS[: request.param]:
            stack.enter_context(socket.create_server((host, port)))
        yield


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        pytest.param(0, DEFAULT_PORT, id="the default is free"),
        pytest.param(1, DEFAULT_PORT + 1, id="the default is in use"),
        pytest.param(2, DEFAULT_PORT + 2, id="the next one too"),
        pytest.param(len(PORTS), None, id="all that are tried"),
    ],
    indirect=["taken"],
)
def test_a_rehearsal_whose_port_is_not_set_finds_a_free_one(tmp_path, host, rehearsed, taken, found):
    """It serves there, and says in one line which port was in use and where it serves instead."""
    settings = environment(HOST=host, DATABASE_URL=rehearsed)
    with subprocess.Popen([ALPHA_MONDAY, *WEEK], cwd=tmp_path, env=settings, stderr=subprocess.PIPE) as process:
        said = []
        try:
            for line in map(bytes.decode, process.stderr):
                said.append(line)
                if address := re.search(rf"http://{host}:(\d+)(?=/graphql)", line):
                    break
            else:
                raise AssertionError("".join(said))
            answer = httpx.get(f"{address[0]}/live")
        finally:
            process.terminate()
            process.communicate(timeout=60)
    port = int(address[1])
    assert answer.headers["x-rehearsed"] == "true"
    assert port == found if found else port not in PORTS
    expected = (
        f"Port {DEFAULT_PORT} is in use: the rehearsal will be served on port {port} instead. "
        "Set PORT to choose another.\n"
    )
    assert [line for line in said if "in use" in line] == ([] if port == DEFAULT_PORT else [expected])


@pytest.mark.parametrize("taken", [pytest.param(1, id="the default is in use")], indirect=True)
@pytest.mark.parametrize(
    ("command", "settings"),
    [
        pytest.param("rehearse", {"PORT": str(DEFAULT_PORT)}, id="a rehearsal whose port is set"),
        pytest.param("serve", KEYS, id="a live service"),
    ],
)
def test_a_port_that_must_not_move_is_refused(tmp_path, host, taken, command, settings):
    """A port that was set is meant, even the default one; a live service never moves by itself."""
    done = run(command, cwd=tmp_path, HOST=host, **settings)
    assert done.returncode == 1
    refusal = f"Cannot listen on {host} port {DEFAULT_PORT}: Address already in use. Set HOST or PORT"
    assert refusal in one_line(done.stderr)
    assert not (tmp_path / ".alpha-monday").exists()


def test_a_second_rehearsal_of_a_folder_is_refused(tmp_path, host):
    """It would lose its Postgres when the first one ends; the first one goes on."""
    with served(*WEEK, cwd=tmp_path) as address:
        done = run(*WEEK, cwd=tmp_path, HOST=host)
        assert done.returncode == 1
        assert "A rehearsal or a service of this folder is running already" in one_line(done.stderr)
        assert httpx.get(f"{address}/health").status_code == 200


def test_serve_wants_a_migrated_database(tmp_path, create):
    """Without --migrate a database that lacks a migration is refused, with the command that helps."""
    done = run("serve", cwd=tmp_path, PORT="0", DATABASE_URL=create(), **KEYS)
    assert done.returncode == 1
    assert "lacks migration 0001 (record). Run `alpha-monday migrate`" in one_line(done.stderr)


def test_serve_lives_and_drains(tmp_path, create):
    """Live on an empty database: healthy, an empty record, gone on SIGTERM; its worker has signed off."""
    address, nobody = create(), "http://127.0.0.1:9"
    providers = {"OPENAI_BASE_URL": nobody, "ALPHA_VANTAGE_BASE_URL": nobody}
    with served("serve", "--migrate", cwd=tmp_path, DATABASE_URL=address, **KEYS, **providers) as url:
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
        pytest.param(["serve"], "openai/o1-mini", True, id="serve, with a relay's name of one"),
        pytest.param(["serve", "--no-worker"], "o1", False, id="a process that asks no model"),
        pytest.param(["work"], "llama3.2:3b", False, id="work, with another kind of model"),
    ],
)
def test_a_model_that_has_ended_is_logged_at_the_start(tmp_path, create, command, model, warned):
    """The log says it before the first Monday does."""
    with subprocess.Popen(
        [ALPHA_MONDAY, *command, "--migrate"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=create(), OPENAI_MODEL=model, **KEYS),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if '"alive"' in line or "Working:" in line or "/graphql" in line:
                break
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=60)[1]
    assert ('"event": "the model ends"' in said) is warned, said
    assert (f"OpenAI ended {model} on 202" in said) is warned


def test_rehearsed_and_live_data_never_share_a_database(tmp_path, create):
    """Neither starts in the other's database."""
    live, rehearsed = create(), create()
    assert run("migrate", cwd=tmp_path, DATABASE_URL=live).returncode == 0
    with psycopg.connect(live) as conn:
        conn.execute(
            "INSERT INTO batches "
            "(id, series, run_date, created_at, status, late, failure_reason, failure, benchmark_symbol) VALUES "
            "(gen_random_uuid(), 'main', '2026-11-16', now(), 'failed', false, 'MISSED', 'Nobody was there.', 'SPY')"
        )
    refused = run("rehearse", "--no-serve", cwd=tmp_path, DATABASE_URL=live)
    assert refused.returncode == 1
    assert "holds a live record" in one_line(refused.stderr)
    done = run(
        "rehearse",
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
    told = re.findall("Rehearsing the week of (.*)", done.stderr)
    assert told == ["2026-11-02"]  # the first one, too
    for command in ("serve", "pick"):
        refused = run(command, cwd=tmp_path, DATABASE_URL=rehearsed, PORT="0", **KEYS)
        assert refused.returncode == 1
        assert "holds a rehearsal" in refused.stderr or "No Monday has begun" in refused.stderr
    shown = run("show", "2026-11-02", cwd=tmp_path, DATABASE_URL=rehearsed)
    assert "REHEARSED" in shown.stdout
    assert re.search(r"SPY +│ (BUY|SELL) [A-Z.]+ ", shown.stdout.replace("┃", "│"))


def test_a_reading_that_proves_wrong(tmp_path, create):
    """Both readings are shown; the newer one is adopted with a reason, in the open, and only once."""
    database = create()
    weeks = ("rehearse", "--weeks", "1", "--until", "2026-10-09", "--calm", "--no-serve")
    assert run(*weeks, cwd=tmp_path, DATABASE_URL=database).returncode == 0
    with psycopg.connect(database) as conn:
        (ticker,) = conn.execute("SELECT ticker FROM picks ORDER BY position LIMIT 1").fetchone()
        conn.execute(
            "INSERT INTO closes SELECT gen_random_uuid(), ticker, trading_day, open, close * 2, 'second', "
            "read_at + interval '1 h' FROM closes WHERE ticker = %s AND trading_day = '2026-10-02'",
            [ticker],
        )
    shown = run("closes", ticker.lower(), cwd=tmp_path, DATABASE_URL=database)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("2026-10-02") == 2
    assert shown.stdout.count("read differently") == 1
    assert "…" not in run("closes", ticker, cwd=tmp_path, DATABASE_URL=database, COLUMNS="30").stdout  # folded

    correct = ("checkpoint", "correct", "2026-10-05", 0, ticker, "--reason", "The first close was a misprint.")
    done = run(*correct, cwd=tmp_path, DATABASE_URL=database)
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, ["Corrected: 5 checkpoints."]), done.stderr
    again = run(*correct, cwd=tmp_path, DATABASE_URL=database)
    assert again.returncode == 1
    assert f"`alpha-monday closes {ticker}` shows all readings" in one_line(again.stderr)
    with psycopg.connect(database) as conn:
        made = conn.execute(
            "SELECT field, ticker, after::numeric / before::numeric FROM corrections WHERE field = 'initial_price'"
        ).fetchall()
    assert made == [("initial_price", ticker, 2)]


def test_closes_of_what_was_never_read(tmp_path, create):
    """A ticker that the record does not know is said to be unknown."""
    database = create()
    assert run("migrate", cwd=tmp_path, DATABASE_URL=database).returncode == 0
    done = run("closes", "ZZZ", cwd=tmp_path, DATABASE_URL=database)
    assert done.returncode == 1
    assert "Nothing was read of ZZZ" in one_line(done.stderr)


def test_weeks_out_of_a_real_providers_reach_are_refused(tmp_path, create):
    """With a price server of one's own, the first baseline must be among the bars it tells."""
    with standins(tmp_path, datetime.now(UTC).isoformat()) as url:
        settings = {"DATABASE_URL": create(), "ALPHA_VANTAGE_BASE_URL": url, "ALPHA_VANTAGE_API_KEY": "x"}
        for _ in range(2):  # refused once is refused again
            done = run("rehearse", "--weeks", "40", "--no-serve", cwd=tmp_path, **settings)
            assert done.returncode == 1
            assert "The bars of ALPHA_VANTAGE_BASE_URL begin on" in done.stderr
            assert "Traceback" not in done.stderr
        done = run("rehearse", "--weeks", "1", "--no-serve", cwd=tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        assert "Rehearsed: 1 Monday," in done.stderr


def test_a_service_that_waits_for_its_first_monday_is_live(tmp_path, create):
    """Its database is no place for a rehearsal, although there is no batch yet."""
    live = create()
    assert run("migrate", cwd=tmp_path, DATABASE_URL=live).returncode == 0
    with psycopg.connect(live) as conn:
        conn.execute("INSERT INTO queue.procrastinate_workers DEFAULT VALUES")
    refused = run("rehearse", "--no-serve", cwd=tmp_path, DATABASE_URL=live)
    assert refused.returncode == 1
    assert "holds a live record" in one_line(refused.stderr)


def test_a_rehearsal_cannot_go_back(tmp_path, create):
    """A record that was lived until October is not served as one of September; the same day again is fine."""
    database = create()

    def until(day: str) -> subprocess.CompletedProcess[str]:
        arguments = ("rehearse", "--weeks", "1", "--until", day, "--no-serve")
        return run(*arguments, cwd=tmp_path, DATABASE_URL=database)

    for day, code in (("2026-10-09", 0), ("2026-10-02", 1), ("2026-10-09", 0), ("2026-10-10", 0)):
        done = until(day)
        assert done.returncode == code, done.stderr
        assert ("--until cannot go back" in done.stderr) == bool(code)


def test_the_stand_ins_are_not_told_the_password_where_all_can_see(tmp_path, create):
    """An argument is seen by everybody on the machine."""
    with served("rehearse", "--weeks", "1", "--until", "2026-10-09", cwd=tmp_path, DATABASE_URL=create()):
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _is_ours(path, tmp_path)]
    assert any(b"app.simulation.provider_simulators" in command for command in commands)
    assert not any(b"dbname" in command for command in commands)


@pytest.mark.parametrize("line", ["Rehearsed:", pytest.param("Serving GraphQL", marks=pytest.mark.long)])
def test_a_signal_between_the_rehearsal_and_the_service_is_heard(tmp_path, create, line):
    """The loop that lived through the weeks is closed then, and the service's is not there yet."""
    command = [ALPHA_MONDAY, "rehearse", "--weeks", "1", "--until", "2026-10-09"]
    settings = environment(DATABASE_URL=create())
    for _ in range(3):
        with subprocess.Popen(command, cwd=tmp_path, env=settings, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            assert any(line in said for said in process.stderr)
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


def test_a_user_without_rights_is_one_line(tmp_path, create):
    """The database is there, but it is not for this user."""
    address, role = create(), f"am_{uuid4().hex[:12]}"  # roles are the whole server's, which others may use
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'known'")
        try:
            refused = run("migrate", cwd=tmp_path, DATABASE_URL=make_conninfo(address, user=role, password="known"))
        finally:
            conn.execute(f"DROP ROLE {role}")
    assert refused.returncode == 1
    assert "permission denied" in one_line(refused.stderr)
    assert f"GRANT CREATE ON DATABASE {conninfo_to_dict(address)['dbname']} TO {role};" in refused.stderr


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """The folder's name is taken by a file."""
    (tmp_path / ".alpha-monday").touch()
    refused = run("rehearse", "--no-serve", cwd=tmp_path)
    assert refused.returncode == 1
    assert "Not a directory" in one_line(refused.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["rehearse", "--until", "2999-01-01"], 1, "--until must be a day before today", id="future"),
        pytest.param(["rehearse", "--until", "tomorrow"], 2, "'tomorrow' is no day such as", id="no date"),
        pytest.param(["rehearse", "--weeks", "0"], 2, "0 is not in the range", id="no weeks"),
        pytest.param(["migrate", "--down-to", "-1"], 2, "-1 is not in the range", id="negative migration"),
        pytest.param(["standins", "--port", "99999"], 2, "'99999' is no number from 0 to 65535", id="no port"),
        pytest.param(
            ["standins", "--now", "2026-11-16T09:00"], 2, "is no time such as 2026-11-16T09:00:00-05:00", id="no time"
        ),
        pytest.param(["standins", "--closed", "Friday"], 2, "'Friday' are no days such as", id="no days"),
        # The kind: what decides about chance twice, or not at all.
        pytest.param(["rehearse", "--odd", "a", "--calm"], 2, "--odd and --calm contradict each other", id="odd, calm"),
        pytest.param(["rehearse", "--calm", "--odd=a", "--faults", os.devnull], 2, "--odd and --calm", id="calm, odd"),
        pytest.param(["rehearse", "--odd", ""], 2, "--odd needs a seed", id="an empty seed"),
        pytest.param(["rehearse", "--odd="], 2, "--odd needs a seed", id="an empty seed after ="),
        pytest.param(["rehearse", "--odd", " ", "--calm"], 2, "--odd needs a seed", id="a blank seed"),
        pytest.param(
            ["standins", "--odd", "a", "--hostile", "b"],
            2,
            "--hostile: not allowed with argument --odd",
            id="odd, hostile",
        ),
        pytest.param(["standins", "--hostile=b", "--odd=a"], 2, "--odd: not allowed with", id="hostile, odd"),
        pytest.param(["standins", "--odd", ""], 2, "--odd: a seed is a text", id="standins, an empty seed"),
        pytest.param(["standins", "--hostile", ""], 2, "--hostile: a seed is a text", id="an empty hostile seed"),
        pytest.param(["standins", "--hostile", "  "], 2, "--hostile: a seed is a text", id="a blank hostile seed"),
        pytest.param(["standins", "--faults", "none.json"], 1, "none.json: No such file or directory.", id="no script"),
        pytest.param(["show"], 1, "DATABASE_URL is not set, and there is no embedded Postgres in", id="no record"),
        pytest.param(["show", "2026-11-24"], 1, "Its week began on 2026-11-23.", id="a Tuesday"),
        pytest.param(["checkpoint", "retake", "2026-11-24", "4"], 1, "2026-11-24 is a Tuesday", id="retake, a Tuesday"),
        pytest.param(
            ["checkpoint", "correct", "2026-11-29", "0", "MSFT", "--reason", "So."],
            1,
            "2026-11-29 is a Sunday, and batches are of Mondays. Its week began on 2026-11-23.",
            id="correct, a Sunday",
        ),
        pytest.param(
            ["pick", "end", "2026-11-25", "MSFT", "--last-session", "2026-11-24", "--value", "1", "--source", "8-K"],
            1,
            "2026-11-25 is a Wednesday",
            id="end, a Wednesday",
        ),
        pytest.param(
            ["pick", "rename", "2026-11-27", "MSFT", "KO", "--from", "2026-11-24", "--source", "8-K", "--force"],
            1,
            "2026-11-27 is a Friday",
            id="rename, a Friday",
        ),
        pytest.param(["sell"], 2, "No such command 'sell'", id="no such command"),
        pytest.param(["db", "down"], 0, "", id="nothing to stop"),
    ],
)
def test_misuse(tmp_path, arguments, code, says):
    """Wrong words are refused by name, with the exit code that says so."""
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def commands() -> list[list[str]]:
    nested = [[name, inner] for name, command in group.commands.items() for inner in getattr(command, "commands", {})]
    return [[name] for name in group.commands] + nested


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(tmp_path, command):
    """Plain words, and a line that can be copied."""
    done = run(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(rf"Examples?:.*alpha-monday {' '.join(command)}", done.stdout, re.DOTALL)


# The kind: an example that the command itself refuses, as one with "[--force]" at its end.
@pytest.mark.parametrize("words", [[], *commands()], ids=lambda words: " ".join(words) or "alpha-monday")
def test_every_example_can_be_copied(tmp_path, monkeypatch, words):
    """The shell takes it as it stands, and the command understands each word of it."""
    monkeypatch.chdir(tmp_path)
    for name in ("faults.json", "monday.zip"):
        (tmp_path / name).write_text("[]")
    said = CliRunner().invoke(group, [*words, "--help"]).output
    # Before it may stand a setting, and around it the shell's way to keep its output.
    form = r"^    (?:[A-Z_]+=\S+ )?(?:export [A-Z_]+=\"\$\()?(alpha-monday .+?)(?:\)\")?$"
    examples = re.findall(form, said, re.MULTILINE)
    if words == ["standins"]:
        examples = re.findall(r"Example: (alpha-monday .+?)\. ", " ".join(said.split()))
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
    """None is left out of the headings, and no line ends in three dots."""
    assert sorted(name for names in group.sorted_by.values() for name in names) == sorted(group.commands)
    said = [run(*command, "--help", cwd=tmp_path).stdout for command in ((), ("jobs",))]
    assert "\nLook:\n  status  Say what runs" in said[0]
    assert not [line for text in said for line in text.splitlines()[1:] if line.endswith("...")]


def test_a_full_disk_is_one_line(tmp_path):
    """What is printed has nowhere to go: no traceback, and Python's own end does not try again."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([ALPHA_MONDAY, "--help"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert one_line(done.stderr) == "alpha-monday: The output could not be written: No space left on device"


def test_what_fits_and_cannot_be_said_is_no_misfit(tmp_path, create):
    """Exit code 1 of `verify` means that the record was changed: not a full disk."""
    database = create()
    assert run("migrate", cwd=tmp_path, DATABASE_URL=database).returncode == 0
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
    assert one_line(done.stderr).startswith("alpha-monday: Everything fits, and that could not be written:")


def test_a_borrowed_server_is_said_to_go(tmp_path):
    """What another command runs does not outlive that, whoever asks."""
    with EmbeddedPostgres(tmp_path / FOLDER):
        borrowed = run("db", "up", cwd=tmp_path)
    assert borrowed.returncode == 0
    assert "takes it along when it ends" in one_line(f"alpha-monday: {borrowed.stderr}")


def test_show_without_a_record(tmp_path, create):
    """An empty record is said, not shown as an empty table."""
    address = create()
    assert run("migrate", cwd=tmp_path, DATABASE_URL=address).returncode == 0
    done = run("show", cwd=tmp_path, DATABASE_URL=address)
    assert (done.returncode, one_line(done.stderr)) == (1, "alpha-monday: There is no batch yet.")


def test_migrate_by_hand(tmp_path, create):
    """Up, the status, a step back, and up again."""
    address = create()
    before = run("migrate", "--status", cwd=tmp_path, DATABASE_URL=address)
    assert "0001 record: not applied" in before.stdout
    assert "0001 record: applied" in run("migrate", cwd=tmp_path, DATABASE_URL=address).stdout
    assert "The database is up to date." in run("migrate", cwd=tmp_path, DATABASE_URL=address).stdout
    assert (
        "0003 queue: taken back" in run("migrate", "--down-to", "2", "--yes", cwd=tmp_path, DATABASE_URL=address).stdout
    )
    assert run("migrate", cwd=tmp_path, DATABASE_URL=address).returncode == 0
    after = run("migrate", "--status", cwd=tmp_path, DATABASE_URL=address)
    assert "not applied" not in after.stdout


def test_the_embedded_postgres_can_be_kept(tmp_path):
    """`db up` starts one that outlives its starter, others borrow it, `db down` ends it, `db reset` empties it."""
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
    # The address, which may stand in a DATABASE_URL, depends on the mark. A new lock file would be a second lock.
    assert left == {"mark", "lock"}


# The kind: a variable of a library of ours, or of Python, that ended the import or the start with a traceback, or may.
@pytest.mark.parametrize(
    "variable",
    [
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
    ],
)
def test_variables_of_others_do_no_harm(tmp_path, variable):
    """No traceback: the command comes as far as its own refusal."""
    name, _, value = variable.partition("=")
    done = run("serve", cwd=tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", **KEYS, **{name: value})
    assert done.returncode == 1
    assert "The database at 127.0.0.1:1/none cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


# The kind: a moment of the imports, early or late. Python itself reports each import, so that no test has to guess how
# long they take.
@pytest.mark.parametrize("module", ["app.commands.startup", "asyncio", "click", "psycopg", "litestar", "jobs.queue"])
def test_ctrl_c_while_modules_are_imported(tmp_path, module):
    """No traceback, whichever module is being imported."""
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


def test_ctrl_c_stops_a_rehearsal(tmp_path):
    """No traceback, no server left behind."""
    process = subprocess.Popen(
        [ALPHA_MONDAY, "rehearse", "--no-serve"], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    pid = Path(tmp_path / ".alpha-monday" / "postgres" / "data" / "postmaster.pid")
    assert not pid.exists() or not _alive(int(pid.read_text().split()[0]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
