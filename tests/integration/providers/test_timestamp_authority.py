"""
Stamps over real HTTP: from the simulated authority with each of its faults, and from a server whose
responses are wrong in other ways. Only a valid timestamp is returned, and no text shows a secret.
"""

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import uvicorn
from clocks import HandSetClock
from local_server import local_server
from openssl_program import accepts
from provider_server import CUT, Reply, refusing
from provider_server import provider as provider

from app.domain import rfc3161
from app.domain.calendar import Calendar
from app.errors import (
    BodyTooLong,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    UnusableStamp,
)
from app.providers import timestamp_authority
from app.providers.timestamp_authority import TimestampAuthority
from app.simulation.faults import TIMESTAMP, FaultRule, FaultScript
from app.simulation.market import Market
from app.simulation.provider_simulators import ProviderSimulators
from app.simulation.timestamp_authority import SimulatedAuthority

NOW = datetime(2026, 11, 16, 14, 4, 5, tzinfo=UTC)
ENTRY = b"0" * 64 + b'\n{"kind":"BATCH","seq":"1"}'
# Computed with `sha256sum`.
ENTRY_HASH = "56e17f363991aa237213a2f0251cad1f55763e681df216baf04ccd037b289ca3"
SECRET = "s3cret-of-the-address"
STAMP_HEADERS = {"content-type": "application/timestamp-reply"}

AUTHORITY = SimulatedAuthority()
ROOTS = rfc3161.read_roots(AUTHORITY.root_pem)


@pytest.fixture
def clock():
    """A clock that shows five minutes after nine in New York."""
    return HandSetClock(NOW)


@asynccontextmanager
async def client_of(url: str, clock: HandSetClock) -> AsyncIterator[TimestampAuthority]:
    """A client of the authority at an address with a password, a query and a fragment."""
    _, _, host = url.partition("://")
    one = TimestampAuthority(
        f"http://user:{SECRET}@{host}/timestamp?key={SECRET}#{SECRET}", ROOTS, clock
    )
    try:
        yield one
    finally:
        await one.close()


@asynccontextmanager
async def simulated(clock: HandSetClock, *faults: str) -> AsyncIterator[TimestampAuthority]:
    """A client of the simulated authority, which has each of the `faults` once."""

    async def now() -> datetime:
        return clock.now()

    rules = [FaultRule(provider="timestamp", fault=fault, times=1) for fault in faults]
    app = ProviderSimulators(
        Market(Calendar()), now, script=FaultScript(rules, "a seed"), authority=AUTHORITY
    )
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    async with (
        local_server(config) as (host, port),
        client_of(f"http://{host}:{port}", clock) as one,
    ):
        yield one


# Valid timestamps


async def test_a_stamp(clock, tmp_path):
    """It has the time of the authority, and its response is a file that `openssl` accepts."""
    async with simulated(clock) as authority:
        received = await authority.stamp(ENTRY)
    assert received.stamp.gen_time == NOW
    assert received.stamp.accuracy_seconds == Decimal(1)
    assert received.stamp.nonce == received.nonce
    assert received.received_at == NOW
    assert accepts(
        received.response,
        data_hash=ENTRY_HASH,
        root=AUTHORITY.root_pem,
        at=received.stamp.gen_time,
        cwd=tmp_path,
    )


async def test_the_request(clock, provider):
    """It is a POST with the media types of RFC 3161; the user of the address is a header."""
    query = b""

    def answer(request):
        nonlocal query
        query = request.body
        return Reply(AUTHORITY.stamp(query, NOW), headers=STAMP_HEADERS)

    provider.answers = answer
    async with client_of(provider.url, clock) as authority:
        await authority.stamp(ENTRY)
    (request,) = provider.requests
    assert (request.method, request.path, request.query) == (
        "POST",
        "/timestamp",
        {"key": SECRET},
    )
    names = ("content-type", "accept", "accept-encoding", "user-agent")
    assert {name: request.headers[name] for name in names} == {
        "content-type": "application/timestamp-query",
        "accept": "application/timestamp-reply",
        "accept-encoding": "identity",
        "user-agent": "alpha-monday",
    }
    assert "authorization" in request.headers
    assert bytes.fromhex(ENTRY_HASH) in query


