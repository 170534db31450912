"""`alpha-monday migrate`: bring the database's schema up to date, or take migrations back."""

import asyncio
from typing import Any

import click
from psycopg import AsyncConnection

from app.commands import terminal
from app.commands.terminal import clock, report
from app.core import settings
from app.database import migrations, pools
from app.database.advice import display_address
from app.database.sessions import Session
from app.errors import Refused
from app.ops.in_use import refuse_in_use


@click.command()
@click.option(
    "--down-to", type=click.IntRange(min=0), help="Take back every migration after this number."
)
@click.option("--yes", is_flag=True, help="With --down-to: do not ask before data are lost.")
@click.option(
    "--status",
    "only_status",
    is_flag=True,
    help="List the migrations and when they were applied; change nothing.",
)
def migrate(down_to: int | None, yes: bool, only_status: bool) -> None:
    """Bring the database's schema up to date, or take migrations back.

    Several processes may run it at once. It uses MIGRATE_DATABASE_URL if that is set. The user of
    the address must own the tables; if all migrations are applied, the right to read is enough. If
    `alpha-monday roles --apply` was run before, the migration of a new table also grants the rights
    to that table.

    --down-to prints the rows and values that would be lost, and asks. It is refused while a service
    uses the database. Make a backup first: a dropped table cannot be restored without one.

    \b
    Examples:
      alpha-monday migrate
      alpha-monday migrate --status
      alpha-monday migrate --down-to 3
      alpha-monday migrate --down-to 3 --yes
    """
    if only_status and down_to is not None:
        raise click.UsageError("--status and --down-to exclude each other.")
    configuration = settings.load()
    address = terminal.owner_address(configuration)
    asyncio.run(terminal.check_database(configuration, address))
    if only_status:
        _print_status(address)
        return
    # This check comes before anything is written: with a wrong MIGRATE_DATABASE_URL, another
    # database would be migrated.
    asyncio.run(terminal.refuse_different_databases(configuration, "MIGRATE_DATABASE_URL"))
    if down_to is not None:
        _take_back(address, down_to, yes=yes)
        return
    asyncio.run(apply_migrations(address))


def _print_status(address: str) -> None:
    for step in asyncio.run(migrations.status(address)):
        when = "not applied"
        if step.applied_at:
            when = f"applied {step.applied_at:%Y-%m-%d %H:%M:%S %Z}"
        click.echo(f"{step.number:04} {step.name}: {when}")


async def apply_migrations(address: str, *, quiet: bool = False) -> None:
    """
    Migrate the database, and print each step.

    With `quiet` the steps go to standard error, and if there were no steps, nothing is printed.
    """
    await pools.check(address)
    steps = await migrations.migrate(address, clock.now())
    if quiet:
        for line in steps:
            report(line)
        return
    for line in steps or ["The database is up to date."]:
        click.echo(line)


def _take_back(address: str, down_to: int, *, yes: bool) -> None:
    """Take migrations back, after the operator has seen what is lost and has agreed."""
    asyncio.run(_refuse_in_use(address))
    steps, losses = asyncio.run(migrations.preview_losses(address, down_to))
    if not steps:
        click.echo(f"Nothing to take back: the database has no migration after {down_to:04}.")
        return
    report(
        f"Migrations to take back from the database {display_address(address)}: {', '.join(steps)}."
    )
    report("These will be lost permanently:" if losses else "No row is lost.")
    for loss in losses:
        report(f"  {loss}")
    terminal.confirm("Take them back?", yes=yes)

    async def guard(conn: AsyncConnection[Any]) -> None:
        # The use of the database and the losses are checked again inside the transaction, because a
        # service may have started or written something before the operator answered.
        await refuse_in_use(conn)
        if await migrations.preview_losses_on(conn, down_to) != losses:
            raise Refused(
                "The data have changed in the meantime, so nothing was taken back. Run this again."
            )

    taken_back = migrations.migrate(address, clock.now(), down_to=down_to, guard=guard)
    for line in asyncio.run(taken_back):
        click.echo(line)


async def _refuse_in_use(address: str) -> None:
    async with await Session.connect(address, name="migrate", autocommit=True) as conn:
        await refuse_in_use(conn)
