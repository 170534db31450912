"""`alpha-monday pick` with several series: a job for each that needs one, and a wait for all."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from job_context import ALPHA_VANTAGE_KEY, make_answer, make_completion, new_york
from job_context import clock as clock
from provider_server import says
from series_harness import CLAUDE, DICE, MAIN
from series_harness import harness as harness
from series_harness import keys as keys
from series_harness import receiver as receiver

from app.commands import pick, terminal
from app.database.pools import transaction
from app.errors import AlphaMondayError
from jobs import weekly
from jobs.context import RealClock

REFUSED = says({"error": {"message": "No such key."}}, 401)


@pytest.fixture
def operator(harness, monkeypatch):
    """An operator at the harness's time, with a running worker."""
    for name, value in {
        "DATABASE_URL": str(harness.context.pool.conninfo),
        "SERIES_FILE": harness.file,
        "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pick, "clock", harness.clock)
    monkeypatch.setattr(terminal, "clock", RealClock())


async def picked(harness, *finished: str, series: str | None = None) -> int:
    """
    Run the command, while a worker makes the batches of `finished`. Return its exit code.
    """
    await harness.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")

    async def work() -> None:
        for name in finished:
            await weekly.run_if_due(harness.context, job_id=1, max_questions=6, series=name)

    harness.clock.meanwhile = work
    try:
        await pick._pick(series)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


async def waiting(harness) -> Sequence[str]:
    """Return the series of the weekly jobs that wait, in the order of their ids."""
    jobs = await harness.jobs()
    return [args.get("series", MAIN) for task, args, _ in jobs if task == "pick_week"]


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Batch of")]


async def test_all_series(harness, operator, capsys):
    """A job for each series, and the batch of each is printed."""
    assert await picked(harness, DICE, CLAUDE, MAIN) == 0
    assert await waiting(harness) == [MAIN, CLAUDE, DICE]
    output = capsys.readouterr()
    assert headings(output.out) == [
        "Batch of Monday 2026-10-26 (main): active",
        "Batch of Monday 2026-10-26 (claude): active",
        "Batch of Monday 2026-10-26 (dice): active",
    ]
    assert "makes the batch of 2026-10-26 of claude. Waiting for it." in output.err


async def test_only_what_is_missing_or_failed(harness, operator, capsys):
    """A batch with picks is not made again; a failed one is, and the exit code says if it fails."""
    harness.answers[CLAUDE] = REFUSED
    await harness.run(MAIN, CLAUDE)
    assert await picked(harness, CLAUDE, DICE) == 1
    assert await waiting(harness) == [CLAUDE, DICE]
    harness.answers[CLAUDE] = make_completion(make_answer("KO", "MSFT", "BRK.B"))
    await harness.rows("DELETE FROM procrastinate_jobs WHERE task_name = 'pick_week'")
    assert await picked(harness, CLAUDE) == 0
    assert await waiting(harness) == [CLAUDE]
    with pytest.raises(AlphaMondayError) as refused:
        await picked(harness)
    assert str(refused.value) == (
        "No series needs a job for the Monday 2026-10-26: the picks of main, claude and dice are "
        "stored."
    )


async def test_one_series(harness, operator, capsys):
    """Only its job is deferred."""
    assert await picked(harness, CLAUDE, series=CLAUDE) == 0
    assert await waiting(harness) == [CLAUDE]
    assert headings(capsys.readouterr().out) == ["Batch of Monday 2026-10-26 (claude): active"]


async def test_a_job_that_runs_already(harness, operator, capsys):
    """It is not deferred again, and the command waits for it, too."""
    async with transaction(harness.context.pool) as conn:
        await weekly.defer_run(conn, harness.clock.now(), CLAUDE)
    with pytest.raises(AlphaMondayError, match=r"^Job \d+ already makes the batch of .* of claude"):
        await picked(harness, series=CLAUDE)
    assert await picked(harness, MAIN, CLAUDE, DICE) == 0
    assert await waiting(harness) == [CLAUDE, MAIN, DICE]
    assert len(headings(capsys.readouterr().out)) == 3


async def test_an_unknown_name(harness, operator):
    """One line that lists the names."""
    with pytest.raises(AlphaMondayError) as refused:
        await picked(harness, series="gemini")
    assert str(refused.value) == (
        "There is no series 'gemini'. The configured series: main, claude, dice."
    )


async def test_no_monday(harness, operator):
    """The refusal is the same as with one series."""
    harness.clock.time = new_york((harness.clock.now() + timedelta(days=1)).date())
    with pytest.raises(AlphaMondayError, match=r"^No Monday has begun"):
        await picked(harness)
