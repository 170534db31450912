"""
The rate limiter: a stored ledger of the requests to a provider.

The ledger enforces the limits of a key across processes and restarts. Every request needs a grant.
The grant is stored before the request is sent, in one short transaction under an advisory lock. The
pure function `next_allowed_at` computes when the limits allow the next request, from the times of
the earlier requests.

The ledger also knows which requests are open and which were answered recently, so that one request
serves all jobs that need its response. It knows how often a request has failed, and until when the
provider wants no requests.

The ledger trusts the clock. If the stored time of a request is more than a minute in the future,
the clock was set back after the request was stored. All stored times in the future are then moved
back, too, equally far: the latest one becomes the present time. Otherwise jobs would wait for hours
without need. If the clock is set forward, requests look older than they are. Then the ledger may
allow too many requests, and the provider may answer that its limit is exceeded. After such an
answer no request is sent for the time that the provider asks for.
"""

from collections.abc import Iterator, Sequence
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

# A job waits at most this long for a grant. If it must wait longer, it goes back to the queue.
MAX_WAIT = timedelta(seconds=62)

# A request that has no outcome after this time was cut off: its process has ended. The same time is
# a limit for stored requests in the future: if one is further in the future than this, the clock
# was set back.
CUT_OFF_AFTER = timedelta(seconds=60)

# A grant is the permission to send one request now. A grant that is older than this is not used. If
# the process was suspended after it got the grant, its request would collide with requests that the
# ledger has granted since then.
GRANT_LIFETIME = timedelta(seconds=1)

# The number of requests that may be open at once, in all processes. The client of each process
# sends at most this many at once. If more requests were granted, some would have to wait in the
# client. They would be sent too long after their grants, and several at once.
MAX_IN_FLIGHT = 3

# For this time no requests are sent after the provider says that the day's quota is spent, even if
# our own count says that it is not. It is also the longest pause that the provider can ask for.
COOLDOWN = timedelta(hours=1)

log = structlog.get_logger()


class RateLimit(Struct, frozen=True):
    """At most `requests` requests in any period of `length`."""

    requests: int
    length: timedelta


class RequestOutcome(StrEnum):
    """The outcome of a request, as it is stored."""

    ANSWERED = "answered"
    # The same request would fail again: the key is invalid, or the function is for premium keys.
    REJECTED = "refused"
    FAILED = "failed"
    # The provider answered that it does not know the ticker, or sent an empty answer.
    UNKNOWN_TICKER = "unknown"
    QUOTA_SPENT = "quota_spent"


class Grant(Struct, frozen=True):
    """
    The permission to send one request.

    `id` is the request's row in the ledger. `granted_at_monotonic` is the time of the grant on the
    monotonic clock of this process, in seconds.
    """

    id: int
    granted_at_monotonic: float


class UnreadableRow(Struct, frozen=True):
    """
    A row of a response that cannot be read: its day and a sentence that says what is wrong with it.

    If `day` is None, the day is unknown. Then `not_after` is the latest possible day, or None if
    that is unknown, too.
    """

    day: date | None
    reason: str
    not_after: date | None = None

    def may_fall_within(self, after: date, through: date) -> bool:
        """Return whether the row's day may be after `after` and not after `through`."""
        if self.day:
            return after < self.day <= through
        return self.not_after is None or after < self.not_after


class AlreadyAnswered(Struct, frozen=True):
    """
    The result of `acquire` if no request is needed, because the same one was answered recently.

    `unreadable` are the rows that could not be read in the response to that earlier request.
    """

    unreadable: tuple[UnreadableRow, ...] = ()


class _NotYet(Struct, frozen=True):
    """The decision that no request is allowed before the time `at`."""

    at: datetime


class RemainingRequests(Struct, frozen=True):
    """
    How many requests each limit still allows, and when the next request is allowed.

    `requests` is in the order of the ledger's limits.
    """

    requests: list[int]
    next_at: datetime


