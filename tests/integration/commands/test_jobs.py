"""`alpha-monday jobs` with real jobs in every state: what it shows, does and refuses."""

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from commands import ALPHA_MONDAY, BIN, CommandResult, environment, run, without_place
from job_context import MONDAY, new_york, rows
from job_context import clock as clock
from job_context import harness as harness
from provider_server import HANGING, ProviderServer

from app.domain import calendar
from app.domain.model import SERIES, batch_id
from app.errors import Refused
from jobs import admin
from jobs.context import RealClock
from tests.integration.jobs.test_queue import on_record as on_record
from tests.integration.jobs.test_queue import worked

A_CHECKPOINT = {"batch_id": str(batch_id(SERIES, MONDAY)), "day": 3}
LONG_AGO = datetime(2026, 1, 5, 14, tzinfo=UTC)


@pytest.fixture
def a_job(database) -> Callable[..., int]:
    """Put a job into the queue, in the state that a test needs. Return its id."""

    def put(
        status: str = "todo", *, task: str = "take_checkpoint", args: Any = None, **columns: Any
    ) -> int:
        values = {"queue_name": "default", "task_name": task, "status": status, **columns}
        values["args"] = json.dumps(A_CHECKPOINT if args is None else args)
        names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
        with psycopg.connect(database, options="-c search_path=public,queue") as conn:
            (id,) = conn.execute(
                f"INSERT INTO queue.procrastinate_jobs ({names}) VALUES ({marks}) RETURNING id",
                list(values.values()),
            ).fetchone()
        return id

    return put


@pytest.fixture
def a_worker(database) -> Callable[[float], int]:
    """Store a worker whose last heartbeat was so many seconds ago. Return its id."""

    def sign_on(silent: float) -> int:
        with psycopg.connect(database) as conn:
            (id,) = conn.execute(
                "INSERT INTO queue.procrastinate_workers (last_heartbeat) VALUES (now() - "
                "make_interval(secs => %s)) "
                "RETURNING id",
                (silent,),
            ).fetchone()
        return id

    return sign_on


@pytest.fixture
def jobs(commanded, database) -> Callable[..., CommandResult]:
    """Run `alpha-monday jobs ...` on the test's database."""

    def run_jobs(*arguments: object) -> CommandResult:
        code, out, err = commanded("jobs", *arguments, DATABASE_URL=database)
        return CommandResult(code, out, without_place(err))

    return run_jobs


# list


async def test_list(harness, jobs, a_job, a_worker):
    """
    Stalled, running, failed and waiting jobs, a line each, the next one first; jobs that ended are
    left out.
    """
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' NOT IN ('2', '3')")
    (second,), (third,) = await harness.rows("SELECT id FROM procrastinate_jobs ORDER BY id")
    failed = a_job("failed", attempts=5)
    later_failed = a_job("failed", args={"batch_id": "no-batch", "day": 1})
    runs = a_job(
        "doing",
        worker_id=a_worker(1),
        task="pick_week",
        args={"timestamp": int(new_york(MONDAY).timestamp())},
    )
    stalled = a_job("doing", attempts=1)
    at_once = a_job(task="odd\ttask\x1b[2J", args=["[bold]odd"])
    for ended in ("succeeded", "cancelled", "aborted"):
        a_job(ended)
    code, out, err = jobs("list")
    assert (code, err) == (0, "")
    assert [line.split("\t") for line in out.splitlines()] == [
        [str(stalled), "take_checkpoint", "stalled", "2026-10-26", "3", "-", "1"],
        [str(runs), "pick_week", "doing", "2026-10-26", "-", "-", "0"],
        [str(later_failed), "take_checkpoint", "failed", "-", "-", "-", "0"],
        [str(failed), "take_checkpoint", "failed", "2026-10-26", "3", "-", "5"],
        [str(at_once), "odd\\ttask\\x1b[2J", "todo", "-", "-", "-", "0"],
        [str(second), "take_checkpoint", "todo", "2026-10-26", "2", "2026-10-28 09:00", "0"],
        [str(third), "take_checkpoint", "todo", "2026-10-26", "3", "2026-10-29 09:00", "0"],
    ]


