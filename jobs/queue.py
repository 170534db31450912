"""
The queue: Procrastinate on the service's Postgres, the context of its jobs, and the retry policy.

`procrastinate --app=jobs.queue.app worker` (and `shell`, `healthchecks`, `defer`) needs only the
environment variables: connections are made when the app is opened, and a worker that is started in
this way builds its own context.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
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

from app.core import availability, logging, request_quota, series_file, settings
from app.core.availability import (
    describe_cause,
    is_permission_denied,
    is_unavailable,
    root_cause,
)
from app.core.series_file import SeriesSettings
from app.core.settings import Settings
from app.database import pools, roles
from app.database.advice import get_user, permission_denied_message
from app.database.embedded import resolve_database_url
from app.database.rights import Need
from app.domain.calendar import Calendar, Clock, new_york_date
from app.domain.journal import format_timestamp
from app.domain.text import one_line
from app.errors import RecordDamaged, TryAgainAt
from app.providers import model_ends, rate_limiter, timestamp_services
from app.providers.alpha_vantage import AlphaVantage
from app.providers.head_repository import HeadRepository
from app.providers.llm import ModelClient, ModelOptions
from app.providers.webhook import WebhookReceiver
from app.store import rehearsed
from jobs import in_force, start_checks, strikes
from jobs.context import Context, RealClock

# Seconds without a heartbeat after which a worker's jobs are put back.
STALLED_AFTER = 30.0

# How many jobs a worker of one series runs at once.
_CONCURRENCY = 8

# Seconds between two heartbeats of a worker.
HEARTBEAT_INTERVAL = 5.0

# Seconds after which a connection that is still in use counts as hanging: the queue's statements
# take milliseconds.
MAX_CONNECTION_USE = 10.0

# Seconds that a running job gets to finish when the process is told to stop. After that the job
# goes back to the queue.
DRAIN_TIMEOUT = 20.0

# A tick of the weekly job that is late by at most this much still starts the job. From 09:00 on, 15
# hours are the rest of Monday in New York: if the service starts late on a Monday, the batch is
# still made.
MAX_TICK_DELAY = timedelta(hours=15)

# The pause before the next attempt of a job while Postgres is unavailable.
DATABASE_RETRY_DELAY = timedelta(seconds=5)

# The pause before the next attempt of a job if the database's user lacks a right. A person has to
# grant it, so there is no limit of attempts.
RIGHT_MISSING_DELAY = timedelta(minutes=1)

# The pause before the next attempt of a job if the record is sealed, and this version does not know
# how to record in it. A newer worker does the job, or an operator updates this one, so there is no
# limit of attempts. After the first refusal of a task, this process does not begin that task again:
# each attempt would spend a request of Alpha Vantage's daily quota, and could not store the answer.
SEALED_DELAY = timedelta(minutes=1)
# The name with which Postgres refuses a reading or a question of such a version. The trigger comes
# with the version that seals records.
SEALED_CONSTRAINT = "this_record_is_sealed"

# Limits for the conversion of a retry's time; see `retry_time_in_postgres`.
MIN_RETRY_DELAY = timedelta(seconds=1)
MAX_DELAY_IF_DUE_IN_POSTGRES = timedelta(minutes=1)
MAX_CLOCK_DIFFERENCE = timedelta(days=2)

# After this number of unexpected errors, a job is not tried again.
MAX_UNEXPECTED_FAILURES = 5

# If the first attempt of a job starts later than this after its due time, the delay is logged.
LATE_AFTER = timedelta(minutes=5)

# Some arguments of jobs have another name in the log: here is the log field of each.
_LOG_FIELDS = {"batch_id": "batch"}

log = structlog.get_logger()


class UnexpectedFailure(Exception):
    """
    A job failed with an error that this module does not expect.

    `count` is how many such errors the job has had, this one included.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"unexpected error {count} of {MAX_UNEXPECTED_FAILURES}")
        self.count = count


class RecordSealed(TryAgainAt):
    """The record is sealed, and this version is too old to record a question or a reading in it."""


