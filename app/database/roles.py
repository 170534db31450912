"""
The three roles in a database: the SQL that gives them their rights, and what a role has in comparison.

`statements` reads the catalogue and returns what `alpha-monday roles` prints or applies; running it
twice changes nothing. `regrant` is the part that needs no administrator: `alpha-monday migrate` runs
it after each migration, so that a new table has its rights. `missing` compares the user of a
connection with what a command needs, before the command begins.

Roles belong to the whole cluster, so no migration makes them. Their names stand in `operations.roles`,
which only the owner reads.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from msgspec import Struct
from psycopg import AsyncConnection, sql

from app.database import rights
from app.database.advice import quoted, where
from app.database.rights import Kind, Need
from app.database.sessions import SEARCH_PATH, PooledSession, Session
from app.errors import ConfigurationError, Refused

# The reader's connections: eight for queries and three for exports of each process that serves, of which a deployment
# runs two, and room for commands. A reader that opens more takes none from the service.
READER_CONNECTIONS = 40

DEFAULTS = {kind: f"alpha_monday_{kind}" for kind in Kind}

# As long as a name of Postgres may be, in bytes.
_LONGEST_NAME = 63
_RESERVED = frozenset({"public", "none", "current_user", "session_user", "current_role"})

# Rights on a table, by the name that has_table_privilege knows. MAINTAIN is new in Postgres 17.
_TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_MAINTAIN = 170_000

# The first version with the option SET of a membership.
_SET_OPTION = 160_000

# Roles of Postgres's own that lead around every grant here.
_MIGHTY = (
    "pg_write_all_data",
    "pg_execute_server_program",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_maintain",
)

_NAMES_TABLE = "CREATE TABLE IF NOT EXISTS operations.roles (kind text PRIMARY KEY, name text NOT NULL)"


class Names(Struct, frozen=True):
    """What the three roles are called."""

    owner: str = DEFAULTS[Kind.OWNER]
    service: str = DEFAULTS[Kind.SERVICE]
    reader: str = DEFAULTS[Kind.READER]

    def of(self, kind: Kind) -> str:
        """Return the name of one."""
        return str(getattr(self, kind))

    def refuse_unfit(self) -> None:
        """Refuse names that Postgres does not take, and one name for two roles."""
        for kind in Kind:
            name = self.of(kind)
            if not name.strip() or not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
                raise Refused(f"--{kind} takes the name of a role, of 1 to {_LONGEST_NAME} bytes that can be printed.")
            if name.lower() in _RESERVED or name.lower().startswith("pg_"):
                raise Refused(f"--{kind} cannot be {name}: Postgres keeps that name for itself. Choose another.")
        if len({self.owner, self.service, self.reader}) < len(Kind):
            raise Refused("--owner, --service and --reader must be three different roles.")


class Right(NamedTuple):
    """A right on an object, as a GRANT says it; `column` is empty for the whole object."""

    kind: str
    object: str
    right: str
    column: str = ""

    @property
    def on(self) -> tuple[str, str]:
        """Return the object, whichever of its columns the right is on."""
        return self.kind, self.object


# What stands in the catalogue


class _Table(NamedTuple):
    schema: str
    name: str
    owner: str
    columns: list[str]

    @property
    def object(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


class _Function(NamedTuple):
    schema: str
    name: str
    signature: str
    owner: str

    @property
    def object(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}({self.signature})"


class _Catalogue(NamedTuple):
    """Our objects as they stand in a database, each with its owner."""

    database: str
    user: str
    is_superuser: bool
    schemas: dict[str, str]
    tables: list[_Table]
    sequences: list[str]
    functions: list[_Function]
    types: list[tuple[str, str]]

    def owners(self) -> set[str]:
        """Return who owns a table of ours."""
        return {table.owner for table in self.tables}


async def _rows(conn: AsyncConnection[Any], statement: str, *values: object) -> list[tuple[Any, ...]]:
    return await (await conn.execute(statement.encode(), values)).fetchall()


async def _catalogue(conn: AsyncConnection[Any]) -> _Catalogue:
    ((database, user, is_superuser),) = await _rows(
        conn,
        "SELECT current_database(), current_user, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    schemas = await _rows(
        conn,
        "SELECT nspname, pg_get_userbyid(nspowner) FROM pg_catalog.pg_namespace WHERE nspname = ANY(%s)",
        [*rights.OURS, rights.SHARED],
    )
    tables = await _rows(
        conn,
        """
        SELECT nspname, relname, pg_get_userbyid(relowner), array_agg(attname::text ORDER BY attnum)
        FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
        WHERE relkind IN ('r', 'p') AND (nspname = ANY(%s) OR nspname || '.' || relname = ANY(%s))
        GROUP BY nspname, relname, relowner
        ORDER BY nspname, relname
        """,
        list(rights.OURS),
        list(rights.TABLES),
    )
    sequences = await _rows(
        conn,
        """
        SELECT format('%%I.%%I', nspname, relname)
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relkind = 'S' AND nspname = %s
        ORDER BY 1
        """,
        rights.QUEUE,
    )
    functions = await _rows(
        conn,
        """
        SELECT nspname, proname, pg_get_function_identity_arguments(pg_proc.oid), pg_get_userbyid(proowner)
        FROM pg_catalog.pg_proc JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
        WHERE nspname = ANY(%s) OR (nspname = %s AND proname = ANY(%s))
        ORDER BY 1, 2, 3
        """,
        list(rights.OURS),
        rights.SHARED,
        list(rights.FUNCTIONS),
    )
    # A table's own row type, and the arrays of a type, go with them.
    types = await _rows(
        conn,
        """
        SELECT format('%%I.%%I', nspname, typname), pg_get_userbyid(typowner)
        FROM pg_catalog.pg_type
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = typnamespace
        LEFT JOIN pg_catalog.pg_class ON pg_class.oid = typrelid
        WHERE nspname = ANY(%s) AND typcategory <> 'A' AND (typrelid = 0 OR relkind = 'c')
        ORDER BY 1
        """,
        list(rights.OURS),
    )
    return _Catalogue(
        database=database,
        user=user,
        is_superuser=is_superuser,
        schemas=dict(schemas),
        tables=[_Table(*row) for row in tables],
        sequences=[name for (name,) in sequences],
        functions=[_Function(*row) for row in functions],
        types=[(name, owner) for name, owner in types],
    )


# The SQL


async def stored_names(conn: AsyncConnection[Any]) -> Names | None:
    """Return the names that `alpha-monday roles --apply` stored in the database; None where it never ran."""
    cursor = await conn.execute(
        """
        SELECT has_schema_privilege(pg_namespace.oid, 'USAGE') AND has_table_privilege(pg_class.oid, 'SELECT')
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = 'operations' AND relname = 'roles'
        """
    )
    if await cursor.fetchone() != (True,):
        return None
    found = dict(await _rows(conn, "SELECT kind, name FROM operations.roles"))
    return Names(**found) if set(found) == set(Kind) else None


async def statements(conn: AsyncConnection[Any], names: Names, connections: int = READER_CONNECTIONS) -> list[str]:
    """
    Return the statements that give the three roles their rights in this database, for one transaction.

    A role that is not there is made. Who owned the tables until now, and is no superuser, becomes a member of the
    service's role: a service that runs as that user goes on.
    """
    await conn.execute(f"SET search_path = {SEARCH_PATH}".encode())
    found = await _catalogue(conn)
    former = await stored_names(conn)
    known = {name for (name,) in await _rows(conn, "SELECT rolname FROM pg_catalog.pg_roles")}
    gone = sorted({former.service, former.reader} & known - set(_names(names))) if former else []
    hand_over = await _to_hand_over(conn, found, names)
    before = await _owners_before(conn, found, names)
    return [
        # The types among a function's parameters are named by it.
        f"SET LOCAL search_path = {SEARCH_PATH}",
        *_roles(names, connections),
        *hand_over,
        *_database(found, names, before, gone),
        *_schemas(found, names, gone),
        *_owners(found, names.owner),
        _NAMES_TABLE,
        f"ALTER TABLE operations.roles OWNER TO {quoted(names.owner)}",
        *(
            f"INSERT INTO operations.roles (kind, name) VALUES ('{kind}', {_literal(names.of(kind))}) "
            "ON CONFLICT (kind) DO UPDATE SET name = excluded.name"
            for kind in Kind
        ),
        f"REVOKE ALL ON TABLE operations.roles FROM PUBLIC, {_list([names.service, names.reader])}",
        *_grants(found, names, gone),
        *(f"GRANT {quoted(names.service)} TO {quoted(name)}" for name in before),
    ]


def _names(names: Names) -> list[str]:
    return [names.of(kind) for kind in Kind]


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()


def _roles(names: Names, connections: int) -> Iterator[str]:
    for kind in Kind:
        limit = f" CONNECTION LIMIT {connections}" if kind == Kind.READER else ""
        name = names.of(kind)
        body = (
            f"BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {_literal(name)}) "
            f"THEN CREATE ROLE {quoted(name)} LOGIN{limit}; END IF; END"
        )
        # As a literal, because a name may hold whatever would end a dollar quote.
        yield f"DO {_literal(body)}"


async def _to_hand_over(conn: AsyncConnection[Any], found: _Catalogue, names: Names) -> list[str]:
    """Return what a user that is no superuser needs before it can give the tables to the owner: to be a member."""
    if found.is_superuser or found.user in _names(names):
        return []
    # From Postgres 16 on, who made a role is a member of it that may not yet become it.
    how = "SET" if conn.info.server_version >= _SET_OPTION else "MEMBER"
    is_member = await _rows(
        conn,
        f"SELECT FROM pg_catalog.pg_roles WHERE rolname = %s AND pg_has_role(oid, '{how}')",
        names.owner,
    )
    return [] if is_member else [f"GRANT {quoted(names.owner)} TO {quoted(found.user)}"]


async def _owners_before(conn: AsyncConnection[Any], found: _Catalogue, names: Names) -> list[str]:
    """Return the users who own a table, will not own it any more, and are no superusers."""
    leaving = found.owners() - set(_names(names)) - {found.user}
    rows = await _rows(
        conn,
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(%s) AND NOT rolsuper ORDER BY 1",
        list(leaving),
    )
    return [name for (name,) in rows]


def _database(found: _Catalogue, names: Names, before: Sequence[str], gone: Sequence[str]) -> Iterator[str]:
    database, owner = quoted(found.database), quoted(names.owner)
    both = f"{quoted(names.service)}, {quoted(names.reader)}"
    staying = {*before} if found.is_superuser else {found.user, *before}
    keep = "".join(f", {quoted(name)}" for name in sorted(staying - set(_names(names))))
    # Each of the cluster's roles could connect, take our advisory locks, and make temporary tables.
    yield f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC"
    yield f"REVOKE ALL ON DATABASE {database} FROM {_list([names.service, names.reader, *gone])}"
    yield f"GRANT CONNECT ON DATABASE {database} TO {owner}, {both}{keep}"
    # For the schemas that migrations make.
    yield f"GRANT CREATE ON DATABASE {database} TO {owner}"


def _schemas(found: _Catalogue, names: Names, gone: Sequence[str]) -> Iterator[str]:
    owner = quoted(names.owner)
    both = f"{quoted(names.service)}, {quoted(names.reader)}"
    # A function or a table that a user puts there could stand in for one of ours, or for one of Postgres's.
    yield f"REVOKE CREATE ON SCHEMA public FROM PUBLIC, {_list([names.service, names.reader, *gone])}"
    yield f"GRANT USAGE ON SCHEMA public TO {both}"
    yield f"GRANT USAGE, CREATE ON SCHEMA public TO {owner}"
    if "operations" not in found.schemas:
        yield f"CREATE SCHEMA operations AUTHORIZATION {owner}"
    for schema in rights.OURS:
        if schema in found.schemas and found.schemas[schema] != names.owner:
            yield f"ALTER SCHEMA {quoted(schema)} OWNER TO {owner}"


def _owners(found: _Catalogue, owner: str) -> Iterator[str]:
    """Return what gives every object of ours to the owner; what belongs to a table goes with it."""
    for table in found.tables:
        if table.owner != owner:
            yield f"ALTER TABLE {table.object} OWNER TO {quoted(owner)}"
    for name, before in found.types:
        if before != owner:
            yield f"ALTER TYPE {name} OWNER TO {quoted(owner)}"
    for function in found.functions:
        if function.owner != owner:
            yield f"ALTER FUNCTION {function.object} OWNER TO {quoted(owner)}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))


def _grants(found: _Catalogue, names: Names, gone: Sequence[str] = ()) -> Iterator[str]:
    """Return what gives the service and the reader the rights of `rights.TABLES`, and takes all others away."""
    all_others = f"PUBLIC, {_list([names.service, names.reader, *gone])}"
    schemas = {*found.schemas, "operations"}
    for schema in rights.OURS:
        if schema not in schemas:
            continue
        yield f"REVOKE ALL ON SCHEMA {quoted(schema)} FROM {all_others}"
        kinds = [Kind.SERVICE] if schema == rights.QUEUE else [Kind.SERVICE, Kind.READER]
        yield f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {_list(map(names.of, kinds))}"
    for table in found.tables:
        yield f"REVOKE ALL ON TABLE {table.object} FROM {all_others}"
        for kind in (Kind.SERVICE, Kind.READER):
            yield from _grants_on(table, kind, names.of(kind))
    for sequence in found.sequences:
        yield f"REVOKE ALL ON SEQUENCE {sequence} FROM {all_others}"
        yield f"GRANT USAGE ON SEQUENCE {sequence} TO {quoted(names.service)}"
    for function in found.functions:
        yield f"REVOKE ALL ON FUNCTION {function.object} FROM {all_others}"
        if callers := [names.of(kind) for kind in _callers(function)]:
            yield f"GRANT EXECUTE ON FUNCTION {function.object} TO {_list(callers)}"
        if function.schema == rights.SHARED:
            yield f"ALTER FUNCTION {function.object} SET search_path = {rights.FUNCTION_PATH}"


def _grants_on(table: _Table, kind: Kind, name: str) -> Iterator[str]:
    known = rights.rights_on(table.schema, table.name)
    if known is None:
        return
    whole, columns = rights.of_table(kind, known)
    present = [column for column in columns if column in table.columns]  # not yet, or not any more
    updates = [f"UPDATE ({', '.join(map(quoted, present))})"] if present else []
    if given := [*whole, *updates]:
        yield f"GRANT {', '.join(given)} ON TABLE {table.object} TO {quoted(name)}"


def _callers(function: _Function) -> Sequence[Kind]:
    if function.schema == rights.QUEUE:
        return (Kind.SERVICE,)
    return rights.FUNCTIONS.get(function.name, ())


async def regrant(conn: AsyncConnection[Any]) -> None:
    """Give the roles their rights on what a migration has made; where there are no roles, do nothing."""
    names = await stored_names(conn)
    if names is None:
        return
    known = {name for (name,) in await _rows(conn, "SELECT rolname FROM pg_catalog.pg_roles")}
    if not set(_names(names)) <= known:  # dropped, or a database that was copied to another cluster
        return
    found = await _catalogue(conn)
    schemas = [schema for schema in rights.OURS if found.schemas.get(schema, names.owner) != names.owner]
    for statement in [
        *(f"ALTER SCHEMA {quoted(schema)} OWNER TO {quoted(names.owner)}" for schema in schemas),
        *_owners(found, names.owner),
        *_grants(found, names),
    ]:
        await conn.execute(statement.encode())


# What a user has


async def _held(conn: AsyncConnection[Any], found: _Catalogue, role: str) -> set[Right]:
    """Return which rights a role has on our objects, be it by a grant, a membership or PUBLIC."""
    maintain = ("MAINTAIN",) if conn.info.server_version >= _MAINTAIN else ()
    held = {
        Right("DATABASE", quoted(found.database), right)
        for (right,) in await _rows(
            conn,
            "SELECT r FROM unnest(%s::text[]) r WHERE has_database_privilege(%s, current_database(), r)",
            ["CONNECT", "CREATE", "TEMPORARY"],
            role,
        )
    }
    for schema, right in await _rows(
        conn,
        """
        SELECT nspname, r FROM pg_catalog.pg_namespace, unnest(%s::text[]) r
        WHERE nspname = ANY(%s) AND has_schema_privilege(%s, pg_namespace.oid, r)
        """,
        ["USAGE", "CREATE"],
        [*rights.OURS, rights.SHARED],
        role,
    ):
        held.add(Right("SCHEMA", quoted(schema), right))
    ours = [f"{table.schema}.{table.name}" for table in found.tables]
    for schema, name, right in await _rows(
        conn,
        """
        SELECT nspname, relname, r
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace, unnest(%s::text[]) r
        WHERE relkind IN ('r', 'p') AND nspname || '.' || relname = ANY(%s)
            AND has_table_privilege(%s, pg_class.oid, r)
        """,
        [*_TABLE_RIGHTS, *maintain],
        ours,
        role,
    ):
        held.add(Right("TABLE", f"{quoted(schema)}.{quoted(name)}", right))
    for schema, name, column, right in await _rows(
        conn,
        """
        SELECT nspname, relname, attname, r
        FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped,
            unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) r
        WHERE relkind IN ('r', 'p') AND nspname || '.' || relname = ANY(%s)
            AND has_column_privilege(%s, pg_class.oid, attnum, r)
        """,
        ours,
        role,
    ):
        held.add(Right("TABLE", f"{quoted(schema)}.{quoted(name)}", right, column))
    for name, right in await _rows(
        conn,
        """
        SELECT format('%%I.%%I', nspname, relname), r
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace, unnest(%s::text[]) r
        WHERE CASE WHEN relkind = 'S' AND nspname = %s THEN has_sequence_privilege(%s, pg_class.oid, r) END
        """,
        ["USAGE", "SELECT", "UPDATE"],
        rights.QUEUE,
        role,
    ):
        held.add(Right("SEQUENCE", name, right))
    for schema, name, signature in await _rows(
        conn,
        """
        SELECT nspname, proname, pg_get_function_identity_arguments(pg_proc.oid)
        FROM pg_catalog.pg_proc JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
        WHERE (nspname = ANY(%s) OR (nspname = %s AND proname = ANY(%s)))
            AND has_function_privilege(%s, pg_proc.oid, 'EXECUTE')
        """,
        list(rights.OURS),
        rights.SHARED,
        list(rights.FUNCTIONS),
        role,
    ):
        held.add(Right("FUNCTION", _Function(schema, name, signature, "").object, "EXECUTE"))
    return held


def _wanted(found: _Catalogue, need: Need) -> set[Right]:
    """Return what a command needs, of what is there."""
    schemas = {rights.SHARED, "operations", *([] if need == Need.READ_RECORD else [rights.QUEUE])}
    wanted = {Right("SCHEMA", schema, "USAGE") for schema in schemas & set(found.schemas)}
    for table in found.tables:
        known = rights.rights_on(table.schema, table.name)
        if known is None or table.schema == "told":
            continue
        whole, columns = rights.of_need(need, known)
        wanted |= {Right("TABLE", table.object, right) for right in whole}
        wanted |= {Right("TABLE", table.object, "UPDATE", column) for column in columns if column in table.columns}
    if need == Need.WORK:
        wanted |= {Right("SEQUENCE", name, "USAGE") for name in found.sequences}
    for function in found.functions:
        kinds = _callers(function)
        is_called = Kind.SERVICE in kinds if need == Need.WORK else Kind.READER in kinds
        if is_called:
            wanted.add(Right("FUNCTION", function.object, "EXECUTE"))
    return wanted


def _granted(found: _Catalogue, kind: Kind) -> set[Right]:
    """Return what a role is given, of what is there."""
    given = _wanted(found, Need.WORK if kind == Kind.SERVICE else Need.READ_RECORD)
    given.add(Right("DATABASE", quoted(found.database), "CONNECT"))
    if "told" in found.schemas:
        given.add(Right("SCHEMA", "told", "USAGE"))
    for table in found.tables:
        known = rights.rights_on(table.schema, table.name) or rights.Rights()
        whole, _ = rights.of_table(kind, known)
        given |= {Right("TABLE", table.object, right) for right in whole}
        # A right on the whole table is one on each of its columns.
        given |= {Right("TABLE", table.object, right, column) for right in whole for column in table.columns}
    return given


async def missing(conn: AsyncConnection[Any], need: Need) -> list[str]:
    """Return the statements that give the user of a connection what it lacks for `need`; most users lack nothing."""
    found = await _catalogue(conn)
    lacking = _wanted(found, need) - await _held(conn, found, found.user)
    return grants(lacking, found.user)


def grants(lacking: Iterable[Right], user: str) -> list[str]:
    """Return the statements that give rights to a user, one for each object, schemas first."""
    order = ["DATABASE", "SCHEMA", "TABLE", "SEQUENCE", "FUNCTION"]
    lines = []
    by_object = sorted(lacking, key=lambda right: (order.index(right.kind), right.object, right.column, right.right))
    for (kind, object_), group in groupby(by_object, key=lambda right: right.on):
        of_it = list(group)
        parts = [right.right for right in of_it if not right.column]
        if columns := [quoted(right.column) for right in of_it if right.column]:
            parts.append(f"UPDATE ({', '.join(columns)})")
        lines.append(f"GRANT {', '.join(parts)} ON {kind} {object_} TO {quoted(user)};")
    return lines


async def excess(conn: AsyncConnection[Any], kind: Kind, name: str) -> list[str]:
    """Return what the service's or the reader's role has beyond its rights, a sentence each."""
    found = await _catalogue(conn)
    return await _excess(conn, found, await _held(conn, found, name), kind, name)


async def _excess(
    conn: AsyncConnection[Any], found: _Catalogue, held: Iterable[Right], kind: Kind, name: str
) -> list[str]:
    """Return the same of a catalogue that was read; `held` are all rights that the role has."""
    ((is_superuser, makes_roles, makes_databases, replicates, bypasses),) = await _rows(
        conn,
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls "
        "FROM pg_catalog.pg_roles WHERE rolname = %s",
        name,
    )
    attributes = {
        "SUPERUSER": is_superuser,
        "CREATEROLE": makes_roles,
        "CREATEDB": makes_databases,
        "REPLICATION": replicates,
        "BYPASSRLS": bypasses,
    }
    lines = [f"{name} is {what}: ALTER ROLE {quoted(name)} NO{what};" for what, has in attributes.items() if has]
    if is_superuser:
        return lines
    # Who is a member of the owner can SET ROLE to it.
    for (role,) in await _rows(
        conn,
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname <> %s AND (rolsuper OR rolname = ANY(%s)) "
        "AND pg_has_role(%s, oid, 'MEMBER') ORDER BY 1",
        name,
        [*_MIGHTY, *found.owners()],
        name,
    ):
        lines.append(f"{name} is a member of {role}: REVOKE {quoted(role)} FROM {quoted(name)};")
    owned = [table.object for table in found.tables if table.owner == name]
    if owned:
        return [*lines, f"{name} owns {len(owned)} tables, {owned[0]} among them: an owner has every right."]
    beyond = set(held) - _granted(found, kind)
    # One right on some columns is named once, as that on the whole table.
    by_object = sorted({right._replace(column="") for right in beyond})
    for (what, object_), group in groupby(by_object, key=lambda right: right.on):
        given = ", ".join(right.right for right in group)
        lines.append(f"{name} has {given} on the {what.lower()} {object_}, by itself or by PUBLIC.")
    return lines


async def check(conn: AsyncConnection[Any], names: Names) -> list[str]:
    """Return in what the roles of a database differ from their rights, a sentence each."""
    known = {name for (name,) in await _rows(conn, "SELECT rolname FROM pg_catalog.pg_roles")}
    found = await _catalogue(conn)
    lines = [f"There is no role {names.of(kind)}." for kind in Kind if names.of(kind) not in known]
    for kind, need in ((Kind.SERVICE, Need.WORK), (Kind.READER, Need.READ_RECORD)):
        name = names.of(kind)
        if name not in known:
            continue
        held = await _held(conn, found, name)
        lines += [f"{name} lacks a right: {statement}" for statement in grants(_wanted(found, need) - held, name)]
        lines += await _excess(conn, found, held, kind, name)
    lines += [
        f"{table.object} belongs to {table.owner}, not to {names.owner}."
        for table in found.tables
        if table.owner != names.owner
    ]
    return lines


# What a command says


_WORDS: Mapping[Need, str] = {
    Need.READ_RECORD: "reads the record",
    Need.READ_ALL: "reads the record, the queue and the notes of the service",
    Need.WORK: "runs the jobs",
}


def lacking(address: str, user: str, need: Need, statements: Sequence[str]) -> str:
    """Return what to say of a user that lacks rights: the statements that give them, and the command that does."""
    count = len(statements)
    more = f" ({count - 1} more: `alpha-monday roles` prints all.)" if count > 1 else ""
    return (
        f"The user {user} of the database {where(address)} lacks a right that a command which {_WORDS[need]} needs. "
        f"As the owner of the tables run {statements[0]}{more} Or run `alpha-monday roles --apply` as an administrator."
    )


async def refuse_without(address: str, need: Need, *, pooled: bool = False) -> None:
    """Refuse a user of the database at `address` that lacks a right for `need`, with the statement that gives it."""
    session = PooledSession if pooled else Session
    async with await session.connect(address, name="check", autocommit=True) as conn:
        if found := await missing(conn, need):
            ((user,),) = await _rows(conn, "SELECT current_user")
            raise ConfigurationError(lacking(address, user, need, found))


async def more_than_reads(address: str, *, pooled: bool = False) -> bool:
    """Return whether the user of an address may do more with the record than the reader's role."""
    session = PooledSession if pooled else Session
    async with await session.connect(address, name="check", autocommit=True) as conn:
        ((user,),) = await _rows(conn, "SELECT current_user")
        return bool(await excess(conn, Kind.READER, user))
