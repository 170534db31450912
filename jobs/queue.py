"""
The queue: Procrastinate on our Postgres, its tasks, and when a job is tried again.

`procrastinate --app=jobs.queue.app worker` (and `shell`, `healthchecks`, `defer`) needs nothing but the environment:
connections are made when the app is opened, and a worker started that way makes its own tools.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from math import inf
from time import monotonic
from typing import Any

import msgspec
import procrastinate
import psycopg
import structlog
from procrastinate import BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision
from procrastinate.connector import BaseConnector, Notify
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from app.core import logging, presence, settings
from app.core.presence import cause_of, is_away, is_denied, why
from app.core.settings import Settings
from app.database import pools, rehearsed, roles
from app.database.advice import denied, user_of
from app.database.embedded import address_of
from app.database.rights import Need
from app.domain.calendar import Calendar, Clock, today
from app.domain.journal import timestamp
from app.errors import RecordDamaged, TryAgainAt
from app.providers import model_ends, rate_limiter
from app.providers.alpha_vantage import AlphaVantage
from app.providers.llm import OpenAIPicker
from app.providers.webhook import Receiver
from jobs import strikes
from jobs.context import Context, RealClock

# How long a process may be silent before its jobs are put back, and how often it gives a sign of life.
STALLED_AFTER = 30.0
HEARTBEAT = 5.0

# What the queue asks of Postgres takes milliseconds; a connection that is used for so long has fallen silent.
LONGEST_OF_QUEUE = 10.0

# How long a job may go on when the process is told to stop; then it goes back to the queue.
DRAIN = 20.0

# A tick is offered until the Monday is over in New York, so that a Monday that begins late still begins.
MONDAY_LASTS = timedelta(hours=15)

DATABASE_AWAY = timedelta(seconds=5)

# A right was taken from the database's user: a person gives it back, and nothing of the record is given up meanwhile.
RIGHT_MISSING = timedelta(minutes=1)

# A job that is refused as too early waits for so long at least; and at most, if Postgres takes it for due already.
SHORTEST_WAIT = timedelta(seconds=1)
LONGEST_CORRECTION = timedelta(minutes=1)
MOST_APART = timedelta(days=2)

MOST_SURPRISES = 5

# A job that begins for the first time so long after it was due tells how late it is.
LATE = timedelta(minutes=5)

log = structlog.get_logger()


class Surprise(Exception):
    """Something went wrong in a job that nothing here expects; `times` is how often it has by now."""

    def __init__(self, times: int) -> None:
        super().__init__(f"surprise {times} of {MOST_SURPRISES}")
        self.times = times


class Jobs(JobManager):
    """
    Procrastinate's access to its jobs.

    `lost` is called when the end of a job could not be written down. `heard_at` is when Postgres last did what a
    worker wanted, by the monotonic clock. `clock` is the jobs' clock.
    """

    lost: Callable[[], None] | None = None
    heard_at: float = -inf

    def __init__(self, connector: BaseConnector, clock: Callable[[], Clock]) -> None:
        super().__init__(connector)
        self._clock = clock

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Return the next job that is due, which then belongs to the worker."""
        job = await super().fetch_job(queues, worker_id)
        self._heard()
        return job

    async def update_heartbeat(self, worker_id: int) -> None:
        """Write down that the worker lives."""
        await super().update_heartbeat(worker_id)
        self._heard()

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Write down that a job has ended."""
        with self._noticing():
            await super().finish_job(job, status, delete_job)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Write down that a job is to be tried again; `retry_at` is a time of the jobs' own clock."""
        with self._noticing():
            if retry_at:
                retry_at = await self._in_postgres_time(retry_at)
            await super().retry_job(job, retry_at, priority, queue, lock)

    async def _in_postgres_time(self, at: datetime) -> datetime:
        """Return when Postgres, whose clock decides what is due, will have waited as long as our clock says."""
        clock = self._clock()
        if getattr(clock, "is_simulated", False):  # Postgres goes by the same simulated time
            return at
        row = await self.connector.execute_query_one_async("SELECT clock_timestamp() AS now")
        return retried_at(at, ours=clock.now(), postgres=row["now"])

    def _heard(self) -> None:
        self.heard_at = monotonic()
        presence.written()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except ConnectorException as error:
            if is_away(error) and self.lost:
                self.lost()
            raise


