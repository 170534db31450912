"""
Alerts: each kind with a real cause, stored only with it, sent until accepted, without the address.
"""

import asyncio
import json
import re
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from job_context import MONDAY, logged, make_completion, new_york, run_attempt
from job_context import clock as clock
from processes import eventually, query_rows, settle, working
from provider_server import HANGING, Reply, says
from receivers import SECRET, TAKEN, retry_pauses, send_due_messages, send_postponed_messages
from receivers import harness as harness
from receivers import receiver as receiver

from app.commands import status
from app.core import settings
from app.database import pools
from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.errors import QuotaSpent
from app.ops import snapshot
from app.providers import webhook
from app.providers.rate_limiter import rate_limits
from app.simulation import rehearsal
from app.store.rehearsed import CREATE_CLOCK_TABLE
from jobs import alerts, daily, messages, queue, reconcile, weekly
from jobs.context import RealClock

TUESDAY = date(2026, 10, 27)
OUTCOMES = "SELECT kind, outcome FROM operations.alerts ORDER BY at, id"
SPENT = says(
    {
        "Information": (
            "We have detected your API key as X and our standard API rate limit is 25 "
            "requests per day."
        )
    }
)


async def a_missed_monday(harness):
    """A Monday after the batch's on which no service ran; nothing else is wrong."""
    await harness.make_batch()
    harness.clock.time = new_york(MONDAY + timedelta(days=8), 8)
    async with pools.transaction(harness.context.pool) as conn:
        assert await weekly.record_missed_monday(conn, harness.context, MONDAY + timedelta(days=7))


async def an_alert(harness, receiver):
    """Store one alert that waits. Return a function that sends it as the queue does."""
    await a_missed_monday(harness)
    ((id, job),) = await harness.rows(
        "SELECT args ->> 'alert', id FROM procrastinate_jobs WHERE task_name = 'send_alert'"
    )
    (stored_job,) = [one for one in await queue.app.job_manager.list_jobs_async() if one.id == job]
    return lambda: alerts.send(harness.context, UUID(id), stored_job)


async def head_of(harness):
    """Return the journal's head, as `verify --head` takes it."""
    entry = (await harness.journal())[-1]
    return f"{entry.seq}:{entry.hash}"


# The kinds of alerts


async def test_a_monday_that_fails(harness, receiver):
    """
    Three unusable answers: the whole message is as documented, and its id is the idempotency key.
    """
    harness.world.model = [make_completion("Buy what you know.")]
    await harness.begin()
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    failure = (await harness.batch()).failure
    text = (
        f"Alpha Monday: the Monday 2026-10-26 failed (NO_USABLE_ANSWER): {failure} "
        "`alpha-monday pick` runs it again, until it is over in New York."
    )
    assert alert == {
        "id": receiver.requests[0].headers["idempotency-key"],
        "kind": "monday_failed",
        "at": "2026-10-26T13:00:00.000000Z",
        "series": "main",
        "run_date": "2026-10-26",
        "day": None,
        "reason": "NO_USABLE_ANSWER",
        "text": text,
        "content": text,
        "to_do": "`alpha-monday pick` runs it again, until it is over in New York.",
        "rehearsed": False,
        "service": "alpha-monday",
        "version": version("alpha-monday"),
        "journal_head": await head_of(harness),
    }
    assert await harness.rows(OUTCOMES) == [("monday_failed", "delivered")]


async def test_a_monday_that_was_missed(harness, receiver):
    """
    A missed Monday has an alert too, when it is recorded; a week later there is no second one.
    """
    await harness.make_batch()
    for day in (8, 9):
        harness.clock.time = new_york(MONDAY + timedelta(days=day), 8)
        await reconcile.run_round(harness.context)
        await send_due_messages(harness)
    (alert,) = [one for one in receiver.alerts if one["kind"] == "monday_failed"]
    assert (alert["run_date"], alert["reason"]) == ("2026-11-02", "MISSED")
    assert alert["text"] == (
        "Alpha Monday: the Monday 2026-11-02 failed (MISSED): Nobody was there to ask on that "
        "Monday. "
        "Picks are never back-dated; `alpha-monday status` says whether a service runs now."
    )


