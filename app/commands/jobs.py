"""`alpha-monday jobs`: what waits, runs and failed, and a way back for what did not come to its end."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Any

import click
from msgspec.structs import asdict

from app.commands import tables
from app.commands.terminal import Commands, asynchronous, clock, local, opened, say
from app.core import settings
from app.database import pools, rehearsed
from app.database.rights import Need
from app.domain import calendar
from app.domain.text import printable
from app.errors import Refused
from jobs import admin, queue_tables
from jobs.admin import Subjects
from jobs.daily import take_checkpoint
from jobs.queue_tables import Found
from jobs.weekly import pick_week

_BIGGEST = 2**63 - 1
_COLUMNS = ("id", "task", "status", "Monday", "day", "scheduled (New York)", "attempts")


class Misused(click.ClickException):
    """Words that no command takes: one line, and the exit code that says so."""

    exit_code = 2


class JobId(click.ParamType[int]):
    """A job's number."""

    name = "ID"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if not re.fullmatch("0*[1-9][0-9]{0,18}", value) or int(value) > _BIGGEST:
            raise Misused(f"{printable(repr(value))[:40]} is no job's id: ids are whole numbers from 1 to {_BIGGEST}.")
        return int(value)


# What begins with a dash is no option here, but an id that is refused as one.
_IDS = {"ignore_unknown_options": True}

of_the_rehearsal = click.option(
    "--rehearsal", "of_the_rehearsal", is_flag=True, help="The jobs of the embedded rehearsal."
)


