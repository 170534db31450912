"""Mondays of several series: each has its own job, questions, batch and failure."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from independent_verifier.draws import drawn
from job_context import MONDAY, clock, make_answer, make_completion, new_york, open_harness
from provider_server import FOR_EVER, Reply
from record_server import silent
from several_series import NAMES, TABLES, make_batches, open_series, take_checkpoints

from app.domain import control
from app.domain.model import BatchStatus, FailureReason, batch_id
from app.ops.verify import open_database, verify
from jobs import reconcile, weekly

__all__ = ["clock"]

SECOND = MONDAY + timedelta(days=7)
THIRD = MONDAY + timedelta(days=14)


@pytest.fixture
async def series(database, clock, tmp_path):
    """A harness with two models and a control."""
    async with open_series(database, clock, tmp_path) as harness:
        yield harness


async def fits(database: str) -> None:
    """Verify a record."""
    async with open_database(database) as source:
        await verify(source, [], silent)


async def declared(harness) -> list[dict]:
    """Return the members `series` of the SERIES entries, in their order."""
    entries = [json.loads(entry.content) for entry in await harness.journal()]
    return [entry["series"] for entry in entries if entry["kind"] == "SERIES"]


async def test_a_monday_of_three_series(series, database):
    """Every series is declared before the first question, and each has its batch."""
    made = await make_batches(series)
    assert [made[name].status for name in NAMES] == ["active"] * 3
    assert [made[name].id for name in NAMES] == [batch_id(name, MONDAY) for name in NAMES]
    kinds = await series.kinds()
    assert kinds[:6] == ["GENESIS", "SERIES", "SERIES", "SERIES", "GENERATION", "GENERATION"]
    assert kinds.count("BATCH") == 3
    first = await declared(series)
    assert [(one["name"], one["label"], one["kind"]) for one in first] == [
        ("main", "First", "model"),
        ("second", "Second", "model"),
        ("dice", "dice", "random"),
    ]
    assert first[1]["profile"]["reasoning_effort"] == "low"
    asked = await series.rows("SELECT series, requested_model, reasoning_effort FROM generations")
    assert sorted(asked) == [
        ("dice", "random", None),
        ("main", "gpt-5.4-mini", None),
        ("second", "another-model", "low"),
    ]
    await fits(database)


async def test_the_tick_defers_a_job_for_each_other_series(series):
    """The job of the tick itself is that of `main`; a second tick defers nothing more."""
    tick = int(new_york(MONDAY).timestamp())
    await weekly.defer_other_series(series.context, tick)
    await weekly.defer_other_series(series.context, tick)
    jobs = [args for task, args, _ in await series.jobs() if task == "pick_week"]
    assert sorted(args["series"] for args in jobs) == ["dice", "second"]
    assert {args["timestamp"] for args in jobs} == {tick}


async def test_two_ticks_at_once(series):
    """Each series gets one job, although two processes defer at the same moment."""
    tick = int(new_york(MONDAY).timestamp())
    await asyncio.gather(
        *(weekly.defer_other_series(series.context, tick) for _ in range(4)),
    )
    assert len(await series.jobs()) == 2


async def test_no_job_for_a_series_with_a_batch(series):
    await make_batches(series)
    tick = int(new_york(MONDAY).timestamp())
    await weekly.defer_other_series(series.context, tick)
    assert [task for task, _, _ in await series.jobs() if task == "pick_week"] == []


def test_another_series_begins_every_week():
    """After three weeks, each of three series was the first one once."""
    first = [
        weekly.rotate_by_week(["a", "b", "c"], MONDAY + timedelta(days=7 * week))[0]
        for week in range(3)
    ]
    assert sorted(first) == ["a", "b", "c"]
    assert weekly.rotate_by_week([], MONDAY) == []


async def test_a_lost_job_is_deferred_for_its_series_alone(series):
    """The tick's job died before it deferred the others: the reconciliation begins them."""
    await series.begin()
    series.clock.time = new_york(MONDAY, minute=2)
    result = await reconcile.run_round(series.context)
    assert result
    assert result.begun
    jobs = [args for task, args, _ in await series.jobs() if task == "pick_week"]
    assert sorted(args["series"] for args in jobs) == ["dice", "second"]


