"""
Checkpoints that fail, and Mondays without a service: what the record then shows, and how many
requests it cost.

First whole weeks in simulated time, with provider simulators and a script of faults; then the jobs'
functions, moment by moment, with a clock that the test sets.
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
from job_context import (
    CHOSEN,
    MONDAY,
    JobHarness,
    make_answer,
    make_completion,
    new_york,
    run_until_done,
)
from job_context import clock as clock
from job_context import harness as harness
from provider_server import Reply
from psycopg.rows import dict_row

from app.database.pools import transaction
from app.domain.calendar import due_at
from app.domain.model import Batch
from app.store import checkpoints
from jobs import daily, reconcile
from jobs.reconcile import ReconcileResult

NEW_YORK = ZoneInfo("America/New_York")
EARLIER = MONDAY - timedelta(weeks=1)
TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = (MONDAY + timedelta(days=days) for days in range(1, 5))
LAST_SESSION = MONDAY + timedelta(days=11)  # of the fortnight: a Friday, used on day 12

OTHERS = "OTHER"  # what a test lets other programs request


def rule(fault: str, since: datetime, until: datetime, symbol: str | None = None) -> dict[str, Any]:
    """Return a rule of a script: what Alpha Vantage does wrong, from when to when."""
    about = {"symbol": symbol} if symbol else {}
    times = {"since": since.isoformat(), "until": until.isoformat()}
    return {"provider": "alphavantage", "fault": fault, **times, **about}


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), NEW_YORK)


class Weeks:
    """Simulated weeks: the requests that the simulators got, and the database afterwards."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

    def live(self, weeks: int, until: date, rules: Sequence[dict[str, Any]] = ()) -> None:
        """Run weeks in simulated time, or continue them."""
        faults = self.folder / "faults.json"
        faults.write_text(json.dumps(list(rules)))
        options = ("--weeks", weeks, "--until", until, "--calm", "--faults", faults, "--no-serve")
        done = run("rehearse", "--single", *options, cwd=self.folder, DATABASE_URL=self.address)
        assert done.returncode == 0, done.stderr

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.address, row_factory=dict_row) as conn:
            return conn.execute(query.encode(), values).fetchall()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Return the requests to Alpha Vantage's simulator, each with its day in New York."""
        lines = map(
            json.loads, (self.folder / ".alpha-monday" / "requests.jsonl").read_text().splitlines()
        )
        requests = [
            {**line, "at": datetime.fromisoformat(line["at"]).astimezone(NEW_YORK)}
            for line in lines
        ]
        return [
            {**one, "day": one["at"].date()}
            for one in requests
            if one["provider"] == "alphavantage"
        ]

    def count_requests(self, *fields: str) -> Counter[Any]:
        """Return the number of requests, by these fields of theirs."""
        return Counter(tuple(one[field] for field in fields) for one in self.requests)

    def checkpoints(self, *dates: date) -> dict[tuple[date, date], dict[str, Any]]:
        """Return the checkpoints of these dates, by run date and date."""
        rows = self.rows(
            """
            SELECT run_date, checkpoints.*, (
                SELECT count(*) FROM pick_checkpoint_metrics WHERE checkpoint_id = checkpoints.id
            ) AS metrics
            FROM checkpoints JOIN batches ON batches.id = batch_id
            WHERE checkpoint_date = ANY(%s) AND day > 0
            ORDER BY checkpoint_date, run_date
            """,
            list(dates),
        )
        return {(one["run_date"], one["checkpoint_date"]): one for one in rows}

    def check_rules(self) -> None:
        """
        Check the rules: nothing partial, each session its own, no limit exceeded, no job given up.
        """
        for one in self.rows(
            "SELECT status, trading_day, checkpoint_date, count(pick_id) AS metrics FROM "
            "checkpoints "
            "LEFT JOIN pick_checkpoint_metrics ON checkpoint_id = checkpoints.id WHERE day > 0 "
            "GROUP BY checkpoints.id"
        ):
            if one["status"] == "skipped":
                assert (one["metrics"], one["trading_day"]) == (0, None)
            else:
                assert (one["metrics"], one["trading_day"]) == (
                    3,
                    one["checkpoint_date"] - timedelta(days=1),
                )
        requests = [
            (one["at"], one["symbol"]) for one in sorted(self.requests, key=lambda one: one["at"])
        ]
        ledger = self.rows("SELECT at, symbol FROM operations.provider_requests ORDER BY at")
        assert {one["refused"] for one in self.requests} == {None}
        for times in (requests, [(one["at"], one["symbol"]) for one in ledger]):
            for count, seconds in ((1, 1), (5, 60), (25, 86_400)):
                pairs = zip(times, times[count:], strict=False)
                gaps = [
                    later - earlier for (earlier, _), (later, symbol) in pairs if symbol != OTHERS
                ]
                assert min(gaps, default=timedelta.max) >= timedelta(seconds=seconds)
        (jobs,) = self.rows(
            "SELECT array_agg(DISTINCT status::text) AS known FROM queue.procrastinate_jobs"
        )
        assert set(jobs["known"]) <= {"succeeded", "todo"}
        assert "Traceback" not in (self.folder / ".alpha-monday" / "rehearsal.log").read_text()

    def entries(self, checkpoint: dict[str, Any]) -> list[str]:
        """Return the status of a checkpoint in each of its journal entries."""
        contents = [
            json.loads(one["content"])
            for one in self.rows("SELECT content FROM journal ORDER BY seq")
        ]
        return [
            one["checkpoint"]["status"]
            for one in contents
            if one["kind"] == "CHECKPOINT" and one["checkpoint"]["id"] == str(checkpoint["id"])
        ]


