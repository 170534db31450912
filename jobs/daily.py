"""A morning's look at a batch: what it measured, or why it could not."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from msgspec.structs import replace
from procrastinate.jobs import Job
from structlog.contextvars import bind_contextvars

from app.database.pools import transaction
from app.domain import calendar, measurement
from app.domain.calendar import Calendar
from app.domain.measurement import Course
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
from app.domain.text import storable
from app.errors import ConfigurationError, MissingClose, ProviderError, TryAgainAt
from app.store import batches, checkpoints, courses, opens
from app.store.checkpoints import Due, Learnt
from app.store.rows import Conn
from jobs import alerts, queue_tables, splits
from jobs.context import Context
from jobs.prices import closes_of
from jobs.queue import Retry, app, tools

log = structlog.get_logger()

# How long, and how often looked for, older mornings come first.
_PATIENCE = timedelta(minutes=5)
_LOOK = 0.5

# How long readings are used after they were looked up. Others may store newer ones meanwhile, and a record in which a
# figure rests on an older reading than an earlier entry's is taken for a forged one after an hour.
FRESH = timedelta(minutes=30)


@app.task(name="take_checkpoint", retry=Retry())
async def take_checkpoint(batch_id: str, day: int, retake: str | None = None) -> None:
    """
    Take one checkpoint of a batch, or skip it with a reason; a second run finds it done.

    `retake` asks for another look at a skipped one; it says when or by whom, so that each asks once.
    """
    async with alerts.quota_watched(tools()):
        await take(tools(), UUID(batch_id), day, again=retake is not None)


async def defer(conn: Conn, due: Sequence[Due]) -> None:
    """Put a job for each checkpoint into the queue, at its own nine o'clock, in the transaction of `conn`."""
    await _defer_all(conn, [_job(one) for one in due])


async def defer_retakes(conn: Conn, skipped: Sequence[Due], why: str) -> list[int]:
    """Put a job for another look at each skipped checkpoint into the queue, in the transaction of `conn`."""
    return await _defer_all(conn, [_job(one, retake=why) for one in skipped])


def _job(one: Due, **more: str) -> Job:
    kwargs = {"batch_id": str(one.batch_id), "day": one.day, **more}
    # The oldest batch first, its days in the order of their ids; before all a weekly job, whose day is soon over.
    first = -one.run_date.toordinal()
    return take_checkpoint.configure(schedule_at=one.at, priority=first).job.evolve(task_kwargs=kwargs)


async def _defer_all(conn: Conn, jobs: list[Job]) -> list[int]:
    deferred = await app.job_manager.batch_defer_jobs_async(jobs, connection=conn) if jobs else []
    return [job.id for job in deferred if job.id is not None]


async def take(tools: Context, batch_id: UUID, day: int, *, again: bool = False) -> None:
    """Take the checkpoint of `day`, if it is due and nobody has; with `again`, also one that lacked prices."""
    async with tools.pool.connection() as conn:
        batch = await batches.get(conn, batch_id)
        before = await checkpoints.at(conn, batch_id, day)
        picks = await batches.picks_of(conn, batch_id)
    if batch is None:
        log.warning("there is no such batch")
        return
    bind_contextvars(run_date=str(batch.run_date))
    due = calendar.due_at(batch.run_date, day)
    session = tools.calendar.trading_day(calendar.checkpoint_date(batch.run_date, day))
    if before and not (again and _may_be_retaken(before)):
        log.info("the checkpoint was there already", status=before.status)
    elif tools.now() < due:
        raise TryAgainAt(f"The checkpoint is due at {due:%Y-%m-%d %H:%M} UTC.", due)
    elif session is None:
        eve = calendar.checkpoint_date(batch.run_date, day - 1)
        await _skip(tools, batch, day, before, SkipReason.MARKET_CLOSED, _no_session(eve))
    else:
        await _take(tools, batch, day, session, before, picks)
    if day in calendar.SUNDAYS:
        bind_contextvars(step="splits")
        tickers = [pick.ticker for pick in picks if not pick.ended]
        await splits.look_on_sunday(tools, batch, [batch.benchmark_symbol, *tickers], day)


