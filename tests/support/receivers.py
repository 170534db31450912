"""Whoever is told: a receiver on loopback whose address holds a secret, and a house that tells it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from job_tools import House, World, the_time_it_says, tools_for
from provider_server import ProviderServer, Reply

from jobs import queue

SECRET = "T024BE91L-x9Yq0vWm"
TAKEN = Reply(status=204)


class Told(ProviderServer):
    """A receiver that takes everything unless it is told otherwise by `play`."""

    def __init__(self) -> None:
        super().__init__()
        self.play(TAKEN)

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that arrived, in their order."""
        return [request.json for request in self.requests if request.method == "POST"]

    @property
    def heartbeats(self) -> int:
        """How many heartbeats arrived."""
        return sum(request.method == "GET" for request in self.requests)


@pytest.fixture
async def receiver() -> AsyncIterator[Told]:
    """Who is told."""
    async with Told() as server:
        yield server


@pytest.fixture
async def house(database, pool, clock, receiver, monkeypatch) -> AsyncIterator[House]:
    """A house whose providers say what the test writes down, and which tells the receiver; no real Monday ticks."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})
    world = World(clock)
    addresses = {
        "ALERT_WEBHOOK_URL": f"{receiver.url}/hooks/{SECRET}?key={SECRET}",
        "HEARTBEAT_URL": f"{receiver.url}/ping/{SECRET}",
    }
    async with ProviderServer() as provider, tools_for(database, pool, clock, provider.url, **addresses) as tools:
        provider.answers = world
        yield House(tools, provider, world, clock)


MESSAGES = "task_name IN ('send_alert', 'send_heartbeat')"


async def told(house: House) -> None:
    """Let a worker send what is to be sent now, and nothing else."""
    later = "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 year'"
    await house.rows(f"{later} WHERE status = 'todo' AND NOT {MESSAGES}")
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)


async def told_again(house: House) -> None:
    """Let what was put off be due, in Postgres's time too, and send it."""
    await house.rows(f"UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE status = 'todo' AND {MESSAGES}")
    await told(house)


async def pauses(house: House, send: Callable[[], Awaitable[None]]) -> list[timedelta]:
    """Run `send()` as the queue would, at the times that it says; return the pauses between them."""
    found = []
    while later := await the_time_it_says(send):
        found.append(later - house.clock.time)
        house.clock.time = later
    return found
