"""
A request ends where its framing says, whatever else its head offers.

The server must not disagree with a client or a proxy about the end of a body. The first case was a
POST with `Upgrade: h2c`, as Java's HttpClient and `curl --http2` send it. Each case is sent over a
raw socket, with a last request behind it on the same connection: exactly the listed responses come
back, in their order.
"""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from processes import Started, serving

from api.limits import MAX_BODY_BYTES

QUERY = json.dumps({"query": "{ service { version } }"}).encode()
# As a body it is no JSON. As a request it would be answered with 404.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
JSON = "Content-Type: application/json"
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
NGINX = (
    "Connection: upgrade",
    "Upgrade: h2c",
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-Proto: https",
)
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==",
    "Sec-WebSocket-Protocol: graphql-transport-ws",
)

ANSWERED, ALIVE, NOT_JSON = "200 answer", "200 alive", "400 not JSON"
REFUSED, NOT_FOUND, NO_METHOD = "400", "404", "405"


@pytest.fixture(scope="module")
def service(migrated, tmp_path_factory) -> Iterator[Started]:
    with serving(tmp_path_factory.mktemp("served"), DATABASE_URL=migrated) as one:
        yield one


def head(
    *lines: str, method: str = "POST", target: str = "/graphql", version: str = "1.1"
) -> bytes:
    """Return the bytes of a head."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *lines, "", ""]).encode()


def sized(body: bytes, *lines: str, **request: str) -> bytes:
    """Return a request with the length of its body."""
    return head(JSON, *lines, f"Content-Length: {len(body)}", **request) + body


def chunked(body: bytes, *lines: str, trailers: bytes = b"", **request: str) -> bytes:
    """Return a request whose body has three chunks."""
    parts = body[:5], body[5:9], body[9:]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return (
        head(JSON, *lines, "Transfer-Encoding: chunked", **request)
        + chunks
        + b"0\r\n"
        + trailers
        + b"\r\n"
    )


def get(*lines: str, **request: str) -> bytes:
    """Return a request with a query in its address."""
    return head(*lines, method="GET", target="/graphql?query={service{version}}", **request)


def late(request: bytes) -> list[bytes]:
    """Return the head and the body, to be sent with a pause of a third of a second."""
    before, _, body = request.partition(b"\r\n\r\n")
    return [before + b"\r\n\r\n", body]


def bytewise(request: bytes) -> list[bytes]:
    return [request[at : at + 1] for at in range(len(request))]


def send_and_parse(address: str, pieces: list[bytes]) -> list[str]:
    """
    Return the responses to these pieces and to the last request behind them, until the
    connection ends.
    """
    return parse_responses(send(address, pieces))


def send(address: str, pieces: list[bytes]) -> bytes:
    """Send pieces, then the last request; return all bytes of the responses."""
    host, port = address.removeprefix("http://").split(":")
    pause = 0.3 if len(pieces) < 10 else 0.0005
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for piece in pieces[:-1]:
                connection.sendall(piece)
                time.sleep(pause)
            connection.sendall(pieces[-1] + LAST)
        with suppress(ConnectionError):
            while data := connection.recv(65_536):
                received += data
    return received


def parse_responses(received: bytes) -> list[str]:
    """Return each response as its status and its body."""
    responses = []
    while received:
        start, _, received = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", start)
        assert status, start
        if status[1] == b"100":
            responses.append("100")
            continue
        (length,) = re.findall(rb"content-length: (\d+)", start)
        body, received = received[: int(length)], received[int(length) :]
        responses.append(f"{status[1].decode()}{_what(body)}")
    return responses


def _what(body: bytes) -> str:
    if b'{"data":{"service":{"version":' in body:
        return " answer"
    if b"That is not JSON" in body:
        return " not JSON"
    return " alive" if body == b'{"status":"alive"}' else ""


OFFERS = {
    "h2c": H2C,
    "in small letters": ("connection: upgrade", "upgrade: h2c"),
    "websocket": HANDSHAKE,
    "through nginx": NGINX,
    "TLS": ("Connection: Upgrade", "Upgrade: TLS/1.0, HTTP/1.1"),
    "empty": ("Connection: Upgrade", "Upgrade:"),
    "two": ("Connection: keep-alive, Upgrade", "Upgrade: h2c", "Upgrade: websocket"),
    "nonsense": ("Connection: UPGRADE", "Upgrade: \x80\xff"),
    "no Connection": ("Upgrade: h2c",),
    "websocket, no Connection": ("Upgrade: websocket",),
    "no Upgrade": ("Connection: Upgrade",),
    "none": (),
}
BODIES = {
    "length": lambda *offer: [sized(QUERY, *offer)],
    "chunked": lambda *offer: [chunked(QUERY, *offer)],
    "trailers": lambda *offer: [chunked(QUERY, *offer, trailers=b"X-Check: a\r\nUpgrade: h2c\r\n")],
    "offering trailers": lambda *offer: [
        chunked(QUERY, *offer, trailers=b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
    ],
    "late": lambda *offer: late(sized(QUERY, *offer)),
    "late chunked": lambda *offer: late(chunked(QUERY, *offer)),
    "byte by byte": lambda *offer: bytewise(sized(QUERY, *offer)),
    "chunked byte by byte": lambda *offer: bytewise(chunked(QUERY, *offer)),
    "pipelined": lambda *offer: [sized(QUERY, *offer) + chunked(QUERY, *offer) + sized(QUERY)],
    "by GET": lambda *offer: [get(*[line for line in offer if "ebsocket" not in line])],
    "GET with a body": lambda *offer: [sized(SMUGGLED, *offer, method="GET", target="/live")],
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("body", ["length", "chunked", "late", "byte by byte", "pipelined"])
@pytest.mark.sampled(12)
def test_an_offer_changes_nothing(body, offer, service):
    """
    The body is read by its framing, the response is the usual one, and the connection stays
    open.
    """
    pieces = BODIES[body](*OFFERS[offer])
    count = 3 if body == "pipelined" else 1
    assert send_and_parse(service.address, pieces) == [ANSWERED] * count + [ALIVE]


@pytest.mark.parametrize("offer", ["h2c", "none"])
@pytest.mark.parametrize(
    "body", ["trailers", "offering trailers", "late chunked", "chunked byte by byte", "by GET"]
)
def test_other_bodies(body, offer, service):
    assert send_and_parse(service.address, BODIES[body](*OFFERS[offer])) == [ANSWERED, ALIVE]


@pytest.mark.parametrize("offer", ["h2c", "websocket", "through nginx", "no Connection", "none"])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(lambda *offer: [sized(SMUGGLED, *offer)], id="length"),
        pytest.param(lambda *offer: late(sized(SMUGGLED, *offer)), id="late"),
        pytest.param(lambda *offer: [chunked(SMUGGLED, *offer)], id="chunked"),
        pytest.param(lambda *offer: late(chunked(SMUGGLED, *offer)), id="late chunked"),
        pytest.param(lambda *offer: bytewise(sized(SMUGGLED, *offer)), id="byte by byte"),
    ],
)
def test_a_body_is_never_a_request(sent, offer, service):
    """A body that looks like a request is only a body."""
    assert send_and_parse(service.address, sent(*OFFERS[offer])) == [NOT_JSON, ALIVE]


def framed(*lines: str, body: bytes) -> list[bytes]:
    """Return a request with an offer and this framing, and the other request behind it."""
    return [head(JSON, *H2C, *lines) + body + SMUGGLED]


CONNECT = head(method="CONNECT", target="x:80")
CLOSING = ("Connection: close, Upgrade", "Upgrade: h2c")


@pytest.mark.parametrize(
    ("sent", "framing"),
    [
        (b"0\r\n\r\n", ["Content-Length: 40", "Transfer-Encoding: chunked"]),
        (b"0\r\n\r\n", ["Transfer-Encoding: chunked", "Content-Length: 5"]),
        (b"", ["Content-Length: 5", "Content-Length: 0"]),
        (b"", ["Content-Length: 5", "Content-Length: 5"]),
        (b"", ["Content-Length: 5, 5"]),
        (b"", ["Content-Length: +5"]),
        (b"", ["Transfer-Encoding: gzip"]),
        (b"0\r\n\r\n", ["Transfer-Encoding: chunked, gzip"]),
        (b"0\r\n\r\n", ["Transfer-Encoding : chunked"]),
        (b"0x5\r\nabcde\r\n0\r\n\r\n", ["Transfer-Encoding: chunked"]),
        (b"0\r\nContent-Length: 9\r\n\r\n", ["Transfer-Encoding: chunked"]),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else str(value[:9]),
)
@pytest.mark.parametrize("offer", [H2C, ()], ids=["h2c", "none"])
def test_ambiguous_framing_is_refused(offer, framing, sent, service):
    """There is one refusal, then the connection ends; the bytes behind it are never run."""
    assert send_and_parse(service.address, [head(JSON, *offer, *framing) + sent + SMUGGLED]) == [
        REFUSED
    ]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(
            [sized(SMUGGLED, *H2C, method="GET", target="/live")], [ALIVE, ALIVE], id="GET"
        ),
        pytest.param(
            late(sized(SMUGGLED, *H2C, method="GET", target="/live")),
            [ALIVE, ALIVE],
            id="GET, late",
        ),
        pytest.param(
            [sized(SMUGGLED, *H2C, target="/nope")],
            [NOT_FOUND, ALIVE],
            id="a path that is not there",
        ),
        pytest.param([CONNECT + SMUGGLED], [NO_METHOD], id="CONNECT"),
        pytest.param([CONNECT, SMUGGLED], [NO_METHOD], id="CONNECT, then a request"),
        pytest.param(
            [sized(QUERY, *H2C) + CONNECT + SMUGGLED],
            [ANSWERED, NO_METHOD],
            id="CONNECT behind a query",
        ),
        pytest.param(
            [sized(SMUGGLED, *H2C, method="CONNECT", target="x:80")],
            [NO_METHOD],
            id="CONNECT with an offer",
        ),
        pytest.param(
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED], [REFUSED], id="HTTP/2 at once"
        ),
        pytest.param(
            [sized(QUERY, *H2C) + b"\x16\x03\r\n" + SMUGGLED],
            [ANSWERED, REFUSED],
            id="TLS behind a query",
        ),
        pytest.param(
            [sized(QUERY, *H2C) * 2 + b"nonsense\r\n\r\n" + SMUGGLED],
            [ANSWERED, ANSWERED, REFUSED],
            id="nonsense behind two queries",
        ),
        pytest.param(
            [sized(QUERY), *framed("Transfer-Encoding: gzip", body=b"")],
            [ANSWERED, REFUSED],
            id="another coding later",
        ),
        pytest.param(
            [sized(QUERY) + framed("Transfer-Encoding: gzip", body=b"")[0]],
            [ANSWERED, REFUSED],
            id="another coding behind a query",
        ),
        pytest.param([sized(QUERY, *CLOSING) + SMUGGLED], [ANSWERED], id="to be closed"),
        pytest.param([sized(QUERY, *H2C, version="1.0") + SMUGGLED], [ANSWERED], id="HTTP/1.0"),
        pytest.param(late(sized(QUERY, *H2C, version="1.0")), [ANSWERED], id="HTTP/1.0, late"),
        pytest.param(
            late(sized(QUERY, *H2C, "Expect: 100-continue")),
            ["100", ANSWERED, ALIVE],
            id="100-continue",
        ),
        pytest.param(
            [get("Upgrade: websocket")],
            [ANSWERED, ALIVE],
            id="a header that means nothing by itself",
        ),
        pytest.param(
            [get(*HANDSHAKE, version="1.0")],
            [ANSWERED],
            id="a handshake by HTTP/1.0, which has none",
        ),
        pytest.param([get(":protocol: websocket")], [REFUSED], id="a name that only HTTP/2 has"),
        pytest.param(
            [get() + sized(QUERY, *H2C) + get(*H2C)], [ANSWERED] * 3 + [ALIVE], id="behind a query"
        ),
    ],
)
def test_nothing_is_smuggled(sent, expected, service):
    """Each request is answered once, in order; an invalid one ends the connection."""
    assert send_and_parse(service.address, sent) == expected


@pytest.mark.parametrize("path", ["/graphql", "/graphql?query={service{version}}", "/", "/nope"])
@pytest.mark.parametrize("offer", ["websocket", "WebSocket, h2c"])
def test_a_websocket_is_refused(offer, path, service):
    """
    It is refused in the usual form, also where a GET would be answered; the log gives no advice
    to install anything.
    """
    lines = [line.replace("Upgrade: websocket", f"Upgrade: {offer}") for line in HANDSHAKE]
    for _ in range(2):
        received = send(service.address, [head(*lines, method="GET", target=path)])
        assert received.startswith(b"HTTP/1.1 400 ")
        start, _, rest = received.partition(b"\r\n\r\n")
        assert b"content-type: application/json; charset=utf-8" in start
        assert b"x-request-id: " in start
        (error,) = json.loads(rest[: rest.index(b"HTTP/1.1 200")])["errors"]
        assert error["extensions"]["code"] == "BAD_REQUEST"
        assert "/live/journal" in error["message"]
    assert "install" not in service.log
    assert "Unsupported" not in service.log


def test_trailers_are_no_headers(service):
    """
    A proxy that removes a client's `X-Forwarded-Proto` may pass one on as a trailer: it is
    ignored.
    """
    trailing = chunked(
        QUERY, *H2C, trailers=b"X-Forwarded-Proto: https\r\nX-Request-Id: trailing\r\n"
    )
    assert b"strict-transport-security" in send(
        service.address, [sized(QUERY, "X-Forwarded-Proto: https")]
    )
    received = send(service.address, late(trailing))
    assert parse_responses(received) == [ANSWERED, ALIVE]
    assert b"strict-transport-security" not in received
    assert b"trailing" not in received


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_limits_hold_behind_an_offer(framing, service):
    """A body that is too long is refused at once, and its rest is not run."""
    body = b" " * MAX_BODY_BYTES + SMUGGLED
    sent = sized(body, *H2C) if framing == "length" else chunked(body, *H2C)
    assert parse_responses(send(service.address, [sent])) == ["413"]


def test_a_body_without_end_behind_an_offer(service):
    """The connection is closed after a megabyte, whatever the body is for."""
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head(*H2C, "Transfer-Encoding: chunked", target="/nope"))
        ten_megabytes = b"C350\r\n%b\r\n" % (b"a" * 50_000) * 200
        with pytest.raises(ConnectionError):
            connection.sendall(ten_megabytes)
