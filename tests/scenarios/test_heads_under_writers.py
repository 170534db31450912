"""
The journal's head is taken while four others write: each head that leaves the service is an entry.

The writers have a connection each. They append entries as jobs do, and some roll back after that.
"""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from commands import run
from git_repositories import make_bare, read_list
from job_context import (
    MARKET,
    MONDAY,
    JobHarness,
    World,
    open_context,
    store_reading,
)
from job_context import clock as clock
from local_server import local_server
from processes import serving
from provider_server import ProviderServer
from receivers import MessageReceiver
from receivers import receiver as receiver

from app.core import tasks
from app.database import pools
from app.database.pools import Pool, transaction
from app.domain.model import Close
from app.domain.timestamps import Head, Timestamp
from app.simulation import timestamp_calendar
from app.simulation.provider_simulators import ProviderSimulators
from app.simulation.timestamp_authority import SimulatedAuthority
from app.store import timestamps
from app.store.rows import Conn, select_rows
from app.web.routes import EXPORT_CSV
from jobs import alerts, heartbeat, published_heads
from jobs import timestamps as stamp_jobs

WRITERS = 4
# Every so many transactions of a writer, one is rolled back after its entry was appended.
ROLLED_BACK = 3
# The readings of the writers are about sessions from this day on, one a day.
FIRST_SESSION = date(1970, 1, 1)

Heads = set[tuple[int, str]]

# What the functions of jobs read of their job.
FIRST_JOB: Any = SimpleNamespace(attempts=0, id=1)


class RolledBack(Exception):
    """A writer ends its transaction without a commit."""


async def write(pool: Pool, harness: JobHarness, ticker: str) -> None:
    """Append an entry with a reading of `ticker` in each transaction, until cancelled."""
    for number in itertools.count():
        reading = Close(
            id=uuid4(),
            ticker=ticker,
            trading_day=FIRST_SESSION + timedelta(days=number),
            open=Decimal(1),
            close=Decimal(1),
            source="a provider",
            read_at=harness.clock.now(),
        )
        with suppress(RolledBack):
            async with transaction(pool, notify=False) as conn:
                await store_reading(conn, harness.context, reading)
                if number % ROLLED_BACK == 0:
                    raise RolledBack


@asynccontextmanager
async def writing(database: str, harness: JobHarness) -> AsyncIterator[None]:
    """Let the writers write; each of them must have written when the context ends."""
    tickers = [f"W{letter}" for letter in "ABCD"]
    assert len(tickers) == WRITERS
    async with pools.opened(pools.make_pool(database, max_size=WRITERS)) as pool:
        running = [asyncio.create_task(write(pool, harness, ticker)) for ticker in tickers]
        try:
            yield
        finally:
            await tasks.cancel_and_wait(*running)
        errors = [task.exception() for task in running if not task.cancelled()]
        assert errors == []
    counts = await harness.rows(
        "SELECT count(*) FROM closes WHERE ticker = ANY(%s) GROUP BY ticker", tickers
    )
    assert len(counts) == WRITERS
    assert min(counts) > (1,)


async def chain(harness: JobHarness) -> Heads:
    """Return the number and the hash of each entry. The hashes are computed here."""
    entries, previous = set(), "0" * 64
    for number, entry in enumerate(await harness.journal(), 1):
        previous = hashlib.sha256(f"{previous}\n{entry.content}".encode()).hexdigest()
        assert (entry.seq, entry.hash) == (number, previous)
        entries.add((number, previous))
    return entries


def split_text(head: str) -> tuple[int, str]:
    """Return the number and the hash of `SEQ:HASH`."""
    seq, _, hash_ = head.partition(":")
    return int(seq), hash_


@pytest.fixture
async def harness(
    database: str, clock: Any, receiver: MessageReceiver, tmp_path: Path
) -> AsyncIterator[JobHarness]:
    """A harness with a batch, both services that stamp, a receiver and a repository."""
    authority, world = SimulatedAuthority(), World(clock)
    (tmp_path / "root.pem").write_bytes(authority.root_pem)
    make_bare(tmp_path / "heads.git")

    async def now() -> Any:
        return clock.now()

    simulators = ProviderSimulators(market=MARKET, now=now, authority=authority)
    config = uvicorn.Config(simulators, log_level="critical", lifespan="off")
    async with (
        pools.opened(pools.make_pool(database, max_size=8)) as pool,
        local_server(config) as (host, port),
        ProviderServer() as provider,
        open_context(
            database=database,
            pool=pool,
            clock=clock,
            base_url=provider.url,
            TIMESTAMP_URLS=f"http://{host}:{port}/timestamp",
            TIMESTAMP_ROOTS=str(tmp_path / "root.pem"),
            OTS_CALENDARS=f"http://{host}:{port}{timestamp_calendar.PATH}",
            ALERT_WEBHOOK_URL=f"{receiver.url}/hook",
            HEARTBEAT_URL=f"{receiver.url}/ping",
            HEAD_REPOSITORY=str(tmp_path / "heads.git"),
        ) as context,
    ):
        provider.answers = world
        opened = JobHarness(context=context, provider=provider, world=world, clock=clock)
        await opened.make_batch()
        yield opened