async def test_a_monday_that_fails_twice(harness, receiver):
    """A Monday that is run again manually and fails again has a second alert."""
    harness.world.model = [make_completion("Buy what you know.")]
    await harness.begin()
    await harness.begin(questions=6)
    await send_due_messages(harness)
    assert [one["run_date"] for one in receiver.alerts] == ["2026-10-26"] * 2
    assert len({one["id"] for one in receiver.alerts}) == 2


async def test_a_close_that_is_missing(harness, receiver):
    """After the last request of the day, the checkpoint is skipped and has an alert."""
    batch = await harness.make_batch()
    harness.world.absent.add(("MSFT", MONDAY))
    harness.clock.time = new_york(TUESDAY, 20, 30)
    await daily.take(harness.context, batch.id, 1)
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    assert (alert["kind"], alert["run_date"], alert["day"]) == (
        "checkpoint_skipped",
        "2026-10-26",
        1,
    )
    # Four requests, 2.1 seconds apart.
    assert (alert["at"], alert["reason"]) == ("2026-10-28T00:30:06.300000Z", "MISSING_CLOSE")
    assert alert["to_do"] == (
        "Reconciliation tries again once a day; "
        "`alpha-monday checkpoint retake 2026-10-26 1` tries at once."
    )
    assert alert["text"] == (
        "Alpha Monday: day 1 of the Monday 2026-10-26 was skipped (MISSING_CLOSE): MSFT: no close "
        "of 2026-10-26 by the "
        f"last time of asking. {alert['to_do']}"
    )


async def test_a_closed_market_has_no_alert(harness):
    """Neither a skip for a closed market nor a checkpoint that stays skipped has an alert."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(MONDAY + timedelta(days=6))
    await daily.take(harness.context, batch.id, 6)
    assert await harness.rows("SELECT skip_reason FROM checkpoints WHERE day = 6") == [
        ("MARKET_CLOSED",)
    ]
    harness.world.absent.add(("MSFT", MONDAY))
    harness.clock.time = new_york(MONDAY + timedelta(days=6), 20, 30)
    await daily.take(harness.context, batch.id, 1)
    await daily.take(harness.context, batch.id, 1, retake=True)
    assert await harness.rows(OUTCOMES) == [("checkpoint_skipped", None)]


async def test_a_quota_that_the_provider_reports_as_spent(harness, receiver):
    """Two checkpoints wait for the quota, and one alert reports it, without the provider's text."""
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs WHERE (args ->> 'day')::integer > 2")
    await harness.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    harness.clock.time = new_york(TUESDAY + timedelta(days=1))
    harness.world.instead = [SPENT]
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)
    assert await harness.rows(
        "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND attempts = 1"
    ) == [(2,)]
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    assert (alert["kind"], alert["run_date"], alert["reason"]) == ("quota_spent", None, None)
    assert alert["text"] == (
        "Alpha Monday: the quota of prices is spent, at first until 2026-10-28 14:00 UTC: what "
        "needs them waits. "
        "It goes on by itself; `alpha-monday status` says what is left and what waits."
    )


async def take_with_spent_quota(harness):
    """Take a checkpoint that needs prices while the quota is spent."""
    async with alerts.alert_if_quota_spent(harness.context):
        raise QuotaSpent("The quota is spent.", harness.clock.now() + timedelta(hours=1))


