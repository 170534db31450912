"""The queue: stable names, the ticks of Mondays, retries, and Procrastinate's own command line."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from clocks import HandSetClock
from commands import environment
from croniter import croniter
from job_context import (
    ALPHA_VANTAGE_KEY,
    CHOSEN,
    MONDAY,
    OPENAI_KEY,
    World,
    logged,
    new_york,
    open_context,
    rows,
)
from job_context import clock as clock
from job_context import harness as harness
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.jobs import Job
from provider_server import HANGING, ProviderServer
from psycopg_pool import PoolTimeout

from app.core import settings
from app.database import pools
from app.domain import calendar
from app.domain.model import SERIES, Batch, BatchStatus, FailureReason, batch_id
from app.errors import QuestionInProgress, QuotaSpent, TryAgainAt
from app.store import batches
from jobs import alerts, daily, heartbeat, late_splits, messages, queue, weekly
from jobs.context import RealClock

BIN = Path(sys.executable).parent
NOW = new_york(MONDAY)


# Names and times that must never change


def test_the_names_of_the_tasks():
    """Jobs in the database have these names and arguments, so they never change."""
    ours = {name for name in queue.app.tasks if "builtin" not in name}
    assert ours == {
        "pick_week",
        "take_checkpoint",
        "look_for_splits",
        "read_rates",
        "read_dividends",
        "read_benchmarks",
        "add_total_returns",
        "send_alert",
        "send_heartbeat",
        "stamp_head",
        "upgrade_proof",
        "check_stamp",
        "publish_head",
    }
    assert (weekly.pick_week.name, daily.take_checkpoint.name) == ("pick_week", "take_checkpoint")
    assert late_splits.look_for_splits.name == "look_for_splits"
    assert (alerts.send_alert.name, heartbeat.send_heartbeat.name) == (
        "send_alert",
        "send_heartbeat",
    )
    assert messages.TASKS == {"send_alert": "alert", "send_heartbeat": "morning"}


async def test_the_arguments_of_the_jobs(harness):
    """
    A checkpoint's job has its batch and day, a weekly job the time of its tick: small, and no
    secrets.
    """
    async with harness.context.pool.connection() as conn:
        await weekly.defer_run(conn, NOW)
        await daily.defer_checkpoints(
            conn, [weekly.DueCheckpoint(batch_id(SERIES, MONDAY), MONDAY, 3)]
        )
    assert await harness.rows(
        "SELECT task_name, args, queue_name, lock, queueing_lock, scheduled_at FROM "
        "procrastinate_jobs ORDER BY id"
    ) == [
        (
            "pick_week",
            {"timestamp": int(NOW.timestamp()), "questions": None},
            "default",
            None,
            None,
            None,
        ),
        (
            "take_checkpoint",
            {"batch_id": str(batch_id(SERIES, MONDAY)), "day": 3},
            *("default", None, None, calendar.due_at(MONDAY, 3)),
        ),
    ]


def cron() -> str:
    """Return the cron of the only periodic task."""
    ((name, _),) = queue.app.periodic_registry.periodic_tasks
    assert name == "pick_week"
    ((task,),) = [queue.app.periodic_registry.periodic_tasks.values()]
    return task.cron


def test_the_cron():
    """Mondays at 13:00 and 14:00 UTC: one of them is 09:00 in New York; no lock can lose a tick."""
    assert cron() == "0 13,14 * * 1"
    assert queue.app.periodic_defaults == {"max_delay": 15 * 3600}


def test_the_first_tick_of_every_monday():
    """
    Over all Mondays of 2024 to 2035 the first tick at which a Monday has begun is at nine in New
    York.
    """
    begun: dict[date, datetime] = {}
    ticks = croniter(cron(), datetime(2023, 12, 31, tzinfo=UTC))
    while (tick := ticks.get_next(datetime)).year < 2036:
        if monday := calendar.run_date(tick):
            begun.setdefault(monday, tick.astimezone(calendar.NEW_YORK))
    mondays = [date(2024, 1, 1) + timedelta(weeks=week) for week in range(627)]
    assert mondays[-1] == date(2035, 12, 31)
    assert [(monday, tick.date(), tick.hour, tick.minute) for monday, tick in begun.items()] == [
        (monday, monday, 9, 0) for monday in mondays
    ]


# When a job is tried again


@pytest.fixture
async def job_clock(clock) -> AsyncIterator[None]:
    """Give the queue's jobs a clock that the test sets."""
    pool = pools.make_pool("")  # no test needs a connection of it
    async with queue.bind_context(queue.app, settings.load({}), pool=pool, clock=clock):
        yield


