"""
The status snapshot: the state of the service at one moment, as Postgres knows it.

`alpha-monday status` and `/metrics` both read it with this module. `StatusSnapshot` holds the parts
that a person and a machine both need. `OperatorSnapshot` adds what only a person needs: lists of
jobs and checkpoints, messages, and what went wrong before. `MetricsSnapshot` adds counts over the
whole record. Each snapshot is read in one read-only transaction. What is read from Postgres is the
same in every process and after a restart.

`/health` shows less. Each process determines for itself whether the database responds, and whether
its own worker is alive.

All times are times of the jobs' clock, which is simulated in a rehearsal. Only the age of a
worker's heartbeat is measured in real time.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from msgspec import Struct, field
from psycopg import Error
from psycopg_pool import PoolTimeout

from app.core import series_file
from app.core.availability import UNAVAILABLE_ERRORS, ReadOnlyError, is_unavailable
from app.core.series_file import SeriesSettings
from app.core.settings import Settings
from app.database import pools
from app.database.embedded import resolve_database_url
from app.domain import calendar
from app.domain.calendar import Clock
from app.domain.declarations import AnyDeclaration, ModelDeclaration, expected_mondays
from app.domain.model import (
    CHECKPOINT_DAYS,
    SERIES,
    Batch,
    BatchStatus,
    FailureReason,
    JournalHead,
    batch_id,
)
from app.domain.request_plan import RequestPlan
from app.domain.text import one_line
from app.domain.timestamps import is_before
from app.errors import ConfigurationError, RecordDamaged
from app.providers import timestamp_services
from app.providers.head_repository import HeadRepository
from app.providers.model_ends import ModelEnd, announced_end
from app.providers.rate_limiter import (
    MAX_WAIT,
    RateLimit,
    RemainingRequests,
    RequestLedger,
    alpha_vantage_limits,
)
from app.store import (
    batches,
    checkpoints,
    closes,
    declarations,
    generations,
    journal,
    rehearsed,
    timestamps,
)
from app.store.checkpoints import ComputedCheckpoint, DueCheckpoint, Lateness
from app.store.generations import GenerationCounts
from app.store.rehearsed import RecordIdentity
from app.store.rows import Conn
from app.store.timestamps import ServiceStamps
from jobs import (
    admin,
    alerts,
    heartbeat,
    model_ends,
    published_heads,
    queue_tables,
    reconcile,
    request_budget,
    weekly,
)
from jobs.admin import Subjects
from jobs.daily import take_checkpoint
from jobs.messages import LastMessage
from jobs.published_heads import PublicationState
from jobs.queue_tables import NOT_ENDED, JobCount, JobRow, WorkerRow
from jobs.reconcile import LastRound
from jobs.request_budget import Configured, PlanInputs
from jobs.worker import Worker

# In seconds: how long `/metrics` and `/health` wait for a connection, and also how long they may
# use the connection.
TIME_LIMIT = 2

# The buckets of the lateness of checkpoints, in seconds: from a minute to two days.
LATENESS_BUCKETS = (60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0)

# The state of the newest Monday is the status of its batch. Without a batch it is one of these:
#
# - not_begun: the record is empty, and its first Monday is still to come
# - absent: no job makes the batch
# - under_way: a job makes the batch
NOT_BEGUN, ABSENT, UNDER_WAY = "not_begun", "absent", "under_way"
MONDAY_STATES = (NOT_BEGUN, ABSENT, UNDER_WAY, *BatchStatus)

# How long a missed Monday and a delayed batch or checkpoint stay in `PastProblems`.
_MISSED_PERIOD = timedelta(weeks=13)
_DELAYED_PERIOD = timedelta(weeks=4)

# A batch is delayed if it was stored more than ten minutes after its due time. (Its field `late` is
# something else: it depends on the open of the market.) A checkpoint is delayed only after half a
# day. Until then, it may wait for a close that the provider does not have yet.
_MAX_BATCH_DELAY = timedelta(minutes=10)
_MAX_CHECKPOINT_DELAY = timedelta(hours=12)

# A snapshot reads at most this many unfinished jobs, and at most this many failed jobs.
_MAX_JOBS = 10_000

_SNAPSHOT_MODE = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_STATEMENT_TIMEOUT = f"; SET LOCAL statement_timeout = '{TIME_LIMIT}s'"

# What a job is about: a series, a Monday and, for a checkpoint or late splits, a day. All of them
# are None for any other job.
_Subject = tuple[str | None, date | None, int | None]

log = structlog.get_logger()


# The parts that every snapshot has


class QueueState(Struct, frozen=True):
    """The queue: its workers, the reconciler's last round, and the jobs by task and status."""

    workers: list[WorkerRow]
    reconciler: LastRound | None
    jobs: list[JobCount]

    @property
    def has_worker(self) -> bool:
        """Return whether a worker is alive."""
        return any(worker.is_alive for worker in self.workers)


