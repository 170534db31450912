"""
Reconciliation: repairs what a crash or an outage left undone.

Because of an advisory lock, only one process at a time does a round. A round has these steps:

- put back the jobs of processes that died;
- if a job has failed: skip its checkpoint, or record its Monday as failed;
- defer a job for each checkpoint that is due and has neither a row nor a job;
- start this Monday's run if the weekly job was lost, and record missed Mondays;
- defer retakes of skipped checkpoints once a day, the jobs for late splits, for further benchmarks,
  rates and dividends, heartbeats, and the publication of the journal's head;
- hold the yearly checks that are due;
- report processes that record with different settings;
- defer lost jobs of timestamps and alerts, and delete old jobs and messages.

Before a round, the servers of the models are asked once a day when their models end.

An alert reports the repairs.
"""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import asdict
from psycopg.types.json import Jsonb

from app.core.availability import MAX_RETRY_PAUSE, describe_cause, is_unavailable
from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar, request_plan
from app.domain.alternation import find_alternation
from app.domain.model import CHECKPOINT_DAYS, BatchStatus
from app.errors import RecordDamaged, TryAgainAt
from app.providers.alpha_vantage import earliest_session
from app.store import batches, checkpoints, declarations
from app.store.checkpoints import DueCheckpoint
from app.store.rows import Conn, row_factory
from jobs import (
    alerts,
    checks,
    daily,
    dividends,
    further_benchmarks,
    heartbeat,
    late_splits,
    messages,
    model_ends,
    published_heads,
    queue_tables,
    rates,
    request_budget,
    timestamps,
    weekly,
)
from jobs.context import Context
from jobs.queue import STALLED_AFTER
from jobs.queue_tables import CheckpointKey

log = structlog.get_logger()

# Seconds between two rounds.
_INTERVAL = 30.0

# For this long after 09:00, reconciliation does not start this Monday's run: the tick of the weekly
# job may still start it.
_TICK_GRACE = timedelta(minutes=1)

_DAY = timedelta(days=1)

# A job is given up after its process has died this often.
MAX_DEATHS = 10

# From the second death of its process on, a job gets this lock. All such jobs share it, so only one
# of them runs at a time: if a process dies again, its job with this lock is the cause. The
# name must not change: it is stored in the queue's column `lock`, also for jobs that an earlier
# version put back.
_REPEATED_DEATHS_LOCK = "suspects"

# How many of the newest declarations are searched for two processes that differ. On one morning,
# two processes may declare some twenty by turns.
_DECLARATIONS = 50

# For how long jobs and messages can be read after their end.
RETENTION = timedelta(days=30)

# If the job of a checkpoint has failed, this is the note of the checkpoint. If the job of a Monday
# has failed, it is the failure of the Monday. It is stored in the public record.
_FAILED_JOB_NOTE = "Job {} failed, by no fault of the provider; its log says why."


class ReconcileResult(Struct, frozen=True):
    """
    What a round of reconciliation repaired.

    The names of the fields are stored, and metrics show them, so they stay as they are.

    - `put_back`: jobs whose process died, without those that send messages. Jobs that were given
      up after MAX_DEATHS deaths are included
    - `given_up`: checkpoints that were skipped, and Mondays that failed, because their job failed
    - `deferred`: checkpoints that had no job
    - `begun`: whether a weekly job was deferred for this Monday
    - `missed`: Mondays that were recorded as missed
    """

    put_back: int = 0
    given_up: int = 0
    deferred: int = 0
    begun: bool = False
    missed: int = 0

    def __bool__(self) -> bool:
        return any(asdict(self).values())


async def run_forever(
    context: Context, get_stalled_after: Callable[[], float] = lambda: STALLED_AFTER
) -> None:
    """
    Do two rounds a minute until the process stops.

    While the database is unavailable, try again every three seconds. `get_stalled_after` returns
    the number of seconds without a heartbeat after which a worker counts as dead. It is called for
    each round, because the number changes when a rehearsal reaches real time.
    """
    is_waiting = False
    models = model_ends.DailyCheck()
    # The clock's sleep raises TryAgainAt when the process stops.
    with suppress(TryAgainAt):
        while True:
            try:
                await _check_models(context, models)
                await _run_and_log(context, get_stalled_after())
                is_waiting = False
            except Exception as error:
                if not is_unavailable(error):
                    # The next round may succeed. Without reconciliation, lost work stays lost.
                    log.exception("reconciliation failed")
                elif not is_waiting:
                    log.warning(
                        "reconciliation waits for the database", reason=describe_cause(error)
                    )
                is_waiting = is_unavailable(error)
            if is_waiting:
                await context.sleep(MAX_RETRY_PAUSE)
            else:
                # A rehearsal counts a worker as dead sooner than the live service does, so it does
                # more rounds.
                await context.sleep(min(_INTERVAL, get_stalled_after() * 2))


