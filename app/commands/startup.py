"""
The first module that a command imports: it prepares the process for the other imports.

This module itself imports no other module of the project. The other imports take about a second. In
that time Ctrl-C must end the process without a traceback, and an environment variable that was set
for another program must not end the process.
"""

import gc
import os
import signal
from types import FrameType

# Variables of libraries that we use: psycopg's choice of its implementation, a folder for the
# metrics of several processes (in two spellings), and uvicorn's number of processes. A wrong value
# of any of them ends the import or the start with a traceback. The service needs none of them,
# because it always runs in one process with psycopg's own libpq.
_LIBRARY_VARIABLES = (
    "PSYCOPG_IMPL",
    "PROMETHEUS_MULTIPROC_DIR",
    "prometheus_multiproc_dir",
    "WEB_CONCURRENCY",
)

# A shell's exit code for a process that Ctrl-C has ended.
_EXIT_CODE_INTERRUPTED = 130


def before_imports() -> None:
    """Remove the libraries' variables, and let Ctrl-C end the process at once."""
    # The imports create objects that stay. To search these objects for garbage would take a tenth
    # of the time of the start.
    gc.disable()
    for name in _LIBRARY_VARIABLES:
        os.environ.pop(name, None)
    # Only Python's own handler is replaced. A shell lets a job in the background ignore SIGINT, and
    # the job must continue to ignore it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def after_imports() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, so that the command can clean up."""
    gc.enable()
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    # Nothing has been started yet that would need an orderly end.
    os._exit(_EXIT_CODE_INTERRUPTED)
