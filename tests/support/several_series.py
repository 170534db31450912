"""Harnesses of the jobs with several series: two models and a control, from a file of series."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest
from clocks import HandSetClock
from job_context import MONDAY, JobHarness, new_york, open_harness

from app.database import migrations
from app.domain import control
from app.domain.model import Batch
from app.store import checkpoints
from jobs import daily

NAMES = ("main", "second", "dice")

# Each series as a table of the file of SERIES_FILE.
TABLES = {
    "main": '[main]\nlabel = "First"\nmodel = "gpt-5.4-mini"\n',
    "second": '[second]\nlabel = "Second"\nmodel = "another-model"\nreasoning_effort = "low"\n',
    "third": '[third]\nmodel = "a-third-model"\n',
    "dice": '[dice]\nkind = "random"\n',
}


def write_file(folder: Path, names: Sequence[str] = NAMES) -> str:
    """Write a file with these series, and return its path."""
    text = "\n".join(TABLES[name] for name in names)
    # The settings of a test are kept by their values, so another content needs another path.
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.toml"
    path.write_text(text)
    return str(path)


@asynccontextmanager
async def open_series(
    database: str, clock: HandSetClock, folder: Path, names: Sequence[str] = NAMES
) -> AsyncIterator[JobHarness]:
    """A harness that runs these series."""
    path = write_file(folder, names)
    async with open_harness(database, clock, SERIES_FILE=path) as harness:
        yield harness


async def make_batches(harness: JobHarness, run_date: date = MONDAY) -> dict[str, Batch]:
    """Make the batches of a Monday at 09:00, one series after another. Return them by name."""
    harness.clock.time = new_york(run_date)
    made = {}
    for name in harness.context.series:
        await harness.begin(series=name)
        batch = await harness.batch(run_date, name)
        assert batch is not None
        made[name] = batch
    return made


async def take_checkpoints(harness: JobHarness, until: date) -> None:
    """Take all checkpoints that are due up to 09:00 of a day, in their order."""
    async with harness.context.pool.connection() as conn:
        due = await checkpoints.list_due(conn, until)
    for one in sorted(due, key=lambda one: (one.due_at, one.run_date)):
        harness.clock.time = one.due_at
        await daily.take(harness.context, one.batch_id, one.day)


@pytest.fixture(scope="session")
def several_series(tmp_path_factory, made_once: Callable[..., str]) -> str:
    """
    Return the address of a record of three Mondays with changing series.

    The first Monday has `main` and `dice`, with a ticker that the provider refuses. On the second
    one `second` joins; on the third one it is retired, and `third` joins. The record is sealed.
    Tests only read it; they change a copy (`record_server.copy_of`).
    """
    folder = tmp_path_factory.mktemp("series")
    return made_once("several_series", lambda address: asyncio.run(_live(address, folder)))


async def _live(address: str, folder: Path) -> None:
    clock = HandSetClock(new_york(MONDAY))
    await migrations.migrate(address, clock.now())
    of_weeks = (["main", "dice"], ["main", "second", "dice"], ["main", "third", "dice"])
    for week, names in enumerate(of_weeks):
        run_date = MONDAY + timedelta(weeks=week)
        async with open_series(address, clock, folder, names) as harness:
            await take_checkpoints(harness, run_date)
            clock.time = new_york(run_date)
            if week == 0:
                await harness.begin()
                harness.world.unknown = {await _first_drawn(harness)}
            await make_batches(harness, run_date)


async def _first_drawn(harness: JobHarness) -> str:
    """Return the ticker that `dice` draws first on the first Monday."""
    for entry in await harness.journal():
        if '"name":"dice"' in entry.content:
            universe = json.loads(entry.content)["series"]["profile"]["universe"]
            seed = control.draw_seed(entry.hash, MONDAY)
            return control.draw(universe, seed, benchmark="SPY")[0].ticker
    raise LookupError