@click.group(cls=Commands)
def jobs() -> None:
    """List the queue's jobs, show one, do it again or cancel it.

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
    help="Only these; repeatable.",
)
@click.option("--task", help="Only this task, for example take_checkpoint.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@of_the_rehearsal
@asynchronous
async def show_list(statuses: tuple[str, ...], task: str | None, limit: int, of_the_rehearsal: bool) -> None:
    """Print the jobs that run, failed or wait; the next one, or the newest, first.

    On a terminal as a table; elsewhere a line per job, with tabs between id, task, status, Monday, day, scheduled time
    in New York and attempts, and a dash for what there is not. A stalled job is one whose worker is gone.

    \b
    Examples:
      alpha-monday jobs list
      alpha-monday jobs list --status failed --task take_checkpoint
      alpha-monday jobs list --status all --limit 500 | grep 2026-11-16
    """
    wanted = queue_tables.STATUSES if "all" in statuses else statuses or queue_tables.UNFINISHED
    async with (
        opened(settings.load(), rehearsal=of_the_rehearsal, need=Need.READ_ALL) as pool,
        pools.transaction(pool) as conn,
    ):
        found = await queue_tables.find(conn, wanted, task, limit + 1)
        about = await admin.subjects(conn, found)
    tables.show_rows(_COLUMNS, [_cells(job, about) for job in found[:limit]])
    if not found:
        say("There is no such job." if statuses or task else "Nothing waits, runs or has failed.")
    elif len(found) > limit:
        say(f"There are more than {limit}; --limit shows them.")


def _cells(job: Found, about: Subjects) -> Sequence[str]:
    monday, day = about.get(job.id, (None, None))
    at = job.scheduled_at and job.scheduled_at.astimezone(calendar.NEW_YORK)
    return (
        str(job.id),
        printable(job.task),
        job.status,
        str(monday or ""),
        "" if day is None else str(day),
        f"{at:%Y-%m-%d %H:%M}" if at else "",
        str(job.attempts),
    )


@jobs.command(context_settings=_IDS)
@click.argument("id", type=JobId())
@of_the_rehearsal
@asynchronous
async def show(id: int, of_the_rehearsal: bool) -> None:
    """Print everything that is known of a job, its events included.

    Why it failed stands in the service's log, in the lines that name the job.

    \b
    Example:
      alpha-monday jobs show 17
    """
    async with (
        opened(settings.load(), rehearsal=of_the_rehearsal, need=Need.READ_ALL) as pool,
        pools.transaction(pool) as conn,
    ):
        job = await admin.get(conn, id)
        events = await queue_tables.events_of(conn, id)
        about = await admin.subjects(conn, [job])
    told: dict[str, Any] = asdict(job)
    told["args"] = json.dumps(job.args)
    told["scheduled_at"] = job.scheduled_at and local(job.scheduled_at)
    told["about"] = _about(about.get(id))
    told["silent"] = None if job.silent is None else f"{job.silent:.0f} s"
    for name, value in told.items():
        if value is not None:
            click.echo(f"{name}: {printable(value)}")
    click.echo("events:")
    for event in events:
        click.echo(f"  {event.at:%Y-%m-%d %H:%M:%S} UTC  {event.type}")


def _about(subject: tuple[date, int | None] | None) -> str | None:
    match subject:
        case (monday, None):
            return f"the Monday {monday}"
        case (monday, day):
            return f"day {day} of {monday}"
    return None


@jobs.command(context_settings=_IDS)
@click.argument("ids", metavar="ID...", type=JobId(), nargs=-1, required=True)
@of_the_rehearsal
@asynchronous
async def retry(ids: tuple[int, ...], of_the_rehearsal: bool) -> None:
    """Have jobs done again that failed, stalled, or were cancelled or aborted.

    A cancelled or aborted job stays as it is; a new one like it is put into the queue, and its id printed. Refused for
    a job that waits, runs or has succeeded, for a Monday that is over, and where another job does the same already.

    \b
    Example:
      alpha-monday jobs retry 17 18
    """

    async def again(conn: Any, id: int, now: datetime) -> str:
        new = await admin.retry(conn, id, now)
        if new == id:
            return f"Job {id} is back in the queue and runs at once."
        return f"Job {id} stays as it is. The new job {new}, which does the same, is in the queue."

    await _each(ids, again, rehearsal=of_the_rehearsal)


@jobs.command(context_settings=_IDS)
@click.argument("ids", metavar="ID...", type=JobId(), nargs=-1, required=True)
@of_the_rehearsal
@asynchronous
async def cancel(ids: tuple[int, ...], of_the_rehearsal: bool) -> None:
    """Let jobs that wait never run.

    The record owes a row to every Monday and every checkpoint, so that of one that is due, or becomes due, upkeep
    defers a new job. Refused for a job that runs or has ended.

    \b
    Example:
      alpha-monday jobs cancel 17
    """

    async def never(conn: Any, id: int, _: datetime) -> str:
        job = await admin.cancel(conn, id)
        return f"Job {id} is cancelled.{_owed(job)}"

    await _each(ids, never, rehearsal=of_the_rehearsal)


def _owed(job: Found) -> str:
    """Return what happens nevertheless."""
    if job.task == pick_week.name:
        return " A Monday without a batch is begun again by upkeep, until it is over."
    if job.task == take_checkpoint.name and isinstance(job.args, dict) and "retake" in job.args:
        return " A skipped checkpoint of an active batch is looked at again by upkeep tomorrow."
    if job.task == take_checkpoint.name:
        return " Its checkpoint is deferred again by upkeep when it is due: the record owes it a row."
    return ""


async def _each(ids: Sequence[int], act: Callable[..., Any], *, rehearsal: bool) -> None:
    """Act on each job in a transaction of its own, and say what became of it; exit with 1 if one was refused."""
    refused = False
    async with opened(settings.load(), rehearsal=rehearsal, need=Need.WORK) as pool:
        now = await rehearsed.stands_at(pool) or clock.now()
        for id in dict.fromkeys(ids):
            try:
                async with pools.transaction(pool) as conn:
                    done = await act(conn, id, now)
                click.echo(done)
            except Refused as error:
                refused = True
                say(f"alpha-monday: {error}")
    if refused:
        sys.exit(1)


@jobs.command()
@click.option("--retry", "put_back", is_flag=True, help="Put them back into the queue.")
@of_the_rehearsal
@asynchronous
async def stalled(put_back: bool, of_the_rehearsal: bool) -> None:
    """Print the jobs whose worker is gone or silent; exit code 1 if there are any and they were not put back.

    A service that runs finds and puts them back within a minute or two, so they last only where none does.

    \b
    Examples:
      alpha-monday jobs stalled
      alpha-monday jobs stalled --retry
    """
    async with (
        opened(settings.load(), rehearsal=of_the_rehearsal, need=Need.WORK if put_back else Need.READ_ALL) as pool,
        pools.transaction(pool) as conn,
    ):
        found = await queue_tables.find(conn, ["stalled"], None, 10_000)
        about = await admin.subjects(conn, found)
        if put_back:
            now = await rehearsed.stands_at(pool) or clock.now()
            for job in found:
                with suppress(Refused):  # a service was faster
                    await admin.retry(conn, job.id, now)
    if not found:
        say("No job is stalled.")
        return
    tables.show_rows(_COLUMNS, [_cells(job, about) for job in found])
    if not put_back:
        say("`alpha-monday jobs stalled --retry` puts them back, and so does a service that runs.")
        sys.exit(1)
    say("They are back in the queue.")
