"""Our objects in a database, and the rights on them, read from Postgres's catalogue."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from app.database import rights
from app.database.advice import quote_identifier

# The rights on a table, by the names that has_table_privilege accepts.
_TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")

# The first version of Postgres with the right MAINTAIN on a table.
_FIRST_WITH_MAINTAIN = 170_000


class Right(NamedTuple):
    """
    A right on an object. Its kind, object and right are written as in a GRANT statement.

    `column` is empty if the right is on the whole object.
    """

    kind: str
    object: str
    right: str
    column: str = ""

    @property
    def target(self) -> tuple[str, str]:
        """Return the kind of the object and the object, without the column."""
        return self.kind, self.object


class Table(NamedTuple):
    """A table or a view of ours. Statements about owners and rights name a view like a table."""

    schema: str
    name: str
    owner: str
    columns: list[str]

    @property
    def object(self) -> str:
        """Return the table's name for a statement."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"


class Function(NamedTuple):
    """A function of ours."""

    schema: str
    name: str
    signature: str
    owner: str

    @property
    def object(self) -> str:
        """Return the function's name and parameters for a statement."""
        name = f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"
        return f"{name}({self.signature})"


class Catalogue(NamedTuple):
    """
    Our objects in a database, with their owners.

    `user` is the user of the connection. `schemas` maps the name of each schema to its owner, and
    `types` maps the name of each type to its owner.
    """

    database: str
    user: str
    is_superuser: bool
    schemas: dict[str, str]
    tables: list[Table]
    sequences: list[str]
    functions: list[Function]
    types: dict[str, str]

    def table_owners(self) -> set[str]:
        """Return the users who own at least one table of ours."""
        return {table.owner for table in self.tables}


