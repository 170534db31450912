"""
The daily job: takes one checkpoint of a batch.

A checkpoint has the figures of one morning, or the reason why it was skipped.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from uuid import UUID, uuid4

import structlog
from msgspec import Struct
from msgspec.structs import replace
from procrastinate.jobs import Job
from structlog.contextvars import bind_contextvars

from app.database.pools import transaction
from app.domain import calendar, measurement, request_plan
from app.domain.calendar import Calendar
from app.domain.measurement import ShareHistory
from app.domain.model import (
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    Ending,
    Pick,
    PickMetric,
    SkipReason,
)
from app.domain.text import make_storable
from app.errors import ConfigurationError, MissingClose, ProviderError, TryAgainAt
from app.store import batches, checkpoints, opens, share_histories
from app.store.checkpoints import DueCheckpoint, RelatedChanges
from app.store.rows import Conn
from jobs import (
    alerts,
    further_benchmarks,
    late_splits,
    queue_tables,
    splits,
    timestamps,
    total_returns,
)
from jobs.context import Context
from jobs.in_force import effective_calendar
from jobs.prices import fetch_closes, is_traded
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

# The longest time that a checkpoint waits for others while none of them ends.
_MAX_WAIT_FOR_OTHERS = timedelta(minutes=5)

# Seconds between two checks of whether other checkpoints are still being taken: for the job whose
# turn is next, and how many more for each other job ahead.
_POLL_INTERVAL = 1.0
_POLL_INTERVAL_PER_JOB = 2.0

# For how long a job may use readings after it has begun to read them. Meanwhile, another process
# may store a newer reading of the same price. If a figure does not use the newer reading, the
# verification accepts it only if the journal entry of the figure is written at most an hour after
# that reading. So this constant is below an hour.
MAX_READING_AGE = timedelta(minutes=30)


@app.task(name="take_checkpoint", retry=RetryPolicy())
async def take_checkpoint(batch_id: str, day: int, retake: str | None = None) -> None:
    """
    Compute one checkpoint of a batch, or skip it with a reason.

    If the checkpoint is already stored, nothing is done, with one exception: with `retake`, a
    checkpoint that is stored as skipped is computed if its prices are available now. The text of
    `retake` is the time of an operator's request, or the day on which the reconciliation deferred
    the job. Before the reconciliation defers a retake, it searches for a job of the checkpoint with
    today's date as `retake`. So it defers only one retake of a checkpoint a day.
    """
    context = current_context()
    async with alerts.alert_if_quota_spent(context):
        await take(context, UUID(batch_id), day, retake=retake is not None)


async def defer_checkpoints(conn: Conn, due: Sequence[DueCheckpoint]) -> None:
    """Defer a job for each checkpoint, to run at its due time, in the transaction of `conn`."""
    await _defer_all(conn, [_make_job(one) for one in due])


async def defer_retakes(conn: Conn, skipped: Sequence[DueCheckpoint], request: str) -> list[int]:
    """
    Defer a retake of each skipped checkpoint, in the transaction of `conn`. Return the jobs' ids.

    `request` is the argument `retake` of the jobs (see `take_checkpoint`).
    """
    return await _defer_all(conn, [_make_job(one, retake=request) for one in skipped])


def _make_job(due: DueCheckpoint, **more: str) -> Job:
    # Among the jobs of due checkpoints, the queue runs those of the oldest batch first. It runs the
    # jobs of one batch in the order of their ids. All these jobs have negative priorities. A weekly
    # job has the default priority, 0, so it runs before all of them. The reason is that a Monday's
    # batch must be stored before the day is over.
    template = take_checkpoint.configure(
        schedule_at=due.due_at, priority=-due.run_date.toordinal()
    ).job
    return template.evolve(task_kwargs={"batch_id": str(due.batch_id), "day": due.day, **more})


async def _defer_all(conn: Conn, jobs: list[Job]) -> list[int]:
    if not jobs:
        return []
    deferred = await app.job_manager.batch_defer_jobs_async(jobs, connection=conn)
    return [job.id for job in deferred if job.id is not None]


async def take(context: Context, batch_id: UUID, day: int, *, retake: bool = False) -> None:
    """
    Take the checkpoint of `day`, if it is not stored yet.

    With `retake`, also take it if it is stored as skipped because prices were missing. Raise
    TryAgainAt if the checkpoint is not due yet, or if a close is not available yet.
    """
    async with context.pool.connection() as conn:
        batch = await batches.get(conn, batch_id)
        stored = await checkpoints.get(conn, batch_id, day)
        picks = await batches.list_picks(conn, batch_id)
    if batch is None:
        log.warning("batch does not exist")
        return
    bind_contextvars(run_date=str(batch.run_date))
    due_at = calendar.due_at(batch.run_date, day)
    target = _Target(batch=batch, day=day, stored=stored)
    if stored and not (retake and _can_be_retaken(stored)):
        log.info("checkpoint already stored", status=stored.status)
    elif context.now() < due_at:
        raise TryAgainAt(f"The checkpoint is due at {due_at:%Y-%m-%d %H:%M} UTC.", due_at)
    else:
        await _measure_or_skip(context, target, picks=picks)
        await further_benchmarks.measure_after_checkpoint(context, batch_id)
    if day in calendar.SPLIT_CHECK_DAYS:
        bind_contextvars(step="splits")
        tickers = [batch.benchmark_symbol, *(pick.ticker for pick in picks if not pick.ended)]
        without_room = await splits.refresh_on_sunday(context, batch, tickers=tickers, day=day)
        if without_room:
            log.info("splits wait for the quota", tickers=without_room)
            await late_splits.defer_rest(context, batch, day=day)


class _Target(Struct, frozen=True, kw_only=True):
    """
    A checkpoint that is to be taken.

    `stored` is the checkpoint's row if it was skipped before, and None if it has no row.
    """

    batch: Batch
    day: int
    stored: Checkpoint | None


async def _measure_or_skip(context: Context, target: _Target, *, picks: Sequence[Pick]) -> None:
    """Compute a checkpoint from the closes of its session, or skip it, or raise TryAgainAt."""
    batch, day = target.batch, target.day
    session = await _find_session(context, target)
    if session is None:
        note = _no_session_note(calendar.checkpoint_date(batch.run_date, day - 1))
        await _skip(context, target, reason=SkipReason.MARKET_CLOSED, note=note)
        return
    async with context.pool.connection() as conn:
        ended = _filter_ended(await batches.get_endings(conn, batch.id), session)
        histories = await batches.get_tickers(conn, batch.id)
    # The number of attempts is limited: failed requests since `needed_since` count. For a retake,
    # `needed_since` is the last time, up to now, at which a request of closes was due. So failures
    # before that time, for example those of the morning, do not count.
    needed_since = calendar.due_at(batch.run_date, day)
    if target.stored:
        needed_since = calendar.latest_price_request_at(context.now())
    await _wait_for_turn(context, batch, day)
    read_at = context.now()
    tickers = [batch.benchmark_symbol]
    tickers += [histories[pick.id].ticker_on(session) for pick in picks if pick.id not in ended]
    try:
        bind_contextvars(step="closes")
        closes_by_ticker = await fetch_closes(context, tickers, session, needed_since=needed_since)
        bind_contextvars(step="splits")
        await splits.refresh_before_measuring(
            context,
            batch=batch,
            picks=picks,
            closes_by_ticker=closes_by_ticker,
            needed_since=needed_since,
        )
    except MissingClose as error:
        retry_at = calendar.next_price_retry_at(context.now())
        if target.stored is None and retry_at:
            raise TryAgainAt(str(error), retry_at) from None
        note = f"{', '.join(error.tickers)}: no close of {session} by the last time of asking."
        await _skip(context, target, reason=SkipReason.MISSING_CLOSE, note=note)
    except (ProviderError, ConfigurationError) as error:
        await _skip(context, target, reason=SkipReason.PROVIDER_ERROR, note=str(error))
    else:
        bind_contextvars(step="measure")
        await _compute_and_store(
            context, target, closes_by_ticker=closes_by_ticker, read_at=read_at
        )


async def _find_session(context: Context, target: _Target) -> date | None:
    """
    Return the session that a checkpoint measures, or None if the day before it is none.

    If MARKET_CLOSED_DAYS lists the day, the benchmark's closes are requested first: a close of the
    day shows that the exchange traded (see `jobs.prices.is_traded`).
    """
    batch, day = target.batch, target.day
    checkpoint_date = calendar.checkpoint_date(batch.run_date, day)
    session = Calendar().trading_day(checkpoint_date)
    if session is None or context.calendar.is_session(session):
        return session
    needed_since = calendar.due_at(batch.run_date, day)
    if await is_traded(context, batch.benchmark_symbol, session, needed_since=needed_since):
        return session
    return None


async def _wait_for_turn(context: Context, batch: Batch, day: int) -> None:
    """
    Wait while other jobs take checkpoints that come before this one.

    These are the checkpoints of older batches, those of earlier days of batches of the same Monday,
    and those of the same day of series whose turn comes first today (`request_plan.in_turn`).

    The wait ends when none of these jobs has ended for five minutes. There are two reasons to wait:

    - The quota may be too small for two checkpoints. If both were taken at the same time, each
      would get a part of the quota, and both would fail.
    - Missed checkpoints should be taken in order: older batches first, and earlier days first.
    """
    waits_until = context.now() + _MAX_WAIT_FOR_OTHERS
    ahead_before = None
    while context.now() < waits_until:
        ahead = await _count_ahead(context, batch, day)
        if ahead == 0:
            return
        if ahead_before is not None and ahead < ahead_before:
            waits_until = context.now() + _MAX_WAIT_FOR_OTHERS
        ahead_before = ahead
        await context.sleep(_POLL_INTERVAL + (ahead - 1) * _POLL_INTERVAL_PER_JOB)


async def _count_ahead(context: Context, batch: Batch, day: int) -> int:
    """Return how many checkpoints that come before the given one are being taken."""
    async with transaction(context.pool, notify=False) as conn:
        running = await queue_tables.list_running_checkpoints(conn, take_checkpoint.name)
        names = [one.series for one in await batches.list_by_run_date(conn, batch.run_date)]
    turns = request_plan.in_turn(names, calendar.new_york_date(context.now()))

    def place(series: str, run_date: date, day: int) -> tuple[date, int, int]:
        # A series without a batch of this Monday takes a checkpoint of another Monday. Then the run
        # dates differ, and the turn decides nothing.
        turn = turns.index(series) if series in turns else 0
        return run_date, day, turn

    own = place(batch.series, batch.run_date, day)
    return sum(place(one.series, one.run_date, one.day) < own for one in running)


def _filter_ended(endings: Mapping[UUID, Ending], session: date) -> dict[UUID, Ending]:
    """Return the endings of the picks that no longer trade on `session`."""
    return {id: ending for id, ending in endings.items() if ending.last_session < session}


def _can_be_retaken(checkpoint: Checkpoint) -> bool:
    if checkpoint.status != CheckpointStatus.SKIPPED:
        return False
    return checkpoint.skip_reason != SkipReason.MARKET_CLOSED


async def _compute_and_store(
    context: Context, target: _Target, *, closes_by_ticker: Mapping[str, Close], read_at: datetime
) -> None:
    """
    Compute and store a checkpoint, with the splits and opens that are known in this transaction.

    `closes_by_ticker` are the closes of the session. They were read at `read_at`: raise TryAgainAt
    if that is longer ago than MAX_READING_AGE.
    """
    priced = _make_priced(target, closes_by_ticker[target.batch.benchmark_symbol], context.now())
    is_completed = False
    async with transaction(context.pool) as conn:
        # Read the batch again under the lock, because the baseline may have been corrected.
        batch = await batches.lock_for_update(conn, target.batch.id)
        now = context.now()
        if now > read_at + MAX_READING_AGE:
            raise TryAgainAt("Its closes were read too long ago.", now)
        measured = await _measure(
            conn, context, batch=batch, priced=priced, closes_by_ticker=closes_by_ticker
        )
        if target.stored:
            is_stored = await checkpoints.retake(
                conn,
                measured.checkpoint,
                metrics=measured.metrics,
                readings=measured.readings,
                changes=measured.changes,
                in_force=context.in_force,
            )
        else:
            is_stored = await checkpoints.insert(
                conn,
                measured.checkpoint,
                metrics=measured.metrics,
                readings=measured.readings,
                changes=measured.changes,
                in_force=context.in_force,
            )
            is_completed = is_stored and await _is_completed(conn, batch.id)
        if is_stored:
            await timestamps.defer_for_checkpoint(conn, context)
            await _defer_total_returns(conn, context, batch.id)
    _log_computed(batch, measured, is_stored=is_stored)
    if is_completed:
        log.info("batch completed")


def _make_priced(target: _Target, benchmark: Close, now: datetime) -> Checkpoint:
    """Return the checkpoint with the benchmark's close, and without any return."""
    batch, day, stored = target.batch, target.day, target.stored
    priced = Checkpoint(
        id=uuid4(),
        batch_id=batch.id,
        day=day,
        checkpoint_date=calendar.checkpoint_date(batch.run_date, day),
        trading_day=benchmark.trading_day,
        status=CheckpointStatus.COMPUTED,
        taken_at=now,
        benchmark_price=benchmark.close,
        benchmark_close_id=benchmark.id,
    )
    if stored is None:
        return priced
    # A retaken checkpoint still shows when and why it was skipped at first.
    return replace(
        priced,
        id=stored.id,
        skip_reason=stored.skip_reason,
        note=stored.note,
        skipped_at=stored.skipped_at,
    )


