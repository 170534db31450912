"""`alpha-monday db`: the embedded Postgres of this folder."""

import click

from app.commands.terminal import Commands, say
from app.database.embedded import FOLDER, EmbeddedPostgres


@click.group(cls=Commands)
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
