"""`alpha-monday status` with several series: each is named, and none hides another."""

import json
from datetime import timedelta

import pytest
from commands import command
from job_context import MONDAY, new_york, rows
from job_context import clock as clock
from msgspec.structs import replace
from provider_server import says
from series_harness import ALL, CLAUDE, DICE, MAIN, MODELS, write_file
from series_harness import harness as harness
from series_harness import keys as keys
from series_harness import receiver as receiver

from app.commands import status
from app.core import settings
from app.ops import snapshot
from app.ops.snapshot import OperatorSnapshot
from jobs import daily, reconcile, weekly

TUESDAY = MONDAY + timedelta(days=1)
NEXT_MONDAY = MONDAY + timedelta(days=7)
REFUSED = says({"error": {"message": "No such key."}}, 401)


async def read(harness, file: str | None = None) -> OperatorSnapshot:
    """The state, as a process with this file of series reads it."""
    environment = {"SERIES_FILE": harness.file if file is None else file}
    return await snapshot.read_for_operator(
        harness.context.pool, settings.load(environment), harness.clock
    )


def monday_lines(state: OperatorSnapshot) -> list[str]:
    return [line for line in status.facts(state) if line.startswith("Monday ")]


async def live(harness) -> None:
    """A worker with a recent heartbeat, and a round of reconciliation."""
    await harness.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")
    await reconcile.run_round(harness.context)


async def test_all_is_well(harness):
    """A line for the series, and one for the Monday of each; the others name the series."""
    await harness.make_all()
    await live(harness)
    state = await read(harness)
    lines = list(status.facts(state))
    assert lines[3:7] == [
        f"series: main (GPT, {MODELS[MAIN]}), claude (Claude, {MODELS[CLAUDE]}), dice (control)",
        "Monday 2026-10-26 of main: active",
        "Monday 2026-10-26 of claude: active",
        "Monday 2026-10-26 of dice: active",
    ]
    assert (
        "next checkpoints: day 1 of 2026-10-26 of claude, dice and main: Tuesday, 2026-10-27 09:00 "
        "in New York" in lines
    )
    assert (list(status.notes(state)), list(status.to_dos(state))) == ([], [])


async def test_one_fails(harness):
    """The failed series is named with its command; the others have their picks."""
    harness.answers[CLAUDE] = REFUSED
    await harness.make_all()
    await live(harness)
    state = await read(harness)
    failure = "The model's provider does not accept the key: set CLAUDE_KEY to a valid one."
    assert monday_lines(state) == [
        "Monday 2026-10-26 of main: active",
        f"Monday 2026-10-26 of claude: failed (CONFIGURATION): {failure}",
        "Monday 2026-10-26 of dice: active",
    ]
    assert list(status.to_dos(state)) == [
        f"The Monday 2026-10-26 of claude failed (CONFIGURATION): {failure} To run it again, use "
        "`alpha-monday pick --series claude` before midnight in New York."
    ]
    document = status.document(state)
    assert [(one["name"], one["batch"].status) for one in document["series"]] == [
        (MAIN, "active"),
        (CLAUDE, "failed"),
        (DICE, "active"),
    ]
    assert document["batch"].series == MAIN


async def test_a_job_and_questions(harness):
    """A series whose job is under way shows the job and its questions."""
    await harness.run(MAIN, DICE)
    harness.answers[CLAUDE] = says({"error": {"message": "Overloaded."}}, 503)
    async with harness.context.pool.connection() as conn:
        job = await weekly.defer_run(conn, harness.clock.now(), CLAUDE)
    with pytest.raises(Exception, match="did not answer"):
        await harness.run(CLAUDE)
    state = await read(harness)
    assert monday_lines(state)[1] == (
        f"Monday 2026-10-26 of claude: job {job} makes its batch, 1 question so far"
    )


async def test_neither_batch_nor_job(harness):
    """Only the series that lacks its batch is named."""
    await harness.run(MAIN, DICE)
    await live(harness)
    await harness.rows("DELETE FROM procrastinate_jobs WHERE task_name = 'pick_week'")
    harness.clock.forward(minutes=30)
    await reconcile.run_round(harness.context)
    await harness.rows("DELETE FROM procrastinate_jobs WHERE task_name = 'pick_week'")
    (to_do,) = status.to_dos(await read(harness))
    assert to_do == (
        "The Monday 2026-10-26 of claude has neither a batch nor a job. To make its batch, run "
        "`alpha-monday pick --series claude` before midnight in New York."
    )


