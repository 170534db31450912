"""
A rehearsal: the service runs through weeks in simulated time, and then serves their record.

Everything is real except the time and the providers. A provider whose address is set is real, too.
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
from urllib.parse import urlsplit

import msgspec
import psycopg
from msgspec import Struct

from app.core import repository_address
from app.core.settings import RECEIVERS, Settings
from app.database import pools, sessions
from app.database.advice import display_address, get_user, unreachable_error
from app.database.embedded import REHEARSAL, resolve_database_url
from app.domain import calendar
from app.domain.model import Bar
from app.domain.text import first_line
from app.errors import ConfigurationError, ProviderError, QuotaSpent, UnknownTicker
from app.providers.alpha_vantage import AlphaVantage, BarsAnswer
from app.providers.rate_limiter import RequestOutcome
from app.simulation import timestamp_calendar
from app.simulation.clock import SimulatedClock, has_rehearsal_to_continue, running_clock
from app.simulation.faults import read_script
from app.simulation.provider_simulators import (
    CLOCK_VARIABLE,
    KNOWN_FAULTS,
    MODEL_PATH,
    PER_DAY,
)
from app.store import rehearsed
from jobs import queue, queue_tables
from jobs.context import Context, RealClock

REQUEST_LOG = Path(".alpha-monday") / "requests.jsonl"
# The file with the root certificate of the simulated time-stamping authority, beside the log.
_ROOT_FILE_NAME = "timestamp-root.pem"
# The setting with a provider's address, by the provider's name in a fault script. If the setting is
# set, the rehearsal uses the server at that address instead of a simulator.
ADDRESS_SETTINGS = {"openai": "OPENAI_BASE_URL", "alphavantage": "ALPHA_VANTAGE_BASE_URL"}
# The services that stamp. They are simulated unless their setting leads to another simulator: a
# real one must not stamp a rehearsal, and would stamp another time than the simulated one.
STAMP_SETTINGS = {"timestamp": "TIMESTAMP_URLS", timestamp_calendar.PROVIDER: "OTS_CALENDARS"}
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
# On this Monday the simulated market has a little more than the hundred bars that a provider lists.
EARLIEST_MONDAY = date(2023, 6, 5)
# With a real price provider, its bars decide how early a rehearsal can begin. This bound only keeps
# all dates in the range that each part of the service can represent.
_OLDEST_MONDAY = date(1970, 1, 5)
_SIMULATED_KEY = "rehearsed-key-of-nobody"
# The seed of the faults of an ordinary rehearsal.
_FAULT_SEED = "a bad day"

# The pauses between the requests for the benchmark's bars, in seconds. After five responses without
# usable bars, within about a minute, the rehearsal is refused.
PAUSES = (3.0, 7.0, 15.0, 30.0)


class RehearsalSpan(Struct, frozen=True):
    """
    The simulated time of a rehearsal.

    It begins just before its first Monday, and ends at `until`; None means that it goes on to the
    present.
    """

    begin: datetime
    until: datetime | None


def choose_span(
    weeks: int, until: date | None, now: datetime, *, has_real_prices: bool = False
) -> RehearsalSpan:
    """
    Return the span of `weeks` Mondays.

    The last Monday is the newest one at the end of the day `until`. If `until` is None, it is the
    newest one at the time `now`. With simulated prices, the span begins on EARLIEST_MONDAY or
    later. With a real price provider, its bars decide how early the span may begin:
    `refuse_out_of_reach` requests them later.

    Raises ConfigurationError if `until` is not before today, or if the span begins too early.
    """
    today = calendar.new_york_date(now)
    if until and until >= today:
        example = today - timedelta(days=1)
        raise ConfigurationError(
            f"--until must be a day before today in New York, for example {example}."
        )
    end = now
    if until and until >= _OLDEST_MONDAY:
        end = calendar.from_new_york(until, time(23, 59, 59))
    newest = calendar.latest_run_date(end)
    oldest = _OLDEST_MONDAY if has_real_prices else EARLIEST_MONDAY
    if until and (until < _OLDEST_MONDAY or newest < oldest):
        raise ConfigurationError(
            _explain_too_early(oldest, has_real_prices, "Choose a later --until")
        )
    possible_weeks = (newest - oldest).days // 7 + 1
    if possible_weeks < weeks:
        advice = f"Choose at most --weeks {possible_weeks}"
        if until:
            advice = f"Choose a later --until, or at most --weeks {possible_weeks}"
        raise ConfigurationError(_explain_too_early(oldest, has_real_prices, advice))
    first_monday = newest - timedelta(weeks=weeks - 1)
    begin = calendar.due_at(first_monday) - timedelta(minutes=1)
    return RehearsalSpan(begin, end if until else None)


def _explain_too_early(oldest: date, has_real_prices: bool, advice: str) -> str:
    if has_real_prices:
        return f"A rehearsal begins on Monday {oldest} or later. {advice}."
    return (
        f"The simulated market begins on Monday {oldest}. {advice}; or set ALPHA_VANTAGE_BASE_URL "
        "to a server that has older prices."
    )


def database_address(settings: Settings) -> str:
    """
    Return the address of the rehearsal's database.

    If DATABASE_URL is not set, the embedded Postgres is created or started.

    Raises ConfigurationError if the database holds a live record or a rehearsal without its clock,
    if its user may not own a rehearsal's tables, or if it is unreachable.
    """
    address = resolve_database_url(settings.database_url, REHEARSAL, create=True)
    try:
        with sessions.connect(address) as conn:
            may_be_live = _may_be_live(conn)
            if may_be_live and rehearsed.is_rehearsed_sync(conn):
                raise ConfigurationError(rehearsed.WITHOUT_CLOCK)
            if may_be_live and (_has_record(conn) or _has_web_server(conn)):
                raise ConfigurationError(
                    "The database of DATABASE_URL holds a live record, and rehearsed and live data "
                    "never share one. Unset DATABASE_URL to rehearse in the embedded Postgres, or "
                    "set it to another database."
                )
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{first_line(error)}, for the user {get_user(address)} of the database at "
            f"{display_address(address)}. A rehearsal needs the user that owns the tables. "
            "Set DATABASE_URL to that user's address."
        ) from None
    except psycopg.OperationalError as error:
        raise unreachable_error(address, error) from None
    return address


def _may_be_live(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the database has this project's tables, and no clock of a rehearsal."""
    (has_tables_only,) = conn.execute(
        "SELECT to_regclass('told.clock') IS NULL AND to_regclass('public.batches') IS NOT NULL"
    ).fetchone() or (False,)
    return bool(has_tables_only) and queue_tables.has_tables_sync(conn)


