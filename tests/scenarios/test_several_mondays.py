"""
Mondays of several series: failures of one, changes of the file, jobs of earlier versions, and
processes that die.

The queue's worker, Postgres and the providers' protocols are real; the clock is set by hand.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clocks import HandSetClock
from job_context import (
    CHOSEN,
    JobHarness,
    World,
    logged,
    make_answer,
    make_completion,
    new_york,
    open_context,
)
from provider_server import HANGING, ProviderServer, Reply, Request, says
from served_pages import find_one, pages_on, parse_page, visible_text

from app.commands import status
from app.core import settings
from app.database import pools
from app.database.pools import Pool
from app.domain import calendar
from app.domain.model import batch_id
from app.ops import snapshot
from app.ops.snapshot import OperatorSnapshot
from jobs import queue, reconcile, weekly

# In the future, so that Postgres, which has the real time, does not begin the jobs of checkpoints.
MONDAY = date(2035, 10, 29)
NEXT = MONDAY + timedelta(weeks=1)

MAIN = """
[main]
model = "gpt-5.4-mini"
"""
SECOND = """
[second]
label = "Second"
base_url = "{url}/second"
key_from = "SECOND_KEY"
model = "claude-opus-4-8"
"""
DICE = """
[dice]
kind = "random"
"""

SECOND_KEY = "sk-second4711"
WRONG_KEY = "sk-wrong4711"


class SeveralWorld(World):
    """Providers with a model server for each series whose replies are in `replies`."""

    def __init__(self, clock: HandSetClock) -> None:
        super().__init__(clock)
        # By the first part of the path; the last reply is repeated.
        self.replies: dict[str, list[Reply]] = {}

    def __call__(self, request: Request) -> Reply:
        name = request.path.split("/")[1]
        if name not in self.replies:
            return super().__call__(request)
        replies = self.replies[name]
        return replies.pop(0) if len(replies) > 1 else replies[0]


class SeveralSeries:
    """A record of several series, whose service can be started anew with another file."""

    def __init__(
        self,
        database: str,
        *,
        pool: Pool,
        clock: HandSetClock,
        provider: ProviderServer,
        world: SeveralWorld,
        folder: Path,
    ) -> None:
        self.database, self.pool, self.clock = database, pool, clock
        self.provider, self.world, self.folder = provider, world, folder
        self.file = ""

    @asynccontextmanager
    async def service(self, *tables: str, **variables: str) -> AsyncIterator[JobHarness]:
        """Start a service with a file of these tables; without a table it has no file."""
        if tables:
            # Loaded settings are kept by their environment, so each file has a path of its own.
            path = self.folder / f"series-{len(list(self.folder.iterdir()))}.toml"
            path.write_text("".join(tables).replace("{url}", self.provider.url))
            variables["SERIES_FILE"] = self.file = str(path)
        opened = open_context(
            database=self.database,
            pool=self.pool,
            clock=self.clock,
            base_url=self.provider.url,
            **variables,
        )
        async with opened as context:
            yield JobHarness(
                context=context, provider=self.provider, world=self.world, clock=self.clock
            )

    async def run_monday(self, harness: JobHarness, run_date: date) -> None:
        """Run the tick of a Monday and all jobs that it leads to, retries included."""
        self.clock.time = new_york(run_date)
        await tick(harness)
        await work(harness)

    async def read_status(self) -> OperatorSnapshot:
        """Return what `alpha-monday status` shows with the newest file."""
        return await snapshot.read_for_operator(
            self.pool, settings.load({"SERIES_FILE": self.file}), self.clock
        )

    async def play(self, run_date: date, *tables: str) -> None:
        """Run a Monday with a file of these tables."""
        async with self.service(*tables) as harness:
            await self.run_monday(harness, run_date)


@pytest.fixture
def clock() -> HandSetClock:
    """A clock that shows 09:00 in New York on the Monday."""
    return HandSetClock(new_york(MONDAY))


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch):
    """No worker gets the real Monday's tick."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})


@pytest.fixture
async def several(database, clock, tmp_path, monkeypatch) -> AsyncIterator[SeveralSeries]:
    """A record whose main and second models answer."""
    monkeypatch.setenv("SECOND_KEY", SECOND_KEY)
    monkeypatch.setenv("WRONG_KEY", WRONG_KEY)
    world = SeveralWorld(clock)
    world.replies["second"] = [make_completion(make_answer("KO", "BRK.B", "AAPL"))]
    # The control draws any share of the universe.
    world.prices = AnyPrice(world.prices)
    async with (
        pools.opened(pools.make_pool(database, max_size=8)) as pool,
        ProviderServer() as provider,
    ):
        provider.answers = world
        yield SeveralSeries(
            database,
            pool=pool,
            clock=clock,
            provider=provider,
            world=world,
            folder=tmp_path,
        )


