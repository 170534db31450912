"""
Requests to a calendar of OpenTimestamps, over real HTTP: what is sent, which answers are accepted,
and which error each other answer causes. Most answers come from the simulator, others from a server
that sends any bytes.
"""

import asyncio
import hashlib
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import opentimestamps_reader
import pytest
from clocks import HandSetClock
from hostile_bodies import compressed, endless, endless_headers, interim, plain, sent, trailers
from job_context import standins
from provider_server import CUT, CUT_IN_THE_BODY, HANGING, STALLED, Reply, refusing
from provider_server import provider as provider
from tracked import HOUSE

from app.domain.opentimestamps import parse, parse_answer, pending_file, upgraded_file
from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderError,
    ProviderUnavailable,
)
from app.providers import timestamp_calendar
from app.providers.timestamp_calendar import TimestampCalendar
from app.simulation.faults import FaultRule
from app.simulation.timestamp_calendar import FAULTS, simulated_block

NOW = datetime(2026, 10, 26, 13, 4, tzinfo=UTC)
DIGEST = hashlib.sha256(b"the head").digest()
HOST = "calendar.example"
HOSTS = ("alice.btc.calendar.opentimestamps.org", HOST)

PENDING = bytes.fromhex("0083dfe30d2ef90c8e1918") + b"https://calendar.example"
BLOCK = bytes.fromhex("000588960d73d7190103a0f736")
ANSWER = b"\xf0\x04abcd\x08" + PENDING


@pytest.fixture
def clock():
    """A clock that shows four minutes past nine in New York."""
    return HandSetClock(NOW)


@pytest.fixture
async def calendar(provider, clock):
    """A client of the test's server. A pending proof may also lead to that server."""
    one = TimestampCalendar(f"{provider.url}/calendar", HOSTS, clock)
    yield one
    await one.close()


@pytest.fixture
async def connect(clock):
    """Return a function that makes a client of the simulator, with the faults of some rules."""
    clients, servers = [], []

    async def make(*rules: FaultRule) -> TimestampCalendar:
        server = standins(clock, rules=rules)
        servers.append(server)
        address = await server.__aenter__()
        client = TimestampCalendar(f"{address}/calendar", HOSTS, clock)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()
    for server in servers:
        await server.__aexit__(None, None, None)


def fault(name: str, function: str | None = None) -> FaultRule:
    """Return the rule of a fault script that always applies to the calendar."""
    return FaultRule(provider="calendar", fault=name, function=function)


async def test_what_is_submitted(calendar, provider):
    """The hash's own bytes, the media type, no cookie, not even one that the calendar has set."""
    provider.play(Reply(ANSWER, headers={"set-cookie": "a=b; path=/"}))
    assert await calendar.submit(DIGEST) == ANSWER
    await calendar.submit(DIGEST)
    assert [(one.method, one.path, one.body) for one in provider.requests] == [
        ("POST", "/calendar/digest", DIGEST)
    ] * 2
    headers = provider.requests[1].headers
    assert headers["accept"] == "application/vnd.opentimestamps.v1"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "alpha-monday"
    assert "cookie" not in headers


async def test_what_is_fetched(calendar, provider):
    """The commitment in hexadecimal, at the URI of the attestation. A slash makes no difference."""
    provider.play(Reply(b"\x08" + BLOCK))
    for uri in (calendar.url, f"{calendar.url}/"):
        assert await calendar.fetch_upgrade(uri, b"\x00\xffA") == b"\x08" + BLOCK
    assert [(one.method, one.path, one.query, one.body) for one in provider.requests] == [
        ("GET", "/calendar/timestamp/00ff41", {}, b"")
    ] * 2
    assert provider.requests[0].headers["accept"] == "application/vnd.opentimestamps.v1"


