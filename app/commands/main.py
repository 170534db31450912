"""
The operator's commands. Each has `--help` with an example; 0 means done, 1 refused or failed, 2 misused.

(`verify`, too: 1 is a misfit, 2 that nothing could be found out.)
"""

import asyncio
import errno
import gc
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click
import psycopg
import structlog
import uvicorn
import uvloop
from psycopg_pool import PoolTimeout

from api.cache import Cache
from app.commands import tables, terminal
from app.commands.alert import alert
from app.commands.backup import backup, restore
from app.commands.export import export
from app.commands.jobs import jobs
from app.commands.status import status
from app.commands.terminal import DAY, Commands, asynchronous, clock, local, opened, record, say, telling
from app.core import logging, settings
from app.core.settings import Settings
from app.database import migrations, pools, rehearsed
from app.database.embedded import FOLDER, EmbeddedPostgres
from app.domain import calendar, prompt, returns
from app.domain.calendar import NEW_YORK, Calendar
from app.domain.model import CHECKPOINT_DAYS, QUESTIONS_PER_MONDAY, SERIES, Batch, BatchStatus, CheckpointStatus
from app.domain.text import first_line, one_line
from app.errors import AlphaMondayError, ConfigurationError, Misfit, ProviderError, Refused
from app.main import VERSION, create_app, living
from app.ops import verify as verifying
from app.simulation import providers as played
from app.simulation import rehearsal
from app.store import batches, checkpoints, generations
from app.web.timeouts import TimeoutProtocol
from jobs import corrections, daily, picks, queue, weekly

log = structlog.get_logger()

# What uvicorn waits for requests when told to stop; the worker then has its own time to drain.
_LAST_REQUESTS = 10
_REHEARSAL_LOG = Path(".alpha-monday") / "rehearsal.log"