async def _take(
    tools: Context,
    batch: Batch,
    day: int,
    session: date,
    before: Checkpoint | None,
    picks: Sequence[Pick],
) -> None:
    """Compute a checkpoint from the closes of `session`, or skip it with a reason, or have it taken again later."""
    async with tools.pool.connection() as conn:
        ended = _ended(await batches.endings_of(conn, batch.id), session)
        shares = await batches.tickers_of(conn, batch.id)
    # A second chance has attempts of its own.
    begun = calendar.asked_since(tools.now()) if before else calendar.due_at(batch.run_date, day)
    await _let_older_go_first(tools, batch, day)
    looked_at = tools.now()
    try:
        bind_contextvars(step="closes")
        tickers = [batch.benchmark_symbol, *(shares[pick.id].at(session) for pick in picks if pick.id not in ended)]
        found = await closes_of(tools, tickers, session, begun)
        bind_contextvars(step="splits")
        await splits.look_before_measuring(tools, batch, picks, found, begun)
    except MissingClose as missing:
        if not before and (later := calendar.ask_again_at(tools.now())):
            raise TryAgainAt(str(missing), later) from None
        note = f"{', '.join(missing.tickers)}: no close of {session} by the last time of asking."
        await _skip(tools, batch, day, before, SkipReason.MISSING_CLOSE, note)
    except (ProviderError, ConfigurationError) as error:
        await _skip(tools, batch, day, before, SkipReason.PROVIDER_ERROR, str(error))
    else:
        bind_contextvars(step="measure")
        await _compute(tools, batch, day, before, found, looked_at)


async def _let_older_go_first(tools: Context, batch: Batch, day: int) -> None:
    """
    Wait while a morning of an older batch, or an earlier one of this, is at work.

    Two that share too few requests would both go without; and what was missed is made up for in order.
    """
    until = tools.now() + _PATIENCE
    while tools.now() < until:
        async with transaction(tools.pool, at_once=False) as conn:
            task = take_checkpoint.name
            if not await queue_tables.is_older_checkpoint_running(conn, task, batch.run_date, day):
                return
        await tools.sleep(_LOOK)


def _ended(endings: Mapping[UUID, Ending], session: date) -> dict[UUID, Ending]:
    """Return the endings of the picks that no longer trade on `session`."""
    return {id: ending for id, ending in endings.items() if ending.last_session < session}


def _may_be_retaken(checkpoint: Checkpoint) -> bool:
    return checkpoint.status == CheckpointStatus.SKIPPED and checkpoint.skip_reason != SkipReason.MARKET_CLOSED


async def _compute(
    tools: Context,
    batch: Batch,
    day: int,
    before: Checkpoint | None,
    found: Mapping[str, Close],
    looked_at: datetime,
) -> None:
    """
    Measure and store a checkpoint, with what is known of splits and opens while the batch is locked.

    Raises TryAgainAt if it is long since `looked_at`, when the closes that were `found` were looked up.
    """
    benchmark = found[batch.benchmark_symbol]
    priced = Checkpoint(
        id=before.id if before else uuid4(),
        batch_id=batch.id,
        day=day,
        checkpoint_date=calendar.checkpoint_date(batch.run_date, day),
        trading_day=benchmark.trading_day,
        status=CheckpointStatus.COMPUTED,
        skip_reason=before.skip_reason if before else None,
        note=before.note if before else None,
        taken_at=tools.now(),
        skipped_at=before.skipped_at if before else None,
        benchmark_price=benchmark.close,
        benchmark_close_id=benchmark.id,
    )
    store = checkpoints.retake if before else checkpoints.add
    async with transaction(tools.pool) as conn:
        batch = await batches.hold(conn, batch.id)  # its baseline may have been corrected since
        if (now := tools.now()) > looked_at + FRESH:
            raise TryAgainAt("Its closes were looked up long ago.", now)
        ended = _ended(await batches.endings_of(conn, batch.id), benchmark.trading_day)
        picks, checkpoint, metrics, readings, learnt = await _measure(conn, tools.calendar, batch, priced, found, ended)
        # The transaction may have waited for the batch, and what it used may have been learnt meanwhile.
        checkpoint = replace(checkpoint, taken_at=measurement.not_before(checkpoint.taken_at, readings, learnt.splits))
        stored = await store(conn, checkpoint, metrics, readings, learnt)
        completed = stored and not before and await _is_completed(conn, batch.id)
    log.info(
        "checkpoint computed" if stored else "somebody was first",
        session=str(benchmark.trading_day),
        checkpoint=str(checkpoint.id),
        benchmark_return_pct=f"{checkpoint.benchmark_return_pct:.2f}",
        vs_benchmark_pct=[
            f"{pick.ticker} {metric.vs_benchmark_pct:.2f}" for pick, metric in zip(picks, metrics, strict=True)
        ],
    )
    unusual = [pick.ticker for pick, metric in zip(picks, metrics, strict=True) if metric.unusual_move]
    if checkpoint.benchmark_unusual_move:
        unusual.append(batch.benchmark_symbol)
    for ticker in unusual:
        log.warning("a move that no split explains", ticker=ticker, checkpoint=str(checkpoint.id))
    if completed:
        log.info("batch completed")


async def _is_completed(conn: Conn, id: UUID) -> bool:
    batch = await batches.get(conn, id)
    return batch is not None and batch.status == BatchStatus.COMPLETED


