"""The ends of the series' models: asked once a day, stored, logged, reported and shown."""

import asyncio
from datetime import date, timedelta
from unittest.mock import ANY

import pytest
from job_context import clock as clock
from job_context import logged, new_york
from provider_server import Reply, says
from receivers import harness as harness
from receivers import receiver as receiver
from receivers import send_due_messages

from app.commands import status
from app.core import settings
from app.database import pools
from app.ops import snapshot
from app.providers.model_ends import ModelEnd
from app.providers.rate_limiter import RequestLedger, alpha_vantage_limits
from app.store.rehearsed import CREATE_CLOCK_TABLE
from app.web.metric_families import snapshot_families
from jobs import model_ends, reconcile, request_budget
from jobs.model_ends import StoredEnd, known_ends

MODEL = "gpt-5.4-mini"
END = date(2027, 3, 1)
# 61 days before the end.
BEFORE = date(2026, 12, 30)

SAYS_NOTHING = Reply(status=404)
HAS_MODEL = says({"id": MODEL, "shutdown_date": None})
ENDS = says({"id": MODEL, "shutdown_date": str(END)})


def says_gone(request):
    """Answer that the model is not known, and that there are others."""
    if request.path == "/v1/models":
        return says({"data": [{"id": "another"}]})
    return Reply(status=404)


async def check(harness, day, answer=None):
    """Check the models on a day, at nine, and return the number of requests that it took."""
    if answer is not None:
        harness.world.models = answer if callable(answer) else lambda _: answer
    harness.clock.time = new_york(day)
    harness.provider.requests.clear()
    await model_ends.check_if_due(harness.context)
    return len(harness.provider.requests)


async def stored(harness):
    async with harness.context.pool.connection() as conn:
        return [(one.model, one.ends_on, one.is_gone) for one in await model_ends.list_stored(conn)]


async def alerts_of(harness):
    return await harness.rows("SELECT kind, text, to_do FROM operations.alerts ORDER BY at, id")


async def read(harness, **environment):
    """Return the notes and the to-dos about models that `status` shows."""
    state = await snapshot.read_for_operator(
        harness.context.pool, settings.load(environment), harness.clock
    )
    return [
        [line for line in lines if "model" in line]
        for lines in (status.notes(state), status.to_dos(state))
    ]


async def read_metric(harness, name):
    """Return the samples of a metric, by the series."""
    limits = alpha_vantage_limits(settings.load({}))
    pool = harness.context.pool
    ledger = RequestLedger(pool, "alphavantage", limits=limits, clock=harness.clock)
    configured = request_budget.configured_by(settings.load({}))
    reader = snapshot.MetricsReader(pool, ledger, harness.clock, configured=configured)
    state = await reader.read()
    assert state
    return {
        sample.labels["series"]: sample.value
        for family in snapshot_families(state)
        for sample in family.samples
        if sample.name == f"alpha_monday_{name}"
    }


async def test_a_server_is_asked_once_a_day(harness):
    """The day is that of New York; a day later it is asked again."""
    assert await check(harness, BEFORE, HAS_MODEL) == 1
    harness.clock.time += timedelta(hours=14, minutes=59)
    await model_ends.check_if_due(harness.context)
    assert len(harness.provider.requests) == 1
    harness.clock.time += timedelta(minutes=1)
    await model_ends.check_if_due(harness.context)
    assert len(harness.provider.requests) == 2
    assert await stored(harness) == [(MODEL, None, False)]


async def test_a_process_remembers_its_check(harness, monkeypatch):
    """So a round costs no query; another day or another model is a new check."""
    harness.world.models = lambda _: HAS_MODEL
    harness.clock.time = new_york(BEFORE)
    daily = model_ends.DailyCheck()
    for _ in range(3):
        await daily.run(harness.context)
    await harness.rows("DELETE FROM operations.model_ends")
    await daily.run(harness.context)
    assert await stored(harness) == []
    use_model(harness, monkeypatch, "gpt-5.5")
    await daily.run(harness.context)
    assert [model for model, *_ in await stored(harness)] == ["gpt-5.5"]
    harness.clock.time += timedelta(days=1)
    await daily.run(harness.context)
    assert len(harness.provider.requests) == 3


