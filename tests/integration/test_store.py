"""Writing the record: twice is safe, together or not at all, and the answer says who was first."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest
from msgspec.structs import replace

from app.database import pools
from app.domain import model
from app.domain.calendar import Calendar, checkpoint_date, due_at
from app.domain.model import (
    Action,
    Bar,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    FailureReason,
    Generation,
    Pick,
    PickMetric,
    SkipReason,
)
from app.store import batches, checkpoints, closes, generations
from app.store.checkpoints import Due

MONDAY = date(2026, 1, 5)
FRIDAY = date(2026, 1, 2)
AT = datetime(2026, 1, 5, 14, 0, 20, 123456, tzinfo=UTC)


def a_close(ticker: str = "SPY", session: date = FRIDAY, **changes: object) -> Close:
    """A usual reading, taken at nine the morning after."""
    usual = {"open": Decimal("99.50"), "close": Decimal("100.0000"), "source": "test", "read_at": due_at(session, 1)}
    return Close(**{"id": uuid4(), "ticker": ticker, "trading_day": session, **usual, **changes})


def a_batch(benchmark: Close, **changes: object) -> Batch:
    """A usual batch, with the id that its Monday has."""
    usual = {
        "series": model.SERIES, "run_date": MONDAY, "created_at": AT, "status": BatchStatus.ACTIVE, "late": False,
        "benchmark_symbol": "SPY", "benchmark_initial_price": benchmark.close,
        "benchmark_initial_close_id": benchmark.id, "trading_day": benchmark.trading_day,
    } | changes  # fmt: skip
    return Batch(id=model.batch_id(usual["series"], usual["run_date"]), **usual)


def a_failed_batch(**changes: object) -> Batch:
    """A Monday without picks."""
    usual = {
        "id": model.batch_id(model.SERIES, MONDAY), "series": model.SERIES, "run_date": MONDAY, "created_at": AT,
        "status": BatchStatus.FAILED, "late": False, "failure_reason": FailureReason.PROVIDER_ERROR,
        "failure": "It did not answer.", "benchmark_symbol": "SPY",
    }  # fmt: skip
    return Batch(**{**usual, **changes})


def a_pick(batch: Batch, close: Close, position: int = 1, **changes: object) -> Pick:
    """A usual pick of a ticker at the close that was read."""
    usual = {"ticker": close.ticker, "action": Action.BUY, "reasoning": "It will do well."}
    return Pick(
        **{"id": uuid4(), "batch_id": batch.id, "position": position, **usual, **changes},
        initial_price=close.close,
        initial_close_id=close.id,
    )


def a_checkpoint(batch: Batch, day: int, close: Close | None = None, **changes: object) -> Checkpoint:
    """A morning: computed with the benchmark's close, or without one skipped because the market was closed."""
    on = checkpoint_date(batch.run_date, day)
    usual = {"id": uuid4(), "batch_id": batch.id, "day": day, "checkpoint_date": on, "taken_at": due_at(MONDAY, day)}
    if close:
        usual |= {
            "status": CheckpointStatus.COMPUTED, "trading_day": close.trading_day, "benchmark_price": close.close,
            "benchmark_close_id": close.id, "benchmark_split_factor": Decimal(1),
            "benchmark_return_pct": Decimal("1.5") if day else None,
        }  # fmt: skip
    else:
        closed = {"skip_reason": SkipReason.MARKET_CLOSED, "skipped_at": usual["taken_at"]}
        usual |= {"status": CheckpointStatus.SKIPPED, **closed}
    return Checkpoint(**{**usual, **changes})


def a_metric(checkpoint: Checkpoint, pick: Pick, close: Close, **changes: object) -> PickMetric:
    """A usual metric."""
    usual = {
        "current_price": close.close, "close_id": close.id, "split_factor": Decimal(1),
        "absolute_return_pct": Decimal("33.33333333333333333333333333"), "vs_benchmark_pct": Decimal("31.83"),
    }  # fmt: skip
    return PickMetric(**{"id": uuid4(), "checkpoint_id": checkpoint.id, "pick_id": pick.id, **usual, **changes})


