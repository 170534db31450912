"""
The rights of the three roles on every table and function of ours.

The owner migrates: it owns everything, and needs no entry here. The service runs the jobs: it adds
rows to the record, and changes only the columns that a job changes; it cannot delete anything from
the record. The reader answers the API: it reads the record.

`app/database/roles.py` builds its SQL from `TABLES` and `FUNCTIONS` below, and compares a database
with them. If a migration creates a table or a function, add it here; otherwise a test fails.
"""

from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """One of the three roles. The values are options of `alpha-monday roles`, and are stored."""

    OWNER = "owner"
    SERVICE = "service"
    READER = "reader"


class Need(StrEnum):
    """The purpose for which a command needs its rights."""

    READ_RECORD = "read the record"
    READ_ALL = "read all tables"
    WORK = "run the jobs"


class Grants(NamedTuple):
    """The rights that a role gets on a table: on the whole table, and UPDATE on some columns."""

    whole: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()


class TableRights(NamedTuple):
    """
    The rights on one table.

    `service` are the service's rights on the whole table, and `updates` the columns that it may
    change. `reader` says whether the reader may read the table.
    """

    service: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    reader: bool = False


_READ = ("SELECT",)
_ADD = ("SELECT", "INSERT")
_USE = ("SELECT", "INSERT", "UPDATE", "DELETE")

TABLES: dict[str, TableRights] = {
    # The record. Jobs lock rows of batches and generations (SELECT ... FOR UPDATE); for that, the
    # right to change one column is enough.
    "public.closes": TableRights(_ADD, reader=True),
    "public.splits": TableRights(_ADD, reader=True),
    "public.dividends": TableRights(_ADD, reader=True),
    "public.rates": TableRights(_ADD, reader=True),
    "public.batches": TableRights(
        _ADD,
        # The row of a failed Monday is replaced when that Monday is run again; a batch is
        # completed; a baseline is corrected.
        updates=(
            "created_at",
            "status",
            "late",
            "failure_reason",
            "failure",
            "benchmark_symbol",
            "benchmark_initial_price",
            "benchmark_initial_close_id",
            "trading_day",
        ),
        reader=True,
    ),
    "public.picks": TableRights(
        _ADD,
        # A pick is renamed, or ends; its open is stored after the pick itself; its baseline is
        # corrected.
        updates=(
            "ticker",
            "ended",
            "entry_open",
            "entry_close_id",
            "initial_price",
            "initial_close_id",
        ),
        reader=True,
    ),
    "public.checkpoints": TableRights(
        _ADD,
        # A skipped checkpoint is taken again; a total return is added; a figure is corrected.
        updates=(
            "status",
            "trading_day",
            "taken_at",
            "benchmark_price",
            "benchmark_close_id",
            "benchmark_split_factor",
            "benchmark_return_pct",
            "benchmark_unusual_move",
            "benchmark_dividends",
            "benchmark_total_return_pct",
            "benchmark_spin_off_counted_once",
        ),
        reader=True,
    ),
    "public.pick_checkpoint_metrics": TableRights(
        _ADD,
        # The return from the open and the total return are stored after the rest of the metric; a
        # figure is corrected.
        updates=(
            "current_price",
            "close_id",
            "split_factor",
            "absolute_return_pct",
            "vs_benchmark_pct",
            "return_from_open_pct",
            "unusual_move",
            "dividends",
            "total_return_pct",
            "vs_benchmark_total_pct",
            "spin_off_counted_once",
        ),
        reader=True,
    ),
    "public.further_benchmarks": TableRights(
        _ADD,
        # A figure is corrected.
        updates=("further_split_factor", "further_return_pct"),
        reader=True,
    ),
    "public.generations": TableRights(
        _ADD,
        # A row is inserted before its question is sent, and gets the answer afterwards.
        updates=(
            "answered_at",
            "answered_model",
            "answer",
            "request_id",
            "prompt_tokens",
            "completion_tokens",
            "finish_reason",
            "system_fingerprint",
            "reasoning_tokens",
            "accepted",
            "refusal",
        ),
        reader=True,
    ),
    "public.corrections": TableRights(_ADD, reader=True),
    "public.journal": TableRights(_ADD, reader=True),
    "public.timestamps": TableRights(_ADD, reader=True),
    # Views: the journal's SERIES entries, and the series of the record.
    "public.profiles": TableRights(_READ, reader=True),
    "public.series": TableRights(_READ, reader=True),
    # The service's own state.
    "operations.provider_requests": TableRights(
        _ADD, updates=("ended_at", "outcome", "rest_until", "unreadable")
    ),
    "operations.upkeep": TableRights(_ADD, updates=("last_round_at", "last_mended_at", "mended")),
    "operations.mended": TableRights(_ADD, updates=("times",)),
    "operations.strikes": TableRights(_USE),
    "operations.alerts": TableRights(_USE),
    "operations.heartbeats": TableRights(_USE),
    "operations.published_heads": TableRights(
        _ADD,
        updates=(
            "seq",
            "hash",
            "at",
            "commit_id",
            "published_at",
            "requested_seq",
            "requested_at",
            "failing_since",
            "failure",
            "alerted_at",
        ),
    ),
    "operations.model_ends": TableRights(_USE),
    # The applied migrations: every command reads them before it reads the record.
    "operations.migrations": TableRights(_READ, reader=True),
    "operations.queue_migrations": TableRights(_READ),
    # The names of the roles, for `alpha-monday migrate`.
    "operations.roles": TableRights(),
    # The simulated clock of a rehearsal. Only the owner can run a rehearsal. Every role reads this
    # table, to recognise a simulated record.
    "told.clock": TableRights(_READ, reader=True),
}

