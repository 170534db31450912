"""
Whether Postgres is there: which errors say that it is away, how soon it is tried again, and what the log says of it.

Away is a server that cannot be reached, one that starts up or shuts down, one that takes no more connections, and one
that takes no writes (a standby, or a primary that the provider has made read-only). All of them end without a change
to the program, so what met one of them is tried again, after `RETRY` seconds at most.

Every pool and every other connection reports its errors here. So the log has one warning with the cause when a
database goes away, and one line when it is back, however many requests and jobs have failed in between.
"""

from math import inf
from time import monotonic
from typing import Any

import psycopg
import structlog
from procrastinate.exceptions import ConnectorException
from psycopg import AsyncConnection, errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from app.domain.text import one_line

# The longest pause between two attempts to reach an absent Postgres, in seconds.
RETRY = 3.0

# How long an attempt to connect may take, in seconds. An address that never answers would keep it waiting for minutes.
CONNECT_TIMEOUT = 5

# A database that failed in the middle of its work counts as back when it has worked for this long, in seconds.
_STEADY = 2.0

# A session that cannot write. It stays as it is when the server is writable again, or when another one is, so it is
# ended, and the next one is made anew.
READ_ONLY = errors.ReadOnlySqlTransaction

# What is caught where the database may be away; `is_away` looks closer. psycopg counts the last three as internal
# errors of Postgres: a session that cannot write, and two that were ended because they took too long.
AWAY = (
    psycopg.OperationalError,
    ConnectorException,
    PoolTimeout,
    READ_ONLY,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
)

# What Postgres says of a statement, although psycopg counts it among the troubles of a connection.
_THERE = (errors.ProgramLimitExceeded, errors.QueryCanceled)

# The pool's own errors: they say that no connection was free in time, and not why.
_NO_CONNECTION = (PoolTimeout, PoolClosed, TooManyRequests)

# Two transactions that collided, and a lock or an object that another one holds: tried again like a database that is
# away, which it is not.
_COLLIDED = ("40", "55")

log = structlog.get_logger()


def cause_of(error: BaseException) -> BaseException:
    """Return the error that psycopg raised, where Procrastinate has wrapped it into one without a text."""
    return (isinstance(error, ConnectorException) and error.__cause__) or error


def is_away(error: BaseException) -> bool:
    """Return whether an error means that the database could not be reached or written, which is no job's fault."""
    cause = cause_of(error)
    return isinstance(cause, AWAY) and not isinstance(cause, _THERE)


def is_denied(error: BaseException) -> bool:
    """Return whether an error means that the database's user lacks a right: a person must give it."""
    return isinstance(cause_of(error), errors.InsufficientPrivilege)


def _collided(error: BaseException) -> bool:
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_COLLIDED)


def why(error: BaseException) -> str:
    """Return the cause of an error on one line; libpq's advice on it, which it indents, is left out."""
    return one_line(" ".join(line for line in str(cause_of(error)).splitlines() if not line.startswith("\t")))


class Presence:
    """
    Whether one database is there, as the connections of this process have met it.

    A connection that ended may be the only one that did, so the next attempt to connect decides, and names the cause.
    A PgBouncer accepts connections also while its Postgres is away: with `pooled` the first error decides.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.pooled = False
        self.reads_only = False
        self._since: float | None = None
        self._began_at: float | None = None
        self._failed_at = -inf
        self._worked_at: float | None = None
        self._refuses = False

    @property
    def is_away(self) -> bool:
        """Return whether the last that is known of it is that it is away."""
        return self._since is not None

    def has_failed_since(self, moment: float) -> bool:
        """Return whether it is away, or has failed since `moment` of the monotonic clock."""
        return self.is_away or self._failed_at >= moment

    def failed(self, error: BaseException, *, connecting: bool = False) -> None:
        """Take note of an error of a connection; say so if it shows that the database has gone away."""
        cause = cause_of(error)
        if isinstance(cause, _NO_CONNECTION) or _collided(cause):
            return
        # Whatever keeps a connection from being made is told here and nowhere else.
        if not connecting and not is_away(cause):
            return
        now = monotonic()
        if self._began_at is None:
            self._began_at = now
        self._failed_at, self._worked_at = now, None
        self._refuses = self._refuses or connecting
        self.reads_only = isinstance(cause, READ_ONLY)
        if self._since is None and (connecting or self.reads_only or self.pooled):
            self._since = self._began_at
            log.warning("the database is away", database=self.where, reason=why(cause))

    def connected(self, conn: AsyncConnection[Any]) -> None:
        """Take note of a new connection."""
        if self.pooled:
            self._refuses = False
            return
        if self._refuses:
            self._refuses, self._failed_at = False, monotonic() - _STEADY
        if self._since is None:
            self._began_at = None
        self.worked(conn)

    def worked(self, conn: AsyncConnection[Any] | None = None) -> None:
        """Take note that a connection did what it was to do; without `conn`, that something was written."""
        if self._since is None or self._refuses or (conn and self.reads_only and not _writes(conn)):
            return
        now = monotonic()
        self._worked_at = self._worked_at or now
        if now - self._failed_at < _STEADY:
            return
        log.info("the database is back", database=self.where, away=f"{self._worked_at - self._since:.1f} s")
        self._since = self._worked_at = self._began_at = None
        self.reads_only = False


def _writes(conn: AsyncConnection[Any]) -> bool:
    """
    Return whether a session is known to take writes, by what Postgres tells of it without being asked.

    A PgBouncer, or a Postgres before 14, does not tell: there only a write shows it.
    """
    names = (b"in_hot_standby", b"default_transaction_read_only")
    return {conn.pgconn.parameter_status(name) for name in names} == {b"off"}


_known: dict[str, Presence] = {}


def of(where: str) -> Presence:
    """Return the presence of the database at `where`: host, port and name."""
    return _known.setdefault(where, Presence(where))


def has_failed_since(moment: float) -> bool:
    """Return whether any database of this process is away, or has failed since `moment`."""
    return any(presence.has_failed_since(moment) for presence in _known.values())


def written() -> None:
    """Take note that something was written: a database that took no writes takes them again."""
    for presence in _known.values():
        if presence.reads_only:
            presence.worked()