async def test_from_the_hash_to_the_block(connect, clock, tmp_path):
    """The files of both stages are read by an independent reader; the pending one leads on."""
    calendar = await connect()
    pending = pending_file(DIGEST, await calendar.submit(DIGEST))
    (one,) = parse(pending).attestations
    assert (one.uri, len(one.commitment)) == (f"{calendar.url}/", 44)
    # As at a real calendar, the commitment begins with the time.
    assert int.from_bytes(one.commitment[:4], "big") == int(NOW.timestamp())

    assert await calendar.fetch_upgrade(one.uri, one.commitment) is None
    clock.forward(hours=2, seconds=-1)
    assert await calendar.fetch_upgrade(one.uri, one.commitment) is None
    clock.forward(seconds=1)
    answer = await calendar.fetch_upgrade(one.uri, one.commitment)
    upgraded = upgraded_file(pending, one.commitment, answer)
    block = parse(upgraded).block
    simulated = simulated_block(one.commitment)
    assert (block.height, block.merkle_root) == (simulated.height, simulated.merkle_root)

    digest, leaves = opentimestamps_reader.read(upgraded)
    assert digest == DIGEST
    assert [(leaf.calendar, leaf.block) for leaf in leaves] == [
        (f"{calendar.url}/", None),
        (None, simulated.height),
    ]
    assert leaves[1].root == simulated.merkle_root
    assert printed(upgraded, tmp_path) == (
        f"ask {calendar.url}/timestamp/{one.commitment.hex()}\n"
        f"block {simulated.height} must have the Merkle root {simulated.merkle_root}\n"
    )


def printed(file: bytes, folder) -> str:
    """Return what the independent reader prints, as a program of its own."""
    path = folder / "1.ots"
    path.write_bytes(file)
    command = [sys.executable, "-I", "tests/support/opentimestamps_reader.py", DIGEST.hex(), path]
    return subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=True).stdout


async def test_two_simulators_agree(connect, clock):
    """A simulator stores nothing: after a restart it still knows its commitments and blocks."""
    first, second = await connect(), await connect()
    (one,) = parse_answer(DIGEST, await first.submit(DIGEST))
    clock.forward(days=400)
    answer = await second.fetch_upgrade(second.url, one.commitment)
    assert answer == await first.fetch_upgrade(first.url, one.commitment)
    assert answer is not None
    (block,) = parse_answer(one.commitment, answer)
    assert block.height == simulated_block(one.commitment).height


async def test_heads_have_proofs_of_their_own(connect, clock):
    """Other hashes and other times lead to other commitments, and other times to other blocks."""
    calendar = await connect()
    commitments = set()
    for digest in (DIGEST, bytes(32), bytes(31) + b"\x01"):
        for _ in range(3):
            (one,) = parse_answer(digest, await calendar.submit(digest))
            commitments.add(one.commitment)
            clock.forward(seconds=10)
    assert len(commitments) == 9
    blocks = {simulated_block(one).height: simulated_block(one).merkle_root for one in commitments}
    assert len(blocks) == len(set(blocks.values())) == 9
    assert min(blocks) > 100_000_000


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("timestamp/", 404, id="no commitment"),
        pytest.param("timestamp/00", 404, id="a short commitment"),
        pytest.param("timestamp/zz", 400, id="no hexadecimal"),
        pytest.param("timestamp/" + "00" * 44, 404, id="the commitment of another calendar"),
        pytest.param("timestamp/" + "00" * 3000, 404, id="a long commitment"),
        pytest.param("tip", 404, id="another path"),
        pytest.param("", 404, id="the folder"),
    ],
)
async def test_other_requests_to_the_simulator(connect, path, status):
    """They have the statuses of a real calendar."""
    calendar = await connect()
    response = await calendar._http.get(f"{calendar.url}/{path}")
    assert response.status_code == status


@pytest.mark.parametrize("digest", [b"", bytes(65)])
async def test_a_hash_of_no_known_length(connect, digest):
    calendar = await connect()
    response = await calendar._http.post(f"{calendar.url}/digest", content=digest)
    assert response.status_code == 400


@pytest.mark.parametrize("digest", [b"", bytes(31), DIGEST.hex().encode()])
async def test_a_hash_of_another_length_is_not_sent(calendar, provider, digest):
    """A calendar would accept a hash in hexadecimal, and the proof would be about another text."""
    with pytest.raises(ValueError, match="32 bytes"):
        await calendar.submit(digest)
    assert provider.requests == []


