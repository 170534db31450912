"""
The results after costs and the scores of probabilities in the API: arguments, aliases, variables,
caches, and which picks count.
"""

import json

import psycopg
import pytest
from api_records import FACTS, UNRESOLVED, WON, engine_on, plant

from tests.integration.api.test_schema_expressions import query_data
from tests.integration.api.test_schema_track_record import past_the_guards

# The finished picks of the series `main`: those of its first Monday.
ALPHAS = f"""
    SELECT CASE picks.action WHEN 'SELL' THEN -1 ELSE 1 END * metrics.vs_benchmark_pct
    FROM picks
    JOIN batches ON batches.id = picks.batch_id
    JOIN checkpoints ON checkpoints.batch_id = batches.id
    JOIN pick_checkpoint_metrics metrics
        ON metrics.pick_id = picks.id AND metrics.checkpoint_id = checkpoints.id
    WHERE batches.series = 'main' AND batches.run_date = '{WON}'
    ORDER BY checkpoints.day DESC, picks.position LIMIT 3"""


def alphas_of(database: str) -> list[float]:
    with psycopg.connect(database) as conn:
        return [float(alpha) for (alpha,) in conn.execute(ALPHAS)]


def state(database: str, series: str, run_date: object, *probabilities: int | None) -> None:
    """Write a probability for each of the three picks of a Monday."""
    for position, probability in enumerate(probabilities, 1):
        past_the_guards(
            database,
            f"""UPDATE picks SET probability = {"NULL" if probability is None else probability}
            FROM batches WHERE batches.id = picks.batch_id AND series = '{series}'
                AND run_date = '{run_date}' AND position = {position}""",
        )


async def test_aliases_and_variables(database, pool):
    """Each alias has its own costs; literals, variables and defaults of variables work alike."""
    plant(database)
    query = """query($x: Int!, $y: Int! = 15) { trackRecord {
        pickResults { alphaPct { mean } }
        zero: afterCosts(bps: 0) { ...Means } five: afterCosts(bps: $x) { ...Means }
        afterCosts(bps: $y) { __typename ...Means }
        breakEvenBps } }
    fragment Means on AfterCosts { bps costPct mean: meanAlphaPct }"""
    data = (await query_data(pool, query, {"x": 5}))["trackRecord"]
    mean = float(data["pickResults"]["alphaPct"]["mean"])
    assert data["zero"]["mean"] == data["pickResults"]["alphaPct"]["mean"]
    assert float(data["five"]["mean"]) == pytest.approx(mean - 0.1)
    assert float(data["afterCosts"]["mean"]) == pytest.approx(mean - 0.3)
    assert [data[key]["bps"] for key in ("zero", "five", "afterCosts")] == [0, 5, 15]
    assert list(data["afterCosts"]) == ["__typename", "bps", "costPct", "mean"]
    assert float(data["breakEvenBps"]) == pytest.approx(mean * 50)


async def test_other_arguments_are_another_response(database, pool):
    """One plan and one computed track record serve all costs, and each has its own figures."""
    plant(database)
    engine = engine_on(pool)
    query = "query($x: Int!) { trackRecord { afterCosts(bps: $x) { bps meanAlphaPct } } }"
    bodies = {(await engine.execute(query, {"x": bps})).body for bps in (0, 1, 2, 0, 10_000)}
    assert len(bodies) == 4
    literal = [
        (await engine.execute(f"{{ trackRecord {{ afterCosts(bps: {bps}) {{ bps }} }} }}")).body
        for bps in (0, 7)
    ]
    assert [json.loads(body)["data"]["trackRecord"]["afterCosts"]["bps"] for body in literal] == [
        0,
        7,
    ]
    assert engine.value_computer.computed_count == 1


async def test_the_result_is_cacheable(database, pool):
    plant(database)
    result = await engine_on(pool, FACTS).execute(
        "{ trackRecord { afterCosts(bps: 5) { hits } probability { words } } }"
    )
    assert (result.error_code, result.is_cacheable) == (None, True)