def a_question(**changes: object) -> Generation:
    """A question that is open."""
    usual = {
        "id": uuid4(), "series": model.SERIES, "run_date": MONDAY, "attempt": 1, "asked_at": AT,
        "requested_model": "gpt-test", "prompt_version": "1", "system_prompt": "You choose.", "user_prompt": "Choose.",
    }  # fmt: skip
    return Generation(**{**usual, **changes})


def answered(question: Generation, **changes: object) -> Generation:
    """The question with an answer that was accepted."""
    usual = {
        "answered_at": AT + timedelta(seconds=4), "answered_model": "gpt-test-2026", "answer": '{"picks": []}',
        "request_id": "req_1", "prompt_tokens": 210, "completion_tokens": 180, "accepted": True,
    }  # fmt: skip
    return replace(question, **{**usual, **changes})


async def read(pool: pools.Pool, readings: Sequence[Close]) -> None:
    """Store readings."""
    async with pool.connection() as conn:
        for close in readings:
            bar = Bar(trading_day=close.trading_day, open=close.open, close=close.close)
            await closes.add_all(conn, close.ticker, [bar], close.source, close.read_at)


async def baseline(pool: pools.Pool) -> tuple[list[Close], Batch, list[Pick], Checkpoint]:
    """A usual batch with what belongs to it, its readings stored, itself not yet."""
    await read(pool, [a_close(ticker) for ticker in ("SPY", "KO", "MSFT", "XOM")])
    async with pool.connection() as conn:
        stored = [await closes.newest(conn, ticker, FRIDAY) for ticker in ("SPY", "KO", "MSFT", "XOM")]
    batch = a_batch(stored[0])
    picks = [a_pick(batch, close, position) for position, close in enumerate(stored[1:], 1)]
    return stored, batch, picks, a_checkpoint(batch, 0, stored[0])


async def add(
    pool: pools.Pool,
    stored: Sequence[Close],
    batch: Batch,
    picks: list[Pick],
    day_zero: Checkpoint,
    *,
    again: bool = False,
) -> bool:
    """Add a batch in a transaction of its own."""
    async with pools.transaction(pool) as conn:
        return await batches.add(conn, batch, picks, day_zero, stored, again=again)


async def counts(pool: pools.Pool) -> dict[str, int]:
    """How many rows there are of each kind."""
    tables = ("batches", "picks", "checkpoints", "pick_checkpoint_metrics", "generations", "closes", "journal")
    async with pool.connection() as conn:
        return {table: (await (await conn.execute(f"SELECT count(*) FROM {table}")).fetchone())[0] for table in tables}


async def told(pool: pools.Pool) -> list[tuple[str, dict[str, object]]]:
    """The journal: kinds and contents."""
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT kind, content, batch_id FROM journal ORDER BY seq")
        rows = await cursor.fetchall()
    assert {batch for _, _, batch in rows} <= {model.batch_id(model.SERIES, MONDAY)}
    return [(kind, json.loads(content)) for kind, content, _ in rows]


async def test_a_batch_is_stored_as_it_is(pool):
    """Every figure, time and text comes back as it was given; picks come in the model's order."""
    stored, batch, picks, day_zero = await baseline(pool)
    assert await add(pool, stored, batch, picks[::-1], day_zero)
    async with pool.connection() as conn:
        assert await batches.get(conn, batch.id) == batch
        assert await batches.on(conn, "main", MONDAY) == batch
        assert await batches.on(conn, "other", MONDAY) is None
        assert await batches.newest(conn, "main") == batch
        assert await batches.run_dates(conn, "main") == {MONDAY}
        assert await batches.oldest_active_baseline(conn) == FRIDAY
        assert await batches.picks_of(conn, batch.id) == picks
        assert await checkpoints.of(conn, batch.id) == [day_zero]
    price = (await batches_price(pool, batch.id)).as_tuple()
    assert price == Decimal("100.0000").as_tuple(), "with the digits that the provider wrote"