@pytest.fixture
def weeks(tmp_path, create) -> Weeks:
    """A folder and a database for the weeks of one test."""
    return Weeks(tmp_path, create())


def own_morning(one: dict[str, Any], field: str) -> timedelta:
    """Return how long after its own 09:00 this happened to a checkpoint."""
    return one[field] - new_york(one["checkpoint_date"])


@pytest.mark.long
def test_alpha_vantage_down_from_tuesday_to_thursday(weeks):
    """
    Two batches, three days: each checkpoint is skipped with the provider's message, at few
    requests, because all jobs share their attempts. On Friday, the first day with a response, seven
    requests bring all six checkpoints, each for its own session. The record keeps when and why they
    were skipped, and the journal has two entries for each.
    """
    outage = [
        rule("cut", midnight(TUESDAY), midnight(WEDNESDAY)),
        rule("http_503", midnight(WEDNESDAY), midnight(FRIDAY)),
    ]
    weeks.live(2, FRIDAY + timedelta(days=1), outage)
    weeks.check_rules()

    days = weeks.checkpoints(TUESDAY, WEDNESDAY, THURSDAY)
    assert list(days) == [
        (run, day) for day in (TUESDAY, WEDNESDAY, THURSDAY) for run in (EARLIER, MONDAY)
    ]
    for (_, day), one in days.items():
        assert one["status"] == "computed"
        assert new_york(FRIDAY) <= one["taken_at"] < midnight(FRIDAY + timedelta(days=1))
        message = (
            "Alpha Vantage cannot be reached (RemoteProtocolError)."
            if day == TUESDAY
            else "answered 503."
        )
        if one["skipped_at"]:
            assert one["skip_reason"] == "PROVIDER_ERROR"
            assert message in one["note"]
            assert weeks.entries(one) == ["skipped", "computed"]
        else:
            assert (one["skip_reason"], one["note"]) == (None, None)
            assert weeks.entries(one) == ["computed"]
    # The quota is large enough to use all attempts at once.
    assert all(
        timedelta(0) < own_morning(one, "skipped_at") < timedelta(minutes=5)
        for one in days.values()
    )

    spent = weeks.count_requests("day", "fault")
    # At nine five attempts in all and a last one of the second batch's, and the same for the second
    # chances.
    assert spent[TUESDAY, "cut"] == 2 * (5 + 1)
    assert spent[WEDNESDAY, "http_503"] <= 25
    assert spent[THURSDAY, "http_503"] <= 25
    assert (
        spent[FRIDAY, None] == 7
    )  # SPY, and three picks of each batch: one request a ticker serves every day
    assert {one["symbol"] for one in weeks.requests if one["fault"]} == {"SPY"}
    later = weeks.checkpoints(FRIDAY, FRIDAY + timedelta(days=1))
    assert all(
        one["skipped_at"] is None and own_morning(one, "taken_at") < timedelta(minutes=5)
        for one in later.values()
    )