def a_job(attempts: int) -> Job:
    """Return a job that has been tried so often before."""
    return Job(
        id=1,
        queue="default",
        task_name="take_checkpoint",
        lock=None,
        queueing_lock=None,
        task_kwargs={},
        attempts=attempts,
        scheduled_at=None,
    )


AT = NOW + timedelta(hours=3)


@pytest.mark.parametrize(
    ("exception", "attempts", "again"),
    [
        pytest.param(asyncio.CancelledError(), 0, NOW, id="shut down"),
        pytest.param(asyncio.CancelledError(), 100, NOW, id="shut down for the hundredth time"),
        pytest.param(JobAborted(), 100, NOW, id="aborted by a shutdown"),
        pytest.param(TryAgainAt("Too early.", AT), 0, AT, id="too early"),
        pytest.param(QuotaSpent("Spent.", AT), 100, AT, id="quota spent, again and again"),
        pytest.param(QuestionInProgress("Open.", AT), 100, AT, id="a question in progress"),
        pytest.param(
            psycopg.OperationalError(), 100, NOW + timedelta(seconds=5), id="database away"
        ),
        pytest.param(
            psycopg.errors.AdminShutdown(), 100, NOW + timedelta(seconds=5), id="database shut down"
        ),
        pytest.param(
            ConnectorException(), 100, NOW + timedelta(seconds=5), id="the queue's connection away"
        ),
        pytest.param(PoolTimeout(), 100, NOW + timedelta(seconds=5), id="no connection in time"),
        pytest.param(
            psycopg.errors.ProgramLimitExceeded(), 0, None, id="a statement that asks too much"
        ),
        pytest.param(
            queue.UnexpectedFailure(1), 100, NOW + timedelta(seconds=2), id="an unexpected error"
        ),
        pytest.param(
            queue.UnexpectedFailure(2),
            100,
            NOW + timedelta(seconds=4),
            id="a second unexpected error",
        ),
        pytest.param(
            queue.UnexpectedFailure(3),
            100,
            NOW + timedelta(seconds=8),
            id="a third unexpected error",
        ),
        pytest.param(
            queue.UnexpectedFailure(4),
            100,
            NOW + timedelta(seconds=16),
            id="a fourth unexpected error",
        ),
        pytest.param(queue.UnexpectedFailure(5), 0, None, id="a fifth unexpected error"),
    ],
)
async def test_when_a_job_is_tried_again(job_clock, exception, attempts, again):
    """The rules of `RetryPolicy`, in the time of the jobs' own clock."""
    decision = queue.RetryPolicy().get_retry_decision(exception=exception, job=a_job(attempts))
    assert (decision and decision.retry_at) == again


@pytest.mark.parametrize("lock", ["suspects", None], ids=["put back before", "put back meanwhile"])
async def test_a_suspect_that_ends_with_an_error_is_no_suspect_any_more(job_clock, lock):
    """
    A job that was put back twice runs alone; after it ends with an error it no longer blocks the
    others.

    If the row of its worker was deleted, a job may be put back while it still runs. Then the
    running job does not know of the lock in its row.
    """
    suspect = a_job(0).evolve(lock=lock)
    decision = queue.RetryPolicy().get_retry_decision(
        exception=TryAgainAt("Too early.", AT), job=suspect
    )
    assert decision.lock == "job 1"


