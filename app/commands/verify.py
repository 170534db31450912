"""`alpha-monday verify`: the record, compared with its journal."""

import re
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime

import click
import psycopg
from psycopg_pool import PoolTimeout

from app.commands import terminal
from app.commands.terminal import DAY, asynchronous, clock, say, telling
from app.core import settings
from app.database.rights import Need
from app.domain.calendar import Calendar
from app.domain.text import one_line
from app.domain.verification.chain import Verification
from app.errors import AlphaMondayError, Misfit
from app.ops import verify as verifying


class HeadType(click.ParamType[tuple[int, str]]):
    """A copy of the journal's head, as `verify` prints it."""

    name = "SEQ:HASH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        """Return the entry's number and its hash."""
        told = re.fullmatch(r"0*([1-9][0-9]{0,17}):([0-9a-f]{64})", value.strip().lower())
        if told is None:
            self.fail(f"{value!r} is no head of a journal, such as 812:3f...: a number and 64 hexadecimal digits.")
        return int(told[1]), told[2]


@click.command()
@click.option(
    "--head",
    "heads",
    type=HeadType(),
    multiple=True,
    help="A copy of the journal's head: the chain must hold that entry; may be given several times.",
)
@click.option("--from", "url", metavar="URL", help="Verify what the API at URL shows, instead of the database.")
@click.option(
    "--closed",
    "closed",
    type=DAY,
    multiple=True,
    help="A day on which the exchange was closed on short notice; may be given several times.",
)
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="Verify the embedded rehearsal's record.")
@asynchronous
async def verify(
    heads: Sequence[tuple[int, str]],
    url: str | None,
    closed: Sequence[datetime],
    of_the_rehearsal: bool,
) -> None:
    """Walk the journal's chain, compare every row of the record with it, and name the first misfit.

    Figures are computed again from their prices. Ends with the head: keep a copy, and nobody can write the journal
    anew, or cut off its tail, without `--head` telling you. docs/journal.md says what this proves.

    The exchange's holidays are known. A closure that was announced on short notice is not: of the database those of
    MARKET_CLOSED_DAYS count, and everywhere those of `--closed`.

    \b
    Exit code: 0 everything fits, 1 something does not, 2 nothing could be found out.

    \b
    Examples:
      alpha-monday verify
      alpha-monday verify --head 812:3fa2c1d09b7e4856a1f0c3d2e5b498776655443322110ffeeddccbbaa9988776
      alpha-monday verify --from https://alpha-monday.example
      alpha-monday verify --from https://alpha-monday.example --closed 2026-11-04 --closed 2026-11-05
    """
    if url is not None and of_the_rehearsal:
        raise click.UsageError("--from and --rehearsal exclude each other.")
    try:
        sessions = _sessions((day.date() for day in closed), with_setting=url is None)
        with telling() as tell:
            async with verifying.api(url, clock.sleep) if url is not None else _snapshot(of_the_rehearsal) as source:
                found = await verifying.verify(source, heads, tell, sessions)
    except Misfit:
        raise
    except (AlphaMondayError, psycopg.Error, PoolTimeout) as error:
        say(f"alpha-monday: This could not be verified. {one_line(error)}")
        sys.exit(2)
    try:
        _say_that_it_fits(found)
    except OSError as error:  # 1 would mean that something does not fit
        say(f"alpha-monday: Everything fits, and that could not be written: {error.strerror}")
        sys.stdout = None  # not tried again at the end
        sys.exit(2)


def _say_that_it_fits(found: Verification) -> None:
    counted = f"{found.seq:,} entries, {found.rows:,} rows, {found.state.figures:,} figures"
    click.echo(f"Everything fits: {counted}. The head: {f'{found.seq}:{found.hash}' if found.seq else 'none yet'}")


def _sessions(closed: Iterable[date], *, with_setting: bool) -> Calendar:
    """Return the exchange's calendar; the setting is about the record of the database, not about another service's."""
    days = {*closed}
    if with_setting:
        days |= {*settings.load().market_closed_days}
    return Calendar(days)


@asynccontextmanager
async def _snapshot(of_the_rehearsal: bool) -> AsyncIterator[verifying.Source]:
    """Give the record of the database as it stands."""
    configuration = settings.load()
    address = terminal.address(configuration, rehearsal=of_the_rehearsal)
    await terminal.reach(configuration, address, rehearsal=of_the_rehearsal)
    await terminal.refuse_old(configuration, address, rehearsal=of_the_rehearsal)
    await terminal.refuse_without(configuration, address, Need.READ_RECORD)
    async with verifying.database(address) as source:
        yield source
