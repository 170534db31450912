"""
One simulated clock for several processes: what holds it back, and how the provider simulators read
it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from app.core.locks import Lock
from app.simulation.clock import INSTALL_SQL
from app.simulation.provider_simulators import database_time
from app.store.rehearsed import CREATE_CLOCK_TABLE

DAY = 86_400.0


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection]:
    """A connection to a database whose simulated clock is a day behind."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CREATE_CLOCK_TABLE + INSTALL_SQL)
        conn.execute("INSERT INTO told.clock (lag, seen) VALUES (%s, now())", (DAY,))
        yield conn


def leap(conn: psycopg.Connection) -> float:
    """Leap an hour, and return the lag."""
    tick = datetime.now(UTC) - timedelta(seconds=DAY - 3600)
    ((lag,),) = conn.execute("SELECT told.leap(%s)", (tick,)).fetchall()
    return lag


def test_no_leap_during_reconciliation(conn, database):
    """
    During a round of reconciliation in one process, the simulated time of the others does not leap.
    """
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
        assert leap(conn) == DAY
    assert leap(conn) == pytest.approx(DAY - 3600, abs=5)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the simulators' connection is closed with their process
async def test_the_simulators_read_the_time_again_after_a_lost_connection(conn, database):
    """
    Simulated time leaps between two requests, so the last value is no clock: the simulators query
    it again.
    """
    now = database_time(database)
    before = await now()
    conn.execute("UPDATE told.clock SET lag = lag - 3600")
    conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client "
        "backend'"
    )
    assert timedelta(minutes=59) < await now() - before < timedelta(minutes=61)