async def test_many_stamps_at_once(clock):
    """Each has a nonce of its own, and gets the response to its own request."""
    async with simulated(clock) as authority:
        received = await asyncio.gather(*(authority.stamp(ENTRY) for _ in range(20)))
    assert len({one.nonce for one in received}) == 20
    assert all(one.nonce == one.stamp.nonce for one in received)


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("application/timestamp-reply; charset=binary", id="with a parameter"),
        pytest.param("Application/Timestamp-Reply", id="in other letters"),
    ],
)
async def test_the_content_type(clock, provider, content_type):
    """Parameters and upper case have no meaning."""
    provider.answers = lambda request: Reply(
        AUTHORITY.stamp(request.body, NOW), headers={"content-type": content_type}
    )
    async with client_of(provider.url, clock) as authority:
        assert (await authority.stamp(ENTRY)).stamp.gen_time == NOW


async def test_a_compressed_stamp(clock, provider):
    """A proxy may compress a response in spite of our header."""
    provider.answers = lambda request: Reply(
        zlib.compress(AUTHORITY.stamp(request.body, NOW)),
        headers={**STAMP_HEADERS, "content-encoding": "deflate"},
    )
    async with client_of(provider.url, clock) as authority:
        assert (await authority.stamp(ENTRY)).stamp.gen_time == NOW


# Every fault of the simulator