async def test_a_spent_quota_has_one_alert(harness):
    """
    Eight jobs at once, for hours, cause one alert; after the quota was free for an hour, there is
    another.
    """
    await asyncio.gather(
        *(take_with_spent_quota(harness) for _ in range(8)), return_exceptions=True
    )
    for _ in range(3):
        harness.clock.forward(hours=1, seconds=5)
        with pytest.raises(QuotaSpent):
            await take_with_spent_quota(harness)
    assert await harness.rows("SELECT kind, until - at FROM operations.alerts") == [
        ("quota_spent", timedelta(hours=4, seconds=15))
    ]
    harness.clock.forward(hours=2)
    with pytest.raises(QuotaSpent):
        await take_with_spent_quota(harness)
    assert await harness.rows("SELECT count(*) FROM operations.alerts") == [(2,)]


async def test_a_quota_spent_by_our_own_count(harness, receiver):
    """A quota that is spent by the service's own count has an alert, too."""
    await harness.make_batch()
    await harness.rows("DELETE FROM operations.provider_requests")
    harness.context.prices.ledger.limits = rate_limits(per_second=100, per_minute=100, per_day=2)
    harness.clock.time = new_york(TUESDAY)
    with pytest.raises(QuotaSpent):
        await mornings_work(harness)
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    assert alert["text"] == (
        "Alpha Monday: the quota of prices is spent, at first until 2026-10-28 13:00 UTC: what "
        "needs them waits. "
        "It goes on by itself; `alpha-monday status` says what is left and what waits."
    )


async def mornings_work(harness):
    """Run what the first checkpoint's job runs."""
    async with alerts.alert_if_quota_spent(harness.context):
        await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)


async def test_a_job_that_a_dead_process_left(harness, receiver):
    """One alert for what a round repaired; none for a round that repaired nothing."""
    await harness.make_batch()
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'doing' WHERE (args ->> 'day')::integer IN (1, 2)"
    )
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '3'")
    harness.clock.time = new_york(MONDAY + timedelta(days=3))
    for _ in range(2):
        await reconcile.run_round(harness.context)
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    assert (alert["kind"], alert["reason"]) == ("upkeep_mended", "PUT_BACK, DEFERRED")
    assert alert["text"] == (
        "Alpha Monday: upkeep mended what was broken: 2 jobs left behind by a process that died; "
        "1 job deferred for "
        "checkpoints that had none. `alpha-monday status` says how everything stands; the log "
        "around this time says "
        "why."
    )


async def test_a_message_that_is_put_back_has_no_alert(harness, receiver):
    """Otherwise a process that dies while it sends an alert would cause alerts without end."""
    await an_alert(harness, receiver)
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'doing' WHERE task_name = 'send_alert'"
    )
    assert not await reconcile.run_round(harness.context)
    await send_due_messages(harness)
    assert [one["kind"] for one in receiver.alerts] == ["monday_failed"]


# An alert is stored in the transaction that stores its cause


async def test_a_rollback_undoes_the_alert(harness):
    """A transaction that is rolled back leaves neither an alert nor a job."""

    async def undone():
        async with pools.transaction(harness.context.pool) as conn:
            assert await weekly.record_missed_monday(conn, harness.context, MONDAY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await undone()
    assert await harness.rows("SELECT FROM operations.alerts") == []
    assert await harness.rows("SELECT FROM procrastinate_jobs") == []


async def test_the_second_process_stores_no_alert(harness):
    """Of two transactions that store the same row, only the first stores an alert."""
    for _ in range(2):
        async with pools.transaction(harness.context.pool) as conn:
            await weekly.record_missed_monday(conn, harness.context, MONDAY)
    assert len(await harness.rows(OUTCOMES)) == 1


async def test_a_crash_before_the_alert_is_sent(harness, receiver, monkeypatch):
    """A process that dies before or while it sends an alert loses none."""
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.5)
    await an_alert(harness, receiver)
    receiver.play(HANGING)
    worker = asyncio.create_task(send_due_messages(harness))
    await receiver.request_arrived.wait()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    # As a SIGKILL leaves it.
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = NULL WHERE task_name = "
        "'send_alert'"
    )
    receiver.play(TAKEN)
    await reconcile.run_round(harness.context)
    await send_postponed_messages(harness)
    first, second = receiver.alerts
    # The round has journaled the rules of the yearly checks, so the head is another one.
    assert {**first, "journal_head": ""} == {**second, "journal_head": ""}
    assert await harness.rows(OUTCOMES) == [("monday_failed", "delivered")]


