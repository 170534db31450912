"""
Writing the record: writing twice is safe, a change is stored completely or not at all, and the
result says which call was first.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest
from msgspec.structs import replace
from record_server import make_unreadable

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
    Renaming,
    SkipReason,
)
from app.errors import RecordDamaged
from app.store import batches, checkpoints, closes, generations
from app.store.checkpoints import DueCheckpoint

MONDAY = date(2026, 1, 5)
FRIDAY = date(2026, 1, 2)
AT = datetime(2026, 1, 5, 14, 0, 20, 123456, tzinfo=UTC)


def a_close(ticker: str = "SPY", session: date = FRIDAY, **changes: object) -> Close:
    """Return a typical reading, read at nine on the next morning."""
    usual = {
        "open": Decimal("99.50"),
        "close": Decimal("100.0000"),
        "source": "test",
        "read_at": due_at(session, 1),
    }
    return Close(**{"id": uuid4(), "ticker": ticker, "trading_day": session, **usual, **changes})


def make_batch(benchmark: Close, **changes: object) -> Batch:
    """Return a typical batch, with the id of its Monday."""
    usual = {
        "series": model.SERIES, "run_date": MONDAY, "created_at": AT,
        "status": BatchStatus.ACTIVE, "late": False,
        "benchmark_symbol": "SPY", "benchmark_initial_price": benchmark.close,
        "benchmark_initial_close_id": benchmark.id, "trading_day": benchmark.trading_day,
    } | changes  # fmt: skip
    return Batch(id=model.batch_id(usual["series"], usual["run_date"]), **usual)


def a_failed_batch(**changes: object) -> Batch:
    """Return a Monday without picks."""
    usual = {
        "id": model.batch_id(model.SERIES, MONDAY), "series": model.SERIES, "run_date": MONDAY,
        "created_at": AT,
        "status": BatchStatus.FAILED, "late": False, "failure_reason": FailureReason.PROVIDER_ERROR,
        "failure": "It did not answer.", "benchmark_symbol": "SPY",
    }  # fmt: skip
    return Batch(**{**usual, **changes})


def a_pick(batch: Batch, close: Close, position: int = 1, **changes: object) -> Pick:
    """Return a typical pick at a close that was read."""
    usual = {"ticker": close.ticker, "action": Action.BUY, "reasoning": "It will do well."}
    return Pick(
        **{"id": uuid4(), "batch_id": batch.id, "position": position, **usual, **changes},
        initial_price=close.close,
        initial_close_id=close.id,
    )


def a_checkpoint(
    batch: Batch, day: int, close: Close | None = None, **changes: object
) -> Checkpoint:
    """
    Return a checkpoint: computed with the benchmark's close, or without one skipped because the
    market was closed.
    """
    on = checkpoint_date(batch.run_date, day)
    usual = {
        "id": uuid4(),
        "batch_id": batch.id,
        "day": day,
        "checkpoint_date": on,
        "taken_at": due_at(MONDAY, day),
    }
    if close:
        usual |= {
            "status": CheckpointStatus.COMPUTED, "trading_day": close.trading_day,
            "benchmark_price": close.close,
            "benchmark_close_id": close.id, "benchmark_split_factor": Decimal(1),
            "benchmark_return_pct": Decimal("1.5") if day else None,
        }  # fmt: skip
    else:
        closed = {"skip_reason": SkipReason.MARKET_CLOSED, "skipped_at": usual["taken_at"]}
        usual |= {"status": CheckpointStatus.SKIPPED, **closed}
    return Checkpoint(**{**usual, **changes})


def a_metric(checkpoint: Checkpoint, pick: Pick, close: Close, **changes: object) -> PickMetric:
    """Return a typical metric."""
    usual = {
        "current_price": close.close, "close_id": close.id, "split_factor": Decimal(1),
        "absolute_return_pct": Decimal("33.33333333333333333333333333"),
        "vs_benchmark_pct": Decimal("31.83"),
    }  # fmt: skip
    return PickMetric(
        **{"id": uuid4(), "checkpoint_id": checkpoint.id, "pick_id": pick.id, **usual, **changes}
    )


def a_question(**changes: object) -> Generation:
    """Return an open question."""
    usual = {
        "id": uuid4(), "series": model.SERIES, "run_date": MONDAY, "attempt": 1, "asked_at": AT,
        "requested_model": "gpt-test", "prompt_version": "1", "system_prompt": "You choose.",
        "user_prompt": "Choose.",
    }  # fmt: skip
    return Generation(**{**usual, **changes})


def answered(question: Generation, **changes: object) -> Generation:
    """Return the question with an accepted answer."""
    usual = {
        "answered_at": AT + timedelta(seconds=4), "answered_model": "gpt-test-2026",
        "answer": '{"picks": []}',
        "request_id": "req_1", "prompt_tokens": 210, "completion_tokens": 180, "accepted": True,
    }  # fmt: skip
    return replace(question, **{**usual, **changes})


async def read(pool: pools.Pool, readings: Sequence[Close]) -> None:
    """Store readings."""
    async with pool.connection() as conn:
        for close in readings:
            bar = Bar(trading_day=close.trading_day, open=close.open, close=close.close)
            await closes.insert_new(
                conn=conn,
                ticker=close.ticker,
                bars=[bar],
                source=close.source,
                read_at=close.read_at,
            )


async def baseline(pool: pools.Pool) -> tuple[list[Close], Batch, list[Pick], Checkpoint]:
    """
    Store the readings of a typical batch; return them and the batch with its picks and day 0,
    which are not stored.
    """
    await read(pool, [a_close(ticker) for ticker in ("SPY", "KO", "MSFT", "XOM")])
    async with pool.connection() as conn:
        stored = [
            await closes.get_newest(conn, ticker, FRIDAY) for ticker in ("SPY", "KO", "MSFT", "XOM")
        ]
    batch = make_batch(stored[0])
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
    """Insert a batch in a transaction of its own."""
    async with pools.transaction(pool) as conn:
        return await batches.insert(
            conn=conn,
            batch=batch,
            picks=picks,
            baseline=day_zero,
            readings=stored,
            rerun=again,
            in_force=None,
        )


async def counts(pool: pools.Pool) -> dict[str, int]:
    """Return the number of rows of each table."""
    tables = (
        "batches",
        "picks",
        "checkpoints",
        "pick_checkpoint_metrics",
        "generations",
        "closes",
        "journal",
    )
    async with pool.connection() as conn:
        return {
            table: (await (await conn.execute(f"SELECT count(*) FROM {table}")).fetchone())[0]
            for table in tables
        }


async def journal_entries(pool: pools.Pool) -> list[tuple[str, dict[str, object]]]:
    """Return the kinds and contents of the journal's entries."""
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT kind, content, batch_id FROM journal ORDER BY seq")
        rows = await cursor.fetchall()
    assert {batch for _, _, batch in rows} <= {model.batch_id(model.SERIES, MONDAY)}
    return [(kind, json.loads(content)) for kind, content, _ in rows]


