"""
The SQL that selections are compiled to: one statement for each operation, which uses the indexes
when there are years of rows.
"""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from api_records import FACTS, an_id, plant_years
from graphql.execution.values import VariableValues

from api.engine import Engine
from api.schema import schema


@pytest.fixture(scope="module")
def years(create, migrated) -> str:
    """Return the address of a database with eight hundred batches and all that belongs to them."""
    address = create(psycopg.conninfo.conninfo_to_dict(migrated)["dbname"])
    plant_years(address)
    return address


async def nowhere(sql, parameters):
    """Stand in for the database: these tests examine statements, and not results."""
    return [b"null"]


def statement(query: str) -> tuple[str, list[str | None]]:
    """Return the one statement that a query is compiled to, and its parameters."""
    plan = Engine(schema, nowhere, FACTS).own_plans(query, None, ())
    values = plan.parameter_values(VariableValues({}, {}), FACTS)
    assert values.errors == {}
    return plan.sql, values.parameters


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def explained(
    address: str, sql: str, parameters: list[str | None], mode: str
) -> list[dict[str, Any]]:
    """
    Return the nodes of a prepared statement's plan, which is made for these parameters (custom) or
    for any (generic).
    """
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute(f"SET plan_cache_mode = force_{mode}_plan")
        conn.execute("SET jit = off")
        conn.execute(f"PREPARE compiled AS {sql}".encode())
        values = ", ".join("NULL" if value is None else f"'{value}'" for value in parameters)
        (plan,) = conn.execute(
            f"EXPLAIN (FORMAT JSON) EXECUTE compiled{f'({values})' if values else ''}".encode()
        ).fetchone()
        return list(nodes(plan[0]["Plan"]))