@pytest.mark.long
async def test_a_worker_that_is_killed_while_it_sends(tmp_path, database, pool, receiver):
    """Another worker sends the same alert again, with the same id and text."""
    this = calendar.latest_run_date(RealClock().now())
    await settle(pool)
    await settle(pool, weeks=2)
    receiver.play(HANGING)
    there = {
        "DATABASE_URL": database,
        "ALERT_WEBHOOK_URL": f"{receiver.url}/{SECRET}",
        "LOG_LEVEL": "DEBUG",
    }
    with working(tmp_path, **there) as killed:
        await eventually(lambda: receiver.requests, 30)
        killed.kill()
    receiver.play(TAKEN)
    with working(tmp_path, **there) as other:
        await eventually(
            lambda: query_rows(
                database, "SELECT FROM operations.alerts WHERE outcome = 'delivered'"
            ),
            120,
        )
    first, second = receiver.alerts
    assert first == second
    assert (first["kind"], first["run_date"], first["reason"]) == (
        "monday_failed",
        str(this - timedelta(weeks=1)),
        "MISSED",
    )
    assert query_rows(database, "SELECT count(*) FROM operations.alerts") == [(1,)]
    assert SECRET not in killed.log + other.log


@pytest.mark.parametrize(
    ("happened", "arrives"),
    [
        pytest.param("DELETE FROM procrastinate_jobs", 1, id="deleted"),
        pytest.param(
            "UPDATE procrastinate_jobs SET status = 'failed'",
            1,
            id="no task of that name in the old version",
        ),
        pytest.param(
            "UPDATE procrastinate_jobs SET status = 'cancelled'", 0, id="cancelled manually"
        ),
        pytest.param(
            "WITH job AS (UPDATE procrastinate_jobs SET status = 'failed' RETURNING id) "
            "INSERT INTO operations.strikes (job_id, surprises) SELECT id, 5 FROM job",
            0,
            id="an unexpected error every time",
        ),
    ],
)
async def test_an_alert_without_a_job(harness, receiver, happened, arrives):
    """
    The alert gets another job, unless its job was ended on purpose or failed; after a day it is
    given up.
    """
    await an_alert(harness, receiver)
    await harness.rows("DELETE FROM procrastinate_jobs WHERE task_name <> 'send_alert'")
    await harness.rows(happened)
    await harness.rows("UPDATE batches SET status = 'completed' WHERE status = 'active'")
    for _ in range(2):
        await reconcile.run_round(harness.context)
    await send_due_messages(harness)
    assert len(receiver.alerts) == arrives
    harness.clock.forward(days=1, hours=2)
    await reconcile.run_round(harness.context)
    assert (await harness.rows(OUTCOMES))[0] == (
        "monday_failed",
        "delivered" if arrives else "given_up",
    )
    harness.clock.forward(days=30)
    await reconcile.run_round(harness.context)
    assert (
        await harness.rows(
            "SELECT FROM operations.alerts WHERE kind = 'monday_failed' AND reason = 'MISSED' AND "
            "run_date = %s",
            MONDAY + timedelta(days=7),
        )
        == []
    )


async def test_an_alert_that_cannot_be_stored(harness):
    """Only the alert is lost: the failure is stored, and the log says which alert was lost."""
    await harness.rows(
        "ALTER TABLE operations.alerts ADD CONSTRAINT nothing_fits CHECK (false) NOT VALID"
    )
    try:
        with logged("ERROR", harness.clock) as lines:
            await a_missed_monday(harness)
            with pytest.raises(QuotaSpent):
                await take_with_spent_quota(harness)
    finally:
        await harness.rows("ALTER TABLE operations.alerts DROP CONSTRAINT nothing_fits")
    assert (await harness.batch(MONDAY + timedelta(days=7))).failure_reason == "MISSED"
    lost = [(line["event"], line["kind"]) for line in lines if "kind" in line]
    assert lost == [
        ("alert could not be stored", "monday_failed"),
        ("alert could not be stored", "quota_spent"),
    ]