async def test_a_failed_job_fails_its_own_series(series, database):
    """The Monday of a series whose job has failed is recorded as failed; the others go on."""
    series.clock.time = new_york(MONDAY, minute=2)
    await series.begin()
    async with series.context.pool.connection() as conn:
        job = await weekly.defer_run(conn, series.clock.now(), "second")
        await conn.execute("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = %s", (job,))
    await reconcile.run_round(series.context)
    second = await series.batch(MONDAY, "second")
    assert second
    assert (second.status, second.failure_reason) == (
        BatchStatus.FAILED,
        FailureReason.CONFIGURATION,
    )
    jobs = [args for task, args, _ in await series.jobs() if task == "pick_week"]
    assert [args["series"] for args in jobs] == ["dice"]
    main = await series.batch()
    assert main
    assert main.status == BatchStatus.ACTIVE
    await fits(database)


async def test_missed_mondays_of_each_series(series, database):
    """A Monday without any batch, after a Monday with all: each series gets its own row."""
    await make_batches(series)
    series.clock.time = new_york(THIRD)
    await series.begin()
    missed = await series.rows(
        "SELECT series FROM batches WHERE run_date = %s AND failure_reason = 'MISSED'", SECOND
    )
    assert sorted(name for (name,) in missed) == sorted(NAMES)
    await fits(database)


async def test_a_series_that_was_declared_and_never_asked(series, database):
    """Only `main` ran on the first Monday: the others were declared, so they missed it."""
    await series.begin()
    series.clock.time = new_york(SECOND)
    await series.begin()
    missed = await series.rows("SELECT series, run_date FROM batches WHERE status = 'failed'")
    assert sorted(missed) == [("dice", MONDAY), ("second", MONDAY)]
    await fits(database)


async def test_a_series_that_joins(database, clock, tmp_path):
    """It is declared before its first question; its first Monday is that one."""
    async with open_series(database, clock, tmp_path, ["main"]) as harness:
        await make_batches(harness)
    clock.time = new_york(SECOND)
    async with open_series(database, clock, tmp_path, ["main", "third", "dice"]) as harness:
        await make_batches(harness, SECOND)
        assert [one["name"] for one in await declared(harness)] == ["main", "third", "dice"]
        assert {one["holds_from"] for one in await declared(harness)} == {str(MONDAY), str(SECOND)}
        series = await harness.rows("SELECT series, run_date FROM batches ORDER BY 2, 1")
    assert series == [
        ("main", MONDAY),
        ("dice", SECOND),
        ("main", SECOND),
        ("third", SECOND),
    ]
    await fits(database)


@pytest.mark.long
async def test_a_series_that_is_retired_and_comes_back(database, clock, tmp_path):
    """It has no Monday while it is retired, and none of these counts as missed."""
    async with open_series(database, clock, tmp_path) as harness:
        await make_batches(harness)
    async with open_series(database, clock, tmp_path, ["main"]) as harness:
        await take_checkpoints(harness, SECOND)
        await make_batches(harness, SECOND)
        retired = (await declared(harness))[3:]
    assert [(one["name"], one["retired"]) for one in retired] == [
        ("second", "true"),
        ("dice", "true"),
    ]
    async with open_series(database, clock, tmp_path) as harness:
        await take_checkpoints(harness, THIRD)
        await make_batches(harness, THIRD)
        back = (await declared(harness))[5:]
        failed = await harness.rows("SELECT series FROM batches WHERE status = 'failed'")
    assert [(one["name"], one.get("retired")) for one in back] == [("second", None), ("dice", None)]
    assert failed == []
    await fits(database)


