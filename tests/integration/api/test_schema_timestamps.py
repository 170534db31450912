"""
The timestamps in the API: their page, and what a batch says about them.

The Monday 2026-01-05 opens at 14:30 UTC. The Monday 2026-01-19 is Martin Luther King Day, so its
picks can be traded from Tuesday on.
"""

import json
from base64 import b64decode, b64encode
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest
from api_records import FACTS, RUNNING, WON, Record, engine_on, plant
from declaring import SETTINGS
from msgspec.structs import replace

from app.database import migrations, pools
from app.domain.calendar import Calendar, annual_holidays
from app.domain.declarations import Genesis, Origin
from app.domain.model import BatchStatus, JournalHead, JournalKind
from app.domain.timestamps import is_before
from app.store import batches, timestamps

OPEN = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
HOLIDAY = date(2026, 1, 19)
QUERY = "{ latestBatch { stampedBeforeOpen timestamp { seq kind at status accuracySeconds } } }"


async def batch_of(pool, now: datetime, sessions: Calendar | None = None) -> dict:
    """Return what the API says about the newest batch at `now`."""
    facts = replace(FACTS, now=lambda: now, sessions=sessions or Calendar())
    answer = json.loads((await engine_on(pool, facts).execute(QUERY)).body)
    assert "errors" not in answer
    return answer["data"]["latestBatch"]


def stored(database: str, run_date: date = WON, *, late: bool = False) -> Record:
    """Store a batch of 14:00:20 UTC with its journal entry."""
    with psycopg.connect(database) as conn:
        record = Record(conn)
        record.batch("main", run_date, BatchStatus.ACTIVE, "AAPL SELL, KO BUY, XOM BUY")
        if late:
            conn.execute("SET session_replication_role = replica")
            conn.execute("UPDATE batches SET late = true")
    return record


def stamp(database: str, at: datetime, accuracy: str = "0", *, pending: bool = False) -> None:
    """Store a timestamp of the head."""
    with psycopg.connect(database) as conn:
        head = conn.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
        assert head
        kind, status, nonce, chain = ("RFC3161", "CONFIRMED", "1", "chain")
        if pending:
            kind, status, nonce, chain = ("OPENTIMESTAMPS", "PENDING", None, None)
        conn.execute(
            "INSERT INTO timestamps (id, seq, hash, kind, status, authority, at, accuracy_seconds, "
            "received_at, nonce, proof, chain) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'x', %s)",
            (
                uuid4(), *head, kind, status, f"https://{uuid4().hex}.example", at,
                None if pending else Decimal(accuracy), at, nonce, chain,
            ),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "accuracy", "expected"),
    [
        pytest.param(-1500, "0", True, id="at 09:05"),
        pytest.param(-1, "0.999999", True, id="just before the open, with its accuracy"),
        pytest.param(-1, "1", False, id="its accuracy reaches the open"),
        pytest.param(0, "0", False, id="at the open"),
        pytest.param(3600, "0", False, id="an hour after the open"),
    ],
)
@pytest.mark.parametrize("hours", [-1, 1, 100])
async def test_a_token_before_the_open(seconds, accuracy, expected, hours, database, pool):
    """The time of the token plus its accuracy is compared with the open, at any time of asking."""
    stored(database)
    at = OPEN + timedelta(seconds=seconds)
    stamp(database, at, accuracy)
    batch = await batch_of(pool, OPEN + timedelta(hours=hours))
    assert batch["stampedBeforeOpen"] is expected
    assert batch["timestamp"]["at"] == f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (OPEN - timedelta(seconds=1), None),
        (OPEN, False),
        (OPEN + timedelta(days=30), False),
    ],
)
async def test_without_a_token_it_is_open_until_the_open(now, expected, database, pool):
    """A promise of OpenTimestamps proves no minute, so it does not count."""
    stored(database)
    assert await batch_of(pool, now) == {"stampedBeforeOpen": expected, "timestamp": None}
    stamp(database, OPEN - timedelta(minutes=20), pending=True)
    batch = await batch_of(pool, now)
    assert batch["stampedBeforeOpen"] is expected
    assert batch["timestamp"]["kind"] == "OPENTIMESTAMPS"
    assert batch["timestamp"]["status"] == "PENDING"
    assert batch["timestamp"]["accuracySeconds"] is None


async def test_a_late_batch_is_not_before_the_open(database, pool):
    """The clock of the service does not matter: the batch itself says that it is late."""
    stored(database, late=True)
    assert (await batch_of(pool, OPEN - timedelta(hours=1)))["stampedBeforeOpen"] is False


