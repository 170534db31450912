"""`alpha-monday status`: what runs, what waits, what went wrong, and what a person must do."""

import json
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from uuid import uuid4

import psycopg
import pytest
from commands import run, without_place
from job_context import MONDAY, make_completion, new_york
from job_context import clock as clock
from job_context import harness as harness
from provider_server import says
from record_server import as_recorded as as_recorded
from record_server import copy_of, unguarded

from app.commands import status
from app.commands.terminal import format_duration
from app.core import settings
from app.database.pools import transaction
from app.domain.model import SERIES, Generation, JournalKind, batch_id
from app.ops import snapshot
from app.store import generations, journal
from jobs import daily, reconcile, weekly

TUESDAY = date(2026, 10, 27)
Words = tuple[list[str], list[str], list[str]]

# The keys of `status --json`, in their order. Scripts read them: they never change. None stands for
# a plain value.
_BATCH = {
    "id": None,
    "series": None,
    "run_date": None,
    "created_at": None,
    "status": None,
    "late": None,
    "failure_reason": None,
    "failure": None,
    "benchmark_symbol": None,
    "benchmark_initial_price": None,
    "benchmark_initial_close_id": None,
    "trading_day": None,
}
_CHECKPOINT = {
    "run_date": None,
    "day": None,
    "due_at": None,
    "job": None,
    "attempts": None,
    "tried_at": None,
    "series": None,
}
_COMPUTED = {"run_date": None, "day": None, "taken_at": None, "again": None, "series": None}
_MESSAGES = {"on": None, "waiting": None, "last": None, "what": None, "outcome": None}
KEYS = {
    "at": None,
    "rehearsed": None,
    "standing_still": None,
    "workers": [{"id": None, "last_heartbeat": None, "silent": None}],
    "upkeep": {
        "last_round_at": None,
        "last_mended_at": None,
        "mended": {
            "begun": None,
            "missed": None,
            "deferred": None,
            "given_up": None,
            "put_back": None,
        },
    },
    "monday": None,
    "batch": _BATCH,
    "monday_job": None,
    "next_monday_at": None,
    "next_checkpoints": [_CHECKPOINT],
    "overdue": [_CHECKPOINT],
    "jobs": [{"task": None, "status": None, "jobs": None}],
    "stalled": [None],
    "failed": [
        {"id": None, "task": None, "run_date": None, "day": None, "owed": None, "series": None}
    ],
    "quota": {"requests": [None], "next_at": None},
    "allowed": [None],
    "request_plan": {
        "per_day": None,
        "most_closes": None,
        "splits_left_out": None,
        "dividends_left_out": None,
        "days": [
            {
                "day": None,
                "baseline_closes": None,
                "checkpoint_closes": None,
                "splits": None,
                "splits_waiting": None,
                "weekly": None,
                "dividends": None,
                "dividends_waiting": None,
            }
        ],
    },
    "last_batch": _BATCH,
    "last_checkpoint": _COMPUTED,
    "record": {"id": None, "origin": None, "sealed": None},
    "journal_head": {"seq": None, "hash": None, "at": None},
    "past": {
        "missed": [{"run_date": None, "asked": None, "failure": None, "series": None}],
        "unrecorded": [None],
        "late_batches": [_BATCH],
        "late_checkpoints": [_COMPUTED],
    },
    "skipped": [
        {
            "run_date": None,
            "day": None,
            "due_at": None,
            "reason": None,
            "note": None,
            "series": None,
        }
    ],
    "alerts": _MESSAGES,
    "heartbeat": _MESSAGES,
    "model": {"name": None, "ends_on": None},
    "models": [{"series": None, "name": None, "ends_on": None, "gone": None}],
    "timestamps": [
        {"kind": None, "authority": None, "seq": None, "received_at": None, "pending": None}
    ],
    "unstamped_monday": None,
    "published_head": {
        "on": None,
        "seq": None,
        "hash": None,
        "published_at": None,
        "failing_since": None,
        "failure": None,
    },
    "series": [
        {
            "name": None,
            "label": None,
            "kind": None,
            "model": {"name": None, "ends_on": None},
            "configured": None,
            "declared": None,
            "retired": None,
            "joins": None,
            "leaves": None,
            "first_monday": None,
            "batch": _BATCH,
            "monday_job": None,
            "questions": None,
            "missed": [None],
            "unrecorded": [None],
            "unstamped": None,
        }
    ],
    "further_benchmarks": [],
    "notes": [None],
    "to_do": [None],
    "well": None,
}


