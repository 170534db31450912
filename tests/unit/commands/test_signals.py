"""Ctrl-C and SIGTERM for a command whose tasks ignore a cancellation."""

import asyncio
import os
import signal

import pytest
import uvloop

from app.commands.signals import StopSignals, run_until_stopped
from app.core import tasks


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("ignored", [0, 1, 3])
@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, asyncio.CancelledError)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_task_that_ignores_cancellations_is_ended(monkeypatch, run, ignored, number, error):
    """The loop would cancel it only once, and then wait for it for ever."""
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_AFTER", 0.05)
    started: list[asyncio.Task[None]] = []
    ended = []

    async def continue_after_cancellations() -> None:
        for _ in range(ignored):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("ignored")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async def work(_: StopSignals) -> None:
        started.append(asyncio.create_task(continue_after_cancellations()))
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    with pytest.raises(error):
        run_until_stopped(run, work)
    assert ended == ["ignored"] * ignored + ["ended"]
