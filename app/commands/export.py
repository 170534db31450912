"""`alpha-monday export`: all of the record as rows, in CSV or JSON."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import IO, cast

import click

from api.engine import Engine
from api.schema import Facts, schema
from app.commands import files, terminal
from app.commands.series import list_recorded, series_option
from app.commands.terminal import ReportProgress, clock, progress_bar, rehearsal_option, report
from app.core import settings
from app.core.settings import Settings
from app.database import pools
from app.database.queries import connection_fetcher
from app.database.rights import Need
from app.domain.calendar import Calendar
from app.domain.model import SERIES
from app.domain.text import pluralize
from app.errors import ConfigurationError, Refused
from app.store import rehearsed
from app.web.feeds.export import WRITERS, ExportPart, ExportRange, read_parts, write_export


class ExportProgress:
    """How much of the record was exported so far, and the journal's head in this export."""

    def __init__(self, on_part: Callable[[], None]) -> None:
        """Store `on_part`, which is called after each part."""
        self.rows = 0
        self.batches = 0
        self.head: str | None = None
        self.rehearsed = False
        self._on_part = on_part

    async def count(self, parts: AsyncGenerator[ExportPart]) -> AsyncGenerator[ExportPart]:
        """Yield the parts unchanged, and count their rows and batches."""
        async for part in parts:
            yield part
            self.rows += len(part.rows)
            self.batches += part.batches
            self.head = part.head_text
            self.rehearsed = part.rehearsed
            self._on_part()


@click.command()
@click.argument(
    "file", type=click.Path(allow_dash=True, dir_okay=False, path_type=Path), default="-"
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(WRITERS)),
    help="The format of the standard output, CSV by default. A FILE has the format of its ending.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@series_option("Only this series.")
@rehearsal_option("Export the record of the embedded rehearsal.")
def export(
    file: Path, form: str | None, *, force: bool, series: str | None, rehearsal: bool
) -> None:
    """Write all of the record as rows, one for each pick and each checkpoint, into FILE.

    If the record has several series, the rows of one follow those of another.

    The name of FILE must end in .csv or .json, and decides the format. Without FILE, or with `-`,
    the rows go to the standard output, in the format of --format.

    The content is that of `/export.csv` and `/export.json`: docs/export.md explains each column.
    All rows are of one moment, and the service can run meanwhile. FILE gets its name when it is
    complete. At the end, the command prints the journal's head.

    \b
    Examples:
      alpha-monday export picks.csv
      alpha-monday export --series claude claude.csv
      alpha-monday export --format json | jq '.rows[] | select(.result and .hit)'
    """
    configuration = settings.load()
    to_stdout = str(file) == "-"
    chosen_form = _choose_format(file, form)
    address = _reader_address(configuration, rehearsal=rehearsal)
    if to_stdout:
        target = files.stdout()
    else:
        target = files.complete_file(file.resolve(), force=force, public=True)
    asyncio.run(_check_record(address, rehearsal=rehearsal))
    try:
        with target as output, progress_bar() as report_progress:
            writing = _write(
                address=address,
                form=chosen_form,
                output=output,
                report_progress=report_progress,
                series=series,
                sessions=Calendar(configuration.market_closed_days),
            )
            progress = asyncio.run(writing)
    except OSError as error:
        raise ConfigurationError(
            f"The export could not be written to {file}: {error.strerror or error}."
        ) from None
    rows = pluralize(progress.rows, "row")
    batches = pluralize(progress.batches, "batch", "batches")
    click.echo(
        f"Exported: {rows} of {batches}. The head: {progress.head or 'none yet'}", err=to_stdout
    )
    if progress.rehearsed:
        report("This is the record of a rehearsal: all of it is made up, and marked as such.")


def _reader_address(configuration: Settings, *, rehearsal: bool) -> str:
    """
    Return the address from which the record is read.

    It is API_DATABASE_URL if that is set, otherwise the direct address of the database. In two
    cases it is the direct address although API_DATABASE_URL is set: with `rehearsal`, and if
    DATABASE_POOLED is set. In the second case API_DATABASE_URL may lead to a PgBouncer, but a long
    snapshot needs a session that no other client uses.
    """
    if configuration.api_database_url and not rehearsal and not configuration.database_pooled:
        return configuration.api_database_url
    return terminal.database_address(configuration, rehearsal=rehearsal)


def _choose_format(file: Path, form: str | None) -> str:
    """
    Return the format of an export into `file`.

    Raises Refused if the ending of the name is not a format, or is not the format `form`.
    """
    if str(file) == "-":
        return form or "csv"
    ending = file.suffix[1:].lower()
    if ending not in WRITERS:
        endings = " or ".join(f".{name}" for name in WRITERS)
        raise Refused(
            f"FILE must end in {endings}, as in picks.csv; {_describe_wrong_name(file)}. "
            "For the standard output, write `-` in its place and choose with --format."
        )
    if form not in (None, ending):
        raise Refused(
            f"{file.name} would not hold what its name says: --format is {form}. "
            "Leave --format out."
        )
    return ending


def _describe_wrong_name(file: Path) -> str:
    """Return what is wrong with a name that does not end in the name of a format."""
    if not file.name:
        return "this one is empty"
    if file.name.lower() in {f".{form}" for form in WRITERS}:
        return f"{file.name!r} has no name before its ending"
    return f"{file.name!r} does not"


async def _check_record(address: str, *, rehearsal: bool) -> None:
    configuration = settings.load()
    await terminal.check_database(configuration, address, rehearsal=rehearsal)
    await terminal.require_current(configuration, address, rehearsal=rehearsal)
    await terminal.require_rights(configuration, address, Need.READ_RECORD)


async def _write(
    *,
    address: str,
    form: str,
    output: IO[bytes],
    report_progress: ReportProgress,
    series: str | None,
    sessions: Calendar,
) -> ExportProgress:
    """Write the record at `address`, or one series of it, read in one snapshot."""
    async with pools.snapshot(address, "export") as conn:
        # The reader at the other end of a pipe may pause for minutes, for example in a pager.
        await conn.execute("SET LOCAL idle_in_transaction_session_timeout = '10min'")
        is_rehearsed = await rehearsed.is_rehearsed_on_connection(conn)
        # The export of an empty record is that of the default series.
        names = await list_recorded(conn, series) or [SERIES]
        cursor = await conn.execute("SELECT count(*) FROM batches WHERE series = ANY(%s)", [names])
        (total,) = cast(tuple[int], await cursor.fetchone())
        facts = Facts(
            version("alpha-monday"),
            is_rehearsed,
            clock.now,
            series=set(names),
            sessions=sessions,
        )
        engine = Engine(
            schema,
            connection_fetcher(conn),
            facts,
            max_documents=1,
            quiet=True,
        )
        progress = ExportProgress(lambda: report_progress("batches", progress.batches, total))
        async with (
            aclosing(_read_all(engine, names)) as parts,
            aclosing(progress.count(parts)) as counted_parts,
        ):
            written = ExportRange(series=names[0] if len(names) == 1 else None)
            async for piece in write_export(form, counted_parts, written):
                output.write(piece)
    return progress


async def _read_all(engine: Engine, names: Sequence[str]) -> AsyncGenerator[ExportPart]:
    """Yield the parts of several series, one series after another."""
    for name in names:
        async with aclosing(read_parts(engine, ExportRange(series=name))) as parts:
            async for part in parts:
                yield part
