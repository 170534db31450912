"""
Runs the tests that use the real time at five other dates: `make test-dates`.

Every process that a test starts, its Postgres included, has the date (`dev/dates/moved_clock.py`).
Each date begins half a minute before something changes, so that the change happens while the tests
run. `ARGS="--date NAME"` runs one date, and `--at MOMENT` any other moment; the arguments after
`--` are passed to pytest.
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

from dates.moved_clock import ClockError, clock_variables, parse_moment

PROJECT = Path(__file__).parents[2]
# The tests begin this long before the moment of a date.
LEAD_TIME = timedelta(seconds=30)


class TurningPoint(NamedTuple):
    """A moment at which something about dates changes, with a description."""

    moment: datetime
    description: str


# In UTC. New York is five hours behind it in winter, and four in summer.
DATES = {
    "holiday": TurningPoint(
        datetime(2026, 11, 26, 14, tzinfo=UTC), "Thanksgiving, a Thursday, at nine in New York"
    ),
    "spring": TurningPoint(
        datetime(2027, 3, 14, 7, tzinfo=UTC), "the Sunday on which summer time begins, at two"
    ),
    "autumn": TurningPoint(
        datetime(2027, 11, 7, 6, tzinfo=UTC), "the Sunday on which summer time ends, at two"
    ),
    "monday": TurningPoint(
        datetime(2027, 3, 15, 13, tzinfo=UTC), "the Monday after summer time began, at nine"
    ),
    "new-year": TurningPoint(
        datetime(2027, 1, 1, 5, tzinfo=UTC), "the turn of the year in New York"
    ),
}

# Matches the file of a test for which the date could matter: the test, or something that it uses,
# asks for the real time. So does every process that a test starts, and the service behind a page or
# an answer.
USES_REAL_TIME = re.compile(
    r"""
    \b( RealClock | datetime\.now | date\.today | time\.time | SimulatedClock | ALPHA_MONDAY
      | CliRunner | commanded )\b
  | (?<![\w.])
    ( standins | create_app | served | serving | started | working | settle | pick
      | mondays | live_through | kill_one | run | now | EmbeddedPostgres
    )\(
    """,
    re.VERBOSE,
)
FOLDERS = ("unit", "integration", "scenarios")
# These tests match, but would only take long: they do the same at every date. The value is the
# reason.
EXCLUDED = {
    "scenarios/test_hostile_rehearsal.py": "rehearses fixed weeks",
    "scenarios/test_odd_providers.py": "rehearses fixed weeks",
    "scenarios/test_rehearsal.py": "rehearses fixed weeks",
    "scenarios/test_outages.py": "measures outages",
    "scenarios/test_pressure.py": "measures load",
    # HTTP alone, hundreds of cases against one service.
    "integration/api/test_headers_cross_origin.py": "checks headers",
    "integration/web/test_routes_head.py": "checks headers",
    "integration/web/test_middleware.py": "checks headers",
    "integration/web/test_request_parsing.py": "checks handshakes",
    "integration/web/test_routes.py": "checks addresses",
    # Many processes or cases, and none of their results depends on the date.
    "integration/providers/test_alpha_vantage.py": "sets its own clock",
    "integration/api/test_compiler.py": "compares two ways to answer a query",
    "integration/database/test_migrations.py": "checks the schema",
    "integration/database/test_sessions.py": "checks the settings of a connection",
}
# Tests in selected files that start one process for each case, whose result does not depend on the
# date.
DESELECTED = tuple(
    f"tests/integration/commands/test_cli.py::{name}"
    for name in (
        "test_ctrl_c_while_modules_are_imported",
        "test_every_command_has_help_with_an_example",
        "test_every_example_can_be_copied",
        "test_misuse",
        "test_variables_of_libraries_do_no_harm",
    )
)

# These tests start real services at once, so that the services run while the date changes.
RUN_FIRST = ("scenarios/test_many_machines.py", "integration/web/test_health.py")


def select_tests() -> list[Path]:
    """Return the files of tests that use the real time, in the order in which they are run."""
    tests = PROJECT / "tests"
    files: list[Path] = []
    for folder in FOLDERS:
        files += (tests / folder).rglob("test_*.py")
    names = {path: str(path.relative_to(tests)) for path in files}
    candidates = [path for path in files if names[path] not in EXCLUDED]
    chosen = [path for path in candidates if USES_REAL_TIME.search(path.read_text())]
    return sorted(chosen, key=lambda path: (names[path] not in RUN_FIRST, path))


class StopForwarder:
    """
    Forwards the first signal that stops this command to the tests, which then clean up.

    `number` is the number of that signal, 0 before it.
    """

    def __init__(self) -> None:
        self.number = 0
        self._tests: subprocess.Popen[str] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def forward_to(self, tests: subprocess.Popen[str]) -> None:
        """Forward the signal to these tests, at once if it has come already."""
        self._tests = tests
        if self.number:
            self._interrupt()

    def _handle(self, number: int, _: object) -> None:
        # A second signal would interrupt the clean-up of the tests.
        if not self.number:
            self.number = number
            self._interrupt()

    def _interrupt(self) -> None:
        if self._tests and self._tests.poll() is None:
            os.killpg(self._tests.pid, signal.SIGINT)


def run_tests(
    name: str, begin: datetime, description: str, *, options: Sequence[str], stop: StopForwarder
) -> tuple[int, str]:
    """Run the tests at a date; return pytest's exit code and its last line."""
    print(f"\n{name}: {begin:%a %d %b %Y %H:%M:%S} UTC, {description}", flush=True)
    clock = clock_variables(begin)
    # -I: no PYTHON... variable of the user's, and no other checkout's modules from PYTHONPATH.
    command = [
        sys.executable,
        "-I",
        "-X",
        "utf8",
        "-m",
        "pytest",
        "-q",
        "--durations=0",
        "--durations-min=20",
    ]
    command += [
        "-m",
        "not long and not pgbouncer",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
    ]
    command += options
    # An option that is a path chooses the tests.
    if not any((PROJECT / option.split("::")[0]).exists() for option in options):
        command += [str(path) for path in select_tests()]
        command += [f"--deselect={test}" for test in DESELECTED]
    last = ""
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **clock},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        # Ctrl-C at the terminal reaches this command only, which forwards it.
        process_group=0,
    ) as process:
        stop.forward_to(process)
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make test-dates", description=__doc__.split("\n\n")[0].strip()
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--date", choices=DATES, action="append", help="only this date; may be repeated"
    )
    which.add_argument("--at", type=str, help="any other moment, such as 2028-02-29T13:59:30+00:00")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="the arguments for pytest")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> dict[str, tuple[datetime, str]]:
    """Return the begin and the description of each chosen date, by its name."""
    if options.at is not None:
        return {options.at: (parse_moment(options.at), "a moment of your choice")}
    return {
        name: (DATES[name].moment - LEAD_TIME, DATES[name].description)
        for name in options.date or DATES
    }