@pytest.mark.parametrize("bps", [-1, 10_001, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("way", ["literal", "variable", "alias", "series", "fragment"])
async def test_costs_out_of_range(bps, way, database, pool):
    """They are refused before anything is computed, and the message says what is allowed."""
    plant(database)
    query, variables, path = {
        "literal": (
            f"{{ trackRecord {{ afterCosts(bps: {bps}) {{ hits }} }} }}",
            {},
            "trackRecord",
        ),
        "variable": (
            "query($x: Int!) { trackRecord { afterCosts(bps: $x) { hits } } }",
            {"x": bps},
            "trackRecord",
        ),
        "alias": (
            f"{{ all: trackRecord {{ fine: afterCosts(bps: 5) {{ hits }} "
            f"bad: afterCosts(bps: {bps}) {{ hits }} }} }}",
            {},
            "all",
        ),
        "series": (
            f'{{ seriesNamed(name: "main") {{ trackRecord {{ afterCosts(bps: {bps}) '
            f"{{ hits }} }} }} }}",
            {},
            "seriesNamed",
        ),
        "fragment": (
            f"{{ trackRecord {{ ...C }} }} fragment C on TrackRecord {{ "
            f"afterCosts(bps: {bps}) {{ hits }} }}",
            {},
            "trackRecord",
        ),
    }[way]
    engine = engine_on(pool)
    answer = json.loads((await engine.execute(query, variables)).body)
    (error,) = answer["errors"]
    assert error["message"] == f"`bps` must be 0 to 10,000, not {bps:,}."
    assert (error["extensions"]["code"], error["path"]) == ("BAD_NUMBER", [path])
    assert error["extensions"]["classification"] == "ValidationError"
    assert answer["data"] is None or answer["data"] == {"seriesNamed": None}
    assert engine.value_computer.computed_count == 0


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ("", "GRAPHQL_VALIDATION_FAILED"),
        ("(bps: null)", "GRAPHQL_VALIDATION_FAILED"),
        ("(bps: 1.5)", "GRAPHQL_VALIDATION_FAILED"),
        ('(bps: "5")', "GRAPHQL_VALIDATION_FAILED"),
        ("(bps: 3000000000)", "GRAPHQL_VALIDATION_FAILED"),
        ("(bp: 5)", "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_costs_of_another_type(argument, code, pool):
    answer = await engine_on(pool).execute(
        f"{{ trackRecord {{ afterCosts{argument} {{ bps }} }} }}"
    )
    assert answer.error_code == code


async def test_costs_of_each_series(database, pool):
    """The record of each series in a list has its own figures after costs."""
    plant(database)
    data = await query_data(
        pool,
        "{ series { name trackRecord { pickResults { alphaPct { mean } } "
        "afterCosts(bps: 50) { meanAlphaPct } } } }",
    )
    assert [one["name"] for one in data["series"]] == ["main", "second"]
    for one in data["series"]:
        record = one["trackRecord"]
        assert float(record["afterCosts"]["meanAlphaPct"]) == pytest.approx(
            float(record["pickResults"]["alphaPct"]["mean"]) - 1
        )


async def test_hits_at_the_edge(database, pool):
    """A pick whose alpha is exactly its costs is no hit; with one basis point less it is one."""
    plant(database)
    past_the_guards(
        database,
        """UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = CASE picks.action
            WHEN 'SELL' THEN -1 ELSE 1 END * 0.30
        FROM picks WHERE picks.id = pick_id""",
    )
    query = """{ trackRecord { a: afterCosts(bps: 14) { ...H } b: afterCosts(bps: 15) { ...H }
        c: afterCosts(bps: 16) { ...H } breakEvenBps } }
        fragment H on AfterCosts { hits hitRatePct meanAlphaPct hitRateInterval { low high } }"""
    data = (await query_data(pool, query))["trackRecord"]
    assert [data[key]["hits"] for key in "abc"] == [3, 0, 0]
    assert data["a"]["hitRatePct"] == "100.000000"
    assert data["a"]["hitRateInterval"]["high"] == "100.000000"
    assert data["b"]["hitRateInterval"]["low"] == "0.000000"
    assert float(data["breakEvenBps"]) == 15


async def test_without_a_finished_pick(database, pool):
    """Figures that need a pick are null, and counts are zero."""
    query = f"""{{ trackRecord(from: "{UNRESOLVED}") {{ breakEvenBps probability {{ picks }}
        afterCosts(bps: 5) {{ bps costPct meanAlphaPct medianAlphaPct meanDirectionalReturnPct
            sumPct hits hitRatePct hitRateInterval {{ low }} }} }} }}"""
    plant(database)
    nothing = {
        "breakEvenBps": None,
        "probability": None,
        "afterCosts": {
            "bps": 5,
            "costPct": "0.10",
            "meanAlphaPct": None,
            "medianAlphaPct": None,
            "meanDirectionalReturnPct": None,
            "sumPct": None,
            "hits": 0,
            "hitRatePct": None,
            "hitRateInterval": None,
        },
    }
    assert await query_data(pool, query) == {"trackRecord": nothing}


SCORES = """{ trackRecord%s { probability { picks hits meanStatedPct brierScore
    groups { statedPct picks hits } bins { lowPct picks } words } } }"""


async def test_which_probabilities_count(database, pool):
    """
    Only those of finished picks: picks of an unresolved, a running or a late batch do not count,
    and neither do picks without a probability.
    """
    plant(database)
    assert await query_data(pool, SCORES % "") == {"trackRecord": {"probability": None}}
    state(database, "main", UNRESOLVED, 90, 91, 92)
    assert await query_data(pool, SCORES % "") == {"trackRecord": {"probability": None}}
    state(database, "main", WON, 60, None, 80)
    hits = [alpha > 0 for alpha in alphas_of(database)]
    scores = (await query_data(pool, SCORES % ""))["trackRecord"]["probability"]
    assert (scores["picks"], scores["hits"]) == (2, hits[0] + hits[2])
    assert scores["groups"] == [
        {"statedPct": 60, "picks": 1, "hits": int(hits[0])},
        {"statedPct": 80, "picks": 1, "hits": int(hits[2])},
    ]
    assert float(scores["meanStatedPct"]) == 70
    brier = ((0.6 - hits[0]) ** 2 + (0.8 - hits[2]) ** 2) / 2
    assert float(scores["brierScore"]) == pytest.approx(brier)
    assert [one["picks"] for one in scores["bins"]] == [0, 1, 0, 1, 0]
    assert scores["words"].startswith("Too early")
    past_the_guards(database, f"UPDATE batches SET late = true WHERE run_date = '{WON}'")
    assert await query_data(pool, SCORES % "") == {"trackRecord": {"probability": None}}


async def test_probabilities_of_a_part(database, pool):
    """A part of the record has the scores of its own picks."""
    plant(database)
    state(database, "main", WON, 60, 70, 80)
    with psycopg.connect(database) as conn:
        sells = conn.execute(
            f"""SELECT array_agg(probability) FROM picks JOIN batches ON batches.id = batch_id
            WHERE series = 'main' AND run_date = '{WON}' AND action = 'SELL'"""
        ).fetchone()[0]
    part = (await query_data(pool, SCORES % "(action: SELL)"))["trackRecord"]["probability"]
    assert [one["statedPct"] for one in part["groups"]] == sorted(sells)


async def test_a_damaged_probability(database, pool):
    """A probability that no model may state is damage, and never a figure."""
    plant(database)
    past_the_guards(database, "ALTER TABLE picks DROP CONSTRAINT probability_is_a_percentage")
    state(database, "main", WON, 60, 70, 100)
    answer = json.loads((await engine_on(pool, FACTS).execute(SCORES % "")).body)
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "RECORD_DAMAGED"
    assert "is not from 50 to 99 percent" in error["message"]


async def test_costs_are_cheap_for_many_aliases(database, pool):
    """As many costs as a document may name are answered from one computed track record."""
    plant(database)
    fields = " ".join(
        f"a{bps}: afterCosts(bps: {bps}) {{ meanAlphaPct hits }}" for bps in range(50)
    )
    engine = engine_on(pool)
    answer = json.loads((await engine.execute(f"{{ trackRecord {{ {fields} }} }}")).body)
    means = [float(one["meanAlphaPct"]) for one in answer["data"]["trackRecord"].values()]
    assert means == pytest.approx([means[0] - 0.02 * bps for bps in range(50)])
    assert engine.value_computer.computed_count == 1