@pytest.mark.parametrize(
    "task", [weekly.pick_week, daily.take_checkpoint], ids=lambda task: task.name
)
def test_all_tasks_have_the_same_retry_policy(task):
    """All tasks have the same retry policy."""
    assert isinstance(task.retry_strategy, queue.RetryPolicy)


# The worker, run in this process


# Postgres's own clock decides what is due, so these Mondays are ones that it has not come to: no
# morning is due.
FAR_MONDAY = date(2100, 10, 25)
FAR_TUESDAY = date(2100, 10, 26)


async def worked() -> None:
    """Run a worker until no job is due."""
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)


async def statuses(pool) -> list[tuple[str, str, int]]:
    """Return the jobs that do not wait for another day: task, status, attempts."""
    return await rows(
        pool,
        "SELECT task_name, status::text, attempts FROM procrastinate_jobs WHERE status <> 'todo' "
        "ORDER BY id",
    )


async def test_a_monday_through_the_queue(harness):
    """Two weekly jobs and a worker: one question, one batch, fourteen waiting checkpoints."""
    harness.clock.time = new_york(FAR_MONDAY)
    async with harness.context.pool.connection() as conn:
        await weekly.defer_run(conn, harness.clock.now())
        await weekly.defer_run(conn, harness.clock.now())
    await worked()
    assert (await statuses(harness.context.pool))[:2] == [("pick_week", "succeeded", 1)] * 2
    assert (await harness.batch(FAR_MONDAY)).status == "active"
    assert len(harness.questions) == 1
    assert [(task, at) for task, _, at in await harness.jobs()] == [
        ("take_checkpoint", calendar.due_at(FAR_MONDAY, day)) for day in range(1, 15)
    ]


async def test_a_job_that_is_too_early_goes_back(harness):
    """
    A missing close is no failure of the job: it waits in the queue until the next request time.
    """
    await harness.make_batch(FAR_MONDAY)
    harness.world.absent.add(("SPY", FAR_MONDAY))
    harness.clock.time = new_york(FAR_TUESDAY)
    await harness.rows(
        "UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE args ->> 'day' = '1'"
    )
    await worked()
    assert await harness.rows(
        "SELECT status::text, attempts, scheduled_at FROM procrastinate_jobs WHERE args ->> 'day' "
        "= '1'"
    ) == [("todo", 1, new_york(FAR_TUESDAY, 9, 30))]
    assert harness.requested_tickers == ["SPY"]


async def test_every_line_of_a_job_has_its_log_context(harness):
    """The log context has job, task and attempt, and the run date or the batch with its day."""
    harness.clock.time = new_york(FAR_MONDAY)
    async with harness.context.pool.connection() as conn:
        job = await weekly.defer_run(conn, harness.clock.now())
    with logged("INFO", harness.clock) as lines:
        await worked()
        await harness.rows(
            "UPDATE procrastinate_jobs SET scheduled_at = NULL WHERE args ->> 'day' = '1'"
        )
        harness.clock.time = new_york(FAR_TUESDAY)
        await worked()
    week = [line for line in lines if line.get("job") == job]
    assert [line["event"] for line in week] == [
        "Monday run started",
        "question sent to the model",
        "answer accepted",
        *["closes read"] * 4,
        "batch stored",
    ]
    stored = week[-1]
    assert (stored["task"], stored["attempt"], stored["run_date"]) == (
        "pick_week",
        1,
        str(FAR_MONDAY),
    )
    assert stored["picks"] == ["SELL MSFT at 3.0000", "BUY AAPL at 80.0000", "SELL NVDA at 7.0000"]
    assert stored["batch"] == str(batch_id(SERIES, FAR_MONDAY))
    assert len(stored["pick_ids"]) == 3
    mornings = [line for line in lines if line.get("task") == "take_checkpoint"]
    assert [line["event"] for line in mornings] == [*["closes read"] * 4, "checkpoint computed"]
    assert {
        (line["batch"], line["day"], line["attempt"], line["run_date"]) for line in mornings
    } == {(stored["batch"], 1, 1, str(FAR_MONDAY))}
    assert all({"at", "level", "step"} <= line.keys() for line in (*week, *mornings))


