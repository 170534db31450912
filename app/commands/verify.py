"""`alpha-monday verify`: check the record against its journal."""

import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psycopg
from psycopg_pool import PoolTimeout

from app.commands import terminal
from app.commands.terminal import (
    DAY,
    async_command,
    clock,
    progress_bar,
    rehearsal_option,
    report,
)
from app.core import settings
from app.database.rights import Need
from app.domain import rfc3161
from app.domain.calendar import Calendar
from app.domain.text import one_line, pluralize
from app.domain.verification.chain import Head, Verification
from app.domain.verification.stamps import StampVerifier
from app.domain.verification.state import JournalState
from app.errors import AlphaMondayError, ConfigurationError, Discrepancy
from app.ops import verify as verification
from app.ops.verify_stamps import HashedSource, verify_stamps
from app.providers.timestamp_services import read_pem_file, read_root_file

if TYPE_CHECKING:  # importing the library takes 70 ms
    from cryptography.x509 import Certificate

# The exit code when the check could not be completed. 1 would mean that there is a discrepancy.
_EXIT_CODE_UNKNOWN = 2

# How many blocks are printed. A later block covers the entries of all earlier ones.
_MAX_BLOCKS = 5


class HeadType(click.ParamType[Head]):
    """The type of an option that is a copy of the journal's head, as `verify` prints it."""

    name = "SEQ:HASH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        """Return the number of the entry and its hash."""
        match = re.fullmatch(r"0*([1-9][0-9]{0,17}):([0-9a-f]{64})", value.strip().lower())
        if match is None:
            self.fail(
                f"{value!r} is not the head of a journal, such as 812:3f...: a number and 64 "
                "hexadecimal digits."
            )
        return int(match[1]), match[2]


@click.command()
@click.option(
    "--head",
    "heads",
    type=HeadType(),
    multiple=True,
    help="A copy of the journal's head: the chain must contain it; may be given several times.",
)
@click.option(
    "--from",
    "url",
    metavar="URL",
    help="Verify the record that the API at URL shows, instead of the database.",
)
@click.option(
    "--closed",
    "closed",
    type=DAY,
    multiple=True,
    help="A day on which the exchange was closed on short notice; may be given several times.",
)
@click.option(
    "--timestamp-root",
    "root_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A PEM file with the root certificates of time-stamping authorities that you trust.",
)
@rehearsal_option("Verify the record of the embedded rehearsal.")
@async_command
async def verify(
    heads: Sequence[Head],
    url: str | None,
    closed: Sequence[datetime],
    root_file: Path | None,
    rehearsal: bool,
) -> None:
    """Check the journal's chain, compare every row with it, and name the first discrepancy.

    All figures are computed again from their prices. The last line shows the journal's head. Keep a
    copy of it: with `--head`, this command detects a journal that was written again, or whose end
    was cut off. docs/journal.md says what this proves.

    Timestamps are checked with the roots of `--timestamp-root`, or of TIMESTAMP_ROOTS. For proofs
    of OpenTimestamps, the command prints the Bitcoin blocks that you can compare.

    The command knows the exchange's holidays, but not closures that were announced on short notice.
    A sealed record states them in its journal. For entries before the sealing, those of `--closed`
    apply, and for the record of the database those of MARKET_CLOSED_DAYS, too.

    \b
    Exit code: 0 everything fits, 1 there is a discrepancy, 2 the check could not be completed.

    \b
    Examples:
      alpha-monday verify
      alpha-monday verify --head 8:3fa2c1d09b7e4856a1f0c3d2e5b498776655443322110ffeeddccbbaa9988776
      alpha-monday verify --from https://alpha-monday.example
      alpha-monday verify --from https://alpha-monday.example --closed 2026-11-04
    """
    if url is not None and rehearsal:
        raise click.UsageError("--from and --rehearsal exclude each other.")
    try:
        closed_days = [day.date() for day in closed]
        sessions = _exchange_calendar(closed_days, with_setting=url is None)
        roots = _pinned_roots(root_file, with_setting=url is None)
        with progress_bar() as report_progress:
            async with _open_source(url, rehearsal=rehearsal) as opened_source:
                source = HashedSource(opened_source)
                result = await verification.verify(
                    source=source,
                    heads=heads,
                    report_progress=report_progress,
                    sessions=sessions,
                )
                stamps = await verify_stamps(source, roots)
    except Discrepancy:
        # `main` prints it, and exits with 1.
        raise
    except (AlphaMondayError, psycopg.Error, PoolTimeout) as error:
        report(f"alpha-monday: The record could not be verified. {one_line(error)}")
        sys.exit(_EXIT_CODE_UNKNOWN)
    try:
        _print_stamps(stamps, result.state.timestamp_roots)
        _print_success(result)
    except OSError as error:
        report(f"alpha-monday: Everything fits, but that could not be written: {error.strerror}")
        # Otherwise, Python would try to write the rest of the output again when the process ends.
        sys.stdout = None
        sys.exit(_EXIT_CODE_UNKNOWN)


def _pinned_roots(root_file: Path | None, *, with_setting: bool) -> "list[Certificate] | None":
    """
    Return the certificates of `--timestamp-root`, or of TIMESTAMP_ROOTS; None if neither is set.

    With `with_setting`, TIMESTAMP_ROOTS counts: it belongs to the record of the database.
    """
    if root_file is not None:
        return _read_root_option(root_file)
    if not with_setting:
        return None
    setting = settings.load().timestamp_roots
    if not setting:
        return None
    return rfc3161.read_roots(read_root_file(setting))


def _read_root_option(path: Path) -> "list[Certificate]":
    subject = "The file of --timestamp-root"
    try:
        pem = read_pem_file(path)
    except OSError as error:
        raise ConfigurationError(f"{subject} cannot be read: {error.strerror or error}.") from None
    return rfc3161.read_roots(pem, subject)


def _print_stamps(stamps: StampVerifier, stated_roots: Mapping[str, int]) -> None:
    """
    Print what the timestamps prove, and what is left to compare. Print nothing without them.

    `stated_roots` has the number of the first entry that states a root, by its fingerprint.
    """
    if not stamps.count:
        return
    click.echo(
        f"Timestamps: {stamps.tokens:,} of authorities verify, {len(stamps.blocks):,} lead into "
        f"Bitcoin blocks, {stamps.pending:,} pending."
    )
    if stamps.tokens and stamps.roots is None:
        click.echo(
            "The root of the authority was not pinned: each of these proofs was checked with the "
            "last certificate of its own chain, which the operator could have made. Use "
            "--timestamp-root FILE, or compare the SHA-256 of the root with the authority's own "
            "site."
        )
    for root, count in sorted(stamps.roots_used.items()):
        click.echo(f"  {_describe_root(root, count, stated_roots.get(root))}")
    newest = sorted(stamps.blocks, key=lambda block: block.seq)[-_MAX_BLOCKS:]
    if newest:
        click.echo("Compare the Merkle roots of these blocks with the Bitcoin block chain:")
    for block in newest:
        click.echo(f"  entry {block.seq}: block {block.height}, Merkle root {block.merkle_root}")
    more = len(stamps.blocks) - len(newest)
    if more > 0:
        click.echo(f"  and {more:,} of earlier entries, which the newest one covers, too")


def _describe_root(root: str, count: int, stated_by: int | None) -> str:
    """Return a line about the proofs that lead to one root, and about the journal's settings."""
    subject = f"{pluralize(count, 'proof')} with the root {root}"
    if stated_by is None:
        return f"{subject}, which no settings of the journal state"
    return f"{subject}, which the settings of entry {stated_by:,} state"


