"""`alpha-monday migrate`: the database's schema, up to date or back."""

import asyncio

import click

from app.commands import terminal
from app.commands.terminal import clock, say
from app.core import settings
from app.database import migrations, pools


@click.command()
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
        asyncio.run(apply_migrations(address, down_to))
        return
    for step in asyncio.run(migrations.status(address)):
        when = f"applied {step.applied_at:%Y-%m-%d %H:%M:%S %Z}" if step.applied_at else "not applied"
        click.echo(f"{step.number:04} {step.name}: {when}")


async def apply_migrations(address: str, down_to: int | None = None, *, quiet: bool = False) -> None:
    """Migrate the database and print each step; with `quiet`, beside the output, and only what was done."""
    await pools.check(address)
    done = await migrations.migrate(address, clock.now(), down_to)
    for line in done or ([] if quiet else ["The database is up to date."]):
        say(line) if quiet else click.echo(line)
