"""Rows become values at one door, and only if they fit; values become rows at another."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from psycopg import AsyncConnection, sql
from psycopg.rows import BaseRowFactory, dict_row

from app.errors import DAMAGED, VERIFY, RecordDamaged

Conn = AsyncConnection[Any]
T = TypeVar("T", bound=Struct)


def row_of(type_: type[T]) -> BaseRowFactory[T]:
    """Return a row factory that makes a `type_` of each row."""

    def factory(cursor: Any) -> Callable[[Sequence[Any]], T]:
        as_dict = dict_row(cursor)

        def read(values: Sequence[Any]) -> T:
            row = as_dict(values)
            try:
                return msgspec.convert(row, type_)
            except msgspec.ValidationError as error:
                raise RecordDamaged(
                    f"{DAMAGED}the row {row.get('id', '')} cannot be read as a {type_.__name__}: {error}. {VERIFY}"
                ) from None

        return read

    return factory


def columns_of(type_: type[Struct]) -> sql.Composed:
    """Return the columns of `type_`'s table, as it names them."""
    return sql.SQL(", ").join(map(sql.Identifier, type_.__struct_fields__))


async def insert(conn: Conn, table: str, row: Struct, otherwise: str = "") -> bool:
    """Store `row`; `otherwise` is what to do on a conflict. Return whether a row was written."""
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) {}").format(
        sql.Identifier(table),
        columns_of(type(row)),
        sql.SQL(", ").join(map(sql.Placeholder, row.__struct_fields__)),
        sql.SQL(otherwise),
    )
    cursor = await conn.execute(statement, msgspec.structs.asdict(row))
    return cursor.rowcount == 1


async def update(conn: Conn, table: str, before: Struct, after: Struct) -> None:
    """Write the columns in which `after` differs from `before`, the row with the same id."""
    changed = [name for name in after.__struct_fields__ if getattr(after, name) != getattr(before, name)]
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in changed]
    statement = sql.SQL("UPDATE {} SET {} WHERE id = %(id)s").format(
        sql.Identifier(table), sql.SQL(", ").join(assignments)
    )
    await conn.execute(statement, msgspec.structs.asdict(after))


async def select(conn: Conn, type_: type[T], table: str, where: str, *values: Any) -> list[T]:
    """Return the rows of `table` that `where` (with its order) asks for."""
    statement = sql.SQL("SELECT {} FROM {} {}").format(
        columns_of(type_),
        sql.Identifier(table),
        sql.SQL(where),
    )
    async with conn.cursor(row_factory=row_of(type_)) as cursor:
        return await (await cursor.execute(statement, values)).fetchall()


async def every(conn: Conn, type_: type[Struct], table: str, where: str, *values: Any) -> AsyncIterator[dict[str, Any]]:
    """
    Give the rows of `table` that `where` (with its order) asks for as they stand there, whether they fit or not.

    They come a few at a time, so it takes a transaction.
    """
    statement = sql.SQL("SELECT {} FROM {} {}").format(columns_of(type_), sql.Identifier(table), sql.SQL(where))
    async with conn.cursor(f"every_{table}", row_factory=dict_row) as cursor:
        cursor.itersize = 1000
        async for row in await cursor.execute(statement, values):
            yield row


# A time or a date that Postgres has and Python has not: infinite, before Christ, or after the year 9999.
_NO_TIME = re.compile(r"-?infinity|.* BC|\d{5,}-.*")


async def impossible_time(conn: Conn, type_: type[Struct], table: str) -> str:
    """Return which row of `table` has a time or date that cannot be read, as a sentence says it; empty if none has."""
    names = [name for name in type_.__struct_fields__ if name == "at" or name.endswith(("_at", "_date", "_day"))]
    key = type_.__struct_fields__[0]
    columns = [sql.SQL("{}::text").format(sql.Identifier(name)) for name in (key, *names)]
    statement = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(columns), sql.Identifier(table))
    async with conn.cursor() as cursor:
        async for found, *times in await cursor.execute(statement):
            for name, time in zip(names, times, strict=True):
                if time is not None and _NO_TIME.fullmatch(time):
                    return f"the row {found} of {table} has {name} as {time}"
    return ""
