"""`alpha-monday backup` and `alpha-monday restore`: the record in a file, and back."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import click

from app import backup as backing_up
from app import settings
from app.errors import ConfigurationError, Refused
from app.operate import terminal
from app.operate.terminal import clock, say, telling

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
    address = terminal.address(settings.load(), rehearsal=of_the_rehearsal)
    to_stdout = str(file) == "-"
    try:
        with _stdout() if to_stdout else _file(file.resolve(), force) as to, telling() as tell:
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

    Everything is compared with the manifest, restored, brought up to date and verified in one transaction: all of it,
    or nothing. Refused for a database that holds anything, or on which a service runs. What a rehearsal made stays
    marked as made up: `serve` refuses to go on with it, `rehearse` does.

    \b
    Example:
      DATABASE_URL=postgresql://user:password@host/empty alpha-monday restore monday.zip
    """
    address = terminal.address(settings.load(), rehearsal=of_the_rehearsal)
    with telling() as tell:
        made = asyncio.run(backing_up.restore(address, file, clock.now(), tell, unverified=unverified))
    click.echo(_held(f"Restored, as of {made.made_at:%Y-%m-%d %H:%M:%S} UTC", made))
    click.echo("It was not verified: `alpha-monday verify` does that." if unverified else "Everything fits.")
    if backing_up.TOLD in made.tables:
        say("This is a rehearsal's record: all of it is made up, and marked so.")


def _held(done: str, made: backing_up.Manifest) -> str:
    counted = ", ".join(f"{held.rows:,} {name.partition('.')[2]}" for name, held in made.tables.items())
    return f"{done}: {counted}. The head: {made.head or 'none yet'}"


@contextmanager
def _file(file: Path, force: bool) -> Iterator[IO[bytes]]:
    """Give a file that takes its name only when all of it is on the disk."""
    if file.exists() and not file.is_file():
        raise Refused(f"{file} is no file. Choose another name, or `-` for the standard output.")
    if file.exists() and not force:
        raise Refused(f"{file} is there already. Choose another name, or write over it with --force.")
    # A name of its own, so that two at once do not write into one; it is its owner's from the beginning.
    number, part = tempfile.mkstemp(prefix=f"{file.name}.", suffix=".part", dir=file.parent)
    try:
        with open(number, "wb") as to:
            yield to
            to.flush()
            os.fsync(number)
        os.replace(part, file)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


class _Stream:
    """A stream that only goes forward: what looks like a file may be appended to by others."""

    def __init__(self, to: IO[bytes]) -> None:
        self.write, self.flush = to.write, to.flush


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    if sys.stdout.isatty():
        raise click.UsageError("A backup is nothing to look at: send it to a file or another program.")
    # A buffer of our own: what cannot be written is known here, and not when Python ends.
    with open(sys.stdout.fileno(), "wb", closefd=False) as to:
        yield cast(Any, _Stream(to))