class AnyPrice(dict[str, str]):
    """Prices by ticker. A share without one costs 50 dollars."""

    def __missing__(self, ticker: str) -> str:
        return "50.0000"


async def tick(harness: JobHarness) -> None:
    """Defer the job of the tick of 09:00, with the arguments that the queue gives it."""
    job = weekly.pick_week.configure().job
    now = harness.clock.now()
    job = job.evolve(task_kwargs={"timestamp": int(now.timestamp())})
    async with harness.context.pool.connection() as conn:
        await queue.app.job_manager.batch_defer_jobs_async([job], connection=conn)


async def worked() -> None:
    """Run a worker until no job is due."""
    await queue.app.run_worker_async(
        wait=False, install_signal_handlers=False, listen_notify=False, concurrency=8
    )


async def work(harness: JobHarness, rounds: int = 4) -> None:
    """
    Work until nothing of this Monday waits.

    After each round it is eleven minutes later, and each retry is due in Postgres's time, too.
    """
    # The jobs that the job of the tick defers.
    await worked()
    for _ in range(rounds):
        await worked()
        harness.clock.forward(minutes=11)
        await harness.rows(
            "UPDATE procrastinate_jobs SET scheduled_at = NULL "
            "WHERE status = 'todo' AND task_name = 'pick_week'"
        )


def count_questions(harness: JobHarness) -> int:
    """Return how many questions the models' servers have received."""
    return sum(one.path.endswith("/chat/completions") for one in harness.provider.requests)


async def outcomes(harness: JobHarness, run_date: date = MONDAY) -> dict[str, tuple[str, Any]]:
    """Return the status and the failure reason of a Monday, by series."""
    found = await harness.rows(
        "SELECT series, status, failure_reason FROM batches WHERE run_date = %s", run_date
    )
    return {series: (status, reason) for series, status, reason in found}


async def created_at(harness: JobHarness, run_date: date = MONDAY) -> dict[str, datetime]:
    """Return when the row of a Monday was made, by series."""
    return dict(
        await harness.rows("SELECT series, created_at FROM batches WHERE run_date = %s", run_date)
    )


ACTIVE = ("active", None)

# Failures of one series


FAILING = """
[hanging]
base_url = "{url}/hanging"
key_from = "SECOND_KEY"
model = "a-slow-model"
timeout_seconds = 0.3

[babbling]
base_url = "{url}/babbling"
key_from = "SECOND_KEY"
model = "a-chatty-model"

[keyless]
base_url = "{url}/keyless"
key_from = "WRONG_KEY"
model = "a-paid-model"

[gone]
base_url = "{url}/gone"
key_from = "SECOND_KEY"
model = "gone-model-1"
"""


async def read_newest_page(pool: Pool) -> str:
    """Return the visible text of the page that shows the newest Monday of each series."""
    async with pages_on(pool) as browser:
        return visible_text(find_one(parse_page(await browser.get("/")), "main"))


# What the page says of a Monday that failed, before the failure itself.
NO_PICKS = {
    "hanging": "a-slow-model No picks: a provider did not return the requested data. ",
    "babbling": "a-chatty-model No picks: the model gave no usable answer. ",
    "keyless": "a-paid-model No picks: a key, an account or a setting was wrong. ",
    "gone": "gone-model-1 No picks: a key, an account or a setting was wrong. ",
}


