"""
The schema: up and down, by several processes at once, and what its constraints refuse, by name.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import commands
import psycopg
import pytest
from later_kinds import append_later
from psycopg import sql

from app.database import migrations
from app.domain import journal
from app.domain.model import JournalKind
from app.errors import ConfigurationError

AT = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [
    "record",
    "journal",
    "queue",
    "ledger",
    "absent",
    "open",
    "guards",
    "announce",
    "upkeep",
    "mended",
    "alerts",
    "benchmark_mark",
    "unreadable",
    "kinds",
    "sealed",
    "timestamps",
    "published_heads",
    "older_versions",
    "profiles",
    "series",
    "rates",
    "model_ends",
    "alert_series",
    "dividends",
    "further_benchmarks",
]
LAST = len(NAMES)

CATALOGUE = """
SELECT 'column', table_schema, table_name, column_name,
    concat_ws(' ', data_type, is_nullable, column_default, is_identity)
FROM information_schema.columns WHERE table_schema = ANY(%(ours)s)
UNION ALL
SELECT 'constraint', n.nspname, r.relname, c.conname, pg_get_constraintdef(c.oid)
FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid =
    c.connamespace
WHERE n.nspname = ANY(%(ours)s)
UNION ALL
SELECT 'index', schemaname, tablename, indexname, indexdef FROM pg_indexes WHERE schemaname =
    ANY(%(ours)s)
UNION ALL
SELECT 'trigger', n.nspname, r.relname, t.tgname, pg_get_triggerdef(t.oid)
FROM pg_trigger t JOIN pg_class r ON r.oid = t.tgrelid JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE NOT t.tgisinternal AND n.nspname = ANY(%(ours)s)
UNION ALL
SELECT 'function', n.nspname, p.proname, p.oid::regprocedure::text, pg_get_functiondef(p.oid)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prokind = 'f' AND n.nspname
    = ANY(%(ours)s)
UNION ALL
SELECT 'type', n.nspname, t.typname, e.enumlabel, e.enumsortorder::text
FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = ANY(%(ours)s)
UNION ALL
SELECT 'comment', 'public', relname, '', obj_description(oid, 'pg_class')
FROM pg_class WHERE obj_description(oid, 'pg_class') IS NOT NULL AND relnamespace =
    'public'::regnamespace
