"""
What an operator is told as soon as it is recorded: docs/operate/alerts-webhook.md is what a receiver reads of it.

An alert is a row, written with its job in the transaction that records what it is about: it is sent if, and only if,
that was stored. Sending is at least once; the alert's id stays the same, so that a receiver can drop a repeat. Only a
spent quota has no transaction of its own: that it is spent follows from the ledger, and the alert's row is what says
that it was told.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

import structlog
from msgspec import Struct
from msgspec.structs import asdict
from procrastinate import JobContext
from procrastinate.jobs import Job

from app.core.locks import Lock
from app.core.presence import is_away
from app.database.pools import transaction
from app.database.rehearsed import is_rehearsed
from app.domain import calendar, splits
from app.domain.journal import timestamp
from app.domain.model import CHECKPOINT_DAYS, Batch, Checkpoint, FailureReason, SkipReason
from app.domain.text import for_chat
from app.errors import QuotaSpent
from app.store import checkpoints
from app.store.checkpoints import Due, RestsOn
from app.store.closes import Difference
from app.store.rows import Conn, row_of
from jobs import messages
from jobs.context import Context
from jobs.messages import LastMessage, Outcome
from jobs.queue import Retry, app, tools

log = structlog.get_logger()

# An alert that could not be delivered for so long is none any more.
LASTING = timedelta(days=1)

# How long a quota that was found spent must have been free before it is told of once more.
_FREE = timedelta(hours=1)

_LONGEST_TEXT = 1500

# How long after its run date a batch's readings are watched: its fortnight, and as long again as the last Sunday on
# which its splits are asked for is away from its Monday.
_LOOKED_AFTER = calendar.LATE_SUNDAYS[-1] + CHECKPOINT_DAYS

# How many sessions an alert about changed readings names; a restated series changes all of them.
_MOST_SESSIONS = 4


class Alert(Struct, frozen=True, kw_only=True):
    """One thing that an operator is told: `text` is what happened, `to_do` what can be done about it."""

    id: UUID
    kind: str
    at: datetime
    run_date: date | None = None
    day: int | None = None
    reason: str | None = None
    text: str
    to_do: str
    until: datetime | None = None


@app.task(name="send_alert", retry=Retry(), pass_context=True)
async def send_alert(context: JobContext, alert: str) -> None:
    """Send an alert, unless it was delivered or given up."""
    await send(tools(), UUID(alert), context.job)


async def send(tools: Context, id: UUID, job: Job) -> None:
    """Send an alert, and write down what became of it."""
    async with transaction(tools.pool, at_once=False) as conn:
        alert = await _waiting(conn, id)
    if alert is None:
        log.info("this alert was done with already")
        return
    message = payload(alert, rehearsed=await is_rehearsed(tools.pool))
    outcome = await messages.deliver(
        tools, job, lambda: tools.alerts.post(message, str(alert.id)), alert.at, alert.at + LASTING
    )
    async with transaction(tools.pool, at_once=False) as conn:
        await conn.execute(
            "UPDATE operations.alerts SET outcome = %s, ended_at = %s WHERE id = %s AND outcome IS NULL",
            (outcome, tools.now(), id),
        )


def payload(alert: Alert, *, rehearsed: bool) -> dict[str, Any]:
    """Return what a receiver gets; `text` and `content` are the same, each what some chats show of a message."""
    shown = _shown(f"Alpha Monday{' (rehearsed)' if rehearsed else ''}: {alert.text}", alert.to_do)
    return {
        "id": str(alert.id),
        "kind": alert.kind,
        "at": timestamp(alert.at),
        "run_date": str(alert.run_date) if alert.run_date else None,
        "day": alert.day,
        "reason": alert.reason,
        "text": shown,
        "content": shown,
        "to_do": alert.to_do,
        "rehearsed": rehearsed,
        "service": "alpha-monday",
        "version": version("alpha-monday"),
    }


def _shown(said: str, to_do: str) -> str:
    """Return both on one line that fits; what is too long is cut, but never what can be done."""
    room = _LONGEST_TEXT - len(to_do) - 1
    said = said if len(said) <= room else f"{said[: room - 1]}…"
    return for_chat(f"{said} {to_do}")


def about_nothing(at: datetime) -> Alert:
    """Return an alert about nothing, for whoever tries the receiver."""
    return Alert(id=uuid4(), kind="test", at=at, text="this is a test.", to_do="Nothing is to be done.")


async def monday_failed(conn: Conn, tools: Context, batch: Batch) -> None:
    """Tell that a Monday has no picks, in the transaction that stores it."""
    to_do = "`alpha-monday pick` runs it again, until it is over in New York."
    if batch.failure_reason == FailureReason.MISSED:
        to_do = "Picks are never back-dated; `alpha-monday status` says whether a service runs now."
    elif batch.failure_reason == FailureReason.CONFIGURATION:
        to_do = f"Change what it names; then {to_do}"
    await _tell(
        conn,
        tools,
        kind="monday_failed",
        run_date=batch.run_date,
        reason=batch.failure_reason,
        text=f"the Monday {batch.run_date} failed ({batch.failure_reason}): {batch.failure}",
        to_do=to_do,
    )


async def checkpoint_skipped(conn: Conn, tools: Context, due: Due, checkpoint: Checkpoint) -> None:
    """Tell that a checkpoint has no prices, in the transaction that stores it; a closed market is no news."""
    reason = checkpoint.skip_reason
    if reason == SkipReason.MARKET_CLOSED:
        return
    await _tell(
        conn,
        tools,
        kind="checkpoint_skipped",
        run_date=due.run_date,
        day=due.day,
        reason=reason,
        text=f"day {due.day} of the Monday {due.run_date} was skipped ({reason}): {checkpoint.note}",
        to_do=f"Upkeep looks again once a day, `alpha-monday checkpoint retake {due.run_date} {due.day}` at once.",
    )


async def reading_changed(conn: Conn, tools: Context, ticker: str, differences: Sequence[Difference]) -> None:
    """
    Tell that closes on which figures rest were read differently, in the transaction that stores the new readings.

    One alert for one answer of the provider, whatever it changed. Batches count that are active, or that were completed
    up to 27 days ago: an older figure is history, and no person waits for it.
    """
    if not differences or not tools.alerts.on:
        return
    with _harmless("reading_changed"):
        async with conn.transaction():
            after = {one.after.trading_day: one.after.close for one in differences}
            oldest = calendar.checkpoint_date(calendar.today(tools.now()), -_LOOKED_AFTER)
            found = await checkpoints.resting_on(conn, ticker, list(after), oldest)
        changed = sorted(
            {one for one in found if one.close != after[one.trading_day]},
            key=lambda one: (one.day > 0, -one.run_date.toordinal(), one.day),
        )
        if changed:
            await _tell_changed(conn, tools, ticker, changed, after)


async def _tell_changed(
    conn: Conn, tools: Context, ticker: str, changed: Sequence[RestsOn], after: Mapping[date, Decimal]
) -> None:
    """Tell what rests on readings that changed, the baselines first, and what to do about the first of them."""
    sentences = [f"{ticker} {_compared(rest, after[session])}" for session, rest in _by_session(changed).items()]
    first = changed[0]
    correct = f"`alpha-monday checkpoint correct {first.run_date} {first.day} {first.ticker} --reason TEXT`"
    to_do = f"If the new reading is right, {correct} adopts it; the same for each day named."
    if any(splits.is_large(one.close, after[one.trading_day]) for one in changed):
        to_do = (
            "So large a difference is likely a split, for which the provider restates older prices. Splits are asked "
            f"for; correct nothing until then. Only if `alpha-monday closes {ticker}` shows none afterwards: {correct}."
        )
    await _tell(
        conn,
        tools,
        kind="reading_changed",
        run_date=first.run_date,
        day=first.day,
        text=f"the provider now says that {_listed(sentences)}.",
        to_do=to_do,
    )


def _by_session(changed: Sequence[RestsOn]) -> dict[date, list[RestsOn]]:
    """Return what rests on each session's reading, in the order of the alert."""
    sessions: dict[date, list[RestsOn]] = {}
    for one in changed:
        sessions.setdefault(one.trading_day, []).append(one)
    return sessions


