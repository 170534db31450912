"""
The log as an operator reads it: it shows what happened, in order, and the page about it shows the
same lines.
"""

import json
import re
from pathlib import Path

import pytest
from commands import run

PAGE = (Path(__file__).parents[2] / "docs" / "operate" / "log.md").read_text()
SOURCES = "\n".join(
    path.read_text()
    for folder in ("app", "jobs", "graphql/api")
    for path in (Path(__file__).parents[2] / folder).rglob("*.py")
)
CLOSES = ["closes read"] * 4
MONDAY = [
    "Monday run started",
    "question sent to the model",
    "answer accepted",
    *CLOSES,
    "batch stored",
]


# The tasks whose lines the page leaves out.
STAMPS = ("stamp_head", "upgrade_proof", "check_stamp")


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory, create) -> list[dict[str, object]]:
    """
    What a rehearsal of one Monday and its first morning logs, with the command that the page names.
    """
    (command,) = re.findall(r"^alpha-monday (rehearse .*)$", PAGE, re.MULTILINE)
    folder = tmp_path_factory.mktemp("story")
    done = run(*command.split(), cwd=folder, DATABASE_URL=create())
    assert done.returncode == 0, done.stderr
    return [
        json.loads(line)
        for line in (folder / ".alpha-monday" / "rehearsal.log").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def lines(whole_log) -> list[dict[str, object]]:
    """The lines without those about timestamps."""
    return [line for line in whole_log if line["task"] not in STAMPS]


def test_the_timestamps_of_a_monday(whole_log):
    """
    Both services stamp the batch before its open, and the calendar completes its proof. The next
    morning's checkpoint is stamped, too.
    """
    lines = [line for line in whole_log if line["task"] in STAMPS]
    assert [line["event"] for line in lines] == [
        "head stamped",
        "head stamped",
        "batch stamped before its open",
        "proof upgraded",
        "head stamped",
        "head stamped",
        "proof upgraded",
    ]
    assert {line["level"] for line in lines} == {"info"}
    assert {str(line["at"])[:16] for line in lines[:2]} == {"2026-10-26T13:00"}


def test_the_story_of_a_monday(lines):
    """
    The Monday run starts, sends its question, accepts the answer, reads four closes and stores the
    batch. The second tick finds the batch stored, and Tuesday's checkpoint is computed.
    """
    assert [line["event"] for line in lines] == [
        *MONDAY,
        "batch already stored",
        *CLOSES,
        "checkpoint computed",
    ]
    assert {line["level"] for line in lines} == {"info"}


def test_every_line_has_its_log_context(lines):
    """
    Each line ends with its job, task and attempt, its Monday and batch, and a checkpoint's day.
    """
    week, second, morning = lines[:8], lines[8], lines[9:]
    (batch,) = {line["batch"] for line in lines}
    assert {line["run_date"] for line in lines} == {"2026-10-26"}
    for part, task, day in (
        (week, "pick_week", None),
        ([second], "pick_week", None),
        (morning, "take_checkpoint", 1),
    ):
        assert {(line["task"], line.get("day"), line["attempt"]) for line in part} == {
            (task, day, 1)
        }
        assert len({line["job"] for line in part}) == 1
    context = ["job", "task", "run_date", "batch", "attempt", "step"]
    assert all(
        list(line)[:3] == ["at", "level", "event"] and list(line)[-6:] == context for line in week
    )
    assert all(list(line)[-7:] == [*context[:3], "day", *context[3:]] for line in morning)
    assert [line["step"] for line in week] == [
        "begin",
        "choose",
        "choose",
        *["snapshot"] * 4,
        "store",
    ]
    assert f'"{batch}"' in PAGE


def test_the_page_shows_this_log(lines):
    """
    Event for event, with what was picked and measured; only times and ids differ from run to run.
    """
    shown = [json.loads(line) for line in PAGE.splitlines() if line.startswith("{")]
    for one, line in zip(shown, lines, strict=True):
        assert one.pop("at")[:13] == str(line["at"])[:13]
        assert one.items() <= line.items()


def test_every_event_on_the_page_is_logged_somewhere():
    """The page explains no event that the code does not log."""
    table = PAGE[PAGE.index("| event |") :]
    events = [
        event
        for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for event in re.findall("`(.*?)`", cell)
    ]
    assert len(events) > 12
    for event in events:
        assert f'"{event}"' in SOURCES, event