ORDER BY 1, 2, 3, 4, 5
"""


def up(address: str) -> list[str]:
    """Apply all migrations."""
    return asyncio.run(migrations.migrate(address, AT))


def down(address: str, to: int) -> list[str]:
    """Take migrations back."""
    return asyncio.run(migrations.migrate(address, AT, to))


def applied(address: str) -> list[int]:
    """Return the numbers of the applied migrations."""
    return [step.number for step in asyncio.run(migrations.status(address)) if step.applied_at]


def catalogue(address: str) -> list[tuple[str, ...]]:
    """Return every named object of a database, with its definition."""
    with psycopg.connect(address) as conn:
        return conn.execute(CATALOGUE, {"ours": ["public", "queue", "operations"]}).fetchall()


def test_up_down_and_up_again(empty):
    """
    After all steps down, only the history is left; after all steps up, everything is as before.
    """
    assert up(empty) == [
        *(f"{number:04} {name}: applied" for number, name in enumerate(NAMES, 1)),
        "queue: installed",
    ]
    before = catalogue(empty)
    assert {kind for kind, *_ in before} == {
        "column",
        "constraint",
        "index",
        "trigger",
        "function",
        "type",
        "comment",
    }

    assert down(empty, 0) == [
        f"{number:04} {NAMES[number - 1]}: taken back" for number in range(LAST, 0, -1)
    ]
    assert applied(empty) == []
    left = {(schema, table) for kind, schema, table, *_ in catalogue(empty)}
    assert left == {("operations", "migrations"), ("operations", "queue_migrations")}
    with psycopg.connect(empty) as conn:
        assert conn.execute("SELECT to_regnamespace('queue')").fetchone() == (None,)
        assert conn.execute("SELECT count(*) FROM operations.queue_migrations").fetchone() == (0,)

    up(empty)
    assert catalogue(empty) == before


def test_each_step_down_and_up_again(empty):
    """Every migration can be taken back, and applying it again restores what it creates."""
    up(empty)
    before = catalogue(empty)
    for number in range(LAST - 1, 0, -1):
        down(empty, number)
        assert applied(empty) == list(range(1, number + 1))
        up(empty)
        assert catalogue(empty) == before


def test_up_to_date(empty):
    """A second run has nothing to do, and neither has a step down to the present number."""
    up(empty)
    assert up(empty) == []
    assert down(empty, len(NAMES)) == []
    assert applied(empty) == [*range(1, LAST + 1)]


@pytest.mark.parametrize("number", [-1, LAST + 1])
def test_an_unknown_number(empty, number):
    """Going down to a migration that does not exist is refused."""
    with pytest.raises(
        ConfigurationError, match=rf"^--down-to takes a number from 0 to {LAST}, not {number}\.$"
    ):
        down(empty, number)


def test_status_changes_nothing(empty):
    """Every migration is listed with its time; an empty database stays empty."""
    steps = asyncio.run(migrations.status(empty))
    assert [(step.number, step.name, step.applied_at) for step in steps] == [
        (number, name, None) for number, name in enumerate(NAMES, 1)
    ]
    assert catalogue(empty) == []
    up(empty)
    down(empty, 7)
    steps = asyncio.run(migrations.status(empty))
    assert [step.applied_at for step in steps] == [*[AT] * 7, *[None] * (LAST - 7)]


def command(address: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `alpha-monday migrate` as a separate process."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("alpha-monday"), "migrate", *arguments],
        env={**os.environ, "DATABASE_URL": address, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_four_processes_at_once(empty):
    """Of four processes one migrates, the others find nothing to do, and all of them succeed."""
    processes = [command(empty) for _ in range(4)]
    ended = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0, 0, 0, 0], ended
    lines = sorted(line for (out, _), _ in ended for line in out.splitlines())
    done = [f"{number:04} {name}: applied" for number, name in enumerate(NAMES, 1)]
    assert lines == [*done, *["The database is up to date."] * 3, "queue: installed"]
    assert applied(empty) == [*range(1, LAST + 1)]

    out, err = command(empty, "--status").communicate(timeout=60)
    assert [line.split(": applied ")[0] for line in out.splitlines()] == [
        f"{number:04} {name}" for number, name in enumerate(NAMES, 1)
    ], err


def test_a_lock_that_is_held(empty, monkeypatch, capsys):
    """
    A migration that waits too long for a lock changes nothing and says so; the message is not
    about an unavailable database.
    """
    up(empty)
    monkeypatch.setattr(migrations, "_SET_LOCK_TIMEOUT", "SET LOCAL lock_timeout = '50ms'")
    with psycopg.connect(empty) as conn:
        conn.execute("LOCK TABLE operations.strikes")
        result = commands.command(capsys, "migrate", "--down-to", 8, "--yes", DATABASE_URL=empty)
    assert (result.exit_code, result.output) == (1, "")
    assert re.search(
        r"\nalpha-monday: Another session held a lock .* run it again\.\n$", result.error
    )
    assert applied(empty)[-1] == LAST


def test_an_old_database_is_refused(empty):
    """A database that lacks a migration is refused with its name; an up-to-date one is accepted."""
    with pytest.raises(
        ConfigurationError, match=r"lacks migration 0001 \(record\)\. Run `alpha-monday migrate`"
    ):
        asyncio.run(migrations.require_current(empty))
    up(empty)
    asyncio.run(migrations.require_current(empty))
    down(empty, 7)
    with pytest.raises(ConfigurationError, match=r"lacks migration 0008 \(announce\)"):
        asyncio.run(migrations.require_current(empty))


def append_first(address: str) -> None:
    """Append the first entry of a journal."""
    first = journal.next_entry(None, kind=JournalKind.BATCH, at=AT, recorded={})
    with psycopg.connect(address) as conn:
        conn.execute(
            "INSERT INTO journal (seq, kind, at, content, previous, hash) "
            "VALUES (1, 'BATCH', %s, %s, %s, %s)",
            (AT, first.content, first.previous, first.hash),
        )


@pytest.mark.parametrize("kind", [JournalKind.CHECK, JournalKind.RULES])
def test_the_kinds_are_taken_back_only_without_entries_of_them(empty, capsys, kind):
    """
    The step back before 0014 is refused in one line if the journal has an entry of a new kind: the
    versions before it cannot read such an entry.
    """
    up(empty)
    down(empty, 14)
    append_first(empty)
    # Without such an entry, the step back works, and the other one, too.
    assert down(empty, 13) == ["0014 kinds: taken back"]
    assert up(empty)[0] == "0014 kinds: applied"
    down(empty, 14)
    with psycopg.connect(empty) as conn:
        append_later(conn, kind)

    before = catalogue(empty)
    options = ("migrate", "--down-to", 13, "--yes")
    result = commands.command(capsys, *options, DATABASE_URL=empty)
    assert (result.exit_code, result.output) == (1, "")
    (line,) = commands.without_place(result.error).splitlines()
    assert line.startswith("alpha-monday: The database ")
    assert line.endswith(
        "refused: Migration 0014 (kinds) cannot be taken back: entry 2 of the journal has the kind "
        f"{kind}, which the versions before this migration cannot read"
    )
    assert catalogue(empty) == before
    assert applied(empty)[-1] == 14


@pytest.mark.parametrize(
    ("number", "name", "kind"),
    [(21, "rates", JournalKind.NOTE), (24, "dividends", JournalKind.SUPPLEMENT)],
)
def test_later_kinds_are_taken_back_only_without_entries_of_them(empty, capsys, number, name, kind):
    """As above, for the migrations that made room for further kinds."""
    up(empty)
    append_first(empty)
    with psycopg.connect(empty) as conn:
        append_later(conn, kind)
    options = ("migrate", "--down-to", number - 1, "--yes")
    result = commands.command(capsys, *options, DATABASE_URL=empty)
    assert (result.exit_code, result.output) == (1, "")
    (line,) = commands.without_place(result.error).splitlines()
    assert line.endswith(
        f"refused: Migration {number:04} ({name}) cannot be taken back: entry 2 of the journal has "
        f"the kind {kind}, which the versions before this migration cannot read"
    )
    assert applied(empty)[-1] > number


def test_a_former_file_is_accepted(empty):
    """A migration whose file had a fault that only stopped it may have been applied before."""
    up(empty)
    for former in migrations._FORMER_CHECKSUMS.values():
        for checksum in former:
            with psycopg.connect(empty) as conn:
                conn.execute(
                    "UPDATE operations.migrations SET checksum = %s WHERE number = 25", [checksum]
                )
            assert up(empty) == []
    assert down(empty, 24) == ["0025 further_benchmarks: taken back"]
    assert up(empty)[0] == "0025 further_benchmarks: applied"


def test_a_changed_file_is_refused(empty):
    """
    A migration whose file was changed after it was applied stops every migration, up and down.
    """
    up(empty)
    before = catalogue(empty)
    with psycopg.connect(empty) as conn:
        conn.execute("UPDATE operations.migrations SET checksum = %s WHERE number = 2", ["0" * 64])
    for change in (up, lambda address: down(address, 0)):
        with pytest.raises(
            ConfigurationError,
            match=r"^Migration 0002 \(journal\) was changed after it was applied",
        ):
            change(empty)
    assert catalogue(empty) == before


def newer(address: str) -> None:
    """Add a migration to the history that this version does not know."""
    with psycopg.connect(address) as conn:
        conn.execute(
            "INSERT INTO operations.migrations (number, name, checksum, applied_at) VALUES "
            "(9999, 'newer', 'x', %s)",
            [AT],
        )


def test_a_database_that_is_ahead(empty):
    """The previous version works with a newer migration, but cannot take it back."""
    up(empty)
    newer(empty)
    before = catalogue(empty)
    asyncio.run(migrations.require_current(empty))
    assert up(empty) == []
    with pytest.raises(ConfigurationError, match="9999"):
        down(empty, 4)
    assert catalogue(empty) == before
    assert applied(empty) == [*range(1, LAST + 1)]


def test_a_gap_in_the_history_is_refused(empty):
    """A database that lacks a migration below its last one is refused."""
    up(empty)
    with psycopg.connect(empty) as conn:
        conn.execute("DELETE FROM operations.migrations WHERE number = 4")
    with pytest.raises(ConfigurationError, match="0004"):
        up(empty)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        pytest.param(
            ["0001_a.up.sql", "0001_a.down.sql", "0003_c.up.sql", "0003_c.down.sql"],
            "0003_c",
            id="a gap",
        ),
        pytest.param(["0002_b.up.sql", "0002_b.down.sql"], "0002_b", id="no first one"),
        pytest.param(["0001_a.up.sql"], "0001_a", id="no way down"),
        pytest.param(
            ["0001_a.up.sql", "0001_a.down.sql", "0001_b.up.sql", "0001_b.down.sql"],
            "0001_b",
            id="a number twice",
        ),
        pytest.param(["1_a.up.sql", "1_a.down.sql"], "1_a", id="a short number"),
        pytest.param(["0001.up.sql", "0001.down.sql"], "0001", id="no name"),
    ],
)
def test_misnumbered_files_are_refused(tmp_path, files, named):
    """Migrations are numbered without gaps, each with its .down.sql."""
    for file in files:
        (tmp_path / file).write_text("SELECT 1;")
    with pytest.raises(
        ConfigurationError, match=rf"^{named}\.up\.sql: migrations are numbered without gaps"
    ):
        migrations.load_migrations(tmp_path)


def test_our_files():
    """The migrations, in their order."""
    assert [step.name for step in migrations.load_migrations()] == NAMES


def test_the_queues_files_are_known():
    """
    This test fails if a new version of the queue has further migration files, so that they are
    reviewed.
    """
    assert migrations.queue_files() == [
        "00.00.00_01_initial.sql",
        "00.05.00_01_drop_started_at_column.sql",
        "00.05.00_02_drop_started_at_column.sql",
        "00.05.00_03_drop_procrastinate_version_table.sql",
        "00.06.00_01_fix_procrastinate_fetch_job.sql",
        "00.07.01_01_fix_trigger_status_events_insert.sql",
        "00.08.01_01_add_queueing_lock_column.sql",
        "00.10.00_01_close_fetch_job_race_condition.sql",
        "00.10.00_02_add_defer_job_function.sql",
        "00.11.00_03_add_procrastinate_periodic_defers.sql",
        "00.12.00_01_add_foreign_key_index.sql",
        "00.14.00_01_add_locks_to_periodic_defer.sql",
        "00.15.02_01_fix_procrastinate_defer_periodic_job.sql",
        "00.16.00_01_add_finish_job_and_retry_job_functions.sql",
        "00.17.00_01_add_trigger_on_job_deletion.sql",
        "00.17.00_02_delete_finished_jobs.sql",
        "00.17.00_03_add_checks_to_finish_job.sql",
        "00.17.00_04_add_checks_to_retry_job.sql",
        "00.18.01_01_fix_finish_job_compat_issue.sql",
        "00.19.00_01_add_index_on_procrastinate_jobs.sql",
        "00.22.00_01_add_kwargs_to_defer_periodic_job.sql",
        "00.23.00_01_null_locks_excluded.sql",
        "01.00.00_01_remove_old_finish_job_function.sql",
        "01.01.01_01_job_id_bigint.sql",
        "02.00.03_01_add_job_priority.sql",
        "02.05.00_01_add_periodic_job_priority.sql",
        "02.06.00_01_add_cancel_states.sql",
        "02.08.00_01_add_additional_params_to_retry_job.sql",
        "02.14.01_01_add_indexes_for_fetch_job.sql",
        "03.00.00_01_pre_cancel_notification.sql",
        "03.00.00_50_post_cancel_notification.sql",
        "03.01.00_01_pre_add_heartbeat.sql",
        "03.01.00_50_post_add_heartbeat.sql",
        "03.02.00_01_pre_batch_defer_jobs.sql",
        "03.02.00_50_post_batch_defer_jobs.sql",
        "03.03.00_01_pre_priority_lock_fetch_job.sql",
        "03.04.00_01_pre_add_retry_failed_job_procedure.sql",
        "03.04.00_50_post_add_retry_failed_job_procedure.sql",
    ]


def test_the_queues_history(migrated):
    """The files that a new installation includes are recorded as applied."""
    with psycopg.connect(migrated) as conn:
        remembered = conn.execute(
            "SELECT file FROM operations.queue_migrations ORDER BY file"
        ).fetchall()
    assert [file for (file,) in remembered] == migrations.queue_files()


def test_only_domain_tables_in_public(migrated):
    """The queue, the history of migrations and the ledger have schemas of their own."""
    with psycopg.connect(migrated) as conn:
        relations = conn.execute(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
    tables = {
        schema: {name for where, name in relations if where == schema} for schema, _ in relations
    }
    assert tables["public"] == {
        "batches",
        "checkpoints",
        "closes",
        "corrections",
        "further_benchmarks",
        "dividends",
        "generations",
        "journal",
        "pick_checkpoint_metrics",
        "picks",
        "profiles",
        "rates",
        "series",
        "splits",
        "timestamps",
    }
    assert tables["operations"] == {
        "alerts",
        "heartbeats",
        "mended",
        "migrations",
        "model_ends",
        "provider_requests",
        "published_heads",
        "queue_migrations",
        "strikes",
        "upkeep",
    }
    assert all(name.startswith("procrastinate_") for name in tables["queue"])
    assert tables.keys() == {"public", "operations", "queue"}


def id_(number: int) -> UUID:
    """Return an id by its number."""
    return UUID(int=number)


def at(text: str) -> datetime:
    """Return a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def chained(seq: int, previous: str, content: str = "{}", **changes: object) -> dict[str, object]:
    """Return a row of the journal with the correct hash."""
    hashed = sha256(f"{previous}\n{content}".encode()).hexdigest()
    return {
        "seq": seq, "kind": "BATCH", "at": AT, "content": content, "previous": previous,
        "hash": hashed
    } | changes  # fmt: skip


