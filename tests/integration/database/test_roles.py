"""
The three roles have only the rights that they need.

The class of faults: a role does more than its part. These cases are tried as the service and as the
reader, on every table where they concern tables: UPDATE of every column, DELETE, TRUNCATE,
disabling triggers, dropping, altering, locking and taking over tables, a trigger or a rule or a
foreign key of one's own, granting rights, becoming the owner, disabling all triggers of a session,
programs and files of the server, extensions and event triggers, tables, functions and schemas of
one's own, and a temporary table in place of the journal.

`tests/support/eventful.py` lets the service run the whole life of a record; every test that reads
that record depends on it.
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
from job_context import (
    MONDAY,
    JobHarness,
    first_attempt,
    new_york,
    open_harness,
    run_until_done,
)
from processes import live_through
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from record_server import copy_of
from three_roles import Roles, addresses, applied, names_for

from app.commands import rehearse, serve, terminal
from app.core import settings
from app.core.locks import Lock
from app.database import migrations, pools, rights, roles
from app.database.advice import get_user
from app.database.rights import Need, Role
from app.database.roles import RoleNames
from app.database.sessions import Session
from app.errors import ConfigurationError, TryAgainAt
from app.ops.verify import open_database as record_at
from app.ops.verify import verify
from app.simulation import rehearsal
from app.store import checkpoints
from jobs import daily, queue, reconcile
from tests.integration.api.test_persisted_operations import OPERATIONS, VARIABLES

AT = datetime(2026, 10, 26, 13, tzinfo=UTC)
DENIED = psycopg.errors.InsufficientPrivilege
both = pytest.mark.parametrize("role", ["service", "reader"])


@pytest.fixture(scope="module")
def made(create, migrated) -> Roles:
    """A migrated database with its roles; tests do not change it."""
    return asyncio.run(applied(copy_of(migrated, create)))


@pytest.fixture
def fresh(create, migrated) -> str:
    """The address of a migrated database without roles."""
    return copy_of(migrated, create)


@contextmanager
def as_role(address: str) -> Iterator[psycopg.Connection]:
    """Yield a connection that rolls back every statement."""
    with psycopg.connect(address, autocommit=True) as conn:
        yield conn


def query(address: str, statement: str, *values: object) -> list[tuple]:
    """Return the result of a statement."""
    with psycopg.connect(address, autocommit=True) as conn:
        return conn.execute(statement.encode(), values).fetchall()


def run(address: str, *statements: str) -> None:
    """Run statements as an administrator."""
    with psycopg.connect(address, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def refused(conn: psycopg.Connection, statement: str) -> bool:
    """
    Return whether Postgres refuses a statement because of a missing right; otherwise the
    statement is rolled back.
    """
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement.encode())
    except DENIED:
        return True
    return False


def views_of(address: str) -> list[str]:
    """Return every view that does not belong to Postgres itself."""
    return [
        name
        for (name,) in query(
            address,
            "SELECT schemaname || '.' || viewname FROM pg_views "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        )
    ]


def tables_of(address: str) -> list[str]:
    """Return every table that does not belong to Postgres itself."""
    return [
        name
        for (name,) in query(
            address,
            "SELECT schemaname || '.' || tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        )
    ]


# The table of rights


def test_every_table_and_function_is_in_the_table_of_rights(made):
    """
    A migration that adds a table or a function adds its rights; everything in the table of
    rights exists.
    """
    outside = [name for name in tables_of(made.admin) if not name.startswith("queue.")]
    assert {*outside, *views_of(made.admin)} == set(rights.TABLES) - {"told.clock"}
    functions = query(
        made.admin, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    assert {name for (name,) in functions} == set(rights.FUNCTIONS)


def test_every_column_in_the_table_of_rights_is_there(made):
    """A column that does not exist would be left out without an error."""
    there = query(
        made.admin,
        "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns",
    )
    wanted = {
        (table, column)
        for table, table_rights in rights.TABLES.items()
        for column in table_rights.updates
    }
    assert wanted <= set(there)


APPEND_ONLY = (
    "public.journal",
    "public.timestamps",
    "public.closes",
    "public.splits",
    "public.dividends",
    "public.rates",
    "public.corrections",
)
RECORD = (
    *APPEND_ONLY,
    "public.batches",
    "public.picks",
    "public.checkpoints",
    "public.pick_checkpoint_metrics",
    "public.further_benchmarks",
    "public.generations",
)
# What the service notes for itself, and forgets.
ITS_OWN = re.compile(r"queue\..*|operations\.(strikes|alerts|heartbeats|model_ends)")


def test_what_the_reader_may_read(made):
    """
    The reader reads the record, and which migrations are applied; no other column, and no
    function of the queue.
    """
    with as_role(made.reader) as conn:
        readable = {
            table for table in tables_of(made.admin) if not refused(conn, f"SELECT FROM {table}")
        }
        assert readable == {*RECORD, "operations.migrations"}
        assert refused(conn, "SELECT queue.procrastinate_register_worker_v1()")
        assert refused(conn, "INSERT INTO public.closes DEFAULT VALUES")


@both
def test_no_row_is_deleted(made, role):
    """Neither role deletes rows, except of tables in which the service deletes its own state."""
    with as_role(getattr(made, role)) as conn:
        for table in tables_of(made.admin):
            may = role == "service" and ITS_OWN.fullmatch(table)
            assert refused(conn, f"DELETE FROM {table}") is not bool(may), table
            assert refused(conn, f"TRUNCATE {table} CASCADE"), table


@both
def test_a_view_can_be_read_and_not_changed(made, role):
    """Both roles read the views; a view has no right of its own to change what it shows."""
    views = views_of(made.admin)
    assert views == ["public.profiles", "public.series"]
    with as_role(getattr(made, role)) as conn:
        for view in views:
            assert conn.execute(f"SELECT * FROM {view}").fetchall() == []
    rights_on_views = query(
        made.admin,
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants "
        "WHERE table_name = ANY(%s) AND grantee = %s ORDER BY 1",
        ["profiles", "series"],
        made.names.name_of(rights.Role(role)),
    )
    assert rights_on_views == [("profiles", "SELECT"), ("series", "SELECT")]


@both
def test_only_what_a_job_changes_can_be_changed(made, role):
    """
    The service cannot change an append-only table, a key, a question's time, or a text of the
    model.
    """
    columns = query(
        made.admin,
        "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns "
        "JOIN information_schema.tables USING (table_schema, table_name) "
        "WHERE table_schema IN ('public', 'operations', 'queue') "
        "AND table_type = 'BASE TABLE' "
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
    fixed_columns = {
        "id",
        "batch_id",
        "checkpoint_id",
        "pick_id",
        "series",
        "run_date",
        "day",
        "attempt",
        "asked_at",
    }
    fixed_columns |= {
        "position",
        "action",
        "reasoning",
        "system_prompt",
        "user_prompt",
        "prompt_version",
        "skip_reason",
        "note",
    }
    of_the_record = {column for table, column in changeable if table in RECORD}
    assert not of_the_record & fixed_columns
    assert ("public.batches", "status") in changeable
    # Of all columns with total returns, none is left out: each can be added and corrected.
    assert {column for table, column in changeable if table == "public.checkpoints"} >= {
        "benchmark_dividends",
        "benchmark_total_return_pct",
        "benchmark_spin_off_counted_once",
    }
    assert {
        column for table, column in changeable if table == "public.pick_checkpoint_metrics"
    } >= {"dividends", "total_return_pct", "vs_benchmark_total_pct", "spin_off_counted_once"}


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
    """Neither role can change the definition of any table, not even of its own state."""
    with as_role(getattr(made, role)) as conn:
        for table in tables_of(made.admin):
            statement = ON_A_TABLE[attack].format(table, me=getattr(made.names, role))
            assert refused(conn, statement), statement


@both
def test_no_table_of_the_record_can_be_locked_for_others(made, role):
    """A lock that blocks readers or writers of the record needs a right that neither role has."""
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
    "CREATE FUNCTION of the record": (
        "CREATE OR REPLACE FUNCTION public.refuse_change() RETURNS trigger "
        "LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    ),
    "ALTER FUNCTION": "ALTER FUNCTION public.refuse_change() RESET search_path",
    "CREATE OPERATOR": (
        "CREATE OPERATOR public.= (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)"
    ),
    "CREATE VIEW": "CREATE VIEW public.mine AS SELECT 1",
    "CREATE TYPE": "CREATE TYPE operations.mine AS (x int)",
    "CREATE SCHEMA": "CREATE SCHEMA mine",
    "DROP SCHEMA": "DROP SCHEMA queue CASCADE",
    "DROP FUNCTION": "DROP FUNCTION public.refuse_change() CASCADE",
    "CREATE EXTENSION": "CREATE EXTENSION dblink",
    "CREATE EVENT TRIGGER": (
        "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION event_trigger_fn()"
    ),
    "CREATE LANGUAGE": "CREATE LANGUAGE mine HANDLER plpgsql_call_handler",
    "CREATE PUBLICATION": "CREATE PUBLICATION mine",
    "LOAD": "LOAD '/tmp/mine.so'",
    "pg_read_file": "SELECT pg_read_file('postgresql.conf')",
    "pg_ls_dir": "SELECT pg_ls_dir('.')",
    "lo_import": "SELECT lo_import('/etc/hostname')",
    "lo_export": "SELECT lo_export(1, '/tmp/mine')",
    "ALTER SYSTEM": "ALTER SYSTEM SET work_mem = '1GB'",
    "ALTER DATABASE": "ALTER DATABASE {database} SET search_path = mine",
    "ALTER DEFAULT PRIVILEGES": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT ALL ON TABLES TO {me}"
    ),
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
    """
    Neither role disables triggers, becomes another role, reaches the server's files, or owns an
    object.
    """
    names, database = made.names, conninfo_to_dict(made.admin)["dbname"]
    statement = ANYWHERE[attack].format(
        owner=names.owner, me=getattr(names, role), database=database
    )
    with as_role(getattr(made, role)) as conn:
        if attack == "ALTER SYSTEM":  # not in a transaction
            with pytest.raises(DENIED):
                conn.execute(statement)
            return
        if attack == "CREATE EVENT TRIGGER":  # its function must be there
            statement = statement.replace(
                "event_trigger_fn", "pg_catalog.pg_event_trigger_ddl_commands"
            )
            with pytest.raises(
                (DENIED, psycopg.errors.WrongObjectType, psycopg.errors.UndefinedFunction)
            ):
                conn.execute(statement)
            return
        assert refused(conn, statement), statement


@both
def test_a_grant_to_itself_gives_nothing(made, role):
    """Postgres only prints a warning for it, if the role has another right on the table."""
    with as_role(getattr(made, role)) as conn, conn.transaction(force_rollback=True):
        for table in RECORD:
            conn.execute(f"GRANT ALL ON {table} TO {getattr(made.names, role)}")
            held = conn.execute("SELECT has_table_privilege(%s, 'DELETE')", (table,)).fetchone()
            assert held == (False,), table


SHADOWS = {
    "a head of the journal": (
        "CREATE TEMP TABLE journal (seq bigint, hash text)",
        "INSERT INTO pg_temp.journal VALUES (41, repeat('a', 64))",
        "INSERT INTO public.journal (seq, kind, at, content, previous, hash) SELECT 42, "
        "'BATCH', now(), '', "
        "repeat('a', 64), encode(sha256(convert_to(repeat('a', 64) || chr(10), 'UTF8')), 'hex')",
    ),
    "a batch for a checkpoint": (
        "CREATE TEMP TABLE batches (id uuid, run_date date)",
        "INSERT INTO pg_temp.batches VALUES ('00000000-0000-4000-8000-000000000001', '2026-10-26')",
        "INSERT INTO public.checkpoints (id, batch_id, day, checkpoint_date, status, "
        "taken_at, skipped_at, "
        "skip_reason) VALUES (gen_random_uuid(), '00000000-0000-4000-8000-000000000001', 1, "
        "'2026-10-27', 'skipped', "
        "now(), now(), "
        "'MISSING_CLOSE')",
    ),
}


@pytest.mark.parametrize("shadow", SHADOWS)
def test_a_guard_reads_the_record_whatever_stands_before_it(made, shadow):
    """
    Even if an administrator granted TEMPORARY again, the triggers read the tables of `public`.
    """
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
    """Otherwise it could take our advisory locks, and create tables."""
    name = f"{conninfo_to_dict(made.admin)['dbname']}_another"
    run(made.admin, f"CREATE ROLE {name} LOGIN PASSWORD 'known'")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(make_conninfo(made.admin, user=name, password="known"))


# The command


def names_as_options(names: RoleNames) -> list[str]:
    """Return the options that name the roles."""
    return ["--owner", names.owner, "--service", names.service, "--reader", names.reader]


def test_printed_applied_and_compared(fresh, commanded):
    """
    The printed SQL is a script without a password; applied twice it changes nothing; later runs
    know the names.
    """
    names = names_for(fresh)
    options = names_as_options(names)
    printed = commanded("roles", *options, DATABASE_URL=fresh)
    assert printed.exit_code == 0
    assert f"CREATE ROLE {names.reader} LOGIN CONNECTION LIMIT 40" in printed.output
    assert f"\\password {names.owner}" in printed.output
    assert not re.search(r"PASSWORD '", printed.output)
    assert commanded("roles", "--check", *options, DATABASE_URL=fresh).exit_code == 1
    run(fresh, printed.output)
    before = acl_of(fresh)
    for words in (["--check", *options], ["--apply", *options], ["--apply"], ["--check"]):
        done = commanded("roles", *words, DATABASE_URL=fresh)
        assert done.exit_code == 0, done
        assert done.output.endswith("have the rights that they need, and no others.\n")
        assert acl_of(fresh) == before


def acl_of(address: str) -> list[tuple]:
    """Return every owner, right and setting that `roles` changes."""
    return query(
        address,
        """
        SELECT oid::regclass::text, relowner::regrole::text, array(SELECT unnest(relacl)::text
            ORDER BY 1)
        FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', 'queue', 'operations')
        UNION ALL
        SELECT oid::regprocedure::text, proowner::regrole::text,
            array(SELECT unnest(proacl)::text ORDER BY 1) || proconfig
        FROM pg_proc WHERE pronamespace::regnamespace::text IN ('public', 'queue')
        UNION ALL
        SELECT nspname, nspowner::regrole::text, array(SELECT unnest(nspacl)::text ORDER BY 1)
            FROM pg_namespace
        UNION ALL
        SELECT typname, typowner::regrole::text, NULL FROM pg_type WHERE
            typnamespace::regnamespace::text = 'queue'
        UNION ALL
        SELECT datname, '', array(SELECT unnest(datacl)::text ORDER BY 1) FROM pg_database
        WHERE datname = current_database()
        ORDER BY 1
        """,
    )


@pytest.mark.long
def test_on_a_database_without_tables(empty, commanded):
    """
    If the owner migrates later, or a backup is restored, each table gets its rights when it is
    created.
    """
    names = names_for(empty)
    assert (
        commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).exit_code == 0
    )
    made = addresses(empty, names)
    settings = {"DATABASE_URL": made.service, "MIGRATE_DATABASE_URL": made.owner}
    assert commanded("migrate", **settings).exit_code == 0
    assert commanded("roles", "--check", DATABASE_URL=made.owner).exit_code == 0
    # Back to before the queue, whose schema goes with it, and up again.
    assert commanded("migrate", "--down-to", 2, "--yes", **settings).exit_code == 0
    assert commanded("migrate", **settings).exit_code == 0
    assert commanded("roles", "--check", DATABASE_URL=made.owner).exit_code == 0


def test_migrate_as_another_than_the_owner_without_tables(empty, commanded):
    """
    The message names the owner: a GRANT to the service or the reader would give it rights that
    no job needs.
    """
    names = names_for(empty)
    assert (
        commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).exit_code == 0
    )
    made = addresses(empty, names)
    for user, address in ((names.service, made.service), (names.reader, made.reader)):
        done = commanded("migrate", DATABASE_URL=address)
        (line,) = without_place(done.error).splitlines()
        assert (done.exit_code, f"The user {user} may not make the tables" in line) == (1, True)
        assert f"belongs to {names.owner}. Set MIGRATE_DATABASE_URL to that user's address" in line
        assert "GRANT CREATE" not in line


@pytest.mark.long
def test_what_an_administrator_migrates_is_the_owners_too(empty, commanded):
    """If a superuser migrates, the owner still owns every table."""
    names = names_for(empty)
    assert (
        commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).exit_code == 0
    )
    assert commanded("migrate", DATABASE_URL=empty).exit_code == 0
    assert commanded("roles", "--check", DATABASE_URL=empty).exit_code == 0


def test_roles_that_are_there(fresh, commanded):
    """
    A role that exists is used as it is, with its password; rights beyond its own are named,
    with the statement that revokes them.
    """
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
    assert done.exit_code == 1
    error = without_place(done.error)
    assert (
        f"{names.service} has CREATEDB. Remove it with ALTER ROLE {names.service} NOCREATEDB;"
        in error
    )
    assert f"REVOKE {names.owner} FROM {names.service};" in error
    assert f"REVOKE pg_write_all_data FROM {names.reader};" in error
    assert "new" not in error
    run(
        fresh,
        f"ALTER ROLE {names.service} NOCREATEDB",
        f"REVOKE {names.owner} FROM {names.service}",
        f"REVOKE pg_write_all_data FROM {names.reader}",
    )
    assert commanded("roles", "--check", DATABASE_URL=fresh).exit_code == 0
    assert query(
        make_conninfo(fresh, user=names.service, password="before"), "SELECT count(*) FROM batches"
    ) == [(0,)]


@pytest.mark.long
def test_other_names(fresh, commanded):
    """A role that is replaced by another one keeps no right."""
    first, database = names_for(fresh), conninfo_to_dict(fresh)["dbname"]
    assert (
        commanded("roles", "--apply", *names_as_options(first), DATABASE_URL=fresh).exit_code == 0
    )
    second = [f"{database}_{kind}_2" for kind in ("owner", "service", "reader")]
    options = names_as_options(RoleNames(*second))
    assert commanded("roles", "--apply", *options, DATABASE_URL=fresh).exit_code == 0
    for table in RECORD:
        for role in (first.service, first.reader):
            held = query(fresh, "SELECT has_table_privilege(%s, %s, 'SELECT')", role, table)
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
def test_invalid_names(migrated, commanded, case):
    """An invalid name is one line, and no SQL is printed."""
    done = commanded("roles", *UNFIT_NAMES[case], DATABASE_URL=migrated)
    assert (done.exit_code, done.output) == (1, "")
    assert len(without_place(done.error).splitlines()) == 1


@pytest.mark.long
def test_names_that_need_quotes(fresh, commanded):
    """Names that need quotes are quoted everywhere, a keyword as well as an apostrophe."""
    database = conninfo_to_dict(fresh)["dbname"]
    names = RoleNames(f"{database}_Owner's", f'{database}_the "service"', f"{database}_$$ reader")
    try:
        assert (
            commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=fresh).exit_code
            == 0
        )
    finally:
        for name in (names.owner, names.service, names.reader):
            quoted = roles.quote_identifier(name)
            run(
                fresh,
                f"REASSIGN OWNED BY {quoted} TO CURRENT_USER",
                f"DROP OWNED BY {quoted}",
                f"DROP ROLE {quoted}",
            )
    assert roles.quote_identifier("user") == '"user"'


def test_a_user_that_may_not_make_roles(made, commanded):
    """One line says who may create roles, and how to get the SQL."""
    done = commanded("roles", "--apply", "--owner", "x_owner", DATABASE_URL=made.owner)
    assert done.exit_code == 1
    (line,) = without_place(done.error).splitlines()
    assert "Nothing was changed" in line
    assert "`alpha-monday roles` prints the statements" in line
    done = commanded("roles", "--apply", *names_as_options(made.names), DATABASE_URL=made.service)
    assert done.exit_code == 1
    assert "it cannot take rights from itself" in done.error


# Commands and their rights


@contextmanager
def sessions_of_a_service(made: Roles) -> Iterator[None]:
    """
    Open a session as a service does: the owner sees its name, although it belongs to another
    user.
    """
    with psycopg.connect(made.service, application_name="alpha-monday app"):
        yield


READS_RECORD = [["verify"], ["export", "x.csv"], ["show"], ["closes", "MSFT"]]
READS_ALL = [["status"], ["jobs", "list"], ["backup", "x.zip"]]


@pytest.fixture
def lived(create, eventful) -> Roles:
    """A copy of the eventful record, with roles of its own."""
    return asyncio.run(applied(copy_of(eventful, create)))


@pytest.mark.long
def test_each_command_as_the_role_that_it_needs(lived, empty, commanded):
    """
    A command that reads the record works as the reader, one that reads all tables as the
    service; as the reader, that one names the missing right.
    """
    for words in READS_RECORD:
        done = commanded(*words, DATABASE_URL=lived.reader)
        assert done.exit_code == 0, (words, done)
    for words in READS_ALL:
        done = commanded(*words, DATABASE_URL=lived.reader)
        assert done.exit_code == 1, words
        assert f"run GRANT USAGE ON SCHEMA queue TO {lived.names.reader};" in done.error
        assert commanded(*words, DATABASE_URL=lived.service).exit_code == (
            1 if words == ["status"] else 0
        ), words
    with zipfile.ZipFile("x.zip") as backup:
        assert "public.journal.tsv" in backup.namelist()
    names = names_for(empty)
    assert (
        commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).exit_code == 0
    )
    restored = addresses(empty, names)
    refusal = commanded("restore", "x.zip", DATABASE_URL=restored.service)
    assert (refusal.exit_code, len(without_place(refusal.error).splitlines())) == (1, 1)
    done = commanded(
        "restore", "x.zip", DATABASE_URL=restored.service, MIGRATE_DATABASE_URL=restored.owner
    )
    assert done.exit_code == 0, done
    assert commanded("roles", "--check", DATABASE_URL=restored.owner).exit_code == 0
    assert commanded("verify", DATABASE_URL=restored.reader).exit_code == 0


def is_short(words: list[str]) -> bool:
    """Return whether `make test` tries a command; `make test-long` tries all."""
    return words in (["verify"], ["status"])


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=" ".join(words), marks=[] if is_short(words) else [pytest.mark.long])
        for words in [*READS_RECORD, *READS_ALL, ["jobs", "retry", "1"]]
    ],
)
def test_a_right_that_is_missing_is_named(fresh, commanded, words):
    """
    The message has the right, the object, and the statement that grants it; after that
    statement the command succeeds.
    """
    made = asyncio.run(applied(fresh))
    table = "public.journal" if words in READS_RECORD else "operations.alerts"
    run(fresh, f"REVOKE SELECT ON {table} FROM {made.names.service}")
    done = commanded(*words, DATABASE_URL=made.service)
    (line,) = without_place(done.error).splitlines()
    wanted = f"GRANT SELECT ON TABLE {table} TO {made.names.service};"
    assert (wanted in line, done.exit_code) == (True, 2 if words == ["verify"] else 1)
    assert "`alpha-monday roles --apply`" in line
    run(fresh, wanted)
    assert wanted not in commanded(*words, DATABASE_URL=made.service).error


def test_migrate_needs_no_right_where_nothing_is_to_be_done(made, commanded):
    """The service may run it if no migration is missing; otherwise the message names the owner."""
    assert commanded("migrate", DATABASE_URL=made.service)[:2] == (
        0,
        "The database is up to date.\n",
    )
    done = commanded("migrate", "--down-to", 12, "--yes", DATABASE_URL=made.service)
    assert done.exit_code == 1
    assert f"belong to {made.names.owner}. Set MIGRATE_DATABASE_URL" in done.error


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
    """The message names the owner, and does not suggest the owner's rights for another user."""
    if words[0] == "restore":
        assert commanded("backup", "x.zip", DATABASE_URL=made.service).exit_code == 0
    done = commanded(*words, DATABASE_URL=getattr(made, of))
    (line,) = without_place(done.error).splitlines()
    assert done.exit_code == 1
    assert f"belong to {made.names.owner}. Set {setting} to that user's address" in line
    assert "GRANT SELECT" not in line