async def _check_models(context: Context, models: model_ends.DailyCheck) -> None:
    """
    Ask the servers of the models once a day, before a round: no round holds a connection meanwhile.
    """
    try:
        await models.run(context)
    except Exception as error:
        if is_unavailable(error):
            raise
        log.exception("reconciliation failed", step="check_models")


async def _run_and_log(context: Context, stalled_after: float) -> None:
    result = await run_round(context, stalled_after)
    if result:
        log.warning("reconciliation repaired", **asdict(result))


async def run_round(
    context: Context, stalled_after: float = STALLED_AFTER
) -> ReconcileResult | None:
    """Do one round. Return what it repaired, or None if another process is doing one."""
    async with transaction(context.pool, notify=False) as conn:
        cursor = await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
        (is_locked,) = await cursor.fetchone() or (False,)
        if not is_locked:
            return None

        put_back = await _run_step(conn, _put_back_stalled, stalled_after)
        given_up = await _run_step(conn, _give_up_checkpoints, context)
        given_up += await _run_step(conn, _give_up_monday, context)
        deferred = await _run_step(conn, _defer_checkpoints, context)
        begun = await _run_step(conn, _start_monday, context)
        missed = await _run_step(conn, weekly.record_missed_mondays, context)
        await _run_step(conn, _defer_retakes, context)
        await _run_step(conn, late_splits.defer_due, context)
        await _run_step(conn, further_benchmarks.defer_due, context)
        await _run_step(conn, rates.defer_due, context)
        await _run_step(conn, dividends.defer_due, context)
        await _run_step(conn, timestamps.defer_lost, context)
        await _run_step(conn, timestamps.defer_lost_check, context)
        await _run_step(conn, heartbeat.defer_if_morning_is_good, context)
        await _run_step(conn, published_heads.defer_if_due, context)
        await _run_step(conn, checks.hold_due, context)
        await _run_step(conn, _report_alternating_settings, context)
        await _run_step(conn, alerts.reconcile, context, retention=RETENTION)
        await _run_step(conn, heartbeat.give_up_and_delete_old, context, retention=RETENTION)
        await _run_step(conn, _delete_finished_jobs)

        result = ReconcileResult(
            put_back=put_back,
            given_up=given_up,
            deferred=deferred,
            begun=bool(begun),
            missed=missed,
        )
        await alerts.report_repairs(conn, context, asdict(result))
        await _store_result(conn, result, context.now())
        return result


async def _run_step(
    conn: Conn, step: Callable[..., Awaitable[int]], *arguments: object, **options: object
) -> int:
    """
    Run a step of the round, and return its number of repairs.

    If a step fails, only its own changes are rolled back, and the number is 0. If the database is
    unavailable, the error is raised.
    """
    try:
        async with conn.transaction():
            return await step(conn, *arguments, **options)
    except Exception as error:
        if is_unavailable(error):
            raise
        log.exception("reconciliation failed", step=step.__name__.strip("_"))
        return 0


async def _store_result(conn: Conn, result: ReconcileResult, now: datetime) -> None:
    """Store the time of the round, its repairs if it has any, and the sums over all rounds."""
    counts = asdict(result)
    last_mended_at, mended = None, {}
    if result:
        last_mended_at, mended = now, counts
    # The table has one row: its primary key `one` is always true.
    await conn.execute(
        """
        INSERT INTO operations.upkeep AS stored (last_round_at, last_mended_at, mended)
        VALUES (%(at)s, %(mended_at)s, %(mended)s)
        ON CONFLICT (one) DO UPDATE SET
            last_round_at = %(at)s,
            last_mended_at = coalesce(%(mended_at)s, stored.last_mended_at),
            mended = CASE WHEN %(mended_at)s IS NULL THEN stored.mended ELSE %(mended)s END
        """,
        {"at": now, "mended_at": last_mended_at, "mended": Jsonb(mended)},
    )
    for kind, times in counts.items():
        if times:
            await conn.execute(
                """
                INSERT INTO operations.mended AS stored (kind, times)
                VALUES (%s, %s)
                ON CONFLICT (kind) DO UPDATE SET times = stored.times + excluded.times
                """,
                (kind, int(times)),
            )


class LastRound(Struct, frozen=True):
    """
    What is stored about the last rounds.

    `last_round_at` is the time of the last round. `last_mended_at` and `mended` are the time and
    the repairs of the last round that repaired something. If no round has repaired anything,
    `last_mended_at` is None and `mended` is empty.
    """

    last_round_at: datetime
    last_mended_at: datetime | None
    mended: dict[str, Any]


