"""
A pool that is cancelled while it opens.

Ctrl-C cancels a command, and then the event loop cancels the tasks that are left and waits for
them. So the loop waits for ever if a pool leaves a task that continues after a cancellation.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from app.database import pools
from jobs import queue

Opening = Callable[[str], Awaitable[object]]

# How long the pool opens until it is cancelled, in seconds: none of it, then up to the time of a
# few connections.
MOMENTS = (0.0, *(0.0005 * number for number in range(1, 24)))


async def open_pool(database: str, **options: Any) -> None:
    pool = pools.make_pool(database, **options)
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
        pytest.param(open_pool, id="one connection"),
        pytest.param(partial(open_pool, min_size=4), id="four connections"),
        pytest.param(partial(open_pool, pooled=True), id="behind a pooler"),
        pytest.param(open_for_a_context, id="for a context"),
        pytest.param(open_two_pools, id="two pools"),
        pytest.param(open_the_queue, id="the queue"),
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
