"""
What keeps every promise after a crash.

One process at a time, by an advisory lock: puts back the jobs of processes that died, gives up what never succeeds,
defers due checkpoints that have neither a row nor a job, sees that this Monday's batch is there or on its way and that
a missed Monday is recorded as such, has skipped checkpoints looked at again once a day, has splits of completed batches
asked for on two more Sundays, announces good mornings, and forgets old jobs. What it mended is told.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import asdict
from psycopg.types.json import Jsonb

from app.core.locks import Lock
from app.core.presence import RETRY, is_away, why
from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import SERIES
from app.errors import RecordDamaged, TryAgainAt
from app.store import batches, checkpoints
from app.store.checkpoints import Due
from app.store.rows import Conn, row_of
from jobs import alerts, daily, heartbeat, late_splits, messages, queue_tables, weekly
from jobs.context import Context
from jobs.queue import STALLED_AFTER
from jobs.queue_tables import Named

log = structlog.get_logger()

PAUSE = 30.0

# The tick itself begins a Monday; upkeep only does when the tick did not.
_TICK = timedelta(minutes=1)

# A job whose process died under it so often is given up. From its second time on it shares a lock with the others of
# its kind and runs without them, so that what they die of is its own.
MOST_DEATHS = 10
_SUSPECTS = "suspects"

# How long a job can be read after its end, and what a given up one leaves in the record.
READABLE = timedelta(days=30)
_GIVEN_UP = "Job {} failed, by no fault of the provider; its log says why."


class Mended(Struct, frozen=True):
    """What a round of upkeep found to do."""

    put_back: int = 0
    given_up: int = 0
    deferred: int = 0
    begun: bool = False
    missed: int = 0

    def __bool__(self) -> bool:
        return any(asdict(self).values())


async def keep(tools: Context, stalled_after: Callable[[], float] = lambda: STALLED_AFTER) -> None:
    """
    Look after the promises, two rounds a minute, until told to stop; a database that is away is looked for again.

    How long a worker may be silent is asked each time: it beats more slowly once a rehearsal lives on in real time.
    """
    waits = False
    with suppress(TryAgainAt):
        while True:
            try:
                if mended := await look_after(tools, stalled_after()):
                    log.warning("upkeep mended", **asdict(mended))
                waits = False
            except Exception as error:
                if not is_away(error):
                    log.exception("upkeep failed")  # the next round may not; without upkeep no promise is kept
                elif not waits:
                    log.warning("upkeep waits for the database", reason=why(error))
                waits = is_away(error)
            await tools.sleep(RETRY if waits else min(PAUSE, stalled_after() * 2))


async def look_after(tools: Context, stalled_after: float = STALLED_AFTER) -> Mended | None:
    """Do one round; return what it mended, or None if another process is at it."""
    async with transaction(tools.pool, at_once=False) as conn:
        cursor = await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
        if not (await cursor.fetchone() or (False,))[0]:
            return None
        mended = Mended(
            put_back=await _alone(conn, _put_back, stalled_after),
            given_up=await _alone(conn, _give_up, tools) + await _alone(conn, _give_up_monday, tools),
            deferred=await _alone(conn, _defer_due, tools),
            begun=bool(await _alone(conn, _begin_monday, tools)),
            missed=await _alone(conn, _record_missed, tools),
        )
        await _alone(conn, _offer_retakes, tools)
        await _alone(conn, late_splits.offer, tools)
        await _alone(conn, heartbeat.offer, tools)
        await _alone(conn, alerts.keep, tools, READABLE)
        await _alone(conn, heartbeat.forget, tools, READABLE)
        await _alone(conn, _forget)
        await alerts.upkeep_mended(conn, tools, asdict(mended))
        await _remember(conn, mended, tools.now())
        return mended


async def _alone(conn: Conn, step: Callable[..., Awaitable[int]], *arguments: object) -> int:
    """Return what a step of the round mended; one that fails takes nothing else with it."""
    try:
        async with conn.transaction():
            return await step(conn, *arguments)
    except Exception as error:
        if is_away(error):
            raise
        log.exception("upkeep failed", step=step.__name__.strip("_"))
        return 0


async def _remember(conn: Conn, mended: Mended, at: datetime) -> None:
    """Write down when the last round was, what the last that mended anything mended, and how much that is in all."""
    await conn.execute(
        """
        INSERT INTO operations.upkeep AS last (last_round_at, last_mended_at, mended)
        VALUES (%(at)s, %(mended_at)s, %(mended)s)
        ON CONFLICT (one) DO UPDATE SET
            last_round_at = %(at)s,
            last_mended_at = coalesce(%(mended_at)s, last.last_mended_at),
            mended = CASE WHEN %(mended_at)s IS NULL THEN last.mended ELSE %(mended)s END
        """,
        {"at": at, "mended_at": at if mended else None, "mended": Jsonb(asdict(mended) if mended else {})},
    )
    for kind, times in asdict(mended).items():
        if times:
            await conn.execute(
                "INSERT INTO operations.mended AS known (kind, times) VALUES (%s, %s) "
                "ON CONFLICT (kind) DO UPDATE SET times = known.times + excluded.times",
                (kind, int(times)),
            )


class LastRound(Struct, frozen=True):
    """When the last round was made, and what the last round that mended something mended."""

    last_round_at: datetime
    last_mended_at: datetime | None
    mended: dict[str, Any]


async def last_round(conn: Conn) -> LastRound | None:
    """Return what the reconciler wrote of its rounds, or None if it never made one."""
    async with conn.cursor(row_factory=row_of(LastRound)) as cursor:
        await cursor.execute("SELECT last_round_at, last_mended_at, mended FROM operations.upkeep")
        return await cursor.fetchone()


async def mended_in_all(conn: Conn) -> dict[str, int]:
    """Return how often anything was mended, by kind: by all processes, since the first."""
    cursor = await conn.execute("SELECT kind, times FROM operations.mended")
    known = dict(await cursor.fetchall())
    return {kind: known.get(kind, 0) for kind in Mended.__struct_fields__}


async def _put_back(conn: Conn, stalled_after: float) -> int:
    """
    Put back the jobs whose process is dead: a matter of real time, so of Postgres's own now().

    Those that send messages are not counted: what told of them might kill its process over and over.
    """
    stalled = await queue_tables.put_back_stalled(conn, stalled_after, MOST_DEATHS, lock=_SUSPECTS)
    for job in stalled:
        if job.deaths >= MOST_DEATHS:
            log.error("a job is given up: its process died under it every time", job=job.id, deaths=job.deaths)
        else:
            log.warning("a job is put back: its process is gone", job=job.id, deaths=job.deaths)
    return sum(job.task not in messages.TASKS for job in stalled)


async def _give_up(conn: Conn, tools: Context) -> int:
    """Let what never succeeds end as the record says: a failed job's checkpoint skipped."""
    lost = await _lost(conn, tools)
    failed = [(due, lost[due]) for due in sorted(lost, key=lambda due: due.batch_id) if lost[due]]
    # All before the first entry: who holds a batch may wait for the journal.
    given_up = [(due, job) for due, job in failed if await _is_held(conn, due)]
    for due, job in given_up:
        await daily.give_up(conn, tools, due, _GIVEN_UP.format(job))
    return len(given_up)


