"""
A sign of life after each good morning, for a service that watches for silence.

A morning is good from nine in New York on, once nothing that is due is missing: every checkpoint that is due has its
row, none of today's was skipped for want of prices, and if it is a Monday it has its picks. Where no batch is active
the machine lives all the same, and says so. A morning that becomes good later that day, by the closes of the afternoon
or by hand, is announced then; one that does not is not. A worker sends it, so silence also means that none lives.
"""

from datetime import date, datetime, time, timedelta

import structlog
from procrastinate import JobContext
from procrastinate.jobs import Job

from app.database.pools import transaction
from app.database.rehearsed import is_rehearsed
from app.domain import calendar
from app.domain.model import SERIES, BatchStatus
from app.store import batches, checkpoints
from app.store.rows import Conn, row_of
from jobs import messages
from jobs.context import Context
from jobs.messages import LastMessage, Outcome
from jobs.queue import Retry, app, tools

log = structlog.get_logger()


@app.task(name="send_heartbeat", retry=Retry(), pass_context=True)
async def send_heartbeat(context: JobContext, morning: str) -> None:
    """Announce a good morning, unless that was done or given up."""
    await send(tools(), date.fromisoformat(morning), context.job)


async def send(tools: Context, morning: date, job: Job) -> None:
    """Announce a good morning before its day is over in New York, and write down what became of it."""
    async with transaction(tools.pool, at_once=False) as conn:
        cursor = await conn.execute(
            "SELECT at FROM operations.heartbeats WHERE morning = %s AND outcome IS NULL", (morning,)
        )
        waiting = await cursor.fetchone()
    if waiting is None:
        log.info("this heartbeat was done with already")
        return
    marks = {"X-Rehearsed": "true"} if await is_rehearsed(tools.pool) else {}
    over = calendar.at(morning + timedelta(days=1), time(0))
    outcome = await messages.deliver(tools, job, lambda: tools.heartbeat.get(marks), waiting[0], over)
    async with transaction(tools.pool, at_once=False) as conn:
        await conn.execute(
            "UPDATE operations.heartbeats SET outcome = %s, ended_at = %s WHERE morning = %s AND outcome IS NULL",
            (outcome, tools.now(), morning),
        )


async def offer(conn: Conn, tools: Context) -> int:
    """Put a heartbeat into the queue if the morning is good and nobody has: once a day, whoever asks first."""
    now = tools.now()
    today = calendar.today(now)
    if not tools.heartbeat.on or now < calendar.due_at(today) or await _announced(conn, today):
        return 0
    if not await is_good(conn, now):
        return 0
    await conn.execute(
        "INSERT INTO operations.heartbeats (morning, at) VALUES (%s, %s) ON CONFLICT DO NOTHING", (today, now)
    )
    await messages.defer(conn, send_heartbeat, [str(today)])
    return 1


async def _announced(conn: Conn, morning: date) -> bool:
    """Return whether a morning was announced, or has a job that will."""
    cursor = await conn.execute("SELECT outcome FROM operations.heartbeats WHERE morning = %s", (morning,))
    match await cursor.fetchone():
        case None:
            return False
        case (None,):
            return not await messages.without_a_job(conn, send_heartbeat, [str(morning)])
        case _:
            return True


async def is_good(conn: Conn, now: datetime) -> bool:
    """Return whether nothing that is due by `now` is missing."""
    today = calendar.today(now)
    if any(due.at <= now for due in await checkpoints.awaiting(conn, today)):
        return False
    if any(calendar.checkpoint_date(one.run_date, one.day) == today for one in await checkpoints.skipped(conn)):
        return False
    if calendar.run_date(now) is None:
        return True
    batch = await batches.on(conn, SERIES, today)
    return batch is not None and batch.status != BatchStatus.FAILED


async def forget(conn: Conn, tools: Context, readable: timedelta) -> int:
    """Give up the mornings that are over, and forget those that are long over."""
    now = tools.now()
    await conn.execute(
        "UPDATE operations.heartbeats SET outcome = %s, ended_at = %s WHERE outcome IS NULL AND morning < %s",
        (Outcome.GIVEN_UP, now, calendar.today(now) - timedelta(days=1)),
    )
    cursor = await conn.execute("DELETE FROM operations.heartbeats WHERE at < %s", (now - readable,))
    return cursor.rowcount


async def last(conn: Conn) -> LastMessage | None:
    """Return the newest morning's heartbeat, or None if there is none."""
    async with conn.cursor(row_factory=row_of(LastMessage)) as cursor:
        await cursor.execute(
            """
            SELECT
                at,
                'good_morning' AS kind,
                outcome,
                (SELECT count(*) FROM operations.heartbeats WHERE outcome IS NULL) AS waiting
            FROM operations.heartbeats
            ORDER BY morning DESC
            LIMIT 1
            """
        )
        return await cursor.fetchone()
