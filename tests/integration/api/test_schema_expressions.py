"""What the API computes: the expected value of every case was computed manually."""

import json
from datetime import date, datetime

import psycopg
import pytest
from api_records import UNRESOLVED, WON, Record, an_id, engine_on, plant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import schema
from app.domain.calendar import checkpoint_date
from app.domain.model import BatchStatus
from app.domain.returns import measure_returns
from tests.unit.domain.test_splits import exact, prices

COMPUTED = {
    "trading_day": date(2020, 1, 3),
    "benchmark_price": 1,
    "benchmark_split_factor": 1,
    "benchmark_return_pct": 0,
}
AT = datetime.fromisoformat("2026-03-01T12:00:00Z")


def a_fortnight(
    database: str, mornings: str, status: str = "completed", run_date: date = WON, **metric: object
) -> None:
    """
    Store one batch whose first pick is a SELL; a letter stands for each morning from day 1 on.

    c computed, l computed later, x closed, m missing, - not there. A metric's return is its day,
    unless the arguments say otherwise.
    """
    with psycopg.connect(database) as conn:
        record = Record(conn)
        batch, picks = record.batch(
            "main", run_date, BatchStatus(status), "AAPL SELL, KO BUY, XOM BUY"
        )
        reading = record.closes["SPY", batch.trading_day].id
        for day, morning in enumerate(mornings, 1):
            if morning == "-":
                continue
            reason = {"x": "MARKET_CLOSED", "m": "MISSING_CLOSE", "l": "MISSING_CLOSE", "c": None}[
                morning
            ]
            computed = morning in "cl"
            row = record.next(5)
            record.add(
                "checkpoints", id=row, batch_id=batch.id, day=day,
                checkpoint_date=checkpoint_date(run_date, day),
                taken_at=AT, status="computed" if computed else "skipped", skip_reason=reason,
                skipped_at=AT if reason else None,
                **(COMPUTED | {"benchmark_close_id": reading} if computed else {}),
            )  # fmt: skip
            for pick in picks if computed else []:
                figures = {"absolute_return_pct": day, "vs_benchmark_pct": day, **metric}
                record.add(
                    "pick_checkpoint_metrics", id=record.next(6), checkpoint_id=row,
                    pick_id=pick.id, current_price=1,
                    close_id=reading, split_factor=1, unusual_move=False, ended=False, **figures,
                )  # fmt: skip


async def query_data(pool, query: str, variables: dict | None = None):
    """Return the data of a query, after checking that it has no errors."""
    answer = json.loads((await engine_on(pool).execute(query, variables)).body)
    assert "errors" not in answer
    return answer["data"]


@pytest.mark.parametrize(
    ("position", "absolute", "excess", "directional", "alpha", "hit"),
    [
        pytest.param(1, "12.5", "2.5", "12.5", "2.5", True, id="BUY that beat the benchmark"),
        pytest.param(1, "3", "-1", "3", "-1", False, id="BUY that rose, but less than the "
            "benchmark"),
        pytest.param(1, "-3", "0.5", "-3", "0.5", True, id="BUY that fell, but less than the "
            "benchmark"),
        pytest.param(1, "0.00", "0.00", "0.00", "0.00", False, id="BUY that did nothing"),
        pytest.param(0, "-4.25", "-6.5", "4.25", "6.5", True, id="SELL that fell"),
        pytest.param(0, "8", "5.75", "-8", "-5.75", False, id="SELL that rose"),
        pytest.param(0, "1", "-0.1", "-1", "0.1", True, id="SELL that rose less than the "
            "benchmark"),
        pytest.param(0, "0", "0.00", "0", "0.00", False, id="SELL that did nothing"),
        pytest.param(0, "0.1234567890123456789012345678", "-9876543210.000000000000000001",
                     "-0.1234567890123456789012345678", "9876543210.000000000000000001", True,
                     id="to the last digit"),
        pytest.param(1, "0.0000000000000000000000000001", "0.0000000000000000000000000001",
                     "0.0000000000000000000000000001", "0.0000000000000000000000000001", True,
                     id="in plain notation"),
    ],
)  # fmt: skip
async def test_the_action_turns_returns(
    position, absolute, excess, directional, alpha, hit, database, pool
):
    """A SELL earns what the share loses; a call is a hit if its alpha is above zero."""
    a_fortnight(database, "c", "active", absolute_return_pct=absolute, vs_benchmark_pct=excess)
    query = """{ latestBatch { picks { latestMetric {
        absoluteReturnPct vsBenchmarkPct directionalReturnPct alphaPct hit } } } }"""
    data = await query_data(pool, query)
    assert data["latestBatch"]["picks"][position]["latestMetric"] == {
        "absoluteReturnPct": absolute,
        "vsBenchmarkPct": excess,
        "directionalReturnPct": directional,
        "alphaPct": alpha,
        "hit": hit,
    }