async def get_last_round(conn: Conn) -> LastRound | None:
    """Return what is stored about the last rounds, or None if there was no round yet."""
    async with conn.cursor(row_factory=row_factory(LastRound)) as cursor:
        await cursor.execute("SELECT last_round_at, last_mended_at, mended FROM operations.upkeep")
        return await cursor.fetchone()


async def total_repairs(conn: Conn) -> dict[str, int]:
    """Return the number of repairs by kind, over all processes and rounds."""
    cursor = await conn.execute("SELECT kind, times FROM operations.mended")
    stored = dict(await cursor.fetchall())
    return {kind: stored.get(kind, 0) for kind in ReconcileResult.__struct_fields__}


async def _put_back_stalled(conn: Conn, stalled_after: float) -> int:
    """
    Put back the jobs whose process is dead. Return how many, without those that send messages.

    An alert reports this number, and a job sends the alert. The job that sends it may be the one
    that kills its process. If the number included that job, each round would store another alert,
    and the job of the new alert would kill the process again.
    """
    # The statement compares the last heartbeat of each job's worker with Postgres's now(). Both are
    # real times, even in a rehearsal.
    stalled = await queue_tables.put_back_stalled(
        conn, stalled_after=stalled_after, max_deaths=MAX_DEATHS, lock=_REPEATED_DEATHS_LOCK
    )
    for job in stalled:
        if job.deaths >= MAX_DEATHS:
            log.error("job given up: its process died every time", job=job.id, deaths=job.deaths)
        else:
            log.warning("job put back: its process is gone", job=job.id, deaths=job.deaths)
    return sum(job.task not in messages.TASKS for job in stalled)


async def _give_up_checkpoints(conn: Conn, context: Context) -> int:
    """Skip the due checkpoints whose job has failed."""
    without_job = await _find_without_job(conn, context)
    # Lock all batches before the first journal entry is written, and always in the same order.
    # Otherwise this transaction could hold the journal's lock and wait for a batch, while another
    # one holds the lock of that batch and waits for the journal.
    locked = []
    for due in sorted(without_job, key=lambda due: due.batch_id):
        failed_job = without_job[due]
        if failed_job is not None and await _lock_batch(conn, due):
            locked.append((due, failed_job))
    for due, failed_job in locked:
        await daily.give_up(conn, context, due, note=_FAILED_JOB_NOTE.format(failed_job))
    return len(locked)


async def _lock_batch(conn: Conn, due: DueCheckpoint) -> bool:
    """Lock the batch of a checkpoint. Return False if its row is damaged."""
    try:
        await batches.lock_for_update(conn, due.batch_id)
    except RecordDamaged as error:
        log.error(  # noqa: TRY400 - the reason is enough
            "checkpoint cannot be skipped: its batch is damaged",
            batch=str(due.batch_id),
            day=due.day,
            reason=str(error),
        )
        return False
    return True


async def _give_up_monday(conn: Conn, context: Context) -> int:
    """Record this Monday as failed for each series whose job has failed. Return how many."""
    given_up = 0
    for series, run_date in await _find_mondays_without_job(conn, context):
        failed_jobs = await weekly.list_jobs(conn, series, run_date, statuses=["failed"])
        if failed_jobs:
            failure = _FAILED_JOB_NOTE.format(failed_jobs[-1])
            await weekly.give_up(conn, context, run_date, series=series, failure=failure)
            given_up += 1
    return given_up


async def _defer_checkpoints(conn: Conn, context: Context) -> int:
    """Defer a job for each due checkpoint that has neither a row nor a job."""
    without_job = await _find_without_job(conn, context)
    lost = [due for due, failed_job in without_job.items() if failed_job is None]
    await daily.defer_checkpoints(conn, lost)
    return len(lost)


async def _find_without_job(conn: Conn, context: Context) -> dict[DueCheckpoint, int | None]:
    """
    Return the due checkpoints that have neither a row nor a job that waits or runs.

    The value for each is the id of its newest job that has failed, or None if there is none.
    """
    now = context.now()
    owed = await checkpoints.list_due(conn, calendar.new_york_date(now))
    if not owed:
        return {}
    jobs = await queue_tables.jobs_by_checkpoint(conn, daily.take_checkpoint.name)
    without_job = {}
    for due in owed:
        is_live, failed_job = jobs.get(_key(due), (False, None))
        if due.due_at <= now and not is_live:
            without_job[due] = failed_job
    return without_job


def _key(due: DueCheckpoint) -> CheckpointKey:
    """Return the key of a checkpoint: its batch and day, as in the arguments of its jobs."""
    return str(due.batch_id), str(due.day)


