"""What a person records of a pick whose share stopped trading, or trades under another ticker."""

from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal

from app.core import settings
from app.database.pools import Pool, transaction
from app.domain import prompt
from app.domain.calendar import Calendar, asked_since, checkpoint_date, due_at, refuse_other_days, today
from app.domain.model import SERIES, Batch, Ending, Pick, Renaming
from app.domain.returns import plain
from app.domain.text import STATED, as_sentence, is_statement
from app.domain.tickers import Fit, Tickers, fit
from app.errors import ConfigurationError, MissingClose, ProviderError, Refused, TryAgainAt, UnknownTicker
from app.store import batches, checkpoints, closes
from app.store import splits as store_of_splits
from app.store.rows import Conn
from jobs import daily, prices, splits
from jobs.context import Context


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
    wanted = "--last-session must be a past session of the exchange"
    if not calendar.is_session(last_session):
        raise Refused(f"{wanted}; {last_session} is no session.")
    if last_session >= today(at):
        when = "today in New York" if last_session == today(at) else "to come"
        raise Refused(f"{wanted}; {last_session} is {when}.")
    if not is_statement(source):
        raise Refused(f"--source must say where this is known from, {STATED}.")
    async with transaction(pool) as conn:
        batch, pick = await _found(conn, run_date, ticker)
        if batch.trading_day and last_session < batch.trading_day:
            raise Refused(f"{ticker} was priced on {batch.trading_day}; it cannot have ended on {last_session}.")
        ending = Ending(pick_id=pick.id, last_session=last_session, value=value, source=source.strip())
        if not await batches.end_pick(conn, pick, ending, at):
            raise Refused(f"What became of {ticker} is recorded already.")
        return await _look_again(conn, batch, at)


