"""
Further benchmarks: requested once a week, measured when a batch is completed, corrected after a
late split.

The kind: a fortnight with BENCHMARKS=SPY,RSP. Members tried: all goes well; a price is missing, at
the beginning and at the end; the provider does not know the ticker, or is down; no room in the
quota; the setting changes in the middle; a split is listed in the fortnight, and after it; no
service on the first Sunday, on both Sundays; a record that is not sealed.
"""

import asyncio
from datetime import date, timedelta
from decimal import Decimal, localcontext

import msgspec
import pytest
from further_fortnights import RESULT, SUNDAYS, harness_with, live
from independent_verifier.verifier import verify as verify_from_outside
from job_context import MONDAY, JobHarness, allow, new_york, run_attempt
from job_context import clock as clock
from psycopg.conninfo import conninfo_to_dict
from record_server import check_record, record_server
from sealing import unseal

from app.domain.model import FurtherBenchmark
from app.domain.returns import DECIMAL_CONTEXT
from app.errors import Refused
from app.ops.verify import open_api, verify
from app.store import further_benchmarks as store
from jobs import corrections, further_benchmarks, late_splits, reconcile

FRIDAY = MONDAY - timedelta(days=3)
BOTH = {"BENCHMARKS": "SPY,RSP"}


async def rows_of(harness: JobHarness, run_date: date = MONDAY) -> list[FurtherBenchmark]:
    batch = await harness.batch(run_date)
    assert batch
    async with harness.context.pool.connection() as conn:
        return await store.list_of_batch(conn, batch.id)


async def test_a_fortnight(database, clock):
    """The return is that of the closes of both sessions; the record fits."""
    async with harness_with(database, clock, **BOTH) as harness:
        harness.world.closes["RSP", RESULT] = "103.0000"
        await harness.make_batch()
        await live(harness)
        (row,) = await rows_of(harness)
        assert (row.symbol, row.position, row.trading_day) == ("RSP", 1, RESULT)
        assert (row.further_initial_price, row.further_price) == (Decimal(100), Decimal(103))
        assert row.further_return_pct == 3
        assert row.measured_at == new_york(MONDAY + timedelta(days=14))
        assert harness.requested_tickers.count("RSP") == 2
        assert harness.requested_splits.count("RSP") == 2

        newest = (await harness.journal())[-1]
        content = msgspec.json.decode(newest.content)
        assert newest.kind == "EXTENSION"
        assert content["further_benchmark"]["further_return_pct"].rstrip("0") == "3."
        assert [one["trading_day"] for one in content["closes"]] == [str(FRIDAY), str(RESULT)]
        assert content["splits"] == []
        # Nothing is measured twice.
        assert await further_benchmarks.measure_due(harness.context) == 0
    await check_record(database)


QUERY = """{
  latestBatch: batches(first: 1, status: COMPLETED) { nodes {
    furtherBenchmarks {
      symbol position tradingDay initialPrice initialClose { ticker } price close { ticker }
      splitFactor returnPct
    }
    picks {
      action
      result { absoluteReturnPct vsBenchmarks { symbol returnPct vsPct } }
      metrics { vsBenchmarks { symbol } }
    }
  } }
  trackRecord { vsBenchmarks { symbol meanAlphaPct picks } }
}"""


