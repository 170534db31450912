"""
The tests that know of dates, at five of them: `make test-dates`.

Every process that a test starts, its Postgres included, lives at the date (`dev/dates/moved_clock.py`). Each date
begins half a minute before its turn, so that it passes while the tests run. `ARGS="--date NAME"` runs one of them, and
`--at MOMENT` any other; what follows `--` goes to pytest.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from dates.moved_clock import Unable, moment, variables

HOUSE = Path(__file__).parents[2]
LEAD = timedelta(seconds=30)


class Date(NamedTuple):
    """A moment at which something turns, and what it is."""

    turn: datetime
    what: str


# In UTC. New York is five hours behind it in winter, and four in summer.
DATES = {
    "holiday": Date(datetime(2026, 11, 26, 14, tzinfo=UTC), "Thanksgiving, a Thursday, at nine in New York"),
    "spring": Date(datetime(2027, 3, 14, 7, tzinfo=UTC), "the Sunday on which summer time begins, at two"),
    "autumn": Date(datetime(2027, 11, 7, 6, tzinfo=UTC), "the Sunday on which summer time ends, at two"),
    "monday": Date(datetime(2027, 3, 15, 13, tzinfo=UTC), "the Monday after summer time began, at nine"),
    "new-year": Date(datetime(2027, 1, 1, 5, tzinfo=UTC), "the turn of the year in New York"),
}

# What a test's file says if the day on which it runs could matter: it, or what it uses, asks for the real time. All
# that is started as a process does, and so does the service that a page or an answer comes from.
KNOWS_OF_DATES = re.compile(
    r"""
    \b( RealClock | datetime\.now | date\.today | time\.time | SimulatedClock | ALPHA_MONDAY | CliRunner | commanded )\b
  | (?<![\w.])
    ( standins | create_app | served | serving | started | working | played | settle | pick | mondays | live_through
      | kill_one | run | now | EmbeddedPostgres
    )\(
    """,
    re.VERBOSE,
)
FOLDERS = ("unit", "integration", "scenarios")
# Long by themselves, and at every date the same: they measure load and outages, or rehearse fixed weeks.
LEFT_OUT = {
    "test_hostile_rehearsal.py": "rehearses fixed weeks",
    "test_odd_providers.py": "rehearses fixed weeks",
    "test_rehearsal.py": "rehearses fixed weeks",
    "test_outages.py": "measures outages",
    "test_pressure.py": "measures load",
    # HTTP alone, hundreds of cases against one service.
    "test_cors.py": "looks at headers",
    "test_head.py": "looks at headers",
    "test_headers.py": "looks at headers",
    "test_upgrades.py": "looks at handshakes",
    "test_routes.py": "looks at addresses",
    # Many processes or cases, and no answer of theirs depends on the date.
    "test_alpha_vantage.py": "sets its clock by hand",
    "test_api_compiler.py": "compares two ways to answer a query",
    "test_migrations.py": "looks at the schema",
    "test_sessions.py": "looks at what a connection is set to",
}
# In files that are selected: one process for each case, and what it is asked does not depend on the date.
DESELECTED = tuple(
    f"tests/integration/test_cli.py::{name}"
    for name in (
        "test_ctrl_c_while_modules_are_imported",
        "test_every_command_has_help_with_an_example",
        "test_every_example_can_be_copied",
        "test_misuse",
        "test_variables_of_others_do_no_harm",
    )
)

# Real services, which these tests start at once: they live through the turn itself.
FIRST = ("test_many.py", "test_health.py")


def selected() -> list[Path]:
    """Return the files of tests that know of dates, in the order in which they are run."""
    files = sorted(path for folder in FOLDERS for path in (HOUSE / "tests" / folder).glob("test_*.py"))
    files.sort(key=lambda path: path.name not in FIRST)
    return [path for path in files if path.name not in LEFT_OUT and KNOWS_OF_DATES.search(path.read_text())]


class Stop:
    """The first signal that told this command to end, handed on to the tests, which then clean up and say so."""

    def __init__(self) -> None:
        self.number = 0
        self._tests: subprocess.Popen[str] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def hand_on_to(self, tests: subprocess.Popen[str]) -> None:
        """Tell these tests from now on; at once if it was said already."""
        self._tests = tests
        if self.number:
            self._tell()

    def _note(self, number: int, _: object) -> None:
        if not self.number:  # a second one would break off the cleaning up
            self.number = number
            self._tell()

    def _tell(self) -> None:
        if self._tests and self._tests.poll() is None:
            os.killpg(self._tests.pid, signal.SIGINT)


def run(name: str, begin: datetime, what: str, options: Sequence[str], stop: Stop) -> tuple[int, str]:
    """Run the tests at a date; return pytest's exit code and its last line."""
    print(f"\n{name}: {begin:%a %d %b %Y %H:%M:%S} UTC, {what}", flush=True)
    clock = variables(begin)
    # -I: no PYTHON... variable of the user's, and no other checkout's modules from PYTHONPATH.
    command = [sys.executable, "-I", "-X", "utf8", "-m", "pytest", "-q", "--durations=0", "--durations-min=20"]
    command += ["-m", "not long and not pgbouncer", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    command += options
    if not any((HOUSE / option.split("::")[0]).exists() for option in options):
        command += [*map(str, selected()), *(f"--deselect={name}" for name in DESELECTED)]
    last = ""
    with subprocess.Popen(
        command,
        cwd=HOUSE,
        env={**os.environ, **clock},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        process_group=0,  # Ctrl-C at the terminal comes to this command alone, which hands it on
    ) as process:
        stop.hand_on_to(process)
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last


def main() -> None:
    """Run the tests at the dates, say how each went, and end with 1 unless all of them passed."""
    parser = argparse.ArgumentParser(prog="make test-dates", description=__doc__.split("\n\n")[0].strip())
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--date", choices=DATES, action="append", help="only this one; may be repeated")
    which.add_argument("--at", type=str, help="any other moment, such as 2028-02-29T13:59:30+00:00")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="what goes to pytest")
    given = parser.parse_args()
    try:
        _refuse_another_clock()
        if given.at is not None:
            planned = {given.at: (moment(given.at), "a moment of your choice")}
        else:
            planned = {name: (DATES[name].turn - LEAD, DATES[name].what) for name in given.date or DATES}
    except Unable as error:
        raise SystemExit(str(error)) from None
    stop, ended = Stop(), {}
    for name, (begin, what) in planned.items():
        began = time.monotonic()
        try:
            code, last = run(name, begin, what, given.options, stop)
        except Unable as error:
            if not ended:
                raise SystemExit(str(error)) from None
            code, last = 1, str(error)
        if stop.number:
            break
        ended[name] = (code, f"{time.monotonic() - began:.0f} s: {last}")
    print()
    for name in planned:
        print(f"{name:10} {_outcome(*ended[name]) if name in ended else 'not run to its end'}")
    if stop.number:
        print(f"Stopped by {signal.Signals(stop.number).name}.")
        raise SystemExit(128 + stop.number)
    raise SystemExit(1 if any(code for code, _ in ended.values()) else 0)


def _outcome(code: int, told: str) -> str:
    return f"{'passed' if code == 0 else f'FAILED ({code})'} in {told}"


def _refuse_another_clock() -> None:
    """Refuse what would leave a part of the tests at another date."""
    if os.environ.get("TEST_DATABASE_URL"):
        raise Unable(
            "TEST_DATABASE_URL is set, and the clock of its server cannot be moved. "
            "Unset it: the tests then start a Postgres of their own at each date."
        )
    if moved := sorted(name for name in os.environ if name.startswith("FAKETIME")):
        raise Unable(f"{' and '.join(moved)} must not be set: this command moves the clock itself. Unset it.")


if __name__ == "__main__":
    main()