@pytest.fixture
def words(harness) -> Callable[..., Awaitable[Words]]:
    """The lines of the command at the test's time: facts, notes, and what is to do."""

    async def read_lines(**environment: str) -> Words:
        state = await snapshot.read_for_operator(
            harness.context.pool, settings.load(environment), harness.clock
        )
        return list(status.facts(state)), list(status.notes(state)), list(status.to_dos(state))

    return read_lines


@pytest.fixture
async def alive(harness) -> Callable[[], Awaitable[None]]:
    """A worker with a recent heartbeat, and a round of the reconciliation."""

    async def live() -> None:
        await harness.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")
        await reconcile.run_round(harness.context)

    return live


async def test_all_is_well(harness, words, alive):
    """One line for each part of the service, and no note."""
    await harness.make_batch()
    await alive()
    harness.clock.forward(minutes=3)
    facts, notes, to_do = await words()
    assert (notes, to_do) == ([], [])
    entries = await harness.journal()
    head = entries[-1]
    record_id = json.loads(entries[0].content)["genesis"]["record_id"]
    (worker,) = await harness.rows("SELECT id FROM procrastinate_workers")
    assert facts[0] == "now: Monday, 2026-10-26 09:03 in New York"
    assert facts[1].startswith(f"workers: id {worker[0]}, heartbeat ")
    assert facts[2:] == [
        "reconciliation: last round 3 min ago",
        "Monday 2026-10-26: active",
        "next Monday: Monday, 2026-11-02 09:00 in New York",
        "next checkpoints: day 1 of 2026-10-26: Tuesday, 2026-10-27 09:00 in New York",
        "jobs: 14 take_checkpoint todo",
        "overdue: none",
        "Alpha Vantage requests left: 1 of 1 a second, 5 of 5 a minute, 21 of 25 a day",
        "price requests planned: closes 4 today, 4 tomorrow, at most 7 (Tuesday, 2026-11-03); "
        "splits 0 today, 0 tomorrow; dividends 0 today, 0 tomorrow; rate and further benchmarks "
        "1 today, 0 tomorrow; of 25 a day",
        "last batch: 2026-10-26, made Monday, 2026-10-26 09:00 in New York",
        "last figures: none yet",
        "alerts: off, ALERT_WEBHOOK_URL is not set here",
        "heartbeat: off, HEARTBEAT_URL is not set here",
        "timestamps: off, TIMESTAMP_URLS and OTS_CALENDARS are not set here",
        f"record: {record_id}; its origin is LIVE; sealed",
        f"journal: {head.seq}:{head.hash}",
        "published head: off, HEAD_REPOSITORY is not set here",
    ]


@pytest.mark.parametrize(
    ("model", "noted", "to_do"),
    [
        pytest.param(
            "gpt-4o-mini",
            "OpenAI ends gpt-4o-mini on 2027-01-14: set OPENAI_MODEL to another model.",
            None,
            id="in seven weeks",
        ),
        pytest.param(
            "openai/gpt-4.1",
            "OpenAI ends openai/gpt-4.1 on 2027-01-14: set OPENAI_MODEL to another model.",
            None,
            id="of a relay",
        ),
        pytest.param(
            "o3",
            None,
            "OpenAI ends o3 on 2026-12-11: set OPENAI_MODEL to another model.",
            id="in two weeks",
        ),
        pytest.param(
            "o1",
            None,
            "OpenAI ended o1 on 2026-10-23: set OPENAI_MODEL to another model.",
            id="long ago",
        ),
        pytest.param("gpt-5.1", None, None, id="in four months"),
        pytest.param("llama3.2:3b", None, None, id="of another kind"),
        pytest.param("", None, None, id="the default"),
    ],
)
async def test_a_model_that_ends(harness, words, alive, model, noted, to_do):
    """The end of a model is a note at first; in its last two weeks a person must act."""
    await harness.make_batch(date(2026, 11, 23))
    harness.clock.time = new_york(date(2026, 11, 28), 8)
    await alive()
    _, notes, needs = await words(OPENAI_MODEL=model)
    assert [line for line in notes if "OpenAI" in line] == [line for line in (noted,) if line]
    assert [line for line in needs if "OpenAI" in line] == [line for line in (to_do,) if line]


