"""
The tests that know of dates, at five of them: `make test-dates`.

Every process that a test starts, its Postgres included, lives at the date (`dev/dates/moved_clock.py`). Each date
begins half a minute before its turn, so that it passes while the tests run. `ARGS="--date NAME"` runs one of them, and
`--at MOMENT` any other; what follows `--` goes to pytest.
"""

import argparse
import os
import re
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
    \b( RealClock | datetime\.now | date\.today | time\.time | SimulatedClock | EmbeddedPostgres
      | ALPHA_MONDAY | CliRunner | commanded | standins | create_app | rehears\w+
      | (served|serving|started|working|played|settle|pick|mondays|live_through|kill_one|run)\(
    )
    | \bnow\(\)
    """,
    re.VERBOSE,
)
FOLDERS = ("unit", "integration", "scenarios")
# Long by themselves, and at every date the same: they measure load and outages, or rehearse fixed weeks.
LEFT_OUT = {
    "test_hostile_rehearsal.py": "rehearses fixed weeks",
    "test_odd_providers.py": "rehearses fixed weeks",
    "test_rehearsal.py": "rehearses fixed weeks",
    "test_fuzzed_providers.py": "sets its clock by hand",
    "test_outages.py": "measures outages",
    "test_pressure.py": "measures load",
}


def selected() -> list[Path]:
    """Return the files of tests that know of dates."""
    files = sorted(path for folder in FOLDERS for path in (HOUSE / "tests" / folder).glob("test_*.py"))
    return [path for path in files if path.name not in LEFT_OUT and KNOWS_OF_DATES.search(path.read_text())]


def run(name: str, begin: datetime, what: str, options: Sequence[str]) -> tuple[int, str]:
    """Run the tests at a date; return pytest's exit code and its last line."""
    print(f"\n{name}: {begin:%a %d %b %Y %H:%M:%S} UTC, {what}", flush=True)
    clock = variables(begin)
    # -I: no PYTHON... variable of the user's, and no other checkout's modules from PYTHONPATH.
    command = [sys.executable, "-I", "-X", "utf8", "-m", "pytest", "-q", "--durations=0", "--durations-min=20"]
    command += ["-m", "not long and not pgbouncer", "-n", "2", "--dist", "loadfile", *options]
    if not any((HOUSE / option.split("::")[0]).exists() for option in options):
        command += map(str, selected())
    last = ""
    with subprocess.Popen(
        command, cwd=HOUSE, env={**os.environ, **clock}, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
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
        if given.at:
            planned = {given.at: (moment(given.at), "a moment of your choice")}
        else:
            planned = {name: (DATES[name].turn - LEAD, DATES[name].what) for name in given.date or DATES}
        ended = {}
        for name, (begin, what) in planned.items():
            began = time.monotonic()
            code, last = run(name, begin, what, given.options)
            ended[name] = (code, f"{time.monotonic() - began:.0f} s: {last}")
    except Unable as error:
        raise SystemExit(str(error)) from None
    print()
    for name, (code, told) in ended.items():
        print(f"{name:10} {'passed' if code == 0 else f'FAILED ({code})'} in {told}")
    raise SystemExit(1 if any(code for code, _ in ended.values()) else 0)


if __name__ == "__main__":
    main()
