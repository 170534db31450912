"""
Starts commands as processes that need not import the service first.

A command imports 1,500 modules, which takes most of a second of CPU time. The tests start more than
a hundred commands. So each worker of pytest starts one process, the fork server, which imports the
modules once. For each command it forks a child, and the child runs the command as its own process:
with its own id, folder, environment, output, signals and exit code.

This works on Linux only. Elsewhere, and for a command with a variable that Python or the dynamic
linker reads when a process starts, `start` starts a new program in the usual way.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# The option of Linux's prctl that makes this process the parent of its orphaned descendants.
_PR_SET_CHILD_SUBREAPER = 36
# A fork would come too late for variables with these prefixes.
_READ_AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")
# No message is longer: it has the arguments and the environment of one command.
_MAX_MESSAGE = 256 * 1024
# The seconds in which the fork server must have imported all modules.
_START_TIMEOUT = 120


class ForkedProcess:
    """A process of the fork server, with those methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, arguments: list[str]) -> None:
        self.pid = pid
        self.args = arguments
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, the negative number of a signal, or None if the process runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process. Raises `subprocess.TimeoutExpired`."""
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                ended, _, _ = select.select([descriptor], [], [], timeout)
            finally:
                os.close(descriptor)
            if not ended:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _ForkServer:
    """The fork server of this process, seen from the tests."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._socket.settimeout(_START_TIMEOUT)
        for size in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, size, 2 * _MAX_MESSAGE)
        assert self._socket.recv(16) == b"ready", "The fork server has ended."

    def fork(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        stdout: int,
        stderr: int,
    ) -> ForkedProcess:
        message = json.dumps([arguments, str(folder), environment]).encode()
        with _adopting():
            socket.send_fds(self._socket, [message], [stdout, stderr])
            pid = int(self._socket.recv(16))
        return ForkedProcess(pid, arguments)

    def stop(self) -> None:
        self._socket.close()
        assert self._process.wait(60) == 0


@contextmanager
def _adopting() -> Iterator[None]:
    """
    Become the parent of processes whose parent ends now.

    Only for a moment: a server that a command leaves behind on purpose belongs to the system.
    """
    prctl = ctypes.CDLL(None).prctl
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


Process = ForkedProcess | subprocess.Popen[bytes]

# The fork server of this process, if one has been started.
_servers: list[_ForkServer] = []


def start(
    command: Path,
    *arguments: str,
    cwd: Path,
    env: dict[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Process:
    """
    Start the program `command`, which is `alpha-monday`, with its output in open files.

    Its standard input is empty.
    """
    needs_new_program = any(name.startswith(_READ_AT_THE_START) for name in env)
    if sys.platform != "linux" or needs_new_program:
        return subprocess.Popen(
            [command, *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    if not _servers:
        base = {name: env[name] for name in ("PATH", "HOME")}
        _servers.append(_ForkServer(base))
    numbers = [one if isinstance(one, int) else one.fileno() for one in (stdout, stderr)]
    return _servers[0].fork([str(command), *arguments], cwd, env, *numbers)


def stop() -> None:
    """Stop the fork server of this process, if there is one."""
    while _servers:
        _servers.pop().stop()


def _serve(connection: socket.socket) -> None:
    """Fork a child for each message. Return in each child, which then is ready for its command."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MAX_MESSAGE, 2)
        if not message:
            # The tests have ended.
            os._exit(0)
        reading, writing = os.pipe()
        middle = os.fork()
        if middle == 0:
            # The process in the middle ends at once, so the tests' process becomes the parent of
            # its child, and can wait for the child.
            child = os.fork()
            if child:
                os.write(writing, str(child).encode())
                os._exit(0)
            os.close(reading)
            os.close(writing)
            connection.close()
            _become(json.loads(message), descriptors)
            return
        os.waitpid(middle, 0)
        connection.send(os.read(reading, 16))
        for descriptor in (reading, writing, *descriptors):
            os.close(descriptor)


def _become(request: list, descriptors: list[int]) -> None:
    """Take over the arguments, the folder, the environment and the output of a command."""
    arguments, folder, environment = request
    for descriptor, number in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = arguments


def _main() -> None:
    # What the command itself imports; the variables that its first module removes are not set here.
    from app.commands import cli

    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.send(b"ready")
    _serve(connection)
    cli.startup.before_imports()
    cli.startup.after_imports()
    cli.main()


if __name__ == "__main__":
    _main()
