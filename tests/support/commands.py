"""The commands as an operator starts them: real processes, with a clean environment."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from isolation import NO_HOME, moved_clock

from app.commands.cli import main

BIN = Path(sys.executable).parent
ALPHA_MONDAY = BIN / "alpha-monday"


def environment(**settings: str) -> dict[str, str]:
    """
    Return an environment with nothing but the path, no home, these settings, and the date of `make test-dates`.

    A server takes a free port, unless a test chooses where it listens by PORT or HOST.
    """
    port = {} if "HOST" in settings else {"PORT": "0"}
    return {"PATH": f"{BIN}{os.pathsep}/usr/bin:/bin", "HOME": NO_HOME, **moved_clock(), **port, **settings}


class Said(NamedTuple):
    """What a command left: its exit code, its output, and what it said beside that."""

    code: int
    out: str
    err: str


def command(capsys: pytest.CaptureFixture[str], *arguments: object, **settings: str) -> Said:
    """Run a command to its end in this process, which is quicker; nothing of the environment but these settings."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["alpha-monday", *map(str, arguments)])
        for name, value in settings.items():
            patched.setenv(name, value)
        capsys.readouterr()
        # In a thread, for a test may have a loop of its own.
        with ThreadPoolExecutor(1) as thread, pytest.raises(SystemExit) as ended:
            thread.submit(main).result()
    out, err = capsys.readouterr()
    if isinstance(ended.value.code, str):  # what Python itself would print
        return Said(1, out, f"{err}{ended.value.code}\n")
    return Said(ended.value.code or 0, out, err)


def without_place(text: str) -> str:
    """Return what a command said beside the line that names its database."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("Database: "))


def run(*arguments: object, cwd: Path, timeout: float = 120, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [ALPHA_MONDAY, *map(str, arguments)],
        cwd=cwd,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def served(*arguments: object, cwd: Path, **settings: str) -> Iterator[str]:
    """Start a serving command on a free port, give its address, and stop it with SIGTERM."""
    process = subprocess.Popen(
        [ALPHA_MONDAY, *map(str, arguments)],
        cwd=cwd,
        env=environment(**settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if address := re.search(r"http://\S+?(?=/graphql)", line):
                break
        else:
            raise AssertionError("".join(said))
        yield address[0]
    finally:
        process.send_signal(signal.SIGTERM)
        said.append(process.communicate(timeout=60)[1])
    assert process.returncode in (0, -signal.SIGTERM), "".join(said)


@contextmanager
def standins(cwd: Path, now: str) -> Iterator[str]:
    """Start the providers' stand-ins at a time of their own; give their address."""
    with subprocess.Popen(
        [sys.executable, "-m", "app.simulation.provider_simulators", "--now", now, "--no-limits", "--until-input-ends"],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()
