"""
The memory for responses that clients do not read is limited, and other clients are answered.

These are responses of any kind that were computed and not sent yet. Sixty clients with answers of
22 MB once took 737 MB. Here each client sends requests without reading, for as long as the server
accepts them.
"""

import asyncio
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from api_records import plant
from processes import Started, serving
from sockets import connected, rest_of

from app.database import migrations
from app.web.unsent_responses import CREDIT, MAX_UNSENT

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LONG = 800_000
QUICK = "{ service { journalHead { seq } } }"
OWN, OTHER = "127.0.0.1", "127.0.0.2"
SMALL_BUFFER = 4096
GENERATIONS = f"""
    INSERT INTO batches
        (id, series, run_date, created_at, status, late, failure_reason, failure, benchmark_symbol)
    VALUES
        (gen_random_uuid(), 'main', '2019-01-07', now(), 'failed', false, 'MISSED',
         'No answer.', 'SPY');
    INSERT INTO generations
        (id, series, run_date, attempt, asked_at, requested_model, prompt_version,
         system_prompt, user_prompt)
    VALUES
        (gen_random_uuid(), 'main', '2019-01-07', 1, now(), 'a-model', '1',
         repeat('x', {LONG}), 'Go.')
"""


def post(query: str, *lines: str) -> bytes:
    """Return the bytes of a request with a query."""
    body = json.dumps({"query": query}).encode()
    head = [
        "POST /graphql HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def prompts(times: int) -> str:
    """Return a query for so many long texts."""
    texts = " ".join(f"a{number}: systemPrompt" for number in range(times))
    return f'{{ batchOn(runDate: "2019-01-07") {{ generations {{ {texts} }} }} }}'


MEMBERS = {
    "answers": post(prompts(2)),
    "cached answers": post(prompts(1)),
    "answers in the address": get(
        "/graphql?query=" + prompts(2).replace(" ", "%20").replace('"', "%22")
    ),
    "exports": get("/export.json"),
    "pages": get("/batches"),
    "pictures": get("/batches/2026-01-05/chart.png"),
    "errors": post("{ " + " ".join(f"nope{number}" for number in range(200)) + " }"),
    "metrics": get("/metrics"),
    "feeds": get("/feed.atom"),
    "streams": get("/live/journal"),
}

# What the process takes for the requests themselves, and for what it computes, in bytes.
BESIDES = 80_000_000


@pytest.fixture(scope="module")
def service(create, tmp_path_factory) -> Iterator[Started]:
    address = create()
    asyncio.run(migrations.migrate(address, NOW))
    plant(address)
    with psycopg.connect(address) as conn:
        conn.execute(GENERATIONS.encode())
    with serving(tmp_path_factory.mktemp("served"), DATABASE_URL=address) as one:
        for request in (
            *MEMBERS.values(),
            post(QUICK),
        ):  # modules that are loaded once are no growth
            with connected(one.address, OWN, SMALL_BUFFER) as client:
                client.sendall(request)
                assert client.recv(12) == b"HTTP/1.1 200"
        yield one


def resident(service: Started) -> int:
    """Return the memory of a process in bytes."""
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def ask_on(client: socket.socket, request: bytes, times: int) -> None:
    """Send a request again and again, as long as the server accepts it."""
    client.setblocking(False)
    with suppress(BlockingIOError, ConnectionError):
        client.sendall(request * times)


def answered(service: Started, address: str, query: str) -> float:
    """Send a request as an ordinary client does, on a new connection; return how long it took."""
    began = time.monotonic()
    with connected(service.address, address, 65_536) as client:
        client.sendall(post(query, "Connection: close"))
        received = rest_of(client)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n"), received[:200]
    assert b'{"data":' in received
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("clients", "name"),
    [
        pytest.param(60, "answers", id="60 with answers"),
        *(
            pytest.param(60, name, id=f"60 with {name}", marks=pytest.mark.long)
            for name in MEMBERS
            if name != "answers"
        ),
        *(
            pytest.param(200, name, id=f"200 with {name}", marks=pytest.mark.long)
            for name in MEMBERS
        ),
    ],
)
def test_clients_that_read_nothing(clients, name, service):
    """
    Memory is limited, and a client at their address and one at another are answered meanwhile.
    """
    before = most = resident(service)
    slowest = 0.0
    with ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(connected(service.address, OWN, SMALL_BUFFER))
            ask_on(client, MEMBERS[name], 8)
        for number in range(8):
            most = max(most, resident(service))
            slowest = max(slowest, answered(service, OWN, QUICK))
            slowest = max(slowest, answered(service, OTHER, f"query Q{number} {QUICK}"))
            time.sleep(0.2)
    print(
        f"{clients} with {name}: {(most - before) / 1e6:.0f} MB more, an ordinary client waits "
        f"{slowest:.2f} s"
    )
    assert most - before < MAX_UNSENT + BESIDES
    assert slowest < CREDIT / 2
