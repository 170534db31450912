"""
One of the processes that are harmed: the real service, web server included, in simulated time.

Its timeouts are short, because simulated time waits for every open request and for the jobs of a
dead process.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

# Imported here, once, for all processes that are forked: together they take more than a second.
import openai  # noqa: F401
import psycopg
import rfc3161_client  # noqa: F401

from app.commands import server
from app.core import logging, series_file, settings
from app.database import pools, sessions
from app.errors import ConfigurationError
from app.main import create_app
from app.providers import alpha_vantage, timestamp_authority, timestamp_calendar
from app.simulation import clock as simulated
from app.simulation.rehearsal import RehearsalSpan
from jobs.context import RealClock
from jobs.queue import Queue

# Reconciliation runs at the end of every jump, so a deleted job is found within an hour.
MAX_JUMP = timedelta(hours=1)
STALLED_AFTER_SECONDS, HEARTBEAT_SECONDS = 2.0, 0.3
# In seconds: a clock that was not updated for longer belongs to a process that was suspended.
SUSPENDED_AFTER = 0.4
# The timeouts of requests to providers and to the services that stamp, in seconds.
PROVIDER_TIMEOUT, STAMP_TIMEOUT = 2.5, 1.0

# Exit codes: the service could not start, and its clock failed (a job ran early, or nothing would
# ever jump again).
NOT_STARTED, CLOCK_FAILED = 3, 4


class ChaosClock(simulated.SimulatedClock):
    """
    A simulated clock that reads the lag again after its process was suspended.

    Otherwise it would be days behind until its next step, as if the clock of the machine had been
    set back. The ledger of requests trusts the clock, and would move the stored times of all
    requests back with it.
    """

    updated_at = 0.0

    def now(self) -> datetime:
        """Return the simulated time."""
        is_outdated = monotonic() - self.updated_at > SUSPENDED_AFTER
        if self.lag and self.updated_at and is_outdated:
            with (
                suppress(psycopg.Error),
                sessions.connect(self.pool.conninfo, connect_timeout=1) as conn,
            ):
                ((lag,),) = conn.execute("SELECT lag FROM told.clock").fetchall()
                self.lag = timedelta(seconds=lag)
                self.updated_at = monotonic()
        return super().now()

    async def _update_lag(self, sql: str, *parameters: object) -> None:
        await super()._update_lag(sql, *parameters)
        self.updated_at = monotonic()


def serve(
    environment: Mapping[str, str], span: RehearsalSpan, log: Path, connection: Connection
) -> None:
    """Serve and work until stopped; the log is appended to `log`, the port is sent once."""
    # PR_SET_PDEATHSIG: the kernel kills this process when the run that started it ends.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    output = log.open("a", buffering=1)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    simulated.MAX_JUMP = MAX_JUMP
    simulated.STALLED_AFTER_SECONDS = STALLED_AFTER_SECONDS
    simulated.HEARTBEAT_SECONDS = HEARTBEAT_SECONDS
    simulated.SimulatedClock = ChaosClock  # type: ignore[misc]
    alpha_vantage._TIME_LIMIT = PROVIDER_TIMEOUT
    timestamp_authority.TIMEOUT_SECONDS = STAMP_TIMEOUT
    timestamp_calendar.TIMEOUT_SECONDS = STAMP_TIMEOUT
    # The keys of the series are read from the environment itself.
    os.environ.update(environment)
    configuration = settings.load(environment)
    clock: RealClock | simulated.SimulatedClock = RealClock()
    secrets = series_file.secret_texts(configuration, environment)
    logging.configure("INFO", lambda: clock.now(), secrets=secrets, to=output)

    @asynccontextmanager
    async def open_clock(pool: pools.Pool, queue: Queue) -> AsyncIterator[simulated.SimulatedClock]:
        nonlocal clock
        async with simulated.running_clock(
            pool, queue, begin=span.begin, until=span.until
        ) as simulated_clock:
            simulated_clock.finished.add_done_callback(_exit_on_failure)
            clock = simulated_clock
            yield simulated_clock

    listener = server.listen(configuration)
    connection.send(listener.getsockname()[1])
    try:
        server.run(create_app(configuration, open_clock), listener)
    except ConfigurationError as error:
        print(error, flush=True)
        sys.exit(NOT_STARTED)


def _exit_on_failure(finished: "asyncio.Future[None]") -> None:
    """End the process at once if the clock failed, so that the run notices."""
    if not finished.cancelled() and (error := finished.exception()):
        print(f"The clock broke: {error!r}", flush=True)
        os._exit(CLOCK_FAILED)