def test_list_filters(jobs, a_job):
    """The list can be filtered by status, task and number; `all` shows all jobs."""
    waits, done, cancelled = (
        a_job(),
        a_job("succeeded", task="pick_week", args={"timestamp": 0}),
        a_job("cancelled"),
    )

    def listed(*arguments: str) -> list[int]:
        code, out, err = jobs("list", *arguments)
        assert code == 0, err
        return [int(line.split("\t")[0]) for line in out.splitlines()]

    assert listed() == [waits]
    assert listed("--status", "cancelled", "--status", "succeeded") == [cancelled, done]
    assert listed("--status", "all") == [waits, cancelled, done]
    assert listed("--status", "all", "--task", "pick_week") == [done]
    assert listed("--status", "all", "--limit", "1") == [waits]
    assert (
        "There are more than 1; --limit shows them."
        in jobs("list", "--status", "all", "--limit", "1").error
    )
    assert jobs("list", "--task", "x'; DROP TABLE batches; --") == (
        0,
        "",
        "There is no such job.\n",
    )


def test_list_of_an_empty_queue(jobs):
    """An empty list is not an error."""
    assert jobs("list") == (0, "", "No job waits, runs or has failed.\n")


def test_list_on_a_terminal(database, tmp_path, a_job):
    """A table with a header; brackets in a task's name are no markup."""
    a_job(task="[red]task")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [ALPHA_MONDAY, "jobs", "list"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=database, TERM="xterm", COLUMNS="120"),
        stdout=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    assert process.returncode == 0
    assert "scheduled (New York)" in shown.decode()
    assert "[red]task" in shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""


# show


async def test_show(harness, jobs, a_job):
    """Everything about a job: its arguments, its subject, its worker, and every event."""
    await harness.make_batch()
    id = a_job("doing", lock="a lock", attempts=2)
    await harness.rows("INSERT INTO operations.strikes (job_id, surprises) VALUES (%s, 2)", id)
    await harness.rows(
        "SELECT procrastinate_retry_job_v2(%s, %s, NULL, NULL, NULL)", id, new_york(MONDAY, 12, 30)
    )
    code, out, err = jobs("show", id)
    assert (code, err) == (0, "")
    assert f"id: {id}\n" in out
    assert "status: todo\n" in out
    assert f"args: {json.dumps({'day': 3, 'batch_id': A_CHECKPOINT['batch_id']})}\n" in out
    assert "scheduled_at: Monday, 2026-10-26 12:30 in New York\n" in out
    assert "attempts: 3\nsurprises: 2\n" in out
    assert "lock: a lock\n" in out
    assert "about: day 3 of 2026-10-26\n" in out
    events = out[out.index("events:") :]
    assert "2026-10-26 16:30:00 UTC  scheduled" in events
    assert "UTC  deferred_for_retry" in events


@pytest.mark.parametrize(
    "args",
    [
        pytest.param({"timestamp": 10**30}, id="a time out of every calendar"),
        pytest.param({"timestamp": -(10**17)}, id="a time before every calendar"),
        pytest.param({"timestamp": "soon", "day": None, "batch_id": 7}, id="words for numbers"),
        pytest.param(["\x1b[2J", {"a": "\n\u202e"}], id="a list that would clear the screen"),
        pytest.param("just a text", id="no object"),
    ],
)
def test_show_odd_arguments(jobs, a_job, args):
    """Any program may have written the arguments: they are shown as ASCII, and name no Monday."""
    for task in ("pick_week", "take_checkpoint"):
        code, out, _ = jobs("show", a_job("aborted", task=task, args=args))
        assert code == 0
        (line,) = [line for line in out.splitlines() if line.startswith("args: ")]
        assert json.loads(line[6:]) == args
        assert out.isascii()
        assert "about:" not in out


# retry


