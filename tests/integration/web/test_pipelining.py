"""
Requests that are sent without waiting for responses: all are answered, and only few of them wait.

One connection must not take too much of the service by sending more. One client once made the
process grow by 40 MB each second, and each client that disconnected with a request behind the
active one caused an error in the log. A stream is such a request, too: see test_journal_stream.py.
"""

import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from processes import Started, serving
from sockets import connected, rest_of

MANY = 160
H2C = "Connection: Upgrade\r\nUpgrade: h2c\r\n"
BODY = json.dumps({"query": "{ service { version } }"})
SIZED = (
    f"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    f"{len(BODY)}\r\n"
)
CHUNKED = "POST /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
REQUESTS = {
    "a cached response": f"{SIZED}\r\n{BODY}",
    "an offer": f"{SIZED}{H2C}\r\n{BODY}",
    "an offer without a body": f"GET /live HTTP/1.1\r\nHost: x\r\n{H2C}\r\n",
    "no GraphQL": "GET /live HTTP/1.1\r\nHost: x\r\n\r\n",
    "HEAD": "HEAD /live HTTP/1.1\r\nHost: x\r\n\r\n",
    "no such path": "GET /nope HTTP/1.1\r\nHost: x\r\n\r\n",
    "a page": "GET /about HTTP/1.1\r\nHost: x\r\n\r\n",
    "an export": "GET /export.json HTTP/1.1\r\nHost: x\r\n\r\n",
    "chunks that no handler reads": CHUNKED,
}
LAST = "GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
RESPONSE = re.compile(rb"HTTP/1\.1 \d{3} ")


@pytest.fixture(scope="module")
def service(migrated, tmp_path_factory) -> Iterator[Started]:
    with serving(tmp_path_factory.mktemp("served"), DATABASE_URL=migrated) as one:
        yield one


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("together", [True, False], ids=["at once", "apart"])
@pytest.mark.sampled(6)
def test_all_are_answered(together, name, service):
    """However many there are, the client is slowed down, and not refused."""
    one = REQUESTS[name].encode()
    pieces = (
        [one * MANY + LAST.encode()] if together else [*[one * 20] * (MANY // 20), LAST.encode()]
    )
    with connected(service.address) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = rest_of(connection)
    assert len(RESPONSE.findall(received)) == MANY + 1
    assert received.count(b"connection: close\r\n") == 1


def test_few_wait(service):
    """A client that sends without end is slowed down, and the process does not grow."""
    before, began = resident(service), time.monotonic()
    with connected(service.address) as connection:
        reader = Thread(target=rest_of, args=[connection])
        reader.start()
        while time.monotonic() - began < 2:
            connection.sendall(REQUESTS["no GraphQL"].encode() * 100)
        grown = resident(service) - before
        connection.shutdown(socket.SHUT_RDWR)
        reader.join()
    assert grown < 20_000_000


def resident(service: Started) -> int:
    """Return the memory of a process in bytes."""
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("name", [*REQUESTS, "metrics", "nonsense"])
def test_a_client_that_closes_its_half(name, count, service):
    """The client has sent everything, and still reads."""
    others = {"metrics": "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "nonsense": "nonsense\r\n\r\n"}
    one = {**REQUESTS, **others}[name].encode()
    with connected(service.address) as connection:
        connection.sendall(one * count)
        connection.shutdown(socket.SHUT_WR)
        received = rest_of(connection)
    assert len(RESPONSE.findall(received)) == (1 if name == "nonsense" else count)


@pytest.mark.parametrize(
    "sent", ["", "GET /live HTTP/1.1\r\nHo", SIZED + "\r\n{"], ids=["nothing", "a head", "a body"]
)
def test_half_a_request(sent, service):
    """Nothing more will come, so the connection is closed at once."""
    with connected(service.address) as connection:
        connection.sendall(sent.encode())
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection) == b""


def test_a_stream_ends_with_its_reader(service):
    """A client that disconnects looks like one that closes its half, so the stream ends."""
    with connected(service.address) as connection:
        connection.sendall(b"GET /live/journal HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in rest_of(connection)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_client_that_leaves(name, service):
    """
    Clients disconnect with waiting requests, in the middle of a response: nothing fails, and
    the next is answered.
    """
    for pause in (0, 0.001, 0.003, 0.01):
        with connected(service.address) as connection:
            connection.sendall(REQUESTS[name].encode() * 20)
            time.sleep(pause)
    with connected(service.address) as connection:
        connection.sendall(LAST.encode())
        assert rest_of(connection).startswith(b"HTTP/1.1 200 OK")
    assert "Exception in ASGI application" not in service.log