async def test_a_holiday_moves_the_open(database, pool):
    """If the Monday is no session, the open is Tuesday's; a closure on short notice moves it on."""
    stored(database, HOLIDAY)
    tuesday = datetime(2026, 1, 20, 14, 30, tzinfo=UTC)
    assert (await batch_of(pool, tuesday - timedelta(seconds=1)))["stampedBeforeOpen"] is None
    assert (await batch_of(pool, tuesday))["stampedBeforeOpen"] is False
    closed = Calendar([date(2026, 1, 20)])
    assert (await batch_of(pool, tuesday, closed))["stampedBeforeOpen"] is None
    stamp(database, tuesday - timedelta(minutes=1))
    assert (await batch_of(pool, tuesday))["stampedBeforeOpen"] is True


def seal(address: str, *listed: date) -> None:
    """Let the journal begin with settings that list these days, besides the holidays."""
    days = tuple(sorted({*annual_holidays(2026), *listed}))
    settings = replace(SETTINGS, days_without_session=days)
    genesis = Genesis(record_id="0" * 32, origin=Origin.LIVE, late=True)
    with psycopg.connect(address) as conn:
        record = Record(conn)
        row = conn.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
        assert row
        record.head = JournalHead(*row, OPEN)
        record.write(JournalKind.GENESIS, OPEN, {"genesis": genesis, "settings": settings})


async def opens(pool, *, closed: Calendar) -> list[bool | None]:
    """
    Return how a token of half past ten on the Monday of a stored batch is judged: by the API in a
    process with these closures on short notice, and by the operator's snapshot.
    """
    batch = await batch_of(pool, OPEN + timedelta(days=30), closed)
    async with pool.connection() as conn:
        stored_batch = await batches.get_by_run_date(conn, "main", OPEN.date())
        opens_at = await timestamps.get_first_open(conn, stored_batch, closed)
    token = datetime.fromisoformat(batch["timestamp"]["at"])
    return [batch["stampedBeforeOpen"], token < opens_at]


async def test_a_setting_moves_no_open_of_a_sealed_record(database, pool):
    """Only a process that serves reads MARKET_CLOSED_DAYS here, and it declares nothing."""
    stored(database)
    stamp(database, OPEN + timedelta(hours=1))
    for days in ([OPEN.date()], [OPEN.date(), OPEN.date() + timedelta(days=1)]):
        assert await opens(pool, closed=Calendar(days)) == [True, True]
    seal(database)
    for days in ([], [OPEN.date()], [OPEN.date(), OPEN.date() + timedelta(days=1)]):
        assert await opens(pool, closed=Calendar(days)) == [False, False]


async def test_a_declared_closure_moves_the_open_until_a_price_is_read(database, pool):
    """The journal lists the day. A price of the benchmark shows that the exchange traded."""
    record = stored(database)
    stamp(database, OPEN + timedelta(hours=1))
    seal(database, OPEN.date())
    assert await opens(pool, closed=Calendar()) == [True, True]
    with psycopg.connect(database) as record.conn:
        record.conn.execute("SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true)")
        record.close("SPY", OPEN.date())
    assert await opens(pool, closed=Calendar()) == [False, False]


async def test_an_earlier_head_does_not_cover_the_batch(database, pool):
    """A timestamp of the entry before the batch's says nothing about the batch."""
    record = stored(database)
    stamp(database, OPEN - timedelta(minutes=20))
    with psycopg.connect(database) as record.conn:
        record.batch("main", date(2026, 1, 12), BatchStatus.ACTIVE, "AAPL BUY, KO BUY, XOM BUY")
    batch = await batch_of(pool, OPEN + timedelta(days=8))
    assert batch == {"stampedBeforeOpen": False, "timestamp": None}


async def test_the_earliest_token_comes_first_and_a_token_before_a_promise(database, pool):
    """Tokens are chosen before promises, the earliest first."""
    stored(database)
    stamp(database, OPEN - timedelta(minutes=25), pending=True)
    stamp(database, OPEN - timedelta(minutes=10))
    stamp(database, OPEN - timedelta(minutes=12))
    batch = await batch_of(pool, OPEN)
    assert batch["timestamp"]["at"] == "2026-01-05T14:18:00.000000Z"


# The changes after which the token still counts.
UNCHANGED = ("at = at", "at = '2026-01-05 13:51:21Z'")
# Changes of a token in the database that would move it before the open, or take its time away.
CHANGED_TOKENS = {
    "nothing": "at = at",
    "a week before the batch": "at = at - interval '7 days'",
    "11 minutes before the batch": "at = '2026-01-05 13:49:19Z'",
    "9 minutes before the batch": "at = '2026-01-05 13:51:21Z'",
    "after the open": "at = '2026-01-05 14:30Z'",
    "no accuracy": "accuracy_seconds = NULL",
    "an accuracy of an hour": "accuracy_seconds = 3600",
    "pending": "status = 'PENDING'",
    "a promise": "kind = 'OPENTIMESTAMPS'",
    "another hash": "hash = repeat('a', 64)",
    "an earlier entry": "seq = seq - 1",
}