CLOSE = {
    "open": 99,
    "close": 100,
    "source": "test",
    "trading_day": "2026-01-02",
    "read_at": at("2026-01-05 14:00"),
}
BATCH = {
    "series": "main", "run_date": "2026-01-05", "created_at": at("2026-01-05 14:00"),
    "status": "active", "late": False,
    "benchmark_symbol": "SPY", "benchmark_initial_price": 100, "benchmark_initial_close_id": id_(1),
    "trading_day": "2026-01-02",
}  # fmt: skip
PICK = {
    "batch_id": id_(10), "position": 1, "ticker": "KO", "action": "BUY",
    "reasoning": "It will rise.",
    "initial_price": 60, "initial_close_id": id_(2), "entry_open": 61, "entry_close_id": id_(2),
    "ended": False,
}  # fmt: skip
CHECKPOINT = {
    "batch_id": id_(10), "day": 1, "checkpoint_date": "2026-01-06", "trading_day": "2026-01-05",
    "status": "computed",
    "taken_at": at("2026-01-06 14:00"), "benchmark_price": 101, "benchmark_close_id": id_(1),
    "benchmark_split_factor": 1, "benchmark_return_pct": 1,
}  # fmt: skip
NO_PRICES = dict.fromkeys(
    [
        "trading_day",
        "benchmark_price",
        "benchmark_close_id",
        "benchmark_split_factor",
        "benchmark_return_pct",
    ]
)
SKIPPED = NO_PRICES | {
    "status": "skipped",
    "skip_reason": "MISSING_CLOSE",
    "skipped_at": at("2026-01-07 14:00"),
}
METRIC = {
    "checkpoint_id": id_(31), "pick_id": id_(21), "current_price": 66, "close_id": id_(2),
    "split_factor": 1,
    "absolute_return_pct": 10, "vs_benchmark_pct": 9, "return_from_open_pct": 8,
    "unusual_move": False, "ended": False,
}  # fmt: skip
# What only the result of a batch has: the total returns.
BENCHMARK_TOTAL = {
    "benchmark_dividends": "0.5",
    "benchmark_total_return_pct": "1.5",
    "benchmark_spin_off_counted_once": False,
}
TOTAL = {
    "dividends": "0.6",
    "total_return_pct": 11,
    "vs_benchmark_total_pct": "9.5",
    "spin_off_counted_once": False,
}
QUESTION = {
    "series": "main", "run_date": "2026-01-05", "attempt": 1, "asked_at": AT,
    "requested_model": "m",
    "prompt_version": "1", "system_prompt": "s", "user_prompt": "u",
}  # fmt: skip
ANSWERED = {"answered_at": AT, "answer": "{}", "accepted": True}
FAILED = {
    "status": "failed", "failure_reason": "MISSED", "failure": "Nobody was there.",
    "benchmark_initial_price": None,
    "benchmark_initial_close_id": None, "trading_day": None,
}  # fmt: skip
CORRECTION = {
    "checkpoint_id": id_(31), "field": "current_price", "ticker": "KO", "before": "66",
    "after": "33",
    "reason": "A split.", "made_at": AT,
}  # fmt: skip
SPLIT = {
    "ticker": "KO",
    "effective_date": "2026-01-06",
    "factor": 2,
    "source": "test",
    "read_at": AT,
}
DIVIDEND = {
    "ticker": "KO",
    "ex_date": "2025-12-31",
    "amount": "0.51",
    "source": "test",
    "read_at": AT,
}
RATE = {"observed_on": "2025-12-26", "value_pct": "3.87", "source": "test", "read_at": AT}
FURTHER = {
    "batch_id": id_(10), "symbol": "RSP", "position": 1, "trading_day": "2026-01-05",
    "further_initial_price": 100, "further_initial_close_id": id_(1), "further_price": 101,
    "further_close_id": id_(2), "further_split_factor": 1, "further_return_pct": 1,
    "measured_at": at("2026-01-06 14:00"),
}  # fmt: skip
FIRST = chained(1, "0" * 64)
TOKEN = {
    "seq": 1, "hash": FIRST["hash"], "kind": "RFC3161", "status": "CONFIRMED",
    "authority": "https://tsa.example/tsr", "at": AT, "accuracy_seconds": "0.5",
    "received_at": AT, "nonce": "42", "proof": b"\x30\x00", "chain": "-----BEGIN",
    "block_height": None,
}  # fmt: skip
OPEN_QUESTION = {"answered_at": None, "answer": None, "accepted": None}
PROMISE = {
    "kind": "OPENTIMESTAMPS", "status": "PENDING", "authority": "https://a.pool.example",
    "accuracy_seconds": None, "nonce": None, "chain": None,
}  # fmt: skip

# A record that every rule allows...
RECORD = [
    ("closes", {"id": id_(1), "ticker": "SPY", **CLOSE}),
    ("closes", {"id": id_(2), "ticker": "KO", **CLOSE}),
    ("splits", SPLIT),
    ("dividends", DIVIDEND),
    ("rates", RATE),
    ("batches", {"id": id_(10), **BATCH}),
    ("batches", {"id": id_(11), **BATCH, "series": "second"}),
    ("batches", {"id": id_(12), **BATCH, **FAILED, "series": "third"}),
    ("picks", {"id": id_(21), **PICK}),
    ("picks", {"id": id_(22), **PICK, "position": 2, "ticker": "BRK.B"}),
    ("picks", {"id": id_(23), **PICK, "batch_id": id_(11)}),
    (
        "checkpoints",
        {
            "id": id_(30), **CHECKPOINT, "day": 0, "checkpoint_date": "2026-01-05",
            "trading_day": "2026-01-02",
            "benchmark_return_pct": None,
        },
    ),
    ("checkpoints", {"id": id_(31), **CHECKPOINT, **BENCHMARK_TOTAL}),
    ("checkpoints", {"id": id_(32), **CHECKPOINT, **SKIPPED, "day": 2,
    "checkpoint_date": "2026-01-07"}),
    ("pick_checkpoint_metrics", {"id": id_(41), **METRIC, **TOTAL}),
    ("further_benchmarks", {"id": id_(81), **FURTHER}),
    ("generations", {"id": id_(51), **QUESTION, **ANSWERED}),
    ("corrections", {"id": id_(61), **CORRECTION}),
    ("journal", FIRST),
    ("timestamps", {"id": id_(71), **TOKEN}),
]  # fmt: skip

