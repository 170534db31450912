"""Background tasks: how one is ended for sure."""

import asyncio
from typing import Any

# How long a task may take to clean up before it is cancelled once more, in seconds.
CANCEL_AGAIN_AFTER = 5.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """
    Cancel tasks and wait until they have ended. Their results and errors are for the caller to read.

    They are cancelled again and again, because one cancellation can be lost: `asyncio.wait_for` of
    Python 3.11 drops it if it comes together with what it waits for, and psycopg's pools use it. A
    task that went on would keep the process from stopping.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN_AFTER)
