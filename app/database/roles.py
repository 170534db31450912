"""
The three roles in a database: the SQL that grants their rights, and checks of a user's rights.

`grant_statements` reads the catalogue and returns what `alpha-monday roles` prints or applies.
Running the statements a second time changes nothing. `regrant` runs those of the statements that
need no administrator: `alpha-monday migrate` calls it after each migration, so that the roles get
their rights on a new table.
`missing_grants` compares the rights of a connection's user with those that a command needs, before
the command begins.

Roles belong to the whole cluster, so no migration creates them. Their names are stored in
`operations.roles`, which only the owner can read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from msgspec import Struct
from psycopg import AsyncConnection, sql

from app.database import rights
from app.database.advice import display_address, quote_identifier
from app.database.catalogue import (
    Catalogue,
    Function,
    Right,
    Table,
    fetch,
    read_catalogue,
    read_rights,
)
from app.database.rights import Need, Role
from app.database.sessions import SEARCH_PATH, PooledSession, Session
from app.domain.text import pluralize
from app.errors import ConfigurationError, Refused

# The reader's limit of connections. It prevents the reader from taking connections that the service
# needs. By default, each process that serves requests uses up to eight for queries and three for
# exports. During a deployment two such processes run, and commands need some connections, too.
READER_CONNECTIONS = 40

DEFAULT_NAMES = {role: f"alpha_monday_{role}" for role in Role}

# Postgres's limit on the length of a name, in bytes.
_MAX_NAME_BYTES = 63
_RESERVED_NAMES = frozenset({"public", "none", "current_user", "session_user", "current_role"})

# From this version of Postgres on, a member of a role may SET ROLE to it only if the membership was
# granted with the option SET.
_FIRST_WITH_SET_OPTION = 160_000

# Predefined roles of Postgres: their members can do more than any grant here allows.
_POWERFUL_ROLES = (
    "pg_write_all_data",
    "pg_execute_server_program",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_maintain",
)

_CREATE_NAMES_TABLE = (
    "CREATE TABLE IF NOT EXISTS operations.roles (kind text PRIMARY KEY, name text NOT NULL)"
)

# The order of GRANT statements by the kind of object: without USAGE on its schema, a right on a
# table is useless.
_OBJECT_KINDS = ("DATABASE", "SCHEMA", "TABLE", "SEQUENCE", "FUNCTION")

# For each need, what a command with this need does. The text completes the sentence "The user
# cannot ...".
_PURPOSES: Mapping[Need, str] = {
    Need.READ_RECORD: "read the record",
    Need.READ_ALL: "read the record, the queue and the service's own tables",
    Need.WORK: "run the jobs",
}


class RoleNames(Struct, frozen=True):
    """The names of the three roles."""

    owner: str = DEFAULT_NAMES[Role.OWNER]
    service: str = DEFAULT_NAMES[Role.SERVICE]
    reader: str = DEFAULT_NAMES[Role.READER]

    def name_of(self, role: Role) -> str:
        """Return the name of one role."""
        return str(getattr(self, role))

    def all(self) -> list[str]:
        """Return the names of all roles: owner, service, reader."""
        return [self.name_of(role) for role in Role]

    def refuse_invalid(self) -> None:
        """Raise Refused if Postgres does not accept a name, or if two names are the same."""
        for role in Role:
            name = self.name_of(role)
            is_too_long = len(name.encode()) > _MAX_NAME_BYTES
            if not name.strip() or not name.isprintable() or is_too_long:
                raise Refused(
                    f"--{role} takes the name of a role, of at most {_MAX_NAME_BYTES} bytes and "
                    "without unprintable characters."
                )
            if name.lower() in _RESERVED_NAMES or name.lower().startswith("pg_"):
                raise Refused(
                    f"--{role} cannot be {name}: Postgres reserves that name. Choose another."
                )
        if len(set(self.all())) < len(Role):
            raise Refused("--owner, --service and --reader must be three different roles.")


async def stored_names(conn: AsyncConnection[Any]) -> RoleNames | None:
    """
    Return the names that `alpha-monday roles --apply` stored.

    Return None if the command never ran on this database, or if the current user may not read the
    names.
    """
    cursor = await conn.execute(
        """
        SELECT has_schema_privilege(pg_namespace.oid, 'USAGE')
            AND has_table_privilege(pg_class.oid, 'SELECT')
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = 'operations' AND relname = 'roles'
        """
    )
    if await cursor.fetchone() != (True,):
        return None
    names = dict(await fetch(conn, "SELECT kind, name FROM operations.roles"))
    if set(names) != set(Role):
        return None
    return RoleNames(**names)


# The SQL that grants the rights


async def grant_statements(
    conn: AsyncConnection[Any], names: RoleNames, connections: int = READER_CONNECTIONS
) -> list[str]:
    """
    Return the statements that give the three roles their rights in this database.

    They are meant for one transaction. They create the roles that do not exist; `connections` is
    the reader's limit of connections. A former owner of the tables becomes a member of the
    service's role: a service may still run as that user, and must continue to work. A superuser and
    the current user do not become members.
    """
    await conn.execute(f"SET search_path = {SEARCH_PATH}".encode())
    catalogue = await read_catalogue(conn)
    former = await stored_names(conn)
    existing = await _list_roles(conn)
    obsolete: list[str] = []
    if former:
        obsolete = sorted({former.service, former.reader} & existing - set(names.all()))
    membership_in_owner = await _join_owner(conn, catalogue, names)
    former_owners = await _list_former_owners(conn, catalogue, names)
    stored = [
        f"INSERT INTO operations.roles (kind, name) "
        f"VALUES ('{role}', {_literal(names.name_of(role))}) "
        "ON CONFLICT (kind) DO UPDATE SET name = excluded.name"
        for role in Role
    ]
    service = quote_identifier(names.service)
    return [
        # The search path decides whether Postgres writes the name of a type with its schema. The
        # names in the statements were read with this path, so the statements need it, too.
        f"SET LOCAL search_path = {SEARCH_PATH}",
        *_create_roles(names, connections),
        *membership_in_owner,
        *_grants_on_database(catalogue, names, former_owners=former_owners, obsolete=obsolete),
        *_grants_on_schemas(catalogue, names, obsolete),
        *_change_owner(catalogue, names.owner),
        _CREATE_NAMES_TABLE,
        f"ALTER TABLE operations.roles OWNER TO {quote_identifier(names.owner)}",
        *stored,
        "REVOKE ALL ON TABLE operations.roles "
        f"FROM PUBLIC, {_name_list([names.service, names.reader])}",
        *_grants_on_objects(catalogue, names, obsolete),
        *(f"GRANT {service} TO {quote_identifier(name)}" for name in former_owners),
    ]


async def _list_roles(conn: AsyncConnection[Any]) -> set[str]:
    rows = await fetch(conn, "SELECT rolname FROM pg_catalog.pg_roles")
    return {name for (name,) in rows}


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()


def _name_list(names: Iterable[str]) -> str:
    return ", ".join(map(quote_identifier, names))


def _create_roles(names: RoleNames, connections: int) -> Iterator[str]:
    for role in Role:
        name = names.name_of(role)
        limit = ""
        if role == Role.READER:
            limit = f" CONNECTION LIMIT {connections}"
        body = (
            "BEGIN IF NOT EXISTS "
            f"(SELECT FROM pg_catalog.pg_roles WHERE rolname = {_literal(name)}) "
            f"THEN CREATE ROLE {quote_identifier(name)} LOGIN{limit}; END IF; END"
        )
        # The body is a literal: inside dollar quotes ($$...$$), a name with $$ would end the body.
        yield f"DO {_literal(body)}"


async def _join_owner(
    conn: AsyncConnection[Any], catalogue: Catalogue, names: RoleNames
) -> list[str]:
    """
    Return the statement that makes the current user a member of the owner's role, if needed.

    Only a superuser or a member of that role can make it the owner of the tables.
    """
    if catalogue.is_superuser or catalogue.user in names.all():
        return []
    # From Postgres 16 on, a user who created a role is a member of it, but may not SET ROLE to it
    # yet.
    privilege = "MEMBER"
    if conn.info.server_version >= _FIRST_WITH_SET_OPTION:
        privilege = "SET"
    is_member = await fetch(
        conn,
        f"SELECT FROM pg_catalog.pg_roles WHERE rolname = %s AND pg_has_role(oid, '{privilege}')",
        (names.owner,),
    )
    if is_member:
        return []
    return [f"GRANT {quote_identifier(names.owner)} TO {quote_identifier(catalogue.user)}"]


async def _list_former_owners(
    conn: AsyncConnection[Any], catalogue: Catalogue, names: RoleNames
) -> list[str]:
    """
    Return the users who own tables now and will not own them after the statements have run.

    Superusers and the current user are not returned.
    """
    replaced_owners = catalogue.table_owners() - set(names.all()) - {catalogue.user}
    rows = await fetch(
        conn,
        "SELECT rolname FROM pg_catalog.pg_roles "
        "WHERE rolname = ANY(%s) AND NOT rolsuper ORDER BY 1",
        (list(replaced_owners),),
    )
    return [name for (name,) in rows]


def _grants_on_database(
    catalogue: Catalogue, names: RoleNames, former_owners: Sequence[str], obsolete: Sequence[str]
) -> Iterator[str]:
    database = quote_identifier(catalogue.database)
    also_connecting = {*former_owners}
    if not catalogue.is_superuser:
        also_connecting.add(catalogue.user)
    connecting = [*names.all(), *sorted(also_connecting - set(names.all()))]
    # By default, every role of the cluster can connect, take our advisory locks, and create
    # temporary tables.
    yield f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC"
    revoked = [names.service, names.reader, *obsolete]
    yield f"REVOKE ALL ON DATABASE {database} FROM {_name_list(revoked)}"
    yield f"GRANT CONNECT ON DATABASE {database} TO {_name_list(connecting)}"
    # Migrations create schemas.
    yield f"GRANT CREATE ON DATABASE {database} TO {quote_identifier(names.owner)}"


def _grants_on_schemas(
    catalogue: Catalogue, names: RoleNames, obsolete: Sequence[str]
) -> Iterator[str]:
    owner = quote_identifier(names.owner)
    revoked = _name_list([names.service, names.reader, *obsolete])
    # A user with the right CREATE could create a function or a table in this schema, and statements
    # would use it instead of ours or of Postgres's own.
    yield f"REVOKE CREATE ON SCHEMA public FROM PUBLIC, {revoked}"
    yield f"GRANT USAGE ON SCHEMA public TO {_name_list([names.service, names.reader])}"
    yield f"GRANT USAGE, CREATE ON SCHEMA public TO {owner}"
    if "operations" not in catalogue.schemas:
        yield f"CREATE SCHEMA operations AUTHORIZATION {owner}"
    for schema in rights.OWN_SCHEMAS:
        if schema in catalogue.schemas and catalogue.schemas[schema] != names.owner:
            yield f"ALTER SCHEMA {quote_identifier(schema)} OWNER TO {owner}"


def _change_owner(catalogue: Catalogue, owner: str) -> Iterator[str]:
    """
    Yield the statements that make a role the owner of our objects.

    The indexes and sequences of a table change their owner together with the table.
    """
    new_owner = quote_identifier(owner)
    for table in catalogue.tables:
        if table.owner != owner:
            yield f"ALTER TABLE {table.object} OWNER TO {new_owner}"
    for name, current_owner in catalogue.types.items():
        if current_owner != owner:
            yield f"ALTER TYPE {name} OWNER TO {new_owner}"
    for function in catalogue.functions:
        if function.owner != owner:
            yield f"ALTER FUNCTION {function.object} OWNER TO {new_owner}"


def _grants_on_objects(
    catalogue: Catalogue, names: RoleNames, obsolete: Sequence[str] = ()
) -> Iterator[str]:
    """
    Yield the statements that give the service and the reader their rights on our objects.

    On each object, all rights of these two roles, of PUBLIC and of the roles `obsolete` are revoked
    first. Then the rights of `app.database.rights` are granted.
    """
    revoked = f"PUBLIC, {_name_list([names.service, names.reader, *obsolete])}"
    service = quote_identifier(names.service)
    for schema in rights.OWN_SCHEMAS:
        if schema not in {*catalogue.schemas, "operations"}:
            continue
        yield f"REVOKE ALL ON SCHEMA {quote_identifier(schema)} FROM {revoked}"
        users = [names.service, names.reader]
        if schema == rights.QUEUE_SCHEMA:
            users = [names.service]
        yield f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {_name_list(users)}"
    for table in catalogue.tables:
        yield f"REVOKE ALL ON TABLE {table.object} FROM {revoked}"
        for role in (Role.SERVICE, Role.READER):
            yield from _grants_on_table(table, role, names.name_of(role))
    for sequence in catalogue.sequences:
        yield f"REVOKE ALL ON SEQUENCE {sequence} FROM {revoked}"
        yield f"GRANT USAGE ON SEQUENCE {sequence} TO {service}"
    for function in catalogue.functions:
        yield f"REVOKE ALL ON FUNCTION {function.object} FROM {revoked}"
        callers = [names.name_of(role) for role in _callers(function)]
        if callers:
            yield f"GRANT EXECUTE ON FUNCTION {function.object} TO {_name_list(callers)}"
        if function.schema == rights.SHARED_SCHEMA:
            yield f"ALTER FUNCTION {function.object} SET search_path = {rights.FUNCTION_PATH}"


def _grants_on_table(table: Table, role: Role, name: str) -> Iterator[str]:
    table_rights = rights.rights_on(table.schema, table.name)
    if table_rights is None:
        return
    grants = rights.grants_for_role(role, table_rights)
    granted = [*grants.whole]
    # The schema may be of an older or newer version, in which a column does not exist.
    columns = [column for column in grants.updates if column in table.columns]
    if columns:
        granted.append(f"UPDATE ({_name_list(columns)})")
    if granted:
        yield f"GRANT {', '.join(granted)} ON TABLE {table.object} TO {quote_identifier(name)}"


def _callers(function: Function) -> Sequence[Role]:
    """Return the roles that may call a function."""
    if function.schema == rights.QUEUE_SCHEMA:
        return (Role.SERVICE,)
    return rights.FUNCTIONS.get(function.name, ())


async def regrant(conn: AsyncConnection[Any]) -> None:
    """
    Grant the roles their rights on the objects that a migration has created.

    If no names are stored, or a role with such a name does not exist, nothing is granted.
    """
    names = await stored_names(conn)
    if names is None:
        return
    # The roles may have been dropped, or this database is a copy in another cluster.
    if not set(names.all()) <= await _list_roles(conn):
        return
    catalogue = await read_catalogue(conn)
    owner = quote_identifier(names.owner)
    schemas = [
        schema
        for schema in rights.OWN_SCHEMAS
        if catalogue.schemas.get(schema, names.owner) != names.owner
    ]
    statements = [
        *(f"ALTER SCHEMA {quote_identifier(schema)} OWNER TO {owner}" for schema in schemas),
        *_change_owner(catalogue, names.owner),
        *_grants_on_objects(catalogue, names),
    ]
    for statement in statements:
        await conn.execute(statement.encode())


# Checks of a user's rights


def _needed_rights(catalogue: Catalogue, need: Need) -> set[Right]:
    """Return the rights that a command needs on the objects that exist."""
    schemas = {rights.SHARED_SCHEMA, "operations"}
    if need != Need.READ_RECORD:
        schemas.add(rights.QUEUE_SCHEMA)
    needed = {Right("SCHEMA", schema, "USAGE") for schema in schemas & set(catalogue.schemas)}
    for table in catalogue.tables:
        table_rights = rights.rights_on(table.schema, table.name)
        # A right on the simulated clock is allowed (see `_allowed_rights`), but not needed.
        if table_rights is None or table.schema == rights.CLOCK_SCHEMA:
            continue
        grants = rights.grants_for_need(need, table_rights)
        needed.update(Right("TABLE", table.object, right) for right in grants.whole)
        needed.update(
            Right(kind="TABLE", object=table.object, right="UPDATE", column=column)
            for column in grants.updates
            if column in table.columns
        )
    caller = Role.READER
    if need == Need.WORK:
        caller = Role.SERVICE
        needed.update(Right("SEQUENCE", name, "USAGE") for name in catalogue.sequences)
    needed.update(
        Right("FUNCTION", function.object, "EXECUTE")
        for function in catalogue.functions
        if caller in _callers(function)
    )
    return needed


def _allowed_rights(catalogue: Catalogue, role: Role) -> set[Right]:
    """Return all rights that the service or the reader should have on the objects that exist."""
    need = Need.READ_RECORD
    if role == Role.SERVICE:
        need = Need.WORK
    allowed = _needed_rights(catalogue, need)
    allowed.add(Right("DATABASE", quote_identifier(catalogue.database), "CONNECT"))
    if rights.CLOCK_SCHEMA in catalogue.schemas:
        allowed.add(Right("SCHEMA", rights.CLOCK_SCHEMA, "USAGE"))
    for table in catalogue.tables:
        table_rights = rights.rights_on(table.schema, table.name) or rights.TableRights()
        for right in rights.grants_for_role(role, table_rights).whole:
            allowed.add(Right("TABLE", table.object, right))
            # A right on the whole table includes each of its columns.
            allowed.update(
                Right(kind="TABLE", object=table.object, right=right, column=column)
                for column in table.columns
            )
    return allowed


async def missing_grants(conn: AsyncConnection[Any], need: Need) -> list[str]:
    """Return the statements that grant the user of `conn` the rights that it lacks for `need`."""
    catalogue = await read_catalogue(conn)
    missing = _needed_rights(catalogue, need) - await read_rights(conn, catalogue, catalogue.user)
    return _grants_to_user(missing, catalogue.user)


def _grants_to_user(missing: Iterable[Right], user: str) -> list[str]:
    """Return the statements that grant rights to a user, one for each object, schemas first."""
    in_order = sorted(
        missing,
        key=lambda right: (
            _OBJECT_KINDS.index(right.kind),
            right.object,
            right.column,
            right.right,
        ),
    )
    statements = []
    for (kind, object_), group in groupby(in_order, key=lambda right: right.target):
        of_object = list(group)
        granted = [right.right for right in of_object if not right.column]
        columns = [right.column for right in of_object if right.column]
        if columns:
            granted.append(f"UPDATE ({_name_list(columns)})")
        statements.append(
            f"GRANT {', '.join(granted)} ON {kind} {object_} TO {quote_identifier(user)};"
        )
    return statements


async def excess_rights(conn: AsyncConnection[Any], role: Role, name: str) -> list[str]:
    """Return a sentence about each right that a user has beyond those of `role`."""
    catalogue = await read_catalogue(conn)
    held = await read_rights(conn, catalogue, name)
    return await _describe_excess(
        conn, catalogue, name, allowed=_allowed_rights(catalogue, role), held=held
    )


async def _describe_excess(
    conn: AsyncConnection[Any],
    catalogue: Catalogue,
    name: str,
    *,
    allowed: set[Right],
    held: set[Right],
) -> list[str]:
    attributes = await _excess_attributes(conn, name)
    lines = [
        f"{name} has {attribute}. Remove it with ALTER ROLE {quote_identifier(name)} NO{attribute};"
        for attribute in attributes
    ]
    # A superuser has every other right, too, so no other right is described.
    if "SUPERUSER" in attributes:
        return lines

    lines += [
        f"{name} is a member of {role}. End this with "
        f"REVOKE {quote_identifier(role)} FROM {quote_identifier(name)};"
        for role in await _excess_memberships(conn, catalogue, name)
    ]
    owned = [table.object for table in catalogue.tables if table.owner == name]
    if owned:
        lines.append(
            f"{name} owns {pluralize(len(owned), 'table')}, for example {owned[0]}: an owner has "
            "every right."
        )
        return lines

    # A right on several columns is named once, like a right on the whole table.
    excess = {right._replace(column="") for right in held - allowed}
    for (kind, object_), group in groupby(sorted(excess), key=lambda right: right.target):
        names = ", ".join(right.right for right in group)
        lines.append(
            f"{name} has {names} on the {kind.lower()} {object_}, granted to it, to a role of "
            "which it is a member, or to PUBLIC."
        )
    return lines


async def _excess_attributes(conn: AsyncConnection[Any], name: str) -> list[str]:
    """
    Return the attributes that a role has although the service and the reader must not have them.

    Each attribute is named as in ALTER ROLE.
    """
    ((is_superuser, makes_roles, makes_databases, replicates, bypasses),) = await fetch(
        conn,
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls "
        "FROM pg_catalog.pg_roles WHERE rolname = %s",
        (name,),
    )
    attributes = {
        "SUPERUSER": is_superuser,
        "CREATEROLE": makes_roles,
        "CREATEDB": makes_databases,
        "REPLICATION": replicates,
        "BYPASSRLS": bypasses,
    }
    return [attribute for attribute, is_set in attributes.items() if is_set]


async def _excess_memberships(
    conn: AsyncConnection[Any], catalogue: Catalogue, name: str
) -> list[str]:
    """
    Return the roles that give their member `name` too many rights.

    They are superusers, the owners of our tables and some predefined roles of Postgres.
    """
    rows = await fetch(
        conn,
        "SELECT rolname FROM pg_catalog.pg_roles "
        "WHERE rolname <> %s AND (rolsuper OR rolname = ANY(%s)) "
        "AND pg_has_role(%s, oid, 'MEMBER') ORDER BY 1",
        (name, [*_POWERFUL_ROLES, *catalogue.table_owners()], name),
    )
    return [role for (role,) in rows]


async def check(conn: AsyncConnection[Any], names: RoleNames) -> list[str]:
    """
    Return a sentence about each difference between the roles and what they should be.

    A difference is a role that does not exist, a right that a role lacks or should not have, or a
    table that does not belong to the owner's role.
    """
    existing = await _list_roles(conn)
    catalogue = await read_catalogue(conn)
    lines = [f"There is no role {name}." for name in names.all() if name not in existing]
    for role, need in ((Role.SERVICE, Need.WORK), (Role.READER, Need.READ_RECORD)):
        name = names.name_of(role)
        if name not in existing:
            continue
        held = await read_rights(conn, catalogue, name)
        missing = _grants_to_user(_needed_rights(catalogue, need) - held, name)
        lines += [f"{name} lacks a right: {statement}" for statement in missing]
        lines += await _describe_excess(
            conn, catalogue, name, allowed=_allowed_rights(catalogue, role), held=held
        )
    lines += [
        f"{table.object} belongs to {table.owner}, not to {names.owner}."
        for table in catalogue.tables
        if table.owner != names.owner
    ]
    return lines


def missing_rights_message(address: str, user: str, need: Need, statements: Sequence[str]) -> str:
    """
    Return a message about rights that a user lacks.

    It has the first of `statements`, which grant these rights. If there are more, it names the
    command that prints all of them.
    """
    remaining = ""
    if len(statements) > 1:
        remaining = f" (and {len(statements) - 1} more: `alpha-monday roles` prints all.)"
    return (
        f"The user {user} of the database {display_address(address)} cannot {_PURPOSES[need]}, "
        f"because it lacks a right. As the owner of the tables, run {statements[0]}{remaining} "
        "Or run `alpha-monday roles --apply` as an administrator."
    )


async def require_rights(address: str, need: Need, *, pooled: bool = False) -> None:
    """Raise ConfigurationError if the user of an address lacks a right for `need`."""
    async with await _connect(address, pooled) as conn:
        statements = await missing_grants(conn, need)
        if statements:
            ((user,),) = await fetch(conn, "SELECT current_user")
            message = missing_rights_message(address, user, need, statements=statements)
            raise ConfigurationError(message)


async def can_do_more_than_read(address: str, *, pooled: bool = False) -> bool:
    """Return whether the user of an address has rights beyond those of the reader's role."""
    async with await _connect(address, pooled) as conn:
        ((user,),) = await fetch(conn, "SELECT current_user")
        return bool(await excess_rights(conn, Role.READER, user))


async def _connect(address: str, pooled: bool) -> AsyncConnection[Any]:
    session_class: type[Session] | type[PooledSession] = Session
    if pooled:
        session_class = PooledSession
    return await session_class.connect(address, name="check", autocommit=True)