class Monday(Struct, frozen=True):
    """
    The newest Monday whose run has started, of a series.

    `batch` is its batch, and `job` the job that makes the batch. `questions` is how many questions
    the series had on this Monday, and `has_begun` whether it had a batch or a question on any
    Monday.
    """

    series: str
    run_date: date
    batch: Batch | None
    job: int | None
    questions: int
    has_begun: bool

    def state(self, today: date) -> str:
        """Return the state of the Monday, one of MONDAY_STATES. `today` is the date in New York."""
        if self.batch:
            return self.batch.status
        if self.job:
            return UNDER_WAY
        # Before its first batch, only today's Monday can be absent: earlier Mondays do not belong
        # to the series.
        if self.has_begun or self.run_date == today:
            return ABSENT
        return NOT_BEGUN


class RecordState(Struct, frozen=True):
    """
    The state of the record.

    `mondays` has the newest Monday of each series that is configured, and of each other series that
    has a batch of it; `monday` is the first of them.

    All checkpoints here belong to active batches. `overdue` are due and have no row. `upcoming` are
    due within the next 14 days. Both are in the order of their due times. `skipped` were skipped
    because a price was missing.
    """

    mondays: list[Monday]
    overdue: list[DueCheckpoint]
    upcoming: list[DueCheckpoint]
    skipped: list[DueCheckpoint]
    journal_head: JournalHead | None

    @property
    def monday(self) -> Monday:
        """Return the newest Monday of the first series."""
        return self.mondays[0]


class ProviderState(Struct, frozen=True):
    """Alpha Vantage: the limits per second, minute and day, and how many requests remain."""

    limits: Sequence[RateLimit]
    quota: RemainingRequests


class StatusSnapshot(Struct, frozen=True, kw_only=True):
    """
    The state of the service at one moment, for any reader.

    `plan_inputs` is what the plan of price requests is made of. `stamps` has each service that has
    stamped the journal. `publication` is what is stored about the publication of the journal's
    head. `model_ends` has what is known about the end of each series' model.
    """

    at: datetime
    queue: QueueState
    record: RecordState
    providers: ProviderState
    plan_inputs: PlanInputs
    stamps: list[ServiceStamps]
    publication: PublicationState
    model_ends: list[ModelEnd]

    @property
    def quota_is_spent(self) -> bool:
        """Return whether a request must wait longer than MAX_WAIT, so that its job is deferred."""
        return self.providers.quota.next_at - self.at > MAX_WAIT

    @property
    def request_plan(self) -> RequestPlan:
        """Return the price requests of the next 14 days."""
        # It is not computed while the snapshot is read: the first use of the calendar may take
        # longer than `/metrics` may use its connection.
        return self.plan_inputs.make_plan()

    @property
    def next_run_at(self) -> datetime:
        """Return when the next Monday's run starts."""
        return calendar.next_run_at(self.at)

    def seconds_since(self, moment: datetime | None) -> float | None:
        """Return the seconds from `moment` until this snapshot, or None if `moment` is None."""
        if moment is None:
            return None
        return (self.at - moment).total_seconds()


# The parts that only a person needs. The keys of `status --json` never change. So some of them
# differ from the name of their attribute: `field(name=...)` sets the key.


class PendingCheckpoint(Struct, frozen=True):
    """
    A checkpoint without a row, with the job that takes it, if there is one.

    `attempts` is the number of attempts of that job, `next_attempt_at` the time of the next one.
    """

    run_date: date
    day: int
    due_at: datetime
    job: int | None
    attempts: int
    next_attempt_at: datetime | None = field(default=None, name="tried_at")
    series: str = SERIES


class FailedJob(Struct, frozen=True):
    """
    A job that failed.

    `owed` is true if the record still needs the job's work. There are three such cases:

    - Today's Monday of the series has no batch, and no other job makes it.
    - A checkpoint of an active batch has no row, and no other job takes it.
    - A checkpoint of an active batch was skipped because a price was missing.
    """

    id: int
    task: str
    run_date: date | None
    day: int | None
    owed: bool
    series: str | None = None


class SkippedCheckpoint(Struct, frozen=True):
    """A checkpoint of an active batch that was skipped because a price was missing."""

    run_date: date
    day: int
    due_at: datetime
    reason: str
    note: str
    series: str = SERIES


class WorkState(Struct, frozen=True):
    """
    Checkpoints and jobs that may need attention.

    - `next_checkpoints` are due next, all at the same time.
    - `next_figures` are the next checkpoints that can have figures. The day before such a
      checkpoint is a session. If the day before is not a session, the checkpoint is always skipped.
    - `overdue` are due and have no row.
    - `skipped` were skipped because a price was missing.
    - `stalled` are the ids of the jobs whose worker has stopped.
    """

    next_checkpoints: list[PendingCheckpoint]
    next_figures: list[PendingCheckpoint]
    overdue: list[PendingCheckpoint]
    skipped: list[SkippedCheckpoint]
    stalled: list[int]
    failed: list[FailedJob]


