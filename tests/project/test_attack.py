"""
The kinds of attack and how they are judged, and one small attack.

`make attack` is the large run.
"""

import importlib
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

ATTACK = Path(__file__).parents[2] / "dev" / "attack"


@pytest.fixture(scope="module", autouse=True)
def importable():
    """Make the tool's modules importable, and remove them afterwards: they are in no package."""
    names = [file.stem for file in ATTACK.glob("*.py")]
    sys.path.insert(0, str(ATTACK))
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield
    sys.path.remove(str(ATTACK))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture
def kinds() -> Any:
    return importlib.import_module("kinds")


@pytest.fixture
def run() -> Any:
    return importlib.import_module("run")


def attack(*options: str) -> subprocess.CompletedProcess[str]:
    """Run `dev/attack/run.py`."""
    command = [sys.executable, str(ATTACK / "run.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# The kinds


def test_every_item_has_its_kinds(kinds):
    """Each kind has a sentence, and each part of the service has ten kinds or more."""
    for kind in kinds.KINDS.values():
        assert re.fullmatch(r"[a-z0-9-]+", kind.name)
        assert kind.description.endswith("."), kind.name
    for part in ("answers", "documents", "connections"):
        assert len([kind for kind in kinds.KINDS.values() if kind.part == part]) >= 10


def test_kinds_are_chosen_by_name_and_by_part(kinds, run):
    """Without a word all are chosen; an unknown word is refused with the known ones."""
    assert run.choose_kinds([]) == list(kinds.KINDS)
    assert run.choose_kinds(["mixed", "exports-slow"]) == ["exports-slow", "mixed"]
    assert set(run.choose_kinds(["documents"])) == {
        kind.name for kind in kinds.KINDS.values() if kind.part == "documents"
    }
    with pytest.raises(
        SystemExit,
        match=r"^There is no kind journals\. "
        r"Choose from answers, connections, documents, mixed, more, unread-journal,",
    ):
        run.choose_kinds(["journals"])


def test_attackers_have_one_address_or_one_each():
    """The addresses of two hundred and more attackers are distinct, and none is the reader's."""
    attackers, reader = importlib.import_module("attackers"), importlib.import_module("reader")
    assert attackers.source_of(7, many=False) == "127.0.0.1"
    many = {attackers.source_of(number, many=True) for number in range(600)}
    assert len(many) == 600
    assert not many & {reader.SOURCE, "127.0.0.1"}


# The judgement


@pytest.fixture
def case(run) -> Any:
    """A case in which every promise holds, at its bound."""
    case = run.AttackCase(
        "exports-slow",
        60,
        "one",
        question_late=2.0,
        batch_late=4.0,
        service_peak=400.0,
        well_after=0.1,
    )
    case.measured.seconds["/live"] = [0.01] * 198 + [1.0] * 2
    case.measured.seconds["export"] = [9.0] * 5
    return case


WRONGS = {
    "slow": (
        lambda case: case.measured.seconds["feed"].extend([1.5] * 3),
        "p99 1.50 s, 1.5 times the budget",
    ),
    "new document": (
        lambda case: case.measured.seconds["new document"].append(6.0),
        "a new document took 6.00 s",
    ),
    "errors": (
        lambda case: case.measured.errors.update(["feed: 503"]),
        "errors for the reader (1 x feed: 503)",
    ),
    "stream": (lambda case: setattr(case.stream, "ended", "503"), "the reader's stream ended: 503"),
    "late": (lambda case: setattr(case, "question_late", 2.5), "the question came 2.50 s late"),
    "no question": (lambda case: setattr(case, "question_late", None), "the question did not come"),
    "memory": (lambda case: setattr(case, "service_peak", 737.0), "memory 737 MB"),
    "no answer afterwards": (
        lambda case: setattr(case, "well_after", None),
        "the service does not answer once the attackers have left",
    ),
    "ended": (
        lambda case: setattr(case, "ended", "exit code -9"),
        "the service ended: exit code -9",
    ),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_broken_promise_is_named(run, case, wrong):
    """At its bound a promise holds; beyond it the case is broken, and its line says why."""
    bounds = run.Bounds(p99=1.0, new_document=5.0, late=2.0, memory=400.0)
    assert bounds.broken_by(case) == []
    change, says = WRONGS[wrong]
    change(case)
    assert bounds.broken_by(case) == [says]
    assert f"- exports-slow, 60 from one: {says}" in run.make_report([case], bounds)


def test_all_lines_of_the_report_have_all_cells(run, case):
    """In both tables each line has as many cells as the head."""
    text = run.make_report(
        [run.AttackCase(run.NONE, 0, ""), case],
        run.Bounds(p99=1, new_document=5, late=2, memory=400),
    )
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert [len({line.count("|") for line in table.splitlines()}) for table in tables] == [1, 1]


def test_the_command_says_what_it_does(kinds, run):
    """`--help` has the choices, each kind, and an example."""
    text = run.make_parser().format_help()
    for word in (
        "--kinds",
        "--attackers",
        "--from",
        "--seconds",
        "--memory",
        "make attack ARGS=",
        *kinds.KINDS,
    ):
        assert word in text


@pytest.mark.long
def test_a_small_attack_is_measured(tmp_path):
    """
    With two attackers of two kinds the Monday is picked, and the report has a row for each case and
    for the case without attackers.
    """
    options = [
        "--kinds",
        "exports-read",
        "connections-made",
        "--attackers",
        "2",
        "--seconds",
        "3",
        "--mondays",
        "20",
    ]
    # Bounds that a slow machine stays within: this only tests that everything works.
    bounds = ["--p99", "20", "--late", "20", "--longest", "40"]
    done = attack(
        *options,
        *bounds,
        "--folder",
        str(tmp_path / "attack"),
        "--report",
        str(tmp_path / "report.md"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [
        line.split(" | ")
        for line in (tmp_path / "report.md").read_text().splitlines()
        if line.endswith("ok |")
    ]
    assert [row[0] for row in rows] == ["| none", "| exports-read", "| connections-made"]
    assert done.stderr.count(": ok\n") == 3


def test_an_attacker_asks_for_mondays_of_the_record(kinds):
    """Each random date is one of the record's Mondays."""
    attacker = kinds.Attacker(
        number=0, port=0, source="", newest=date(2023, 6, 5), mondays=3, long_text_on=""
    )
    assert {attacker.random_monday() for _ in range(100)} <= {
        date(2023, 6, 5),
        date(2023, 5, 29),
        date(2023, 5, 22),
    }
