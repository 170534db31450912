"""
Mornings that fail, and Mondays that nobody saw: what the record then shows, and what it cost in requests.

First whole weeks in told time against stand-ins that follow a script of faults; then the jobs' functions, moment by
moment, with a clock that is set by hand.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from api_records import engine_on
from commands import run
from job_tools import CHOSEN, MONDAY, House, an_answer, completes, new_york, until_it_can
from job_tools import clock as clock
from job_tools import house as house
from provider_server import Reply
from psycopg.rows import dict_row

from app.database.pools import transaction
from app.domain.calendar import due_at
from app.domain.model import Batch
from app.store import checkpoints
from jobs import daily, reconcile
from jobs.reconcile import Mended

NEW_YORK = ZoneInfo("America/New_York")
EARLIER = MONDAY - timedelta(weeks=1)
TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = (MONDAY + timedelta(days=days) for days in range(1, 5))
LAST_SESSION = MONDAY + timedelta(days=11)  # of the fortnight: a Friday, used on day 12

OTHERS = "OTHER"  # what a test lets others have asked for


def rule(fault: str, since: datetime, until: datetime, symbol: str | None = None) -> dict[str, Any]:
    """A rule of a script: what Alpha Vantage does wrong, from when to when."""
    about = {"symbol": symbol} if symbol else {}
    times = {"since": since.isoformat(), "until": until.isoformat()}
    return {"provider": "alphavantage", "fault": fault, **times, **about}


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), NEW_YORK)


class Weeks:
    """Weeks that were lived through: what the stand-ins were asked, and what the database then holds."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

    def live(self, weeks: int, until: date, rules: Sequence[dict[str, Any]] = ()) -> None:
        """Live through weeks in told time, or go on where they stood still."""
        faults = self.folder / "faults.json"
        faults.write_text(json.dumps(list(rules)))
        options = ("--weeks", weeks, "--until", until, "--calm", "--faults", faults, "--no-serve")
        done = run("rehearse", *options, cwd=self.folder, DATABASE_URL=self.address)
        assert done.returncode == 0, done.stderr

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.address, row_factory=dict_row) as conn:
            return conn.execute(query.encode(), values).fetchall()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What Alpha Vantage's stand-in was asked, each with its day in New York."""
        lines = map(json.loads, (self.folder / ".alpha-monday" / "requests.jsonl").read_text().splitlines())
        asked = [{**line, "at": datetime.fromisoformat(line["at"]).astimezone(NEW_YORK)} for line in lines]
        return [{**one, "day": one["at"].date()} for one in asked if one["provider"] == "alphavantage"]

    def asked(self, *fields: str) -> Counter[Any]:
        """How many requests there were, by these fields of theirs."""
        return Counter(tuple(one[field] for field in fields) for one in self.requests)

    def checkpoints(self, *dates: date) -> dict[tuple[date, date], dict[str, Any]]:
        """The checkpoints of these dates, by run date and their own."""
        found = self.rows(
            """
            SELECT run_date, checkpoints.*, (
                SELECT count(*) FROM pick_checkpoint_metrics WHERE checkpoint_id = checkpoints.id) AS metrics
            FROM checkpoints JOIN batches ON batches.id = batch_id
            WHERE checkpoint_date = ANY(%s) AND day > 0
            ORDER BY checkpoint_date, run_date
            """,
            list(dates),
        )
        return {(one["run_date"], one["checkpoint_date"]): one for one in found}

    def keep_the_law(self) -> None:
        """Whatever happened: nothing partial, nothing for the wrong session, no limit exceeded, no job given up."""
        for one in self.rows(
            "SELECT status, trading_day, checkpoint_date, count(pick_id) AS metrics FROM checkpoints "
            "LEFT JOIN pick_checkpoint_metrics ON checkpoint_id = checkpoints.id WHERE day > 0 GROUP BY checkpoints.id"
        ):
            if one["status"] == "skipped":
                assert (one["metrics"], one["trading_day"]) == (0, None)
            else:
                assert (one["metrics"], one["trading_day"]) == (3, one["checkpoint_date"] - timedelta(days=1))
        told = [(one["at"], one["symbol"]) for one in sorted(self.requests, key=lambda one: one["at"])]
        ledger = self.rows("SELECT at, symbol FROM operations.provider_requests ORDER BY at")
        assert {one["refused"] for one in self.requests} == {None}
        for times in (told, [(one["at"], one["symbol"]) for one in ledger]):
            for count, seconds in ((1, 1), (5, 60), (25, 86_400)):
                pairs = zip(times, times[count:], strict=False)
                gaps = [later - earlier for (earlier, _), (later, symbol) in pairs if symbol != OTHERS]
                assert min(gaps, default=timedelta.max) >= timedelta(seconds=seconds)
        (jobs,) = self.rows("SELECT array_agg(DISTINCT status::text) AS known FROM queue.procrastinate_jobs")
        assert set(jobs["known"]) <= {"succeeded", "todo"}
        assert "Traceback" not in (self.folder / ".alpha-monday" / "rehearsal.log").read_text()

    def entries(self, checkpoint: dict[str, Any]) -> list[str]:
        """What the journal says of a checkpoint, entry by entry: its status."""
        contents = [json.loads(one["content"]) for one in self.rows("SELECT content FROM journal ORDER BY seq")]
        return [
            one["checkpoint"]["status"]
            for one in contents
            if one["kind"] == "CHECKPOINT" and one["checkpoint"]["id"] == str(checkpoint["id"])
        ]


