"""A version that is too old for a sealed record waits, says why, and loses no job."""

from collections.abc import Iterator

import psycopg
import pytest
from job_context import MONDAY, first_attempt, new_york
from job_context import clock as clock
from job_context import harness as harness
from structlog.testing import capture_logs

from jobs import queue, weekly

# What the trigger of the version that seals records says to another version.
REFUSAL = "This record is sealed: version 9.9.9 or newer records in it, and this version is older."

# The trigger for one table.
SEAL = f"""
CREATE FUNCTION refuse_in_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING CONSTRAINT = 'this_record_is_sealed', MESSAGE = '{REFUSAL}';
END $$;
CREATE TRIGGER refuse_in_test BEFORE INSERT ON {{table}}
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_in_test()
"""
UNSEAL = "DROP FUNCTION IF EXISTS refuse_in_test() CASCADE"


@pytest.fixture
def table(request, database) -> Iterator[str]:
    """The name of a table in which the database refuses new rows."""
    with psycopg.connect(database) as conn:
        conn.execute(SEAL.format(table=request.param))
    yield request.param
    with psycopg.connect(database) as conn:
        conn.execute(UNSEAL)


@pytest.mark.parametrize(
    ("table", "requests"),
    [
        # The question is stored before it is sent, so a refused one is never sent.
        pytest.param("generations", 0, id="a question"),
        pytest.param("closes", 1, id="a reading"),
    ],
    indirect=["table"],
)
async def test_the_job_waits_for_a_newer_worker(harness, table, requests):
    """After the first refusal, this process sends nothing more for jobs of the task."""

    async def job() -> None:
        await weekly.run_if_due(harness.context, 1, None)

    attempt = first_attempt("pick_week")
    with pytest.raises(queue.RecordSealed) as later:
        await queue.count_failures(job, attempt, None)
    with capture_logs() as logs:
        queue._log_error(later.value)
    assert str(later.value) == REFUSAL
    assert later.value.at == harness.clock.now() + queue.SEALED_DELAY
    (line,) = [log for log in logs if log["event"] == "this version is too old for the record"]
    assert line["reason"] == REFUSAL
    assert line["log_level"] == "error"
    assert await harness.rows("SELECT FROM operations.strikes") == []

    # The next attempts are refused at once, and send nothing.
    assert len(harness.questions) == requests
    harness.provider.requests.clear()
    harness.clock.time = later.value.at
    with pytest.raises(queue.RecordSealed, match=REFUSAL) as again:
        await queue.count_failures(job, attempt, None)
    assert again.value.at == harness.clock.now() + queue.SEALED_DELAY
    assert harness.provider.requests == []

    # A job of another task is not concerned, and nothing of the Monday is stored.
    async def other() -> None:
        assert await harness.batch() is None

    await queue.count_failures(other, first_attempt("send_heartbeat"), None)

    # A newer worker, whose process the record does not refuse: the same job makes the batch.
    await harness.rows(UNSEAL)
    queue.app.refusals.clear()
    harness.clock.time = new_york(MONDAY, 9, 5)
    await queue.count_failures(job, attempt, None)
    assert await harness.rows("SELECT status FROM batches") == [("active",)]
