"""`alpha-monday serve` and `alpha-monday work`: the live service."""

import asyncio
import shlex
import signal

import click
import structlog
import uvloop

from app.commands import server, terminal
from app.commands.migrate import apply_migrations
from app.commands.terminal import report
from app.core import request_quota, series_file, settings
from app.core.settings import Settings
from app.database import migrations, pools, roles
from app.database.advice import get_user
from app.database.rights import Need
from app.domain.declarations import InForce
from app.main import VERSION, create_app, open_process
from app.store import rehearsed
from jobs import in_force, start_checks

log = structlog.get_logger()


@click.command()
@click.option(
    "--migrate", "first_migrate", is_flag=True, help="Bring the database up to date first."
)
@click.option(
    "--no-worker",
    is_flag=True,
    help="Serve only; `alpha-monday work` runs the jobs. Needs no keys.",
)
def serve(first_migrate: bool, no_worker: bool) -> None:
    """Serve the API and run the jobs, live.

    \b
    Needs OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY, except with --no-worker. With SERIES_FILE, it
    needs the keys that the file names instead of OPENAI_API_KEY. Examples:
      alpha-monday serve --migrate
      alpha-monday serve --no-worker
    """
    configuration = settings.load()
    if not no_worker:
        series_file.require_service_keys(configuration)
    # The port is opened first: if it is in use, the command prints one clear line and has done
    # nothing else.
    with server.listen(configuration) as listener:
        _check_everything(configuration, first_migrate, serves=True, works=not no_worker)
        server.run(create_app(configuration, work=not no_worker), listener)


@click.command()
@click.option(
    "--migrate", "first_migrate", is_flag=True, help="Bring the database up to date first."
)
def work(first_migrate: bool) -> None:
    """Run the jobs and the reconciliation, without a web server.

    Any number of these processes, and of `alpha-monday serve`, can share one Postgres.

    \b
    Needs OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY. With SERIES_FILE, it needs the keys that the
    file names instead of OPENAI_API_KEY. Example:
      alpha-monday work --migrate
    """
    configuration = settings.load()
    series_file.require_service_keys(configuration)
    _check_everything(configuration, first_migrate, serves=False, works=True)
    uvloop.run(_work(configuration))


async def _work(configuration: Settings) -> None:
    """Run the worker until Ctrl-C or SIGTERM, then let it finish its jobs."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_process(configuration):
        log.info("alive", version=VERSION, serves=False, works=True, rehearsed=False)
        report("Working: jobs and reconciliation, no web server (Ctrl-C stops)")
        await stop.wait()
        report("Stopping: running jobs end or return to the queue")
        log.info("stopping")
    log.info("stopped")


def _check_everything(
    configuration: Settings, first_migrate: bool, *, serves: bool, works: bool
) -> None:
    """
    Check the settings' files, the database and the rights of its users before the service starts.

    With `first_migrate` the database is migrated before its schema is checked. Without these checks
    the problems that they find would end the running service with a traceback.
    """
    terminal.configure_log(configuration)
    # It reads the files of TIMESTAMP_ROOTS and SERIES_FILE, which may have mistakes.
    declared = in_force.make(configuration)
    if works:
        request_quota.require_room_for_closes(configuration)
    # Only `serve` creates an embedded Postgres: `work` in a wrong folder must leave nothing behind.
    address = terminal.database_address(configuration, create=serves)
    asyncio.run(terminal.check_database(configuration, address))
    names = []
    if serves:
        names.append("API_DATABASE_URL")
    if first_migrate:
        names.append("MIGRATE_DATABASE_URL")
    asyncio.run(terminal.refuse_different_databases(configuration, *names))
    if not configuration.database_url:
        report(
            "DATABASE_URL is not set: the record is stored in the embedded Postgres of this "
            "folder, on this machine only."
        )
    if first_migrate:
        asyncio.run(apply_migrations(terminal.owner_address(configuration)))
    asyncio.run(_check_record(address))
    asyncio.run(_check_rights(configuration, address, serves=serves, works=works))
    if works:
        asyncio.run(_check_series(configuration, address, declared))


async def _check_record(address: str) -> None:
    async with pools.opened(pools.make_pool(address)) as pool:
        await migrations.require_current(address)
        await rehearsed.refuse_rehearsal(pool)


async def _check_series(configuration: Settings, address: str, declared: InForce) -> None:
    async with pools.opened(pools.make_pool(address)) as pool:
        await start_checks.require_series(pool, configuration, declared)


async def _check_rights(
    configuration: Settings, address: str, *, serves: bool, works: bool
) -> None:
    """
    Raise ConfigurationError if a user lacks a right that the service needs.

    Prints a warning if the API's user can do more than read the record.
    """
    need = Need.WORK if works else Need.READ_ALL
    await terminal.require_rights(configuration, address, need)
    reader, pooled = configuration.api_database_url, configuration.database_pooled
    if not (serves and reader):
        return
    await roles.require_rights(reader, Need.READ_RECORD, pooled=pooled)
    if await roles.can_do_more_than_read(reader, pooled=pooled):
        user = get_user(reader)
        report(
            f"The user {user} of API_DATABASE_URL has more rights than to read the record, so this "
            "setting does not protect the record. "
            f"`alpha-monday roles --check --reader {shlex.quote(user)}` lists these rights."
        )
