"""
Another date for processes: libfaketime moves their clock by an offset, and time goes on at its real pace.

    python dev/dates/moved_clock.py 2026-12-02              prints the variables that move it, as JSON
    python dev/dates/moved_clock.py 2026-12-02 COMMAND...   runs a command at that date

A date alone is its noon in UTC. CLOCK_MONOTONIC stays real, so that every wait and every time-out lasts what it says.
What is started inherits the variables; `dev/isolation.py` and the embedded Postgres keep them.
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
from pathlib import Path

WAITS = Path(__file__).parent / "waits.c"
# With threads first: only that one locks what its threads share.
NAMES = ("libfaketimeMT.so.1", "libfaketime.so.1")
FOLDERS = ("/usr/lib/*/faketime", "/usr/lib64/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime")

# Before them there was nothing for this project to do, and after 2261 Python cannot read a clock.
YEARS = range(2000, 2200)

_SLOW = 30.0
# What must hold at the other date: the time and the waits of Python, and a wait that a signal's handler looks at.
_PROBE = """
import signal, sys, threading, time
from datetime import UTC, datetime
moved, began = time.time(), time.monotonic()
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
print(moved, time.monotonic() - began, abs(time.monotonic() - up) < 3600 or time.monotonic() < 1e9, seen[0])
"""


class Unable(Exception):
    """Dates cannot be moved on this machine; the text says what to do."""


def moment(text: str) -> datetime:
    """Return the moment that a text names: `2026-12-02`, or `2026-12-02T14:00+00:00`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Unable(f"{text!r} is no date such as 2026-12-02, or 2026-12-02T14:00+00:00.") from None
    if at.time() == time() and at.tzinfo is None and len(text) <= len("2026-12-02"):
        at = at.replace(hour=12)
    if at.year not in YEARS:
        raise Unable(f"{text} is too far away: choose a moment from {YEARS[0]} to {YEARS[-1]}.")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def variables(at: datetime) -> dict[str, str]:
    """Return the variables under which a process believes that it is `at` now; refuse where that does not work."""
    offset = (at - datetime.now(UTC)) // timedelta(seconds=1)
    moved = {
        "LD_PRELOAD": f"{_waits()}:{_library()}",
        "FAKETIME": f"{offset:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "NO_FAKE_STAT": "1",
    }
    _refuse_unless_moved(moved, at)
    return moved


def _library() -> Path:
    for name in NAMES:
        for folder in FOLDERS:
            for path in sorted(Path("/").glob(f"{folder[1:]}/{name}")):
                return path
    raise Unable("libfaketime is missing. On Debian: apt-get install faketime")


def _waits() -> Path:
    """Return the compiled `waits.c`, which is compiled once for all checkouts of this user."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unable("A C compiler is missing. On Debian: apt-get install gcc libc6-dev")
    digest = hashlib.sha256(WAITS.read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"am-dates-{os.geteuid()}"
    if set(str(folder)) & set(" :"):  # they separate the libraries in LD_PRELOAD
        folder = Path("/tmp") / folder.name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise Unable(f"{folder} is not this user's alone: remove it.")
    library = folder / f"waits-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            made = Path(unfinished) / library.name
            command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(WAITS)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unable(f"{WAITS} cannot be compiled with {compiler}:\n{done.stderr.strip()}")
            made.rename(library)
    return library


def _refuse_unless_moved(moved: Mapping[str, str], at: datetime) -> None:
    """Try a process of Python out: a library that is not loaded says nothing, and a wait may be wrong."""
    command = [sys.executable, "-I", "-c", _PROBE]
    env = {"PATH": os.environ.get("PATH", ""), **moved}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_SLOW, check=True)
        now, took, is_real, seen = done.stdout.split()
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise Unable(f"libfaketime does not work here: {str(said).strip().splitlines()[-1]}") from None
    is_there = all(abs(float(each) - at.timestamp()) < _SLOW for each in (now, seen))
    if not is_there or not 0.15 <= float(took) < _SLOW or is_real != "True":
        raise Unable(f"libfaketime does not work here: {done.stdout.strip()} for {at.timestamp()}.")


def main() -> None:
    """Print the variables, or run a command under them."""
    if len(sys.argv) < 2:
        raise SystemExit(f"usage: {sys.argv[0]} DATE [COMMAND...]")
    try:
        moved = variables(moment(sys.argv[1]))
    except Unable as error:
        raise SystemExit(str(error)) from None
    command = sys.argv[2:]
    if not command:
        print(json.dumps(moved))
        return
    os.execvpe(command[0], command, {**os.environ, **moved})


if __name__ == "__main__":
    main()
