"""
Sessions: how every connection of ours to Postgres is made, and what is set on it.

Nothing that decides what a statement means or whether a commit lasts is assumed. Such settings can
come from postgresql.conf, ALTER DATABASE, ALTER ROLE, the address, libpq's environment or a
pooler. `SETTINGS` holds those that we set, each with its reason. They are in the start-up packet,
so that the first statement already runs under them, and are set again after connecting, because a
pooler may drop the packet's options.

Left to the operator, because no result depends on it: role and session_authorization (a login
role that works as another one is common), row_security (the record has no policies), where tables
are stored (default_tablespace, temp_tablespaces, default_toast_compression), what a plan
costs (work_mem, enable_*, geqo, parallel workers), lc_messages (errors are told apart by
SQLSTATE; no text of Postgres is parsed), lc_monetary, lc_numeric and lc_time (nothing is
formatted by them), default_text_search_config, xmlbinary and xmloption (not used),
quote_all_identifiers, password_encryption, check_function_bodies, event_triggers (there are
none), plpgsql.variable_conflict (no name is ambiguous, and only a superuser may set it), and
logging.

A collation never decides an order: the API orders text with COLLATE "C".
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

from app.core.presence import CONNECT_TIMEOUT
from app.errors import ConfigurationError

SEARCH_PATH = "public, queue"

# A half-open connection must not hang a worker for the two hours that TCP would allow. In seconds;
# the last is in milliseconds.
KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Setting(NamedTuple):
    """A setting of Postgres, what it must be in every session of ours, and why."""

    name: str
    value: str
    why: str


SETTINGS = (
    Setting("search_path", SEARCH_PATH, "names of tables and of the queue's functions"),
    # What text means, in and out.
    Setting("timezone", "UTC", "the text of a timestamptz, and the date that it falls on"),
    Setting("datestyle", "ISO, MDY", "the text of dates and times"),
    Setting("intervalstyle", "postgres", "the text of an interval; psycopg reads no other"),
    Setting("bytea_output", "hex", "the text of bytes"),
    Setting("extra_float_digits", "1", "0 or less rounds a float8 in text"),
    Setting("standard_conforming_strings", "on", "a backslash in a literal is a backslash"),
    Setting("array_nulls", "on", "NULL in the text of an array is a null"),
    Setting("transform_null_equals", "off", "x = NULL is null"),
    # What a transaction promises.
    Setting("default_transaction_isolation", "read committed", "locks and ON CONFLICT see commits"),
    Setting("default_transaction_read_only", "off", "jobs write"),
    Setting("default_transaction_deferrable", "off", "a snapshot is not waited for"),
    # How long something may take: a role's limits are for people.
    Setting("statement_timeout", "0", "pools that need a limit say it themselves"),
    Setting("lock_timeout", "0", "migrations have their own"),
    Setting("idle_session_timeout", "0", "a pool's connection lies idle"),
    # A process that stands still in a transaction holds its locks; its jobs are put back after the
    # same time.
    Setting("idle_in_transaction_session_timeout", "30s", "a frozen process keeps no lock"),
    Setting("exit_on_error", "off", "a refused statement ends no session"),
    # How functions run and how tables are made.
    Setting("plpgsql.extra_errors", "none", "as the guards were written for"),
    Setting("default_table_access_method", "heap", "ON CONFLICT and foreign keys need it"),
    Setting("client_min_messages", "notice", "debugging messages with every statement"),
    # Speed.
    Setting("jit", "off", "our statements are short: compiling takes longer than running"),
    Setting("plan_cache_mode", "auto", "pools with `generic` say otherwise"),
)

# What a prepared statement of the API needs: see `make_pool`.
GENERIC = {"plan_cache_mode": "force_generic_plan", "random_page_cost": "1"}

# What PgBouncer sets again itself when it gives a client another session.
_TRACKED_BY_PGBOUNCER = ("timezone", "datestyle", "standard_conforming_strings")

# What SET LOCAL need not say: BEGIN says the first three, and the last concerns the session, which
# is PgBouncer's own.
_NOT_SET_LOCALLY = (
    "default_transaction_isolation",
    "default_transaction_read_only",
    "default_transaction_deferrable",
    "idle_session_timeout",
)

# Names that libpq knows beside those of its connection parameters.
_MORE_NAMES = ("PGREQUIRESSL", "PGTZ", "PGDATESTYLE", "PGGEQO")

# These say how a session works and not where the database is. They count for no address.
_OF_THE_SESSION = ("PGOPTIONS", "PGCLIENTENCODING", "PGAPPNAME", "PGTZ", "PGDATESTYLE", "PGGEQO")

# How the name of our sessions begins in pg_stat_activity, where `app/ops/in_use.py` looks for them.
APPLICATION = "alpha-monday"

# The folder of an embedded server's socket, as `app/database/embedded.py` makes it.
_EMBEDDED = re.compile(r"/tmp/am-\d+-[0-9a-f]{10}")  # noqa: S108

_withheld: dict[str, str] = {}
_lock = threading.Lock()


@cache
def _variables_of_libpq() -> dict[str, str]:
    """Return the variables that libpq reads at every connection, each with its parameter."""
    named = {o.envvar.decode(): o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    return {**named, **dict.fromkeys(_MORE_NAMES, "")}


def _withhold() -> None:
    """
    Take libpq's variables out of this process's environment.

    libpq obeys some of them whatever the parameters say: an unknown PGSERVICE fails, PGTZ beats the
    options. `place` gives libpq those that count for an operator's address as parameters.
    """
    for name in _variables_of_libpq():
        if name in os.environ:
            _withheld[name] = os.environ.pop(name)


def environment() -> dict[str, str]:
    """Return the environment that the operator gave this process, for a process that it starts."""
    return {**os.environ, **_withheld}


def variables(address: str) -> list[str]:
    """Return which of libpq's variables are set and count: none for an embedded server's address."""
    with _lock:
        _withhold()
    if is_embedded(conninfo_to_dict(address)):
        return []
    return sorted(name for name in _withheld if name not in _OF_THE_SESSION)


@contextmanager
def _visible_to_libpq(service: Mapping[str, Any]) -> Iterator[None]:
    """Let libpq see, in this block, the variables that name a place and an address's own service."""
    seen = {name: value for name, value in _withheld.items() if name not in _OF_THE_SESSION}
    for keyword, name in (("service", "PGSERVICE"), ("servicefile", "PGSERVICEFILE")):
        if keyword in service:
            seen[name] = str(service[keyword])
    before = {name: os.environ.get(name) for name in seen}
    os.environ.update(seen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def place(address: str) -> dict[str, Any]:
    """
    Return where `address` leads and how, as parameters of libpq.

    For an operator's address libpq's variables, its service file and its defaults fill in what the
    address leaves out, in libpq's own order. None of them counts for an embedded server.
    """
    parts = dict(conninfo_to_dict(address))
    with _lock:
        _withhold()
        if is_embedded(parts):
            # No password file is read: libpq would warn of one that other users can read.
            return {
                **parts,
                "passfile": "/nonexistent/pgpass",
                "sslmode": "disable",
                "gssencmode": "disable",
            }
        with _visible_to_libpq(parts):
            filled = {
                option.keyword.decode(): option.val.decode()
                for option in pq.Conninfo.get_defaults()
                if option.val and option.val != option.compiled
            }
    return {**filled, **parts}


def is_embedded(parts: Mapping[str, Any]) -> bool:
    """Return whether an address, given as parameters of libpq, is that of an embedded server."""
    return bool(_EMBEDDED.fullmatch(str(parts.get("host") or "")))


def application_name(name: str) -> str:
    """Return what Postgres shows of a session: our prefix, and the name of the pool or command."""
    return f"{APPLICATION} {name}".strip()


def settings(*, limit: float = 0, generic: bool = False) -> dict[str, str]:
    """Return what is set on a session; `limit` is in seconds for a statement, 0 being without end."""
    more = GENERIC if generic else {}
    return {**{one.name: one.value for one in SETTINGS}, "statement_timeout": f"{limit}s", **more}


def parameters(
    address: str, name: str, wanted: Mapping[str, str], *, pooled: bool = False, **others: Any
) -> dict[str, Any]:
    """
    Return all that libpq is given for a connection to `address`.

    `pooled` says that a PgBouncer stands before it.
    """
    parts = place(address)
    # Not in the start-up packet: Postgres would refuse a database of an encoding that it cannot
    # convert, and its words would not say what to do.
    parts.pop("client_encoding", None)
    if not pooled:  # a PgBouncer refuses options
        ours = " ".join(f"-c {key}={_escaped(value)}" for key, value in wanted.items())
        parts["options"] = f"{parts.get('options') or ''} {ours}".strip()
    return {
        **parts,
        **KEEPALIVES,
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": application_name(name),
        **others,
    }


class Unfit(ConfigurationError, psycopg.OperationalError):
    """
    The database is there, and is not one for the record.

    While a process runs this counts as away: a person can put it right, and the process goes on.
    """


def _escaped(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


# What cannot be in the start-up packet, because it is new in a version, or not every role may set it,
# or only one of its values is wrong. So its value is read first, and corrected only where it is wrong.
_CURRENT = """
    pg_catalog.current_setting('synchronous_commit'),
    pg_catalog.current_setting('transaction_timeout', true),
    pg_catalog.current_setting('session_replication_role'),
    pg_catalog.current_setting('default_transaction_read_only') = 'on'
        AND NOT pg_catalog.pg_is_in_recovery()
"""
_REPLICATION = "session_replication_role"
_READ_ONLY = 3  # the position of the last value


def _corrections(found: Sequence[Any]) -> dict[str, str]:
    """Return what else must be set, by the values of `_CURRENT`."""
    commit, transaction, replication = found[:_READ_ONLY]
    corrections = {}
    if commit == "off":
        corrections["synchronous_commit"] = "on"  # or an acknowledged commit may be lost
    if transaction not in (None, "0"):
        corrections["transaction_timeout"] = "0"  # restoring and exporting take their time
    if replication != "origin":
        corrections[_REPLICATION] = "origin"  # or the triggers that guard the record do not fire
    return corrections


def _first_statement(wanted: Mapping[str, str]) -> bytes:
    """Return the statement that sets what is wanted and reads what may need a correction."""
    return f"SELECT {_CURRENT}, {_set({'client_encoding': 'UTF8', **wanted})}".encode()


def _set(wanted: Mapping[str, str]) -> str:
    return ", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in wanted.items())


def _local(wanted: Mapping[str, str]) -> bytes:
    # A list of names must not be quoted as one name.
    literals = {name: value if name == "search_path" else f"'{value}'" for name, value in wanted.items()}
    return "; ".join(f"SET LOCAL {name} = {literal}" for name, literal in literals.items()).encode()


def refuse_encoding(pgconn: pq.abc.PGconn) -> None:
    """Refuse a database that does not keep its text in UTF-8, and say how to make one that does."""
    encoding = (pgconn.parameter_status(b"server_encoding") or b"").decode("ascii", "replace")
    if encoding == "UTF8":
        return
    name = pgconn.db.decode("utf-8", "replace")
    raise Unfit(
        f"The database {name} has the encoding {encoding}, and the record needs UTF8. Create another, "
        f"for example CREATE DATABASE alpha_monday_utf8 TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C', "
        "and set DATABASE_URL to it."
    )


@contextmanager
def _closed_on_error(conn: AsyncConnection[Any] | Connection[Any]) -> Iterator[None]:
    """Close a connection on which a setting of ours is refused; name the right that is missing."""
    user = conn.pgconn.user.decode("utf-8", "replace")
    try:
        yield
    except psycopg.errors.InsufficientPrivilege:
        conn.pgconn.finish()
        raise Unfit(
            f"{_REPLICATION} is not origin for the user {user}, which switches off the record's guards, "
            f"and that user may not change it. As a superuser: ALTER ROLE {user} RESET {_REPLICATION}, "
            f"and where the database sets it: ALTER DATABASE ... RESET {_REPLICATION}."
        ) from None
    except BaseException:
        conn.pgconn.finish()
        raise


class Session(AsyncConnection[Any]):
    """A connection straight to Postgres; what it needs is set for as long as it lasts."""

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        name: str = "",
        limit: float = 0,
        generic: bool = False,
        autocommit: bool = False,
        **others: Any,
    ) -> Self:
        """Connect; `name` is what Postgres shows of it, `limit` and `generic` are as in `settings`."""
        wanted = settings(limit=limit, generic=generic)
        conn = await super().connect(autocommit=True, **parameters(conninfo, name, wanted, **others))
        with _closed_on_error(conn):
            refuse_encoding(conn.pgconn)
            found = await (await conn.execute(_first_statement(wanted))).fetchone()
            assert found
            if corrections := _corrections(found):
                await conn.execute(f"SELECT {_set(corrections)}".encode())
            await conn.set_autocommit(autocommit)
        return conn


class PooledSession(AsyncConnection[Any]):
    """
    A connection to a PgBouncer in transaction mode, which may hand every transaction another session.

    So every transaction sets what it needs when it has begun, and a statement outside of one gets a
    transaction of its own.
    """

    _needs = b""

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        name: str = "",
        limit: float = 0,
        generic: bool = False,
        autocommit: bool = False,
        **others: Any,
    ) -> Self:
        """Connect to the address; parameters are as in `Session`."""
        wanted = settings(limit=limit, generic=generic)
        given = parameters(conninfo, name, wanted, pooled=True, **others)
        conn = await super().connect(autocommit=True, prepare_threshold=None, **given)
        with _closed_on_error(conn):
            refuse_encoding(conn.pgconn)
            carried = {name: wanted[name] for name in _TRACKED_BY_PGBOUNCER}
            found = await (await conn.execute(_first_statement(carried))).fetchone()
            assert found
            await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
            await conn.set_deferrable(False)
            # Not always: a server in recovery refuses READ WRITE, with another SQLSTATE than a write.
            if found[_READ_ONLY]:
                await conn.set_read_only(False)
            needed = {name: value for name, value in wanted.items() if name not in _NOT_SET_LOCALLY}
            conn._needs = _local({**needed, **_corrections(found)})
            conn.cursor_factory = _PooledCursor
            async with conn.transaction():
                pass  # a setting that this role may not set is refused here
            await conn.set_autocommit(autocommit)
        return conn

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """Begin a transaction and say what it needs; within another one it is a savepoint."""
        begins = self.info.transaction_status == TransactionStatus.IDLE
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if begins:
                await self.execute(self._needs)
            yield transaction