async def _find_mondays_without_job(conn: Conn, context: Context) -> list[tuple[str, date]]:
    """
    Return the series that have neither a batch of this Monday nor a job that waits or runs.

    Return none before 09:01, because the tick of 09:00 may still start the jobs.
    """
    run_date = calendar.run_date(context.now() - _TICK_GRACE)
    if run_date is None:
        return []
    # Only the names are read: a damaged batch of one series must not stop the Monday of another.
    with_batch = await batches.list_series_on(conn, run_date)
    without_job = []
    for series in context.series:
        if series not in with_batch and not await weekly.list_live_jobs(conn, series, run_date):
            without_job.append((series, run_date))
    return without_job


async def _start_monday(conn: Conn, context: Context) -> int:
    """Defer a weekly job for each series whose job of this Monday was lost. Return how many."""
    begun = 0
    for series, run_date in await _find_mondays_without_job(conn, context):
        if await weekly.list_jobs(conn, series, run_date, statuses=["failed"]):
            continue
        await weekly.defer_run(conn, context.now(), series)
        begun += 1
        delay = context.now() - calendar.due_at(run_date)
        without_fraction, _, _ = str(delay).partition(".")
        log.warning(
            "Monday run deferred by reconciliation",
            series=series,
            run_date=str(run_date),
            late=without_fraction,
        )
    return begun


async def _defer_retakes(conn: Conn, context: Context) -> int:
    """
    Defer retakes of skipped checkpoints, once a day.

    The retakes wait until RETAKE_TIME, because the other requests of the morning often return the
    missing closes. On a Monday, they also wait until the batch of each series is stored: they must
    not use up the requests that the batches need.

    Active batches come first. The retakes of completed batches get the requests that nothing else
    needs (`_select_completed`).
    """
    now = context.now()
    today = calendar.new_york_date(now)
    if now < calendar.from_new_york(today, calendar.RETAKE_TIME):
        return 0
    run_date = calendar.run_date(now)
    if run_date and not await batches.have_all(conn, context.series, run_date):
        return 0
    request = str(today)
    deferred = await queue_tables.find_retakes(conn, daily.take_checkpoint.name, request)
    skipped = await checkpoints.list_skipped(conn)
    skipped += await _select_completed(conn, context, deferred)
    missing = [due for due in skipped if _key(due) not in deferred]
    return len(await daily.defer_retakes(conn, missing, request))


async def _select_completed(
    conn: Conn, context: Context, deferred: Collection[CheckpointKey]
) -> list[DueCheckpoint]:
    """
    Return the skipped checkpoints of completed batches that are to be retaken now.

    A completed batch with a skipped checkpoint may lack its result or its middle, and then it is a
    gap in the yearly check. So the retakes go on while the provider's response reaches back to the
    session. Each day begins with another checkpoint: a share that has no price any more must not
    use up what is left every day.

    Return none if one was deferred today, or still waits: its requests are not in the ledger yet,
    so what is left would be counted twice.
    """
    today = calendar.new_york_date(context.now())
    earliest = earliest_session(context.calendar, today)
    # The last session of an older batch is older, too.
    since = earliest - CHECKPOINT_DAYS * _DAY
    skipped = await checkpoints.list_skipped(conn, status=BatchStatus.COMPLETED, since=since)
    found: list[DueCheckpoint] = []
    for due in skipped:
        session = context.calendar.trading_day(calendar.checkpoint_date(due.run_date, due.day))
        if session and session >= earliest:
            found.append(due)
    if not found or any(_key(due) in deferred for due in found):
        return []
    spare = await request_budget.count_spare(conn, context)
    first = today.toordinal() % len(found)
    in_turn = [*found[first:], *found[:first]]
    return in_turn[: max(0, spare // request_plan.CHECKPOINT_REQUESTS)]


async def _report_alternating_settings(conn: Conn, context: Context) -> int:
    """Store an alert if processes record with different settings. Return 0: nothing is repaired."""
    now = context.now()
    found = [find_alternation(await declarations.list_settings(conn, _DECLARATIONS), now)]
    # All series are read at once: a search for each of them would read the same entries each time.
    recent = await declarations.list_recent_series(conn, _DECLARATIONS)
    for name in context.series:
        of_series = recent.get(name, [])
        found.append(find_alternation(of_series, now, has_file=context.has_series_file))
    alternations = [one for one in found if one]
    if alternations:
        await alerts.report_alternating_settings(conn, context, alternations)
    return 0


async def _delete_finished_jobs(conn: Conn) -> int:
    """
    Delete the jobs that ended longer than RETENTION ago.

    The queue's events have real times, also in a rehearsal, so RETENTION is counted in real time.
    """
    return await queue_tables.delete_finished(conn, RETENTION)
