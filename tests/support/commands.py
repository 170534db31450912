"""Runs the commands as an operator does: as processes, with a clean environment."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import forked_commands
import pytest
from forked_commands import Process
from isolation import NO_HOME, moved_clock

from app.commands.cli import main

BIN = Path(sys.executable).parent
ALPHA_MONDAY = BIN / "alpha-monday"


def environment(**settings: str) -> dict[str, str]:
    """
    Return an environment with only the path, these settings, and the date of `make test-dates`.

    A server uses a free port, unless a test sets PORT or HOST.
    """
    return {
        "PATH": f"{BIN}{os.pathsep}/usr/bin:/bin",
        "HOME": NO_HOME,
        **moved_clock(),
        **_with_free_port(settings),
    }


def _with_free_port(settings: dict[str, str]) -> dict[str, str]:
    return settings if "HOST" in settings else {"PORT": "0", **settings}


class CommandResult(NamedTuple):
    """The result of a command: its exit code, its standard output, and its standard error."""

    exit_code: int
    output: str
    error: str


def command(
    capsys: pytest.CaptureFixture[str], *arguments: object, **settings: str
) -> CommandResult:
    """
    Run a command in this process, which is faster than a process of its own.

    The command sees no environment variables except `settings`. A server uses a free port, unless a
    test sets PORT or HOST.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["alpha-monday", *map(str, arguments)])
        for name, value in _with_free_port(settings).items():
            patched.setenv(name, value)
        capsys.readouterr()
        # In a thread, because the test may run in an event loop, and the command starts its own.
        with ThreadPoolExecutor(1) as thread, pytest.raises(SystemExit) as ended:
            thread.submit(main).result()
    out, err = capsys.readouterr()
    if isinstance(ended.value.code, str):  # what Python itself would print
        return CommandResult(1, out, f"{err}{ended.value.code}\n")
    return CommandResult(ended.value.code or 0, out, err)


def without_place(text: str) -> str:
    """Return the standard error of a command without the line that names its database."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith("Database: ")
    )


def start(
    *arguments: object, cwd: Path, stdout: int | IO[bytes], stderr: int | IO[bytes], **settings: str
) -> Process:
    """Start a command as a process, with only these settings and with its output in open files."""
    return forked_commands.start(
        ALPHA_MONDAY,
        *map(str, arguments),
        cwd=cwd,
        env=environment(**settings),
        stdout=stdout,
        stderr=stderr,
    )


def run(
    *arguments: object, cwd: Path, timeout: float = 300, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a process, until it ends."""
    with TemporaryFile() as output, TemporaryFile() as error:
        process = start(*arguments, cwd=cwd, stdout=output, stderr=error, **settings)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        for file in (output, error):
            file.seek(0)
        return subprocess.CompletedProcess(
            process.args, code, output.read().decode(), error.read().decode()
        )


@contextmanager
def served(*arguments: object, cwd: Path, **settings: str) -> Iterator[str]:
    """Start a serving command on a free port, yield its address, and stop it with SIGTERM."""
    reading, writing = os.pipe()
    with open(os.devnull, "wb") as nowhere, open(reading) as error:
        try:
            process = start(*arguments, cwd=cwd, stdout=nowhere, stderr=writing, **settings)
        finally:
            os.close(writing)
        lines = []
        try:
            for line in error:
                lines.append(line)
                if address := re.search(r"http://\S+?(?=/graphql)", line):
                    break
            else:
                raise AssertionError("".join(lines))
            yield address[0]
        finally:
            process.send_signal(signal.SIGTERM)
            lines.append(error.read())
            code = process.wait(60)
        assert code in (0, -signal.SIGTERM), "".join(lines)


@contextmanager
def standins(cwd: Path, now: str) -> Iterator[str]:
    """Start the provider simulators at a given time, and yield their address."""
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "app.simulation.provider_simulators",
            "--now",
            now,
            "--no-limits",
            "--until-input-ends",
        ],
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