async def test_a_series_that_is_retired_after_its_question(database, clock, tmp_path):
    """It was asked on this Monday, so the Monday gets a row, although the series is retired."""
    async with open_series(database, clock, tmp_path, ["main", "second"]) as harness:
        harness.world.model = [Reply(delay=FOR_EVER), *harness.world.model]
        asking = asyncio.create_task(harness.begin(series="second"))
        await harness.provider.request_arrived.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    async with open_series(database, clock, tmp_path, ["main"]) as harness:
        await make_batches(harness)
        retired = (await declared(harness))[-1]
        clock.time = new_york(SECOND)
        await harness.begin()
        missed = await harness.rows(
            "SELECT series, run_date, failure_reason FROM batches WHERE status = 'failed'"
        )
    assert (retired["name"], retired["retired"], retired["holds_from"]) == (
        "second",
        "true",
        str(MONDAY),
    )
    assert missed == [("second", MONDAY, "MISSED")]
    await fits(database)


async def test_a_job_of_a_series_that_is_not_configured(series):
    """The job ends, and asks nothing."""
    await series.begin(series="third")
    assert await series.kinds() == []
    assert series.questions == []


async def test_a_job_of_an_earlier_version_is_of_main(series):
    """Its arguments have no `series`, so it counts for `main` alone."""
    async with series.context.pool.connection() as conn:
        await weekly.defer_run(conn, series.clock.now())
        waiting = {name: await weekly.list_live_jobs(conn, name, MONDAY) for name in NAMES}
    assert [len(waiting[name]) for name in NAMES] == [1, 0, 0]


async def test_questions_are_counted_for_each_series(series):
    """A provider that answers nonsense costs its own series its three questions."""
    series.world.model = [make_completion("no JSON")]
    await series.begin(series="second")
    series.world.model = [make_completion(make_answer("MSFT", "AAPL", "NVDA"))]
    await series.begin()
    second, main = await series.batch(MONDAY, "second"), await series.batch()
    assert second
    assert second.failure_reason == FailureReason.NO_USABLE_ANSWER
    assert main
    assert main.status == BatchStatus.ACTIVE
    counts = await series.rows("SELECT series, count(*) FROM generations GROUP BY 1 ORDER BY 1")
    assert counts == [("main", 1), ("second", 3)]


# --- Controls ---------------------------------------------------------------


async def dice_of(harness) -> tuple[str, list[str]]:
    """Return the hash of the first SERIES entry of dice, and its universe."""
    for entry in await harness.journal():
        content = json.loads(entry.content)
        if content["kind"] == "SERIES" and content["series"]["name"] == "dice":
            return entry.hash, content["series"]["profile"]["universe"]
    raise LookupError


async def test_the_draws_follow_from_the_journal(series):
    """An independent program computes the stored answer from the hash and the universe."""
    await make_batches(series)
    hashed, universe = await dice_of(series)
    ((answer, prompts),) = await series.rows(
        "SELECT answer, system_prompt || user_prompt FROM generations WHERE series = 'dice'"
    )
    assert prompts == ""
    assert answer == drawn(
        first_hash=hashed,
        run_date=str(MONDAY),
        universe=universe,
        benchmark="SPY",
        refused=set(),
    )
    picks = await series.rows(
        "SELECT ticker, action, reasoning, probability FROM picks "
        "WHERE batch_id = %s ORDER BY position",
        batch_id("dice", MONDAY),
    )
    drawn_picks = [one for one in json.loads(answer)["draws"] if "skipped" not in one]
    assert [(ticker, action) for ticker, action, _, _ in picks] == [
        (one["ticker"], one["action"]) for one in drawn_picks
    ]
    assert {(reasoning, probability) for _, _, reasoning, probability in picks} == {
        (control.REASONING, None)
    }