def retried_at(at: datetime, *, ours: datetime, postgres: datetime) -> datetime:
    """
    Return the time by Postgres's clock at which a job is tried again that waits until `at` by ours.

    The wait is what counts: where our clock is behind, `at` is in Postgres's past, and the job would be fetched again
    at once, over and over; where it is ahead, the job would wait longer. A wait for what Postgres takes for due already
    is cut into pieces, because our clock may be set right at any moment.
    """
    wait = at - ours
    if wait <= timedelta(0):
        return min(at, postgres)
    if abs(postgres - ours) > MOST_APART:
        # No clock is so wrong: it was set to another time on purpose, and moves when it is told to.
        return max(at, postgres + SHORTEST_WAIT)
    if at <= postgres:
        wait = min(wait, LONGEST_CORRECTION)
    return postgres + max(SHORTEST_WAIT, wait)


class Queue(procrastinate.App):
    """Procrastinate's App, with the tools that its jobs are handed."""

    tools: Context | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.job_manager: Jobs = Jobs(self.connector, self._clock)

    def now(self) -> datetime:
        """Return the time of the jobs' own clock."""
        return self._clock().now()

    def _clock(self) -> Clock:
        return self.tools.clock if self.tools else RealClock()

    async def run_worker_async(self, **options: Any) -> None:
        """Run a worker; one that was started on its own, by Procrastinate's command line, makes its tools first."""
        if self.tools:
            await super().run_worker_async(**options)
            return
        configuration = settings.load()
        settings.refuse_without_keys(configuration)
        logging.configure(configuration.log_level, self.now, configuration.keys)
        pool = pools.make_pool(address_of(configuration.database_url), pooled=configuration.database_pooled)
        async with pools.opened(pool), handed(self, configuration, pool, RealClock()):
            await rehearsed.refuse(pool)
            model_ends.warn(configuration.openai_model, today(self.now()))
            await super().run_worker_async(**options)


class Retry(BaseRetryStrategy):
    """
    When something that did not succeed is tried again: the whole policy, and who keeps which part of it.

    | what happened                           | then                                               | kept by        |
    |-----------------------------------------|----------------------------------------------------|----------------|
    | no answer, or none that can be read     | 5 attempts, waits of at most 2, 4, 8, 16 s         | alpha_vantage  |
    | ... in all 5, on a Monday               | TryAgainAt the next time, as for a close           | weekly         |
    | the provider asked us to slow down      | the same                                           | alpha_vantage  |
    | the provider does not know a ticker     | 5 attempts, waits of 5, 15, 60, 120 s; class       | alpha_vantage  |
    |                                         | shares with a dash and with a dot in turn          |                |
    | it knew that ticker lately              | as no answer: attempts are used up                 | prices         |
    | our own limits are reached              | a wait of up to a minute; else TryAgainAt          | ledger         |
    | the provider says the quota is spent    | TryAgainAt, in an hour, for every job              | ledger         |
    | a close is not there yet                | TryAgainAt 9:30, 10:30, 12:30, 16:30, 20:30        | weekly, daily  |
    | attempts or times are used up           | a skipped checkpoint, a failed Monday              | weekly, daily  |
    | a bad key, a premium endpoint, ...      | the same, at once, saying what to change           | weekly, daily  |
    | the model's answer cannot be used       | asked again with the reason, 3 questions in all    | weekly         |
    | a ticker that is unknown or delisted    | the same                                           | weekly         |
    | a ticker that lacks its close at 20:30  | the same                                           | weekly         |
    | the model's provider does not answer    | TryAgainAt, in 1 minute, then in 10, or when it    | weekly         |
    |                                         | says; 3 questions in all                           |                |
    | a question is open in another process   | TryAgainAt its lapse                               | weekly         |
    | a checkpoint was skipped                | looked at once a day while the batch is active     | upkeep         |
    | no room, or no answer, for late splits  | TryAgainAt 10:00 the next day, until its week ends | late_splits    |
    | a message is not taken for now          | TryAgainAt twice its age, at most an hour; a day   | messages       |
    | a message is refused                    | no more; the log says what to change               | messages       |
    | TryAgainAt                              | at the time it says; not a failed attempt          | this strategy  |
    | shut down in the middle                 | at once, by whoever is there                       | this strategy  |
    | the database was away or read-only      | in 5 seconds, as often as it takes                 | this strategy  |
    | its user lacks a right                  | TryAgainAt, in 1 minute, as often as it takes      | middleware     |
    | a row that it needs is damaged          | the job has failed; the log names the row          | this strategy  |
    | a surprise                              | after 2, 4, 8, 16 seconds; then the job has failed | this strategy  |
    | its process died                        | put back, 10 times; then the job has failed        | upkeep         |
    | the job has failed                      | a skipped checkpoint, a failed Monday              | upkeep         |

    The wait is by the jobs' own clock, also where that is not Postgres's, which decides what is due (`retried_at`).
    A job that was put back more than once shares a lock with others like it; one that ends in order is free again.
    """

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return when to try again, or None; times come from the jobs' own clock."""
        now = app.now()
        match exception:
            case asyncio.CancelledError() | JobAborted():
                at = now
            case TryAgainAt():
                at = exception.at
            case Surprise() if exception.times < MOST_SURPRISES:
                at = now + timedelta(seconds=2.0**exception.times)
            case _ if is_away(exception):
                at = now + DATABASE_AWAY
            case _:
                return None
        return RetryDecision(retry_at=at, lock=f"job {job.id}" if job.lock else None)