class MessageState(Struct, frozen=True):
    """
    The state of the alerts, or of the heartbeats.

    `enabled` is true if the address that they are sent to is set in this process. `waiting` is the
    number of messages that wait to be sent. The other fields are about the last message: `last_at`
    is the time at which it was created, and `outcome` is None while it waits.
    """

    enabled: bool = field(name="on")
    waiting: int = 0
    last_at: datetime | None = field(default=None, name="last")
    kind: str | None = field(default=None, name="what")
    outcome: str | None = None


class Messages(Struct, frozen=True):
    """The messages to the operator's receivers."""

    alerts: MessageState
    heartbeat: MessageState


class ModelState(Struct, frozen=True):
    """
    The model of the settings. `ends_on` is its announced last day, or None if no day is announced.
    """

    name: str
    ends_on: date | None


class MissedMonday(Struct, frozen=True):
    """A Monday that ended before its batch was stored. `started` is true if the model was asked."""

    run_date: date
    started: bool = field(name="asked")
    failure: str
    series: str = SERIES


class UnrecordedMonday(Struct, frozen=True):
    """A Monday of a series that is over and has no row yet."""

    run_date: date
    series: str


class PastProblems(Struct, frozen=True):
    """What did not happen in time. `unrecorded` are Mondays that are over and have no row yet."""

    missed: list[MissedMonday]
    unrecorded: list[UnrecordedMonday]
    delayed_batches: list[Batch]
    delayed_checkpoints: list[ComputedCheckpoint]


class SeriesState(Struct, frozen=True, kw_only=True):
    """
    A series that is configured, that the journal declares, or that has a batch.

    - `kind`: what chooses the picks; `model` is None for a control
    - `configured`: whether the settings of this process have the series. In a rehearsal, all series
      that are declared and not retired count as configured.
    - `declared`: whether a SERIES entry of the journal states the series
    - `retired`: whether its newest entry says that it is asked no more
    - `joins`: it is configured, and the next Monday declares it: it is new, or was retired
    - `leaves`: it is declared, but not configured any more, and the next Monday retires it
    - `first_run_date`: its first Monday with a batch
    - `missed`, `unrecorded`: its Mondays that are in `PastProblems`
    """

    name: str
    label: str
    kind: str
    model: ModelState | None
    configured: bool
    declared: bool
    retired: bool
    joins: bool
    leaves: bool
    first_run_date: date | None
    monday: Monday | None
    missed: list[date]
    unrecorded: list[date]


class FurtherState(Struct, frozen=True):
    """
    A further benchmark that the newest settings of the journal name.

    `last_read_at` is the time of its newest reading, None if no price of it was read.
    """

    symbol: str
    last_read_at: datetime | None


class OperatorSnapshot(StatusSnapshot, frozen=True, kw_only=True):
    """
    The state of the service for a person: `alpha-monday status`.

    `series` has each series, the configured ones first, in their order. `series_problem` is why the
    series cannot be read from the settings or the journal.
    `stamp_services` are the addresses of the settings, as they are stored with proofs.
    `unstamped` are the newest Mondays whose batch has no timestamp from before its open, although
    it could have one.
    `is_behind_real_time` is true for a rehearsal that has not reached the present.
    `publishes_heads` is true if HEAD_REPOSITORY is set in this process. `last_batch` is the newest
    batch with picks, `last_checkpoint` the computed checkpoint that was taken last.
    """

    rehearsed: bool
    identity: RecordIdentity
    is_behind_real_time: bool
    publishes_heads: bool
    model: ModelState
    series: list[SeriesState]
    series_problem: str | None
    work: WorkState
    last_batch: Batch | None
    last_checkpoint: ComputedCheckpoint | None
    messages: Messages
    past: PastProblems
    stamp_services: list[str]
    unstamped: list[Monday]
    further_benchmarks: list[FurtherState]

    @property
    def has_several_series(self) -> bool:
        """Return whether there can be two series, so that each is named."""
        return {one.name for one in self.series} != {SERIES}


# The parts that only a machine needs


class Totals(Struct, frozen=True):
    """
    Counts over the whole record and the whole ledger.

    `mondays` and `checkpoints` are counted by status and reason, `lateness` by status, `requests`
    by function and outcome, and the `repairs` of the reconciliation by kind.
    """

    mondays: Mapping[tuple[str, str], int]
    checkpoints: Mapping[tuple[str, str], int]
    lateness: Mapping[str, Lateness]
    requests: Mapping[tuple[str, str], int]
    generations: GenerationCounts
    repairs: Mapping[str, int]