# Sending


async def test_a_receiver_that_is_away_for_a_while(harness, receiver):
    """The same alert is sent again, with the same id, until it is accepted."""
    await an_alert(harness, receiver)
    receiver.play(Reply(status=500), Reply(status=503), TAKEN)
    for _ in range(4):
        await send_postponed_messages(harness)
    assert len(receiver.alerts) == 3
    assert len({json.dumps(alert) for alert in receiver.alerts}) == 1
    assert {request.headers["idempotency-key"] for request in receiver.requests} == {
        receiver.alerts[0]["id"]
    }


async def test_a_receiver_that_is_away_for_good(harness, receiver):
    """
    Attempts after 30 seconds, then after pauses that double, at most an hour; none after a day.
    """
    send = await an_alert(harness, receiver)
    receiver.play(Reply(status=500))
    with logged("ERROR", harness.clock) as lines:
        waited = [pause.total_seconds() for pause in await retry_pauses(harness, send)]
    assert waited[:8] == [30, 30, 60, 120, 240, 480, 960, 1920]
    assert set(waited[8:]) == {3600}
    assert (
        sum(waited) == 30 * 2**7 + 3600 * 22
    )  # 22 h and 64 min; another hour would be the second day
    assert len(receiver.requests) == len(waited) + 1
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("message given up", "ALERT_WEBHOOK_URL answered 500.")
    ]
    assert await harness.rows(OUTCOMES) == [("monday_failed", "given_up")]


async def test_an_alert_that_waited_for_its_process(harness, receiver):
    """After a day an alert is not sent any more."""
    send = await an_alert(harness, receiver)
    harness.clock.forward(days=1)
    await send()
    assert receiver.requests == []
    assert await harness.rows(OUTCOMES) == [("monday_failed", "given_up")]


async def test_a_receiver_that_asks_us_to_wait(harness, receiver):
    """The next attempt is at the time that the receiver gave."""
    send = await an_alert(harness, receiver)
    receiver.play(Reply(status=429, headers={"retry-after": "4711"}), TAKEN)
    assert await retry_pauses(harness, send) == [timedelta(seconds=4711)]


@pytest.mark.parametrize("status", [301, 400, 404, 410])
async def test_a_receiver_that_refuses(harness, receiver, status):
    """There is no other attempt; the log says once what to change."""
    send = await an_alert(harness, receiver)
    receiver.play(Reply(status=status, headers={"location": f"{receiver.url}/elsewhere"}))
    with logged("ERROR", harness.clock) as lines:
        assert await run_attempt(send) is None
        await send()
    assert [line["event"] for line in lines] == ["message given up"]
    assert f"ALERT_WEBHOOK_URL answered {status}" in lines[0]["reason"]
    assert len(receiver.requests) == 1


async def test_receivers_that_hang_take_two_slots(harness, receiver):
    """Further messages leave the worker to other jobs; their wait is not counted as an attempt."""
    send = await an_alert(harness, receiver)
    await harness.rows(
        "INSERT INTO procrastinate_jobs (id, queue_name, task_name, priority, status) "
        "SELECT -n, 'default', 'send_alert', 0, 'doing' FROM generate_series(1, 2) AS n"
    )
    assert await run_attempt(send) == harness.clock.now() + timedelta(seconds=15)
    assert receiver.requests == []


async def test_a_message_has_the_lowest_priority(harness, receiver):
    """The priority of a message is below that of any checkpoint, and it shares no lock."""
    await an_alert(harness, receiver)
    lowest = "SELECT min(priority) FROM procrastinate_jobs WHERE task_name = 'take_checkpoint'"
    ((morning,),) = await harness.rows(lowest)
    assert await harness.rows(
        "SELECT priority, lock, queueing_lock FROM procrastinate_jobs WHERE task_name = "
        "'send_alert'"
    ) == [(messages.LOWEST_PRIORITY, None, None)]
    assert messages.LOWEST_PRIORITY < -date.max.toordinal() < morning


