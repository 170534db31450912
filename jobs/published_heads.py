"""
Publishes the journal's head in a git repository, where other people hold it.

The journal alone shows that the record is consistent. A copy of its head that the owner of the
database cannot change also shows that the record was not written again after the copy was made. So
the head is pushed to the repository of HEAD_REPOSITORY: one commit for each published head.
docs/operate/heads.md describes the repository.

Reconciliation defers the job `publish_head`, so that no transaction of the record depends on it:

- after the entry of a batch, within half a minute;
- after the last checkpoint of a morning, and after any later entry, at most once an hour.

Only one such job waits or runs at a time, with the lowest priority. It publishes the head that is
the newest when it runs. If that fails, it is tried again until it succeeds, at the latest after an
hour. After a day of failures there is an alert.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from app.database.pools import Pool, transaction
from app.domain import calendar, published_heads
from app.domain.model import SERIES, JournalKind
from app.domain.published_heads import PublishedHead
from app.errors import ConfigurationError, ProviderError, ProviderUnavailable, Refused, TryAgainAt
from app.providers.head_repository import HeadRepository
from app.store import batches, checkpoints
from app.store.rehearsed import REHEARSED_NOTICE, is_rehearsed, is_rehearsed_on_connection
from app.store.rows import Conn, row_factory, select_rows
from jobs import alerts, messages, queue_tables
from jobs.context import Context
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

# The least time between two publications that are not about a new batch.
_INTERVAL = timedelta(hours=1)

# The first pause after a failure. Later pauses are as long as publishing has failed, so this time
# doubles with every attempt, until the longest pause is reached.
_FIRST_PAUSE = timedelta(minutes=1)
_MAX_PAUSE = timedelta(hours=1)

# After this time without success, there is an alert, and `status` says that a person must act.
FAILING_TOO_LONG = timedelta(days=1)

# How often a push is tried again because another process has pushed at the same time. Each time,
# one of the others has succeeded.
_MAX_RACES = 5


class Publication(Struct, frozen=True):
    """
    The newest head in the repository, and the commit at the end of its branch.

    `is_new` is false if the head had been published before.
    """

    head: PublishedHead
    commit_id: str
    is_new: bool


class PublicationState(Struct, frozen=True):
    """
    What is stored about publishing in one repository and branch.

    `seq`, `hash` and `at` are the head that was published last, and `commit_id` its commit; they
    are None if no head was published yet. `requested_seq` and `requested_at` belong to the last job
    that was deferred. `failing_since` and `failure` are None if the last attempt succeeded, and
    `alerted_at` is None if this failure has no alert.
    """

    seq: int | None = None
    hash: str | None = None
    at: datetime | None = None
    commit_id: str | None = None
    published_at: datetime | None = None
    requested_seq: int | None = None
    requested_at: datetime | None = None
    failing_since: datetime | None = None
    failure: str | None = None
    alerted_at: datetime | None = None

    @property
    def head(self) -> PublishedHead | None:
        """Return the head that was published last, or None."""
        if self.seq is None or self.hash is None or self.at is None:
            return None
        return PublishedHead(self.seq, self.hash, self.at)


async def get_state(conn: Conn, repository: HeadRepository | None = None) -> PublicationState:
    """
    Return what is stored about publishing in a repository.

    If `repository` is None or not configured, this is the repository that was used last, because
    another process may be the one that publishes.
    """
    fingerprint = None
    if repository and repository.is_configured:
        fingerprint = repository.fingerprint
    async with conn.cursor(row_factory=row_factory(PublicationState)) as cursor:
        await cursor.execute(
            """
            SELECT
                seq, hash, at, commit_id, published_at,
                requested_seq, requested_at, failing_since, failure, alerted_at
            FROM operations.published_heads
            WHERE %(fingerprint)s::text IS NULL OR repository = %(fingerprint)s
            ORDER BY greatest(requested_at, published_at, failing_since) DESC NULLS LAST
            LIMIT 1
            """,
            {"fingerprint": fingerprint},
        )
        return await cursor.fetchone() or PublicationState()


async def get_head(conn: Conn) -> PublishedHead | None:
    """Return the number, the hash and the time of the newest entry; None for an empty journal."""
    heads = await _select_heads(conn, ())
    return heads[-1] if heads else None


async def _select_heads(conn: Conn, numbers: Sequence[int]) -> list[PublishedHead]:
    """Return the entries with these numbers and the newest entry, in the order of the journal."""
    # One statement, so that all entries are of the same moment.
    return await select_rows(
        conn,
        PublishedHead,
        table="journal",
        where="WHERE seq = ANY(%s) OR seq = (SELECT max(seq) FROM journal) ORDER BY seq",
        values=(list(numbers),),
    )


# Publishing


async def publish(pool: Pool, repository: HeadRepository, now: datetime) -> Publication:
    """
    Push the journal's head to the repository, unless it is there already, and store that.

    `now` is stored as the time of the publication. Raises Refused if the journal is empty, if the
    repository does not fit it, or if a rehearsal would be published on another machine. Raises
    ConfigurationError or ProviderError if the repository cannot be used.
    """
    rehearsed = await is_rehearsed(pool)
    if rehearsed and repository.is_configured and not repository.is_local:
        raise Refused(
            "This is the record of a rehearsal, and HEAD_REPOSITORY is not on this machine: a "
            "rehearsal is published only in a repository that is named by its path."
        )
    async with pool.connection() as conn:
        if await get_head(conn) is None:
            raise Refused("The journal is empty, so it has no head yet.")
        state = await get_state(conn, repository)
    publication = await _push(pool, repository, state, rehearsed=rehearsed)
    async with transaction(pool, notify=False) as conn:
        await _store_publication(conn, repository, publication=publication, now=now)
    return publication


async def _push(
    pool: Pool, repository: HeadRepository, state: PublicationState, *, rehearsed: bool
) -> Publication:
    """Push the head. If another process pushes at the same time, fetch its commit and try again."""
    known, known_commit = state.head, state.commit_id
    async with repository.opened() as clone:
        for _ in range(_MAX_RACES):
            branch = await clone.fetch(known_commit)
            if known and not branch.has_known:
                raise published_heads.rewritten(
                    known, f"the branch no longer has its commit {known_commit}"
                )
            listed = published_heads.parse_list(branch.content)
            # The journal is read after the fetch: another process may have published an entry that
            # did not exist before.
            async with pool.connection() as conn:
                entries = await _select_heads(conn, [head.seq for head in listed])
            newest = entries[-1]
            published_heads.refuse_misfit(
                listed, {entry.seq: entry for entry in entries}, newest=newest, known=known
            )
            if listed and listed[-1].seq == newest.seq:
                return Publication(newest, branch.tip, is_new=False)
            content = published_heads.format_list([*listed, newest])
            message = newest.text
            if rehearsed:
                message = f"{message}\n\n{REHEARSED_NOTICE}"
            commit_id = await clone.push(content, parent=branch.tip, message=message)
            if commit_id:
                return Publication(newest, commit_id, is_new=True)
    raise ProviderUnavailable(
        "HEAD_REPOSITORY was changed by another process each time that the head was pushed."
    )


async def _store_publication(
    conn: Conn, repository: HeadRepository, *, publication: Publication, now: datetime
) -> None:
    """Store the newest published head, unless another process has stored a newer one."""
    await conn.execute(
        """
        INSERT INTO operations.published_heads AS stored (
            repository, seq, hash, at, commit_id, published_at
        )
        VALUES (
            %(repository)s, %(seq)s, %(hash)s, %(at)s, %(commit_id)s, %(now)s
        )
        ON CONFLICT (repository) DO UPDATE SET
            seq = excluded.seq,
            hash = excluded.hash,
            at = excluded.at,
            commit_id = excluded.commit_id,
            published_at = CASE
                WHEN stored.seq = excluded.seq THEN stored.published_at
                ELSE excluded.published_at
            END,
            failing_since = NULL,
            failure = NULL,
            alerted_at = NULL
        WHERE stored.seq IS NULL OR stored.seq <= excluded.seq
        """,
        {
            "repository": repository.fingerprint,
            "seq": publication.head.seq,
            "hash": publication.head.hash,
            "at": publication.head.at,
            "commit_id": publication.commit_id,
            "now": now,
        },
    )


# The job


@app.task(name="publish_head", retry=RetryPolicy())
async def publish_head(seq: str) -> None:
    """
    Publish the journal's head. `seq` is the number of the head when the job was deferred.

    If the journal has grown since, its present head is published.
    """
    await run(current_context())


async def run(context: Context) -> None:
    """Publish the head. Raise TryAgainAt if that fails."""
    repository = context.head_repository
    if not repository.is_configured:
        log.info("head not published, because HEAD_REPOSITORY is not set here")
        return
    try:
        publication = await publish(context.pool, repository, context.now())
    except (ConfigurationError, Refused, ProviderError) as error:
        again = await _store_failure(context, str(error))
        log.warning("head not published", reason=str(error), again=str(again))
        raise TryAgainAt(str(error), again) from None
    event = "head published" if publication.is_new else "head already published"
    log.info(event, head=publication.head.text, commit=publication.commit_id)


async def _store_failure(context: Context, failure: str) -> datetime:
    """
    Store that publishing has failed, and an alert if it has failed for a day.

    Return the time of the next attempt.
    """
    now, fingerprint = context.now(), context.head_repository.fingerprint
    async with transaction(context.pool, notify=False) as conn:
        cursor = await conn.execute(
            """
            INSERT INTO operations.published_heads AS stored (repository, failing_since, failure)
            VALUES (%(repository)s, %(now)s, %(failure)s)
            ON CONFLICT (repository) DO UPDATE SET
                failing_since = coalesce(stored.failing_since, excluded.failing_since),
                failure = excluded.failure
            RETURNING failing_since, alerted_at
            """,
            {"repository": fingerprint, "now": now, "failure": failure},
        )
        failing_since, alerted_at = await cursor.fetchone() or (now, None)
        if alerted_at is None and now - failing_since >= FAILING_TOO_LONG:
            await alerts.report_head_unpublished(
                conn, context, failing_since=failing_since, failure=failure
            )
            await conn.execute(
                "UPDATE operations.published_heads SET alerted_at = %s WHERE repository = %s",
                (now, fingerprint),
            )
    return now + min(max(now - failing_since, _FIRST_PAUSE), _MAX_PAUSE)


# When the job is deferred


async def defer_if_due(conn: Conn, context: Context) -> int:
    """
    Defer the job if the head should be published and no job will do it.

    Return how many jobs were deferred: 0 or 1. Every round of the reconciliation calls this
    function, and only one round runs at a time.
    """
    repository = context.head_repository
    if not repository.is_configured:
        return 0
    head = await get_head(conn)
    state = await get_state(conn, repository)
    published_seq = state.seq or 0
    if head is None or head.seq <= published_seq:
        return 0
    is_due = await _is_due(
        conn,
        state,
        published_seq=published_seq,
        now=context.now(),
        series=context.series,
    )
    if not is_due:
        return 0
    waiting = await queue_tables.find_jobs(
        conn, queue_tables.NOT_ENDED, task=publish_head.name, limit=1
    )
    if waiting:
        return 0
    if not repository.is_local and await is_rehearsed_on_connection(conn):
        return 0
    await conn.execute(
        """
        INSERT INTO operations.published_heads (repository, requested_seq, requested_at)
        VALUES (%(repository)s, %(seq)s, %(now)s)
        ON CONFLICT (repository) DO UPDATE SET requested_seq = %(seq)s, requested_at = %(now)s
        """,
        {"repository": repository.fingerprint, "seq": head.seq, "now": context.now()},
    )
    job = publish_head.configure(priority=messages.LOWEST_PRIORITY).job
    job = job.evolve(task_kwargs={"seq": str(head.seq)})
    await app.job_manager.batch_defer_jobs_async([job], connection=conn)
    return 1


async def _is_due(
    conn: Conn,
    state: PublicationState,
    *,
    published_seq: int,
    now: datetime,
    series: Sequence[str] = (SERIES,),
) -> bool:
    """Return whether a batch was stored since the last job, or the morning is over."""
    if await _has_batch_after(conn, max(published_seq, state.requested_seq or 0)):
        return True
    if state.requested_at and now - state.requested_at < _INTERVAL:
        return False
    return await _is_morning_over(conn, now, series)


async def _has_batch_after(conn: Conn, seq: int) -> bool:
    cursor = await conn.execute(
        "SELECT EXISTS (SELECT FROM journal WHERE seq > %s AND kind = %s)",
        (seq, JournalKind.BATCH),
    )
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def _is_morning_over(conn: Conn, now: datetime, series: Sequence[str]) -> bool:
    """
    Return whether each checkpoint that is due has a row, and today's Monday a batch of each series.
    """
    today = calendar.new_york_date(now)
    for due in await checkpoints.list_due(conn, today):
        if due.due_at <= now:
            return False
    if calendar.run_date(now) is None:
        return True
    return await batches.have_all(conn, series, today)
