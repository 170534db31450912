"""How the service stands: what runs, what is next, what waits, what succeeded last, and what went wrong meanwhile."""

from datetime import date, datetime, timedelta

from msgspec import Struct

from app.core.settings import Settings
from app.database import pools, rehearsed
from app.domain import calendar
from app.domain.calendar import Clock
from app.domain.model import CHECKPOINT_DAYS, SERIES, Batch, BatchStatus, FailureReason
from app.providers.rate_limiter import LONGEST_WAIT, Ledger, Left, windows
from app.store import batches, checkpoints, generations, journal
from app.store.checkpoints import Computed
from app.store.rows import Conn
from jobs import admin
from jobs.admin import Counted, Found, Silent, Upkeep
from jobs.daily import take_checkpoint
from jobs.weekly import pick_week

# How far back what went wrong is told of.
_MISSED_SINCE = timedelta(weeks=13)
_LATE_SINCE = timedelta(weeks=4)

_MOST = 10_000


class Awaited(Struct, frozen=True):
    """A checkpoint without a row, and the job that is about it, if there is one, with how often that was tried."""

    run_date: date
    day: int
    due_at: datetime
    job: int | None
    attempts: int
    tried_at: datetime | None


class Failed(Struct, frozen=True):
    """A job that has failed; `owed` says that nothing else does what it was to do."""

    id: int
    task: str
    run_date: date | None
    day: int | None
    owed: bool


class Skipped(Struct, frozen=True):
    """A checkpoint of an active batch that lacks its prices, and why."""

    run_date: date
    day: int
    due_at: datetime
    reason: str
    note: str


class Missed(Struct, frozen=True):
    """A Monday without picks because it was over; `asked` says that somebody had begun it."""

    run_date: date
    asked: bool
    failure: str


class Past(Struct, frozen=True):
    """What did not happen in its time; `unrecorded` are Mondays that are over and have no row yet."""

    missed: list[Missed]
    unrecorded: list[date]
    late_batches: list[Batch]
    late_checkpoints: list[Computed]


class Head(Struct, frozen=True):
    """The journal's last entry."""

    seq: int
    hash: str
    at: datetime


class Told(Struct, frozen=True):
    """
    What an operator's receiver is told: whether its address is set here, how much waits, and the last that was sent.

    `last` is when the last message arose, `what` its kind, `outcome` what became of it: None while it waits.
    """

    on: bool
    waiting: int = 0
    last: datetime | None = None
    what: str | None = None
    outcome: str | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """
    Everything at one moment, in the jobs' own time.

    `standing_still` says that it is a rehearsal whose time is not the real one. `monday` is the newest Monday that has
    begun, `batch` its batch, `monday_job` the job that is about it. `quota` is what Alpha Vantage leaves of the
    requests `allowed` per second, minute and day.
    """

    at: datetime
    rehearsed: bool
    standing_still: bool
    workers: list[Silent]
    upkeep: Upkeep | None
    monday: date
    batch: Batch | None
    monday_job: int | None
    next_monday_at: datetime
    next_checkpoints: list[Awaited]
    overdue: list[Awaited]
    jobs: list[Counted]
    stalled: list[int]
    failed: list[Failed]
    quota: Left
    allowed: list[int]
    last_batch: Batch | None
    last_checkpoint: Computed | None
    journal_head: Head | None
    past: Past
    skipped: list[Skipped]
    alerts: Told
    heartbeat: Told

    @property
    def works(self) -> bool:
        """Return whether a worker lives."""
        return any(worker.lives for worker in self.workers)

    @property
    def spent(self) -> bool:
        """Return whether the quota is used up for longer than a job waits by itself."""
        return self.quota.next_at - self.at > LONGEST_WAIT