UNUSABLE = "The answer of the calendar {host} cannot be used. The timestamp "
REDIRECT = "The calendar {host} answered 302, a redirect, which is not followed"
# The faults of the simulator, and how the error of a submission begins; None: it is accepted.
SUBMISSIONS = {
    "html": UNUSABLE + "has an unknown operation (3c).",
    "empty_body": UNUSABLE + "is incomplete: its end is missing.",
    "truncated_body": UNUSABLE + "is incomplete: its end is missing.",
    "list": UNUSABLE + "has an unknown operation (5b).",
    "gzip": "The calendar {host} answered with a body that is not gzip.",
    "http_429": "The calendar {host} answered 429.",
    "http_500": "The calendar {host} answered 500.",
    "http_503": "The calendar {host} answered 503.",
    "redirect": REDIRECT,
    "cut": "The calendar {host} cannot be reached (RemoteProtocolError).",
    "hang": "The calendar {host} did not answer within",
    "slow": "The calendar {host} did not answer within",
    "not_found": "The calendar {host} answered 404: it does not accept the request",
    "other_digest": None,
    "too_long": "The calendar {host} answered with more than 10,000 bytes; the rest was not read.",
    "too_long_proof": "The calendar {host} answered with more than 10,000 bytes",
    "unknown_attestation": UNUSABLE + "has only attestations of an unknown kind.",
    "unknown_attestation_beside": None,
    "foreign_uri": None,
    "foreign_port": None,
    "uri_with_user": UNUSABLE + "has a URI with a character that is not allowed.",
    "uri_with_query": UNUSABLE + "has a URI with a character that is not allowed.",
    "uri_with_line_feed": UNUSABLE + "has a URI with a character that is not allowed.",
    "long_uri": UNUSABLE + "has too large a number: URI, at most 1,000.",
    "byte_behind": UNUSABLE + "has 1 byte too many.",
    "line_feed_behind": UNUSABLE + "has 1 byte too many.",
    "only_fork": UNUSABLE + "is incomplete: its end is missing.",
    "one_byte": UNUSABLE + "is incomplete: its end is missing.",
    "hexadecimal": UNUSABLE + "has an unknown operation (66).",
    "whole_file": UNUSABLE,
    "keccak": UNUSABLE + "uses Keccak-256 (operation 67), which this service does not compute.",
    "unknown_operation": UNUSABLE + "has an unknown operation (04).",
    "empty_argument": UNUSABLE + "has an operation with an empty argument.",
    "deep": UNUSABLE + "has more than 255 operations one after another.",
    "long_message": UNUSABLE + "has a message of more than 4,096 bytes.",
    "long_argument": UNUSABLE + "has too large a number: argument, at most 4,096.",
    "repeated_operation": UNUSABLE + "repeats an operation at the same message.",
    "long_number": UNUSABLE + "has too large a number: argument, at most 4,096.",
    "padded_number": UNUSABLE + "has a number that is not in its shortest form.",
    "high_block": UNUSABLE + "has too large a number: height of a block, at most 2,147,483,647.",
    "short_root": UNUSABLE + "names a Bitcoin block for 20 bytes, but a Merkle root has 32.",
    "long_attestation": UNUSABLE + "has an attestation of another length than it says.",
    "false_block": None,
}
# How the faults of an upgrade differ: no setting can be changed, so a redirect and every other
# status are errors of the calendar. "None yet" is no error.
NOT_YET = "not yet"
UPGRADES = {
    **SUBMISSIONS,
    "redirect": "The calendar {host} answered 302.",
    "not_found": NOT_YET,
    "foreign_uri": NOT_YET,
    "foreign_port": NOT_YET,
    "hexadecimal": UNUSABLE + "has an unknown operation (30).",
}


def test_every_fault_of_the_simulator_is_tried():
    assert set(SUBMISSIONS) == set(FAULTS)


@pytest.fixture
def impatient(monkeypatch):
    """Wait for an answer for a short time only."""
    monkeypatch.setattr(timestamp_calendar, "TIMEOUT_SECONDS", 0.4)


def assert_error(raised, expected, host):
    """The error begins with a sentence, and its class says whether another attempt may help."""
    text = str(raised.value)
    assert text.startswith(expected.format(host=host)), text
    assert text.endswith((".", "address.", "OTS_CALENDARS."))
    assert text.isprintable()
    expected_class = ConfigurationError if "OTS_CALENDARS" in text else ProviderError
    assert isinstance(raised.value, expected_class)


