"""A clock that tells what it was told: sleeping on it takes no time, and moves it on."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta


class HandSetClock:
    """
    Tells `time`.

    `slept` holds how long it was slept on; `meanwhile` is what happens during the next sleep.
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