async def test_an_empty_record(harness, words):
    """Nothing has begun, and no worker runs."""
    harness.clock.time = new_york(TUESDAY)
    facts, notes, to_do = await words()
    assert notes == []
    assert to_do == [
        "No worker runs, so nothing is picked or measured: start the service, `alpha-monday serve` "
        "or "
        "`alpha-monday work`.",
    ]
    assert {
        "workers: none",
        "reconciliation: it has never run",
        "Monday 2026-10-26: no batch",
        "journal: empty",
    } <= set(facts)


async def test_an_outage_of_three_weeks(harness, words, alive):
    """
    The output shows what was missed and what is overdue, then what is done about it, and at last
    the result.
    """
    await harness.make_batch(date(2026, 10, 5))
    await harness.rows("DELETE FROM procrastinate_jobs")
    harness.clock.time = new_york(date(2026, 10, 28), 14)
    _, notes, to_do = await words()
    missed = "The Mondays 2026-10-12, 2026-10-19, 2026-10-26 were missed"
    assert notes[:2] == [
        f"{missed}. A running service records that within a minute.",
        "Day 1 of 2026-10-05 is overdue by 22 d 5 h; a running service defers a job for it within "
        "a minute.",
    ]
    assert notes[-1] == "9 later checkpoints are overdue, too."
    assert [line.split(",")[0] for line in to_do] == ["No worker runs"]

    await alive()
    facts, notes, to_do = await words()
    assert notes[0] == f"{missed} while the service was down."
    assert notes[1].startswith("Day 1 of 2026-10-05 is overdue by 22 d 5 h; job ")
    assert notes[1].endswith(" takes it.")
    assert facts[2] == (
        "reconciliation: last round 0 s ago; last repairs Wednesday, 2026-10-28 14:00 in New York: "
        "3 missed, 14 deferred"
    )
    assert to_do == []  # a job for each, and a worker that comes to them

    await harness.rows("UPDATE procrastinate_jobs SET attempts = 1 WHERE args ->> 'day' <> '3'")
    _, _, to_do = await words()
    assert len(to_do) == 1  # it tried them without success
    assert to_do[0].startswith(
        "Day 1 of 2026-10-05 is overdue by 22 d 5 h, although a worker runs. 12 other checkpoints "
        "are overdue, too. To find the reason, run `"
    )

    batch = batch_id(SERIES, date(2026, 10, 5))
    for day in range(1, 15):
        await daily.take(harness.context, batch, day)
    await harness.rows("UPDATE procrastinate_jobs SET status = 'succeeded'")
    facts, notes, to_do = await words()
    assert notes == [
        f"{missed} while the service was down.",
        "10 checkpoints were taken late in the last four weeks. The longest delay: day 1 of "
        "2026-10-05, 22 d 5 h.",
    ]
    assert to_do == []
    assert [
        fact
        for fact in facts
        if fact.startswith("last figures: day 12 of 2026-10-05, Wednesday, 2026-10-28")
    ]


async def test_a_late_batch(harness, words, alive):
    """A note says by how long."""
    harness.clock.time = new_york(MONDAY, 14)
    await harness.begin()
    await alive()
    facts, notes, to_do = await words()
    assert (notes, to_do) == (
        ["The batch of Monday 2026-10-26 was made 5 h after it was due."],
        [],
    )
    assert "Monday 2026-10-26: active, late" in facts


async def test_one_missed_monday_that_had_begun(harness, words, alive):
    """
    The model was asked, but the prices arrived too late. The note differs from that of an outage.
    """
    await harness.make_batch(date(2026, 10, 19))
    harness.clock.time = new_york(MONDAY, 21)
    question = Generation(
        id=uuid4(),
        series=SERIES,
        run_date=MONDAY,
        attempt=1,
        asked_at=harness.clock.now(),
        requested_model="m",
        prompt_version="1",
        system_prompt="s",
        user_prompt="u",
    )
    async with transaction(harness.context.pool) as conn:
        await generations.claim(conn, question, harness.context.in_force)
    harness.clock.time = new_york(TUESDAY, 1)
    await alive()
    _, notes, _ = await words()
    assert notes[0].startswith(
        "The Monday 2026-10-26 was begun, but it was over before its batch was stored: "
    )


