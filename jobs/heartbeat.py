"""
Heartbeats: a request after each good morning, for a dead man's switch.

From 09:00 in New York on, a morning is good if nothing is missing:

- every checkpoint that is due has its row;
- none of today's checkpoints was skipped because prices were missing;
- on a Monday, the batch has its picks.

If no batch is active, every morning from Tuesday to Sunday is good. The heartbeat then only shows
that the machine works.

A morning that is not good gets no heartbeat. If it becomes good later that day, after late closes
or an operator's command, its heartbeat is sent then. A worker sends the heartbeat, so a missing
heartbeat may also mean that no worker is alive.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

import structlog
from procrastinate import JobContext
from procrastinate.jobs import Job

from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import SERIES, BatchStatus
from app.store import batches, checkpoints, journal
from app.store.rehearsed import is_rehearsed
from app.store.rows import Conn, row_factory
from jobs import messages
from jobs.context import Context
from jobs.messages import DeliveryOutcome, LastMessage
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()


@app.task(name="send_heartbeat", retry=RetryPolicy(), pass_context=True)
async def send_heartbeat(job_context: JobContext, morning: str) -> None:
    """Send the heartbeat of a morning, unless it was delivered or given up."""
    await send(current_context(), date.fromisoformat(morning), job_context.job)


async def send(context: Context, morning: date, job: Job) -> None:
    """
    Send the heartbeat of a morning, and store the outcome.

    At midnight in New York, at the end of that day, the heartbeat is given up.
    """
    async with transaction(context.pool, notify=False) as conn:
        cursor = await conn.execute(
            "SELECT at FROM operations.heartbeats WHERE morning = %s AND outcome IS NULL",
            (morning,),
        )
        waiting = await cursor.fetchone()
        head = await journal.head_text(conn)
    if waiting is None:
        log.info("heartbeat already delivered or given up")
        return

    headers: dict[str, str] = {}
    if head:
        headers["X-Journal-Head"] = head
    if await is_rehearsed(context.pool):
        headers["X-Rehearsed"] = "true"
    outcome = await messages.deliver(
        context,
        job,
        send=lambda: context.heartbeat.get(headers),
        created_at=waiting[0],
        deadline=calendar.from_new_york(morning + timedelta(days=1), time(0)),
    )
    async with transaction(context.pool, notify=False) as conn:
        await conn.execute(
            """
            UPDATE operations.heartbeats
            SET outcome = %s, ended_at = %s
            WHERE morning = %s AND outcome IS NULL
            """,
            (outcome, context.now(), morning),
        )


async def defer_if_morning_is_good(conn: Conn, context: Context) -> int:
    """
    Defer today's heartbeat if the morning is good and the heartbeat has no job.

    Return how many heartbeats were deferred: 0 or 1. Every round of the reconciliation calls this
    function, in any process. The primary key of `operations.heartbeats` allows one heartbeat a day.
    """
    now = context.now()
    today = calendar.new_york_date(now)
    if not context.heartbeat.is_configured or now < calendar.due_at(today):
        return 0
    if await _is_deferred_or_ended(conn, today) or not await is_good_morning(
        conn, now, context.series
    ):
        return 0
    # The row exists already if its job was lost: then only the job is deferred again.
    await conn.execute(
        "INSERT INTO operations.heartbeats (morning, at) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (today, now),
    )
    await messages.defer(conn, send_heartbeat, [str(today)])
    return 1


async def _is_deferred_or_ended(conn: Conn, morning: date) -> bool:
    """Return whether a morning's heartbeat has an outcome, or a job that may still send it."""
    cursor = await conn.execute(
        "SELECT outcome FROM operations.heartbeats WHERE morning = %s", (morning,)
    )
    match await cursor.fetchone():
        case None:
            return False
        case (None,):
            return not await messages.find_without_job(conn, send_heartbeat, [str(morning)])
        case _:
            return True


async def is_good_morning(conn: Conn, now: datetime, series: Sequence[str] = (SERIES,)) -> bool:
    """
    Return whether nothing that is due by `now` is missing.

    `series` are the names of the series that must have a batch on a Monday.
    """
    today = calendar.new_york_date(now)
    for due in await checkpoints.list_due(conn, today):
        if due.due_at <= now:
            return False
    for skipped in await checkpoints.list_skipped(conn):
        if calendar.checkpoint_date(skipped.run_date, skipped.day) == today:
            return False
    if calendar.run_date(now) is None:
        return True
    for name in series:
        batch = await batches.get_by_run_date(conn, name, today)
        if batch is None or batch.status == BatchStatus.FAILED:
            return False
    return True


async def give_up_and_delete_old(conn: Conn, context: Context, retention: timedelta) -> int:
    """
    Give up the heartbeats of past mornings that have no outcome, except yesterday's.

    Delete the heartbeats that are older than `retention`, and return how many were deleted.
    """
    now = context.now()
    # Yesterday's heartbeat is not given up here: its job may be running, and then the job does it.
    await conn.execute(
        """
        UPDATE operations.heartbeats
        SET outcome = %s, ended_at = %s
        WHERE outcome IS NULL AND morning < %s
        """,
        (DeliveryOutcome.GIVEN_UP, now, calendar.new_york_date(now) - timedelta(days=1)),
    )
    cursor = await conn.execute(
        "DELETE FROM operations.heartbeats WHERE at < %s", (now - retention,)
    )
    return cursor.rowcount


async def get_newest(conn: Conn) -> LastMessage | None:
    """Return the newest morning's heartbeat, or None if there is none."""
    async with conn.cursor(row_factory=row_factory(LastMessage)) as cursor:
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
