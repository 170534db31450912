#!/usr/bin/env python3
"""
Set up the virtual environment that every target of the Makefile uses, and show the progress.

The script needs only Python 3.11 or newer with its venv module, because it runs before any package
is installed. An older Python must still be able to parse this file, so that it can report that it
is too old. So the file has no syntax and no annotations that Python 3.7 does not support.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
OLDEST_PYTHON = (3, 11)
STEPS = 4
SECONDS_BETWEEN_UPDATES = 0.1
EXAMPLE = "Example: python3 dev/setup_venv.py --venv .venv"
INDEX_UNREACHABLE = re.compile(
    "NewConnectionError|ConnectTimeout|ReadTimeout|ConnectionReset|NameResolutionError|ProxyError|"
    "SSLError|No matching distribution found"
)


class SetupError(Exception):
    """A step failed. The text names the step, and says what to do."""


class Progress:
    """
    Writes one line for each step.

    On a terminal the line is updated in place. Elsewhere each update is a new line, and there are
    only a few.
    """

    def __init__(self, stream):
        """Write the lines to `stream`."""
        self.stream = stream
        self.terminal = stream.isatty()
        self.lock = threading.Lock()
        self.number = 0
        self.title = ""
        self.line = ""
        self.shown_count = 0

    def begin(self, title):
        """Begin the next step."""
        with self.lock:
            self.number += 1
            self.title = title
            self.line = ""
            self.shown_count = 0
            self._write("")

    def count(self, done, total):
        """
        Show that `done` of `total` packages are done.

        Where the output is not a terminal, only each quarter of the total is shown.
        """
        text = f": {done} of {total} packages"
        quarter = max(1, total // 4)
        with self.lock:
            if self.terminal or done // quarter > self.shown_count // quarter:
                self.shown_count = done
                self._write(text)

    def note(self, text):
        """Print a message of pip in full, above the line that is updated."""
        with self.lock:
            if self.terminal:
                self.stream.write("\r\x1b[K")
            self.stream.write(f"{text}\n")
            if self.terminal:
                self.stream.write(self.line)
            self.stream.flush()

    def end(self, text):
        """End the step, and show its outcome."""
        with self.lock:
            self._write(f": {text}")
            if self.terminal:
                self.stream.write("\n")
                self.stream.flush()

    def _write(self, text):
        line = f"[{self.number}/{STEPS}] {self.title}{text}"
        if line == self.line:
            return
        self.line = line
        if self.terminal:
            # A line wider than the terminal would wrap, and could not be updated in place.
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{line[:width]}")
        else:
            self.stream.write(f"{line}\n")
        self.stream.flush()


class Pip:
    """
    One run of `pip install`.

    Its output is read to count the collected packages. Its messages are shown only if it fails.
    """

    def __init__(self, python, arguments, progress):
        """Start pip with the virtual environment's `python`."""
        command = [
            python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
            "--progress-bar=off",
        ]
        # Quiet or verbose output could not be counted; unbuffered output is counted when it
        # happens.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PIP_QUIET", "PIP_VERBOSE")
        }
        environment["PYTHONUNBUFFERED"] = "1"
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=str(ROOT),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.progress = progress
        self.collected = 0
        self.ignored = 0  # packages that only another platform or Python needs
        self.installing = False
        self.messages = []
        self.readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_messages, daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _read_output(self):
        for line in self.process.stdout:
            # "Processing" is what pip says of a package that its settings let it take from a local
            # folder.
            if line.startswith(("Collecting ", "Processing ")):
                self.collected += 1
            elif line.startswith("Ignoring "):
                self.ignored += 1
            elif line.startswith("Installing collected packages"):
                self.installing = True

    def _read_messages(self):
        for line in self.process.stderr:
            # A repeated attempt explains why nothing moves. Other warnings matter only if pip
            # fails.
            if line.startswith("WARNING: Retrying"):
                self.progress.note(line.rstrip("\n"))
            else:
                self.messages.append(line)

    def is_running(self):
        """Wait a moment, then return whether pip still runs."""
        time.sleep(SECONDS_BETWEEN_UPDATES)
        return self.process.poll() is None

    def finish(self, step):
        """Wait until pip ends. Raise SetupError if its exit code is not 0."""
        code = self.process.wait()
        for reader in self.readers:
            reader.join()
        if code == 0:
            return
        messages = "".join(self.messages)
        self.progress.note(messages.rstrip("\n"))
        failure = f"{step} failed: pip ended with exit code {code}; its messages are above."
        if INDEX_UNREACHABLE.search(messages):
            failure += (
                "\nThe package index could not be reached, or it lacks the package. Check the "
                "network, and the index "
                "that pip is set to use: python3 -m pip config list"
            )
        raise SetupError(failure)


