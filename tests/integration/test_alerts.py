"""Alerts: each kind caused for real, told if and only if it was stored, again until taken, and without the address."""

import asyncio
import json
import re
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from job_tools import MONDAY, completes, logged, new_york, the_time_it_says
from job_tools import clock as clock
from processes import asked, eventually, settle, working
from provider_server import HANGING, Reply, says
from receivers import SECRET, TAKEN, pauses, told, told_again
from receivers import house as house
from receivers import receiver as receiver

from app.commands import status
from app.core import settings
from app.database import pools
from app.database.rehearsed import CLOCK
from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.errors import QuotaSpent
from app.ops import snapshot
from app.providers import webhook
from app.providers.rate_limiter import windows
from app.simulation import rehearsal
from jobs import alerts, daily, messages, queue, reconcile, weekly
from jobs.context import RealClock

TUESDAY = date(2026, 10, 27)
OUTCOMES = "SELECT kind, outcome FROM operations.alerts ORDER BY at, id"
SPENT = says(
    {"Information": "We have detected your API key as X and our standard API rate limit is 25 requests per day."}
)


async def a_missed_monday(house):
    """Nobody was there on the Monday after the batch's; only that is wrong."""
    await house.a_batch()
    house.clock.time = new_york(MONDAY + timedelta(days=8), 8)
    async with pools.transaction(house.tools.pool) as conn:
        assert await weekly.miss(conn, house.tools, MONDAY + timedelta(days=7))


async def an_alert(house, receiver):
    """One alert that waits; what sends it as the queue does."""
    await a_missed_monday(house)
    ((id, job),) = await house.rows(
        "SELECT args ->> 'alert', id FROM procrastinate_jobs WHERE task_name = 'send_alert'"
    )
    (found,) = [one for one in await queue.app.job_manager.list_jobs_async() if one.id == job]
    return lambda: alerts.send(house.tools, UUID(id), found)


# The four kinds


async def test_a_monday_that_fails(house, receiver):
    """Three answers of no use: the whole of what arrives, and that its id is the key of its repeats."""
    house.world.model = [completes("Buy what you know.")]
    await house.begin()
    await told(house)
    (alert,) = receiver.alerts
    failure = (await house.batch()).failure
    text = (
        f"Alpha Monday: the Monday 2026-10-26 failed (NO_USABLE_ANSWER): {failure} "
        "`alpha-monday pick` runs it again, until it is over in New York."
    )
    assert alert == {
        "id": receiver.requests[0].headers["idempotency-key"],
        "kind": "monday_failed",
        "at": "2026-10-26T13:00:00.000000Z",
        "run_date": "2026-10-26",
        "day": None,
        "reason": "NO_USABLE_ANSWER",
        "text": text,
        "content": text,
        "to_do": "`alpha-monday pick` runs it again, until it is over in New York.",
        "rehearsed": False,
        "service": "alpha-monday",
        "version": version("alpha-monday"),
    }
    assert await house.rows(OUTCOMES) == [("monday_failed", "delivered")]


async def test_a_monday_that_was_missed(house, receiver):
    """It fails as well, long after; a week later nothing more is said of it."""
    await house.a_batch()
    for day in (8, 9):
        house.clock.time = new_york(MONDAY + timedelta(days=day), 8)
        await reconcile.look_after(house.tools)
        await told(house)
    (alert,) = [one for one in receiver.alerts if one["kind"] == "monday_failed"]
    assert (alert["run_date"], alert["reason"]) == ("2026-11-02", "MISSED")
    assert alert["text"] == (
        "Alpha Monday: the Monday 2026-11-02 failed (MISSED): Nobody was there to ask on that Monday. "
        "Picks are never back-dated; `alpha-monday status` says whether a service runs now."
    )


async def test_a_monday_that_fails_twice(house, receiver):
    """What is run again by hand and fails again is told again."""
    house.world.model = [completes("Buy what you know.")]
    await house.begin()
    await house.begin(questions=6)
    await told(house)
    assert [one["run_date"] for one in receiver.alerts] == ["2026-10-26"] * 2
    assert len({one["id"] for one in receiver.alerts}) == 2


