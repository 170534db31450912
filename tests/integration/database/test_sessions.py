"""Sessions: neither the environment nor the defaults of a server decide anything."""

import asyncio
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from clocks import HandSetClock
from commands import ALPHA_MONDAY, environment, run, served
from document_text import HOUSE
from job_context import ALPHA_VANTAGE_KEY, OPENAI_KEY
from ports import free_port
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database import pools, sessions
from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres
from app.database.sessions import Session
from app.errors import ConfigurationError, QuotaSpent
from app.providers.rate_limiter import Grant, RateLimit, RequestLedger
from jobs import queue

KEYS = {"OPENAI_API_KEY": OPENAI_KEY, "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY}

# The cases: every variable of https://www.postgresql.org/docs/18/libpq-envars.html, and those of
# the server's programs.
VARIABLES = re.findall(
    r"\w+",
    """
PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGPASSFILE PGREQUIREAUTH PGCHANNELBINDING
    PGSERVICE
PGSERVICEFILE PGOPTIONS PGAPPNAME PGSSLMODE PGREQUIRESSL PGSSLNEGOTIATION PGSSLCOMPRESSION
    PGSSLCERT PGSSLKEY
PGSSLCERTMODE PGSSLROOTCERT PGSSLCRL PGSSLCRLDIR PGSSLSNI PGREQUIREPEER PGSSLMINPROTOCOLVERSION
PGSSLMAXPROTOCOLVERSION PGGSSENCMODE PGKRBSRVNAME PGGSSLIB PGGSSDELEGATION PGCONNECT_TIMEOUT
    PGCLIENTENCODING
PGTARGETSESSIONATTRS PGLOADBALANCEHOSTS PGMINPROTOCOLVERSION PGMAXPROTOCOLVERSION PGDATESTYLE
    PGTZ PGGEQO PGSYSCONFDIR
PGLOCALEDIR PGDATA PGCTLTIMEOUT PG_COLOR PG_COLORS PGOAUTHDEBUG PGSSLKEYLOGFILE
""",
)
NONSENSE = dict.fromkeys(VARIABLES, "nonsense")

# Values that libpq would accept, and that would lead to another server or change data.
PLAUSIBLE = {
    "PGHOST": "127.0.0.1",
    "PGHOSTADDR": "127.0.0.1",
    "PGPORT": "1",
    "PGREQUIRESSL": "1",
    "PGSSLMODE": "require",
    "PGOPTIONS": "-c default_transaction_read_only=on -c search_path=elsewhere",
    "PGCLIENTENCODING": "LATIN1",
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Kolkata",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "another_user",
    "PGUSER": "another_user",
    "PGDATABASE": "elsewhere",
    "PGSERVICE": "elsewhere",
}

OURS = {
    "client_encoding": "UTF8",
    "search_path": "public, queue",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
}


@pytest.fixture
def surroundings(monkeypatch) -> pytest.MonkeyPatch:
    """An environment in which to set variables; it is restored after the test."""
    monkeypatch.setattr(sessions, "_removed_variables", {})
    return monkeypatch


@pytest.fixture(scope="module")
def port() -> int:
    """A free port."""
    return free_port()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, port) -> Iterator[EmbeddedPostgres]:
    """A server that asks for a password over TCP, and for none over its socket."""
    settings = {**FAST_SETTINGS, "listen_addresses": "127.0.0.1", "port": str(port)}
    with EmbeddedPostgres(tmp_path_factory.mktemp("embedded"), settings) as postgres:
        rules = postgres.data / "pg_hba.conf"
        rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        with psycopg.connect(postgres.address(), autocommit=True) as conn:
            conn.execute("ALTER ROLE postgres PASSWORD 'known'")
            conn.execute("SELECT pg_reload_conf()")
        yield postgres


