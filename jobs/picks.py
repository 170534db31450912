"""Record that the share of a pick stopped trading (`end`), or has a new ticker (`rename`)."""

from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal

from msgspec import Struct

from app.core import settings
from app.database.pools import Pool, transaction
from app.domain import prompt
from app.domain.calendar import (
    Calendar,
    checkpoint_date,
    due_at,
    latest_price_request_at,
    new_york_date,
    require_monday,
)
from app.domain.declarations import InForce
from app.domain.model import Batch, Ending, Pick, Renaming
from app.domain.returns import format_decimal
from app.domain.text import STATEMENT_RULE, end_sentence, is_publishable
from app.domain.tickers import CloseComparison, TickerHistory, compare_closes
from app.errors import (
    ConfigurationError,
    MissingClose,
    ProviderError,
    Refused,
    TryAgainAt,
    UnknownTicker,
)
from app.store import batches, checkpoints, closes
from app.store import splits as stored_splits
from app.store.rows import Conn
from jobs import daily, prices, splits
from jobs.context import Context

# The refusal of a source that cannot be published.
_SOURCE_RULE = f"--source must say where this is known from, {STATEMENT_RULE}."

# The end of a refusal to rename.
_FORCE_ADVICE = (
    "With --force it is recorded without comparing closes, and later figures of the pick are"
    " marked unusualMove."
)


async def end(
    pool: Pool,
    *,
    calendar: Calendar,
    now: datetime,
    run_date: date,
    ticker: str,
    last_session: date,
    value: Decimal,
    source: str,
    in_force: InForce | None,
    series: str | None = None,
) -> int:
    """
    Record that a pick's share last traded on `last_session`, and its `value` after that.

    Checkpoints of later sessions use the value, and mark the pick as `ended`. `source` names the
    publication in which the operator found the end and the value. `series` is needed only if
    several series have picked the ticker. Return how many skipped
    checkpoints are taken again. Raise Refused if the arguments are not valid for this pick.
    """
    _require_past_session(calendar, last_session, now)
    if not is_publishable(source):
        raise Refused(_SOURCE_RULE)
    async with transaction(pool) as conn:
        batch, pick = await _get_pick(conn, series, run_date=run_date, ticker=ticker)
        if batch.trading_day and last_session < batch.trading_day:
            raise Refused(
                f"{ticker} was priced on {batch.trading_day};"
                f" it cannot have ended on {last_session}."
            )
        ending = Ending(
            pick_id=pick.id, last_session=last_session, value=value, source=source.strip()
        )
        if not await batches.end_pick(conn, pick, ending=ending, at=now, in_force=in_force):
            raise Refused(f"The end of {ticker} is recorded already.")
        return await _defer_retakes(conn, batch, now)


def _require_past_session(calendar: Calendar, last_session: date, now: datetime) -> None:
    """Raise Refused unless `last_session` is a session before today."""
    rule = "--last-session must be a past session of the exchange"
    if not calendar.is_session(last_session):
        raise Refused(f"{rule}; {last_session} is no session.")
    today = new_york_date(now)
    if last_session == today:
        raise Refused(f"{rule}; {last_session} is today in New York.")
    if last_session > today:
        raise Refused(f"{rule}; {last_session} is in the future.")


async def rename(
    context: Context,
    *,
    run_date: date,
    ticker: str,
    new: str,
    from_session: date,
    source: str,
    series: str | None = None,
    force: bool = False,
    report_progress: Callable[[str], None] = lambda line: None,
) -> int:
    """
    Record that a pick's share has the ticker `new` from `from_session` on.

    Earlier entries of the journal keep the old ticker. The last close under the old ticker must fit
    the first one under the new ticker. If the stored closes do not fit, the closes and splits of
    the new ticker are requested from the provider; before that, `report_progress` gets a line for
    the operator. With `force`, the closes are not compared, and the pick's later metrics are marked
    as an `unusual_move`. `source` names the publication in which the operator found the new ticker.
    Return how many skipped checkpoints are taken again. Raise Refused if the arguments are not
    valid for this pick, or if the closes do not fit.
    """
    new_ticker = prompt.parse_ticker(new)
    if new_ticker is None:
        raise Refused(f"{prompt.normalize_ticker(new)[:20]!r} is not a ticker.")
    _require_session_up_to_today(context, from_session)
    if not is_publishable(source):
        raise Refused(_SOURCE_RULE)

    rename_request = _Rename(
        series=series,
        run_date=run_date,
        ticker=ticker,
        new=new_ticker,
        from_session=from_session,
    )
    async with context.pool.connection() as conn:
        batch, pick, tickers = await _check_rename(conn, rename_request)
    if not force:
        await _require_fitting_closes(
            context,
            _ClosesToCompare(
                batch=batch, tickers=tickers, new=new_ticker, from_session=from_session
            ),
            report_progress,
        )
    renaming = Renaming(
        pick_id=pick.id, from_session=from_session, source=source.strip(), forced=force
    )
    now = context.now()
    async with transaction(context.pool) as conn:
        # Check again, because the batch was not locked during the requests and may have changed.
        batch, pick, _ = await _check_rename(conn, rename_request)
        await batches.rename_pick(
            conn,
            pick=pick,
            ticker=new_ticker,
            renaming=renaming,
            at=now,
            in_force=context.in_force,
        )
        return await _defer_retakes(conn, batch, now, first=from_session)


