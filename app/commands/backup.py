"""`alpha-monday backup` writes the record into a file; `alpha-monday restore` reads the file."""

import asyncio
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import click

from app.commands import files, terminal
from app.commands.terminal import clock, progress_bar, rehearsal_option, report
from app.core import settings
from app.database.rights import Need
from app.domain.calendar import Calendar
from app.errors import ConfigurationError
from app.ops import backup as backups

_REHEARSED = "This is the record of a rehearsal: all of it is made up, and it stays marked as such."


@click.command()
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@rehearsal_option("Back up the record of the embedded rehearsal.")
def backup(file: Path, force: bool, rehearsal: bool) -> None:
    """Write the record, its journal and the ledger of requests into FILE, as of one moment.

    The service can run meanwhile. FILE is a ZIP archive with one text file for each table and a
    manifest. It gets its name when it is complete, and only its owner can read it. `-` writes to
    the standard output. The backup does not contain the queue: a restore defers the jobs that the
    record needs. The last line shows the journal's head: store a copy of it in another place.

    \b
    Examples:
      alpha-monday backup monday.zip
      alpha-monday backup - | ssh elsewhere 'cat > monday.zip'
    """
    configuration = settings.load()
    to_stdout = str(file) == "-"
    address = terminal.database_address(configuration, rehearsal=rehearsal)
    asyncio.run(terminal.check_database(configuration, address, rehearsal=rehearsal))
    asyncio.run(terminal.require_rehearsal(configuration, address, rehearsal=rehearsal))
    asyncio.run(terminal.require_rights(configuration, address, Need.READ_ALL))
    target = _stdout() if to_stdout else files.complete_file(file.resolve(), force=force)
    try:
        with target as output, progress_bar() as report_progress:
            writing = backups.write(
                address=address,
                output=output,
                now=clock.now(),
                report_progress=report_progress,
            )
            manifest = asyncio.run(writing)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(
            f"The backup could not be written to {file}: {reason}. No file was left behind."
        ) from None
    click.echo(_summary("Backed up", manifest), err=to_stdout)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--unverified", is_flag=True, help="Restore FILE even if it does not verify.")
@rehearsal_option("Restore into the database of the embedded rehearsal.")
def restore(file: Path, unverified: bool, rehearsal: bool) -> None:
    """Fill an empty database from FILE, which `alpha-monday backup` wrote. Needs no superuser.

    The command creates tables, so it uses MIGRATE_DATABASE_URL if that is set.

    It compares FILE with its manifest, restores it, applies the missing migrations and verifies the
    record, all in one transaction: either everything is restored or nothing. It refuses a database
    that is not empty, or that a service uses. The record of a rehearsal stays marked as made up:
    `rehearse` continues it, `serve` refuses it.

    \b
    Example:
      DATABASE_URL=postgresql://user:password@host/empty alpha-monday restore monday.zip
    """
    configuration = settings.load()
    if rehearsal:
        address = terminal.database_address(configuration, rehearsal=True)
    else:
        address = terminal.owner_address(configuration)
    asyncio.run(terminal.check_database(configuration, address, rehearsal=rehearsal))
    if not rehearsal:
        asyncio.run(terminal.refuse_different_databases(configuration, "MIGRATE_DATABASE_URL"))
    with progress_bar() as report_progress:
        restoring = backups.restore(
            address=address,
            file=file,
            now=clock.now(),
            report_progress=report_progress,
            sessions=Calendar(configuration.market_closed_days),
            unverified=unverified,
        )
        manifest = asyncio.run(restoring)
    click.echo(_summary(f"Restored, as of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC", manifest))
    if unverified:
        click.echo("It was not verified: run `alpha-monday verify`.")
    else:
        click.echo("Everything fits.")
    if backups.CLOCK_TABLE in manifest.tables:
        report(_REHEARSED)


def _summary(done: str, manifest: backups.Manifest) -> str:
    """Return a line with the number of rows of each table, and the journal's head."""
    counts = [f"{table.rows:,} {name.partition('.')[2]}" for name, table in manifest.tables.items()]
    return f"{done}: {', '.join(counts)}. The head: {manifest.head or 'none yet'}"


def _stdout() -> AbstractContextManager[IO[bytes]]:
    if sys.stdout.isatty():
        raise click.UsageError(
            "A backup cannot be shown on a terminal: send it to a file or to another program."
        )
    return files.stdout()
