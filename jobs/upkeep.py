"""
What keeps every promise after a crash.

One process at a time, by an advisory lock: puts back the jobs of processes that died, defers due checkpoints that have
neither a row nor a job, sees that this Monday's batch is there or on its way and that a missed Monday is recorded as
such, and has skipped checkpoints looked at again once a day.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from msgspec import Struct
from msgspec.structs import asdict
from psycopg.types.json import Jsonb

from app.database.pools import transaction
from app.errors import TryAgainAt
from app.record import calendar
from app.record.model import SERIES
from app.store import batches, checkpoints
from app.store.rows import Conn
from app.tools import Tools
from jobs import daily, weekly
from jobs.queue import AWAY, STALLED_AFTER

log = structlog.get_logger()

PAUSE = 60.0
_LOCK = 4_021_970_434

# The tick itself begins a Monday; upkeep only does when the tick did not.
_TICK = timedelta(minutes=1)


class Mended(Struct, frozen=True):
    """What a round of upkeep found to do."""

    put_back: int = 0
    deferred: int = 0
    begun: bool = False
    missed: int = 0

    def __bool__(self) -> bool:
        return any(asdict(self).values())


async def keep(tools: Tools, stalled_after: Callable[[], float] = lambda: STALLED_AFTER) -> None:
    """
    Look after the promises, a round a minute, until told to stop; a database that is away is looked for again.

    How long a worker may be silent is asked each time: it beats more slowly once a rehearsal lives on in real time.
    """
    with suppress(TryAgainAt):
        while True:
            try:
                if mended := await look_after(tools, stalled_after()):
                    log.warning("upkeep mended", **asdict(mended))
            except AWAY as error:
                log.warning("upkeep waits for the database", reason=" ".join(str(error).split()))
            except Exception:
                log.exception("upkeep failed")  # the next round may not; without upkeep no promise is kept
            await tools.sleep(min(PAUSE, stalled_after() * 2))


async def look_after(tools: Tools, stalled_after: float = STALLED_AFTER) -> Mended | None:
    """Do one round; return what it mended, or None if another process is at it."""
    async with transaction(tools.pool) as conn:
        cursor = await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))
        if not (await cursor.fetchone() or (False,))[0]:
            return None
        mended = Mended(
            put_back=await _put_back(conn, stalled_after),
            deferred=await _defer_due(conn, tools),
            begun=await _begin_monday(conn, tools),
            missed=await _record_missed(conn, tools),
        )
        await _offer_retakes(conn, tools)
        await _remember(conn, mended, tools.now())
        return mended


async def _remember(conn: Conn, mended: Mended, at: datetime) -> None:
    """Write down when the last round was, and what the last one that mended anything mended."""
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


async def _put_back(conn: Conn, stalled_after: float) -> int:
    """Put back the jobs whose process is dead: a matter of real time, so of Postgres's own now()."""
    cursor = await conn.execute(
        """
        SELECT procrastinate_retry_job_v2(stalled.id, NULL, NULL, NULL, NULL)
        FROM (
            SELECT procrastinate_jobs.id
            FROM procrastinate_jobs
            LEFT JOIN procrastinate_workers ON procrastinate_workers.id = procrastinate_jobs.worker_id
            WHERE procrastinate_jobs.status = 'doing'
                AND (procrastinate_workers.id IS NULL
                    OR procrastinate_workers.last_heartbeat < now() - make_interval(secs => %s))
            FOR UPDATE OF procrastinate_jobs SKIP LOCKED
        ) stalled
        """,
        (stalled_after,),
    )
    return cursor.rowcount


async def _defer_due(conn: Conn, tools: Tools) -> int:
    """Defer the checkpoints whose time has come that have neither a row nor a job."""
    awaited = await checkpoints.awaiting(conn, calendar.today(tools.now()))
    if not awaited:
        return 0
    cursor = await conn.execute(
        """
        SELECT args ->> 'batch_id', (args ->> 'day')::integer
        FROM procrastinate_jobs
        WHERE task_name = %s AND status IN ('todo', 'doing')
        """,
        (daily.take_checkpoint.name,),
    )
    on_their_way = {(id, day) for id, day in await cursor.fetchall()}
    lost = [due for due in awaited if due.at <= tools.now() and (str(due.batch_id), due.day) not in on_their_way]
    await daily.defer(conn, lost)
    return len(lost)


async def _begin_monday(conn: Conn, tools: Tools) -> bool:
    """Begin this Monday if its tick was lost."""
    run_date = calendar.run_date(tools.now() - _TICK)
    if run_date is None or await batches.on(conn, SERIES, run_date) or await weekly.live_jobs(conn, run_date):
        return False
    await weekly.begin_again(conn, tools.now())
    return True


async def _record_missed(conn: Conn, tools: Tools) -> int:
    """Give every Monday that is over and has no row one that says so, from the series' first batch on."""
    known = await batches.run_dates(conn, SERIES)
    if not known:
        return 0
    today, monday, missed = calendar.today(tools.now()), min(known), 0
    while monday < today:
        if monday not in known and await weekly.miss(conn, tools, monday):
            missed += 1
        monday = calendar.checkpoint_date(monday, 7)
    return missed


async def _offer_retakes(conn: Conn, tools: Tools) -> None:
    """Once a day, when the morning's closes are in, have the skipped checkpoints of active batches looked at again."""
    now = tools.now()
    today = str(calendar.today(now))
    if now < calendar.at(calendar.today(now), calendar.RETAKE):
        return
    cursor = await conn.execute(
        """
        SELECT args ->> 'batch_id', (args ->> 'day')::integer
        FROM procrastinate_jobs
        WHERE task_name = %s AND (args ->> 'retake' = %s OR (args ? 'retake' AND status IN ('todo', 'doing')))
        """,
        (daily.take_checkpoint.name, today),
    )
    offered = {(id, day) for id, day in await cursor.fetchall()}
    skipped = await checkpoints.skipped(conn)
    await daily.defer_retakes(conn, [one for one in skipped if (str(one.batch_id), one.day) not in offered], today)
