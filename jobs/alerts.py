"""
Alerts: messages to an operator about problems, sent as soon as a problem is recorded.

docs/operate/alerts-webhook.md describes them for receivers. An alert is a row of
`operations.alerts`. The row and its job are written in the transaction that records the problem. So
no alert is sent about a problem that was not stored, and no alert is lost when a process ends. A
problem may be stored without an alert: if no receiver is configured, or if the alert cannot be
stored (the log has the error). An alert may arrive more than once; its id stays the same, so that a
receiver can drop a repetition. An alert is given up if the receiver refuses it, or after a day.

No transaction records that the quota is spent. So a job that finds the quota spent stores the alert
in a separate transaction.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import structlog
from msgspec import Struct
from msgspec.structs import asdict
from procrastinate import JobContext
from procrastinate.jobs import Job

from app.core.availability import is_unavailable
from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar, splits
from app.domain.alternation import Alternation, Difference
from app.domain.dividends import RestatedAmount
from app.domain.journal import format_timestamp
from app.domain.model import (
    CHECKPOINT_DAYS,
    SERIES,
    Batch,
    Checkpoint,
    FailureReason,
    SkipReason,
)
from app.domain.returns import format_decimal
from app.domain.text import for_chat
from app.domain.timestamps import Timestamp
from app.errors import QuotaSpent
from app.providers.model_ends import ModelEnd
from app.store import batches, checkpoints, journal
from app.store.checkpoints import CheckpointReading, DueCheckpoint
from app.store.closes import ChangedClose
from app.store.rehearsed import is_rehearsed
from app.store.rows import Conn, row_factory
from jobs import messages
from jobs.context import Context
from jobs.messages import DeliveryOutcome, LastMessage
from jobs.queue import RetryPolicy, app, current_context

log = structlog.get_logger()

# An alert that could not be delivered within this time is given up, because it is no longer news.
MAX_AGE = timedelta(days=1)

# After an alert about a spent quota, the next one is stored only after the quota was free for this
# time.
_QUOTA_FREE_TIME = timedelta(hours=1)

# Reconciliation gives up an alert only this long after `MAX_AGE`, because the alert's own job may
# still be sending it.
_GRACE = timedelta(hours=1)

# The most characters of `text` and of `content` in a message.
_MAX_TEXT_LENGTH = 1500

# Alerts about changed readings cover the batches whose run date is at most 41 days ago: those in
# their fortnight of 14 days, and those whose fortnight ended at most 27 days ago. The number 27 is
# also the day of the last request for late splits. But that day is counted from the run date, and
# here the 27 days are counted from the end of the fortnight.
_WATCHED_DAYS = calendar.LATE_SPLIT_CHECK_DAYS[-1] + CHECKPOINT_DAYS

# The most sessions that one alert about changed readings names. When the provider restates its
# prices, the closes of all sessions change.
_MAX_SESSIONS = 4

# The clock of another process may be ahead: its declaration may be from after the alert about it.
_CLOCK_DIFFERENCE = timedelta(hours=1)

# The clause of an alert for each kind of repair, by the field of `ReconcileResult`.
_REPAIRS = {
    "put_back": "{} left behind by a process that died",
    "given_up": "{} given up after failing every time",
    "deferred": "{} deferred for checkpoints that had none",
    "begun": "{} begun for this Monday, which had none",
}


class Alert(Struct, frozen=True, kw_only=True):
    """
    A row of `operations.alerts`: one problem, reported to an operator.

    `text` says what happened, and `to_do` what a person can do about it. `series` is the series
    that it is about; None if it is about none, or about several. `until` is set only for a spent
    quota: the time until which the quota is known to be spent.
    """

    id: UUID
    kind: str
    at: datetime
    series: str | None = None
    run_date: date | None = None
    day: int | None = None
    reason: str | None = None
    text: str
    to_do: str
    until: datetime | None = None


@app.task(name="send_alert", retry=RetryPolicy(), pass_context=True)
async def send_alert(job_context: JobContext, alert: str) -> None:
    """Send the alert whose id is `alert`, unless it was delivered or given up."""
    await send(current_context(), UUID(alert), job_context.job)


async def send(context: Context, id: UUID, job: Job) -> None:
    """Send an alert, and store the outcome."""
    async with transaction(context.pool, notify=False) as conn:
        alert = await _get_waiting(conn, id)
        head = await journal.head_text(conn)
    if alert is None:
        log.info("alert already delivered or given up")
        return

    message = payload(alert, rehearsed=await is_rehearsed(context.pool), journal_head=head)
    outcome = await messages.deliver(
        context,
        job,
        send=lambda: context.alerts.post(message, str(alert.id)),
        created_at=alert.at,
        deadline=alert.at + MAX_AGE,
    )
    async with transaction(context.pool, notify=False) as conn:
        await conn.execute(
            """
            UPDATE operations.alerts
            SET outcome = %s, ended_at = %s
            WHERE id = %s AND outcome IS NULL
            """,
            (outcome, context.now(), id),
        )


def payload(alert: Alert, *, rehearsed: bool, journal_head: str | None) -> dict[str, Any]:
    """
    Return the JSON document that a receiver gets.

    `text` and `content` have the same value, because some chat services show one of them, and some
    the other. `journal_head` is the head when the alert is sent, so that the receiver keeps a copy
    of it; it is None if there is none.
    """
    sender = "Alpha Monday"
    if rehearsed:
        sender = "Alpha Monday (rehearsed)"
    line = _chat_line(f"{sender}: {alert.text}", alert.to_do)
    return {
        "id": str(alert.id),
        "kind": alert.kind,
        "at": format_timestamp(alert.at),
        "series": alert.series,
        "run_date": str(alert.run_date) if alert.run_date else None,
        "day": alert.day,
        "reason": alert.reason,
        "text": line,
        "content": line,
        "to_do": alert.to_do,
        "rehearsed": rehearsed,
        "service": "alpha-monday",
        "version": version("alpha-monday"),
        "journal_head": journal_head,
    }


def _chat_line(text: str, to_do: str) -> str:
    """
    Return `text` and `to_do` on one line of at most 1,500 characters.

    If the line would be longer, only `text` is cut, because `to_do` has the command to run.
    """
    room = _MAX_TEXT_LENGTH - len(to_do) - 1
    if len(text) > room:
        text = f"{text[: room - 1]}…"
    return for_chat(f"{text} {to_do}")


def make_test_alert(now: datetime) -> Alert:
    """Return an alert without a problem: an operator sends it to test the receiver."""
    return Alert(
        id=uuid4(),
        kind="test",
        at=now,
        text="this is a test.",
        to_do="Nothing is to be done.",
    )


class _Naming(Struct, frozen=True):
    """How alerts name a series: only if there can be two, so that a record with one is simple."""

    has_several: bool

    def of_series(self, series: str) -> str:
        """Return the words that name a series behind a Monday or a batch."""
        return f" of {series}" if self.has_several else ""

    def option(self, series: str) -> str:
        """Return the option with which a command is about a series."""
        return f" --series {series}" if self.has_several else ""


async def _naming(conn: Conn, context: Context) -> _Naming:
    """Return how alerts name a series now."""
    if not context.alerts.is_configured:
        return _Naming(has_several=False)
    # A retired series still has checkpoints, and its figures may still be corrected.
    names = {*context.series, *await batches.list_series(conn)}
    return _Naming(has_several=names != {SERIES})


async def report_monday_failed(conn: Conn, context: Context, batch: Batch) -> None:
    """Store an alert about a failed Monday, in the transaction that stores its batch."""
    naming = await _naming(conn, context)
    command = f"alpha-monday pick{naming.option(batch.series)}"
    to_do = f"`{command}` runs it again, until it is over in New York."
    if batch.failure_reason == FailureReason.MISSED:
        to_do = "Picks are never back-dated; `alpha-monday status` says whether a service runs now."
    elif batch.failure_reason == FailureReason.CONFIGURATION:
        to_do = f"Change what it names; then {to_do}"
    name = f"the Monday {batch.run_date}{naming.of_series(batch.series)}"
    await _store(
        conn,
        context,
        kind="monday_failed",
        series=batch.series,
        run_date=batch.run_date,
        reason=batch.failure_reason,
        text=f"{name} failed ({batch.failure_reason}): {batch.failure}",
        to_do=to_do,
    )


async def report_checkpoint_skipped(
    conn: Conn, context: Context, *, due: DueCheckpoint, checkpoint: Checkpoint
) -> None:
    """
    Store an alert about a checkpoint without prices, in the transaction that stores the checkpoint.

    A closed market is no problem and gets no alert.
    """
    reason = checkpoint.skip_reason
    if reason == SkipReason.MARKET_CLOSED:
        return
    naming = await _naming(conn, context)
    batch = await batches.get(conn, due.batch_id)
    series = batch.series if batch else SERIES
    name = f"day {due.day} of the Monday {due.run_date}{naming.of_series(series)}"
    text = f"{name} was skipped ({reason}): {checkpoint.note}"
    command = f"alpha-monday checkpoint retake {due.run_date} {due.day}{naming.option(series)}"
    retake = f"`{command}`"
    await _store(
        conn,
        context,
        kind="checkpoint_skipped",
        series=series,
        run_date=due.run_date,
        day=due.day,
        reason=reason,
        text=text,
        to_do=f"Reconciliation tries again once a day; {retake} tries at once.",
    )


async def report_unstamped_batch(
    conn: Conn, context: Context, batch: Batch, *, opens_at: datetime, stamps: Sequence[Timestamp]
) -> None:
    """
    Store an alert about a batch that no timestamp proves to be from before its open.

    `stamps` are the tokens that cover the batch. A batch has at most one such alert: a job whose
    process dies at its end runs again.
    """
    # The reason is the name of the series, so that the alert of one series does not hide that of
    # another. For the usual series it is null, as in the alerts of earlier versions.
    reason = batch.series if batch.series != SERIES else None
    cursor = await conn.execute(
        """
        SELECT FROM operations.alerts
        WHERE kind = 'batch_not_stamped' AND run_date = %s AND reason IS NOT DISTINCT FROM %s
        """,
        (batch.run_date, reason),
    )
    if await cursor.fetchone() is not None:
        return
    naming = await _naming(conn, context)
    text = (
        f"the picks of the Monday {batch.run_date}{naming.of_series(batch.series)} have no "
        f"timestamp (RFC 3161) from before the open, {_format_utc(opens_at)}"
    )
    if stamps:
        text += f"; the first one says {_format_utc(stamps[0].at)}"
    await _store(
        conn,
        context,
        kind="batch_not_stamped",
        series=batch.series,
        run_date=batch.run_date,
        reason=reason,
        text=f"{text}.",
        to_do=(
            "It cannot be made up for: pages and API say it. The log says why (`no timestamp "
            "received`); check TIMESTAMP_URLS and TIMESTAMP_ROOTS before the next Monday."
        ),
    )


async def report_changed_readings(
    conn: Conn, context: Context, *, ticker: str, changes: Sequence[ChangedClose]
) -> None:
    """
    Store an alert if the provider has changed closes that figures use.

    The caller's transaction stores the new readings. One alert reports all changes of one response
    of the provider. It covers the batches that are active or were completed up to 27 days ago: a
    person need not react to changes of older figures.
    """
    if not changes or not context.alerts.is_configured:
        return
    with _log_errors("reading_changed"):
        new_closes = {change.after.trading_day: change.after.close for change in changes}
        today = calendar.new_york_date(context.now())
        oldest = calendar.checkpoint_date(today, -_WATCHED_DAYS)
        # A savepoint, so that a query that fails does not end the caller's transaction.
        async with conn.transaction():
            used = await checkpoints.list_dependent_readings(
                conn, ticker, sessions=list(new_closes), since=oldest
            )
        outdated = {one for one in used if one.close != new_closes[one.trading_day]}
        if outdated:
            # Baselines first, because all later days depend on them; then the newest batch.
            in_order = sorted(
                outdated,
                key=lambda one: (one.day > 0, -one.run_date.toordinal(), one.day, one.series),
            )
            await _store_changed_readings(
                conn, context, ticker=ticker, outdated=in_order, new_closes=new_closes
            )


async def _store_changed_readings(
    conn: Conn,
    context: Context,
    *,
    ticker: str,
    outdated: Sequence[CheckpointReading],
    new_closes: Mapping[date, Decimal],
) -> None:
    """Store the alert about `outdated` readings. Its `to_do` has the command for the first one."""
    naming = await _naming(conn, context)
    sentences = []
    for session, readings in _group_by_session(outdated).items():
        sentences.append(f"{ticker} {_compare(readings, new_closes[session], naming)}")

    first = outdated[0]
    command = (
        f"`alpha-monday checkpoint correct {first.run_date} {first.day} {first.ticker}"
        f"{naming.option(first.series)} --reason TEXT`"
    )
    to_do = f"If the new reading is right, {command} adopts it; the same for each day named."
    if any(splits.is_large_change(one.close, new_closes[one.trading_day]) for one in outdated):
        to_do = (
            "So large a difference is likely a split, for which the provider restates older"
            " prices. Splits are asked for; correct nothing until then."
            f" Only if `alpha-monday closes {ticker}` shows none afterwards: {command}."
        )
    await _store(
        conn,
        context,
        kind="reading_changed",
        series=first.series,
        run_date=first.run_date,
        day=first.day,
        text=f"the provider now says that {_join_sentences(sentences)}.",
        to_do=to_do,
    )


def _group_by_session(
    readings: Sequence[CheckpointReading],
) -> dict[date, list[CheckpointReading]]:
    """Return the readings by session; the sessions keep the order in which they first appear."""
    sessions: dict[date, list[CheckpointReading]] = {}
    for reading in readings:
        sessions.setdefault(reading.trading_day, []).append(reading)
    return sessions


def _compare(readings: Sequence[CheckpointReading], new_close: Decimal, naming: _Naming) -> str:
    """
    Return a clause about one session: its new close, its old closes, and the checkpoints that use
    the old closes.

    All `readings` are of the same session.
    """
    old_closes = ", ".join(sorted({str(one.close) for one in readings}))
    session = readings[0].trading_day
    days = _name_days(readings, naming)
    return f"closed at {new_close} on {session}, not at {old_closes} ({days})"


def _name_days(readings: Sequence[CheckpointReading], naming: _Naming) -> str:
    """Return the names of the checkpoints that use `readings`."""
    names = []
    for reading in dict.fromkeys(readings):
        name = f"day {reading.day} of {reading.run_date}"
        if reading.day == 0:
            name = f"the baseline of {reading.run_date}"
        names.append(f"{name}{naming.of_series(reading.series)}")
    return "; ".join(names)


def _join_sentences(sentences: Sequence[str]) -> str:
    """Return the first `_MAX_SESSIONS` sentences, and the number of the others."""
    first = ", ".join(sentences[:_MAX_SESSIONS])
    more = len(sentences) - _MAX_SESSIONS
    if more <= 0:
        return first
    noun = "session differs" if more == 1 else "sessions differ"
    return f"{first}, and {more} more {noun}"


async def report_restated_dividend(conn: Conn, context: Context, restated: RestatedAmount) -> None:
    """
    Store an alert about a dividend whose listed amount is the known one, divided by a later split.

    Amounts count as declared, so nothing is corrected. There is one alert for each listed amount:
    the provider lists it again every week.
    """
    known = restated.known
    reason = f"{known.ticker} {known.ex_date} {format_decimal(restated.listed)}"
    cursor = await conn.execute(
        "SELECT FROM operations.alerts WHERE kind = 'dividend_restated' AND reason = %s", (reason,)
    )
    if await cursor.fetchone() is not None:
        return
    text = (
        f"the provider now lists the dividend of {known.ticker} of {known.ex_date} as "
        f"{format_decimal(restated.listed)}: the known amount, {format_decimal(known.amount)}, "
        f"divided by the factor {format_decimal(restated.factor)} of later splits. Amounts count "
        "as declared, so nothing was corrected."
    )
    await _store(
        conn,
        context,
        kind="dividend_restated",
        reason=reason,
        text=text,
        to_do=(
            "Compare the amount with the company's own announcement. `alpha-monday closes "
            f"{known.ticker}` shows all readings."
        ),
    )


async def report_head_unpublished(
    conn: Conn, context: Context, *, failing_since: datetime, failure: str
) -> None:
    """Store an alert about a head that could not be published for a day."""
    await _store(
        conn,
        context,
        kind="head_unpublished",
        text=(
            f"the journal's head could not be published since {_format_utc(failing_since)}: "
            f"{failure}"
        ),
        to_do=(
            "The service tries again once an hour; `alpha-monday head --publish` tries at once."
        ),
    )


async def report_model_end(conn: Conn, context: Context, end: ModelEnd, *, today: date) -> None:
    """Store an alert about a model that ends soon, has ended, or is no longer known."""
    await _store(
        conn,
        context,
        kind="model_ends",
        series=end.series,
        text=f"{end.describe(today)} (series {end.series}).",
        to_do=f"Set {end.setting} to another model, on any day except Monday.",
    )


async def report_repairs(conn: Conn, context: Context, counts: Mapping[str, int]) -> None:
    """
    Store an alert about the repairs of a round of reconciliation, in the round's transaction.

    `counts` has the number of repairs by kind. The alert does not report missed Mondays, because
    each missed Monday has an alert of its own.
    """
    kinds = [kind for kind in _REPAIRS if counts[kind]]
    if not kinds:
        return
    repairs = [_REPAIRS[kind].format(_count_jobs(counts[kind])) for kind in kinds]
    await _store(
        conn,
        context,
        kind="upkeep_mended",
        reason=", ".join(kind.upper() for kind in kinds),
        text=f"upkeep mended what was broken: {'; '.join(repairs)}.",
        to_do=(
            "`alpha-monday status` says how everything stands; the log around this time says why."
        ),
    )


async def report_alternating_settings(
    conn: Conn, context: Context, alternations: Sequence[Alternation]
) -> None:
    """
    Store an alert about processes that record with different settings.

    There is no second alert about the same series until its declarations have not alternated for a
    day and a half. The settings of the record count as those of the usual series.
    """
    if not context.alerts.is_configured:
        return
    cursor = await conn.execute(
        """
        SELECT at, coalesce(reason, '')
        FROM operations.alerts
        WHERE kind = 'settings_alternate' AND at >= %s
        """,
        (min(one.since for one in alternations) - _CLOCK_DIFFERENCE,),
    )
    earlier = await cursor.fetchall()
    if all(_is_reported(one, earlier) for one in alternations):
        return
    differences = list(chain.from_iterable(one.differences for one in alternations))
    clauses = [_describe_difference(difference) for difference in differences]
    names = {one.series or SERIES for one in alternations}
    fields = []
    for one in alternations:
        fields += [_reason_prefix(one) + difference.field for difference in one.differences]
    await _store(
        conn,
        context,
        kind="settings_alternate",
        series=names.pop() if len(names) == 1 else None,
        reason=", ".join(fields),
        text=(
            "two processes record with different settings, and each declares its own in the "
            f"journal again and again: {'; '.join(clauses)}."
        ),
        to_do=(
            "Give every process that runs `serve` or `work` the same version and settings, also "
            "the environment in which you run commands, and start them again."
        ),
    )


def _reason_prefix(alternation: Alternation) -> str:
    """Return what precedes the names of fields in an alert's reason: nothing, or a series."""
    if alternation.series in (None, SERIES):
        return ""
    return f"{alternation.series}."


