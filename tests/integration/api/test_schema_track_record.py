"""
The track record in the API: which rows it counts, how its fields are selected, and what it may
cost.
"""

import asyncio
import json
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import structlog
from api_records import FACTS, UNRESOLVED, WON, engine_on, plant
from graphql import GraphQLError, GraphQLInt, GraphQLList, GraphQLNonNull
from msgspec.structs import replace

from api import compiler, computed_values
from api.computed_values import ValueComputer
from api.fields import Computed
from app.domain import track_record
from tests.integration.api.test_schema_expressions import a_fortnight, query_data


def past_the_guards(database: str, statement: str) -> None:
    """Change a record with its triggers off."""
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(statement)


WEEKS = """{ trackRecord {
    batches { scored unresolved late active } picks { finished }
    weeklyExcess { withoutMiddle weeks { monday excessPct } } } }"""


@pytest.mark.parametrize(
    ("mornings", "status", "finished", "weeks", "left_out"),
    [
        pytest.param(
            "cccccxxcccccxx",
            "completed",
            3,
            ["1." + "6" * 26 + "7", "2." + "3" * 27],
            0,
            id="whole weeks",
        ),
        pytest.param(
            "ccccxxxcccccxx",
            "completed",
            3,
            ["1." + "3" * 27, "2." + "6" * 26 + "7"],
            0,
            id="Good Friday",
        ),
        pytest.param(
            "cccccxxccccxxx",
            "completed",
            3,
            ["1." + "6" * 26 + "7", "2"],
            0,
            id="the second Friday closed",
        ),
        pytest.param(
            "cccclxxcccccxx",
            "completed",
            3,
            ["1." + "6" * 26 + "7", "2." + "3" * 27],
            0,
            id="a late middle",
        ),
        pytest.param(
            "ccccmxxcccccxx", "completed", 3, [], 1, id="no middle: no earlier day stands in"
        ),
        pytest.param("xxxxxxxcccccxx", "completed", 3, [], 1, id="a week without sessions"),
        pytest.param(
            "cccccxxxxxxxxx",
            "completed",
            3,
            ["1." + "6" * 26 + "7", "0"],
            0,
            id="nothing after the middle",
        ),
        pytest.param("cccccxxccccmxx", "completed", 0, [], 0, id="unresolved"),
        pytest.param("xxxxxxxxxxxxxx", "completed", 0, [], 0, id="closed for a fortnight"),
        pytest.param("cccccxxccccc-x", "active", 0, [], 0, id="still open"),
    ],
)
async def test_middle_and_result(mornings, status, finished, weeks, left_out, database, pool):
    """
    A pick's return is the day's number, for a SELL, a BUY and a BUY; the benchmark does nothing.

    So in the first week they add a third of the middle's day (5 or 4), in the second a third of the
    days from there to the result's (12 or 11).
    """
    a_fortnight(database, mornings, status)
    data = (await query_data(pool, WEEKS))["trackRecord"]
    assert data["picks"] == {"finished": finished}
    assert data["batches"] == {
        "scored": finished // 3, "unresolved": int(status == "completed" and not finished),
        "late": 0,
        "active": int(status == "active"),
    }  # fmt: skip
    assert data["weeklyExcess"] == {
        "withoutMiddle": left_out,
        "weeks": [
            {"monday": str(WON + n * timedelta(weeks=1)), "excessPct": excess}
            for n, excess in enumerate(weeks)
        ],
    }


async def test_late(database, pool):
    """A late batch is counted, and never scored."""
    a_fortnight(database, "cccccxxcccccxx")
    past_the_guards(database, "UPDATE batches SET late = true")
    data = (await query_data(pool, WEEKS))["trackRecord"]
    assert data["batches"] == {"scored": 0, "unresolved": 0, "late": 1, "active": 0}
    assert data["picks"] == {"finished": 0}


async def test_an_ended_pick_counts_with_its_last_value(database, pool):
    """
    Its stored figures count: two of `second`'s three picks have figures as if they had not ended.
    """
    plant(database)
    query = """{ trackRecord(series: "second") { picks { finished } best { ticker alphaPct } }
        batchOn(runDate: "2026-01-05", series: "second") { picks { ticker ended result { alphaPct }
        } } }"""
    data = await query_data(pool, query)
    alphas = {pick["ticker"]: pick["result"]["alphaPct"] for pick in data["batchOn"]["picks"]}
    assert [pick["ticker"] for pick in data["batchOn"]["picks"] if pick["ended"]] == ["XOM"]
    assert data["trackRecord"]["picks"] == {"finished": 3}
    best = max(alphas, key=lambda ticker: float(alphas[ticker]))
    assert data["trackRecord"]["best"] == {"ticker": best, "alphaPct": alphas[best]}