# ... and one more row of each table that fits into it. A case is one of these with one thing wrong.
MORE = {
    "closes": {"id": id_(3), "ticker": "MSFT", **CLOSE},
    "splits": SPLIT | {"effective_date": "2026-01-07"},
    "dividends": DIVIDEND | {"ex_date": "2025-12-30"},
    "rates": RATE | {"observed_on": "2025-12-19"},
    "batches": {"id": id_(13), **BATCH, "run_date": "2026-01-12", "trading_day": "2026-01-09"},
    "picks": {"id": id_(24), **PICK, "position": 3, "ticker": "XOM"},
    "checkpoints": {
        "id": id_(33), **CHECKPOINT, "day": 3, "checkpoint_date": "2026-01-08",
        "trading_day": "2026-01-07",
    },
    "pick_checkpoint_metrics": {"id": id_(42), **METRIC, "pick_id": id_(22)},
    "further_benchmarks": {"id": id_(82), **FURTHER, "symbol": "IWM", "position": 2},
    "generations": {"id": id_(52), **QUESTION, **ANSWERED, "attempt": 2},
    "corrections": {"id": id_(62), **CORRECTION},
    "journal": chained(2, FIRST["hash"]),
    "timestamps": {"id": id_(72), **TOKEN, "authority": "https://other.example"},
}  # fmt: skip

ALLOWED = [
    *((table, {}) for table in MORE),
    ("closes", {"open": None}),
    ("closes", {"read_at": at("2026-01-03 05:00")}),
    ("closes", {"trading_day": "2026-07-02", "read_at": at("2026-07-03 04:00")}),
    ("closes", {"read_at": at("2026-01-06 14:00"), "ticker": "KO"}),
    ("splits", {"factor": "0.1"}),
    ("dividends", {"amount": 0}),
    # The day of the reading, in New York: there it is the day before.
    ("dividends", {"ex_date": "2026-01-01", "read_at": at("2026-01-01 05:00")}),
    ("dividends", {"ex_date": "2025-12-31", "read_at": at("2026-01-01 04:59")}),
    ("rates", {"value_pct": "-0.05"}),
    ("batches", FAILED),
    ("batches", {"status": "completed"}),
    ("picks", {"entry_open": None, "entry_close_id": None, "action": "SELL", "ticker": "BF.B"}),
    ("checkpoints", SKIPPED),
    ("checkpoints", SKIPPED | {"skip_reason": "MARKET_CLOSED"}),
    ("checkpoints", {"skip_reason": "MISSING_CLOSE", "skipped_at": AT}),
    ("checkpoints", {"benchmark_return_pct": "-33.33333333333333333333333333"}),
    ("checkpoints", {"day": 14, "checkpoint_date": "2026-01-19"}),
    *(("checkpoints", {"benchmark_unusual_move": mark}) for mark in (True, False, None)),
    ("pick_checkpoint_metrics", {"close_id": None, "ended": True}),
    ("checkpoints", BENCHMARK_TOTAL),
    ("checkpoints", BENCHMARK_TOTAL | {"benchmark_dividends": 0}),
    ("checkpoints", BENCHMARK_TOTAL | {"benchmark_total_return_pct": "-100"}),
    ("pick_checkpoint_metrics", {"return_from_open_pct": None}),
    ("pick_checkpoint_metrics", TOTAL),
    ("pick_checkpoint_metrics", TOTAL | {"dividends": 0, "spin_off_counted_once": True}),
    *(("picks", {"probability": percent}) for percent in (None, 50, 99)),
    ("generations", OPEN_QUESTION),
    ("generations", {**OPEN_QUESTION, "reasoning_effort": "low"}),
    (
        "generations",
        {"finish_reason": "stop", "system_fingerprint": "fp_1", "reasoning_tokens": 0},
    ),
    (
        "generations",
        {"answered_at": None, "answer": None, "accepted": False, "refusal": "No answer."},
    ),
    ("corrections", {"ticker": None, "before": None, "after": None}),
    ("timestamps", PROMISE),
    ("timestamps", PROMISE | {"status": "CONFIRMED", "block_height": 870_000}),
]

NOT_PRICES = [0, -1, "NaN", "Infinity"]
NOT_NUMBERS = ["NaN", "Infinity", "-Infinity"]
NOT_AMOUNTS = [-1, "-0.0001", "NaN", "Infinity", "-Infinity"]
NOT_TICKERS = ["", "brk.b", "BRK-B", "TOOLONG", "BRK.BB", "KO\n", " KO", "КО"]

