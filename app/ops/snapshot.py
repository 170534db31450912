"""
The status snapshot: the state of the service at one moment, as Postgres knows it.

`alpha-monday status` and `/metrics` read it here, so each question to the database is written once.
`StatusSnapshot` holds the parts that a person and a machine both need. `OperatorSnapshot` adds what
only a person needs: lists of jobs and checkpoints, messages, and what went wrong before.
`MetricsSnapshot` adds counts over the whole record. Each is read in one read-only transaction. The
result is the same in every process and after a restart. `/health` reads less, in every process for
itself: whether the database answers, and whether the process's own worker is alive.

All times are the jobs' own, which a rehearsal simulates. Only the age of a worker's heartbeat is
measured in real time.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from enum import StrEnum

import structlog
from msgspec import Struct, field
from psycopg import Error
from psycopg_pool import PoolTimeout

from app.core.presence import AWAY, READ_ONLY, is_away
from app.core.settings import Settings
from app.database import pools, rehearsed
from app.database.embedded import address_of
from app.domain import calendar
from app.domain.calendar import Clock
from app.domain.model import CHECKPOINT_DAYS, SERIES, Batch, BatchStatus, FailureReason
from app.domain.text import one_line
from app.providers.model_ends import announced_end
from app.providers.rate_limiter import LONGEST_WAIT, Ledger, Left, Window, alpha_vantage_limits
from app.store import batches, checkpoints, generations, journal
from app.store.checkpoints import Computed, Due, Lateness
from app.store.generations import Asked
from app.store.rows import Conn
from jobs import admin, alerts, heartbeat, queue_tables, reconcile, weekly
from jobs.admin import Subjects
from jobs.daily import take_checkpoint
from jobs.messages import LastMessage
from jobs.queue_tables import NOT_ENDED, Counted, Found, Silent
from jobs.reconcile import LastRound
from jobs.worker import Worker

# How long `/metrics` and `/health` wait for a connection, and how long they then use it: seconds.
TIME_LIMIT = 2

# The buckets of the lateness of checkpoints, in seconds: from a minute to two days.
LATENESS_BUCKETS = (60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0)

# The newest Monday's state while it has no batch. One that has a batch has the batch's status.
NOT_BEGUN, ABSENT, UNDER_WAY = "not_begun", "absent", "under_way"
MONDAY_STATES = (NOT_BEGUN, ABSENT, UNDER_WAY, *BatchStatus)

# How far `Past` reaches back.
_MISSED_SINCE = timedelta(weeks=13)
_LATE_SINCE = timedelta(weeks=4)

# A batch is late after ten minutes. A checkpoint is late only after half a day, because until then
# the provider may not have the close yet, although the service runs.
_LATE_BATCH = timedelta(minutes=10)
_LATE_CHECKPOINT = timedelta(hours=12)

_MAX_JOBS = 10_000

_READ_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_WITHIN_TIME_LIMIT = f"; SET LOCAL statement_timeout = '{TIME_LIMIT}s'"

# What a job or a failure is about: a Monday and, of a checkpoint, its day.
_Subject = tuple[date | None, int | None]

log = structlog.get_logger()


# The parts that every snapshot has


class QueueState(Struct, frozen=True):
    """The queue: its workers, the reconciler's last round, and the jobs by task and status."""

    workers: list[Silent]
    reconciler: LastRound | None
    jobs: list[Counted]

    @property
    def has_worker(self) -> bool:
        """Return whether a worker is alive."""
        return any(worker.lives for worker in self.workers)


class Monday(Struct, frozen=True):
    """The newest Monday whose run has started: its batch, and the oldest job that is to make it."""

    run_date: date
    batch: Batch | None
    job: int | None


class JournalHead(Struct, frozen=True):
    """The journal's last entry."""

    seq: int
    hash: str
    at: datetime


class RecordState(Struct, frozen=True):
    """
    The record.

    `overdue` and `coming` are the checkpoints of active batches that have no row: those that are
    due, and those of the next 14 days, each oldest first. `without_prices` are the checkpoints of
    active batches that were skipped for lack of prices.
    """

    monday: Monday
    overdue: list[Due]
    coming: list[Due]
    without_prices: list[Due]
    journal_head: JournalHead | None


class ProviderState(Struct, frozen=True):
    """Alpha Vantage: the limits on requests per second, minute and day, and what they leave."""

    limits: Sequence[Window]
    quota: Left