async def test_a_rehearsals_alerts_are_marked(harness, receiver, database):
    """Alerts of a rehearsal are marked, also where only the text is shown."""
    await an_alert(harness, receiver)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CREATE_CLOCK_TABLE)
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    assert alert["rehearsed"] is True
    assert alert["text"].startswith("Alpha Monday (rehearsed): the Monday ")


@pytest.mark.parametrize(
    ("environment", "receiver_url"),
    [({}, ""), ({"ALERT_WEBHOOK_URL": "http://a.example/b"}, "http://a.example/b")],
)
def test_the_receivers_of_a_rehearsal(monkeypatch, environment, receiver_url):
    """
    No receiver, unless the address is in the environment; a file's address is for the live service.
    """
    for name in ("ALERT_WEBHOOK_URL", "HEARTBEAT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    providers = {
        "OPENAI_BASE_URL": "http://a.example/v1",
        "ALPHA_VANTAGE_BASE_URL": "http://a.example",
    }
    receivers = {"ALERT_WEBHOOK_URL": "http://a.example/b", "HEARTBEAT_URL": "http://a.example/c"}
    with rehearsal.running_simulators(
        settings.load(providers | receivers), "host=nowhere", calm=True
    ) as provided:
        assert (provided.alert_webhook_url, provided.heartbeat_url) == (receiver_url, "")


async def test_quoted_text(harness, receiver):
    """Quoted text notifies no channel and is no link; it is one line of limited length."""
    batch = await harness.make_batch()
    async with pools.transaction(harness.context.pool) as conn:
        due = daily.DueCheckpoint(batch.id, MONDAY, 1)
        await daily.give_up(
            conn,
            harness.context,
            due,
            note="<!channel> @everyone\n<https://evil.example|ok>" + "x" * 3000,
        )
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    assert "‹!channel› ＠everyone ‹https://evil.example|ok›xxx" in alert["text"]
    assert len(alert["text"]) == 1500
    assert alert["text"].endswith(f"xxx… {alert['to_do']}")
    assert alert["content"] == alert["text"]


async def test_off(harness, receiver, clock):
    """Without an address no alert is stored, and a waiting one is given up."""
    send = await an_alert(harness, receiver)
    before = harness.context.alerts
    object.__setattr__(
        harness.context, "alerts", webhook.WebhookReceiver("ALERT_WEBHOOK_URL", "", clock)
    )
    await before.close()
    async with pools.transaction(harness.context.pool) as conn:
        assert await weekly.record_missed_monday(conn, harness.context, MONDAY + timedelta(days=21))
    await send()
    assert await harness.rows(OUTCOMES) == [("monday_failed", "given_up")]
    assert receiver.requests == []


# What stays secret


async def test_the_address_is_neither_logged_nor_stored(harness, receiver, database):
    """
    The address is in no log line, even at DEBUG, and in no row, whatever the receiver responds.
    """
    with logged("DEBUG", harness.clock) as lines:
        send = await an_alert(harness, receiver)
        for reply in (
            Reply(status=500),
            Reply(status=307, headers={"location": f"{receiver.url}/{SECRET}"}),
        ):
            receiver.play(reply)
            await send_postponed_messages(harness)
        await reconcile.run_round(harness.context)
        await send_postponed_messages(harness)
        await send()
    assert "message given up" in {line["event"] for line in lines}
    assert SECRET not in str(lines)
    with psycopg.connect(database) as conn:
        tables = conn.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname IN ('public', 'queue', 'operations')"
        ).fetchall()
        assert len(tables) > 15
        for (table,) in tables:
            assert SECRET not in str(conn.execute(f"SELECT t::text FROM {table} t").fetchall()), (
                table
            )


