"""
Timestamps of the journal: jobs that let other services sign its head.

The transaction that stores a batch defers a job for each service, and so does each checkpoint. A
job reads the head after that commit, requests a proof, and stores it. It does not matter which of
several entries a proof is about: it covers all entries before it. So the jobs of entries that are
stored within a few seconds are one job, and a job whose head is stamped already does nothing.

A service that does not answer costs nothing but a later timestamp. Only a proof that verifies is
stored. No error of this module ends the transaction that records something.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from procrastinate import JobContext
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job
from structlog.contextvars import bind_contextvars

from app.core.availability import is_unavailable
from app.database.pools import transaction
from app.domain import calendar, opentimestamps
from app.domain.model import Batch, BatchStatus, JournalKind
from app.domain.opentimestamps import Attestation, Proof, UnusableProof
from app.domain.timestamps import (
    Head,
    Timestamp,
    TimestampKind,
    TimestampStatus,
    first_open,
    is_before,
)
from app.errors import (
    RECORD_DAMAGED_ADVICE,
    RECORD_DAMAGED_PREFIX,
    BodyTooLong,
    ConfigurationError,
    ProviderBusy,
    ProviderError,
    RecordDamaged,
    TryAgainAt,
    UnusableStamp,
)
from app.providers.timestamp_calendar import TimestampCalendar
from app.providers.timestamp_services import (
    CONFIGURATION,
    UNAVAILABLE,
    UNUSABLE,
    TimestampService,
)
from app.store import batches, journal, timestamps
from app.store.rows import Conn
from jobs import alerts, messages, queue_tables
from jobs.context import Context
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

# The entries of one slot share one job. A slot of batches is short, because their timestamp must
# come before the open. Checkpoints follow one another for some minutes, so their slot is an hour;
# it ends ten minutes after each full hour, when the checkpoints of nine o'clock are stored.
_BATCH_SLOT = timedelta(seconds=10)
_CHECKPOINT_SLOT = timedelta(hours=1)
_CHECKPOINT_SLOT_END = timedelta(minutes=10)

# The job of a slot runs this long after the slot's end. By then, the transactions that share the
# job have ended.
_AFTER_SLOT = timedelta(seconds=10)

# If the open is nearer than this, the job of a batch does not wait for others to share it.
_BEFORE_OPEN = timedelta(minutes=1)

# When the timestamp of a batch is checked. At this time, an answer that was requested just before
# the open has arrived.
_CHECK_AFTER_OPEN = timedelta(seconds=30)

# The pauses between the attempts of one job: each is twice as long as the one before.
_FIRST_PAUSE = timedelta(seconds=30)
_MAX_PAUSE = timedelta(hours=1)
_MAX_DOUBLINGS = 7

# A calendar waits some hours until its hashes are in a block. If a proof is not in a block after
# two weeks, the calendar has lost it.
_FIRST_UPGRADE_AFTER = timedelta(hours=6)
_UPGRADE_PAUSE = timedelta(hours=12)
_UPGRADE_PERIOD = timedelta(weeks=2)

# How many calendars of one proof are asked in one job. A usual proof names one, but an answer has
# room for hundreds, and each request may take the whole time-out.
_MAX_PROMISES = 5

# Reconciliation defers no job for an entry that is younger than this: the entry's own job may be on
# its way, in a transaction that is not committed yet.
_RECONCILE_AFTER = timedelta(minutes=5)

# Until when, after its time, reconciliation defers a lost job that checks a batch's timestamp.
_RECONCILE_CHECK_UNTIL = timedelta(hours=1)


@app.task(name="stamp_head", retry=RetryPolicy(), pass_context=True)
async def stamp_head(job_context: JobContext, kind: str, authority: str) -> None:
    """Let one service stamp the newest entry of the journal, unless it has stamped it already."""
    service = TimestampService(TimestampKind(kind), authority)
    await stamp(current_context(), service, job_context.job)


@app.task(name="upgrade_proof", retry=RetryPolicy())
async def upgrade_proof(timestamp: str) -> None:
    """Complete the pending proof of OpenTimestamps whose id is `timestamp`."""
    await upgrade(current_context(), UUID(timestamp))


@app.task(name="check_stamp", retry=RetryPolicy())
async def check_stamp(batch_id: str) -> None:
    """Report it if no timestamp proves that a batch was stored before its open."""
    await check(current_context(), UUID(batch_id))


# The argument that identifies what a job of each task is about.
_ARGUMENTS = {stamp_head.name: "authority", upgrade_proof.name: "timestamp"}


# Deferring jobs


async def defer_for_batch(conn: Conn, context: Context, batch: Batch) -> None:
    """
    Defer the jobs that stamp a new batch and check its timestamp, in the batch's transaction.

    The check is deferred only for a batch that can have a timestamp before its open.
    """
    now = context.now()
    due_at = _end_of_slot(now, _BATCH_SLOT) + _AFTER_SLOT
    opens_at = first_open(context.calendar, batch.run_date)
    if now < opens_at < due_at + _BEFORE_OPEN:
        due_at = now
    with _log_errors():
        await _defer_for_services(conn, context, due_at)
    if batch.late or not context.timestamps.authorities:
        return
    with _log_errors():
        async with conn.transaction():
            await _defer_check(conn, batch, opens_at + _CHECK_AFTER_OPEN)


async def defer_for_checkpoint(conn: Conn, context: Context) -> None:
    """Defer the jobs that stamp a new checkpoint, in its transaction: at most one job an hour."""
    shifted = context.now() - _CHECKPOINT_SLOT_END
    due_at = _end_of_slot(shifted, _CHECKPOINT_SLOT) + _CHECKPOINT_SLOT_END + _AFTER_SLOT
    with _log_errors():
        await _defer_for_services(conn, context, due_at)


async def defer_lost(conn: Conn, context: Context) -> int:
    """
    Defer the jobs that are missing: for batches that a service has not stamped, and pending proofs.

    A job that an operator cancelled, or that has strikes, is not deferred again. Return how many
    jobs were deferred.
    """
    now = context.now()
    services = [
        service
        for service in context.timestamps
        if await _has_unstamped_batch(conn, service, now - _RECONCILE_AFTER)
    ]
    lost = await _without_job(conn, stamp_head, [service.authority for service in services])
    for service in services:
        if service.authority in lost:
            await _defer_stamp(conn, service, now)

    pending: list[Timestamp] = []
    if context.timestamps.calendars:
        pending = await timestamps.list_pending(conn, now - _UPGRADE_PERIOD)
    by_id = {str(one.id): one for one in pending}
    without_upgrade = await _without_job(conn, upgrade_proof, list(by_id))
    for id in without_upgrade:
        await _defer_upgrade(conn, by_id[id], now)
    return len(lost) + len(without_upgrade)


async def defer_lost_check(conn: Conn, context: Context) -> int:
    """
    Defer the job that checks the timestamp of this Monday's batch, if it was deleted.

    A job with any status counts, because it has checked the timestamp, or an operator can see it.
    The exception is a job that a worker of an older version has ended, because it does not know the
    task.
    Nothing is deferred long after the open: the services may have been set since then, and an alert
    about an earlier time would be wrong. Return how many jobs were deferred.
    """
    now = context.now()
    run_date = calendar.latest_run_date(now)
    due_at = first_open(context.calendar, run_date) + _CHECK_AFTER_OPEN
    if not context.timestamps.authorities or now > due_at + _RECONCILE_CHECK_UNTIL:
        return 0
    deferred = 0
    for series in context.series:
        batch = await _find_without_check(conn, series, run_date)
        if batch is not None:
            await _defer_check(conn, batch, max(now, due_at))
            log.warning("lost check of a timestamp deferred", series=series, run_date=str(run_date))
            deferred += 1
    return deferred


async def _find_without_check(conn: Conn, series: str, run_date: date) -> Batch | None:
    """Return the batch of a Monday if its timestamp needs a check and has no job for it."""
    try:
        batch = await batches.get_by_run_date(conn, series, run_date)
    except RecordDamaged:
        # Its checkpoints report the damage.
        return None
    if batch is None or batch.late or batch.status == BatchStatus.FAILED:
        return None
    if await queue_tables.has_job(
        conn, task=check_stamp.name, argument="batch_id", value=str(batch.id)
    ):
        return None
    return batch


async def _has_unstamped_batch(conn: Conn, service: TimestampService, before: datetime) -> bool:
    """Return whether the newest batch of before that time has no timestamp of a service."""
    entry = await journal.newest_of_kind(conn, JournalKind.BATCH)
    if entry is None or entry.at > before:
        return False
    newest = await timestamps.newest(conn, service.kind, service.authority)
    return newest is None or newest.seq < entry.seq


async def _without_job(conn: Conn, task: Any, names: Sequence[str]) -> list[str]:
    """Return those of `names` for which a job should be deferred."""
    if not names:
        return []
    return await queue_tables.find_without_job(
        conn, task=task.name, argument=_ARGUMENTS[task.name], names=names
    )


async def _defer_for_services(conn: Conn, context: Context, due_at: datetime) -> None:
    for service in context.timestamps:
        await _defer_stamp(conn, service, due_at)


async def _defer_stamp(conn: Conn, service: TimestampService, due_at: datetime) -> None:
    """
    Defer a job that stamps the head at `due_at`, unless such a job waits already.

    The queueing lock contains the time. If all jobs of a service had the same lock, the next
    attempt of a job could not be stored while another job of the service waits: the first job would
    seem to run for ever.
    """
    moment = due_at.astimezone(UTC).isoformat(timespec="microseconds")
    job = stamp_head.configure(
        schedule_at=due_at,
        priority=messages.LOWEST_PRIORITY,
        queueing_lock=f"stamp_head {service.authority} {moment}",
    ).job.evolve(task_kwargs={"kind": service.kind.value, "authority": service.authority})
    try:
        # A savepoint, because a lock that is taken is an error for Postgres.
        async with conn.transaction():
            await app.job_manager.batch_defer_jobs_async([job], connection=conn)
    except AlreadyEnqueued:
        log.debug("timestamp already deferred", authority=service.authority)


async def _defer_check(conn: Conn, batch: Batch, at: datetime) -> None:
    job = check_stamp.configure(schedule_at=at, priority=messages.LOWEST_PRIORITY).job.evolve(
        task_kwargs={"batch_id": str(batch.id)}
    )
    await app.job_manager.batch_defer_jobs_async([job], connection=conn)


async def _defer_upgrade(conn: Conn, pending: Timestamp, at: datetime) -> None:
    job = upgrade_proof.configure(
        schedule_at=max(at, pending.received_at + _FIRST_UPGRADE_AFTER),
        priority=messages.LOWEST_PRIORITY,
    ).job.evolve(task_kwargs={"timestamp": str(pending.id)})
    await app.job_manager.batch_defer_jobs_async([job], connection=conn)


@contextmanager
def _log_errors() -> Iterator[None]:
    """Log an error and do not raise it, unless the database is unavailable."""
    try:
        yield
    except Exception as error:
        if is_unavailable(error):
            raise
        log.exception("timestamp could not be deferred")


def _end_of_slot(now: datetime, length: timedelta) -> datetime:
    """Return the end of the slot that contains `now`; slots are counted from 1970 in UTC."""
    seconds = int(length.total_seconds())
    return datetime.fromtimestamp((int(now.timestamp()) // seconds + 1) * seconds, UTC)


# Running jobs


async def stamp(context: Context, service: TimestampService, job: Job) -> None:
    """
    Let a service stamp the head, and store the proof.

    Raise TryAgainAt if the service gave no proof and no later job of this service is on its way.
    """
    if service not in context.timestamps:
        log.info("timestamp service is not set any more", authority=service.authority)
        return
    async with context.pool.connection() as conn:
        head = await timestamps.head(conn)
        newest = await timestamps.newest(conn, service.kind, service.authority)
    if head is None or (newest and newest.seq >= head.seq):
        log.info("head already stamped", seq=head and head.seq)
        return
    bind_contextvars(seq=head.seq)
    try:
        proof = await _request_proof(context, service, head)
    except ProviderError as error:
        context.timestamps.count_failure(service.kind, _failure_reason(error))
        log.warning("no timestamp received", reason=str(error))
        await _try_again_later(context, job, error)
        return
    except ConfigurationError as error:
        context.timestamps.count_failure(service.kind, _failure_reason(error))
        log.error("no timestamp received", reason=str(error))  # noqa: TRY400
        # A person must change a setting. The job stays all the same: otherwise reconciliation would
        # defer a new one every half minute.
        await _try_again_later(context, job, error)
        return
    async with transaction(context.pool) as conn:
        is_stored = await timestamps.insert(conn, proof)
        if is_stored and proof.status == TimestampStatus.PENDING:
            await _defer_upgrade(conn, proof, context.now())
    if not is_stored:
        log.info("head already stamped by another process")
        return
    log.info("head stamped", hash=head.hash, stamped_at=str(proof.at), status=proof.status)


class _UnusableAnswer(ProviderError):
    """The answer of a calendar is no proof of what was sent."""


def _failure_reason(error: ProviderError | ConfigurationError) -> str:
    """Return the reason of a failed request, as `/metrics` shows it."""
    if isinstance(error, ConfigurationError):
        return CONFIGURATION
    if isinstance(error, UnusableStamp | BodyTooLong | _UnusableAnswer):
        return UNUSABLE
    return UNAVAILABLE


async def _request_proof(context: Context, service: TimestampService, head: Head) -> Timestamp:
    """Return the proof of a service, which verifies."""
    if service.kind == TimestampKind.RFC3161:
        return await _request_token(context, service, head)
    return await _request_calendar_proof(context, service, head)


async def _request_token(context: Context, service: TimestampService, head: Head) -> Timestamp:
    received = await context.timestamps.authorities[service.authority].stamp(head.data)
    return Timestamp(
        id=uuid4(),
        seq=head.seq,
        hash=head.hash,
        kind=service.kind,
        status=TimestampStatus.CONFIRMED,
        authority=service.authority,
        at=received.stamp.gen_time,
        accuracy_seconds=received.stamp.accuracy_seconds,
        received_at=received.received_at,
        nonce=str(received.nonce),
        proof=received.response,
        chain=received.stamp.chain_pem,
    )


async def _request_calendar_proof(
    context: Context, service: TimestampService, head: Head
) -> Timestamp:
    digest = bytes.fromhex(head.hash)
    client = context.timestamps.calendars[service.authority]
    answer = await client.submit(digest)
    received_at = context.now()
    with _refusing_unusable_proofs():
        file = opentimestamps.pending_file(digest, answer)
        proof = opentimestamps.parse(file)
    if not proof.block and not any(client.is_allowed(one.uri or "") for one in proof.pending):
        raise _UnusableAnswer(
            f"The answer of {service.authority} leads to no host that OTS_HOSTS allows."
        )
    return _to_timestamp(
        file, proof, seq=head.seq, authority=service.authority, received_at=received_at
    )


@contextmanager
def _refusing_unusable_proofs() -> Iterator[None]:
    """Raise _UnusableAnswer if the answer of a calendar makes no proof."""
    try:
        yield
    except UnusableProof as error:
        raise _UnusableAnswer(str(error)) from None


def _to_timestamp(
    file: bytes, proof: Proof, *, seq: int, authority: str, received_at: datetime
) -> Timestamp:
    """
    Return the row of a proof of OpenTimestamps: CONFIRMED if it leads into a block.

    `file` is the proof of the entry `seq` as it is stored, and `proof` is what it says.
    """
    status, height = TimestampStatus.PENDING, None
    if proof.block:
        status, height = TimestampStatus.CONFIRMED, proof.block.height
    return Timestamp(
        id=uuid4(),
        seq=seq,
        hash=proof.digest.hex(),
        kind=TimestampKind.OPENTIMESTAMPS,
        status=status,
        authority=authority,
        at=received_at,
        received_at=received_at,
        proof=file,
        block_height=height,
    )


async def _try_again_later(
    context: Context, job: Job, error: ProviderError | ConfigurationError
) -> None:
    """
    Raise TryAgainAt, with a pause that grows with the number of attempts.

    Return if a later job of the same service runs before that: it stamps a later head, which covers
    this one.
    """
    now = context.now()
    doublings = min(job.attempts, _MAX_DOUBLINGS)
    retry_at = now + min(_FIRST_PAUSE * 2**doublings, _MAX_PAUSE)
    if isinstance(error, ProviderBusy) and error.until:
        retry_at = max(retry_at, min(error.until, now + _MAX_PAUSE))
    assert job.id is not None
    async with transaction(context.pool, notify=False) as conn:
        is_superseded = await queue_tables.has_later_duplicate(conn, job.id, due_by=retry_at)
    if is_superseded:
        log.info("a later job stamps the head")
        return
    raise TryAgainAt(str(error), retry_at)


async def upgrade(context: Context, id: UUID) -> None:
    """
    Request the rest of a pending proof from its calendar, and store the complete proof.

    Raise TryAgainAt if the hash is not in a block yet, until the proof is 14 days old.
    """
    async with context.pool.connection() as conn:
        pending = await timestamps.get(conn, id)
        if pending is None or await _is_upgraded(conn, pending):
            log.info("proof already complete")
            return
    bind_contextvars(seq=pending.seq, authority=pending.authority)
    client = _calendar_of(context, pending)
    if client is None:
        log.info("timestamp service is not set any more", authority=pending.authority)
        return
    reason = "Its calendar has not brought the hash into a block yet."
    try:
        complete = await _request_upgrade(client, pending, context.now())
    except (ProviderError, ConfigurationError) as error:
        context.timestamps.count_failure(pending.kind, _failure_reason(error))
        log.warning("proof not upgraded", reason=str(error))
        complete, reason = None, str(error)
    if complete is None:
        retry_at = context.now() + _UPGRADE_PAUSE
        if retry_at - pending.received_at <= _UPGRADE_PERIOD:
            raise TryAgainAt(reason, retry_at)
        log.error("proof given up", reason=reason)
        return
    async with transaction(context.pool) as conn:
        await timestamps.insert(conn, complete)
    log.info("proof upgraded", block=complete.block_height)


async def _is_upgraded(conn: Conn, pending: Timestamp) -> bool:
    of_entry = await timestamps.list_of_entry(conn, pending.seq, pending.kind)
    return any(
        one.authority == pending.authority and one.status == TimestampStatus.CONFIRMED
        for one in of_entry
    )


def _calendar_of(context: Context, pending: Timestamp) -> TimestampCalendar | None:
    """Return the client of a proof's calendar, or any other one: each can request the rest."""
    calendars = context.timestamps.calendars
    return calendars.get(pending.authority) or next(iter(calendars.values()), None)


