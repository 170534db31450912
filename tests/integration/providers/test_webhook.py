"""What is sent to a receiver, what its answers mean, and that nobody learns its address."""

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
    """Nine in New York."""
    return HandSetClock(NOW)


@pytest.fixture
async def listens(receiver, clock):
    """The receiver as the service knows it."""
    one = WebhookReceiver("ALERT_WEBHOOK_URL", f"{receiver.url}/hooks/{SECRET}?key={SECRET}", clock)
    yield one
    await one.close()


async def test_a_post(listens, receiver):
    """A JSON with the key of its repeats, to the whole address."""
    assert await listens.post({"text": "ä"}, "an-id") == 204
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


async def test_a_get(listens, receiver):
    """The address is asked for, and nothing is sent along."""
    assert await listens.get() == 204
    assert [(request.method, request.body) for request in receiver.requests] == [("GET", b"")]


@pytest.mark.parametrize(
    ("reply", "raised", "said"),
    [
        pytest.param(Reply(status=500), ProviderUnavailable, "answered 500.", id="its own trouble"),
        pytest.param(Reply(status=408), ProviderUnavailable, "answered 408.", id="too slow"),
        pytest.param(Reply(status=425), ProviderUnavailable, "answered 425.", id="too early"),
        pytest.param(Reply(status=429), ProviderUnavailable, "answered 429.", id="too many"),
        pytest.param(
            CUT, ProviderUnavailable, "cannot be reached (RemoteProtocolError).", id="cut"
        ),
        pytest.param(
            Reply(status=404),
            ConfigurationError,
            "answered 404: it does not take what is sent; check the address.",
            id="unknown",
        ),
        pytest.param(
            Reply(status=302, headers={"location": f"http://127.0.0.1/{SECRET}"}),
            ConfigurationError,
            "answered 302, a redirect, which is not followed: set it to where that leads.",
            id="a redirect",
        ),
    ],
)
async def test_answers(listens, receiver, reply, raised, said):
    """Each says whether another attempt may succeed; the address is in none."""
    receiver.play(reply)
    with pytest.raises(raised) as error:
        await listens.post({}, "an-id")
    assert str(error.value) == f"ALERT_WEBHOOK_URL {said}"
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        pytest.param("90", timedelta(seconds=90), id="seconds"),
        pytest.param("Tue, 27 Oct 2026 13:05:00 GMT", timedelta(minutes=5), id="a time"),
        pytest.param("999999999", timedelta(days=1), id="for ever"),
    ],
)
async def test_a_receiver_that_asks_us_to_wait(listens, receiver, header, wait):
    """Its word is kept to, for a day at most."""
    receiver.play(Reply(status=503, headers={"retry-after": header}))
    with pytest.raises(ProviderBusy) as busy:
        await listens.get()
    assert busy.value.until == NOW + wait


async def test_a_receiver_that_hangs(listens, receiver, monkeypatch):
    """It is waited for no longer than the limit, whatever it sends meanwhile."""
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.2)
    receiver.play(HANGING)
    with pytest.raises(
        ProviderUnavailable, match=r"^ALERT_WEBHOOK_URL did not answer within 0 s\.$"
    ):
        await listens.get()


async def test_an_endless_answer(listens, receiver):
    """Its head is enough: a body that never ends is not waited for."""
    receiver.play(Reply(b"a", stalled=True))
    async with asyncio.timeout(5):
        assert await listens.get() == 200


async def test_nobody_listens(clock):
    """
    A refused connection is tried again; an address that cannot be asked, or is not set, is not.
    """
    with refusing() as url:
        one = WebhookReceiver("HEARTBEAT_URL", f"{url}/{SECRET}", clock)
        with pytest.raises(
            ProviderUnavailable, match=r"^HEARTBEAT_URL cannot be reached \(ConnectError\)\.$"
        ):
            await one.get()
    odd = WebhookReceiver("HEARTBEAT_URL", f"http://127.0.0.1:{SECRET}/", clock)
    with pytest.raises(
        ConfigurationError,
        match=r"^HEARTBEAT_URL cannot be asked as it stands: check the address\.$",
    ):
        await odd.get()
    off = WebhookReceiver("HEARTBEAT_URL", "", clock)
    assert not off.is_configured
    with pytest.raises(ConfigurationError, match=r"^HEARTBEAT_URL is not set\.$"):
        await off.get()
    for each in (one, odd, off):
        await each.close()


async def test_the_libraries_do_not_tell_the_address(listens, receiver, clock):
    """Not even where everything is logged and nobody named the secret."""
    receiver.play(Reply(status=307, headers={"location": f"http://127.0.0.1/{SECRET}"}))
    with logged("DEBUG", clock) as lines, pytest.raises(ConfigurationError):
        await listens.post({}, "an-id")
    assert SECRET not in str(lines)