# What the operator sees


async def test_status(harness, receiver):
    """
    `status` shows whether alerts are on, the last one, its outcome, and how many wait; never the
    address.
    """
    environment = {"ALERT_WEBHOOK_URL": f"https://hooks.example/{SECRET}", "HEARTBEAT_URL": ""}

    async def read_facts():
        state = await snapshot.read_for_operator(
            harness.context.pool, settings.load(environment), harness.clock
        )
        lines = [line for line in status.facts(state) if line.startswith(("alerts", "heartbeat"))]
        return lines, [line for line in status.notes(state) if "given up" in line]

    assert await read_facts() == (
        ["alerts: on; none yet", "heartbeat: off, HEARTBEAT_URL is not set here"],
        [],
    )
    send = await an_alert(harness, receiver)
    lines, notes = await read_facts()
    assert lines[0] == (
        "alerts: on; last monday failed, Tuesday, 2026-11-03 08:00 in New York: waiting; 1 waiting"
    )
    receiver.play(Reply(status=404))
    await send()
    lines, notes = await read_facts()
    assert (
        lines[0]
        == "alerts: on; last monday failed, Tuesday, 2026-11-03 08:00 in New York: given up"
    )
    assert notes == [
        "The last alert was given up. The service's log says why (`message given up`)."
    ]


async def test_a_failed_message_needs_no_person(harness, receiver):
    """`status` shows it, but no person has to do anything about it."""
    await an_alert(harness, receiver)
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'failed' WHERE task_name = 'send_alert'"
    )
    state = await snapshot.read_for_operator(harness.context.pool, settings.load({}), harness.clock)
    assert [(job.task, job.owed) for job in state.work.failed] == [("send_alert", False)]


def test_the_page_documents_the_message(clock):
    """The page's example has the members of a real message, and its table has every kind."""
    page = (Path(__file__).parents[3] / "docs" / "operate" / "alerts-webhook.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    test_alert = alerts.make_test_alert(clock.now())
    sent = alerts.payload(test_alert, rehearsed=False, journal_head=None)
    assert list(json.loads(example)) == list(sent)
    kinds = re.findall(r'kind="(\w+)"', Path(alerts.__file__).read_text())
    assert sorted(kinds) == sorted(
        re.findall(r"^\| `(\w+)` \|", page[page.index("| kind | when") :], re.MULTILINE)
    )


async def test_the_operators_test(receiver, commanded):
    """The test alert is sent at once, one time, and the exit code shows the outcome."""
    url = f"{receiver.url}/{SECRET}"
    result = await asyncio.to_thread(commanded, "alert", "test", ALERT_WEBHOOK_URL=url)
    (alert,) = receiver.alerts
    assert (result.exit_code, result.output) == (
        0,
        f"Delivered: ALERT_WEBHOOK_URL answered 204. The alert's id: {alert['id']}\n",
    )
    assert (alert["kind"], alert["text"], alert["journal_head"]) == (
        "test",
        "Alpha Monday: this is a test. Nothing is to be done.",
        None,
    )

    receiver.play(Reply(status=500))
    result = await asyncio.to_thread(commanded, "alert", "test", ALERT_WEBHOOK_URL=url)
    assert (result.exit_code, result.error) == (
        1,
        "alpha-monday: ALERT_WEBHOOK_URL answered 500. "
        "The service would repeat the request for a day.\n",
    )
    receiver.play(Reply(status=404))
    result = await asyncio.to_thread(commanded, "alert", "test", ALERT_WEBHOOK_URL=url)
    assert result.exit_code == 1
    assert (
        "answered 404: the server does not accept the request; check the address." in result.error
    )
    result = await asyncio.to_thread(commanded, "alert", "test")
    assert result.exit_code == 1
    assert result.error.startswith(
        "alpha-monday: ALERT_WEBHOOK_URL is not set, so no alerts are sent. Set it, for example "
    )
    assert len(receiver.requests) == 3
