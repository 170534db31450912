"""One told time for many: who holds it back, and how the stand-ins keep it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from app.core.locks import Lock
from app.database.rehearsed import CREATE_CLOCK_TABLE
from app.simulation.clock import INSTALL_SQL
from app.simulation.provider_simulators import database_time

DAY = 86_400.0


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection]:
    """A connection to a database that lives a day behind."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CREATE_CLOCK_TABLE + INSTALL_SQL)
        conn.execute("INSERT INTO told.clock (lag, seen) VALUES (%s, now())", (DAY,))
        yield conn


def leap(conn: psycopg.Connection) -> float:
    """Leap an hour, and return the lag."""
    tick = datetime.now(UTC) - timedelta(seconds=DAY - 3600)
    ((lag,),) = conn.execute("SELECT told.leap(%s)", (tick,)).fetchall()
    return lag


def test_nobody_leaps_while_upkeep_is_at_work(conn, database):
    """A round of upkeep in one process takes no told time in the others."""
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
        assert leap(conn) == DAY
    assert leap(conn) == pytest.approx(DAY - 3600, abs=5)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # theirs is closed with their process
async def test_the_stand_ins_keep_the_time_when_their_connection_is_ended(conn, database):
    """Told time leaps between two questions, so the last answer is no clock: they ask again."""
    now = database_time(database)
    before = await now()
    conn.execute("UPDATE told.clock SET lag = lag - 3600")
    conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client "
        "backend'"
    )
    assert timedelta(minutes=59) < await now() - before < timedelta(minutes=61)