async def test_a_worker_that_stops(harness):
    """A job that does not end in time goes back to the queue, for any worker."""
    harness.provider.play(HANGING)
    async with harness.context.pool.connection() as conn:
        job = await weekly.defer_run(conn, harness.clock.now())
    working = asyncio.create_task(
        queue.app.run_worker_async(
            install_signal_handlers=False, listen_notify=False, shutdown_graceful_timeout=0.05
        )
    )
    await harness.provider.request_arrived.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await harness.rows(
        "SELECT status::text, scheduled_at FROM procrastinate_jobs WHERE id = %s", job
    ) == [("todo", harness.clock.now())]
    assert await harness.rows("SELECT attempt, accepted FROM generations") == [(1, None)]


async def test_the_oldest_batch_first(harness):
    """Four requests are left for two checkpoints that need four each: the older one gets them."""
    monday, older = date(2025, 10, 27), date(2025, 10, 20)
    await harness.make_batch(older)
    await harness.make_batch(monday, "KO", "BRK.B", "AAPL")
    await harness.rows("DELETE FROM operations.provider_requests")
    await harness.rows(
        "DELETE FROM procrastinate_jobs WHERE scheduled_at <> %s", calendar.due_at(monday, 1)
    )
    harness.clock.time = new_york(monday + timedelta(days=1))
    await harness.rows(
        "INSERT INTO operations.provider_requests (provider, function, symbol, at, ended_at, "
        "outcome) "
        "SELECT 'alphavantage', 'TIME_SERIES_DAILY', 'XOM', at, at, 'answered' "
        "FROM generate_series(%s::timestamptz - interval '6 h', %s::timestamptz - interval '2 h', "
        "'12 min') AS at",
        *[harness.clock.now()] * 2,
    )
    await worked()
    assert harness.requested_tickers == ["SPY", *CHOSEN]
    assert await harness.rows(
        "SELECT run_date, day FROM checkpoints JOIN batches ON batches.id = batch_id WHERE day > 0"
    ) == [(older, 8)]
    waiting = await harness.rows(
        "SELECT args ->> 'day', attempts, scheduled_at FROM procrastinate_jobs "
        "WHERE status = 'todo' AND task_name = 'take_checkpoint' AND attempts > 0"
    )
    assert [(day, attempts) for day, attempts, _ in waiting] == [("1", 1)]
    assert waiting[0][2] > harness.clock.now()


# Procrastinate's command line, from a clean shell


@pytest.fixture
async def on_record(database, pool) -> date:
    """The real Monday has its row, so that a worker does not ask a model about it."""
    clock = RealClock()
    run_date = calendar.latest_run_date(clock.now())
    failed = Batch(
        id=batch_id(SERIES, run_date),
        series=SERIES,
        run_date=run_date,
        created_at=clock.now(),
        status=BatchStatus.FAILED,
        late=False,
        failure_reason=FailureReason.MISSED,
        failure="It is only a test.",
        benchmark_symbol="SPY",
    )
    async with pool.connection() as conn, conn.transaction():
        await batches.insert_failed(conn, failed, in_force=None)
    return run_date