async def test_quota_spent(harness, words, alive):
    """Shows until when, and that jobs wait. A person has nothing to do."""
    await harness.make_batch()
    await alive()
    harness.clock.forward(seconds=5)
    facts, notes, to_do = await words(ALPHA_VANTAGE_PER_DAY="4")
    assert (
        "Alpha Vantage requests left: 1 of 1 a second, 1 of 5 a minute, 0 of 4 a day; used up "
        "until Tuesday, 2026-10-27" in ("\n".join(facts))
    )
    assert notes == [
        "The quota of Alpha Vantage is used up until Tuesday, 2026-10-27 09:00 in New York. Jobs "
        "that need prices wait.",
        "On 2026-11-03, the closes need up to 7 price requests, and ALPHA_VANTAGE_PER_DAY is 4: "
        "some figures will be a day late. The series take turns.",
        # Of the four on Sunday, one has no room: one request of each day stays unused.
        "1 request for splits will have no room in the next two weeks, because "
        "ALPHA_VANTAGE_PER_DAY is 4: a split that is listed late may correct figures later, or "
        "never. A key with more requests a day prevents this.",
    ]
    assert to_do == []


async def test_a_failed_monday(harness, words, alive):
    """
    A failed Monday can be run again on the same day. Later only a wrong setting needs a person.
    """
    harness.world.model = [make_completion("no json")]
    await harness.begin()
    await alive()
    _, _, to_do = await words()
    assert len(to_do) == 1
    assert to_do[0].startswith(
        "The Monday 2026-10-26 failed (NO_USABLE_ANSWER): 3 questions brought no usable answer."
    )
    assert to_do[0].endswith(
        " To run it again, use `alpha-monday pick` before midnight in New York."
    )
    harness.clock.time = new_york(TUESDAY)
    await reconcile.run_round(harness.context)
    facts, _, to_do = await words()
    assert to_do == []
    assert "failed (NO_USABLE_ANSWER" in "".join(facts)


async def test_a_monday_that_failed_for_its_settings(harness, words, alive):
    """The next Monday would fail, too."""
    harness.world.unknown.add("SPY")
    await harness.begin()
    harness.clock.time = new_york(TUESDAY)
    await alive()
    _, _, to_do = await words()
    assert len(to_do) == 1
    assert (
        "Set BENCHMARK_SYMBOL to a ticker that it knows. The next Monday begins on Monday, "
        "2026-11-02 09:00" in to_do[0]
    )


async def test_a_monday_without_a_job(harness, words):
    """
    A worker runs, but no job exists for the Monday: a person must act. With a job the Monday is
    under way.
    """
    await harness.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")
    await harness.rows(
        "INSERT INTO operations.upkeep (last_round_at) VALUES (%s)", harness.clock.now()
    )
    _, _, to_do = await words()
    assert to_do == []  # it has only just begun
    harness.clock.forward(minutes=11)
    await harness.rows("UPDATE operations.upkeep SET last_round_at = %s", harness.clock.now())
    _, _, to_do = await words()
    assert to_do == [
        "The Monday 2026-10-26 has neither a batch nor a job. To make its batch, run "
        "`alpha-monday pick` before midnight in New York."
    ]
    async with harness.context.pool.connection() as conn:
        job = await weekly.defer_run(conn, harness.clock.now())
    facts, _, to_do = await words()
    assert f"Monday 2026-10-26: job {job} makes its batch" in facts
    assert to_do == []


async def test_reconciliation_that_stopped(harness, words, alive):
    """A worker alone is not enough: the reconciliation must run, too."""
    await harness.make_batch()
    await alive()
    await harness.rows(
        """
        UPDATE operations.upkeep
        SET mended = '{"begun": true}', last_mended_at = last_round_at
        """
    )
    harness.clock.forward(minutes=11)
    facts, _, to_do = await words()
    assert (
        facts[2]
        == "reconciliation: last round 11 min ago; last repairs Monday, 2026-10-26 09:00 in New "
        "York: begun"
    )
    assert len(to_do) == 1
    assert to_do[0].startswith(
        "A worker runs, but no reconciliation (last round 11 min ago; last repairs"
    )


async def test_failed_jobs(harness, words, alive):
    """A failed job needs a person if its work is still needed. Otherwise it is only a note."""
    await harness.make_batch()
    await harness.rows(
        "UPDATE procrastinate_jobs SET status = 'failed' WHERE args ->> 'day' IN ('1', '3')"
    )
    (first,), (third,) = await harness.rows(
        "SELECT id FROM procrastinate_jobs WHERE status = 'failed' ORDER BY id"
    )
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    ((other,),) = await harness.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('default', 'x', "
        "'failed') RETURNING id"
    )
    await alive()
    _, notes, to_do = await words()
    assert notes == [f"Jobs {other}, {first} have failed, but their work is no longer needed."]
    assert to_do == [
        f"Job {third} (take_checkpoint, day 3 of 2026-10-26) has failed: run `alpha-monday jobs "
        f"show {third}`, then `alpha-monday jobs retry {third}`."
    ]


