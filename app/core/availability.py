"""
Whether a Postgres database is available, and what the log says when that changes.

A database is unavailable if its server cannot be reached, starts up or shuts down, accepts no more
connections, or accepts no writes (a standby, or a primary that the provider has made read-only).
All these states end without a change to the program. So a job that fails because of one of them is
tried again, a request gets the error SERVICE_UNAVAILABLE, and the process tries to connect again.

Every pool and every other connection reports its errors to this module. So the log has one warning
with the cause when a database becomes unavailable, and one line when it is available again, even if
many requests and jobs have failed in between.
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

# The longest pause between two attempts to connect, in seconds.
MAX_RETRY_PAUSE = 3.0

# The timeout of one attempt to connect, in seconds. Without it, an address that never responds
# would block the attempt for minutes.
CONNECT_TIMEOUT = 5

# A database that failed while it was in use counts as available again after it has worked for this
# time, in seconds.
_STEADY_SECONDS = 2.0

# The error of a connection that cannot write. The connection stays read-only, even after its server
# accepts writes again. So it is closed, and a new one replaces it.
ReadOnlyError = errors.ReadOnlySqlTransaction

# The errors to catch if the database may be unavailable; `is_unavailable` then decides. The last
# three are listed because psycopg does not derive them from OperationalError: a connection cannot
# write, or Postgres ended it because a transaction took too long or was idle for too long.
UNAVAILABLE_ERRORS = (
    psycopg.OperationalError,
    ConnectorException,
    PoolTimeout,
    ReadOnlyError,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
)

# psycopg derives these errors from OperationalError, but they concern a single statement: the
# database is available.
_STATEMENT_ERRORS = (errors.ProgramLimitExceeded, errors.QueryCanceled)

# The pool's own errors. They do not show whether the database is available.
_POOL_ERRORS = (PoolTimeout, PoolClosed, TooManyRequests)

# Classes of SQLSTATE: a conflict between two transactions, and an object that another transaction
# has locked. `is_unavailable` is true for such an error, so that a job is tried again. But the
# database is available, so the error is no outage.
_CONFLICT_CLASSES = ("40", "55")

# Parameters that Postgres reports to every client without a query: whether the server is a standby,
# and whether the connection's transactions are read-only.
_WRITABLE_PARAMETERS = (b"in_hot_standby", b"default_transaction_read_only")

log = structlog.get_logger()


def root_cause(error: BaseException) -> BaseException:
    """Return psycopg's own error, also if Procrastinate has put it into an error without a text."""
    if isinstance(error, ConnectorException) and error.__cause__:
        return error.__cause__
    return error


def is_unavailable(error: BaseException) -> bool:
    """
    Return whether an error means that the database could not be reached or written.

    Also true for a conflict with another transaction (`_CONFLICT_CLASSES`), because the same
    statement may succeed when it is tried again.
    """
    cause = root_cause(error)
    return isinstance(cause, UNAVAILABLE_ERRORS) and not isinstance(cause, _STATEMENT_ERRORS)


def is_permission_denied(error: BaseException) -> bool:
    """Return whether an error means that the database's user lacks a right."""
    return isinstance(root_cause(error), errors.InsufficientPrivilege)


def _is_conflict(error: BaseException) -> bool:
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_CONFLICT_CLASSES)


def describe_cause(error: BaseException) -> str:
    """Return the cause of an error on one line, without libpq's advice."""
    lines = str(root_cause(error)).splitlines()
    # libpq indents its advice with a tab.
    return one_line(" ".join(line for line in lines if not line.startswith("\t")))