def _compared(rest: Sequence[RestsOn], after: Decimal) -> str:
    """Return what a session's close is now and was when the figures that rest on it were computed."""
    before = ", ".join(sorted({str(one.close) for one in rest}))
    return f"closed at {after} on {rest[0].trading_day}, not at {before} ({_days(rest)})"


def _days(rest: Sequence[RestsOn]) -> str:
    """Return which figures rest on one reading."""
    return "; ".join(
        f"the baseline of {one.run_date}" if one.day == 0 else f"day {one.day} of {one.run_date}"
        for one in dict.fromkeys(rest)
    )


def _listed(sentences: Sequence[str]) -> str:
    """Return the first of many sentences, and how many more there are."""
    more = len(sentences) - _MOST_SESSIONS
    shown = ", ".join(sentences[:_MOST_SESSIONS])
    if more <= 0:
        return shown
    return f"{shown}, and {more} more {'session differs' if more == 1 else 'sessions differ'}"


async def upkeep_mended(conn: Conn, tools: Context, mended: Mapping[str, int]) -> None:
    """
    Tell what a round of upkeep mended, in its transaction.

    That a Monday was missed is no news: it has an alert of its own.
    """
    words = {
        "put_back": "{} left behind by a process that died",
        "given_up": "{} given up after failing every time",
        "deferred": "{} deferred for checkpoints that had none",
        "begun": "{} begun for this Monday, which had none",
    }
    done = [words[name].format(_jobs(mended[name])) for name in words if mended[name]]
    if not done:
        return
    await _tell(
        conn,
        tools,
        kind="upkeep_mended",
        reason=", ".join(name.upper() for name in words if mended[name]),
        text=f"upkeep mended what was broken: {'; '.join(done)}.",
        to_do="`alpha-monday status` says how everything stands; the log around this time says why.",
    )


