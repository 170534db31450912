"""Where a record comes from is read from its journal, and a rehearsal stays one."""

import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from api_records import FACTS, Record, engine_on, plant
from declaring import SETTINGS
from msgspec.structs import replace

from app.domain.declarations import Genesis, Origin
from app.domain.journal import entry_hash
from app.domain.model import JournalHead, JournalKind
from app.errors import ConfigurationError
from app.store import rehearsed
from app.store.rehearsed import CREATE_CLOCK_TABLE

AT = datetime(2026, 11, 30, 14, 0, tzinfo=UTC)
ID = "0123456789abcdef0123456789abcdef"
OTHER_ID = "f" * 32
# A process that knows nothing of a rehearsal.
LIVE_FACTS = replace(FACTS, rehearsed=False)
QUERY = "{ service { rehearsed origin recordId sealed } }"
NOT_STATED = {"rehearsed": False, "origin": "UNKNOWN", "recordId": None, "sealed": False}


def write_genesis(address: str, *, origin: Origin, late: bool = False, id: str = ID) -> None:
    with psycopg.connect(address) as conn:
        write(conn, JournalKind.GENESIS, Genesis(record_id=id, origin=origin, late=late))


def write(conn: psycopg.Connection, kind: JournalKind, genesis: Genesis | None = None) -> None:
    """Append a declaration; without a genesis, the settings entry that seals the record."""
    record = Record(conn)
    row = conn.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    if row:
        record.head = JournalHead(row[0], row[1], AT)
    members: dict[str, object] = {"settings": SETTINGS}
    if genesis:
        members["genesis"] = genesis
    else:
        members["sealed"] = True
    record.write(kind, AT, members)


def seal(address: str) -> None:
    with psycopg.connect(address) as conn:
        write(conn, JournalKind.SETTINGS)


def create_clock(address: str) -> None:
    with psycopg.connect(address) as conn:
        conn.execute(CREATE_CLOCK_TABLE)


def drop_clock(address: str) -> None:
    with psycopg.connect(address) as conn:
        conn.execute("DROP SCHEMA IF EXISTS told CASCADE")


@pytest.fixture(autouse=True)
def no_clock(database):
    yield
    drop_clock(database)


async def service_of(pool, query: str = QUERY) -> dict:
    answer = json.loads((await engine_on(pool, LIVE_FACTS).execute(query)).body)
    assert "errors" not in answer, answer
    return answer["data"]["service"]


LIVE = {"rehearsed": False, "origin": "LIVE", "recordId": ID, "sealed": True}
REHEARSED = {"rehearsed": True, "origin": "REHEARSED", "recordId": ID, "sealed": True}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([], NOT_STATED, id="an empty record"),
        pytest.param([plant], NOT_STATED, id="a record from before"),
        pytest.param(
            [plant, create_clock],
            NOT_STATED | {"rehearsed": True, "origin": "REHEARSED"},
            id="a rehearsal from before",
        ),
        pytest.param(
            [plant, create_clock, drop_clock], NOT_STATED, id="a rehearsal from before, in disguise"
        ),
        pytest.param([lambda one: write_genesis(one, origin=Origin.LIVE)], LIVE, id="live"),
        pytest.param(
            [lambda one: write_genesis(one, origin=Origin.REHEARSED)], REHEARSED, id="rehearsed"
        ),
        pytest.param(
            [create_clock, lambda one: write_genesis(one, origin=Origin.REHEARSED), drop_clock],
            REHEARSED,
            id="a rehearsal whose clock was dropped",
        ),
        pytest.param(
            [create_clock, lambda one: write_genesis(one, origin=Origin.LIVE)],
            LIVE | {"rehearsed": True},
            id="live by its journal, with the clock of a rehearsal",
        ),
        pytest.param(
            [plant, lambda one: write_genesis(one, origin=Origin.UNKNOWN, late=True)],
            NOT_STATED | {"recordId": ID},
            id="a late genesis, not sealed yet",
        ),
        pytest.param(
            [plant, lambda one: write_genesis(one, origin=Origin.UNKNOWN, late=True), seal],
            NOT_STATED | {"recordId": ID, "sealed": True},
            id="a late genesis, sealed",
        ),
        pytest.param(
            [plant, lambda one: write_genesis(one, origin=Origin.REHEARSED, late=True), seal],
            REHEARSED,
            id="a late genesis on a rehearsed record without its clock",
        ),
        pytest.param([plant, seal], NOT_STATED, id="sealed, but without a genesis"),
        pytest.param(
            [
                lambda one: write_genesis(one, origin=Origin.REHEARSED),
                lambda one: write_genesis(one, origin=Origin.LIVE, id=OTHER_ID),
            ],
            REHEARSED,
            id="a second genesis that says live",
        ),
    ],
)
async def test_the_origin_is_that_of_the_journal(steps, expected, database, pool):
    for step in steps:
        step(database)
    assert await service_of(pool) == expected
    is_rehearsed = expected["rehearsed"]
    assert await rehearsed.is_rehearsed(pool) == is_rehearsed
    with psycopg.connect(database) as conn:
        assert rehearsed.is_rehearsed_sync(conn) == is_rehearsed
    if not is_rehearsed:
        await rehearsed.refuse_rehearsal(pool)
        return
    with pytest.raises(ConfigurationError, match="This database holds a rehearsal"):
        await rehearsed.refuse_rehearsal(pool)


