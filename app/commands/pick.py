"""`alpha-monday pick`: make this Monday's batch now, and record what happens to a pick later."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import date, datetime

import click
from msgspec import Struct
from msgspec.structs import replace

from app.commands import tables
from app.commands.series import list_recorded, series_option
from app.commands.terminal import (
    DAY,
    CommandGroup,
    async_command,
    clock,
    format_new_york,
    open_live_record,
    report,
)
from app.core import logging, series_file, settings
from app.database import pools
from app.domain import calendar, returns
from app.domain.calendar import Calendar
from app.domain.model import SERIES, Batch, BatchStatus
from app.domain.text import join_words
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
@series_option("Only the batch of this series of SERIES_FILE.")
@click.pass_context
def pick(context: click.Context, series: str | None) -> None:
    """Make this Monday's batch now, or run a failed one again.

    The command defers a job for the running service, and waits until the batch is stored. With
    several series, it makes the batch of each series that has none or a failed one. The command is
    refused if today is no Monday, if it is not yet nine in New York, or if this Monday already has
    its picks.

    \b
    Examples:
      alpha-monday pick
      alpha-monday pick --series claude
    """
    if context.invoked_subcommand is None:
        asyncio.run(_pick(series))
    elif series is not None:
        raise click.UsageError("Write --series behind the name of the command.")


async def _pick(series: str | None) -> None:
    configuration = settings.load()
    configured = series_file.require_service_keys(configuration, name=series)
    names = [one.name for one in configured]
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
            runs = await _defer_runs(conn, run_date, names)
        for run in runs:
            report(
                f"Job {run.job} makes the batch of {run_date}{_of_series(run.series)}. Waiting for "
                "it. (Ctrl-C does not stop the job.)"
            )
        sessions = Calendar(configuration.market_closed_days)
        failures = 0
        for number, run in enumerate(runs):
            if number:
                click.echo()
            failures += not await _wait_and_show(pool, run, sessions)
    if failures:
        sys.exit(1)


class _SeriesRun(Struct, frozen=True, kw_only=True):
    """
    A job that makes the batch of a Monday of a series.

    `earlier` is the batch that was stored before the command began. `job` is 0 until the job is
    deferred.
    """

    series: str
    run_date: date
    earlier: Batch | None
    job: int = 0


def _of_series(series: str) -> str:
    return f" of {series}" if series != SERIES else ""


async def _defer_runs(conn: Conn, run_date: date, names: Sequence[str]) -> list[_SeriesRun]:
    """
    Defer the jobs that make the missing or failed batches of a Monday.

    The result also has the jobs that make a batch already, if there are several series. Raises
    Refused if no series needs a job, or if no worker runs.
    """
    runs: list[_SeriesRun] = []
    with_picks: list[Batch] = []
    in_progress: list[_SeriesRun] = []
    for series in names:
        earlier = await batches.get_by_run_date(conn, series, run_date)
        live_jobs = await weekly.list_live_jobs(conn, series, run_date)
        if earlier and earlier.status != BatchStatus.FAILED:
            with_picks.append(earlier)
        elif live_jobs:
            in_progress.append(
                _SeriesRun(series=series, run_date=run_date, earlier=earlier, job=live_jobs[0])
            )
        else:
            runs.append(_SeriesRun(series=series, run_date=run_date, earlier=earlier))
    if not runs:
        raise Refused(_nothing_to_do(run_date, with_picks, in_progress))
    if not await queue_tables.has_live_worker(conn):
        raise Refused(
            "No worker is running that could do it. "
            "Start one with `alpha-monday serve` or `alpha-monday work`."
        )
    return [*in_progress, *[await _defer(conn, run) for run in runs]]


async def _defer(conn: Conn, run: _SeriesRun) -> _SeriesRun:
    """Defer the job of a run, and return the run with the id of its job."""
    questions = await weekly.max_questions_of_manual_run(conn, run.series, run.run_date)
    job = await weekly.defer_run(conn, clock.now(), series=run.series, max_questions=questions)
    return replace(run, job=job)


def _nothing_to_do(
    run_date: date, with_picks: Sequence[Batch], in_progress: Sequence[_SeriesRun]
) -> str:
    """Return why no series of a Monday needs a job."""
    if not with_picks and len(in_progress) == 1:
        (run,) = in_progress
        of_series = _of_series(run.series)
        return f"Job {run.job} already makes the batch of the Monday {run_date}{of_series}."
    if not in_progress and len(with_picks) == 1:
        (batch,) = with_picks
        of_series = _of_series(batch.series)
        return f"The Monday {run_date}{of_series} has its picks: batch {batch.id}."
    states = [f"job {run.job} already makes the batch of {run.series}" for run in in_progress]
    if with_picks:
        having = join_words([batch.series for batch in with_picks])
        states.insert(0, f"the picks of {having} are stored")
    return f"No series needs a job for the Monday {run_date}: {'; '.join(states)}."


async def _wait_and_show(pool: pools.Pool, run: _SeriesRun, sessions: Calendar) -> bool:
    """
    Wait for the batch of a run, and print it. Return whether it has picks.

    If the job ends without a batch, a line says so, so that the other series are printed, too.
    """
    try:
        batch = await _wait_for_batch(pool, run)
    except Refused as error:
        report(f"alpha-monday: {error}")
        return False
    await tables.show(pool, batch, sessions=sessions, now=clock.now())
    return batch.status != BatchStatus.FAILED


async def _wait_for_batch(pool: pools.Pool, run: _SeriesRun) -> Batch:
    """
    Wait until a job has stored the batch of a Monday, and return the batch, which may be failed.

    Raises Refused if the job ends without a batch.
    """
    while True:
        async with pools.transaction(pool) as conn:
            # The jobs are read before the batch. A job stores the batch before it ends. So if the
            # job has ended and the batch is missing, the job will never store one.
            live_jobs = await weekly.list_live_jobs(conn, run.series, run.run_date)
            batch = await batches.get_by_run_date(conn, run.series, run.run_date)
        if batch and batch != run.earlier:
            return batch
        if run.job not in live_jobs:
            raise Refused(f"Job {run.job} ended without a batch. The log of the service says why.")
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
@series_option("The series of the pick; needed only if several series have picked TICKER.")
@async_command
async def end(
    run_date: datetime,
    ticker: str,
    last_session: datetime,
    value: str,
    source: str,
    *,
    series: str | None,
) -> None:
    """Record the last value of a pick that stopped trading.

    Later checkpoints use the value, and are marked as ended. Checkpoints that were skipped are
    taken again.

    \b
    Examples:
      alpha-monday pick end 2026-11-02 ABC --last-session 2026-11-06 --value 54.20 --source "8-K"
      alpha-monday pick end 2026-11-02 KO --series b --last-session 2026-11-06 --value 5 --source F
    """
    calendar.require_monday(run_date.date())
    configuration = settings.load()
    try:
        price = returns.parse_price(value, ticker, last_session.date())
    except ProviderError as error:
        raise Refused(f"--value: {error}") from None
    async with open_live_record(configuration) as pool:
        await _require_recorded(pool, series)
        retakes = await picks.end(
            pool=pool,
            calendar=Calendar(configuration.market_closed_days),
            now=clock.now(),
            run_date=run_date.date(),
            ticker=ticker,
            last_session=last_session.date(),
            value=price,
            source=source,
            series=series,
            in_force=in_force.make(configuration, is_command=True),
        )
    report(_retakes_line(retakes))


async def _require_recorded(pool: pools.Pool, series: str | None) -> None:
    """Raise Refused if the record does not have the series."""
    async with pool.connection() as conn:
        await list_recorded(conn, series)


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
@series_option("The series of the pick; needed only if several series have picked TICKER.")
@async_command
async def rename(
    run_date: datetime,
    ticker: str,
    new: str,
    from_session: datetime,
    source: str,
    *,
    force: bool,
    series: str | None,
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
      alpha-monday pick rename 2026-11-02 FB META --series claude --from 2026-11-09 --source "8-K"
    """
    calendar.require_monday(run_date.date())
    configuration = settings.load()
    # The command reports its progress in plain lines. The log adds only what went wrong.
    logging.configure("WARNING", clock.now, series_file.secret_texts(configuration))
    async with open_live_record(configuration) as pool:
        # The real provider must not be asked about simulated days.
        await rehearsed.refuse_rehearsal(pool)
        await _require_recorded(pool, series)
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
                series=series,
                force=force,
                report_progress=report,
            )
    report(_retakes_line(retakes))