class StatusSnapshot(Struct, frozen=True, kw_only=True):
    """The state of the service at one moment, for any reader."""

    at: datetime
    queue: QueueState
    record: RecordState
    providers: ProviderState

    @property
    def quota_is_spent(self) -> bool:
        """Return whether the quota is used up for longer than a job waits by itself."""
        return self.providers.quota.next_at - self.at > LONGEST_WAIT

    @property
    def next_run_at(self) -> datetime:
        """Return when the next Monday's run starts."""
        return calendar.next_run_at(self.at)

    def seconds_since(self, moment: datetime | None) -> float | None:
        """Return how many seconds ago a moment was."""
        return None if moment is None else (self.at - moment).total_seconds()


# The parts that only a person needs. `field(name=...)` is the key in `status --json`, which never
# changes.


class PendingCheckpoint(Struct, frozen=True):
    """
    A checkpoint without a row, with the job that is to take it, if there is one.

    `attempts` is how often that job was tried, `next_attempt_at` when it is tried next.
    """

    run_date: date
    day: int
    due_at: datetime
    job: int | None
    attempts: int
    next_attempt_at: datetime | None = field(name="tried_at")


class FailedJob(Struct, frozen=True):
    """A job that failed; `owed` says that its work remains and that no other job does it."""

    id: int
    task: str
    run_date: date | None
    day: int | None
    owed: bool


class SkippedCheckpoint(Struct, frozen=True):
    """A checkpoint of an active batch that lacks its prices, and why."""

    run_date: date
    day: int
    due_at: datetime
    reason: str
    note: str


class Work(Struct, frozen=True):
    """
    Checkpoints and jobs that may need attention.

    `next_checkpoints` are those that are due next, all at the same time; `next_figures` are the
    first of them, or after them, that a session precedes: the others are always skipped. `overdue`
    are due and have no row. `skipped` lack their prices. `stalled` are the ids of the jobs that a dead worker left
    behind.
    """

    next_checkpoints: list[PendingCheckpoint]
    next_figures: list[PendingCheckpoint]
    overdue: list[PendingCheckpoint]
    skipped: list[SkippedCheckpoint]
    stalled: list[int]
    failed: list[FailedJob]


