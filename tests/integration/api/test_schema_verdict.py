"""
The verdict of the API: it shows what the CHECK entries of the journal say, and computes nothing.

The kind: a record of several series. Members tried: no check, a check that finds nothing, better
and worse, a late series, a retired one, a control, one with tools, a correction after a check, a
record of an older version, and a damaged entry.
"""

import json
from datetime import date
from typing import Any

import psycopg
import pytest
import structlog
from api_records import Record, engine_on
from held_checks import WEEK, add_checks, content_of, damage_checks, standing, write_check
from series_records import (
    CLAUDE,
    FIRST,
    MODEL,
    RETIRED_AT,
    SECOND,
    THIRD,
    add_batch,
    declare,
    write,
    write_three_series,
)

from app.domain.model import BatchStatus
from tests.integration.api.test_schema_expressions import query_data
from tests.integration.api.test_schema_track_record import past_the_guards
from tests.unit.domain.test_verdict import OF_A_CONTROL, OF_TOOLS

FIRST_CHECK, SECOND_CHECK = date(2027, 1, 4), date(2028, 1, 3)

LOOK = """number on seq heldAt late sharePct batches weeks gaps failedMondays beyondBetaPct
    interval { low } probability bound finding untestedReason"""
VERDICTS = f"""{{ series {{ name trackRecord {{ verdict {{ finding foundOn words nextLook
    nextLookHeldAt looks {{ {LOOK} }} }} }} }} }}"""


async def verdicts(pool: Any) -> dict[str, Any]:
    """Return the verdict of each series."""
    data = await query_data(pool, VERDICTS)
    return {one["name"]: one["trackRecord"]["verdict"] for one in data["series"]}


def standings(main: float = 0.0) -> list[Any]:
    """Return the series of `write_three_series` on the day of a check."""
    return [
        standing("claude", 1.0, has_tools=True, was_retired=True),
        standing("dice", 1.0, is_control=True),
        standing("main", main),
    ]


def with_check(main: float = 0.0, number: int = 1) -> Any:
    return lambda record: write_check(record, number, *standings(main))


async def test_no_check_yet(database, pool):
    """Every series names the date of the record's first check."""
    write(database, write_three_series)
    of_all = await verdicts(pool)
    for verdict in of_all.values():
        assert (verdict["finding"], verdict["foundOn"], verdict["looks"]) == (None, None, [])
        assert verdict["nextLook"] == str(FIRST_CHECK)
        assert verdict["nextLookHeldAt"] == "2027-01-25T14:00:00.000000Z"
    assert of_all["main"]["words"].endswith("The first yearly check is on 2027-01-04.")
    assert of_all["dice"]["words"] == OF_A_CONTROL
    assert of_all["claude"]["words"] == OF_TOOLS


@pytest.mark.parametrize(
    ("alpha", "finding"), [(0.0, "UNDECIDED"), (1.0, "BETTER"), (-1.0, "WORSE")]
)
async def test_one_check(alpha, finding, database, pool):
    """The values are those of the entry, text for text."""
    write(database, write_three_series, with_check(alpha))
    of_all = await verdicts(pool)
    (look,) = of_all["main"]["looks"]
    content = content_of(1, *standings(alpha))
    (step,) = content["order"]
    main = next(one for one in content["series"] if one["name"] == "main")
    side = finding.lower()
    if finding == "UNDECIDED":
        side = min(("better", "worse"), key=lambda name: float(main[name]["p"]))
    with psycopg.connect(database) as conn:
        ((seq, at),) = conn.execute("SELECT seq, at FROM journal WHERE kind = 'CHECK'").fetchall()
    assert look == {
        "number": 1,
        "on": str(FIRST_CHECK),
        "seq": str(seq),
        "heldAt": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "late": False,
        "sharePct": "2.500000",
        # The record of the test has two batches that are over, and one that is running.
        "batches": 3,
        "weeks": int(main["weeks"]),
        "gaps": 0,
        "failedMondays": 0,
        "beyondBetaPct": main[side]["beyond_beta_pct"],
        "interval": None,
        "probability": main["p"],
        "bound": step["bound"],
        "finding": finding,
        "untestedReason": None,
    }
    found_on = None if finding == "UNDECIDED" else str(FIRST_CHECK)
    assert (of_all["main"]["finding"], of_all["main"]["foundOn"]) == (finding, found_on)
    for name, reason in (("claude", "TOOLS"), ("dice", "CONTROL")):
        (look,) = of_all[name]["looks"]
        assert (look["untestedReason"], look["finding"], look["bound"]) == (reason, None, None)
        assert of_all[name]["finding"] is None
        assert of_all[name]["nextLook"] == str(SECOND_CHECK)
    assert of_all["dice"]["words"] == OF_A_CONTROL
    assert of_all["claude"]["words"] == OF_TOOLS


async def test_a_retired_series_keeps_its_finding(database, pool):
    """The second check does not test it, and its finding stands with its date."""

    def two_checks(record: Record) -> None:
        write_check(record, 1, standing("claude", 1.0), standing("main"))
        write_check(record, 2, standing("claude", 1.0, was_retired=True), standing("main"))

    write(database, write_three_series, two_checks)
    verdict = (await verdicts(pool))["claude"]
    assert (verdict["finding"], verdict["foundOn"]) == ("BETTER", str(FIRST_CHECK))
    assert [one["untestedReason"] for one in verdict["looks"]] == [None, "RETIRED"]
    assert verdict["words"].endswith(
        "The yearly check of 2028-01-03 did not test the picks: the series was retired. "
        "The earlier finding stands. The next yearly check is on 2029-01-01."
    )


