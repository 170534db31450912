"""`alpha-monday backup` and `alpha-monday restore`: the record in a file, and back."""

import asyncio
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import click

from app.commands import terminal
from app.commands.files import stdout, whole
from app.commands.terminal import clock, say, telling
from app.core import settings
from app.database.rights import Need
from app.domain.calendar import Calendar
from app.errors import ConfigurationError
from app.ops import backup as backing_up

of_the_rehearsal = click.option(
    "--rehearsal", "of_the_rehearsal", is_flag=True, help="The record of the embedded rehearsal."
)


@click.command()
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Write over FILE if it is there.")
@of_the_rehearsal
def backup(file: Path, force: bool, of_the_rehearsal: bool) -> None:
    """Write the record, its journal and the ledger of requests into FILE, as they stand at one moment.

    Nobody has to stop for it. FILE is a ZIP archive with a text for each table and a manifest; it takes its name when
    it is complete, and only its owner may read it. `-` writes to the standard output. The queue is not in it: the jobs
    that the record needs are deferred anew when it is restored. Ends with the journal's head: keep it elsewhere.

    \b
    Examples:
      alpha-monday backup monday.zip
      alpha-monday backup - | ssh elsewhere 'cat > monday.zip'
    """
    configuration = settings.load()
    to_stdout = str(file) == "-"
    address = terminal.address(configuration, rehearsal=of_the_rehearsal)
    asyncio.run(terminal.reach(configuration, address, rehearsal=of_the_rehearsal))
    asyncio.run(terminal.refuse_live(configuration, address, rehearsal=of_the_rehearsal))
    asyncio.run(terminal.refuse_without(configuration, address, Need.READ_ALL))
    try:
        with _stdout() if to_stdout else whole(file.resolve(), force=force) as to, telling() as tell:
            made = asyncio.run(backing_up.write(address, to, clock.now(), tell))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"The backup could not be written to {file}: {reason}. Nothing was kept.") from None
    click.echo(_held("Backed up", made), err=to_stdout)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--unverified", is_flag=True, help="Restore it even if it does not verify.")
@of_the_rehearsal
def restore(file: Path, unverified: bool, of_the_rehearsal: bool) -> None:
    """Fill an empty database from FILE, which `alpha-monday backup` wrote. Needs no superuser.

    Runs as the user of MIGRATE_DATABASE_URL where that is set, for it makes tables.

    Everything is compared with the manifest, restored, brought up to date and verified in one transaction: all of it,
    or nothing. Refused for a database that holds anything, or on which a service runs. What a rehearsal made stays
    marked as made up: `serve` refuses to go on with it, `rehearse` does.

    \b
    Example:
      DATABASE_URL=postgresql://user:password@host/empty alpha-monday restore monday.zip
    """
    configuration = settings.load()
    if of_the_rehearsal:
        address = terminal.address(configuration, rehearsal=True)
    else:
        address = terminal.owner_address(configuration)
    asyncio.run(terminal.reach(configuration, address, rehearsal=of_the_rehearsal))
    if not of_the_rehearsal:
        asyncio.run(terminal.refuse_two(configuration, "MIGRATE_DATABASE_URL"))
    with telling() as tell:
        restored = backing_up.restore(
            address,
            file,
            clock.now(),
            tell,
            sessions=Calendar(configuration.market_closed_days),
            unverified=unverified,
        )
        made = asyncio.run(restored)
    click.echo(_held(f"Restored, as of {made.made_at:%Y-%m-%d %H:%M:%S} UTC", made))
    click.echo("It was not verified: `alpha-monday verify` does that." if unverified else "Everything fits.")
    if backing_up.TOLD in made.tables:
        say("This is a rehearsal's record: all of it is made up, and marked so.")


def _held(done: str, made: backing_up.Manifest) -> str:
    counted = ", ".join(f"{held.rows:,} {name.partition('.')[2]}" for name, held in made.tables.items())
    return f"{done}: {counted}. The head: {made.head or 'none yet'}"


def _stdout() -> AbstractContextManager[IO[bytes]]:
    if sys.stdout.isatty():
        raise click.UsageError("A backup is nothing to look at: send it to a file or another program.")
    return stdout()