class MessageState(Struct, frozen=True):
    """
    Alerts or heartbeats: whether their address is set here, how many wait, and the last one.

    `last_at` is when that arose; `outcome` is None while it waits.
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
    """The model that is set here, and the day on which its provider ends it, where one is announced."""

    name: str
    ends_on: date | None


class MissedMonday(Struct, frozen=True):
    """A Monday that was over before it had picks; `started` says that the model had been asked."""

    run_date: date
    started: bool = field(name="asked")
    failure: str


class Past(Struct, frozen=True):
    """What did not happen in time; `unrecorded` are Mondays that are over and have no row yet."""

    missed: list[MissedMonday]
    unrecorded: list[date]
    late_batches: list[Batch]
    late_checkpoints: list[Computed]


class OperatorSnapshot(StatusSnapshot, frozen=True, kw_only=True):
    """
    The state of the service for a person: `alpha-monday status`.

    `clock_stopped` says that this is a rehearsal whose time is not the real one. `last_batch` is
    the newest batch with picks, `last_checkpoint` the computed checkpoint that was taken last.
    """

    rehearsed: bool
    clock_stopped: bool
    model: ModelState
    work: Work
    last_batch: Batch | None
    last_checkpoint: Computed | None
    messages: Messages
    past: Past


# The parts that only a machine needs


class Totals(Struct, frozen=True):
    """
    Counts over the whole record and the whole ledger.

    `mondays` and `checkpoints` are counted by status and reason, `requests` by function and
    outcome, `lateness` by status, and `mended`, what the reconciler repaired, by kind.
    """

    mondays: Mapping[tuple[str, str], int]
    checkpoints: Mapping[tuple[str, str], int]
    lateness: Mapping[str, Lateness]
    requests: Mapping[tuple[str, str], int]
    generations: Asked
    mended: Mapping[str, int]


class MetricsSnapshot(StatusSnapshot, frozen=True, kw_only=True):
    """
    The state of the service for a machine: `/metrics`.

    `waiting_since` is when the job was due that waits longest although it may run.
    """

    waiting_since: datetime | None
    newest_checkpoint_at: datetime | None
    totals: Totals

    @property
    def monday_state(self) -> str:
        """Return the state of the newest Monday, one of MONDAY_STATES."""
        monday = self.record.monday
        if monday.batch:
            return monday.batch.status
        if monday.job:
            return UNDER_WAY
        # A Monday before the first batch of all was not missed, unless that Monday is today.
        is_expected = self.totals.mondays or monday.run_date == calendar.today(self.at)
        return ABSENT if is_expected else NOT_BEGUN


# How snapshots are read


async def for_operator(pool: pools.Pool, settings: Settings, clock: Clock) -> OperatorSnapshot:
    """Return the state of the service for a person, in a stopped rehearsal at its own time."""
    ledger = Ledger(pool, "alphavantage", alpha_vantage_limits(settings), clock)
    async with pool.connection() as conn, conn.transaction():
        await conn.execute(_READ_ONE_MOMENT)
        stopped_at = await rehearsed.stands_at_on(conn)
        at = stopped_at or clock.now()
        record = await _record(conn, at)
        return OperatorSnapshot(
            at=at,
            queue=await _queue(conn),
            record=record,
            providers=await _providers(conn, ledger, at),
            rehearsed=await rehearsed.is_rehearsed_on(conn),
            clock_stopped=stopped_at is not None,
            model=ModelState(settings.openai_model, announced_end(settings.openai_model)),
            work=await _work(conn, record, at, calendar.Calendar(settings.market_closed_days)),
            last_batch=await batches.newest_made(conn, SERIES),
            last_checkpoint=next(iter(await checkpoints.computed(conn, most=1)), None),
            messages=await _messages(conn, settings),
            past=await _past(conn, at),
        )


class MetricsReader:
    """Reads the snapshot for `/metrics`, within TIME_LIMIT and over a pool of its own."""

    def __init__(self, pool: pools.Pool, ledger: Ledger, clock: Clock) -> None:
        self.pool = pool
        self.ledger = ledger
        self.clock = clock
        self._failed = False

    async def read(self) -> MetricsSnapshot | None:
        """Return the snapshot, or None while the database is away or takes too long."""
        try:
            async with _within_time_limit(self.pool) as conn, conn.transaction():
                await conn.execute(_READ_ONE_MOMENT + _WITHIN_TIME_LIMIT)
                snapshot = await _for_metrics(conn, self.ledger, self.clock.now())
        except (Error, PoolTimeout, OSError) as error:
            if not self._failed:  # said once, and not four times a minute
                log.warning("the metrics lack what Postgres knows", reason=one_line(error))
            self._failed = True
            return None
        self._failed = False
        return snapshot


@asynccontextmanager
async def metrics_reader(
    settings: Settings,
    ledger: Ledger,
    clock: Clock,
) -> AsyncIterator[MetricsReader]:
    """
    Give `/metrics` one connection of its own, so that it takes none from the jobs or the API.

    The connection is made at the first request.
    """
    pool = pools.make_pool(
        address_of(settings.database_url),
        pooled=settings.database_pooled,
        size=1,
        least=0,
        name="metrics",
        wait=TIME_LIMIT,
    )
    async with pool:
        yield MetricsReader(pool, ledger, clock)


async def _for_metrics(conn: Conn, ledger: Ledger, at: datetime) -> MetricsSnapshot:
    return MetricsSnapshot(
        at=at,
        queue=await _queue(conn),
        record=await _record(conn, at),
        providers=await _providers(conn, ledger, at),
        waiting_since=await queue_tables.waiting_since(conn, at),
        newest_checkpoint_at=await checkpoints.newest_at(conn),
        totals=await _totals(conn, ledger, at),
    )


class PartHealth(StrEnum):
    """The health of a part of the service."""

    ALIVE = "alive"
    AWAY = "away"
    SWITCHED_OFF = "switched off"


class Health(Struct, frozen=True):
    """The health of the database and of this process's worker."""

    database: PartHealth
    worker: PartHealth

    @property
    def is_well(self) -> bool:
        """Return whether no part is away; a worker that was switched off is not missed."""
        return PartHealth.AWAY not in (self.database, self.worker)


async def health(pool: pools.Pool, worker: Worker | None) -> Health:
    """Return the health of a process; `worker` is None where it was switched off."""
    database = PartHealth.ALIVE if await _answers(pool) else PartHealth.AWAY
    return Health(database=database, worker=_health_of(worker))