class Availability:
    """
    Whether one database is available, as far as the connections of this process can tell.

    One lost connection does not prove that the database is unavailable: the other connections may
    still work. So the next attempt to connect decides: if it fails, an outage is confirmed, and the
    log has the error of this attempt as the cause. A PgBouncer accepts connections even while its
    Postgres is unavailable, so with `is_pooled` the first error of a connection confirms an outage.

    Times are those of the monotonic clock.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_pooled = False
        self.is_read_only = False
        # When the current outage began. None unless an outage is confirmed.
        self._outage_began_at: float | None = None
        # The time of the first error of an outage, confirmed or not.
        self._first_error_at: float | None = None
        self._last_error_at = -inf
        # When the database worked again for the first time after its last error.
        self._worked_at: float | None = None
        self._refuses_connections = False

    @property
    def has_outage(self) -> bool:
        """Return whether an outage of the database is confirmed and has not ended."""
        return self._outage_began_at is not None

    def has_failed_since(self, moment: float) -> bool:
        """Return whether the database is unavailable now, or an error came at `moment` or later."""
        return self.has_outage or self._last_error_at >= moment

    def record_failure(self, error: BaseException, *, is_connect_error: bool = False) -> None:
        """
        Record an error of a connection, or with `is_connect_error` of an attempt to connect.

        Log a warning if the error confirms that the database has become unavailable.
        """
        cause = root_cause(error)
        if isinstance(cause, _POOL_ERRORS) or _is_conflict(cause):
            return
        # During an attempt to connect, every error counts, even a wrong password: no other code
        # logs it.
        if not is_connect_error and not is_unavailable(cause):
            return

        now = monotonic()
        if self._first_error_at is None:
            self._first_error_at = now
        self._last_error_at = now
        self._worked_at = None
        self._refuses_connections = self._refuses_connections or is_connect_error
        self.is_read_only = isinstance(cause, ReadOnlyError)
        is_confirmed = is_connect_error or self.is_read_only or self.is_pooled
        if self._outage_began_at is None and is_confirmed:
            self._outage_began_at = self._first_error_at
            log.warning(
                "the database is unavailable", database=self.address, reason=describe_cause(cause)
            )

    def record_connection(self, conn: AsyncConnection[Any]) -> None:
        """Record a new connection. Log a line if that ends an outage."""
        if self.is_pooled:
            # A connection proves only that PgBouncer is available. The outage ends when a statement
            # has proved that Postgres is available, too.
            self._refuses_connections = False
            return
        if self._refuses_connections:
            self._refuses_connections = False
            # A server that refused connections and now accepts one is available at once. The time
            # of the last error is moved back, so that `record_success` does not wait.
            self._last_error_at = monotonic() - _STEADY_SECONDS
        if self._outage_began_at is None:
            self._first_error_at = None
        self.record_success(conn)

    def record_success(self, conn: AsyncConnection[Any] | None = None) -> None:
        """
        Record that `conn` worked or, without `conn`, that a write worked.

        Log a line if that ends an outage.
        """
        if self._outage_began_at is None or self._refuses_connections:
            return
        # A read that works does not prove that a read-only database accepts writes again.
        if conn and self.is_read_only and not _is_writable(conn):
            return

        now = monotonic()
        self._worked_at = self._worked_at or now
        if now - self._last_error_at < _STEADY_SECONDS:
            return
        log.info(
            "the database is available again",
            database=self.address,
            away=f"{self._worked_at - self._outage_began_at:.1f} s",
        )
        self._outage_began_at = None
        self._first_error_at = None
        self._worked_at = None
        self.is_read_only = False


def _is_writable(conn: AsyncConnection[Any]) -> bool:
    """
    Return whether the server has reported that a connection accepts writes. No query is sent.

    A PgBouncer reports neither of the `_WRITABLE_PARAMETERS`, so for its connections the result is
    always False. Then only a write ends the outage of a read-only database.
    """
    reported = {conn.pgconn.parameter_status(name) for name in _WRITABLE_PARAMETERS}
    return reported == {b"off"}


_availability_by_address: dict[str, Availability] = {}


def for_database(address: str) -> Availability:
    """
    Return the availability of the database at an address.

    `address` is shown in the log, so it must not contain a password. Two functions of
    `app.database.advice` make it: `availability_key` for a pool, because a pool may connect as a
    separate user, and `display_address` for every other connection.
    """
    return _availability_by_address.setdefault(address, Availability(address))


def any_has_failed_since(moment: float) -> bool:
    """Return whether `Availability.has_failed_since` is true for any database of this process."""
    return any(database.has_failed_since(moment) for database in _availability_by_address.values())


def record_write() -> None:
    """
    Record that a write worked, so that a read-only database counts as writable again.

    All addresses of a process lead to the same database, so one write proves for all of them that
    the database accepts writes.
    """
    for database in _availability_by_address.values():
        if database.is_read_only:
            database.record_success()
