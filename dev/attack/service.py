"""
The attacked service: one process with web server and worker, as `alpha-monday serve` starts it.

Its time is simulated: it jumps from job to job until the moment in the file `--leap-until`, and
from then on runs at the pace of real time. So each attack has a Monday that becomes due seconds
after the attack began.
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
from app.core import logging, series_file, settings
from app.database import pools
from app.main import create_app
from app.simulation import clock as simulated
from jobs.context import RealClock
from jobs.queue import MIDDLEWARE, Queue

# In seconds: how often the clock looks for periodic jobs, at real pace and while it jumps.
REAL_POLL_SECONDS = 0.05
JUMP_POLL_SECONDS = 0.003
# Jobs are fetched more often than in production: a second for each job would make every jump long.
FETCH_SECONDS = 0.1


class AttackClock(simulated.SimulatedClock):
    """Simulated time that jumps until the moment in `jump_file`, and then runs at real pace."""

    jump_file: Path

    def worker_options(self) -> dict[str, Any]:
        """Return the worker's additional options: otherwise it works as in production."""
        return {
            "worker_middleware": [*MIDDLEWARE, self._run_when_due],
            "fetch_job_polling_interval": FETCH_SECONDS,
        }

    async def _step(self, deferrer: PeriodicDeferrer) -> None:
        now, jump_until = self.now(), datetime.fromisoformat(self.jump_file.read_text())
        await deferrer.defer_jobs(deferrer.get_previous_tasks(at=now.timestamp()))
        if now >= jump_until:
            simulated.POLL_SECONDS = REAL_POLL_SECONDS
            # The simulated model moves the clock by the time that it thinks.
            await self._update_lag(simulated._LAG)
            return
        simulated.POLL_SECONDS = JUMP_POLL_SECONDS
        next_tick = timedelta(seconds=deferrer.get_next_tick(at=now.timestamp()))
        tick = now + min(simulated.MAX_JUMP, next_tick)
        await self._update_lag(simulated._JUMP, min(tick, jump_until))


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python dev/attack/service.py",
    )
    parser.add_argument(
        "--begin",
        type=datetime.fromisoformat,
        required=True,
        help="the simulated time at the start",
    )
    parser.add_argument(
        "--leap-until",
        type=Path,
        required=True,
        help="the file with the moment until which time jumps",
    )
    options = parser.parse_args()
    configuration = settings.load(os.environ)
    clock: Any = RealClock()
    AttackClock.jump_file = options.leap_until
    simulated.SimulatedClock = AttackClock  # type: ignore[misc]
    secrets = series_file.secret_texts(configuration)
    logging.configure("INFO", lambda: clock.now(), secrets=secrets, to=sys.stdout)

    @asynccontextmanager
    async def open_clock(pool: pools.Pool, queue: Queue) -> AsyncIterator[simulated.SimulatedClock]:
        nonlocal clock
        begin = options.begin.astimezone(UTC)
        async with simulated.running_clock(pool, queue, begin) as simulated_clock:
            simulated_clock.finished.add_done_callback(_exit_on_failure)
            clock = simulated_clock
            yield simulated_clock

    server.run(create_app(configuration, open_clock), server.listen(configuration))


def _exit_on_failure(finished: "asyncio.Future[None]") -> None:
    """End the process at once if the clock failed, so that the run notices."""
    if not finished.cancelled() and (error := finished.exception()):
        print(f"The clock broke: {error!r}", flush=True)
        os._exit(4)


if __name__ == "__main__":
    main()
