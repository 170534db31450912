"""`alpha-monday checkpoint`: take a skipped checkpoint again, or correct a computed one."""

from datetime import datetime

import click

from app.commands.terminal import (
    DAY,
    CommandGroup,
    async_command,
    clock,
    open_live_record,
    report,
)
from app.core import settings
from app.database import pools
from app.domain import calendar
from app.domain.model import CHECKPOINT_DAYS, SERIES, CheckpointStatus
from app.domain.text import pluralize
from app.errors import Refused
from app.store import batches, checkpoints
from app.store.rows import Conn
from jobs import corrections, daily, in_force, queue_tables

# The pause between two checks whether the job has ended, in seconds.
_POLL_INTERVAL = 0.5


@click.group(cls=CommandGroup)
def checkpoint() -> None:
    """Take a skipped checkpoint again, or correct a computed one.

    \b
    Examples:
      alpha-monday checkpoint retake 2026-11-02 4
      alpha-monday checkpoint correct 2026-11-02 0 MSFT --reason "The first close was wrong."
    """


@checkpoint.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("day", type=click.IntRange(0, CHECKPOINT_DAYS))
@click.argument("ticker")
@click.option("--reason", required=True, help="Why; it is published with the correction.")
@async_command
async def correct(run_date: datetime, day: int, ticker: str, reason: str) -> None:
    """Compute a checkpoint's figures again with the newest reading of a price.

    Day 0 is the baseline. Use this command if the first reading was wrong: `alpha-monday closes
    TICKER` shows all readings. The record, the journal and the API keep the earlier figures beside
    the new ones.

    \b
    Example:
      alpha-monday checkpoint correct 2026-11-02 0 MSFT --reason "The first close was wrong."
    """
    calendar.require_monday(run_date.date())
    configuration = settings.load()
    async with open_live_record(configuration) as pool:
        corrected = await corrections.adopt(
            pool=pool,
            now=clock.now(),
            run_date=run_date.date(),
            day=day,
            ticker=ticker,
            reason=reason,
            in_force=in_force.make(configuration, is_command=True),
        )
    report(f"Corrected: {pluralize(corrected, 'checkpoint')}.")


@checkpoint.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("day", type=click.IntRange(1, CHECKPOINT_DAYS))
@async_command
async def retake(run_date: datetime, day: int) -> None:
    """Take a checkpoint again that was skipped because a price was missing.

    The command defers a job for the running service, and waits until the job has ended.

    \b
    Example:
      alpha-monday checkpoint retake 2026-11-02 4
    """
    calendar.require_monday(run_date.date())
    async with open_live_record(settings.load()) as pool:
        async with pools.transaction(pool) as conn:
            due = await _skipped_checkpoint(conn, run_date, day)
            (job,) = await daily.defer_retakes(conn, [due], clock.now().isoformat())
        # A worker runs the job, perhaps in another process. Only the tables of the queue show when
        # the job has ended.
        while await _is_live(pool, job):
            await clock.sleep(_POLL_INTERVAL)
        async with pool.connection() as conn:
            taken = await checkpoints.get(conn, due.batch_id, day)
    if taken is None or taken.status == CheckpointStatus.SKIPPED:
        raise Refused(f"Day {day} is still skipped. The log of the service says why.")
    report(f"Day {day} is computed.")


async def _skipped_checkpoint(
    conn: Conn, run_date: datetime, day: int
) -> checkpoints.DueCheckpoint:
    """Return the skipped checkpoint of a day; raise Refused if it cannot be retaken."""
    batch = await batches.get_by_run_date(conn, SERIES, run_date.date())
    if batch is None:
        raise Refused(f"There is no batch of {run_date:%Y-%m-%d}.")
    skipped = await checkpoints.list_skipped(conn, batch.id)
    if day not in {checkpoint.day for checkpoint in skipped}:
        raise Refused(
            f"Day {day} of {run_date:%Y-%m-%d} was not skipped because of a missing price."
        )
    if not await queue_tables.has_live_worker(conn):
        raise Refused(
            "No worker is running that could do it. "
            "Start one with `alpha-monday serve` or `alpha-monday work`."
        )
    return checkpoints.DueCheckpoint(batch.id, batch.run_date, day)


async def _is_live(pool: pools.Pool, job: int) -> bool:
    async with pools.transaction(pool) as conn:
        return await queue_tables.is_live(conn, job)
