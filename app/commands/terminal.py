"""Functions that the operator's commands share: for options, for output, and to open the record."""

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

from app.core import logging, series_file
from app.core.settings import Settings
from app.database import migrations, pools, roles
from app.database.advice import display_address
from app.database.embedded import FOLDER, LIVE, REHEARSAL, resolve_database_url
from app.database.rights import Need
from app.database.sessions import Session
from app.domain.calendar import NEW_YORK
from app.errors import ConfigurationError, Refused
from app.store import rehearsed
from jobs.context import RealClock

P = ParamSpec("P")

# A function that is called with the name of the things that are counted, how many of them are done,
# and how many there are.
ReportProgress = Callable[[str, int, int], None]

clock = RealClock()

# The direct addresses of the databases that this command has checked. The last one is the database
# that the command works on now: a message about a missing right is about this address.
used_addresses: list[str] = []

# The addresses whose users this command has checked, each with the rights that they must have. If
# Postgres refuses a statement later, the user of the last address has sent that statement.
checked_rights: list[tuple[str, Need]] = []

# The last part of the message when two settings lead to two databases: why they must lead to one.
_REASONS_FOR_ONE_DATABASE = {
    "QUEUE_DATABASE_URL": "the record and the queue share one database",
    "API_DATABASE_URL": "the API reads the record that the jobs write, not a copy of it",
    "MIGRATE_DATABASE_URL": "migrations change the database of the record",
}


# The command line


class DayType(click.DateTime):
    """The type of an argument that is a day, such as 2026-11-16."""

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d"])

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the placeholder of such an argument in help texts."""
        return "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return midnight of the day, or fail with a sentence that shows the form of a day."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a day such as 2026-11-16.", param, ctx)


DAY = DayType()


class CommandGroup(click.Group):
    """
    A group of commands whose help shows the whole first sentence of each command.

    click alone cuts these sentences off. The commands are listed under the headings of `sections`.
    """

    sections: Mapping[str, Sequence[str]] = {}

    def add_section(self, heading: str, commands: Sequence[click.Command]) -> None:
        """Add commands in this order, under a heading."""
        for command in commands:
            self.add_command(command)
        self.sections = {**self.sections, heading: [str(command.name) for command in commands]}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands into the help text."""
        sections = self.sections or {"Commands": list(self.commands)}
        for heading, names in sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(limit=1000)) for name in names]
                )


def rehearsal_option(help_text: str) -> Callable[[Any], Any]:
    """Return the option `--rehearsal`, which chooses the record of the embedded rehearsal."""
    return click.option("--rehearsal", is_flag=True, help=help_text)


def async_command(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Return a function for click that runs the coroutine `command` to its end."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return run


# Output


def report(line: str) -> None:
    """Print a line for the operator on standard error, separate from the command's output."""
    click.echo(line, err=True)


def configure_log(configuration: Settings) -> None:
    """Write the log of this process to the terminal."""
    secrets = series_file.secret_texts(configuration)
    logging.configure(configuration.log_level, clock.now, secrets)


def make_progress() -> Progress:
    """Return a progress bar on standard error, which is shown only on a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    # In a log or in cron's mail a bar would only be noise.
    console = Console(stderr=True)
    return Progress(
        *columns,
        console=console,
        refresh_per_second=10,
        disable=not console.is_terminal,
    )


@contextmanager
def progress_bar() -> Iterator[ReportProgress]:
    """Show a progress bar, and provide the function that updates it."""
    with make_progress() as progress:
        task = progress.add_task("Reading")

        def report_progress(what: str, done: int, total: int) -> None:
            progress.update(
                task,
                description=f"{done:,} of {total:,} {what}",
                completed=done,
                total=total,
            )

        yield report_progress


def format_new_york(at: datetime) -> str:
    """Return a time as New York's clocks show it, for example for a line of `status`."""
    return f"{at.astimezone(NEW_YORK):%A, %Y-%m-%d %H:%M} in New York"


def format_duration(span: timedelta) -> str:
    """Return a duration in its two largest units, for example "5 h 3 min"; at least "0 s"."""
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60 % 60, seconds // 3600 % 24, seconds // 86400
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)


def confirm(question: str, *, yes: bool) -> None:
    """
    Ask the operator whether to continue, unless `yes` was given on the command line.

    Raises Refused if the answer is no, or if there is no terminal to ask on.
    """
    if yes:
        return
    # A process that was started without a standard input has None as stdin.
    if not sys.stdin or not sys.stdin.isatty():
        raise Refused(
            "Nothing was changed. This needs a confirmation, and there is no terminal to ask on. "
            "Add --yes."
        )
    if not click.confirm(question, err=True):
        raise Refused("Nothing was changed.")


# The database


def database_address(
    configuration: Settings, *, rehearsal: bool = False, create: bool = False
) -> str:
    """
    Return the direct address of the record's database, without a PgBouncer.

    The address is the first of these that applies:

    - QUEUE_DATABASE_URL if it is set, except with `rehearsal`;
    - DATABASE_URL if it is set;
    - the live database in the embedded Postgres of this folder. With `rehearsal`, the database of
      the rehearsal in the embedded Postgres.

    With `create`, an embedded database that does not exist is created. Without `create`, such a
    database raises ConfigurationError.
    """
    if not rehearsal and configuration.queue_database_url:
        return configuration.queue_database_url
    name = _embedded_name(rehearsal=rehearsal)
    return resolve_database_url(configuration.database_url, name, create=create)


def _embedded_name(*, rehearsal: bool) -> str:
    """Return the name of the live or the rehearsal's database in the embedded Postgres."""
    if rehearsal:
        return REHEARSAL
    return LIVE