async def test_a_response_with_the_origin_is_cached(database, pool):
    """The origin does not depend on the time, so pages that show it stay cached."""
    result = await engine_on(pool, LIVE_FACTS).execute("{ service { origin recordId sealed } }")
    assert result.is_cacheable


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("LIVE", "live", id="an origin in small letters"),
        pytest.param("LIVE", "OTHER", id="an origin that does not exist"),
        pytest.param('"LIVE"', '""', id="an empty origin"),
        pytest.param('"genesis"', '"beginning"', id="another member"),
        pytest.param(ID, "no id", id="an id that is none"),
        pytest.param('"origin"', '"from"', id="no origin"),
        pytest.param('{"', "", id="no JSON"),
    ],
)
async def test_a_damaged_genesis_is_reported(before, after, database, pool):
    """A genesis that cannot be read is never taken for a record without one."""
    write_genesis(database, origin=Origin.LIVE)
    with psycopg.connect(database) as conn:
        (content, previous) = conn.execute("SELECT content, previous FROM journal").fetchone()
        changed = content.replace(before, after)
        assert changed != content
        conn.execute("SET session_replication_role = replica")
        conn.execute(
            "UPDATE journal SET content = %s, hash = %s", (changed, entry_hash(previous, changed))
        )
    result = await engine_on(pool, LIVE_FACTS).execute(QUERY)
    assert result.damage
    assert not await rehearsed.is_rehearsed(pool)


async def test_a_database_without_a_journal_is_no_rehearsal(empty):
    async with await psycopg.AsyncConnection.connect(empty) as conn:
        assert not await rehearsed.is_rehearsed_on_connection(conn)
    with psycopg.connect(empty) as conn:
        assert not rehearsed.is_rehearsed_sync(conn)


KEYS = {"ALPHA_VANTAGE_API_KEY": "a-key", "OPENAI_API_KEY": "another-key"}
LIVE_COMMANDS = [
    ["serve"],
    ["serve", "--no-worker"],
    ["work"],
    ["rehearse", "--weeks", "1", "--no-serve"],
    ["pick", "rename", "2026-01-05", "FB", "META", "--from", "2026-01-12", "--source", "A word."],
]  # fmt: skip


@pytest.mark.parametrize("arguments", LIVE_COMMANDS, ids=" ".join)
def test_live_commands_refuse_a_rehearsal_without_its_clock(
    arguments, database, commanded, monkeypatch, tmp_path
):
    """Dropping the rehearsal's clock makes no live record of it."""
    monkeypatch.chdir(Path(tmp_path))
    write_genesis(database, origin=Origin.REHEARSED)
    done = commanded(*arguments, DATABASE_URL=database, **KEYS)
    assert done.exit_code == 1, done
    assert "the GENESIS entry of its journal says so" in done.error + done.output
    assert "Traceback" not in done.error