class QueueJobManager(JobManager):
    """
    Procrastinate's job manager, which also reports to the worker's supervisor (`jobs/worker.py`).

    `on_lost_result` is called when the end of a job could not be stored. `last_success_at` is the
    time of Postgres's last response to a worker's request, by the monotonic clock. `clock` is a
    function that returns the jobs' clock.
    """

    on_lost_result: Callable[[], None] | None = None
    last_success_at: float = -inf

    def __init__(self, connector: BaseConnector, clock: Callable[[], Clock]) -> None:
        super().__init__(connector)
        self._clock = clock

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Assign to a worker the next job that is due. Return it, or None if no job is due."""
        job = await super().fetch_job(queues, worker_id)
        self._record_success()
        return job

    async def update_heartbeat(self, worker_id: int) -> None:
        """Store that the worker is alive."""
        await super().update_heartbeat(worker_id)
        self._record_success()

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Store that a job has ended."""
        with self._report_lost_result():
            await super().finish_job(job, status, delete_job)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Store that a job is to be tried again; `retry_at` is a time of the jobs' own clock."""
        with self._report_lost_result():
            if retry_at:
                retry_at = await self._to_postgres_time(retry_at)
            await super().retry_job(
                job, retry_at=retry_at, priority=priority, queue=queue, lock=lock
            )

    async def _to_postgres_time(self, at: datetime) -> datetime:
        """Convert a time of the jobs' clock to Postgres's clock, which decides what is due."""
        clock = self._clock()
        # In a rehearsal, Postgres uses the same simulated time.
        if getattr(clock, "is_simulated", False):
            return at
        row = await self.connector.execute_query_one_async("SELECT clock_timestamp() AS now")
        return retry_time_in_postgres(at, job_now=clock.now(), postgres_now=row["now"])

    def _record_success(self) -> None:
        self.last_success_at = monotonic()
        availability.record_write()

    @contextmanager
    def _report_lost_result(self) -> Iterator[None]:
        """Call `on_lost_result` if Postgres becomes unavailable within the context."""
        try:
            yield
        except ConnectorException as error:
            if is_unavailable(error) and self.on_lost_result:
                self.on_lost_result()
            raise


def retry_time_in_postgres(at: datetime, *, job_now: datetime, postgres_now: datetime) -> datetime:
    """
    Convert `at`, a time of the jobs' clock until which a job waits, to Postgres's clock.

    The job waits equally long by both clocks. Example: it is 09:00 for the job and 09:10 for
    Postgres, and `at` is 09:30. The job waits for 30 minutes, until 09:40 for Postgres.

    Without a conversion, a job whose clock is ahead of Postgres's would wait longer than it should.
    A job whose clock is behind would wait less. If `at` were in the past for Postgres, the job
    would even be fetched again at once, over and over.

    There are two exceptions:

    - If `at` is in the past for Postgres, the jobs' clock is behind, and may be corrected at any
      moment. So the job waits at most a minute, and is then tried again.
    - If the clocks differ by more than two days, `at` is not converted.
    """
    wait = at - job_now
    if wait <= timedelta(0):
        return min(at, postgres_now)
    if abs(postgres_now - job_now) > MAX_CLOCK_DIFFERENCE:
        # No clock is that wrong by accident: a test or a rehearsal controls it, so `at` is kept.
        return max(at, postgres_now + MIN_RETRY_DELAY)
    if at <= postgres_now:
        wait = min(wait, MAX_DELAY_IF_DUE_IN_POSTGRES)
    return postgres_now + max(MIN_RETRY_DELAY, wait)