def main() -> None:
    """Run a command; whatever goes wrong is one clear line and an exit code."""
    try:
        sys.exit(group(prog_name="alpha-monday", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AlphaMondayError as error:
        sys.exit(f"alpha-monday: {error}")
    except psycopg.errors.LockNotAvailable:
        sys.exit(
            "alpha-monday: Somebody else held a lock that this migration needs, for ten seconds. "
            "Nothing of it was done: run it again."
        )
    except (psycopg.OperationalError, PoolTimeout) as error:
        sys.exit(f"alpha-monday: The database went away: {one_line(error)}")
    except psycopg.errors.InsufficientPrivilege as error:
        sys.exit(f"alpha-monday: {first_line(error)}. Give that right to the user of DATABASE_URL.")
    except psycopg.Error as error:
        sys.exit(f"alpha-monday: The database refused: {one_line(error)}")
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            sys.stdout = None  # what could not be written is not tried again at the end
            sys.exit(f"alpha-monday: The output could not be written: {error.strerror}")
        if error.filename is None:
            raise
        sys.exit(f"alpha-monday: {error.filename}: {error.strerror}")
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except asyncio.CancelledError:
        sys.exit(143)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION)
def group() -> None:
    """Alpha Monday: a public track record of AI stock picks.

    \b
    A first look, without keys or a database:
      alpha-monday rehearse
    """


@group.command()
@click.option("--migrate", "first_migrate", is_flag=True, help="Bring the database up to date first.")
@click.option("--no-worker", is_flag=True, help="Serve only: `alpha-monday work` runs the jobs. Needs no keys.")
def serve(first_migrate: bool, no_worker: bool) -> None:
    """Serve the API and run the jobs, live.

    \b
    Needs OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY, unless it serves only. Examples:
      alpha-monday serve --migrate
      alpha-monday serve --no-worker
    """
    configuration = settings.load()
    if not no_worker:
        settings.refuse_without_keys(configuration)
    listener = _listen(configuration)
    _make_ready(configuration, first_migrate)
    _serve(create_app(configuration, work=not no_worker), listener)


@group.command()
@click.option("--migrate", "first_migrate", is_flag=True, help="Bring the database up to date first.")
def work(first_migrate: bool) -> None:
    """Run the jobs and keep their promises, without a web server.

    Any number of these, and of `alpha-monday serve`, share one Postgres.

    \b
    Needs OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY. Example:
      alpha-monday work --migrate
    """
    configuration = settings.load()
    settings.refuse_without_keys(configuration)
    _make_ready(configuration, first_migrate)
    uvloop.run(_work(configuration))


async def _work(configuration: Settings) -> None:
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    async with living(configuration):
        log.info("alive", version=VERSION, serves=False, works=True, rehearsed=False)
        say("Working: jobs and upkeep, no web server (Ctrl-C stops)")
        await told_to_stop.wait()
        say("Stopping: running jobs are finished or put back")
        log.info("stopping")
    log.info("stopped")


@group.command()
@click.option("--down-to", type=click.IntRange(min=0), help="Take back every migration after this number.")
@click.option("--status", "only_status", is_flag=True, help="Show which migrations are applied; change nothing.")
def migrate(down_to: int | None, only_status: bool) -> None:
    """Bring the database's schema up to date, or back. Several at once are safe.

    \b
    Examples:
      alpha-monday migrate
      alpha-monday migrate --status
      alpha-monday migrate --down-to 3
    """
    address = terminal.address(settings.load())
    asyncio.run(pools.check(address))
    if not only_status:
        asyncio.run(_migrate(address, down_to))
        return
    for step in asyncio.run(migrations.status(address)):
        when = f"applied {step.applied_at:%Y-%m-%d %H:%M:%S %Z}" if step.applied_at else "not applied"
        click.echo(f"{step.number:04} {step.name}: {when}")


@group.command()
@click.option("--weeks", type=click.IntRange(1, 520), default=12, show_default=True, help="How many Mondays.")
@click.option("--until", type=DAY, help="Stop at the end of this day and serve the record as it stood.")
@click.option("--calm", is_flag=True, help="Let the providers behave.")
@click.option("--faults", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A script of faults.")
@click.option("--no-serve", is_flag=True, help="Only live through the weeks.")
def rehearse(weeks: int, until: datetime | None, calm: bool, faults: Path | None, no_serve: bool) -> None:
    """Live through past Mondays with played providers, then serve the record.

    Now and then a provider lies, as providers do; `alpha-monday standins --help` lists the faults of a script.

    \b
    Needs no keys and no database. Examples:
      alpha-monday rehearse
      alpha-monday rehearse --weeks 4 --until 2026-10-30 --no-serve
      alpha-monday rehearse --calm --faults faults.json
    """
    configuration = settings.load()
    listener = None if no_serve else _listen(configuration)
    span = rehearsal.span(weeks, until.date() if until else None, clock.now())
    address = rehearsal.database(configuration)
    _run_until_told(asyncio.run, lambda _: _migrate(address, quiet=True))
    with rehearsal.played(configuration, address, calm=calm, faults=faults) as provided:
        _run_until_told(uvloop.run, lambda obey: _rehearse(provided, span, obey))
        if listener:
            _log_to_the_terminal(configuration)
            _serve(create_app(provided, rehearsal.clock_of(span), work=span.until is None), listener)


@group.group(cls=Commands, invoke_without_command=True)
@click.pass_context
def pick(context: click.Context) -> None:
    """Make this Monday's batch by hand, or run a failed one again.

    The running service does the work; this command asks for it and waits. Refused on other days, and when this Monday
    has its picks.

    \b
    Example:
      alpha-monday pick
    """
    if context.invoked_subcommand is None:
        asyncio.run(_pick())


async def _pick() -> None:
    configuration = settings.load()
    settings.refuse_without_keys(configuration)
    run_date = calendar.run_date(clock.now())
    if run_date is None:
        following = local(calendar.next_run_at(clock.now()))
        raise Refused(f"No Monday has begun: picks are made on Mondays from nine in New York, next on {following}.")
    async with record(configuration) as pool:
        await rehearsed.refuse(pool)
        async with pools.transaction(pool) as conn:
            batch = await batches.on(conn, SERIES, run_date)
            if batch and batch.status != BatchStatus.FAILED:
                raise Refused(f"The Monday {run_date} has its picks: batch {batch.id}.")
            if on_its_way := await weekly.live_jobs(conn, run_date):
                raise Refused(f"The Monday {run_date} is on its way, in job {on_its_way[0]}.")
            if not await _a_worker_lives(conn):
                raise Refused("No worker is running that could do it. Start one with `alpha-monday serve` or `work`.")
            asked = len(await generations.of(conn, SERIES, run_date))
            again = asked if batch else 0  # only a Monday that failed gets three more
            job = await weekly.begin_again(conn, clock.now(), again + QUESTIONS_PER_MONDAY)
        say(f"Job {job} makes the batch of {run_date}; waiting for it. (Ctrl-C does not stop the job.)")
        batch = await _awaited(pool, run_date, batch, job)
        await tables.show(pool, batch)
        if batch.status == BatchStatus.FAILED:
            sys.exit(1)


@pick.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("ticker")
@click.option("--last-session", type=DAY, required=True, help="The last session on which the share traded.")
@click.option("--value", required=True, help="What a share was worth from then on, for example 54.20.")
@click.option("--source", required=True, help="Where this is known from.")
@asynchronous
async def end(run_date: datetime, ticker: str, last_session: datetime, value: str, source: str) -> None:
    """Record what became of a pick that stopped trading.

    Later days use the value, marked as ended; days that were skipped are looked at again.

    \b
    Example:
      alpha-monday pick end 2026-11-02 ABC --last-session 2026-11-06 --value 54.20 --source "8-K of 2026-11-06"
    """
    configuration = settings.load()
    try:
        price = returns.price(value, ticker, last_session.date())
    except ProviderError as error:
        raise Refused(f"--value: {error}") from None
    sessions = Calendar(configuration.market_closed_days)
    day, last = run_date.date(), last_session.date()
    async with record(configuration) as pool:
        again = await picks.end(pool, sessions, clock.now(), day, ticker, last, price, source)
    say(f"Recorded. {again} skipped days are looked at again.")


@pick.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("ticker")
@click.argument("new")
@asynchronous
async def rename(run_date: datetime, ticker: str, new: str) -> None:
    """Follow a pick to its new ticker; the journal keeps the old one.

    \b
    Example:
      alpha-monday pick rename 2026-11-02 FB META
    """
    async with record(settings.load()) as pool:
        again = await picks.rename(pool, clock.now(), run_date.date(), ticker, new)
    say(f"Recorded. {again} skipped days are looked at again.")


@group.group(cls=Commands)
def checkpoint() -> None:
    """Look at a morning again, or put its figures right.

    \b
    Examples:
      alpha-monday checkpoint retake 2026-11-02 4
      alpha-monday checkpoint correct 2026-11-02 0 MSFT --reason "The provider's first close was a misprint."
    """


@checkpoint.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("day", type=click.IntRange(0, CHECKPOINT_DAYS))
@click.argument("ticker")
@click.option("--reason", required=True, help="Why; it is published with the correction.")
@asynchronous
async def correct(run_date: datetime, day: int, ticker: str, reason: str) -> None:
    """Let a checkpoint's figures rest on the newest reading of a price; day 0 is the baseline.

    For a first reading that proved wrong: `alpha-monday closes TICKER` shows all of them. What stood there before stays
    next to it, in the record, the journal and the API.

    \b
    Example:
      alpha-monday checkpoint correct 2026-11-02 0 MSFT --reason "The provider's first close was a misprint."
    """
    async with record(settings.load()) as pool:
        corrected = await corrections.adopt(pool, clock.now(), run_date.date(), day, ticker, reason)
    say(f"Corrected: {corrected} checkpoints.")


@checkpoint.command()
@click.argument("run_date", type=DAY, metavar="RUN_DATE")
@click.argument("day", type=click.IntRange(1, CHECKPOINT_DAYS))
@asynchronous
async def retake(run_date: datetime, day: int) -> None:
    """Look again at a checkpoint that was skipped for want of prices.

    The running service does the work; this command asks for it and waits.

    \b
    Example:
      alpha-monday checkpoint retake 2026-11-02 4
    """
    async with record(settings.load()) as pool:
        async with pools.transaction(pool) as conn:
            batch = await batches.on(conn, SERIES, run_date.date())
            if batch is None:
                raise Refused(f"There is no batch of {run_date:%Y-%m-%d}.")
            if day not in {one.day for one in await checkpoints.skipped(conn, batch.id)}:
                raise Refused(f"Day {day} of {run_date:%Y-%m-%d} was not skipped for want of prices.")
            if not await _a_worker_lives(conn):
                raise Refused("No worker is running that could do it. Start one with `alpha-monday serve` or `work`.")
            due = checkpoints.Due(batch.id, batch.run_date, day)
            (job,) = await daily.defer_retakes(conn, [due], clock.now().isoformat())
        while await _lives(pool, job):
            await clock.sleep(0.5)
        async with pool.connection() as conn:
            taken = await checkpoints.at(conn, batch.id, day)
        if taken is None or taken.status == CheckpointStatus.SKIPPED:
            raise Refused(f"Day {day} stays skipped; the log of the service says why.")
        say(f"Day {day} is computed.")


@group.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def standins(arguments: tuple[str, ...]) -> None:
    """Play both providers on loopback, faults on command included: a server to test any client against.

    \b
    Example:
      alpha-monday standins --port 8090 --faults faults.json
    """
    played.main(arguments)


@group.command()
@click.argument("run_date", type=DAY, required=False, metavar="[RUN_DATE]")
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="Show the embedded rehearsal's record.")
@asynchronous
async def show(run_date: datetime | None, of_the_rehearsal: bool) -> None:
    """Print a batch as a table: the newest, or that of RUN_DATE.

    \b
    Examples:
      alpha-monday show
      alpha-monday show 2026-11-16
    """
    async with opened(settings.load(), rehearsal=of_the_rehearsal) as pool:
        async with pool.connection() as conn:
            batch = await (batches.on(conn, SERIES, run_date.date()) if run_date else batches.newest(conn, SERIES))
        if batch is None:
            raise Refused(f"There is no batch of {run_date:%Y-%m-%d}." if run_date else "There is no batch yet.")
        await tables.show(pool, batch)


@group.command("closes")
@click.argument("ticker")
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="Show the embedded rehearsal's record.")
@asynchronous
async def show_closes(ticker: str, of_the_rehearsal: bool) -> None:
    """Print every reading of a share's prices and splits; a session that was read differently has several.

    \b
    Example:
      alpha-monday closes MSFT
    """
    async with opened(settings.load(), rehearsal=of_the_rehearsal) as pool:
        await tables.show_closes(pool, prompt.in_one_form(ticker))