async def test_failures_of_four_series(several, clock):
    """
    One provider hangs, one model answers nonsense, one key is wrong and one model is gone. The
    Monday of the others is as if they were alone, and each failure has its own reason.
    """
    several.world.replies |= {
        "hanging": [HANGING],
        "babbling": [make_completion("Sure! My three picks are Apple, Ford and 3M.")],
        "keyless": [
            says({"error": {"message": f"Incorrect API key provided: {WRONG_KEY}."}}, status=401)
        ],
        "gone": [says({"error": {"message": "The model does not exist."}}, status=404)],
        "alerts": [says({})],
    }
    receiver = {"ALERT_WEBHOOK_URL": f"{several.provider.url}/alerts"}
    with logged("INFO", clock) as lines:
        async with several.service(MAIN, SECOND, DICE, FAILING, **receiver) as harness:
            await several.run_monday(harness, MONDAY)
            await worked()  # the alerts
            assert await outcomes(harness) == {
                "main": ACTIVE,
                "second": ACTIVE,
                "dice": ACTIVE,
                "hanging": ("failed", "PROVIDER_ERROR"),
                "babbling": ("failed", "NO_USABLE_ANSWER"),
                "keyless": ("failed", "CONFIGURATION"),
                "gone": ("failed", "CONFIGURATION"),
            }
            made = await created_at(harness)
            for name in ("main", "second", "dice"):
                # At most five requests a minute are allowed, and these need seven.
                assert made[name] - calendar.due_at(MONDAY) < timedelta(minutes=2)
            failures = dict(await harness.rows("SELECT series, failure FROM batches"))
            questions = dict(
                await harness.rows("SELECT series, count(*) FROM generations GROUP BY 1")
            )
            alerts = await harness.rows(
                "SELECT text, to_do FROM operations.alerts WHERE kind = 'monday_failed'"
            )
            journal = await harness.rows("SELECT content FROM journal")
            to_dos = list(status.to_dos(await several.read_status()))
            newest = await read_newest_page(several.pool)
    assert questions == {
        "main": 1, "second": 1, "dice": 1, "hanging": 3, "babbling": 3, "keyless": 1, "gone": 1,
    }  # fmt: skip
    assert "did not answer within 0.3 s" in failures["hanging"]
    assert failures["babbling"].startswith("3 questions brought no usable answer.")
    assert "set WRONG_KEY to a valid one" in failures["keyless"]
    assert "check model of [gone] in SERIES_FILE" in failures["gone"]
    for name, no_picks in NO_PICKS.items():
        # Status, alert and page have the same words, and status and alert have the remedy.
        assert no_picks + failures[name] in newest
        assert any(f"of {name} failed" in text and failures[name] in text for text, _ in alerts)
        (to_do,) = [one for one in to_dos if f"2035-10-29 of {name} failed" in one]
        assert failures[name] in to_do
        assert f"`alpha-monday pick --series {name}`" in to_do
    assert "gpt-5.4-mini 3 picks, and no morning has figures yet." in newest
    assert len(alerts) == 4
    sent = [one.body for one in several.provider.requests if one.path == "/alerts"]
    assert sent
    shown = str([lines, failures, alerts, sent, journal, to_dos, newest])
    for secret in (WRONG_KEY, SECOND_KEY):
        assert secret not in shown


async def test_models_that_hang_together(several):
    """
    Nine models of one provider hang. Their jobs wait for answers, and still leave room for the
    job of the series whose turn is last.
    """
    several.world.replies["hanging"] = [HANGING]
    hanging = [
        f'[h{number}]\nbase_url = "{{url}}/hanging"\nkey_from = "SECOND_KEY"\n'
        f'model = "slow-{number}"\ntimeout_seconds = 6\n'
        for number in range(9)
    ]
    order = [*hanging, SECOND]
    # The order of the week begins with another series of the file.
    first = order.index(weekly.rotate_by_week(order, MONDAY)[0])
    in_file = [*order[-first:], *order[:-first]]
    assert weekly.rotate_by_week(in_file, MONDAY)[-1] == SECOND
    async with several.service(MAIN, *in_file) as harness:
        several.clock.time = new_york(MONDAY)
        await tick(harness)
        worker = asyncio.create_task(
            queue.app.run_worker_async(install_signal_handlers=False, listen_notify=False)
        )
        try:
            async with asyncio.timeout(5.5):
                while await outcomes(harness) != {"main": ACTIVE, "second": ACTIVE}:
                    await asyncio.sleep(0.05)
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker


async def test_the_other_series_need_no_main(several):
    """A file without `main`: the job of the tick has nothing to ask, and begins the others."""
    async with several.service(SECOND, DICE) as harness:
        await several.run_monday(harness, MONDAY)
        assert await outcomes(harness) == {"second": ACTIVE, "dice": ACTIVE}


async def test_readings_are_shared(several):
    """Each share is requested once a day, however many series have picked it."""
    same = make_completion(make_answer(*CHOSEN))
    several.world.replies["second"] = [same]
    async with several.service(MAIN, SECOND) as harness:
        await several.run_monday(harness, MONDAY)
        assert await outcomes(harness) == {"main": ACTIVE, "second": ACTIVE}
        assert sorted(harness.requested_tickers) == sorted(["SPY", *CHOSEN])