@pytest.mark.parametrize("of", ["service", "reader"])
def test_rehearse_as_another_than_the_owner(made, empty, commanded, of):
    """With and without tables, the message says which address DATABASE_URL needs."""
    with pytest.raises(
        ConfigurationError,
        match=f"user {getattr(made.names, of)} .*Set DATABASE_URL to that user's",
    ):
        asyncio.run(
            rehearse._migrate(
                rehearsal.database_address(settings.load({"DATABASE_URL": getattr(made, of)}))
            )
        )
    names = names_for(empty)
    assert (
        commanded("roles", "--apply", *names_as_options(names), DATABASE_URL=empty).exit_code == 0
    )
    address = rehearsal.database_address(
        settings.load({"DATABASE_URL": getattr(addresses(empty, names), of)})
    )
    with pytest.raises(
        ConfigurationError,
        match=f"belongs to {names.owner}. Set DATABASE_URL to that user's address",
    ):
        asyncio.run(rehearse._migrate(address))


def test_migrate_as_another_than_the_owner(fresh, commanded):
    """
    A missing migration is refused before its first statement, in one line; as the owner it is
    applied.
    """
    made = asyncio.run(applied(fresh))
    with sessions_of_a_service(made):
        done = commanded("migrate", "--down-to", 12, "--yes", DATABASE_URL=made.owner)
        assert "A service runs on this database" in done.error
    assert commanded("migrate", "--down-to", 12, "--yes", DATABASE_URL=made.owner).exit_code == 0
    done = commanded("migrate", DATABASE_URL=made.service)
    (line,) = without_place(done.error).splitlines()
    assert done.exit_code == 1
    assert f"The user {made.names.service} may not apply migration 0013" in line
    assert f"GRANT {made.names.owner} TO {made.names.service};" in line
    assert (
        commanded("migrate", DATABASE_URL=made.service, MIGRATE_DATABASE_URL=made.owner).exit_code
        == 0
    )
    assert commanded("roles", "--check", DATABASE_URL=made.owner).exit_code == 0


