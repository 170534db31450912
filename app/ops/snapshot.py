"""
What Postgres knows of the service, in one short look: the same in whichever process looks, and after any restart.

A look has a connection of its own, so that it takes none from the jobs or the API, and two seconds. All times are the
jobs' own; only a worker's silence is a matter of real time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog
from msgspec import Struct
from psycopg import Error
from psycopg_pool import PoolTimeout

from app.database import pools
from app.domain import calendar
from app.domain.calendar import Clock
from app.domain.model import SERIES, BatchStatus
from app.domain.text import one_line
from app.providers.rate_limiter import Ledger, Left
from app.store import batches, checkpoints, generations, journal
from app.store.checkpoints import Lateness
from app.store.generations import Asked
from app.store.rows import Conn
from jobs import admin, weekly
from jobs import reconcile as upkeep
from jobs.admin import Counted, Silent, Upkeep

WITHIN = 2  # seconds, for all of it

# One moment, whatever goes on.
_SHORT = f"""
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL search_path = {pools.SEARCH_PATH};
SET LOCAL statement_timeout = '{WITHIN}s'
"""

# The steps of the lateness of checkpoints, in seconds: a minute to two days.
STEPS = (60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 172_800.0)

# How the newest Monday that has begun may stand, besides the statuses of its batch.
NOT_BEGUN, ABSENT, UNDER_WAY = "not_begun", "absent", "under_way"
MONDAY = (NOT_BEGUN, ABSENT, UNDER_WAY, *BatchStatus)

log = structlog.get_logger()


class Survey(Struct, frozen=True, kw_only=True):
    """
    How the service stands at one moment.

    `mondays` and `checkpoints` are counted by status and reason, `requests` by function and outcome. `overdue` are the
    checkpoints that are due and have no row, oldest first. `monday` is how the newest Monday that has begun stands.
    """

    at: datetime
    jobs: list[Counted]
    waiting_since: datetime | None
    workers: list[Silent]
    upkeep: Upkeep | None
    mended: Mapping[str, int]
    monday: str
    mondays: Mapping[tuple[str, str], int]
    checkpoints: Mapping[tuple[str, str], int]
    lateness: Mapping[str, Lateness]
    overdue: Sequence[datetime]
    lacking_prices: int
    newest_checkpoint_at: datetime | None
    requests: Mapping[tuple[str, str], int]
    left: Left
    asked: Asked
    journal_seq: int
    journal_at: datetime | None

    def since(self, moment: datetime | None) -> float | None:
        """Return how many seconds ago something was."""
        return None if moment is None else (self.at - moment).total_seconds()


class Surveyor:
    """Looks when asked."""

    def __init__(self, pool: pools.Pool, ledger: Ledger, clock: Clock) -> None:
        self.pool, self.ledger, self.clock = pool, ledger, clock

    async def look(self) -> Survey | None:
        """Return how the service stands; None while the database is away, or takes too long."""
        try:
            async with self.pool.connection() as conn:
                # On a connection that died without a word a cancellation takes ten seconds.
                leaving = asyncio.get_running_loop().call_later(WITHIN, pools.hang_up, conn)
                try:
                    async with conn.transaction():
                        await conn.execute(_SHORT)
                        return await survey(conn, self.ledger, self.clock.now())
                finally:
                    leaving.cancel()
        except (Error, PoolTimeout, OSError) as error:
            log.warning("the metrics lack what Postgres knows", reason=one_line(error))
            return None


async def survey(conn: Conn, ledger: Ledger, at: datetime) -> Survey:
    """Return how the service stands at `at`."""
    head = await journal.head(conn)
    awaited = await checkpoints.awaiting(conn, calendar.today(at))
    return Survey(
        at=at,
        jobs=await admin.counts(conn),
        waiting_since=await admin.waiting_since(conn, at),
        workers=await admin.workers(conn),
        upkeep=await admin.upkeep(conn),
        mended=await upkeep.mended_in_all(conn),
        monday=await _monday(conn, at),
        mondays=await batches.counts(conn, SERIES),
        checkpoints=await checkpoints.counts(conn),
        lateness=await checkpoints.lateness(conn, STEPS),
        overdue=[one.at for one in awaited if one.at <= at],
        lacking_prices=len(await checkpoints.skipped(conn)),
        newest_checkpoint_at=await checkpoints.newest_at(conn),
        requests=await ledger.outcomes(conn, at),
        left=await ledger.left_on(conn, at),
        asked=await generations.asked(conn),
        journal_seq=head.seq if head else 0,
        journal_at=head.at if head else None,
    )


async def _monday(conn: Conn, at: datetime) -> str:
    """Return how the newest Monday that has begun stands; one before the first batch of all was nobody's to make."""
    monday = calendar.latest_run_date(at)
    if batch := await batches.on(conn, SERIES, monday):
        return batch.status
    if await weekly.live_jobs(conn, monday):
        return UNDER_WAY
    expected = monday == calendar.today(at) or await batches.newest(conn, SERIES)
    return ABSENT if expected else NOT_BEGUN
