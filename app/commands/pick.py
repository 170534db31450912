"""`alpha-monday pick`: this Monday's batch made by hand, and what happens to a pick later."""

import asyncio
import sys
from datetime import date, datetime

import click

from app.commands import tables
from app.commands.terminal import DAY, Commands, asynchronous, clock, local, record, say
from app.core import logging, settings
from app.database import pools, rehearsed
from app.domain import calendar, returns
from app.domain.calendar import Calendar
from app.domain.model import SERIES, Batch, BatchStatus
from app.errors import ProviderError, Refused
from app.store import batches
from jobs import picks, queue, queue_tables, weekly
from jobs.context import RealClock

# Waits of fewer seconds are not worth a line.
_LONG_WAIT = 2.0


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
def pick(context: click.Context) -> None:
    """Make this Monday's batch by hand, or run a failed one again.

    The running service does the work; this command asks for it and waits. Refused on other days, and when this Monday
    has its picks.

    \b
    Example:
      alpha-monday pick
    """
    if context.invoked_subcommand is None:
        asyncio.run(_pick())


async def _pick() -> None:
    configuration = settings.load()
    settings.refuse_without_keys(configuration)
    run_date = calendar.run_date(clock.now())
    if run_date is None:
        following = local(calendar.next_run_at(clock.now()))
        raise Refused(f"No Monday has begun: picks are made on Mondays from nine in New York, next on {following}.")
    async with record(configuration) as pool:
        await rehearsed.refuse(pool)
        async with pools.transaction(pool) as conn:
            batch = await batches.on(conn, SERIES, run_date)
            if batch and batch.status != BatchStatus.FAILED:
                raise Refused(f"The Monday {run_date} has its picks: batch {batch.id}.")
            if on_its_way := await weekly.live_jobs(conn, run_date):
                raise Refused(f"The Monday {run_date} is on its way, in job {on_its_way[0]}.")
            if not await queue_tables.has_live_worker(conn):
                raise Refused("No worker is running that could do it. Start one with `alpha-monday serve` or `work`.")
            questions = await weekly.questions_by_hand(conn, run_date)
            job = await weekly.begin_again(conn, clock.now(), questions)
        say(f"Job {job} makes the batch of {run_date}; waiting for it. (Ctrl-C does not stop the job.)")
        batch = await _awaited(pool, run_date, batch, job)
        await tables.show(pool, batch, Calendar(configuration.market_closed_days), clock.now())
        if batch.status == BatchStatus.FAILED:
            sys.exit(1)


async def _awaited(pool: pools.Pool, run_date: date, before: Batch | None, job: int) -> Batch:
    """Wait until a job has stored the batch of a Monday, or why there is none: not what stood there `before`."""
    while True:
        async with pools.transaction(pool) as conn:
            on_its_way = job in await weekly.live_jobs(conn, run_date)  # first: it stores the batch before it ends
            batch = await batches.on(conn, SERIES, run_date)
            if batch and batch != before:
                return batch
            if not on_its_way:
                raise Refused(f"Job {job} ended without a batch; its log says why.")
        await clock.sleep(1)


@pick.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("ticker")
@click.option("--last-session", type=DAY, required=True, help="The last session on which the share traded.")
@click.option("--value", required=True, help="What a share was worth from then on, for example 54.20.")
@click.option("--source", required=True, help="Where this is known from.")
@asynchronous
async def end(run_date: datetime, ticker: str, last_session: datetime, value: str, source: str) -> None:
    """Record what became of a pick that stopped trading.

    Later days use the value, marked as ended; days that were skipped are looked at again.

    \b
    Example:
      alpha-monday pick end 2026-11-02 ABC --last-session 2026-11-06 --value 54.20 --source "8-K of 2026-11-06"
    """
    calendar.refuse_other_days(run_date.date())
    configuration = settings.load()
    try:
        price = returns.price(value, ticker, last_session.date())
    except ProviderError as error:
        raise Refused(f"--value: {error}") from None
    sessions = Calendar(configuration.market_closed_days)
    day, last = run_date.date(), last_session.date()
    async with record(configuration) as pool:
        again = await picks.end(pool, sessions, clock.now(), day, ticker, last, price, source)
    say(f"Recorded. {again} skipped days are looked at again.")


class _TellingClock(RealClock):
    """A clock that tells the terminal of longer waits, so that a command that asks again does not seem to hang."""

    async def sleep(self, seconds: float) -> None:
        """Say how long it waits, if that is more than a moment; then wait."""
        if seconds >= _LONG_WAIT:
            say(f"The next request to Alpha Vantage is in {seconds:.0f} s.")
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
    help="The first session on which the share trades under the new ticker.",
)
@click.option("--source", required=True, help="Where this is known from.")
@click.option("--force", is_flag=True, help="Do not compare closes; mark the pick's later figures as an unusual move.")
@asynchronous
async def rename(
    run_date: datetime, ticker: str, new: str, from_session: datetime, source: str, *, force: bool
) -> None:
    """Follow a pick to its new ticker; the journal keeps the old one.

    Closes and splits count under the new ticker from that session on, and under the old one before it. The closes
    around that session must fit: the new ticker's last close before it is the old one's, or its first close since is
    less than a tenth away. What is not stored is asked of Alpha Vantage, which needs ALPHA_VANTAGE_API_KEY. A ticker
    that it does not know takes some minutes: it is asked five times before that is believed. With --force nothing is
    asked or compared.

    \b
    Examples:
      alpha-monday pick rename 2026-11-02 FB META --from 2026-11-09 --source "8-K of 2026-11-06"
      alpha-monday pick rename 2026-11-02 FB META --from 2026-11-09 --source "8-K of 2026-11-06" --force
    """
    calendar.refuse_other_days(run_date.date())
    configuration = settings.load()
    # Its progress is told in plain lines; the log adds only what went wrong.
    logging.configure("WARNING", clock.now, configuration.keys)
    async with record(configuration) as pool:
        await rehearsed.refuse(pool)
        async with queue.handed(queue.app, configuration, pool, _TellingClock()) as tools:
            again = await picks.rename(
                tools, run_date.date(), ticker, new, from_session.date(), source, force=force, tell=say
            )
    say(f"Recorded. {again} skipped days are looked at again.")
