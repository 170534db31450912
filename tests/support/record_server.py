"""Serve the API of a record without the rest of the service; copy and change a rehearsal."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
import uvicorn
from api_records import engine_on
from commands import run
from litestar import Litestar
from local_server import local_server
from psycopg.conninfo import conninfo_to_dict
from sealing import unseal
from shared_database import is_shared

from api.http import routes
from app.database import pools
from app.ops.verify import open_database as record_at
from app.ops.verify import verify

UNTIL = "2026-10-30"


def app_on(pool: pools.Pool) -> Litestar:
    """Return an application with the API alone, on a pool."""
    return Litestar(routes(engine_on(pool)), openapi_config=None, logging_config=None)


@asynccontextmanager
async def record_server(database: str) -> AsyncIterator[str]:
    """Serve the record of a database, and yield the address."""
    async with pools.opened(pools.make_pool(database, max_size=4)) as pool:
        config = uvicorn.Config(app_on(pool), log_config=None, lifespan="off")
        async with local_server(config) as (host, port):
            yield f"http://{host}:{port}"


async def check_record(database: str) -> None:
    """Raise an error if `alpha-monday verify` finds a discrepancy in a database."""
    async with record_at(database) as source:
        await verify(source, [], silent)


def copy_of(database: str, create: Callable[..., str]) -> str:
    """Copy a database that has no connections, and return the address of the copy."""
    return create(conninfo_to_dict(database)["dbname"])


@contextmanager
def unguarded(database: str):
    """
    Yield a connection without triggers, foreign keys and the check of the journal's hashes.

    The database must be the test's own: the check does not come back.
    """
    with psycopg.connect(database) as conn:
        assert not is_shared(conn), "Later tests need the check: use a copy."
        conn.execute(
            "ALTER TABLE journal DROP CONSTRAINT IF EXISTS hash_is_of_previous_and_content"
        )
        conn.execute("SET session_replication_role = replica")
        yield conn


@contextmanager
def without_triggers(database: str):
    """Yield a connection without triggers and foreign keys. The database keeps its constraints."""
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        yield conn


def make_unreadable(database: str, kind: str, content: str = "{") -> None:
    """Give all entries of a kind a content that cannot be read, with hashes that fit it."""
    with without_triggers(database) as conn:
        changed_rows = conn.execute(
            "UPDATE journal SET content = %(content)s, hash = encode(sha256(convert_to("
            "previous || chr(10) || %(content)s, 'UTF8')), 'hex') WHERE kind = %(kind)s",
            {"content": content, "kind": kind},
        ).rowcount
        assert changed_rows > 0


def changed(copy: str, statements: str) -> None:
    """Run statements, separated by "; ", on a copy, without triggers. Each changes a row."""
    with unguarded(copy) as conn:
        for statement in statements.split("; "):
            assert conn.execute(statement.encode()).rowcount > 0


def silent(*_: object) -> None:
    """Ignore the progress of a verification."""


@pytest.fixture(scope="session")
def as_recorded(tmp_path_factory, made_once) -> str:
    """
    The address of a rehearsal of four Mondays, the last of them in its first week.

    It is sealed, as each record that this version begins.
    """
    return _rehearse_once(tmp_path_factory, made_once)


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory, made_once) -> str:
    """The address of the same rehearsal as a version before the sealing recorded it."""
    copy = _rehearse_once(tmp_path_factory, made_once)
    unseal(copy)
    return copy


def _rehearse_once(tmp_path_factory, made_once) -> str:
    def rehearse(address: str) -> None:
        done = run(
            "rehearse", "--single", "--weeks", 4, "--until", UNTIL, "--calm", "--no-serve",
            cwd=tmp_path_factory.mktemp("rehearsal"), DATABASE_URL=address,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return made_once("rehearsed", rehearse)


# Each change is one of 12 October: its second pick, its day 3, or its question.
BATCH = "(SELECT id FROM batches WHERE run_date = '2026-10-12')"
PICK = f"(SELECT id FROM picks WHERE batch_id = {BATCH} AND position = 2)"
DAY = f"(SELECT id FROM checkpoints WHERE batch_id = {BATCH} AND day = 3)"
METRIC = f"checkpoint_id = {DAY} AND pick_id = {PICK}"

CHANGES = [
    pytest.param(
        f"UPDATE picks SET reasoning = overlay(reasoning PLACING '#' FROM 70) WHERE id = {PICK}",
        r"The pick [A-Z.]+ of 2026-10-12 \(picks, [0-9a-f-]{36}\): reasoning is .*#.* in the "
        r"record, but .* in the "
        r"journal \(entry \d+\)\. The record was changed after it was journaled\.",
        id="one character of a reasoning",
    ),
    pytest.param(
        f"UPDATE pick_checkpoint_metrics SET current_price = current_price + 1 WHERE {METRIC}",
        r"[A-Z.]+ on day 3 of 2026-10-12 \(pick_checkpoint_metrics, .*\): current_price is",
        id="a price",
    ),
    pytest.param(
        f"UPDATE checkpoints SET taken_at = taken_at + interval '1 microsecond' WHERE id = {DAY}",
        r"Day 3 of 2026-10-12 \(checkpoints, .*\): taken_at is '2026-10-15T",
        id="a time",
    ),
    pytest.param(
        f"UPDATE checkpoints SET skip_reason = 'MISSING_CLOSE' WHERE batch_id = {BATCH} AND "
        "day = 6",
        r"Day 6 of 2026-10-12 .*: skip_reason is 'MISSING_CLOSE' in the record, but "
        r"'MARKET_CLOSED' in the journal",
        id="a skip reason",
    ),
    pytest.param(
        "UPDATE generations SET system_prompt = system_prompt || ' ' WHERE run_date = '2026-10-12'",
        r"Question 1 of 2026-10-12 \(generations, .*\): system_prompt is",
        id="a prompt",
    ),
    pytest.param(
        "DELETE FROM journal WHERE seq = 17",
        r"Entry 17 of the journal is not there: after entry 16 comes 18\.",
        id="a middle entry deleted",
    ),
]  # fmt: skip