class MetricsSnapshot(StatusSnapshot, frozen=True, kw_only=True):
    """
    The state of the service for a machine: `/metrics`.

    `waiting_since` is the time at which the job that has waited longest became ready to run.
    """

    waiting_since: datetime | None
    newest_checkpoint_at: datetime | None
    totals: Totals

    @property
    def monday_states(self) -> dict[str, str]:
        """Return the state of the newest Monday, one of MONDAY_STATES, by the series' name."""
        today = calendar.new_york_date(self.at)
        return {monday.series: monday.state(today) for monday in self.record.mondays}


# How snapshots are read


async def read_for_operator(pool: pools.Pool, settings: Settings, clock: Clock) -> OperatorSnapshot:
    """
    Return the state of the service for a person.

    For a rehearsal that has not reached the present, the time of the snapshot is the simulated time
    that the rehearsal has reached. Otherwise it is the time of `clock`.
    """
    ledger = RequestLedger(pool, "alphavantage", limits=alpha_vantage_limits(settings), clock=clock)
    async with pool.connection() as conn, conn.transaction():
        await conn.execute(_SNAPSHOT_MODE)
        simulated_time = await rehearsed.get_simulated_time_on_connection(conn)
        at = simulated_time or clock.now()
        sessions = calendar.Calendar(settings.market_closed_days)
        is_rehearsed = await rehearsed.is_rehearsed_on_connection(conn)
        known = await _read_known_series(conn, settings, is_rehearsed=is_rehearsed)
        # A file of series with a mistake is shown as a to-do, so it is not read again here.
        configured = Configured(
            series=known.names,
            sessions=sessions,
            benchmarks=(settings.benchmark_symbol, *settings.further_benchmarks),
        )
        record = await _read_record(conn, at, known.names)
        past = await _read_past(conn, at, known)
        return OperatorSnapshot(
            at=at,
            queue=await _read_queue(conn),
            record=record,
            providers=await _read_providers(conn, ledger, at),
            plan_inputs=await request_budget.read(conn, ledger, configured=configured, now=at),
            publication=await published_heads.get_state(
                conn, HeadRepository(settings.head_repository, settings.head_branch)
            ),
            rehearsed=is_rehearsed,
            identity=await rehearsed.get_identity(conn),
            is_behind_real_time=simulated_time is not None,
            publishes_heads=bool(settings.head_repository),
            model=ModelState(settings.openai_model, announced_end(settings.openai_model)),
            model_ends=model_ends.known_ends(
                await model_ends.list_stored(conn),
                series=known.names,
                model=settings.openai_model,
                has_series_file=bool(settings.series_file),
            ),
            series=_series_states(known, record, past),
            series_problem=known.problem,
            work=await _read_work(
                conn,
                record,
                series_of_batch=known.series_of_batch(),
                at=at,
                sessions=sessions,
            ),
            last_batch=await batches.get_newest_with_picks(conn),
            last_checkpoint=next(iter(await checkpoints.list_computed(conn, limit=1)), None),
            messages=await _read_messages(conn, settings),
            past=past,
            stamps=await timestamps.list_services(conn),
            stamp_services=timestamp_services.list_addresses(settings),
            unstamped=await _list_unstamped(conn, record.mondays, settings=settings, at=at),
            further_benchmarks=await _read_further(conn),
        )


class MetricsReader:
    """
    Reads the snapshot for `/metrics`, within TIME_LIMIT and with its own pool.

    `configured` has the names of the configured series.
    """

    def __init__(
        self, pool: pools.Pool, ledger: RequestLedger, clock: Clock, *, configured: Configured
    ) -> None:
        self.pool = pool
        self.ledger = ledger
        self.clock = clock
        self.configured = configured
        self._failed = False

    async def read(self) -> MetricsSnapshot | None:
        """Return the snapshot, or None while the database is unavailable or too slow."""
        try:
            async with _limited_connection(self.pool) as conn, conn.transaction():
                await conn.execute(_SNAPSHOT_MODE + _STATEMENT_TIMEOUT)
                snapshot = await _read_for_metrics(
                    conn, self.ledger, configured=self.configured, at=self.clock.now()
                )
        except (Error, PoolTimeout, OSError) as error:
            # Logged once for an outage, not at every scrape.
            if not self._failed:
                log.warning("metrics not read from Postgres", reason=one_line(error))
            self._failed = True
            return None
        self._failed = False
        return snapshot


@asynccontextmanager
async def metrics_reader(
    settings: Settings, ledger: RequestLedger, clock: Clock
) -> AsyncIterator[MetricsReader]:
    """
    Provide the reader for `/metrics`.

    It has a connection that neither the jobs nor the API use. So `/metrics` also responds when all
    connections of the jobs and the API are in use. The connection is made at the first request.
    """
    configured = request_budget.configured_by(settings)
    pool = pools.make_pool(
        resolve_database_url(settings.database_url),
        pooled=settings.database_pooled,
        max_size=1,
        min_size=0,
        name="metrics",
        acquire_timeout=TIME_LIMIT,
    )
    async with pool:
        yield MetricsReader(pool, ledger, clock, configured=configured)