async def batches_price(pool: pools.Pool, id: UUID) -> Decimal:
    """A batch's benchmark price as Postgres has it."""
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT benchmark_initial_price FROM batches WHERE id = %s", (id,))
        return (await cursor.fetchone())[0]


async def test_a_batch_added_twice(pool):
    """The second time nothing is doubled, and the answer says so."""
    stored, batch, picks, day_zero = await baseline(pool)
    assert await add(pool, stored, batch, picks, day_zero)
    before = await counts(pool)
    again = [replace(pick, id=uuid4()) for pick in picks]
    later = replace(batch, created_at=AT + timedelta(minutes=5))
    assert not await add(pool, stored, later, again, replace(day_zero, id=uuid4()))
    assert await counts(pool) == before
    assert before | {"batches": 1, "picks": 3, "checkpoints": 1, "journal": 1} == before
    async with pool.connection() as conn:
        assert await batches.get(conn, batch.id) == batch


async def test_a_batch_added_by_two_at_once(pool):
    """One of them is first; the other is told."""
    stored, batch, picks, day_zero = await baseline(pool)
    again = [replace(pick, id=uuid4()) for pick in picks]
    first = await asyncio.gather(
        add(pool, stored, batch, picks, day_zero), add(pool, stored, batch, again, replace(day_zero, id=uuid4()))
    )
    assert sorted(first) == [False, True]
    assert await counts(pool) == {
        "batches": 1, "picks": 3, "checkpoints": 1, "pick_checkpoint_metrics": 0, "generations": 0, "closes": 4,
        "journal": 1,
    }  # fmt: skip


async def test_a_batchs_entry(pool):
    """The journal says everything that was recorded: batch, picks in order, day 0, and the readings used."""
    stored, batch, picks, day_zero = await baseline(pool)
    await add(pool, stored, batch, picks, day_zero)
    ((kind, content),) = await told(pool)
    assert (kind, content["at"], content["seq"]) == ("BATCH", "2026-01-05T14:00:20.123456Z", "1")
    assert content["batch"]["id"] == str(batch.id)
    assert content["batch"]["benchmark_initial_price"] == "100.0000"
    assert [pick["ticker"] for pick in content["picks"]] == ["KO", "MSFT", "XOM"]
    assert content["checkpoint"]["id"] == str(day_zero.id)
    assert [close["ticker"] for close in content["closes"]] == ["SPY", "KO", "MSFT", "XOM"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({"ticker": "KO"}, "one_pick_per_ticker", id="a ticker repeated"),
        pytest.param({"position": 4}, "three_picks", id="a fourth pick"),
        pytest.param({"reasoning": " "}, "reasoning_is_not_empty", id="no reasoning"),
        pytest.param({"initial_price": Decimal("NaN")}, "initial_price_is_a_price", id="no price"),
    ],
)
async def test_a_batch_with_a_bad_pick(pool, change, name):
    """All of it or none of it: what the last pick breaks leaves no batch, no pick and no entry."""
    stored, batch, picks, day_zero = await baseline(pool)
    before = await counts(pool)
    with pytest.raises(psycopg.errors.IntegrityError) as refused:
        await add(pool, stored, batch, [*picks[:2], replace(picks[2], **change)], day_zero)
    assert refused.value.diag.constraint_name == name
    assert await counts(pool) == before
    assert before["batches"] == before["journal"] == 0


async def test_a_failed_monday_run_again(pool):
    """It keeps its row and its id; both runs stand in the journal."""
    failed = a_failed_batch()
    async with pools.transaction(pool) as conn:
        assert await batches.add_failed(conn, failed)
    async with pool.connection() as conn:
        assert await batches.get(conn, failed.id) == failed
        assert await batches.oldest_active_baseline(conn) is None

    stored, batch, picks, day_zero = await baseline(pool)
    second = replace(batch, created_at=AT + timedelta(hours=1), late=True)
    assert not await add(pool, stored, second, picks, day_zero)  # only by hand
    assert await add(pool, stored, second, picks, day_zero, again=True)
    async with pool.connection() as conn:
        assert await batches.on(conn, "main", MONDAY) == second
        assert second.id == failed.id
        assert await batches.picks_of(conn, failed.id) == picks
    assert (await counts(pool))["batches"] == 1
    assert [kind for kind, _ in await told(pool)] == ["FAILURE", "BATCH"]