@pytest.mark.parametrize("name", ["API_DATABASE_URL", "MIGRATE_DATABASE_URL", "QUEUE_DATABASE_URL"])
async def test_an_address_of_another_database(made, empty, name):
    """
    The address is refused before a service starts or migrates: a lock over one address is not
    visible over the other.
    """
    there = {
        "DATABASE_URL": made.service,
        "API_DATABASE_URL": made.reader,
        "MIGRATE_DATABASE_URL": made.owner,
    }
    names = ("API_DATABASE_URL", "MIGRATE_DATABASE_URL")
    await terminal.refuse_different_databases(settings.load(there), *names)
    with pytest.raises(ConfigurationError, match=f"and {name} to another one"):
        await terminal.refuse_different_databases(settings.load({**there, name: empty}), *names)


def test_migrate_as_the_owner_of_another_database(made, empty, commanded):
    """Nothing is created in the other database."""
    done = commanded("migrate", DATABASE_URL=made.service, MIGRATE_DATABASE_URL=empty)
    assert done.exit_code == 1
    assert "and MIGRATE_DATABASE_URL to another one" in done.error
    assert query(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'operations'") == [(0,)]


@pytest.mark.parametrize("options", [[], ["--check"], ["--apply"]], ids=["print", "check", "apply"])
def test_roles_of_another_database(made, empty, commanded, options):
    """
    Two addresses of different databases are refused, unless the user of DATABASE_URL does not
    exist yet.
    """
    done = commanded("roles", *options, DATABASE_URL=made.service, MIGRATE_DATABASE_URL=empty)
    assert (done.exit_code, done.output) == (1, "")
    assert "and MIGRATE_DATABASE_URL to another one" in done.error
    assert query(empty, "SELECT count(*) FROM pg_namespace WHERE nspname = 'operations'") == [(0,)]
    to_be_made = make_conninfo(empty, user="alpha_monday_to_be_made")
    done = commanded("roles", DATABASE_URL=to_be_made, MIGRATE_DATABASE_URL=empty)
    assert (done.exit_code, "BEGIN;" in done.output) == (0, True)


def test_an_export_of_a_database_without_tables(made, empty, commanded):
    """The message names the setting with the address."""
    done = commanded("export", DATABASE_URL=made.service, API_DATABASE_URL=empty)
    assert done.exit_code == 1
    assert done.error.rstrip().endswith("check API_DATABASE_URL.")


@pytest.mark.parametrize(
    ("right", "of", "named"),
    [
        ("INSERT ON public.journal", "service", "GRANT INSERT ON TABLE public.journal TO"),
        (
            "UPDATE (status) ON public.batches",
            "service",
            "GRANT UPDATE (status) ON TABLE public.batches TO",
        ),
        ("USAGE ON SCHEMA queue", "service", "GRANT USAGE ON SCHEMA queue TO"),
        (
            "USAGE ON ALL SEQUENCES IN SCHEMA queue",
            "service",
            "GRANT USAGE ON SEQUENCE queue.procrastinate_events_",
        ),
        (
            "EXECUTE ON ALL FUNCTIONS IN SCHEMA queue",
            "service",
            "GRANT EXECUTE ON FUNCTION queue.procrastinate_",
        ),
        ("DELETE ON operations.strikes", "service", "GRANT DELETE ON TABLE operations.strikes TO"),
        ("SELECT ON public.picks", "reader", "GRANT SELECT ON TABLE public.picks TO"),
        (
            "EXECUTE ON FUNCTION public.absent(text)",
            "reader",
            "GRANT EXECUTE ON FUNCTION public.absent(field text) TO",
        ),
    ],
)
async def test_serve_names_a_missing_right_before_anything_lives(made, right, of, named):
    """`serve` checks the rights of the service's user and of the API's user before it starts."""
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
    """The error is one line without a traceback."""
    made = asyncio.run(applied(fresh))
    run(fresh, f"REVOKE INSERT ON public.journal FROM {made.names.service}")
    there = {"DATABASE_URL": made.service, "API_DATABASE_URL": made.reader, "PORT": "0"}
    done = process(command, cwd=tmp_path, OPENAI_API_KEY="x", ALPHA_VANTAGE_API_KEY="x", **there)
    assert done.returncode == 1
    (line,) = without_place(done.stderr).splitlines()
    assert f"run GRANT INSERT ON TABLE public.journal TO {made.names.service};" in line


async def test_an_api_user_that_may_write_is_reported(made, capsys):
    """
    `serve` says so if the user of API_DATABASE_URL may do more than read, because then that
    address is no boundary.
    """
    for address, is_named in (
        (made.reader, False),
        (made.service, True),
        (made.owner, True),
        (made.admin, True),
    ):
        configuration = settings.load({"DATABASE_URL": made.service, "API_DATABASE_URL": address})
        await serve._check_rights(configuration, made.service, serves=True, works=False)
        error = capsys.readouterr().err
        assert ("has more rights than to read the record" in error) is is_named
        assert (
            f"`alpha-monday roles --check --reader {get_user(address)}` lists these rights."
            in error
        ) is is_named


def test_locks_that_the_reader_may_not_take(made, commanded):
    """
    If a superuser revokes the right to take locks, the service can still compare two addresses.
    """
    run(made.admin, "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint) FROM PUBLIC")
    run(
        made.admin,
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) FROM PUBLIC",
    )
    try:
        with as_role(made.reader) as conn:
            assert refused(conn, f"SELECT pg_advisory_lock({Lock.RECONCILIATION})")
        assert asyncio.run(pools.is_same_database(made.service, made.reader))
    finally:
        run(made.admin, "GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO PUBLIC")
        run(
            made.admin,
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO PUBLIC",
        )