def _has_record(conn: psycopg.Connection[Any]) -> bool:
    """
    Return whether a service works on the database, or has worked.

    A queue with a job or a worker counts, too: the service may still wait for its first Monday.
    """
    (has_rows,) = conn.execute(
        "SELECT EXISTS (SELECT FROM public.batches UNION ALL SELECT FROM public.generations)"
    ).fetchone() or (False,)
    return bool(has_rows) or queue_tables.is_used_sync(conn)


def _has_web_server(conn: psycopg.Connection[Any]) -> bool:
    """
    Return whether a web server uses the database.

    Such a server would show the rehearsal as a live record.
    """
    (is_served,) = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = %s)",
        [sessions.application_name("api")],
    ).fetchone() or (False,)
    return bool(is_served)


def simulated_providers(settings: Settings) -> list[str]:
    """Return the names of the providers that are simulated: those without a set address."""
    return [name for name, setting in ADDRESS_SETTINGS.items() if not _value_of(settings, setting)]


def _value_of(settings: Settings, setting: str) -> Any:
    return getattr(settings, setting.lower())


def refuse_address_without_key(settings: Settings) -> None:
    """Raise ConfigurationError if a provider's address is set without the key for that server."""
    for address_setting in ADDRESS_SETTINGS.values():
        key_setting = address_setting.replace("BASE_URL", "API_KEY")
        if _value_of(settings, address_setting) and not _value_of(settings, key_setting):
            raise ConfigurationError(
                f"{address_setting} is set, so {key_setting} must be set, too, to the key for that "
                f"server. If the server checks no keys, set any key, such as {key_setting}=abc123. "
                f"To rehearse with a simulated provider, unset {address_setting}."
            )