class HeadType(click.ParamType[tuple[int, str]]):
    """A copy of the journal's head, as `verify` prints it."""

    name = "SEQ:HASH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        """Return the entry's number and its hash."""
        told = re.fullmatch(r"0*([1-9][0-9]{0,17}):([0-9a-f]{64})", value.strip().lower())
        if told is None:
            self.fail(f"{value!r} is no head of a journal, such as 812:3f...: a number and 64 hexadecimal digits.")
        return int(told[1]), told[2]


@group.command()
@click.option("--head", type=HeadType(), help="A copy of the journal's head: the chain must hold that entry.")
@click.option("--from", "url", metavar="URL", help="Verify what the API at URL shows, instead of the database.")
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="Verify the embedded rehearsal's record.")
@asynchronous
async def verify(head: tuple[int, str] | None, url: str | None, of_the_rehearsal: bool) -> None:
    """Walk the journal's chain, compare every row of the record with it, and name the first misfit.

    Figures are computed again from their prices. Ends with the head: keep a copy, and nobody can write the journal
    anew, or cut off its tail, without `--head` telling you. docs/journal.md says what this proves.

    \b
    Exit code: 0 everything fits, 1 something does not, 2 nothing could be found out.

    \b
    Examples:
      alpha-monday verify
      alpha-monday verify --head 812:3fa2...
      alpha-monday verify --from https://alpha-monday.example
    """
    if url and of_the_rehearsal:
        raise click.UsageError("--from and --rehearsal exclude each other.")
    try:
        with telling() as tell:
            async with verifying.api(url, clock.sleep) if url else _snapshot(of_the_rehearsal) as source:
                found = await verifying.verify(source, [head] if head else [], tell)
    except Misfit:
        raise
    except (AlphaMondayError, psycopg.Error, PoolTimeout) as error:
        say(f"alpha-monday: This could not be verified. {one_line(error)}")
        sys.exit(2)
    counted = f"{found.seq:,} entries, {found.rows:,} rows, {found.known.figures:,} figures"
    click.echo(f"Everything fits: {counted}. The head: {f'{found.seq}:{found.hash}' if found.seq else 'none yet'}")


