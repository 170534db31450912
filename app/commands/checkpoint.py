"""`alpha-monday checkpoint`: the figures of one checkpoint, computed again or corrected."""

from datetime import datetime

import click

from app.commands.terminal import DAY, Commands, asynchronous, clock, record, say
from app.core import settings
from app.database import pools
from app.domain import calendar
from app.domain.model import CHECKPOINT_DAYS, SERIES, CheckpointStatus
from app.errors import Refused
from app.store import batches, checkpoints
from jobs import corrections, daily, queue_tables


@click.group(cls=Commands)
def checkpoint() -> None:
    """Look at a morning again, or put its figures right.

    \b
    Examples:
      alpha-monday checkpoint retake 2026-11-02 4
      alpha-monday checkpoint correct 2026-11-02 0 MSFT --reason "The provider's first close was a misprint."
    """


@checkpoint.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("day", type=click.IntRange(0, CHECKPOINT_DAYS))
@click.argument("ticker")
@click.option("--reason", required=True, help="Why; it is published with the correction.")
@asynchronous
async def correct(run_date: datetime, day: int, ticker: str, reason: str) -> None:
    """Let a checkpoint's figures rest on the newest reading of a price; day 0 is the baseline.

    For a first reading that proved wrong: `alpha-monday closes TICKER` shows all of them. What stood there before stays
    next to it, in the record, the journal and the API.

    \b
    Example:
      alpha-monday checkpoint correct 2026-11-02 0 MSFT --reason "The provider's first close was a misprint."
    """
    calendar.refuse_other_days(run_date.date())
    async with record(settings.load()) as pool:
        corrected = await corrections.adopt(pool, clock.now(), run_date.date(), day, ticker, reason)
    say(f"Corrected: {corrected} checkpoints.")


@checkpoint.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("day", type=click.IntRange(1, CHECKPOINT_DAYS))
@asynchronous
async def retake(run_date: datetime, day: int) -> None:
    """Look again at a checkpoint that was skipped for want of prices.

    The running service does the work; this command asks for it and waits.

    \b
    Example:
      alpha-monday checkpoint retake 2026-11-02 4
    """
    calendar.refuse_other_days(run_date.date())
    async with record(settings.load()) as pool:
        async with pools.transaction(pool) as conn:
            batch = await batches.on(conn, SERIES, run_date.date())
            if batch is None:
                raise Refused(f"There is no batch of {run_date:%Y-%m-%d}.")
            if day not in {one.day for one in await checkpoints.skipped(conn, batch.id)}:
                raise Refused(f"Day {day} of {run_date:%Y-%m-%d} was not skipped for want of prices.")
            if not await queue_tables.has_live_worker(conn):
                raise Refused("No worker is running that could do it. Start one with `alpha-monday serve` or `work`.")
            due = checkpoints.Due(batch.id, batch.run_date, day)
            (job,) = await daily.defer_retakes(conn, [due], clock.now().isoformat())
        while await _lives(pool, job):
            await clock.sleep(0.5)
        async with pool.connection() as conn:
            taken = await checkpoints.at(conn, batch.id, day)
        if taken is None or taken.status == CheckpointStatus.SKIPPED:
            raise Refused(f"Day {day} stays skipped; the log of the service says why.")
        say(f"Day {day} is computed.")


async def _lives(pool: pools.Pool, job: int) -> bool:
    async with pools.transaction(pool) as conn:
        return await queue_tables.is_live(conn, job)