@pytest.mark.parametrize(
    ("mornings", "status", "result", "latest"),
    [
        pytest.param("cccccxxcccccxx", "completed", 12, 12, id="the last session is day 12's"),
        pytest.param("cccccxxccccxxx", "completed", 11, 11, id="a holiday on the last Friday"),
        pytest.param(
            "cccccxxccccmxx",
            "completed",
            None,
            11,
            id="the last one is missing: no earlier day stands in",
        ),
        pytest.param(
            "cccccxxccccmxc", "completed", 14, 14, id="what is computed after a missing one counts"
        ),
        pytest.param(
            "cccccxxcccclxx", "completed", 12, 12, id="the last one was skipped, and computed later"
        ),
        pytest.param("mmmmmxxmmmmcxx", "completed", 12, 12, id="only the last one"),
        pytest.param("mmmmmxxmmmmmxx", "completed", None, None, id="none at all"),
        pytest.param("xxxxxxxxxxxxxx", "completed", None, None, id="closed for a fortnight"),
        pytest.param("cccccxxccccc-x", "active", None, 12, id="still open"),
        pytest.param("", "active", None, None, id="only the baseline"),
    ],
)
async def test_result_and_latest(mornings, status, result, latest, database, pool):
    """
    The result is the checkpoint of the last session before day 14, once all are there; day 0 is
    never the latest.
    """
    a_fortnight(database, mornings, status)
    query = """{ latestBatch {
        result { day } latestCheckpoint { day }
        picks { result { checkpoint { day } } latestMetric { absoluteReturnPct } } } }"""
    batch = (await query_data(pool, query))["latestBatch"]
    assert batch == {
        "result": result and {"day": result},
        "latestCheckpoint": latest and {"day": latest},
        "picks": [
            {
                "result": result and {"checkpoint": {"day": result}},
                "latestMetric": latest and {"absoluteReturnPct": str(latest)},
            }
        ]
        * 3,
    }


@pytest.mark.parametrize(
    ("run_date", "mornings", "status", "expected"),
    [
        pytest.param("2026-01-05", "", "active", "2026-01-06T14:00:00.000000Z", id="the first"),
        pytest.param(
            "2026-01-05", "ccc-c", "active", "2026-01-09T14:00:00.000000Z", id="a gap comes first"
        ),
        pytest.param(
            "2026-01-05", "cccccxxcccccx", "active", "2026-01-19T14:00:00.000000Z", id="the last"
        ),
        pytest.param("2026-01-05", "cccccxxcccccxx", "active", None, id="all are there"),
        pytest.param("2026-01-05", "cccccxxcccccxx", "completed", None, id="completed"),
        pytest.param(
            "2026-03-02",
            "cccc",
            "active",
            "2026-03-07T14:00:00.000000Z",
            id="before the clocks go forward",
        ),
        pytest.param(
            "2026-03-02",
            "ccccc",
            "active",
            "2026-03-08T13:00:00.000000Z",
            id="the day they go forward",
        ),
        pytest.param(
            "2026-10-26",
            "cccc",
            "active",
            "2026-10-31T13:00:00.000000Z",
            id="before the clocks go back",
        ),
        pytest.param(
            "2026-10-26",
            "ccccc",
            "active",
            "2026-11-01T14:00:00.000000Z",
            id="the day they go back",
        ),
    ],
)
async def test_next_checkpoint_at(run_date, mornings, status, expected, database, pool):
    """
    It is nine in New York on the first morning without a checkpoint, in summer and in winter, and
    only of an active batch.
    """
    a_fortnight(
        database=database, mornings=mornings, status=status, run_date=date.fromisoformat(run_date)
    )
    assert await query_data(pool, "{ latestBatch { nextCheckpointAt } }") == {
        "latestBatch": {"nextCheckpointAt": expected}
    }


