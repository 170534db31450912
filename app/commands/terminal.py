"""What the operator's commands share: the clock, a voice, and the ways to open the record."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.core import logging
from app.core.settings import Settings
from app.database import migrations, pools, rehearsed, roles
from app.database.advice import where
from app.database.embedded import FOLDER, LIVE, REHEARSAL, address_of
from app.database.rights import Need
from app.database.sessions import Session
from app.domain.calendar import NEW_YORK
from app.errors import ConfigurationError, Refused
from jobs.context import RealClock

P = ParamSpec("P")


class Day(click.DateTime):
    """A day, as 2026-11-16."""

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d"])

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what help calls it."""
        return "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return its midnight."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is no day such as 2026-11-16.", param, ctx)


class Commands(click.Group):
    """Commands whose help says in full what each of them does, under the headings they are `sorted_by`."""

    sorted_by: Mapping[str, Sequence[str]] = {}

    def add_section(self, heading: str, *commands: click.Command) -> None:
        """Add commands, in this order, under a heading of their own."""
        for command in commands:
            self.add_command(command)
        self.sorted_by = {**self.sorted_by, heading: [str(command.name) for command in commands]}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them down."""
        for heading, names in (self.sorted_by or {"Commands": list(self.commands)}).items():
            with formatter.section(heading):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(1000)) for name in names])


DAY = Day()

clock = RealClock()


def asynchronous(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Let a command be a coroutine."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return run


def say(line: str) -> None:
    """Tell whoever watches, beside what the command prints."""
    click.echo(line, err=True)


def configure_log(configuration: Settings) -> None:
    """Let the log of this process go to the terminal."""
    logging.configure(configuration.log_level, clock.now, configuration.keys)


def progress() -> Progress:
    """Return a bar that shows how far something is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)  # in a log or in cron's mail a bar is no help
    return Progress(*columns, console=console, refresh_per_second=10, disable=not console.is_terminal)


@contextmanager
def telling() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far something is: what is looked at, how many were, and how many there are."""
    with progress() as bar:
        line = bar.add_task("Reading")

        def tell(what: str, done: int, total: int) -> None:
            bar.update(line, description=f"{done:,} of {total:,} {what}", completed=done, total=total)

        yield tell


def local(at: datetime) -> str:
    """Return a moment as New York's clocks show it."""
    return f"{at.astimezone(NEW_YORK):%A, %Y-%m-%d %H:%M} in New York"


def lasting(span: timedelta) -> str:
    """Return how long something lasts, in its two largest units."""
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60 % 60, seconds // 3600 % 24, seconds // 86400
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)


def confirm(question: str, *, yes: bool) -> None:
    """Ask whether to go on, unless `yes` was said on the command line; refuse where there is no one to ask."""
    if yes:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise Refused("Nothing was changed: this must be confirmed, and no terminal is here to ask at. Add --yes.")
    if not click.confirm(question, err=True):
        raise Refused("Nothing was changed.")


def address(configuration: Settings, *, rehearsal: bool = False, make: bool = False) -> str:
    """
    Return the direct address of the record's database, or with `rehearsal` of the embedded rehearsal's.

    Where DATABASE_URL is not set, the embedded Postgres of this folder is used; only with `make` it is also made.
    """
    direct = "" if rehearsal else configuration.queue_database_url
    return direct or address_of(configuration.database_url, REHEARSAL if rehearsal else LIVE, make=make)


async def reach(configuration: Settings, found: str, *, rehearsal: bool = False) -> None:
    """Say which database a command works on, beside what it prints; refuse one that cannot be reached."""
    reached.append(found)
    await pools.check(found)
    if configuration.database_url or configuration.queue_database_url:
        say(f"Database: {where(found)}")
    else:
        say(f"Database: {REHEARSAL if rehearsal else LIVE}, in the embedded Postgres of {FOLDER.resolve()}")


def owner_address(configuration: Settings, *, make: bool = False) -> str:
    """Return the direct address of the database for the user that owns its tables: MIGRATE_DATABASE_URL's."""
    return configuration.migrate_database_url or address(configuration, make=make)


# Why two settings whose addresses lead to two databases are refused.
_ONE_DATABASE = {
    "QUEUE_DATABASE_URL": "the record and the queue share one",
    "API_DATABASE_URL": "the API reads the record that the jobs write, and no copy of it",
    "MIGRATE_DATABASE_URL": "what is migrated is the database of the record",
}


