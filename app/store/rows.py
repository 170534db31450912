"""
Convert rows to structs, and structs to rows.

`row_factory` validates each row: a row that does not fit its struct raises `RecordDamaged`.
"""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from psycopg import AsyncConnection, sql
from psycopg.rows import BaseRowFactory, dict_row

from app.errors import RECORD_DAMAGED_ADVICE, RECORD_DAMAGED_PREFIX, RecordDamaged

Conn = AsyncConnection[Any]
T = TypeVar("T", bound=Struct)

# How many rows `stream_rows` fetches at a time: so few that a long table needs little memory. An
# entry of the journal may hold 500 readings. On a busy machine, a verification took more than 30 s
# for a thousand of them, and Postgres ends a transaction that is idle for so long.
_ROWS_PER_FETCH = 100

# A time or a date that Postgres can store and Python cannot represent: infinite, before Christ, or
# after the year 9999.
_UNREADABLE_TIME = re.compile(r"-?infinity|.* BC|\d{5,}-.*")


def row_factory(type_: type[T]) -> BaseRowFactory[T]:
    """
    Return a psycopg row factory that converts each row to a `type_`.

    It raises RecordDamaged for a row whose values do not fit `type_`.
    """

    def factory(cursor: Any) -> Callable[[Sequence[Any]], T]:
        as_dict = dict_row(cursor)

        def convert(values: Sequence[Any]) -> T:
            row = as_dict(values)
            try:
                return msgspec.convert(row, type_)
            except msgspec.ValidationError as error:
                raise RecordDamaged(
                    f"{RECORD_DAMAGED_PREFIX}the row {row.get('id', '')} cannot be read as a "
                    f"{type_.__name__}: {error}. {RECORD_DAMAGED_ADVICE}"
                ) from None

        return convert

    return factory


def column_list(type_: type[Struct]) -> sql.Composed:
    """Return the names of `type_`'s fields, which are the columns of its table, for a statement."""
    return sql.SQL(", ").join(map(sql.Identifier, type_.__struct_fields__))


async def insert_row(conn: Conn, table: str, row: Struct, *, on_conflict: str = "") -> bool:
    """
    Insert `row` into `table`. Return False if a conflict prevented it.

    `on_conflict` is the statement's ON CONFLICT clause. If it is empty, a conflict raises an error.
    """
    statement = sql.SQL("INSERT INTO {table} ({columns}) VALUES ({values}) {on_conflict}").format(
        table=sql.Identifier(table),
        columns=column_list(type(row)),
        values=sql.SQL(", ").join(map(sql.Placeholder, row.__struct_fields__)),
        on_conflict=sql.SQL(on_conflict),
    )
    cursor = await conn.execute(statement, asdict(row))
    return cursor.rowcount == 1


async def update_row(conn: Conn, table: str, *, before: Struct, after: Struct) -> None:
    """
    Update the row with the id of `after`: the columns in which `after` differs from `before`.

    The two must differ.
    """
    # The statement sets only the changed columns. The service's role has no right to update columns
    # that never change, such as `batch_id` (`app/database/rights.py`), so Postgres would refuse a
    # statement that sets all columns.
    changed = [
        name for name in after.__struct_fields__ if getattr(after, name) != getattr(before, name)
    ]
    assignments = [
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in changed
    ]
    statement = sql.SQL("UPDATE {} SET {} WHERE id = %(id)s").format(
        sql.Identifier(table), sql.SQL(", ").join(assignments)
    )
    await conn.execute(statement, asdict(after))


async def select_rows(
    conn: Conn, type_: type[T], *, table: str, where: str = "", values: Sequence[Any] = ()
) -> list[T]:
    """
    Return the rows of `table` that match `where`.

    `where` is everything after the table's name: WHERE, ORDER BY, LIMIT, FOR UPDATE. `values` are
    its parameters.
    """
    statement = _select_statement(type_, table, where)
    async with conn.cursor(row_factory=row_factory(type_)) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()


async def select_row(
    conn: Conn, type_: type[T], *, table: str, where: str, values: Sequence[Any] = ()
) -> T | None:
    """Return the first row of `table` that matches `where` (see `select_rows`), or None."""
    rows = await select_rows(conn, type_, table=table, where=where, values=values)
    if not rows:
        return None
    return rows[0]


async def stream_rows(
    conn: Conn, type_: type[Struct], *, table: str, where: str = "", values: Sequence[Any] = ()
) -> AsyncIterator[dict[str, Any]]:
    """
    Yield the rows of `table` that match `where` (see `select_rows`) as dicts, without validation.

    The rows come from a server-side cursor, a few at a time, so `conn` must be in a transaction.
    """
    statement = _select_statement(type_, table, where)
    async with conn.cursor(f"every_{table}", row_factory=dict_row) as cursor:
        cursor.itersize = _ROWS_PER_FETCH
        async for row in await cursor.execute(statement, values):
            yield row


def _select_statement(type_: type[Struct], table: str, where: str) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} {}").format(
        column_list(type_), sql.Identifier(table), sql.SQL(where)
    )


async def find_unreadable_time(conn: Conn, type_: type[Struct], table: str) -> str:
    """
    Return a description of a row of `table` that has a time which Python cannot represent.

    The description is a part of a sentence for a message; it is empty if there is no such row.
    Dates count, too. Times are read as text, because psycopg raises an error for a time that Python
    cannot represent.
    """
    names = [
        name
        for name in type_.__struct_fields__
        if name == "at" or name.endswith(("_at", "_date", "_day"))
    ]
    key = type_.__struct_fields__[0]
    columns = [sql.SQL("{}::text").format(sql.Identifier(name)) for name in (key, *names)]
    statement = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(columns), sql.Identifier(table)
    )
    async with conn.cursor() as cursor:
        async for row_id, *times in await cursor.execute(statement):
            for name, time in zip(names, times, strict=True):
                if time is not None and _UNREADABLE_TIME.fullmatch(time):
                    return f"the row {row_id} of {table} has {name} as {time}"
    return ""
