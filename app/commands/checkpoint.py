"""`alpha-monday checkpoint`: take a skipped checkpoint again, or correct a computed one."""

from datetime import datetime

import click

from app.commands.series import list_recorded, series_option
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
from app.domain.model import CHECKPOINT_DAYS, CheckpointStatus
from app.domain.text import join_words, pluralize
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
@series_option("The series of the checkpoint; needed only if several series use the price.")
@async_command
async def correct(
    run_date: datetime, day: int, ticker: str, *, reason: str, series: str | None
) -> None:
    """Compute a checkpoint's figures again with the newest reading of a price.

    Day 0 is the baseline. Use this command if the first reading was wrong: `alpha-monday closes
    TICKER` shows all readings. The record, the journal and the API keep the earlier figures beside
    the new ones.

    \b
    Examples:
      alpha-monday checkpoint correct 2026-11-02 0 MSFT --reason "The first close was wrong."
      alpha-monday checkpoint correct 2026-11-02 0 SPY --series claude --reason "It was wrong."
    """
    calendar.require_monday(run_date.date())
    configuration = settings.load()
    async with open_live_record(configuration) as pool:
        async with pool.connection() as conn:
            await list_recorded(conn, series)
        corrected = await corrections.adopt(
            pool=pool,
            now=clock.now(),
            run_date=run_date.date(),
            day=day,
            ticker=ticker,
            reason=reason,
            series=series,
            in_force=in_force.make(configuration, is_command=True),
        )
    report(f"Corrected: {pluralize(corrected, 'checkpoint')}.")


@checkpoint.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("day", type=click.IntRange(1, CHECKPOINT_DAYS))
@series_option("The series of the checkpoint; needed only if several series lack the day.")
@async_command
async def retake(run_date: datetime, day: int, series: str | None) -> None:
    """Take a checkpoint again that was skipped because a price was missing.

    The command defers a job for the running service, and waits until the job has ended.

    \b
    Examples:
      alpha-monday checkpoint retake 2026-11-02 4
      alpha-monday checkpoint retake 2026-11-02 4 --series claude
    """
    calendar.require_monday(run_date.date())
    async with open_live_record(settings.load()) as pool:
        async with pools.transaction(pool) as conn:
            due = await _skipped_checkpoint(conn, run_date, day, series=series)
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
    conn: Conn, run_date: datetime, day: int, *, series: str | None
) -> checkpoints.DueCheckpoint:
    """
    Return the skipped checkpoint of a day; raise Refused if it cannot be retaken.

    Without `series`, the day must be skipped in the batch of one series only.
    """
    names = await list_recorded(conn, series)
    of_monday = [
        batch
        for batch in await batches.list_by_run_date(conn, run_date.date())
        if batch.series in names
    ]
    of_series = f" of the series {series}" if series is not None else ""
    if not of_monday:
        raise Refused(f"There is no batch of {run_date:%Y-%m-%d}{of_series}.")
    found = []
    for batch in of_monday:
        days = {checkpoint.day for checkpoint in await checkpoints.list_skipped(conn, batch.id)}
        if day in days:
            found.append(batch)
    if not found:
        raise Refused(
            f"Day {day} of {run_date:%Y-%m-%d}{of_series} was not skipped because of a missing "
            "price."
        )
    if len(found) > 1:
        skipping = join_words([batch.series for batch in found])
        raise Refused(
            f"Day {day} of {run_date:%Y-%m-%d} was skipped for {skipping}. Name one with --series, "
            "and repeat the command for each of them."
        )
    if not await queue_tables.has_live_worker(conn):
        raise Refused(
            "No worker is running that could do it. "
            "Start one with `alpha-monday serve` or `alpha-monday work`."
        )
    (batch,) = found
    return checkpoints.DueCheckpoint(batch.id, batch.run_date, day)


async def _is_live(pool: pools.Pool, job: int) -> bool:
    async with pools.transaction(pool) as conn:
        return await queue_tables.is_live(conn, job)
