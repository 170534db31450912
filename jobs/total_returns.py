"""
Total returns: they are added to a result when the dividends of its shares are known.

Each total return is added once, in one transaction with its journal entry. A dividend that becomes
known or changes later is a correction (`corrections.correct_totals`). The figures without dividends
never wait for a total return: a batch is completed without it.

The job of a batch is deferred when the batch is completed, and when its result is computed later.
`jobs/dividends.py` also adds the total returns of each response that it stores, and once a week
those that are missing for any other reason.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from uuid import UUID

import structlog
from msgspec import Struct
from structlog.contextvars import bind_contextvars

from app.database.pools import transaction
from app.domain import dividends, measurement
from app.domain.declarations import InForce
from app.domain.dividends import DividendPeriod, DividendResponse
from app.domain.measurement import ShareHistory
from app.domain.model import Batch, BatchStatus, Checkpoint, Dividend, Pick, PickMetric
from app.store import batches, checkpoints, declarations, journal, share_histories, totals
from app.store import dividends as store
from app.store.rows import Conn
from jobs import messages
from jobs.context import Context
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()


@app.task(name="add_total_returns", retry=RetryPolicy())
async def add_total_returns(batch_id: str) -> None:
    """Add the total returns of a batch's result, as far as its dividends are known."""
    context = current_context()
    async with transaction(context.pool) as conn:
        batch = await batches.lock_for_update(conn, UUID(batch_id))
        bind_contextvars(run_date=str(batch.run_date), step="total_returns")
        await add(conn, batch, now=context.now(), in_force=context.in_force)


async def defer(conn: Conn, context: Context, batch_id: UUID) -> None:
    """Defer the job that adds the total returns of a batch."""
    template = add_total_returns.configure(
        schedule_at=context.now(), priority=messages.LOWEST_PRIORITY
    ).job
    job = template.evolve(task_kwargs={"batch_id": str(batch_id)})
    await app.job_manager.batch_defer_jobs_async([job], connection=conn)


async def find_missing(conn: Conn, batch: Batch) -> list[DividendPeriod]:
    """
    Return the tickers and days for which a batch's result still needs dividends.

    The list is empty if the batch has no result, or if the result has all total returns.
    """
    result = await _find_incomplete(conn, batch)
    if result is None:
        return []
    periods: list[DividendPeriod] = []
    if not result.checkpoint.has_totals:
        periods += result.periods(result.benchmark)
    for metric in result.without_total:
        periods += result.periods(result.histories[metric.id])
    return periods


async def add(conn: Conn, batch: Batch, *, now: datetime, in_force: InForce | None) -> int:
    """
    Add the total returns of a batch's result whose dividends are known, with the journal entry.

    The caller has locked the batch. Return how many picks got a total return. A total return is
    never added to a record that is not sealed: its journal does not have the responses.
    """
    if batch.status is not BatchStatus.COMPLETED or not await declarations.is_sealed(conn):
        return 0
    result = await _find_incomplete(conn, batch)
    if result is None:
        return 0
    since = await journal.get_batch_seq(conn, batch.id)
    responses = await store.list_responses(conn, result.tickers, since_seq=since)
    added = _compute(result, responses)
    if added is None:
        return 0
    await totals.add(
        conn,
        batch.id,
        before=result.checkpoint,
        checkpoint=added.checkpoint,
        metrics=added.metrics,
        dividends=added.counted,
        at=measurement.not_before_readings(now, [], added.counted),
        in_force=in_force,
    )
    log.info(
        "total returns added",
        checkpoint=str(added.checkpoint.id),
        benchmark_total_return_pct=f"{added.checkpoint.benchmark_total_return_pct:.2f}",
        picks=len(added.metrics),
    )
    return len(added.metrics)


