"""Heartbeats: one after each good morning, none on a bad one, and late when it becomes good."""

from datetime import date, timedelta

import psycopg
import pytest
from job_context import CHOSEN, MONDAY, logged, make_answer, make_completion, new_york
from job_context import clock as clock
from provider_server import Reply, says
from receivers import TAKEN, retry_pauses, send_due_messages, send_postponed_messages
from receivers import harness as harness
from receivers import receiver as receiver

from app.commands import status
from app.core import settings
from app.ops import snapshot
from app.store.rehearsed import CREATE_CLOCK_TABLE
from jobs import daily, heartbeat, queue, reconcile

TUESDAY = date(2026, 10, 27)
SUNDAY = date(2026, 11, 1)


async def count_heartbeats(harness) -> int:
    """
    Do a round of reconciliation, send what it deferred, and return the number of heartbeats so far.
    """
    await reconcile.run_round(harness.context)
    await send_due_messages(harness)
    ((count,),) = await harness.rows("SELECT count(*) FROM operations.heartbeats")
    return int(count)


async def test_a_good_monday(harness, receiver):
    """A heartbeat is sent once the picks are stored, and only one, however many rounds are done."""
    harness.clock.time = new_york(MONDAY, 8, 59)
    assert await count_heartbeats(harness) == 0
    harness.clock.time = new_york(MONDAY)
    assert await count_heartbeats(harness) == 0
    await harness.make_batch()
    for _ in range(3):
        assert await count_heartbeats(harness) == 1
        harness.clock.forward(hours=3)
    assert receiver.heartbeats == 1
    entry = (await harness.journal())[-1]
    assert receiver.requests[0].headers["x-journal-head"] == f"{entry.seq}:{entry.hash}"
    assert await harness.rows("SELECT morning, outcome FROM operations.heartbeats") == [
        (MONDAY, "delivered")
    ]
    state = await snapshot.read_for_operator(
        harness.context.pool,
        settings.load({"HEARTBEAT_URL": "https://ping.example/x"}),
        harness.clock,
    )
    assert (
        "heartbeat: on; last good morning, Monday, 2026-10-26 09:00 in New York: delivered"
        in status.facts(state)
    )


async def test_a_morning_without_a_batch(harness, receiver):
    """A heartbeat shows that the machine works; not before 09:00."""
    harness.clock.time = new_york(TUESDAY, 8, 59)
    assert await count_heartbeats(harness) == 0
    harness.clock.time = new_york(TUESDAY)
    assert await count_heartbeats(harness) == 1
    assert receiver.heartbeats == 1
    assert "x-journal-head" not in receiver.requests[0].headers  # the journal is empty


async def test_a_morning_that_is_due(harness, receiver):
    """No heartbeat before the checkpoint is stored."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(TUESDAY)
    assert await count_heartbeats(harness) == 0
    await daily.take(harness.context, batch.id, 1)
    assert await count_heartbeats(harness) == 1


async def test_a_morning_without_a_session(harness, receiver):
    """A checkpoint that was skipped for a closed market is as good as a computed one."""
    batch = await harness.make_batch()
    for day in range(1, 7):
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(harness.context, batch.id, day)
    assert await harness.rows("SELECT skip_reason FROM checkpoints WHERE day = 6") == [
        ("MARKET_CLOSED",)
    ]
    assert await count_heartbeats(harness) == 1
    assert await harness.rows("SELECT morning FROM operations.heartbeats") == [(SUNDAY,)]


async def test_prices_that_come_late(harness, receiver):
    """A skipped checkpoint prevents the heartbeat until it is computed on the same day."""
    batch = await harness.make_batch()
    harness.world.instead = [says({"Error Message": "the parameter apikey is invalid or missing."})]
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    assert await harness.rows("SELECT skip_reason FROM checkpoints WHERE day = 1") == [
        ("PROVIDER_ERROR",)
    ]
    assert await count_heartbeats(harness) == 0
    assert receiver.heartbeats == 0
    harness.clock.time = new_york(TUESDAY, 16, 30)
    await daily.take(harness.context, batch.id, 1, retake=True)
    assert await count_heartbeats(harness) == 1
    assert receiver.heartbeats == 1


async def test_a_checkpoint_skipped_yesterday(harness, receiver):
    """A checkpoint that was skipped yesterday does not prevent today's heartbeat."""
    batch = await harness.make_batch()
    harness.world.absent.add(("MSFT", MONDAY))
    harness.clock.time = new_york(TUESDAY, 20, 30)
    await daily.take(harness.context, batch.id, 1)
    harness.clock.time = new_york(TUESDAY + timedelta(days=1))
    await daily.take(harness.context, batch.id, 2)
    assert await count_heartbeats(harness) == 1