async def test_a_failed_monday_run_again_by_two_at_once(pool):
    """One of them has it; the other is told, and leaves nothing."""
    async with pools.transaction(pool) as conn:
        await batches.add_failed(conn, a_failed_batch())
    stored, batch, picks, day_zero = await baseline(pool)
    again = [replace(pick, id=uuid4()) for pick in picks]
    first = await asyncio.gather(
        add(pool, stored, batch, picks, day_zero, again=True),
        add(pool, stored, batch, again, replace(day_zero, id=uuid4()), again=True),
    )
    assert sorted(first) == [False, True]
    assert (await counts(pool))["picks"] == 3
    assert [kind for kind, _ in await told(pool)] == ["FAILURE", "BATCH"]


async def test_a_failure_replaces_no_picks(pool):
    """A Monday that has picks cannot fail afterwards, whether active or completed."""
    stored, batch, picks, day_zero = await baseline(pool)
    await add(pool, stored, batch, picks, day_zero)
    for _ in range(2):
        async with pools.transaction(pool) as conn:
            assert not await batches.add_failed(conn, a_failed_batch(), again=True)
            await conn.execute("UPDATE batches SET status = 'completed'")
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED
    assert [kind for kind, _ in await told(pool)] == ["BATCH"]


async def test_a_failures_entry(pool):
    """The journal says why."""
    async with pools.transaction(pool) as conn:
        await batches.add_failed(conn, a_failed_batch(failure_reason=FailureReason.MISSED, failure="Nobody was there."))
    ((kind, content),) = await told(pool)
    assert kind == "FAILURE"
    assert (content["batch"]["failure_reason"], content["batch"]["failure"]) == ("MISSED", "Nobody was there.")


async def test_one_row_per_series_and_monday(pool):
    """Another series has its own Mondays, under ids of its own."""
    for series, run_date in [("main", MONDAY), ("second", MONDAY), ("main", date(2026, 1, 12))]:
        failed = a_failed_batch(id=model.batch_id(series, run_date), series=series, run_date=run_date)
        async with pool.connection() as conn, conn.transaction():
            assert await batches.add_failed(conn, failed)
    async with pool.connection() as conn:
        assert (await batches.newest(conn, "main")).run_date == date(2026, 1, 12)
        assert (await batches.newest(conn, "second")).run_date == MONDAY
    assert (await counts(pool))["batches"] == 3


async def test_a_question_is_claimed_once(pool):
    """The second who would ask the same question learns that somebody asks it."""
    question = a_question()
    async with pool.connection() as conn:
        assert await generations.claim(conn, question)
        assert not await generations.claim(conn, a_question())
        assert await generations.claim(conn, a_question(attempt=2))
        assert await generations.claim(conn, a_question(series="second"))
        asked = await generations.of(conn, "main", MONDAY)
    assert [one.attempt for one in asked] == [1, 2]
    assert asked[0] == question
    assert await told(pool) == []


async def test_a_question_claimed_by_four_at_once(pool):
    """One question only."""

    async def claim() -> bool:
        async with pool.connection() as conn:
            return await generations.claim(conn, a_question())

    assert sorted(await asyncio.gather(*(claim() for _ in range(4)))) == [False, False, False, True]


