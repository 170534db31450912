"""
Postgres sessions: how every connection is made, and which settings the service gives a session.

In this module, a session is a session of Postgres: the server's side of a connection. It has
nothing to do with the sessions of the stock exchange.

A setting may come from postgresql.conf, ALTER DATABASE, ALTER ROLE, the address, libpq's
environment or a pooler. So the service does not rely on any default that decides what a statement
means, or whether a commit survives a crash. `SETTINGS` lists the settings that the service sets,
each with its reason. These settings are sent in the start-up packet, so that they apply to the
first statement. They are set again after connecting, because a pooler may drop the packet's
options.

The operator decides these settings, because no result depends on them:

- role and session_authorization: a login role often works as another role;
- row_security: the record has no policies;
- default_tablespace, temp_tablespaces, default_toast_compression: where and how tables are stored;
- work_mem, enable_*, geqo, parallel workers: what a plan costs;
- lc_messages: errors are distinguished by their SQLSTATE. Only `app.database.advice` looks for
  English texts, to give advice about an address;
- lc_monetary, lc_numeric, lc_time: Postgres formats no number and no time with them for us;
- default_text_search_config, xmlbinary, xmloption: not used;
- quote_all_identifiers, password_encryption, check_function_bodies;
- event_triggers: there are none;
- plpgsql.variable_conflict: no name is ambiguous, and only a superuser may set it;
- logging.

No result depends on the database's collation: the API orders nothing by a text, and
`app/store/closes.py` orders tickers with COLLATE "C".
"""

import os
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, NamedTuple, Self, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncTransaction, Connection, IsolationLevel, pq
from psycopg.abc import Params, Query
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from app.core.availability import CONNECT_TIMEOUT
from app.errors import ConfigurationError

SEARCH_PATH = "public, queue"

# Without these parameters, a half-open connection could block a worker for the two hours that TCP
# allows. The first two are in seconds, the third is a number of probes, and the last is in
# milliseconds.
KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Setting(NamedTuple):
    """A setting of Postgres, its value in every session, and the reason why the service sets it."""

    name: str
    value: str
    reason: str


SETTINGS = (
    Setting("search_path", SEARCH_PATH, "the names of tables and of the queue's functions"),
    # The format of texts that are sent and received.
    Setting("timezone", "UTC", "the text of a timestamptz, and the date that it falls on"),
    Setting("datestyle", "ISO, MDY", "the text of dates and times"),
    Setting("intervalstyle", "postgres", "the text of an interval; psycopg reads no other"),
    Setting("bytea_output", "hex", "the text of bytes"),
    Setting("extra_float_digits", "1", "0 or less rounds a float8 in text"),
    Setting("standard_conforming_strings", "on", "a backslash in a literal is a backslash"),
    Setting("array_nulls", "on", "NULL in the text of an array is a null"),
    Setting("transform_null_equals", "off", "x = NULL is null"),
    # The isolation of transactions.
    Setting(
        "default_transaction_isolation",
        "read committed",
        "a statement after a lock sees what was committed while it waited for the lock",
    ),
    Setting("default_transaction_read_only", "off", "jobs write"),
    Setting("default_transaction_deferrable", "off", "no transaction waits for a snapshot"),
    # Timeouts. If an administrator sets a timeout for a role, it is meant for people, not for jobs.
    Setting("statement_timeout", "0", "pools that need a limit set it themselves"),
    Setting("lock_timeout", "0", "migrations set their own"),
    Setting("idle_session_timeout", "0", "a pool keeps idle connections"),
    # A process that hangs in a transaction holds locks. Its jobs are put back into the queue after
    # 30 s (`jobs.queue.STALLED_AFTER`), and then these locks must be free.
    Setting(
        "idle_in_transaction_session_timeout", "30s", "a process that hangs must not hold a lock"
    ),
    Setting("exit_on_error", "off", "an error does not end the session"),
    # How functions run, and how tables are created.
    Setting("plpgsql.extra_errors", "none", "the triggers were written without them"),
    Setting("default_table_access_method", "heap", "ON CONFLICT and foreign keys need it"),
    Setting("client_min_messages", "notice", "with a lower level, every statement sends messages"),
    # Speed.
    Setting("jit", "off", "compiling takes longer than running our short statements"),
    Setting("plan_cache_mode", "auto", "pools with `generic_plans` set another"),
)

