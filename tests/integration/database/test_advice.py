"""
Messages about a database that is unavailable, forbidden, read-only or unsuitable: one line, with
what helps.
"""

import asyncio
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from commands import BIN, command, environment, run, without_place
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.commands import cli
from app.database import advice, migrations

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def role(server) -> Iterator[Callable[[str], str]]:
    """
    Create a user without rights, and a database in its name. Roles belong to the whole server,
    which other tests may use.
    """
    name = f"am_{uuid4().hex[:12]}"
    databases: list[str] = []

    def user_of(address: str) -> str:
        databases.append(address)
        return make_conninfo(address, user=name, password="known")

    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'known'")
    yield user_of
    for address in databases:
        with psycopg.connect(address, autocommit=True) as conn:
            conn.execute(f"DROP OWNED BY {name}")
    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        conn.execute(f"DROP ROLE {name}")


def of(address: str) -> tuple[str, str]:
    """Return the database and the user of an address."""
    parts = conninfo_to_dict(address)
    return parts["dbname"], parts["user"]


def the_line(error: str) -> str:
    """Return the one line of an error, without the line that names the database."""
    lines = without_place(error).splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("alpha-monday: ")
    return lines[0]


def test_the_right_to_create_is_given_by_the_statement_that_is_named(empty, role, capsys):
    """After the named statements are run, the command succeeds."""
    address = role(empty)
    name, user = of(address)
    lines = []
    for _ in range(4):
        done = command(capsys, "migrate", DATABASE_URL=address)
        if done.exit_code == 0:
            break
        lines.append(the_line(done.error))
        with psycopg.connect(empty, autocommit=True) as conn:
            conn.execute(lines[-1].partition(" run ")[2])
    assert done.exit_code == 0, done.error
    assert lines[0].endswith(f"run GRANT CREATE ON DATABASE {name} TO {user};")
    assert lines[1].endswith(f"run GRANT USAGE, CREATE ON SCHEMA public TO {user};")
    assert len(lines) == 2


def test_a_right_on_a_function_of_the_record():
    """The statement names the function: a function of the queue would not help."""
    error = psycopg.errors.InsufficientPrivilege("permission denied for function absent")
    text = advice.permission_denied_message("host=127.0.0.1 user=someone dbname=record", error)
    assert text.endswith("run GRANT EXECUTE ON FUNCTION public.absent TO someone;")