# The service at work


@pytest.fixture
async def harness(fresh) -> AsyncIterator[JobHarness]:
    """A set of parts whose jobs run as the service."""
    made = await applied(fresh)
    async with open_harness(made.service, HandSetClock(new_york(MONDAY))) as harness:
        harness.made = made
        yield harness


async def test_the_worker_and_the_reconciliation_as_the_service(harness):
    """
    The service's rights are enough for a batch, for a worker that fetches, ends and requeues
    jobs, and for rounds that repair.
    """
    await harness.make_batch()
    harness.clock.time = new_york(MONDAY + timedelta(days=1), 10)
    await harness.rows(
        "UPDATE procrastinate_jobs SET scheduled_at = now() WHERE args ->> 'day' = '1'"
    )
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False)
    assert await harness.rows("SELECT day FROM checkpoints WHERE day > 0") == [(1,)]
    harness.clock.time = new_york(MONDAY + timedelta(days=2), 10)
    mended = await reconcile.run_round(harness.context)
    assert mended is not None
    await harness.rows("SELECT procrastinate_prune_stalled_workers_v1(0)")


JUNK = {
    "no JSON": "x",
    "no object": "[]",
    "an object without a type": "{}",
    "a job that is no number": '{"type": "job_inserted", "job_id": "x"}',
    "an abort of a job": '{"type": "abort_job_requested", "job_id": 1}',
    "empty": "",
}


