"""Ctrl-C and SIGTERM for a command that must stop what it has started before it exits."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from app.core.tasks import cancel_and_wait


class StopSignals:
    """
    Remembers the first stop signal (Ctrl-C or SIGTERM), and cancels the running work.

    The signal is remembered because a cancellation can get lost: in Python 3.11, `asyncio.wait_for`
    ignores a cancellation that arrives together with the result that it waits for. So long work
    also calls `check` from time to time.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        # None before the work begins and after it has ended.
        self._cancel: Callable[[], object] | None = None

    def check(self) -> None:
        """Raise `CancelledError` if a stop signal has arrived."""
        if self.first is not None:
            raise asyncio.CancelledError

    @contextmanager
    def handled(self) -> Iterator[None]:
        """
        Handle the stop signals in this block, and restore the earlier handlers after it.

        The event loop's own handlers do not help: they are called too late, or still catch signals
        when the loop is closed. The handler here raises no exception, because the exception could
        hit any task of the loop.
        """
        earlier = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    async def cancelling(self, work: Callable[["StopSignals"], Coroutine[Any, Any, None]]) -> None:
        """Run `work`. A stop signal cancels it, even one that arrived before the loop started."""
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            self.check()
            await work(self)
        finally:
            # The loop is about to close, and must not be called any more.
            self._cancel = None
            # The loop itself would cancel the tasks that are left only once, and then wait for
            # them. A task that ignores this cancellation would prevent the end of the process.
            await cancel_and_wait(*asyncio.all_tasks() - {task})

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
    Run `work` with `run`, such as `asyncio.run`, and cancel `work` when a stop signal arrives.

    The cancellation lets the work stop what it has started. Then this function raises
    `KeyboardInterrupt` for Ctrl-C, or `CancelledError` for SIGTERM. `main` turns the error into the
    exit code.
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