class _Result(Struct, frozen=True, kw_only=True):
    """
    The result of a batch, with what its total returns depend on.

    `histories` are those of the picks' shares, by the id of the metric.
    """

    batch: Batch
    checkpoint: Checkpoint
    benchmark: ShareHistory
    picks: Mapping[UUID, Pick]
    metrics: Sequence[PickMetric]
    histories: Mapping[UUID, ShareHistory]

    @property
    def without_total(self) -> list[PickMetric]:
        """Return the metrics that have no total return yet."""
        return [metric for metric in self.metrics if not metric.has_totals]

    @property
    def tickers(self) -> set[str]:
        """Return the tickers whose dividends the total returns need."""
        tickers: set[str] = set()
        for history in (self.benchmark, *self.histories.values()):
            tickers.update(period.ticker for period in self.periods(history))
        return tickers

    def last_day(self, history: ShareHistory) -> date:
        """Return the last day whose dividends count: that of the result, or an earlier ending."""
        assert self.checkpoint.trading_day, "a result has a session"
        return history.effective_session(self.checkpoint.trading_day)

    def periods(self, history: ShareHistory) -> list[DividendPeriod]:
        """Return the days between the baseline and the result, with the share's tickers."""
        assert self.batch.trading_day, "a batch with picks has a baseline"
        return history.tickers.dividend_periods(self.batch.trading_day, self.last_day(history))

    def is_known(self, history: ShareHistory, responses: Mapping[str, DividendResponse]) -> bool:
        """Return whether the dividends of a share are known up to the result."""
        unknown = dividends.find_unknown(
            self.periods(history),
            responses=responses,
            in_force=history.dividends,
            through=self.last_day(history),
        )
        return unknown is None


async def _find_incomplete(conn: Conn, batch: Batch) -> _Result | None:
    """
    Return the result of a batch; None if it has none, or not yet, or if it has all total returns.

    A response about the benchmark concerns every batch of the record, so a complete result costs
    only the queries that show this.
    """
    checkpoint = await checkpoints.get_result(conn, batch)
    if checkpoint is None:
        return None
    metrics = await checkpoints.list_metrics(conn, checkpoint.id)
    if all(metric.has_totals for metric in metrics):
        return None
    picks = await batches.list_picks(conn, batch.id)
    of_picks = await share_histories.for_picks(conn, batch, picks)
    histories: dict[UUID, ShareHistory] = {}
    for metric in metrics:
        history = await share_histories.for_metric(
            conn, batch, metric=metric, history=of_picks[metric.pick_id]
        )
        histories[metric.id] = await share_histories.with_dividends(conn, history)
    places = {pick.id: pick.position for pick in picks}
    return _Result(
        batch=batch,
        checkpoint=checkpoint,
        benchmark=await share_histories.with_dividends(
            conn, await share_histories.for_benchmark(conn, batch)
        ),
        picks={pick.id: pick for pick in picks},
        metrics=sorted(metrics, key=lambda metric: places[metric.pick_id]),
        histories=histories,
    )


class _Added(Struct, frozen=True):
    """
    The rows with the total returns that become known.

    `metrics` are pairs: the metric as it is stored, and the new one. `counted` are the dividends
    that the new total returns count.
    """

    checkpoint: Checkpoint
    metrics: list[tuple[PickMetric, PickMetric]]
    counted: list[Dividend]


def _compute(result: _Result, responses: Mapping[str, DividendResponse]) -> _Added | None:
    """Return the total returns that become known; None if there are none."""
    if not result.is_known(result.benchmark, responses):
        return None
    checkpoint, counted = result.checkpoint, list[Dividend]()
    if not checkpoint.has_totals:
        checkpoint, counted = measurement.total_of_benchmark(
            result.batch, checkpoint, result.benchmark
        )
    metrics: list[tuple[PickMetric, PickMetric]] = []
    for metric in result.without_total:
        history = result.histories[metric.id]
        if not result.is_known(history, responses):
            continue
        with_total, received = measurement.total_of_pick(
            result.batch,
            checkpoint,
            pick=result.picks[metric.pick_id],
            metric=metric,
            history=history,
        )
        metrics.append((metric, with_total))
        counted += received
    if result.checkpoint.has_totals and not metrics:
        return None
    # Two picks may count one reading, such as after a merger of two tickers.
    return _Added(checkpoint, metrics, list(dict.fromkeys(counted)))
