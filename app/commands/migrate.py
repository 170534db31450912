"""`alpha-monday migrate`: the database's schema, up to date or back."""

import asyncio
from typing import Any

import click
from psycopg import AsyncConnection

from app.commands import terminal
from app.commands.terminal import clock, say
from app.core import settings
from app.database import migrations, pools
from app.database.advice import where
from app.database.sessions import Session
from app.errors import Refused
from app.ops.in_use import refuse_in_use


@click.command()
@click.option("--down-to", type=click.IntRange(min=0), help="Take back every migration after this number.")
@click.option("--yes", is_flag=True, help="With --down-to: do not ask before data is lost.")
@click.option("--status", "only_status", is_flag=True, help="Show which migrations are applied; change nothing.")
def migrate(down_to: int | None, yes: bool, only_status: bool) -> None:
    """Bring the database's schema up to date, or back. Several at once are safe.

    Runs as the user of MIGRATE_DATABASE_URL where that is set, which owns the tables. Where nothing is to be done, no
    right is needed but to read. Where `alpha-monday roles --apply` was run, new tables get their rights with the
    migration that makes them.

    --down-to names the rows and values that would be lost, and asks. It is refused while a service runs on the
    database. Take a backup first: what is dropped does not come back.

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
    asyncio.run(terminal.reach(configuration, address))
    if not only_status:
        asyncio.run(terminal.refuse_two(configuration, "MIGRATE_DATABASE_URL"))
    if down_to is not None:
        _take_back(address, down_to, yes=yes)
        return
    if not only_status:
        asyncio.run(apply_migrations(address))
        return
    for step in asyncio.run(migrations.status(address)):
        when = f"applied {step.applied_at:%Y-%m-%d %H:%M:%S %Z}" if step.applied_at else "not applied"
        click.echo(f"{step.number:04} {step.name}: {when}")


async def apply_migrations(address: str, *, quiet: bool = False) -> None:
    """Migrate the database and print each step; with `quiet`, beside the output, and only what was done."""
    await pools.check(address)
    done = await migrations.migrate(address, clock.now())
    for line in done or ([] if quiet else ["The database is up to date."]):
        say(line) if quiet else click.echo(line)


def _take_back(address: str, down_to: int, *, yes: bool) -> None:
    """Take migrations back, once it is said what is lost with them and a person has agreed."""
    asyncio.run(_refuse_in_use(address))
    steps, lost = asyncio.run(migrations.losses(address, down_to))
    if not steps:
        click.echo(f"Nothing is to be taken back: the database has no migration after {down_to:04}.")
        return
    say(f"To be taken back from the database {where(address)}: {', '.join(steps)}.")
    say("Lost with them, for good:" if lost else "No row is lost.")
    for loss in lost:
        say(f"  {loss}")
    terminal.confirm("Take them back?", yes=yes)

    async def guard(conn: AsyncConnection[Any]) -> None:
        await refuse_in_use(conn)
        if await migrations.losses_on(conn, down_to) != lost:
            raise Refused("The database was written to meanwhile, so nothing was taken back. Run this again.")

    for line in asyncio.run(migrations.migrate(address, clock.now(), down_to, guard)):
        click.echo(line)


async def _refuse_in_use(address: str) -> None:
    async with await Session.connect(address, name="migrate", autocommit=True) as conn:
        await refuse_in_use(conn)