async def test_a_batch_is_stored_as_it_is(pool):
    """Every figure, time and text is read back as it was stored; picks are in the model's order."""
    stored, batch, picks, day_zero = await baseline(pool)
    assert await add(pool=pool, stored=stored, batch=batch, picks=picks[::-1], day_zero=day_zero)
    async with pool.connection() as conn:
        assert await batches.get(conn, batch.id) == batch
        assert await batches.get_by_run_date(conn, "main", MONDAY) == batch
        assert await batches.get_by_run_date(conn, "other", MONDAY) is None
        assert await batches.get_newest(conn, "main") == batch
        assert await batches.list_mondays(conn) == [("main", MONDAY)]
        assert await batches.get_oldest_active_baseline(conn) == FRIDAY
        assert await batches.list_picks(conn, batch.id) == picks
        assert await checkpoints.list_for_batch(conn, batch.id) == [day_zero]
    price = (await batches_price(pool, batch.id)).as_tuple()
    assert price == Decimal("100.0000").as_tuple(), "with the digits that the provider wrote"


async def batches_price(pool: pools.Pool, id: UUID) -> Decimal:
    """Return a batch's benchmark price as Postgres stores it."""
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT benchmark_initial_price FROM batches WHERE id = %s", (id,)
        )
        return (await cursor.fetchone())[0]