def _require_session_up_to_today(context: Context, from_session: date) -> None:
    """Raise Refused unless `from_session` is a session and not after today."""
    rule = "--from must be a session of the exchange, today's at the latest"
    if not context.calendar.is_session(from_session):
        raise Refused(
            f"{rule}; {from_session} is no session."
            " Give the first session on which the share trades under the new ticker."
        )
    if from_session > new_york_date(context.now()):
        raise Refused(f"{rule}; {from_session} is a later one. Record the new ticker on that day.")


class _Rename(Struct, frozen=True, kw_only=True):
    """The arguments of a rename: the pick by its series, Monday and ticker, and its new ticker."""

    series: str | None
    run_date: date
    ticker: str
    new: str
    from_session: date


async def _check_rename(conn: Conn, rename_request: _Rename) -> tuple[Batch, Pick, TickerHistory]:
    """Return the pick with its batch and tickers. Raise Refused if the rename is not allowed."""
    run_date, new = rename_request.run_date, rename_request.new
    from_session = rename_request.from_session
    batch, pick = await _get_pick(
        conn,
        rename_request.series,
        run_date=run_date,
        ticker=rename_request.ticker,
    )
    histories = await batches.get_tickers(conn, batch.id)
    tickers = histories.pop(pick.id)
    if new == batch.benchmark_symbol:
        raise Refused(f"{new} is the benchmark of {run_date}; no pick can have its ticker.")

    current_tickers = {other.ticker for other in await batches.list_picks(conn, batch.id)}
    is_of_another = any(other.has_ticker_since(new, from_session) for other in histories.values())
    if new in current_tickers or is_of_another:
        raise Refused(f"{new} is in the batch of {run_date} already.")
    if batch.trading_day and from_session <= batch.trading_day:
        raise Refused(
            f"--from must be after {batch.trading_day}, the session at whose close {pick.ticker}"
            f" was priced; {from_session} is not."
        )
    if from_session <= tickers.renamed_from:
        raise Refused(
            f"--from must be after {tickers.renamed_from}, the first session of the ticker"
            f" {pick.ticker}; {from_session} is not."
        )
    ending = (await batches.get_endings(conn, batch.id)).get(pick.id)
    if ending and from_session > ending.last_session:
        raise Refused(
            f"{pick.ticker} ended on {ending.last_session}; it cannot have another ticker from"
            f" {from_session} on."
        )
    return batch, pick, tickers


class _ClosesToCompare(Struct, frozen=True, kw_only=True):
    """
    Which closes are compared for a rename.

    Under `tickers`, they are the closes of the sessions before `from_session`. Under `new`, they
    are those of `from_session`, of all later sessions, and of the one session before it: the
    provider may list earlier sessions of the share under the new ticker, too (see
    `compare_closes`).
    """

    batch: Batch
    tickers: TickerHistory
    new: str
    from_session: date


async def _require_fitting_closes(
    context: Context, selection: _ClosesToCompare, report_progress: Callable[[str], None]
) -> None:
    """Raise Refused if the closes under the new ticker do not fit those under the old one."""
    new, from_session = selection.new, selection.from_session
    try:
        comparison = await _request_until_they_fit(context, selection, report_progress)
    except UnknownTicker:
        raise Refused(
            f"Alpha Vantage does not know {new}. Check the ticker, or try again when it is listed."
            f" {_FORCE_ADVICE}"
        ) from None
    except ConfigurationError as error:
        # This message does not say "try again", because the same request would fail again.
        reason = end_sentence(str(error))
        raise Refused(f"The closes of {new} could not be read: {reason} {_FORCE_ADVICE}") from None
    except (ProviderError, TryAgainAt) as error:
        reason = end_sentence(str(error))
        raise Refused(
            f"The closes of {new} could not be read: {reason} Try again later. {_FORCE_ADVICE}"
        ) from None
    if comparison.fits:
        return

    old, first = comparison.old, comparison.first
    old_close = f"{old.ticker} closed at {format_decimal(old.close)} on {old.trading_day}"
    if first is None:
        raise Refused(
            f"{new} has no close from {from_session} on yet, and {old_close}. Try again after the"
            f" close of {from_session}, or give the session from which {new} trades."
            f" {_FORCE_ADVICE}"
        )
    raise Refused(
        f"{new} closed at {format_decimal(first.close)} on {first.trading_day}, but {old_close}:"
        f" these do not fit. Check the ticker and the session. {_FORCE_ADVICE}"
    )