async def _read_for_metrics(
    conn: Conn, ledger: RequestLedger, *, configured: Configured, at: datetime
) -> MetricsSnapshot:
    return MetricsSnapshot(
        at=at,
        queue=await _read_queue(conn),
        record=await _read_record(conn, at, configured.series),
        providers=await _read_providers(conn, ledger, at),
        plan_inputs=await request_budget.read(conn, ledger, configured=configured, now=at),
        publication=await published_heads.get_state(conn),
        waiting_since=await queue_tables.waiting_since(conn, at),
        newest_checkpoint_at=await checkpoints.get_last_taken_at(conn),
        stamps=await timestamps.list_services(conn),
        model_ends=[one.end for one in await model_ends.list_stored(conn)],
        totals=await _read_totals(conn, ledger, at),
    )


class PartHealth(StrEnum):
    """The health of a part of the service. The values are those of `/health`, which are stable."""

    ALIVE = "alive"
    UNAVAILABLE = "away"
    SWITCHED_OFF = "switched off"


class Health(Struct, frozen=True):
    """The health of the database and of this process's worker."""

    database: PartHealth
    worker: PartHealth

    @property
    def is_well(self) -> bool:
        """Return whether no part is unavailable; a worker that is switched off is no problem."""
        return PartHealth.UNAVAILABLE not in (self.database, self.worker)


async def health(pool: pools.Pool, worker: Worker | None) -> Health:
    """Return the health of a process; `worker` is None if it was switched off."""
    database = PartHealth.UNAVAILABLE
    if await _is_database_available(pool):
        database = PartHealth.ALIVE
    return Health(database=database, worker=_worker_health(worker))


def _worker_health(worker: Worker | None) -> PartHealth:
    if worker is None:
        return PartHealth.SWITCHED_OFF
    if worker.is_alive:
        return PartHealth.ALIVE
    return PartHealth.UNAVAILABLE


async def _is_database_available(pool: pools.Pool) -> bool:
    """
    Return whether the database responds within TIME_LIMIT and takes writes.

    A standby takes no writes, so it counts as unavailable.
    """
    try:
        async with _limited_connection(pool) as conn:
            cursor = await conn.execute("SELECT current_setting('transaction_read_only')")
            if await cursor.fetchone() == ("on",):
                # Raised inside `_limited_connection`, so that the pool closes this session and
                # records the outage. It is caught below.
                raise ReadOnlyError(
                    "the database takes no writes: it is a standby, or was made read-only"
                )
    except UNAVAILABLE_ERRORS as error:
        if not is_unavailable(error):
            raise
        return False
    return True


@asynccontextmanager
async def _limited_connection(pool: pools.Pool) -> AsyncIterator[Conn]:
    """
    Provide a connection, and disconnect it if it is in use for longer than TIME_LIMIT.

    Raises PoolTimeout if the pool has no connection within TIME_LIMIT.
    """
    async with pool.connection(timeout=TIME_LIMIT) as conn:
        # The connection is ended, and the task is not cancelled: if the server no longer responds,
        # psycopg needs ten seconds to cancel a query.
        timer = asyncio.get_running_loop().call_later(TIME_LIMIT, pools.disconnect, conn)
        try:
            yield conn
        finally:
            timer.cancel()


# How each part is read


async def _read_queue(conn: Conn) -> QueueState:
    return QueueState(
        workers=await queue_tables.list_workers(conn),
        reconciler=await reconcile.get_last_round(conn),
        jobs=await queue_tables.count_by_status(conn),
    )


class _KnownSeries(Struct, frozen=True, kw_only=True):
    """
    The series of the settings, of the journal and of the batches.

    `names` are the configured ones, with their labels and kinds. `declared` has the
    declarations of each series, in the order of the journal, and `recorded` its Mondays with a row.
    `asked` are the series and Monday of each question without such a row.
    """

    names: list[str]
    configured: Mapping[str, SeriesSettings]
    declared: Mapping[str, list[AnyDeclaration]]
    recorded: Mapping[str, set[date]]
    asked: Sequence[tuple[str, date]]
    problem: str | None

    def series_of_batch(self) -> dict[UUID, str]:
        """Return the series of each batch, by the batch's id."""
        series = {}
        for name, mondays in self.recorded.items():
            series.update({batch_id(name, monday): name for monday in mondays})
        return series