@pytest.fixture
def weeks(tmp_path, create) -> Weeks:
    """A folder and a database for weeks of one's own."""
    return Weeks(tmp_path, create())


def own_morning(one: dict[str, Any], field: str) -> timedelta:
    """How long after its own nine o'clock this happened to a checkpoint."""
    return one[field] - new_york(one["checkpoint_date"])


@pytest.mark.long
def test_alpha_vantage_down_from_tuesday_to_thursday(weeks):
    """
    Two batches, three mornings: each is skipped with what the provider said, which costs little because attempts are
    everybody's.

    On Friday, the first morning with an answer, seven requests bring all six days, each for its own session. What was
    skipped shows when and why for ever, and has two entries in the journal.
    """
    outage = [
        rule("cut", midnight(TUESDAY), midnight(WEDNESDAY)),
        rule("http_503", midnight(WEDNESDAY), midnight(FRIDAY)),
    ]
    weeks.live(2, FRIDAY + timedelta(days=1), outage)
    weeks.keep_the_law()

    days = weeks.checkpoints(TUESDAY, WEDNESDAY, THURSDAY)
    assert list(days) == [(run, day) for day in (TUESDAY, WEDNESDAY, THURSDAY) for run in (EARLIER, MONDAY)]
    for (_, day), one in days.items():
        assert one["status"] == "computed"
        assert new_york(FRIDAY) <= one["taken_at"] < midnight(FRIDAY + timedelta(days=1))
        said = "Alpha Vantage cannot be reached (RemoteProtocolError)." if day == TUESDAY else "answered 503."
        if one["skipped_at"]:
            assert one["skip_reason"] == "PROVIDER_ERROR"
            assert said in one["note"]
            assert weeks.entries(one) == ["skipped", "computed"]
        else:
            assert (one["skip_reason"], one["note"]) == (None, None)
            assert weeks.entries(one) == ["computed"]
    # There was quota enough to learn at once that nothing helps.
    assert all(timedelta(0) < own_morning(one, "skipped_at") < timedelta(minutes=5) for one in days.values())

    spent = weeks.asked("day", "fault")
    # At nine five attempts in all and a last one of the second batch's, and the same for the second chances.
    assert spent[TUESDAY, "cut"] == 2 * (5 + 1)
    assert spent[WEDNESDAY, "http_503"] <= 25
    assert spent[THURSDAY, "http_503"] <= 25
    assert spent[FRIDAY, None] == 7  # SPY, and three picks of each batch: one request a ticker serves every day
    assert {one["symbol"] for one in weeks.requests if one["fault"]} == {"SPY"}
    later = weeks.checkpoints(FRIDAY, FRIDAY + timedelta(days=1))
    assert all(
        one["skipped_at"] is None and own_morning(one, "taken_at") < timedelta(minutes=5) for one in later.values()
    )


