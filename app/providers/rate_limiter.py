"""
The ledger of requests: a provider's limits, held across processes and restarts.

Every request is granted, in one short transaction under an advisory lock, before it is sent. Whether it may go is a
pure function of the earlier requests' times and now. The ledger also knows who is asking for what and what was answered
lately, so that one request serves everybody who needs it; how often that failed; and until when the provider wants to
be left alone.

It believes the clock. A request that lies in the future was written down before the clock was set back, by as much at
least: it is moved back by that, so that nobody waits for hours that were never there. A clock that is set forward makes
requests look older than they are; if the provider then says that it is too much, its word holds.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from time import monotonic
from typing import Any

import structlog
from msgspec import Struct, convert, to_builtins
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from app.core.locks import Lock
from app.core.settings import Settings
from app.domain.calendar import Clock
from app.errors import QuotaSpent

# A job waits this long by itself; for longer it goes back to the queue.
LONGEST_WAIT = timedelta(seconds=62)

# A request without an outcome after this long was cut off with its process.
LAPSE = timedelta(seconds=60)

# At most so many requests are open at once, in all processes: one that had leave and waited to be sent would be late,
# and two that waited would go out together.
IN_FLIGHT = 3

# How long to leave a provider alone that says the day's quota is spent although our own count is not.
REST = timedelta(hours=1)

log = structlog.get_logger()


class Window(Struct, frozen=True):
    """At most `requests` in any `length`."""

    requests: int
    length: timedelta


class Outcome(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"
    QUOTA_SPENT = "quota_spent"


class Grant(Struct, frozen=True):
    """Leave to send one request, given at `at` of this process's monotonic clock; `id` is where its outcome goes."""

    id: int
    at: float


class UnreadableRow(Struct, frozen=True):
    """
    A row of an answer that cannot be read: which day it is about, and what is wrong with it.

    The day may not be known; then `not_after` is the latest that it can be, if that is known.
    """

    day: date | None
    reason: str
    not_after: date | None = None

    def may_fall_within(self, after: date, through: date) -> bool:
        """Return whether this row may be about a day after `after`, up to and including `through`."""
        if self.day:
            return after < self.day <= through
        return self.not_after is None or after < self.not_after


class Shared(Struct, frozen=True):
    """No request is needed: the same was answered lately, but for the rows that could not be read."""

    unreadable: tuple[UnreadableRow, ...] = ()


class Later(Struct, frozen=True):
    """Not now: ask for leave again at `at`."""

    at: datetime


class Left(Struct, frozen=True):
    """How many requests each limit leaves, in their order, and when the next one may go out."""

    requests: list[int]
    next_at: datetime


def windows(per_second: int, per_minute: int, per_day: int) -> list[Window]:
    """Return a provider's limits with a margin for clocks and networks that are not exact."""
    return [
        Window(per_second, timedelta(seconds=1.1)),
        Window(per_minute, timedelta(seconds=61)),
        Window(per_day, timedelta(days=1, seconds=1)),
    ]


def alpha_vantage_limits(settings: Settings) -> list[Window]:
    """Return the limits of Alpha Vantage's key, as the settings give them."""
    return windows(
        per_second=settings.alpha_vantage_per_second,
        per_minute=settings.alpha_vantage_per_minute,
        per_day=settings.alpha_vantage_per_day,
    )


def next_allowed(times: Sequence[datetime], limits: Sequence[Window], now: datetime) -> datetime:
    """
    Return when the next request may go out, given the `times` of earlier ones, newest first.

    A time in the near future (another machine's clock) counts as any other: it is waited for.
    """
    full = (times[limit.requests - 1] + limit.length for limit in limits if len(times) >= limit.requests)
    return max([now, *full])


def _rows(stored: object) -> tuple[UnreadableRow, ...]:
    return convert(stored or (), tuple[UnreadableRow, ...])


