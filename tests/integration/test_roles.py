"""
Three roles with no more rights than each needs.

The kind: a role does more than its part. Members tried as the service and as the reader, each on every table where it
is about tables: UPDATE of every column, DELETE, TRUNCATE, switching triggers off, dropping, altering, locking and
taking over tables, a trigger or a rule or a reference of one's own, granting rights, becoming the owner, switching all
guards off for a session, programs and files of the server, extensions and event triggers, tables, functions and schemas
of one's own, and a temporary table that stands in for the journal. The whole life of a record as the service is
`tests/support/eventful.py`, which everything that reads that record rests on.
"""

import asyncio
import json
import re
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from api_records import engine_on
from clocks import HandSetClock
from commands import run as process
from commands import without_place
from eventful import REFUSED
from eventful import eventful as eventful
from job_tools import MONDAY, House, house_at, new_york, until_it_can
from processes import live_through
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from record_server import copy_of
from test_api_operations import OPERATIONS, VARIABLES
from three_roles import Roles, addresses, applied, names_for

from app.commands import rehearse, serve, terminal
from app.core import settings
from app.core.locks import Lock
from app.database import migrations, pools, rights, roles
from app.database.advice import user_of
from app.database.rights import Kind, Need
from app.database.roles import Names
from app.database.sessions import Session
from app.errors import ConfigurationError, TryAgainAt
from app.ops.verify import database as record_at
from app.ops.verify import verify
from app.simulation import rehearsal
from app.store import checkpoints
from jobs import daily, queue, reconcile

AT = datetime(2026, 10, 26, 13, tzinfo=UTC)
DENIED = psycopg.errors.InsufficientPrivilege
both = pytest.mark.parametrize("role", ["service", "reader"])


@pytest.fixture(scope="module")
def made(create, migrated) -> Roles:
    """A migrated database with its roles; tests leave it as it is."""
    return asyncio.run(applied(copy_of(migrated, create)))


@pytest.fixture
def fresh(create, migrated) -> str:
    """The address of a migrated database without roles."""
    return copy_of(migrated, create)


@contextmanager
def as_role(address: str) -> Iterator[psycopg.Connection]:
    """A connection whose every statement is undone."""
    with psycopg.connect(address, autocommit=True) as conn:
        yield conn


def asked(address: str, statement: str, *values: object) -> list[tuple]:
    """What a statement gives."""
    with psycopg.connect(address, autocommit=True) as conn:
        return conn.execute(statement.encode(), values).fetchall()


