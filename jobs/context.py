"""
The context of the jobs: the objects that all jobs of a process share, the clock among them.

`jobs.queue.bind_context` builds the context from the settings, binds it to the queue while the
worker runs, and closes its clients after that. A job gets the context from
`jobs.queue.current_context`.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from app.domain.calendar import Calendar, Clock
from app.domain.declarations import InForce
from app.domain.model import SERIES
from app.errors import TryAgainAt
from app.providers.alpha_vantage import AlphaVantage
from app.providers.head_repository import HeadRepository
from app.providers.llm import ModelClient
from app.providers.timestamp_services import TimestampServices
from app.providers.webhook import WebhookReceiver


class RealClock:
    """
    The clock of a live service: it shows the system's time, and waits in real time.

    A rehearsal uses `app.simulation.clock.SimulatedClock` instead.
    """

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`. Raise TryAgainAt when `stop` is called before or during the wait."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
            raise TryAgainAt("The process was told to stop.", self.now())

    def stop(self) -> None:
        """End all waits on this clock, and all that begin later, because the process shuts down."""
        self._stopped.set()


@dataclass
class CheckPause:
    """Until when no yearly check is tried, because the journal could not be read; None at first."""

    until: datetime | None = None


@dataclass(frozen=True)
class Context:
    """
    The objects that all jobs of a process share.

    - `pool`: connections to the database with the record and the queue
    - `model_clients`: the client of the language model of each series, by the name of the series; a
      control has none
    - `prices`: the client of Alpha Vantage
    - `calendar`: knows the market's sessions
    - `benchmark`: the ticker that picks are measured against
    - `in_force`: the values that this process declares in the journal before it records
    - `clock`: the real or the simulated clock
    - `alerts`: the client of the receiver of alerts; it may be off
    - `heartbeat`: the client of the receiver of heartbeats; it may be off
    - `timestamps`: the clients of the services that stamp the journal; there may be none
    - `head_repository`: the repository to which the journal's head is pushed; it may be off
    - `series`: the names of the series that this process runs, in the configured order
    - `has_series_file`: whether they come from SERIES_FILE; messages then name its options
    - `check_pause`: the pause of the yearly check after a failure
    """

    pool: AsyncConnectionPool[AsyncConnection[Any]]
    model_clients: Mapping[str, ModelClient]
    prices: AlphaVantage
    calendar: Calendar
    benchmark: str
    in_force: InForce
    clock: Clock
    alerts: WebhookReceiver
    heartbeat: WebhookReceiver
    head_repository: HeadRepository
    timestamps: TimestampServices = field(default_factory=TimestampServices)
    series: tuple[str, ...] = (SERIES,)
    has_series_file: bool = False
    check_pause: CheckPause = field(default_factory=CheckPause)

    def now(self) -> datetime:
        """
        Return the current time, in UTC.

        Jobs read the time only here, because a rehearsal simulates it.
        """
        return self.clock.now()

    async def sleep(self, seconds: float) -> None:
        """
        Wait for `seconds` of the clock's time.

        Never call it while a connection, a lock or a semaphore is held. Another job may need what
        is held. While that job is blocked, simulated time does not jump ahead, so the wait takes as
        long as in real time.
        """
        await self.clock.sleep(seconds)
