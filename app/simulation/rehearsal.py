"""
A rehearsal: the Mondays of some weeks and all of their mornings, lived through in told time, and then served.

Everything is real but the time and, unless their addresses are set, the providers.
"""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import psycopg
from msgspec import Struct

from app.core.settings import RECEIVERS, Settings
from app.database import pools, sessions
from app.database.advice import unreachable, user_of, where
from app.database.embedded import REHEARSAL, address_of
from app.domain import calendar
from app.domain.model import Bar
from app.domain.text import first_line
from app.errors import ConfigurationError, ProviderError, QuotaSpent, UnknownTicker
from app.providers.alpha_vantage import AlphaVantage, Answer
from app.providers.rate_limiter import Outcome
from app.simulation.clock import SimulatedClock, has_begun, told
from app.simulation.faults import read
from app.simulation.odd_faults import EVERY
from app.simulation.provider_simulators import CLOCK
from jobs import queue, queue_tables
from jobs.context import Context, RealClock

REQUESTS = Path(".alpha-monday") / "requests.jsonl"
# The providers, as a script of faults names them, and the setting that leads to another server than a simulated one.
ADDRESSES = {"openai": "OPENAI_BASE_URL", "alphavantage": "ALPHA_VANTAGE_BASE_URL"}
# The first Monday of which the simulated market has the hundred bars before it that a provider lists.
EARLIEST = date(2023, 6, 5)
# With a price provider of one's own its bars decide; this bound only keeps dates within what every part can read.
_OLDEST = date(1970, 1, 5)
_KEY = "rehearsed-key-of-nobody"
_SEED = "a bad day"

# Seconds between two questions how far the bars of a price provider reach. One useless answer is no reason to give up;
# five of them within about a minute are.
PAUSES = (3.0, 7.0, 15.0, 30.0)


class Span(Struct, frozen=True):
    """The time that a rehearsal lives through: from just before its first Monday until its end, or the present."""

    begin: datetime
    until: datetime | None


def span(weeks: int, until: date | None, now: datetime, *, has_real_prices: bool = False) -> Span:
    """
    Return the span of `weeks` Mondays, the last one the newest at the end of `until`, or now.

    How far back it may go depends on who has the prices: the simulated market knows its beginning, and a provider is
    asked later (`refuse_out_of_reach`).
    """
    today = calendar.today(now)
    if until and until >= today:
        raise ConfigurationError(
            f"--until must be a day before today in New York, for example {today - timedelta(days=1)}."
        )
    end = calendar.at(until, time(23, 59, 59)) if until and until >= _OLDEST else now
    newest = calendar.latest_run_date(end)
    oldest = _OLDEST if has_real_prices else EARLIEST
    if until and (until < _OLDEST or newest < oldest):
        raise ConfigurationError(_begins_too_early(oldest, has_real_prices, "Choose a later --until"))
    if (most := (newest - oldest).days // 7 + 1) < weeks:
        choice = f"Choose {'a later --until, or ' if until else ''}at most --weeks {most}"
        raise ConfigurationError(_begins_too_early(oldest, has_real_prices, choice))
    monday = newest - timedelta(weeks=weeks - 1)
    return Span(calendar.due_at(monday) - timedelta(minutes=1), end if until else None)


def _begins_too_early(oldest: date, has_real_prices: bool, choice: str) -> str:
    if has_real_prices:
        return f"A rehearsal begins on Monday {oldest} or later. {choice}."
    return (
        f"The simulated market begins on Monday {oldest}. {choice}; or set ALPHA_VANTAGE_BASE_URL to a server that has "
        "older prices."
    )


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
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{first_line(error)}, for the user {user_of(address)} of the database at {where(address)}. A rehearsal "
            "needs the user that owns the tables. Set DATABASE_URL to that user's address."
        ) from None
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
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s)",
        [sessions.application_name("api")],
    ).fetchone() or (False,)
    return bool(served)


def simulated_providers(settings: Settings) -> list[str]:
    """Return the names of the providers that are simulated, because no address is set for them."""
    return [name for name, address in ADDRESSES.items() if not getattr(settings, address.lower())]


def refuse_address_without_key(settings: Settings) -> None:
    """Refuse a provider's address without the key for that server. Raises ConfigurationError."""
    for address in ADDRESSES.values():
        key = address.replace("BASE_URL", "API_KEY")
        if getattr(settings, address.lower()) and not getattr(settings, key.lower()):
            raise ConfigurationError(
                f"{address} is set, so {key} must be set, too, to the key for that server; a server that checks no key "
                f"takes any, such as {key}=abc123. To rehearse with a simulated provider, unset {address}."
            )


