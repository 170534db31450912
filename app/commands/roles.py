"""`alpha-monday roles`: print, apply or check the SQL of the three roles."""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import psycopg
from psycopg import AsyncConnection

from app.commands import terminal
from app.commands.terminal import report
from app.core import settings
from app.core.locks import Lock
from app.core.settings import Settings
from app.database import pools
from app.database import roles as database_roles
from app.database.advice import display_address, quote_identifier
from app.database.rights import Role
from app.database.roles import DEFAULT_NAMES, READER_CONNECTIONS, RoleNames
from app.database.sessions import Session
from app.domain.text import first_line, pluralize
from app.errors import ConfigurationError, Refused

# The statements wait at most ten seconds for a lock. Another session, such as a backup, may lock a
# table for longer. Then the command fails, and the operator can run it again.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"


def _role_option(role: Role, description: str) -> Callable[[Any], Any]:
    return click.option(
        f"--{role}", metavar="ROLE", help=f"{description} [default: {DEFAULT_NAMES[role]}]"
    )


@click.command()
@click.option(
    "--apply", "applies", is_flag=True, help="Run the SQL on the database instead of printing it."
)
@click.option(
    "--check",
    "checks",
    is_flag=True,
    help="Compare the rights of the roles with those that they need.",
)
@_role_option(Role.OWNER, "The role that owns the tables and migrates.")
@_role_option(Role.SERVICE, "The role of `serve` and `work`.")
@_role_option(Role.READER, "The role of the API.")
@click.option(
    "--reader-connections",
    type=click.IntRange(1, 10_000),
    default=READER_CONNECTIONS,
    show_default=True,
    help="The CONNECTION LIMIT of the reader, if that role is created.",
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

    The owner migrates. The service runs the jobs: it can add rows to the record, and change only
    what jobs change. It cannot delete from the record. The reader answers the API.
    docs/operate/roles.md describes the way from one user to three.

    The SQL is made for the present state of the database of MIGRATE_DATABASE_URL, or of
    DATABASE_URL if that is not set. It contains no password: set one for each new role with psql's
    \\password. Running it twice changes nothing; a role that exists is not changed. It needs a
    superuser, or the owner of the database with the right to create roles.

    Names that an earlier run applied are the defaults of the next run.

    \b
    Exit code: 0 done; 1 refused, or --apply or --check found a difference.

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
    asyncio.run(terminal.check_database(configuration, address))
    asyncio.run(_refuse_different_databases(configuration))
    given_names = {Role.OWNER: owner, Role.SERVICE: service, Role.READER: reader}
    running = _run(
        address=address,
        given_names=given_names,
        connections=reader_connections,
        applies=applies,
        checks=checks,
    )
    asyncio.run(running)


async def _refuse_different_databases(configuration: Settings) -> None:
    """
    Refuse a MIGRATE_DATABASE_URL that leads to another database than DATABASE_URL.

    The user of DATABASE_URL may be the role that this command creates. Then this user cannot
    connect yet, and the two databases cannot be compared, so nothing is refused.
    """
    if not configuration.migrate_database_url:
        return
    try:
        await pools.check(configuration.database_url, pooled=configuration.database_pooled)
    except ConfigurationError:
        return
    await terminal.refuse_different_databases(configuration, "MIGRATE_DATABASE_URL")


async def _run(
    *,
    address: str,
    given_names: Mapping[Role, str | None],
    connections: int,
    applies: bool,
    checks: bool,
) -> None:
    async with await Session.connect(address, name="roles", autocommit=True) as conn:
        names = await _choose_names(conn, given_names)
        if applies:
            await _apply(conn, address, names=names, connections=connections)
        if applies or checks:
            await _check(conn, names)
            return
        statements = await database_roles.grant_statements(conn, names, connections)
        _print_script(statements, address, names)


async def _choose_names(
    conn: AsyncConnection[Any], given_names: Mapping[Role, str | None]
) -> RoleNames:
    """
    Return the names of the three roles.

    A role that is not in `given_names` has the name that an earlier run applied, or the default.
    """
    earlier = await database_roles.stored_names(conn) or RoleNames()
    chosen = {}
    for role, name in given_names.items():
        chosen[str(role)] = earlier.name_of(role) if name is None else name
    names = RoleNames(**chosen)
    names.refuse_invalid()
    return names


async def _apply(
    conn: AsyncConnection[Any], address: str, *, names: RoleNames, connections: int
) -> None:
    """Run the statements in one transaction, and name the roles that need a password."""
    user = await _refuse_own_role(conn, names)
    try:
        async with conn.transaction():
            await conn.execute(_LOCK_TIMEOUT)
            # No migration may run meanwhile: it would add tables that these statements do not name.
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.MIGRATIONS,))
            existing = await _existing_roles(conn)
            statements = await database_roles.grant_statements(conn, names, connections)
            for statement in statements:
                await conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{first_line(error)}, for the user {user} of the database at "
            f"{display_address(address)}. Nothing was changed. This needs a superuser, or the "
            "owner of the database with the right to create roles (CREATEROLE). "
            "`alpha-monday roles` prints the statements for an administrator's psql."
        ) from None
    except psycopg.errors.LockNotAvailable:
        raise Refused(
            "Another session locked a table for ten seconds: a long query, a backup or a "
            "migration. Nothing was changed: run it again."
        ) from None
    click.echo(f"Applied: {pluralize(len(statements), 'statement')}.")
    for role in Role:
        name = names.name_of(role)
        if name not in existing:
            report(
                f"{name} is new and has no password. In psql: \\password {quote_identifier(name)}"
            )


async def _refuse_own_role(conn: AsyncConnection[Any], names: RoleNames) -> str:
    """Return the user of the connection; raise Refused if it would take rights from itself."""
    cursor = await conn.execute(
        "SELECT rolname, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
    )
    ((user, is_superuser),) = await cursor.fetchall()
    if user in (names.service, names.reader) and not is_superuser:
        raise Refused(
            f"You are connected as {user}, which is to be the service or the reader: it cannot "
            "take rights from itself. Connect as an administrator, or choose another name."
        )
    return str(user)


async def _existing_roles(conn: AsyncConnection[Any]) -> set[str]:
    cursor = await conn.execute("SELECT rolname FROM pg_roles")
    return {name for (name,) in await cursor.fetchall()}


async def _check(conn: AsyncConnection[Any], names: RoleNames) -> None:
    differences = await database_roles.check(conn, names)
    for line in differences:
        report(line)
    if differences:
        sys.exit(1)
    click.echo(
        f"{names.owner}, {names.service} and {names.reader} have the rights that they need, "
        "and no others."
    )


def _print_script(statements: Sequence[str], address: str, names: RoleNames) -> None:
    """Print the statements as a script for psql, in one transaction."""
    click.echo(
        f"-- The roles of Alpha Monday in the database {display_address(address)}, "
        "as `alpha-monday roles --apply` makes them."
    )
    click.echo("-- Run it as a superuser with psql; running it twice changes nothing.")
    for role in Role:
        name = quote_identifier(names.name_of(role))
        click.echo(f"-- A new role has no password. Afterwards, in psql: \\password {name}")
    click.echo("BEGIN;")
    for statement in [_LOCK_TIMEOUT, *statements]:
        click.echo(f"{statement};")
    click.echo("COMMIT;")