# The settings of a pool with `generic_plans`; `app.database.pools.make_pool` gives the reasons.
GENERIC_PLAN_SETTINGS = {"plan_cache_mode": "force_generic_plan", "random_page_cost": "1"}

# PgBouncer sets these settings itself when it assigns another session to a client.
_TRACKED_BY_PGBOUNCER = ("timezone", "datestyle", "standard_conforming_strings")

# SET LOCAL need not set these settings. BEGIN has the first three as options. The last one applies
# to an idle session, and behind a PgBouncer an idle session belongs to PgBouncer.
_NOT_SET_LOCALLY = (
    "default_transaction_isolation",
    "default_transaction_read_only",
    "default_transaction_deferrable",
    "idle_session_timeout",
)

# Variables that libpq reads although no connection parameter belongs to them.
_MORE_VARIABLES = ("PGREQUIRESSL", "PGTZ", "PGDATESTYLE", "PGGEQO")

# Variables that change the settings of a session. They are never passed on to libpq.
_SESSION_VARIABLES = ("PGOPTIONS", "PGCLIENTENCODING", "PGAPPNAME", "PGTZ", "PGDATESTYLE", "PGGEQO")

# The beginning of our sessions' names in pg_stat_activity; `app/ops/in_use.py` looks for it.
APPLICATION_PREFIX = "alpha-monday"

# The path of an embedded server's socket folder, as `app/database/embedded.py` chooses it.
_EMBEDDED_SOCKET = re.compile(r"/tmp/am-[0-9]+-[0-9a-f]{10}")  # noqa: S108

# libpq's variables that were removed from this process's environment.
_removed_variables: dict[str, str] = {}
# os.environ belongs to the process, so only one thread at a time may change it.
_environment_lock = threading.Lock()


@cache
def _names_of_libpq_variables() -> frozenset[str]:
    """Return the names of all variables that libpq reads at every connection."""
    options = pq.Conninfo.get_defaults()
    names = {option.envvar.decode() for option in options if option.envvar}
    return frozenset(names.union(_MORE_VARIABLES))


def _remove_libpq_variables() -> None:
    """
    Remove libpq's variables from this process's environment.

    libpq obeys some of them even if the parameters have another value: with an unknown PGSERVICE
    the connection fails, and PGTZ overrides the options. `resolve_address` adds the values of all
    except `_SESSION_VARIABLES` to the parameters.
    """
    for name in _names_of_libpq_variables():
        if name in os.environ:
            _removed_variables[name] = os.environ.pop(name)


def full_environment() -> dict[str, str]:
    """Return the environment that this process received, for a process that it starts."""
    return {**os.environ, **_removed_variables}


def libpq_variables(address: str) -> list[str]:
    """Return the sorted names of libpq's variables that are set and apply to an address."""
    with _environment_lock:
        _remove_libpq_variables()
    if is_embedded(conninfo_to_dict(address)):
        return []
    return sorted(name for name in _removed_variables if name not in _SESSION_VARIABLES)


