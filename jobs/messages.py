"""
The delivery of messages to the operator's receivers: the common part of alerts and heartbeats.

A receiver may be slow, unavailable or misconfigured, and no other work may depend on it. So each
message has its own job. The job has the lowest priority, and is tried again until the message is
too old. It is deferred in the transaction that stores the message.
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

# The tasks that send messages, each with the argument that identifies its message.
TASKS = {"send_alert": "alert", "send_heartbeat": "morning"}

# The priority of messages and of late splits. It is lower than the priority of every checkpoint,
# about -740,000 (`_make_job` in `jobs/daily.py`).
LOWEST_PRIORITY = -10_000_000

# A message waits while this many older messages are being sent, by all processes together.
# Otherwise, a receiver that hangs could use up the concurrency of every worker.
_MAX_CONCURRENT = 2

# If too many older messages are being sent, the job of a message is tried again after this time.
_SLOT_PAUSE = timedelta(seconds=15)

# The first pause between two attempts. Later pauses are as long as the age of the message, so its
# age doubles with every attempt, until the longest pause is reached.
_FIRST_PAUSE = timedelta(seconds=30)
_MAX_PAUSE = timedelta(hours=1)


class DeliveryOutcome(StrEnum):
    """How the delivery of a message ended. The value is stored with the message."""

    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


class LastMessage(Struct, frozen=True):
    """
    The newest alert or heartbeat.

    `at` is the time at which this message was stored. `outcome` is None until its delivery has
    ended. `waiting` is the number of waiting alerts, or of waiting heartbeats.
    """

    at: datetime
    kind: str
    outcome: str | None
    waiting: int


async def defer(conn: Conn, task: Any, names: Sequence[str]) -> None:
    """Defer a job for each message, in the transaction of `conn`; `names` identify the messages."""
    argument = TASKS[task.name]
    template = task.configure(priority=LOWEST_PRIORITY).job
    jobs = [template.evolve(task_kwargs={argument: name}) for name in names]
    if jobs:
        await app.job_manager.batch_defer_jobs_async(jobs, connection=conn)


async def find_without_job(conn: Conn, task: Any, names: Sequence[str]) -> list[str]:
    """
    Return the messages for which a new job should be deferred, because no job will send them.

    In two cases a message is not returned, although no job will send it:

    - An operator cancelled the job of the message on purpose.
    - The job of the message has strikes (`jobs.strikes`): a new job would fail, too.
    """
    return await queue_tables.find_without_job(
        conn, task=task.name, argument=TASKS[task.name], names=names
    )


async def deliver(
    context: Context,
    job: Job,
    send: Callable[[], Awaitable[int]],
    *,
    created_at: datetime,
    deadline: datetime,
) -> DeliveryOutcome:
    """
    Send a message that was stored at `created_at`. Return the outcome.

    `send` makes the request and returns the response's status. Raise TryAgainAt if the message must
    wait for older ones, or if the request failed and another attempt before `deadline` may succeed.
    """
    if context.now() >= deadline:
        log.error("message given up", reason="Its time was over before it was sent.")
        return DeliveryOutcome.GIVEN_UP
    await _wait_for_slot(context, job)
    try:
        status = await send()
    except ConfigurationError as error:
        # The receiver refused the message; the same request would be refused again.
        log.error("message given up", reason=str(error))  # noqa: TRY400 - the reason is enough
        return DeliveryOutcome.GIVEN_UP
    except ProviderError as error:
        return _retry_or_give_up(context, error, created_at=created_at, deadline=deadline)
    log.info("message delivered", status=status)
    return DeliveryOutcome.DELIVERED


async def _wait_for_slot(context: Context, job: Job) -> None:
    """Raise TryAgainAt if too many older messages are being sent."""
    assert job.id is not None
    # Only older jobs count. If several jobs start at the same time, the oldest ones continue. But
    # an old message that is tried again does not wait for younger messages, so for a moment more
    # than `_MAX_CONCURRENT` messages can be sent.
    async with context.pool.connection() as conn:
        running = await queue_tables.count_running_before(conn, list(TASKS), job.id)
    if running >= _MAX_CONCURRENT:
        raise TryAgainAt("Other messages are being sent.", context.now() + _SLOT_PAUSE)


def _retry_or_give_up(
    context: Context, error: ProviderError, *, created_at: datetime, deadline: datetime
) -> DeliveryOutcome:
    """
    Raise TryAgainAt for the next attempt.

    If the next attempt would be at `deadline` or later, return GIVEN_UP instead.
    """
    now = context.now()
    age = now - created_at
    retry_at = now + min(max(age, _FIRST_PAUSE), _MAX_PAUSE)
    if isinstance(error, ProviderBusy) and error.until:
        retry_at = error.until  # the receiver's Retry-After
    if retry_at >= deadline:
        log.error("message given up", reason=str(error))
        return DeliveryOutcome.GIVEN_UP
    log.warning("message not accepted", reason=str(error), again=str(retry_at))
    raise TryAgainAt(str(error), retry_at)
