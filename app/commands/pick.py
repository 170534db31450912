"""`alpha-monday pick`: make this Monday's batch now, and record what happens to a pick later."""

import asyncio
import sys
from datetime import date, datetime

import click

from app.commands import tables
from app.commands.terminal import (
    DAY,
    CommandGroup,
    async_command,
    clock,
    format_new_york,
    open_live_record,
    report,
)
from app.core import logging, settings
from app.database import pools
from app.domain import calendar, returns
from app.domain.calendar import Calendar
from app.domain.model import SERIES, Batch, BatchStatus
from app.errors import ProviderError, Refused
from app.store import batches, rehearsed
from app.store.rows import Conn
from jobs import in_force, picks, queue, queue_tables, weekly
from jobs.context import RealClock

# Waits of fewer seconds are not reported.
_LONG_WAIT = 2.0

# The pause between two checks whether the batch is stored, in seconds.
_POLL_INTERVAL = 1


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.pass_context
def pick(context: click.Context) -> None:
    """Make this Monday's batch now, or run a failed one again.

    The command defers a job for the running service, and waits until the batch is stored. The
    command is refused if today is no Monday, if it is not yet nine in New York, or if this Monday
    already has its picks.

    \b
    Example:
      alpha-monday pick
    """
    if context.invoked_subcommand is None:
        asyncio.run(_pick())


async def _pick() -> None:
    configuration = settings.load()
    settings.require_keys(configuration)
    run_date = calendar.run_date(clock.now())
    if run_date is None:
        next_run = format_new_york(calendar.next_run_at(clock.now()))
        raise Refused(
            "No Monday has begun: picks are made on Mondays from nine in New York, "
            f"next on {next_run}."
        )
    async with open_live_record(configuration) as pool:
        # The real model must not be asked about simulated days.
        await rehearsed.refuse_rehearsal(pool)
        async with pools.transaction(pool) as conn:
            earlier = await batches.get_by_run_date(conn, SERIES, run_date)
            job = await _defer_run(conn, run_date, earlier)
        report(
            f"Job {job} makes the batch of {run_date}. Waiting for it. "
            "(Ctrl-C does not stop the job.)"
        )
        batch = await _wait_for_batch(pool, run_date, earlier=earlier, job=job)
        sessions = Calendar(configuration.market_closed_days)
        await tables.show(pool, batch, sessions=sessions, now=clock.now())
    if batch.status == BatchStatus.FAILED:
        sys.exit(1)


async def _defer_run(conn: Conn, run_date: date, earlier: Batch | None) -> int:
    """
    Defer the job that makes the batch of a Monday, and return the id of the job.

    `earlier` is the batch that the Monday has already. Raises Refused if that batch has picks, if
    another job makes the batch, or if no worker runs.
    """
    if earlier and earlier.status != BatchStatus.FAILED:
        raise Refused(f"The Monday {run_date} has its picks: batch {earlier.id}.")
    live_jobs = await weekly.list_live_jobs(conn, SERIES, run_date)
    if live_jobs:
        raise Refused(f"Job {live_jobs[0]} already makes the batch of the Monday {run_date}.")
    if not await queue_tables.has_live_worker(conn):
        raise Refused(
            "No worker is running that could do it. "
            "Start one with `alpha-monday serve` or `alpha-monday work`."
        )
    questions = await weekly.max_questions_of_manual_run(conn, SERIES, run_date)
    return await weekly.defer_run(conn, clock.now(), SERIES, questions)


async def _wait_for_batch(
    pool: pools.Pool, run_date: date, *, earlier: Batch | None, job: int
) -> Batch:
    """
    Wait until a job has stored the batch of a Monday, and return the batch, which may be failed.

    `earlier` is the batch that was stored before the job was deferred. Raises Refused if the job
    ends without a batch.
    """
    while True:
        async with pools.transaction(pool) as conn:
            # The jobs are read before the batch. A job stores the batch before it ends. So if the
            # job has ended and the batch is missing, the job will never store one.
            live_jobs = await weekly.list_live_jobs(conn, SERIES, run_date)
            batch = await batches.get_by_run_date(conn, SERIES, run_date)
        if batch and batch != earlier:
            return batch
        if job not in live_jobs:
            raise Refused(f"Job {job} ended without a batch. The log of the service says why.")
        await clock.sleep(_POLL_INTERVAL)