@pytest.mark.parametrize("name", SUBMISSIONS)
async def test_a_fault_of_a_submission(connect, impatient, name):
    """An answer is returned only if it is a timestamp of the hash; all others are errors."""
    calendar = await connect(fault(name, "digest"))
    expected = SUBMISSIONS[name]
    if expected is None:
        answer = await calendar.submit(DIGEST)
        assert parse(pending_file(DIGEST, answer)).digest == DIGEST
        return
    with pytest.raises(AlphaMondayError) as raised:
        await calendar.submit(DIGEST)
    assert_error(raised, expected, calendar.url.split("/")[2])


@pytest.mark.parametrize("name", UPGRADES)
async def test_a_fault_of_an_upgrade(connect, impatient, clock, name):
    """An answer is returned only if it leads to a block; 404 means that there is none yet."""
    calendar = await connect(fault(name, "timestamp"))
    pending = pending_file(DIGEST, await calendar.submit(DIGEST))
    (one,) = parse(pending).pending
    clock.forward(hours=4)
    expected = UPGRADES[name]
    if expected is None:
        answer = await calendar.fetch_upgrade(one.uri, one.commitment)
        assert parse(upgraded_file(pending, one.commitment, answer)).block
        return
    if expected == NOT_YET:
        assert await calendar.fetch_upgrade(one.uri, one.commitment) is None
        return
    with pytest.raises(AlphaMondayError) as raised:
        await calendar.fetch_upgrade(one.uri, one.commitment)
    assert_error(raised, expected, calendar.url.split("/")[2])


async def test_the_answer_about_another_hash(connect, clock):
    """
    It can be read: every list of operations can be applied to every hash. But the calendar does not
    know the commitment, so the proof stays pending for ever.
    """
    calendar = await connect(fault("other_digest", "digest"))
    (one,) = parse_answer(DIGEST, await calendar.submit(DIGEST))
    clock.forward(days=30)
    assert await calendar.fetch_upgrade(one.uri, one.commitment) is None


async def test_the_way_of_another_commitment(connect, clock):
    """It leads to a Merkle root that the block does not have; only the block shows this."""
    calendar = await connect(fault("other_digest", "timestamp"))
    (one,) = parse_answer(DIGEST, await calendar.submit(DIGEST))
    clock.forward(hours=4)
    answer = await calendar.fetch_upgrade(one.uri, one.commitment)
    (block,) = parse_answer(one.commitment, answer)
    assert block.height == simulated_block(one.commitment).height
    assert block.merkle_root != simulated_block(one.commitment).merkle_root


async def test_a_calendar_that_recovers(connect):
    """A fault leaves nothing behind in the client."""
    names = ("html", "cut", "too_long", "redirect", "http_503")
    rules = [
        FaultRule(provider="calendar", fault=name, function="digest", times=1) for name in names
    ]
    calendar = await connect(*rules)
    for _ in names:
        with pytest.raises((ProviderUnavailable, ConfigurationError)):
            await calendar.submit(DIGEST)
    assert parse_answer(DIGEST, await calendar.submit(DIGEST))