@contextmanager
def _visible_to_libpq(parts: Mapping[str, Any]) -> Iterator[None]:
    """
    Put libpq's variables back into the environment within the block, except `_SESSION_VARIABLES`.

    `parts` are the parameters of an address. A `service` or `servicefile` in the address replaces
    PGSERVICE or PGSERVICEFILE.
    """
    visible = {
        name: text for name, text in _removed_variables.items() if name not in _SESSION_VARIABLES
    }
    for keyword, name in (("service", "PGSERVICE"), ("servicefile", "PGSERVICEFILE")):
        if keyword in parts:
            visible[name] = str(parts[keyword])

    before = {name: os.environ.get(name) for name in visible}
    os.environ.update(visible)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def resolve_address(address: str) -> dict[str, Any]:
    """
    Return the parameters of libpq for a connection to `address`.

    Parameters that `address` does not have come from libpq's service file, its variables and its
    defaults, in libpq's own order of precedence. For the address of an embedded server, none of
    these sources is used.
    """
    parts = dict(conninfo_to_dict(address))
    with _environment_lock:
        _remove_libpq_variables()
        if is_embedded(parts):
            # No password file: libpq would print a warning if other users can read it.
            return {
                **parts,
                "passfile": "/nonexistent/pgpass",
                "sslmode": "disable",
                "gssencmode": "disable",
            }
        with _visible_to_libpq(parts):
            # `supplied` does not have compiled defaults, because libpq applies them in any case.
            supplied = {
                option.keyword.decode(): option.val.decode()
                for option in pq.Conninfo.get_defaults()
                if option.val and option.val != option.compiled
            }
    return {**supplied, **parts}


def is_embedded(parts: Mapping[str, Any]) -> bool:
    """Return whether these parameters of libpq are the address of an embedded server."""
    return bool(_EMBEDDED_SOCKET.fullmatch(str(parts.get("host") or "")))


def application_name(name: str) -> str:
    """Return a session's name in pg_stat_activity: our prefix and `name`, its pool or purpose."""
    return f"{APPLICATION_PREFIX} {name}".strip()


def session_settings(
    *, statement_timeout: float = 0, generic_plans: bool = False
) -> dict[str, str]:
    """
    Return a session's settings by their names.

    `statement_timeout` is in seconds; 0 means no timeout. With `generic_plans`, the settings
    include GENERIC_PLAN_SETTINGS.
    """
    values = {setting.name: setting.value for setting in SETTINGS}
    values["statement_timeout"] = f"{statement_timeout}s"
    if generic_plans:
        values.update(GENERIC_PLAN_SETTINGS)
    return values


def connection_parameters(
    address: str, name: str, settings: Mapping[str, str], *, pooled: bool = False, **others: Any
) -> dict[str, Any]:
    """
    Return all parameters that libpq gets for a connection to `address`.

    `name` is the session's name, `settings` are its settings, and `others` are more parameters.
    `pooled` says that the address leads to a PgBouncer.
    """
    parts = resolve_address(address)
    # The encoding is set after connecting. If it were in the start-up packet and Postgres could not
    # convert the database's encoding, the error message would not say what to do.
    parts.pop("client_encoding", None)
    if not pooled:  # a PgBouncer refuses options
        options = " ".join(f"-c {key}={_escape_option(value)}" for key, value in settings.items())
        parts["options"] = f"{parts.get('options') or ''} {options}".strip()
    return {
        **parts,
        **KEEPALIVES,
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": application_name(name),
        **others,
    }


