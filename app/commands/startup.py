"""
The first moment of a command, before its modules are imported: imported first, and it imports nothing of ours.

The imports take a second. Ctrl-C ends them without a traceback, and no variable that was meant for another program
ends them with one.
"""

import os
import signal
from types import FrameType

# Variables of the libraries that we use, each of which ends the import or the start with a traceback where its value
# does not fit: psycopg's choice of its own implementation, a folder for the metrics of several processes, and the
# number of processes of uvicorn. None of them decides anything of ours: one process, psycopg's own libpq.
_OF_OTHERS = ("PSYCOPG_IMPL", "PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir", "WEB_CONCURRENCY")

_INTERRUPTED = 130


def begin() -> None:
    """Let Ctrl-C end the process at once, and forget the variables."""
    for name in _OF_OTHERS:
        os.environ.pop(name, None)
    # Only in place of Python's own handler: a job in a shell's background ignores the signal.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def done() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: the command cleans up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)  # nothing is there yet that would have to be ended