async def test_a_close_that_is_missing(house, receiver):
    """The last time of asking is over: the morning is skipped, and told."""
    batch = await house.a_batch()
    house.world.absent.add(("MSFT", MONDAY))
    house.clock.time = new_york(TUESDAY, 20, 30)
    await daily.take(house.tools, batch.id, 1)
    await told(house)
    (alert,) = receiver.alerts
    assert (alert["kind"], alert["run_date"], alert["day"]) == ("checkpoint_skipped", "2026-10-26", 1)
    # Four requests, 1.1 seconds apart.
    assert (alert["at"], alert["reason"]) == ("2026-10-28T00:30:03.300000Z", "MISSING_CLOSE")
    assert alert["to_do"] == ("Upkeep looks again once a day, `alpha-monday checkpoint retake 2026-10-26 1` at once.")
    assert alert["text"] == (
        "Alpha Monday: day 1 of the Monday 2026-10-26 was skipped (MISSING_CLOSE): MSFT: no close of 2026-10-26 by the "
        f"last time of asking. {alert['to_do']}"
    )


async def test_a_closed_market_is_no_news(house):
    """Neither that it is skipped, nor that a skipped morning stays as it is."""
    batch = await house.a_batch()
    house.clock.time = new_york(MONDAY + timedelta(days=6))
    await daily.take(house.tools, batch.id, 6)
    assert await house.rows("SELECT skip_reason FROM checkpoints WHERE day = 6") == [("MARKET_CLOSED",)]
    house.world.absent.add(("MSFT", MONDAY))
    house.clock.time = new_york(MONDAY + timedelta(days=6), 20, 30)
    await daily.take(house.tools, batch.id, 1)
    await daily.take(house.tools, batch.id, 1, again=True)
    assert await house.rows(OUTCOMES) == [("checkpoint_skipped", None)]


async def test_a_quota_that_the_provider_says_is_spent(house, receiver):
    """Two mornings wait for it, and one alert says so; what the provider said is not in it."""
    await house.a_batch()
    await house.rows("DELETE FROM procrastinate_jobs WHERE (args ->> 'day')::integer > 2")
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    house.clock.time = new_york(TUESDAY + timedelta(days=1))
    house.world.instead = [SPENT]
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)
    assert await house.rows("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND attempts = 1") == [(2,)]
    await told(house)
    (alert,) = receiver.alerts
    assert (alert["kind"], alert["run_date"], alert["reason"]) == ("quota_spent", None, None)
    assert alert["text"] == (
        "Alpha Monday: the quota of prices is spent, at first until 2026-10-28 14:00 UTC: what needs them waits. "
        "It goes on by itself; `alpha-monday status` says what is left and what waits."
    )


async def found_spent(house):
    """A morning that needs prices finds the quota spent."""
    async with alerts.quota_watched(house.tools):
        raise QuotaSpent("The quota is spent.", house.clock.now() + timedelta(hours=1))


async def test_a_quota_is_told_of_once(house):
    """Eight jobs at once, and hour after hour, are one alert; after an hour in which it was free, it is news again."""
    await asyncio.gather(*(found_spent(house) for _ in range(8)), return_exceptions=True)
    for _ in range(3):
        house.clock.forward(hours=1, seconds=5)
        with pytest.raises(QuotaSpent):
            await found_spent(house)
    assert await house.rows("SELECT kind, until - at FROM operations.alerts") == [
        ("quota_spent", timedelta(hours=4, seconds=15))
    ]
    house.clock.forward(hours=2)
    with pytest.raises(QuotaSpent):
        await found_spent(house)
    assert await house.rows("SELECT count(*) FROM operations.alerts") == [(2,)]


async def test_our_own_count(house, receiver):
    """What the ledger does not allow is a spent quota, too."""
    await house.a_batch()
    await house.rows("DELETE FROM operations.provider_requests")
    house.tools.prices.ledger.limits = windows(per_second=100, per_minute=100, per_day=2)
    house.clock.time = new_york(TUESDAY)
    with pytest.raises(QuotaSpent):
        await mornings_work(house)
    await told(house)
    (alert,) = receiver.alerts
    assert alert["text"] == (
        "Alpha Monday: the quota of prices is spent, at first until 2026-10-28 13:00 UTC: what needs them waits. "
        "It goes on by itself; `alpha-monday status` says what is left and what waits."
    )


