"""Create the three roles in a test's database; the fixture `create` drops them afterwards."""

import asyncio
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database import roles
from app.database.roles import RoleNames
from app.database.sessions import Session

PASSWORD = "known"


class Roles(NamedTuple):
    """The addresses of one database: an administrator's, and one for each role."""

    admin: str
    owner: str
    service: str
    reader: str
    names: RoleNames


def names_for(address: str) -> RoleNames:
    """Return names that no other test uses, because roles belong to the whole server."""
    database = conninfo_to_dict(address)["dbname"]
    return RoleNames(
        owner=f"{database}_owner", service=f"{database}_service", reader=f"{database}_reader"
    )


def addresses(address: str, names: RoleNames) -> Roles:
    """Set a password for each role, as an operator does, and return the addresses."""
    with psycopg.connect(address, autocommit=True) as conn:
        for name in (names.owner, names.service, names.reader):
            conn.execute(f"ALTER ROLE {name} PASSWORD '{PASSWORD}'")
    return Roles(
        address,
        *(
            make_conninfo(address, user=name, password=PASSWORD)
            for name in (names.owner, names.service, names.reader)
        ),
        names,
    )


async def applied(address: str, names: RoleNames | None = None) -> Roles:
    """Create the roles in a database with their rights, and return the addresses."""
    names = names or names_for(address)
    async with (
        await Session.connect(address, name="roles", autocommit=True) as conn,
        conn.transaction(),
    ):
        for statement in await roles.grant_statements(conn, names):
            await conn.execute(statement.encode())
    return await asyncio.to_thread(addresses, address, names)