async def test_a_batch_added_twice(pool):
    """The second insert changes nothing, and returns False."""
    stored, batch, picks, day_zero = await baseline(pool)
    assert await add(pool=pool, stored=stored, batch=batch, picks=picks, day_zero=day_zero)
    before = await counts(pool)
    again = [replace(pick, id=uuid4()) for pick in picks]
    later = replace(batch, created_at=AT + timedelta(minutes=5))
    assert not await add(
        pool=pool, stored=stored, batch=later, picks=again, day_zero=replace(day_zero, id=uuid4())
    )
    assert await counts(pool) == before
    assert before | {"batches": 1, "picks": 3, "checkpoints": 1, "journal": 1} == before
    async with pool.connection() as conn:
        assert await batches.get(conn, batch.id) == batch


async def test_a_batch_added_by_two_at_once(pool):
    """Of two concurrent inserts one returns True, and the other False."""
    stored, batch, picks, day_zero = await baseline(pool)
    again = [replace(pick, id=uuid4()) for pick in picks]
    first = await asyncio.gather(
        add(pool=pool, stored=stored, batch=batch, picks=picks, day_zero=day_zero),
        add(
            pool=pool,
            stored=stored,
            batch=batch,
            picks=again,
            day_zero=replace(day_zero, id=uuid4()),
        ),
    )
    assert sorted(first) == [False, True]
    assert await counts(pool) == {
        "batches": 1, "picks": 3, "checkpoints": 1, "pick_checkpoint_metrics": 0,
        "generations": 0, "closes": 4,
        "journal": 1,
    }  # fmt: skip


async def test_a_batchs_entry(pool):
    """
    The journal entry has all rows: the batch, its picks in order, day 0, and the readings used.
    """
    stored, batch, picks, day_zero = await baseline(pool)
    await add(pool=pool, stored=stored, batch=batch, picks=picks, day_zero=day_zero)
    ((kind, content),) = await journal_entries(pool)
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
    """If the last pick breaks a constraint, no batch, no pick and no entry is stored."""
    stored, batch, picks, day_zero = await baseline(pool)
    before = await counts(pool)
    with pytest.raises(psycopg.errors.IntegrityError) as refused:
        await add(
            pool=pool,
            stored=stored,
            batch=batch,
            picks=[*picks[:2], replace(picks[2], **change)],
            day_zero=day_zero,
        )
    assert refused.value.diag.constraint_name == name
    assert await counts(pool) == before
    assert before["batches"] == before["journal"] == 0


async def test_a_failed_monday_run_again(pool):
    """The batch keeps its row and its id; the journal has both runs."""
    failed = a_failed_batch()
    async with pools.transaction(pool) as conn:
        assert await batches.insert_failed(conn, failed, in_force=None)
    async with pool.connection() as conn:
        assert await batches.get(conn, failed.id) == failed
        assert await batches.get_oldest_active_baseline(conn) is None

    stored, batch, picks, day_zero = await baseline(pool)
    second = replace(batch, created_at=AT + timedelta(hours=1), late=True)
    assert not await add(
        pool=pool, stored=stored, batch=second, picks=picks, day_zero=day_zero
    )  # only with `rerun`
    assert await add(
        pool=pool, stored=stored, batch=second, picks=picks, day_zero=day_zero, again=True
    )
    async with pool.connection() as conn:
        assert await batches.get_by_run_date(conn, "main", MONDAY) == second
        assert second.id == failed.id
        assert await batches.list_picks(conn, failed.id) == picks
    assert (await counts(pool))["batches"] == 1
    assert [kind for kind, _ in await journal_entries(pool)] == ["FAILURE", "BATCH"]