READS = {
    "the latest batch": (
        "{ latestBatch { id } }",
        {"one_batch_per_run_date"},
    ),
    "a batch": (f'{{ batch(id: "{an_id(3, 1)}") {{ id }} }}', {"batches_pkey"}),
    "a Monday": ('{ batchOn(runDate: "2004-01-05") { id } }', {"one_batch_per_run_date"}),
    "the history": (
        '{ batches(after: "MjAwNC0wMS0wNQ==") { nodes { id } pageInfo { hasNextPage '
        'hasPreviousPage } } }',
        {"one_batch_per_run_date"},
    ),
    "a pick": (f'{{ pick(id: "{an_id(4, 1)}") {{ id }} }}', {"picks_pkey"}),
    "a share's picks": (
        '{ picks(ticker: "AB") { nodes { id batch { runDate } } pageInfo { hasNextPage } } }',
        {"picks_by_ticker", "batches_pkey"},
    ),
    "the journal": ('{ journal(after: "OTk5") { nodes { seq } pageInfo { hasNextPage } } }',
        {"journal_pkey"}),
    "the failed Mondays": ("{ batches(status: FAILED) { nodes { id } } }", {"batches_by_status"}),
    "the journal's head": ("{ service { journalHead { seq } } }", {"journal_pkey"}),
    "a batch in full": (
        """{ latestBatch {
            nextCheckpointAt
            picks { initialClose { id } metrics { id close { id } } latestMetric { alphaPct } result
            { hit } }
            checkpoints { metrics { hit pick { id } } corrections { id } } latestCheckpoint { id }
            result { id }
            generations { id } journal { seq } } }""",
        {"one_batch_per_run_date", "one_pick_per_position", "one_checkpoint_per_day",
            "metrics_by_pick",
         "one_metric_per_pick_and_checkpoint", "closes_pkey", "corrections_by_checkpoint",
         "journal_by_batch",
         "one_generation_per_attempt", "picks_pkey", "checkpoints_pkey"},
    ),
    "batches, picks and results": (
        "{ batches { nodes { picks { ticker result { alphaPct } } latestCheckpoint { day } result "
        "{ day } } } }",
        {"one_batch_per_run_date", "one_checkpoint_per_day"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("read", READS)
def test_reads_are_on_their_indexes(read, mode, years):
    """
    No table is read from end to end, whether the plan is made for these parameters or for any.
    """
    query, expected = READS[read]
    plan = explained(years, *statement(query), mode)
    assert [node for node in plan if node["Node Type"] == "Seq Scan"] == []
    used = {node["Index Name"] for node in plan if "Index Name" in node}
    assert expected - ALIKE.get(read, set()) <= used
    assert not any(node["Node Type"] == "Sort" and node["Plan Rows"] > 1000 for node in plan)


# Postgres may choose another index that serves as well.
ALIKE = {
    "a batch in full": {
        "one_pick_per_position",
        "metrics_by_pick",
        "one_metric_per_pick_and_checkpoint",
    }
}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    ("query", "index", "condition"),
    [
        pytest.param(READS["the history"][0], "one_batch_per_run_date", "run_date <", id="batches"),
        pytest.param(READS["the journal"][0], "journal_pkey", "seq >", id="journal"),
    ],
)
def test_a_cursor_is_an_index_condition(query, index, condition, mode, years):
    """A later page costs no more than the first: rows before the cursor are not read."""
    plan = explained(years, *statement(query), mode)
    conditions = [node["Index Cond"] for node in plan if node.get("Index Name") == index]
    assert any(condition in text for text in conditions)
    assert not any(condition in node.get("Filter", "") for node in plan)


def test_values_are_never_part_of_the_statement():
    """A client's values are sent as parameters."""
    query = (
        '{ batches(first: 7, series: "second") { nodes { id } } picks(ticker: "BRK.B") { '
        "nodes { id } } }"
    )
    sql, parameters = statement(query)
    assert "second" not in sql
    assert "BRK.B" not in sql
    assert parameters == ["7", "second", "20", "BRK.B"]


@pytest.mark.parametrize("text", ["o'clock", "$1", "%s", "'; DROP TABLE batches --", "\\"])
@pytest.mark.parametrize(
    ("field", "code"),
    [("batches(series: $text)", "BAD_SERIES"), ("picks(ticker: $text)", "BAD_TICKER")],
)
async def test_what_no_value_can_be_is_never_sent(text, field, code):
    """A text that is no series or no ticker is refused before a statement is executed."""
    sent = []

    async def fetch(sql, parameters):
        sent.append(parameters)
        return []

    query = f"query($text: String!) {{ {field} {{ nodes {{ id }} }} }}"
    answer = json.loads((await Engine(schema, fetch, FACTS).execute(query, {"text": text})).body)
    assert (sent, answer["data"], answer["errors"][0]["extensions"]["code"]) == ([], None, code)


async def test_a_plan_is_reused_for_other_variables():
    """
    Only the variables of directives, enums, and whether a variable is null cause another plan.
    """

    engine = Engine(schema, nowhere, FACTS)
    query = (
        "query($s: String!, $more: Boolean!) { latestBatch(series: $s) { id runDate "
        "@include(if: $more) } }"
    )
    for series in ("main", "second", "main"):
        for more in (True, False):
            await engine.execute(query, {"s": series, "more": more})
    assert (engine.own_plans.cache_info().misses, engine.own_documents.cache_info().misses) == (
        2,
        1,
    )
    query = (
        "query($status: BatchStatus, $after: String) { batches(status: $status, after: "
        "$after) { nodes { id } } }"
    )
    for variables in (
        {},
        {"status": None},
        {"status": "ACTIVE"},
        {"status": "FAILED"},
        {"after": "MjAwNC0wMS0wNQ=="},
    ):
        await engine.execute(query, variables)
    assert (engine.own_plans.cache_info().misses, engine.own_documents.cache_info().misses) == (
        6,
        2,
    )


def test_the_statement(snapshot):
    """The snapshot shows one statement in full."""
    sql, parameters = statement("{ latestBatch { runDate picks { ticker action } } }")
    assert (sql, parameters) == snapshot


async def test_memory_is_bounded():
    """Only the documents and plans of the last few hundred operations are cached."""

    engine = Engine(schema, nowhere, FACTS, max_documents=8)
    for n in range(30):
        await engine.execute(f"{{ a{n}: latestBatch {{ id }} }}")
    assert engine.own_plans.cache_info().currsize == engine.own_documents.cache_info().currsize == 8
    assert json.loads((await engine.execute("{ a1: latestBatch { id } }")).body) == {
        "data": {"a1": None}
    }
