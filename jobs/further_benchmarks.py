"""
Further benchmarks: when their prices and splits are requested, and when they are measured.

Nothing else needs them. So they are requested once a week, on Sunday, and only if the day's quota
has room: one request for the closes and one for the splits of each. One response has the closes of
some twenty weeks, so a Sunday without a response costs nothing, as long as a later one comes. A
failure is logged, and the requests are repeated the next day, until the next Sunday.

A further benchmark of a batch is measured as soon as the batch is completed, the closes of its
baseline session and of its result were read, and its splits were requested after the session of
the result. A missing price delays nothing else.

Reconciliation defers the job of each Sunday.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from uuid import UUID

import structlog
from structlog.contextvars import bind_contextvars

from app.core.availability import is_unavailable
from app.database.pools import transaction
from app.domain import calendar, further_benchmarks
from app.domain.further_benchmarks import Prices
from app.domain.model import BatchStatus
from app.domain.tickers import TickerHistory
from app.errors import AlphaMondayError, TryAgainAt
from app.providers.alpha_vantage import SPLITS, BarsAnswer
from app.store import batches, checkpoints, closes, declarations
from app.store import further_benchmarks as store
from app.store import splits as split_store
from app.store.further_benchmarks import Awaited
from app.store.rows import Conn
from jobs import prices, request_budget, splits, weekly_requests
from jobs.context import Context
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

# Half an hour after the requests of late splits, and half an hour before that of the rates.
_REQUEST_TIME = time(10, 30)
# A class of shares has two spellings, so its second attempt may succeed. More attempts would use up
# requests, and the next day has others.
_MAX_ATTEMPTS = 2
# A further benchmark that is no longer configured is still requested for this long after the Monday
# of a batch that it was measured for: some splits are listed late.
_SPLITS_FOR = timedelta(days=max(calendar.LATE_SPLIT_CHECK_DAYS) + 7)
_WEEK = timedelta(weeks=1)
_DAY = timedelta(days=1)


@app.task(name="read_benchmarks", retry=RetryPolicy())
async def read_benchmarks(sunday: str) -> None:
    """Request what further benchmarks need. The job runs on that Sunday or later in the week."""
    await refresh(current_context(), date.fromisoformat(sunday))


async def list_symbols(conn: Conn, *, configured: Sequence[str], now: datetime) -> list[str]:
    """
    Return the further benchmarks whose prices and splits are requested once a week.

    `configured` are those of the setting BENCHMARKS; they come first, in their order. Those that
    batches still wait for follow, and those of recent rows. A record that is not sealed has none.
    Each of them needs two requests a week.
    """
    if not await declarations.is_sealed(conn):
        return []
    symbols = dict.fromkeys(configured)
    symbols |= dict.fromkeys(one.symbol for one in await _list_awaited(conn, now))
    since = calendar.new_york_date(now) - _SPLITS_FOR
    symbols |= dict.fromkeys(sorted(await store.list_symbols_since(conn, since)))
    return list(symbols)


async def refresh(context: Context, sunday: date) -> None:
    """
    Request the prices and splits of all further benchmarks, and measure what can be measured.

    What was requested since the Sunday is not requested again. Raise TryAgainAt for the next day if
    too few requests of the quota are left, or if the provider does not return what is needed. When
    the week that begins on the Sunday is over, return without a request.
    """
    bind_contextvars(step="benchmarks")
    begins_at = weekly_requests.begins_at(sunday, _REQUEST_TIME)
    now = context.now()
    # The job may have been deferred by a process whose clock is ahead of this process's clock.
    if now < begins_at:
        raise TryAgainAt("The further benchmarks of this Sunday are requested later.", begins_at)
    if now >= weekly_requests.begins_at(sunday + _WEEK, _REQUEST_TIME):
        log.info("the week for further benchmarks is over")
        return
    async with context.pool.connection() as conn:
        symbols = await list_symbols(conn, configured=context.in_force.further_benchmarks, now=now)
    tomorrow = calendar.from_new_york(calendar.new_york_date(now) + _DAY, _REQUEST_TIME)
    # Each day begins with another one: the requests that are left may not be enough for all.
    first = (calendar.new_york_date(now) - sunday).days % max(1, len(symbols))
    problem = ""
    for symbol in (*symbols[first:], *symbols[:first]):
        problem = await _refresh_symbol(context, symbol, since=begins_at) or problem
    await measure_due(context)
    if problem:
        raise TryAgainAt(problem, tomorrow)


async def _refresh_symbol(context: Context, symbol: str, *, since: datetime) -> str:
    """
    Request the closes and the splits of a symbol, unless they were requested after `since`.

    Return why something is missing; an empty text if nothing is. TryAgainAt passes to the caller.
    """
    today = calendar.from_new_york(calendar.new_york_date(context.now()), time())
    try:
        for request in (_request_closes, _request_splits):
            async with context.pool.connection() as conn:
                spare = await request_budget.count_spare(conn, context)
            if spare < 1:
                return "The day's quota is reserved for requests that cannot wait."
            await request(
                context,
                symbol,
                since=since,
                needed_since=today,
                max_attempts=min(spare, _MAX_ATTEMPTS),
            )
    except TryAgainAt:
        raise
    except AlphaMondayError as error:
        log.warning("further benchmark not read", ticker=symbol, reason=str(error))
        return "The provider did not return what the further benchmarks need."
    return ""


async def _request_closes(
    context: Context, symbol: str, *, since: datetime, needed_since: datetime, max_attempts: int
) -> None:
    answer = await context.prices.bars(symbol, since, needed_since, max_attempts=max_attempts)
    if not isinstance(answer, BarsAnswer):
        return
    now = context.now()
    async with context.pool.connection() as conn:
        awaited = await _list_awaited(conn, now)
    baselines = [
        one.batch.trading_day
        for one in awaited
        if one.symbol == symbol and one.batch.trading_day is not None
    ]
    await prices.store_answer(
        context,
        symbol,
        answer=answer,
        session=context.calendar.session_before(calendar.new_york_date(now)),
        also_since=min(baselines, default=date.max),
    )


async def _request_splits(
    context: Context, symbol: str, *, since: datetime, needed_since: datetime, max_attempts: int
) -> None:
    await splits.refresh(
        context, symbol, since=since, needed_since=needed_since, max_attempts=max_attempts
    )


async def measure_after_checkpoint(context: Context, batch_id: UUID) -> None:
    """
    Measure the further benchmarks of a batch, if its last checkpoint was just taken.

    No error except an unavailable database reaches the caller: the checkpoint is stored already,
    and what is missing here is measured on the next Sunday.
    """
    try:
        await measure_due(context, batch_id)
    except Exception as error:
        if is_unavailable(error):
            raise
        log.exception("further benchmarks not measured")


async def measure_due(context: Context, batch_id: UUID | None = None) -> int:
    """
    Measure the further benchmarks whose prices are known, of one batch or of all.

    Return how many were measured.
    """
    async with context.pool.connection() as conn:
        awaited = await _list_awaited(conn, context.now())
    measured = 0
    for one in awaited:
        is_asked_for = batch_id in (None, one.batch.id)
        if is_asked_for and one.batch.status is BatchStatus.COMPLETED:
            measured += await _measure(context, one)
    return measured


async def _list_awaited(conn: Conn, now: datetime) -> list[Awaited]:
    return await store.list_awaited(conn, further_benchmarks.oldest_awaited(now))


async def _measure(context: Context, awaited: Awaited) -> bool:
    """Measure one further benchmark of a completed batch. Return False if something is missing."""
    symbol = awaited.symbol
    async with transaction(context.pool) as conn:
        # A response with splits that is being stored locks the batch, too.
        batch = await batches.lock_for_update(conn, awaited.batch.id)
        assert batch.trading_day, "a batch with picks has a baseline"
        result = await checkpoints.get_result(conn, batch)
        if result is None or result.trading_day is None:
            return False
        initial = await closes.get_newest(conn, symbol, batch.trading_day)
        close = await closes.get_newest(conn, symbol, result.trading_day)
        has_splits = await context.prices.ledger.has_answer_since(
            conn,
            SPLITS,
            symbol=symbol,
            since=further_benchmarks.splits_asked_from(result.trading_day),
        )
        if initial is None or close is None or not has_splits:
            return False
        known = Prices(
            initial=initial,
            close=close,
            in_force=await split_store.list_in_force(conn, TickerHistory.unchanged(symbol)),
        )
        row = further_benchmarks.measure(
            batch,
            result,
            symbol=symbol,
            position=awaited.position,
            prices=known,
            at=context.now(),
        )
        is_stored = await store.insert(
            conn,
            row,
            closes=[initial, close],
            splits=known.counted,
            in_force=context.in_force,
        )
    if is_stored:
        log.info(
            "further benchmark measured",
            ticker=symbol,
            run_date=str(batch.run_date),
            session=str(row.trading_day),
            return_pct=f"{row.further_return_pct:.2f}",
        )
    return is_stored


async def defer_due(conn: Conn, context: Context) -> int:
    """
    Defer the job of the newest Sunday, if it is missing and there is a further benchmark to read.

    Return how many jobs were deferred.
    """
    now = context.now()
    sunday = weekly_requests.newest_sunday(now, _REQUEST_TIME)
    first = await batches.first_baseline(conn)
    # The first Sunday is the one after the first Monday.
    if first is None or sunday < first + _WEEK:
        return 0
    configured = context.in_force.further_benchmarks
    if not await list_symbols(conn, configured=configured, now=now):
        return 0
    return await weekly_requests.defer(conn, read_benchmarks, sunday=sunday, now=now)