@pytest.mark.long
async def test_the_api(database, clock):
    """Every row, and both comparisons, in the order of the setting; `verify --from` reads it."""
    async with harness_with(database, clock, BENCHMARKS="SPY,RSP,IWM,BRK.B") as harness:
        harness.world.prices |= {"RSP": "33.0000", "IWM": "7.0000"}
        harness.world.closes |= {
            ("RSP", RESULT): "33.0100",
            ("IWM", RESULT): "7.9999",
            ("MSFT", RESULT): "401.2345",
            ("AAPL", RESULT): "199.9999",
        }
        await harness.make_batch()
        await live(harness)
        stored = await rows_of(harness)
        assert [row.symbol for row in stored] == ["RSP", "IWM", "BRK.B"]
    await check_record(database)
    async with record_server(database) as url, open_api(url, asyncio.sleep) as source:
        verified = await verify(source, [], lambda *_: None)
        assert len(verified.state.further_benchmarks) == 3
        assert (await asyncio.to_thread(verify_from_outside, url)).further == 3
        data = await source.query(QUERY, lambda data: data)
    (batch,) = data["latestBatch"]["nodes"]
    shown = batch["furtherBenchmarks"]
    assert [(one["symbol"], one["position"]) for one in shown] == [
        ("RSP", 1),
        ("IWM", 2),
        ("BRK.B", 3),
    ]
    for one, row in zip(shown, stored, strict=True):
        assert one["initialClose"]["ticker"] == one["close"]["ticker"] == row.symbol
        assert Decimal(one["returnPct"]) == row.further_return_pct
        assert one["tradingDay"] == str(RESULT)
    alphas: dict[str, list[Decimal]] = {}
    for pick in batch["picks"]:
        compared = pick["result"]["vsBenchmarks"]
        assert [one["symbol"] for one in compared] == ["RSP", "IWM", "BRK.B"]
        assert [len(one["vsBenchmarks"]) for one in pick["metrics"]] == 9 * [0] + [3]
        for one in compared:
            share = Decimal(pick["result"]["absoluteReturnPct"])
            with localcontext(DECIMAL_CONTEXT):
                excess = share - Decimal(one["returnPct"])
            assert Decimal(one["vsPct"]) == excess
            sign = 1 if pick["action"] == "BUY" else -1
            alphas.setdefault(one["symbol"], []).append(excess * sign)
    averages = data["trackRecord"]["vsBenchmarks"]
    assert [(one["symbol"], one["picks"]) for one in averages] == [
        ("BRK.B", 3),
        ("IWM", 3),
        ("RSP", 3),
    ]
    for one in averages:
        expected = sum(alphas[one["symbol"]], Decimal(0)) / 3
        assert abs(Decimal(one["meanAlphaPct"]) - expected) < Decimal("1e-20")


# The cases: which of the Sundays of a fortnight the service was running.
@pytest.mark.long
@pytest.mark.parametrize("running", [SUNDAYS[:1], SUNDAYS[1:], ()], ids=["first", "second", "none"])
async def test_sundays_without_a_service(database, clock, running):
    """The second Sunday is enough. Otherwise the response of a later Sunday has all closes."""
    async with harness_with(database, clock, **BOTH) as harness:
        await harness.make_batch()
        await live(harness, sundays=running)
        assert len(await rows_of(harness)) == (SUNDAYS[1] in running)
        later = SUNDAYS[1] + timedelta(days=7)
        await live(harness, until=later)
        assert len(await rows_of(harness)) == 1
    await check_record(database)


# The cases: what is missing of the further benchmark. None of it changes anything else.
@pytest.mark.long
@pytest.mark.parametrize(
    "missing",
    ["the baseline", "the result", "both", "the ticker", "its rows", "the quota", "nothing"],
)
async def test_what_is_missing_changes_nothing_else(database, create, clock, missing):
    """The batch, its checkpoints and its figures are those of a record without the setting."""
    figures = {}
    for name, environment in (("without", {}), ("with", BOTH)):
        address = create(conninfo_to_dict(database)["dbname"])
        clock.time = new_york(MONDAY)
        async with harness_with(address, clock, **environment) as harness:
            if missing in ("the baseline", "both"):
                harness.world.absent.add(("RSP", FRIDAY))
            if missing in ("the result", "both"):
                harness.world.absent.add(("RSP", RESULT))
            if missing == "the ticker":
                harness.world.unknown.add("RSP")
            if missing == "its rows":
                harness.world.closes["RSP", FRIDAY] = "abc"
            await harness.make_batch()
            await live(harness, has_room=missing != "the quota")
            figures[name] = await harness.rows(
                "SELECT day, status, trading_day, taken_at, benchmark_return_pct, "
                "array_agg(vs_benchmark_pct ORDER BY vs_benchmark_pct) FROM checkpoints "
                "LEFT JOIN pick_checkpoint_metrics ON checkpoint_id = checkpoints.id "
                "GROUP BY checkpoints.id ORDER BY checkpoint_date, day"
            )
            is_measured = missing == "nothing" and name == "with"
            assert len(await rows_of(harness)) == is_measured
        await check_record(address)
    assert len(figures["with"]) > 15
    assert figures["with"] == figures["without"]