async def _read_known_series(conn: Conn, settings: Settings, *, is_rehearsed: bool) -> _KnownSeries:
    """
    Return the series of the settings, of the journal and of the batches.

    A rehearsal has settings of its own, so its series are those that its journal declares.
    """
    problem = None
    declared: dict[str, list[AnyDeclaration]] = {}
    try:
        for one in await declarations.list_all_series(conn):
            declared.setdefault(one.value.name, []).append(one.value)
    except RecordDamaged as error:
        problem = str(error)
    recorded: dict[str, set[date]] = {}
    for name, monday in await batches.list_mondays(conn):
        recorded.setdefault(name, set()).add(monday)
    configured: dict[str, SeriesSettings] = {}
    if is_rehearsed:
        names = [name for name, entries in declared.items() if not entries[-1].retired]
    else:
        try:
            configured = {one.name: one for one in series_file.load(settings)}
        except ConfigurationError as error:
            problem = str(error)
        names = list(configured)
    if not names:
        names = sorted(recorded) or [SERIES]
    return _KnownSeries(
        names=names,
        configured=configured,
        declared=declared,
        recorded=recorded,
        asked=await generations.list_mondays_without_batch(conn),
        problem=problem,
    )


def _series_states(
    known: _KnownSeries, record: RecordState, past: PastProblems
) -> list[SeriesState]:
    mondays = {monday.series: monday for monday in record.mondays}
    names = dict.fromkeys([*known.names, *sorted({*known.declared, *known.recorded})])
    states = []
    for name in names:
        entries = known.declared.get(name, [])
        newest = entries[-1] if entries else None
        is_configured = name in known.names
        is_retired = bool(newest and newest.retired)
        label, kind, model = _describe_choice(known.configured.get(name), newest)
        state = SeriesState(
            name=name,
            label=label or name,
            kind=kind,
            model=model,
            configured=is_configured,
            declared=newest is not None,
            retired=is_retired,
            # A record without any declaration is empty, or not sealed: it declares nothing more
            # than its first entry.
            joins=bool(known.declared) and is_configured and (newest is None or is_retired),
            leaves=newest is not None and not is_configured and not is_retired,
            first_run_date=min(known.recorded.get(name, ()), default=None),
            monday=mondays.get(name),
            missed=[monday.run_date for monday in past.missed if monday.series == name],
            unrecorded=[monday.run_date for monday in past.unrecorded if monday.series == name],
        )
        states.append(state)
    return states


def _describe_choice(
    configured: SeriesSettings | None, newest: AnyDeclaration | None
) -> tuple[str, str, ModelState | None]:
    """Return the label and the kind of a series, and its model if it asks one."""
    if configured is not None:
        label, kind, model = configured.label, configured.kind, configured.model
    elif isinstance(newest, ModelDeclaration):
        label, kind, model = newest.label, newest.kind, newest.profile.model
    elif newest is not None:
        label, kind, model = newest.label, newest.kind, ""
    else:
        # A record that is not sealed has batches of a series that it never declares.
        return "", "model", None
    if not model:
        return label, kind, None
    return label, kind, ModelState(model, announced_end(model))


async def _read_record(conn: Conn, at: datetime, series: Sequence[str]) -> RecordState:
    """Return the state of the record. `series` are the names of the configured series."""
    run_date = calendar.latest_run_date(at)
    of_monday = {batch.series: batch for batch in await batches.list_by_run_date(conn, run_date)}
    begun = await batches.list_series(conn)
    mondays = []
    for name in dict.fromkeys([*series, *of_monday]):
        weekly_jobs = await weekly.list_live_jobs(conn, name, run_date, until=run_date)
        monday = Monday(
            series=name,
            run_date=run_date,
            batch=of_monday.get(name),
            job=weekly_jobs[0] if weekly_jobs else None,
            questions=await generations.count(conn, name, run_date),
            has_begun=name in begun,
        )
        mondays.append(monday)
    pending = await checkpoints.list_due(
        conn, calendar.checkpoint_date(calendar.new_york_date(at), CHECKPOINT_DAYS)
    )
    return RecordState(
        mondays=mondays,
        overdue=[due for due in pending if due.due_at <= at],
        upcoming=[due for due in pending if due.due_at > at],
        skipped=await checkpoints.list_skipped(conn),
        journal_head=await journal.head(conn),
    )


async def _read_providers(conn: Conn, ledger: RequestLedger, at: datetime) -> ProviderState:
    return ProviderState(limits=ledger.limits, quota=await ledger.remaining(conn, at))


async def _read_totals(conn: Conn, ledger: RequestLedger, at: datetime) -> Totals:
    return Totals(
        mondays=await batches.count_by_status(conn),
        checkpoints=await checkpoints.count_by_status(conn),
        lateness=await checkpoints.get_lateness(conn, LATENESS_BUCKETS),
        requests=await ledger.count_outcomes(conn, at),
        generations=await generations.count_outcomes(conn),
        repairs=await reconcile.total_repairs(conn),
    )