REFUSED = [
    ("picks", {"entry_close_id": None}, "an_open_names_its_reading"),
    ("picks", {"entry_open": None}, "an_open_names_its_reading"),
    ("closes", {"ticker": "KO"}, "one_reading_at_a_time"),
    *(("closes", {"ticker": ticker}, "ticker_is_well_formed") for ticker in NOT_TICKERS),
    *(("closes", {"close": price}, "close_is_a_price") for price in NOT_PRICES),
    *(("closes", {"open": price}, "open_is_a_price") for price in NOT_PRICES),
    ("closes", {"source": ""}, "source_is_named"),
    ("closes", {"read_at": at("2026-01-03 04:59:59.999999")}, "session_has_ended"),
    (
        "closes",
        {"trading_day": "2026-07-02", "read_at": at("2026-07-03 03:59:59.999999")},
        "session_has_ended",
    ),
    ("splits", {"effective_date": "2026-01-06"}, "one_split_reading_at_a_time"),
    ("splits", {"ticker": "ko"}, "ticker_is_well_formed"),
    *(("splits", {"factor": factor}, "factor_is_positive") for factor in NOT_PRICES),
    ("splits", {"source": ""}, "source_is_named"),
    ("dividends", {"ex_date": "2025-12-31"}, "one_dividend_reading_at_a_time"),
    *(("dividends", {"ticker": ticker}, "ticker_is_well_formed") for ticker in NOT_TICKERS),
    *(("dividends", {"amount": amount}, "amount_is_not_negative") for amount in NOT_AMOUNTS),
    ("dividends", {"source": ""}, "source_is_named"),
    # At midnight UTC it is still the day before in New York.
    ("dividends", {"ex_date": "2026-01-01"}, "ex_date_is_not_after_the_reading"),
    ("dividends", {"ex_date": "2026-01-02"}, "ex_date_is_not_after_the_reading"),
    ("rates", {"observed_on": "2025-12-26"}, "one_rate_reading_at_a_time"),
    ("rates", {"observed_on": "2026-01-02"}, "observed_before_it_was_read"),
    *(
        ("rates", {"value_pct": value}, "value_is_a_rate")
        for value in ("NaN", "Infinity", "-Infinity", "100", "-100")
    ),
    ("rates", {"source": ""}, "source_is_named"),
    ("batches", {"run_date": "2026-01-05", "trading_day": "2026-01-02"}, "one_batch_per_run_date"),
    ("batches", {"series": ""}, "series_is_named"),
    *(
        ("batches", {"run_date": day}, "run_date_is_a_monday")
        for day in ("2026-01-11", "2026-01-13")
    ),
    ("batches", {"status": "done"}, "batch_status_is_known"),
    ("batches", FAILED | {"failure_reason": "RAIN"}, "failure_reason_is_known"),
    ("batches", FAILED | {"failure_reason": None}, "failed_has_a_reason"),
    ("batches", FAILED | {"failure": None}, "failed_has_a_reason"),
    ("batches", {"failure_reason": "MISSED", "failure": "x"}, "failed_has_a_reason"),
    ("batches", {"benchmark_symbol": "spy"}, "ticker_is_well_formed"),
    *(
        ("batches", {"benchmark_initial_price": price}, "initial_price_is_a_price")
        for price in NOT_PRICES
    ),
    *(
        ("batches", {column: None}, "there_is_never_a_partial_baseline")
        for column in ("benchmark_initial_price", "benchmark_initial_close_id", "trading_day")
    ),
    ("batches", FAILED | {"benchmark_initial_price": 100}, "there_is_never_a_partial_baseline"),
    ("batches", {"trading_day": "2026-01-12"}, "baseline_session_is_before_the_run_date"),
    ("picks", {"position": 1}, "one_pick_per_position"),
    ("picks", {"ticker": "KO"}, "one_pick_per_ticker"),
    *(("picks", {"position": position}, "three_picks") for position in (0, 4)),
    ("picks", {"ticker": "XOM "}, "ticker_is_well_formed"),
    *(("picks", {"action": action}, "action_is_known") for action in ("HOLD", "buy", "")),
    *(("picks", {"reasoning": text}, "reasoning_is_not_empty") for text in ("", " \t\r\n ")),
    *(("picks", {"probability": percent}, "probability_is_a_percentage") for percent in (49, 100)),
    *(("picks", {"initial_price": price}, "initial_price_is_a_price") for price in NOT_PRICES),
    *(("picks", {"entry_open": price}, "entry_open_is_a_price") for price in NOT_PRICES),
    (
        "checkpoints",
        {"day": 1, "checkpoint_date": "2026-01-06", "trading_day": "2026-01-05"},
        "one_checkpoint_per_day",
    ),
    ("checkpoints", {"day": 15, "checkpoint_date": "2026-01-20"}, "day_is_within_the_fortnight"),
    (
        "checkpoints",
        {"day": -1, "checkpoint_date": "2026-01-04", "trading_day": "2026-01-02"},
        "day_is_within_the_fortnight",
    ),
    ("checkpoints", {"checkpoint_date": "2026-01-09"}, "checkpoint_date_is_run_date_plus_day"),
    ("checkpoints", {"status": "done"}, "checkpoint_status_is_known"),
    ("checkpoints", SKIPPED | {"skip_reason": "RAIN"}, "skip_reason_is_known"),
    ("checkpoints", SKIPPED | {"skip_reason": None, "skipped_at": None}, "skipped_has_a_reason"),
    ("checkpoints", SKIPPED | {"skipped_at": None}, "skipped_has_a_reason"),
    ("checkpoints", {"skipped_at": AT}, "skipped_has_a_reason"),
    (
        "checkpoints",
        {"skip_reason": "MARKET_CLOSED", "skipped_at": AT},
        "a_closed_market_stays_closed",
    ),
    ("checkpoints", SKIPPED | {"benchmark_price": 100}, "skipped_has_no_prices"),
    ("checkpoints", SKIPPED | {"trading_day": "2026-01-07"}, "skipped_has_no_prices"),
    ("checkpoints", SKIPPED | {"benchmark_return_pct": 1}, "skipped_has_no_prices"),
    *(
        ("checkpoints", {column: None}, "computed_has_prices")
        for column in (
            "trading_day",
            "benchmark_price",
            "benchmark_close_id",
            "benchmark_split_factor",
        )
    ),
    ("checkpoints", {"benchmark_return_pct": None}, "day_zero_is_the_baseline"),
    (
        "checkpoints",
        {"day": 0, "checkpoint_date": "2026-01-05", "trading_day": "2026-01-02"},
        "day_zero_is_the_baseline",
    ),
    (
        "checkpoints",
        SKIPPED | {"day": 0, "checkpoint_date": "2026-01-05"},
        "the_baseline_is_never_skipped",
    ),
    ("checkpoints", {"trading_day": "2026-01-08"}, "trading_day_is_before_the_checkpoint_date"),
    *(
        ("checkpoints", {"benchmark_price": price}, "benchmark_price_is_a_price")
        for price in NOT_PRICES
    ),
    *(
        ("checkpoints", {"benchmark_split_factor": factor}, "split_factor_is_positive")
        for factor in NOT_PRICES
    ),
    *(
        ("checkpoints", {"benchmark_return_pct": number}, "return_is_a_number")
        for number in NOT_NUMBERS
    ),
    *(
        ("checkpoints", SKIPPED | {"benchmark_unusual_move": mark}, "only_figures_have_a_mark")
        for mark in (True, False)
    ),
    (
        "checkpoints",
        {
            "day": 0,
            "checkpoint_date": "2026-01-05",
            "trading_day": "2026-01-02",
            "benchmark_return_pct": None,
            "benchmark_unusual_move": False,
        },
        "only_figures_have_a_mark",
    ),
    ("checkpoints", SKIPPED | BENCHMARK_TOTAL, "only_figures_have_totals"),
    (
        "checkpoints",
        {
            "day": 0,
            "checkpoint_date": "2026-01-05",
            "trading_day": "2026-01-02",
            "benchmark_return_pct": None,
            **BENCHMARK_TOTAL,
        },
        "only_figures_have_totals",
    ),
    *(("checkpoints", {column: value}, "totals_are_complete") for column, value in
        BENCHMARK_TOTAL.items()),
    *(("checkpoints", BENCHMARK_TOTAL | {column: None}, "totals_are_complete") for column in
        BENCHMARK_TOTAL),
    *(
        (
            "checkpoints",
            BENCHMARK_TOTAL | {"benchmark_dividends": amount},
            "dividends_are_not_negative",
        )
        for amount in NOT_AMOUNTS
    ),
    *(
        (
            "checkpoints",
            BENCHMARK_TOTAL | {"benchmark_total_return_pct": number},
            "total_return_is_a_number",
        )
        for number in NOT_NUMBERS
    ),
    ("pick_checkpoint_metrics", {"pick_id": id_(21)}, "one_metric_per_pick_and_checkpoint"),
    *(
        ("pick_checkpoint_metrics", {column: value}, "totals_are_complete")
        for column, value in TOTAL.items()
    ),
    *(
        ("pick_checkpoint_metrics", TOTAL | {column: None}, "totals_are_complete")
        for column in TOTAL
    ),
    *(
        (
            "pick_checkpoint_metrics",
            TOTAL | {"dividends": amount},
            "dividends_are_not_negative",
        )
        for amount in NOT_AMOUNTS
    ),
    *(
        ("pick_checkpoint_metrics", TOTAL | {column: number}, "total_returns_are_numbers")
        for column in ("total_return_pct", "vs_benchmark_total_pct")
        for number in NOT_NUMBERS
    ),
    *(
        ("pick_checkpoint_metrics", {"current_price": price}, "current_price_is_a_price")
        for price in NOT_PRICES
    ),
    ("pick_checkpoint_metrics", {"close_id": None}, "only_an_ended_pick_has_no_reading"),
    *(
        ("pick_checkpoint_metrics", {"split_factor": factor}, "split_factor_is_positive")
        for factor in NOT_PRICES
    ),
    *(
        ("pick_checkpoint_metrics", {column: number}, "returns_are_numbers")
        for column in ("absolute_return_pct", "vs_benchmark_pct", "return_from_open_pct")
        for number in NOT_NUMBERS
    ),
    *(
        ("pick_checkpoint_metrics", wrong, "metrics_are_of_a_computed_checkpoint_of_the_same_batch")
        for wrong in ({"checkpoint_id": id_(30)}, {"checkpoint_id": id_(32)}, {"pick_id": id_(23)})
    ),
    ("further_benchmarks", {"symbol": "RSP"}, "one_row_per_further_benchmark"),
    ("further_benchmarks", {"position": 1}, "one_place_per_further_benchmark"),
    ("further_benchmarks", {"position": 0}, "position_counts_from_one"),
    *(("further_benchmarks", {"symbol": one}, "ticker_is_well_formed") for one in NOT_TICKERS),
    *(
        ("further_benchmarks", {column: price}, "prices_are_positive")
        for column in ("further_initial_price", "further_price", "further_split_factor")
        for price in (0, -1)
    ),
    *(
        ("further_benchmarks", {column: price}, "numbers_are_finite")
        for column in (
            "further_initial_price",
            "further_price",
            "further_split_factor",
            "further_return_pct",
        )
        for price in ("NaN", "Infinity")
    ),
    (
        "further_benchmarks",
        {"measured_at": at("2026-01-06 04:59:59.999999")},
        "measured_after_the_session",
    ),
    *(
        ("further_benchmarks", wrong, "further_benchmarks_are_of_a_computed_checkpoint")
        for wrong in (
            {"symbol": "SPY"},
            {"trading_day": "2026-01-02"},
            {"trading_day": "2026-01-06", "measured_at": at("2026-01-07 14:00")},
            {"batch_id": id_(11)},
            {"batch_id": id_(12)},
        )
    ),
    ("generations", {"attempt": 1}, "one_generation_per_attempt"),
    ("generations", {"attempt": 0}, "attempts_count_from_one"),
    ("generations", {"profile_sha256": "A" * 64}, "profile_is_a_hash"),
    ("generations", {"run_date": "2026-01-06"}, "run_date_is_a_monday"),
    ("generations", {"answer": None}, "accepted_has_an_answer"),
    ("generations", {"answered_at": None}, "accepted_has_an_answer"),
    ("generations", {"accepted": False}, "refused_has_a_refusal"),
    ("generations", {"refusal": "No."}, "refused_has_a_refusal"),
    ("generations", {"accepted": None}, "open_has_no_answer"),
    ("generations", {"accepted": None, "answer": None}, "open_has_no_answer"),
    *(
        ("generations", {**OPEN_QUESTION, column: value}, "open_has_no_outcome")
        for column, value in (
            ("finish_reason", "stop"),
            ("system_fingerprint", "fp_1"),
            ("reasoning_tokens", 0),
        )
    ),
    *(
        ("generations", {"profile_sha256": text}, "profile_is_a_hash")
        for text in ("", "A" * 64, "a" * 63, "a" * 65)
    ),
    ("corrections", {"field": ""}, "field_is_named"),
    ("corrections", {"reason": ""}, "reason_is_given"),
    ("journal", {"kind": "OTHER"}, "journal_kind_is_known"),
    ("journal", {"hash": "0" * 64}, "hash_is_of_previous_and_content"),
    ("journal", {"seq": 3}, "an_entry_follows_the_head"),
    ("timestamps", {"seq": 2}, "a_timestamp_is_of_an_entry"),
    ("timestamps", {"hash": "0" * 64}, "a_timestamp_is_of_an_entry"),
    ("timestamps", {"authority": TOKEN["authority"]}, "a_proof_is_stored_once"),
    ("timestamps", {"authority": ""}, "an_authority_has_a_name"),
    ("timestamps", {"kind": "TOKEN"}, "timestamp_kind_is_known"),
    ("timestamps", PROMISE | {"status": "LOST"}, "timestamp_status_is_known"),
    ("timestamps", {"proof": b""}, "a_proof_has_a_length"),
    ("timestamps", {"proof": b"x" * 50_001}, "a_proof_has_a_length"),
    *(
        ("timestamps", wrong, "a_timestamp_of_an_authority_is_complete")
        for wrong in (
            {"status": "PENDING"}, {"accuracy_seconds": None}, {"chain": None}, {"chain": ""},
            {"nonce": None}, {"nonce": "0x2a"}, {"block_height": 1},
        )
    ),
    ("timestamps", {"accuracy_seconds": -1}, "accuracy_is_a_time"),
    ("timestamps", {"accuracy_seconds": "NaN"}, "accuracy_is_a_time"),
    *(
        ("timestamps", PROMISE | wrong, "a_proof_in_a_block_names_the_block")
        for wrong in (
            {"accuracy_seconds": 1}, {"chain": "x"}, {"nonce": "1"}, {"block_height": 1},
            {"status": "CONFIRMED"},
        )
    ),
    (
        "timestamps",
        PROMISE | {"status": "CONFIRMED", "block_height": -1},
        "a_block_has_a_height",
    ),
]  # fmt: skip