async def test_a_failed_monday(database, pool):
    """It has a reason, and no picks or checkpoints."""
    plant(database)
    query = """{ batchOn(runDate: "2026-01-19") {
        status failureReason failure late tradingDay benchmarkInitialPrice nextCheckpointAt
        picks { id } checkpoints { id } result { id } latestCheckpoint { id } generations { attempt
        accepted } } }"""
    assert (await query_data(pool, query))["batchOn"] == {
        "status": "FAILED", "failureReason": "PROVIDER_ERROR", "failure": 'The model said "429".',
        "late": True,
        "tradingDay": None, "benchmarkInitialPrice": None, "nextCheckpointAt": None,
        "picks": [], "checkpoints": [], "result": None, "latestCheckpoint": None,
        "generations": [{"attempt": 1, "accepted": None}],
    }  # fmt: skip


async def test_orders(database, pool):
    """
    Picks and metrics have the model's order, checkpoints are by day, corrections by time, and
    entries by number.
    """
    plant(database)
    query = """{
        latestBatch { picks { ticker } checkpoints { day metrics { pick { ticker } } } }
        batchOn(runDate: "2026-01-05") {
            checkpoints { corrections { field } } generations { attempt } journal { seq }
            picks { metrics { checkpoint { day } } } } }"""
    data = await query_data(pool, query)
    latest, won = data["latestBatch"], data["batchOn"]
    assert [pick["ticker"] for pick in latest["picks"]] == ["AAPL", "BRK.B", "XOM"]
    assert [checkpoint["day"] for checkpoint in latest["checkpoints"]] == [0, 1, 2, 3, 5]
    assert [metric["pick"]["ticker"] for metric in latest["checkpoints"][1]["metrics"]] == [
        "AAPL",
        "BRK.B",
        "XOM",
    ]
    assert [correction["field"] for correction in won["checkpoints"][3]["corrections"]] == [
        "note",
        "benchmark_price",
    ]
    assert [generation["attempt"] for generation in won["generations"]] == [1, 2]
    assert [int(entry["seq"]) for entry in won["journal"]] == list(range(1, 20))
    assert [metric["checkpoint"]["day"] for metric in won["picks"][0]["metrics"]] == [
        1,
        2,
        3,
        5,
        8,
        9,
        10,
        11,
        12,
    ]


async def test_picks_of_two_series_on_one_day(database, pool):
    """Neither is lost between two pages: the cursor has run date and id."""
    plant(database)
    seen, after = [], "null"
    while after:
        query = f"""{{ picks(ticker: "AAPL", first: 1, after: {after}) {{
            nodes {{ batch {{ series runDate }} }} pageInfo {{ hasNextPage hasPreviousPage endCursor
            }} }} }}"""
        page = (await query_data(pool, query))["picks"]
        assert page["pageInfo"]["hasPreviousPage"] == bool(seen)
        seen += [(node["batch"]["runDate"], node["batch"]["series"]) for node in page["nodes"]]
        after = f'"{page["pageInfo"]["endCursor"]}"' if page["pageInfo"]["hasNextPage"] else None
    assert seen == [
        ("2026-01-26", "main"),
        (str(UNRESOLVED), "main"),
        (str(WON), "second"),
        (str(WON), "main"),
    ]


