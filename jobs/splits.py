"""
Splits: when they are requested from the provider, and how changes are stored.

A ticker's splits are requested

- before a checkpoint is measured, if a price moved by ten percent or more from one session to the
  next, or if the provider has changed a close;
- on the two Sundays of a batch's fortnight, as far as the quota has room;
- later in the weeks that begin on these Sundays, and on two Sundays after the fortnight
  (`jobs/late_splits.py`);
- before a rename to that ticker is recorded, if its closes do not fit those of the old ticker
  without a split (`jobs/picks.py`).

If a ticker's splits change, all figures that were computed without the change are corrected.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import structlog
from msgspec import Struct

from app.database.pools import transaction
from app.domain import calendar, splits
from app.domain.declarations import ProviderResponse, ResponseKind
from app.domain.further_benchmarks import oldest_awaited
from app.domain.measurement import ShareHistory
from app.domain.model import Batch, Close, Pick, Split
from app.domain.returns import ONE, format_decimal
from app.domain.tickers import TickerHistory
from app.errors import AlphaMondayError, ProviderError, ProviderUnavailable, TryAgainAt
from app.providers.alpha_vantage import SPLITS, SPLITS_SOURCE, SplitsAnswer
from app.providers.alpha_vantage_answers import ListedSplit
from app.providers.rate_limiter import RequestOutcome, UnreadableRow
from app.store import batches, further_benchmarks, journal, share_histories
from app.store import splits as store
from app.store.rows import Conn
from jobs import corrections, request_budget
from jobs.context import Context
from jobs.prices import log_unreadable

log = structlog.get_logger()

# Seconds between two requests for the same splits, if the first answer no longer lists a known
# split. The split counts as withdrawn only if the second answer does not list it either.
_SECOND_ANSWER_AFTER = 61.0


class NeededDays(Struct, frozen=True):
    """The days whose splits a figure needs: after the day `after`, up to `through` inclusive."""

    after: date
    through: date


async def refresh_before_measuring(
    context: Context,
    *,
    batch: Batch,
    picks: Sequence[Pick],
    closes_by_ticker: Mapping[str, Close],
    needed_since: datetime,
) -> None:
    """
    Request the splits that are needed before the closes of `closes_by_ticker` are measured.

    `_required_requests` says which tickers need a request. Errors of the provider are raised, so
    that no figure is computed without a split that it may need. But an error about the old ticker
    of a renamed share is only logged.
    """
    assert batch.trading_day, "a batch that is measured has a baseline"
    session = closes_by_ticker[batch.benchmark_symbol].trading_day
    histories: dict[str, ShareHistory] = {}
    requests: dict[str, dict[str, datetime]] = {}
    async with context.pool.connection() as conn:
        for history in (await share_histories.for_picks(conn, batch, picks)).values():
            histories[history.tickers.ticker_on(session)] = history
        histories[batch.benchmark_symbol] = await share_histories.for_benchmark(conn, batch)
        for ticker, close in closes_by_ticker.items():
            # A pick may have been renamed after its close was read. Then `histories` does not have
            # the old ticker, and this attempt ends without figures. The next attempt uses the new
            # ticker.
            if ticker in histories:
                history = histories[ticker].with_used(close)
                requests[ticker] = await _required_requests(
                    conn, batch, history=history, close=close
                )

    for ticker, times in requests.items():
        renamed_after = histories[ticker].tickers.period(session).before
        needed = NeededDays(
            after=max(batch.trading_day, renamed_after),
            through=splits.basis_date(closes_by_ticker[ticker].source, session),
        )
        for name, since in times.items():
            try:
                await refresh(context, name, since=since, needed_since=needed_since, needed=needed)
            except ProviderError as error:
                if name == ticker:
                    raise
                # The provider may no longer know the old ticker of a renamed share. Then the figure
                # is computed without new splits of that ticker, and a move that such a split would
                # explain is marked as unusual.
                log.warning("splits not read", ticker=name, reason=str(error))


async def _required_requests(
    conn: Conn, batch: Batch, *, history: ShareHistory, close: Close
) -> dict[str, datetime]:
    """
    Return the tickers whose splits must be requested before `close` is measured.

    The value of a ticker is a time: no request is needed if its splits were already requested after
    that time. There are two reasons for a request:

    - The price moved by ten percent or more from one session to the next, according to the used
      or the newest readings. Then the time is 09:00 on the day after the second of these sessions,
      and the ticker is the one that the share had in the second session.
    - The provider has changed a close. Then the time is that of the changed reading.
    """
    used = splits.price_path(history.used.values(), history.newest)
    moves = {*splits.suspicious_sessions(history.newest), *splits.suspicious_sessions(used)}
    times: dict[str, datetime] = {}
    for session in sorted(moves):
        if session <= close.trading_day:
            times[history.tickers.ticker_on(session)] = calendar.due_at(session, 1)

    readings = await share_histories.list_readings(conn, batch, close.ticker)
    changed_at = splits.last_changed_reading_at(readings)
    if changed_at:
        times[close.ticker] = max(changed_at, times.get(close.ticker, changed_at))
    return times


async def refresh_on_sunday(
    context: Context, batch: Batch, *, tickers: Sequence[str], day: int
) -> list[str]:
    """
    Request the splits of a batch's tickers on a Sunday of its fortnight: `day` is 6 or 13.

    Return the tickers for which the quota has no room now. TryAgainAt is raised. Other errors are
    only logged, because a checkpoint that needs the splits requests them again.
    """
    due = calendar.due_at(batch.run_date, day)
    without_room: list[str] = []
    for ticker in tickers:
        if not await request_budget.has_room_for_splits(context, ticker):
            without_room.append(ticker)
            continue
        try:
            await refresh(context, ticker, since=due, needed_since=due)
        except TryAgainAt:
            raise
        except AlphaMondayError as error:
            log.warning("splits not read", ticker=ticker, reason=str(error))
    return without_room


async def refresh_before_renaming(
    context: Context, *, batch: Batch, ticker: str, since: datetime, needed_since: datetime
) -> None:
    """
    Request the splits of the new ticker of a pick of `batch`, before the rename is recorded.

    The other parameters are as in `refresh`.
    """
    await refresh(
        context, ticker, since=since, needed_since=needed_since, baseline=batch.trading_day
    )


async def refresh(
    context: Context,
    ticker: str,
    *,
    since: datetime,
    needed_since: datetime,
    needed: NeededDays | None = None,
    baseline: date | None = None,
    max_attempts: int | None = None,
) -> None:
    """
    Request a ticker's splits, unless they were already requested after `since`. Store the changes.

    Failed requests since `needed_since` count against the limit of attempts, which is at most
    `max_attempts`. `baseline` is the baseline session of a batch that does not have the ticker yet.

    With `needed`, raise ProviderUnavailable if a split of these days cannot be read. Prices are
    requested at fixed times of the day. If such a time has passed since the answer was received,
    the splits are requested once more before the error is raised. For example, 12:30 is such a
    time. So at 13:00, an answer of 10:35 is replaced by a new one, but an answer of 12:40 is not.
    """
    unreadable = await _request(
        context,
        ticker=ticker,
        since=since,
        needed_since=needed_since,
        baseline=baseline,
        max_attempts=max_attempts,
    )
    if needed is None:
        return
    request_time = calendar.latest_price_request_at(context.now())
    if request_time > since:
        # The answer may be older than the latest time at which prices are requested. A row that
        # could not be read in this answer may be readable in a new one.
        missing = await _find_missing(context, ticker, unreadable=unreadable, needed=needed)
        if missing:
            unreadable = await _request(
                context, ticker=ticker, since=request_time, needed_since=needed_since
            )
    missing = await _find_missing(context, ticker, unreadable=unreadable, needed=needed)
    if missing:
        raise ProviderUnavailable(
            f"A split that the figure needs cannot be read. {missing[0].reason}"
        )


async def _request(
    context: Context,
    *,
    ticker: str,
    since: datetime,
    needed_since: datetime,
    baseline: date | None = None,
    max_attempts: int | None = None,
) -> Sequence[UnreadableRow]:
    """Request a ticker's splits, and store the changes. Return the answer's unreadable rows."""
    answer = await context.prices.splits(ticker, since, needed_since, max_attempts=max_attempts)
    if isinstance(answer, SplitsAnswer) and await _withdraws_a_split(context, ticker, answer):
        # A single answer without a known split may come from an outdated cache of the provider.
        await context.prices.ledger.store_failure(answer.grant, RequestOutcome.FAILED)
        async with transaction(context.pool) as conn:
            response = _make_response(ticker, answer, context.now())
            await journal.append_readings(conn, response, in_force=context.in_force)
        log.info("splits requested again: one is no longer listed", ticker=ticker)
        await context.sleep(_SECOND_ANSWER_AFTER)
        answer = await context.prices.splits(ticker, context.now(), needed_since)
    if isinstance(answer, SplitsAnswer):
        await _store_answer(context, ticker, answer=answer, baseline=baseline)
    return answer.unreadable


async def _withdraws_a_split(context: Context, ticker: str, answer: SplitsAnswer) -> bool:
    """Return whether an answer no longer lists a known split."""
    async with context.pool.connection() as conn:
        known = await store.list_in_force(conn, TickerHistory.unchanged(ticker))
    return bool(_find_withdrawn(answer, known))


async def _find_missing(
    context: Context, ticker: str, *, unreadable: Sequence[UnreadableRow], needed: NeededDays
) -> list[UnreadableRow]:
    """
    Return the unreadable rows that may be an unknown split of the `needed` days.

    A row without a readable day counts only if no split of these days is known. The row may then be
    the split that explains the move for which splits were requested.
    """
    async with context.pool.connection() as conn:
        in_force = await store.list_in_force(conn, TickerHistory.unchanged(ticker))
    known = splits.effective_between(in_force, needed.after, needed.through)
    known_days = {split.effective_date for split in known if split.factor != ONE}

    def may_be_missing(row: UnreadableRow) -> bool:
        if not row.may_fall_within(needed.after, needed.through):
            return False
        if row.day is None:
            return not known_days
        return row.day not in known_days

    return [row for row in unreadable if may_be_missing(row)]


async def _store_answer(
    context: Context, ticker: str, *, answer: SplitsAnswer, baseline: date | None
) -> None:
    """
    Store the changes of an answer, and correct the figures that were computed without them.

    Both are done in one transaction.

    `baseline` is the baseline session of a batch that does not have the ticker yet.
    """
    now = context.now()
    async with transaction(context.pool) as conn:
        # First lock all batches that use the ticker, then write to the journal: otherwise there
        # could be a deadlock (see `corrections.correct_after_split`).
        # A further benchmark that is measured at the same time must count the new splits.
        awaited = await further_benchmarks.list_awaited(conn, oldest_awaited(now))
        locked = await batches.lock_all_with_ticker(
            conn, ticker, also=[one.batch.id for one in awaited if one.symbol == ticker]
        )
        since = _earliest_baseline(locked, baseline)
        known = await store.list_in_force(conn, TickerHistory.unchanged(ticker))
        unreadable: list[UnreadableRow] = []
        changes = _find_changes(ticker=ticker, answer=answer, since=since, known=known, now=now)
        for split in changes:
            await store.insert(conn, split)
        if since:
            unreadable = [row for row in answer.unreadable if row.may_fall_within(since, date.max)]
        new_unreadable = await context.prices.ledger.store_answered(conn, answer.grant, unreadable)
        # The entry of the response comes before the corrections, which mention its splits again.
        response = _make_response(ticker, answer, now)
        await journal.append_readings(conn, response, splits=changes, in_force=context.in_force)
        reason = " ".join(_describe(split) for split in changes)
        corrected = 0
        if changes:
            corrected = await corrections.correct_after_split(
                conn,
                locked=locked,
                ticker=ticker,
                since=min(split.effective_date for split in changes),
                reason=reason,
                now=now,
                in_force=context.in_force,
            )
    log.info("splits read", ticker=ticker, listed=len(answer.splits), learnt=len(changes))
    log_unreadable(SPLITS, ticker, new_unreadable)
    if changes:
        log.warning("splits changed", ticker=ticker, what=reason, corrected_checkpoints=corrected)


def _make_response(ticker: str, answer: SplitsAnswer, now: datetime) -> ProviderResponse:
    """Return what the journal states of a response with splits."""
    days = [listed.effective_date for listed in answer.splits]
    return ProviderResponse(
        source=SPLITS_SOURCE,
        kind=ResponseKind.SPLITS,
        ticker=ticker,
        read_at=now,
        first_session=min(days, default=None),
        last_session=max(days, default=None),
        sha256=answer.body_sha256,
    )


def _earliest_baseline(locked: Sequence[Batch], baseline: date | None) -> date | None:
    """
    Return the earliest of the batches' baseline sessions and `baseline`, or None if there is none.

    Splits up to that session change no figure.
    """
    sessions = [batch.trading_day for batch in locked if batch.trading_day]
    if baseline:
        sessions.append(baseline)
    return min(sessions, default=None)


def _find_changes(
    *,
    ticker: str,
    answer: SplitsAnswer,
    since: date | None,
    known: Sequence[Split],
    now: datetime,
) -> list[Split]:
    """
    Return a reading for each split after `since` whose factor in an answer is not the known factor.

    A known split that is no longer listed gets a reading with the factor 1. It gets none in two
    cases: if the answer lists no split at all, which is more likely an error of the provider, or if
    an unreadable row may be the split.
    """
    factors = {split.effective_date: split.factor for split in known}
    changes = []
    for listed in answer.splits:
        if since is None or listed.effective_date <= since:
            continue
        if factors.get(listed.effective_date, ONE) != listed.factor:
            changes.append(
                Split(
                    ticker=ticker,
                    effective_date=listed.effective_date,
                    factor=listed.factor,
                    source=_source_of(listed),
                    read_at=now,
                )
            )
    withdrawn = [
        Split(
            ticker=ticker,
            effective_date=split.effective_date,
            factor=ONE,
            source=f"{SPLITS_SOURCE}, no longer listed",
            read_at=now,
        )
        for split in _find_withdrawn(answer, known)
    ]
    return changes + withdrawn


def _find_withdrawn(answer: SplitsAnswer, known: Sequence[Split]) -> list[Split]:
    """
    Return the known splits that an answer no longer lists.

    A split that an unreadable row of the answer may contain is not returned. If the answer lists no
    split at all, the returned list is empty.
    """
    listed_days = {listed.effective_date for listed in answer.splits}
    if not listed_days:
        return []

    def is_withdrawn(split: Split) -> bool:
        day = split.effective_date
        if day in listed_days or split.factor == ONE:
            return False
        return not _may_be_unreadable(answer.unreadable, day)

    return [split for split in known if is_withdrawn(split)]


def _may_be_unreadable(unreadable: Sequence[UnreadableRow], day: date) -> bool:
    """Return whether one of the unreadable rows may be about `day`."""
    return any(row.may_fall_within(day - timedelta(days=1), day) for row in unreadable)


def _source_of(listed: ListedSplit) -> str:
    """
    Return the source of a split.

    It quotes the provider's text if the factor is written differently there.
    """
    if listed.text == format_decimal(listed.factor):
        return SPLITS_SOURCE
    return f"{SPLITS_SOURCE}, as {listed.text}"


def _describe(split: Split) -> str:
    """Return the sentence about a split that becomes the reason of corrections."""
    day = split.effective_date
    if split.factor == ONE:
        return f"{split.ticker}: the split of {day} is no longer listed."
    return f"{split.ticker}: a split by {format_decimal(split.factor)} from {day} on was learnt."