def require_suitable_python(goals):
    """Raise SetupError if Python is too old, or has no venv module."""
    if sys.version_info < OLDEST_PYTHON:
        present = ".".join(str(part) for part in sys.version_info[:3])
        wanted = f"make PYTHON=python3.12 {goals}".strip()
        raise SetupError(
            f"Python 3.11 or newer is needed, this is Python {present}. Choose another with: "
            f"{wanted}"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "Python's venv module is missing. On Debian: apt-get install python3-venv"
        ) from None


def wait_for_lock(lock, progress):
    """Lock a file until it is closed. Return whether another process had locked it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.stream.write("Another `make` is setting it up. Waiting for it to finish.\n")
        progress.stream.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        return True
    return False


def create_environment(folder, progress):
    """
    Create an empty virtual environment in `folder`. Return the path of its Python.

    An environment that is already there is replaced.
    """
    version = ".".join(str(part) for part in sys.version_info[:3])
    progress.begin(f"Create {folder} with Python {version}")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        progress.note(done.stdout.rstrip())
        raise SetupError(
            f"Creating {folder} failed: python -m venv ended with exit code {done.returncode}."
        )
    progress.end("done")
    return str(folder.resolve() / "bin" / "python")


def install_packages(python, folder, progress):
    """Download every package of the lock file, check its hash, and install it."""
    pinned = len(re.findall(r"^[A-Za-z0-9][^\s=]*==", LOCK.read_text(), re.MULTILINE))
    before = count_installed(folder)
    progress.begin("Download what requirements-dev.lock pins, and check each hash")
    pip = Pip(python, ["--require-hashes", "-r", str(LOCK)], progress)
    while pip.is_running() and not pip.installing:
        progress.count(pip.collected, pinned - pip.ignored)
    if not pip.installing:
        # pip has failed, or it was so fast that its last lines are still unread.
        pip.finish("Downloading the packages")
    total = pip.collected
    progress.end(f"{total} of {total} packages")
    progress.begin("Install them")
    while pip.is_running():
        progress.count(min(count_installed(folder) - before, total), total)
    pip.finish("Installing the packages")
    progress.end(f"{total} of {total} packages")


def count_installed(folder):
    """Return how many packages are installed. pip prints nothing while it installs them."""
    return len(list(folder.glob("lib/python*/site-packages/*.dist-info")))


def install_project(python, progress):
    """Install this checkout as editable: a change of the code needs no new installation."""
    progress.begin("Install Alpha Monday itself, from this folder")
    pip = Pip(
        python, ["--no-deps", "--no-build-isolation", "--no-index", "-e", str(ROOT)], progress
    )
    while pip.is_running():
        pass
    pip.finish("Installing Alpha Monday itself")
    progress.end("done")


def main():
    """Set up the environment, or name the step that failed. Return the exit code."""
    parser = argparse.ArgumentParser(
        description="Set up the virtual environment that the targets of the Makefile use.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "--venv", default=".venv", metavar="FOLDER", help="where to create it [default: .venv]"
    )
    parser.add_argument("--goals", default="", help="the targets of make that a message repeats")
    options = parser.parse_args()
    folder = Path(options.venv)
    progress = Progress(sys.stderr)
    try:
        require_suitable_python(options.goals)
        # `make run` and `make test` may start at the same time in a new checkout. The lock lasts
        # until this process ends.
        lock = LOCK.open()
        if wait_for_lock(lock, progress) and (folder / ".ready").exists():
            return 0
        progress.stream.write(
            f"Setting up {folder}. This takes about a minute. It is done once, and again when "
            f"{LOCK.name} or pyproject.toml changes.\n"
        )
        python = create_environment(folder, progress)
        install_packages(python, folder, progress)
        install_project(python, progress)
    except SetupError as failure:
        if progress.terminal and progress.line:
            progress.stream.write("\n")
        progress.stream.write(f"{failure}\n")
        return 1
    except KeyboardInterrupt:
        progress.stream.write("\nStopped. The next `make` starts again.\n")
        return 130
    (folder / ".ready").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