async def _measure(
    conn: Conn,
    sessions: Calendar,
    batch: Batch,
    priced: Checkpoint,
    found: Mapping[str, Close],
    ended: Mapping[UUID, Ending],
) -> tuple[list[Pick], Checkpoint, list[PickMetric], list[Close], Learnt]:
    """Return the picks as they now are, and all figures of a checkpoint with what they rest on."""
    picks = await batches.picks_of(conn, batch.id)
    opened, entries = await opens.look_up(conn, sessions, batch, picks)
    picks = [opened.get(pick.id, pick) for pick in picks]
    of_benchmark = (await courses.of_benchmark(conn, batch)).using(found[batch.benchmark_symbol])
    of_picks = dict(await courses.of_picks(conn, batch, picks))
    checkpoint = measurement.of_benchmark(batch, priced, of_benchmark)
    session = found[batch.benchmark_symbol].trading_day
    metrics = []
    for pick in picks:
        close = found.get(of_picks[pick.id].tickers.at(session))
        if close and pick.id not in ended:
            of_picks[pick.id] = of_picks[pick.id].using(close)
        metrics.append(_metric(batch, checkpoint, pick, close, ended.get(pick.id), of_picks[pick.id]))
    learnt = Learnt(
        splits=measurement.splits_counted(batch, checkpoint, [of_benchmark, *of_picks.values()]),
        opened=list(opened.values()),
        filled=await opens.fill(conn, batch, opened, of_picks),
    )
    readings = {close.id: close for close in (*found.values(), *entries)}
    return picks, checkpoint, metrics, list(readings.values()), learnt


def _metric(
    batch: Batch, checkpoint: Checkpoint, pick: Pick, close: Close | None, ending: Ending | None, course: Course
) -> PickMetric:
    """Return how a pick stands: by its close, or once it has ended by what became of it."""
    known = ending.value if ending else close and close.close
    if not known:
        raise TryAgainAt(f"{pick.ticker} was renamed while its close was read.", checkpoint.taken_at)
    return PickMetric(
        id=uuid4(),
        checkpoint_id=checkpoint.id,
        pick_id=pick.id,
        current_price=known,
        close_id=None if ending or close is None else close.id,
        ended=ending is not None,
        **measurement.of_pick(batch, checkpoint, pick, known, course),
    )


async def _skip(
    tools: Context, batch: Batch, day: int, before: Checkpoint | None, reason: SkipReason, note: str
) -> None:
    """Store why a checkpoint has no prices; one that was skipped before stays as it is."""
    if before:
        log.info("the checkpoint stays skipped", reason=reason, note=note, checkpoint=str(before.id))
        return
    due = Due(batch.id, batch.run_date, day)
    checkpoint = _skipped(due, reason, note, tools.now())
    async with transaction(tools.pool) as conn:
        stored = await _add_skipped(conn, tools, due, checkpoint)
        completed = stored and await _is_completed(conn, batch.id)
    _tell_skipped(checkpoint, stored=stored)
    if completed:
        log.info("batch completed")


def _tell_skipped(checkpoint: Checkpoint, *, stored: bool, **whose: object) -> None:
    tell: Any = log.info if checkpoint.skip_reason == SkipReason.MARKET_CLOSED else log.warning
    tell(
        "checkpoint skipped" if stored else "somebody was first",
        reason=checkpoint.skip_reason,
        note=checkpoint.note,
        checkpoint=str(checkpoint.id),
        **whose,
    )


async def give_up(conn: Conn, tools: Context, due: Due, why: str) -> bool:
    """Skip a checkpoint whose job failed; return False if it has a row."""
    eve = calendar.checkpoint_date(due.run_date, due.day - 1)
    reason, note = SkipReason.PROVIDER_ERROR, why
    if not tools.calendar.is_session(eve):
        reason, note = SkipReason.MARKET_CLOSED, _no_session(eve)
    checkpoint = _skipped(due, reason, note, tools.now())
    if not await _add_skipped(conn, tools, due, checkpoint):
        return False
    _tell_skipped(checkpoint, stored=True, run_date=str(due.run_date), day=due.day, batch=str(due.batch_id))
    return True


async def _add_skipped(conn: Conn, tools: Context, due: Due, checkpoint: Checkpoint) -> bool:
    """Store a checkpoint without prices, with the alert that tells of it; return False if its day has a row."""
    if not await checkpoints.add(conn, checkpoint):
        return False
    await alerts.checkpoint_skipped(conn, tools, due, checkpoint)
    return True


def _no_session(eve: date) -> str:
    return f"{eve} was no session."


def _skipped(due: Due, reason: SkipReason, note: str, now: datetime) -> Checkpoint:
    return Checkpoint(
        id=uuid4(),
        batch_id=due.batch_id,
        day=due.day,
        checkpoint_date=calendar.checkpoint_date(due.run_date, due.day),
        status=CheckpointStatus.SKIPPED,
        skip_reason=reason,
        note=storable(note),  # it may quote a provider
        taken_at=now,
        skipped_at=now,
    )