async def test_a_failure_is_repeated_the_next_day(database, clock):
    """The other further benchmark is read in spite of it; each gets its turn."""
    async with harness_with(database, clock, BENCHMARKS="SPY,RSP,IWM") as harness:
        await harness.make_batch()
        harness.world.unknown.add("RSP")
        harness.clock.time = new_york(SUNDAYS[0], 10, 30)
        tomorrow = new_york(SUNDAYS[0] + timedelta(days=1), 10, 30)
        again = await run_attempt(lambda: further_benchmarks.refresh(harness.context, SUNDAYS[0]))
        assert again == tomorrow
        assert harness.requested_tickers == ["RSP", "RSP", "IWM"]
        assert harness.requested_splits == ["IWM"]
        harness.world.unknown.clear()
        harness.provider.requests.clear()
        harness.clock.time = tomorrow
        await further_benchmarks.refresh(harness.context, SUNDAYS[0])
        assert harness.requested_tickers == ["RSP"]
        assert harness.requested_splits == ["RSP"]


async def test_the_quota_comes_first(database, clock):
    async with harness_with(database, clock, **BOTH) as harness:
        await harness.make_batch()
        allow(harness, 12)
        harness.clock.time = new_york(SUNDAYS[0], 10, 30)
        again = await run_attempt(lambda: further_benchmarks.refresh(harness.context, SUNDAYS[0]))
        assert again == new_york(SUNDAYS[0] + timedelta(days=1), 10, 30)
        assert harness.requested_tickers == []
        harness.clock.time = new_york(SUNDAYS[0] + timedelta(days=7), 10, 30)
        await further_benchmarks.refresh(harness.context, SUNDAYS[0])
        assert harness.requested_tickers == []


async def test_each_sunday_has_one_job(database, clock):
    query = "SELECT args ->> 'sunday' FROM procrastinate_jobs WHERE task_name = 'read_benchmarks'"

    async def due(harness: JobHarness, day: date, hour: int = 11) -> list[str]:
        harness.clock.time = new_york(day, hour)
        await reconcile.run_round(harness.context)
        return [sunday for (sunday,) in await harness.rows(f"{query} ORDER BY id")]

    async with harness_with(database, clock, **BOTH) as harness:
        assert await due(harness, SUNDAYS[0]) == []
        await harness.make_batch()
        assert await due(harness, SUNDAYS[0], 10) == []
        assert await due(harness, SUNDAYS[0]) == [str(SUNDAYS[0])]
        assert await due(harness, SUNDAYS[0] + timedelta(days=3)) == [str(SUNDAYS[0])]
        assert await due(harness, SUNDAYS[1]) == [*map(str, SUNDAYS)]


# The cases: what a later Monday's setting is. The batch that exists keeps its further benchmarks.
@pytest.mark.long
@pytest.mark.parametrize("later", ["SPY", "SPY,IWM", "SPY,IWM,RSP"])
async def test_a_setting_that_changes_in_the_middle(database, clock, later):
    async with harness_with(database, clock, **BOTH) as harness:
        await harness.make_batch()
    async with harness_with(database, clock, BENCHMARKS=later) as harness:
        await live(harness, until=MONDAY + timedelta(days=21))
        assert [row.symbol for row in await rows_of(harness)] == ["RSP"]
        second = MONDAY + timedelta(days=7)
        assert [row.symbol for row in await rows_of(harness, second)] == later.split(",")[1:]
    await check_record(database)