@pytest.mark.long
def test_the_quota_spent_by_others_at_nine(weeks):
    """
    The quota is spent at 09:00: both batches' checkpoints wait until requests are free, and none is
    skipped. They use their own sessions, one request at a time, as old requests become a day old.
    """
    weeks.live(2, MONDAY)
    first = new_york(TUESDAY, 7, 30)
    with psycopg.connect(weeks.address) as conn:
        conn.execute(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at, ended_at, "
            "outcome) "
            "SELECT 'alphavantage', 'TIME_SERIES_DAILY', %s, at, at, 'answered' "
            "FROM generate_series(%s::timestamptz, %s::timestamptz, interval '210 s') AS at",
            (OTHERS, first, first + timedelta(seconds=24 * 210)),
        )
    weeks.live(2, WEDNESDAY)
    weeks.check_rules()

    days = weeks.checkpoints(TUESDAY)
    assert list(days) == [(EARLIER, TUESDAY), (MONDAY, TUESDAY)]
    for one in days.values():
        assert (one["status"], one["skip_reason"], one["skipped_at"]) == ("computed", None, None)
        assert new_york(WEDNESDAY, 7, 30) < one["taken_at"] < new_york(WEDNESDAY, 8)
        assert weeks.entries(one) == ["computed"]
    spent = weeks.count_requests("day")
    # One request a ticker in the early morning brought Tuesday's closes too: at nine nothing was
    # left to ask for.
    assert (spent[TUESDAY,], spent[WEDNESDAY,]) == (0, 7)
    assert all(one["status"] == "computed" for one in weeks.checkpoints(WEDNESDAY).values())


@pytest.mark.long
def test_a_quota_that_is_spent_by_the_providers_count(weeks):
    """
    From Tuesday to Thursday noon the provider reports a spent quota, whatever the ledger's count:
    six checkpoints of two batches wait. One request an hour tries for all of them; when it
    succeeds, all six are computed, with seven requests, and none was ever skipped.
    """
    weeks.live(2, FRIDAY, [rule("quota", midnight(TUESDAY), new_york(THURSDAY, 12))])
    weeks.check_rules()

    days = weeks.checkpoints(TUESDAY, WEDNESDAY, THURSDAY)
    assert len(days) == 6
    for one in days.values():
        assert (one["status"], one["skip_reason"], one["skipped_at"]) == ("computed", None, None)
        assert new_york(THURSDAY, 12) < one["taken_at"] < new_york(FRIDAY)
        assert weeks.entries(one) == ["computed"]
    spent = weeks.count_requests("day", "fault")
    assert [spent[day, "quota"] for day in (TUESDAY, WEDNESDAY, THURSDAY)] == [
        15,
        24,
        12,
    ]  # from nine on, hour by hour
    assert (spent[THURSDAY, None], spent[FRIDAY, None]) == (7, 7)
    hourly = Counter(
        one["at"].replace(minute=0, second=0, microsecond=0)
        for one in weeks.requests
        if one["fault"]
    )
    assert set(hourly.values()) == {1}
    assert all(
        own_morning(one, "taken_at") < timedelta(minutes=5)
        for one in weeks.checkpoints(FRIDAY).values()
    )


def test_a_pick_whose_bars_come_in_the_afternoon(weeks):
    """
    Each day its close arrives at 16:15: each checkpoint is computed at 16:30 from its own session.
    The late ticker is requested five times a day, the others once: eight requests. Monday's
    baseline waits in the same way, and is late.
    """
    days = [MONDAY + timedelta(days=days) for days in range(6)]
    weeks.live(
        1,
        days[-1],
        [
            rule(fault="late_bar", since=midnight(day), until=new_york(day, 16, 15), symbol="JPM")
            for day in days
        ],
    )
    weeks.check_rules()

    taken = weeks.checkpoints(*days)
    assert list(taken) == [(MONDAY, day) for day in days[1:]]
    for one in taken.values():
        assert (one["status"], one["skip_reason"]) == ("computed", None)
        assert (
            timedelta(0)
            < own_morning(one, "taken_at") - timedelta(hours=7, minutes=30)
            < timedelta(minutes=1)
        )
        assert weeks.entries(one) == ["computed"]
    (batch,) = weeks.rows("SELECT late, created_at FROM batches")
    assert batch["late"]
    assert new_york(MONDAY, 16, 30) < batch["created_at"] < new_york(MONDAY, 16, 31)
    counts = weeks.count_requests("day", "symbol")
    for day in days:
        assert {symbol: count for (on, symbol), count in counts.items() if on == day} == {
            "SPY": 1,
            "JPM": 5,
            "UPS": 1,
            "NVDA": 1,
        }
        times = [one["at"] for one in weeks.requests if (one["day"], one["symbol"]) == (day, "JPM")]
        assert [(at.hour, at.minute) for at in times] == [
            (9, 0),
            (9, 30),
            (10, 30),
            (12, 30),
            (16, 30),
        ]
    assert weeks.rows("SELECT count(*) AS questions FROM generations") == [
        {"questions": 1}
    ]  # not again for each attempt