async def _is_held(conn: Conn, due: Due) -> bool:
    """Hold the batch of a checkpoint; of one that is damaged nothing is written, and it keeps no other waiting."""
    try:
        await batches.hold(conn, due.batch_id)
    except RecordDamaged as error:
        known = {"batch": str(due.batch_id), "day": due.day, "reason": str(error)}
        log.error("a checkpoint cannot be given up", **known)  # noqa: TRY400 - the reason says all
        return False
    return True


async def _give_up_monday(conn: Conn, tools: Context) -> int:
    """Let this Monday have failed if its job has."""
    run_date = await _absent_monday(conn, tools)
    failed = run_date and await weekly.jobs_of(conn, run_date, ["failed"])
    if run_date and failed:
        await weekly.give_up(conn, tools, run_date, _GIVEN_UP.format(failed[-1]))
    return int(bool(failed))


async def _defer_due(conn: Conn, tools: Context) -> int:
    """Defer the checkpoints whose time has come that have neither a row nor a job."""
    lost = [due for due, failed in (await _lost(conn, tools)).items() if failed is None]
    await daily.defer(conn, lost)
    return len(lost)


async def _lost(conn: Conn, tools: Context) -> dict[Due, int | None]:
    """Return the due checkpoints that have neither a row nor a job that waits or runs, each with one that failed."""
    awaited = await checkpoints.awaiting(conn, calendar.today(tools.now()))
    if not awaited:
        return {}
    jobs = await queue_tables.jobs_by_checkpoint(conn, daily.take_checkpoint.name)
    found = {due: jobs.get(_named(due), (False, None)) for due in awaited if due.at <= tools.now()}
    return {due: failed for due, (live, failed) in found.items() if not live}


def _named(due: Due) -> Named:
    return str(due.batch_id), str(due.day)


async def _absent_monday(conn: Conn, tools: Context) -> date | None:
    """Return this Monday if it has neither a batch nor a job that waits or runs."""
    run_date = calendar.run_date(tools.now() - _TICK)
    if run_date is None or await batches.on(conn, SERIES, run_date) or await weekly.live_jobs(conn, run_date):
        return None
    return run_date


async def _begin_monday(conn: Conn, tools: Context) -> bool:
    """Begin this Monday if its tick was lost."""
    run_date = await _absent_monday(conn, tools)
    if run_date is None or await weekly.jobs_of(conn, run_date, ["failed"]):
        return False
    await weekly.begin_again(conn, tools.now())
    late = tools.now() - calendar.due_at(run_date)
    log.warning("this Monday had not begun", run_date=str(run_date), late=str(late).partition(".")[0])
    return True


async def _record_missed(conn: Conn, tools: Context) -> int:
    """Record the Mondays that are over and have no row."""
    return await weekly.record_missed(conn, tools)


async def _offer_retakes(conn: Conn, tools: Context) -> int:
    """
    Once a day, when the morning's closes are in, have the skipped checkpoints of active batches looked at again.

    Not while a Monday waits for its prices: what can wait must not use up the requests that it needs.
    """
    now = tools.now()
    today = str(calendar.today(now))
    if now < calendar.at(calendar.today(now), calendar.RETAKE):
        return 0
    run_date = calendar.run_date(now)
    if run_date and not await batches.on(conn, SERIES, run_date):
        return 0
    offered = await queue_tables.retakes(conn, daily.take_checkpoint.name, today)
    skipped = [one for one in await checkpoints.skipped(conn) if _named(one) not in offered]
    return len(await daily.defer_retakes(conn, skipped, today))


async def _forget(conn: Conn) -> int:
    """Delete the jobs that ended long ago: a matter of real time, as all that the queue writes down of them."""
    return await queue_tables.delete_finished(conn, READABLE)
