"""
The compiler against plain execution by graphql-core: random operations, the same answer to the last
character.
"""

import json
from base64 import b64encode

import psycopg
import pytest
from api_operations import Operations
from api_records import FACTS, an_id, engine_on, plant
from api_reference import Reference
from graphql import parse, validate

from api.engine import Engine
from api.schema import schema

LEAST = 5_000  # operations of `make test-long`
SEEDS = range(10)


def a_cursor(text: str) -> str:
    return b64encode(text.encode()).decode()


DATES = ["2026-01-05", "2026-01-12", "2026-01-26", "2026-02-02", "0001-01-01"]
PICKS = [str(an_id(4, n)) for n in (1, 4, 7, 10)]
VALUES = {
    "id": [*(str(an_id(3, n)) for n in range(1, 6)), *PICKS, "nope", ""],
    "runDate": [*DATES, "2026-01-06"],
    "series": ["main", "main", "main", "second", "unknown", "a'b$1 %s"],
    "first": [1, 2, 3, 4, 20, 100, 0, 101, -1],
    "after": [
        *map(a_cursor, DATES),
        *(a_cursor(f"2026-01-05 {pick}") for pick in PICKS),
        *map(a_cursor, ["0", "7", "30", "9223372036854775807"]),
        "!!",
        "",
    ],
    "name": ["main", "second", "unknown", ""],
    "profile": ["a" * 64, "b" * 64, "x"],
    "a": ["main", "second", "unknown"],
    "b": ["main", "second"],
    "ticker": ["AAPL", "BRK.B", "KO", "ZZZ", "x"],
    "from": DATES,
    "to": DATES,
    "bps": [0, 1, 5, 15, 10_000, -1, 10_001],
}


def comparable(answer: dict) -> str:
    """
    Return an answer's data in its order, and its errors. A refused request has only the word
    "refused", because its codes are our own.
    """
    if "data" not in answer:
        return "refused"
    errors = [
        (error["path"], error.get("locations"), error["extensions"])
        for error in answer.get("errors", ())
    ]
    return json.dumps([answer["data"], errors])


def refuses_argument_below_the_root(answer: dict) -> bool:
    """
    Return whether a field of a series, or a part of a computed value, has a refused argument.

    The engine checks arguments before it reads rows, and reports the field of the root.
    graphql-core reports the error once for each row, so not at all if there is no row; and for a
    part of a value, it reports the path of the part.
    """
    return any(
        error["extensions"]["code"] == "BAD_NUMBER"
        or (
            error["extensions"]["code"] != "RECORD_DAMAGED"
            and error.get("path")
            and error["path"][0].endswith(("series", "seriesNamed"))
        )
        for error in answer.get("errors", ())
    )


async def compare(database: str, engine: Engine, seed: int, count: int) -> tuple[int, int]:
    """
    Compare the answers to `count` operations. Return how many operations, and how many answers.
    """
    operations = Operations(schema, VALUES, seed)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        reference = Reference(schema, conn, FACTS)
        compared = answers = 0
        while compared < count:
            query, variables, name = operations.make()
            if validate(schema, parse(query)):
                continue
            before = answers
            for turn in range(3 if variables or len(operations.names) > 1 else 1):
                sent = operations.again(variables) if turn else variables
                name = operations.another(name) if turn else name
                answer = json.loads((await engine.execute(query, sent, name)).body)
                if "the limit is" in str(answer.get("errors")):  # graphql-core has none
                    continue
                if refuses_argument_below_the_root(answer):
                    continue
                expected = await reference.execute(query, sent, name)
                assert comparable(answer) == comparable(expected), (query, sent, name)
                answers += 1
            compared += answers > before
    return compared, answers


@pytest.mark.parametrize("seed", range(2))
async def test_on_an_empty_database(seed, database, pool):
    await compare(database=database, engine=engine_on(pool), seed=seed, count=30)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.sampled(1)
async def test_on_a_full_database(seed, database, pool):
    plant(database)
    await compare(database=database, engine=engine_on(pool), seed=100 + seed, count=80)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
async def test_thousands(seed, database, pool, record_property):
    """The last lines of the output say how many operations there were."""
    if seed % 5:
        plant(database)
    compared, answers = await compare(
        database=database, engine=engine_on(pool), seed=1000 + seed, count=LEAST // len(SEEDS)
    )
    assert compared * len(SEEDS) >= LEAST
    record_property("operations compared with graphql-core", compared)
    record_property("answers compared with graphql-core", answers)
