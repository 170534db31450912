"""The option `--series`: commands in a record of several series."""

import json
from pathlib import Path

import pytest
from commands import command, without_place
from job_context import MONDAY, make_completion, new_york, rows
from job_context import clock as clock
from series_harness import CLAUDE, DICE, MAIN
from series_harness import harness as harness
from series_harness import keys as keys
from series_harness import receiver as receiver

from jobs import daily

TUESDAY = MONDAY.replace(day=27)
UNKNOWN = "alpha-monday: There is no series gemini. The series of the record: claude, dice, main.\n"


async def test_show(harness, database, capsys):
    """The batches of all series of a Monday, one after another, or that of one series."""
    await harness.make_all()
    shown = command(capsys, "show", DATABASE_URL=database)
    headings = [line for line in shown.output.splitlines() if line.startswith("Batch of")]
    assert headings == [
        "Batch of Monday 2026-10-26 (claude): active",
        "Batch of Monday 2026-10-26 (dice): active",
        "Batch of Monday 2026-10-26 (main): active",
    ]
    dated = command(capsys, "show", MONDAY, DATABASE_URL=database)
    assert dated.output == shown.output
    one = command(capsys, "show", "--series", "claude", DATABASE_URL=database)
    assert one.exit_code == 0
    assert one.output.startswith("Batch of Monday 2026-10-26 (claude): active\n")
    assert "(main)" not in one.output


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["show"], id="show"),
        pytest.param(["checkpoint", "retake", "2026-10-26", "1"], id="retake"),
        pytest.param(
            ["checkpoint", "correct", "2026-10-26", "1", "MSFT", "--reason", "A typo."],
            id="correct",
        ),
        pytest.param(
            [
                *["pick", "end", "2026-10-26", "MSFT", "--last-session", "2026-10-26"],
                *["--value", "3", "--source", "A filing."],
            ],
            id="end",
        ),
        pytest.param(
            [
                *["pick", "rename", "2026-10-26", "MSFT", "MS", "--from", "2026-10-27"],
                *["--source", "A filing."],
            ],
            id="rename",
        ),
    ],
)
async def test_an_unknown_name(harness, database, capsys, arguments):
    """One line that lists the names."""
    await harness.make_all()
    result = command(capsys, *arguments, "--series", "gemini", DATABASE_URL=database)
    assert (result.exit_code, result.output) == (1, "")
    assert without_place(result.error) == UNKNOWN


async def test_jobs_list(harness, database, capsys):
    """The last value is the series; `jobs show` names it, too."""
    await harness.make_all()
    listed = command(capsys, "jobs", "list", DATABASE_URL=database)
    lines = [line.split("\t") for line in listed.output.splitlines()]
    assert {line[-1] for line in lines} == {MAIN, CLAUDE, DICE}
    assert all(len(line) == 8 for line in lines)
    (job,) = [line[0] for line in lines if line[-1] == CLAUDE and line[4] == "1"]
    shown = command(capsys, "jobs", "show", job, DATABASE_URL=database)
    assert "about: day 1 of 2026-10-26 of claude\n" in shown.output


async def test_export(harness, database, capsys, tmp_path):
    """All series in one file, or one of them; JSON says which."""
    await harness.make_all()

    def exported(*arguments: str) -> dict:
        file = tmp_path / "rows.json"
        done = command(capsys, "export", "--force", file, *arguments, DATABASE_URL=database)
        assert done.exit_code == 0, done.error
        return json.loads(file.read_text())

    everything = exported()
    assert everything["series"] is None
    assert [row["series"] for row in everything["rows"]] == [CLAUDE] * 3 + [DICE] * 3 + [MAIN] * 3
    for name in (MAIN, CLAUDE, DICE):
        done = command(
            capsys,
            "export",
            "--force",
            tmp_path / "one.csv",
            "--series",
            name,
            DATABASE_URL=database,
        )
        assert done.output.startswith("Exported: 3 rows of 1 batch. The head: ")
    one = exported("--series", "dice")
    assert one["series"] == DICE
    assert one["rows"] == everything["rows"][3:6]
    file = tmp_path / "rows.csv"
    done = command(capsys, "export", file, DATABASE_URL=database)
    assert [line.partition(",")[0] for line in file.read_text().splitlines()] == [
        "series",
        *[row["series"] for row in everything["rows"]],
    ]
    assert done.output.startswith("Exported: 9 rows of 3 batches. The head: ")
    unknown = tmp_path / "unknown.csv"
    done = command(capsys, "export", unknown, "--series", "gemini", DATABASE_URL=database)
    assert without_place(done.error) == UNKNOWN
    assert not unknown.exists()


