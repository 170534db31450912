"""A harness with three series: two models, whose answers a test sets, and a control."""

from collections.abc import AsyncIterator, Sequence
from datetime import date
from pathlib import Path

import pytest
from job_context import (
    MONDAY,
    JobHarness,
    World,
    make_answer,
    make_completion,
    new_york,
    open_context,
)
from provider_server import ProviderServer, Reply, Request
from receivers import SECRET, MessageReceiver

from app.domain.model import Batch
from app.store import batches
from jobs import queue, weekly

MAIN, CLAUDE, DICE = "main", "claude", "dice"
ALL = (MAIN, CLAUDE, DICE)

# The names of the models of the two series that ask one.
MODELS = {MAIN: "gpt-5.4-mini", CLAUDE: "claude-opus-5"}
KEYS = {"MAIN_KEY": "sk-mainkey4711", "CLAUDE_KEY": "sk-ant-claudekey4711"}

TABLES = {
    MAIN: f'[main]\nlabel = "GPT"\nmodel = "{MODELS[MAIN]}"\nkey_from = "MAIN_KEY"\n',
    CLAUDE: f'[claude]\nlabel = "Claude"\nmodel = "{MODELS[CLAUDE]}"\nkey_from = "CLAUDE_KEY"\n',
    DICE: '[dice]\nkind = "random"\n',
}


def write_file(folder: Path, names: Sequence[str] = ALL) -> str:
    """Write a file with these series, and return its path."""
    path = folder / f"{'-'.join(names)}.toml"
    path.write_text("".join(TABLES[name] for name in names))
    return str(path)


class SeriesHarness(JobHarness):
    """
    A harness that runs several series.

    `answers` has the response of a model's provider, by the series; the other one answers as usual.
    """

    file: str
    answers: dict[str, Reply]

    def respond(self, request: Request) -> Reply:
        """Respond as the providers do."""
        if request.path == "/v1/chat/completions":
            for name, reply in self.answers.items():
                if request.json["model"] == MODELS[name]:
                    return reply
        return self.world(request)

    async def run(self, *names: str, questions: int | None = None) -> None:
        """Run this Monday's jobs of these series, or of all."""
        for name in names or self.context.series:
            await weekly.run_if_due(self.context, job_id=1, max_questions=questions, series=name)

    async def make_all(self, run_date: date = MONDAY) -> None:
        """Make the batches of a Monday at 09:00, then clear the list of requests."""
        self.clock.time = new_york(run_date)
        await self.run()
        self.provider.requests.clear()

    async def batch_of(self, series: str, run_date: date = MONDAY) -> Batch:
        """Return the batch of a Monday of a series."""
        async with self.context.pool.connection() as conn:
            batch = await batches.get_by_run_date(conn, series, run_date)
        assert batch
        return batch


@pytest.fixture
async def receiver() -> AsyncIterator[MessageReceiver]:
    """The receiver of alerts and heartbeats."""
    async with MessageReceiver() as server:
        yield server


@pytest.fixture
def keys(monkeypatch) -> None:
    """The keys of the two models, as variables of the environment."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


@pytest.fixture
async def harness(
    database, pool, clock, receiver, keys, monkeypatch, tmp_path
) -> AsyncIterator[SeriesHarness]:
    """A harness with the three series. Its alerts and heartbeats go to the receiver."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})
    world = World(clock)
    file = write_file(tmp_path)
    environment = {
        "SERIES_FILE": file,
        "ALERT_WEBHOOK_URL": f"{receiver.url}/hooks/{SECRET}?key={SECRET}",
        "HEARTBEAT_URL": f"{receiver.url}/ping/{SECRET}",
    }
    async with (
        ProviderServer() as provider,
        open_context(
            database=database, pool=pool, clock=clock, base_url=provider.url, **environment
        ) as context,
    ):
        harness = SeriesHarness(context=context, provider=provider, world=world, clock=clock)
        harness.file = file
        harness.answers = {CLAUDE: make_completion(make_answer("KO", "MSFT", "BRK.B"))}
        provider.answers = harness.respond
        yield harness