@pytest.mark.parametrize(
    "became",
    [
        pytest.param({}, id="accepted"),
        pytest.param({"accepted": False, "refusal": "KO has no reasoning."}, id="refused"),
        pytest.param(
            {
                "accepted": False, "refusal": "No answer.", "answered_at": None, "answered_model": None, "answer": None,
                "request_id": None, "prompt_tokens": None, "completion_tokens": None,
            },
            id="no answer",
        ),
    ],
)  # fmt: skip
async def test_a_question_is_completed_once(pool, became):
    """What became of a question is stored with its entry; a second word on it is not taken."""
    question = a_question()
    done = answered(question, **became)
    async with pools.transaction(pool) as conn:
        await generations.claim(conn, question)
        assert await generations.complete(conn, done, AT + timedelta(seconds=5))
        assert not await generations.complete(conn, answered(question, answer="another"), AT + timedelta(seconds=6))
        assert await generations.of(conn, "main", MONDAY) == [done]
    ((kind, content),) = await told(pool)
    assert (kind, content["at"]) == ("GENERATION", "2026-01-05T14:00:25.123456Z")
    assert content["generation"]["accepted"] == ("true" if done.accepted else "false")
    assert content["generation"].get("refusal") == done.refusal
    assert content["generation"].get("answer") == done.answer


async def test_a_late_answer_does_not_replace_a_lapse(pool):
    """A question that lapsed was refused; the answer that comes after all is not taken."""
    question = a_question()
    async with pools.transaction(pool) as conn:
        await generations.claim(conn, question)
        lapsed = replace(question, accepted=False, refusal="No answer was stored: whoever asked was cut off.")
        assert await generations.complete(conn, lapsed, AT + timedelta(minutes=2))
        assert not await generations.complete(conn, answered(question), AT + timedelta(minutes=3))
        assert await generations.of(conn, "main", MONDAY) == [lapsed]
    assert len(await told(pool)) == 1


async def test_an_accepted_answer_can_still_be_refused(pool):
    """When one of its ideas turns out to have no price; once, and with an entry of its own."""
    question = a_question()
    refused = answered(question, accepted=False, refusal="XYZ is not known.")
    async with pools.transaction(pool) as conn:
        await generations.claim(conn, question)
        assert await generations.complete(conn, answered(question), AT)
        assert await generations.complete(conn, refused, AT)
        assert not await generations.complete(conn, refused, AT)
        assert not await generations.complete(conn, answered(question), AT)
        assert await generations.of(conn, "main", MONDAY) == [refused]
    assert [content["generation"]["accepted"] for _, content in await told(pool)] == ["true", "false"]


def bars(*closes_: str, first: date = date(2026, 1, 5), opens: str = "10") -> list[Bar]:
    """Bars of days that follow each other."""
    return [
        Bar(trading_day=first + timedelta(days=day), open=Decimal(opens), close=Decimal(close))
        for day, close in enumerate(closes_)
    ]


async def test_readings_are_stored_once(pool):
    """What is known already is not stored again, whoever says it and however many zeros it is written with."""
    async with pool.connection() as conn:
        assert await closes.add_all(conn, "KO", bars("61.07", "61.20"), "one", AT + timedelta(days=3)) == []
        assert await closes.add_all(conn, "KO", bars("61.0700", "61.2"), "two", AT + timedelta(days=4)) == []
        assert await closes.add_all(conn, "KO", bars("61.07", "61.20", "61.4"), "one", AT + timedelta(days=5)) == []
        assert (await counts(pool))["closes"] == 3
        first, third = [await closes.newest(conn, "KO", date(2026, 1, day)) for day in (5, 7)]
        assert await closes.newest(conn, "KO", date(2026, 1, 8)) is None
        assert await closes.newest(conn, "PEP", date(2026, 1, 5)) is None
    assert (first.source, first.read_at, first.close.as_tuple()) == (
        "one",
        AT + timedelta(days=3),
        Decimal("61.07").as_tuple(),
    )
    assert third.read_at == AT + timedelta(days=5)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(bars("61.07", "61.21"), id="another close"),
        pytest.param(bars("61.07") + bars("61.20", first=date(2026, 1, 6), opens="10.01"), id="another open"),
    ],
)
async def test_a_second_reading(pool, second):
    """It stands beside the first, which is never changed; new work uses the newest; the difference is told."""
    async with pool.connection() as conn:
        await closes.add_all(conn, "KO", bars("61.07", "61.20"), "test", AT + timedelta(days=3))
        before = await closes.newest(conn, "KO", date(2026, 1, 6))
        (difference,) = await closes.add_all(conn, "KO", second, "test", AT + timedelta(days=4))
        newest = await closes.newest(conn, "KO", date(2026, 1, 6))
        assert (difference.before, difference.after) == (before, newest)
        assert (newest.open, newest.close) == (second[1].open, second[1].close)
        assert await closes.among(conn, [before.id]) == [before]
        assert (await counts(pool))["closes"] == 3
        (back,) = await closes.add_all(conn, "KO", bars("61.07", "61.20"), "test", AT + timedelta(days=5))
        assert (back.before, back.after.close) == (newest, Decimal("61.20"))