async def test_notifications_of_the_reader_do_not_end_the_worker(harness):
    """
    Every user that connects may send notifications; a worker that ended each time would be late
    for a Monday.
    """
    made = harness.made
    await harness.make_batch()
    await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 day'")
    working = asyncio.create_task(queue.app.run_worker_async(install_signal_handlers=False))
    listening = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND "
        "starts_with(query, 'LISTEN')"
    )
    while not await asyncio.to_thread(query, made.admin, listening):
        await asyncio.sleep(0.05)
        assert not working.done()
    async with await psycopg.AsyncConnection.connect(made.reader, autocommit=True) as conn:
        for payload in JUNK.values():
            await conn.execute("SELECT pg_notify('procrastinate_any_queue_v1', %s)", (payload,))
    harness.clock.time = new_york(MONDAY + timedelta(days=1), 10)
    await harness.rows(
        "UPDATE procrastinate_jobs SET scheduled_at = now() WHERE args ->> 'day' = '1'"
    )
    while not await harness.rows("SELECT day FROM checkpoints WHERE day = 1"):
        await asyncio.sleep(0.05)
        assert not working.done()
    working.cancel()
    await asyncio.wait([working])


async def test_a_right_that_is_taken_away_under_a_job(harness):
    """
    The job waits until the right is granted again, and does not count as failed; its message
    has the statement.
    """
    made = harness.made
    batch = await harness.make_batch()
    harness.clock.time = new_york(MONDAY + timedelta(days=1), 10)
    await asyncio.to_thread(
        run, made.admin, f"REVOKE INSERT ON public.journal FROM {made.names.service}"
    )

    async def job() -> None:
        await daily.take(harness.context, batch.id, 1)

    attempt = first_attempt("take_checkpoint")
    with pytest.raises(TryAgainAt) as later:
        await queue.count_failures(job, attempt, None)
    assert f"GRANT INSERT ON TABLE public.journal TO {made.names.service};" in str(later.value)
    assert later.value.at == harness.clock.now() + queue.RIGHT_MISSING_DELAY
    await asyncio.to_thread(
        run, made.admin, f"GRANT INSERT ON public.journal TO {made.names.service}"
    )
    await queue.count_failures(job, attempt, None)
    assert await harness.rows("SELECT status FROM checkpoints WHERE day = 1") == [("computed",)]