def test_retry_what_failed(jobs, a_job, database):
    """A failed job waits again, under its own id and without strikes."""
    id = a_job("failed", attempts=5)
    with psycopg.connect(database) as conn:
        conn.execute("INSERT INTO operations.strikes (job_id, surprises) VALUES (%s, 5)", (id,))
    assert jobs("retry", id) == (0, f"Job {id} is back in the queue and runs at once.\n", "")
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM operations.strikes").fetchone() == (0,)
    assert jobs("list").output.startswith(f"{id}\ttake_checkpoint\ttodo\t")


@pytest.mark.parametrize("status", ["cancelled", "aborted"])
async def test_retry_what_was_cancelled_or_aborted(jobs, a_job, pool, status):
    """The queue cannot put it back: a copy of it is deferred, and its id printed."""
    at = new_york(MONDAY, 10)
    id = a_job(status, scheduled_at=at, attempts=3, priority=7, lock="l", queue_name="another")
    assert jobs("retry", id) == (
        0,
        f"Job {id} stays as it is. The new job {id + 1}, which does the same, is in the queue.\n",
        "",
    )
    assert await rows(
        pool,
        "SELECT id, status::text, attempts, task_name, args, scheduled_at, priority, lock, "
        "queue_name "
        "FROM queue.procrastinate_jobs ORDER BY id",
    ) == [
        (id, status, 3, "take_checkpoint", A_CHECKPOINT, at, 7, "l", "another"),
        (id + 1, "todo", 0, "take_checkpoint", A_CHECKPOINT, at, 7, "l", "another"),
    ]
    code, out, err = jobs("retry", id)
    assert (code, out) == (1, "")
    assert (
        f"Job {id + 1} has the same task and arguments as job {id}, and waits or runs already."
        in err
    )


async def test_retry_what_was_to_be_aborted(jobs, a_job, pool):
    """The queue would mark it as failed: it is aborted, and a new job deferred."""
    stalled, failed = (
        a_job("doing", abort_requested=True),
        a_job("failed", abort_requested=True, args={}),
    )
    code, out, _ = jobs("retry", stalled, failed)
    assert code == 0
    assert out.splitlines() == [
        f"Job {stalled} stays as it is. "
        f"The new job {failed + 1}, which does the same, is in the queue.",
        f"Job {failed} stays as it is. The new job {failed + 2}, which does the same, is in the "
        "queue.",
    ]
    assert await rows(
        pool, "SELECT id, status::text FROM queue.procrastinate_jobs ORDER BY id"
    ) == [
        (stalled, "aborted"),
        (failed, "failed"),
        (failed + 1, "todo"),
        (failed + 2, "todo"),
    ]


def test_retry_refuses(jobs, a_job, a_worker):
    """
    Jobs that wait, run, have succeeded or belong to a past Monday, and unknown ids: each with its
    message.
    """
    at = RealClock().now() + timedelta(days=1)
    waits, runs = a_job(scheduled_at=at), a_job("doing", worker_id=a_worker(2), args={})
    done = a_job("succeeded")
    over = a_job("failed", task="pick_week", args={"timestamp": int(LONG_AGO.timestamp())})
    twin = a_job("failed")
    unknown = twin + 1000
    code, out, err = jobs("retry", waits, runs, done, over, twin, unknown)
    assert (code, out) == (1, "")
    when = f"{at.astimezone(calendar.NEW_YORK):%A, %Y-%m-%d %H:%M} in New York"
    lines = err.splitlines()
    assert (
        lines[0]
        == f"alpha-monday: Job {waits} is waiting already, for {when}: there is nothing to retry."
    )
    assert lines[1].startswith(f"alpha-monday: Job {runs} is running under worker ")
    assert "which sent its last heartbeat" in lines[1]
    assert lines[2] == f"alpha-monday: Job {done} has succeeded: there is nothing to retry."
    assert lines[3].endswith(
        f"Job {over} belongs to the Monday 2026-01-05, which is over: picks are never back-dated."
    )
    assert f"Job {waits} has the same task and arguments as job {twin}" in lines[4]
    assert f"There is no job {unknown}: `alpha-monday jobs list` shows the jobs." in lines[5]