async def rename(
    tools: Context,
    run_date: date,
    ticker: str,
    new: str,
    from_session: date,
    source: str,
    *,
    force: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """
    Follow a pick's share to the ticker that it has from `from_session` on, as `source` says; the journal keeps the old.

    The closes under both tickers must fit around that session; what is not stored is asked for. With `force` they are
    not compared, and the pick's later metrics are marked `unusual_move`. `tell` is told what is asked for, before it
    is. Returns how many skipped days are looked at again. Raises Refused.
    """
    new_ticker = prompt.as_ticker(new)
    if new_ticker is None:
        raise Refused(f"{prompt.in_one_form(new)[:20]!r} is not a ticker.")
    wanted = "--from must be a session of the exchange, today's at the latest"
    give = "Give the first session on which the share trades under the new ticker."
    if not tools.calendar.is_session(from_session):
        raise Refused(f"{wanted}; {from_session} is no session. {give}")
    if from_session > today(tools.now()):
        raise Refused(f"{wanted}; {from_session} is a later one. Record the new ticker on that day.")
    if not is_statement(source):
        raise Refused(f"--source must say where this is known from, {STATED}.")
    async with tools.pool.connection() as conn:
        batch, pick, share = await _to_be_renamed(conn, run_date, ticker, new_ticker, from_session)
    if not force:
        await _compare(tools, batch, share, new_ticker, from_session, tell)
    renaming = Renaming(pick_id=pick.id, from_session=from_session, source=source.strip(), forced=force)
    at = tools.now()
    async with transaction(tools.pool) as conn:
        batch, pick, _ = await _to_be_renamed(conn, run_date, ticker, new_ticker, from_session)
        await batches.rename_pick(conn, pick, new_ticker, renaming, at)
        return await _look_again(conn, batch, at, from_session)


async def _to_be_renamed(
    conn: Conn, run_date: date, ticker: str, new: str, from_session: date
) -> tuple[Batch, Pick, Tickers]:
    """Return a pick with its batch and the tickers that it has and had. Raises Refused if the new one cannot follow."""
    batch, pick = await _found(conn, run_date, ticker)
    shares = await batches.tickers_of(conn, batch.id)
    share = shares.pop(pick.id)
    if new == batch.benchmark_symbol:
        raise Refused(f"{new} is the benchmark of {run_date}; no pick can have its ticker.")
    present = {other.ticker for other in await batches.picks_of(conn, batch.id)}
    if new in present or any(other.reaches(new, from_session) for other in shares.values()):
        raise Refused(f"{new} stands in the batch of {run_date} already.")
    if batch.trading_day and from_session <= batch.trading_day:
        raise Refused(
            f"--from must be after {batch.trading_day}, the session at whose close {pick.ticker} was priced; "
            f"{from_session} is not."
        )
    if from_session <= share.since:
        raise Refused(
            f"--from must be after {share.since}, from which {pick.ticker} has its ticker; {from_session} is not."
        )
    ending = (await batches.endings_of(conn, batch.id)).get(pick.id)
    if ending and from_session > ending.last_session:
        raise Refused(
            f"{pick.ticker} ended on {ending.last_session}; it cannot have another ticker from {from_session} on."
        )
    return batch, pick, share


async def _compare(
    tools: Context, batch: Batch, share: Tickers, new: str, from_session: date, tell: Callable[[str], None]
) -> None:
    """Refuse a new ticker whose closes do not fit those under the old one, asking for what is not stored."""
    try:
        found = await _asked_until_they_fit(tools, batch, share, new, from_session, tell)
    except UnknownTicker:
        raise Refused(
            f"Alpha Vantage does not know {new}. Check the ticker, or try again when it is listed. {_FORCE}"
        ) from None
    except ConfigurationError as error:  # trying again is no use
        raise Refused(f"The closes of {new} could not be read: {as_sentence(str(error))} {_FORCE}") from None
    except (ProviderError, TryAgainAt) as error:
        raise Refused(
            f"The closes of {new} could not be read: {as_sentence(str(error))} Try again later. {_FORCE}"
        ) from None
    if found.fits:
        return
    old = f"{found.old.ticker} closed at {plain(found.old.close)} on {found.old.trading_day}"
    if found.first is None:
        raise Refused(
            f"{new} has no close from {from_session} on yet, and {old}. Try again after the close of {from_session}, "
            f"or give the session from which {new} trades. {_FORCE}"
        )
    raise Refused(
        f"{new} closed at {plain(found.first.close)} on {found.first.trading_day}, but {old}: that is no fit. "
        f"Check the ticker and the session. {_FORCE}"
    )


_FORCE = "With --force it is recorded without comparing closes, and later figures of the pick are marked unusualMove."


async def _asked_until_they_fit(
    tools: Context, batch: Batch, share: Tickers, new: str, from_session: date, tell: Callable[[str], None]
) -> Fit:
    """Return whether the closes under two tickers fit; while the stored ones do not, ask for more."""
    found = await _stored(tools, batch, share, new, from_session)
    if not found.fits:
        settings.refuse_without_price_key(tools.prices.key)
        tell(f"Asking Alpha Vantage for {new}. (If it does not know {new}, this takes some minutes.)")
    for session in (from_session, tools.calendar.session_before(from_session)):
        if not found.fits:
            with suppress(MissingClose):
                await prices.closes_of(tools, [new], session)
            found = await _stored(tools, batch, share, new, from_session)
    if not found.fits and found.first:
        # A rename often comes with a split.
        since = due_at(found.first.trading_day, 1)
        await splits.look_before_renaming(tools, batch, new, since, asked_since(tools.now()))
        found = await _stored(tools, batch, share, new, from_session)
    return found


async def _stored(tools: Context, batch: Batch, share: Tickers, new: str, from_session: date) -> Fit:
    """Return whether what is stored under two tickers fits."""
    assert batch.trading_day
    async with tools.pool.connection() as conn:
        before = tools.calendar.session_before(from_session)
        old = await closes.path(conn, share, batch.trading_day, before)
        under_new = await closes.path(conn, Tickers.only(new), before, date.max)
        factors = await store_of_splits.of(conn, Tickers.only(new))
    return fit(old, under_new, factors, from_session)


async def _found(conn: Conn, run_date: date, ticker: str) -> tuple[Batch, Pick]:
    refuse_other_days(run_date)
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


async def _look_again(conn: Conn, batch: Batch, at: datetime, first: date = date.min) -> int:
    """Put a job for each skipped day into the queue whose session is not before `first`; return how many."""
    skipped = [
        due for due in await checkpoints.skipped(conn, batch.id) if checkpoint_date(due.run_date, due.day) > first
    ]
    await daily.defer_retakes(conn, skipped, at.isoformat())
    return len(skipped)