async def mornings_work(house):
    """What the first morning's job does."""
    async with alerts.quota_watched(house.tools):
        await daily.take(house.tools, batch_id(SERIES, MONDAY), 1)


async def test_a_job_that_a_dead_process_left(house, receiver):
    """One alert for what a round mended; nothing for a round that mended nothing."""
    await house.a_batch()
    await house.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE (args ->> 'day')::integer IN (1, 2)")
    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '3'")
    house.clock.time = new_york(MONDAY + timedelta(days=3))
    for _ in range(2):
        await reconcile.look_after(house.tools)
    await told(house)
    (alert,) = receiver.alerts
    assert (alert["kind"], alert["reason"]) == ("upkeep_mended", "PUT_BACK, DEFERRED")
    assert alert["text"] == (
        "Alpha Monday: upkeep mended what was broken: 2 jobs left behind by a process that died; 1 job deferred for "
        "checkpoints that had none. `alpha-monday status` says how everything stands; the log around this time says "
        "why."
    )


async def test_a_message_that_is_put_back_is_no_news(house, receiver):
    """Or a process that dies of telling would be told of for ever."""
    await an_alert(house, receiver)
    await house.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE task_name = 'send_alert'")
    assert not await reconcile.look_after(house.tools)
    await told(house)
    assert [one["kind"] for one in receiver.alerts] == ["monday_failed"]


# If and only if