async def test_a_failed_weekly_job(harness, words, alive):
    """The Monday needs its batch until it is over."""
    await harness.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status, args) "
        "VALUES ('default', 'pick_week', 'failed', jsonb_build_object('timestamp', %s::bigint))",
        int(harness.clock.now().timestamp()),
    )
    _, _, to_do = await words()
    assert "(pick_week, the Monday 2026-10-26) has failed" in to_do[-1]
    harness.clock.time = new_york(TUESDAY)
    _, notes, to_do = await words()
    assert "has failed" not in "".join(to_do)
    assert notes[-1].endswith(" has failed, but its work is no longer needed.")


async def test_stalled_jobs(harness, words, alive):
    """Stalled jobs are a note: a running service returns them to the queue."""
    await harness.make_batch()
    await alive()
    await harness.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE args ->> 'day' = '1'")
    _, notes, to_do = await words()
    assert notes[0].startswith(
        "1 job stalled, because the worker has stopped. A running service puts such"
    )
    assert to_do == []


async def test_a_morning_that_waits_for_a_close(harness, words, alive):
    """
    The note of an overdue checkpoint says when its job is tried again.

    Only after a long time must a person act.
    """
    await harness.make_batch()
    harness.clock.time = new_york(TUESDAY, 11)
    ((job,),) = await harness.rows(
        "UPDATE procrastinate_jobs SET scheduled_at = %s, attempts = 3 WHERE args ->> 'day' = '1' "
        "RETURNING id",
        new_york(TUESDAY, 12, 30),
    )
    await alive()
    facts, notes, to_do = await words()
    assert notes == [
        f"Day 1 of 2026-10-26 is overdue by 2 h; job {job} tries to take it on Tuesday, "
        "2026-10-27 12:30 in New York."
    ]
    assert to_do == []
    assert "overdue: 1" in facts
    harness.clock.time = new_york(date(2026, 10, 28), 22)
    await reconcile.run_round(harness.context)
    _, _, to_do = await words()
    assert to_do == [
        "Day 1 of 2026-10-26 is overdue by 1 d 13 h, although a worker runs. To find the reason, "
        f"run `alpha-monday jobs show {job}` and read the service's log."
    ]


async def test_a_skipped_checkpoint(harness, words, alive):
    """
    The missing price is a note at first. If it stays missing, the output says what a person must
    do.
    """
    await harness.make_batch()
    harness.world.absent.add(("AAPL", MONDAY))
    harness.clock.time = new_york(TUESDAY, 21)
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = '1'")
    await alive()
    _, notes, to_do = await words()
    lacks = (
        "Day 1 of 2026-10-26 has no prices (MISSING_CLOSE): AAPL: no close of 2026-10-26 by "
        "the "
        "last time of asking."
    )
    assert notes == [f"{lacks} The reconciliation retakes it once a day."]
    assert to_do == []
    harness.clock.time = new_york(TUESDAY) + timedelta(days=2, hours=1)
    _, notes, to_do = await words()
    assert (
        f"{lacks} To retake it, run `alpha-monday checkpoint retake 2026-10-26 1`. If the share "
        "stopped" in ("".join(to_do))
    )


async def test_a_providers_text_is_escaped(harness, words, commanded, database):
    """A stored text of a provider stays one line, and no escape sequence is printed."""
    await harness.make_batch()
    harness.world.instead = [says({"Information": "\x1b[2J premium\nto do: pay"})] * 9
    harness.clock.time = new_york(TUESDAY, 21)
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    code, out, _ = commanded("status", DATABASE_URL=database)
    assert code == 1
    assert "premium" in out
    assert "\x1b" not in out
    assert not [line for line in out.splitlines() if line.startswith("to do: pay")]


# The command itself


@pytest.fixture
def rehearsal_address(database) -> str:
    """The address of a rehearsal's database whose clock stands still on a Tuesday at noon."""
    with psycopg.connect(database) as conn:
        conn.execute("CREATE SCHEMA told")
        conn.execute(
            "CREATE TABLE told.clock (lag float8 NOT NULL, seen timestamptz NOT NULL, until "
            "timestamptz)"
        )
        conn.execute("INSERT INTO told.clock VALUES (1, now(), %s)", (new_york(TUESDAY, 12),))
        conn.execute("INSERT INTO queue.procrastinate_workers DEFAULT VALUES")
    return database


