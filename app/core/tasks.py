"""Background tasks: how to cancel them reliably."""

import asyncio
from typing import Any

# How long a task may take to clean up before it is cancelled again, in seconds.
CANCEL_AGAIN_AFTER = 5.0


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """
    Cancel tasks and wait until they have ended. The caller reads their results and errors.

    Each task is cancelled again and again, because a single cancellation can be lost:
    `asyncio.wait_for` of Python 3.11 drops it if it arrives together with the result, and psycopg's
    pools use that function. A task that does not end would prevent the process from stopping.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN_AFTER)