def run(address: str, *statements: str) -> None:
    """Run statements as an administrator."""
    with psycopg.connect(address, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def refused(conn: psycopg.Connection, statement: str) -> bool:
    """Whether Postgres refuses a statement for want of a right; what it does not refuse is undone."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement.encode())
    except DENIED:
        return True
    return False


def tables_of(address: str) -> list[str]:
    """Every table that is not Postgres's own."""
    return [
        name
        for (name,) in asked(
            address,
            "SELECT schemaname || '.' || tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        )
    ]


# The table of rights


def test_every_table_and_function_is_in_the_table_of_rights(made):
    """A migration that adds one adds it there; what stands there is there."""
    outside = [name for name in tables_of(made.admin) if not name.startswith("queue.")]
    assert set(outside) == set(rights.TABLES) - {"told.clock"}
    functions = asked(made.admin, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    assert {name for (name,) in functions} == set(rights.FUNCTIONS)


def test_every_column_in_the_table_of_rights_is_there(made):
    """Or a right would be left out without a word."""
    there = asked(made.admin, "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns")
    wanted = {(table, column) for table, given in rights.TABLES.items() for column in given.updates}
    assert wanted <= set(there)


APPEND_ONLY = ("public.journal", "public.closes", "public.splits", "public.corrections")
RECORD = (
    *APPEND_ONLY,
    "public.batches",
    "public.picks",
    "public.checkpoints",
    "public.pick_checkpoint_metrics",
    "public.generations",
)
# What the service notes for itself, and forgets.
ITS_OWN = re.compile(r"queue\..*|operations\.(strikes|alerts|heartbeats)")


def test_what_the_reader_may_read(made):
    """The record, and which migrations are applied; no column of anything else, and no function of the queue."""
    with as_role(made.reader) as conn:
        readable = {table for table in tables_of(made.admin) if not refused(conn, f"SELECT FROM {table}")}
        assert readable == {*RECORD, "operations.migrations"}
        assert refused(conn, "SELECT queue.procrastinate_register_worker_v1()")
        assert refused(conn, "INSERT INTO public.closes DEFAULT VALUES")


@both
def test_no_row_is_deleted(made, role):
    """By either, of any table but those in which the service notes what it forgets."""
    with as_role(getattr(made, role)) as conn:
        for table in tables_of(made.admin):
            may = role == "service" and ITS_OWN.fullmatch(table)
            assert refused(conn, f"DELETE FROM {table}") is not bool(may), table
            assert refused(conn, f"TRUNCATE {table} CASCADE"), table


@both
def test_only_what_a_job_changes_can_be_changed(made, role):
    """No column of an append-only table, no key, no time of a question, no text that was said."""
    columns = asked(
        made.admin,
        "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns "
        "WHERE table_schema IN ('public', 'operations', 'queue') "
        "AND is_generated = 'NEVER' ORDER BY 1, ordinal_position",
    )
    changeable = set()
    with as_role(getattr(made, role)) as conn:
        for table, column in columns:
            if not refused(conn, f'UPDATE {table} SET "{column}" = DEFAULT WHERE false'):
                changeable.add((table, column))
    if role == "reader":
        assert changeable == set()
        return
    assert not {table for table, _ in changeable} & set(APPEND_ONLY)
    said = {"id", "batch_id", "checkpoint_id", "pick_id", "series", "run_date", "day", "attempt", "asked_at"}
    said |= {"position", "action", "reasoning", "system_prompt", "user_prompt", "prompt_version", "skip_reason", "note"}
    of_the_record = {column for table, column in changeable if table in RECORD}
    assert not of_the_record & said
    assert ("public.batches", "status") in changeable


# Each is tried on every table, as {0}.
ON_A_TABLE = {
    "ALTER TABLE DISABLE TRIGGER": "ALTER TABLE {0} DISABLE TRIGGER ALL",
    "ALTER TABLE DISABLE TRIGGER USER": "ALTER TABLE {0} DISABLE TRIGGER USER",
    "DROP TABLE": "DROP TABLE {0} CASCADE",
    "ALTER TABLE ADD": "ALTER TABLE {0} ADD added int",
    "ALTER TABLE OWNER": "ALTER TABLE {0} OWNER TO {me}",
    "ALTER TABLE ROW SECURITY": "ALTER TABLE {0} ENABLE ROW LEVEL SECURITY",
    "CREATE TRIGGER": "CREATE TRIGGER mine BEFORE INSERT ON {0} FOR EACH ROW "
    "EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
    "CREATE RULE": "CREATE RULE mine AS ON INSERT TO {0} DO INSTEAD NOTHING",
    "CREATE POLICY": "CREATE POLICY mine ON {0}",
    "CREATE INDEX": "CREATE INDEX ON {0} ((1))",
    "CREATE STATISTICS": "CREATE STATISTICS mine ON (1), (2) FROM {0}",
    "COMMENT": "COMMENT ON TABLE {0} IS 'mine'",
    "COPY FROM PROGRAM": "COPY {0} FROM PROGRAM 'true'",
    "COPY TO PROGRAM": "COPY {0} TO PROGRAM 'cat'",
    "COPY TO a file": "COPY {0} TO '/tmp/alpha-monday-stolen'",
    "CLUSTER": "ALTER TABLE {0} SET WITHOUT CLUSTER",
}


@both
@pytest.mark.parametrize("attack", ON_A_TABLE)
def test_no_table_is_changed_in_its_form(made, role, attack):
    """By either, on any table, its own notes included."""
    with as_role(getattr(made, role)) as conn:
        for table in tables_of(made.admin):
            statement = ON_A_TABLE[attack].format(table, me=getattr(made.names, role))
            assert refused(conn, statement), statement


@both
def test_no_table_of_the_record_is_kept_from_the_others(made, role):
    """A lock against readers or writers of the record needs a right that neither has."""
    with as_role(getattr(made, role)) as conn:
        for table in RECORD:
            for mode in ("SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"):
                assert refused(conn, f"LOCK TABLE {table} IN {mode} MODE"), (table, mode)


ANYWHERE = {
    "session_replication_role": "SET session_replication_role = replica",
    "set_config": "SELECT set_config('session_replication_role', 'replica', false)",
    "SET ROLE owner": "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION": "SET SESSION AUTHORIZATION {owner}",
    "GRANT the owner's role": "GRANT {owner} TO {me}",
    "ALTER ROLE SUPERUSER": "ALTER ROLE {me} SUPERUSER",
    "ALTER ROLE of the owner": "ALTER ROLE {owner} PASSWORD 'x'",
    "CREATE ROLE": "CREATE ROLE {me}_2",
    "CREATE TABLE": "CREATE TABLE public.mine (x int)",
    "CREATE TABLE beside the queue": "CREATE TABLE queue.mine (x int)",
    "CREATE TABLE that refers": "CREATE TABLE public.mine (x uuid REFERENCES public.batches)",
    "CREATE FUNCTION": "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION of the record": "CREATE OR REPLACE FUNCTION public.refuse_change() RETURNS trigger "
    "LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "ALTER FUNCTION": "ALTER FUNCTION public.refuse_change() RESET search_path",
    "CREATE OPERATOR": "CREATE OPERATOR public.= (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
    "CREATE VIEW": "CREATE VIEW public.mine AS SELECT 1",
    "CREATE TYPE": "CREATE TYPE operations.mine AS (x int)",
    "CREATE SCHEMA": "CREATE SCHEMA mine",
    "DROP SCHEMA": "DROP SCHEMA queue CASCADE",
    "DROP FUNCTION": "DROP FUNCTION public.refuse_change() CASCADE",
    "CREATE EXTENSION": "CREATE EXTENSION dblink",
    "CREATE EVENT TRIGGER": "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION event_trigger_fn()",
    "CREATE LANGUAGE": "CREATE LANGUAGE mine HANDLER plpgsql_call_handler",
    "CREATE PUBLICATION": "CREATE PUBLICATION mine",
    "LOAD": "LOAD '/tmp/mine.so'",
    "pg_read_file": "SELECT pg_read_file('postgresql.conf')",
    "pg_ls_dir": "SELECT pg_ls_dir('.')",
    "lo_import": "SELECT lo_import('/etc/hostname')",
    "lo_export": "SELECT lo_export(1, '/tmp/mine')",
    "ALTER SYSTEM": "ALTER SYSTEM SET work_mem = '1GB'",
    "ALTER DATABASE": "ALTER DATABASE {database} SET search_path = mine",
    "ALTER DEFAULT PRIVILEGES": "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT ALL ON TABLES TO {me}",
    "REASSIGN OWNED": "REASSIGN OWNED BY {owner} TO {me}",
    "temporary table": "CREATE TEMP TABLE journal (seq bigint, hash text)",
    "temporary view": "CREATE TEMP VIEW corrections AS SELECT 1",
    "temporary function": "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "the names of the roles": "SELECT FROM operations.roles",
    "what the history says": "INSERT INTO operations.migrations VALUES (99, 'mine', '', now())",
}


@both
@pytest.mark.parametrize("attack", ANYWHERE)
def test_no_way_around(made, role, attack):
    """Neither switches guards off, becomes another, reaches the server's files, or has a thing of its own."""
    names, database = made.names, conninfo_to_dict(made.admin)["dbname"]
    statement = ANYWHERE[attack].format(owner=names.owner, me=getattr(names, role), database=database)
    with as_role(getattr(made, role)) as conn:
        if attack == "ALTER SYSTEM":  # not in a transaction
            with pytest.raises(DENIED):
                conn.execute(statement)
            return
        if attack == "CREATE EVENT TRIGGER":  # its function must be there
            statement = statement.replace("event_trigger_fn", "pg_catalog.pg_event_trigger_ddl_commands")
            with pytest.raises((DENIED, psycopg.errors.WrongObjectType, psycopg.errors.UndefinedFunction)):
                conn.execute(statement)
            return
        assert refused(conn, statement), statement


@both
def test_a_grant_to_itself_gives_nothing(made, role):
    """Postgres only warns of it, where the role has another right on the table."""
    with as_role(getattr(made, role)) as conn, conn.transaction(force_rollback=True):
        for table in RECORD:
            conn.execute(f"GRANT ALL ON {table} TO {getattr(made.names, role)}")
            held = conn.execute("SELECT has_table_privilege(%s, 'DELETE')", (table,)).fetchone()
            assert held == (False,), table


SHADOWS = {
    "a head of the journal": (
        "CREATE TEMP TABLE journal (seq bigint, hash text)",
        "INSERT INTO pg_temp.journal VALUES (41, repeat('a', 64))",
        "INSERT INTO public.journal (seq, kind, at, content, previous, hash) SELECT 42, 'BATCH', now(), '', "
        "repeat('a', 64), encode(sha256(convert_to(repeat('a', 64) || chr(10), 'UTF8')), 'hex')",
    ),
    "a batch for a checkpoint": (
        "CREATE TEMP TABLE batches (id uuid, run_date date)",
        "INSERT INTO pg_temp.batches VALUES ('00000000-0000-4000-8000-000000000001', '2026-10-26')",
        "INSERT INTO public.checkpoints (id, batch_id, day, checkpoint_date, status, taken_at, skipped_at, "
        "skip_reason) VALUES (gen_random_uuid(), '00000000-0000-4000-8000-000000000001', 1, '2026-10-27', 'skipped', "
        "now(), now(), "
        "'MISSING_CLOSE')",
    ),
}


@pytest.mark.parametrize("shadow", SHADOWS)
def test_a_guard_reads_the_record_whatever_stands_before_it(made, shadow):
    """Also where an administrator gave the right to make temporary tables back: the guards' names are public's."""
    database, names = conninfo_to_dict(made.admin)["dbname"], made.names
    run(made.admin, f"GRANT TEMPORARY ON DATABASE {database} TO {names.service}")
    try:
        with as_role(made.service) as conn, conn.transaction(force_rollback=True):
            *before, last = SHADOWS[shadow]
            for statement in before:
                conn.execute(statement)
            with pytest.raises(psycopg.errors.CheckViolation):
                conn.execute(last)
    finally:
        run(made.admin, f"REVOKE TEMPORARY ON DATABASE {database} FROM {names.service}")


def test_another_role_of_the_server_cannot_connect(made):
    """Or it could take our advisory locks, and make tables."""
    name = f"{conninfo_to_dict(made.admin)['dbname']}_another"
    run(made.admin, f"CREATE ROLE {name} LOGIN PASSWORD 'known'")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(make_conninfo(made.admin, user=name, password="known"))


# The command


def names_as_options(names: Names) -> list[str]:
    """The options that name the roles."""
    return ["--owner", names.owner, "--service", names.service, "--reader", names.reader]


def test_printed_applied_and_compared(fresh, commanded):
    """What is printed is a script without a password; applied twice it changes nothing; later runs know the names."""
    names = names_for(fresh)
    options = names_as_options(names)
    printed = commanded("roles", *options, DATABASE_URL=fresh)
    assert printed.code == 0
    assert f"CREATE ROLE {names.reader} LOGIN CONNECTION LIMIT 40" in printed.out
    assert f"\\password {names.owner}" in printed.out
    assert not re.search(r"PASSWORD '", printed.out)
    assert commanded("roles", "--check", *options, DATABASE_URL=fresh).code == 1
    run(fresh, printed.out)
    before = acl_of(fresh)
    for words in (["--check", *options], ["--apply", *options], ["--apply"], ["--check"]):
        done = commanded("roles", *words, DATABASE_URL=fresh)
        assert done.code == 0, done
        assert done.out.endswith("have the rights that they need, and no others.\n")
        assert acl_of(fresh) == before


def acl_of(address: str) -> list[tuple]:
    """Every owner, right and setting that `roles` writes."""
    return asked(
        address,
        """
        SELECT oid::regclass::text, relowner::regrole::text, array(SELECT unnest(relacl)::text ORDER BY 1)
        FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', 'queue', 'operations')
        UNION ALL
        SELECT oid::regprocedure::text, proowner::regrole::text,
            array(SELECT unnest(proacl)::text ORDER BY 1) || proconfig
        FROM pg_proc WHERE pronamespace::regnamespace::text IN ('public', 'queue')
        UNION ALL
        SELECT nspname, nspowner::regrole::text, array(SELECT unnest(nspacl)::text ORDER BY 1) FROM pg_namespace
        UNION ALL
        SELECT typname, typowner::regrole::text, NULL FROM pg_type WHERE typnamespace::regnamespace::text = 'queue'
        UNION ALL
        SELECT datname, '', array(SELECT unnest(datacl)::text ORDER BY 1) FROM pg_database
        WHERE datname = current_database()
        ORDER BY 1
        """,
    )


@pytest.mark.long
def test_on_a_database_without_tables(empty, commanded):
    """The owner migrates it later, and each table has its rights as soon as it is there; so it is with a restore."""
    names = names_for(empty)
    assert commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).code == 0
    made = addresses(empty, names)
    settings = {"DATABASE_URL": made.service, "MIGRATE_DATABASE_URL": made.owner}
    assert commanded("migrate", **settings).code == 0
    assert commanded("roles", "--check", DATABASE_URL=made.owner).code == 0
    # Back to before the queue, whose schema goes with it, and up again.
    assert commanded("migrate", "--down-to", 2, "--yes", **settings).code == 0
    assert commanded("migrate", **settings).code == 0
    assert commanded("roles", "--check", DATABASE_URL=made.owner).code == 0


def test_migrate_as_another_than_the_owner_without_tables(empty, commanded):
    """The line leads to the owner: a GRANT to the service or the reader would give it what no job may do."""
    names = names_for(empty)
    assert commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).code == 0
    made = addresses(empty, names)
    for user, address in ((names.service, made.service), (names.reader, made.reader)):
        done = commanded("migrate", DATABASE_URL=address)
        (line,) = without_place(done.err).splitlines()
        assert (done.code, f"The user {user} may not make the tables" in line) == (1, True)
        assert f"belongs to {names.owner}. Set MIGRATE_DATABASE_URL to that user's address" in line
        assert "GRANT CREATE" not in line


@pytest.mark.long
def test_what_an_administrator_migrates_is_the_owners_too(empty, commanded):
    """A superuser's migration leaves no table behind that the owner could not change."""
    names = names_for(empty)
    assert commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).code == 0
    assert commanded("migrate", DATABASE_URL=empty).code == 0
    assert commanded("roles", "--check", DATABASE_URL=empty).code == 0