def _log_computed(batch: Batch, measured: "_Measured", *, is_stored: bool) -> None:
    checkpoint = measured.checkpoint
    pairs = list(zip(measured.picks, measured.metrics, strict=True))
    event = "checkpoint computed"
    if not is_stored:
        event = "checkpoint already stored by another process"
    log.info(
        event,
        session=str(checkpoint.trading_day),
        checkpoint=str(checkpoint.id),
        benchmark_return_pct=f"{checkpoint.benchmark_return_pct:.2f}",
        vs_benchmark_pct=[f"{pick.ticker} {metric.vs_benchmark_pct:.2f}" for pick, metric in pairs],
    )
    tickers = [pick.ticker for pick, metric in pairs if metric.unusual_move]
    if checkpoint.benchmark_unusual_move:
        tickers.append(batch.benchmark_symbol)
    for ticker in tickers:
        log.warning("unusual move", ticker=ticker, checkpoint=str(checkpoint.id))


async def _defer_total_returns(conn: Conn, context: Context, batch_id: UUID) -> None:
    """Defer the job for the total returns of a batch if the batch is completed now."""
    if await _is_completed(conn, batch_id):
        await total_returns.defer(conn, context, batch_id)


async def _is_completed(conn: Conn, batch_id: UUID) -> bool:
    batch = await batches.get(conn, batch_id)
    return batch is not None and batch.status == BatchStatus.COMPLETED