async def _read_work(
    conn: Conn,
    record: RecordState,
    *,
    series_of_batch: Mapping[UUID, str],
    at: datetime,
    sessions: calendar.Calendar,
) -> WorkState:
    """Return what may need attention. `series_of_batch` has the series by the batch's id."""
    unfinished = await queue_tables.find_jobs(conn, NOT_ENDED, task=None, limit=_MAX_JOBS)
    failed = await queue_tables.find_jobs(conn, ("failed",), task=None, limit=_MAX_JOBS)
    subjects = await admin.subjects(conn, [*unfinished, *failed])
    by_subject = _jobs_by_subject(unfinished, subjects)
    overdue = [_pending_checkpoint(due, series_of_batch, by_subject) for due in record.overdue]
    upcoming = [_pending_checkpoint(due, series_of_batch, by_subject) for due in record.upcoming]
    skipped = await _read_skipped(conn, record, series_of_batch)
    with_figures = [
        checkpoint
        for checkpoint in upcoming
        if sessions.first_measured_day(checkpoint.run_date, [checkpoint.day])
    ]
    owed = _owed_subjects(
        record.mondays,
        [*overdue, *upcoming],
        skipped=skipped,
        today=calendar.new_york_date(at),
    )
    return WorkState(
        next_checkpoints=_due_first(upcoming),
        next_figures=_due_first(with_figures),
        overdue=overdue,
        skipped=skipped,
        stalled=[job.id for job in unfinished if job.status == "stalled"],
        failed=[_failed_job(job, subjects, owed) for job in failed],
    )


def _due_first(checkpoints: Sequence[PendingCheckpoint]) -> list[PendingCheckpoint]:
    """Return the checkpoints that are due first. `checkpoints` are ordered by their due times."""
    return [checkpoint for checkpoint in checkpoints if checkpoint.due_at == checkpoints[0].due_at]


def _jobs_by_subject(jobs: Sequence[JobRow], subjects: Subjects) -> dict[_Subject, JobRow]:
    """Return the jobs that take a checkpoint, by the series, the Monday and the day."""
    by_subject: dict[_Subject, JobRow] = {}
    for job in jobs:
        if job.task == take_checkpoint.name and job.id in subjects:
            subject = subjects[job.id]
            by_subject[subject.series, subject.run_date, subject.day] = job
    return by_subject


def _pending_checkpoint(
    due: DueCheckpoint, series_of_batch: Mapping[UUID, str], jobs: Mapping[_Subject, JobRow]
) -> PendingCheckpoint:
    """Return a checkpoint without a row, with the job that takes it."""
    # An id that does not fit its series was changed outside of the service.
    series = series_of_batch.get(due.batch_id, SERIES)
    job = jobs.get((series, due.run_date, due.day))
    if job is None:
        return PendingCheckpoint(
            series=series,
            run_date=due.run_date,
            day=due.day,
            due_at=due.due_at,
            job=None,
            attempts=0,
        )
    return PendingCheckpoint(
        series=series,
        run_date=due.run_date,
        day=due.day,
        due_at=due.due_at,
        job=job.id,
        attempts=job.attempts,
        next_attempt_at=job.scheduled_at,
    )


def _owed_subjects(
    mondays: Sequence[Monday],
    pending: Sequence[PendingCheckpoint],
    *,
    skipped: Sequence[SkippedCheckpoint],
    today: date,
) -> set[_Subject]:
    """
    Return the Mondays and checkpoints whose failed job a person must know of:

    - today's Monday of a series, if it has neither a batch nor a job
    - the `pending` checkpoints that have no job
    - the checkpoints that were `skipped` because a price was missing
    """
    without_job = [checkpoint for checkpoint in pending if checkpoint.job is None]
    owed: set[_Subject] = {
        (checkpoint.series, checkpoint.run_date, checkpoint.day) for checkpoint in without_job
    }
    owed |= {(checkpoint.series, checkpoint.run_date, checkpoint.day) for checkpoint in skipped}
    for monday in mondays:
        if monday.run_date == today and monday.batch is None and monday.job is None:
            owed.add((monday.series, monday.run_date, None))
    return owed


def _failed_job(job: JobRow, subjects: Subjects, owed: set[_Subject]) -> FailedJob:
    subject = subjects.get(job.id)
    run_date = subject.run_date if subject else None
    day = subject.day if subject else None
    series = subject.series if subject else None
    return FailedJob(
        series=series,
        id=job.id,
        task=job.task,
        run_date=run_date,
        day=day,
        owed=(series, run_date, day) in owed,
    )


async def _read_skipped(
    conn: Conn, record: RecordState, series_of_batch: Mapping[UUID, str]
) -> list[SkippedCheckpoint]:
    skipped = []
    for due in record.skipped:
        row = await checkpoints.get(conn, due.batch_id, due.day)
        if row is None:
            continue
        checkpoint = SkippedCheckpoint(
            series=series_of_batch.get(due.batch_id, SERIES),
            run_date=due.run_date,
            day=due.day,
            due_at=due.due_at,
            reason=row.skip_reason or "",
            note=row.note or "",
        )
        skipped.append(checkpoint)
    return skipped