# Statuses of a submission: the error's class and the time until which the calendar asks to wait.
@pytest.mark.parametrize(
    ("reply", "error", "until"),
    [
        pytest.param(Reply(ANSWER, status=201), ProviderUnavailable, None, id="201"),
        pytest.param(Reply(b"", status=204), ProviderUnavailable, None, id="204"),
        pytest.param(Reply(ANSWER, status=206), ProviderUnavailable, None, id="206"),
        pytest.param(Reply(ANSWER, status=301), ConfigurationError, None, id="301"),
        pytest.param(Reply(ANSWER, status=304), ConfigurationError, None, id="304"),
        pytest.param(Reply(ANSWER, status=308), ConfigurationError, None, id="308"),
        pytest.param(Reply(ANSWER, status=400), ConfigurationError, None, id="400"),
        pytest.param(Reply(ANSWER, status=401), ConfigurationError, None, id="401"),
        pytest.param(Reply(ANSWER, status=404), ConfigurationError, None, id="404"),
        pytest.param(Reply(ANSWER, status=405), ConfigurationError, None, id="405"),
        pytest.param(Reply(ANSWER, status=408), ProviderUnavailable, None, id="408"),
        pytest.param(Reply(ANSWER, status=425), ProviderUnavailable, None, id="425"),
        pytest.param(Reply(ANSWER, status=429), ProviderBusy, None, id="429"),
        pytest.param(
            Reply(b"", status=429, headers={"retry-after": "60"}),
            ProviderBusy,
            NOW + timedelta(minutes=1),
            id="429 until a time",
        ),
        pytest.param(
            Reply(b"", status=503, headers={"retry-after": "Mon, 26 Oct 2026 14:04:00 GMT"}),
            ProviderBusy,
            NOW + timedelta(hours=1),
            id="503 until a time",
        ),
        pytest.param(
            Reply(b"", status=503, headers={"retry-after": "soon"}),
            ProviderUnavailable,
            None,
            id="503 until a word",
        ),
        pytest.param(Reply(ANSWER, status=500), ProviderUnavailable, None, id="500"),
        pytest.param(Reply(ANSWER, status=502), ProviderUnavailable, None, id="502"),
        pytest.param(Reply(ANSWER, status=599), ProviderUnavailable, None, id="599"),
        pytest.param(Reply(ANSWER, status=999), ProviderUnavailable, None, id="999"),
    ],
)
async def test_a_status(calendar, provider, reply, error, until):
    """Only 200 is an answer, even if another one has a readable body."""
    provider.play(reply)
    with pytest.raises(error) as raised:
        await calendar.submit(DIGEST)
    assert type(raised.value) is error
    assert getattr(raised.value, "until", None) == until
    assert f"answered {reply.status}" in str(raised.value)
    # A request about a commitment has the same errors, except that no setting can be changed.
    if reply.status == 404:
        assert await calendar.fetch_upgrade(calendar.url, DIGEST) is None
        return
    expected = ProviderBusy if error is ProviderBusy else ProviderUnavailable
    with pytest.raises(expected, match=f"answered {reply.status}"):
        await calendar.fetch_upgrade(calendar.url, DIGEST)