async def test_a_failed_monday_run_again_by_two_at_once(pool):
    """Of two concurrent reruns one stores its batch; the other returns False and stores nothing."""
    async with pools.transaction(pool) as conn:
        await batches.insert_failed(conn, a_failed_batch(), in_force=None)
    stored, batch, picks, day_zero = await baseline(pool)
    again = [replace(pick, id=uuid4()) for pick in picks]
    first = await asyncio.gather(
        add(pool=pool, stored=stored, batch=batch, picks=picks, day_zero=day_zero, again=True),
        add(
            pool=pool,
            stored=stored,
            batch=batch,
            picks=again,
            day_zero=replace(day_zero, id=uuid4()),
            again=True,
        ),
    )
    assert sorted(first) == [False, True]
    assert (await counts(pool))["picks"] == 3
    assert [kind for kind, _ in await journal_entries(pool)] == ["FAILURE", "BATCH"]


async def test_a_failure_replaces_no_picks(pool):
    """A batch with picks cannot be replaced by a failure, whether it is active or completed."""
    stored, batch, picks, day_zero = await baseline(pool)
    await add(pool=pool, stored=stored, batch=batch, picks=picks, day_zero=day_zero)
    for _ in range(2):
        async with pools.transaction(pool) as conn:
            assert not await batches.insert_failed(
                conn, a_failed_batch(), rerun=True, in_force=None
            )
            await conn.execute("UPDATE batches SET status = 'completed'")
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED
    assert [kind for kind, _ in await journal_entries(pool)] == ["BATCH"]


async def test_a_failures_entry(pool):
    """The journal entry has the reason of the failure."""
    async with pools.transaction(pool) as conn:
        await batches.insert_failed(
            conn,
            a_failed_batch(failure_reason=FailureReason.MISSED, failure="Nobody was there."),
            in_force=None,
        )
    ((kind, content),) = await journal_entries(pool)
    assert kind == "FAILURE"
    assert (content["batch"]["failure_reason"], content["batch"]["failure"]) == (
        "MISSED",
        "Nobody was there.",
    )


async def test_one_row_per_series_and_monday(pool):
    """Another series has its own Mondays, with other ids."""
    for series, run_date in [("main", MONDAY), ("second", MONDAY), ("main", date(2026, 1, 12))]:
        failed = a_failed_batch(
            id=model.batch_id(series, run_date), series=series, run_date=run_date
        )
        async with pool.connection() as conn, conn.transaction():
            assert await batches.insert_failed(conn, failed, in_force=None)
    async with pool.connection() as conn:
        assert (await batches.get_newest(conn, "main")).run_date == date(2026, 1, 12)
        assert (await batches.get_newest(conn, "second")).run_date == MONDAY
    assert (await counts(pool))["batches"] == 3


async def test_a_question_is_claimed_once(pool):
    """A claim returns the question as it was stored. A second claim returns None."""
    question = a_question()
    async with pool.connection() as conn:
        assert await generations.claim(conn, question, in_force=None) == question
        assert await generations.claim(conn, a_question(), in_force=None) is None
        assert await generations.claim(conn, a_question(attempt=2), in_force=None)
        assert await generations.claim(conn, a_question(series="second"), in_force=None)
        questions = await generations.list_by_run_date(conn, "main", MONDAY)
    assert [one.attempt for one in questions] == [1, 2]
    assert questions[0] == question
    assert await journal_entries(pool) == []


async def test_a_question_claimed_by_four_at_once(pool):
    """Of four concurrent claims exactly one succeeds."""

    async def claim() -> bool:
        async with pool.connection() as conn:
            return await generations.claim(conn, a_question(), in_force=None) is not None

    assert sorted(await asyncio.gather(*(claim() for _ in range(4)))) == [False, False, False, True]


