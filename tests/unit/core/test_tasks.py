"""Background tasks end, even if they lose a cancellation."""

import asyncio

import pytest

from app.core import tasks


async def stubborn(lost: int) -> None:
    """Ignore so many cancellations, as `asyncio.wait_for` of Python 3.11 can."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if lost == 0:
                raise
            lost -= 1


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_a_task_ends_however_often_it_loses_a_cancellation(monkeypatch, lost):
    """A task is cancelled until it has ended."""
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_AFTER", 0.01)
    task = asyncio.create_task(stubborn(lost))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.cancel_and_wait(task)
    assert task.cancelled()


async def test_a_task_may_clean_up():
    """A task is not cancelled a second time while it cleans up."""
    cleaned = False

    async def careful() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned = True

    task = asyncio.create_task(careful())
    await asyncio.sleep(0)
    await tasks.cancel_and_wait(task)
    assert cleaned


async def test_tasks_that_ended_or_failed_are_waited_for_too():
    """Tasks that have ended or failed keep their results and errors."""

    async def failing() -> None:
        raise ValueError("This is its own.")

    async def nothing() -> None:
        pass

    runs = [
        asyncio.create_task(failing()),
        asyncio.create_task(nothing()),
        asyncio.create_task(stubborn(0)),
    ]
    await asyncio.sleep(0.01)
    await tasks.cancel_and_wait(*runs)
    assert [type(task.exception()) for task in runs[:2]] == [ValueError, type(None)]
    assert runs[2].cancelled()