def rate_limits(per_second: int, per_minute: int, per_day: int) -> list[RateLimit]:
    """
    Return a provider's limits, the longest period last.

    The ledger stores when a request was granted, and the provider counts when it arrives. A request
    is sent up to GRANT_LIFETIME after its grant, so two requests can arrive closer together than
    their grants. Therefore each period is longer by GRANT_LIFETIME. The second is also longer by
    0.1 s, because a request over a new connection takes longer than one over an open connection.
    """
    second = timedelta(seconds=1.1)
    minute = timedelta(minutes=1)
    day = timedelta(days=1)
    return [
        RateLimit(per_second, second + GRANT_LIFETIME),
        RateLimit(per_minute, minute + GRANT_LIFETIME),
        RateLimit(per_day, day + GRANT_LIFETIME),
    ]


def alpha_vantage_limits(settings: Settings) -> list[RateLimit]:
    """Return the limits of Alpha Vantage's key from the settings."""
    return rate_limits(
        per_second=settings.alpha_vantage_per_second,
        per_minute=settings.alpha_vantage_per_minute,
        per_day=settings.alpha_vantage_per_day,
    )


def next_allowed_at(
    times: Sequence[datetime], limits: Sequence[RateLimit], now: datetime
) -> datetime:
    """
    Return when the next request is allowed, `now` at the earliest.

    `times` are the times of earlier requests, newest first. A time in the near future, from the
    clock of another machine, counts like any other: the next request waits for it.
    """
    return max([now, *_exhausted_until(times, limits)])


def _exhausted_until(times: Sequence[datetime], limits: Sequence[RateLimit]) -> Iterator[datetime]:
    """
    Yield the time at which each limit allows the next request.

    If a limit allows more requests than there are `times`, no time is yielded for that limit. A
    yielded time that is past means that its limit allows a request now.
    """
    for limit in limits:
        if len(times) >= limit.requests:
            yield times[limit.requests - 1] + limit.length


def _unreadable_rows(stored: object) -> tuple[UnreadableRow, ...]:
    return convert(stored or (), tuple[UnreadableRow, ...])


