"""
The service that is attacked: one process with web server and worker, as `alpha-monday serve` starts it.

Its time is simulated: it leaps from job to job until the moment that the file `--leap-until` names, and from then on
goes at its real pace. So each attack has a Monday that becomes due, seconds after the attack began.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from procrastinate.periodic import PeriodicDeferrer

from app.commands import server
from app.core import logging, settings
from app.database import pools
from app.main import create_app
from app.simulation import clock as simulated
from jobs.context import RealClock
from jobs.queue import MIDDLEWARE, Queue

# How often the clock looks for a tick of cron at real pace, in seconds.
BEAT = 0.05
LEAPING_BEAT = 0.003
# As the service has it in production, but for the polling: a second for each job would make every leap long.
POLLING = 0.1


class Clock(simulated.SimulatedClock):
    """Simulated time that leaps until a given moment, and then goes at its real pace."""

    leap_until: Path

    def options(self) -> dict[str, Any]:
        """Return the worker's options: those of production, with jobs that run in simulated time."""
        return {"worker_middleware": [*MIDDLEWARE, self._in_its_time], "fetch_job_polling_interval": POLLING}

    async def _beat(self, ticks: PeriodicDeferrer) -> None:
        now, until = self.now(), datetime.fromisoformat(self.leap_until.read_text())
        await ticks.defer_jobs(ticks.get_previous_tasks(at=now.timestamp()))
        if now >= until:
            simulated.BEAT = BEAT
            await self._read(simulated._LAG)  # the model's time to think is taken from it
            return
        simulated.BEAT = LEAPING_BEAT
        tick = now + min(simulated.STRIDE, timedelta(seconds=ticks.get_next_tick(at=now.timestamp())))
        await self._read("SELECT told.leap(%s)", min(tick, until))


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python dev/attack/service.py"
    )
    parser.add_argument("--begin", type=datetime.fromisoformat, required=True, help="the simulated time at the start")
    parser.add_argument("--leap-until", type=Path, required=True, help="the file that says until when time leaps")
    given = parser.parse_args()
    configuration = settings.load(os.environ)
    clock: Any = RealClock()
    Clock.leap_until = given.leap_until
    simulated.SimulatedClock = Clock  # type: ignore[misc]
    logging.configure("INFO", lambda: clock.now(), configuration.keys, sys.stdout)

    @asynccontextmanager
    async def clock_of(pool: pools.Pool, queue: Queue) -> AsyncIterator[simulated.SimulatedClock]:
        nonlocal clock
        async with simulated.told(pool, queue, given.begin.astimezone(UTC)) as its_clock:
            its_clock.over.add_done_callback(_end_loudly)
            clock = its_clock
            yield its_clock

    server.run(create_app(configuration, clock_of), server.listen(configuration))


def _end_loudly(over: "asyncio.Future[None]") -> None:
    if not over.cancelled() and (error := over.exception()):
        print(f"The clock broke: {error!r}", flush=True)
        os._exit(4)


if __name__ == "__main__":
    main()