# Mondays without a service


FAILED = (
    "SELECT run_date, status, failure_reason, failure, late FROM batches WHERE status = "
    "'failed' ORDER BY run_date"
)
MISSED_MESSAGE = "Nobody was there to ask on that Monday."


async def test_a_missed_monday(harness):
    """
    When it is over it gets one row: failed, MISSED, late, with a journal entry, and no question.
    """
    await harness.make_batch(EARLIER)
    harness.clock.time = new_york(TUESDAY, 0, 0)
    assert (await reconcile.run_round(harness.context)).missed == 1
    assert await harness.rows(FAILED) == [(MONDAY, "failed", "MISSED", MISSED_MESSAGE, True)]
    # The first round after the first picks journals the rules of the yearly checks, at the end.
    entry = (await harness.journal())[-2]
    recorded = json.loads(entry.content)
    assert (entry.kind, recorded["batch"]["failure_reason"], recorded["batch"]["run_date"]) == (
        "FAILURE",
        "MISSED",
        str(MONDAY),
    )
    assert entry.at == harness.clock.now()
    assert (await reconcile.run_round(harness.context)).missed == 0
    assert len(await harness.journal()) == entry.seq + 1
    assert harness.provider.requests == []


async def test_five_mondays_missed_in_a_row(harness):
    """
    After five weeks without a service each Monday has its row; today's is started, not missed.
    """
    first = date(2026, 9, 21)
    await harness.make_batch(first)
    harness.clock.time = new_york(date(2026, 11, 2), 12)
    mended = await reconcile.run_round(harness.context)
    assert (mended.missed, mended.begun) == (5, True)
    missed = [first + timedelta(weeks=week) for week in range(1, 6)]
    assert await harness.rows(FAILED) == [
        (monday, "failed", "MISSED", MISSED_MESSAGE, True) for monday in missed
    ]
    assert [entry.kind for entry in await harness.journal()][-6:] == [
        *["FAILURE"] * 5,
        "RULES",
    ]
    assert [task for task, args, _ in await harness.jobs() if task == "pick_week"] == ["pick_week"]
    assert (await reconcile.run_round(harness.context)).missed == 0


async def test_no_monday_is_missed_before_the_first(harness):
    """A record without a batch misses no Monday; one with a batch misses none before it."""
    harness.clock.time = new_york(FRIDAY)
    assert await reconcile.run_round(harness.context) == ReconcileResult()
    assert await harness.rows("SELECT count(*) FROM batches") == [(0,)]
    await harness.make_batch(MONDAY)
    harness.clock.time = new_york(FRIDAY)
    assert (await reconcile.run_round(harness.context)).missed == 0
    assert await harness.rows(FAILED) == []


@pytest.mark.parametrize("clock_time", [(0, 0), (8, 59), (23, 59)])
async def test_a_monday_is_not_missed_before_it_is_over(harness, clock_time):
    """Before 09:00, and until midnight, it can still be made."""
    await harness.make_batch(EARLIER)
    harness.clock.time = new_york(MONDAY, *clock_time)
    assert (await reconcile.run_round(harness.context)).missed == 0
    assert await harness.batch(MONDAY) is None


async def test_a_missed_monday_is_not_run_afterwards(harness):
    """Neither a tick nor an operator makes picks for a Monday that is over."""
    await harness.make_batch(EARLIER)
    harness.clock.time = new_york(TUESDAY)
    await reconcile.run_round(harness.context)
    await harness.begin(job_id=99)
    await harness.begin(job_id=99, questions=6)
    assert (await harness.batch(MONDAY)).failure_reason == "MISSED"
    assert harness.provider.requests == []