@pytest.mark.parametrize(
    "by_itself",
    [
        pytest.param(False, id="by a superuser"),
        pytest.param(True, id="by the former user", marks=pytest.mark.long),
    ],
)
async def test_one_user_becomes_three_in_the_middle_of_a_fortnight(empty, by_itself):
    """
    The service continues as the former user, whose tables get another owner, and then as the
    service's role.
    """
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
    async with open_harness(before, clock) as harness:
        batch = await harness.make_batch()
        await _mornings(harness, batch.run_date + timedelta(days=3))
        made = await applied(before if by_itself else empty)
        made = made._replace(admin=empty)
        fresh = empty
        owners = await asyncio.to_thread(
            query, fresh, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
        )
        assert owners == [(made.names.owner,)]
        await _mornings(harness, batch.run_date + timedelta(days=6))
    async with open_harness(made.service, clock) as harness:
        await harness.make_batch(MONDAY + timedelta(weeks=1))
        await _mornings(harness, batch.run_date + timedelta(days=14))
        batch = await harness.batch()
        assert batch.status == "completed"
    async with record_at(made.reader) as source:
        await verify(source, [], lambda *_: None)


async def _mornings(harness: JobHarness, until: object) -> None:
    async with harness.context.pool.connection() as conn:
        due = await checkpoints.list_due(conn, until)
    for one in sorted(due, key=_nine):
        harness.clock.time = max(harness.clock.time, _nine(one))
        await run_until_done(
            harness, lambda one=one: daily.take(harness.context, one.batch_id, one.day)
        )


