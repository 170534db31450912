"""The heartbeat of several series: a Monday is good only if each has its picks."""

import pytest
from job_context import MONDAY, make_answer, make_completion, new_york
from job_context import clock as clock
from provider_server import says
from receivers import send_due_messages
from series_harness import CLAUDE, DICE, MAIN
from series_harness import harness as harness
from series_harness import keys as keys
from series_harness import receiver as receiver

from jobs import heartbeat, reconcile

REFUSED = says({"error": {"message": "No such key."}}, 401)


async def is_sent(harness, receiver) -> bool:
    """Do a round of reconciliation, and return whether the heartbeat was sent by now."""
    await reconcile.run_round(harness.context)
    await send_due_messages(harness)
    return receiver.heartbeats > 0


@pytest.mark.parametrize("missing", [MAIN, CLAUDE, DICE])
async def test_a_series_without_a_batch(harness, receiver, missing):
    """No heartbeat until the last series has its picks."""
    await harness.run(*[name for name in (MAIN, CLAUDE, DICE) if name != missing])
    assert not await is_sent(harness, receiver)
    await harness.run(missing)
    assert await is_sent(harness, receiver)
    assert receiver.heartbeats == 1


async def test_a_series_that_fails(harness, receiver):
    """A failed batch is not good, until a manual run has replaced it."""
    harness.answers[CLAUDE] = REFUSED
    await harness.make_all()
    assert not await is_sent(harness, receiver)
    harness.answers[CLAUDE] = make_completion(make_answer("KO", "MSFT", "BRK.B"))
    harness.clock.time = new_york(MONDAY, 15)
    await harness.run(CLAUDE, questions=6)
    assert await is_sent(harness, receiver)


async def test_a_series_that_is_not_configured(harness):
    """It is not waited for: on this Monday it is retired."""
    await harness.run(MAIN, CLAUDE)
    async with harness.context.pool.connection() as conn:
        now = harness.clock.now()
        assert await heartbeat.is_good_morning(conn, now, [MAIN, CLAUDE])
        assert not await heartbeat.is_good_morning(conn, now, harness.context.series)
