"""`alpha-monday jobs`: list the queue's jobs, show one, run jobs again, or cancel them."""

import json
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime

import click
from msgspec.structs import asdict

from app.commands import tables
from app.commands.terminal import (
    CommandGroup,
    async_command,
    clock,
    format_new_york,
    open_record,
    rehearsal_option,
    report,
)
from app.core import settings
from app.database import pools
from app.database.rights import Need
from app.domain import calendar
from app.domain.model import SERIES
from app.domain.text import escape_unprintable
from app.errors import Refused
from app.store import batches, rehearsed
from app.store.rows import Conn
from jobs import admin, queue_tables
from jobs.admin import Subject, Subjects
from jobs.daily import take_checkpoint
from jobs.queue_tables import JobRow
from jobs.weekly import pick_week

# Postgres stores ids as bigint.
_MAX_ID = 2**63 - 1
_MAX_STALLED = 10_000
# With several series, the column `series` follows.
_COLUMNS = ("id", "task", "status", "Monday", "day", "scheduled (New York)", "attempts")

# click would read an id that begins with a dash as an option. With this setting the id reaches
# JobIdType, whose message is clearer than the one of click.
_ACCEPT_DASHES = {"ignore_unknown_options": True}

# Acts on one job, and returns a line about the result.
_Action = Callable[[Conn, int, datetime], Awaitable[str]]


class MisuseError(click.ClickException):
    """An argument that no command accepts. Its message is one line, without click's usage text."""

    exit_code = 2