async def now(pool: pools.Pool, configuration: Settings, clock: Clock) -> Standing:
    """Return how the service stands now."""
    stands_at = await rehearsed.stands_at(pool)
    at = stands_at or clock.now()
    limits = windows(
        configuration.alpha_vantage_per_second,
        configuration.alpha_vantage_per_minute,
        configuration.alpha_vantage_per_day,
    )
    quota = await Ledger(pool, "alphavantage", limits, clock).left(at)
    made_up = await rehearsed.is_rehearsed(pool)
    monday, today = calendar.latest_run_date(at), calendar.today(at)
    async with pools.transaction(pool) as conn:
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # one moment, whatever goes on
        alive = await admin.find(conn, ("todo", "doing", "stalled"), None, _MOST)
        about = await admin.subjects(conn, alive)
        awaited = await _awaited(conn, at, alive, about)
        skipped = await _skipped(conn)
        batch = await batches.on(conn, SERIES, monday)
        monday_job = next(
            (job.id for job in alive if job.task == pick_week.name and about.get(job.id) == (monday, None)), None
        )
        # What is still to be done, and is in nobody's hands.
        owed: set[tuple[date | None, int | None]] = {(one.run_date, one.day) for one in awaited if one.job is None}
        owed |= {(one.run_date, one.day) for one in skipped}
        if batch is None and monday_job is None and monday == today:
            owed.add((monday, None))
        coming = [one for one in awaited if one.due_at > at]
        head = await journal.head(conn)
        return Standing(
            at=at,
            rehearsed=made_up,
            standing_still=stands_at is not None,
            workers=await admin.workers(conn),
            upkeep=await admin.upkeep(conn),
            monday=monday,
            batch=batch,
            monday_job=monday_job,
            next_monday_at=calendar.next_run_at(at),
            next_checkpoints=[one for one in coming if one.due_at == coming[0].due_at],
            overdue=[one for one in awaited if one.due_at <= at],
            jobs=await admin.counts(conn),
            stalled=[job.id for job in alive if job.status == "stalled"],
            failed=await _failed(conn, owed),
            quota=quota,
            allowed=[limit.requests for limit in limits],
            last_batch=await batches.newest_made(conn, SERIES),
            last_checkpoint=next(iter(await checkpoints.computed(conn, most=1)), None),
            journal_head=Head(head.seq, head.hash, head.at) if head else None,
            past=await _past(conn, at),
            skipped=skipped,
            alerts=await _alerts(conn, on=bool(configuration.alert_webhook_url)),
            heartbeat=await _heartbeat(conn, on=bool(configuration.heartbeat_url)),
        )


def late_by(batch: Batch) -> timedelta:
    """Return how long after its Monday's nine o'clock a batch was made."""
    return batch.created_at - calendar.due_at(batch.run_date)


async def _awaited(conn: Conn, at: datetime, alive: list[Found], about: admin.Subjects) -> list[Awaited]:
    """Return the checkpoints without a row of the next fortnight and before, oldest first, with their jobs."""
    by_subject = {about[job.id]: job for job in alive if job.task == take_checkpoint.name and job.id in about}
    found = []
    for due in await checkpoints.awaiting(conn, calendar.checkpoint_date(calendar.today(at), CHECKPOINT_DAYS)):
        job = by_subject.get((due.run_date, due.day))
        held = (job.id, job.attempts, job.scheduled_at) if job else (None, 0, None)
        found.append(Awaited(due.run_date, due.day, due.at, *held))
    return found


async def _skipped(conn: Conn) -> list[Skipped]:
    found = []
    for due in await checkpoints.skipped(conn):
        row = await checkpoints.at(conn, due.batch_id, due.day)
        if row:
            found.append(Skipped(due.run_date, due.day, due.at, row.skip_reason or "", row.note or ""))
    return found


async def _failed(conn: Conn, owed: set[tuple[date | None, int | None]]) -> list[Failed]:
    jobs = await admin.find(conn, ("failed",), None, _MOST)
    about = await admin.subjects(conn, jobs)
    found = []
    for job in jobs:
        run_date, day = about.get(job.id, (None, None))
        found.append(Failed(job.id, job.task, run_date, day, (run_date, day) in owed))
    return found


async def _alerts(conn: Conn, *, on: bool) -> Told:
    cursor = await conn.execute(
        """
        SELECT (SELECT count(*) FROM operations.alerts WHERE outcome IS NULL), at, kind, outcome
        FROM operations.alerts
        ORDER BY at DESC, id
        LIMIT 1
        """
    )
    return Told(on, *(await cursor.fetchone() or ()))


async def _heartbeat(conn: Conn, *, on: bool) -> Told:
    cursor = await conn.execute(
        """
        SELECT (SELECT count(*) FROM operations.heartbeats WHERE outcome IS NULL), at, 'good_morning', outcome
        FROM operations.heartbeats
        ORDER BY morning DESC
        LIMIT 1
        """
    )
    return Told(on, *(await cursor.fetchone() or ()))


async def _past(conn: Conn, at: datetime) -> Past:
    today = calendar.today(at)
    known = await batches.run_dates(conn, SERIES)
    first = min(known, default=today)
    over = {first + timedelta(days=day) for day in range(0, (today - first).days, 7)}
    recent = await batches.since(conn, SERIES, today - _MISSED_SINCE)
    return Past(
        missed=[
            Missed(batch.run_date, bool(await generations.of(conn, SERIES, batch.run_date)), batch.failure or "")
            for batch in recent
            if batch.failure_reason == FailureReason.MISSED
        ],
        unrecorded=sorted(over - known),
        late_batches=[
            batch
            for batch in recent
            if batch.status != BatchStatus.FAILED
            and batch.run_date >= today - _LATE_SINCE
            and late_by(batch) > timedelta(minutes=10)
        ],
        # Until half a day later a close may still be asked for in vain, and nobody was away.
        late_checkpoints=[
            one
            for one in await checkpoints.computed(conn, at - _LATE_SINCE)
            if one.late_by > timedelta(hours=12) and not one.again
        ],
    )