@pytest.mark.parametrize(
    "became",
    [
        pytest.param({}, id="accepted"),
        pytest.param({"accepted": False, "refusal": "KO has no reasoning."}, id="refused"),
        pytest.param(
            {
                "accepted": False, "refusal": "No answer.", "answered_at": None,
                "answered_model": None, "answer": None,
                "request_id": None, "prompt_tokens": None, "completion_tokens": None,
            },
            id="no answer",
        ),
    ],
)  # fmt: skip
async def test_a_question_is_completed_once(pool, became):
    """A question's outcome is stored with its journal entry; a second outcome is not accepted."""
    question = a_question()
    done = answered(question, **became)
    async with pools.transaction(pool) as conn:
        await generations.claim(conn, question, in_force=None)
        assert await generations.complete(conn, done, AT + timedelta(seconds=5))
        assert not await generations.complete(
            conn, answered(question, answer="another"), AT + timedelta(seconds=6)
        )
        assert await generations.list_by_run_date(conn, "main", MONDAY) == [done]
    ((kind, content),) = await journal_entries(pool)
    assert (kind, content["at"]) == ("GENERATION", "2026-01-05T14:00:25.123456Z")
    assert content["generation"]["accepted"] == ("true" if done.accepted else "false")
    assert content["generation"].get("refusal") == done.refusal
    assert content["generation"].get("answer") == done.answer


async def test_a_late_answer_does_not_replace_a_lapse(pool):
    """A question that has lapsed counts as failed; an answer that arrives later is not stored."""
    question = a_question()
    async with pools.transaction(pool) as conn:
        await generations.claim(conn, question, in_force=None)
        lapsed = replace(
            question, accepted=False, refusal="No answer was stored: whoever asked was cut off."
        )
        assert await generations.complete(conn, lapsed, AT + timedelta(minutes=2))
        assert not await generations.complete(conn, answered(question), AT + timedelta(minutes=3))
        assert await generations.list_by_run_date(conn, "main", MONDAY) == [lapsed]
    assert len(await journal_entries(pool)) == 1


async def test_an_accepted_answer_can_still_be_refused(pool):
    """
    An accepted answer can be refused once, with another entry, if one of its ideas has no
    price.
    """
    question = a_question()
    refused = answered(question, accepted=False, refusal="XYZ is not known.")
    async with pools.transaction(pool) as conn:
        await generations.claim(conn, question, in_force=None)
        assert await generations.complete(conn, answered(question), AT)
        assert await generations.complete(conn, refused, AT)
        assert not await generations.complete(conn, refused, AT)
        assert not await generations.complete(conn, answered(question), AT)
        assert await generations.list_by_run_date(conn, "main", MONDAY) == [refused]
    assert [content["generation"]["accepted"] for _, content in await journal_entries(pool)] == [
        "true",
        "false",
    ]


def bars(*closes_: str, first: date = date(2026, 1, 5), opens: str = "10") -> list[Bar]:
    """Return bars of consecutive days."""
    return [
        Bar(trading_day=first + timedelta(days=day), open=Decimal(opens), close=Decimal(close))
        for day, close in enumerate(closes_)
    ]