# Rows that a trigger refuses before the constraint; with triggers off, the constraint refuses them.
REFUSED_WITHOUT_TRIGGERS = [
    (
        "checkpoints",
        {"checkpoint_date": "2026-01-07", "trading_day": "2026-01-06"},
        "one_checkpoint_per_date",
    ),
    ("journal", chained(2, "0" * 64), "the_chain_never_forks"),
]

GOES_BACK = (
    "UPDATE checkpoints SET status = 'skipped', skip_reason = 'MISSING_CLOSE', skipped_at = "
    "taken_at, "
    "trading_day = NULL, benchmark_price = NULL, benchmark_close_id = NULL, "
    "benchmark_split_factor = NULL, "
    "benchmark_return_pct = NULL WHERE day = 1"
)
CHANGES = [
    pytest.param(
        GOES_BACK, "a_computed_checkpoint_never_goes_back", id="a computed checkpoint skipped"
    ),
    pytest.param(
        "UPDATE checkpoints SET checkpoint_date = '2026-01-09' WHERE day = 1",
        "checkpoint_date_is_run_date_plus_day",
        id="the date of a checkpoint changed",
    ),
    pytest.param(
        f"UPDATE pick_checkpoint_metrics SET checkpoint_id = '{id_(32)}'",
        "metrics_are_of_a_computed_checkpoint_of_the_same_batch",
        id="the checkpoint of a metric changed",
    ),
    pytest.param("UPDATE closes SET close = 1", "readings_are_never_changed", id="a close changed"),
    pytest.param("DELETE FROM closes", "readings_are_never_changed", id="a close deleted"),
    pytest.param(
        "UPDATE splits SET factor = 3", "readings_are_never_changed", id="a split changed"
    ),
    pytest.param("DELETE FROM splits", "readings_are_never_changed", id="a split deleted"),
    pytest.param(
        "UPDATE dividends SET amount = 3", "readings_are_never_changed", id="a dividend changed"
    ),
    pytest.param("DELETE FROM dividends", "readings_are_never_changed", id="a dividend deleted"),
    pytest.param(
        "UPDATE rates SET value_pct = 3", "readings_are_never_changed", id="a rate changed"
    ),
    pytest.param("DELETE FROM rates", "readings_are_never_changed", id="a rate deleted"),
    pytest.param(
        "UPDATE corrections SET reason = 'x'",
        "corrections_are_never_changed",
        id="a correction changed",
    ),
    pytest.param(
        "UPDATE timestamps SET authority = 'x'",
        "timestamps_are_never_changed",
        id="a timestamp changed",
    ),
    pytest.param(
        "DELETE FROM timestamps", "timestamps_are_never_changed", id="a timestamp deleted"
    ),
    pytest.param("TRUNCATE timestamps", "timestamps_are_never_emptied", id="timestamps emptied"),
    pytest.param(
        "DELETE FROM corrections", "corrections_are_never_changed", id="a correction deleted"
    ),
    pytest.param(
        "UPDATE journal SET kind = 'FAILURE'", "the_journal_is_append_only", id="an entry changed"
    ),
    pytest.param("DELETE FROM journal", "the_journal_is_append_only", id="an entry deleted"),
    pytest.param("TRUNCATE journal", "the_journal_is_never_emptied", id="the journal emptied"),
    *(
        pytest.param(
            f"UPDATE {table} SET {column} = {value}", constraint, id=f"{constraint} {column}"
        )
        for table, constraint, changes in (
            (
                "batches",
                "a_batch_keeps_its_name",
                {"id": f"'{id_(19)}'", "series": "'x'", "run_date": "run_date + 7"},
            ),
            (
                "batches",
                "a_batch_with_picks_keeps_what_it_says",
                {
                    "created_at": "now()",
                    "late": "NOT late",
                    "benchmark_symbol": "'DIA'",
                    "trading_day": "'2026-01-01'",
                },
            ),
            (
                "batches",
                "a_baseline_is_only_corrected",
                {"benchmark_initial_price": "99", "benchmark_initial_close_id": f"'{id_(2)}'"},
            ),
            (
                "picks",
                "a_pick_keeps_what_was_said",
                {
                    "id": f"'{id_(29)}'",
                    "batch_id": f"'{id_(12)}'",
                    "position": "3",
                    "action": "'SELL'",
                    "reasoning": "'It will fall.'",
                },
            ),
            (
                "picks",
                "an_open_is_filled_once",
                {"entry_open": "60", "entry_close_id": f"'{id_(1)}'"},
            ),
            (
                "picks",
                "a_baseline_is_only_corrected",
                {"initial_price": "60.0", "initial_close_id": f"'{id_(1)}'"},
            ),
            (
                "checkpoints",
                "the_day_of_a_checkpoint_is_kept",
                {
                    "id": f"'{id_(39)}'",
                    "note": "'x'",
                    "skip_reason": "'PROVIDER_ERROR'",
                    "skipped_at": "now()",
                },
            ),
            (
                "checkpoints",
                "a_computed_checkpoint_stays_at_its_session",
                {"trading_day": "'2026-01-01'", "taken_at": "now()"},
            ),
            (
                "checkpoints",
                "a_figure_is_only_corrected",
                {
                    "benchmark_price": "102",
                    "benchmark_close_id": f"'{id_(2)}'",
                    "benchmark_split_factor": "2",
                    "benchmark_return_pct": "benchmark_return_pct + 1",
                    "benchmark_unusual_move": "true",
                },
            ),
            (
                "pick_checkpoint_metrics",
                "the_place_of_a_metric_is_kept",
                {"id": f"'{id_(49)}'", "pick_id": f"'{id_(22)}'", "ended": "true"},
            ),
            (
                "pick_checkpoint_metrics",
                "a_figure_is_only_corrected",
                {
                    "current_price": "67",
                    "close_id": f"'{id_(1)}'",
                    "split_factor": "2",
                    "absolute_return_pct": "11",
                    "vs_benchmark_pct": "8",
                    "unusual_move": "true",
                },
            ),
            (
                "checkpoints",
                "a_total_is_only_corrected",
                {
                    "benchmark_dividends": "0.6 WHERE day = 1",
                    "benchmark_total_return_pct": "1.50 WHERE day = 1",
                    "benchmark_spin_off_counted_once": "true WHERE day = 1",
                    "(benchmark_dividends, benchmark_total_return_pct, "
                    "benchmark_spin_off_counted_once)": "(NULL, NULL, NULL) WHERE day = 1",
                },
            ),
            (
                "pick_checkpoint_metrics",
                "a_total_is_only_corrected",
                {
                    "dividends": "0.7",
                    "total_return_pct": "12",
                    "vs_benchmark_total_pct": "9.50",
                    "spin_off_counted_once": "true",
                    "(dividends, total_return_pct, vs_benchmark_total_pct, "
                    "spin_off_counted_once)": "(NULL, NULL, NULL, NULL)",
                },
            ),
            (
                "pick_checkpoint_metrics",
                "a_return_from_the_open_is_only_corrected",
                {"return_from_open_pct": "9"},
            ),
            (
                "further_benchmarks",
                "a_figure_is_only_corrected",
                {"further_split_factor": "2", "further_return_pct": "2"},
            ),
            (
                "further_benchmarks",
                "a_further_benchmark_keeps_its_prices",
                {
                    "id": f"'{id_(89)}'",
                    "batch_id": f"'{id_(11)}'",
                    "symbol": "'DIA'",
                    "position": "3",
                    "trading_day": "'2026-01-01'",
                    "further_initial_price": "99",
                    "further_initial_close_id": f"'{id_(2)}'",
                    "further_price": "99",
                    "further_close_id": f"'{id_(1)}'",
                    "measured_at": "now()",
                },
            ),
            (
                "generations",
                "a_question_stays_as_it_was_asked",
                {
                    "id": f"'{id_(59)}'",
                    "series": "'x'",
                    "run_date": "run_date + 7",
                    "attempt": "2",
                    "asked_at": "now()",
                    "requested_model": "'x'",
                    "prompt_version": "'2'",
                    "system_prompt": "'x'",
                    "user_prompt": "'x'",
                    "profile_sha256": "repeat('a', 64)",
                    "reasoning_effort": "'low'",
                },
            ),
            (
                "generations",
                "an_answer_stays_as_it_was_given",
                {
                    "answered_at": "now()",
                    "answered_model": "'x'",
                    "answer": "'{ }'",
                    "request_id": "'x'",
                    "prompt_tokens": "1",
                    "completion_tokens": "1",
                    "finish_reason": "'x'",
                    "system_fingerprint": "'x'",
                    "reasoning_tokens": "1",
                },
            ),
        )
        for column, value in changes.items()
    ),
    *(
        pytest.param(
            f"{verb} {table}{' CASCADE' * (verb == 'TRUNCATE')}", constraint, id=f"{verb} {table}"
        )
        for table, constraint in (
            *(
                (table, "the_record_is_never_deleted")
                for table in (
                    "generations",
                    "further_benchmarks",
                    "pick_checkpoint_metrics",
                    "checkpoints",
                    "picks",
                    "batches",
                )
            ),
            ("closes", "readings_are_never_emptied"),
            ("splits", "readings_are_never_emptied"),
            ("dividends", "readings_are_never_emptied"),
            ("rates", "readings_are_never_emptied"),
            ("corrections", "corrections_are_never_emptied"),
        )
        for verb in (
            ("DELETE FROM", "TRUNCATE")
            if constraint == "the_record_is_never_deleted"
            else ("TRUNCATE",)
        )
    ),
]