async def test_a_page_beyond_the_end(database, pool):
    """It is empty, and `hasPreviousPage` is true."""
    plant(database)
    data = await query_data(
        pool,
        '{ journal(after: "OTk5OQ==") { nodes { seq } edges { cursor } pageInfo { '
        "hasNextPage hasPreviousPage startCursor endCursor } } }",
    )
    assert data["journal"] == {
        "nodes": [],
        "edges": [],
        "pageInfo": {
            "hasNextPage": False,
            "hasPreviousPage": True,
            "startCursor": None,
            "endCursor": None,
        },
    }


async def test_filters(database, pool):
    plant(database)
    query = """{
        failed: batches(status: FAILED) { nodes { runDate } }
        second: batches(series: "second") { nodes { runDate } }
        ended: journal(kind: PICK_ENDED) { nodes { kind } pageInfo { hasNextPage } }
        unresolved: batchOn(runDate: "2026-01-12") { checkpoints(status: SKIPPED) { day skipReason }
        } }"""
    closed = [{"day": day, "skipReason": "MARKET_CLOSED"} for day in (6, 7, 8, 13, 14)]
    assert await query_data(pool, query) == {
        "failed": {"nodes": [{"runDate": "2026-01-19"}]},
        "second": {"nodes": [{"runDate": "2026-01-05"}]},
        "ended": {"nodes": [{"kind": "PICK_ENDED"}], "pageInfo": {"hasNextPage": False}},
        "unresolved": {
            "checkpoints": [*closed[:3], {"day": 12, "skipReason": "MISSING_CLOSE"}, *closed[3:]]
        },
    }


async def test_service(pool, database):
    """The facts of the process, and the journal's head."""
    plant(database)
    data = await query_data(pool, "{ service { version rehearsed nextRunAt journalHead { seq } } }")
    assert data["service"] == {
        "version": "1.2.3",
        "rehearsed": True,
        "nextRunAt": "2026-02-02T14:00:00.000000Z",
        "journalHead": {"seq": "56"},
    }


async def test_a_selection_of_more_than_postgres_takes_at_once(database, pool):
    """Postgres' `concat` takes a hundred arguments: two for each of these fields."""
    plant(database)
    many = (
        " ".join(f"a{n}: runDate b{n}: late" for n in range(25))
        + " id series status failure benchmarkSymbol"
    )
    batch = (await query_data(pool, f'{{ batch(id: "{an_id(3, 1)}") {{ {many} }} }}'))["batch"]
    assert (len(batch), batch["a24"], batch["b0"]) == (55, "2026-01-05", False)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(initial=prices, current=prices, factor=exact, benchmark=st.decimals(-100, 1000, places=26))
def test_directional_figures_mirror(database, initial, current, factor, benchmark):
    """
    A BUY and a SELL of the same share have the same two figures, and opposite ones in their
    direction.
    """
    measured = measure_returns(
        initial=initial, current=current, factor=factor, benchmark_return_pct=benchmark
    )
    fields = {
        field.python_name: field.metadata["source"]
        for field in schema.PickMetric.__strawberry_definition__.fields
    }
    with psycopg.connect(database) as conn:
        buy, sell = conn.execute(
            f"""
            WITH picks (id, action) AS (VALUES (1, 'BUY'), (2, 'SELL')),
                pick_checkpoint_metrics (pick_id, absolute_return_pct, vs_benchmark_pct) AS (
                    SELECT id, %s::numeric, %s::numeric FROM picks)
            SELECT {fields["directional_return_pct"].sql},
                {fields["alpha_pct"].sql},
                {fields["hit"].sql}
            FROM pick_checkpoint_metrics
            ORDER BY pick_id
            """,
            (measured.absolute_return_pct, measured.vs_benchmark_pct),
        ).fetchall()
    assert buy[:2] == (measured.absolute_return_pct, measured.vs_benchmark_pct)
    assert sell[:2] == (-buy[0], -buy[1])
    assert (buy[2], sell[2]) == (buy[1] > 0, buy[1] < 0)