# Changes of the file between two Mondays


DECLARED = """
    SELECT content::json #>> '{series,name}', content::json #>> '{series,holds_from}',
        content::json #>> '{series,profile,reasoning_effort}',
        content::json #>> '{series,retired}'
    FROM journal WHERE kind = 'SERIES' ORDER BY seq
"""
CHANGED_MAIN = MAIN + 'reasoning_effort = "low"\n'
THIRD = SECOND.replace("[second]", "[third]").replace("claude-opus-4-8", "claude-opus-5")
THIRD = THIRD.replace('"Second"', '"Third"')


async def test_a_change_an_addition_and_a_retirement(several):
    """Each is declared once, before the first question of the Monday from which it holds."""
    first, second, third = str(MONDAY), str(NEXT), str(NEXT + timedelta(weeks=1))
    await several.play(MONDAY, MAIN, SECOND)
    async with several.service(CHANGED_MAIN, THIRD, DICE) as harness:
        await several.run_monday(harness, NEXT)
        declared = [
            ("main", first, None, None),
            ("second", first, None, None),
            ("main", second, "low", None),
            ("third", second, None, None),
            ("dice", second, None, None),
            ("second", second, None, "true"),
        ]
        assert await harness.rows(DECLARED) == declared
        assert await outcomes(harness, NEXT) == dict.fromkeys(("main", "third", "dice"), ACTIVE)
        kinds = await harness.rows(
            "SELECT kind FROM journal WHERE seq > (SELECT max(seq) FROM journal "
            "WHERE kind = 'BATCH' AND content::json #>> '{batch,run_date}' = %s) ORDER BY seq",
            str(MONDAY),
        )
        assert [kind for (kind,) in kinds[:5]] == ["SERIES"] * 4 + ["GENERATION"]
        # The retired series is no missed Monday, and its fortnight goes on.
        several.clock.time = new_york(NEXT + timedelta(weeks=1), 0, 5)
        assert (await reconcile.run_round(harness.context)).missed == 0
        waiting = await harness.rows(
            "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'take_checkpoint' "
            "AND args ->> 'batch_id' = %s AND status IN ('todo', 'doing')",
            str(batch_id("second", MONDAY)),
        )
        assert waiting == [(14,)]
    # The next Monday changes nothing, so it declares nothing; the retired series comes back later.
    third_monday = NEXT + timedelta(weeks=1)
    await several.play(third_monday, CHANGED_MAIN, THIRD, DICE)
    async with several.service(CHANGED_MAIN, SECOND, THIRD, DICE) as harness:
        assert await harness.rows(DECLARED) == declared
        await several.run_monday(harness, third_monday + timedelta(weeks=1))
        fourth = str(third_monday + timedelta(weeks=1))
        assert await harness.rows(DECLARED) == [*declared, ("second", fourth, None, None)]
        missed = await harness.rows("SELECT series, run_date FROM batches WHERE status = 'failed'")
        assert missed == []
    assert third == str(third_monday)


# Records and jobs of earlier versions


async def test_a_record_that_began_without_a_file(several):
    """The fortnight of `main` goes on beside a new series, whose first Monday is the next one."""
    await several.play(MONDAY)
    async with several.service(MAIN, SECOND) as harness:
        for day in range(1, 8):
            several.clock.time = new_york(MONDAY + timedelta(days=day))
            if day == 7:
                await tick(harness)
            await take_due_checkpoints(harness)
        taken = await harness.rows(
            "SELECT series, run_date, count(*) FROM checkpoints JOIN batches "
            "ON batches.id = batch_id WHERE day > 0 GROUP BY 1, 2"
        )
        assert taken == [("main", MONDAY, 7)]
        assert await outcomes(harness, NEXT) == {"main": ACTIVE, "second": ACTIVE}
        assert await outcomes(harness, MONDAY) == {"main": ACTIVE}
        # Only the new series is declared: the file asks `main` as the settings did.
        names = [name for name, *_ in await harness.rows(DECLARED)]
        assert names == ["main", "second"]


