"""`alpha-monday show` and `alpha-monday closes`: the record as tables."""

from datetime import datetime

import click

from app.commands import tables
from app.commands.terminal import DAY, asynchronous, clock, opened
from app.core import settings
from app.domain import calendar, prompt
from app.domain.calendar import Calendar
from app.domain.model import SERIES
from app.errors import Refused
from app.store import batches


@click.command()
@click.argument("run_date", type=DAY, required=False, metavar="[RUN_DATE]")
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="Show the embedded rehearsal's record.")
@asynchronous
async def show(run_date: datetime | None, of_the_rehearsal: bool) -> None:
    """Print a batch as a table: the newest, or that of RUN_DATE. Below it stands whether each call is right.

    \b
    Examples:
      alpha-monday show
      alpha-monday show 2026-11-16
    """
    if run_date:
        calendar.refuse_other_days(run_date.date())
    configuration = settings.load()
    async with opened(configuration, rehearsal=of_the_rehearsal) as pool:
        async with pool.connection() as conn:
            batch = await (batches.on(conn, SERIES, run_date.date()) if run_date else batches.newest(conn, SERIES))
        if batch is None:
            raise Refused(f"There is no batch of {run_date:%Y-%m-%d}." if run_date else "There is no batch yet.")
        await tables.show(pool, batch, Calendar(configuration.market_closed_days), clock.now())


@click.command("closes")
@click.argument("ticker")
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="Show the embedded rehearsal's record.")
@asynchronous
async def show_closes(ticker: str, of_the_rehearsal: bool) -> None:
    """Print every reading of a share's prices and splits; a session that was read differently has several.

    \b
    Example:
      alpha-monday closes MSFT
    """
    if not ticker.strip():
        raise Refused("TICKER is empty. Give one, for example MSFT.")
    async with opened(settings.load(), rehearsal=of_the_rehearsal) as pool:
        await tables.show_closes(pool, prompt.in_one_form(ticker))