def shown(address: str) -> dict[str, str]:
    """Return the settings on each kind of connection, which must be the same."""
    query = ", ".join(f"current_setting('{name}')" for name in OURS)
    with sessions.connect(address) as conn:
        at_once = conn.execute(f"SELECT {query}").fetchone()

    async def pooled() -> tuple[str, ...]:
        async with (
            pools.opened(pools.make_pool(address, max_size=1)) as pool,
            pool.connection() as conn,
        ):
            return await (await conn.execute(f"SELECT {query}")).fetchone()

    assert asyncio.run(pooled()) == at_once
    return dict(zip(OURS, at_once, strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [*(pytest.param(name, "nonsense", id=name) for name in VARIABLES)]
    + [pytest.param(name, value, id=f"{name}={value}") for name, value in PLAUSIBLE.items()],
)
def test_a_variable_of_libpq_does_not_matter(embedded, surroundings, name, value):
    """With any variable set, the embedded server is reached, and its sessions have our settings."""
    surroundings.setenv(name, value)
    assert shown(embedded.address()) == OURS


def test_all_of_libpqs_variables_do_not_matter(embedded, surroundings, tmp_path):
    """The same holds for all variables at once, and a home folder with libpq's files."""
    (tmp_path / ".pgpass").write_text("*:*:*:*:wrong\n")
    (tmp_path / ".pg_service.conf").write_text("[nonsense]\nhost=127.0.0.1\nport=1\n")
    for name, value in {**NONSENSE, "HOME": str(tmp_path), "PGSYSCONFDIR": str(tmp_path)}.items():
        surroundings.setenv(name, value)
    assert shown(embedded.address()) == OURS


@pytest.mark.long
def test_a_rehearsal_ignores_libpqs_variables(tmp_path):
    """
    The same holds for a rehearsal with all variables and for the processes that it starts: the
    simulators read the time from its database.
    """
    rehearsed = run(
        "rehearse",
        "--single",
        "--weeks",
        "1",
        "--until",
        "2026-10-30",
        "--no-serve",
        cwd=tmp_path,
        **NONSENSE,
    )
    assert (rehearsed.returncode, "Rehearsed: 1 Monday" in rehearsed.stderr) == (0, True), (
        rehearsed.stderr
    )


@pytest.mark.parametrize("handed_on", [False, True], ids=["of the folder", "as DATABASE_URL"])
def test_a_service_ignores_libpqs_variables(tmp_path, handed_on):
    """
    The same holds for `db up` and `serve`, also if the operator passes the address on as
    DATABASE_URL.
    """
    up = run("db", "up", cwd=tmp_path, **NONSENSE)
    try:
        assert up.returncode == 0, up.stderr
        where = {"DATABASE_URL": up.stdout.strip()} if handed_on else {}
        with served("serve", "--no-worker", "--migrate", cwd=tmp_path, **NONSENSE, **where) as url:
            assert httpx.get(f"{url}/health").json() == {
                "database": "alive",
                "worker": "switched off",
            }
    finally:
        assert run("db", "down", cwd=tmp_path, **NONSENSE).stdout == "Stopped.\n"


def test_the_queues_own_command_line(tmp_path, embedded):
    """
    Sessions of `procrastinate --app=jobs.queue.app` have our settings, too, whatever the
    environment.
    """
    address = embedded.ensure_database("am_shell")
    assert run("migrate", cwd=tmp_path, DATABASE_URL=address, **NONSENSE).returncode == 0
    program = ALPHA_MONDAY.with_name("procrastinate")
    with psycopg.connect(embedded.address(), autocommit=True) as conn:
        conn.execute("ALTER DATABASE am_shell SET search_path = elsewhere")
    healthy = subprocess.run(
        [program, "--app=jobs.queue.app", "healthchecks"],
        env=environment(DATABASE_URL=address, **NONSENSE, **KEYS),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert healthy.returncode == 0, healthy.stderr
    assert "OK" in healthy.stdout


# An operator's own address: libpq's variables lead to it, and change nothing of the session.


def test_a_password_file_leads_to_an_operators_database(embedded, surroundings, tmp_path, port):
    """PGPASSFILE works; without it the server asks for a password."""
    address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        sessions.connect(address)
    file = tmp_path / "passwords"
    file.write_text(f"127.0.0.1:{port}:*:postgres:known\n")
    file.chmod(0o600)
    surroundings.setenv("PGPASSFILE", str(file))
    for name in ("PGTZ", "PGDATESTYLE", "PGGEQO", "PGCLIENTENCODING", "PGOPTIONS", "PGAPPNAME"):
        surroundings.setenv(name, "nonsense")
    assert shown(address) == OURS
    assert shown(embedded.address()) == OURS  # in the same process


def test_variables_fill_in_what_an_operators_address_leaves_out(embedded, surroundings, port):
    """
    PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE supply what the address leaves out, as in
    libpq.
    """
    values = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "USER": "postgres",
        "PASSWORD": "known",
        "DATABASE": "postgres",
    }
    for name, value in values.items():
        surroundings.setenv(f"PG{name}", value)
    assert shown("postgresql://") == OURS
    assert pools.display_address("postgresql://") == f"127.0.0.1:{port}/postgres"


@pytest.mark.parametrize("where", ["variable", "address"])
def test_a_service_leads_to_an_operators_database(embedded, surroundings, tmp_path, port, where):
    """
    PGSERVICE works, and so does `service` in the address; the service's port overrides PGPORT,
    as in libpq.
    """
    file = tmp_path / "services"
    file.write_text(
        f"[ours]\nhost=127.0.0.1\nport={port}\nuser=postgres\npassword=known\ndbname=postgres\n"
    )
    surroundings.setenv("PGSERVICEFILE", str(file))
    surroundings.setenv("PGPORT", "1")
    if where == "variable":
        surroundings.setenv("PGSERVICE", "ours")
    assert shown("service=ours" if where == "address" else "postgresql://") == OURS


def test_a_service_that_is_unknown_is_named(embedded, surroundings, port):
    """The message names the variable to check."""
    surroundings.setenv("PGSERVICE", "elsewhere")
    with pytest.raises(
        ConfigurationError,
        match=(
            r'service "elsewhere" not found.*DATABASE_URL.*'
            r"These environment variables are used: PGSERVICE"
        ),
    ) as error:
        asyncio.run(pools.check(f"postgresql://postgres:known@127.0.0.1:{port}/postgres"))
    assert "known" not in str(error.value)


def test_tls_variables_stay_an_operators(surroundings):
    """PGSSLMODE and PGSSLROOTCERT are passed to libpq, and to child processes."""
    surroundings.setenv("PGSSLMODE", "verify-full")
    surroundings.setenv("PGSSLROOTCERT", "/etc/ours.pem")
    place = sessions.resolve_address("postgresql://user@db.example/alpha")
    assert (place["sslmode"], place["sslrootcert"]) == ("verify-full", "/etc/ours.pem")
    assert "PGSSLMODE" not in os.environ
    assert sessions.full_environment()["PGSSLMODE"] == "verify-full"


def test_the_options_of_an_address_apply(database):
    """The options of an address apply, unless our settings override them."""
    address = make_conninfo(
        database, options="-c work_mem=5MB -c timezone=Asia/Tokyo -c search_path=elsewhere"
    )
    assert shown(address) == OURS
    with sessions.connect(address) as conn:
        assert conn.execute("SHOW work_mem").fetchone() == ("5MB",)


def test_the_encoding_of_an_address_is_ours(database):
    """The encoding in an address is ignored: it would decide how bytes are read."""
    assert shown(make_conninfo(database, client_encoding="LATIN1")) == OURS


# Defaults of a role or a database. The cases: any setting that decides what a statement means,
# whether it may run, or whether its commit lasts.
DEFAULTS = {
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "default_transaction_deferrable": ("on", "off"),
    "search_path": ("elsewhere", "public, queue"),
    "statement_timeout": ("7s", "0"),
    "lock_timeout": ("7s", "0"),
    "idle_in_transaction_session_timeout": ("7s", "30s"),
    "idle_session_timeout": ("7s", "0"),
    "transaction_timeout": ("7s", "0"),
    "synchronous_commit": ("off", "on"),
    "session_replication_role": ("replica", "origin"),
    "client_encoding": ("LATIN1", "UTF8"),
    "timezone": ("Asia/Kolkata", "UTC"),
    "datestyle": ("SQL, DMY", "ISO, MDY"),
    "intervalstyle": ("iso_8601", "postgres"),
    "bytea_output": ("escape", "hex"),
    "extra_float_digits": ("-3", "1"),
    "standard_conforming_strings": ("off", "on"),
    "array_nulls": ("off", "on"),
    "transform_null_equals": ("on", "off"),
    "exit_on_error": ("on", "off"),
    "plpgsql.extra_errors": ("all", "none"),
    "default_table_access_method": ("elsewhere", "heap"),
    "client_min_messages": ("error", "notice"),
    "jit": ("on", "off"),
    "plan_cache_mode": ("force_custom_plan", "auto"),
}


def has(address: str, name: str) -> bool:
    """Return whether the server knows a setting: transaction_timeout is new in Postgres 17."""
    with psycopg.connect(address) as conn:
        return "." in name or conn.execute(
            "SELECT current_setting(%s, true)", (name,)
        ).fetchone() != (None,)


@pytest.fixture
def spoilt(migrated, create) -> str:
    """A migrated database whose defaults all differ from our settings."""
    address = create(conninfo_to_dict(migrated)["dbname"])
    name = conninfo_to_dict(address)["dbname"]
    known = [one for one in DEFAULTS if has(address, one) and one != "default_table_access_method"]
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("LOAD 'plpgsql'")
        for one in known:
            value = DEFAULTS[one][0]
            text = value if one in ("search_path", "datestyle") else f"'{value}'"
            conn.execute(f"ALTER DATABASE {name} SET {one} = {text}")
    return address


async def test_defaults_of_the_database_do_not_matter(spoilt):
    """Every setting of ours is in force on every kind of connection."""
    known = [name for name in DEFAULTS if has(spoilt, name)]
    query = f"SELECT {', '.join(f'''current_setting('{name}', true)''' for name in known)}"
    wanted = tuple(DEFAULTS[name][1] for name in known)
    with sessions.connect(spoilt) as conn:
        assert conn.execute(query).fetchone() == wanted
    async with await Session.connect(spoilt) as conn:
        assert await (await conn.execute(query)).fetchone() == wanted
        await conn.rollback()
        assert await (await conn.execute(query)).fetchone() == wanted
    async with pools.opened(pools.make_pool(spoilt, max_size=1)) as pool, pool.connection() as conn:
        assert await (await conn.execute(query)).fetchone() == wanted
    connector = queue.make_connector(spoilt)
    await connector.open_async()
    try:
        async with connector._get_standalone_connection() as conn:  # Procrastinate listens on it
            assert await (await conn.execute(query)).fetchone() == wanted
    finally:
        await connector.close_async()


def test_every_setting_may_be_set_by_any_role(migrated):
    """A role that is no superuser can set all of them; otherwise it could not connect."""
    names = [setting.name for setting in sessions.SETTINGS] + list(sessions.GENERIC_PLAN_SETTINGS)
    with psycopg.connect(migrated) as conn:
        conn.execute("DO $$ BEGIN END $$")  # loads plpgsql, whose settings are then known
        contexts = dict(conn.execute("SELECT lower(name), context FROM pg_settings").fetchall())
    assert {name: contexts[name] for name in names} == dict.fromkeys(names, "user")


def test_every_setting_has_its_case():
    """Every setting of the table has a test."""
    assert {setting.name for setting in sessions.SETTINGS} <= DEFAULTS.keys()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_the_ledger_keeps_its_limit_whatever_isolation_is_the_default(
    migrated, create, isolation
):
    """Ten processes request two grants at once: two are granted, and no process gets an error."""
    address = create(conninfo_to_dict(migrated)["dbname"])
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(
            f"ALTER DATABASE {conninfo_to_dict(address)['dbname']} SET "
            f"default_transaction_isolation = '{isolation}'"
        )
    async with pools.opened(pools.make_pool(address, max_size=10, min_size=10)) as pool:
        clock = HandSetClock(datetime(2026, 1, 5, 14, tzinfo=UTC))
        ledger = RequestLedger(
            pool=pool, provider="alpha", limits=[RateLimit(2, timedelta(hours=1))], clock=clock
        )
        requests = [ledger.acquire("DAILY", f"T{number}") for number in range(10)]
        answers = await asyncio.gather(*requests, return_exceptions=True)
    assert Counter(map(type, answers)) == {Grant: 2, QuotaSpent: 8}


def test_a_role_that_may_not_switch_the_guards_on_is_refused(create, commanded):
    """A role for which the record's triggers do not fire is refused, with what to do."""
    address = create()
    name, role = conninfo_to_dict(address)["dbname"], f"{conninfo_to_dict(address)['dbname']}_user"
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'known'")
        try:
            conn.execute(f"ALTER DATABASE {name} OWNER TO {role}")
            conn.execute(f"ALTER ROLE {role} SET session_replication_role = replica")
            refused = commanded(
                "migrate", DATABASE_URL=make_conninfo(address, user=role, password="known")
            )
            assert refused.exit_code == 1
            assert f"ALTER ROLE {role} RESET session_replication_role" in refused.error
            assert refused.error.count("\n") == 1
            conn.execute(f"ALTER ROLE {role} RESET session_replication_role")
            assert (
                shown(make_conninfo(address, user=role, password="known")) == OURS
            )  # without any rights
        finally:
            conn.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER; DROP ROLE {role}")


# The class of faults: encodings other than UTF-8. MULE_INTERNAL has no conversion to UTF-8, so a
# client cannot even connect with UTF-8.
ENCODINGS = [
    "SQL_ASCII",
    "LATIN1",
    "LATIN9",
    "EUC_JP",
    "EUC_JIS_2004",
    "WIN1252",
    "KOI8R",
    "MULE_INTERNAL",
]


@pytest.fixture
def encoded(server) -> Iterator[Callable[[str], str]]:
    """Create a database with an encoding."""
    made = []

    def make(encoding: str) -> str:
        name = f"am_{encoding.lower()}_{os.urandom(4).hex()}"
        with psycopg.connect(server("postgres"), autocommit=True) as conn:
            conn.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' "
                "LOCALE_PROVIDER libc LOCALE 'C'"
            )
        made.append(name)
        return server(name)

    yield make
    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        for name in made:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def refusal(address: str, encoding: str) -> str:
    """Return the expected message about a database."""
    name = conninfo_to_dict(address)["dbname"]
    return f"The database {name} has the encoding {encoding}, and the record needs UTF8."


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_database_of_another_encoding_is_refused(commanded, encoded, server, encoding):
    """One line names the database and says what to do; doing it works."""
    address = encoded(encoding)
    result = commanded("migrate", DATABASE_URL=address)
    assert (result.exit_code, result.output, result.error.count("\n")) == (1, "", 1)
    assert refusal(address, encoding) in result.error
    advised = re.search(r"CREATE DATABASE (\w+) .*'(?=,)", result.error)
    with psycopg.connect(server("postgres"), autocommit=True) as conn:
        name = f"am_advised_{os.urandom(4).hex()}"
        conn.execute(advised[0].replace(advised[1], name))
        assert shown(server(name)) == OURS
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    "command",
    [
        ["work"],
        ["rehearse", "--no-serve"],
        ["restore", "backup.zip"],
        ["status"],
        ["verify"],
        ["backup", "new.zip"],
        ["jobs", "list"],
    ],
    ids=" ".join,
)
def test_every_command_refuses_another_encoding(tmp_path, commanded, encoded, backed_up, command):
    """Every command refuses it before anything is written."""
    (tmp_path / "backup.zip").write_bytes(backed_up)
    address = encoded("SQL_ASCII")
    refused = commanded(*command, DATABASE_URL=address, **KEYS)
    check_refused_untouched(address, refused.exit_code, refused.error)


