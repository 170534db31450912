"""`alpha-monday show` and `alpha-monday closes`: the record as tables."""

from datetime import date, datetime

import click

from app.commands import tables
from app.commands.terminal import DAY, async_command, clock, open_record, rehearsal_option
from app.core import settings
from app.domain import calendar, prompt
from app.domain.calendar import Calendar
from app.domain.model import SERIES, Batch
from app.errors import Refused
from app.store import batches
from app.store.rows import Conn

_rehearsal = rehearsal_option("Show the record of the embedded rehearsal.")


@click.command()
@click.argument("run_date", type=DAY, required=False, metavar="[RUN_DATE]")
@_rehearsal
@async_command
async def show(run_date: datetime | None, rehearsal: bool) -> None:
    """Print the batch of RUN_DATE as a table, or the newest one, and whether each call is right.

    \b
    Examples:
      alpha-monday show
      alpha-monday show 2026-11-16
    """
    monday = run_date.date() if run_date else None
    if monday:
        calendar.require_monday(monday)
    configuration = settings.load()
    async with open_record(configuration, rehearsal=rehearsal) as pool:
        async with pool.connection() as conn:
            batch = await _find_batch(conn, monday)
        sessions = Calendar(configuration.market_closed_days)
        await tables.show(pool, batch, sessions=sessions, now=clock.now())


async def _find_batch(conn: Conn, monday: date | None) -> Batch:
    """Return the batch of a Monday, or the newest one; raise Refused if there is none."""
    if monday is None:
        batch = await batches.get_newest(conn, SERIES)
        missing = "There is no batch yet."
    else:
        batch = await batches.get_by_run_date(conn, SERIES, monday)
        missing = f"There is no batch of {monday:%Y-%m-%d}."
    if batch is None:
        raise Refused(missing)
    return batch


@click.command("closes")
@click.argument("ticker")
@_rehearsal
@async_command
async def show_closes(ticker: str, rehearsal: bool) -> None:
    """Print every reading of a share's prices and splits; a session can have several readings.

    \b
    Example:
      alpha-monday closes MSFT
    """
    if not ticker.strip():
        raise Refused("TICKER is empty. Name a ticker, for example MSFT.")
    async with open_record(settings.load(), rehearsal=rehearsal) as pool:
        await tables.show_closes(pool, prompt.normalize_ticker(ticker))