@pick.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("ticker")
@click.option(
    "--last-session", type=DAY, required=True, help="The last session in which the share traded."
)
@click.option(
    "--value", required=True, help="What a share was worth after that session, for example 54.20."
)
@click.option("--source", required=True, help="Where the value comes from.")
@async_command
async def end(
    run_date: datetime, ticker: str, last_session: datetime, value: str, source: str
) -> None:
    """Record the last value of a pick that stopped trading.

    Later checkpoints use the value, and are marked as ended. Checkpoints that were skipped are
    taken again.

    \b
    Example:
      alpha-monday pick end 2026-11-02 ABC --last-session 2026-11-06 --value 54.20 --source "8-K"
    """
    calendar.require_monday(run_date.date())
    configuration = settings.load()
    try:
        price = returns.parse_price(value, ticker, last_session.date())
    except ProviderError as error:
        raise Refused(f"--value: {error}") from None
    async with open_live_record(configuration) as pool:
        retakes = await picks.end(
            pool=pool,
            calendar=Calendar(configuration.market_closed_days),
            now=clock.now(),
            run_date=run_date.date(),
            ticker=ticker,
            last_session=last_session.date(),
            value=price,
            source=source,
            in_force=in_force.make(configuration, is_command=True),
        )
    report(_retakes_line(retakes))


def _retakes_line(retakes: int) -> str:
    return f"Recorded. Skipped days that are taken again: {retakes}."


class _ReportingClock(RealClock):
    """
    The real clock, which also reports long waits on the terminal.

    Without these reports, a command that waits for the rate limit would seem to hang.
    """

    async def sleep(self, seconds: float) -> None:
        """Print a line if `seconds` is at least `_LONG_WAIT`, then wait for `seconds`."""
        if seconds >= _LONG_WAIT:
            report(f"The next request to Alpha Vantage is in {seconds:.0f} s.")
        await super().sleep(seconds)


@pick.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("ticker")
@click.argument("new")
@click.option(
    "--from",
    "from_session",
    type=DAY,
    required=True,
    help="The first session in which the share trades under the new ticker.",
)
@click.option("--source", required=True, help="Where the new ticker is announced.")
@click.option(
    "--force",
    is_flag=True,
    help="Do not compare closes; mark the pick's later figures as an unusual move.",
)
@async_command
async def rename(
    run_date: datetime, ticker: str, new: str, from_session: datetime, source: str, *, force: bool
) -> None:
    """Record a pick's new ticker. The journal keeps the old one.

    Closes and splits are read under the new ticker from the session of --from on, and under the old
    one before it.

    The last close under the old ticker is compared with two closes under the new one. One of the
    two must fit. The close of the same session fits if it differs by a cent at most. The first
    close on or after the session of --from fits if it differs by less than ten percent, with splits
    counted.

    First the stored closes are compared. If they do not fit, the closes of the new ticker are
    requested from Alpha Vantage. If these do not fit either, its splits are requested, too. The
    requests need ALPHA_VANTAGE_API_KEY. If Alpha Vantage does not know the new ticker, it is asked
    five times, which takes some minutes. With --force nothing is requested or compared.

    \b
    Examples:
      alpha-monday pick rename 2026-11-02 FB META --from 2026-11-09 --source "8-K of 2026-11-06"
      alpha-monday pick rename 2026-11-02 FB META --from 2026-11-09 --source "8-K" --force
    """
    calendar.require_monday(run_date.date())
    configuration = settings.load()
    # The command reports its progress in plain lines. The log adds only what went wrong.
    logging.configure("WARNING", clock.now, configuration.secret_texts)
    async with open_live_record(configuration) as pool:
        # The real provider must not be asked about simulated days.
        await rehearsed.refuse_rehearsal(pool)
        binding = queue.bind_context(
            queue.app,
            configuration,
            pool=pool,
            clock=_ReportingClock(),
            is_command=True,
        )
        async with binding as context:
            retakes = await picks.rename(
                context=context,
                run_date=run_date.date(),
                ticker=ticker,
                new=new,
                from_session=from_session.date(),
                source=source,
                force=force,
                report_progress=report,
            )
    report(_retakes_line(retakes))