@pytest.mark.parametrize("times", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_each_stamped_head_is_an_entry(times, database, harness):
    """Two services stamp by turns: each stored number and hash are those of one entry."""
    services = itertools.cycle(harness.context.timestamps)
    async with writing(database, harness):
        # A job whose head is stamped already stores nothing, so some jobs more are run.
        while await harness.rows("SELECT count(*) FROM timestamps") != [(times,)]:
            await stamp_jobs.stamp(harness.context, next(services), FIRST_JOB)
    async with harness.context.pool.connection() as conn:
        stored = await select_rows(conn, Timestamp, table="timestamps")
    heads = {(stamp.seq, stamp.hash) for stamp in stored}
    # Each service has stamped each head once at most.
    assert len(heads) >= times / 2
    assert heads <= await chain(harness)


async def test_each_head_that_a_job_reads_is_an_entry(database, harness):
    """It is read 1,000 times, and its text always has its hash."""
    heads: Heads = set()
    async with writing(database, harness):
        for _ in range(1000):
            async with harness.context.pool.connection() as conn:
                head = await timestamps.head(conn)
            assert head
            assert hashlib.sha256(head.data).hexdigest() == head.hash
            heads.add((head.seq, head.hash))
    assert len(heads) > 50
    assert heads <= await chain(harness)


async def read_in_two_statements(conn: Conn) -> Head:
    """Return the number of one entry and the hash of a later one, if there was a commit between."""
    cursor = await conn.execute("SELECT max(seq) FROM journal")
    ((seq,),) = await cursor.fetchall()
    newest = await timestamps.head(conn)
    assert newest
    return Head(seq=seq, hash=newest.hash, previous=newest.previous, content=newest.content)


async def test_two_statements_would_be_noticed(database, harness):
    """The writers are quick enough: a head that is read in two statements is soon no entry."""
    heads: Heads = set()
    async with writing(database, harness):
        for _ in range(1000):
            async with harness.context.pool.connection() as conn:
                head = await read_in_two_statements(conn)
            heads.add((head.seq, head.hash))
    assert len(heads - await chain(harness)) > 10


# The ways on which a head leaves the service. Each function returns the head that it took.


async def print_head(harness: JobHarness, _: MessageReceiver) -> str:
    """Read the head that `alpha-monday head` prints."""
    async with harness.context.pool.connection() as conn:
        head = await published_heads.get_head(conn)
    assert head
    return head.text


async def publish(harness: JobHarness) -> str:
    """Push the head to the repository, as the job and `alpha-monday head --publish` do."""
    context = harness.context
    publication = await published_heads.publish(
        context.pool, context.head_repository, context.now()
    )
    return publication.head.text


async def send_heartbeat(harness: JobHarness, receiver: MessageReceiver) -> str:
    """Send the heartbeat of the next morning, with the head in a header."""
    ((morning,),) = await harness.rows(
        "INSERT INTO operations.heartbeats (morning, at) "
        "SELECT coalesce(max(morning), %s) + 1, %s FROM operations.heartbeats RETURNING morning",
        MONDAY,
        harness.clock.now(),
    )
    await heartbeat.send(harness.context, morning, FIRST_JOB)
    return receiver.requests[-1].headers["x-journal-head"]


async def send_alert(harness: JobHarness, receiver: MessageReceiver) -> str:
    """Send an alert, with the head in its document."""
    ((id,),) = await harness.rows(
        "INSERT INTO operations.alerts (id, kind, at, text, to_do) "
        "VALUES (gen_random_uuid(), 'monday_failed', %s, 'A text.', 'A text.') RETURNING id",
        harness.clock.now(),
    )
    await alerts.send(harness.context, id, FIRST_JOB)
    return str(receiver.requests[-1].json["journal_head"])


@pytest.mark.parametrize(
    ("take", "times"),
    [(print_head, 1000), (send_heartbeat, 100), (send_alert, 100)],
    ids=["printed", "in heartbeats", "in alerts"],
)
async def test_each_head_that_is_passed_on_is_an_entry(take, times, database, harness, receiver):
    """It is read, or sent to a receiver, again and again."""
    async with writing(database, harness):
        heads = {split_text(await take(harness, receiver)) for _ in range(times)}
    assert len(heads) > times / 20
    assert heads <= await chain(harness)


async def test_each_published_head_is_an_entry(database, harness, tmp_path):
    """The repository's list has one line for each, in the order of the chain."""
    async with writing(database, harness):
        heads = [split_text(await publish(harness)) for _ in range(10)]
    assert set(heads) <= await chain(harness)
    lines = read_list(tmp_path / "heads.git").splitlines()
    listed = [tuple(line.split("\t")[:2]) for line in lines if line[0].isdigit()]
    assert listed == [(str(seq), hash_) for seq, hash_ in heads]


async def test_each_head_of_the_command_is_an_entry(database, harness, tmp_path):
    """`alpha-monday head` runs in a process of its own."""
    heads: Heads = set()
    async with writing(database, harness):
        for _ in range(2):
            done = await asyncio.to_thread(run, "head", cwd=tmp_path, DATABASE_URL=database)
            heads.add(split_text(done.stdout.strip()))
    assert len(heads) == 2
    assert heads <= await chain(harness)


async def test_each_head_of_the_api_is_an_entry(database, harness, tmp_path):
    """A server of its own answers with heads: in GraphQL, and in a header of the export."""
    heads: Heads = set()
    query = {"query": "{ service { journalHead { seq hash } } }"}
    with serving(tmp_path, DATABASE_URL=database) as server:
        async with (
            writing(database, harness),
            httpx.AsyncClient(base_url=server.address, timeout=60) as client,
        ):
            for _ in range(200):
                response = await client.post("/graphql", json=query)
                head = response.json()["data"]["service"]["journalHead"]
                heads.add((int(head["seq"]), head["hash"]))
            for _ in range(10):
                response = await client.get(EXPORT_CSV.path)
                heads.add(split_text(response.headers["x-journal-head"]))
    assert len(heads) > 10
    assert heads <= await chain(harness)