async def test_what_is_undone_is_not_told(house):
    """A transaction that is rolled back leaves neither an alert nor a job."""

    async def undone():
        async with pools.transaction(house.tools.pool) as conn:
            assert await weekly.miss(conn, house.tools, MONDAY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await undone()
    assert await house.rows("SELECT FROM operations.alerts") == []
    assert await house.rows("SELECT FROM procrastinate_jobs") == []


async def test_who_is_second_tells_nothing(house):
    """Only the first of two that store the same is the one that tells."""
    for _ in range(2):
        async with pools.transaction(house.tools.pool) as conn:
            await weekly.miss(conn, house.tools, MONDAY)
    assert len(await house.rows(OUTCOMES)) == 1


async def test_a_crash_before_it_is_told(house, receiver, monkeypatch):
    """A process that died between the fact and the alert, and one in the middle of telling, lose nothing."""
    monkeypatch.setattr(webhook, "TIME_LIMIT", 0.5)
    await an_alert(house, receiver)
    receiver.play(HANGING)
    worker = asyncio.create_task(told(house))
    await receiver.asked.wait()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    # As a SIGKILL leaves it.
    await house.rows("UPDATE procrastinate_jobs SET status = 'doing', worker_id = NULL WHERE task_name = 'send_alert'")
    receiver.play(TAKEN)
    await reconcile.look_after(house.tools)
    await told_again(house)
    first, second = receiver.alerts
    assert first == second
    assert await house.rows(OUTCOMES) == [("monday_failed", "delivered")]


@pytest.mark.long
async def test_a_worker_that_is_killed_in_the_middle_of_telling(tmp_path, database, pool, receiver):
    """Another one tells it again, word for word and with the same id; it is one alert."""
    this = calendar.latest_run_date(RealClock().now())
    await settle(pool)
    await settle(pool, weeks=2)
    receiver.play(HANGING)
    there = {"DATABASE_URL": database, "ALERT_WEBHOOK_URL": f"{receiver.url}/{SECRET}", "LOG_LEVEL": "DEBUG"}
    with working(tmp_path, **there) as killed:
        await eventually(lambda: receiver.requests, 30)
        killed.kill()
    receiver.play(TAKEN)
    with working(tmp_path, **there) as other:
        await eventually(lambda: asked(database, "SELECT FROM operations.alerts WHERE outcome = 'delivered'"), 120)
    first, second = receiver.alerts
    assert first == second
    assert (first["kind"], first["run_date"], first["reason"]) == (
        "monday_failed",
        str(this - timedelta(weeks=1)),
        "MISSED",
    )
    assert asked(database, "SELECT count(*) FROM operations.alerts") == [(1,)]
    assert SECRET not in killed.log + other.log


@pytest.mark.parametrize(
    ("happened", "arrives"),
    [
        pytest.param("DELETE FROM procrastinate_jobs", 1, id="deleted"),
        pytest.param(
            "UPDATE procrastinate_jobs SET status = 'failed'", 1, id="no task of that name in the old version"
        ),
        pytest.param("UPDATE procrastinate_jobs SET status = 'cancelled'", 0, id="cancelled by hand"),
        pytest.param(
            "WITH job AS (UPDATE procrastinate_jobs SET status = 'failed' RETURNING id) "
            "INSERT INTO operations.strikes (job_id, surprises) SELECT id, 5 FROM job",
            0,
            id="a surprise every time",
        ),
    ],
)
async def test_an_alert_without_a_job(house, receiver, happened, arrives):
    """It gets another, unless somebody or something ended it for good; in a day it is given up."""
    await an_alert(house, receiver)
    await house.rows("DELETE FROM procrastinate_jobs WHERE task_name <> 'send_alert'")
    await house.rows(happened)
    await house.rows("UPDATE batches SET status = 'completed' WHERE status = 'active'")
    for _ in range(2):
        await reconcile.look_after(house.tools)
    await told(house)
    assert len(receiver.alerts) == arrives
    house.clock.forward(days=1, hours=2)
    await reconcile.look_after(house.tools)
    assert (await house.rows(OUTCOMES))[0] == ("monday_failed", "delivered" if arrives else "given_up")
    house.clock.forward(days=30)
    await reconcile.look_after(house.tools)
    assert (
        await house.rows(
            "SELECT FROM operations.alerts WHERE kind = 'monday_failed' AND reason = 'MISSED' AND run_date = %s",
            MONDAY + timedelta(days=7),
        )
        == []
    )


async def test_an_alert_that_cannot_be_written(house):
    """It takes nothing with it: the fact is stored, and the log says what was lost."""
    await house.rows("ALTER TABLE operations.alerts ADD CONSTRAINT nothing_fits CHECK (false) NOT VALID")
    try:
        with logged("ERROR", house.clock) as lines:
            await a_missed_monday(house)
            with pytest.raises(QuotaSpent):
                await found_spent(house)
    finally:
        await house.rows("ALTER TABLE operations.alerts DROP CONSTRAINT nothing_fits")
    assert (await house.batch(MONDAY + timedelta(days=7))).failure_reason == "MISSED"
    lost = [(line["event"], line["kind"]) for line in lines if "kind" in line]
    assert lost == [("an alert was lost", "monday_failed"), ("an alert was lost", "quota_spent")]


# Telling


async def test_a_receiver_that_is_away_for_a_while(house, receiver):
    """The same alert again, with the same id, until it is taken; then no more."""
    await an_alert(house, receiver)
    receiver.play(Reply(status=500), Reply(status=503), TAKEN)
    for _ in range(4):
        await told_again(house)
    assert len(receiver.alerts) == 3
    assert len({json.dumps(alert) for alert in receiver.alerts}) == 1
    assert {request.headers["idempotency-key"] for request in receiver.requests} == {receiver.alerts[0]["id"]}


async def test_a_receiver_that_is_away_for_good(house, receiver):
    """It is asked after 30 seconds, then each time after as long again, at most an hour; after a day no more."""
    send = await an_alert(house, receiver)
    receiver.play(Reply(status=500))
    with logged("ERROR", house.clock) as lines:
        waited = [pause.total_seconds() for pause in await pauses(house, send)]
    assert waited[:8] == [30, 30, 60, 120, 240, 480, 960, 1920]
    assert set(waited[8:]) == {3600}
    assert sum(waited) == 30 * 2**7 + 3600 * 22  # 22 h and 64 min; another hour would be the second day
    assert len(receiver.requests) == len(waited) + 1
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("message given up", "ALERT_WEBHOOK_URL answered 500.")
    ]
    assert await house.rows(OUTCOMES) == [("monday_failed", "given_up")]


async def test_an_alert_that_waited_for_its_process(house, receiver):
    """After a day it is no alert any more: nothing is sent."""
    send = await an_alert(house, receiver)
    house.clock.forward(days=1)
    await send()
    assert receiver.requests == []
    assert await house.rows(OUTCOMES) == [("monday_failed", "given_up")]


async def test_a_receiver_that_asks_us_to_wait(house, receiver):
    """It is asked again when it said."""
    send = await an_alert(house, receiver)
    receiver.play(Reply(status=429, headers={"retry-after": "4711"}), TAKEN)
    assert await pauses(house, send) == [timedelta(seconds=4711)]