@pytest.mark.parametrize("change", CHANGED_TOKENS.values(), ids=CHANGED_TOKENS)
async def test_a_changed_token_is_the_same_to_the_api_and_to_the_commands(change, empty):
    """The API, `show`, `status` and the alert say the same of it."""
    await migrations.migrate(empty, OPEN)
    stored(empty)
    stamp(empty, OPEN - timedelta(minutes=20))
    with psycopg.connect(empty) as conn:
        conn.execute("SET session_replication_role = replica")
        for constraint in (
            "a_timestamp_of_an_authority_is_complete",
            "a_proof_in_a_block_names_the_block",
        ):
            conn.execute(f"ALTER TABLE timestamps DROP CONSTRAINT {constraint}")
        conn.execute(f"UPDATE timestamps SET {change}")
    facts = replace(FACTS, now=lambda: OPEN)
    async with pools.opened(pools.make_pool(empty, max_size=2)) as pool:
        answer = await engine_on(pool, facts).execute("{ latestBatch { id stampedBeforeOpen } }")
        batch = json.loads(answer.body)["data"]["latestBatch"]
        async with pool.connection() as conn:
            stamps = await timestamps.list_covering(conn, UUID(batch["id"]))
    assert batch["stampedBeforeOpen"] is is_before(stamps, OPEN)
    assert batch["stampedBeforeOpen"] is (change in UNCHANGED)


async def test_the_page_has_every_proof_oldest_first(database, pool):
    """The proof is base64 without line breaks, and the cursor leads to the next row."""
    plant(database)
    query = """query ($after: String) { timestamps(first: 2, after: $after) {
        nodes { seq hash kind authority at accuracySeconds receivedAt status proof chain
            blockHeight }
        pageInfo { endCursor hasNextPage } } }"""
    engine = engine_on(pool)
    nodes, after, has_more = [], None, True
    while has_more:
        answer = json.loads((await engine.execute(query, {"after": after})).body)
        page = answer["data"]["timestamps"]
        nodes += page["nodes"]
        after, has_more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert [(node["kind"], node["status"]) for node in nodes] == [
        ("RFC3161", "CONFIRMED"),
        ("OPENTIMESTAMPS", "PENDING"),
        ("OPENTIMESTAMPS", "CONFIRMED"),
        ("RFC3161", "CONFIRMED"),
    ]
    assert [node["blockHeight"] for node in nodes] == [None, None, 930_000, None]
    assert b64decode(nodes[0]["proof"], validate=True) == b"proof of 2026-01-05 14:04:00+00:00"
    assert nodes[0]["chain"] == "a chain\n"
    with psycopg.connect(database) as conn:
        stored_rows = conn.execute("SELECT seq::text, hash FROM timestamps ORDER BY seq").fetchall()
    assert [(node["seq"], node["hash"]) for node in nodes] == stored_rows


async def test_a_long_proof_stays_on_one_line(database, pool):
    """Postgres breaks base64 into lines of 76 characters; the API does not."""
    plant(database)
    proof = bytes(range(256)) * 20
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE timestamps SET proof = %s", [proof])
    answer = json.loads((await engine_on(pool).execute("{ timestamps { nodes { proof } } }")).body)
    assert answer["data"]["timestamps"]["nodes"][0]["proof"] == b64encode(proof).decode()


async def test_every_batch_of_a_page_has_its_timestamp(database, pool):
    """WON was stamped at 09:04; RUNNING, and all before it, at 10:00 on RUNNING's Monday."""
    plant(database)
    query = "{ batches { nodes { runDate stampedBeforeOpen timestamp { at } } } }"
    answer = json.loads((await engine_on(pool).execute(query)).body)
    nodes = answer["data"]["batches"]["nodes"]
    stamped = {node["runDate"]: node["stampedBeforeOpen"] for node in nodes}
    assert stamped == {
        "2026-01-05": True, "2026-01-12": False, "2026-01-19": None, "2026-01-26": False,
    }  # fmt: skip
    first = {node["runDate"]: (node["timestamp"] or {}).get("at") for node in nodes}
    assert first[str(WON)] == "2026-01-05T14:04:00.000000Z"
    assert first["2026-01-12"] == first[str(RUNNING)] == "2026-01-26T15:00:00.000000Z"
    assert first["2026-01-19"] is None