def test_roles_that_are_there(fresh, commanded):
    """One that exists is taken as it is, its password included; one with too much is named, with what takes it away."""
    names = names_for(fresh)
    run(
        fresh,
        f"CREATE ROLE {names.service} LOGIN CREATEDB PASSWORD 'before'",
        f"CREATE ROLE {names.owner} LOGIN",
        f"GRANT {names.owner} TO {names.service}",
        f"GRANT ALL ON public.journal TO {names.service}",
        f"CREATE ROLE {names.reader} LOGIN IN ROLE pg_write_all_data",
    )
    done = commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=fresh)
    assert done.code == 1
    said = without_place(done.err)
    assert f"{names.service} is CREATEDB: ALTER ROLE {names.service} NOCREATEDB;" in said
    assert f"REVOKE {names.owner} FROM {names.service};" in said
    assert f"REVOKE pg_write_all_data FROM {names.reader};" in said
    assert "new" not in said
    run(
        fresh,
        f"ALTER ROLE {names.service} NOCREATEDB",
        f"REVOKE {names.owner} FROM {names.service}",
        f"REVOKE pg_write_all_data FROM {names.reader}",
    )
    assert commanded("roles", "--check", DATABASE_URL=fresh).code == 0
    assert asked(make_conninfo(fresh, user=names.service, password="before"), "SELECT count(*) FROM batches") == [(0,)]