async def test_a_monday_over_before_its_prices_were_in(harness):
    """
    Picks are never back-dated: at midnight the answer is paid for and the Monday fails; both are
    stored.
    """
    harness.clock.time = new_york(MONDAY, 23, 59) + timedelta(seconds=58)
    await harness.begin()
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "MISSED")
    assert batch.failure == "The Monday was over before its prices were in."
    assert batch.created_at >= new_york(TUESDAY, 0)
    assert batch.late
    assert await harness.rows("SELECT accepted FROM generations") == [(True,)]
    assert await harness.rows("SELECT count(*) FROM picks") == [(0,)]
    kinds = [entry.kind for entry in await harness.journal()]
    assert kinds[:4] == ["GENESIS", "SERIES", "GENERATION", "GENERATION"]
    assert {*kinds[4:-1]} == {"READINGS"}
    assert kinds[-1] == "FAILURE"
    assert await harness.jobs() == []
    assert (await reconcile.run_round(harness.context)).missed == 0


async def test_a_monday_that_waited_for_quota_until_it_was_over(harness):
    """Its job ends on Tuesday without an error, and the Monday is recorded as missed."""
    await harness.make_batch(EARLIER)
    await harness.rows(
        "INSERT INTO operations.provider_requests (provider, function, symbol, at) "
        "SELECT 'alphavantage', 'TIME_SERIES_DAILY', 'OTHER', %s FROM generate_series(1, 25)",
        new_york(MONDAY, 8, 59),
    )
    harness.clock.time = new_york(MONDAY)
    (later,) = await run_until_done(harness, lambda: harness.begin(job_id=2))
    assert new_york(TUESDAY, 8, 59) <= later < new_york(TUESDAY)
    assert harness.requested_tickers == []
    assert (await reconcile.run_round(harness.context)).missed == 1
    assert (await harness.batch(MONDAY)).failure_reason == "MISSED"


# Retakes


RETAKES = (
    "SELECT (args ->> 'day')::integer, args ->> 'retake', status::text FROM procrastinate_jobs "
    "WHERE args ? 'retake' ORDER BY id"
)


async def skipped(harness: JobHarness, day: int = 1, run_date: date = MONDAY) -> Batch:
    """A batch whose checkpoint of `day` was skipped for a missing close, which is available now."""
    batch = await harness.make_batch(run_date)
    session = run_date + timedelta(days=day - 1)
    harness.world.absent.add(("AAPL", session))
    harness.clock.time = due_at(run_date, day)
    await run_until_done(harness, lambda: daily.take(harness.context, batch.id, day))
    harness.world.absent.clear()
    harness.provider.requests.clear()
    one = await checkpoint(harness, batch, day)
    assert (one.status, one.skip_reason) == ("skipped", "MISSING_CLOSE")
    return batch


async def checkpoint(harness: JobHarness, batch: Batch, day: int) -> checkpoints.Checkpoint:
    async with harness.context.pool.connection() as conn:
        one = await checkpoints.get(conn, batch.id, day)
    assert one
    return one


async def done(harness: JobHarness) -> None:
    """The retakes that waited have run."""
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'succeeded' WHERE args ? 'retake' AND status = "
        "'todo'"
    )


async def test_one_retake_a_day_from_ten(harness):
    """Not before 10:00, then one job for the whole day, whether it still waits or has failed."""
    await skipped(harness)
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '1'")
    for day in (WEDNESDAY, THURSDAY):
        harness.clock.time = new_york(day, 9, 59)
        await reconcile.run_round(harness.context)
        assert (1, str(day), "todo") not in await harness.rows(RETAKES)
        harness.clock.time = new_york(day, 10)
        await reconcile.run_round(harness.context)
        await reconcile.run_round(harness.context)
        await done(harness)
        harness.clock.time = new_york(day, 23, 59)
        await reconcile.run_round(harness.context)
    assert await harness.rows(RETAKES) == [
        (1, str(day), "succeeded") for day in (WEDNESDAY, THURSDAY)
    ]