def owner_address(configuration: Settings, *, create: bool = False) -> str:
    """Return MIGRATE_DATABASE_URL if it is set, otherwise the direct address of the database."""
    return configuration.migrate_database_url or database_address(configuration, create=create)


async def check_database(configuration: Settings, address: str, *, rehearsal: bool = False) -> None:
    """Connect to the database of a command, and print its name before any other output."""
    used_addresses.append(address)
    await pools.check(address)
    if configuration.database_url or configuration.queue_database_url:
        report(f"Database: {display_address(address)}")
        return
    name = _embedded_name(rehearsal=rehearsal)
    report(f"Database: {name}, in the embedded Postgres of {FOLDER.resolve()}")


async def refuse_different_databases(configuration: Settings, *names: str) -> None:
    """
    Raise ConfigurationError if two settings lead to different databases.

    QUEUE_DATABASE_URL and each setting of `names` are compared with DATABASE_URL, if they are set.
    Commands call this before they write anything.
    """
    for name in ("QUEUE_DATABASE_URL", *names):
        address = getattr(configuration, name.lower())
        if not address or await _is_same_database(configuration, name, address):
            continue
        raise ConfigurationError(
            "DATABASE_URL leads to the database "
            f"{display_address(configuration.database_url)}, and {name} to another one, "
            f"{display_address(address)}: {_REASONS_FOR_ONE_DATABASE[name]}. "
            "Set both to the same server and database."
        )


async def _is_same_database(configuration: Settings, name: str, address: str) -> bool:
    """Return whether the setting `name` leads to the database of DATABASE_URL."""
    pooled = configuration.database_pooled
    if name == "API_DATABASE_URL":
        # The first argument of `is_same_database` must be a direct address. With `pooled`,
        # API_DATABASE_URL may lead to a PgBouncer, so it is the second argument.
        return await pools.is_same_database(configuration.queue_address, address, pooled=pooled)
    return await pools.is_same_database(address, configuration.database_url, pooled=pooled)


async def require_rights(configuration: Settings, address: str, need: Need) -> None:
    """
    Raise ConfigurationError if the user of `address` lacks a right that the command needs.

    `address` is the direct address of the database. Behind a PgBouncer the user of DATABASE_URL is
    checked, too. The check is remembered: if a right is removed while the command runs, the error
    message can name that right.
    """
    checked_rights.append((address, need))
    await roles.require_rights(address, need)
    if configuration.database_pooled and configuration.database_url != address:
        await roles.require_rights(configuration.database_url, need, pooled=True)


async def require_rehearsal(configuration: Settings, address: str, *, rehearsal: bool) -> None:
    """Raise Refused if `--rehearsal` is used with a DATABASE_URL that leads to a live record."""
    if not (rehearsal and configuration.database_url):
        return
    async with await Session.connect(address, name="check", autocommit=True) as conn:
        if await rehearsed.is_rehearsed_on_connection(conn):
            return
    raise Refused(
        f"--rehearsal asks for the record of a rehearsal, and the database "
        f"{display_address(address)} of DATABASE_URL does not hold one. Leave --rehearsal out, or "
        "unset DATABASE_URL to use the rehearsal of this folder."
    )


async def require_current(configuration: Settings, address: str, *, rehearsal: bool) -> None:
    """
    Raise an error if the database lacks a migration, or if `rehearsal` is set for a live record.

    The error is ConfigurationError in the first case and Refused in the second. If DATABASE_URL is
    not set, the text of the ConfigurationError also says which embedded database this is.
    """
    await require_rehearsal(configuration, address, rehearsal=rehearsal)
    try:
        await migrations.require_current(address)
    except ConfigurationError as error:
        if configuration.database_url:
            raise
        if rehearsal:
            raise ConfigurationError(
                f"{error} (This is the database of a rehearsal: `alpha-monday rehearse` brings it "
                "up to date.)"
            ) from None
        raise ConfigurationError(
            f"{error} (DATABASE_URL is not set, so this is the embedded Postgres of this folder. "
            "A command with the option `--rehearsal` can use the record of `make run`.)"
        ) from None


@asynccontextmanager
async def open_record(
    configuration: Settings, *, rehearsal: bool = False, need: Need = Need.READ_RECORD
) -> AsyncIterator[pools.Pool]:
    """
    Open the record for a short command; with `rehearsal` the record of the embedded rehearsal.

    Its database must have all migrations, and the user must have the rights of `need`.
    """
    address = database_address(configuration, rehearsal=rehearsal)
    await check_database(configuration, address, rehearsal=rehearsal)
    pool = pools.make_pool(address, pooled=configuration.database_pooled)
    async with pools.opened(pool) as opened:
        await require_current(configuration, address, rehearsal=rehearsal)
        await require_rights(configuration, address, need)
        yield opened


@asynccontextmanager
async def open_live_record(configuration: Settings) -> AsyncIterator[pools.Pool]:
    """
    Open the live record as the service does, for a command that changes it.

    Its database must have all migrations, and the user must have the rights of a worker. A
    rehearsal whose clock was deleted is refused: it never becomes a live record.
    """
    direct = database_address(configuration)
    await check_database(configuration, direct)
    # The command defers jobs in the transaction that changes the record. So the queue and the
    # record must be in one database.
    await refuse_different_databases(configuration)
    await migrations.require_current(direct)
    await require_rights(configuration, direct, Need.WORK)
    pool = pools.make_pool(
        resolve_database_url(configuration.database_url),
        pooled=configuration.database_pooled,
    )
    async with pools.opened(pool) as opened:
        await rehearsed.refuse_rehearsal_without_clock(opened)
        yield opened
