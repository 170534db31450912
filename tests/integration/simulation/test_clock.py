"""Simulated time: which jobs hold it back."""

from datetime import timedelta

import pytest
from job_context import rows

from app.simulation.clock import SimulatedClock
from jobs import queue
from jobs.context import RealClock


@pytest.mark.parametrize(
    ("lock", "leaps"),
    [
        pytest.param("suspects", timedelta(hours=1), id="behind a lock"),
        pytest.param("another", timedelta(0), id="due"),
    ],
)
async def test_a_job_behind_a_lock_does_not_hold_the_time_back(pool, lock, leaps):
    """A job that waits for the lock of a sleeping job is not at work."""
    clock = SimulatedClock(pool, queue.app)
    begin = RealClock().now() - timedelta(days=30)
    await clock.start(begin)
    await rows(
        pool,
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status, lock, scheduled_at) "
        "VALUES ('default', 'take_checkpoint', 'doing', 'suspects', %s), "
        "('default', 'take_checkpoint', 'todo', %s, %s)",
        begin + timedelta(hours=1),
        lock,
        begin,
    )
    await clock._update_lag("SELECT told.leap(%s)", begin + timedelta(hours=6))
    assert abs(clock.now() - begin - leaps) < timedelta(seconds=30)