def _is_reported(alternation: Alternation, alerts: Sequence[tuple[datetime, str]]) -> bool:
    """Return whether one of `alerts`, each with its reason, is about this alternation."""
    prefix = _reason_prefix(alternation)
    for at, reason in alerts:
        prefixes = {field.rpartition(".")[0] for field in reason.split(", ")}
        if at >= alternation.since - _CLOCK_DIFFERENCE and prefix.rstrip(".") in prefixes:
            return True
    return False


def _describe_difference(difference: Difference) -> str:
    if not difference.values:
        return f"{difference.source} differs"
    newest, before = difference.values
    return f"{difference.source} is {newest} in one and {before} in the other"


def _count_jobs(count: int) -> str:
    noun = "job" if count == 1 else "jobs"
    return f"{int(count)} {noun}"


@asynccontextmanager
async def alert_if_quota_spent(context: Context) -> AsyncIterator[None]:
    """Store an alert if the code in this context raises QuotaSpent, and raise the error again."""
    try:
        yield
    except QuotaSpent as error:
        if context.alerts.is_configured:
            with _log_errors("quota_spent"):
                await _report_spent_quota(context, error)
        raise


async def _report_spent_quota(context: Context, error: QuotaSpent) -> None:
    """
    Store an alert about the spent quota, or extend `until` of the newest alert about it.

    As long as the quota stays spent, there is only one alert, even if many jobs and processes find
    it spent. The next alert is stored only after the quota was free for an hour.
    """
    now = context.now()
    async with transaction(context.pool, notify=False) as conn:
        # Without the lock, two jobs could both find no alert at the same time, and both store one.
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.QUOTA_ALERT,))
        cursor = await conn.execute(
            """
            UPDATE operations.alerts
            SET until = greatest(until, %s)
            WHERE
                id = (
                    SELECT id
                    FROM operations.alerts
                    WHERE kind = 'quota_spent'
                    ORDER BY at DESC, id
                    LIMIT 1
                )
                AND until > %s
            """,
            (error.at, now - _QUOTA_FREE_TIME),
        )
        if cursor.rowcount > 0:
            return
        text = (
            f"the quota of prices is spent, at first until {_format_utc(error.at)}: "
            "what needs them waits."
        )
        await _store(
            conn,
            context,
            kind="quota_spent",
            text=text,
            to_do="It goes on by itself; `alpha-monday status` says what is left and what waits.",
            until=error.at,
        )