@pytest.mark.parametrize(
    ("arguments", "total", "picks", "finished"),
    [
        pytest.param("", 4, 9, 3, id="the series"),
        pytest.param('(from: "2026-01-05", to: "2026-01-05")', 1, 3, 3, id="one Monday"),
        pytest.param('(from: "2026-01-06")', 3, 6, 0, id="from"),
        pytest.param('(to: "2026-01-18")', 2, 6, 3, id="to"),
        pytest.param("(action: SELL)", 4, 4, 1, id="action"),
        pytest.param('(series: "second")', 1, 3, 3, id="another series"),
        pytest.param(
            '(from: "0001-01-01", to: "9999-12-31", action: BUY)', 4, 5, 2, id="all three"
        ),
        pytest.param("(from: null, to: null, action: null)", 4, 9, 3, id="nulls do not count"),
    ],
)
async def test_parts(arguments, total, picks, finished, database, pool):
    """A part counts only its own batches, and has words in place of a verdict."""
    plant(database)
    query = (
        f"{{ trackRecord{arguments} {{ batches {{ total }} picks {{ total finished }} verdict "
        f"{{ words }} }} }}"
    )
    data = (await query_data(pool, query))["trackRecord"]
    assert (data["batches"]["total"], data["picks"]) == (
        total,
        {"total": picks, "finished": finished},
    )
    part = arguments and "series" not in arguments and "null" not in arguments
    assert data["verdict"]["words"].startswith("Only the whole series") == bool(part)


async def test_a_range_that_ends_before_it_begins(pool):
    answer = await engine_on(pool).execute(
        '{ trackRecord(from: "2026-02-02", to: "2026-01-05") { series } }'
    )
    (error,) = json.loads(answer.body)["errors"]
    assert error["message"] == "`to` must not be before `from`: 2026-01-05 is before 2026-02-02."
    assert (error["extensions"]["code"], error["path"]) == ("BAD_RANGE", ["trackRecord"])
    assert json.loads(answer.body)["data"] is None


async def test_what_is_selected(database, pool):
    """Aliases, fragments, `@skip`, `__typename` and merged fields work as usual, in order."""
    plant(database)
    query = """query($no: Boolean = false) {
        __typename
        z: trackRecord { picks { hits } ...More picks { __typename all: total hits @skip(if: true) }
        }
        latestBatch { runDate }
        trackRecord(from: "2026-03-02") {
            best { ticker } gone: series @include(if: $no) verdict { finding @skip(if: true) } curve
            { runDate } }
    }
    fragment More on TrackRecord {
        kind: __typename best { a: action, ticker ... on PickScore { runDate } }
        weeklyExcess { weeks { picks __typename } }
    }"""
    data = await query_data(pool, query)
    week = {"picks": 3, "__typename": "Week"}
    assert list(data.items()) == [
        ("__typename", "Query"),
        ("z", {
            "picks": {"hits": 3, "__typename": "PickCounts", "all": 9}, "kind": "TrackRecord",
            "best": {"a": "BUY", "ticker": "AAPL", "runDate": "2026-01-05"},
            "weeklyExcess": {"weeks": [week, week]},
        }),
        ("latestBatch", {"runDate": "2026-01-26"}),
        ("trackRecord", {"best": None, "verdict": {}, "curve": []}),
    ]  # fmt: skip
    assert list(data["z"]) == ["picks", "kind", "best", "weeklyExcess"]
    assert list(data["z"]["picks"]) == ["hits", "__typename", "all"]


async def test_it_is_cacheable_without_a_clock(database, pool):
    """It depends on the record alone, so it is cached until the revision changes."""
    plant(database)
    engine = engine_on(pool, replace(FACTS, now=None))
    answer = await engine.execute("{ trackRecord { verdict { words } } }")
    assert (answer.error_code, answer.is_cacheable) == (None, True)


async def test_the_same_rows_are_computed_once(database, pool):
    """For all clients, and whatever the rest of the query is; another series has other rows."""
    plant(database)
    engine = engine_on(pool)
    await asyncio.gather(
        *(engine.execute(f"{{ a{n}: trackRecord {{ series }} }}") for n in range(20))
    )
    await engine.execute("{ trackRecord { picks { hits } } }")
    assert engine.value_computer.computed_count == 1
    await engine.execute(
        '{ a: trackRecord(series: "second") { series } trackRecord(action: BUY) { series } }'
    )
    assert engine.value_computer.computed_count == 3


async def test_a_changed_record_is_computed_anew(database, pool):
    plant(database)
    engine = engine_on(pool)
    query = "{ trackRecord { batches { late } } }"
    assert b'"late":0' in (await engine.execute(query)).body
    past_the_guards(database, f"UPDATE batches SET late = true WHERE run_date = '{UNRESOLVED}'")
    assert b'"late":1' in (await engine.execute(query)).body