async def _request_upgrade(
    client: TimestampCalendar, pending: Timestamp, now: datetime
) -> Timestamp | None:
    """
    Return the complete proof, or None if no calendar has it yet.

    A proof may name several calendars. One that fails does not stop the others: its error is raised
    only if none of them completes the proof.
    """
    promises = _read_pending(pending).pending
    allowed = [one for one in promises if client.is_allowed(one.uri or "")]
    failure: ProviderError | ConfigurationError | None = None
    # If none is allowed any more, the error of the first one names its host.
    for promise in allowed[:_MAX_PROMISES] or promises[:1]:
        try:
            complete = await _request_rest(client, pending, promise=promise, now=now)
        except (ProviderError, ConfigurationError) as error:
            failure = failure or error
            continue
        if complete:
            return complete
    if failure:
        raise failure
    return None


def _read_pending(pending: Timestamp) -> Proof:
    """Return a stored proof. Raises RecordDamaged if it was changed by hand."""
    try:
        proof = opentimestamps.parse(pending.proof)
    except UnusableProof as error:
        raise _damaged(pending, str(error)) from None
    if proof.digest.hex() != pending.hash:
        raise _damaged(pending, "It proves another hash.")
    return proof


def _damaged(pending: Timestamp, reason: str) -> RecordDamaged:
    return RecordDamaged(
        f"{RECORD_DAMAGED_PREFIX}the proof of OpenTimestamps {pending.id} for entry {pending.seq} "
        f"cannot be used. {reason} {RECORD_DAMAGED_ADVICE}"
    )