class RequestLedger:
    """The requests to one provider, stored in `operations.provider_requests`."""

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncConnection[Any]],
        provider: str,
        limits: Sequence[RateLimit],
        clock: Clock,
    ) -> None:
        self.pool = pool
        self.provider = provider
        self.limits = limits
        self.clock = clock

    async def acquire(
        self, function: str, symbol: str, since: datetime | None = None
    ) -> Grant | AlreadyAnswered:
        """
        Wait until a request for `function` and `symbol` is allowed, and return its grant.

        Return AlreadyAnswered if the newest request for `function` and `symbol` was answered at or
        after `since`. Raises QuotaSpent if the wait would be longer than MAX_WAIT.
        """
        while True:
            decision = await self._decide(function, symbol, since)
            if not isinstance(decision, _NotYet):
                return decision
            wait = decision.at - self.clock.now()
            if wait > MAX_WAIT:
                until = f"{decision.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
                raise QuotaSpent(
                    f"The quota of {self.provider} is spent until {until} UTC.", decision.at
                )
            await self.clock.sleep((decision.at - self.clock.now()).total_seconds())

    async def _decide(
        self, function: str, symbol: str, since: datetime | None
    ) -> Grant | AlreadyAnswered | _NotYet:
        async with self.pool.connection() as conn, conn.transaction():
            await conn.execute(
                "SELECT pg_advisory_xact_lock(%s, hashtext(%s))",
                (Lock.RATE_LIMITER.first_key, self.provider),
            )
            # The time is read under the lock, because the wait for the lock may have been long.
            now, granted_at = self.clock.now(), monotonic()
            times = await self._request_times(conn)
            if times and times[0] - now > CUT_OFF_AFTER:
                times = await self._move_times_back(conn, times[0] - now, now)

            match await self._newest_request(conn, function, symbol):
                case (_, RequestOutcome.ANSWERED, ended_at, unreadable) if (
                    since and ended_at >= since
                ):
                    return AlreadyAnswered(_unreadable_rows(unreadable))
                case (at, None, *_) if abs(now - at) < CUT_OFF_AFTER:
                    # A request for this function and symbol is open: its response will serve this
                    # job, too.
                    return _NotYet(now + timedelta(seconds=1))
            if await self._count_open(conn, now) >= MAX_IN_FLIGHT:
                return _NotYet(now + timedelta(seconds=1))

            paused_until = await self._paused_until(conn)
            allowed_at = max(next_allowed_at(times, self.limits, now), paused_until or now)
            if allowed_at > now:
                return _NotYet(allowed_at)
            row_id = await self._insert_request(conn, function, symbol, now=now)
            return Grant(row_id, granted_at)

    async def _insert_request(
        self, conn: AsyncConnection[Any], function: str, symbol: str, *, now: datetime
    ) -> int:
        cursor = await conn.execute(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at) "
            "VALUES (%s, %s, %s, %s) RETURNING id",
            (self.provider, function, symbol, now),
        )
        (row_id,) = await cursor.fetchone() or (0,)
        return int(row_id)

    async def store_outcome(
        self, conn: AsyncConnection[Any], grant: Grant, outcome: RequestOutcome
    ) -> None:
        """
        Store the outcome of a request, unless an outcome of this request is already stored.

        The outcome ANSWERED is stored in the transaction that stores the content of the response.
        """
        await conn.execute(
            "UPDATE operations.provider_requests SET outcome = %s, ended_at = %s "
            "WHERE id = %s AND outcome IS NULL",
            (outcome, self.clock.now(), grant.id),
        )

    async def store_answered(
        self, conn: AsyncConnection[Any], grant: Grant, unreadable: Sequence[UnreadableRow]
    ) -> list[UnreadableRow]:
        """
        Store that a request was answered, and the `unreadable` rows that a figure may need.

        Return the rows to log: those of `unreadable` that the response to the previous request for
        the same function and symbol did not have.
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
            (grant.id, RequestOutcome.ANSWERED),
        )
        previous = await cursor.fetchone()
        known = _unreadable_rows(previous[0]) if previous else ()
        await self.store_outcome(conn, grant, RequestOutcome.ANSWERED)
        if unreadable:
            await conn.execute(
                "UPDATE operations.provider_requests SET unreadable = %s WHERE id = %s",
                (Jsonb(to_builtins(unreadable)), grant.id),
            )
        return [row for row in unreadable if row not in known]

    async def store_failure(
        self, grant: Grant, outcome: RequestOutcome, paused_until: datetime | None = None
    ) -> None:
        """
        Store the outcome of a request that failed.

        With `paused_until`, no request to the provider is allowed before that time.
        """
        async with self.pool.connection() as conn, conn.transaction():
            previously_paused_until = await self._paused_until(conn)
            await self.store_outcome(conn, grant, outcome)
            if paused_until is None:
                return
            await conn.execute(
                "UPDATE operations.provider_requests SET rest_until = %s WHERE id = %s",
                (paused_until, grant.id),
            )
        # The provider may ask for a pause in the responses to several open requests. Only the first
        # of these responses is logged.
        if previously_paused_until is None or previously_paused_until <= self.clock.now():
            log.warning(
                "provider requests paused",
                provider=self.provider,
                until=str(paused_until),
                outcome=outcome,
            )

    async def _move_times_back(
        self, conn: AsyncConnection[Any], by: timedelta, now: datetime
    ) -> list[datetime]:
        """
        Subtract `by` from the times of all requests in the future, because the clock was set back.

        Return what `_request_times` returns after the change.
        """
        await conn.execute(
            """
            UPDATE operations.provider_requests
            SET at = at - %(by)s, ended_at = ended_at - %(by)s, rest_until = rest_until - %(by)s
            WHERE provider = %(provider)s AND at > %(now)s
            """,
            {"provider": self.provider, "by": by, "now": now},
        )
        log.warning("clock set back, ledger adjusted", provider=self.provider, by=str(by))
        return await self._request_times(conn)

    async def failures(self, function: str, symbol: str, since: datetime) -> list[str]:
        """
        Return the outcomes of the failed attempts at a request, newest first.

        These are the attempts of all processes since `since`. If an attempt was answered after
        `since`, only the attempts after that one count.
        """
        async with self.pool.connection() as conn:
            cursor = await conn.execute(
                """
                SELECT outcome
                FROM operations.provider_requests
                WHERE provider = %s AND function = %s AND symbol = %s AND at >= %s
                    AND outcome = ANY(%s)
                ORDER BY at DESC, id DESC
                """,
                (
                    self.provider,
                    function,
                    symbol,
                    since,
                    [RequestOutcome.FAILED, RequestOutcome.UNKNOWN_TICKER, RequestOutcome.ANSWERED],
                ),
            )
            outcomes = [outcome for (outcome,) in await cursor.fetchall()]
        return list(takewhile(lambda outcome: outcome != RequestOutcome.ANSWERED, outcomes))

    async def remaining(self, conn: AsyncConnection[Any], now: datetime) -> RemainingRequests:
        """Return how many requests each limit allows at `now`. This reserves no request."""
        times = await self._request_times(conn)
        paused_until = await self._paused_until(conn)
        remaining = []
        for limit in self.limits:
            used = sum(at > now - limit.length for at in times)
            remaining.append(max(0, limit.requests - used))
        next_at = max(next_allowed_at(times, self.limits, now), paused_until or now)
        return RemainingRequests(remaining, next_at)

    async def count_since(
        self, conn: AsyncConnection[Any], since: datetime, *, function: str | None = None
    ) -> int:
        """Return how many requests were sent after `since`: all, or those for one function."""
        cursor = await conn.execute(
            "SELECT count(*) FROM operations.provider_requests "
            "WHERE provider = %s AND at > %s AND function = coalesce(%s, function)",
            (self.provider, since, function),
        )
        (count,) = await cursor.fetchone() or (0,)
        return int(count)

    async def is_refused(self, conn: AsyncConnection[Any], function: str, since: datetime) -> bool:
        """
        Return whether the provider refused the newest request for `function` since `since`.

        It refuses a key, or a function that the key's plan does not have.
        """
        cursor = await conn.execute(
            """
            SELECT outcome
            FROM operations.provider_requests
            WHERE provider = %s AND function = %s AND at >= %s AND outcome IS NOT NULL
            ORDER BY at DESC
            LIMIT 1
            """,
            (self.provider, function, since),
        )
        (outcome,) = await cursor.fetchone() or (None,)
        return outcome == RequestOutcome.REJECTED

    async def has_answer_since(
        self, conn: AsyncConnection[Any], function: str, *, symbol: str, since: datetime
    ) -> bool:
        """Return whether a request for `function` and a symbol was answered at or after `since`."""
        cursor = await conn.execute(
            "SELECT EXISTS (SELECT FROM operations.provider_requests "
            "WHERE provider = %s AND function = %s AND symbol = %s AND outcome = %s "
            "AND at > %s AND ended_at >= %s)",
            (
                self.provider,
                function,
                symbol,
                RequestOutcome.ANSWERED,
                # A request that was answered after `since` was sent at most a minute before.
                since - CUT_OFF_AFTER,
                since,
            ),
        )
        (exists,) = await cursor.fetchone() or (False,)
        return bool(exists)

    async def served_since(
        self,
        conn: AsyncConnection[Any],
        function: str,
        since: datetime,
        *,
        with_open: bool = True,
    ) -> set[str]:
        """
        Return the symbols that need no new request for `function`.

        These are the symbols whose newest request was answered at or after `since`, or, with
        `with_open`, is open.
        """
        cursor = await conn.execute(
            """
            SELECT symbol
            FROM (
                SELECT DISTINCT ON (symbol) symbol, outcome, ended_at, at
                FROM operations.provider_requests
                WHERE provider = %s AND function = %s AND at > %s
                ORDER BY symbol, at DESC, id DESC
            ) AS newest
            WHERE (outcome = %s AND ended_at >= %s) OR (%s AND outcome IS NULL AND at > %s)
            """,
            (
                self.provider,
                function,
                # A request that was answered after `since` was sent at most a minute before.
                since - CUT_OFF_AFTER,
                RequestOutcome.ANSWERED,
                since,
                with_open,
                self.clock.now() - CUT_OFF_AFTER,
            ),
        )
        return {symbol for (symbol,) in await cursor.fetchall()}

    async def was_quota_spent(self, conn: AsyncConnection[Any], moment: datetime) -> bool:
        """
        Return whether the day's quota was spent at a past moment.

        It was spent if our own count says so, or if the provider's last response before that moment
        said so.
        """
        day = self.limits[-1]
        cursor = await conn.execute(
            """
            SELECT
                count(*),
                (array_agg(outcome ORDER BY at DESC, id DESC) FILTER (WHERE outcome IS NOT NULL))[1]
            FROM operations.provider_requests
            WHERE provider = %s AND at > %s AND at <= %s
            """,
            (self.provider, moment - day.length, moment),
        )
        requests, last_outcome = await cursor.fetchone() or (0, None)
        return requests >= day.requests or last_outcome == RequestOutcome.QUOTA_SPENT

    async def count_outcomes(
        self, conn: AsyncConnection[Any], now: datetime
    ) -> dict[tuple[str, str], int]:
        """
        Return the number of requests by function and outcome.

        Requests that are still open are not counted. The outcome of a request whose process ended
        without storing one is `cut_off`.
        """
        cursor = await conn.execute(
            """
            SELECT function, coalesce(outcome, 'cut_off'), count(*)
            FROM operations.provider_requests
            WHERE provider = %s AND (outcome IS NOT NULL OR at < %s)
            GROUP BY 1, 2
            """,
            (self.provider, now - CUT_OFF_AFTER),
        )
        return {(function, outcome): count for function, outcome, count in await cursor.fetchall()}

    async def _newest_request(
        self, conn: AsyncConnection[Any], function: str, symbol: str
    ) -> tuple[Any, ...] | None:
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

    async def _count_open(self, conn: AsyncConnection[Any], now: datetime) -> int:
        cursor = await conn.execute(
            "SELECT count(*) FROM operations.provider_requests "
            "WHERE provider = %s AND outcome IS NULL AND at > %s AND at < %s",
            (self.provider, now - CUT_OFF_AFTER, now + CUT_OFF_AFTER),
        )
        (count,) = await cursor.fetchone() or (0,)
        return int(count)

    async def _request_times(self, conn: AsyncConnection[Any]) -> list[datetime]:
        """Return the times of the newest requests, newest first: as many as the largest limit."""
        cursor = await conn.execute(
            "SELECT at FROM operations.provider_requests WHERE provider = %s "
            "ORDER BY at DESC LIMIT %s",
            (self.provider, max(limit.requests for limit in self.limits)),
        )
        return [at for (at,) in await cursor.fetchall()]

    async def _paused_until(self, conn: AsyncConnection[Any]) -> datetime | None:
        """Return the time before which no request may be sent to the provider, or None."""
        cursor = await conn.execute(
            "SELECT max(rest_until) FROM operations.provider_requests WHERE provider = %s",
            (self.provider,),
        )
        row = await cursor.fetchone()
        return row[0] if row else None