def _health_of(worker: Worker | None) -> PartHealth:
    if worker is None:
        return PartHealth.SWITCHED_OFF
    return PartHealth.ALIVE if worker.alive else PartHealth.AWAY


async def _answers(pool: pools.Pool) -> bool:
    """Return whether the database answers within TIME_LIMIT, and takes writes: a standby counts as away."""
    try:
        async with _within_time_limit(pool) as conn:
            cursor = await conn.execute("SELECT current_setting('transaction_read_only')")
            if await cursor.fetchone() == ("on",):
                raise READ_ONLY("the database takes no writes: it is a standby, or was made read-only")
    except AWAY as error:
        if not is_away(error):
            raise
        return False
    return True


@asynccontextmanager
async def _within_time_limit(pool: pools.Pool) -> AsyncIterator[Conn]:
    """Give a connection within TIME_LIMIT; hang it up if it is still used after as long again."""
    async with pool.connection(timeout=TIME_LIMIT) as conn:
        # Not cancelled: on a connection that died silently a cancellation takes ten seconds.
        hanging_up = asyncio.get_running_loop().call_later(TIME_LIMIT, pools.hang_up, conn)
        try:
            yield conn
        finally:
            hanging_up.cancel()


# How each part is read


async def _queue(conn: Conn) -> QueueState:
    return QueueState(
        workers=await queue_tables.workers(conn),
        reconciler=await reconcile.last_round(conn),
        jobs=await queue_tables.counts(conn),
    )


async def _record(conn: Conn, at: datetime) -> RecordState:
    run_date = calendar.latest_run_date(at)
    weekly_jobs = await weekly.live_jobs(conn, run_date, until=run_date)
    monday = Monday(
        run_date=run_date,
        batch=await batches.on(conn, SERIES, run_date),
        job=weekly_jobs[0] if weekly_jobs else None,
    )
    pending = await checkpoints.awaiting(conn, calendar.checkpoint_date(calendar.today(at), CHECKPOINT_DAYS))
    head = await journal.head(conn)
    return RecordState(
        monday=monday,
        overdue=[due for due in pending if due.at <= at],
        coming=[due for due in pending if due.at > at],
        without_prices=await checkpoints.skipped(conn),
        journal_head=JournalHead(head.seq, head.hash, head.at) if head else None,
    )


async def _providers(conn: Conn, ledger: Ledger, at: datetime) -> ProviderState:
    return ProviderState(limits=ledger.limits, quota=await ledger.left(conn, at))


async def _totals(conn: Conn, ledger: Ledger, at: datetime) -> Totals:
    return Totals(
        mondays=await batches.counts(conn, SERIES),
        checkpoints=await checkpoints.counts(conn),
        lateness=await checkpoints.lateness(conn, LATENESS_BUCKETS),
        requests=await ledger.outcomes(conn, at),
        generations=await generations.asked(conn),
        mended=await reconcile.mended_in_all(conn),
    )


async def _work(conn: Conn, record: RecordState, at: datetime, sessions: calendar.Calendar) -> Work:
    unfinished = await queue_tables.find(conn, NOT_ENDED, None, _MAX_JOBS)
    failed = await queue_tables.find(conn, ("failed",), None, _MAX_JOBS)
    subjects = await admin.subjects(conn, [*unfinished, *failed])
    overdue = _with_jobs(record.overdue, unfinished, subjects)
    coming = _with_jobs(record.coming, unfinished, subjects)
    next_at = coming[0].due_at if coming else None
    measured = [one for one in coming if sessions.first_with_figures(one.run_date, [one.day])]
    figures_at = measured[0].due_at if measured else None
    owed = _owed(record, [*overdue, *coming], calendar.today(at))
    return Work(
        next_checkpoints=[checkpoint for checkpoint in coming if checkpoint.due_at == next_at],
        next_figures=[checkpoint for checkpoint in measured if checkpoint.due_at == figures_at],
        overdue=overdue,
        skipped=await _skipped(conn, record.without_prices),
        stalled=[job.id for job in unfinished if job.status == "stalled"],
        failed=[_failed(job, subjects, owed) for job in failed],
    )