async def test_a_server_that_says_nothing_is_not_asked_more_often(harness):
    """Both addresses are tried once a day."""
    assert await check(harness, BEFORE, SAYS_NOTHING) == 2
    assert await check(harness, BEFORE) == 0
    assert await stored(harness) == [(MODEL, None, False)]


async def test_the_warnings_of_one_end(harness, receiver):
    """Two alerts, one line of the log each day, a note and then a to-do, and the metric."""
    await check(harness, BEFORE, ENDS)
    assert await alerts_of(harness) == []
    assert await read(harness) == [[], []]
    assert await read_metric(harness, "model_ending") == {"main": 0}

    sentence = f"The model's provider ends {MODEL} on 2027-03-01"
    for later in range(1, 4):
        with logged("WARNING", harness.clock) as lines:
            await check(harness, BEFORE + timedelta(days=later))
        if later == 1:
            await send_due_messages(harness)
        assert [line for line in lines if line["event"] == "model ends"] == [
            {
                "level": "warning",
                "at": ANY,
                "event": "model ends",
                "series": "main",
                "model": MODEL,
                "end": "2027-03-01",
                "advice": f"{sentence}: set OPENAI_MODEL to another model.",
            }
        ]
    alert = (
        "model_ends",
        f"{sentence} (series main).",
        "Set OPENAI_MODEL to another model, on any day except Monday.",
    )
    assert await alerts_of(harness) == [alert]
    assert [(one["kind"], one["reason"]) for one in receiver.alerts] == [("model_ends", None)]
    assert await read(harness) == [[f"{sentence}: set OPENAI_MODEL to another model."], []]
    assert await read_metric(harness, "model_ending") == {"main": 1}
    left = new_york(END, 0) - harness.clock.now()
    assert await read_metric(harness, "model_end_seconds") == {"main": left.total_seconds()}

    await check(harness, END - timedelta(days=14))
    await check(harness, END - timedelta(days=13))
    assert await alerts_of(harness) == [alert, alert]
    assert await read(harness) == [[], [f"{sentence}: set OPENAI_MODEL to another model."]]

    await check(harness, END)
    assert len(await alerts_of(harness)) == 2
    assert "ended" in (await read(harness))[1][0]


async def test_a_model_that_is_gone(harness):
    """One alert; it is over when the server knows the model again."""
    await check(harness, BEFORE, HAS_MODEL)
    await check(harness, BEFORE + timedelta(days=1), says_gone)
    await check(harness, BEFORE + timedelta(days=2))
    sentence = f"The model's provider no longer knows {MODEL}"
    assert [text for _, text, _ in await alerts_of(harness)] == [f"{sentence} (series main)."]
    assert await read(harness) == [[], [f"{sentence}: set OPENAI_MODEL to another model."]]
    assert await read_metric(harness, "model_ending") == {"main": 1}
    assert await read_metric(harness, "model_end_seconds") == {}

    # While the server says nothing, what it said before still holds.
    await check(harness, BEFORE + timedelta(days=3), SAYS_NOTHING)
    assert await stored(harness) == [(MODEL, None, True)]
    await check(harness, BEFORE + timedelta(days=4), HAS_MODEL)
    assert await stored(harness) == [(MODEL, None, False)]
    assert await read(harness) == [[], []]
    await check(harness, BEFORE + timedelta(days=5), says_gone)
    assert len(await alerts_of(harness)) == 2


async def test_a_day_that_is_kept_and_one_that_is_taken_back(harness):
    """A server that fails takes nothing back; one that names no day does."""
    await check(harness, BEFORE, ENDS)
    await check(harness, BEFORE + timedelta(days=1), Reply(status=500))
    assert await stored(harness) == [(MODEL, END, False)]
    await check(harness, BEFORE + timedelta(days=2), HAS_MODEL)
    assert await stored(harness) == [(MODEL, None, False)]


@pytest.mark.parametrize(
    ("answer", "ends_on"),
    [
        (SAYS_NOTHING, date(2027, 1, 14)),
        (says({"id": "gpt-4o-mini"}), date(2027, 1, 14)),
        (says({"id": "gpt-4o-mini", "shutdown_date": "2027-02-01"}), date(2027, 2, 1)),
    ],
    ids=["silent", "no day", "another day"],
)
async def test_an_announced_end(harness, monkeypatch, answer, ends_on):
    """It counts unless the server names another day."""
    use_model(harness, monkeypatch, "gpt-4o-mini")
    await check(harness, date(2026, 12, 1), answer)
    assert await stored(harness) == [("gpt-4o-mini", ends_on, False)]