async def test_a_waiting_retake_is_not_deferred_again(harness):
    """
    One that waits for the quota serves the next day as well: two would make the same requests.
    """
    await skipped(harness)
    harness.clock.time = new_york(WEDNESDAY, 10)
    await reconcile.run_round(harness.context)
    await harness.rows(
        "UPDATE procrastinate_jobs SET scheduled_at = %s WHERE args ? 'retake'",
        new_york(THURSDAY, 10, 1),
    )
    harness.clock.time = new_york(THURSDAY, 10)
    await reconcile.run_round(harness.context)
    assert await harness.rows(RETAKES) == [(1, str(WEDNESDAY), "todo")]


async def test_a_retake_on_the_same_day(harness):
    """A checkpoint that the provider failed at 09:00 is retaken at 10:00 of the same day."""
    batch = await harness.make_batch()
    harness.world.instead = [Reply(status=503)] * 5
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    harness.clock.time = new_york(TUESDAY, 10)
    await reconcile.run_round(harness.context)
    assert await harness.rows(RETAKES) == [(1, str(TUESDAY), "todo")]


async def test_no_retake_for_a_closed_market(harness):
    """
    Such a checkpoint lacks nothing: no retake is deferred, and an operator's retake changes
    nothing.
    """
    batch = await harness.make_batch()
    harness.clock.time = due_at(MONDAY, 6)
    await daily.take(harness.context, batch.id, 6)
    before = await checkpoint(harness, batch, 6)
    harness.clock.time = due_at(MONDAY, 6) + timedelta(hours=3)
    await reconcile.run_round(harness.context)
    assert await harness.rows(RETAKES) == []
    await daily.take(harness.context, batch.id, 6, retake=True)
    assert await checkpoint(harness, batch, 6) == before
    assert harness.requested_tickers == []


async def test_what_a_retake_stores(harness):
    """
    Computed for its own session, with when and why it was skipped; the journal has both, and the
    same id.
    """
    batch = await skipped(harness)
    before = await checkpoint(harness, batch, 1)
    harness.world.closes["SPY", MONDAY] = (
        "660.0000"  # read as 600 on the day: the stored reading stays
    )
    harness.clock.time = new_york(THURSDAY, 10)
    await daily.take(harness.context, batch.id, 1, retake=True)
    after = await checkpoint(harness, batch, 1)
    assert (after.status, after.trading_day, after.benchmark_price) == ("computed", MONDAY, 600)
    assert (after.id, after.skipped_at, after.skip_reason, after.note) == (
        before.id,
        before.skipped_at,
        "MISSING_CLOSE",
        "AAPL: no close of 2026-10-26 by the last time of asking.",
    )
    assert new_york(THURSDAY, 10) <= after.taken_at < new_york(THURSDAY, 10, 1)
    assert harness.requested_tickers == ["AAPL"]
    assert await harness.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(3,)]
    first, second = [
        json.loads(one.content)["checkpoint"]
        for one in await harness.journal()
        if one.kind == "CHECKPOINT"
    ]
    assert (first["id"], first["status"], first.get("trading_day")) == (
        str(after.id),
        "skipped",
        None,
    )
    assert (second["id"], second["status"], second["trading_day"]) == (
        str(after.id),
        "computed",
        str(MONDAY),
    )
    assert second["skipped_at"] == first["skipped_at"]
    assert (second["skip_reason"], second["note"]) == (first["skip_reason"], first["note"])


@pytest.mark.parametrize("fault", [None, Reply(status=503)], ids=["still no close", "down"])
async def test_a_retake_without_prices(harness, fault):
    """
    It is tried once, not five more times that day; row and journal stay as they were.

    Only a response that was read has an entry.
    """
    batch = await skipped(harness)
    before, entries = await checkpoint(harness, batch, 1), await harness.journal()
    harness.clock.time = new_york(THURSDAY, 10)
    harness.world.absent.add(("AAPL", MONDAY))
    harness.world.instead = [fault] * 5 if fault else []
    await daily.take(harness.context, batch.id, 1, retake=True)
    assert await checkpoint(harness, batch, 1) == before
    journal = await harness.journal()
    assert journal[: len(entries)] == entries
    assert [entry.kind for entry in journal[len(entries) :]] == ([] if fault else ["READINGS"])
    assert harness.requested_tickers == ["AAPL"] * (5 if fault else 1)