async def test_a_series_that_is_not_configured_any_more(harness, database, capsys, tmp_path):
    """Its record is shown, exported and corrected: these commands do not read SERIES_FILE."""
    await harness.make_all()
    settings = {"DATABASE_URL": database, "SERIES_FILE": str(Path("/nowhere/series.toml"))}
    for arguments in (["show"], ["export", tmp_path / "claude.csv"]):
        result = command(capsys, *arguments, "--series", "claude", **settings)
        assert result.exit_code == 0, result.error
    result = command(
        capsys,
        *["pick", "end", MONDAY, "BRK.B", "--last-session", MONDAY],
        *["--value", "480", "--source", "A filing.", "--series", "claude"],
        **settings,
    )
    assert result.error.endswith("Recorded. Skipped days that are taken again: 0.\n")


async def test_a_ticker_of_several_series(harness, database, capsys):
    """The series must be named only if several of them have picked the ticker."""
    await harness.make_all()
    end = ["pick", "end", MONDAY, "--last-session", MONDAY, "--value", "3", "--source", "A filing."]
    result = command(capsys, *end, "MSFT", DATABASE_URL=database)
    assert "Several series have picked MSFT on 2026-10-26: claude, " in result.error
    result = command(capsys, *end, "BRK.B", DATABASE_URL=database)
    assert result.exit_code == 0, result.error
    result = command(capsys, *end, "MSFT", "--series", "main", DATABASE_URL=database)
    assert result.exit_code == 0, result.error
    ended = await rows(
        harness.context.pool,
        "SELECT series, ticker FROM picks JOIN batches ON batches.id = batch_id WHERE ended "
        "ORDER BY 1",
    )
    assert ended == [(CLAUDE, "BRK.B"), (MAIN, "MSFT")]


async def test_a_price_of_several_series(harness, database, capsys):
    """A correction of the benchmark must name the series, one of a single pick need not."""
    await harness.make_all()
    correct = ["checkpoint", "correct", MONDAY, "0"]
    reason = ["--reason", "The first close was wrong."]
    result = command(capsys, *correct, "SPY", *reason, DATABASE_URL=database)
    assert without_place(result.error) == (
        "alpha-monday: The batches of 2026-10-26 of claude, dice and main use SPY. Name one with "
        "--series, and repeat the command for each of them.\n"
    )
    named = command(capsys, *correct, "SPY", *reason, "--series", "dice", DATABASE_URL=database)
    assert "nothing else was read since" in named.error
    alone = command(capsys, *correct, "BRK.B", *reason, DATABASE_URL=database)
    assert "BRK.B was read as 500.0000 for 2026-10-23, and nothing else was read" in alone.error


async def test_a_day_that_several_series_lack(harness, database, capsys):
    """`checkpoint retake` needs the name only if several series lack the day."""
    await harness.make_all()
    harness.world.absent.add(("BRK.B", MONDAY))
    harness.world.absent.add(("SPY", TUESDAY))
    for day, hour in ((27, 20), (28, 20)):
        harness.clock.time = new_york(MONDAY.replace(day=day), hour, 30)
        for series in (CLAUDE, MAIN):
            batch = await harness.batch_of(series)
            await daily.take(harness.context, batch.id, day - MONDAY.day)
    one = command(capsys, "checkpoint", "retake", MONDAY, 1, DATABASE_URL=database)
    assert "No worker is running that could do it." in one.error  # the day of claude is meant
    several = command(capsys, "checkpoint", "retake", MONDAY, 2, DATABASE_URL=database)
    assert without_place(several.error) == (
        "alpha-monday: Day 2 of 2026-10-26 was skipped for claude and main. Name one with --series,"
        " and repeat the command for each of them.\n"
    )
    none = command(
        capsys, "checkpoint", "retake", MONDAY, 1, "--series", "main", DATABASE_URL=database
    )
    assert "Day 1 of 2026-10-26 of the series main was not skipped" in none.error


async def test_a_failed_batch_is_shown(harness, database, capsys):
    """One series fails, the others have their picks."""
    harness.answers[CLAUDE] = make_completion("Buy what you know.")
    await harness.make_all()
    shown = command(capsys, "show", "--series", "claude", DATABASE_URL=database)
    assert "Batch of Monday 2026-10-26 (claude): failed" in shown.output
    assert "active" in command(capsys, "show", "--series", "main", DATABASE_URL=database).output
