"""
How many questions a Monday may have when it is run manually. The kind: what an earlier run left
behind. Members tried: nothing, a run that was interrupted before any failure, a failure after three
questions, one after a single question, one before any question, a manual run that was interrupted
before it could record a failure (after one more question, after three), and a second failure.
"""

import pytest
from job_context import MONDAY, JobHarness, make_answer, make_completion, run_attempt
from job_context import clock as clock
from job_context import harness as harness
from provider_server import says
from record_server import check_record

from app.domain.model import SERIES, FailureReason
from app.store import generations
from jobs import weekly

IN_VAIN = make_completion({"picks": []})


async def allowed(harness: JobHarness) -> int:
    """Return how many questions a manual run may have now, in all."""
    async with harness.context.pool.connection() as conn:
        return await weekly.max_questions_of_manual_run(conn, SERIES, MONDAY)


async def asks(harness: JobHarness, questions: int) -> None:
    """Ask, without an answer, until there are so many questions; then stop without a failure."""
    harness.world.model = [IN_VAIN]
    while (await harness.rows("SELECT count(*) FROM generations"))[0][0] < questions:
        async with harness.context.pool.connection() as conn:
            earlier = await generations.list_by_run_date(conn, SERIES, MONDAY)
        # One more question would be left after this one.
        run = weekly._Run(
            series=SERIES, run_date=MONDAY, max_questions=len(earlier) + 2, is_manual=False
        )
        await weekly._ask(harness.context, run, earlier)


async def fails(harness: JobHarness) -> None:
    """Record the Monday as failed, some time after everything before."""
    harness.clock.forward(minutes=1)
    run = weekly._Run(series=SERIES, run_date=MONDAY, max_questions=3, is_manual=True)
    await weekly._fail(
        harness.context, run, reason=FailureReason.CONFIGURATION, failure="The job failed."
    )


# What happens, one after the other: so many questions in all, or a failure (None).
@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param([], 3, id="nothing"),
        pytest.param([2], 3, id="cut off before any failure"),
        pytest.param([3, None], 6, id="failed after three"),
        pytest.param([1, None], 4, id="failed after one"),
        pytest.param([None], 3, id="failed before any"),
        pytest.param([3, None, 4], 6, id="cut off after one more"),
        pytest.param([3, None, 6], 6, id="cut off after three more"),
        pytest.param([3, None, 6, None], 9, id="failed twice"),
        pytest.param([3, None, 6, None, 7, None], 10, id="failed three times"),
    ],
)
async def test_how_many(harness, database, before, expected):
    """
    A Monday has at most three questions for each of its failures, and three more; the record
    verifies.
    """
    for questions in before:
        await (fails(harness) if questions is None else asks(harness, questions))
    assert await allowed(harness) == expected
    harness.world.model = [IN_VAIN]
    harness.clock.forward(minutes=1)
    await harness.begin(questions=expected)
    assert await harness.rows("SELECT count(*) FROM generations") == [(expected,)]
    await check_record(database)


async def test_a_model_that_does_not_answer(harness):
    """Questions that the provider did not answer count, too."""
    harness.world.model = [says({}, 500)]
    while later := await run_attempt(harness.begin):
        harness.clock.time = later
    assert (await harness.batch()).status == "failed"
    assert await allowed(harness) == 6
    harness.world.model = [make_completion(make_answer("KO", "AAPL", "NVDA"))]
    await harness.begin(questions=6)
    assert (await harness.batch()).status == "active"