async def test_readings_are_stored_once(pool):
    """A known price is not stored again, whatever its source and its number of zeros."""
    async with pool.connection() as conn:
        first_response = await closes.insert_new(
            conn=conn,
            ticker="KO",
            bars=bars("61.07", "61.20"),
            source="one",
            read_at=AT + timedelta(days=3),
        )
        same_prices = await closes.insert_new(
            conn=conn,
            ticker="KO",
            bars=bars("61.0700", "61.2"),
            source="two",
            read_at=AT + timedelta(days=4),
        )
        one_more = await closes.insert_new(
            conn=conn,
            ticker="KO",
            bars=bars("61.07", "61.20", "61.4"),
            source="one",
            read_at=AT + timedelta(days=5),
        )
        inserted = [first_response, same_prices, one_more]
        assert [len(one.readings) for one in inserted] == [2, 0, 1]
        assert [one.changes for one in inserted] == [[], [], []]
        assert (await counts(pool))["closes"] == 3
        first, third = [await closes.get_newest(conn, "KO", date(2026, 1, day)) for day in (5, 7)]
        assert await closes.get_newest(conn, "KO", date(2026, 1, 8)) is None
        assert await closes.get_newest(conn, "PEP", date(2026, 1, 5)) is None
    assert (first.source, first.read_at, first.close.as_tuple()) == (
        "one",
        AT + timedelta(days=3),
        Decimal("61.07").as_tuple(),
    )
    assert third.read_at == AT + timedelta(days=5)
    assert first == first_response.readings[0]
    assert [third] == one_more.readings


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(bars("61.07", "61.21"), id="another close"),
        pytest.param(
            bars("61.07") + bars("61.20", first=date(2026, 1, 6), opens="10.01"), id="another open"
        ),
    ],
)
async def test_a_second_reading(pool, second):
    """
    A second reading is stored beside the first, which does not change; new work uses the
    newest, and the function returns the difference.
    """
    async with pool.connection() as conn:
        await closes.insert_new(
            conn=conn,
            ticker="KO",
            bars=bars("61.07", "61.20"),
            source="test",
            read_at=AT + timedelta(days=3),
        )
        before = await closes.get_newest(conn, "KO", date(2026, 1, 6))
        inserted = await closes.insert_new(
            conn=conn, ticker="KO", bars=second, source="test", read_at=AT + timedelta(days=4)
        )
        (difference,) = inserted.changes
        assert inserted.readings == [difference.after]
        newest = await closes.get_newest(conn, "KO", date(2026, 1, 6))
        assert (difference.before, difference.after) == (before, newest)
        assert (newest.open, newest.close) == (second[1].open, second[1].close)
        assert await closes.list_by_ids(conn, [before.id]) == [before]
        assert (await counts(pool))["closes"] == 3
        inserted = await closes.insert_new(
            conn=conn,
            ticker="KO",
            bars=bars("61.07", "61.20"),
            source="test",
            read_at=AT + timedelta(days=5),
        )
        (back,) = inserted.changes
        assert (back.before, back.after.close) == (newest, Decimal("61.20"))


async def test_readings_of_a_running_session_are_refused(pool):
    """A close of today is refused: the session has not ended."""
    async with pool.connection() as conn:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            await closes.insert_new(
                conn=conn, ticker="KO", bars=bars("61.07"), source="test", read_at=due_at(MONDAY)
            )
    assert refused.value.diag.constraint_name == "session_has_ended"


async def test_readings_by_id(pool):
    """Readings are returned by ticker."""
    await read(pool, [a_close(ticker) for ticker in ("SPY", "KO", "MSFT")])
    async with pool.connection() as conn:
        ids = [(await closes.get_newest(conn, ticker, FRIDAY)).id for ticker in ("SPY", "MSFT")]
        assert [close.ticker for close in await closes.list_by_ids(conn, ids)] == ["MSFT", "SPY"]


async def a_stored_batch(pool: pools.Pool) -> tuple[Batch, list[Pick], Close]:
    """Store a batch with its baseline, and a later close of the benchmark."""
    stored, batch, picks, day_zero = await baseline(pool)
    assert await add(pool=pool, stored=stored, batch=batch, picks=picks, day_zero=day_zero)
    await read(pool, [a_close("SPY", MONDAY, close=Decimal("101.5"))])
    async with pool.connection() as conn:
        return batch, picks, await closes.get_newest(conn, "SPY", MONDAY)


async def take(
    pool: pools.Pool,
    checkpoint: Checkpoint,
    metrics: Sequence[PickMetric] = (),
    readings: Sequence[Close] = (),
) -> bool:
    """Insert a checkpoint in a transaction of its own."""
    async with pools.transaction(pool) as conn:
        return await checkpoints.insert(
            conn=conn, checkpoint=checkpoint, metrics=metrics, readings=readings, in_force=None
        )


