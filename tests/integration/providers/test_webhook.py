"""Requests to a receiver, the meaning of its responses, and the secrecy of its address."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from clocks import HandSetClock
from job_context import logged
from provider_server import CUT, HANGING, Reply, refusing
from receivers import SECRET
from receivers import receiver as receiver

from app.errors import ConfigurationError, ProviderBusy, ProviderUnavailable
from app.providers import webhook
from app.providers.webhook import WebhookReceiver

NOW = datetime(2026, 10, 27, 13, tzinfo=UTC)


@pytest.fixture
def clock():
    """A clock that shows nine in New York."""
    return HandSetClock(NOW)


@pytest.fixture
async def hook(receiver, clock):
    """A `WebhookReceiver` with the address of the test server."""
    one = WebhookReceiver("ALERT_WEBHOOK_URL", f"{receiver.url}/hooks/{SECRET}?key={SECRET}", clock)
    yield one
    await one.close()


async def test_a_post(hook, receiver):
    """The body is JSON, the idempotency key is a header, and the request has the whole address."""
    assert await hook.post({"text": "ä"}, "an-id") == 204
    (request,) = receiver.requests
    assert (request.method, request.path, request.query) == (
        "POST",
        f"/hooks/{SECRET}",
        {"key": SECRET},
    )
    assert request.json == {"text": "ä"}
    headers = {
        name: request.headers[name] for name in ("content-type", "idempotency-key", "user-agent")
    }
    assert headers == {
        "content-type": "application/json",
        "idempotency-key": "an-id",
        "user-agent": "alpha-monday",
    }


async def test_a_get(hook, receiver):
    """The request has no body."""
    assert await hook.get() == 204
    assert [(request.method, request.body) for request in receiver.requests] == [("GET", b"")]


@pytest.mark.parametrize(
    ("reply", "raised", "message"),
    [
        pytest.param(Reply(status=500), ProviderUnavailable, "answered 500.", id="a server error"),
        pytest.param(
            Reply(status=408), ProviderUnavailable, "answered 408.", id="a request timeout"
        ),
        pytest.param(Reply(status=425), ProviderUnavailable, "answered 425.", id="too early"),
        pytest.param(
            Reply(status=429), ProviderUnavailable, "answered 429.", id="too many requests"
        ),
        pytest.param(
            CUT,
            ProviderUnavailable,
            "cannot be reached (RemoteProtocolError).",
            id="a closed connection",
        ),
        pytest.param(
            Reply(status=404),
            ConfigurationError,
            "answered 404: the server does not accept the request; check the address.",
            id="not found",
        ),
        pytest.param(
            Reply(status=302, headers={"location": f"http://127.0.0.1/{SECRET}"}),
            ConfigurationError,
            "answered 302, a redirect, which is not followed: set ALERT_WEBHOOK_URL to the new "
            "address.",
            id="a redirect",
        ),
    ],
)
async def test_refusals(hook, receiver, reply, raised, message):
    """Each error says whether another attempt may succeed; none contains the address."""
    receiver.play(reply)
    with pytest.raises(raised) as error:
        await hook.post({}, "an-id")
    assert str(error.value) == f"ALERT_WEBHOOK_URL {message}"
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        pytest.param("90", timedelta(seconds=90), id="seconds"),
        pytest.param("Tue, 27 Oct 2026 13:05:00 GMT", timedelta(minutes=5), id="a time"),
        pytest.param("999999999", timedelta(days=1), id="far too long"),
    ],
)
async def test_a_receiver_that_asks_us_to_wait(hook, receiver, header, wait):
    """The Retry-After header is respected, for a day at most."""
    receiver.play(Reply(status=503, headers={"retry-after": header}))
    with pytest.raises(ProviderBusy) as busy:
        await hook.get()
    assert busy.value.until == NOW + wait


async def test_a_receiver_that_hangs(hook, receiver, monkeypatch):
    """The request ends at its time limit, whatever the receiver sends meanwhile."""
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.2)
    receiver.play(HANGING)
    with pytest.raises(
        ProviderUnavailable, match=r"^ALERT_WEBHOOK_URL did not answer within 0 s\.$"
    ):
        await hook.get()


async def test_an_endless_response(hook, receiver):
    """The status is enough: the client does not wait for the body to end."""
    receiver.play(Reply(b"a", stalled=True))
    async with asyncio.timeout(5):
        assert await hook.get() == 200


async def test_an_unreachable_address(clock):
    """A refused connection is tried again; an invalid or missing address is not."""
    with refusing() as url:
        one = WebhookReceiver("HEARTBEAT_URL", f"{url}/{SECRET}", clock)
        with pytest.raises(
            ProviderUnavailable, match=r"^HEARTBEAT_URL cannot be reached \(ConnectError\)\.$"
        ):
            await one.get()
    odd = WebhookReceiver("HEARTBEAT_URL", f"http://127.0.0.1:{SECRET}/", clock)
    with pytest.raises(
        ConfigurationError,
        match=r"^HEARTBEAT_URL has an address to which no request can be sent: check it\.$",
    ):
        await odd.get()
    off = WebhookReceiver("HEARTBEAT_URL", "", clock)
    assert not off.is_configured
    with pytest.raises(ConfigurationError, match=r"^HEARTBEAT_URL is not set\.$"):
        await off.get()
    for each in (one, odd, off):
        await each.close()


async def test_the_libraries_do_not_log_the_address(hook, receiver, clock):
    """The address is not logged even at DEBUG, when no code has registered it as a secret."""
    receiver.play(Reply(status=307, headers={"location": f"http://127.0.0.1/{SECRET}"}))
    with logged("DEBUG", clock) as lines, pytest.raises(ConfigurationError):
        await hook.post({}, "an-id")
    assert SECRET not in str(lines)
