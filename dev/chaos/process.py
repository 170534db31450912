"""
One of the processes that are harmed: the real service, web server included, in told time.

Its time-outs are short, because told time waits for whatever hangs and for a dead process's jobs.
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

import openai  # noqa: F401 - here, once, for all processes that are forked: it takes a second
import psycopg

from app.commands import server
from app.core import logging, settings
from app.database import pools, sessions
from app.errors import ConfigurationError
from app.main import create_app
from app.providers import alpha_vantage
from app.simulation import clock as told
from app.simulation.rehearsal import Span
from jobs.context import RealClock
from jobs.queue import Queue

LONGEST_LEAP = timedelta(hours=1)  # a job deleted by hand is found at the next stop
STALLED_AFTER, HEARTBEAT = 2.0, 0.3
STOOD_STILL = 0.4
TIME_LIMIT = 2.5  # of both providers, in seconds

# How it ends when it did not start, and when its clock broke: a job ran early, or nothing would ever leap again.
NOT_STARTED, CLOCK_BROKE = 3, 4


class Clock(told.SimulatedClock):
    """
    A told clock that asks for the time anew before anything else is done when its process stood still.

    Otherwise it would be days behind until its next beat, as if somebody had set it back: the ledger believes
    that, and moves everybody's requests with it.
    """

    asked = 0.0

    def now(self) -> datetime:
        """Return the told time."""
        if self.lag and self.asked and monotonic() - self.asked > STOOD_STILL:
            with suppress(psycopg.Error), sessions.connect(self.pool.conninfo, connect_timeout=1) as conn:
                ((lag,),) = conn.execute("SELECT lag FROM told.clock").fetchall()
                self.lag, self.asked = timedelta(seconds=lag), monotonic()
        return super().now()

    async def _read(self, sql: str, *values: object) -> None:
        await super()._read(sql, *values)
        self.asked = monotonic()


def live(given: Mapping[str, str], span: Span, said: Path, tell: Connection) -> None:
    """Serve and work until told to stop; the log goes to `said`, the port to `tell`."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody outlives the run
    output = said.open("a", buffering=1)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    told.STRIDE, told.STALLED_AFTER, told.HEARTBEAT = LONGEST_LEAP, STALLED_AFTER, HEARTBEAT
    told.SimulatedClock = Clock  # type: ignore[misc]
    alpha_vantage._TIME_LIMIT = TIME_LIMIT
    configuration = settings.load({**given, "OPENAI_TIMEOUT": str(TIME_LIMIT)})
    clock: RealClock | told.SimulatedClock = RealClock()
    logging.configure("INFO", lambda: clock.now(), configuration.keys, output)

    @asynccontextmanager
    async def clock_of(pool: pools.Pool, queue: Queue) -> AsyncIterator[told.SimulatedClock]:
        nonlocal clock
        async with told.told(pool, queue, span.begin, span.until) as its_clock:
            its_clock.over.add_done_callback(_end_loudly)
            clock = its_clock
            yield its_clock

    listener = server.listen(configuration)
    tell.send(listener.getsockname()[1])
    try:
        server.run(create_app(configuration, clock_of), listener)
    except ConfigurationError as error:
        print(error, flush=True)
        sys.exit(NOT_STARTED)


def _end_loudly(over: "asyncio.Future[None]") -> None:
    if not over.cancelled() and (error := over.exception()):
        print(f"The clock broke: {error!r}", flush=True)
        os._exit(CLOCK_BROKE)
