"""Tell the database that several tests use from one that a test may damage."""

import psycopg
from psycopg import sql

_COMMENT = "Several tests use this database."


def mark_as_shared(address: str) -> None:
    """Mark a database as one that several tests use. Its copies do not have the mark."""
    with psycopg.connect(address) as conn:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, _COMMENT))


def is_shared(conn: psycopg.Connection) -> bool:
    """Return whether several tests use the database of this connection."""
    row = conn.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database "
        "WHERE datname = current_database()"
    ).fetchone()
    return row == (_COMMENT,)
