"""`alpha-monday show` and `alpha-monday closes`: the record as tables."""

from datetime import date, datetime
from importlib.metadata import version

import click

from api.damage import ADVICE, BEGINNING
from api.engine import Engine
from api.schema import Facts, schema
from app.commands import tables
from app.commands.terminal import DAY, asynchronous, clock, opened
from app.core import settings
from app.database.pools import Pool
from app.database.queries import standing
from app.domain import calendar, prompt
from app.domain.calendar import Calendar
from app.domain.model import SERIES
from app.errors import VERIFY, RecordDamaged, Refused
from app.store import batches
from app.web.formatting import TOO_LARGE

# What is printed of a Monday, as the API has it.
_SHOWN = """query ($runDate: Date!, $series: String!) { batchOn(runDate: $runDate, series: $series) {
    status late failureReason failure benchmarkSymbol benchmarkInitialPrice result { day }
    picks { ticker pickedAs action initialPrice result { hit } }
    checkpoints {
        day checkpointDate tradingDay status skipReason note skippedAt benchmarkPrice benchmarkSplitFactor
        benchmarkReturnPct benchmarkUnusualMove
        metrics { currentPrice splitFactor absoluteReturnPct vsBenchmarkPct hit unusualMove ended renamed close { id } }
    } } }"""


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
        await refuse_damaged(pool, batch.run_date)
        try:
            await tables.show(pool, batch, Calendar(configuration.market_closed_days), clock.now())
        except TOO_LARGE:
            raise RecordDamaged(f"{BEGINNING}{batch.run_date} has a number too large to be shown. {VERIFY}") from None


async def refuse_damaged(pool: Pool, run_date: date) -> None:
    """Refuse a Monday that the API calls damaged: what is printed of it must not look whole."""
    async with standing(pool) as fetch:
        facts = Facts(version("alpha-monday"), rehearsed=False, now=clock.now)
        engine = Engine(schema, fetch, facts, kept=1, quiet=True)
        answer = await engine.answer(_SHOWN, {"runDate": str(run_date), "series": SERIES})
    if answer.damaged:
        raise RecordDamaged(answer.damaged.replace(ADVICE, VERIFY))


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