async def test_readings_of_a_running_session_are_refused(pool):
    """A close of today is none yet."""
    async with pool.connection() as conn:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            await closes.add_all(conn, "KO", bars("61.07"), "test", due_at(MONDAY))
    assert refused.value.diag.constraint_name == "session_has_ended"


async def test_readings_by_id(pool):
    """Readings come back by ticker."""
    await read(pool, [a_close(ticker) for ticker in ("SPY", "KO", "MSFT")])
    async with pool.connection() as conn:
        ids = [(await closes.newest(conn, ticker, FRIDAY)).id for ticker in ("SPY", "MSFT")]
        assert [close.ticker for close in await closes.among(conn, ids)] == ["MSFT", "SPY"]


async def a_stored_batch(pool: pools.Pool) -> tuple[Batch, list[Pick], Close]:
    """A batch with its baseline, and a later close of the benchmark."""
    stored, batch, picks, day_zero = await baseline(pool)
    assert await add(pool, stored, batch, picks, day_zero)
    await read(pool, [a_close("SPY", MONDAY, close=Decimal("101.5"))])
    async with pool.connection() as conn:
        return batch, picks, await closes.newest(conn, "SPY", MONDAY)


async def take(
    pool: pools.Pool, checkpoint: Checkpoint, metrics: Sequence[PickMetric] = (), readings: Sequence[Close] = ()
) -> bool:
    """Add a checkpoint in a transaction of its own."""
    async with pools.transaction(pool) as conn:
        return await checkpoints.add(conn, checkpoint, metrics, readings)


async def test_a_checkpoint_is_stored_once(pool):
    """With its metrics and its entry; the second who takes it is told."""
    batch, picks, close = await a_stored_batch(pool)
    checkpoint = a_checkpoint(batch, 1, close)
    metrics = [a_metric(checkpoint, pick, close) for pick in picks]
    assert await take(pool, checkpoint, metrics, [close])
    before = await counts(pool)
    again = replace(checkpoint, id=uuid4())
    assert not await take(pool, again, [a_metric(again, pick, close) for pick in picks], [close])
    assert not await take(pool, a_checkpoint(batch, 1))
    assert await counts(pool) == before
    async with pool.connection() as conn:
        assert await checkpoints.at(conn, batch.id, 1) == checkpoint
        assert await checkpoints.at(conn, batch.id, 2) is None
        found = await checkpoints.metrics_of(conn, checkpoint.id)
    assert sorted(found, key=lambda metric: metric.id) == sorted(metrics, key=lambda metric: metric.id)
    _, (kind, content) = await told(pool)
    assert (kind, content["checkpoint"]["day"], content["at"]) == ("CHECKPOINT", "1", "2026-01-06T14:00:00.000000Z")
    assert [metric["absolute_return_pct"] for metric in content["metrics"]] == ["33.33333333333333333333333333"] * 3
    assert [one["id"] for one in content["closes"]] == [str(close.id)]
    assert "batch" not in content


async def test_a_checkpoint_with_a_bad_metric(pool):
    """Nothing partial is stored."""
    batch, picks, close = await a_stored_batch(pool)
    before = await counts(pool)
    checkpoint = a_checkpoint(batch, 1, close)
    metrics = [a_metric(checkpoint, pick, close) for pick in picks]
    with pytest.raises(psycopg.errors.CheckViolation):
        await take(pool, checkpoint, [*metrics[:2], replace(metrics[2], vs_benchmark_pct=Decimal("NaN"))])
    assert await counts(pool) == before