def _nine(one: checkpoints.DueCheckpoint) -> datetime:
    return new_york(one.run_date + timedelta(days=one.day))


@pytest.mark.long
async def test_the_api_as_the_reader(lived):
    """
    Every persisted document has the same response for the reader as for a superuser, on a
    record with every kind of event.
    """
    values = {
        **VARIABLES,
        "BatchOn": {"runDate": str(REFUSED)},
        "Monday": {"runDate": str(REFUSED), "before": None},
    }
    async with (
        pools.opened(pools.make_pool(lived.reader, generic_plans=True)) as pool,
        pools.opened(pools.make_pool(lived.admin, generic_plans=True)) as other,
    ):
        for name, document in OPERATIONS.items():
            answer = await engine_on(pool).execute(document, values.get(name))
            assert (
                answer.body == (await engine_on(other).execute(document, values.get(name))).body
            ), name
            assert b"INTERNAL_SERVER_ERROR" not in answer.body


async def test_documents_as_the_reader(made):
    """On an empty record no document has an error for the reader."""
    async with pools.opened(pools.make_pool(made.reader, generic_plans=True)) as pool:
        for name, document in OPERATIONS.items():
            answer = json.loads((await engine_on(pool).execute(document, VARIABLES.get(name))).body)
            assert "errors" not in answer, name