@pytest.mark.long
def test_the_quota_spent_by_others_at_nine(weeks):
    """
    The ledger is full at nine: both batches' checkpoints wait until it frees, and nothing is skipped for waiting.

    They are taken for the sessions they were due for, a request at a time, as one after another becomes a day old.
    """
    weeks.live(2, MONDAY)
    first = new_york(TUESDAY, 7, 30)
    with psycopg.connect(weeks.address) as conn:
        conn.execute(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at, ended_at, outcome) "
            "SELECT 'alphavantage', 'TIME_SERIES_DAILY', %s, at, at, 'answered' "
            "FROM generate_series(%s::timestamptz, %s::timestamptz, interval '210 s') AS at",
            (OTHERS, first, first + timedelta(seconds=24 * 210)),
        )
    weeks.live(2, WEDNESDAY)
    weeks.keep_the_law()

    days = weeks.checkpoints(TUESDAY)
    assert list(days) == [(EARLIER, TUESDAY), (MONDAY, TUESDAY)]
    for one in days.values():
        assert (one["status"], one["skip_reason"], one["skipped_at"]) == ("computed", None, None)
        assert new_york(WEDNESDAY, 7, 30) < one["taken_at"] < new_york(WEDNESDAY, 8)
        assert weeks.entries(one) == ["computed"]
    spent = weeks.asked("day")
    # One request a ticker in the early morning brought Tuesday's closes too: at nine nothing was left to ask for.
    assert (spent[TUESDAY,], spent[WEDNESDAY,]) == (0, 7)
    assert all(one["status"] == "computed" for one in weeks.checkpoints(WEDNESDAY).values())


@pytest.mark.long
def test_a_quota_that_the_provider_says_is_spent(weeks):
    """
    From Tuesday to Thursday noon the provider says so whatever our own count: six checkpoints of two batches wait.

    One request an hour asks for all of them; when it is answered all six are computed, with seven requests, as
    fast as those spent on asking leave the ledger, and none was ever skipped.
    """
    weeks.live(2, FRIDAY, [rule("quota", midnight(TUESDAY), new_york(THURSDAY, 12))])
    weeks.keep_the_law()

    days = weeks.checkpoints(TUESDAY, WEDNESDAY, THURSDAY)
    assert len(days) == 6
    for one in days.values():
        assert (one["status"], one["skip_reason"], one["skipped_at"]) == ("computed", None, None)
        assert new_york(THURSDAY, 12) < one["taken_at"] < new_york(FRIDAY)
        assert weeks.entries(one) == ["computed"]
    spent = weeks.asked("day", "fault")
    assert [spent[day, "quota"] for day in (TUESDAY, WEDNESDAY, THURSDAY)] == [15, 24, 12]  # from nine on, hour by hour
    assert (spent[THURSDAY, None], spent[FRIDAY, None]) == (7, 7)
    asked = Counter(one["at"].replace(minute=0, second=0, microsecond=0) for one in weeks.requests if one["fault"])
    assert set(asked.values()) == {1}
    assert all(own_morning(one, "taken_at") < timedelta(minutes=5) for one in weeks.checkpoints(FRIDAY).values())


