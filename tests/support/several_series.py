"""Harnesses of the jobs with several series: two models and a control, from a file of series."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from pathlib import Path

from clocks import HandSetClock
from job_context import MONDAY, JobHarness, new_york, open_harness

from app.domain.model import Batch

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


def at_nine(run_date: date) -> datetime:
    """Return 09:00 in New York on a Monday."""
    return new_york(run_date)