def test_a_service_refuses_another_encoding(tmp_path, encoded):
    """A process that would bring the database up to date first refuses it, too."""
    address = encoded("SQL_ASCII")
    refused = run("serve", "--migrate", cwd=tmp_path, DATABASE_URL=address, **KEYS)
    check_refused_untouched(address, refused.returncode, refused.stderr)


def check_refused_untouched(address: str, code: int, error: str) -> None:
    """Expect a refusal of the encoding, and none of our schemas."""
    assert code in (1, 2)
    assert refusal(address, "SQL_ASCII") in error
    assert error.count("\n") == 1
    with psycopg.connect(address) as conn:
        schemas = conn.execute(
            "SELECT count(*) FROM pg_namespace WHERE nspname IN ('operations', 'queue', 'told')"
        )
        assert schemas.fetchone() == (0,)


@pytest.fixture(scope="module")
def backed_up(migrated, tmp_path_factory) -> bytes:
    """A backup of an empty record."""
    folder = tmp_path_factory.mktemp("backup")
    done = run("backup", "empty.zip", cwd=folder, DATABASE_URL=migrated)
    assert done.returncode == 0, done.stderr
    return (folder / "empty.zip").read_bytes()


CONNECTS = re.compile(
    r"\b(?:psycopg|psycopg2|asyncpg|[A-Za-z]*Connection)\.connect\(|\bConnectionPool\("
)


def test_no_other_place_connects():
    """Every connection of the product and of `dev/` is made by `app/database/sessions.py`."""
    places = {
        str(path.relative_to(HOUSE))
        for folder in ("app", "jobs", "graphql", "dev")
        for path in sorted((HOUSE / folder).rglob("*.py"))
        if not {".venv", "node_modules"} & set(path.parts) and CONNECTS.search(path.read_text())
    }
    assert places == {"app/database/sessions.py"}


@pytest.mark.parametrize(
    "text",
    [
        "psycopg.connect(address)",
        "await AsyncConnection.connect(address)",
        "await psycopg.AsyncConnection.connect(address)",
        "Connection.connect(address)",
        "ConnectionPool(address)",
    ],
)
def test_a_connection_is_seen(text):
    """The test above finds every way to write a connection."""
    assert CONNECTS.search(text)


def test_the_address_of_an_embedded_server_is_known(embedded):
    """
    The embedded server is recognised by its socket's folder, also if it is passed on as
    DATABASE_URL.
    """
    assert sessions.is_embedded(conninfo_to_dict(embedded.address()))
    assert not sessions.is_embedded({"host": "/tmp"})
    assert not sessions.is_embedded({"host": "/var/run/postgresql"})