class _PooledCursor(AsyncCursor[Any]):
    """A cursor whose statements never run outside of a transaction of `PooledSession.transaction`."""

    async def execute(self, query: Query, params: Params | None = None, **options: Any) -> Self:
        """Run a statement, in a transaction of its own where there is none."""
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            return await super().execute(cast(Any, query), params, **options)
        async with self.connection.transaction():
            return await super().execute(cast(Any, query), params, **options)

    async def executemany(self, query: Query, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """Run a statement for each of some parameters, as `execute` does."""
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            await super().executemany(query, params_seq, returning=returning)
            return
        async with self.connection.transaction():
            await super().executemany(query, params_seq, returning=returning)


def connect(address: str, *, name: str = "", autocommit: bool = False, **others: Any) -> Connection[Any]:
    """Return a connection for code that is not asynchronous, its session as that of `Session`."""
    wanted = settings()
    conn: Connection[Any] = Connection.connect(autocommit=True, **parameters(address, name, wanted, **others))
    with _closed_on_error(conn):
        refuse_encoding(conn.pgconn)
        found = conn.execute(_first_statement(wanted)).fetchone()
        assert found
        if corrections := _corrections(found):
            conn.execute(f"SELECT {_set(corrections)}".encode())
        conn.autocommit = autocommit
    return conn