async def _read_messages(conn: Conn, settings: Settings) -> Messages:
    return Messages(
        alerts=_message_state(settings.alert_webhook_url, await alerts.get_newest(conn)),
        heartbeat=_message_state(settings.heartbeat_url, await heartbeat.get_newest(conn)),
    )


async def _read_further(conn: Conn) -> list[FurtherState]:
    try:
        declared = await declarations.get_settings(conn)
    except RecordDamaged:  # the state of the record says so
        return []
    if declared is None:
        return []
    return [
        FurtherState(symbol, await closes.get_last_read_at(conn, symbol))
        for symbol in declared.further_benchmarks or ()
    ]


async def _list_unstamped(
    conn: Conn, mondays: Sequence[Monday], *, settings: Settings, at: datetime
) -> list[Monday]:
    """Return the Mondays whose batch should have a timestamp from before its open."""
    unstamped = []
    for monday in mondays:
        if await _lacks_stamp(conn, monday.batch, settings=settings, at=at):
            unstamped.append(monday)
    return unstamped


async def _lacks_stamp(
    conn: Conn, batch: Batch | None, *, settings: Settings, at: datetime
) -> bool:
    """Return whether a batch should have a timestamp from before its open, and has none."""
    if batch is None or batch.status == BatchStatus.FAILED or batch.late:
        return False
    sessions = calendar.Calendar(settings.market_closed_days)
    opens_at = await timestamps.get_first_open(conn, batch, sessions)
    is_expected = bool(settings.timestamp_urls) or await timestamps.exists(conn)
    if not is_expected or at < opens_at:
        return False
    return not is_before(await timestamps.list_covering(conn, batch.id), opens_at)


def _message_state(receiver: str, last: LastMessage | None) -> MessageState:
    """
    Return the state of one kind of message.

    `receiver` is the address that the messages are sent to, empty if no address is set.
    """
    if last is None:
        return MessageState(enabled=bool(receiver))
    return MessageState(
        enabled=bool(receiver),
        waiting=last.waiting,
        last_at=last.at,
        kind=last.kind,
        outcome=last.outcome,
    )


async def _read_past(conn: Conn, at: datetime, known: _KnownSeries) -> PastProblems:
    today = calendar.new_york_date(at)
    recent = await batches.list_since(conn, today - _MISSED_PERIOD)
    missed = [batch for batch in recent if batch.failure_reason == FailureReason.MISSED]
    delayed = [batch for batch in recent if _is_delayed(batch)]
    computed = await checkpoints.list_computed(conn, at - _DELAYED_PERIOD)
    return PastProblems(
        missed=[await _read_missed_monday(conn, batch) for batch in missed],
        unrecorded=_list_unrecorded(known, today),
        delayed_batches=[batch for batch in delayed if batch.run_date >= today - _DELAYED_PERIOD],
        delayed_checkpoints=[
            checkpoint for checkpoint in computed if _is_delayed_checkpoint(checkpoint)
        ],
    )


def _list_unrecorded(known: _KnownSeries, today: date) -> list[UnrecordedMonday]:
    """Return the Mondays before today that have no row and should have one, oldest first."""
    first_of_record = min((min(mondays) for mondays in known.recorded.values()), default=None)
    if first_of_record is None:
        return []
    unrecorded = []
    for name in {*known.recorded, *known.declared}:
        recorded = known.recorded.get(name, set())
        expected = expected_mondays(
            known.declared.get(name, ()),
            recorded,
            asked={monday for series, monday in known.asked if series == name},
            first_of_record=first_of_record,
            until=today,
        )
        unrecorded += [
            UnrecordedMonday(monday, name) for monday in expected if monday not in recorded
        ]
    return sorted(unrecorded, key=lambda monday: (monday.run_date, monday.series))


async def _read_missed_monday(conn: Conn, batch: Batch) -> MissedMonday:
    questions = await generations.list_by_run_date(conn, batch.series, batch.run_date)
    return MissedMonday(
        series=batch.series,
        run_date=batch.run_date,
        started=bool(questions),
        failure=batch.failure or "",
    )


def _is_delayed(batch: Batch) -> bool:
    return batch.status != BatchStatus.FAILED and delay_of_batch(batch) > _MAX_BATCH_DELAY


def _is_delayed_checkpoint(checkpoint: ComputedCheckpoint) -> bool:
    # A checkpoint that was skipped at first is delayed because its prices arrived late, not because
    # of the service.
    return checkpoint.late_by > _MAX_CHECKPOINT_DELAY and not checkpoint.was_skipped


def delay_of_batch(batch: Batch) -> timedelta:
    """Return the time from nine o'clock in New York, when a batch is due, until it was stored."""
    return batch.created_at - calendar.due_at(batch.run_date)