class _Measured(Struct, frozen=True, kw_only=True):
    """
    A computed checkpoint, and everything that is stored with it.

    - `picks`: the picks of the batch, with the opens that became known now
    - `metrics`: one for each pick, in the same order
    - `readings`: the closes and opens that were used
    - `changes`: the splits that the figures use, the opens that became known now, and the stored
      metrics that these opens complete
    """

    checkpoint: Checkpoint
    picks: list[Pick]
    metrics: list[PickMetric]
    readings: list[Close]
    changes: RelatedChanges


async def _measure(
    conn: Conn,
    context: Context,
    *,
    batch: Batch,
    priced: Checkpoint,
    closes_by_ticker: Mapping[str, Close],
) -> _Measured:
    """Return all figures of a checkpoint, from the closes of its session."""
    benchmark_close = closes_by_ticker[batch.benchmark_symbol]
    session = benchmark_close.trading_day
    ended = _filter_ended(await batches.get_endings(conn, batch.id), session)
    picks = await batches.list_picks(conn, batch.id)
    sessions = await effective_calendar(conn, context.calendar, batch.benchmark_symbol)
    picks_with_open, entries = await opens.find_picks_with_open(
        conn, sessions, batch=batch, picks=picks
    )
    picks = [picks_with_open.get(pick.id, pick) for pick in picks]
    benchmark = await share_histories.for_benchmark(conn, batch)
    benchmark = benchmark.with_used(benchmark_close)
    histories = dict(await share_histories.for_picks(conn, batch, picks))
    checkpoint = measurement.measure_benchmark(batch, priced, benchmark)

    closes: dict[UUID, Close] = {}
    for pick in picks:
        close = closes_by_ticker.get(histories[pick.id].tickers.ticker_on(session))
        if close and pick.id not in ended:
            closes[pick.id] = close
            histories[pick.id] = histories[pick.id].with_used(close)
    metrics = [
        _measure_pick(
            batch=batch,
            checkpoint=checkpoint,
            pick=pick,
            close=closes.get(pick.id),
            ending=ended.get(pick.id),
            history=histories[pick.id],
        )
        for pick in picks
    ]

    changes = RelatedChanges(
        splits=measurement.counted_splits(batch, checkpoint, [benchmark, *histories.values()]),
        picks_with_open=list(picks_with_open.values()),
        completed_metrics=await opens.complete_metrics(
            conn, batch, picks_with_open=picks_with_open, histories=histories
        ),
    )
    readings = {close.id: close for close in (*closes_by_ticker.values(), *entries)}
    # While this transaction waited for the lock of the batch, another transaction may have stored a
    # reading that is used here. A checkpoint's `taken_at` must not be before the time of any of its
    # readings.
    taken_at = measurement.not_before_readings(
        checkpoint.taken_at, readings.values(), changes.splits
    )
    return _Measured(
        checkpoint=replace(checkpoint, taken_at=taken_at),
        picks=picks,
        metrics=metrics,
        readings=list(readings.values()),
        changes=changes,
    )