class Queue(procrastinate.App):
    """
    Procrastinate's App, with the context of its jobs.

    `refusals` has the tasks that a sealed record has refused in this context: the reason, by the
    name of the task.
    """

    context: Context | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.refusals: dict[str, str] = {}
        self.job_manager: QueueJobManager = QueueJobManager(self.connector, self._clock)

    def now(self) -> datetime:
        """Return the time of the jobs' own clock."""
        return self._clock().now()

    def _clock(self) -> Clock:
        if self.context is None:
            return RealClock()
        return self.context.clock

    async def run_worker_async(self, **options: Any) -> None:
        """
        Run a worker.

        If the context is not bound yet, Procrastinate's command line has started the worker. Then
        the context is built first, with the settings of the environment.
        """
        if self.context:
            await super().run_worker_async(**_with_concurrency(options, self.context))
            return
        configuration = settings.load()
        series_file.require_service_keys(configuration)
        request_quota.require_room_for_closes(configuration)
        secrets = series_file.secret_texts(configuration)
        logging.configure(configuration.log_level, self.now, secrets)
        pool = pools.make_pool(
            resolve_database_url(configuration.database_url), pooled=configuration.database_pooled
        )
        async with (
            pools.opened(pool),
            bind_context(self, configuration, pool=pool, clock=RealClock()) as context,
        ):
            await rehearsed.refuse_rehearsal(pool)
            await start_checks.require_series(pool, configuration, context.in_force)
            model_ends.log_end_warnings(context.model_clients, new_york_date(self.now()))
            await super().run_worker_async(**_with_concurrency(options, context))


class RetryPolicy(BaseRetryStrategy):
    """
    The retry policy: when a job that did not succeed is tried again.

    This list has the whole policy, by the module that decides. Each line names a case, and after
    the colon what is then done. TryAgainAt is the error with which a job asks to be tried again at
    a time.

    `alpha_vantage`:
    - The response cannot be read, or asks to slow down: 5 attempts, with waits of at most 2, 4, 8
      and 16 seconds.
    - The ticker is unknown: 5 attempts, with waits of 5, 15, 60 and 120 seconds. For a class of
      shares, the attempts alternate between two spellings: BRK-B and BRK.B.

    `rate_limiter`:
    - Our own limits are reached: the job waits for up to a minute; if that is not enough,
      TryAgainAt.
    - The provider says that the quota is spent: TryAgainAt in an hour, for every job that requests
      something from this provider.

    `prices`:
    - The ticker is unknown, but the provider knew it recently: the same as if all attempts for a
      price were used up.

    `weekly`:
    - The model's answer is refused; or a ticker is unknown, is no longer traded, or has no close at
      20:30: another question with the reason, at most 3 questions in all.
    - The model's provider does not answer: TryAgainAt in 1 minute, or in 10 minutes if only one
      question is left. If the provider gives a later time: TryAgainAt that time, but not later than
      20:30. At most 3 questions in all.
    - Another process has an open question: TryAgainAt the time at which that question times out.
    - All attempts for a price are used up: TryAgainAt as for a close that is not available.

    `weekly` and `daily`:
    - A close is not available yet: TryAgainAt the next of 9:30, 10:30, 12:30, 16:30, 20:30.
    - It is after the last of these times, or the attempts for a checkpoint are used up: the Monday
      fails, or the checkpoint is skipped.
    - The request is wrong (a wrong key, a premium endpoint and so on): the Monday fails, or the
      checkpoint is skipped, at once. The reason says what to change.

    `late_splits`:
    - The quota has no room, or there is no response: TryAgainAt 10:00 the next day, until the week
      is over.

    `further_benchmarks`:
    - The quota has no room, or there is no response: TryAgainAt 10:30 the next day, until the next
      Sunday.

    `rates`:
    - The quota has no room, or there is no response: TryAgainAt 11:00 the next day, until the next
      Sunday.

    `messages`:
    - The receiver did not accept the message for now: TryAgainAt the time that the receiver gives.
      If it gives none, the pause is as long as the message is old: at least 30 seconds, at most an
      hour. An alert is given up after a day, and a heartbeat at midnight in New York.
    - The receiver refused the message: it is given up, and the log says what to change.

    `timestamps`:
    - The service did not answer, or its answer does not verify: TryAgainAt in 30 seconds, then in
      twice that time, up to an hour, until a later job has stamped the journal.
    - A pending proof is not in a block yet: TryAgainAt in 12 hours, for 14 days.
    `published_heads`:
    - The head could not be published, for any reason: the pause is as long as publishing has
      failed, at least a minute and at most an hour, without a limit of attempts.

    This class and its middleware:
    - The job raised TryAgainAt: at that time. This is not a failed attempt.
    - The process was stopped during the job: at once, in any process.
    - The database is unavailable: in 5 seconds, without a limit.
    - The database's user lacks a right: in 1 minute, without a limit.
    - The record is sealed, and this version is too old to record in it: in 1 minute, without a
      limit. From then on, this process does not begin any job of the same task.
    - A row that the job needs is damaged: the job has failed, and the log names the row.
    - An unexpected error: in 2, 4, 8, 16 seconds; then the job has failed.

    `reconcile`:
    - The job's process died: the job is put back. At the tenth death it has failed.
    - The job has failed: the checkpoint is skipped, or the Monday fails.
    - A checkpoint was skipped because a price was missing: a retake once a day. When the batch is
      completed, the retakes get only the requests that nothing else needs.

    Waits are measured by the jobs' own clock, although Postgres's clock decides what is due (see
    `retry_time_in_postgres`). A job whose process died more than once shares one lock with all such
    jobs, so that they run one at a time (`reconcile`). If a job raises an error, it did not kill
    its process, so its next attempt gets a lock of its own.
    """

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return when to try again by the jobs' own clock, or None if the job has failed."""
        now = app.now()
        match exception:
            case asyncio.CancelledError() | JobAborted():
                at = now
            case TryAgainAt():
                at = exception.at
            case UnexpectedFailure() if exception.count < MAX_UNEXPECTED_FAILURES:
                at = now + timedelta(seconds=2.0**exception.count)
            case _ if is_unavailable(exception):
                at = now + DATABASE_RETRY_DELAY
            case _:
                return None
        # Procrastinate cannot remove a lock, so the job gets a lock that no other job has. It gets
        # one even if it began without a lock: the reconciliation may have put it back while it ran.
        return RetryDecision(retry_at=at, lock=f"job {job.id}")