def test_a_pick_whose_bars_come_in_the_afternoon(weeks):
    """
    Every day its close comes at 16:15: every morning is computed at 16:30, with its own session, none is skipped.

    It is asked for five times a day, the others once: eight requests. Monday's own baseline waits in the same way, and
    is late.
    """
    days = [MONDAY + timedelta(days=days) for days in range(6)]
    weeks.live(1, days[-1], [rule("late_bar", midnight(day), new_york(day, 16, 15), "JPM") for day in days])
    weeks.keep_the_law()

    taken = weeks.checkpoints(*days)
    assert list(taken) == [(MONDAY, day) for day in days[1:]]
    for one in taken.values():
        assert (one["status"], one["skip_reason"]) == ("computed", None)
        assert timedelta(0) < own_morning(one, "taken_at") - timedelta(hours=7, minutes=30) < timedelta(minutes=1)
        assert weeks.entries(one) == ["computed"]
    (batch,) = weeks.rows("SELECT late, created_at FROM batches")
    assert batch["late"]
    assert new_york(MONDAY, 16, 30) < batch["created_at"] < new_york(MONDAY, 16, 31)
    asked = weeks.asked("day", "symbol")
    for day in days:
        assert {symbol: count for (on, symbol), count in asked.items() if on == day} == {
            "SPY": 1,
            "JPM": 5,
            "UPS": 1,
            "NVDA": 1,
        }
        times = [one["at"] for one in weeks.requests if (one["day"], one["symbol"]) == (day, "JPM")]
        assert [(at.hour, at.minute) for at in times] == [(9, 0), (9, 30), (10, 30), (12, 30), (16, 30)]
    assert weeks.rows("SELECT count(*) AS asked FROM generations") == [{"asked": 1}]  # not again for each attempt


# Mondays that nobody saw


FAILED = "SELECT run_date, status, failure_reason, failure, late FROM batches WHERE status = 'failed' ORDER BY run_date"
NOBODY = "Nobody was there to ask on that Monday."


async def test_a_missed_monday(house):
    """When it is over it gets its row, once: failed, MISSED, late, with an entry in the journal, and no question."""
    await house.a_batch(EARLIER)
    house.clock.time = new_york(TUESDAY, 0, 0)
    assert (await reconcile.look_after(house.tools)).missed == 1
    assert await house.rows(FAILED) == [(MONDAY, "failed", "MISSED", NOBODY, True)]
    entry = (await house.journal())[-1]
    recorded = json.loads(entry.content)
    assert (entry.kind, recorded["batch"]["failure_reason"], recorded["batch"]["run_date"]) == (
        "FAILURE",
        "MISSED",
        str(MONDAY),
    )
    assert entry.at == house.clock.now()
    assert (await reconcile.look_after(house.tools)).missed == 0
    assert len(await house.journal()) == entry.seq
    assert house.provider.requests == []


async def test_five_mondays_missed_in_a_row(house):
    """After five weeks away every Monday has its row; today's is begun, not missed."""
    first = date(2026, 9, 21)
    await house.a_batch(first)
    house.clock.time = new_york(date(2026, 11, 2), 12)
    mended = await reconcile.look_after(house.tools)
    assert (mended.missed, mended.begun) == (5, True)
    missed = [first + timedelta(weeks=week) for week in range(1, 6)]
    assert await house.rows(FAILED) == [(monday, "failed", "MISSED", NOBODY, True) for monday in missed]
    assert [entry.kind for entry in await house.journal()][-5:] == ["FAILURE"] * 5
    assert [task for task, args, _ in await house.jobs() if task == "pick_week"] == ["pick_week"]
    assert (await reconcile.look_after(house.tools)).missed == 0


async def test_no_monday_is_missed_before_the_first(house):
    """A record without a batch misses nothing; one with a batch, nothing before it."""
    house.clock.time = new_york(FRIDAY)
    assert await reconcile.look_after(house.tools) == Mended()
    assert await house.rows("SELECT count(*) FROM batches") == [(0,)]
    await house.a_batch(MONDAY)
    house.clock.time = new_york(FRIDAY)
    assert (await reconcile.look_after(house.tools)).missed == 0
    assert await house.rows(FAILED) == []


@pytest.mark.parametrize("clock_time", [(0, 0), (8, 59), (23, 59)])
async def test_a_monday_is_not_missed_before_it_is_over(house, clock_time):
    """Before nine and until midnight it can still be had."""
    await house.a_batch(EARLIER)
    house.clock.time = new_york(MONDAY, *clock_time)
    assert (await reconcile.look_after(house.tools)).missed == 0
    assert await house.batch(MONDAY) is None


