"""
The API under pressure, over real sockets: slow requests end, excess requests are refused, and no
job waits.
"""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from statistics import median
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import uvicorn
from api_records import engine_on
from litestar import Litestar
from processes import (
    KEYS,
    SLOW,
    ask,
    change,
    eventually,
    make_jobs_due,
    pick,
    providers,
    query_rows,
    serving,
    settle,
    started,
)
from silent_proxy import Proxy
from sockets import connected

from api.cache import MAX_CONCURRENT, WAIT_SECONDS
from api.http import routes
from app.core import settings
from app.main import READ_LIMIT, READ_WAIT
from app.web import timeouts, unsent_responses

QUICK = "{ service { journalHead { seq } } }"
READS = settings.load({}).api_pool_size  # connections that the API has

# What a busy machine may add, in seconds. With twelve processes for two cores, it added more than
# three. So this bound only finds what hangs; the order of two times in one run says more.
NOISE = 20.0


@asynccontextmanager
async def locked(database: str) -> AsyncIterator[None]:
    """Block every reader of corrections, and nothing else."""
    async with await psycopg.AsyncConnection.connect(database) as conn:
        await conn.execute("LOCK TABLE corrections IN ACCESS EXCLUSIVE MODE")
        yield
        await conn.rollback()


async def timed(client: httpx.AsyncClient, query: str) -> tuple[httpx.Response, float]:
    """Return a response, and how long it took."""
    began = time.monotonic()
    answer = await client.post("/graphql", json={"query": query})
    return answer, time.monotonic() - began


def client_of(address: str) -> httpx.AsyncClient:
    """Return a client without a limit on its connections."""
    return httpx.AsyncClient(
        base_url=address, timeout=30, limits=httpx.Limits(max_connections=None)
    )


def code(answer: httpx.Response) -> str:
    return (
        str(answer.json()["errors"][0]["extensions"]["code"])
        if "errors" in answer.json()
        else "answered"
    )


def active(database: str) -> int:
    """Return how many statements of the API are running."""
    (row,) = query_rows(
        database,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'alpha-monday api' AND state <> 'idle'",
    )
    return int(row[0])


async def test_slow_queries_hold_up_no_job(database, pool, tmp_path):
    """
    Of 64 slow queries, as many run as there are connections; the others are refused, and a job
    runs meanwhile.
    """
    await settle(pool)
    async with providers() as (provider, world):
        await pick(database=database, pool=pool, provider=provider, world=world)
        there = {"OPENAI_BASE_URL": provider.url, "ALPHA_VANTAGE_BASE_URL": provider.url, **KEYS}
        with started(
            "serve", cwd=tmp_path, says="Serving GraphQL at ", DATABASE_URL=database, **there
        ) as server:
            async with locked(database), client_of(server.address) as client:
                asking = [asyncio.create_task(timed(client, SLOW)) for _ in range(64)]
                await eventually(lambda: active(database) == READS, 30)
                make_jobs_due(database, "args ->> 'day' = '13'")  # a Sunday's: nothing to ask
                sundays = "SELECT FROM checkpoints WHERE day = 13"
                took = await eventually(lambda: len(query_rows(database, sundays)) == 2, READ_LIMIT)
                print(f"two jobs {took:.2f} s after they were due")
                health = await client.get("/health")
                assert (health.status_code, health.elapsed.total_seconds() < NOISE) == (200, True)
                answers = await asyncio.gather(*asking)
    assert Counter(code(answer) for answer, _ in answers) == {
        "OPERATION_TOO_LARGE": READS,
        "SERVICE_UNAVAILABLE": 64 - READS,
    }
    for answer, seconds in answers:
        if code(answer) == "SERVICE_UNAVAILABLE":
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert seconds < READ_WAIT + NOISE
        else:
            assert READ_LIMIT - 0.5 < seconds < READ_LIMIT + NOISE
    waits = [seconds for answer, seconds in answers if answer.status_code == 503]
    runs = [seconds for answer, seconds in answers if answer.status_code != 503]
    assert median(waits) < median(runs), "a refusal waits less than a query may run"
    print(f"refused after {min(waits):.2f} to {max(waits):.2f} s")