@pytest.mark.parametrize(
    "location",
    [
        "https://example.org/",
        "//example.org",
        "http://[",
        "http://a:b@c:d/",
        "https://\xe4.example/",
        "https://" + "a" * 300 + "/",
        "/digest",
        "javascript:alert(1)",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(calendar, provider, status, location):
    """Wherever it leads, one request is sent, and one error of ours is raised."""
    provider.play(Reply(b"", status=status, headers={"location": location}))
    with pytest.raises((ConfigurationError, ProviderUnavailable)):
        await calendar.submit(DIGEST)
    with pytest.raises(ProviderUnavailable):
        await calendar.fetch_upgrade(calendar.url, DIGEST)
    assert len(provider.requests) == 2


TOO_LONG = "answered with more than 10,000 bytes; the rest was not read."
HOSTILE = [
    pytest.param(HANGING, "did not answer within", id="nothing"),
    pytest.param(STALLED, "did not answer within", id="half a body, and nothing more"),
    pytest.param(CUT, "cannot be reached (RemoteProtocolError)", id="the end"),
    pytest.param(CUT_IN_THE_BODY, "cannot be reached (RemoteProtocolError)", id="the end within"),
    pytest.param(plain(20_000), TOO_LONG, id="20 KB of spaces"),
    pytest.param(plain(10_001), TOO_LONG, id="a byte too many"),
    pytest.param(plain(50_000_000), TOO_LONG, id="50 MB"),
    pytest.param(endless(), TOO_LONG, id="a body without an end"),
    pytest.param(endless(part=b"\xff"), TOO_LONG, id="chunks of one byte, without an end"),
    pytest.param(compressed(30_000_000), TOO_LONG, id="30 MB in gzip"),
    pytest.param(compressed(1_000_000, b"deflate"), TOO_LONG, id="1 MB in deflate"),
    pytest.param(
        endless(more=b"Content-Encoding: br\r\n"), "in a way that was not asked for", id="Brotli"
    ),
    pytest.param(endless_headers(), "cannot be reached", id="headers without an end"),
    pytest.param(endless_headers(b"a"), "cannot be reached", id="one header without an end"),
    pytest.param(interim(None), "", id="interim responses without an end"),
    pytest.param(trailers(ANSWER), "", id="a trailer without an end"),
    pytest.param(sent(lambda: [b"SSH-2.0-OpenSSH_9.6\r\n"]), "cannot be reached", id="SSH"),
    pytest.param(sent(lambda: [b"HTTP/0.9 200\r\n\r\n"]), "cannot be used", id="HTTP/0.9"),
    pytest.param(sent(lambda: [ANSWER]), "cannot be reached", id="a proof without a head"),
]


@pytest.mark.parametrize(("reply", "text"), HOSTILE)
@pytest.mark.sampled(6)
async def test_a_hostile_calendar(calendar, provider, monkeypatch, reply, text):
    """Each request ends in time, with one error, and the next one succeeds."""
    monkeypatch.setattr(timestamp_calendar, "TIMEOUT_SECONDS", 1.0)
    provider.play(reply)

    async def fetch() -> bytes | None:
        return await calendar.fetch_upgrade(calendar.url, DIGEST)

    for request in (lambda: calendar.submit(DIGEST), fetch):
        start = time.monotonic()
        with pytest.raises(ProviderUnavailable) as raised:
            await request()
        assert time.monotonic() - start < 3
        assert text in str(raised.value)
    provider.play(Reply(ANSWER))
    assert await calendar.submit(DIGEST) == ANSWER


@pytest.mark.parametrize("status", [404, 500, 302])
async def test_the_body_of_another_status_is_not_read(calendar, provider, status):
    """An endless body does not matter, and no text of the calendar is repeated."""
    provider.play(endless(status, part=b"secret " * 1000))
    start = time.monotonic()
    try:
        assert await calendar.fetch_upgrade(calendar.url, DIGEST) is None
    except ProviderUnavailable as error:
        text = str(error)
    else:
        text = ""
    assert "secret" not in text
    assert time.monotonic() - start < 2


async def test_a_calendar_that_refuses_connections(clock):
    with refusing() as address:
        calendar = TimestampCalendar(address, HOSTS, clock)
        with pytest.raises(ProviderUnavailable, match=r"cannot be reached \(ConnectError\)"):
            await calendar.submit(DIGEST)
        await calendar.close()


async def test_a_host_that_does_not_exist(clock):
    calendar = TimestampCalendar("https://calendar.invalid", HOSTS, clock)
    with pytest.raises(ProviderUnavailable, match=r"calendar\.invalid cannot be reached"):
        await calendar.submit(DIGEST)
    await calendar.close()


async def test_a_body_that_trickles(calendar, provider, monkeypatch):
    """The time limit is for the whole answer, not for each byte of it."""
    monkeypatch.setattr(timestamp_calendar, "TIMEOUT_SECONDS", 0.5)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        try:
            for _ in range(100):
                writer.write(b"\x08")
                await writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        one = TimestampCalendar(f"http://127.0.0.1:{port}", HOSTS, calendar.clock)
        start = time.monotonic()
        with pytest.raises(ProviderUnavailable, match="did not answer within"):
            await one.submit(DIGEST)
        assert time.monotonic() - start < 2
        await one.close()


@pytest.mark.parametrize(
    "uri",
    [
        "https://calendar.example",
        "https://calendar.example/",
        "https://alice.btc.calendar.opentimestamps.org",
        "http://127.0.0.1:9/calendar",
        "http://127.0.0.1:9/calendar/",
    ],
)
async def test_an_allowed_uri(clock, uri):
    calendar = TimestampCalendar("http://127.0.0.1:9/calendar/", HOSTS, clock)
    assert calendar.is_allowed(uri)
    await calendar.close()


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/",
        "calendar.example",
        "//calendar.example",
        "http://calendar.example",
        "ftp://calendar.example",
        "HTTPS://calendar.example",
        "https:/calendar.example",
        "https://Calendar.example",
        "https://calendar.example//",
        "https://calendar.example/a",
        "https://calendar.example/..",
        "https://calendar.example.",
        "https://calendar.example:443",
        "https://calendar.example:1",
        "https://calendar.example:443/",
        "https://a.calendar.example",
        "https://calendar.example.org",
        "https://evilcalendar.example",
        "https://calendar.example/.evil.org",
        "https://evil.org/calendar.example",
        "https://evil.org/https://calendar.example",
        "https://btc.calendar.opentimestamps.org",
        "https://127.0.0.1",
        "https://127.0.0.1:9/calendar",
        "http://127.0.0.1:9",
        "http://127.0.0.1:9/calendar/a",
        "http://127.0.0.1:9/calendar/../admin",
        "http://127.0.0.1:9/Calendar",
        "http://127.0.0.1:99999/calendar",
        "http://127.0.0.1:1/calendar",
        "http://127.0.0.1/calendar",
        "http://localhost:9/calendar",
        "http://127.1:9/calendar",
        "http://0.0.0.0:9/calendar",
        "http://169.254.169.254/calendar",
        "file:///etc/passwd",
    ],
)
async def test_a_uri_that_is_not_allowed(clock, uri):
    """No request is sent, and the error says which setting allows the host."""
    calendar = TimestampCalendar("http://127.0.0.1:9/calendar", HOSTS, clock)
    assert not calendar.is_allowed(uri)
    with pytest.raises(ConfigurationError, match="add the host to OTS_HOSTS") as raised:
        await calendar.fetch_upgrade(uri, DIGEST)
    assert len(str(raised.value)) < 250
    await calendar.close()


