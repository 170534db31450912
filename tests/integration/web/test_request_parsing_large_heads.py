"""
A request's head, and the framing of its body, have at most 64 KB, however they are written.

These are bytes of a request that no handler sees, and that once were read without a limit.
"""

import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from processes import Started, serving
from sockets import connected, rest_of

from app.web.request_parsing import MAX_HEAD_BYTES, MAX_HEADERS

LAST = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
GET = b"GET /live HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"GET /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
QUERY = (
    b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
OFFER = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
MUCH = MAX_HEAD_BYTES + 16_000


@pytest.fixture(scope="module")
def service(migrated, tmp_path_factory) -> Iterator[Started]:
    with serving(tmp_path_factory.mktemp("served"), DATABASE_URL=migrated) as one:
        yield one


def send(service: Started, *pieces: bytes) -> bytes:
    """Return everything that a connection answers to these pieces, until it ends."""
    with connected(service.address) as connection:
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        return rest_of(connection)


def small_headers(size: int) -> bytes:
    """Return so many bytes of headers, of 160 bytes each."""
    return b"".join(b"x-%06d: %b\r\n" % (number, b"a" * 148) for number in range(size // 160))


def short_headers(count: int) -> bytes:
    """Return so many headers of 5 bytes each."""
    return b"a:b\r\n" * count


def sized(size: int) -> bytes:
    """Return a request with a head of exactly so many bytes."""
    return GET + b"X: " + b"a" * (size - len(GET) - len(b"X: \r\n\r\n")) + b"\r\n\r\n"


TOO_LARGE = {
    "one header": [GET + b"X: " + b"a" * MUCH + b"\r\n\r\n"],
    "a header's name": [GET + b"x" * MUCH + b": a\r\n\r\n"],
    "many small headers": [GET + small_headers(MUCH) + b"\r\n"],
    "the request line": [b"GET /live?" + b"a" * MUCH + b" HTTP/1.1\r\nHost: x\r\n\r\n"],
    "in small pieces": [GET, *[b"x: " + b"a" * 500 + b"\r\n"] * (MUCH // 500), b"\r\n"],
    "without an end": [GET + b"X: ", *[b"a" * 1000] * 80],
    "behind another request": [
        LAST.replace(b"Connection: close\r\n", b"") + GET + small_headers(MUCH) + b"\r\n"
    ],
    "with an offer": [GET + OFFER + small_headers(MUCH) + b"\r\n"],
    "of a query": [
        GET.replace(b"/live", b"/graphql?query={service{version}}") + small_headers(MUCH) + b"\r\n"
    ],
    "trailers": [CHUNKED + b"1\r\na\r\n0\r\n" + small_headers(MUCH) + b"\r\n"],
    "one trailer": [CHUNKED + b"1\r\na\r\n0\r\nX: " + b"a" * MUCH + b"\r\n\r\n"],
    "a chunk's extension": [CHUNKED + b"1;a=" + b"b" * MUCH + b"\r\na\r\n0\r\n\r\n"],
    "trailers of a query": [QUERY + b"1\r\n{\r\n0\r\n" + small_headers(MUCH) + b"\r\n"],
    "extensions of a query's chunks": [
        QUERY + (b"1;a=" + b"b" * 996 + b"\r\na\r\n") * 90 + b"0\r\n\r\n"
    ],
    "extensions of many chunks": [
        CHUNKED + (b"1;a=" + b"b" * 996 + b"\r\na\r\n") * 90 + b"0\r\n\r\n"
    ],
    "one byte too many": [sized(MAX_HEAD_BYTES + 1)],
}


# Requests whose handler answers without reading their body. Most of the body may arrive before the
# response, and then the request is refused, or later. After a complete response, the rest of the
# body is discarded without a limit, and the next request is answered.
ANSWERED_BEFORE = {"trailers", "one trailer", "a chunk's extension", "extensions of many chunks"}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_head_that_is_too_large(name, service):
    """The refusal names the limit, and the connection ends: nothing behind it is answered."""
    received = send(service, *TOO_LARGE[name], LAST)
    if name in ANSWERED_BEFORE:
        assert re.findall(rb"HTTP/1\.1 (\d+)", received) in ([b"431"], [b"200"], [b"200", b"200"])
        return
    assert received.count(b"HTTP/1.1 200 OK") == (name == "behind another request")
    assert b"HTTP/1.1 431 " in received
    assert b"at most 64 KB" in received


FITS = {
    "no byte too many": sized(MAX_HEAD_BYTES),
    "many headers": GET + small_headers(MAX_HEAD_BYTES - 200) + b"\r\n",
    "an offer": GET + OFFER + small_headers(MAX_HEAD_BYTES - 300) + b"\r\n",
    "trailers": CHUNKED + b"1\r\na\r\n0\r\n" + small_headers(60_000) + b"\r\n",
    "many chunks": CHUNKED + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n",
    "one after another": sized(40_000) * 5,
}


@pytest.mark.parametrize("name", FITS)
def test_a_head_that_fits(name, service):
    received = send(service, FITS[name], LAST)
    assert received.count(b"HTTP/1.1 200 OK") == FITS[name].count(b" /live ") + 1
    assert b"HTTP/1.1 431" not in received


TOO_MANY = {
    "in a head": [GET + short_headers(MAX_HEADERS + 2) + b"\r\n"],
    "ten thousand": [GET + short_headers(10_000) + b"\r\n"],
    "in small pieces": [GET, *[short_headers(10)] * (MAX_HEADERS // 10 + 1), b"\r\n"],
    "without an end": [GET, short_headers(MAX_HEADERS * 4)],
    "behind another request": [
        LAST.replace(b"Connection: close\r\n", b"") + GET + short_headers(1_000) + b"\r\n"
    ],
    "with an offer": [GET + OFFER + short_headers(MAX_HEADERS + 2) + b"\r\n"],
    "trailers of a query": [QUERY + b"1\r\n{\r\n0\r\n" + short_headers(MAX_HEADERS * 4) + b"\r\n"],
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_too_many_headers(name, service):
    """They are refused, also if they take only a few KB together."""
    received = send(service, *TOO_MANY[name], LAST)
    assert received.count(b"HTTP/1.1 200 OK") == (name == "behind another request")
    assert b"HTTP/1.1 431 " in received
    assert b"at most 500 headers" in received


def test_as_many_headers_as_fit(service):
    assert (
        send(service, GET + short_headers(MAX_HEADERS - 1) + b"\r\n", LAST).count(
            b"HTTP/1.1 200 OK"
        )
        == 2
    )