class Ledger:
    """One provider's requests."""

    def __init__(
        self, pool: AsyncConnectionPool[AsyncConnection[Any]], provider: str, limits: Sequence[Window], clock: Clock
    ) -> None:
        self.pool, self.provider, self.limits, self.clock = pool, provider, limits, clock

    async def permit(self, function: str, symbol: str, since: datetime | None = None) -> Grant | Shared:
        """
        Wait for leave to ask `function` about `symbol`, or learn that it was answered after `since`.

        Raises QuotaSpent when the wait would be long.
        """
        while True:
            match await self._decide(function, symbol, since):
                case Later(at) if at - self.clock.now() > LONGEST_WAIT:
                    raise QuotaSpent(
                        f"The quota of {self.provider} is spent until {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.", at
                    )
                case Later(at):
                    await self.clock.sleep((at - self.clock.now()).total_seconds())
                case decision:
                    return decision

    async def _decide(self, function: str, symbol: str, since: datetime | None) -> Grant | Shared | Later:
        async with self.pool.connection() as conn, conn.transaction():
            await conn.execute(
                "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (Lock.RATE_LIMITER.keyed, self.provider)
            )
            now, began = self.clock.now(), monotonic()
            times = await self._times(conn)
            if times and times[0] - now > LAPSE:
                times = await self._set_back(conn, times[0] - now, now)
            match await self._last(conn, function, symbol):
                case (at, Outcome.ANSWERED, ended_at, unreadable) if since and ended_at >= since:
                    return Shared(_rows(unreadable))
                case (at, None, *_) if abs(now - at) < LAPSE:
                    return Later(now + timedelta(seconds=1))
            if await self._open(conn, now) >= IN_FLIGHT:
                return Later(now + timedelta(seconds=1))
            at = max(next_allowed(times, self.limits, now), await self._rested(conn) or now)
            if at > now:
                return Later(at)
            cursor = await conn.execute(
                "INSERT INTO operations.provider_requests (provider, function, symbol, at) VALUES (%s, %s, %s, %s) "
                "RETURNING id",
                (self.provider, function, symbol, now),
            )
            (id,) = await cursor.fetchone() or (0,)
            return Grant(id, began)

    async def settle(self, conn: AsyncConnection[Any], grant: Grant, outcome: Outcome) -> None:
        """Write down what became of a request: an answer, in the transaction that stores what it said."""
        await conn.execute(
            "UPDATE operations.provider_requests SET outcome = %s, ended_at = %s WHERE id = %s AND outcome IS NULL",
            (outcome, self.clock.now(), grant.id),
        )

    async def answered(
        self, conn: AsyncConnection[Any], grant: Grant, unreadable: Sequence[UnreadableRow]
    ) -> list[UnreadableRow]:
        """
        Settle an answer with the rows of it that are needed and cannot be read.

        Return those of them that the answer before did not have: only they are news.
        """
        cursor = await conn.execute(
            """
            SELECT before.unreadable
            FROM operations.provider_requests this
            JOIN operations.provider_requests before USING (provider, function, symbol)
            WHERE this.id = %s AND before.id <> this.id AND before.outcome = %s
            ORDER BY before.at DESC, before.id DESC
            LIMIT 1
            """,
            (grant.id, Outcome.ANSWERED),
        )
        row = await cursor.fetchone()
        before = _rows(row[0]) if row else ()
        await self.settle(conn, grant, Outcome.ANSWERED)
        if unreadable:
            await conn.execute(
                "UPDATE operations.provider_requests SET unreadable = %s WHERE id = %s",
                (Jsonb(to_builtins(unreadable)), grant.id),
            )
        return [row for row in unreadable if row not in before]

    async def fail(self, grant: Grant, outcome: Outcome, rest_until: datetime | None = None) -> None:
        """Write down that a request brought nothing, and until when the provider is left alone for it."""
        async with self.pool.connection() as conn, conn.transaction():
            rested = await self._rested(conn)
            await self.settle(conn, grant, outcome)
            if rest_until is None:
                return
            await conn.execute(
                "UPDATE operations.provider_requests SET rest_until = %s WHERE id = %s", (rest_until, grant.id)
            )
        if rested is None or rested <= self.clock.now():  # of several that were under way, one says it
            log.warning("the provider is left alone", provider=self.provider, until=str(rest_until), outcome=outcome)

    async def _set_back(self, conn: AsyncConnection[Any], by: timedelta, now: datetime) -> list[datetime]:
        """Move what lies in the future back, as somebody did with the clock; return the times as they are now."""
        await conn.execute(
            """
            UPDATE operations.provider_requests
            SET at = at - %(by)s, ended_at = ended_at - %(by)s, rest_until = rest_until - %(by)s
            WHERE provider = %(provider)s AND at > %(now)s
            """,
            {"provider": self.provider, "by": by, "now": now},
        )
        log.warning("the clock was set back, and the ledger with it", provider=self.provider, by=str(by))
        return await self._times(conn)

    async def failures(self, function: str, symbol: str, begun: datetime) -> list[str]:
        """Return how a question has failed in a row, in all processes, since `begun`: the outcomes, newest first."""
        async with self.pool.connection() as conn:
            cursor = await conn.execute(
                """
                SELECT outcome
                FROM operations.provider_requests
                WHERE provider = %s AND function = %s AND symbol = %s AND at >= %s AND outcome = ANY(%s)
                ORDER BY at DESC, id DESC
                """,
                (self.provider, function, symbol, begun, [Outcome.FAILED, Outcome.UNKNOWN, Outcome.ANSWERED]),
            )
            outcomes = [outcome for (outcome,) in await cursor.fetchall()]
            return list(takewhile(lambda outcome: outcome != Outcome.ANSWERED, outcomes))

    async def left(self, conn: AsyncConnection[Any], now: datetime) -> Left:
        """Return what is left at `now`; nothing is granted."""
        times, rested = await self._times(conn), await self._rested(conn)
        used = [sum(at > now - limit.length for at in times) for limit in self.limits]
        return Left(
            [max(0, limit.requests - count) for limit, count in zip(self.limits, used, strict=True)],
            max(next_allowed(times, self.limits, now), rested or now),
        )

    async def was_spent(self, conn: AsyncConnection[Any], moment: datetime) -> bool:
        """Return whether the day's quota was spent at a past moment: by our count, or by the provider's last word."""
        day = self.limits[-1]
        cursor = await conn.execute(
            """
            SELECT count(*), (array_agg(outcome ORDER BY at DESC, id DESC) FILTER (WHERE outcome IS NOT NULL))[1]
            FROM operations.provider_requests
            WHERE provider = %s AND at > %s AND at <= %s
            """,
            (self.provider, moment - day.length, moment),
        )
        requests, last = await cursor.fetchone() or (0, None)
        return requests >= day.requests or last == Outcome.QUOTA_SPENT

    async def outcomes(self, conn: AsyncConnection[Any], now: datetime) -> dict[tuple[str, str], int]:
        """Return how many requests there were, by function and outcome; those without one any more were `cut_off`."""
        cursor = await conn.execute(
            """
            SELECT function, coalesce(outcome, 'cut_off'), count(*)
            FROM operations.provider_requests
            WHERE provider = %s AND (outcome IS NOT NULL OR at < %s)
            GROUP BY 1, 2
            """,
            (self.provider, now - LAPSE),
        )
        return {(function, outcome): count for function, outcome, count in await cursor.fetchall()}

    async def _last(self, conn: AsyncConnection[Any], function: str, symbol: str) -> tuple[Any, ...] | None:
        cursor = await conn.execute(
            """
            SELECT at, outcome, ended_at, unreadable
            FROM operations.provider_requests
            WHERE provider = %s AND function = %s AND symbol = %s
            ORDER BY at DESC, id DESC
            LIMIT 1
            """,
            (self.provider, function, symbol),
        )
        return await cursor.fetchone()

    async def _open(self, conn: AsyncConnection[Any], now: datetime) -> int:
        cursor = await conn.execute(
            "SELECT count(*) FROM operations.provider_requests WHERE provider = %s AND outcome IS NULL "
            "AND at > %s AND at < %s",
            (self.provider, now - LAPSE, now + LAPSE),
        )
        (count,) = await cursor.fetchone() or (0,)
        return int(count)

    async def _times(self, conn: AsyncConnection[Any]) -> list[datetime]:
        cursor = await conn.execute(
            "SELECT at FROM operations.provider_requests WHERE provider = %s ORDER BY at DESC LIMIT %s",
            (self.provider, max(limit.requests for limit in self.limits)),
        )
        return [at for (at,) in await cursor.fetchall()]

    async def _rested(self, conn: AsyncConnection[Any]) -> datetime | None:
        """Return until when the provider is left alone because of what it said."""
        cursor = await conn.execute(
            "SELECT max(rest_until) FROM operations.provider_requests WHERE provider = %s", (self.provider,)
        )
        row = await cursor.fetchone()
        return row[0] if row else None
