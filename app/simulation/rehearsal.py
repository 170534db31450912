"""
A rehearsal: the Mondays of some weeks and all of their mornings, lived through in told time, and then served.

Everything is real but the time and, unless their addresses are set, the providers.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from msgspec import Struct

from app.core.settings import RECEIVERS, Settings
from app.database import pools, sessions
from app.database.advice import unreachable
from app.database.embedded import REHEARSAL, address_of
from app.domain import calendar
from app.errors import ConfigurationError
from app.providers.alpha_vantage import Answer
from app.providers.rate_limiter import Outcome
from app.simulation.clock import SimulatedClock, has_begun, told
from app.simulation.faults import read
from app.simulation.odd_faults import EVERY
from app.simulation.provider_simulators import CLOCK
from jobs import queue, queue_tables
from jobs.context import RealClock

REQUESTS = Path(".alpha-monday") / "requests.jsonl"
EARLIEST = date(2023, 6, 5)
_KEY = "rehearsed-key-of-nobody"
_SEED = "a bad day"


class Span(Struct, frozen=True):
    """The time that a rehearsal lives through: from just before its first Monday until its end, or the present."""

    begin: datetime
    until: datetime | None


def span(weeks: int, until: date | None, now: datetime) -> Span:
    """Return the span of `weeks` Mondays, the last one the newest at the end of `until`, or now."""
    if until and until < EARLIEST + timedelta(weeks=weeks):
        raise ConfigurationError(
            f"The made-up market begins in {EARLIEST:%B %Y}: choose a later --until, or fewer --weeks."
        )
    end = calendar.at(until, time(23, 59, 59)) if until else now
    if end > now:
        raise ConfigurationError(
            f"--until must be a day before today, for example {calendar.today(now) - timedelta(days=1)}."
        )
    monday = calendar.latest_run_date(end) - timedelta(weeks=weeks - 1)
    return Span(calendar.due_at(monday) - timedelta(minutes=1), end if until else None)


def database(settings: Settings) -> str:
    """Return the address of the rehearsal's own database; refuse one with a record that was not rehearsed."""
    address = address_of(settings.database_url, REHEARSAL, make=True)
    try:
        with sessions.connect(address) as conn:
            if _may_be_live(conn) and (_holds_a_record(conn) or _is_served(conn)):
                raise ConfigurationError(
                    "The database of DATABASE_URL holds a live record, and rehearsed and live data never share one. "
                    "Unset DATABASE_URL to rehearse in the embedded Postgres, or set it to another database."
                )
    except psycopg.OperationalError as error:
        raise unreachable(address, error) from None
    return address


def _may_be_live(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the database has this project's tables, and no mark of a rehearsal."""
    (ours,) = conn.execute(
        "SELECT to_regclass('told.clock') IS NULL AND to_regclass('public.batches') IS NOT NULL"
    ).fetchone() or (False,)
    return bool(ours) and queue_tables.exist(conn)


def _holds_a_record(conn: psycopg.Connection[Any]) -> bool:
    """Return whether a service lives on the database, or did: it may still wait for its first Monday."""
    (recorded,) = conn.execute(
        "SELECT EXISTS (SELECT FROM public.batches UNION ALL SELECT FROM public.generations)"
    ).fetchone() or (False,)
    return bool(recorded) or queue_tables.are_used(conn)


def _is_served(conn: psycopg.Connection[Any]) -> bool:
    """Return whether a web server shows the database, which would go on to show it as live."""
    (served,) = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'alpha-monday api')"
    ).fetchone() or (False,)
    return bool(served)


