"""
Which errors mean that Postgres is unavailable, and what the log says: a warning, and a line at the
end.
"""

from types import SimpleNamespace

import psycopg
import pytest
import structlog
from procrastinate.exceptions import ConnectorException
from psycopg import errors
from psycopg_pool import PoolTimeout

from app.core import availability
from app.core.availability import Availability
from app.database.sessions import UnsuitableDatabase


def wrapped(error: BaseException) -> ConnectorException:
    """Return an error as Procrastinate wraps it."""
    wrapper = ConnectorException()
    wrapper.__cause__ = error
    return wrapper


# The cases: whatever ends without a change to the program. The example was 25006.
AWAY = [
    pytest.param(errors.ReadOnlySqlTransaction(), id="25006: a standby, or made read-only"),
    pytest.param(wrapped(errors.ReadOnlySqlTransaction()), id="25006, in the queue"),
    pytest.param(psycopg.OperationalError("connection refused"), id="no connection, refused"),
    pytest.param(psycopg.OperationalError("failed to resolve host"), id="no address"),
    pytest.param(
        errors.ConnectionTimeout("connection timeout expired"), id="no answer to a connection"
    ),
    pytest.param(errors.AdminShutdown(), id="57P01: shuts down"),
    pytest.param(errors.CrashShutdown(), id="57P02: has crashed"),
    pytest.param(errors.CannotConnectNow(), id="57P03: starts up"),
    pytest.param(errors.DatabaseDropped(), id="57P04: dropped"),
    pytest.param(errors.IdleSessionTimeout(), id="57P05: idle for too long"),
    pytest.param(errors.TooManyConnections(), id="53300: takes no more connections"),
    pytest.param(errors.OutOfMemory(), id="53200: no memory"),
    pytest.param(errors.ConnectionFailure(), id="08006"),
    pytest.param(errors.ProtocolViolation("query_wait_timeout"), id="08P01: PgBouncer's"),
    pytest.param(
        errors.IdleInTransactionSessionTimeout(), id="25P03: stood still in a transaction"
    ),
    pytest.param(errors.TransactionTimeout(), id="25P04: a transaction took too long"),
    pytest.param(errors.InvalidPassword(), id="28P01: during a failover"),
    pytest.param(PoolTimeout(), id="no connection in time"),
    pytest.param(ConnectorException(), id="the queue's, without a cause"),
]
THERE = [
    pytest.param(errors.UndefinedTable(), id="42P01"),
    pytest.param(wrapped(errors.UndefinedFunction()), id="42883, in the queue"),
    pytest.param(errors.UniqueViolation(), id="23505"),
    pytest.param(errors.QueryCanceled(), id="57014: the statement took too long"),
    pytest.param(errors.ProgramLimitExceeded(), id="54000"),
    pytest.param(errors.InFailedSqlTransaction(), id="25P02"),
    pytest.param(ValueError(), id="an error in our code"),
]


@pytest.mark.parametrize("error", AWAY)
def test_errors_of_an_unavailable_database(error):
    assert availability.is_unavailable(error)


@pytest.mark.parametrize("error", THERE)
def test_errors_of_an_available_database(error):
    assert not availability.is_unavailable(error)


class Time:
    """A monotonic clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> Time:
    monkeypatch.setattr(availability, "monotonic", clock := Time())
    return clock


def connection(standby: bytes | None = b"off", default: bytes | None = b"off") -> SimpleNamespace:
    """Return a connection with what Postgres has reported of its session."""
    reported = {b"in_hot_standby": standby, b"default_transaction_read_only": default}
    return SimpleNamespace(pgconn=SimpleNamespace(parameter_status=reported.get))


def logged(lines: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [
        (line["log_level"], line["event"], line.get("reason") or line.get("away")) for line in lines
    ]


REFUSED = psycopg.OperationalError(
    'connection to "h" failed: Connection refused\n\tIs the server running there?'
)


def test_an_outage_is_two_lines(time):
    """
    An outage is two lines in the log, however many requests and attempts fail. The reason is
    libpq's, without its advice.
    """
    database = Availability("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        database.record_failure(
            psycopg.OperationalError("server closed the connection unexpectedly")
        )
        for _ in range(100):
            time.now += 0.75
            database.record_failure(REFUSED, is_connect_error=True)
            database.record_failure(PoolTimeout("couldn't get a connection"))
            database.record_success(connection())  # an older connection is no proof
        time.now += 1
        database.record_connection(connection())
        database.record_connection(connection())
    assert logged(lines) == [
        ("warning", "the database is unavailable", 'connection to "h" failed: Connection refused'),
        ("info", "the database is available again", "76.0 s"),
    ]
    assert {line["database"] for line in lines} == {"h:5432/am"}


@pytest.mark.parametrize(
    "error",
    [
        UnsuitableDatabase("The database has the encoding LATIN1."),
        errors.InsufficientPrivilege("permission denied to set parameter"),
        errors.UndefinedObject("no such setting"),
        errors.InvalidParameterValue("invalid value"),
        errors.InternalError_("a pooler's own"),
        psycopg.ProgrammingError("an option that libpq does not know"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_while_connecting_is_logged(time, error):
    """
    Every error while connecting is logged: the pool's own line about it is left out of the log.
    """
    with structlog.testing.capture_logs() as lines:
        Availability("h:5432/am").record_failure(error, is_connect_error=True)
    assert logged(lines) == [("warning", "the database is unavailable", str(error))]


def test_one_connection_that_ended_is_no_outage(time):
    """One lost connection is no outage: the next attempt to connect decides."""
    database = Availability("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        database.record_failure(errors.AdminShutdown())
        database.record_connection(connection())
        database.record_success(connection())
    assert lines == []


def test_a_database_that_takes_no_writes(time):
    """
    A read-only database accepts connections and reads; only a connection that can write ends
    the outage.
    """
    database = Availability("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            time.now += 3
            database.record_connection(connection(standby=b"on"))
            database.record_success(connection(standby=b"on"))
            database.record_failure(
                errors.ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction")
            )
        time.now += 3
        database.record_success(connection(default=b"on"))
        database.record_success(connection(None, None))  # it reports neither setting
        assert len(lines) == 1
        database.record_success(connection())
    assert logged(lines) == [
        (
            "warning",
            "the database is unavailable",
            "cannot execute UPDATE in a read-only transaction",
        ),
        ("info", "the database is available again", "15.0 s"),
    ]


def test_behind_a_pgbouncer(time):
    """
    A PgBouncer accepts connections while its Postgres is unavailable: the first failed
    statement begins the outage, and the first that works ends it.
    """
    database = Availability("h:6432/am")
    database.is_pooled = True
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            database.record_connection(connection(None, None))
            database.record_failure(errors.ProtocolViolation("query_wait_timeout"))
            time.now += 4
        database.record_connection(connection(None, None))
        assert len(lines) == 1
        database.record_success(connection(None, None))
    assert logged(lines) == [
        ("warning", "the database is unavailable", "query_wait_timeout"),
        ("info", "the database is available again", "20.0 s"),
    ]


def test_transactions_that_collide_are_no_outage(time):
    """Conflicts between transactions are tried again, but do not count as an outage."""
    database = Availability("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        for error in (
            errors.SerializationFailure(),
            errors.DeadlockDetected(),
            errors.LockNotAvailable(),
        ):
            database.record_failure(error, is_connect_error=True)
    assert lines == []