@pytest.mark.long
def test_other_names(fresh, commanded):
    """A role that is replaced by another of another name keeps no right."""
    first, database = names_for(fresh), conninfo_to_dict(fresh)["dbname"]
    assert commanded("roles", "--apply", *names_as_options(first), DATABASE_URL=fresh).code == 0
    second = [f"{database}_{kind}_2" for kind in ("owner", "service", "reader")]
    options = names_as_options(Names(*second))
    assert commanded("roles", "--apply", *options, DATABASE_URL=fresh).code == 0
    for table in RECORD:
        for role in (first.service, first.reader):
            held = asked(fresh, "SELECT has_table_privilege(%s, %s, 'SELECT')", role, table)
            assert held == [(False,)], (role, table)


UNFIT_NAMES = {
    "one name twice": ["--service", "x", "--reader", "x"],
    "Postgres's own": ["--owner", "pg_owner"],
    "public": ["--service", "PUBLIC"],
    "current_user": ["--reader", "current_user"],
    "empty": ["--owner", " "],
    "too long": ["--owner", "x" * 64],
    "a line break": ["--owner", "x\n; DROP"],
}


@pytest.mark.parametrize("case", UNFIT_NAMES)
def test_names_that_are_none(migrated, commanded, case):
    """One line each; nothing is printed that could be run."""
    done = commanded("roles", *UNFIT_NAMES[case], DATABASE_URL=migrated)
    assert (done.code, done.out) == (1, "")
    assert len(without_place(done.err).splitlines()) == 1