# The kind: an object of each of our schemas, by a statement that needs a right on it.
@pytest.mark.parametrize(
    ("statement", "grants"),
    [
        pytest.param(
            "SELECT FROM public.closes", ["SELECT, INSERT ON TABLE public.closes"], id="the record"
        ),
        pytest.param(
            "UPDATE public.generations SET refusal = ''",
            [
                "SELECT, INSERT, UPDATE (answered_at, answered_model, answer, request_id, "
                "prompt_tokens, completion_tokens, finish_reason, system_fingerprint, "
                "reasoning_tokens, accepted, refusal) ON TABLE public.generations"
            ],
            id="a column of the record",
        ),
        pytest.param(
            "DELETE FROM operations.alerts",
            [
                "USAGE ON SCHEMA operations",
                "SELECT, INSERT, UPDATE, DELETE ON TABLE operations.alerts",
            ],
            id="the service's state",
        ),
        pytest.param(
            "SELECT FROM queue.procrastinate_jobs",
            [
                "USAGE ON SCHEMA queue",
                "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA queue",
            ],
            id="the queue",
        ),
        pytest.param(
            "SELECT nextval('queue.procrastinate_jobs_id_seq')",
            ["USAGE ON SCHEMA queue", "USAGE ON ALL SEQUENCES IN SCHEMA queue"],
            id="a sequence of the queue",
        ),
        pytest.param(
            "SELECT queue.procrastinate_update_heartbeat_v1(-1)",
            [
                "USAGE ON SCHEMA queue",
                "EXECUTE ON ALL FUNCTIONS IN SCHEMA queue",
                "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA queue",
            ],
            id="a function of the queue",
        ),
        pytest.param(
            "SELECT public.absent('x') WHERE false",
            ["EXECUTE ON FUNCTION public.absent"],
            id="a function of the record",
        ),
        pytest.param(
            "SELECT FROM told.clock",
            ["USAGE ON SCHEMA told", "SELECT ON TABLE told.clock"],
            id="the simulated clock",
        ),
        pytest.param(
            "CREATE TABLE public.made ()",
            ["USAGE, CREATE ON SCHEMA public"],
            id="the shared schema",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["", ' "{x}'], ids=["a usual name", "a name in quotes"])
def test_the_object_that_is_named(database, statement, grants, suffix):
    """
    The statement that is named gives the right that Postgres missed, to a role of any name.

    All is taken back at the end, because the database and the server are shared.
    """
    name = f"am_{uuid4().hex[:12]}{suffix}"
    user = psycopg.sql.Identifier(name)
    given = []
    with psycopg.connect(database) as conn, conn.transaction(force_rollback=True):
        conn.execute("CREATE SCHEMA told; CREATE TABLE told.clock ()")
        conn.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public, queue FROM PUBLIC")
        conn.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        # The queue's functions find its tables by this.
        conn.execute("SET LOCAL search_path = public, queue")
        conn.execute(psycopg.sql.SQL("CREATE ROLE {}").format(user))
        if "public" in statement and "CREATE" not in statement:
            conn.execute(psycopg.sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(user))
        for _ in range(4):
            try:
                with conn.transaction():
                    conn.execute(psycopg.sql.SQL("SET LOCAL ROLE {}").format(user))
                    conn.execute(statement)
                    conn.execute("RESET ROLE")
                break
            except psycopg.errors.InsufficientPrivilege as error:
                text = advice.permission_denied_message(make_conninfo(database, user=name), error)
            statement_to_run = text.partition(" or an administrator, run ")[2]
            conn.execute(statement_to_run)
            given.append(statement_to_run)
    written = advice.quote_identifier(name)
    assert given == [f"GRANT {grant} TO {written};" for grant in grants]


# The kind: an object of Postgres or of another program, about which no statement is known.
@pytest.mark.parametrize(
    "object_",
    [
        "function pg_read_file",
        "function total_of_shop",
        "sequence orders_id_seq",
        "sequence provider_requests_id_seq",
        "table orders",
        "table roles",
        "view procrastinate_view",
        "materialized view closes",
        "column reasoning of relation picks",
        "procedure procrastinate_procedure",
        "type procrastinate_job_status",
        "large object 5",
        "language plpython3u",
        "foreign server shop",
        "tablespace fast",
    ],
)
def test_an_object_without_a_statement(object_):
    """No statement about other objects is named: it would not help."""
    error = psycopg.errors.InsufficientPrivilege(f"permission denied for {object_}")
    text = advice.permission_denied_message("host=127.0.0.1 user=someone dbname=record", error)
    assert "GRANT" not in text
    assert text.endswith("Give that right to someone, or use another user in DATABASE_URL.")


@pytest.mark.parametrize(
    ("message", "statement"),
    [
        ('database "my record"', 'GRANT CREATE ON DATABASE "my record" TO someone;'),
        ('database my"record', 'GRANT CREATE ON DATABASE "my""record" TO someone;'),
        ('schema my"', 'GRANT USAGE ON SCHEMA "my""" TO someone;'),
        ('schema "my', 'GRANT USAGE ON SCHEMA """my" TO someone;'),
        ("schema select", 'GRANT USAGE ON SCHEMA "select" TO someone;'),
    ],
)
def test_a_name_with_quotes(message, statement):
    """Postgres writes a name with or without quotes around it; a quote in it is a part of it."""
    error = psycopg.errors.InsufficientPrivilege(f"permission denied for {message}")
    text = advice.permission_denied_message("host=127.0.0.1 user=someone dbname=record", error)
    assert text.partition(" run ")[2] == statement


def test_no_right_is_wanted_where_nothing_is_to_be_done(empty, role, capsys):
    """A user who may not create anything can use an up-to-date database."""
    asyncio.run(migrations.migrate(empty, AT))
    address = role(empty)
    with psycopg.connect(empty, autocommit=True) as conn:
        conn.execute(f"GRANT USAGE ON SCHEMA operations TO {of(address)[1]}")
        conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA operations TO {of(address)[1]}")
    assert command(capsys, "migrate", DATABASE_URL=address)[:2] == (
        0,
        "The database is up to date.\n",
    )


def closed(address: str, user: str) -> str:
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(f"REVOKE CONNECT ON DATABASE {of(address)[0]} FROM public")
    return user


def of_others(address: str, _: str) -> str:
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("CREATE TABLE closes (shop text)")
    return address


def with_another_history(address: str, _: str) -> str:
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA operations; CREATE TABLE operations.migrations (id int)")
        conn.execute("CREATE TABLE operations.queue_migrations (id int)")
    return address


def without_usage(address: str, user: str) -> str:
    asyncio.run(migrations.migrate(address, AT))
    return user


def with_a_parameter(address: str, _: str) -> str:
    return make_conninfo(address, channel_binding="maybe")


# The cases: a database that does not let us do what the command needs. {0} is its name, {1} the
# user.
@pytest.mark.parametrize(
    ("words", "prepared", "says"),
    [
        pytest.param(
            ["status"],
            closed,
            "run GRANT CONNECT ON DATABASE {0} TO {1};",
            id="no right to connect",
        ),
        pytest.param(
            ["status"],
            without_usage,
            "run GRANT USAGE ON SCHEMA operations TO {1};",
            id="no schema",
        ),
        pytest.param(
            ["migrate"],
            of_others,
            "another program's tables. Make an empty database",
            id="another's tables",
        ),
        pytest.param(
            ["show"],
            with_another_history,
            "does not have the schema of Alpha Monday's migrations",
            id="its history",
        ),
        pytest.param(
            ["backup", "x.zip"],
            of_others,
            "holds no record of Alpha Monday",
            id="nothing to back up",
        ),
        pytest.param(
            ["jobs", "list"],
            of_others,
            "lacks migration 0001 (record). Run `alpha-monday",
            id="new",
        ),
        pytest.param(
            ["status"], with_a_parameter, "Check the parameters in DATABASE_URL", id="a parameter"
        ),
    ],
)
def test_what_helps_is_named(empty, role, capsys, words, prepared, says):
    """One line names the database, and says what to do."""
    address = prepared(empty, role(empty))
    result = command(capsys, *words, DATABASE_URL=address)
    name, user = of(empty)[0], of(role(empty))[1]
    assert result.exit_code == 1
    assert says.format(name, user) in the_line(result.error)
    assert "known" not in result.error


def test_a_database_that_takes_no_writes(monkeypatch):
    """A standby can be read, so a command fails only at its first write."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:known@h:9/d")
    error = psycopg.errors.ReadOnlySqlTransaction(
        "cannot execute INSERT in a read-only transaction"
    )
    line = cli._database_error_message(error)
    assert line.startswith(
        "The database h:9/d takes no writes (cannot execute INSERT in a read-only transaction)"
    )
    assert "set DATABASE_URL to the primary" in line


# The cases: libpq's and Postgres's messages about a failed connection, word for word.
@pytest.mark.parametrize(
    ("reason", "helps"),
    [
        (
            'FATAL:  password authentication failed for user "u"',
            "Check the user and the password in DATABASE_URL.",
        ),
        ("fe_sendauth: no password supplied", "Check the user and the password in DATABASE_URL."),
        ('FATAL:  database "d" does not exist', "CREATE DATABASE d OWNER u; if it is new."),
        ('FATAL:  role "u" does not exist', "CREATE ROLE u LOGIN PASSWORD '...'; if it is new."),
        ("Connection refused", "Check DATABASE_URL."),
        (
            "failed to resolve host 'h': [Errno -2] Name or service not known",
            "Check the host in DATABASE_URL.",
        ),
        (
            "connection timeout expired",
            "Check the host and port in DATABASE_URL, and that a firewall",
        ),
        ("FATAL:  sorry, too many clients already", "Postgres allows no more connections"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u"', "allow it in pg_hba.conf"),
        (
            "server does not support SSL, but SSL was required",
            "Check sslmode and the certificate in DATABASE_URL.",
        ),
        ("FATAL:  the database system is starting up", "Wait until Postgres has started"),
        ('connection is bad: invalid sslmode value: "x"', "Check the parameters in DATABASE_URL"),
    ],
)
def test_why_a_database_cannot_be_reached(reason, helps):
    """Each cause has its own advice, and no message has the password."""
    error = advice.unreachable_error(
        "postgresql://u:a-password@h:9/d", psycopg.OperationalError(reason)
    )
    assert str(error).startswith("The database at h:9/d cannot be reached: ")
    assert helps in str(error)
    assert "a-password" not in str(error)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("postgresql://u:p@h:9/d", "h:9/d"),
        ("postgresql://u:p@h/d", "h:5432/d"),
        ("postgresql://u:p@h", "h:5432/u"),
        ("postgresql://u:p@[::1]:9/d?sslmode=require", "::1:9/d"),
        ("host=/run/postgres user=u dbname=d password=p", "/run/postgres:5432/d"),
        ("postgresql:///d", "local socket:5432/d"),
        ("postgresql://u:p@h1:1,h2:2/d", "h1,h2:1,2/d"),
    ],
)
def test_where_a_database_is(address, place):
    """
    An address is shown as host, port and name, with libpq's defaults and without the password.
    """
    assert advice.display_address(address) == place


# The cases: every command that works on a database, in a folder that has none and without
# DATABASE_URL.
@pytest.mark.parametrize(
    "words",
    [
        "status",
        "status --rehearsal",
        "jobs list",
        "jobs show 1",
        "jobs retry 1",
        "jobs cancel 1",
        "jobs stalled",
        "show",
        "show --rehearsal",
        "closes KO",
        "verify",
        "verify --rehearsal",
        "export picks.csv",
        "migrate",
        "migrate --status",
        "migrate --down-to 0 --yes",
        "backup record.zip",
        "checkpoint retake 2026-11-16 4",
        "checkpoint correct 2026-11-16 0 KO --reason why",
        "pick end 2026-11-16 KO --last-session 2026-11-17 --value 1 --source why",
        "pick rename 2026-11-16 KO PEP --from 2026-11-17 --source why --force",
        "work",
    ],
)
def test_without_a_database_nothing_is_made(tmp_path, capsys, words):
    """Without a database, one line says what to do, and no file is created."""
    keys = {"OPENAI_API_KEY": "x", "ALPHA_VANTAGE_API_KEY": "y"}
    result = command(capsys, *words.split(), **keys)
    assert result.exit_code == (2 if words.startswith("verify") else 1)
    line = the_line(result.error)
    expected = "There is no rehearsal here" if "--rehearsal" in words else "DATABASE_URL is not set"
    assert expected in line
    assert str(tmp_path) in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_deleted_is_one_line(tmp_path):
    """The current folder of a terminal may have been deleted; the error is one line."""
    gone = tmp_path / "gone"
    script = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$1" status'
    done = subprocess.run(
        ["sh", "-c", script, gone, BIN / "alpha-monday"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "The current folder was deleted" in the_line(done.stderr)


@pytest.mark.parametrize(
    "words", ["healthchecks", "worker", "defer jobs.weekly.pick_week", "shell list_jobs"]
)
def test_procrastinates_own_command_line_makes_nothing(tmp_path, words):
    """
    Procrastinate's own command line creates nothing, either; it prints the error in its own
    way.
    """
    settings = environment(OPENAI_API_KEY="x", ALPHA_VANTAGE_API_KEY="y")
    done = subprocess.run(
        [BIN / "procrastinate", "--app=jobs.queue.app", *words.split()],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert (
        f"DATABASE_URL is not set, and there is no embedded Postgres in {tmp_path}"
        in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_one_is_used_and_named(tmp_path):
    """
    Without DATABASE_URL, the folder's embedded Postgres is used and named; no database is
    created in it.
    """
    try:
        up = run("db", "up", cwd=tmp_path)
        place = (
            f"Database: alpha_monday, in the embedded Postgres of "
            f"{tmp_path.resolve()}/.alpha-monday/postgres"
        )
        for words in (["migrate"], ["backup", "record.zip"]):
            done = run(*words, cwd=tmp_path)
            assert (done.returncode, done.stderr.splitlines()[0]) == (0, place), done.stderr
        result = run("status", "--rehearsal", cwd=tmp_path)
        assert "holds no rehearsal" in the_line(result.stderr)
        server = make_conninfo(up.stdout.strip(), dbname="postgres")
        with psycopg.connect(server, autocommit=True) as conn:
            names = conn.execute(
                "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1"
            ).fetchall()
            conn.execute("ALTER DATABASE alpha_monday RENAME TO rehearsal")
        assert names == [("alpha_monday",), ("postgres",)]
        result = run("show", cwd=tmp_path)
        assert "holds no live record, only a rehearsal" in the_line(result.stderr)
        assert "A command with the option `--rehearsal` can use the record of `make run`." in (
            the_line(result.stderr)
        )
    finally:
        run("db", "down", cwd=tmp_path)
    stopped = run("show", cwd=tmp_path, DATABASE_URL=up.stdout.strip())
    assert "To start it, run `alpha-monday db up` in its folder." in the_line(stopped.stderr)


def test_a_postgres_that_is_too_old(empty, capsys, monkeypatch):
    """
    An old Postgres is refused because of its version, before a statement fails that it does not
    know.
    """
    monkeypatch.setattr(migrations, "OLDEST", 99)
    for words in (["migrate"], ["status"]):
        result = command(capsys, *words, DATABASE_URL=empty)
        assert result.exit_code == 1
        assert re.search(
            r"runs Postgres \d\d, and Alpha Monday needs 99 or newer", the_line(result.error)
        )


@pytest.mark.parametrize("host", ["a..b", "x" * 70, f"{'x' * 64}.example", "ü" * 64], ids=ascii)
def test_an_invalid_host(capsys, host):
    """Python raises a UnicodeError for such a host before it sends a request."""
    result = command(capsys, "status", DATABASE_URL=f"postgresql://u:s3cr3t@{host}/d")
    assert result.exit_code == 1
    assert "Check the host in DATABASE_URL." in the_line(result.error)
    assert "s3cr3t" not in result.error