async def test_a_checkpoint_is_stored_once(pool):
    """A checkpoint is stored with its metrics and its entry; a second insert returns False."""
    batch, picks, close = await a_stored_batch(pool)
    checkpoint = a_checkpoint(batch, 1, close)
    metrics = [a_metric(checkpoint, pick, close) for pick in picks]
    assert await take(pool=pool, checkpoint=checkpoint, metrics=metrics, readings=[close])
    before = await counts(pool)
    again = replace(checkpoint, id=uuid4())
    assert not await take(
        pool=pool,
        checkpoint=again,
        metrics=[a_metric(again, pick, close) for pick in picks],
        readings=[close],
    )
    assert not await take(pool, a_checkpoint(batch, 1))
    assert await counts(pool) == before
    async with pool.connection() as conn:
        assert await checkpoints.get(conn, batch.id, 1) == checkpoint
        assert await checkpoints.get(conn, batch.id, 2) is None
        stored = await checkpoints.list_metrics(conn, checkpoint.id)
    assert sorted(stored, key=lambda metric: metric.id) == sorted(
        metrics, key=lambda metric: metric.id
    )
    _, (kind, content) = await journal_entries(pool)
    assert (kind, content["checkpoint"]["day"], content["at"]) == (
        "CHECKPOINT",
        "1",
        "2026-01-06T14:00:00.000000Z",
    )
    assert [metric["absolute_return_pct"] for metric in content["metrics"]] == [
        "33.33333333333333333333333333"
    ] * 3
    assert [one["id"] for one in content["closes"]] == [str(close.id)]
    assert "batch" not in content


async def test_a_checkpoint_with_a_bad_metric(pool):
    """If a metric breaks a constraint, nothing is stored."""
    batch, picks, close = await a_stored_batch(pool)
    before = await counts(pool)
    checkpoint = a_checkpoint(batch, 1, close)
    metrics = [a_metric(checkpoint, pick, close) for pick in picks]
    with pytest.raises(psycopg.errors.CheckViolation):
        await take(
            pool, checkpoint, [*metrics[:2], replace(metrics[2], vs_benchmark_pct=Decimal("NaN"))]
        )
    assert await counts(pool) == before


async def test_the_last_absent_day_completes_the_batch(pool):
    """
    The batch is completed by the last missing day, which need not be day 14; only that day's
    entry has the batch.
    """
    batch, _, close = await a_stored_batch(pool)
    for day in (14, 13, *range(1, 12)):
        assert await take(pool, a_checkpoint(batch, day, close if day == 1 else None))
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.ACTIVE
        assert not await batches.complete(conn, batch.id)
        assert await checkpoints.list_due(conn, date(2026, 2, 1)) == [
            DueCheckpoint(batch.id, MONDAY, 12)
        ]
    assert await take(pool, a_checkpoint(batch, 12))
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED
        assert not await batches.complete(conn, batch.id), "only once"
        assert await checkpoints.list_due(conn, date(2026, 2, 1)) == []
        assert await batches.get_oldest_active_baseline(conn) is None
    statuses = [
        content.get("batch", {}).get("status") for _, content in await journal_entries(pool)
    ]
    assert statuses == ["active", *[None] * 13, "completed"]


@pytest.mark.parametrize("round_", range(3))
async def test_the_last_two_days_at_once(pool, round_):
    """Two connections store the last two days: exactly one of them completes the batch."""
    batch, *_ = await a_stored_batch(pool)
    for day in range(1, 13):
        await take(pool, a_checkpoint(batch, day))
    assert await asyncio.gather(*(take(pool, a_checkpoint(batch, day)) for day in (13, 14))) == [
        True,
        True,
    ]
    async with pool.connection() as conn:
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED
    statuses = [
        content.get("batch", {}).get("status") for _, content in await journal_entries(pool)
    ]
    assert statuses == ["active", *[None] * 13, "completed"]


async def test_the_last_day_taken_by_two_at_once(pool):
    """Of two concurrent inserts of the last day, the first completes the batch."""
    batch, *_ = await a_stored_batch(pool)
    for day in range(1, 14):
        await take(pool, a_checkpoint(batch, day))
    assert sorted(
        await asyncio.gather(*(take(pool, a_checkpoint(batch, 14)) for _ in range(2)))
    ) == [False, True]
    async with pool.connection() as conn:
        assert len(await checkpoints.list_for_batch(conn, batch.id)) == 15
        assert (await batches.get(conn, batch.id)).status == BatchStatus.COMPLETED


