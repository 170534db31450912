"""A clock whose time a test sets. Sleeping on it takes no real time, and moves it forward."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta


class HandSetClock:
    """
    A clock whose current time is `time`.

    `slept` holds the length of each sleep; `meanwhile` is what happens during the next sleep.
    """

    def __init__(self, time: datetime) -> None:
        self.time = time
        self.slept: list[float] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    def now(self) -> datetime:
        return self.time

    def forward(self, **by: float) -> None:
        """Move on by hours=1, or back by a negative number."""
        self.time += timedelta(**by)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += timedelta(seconds=seconds)
        if meanwhile := self.meanwhile:
            self.meanwhile = None
            await meanwhile()
        await asyncio.sleep(0)