def _escape_option(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


class UnsuitableDatabase(ConfigurationError, psycopg.OperationalError):
    """
    The database can be reached, but it cannot hold the record.

    It is an OperationalError, so that a running process treats it as an outage: the process tries
    again, and continues when a person has corrected the cause.
    """


# The values that `_first_statement` reads. The first three are settings. If one of them has a wrong
# value, a second statement changes it. These three cannot be in the start-up packet, for these
# reasons:
#
# - synchronous_commit: only `off` is wrong, and the operator may choose any other value;
# - transaction_timeout: it exists only from Postgres 17 on;
# - session_replication_role: not every role may set it.
#
# The last value tells a `PooledSession` whether its transactions must request READ WRITE.
_CURRENT_VALUES = """
    pg_catalog.current_setting('synchronous_commit'),
    pg_catalog.current_setting('transaction_timeout', true),
    pg_catalog.current_setting('session_replication_role'),
    pg_catalog.current_setting('default_transaction_read_only') = 'on'
        AND NOT pg_catalog.pg_is_in_recovery()
"""
_REPLICATION = "session_replication_role"
_READ_ONLY_POSITION = 3  # the position of the last of `_CURRENT_VALUES`


def _needed_changes(current: Sequence[Any]) -> dict[str, str]:
    """Return the settings to change in a session that has these `_CURRENT_VALUES`."""
    commit, transaction_timeout, replication = current[:_READ_ONLY_POSITION]
    changes = {}
    if commit == "off":
        # Otherwise a crash of the server could lose an acknowledged commit.
        changes["synchronous_commit"] = "on"
    if transaction_timeout not in (None, "0"):
        # Restores and exports run in long transactions.
        changes["transaction_timeout"] = "0"
    if replication != "origin":
        # Otherwise the triggers that guard the record do not fire.
        changes[_REPLICATION] = "origin"
    return changes


def _first_statement(settings: Mapping[str, str]) -> bytes:
    """Return the statement that changes settings and reads the `_CURRENT_VALUES`."""
    calls = _set_config_calls({"client_encoding": "UTF8", **settings})
    return f"SELECT {_CURRENT_VALUES}, {calls}".encode()


def _set_config_calls(settings: Mapping[str, str]) -> str:
    return ", ".join(
        f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in settings.items()
    )


def _set_local_statements(settings: Mapping[str, str]) -> bytes:
    statements = []
    for name, value in settings.items():
        literal = f"'{value}'"
        if name == "search_path":
            # The search path is a list of names. In quotes it would be a single name.
            literal = value
        statements.append(f"SET LOCAL {name} = {literal}")
    return "; ".join(statements).encode()


def require_utf8(pgconn: pq.abc.PGconn) -> None:
    """Raise UnsuitableDatabase if a database does not have the encoding UTF8."""
    encoding = (pgconn.parameter_status(b"server_encoding") or b"").decode("ascii", "replace")
    if encoding == "UTF8":
        return
    name = pgconn.db.decode("utf-8", "replace")
    raise UnsuitableDatabase(
        f"The database {name} has the encoding {encoding}, and the record needs UTF8. Create "
        "another, for example CREATE DATABASE alpha_monday_utf8 TEMPLATE template0 "
        "ENCODING 'UTF8' LOCALE 'C', and set DATABASE_URL to it."
    )


@contextmanager
def _closed_on_error(conn: AsyncConnection[Any] | Connection[Any]) -> Iterator[None]:
    """
    Close `conn` if an error occurs in the block. The block sets the settings of `conn`.

    Raises UnsuitableDatabase if the user may not set one of them.
    """
    user = conn.pgconn.user.decode("utf-8", "replace")
    try:
        yield
    except psycopg.errors.InsufficientPrivilege:
        conn.pgconn.finish()
        raise UnsuitableDatabase(
            f"{_REPLICATION} is not origin for the user {user}. This switches off the triggers "
            f"that protect the record, and that user may not change it. As a superuser, run ALTER "
            f"ROLE {user} RESET {_REPLICATION}; if the database sets it, run ALTER DATABASE ... "
            f"RESET {_REPLICATION}."
        ) from None
    except BaseException:
        conn.pgconn.finish()
        raise


class Session(AsyncConnection[Any]):
    """A direct connection to Postgres. Its settings apply as long as it exists."""

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        name: str = "",
        statement_timeout: float = 0,
        generic_plans: bool = False,
        autocommit: bool = False,
        **others: Any,
    ) -> Self:
        """
        Connect to `conninfo`, and set the session's settings.

        `name` appears in pg_stat_activity. `session_settings` explains `statement_timeout` and
        `generic_plans`.
        """
        settings = session_settings(
            statement_timeout=statement_timeout, generic_plans=generic_plans
        )
        conn = await super().connect(
            # In autocommit, no rollback can undo the settings.
            autocommit=True,
            **connection_parameters(conninfo, name, settings, **others),
        )
        with _closed_on_error(conn):
            require_utf8(conn.pgconn)
            cursor = await conn.execute(_first_statement(settings))
            current = await cursor.fetchone()
            assert current
            changes = _needed_changes(current)
            if changes:
                await conn.execute(f"SELECT {_set_config_calls(changes)}".encode())
            await conn.set_autocommit(autocommit)
        return conn


