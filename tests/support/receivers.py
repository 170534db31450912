"""A receiver of messages on loopback, whose address holds a secret, and a harness that uses it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from job_context import JobHarness, World, open_context, run_attempt
from provider_server import ProviderServer, Reply

from jobs import queue

SECRET = "T024BE91L-x9Yq0vWm"
TAKEN = Reply(status=204)


class MessageReceiver(ProviderServer):
    """A receiver that accepts all messages, unless `play` sets other responses."""

    def __init__(self) -> None:
        super().__init__()
        self.play(TAKEN)

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that arrived, in order."""
        return [request.json for request in self.requests if request.method == "POST"]

    @property
    def heartbeats(self) -> int:
        """The number of heartbeats that arrived."""
        return sum(request.method == "GET" for request in self.requests)


@pytest.fixture
async def receiver() -> AsyncIterator[MessageReceiver]:
    """The receiver of alerts and heartbeats."""
    async with MessageReceiver() as server:
        yield server


@pytest.fixture
async def harness(database, pool, clock, receiver, monkeypatch) -> AsyncIterator[JobHarness]:
    """
    A harness whose alerts and heartbeats go to the receiver. No tick of the real Monday is offered.
    """
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})
    world = World(clock)
    addresses = {
        "ALERT_WEBHOOK_URL": f"{receiver.url}/hooks/{SECRET}?key={SECRET}",
        "HEARTBEAT_URL": f"{receiver.url}/ping/{SECRET}",
    }
    async with (
        ProviderServer() as provider,
        open_context(
            database=database, pool=pool, clock=clock, base_url=provider.url, **addresses
        ) as context,
    ):
        provider.answers = world
        yield JobHarness(context=context, provider=provider, world=world, clock=clock)


MESSAGES = "task_name IN ('send_alert', 'send_heartbeat')"


async def send_due_messages(harness: JobHarness) -> None:
    """Run a worker that sends the messages that are due, and nothing else."""
    later = "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 year'"
    await harness.rows(f"{later} WHERE status = 'todo' AND NOT {MESSAGES}")
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)


async def send_postponed_messages(harness: JobHarness) -> None:
    """Make the messages that wait due, in Postgres's time too, and send them."""
    await harness.rows(
        f"UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE status = 'todo' AND {MESSAGES}"
    )
    await send_due_messages(harness)


async def retry_pauses(harness: JobHarness, send: Callable[[], Awaitable[None]]) -> list[timedelta]:
    """
    Run `send()` as the queue does, at the times that it asks for. Return the pauses between them.
    """
    pauses = []
    while later := await run_attempt(send):
        pauses.append(later - harness.clock.time)
        harness.clock.time = later
    return pauses
