"""Ctrl-C and SIGTERM for a command that must first end what it started."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopSignals:
    """
    Remembers the first stop signal (Ctrl-C or SIGTERM), and cancels the work that runs.

    The signal is remembered because a cancellation can get lost: `asyncio.wait_for` of Python 3.11 drops one that
    arrives together with the result that it waits for. Long work therefore also calls `check` now and then.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._cancel: Callable[[], object] | None = None  # set while the work runs

    def check(self) -> None:
        """Raise `CancelledError` if a stop signal has arrived."""
        if self.first is not None:
            raise asyncio.CancelledError

    @contextmanager
    def handled(self) -> Iterator[None]:
        """
        Handle the stop signals in this block, and put the earlier handlers back after it.

        The loop's own handlers are no help: they are called too late, or still catch signals when the loop is closed.
        An exception raised in a signal handler could hit any task of the loop.
        """
        earlier = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    async def cancelling(self, work: Callable[["StopSignals"], Coroutine[Any, Any, None]]) -> None:
        """Do `work`, which a stop signal cancels, also one that arrived before the loop ran."""
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            self.check()
            await work(self)
        finally:
            self._cancel = None  # the loop is about to close

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.first is None:
            self.first = number
        if self._cancel is not None:
            self._cancel()


def run_until_stopped(
    run: Callable[[Coroutine[Any, Any, None]], None],
    work: Callable[[StopSignals], Coroutine[Any, Any, None]],
) -> None:
    """
    Let `run` run `work`, and cancel it when a stop signal arrives, so that what it started also ends.

    Then raises what `main` turns into the exit code: `KeyboardInterrupt` after Ctrl-C, `CancelledError` after SIGTERM.
    """
    signals = StopSignals()
    try:
        with signals.handled():
            run(signals.cancelling(work))
    except asyncio.CancelledError:
        if signals.first is None:
            raise
    if signals.first == signal.SIGINT:
        raise KeyboardInterrupt
    signals.check()
