"""
How many questions a Monday may have when it is run by hand.

The kind: what an earlier run left behind. Members tried: nothing, a run that was cut off before any failure, a failure
after three questions, one after a single question, one before any question, a run by hand that was cut off before it
could record a failure (after one more question, after three), and a second failure.
"""

import pytest
from job_tools import MONDAY, House, an_answer, completes, the_time_it_says
from job_tools import clock as clock
from job_tools import house as house
from provider_server import says
from record_server import check_record

from app.domain.model import SERIES, FailureReason
from app.store import generations
from jobs import weekly

IN_VAIN = completes({"picks": []})


async def allowed(house: House) -> int:
    """How many questions a run by hand may have now, in all."""
    async with house.tools.pool.connection() as conn:
        return await weekly.questions_by_hand(conn, MONDAY)


async def asks(house: House, questions: int) -> None:
    """Ask, in vain, until there are so many questions; then be cut off."""
    house.world.model = [IN_VAIN]
    while (await house.rows("SELECT count(*) FROM generations"))[0][0] < questions:
        async with house.tools.pool.connection() as conn:
            asked = await generations.of(conn, SERIES, MONDAY)
        await weekly._ask(house.tools, MONDAY, asked, left=1)


async def fails(house: House) -> None:
    """Let the Monday fail, whatever was asked, some time after anything before."""
    house.clock.forward(minutes=1)
    await weekly._fail(house.tools, MONDAY, FailureReason.CONFIGURATION, "The job failed.", again=True)


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
async def test_how_many(house, database, before, expected):
    """A Monday has three questions for each of its failures at most, and three more; its record fits with all asked."""
    for questions in before:
        await (fails(house) if questions is None else asks(house, questions))
    assert await allowed(house) == expected
    house.world.model = [IN_VAIN]
    house.clock.forward(minutes=1)
    await house.begin(questions=expected)
    assert await house.rows("SELECT count(*) FROM generations") == [(expected,)]
    await check_record(database)


async def test_a_model_that_does_not_answer(house):
    """Questions that the provider did not answer count, too."""
    house.world.model = [says({}, 500)]
    while later := await the_time_it_says(house.begin):
        house.clock.time = later
    assert (await house.batch()).status == "failed"
    assert await allowed(house) == 6
    house.world.model = [completes(an_answer("KO", "AAPL", "NVDA"))]
    await house.begin(questions=6)
    assert (await house.batch()).status == "active"
