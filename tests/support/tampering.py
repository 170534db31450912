"""
Consistent forgeries: they rewrite the journal of a copied record together with its rows.

Afterwards the chain fits, and each row equals its last mention. So only the rules can find the
forgery.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from _pytest.mark import ParameterSet
from psycopg import sql
from record_server import unguarded
from sealing import TOTAL_RETURNS, write_journal

from app.domain import journal
from app.domain.verification.entries import MEMBERS, TABLES

Content = dict[str, Any]
Change = Callable[[list[Content]], list[Content] | None]

_KEYS = {
    "splits": ("ticker", "effective_date", "read_at"),
    "dividends": ("ticker", "ex_date", "read_at"),
    "rates": ("observed_on", "read_at"),
}
_ID = ("id",)


def forge(database: str, change: Change) -> None:
    """
    Change the contents of all entries, and write the journal and the rows so that they fit.

    `change` gets the contents in their order, and edits them or returns others. `seq` is written
    again in their new order. Rows that no entry mentioned before do not change.
    """
    with unguarded(database) as conn:
        _drop_checks(conn)
        rows = conn.execute("SELECT content FROM journal ORDER BY seq").fetchall()
        contents = [json.loads(content) for (content,) in rows]
        mentioned = set(_last_mentions(contents))
        changed = change(contents)
        contents = contents if changed is None else changed
        conn.execute("DELETE FROM journal")
        write_journal(conn, contents)
        _write_rows(conn, mentioned, _last_mentions(contents))


def one_of_each_rule(forgeries: Iterable[ParameterSet]) -> list[ParameterSet]:
    """
    Return the forgeries, with all but the first of each rule marked as long.

    The rule is the first value of a forgery.
    """
    known, marked = set(), []
    for forgery in forgeries:
        rule = forgery.values[0]
        marks = [pytest.mark.long] if rule in known else []
        known.add(rule)
        marked.append(pytest.param(*forgery.values, id=forgery.id, marks=marks))
    return marked


def shifted(text: str, **by: float) -> str:
    """Return a time of the journal, later by so many days, hours, minutes or seconds."""
    return journal.format_timestamp(datetime.fromisoformat(text) + timedelta(**by))


def rows_of(content: Content) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a content, each with its table."""
    for member, table in MEMBERS.items():
        held = content.get(member, [])
        for row in held if isinstance(held, list) else [held]:
            yield table, row


def entry_of(contents: Iterable[Content], kind: str, **values: str) -> Content:
    """
    Return the first content of a kind whose batch, checkpoint, pick or question has these values.

    `run_date` is that of the entry's batch.
    """
    contents = list(contents)
    mondays = {
        content["batch"]["id"]: content["batch"]["run_date"]
        for content in contents
        if "batch" in content
    }
    for content in contents:
        if content["kind"] == kind and _has(content, values, mondays):
            return content
    raise LookupError(f"no {kind} entry has {values}")


def _has(content: Content, values: dict[str, str], mondays: dict[str, str]) -> bool:
    known: dict[str, str] = {}
    for member in ("batch", "checkpoint", "pick", "generation"):
        known |= content.get(member, {})
    if "run_date" not in known:
        known["run_date"] = mondays.get(known.get("batch_id", ""), "")
    return all(known.get(name) == value for name, value in values.items())


def _drop_checks(conn: psycopg.Connection) -> None:
    """Drop the constraints that a forged row may break; the database is a copy."""
    constraints = conn.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint "
        "WHERE contype IN ('c', 'u') AND connamespace = 'public'::regnamespace"
    ).fetchall()
    for table, name in constraints:
        conn.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                sql.Identifier(table), sql.Identifier(name)
            )
        )
    required = conn.execute(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND is_nullable = 'NO' AND table_name = ANY(%s)",
        [list(TABLES)],
    ).fetchall()
    for table, column in required:
        if column not in _KEYS.get(table, _ID):
            conn.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(
                    sql.Identifier(table), sql.Identifier(column)
                )
            )


def _last_mentions(contents: Iterable[Content]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the rows by their keys. A row keeps the total return that a mention leaves out."""
    mentions: dict[tuple[str, ...], dict[str, str]] = {}
    for content in contents:
        for table, row in rows_of(content):
            key = (table, *(row[name] for name in _KEYS.get(table, _ID)))
            before = mentions.get(key, {})
            kept = {name: before[name] for name in TOTAL_RETURNS.get(table, ()) if name in before}
            mentions[key] = {**kept, **row}
    return mentions


def _write_rows(
    conn: psycopg.Connection,
    before: set[tuple[str, ...]],
    now: dict[tuple[str, ...], dict[str, str]],
) -> None:
    for table, *key in {*before, *now}:
        names = _KEYS.get(table, _ID)
        where = sql.SQL(" AND ").join(
            sql.SQL("{}::text = {}::{}::text").format(
                sql.Identifier(name), sql.Placeholder(), sql.SQL(_type_of(name))
            )
            for name in names
        )
        conn.execute(sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), where), key)
    for (table, *_), values in now.items():
        # A forged column that the table does not have is only in the journal.
        row = {n: v for n, v in values.items() if n in TABLES[table].__struct_fields__}
        columns = sql.SQL(", ").join(map(sql.Identifier, row))
        placeholders = sql.SQL(", ").join(sql.Placeholder() * len(row))
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})")
        statement = statement.format(sql.Identifier(table), columns, placeholders)
        conn.execute(statement, list(row.values()))


def _type_of(name: str) -> str:
    types = {
        "id": "uuid",
        "effective_date": "date",
        "ex_date": "date",
        "read_at": "timestamptz",
    }
    return types.get(name, "text")
