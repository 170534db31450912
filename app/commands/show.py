"""`alpha-monday show` and `alpha-monday closes`: the record as tables."""

from datetime import date, datetime

import click

from app.commands import tables
from app.commands.series import list_recorded, series_option
from app.commands.terminal import DAY, async_command, clock, open_record, rehearsal_option
from app.core import settings
from app.domain import calendar, prompt
from app.domain.calendar import Calendar
from app.domain.model import Batch
from app.errors import Refused
from app.store import batches
from app.store.rows import Conn

_rehearsal = rehearsal_option("Show the record of the embedded rehearsal.")


@click.command()
@click.argument("run_date", type=DAY, required=False, metavar="[RUN_DATE]")
@series_option("Only the batch of this series.")
@_rehearsal
@async_command
async def show(run_date: datetime | None, series: str | None, rehearsal: bool) -> None:
    """Print the batch of RUN_DATE as a table, or the newest one, and whether each call is right.

    If several series have a batch of that Monday, all of them are printed.

    \b
    Examples:
      alpha-monday show
      alpha-monday show 2026-11-16
      alpha-monday show 2026-11-16 --series claude
    """
    monday = run_date.date() if run_date else None
    if monday:
        calendar.require_monday(monday)
    configuration = settings.load()
    async with open_record(configuration, rehearsal=rehearsal) as pool:
        async with pool.connection() as conn:
            found = await _find_batches(conn, monday, series)
        sessions = Calendar(configuration.market_closed_days)
        for number, batch in enumerate(found):
            if number:
                click.echo()
            await tables.show(pool, batch, sessions=sessions, now=clock.now())


async def _find_batches(conn: Conn, monday: date | None, series: str | None) -> list[Batch]:
    """
    Return the batches of a Monday, or those of the newest one, of all series or of one.

    Raises Refused if there is none.
    """
    names = await list_recorded(conn, series)
    if monday is None and series is not None:
        newest = await batches.get_newest(conn, series)
        monday = newest.run_date if newest else None
    elif monday is None:
        monday = await batches.get_newest_run_date(conn)
    if monday is None:
        raise Refused("There is no batch yet.")
    found = [
        batch for batch in await batches.list_by_run_date(conn, monday) if batch.series in names
    ]
    if not found:
        of_series = f" of the series {series}" if series is not None else ""
        raise Refused(f"There is no batch of {monday:%Y-%m-%d}{of_series}.")
    return found


@click.command("closes")
@click.argument("ticker")
@_rehearsal
@async_command
async def show_closes(ticker: str, rehearsal: bool) -> None:
    """Print every reading of a share's prices, splits and dividends.

    A session can have several readings.

    \b
    Example:
      alpha-monday closes MSFT
    """
    if not ticker.strip():
        raise Refused("TICKER is empty. Name a ticker, for example MSFT.")
    async with open_record(settings.load(), rehearsal=rehearsal) as pool:
        await tables.show_closes(pool, prompt.normalize_ticker(ticker))