async def test_a_drawn_ticker_that_the_provider_refuses(series, database):
    """It is refused as the answer of a model is, and the next draws skip it."""
    await series.begin()
    hashed, universe = await dice_of(series)
    arguments = {"first_hash": hashed, "run_date": str(MONDAY), "universe": universe}
    first = json.loads(drawn(**arguments, benchmark="SPY", refused=set()))["draws"]
    refused = next(one["ticker"] for one in first if "skipped" not in one)
    series.world.unknown = {refused}
    await series.begin(series="dice")
    answers = await series.rows(
        "SELECT answer, accepted, refusal FROM generations WHERE series = 'dice' ORDER BY attempt"
    )
    assert [accepted for _, accepted, _ in answers] == [False, True]
    assert refused in answers[0][2]
    assert answers[1][0] == drawn(**arguments, benchmark="SPY", refused={refused})
    assert {"ticker": refused, "skipped": "REFUSED"}.items() <= next(
        one for one in json.loads(answers[1][0])["draws"] if one.get("skipped") == "REFUSED"
    ).items()
    await fits(database)


def with_universe(context, *tickers: str):
    """Return the context of a process whose version has another universe."""
    changed = []
    for one in context.in_force.series:
        profile = one.profile
        if one.name == "dice":
            profile = msgspec.structs.replace(profile, universe=tickers)
        changed.append(msgspec.structs.replace(one, profile=profile))
    in_force = msgspec.structs.replace(context.in_force, series=tuple(changed))
    return replace(context, in_force=in_force)


async def test_a_new_universe_holds_after_four_weeks(series, database):
    """It is declared at once, and drawn from on the first Monday after 28 days."""
    await make_batches(series)
    series.context = with_universe(series.context, "AAPL", "BRK.B", "KO", "MSFT")
    universes = {}
    for week in range(1, 6):
        run_date = MONDAY + timedelta(days=7 * week)
        await make_batches(series, run_date)
        ((answer,),) = await series.rows(
            "SELECT answer FROM generations WHERE series = 'dice' AND run_date = %s", run_date
        )
        universes[week] = json.loads(answer)["universe_sha256"]
    before, after = universes[1], universes[5]
    assert before != after
    assert [universes[week] for week in range(1, 6)] == [before] * 4 + [after]
    last = (await declared(series))[-1]
    assert last["holds_from"] == str(MONDAY + timedelta(days=35))


async def test_a_universe_with_too_few_tickers(series, database):
    """Its Monday fails with a reason that says so; the other series are not touched."""
    series.context = with_universe(series.context, "AAPL", "SPY")
    made = await make_batches(series)
    assert made["main"].status == BatchStatus.ACTIVE
    assert made["dice"].status == BatchStatus.FAILED
    assert made["dice"].failure_reason == FailureReason.CONFIGURATION
    assert "The universe has 1 tickers that can be drawn" in made["dice"].failure
    await fits(database)


async def test_two_processes_draw_at_once(series, database):
    """One question and one batch are stored."""
    await series.begin()
    runs = [weekly.run_if_due(series.context, job, None, "dice") for job in (1, 2)]
    await asyncio.gather(*runs)
    ((count,),) = await series.rows("SELECT count(*) FROM generations WHERE series = 'dice'")
    assert count == 1
    await fits(database)


async def test_a_name_of_another_kind(database, clock, tmp_path):
    """A control takes the name of a model: it is refused, and the other series go on."""
    async with open_series(database, clock, tmp_path, ["main", "second"]) as harness:
        await make_batches(harness)
    clock.time = new_york(SECOND)
    path = tmp_path / "another.toml"
    path.write_text(TABLES["main"] + '[second]\nkind = "random"\n')
    async with open_harness(database, clock, SERIES_FILE=str(path)) as harness:
        made = await make_batches(harness, SECOND)
    assert made["main"].status == BatchStatus.ACTIVE
    assert made["second"].failure_reason == FailureReason.CONFIGURATION
    assert "A name lasts" in made["second"].failure
    await fits(database)
