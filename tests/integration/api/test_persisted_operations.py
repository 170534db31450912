"""Every document of `graphql/operations`, on an empty database and on a full one."""

import json
from pathlib import Path

import pytest
from api_records import an_id, engine_on, plant
from graphql import OperationDefinitionNode, parse

FOLDER = Path(__file__).parents[3] / "graphql" / "operations"
# The documents of the pages come last.
FILES = [*sorted(FOLDER.glob("*.graphql")), *sorted(FOLDER.glob("pages/*.graphql"))]
OPERATIONS = {file.stem: file.read_text() for file in FILES}
VARIABLES = {
    "BatchOn": {"runDate": "2026-01-05"},
    "PickStory": {"id": str(an_id(4, 5))},
    "Batches": {"first": 3},
    "Chart": {"runDate": "2026-01-05"},
    "Comparison": {"a": "main", "b": "second"},
    "Export": {"first": 1},
    "Feed": {"first": 1},
    "History": {"first": 3},
    "Monday": {"runDate": "2026-01-05", "before": "2025-12-29", "after": "2026-01-12"},
}

each = pytest.mark.parametrize("name", OPERATIONS)


@each
async def test_on_an_empty_database(name, pool, snapshot):
    """An empty record is no error."""
    answer = await engine_on(pool).execute(OPERATIONS[name], VARIABLES.get(name))
    assert json.loads(answer.body) == snapshot


@each
async def test_on_a_full_database(name, database, pool, snapshot):
    plant(database)
    answer = await engine_on(pool).execute(OPERATIONS[name], VARIABLES.get(name))
    assert json.loads(answer.body) == snapshot


@each
def test_says_what_it_is_for(name):
    """A document is one operation of the file's name, under a comment."""
    operations = [
        node
        for node in parse(OPERATIONS[name]).definitions
        if isinstance(node, OperationDefinitionNode)
    ]
    assert [operation.name.value for operation in operations] == [name]
    assert OPERATIONS[name].startswith("# ")


async def test_pages_are_consecutive(database, pool):
    """Page by page, the history equals the whole of it."""
    plant(database)
    engine = engine_on(pool)
    dates, after = [], None
    while True:
        answer = await engine.execute(OPERATIONS["Batches"], {"first": 3, "after": after})
        page = json.loads(answer.body)["data"]["batches"]
        dates += [batch["runDate"] for batch in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert dates == ["2026-01-26", "2026-01-19", "2026-01-12", "2026-01-05"]