async def _request_rest(
    client: TimestampCalendar, pending: Timestamp, *, promise: Attestation, now: datetime
) -> Timestamp | None:
    """Return the proof that the calendar of one attestation completes, or None."""
    assert promise.uri
    answer = await client.fetch_upgrade(promise.uri, promise.commitment)
    if answer is None:
        return None
    with _refusing_unusable_proofs():
        file = opentimestamps.upgraded_file(pending.proof, promise.commitment, answer)
        proof = opentimestamps.parse(file)
    if not proof.block:
        return None
    return _to_timestamp(file, proof, seq=pending.seq, authority=pending.authority, received_at=now)


async def check(context: Context, batch_id: UUID) -> None:
    """
    Store an alert if no timestamp proves that a batch was stored before its open.

    Raise TryAgainAt before the open.
    """
    if not context.timestamps.authorities:
        log.info("timestamp service is not set any more")
        return
    async with transaction(context.pool) as conn:
        batch = await batches.get(conn, batch_id)
        if batch is None or batch.status == BatchStatus.FAILED or batch.late:
            return
        bind_contextvars(run_date=str(batch.run_date))
        opens_at = first_open(context.calendar, batch.run_date)
        if context.now() < opens_at:
            raise TryAgainAt("The open has not come yet.", opens_at)
        stamps = await timestamps.list_covering(conn, batch.id)
        if is_before(stamps, opens_at):
            log.info("batch stamped before its open")
            return
        log.warning("batch not stamped before its open")
        await alerts.report_unstamped_batch(conn, context, batch, opens_at=opens_at, stamps=stamps)
        # The answers about this batch have changed, although no row has: at the open,
        # `Batch.stampedBeforeOpen` becomes false.
        await conn.execute("SELECT pg_notify('record', '')")
