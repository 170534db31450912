"""What a person records of a pick whose share stopped trading, or trades under another ticker."""

from datetime import date, datetime
from decimal import Decimal

from app.database.pools import Pool, transaction
from app.domain import prompt
from app.domain.calendar import Calendar, today
from app.domain.model import SERIES, Batch, Ending, Pick
from app.domain.text import storable
from app.errors import Refused
from app.store import batches, checkpoints
from app.store.rows import Conn
from jobs import daily


async def end(
    pool: Pool,
    calendar: Calendar,
    at: datetime,
    run_date: date,
    ticker: str,
    last_session: date,
    value: Decimal,
    source: str,
) -> int:
    """
    Record that a pick's share last traded on `last_session` and was worth `value` from then on, as `source` says.

    Later days use the value, marked `ended`. Returns how many skipped days are looked at again. Raises Refused.
    """
    if not calendar.is_session(last_session) or last_session >= today(at):
        raise Refused(f"--last-session must be a past session of the exchange; {last_session} is none.")
    if not source.strip() or storable(source) != source:
        raise Refused("--source must say where this is known from, in plain text.")
    async with transaction(pool) as conn:
        batch, pick = await _found(conn, run_date, ticker)
        if batch.trading_day and last_session < batch.trading_day:
            raise Refused(f"{ticker} was priced on {batch.trading_day}; it cannot have ended on {last_session}.")
        ending = Ending(pick_id=pick.id, last_session=last_session, value=value, source=source.strip())
        if not await batches.end_pick(conn, pick, ending, at):
            raise Refused(f"What became of {ticker} is recorded already.")
        return await _look_again(conn, batch, at)


async def rename(pool: Pool, at: datetime, run_date: date, ticker: str, new: str) -> int:
    """
    Follow a pick's share to its new ticker; the journal keeps the old one.

    Returns how many skipped days are looked at again. Raises Refused.
    """
    new_ticker = prompt.as_ticker(new)
    if new_ticker is None:
        raise Refused(f"{prompt.in_one_form(new)[:20]!r} is not a ticker.")
    async with transaction(pool) as conn:
        batch, pick = await _found(conn, run_date, ticker)
        taken = {other.ticker for other in await batches.picks_of(conn, batch.id)}
        if new_ticker in {batch.benchmark_symbol, *taken}:
            raise Refused(f"{new_ticker} stands in the batch of {run_date} already.")
        await batches.rename_pick(conn, pick, new_ticker, at)
        return await _look_again(conn, batch, at)


async def _found(conn: Conn, run_date: date, ticker: str) -> tuple[Batch, Pick]:
    batch = await batches.on(conn, SERIES, run_date)
    if batch is None:
        raise Refused(f"There is no batch of {run_date}.")
    # A morning that is being stored has read the picks: the journal's last word on them must not be its.
    await batches.hold(conn, batch.id)
    ticker = prompt.in_one_form(ticker)
    picks = await batches.picks_of(conn, batch.id)
    if pick := next((pick for pick in picks if pick.ticker == ticker), None):
        return batch, pick
    known = ", ".join(pick.ticker for pick in picks) or "none"
    raise Refused(f"{ticker} is no pick of {run_date}; its picks: {known}.")


async def _look_again(conn: Conn, batch: Batch, at: datetime) -> int:
    skipped = await checkpoints.skipped(conn, batch.id)
    await daily.defer_retakes(conn, skipped, at.isoformat())
    return len(skipped)