def _format_utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


async def _store(conn: Conn, context: Context, **fields: Any) -> None:
    """
    Store an alert with these fields, and defer its job. Do nothing if alerts are off.

    An error is logged. It undoes only the alert, not the rest of the caller's transaction.
    """
    if not context.alerts.is_configured:
        return
    alert = Alert(id=uuid4(), at=context.now(), **fields)
    with _log_errors(alert.kind):
        async with conn.transaction():
            await _insert(conn, alert)
            await messages.defer(conn, send_alert, [str(alert.id)])


@contextmanager
def _log_errors(kind: str) -> Iterator[None]:
    """Log an error and do not raise it, unless the database is unavailable."""
    try:
        yield
    except Exception as error:
        if is_unavailable(error):
            raise
        log.exception("alert could not be stored", kind=kind)


async def _insert(conn: Conn, alert: Alert) -> None:
    await conn.execute(
        """
        INSERT INTO operations.alerts (
            id, kind, at, series, run_date, day, reason, text, to_do, until
        )
        VALUES (
            %(id)s, %(kind)s, %(at)s, %(series)s, %(run_date)s, %(day)s,
            %(reason)s, %(text)s, %(to_do)s, %(until)s
        )
        """,
        asdict(alert),
    )


async def _get_waiting(conn: Conn, id: UUID) -> Alert | None:
    """Return an alert that still has to be sent, or None if it was delivered or given up."""
    async with conn.cursor(row_factory=row_factory(Alert)) as cursor:
        await cursor.execute(
            """
            SELECT id, kind, at, series, run_date, day, reason, text, to_do, until
            FROM operations.alerts
            WHERE id = %s AND outcome IS NULL
            """,
            (id,),
        )
        return await cursor.fetchone()