@pytest.fixture
def address(database, tmp_path):
    """Return the address of a server, and the address of its database."""
    with serving(tmp_path, DATABASE_URL=database) as one:
        yield one.address


async def test_a_crowd_with_one_question(address):
    """
    Of three hundred requests at once without a cache, all are answered, but not all reach
    Postgres.
    """
    # Of a new document, only a few requests of one client may wait for its validation.
    await asyncio.to_thread(ask, address, QUICK)
    clients = [connected(address) for _ in range(300)]
    for client in clients:
        client.sendall(request(QUICK))
    assert [await asyncio.to_thread(client.recv, 12) for client in clients] == [
        b"HTTP/1.1 200"
    ] * 300
    for client in clients:
        client.close()


def request(query: str) -> bytes:
    """Return the bytes of a request."""
    body = json.dumps({"query": query}).encode()
    head = (
        f"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        f"{len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.long
async def test_more_than_may_wait(address, database):
    """A request above the limit is refused soon, in the usual form."""
    async with locked(database), AsyncExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(MAX_CONCURRENT + 10)]
        await asyncio.to_thread(ask, address, SLOW.replace("{", "query Known {", 1))
        for client in clients:
            client.sendall(request(SLOW))
        began = time.monotonic()
        refusals = [await asyncio.to_thread(whole, client) for client in clients[-10:]]
        took = time.monotonic() - began
        print(f"ten refusals within {took:.3f} s")
        for refusal in refusals:
            head, body = refusal.split(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert {b"retry-after: 5", b"content-type: application/json; charset=utf-8"} <= set(
                head.split(b"\r\n")
            )
            assert json.loads(body)["errors"][0]["extensions"]["code"] == "SERVICE_UNAVAILABLE"
        assert WAIT_SECONDS <= took < WAIT_SECONDS + NOISE
        answered = [await asyncio.to_thread(client.recv, 12) for client in clients[:-10]]
    assert Counter(answered) == {b"HTTP/1.1 200": READS, b"HTTP/1.1 503": MAX_CONCURRENT - READS}


def whole(client: socket.socket) -> bytes:
    """Return a complete refusal."""
    received = b""
    while not received.endswith(b"]}"):
        received += client.recv(4096)
    return received


async def test_clients_that_vanish(address, database):
    """
    The connection to Postgres of a client that disconnected is free within the time limit of a
    query.
    """
    async with locked(database):
        clients = [connected(address) for _ in range(READS)]
        for client in clients:
            client.sendall(request(SLOW))
        await eventually(lambda: active(database) == READS, 30)
        for client in clients:
            client.close()
        took = await eventually(lambda: active(database) == 0, READ_LIMIT + NOISE)
        print(f"free {took:.2f} s after")
        assert (await asyncio.to_thread(ask, address, QUICK)).status_code == 200


async def test_clients_that_read_slowly(address, database):
    """While clients read three megabytes byte by byte, Postgres is idle and others are answered."""
    change(database, GENERATED)
    clients = [connected(address, buffer=4096) for _ in range(2 * READS)]
    for client in clients:
        client.sendall(
            request('{ batchOn(runDate: "2026-01-05") { generations { systemPrompt } } }')
        )
    for client in clients:
        assert await asyncio.to_thread(client.recv, 1) == b"H"
    await eventually(lambda: active(database) == 0, 1)
    for _ in range(2):
        await asyncio.sleep(1)
        for client in clients:
            assert client.recv(1)
        answer = await asyncio.to_thread(ask, address, QUICK)
        assert (answer.status_code, answer.elapsed.total_seconds() < NOISE, active(database)) == (
            200,
            True,
            0,
        )
    for client in clients:
        client.close()


GENERATED = """
    INSERT INTO batches
        (id, series, run_date, created_at, status, late, failure_reason, failure, benchmark_symbol)
    VALUES
        (gen_random_uuid(), 'main', '2026-01-05', now(), 'failed', false, 'MISSED',
         'No service ran.', 'SPY');
    INSERT INTO generations
        (id, series, run_date, attempt, asked_at, requested_model, prompt_version,
         system_prompt, user_prompt)
    VALUES
        (gen_random_uuid(), 'main', '2026-01-05', 1, now(), 'a-model', '1',
         repeat('x', 3000000), 'Go.')
"""


@pytest.mark.long
async def test_a_database_that_stands_still(database, tmp_path):
    """
    The connections stay open and nothing arrives: the API reports it within its limits, and
    recovers soon.
    """
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy().leading_to(database))
        server = await asyncio.to_thread(
            stack.enter_context,
            serving(tmp_path, DATABASE_URL=proxy.address, QUEUE_DATABASE_URL=database),
        )
        client = await stack.enter_async_context(client_of(server.address))
        assert code((await timed(client, QUICK))[0]) == "answered"
        proxy.silent = True
        answers = await asyncio.gather(*[timed(client, f"query Q{n} {QUICK}") for n in range(40)])
        assert {answer.status_code for answer, _ in answers} == {503}
        slowest = max(took for _, took in answers)
        assert slowest < READ_LIMIT + 1 + NOISE
        proxy.silent, began = False, time.monotonic()
        while code((await timed(client, f"query Again {QUICK}"))[0]) != "answered":
            assert time.monotonic() - began < 20
        print(
            f"503 after at most {slowest:.2f} s, answers again {time.monotonic() - began:.2f} s "
            "after"
        )


@pytest.fixture
async def served_url(pool, monkeypatch) -> AsyncIterator[str]:
    """Serve the API with our protocol and short timeouts; yield its address."""
    monkeypatch.setattr(timeouts, "HEAD_TIMEOUT", 0.4)
    monkeypatch.setattr(unsent_responses, "CREDIT", 0.8)
    monkeypatch.setattr(unsent_responses, "SWEEP_INTERVAL", 0.2)
    app = Litestar(routes(engine_on(pool)), openapi_config=None, logging_config=None)
    config = uvicorn.Config(
        app,
        http=timeouts.TimeoutProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=1,
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = uvicorn.Server(config)
        task = asyncio.create_task(running.serve([listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.should_exit = True
        await task


def ended(client: socket.socket) -> tuple[bytes, float]:
    """Return what a connection sent until it was closed, and when that was."""
    began, received = time.monotonic(), b""
    with suppress(ConnectionError):
        while data := client.recv(65_536):
            received += data
    return received, time.monotonic() - began


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"POST /graphql HTTP/1.1\r\nHost: x\r\nAcc", id="half a head"),
        pytest.param(request(QUICK) + b"POST /gra", id="half a head after a whole request"),
    ],
)
async def test_a_head_that_does_not_come(sent, served_url):
    """The service does not wait for ever; earlier requests are answered."""
    with connected(served_url) as client:
        client.sendall(sent)
        received, took = await asyncio.to_thread(ended, client)
    assert received.count(b"200 OK") == sent.count(b"journalHead")
    assert took < 0.8 + NOISE


async def test_a_head_without_end(served_url):
    """The service does not store megabytes of headers."""
    with connected(served_url) as client:

        def send() -> int:
            sent = client.send(b"GET /graphql HTTP/1.1\r\nHost: x\r\n")
            with suppress(ConnectionError):
                for number in range(10_000):
                    sent += client.send(f"X-{number}: {'x' * 1000}\r\n".encode())
            return sent

        assert await asyncio.to_thread(send) < 8_000_000  # most of it in the buffers between


async def test_a_body_may_be_slower_than_a_head(served_url, monkeypatch):
    """A request in progress has limits of its own."""
    with connected(served_url) as client:
        whole = request(QUICK)
        client.sendall(whole[:-5])
        await asyncio.sleep(1.5)
        client.sendall(whole[-5:])
        assert (await asyncio.to_thread(client.recv, 15)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("count", [1, 3], ids=["one answer", "one after another"])
@pytest.mark.long
async def test_an_answer_that_is_not_read(count, served_url, database):
    """After a while, the service drops the response and the connection."""
    change(database, GENERATED)
    with connected(served_url, buffer=4096) as client:
        client.sendall(
            count * request('{ batchOn(runDate: "2026-01-05") { generations { systemPrompt } } }')
        )
        await asyncio.sleep(1 + 0.4 + 0.4 + NOISE)
        received, _ = await asyncio.to_thread(ended, client)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert len(received) < 3_000_000


@pytest.mark.parametrize(
    ("pace", "whole"),
    [
        pytest.param(0, False, id="nothing"),
        pytest.param(10, False, id="a byte now and then"),
        pytest.param(1_500_000, True, id="slowly, but on and on"),
    ],
)
@pytest.mark.sampled(1)
async def test_a_slow_reader(pace, whole, served_url, database, monkeypatch):
    """
    The pace is measured: a client that reads fast enough gets its whole answer, however long
    that takes.
    """
    monkeypatch.setattr(unsent_responses, "MIN_PACE", 500_000)
    change(database, GENERATED)
    with connected(served_url, buffer=4096) as client:
        client.sendall(
            request('{ batchOn(runDate: "2026-01-05") { generations { systemPrompt } } }')
        )
        size = await asyncio.to_thread(read_slowly, client, pace)
    assert (size > 3_000_000) is whole


def read_slowly(client: socket.socket, pace: int) -> int:
    """Read so many bytes a second for some seconds, then the rest; return how many they were."""
    began, size = time.monotonic(), 0
    with suppress(ConnectionError, TimeoutError):
        while size < 3_000_000 and (passed := time.monotonic() - began) < 4:
            if size >= passed * pace:
                time.sleep(0.01)
                continue
            data = client.recv(int(passed * pace) - size + 1)
            if not data:
                return size
            size += len(data)
        client.settimeout(0.5)
        while data := client.recv(65_536):
            size += len(data)
    return size


async def test_one_address_has_a_part_of_the_connections(served_url, monkeypatch):
    """
    An address at its limit loses its oldest connection without a request; other addresses are
    accepted.
    """
    monkeypatch.setattr(timeouts, "max_connections_per_address", lambda: 3)
    monkeypatch.setattr(timeouts, "HEAD_TIMEOUT", 30)
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(served_url)) for _ in range(3)]
        await asyncio.sleep(timeouts.MIN_AGE + 0.2)
        clients.append(stack.enter_context(connected(served_url)))
        other = stack.enter_context(socket.socket())
        other.bind(("127.0.0.2", 0))
        other.settimeout(30)
        url = urlsplit(served_url)
        other.connect((url.hostname, url.port))
        for client in (*clients[1:], other):
            client.sendall(request(QUICK))
            assert (await asyncio.to_thread(client.recv, 15)).startswith(b"HTTP/1.1 200 OK")
        assert (await asyncio.to_thread(ended, clients[0]))[0] == b""


async def test_no_more_connections_than_there_is_room_for(served_url, monkeypatch):
    """Open connections stay open; a connection above the limit is closed at once."""
    monkeypatch.setattr(timeouts, "max_connections", lambda: 3)
    clients = [connected(served_url) for _ in range(3)]
    await asyncio.sleep(0.1)
    with connected(served_url) as one_too_many:
        assert (await asyncio.to_thread(ended, one_too_many))[0] == b""
    clients[0].sendall(request(QUICK))
    assert (await asyncio.to_thread(clients[0].recv, 15)).startswith(b"HTTP/1.1 200 OK")
    for client in clients:
        client.close()