async def test_the_last_absent_day_completes_the_batch(pool):
    """Not the fourteenth by date but the last that was absent; its entry says so, and no other does."""
    batch, _, close = await a_stored_batch(pool)
    for day in (14, 13, *range(1, 12)):
        assert await take(pool, a_checkpoint(batch, day, close if day == 1 else None))
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.ACTIVE
        assert not await batches.complete(conn, batch.id)
        assert await checkpoints.awaiting(conn, date(2026, 2, 1)) == [Due(batch.id, MONDAY, 12)]
    assert await take(pool, a_checkpoint(batch, 12))
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED
        assert not await batches.complete(conn, batch.id), "only once"
        assert await checkpoints.awaiting(conn, date(2026, 2, 1)) == []
        assert await batches.oldest_active_baseline(conn) is None
    statuses = [content.get("batch", {}).get("status") for _, content in await told(pool)]
    assert statuses == ["active", *[None] * 13, "completed"]


@pytest.mark.parametrize("round_", range(3))
async def test_the_last_two_days_at_once(pool, round_):
    """Two connections store the last two days: the batch is completed, by exactly one of them."""
    batch, *_ = await a_stored_batch(pool)
    for day in range(1, 13):
        await take(pool, a_checkpoint(batch, day))
    assert await asyncio.gather(*(take(pool, a_checkpoint(batch, day)) for day in (13, 14))) == [True, True]
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED
    statuses = [content.get("batch", {}).get("status") for _, content in await told(pool)]
    assert statuses == ["active", *[None] * 13, "completed"]


async def test_the_last_day_taken_by_two_at_once(pool):
    """One of them is first, and it completes the batch."""
    batch, *_ = await a_stored_batch(pool)
    for day in range(1, 14):
        await take(pool, a_checkpoint(batch, day))
    assert sorted(await asyncio.gather(*(take(pool, a_checkpoint(batch, 14)) for _ in range(2)))) == [False, True]
    async with pool.connection() as conn:
        assert len(await checkpoints.of(conn, batch.id)) == 15
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED


async def test_awaiting(pool):
    """What is due by a day and has no row, oldest first, of active batches only; each knows when it is due."""
    stored, batch, picks, day_zero = await baseline(pool)
    await add(pool, stored, batch, picks, day_zero)
    next_monday = date(2026, 1, 12)
    following = a_batch(stored[0], run_date=next_monday)
    others = [replace(pick, id=uuid4(), batch_id=following.id) for pick in picks]
    await add(pool, stored, following, others, a_checkpoint(following, 0, stored[0]))
    failed = a_failed_batch(id=model.batch_id("main", date(2026, 1, 19)), run_date=date(2026, 1, 19))
    async with pools.transaction(pool) as conn:
        await batches.add_failed(conn, failed)
    for day in (1, 2, 4, 5, 6, 7):
        await take(pool, a_checkpoint(batch, day))

    async with pool.connection() as conn:
        assert await checkpoints.awaiting(conn, date(2026, 1, 7)) == []
        assert await checkpoints.awaiting(conn, date(2026, 1, 8)) == [Due(batch.id, MONDAY, 3)]
        due = await checkpoints.awaiting(conn, date(2026, 1, 14))
        assert len(await checkpoints.awaiting(conn, date(2026, 3, 1))) == 8 + 14
    assert due == [
        Due(batch.id, MONDAY, 3),
        Due(batch.id, MONDAY, 8),
        Due(following.id, next_monday, 1),
        Due(batch.id, MONDAY, 9),
        Due(following.id, next_monday, 2),
    ]  # fmt: skip
    assert due[0].at == datetime(2026, 1, 8, 14, tzinfo=UTC)


def test_the_test_days_are_what_they_seem():
    """The Friday before the Monday is its baseline session."""
    assert Calendar().session_before(MONDAY) == FRIDAY