async def test_a_monday_that_fails(harness, receiver):
    """No heartbeat until the batch is made manually."""
    harness.world.model = [make_completion("Buy what you know.")]
    await harness.begin()
    assert await count_heartbeats(harness) == 0
    harness.world.model = [make_completion(make_answer(*CHOSEN))]
    harness.clock.time = new_york(MONDAY, 15)
    await harness.begin(questions=6)
    assert await count_heartbeats(harness) == 1
    assert receiver.heartbeats == 1


async def test_a_heartbeat_is_tried_again_until_midnight(harness, receiver):
    """At midnight in New York the heartbeat is given up."""
    harness.clock.time = new_york(TUESDAY, 22, 57)
    receiver.play(Reply(status=500))
    await reconcile.run_round(harness.context)
    (job,) = [
        one
        for one in await queue.app.job_manager.list_jobs_async()
        if one.task_name == "send_heartbeat"
    ]
    with logged("ERROR", harness.clock) as lines:
        waited = await retry_pauses(harness, lambda: heartbeat.send(harness.context, TUESDAY, job))
    assert [pause.total_seconds() for pause in waited] == [30, 30, 60, 120, 240, 480, 960]
    assert [line["reason"] for line in lines] == ["HEARTBEAT_URL answered 500."]
    assert await harness.rows("SELECT outcome FROM operations.heartbeats") == [("given_up",)]


async def test_a_receiver_that_is_away_for_a_while(harness, receiver):
    """The receiver gets the heartbeat when it is available again."""
    harness.clock.time = new_york(TUESDAY)
    receiver.play(Reply(status=503), TAKEN)
    await count_heartbeats(harness)
    await send_postponed_messages(harness)
    assert receiver.heartbeats == 2
    assert await harness.rows("SELECT outcome FROM operations.heartbeats") == [("delivered",)]


async def test_a_rehearsal_is_marked(harness, receiver, database):
    """A header marks the heartbeat of a rehearsal, because the request has no body."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CREATE_CLOCK_TABLE)
    harness.clock.time = new_york(TUESDAY)
    await count_heartbeats(harness)
    assert receiver.requests[0].headers["x-rehearsed"] == "true"


async def test_a_heartbeat_without_a_job(harness, receiver):
    """The heartbeat gets another job."""
    harness.clock.time = new_york(TUESDAY)
    await reconcile.run_round(harness.context)
    await harness.rows("DELETE FROM procrastinate_jobs")
    await count_heartbeats(harness)
    assert receiver.heartbeats == 1


@pytest.mark.parametrize("days", [2, 40])
async def test_mornings_that_are_over(harness, receiver, days):
    """A past heartbeat that was not sent is given up, and deleted after a month."""
    harness.clock.time = new_york(TUESDAY)
    await reconcile.run_round(harness.context)
    await harness.rows("UPDATE procrastinate_jobs SET status = 'cancelled'")
    harness.clock.forward(days=days, hours=1)
    await count_heartbeats(harness)
    left = await harness.rows(
        "SELECT outcome FROM operations.heartbeats WHERE morning = %s", TUESDAY
    )
    assert left == ([("given_up",)] if days == 2 else [])
    assert receiver.heartbeats == 1
