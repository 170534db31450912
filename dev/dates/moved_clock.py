"""
Another date for processes: libfaketime moves their clock by an offset; time runs at real pace.

    python dev/dates/moved_clock.py 2026-12-02
        prints the variables that move the clock, as JSON

    python dev/dates/moved_clock.py 2026-12-02 COMMAND...
        runs a command at that date

A date alone means its noon in UTC. CLOCK_MONOTONIC stays real, so that every wait and every timeout
has its real length. Child processes inherit the variables; `dev/isolation.py` and the embedded
Postgres keep them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from itertools import product
from pathlib import Path

# A library that corrects waits under libfaketime; its file explains how.
WAITS = Path(__file__).parent / "waits.c"
# The multi-threaded variant first: only that one locks the data that its threads share.
NAMES = ("libfaketimeMT.so.1", "libfaketime.so.1")
FOLDERS = (
    "/usr/lib/*/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
)

# Earlier years have no meaning for this project, and after 2261 Python cannot read a clock.
YEARS = range(2000, 2200)

# In seconds: how far the clock of the probe may be off, and how long the probe may take.
_TOLERANCE = 30.0
# A program that prints what must be right at the other date: the time and the waits of Python, and
# the time that a signal handler reads during a wait.
_PROBE = """
import signal, sys, threading, time
from datetime import UTC, datetime
start, began = time.time(), time.monotonic()
time.sleep(0.05)
threading.Lock().acquire()
lock = threading.Lock()
lock.acquire()
lock.acquire(timeout=0.05)
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(time.time()))
signal.setitimer(signal.ITIMER_REAL, 0.05)
time.sleep(0.1)
with open("/proc/uptime") as uptime:
    up = float(uptime.read().split()[0])
is_real = abs(time.monotonic() - up) < 3600 or time.monotonic() < 1e9
print(start, time.monotonic() - began, is_real, seen[0])
"""


class ClockError(Exception):
    """The clock cannot be moved on this machine, or not so far; the text says what to do."""


def parse_moment(text: str) -> datetime:
    """
    Return the moment that a text names: `2026-12-02`, or `2026-12-02T14:00+00:00`.

    Raises ClockError for any other text.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ClockError(
            f"{text!r} is no date such as 2026-12-02, or 2026-12-02T14:00+00:00."
        ) from None
    if at.time() == time() and at.tzinfo is None and len(text) <= len("2026-12-02"):
        at = at.replace(hour=12)
    if at.year not in YEARS:
        raise ClockError(f"{text} is too far away: choose a moment from {YEARS[0]} to {YEARS[-1]}.")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def clock_variables(at: datetime) -> dict[str, str]:
    """
    Return the variables that make a process read `at` as the current time.

    Raises ClockError if that does not work on this machine.
    """
    offset = (at - datetime.now(UTC)) // timedelta(seconds=1)
    variables = {
        "LD_PRELOAD": f"{_compile_waits()}:{_find_faketime()}",
        "FAKETIME": f"{offset:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "NO_FAKE_STAT": "1",
    }
    _probe(variables, at)
    return variables


def _find_faketime() -> Path:
    """Return the path of libfaketime."""
    for name, folder in product(NAMES, FOLDERS):
        for path in sorted(Path("/").glob(f"{folder[1:]}/{name}")):
            return path
    raise ClockError("libfaketime is missing. On Debian: apt-get install faketime")


def _compile_waits() -> Path:
    """
    Return the library that `waits.c` becomes.

    It is compiled once for all checkouts of this user.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise ClockError("A C compiler is missing. On Debian: apt-get install gcc libc6-dev")
    digest = hashlib.sha256(WAITS.read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"am-dates-{os.geteuid()}"
    # These characters separate the libraries in LD_PRELOAD.
    if set(str(folder)) & set(" :"):
        folder = Path("/tmp") / folder.name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise ClockError(f"{folder} is not this user's alone: remove it.")
    library = folder / f"waits-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            made = Path(unfinished) / library.name
            command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(WAITS)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ClockError(
                    f"{WAITS} cannot be compiled with {compiler}:\n{done.stderr.strip()}"
                )
            made.rename(library)
    return library


def _probe(variables: Mapping[str, str], at: datetime) -> None:
    """
    Raise ClockError unless a Python process with these variables reads `at` and waits correctly.

    The loader reports no error for a library that it cannot load, and some versions of libfaketime
    break waits.
    """
    command = [sys.executable, "-I", "-c", _PROBE]
    env = {"PATH": os.environ.get("PATH", ""), **variables}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=_TOLERANCE, check=True
        )
        now, took, is_real, seen = done.stdout.split()
    except (subprocess.SubprocessError, ValueError) as error:
        output = str(getattr(error, "stderr", None) or error)
        last_line = output.strip().splitlines()[-1]
        raise ClockError(f"libfaketime does not work here: {last_line}") from None
    is_right = all(abs(float(each) - at.timestamp()) < _TOLERANCE for each in (now, seen))
    if not is_right or not 0.15 <= float(took) < _TOLERANCE or is_real != "True":
        raise ClockError(
            f"libfaketime does not work here: {done.stdout.strip()} for {at.timestamp()}."
        )


def main() -> None:
    """Print the variables, or run a command under them."""
    if len(sys.argv) < 2:
        raise SystemExit(f"usage: {sys.argv[0]} DATE [COMMAND...]")
    try:
        variables = clock_variables(parse_moment(sys.argv[1]))
    except ClockError as error:
        raise SystemExit(str(error)) from None
    command = sys.argv[2:]
    if not command:
        print(json.dumps(variables))
        return
    os.execvpe(command[0], command, {**os.environ, **variables})


if __name__ == "__main__":
    main()
