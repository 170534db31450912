"""What a job is handed: the database, the picker, the prices, the calendar, and the one clock."""

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
    """The real time, and real waiting."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait, or raise TryAgainAt when the process is told to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
            raise TryAgainAt("The process was told to stop.", self.now())

    def stop(self) -> None:
        """End all waiting."""
        self._stopped.set()


@dataclass(frozen=True)
class Context:
    """
    One of each, for every job of a process. `benchmark` is the ticker that picks are measured against.

    `alerts` is who is told what went wrong, `heartbeat` who waits for good mornings; either may be off.
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
        """Return the time: nothing else may be asked for it."""
        return self.clock.now()

    async def sleep(self, seconds: float) -> None:
        """Wait; never while holding a connection, a lock or a semaphore."""
        await self.clock.sleep(seconds)
