"""`alpha-monday serve` and `alpha-monday work`: the service, live."""

import asyncio
import signal

import click
import structlog
import uvloop

from app.commands import server, terminal
from app.commands.migrate import apply_migrations
from app.commands.terminal import say
from app.core import settings
from app.core.settings import Settings
from app.database import migrations, pools, rehearsed
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
    _make_ready(configuration, first_migrate, make=True)
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
    _make_ready(configuration, first_migrate, make=False)
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


def _make_ready(configuration: Settings, first_migrate: bool, *, make: bool) -> None:
    """Refuse before anything lives what would otherwise end it with a traceback."""
    terminal.configure_log(configuration)
    address = terminal.address(configuration, make=make)
    asyncio.run(terminal.reach(configuration, address))
    asyncio.run(terminal.refuse_two(configuration))
    if not configuration.database_url:
        say(
            "DATABASE_URL is not set: the record is kept in the embedded Postgres of this folder, on this machine only."
        )
    if first_migrate:
        asyncio.run(apply_migrations(address))
    asyncio.run(_check(address))


async def _check(address: str) -> None:
    async with pools.opened(pools.make_pool(address)) as pool:
        await migrations.refuse_old(address)
        await rehearsed.refuse(pool)