def test_retry_does_what_it_can(jobs, a_job):
    """
    A refusal does not prevent the others; the exit code shows it. An id given twice counts once.
    """
    failed, done = a_job("failed"), a_job("succeeded", args={})
    code, out, err = jobs("retry", done, failed, failed)
    assert (code, out) == (1, f"Job {failed} is back in the queue and runs at once.\n")
    assert len(err.splitlines()) == 1


async def test_a_retried_job_is_done(harness, jobs, a_job):
    """A worker runs a cancelled and retried job like any other."""
    await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs")
    id = a_job("cancelled", args={**A_CHECKPOINT, "day": 1})
    assert jobs("retry", id).exit_code == 0
    harness.clock.time = new_york(date(2026, 10, 27))
    await worked()
    assert await harness.rows(
        "SELECT status::text FROM procrastinate_jobs WHERE id > %s AND args ? 'day'", id
    ) == [("succeeded",)]
    assert await harness.rows("SELECT status FROM checkpoints WHERE day = 1") == [("computed",)]


async def test_two_people_retry_at_once(database, pool, a_job):
    """One of them succeeds; the other gets the message that it waits."""
    id = a_job("failed")
    now = RealClock().now()

    async def retry() -> Any:
        async with await psycopg.AsyncConnection.connect(
            database, options="-c search_path=public,queue"
        ) as conn:
            return await admin.retry(conn, id, now)

    one, other = await asyncio.gather(retry(), retry(), return_exceptions=True)
    assert {type(one), type(other)} == {int, Refused}


# cancel


def test_cancel(jobs, a_job, a_worker):
    """A waiting job does not run; the output says that reconciliation defers it again."""
    checkpoint, monday = a_job(), a_job(task="pick_week", args={"timestamp": 0})
    retake, other = (
        a_job(args={**A_CHECKPOINT, "retake": "2026-11-01"}),
        a_job(task="other", args={}),
    )
    code, out, err = jobs("cancel", checkpoint, monday, retake, other)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"Job {checkpoint} is cancelled. The reconciliation defers its checkpoint again when it is "
        "due, because the record needs it.",
        f"Job {monday} is cancelled. If its Monday has no batch and is not over, the "
        "reconciliation defers a new job.",
        f"Job {retake} is cancelled. If its batch is active, the reconciliation takes the skipped "
        "checkpoint again tomorrow.",
        f"Job {other} is cancelled.",
    ]
    assert jobs("list", "--status", "cancelled").output.count("\tcancelled\t") == 4


def test_cancel_refuses(jobs, a_job, a_worker):
    """Only a waiting job can be cancelled; the others get a message."""
    runs, stalled = a_job("doing", worker_id=a_worker(0)), a_job("doing", worker_id=a_worker(3600))
    ended = [a_job(status) for status in ("failed", "cancelled", "aborted", "succeeded")]
    code, out, err = jobs("cancel", runs, stalled, *ended, 10**15)
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert (
        "only a waiting job can be cancelled. Let it finish, or stop its service, which puts"
        in lines[0]
    )
    assert f"`alpha-monday jobs retry {stalled}` puts it back." in lines[1]
    for line, status in zip(
        lines[2:6], ("failed", "cancelled", "aborted", "succeeded"), strict=True
    ):
        assert f"has ended ({status}) and does not run again automatically." in line
    assert f"There is no job {10**15}" in lines[6]


# stalled


def test_stalled(jobs, a_job, a_worker):
    """Jobs of a dead worker; exit code 1 while there are any, 0 when they are put back."""
    assert jobs("stalled") == (0, "", "No job is stalled.\n")
    gone, silent = a_job("doing"), a_job("doing", worker_id=a_worker(120))
    a_job("doing", worker_id=a_worker(10))
    code, out, err = jobs("stalled")
    assert code == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(silent), str(gone)]
    assert "`alpha-monday jobs stalled --retry` returns them to the queue" in err
    code, out, err = jobs("stalled", "--retry")
    assert (code, len(out.splitlines()), err) == (0, 2, "They are back in the queue.\n")
    assert jobs("stalled") == (0, "", "No job is stalled.\n")
    assert jobs("list", "--status", "todo").output.count("\ttodo\t") == 2


