"""The three roles on a database of a test, named after it; `create` drops them when the database is gone."""

import asyncio
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database import roles
from app.database.roles import Names
from app.database.sessions import Session

PASSWORD = "known"


class Roles(NamedTuple):
    """The addresses of one database: an administrator's, and one for each role."""

    admin: str
    owner: str
    service: str
    reader: str
    names: Names


def names_for(address: str) -> Names:
    """Names that no other test has: roles are the whole server's."""
    database = conninfo_to_dict(address)["dbname"]
    return Names(owner=f"{database}_owner", service=f"{database}_service", reader=f"{database}_reader")


def addresses(address: str, names: Names) -> Roles:
    """The roles' addresses; each gets its password, as an operator would give it."""
    with psycopg.connect(address, autocommit=True) as conn:
        for name in (names.owner, names.service, names.reader):
            conn.execute(f"ALTER ROLE {name} PASSWORD '{PASSWORD}'")
    return Roles(
        address,
        *(make_conninfo(address, user=name, password=PASSWORD) for name in (names.owner, names.service, names.reader)),
        names,
    )


async def applied(address: str, names: Names | None = None) -> Roles:
    """Apply the roles to a database."""
    names = names or names_for(address)
    async with await Session.connect(address, name="roles", autocommit=True) as conn, conn.transaction():
        for statement in await roles.statements(conn, names):
            await conn.execute(statement.encode())
    return await asyncio.to_thread(addresses, address, names)