def unsimulated_providers(faults: Path, settings: Settings) -> list[str]:
    """
    Return the providers that a fault script names although they are not simulated.

    Raises ConfigurationError for a script that cannot be read.
    """
    named = {rule.provider for rule in read_script(faults.read_bytes(), KNOWN_FAULTS)}
    simulated_stamps = [name for name in STAMP_SETTINGS if not _has_own_simulator(settings, name)]
    return sorted(named.difference(simulated_providers(settings), simulated_stamps))


def _has_own_simulator(settings: Settings, name: str) -> bool:
    """Return whether the setting of a service that stamps leads to a simulator on loopback."""
    addresses = _value_of(settings, STAMP_SETTINGS[name])
    return bool(addresses) and all(
        urlsplit(address).hostname in _LOOPBACK_HOSTS for address in addresses
    )


def _without_real_stamps(settings: Settings) -> Settings:
    """Return the settings without the services that are no simulators, and without their roots."""
    for name, setting in STAMP_SETTINGS.items():
        if not _has_own_simulator(settings, name):
            settings = msgspec.structs.replace(settings, **{setting.lower(): ()})
    if not settings.timestamp_urls:
        settings = msgspec.structs.replace(settings, timestamp_roots="")
    return settings


@contextmanager
def running_simulators(
    settings: Settings,
    address: str,
    *,
    calm: bool,
    odd: str = "",
    faults: Path | None = None,
    log: Path = REQUEST_LOG,
) -> Iterator[Settings]:
    """
    Start simulators of the providers without an address; yield the rehearsal's settings.

    `address` is the address of the database. With the seed `odd`, many kinds of faults are
    injected: one request in four gets a short fault, and other faults continue for a morning or
    longer (`app.simulation.odd_providers`). Without `odd`, typical faults are injected into some
    requests, unless `calm`. The faults of the script `faults` are added. Alerts and heartbeats are
    sent only if an environment variable has their address. If only a settings file has it, the
    address is removed from the settings. The journal's head is published only in a repository on
    this machine.

    Raises ConfigurationError if the simulators do not start or the script cannot be read.
    """
    # A rehearsal must not send its messages to the receivers of a live service.
    silenced = {name: "" for name in RECEIVERS if not os.environ.get(name.upper(), "").strip()}
    if settings.head_repository and not repository_address.parse(settings.head_repository).is_local:
        # The heads of a rehearsal would be taken for those of a live record.
        silenced["head_repository"] = ""
    settings = _without_real_stamps(msgspec.structs.replace(settings, **silenced))
    if not simulated_providers(settings):
        yield msgspec.structs.replace(settings, database_url=address, queue_database_url="")
        return

    log.parent.mkdir(parents=True, exist_ok=True)
    command = _simulators_command(settings, calm=calm, odd=odd, faults=faults, log=log)
    with subprocess.Popen(
        command,
        # The address is not an argument: it may contain a password, and every user of the machine
        # can read the arguments of a process.
        env={**sessions.full_environment(), CLOCK_VARIABLE: address},
        # The pipe ends with this process, and then the simulators end.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C at the terminal reaches this process only.
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        base_url = process.stdout.readline().decode().strip()
        if not base_url:
            raise ConfigurationError("The simulators of the providers did not start.")
        try:
            yield _with_simulators(
                settings, address, base_url, root_file=log.parent / _ROOT_FILE_NAME
            )
        finally:
            process.stdin.close()


def _simulators_command(
    settings: Settings, *, calm: bool, odd: str, faults: Path | None, log: Path
) -> list[str]:
    closed_days = ",".join(map(str, settings.market_closed_days))
    command = [sys.executable, "-m", "app.simulation.provider_simulators", "--until-input-ends"]
    command += ["--log", str(log), "--closed", closed_days]
    command += ["--timestamp-root", str(log.parent / _ROOT_FILE_NAME)]
    # The simulated key allows what the settings say, as a paid one does; it never allows less than
    # a free one, so that only the service's own count makes requests scarce.
    per_day = max(settings.alpha_vantage_per_day, PER_DAY)
    command += ["--per-day", str(per_day)]
    if odd:
        command += ["--odd", odd]
    elif not calm:
        command += ["--hostile", _FAULT_SEED]
    if faults:
        # This process reads the script, too, because it can report a bad script in one line.
        read_script(faults.read_bytes(), KNOWN_FAULTS)
        command += ["--faults", str(faults)]
    return command


def _with_simulators(
    settings: Settings, address: str, base_url: str, *, root_file: Path
) -> Settings:
    """Return the settings with the simulators' address in place of each address that is not set."""
    settings = msgspec.structs.replace(settings, database_url=address, queue_database_url="")
    if not settings.openai_base_url:
        settings = msgspec.structs.replace(
            settings, openai_api_key=_SIMULATED_KEY, openai_base_url=f"{base_url}{MODEL_PATH}"
        )
    if not settings.alpha_vantage_base_url:
        settings = msgspec.structs.replace(
            settings, alpha_vantage_api_key=_SIMULATED_KEY, alpha_vantage_base_url=base_url
        )
    if not settings.timestamp_urls:
        settings = msgspec.structs.replace(
            settings,
            timestamp_urls=(f"{base_url}/timestamp",),
            timestamp_roots=str(root_file.resolve()),
        )
    if not settings.ots_calendars:
        settings = msgspec.structs.replace(
            settings, ots_calendars=(f"{base_url}{timestamp_calendar.PATH}",)
        )
    return settings


async def refuse_out_of_reach(
    settings: Settings,
    span: RehearsalSpan,
    report: Callable[[str], None],
    pauses: Sequence[float] = PAUSES,
) -> None:
    """
    Raise ConfigurationError if a real price provider has no bars for the first Monday.

    This is checked before anything is recorded. If a response cannot be used, the bars are
    requested again after each of `pauses`, in seconds. Before each pause, `report` is called with a
    line for the user.
    """
    if settings.alpha_vantage_api_key == _SIMULATED_KEY:
        return
    async with pools.opened(pools.make_pool(settings.database_url)) as pool:
        if await has_rehearsal_to_continue(pool):
            # The bars were checked when the rehearsal began.
            return
        clock = SimulatedClock(pool, queue.app, span.until)
        # The clock is started before the check, because a price server may use the rehearsal's
        # time, as the simulators of `alpha-monday standins` can.
        await clock.start(span.begin)
        is_in_reach = False
        try:
            async with queue.bind_context(queue.app, settings, pool=pool, clock=clock) as context:
                first_monday = calendar.latest_run_date(span.begin + timedelta(minutes=5))
                baseline = context.calendar.session_before(first_monday)
                bars = await _fetch_benchmark_bars(context, pauses, report)
                oldest, newest = bars[0].trading_day, bars[-1].trading_day
                is_in_reach = oldest <= baseline <= newest
        finally:
            # The start is forgotten after an unexpected error, too: otherwise the next start would
            # not check the bars.
            if not is_in_reach:
                await _forget_start(pool, span)
    if newest < baseline:
        raise ConfigurationError(
            f"The bars of ALPHA_VANTAGE_BASE_URL end on {newest}, before the first baseline, "
            f"{baseline}. Choose an earlier --until, or more --weeks."
        )
    if baseline < oldest:
        raise ConfigurationError(
            f"The bars of ALPHA_VANTAGE_BASE_URL begin on {oldest}, after the first baseline, "
            f"{baseline}. Rehearse fewer weeks with --weeks, or choose a later --until."
        )


async def _forget_start(pool: pools.Pool, span: RehearsalSpan) -> None:
    """Delete what `refuse_out_of_reach` has stored for a rehearsal that does not begin."""
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM told.clock")
        # The requests have the time of the first Monday. The next rehearsal begins at the same
        # time, and would find its quota used up.
        await conn.execute("DELETE FROM operations.provider_requests WHERE at >= %s", (span.begin,))


async def _fetch_benchmark_bars(
    context: Context, pauses: Sequence[float], report: Callable[[str], None]
) -> list[Bar]:
    """
    Return the benchmark's bars.

    Raises ConfigurationError if the last attempt, after the last of `pauses`, fails too. The
    message has the reason of that attempt.
    """
    ledger, start = context.prices.ledger, monotonic()
    # The client makes one attempt per call. The pauses are made here, so that the user sees each of
    # them and their number is bounded.
    prices = AlphaVantage(
        key=context.prices.key,
        ledger=ledger,
        clock=context.clock,
        base_url=context.prices.base_url,
        attempts=1,
    )
    try:
        for attempt in itertools.count():
            try:
                answer = await prices.bars(context.benchmark, since=context.now())
                if isinstance(answer, BarsAnswer):
                    # These bars are not stored. If this request counted as answered, a job would
                    # look for the bars in the record instead of requesting them.
                    await ledger.store_failure(answer.grant, RequestOutcome.REJECTED)
                    return answer.bars
                reason = "Another process of this rehearsal sent the same request."
            except UnknownTicker as error:
                reason = f"{error} BENCHMARK_SYMBOL names it."
            except (QuotaSpent, ProviderError) as error:
                reason = str(error)
            if attempt == len(pauses):
                raise ConfigurationError(
                    "The bars of ALPHA_VANTAGE_BASE_URL could not be read, in "
                    f"{attempt + 1} attempts within {monotonic() - start:.0f} s. "
                    f"The last attempt: {reason} "
                    "Nothing was recorded. Check the address, or try again later."
                )
            report(
                f"The bars of ALPHA_VANTAGE_BASE_URL are not known yet. {reason} "
                f"Next attempt in {pauses[attempt]:.0f} s."
            )
            await _clear_pause(context)
            await context.sleep(pauses[attempt])
    finally:
        await prices.close()
    raise AssertionError("unreachable")


async def _clear_pause(context: Context) -> None:
    """
    Allow requests although the provider asked for a pause.

    Otherwise the ledger would refuse every request until the pause is over, which may be hours.
    """
    async with context.pool.connection() as conn:
        await conn.execute(
            "UPDATE operations.provider_requests SET rest_until = NULL WHERE rest_until IS NOT NULL"
        )


def clock_factory(
    span: RehearsalSpan,
) -> Callable[[pools.Pool, queue.Queue], AbstractAsyncContextManager[SimulatedClock]]:
    """Return a function that runs the rehearsal's clock in a process."""
    return lambda pool, job_queue: running_clock(
        pool, job_queue, begin=span.begin, until=span.until
    )


async def get_reached_time(settings: Settings) -> datetime | None:
    """Return the simulated time that a rehearsal has reached; None if it has not begun."""
    async with (
        pools.opened(pools.make_pool(settings.database_url)) as pool,
        pool.connection() as conn,
    ):
        if not await rehearsed.has_clock(conn):
            return None
        return await rehearsed.get_simulated_time_on_connection(conn)


async def wait_for_end(
    clock: SimulatedClock,
    span: RehearsalSpan,
    report: Callable[[datetime, datetime, datetime], None],
) -> None:
    """
    Wait until simulated time has reached its end or the present.

    `report(begin, now, end)` is called several times a second. If the clock has failed, raises its
    error.
    """
    begin, real_clock = clock.now(), RealClock()
    while not clock.finished.done():
        report(begin, clock.now(), span.until or real_clock.now())
        await asyncio.wait([clock.finished], timeout=0.1)
    clock.finished.result()
    report(begin, clock.now(), clock.now())
