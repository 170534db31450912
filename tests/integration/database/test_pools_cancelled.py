"""
A pool that is cancelled while it opens.

Ctrl-C cancels a command, and then the event loop cancels the tasks that are left and waits for
them. So the loop waits for ever if a pool leaves a task that continues after a cancellation.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from app.database import pools
from jobs import queue

Opening = Callable[[str], Awaitable[object]]

# How long the pool opens until it is cancelled, in seconds: none of it, then up to the time of a
# few connections.
MOMENTS = (0.0, *(0.0005 * number for number in range(1, 24)))


async def open_pool(database: str) -> None:
    pool = pools.make_pool(database)
    await pool.open(wait=True)
    await pool.close()


async def open_several_connections(database: str) -> None:
    pool = pools.make_pool(database, min_size=4)
    await pool.open(wait=True)
    await pool.close()


async def open_behind_a_pooler(database: str) -> None:
    pool = pools.make_pool(database, pooled=True)
    await pool.open(wait=True)
    await pool.close()


async def open_for_a_context(database: str) -> None:
    async with pools.opened(pools.make_pool(database)):
        pass


async def open_two_pools(database: str) -> None:
    first = pools.make_pool(database)
    second = pools.make_pool(database, min_size=0)
    async with pools.opened(first), second, second.connection():
        pass


async def open_the_queue(database: str) -> None:
    with queue.app.replace_connector(queue.make_connector(database)) as replaced:
        async with replaced.open_async():
            pass


@pytest.mark.parametrize(
    "opening",
    [
        open_pool,
        open_several_connections,
        open_behind_a_pooler,
        open_for_a_context,
        open_two_pools,
        open_the_queue,
    ],
)
async def test_no_task_is_left(database, opening: Opening):
    """Whenever it is cancelled, one more cancellation ends every task of the pool."""
    for moment in MOMENTS:
        await check_tasks_end(opening, database, moment)


async def check_tasks_end(opening: Opening, database: str, moment: float) -> None:
    """Cancel `opening` after `moment` seconds, and check that no task stays."""
    others = asyncio.all_tasks()
    opened = asyncio.ensure_future(opening(database))
    await asyncio.wait([opened], timeout=moment)
    opened.cancel()
    with suppress(asyncio.CancelledError):
        await opened
    left = asyncio.all_tasks() - others
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=5)
    running = [task.get_name() for task in left if not task.done()]
    assert running == [], f"cancelled after {moment} s"