async def test_awaiting(pool):
    """
    Due checkpoints without a row are listed, oldest first, of active batches only; each has its
    due time.
    """
    stored, batch, picks, day_zero = await baseline(pool)
    await add(pool=pool, stored=stored, batch=batch, picks=picks, day_zero=day_zero)
    next_monday = date(2026, 1, 12)
    following = make_batch(stored[0], run_date=next_monday)
    others = [replace(pick, id=uuid4(), batch_id=following.id) for pick in picks]
    await add(
        pool=pool,
        stored=stored,
        batch=following,
        picks=others,
        day_zero=a_checkpoint(following, 0, stored[0]),
    )
    failed = a_failed_batch(
        id=model.batch_id("main", date(2026, 1, 19)), run_date=date(2026, 1, 19)
    )
    async with pools.transaction(pool) as conn:
        await batches.insert_failed(conn, failed, in_force=None)
    for day in (1, 2, 4, 5, 6, 7):
        await take(pool, a_checkpoint(batch, day))

    async with pool.connection() as conn:
        assert await checkpoints.list_due(conn, date(2026, 1, 7)) == []
        assert await checkpoints.list_due(conn, date(2026, 1, 8)) == [
            DueCheckpoint(batch.id, MONDAY, 3)
        ]
        due = await checkpoints.list_due(conn, date(2026, 1, 14))
        assert len(await checkpoints.list_due(conn, date(2026, 3, 1))) == 8 + 14
    assert due == [
        DueCheckpoint(batch.id, MONDAY, 3),
        DueCheckpoint(batch.id, MONDAY, 8),
        DueCheckpoint(following.id, next_monday, 1),
        DueCheckpoint(batch.id, MONDAY, 9),
        DueCheckpoint(following.id, next_monday, 2),
    ]  # fmt: skip
    assert due[0].due_at == datetime(2026, 1, 8, 14, tzinfo=UTC)


def test_the_test_days_are_what_they_seem():
    """The Friday before the Monday is its baseline session."""
    assert Calendar().session_before(MONDAY) == FRIDAY


async def rename(pool: pools.Pool, pick: Pick) -> None:
    """Rename a pick to META."""
    renaming = Renaming(pick_id=pick.id, from_session=MONDAY, source="8-K", forced=True)
    async with pools.transaction(pool) as conn:
        await batches.rename_pick(
            conn, pick, ticker="META", renaming=renaming, at=AT, in_force=None
        )


async def find_locked(pool: pools.Pool, tickers: Sequence[str]) -> list[str]:
    """Return those tickers that the batch uses or has used."""
    async with pools.transaction(pool) as conn:
        return [one for one in tickers if await batches.lock_all_with_ticker(conn, one)]


async def test_a_batch_uses_the_former_ticker_of_a_pick(pool):
    """A part of the former ticker, and that of a pick that was not renamed, are others."""
    _, picks, _ = await a_stored_batch(pool)
    await rename(pool, picks[0])
    former = picks[0].ticker
    tried = (former, "META", "SPY", former[:-1], f"{former}X", "INTC")
    assert await find_locked(pool, tried) == [former, "META", "SPY"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", r'{"before":"\ud800"}', r'{"x":"\u0000"}', "[" * 100_000],
    ids=range(7),
)
async def test_a_rename_that_cannot_be_read(pool, database, content):
    """The batches of a ticker can be locked, and the reader of the entry says which is damaged."""
    batch, picks, _ = await a_stored_batch(pool)
    await rename(pool, picks[0])
    make_unreadable(database, "PICK_RENAMED", content)
    assert await find_locked(pool, ("META", "SPY", "INTC")) == ["META", "SPY"]
    async with pools.transaction(pool) as conn:
        with pytest.raises(RecordDamaged, match=r"the `(content|pick)` of entry 2 of the journal"):
            await batches.get_tickers(conn, batch.id)