@pytest.mark.long
def test_names_that_need_quotes(fresh, commanded):
    """They are quoted wherever they stand, a keyword as much as an apostrophe."""
    database = conninfo_to_dict(fresh)["dbname"]
    names = Names(f"{database}_Owner's", f'{database}_the "service"', f"{database}_$$ reader")
    try:
        assert commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=fresh).code == 0
    finally:
        for name in (names.owner, names.service, names.reader):
            quoted = roles.quoted(name)
            run(fresh, f"REASSIGN OWNED BY {quoted} TO CURRENT_USER", f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}")
    assert roles.quoted("user") == '"user"'


def test_a_user_that_may_not_make_roles(made, commanded):
    """One line that says who may, and how the SQL gets to one."""
    done = commanded("roles", "--apply", "--owner", "x_owner", DATABASE_URL=made.owner)
    assert done.code == 1
    (line,) = without_place(done.err).splitlines()
    assert "Nothing was changed" in line
    assert "`alpha-monday roles` prints the statements" in line
    done = commanded("roles", "--apply", *names_as_options(made.names), DATABASE_URL=made.service)
    assert done.code == 1
    assert "it cannot take rights from itself" in done.err


# Commands and their rights


@contextmanager
def sessions_of_a_service(made: Roles) -> Iterator[None]:
    """A session as a service has it: the owner sees its name, though it is another user's."""
    with psycopg.connect(made.service, application_name="alpha-monday app"):
        yield


READS_RECORD = [["verify"], ["export", "x.csv"], ["show"], ["closes", "MSFT"]]
READS_ALL = [["status"], ["jobs", "list"], ["backup", "x.zip"]]


@pytest.fixture
def lived(create, eventful) -> Roles:
    """A copy of the eventful record, with its roles; those of the original are of another name."""
    return asyncio.run(applied(copy_of(eventful, create)))


@pytest.mark.long
def test_each_command_as_the_role_that_it_needs(lived, empty, commanded):
    """What reads the record works as the reader, what reads all as the service; as the reader that names the right."""
    for words in READS_RECORD:
        done = commanded(*words, DATABASE_URL=lived.reader)
        assert done.code == 0, (words, done)
    for words in READS_ALL:
        done = commanded(*words, DATABASE_URL=lived.reader)
        assert done.code == 1, words
        assert f"run GRANT USAGE ON SCHEMA queue TO {lived.names.reader};" in done.err
        assert commanded(*words, DATABASE_URL=lived.service).code == (1 if words == ["status"] else 0), words
    with zipfile.ZipFile("x.zip") as backup:
        assert "public.journal.tsv" in backup.namelist()
    names = names_for(empty)
    assert commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).code == 0
    restored = addresses(empty, names)
    refusal = commanded("restore", "x.zip", DATABASE_URL=restored.service)
    assert (refusal.code, len(without_place(refusal.err).splitlines())) == (1, 1)
    done = commanded("restore", "x.zip", DATABASE_URL=restored.service, MIGRATE_DATABASE_URL=restored.owner)
    assert done.code == 0, done
    assert commanded("roles", "--check", DATABASE_URL=restored.owner).code == 0
    assert commanded("verify", DATABASE_URL=restored.reader).code == 0


def is_short(words: list[str]) -> bool:
    """Whether `make test` tries a command; `make test-long` tries all."""
    return words in (["verify"], ["status"])


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=" ".join(words), marks=[] if is_short(words) else [pytest.mark.long])
        for words in [*READS_RECORD, *READS_ALL, ["jobs", "retry", "1"]]
    ],
)
def test_a_right_that_is_missing_is_named(fresh, commanded, words):
    """The right, the object, and the statement that gives it: done, the command goes on, to its end."""
    made = asyncio.run(applied(fresh))
    table = "public.journal" if words in READS_RECORD else "operations.alerts"
    run(fresh, f"REVOKE SELECT ON {table} FROM {made.names.service}")
    done = commanded(*words, DATABASE_URL=made.service)
    (line,) = without_place(done.err).splitlines()
    wanted = f"GRANT SELECT ON TABLE {table} TO {made.names.service};"
    assert (wanted in line, done.code) == (True, 2 if words == ["verify"] else 1)
    assert "`alpha-monday roles --apply`" in line
    run(fresh, wanted)
    assert wanted not in commanded(*words, DATABASE_URL=made.service).err


def test_migrate_needs_no_right_where_nothing_is_to_be_done(made, commanded):
    """As the service; with something to be done it names who may."""
    assert commanded("migrate", DATABASE_URL=made.service)[:2] == (0, "The database is up to date.\n")
    done = commanded("migrate", "--down-to", 12, "--yes", DATABASE_URL=made.service)
    assert done.code == 1
    assert f"belong to {made.names.owner}. Set MIGRATE_DATABASE_URL" in done.err