# What only shows after a first change.
SECOND_CHANGES = [
    pytest.param(
        "UPDATE batches SET status = 'completed' WHERE status = 'active'",
        "UPDATE batches SET status = 'active' WHERE status = 'completed'",
        "a_completed_batch_stays_completed",
        id="batches a_completed_batch_stays_completed",
    ),
    pytest.param(
        "UPDATE picks SET ended = true",
        "UPDATE picks SET ended = false",
        "an_ended_pick_stays_ended",
        id="picks an_ended_pick_stays_ended",
    ),
    pytest.param(
        "UPDATE generations SET accepted = false, refusal = 'It has no price.'",
        "UPDATE generations SET refusal = 'Something else.'",
        "a_refusal_stays_a_refusal",
        id="generations a_refusal_stays_a_refusal",
    ),
]


def named(table: str, changes: dict[str, object]) -> str:
    """Return the name of a case: what is wrong in which table."""
    return f"{table} " + ", ".join(
        f"{column}={value!r}" for column, value in list(changes.items())[:3]
    )


def insert(conn: psycopg.Connection, table: str, row: dict[str, object]) -> None:
    """Insert a row."""
    conn.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(*table.split(".")),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.SQL("%s") for _ in row),
        ),
        list(row.values()),
    )


@pytest.fixture
def record(migrated) -> Iterator[psycopg.Connection]:
    """Yield a connection in a transaction with a complete record, which is rolled back."""
    with psycopg.connect(migrated) as conn:
        for table, row in RECORD:
            insert(conn, table, row)
        yield conn
        conn.rollback()


def test_what_is_allowed(record):
    """
    The unchanged rows, from which the refused ones differ, are accepted, and so are the limits
    of what is allowed.
    """
    for table, changes in ALLOWED:
        with record.transaction(force_rollback=True):
            insert(record, table, MORE[table] | changes)


@pytest.mark.parametrize(
    ("table", "changes", "constraint"),
    [pytest.param(*case, id=named(*case[:2])) for case in REFUSED],
)
def test_refused_rows(record, table, changes, constraint):
    """Each row has one error, and the expected constraint refuses it."""
    with pytest.raises(psycopg.errors.IntegrityError) as refused:
        insert(record, table, MORE[table] | changes)
    assert refused.value.diag.constraint_name == constraint
    assert refused.value.diag.table_name in {table, None}


@pytest.mark.parametrize(
    ("table", "changes", "constraint"),
    [pytest.param(*case, id=case[2]) for case in REFUSED_WITHOUT_TRIGGERS],
)
def test_refused_rows_without_triggers(record, table, changes, constraint):
    """A constraint refuses the row even without the trigger that runs before it."""
    record.execute("SET LOCAL session_replication_role = replica")
    with pytest.raises(psycopg.errors.UniqueViolation) as refused:
        insert(record, table, MORE[table] | changes)
    assert refused.value.diag.constraint_name == constraint


@pytest.mark.parametrize(("statement", "constraint"), CHANGES)
def test_refused_changes(record, statement, constraint):
    """What is recorded cannot be changed; the error names the rule."""
    with pytest.raises(psycopg.errors.IntegrityError) as refused:
        record.execute(statement)
    assert refused.value.diag.constraint_name == constraint
    assert constraint in str(refused.value)


@pytest.mark.parametrize(("first", "second", "constraint"), SECOND_CHANGES)
def test_refused_second_changes(record, first, second, constraint):
    """A change that is allowed once cannot be made a second time."""
    record.execute(first)
    with pytest.raises(psycopg.errors.IntegrityError) as refused:
        record.execute(second)
    assert refused.value.diag.constraint_name == constraint


# The triggers that refuse an older version in a sealed record, and what it tries.
OLDER_VERSIONS = [
    *(
        pytest.param(table, "this_record_is_sealed", id=f"{table} this_record_is_sealed")
        for table in ("closes", "splits", "generations", "journal")
    ),
    pytest.param(
        "generations", "this_question_is_sealed", id="generations this_question_is_sealed"
    ),
]