@pytest.mark.long
async def test_two_servers_and_two_workers_as_their_roles(tmp_path, fresh):
    """Real processes run two Mondays: the workers as the service, the API as the reader."""
    made = await applied(fresh)
    async with pools.opened(pools.make_pool(fresh)) as pool:
        await live_through(
            tmp_path, fresh, pool, DATABASE_URL=made.service, API_DATABASE_URL=made.reader
        )


@pytest.mark.long
@both
async def test_excess_rights_are_named(fresh, role):
    """Each excess right is named: on a table, a column or a schema, by PUBLIC or by a role."""
    made = await applied(fresh)
    name, database = getattr(made.names, role), conninfo_to_dict(fresh)["dbname"]
    for grant, what in {
        f"GRANT DELETE ON public.journal TO {name}": "DELETE on the table public.journal",
        f"GRANT UPDATE (content) ON public.journal TO {name}": "UPDATE on the table public.journal",
        f"GRANT TRIGGER ON public.picks TO {name}": "TRIGGER on the table public.picks",
        f"GRANT REFERENCES (id) ON public.batches TO {name}": (
            "REFERENCES on the table public.batches"
        ),
        "GRANT CREATE ON SCHEMA public TO PUBLIC": "CREATE on the schema public",
        f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC": "TEMPORARY on the database",
        f"GRANT CREATE ON DATABASE {database} TO {name}": "CREATE on the database",
        "GRANT SELECT ON operations.roles TO PUBLIC": "SELECT on the table operations.roles",
        f"ALTER TABLE public.picks OWNER TO {name}": (
            f"{name} owns 1 table, for example public.picks"
        ),
        f"ALTER ROLE {name} CREATEROLE": f"{name} has CREATEROLE",
    }.items():
        await asyncio.to_thread(run, fresh, grant)
        async with await Session.connect(fresh, name="test", autocommit=True) as conn:
            excess = await roles.excess_rights(conn, Role(role), name)
        assert any(what in line for line in excess), (grant, excess)
        await applied(fresh)
        await asyncio.to_thread(run, fresh, f"ALTER ROLE {name} NOCREATEROLE")


async def test_a_need_is_what_a_role_has(made):
    """
    The service has all rights that any command needs, the reader only those to read the record.
    """
    for address, needs in (
        (made.service, list(Need)),
        (made.reader, [Need.READ_RECORD]),
        (made.owner, list(Need)),
    ):
        for need in Need:
            if need in needs:
                await roles.require_rights(address, need)
            else:
                with pytest.raises(ConfigurationError, match="run GRANT "):
                    await roles.require_rights(address, need)
