"""`alpha-monday export`: all of the record as rows, in CSV or JSON."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import IO, cast

import click

from api.engine import Engine
from api.schema import Facts, schema
from app.commands import files, terminal
from app.commands.backup import of_the_rehearsal
from app.commands.terminal import clock, say, telling
from app.core import settings
from app.core.settings import Settings
from app.database import pools, rehearsed
from app.database.queries import fetching
from app.database.rights import Need
from app.domain.model import SERIES
from app.errors import ConfigurationError, Refused
from app.web.feeds.export import FORMS, Part, Wanted, parts, written

Tell = Callable[[str, int, int], None]


class Exported:
    """How much was exported, and the journal's head that it was read at; `tell` is called after each part."""

    rows = mondays = 0
    head: str | None = None
    rehearsed = False

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell

    async def counted(self, read: AsyncGenerator[Part]) -> AsyncGenerator[Part]:
        """Hand parts on, and count them."""
        async for part in read:
            yield part
            self.rows, self.mondays = self.rows + len(part.rows), self.mondays + part.mondays
            self.head, self.rehearsed = part.head_text, part.rehearsed
            self.tell()


@click.command()
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False, path_type=Path), default="-")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMS)),
    help="The format of the standard output, CSV if it is left out. A FILE has that of its ending.",
)
@click.option("--force", is_flag=True, help="Write over FILE if it is there.")
@of_the_rehearsal
def export(file: Path, form: str | None, force: bool, of_the_rehearsal: bool) -> None:
    """Write all of the record as rows, one for each pick and each morning, into FILE or the standard output.

    FILE ends in .csv or .json; any other name is refused, so that no file looks like what it is not. Without FILE, or
    with `-` in its place, the standard output is written; --format chooses its format.

    It is what `/export.csv` and `/export.json` give: docs/export.md says what each column means. All of it is of one
    moment, and nobody has to stop for it. FILE takes its name when it is complete. Ends with the journal's head.

    \b
    Examples:
      alpha-monday export picks.csv
      alpha-monday export --format json | jq '.rows[] | select(.result and .hit)'
    """
    configuration = settings.load()
    chosen = _form(file, form)
    address = _address(configuration, rehearsal=of_the_rehearsal)
    target = files.stdout() if str(file) == "-" else files.whole(file.resolve(), force=force, public=True)
    asyncio.run(_ready(address, rehearsal=of_the_rehearsal))
    try:
        with target as to, telling() as tell:
            done = asyncio.run(_write(address, chosen, to, tell))
    except OSError as error:
        raise ConfigurationError(f"The export could not be written to {file}: {error.strerror or error}.") from None
    counted = f"{done.rows:,} rows of {done.mondays:,} Mondays"
    click.echo(f"Exported: {counted}. The head: {done.head or 'none yet'}", err=str(file) == "-")
    if done.rehearsed:
        say("This is a rehearsal's record: all of it is made up, and marked so.")


def _address(configuration: Settings, *, rehearsal: bool) -> str:
    """Return the address of the record for the API's user; a PgBouncer's does not do for a snapshot that lasts."""
    if configuration.api_database_url and not rehearsal and not configuration.database_pooled:
        return configuration.api_database_url
    return terminal.address(configuration, rehearsal=rehearsal)


def _form(file: Path, form: str | None) -> str:
    """Return the format of an export into `file`, or refuse a name that promises another one."""
    if str(file) == "-":
        return form or "csv"
    ending = file.suffix[1:].lower()
    if ending not in FORMS:
        endings = " or ".join(f".{name}" for name in FORMS)
        raise Refused(
            f"FILE must end in {endings}, as in picks.csv; {_misnamed(file)}. "
            "For the standard output, write `-` in its place and choose with --format."
        )
    if form not in (None, ending):
        raise Refused(f"{file.name} would not hold what its name says: --format is {form}. Leave --format out.")
    return ending


def _misnamed(file: Path) -> str:
    """Return what is wrong with a name that does not end as an export does."""
    if not file.name:
        return "this one is empty"
    if file.name.lower() in {f".{form}" for form in FORMS}:
        return f"{file.name!r} has no name before its ending"
    return f"{file.name!r} does not"


async def _ready(address: str, *, rehearsal: bool) -> None:
    configuration = settings.load()
    await terminal.reach(configuration, address, rehearsal=rehearsal)
    await terminal.refuse_old(configuration, address, rehearsal=rehearsal)
    await terminal.refuse_without(configuration, address, Need.READ_RECORD)


async def _write(address: str, form: str, to: IO[bytes], tell: Tell) -> Exported:
    async with pools.snapshot(address, "export") as conn:
        # Whoever reads the other end of a pipe may take a while to look at it.
        await conn.execute("SET LOCAL idle_in_transaction_session_timeout = '10min'")
        made_up = await rehearsed.is_rehearsed_on(conn)
        cursor = await conn.execute("SELECT count(*) FROM batches WHERE series = %s", [SERIES])
        (total,) = cast(tuple[int], await cursor.fetchone())
        engine = Engine(schema, fetching(conn), Facts(version("alpha-monday"), made_up, clock.now), kept=1, quiet=True)
        done = Exported(lambda: tell("Mondays", done.mondays, total))
        async with aclosing(parts(engine, Wanted())) as read, aclosing(done.counted(read)) as counted:
            async for piece in written(form, counted, Wanted()):
                to.write(piece)
    return done