async def test_a_late_series(database, pool):
    """It joined after the first check, which does not name it. The next date is the same."""

    def joins(record: Record) -> None:
        declare(record, "late", MODEL, at=RETIRED_AT, holds_from=THIRD)
        add_batch(record, "late", THIRD, "KO BUY, XOM SELL, AAPL BUY", MODEL, is_complete=False)

    write(database, write_three_series, joins, with_check(1.0))
    of_all = await verdicts(pool)
    assert of_all["late"]["looks"] == []
    assert of_all["late"]["words"] == (
        "Too early to tell skill from luck: 0 scored batches so far. The next yearly check is on "
        "2028-01-03."
    )
    assert {one["nextLook"] for one in of_all.values()} == {str(SECOND_CHECK)}


async def test_a_correction_changes_no_finding(database, pool):
    """Corrected figures change the track record, and nothing of what a check says."""
    write(database, write_three_series, with_check(1.0))
    query = "{ trackRecord { pickResults { alphaPct { mean } } } }"
    before = await query_data(pool, query), await verdicts(pool)
    past_the_guards(
        database, "UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = vs_benchmark_pct - 50"
    )
    after = await query_data(pool, query), await verdicts(pool)
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize(
    ("week", "words"),
    [
        (52, "The yearly check of 2027-01-04 waits until 2027-01-25 for figures that are still"),
        (60, "The yearly check of 2027-01-04 was due on 2027-01-25, and the journal does not have"),
    ],
)
async def test_a_check_that_is_due_is_not_computed(week, words, database, pool):
    """
    The record may be one of an older version, before the first round of reconciliation. All series
    wait, also one whose own Mondays ended before.
    """

    def newest(record: Record) -> None:
        ideas = "KO BUY, XOM SELL, AAPL BUY"
        record.batch("main", FIRST + week * WEEK, BatchStatus.ACTIVE, ideas)

    def joins(record: Record) -> None:
        declare(record, "late", MODEL, at=RETIRED_AT, holds_from=THIRD)
        add_batch(record, "late", THIRD, "KO BUY, XOM SELL, AAPL BUY", MODEL, is_complete=False)

    write(database, write_three_series, joins, newest)
    of_all = await verdicts(pool)
    for name, verdict in of_all.items():
        assert (verdict["finding"], verdict["looks"]) == (None, [])
        assert verdict["nextLook"] == str(FIRST_CHECK)
        is_tested = name in ("main", "late")
        assert (words in verdict["words"]) == is_tested


async def test_the_newest_declaration_decides(database, pool):
    """A model that has lost its tools waits for the first check, as every model does."""

    def changes(record: Record) -> None:
        declare(record, "claude", MODEL, at=RETIRED_AT, holds_from=THIRD)
        declare(record, "main", CLAUDE, at=RETIRED_AT, holds_from=THIRD)

    write(database, write_three_series, changes)
    of_all = await verdicts(pool)
    assert of_all["claude"]["words"].startswith("Too early to tell skill from luck: ")
    assert of_all["main"]["words"] == OF_TOOLS


async def test_a_part_has_no_verdict(database, pool):
    write(database, write_three_series, with_check(1.0))
    for part in (f'from: "{FIRST}"', f'to: "{SECOND}"', "action: BUY"):
        query = f"{{ trackRecord({part}) {{ verdict {{ finding nextLook looks {{ on }} }} }} }}"
        verdict = (await query_data(pool, query))["trackRecord"]["verdict"]
        assert verdict == {"finding": None, "nextLook": None, "looks": []}


DAMAGES = [
    pytest.param(lambda content: content[:40], id="cut"),
    pytest.param(lambda _: "none", id="no JSON"),
    pytest.param(lambda content: content.replace('"check":', '"chick":'), id="no check"),
    pytest.param(lambda content: content.replace('"order":[', '"order":"","was":['), id="no list"),
    pytest.param(lambda content: content.replace('"side":"BETTER"', '"side":"GOOD"'), id="no side"),
]


@pytest.mark.parametrize("change", DAMAGES)
async def test_a_damaged_entry(change, database, pool):
    """It is our error, which names the entry. A part of the record needs no check: it is shown."""
    write(database, write_three_series, with_check(1.0))
    damage_checks(database, change)
    engine = engine_on(pool)
    with structlog.testing.capture_logs() as lines:
        answer = await engine.execute("{ trackRecord { series } }")
    (error,) = json.loads(answer.body)["errors"]
    assert error["extensions"]["code"] == "RECORD_DAMAGED"
    assert "of the journal, which holds a yearly check, cannot be read" in error["message"]
    assert error["message"] == lines[-1]["first"]
    part = await query_data(pool, f'{{ trackRecord(from: "{FIRST}") {{ batches {{ total }} }} }}')
    assert part == {"trackRecord": {"batches": {"total": 3}}}
    compared = await query_data(pool, '{ comparison(a: "main", b: "dice") { weeks } }')
    assert compared["comparison"]["weeks"] == 3


async def test_an_entry_that_postgres_cannot_read(database, pool):
    """A character that Postgres has no text for is damage, too, and no traceback."""
    write(database, write_three_series, with_check(1.0))
    damage_checks(database, lambda content: content.replace("BETTER", "\\u0000"))
    answer = await engine_on(pool).execute("{ trackRecord { series } }")
    (error,) = json.loads(answer.body)["errors"]
    assert error["extensions"]["code"] == "RECORD_DAMAGED"


async def test_a_check_that_is_held_changes_the_verdict(database, pool):
    """The value that was cached before is not shown again."""
    write(database, write_three_series)
    engine = engine_on(pool)
    query = "{ trackRecord { verdict { finding } } }"
    assert b'"finding":null' in (await engine.execute(query)).body
    add_checks(database, standings(1.0))
    assert b'"finding":"BETTER"' in (await engine.execute(query)).body