async def fetch(
    conn: AsyncConnection[Any], query: str, values: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    """Return all rows of a query with the parameters `values`."""
    cursor = await conn.execute(query.encode(), values)
    return await cursor.fetchall()


async def read_catalogue(conn: AsyncConnection[Any]) -> Catalogue:
    """Return our objects in the database of `conn`."""
    ((database, user, is_superuser),) = await fetch(
        conn,
        """
        SELECT current_database(), current_user, rolsuper
        FROM pg_catalog.pg_roles
        WHERE rolname = current_user
        """,
    )
    schemas = await fetch(
        conn,
        """
        SELECT nspname, pg_get_userbyid(nspowner)
        FROM pg_catalog.pg_namespace
        WHERE nspname = ANY(%s)
        """,
        ([*rights.OWN_SCHEMAS, rights.SHARED_SCHEMA],),
    )
    return Catalogue(
        database=database,
        user=user,
        is_superuser=is_superuser,
        schemas=dict(schemas),
        tables=await _list_tables(conn),
        sequences=await _list_sequences(conn),
        functions=await _list_functions(conn),
        types=await _list_types(conn),
    )


async def _list_tables(conn: AsyncConnection[Any]) -> list[Table]:
    rows = await fetch(
        conn,
        """
        SELECT nspname, relname, pg_get_userbyid(relowner), array_agg(attname::text ORDER BY attnum)
        FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
        WHERE relkind IN ('r', 'p', 'v')
            AND (nspname = ANY(%s) OR nspname || '.' || relname = ANY(%s))
        GROUP BY nspname, relname, relowner
        ORDER BY nspname, relname
        """,
        (list(rights.OWN_SCHEMAS), list(rights.TABLES)),
    )
    return [Table(*row) for row in rows]


async def _list_sequences(conn: AsyncConnection[Any]) -> list[str]:
    rows = await fetch(
        conn,
        """
        SELECT format('%%I.%%I', nspname, relname)
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relkind = 'S' AND nspname = %s
        ORDER BY 1
        """,
        (rights.QUEUE_SCHEMA,),
    )
    return [name for (name,) in rows]


async def _list_functions(conn: AsyncConnection[Any]) -> list[Function]:
    rows = await fetch(
        conn,
        """
        SELECT nspname, proname, pg_get_function_identity_arguments(pg_proc.oid),
            pg_get_userbyid(proowner)
        FROM pg_catalog.pg_proc JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
        WHERE nspname = ANY(%s) OR (nspname = %s AND proname = ANY(%s))
        ORDER BY 1, 2, 3
        """,
        (list(rights.OWN_SCHEMAS), rights.SHARED_SCHEMA, list(rights.FUNCTIONS)),
    )
    return [Function(*row) for row in rows]


async def _list_types(conn: AsyncConnection[Any]) -> dict[str, str]:
    # The result has neither the row type of a table nor the array type of a type: when the table or
    # the type gets another owner, Postgres also changes the owner of its row type or array type.
    rows = await fetch(
        conn,
        """
        SELECT format('%%I.%%I', nspname, typname), pg_get_userbyid(typowner)
        FROM pg_catalog.pg_type
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = typnamespace
        LEFT JOIN pg_catalog.pg_class ON pg_class.oid = typrelid
        WHERE nspname = ANY(%s) AND typcategory <> 'A' AND (typrelid = 0 OR relkind = 'c')
        ORDER BY 1
        """,
        (list(rights.OWN_SCHEMAS),),
    )
    return dict(rows)


# The rights of a role


async def read_rights(conn: AsyncConnection[Any], catalogue: Catalogue, role: str) -> set[Right]:
    """
    Return a role's rights on our objects.

    A right may be granted to the role itself, to a role of which it is a member, or to PUBLIC.
    """
    return {
        *await _rights_on_database(conn, catalogue, role),
        *await _rights_on_schemas(conn, role),
        *await _rights_on_tables(conn, catalogue, role),
        *await _rights_on_columns(conn, catalogue, role),
        *await _rights_on_sequences(conn, role),
        *await _rights_on_functions(conn, role),
    }


async def _rights_on_database(
    conn: AsyncConnection[Any], catalogue: Catalogue, role: str
) -> list[Right]:
    rows = await fetch(
        conn,
        """
        SELECT r FROM unnest(%s::text[]) r WHERE has_database_privilege(%s, current_database(), r)
        """,
        (["CONNECT", "CREATE", "TEMPORARY"], role),
    )
    database = quote_identifier(catalogue.database)
    return [Right("DATABASE", database, right) for (right,) in rows]


async def _rights_on_schemas(conn: AsyncConnection[Any], role: str) -> list[Right]:
    rows = await fetch(
        conn,
        """
        SELECT nspname, r FROM pg_catalog.pg_namespace, unnest(%s::text[]) r
        WHERE nspname = ANY(%s) AND has_schema_privilege(%s, pg_namespace.oid, r)
        """,
        (["USAGE", "CREATE"], [*rights.OWN_SCHEMAS, rights.SHARED_SCHEMA], role),
    )
    return [Right("SCHEMA", quote_identifier(schema), right) for schema, right in rows]


async def _rights_on_tables(
    conn: AsyncConnection[Any], catalogue: Catalogue, role: str
) -> list[Right]:
    known_rights = [*_TABLE_RIGHTS]
    if conn.info.server_version >= _FIRST_WITH_MAINTAIN:
        known_rights.append("MAINTAIN")
    rows = await fetch(
        conn,
        """
        SELECT nspname, relname, r
        FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace, unnest(%s::text[]) r
        WHERE relkind IN ('r', 'p', 'v') AND nspname || '.' || relname = ANY(%s)
            AND has_table_privilege(%s, pg_class.oid, r)
        """,
        (known_rights, _table_names(catalogue), role),
    )
    return [
        Right("TABLE", f"{quote_identifier(schema)}.{quote_identifier(name)}", right)
        for schema, name, right in rows
    ]


async def _rights_on_columns(
    conn: AsyncConnection[Any], catalogue: Catalogue, role: str
) -> list[Right]:
    rows = await fetch(
        conn,
        """
        SELECT nspname, relname, attname, r
        FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped,
            unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) r
        WHERE relkind IN ('r', 'p', 'v') AND nspname || '.' || relname = ANY(%s)
            AND has_column_privilege(%s, pg_class.oid, attnum, r)
        """,
        (_table_names(catalogue), role),
    )
    held = []
    for schema, name, column, right in rows:
        table = f"{quote_identifier(schema)}.{quote_identifier(name)}"
        held.append(Right(kind="TABLE", object=table, right=right, column=column))
    return held


def _table_names(catalogue: Catalogue) -> list[str]:
    return [f"{table.schema}.{table.name}" for table in catalogue.tables]


async def _rights_on_sequences(conn: AsyncConnection[Any], role: str) -> list[Right]:
    # A CASE and not an AND: Postgres may evaluate the parts of an AND in any order, and
    # has_sequence_privilege raises an error for a table.
    rows = await fetch(
        conn,
        """
        SELECT format('%%I.%%I', nspname, relname), r
        FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace, unnest(%s::text[]) r
        WHERE CASE WHEN relkind = 'S' AND nspname = %s
            THEN has_sequence_privilege(%s, pg_class.oid, r) END
        """,
        (["USAGE", "SELECT", "UPDATE"], rights.QUEUE_SCHEMA, role),
    )
    return [Right("SEQUENCE", name, right) for name, right in rows]


async def _rights_on_functions(conn: AsyncConnection[Any], role: str) -> list[Right]:
    rows = await fetch(
        conn,
        """
        SELECT nspname, proname, pg_get_function_identity_arguments(pg_proc.oid)
        FROM pg_catalog.pg_proc JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace
        WHERE (nspname = ANY(%s) OR (nspname = %s AND proname = ANY(%s)))
            AND has_function_privilege(%s, pg_proc.oid, 'EXECUTE')
        """,
        (list(rights.OWN_SCHEMAS), rights.SHARED_SCHEMA, list(rights.FUNCTIONS), role),
    )
    held = []
    for schema, name, signature in rows:
        function = Function(schema=schema, name=name, signature=signature, owner="")
        held.append(Right("FUNCTION", function.object, "EXECUTE"))
    return held
