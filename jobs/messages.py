"""
What alerts and heartbeats have in common: they are sent last, a few at a time, again and again, and then no more.

Whoever listens may be slow, away or misconfigured; nothing that is promised waits for that. A message is deferred in
the transaction of what it is about, and sent by a job of its own that comes after all others.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from msgspec import Struct
from procrastinate.jobs import Job

from app.errors import ConfigurationError, ProviderBusy, ProviderError, TryAgainAt
from app.store.rows import Conn
from jobs import queue_tables
from jobs.context import Context
from jobs.queue import app

log = structlog.get_logger()

# The jobs that send one, by task, with the argument that names it.
TASKS = {"send_alert": "alert", "send_heartbeat": "morning"}

# After every checkpoint, of whatever year: theirs is the run date's number, negative.
LAST = -10_000_000

# A receiver that hangs must not take all of the worker's slots, in all processes; whoever finds these taken waits.
_AT_ONCE = 2
_UNTIL_FREE = timedelta(seconds=15)

# The first pause; from then on as long as the message is old, which doubles it, up to the longest.
_FIRST_PAUSE = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(hours=1)


class Outcome(StrEnum):
    """What became of a message."""

    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


class LastMessage(Struct, frozen=True):
    """The newest alert or heartbeat: when it arose, its kind, its outcome (None: it waits), and how many wait."""

    at: datetime
    kind: str
    outcome: str | None
    waiting: int


async def defer(conn: Conn, task: Any, names: Sequence[str]) -> None:
    """Put a job for each message into the queue, in the transaction of `conn`."""
    jobs = [task.configure(priority=LAST).job.evolve(task_kwargs={TASKS[task.name]: name}) for name in names]
    if jobs:
        await app.job_manager.batch_defer_jobs_async(jobs, connection=conn)


async def without_a_job(conn: Conn, task: Any, names: Sequence[str]) -> list[str]:
    """
    Return which messages have no job that could still send them.

    Whoever cancelled one meant it; one that surprised us, or died, every time is not begun again.
    """
    return await queue_tables.without_a_job(conn, task.name, TASKS[task.name], names)


async def deliver(
    tools: Context, job: Job, send: Callable[[], Awaitable[int]], begun: datetime, until: datetime
) -> Outcome:
    """
    Send a message that is as old as `begun`; return what became of it.

    Raises TryAgainAt as long as another attempt may succeed before `until`.
    """
    if tools.now() >= until:
        log.error("message given up", reason="Its time was over before it was sent.")
        return Outcome.GIVEN_UP
    await _wait_for_a_slot(tools, job)
    try:
        status = await send()
    except ConfigurationError as error:
        log.error("message given up", reason=str(error))  # noqa: TRY400 - it explains itself
        return Outcome.GIVEN_UP
    except ProviderError as error:
        return _again(tools, error, begun, until)
    log.info("message delivered", status=status)
    return Outcome.DELIVERED


async def _wait_for_a_slot(tools: Context, job: Job) -> None:
    assert job.id is not None
    async with tools.pool.connection() as conn:
        running = await queue_tables.running_before(conn, list(TASKS), job.id)
    if running >= _AT_ONCE:
        raise TryAgainAt("Other messages are being sent.", tools.now() + _UNTIL_FREE)


def _again(tools: Context, error: ProviderError, begun: datetime, until: datetime) -> Outcome:
    """Have the message sent again when the receiver says, or after a pause; give it up if that is too late."""
    pause = min(max(tools.now() - begun, _FIRST_PAUSE), _LONGEST_PAUSE)
    later = error.until if isinstance(error, ProviderBusy) and error.until else tools.now() + pause
    if later >= until:
        log.error("message given up", reason=str(error))
        return Outcome.GIVEN_UP
    log.warning("message not taken", reason=str(error), again=str(later))
    raise TryAgainAt(str(error), later)