def _measure_pick(
    *,
    batch: Batch,
    checkpoint: Checkpoint,
    pick: Pick,
    close: Close | None,
    ending: Ending | None,
    history: ShareHistory,
) -> PickMetric:
    """Return a pick's metric, from its close or from the last value that an operator recorded."""
    close_id = None
    if ending:
        price = ending.value
    elif close:
        price = close.close
        close_id = close.id
    else:
        raise TryAgainAt(
            f"{pick.ticker} was renamed while its close was read.", checkpoint.taken_at
        )
    figures = measurement.measure_pick(batch, checkpoint, pick=pick, price=price, history=history)
    return PickMetric(
        id=uuid4(),
        checkpoint_id=checkpoint.id,
        pick_id=pick.id,
        current_price=price,
        close_id=close_id,
        ended=ending is not None,
        **figures,
    )


async def _skip(context: Context, target: _Target, *, reason: SkipReason, note: str) -> None:
    """
    Store a checkpoint as skipped, with the reason.

    A retake changes nothing: its checkpoint is already stored as skipped, and the stored reason
    stays.
    """
    batch, stored = target.batch, target.stored
    if stored:
        log.info("checkpoint stays skipped", reason=reason, note=note, checkpoint=str(stored.id))
        return
    due = DueCheckpoint(batch.id, batch.run_date, target.day)
    checkpoint = _make_skipped(due, reason=reason, note=note, now=context.now())
    async with transaction(context.pool) as conn:
        is_stored = await _insert_skipped(conn, context, due=due, checkpoint=checkpoint)
        is_completed = is_stored and await _is_completed(conn, batch.id)
        if is_stored:
            await timestamps.defer_for_checkpoint(conn, context)
            await _defer_total_returns(conn, context, batch.id)
    _log_skipped(checkpoint, is_stored=is_stored)
    if is_completed:
        log.info("batch completed")