def test_a_rehearsals_time(rehearsal_address, commanded):
    """The lines use the rehearsal's time, and say that it is a rehearsal."""
    code, out, err = commanded("status", DATABASE_URL=rehearsal_address)
    assert (code, without_place(err)) == (0, "")
    assert out.startswith(
        "now: Tuesday, 2026-10-27 12:00 in New York (rehearsed: all of it is made up)\n"
    )
    assert out.endswith("\nAll is well.\n")
    with psycopg.connect(rehearsal_address) as conn:
        conn.execute(
            "UPDATE queue.procrastinate_workers SET last_heartbeat = now() - interval '3 h'"
        )
    code, out, _ = commanded("status", "--rehearsal", DATABASE_URL=rehearsal_address)
    assert code == 1
    assert out.splitlines()[-1] == (
        "to do: No worker runs (the last heartbeat was 3 h ago), so nothing is picked or measured: "
        "start the service, "
        "`alpha-monday rehearse`."
    )


async def test_json(harness, commanded, rehearsal_address):
    """One document with everything, times in UTC; the exit code is the same."""
    code, out, err = commanded("status", "--json", DATABASE_URL=rehearsal_address)
    assert (code, without_place(err)) == (0, "")
    printed = json.loads(out)
    assert (printed["well"], printed["to_do"], printed["notes"], printed["rehearsed"]) == (
        True,
        [],
        [],
        True,
    )
    assert printed["at"] == "2026-10-27T16:00:00Z"
    assert printed["next_monday_at"] == "2026-11-02T14:00:00Z"
    await harness.make_batch(date(2026, 10, 19))
    await harness.rows("DELETE FROM procrastinate_jobs")
    code, out, err = commanded("status", "--json", DATABASE_URL=rehearsal_address)
    assert (code, without_place(err)) == (1, "")
    printed = json.loads(out)
    assert printed["well"] is False
    assert printed["to_do"][0].startswith(
        "Day 1 of 2026-10-19 is overdue by 7 d 3 h, although a worker runs. 7 other checkpoints "
    )
    assert (
        printed["notes"][0]
        == "The Monday 2026-10-26 was missed. A running service records that within a minute."
    )
    assert printed["past"]["unrecorded"] == ["2026-10-26"]
    assert printed["last_batch"]["run_date"] == "2026-10-19"
    assert [(one["run_date"], one["day"]) for one in printed["overdue"]] == [
        ("2026-10-19", day) for day in range(1, 9)
    ]
    assert printed["next_checkpoints"][0]["due_at"] == "2026-10-28T13:00:00Z"


# The kind: "All is well." below a line about a fault, as once below `overdue: 1`.
@pytest.mark.parametrize(
    ("changes", "line", "well"),
    [
        pytest.param([], "overdue: none", True, id="nothing"),
        pytest.param(["overdue"], "overdue: 1", False, id="a checkpoint that is overdue for hours"),
        pytest.param(
            ["skipped"],
            "note: Day 1 of 2026-10-26 has no prices",
            True,
            id="a checkpoint without prices",
        ),
        pytest.param(["stalled"], "note: 1 job stalled", True, id="a stalled job"),
        pytest.param(
            ["quota"], "note: The quota of Alpha Vantage is used up", True, id="a spent quota"
        ),
        pytest.param(
            ["failed"], "Monday 2026-10-26: failed", True, id="a Monday that failed and is over"
        ),
    ],
)
async def test_all_is_well_is_not_printed_if_something_is_wrong(
    harness, commanded, rehearsal_address, alive, changes, line, well
):
    """The last line is another one then. The exit code stays 0, because no person is needed."""
    if "failed" in changes:
        harness.world.model = [make_completion("no json")]
        await harness.begin()
    elif changes:
        await harness.make_batch()
    if "skipped" in changes:
        harness.world.absent.add(("AAPL", MONDAY))
        harness.clock.time = new_york(TUESDAY, 21)
        await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    elif changes and "overdue" not in changes and "failed" not in changes:
        harness.clock.time = new_york(TUESDAY)
        await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    if "stalled" in changes:
        await harness.rows(
            "UPDATE procrastinate_jobs SET status = 'doing' WHERE args ->> 'day' = '2'"
        )
    if "quota" in changes:
        await harness.rows(
            "INSERT INTO operations.provider_requests (provider, function, symbol, at, ended_at, "
            "outcome) "
            "SELECT 'alphavantage', 'SPLITS', 'XOM', at, at, 'answered' FROM generate_series("
            "timestamptz '2026-10-27 11:00-04', timestamptz '2026-10-27 11:58-04', '1 min') AS at"
        )
    code, out, err = commanded("status", DATABASE_URL=rehearsal_address)
    assert (code, without_place(err), line in out) == (0, "", True), out
    assert out.splitlines()[-1] == ("No action is needed." if changes else "All is well.")
    assert (
        json.loads(commanded("status", "--json", DATABASE_URL=rehearsal_address).output)["well"]
        is well
    )