async def log_job(
    run_job: Callable[[], Awaitable[Any]], job_context: JobContext, _worker: Any
) -> Any:
    """
    Bind the job's log context while it runs, and log errors and delays.

    A middleware of Procrastinate's worker.
    """
    job = job_context.job
    fields = {_LOG_FIELDS.get(name, name): value for name, value in job.task_kwargs.items()}
    fields.pop("timestamp", None)
    with structlog.contextvars.bound_contextvars(
        job=job.id, task=job.task_name, attempt=job.attempts + 1, **fields
    ):
        _log_late_start(job)
        try:
            return await run_job()
        except Exception as error:
            _log_error(error)
            raise


def _log_late_start(job: Job) -> None:
    """Log a warning if the first attempt of a job starts late."""
    # A retake is scheduled for the morning of its checkpoint, which may be days ago. That is no
    # delay, so nothing is logged.
    if job.attempts or job.scheduled_at is None or "retake" in job.task_kwargs:
        return
    delay = app.now() - job.scheduled_at
    if delay > LATE_AFTER:
        without_fraction, _, _ = str(delay).partition(".")
        log.warning("job started late", due=str(job.scheduled_at), late=without_fraction)


def _log_error(error: Exception) -> None:
    """
    Log the error of a job, and when the job is tried again.

    Procrastinate itself logs that a job has failed.
    """
    match error:
        case TryAgainAt() if error.__cause__ and is_permission_denied(error.__cause__):
            log.warning(
                "the database user lacks a right",
                until=format_timestamp(error.at),
                reason=str(error),
            )
        case RecordSealed():
            log.error(
                "this version is too old for the record",
                until=format_timestamp(error.at),
                reason=str(error),
            )
        case TryAgainAt():
            log.info("job waits", until=format_timestamp(error.at), reason=str(error))
        case UnexpectedFailure() if error.count < MAX_UNEXPECTED_FAILURES:
            log.error(
                "unexpected error in a job",
                times=error.count,
                of=MAX_UNEXPECTED_FAILURES,
                exc_info=error.__cause__,
            )
        case RecordDamaged():
            log.error("the record is damaged", reason=str(error))
        case _ if is_unavailable(error):
            log.warning("job waits for the database", reason=describe_cause(error))


