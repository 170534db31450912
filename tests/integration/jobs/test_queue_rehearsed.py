"""A rehearsal whose clock was deleted: no command and no worker records in it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import BIN, command, environment, without_place
from job_context import ALPHA_VANTAGE_KEY, BASELINE, MONDAY, OPENAI_KEY, JobHarness, logged
from job_context import clock as clock
from job_context import harness as harness

from app.errors import ConfigurationError
from app.store import rehearsed
from app.store.rehearsed import CREATE_CLOCK_TABLE, WITHOUT_CLOCK

KEYS = {"OPENAI_API_KEY": OPENAI_KEY, "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY, "PORT": "0"}
COUNTS = "SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM procrastinate_jobs)"
# No Monday has begun on most days, which `pick` says first.
NO_MONDAY = "alpha-monday: No Monday has begun: "


@pytest.fixture
async def without_clock(harness: JobHarness) -> JobHarness:
    """A harness with the record of a rehearsal, after an operator has deleted its clock."""
    await harness.rows(CREATE_CLOCK_TABLE)
    await harness.make_batch()
    await harness.rows("DROP SCHEMA told CASCADE")
    return harness


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("serve", "--no-worker"),
        ("work",),
        ("pick",),
        (
            "pick",
            "end",
            MONDAY,
            "MSFT",
            "--last-session",
            BASELINE,
            "--value",
            "1",
            "--source",
            "x",
        ),
        ("pick", "rename", MONDAY, "MSFT", "KO", "--from", MONDAY, "--source", "x", "--force"),
        ("checkpoint", "correct", MONDAY, "0", "MSFT", "--reason", "It was wrong."),
        ("checkpoint", "retake", MONDAY, "1"),
        ("seal", "--yes"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
async def test_a_command(without_clock, capsys, arguments):
    """It is refused in one line, and nothing is stored."""
    before = await without_clock.rows(COUNTS)
    database = without_clock.context.pool.conninfo
    # Some commands configure the log of their process, which is that of the test.
    with logged("INFO", without_clock.clock):
        result = command(capsys, *arguments, DATABASE_URL=database, **KEYS)
    assert result.exit_code == 1
    (line,) = without_place(result.error).splitlines()
    if arguments == ("pick",) and line.startswith(NO_MONDAY):
        return
    if arguments[0] == "seal":
        assert (
            line == "alpha-monday: The record is sealed already: its journal has a GENESIS entry."
        )
    else:
        assert line == f"alpha-monday: {WITHOUT_CLOCK}"
    assert await without_clock.rows(COUNTS) == before


async def test_a_worker_of_procrastinate(without_clock, tmp_path):
    """`procrastinate worker` is refused in one line, and runs no job."""
    before = await without_clock.rows(COUNTS)
    ended = run_worker(without_clock.context.pool.conninfo, tmp_path)
    assert ended.returncode == 1
    lines = [one for one in ended.stderr.splitlines() if one.strip()]
    assert lines[-1] == WITHOUT_CLOCK
    assert "Traceback" not in ended.stderr
    assert await without_clock.rows(COUNTS) == before
    assert await without_clock.rows("SELECT id FROM procrastinate_workers") == []


def run_worker(database: str, cwd: Path) -> subprocess.CompletedProcess[Any]:
    """Run a worker of Procrastinate's command line until it ends."""
    return subprocess.run(
        [BIN / "procrastinate", "--app=jobs.queue.app", "worker"],
        cwd=cwd,
        env=environment(DATABASE_URL=database, **KEYS),
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_which_rehearsals_are_refused(harness):
    """One with its clock may still be changed by an operator; a live record may, too."""
    pool = harness.context.pool
    await harness.rows(CREATE_CLOCK_TABLE)
    await harness.make_batch()
    await rehearsed.refuse_rehearsal_without_clock(pool)
    await harness.rows("DROP SCHEMA told CASCADE")
    for refuse in (rehearsed.refuse_rehearsal, rehearsed.refuse_rehearsal_without_clock):
        with pytest.raises(ConfigurationError) as refused:
            await refuse(pool)
        assert str(refused.value) == WITHOUT_CLOCK