FAULTS = {
    "html": (ProviderUnavailable, "answered with another content type than application/times"),
    "wrong_content_type": (ProviderUnavailable, "answered with another content type than appl"),
    "html_as_stamp": (UnusableStamp, "answered with bytes that are no timestamp."),
    "empty_body": (UnusableStamp, "answered with bytes that are no timestamp."),
    "truncated_body": (UnusableStamp, "answered with bytes that are no timestamp."),
    "list": (UnusableStamp, "answered with bytes that are no timestamp."),
    "gzip": (ProviderUnavailable, "answered with a body that is not gzip."),
    "http_429": (ProviderUnavailable, "answered 429."),
    "http_500": (ProviderUnavailable, "answered 500."),
    "http_503": (ProviderUnavailable, "answered 503."),
    "redirect": (ConfigurationError, "answered 302, a redirect, which is not followed: put the"),
    "cut": (ProviderUnavailable, "cannot be reached (RemoteProtocolError)."),
    "hang": (ProviderUnavailable, "did not answer within 1 s."),
    "slow": (ProviderUnavailable, "did not answer within 1 s."),
    "wrong_digest": (UnusableStamp, "stamped another hash than the requested one."),
    "wrong_algorithm": (UnusableStamp, "stamped a hash that is no SHA-256."),
    "sha512_imprint": (UnusableStamp, "stamped a hash that is no SHA-256."),
    "wrong_nonce": (
        UnusableStamp,
        "sent a timestamp for another request: its nonce is another one.",
    ),
    "no_nonce": (UnusableStamp, "sent a timestamp for another request: its nonce is another one."),
    "a_day_early": (
        UnusableStamp,
        "sent a timestamp of 2026-11-15 14:04:05 UTC, which is more than ",
    ),
    "a_day_late": (
        UnusableStamp,
        "sent a timestamp of 2026-11-17 14:04:05 UTC, which is more than 5 ",
    ),
    "bad_signature": (
        UnusableStamp,
        "sent a timestamp whose signature or certificates are not valid",
    ),
    "expired_certificate": (UnusableStamp, "signed with a certificate that was not valid at the "),
    "other_root": (UnusableStamp, "signed with a certificate that leads to no pinned root (TIME"),
    "wrong_purpose": (UnusableStamp, "signed with a certificate that is not for timestamps al"),
    "no_certificates": (UnusableStamp, "did not send the certificate of its signature."),
    "rejection": (
        UnusableStamp,
        'did not grant the timestamp: it answered with the status 2, "reje',
    ),
    "rejection_with_stamp": (
        UnusableStamp,
        "did not grant the timestamp: it answered with the stat",
    ),
    "too_long": (BodyTooLong, "answered with more than 16,000 bytes; the rest was not read."),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault(clock, monkeypatch, caplog, fault):
    """Nothing usable comes back, the text says what is wrong, and the next request succeeds."""
    caplog.set_level(logging.DEBUG)
    # In these two, the response never ends.
    if fault in ("hang", "slow"):
        monkeypatch.setattr(timestamp_authority, "TIMEOUT_SECONDS", 1.0)
    raised, sentence = FAULTS[fault]
    async with simulated(clock, fault) as authority:
        with pytest.raises(raised) as error:
            await authority.stamp(ENTRY)
        assert type(error.value) is raised
        assert str(error.value).startswith(
            f"The time-stamping authority {authority.name} {sentence}"
        )
        monkeypatch.undo()
        assert (await authority.stamp(ENTRY)).stamp.gen_time == NOW
    assert SECRET not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert SECRET not in caplog.text


def test_every_fault_is_tried():
    """The simulator has no other faults."""
    assert set(FAULTS) == set(TIMESTAMP)


# Our own clock


@pytest.mark.parametrize(
    ("difference", "is_accepted"),
    [
        pytest.param(timedelta(seconds=-301), False, id="too early"),
        pytest.param(timedelta(seconds=-300), True, id="five minutes early"),
        pytest.param(timedelta(seconds=300), True, id="five minutes late"),
        pytest.param(timedelta(seconds=301), False, id="too late"),
    ],
)
async def test_the_time_of_a_stamp(clock, provider, difference, is_accepted):
    """It is at most five minutes from our own clock."""
    provider.answers = lambda request: Reply(
        AUTHORITY.stamp(request.body, NOW + difference), headers=STAMP_HEADERS
    )
    async with client_of(provider.url, clock) as authority:
        if is_accepted:
            assert (await authority.stamp(ENTRY)).stamp.gen_time == NOW + difference
            return
        with pytest.raises(UnusableStamp, match="more than 5 minutes away from our own clock"):
            await authority.stamp(ENTRY)


async def test_a_clock_that_jumps(clock, provider):
    """In a rehearsal, hours may pass during a request: the timestamp is of a time in between."""

    def answer(request):
        clock.forward(hours=5)
        return Reply(AUTHORITY.stamp(request.body, NOW + timedelta(hours=1)), headers=STAMP_HEADERS)

    provider.answers = answer
    async with client_of(provider.url, clock) as authority:
        received = await authority.stamp(ENTRY)
    assert received.received_at == NOW + timedelta(hours=5)


# Other odd responses


@pytest.mark.parametrize(
    ("reply", "raised", "sentence"),
    [
        pytest.param(
            Reply(status=204, headers=STAMP_HEADERS),
            ProviderUnavailable,
            "answered 204, without a timestamp.",
            id="no content",
        ),
        pytest.param(
            Reply(status=400),
            ConfigurationError,
            "answered 400: the server does not accept the request; check its address in "
            "TIMESTAMP_URLS.",
            id="a bad request",
        ),
        pytest.param(
            Reply(status=404),
            ConfigurationError,
            "answered 404: the server does not accept the request; check its address in "
            "TIMESTAMP_URLS.",
            id="not found",
        ),
        pytest.param(Reply(status=408), ProviderUnavailable, "answered 408.", id="a timeout"),
        pytest.param(
            CUT, ProviderUnavailable, "cannot be reached (RemoteProtocolError).", id="no response"
        ),
        pytest.param(
            Reply(b"0", headers={"content-type": ""}),
            ProviderUnavailable,
            "answered with another content type than application/timestamp-reply: this is no "
            "timestamp. If this continues, check its address in TIMESTAMP_URLS.",
            id="no content type",
        ),
        pytest.param(
            Reply(b"0", headers={**STAMP_HEADERS, "content-encoding": "br"}),
            ProviderUnavailable,
            "compressed its answer in a way that was not asked for.",
            id="an unknown compression",
        ),
        pytest.param(
            Reply(
                zlib.compress(bytes(50_000_000)),
                headers={**STAMP_HEADERS, "content-encoding": "deflate"},
            ),
            BodyTooLong,
            "answered with more than 16,000 bytes; the rest was not read.",
            id="a compressed bomb",
        ),
        pytest.param(
            Reply(raw=lambda: [b"SMTP ready\r\n"]),
            ProviderUnavailable,
            "cannot be reached (RemoteProtocolError).",
            id="another protocol",
        ),
        pytest.param(
            Reply(rfc3161.make_request(ENTRY).encoded, headers=STAMP_HEADERS),
            UnusableStamp,
            "answered with bytes that are no timestamp.",
            id="a request as the response",
        ),
        pytest.param(
            Reply(AUTHORITY.stamp(rfc3161.make_request(ENTRY).encoded, NOW), headers=STAMP_HEADERS),
            UnusableStamp,
            "sent a timestamp for another request: its nonce is another one.",
            id="a timestamp of an earlier request",
        ),
    ],
)
async def test_an_odd_response(clock, provider, reply, raised, sentence):
    """One request is sent, and nothing usable comes back."""
    provider.play(reply)
    async with client_of(provider.url, clock) as authority:
        with pytest.raises(raised) as error:
            await authority.stamp(ENTRY)
        assert str(error.value) == f"The time-stamping authority {authority.name} {sentence}"
    assert type(error.value) is raised
    assert len(provider.requests) == 1


async def test_an_endless_body(clock, provider):
    """Not more than 16,000 bytes are read, and a byte in a chunk of its own counts as 32."""
    sent = 0

    def parts():
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\ncontent-type: application/timestamp-reply\r\n"
        yield b"transfer-encoding: chunked\r\n\r\n"
        while sent < 100_000:
            sent += 1
            yield b"1\r\n0\r\n"

    provider.play(Reply(raw=parts))
    async with client_of(provider.url, clock) as authority:
        with pytest.raises(BodyTooLong):
            await authority.stamp(ENTRY)


async def test_a_redirect_is_not_followed(clock, provider):
    """Even to the same server: the address is that of the settings or none."""
    provider.play(Reply(status=307, headers={"location": f"{provider.url}/other"}))
    async with client_of(provider.url, clock) as authority:
        with pytest.raises(ConfigurationError, match="put the new address into TIMESTAMP_URLS"):
            await authority.stamp(ENTRY)
    assert [request.path for request in provider.requests] == ["/timestamp"]


async def test_cookies_are_not_stored(clock, provider):
    """A cookie that is not ASCII would make every later request fail."""
    provider.answers = lambda request: Reply(
        AUTHORITY.stamp(request.body, NOW), headers={**STAMP_HEADERS, "set-cookie": "a=\xe9"}
    )
    async with client_of(provider.url, clock) as authority:
        for _ in range(2):
            await authority.stamp(ENTRY)
    assert all("cookie" not in request.headers for request in provider.requests)


async def test_an_authority_that_asks_us_to_wait(clock, provider):
    """The error has the time of the Retry-After header."""
    provider.play(Reply(status=503, headers={"retry-after": "90"}))
    async with client_of(provider.url, clock) as authority:
        with pytest.raises(ProviderBusy) as busy:
            await authority.stamp(ENTRY)
    assert busy.value.until == NOW + timedelta(seconds=90)


# Addresses


async def test_an_address_that_refuses_connections(clock):
    """It is tried again later, and the text has neither the password nor the query."""
    with refusing() as url:
        async with client_of(url, clock) as authority:
            with pytest.raises(ProviderUnavailable) as error:
                await authority.stamp(ENTRY)
        name = f"{url}/timestamp"
    assert (
        str(error.value) == f"The time-stamping authority {name} cannot be reached (ConnectError)."
    )


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"ftp://user:{SECRET}@stamps.example/", id="another protocol"),
        pytest.param(f"http://user:{SECRET}@/", id="no host"),
    ],
)
async def test_an_address_that_cannot_be_used(clock, url):
    """It is named by its setting alone."""
    with pytest.raises(ConfigurationError) as error:
        await TimestampAuthority(url, ROOTS, clock).stamp(ENTRY)
    assert str(error.value) == (
        "TIMESTAMP_URLS has an address to which no request can be sent: check it."
    )


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://stamps.example/tsr", "https://stamps.example/tsr"),
        ("https://user:pass@stamps.example:8443/tsr?key=1#part", "https://stamps.example:8443/tsr"),
        ("https://user@us@stamps.example", "https://stamps.example"),
        ("http://[::1]:8090/timestamp", "http://[::1]:8090/timestamp"),
        # An open bracket: nothing of the text is shown.
        (f"http://[{SECRET}", "of TIMESTAMP_URLS"),
    ],
)
def test_the_name(url, name):
    """It is the address without a user, a password, a query and a fragment."""
    assert TimestampAuthority(url, ROOTS, HandSetClock(NOW)).name == name