async def take_due_checkpoints(harness: JobHarness) -> None:
    """Run the jobs that are due at the clock's time."""
    await harness.rows(
        "UPDATE procrastinate_jobs SET scheduled_at = NULL "
        "WHERE status = 'todo' AND scheduled_at <= %s",
        harness.clock.now(),
    )
    await worked()
    # The jobs that the job of a tick has deferred.
    await worked()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="a tick"),
        pytest.param({"questions": None}, id="reconciliation"),
        pytest.param({"questions": 3}, id="pick"),
    ],
)
async def test_a_queued_job_of_an_earlier_version(several, arguments):
    """A weekly job without `series` is one of `main`, and begins the others."""
    several.clock.time = new_york(MONDAY)
    async with several.service(MAIN, SECOND, DICE) as harness:
        arguments = {"timestamp": int(several.clock.time.timestamp()), **arguments}
        job = weekly.pick_week.configure().job.evolve(task_kwargs=arguments)
        async with harness.context.pool.connection() as conn:
            await queue.app.job_manager.batch_defer_jobs_async([job], connection=conn)
        await work(harness)
        assert await outcomes(harness) == dict.fromkeys(("main", "second", "dice"), ACTIVE)
        assert count_questions(harness) == 2


# Several processes


async def test_two_ticks_at_once(several):
    """Two processes defer the jobs of the same tick, and two workers run them: nothing is twice."""
    several.clock.time = new_york(MONDAY)
    several.world.model = [Reply(make_completion(make_answer(*CHOSEN)).body, delay=0.5)]
    async with several.service(MAIN, SECOND, DICE) as harness:
        timestamp = int(several.clock.time.timestamp())
        await asyncio.gather(
            *(weekly.defer_other_series(harness.context, timestamp) for _ in range(4))
        )
        await tick(harness)
        await tick(harness)
        await asyncio.gather(worked(), worked())
        await work(harness, rounds=2)
        assert await outcomes(harness) == dict.fromkeys(("main", "second", "dice"), ACTIVE)
        assert count_questions(harness) == 2
        jobs = await harness.rows(
            "SELECT args ->> 'series', count(*) FROM procrastinate_jobs "
            "WHERE task_name = 'pick_week' GROUP BY 1 ORDER BY 1"
        )
        assert jobs == [("dice", 1), ("second", 1), (None, 2)]
        assert await harness.rows(
            "SELECT count(*), count(DISTINCT batch_id) FROM journal WHERE kind = 'BATCH'"
        ) == [(3, 3)]


async def test_a_process_that_dies_after_the_job_of_the_tick(several):
    """
    `main` has its batch, and the process died before it deferred the others. Reconciliation begins
    them, and no later round or tick does it again.
    """
    several.clock.time = new_york(MONDAY)
    async with several.service(MAIN, SECOND, DICE) as harness:
        await weekly.run_if_due(harness.context, 1, None)
        assert await outcomes(harness) == {"main": ACTIVE}
        several.clock.time = new_york(MONDAY, 9, 2)
        assert (await reconcile.run_round(harness.context)).begun
        assert not (await reconcile.run_round(harness.context)).begun
        await tick(harness)
        await work(harness)
        assert not (await reconcile.run_round(harness.context)).begun
        assert await outcomes(harness) == dict.fromkeys(("main", "second", "dice"), ACTIVE)
        assert count_questions(harness) == 2


async def test_a_process_that_dies_with_the_jobs_of_two_series(several):
    """Its jobs are put back, and each Monday is made once."""
    several.clock.time = new_york(MONDAY)
    async with several.service(MAIN, SECOND, DICE) as harness:
        await tick(harness)
        timestamp = int(several.clock.time.timestamp())
        await weekly.defer_other_series(harness.context, timestamp)
        # The worker that ran the jobs is gone without a trace.
        await harness.rows(
            "WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) "
            "VALUES (now() - interval '1 hour') RETURNING id) "
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT id FROM dead) "
            "WHERE args ->> 'series' IS DISTINCT FROM 'dice'"
        )
        await worked()
        assert await outcomes(harness) == {"dice": ACTIVE}
        several.clock.time = new_york(MONDAY, 9, 2)
        assert (await reconcile.run_round(harness.context)).put_back == 2
        await work(harness)
        assert await outcomes(harness) == dict.fromkeys(("main", "second", "dice"), ACTIVE)
        assert count_questions(harness) == 2


async def test_a_monday_that_was_missed(several):
    """After a Monday without a service, each series has a row that says so."""
    await several.play(MONDAY, MAIN, SECOND, DICE)
    async with several.service(MAIN, SECOND, DICE) as harness:
        several.clock.time = new_york(NEXT + timedelta(days=1))
        assert (await reconcile.run_round(harness.context)).missed == 3
        missed = dict.fromkeys(("main", "second", "dice"), ("failed", "MISSED"))
        assert await outcomes(harness, NEXT) == missed