async def test_a_computed_checkpoint_never_goes_back(harness):
    """Whatever the provider now returns: no request, no change; Postgres refuses it too."""
    batch = await skipped(harness)
    harness.clock.time = new_york(THURSDAY, 10)
    await asyncio.gather(*(daily.take(harness.context, batch.id, 1, retake=True) for _ in range(3)))
    # The first round after the first picks journals the rules of the yearly checks.
    await reconcile.run_round(harness.context)
    before, entries = await checkpoint(harness, batch, 1), await harness.journal()
    assert [entry.kind for entry in entries].count("CHECKPOINT") == 2
    harness.provider.requests.clear()
    harness.world.unknown |= {"SPY", *CHOSEN}
    harness.clock.time = new_york(FRIDAY, 10)
    await daily.take(harness.context, batch.id, 1, retake=True)
    await reconcile.run_round(harness.context)
    assert (await checkpoint(harness, batch, 1), await harness.journal()) == (before, entries)
    assert harness.provider.requests == []
    with pytest.raises(
        psycopg.errors.CheckViolation, match="a_computed_checkpoint_never_goes_back"
    ):
        await harness.rows("UPDATE checkpoints SET status = 'skipped' WHERE day = 1")


RESULT = (
    '{ batchOn(runDate: "2026-10-26") { status nextCheckpointAt result { day } picks { '
    "result { id } } } }"
)


async def test_a_skipped_last_session_leaves_it_unresolved(harness, pool):
    """
    All fifteen days are stored and the batch is completed; without the last session's closes it has
    no result. No earlier day replaces it. The retakes go on, and with the closes it has its result.
    """
    batch = await harness.make_batch()
    harness.world.absent |= {(ticker, LAST_SESSION) for ticker in CHOSEN}
    for day in range(1, 15):
        harness.clock.time = due_at(MONDAY, day)
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))
    assert (await checkpoint(harness, batch, 12)).skip_reason == "MISSING_CLOSE"
    assert (await checkpoint(harness, batch, 11)).status == "computed"
    unresolved = {
        "status": "COMPLETED",
        "nextCheckpointAt": None,
        "result": None,
        "picks": [{"result": None}] * 3,
    }
    assert await query_api(pool, RESULT) == {"batchOn": unresolved}
    harness.clock.time = due_at(MONDAY, 15) + timedelta(hours=1)
    await reconcile.run_round(harness.context)
    assert [day for day, *_ in await harness.rows(RETAKES)] == [12]

    harness.world.absent.clear()
    await daily.take(harness.context, batch.id, 12, retake=True)
    resolved = (await query_api(pool, RESULT))["batchOn"]
    assert (resolved["status"], resolved["result"]) == ("COMPLETED", {"day": 12})
    assert all(pick["result"] for pick in resolved["picks"])
    assert [
        json.loads(one.content).get("batch", {}).get("status") for one in await harness.journal()
    ].count("completed") == 1


async def query_api(pool: Any, query: str) -> Any:
    """Return the API's response."""
    answer = json.loads((await engine_on(pool).execute(query)).body)
    assert "errors" not in answer, answer
    return answer["data"]


async def test_the_last_absent_day_completes_whichever_it_is(harness):
    """If the last missing day is skipped, it completes its batch, and its entry says so."""
    batch = await harness.make_batch()
    harness.world.model = [make_completion(make_answer(*CHOSEN))]
    harness.clock.time = due_at(MONDAY, 14)
    for day in (*range(1, 3), *range(4, 15)):
        await daily.take(harness.context, batch.id, day)
    assert (await harness.batch()).status == "active"
    harness.world.instead = [Reply(status=503)] * 5
    async with transaction(harness.context.pool) as conn:
        await conn.execute("SET LOCAL session_replication_role = replica")
        await conn.execute(
            "UPDATE closes SET ticker = 'KO' WHERE ticker = 'AAPL' AND trading_day = %s",
            (WEDNESDAY,),
        )
    harness.clock.time = due_at(MONDAY, 15)
    await daily.take(harness.context, batch.id, 3)
    assert (await checkpoint(harness, batch, 3)).skip_reason == "PROVIDER_ERROR"
    assert (await harness.batch()).status == "completed"
    assert json.loads((await harness.journal())[-1].content)["batch"]["status"] == "completed"
