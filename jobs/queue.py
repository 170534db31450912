"""
The queue: Procrastinate on our Postgres, its tasks, and when a job is tried again.

`procrastinate --app=jobs.queue.app worker` (and `shell`, `healthchecks`, `defer`) needs nothing but the environment:
connections are made when the app is opened, and a worker started that way makes its own tools.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import procrastinate
import psycopg
import structlog
from procrastinate import BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.jobs import Job
from psycopg_pool import PoolTimeout

from app import logs, settings
from app.database import pools, rehearsed
from app.database.embedded import address_of
from app.errors import TryAgainAt
from app.providers import ledger
from app.providers.alpha_vantage import AlphaVantage
from app.providers.openai import OpenAIPicker
from app.record.calendar import Calendar, Clock
from app.settings import Settings
from app.tools import RealClock, Tools

# How long a process may be silent before its jobs are put back, and how often it gives a sign of life.
STALLED_AFTER = 30.0
HEARTBEAT = 5.0

# How long a job may go on when the process is told to stop; then it goes back to the queue.
DRAIN = 20.0

# A tick is offered until the Monday is over in New York, so that a Monday that begins late still begins.
MONDAY_LASTS = timedelta(hours=15)

DATABASE_AWAY = timedelta(seconds=5)
MOST_SURPRISES = 5

AWAY = (psycopg.OperationalError, ConnectorException, PoolTimeout)


class Queue(procrastinate.App):
    """Procrastinate's App, with the tools that its jobs are handed."""

    tools: Tools | None = None

    def now(self) -> datetime:
        """Return the time of the jobs' own clock."""
        return self.tools.now() if self.tools else RealClock().now()

    async def run_worker_async(self, **options: Any) -> None:
        """Run a worker; one that was started on its own, by Procrastinate's command line, makes its tools first."""
        if self.tools:
            await super().run_worker_async(**options)
            return
        configuration = settings.load()
        settings.refuse_without_keys(configuration)
        logs.configure(configuration.log_level, self.now, configuration.keys)
        pool = pools.make_pool(address_of(configuration.database_url), pooled=configuration.database_pooled)
        async with pools.opened(pool), handed(self, configuration, pool, RealClock()):
            await rehearsed.refuse(pool)
            await super().run_worker_async(**options)


class Retry(BaseRetryStrategy):
    """
    When something that did not succeed is tried again: the whole policy, and who keeps which part of it.

    | what happened                           | then                                               | kept by        |
    |-----------------------------------------|----------------------------------------------------|----------------|
    | no answer, or none that can be read     | 5 attempts, waits of at most 2, 4, 8, 16 s         | alpha_vantage  |
    | the provider asked us to slow down      | the same                                           | alpha_vantage  |
    | a class share is unknown with a dash    | at once with a dot                                 | alpha_vantage  |
    | our own limits are reached              | a wait of up to a minute; else TryAgainAt          | ledger         |
    | the provider says the quota is spent    | TryAgainAt, in an hour, for every job              | ledger         |
    | a close is not there yet                | TryAgainAt 9:30, 10:30, 12:30, 16:30, 20:30        | weekly, daily  |
    | attempts or times are used up           | a skipped checkpoint, a failed Monday              | weekly, daily  |
    | a bad key, a premium endpoint, ...      | the same, at once, saying what to change           | weekly, daily  |
    | the model's answer cannot be used       | asked again with the reason, 3 questions in all    | weekly         |
    | a ticker that is unknown or delisted    | the same                                           | weekly         |
    | a question is open in another process   | TryAgainAt its lapse                               | weekly         |
    | a checkpoint was skipped                | looked at once a day while the batch is active     | upkeep         |
    | TryAgainAt                              | at the time it says; not a failed attempt          | this strategy  |
    | shut down in the middle                 | at once, by whoever is there                       | this strategy  |
    | the database was away                   | in 5 seconds, as often as it takes                 | this strategy  |
    | a surprise                              | after 2, 4, 8, 16 seconds; then the job has failed | this strategy  |
    """

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return when to try again, or None; times come from the jobs' own clock."""
        now = app.now()
        match exception:
            case asyncio.CancelledError() | JobAborted():
                return RetryDecision(retry_at=now)
            case TryAgainAt():
                return RetryDecision(retry_at=exception.at)
            case _ if isinstance(exception, AWAY):
                return RetryDecision(retry_at=now + DATABASE_AWAY)
            case _ if job.attempts + 1 < MOST_SURPRISES:
                return RetryDecision(retry_at=now + timedelta(seconds=2.0 ** (job.attempts + 1)))
        return None


async def in_the_log(job: Callable[[], Awaitable[Any]], context: JobContext, _: Any) -> Any:
    """Let every line that a job logs say whose it is."""
    known = {name: value for name, value in context.job.task_kwargs.items() if name != "timestamp"}
    with structlog.contextvars.bound_contextvars(
        job=context.job.id, task=context.job.task_name, attempt=context.job.attempts + 1, **known
    ):
        return await job()


def connector(conninfo: str) -> PsycopgConnector:
    """Return a connector for a process: a small pool of the queue's own, so that nothing else can starve it."""
    return PsycopgConnector(pool_factory=lambda **_: _pool(conninfo))


def _pool(conninfo: str) -> pools.Pool:
    return pools.make_pool(conninfo, size=4, name="queue", autocommit=False)


@asynccontextmanager
async def handed(queue: Queue, settings: Settings, pool: pools.Pool, clock: Clock) -> AsyncIterator[Tools]:
    """Make the tools that `settings` describe, and hand them to the queue's jobs for the time of the context."""
    limits = ledger.windows(
        settings.alpha_vantage_per_second, settings.alpha_vantage_per_minute, settings.alpha_vantage_per_day
    )
    tools = Tools(
        pool=pool,
        picker=OpenAIPicker(
            settings.openai_api_key, settings.openai_model, settings.openai_base_url, settings.openai_temperature
        ),
        prices=AlphaVantage(
            settings.alpha_vantage_api_key,
            ledger.Ledger(pool, "alphavantage", limits, clock),
            clock,
            settings.alpha_vantage_base_url,
        ),
        calendar=Calendar(settings.market_closed_days),
        benchmark=settings.benchmark_symbol,
        clock=clock,
    )
    queue.tools = tools
    try:
        yield tools
    finally:
        queue.tools = None
        await tools.prices.close()
        await tools.picker.close()


def tools() -> Tools:
    """Return the tools of the job that asks."""
    assert app.tools is not None, "a worker runs only with its tools"
    return app.tools


app = Queue(
    connector=PsycopgConnector(pool_factory=lambda **_: _pool(address_of(settings.load().queue_address))),
    import_paths=["jobs.weekly", "jobs.daily"],
    worker_defaults={
        "concurrency": 8,
        "fetch_job_polling_interval": 1.0,
        "update_heartbeat_interval": HEARTBEAT,
        "stalled_worker_timeout": STALLED_AFTER,
        "shutdown_graceful_timeout": DRAIN,
        "worker_middleware": [in_the_log],
    },
    periodic_defaults={"max_delay": MONDAY_LASTS.total_seconds()},
)