async def test_the_keys_of_json(harness, commanded, rehearsal_address):
    """
    The keys and their order never change, because scripts depend on them. No list is empty here.
    """
    first, second = date(2026, 10, 5), date(2026, 10, 19)
    await harness.make_batch(first)
    harness.clock.time = new_york(second, 14)
    await harness.begin()
    await daily.take(harness.context, batch_id(SERIES, first), 1)
    harness.world.absent.add(("AAPL", second))
    harness.clock.time = new_york(second + timedelta(days=1), 21)
    await daily.take(harness.context, batch_id(SERIES, second), 1)
    harness.clock.time = new_york(TUESDAY, 12)
    # The Monday between the two was recorded before the second one.
    assert (await reconcile.run_round(harness.context)).missed == 1
    async with harness.context.pool.connection() as conn, conn.transaction():
        # Stored last, so that the Monday after it has no row.
        assert await weekly.give_up(
            conn, harness.context, date(2026, 9, 21), failure="It is only a test."
        )
    ((failed,), (stalled,), *_) = await harness.rows(
        "SELECT id FROM procrastinate_jobs WHERE status = 'todo'"
    )
    await harness.rows("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = %s", failed)
    await harness.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", stalled)
    await harness.rows(
        "INSERT INTO timestamps (id, seq, hash, kind, status, authority, at, received_at, proof) "
        "SELECT gen_random_uuid(), seq, hash, 'OPENTIMESTAMPS', 'PENDING', 'https://a.example', "
        "at, at, 'x' FROM journal LIMIT 1"
    )

    _, out, _ = commanded("status", "--json", DATABASE_URL=rehearsal_address)
    printed = json.loads(out)
    # Compared as text, because the order counts.
    assert json.dumps(keys_of(printed), indent=1) == json.dumps(KEYS, indent=1)


def keys_of(value: object) -> object:
    """
    Return the keys of a JSON document: of a list those of its first element, of a plain value None.
    """
    if isinstance(value, dict):
        return {key: keys_of(one) for key, one in value.items()}
    if isinstance(value, list):
        return [keys_of(one) for one in value[:1]]
    return None


def test_as_a_process(rehearsal_address, tmp_path):
    """The process has the same exit code, also without a database or a schema."""
    assert run("status", cwd=tmp_path, DATABASE_URL=rehearsal_address).returncode == 0
    done = run(
        "status", cwd=tmp_path, DATABASE_URL="postgresql://user:secret-word@127.0.0.1:1/none"
    )
    assert (done.returncode, len(done.stderr.splitlines()), "secret-word" in done.stderr) == (
        1,
        1,
        False,
    )


def test_the_timestamps_of_a_rehearsal(rehearsal_address, commanded):
    """They are simulated, whatever the settings here say: the rehearsal sets its own services."""
    real = {
        "TIMESTAMP_URLS": "https://tsa.example/tsr",
        "TIMESTAMP_ROOTS": "/etc/roots.pem",
        "OTS_CALENDARS": "https://a.pool.example",
    }
    for services in ({}, real):
        _, out, _ = commanded("status", DATABASE_URL=rehearsal_address, **services)
        assert "\ntimestamps: simulated; none yet\n" in out