async def test_missed_mondays(harness):
    """A Monday that one series lacks is named, before and after it is recorded as missed."""
    await harness.run(MAIN, DICE)
    harness.clock.time = new_york(TUESDAY)
    state = await read(harness)
    # The first entries of the journal declare claude, too.
    assert state.past.unrecorded == [snapshot.UnrecordedMonday(MONDAY, CLAUDE)]
    harness.clock.time = new_york(NEXT_MONDAY)
    await harness.run(MAIN)
    harness.clock.time = new_york(NEXT_MONDAY + timedelta(days=1))
    state = await read(harness)
    by_series = {one.name: one.unrecorded for one in state.series}
    assert by_series == {MAIN: [], CLAUDE: [NEXT_MONDAY], DICE: [NEXT_MONDAY]}
    notes = list(status.notes(state))
    assert "The Monday 2026-10-26 of claude was missed while the service was down." in notes
    assert any(
        "The Monday 2026-11-02 of claude and dice was missed. A ru" in line for line in notes
    )


async def test_skipped_and_failed_jobs(harness):
    """A skipped checkpoint, a failed job and an overdue checkpoint name their series."""
    await harness.make_all()
    harness.world.absent.add(("BRK.B", MONDAY))
    harness.clock.time = new_york(TUESDAY, 20, 30)
    claude = await harness.batch_of(CLAUDE)
    await daily.take(harness.context, claude.id, 1)
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'failed' WHERE task_name = 'take_checkpoint' AND "
        "args->>'batch_id' = %s AND args->>'day' = '1'",
        str((await harness.batch_of(DICE)).id),
    )
    await harness.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")
    state = await read(harness)
    notes = list(status.notes(state))
    assert any(
        line.startswith("Day 1 of 2026-10-26 of claude has no prices (MISSING_CLOSE)")
        for line in notes
    )
    assert any(line.startswith("Day 1 of 2026-10-26 of main is overdue by") for line in notes)
    (failed,) = state.work.failed
    assert (failed.series, failed.owed) == (DICE, True)
    assert any(
        f"Job {failed.id} (take_checkpoint, day 1 of 2026-10-26 of dice) has failed" in line
        for line in status.to_dos(state)
    )
    harness.clock.time = new_york(MONDAY + timedelta(days=4))
    (command_line,) = [
        line for line in status.to_dos(await read(harness)) if "checkpoint retake" in line
    ]
    assert "`alpha-monday checkpoint retake 2026-10-26 1 --series claude`" in command_line


async def test_joining_and_leaving(harness, tmp_path):
    """What the next Monday changes: a series of the journal that is missing, and a new one."""
    context = harness.context
    two = replace(context.in_force, series=context.in_force.series[:2])
    object.__setattr__(context, "in_force", two)
    object.__setattr__(context, "series", (MAIN, CLAUDE))
    await harness.make_all()
    changed = write_file(tmp_path, [MAIN, DICE])
    state = await read(harness, changed)
    assert [
        (one.name, one.configured, one.declared, one.joins, one.leaves) for one in state.series
    ] == [
        (MAIN, True, True, False, False),
        (DICE, True, False, True, False),
        (CLAUDE, False, True, False, True),
    ]
    assert list(status.notes(state)) == [
        "The series dice is configured and new: it is asked for the first time Monday, 2026-11-02 "
        "09:00 in New York.",
        "The series claude is declared in the journal and not configured here. If no process that "
        "works has it, the first question of the next Monday retires it.",
    ]


async def test_a_retired_series(harness, tmp_path):
    """A retired series is shown as such. Its mornings go on, and no Monday of it is missed."""
    await harness.make_all()
    context = harness.context
    two = replace(context.in_force, series=context.in_force.series[:2])
    object.__setattr__(context, "in_force", two)
    object.__setattr__(context, "series", (MAIN, CLAUDE))
    await harness.make_all(NEXT_MONDAY)
    harness.clock.time = new_york(NEXT_MONDAY + timedelta(days=15))
    state = await read(harness, write_file(tmp_path, [MAIN, CLAUDE]))
    (dice,) = [one for one in state.series if one.name == DICE]
    assert (dice.configured, dice.retired, dice.leaves, dice.unrecorded) == (False, True, False, [])
    assert "dice (control, retired)" in list(status.facts(state))[3]
    assert [monday.series for monday in state.record.mondays] == [MAIN, CLAUDE]


async def test_a_file_that_cannot_be_read(harness, tmp_path):
    """The state is shown all the same, and the mistake is to be corrected."""
    await harness.make_all()
    file = tmp_path / "wrong.toml"
    file.write_text("[main\n")
    state = await read(harness, str(file))
    assert next(status.to_dos(state)).startswith(f"SERIES_FILE ({file}): it is no TOML")
    assert [one.name for one in state.series] == [CLAUDE, DICE, MAIN]


async def test_as_json(harness, database, capsys):
    """The command prints all series."""
    await harness.make_all()
    result = command(capsys, "status", "--json", DATABASE_URL=database, SERIES_FILE=harness.file)
    series = json.loads(result.output)["series"]
    assert [one["name"] for one in series] == list(ALL)
    assert series[1]["model"]["name"] == MODELS[CLAUDE]
    assert series[2]["model"] is None
    assert await rows(harness.context.pool, "SELECT count(*) FROM batches") == [(3,)]