@asynccontextmanager
async def _snapshot(of_the_rehearsal: bool) -> AsyncIterator[verifying.Source]:
    """Give the record of the database as it stands."""
    configuration = settings.load()
    address = terminal.address(configuration, rehearsal=of_the_rehearsal)
    await pools.check(address)
    await terminal.refuse_old(configuration, address, rehearsal=of_the_rehearsal)
    async with verifying.database(address) as source:
        yield source


for command in (status, jobs, export, alert, backup, restore):
    group.add_command(command)
group.sorted_by = {
    "Run": ("rehearse", "serve", "work", "migrate", "db", "standins"),
    "Look": ("status", "jobs", "show", "closes", "verify", "export"),
    "Act": ("pick", "checkpoint", "alert"),
    "Keep": ("backup", "restore"),
}


@group.group(cls=Commands)
def db() -> None:
    """Start, stop or delete the embedded Postgres of this folder.

    \b
    Examples:
      export DATABASE_URL="$(alpha-monday db up)"
      alpha-monday db down
    """


@db.command()
def up() -> None:
    """Start it, until `db down`, and print its address.

    \b
    Example:
      export DATABASE_URL="$(alpha-monday db up)"
    """
    server = EmbeddedPostgres().start(outlive=True)
    click.echo(server.database("alpha_monday"))
    if not server.outlives:
        say("Another command of this folder started it, and takes it along when it ends.")