# Procrastinate's tables depend on its installed version, so they are not listed one by one.
QUEUE_SCHEMA = "queue"
QUEUE_TABLES = TableRights(_USE)

# The schema of the simulated clock, `told.clock`. Only the database of a rehearsal has it.
CLOCK_SCHEMA = "told"

# The schemas that only this program uses, and the one that other programs may use as well.
OWN_SCHEMAS = ("operations", QUEUE_SCHEMA, CLOCK_SCHEMA)
SHARED_SCHEMA = "public"

# Our functions in the shared schema, and the roles that may call each of them. The functions
# without a role are called by triggers, and a trigger needs no right on its function.
FUNCTIONS: dict[str, tuple[Role, ...]] = {
    "absent": (Role.SERVICE, Role.READER),
    "a_computed_checkpoint_never_goes_back": (),
    "a_timestamp_is_of_an_entry": (),
    "an_entry_follows_the_head": (),
    "announce": (),
    "checkpoint_belongs_to_its_batch": (),
    # The view `profiles` calls these two. A view calls functions with the rights of its reader.
    "date_or_null": (Role.SERVICE, Role.READER),
    "json_object_or_null": (Role.SERVICE, Role.READER),
    "further_benchmark_belongs_to_its_batch": (),
    "further_benchmark_only_with_a_correction": (),
    "metric_belongs_to_its_checkpoint": (),
    "only_with_a_correction": (),
    "refuse_change": (),
    "refuse_older_version": (),
    "these_never_change": (),
}

# The search_path that these functions use, instead of the one of their caller. Otherwise a trigger
# that guards the record could read a temporary table with the name `journal`.
FUNCTION_PATH = "pg_catalog, public, pg_temp"


def rights_on(schema: str, table: str) -> TableRights | None:
    """Return the rights on a table, or None if it is not one of ours."""
    if schema == QUEUE_SCHEMA:
        return QUEUE_TABLES
    return TABLES.get(f"{schema}.{table}")


def grants_for_role(role: Role, rights: TableRights) -> Grants:
    """Return the grants of a role on a table: none for the owner, who has every right on it."""
    if role == Role.SERVICE:
        return Grants(whole=rights.service, updates=rights.updates)
    if role == Role.READER and rights.reader:
        return Grants(whole=_READ)
    return Grants()


def grants_for_need(need: Need, rights: TableRights) -> Grants:
    """Return the grants that a command needs on a table."""
    if need == Need.WORK:
        return grants_for_role(Role.SERVICE, rights)
    if need == Need.READ_RECORD:
        return grants_for_role(Role.READER, rights)
    # READ_ALL: the tables that the service may read.
    if "SELECT" in rights.service:
        return Grants(whole=_READ)
    return Grants()