async def test_a_setting_that_is_new_has_no_effect_on_old_batches(database, clock):
    async with harness_with(database, clock) as harness:
        await harness.make_batch()
    async with harness_with(database, clock, **BOTH) as harness:
        await live(harness)
        assert await rows_of(harness) == []
        assert harness.requested_tickers.count("RSP") == 2
    await check_record(database)


async def test_a_record_that_is_not_sealed_has_none(database, clock):
    async with harness_with(database, clock) as harness:
        await harness.make_batch()
    unseal(database)
    async with harness_with(database, clock, **BOTH) as harness:
        await live(harness)
        assert await rows_of(harness) == []
        assert "RSP" not in harness.requested_tickers


# The cases: when a split of 2:1 in the fortnight is listed: before it is measured, on a Sunday
# after it, and once more with another factor.
@pytest.mark.parametrize(
    "listed",
    [
        pytest.param("in time", marks=pytest.mark.long),
        "late",
        pytest.param("late, as 4:1 first", marks=pytest.mark.long),
    ],
)
async def test_a_split(database, clock, listed):
    """A split counts. One that is listed late corrects the row, and nothing else."""
    split_day = MONDAY + timedelta(days=8)
    late = SUNDAYS[1] + timedelta(days=7)
    async with harness_with(database, clock, **BOTH) as harness:
        harness.world.prices["RSP"] = "50.0000"
        for days in range(60):
            harness.world.closes["RSP", split_day - timedelta(days=days + 1)] = "100.0000"
        if listed == "in time":
            harness.world.splits["RSP"] = [(split_day, "2.0000")]
        await harness.make_batch()
        await live(harness)
        corrected = 0
        for factor in {"in time": [], "late": ["2.0"], "late, as 4:1 first": ["4.0", "2.0"]}[
            listed
        ]:
            harness.world.splits["RSP"] = [(split_day, factor)]
            await live(harness, until=late)
            late += timedelta(days=7)
            corrected += 1
        (row,) = await rows_of(harness)
        assert (row.further_split_factor, row.further_return_pct) == (2, 0)
        kinds = [entry.kind for entry in await harness.journal() if entry.batch_id == row.batch_id]
        assert kinds.count("CORRECTION") == corrected
        assert kinds.count("EXTENSION") == 1
        stored = await harness.rows(
            "SELECT field, ticker FROM corrections JOIN checkpoints ON checkpoint_id = "
            "checkpoints.id WHERE batch_id = %s ORDER BY made_at, field",
            row.batch_id,
        )
        assert stored == corrected * [
            ("further_return_pct", "RSP"),
            ("further_split_factor", "RSP"),
        ]
    await check_record(database)


@pytest.mark.long
async def test_a_pick_that_is_a_further_benchmark_of_another(database, clock):
    """A late split of a share that is both corrects both in one entry."""
    split_day = MONDAY + timedelta(days=8)
    async with harness_with(database, clock, BENCHMARKS="SPY,MSFT") as harness:
        await harness.make_batch()
        await live(harness)
        harness.world.splits["MSFT"] = [(split_day, "2.0000")]
        batch = await harness.batch()
        assert batch
        await live(harness, until=MONDAY + timedelta(days=20), sundays=())
        harness.clock.time = new_york(MONDAY + timedelta(days=20), 10)
        await late_splits.refresh(harness.context, batch.id, 20)
        (row,) = await rows_of(harness)
        assert (row.further_split_factor, row.further_return_pct) == (2, 100)
    await check_record(database)


async def test_a_reading_of_a_further_benchmark_is_not_corrected(database, clock):
    async with harness_with(database, clock, **BOTH) as harness:
        await harness.make_batch()
        await live(harness)
        for day in (0, 12):
            with pytest.raises(Refused, match="RSP is a further benchmark of 2026"):
                await corrections.adopt(
                    harness.context.pool,
                    now=harness.clock.now(),
                    run_date=MONDAY,
                    day=day,
                    ticker="RSP",
                    reason="The provider has corrected it.",
                    in_force=harness.context.in_force,
                )