class PooledSession(AsyncConnection[Any]):
    """
    A connection to a PgBouncer in transaction mode.

    PgBouncer may run each transaction in another session of Postgres. So every transaction sets its
    settings when it begins, and a statement outside of a transaction gets a transaction of its own.
    """

    _settings_statement = b""

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        name: str = "",
        statement_timeout: float = 0,
        generic_plans: bool = False,
        autocommit: bool = False,
        **others: Any,
    ) -> Self:
        """Connect to `conninfo`. The parameters are those of `Session.connect`."""
        settings = session_settings(
            statement_timeout=statement_timeout, generic_plans=generic_plans
        )
        parameters = connection_parameters(conninfo, name, settings, pooled=True, **others)
        conn = await super().connect(autocommit=True, prepare_threshold=None, **parameters)
        with _closed_on_error(conn):
            require_utf8(conn.pgconn)
            tracked = {name: settings[name] for name in _TRACKED_BY_PGBOUNCER}
            cursor = await conn.execute(_first_statement(tracked))
            current = await cursor.fetchone()
            assert current
            await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
            await conn.set_deferrable(False)
            # READ WRITE is requested only if the default is read-only and the server is not in
            # recovery. A server in recovery refuses BEGIN READ WRITE, with an SQLSTATE that is not
            # the one of `app.core.availability.ReadOnlyError`.
            if current[_READ_ONLY_POSITION]:
                await conn.set_read_only(False)

            local = {name: settings[name] for name in settings if name not in _NOT_SET_LOCALLY}
            conn._settings_statement = _set_local_statements({**local, **_needed_changes(current)})
            conn.cursor_factory = _PooledCursor
            # If this role may not set one of the settings, this empty transaction fails at once.
            async with conn.transaction():
                pass
            await conn.set_autocommit(autocommit)
        return conn

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """Begin a transaction with its settings; within a transaction, begin a savepoint."""
        is_outermost = self.info.transaction_status == TransactionStatus.IDLE
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if is_outermost:
                await self.execute(self._settings_statement)
            yield transaction


class _PooledCursor(AsyncCursor[Any]):
    """A cursor that runs each statement in a transaction of `PooledSession`."""

    async def execute(self, query: Query, params: Params | None = None, **options: Any) -> Self:
        """Run a statement, in a transaction of its own if there is none."""
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            return await super().execute(cast(Any, query), params, **options)
        async with self.connection.transaction():
            return await super().execute(cast(Any, query), params, **options)

    async def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """Run a statement for each of the parameters, in one new transaction if there is none."""
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            await super().executemany(query, params_seq, returning=returning)
            return
        async with self.connection.transaction():
            await super().executemany(query, params_seq, returning=returning)


def connect(
    address: str, *, name: str = "", autocommit: bool = False, **others: Any
) -> Connection[Any]:
    """Return a connection for synchronous code, with the same settings as a `Session`."""
    settings = session_settings()
    conn: Connection[Any] = Connection.connect(
        autocommit=True, **connection_parameters(address, name, settings, **others)
    )
    with _closed_on_error(conn):
        require_utf8(conn.pgconn)
        current = conn.execute(_first_statement(settings)).fetchone()
        assert current
        changes = _needed_changes(current)
        if changes:
            conn.execute(f"SELECT {_set_config_calls(changes)}".encode())
        conn.autocommit = autocommit
    return conn