async def test_a_missed_monday_is_not_run_afterwards(house):
    """Neither a tick nor a person makes picks of a Monday that is over."""
    await house.a_batch(EARLIER)
    house.clock.time = new_york(TUESDAY)
    await reconcile.look_after(house.tools)
    await house.begin(job_id=99)
    await house.begin(job_id=99, questions=6)
    assert (await house.batch(MONDAY)).failure_reason == "MISSED"
    assert house.provider.requests == []


async def test_a_monday_over_before_its_prices_were_in(house):
    """Picks are never back-dated: at midnight the answer is paid for and the Monday failed, and both are recorded."""
    house.clock.time = new_york(MONDAY, 23, 59) + timedelta(seconds=58)
    await house.begin()
    batch = await house.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "MISSED")
    assert batch.failure == "The Monday was over before its prices were in."
    assert batch.created_at >= new_york(TUESDAY, 0)
    assert batch.late
    assert await house.rows("SELECT accepted FROM generations") == [(True,)]
    assert await house.rows("SELECT count(*) FROM picks") == [(0,)]
    assert [entry.kind for entry in await house.journal()] == ["GENERATION", "FAILURE"]
    assert await house.jobs() == []
    assert (await reconcile.look_after(house.tools)).missed == 0


async def test_a_monday_that_waited_for_quota_until_it_was_over(house):
    """Its job ends quietly on Tuesday, and the Monday is recorded as missed."""
    await house.a_batch(EARLIER)
    await house.rows(
        "INSERT INTO operations.provider_requests (provider, function, symbol, at) "
        "SELECT 'alphavantage', 'TIME_SERIES_DAILY', 'OTHER', %s FROM generate_series(1, 25)",
        new_york(MONDAY, 8, 59),
    )
    house.clock.time = new_york(MONDAY)
    (later,) = await until_it_can(house, lambda: house.begin(job_id=2))
    assert new_york(TUESDAY, 8, 59) <= later < new_york(TUESDAY)
    assert house.asked == []
    assert (await reconcile.look_after(house.tools)).missed == 1
    assert (await house.batch(MONDAY)).failure_reason == "MISSED"


# Second chances


RETAKES = (
    "SELECT (args ->> 'day')::integer, args ->> 'retake', status::text FROM procrastinate_jobs "
    "WHERE args ? 'retake' ORDER BY id"
)


async def skipped(house: House, day: int = 1, run_date: date = MONDAY) -> Batch:
    """A batch whose checkpoint of `day` was skipped for want of a close; the close is there again now."""
    batch = await house.a_batch(run_date)
    session = run_date + timedelta(days=day - 1)
    house.world.absent.add(("AAPL", session))
    house.clock.time = due_at(run_date, day)
    await until_it_can(house, lambda: daily.take(house.tools, batch.id, day))
    house.world.absent.clear()
    house.provider.requests.clear()
    one = await checkpoint(house, batch, day)
    assert (one.status, one.skip_reason) == ("skipped", "MISSING_CLOSE")
    return batch


async def checkpoint(house: House, batch: Batch, day: int) -> checkpoints.Checkpoint:
    async with house.tools.pool.connection() as conn:
        one = await checkpoints.at(conn, batch.id, day)
    assert one
    return one


async def done(house: House) -> None:
    """The second chances that waited have been had."""
    await house.rows("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE args ? 'retake' AND status = 'todo'")


async def test_a_second_chance_once_a_day_from_ten(house):
    """Not before ten, then one job for the whole day, whether it is still waiting, or done and in vain."""
    await skipped(house)
    await house.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '1'")
    for day in (WEDNESDAY, THURSDAY):
        house.clock.time = new_york(day, 9, 59)
        await reconcile.look_after(house.tools)
        assert (1, str(day), "todo") not in await house.rows(RETAKES)
        house.clock.time = new_york(day, 10)
        await reconcile.look_after(house.tools)
        await reconcile.look_after(house.tools)
        await done(house)
        house.clock.time = new_york(day, 23, 59)
        await reconcile.look_after(house.tools)
    assert await house.rows(RETAKES) == [(1, str(day), "succeeded") for day in (WEDNESDAY, THURSDAY)]