def not_simulated_in(faults: Path, settings: Settings) -> list[str]:
    """Return the providers that a script of faults names although they are not simulated; refuse a bad script."""
    named = {rule.provider for rule in read(faults.read_bytes(), EVERY)}
    return sorted(named.difference(simulated_providers(settings)))


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
    if not simulated_providers(settings):
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
        # Not an argument: every user of the machine sees those, and the address may hold a password.
        env={**sessions.environment(), CLOCK: address},
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


async def refuse_out_of_reach(
    settings: Settings, span: Span, tell: Callable[[str], None], pauses: Sequence[float] = PAUSES
) -> None:
    """
    Refuse weeks that the bars of a real price provider do not reach, before anything is recorded.

    While its answers are of no use it is asked again, after each of `pauses`, in seconds; `tell` is called with a line
    for each. Raises ConfigurationError.
    """
    if settings.alpha_vantage_api_key == _KEY:
        return
    async with pools.opened(pools.make_pool(settings.database_url)) as pool:
        if await has_begun(pool):
            return  # so it was checked
        clock = SimulatedClock(pool, queue.app, span.until)
        await clock.start(span.begin)  # so that a server which reads the rehearsal's time, as `standins` can, finds it
        in_reach = False
        try:
            async with queue.handed(queue.app, settings, pool, clock) as tools:
                baseline = tools.calendar.session_before(calendar.latest_run_date(span.begin + timedelta(minutes=5)))
                bars = await _bars(tools, pauses, tell)
                if in_reach := bars[0].trading_day <= baseline <= bars[-1].trading_day:
                    return
        finally:
            if not in_reach:  # not begun, whatever the reason: the next time it is checked again
                async with pool.connection() as conn:
                    await conn.execute("DELETE FROM told.clock")
                    # They lie at the first Monday, where the next rehearsal begins again: it would find them spent.
                    await conn.execute("DELETE FROM operations.provider_requests WHERE at >= %s", (span.begin,))
    oldest, newest = bars[0].trading_day, bars[-1].trading_day
    if newest < baseline:
        raise ConfigurationError(
            f"The bars of ALPHA_VANTAGE_BASE_URL end on {newest}, before the first baseline, {baseline}. "
            "Choose an earlier --until, or more --weeks."
        )
    raise ConfigurationError(
        f"The bars of ALPHA_VANTAGE_BASE_URL begin on {oldest}, after the first baseline, {baseline}. "
        "Rehearse fewer weeks with --weeks, or choose a later --until."
    )


async def _bars(tools: Context, pauses: Sequence[float], tell: Callable[[str], None]) -> list[Bar]:
    """Return the benchmark's bars; refuse when there are none after the last of `pauses`, saying why."""
    ledger, began = tools.prices.ledger, monotonic()
    # One attempt at a time: the pauses are ours, so that a person sees each, and their number is bounded.
    prices = AlphaVantage(tools.prices.key, ledger, tools.clock, tools.prices.base_url, attempts=1)
    try:
        for attempt in itertools.count():
            try:
                answer = await prices.bars(tools.benchmark, since=tools.now())
                if isinstance(answer, Answer):
                    await ledger.fail(answer.grant, Outcome.REFUSED)  # not stored, so not shared
                    return answer.bars
                why = "Another process of this rehearsal asks the same."
            except UnknownTicker as error:
                why = f"{error} BENCHMARK_SYMBOL names it."
            except (QuotaSpent, ProviderError) as error:
                why = str(error)
            if attempt == len(pauses):
                raise ConfigurationError(
                    "How far the bars of ALPHA_VANTAGE_BASE_URL reach could not be learned, in "
                    f"{attempt + 1} attempts within {monotonic() - began:.0f} s. The last: {why} "
                    "Nothing was recorded. Check the address, or try again later."
                )
            tell(f"How far do the bars of ALPHA_VANTAGE_BASE_URL reach? {why} Next attempt in {pauses[attempt]:.0f} s.")
            await _forget_rests(tools)
            await tools.sleep(pauses[attempt])
    finally:
        await prices.close()
    raise AssertionError("unreachable")


async def _forget_rests(tools: Context) -> None:
    """
    Let the provider be asked again although it asked for a rest.

    Otherwise the ledger would refuse every request until the rest is over, which may be hours.
    """
    async with tools.pool.connection() as conn:
        await conn.execute("UPDATE operations.provider_requests SET rest_until = NULL WHERE rest_until IS NOT NULL")


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