async def procrastinate(
    database: str, cwd: Path, *arguments: str, keys: bool = True, **settings: str
) -> tuple[int, str, str]:
    """Run `procrastinate --app=jobs.queue.app`. Return its exit code and its output."""
    both = (
        {"OPENAI_API_KEY": OPENAI_KEY, "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY} if keys else {}
    )
    process = await asyncio.create_subprocess_exec(
        BIN / "procrastinate",
        "--app=jobs.queue.app",
        *arguments,
        cwd=cwd,
        env=environment(DATABASE_URL=database, **both, **settings),
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_healthchecks(database, tmp_path):
    """`procrastinate healthchecks` finds the queue in its own schema."""
    code, out, err = await procrastinate(database, tmp_path, "healthchecks", keys=False)
    assert (code, "DB connection: OK" in out, "table: OK" in out) == (0, True, True), err


async def test_defer_and_list_jobs(database, pool, tmp_path):
    """A job that is deferred manually is in the shell's list."""
    arguments = json.dumps({"batch_id": str(batch_id(SERIES, MONDAY)), "day": 1})
    code, out, err = await procrastinate(
        database, tmp_path, "defer", "take_checkpoint", arguments, keys=False
    )
    assert code == 0, err
    assert await rows(pool, "SELECT task_name, args, status::text FROM procrastinate_jobs") == [
        ("take_checkpoint", json.loads(arguments), "todo")
    ]
    code, out, err = await procrastinate(database, tmp_path, "shell", "list_jobs", keys=False)
    assert code == 0, err
    assert "take_checkpoint on default - [todo]" in out
    assert list(tmp_path.iterdir()) == []  # nothing was started or written here


async def test_a_worker(database, pool, on_record, tmp_path):
    """`procrastinate worker` builds its own context and runs due jobs."""
    await rows(
        pool,
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('default', "
        "'take_checkpoint', %s)",
        json.dumps({"batch_id": str(batch_id(SERIES, MONDAY)), "day": 1}),
    )
    code, out, err = await procrastinate(database, tmp_path, "worker", "--one-shot")
    assert code == 0, err
    assert ("take_checkpoint", "succeeded", 1) in await statuses(pool)
    assert OPENAI_KEY not in out + err


async def test_a_worker_takes_a_checkpoint(database, pool, on_record, tmp_path):
    """A worker of the command line uses the real clients, and prints no key."""
    monday = date(2024, 1, 8)
    then = HandSetClock(new_york(monday))
    world = World(then)
    async with ProviderServer() as provider:
        provider.answers = world
        async with open_context(
            database=database, pool=pool, clock=then, base_url=provider.url
        ) as context:
            await weekly.run_if_due(context, 1, None)
        await rows(pool, "DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '2'")
        await rows(pool, "DELETE FROM operations.provider_requests")
        then.time = new_york(date(2024, 1, 12))
        provider.requests.clear()
        code, out, err = await procrastinate(
            *(database, tmp_path, "worker", "--one-shot"),
            OPENAI_BASE_URL=f"{provider.url}/v1",
            ALPHA_VANTAGE_BASE_URL=provider.url,
            ALPHA_VANTAGE_PER_SECOND="10",
        )
    assert code == 0, err
    assert [request.query["symbol"] for request in provider.requests] == ["SPY", *CHOSEN]
    assert await rows(pool, "SELECT day, trading_day, status FROM checkpoints WHERE day > 0") == [
        (2, date(2024, 1, 9), "computed")
    ]
    assert ALPHA_VANTAGE_KEY not in out + err


async def test_a_worker_without_keys(database, tmp_path):
    """The worker does not start, and its message names both keys."""
    code, out, err = await procrastinate(database, tmp_path, "worker", "--one-shot", keys=False)
    assert code != 0
    assert (
        "OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY must be set"
        in (out + err).strip().splitlines()[-1]
    )


async def test_healthchecks_that_fail(empty, tmp_path):
    """A database without the queue: the exit code shows it."""
    code, out, err = await procrastinate(empty, tmp_path, "healthchecks", keys=False)
    assert (code, "procrastinate_jobs table" in err) == (1, True), out + err


@pytest.mark.long
async def test_healthchecks_without_a_database(tmp_path):
    """
    A missing database is noticed after the queue's timeout of 30 seconds; no password is shown.
    """
    code, out, err = await procrastinate(
        "postgresql://user:secret-word@127.0.0.1:1/none", tmp_path, "healthchecks"
    )
    assert code == 1
    assert "secret-word" not in out + err


async def test_defer_what_is_no_task(database, pool, tmp_path):
    """An unknown task is refused, and no job is deferred."""
    code, _, err = await procrastinate(
        database, tmp_path, "defer", "sell_everything", "{}", keys=False
    )
    assert (code, "Task cannot be imported." in err) == (1, True)
    code, _, err = await procrastinate(
        database, tmp_path, "defer", "take_checkpoint", "no JSON", keys=False
    )
    assert (code, "Incorrect JSON_ARGS value" in err) == (1, True)
    assert await rows(pool, "SELECT id FROM queue.procrastinate_jobs") == []


async def test_the_shell(database, pool, tmp_path):
    """
    Procrastinate's shell cancels waiting jobs and retries failed ones. It exits with 0 also if it
    refuses, so there is `alpha-monday jobs`.
    """
    await rows(
        pool,
        "INSERT INTO queue.procrastinate_jobs (id, queue_name, task_name, status) VALUES "
        "(1, 'default', 'take_checkpoint', 'cancelled'), (2, 'default', 'take_checkpoint', "
        "'failed'), "
        "(3, 'default', 'take_checkpoint', 'failed')",
    )
    for command, code, says in (
        ("retry 2", 0, "#2 take_checkpoint on default - [todo]"),
        ("cancel 2", 0, "#2 take_checkpoint on default - [cancelled]"),
        ("retry 3", 0, "#3 take_checkpoint on default - [todo]"),
        ("retry 1", 0, "Database error."),
        (
            "list_tasks",
            0,
            "take_checkpoint: 3 jobs (todo: 1, doing: 0, succeeded: 0, failed: 0, cancelled: 2, "
            "aborted: 0)",
        ),
    ):
        exit_code, out, err = await procrastinate(
            database, tmp_path, "shell", *command.split(), keys=False
        )
        assert (exit_code, says in out + err) == (code, True), out + err


async def test_a_worker_that_is_stopped(database, pool, on_record, tmp_path):
    """On SIGTERM `procrastinate worker` finishes its jobs, removes its row and exits with 0."""
    process = await asyncio.create_subprocess_exec(
        *(BIN / "procrastinate", "--app=jobs.queue.app", "worker"),
        cwd=tmp_path,
        env=environment(
            DATABASE_URL=database,
            OPENAI_API_KEY=OPENAI_KEY,
            ALPHA_VANTAGE_API_KEY=ALPHA_VANTAGE_KEY,
        ),
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(60):
        while not await rows(pool, "SELECT id FROM queue.procrastinate_workers"):
            await asyncio.sleep(0.1)
        process.terminate()
        _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert await rows(pool, "SELECT id FROM queue.procrastinate_workers") == []


# A clock that is not Postgres's


class OtherClock(RealClock):
    """The system's clock with an error of so many seconds; a negative one is behind."""

    def __init__(self, wrong: timedelta) -> None:
        super().__init__()
        self.wrong = wrong

    def now(self) -> datetime:
        return super().now() + self.wrong


# The example was 40 seconds behind. The last four are set to another time on purpose, as a test's
# clock is.
@pytest.mark.parametrize(
    ("wrong", "wait", "waits"),
    [
        pytest.param(0, 600, 600, id="right"),
        pytest.param(-1, 1, 1, id="behind by a second"),
        pytest.param(-40, 40, 40, id="behind by 40 s"),
        pytest.param(-40, 600, 600, id="behind by 40 s, not due for either"),
        pytest.param(-40, 0.2, 1, id="no shorter than a second"),
        pytest.param(-3600, 3600, 60, id="behind by an hour: it may be set right"),
        pytest.param(-3600, 5, 5, id="behind by an hour, the database was away"),
        pytest.param(-86_400, 86_400, 60, id="behind by a day"),
        pytest.param(3600, 5, 5, id="ahead by an hour, the database was away"),
        pytest.param(3600, 1800, 1800, id="ahead by an hour, a close is not there yet"),
        pytest.param(86_400, 5, 5, id="ahead by a day"),
        pytest.param(0, 0, 0, id="shut down: at once"),
        pytest.param(3600, 0, 0, id="ahead by an hour, shut down: at once"),
        pytest.param(-3600, 0, -3600, id="behind by an hour, shut down: at once"),
        pytest.param(-1e8, 1800, 1, id="years behind"),
        pytest.param(-1e8, 0, -1e8, id="years behind, shut down: at once"),
        pytest.param(1e8, 1800, 1e8 + 1800, id="years ahead"),
    ],
)
def test_a_wait_is_by_the_clock_of_the_jobs(wrong, wait, waits):
    """Postgres's clock decides what is due, so the length of the wait must stay the same."""
    postgres = datetime(2026, 11, 29, 14, tzinfo=UTC)
    ours = postgres + timedelta(seconds=wrong)
    again = queue.retry_time_in_postgres(
        ours + timedelta(seconds=wait), job_now=ours, postgres_now=postgres
    )
    assert (again - postgres).total_seconds() == waits


@pytest.mark.parametrize(
    "wrong",
    [timedelta(seconds=-2), timedelta(seconds=-40), timedelta(hours=-1), timedelta(days=-1)],
    ids=str,
)
@pytest.mark.sampled(2)
async def test_a_job_that_postgres_takes_for_due(database, pool, monkeypatch, wrong):
    """
    The job waits, and runs when its own clock shows the time: no busy loop, and it is not lost.
    """
    clock = OtherClock(wrong)
    due = RealClock().now()
    refused: list[float] = []

    async def take(*_: object, **__: object) -> None:
        refused.append(monotonic())
        if clock.now() < due:
            raise TryAgainAt("The checkpoint is not due.", due)

    monkeypatch.setattr(daily, "take", take)
    async with (
        ProviderServer() as provider,
        open_context(database=database, pool=pool, clock=clock, base_url=provider.url) as context,
    ):
        async with context.pool.connection() as conn:
            await conn.execute("SET search_path = public, queue")
            await daily.defer_checkpoints(
                conn, [weekly.DueCheckpoint(batch_id(SERIES, MONDAY), MONDAY, 3)]
            )
            await conn.execute("UPDATE queue.procrastinate_jobs SET scheduled_at = %s", (due,))
        running = asyncio.create_task(
            queue.app.run_worker_async(
                install_signal_handlers=False, fetch_job_polling_interval=0.1
            )
        )
        while not refused:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)
        assert len(refused) <= 2
        clock.wrong = timedelta(0)  # as when the time service corrects it
        await rows(
            pool, "UPDATE queue.procrastinate_jobs SET scheduled_at = NULL WHERE status = 'todo'"
        )
        while await rows(pool, "SELECT FROM queue.procrastinate_jobs WHERE status <> 'succeeded'"):
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
    assert len(refused) <= 4


@pytest.mark.parametrize("ahead", [0.5, 40, 3600], ids="by {} s".format)
def test_a_tick_that_is_ahead_of_the_clock(ahead):
    """Another process's clock is ahead: the job waits for 09:00 of its own clock."""
    tick = new_york(MONDAY)
    with pytest.raises(TryAgainAt) as later:
        weekly.wait_for_tick(int(tick.timestamp()), tick - timedelta(seconds=ahead))
    assert later.value.at == tick


@pytest.mark.parametrize("age", [0, 1, 3600, -10_000_000])
def test_a_tick_that_is_not_waited_for(age):
    """A tick that is not ahead, or too far ahead, is not waited for."""
    weekly.wait_for_tick(int(NOW.timestamp()), NOW + timedelta(seconds=age))
