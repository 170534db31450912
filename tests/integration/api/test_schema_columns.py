"""
The declarations and the database: a declared column exists, has a fitting type, and is null only if
it may be.
"""

import psycopg
import pytest
from graphql import get_named_type, is_enum_type, is_non_null_type, is_object_type

from api.compiler import declared, source_of, table_of
from api.fields import Column
from api.schema import schema

FITS = {
    "ID": {"uuid"},
    "String": {"text", "bigint"},
    "Int": {"integer"},
    "Boolean": {"boolean"},
    "Decimal": {"numeric"},
    "Date": {"date"},
    "DateTime": {"timestamp with time zone"},
}
COLUMNS = {
    (table_of(type_), declared(field).python_name): field
    for name, type_ in schema.type_map.items()
    if is_object_type(type_) and not name.startswith("__") and table_of(type_)
    for field in type_.fields.values()
    if source_of(field) == Column()
}


VIEWS = ("profiles", "series")


@pytest.fixture(scope="module")
def catalogue(migrated) -> dict[tuple[str, str], tuple[str, bool]]:
    """Return the type of every column, and whether it may be null."""
    with psycopg.connect(migrated) as conn:
        rows = conn.execute(
            "SELECT table_name, column_name, data_type, is_nullable = 'YES' "
            "FROM information_schema.columns WHERE table_schema = 'public'"
        )
        return {(table, column): (kind, nullable) for table, column, kind, nullable in rows}


@pytest.mark.parametrize("where", COLUMNS, ids=".".join)
def test_a_declared_column(where, catalogue):
    """
    A value that the schema promises is NOT NULL; a column that may be null is declared nullable.

    Postgres does not know which column of a view may be null: what the schema promises of a view is
    checked in each row.
    """
    field = COLUMNS[where]
    named = get_named_type(field.type)
    kind, nullable = catalogue[where]
    assert kind in ({"text"} if is_enum_type(named) else FITS[named.name])
    if where[0] not in VIEWS:
        assert nullable is not is_non_null_type(field.type)


@pytest.mark.parametrize(
    ("enum", "constraints"),
    [
        ("BatchStatus", "batch_status_is_known"),
        ("FailureReason", "failure_reason_is_known"),
        ("CheckpointStatus", "checkpoint_status_is_known"),
        ("SkipReason", "skip_reason_is_known"),
        ("Action", "action_is_known"),
        ("JournalKind", "journal_kind_is_known"),
        ("TimestampKind", "timestamp_kind_is_known"),
        ("TimestampStatus", "timestamp_status_is_known"),
    ],
)
def test_an_enum_holds_what_the_column_may(enum, constraints, migrated):
    """A value that the table allows and the schema lacks could not be returned."""
    with psycopg.connect(migrated) as conn:
        (check,) = conn.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", [constraints]
        ).fetchone()
    allowed = set(check.split("'")[1::2])
    assert allowed == {str(value.value) for value in schema.type_map[enum].values.values()}


def test_what_is_not_shown():
    """Only columns that reference other rows are left out: the API shows those rows instead."""
    assert COLUMNS.keys() > {("batches", "late"), ("closes", "source"), ("corrections", "before")}


def test_absent_names_the_field(migrated):
    """It guards every promise that no constraint guarantees."""
    with (
        psycopg.connect(migrated) as conn,
        pytest.raises(psycopg.errors.NullValueNotAllowed, match=r"Pick\.batch has no value"),
    ):
        conn.execute("SELECT coalesce(NULL, absent('Pick.batch'))")
    with psycopg.connect(migrated) as conn:
        assert conn.execute("SELECT coalesce('there', absent('Pick.batch'))").fetchone() == (
            "there",
        )