async def test_too_many_mondays(database, pool):
    """
    More than can be computed in time are refused before they are read, and the message says what to
    do.
    """
    past_the_guards(
        database,
        f"""INSERT INTO batches (
            id, series, run_date, created_at, status, late, failure_reason, failure,
            benchmark_symbol)
        SELECT md5(n::text)::uuid, 'main', date '1900-01-01' + 7 * n, now(), 'failed', true,
        'MISSED', 'None.', 'SPY'
        FROM generate_series(0, {track_record.MAX_BATCHES}) n""",
    )
    answer = await engine_on(pool).execute("{ trackRecord { series } }")
    assert json.loads(answer.body)["errors"] == [{
        "message": "The track record has over 5,200 Mondays. Ask for a part of them: `from` and "
            "`to`.",
        "extensions": {"code": "ANSWER_TOO_LARGE", "limit": 5200},
    }]  # fmt: skip
    data = await query_data(
        pool, '{ trackRecord(from: "1900-01-02") { batches { failed } curve { runDate } } }'
    )
    assert data == {"trackRecord": {"batches": {"failed": 5200}, "curve": []}}


async def test_a_figure_that_is_missing(database, pool):
    """A scored batch without a pick's figure is our error: no value is invented."""
    a_fortnight(database, "cccccxxcccccxx")
    past_the_guards(
        database,
        "DELETE FROM pick_checkpoint_metrics WHERE pick_id = (SELECT id FROM picks LIMIT 1)",
    )
    with structlog.testing.capture_logs() as lines:
        answer = await engine_on(pool).execute("{ trackRecord { series } }")
    (error,) = json.loads(answer.body)["errors"]
    assert error["extensions"]["code"] == "RECORD_DAMAGED"
    assert "has no figures at a computed checkpoint" in lines[-1]["first"]


def test_a_null_where_a_value_is_promised():
    """It is refused with the field's name, also within a list."""
    member = compiler.Member("key", "Type.field", None)
    assert computed_values.to_json([1, 2], GraphQLNonNull(GraphQLList(GraphQLInt)), member) == [
        1,
        2,
    ]
    assert computed_values.to_json([None], GraphQLList(GraphQLInt), member) == [None]
    assert computed_values.to_json(None, GraphQLInt, member) is None
    for value, type_ in (
        (None, GraphQLNonNull(GraphQLInt)),
        ([None], GraphQLList(GraphQLNonNull(GraphQLInt))),
    ):
        with pytest.raises(ValueError, match=r"Type\.field has no value"):
            computed_values.to_json(value, type_, member)


class Work:
    """Work that lasts until the test ends it, and counts how many run at once."""

    def __init__(self) -> None:
        self.go, self.lock = threading.Event(), threading.Lock()
        self.at_work = self.most = self.calls = 0

    def __call__(self, rows: bytes, arguments: Mapping[str, Any]) -> bytes:
        with self.lock:
            self.calls += 1
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        self.go.wait(60)
        with self.lock:
            self.at_work -= 1
        if rows == b"bad":
            raise GraphQLError("Nothing can be made of that.")
        return rows.upper()

    def computed(self) -> Computed:
        return Computed(rows="", compute=self, check=lambda arguments: None, cost=1)


async def test_one_value_is_computed_at_a_time():
    """Ten values are computed one after the other, and two requests for the same value share it."""
    work, made = Work(), ValueComputer()
    asking = [
        asyncio.create_task(made.value(work.computed(), b"%d" % (n // 2), {})) for n in range(20)
    ]
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*asking) == [b"%d" % (n // 2) for n in range(20)]
    assert (work.calls, work.most) == (10, 1)


async def test_a_request_that_waits_too_long_is_refused():
    """The work continues, and the next request gets its result."""
    work, made = Work(), ValueComputer(wait_timeout=0.05)
    first = asyncio.create_task(made.value(work.computed(), b"a", {}))
    while not work.calls:
        await asyncio.sleep(0.001)
    with pytest.raises(GraphQLError, match="Try again soon") as error:
        await made.value(work.computed(), b"b", {})
    assert error.value.extensions == {"code": "SERVICE_UNAVAILABLE"}
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    again = asyncio.create_task(made.value(work.computed(), b"a", {}))
    await asyncio.sleep(0)
    work.go.set()
    assert (await again, work.calls) == (b"A", 1)


async def test_a_failure_is_not_cached():
    """Every waiting request gets the error, and the next request tries anew."""
    work, made = Work(), ValueComputer()
    work.go.set()
    for _ in range(2):
        errors = await asyncio.gather(
            *(made.value(work.computed(), b"bad", {}) for _ in range(3)), return_exceptions=True
        )
        assert [str(error) for error in errors] == ["Nothing can be made of that."] * 3
    assert work.calls == 2


async def test_only_the_last_few_values_are_cached():
    work, made = Work(), ValueComputer(max_cached=2)
    work.go.set()
    for rows in (b"a", b"b", b"a", b"c", b"a", b"b"):
        await made.value(work.computed(), rows, {})
    assert work.calls == 4