def _with_jobs(
    pending: Sequence[Due],
    jobs: Sequence[Found],
    subjects: Subjects,
) -> list[PendingCheckpoint]:
    """Return the checkpoints without a row, each with the job that is to take it."""
    taking = [job for job in jobs if job.task == take_checkpoint.name and job.id in subjects]
    by_subject = {subjects[job.id]: job for job in taking}
    found = []
    for due in pending:
        job = by_subject.get((due.run_date, due.day))
        checkpoint = PendingCheckpoint(
            run_date=due.run_date,
            day=due.day,
            due_at=due.at,
            job=job.id if job else None,
            attempts=job.attempts if job else 0,
            next_attempt_at=job.scheduled_at if job else None,
        )
        found.append(checkpoint)
    return found


def _owed(record: RecordState, pending: Sequence[PendingCheckpoint], today: date) -> set[_Subject]:
    """Return what is still to be done although no job is to do it."""
    without_job = [checkpoint for checkpoint in pending if checkpoint.job is None]
    owed: set[_Subject] = {(checkpoint.run_date, checkpoint.day) for checkpoint in without_job}
    owed |= {(due.run_date, due.day) for due in record.without_prices}
    monday = record.monday
    if monday.run_date == today and monday.batch is None and monday.job is None:
        owed.add((monday.run_date, None))
    return owed


def _failed(job: Found, subjects: Subjects, owed: set[_Subject]) -> FailedJob:
    run_date, day = subjects.get(job.id, (None, None))
    return FailedJob(
        id=job.id,
        task=job.task,
        run_date=run_date,
        day=day,
        owed=(run_date, day) in owed,
    )


async def _skipped(conn: Conn, without_prices: Sequence[Due]) -> list[SkippedCheckpoint]:
    found = []
    for due in without_prices:
        row = await checkpoints.at(conn, due.batch_id, due.day)
        if row is None:
            continue
        checkpoint = SkippedCheckpoint(
            run_date=due.run_date,
            day=due.day,
            due_at=due.at,
            reason=row.skip_reason or "",
            note=row.note or "",
        )
        found.append(checkpoint)
    return found


async def _messages(conn: Conn, settings: Settings) -> Messages:
    return Messages(
        alerts=_message_state(settings.alert_webhook_url, await alerts.last(conn)),
        heartbeat=_message_state(settings.heartbeat_url, await heartbeat.last(conn)),
    )


def _message_state(receiver: str, last: LastMessage | None) -> MessageState:
    """Return the state of one kind of message; `receiver` is its address, empty where it is switched off."""
    if last is None:
        return MessageState(enabled=bool(receiver))
    return MessageState(
        enabled=bool(receiver),
        waiting=last.waiting,
        last_at=last.at,
        kind=last.kind,
        outcome=last.outcome,
    )


async def _past(conn: Conn, at: datetime) -> Past:
    today = calendar.today(at)
    recorded = await batches.run_dates(conn, SERIES)
    first = min(recorded, default=today)
    over = {first + timedelta(days=day) for day in range(0, (today - first).days, 7)}
    recent = await batches.since(conn, SERIES, today - _MISSED_SINCE)
    missed = [batch for batch in recent if batch.failure_reason == FailureReason.MISSED]
    late = [batch for batch in recent if _is_late(batch)]
    computed = await checkpoints.computed(conn, at - _LATE_SINCE)
    return Past(
        missed=[await _missed(conn, batch) for batch in missed],
        unrecorded=sorted(over - recorded),
        late_batches=[batch for batch in late if batch.run_date >= today - _LATE_SINCE],
        late_checkpoints=[checkpoint for checkpoint in computed if _is_taken_late(checkpoint)],
    )


async def _missed(conn: Conn, batch: Batch) -> MissedMonday:
    questions = await generations.of(conn, SERIES, batch.run_date)
    return MissedMonday(
        run_date=batch.run_date,
        started=bool(questions),
        failure=batch.failure or "",
    )


def _is_late(batch: Batch) -> bool:
    return batch.status != BatchStatus.FAILED and late_by(batch) > _LATE_BATCH


def _is_taken_late(checkpoint: Computed) -> bool:
    # One that was skipped at first is late because its prices arrived late.
    return checkpoint.late_by > _LATE_CHECKPOINT and not checkpoint.again


def late_by(batch: Batch) -> timedelta:
    """Return how long after its Monday's nine o'clock a batch was made."""
    return batch.created_at - calendar.due_at(batch.run_date)