async def _request_until_they_fit(
    context: Context, selection: _ClosesToCompare, report_progress: Callable[[str], None]
) -> CloseComparison:
    """
    Compare the stored closes of the old and the new ticker.

    If they do not fit, request the closes of the new ticker and compare again. If they still do not
    fit, request its splits and compare again.
    """
    new, from_session = selection.new, selection.from_session
    comparison = await _compare_stored(context, selection)
    if comparison.fits:
        return comparison

    settings.require_price_key(context.prices.key)
    report_progress(
        f"Asking Alpha Vantage for {new}. (If it does not know {new}, this takes some minutes.)"
    )
    for session in (from_session, context.calendar.session_before(from_session)):
        if not comparison.fits:
            with suppress(MissingClose):
                await prices.fetch_closes(context, [new], session)
            comparison = await _compare_stored(context, selection)
    if not comparison.fits and comparison.first:
        # A rename often comes with a split.
        await splits.refresh_before_renaming(
            context,
            batch=selection.batch,
            ticker=new,
            since=due_at(comparison.first.trading_day, 1),
            needed_since=latest_price_request_at(context.now()),
        )
        comparison = await _compare_stored(context, selection)
    return comparison


async def _compare_stored(context: Context, selection: _ClosesToCompare) -> CloseComparison:
    """Compare the stored closes, with the stored splits of the new ticker."""
    assert selection.batch.trading_day
    before = context.calendar.session_before(selection.from_session)
    new_tickers = TickerHistory.unchanged(selection.new)
    async with context.pool.connection() as conn:
        old_closes = await closes.list_newest(
            conn, selection.tickers, first=selection.batch.trading_day, last=before
        )
        new_closes = await closes.list_newest(conn, new_tickers, first=before, last=date.max)
        factors = await stored_splits.list_in_force(conn, new_tickers)
    return compare_closes(
        old_closes, new_closes, factors=factors, from_session=selection.from_session
    )


async def _get_pick(
    conn: Conn, series: str | None, *, run_date: date, ticker: str
) -> tuple[Batch, Pick]:
    """
    Lock a Monday's batch. Return it and one of its picks.

    Without `series`, the batches of all series are searched. Raise Refused if the batch or the pick
    is missing, or if several series have picked the ticker.
    """
    require_monday(run_date)
    ticker = prompt.normalize_ticker(ticker)
    of_monday = await batches.list_by_run_date(conn, run_date)
    if series is not None:
        of_monday = [batch for batch in of_monday if batch.series == series]
    if not of_monday:
        raise Refused(f"There is no batch of {run_date}{_of_series(series)}.")
    found: list[Batch] = []
    tickers: list[str] = []
    for batch in of_monday:
        of_batch = [pick.ticker for pick in await batches.list_picks(conn, batch.id)]
        tickers += of_batch
        if ticker in of_batch:
            found.append(batch)
    if not found:
        known = ", ".join(dict.fromkeys(tickers)) or "none"
        raise Refused(f"{ticker} is no pick of {run_date}{_of_series(series)}; its picks: {known}.")
    if len(found) > 1:
        names = ", ".join(batch.series for batch in found)
        raise Refused(
            f"Several series have picked {ticker} on {run_date}: {names}. Name one with --series, "
            "and repeat the command for each of them."
        )
    # A job that is storing a checkpoint has already read the picks. Without the lock, its journal
    # entry with the old state of the picks could follow the entry about the caller's change.
    batch = await batches.lock_for_update(conn, found[0].id)
    for pick in await batches.list_picks(conn, batch.id):
        if pick.ticker == ticker:
            return batch, pick
    raise Refused(f"{ticker} was renamed at this moment. Repeat the command.")


def _of_series(series: str | None) -> str:
    return f" of the series {series}" if series is not None else ""


async def _defer_retakes(conn: Conn, batch: Batch, now: datetime, *, first: date = date.min) -> int:
    """
    Defer a retake of each skipped checkpoint whose session is `first` or later.

    Return how many were deferred.
    """
    # The listed checkpoints follow a session: their session is the day before their date. So those
    # with a date after `first` count.
    skipped = [
        due
        for due in await checkpoints.list_skipped(conn, batch.id)
        if checkpoint_date(due.run_date, due.day) > first
    ]
    await daily.defer_retakes(conn, skipped, now.isoformat())
    return len(skipped)