async def test_a_second_chance_that_still_waits_is_not_given_again(house):
    """One that waits for the quota is today's as well as yesterday's: two would ask twice, for nothing."""
    await skipped(house)
    house.clock.time = new_york(WEDNESDAY, 10)
    await reconcile.look_after(house.tools)
    await house.rows("UPDATE procrastinate_jobs SET scheduled_at = %s WHERE args ? 'retake'", new_york(THURSDAY, 10, 1))
    house.clock.time = new_york(THURSDAY, 10)
    await reconcile.look_after(house.tools)
    assert await house.rows(RETAKES) == [(1, str(WEDNESDAY), "todo")]


async def test_a_second_chance_on_the_day_itself(house):
    """A morning that the provider failed at nine is looked at again at ten of the same day."""
    batch = await house.a_batch()
    house.world.instead = [Reply(status=503)] * 5
    house.clock.time = new_york(TUESDAY)
    await daily.take(house.tools, batch.id, 1)
    house.clock.time = new_york(TUESDAY, 10)
    await reconcile.look_after(house.tools)
    assert await house.rows(RETAKES) == [(1, str(TUESDAY), "todo")]


async def test_no_second_chance_for_a_closed_market(house):
    """There was nothing to miss: it is never offered, and refused when asked for."""
    batch = await house.a_batch()
    house.clock.time = due_at(MONDAY, 6)
    await daily.take(house.tools, batch.id, 6)
    before = await checkpoint(house, batch, 6)
    house.clock.time = due_at(MONDAY, 6) + timedelta(hours=3)
    await reconcile.look_after(house.tools)
    assert await house.rows(RETAKES) == []
    await daily.take(house.tools, batch.id, 6, again=True)
    assert await checkpoint(house, batch, 6) == before
    assert house.asked == []


async def test_what_a_second_chance_leaves(house):
    """Computed for its own session, with when and why it was skipped; the journal has both, and the same id."""
    batch = await skipped(house)
    before = await checkpoint(house, batch, 1)
    house.world.closes["SPY", MONDAY] = "660.0000"  # read as 600 on the day: the stored reading is kept
    house.clock.time = new_york(THURSDAY, 10)
    await daily.take(house.tools, batch.id, 1, again=True)
    after = await checkpoint(house, batch, 1)
    assert (after.status, after.trading_day, after.benchmark_price) == ("computed", MONDAY, 600)
    assert (after.id, after.skipped_at, after.skip_reason, after.note) == (
        before.id,
        before.skipped_at,
        "MISSING_CLOSE",
        "AAPL: no close of 2026-10-26 by the last time of asking.",
    )
    assert new_york(THURSDAY, 10) <= after.taken_at < new_york(THURSDAY, 10, 1)
    assert house.asked == ["AAPL"]
    assert await house.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(3,)]
    first, second = [json.loads(one.content)["checkpoint"] for one in (await house.journal())[-2:]]
    assert (first["id"], first["status"], first.get("trading_day")) == (str(after.id), "skipped", None)
    assert (second["id"], second["status"], second["trading_day"]) == (str(after.id), "computed", str(MONDAY))
    assert second["skipped_at"] == first["skipped_at"]
    assert (second["skip_reason"], second["note"]) == (first["skip_reason"], first["note"])


@pytest.mark.parametrize("fault", [None, Reply(status=503)], ids=["still no close", "down"])
async def test_a_second_chance_in_vain(house, fault):
    """It is asked once, not five more times of the day; the row stays as it was, and the journal too."""
    batch = await skipped(house)
    before, entries = await checkpoint(house, batch, 1), await house.journal()
    house.clock.time = new_york(THURSDAY, 10)
    house.world.absent.add(("AAPL", MONDAY))
    house.world.instead = [fault] * 5 if fault else []
    await daily.take(house.tools, batch.id, 1, again=True)
    assert (await checkpoint(house, batch, 1), await house.journal()) == (before, entries)
    assert house.asked == ["AAPL"] * (5 if fault else 1)