def use_model(harness, monkeypatch, model):
    client = harness.context.model_clients["main"]
    monkeypatch.setattr(client, "options", type(client.options)(model=model))


async def test_a_model_that_was_replaced(harness, monkeypatch):
    """The new one is asked at once, and the old one is shown no more."""
    await check(harness, BEFORE + timedelta(days=1), ENDS)
    use_model(harness, monkeypatch, "gpt-5.5")
    assert await check(harness, BEFORE + timedelta(days=1), says({"id": "gpt-5.5"})) == 1
    harness.clock.time += timedelta(minutes=1)
    assert await read(harness, OPENAI_MODEL="gpt-5.5") == [[], []]
    await check(harness, BEFORE + timedelta(days=2))
    assert await read_metric(harness, "model_ending") == {"main": 0}
    await check(harness, BEFORE + timedelta(days=5))
    assert await harness.rows("SELECT model FROM operations.model_ends") == [("gpt-5.5",)]


async def test_status_before_the_first_check(harness):
    """Without a file of series, the announced end of OPENAI_MODEL counts."""
    harness.clock.time = new_york(date(2026, 12, 1))
    warning = "OpenAI ends gpt-4o-mini on 2027-01-14: set OPENAI_MODEL to another model."
    assert await read(harness, OPENAI_MODEL="gpt-4o-mini") == [[warning], []]


async def test_two_processes_send_one_alert(harness):
    """Both ask the server, and the row of the series decides who reports it."""
    harness.clock.time = new_york(BEFORE + timedelta(days=1))
    harness.world.models = lambda _: ENDS
    await asyncio.gather(*(model_ends.check_if_due(harness.context) for _ in range(4)))
    assert len(await alerts_of(harness)) == 1
    assert len(await stored(harness)) == 1


async def test_a_rehearsal_asks_nothing(harness, database):
    """Its models are simulated, and never end."""
    async with pools.transaction(harness.context.pool) as conn:
        await conn.execute(CREATE_CLOCK_TABLE)
    try:
        assert await check(harness, BEFORE, ENDS) == 0
        assert await stored(harness) == []
    finally:
        async with pools.transaction(harness.context.pool) as conn:
            await conn.execute("DROP SCHEMA told CASCADE")


async def test_the_setting_of_a_series(harness):
    """A series of a file is named with the option of its table."""
    end = ModelEnd(
        series="claude", model="m", setting="model of [claude] in SERIES_FILE", is_gone=True
    )
    assert end.warning(BEFORE) == (
        "The model's provider no longer knows m: set model of [claude] in SERIES_FILE to another "
        "model."
    )


async def test_reconciliation_checks(harness):
    """Each round begins with it; an unexpected error is logged, and the round goes on."""
    harness.clock.time = new_york(BEFORE)
    harness.world.models = lambda _: HAS_MODEL
    await harness.rows("ALTER TABLE operations.model_ends RENAME TO elsewhere")
    try:
        with logged("ERROR", harness.clock) as lines:
            await run_rounds(harness, 1)
    finally:
        await harness.rows("ALTER TABLE operations.elsewhere RENAME TO model_ends")
    assert {(line["event"], line["step"]) for line in lines} == {
        ("reconciliation failed", "check_models")
    }
    assert await harness.rows("SELECT FROM operations.upkeep")
    await run_rounds(harness, 2)
    assert await stored(harness) == [(MODEL, None, False)]


async def run_rounds(harness, count):
    already = len(harness.clock.slept)
    rounds = asyncio.create_task(reconcile.run_forever(harness.context))
    while len(harness.clock.slept) < already + count:
        await asyncio.sleep(0.005)
    rounds.cancel()
    await asyncio.gather(rounds, return_exceptions=True)


def test_a_series_that_was_taken_out():
    """What is still stored about its model is no news."""
    rows = [
        StoredEnd(
            series=series,
            model="m",
            setting=f"model of [{series}] in SERIES_FILE",
            ends_on=BEFORE,
            is_gone=False,
            checked_at=new_york(BEFORE),
            answered_at=None,
        )
        for series in ("claude", "gone")
    ]
    known = known_ends(rows, series=["claude", "dice"], model="", has_series_file=True)
    assert [end.series for end in known] == ["claude"]
