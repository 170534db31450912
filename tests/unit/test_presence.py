"""Which errors mean that Postgres is away, and what the log says of it: one warning, and one line when it is back."""

from types import SimpleNamespace

import psycopg
import pytest
import structlog
from procrastinate.exceptions import ConnectorException
from psycopg import errors
from psycopg_pool import PoolTimeout

from app.core import presence
from app.core.presence import Presence
from app.database.sessions import Unfit


def wrapped(error: BaseException) -> ConnectorException:
    """What Procrastinate makes of an error."""
    found = ConnectorException()
    found.__cause__ = error
    return found


# The kind: whatever ends without a change to the program. The example was 25006.
AWAY = [
    pytest.param(errors.ReadOnlySqlTransaction(), id="25006: a standby, or made read-only"),
    pytest.param(wrapped(errors.ReadOnlySqlTransaction()), id="25006, in the queue"),
    pytest.param(psycopg.OperationalError("connection refused"), id="no connection, refused"),
    pytest.param(psycopg.OperationalError("failed to resolve host"), id="no address"),
    pytest.param(errors.ConnectionTimeout("connection timeout expired"), id="no answer to a connection"),
    pytest.param(errors.AdminShutdown(), id="57P01: shuts down"),
    pytest.param(errors.CrashShutdown(), id="57P02: has crashed"),
    pytest.param(errors.CannotConnectNow(), id="57P03: starts up"),
    pytest.param(errors.DatabaseDropped(), id="57P04: dropped"),
    pytest.param(errors.IdleSessionTimeout(), id="57P05: idle for too long"),
    pytest.param(errors.TooManyConnections(), id="53300: takes no more connections"),
    pytest.param(errors.OutOfMemory(), id="53200: no memory"),
    pytest.param(errors.ConnectionFailure(), id="08006"),
    pytest.param(errors.ProtocolViolation("query_wait_timeout"), id="08P01: PgBouncer's"),
    pytest.param(errors.IdleInTransactionSessionTimeout(), id="25P03: stood still in a transaction"),
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
    pytest.param(ValueError(), id="a fault of ours"),
]


@pytest.mark.parametrize("error", AWAY)
def test_away(error):
    assert presence.is_away(error)


@pytest.mark.parametrize("error", THERE)
def test_there(error):
    assert not presence.is_away(error)


class Time:
    """The monotonic clock, as a test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> Time:
    monkeypatch.setattr(presence, "monotonic", found := Time())
    return found


def connection(standby: bytes | None = b"off", default: bytes | None = b"off") -> SimpleNamespace:
    """A connection, and what Postgres has told of its session."""
    told = {b"in_hot_standby": standby, b"default_transaction_read_only": default}
    return SimpleNamespace(pgconn=SimpleNamespace(parameter_status=told.get))


def said(lines: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(line["log_level"], line["event"], line.get("reason") or line.get("away")) for line in lines]


REFUSED = psycopg.OperationalError('connection to "h" failed: Connection refused\n\tIs the server running there?')


def test_an_outage_is_two_lines(time):
    """However many requests and attempts fail, and the cause is libpq's, without its advice."""
    database = Presence("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        database.failed(psycopg.OperationalError("server closed the connection unexpectedly"))
        for _ in range(100):
            time.now += 0.75
            database.failed(REFUSED, connecting=True)
            database.failed(PoolTimeout("couldn't get a connection"))
            database.worked(connection())  # one that was made before is no proof
        time.now += 1
        database.connected(connection())
        database.connected(connection())
    assert said(lines) == [
        ("warning", "the database is away", 'connection to "h" failed: Connection refused'),
        ("info", "the database is back", "76.0 s"),
    ]
    assert {line["database"] for line in lines} == {"h:5432/am"}


@pytest.mark.parametrize(
    "error",
    [
        Unfit("The database has the encoding LATIN1."),
        errors.InsufficientPrivilege("permission denied to set parameter"),
        errors.UndefinedObject("no such setting"),
        errors.InvalidParameterValue("invalid value"),
        errors.InternalError_("a pooler's own"),
        psycopg.ProgrammingError("an option that libpq does not know"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_keeps_a_connection_from_being_made_is_told(time, error):
    """What the pool says of it is left out of the log, so nothing else would."""
    with structlog.testing.capture_logs() as lines:
        Presence("h:5432/am").failed(error, connecting=True)
    assert said(lines) == [("warning", "the database is away", str(error))]


def test_one_connection_that_ended_is_no_outage(time):
    """The next attempt to connect decides."""
    database = Presence("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        database.failed(errors.AdminShutdown())
        database.connected(connection())
        database.worked(connection())
    assert lines == []


def test_a_database_that_takes_no_writes(time):
    """Connections can be made and can read; only one that can write shows that it is back."""
    database = Presence("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            time.now += 3
            database.connected(connection(standby=b"on"))
            database.worked(connection(standby=b"on"))
            database.failed(errors.ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction"))
        time.now += 3
        database.worked(connection(default=b"on"))
        database.worked(connection(None, None))  # it does not tell
        assert len(lines) == 1
        database.worked(connection())
    assert said(lines) == [
        ("warning", "the database is away", "cannot execute UPDATE in a read-only transaction"),
        ("info", "the database is back", "15.0 s"),
    ]


def test_behind_a_pgbouncer(time):
    """It accepts connections while its Postgres is away: what fails is the first statement, and what works ends it."""
    database = Presence("h:6432/am")
    database.pooled = True
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            database.connected(connection(None, None))
            database.failed(errors.ProtocolViolation("query_wait_timeout"))
            time.now += 4
        database.connected(connection(None, None))
        assert len(lines) == 1
        database.worked(connection(None, None))
    assert said(lines) == [
        ("warning", "the database is away", "query_wait_timeout"),
        ("info", "the database is back", "20.0 s"),
    ]


def test_transactions_that_collide_are_no_outage(time):
    """They are tried again like one, and say nothing of the database."""
    database = Presence("h:5432/am")
    with structlog.testing.capture_logs() as lines:
        for error in (errors.SerializationFailure(), errors.DeadlockDetected(), errors.LockNotAvailable()):
            database.failed(error, connecting=True)
    assert lines == []