def main() -> None:
    """Run the tests at the dates, print the results, and exit with 1 unless all of them passed."""
    options = _parse_options()
    try:
        _refuse_fixed_clocks()
        planned = _plan(options)
    except ClockError as error:
        raise SystemExit(str(error)) from None
    stop = StopForwarder()
    results: dict[str, tuple[int, str]] = {}
    for name, (begin, description) in planned.items():
        start = time.monotonic()
        try:
            code, last = run_tests(name, begin, description, options=options.options, stop=stop)
        except ClockError as error:
            # At the first date nothing has run yet, so the error is all that there is to print.
            if not results:
                raise SystemExit(str(error)) from None
            code, last = 1, str(error)
        if stop.number:
            break
        results[name] = (code, f"{time.monotonic() - start:.0f} s: {last}")
    print()
    for name in planned:
        result = _format_result(*results[name]) if name in results else "not run to its end"
        print(f"{name:10} {result}")
    if stop.number:
        print(f"Stopped by {signal.Signals(stop.number).name}.")
        raise SystemExit(128 + stop.number)
    raise SystemExit(1 if any(code for code, _ in results.values()) else 0)


def _format_result(code: int, details: str) -> str:
    verdict = "passed" if code == 0 else f"FAILED ({code})"
    return f"{verdict} in {details}"


def _refuse_fixed_clocks() -> None:
    """Raise ClockError for variables that would leave a part of the tests at another date."""
    if os.environ.get("TEST_DATABASE_URL"):
        raise ClockError(
            "TEST_DATABASE_URL is set, and the clock of its server cannot be moved. "
            "Unset it: the tests then start a Postgres of their own at each date."
        )
    if fixed := sorted(name for name in os.environ if name.startswith("FAKETIME")):
        raise ClockError(
            f"{' and '.join(fixed)} must not be set: this command moves the clock itself. Unset it."
        )


if __name__ == "__main__":
    main()