@contextmanager
def played(
    settings: Settings, address: str, *, calm: bool, odd: str = "", faults: Path | None = None, log: Path = REQUESTS
) -> Iterator[Settings]:
    """
    Start stand-ins for the providers whose address is not set; give the settings that lead to them.

    Things go wrong now and then unless they are to be `calm`, or at one request in four by the seed `odd`, and as the
    script of `faults` says. Nobody is told of it whose address does not stand in the environment.
    """
    silent = {name: "" for name in RECEIVERS if not os.environ.get(name.upper(), "").strip()}
    settings = msgspec.structs.replace(settings, **silent)
    if settings.openai_base_url and settings.alpha_vantage_base_url:
        yield msgspec.structs.replace(settings, database_url=address, queue_database_url="")
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    closed = ",".join(map(str, settings.market_closed_days))
    options = ["--log", str(log), "--closed", closed]
    if odd:
        options += ["--odd", odd]
    elif not calm:
        options += ["--hostile", _SEED]
    if faults:
        read(faults.read_bytes(), EVERY)  # refused here, in one line, rather than there
        options += ["--faults", str(faults)]
    with subprocess.Popen(
        [sys.executable, "-m", "app.simulation.provider_simulators", "--until-input-ends", *options],
        env={
            **sessions.environment(),
            CLOCK: address,
        },  # not an argument: everybody sees those, and this one may hold a password
        stdin=subprocess.PIPE,  # it ends when this does
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C at the terminal is for us, not for it
    ) as process:
        assert process.stdout
        assert process.stdin
        base = process.stdout.readline().decode().strip()
        if not base:
            raise ConfigurationError("The stand-ins for the providers did not start.")
        try:
            yield msgspec.structs.replace(
                settings,
                database_url=address,
                queue_database_url="",
                openai_api_key=settings.openai_api_key if settings.openai_base_url else _KEY,
                openai_base_url=settings.openai_base_url or f"{base}/v1",
                alpha_vantage_api_key=settings.alpha_vantage_api_key if settings.alpha_vantage_base_url else _KEY,
                alpha_vantage_base_url=settings.alpha_vantage_base_url or base,
            )
        finally:
            process.stdin.close()


async def refuse_out_of_reach(settings: Settings, span: Span) -> None:
    """Refuse weeks that the bars of a real price provider do not reach, before anything is recorded."""
    if settings.alpha_vantage_api_key == _KEY:
        return
    async with pools.opened(pools.make_pool(settings.database_url)) as pool:
        if await has_begun(pool):
            return  # so it was checked
        clock = SimulatedClock(pool, queue.app, span.until)
        await clock.start(span.begin)
        in_reach = False
        try:
            async with queue.handed(queue.app, settings, pool, clock) as tools:
                answer = await tools.prices.bars(tools.benchmark, since=clock.now())
                assert isinstance(answer, Answer)
                await tools.prices.ledger.fail(answer.grant, Outcome.REFUSED)  # not stored, so not shared
                baseline = tools.calendar.session_before(calendar.latest_run_date(span.begin + timedelta(minutes=5)))
                oldest = answer.bars[0].trading_day
                if in_reach := oldest <= baseline:
                    return
        finally:
            if not in_reach:  # not begun, whatever the reason: the next time it is checked again
                async with pool.connection() as conn:
                    await conn.execute("DELETE FROM told.clock")
    raise ConfigurationError(
        f"The bars of ALPHA_VANTAGE_BASE_URL begin on {oldest}, after the first baseline, {baseline}. "
        "Rehearse fewer weeks with --weeks."
    )


def clock_of(span: Span) -> Callable[[pools.Pool, queue.Queue], AbstractAsyncContextManager[SimulatedClock]]:
    """Return what makes the rehearsal's clock for a process."""
    return lambda pool, its_queue: told(pool, its_queue, span.begin, span.until)


async def catch_up(clock: SimulatedClock, span: Span, tell: Callable[[datetime, datetime, datetime], None]) -> None:
    """Wait until told time has come to its end or is the present, calling `tell(begin, now, end)` now and then."""
    begin, real = clock.now(), RealClock()
    while not clock.over.done():
        tell(begin, clock.now(), span.until or real.now())
        await asyncio.wait([clock.over], timeout=0.1)
    clock.over.result()
    tell(begin, clock.now(), clock.now())
