"""
The way back over migration 0019 and up again: what it deletes comes back from the journal, in a
sealed record and in one that is not sealed.
"""

import json

import pytest
from job_context import CHOSEN, JobHarness, make_answer, make_completion
from job_context import clock as clock
from job_context import harness as harness
from provider_server import Reply, says
from record_server import check_record
from sealing import unseal

from app.database import migrations
from app.database.pools import transaction
from jobs import weekly

BEFORE = 18
QUESTIONS = (
    "SELECT attempt, accepted, reasoning_effort, finish_reason, system_fingerprint, "
    "reasoning_tokens FROM generations ORDER BY attempt"
)
PICKS = "SELECT ticker, probability FROM picks ORDER BY position"


def full(content: object) -> Reply:
    """Return a completion that has everything that a question stores."""
    members = json.loads(make_completion(content).body)
    members["system_fingerprint"] = "fp_1"
    members["usage"]["completion_tokens_details"] = {"reasoning_tokens": 40}
    return says(members)


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "not sealed"])
async def test_what_is_deleted_comes_back(harness: JobHarness, database, is_sealed):
    """A refused and an accepted question, and three picks: each row is as it was."""
    harness.world.model = [full("no JSON"), full(make_answer(*CHOSEN))]
    await harness.make_batch()
    questions, picks = await harness.rows(QUESTIONS), await harness.rows(PICKS)
    assert questions == [
        (1, False, None, "stop", "fp_1", 40),
        (2, True, None, "stop", "fp_1", 40),
    ]
    assert picks == [(ticker, 60 + number) for number, ticker in enumerate(CHOSEN)]
    if not is_sealed:
        unseal(database)

    now = harness.clock.now()
    taken_back = await migrations.migrate(database, now, BEFORE)
    assert taken_back[-1] == "0019 profiles: taken back"
    columns = "SELECT column_name FROM information_schema.columns WHERE column_name = ANY(%s)"
    names = [["probability", "reasoning_effort", "finish_reason", "reasoning_tokens"]]
    async with transaction(harness.context.pool) as conn:
        left = await (await conn.execute(columns, names)).fetchall()
    assert left == []

    await migrations.migrate(database, now)
    assert await harness.rows(QUESTIONS) == questions
    assert await harness.rows(PICKS) == picks
    async with transaction(harness.context.pool) as conn:
        await weekly.record_missed_mondays(conn, harness.context)
    await check_record(database)