def _jobs(count: int) -> str:
    return f"{int(count)} job{'' if count == 1 else 's'}"


@asynccontextmanager
async def quota_watched(tools: Context) -> AsyncIterator[None]:
    """Tell when what is done in the context finds the quota spent; it waits for it all the same."""
    try:
        yield
    except QuotaSpent as spent:
        if tools.alerts.on:
            with _harmless("quota_spent"):
                await _quota_spent(tools, spent)
        raise


async def _quota_spent(tools: Context, spent: QuotaSpent) -> None:
    """Tell that the quota is spent, once until it was free for a while, however many jobs and processes find it so."""
    now = tools.now()
    async with transaction(tools.pool, at_once=False) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.QUOTA_ALERT,))
        cursor = await conn.execute(
            """
            UPDATE operations.alerts
            SET until = greatest(until, %s)
            WHERE id = (SELECT id FROM operations.alerts WHERE kind = 'quota_spent' ORDER BY at DESC, id LIMIT 1)
                AND until > %s
            """,
            (spent.at, now - _FREE),
        )
        if cursor.rowcount == 0:
            await _tell(
                conn,
                tools,
                kind="quota_spent",
                text=f"the quota of prices is spent, at first until {_utc(spent.at)}: what needs them waits.",
                to_do="It goes on by itself; `alpha-monday status` says what is left and what waits.",
                until=spent.at,
            )


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


async def _tell(conn: Conn, tools: Context, **what: Any) -> None:
    """Write an alert down and put its job into the queue; whatever goes wrong here takes nothing else with it."""
    if not tools.alerts.on:
        return
    alert = Alert(id=uuid4(), at=tools.now(), **what)
    with _harmless(alert.kind):
        async with conn.transaction():
            await _add(conn, alert)
            await messages.defer(conn, send_alert, [str(alert.id)])


@contextmanager
def _harmless(kind: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_away(error):
            raise
        log.exception("an alert was lost", kind=kind)


async def _add(conn: Conn, alert: Alert) -> None:
    await conn.execute(
        """
        INSERT INTO operations.alerts (id, kind, at, run_date, day, reason, text, to_do, until)
        VALUES (
            %(id)s, %(kind)s, %(at)s, %(run_date)s, %(day)s, %(reason)s, %(text)s, %(to_do)s, %(until)s
        )
        """,
        asdict(alert),
    )


async def _waiting(conn: Conn, id: UUID) -> Alert | None:
    """Return an alert if it was neither delivered nor given up."""
    async with conn.cursor(row_factory=row_of(Alert)) as cursor:
        await cursor.execute(
            """
            SELECT id, kind, at, run_date, day, reason, text, to_do, until
            FROM operations.alerts
            WHERE id = %s AND outcome IS NULL
            """,
            (id,),
        )
        return await cursor.fetchone()


async def keep(conn: Conn, tools: Context, readable: timedelta) -> int:
    """Defer the alerts whose job was lost, give up those that are old, and forget those that are very old."""
    now = tools.now()
    await conn.execute(
        "UPDATE operations.alerts SET outcome = %s, ended_at = %s WHERE outcome IS NULL AND at < %s",
        (Outcome.GIVEN_UP, now, now - LASTING - _FREE),
    )
    await conn.execute("DELETE FROM operations.alerts WHERE greatest(at, until) < %s", (now - readable,))
    cursor = await conn.execute("SELECT id::text FROM operations.alerts WHERE outcome IS NULL")
    waiting = [id for (id,) in await cursor.fetchall()]
    lost = await messages.without_a_job(conn, send_alert, waiting)
    await messages.defer(conn, send_alert, lost)
    return len(lost)


async def last(conn: Conn) -> LastMessage | None:
    """Return the newest alert, or None if there is none."""
    async with conn.cursor(row_factory=row_of(LastMessage)) as cursor:
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