async def count_failures(
    run_job: Callable[[], Awaitable[Any]], job_context: JobContext, _worker: Any
) -> Any:
    """
    Count the unexpected errors of a job, and raise errors that the retry policy understands.

    A middleware of Procrastinate's worker. The count is stored in the database, because the next
    attempt may run in another process. Raise UnexpectedFailure for an unexpected error. Raise
    TryAgainAt if the database's user lacks a right, and RecordSealed if the record is sealed and
    this version is too old to record in it.
    """
    task = job_context.job.task_name
    if task in app.refusals:
        raise RecordSealed(app.refusals[task], app.now() + SEALED_DELAY)
    try:
        return await run_job()
    except (TryAgainAt, JobAborted, RecordDamaged):
        # RecordDamaged is not counted or retried: the row stays damaged until a person restores it.
        raise
    except Exception as error:
        if is_unavailable(error):
            raise
        if is_permission_denied(error):
            message = await _permission_message(error)
            raise TryAgainAt(message, app.now() + RIGHT_MISSING_DELAY) from error
        refusal = _sealed_refusal(error)
        if refusal is not None:
            app.refusals[task] = refusal
            raise RecordSealed(refusal, app.now() + SEALED_DELAY) from error
        raise UnexpectedFailure(await _add_strike(job_context.job)) from error


def _sealed_refusal(error: BaseException) -> str | None:
    """Return why a sealed record refuses this version; None if the error has another cause."""
    cause = root_cause(error)
    if isinstance(cause, psycopg.Error) and cause.diag.constraint_name == SEALED_CONSTRAINT:
        return one_line(cause.diag.message_primary or cause)
    return None


async def _permission_message(error: Exception) -> str:
    """Return a message that says which right the jobs lack, and which statement grants it."""
    pool = current_context().pool
    address = str(pool.conninfo)
    async with pool.connection() as conn:
        statements = await roles.missing_grants(conn, Need.WORK)
    if statements:
        return roles.missing_rights_message(
            address, user=get_user(address), need=Need.WORK, statements=statements
        )
    cause = root_cause(error)
    assert isinstance(cause, psycopg.Error)
    return permission_denied_message(address, cause)


async def _add_strike(job: Job) -> int:
    async with current_context().pool.connection() as conn:
        return await strikes.add_unexpected_failure(conn, job.id)


MIDDLEWARE = [log_job, count_failures]


class Connector(PsycopgConnector):
    """Procrastinate's connector with a small pool of its own, so that no other work exhausts it."""

    def __init__(self, address: Callable[[], str]) -> None:
        super().__init__(pool_factory=lambda **_: _make_queue_pool(address()))
        self._address = address

    async def open_async(self, pool: pools.Pool | None = None) -> None:
        """Open the pool. Refuse a database that cannot be reached or cannot hold the record."""
        if pool is None:
            # The pool would report a database that cannot be reached only as a timeout.
            await pools.check(self._address())
        await super().open_async(pool)

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """
        Listen for new jobs, and ignore all other notifications.

        Any user of the database may send a notification. Procrastinate ends the worker if it cannot
        read a payload, and it aborts a job that a payload names. Nothing is lost if notifications
        of aborts are ignored: Procrastinate also finds an abort request in the job's row.
        """

        async def notify_of_new_job(*, channel: str, payload: str) -> None:
            if _is_new_job(payload):
                await on_notification(channel=channel, payload=payload)

        await super().listen_notify(on_notification=notify_of_new_job, channels=channels)


def _make_queue_pool(conninfo: str) -> pools.Pool:
    return pools.make_pool(
        conninfo, max_size=4, name="queue", autocommit=False, max_use_seconds=MAX_CONNECTION_USE
    )


def _is_new_job(payload: str) -> bool:
    """Return whether a notification has the form of those that the queue's own trigger sends."""
    try:
        notification = msgspec.json.decode(payload, type=_NewJob)
    except msgspec.MsgspecError:
        return False
    return notification.type == "job_inserted"


class _NewJob(msgspec.Struct):
    """The payload of a notification about a new job."""

    type: str
    job_id: int


def make_connector(conninfo: str) -> Connector:
    """Return a connector for an address. (The connector of `app` uses the settings' address.)"""
    return Connector(lambda: conninfo)


