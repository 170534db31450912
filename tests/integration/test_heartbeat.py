"""Heartbeats: one after each good morning, none on a bad one, and late when it becomes good."""

from datetime import date, timedelta

import psycopg
import pytest
from job_tools import CHOSEN, MONDAY, an_answer, completes, logged, new_york
from job_tools import clock as clock
from provider_server import Reply, says
from receivers import TAKEN, pauses, told, told_again
from receivers import house as house
from receivers import receiver as receiver

from app.commands import status
from app.core import settings
from app.database.rehearsed import CLOCK
from app.ops import snapshot
from jobs import daily, heartbeat, queue, reconcile

TUESDAY = date(2026, 10, 27)
SUNDAY = date(2026, 11, 1)


async def look(house) -> int:
    """A round of upkeep, and whatever it has to be told; how many mornings were announced by now."""
    await reconcile.look_after(house.tools)
    await told(house)
    ((count,),) = await house.rows("SELECT count(*) FROM operations.heartbeats")
    return int(count)


async def test_a_good_monday(house, receiver):
    """Once its picks are there, and once only, however often it is looked at."""
    house.clock.time = new_york(MONDAY, 8, 59)
    assert await look(house) == 0
    house.clock.time = new_york(MONDAY)
    assert await look(house) == 0
    await house.a_batch()
    for _ in range(3):
        assert await look(house) == 1
        house.clock.forward(hours=3)
    assert receiver.heartbeats == 1
    assert await house.rows("SELECT morning, outcome FROM operations.heartbeats") == [(MONDAY, "delivered")]
    stands = await snapshot.for_operator(
        house.tools.pool, settings.load({"HEARTBEAT_URL": "https://ping.example/x"}), house.clock
    )
    assert "heartbeat: on; last good morning, Monday, 2026-10-26 09:00 in New York: delivered" in status.facts(stands)


async def test_a_morning_without_a_batch(house, receiver):
    """The machine lives, and says so; not before nine."""
    house.clock.time = new_york(TUESDAY, 8, 59)
    assert await look(house) == 0
    house.clock.time = new_york(TUESDAY)
    assert await look(house) == 1
    assert receiver.heartbeats == 1


async def test_a_morning_that_is_due(house, receiver):
    """Not before its checkpoint is there."""
    batch = await house.a_batch()
    house.clock.time = new_york(TUESDAY)
    assert await look(house) == 0
    await daily.take(house.tools, batch.id, 1)
    assert await look(house) == 1


async def test_a_morning_without_a_session(house, receiver):
    """That the market was closed is as good as a price."""
    batch = await house.a_batch()
    for day in range(1, 7):
        house.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(house.tools, batch.id, day)
    assert await house.rows("SELECT skip_reason FROM checkpoints WHERE day = 6") == [("MARKET_CLOSED",)]
    assert await look(house) == 1
    assert await house.rows("SELECT morning FROM operations.heartbeats") == [(SUNDAY,)]


async def test_prices_that_come_late(house, receiver):
    """A skipped morning is silent, until it is computed that same day."""
    batch = await house.a_batch()
    house.world.instead = [says({"Error Message": "the parameter apikey is invalid or missing."})]
    house.clock.time = new_york(TUESDAY)
    await daily.take(house.tools, batch.id, 1)
    assert await house.rows("SELECT skip_reason FROM checkpoints WHERE day = 1") == [("PROVIDER_ERROR",)]
    assert await look(house) == 0
    assert receiver.heartbeats == 0
    house.clock.time = new_york(TUESDAY, 16, 30)
    await daily.take(house.tools, batch.id, 1, again=True)
    assert await look(house) == 1
    assert receiver.heartbeats == 1


async def test_what_was_skipped_yesterday(house, receiver):
    """It was yesterday's silence: today is good if today is."""
    batch = await house.a_batch()
    house.world.absent.add(("MSFT", MONDAY))
    house.clock.time = new_york(TUESDAY, 20, 30)
    await daily.take(house.tools, batch.id, 1)
    house.clock.time = new_york(TUESDAY + timedelta(days=1))
    await daily.take(house.tools, batch.id, 2)
    assert await look(house) == 1


async def test_a_monday_that_fails(house, receiver):
    """It is silent, until it is made by hand."""
    house.world.model = [completes("Buy what you know.")]
    await house.begin()
    assert await look(house) == 0
    house.world.model = [completes(an_answer(*CHOSEN))]
    house.clock.time = new_york(MONDAY, 15)
    await house.begin(questions=6)
    assert await look(house) == 1
    assert receiver.heartbeats == 1


async def test_it_is_tried_again_until_midnight(house, receiver):
    """Then the day is over in New York, and it is given up."""
    house.clock.time = new_york(TUESDAY, 22, 57)
    receiver.play(Reply(status=500))
    await reconcile.look_after(house.tools)
    (job,) = [one for one in await queue.app.job_manager.list_jobs_async() if one.task_name == "send_heartbeat"]
    with logged("ERROR", house.clock) as lines:
        waited = await pauses(house, lambda: heartbeat.send(house.tools, TUESDAY, job))
    assert [pause.total_seconds() for pause in waited] == [30, 30, 60, 120, 240, 480, 960]
    assert [line["reason"] for line in lines] == ["HEARTBEAT_URL answered 500."]
    assert await house.rows("SELECT outcome FROM operations.heartbeats") == [("given_up",)]


async def test_one_that_is_away_for_a_while(house, receiver):
    """It hears of the morning all the same."""
    house.clock.time = new_york(TUESDAY)
    receiver.play(Reply(status=503), TAKEN)
    await look(house)
    await told_again(house)
    assert receiver.heartbeats == 2
    assert await house.rows("SELECT outcome FROM operations.heartbeats") == [("delivered",)]


async def test_a_rehearsal_is_marked(house, receiver, database):
    """By a header: there is no body that could say so."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CLOCK)
    house.clock.time = new_york(TUESDAY)
    await look(house)
    assert receiver.requests[0].headers["x-rehearsed"] == "true"


async def test_a_heartbeat_without_a_job(house, receiver):
    """It gets another."""
    house.clock.time = new_york(TUESDAY)
    await reconcile.look_after(house.tools)
    await house.rows("DELETE FROM procrastinate_jobs")
    await look(house)
    assert receiver.heartbeats == 1


@pytest.mark.parametrize("days", [2, 40])
async def test_mornings_that_are_over(house, receiver, days):
    """One that nobody could announce is given up, and forgotten after a month."""
    house.clock.time = new_york(TUESDAY)
    await reconcile.look_after(house.tools)
    await house.rows("UPDATE procrastinate_jobs SET status = 'cancelled'")
    house.clock.forward(days=days, hours=1)
    await look(house)
    left = await house.rows("SELECT outcome FROM operations.heartbeats WHERE morning = %s", TUESDAY)
    assert left == ([("given_up",)] if days == 2 else [])
    assert receiver.heartbeats == 1