async def reconcile(conn: Conn, context: Context, retention: timedelta) -> int:
    """
    Give up alerts that have waited too long, and delete alerts older than `retention`.

    A new job is deferred for each waiting alert that has lost its job. Return the number of these
    jobs.
    """
    now = context.now()
    await conn.execute(
        """
        UPDATE operations.alerts
        SET outcome = %s, ended_at = %s
        WHERE outcome IS NULL AND at < %s
        """,
        (DeliveryOutcome.GIVEN_UP, now, now - MAX_AGE - _GRACE),
    )
    await conn.execute(
        "DELETE FROM operations.alerts WHERE greatest(at, until) < %s", (now - retention,)
    )
    cursor = await conn.execute("SELECT id::text FROM operations.alerts WHERE outcome IS NULL")
    waiting = [id for (id,) in await cursor.fetchall()]
    without_job = await messages.find_without_job(conn, send_alert, waiting)
    await messages.defer(conn, send_alert, without_job)
    return len(without_job)


async def get_newest(conn: Conn) -> LastMessage | None:
    """Return the newest alert, or None if there is none."""
    async with conn.cursor(row_factory=row_factory(LastMessage)) as cursor:
        await cursor.execute(
            """
            SELECT
                at,
                kind,
                outcome,
                (SELECT count(*) FROM operations.alerts WHERE outcome IS NULL) AS waiting
            FROM operations.alerts
            ORDER BY at DESC, id
            LIMIT 1
            """
        )
        return await cursor.fetchone()