@pytest.mark.parametrize(
    ("words", "of", "setting"),
    [
        (["migrate"], "reader", "MIGRATE_DATABASE_URL"),
        (["migrate", "--down-to", 12, "--yes"], "reader", "MIGRATE_DATABASE_URL"),
        (["restore", "x.zip"], "service", "MIGRATE_DATABASE_URL"),
        (["restore", "x.zip"], "reader", "MIGRATE_DATABASE_URL"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_commands_of_the_owner_as_another(made, commanded, words, of, setting):
    """The line leads to the owner, and not to rights of the owner's for another."""
    if words[0] == "restore":
        assert commanded("backup", "x.zip", DATABASE_URL=made.service).code == 0
    done = commanded(*words, DATABASE_URL=getattr(made, of))
    (line,) = without_place(done.err).splitlines()
    assert done.code == 1
    assert f"belong to {made.names.owner}. Set {setting} to that user's address" in line
    assert "GRANT SELECT" not in line


@pytest.mark.parametrize("of", ["service", "reader"])
def test_rehearse_as_another_than_the_owner(made, empty, commanded, of):
    """With tables and without: the line says which address DATABASE_URL needs."""
    with pytest.raises(ConfigurationError, match=f"user {getattr(made.names, of)} .*Set DATABASE_URL to that user's"):
        asyncio.run(rehearse._make_ready(rehearsal.database(settings.load({"DATABASE_URL": getattr(made, of)}))))
    names = names_for(empty)
    assert commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).code == 0
    address = rehearsal.database(settings.load({"DATABASE_URL": getattr(addresses(empty, names), of)}))
    with pytest.raises(ConfigurationError, match=f"belongs to {names.owner}. Set DATABASE_URL to that user's address"):
        asyncio.run(rehearse._make_ready(address))


def test_migrate_as_another_than_the_owner(fresh, commanded):
    """A migration that is missing is refused before its first statement, in one line; as the owner it is applied."""
    made = asyncio.run(applied(fresh))
    with sessions_of_a_service(made):
        done = commanded("migrate", "--down-to", 12, "--yes", DATABASE_URL=made.owner)
        assert "A service runs on this database" in done.err
    assert commanded("migrate", "--down-to", 12, "--yes", DATABASE_URL=made.owner).code == 0
    done = commanded("migrate", DATABASE_URL=made.service)
    (line,) = without_place(done.err).splitlines()
    assert done.code == 1
    assert f"The user {made.names.service} may not apply migration 0013" in line
    assert f"GRANT {made.names.owner} TO {made.names.service};" in line
    assert commanded("migrate", DATABASE_URL=made.service, MIGRATE_DATABASE_URL=made.owner).code == 0
    assert commanded("roles", "--check", DATABASE_URL=made.owner).code == 0


@pytest.mark.parametrize("name", ["API_DATABASE_URL", "MIGRATE_DATABASE_URL", "QUEUE_DATABASE_URL"])
async def test_an_address_of_another_database(made, empty, name):
    """Refused before anything lives or is migrated, by what two sessions see of one lock."""
    there = {"DATABASE_URL": made.service, "API_DATABASE_URL": made.reader, "MIGRATE_DATABASE_URL": made.owner}
    names = ("API_DATABASE_URL", "MIGRATE_DATABASE_URL")
    await terminal.refuse_two(settings.load(there), *names)
    with pytest.raises(ConfigurationError, match=f"and {name} to another one"):
        await terminal.refuse_two(settings.load({**there, name: empty}), *names)


def test_migrate_as_the_owner_of_another_database(made, empty, commanded):
    """Nothing is made there."""
    done = commanded("migrate", DATABASE_URL=made.service, MIGRATE_DATABASE_URL=empty)
    assert done.code == 1
    assert "and MIGRATE_DATABASE_URL to another one" in done.err
    assert asked(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'operations'") == [(0,)]


@pytest.mark.parametrize("options", [[], ["--check"], ["--apply"]], ids=["print", "check", "apply"])
def test_roles_of_another_database(made, empty, commanded, options):
    """Two settings of two databases are refused; a user of DATABASE_URL that is yet to be made is not."""
    done = commanded("roles", *options, DATABASE_URL=made.service, MIGRATE_DATABASE_URL=empty)
    assert (done.code, done.out) == (1, "")
    assert "and MIGRATE_DATABASE_URL to another one" in done.err
    assert asked(empty, "SELECT count(*) FROM pg_namespace WHERE nspname = 'operations'") == [(0,)]
    to_be_made = make_conninfo(empty, user="alpha_monday_to_be_made")
    done = commanded("roles", DATABASE_URL=to_be_made, MIGRATE_DATABASE_URL=empty)
    assert (done.code, "BEGIN;" in done.out) == (0, True)


def test_an_export_of_a_database_without_tables(made, empty, commanded):
    """The line names the setting that leads there."""
    done = commanded("export", DATABASE_URL=made.service, API_DATABASE_URL=empty)
    assert done.code == 1
    assert done.err.rstrip().endswith("check API_DATABASE_URL.")


@pytest.mark.parametrize(
    ("right", "of", "named"),
    [
        ("INSERT ON public.journal", "service", "GRANT INSERT ON TABLE public.journal TO"),
        ("UPDATE (status) ON public.batches", "service", "GRANT UPDATE (status) ON TABLE public.batches TO"),
        ("USAGE ON SCHEMA queue", "service", "GRANT USAGE ON SCHEMA queue TO"),
        ("USAGE ON ALL SEQUENCES IN SCHEMA queue", "service", "GRANT USAGE ON SEQUENCE queue.procrastinate_events_"),
        ("EXECUTE ON ALL FUNCTIONS IN SCHEMA queue", "service", "GRANT EXECUTE ON FUNCTION queue.procrastinate_"),
        ("DELETE ON operations.strikes", "service", "GRANT DELETE ON TABLE operations.strikes TO"),
        ("SELECT ON public.picks", "reader", "GRANT SELECT ON TABLE public.picks TO"),
        ("EXECUTE ON FUNCTION public.absent(text)", "reader", "GRANT EXECUTE ON FUNCTION public.absent(field text) TO"),
    ],
)
async def test_serve_names_a_missing_right_before_anything_lives(made, right, of, named):
    """Of the service's user, and of the API's."""
    configuration = settings.load({"DATABASE_URL": made.service, "API_DATABASE_URL": made.reader})
    await serve._check_rights(configuration, made.service, serves=True, works=True)
    name = getattr(made.names, of)
    await asyncio.to_thread(run, made.admin, f"REVOKE {right} FROM {name}")
    try:
        with pytest.raises(ConfigurationError) as refusal:
            await serve._check_rights(configuration, made.service, serves=True, works=True)
    finally:
        await asyncio.to_thread(run, made.admin, f"GRANT {right} TO {name}")
    assert f"run {named}" in str(refusal.value)
    assert "known" not in str(refusal.value)


@pytest.mark.long
@pytest.mark.parametrize("command", ["serve", "work"])
def test_a_service_that_lacks_a_right_does_not_start(tmp_path, fresh, command):
    """One line, and no traceback."""
    made = asyncio.run(applied(fresh))
    run(fresh, f"REVOKE INSERT ON public.journal FROM {made.names.service}")
    there = {"DATABASE_URL": made.service, "API_DATABASE_URL": made.reader, "PORT": "0"}
    done = process(command, cwd=tmp_path, OPENAI_API_KEY="x", ALPHA_VANTAGE_API_KEY="x", **there)
    assert done.returncode == 1
    (line,) = without_place(done.stderr).splitlines()
    assert f"run GRANT INSERT ON TABLE public.journal TO {made.names.service};" in line


async def test_an_api_that_may_write_is_told_of(made, capsys):
    """API_DATABASE_URL is a boundary only where its user may do no more than read."""
    for address, is_said in ((made.reader, False), (made.service, True), (made.owner, True), (made.admin, True)):
        configuration = settings.load({"DATABASE_URL": made.service, "API_DATABASE_URL": address})
        await serve._check_rights(configuration, made.service, serves=True, works=False)
        told = capsys.readouterr().err
        assert ("may do more than read the record" in told) is is_said
        assert (f"`alpha-monday roles --check --reader {user_of(address)}` says what." in told) is is_said


def test_locks_that_the_reader_may_not_take(made, commanded):
    """Where a superuser takes that right away, the service is compared with the reader all the same."""
    run(made.admin, "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint) FROM PUBLIC")
    run(made.admin, "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) FROM PUBLIC")
    try:
        with as_role(made.reader) as conn:
            assert refused(conn, f"SELECT pg_advisory_lock({Lock.RECONCILIATION})")
        assert asyncio.run(pools.share_a_database(made.service, made.reader))
    finally:
        run(made.admin, "GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO PUBLIC")
        run(made.admin, "GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO PUBLIC")


# The service at work


@pytest.fixture
async def house(fresh) -> AsyncIterator[House]:
    """A house whose jobs run as the service."""
    made = await applied(fresh)
    async with house_at(made.service, HandSetClock(new_york(MONDAY))) as house:
        house.made = made
        yield house


async def test_the_worker_and_the_reconciliation_as_the_service(house):
    """A batch, a worker that fetches, ends and puts back jobs, and rounds that mend."""
    await house.a_batch()
    house.clock.time = new_york(MONDAY + timedelta(days=1), 10)
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE args ->> 'day' = '1'")
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False)
    assert await house.rows("SELECT day FROM checkpoints WHERE day > 0") == [(1,)]
    house.clock.time = new_york(MONDAY + timedelta(days=2), 10)
    mended = await reconcile.look_after(house.tools)
    assert mended is not None
    await house.rows("SELECT procrastinate_prune_stalled_workers_v1(0)")


JUNK = {
    "no JSON": "x",
    "no object": "[]",
    "an object without a type": "{}",
    "a job that is no number": '{"type": "job_inserted", "job_id": "x"}',
    "an abort of a job": '{"type": "abort_job_requested", "job_id": 1}',
    "empty": "",
}


async def test_notifications_of_the_reader_do_not_end_the_worker(house):
    """Every user that connects may send one; a worker that ends over and over would be late for a Monday."""
    made = house.made
    await house.a_batch()
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 day'")
    working = asyncio.create_task(queue.app.run_worker_async(install_signal_handlers=False))
    listening = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND starts_with(query, 'LISTEN')"
    while not await asyncio.to_thread(asked, made.admin, listening):
        await asyncio.sleep(0.05)
        assert not working.done()
    async with await psycopg.AsyncConnection.connect(made.reader, autocommit=True) as conn:
        for payload in JUNK.values():
            await conn.execute("SELECT pg_notify('procrastinate_any_queue_v1', %s)", (payload,))
    house.clock.time = new_york(MONDAY + timedelta(days=1), 10)
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE args ->> 'day' = '1'")
    while not await house.rows("SELECT day FROM checkpoints WHERE day = 1"):
        await asyncio.sleep(0.05)
        assert not working.done()
    working.cancel()
    await asyncio.wait([working])


async def test_a_right_that_is_taken_away_under_a_job(house):
    """The job waits until it is given back, and has not failed; what it says names the statement."""
    made = house.made
    batch = await house.a_batch()
    house.clock.time = new_york(MONDAY + timedelta(days=1), 10)
    await asyncio.to_thread(run, made.admin, f"REVOKE INSERT ON public.journal FROM {made.names.service}")

    async def job() -> None:
        await daily.take(house.tools, batch.id, 1)

    class Context:
        job = None

    with pytest.raises(TryAgainAt) as later:
        await queue.counted(job, Context, None)
    assert f"GRANT INSERT ON TABLE public.journal TO {made.names.service};" in str(later.value)
    assert later.value.at == house.clock.now() + queue.RIGHT_MISSING
    await asyncio.to_thread(run, made.admin, f"GRANT INSERT ON public.journal TO {made.names.service}")
    await queue.counted(job, Context, None)
    assert await house.rows("SELECT status FROM checkpoints WHERE day = 1") == [("computed",)]


@pytest.mark.parametrize(
    "by_itself",
    [
        pytest.param(False, id="by a superuser"),
        pytest.param(True, id="by the former user", marks=pytest.mark.long),
    ],
)
async def test_one_user_becomes_three_in_the_middle_of_a_fortnight(empty, by_itself):
    """The service goes on as the former user, whose tables change hands, and then as the service's role."""
    database = conninfo_to_dict(empty)["dbname"]
    former = f"{database}_former"
    await asyncio.to_thread(
        run,
        empty,
        f"CREATE ROLE {former} LOGIN CREATEROLE PASSWORD 'known'",
        f"ALTER DATABASE {database} OWNER TO {former}",
    )
    before = make_conninfo(empty, user=former, password="known")
    await migrations.migrate(before, AT)
    clock = HandSetClock(new_york(MONDAY))
    async with house_at(before, clock) as house:
        batch = await house.a_batch()
        await _mornings(house, batch.run_date + timedelta(days=3))
        made = await applied(before if by_itself else empty)
        made = made._replace(admin=empty)
        fresh = empty
        owners = await asyncio.to_thread(
            asked, fresh, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
        )
        assert owners == [(made.names.owner,)]
        await _mornings(house, batch.run_date + timedelta(days=6))
    async with house_at(made.service, clock) as house:
        await house.a_batch(MONDAY + timedelta(weeks=1))
        await _mornings(house, batch.run_date + timedelta(days=14))
        batch = await house.batch()
        assert batch.status == "completed"
    async with record_at(made.reader) as source:
        await verify(source, [], lambda *_: None)


async def _mornings(house: House, until: object) -> None:
    async with house.tools.pool.connection() as conn:
        due = await checkpoints.awaiting(conn, until)
    for one in sorted(due, key=_nine):
        house.clock.time = max(house.clock.time, _nine(one))
        await until_it_can(house, lambda one=one: daily.take(house.tools, one.batch_id, one.day))


def _nine(one: checkpoints.Due) -> datetime:
    return new_york(one.run_date + timedelta(days=one.day))


@pytest.mark.long
async def test_the_api_as_the_reader(eventful):
    """Every document of ours is answered to the reader as to a superuser, on a record in which everything happened."""
    reader = make_conninfo(eventful, user=names_for(eventful).reader, password="known")
    values = {**VARIABLES, "BatchOn": {"runDate": str(REFUSED)}, "Monday": {"runDate": str(REFUSED), "before": None}}
    async with (
        pools.opened(pools.make_pool(reader, generic=True)) as pool,
        pools.opened(pools.make_pool(eventful, generic=True)) as other,
    ):
        for name, document in OPERATIONS.items():
            answer = await engine_on(pool).answer(document, values.get(name))
            assert answer.body == (await engine_on(other).answer(document, values.get(name))).body, name
            assert b"INTERNAL_SERVER_ERROR" not in answer.body


async def test_documents_as_the_reader(made):
    """The same on an empty record."""
    async with pools.opened(pools.make_pool(made.reader, generic=True)) as pool:
        for name, document in OPERATIONS.items():
            answer = json.loads((await engine_on(pool).answer(document, VARIABLES.get(name))).body)
            assert "errors" not in answer, name


@pytest.mark.long
async def test_two_servers_and_two_workers_as_their_roles(tmp_path, fresh):
    """Real processes: the workers as the service, the API as the reader, every morning of two Mondays."""
    made = await applied(fresh)
    async with pools.opened(pools.make_pool(fresh)) as pool:
        await live_through(tmp_path, fresh, pool, DATABASE_URL=made.service, API_DATABASE_URL=made.reader)


@pytest.mark.long
@both
async def test_rights_that_are_too_many_are_found(fresh, role):
    """One right on one table, on a column, on a schema, by PUBLIC, by a role: each is named."""
    made = await applied(fresh)
    name, database = getattr(made.names, role), conninfo_to_dict(fresh)["dbname"]
    for given, what in {
        f"GRANT DELETE ON public.journal TO {name}": "DELETE on the table public.journal",
        f"GRANT UPDATE (content) ON public.journal TO {name}": "UPDATE on the table public.journal",
        f"GRANT TRIGGER ON public.picks TO {name}": "TRIGGER on the table public.picks",
        f"GRANT REFERENCES (id) ON public.batches TO {name}": "REFERENCES on the table public.batches",
        "GRANT CREATE ON SCHEMA public TO PUBLIC": "CREATE on the schema public",
        f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC": "TEMPORARY on the database",
        f"GRANT CREATE ON DATABASE {database} TO {name}": "CREATE on the database",
        "GRANT SELECT ON operations.roles TO PUBLIC": "SELECT on the table operations.roles",
        f"ALTER TABLE public.picks OWNER TO {name}": f"{name} owns 1 tables, public.picks among them",
        f"ALTER ROLE {name} CREATEROLE": f"{name} is CREATEROLE",
    }.items():
        await asyncio.to_thread(run, fresh, given)
        async with await Session.connect(fresh, name="test", autocommit=True) as conn:
            found = await roles.excess(conn, Kind(role), name)
        assert any(what in line for line in found), (given, found)
        await applied(fresh)
        await asyncio.to_thread(run, fresh, f"ALTER ROLE {name} NOCREATEROLE")


async def test_a_need_is_what_a_role_has(made):
    """The service may do all that a command needs, the reader only what reads the record."""
    for address, needs in ((made.service, list(Need)), (made.reader, [Need.READ_RECORD]), (made.owner, list(Need))):
        for need in Need:
            if need in needs:
                await roles.refuse_without(address, need)
            else:
                with pytest.raises(ConfigurationError, match="run GRANT "):
                    await roles.refuse_without(address, need)