class JobIdType(click.ParamType[int]):
    """The type of an argument that is a job's id."""

    name = "ID"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the id, or raise MisuseError if Postgres could not store it."""
        if not re.fullmatch("0*[1-9][0-9]{0,18}", value) or int(value) > _MAX_ID:
            shown = escape_unprintable(repr(value))[:40]
            raise MisuseError(
                f"{shown} is not a job's id: ids are whole numbers from 1 to {_MAX_ID}."
            )
        return int(value)


_rehearsal = rehearsal_option("Use the jobs of the embedded rehearsal.")


@click.group(cls=CommandGroup)
def jobs() -> None:
    """List the queue's jobs, show one, run it again or cancel it.

    \b
    Examples:
      alpha-monday jobs list
      alpha-monday jobs retry 17
    """


@jobs.command("list")
@click.option(
    "--status",
    "statuses",
    type=click.Choice([*queue_tables.STATUSES, "all"]),
    multiple=True,
    help="Only jobs with this status; may be given several times.",
)
@click.option("--task", help="Only jobs of this task, for example take_checkpoint.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="The largest number of jobs.",
)
@_rehearsal
@async_command
async def show_list(
    statuses: tuple[str, ...], task: str | None, limit: int, rehearsal: bool
) -> None:
    """Print the jobs that run, failed or wait.

    On a terminal they are a table. Elsewhere each job is a line with tabs between id, task, status,
    Monday, day, scheduled time in New York and attempts; a dash stands for a value that is missing.
    If the record has several series, the last value is the name of the series. A stalled job is one
    whose worker has stopped.

    \b
    Examples:
      alpha-monday jobs list
      alpha-monday jobs list --status failed --task take_checkpoint
      alpha-monday jobs list --status all --limit 500 | grep 2026-11-16
    """
    wanted: Sequence[str] = statuses or queue_tables.UNFINISHED
    if "all" in statuses:
        wanted = queue_tables.STATUSES
    async with (
        open_record(settings.load(), rehearsal=rehearsal, need=Need.READ_ALL) as pool,
        pools.transaction(pool) as conn,
    ):
        # One job more than is printed, to know whether there are more than `limit`.
        rows = await queue_tables.find_jobs(conn, wanted, task=task, limit=limit + 1)
        subjects = await admin.subjects(conn, rows)
        names = await batches.list_series(conn)
    _show_jobs(rows[:limit], subjects, names)
    if len(rows) > limit:
        report(f"There are more than {limit}; --limit shows them.")
    elif not rows and (statuses or task):
        report("There is no such job.")
    elif not rows:
        report("No job waits, runs or has failed.")


def _show_jobs(rows: Sequence[JobRow], subjects: Subjects, names: Sequence[str]) -> None:
    """Print jobs as rows. `names` are the series of the record: several ones get a column."""
    columns, cells = list(_COLUMNS), [list(_cells(job, subjects)) for job in rows]
    if {*names, *[subject.series for subject in subjects.values()]} - {SERIES}:
        columns.append("series")
        for job, of_job in zip(rows, cells, strict=True):
            subject = subjects.get(job.id)
            of_job.append(escape_unprintable(subject.series) if subject else "")
    tables.show_rows(columns, cells)


def _cells(job: JobRow, subjects: Subjects) -> Sequence[str]:
    subject = subjects.get(job.id)
    monday = subject.run_date if subject else None
    day = subject.day if subject else None
    scheduled = ""
    if job.scheduled_at:
        scheduled = f"{job.scheduled_at.astimezone(calendar.NEW_YORK):%Y-%m-%d %H:%M}"
    return (
        str(job.id),
        escape_unprintable(job.task),
        job.status,
        str(monday or ""),
        "" if day is None else str(day),
        scheduled,
        str(job.attempts),
    )


@jobs.command(context_settings=_ACCEPT_DASHES)
@click.argument("id", type=JobIdType())
@_rehearsal
@async_command
async def show(id: int, rehearsal: bool) -> None:
    """Print everything that the queue stores about a job, its events included.

    The reason for a failure is in the service's log, in the lines that name the job.

    \b
    Example:
      alpha-monday jobs show 17
    """
    async with (
        open_record(settings.load(), rehearsal=rehearsal, need=Need.READ_ALL) as pool,
        pools.transaction(pool) as conn,
    ):
        job = await admin.get(conn, id)
        events = await queue_tables.list_events(conn, id)
        subjects = await admin.subjects(conn, [job])
    for name, value in _fields(job, subjects.get(id)).items():
        if value is not None:
            click.echo(f"{name}: {escape_unprintable(value)}")
    click.echo("events:")
    for event in events:
        click.echo(f"  {event.at:%Y-%m-%d %H:%M:%S} UTC  {event.type}")


def _fields(job: JobRow, subject: Subject | None) -> dict[str, object]:
    """Return the values of `jobs show` by their names; a value that is None is not printed."""
    fields: dict[str, object] = asdict(job)
    fields["args"] = json.dumps(job.args)
    fields["scheduled_at"] = job.scheduled_at and format_new_york(job.scheduled_at)
    fields["about"] = _describe_subject(subject)
    if job.silent is not None:
        fields["silent"] = f"{job.silent:.0f} s"
    return fields


def _describe_subject(subject: Subject | None) -> str | None:
    if subject is None:
        return None
    of_series = f" of {subject.series}" if subject.series != SERIES else ""
    if subject.day is None:
        return f"the Monday {subject.run_date}{of_series}"
    return f"day {subject.day} of {subject.run_date}{of_series}"


@jobs.command(context_settings=_ACCEPT_DASHES)
@click.argument("ids", metavar="ID...", type=JobIdType(), nargs=-1, required=True)
@_rehearsal
@async_command
async def retry(ids: tuple[int, ...], rehearsal: bool) -> None:
    """Run jobs again that failed, stalled, or were cancelled or aborted.

    A cancelled or aborted job is not changed: a new job with the same task is put into the queue,
    and its id is printed. Refused for a job that waits, runs or has succeeded, for a Monday that is
    over, and if another job already does the same.

    \b
    Example:
      alpha-monday jobs retry 17 18
    """

    async def retry_job(conn: Conn, id: int, now: datetime) -> str:
        new = await admin.retry(conn, id, now)
        if new == id:
            return f"Job {id} is back in the queue and runs at once."
        return f"Job {id} stays as it is. The new job {new}, which does the same, is in the queue."

    await _act_on_each(ids, retry_job, rehearsal=rehearsal)


@jobs.command(context_settings=_ACCEPT_DASHES)
@click.argument("ids", metavar="ID...", type=JobIdType(), nargs=-1, required=True)
@_rehearsal
@async_command
async def cancel(ids: tuple[int, ...], rehearsal: bool) -> None:
    """Cancel jobs that wait, so that they never run.

    The record needs a row for every Monday and every checkpoint. So if the Monday or the checkpoint
    of a cancelled job is due, or becomes due, the reconciliation defers a new job. Refused for a
    job that runs or has ended.

    \b
    Example:
      alpha-monday jobs cancel 17
    """

    async def cancel_job(conn: Conn, id: int, _: datetime) -> str:
        job = await admin.cancel(conn, id)
        return f"Job {id} is cancelled.{_describe_consequence(job)}"

    await _act_on_each(ids, cancel_job, rehearsal=rehearsal)


def _describe_consequence(job: JobRow) -> str:
    """Return a sentence about what happens after a job was cancelled, or an empty text."""
    if job.task == pick_week.name:
        return " If its Monday has no batch and is not over, the reconciliation defers a new job."
    if job.task != take_checkpoint.name:
        return ""
    if isinstance(job.args, dict) and "retake" in job.args:
        return (
            " If its batch is active, the reconciliation takes the skipped checkpoint again "
            "tomorrow."
        )
    return (
        " The reconciliation defers its checkpoint again when it is due, because the record needs "
        "it."
    )


async def _act_on_each(ids: Sequence[int], action: _Action, *, rehearsal: bool) -> None:
    """Run an action on each job in its own transaction. Exit with 1 if one of them was refused."""
    is_refused = False
    async with open_record(settings.load(), rehearsal=rehearsal, need=Need.WORK) as pool:
        # The jobs of a rehearsal are scheduled in its simulated time.
        now = await rehearsed.get_simulated_time(pool) or clock.now()
        # An id that was given twice is handled once.
        for id in dict.fromkeys(ids):
            try:
                async with pools.transaction(pool) as conn:
                    line = await action(conn, id, now)
                click.echo(line)
            except Refused as error:
                is_refused = True
                report(f"alpha-monday: {error}")
    if is_refused:
        sys.exit(1)


@jobs.command()
@click.option("--retry", "put_back", is_flag=True, help="Put these jobs back into the queue.")
@_rehearsal
@async_command
async def stalled(put_back: bool, rehearsal: bool) -> None:
    """Print the jobs whose worker has stopped or sends no heartbeats.

    A running service finds such jobs and returns them to the queue within a minute or two. So they
    remain only where no service runs.

    \b
    Exit code: 0 there are none, or they were returned to the queue; 1 there are some.

    \b
    Examples:
      alpha-monday jobs stalled
      alpha-monday jobs stalled --retry
    """
    need = Need.WORK if put_back else Need.READ_ALL
    async with (
        open_record(settings.load(), rehearsal=rehearsal, need=need) as pool,
        pools.transaction(pool) as conn,
    ):
        rows = await queue_tables.find_jobs(conn, ["stalled"], task=None, limit=_MAX_STALLED)
        subjects = await admin.subjects(conn, rows)
        names = await batches.list_series(conn)
        if put_back:
            now = await rehearsed.get_simulated_time(pool) or clock.now()
            for job in rows:
                # Refused means that a running service has already put it back.
                with suppress(Refused):
                    await admin.retry(conn, job.id, now)
    if not rows:
        report("No job is stalled.")
        return
    _show_jobs(rows, subjects, names)
    if not put_back:
        report(
            "`alpha-monday jobs stalled --retry` returns them to the queue. "
            "A running service does so, too."
        )
        sys.exit(1)
    report("They are back in the queue.")