@pytest.mark.parametrize(("table", "trigger"), OLDER_VERSIONS)
def test_an_older_version_in_a_sealed_record(record, table, trigger):
    """
    A version that does not say in its transaction that it knows sealed records can add no question,
    no reading and no entry, and cannot complete a question that has a profile.
    """
    genesis = chained(2, FIRST["hash"], kind="GENESIS")
    rows = {**MORE, "journal": chained(3, genesis["hash"])}

    def attempt() -> None:
        if trigger == "this_question_is_sealed":
            record.execute("UPDATE generations SET accepted = false, refusal = 'No price.'")
        else:
            insert(record, table, rows[table])

    record.execute("SET LOCAL session_replication_role = replica")
    record.execute("UPDATE generations SET profile_sha256 = repeat('a', 64)")
    record.execute("SET LOCAL session_replication_role = origin")
    if table != "journal":
        with record.transaction(force_rollback=True):
            attempt()
    insert(record, "journal", genesis)
    with pytest.raises(psycopg.errors.CheckViolation) as refused, record.transaction():
        attempt()
    assert refused.value.diag.constraint_name == "this_record_is_sealed"
    record.execute("SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true)")
    attempt()


@pytest.mark.parametrize(
    ("change", "field", "before", "after"),
    [
        pytest.param(
            "UPDATE picks SET initial_price = 30", "initial_price", "60", "30", id="a baseline"
        ),
        pytest.param(
            "UPDATE batches SET benchmark_initial_price = 50",
            "benchmark_initial_price",
            "100",
            "50",
            id="benchmark",
        ),
    ],
)
def test_a_figure_changes_with_its_correction(record, change, field, before, after):
    """
    A figure can be changed only with a correction that has its name, its ticker, the old and
    the new value.
    """
    ticker = "KO" if "picks" in change else None
    good = CORRECTION | {
        "checkpoint_id": id_(30),
        "field": field,
        "ticker": ticker,
        "before": before,
        "after": after,
    }
    wrong = [
        good | {"checkpoint_id": id_(31)}, good | {"field": "entry_open"}, good | {"ticker": "XOM"},
        good | {"before": "61"}, good | {"after": "31"},
    ]  # fmt: skip
    where = f"id = '{id_(21)}'" if ticker else f"id = '{id_(10)}'"
    for number, correction in enumerate([*wrong, good]):
        with record.transaction(force_rollback=True):
            insert(record, "corrections", {"id": id_(70 + number), **correction})
            if correction is good:
                assert record.execute(f"{change} WHERE {where}").rowcount == 1
            else:
                with pytest.raises(psycopg.errors.RestrictViolation):
                    record.execute(f"{change} WHERE {where}")


def test_a_skipped_checkpoint_may_be_computed_later(record):
    """A skipped checkpoint that is computed keeps its skip reason, and cannot be skipped again."""
    record.execute(
        "UPDATE checkpoints SET status = 'computed', trading_day = '2026-01-06', "
        "benchmark_price = 101, "
        "benchmark_close_id = %s, benchmark_split_factor = 1, benchmark_return_pct = 1 WHERE "
        "day = 2",
        [id_(1)],
    )
    skip = record.execute(
        "SELECT skip_reason, skipped_at FROM checkpoints WHERE day = 2"
    ).fetchone()
    assert skip == ("MISSING_CLOSE", at("2026-01-07 14:00"))
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        record.execute(GOES_BACK.replace("day = 1", "day = 2"))
    assert refused.value.diag.constraint_name == "a_computed_checkpoint_never_goes_back"


def test_the_state_of_reconciliation_is_one_row(migrated):
    """
    A second row in operations.upkeep is refused by a named constraint, even if it has another
    key.
    """
    with psycopg.connect(migrated) as conn:
        insert(conn, "operations.upkeep", {"last_round_at": AT})
        for one, constraint in ((True, "upkeep_pkey"), (False, "there_is_one_row")):
            with pytest.raises(psycopg.errors.IntegrityError) as refused, conn.transaction():
                insert(conn, "operations.upkeep", {"one": one, "last_round_at": AT})
            assert refused.value.diag.constraint_name == constraint
        conn.rollback()


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        ({"seq": 1}, "a_published_head_is_complete"),
        ({"failing_since": AT}, "a_failure_has_a_beginning"),
        ({"failure": "It is away."}, "a_failure_has_a_beginning"),
        ({"alerted_at": AT}, "a_failure_has_a_beginning"),
    ],
)
def test_an_invalid_published_head(migrated, row, constraint):
    """A published head has all its parts, and a failure has a beginning."""
    usual = {"repository": "a" * 64, "requested_seq": 1, "requested_at": AT}
    with psycopg.connect(migrated) as conn:
        insert(conn, "operations.published_heads", usual)
        conn.rollback()
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            insert(conn, "operations.published_heads", {**usual, **row})
        assert refused.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    ("table", "row", "constraint"),
    [
        ("alerts", {"outcome": "delivered"}, "an_alert_ends_with_an_outcome"),
        ("alerts", {"ended_at": AT}, "an_alert_ends_with_an_outcome"),
        ("alerts", {"until": AT}, "only_a_quota_has_an_end"),
        ("heartbeats", {"outcome": "delivered"}, "a_heartbeat_ends_with_an_outcome"),
        ("heartbeats", {"ended_at": AT}, "a_heartbeat_ends_with_an_outcome"),
    ],
)
def test_invalid_messages(migrated, table, row, constraint):
    """
    A message's outcome and time must both be set; only an alert about a spent quota has an end.
    """
    usual = {
        "alerts": {
            "id": id_(1),
            "kind": "monday_failed",
            "at": AT,
            "text": "It failed.",
            "to_do": "Look.",
        },
        "heartbeats": {"morning": AT.date(), "at": AT},
    }
    with psycopg.connect(migrated) as conn:
        insert(conn, f"operations.{table}", usual[table])
        conn.rollback()
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            insert(conn, f"operations.{table}", {**usual[table], **row})
        assert refused.value.diag.constraint_name == constraint


def test_every_rule_has_a_case(migrated):
    """Every constraint and every trigger of the record has a case above."""
    with psycopg.connect(migrated) as conn:
        constraints = conn.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'x', 'p') "
            "AND conname NOT LIKE '%_pkey'"
        ).fetchall()
        triggers = conn.execute(
            "SELECT relname, tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
            "WHERE NOT tgisinternal AND relnamespace = 'public'::regnamespace AND tgname <> "
            "'announce'"
        ).fetchall()
    tried = {(table, constraint) for table, _, constraint in REFUSED + REFUSED_WITHOUT_TRIGGERS}
    assert set(constraints) <= tried
    assert {constraint for _, constraint in tried - set(constraints)} == {
        "a_timestamp_is_of_an_entry",
        "an_entry_follows_the_head",
        "checkpoint_date_is_run_date_plus_day",
        "further_benchmarks_are_of_a_computed_checkpoint",
        "metrics_are_of_a_computed_checkpoint_of_the_same_batch",
    }
    changed = {
        (re.search(r"(?:UPDATE|DELETE FROM|TRUNCATE) (\w+)", case.values[-2])[1], case.values[-1])
        for case in (*CHANGES, *SECOND_CHANGES)
    }
    assert set(triggers) <= changed | {
        ("checkpoints", "checkpoint_belongs_to_its_batch"),
        ("journal", "an_entry_follows_the_head"),
        # tests/integration/store/test_declarations.py
        *(
            (table, "this_record_is_sealed")
            for table in ("closes", "splits", "generations", "journal")
        ),
        ("generations", "this_question_is_sealed"),
        ("timestamps", "a_timestamp_is_of_an_entry"),
        ("pick_checkpoint_metrics", "metric_belongs_to_its_checkpoint"),
        ("further_benchmarks", "further_benchmark_belongs_to_its_batch"),
        *(case.values for case in OLDER_VERSIONS),
    }


def test_the_time_of_a_migration_is_the_callers(empty):
    """The history has the time that the caller passed, not the server's."""
    later = AT + timedelta(days=400)
    asyncio.run(migrations.migrate(empty, later))
    assert {step.applied_at for step in asyncio.run(migrations.status(empty))} == {later}