async def in_the_log(job: Callable[[], Awaitable[Any]], context: JobContext, _: Any) -> Any:
    """Let every line that a job logs say whose it is, and log what does not end as it should."""
    known = {"batch" if name == "batch_id" else name: value for name, value in context.job.task_kwargs.items()}
    known.pop("timestamp", None)
    with structlog.contextvars.bound_contextvars(
        job=context.job.id, task=context.job.task_name, attempt=context.job.attempts + 1, **known
    ):
        due = None if "retake" in known else context.job.scheduled_at  # another look is meant to be later
        if due and not context.job.attempts and app.now() - due > LATE:
            log.warning("this job is late", due=str(due), late=str(app.now() - due).partition(".")[0])
        try:
            return await job()
        except Exception as error:
            _tell(error)
            raise


def _tell(error: Exception) -> None:
    """Say that a job goes back to the queue, until when and why; of one that has failed, Procrastinate does."""
    match error:
        case TryAgainAt() if error.__cause__ and is_denied(error.__cause__):
            log.warning("a right is missing", until=timestamp(error.at), reason=str(error))
        case TryAgainAt():
            log.info("job waits", until=timestamp(error.at), reason=str(error))
        case Surprise() if error.times < MOST_SURPRISES:
            log.error("surprise in a job", times=error.times, of=MOST_SURPRISES, exc_info=error.__cause__)
        case RecordDamaged():
            log.error("the record is damaged", reason=str(error))
        case _ if is_away(error):
            log.warning("job waits for the database", reason=why(error))


async def counted(job: Callable[[], Awaitable[Any]], context: JobContext, _: Any) -> Any:
    """Count the surprises of a job where every process can read them: the next attempt may be another's."""
    try:
        return await job()
    except (TryAgainAt, JobAborted, RecordDamaged):  # a damaged row stays as it is until a person restores it
        raise
    except Exception as error:
        if is_away(error):
            raise
        if is_denied(error):
            raise TryAgainAt(await _what_is_denied(error), app.now() + RIGHT_MISSING) from error
        raise Surprise(await _strike(context.job)) from error


async def _what_is_denied(error: Exception) -> str:
    """Return which right the jobs lack, with the statement that gives it."""
    pool, cause = tools().pool, cause_of(error)
    address = str(pool.conninfo)
    async with pool.connection() as conn:
        if statements := await roles.missing(conn, Need.WORK):
            return roles.lacking(address, user_of(address), Need.WORK, statements)
    assert isinstance(cause, psycopg.Error)
    return denied(address, cause)