@pytest.mark.parametrize("status", [301, 400, 404, 410])
async def test_a_receiver_that_refuses(house, receiver, status):
    """It is not asked again; the log says once what to change."""
    send = await an_alert(house, receiver)
    receiver.play(Reply(status=status, headers={"location": f"{receiver.url}/elsewhere"}))
    with logged("ERROR", house.clock) as lines:
        assert await the_time_it_says(send) is None
        await send()
    assert [line["event"] for line in lines] == ["message given up"]
    assert f"ALERT_WEBHOOK_URL answered {status}" in lines[0]["reason"]
    assert len(receiver.requests) == 1


async def test_receivers_that_hang_take_two_slots(house, receiver):
    """Whoever comes after lets others have the worker; what it waits for is not counted as an attempt."""
    send = await an_alert(house, receiver)
    await house.rows(
        "INSERT INTO procrastinate_jobs (id, queue_name, task_name, priority, status) "
        "SELECT -n, 'default', 'send_alert', 0, 'doing' FROM generate_series(1, 2) AS n"
    )
    assert await the_time_it_says(send) == house.clock.now() + timedelta(seconds=15)
    assert receiver.requests == []


async def test_a_message_comes_after_everything_else(house, receiver):
    """Its priority is below that of any morning, and it shares no lock."""
    await an_alert(house, receiver)
    lowest = "SELECT min(priority) FROM procrastinate_jobs WHERE task_name = 'take_checkpoint'"
    ((morning,),) = await house.rows(lowest)
    assert await house.rows(
        "SELECT priority, lock, queueing_lock FROM procrastinate_jobs WHERE task_name = 'send_alert'"
    ) == [(messages.LAST, None, None)]
    assert messages.LAST < -date.max.toordinal() < morning


async def test_a_rehearsal_says_so(house, receiver, database):
    """What is made up is marked, also where only the text is shown."""
    await an_alert(house, receiver)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CLOCK)
    await told(house)
    (alert,) = receiver.alerts
    assert alert["rehearsed"] is True
    assert alert["text"].startswith("Alpha Monday (rehearsed): the Monday ")


