"""`alpha-monday serve` and `alpha-monday work`: the service, live."""

import asyncio
import shlex
import signal

import click
import structlog
import uvloop

from app.commands import server, terminal
from app.commands.migrate import apply_migrations
from app.commands.terminal import say
from app.core import settings
from app.core.settings import Settings
from app.database import migrations, pools, rehearsed, roles
from app.database.advice import user_of
from app.database.rights import Need
from app.main import VERSION, create_app, living

log = structlog.get_logger()


@click.command()
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
    listener = server.listen(configuration)
    _make_ready(configuration, first_migrate, serves=True, works=not no_worker)
    server.run(create_app(configuration, work=not no_worker), listener)


@click.command()
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
    _make_ready(configuration, first_migrate, serves=False, works=True)
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


def _make_ready(configuration: Settings, first_migrate: bool, *, serves: bool, works: bool) -> None:
    """Refuse before anything lives what would otherwise end it with a traceback."""
    terminal.configure_log(configuration)
    address = terminal.address(configuration, make=serves)
    asyncio.run(terminal.reach(configuration, address))
    more = [*(["API_DATABASE_URL"] if serves else []), *(["MIGRATE_DATABASE_URL"] if first_migrate else [])]
    asyncio.run(terminal.refuse_two(configuration, *more))
    if not configuration.database_url:
        say(
            "DATABASE_URL is not set: the record is kept in the embedded Postgres of this folder, on this machine only."
        )
    if first_migrate:
        asyncio.run(apply_migrations(terminal.owner_address(configuration)))
    asyncio.run(_check(address))
    asyncio.run(_check_rights(configuration, address, serves=serves, works=works))


async def _check(address: str) -> None:
    async with pools.opened(pools.make_pool(address)) as pool:
        await migrations.refuse_old(address)
        await rehearsed.refuse(pool)


async def _check_rights(configuration: Settings, address: str, *, serves: bool, works: bool) -> None:
    """Refuse a user that lacks a right; say it where the user of the API may do more than read."""
    await terminal.refuse_without(configuration, address, Need.WORK if works else Need.READ_ALL)
    reader, pooled = configuration.api_database_url, configuration.database_pooled
    if not (serves and reader):
        return
    await roles.refuse_without(reader, Need.READ_RECORD, pooled=pooled)
    if await roles.more_than_reads(reader, pooled=pooled):
        say(
            f"The user {user_of(reader)} of API_DATABASE_URL may do more than read the record, so it is no boundary: "
            f"`alpha-monday roles --check --reader {shlex.quote(user_of(reader))}` says what."
        )