async def test_a_real_worker_that_is_killed(database, pool, harness, on_record, jobs, tmp_path):
    """A living worker's job is left alone; after a kill the job is found, put back, and done."""
    monday = date(2024, 1, 8)
    await harness.make_batch(monday)
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' <> '2'")
    await harness.rows("DELETE FROM operations.provider_requests")
    ((job,),) = await harness.rows("SELECT id FROM procrastinate_jobs")
    async with ProviderServer() as provider:
        provider.play(HANGING)
        with subprocess.Popen(
            [BIN / "procrastinate", "--app=jobs.queue.app", "worker"],
            cwd=tmp_path,
            env=environment(
                DATABASE_URL=database,
                OPENAI_API_KEY="x",
                ALPHA_VANTAGE_API_KEY="x",
                ALPHA_VANTAGE_BASE_URL=provider.url,
            ),
            stderr=subprocess.DEVNULL,
        ) as worker:
            try:
                await asyncio.wait_for(provider.request_arrived.wait(), 30)
                assert jobs("stalled").exit_code == 0
                assert f"Job {job} is running under worker" in jobs("retry", job).error
            finally:
                worker.send_signal(signal.SIGKILL)
    await rows(
        pool,
        "UPDATE queue.procrastinate_workers SET last_heartbeat = last_heartbeat - interval '31 s'",
    )
    code, out, _ = jobs("stalled")
    assert (code, out.split("\t")[:5]) == (
        1,
        [str(job), "take_checkpoint", "stalled", "2024-01-08", "2"],
    )
    assert jobs("retry", job).output == f"Job {job} is back in the queue and runs at once.\n"
    await rows(pool, "DELETE FROM operations.provider_requests")
    harness.clock.time = new_york(date(2024, 1, 10))
    await worked()
    assert await rows(pool, "SELECT status FROM checkpoints WHERE day = 2") == [("computed",)]


# misuse


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
@pytest.mark.parametrize(
    "id",
    [
        "0",
        "-5",
        "+5",
        "1.5",
        "x",
        "",
        "１７",
        "9223372036854775808",
        "9" * 5000,
        "1e3",
        "--all",
        "17; DROP TABLE",
        "\x1b[2J",
    ],
)
def test_what_is_no_id(commanded, command, id):
    """One clear line with the exit code for misuse, before the database is used."""
    code, out, err = commanded(
        "jobs", command, id, DATABASE_URL="postgresql://user@127.0.0.1:1/none"
    )
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert f"{id!r}"[:3] in line
    assert "is not a job's id: ids are whole numbers from 1 to 9223372036854775807." in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["retry"], "Missing argument 'ID...'", id="no id"),
        pytest.param(
            ["list", "--status", "waiting"],
            "is not one of 'todo', 'doing', 'stalled'",
            id="no status",
        ),
        pytest.param(["list", "--limit", "0"], "0 is not in the range", id="no limit"),
        pytest.param(["delete", "1"], "No such command 'delete'", id="no such command"),
    ],
)
def test_misuse(commanded, arguments, says):
    """Wrong arguments are named."""
    code, _, err = commanded("jobs", *arguments)
    assert (code, says in err) == (2, True), err


def test_without_a_database(commanded):
    """One line names it, without its password."""
    code, _, err = commanded(
        "jobs", "list", DATABASE_URL="postgresql://user:secret-word@127.0.0.1:1/none"
    )
    assert code == 1
    assert "The database at 127.0.0.1:1/none cannot be reached" in err
    assert "secret-word" not in err


def test_as_processes(database, tmp_path, a_job):
    """The exit codes are those of the processes."""
    failed = a_job("failed")
    for arguments, code in (
        (("retry", failed), 0),
        (("retry", failed), 1),
        (("show", "x"), 2),
    ):
        done = run("jobs", *arguments, cwd=tmp_path, DATABASE_URL=database)
        assert done.returncode == code, done.stderr
    assert not list(tmp_path.iterdir())
