"""
A record of version 0.3.0 goes on with this version: first with its one series, then with several.

Version 0.3.0 asks with version 1 of the prompt, and its database has no column of migration 0019.
"""

import asyncio
import json
from datetime import timedelta

import psycopg
import pytest
from independent_verifier.verifier import verify as verify_from_outside
from job_context import (
    MONDAY,
    clock,
    make_answer,
    make_completion,
    new_york,
    open_harness,
)
from record_server import copy_of, record_server, silent, unguarded
from sealing import write_journal
from several_series import make_batches, open_series, several_series, take_checkpoints
from tampering import forge

from app.database import migrations
from app.domain import prompt
from app.errors import Discrepancy
from app.ops.verify import open_database, verify
from jobs import weekly

__all__ = ["clock", "several_series"]

SECOND = MONDAY + timedelta(days=7)
THIRD = MONDAY + timedelta(days=14)
# The newest migration of version 0.3.0.
BEFORE = 18


def answer_of_version_1() -> dict:
    """Return an answer without probabilities."""
    answer = make_answer("MSFT", "AAPL", "NVDA")
    for pick in answer["picks"]:
        del pick["probability"]
    return answer


async def check(database: str) -> None:
    """Verify the record from its database, and by the independent verifier from its API."""
    async with open_database(database) as source:
        ours = await verify(source, [], silent)
    async with record_server(database) as url:
        theirs = await asyncio.to_thread(verify_from_outside, url, (ours.seq, ours.hash))
    assert (theirs.entries, theirs.links) == (ours.seq, 0)


async def as_of_version_0_3_0(database, clock, monkeypatch) -> int:
    """
    Make the first Monday and two checkpoints as version 0.3.0 did.

    Return the id of a job for the second Monday that it has left in the queue.
    """
    with monkeypatch.context() as earlier:
        earlier.setattr(prompt, "CURRENT", prompt.VERSION_1)
        async with open_harness(database, clock) as harness:
            harness.world.model = [make_completion(answer_of_version_1())]
            await make_batches(harness)
            await take_checkpoints(harness, MONDAY + timedelta(days=2))
            async with harness.context.pool.connection() as conn:
                return await weekly.defer_run(conn, new_york(SECOND))


async def test_a_running_fortnight_goes_on(database, clock, monkeypatch, tmp_path):
    """The chain is unbroken, the old fortnight ends, and other series join beside it."""
    job = await as_of_version_0_3_0(database, clock, monkeypatch)
    await migrations.migrate(database, clock.now(), BEFORE)
    await migrations.migrate(database, clock.now())
    async with open_harness(database, clock) as harness:
        heads = [(entry.seq, entry.hash) for entry in await harness.journal()]
        waiting = await harness.jobs()
    # The jobs of version 0.3.0 have no `series`.
    assert {"batch_id", "day"} in [set(args) for task, args, _ in waiting if "checkpoint" in task]
    assert [args for task, args, _ in waiting if task == "pick_week"] == [
        {"timestamp": int(new_york(SECOND).timestamp()), "questions": None}
    ]

    async with open_series(database, clock, tmp_path, ["main", "second", "dice"]) as several:
        await take_checkpoints(several, SECOND)
        clock.time = new_york(SECOND)
        # The old job runs `main`; the others get jobs of their own.
        await several.begin(job_id=job)
        await make_batches(several, SECOND)
        await take_checkpoints(several, THIRD)
        status = await several.rows("SELECT series, run_date, status FROM batches ORDER BY 2, 1")
        assert status == [
            ("main", MONDAY, "completed"),
            ("dice", SECOND, "active"),
            ("main", SECOND, "active"),
            ("second", SECOND, "active"),
        ]
        entries = await several.journal()
    assert [(entry.seq, entry.hash) for entry in entries][: len(heads)] == heads
    declared = [json.loads(entry.content)["series"] for entry in entries if entry.kind == "SERIES"]
    assert [(one["name"], one["holds_from"]) for one in declared] == [
        ("main", str(MONDAY)),
        # The prompt has changed, so the series is declared again.
        ("main", str(SECOND)),
        ("second", str(SECOND)),
        ("dice", str(SECOND)),
    ]
    assert [one["profile"].get("prompt_version") for one in declared] == ["1", "2", "2", None]
    await check(database)


@pytest.mark.parametrize("kind", ["GENERATION", "BATCH", "SERIES"])
@pytest.mark.parametrize("content", ["", "null", "[]", '{"picks":1,"generation":2,"series":"x"}'])
@pytest.mark.sampled(1)
async def test_the_way_with_a_damaged_entry(several_series, create, clock, kind, content):
    """A damaged entry does not stop the migration, and `verify` names it as before."""
    copy = copy_of(several_series, create)
    with unguarded(copy) as conn:
        ((number, before),) = conn.execute(
            "SELECT min(seq), (SELECT count(*) FROM profiles) FROM journal WHERE kind = %s", [kind]
        ).fetchall()
        conn.execute("UPDATE journal SET content = %s WHERE seq = %s", (content, number))
    await migrations.migrate(copy, clock.now(), BEFORE)
    await migrations.migrate(copy, clock.now())
    with psycopg.connect(copy) as conn:
        ((after,),) = conn.execute("SELECT count(*) FROM profiles").fetchall()
    assert before - after == (kind == "SERIES")
    async with open_database(copy) as source:
        with pytest.raises(Discrepancy, match=f"ntry {number} of the journal"):
            await verify(source, [], silent)


async def test_entries_of_the_older_version_in_between(several_series, create):
    """Version 0.3.0 mentions picks and questions without the columns that it does not know."""
    copy = copy_of(several_series, create)
    left_out = 0
    with unguarded(copy) as conn:
        rows = conn.execute("SELECT content FROM journal ORDER BY seq").fetchall()
        contents = [json.loads(content) for (content,) in rows]
        for content in contents:
            if content["kind"] == "CHECKPOINT":
                for pick in content.get("picks", []):
                    left_out += pick.pop("probability", None) is not None
        conn.execute("DELETE FROM journal")
        write_journal(conn, contents)
    assert left_out
    await check(copy)


@pytest.mark.parametrize("value", ["77", "99", None])
@pytest.mark.sampled(1)
async def test_a_probability_is_no_other_one_later(several_series, create, value):
    """A later mention may leave a probability out, and must not have another one."""
    copy = copy_of(several_series, create)

    def change(contents):
        later = [one for one in contents if one["kind"] == "CHECKPOINT"]
        picks = [pick for one in later for pick in one.get("picks", [])]
        next(pick for pick in picks if "probability" in pick)["probability"] = value

    if value is None:
        # The row is then without a value that the journal states.
        with unguarded(copy) as conn:
            conn.execute("UPDATE picks SET probability = NULL WHERE probability = 60")
    else:
        forge(copy, change)
    rule = "unchanged" if value else "row"
    async with open_database(copy) as source:
        with pytest.raises(Discrepancy, match=f"rule: {rule}"):
            await verify(source, [], silent)