@pytest.mark.parametrize("name", ["foreign_uri", "foreign_port"])
async def test_an_answer_that_leads_elsewhere(connect, name):
    """The proof is kept, since an operator can allow its host later. Until then it is not asked."""
    calendar = await connect(fault(name, "digest"))
    (one,) = parse(pending_file(DIGEST, await calendar.submit(DIGEST))).pending
    assert not calendar.is_allowed(one.uri)
    with pytest.raises(ConfigurationError, match=r"leads to .*, which is not allowed"):
        await calendar.fetch_upgrade(one.uri, one.commitment)


async def test_the_own_address_of_a_remote_calendar_is_not_allowed(clock):
    """Only on loopback; elsewhere each host is in the list."""
    calendar = TimestampCalendar("https://a.pool.opentimestamps.org", HOSTS, clock)
    assert not calendar.is_allowed("https://a.pool.opentimestamps.org")
    await calendar.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.pool.opentimestamps.org",
        "ftp://a.pool.opentimestamps.org",
        "https://",
        "https:///digest",
        "https://user:s3cret@a.pool.opentimestamps.org",
        "https://s3cret@a.pool.opentimestamps.org",
        "https://a.pool.opentimestamps.org/?key=s3cret",
        "https://a.pool.opentimestamps.org/#s3cret",
        "https://a.pool.opentimestamps.org:s3cret",
        "https://a.pool.opentimestamps.org:0",
        "https://a.pool.opentimestamps.org:65536",
        "https://[::1",
        "https://a pool",
        "https://a\tpool",
        "https://a\\pool",
        "https://pool\n",
        "https://\xe4.example",
        "https://a%2f.example",
    ],
)
def test_an_address_that_cannot_be_used(clock, url):
    """It is refused at once, in one line, and a secret in it is not repeated."""
    with pytest.raises(ConfigurationError, match=r"^OTS_CALENDARS has an address") as raised:
        TimestampCalendar(url, HOSTS, clock)
    assert "s3cret" not in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.long
async def test_changed_answers_over_http(calendar, provider):
    """Each byte of both answers changed: what is returned can be stored, and nothing else is."""
    rng = random.Random(19)
    answers = {"digest": ANSWER, "timestamp": b"\xff" + PENDING + b"\xf0\x04abcd\x08" + BLOCK}
    returned = 0
    for kind, answer in answers.items():
        for place in range(len(answer)):
            changed = bytearray(answer)
            changed[place] = rng.randrange(256)
            provider.play(Reply(bytes(changed)))
            try:
                if kind == "digest":
                    body = await calendar.submit(DIGEST)
                else:
                    body = await calendar.fetch_upgrade(calendar.url, DIGEST)
            except ProviderUnavailable:
                continue
            if body is not None:
                assert body == bytes(changed)
                assert opentimestamps_reader.read(pending_file(DIGEST, body))
                returned += 1
    assert returned > 10


async def test_many_at_once(calendar, provider):
    """Requests of one client do not disturb each other."""
    provider.answers = lambda request: Reply(b"\xf0\x20" + request.body + PENDING)
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(40)]
    answers = await asyncio.gather(*map(calendar.submit, digests))
    assert answers == [b"\xf0\x20" + digest + PENDING for digest in digests]