@asynccontextmanager
async def bind_context(
    queue: Queue,
    settings: Settings,
    *,
    pool: pools.Pool,
    clock: Clock,
    is_command: bool = False,
) -> AsyncIterator[Context]:
    """
    Build a context from `settings`, and bind it to the queue until the `async with` block ends.

    `is_command` is true for a command of an operator (see `app.domain.declarations.InForce`).

    At the end of the block, the clients of the providers and of the receivers are closed. The
    caller closes `pool`.
    """
    limits = rate_limiter.alpha_vantage_limits(settings)
    ledger = rate_limiter.RequestLedger(pool, provider="alphavantage", limits=limits, clock=clock)
    declared = in_force.make(settings, is_command=is_command)
    context = Context(
        pool=pool,
        model_clients=_make_model_clients(settings, clock, is_command=is_command),
        prices=AlphaVantage(
            key=settings.alpha_vantage_api_key,
            ledger=ledger,
            clock=clock,
            base_url=settings.alpha_vantage_base_url,
        ),
        calendar=Calendar(settings.market_closed_days),
        benchmark=settings.benchmark_symbol,
        in_force=declared,
        series=tuple(one.name for one in declared.series),
        has_series_file=bool(settings.series_file),
        clock=clock,
        alerts=WebhookReceiver("ALERT_WEBHOOK_URL", settings.alert_webhook_url, clock),
        heartbeat=WebhookReceiver("HEARTBEAT_URL", settings.heartbeat_url, clock),
        timestamps=timestamp_services.make_services(settings, clock),
        head_repository=HeadRepository(settings.head_repository, settings.head_branch),
    )
    # The stack closes every client, even if one of them raises an error.
    async with AsyncExitStack() as clients:
        for model_client in context.model_clients.values():
            clients.push_async_callback(model_client.close)
        for client in (context.prices, context.alerts, context.heartbeat, context.timestamps):
            clients.push_async_callback(client.close)
        queue.context = context
        queue.refusals.clear()
        try:
            yield context
        finally:
            queue.context = None


def _make_model_clients(
    settings: Settings, clock: Clock, *, is_command: bool
) -> dict[str, ModelClient]:
    """Return a client for each series that asks a model. A command of an operator asks none."""
    if is_command:
        return {}
    clients = {}
    for one in series_file.load(settings):
        if one.kind == "model":
            clients[one.name] = _make_model_client(settings, one, clock)
    return clients


def _make_model_client(settings: Settings, series: SeriesSettings, clock: Clock) -> ModelClient:
    model_setting = "OPENAI_MODEL"
    if settings.series_file:
        model_setting = f"model of [{series.name}] in SERIES_FILE"
    return ModelClient(
        key=series.key,
        options=ModelOptions(
            model=series.model,
            response_format=series.response_format,
            temperature=series.temperature,
            reasoning_effort=series.reasoning_effort,
            max_tokens=series.max_tokens,
            token_limit_as=series.token_limit_as,
            extra_body=series.extra_body,
        ),
        base_url=series.base_url,
        timeout=series.timeout_seconds,
        clock=clock,
        key_setting=series.key_from,
        model_setting=model_setting,
    )


def _with_concurrency(options: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """
    Return the options of a worker, which runs one job more for each further series.

    A job waits for the answer of its model. So the models of several series that hang, for example
    those of one provider, must not use up the concurrency: the other series would be late.
    """
    return {"concurrency": _CONCURRENCY + len(context.series) - 1, **options}


def current_context() -> Context:
    """Return the context of the job that is running."""
    assert app.context is not None, "a worker runs only with its context"
    return app.context


app = Queue(
    connector=Connector(lambda: resolve_database_url(settings.load().queue_address)),
    import_paths=[
        "jobs.weekly",
        "jobs.daily",
        "jobs.late_splits",
        "jobs.further_benchmarks",
        "jobs.rates",
        "jobs.dividends",
        "jobs.total_returns",
        "jobs.alerts",
        "jobs.heartbeat",
        "jobs.timestamps",
        "jobs.published_heads",
    ],
    worker_defaults={
        "concurrency": _CONCURRENCY,
        "fetch_job_polling_interval": 1.0,
        "update_heartbeat_interval": HEARTBEAT_INTERVAL,
        "stalled_worker_timeout": STALLED_AFTER,
        "shutdown_graceful_timeout": DRAIN_TIMEOUT,
        "worker_middleware": MIDDLEWARE,
    },
    periodic_defaults={"max_delay": MAX_TICK_DELAY.total_seconds()},
)