def _log_skipped(checkpoint: Checkpoint, *, is_stored: bool, **log_context: object) -> None:
    event = "checkpoint skipped"
    if not is_stored:
        event = "checkpoint already stored by another process"
    fields = {
        "reason": checkpoint.skip_reason,
        "note": checkpoint.note,
        "checkpoint": str(checkpoint.id),
        **log_context,
    }
    # A closed market is expected, so it is no warning.
    if checkpoint.skip_reason == SkipReason.MARKET_CLOSED:
        log.info(event, **fields)
    else:
        log.warning(event, **fields)


async def give_up(conn: Conn, context: Context, due: DueCheckpoint, *, note: str) -> bool:
    """Skip a checkpoint whose job has failed. Return False if the checkpoint has a row."""
    reason = SkipReason.PROVIDER_ERROR
    day_before = calendar.checkpoint_date(due.run_date, due.day - 1)
    sessions = context.calendar
    batch = await batches.get(conn, due.batch_id)
    if batch:
        sessions = await effective_calendar(conn, sessions, batch.benchmark_symbol)
    if not sessions.is_session(day_before):
        reason, note = SkipReason.MARKET_CLOSED, _no_session_note(day_before)
    checkpoint = _make_skipped(due, reason=reason, note=note, now=context.now())
    if not await _insert_skipped(conn, context, due=due, checkpoint=checkpoint):
        return False
    # The reconciliation calls this function. Its log context does not name the checkpoint, so these
    # fields name it.
    _log_skipped(
        checkpoint,
        is_stored=True,
        run_date=str(due.run_date),
        day=due.day,
        batch=str(due.batch_id),
    )
    return True


async def _insert_skipped(
    conn: Conn, context: Context, *, due: DueCheckpoint, checkpoint: Checkpoint
) -> bool:
    """Store a skipped checkpoint and an alert. Return False if the checkpoint has a row."""
    if not await checkpoints.insert(conn, checkpoint, in_force=context.in_force):
        return False
    await alerts.report_checkpoint_skipped(conn, context, due=due, checkpoint=checkpoint)
    return True


def _no_session_note(day: date) -> str:
    return f"{day} was no session."


def _make_skipped(
    due: DueCheckpoint, *, reason: SkipReason, note: str, now: datetime
) -> Checkpoint:
    return Checkpoint(
        id=uuid4(),
        batch_id=due.batch_id,
        day=due.day,
        checkpoint_date=calendar.checkpoint_date(due.run_date, due.day),
        status=CheckpointStatus.SKIPPED,
        skip_reason=reason,
        note=make_storable(note),  # it may quote a provider
        taken_at=now,
        skipped_at=now,
    )