async def refuse_two(configuration: Settings, *more: str) -> None:
    """
    Refuse, before anything is written, settings that lead to two databases.

    QUEUE_DATABASE_URL is always compared with DATABASE_URL, and those of `more` with both.
    """
    for name in ("QUEUE_DATABASE_URL", *more):
        found = getattr(configuration, name.lower())
        if found and not await _lead_to_one(configuration, name, found):
            raise ConfigurationError(
                f"DATABASE_URL leads to the database {where(configuration.database_url)}, and {name} to another one, "
                f"{where(found)}: {_ONE_DATABASE[name]}. Set both to the same server and database."
            )


async def _lead_to_one(configuration: Settings, name: str, found: str) -> bool:
    """Return whether one more address leads to the database of DATABASE_URL; a PgBouncer stands before that, or not."""
    pooled = configuration.database_pooled
    if name == "API_DATABASE_URL":
        return await pools.share_a_database(configuration.queue_address, found, pooled=pooled)
    return await pools.share_a_database(found, configuration.database_url, pooled=pooled)


async def refuse_without(configuration: Settings, found: str, need: Need) -> None:
    """
    Refuse a user that lacks a right for what a command does: here, and later where the right is taken away meanwhile.

    `found` is the direct address of the database; where there is a PgBouncer, the user of DATABASE_URL is looked at,
    too.
    """
    checked.append((found, need))
    await roles.refuse_without(found, need)
    if configuration.database_pooled and configuration.database_url != found:
        await roles.refuse_without(configuration.database_url, need, pooled=True)


# The addresses that a command works on, the last one for what it does now.
reached: list[str] = []

# The users that were looked at, and for what: the last one is the one whose statement is refused.
checked: list[tuple[str, Need]] = []


async def refuse_live(configuration: Settings, found: str, *, rehearsal: bool) -> None:
    """Refuse `--rehearsal` where DATABASE_URL leads to a live record: that is not the one that is meant."""
    if not (rehearsal and configuration.database_url):
        return
    async with await Session.connect(found, name="check", autocommit=True) as conn:
        if not await rehearsed.is_rehearsed_on(conn):
            raise Refused(
                f"--rehearsal means a rehearsal's record, and the database {where(found)} of DATABASE_URL holds none. "
                "Leave --rehearsal out, or unset DATABASE_URL to use the rehearsal of this folder."
            )


@asynccontextmanager
async def opened(
    configuration: Settings, *, rehearsal: bool = False, need: Need = Need.READ_RECORD
) -> AsyncIterator[pools.Pool]:
    """
    Open the record for a short command, or with `rehearsal` the embedded rehearsal's; it must be up to date.

    `need` is what its user must be allowed.
    """
    found = address(configuration, rehearsal=rehearsal)
    await reach(configuration, found, rehearsal=rehearsal)
    async with pools.opened(pools.make_pool(found, pooled=configuration.database_pooled)) as pool:
        await refuse_old(configuration, found, rehearsal=rehearsal)
        await refuse_without(configuration, found, need)
        yield pool


async def refuse_old(configuration: Settings, found: str, *, rehearsal: bool) -> None:
    """Refuse a database that is not up to date, or not of the kind that is meant; say where a rehearsal is."""
    await refuse_live(configuration, found, rehearsal=rehearsal)
    try:
        await migrations.refuse_old(found)
    except ConfigurationError as error:
        if configuration.database_url:
            raise
        if rehearsal:
            raise ConfigurationError(
                f"{error} (This is a rehearsal's database: `alpha-monday rehearse` brings it up to date.)"
            ) from None
        raise ConfigurationError(
            f"{error} (DATABASE_URL is not set, so this is the embedded Postgres of this folder; "
            "with `--rehearsal` this command looks at what `make run` made.)"
        ) from None


@asynccontextmanager
async def record(configuration: Settings) -> AsyncIterator[pools.Pool]:
    """Open the record as the service does, for a command that writes; it must be up to date."""
    direct = address(configuration)
    await reach(configuration, direct)
    await refuse_two(configuration)
    await migrations.refuse_old(direct)
    await refuse_without(configuration, direct, Need.WORK)
    pool = pools.make_pool(address_of(configuration.database_url), pooled=configuration.database_pooled)
    async with pools.opened(pool) as opened:
        yield opened
