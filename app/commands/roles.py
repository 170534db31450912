"""`alpha-monday roles`: the SQL of the three roles, printed, applied, or compared with a database."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import psycopg
from psycopg import AsyncConnection

from app.commands import terminal
from app.commands.terminal import say
from app.core import settings
from app.core.locks import Lock
from app.core.settings import Settings
from app.database import pools
from app.database import roles as the_roles
from app.database.advice import quoted, where
from app.database.rights import Kind
from app.database.roles import DEFAULTS, READER_CONNECTIONS, Names
from app.database.sessions import Session
from app.domain.text import counted, first_line
from app.errors import ConfigurationError, Refused

# Another session may hold a table for longer, such as a backup; then it is better to try again.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"


def _name(kind: Kind, what: str) -> Callable[[Any], Any]:
    return click.option(f"--{kind}", metavar="ROLE", help=f"{what} [default: {DEFAULTS[kind]}]")


@click.command()
@click.option("--apply", "applies", is_flag=True, help="Run the SQL on the database instead of printing it.")
@click.option("--check", "checks", is_flag=True, help="Compare the roles of the database with their rights.")
@_name(Kind.OWNER, "The role that owns the tables and migrates.")
@_name(Kind.SERVICE, "The role of `serve` and `work`.")
@_name(Kind.READER, "The role of the API.")
@click.option(
    "--reader-connections",
    type=click.IntRange(1, 10_000),
    default=READER_CONNECTIONS,
    show_default=True,
    help="The CONNECTION LIMIT of the reader, where it is made.",
)
def roles(
    applies: bool,
    checks: bool,
    owner: str | None,
    service: str | None,
    reader: str | None,
    reader_connections: int,
) -> None:
    """Print the SQL of three roles with no more rights than each needs: owner, service and reader.

    The owner migrates. The service runs the jobs: it adds to the record, and can neither delete from it nor change what
    no job changes. The reader answers the API. docs/operate/roles.md has the way from one user to three.

    The text is for the database of MIGRATE_DATABASE_URL, or else of DATABASE_URL, as it stands. It holds no password:
    give each new role one with psql's \\password. Running it twice changes nothing; a role that exists is taken as it
    is. Needs a superuser, or the owner of the database that may also create roles.

    Names that an earlier run applied are the defaults of the next one.

    \b
    Exit code: 0 done, or --check found nothing; 1 refused, or the roles differ from their rights.

    \b
    Examples:
      alpha-monday roles | psql postgresql://postgres@localhost/alpha_monday
      alpha-monday roles --apply
      alpha-monday roles --apply --owner fly-user
      alpha-monday roles --check
    """
    if applies and checks:
        raise click.UsageError("--apply and --check exclude each other.")
    configuration = settings.load()
    address = terminal.owner_address(configuration)
    asyncio.run(terminal.reach(configuration, address))
    asyncio.run(_refuse_another_database(configuration))
    given = {Kind.OWNER: owner, Kind.SERVICE: service, Kind.READER: reader}
    asyncio.run(_run(address, given, reader_connections, applies=applies, checks=checks))


async def _refuse_another_database(configuration: Settings) -> None:
    """Refuse a MIGRATE_DATABASE_URL of another database, unless the user of DATABASE_URL is yet to be made."""
    if not configuration.migrate_database_url:
        return
    try:
        await pools.check(configuration.database_url, pooled=configuration.database_pooled)
    except ConfigurationError:
        return
    await terminal.refuse_two(configuration, "MIGRATE_DATABASE_URL")


async def _run(address: str, given: dict[Kind, str | None], connections: int, *, applies: bool, checks: bool) -> None:
    async with await Session.connect(address, name="roles", autocommit=True) as conn:
        names = await _chosen(conn, given)
        if applies:
            await _apply(conn, address, names, connections)
            checks = True
        if checks:
            await _check(conn, names)
            return
        _print(await the_roles.statements(conn, names, connections), address, names)


async def _chosen(conn: AsyncConnection[Any], given: dict[Kind, str | None]) -> Names:
    """Return the names that are given, and for the others those that were applied before, or the defaults."""
    before = await the_roles.stored_names(conn) or Names()
    chosen = {str(kind): before.of(kind) if name is None else name for kind, name in given.items()}
    names = Names(**chosen)
    names.refuse_unfit()
    return names


async def _apply(conn: AsyncConnection[Any], address: str, names: Names, connections: int) -> None:
    ((user, is_superuser),) = await (
        await conn.execute("SELECT rolname, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
    ).fetchall()
    if user in (names.service, names.reader) and not is_superuser:
        raise Refused(
            f"You are connected as {user}, which is to be the service or the reader: it cannot take rights from "
            "itself. Connect as an administrator, or choose another name."
        )
    try:
        async with conn.transaction():
            await conn.execute(_LOCK_TIMEOUT)
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.MIGRATIONS,))
            known = {name for (name,) in await (await conn.execute("SELECT rolname FROM pg_roles")).fetchall()}
            statements = await the_roles.statements(conn, names, connections)
            for statement in statements:
                await conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{first_line(error)}, for the user {user} of the database at {where(address)}. Nothing was changed. This "
            "needs a superuser, or the owner of the database that may also create roles (CREATEROLE). "
            "`alpha-monday roles` prints the statements for an administrator's psql."
        ) from None
    except psycopg.errors.LockNotAvailable:
        raise Refused(
            "Another session held a table for ten seconds: a long query, a backup or a migration. Nothing was changed: "
            "run it again."
        ) from None
    click.echo(f"Applied: {counted(len(statements), 'statement')}.")
    for kind in Kind:
        if names.of(kind) not in known:
            say(f"{names.of(kind)} is new and has no password. In psql: \\password {quoted(names.of(kind))}")


async def _check(conn: AsyncConnection[Any], names: Names) -> None:
    found = await the_roles.check(conn, names)
    for line in found:
        say(line)
    if found:
        sys.exit(1)
    click.echo(f"{names.owner}, {names.service} and {names.reader} have the rights that they need, and no others.")


def _print(statements: Sequence[str], address: str, names: Names) -> None:
    """Print the statements as a script for psql, in one transaction."""
    click.echo(
        f"-- The roles of Alpha Monday in the database {where(address)}, as `alpha-monday roles --apply` makes them."
    )
    click.echo("-- Run it as a superuser with psql; running it twice changes nothing.")
    for kind in Kind:
        click.echo(f"-- A new role has no password. Afterwards, in psql: \\password {quoted(names.of(kind))}")
    click.echo("BEGIN;")
    for statement in [_LOCK_TIMEOUT, *statements]:
        click.echo(f"{statement};")
    click.echo("COMMIT;")