async def test_a_computed_checkpoint_never_goes_back(house):
    """Whoever asks, and whatever the provider now says: nothing is asked and nothing changes; Postgres agrees."""
    batch = await skipped(house)
    house.clock.time = new_york(THURSDAY, 10)
    await asyncio.gather(*(daily.take(house.tools, batch.id, 1, again=True) for _ in range(3)))
    before, entries = await checkpoint(house, batch, 1), await house.journal()
    assert [entry.kind for entry in entries].count("CHECKPOINT") == 2
    house.provider.requests.clear()
    house.world.unknown |= {"SPY", *CHOSEN}
    house.clock.time = new_york(FRIDAY, 10)
    await daily.take(house.tools, batch.id, 1, again=True)
    await reconcile.look_after(house.tools)
    assert (await checkpoint(house, batch, 1), await house.journal()) == (before, entries)
    assert house.provider.requests == []
    with pytest.raises(psycopg.errors.CheckViolation, match="a_computed_checkpoint_never_goes_back"):
        await house.rows("UPDATE checkpoints SET status = 'skipped' WHERE day = 1")


RESULT = '{ batchOn(runDate: "2026-10-26") { status nextCheckpointAt result { day } picks { result { id } } } }'


async def test_a_skipped_last_session_leaves_it_unresolved(house, pool):
    """
    All fifteen days are there and the batch is completed; without the last session's closes it has no result.

    No earlier day stands in for it, and nobody looks again by himself. A person can; then it has its result.
    """
    batch = await house.a_batch()
    house.world.absent |= {(ticker, LAST_SESSION) for ticker in CHOSEN}
    for day in range(1, 15):
        house.clock.time = due_at(MONDAY, day)
        await until_it_can(house, lambda day=day: daily.take(house.tools, batch.id, day))
    assert (await checkpoint(house, batch, 12)).skip_reason == "MISSING_CLOSE"
    assert (await checkpoint(house, batch, 11)).status == "computed"
    unresolved = {"status": "COMPLETED", "nextCheckpointAt": None, "result": None, "picks": [{"result": None}] * 3}
    assert await asked(pool, RESULT) == {"batchOn": unresolved}
    house.clock.time = due_at(MONDAY, 15) + timedelta(hours=1)
    await reconcile.look_after(house.tools)
    assert await house.rows(RETAKES) == []

    house.world.absent.clear()
    await daily.take(house.tools, batch.id, 12, again=True)
    resolved = (await asked(pool, RESULT))["batchOn"]
    assert (resolved["status"], resolved["result"]) == ("COMPLETED", {"day": 12})
    assert all(pick["result"] for pick in resolved["picks"])
    assert [json.loads(one.content).get("batch", {}).get("status") for one in await house.journal()].count(
        "completed"
    ) == 1


async def asked(pool: Any, query: str) -> Any:
    """What the API answers."""
    answer = json.loads((await engine_on(pool).answer(query)).body)
    assert "errors" not in answer, answer
    return answer["data"]


async def test_the_last_absent_day_completes_whichever_it_is(house):
    """A day that was skipped as the last of all completes its batch, and its entry says so."""
    batch = await house.a_batch()
    house.world.model = [completes(an_answer(*CHOSEN))]
    house.clock.time = due_at(MONDAY, 14)
    for day in (*range(1, 3), *range(4, 15)):
        await daily.take(house.tools, batch.id, day)
    assert (await house.batch()).status == "active"
    house.world.instead = [Reply(status=503)] * 5
    async with transaction(house.tools.pool) as conn:
        await conn.execute("SET LOCAL session_replication_role = replica")
        await conn.execute("UPDATE closes SET ticker = 'KO' WHERE ticker = 'AAPL' AND trading_day = %s", (WEDNESDAY,))
    house.clock.time = due_at(MONDAY, 15)
    await daily.take(house.tools, batch.id, 3)
    assert (await checkpoint(house, batch, 3)).skip_reason == "PROVIDER_ERROR"
    assert (await house.batch()).status == "completed"
    assert json.loads((await house.journal())[-1].content)["batch"]["status"] == "completed"