async def _strike(job: Job) -> int:
    async with tools().pool.connection() as conn:
        return await strikes.add_surprise(conn, job.id)


MIDDLEWARE = [in_the_log, counted]


def _pool(conninfo: str) -> pools.Pool:
    return pools.make_pool(conninfo, size=4, name="queue", autocommit=False, longest=LONGEST_OF_QUEUE)


class Connector(PsycopgConnector):
    """Procrastinate's connections: a small pool of the queue's own, so that nothing else can starve it."""

    def __init__(self, address: Callable[[], str]) -> None:
        super().__init__(pool_factory=lambda **_: _pool(address()))
        self._address = address

    async def open_async(self, pool: pools.Pool | None = None) -> None:
        """Make the pool; refuse a database that cannot be reached, or that is not one for the record."""
        if pool is None:
            await pools.check(self._address())  # the pool itself would only say that it timed out
        await super().open_async(pool)

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """
        Listen for new jobs, and pass over every other notification.

        Each user of the database may send one. Procrastinate ends the worker at a payload that it cannot read, and
        aborts the job that a payload names; a job whose row says that it is to be aborted it finds without one.
        """

        async def heard(*, channel: str, payload: str) -> None:
            if _is_of_a_new_job(payload):
                await on_notification(channel=channel, payload=payload)

        await super().listen_notify(on_notification=heard, channels=channels)


def _is_of_a_new_job(payload: str) -> bool:
    """Return whether the queue's own trigger may have sent a notification, for a job that was deferred."""
    try:
        notification = msgspec.json.decode(payload, type=_NewJob)
    except msgspec.MsgspecError:
        return False
    return notification.type == "job_inserted"


class _NewJob(msgspec.Struct):
    type: str
    job_id: int


def connector(conninfo: str) -> Connector:
    """Return a connector for a process that knows the queue's address."""
    return Connector(lambda: conninfo)


@asynccontextmanager
async def handed(queue: Queue, settings: Settings, pool: pools.Pool, clock: Clock) -> AsyncIterator[Context]:
    """Make the tools that `settings` describe, and hand them to the queue's jobs for the time of the context."""
    limits = rate_limiter.alpha_vantage_limits(settings)
    tools = Context(
        pool=pool,
        picker=OpenAIPicker(
            settings.openai_api_key,
            settings.openai_model,
            settings.openai_base_url,
            settings.openai_temperature,
            timeout=settings.openai_timeout,
            clock=clock,
        ),
        prices=AlphaVantage(
            settings.alpha_vantage_api_key,
            rate_limiter.Ledger(pool, "alphavantage", limits, clock),
            clock,
            settings.alpha_vantage_base_url,
        ),
        calendar=Calendar(settings.market_closed_days),
        benchmark=settings.benchmark_symbol,
        clock=clock,
        alerts=Receiver("ALERT_WEBHOOK_URL", settings.alert_webhook_url, clock),
        heartbeat=Receiver("HEARTBEAT_URL", settings.heartbeat_url, clock),
    )
    queue.tools = tools
    try:
        yield tools
    finally:
        queue.tools = None
        await tools.prices.close()
        await tools.picker.close()
        await tools.alerts.close()
        await tools.heartbeat.close()


def tools() -> Context:
    """Return the tools of the job that asks."""
    assert app.tools is not None, "a worker runs only with its tools"
    return app.tools


app = Queue(
    connector=Connector(lambda: address_of(settings.load().queue_address)),
    import_paths=["jobs.weekly", "jobs.daily", "jobs.late_splits", "jobs.alerts", "jobs.heartbeat"],
    worker_defaults={
        "concurrency": 8,
        "fetch_job_polling_interval": 1.0,
        "update_heartbeat_interval": HEARTBEAT,
        "stalled_worker_timeout": STALLED_AFTER,
        "shutdown_graceful_timeout": DRAIN,
        "worker_middleware": MIDDLEWARE,
    },
    periodic_defaults={"max_delay": MONDAY_LASTS.total_seconds()},
)
