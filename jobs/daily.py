"""A morning's look at a batch: what it measured, or why it could not."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import structlog
from structlog.contextvars import bind_contextvars

from app.database.pools import transaction
from app.errors import ConfigurationError, MissingClose, ProviderError, TryAgainAt
from app.record import calendar, returns
from app.record.model import Batch, Checkpoint, CheckpointStatus, Close, Pick, PickMetric, SkipReason
from app.store import batches, checkpoints
from app.store.rows import Conn
from app.tools import Tools
from jobs.closes import closes_of
from jobs.queue import Retry, app, tools

log = structlog.get_logger()


@app.task(name="take_checkpoint", retry=Retry())
async def take_checkpoint(batch_id: str, day: int) -> None:
    """Take one checkpoint of a batch, or skip it with a reason; a second run finds it done."""
    await take(tools(), UUID(batch_id), day)


async def defer(conn: Conn, due: Sequence[checkpoints.Due]) -> None:
    """Put a job for each checkpoint into the queue, at its own nine o'clock, in the transaction of `conn`."""
    jobs = [
        take_checkpoint.configure(schedule_at=one.at).job.evolve(
            task_kwargs={"batch_id": str(one.batch_id), "day": one.day}
        )
        for one in due
    ]
    if jobs:
        await app.job_manager.batch_defer_jobs_async(jobs, connection=conn)


async def take(tools: Tools, batch_id: UUID, day: int) -> None:
    """Take the checkpoint of `day`, if it is due and nobody has."""
    async with tools.pool.connection() as conn:
        batch = await batches.get(conn, batch_id)
        done = await checkpoints.at(conn, batch_id, day)
        picks = await batches.picks_of(conn, batch_id)
    if batch is None:
        log.warning("there is no such batch")
        return
    bind_contextvars(run_date=str(batch.run_date))
    if done:
        log.info("the checkpoint was there already", status=done.status)
        return
    due = calendar.due_at(batch.run_date, day)
    if tools.now() < due:
        raise TryAgainAt(f"The checkpoint is due at {due:%Y-%m-%d %H:%M} UTC.", due)
    on = calendar.checkpoint_date(batch.run_date, day)
    session = tools.calendar.trading_day(on)
    if session is None:
        before = calendar.checkpoint_date(batch.run_date, day - 1)
        await _skip(tools, batch, day, SkipReason.MARKET_CLOSED, f"{before} was no session.")
        return
    try:
        bind_contextvars(step="closes")
        found = await closes_of(tools, [batch.benchmark_symbol, *(pick.ticker for pick in picks)], session)
    except MissingClose as missing:
        if again := calendar.ask_again_at(tools.now()):
            raise TryAgainAt(str(missing), again) from None
        note = f"{', '.join(missing.tickers)}: no close of {session} by the last time of asking."
        await _skip(tools, batch, day, SkipReason.MISSING_CLOSE, note)
    except (ProviderError, ConfigurationError) as error:
        await _skip(tools, batch, day, SkipReason.PROVIDER_ERROR, str(error))
    else:
        bind_contextvars(step="measure")
        await _compute(tools, batch, day, session, picks, found)


async def _compute(
    tools: Tools, batch: Batch, day: int, session: date, picks: Sequence[Pick], found: Mapping[str, Close]
) -> None:
    benchmark = found[batch.benchmark_symbol]
    assert batch.benchmark_initial_price is not None
    benchmark_return = returns.return_pct(batch.benchmark_initial_price, benchmark.close)
    checkpoint = Checkpoint(
        id=uuid4(),
        batch_id=batch.id,
        day=day,
        checkpoint_date=calendar.checkpoint_date(batch.run_date, day),
        trading_day=session,
        status=CheckpointStatus.COMPUTED,
        taken_at=tools.now(),
        benchmark_price=benchmark.close,
        benchmark_close_id=benchmark.id,
        benchmark_split_factor=returns.ONE,
        benchmark_return_pct=benchmark_return,
    )
    metrics = [_metric(checkpoint, pick, found[pick.ticker]) for pick in picks]
    log.info(
        "checkpoint computed"
        if await _store(tools, checkpoint, metrics, list(found.values()))
        else "somebody was first",
        session=str(session),
        checkpoint=str(checkpoint.id),
        benchmark_return_pct=f"{benchmark_return:.2f}",
        vs_benchmark_pct=[
            f"{pick.ticker} {metric.vs_benchmark_pct:.2f}" for pick, metric in zip(picks, metrics, strict=True)
        ],
    )


def _metric(checkpoint: Checkpoint, pick: Pick, close: Close) -> PickMetric:
    assert checkpoint.benchmark_return_pct is not None
    measure = returns.measure(pick.initial_price, close.close, returns.ONE, checkpoint.benchmark_return_pct)
    return PickMetric(
        id=uuid4(),
        checkpoint_id=checkpoint.id,
        pick_id=pick.id,
        current_price=close.close,
        close_id=close.id,
        split_factor=returns.ONE,
        absolute_return_pct=measure.absolute_return_pct,
        vs_benchmark_pct=measure.vs_benchmark_pct,
    )


async def _skip(tools: Tools, batch: Batch, day: int, reason: SkipReason, note: str) -> None:
    now = tools.now()
    checkpoint = Checkpoint(
        id=uuid4(),
        batch_id=batch.id,
        day=day,
        checkpoint_date=calendar.checkpoint_date(batch.run_date, day),
        status=CheckpointStatus.SKIPPED,
        skip_reason=reason,
        note=note,
        taken_at=now,
        skipped_at=now,
    )
    stored = await _store(tools, checkpoint)
    tell: Any = log.info if reason == SkipReason.MARKET_CLOSED else log.warning
    tell(
        "checkpoint skipped" if stored else "somebody was first",
        reason=reason,
        note=note,
        checkpoint=str(checkpoint.id),
    )


async def _store(
    tools: Tools, checkpoint: Checkpoint, metrics: Sequence[PickMetric] = (), readings: Sequence[Close] = ()
) -> bool:
    async with transaction(tools.pool) as conn:
        return await checkpoints.add(conn, checkpoint, metrics, readings)