@db.command()
def down() -> None:
    """Stop it; what it holds stays.

    \b
    Example:
      alpha-monday db down
    """
    click.echo("Stopped." if EmbeddedPostgres().stop_running() else "It was not running.")


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(yes: bool) -> None:
    """Stop it and delete everything it holds, the rehearsal's record and a live one.

    \b
    Example:
      alpha-monday db reset --yes
    """
    if not yes:
        click.confirm(f"Delete everything in {FOLDER}?", abort=True)
    EmbeddedPostgres().reset()
    click.echo("Deleted.")


def _listen(configuration: Settings) -> socket.socket:
    """Take the port before anything else is done, so that a taken one is one clear line."""
    family = socket.AF_INET6 if ":" in configuration.host else socket.AF_INET
    try:
        return socket.create_server((configuration.host, configuration.port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).split(" (while")[0]
        raise ConfigurationError(
            f"Cannot listen on {configuration.host} port {configuration.port}: {reason}. "
            f"Set HOST or PORT, for example PORT={configuration.port + 1}."
        ) from None


def _make_ready(configuration: Settings, first_migrate: bool) -> None:
    """Refuse before anything lives what would otherwise end it with a traceback."""
    _log_to_the_terminal(configuration)
    address = terminal.address(configuration)
    if not configuration.database_url:
        say(
            "DATABASE_URL is not set: the record is kept in the embedded Postgres of this folder, on this machine only."
        )
    if first_migrate:
        asyncio.run(_migrate(address))
    asyncio.run(_check(address))


def _log_to_the_terminal(configuration: Settings) -> None:
    logging.configure(configuration.log_level, clock.now, configuration.keys)


async def _migrate(address: str, down_to: int | None = None, *, quiet: bool = False) -> None:
    await pools.check(address)
    done = await migrations.migrate(address, clock.now(), down_to)
    for line in done or ([] if quiet else ["The database is up to date."]):
        say(line) if quiet else click.echo(line)


async def _check(address: str) -> None:
    async with pools.opened(pools.make_pool(address)) as pool:
        await migrations.refuse_old(address)
        await rehearsed.refuse(pool)


def _serve(app: Cache, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http=TimeoutProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_REQUESTS,
    )
    server = uvicorn.Server(config)
    # From before the address is told: whoever reads it may send a signal at once. It sets a flag and raises nothing,
    # not even when uvicorn, drained, raises the signal once more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    host, port = listener.getsockname()[:2]
    say(f"Serving GraphQL at http://{host}:{port}/graphql (Ctrl-C stops)")
    # What is there by now stays to the end; looking through it stopped all requests for 60 ms, every second under load.
    gc.collect()
    gc.freeze()
    with suppress(SystemExit):  # uvicorn's word for a service that did not start
        server.run([listener])
    if not server.started:
        raise ConfigurationError("The service did not start; the log says why.")


def _run_until_told(
    run: Callable[[Coroutine[Any, Any, None]], None], work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
) -> None:
    """
    Let `run` run a work that Ctrl-C and SIGTERM cancel, so that what it started is also ended.

    What was heard is remembered, and the work is given what asks for it: `asyncio.wait_for` of Python 3.11 loses a
    cancellation that comes together with what it waits for. The loop's own handlers are called too late, or go on
    catching when it is closed, and raising out of a signal could hit any task of it.
    """
    heard: list[int] = []
    cancel: list[Callable[[], object]] = []

    def stop(number: int, _: object) -> None:
        heard.append(number)
        for one in cancel:
            one()

    def obey() -> None:
        if heard:
            raise asyncio.CancelledError

    async def stoppable() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task
        cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            obey()
            await work(obey)
        finally:
            cancel.clear()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run(stoppable())
    except asyncio.CancelledError:
        if not heard:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt if heard[0] == signal.SIGINT else asyncio.CancelledError


async def _rehearse(provided: Settings, span: rehearsal.Span, obey: Callable[[], None]) -> None:
    _REHEARSAL_LOG.parent.mkdir(exist_ok=True)
    with _REHEARSAL_LOG.open("a") as log, terminal.progress() as progress:
        told = clock
        logging.configure(provided.log_level, lambda: told.now(), provided.keys, to=log)
        await rehearsal.refuse_out_of_reach(provided, span)
        line, told_of = progress.add_task("", total=1.0), span.begin
        async with living(provided, rehearsal.clock_of(span)) as house:
            told = house.clock  # type: ignore[assignment]

            def tell(begin: datetime, now: datetime, end: datetime) -> None:
                nonlocal told_of
                obey()
                done = 1.0 if now >= end else (now - begin) / (end - begin)
                if not sys.stderr.isatty() and (monday := calendar.latest_run_date(now)) > told_of.date():
                    told_of = calendar.due_at(monday)
                    say(f"Rehearsing the week of {monday}")
                progress.update(line, completed=done, description=f"Rehearsing {now.astimezone(NEW_YORK):%a %d %b %Y}")

            await rehearsal.catch_up(house.clock, span, tell)  # type: ignore[arg-type]
            async with house.pool.connection() as conn:
                cursor = await conn.execute("SELECT count(*), min(run_date), max(run_date) FROM batches")
                count, first, last = await cursor.fetchone() or (0, None, None)
    if first and first < calendar.today(span.begin):
        say("This went on with the rehearsal that was there; `alpha-monday db reset` forgets it.")
    mondays = f"{count} Monday{'' if count == 1 else 's'}, {first} to {last}"
    say(f"Rehearsed: {mondays}. All of it is made up. Log: {_REHEARSAL_LOG}")


async def _lives(pool: pools.Pool, job: int) -> bool:
    async with pools.transaction(pool) as conn:
        cursor = await conn.execute(
            "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE id = %s AND status IN ('todo', 'doing'))", (job,)
        )
        return bool((await cursor.fetchone() or (False,))[0])


async def _a_worker_lives(conn: Any) -> bool:
    cursor = await conn.execute(
        "SELECT EXISTS (SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s))",
        (queue.STALLED_AFTER,),
    )
    return bool((await cursor.fetchone())[0])


async def _awaited(pool: pools.Pool, run_date: date, before: Batch | None, job: int) -> Batch:
    """Wait until a job has stored the batch of a Monday, or why there is none: not what stood there `before`."""
    while True:
        async with pools.transaction(pool) as conn:
            on_its_way = job in await weekly.live_jobs(conn, run_date)  # first: it stores the batch before it ends
            batch = await batches.on(conn, SERIES, run_date)
            if batch and batch != before:
                return batch
            if not on_its_way:
                raise Refused(f"Job {job} ended without a batch; its log says why.")
        await clock.sleep(1)