async def test_a_calendar_with_a_slash_at_its_end(harness, database, commanded):
    """It is the same calendar as the one that has stamped: the slash is not stored."""
    async with transaction(harness.context.pool) as conn:
        entry = await journal.append(
            conn, JournalKind.FAILURE, at=harness.clock.now(), recorded={}, batch_id=None
        )
    await harness.rows(
        "INSERT INTO timestamps (id, seq, hash, kind, status, authority, at, received_at, proof) "
        "SELECT gen_random_uuid(), seq, hash, 'OPENTIMESTAMPS', 'PENDING', 'https://a.example', "
        "at, at, 'x' FROM journal WHERE seq = %s",
        entry.seq,
    )
    _, out, _ = commanded("status", DATABASE_URL=database, OTS_CALENDARS="https://a.example/")
    assert f"\ntimestamps: on; https://a.example entry {entry.seq}, " in out
    assert "nothing yet" not in out


def test_an_unmigrated_database(empty, commanded):
    """A database without migrations is refused, and the message names the command."""
    code, out, err = commanded("status", DATABASE_URL=empty)
    assert (code, out) == (1, "")
    assert "lacks migration 0001 (record). Run `alpha-monday migrate`" in err


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(seconds=-1), "0 s"),
        (timedelta(seconds=59.4), "59 s"),
        (timedelta(minutes=1), "1 min"),
        (timedelta(hours=5), "5 h"),
        (timedelta(hours=5, minutes=3), "5 h 3 min"),
        (timedelta(days=3, minutes=7), "3 d"),
        (timedelta(days=3, hours=4, minutes=7), "3 d 4 h"),
    ],
)
def test_lasting(span, text):
    """A duration is printed in its two largest units."""
    assert format_duration(span) == text


# The kind: a stored text, a sentence of its own, inside of a sentence of ours.
@pytest.mark.parametrize(
    ("note", "ending"),
    [
        pytest.param(
            "Alpha Vantage cannot be reached (ConnectError).",
            " (PROVIDER_ERROR): Alpha Vantage cannot be reached (ConnectError).",
            id="parentheses",
        ),
        pytest.param("AAPL: no close yet.", " (PROVIDER_ERROR): AAPL: no close yet.", id="a colon"),
        pytest.param(
            "It was given up", " (PROVIDER_ERROR): It was given up.", id="no mark at its end"
        ),
        pytest.param(
            "Asked us to slow down: Wait!",
            " (PROVIDER_ERROR): Asked us to slow down: Wait!",
            id="another mark",
        ),
        pytest.param(
            "A notice: retry (soon)",
            " (PROVIDER_ERROR): A notice: retry (soon).",
            id="a parenthesis last",
        ),
        pytest.param(
            "Cut in the middle. ", " (PROVIDER_ERROR): Cut in the middle.", id="a blank last"
        ),
        pytest.param("", " (PROVIDER_ERROR).", id="nothing"),
    ],
)
def test_a_stored_text_within_a_sentence(note, ending):
    """The line ends with one punctuation mark."""
    skipped = snapshot.SkippedCheckpoint(
        run_date=MONDAY, day=1, due_at=new_york(TUESDAY), reason="PROVIDER_ERROR", note=note
    )
    assert status._describe_skipped(skipped) == f"Day 1 of 2026-10-26 has no prices{ending}"


NO_CLOCK = "DROP SCHEMA told CASCADE"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        pytest.param([], "; its origin is REHEARSED; sealed", id="a rehearsal"),
        pytest.param([NO_CLOCK], "; its origin is REHEARSED; sealed", id="without its clock"),
        pytest.param(
            [NO_CLOCK, "UPDATE journal SET content = 'damaged' WHERE seq = 1"],
            "record: its id is not readable; its origin is UNKNOWN; sealed",
            id="a damaged first entry",
        ),
        pytest.param(
            [NO_CLOCK, "DELETE FROM journal WHERE kind = 'GENESIS'"],
            "record: its origin is UNKNOWN; not sealed, `alpha-monday seal` seals it",
            id="a record from before",
        ),
        pytest.param(
            ["DELETE FROM journal WHERE kind = 'GENESIS'"],
            "record: its origin is REHEARSED; not sealed, `alpha-monday seal` seals it",
            id="a rehearsal from before",
        ),
        pytest.param(
            ["TRUNCATE journal CASCADE"], "record: empty; its first entry seals it", id="no entry"
        ),
    ],
)
def test_the_record_and_its_origin(changes, line, as_recorded, create, commanded):
    """The line goes by the journal; without its first entry, by the clock of a rehearsal."""
    copy = copy_of(as_recorded, create)
    with unguarded(copy) as conn:
        for change in changes:
            conn.execute(change)
    done = commanded("status", DATABASE_URL=copy)
    (found,) = [each for each in done.output.splitlines() if each.startswith("record: ")]
    assert found.endswith(line)
