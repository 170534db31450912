"""
The rights of the three roles: what each may do with every table and function of ours, in this one place.

The owner migrates: it owns everything here, and needs no entry. The service runs the jobs: it adds
to the record, and changes only the columns that a job really changes; it can delete nothing of the
record. The reader answers the API: it reads the record.

`app/database/roles.py` makes SQL of this table, and compares a database with it. A migration that
adds a table or a function adds it here: a project test says so.
"""

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """One of the three roles."""

    OWNER = "owner"
    SERVICE = "service"
    READER = "reader"


class Need(StrEnum):
    """What a command needs: to read the record, to read all of our tables, or to do what a job does."""

    READ_RECORD = "read the record"
    READ_ALL = "read all tables"
    WORK = "run the jobs"


class Rights(NamedTuple):
    """
    The rights on one table.

    `service` are its rights on the whole table, and `updates` the columns that it may change. `reader`
    says whether the reader may read it.
    """

    service: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    reader: bool = False


_READ = ("SELECT",)
_ADD = ("SELECT", "INSERT")
_USE = ("SELECT", "INSERT", "UPDATE", "DELETE")

TABLES: dict[str, Rights] = {
    # The record. Postgres also takes the right to change one column as the right to lock a row
    # (SELECT ... FOR UPDATE), which jobs do with batches and generations.
    "public.closes": Rights(_ADD, reader=True),
    "public.splits": Rights(_ADD, reader=True),
    "public.batches": Rights(
        _ADD,
        # A failed Monday that is run again replaces its row; a batch is completed; a baseline is corrected.
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
    "public.picks": Rights(
        _ADD,
        # A pick is renamed, or ends; its open arrives late; its baseline is corrected.
        updates=("ticker", "ended", "entry_open", "entry_close_id", "initial_price", "initial_close_id"),
        reader=True,
    ),
    "public.checkpoints": Rights(
        _ADD,
        # A skipped checkpoint is taken again; a figure is corrected.
        updates=(
            "status",
            "trading_day",
            "taken_at",
            "benchmark_price",
            "benchmark_close_id",
            "benchmark_split_factor",
            "benchmark_return_pct",
            "benchmark_unusual_move",
        ),
        reader=True,
    ),
    "public.pick_checkpoint_metrics": Rights(
        _ADD,
        # The return from the open arrives late; a figure is corrected.
        updates=(
            "current_price",
            "close_id",
            "split_factor",
            "absolute_return_pct",
            "vs_benchmark_pct",
            "return_from_open_pct",
            "unusual_move",
        ),
        reader=True,
    ),
    "public.generations": Rights(
        _ADD,
        # The question is stored first, and its answer when it is there.
        updates=(
            "answered_at",
            "answered_model",
            "answer",
            "request_id",
            "prompt_tokens",
            "completion_tokens",
            "accepted",
            "refusal",
        ),
        reader=True,
    ),
    "public.corrections": Rights(_ADD, reader=True),
    "public.journal": Rights(_ADD, reader=True),
    # What the service notes for itself.
    "operations.provider_requests": Rights(_ADD, updates=("ended_at", "outcome", "rest_until", "unreadable")),
    "operations.upkeep": Rights(_ADD, updates=("last_round_at", "last_mended_at", "mended")),
    "operations.mended": Rights(_ADD, updates=("times",)),
    "operations.strikes": Rights(_USE),
    "operations.alerts": Rights(_USE),
    "operations.heartbeats": Rights(_USE),
    # Which migrations are applied: every command looks there before it reads.
    "operations.migrations": Rights(_READ, reader=True),
    "operations.queue_migrations": Rights(_READ),
    # The names of the roles, for `alpha-monday migrate`.
    "operations.roles": Rights(),
    # Of a rehearsal, which its owner runs: every role reads it, to show that the record is made up.
    "told.clock": Rights(_READ, reader=True),
}

# Procrastinate's tables come from its installed version, so they are not listed.
QUEUE = "queue"
QUEUE_TABLES = Rights(_USE)

# The schemas that are ours alone, and the one that other programs may use beside us.
OURS = ("operations", QUEUE, "told")
SHARED = "public"

# Our functions in the shared schema, each with who may call it. Postgres calls the others for its triggers, and asks
# for no right then.
FUNCTIONS: dict[str, tuple[Kind, ...]] = {
    "absent": (Kind.SERVICE, Kind.READER),
    "a_computed_checkpoint_never_goes_back": (),
    "an_entry_follows_the_head": (),
    "announce": (),
    "checkpoint_belongs_to_its_batch": (),
    "metric_belongs_to_its_checkpoint": (),
    "only_with_a_correction": (),
    "refuse_change": (),
    "these_never_change": (),
}

# Where those functions look up names, whatever the session says: a guard of the record that read a temporary table
# called `journal` would guard nothing.
FUNCTION_PATH = "pg_catalog, public, pg_temp"


def rights_on(schema: str, table: str) -> Rights | None:
    """Return the rights on a table; None for one that is not ours."""
    if schema == QUEUE:
        return QUEUE_TABLES
    return TABLES.get(f"{schema}.{table}")


def of_table(kind: Kind, rights: Rights) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a role may do with a whole table, and which of its columns it may change."""
    match kind:
        case Kind.SERVICE:
            return rights.service, rights.updates
        case Kind.READER if rights.reader:
            return _READ, ()
    return (), ()


def of_need(need: Need, rights: Rights) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the same for a command's need."""
    if need == Need.WORK:
        return of_table(Kind.SERVICE, rights)
    if need == Need.READ_RECORD:
        return of_table(Kind.READER, rights)
    return ("SELECT",) if "SELECT" in rights.service else (), ()