@pytest.mark.parametrize(
    ("environment", "told"), [({}, ""), ({"ALERT_WEBHOOK_URL": "http://a.example/b"}, "http://a.example/b")]
)
def test_whom_a_rehearsal_tells(monkeypatch, environment, told):
    """Nobody, unless the address stands in the environment; what a file says is for the live service."""
    for name in ("ALERT_WEBHOOK_URL", "HEARTBEAT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    providers = {"OPENAI_BASE_URL": "http://a.example/v1", "ALPHA_VANTAGE_BASE_URL": "http://a.example"}
    receivers = {"ALERT_WEBHOOK_URL": "http://a.example/b", "HEARTBEAT_URL": "http://a.example/c"}
    with rehearsal.played(settings.load(providers | receivers), "host=nowhere", calm=True) as provided:
        assert (provided.alert_webhook_url, provided.heartbeat_url) == (told, "")


async def test_words_that_somebody_else_wrote(house, receiver):
    """In a chat they call nobody and are no link, on one line, of bounded length."""
    batch = await house.a_batch()
    async with pools.transaction(house.tools.pool) as conn:
        due = daily.Due(batch.id, MONDAY, 1)
        await daily.give_up(conn, house.tools, due, "<!channel> @everyone\n<https://evil.example|ok>" + "x" * 3000)
    await told(house)
    (alert,) = receiver.alerts
    assert "‹!channel› ＠everyone ‹https://evil.example|ok›xxx" in alert["text"]
    assert len(alert["text"]) == 1500
    assert alert["text"].endswith(f"xxx… {alert['to_do']}")
    assert alert["content"] == alert["text"]


async def test_off(house, receiver, clock):
    """Without an address nothing is written down, and what still waits is given up."""
    send = await an_alert(house, receiver)
    before = house.tools.alerts
    object.__setattr__(house.tools, "alerts", webhook.Receiver("ALERT_WEBHOOK_URL", "", clock))
    await before.close()
    async with pools.transaction(house.tools.pool) as conn:
        assert await weekly.miss(conn, house.tools, MONDAY + timedelta(days=21))
    await send()
    assert await house.rows(OUTCOMES) == [("monday_failed", "given_up")]
    assert receiver.requests == []


# What nobody learns


async def test_the_address_is_nowhere(house, receiver, database):
    """In no line at the chattiest level, and in no row of any table, whatever the receiver did."""
    with logged("DEBUG", house.clock) as lines:
        send = await an_alert(house, receiver)
        for reply in (Reply(status=500), Reply(status=307, headers={"location": f"{receiver.url}/{SECRET}"})):
            receiver.play(reply)
            await told_again(house)
        await reconcile.look_after(house.tools)
        await told_again(house)
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
            assert SECRET not in str(conn.execute(f"SELECT t::text FROM {table} t").fetchall()), table


# What the operator sees and tries


async def test_status(house, receiver):
    """Whether it is on, the last one, what became of it, and what waits; never the address."""
    environment = {"ALERT_WEBHOOK_URL": f"https://hooks.example/{SECRET}", "HEARTBEAT_URL": ""}

    async def said():
        stands = await snapshot.for_operator(house.tools.pool, settings.load(environment), house.clock)
        lines = [line for line in status.facts(stands) if line.startswith(("alerts", "heartbeat"))]
        return lines, [line for line in status.notes(stands) if "given up" in line]

    assert await said() == (["alerts: on; none yet", "heartbeat: off, HEARTBEAT_URL is not set here"], [])
    send = await an_alert(house, receiver)
    lines, notes = await said()
    assert lines[0] == "alerts: on; last monday failed, Tuesday, 2026-11-03 08:00 in New York: waiting; 1 waiting"
    receiver.play(Reply(status=404))
    await send()
    lines, notes = await said()
    assert lines[0] == "alerts: on; last monday failed, Tuesday, 2026-11-03 08:00 in New York: given up"
    assert notes == ["The last alert was given up: the service's log says why (`message given up`)."]


async def test_a_job_that_failed_is_owed_nothing(house, receiver):
    """It is told of, but nobody is to do anything for it."""
    await an_alert(house, receiver)
    await house.rows("UPDATE procrastinate_jobs SET status = 'failed' WHERE task_name = 'send_alert'")
    stands = await snapshot.for_operator(house.tools.pool, settings.load({}), house.clock)
    assert [(job.task, job.owed) for job in stands.work.failed] == [("send_alert", False)]


def test_the_page_says_what_arrives(clock):
    """Its example has the members of what is sent, and its table every kind."""
    page = (Path(__file__).parents[2] / "docs" / "operate" / "alerts-webhook.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    sent = alerts.payload(alerts.about_nothing(clock.now()), rehearsed=False)
    assert list(json.loads(example)) == list(sent)
    kinds = re.findall(r'kind="(\w+)"', Path(alerts.__file__).read_text())
    assert sorted(kinds) == sorted(re.findall(r"^\| `(\w+)` \|", page[page.index("| kind | when") :], re.MULTILINE))


async def test_the_operators_test(receiver, commanded):
    """It is sent right now, once, and the exit code is what became of it."""
    url = f"{receiver.url}/{SECRET}"
    said = await asyncio.to_thread(commanded, "alert", "test", ALERT_WEBHOOK_URL=url)
    (alert,) = receiver.alerts
    assert (said.code, said.out) == (0, f"Delivered: ALERT_WEBHOOK_URL answered 204. The alert's id: {alert['id']}\n")
    assert (alert["kind"], alert["text"]) == ("test", "Alpha Monday: this is a test. Nothing is to be done.")

    receiver.play(Reply(status=500))
    said = await asyncio.to_thread(commanded, "alert", "test", ALERT_WEBHOOK_URL=url)
    assert (said.code, said.err) == (
        1, "alpha-monday: ALERT_WEBHOOK_URL answered 500. The service would try again, for a day.\n"
    )  # fmt: skip
    receiver.play(Reply(status=404))
    said = await asyncio.to_thread(commanded, "alert", "test", ALERT_WEBHOOK_URL=url)
    assert said.code == 1
    assert "answered 404: it does not take what is sent; check the address." in said.err
    said = await asyncio.to_thread(commanded, "alert", "test")
    assert said.code == 1
    assert said.err.startswith("alpha-monday: ALERT_WEBHOOK_URL is not set, so nobody is told; for example ")
    assert len(receiver.requests) == 3
