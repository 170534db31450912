"""
A job's context: what every job of a process shares, and the clock that all code asks for the time.

`jobs.queue.handed` builds the context from the settings, keeps it on the queue as `tools` while the
worker runs, and closes it. A job gets it from `jobs.queue.tools()`.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from app.domain.calendar import Calendar, Clock
from app.errors import TryAgainAt
from app.providers.alpha_vantage import AlphaVantage
from app.providers.llm import OpenAIPicker
from app.providers.webhook import Receiver


class RealClock:
    """
    The clock of a live service: the system's time, and waits that take as long as they say.

    A rehearsal has `app.simulation.clock.SimulatedClock` instead.
    """

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`. Raise TryAgainAt when `stop` is called before or while it waits."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
            raise TryAgainAt("The process was told to stop.", self.now())

    def stop(self) -> None:
        """End every wait on this clock, now and later: the process shuts down."""
        self._stopped.set()


@dataclass(frozen=True)
class Context:
    """
    What a job needs from outside: one of each, shared by all jobs of a process.

    `pool` holds connections to the database, which reach the record and the queue. `picker` asks the
    language model for picks, and `prices` asks Alpha Vantage for prices. `calendar` knows the market's
    sessions. `benchmark` is the ticker that picks are measured against. `clock` is the real or the
    simulated clock. `alerts` receives what went wrong, and `heartbeat` a request after each good
    morning; either may be off.
    """

    pool: AsyncConnectionPool[AsyncConnection[Any]]
    picker: OpenAIPicker
    prices: AlphaVantage
    calendar: Calendar
    benchmark: str
    clock: Clock
    alerts: Receiver
    heartbeat: Receiver

    def now(self) -> datetime:
        """Return the current time, in UTC. Jobs ask only here: a rehearsal simulates the time."""
        return self.clock.now()

    async def sleep(self, seconds: float) -> None:
        """
        Wait for `seconds` of the clock's time.

        Never called while a connection, a lock or a semaphore is held: another job may need it, and
        simulated time leaps only when every job waits.
        """
        await self.clock.sleep(seconds)