def _print_success(result: Verification) -> None:
    counts = f"{result.seq:,} entries, {result.rows:,} rows, {result.state.figures:,} figures"
    head = "none yet"
    if result.seq:
        head = f"{result.seq}:{result.hash}"
    if result.seq:
        click.echo(_describe_sealing(result.state))
    if result.links:
        click.echo(
            f"{pluralize(result.links, 'entry', 'entries')} of kinds that this version does not "
            "know: only the chain of hashes was checked there. A newer version checks the rest."
        )
    click.echo(f"Everything fits: {counts}. The head: {head}")


def _describe_sealing(state: JournalState) -> str:
    """Return a sentence that says whether the record is sealed, and where it comes from."""
    if state.genesis is None:
        return (
            "Not sealed: the journal does not say where the record comes from. `alpha-monday seal` "
            "seals it from then on."
        )
    return (
        f"Sealed since entry {state.sealed_since:,} (record {state.genesis.record_id}, "
        f"{state.genesis.origin})"
    )


def _exchange_calendar(closed: Iterable[date], *, with_setting: bool) -> Calendar:
    """
    Return the exchange's calendar, in which the days `closed` are no sessions.

    With `with_setting`, the days of MARKET_CLOSED_DAYS are no sessions, either. That setting
    belongs to the record of the database, and not to the record of another service.
    """
    days = {*closed}
    if with_setting:
        days |= {*settings.load().market_closed_days}
    return Calendar(days)


@asynccontextmanager
async def _open_source(
    url: str | None, *, rehearsal: bool
) -> AsyncIterator[verification.RecordSource]:
    """Open the record to verify: from the API at `url`, or from the database if `url` is None."""
    if url is not None:
        async with verification.open_api(url, clock.sleep) as api_source:
            yield api_source
        return
    configuration = settings.load()
    address = terminal.database_address(configuration, rehearsal=rehearsal)
    await terminal.check_database(configuration, address, rehearsal=rehearsal)
    await terminal.require_current(configuration, address, rehearsal=rehearsal)
    await terminal.require_rights(configuration, address, Need.READ_RECORD)
    async with verification.open_database(address) as source:
        yield source
