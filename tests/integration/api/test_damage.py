"""
A record that breaks what the API promises: one error with the code RECORD_DAMAGED, never a bare
500.

The kind: each row or column that the schema promises, in a database whose guards were removed.
Everything that no error names equals the answer of the undamaged record, byte for byte.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any

import psycopg
import pytest
import structlog
from api_records import an_id, engine_on, plant, plant_main
from commands import command, run

from api.persisted import DOCUMENTS_BY_NAME
from app.database import pools
from app.database.queries import snapshot_fetcher
from app.web.feeds.export import ExportDamaged, ExportRange, read_parts
from tests.integration.api.test_cache import living

WON, UNRESOLVED, FAILED = (f"(SELECT id FROM batches WHERE run_date = '2026-01-{day}' AND series "
    f"= 'main')" for day in
    ("05", "12", "19"))  # fmt: skip
ONE = f"'{an_id(3, 1)}'"
COMPUTED_DAY = f"(SELECT id FROM checkpoints WHERE batch_id = {ONE} AND day = 3)"
SKIPPED_DAY = f"(SELECT id FROM checkpoints WHERE batch_id = {ONE} AND day = 4)"
FIRST = f"(SELECT id FROM picks WHERE batch_id = {ONE} AND position = 1)"
FREE = "ALTER TABLE {} DROP CONSTRAINT {}"
OPTIONAL = "ALTER TABLE {} ALTER {} DROP NOT NULL"
CLOSE = "{ id ticker tradingDay open close source readAt }"
METRIC = f"""{{ id currentPrice close {CLOSE} splitFactor absoluteReturnPct vsBenchmarkPct
    directionalReturnPct alphaPct
    hit returnFromOpenPct unusualMove ended renamed checkpoint {{ day }} }}"""
FULL = f"""{{
    id series runDate createdAt status late failureReason failure benchmarkSymbol
    benchmarkInitialPrice tradingDay
    benchmarkInitialClose {CLOSE} nextCheckpointAt latestCheckpoint {{ day }} result {{ day }}
    generations {{ id attempt accepted refusal answer answeredAt requestedModel promptVersion
    askedAt }}
    picks {{ id position ticker action reasoning initialPrice initialClose {CLOSE} entryOpen
    entryClose {CLOSE} ended
        pickedAs renamed metrics {METRIC} latestMetric {{ hit }} result {{ hit }} }}
    checkpoints {{ id day checkpointDate tradingDay status skipReason note takenAt skippedAt
    benchmarkPrice
        benchmarkClose {CLOSE} benchmarkSplitFactor benchmarkReturnPct benchmarkUnusualMove metrics
        {METRIC}
        corrections {{ id field ticker before after reason madeAt }} }} }}"""
IN_FULL = [
    *(f'{{ batchOn(runDate: "2026-01-{day}") {FULL} }}' for day in ("05", "12", "19", "26")),
    f'{{ batchOn(runDate: "2026-01-05", series: "second") {FULL} }}',
]

# The statements of each damage. They concern a completed Monday unless the name says otherwise.
DAMAGES = {
    "a fourth pick": [
        FREE.format("picks", "three_picks"),
        "INSERT INTO picks SELECT gen_random_uuid(), batch_id, 4, 'ZZZ', action, reasoning, "
        f"initial_price, initial_close_id, NULL, false FROM picks WHERE batch_id = {ONE} AND "
        "position = 1",
    ],
    "two picks": [f"DELETE FROM picks WHERE batch_id = {ONE} AND position = 2"],
    "a position of 0": [
        FREE.format("picks", "three_picks"),
        f"UPDATE picks SET position = 0 WHERE batch_id = {ONE} AND position = 2",
    ],
    "a position of 34": [
        FREE.format("picks", "three_picks"),
        f"UPDATE picks SET position = 34 WHERE batch_id = {ONE} AND position = 2",
    ],
    "a missing metric": [f"DELETE FROM pick_checkpoint_metrics WHERE checkpoint_id = "
        f"{COMPUTED_DAY}"],
    "a lost reading": [f"DELETE FROM closes WHERE id = (SELECT initial_close_id FROM picks WHERE "
        f"id = {FIRST})"],
    "fourteen checkpoints": [f"DELETE FROM checkpoints WHERE batch_id = {ONE} AND day = 12"],
    "a day of 36 for one of 4": [
        FREE.format("checkpoints", "day_is_within_the_fortnight"),
        f"UPDATE checkpoints SET day = 36 WHERE id = {SKIPPED_DAY}",
    ],
    "a computed day without a price": [
        FREE.format("checkpoints", "computed_has_prices"),
        f"UPDATE checkpoints SET benchmark_price = NULL WHERE id = {COMPUTED_DAY}",
    ],
    "an unknown status": [
        FREE.format("checkpoints", "checkpoint_status_is_known"),
        f"UPDATE checkpoints SET status = 'lost' WHERE id = {COMPUTED_DAY}",
    ],
    "an unknown action": [
        FREE.format("picks", "action_is_known"),
        f"UPDATE picks SET action = 'HOLD' WHERE id = {FIRST}",
    ],
    "a price that is NaN": [
        FREE.format("picks", "initial_price_is_a_price"),
        f"UPDATE picks SET initial_price = 'NaN' WHERE id = {FIRST}",
    ],
    "an endless time": [f"UPDATE checkpoints SET taken_at = 'infinity' WHERE id = {COMPUTED_DAY}"],
    "a time after the year 9999": [f"UPDATE checkpoints SET taken_at = '12026-01-08' WHERE id = "
        f"{COMPUTED_DAY}"],
    "a time before the year 1": [f"UPDATE batches SET created_at = '2026-01-05 BC' WHERE id = "
        f"{ONE}"],
    "no time": [
        OPTIONAL.format("checkpoints", "taken_at"),
        f"UPDATE checkpoints SET taken_at = NULL WHERE id = {COMPUTED_DAY}",
    ],
    # A value where there is none.
    "a skipped day with a change of the benchmark": [
        FREE.format("checkpoints", "skipped_has_no_prices"),
        f"UPDATE checkpoints SET benchmark_return_pct = 1 WHERE id = {SKIPPED_DAY}",
    ],
    "a skipped day with a session": [
        FREE.format("checkpoints", "skipped_has_no_prices"),
        f"UPDATE checkpoints SET trading_day = '2026-01-08' WHERE id = {SKIPPED_DAY}",
    ],
    "a skipped day with a reading": [
        FREE.format("checkpoints", "skipped_has_no_prices"),
        "UPDATE checkpoints SET benchmark_close_id = (SELECT benchmark_close_id FROM checkpoints "
        f"before WHERE before.id = {COMPUTED_DAY}) WHERE id = {SKIPPED_DAY}",
    ],
    "a skipped day with a mark": [
        FREE.format("checkpoints", "only_figures_have_a_mark"),
        f"UPDATE checkpoints SET benchmark_unusual_move = true WHERE id = {SKIPPED_DAY}",
    ],
    "a skipped day with figures of the picks": [
        f"INSERT INTO pick_checkpoint_metrics SELECT gen_random_uuid(), {SKIPPED_DAY}, pick_id, "
        "current_price, close_id, split_factor, absolute_return_pct, vs_benchmark_pct, "
        "return_from_open_pct, unusual_move, ended FROM pick_checkpoint_metrics WHERE "
        f"checkpoint_id = {COMPUTED_DAY}",
    ],
    "a day 0 with a change": [
        FREE.format("checkpoints", "day_zero_is_the_baseline"),
        f"UPDATE checkpoints SET benchmark_return_pct = 0 WHERE batch_id = {ONE} AND day = 0",
    ],
    "a time of a skip that never was": [
        FREE.format("checkpoints", "skipped_has_a_reason"),
        f"UPDATE checkpoints SET skipped_at = taken_at WHERE id = {COMPUTED_DAY}",
    ],
    "an open without its reading": [
        FREE.format("picks", "an_open_names_its_reading"),
        f"UPDATE picks SET entry_open = 1 WHERE id = {FIRST}",
    ],
    "a Monday with picks and a reason of its failure": [
        FREE.format("batches", "failed_has_a_reason"),
        f"UPDATE batches SET failure_reason = 'MISSED' WHERE id = {ONE}",
    ],
    "a failed Monday with a price": [
        FREE.format("batches", "there_is_never_a_partial_baseline"),
        f"UPDATE batches SET benchmark_initial_price = 1 WHERE id = {FAILED}",
    ],
    "a failed Monday with picks": [
        f"INSERT INTO picks SELECT gen_random_uuid(), {FAILED}, position, ticker, action, "
        "reasoning, initial_price, initial_close_id, NULL, false FROM picks WHERE batch_id = "
        f"{ONE}",
    ],
    "a failed Monday with a checkpoint": [
        f"UPDATE checkpoints SET batch_id = {FAILED} WHERE batch_id = {UNRESOLVED} AND day = 0"
    ],
    "an ended pick's figure with a reading": [
        "UPDATE pick_checkpoint_metrics SET close_id = (SELECT initial_close_id FROM picks WHERE "
        "ended) WHERE ended"
    ],
    "an accepted answer that was refused": [
        FREE.format("generations", "refused_has_a_refusal"),
        "UPDATE generations SET refusal = 'No.' WHERE accepted AND run_date = '2026-01-05'",
    ],
    # A row twice.
    "two batches of a Monday": [
        FREE.format("batches", "one_batch_per_run_date"),
        "INSERT INTO batches SELECT gen_random_uuid(), series, run_date, created_at, status, "
        f"late, failure_reason, failure, benchmark_symbol FROM batches WHERE id = {FAILED}",
    ],
    "two picks of one id": [
        "ALTER TABLE picks DROP CONSTRAINT picks_pkey CASCADE",
        FREE.format("picks", "one_pick_per_position"),
        FREE.format("picks", "one_pick_per_ticker"),
        f"INSERT INTO picks SELECT * FROM picks WHERE id = {FIRST}",
    ],
    "two figures of a pick on one day": [
        FREE.format("pick_checkpoint_metrics", "one_metric_per_pick_and_checkpoint"),
        "INSERT INTO pick_checkpoint_metrics SELECT gen_random_uuid(), checkpoint_id, pick_id, "
        "current_price, close_id, split_factor, absolute_return_pct, vs_benchmark_pct, "
        "return_from_open_pct, unusual_move, ended FROM pick_checkpoint_metrics WHERE "
        f"checkpoint_id = {COMPUTED_DAY} AND pick_id = {FIRST}",
    ],
    "two checkpoints of a day": [
        FREE.format("checkpoints", "one_checkpoint_per_day"),
        FREE.format("checkpoints", "one_checkpoint_per_date"),
        "INSERT INTO checkpoints SELECT gen_random_uuid(), batch_id, day, checkpoint_date, "
        "trading_day, status, skip_reason, note, taken_at, skipped_at FROM checkpoints WHERE id = "
        f"{SKIPPED_DAY}",
    ],
    "two readings of one id": [
        "ALTER TABLE closes DROP CONSTRAINT closes_pkey CASCADE",
        FREE.format("closes", "one_reading_at_a_time"),
        "INSERT INTO closes SELECT * FROM closes WHERE id = (SELECT benchmark_close_id FROM "
        f"checkpoints WHERE id = {COMPUTED_DAY} AND batch_id = {ONE})",
    ],
    # An invalid value. What is computed from it is invalid, too.
    "a figure that is NaN": [
        FREE.format("pick_checkpoint_metrics", "returns_are_numbers"),
        f"UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = 'NaN' WHERE pick_id = {FIRST}",
    ],
    "an endless figure": [
        FREE.format("pick_checkpoint_metrics", "returns_are_numbers"),
        f"UPDATE pick_checkpoint_metrics SET absolute_return_pct = '-Infinity' WHERE pick_id = "
        f"{FIRST}",
    ],
    "an endless figure against the benchmark": [
        FREE.format("pick_checkpoint_metrics", "returns_are_numbers"),
        f"UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = 'Infinity' WHERE pick_id = {FIRST}",
    ],
    "a pick without a ticker": [
        FREE.format("picks", "ticker_is_well_formed"), "UPDATE picks SET ticker = '' WHERE id = "
            f"{FIRST}",
    ],
    "a ticker with a space": [
        FREE.format("picks", "ticker_is_well_formed"), "UPDATE picks SET ticker = 'aapl x' WHERE "
            f"id = {FIRST}",
    ],
    "a benchmark without a name": [
        FREE.format("batches", "ticker_is_well_formed"),
        f"UPDATE batches SET benchmark_symbol = '' WHERE id = {ONE}",
    ],
    "a reading of no share": [
        FREE.format("closes", "ticker_is_well_formed"),
        f"UPDATE closes SET ticker = 'ko' WHERE id = (SELECT initial_close_id FROM picks WHERE id "
        f"= {FIRST})",
    ],
    "a price below zero": [
        FREE.format("pick_checkpoint_metrics", "current_price_is_a_price"),
        f"UPDATE pick_checkpoint_metrics SET current_price = -5 WHERE pick_id = {FIRST}",
    ],
    "a price of zero": [
        FREE.format("picks", "initial_price_is_a_price"),
        f"UPDATE picks SET initial_price = 0 WHERE id = {FIRST}",
    ],
    "a benchmark of zero": [
        FREE.format("batches", "initial_price_is_a_price"),
        f"UPDATE batches SET benchmark_initial_price = 0 WHERE id = {ONE}",
    ],
    "a day's benchmark below zero": [
        FREE.format("checkpoints", "benchmark_price_is_a_price"),
        f"UPDATE checkpoints SET benchmark_price = -1 WHERE id = {COMPUTED_DAY}",
    ],
    "a reading of zero": [
        FREE.format("closes", "close_is_a_price"),
        f"UPDATE closes SET close = 0 WHERE id = (SELECT initial_close_id FROM picks WHERE id = "
        f"{FIRST})",
    ],
    "a split into nothing": [
        FREE.format("pick_checkpoint_metrics", "split_factor_is_positive"),
        f"UPDATE pick_checkpoint_metrics SET split_factor = 0 WHERE pick_id = {FIRST}",
    ],
    "an attempt before the first": [
        FREE.format("generations", "attempts_count_from_one"),
        "UPDATE generations SET attempt = 0 WHERE attempt = 1 AND run_date = '2026-01-05'",
    ],
    "a correction of nothing": [
        FREE.format("corrections", "field_is_named"),
        "UPDATE corrections SET field = ''",
    ],
}  # fmt: skip


def damaged_copy(create: Callable[..., str], migrated: str, statements: list[str]) -> str:
    """Return the address of a copy of the record with a change that the guards would refuse."""
    address = create(psycopg.conninfo.conninfo_to_dict(migrated)["dbname"])
    with psycopg.connect(address) as conn:
        conn.execute("SET session_replication_role = replica")
        for statement in statements:
            conn.execute(statement)
    return address


# Damages of values that are in no column of an export.
NOT_EXPORTED = {
    "an endless time", "a time after the year 9999", "a time before the year 1", "no time",
    "a skipped day with a reading", "a time of a skip that never was",
    "an accepted answer that was refused",
    "an ended pick's figure with a reading", "two readings of one id", "a reading of zero",
    "an attempt before the first", "a correction of nothing",
}  # fmt: skip

# One of each kind of promise; all others are long tests.
FIRST_ONES = (
    "a fourth pick", "a missing metric", "a lost reading", "fourteen checkpoints",
    "an unknown action",
    "a price that is NaN", "an endless time", "a skipped day with a change of the benchmark",
    "a failed Monday with picks",
    "two batches of a Monday", "a figure that is NaN", "a pick without a ticker",
)  # fmt: skip


def each(names: Iterable[str], first: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, marks=() if name in first else pytest.mark.long, id=name)
        for name in names
    ]


AROUND = {"Monday": {"before": "2025-12-29", "after": "2026-01-12"}}
OPERATIONS = [
    *((text, {}) for text in IN_FULL),
    *(
        (
            text,
            {
                "runDate": "2026-01-05",
                "id": str(an_id(4, 3)),
                "a": "main",
                "b": "second",
                **AROUND.get(name, {}),
            },
        )
        for name, text in DOCUMENTS_BY_NAME.items()
    ),
]


async def answers(address: str) -> tuple[list[bytes], list[Any]]:
    """Return the engine's answers to all operations, and the rows of an export or its error."""
    async with pools.opened(pools.make_pool(address, max_size=1)) as pool:
        engine = engine_on(pool)
        bodies = [(await engine.execute(text, variables)).body for text, variables in OPERATIONS]
        async with snapshot_fetcher(pool) as fetch:
            engine.fetch = fetch
            try:
                return bodies, [
                    row async for part in read_parts(engine, ExportRange()) for row in part.rows
                ]
            except ExportDamaged as error:
                return bodies, [str(error)]


def differences(before: Any, after: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths at which two answers differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        assert list(before) == list(after)
        for key in before:
            yield from differences(before[key], after[key], (*path, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for nth, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, (*path, nth))
    elif before != after:
        yield path


@pytest.mark.parametrize("name", each(DAMAGES, FIRST_ONES))
async def test_a_damaged_record(name, create, migrated, database):
    """
    What an error names is null; everything else is as before the damage, in every operation; the
    log has one line for each answer.

    An export stops if one of its columns or rows is damaged; otherwise it is as before.
    """
    plant(database)
    copy = damaged_copy(create, migrated, DAMAGES[name])
    before, exported = await answers(database)
    with structlog.testing.capture_logs() as lines:
        after, stopped = await answers(copy)
    if name in NOT_EXPORTED:
        assert stopped == exported
    else:
        (reason,) = stopped
        assert reason.startswith("The record is damaged: ")
    damaged_answers = 0
    for (text, _), one, other in zip(OPERATIONS, before, after, strict=True):
        undamaged, damaged = json.loads(one), json.loads(other)
        errors = damaged.get("errors", [])
        damaged_answers += bool(errors)
        for error in errors:
            assert error["extensions"] == {"code": "RECORD_DAMAGED"}
            assert error["message"].startswith("The record is damaged: ")
            assert "alpha-monday verify" in error["message"]
        nulls = [tuple(error["path"]) for error in errors]
        for path in differences(undamaged["data"], damaged["data"]):
            # The latest day that exists: only the list of all days shows that the last day is lost.
            is_the_latest = {"latestMetric", "latestCheckpoint"} & {*path}
            assert is_the_latest or any(path == where[: len(path)] for where in nulls), (
                text,
                path,
                nulls,
            )
    assert b'"errors"' in b"".join(after[: len(IN_FULL)]), "a Monday in full shows every damage"
    assert after[3] == before[3]
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "the record is damaged"
    ] * (damaged_answers + (name not in NOT_EXPORTED))


async def test_the_rest_of_the_data(database, pool):
    """Only the nearest field that may be null is null."""
    plant(database)
    with psycopg.connect(database) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute(f"DELETE FROM pick_checkpoint_metrics WHERE checkpoint_id = {COMPUTED_DAY}")
    answer = await engine_on(pool).execute(
        '{ batchOn(runDate: "2026-01-05") { runDate latestCheckpoint { day metrics { hit } } } '
        "batches(first: 1) { nodes { runDate } } }"
    )
    assert "errors" not in json.loads(answer.body)
    with psycopg.connect(database) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("DELETE FROM pick_checkpoint_metrics")
    answer = await engine_on(pool).execute(
        '{ batchOn(runDate: "2026-01-05") { runDate latestCheckpoint { day metrics { hit } } } }'
    )
    body = json.loads(answer.body)
    assert body["data"] == {"batchOn": {"runDate": "2026-01-05", "latestCheckpoint": None}}
    assert body["errors"][0]["path"] == ["batchOn", "latestCheckpoint", "metrics"]
    assert not answer.is_cacheable


# The row that is deleted, and a list that must not silently leave out the rows that depend on it.
GONE = {
    "a pick's batch, in the list of a share": (
        f"DELETE FROM batches WHERE id = {ONE}", '{ picks(ticker: "KO") { nodes { ticker } } }',
    ),
    "a pick's batch, in that list's edges": (
        f"DELETE FROM batches WHERE id = {ONE}", '{ picks(ticker: "KO", first: 1) { edges { node '
            '{ action } } } }',
    ),
    "a pick's batch, by the pick's id": (
        f"DELETE FROM batches WHERE id = {ONE}", f'{{ pick(id: "{an_id(4, 3)}") {{ ticker }} }}',
    ),
    "a figure's checkpoint": (
        f"DELETE FROM checkpoints WHERE id = {COMPUTED_DAY}",
        f'{{ pick(id: "{an_id(4, 3)}") {{ metrics {{ alphaPct }} }} }}',
    ),
    "a figure's pick": (
        f"DELETE FROM picks WHERE id = {FIRST}",
        '{ batchOn(runDate: "2026-01-05") { latestCheckpoint { metrics { alphaPct } } } }',
    ),
    "a pick's only figures of a day": (
        f"DELETE FROM pick_checkpoint_metrics WHERE checkpoint_id = {COMPUTED_DAY}",
        f'{{ pick(id: "{an_id(4, 3)}") {{ metrics {{ alphaPct }} }} }}',
    ),
    "the last figures": (
        f"DELETE FROM pick_checkpoint_metrics WHERE pick_id = {FIRST}",
        f'{{ pick(id: "{an_id(4, 3)}") {{ latestMetric {{ alphaPct }} }} }}',
    ),
    "a figure's place": (
        f"UPDATE pick_checkpoint_metrics SET checkpoint_id = {SKIPPED_DAY} "
        f"WHERE checkpoint_id = {COMPUTED_DAY} AND pick_id = {FIRST}",
        f'{{ pick(id: "{an_id(4, 3)}") {{ metrics {{ alphaPct }} }} }}',
    ),
    "a day, for the track record": (
        f"DELETE FROM checkpoints WHERE id = {COMPUTED_DAY}", "{ trackRecord { picks { hits } } }",
    ),
    "a pick, for the track record": (f"DELETE FROM picks WHERE id = {FIRST}",
        "{ trackRecord { picks { total } } }"),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "query"), GONE.values(), ids=GONE)
async def test_rows_that_depend_on_a_lost_row(statement, query, database, pool):
    """The damage is reported, and no row is left out silently."""
    plant(database)
    assert "errors" not in json.loads((await engine_on(pool).execute(query)).body)
    with psycopg.connect(database) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        assert conn.execute(statement).rowcount
    body = json.loads((await engine_on(pool).execute(query)).body)
    assert [error["extensions"] for error in body["errors"]] == [{"code": "RECORD_DAMAGED"}]


@pytest.mark.parametrize(
    "query", ["{ batches { nodes { runDate } } }", "{ trackRecord { batches { total } } }"]
)
async def test_two_batches_of_a_monday_in_lists(query, create, migrated, database):
    plant(database)
    copy = damaged_copy(create, migrated, DAMAGES["two batches of a Monday"])
    async with pools.opened(pools.make_pool(copy, max_size=1)) as pool:
        body = json.loads((await engine_on(pool).execute(query)).body)
    assert [error["extensions"] for error in body["errors"]] == [{"code": "RECORD_DAMAGED"}]


# Each output that shows the Monday, or counts it.
GRAPHQL_ANSWER = (
    '{"query": "{ batchOn(runDate: \\"2026-01-05\\") { picks { initialPrice metrics { hit } } } }"}'
)
HASH = sha256(DOCUMENTS_BY_NAME["Monday"].encode()).hexdigest()
PERSISTED = {
    "extensions": {"persistedQuery": {"version": 1, "sha256Hash": HASH}},
    "variables": {"runDate": "2026-01-05", **AROUND["Monday"]},
}
PAGES = [
    "/",
    "/batches",
    "/batches/2026-01-05",
    "/record",
    "/feed.atom",
    "/batches/2026-01-05/chart.png",
]
EXPORTS = ["/export.csv", "/export.json", "/export.csv?from=2026-01-05&to=2026-01-05"]
WAYS = (
    "a fourth pick",
    "a missing metric",
    "two picks",
    "fourteen checkpoints",
    "an unknown action",
)
SOMETIMES = dict.fromkeys(
    ("/", "/batches", "/record", "/feed.atom", "/batches/2026-01-05/chart.png"),
    ("a missing metric",),
)


@pytest.mark.parametrize("name", each(WAYS, ("a fourth pick", "a missing metric")))
async def test_every_output_of_a_damaged_record(name, create, migrated, database, tmp_path, capsys):
    """
    Every form of the API has the code; everything else answers 500 with a sentence, and never a
    bare 500.
    """
    plant_main(database)
    copy = damaged_copy(create, migrated, DAMAGES[name])
    async with living(copy) as service:
        client = service.client
        responses = [
            await client.post(
                "/graphql", content=GRAPHQL_ANSWER, headers={"content-type": "application/json"}
            ),
            await client.post(
                "/graphql",
                json=json.loads(GRAPHQL_ANSWER),
                headers={"accept": "application/graphql-response+json"},
            ),
            await client.get("/graphql", params=json.loads(GRAPHQL_ANSWER)),
            await client.post("/graphql", json=PERSISTED),
            await client.get(
                "/graphql", params={key: json.dumps(value) for key, value in PERSISTED.items()}
            ),
        ]
        for response in responses:
            assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
            assert {one["extensions"]["code"] for one in response.json()["errors"]} == {
                "RECORD_DAMAGED"
            }
        for path in PAGES + EXPORTS:
            response = await client.get(path)
            assert "etag" not in response.headers or response.status_code == 200, path
            if name in SOMETIMES.get(path, ()):
                continue  # it shows nothing of the damaged row
            assert response.status_code == 500, (path, response.text)
            assert "The record is damaged: " in response.text, path
            assert not {"Traceback", "Internal Server Error", "Unexpected error"} & {
                *response.text.split("\n")
            }
        for path in ("/about", "/batches/2026-01-26", "/batches/2026-01-26/chart.png", "/health"):
            assert (await client.get(path)).status_code in (200, 503), path
    for arguments in (
        ["export", tmp_path / "picks.csv"],
        ["export", tmp_path / "picks.json"],
        ["show", "2026-01-05"],
    ):
        result = command(capsys, *arguments, DATABASE_URL=copy)
        assert (result.exit_code, result.error.count("The record is damaged: ")) == (1, 1), result
        assert "Traceback" not in result.error
    assert not list(tmp_path.iterdir())
    assert command(capsys, "show", "2026-01-26", DATABASE_URL=copy).exit_code == 0


RESULT_DAY = f"(SELECT id FROM checkpoints WHERE batch_id = {ONE} AND day = 12)"
MIDDLE_DAY = f"(SELECT id FROM checkpoints WHERE batch_id = {ONE} AND day = 5)"
LARGE = "repeat('9', {})::numeric"


# A number that Postgres can store, and that is too long for a page.
TOO_LARGE = {
    "a figure of 2,000 digits": ("vs_benchmark_pct", LARGE.format(2000)),
    "a figure of 2,000 digits below zero": ("vs_benchmark_pct", f"-{LARGE.format(2000)}"),
    "a figure of 400 digits": ("vs_benchmark_pct", LARGE.format(400)),
    "a change of 5,000 digits": ("absolute_return_pct", LARGE.format(5000)),
    "a change of 100,000 digits": ("absolute_return_pct", LARGE.format(100_000)),
}


@pytest.mark.parametrize("name", each(TOO_LARGE, ("a figure of 2,000 digits",)))
async def test_a_number_too_large_to_be_shown(name, create, migrated, database, capsys):
    """
    The API returns it in full; pages and commands say that the record is damaged.

    None of them fails in another way.
    """
    plant(database)
    column, value = TOO_LARGE[name]
    copy = damaged_copy(
        create,
        migrated,
        [f"UPDATE pick_checkpoint_metrics SET {column} = {value} WHERE pick_id = {FIRST}"],
    )
    refused = set()
    async with living(copy) as service:
        for path in PAGES:
            answer = await service.client.get(path)
            assert "Traceback" not in answer.text
            if answer.status_code != 200:
                assert (answer.status_code, "The record is damaged: " in answer.text) == (
                    500,
                    True,
                ), (
                    path,
                    answer.text,
                )
                refused.add(path)
    assert refused
    result = command(capsys, "show", "2026-01-05", DATABASE_URL=copy)
    assert (result.exit_code, result.output, result.error.count("The record is damaged: ")) == (
        1,
        "",
        1,
    ), result


# What the track record must not silently leave out, and its error message.
UNCOUNTED = {
    "a result without its benchmark": (
        [FREE.format("checkpoints", "computed_has_prices"), FREE.format("checkpoints",
            "day_zero_is_the_baseline"),
         f"UPDATE checkpoints SET benchmark_return_pct = NULL WHERE id = {RESULT_DAY}"],
        "a change of the benchmark of the Monday 2026-01-05 is missing",
    ),
    "a middle without its benchmark": (
        [FREE.format("checkpoints", "computed_has_prices"), FREE.format("checkpoints",
            "day_zero_is_the_baseline"),
         f"UPDATE checkpoints SET benchmark_return_pct = NULL WHERE id = {MIDDLE_DAY}"],
        "a change of the benchmark of the Monday 2026-01-05 is missing",
    ),
    "a result of an unknown status": (
        [FREE.format("checkpoints", "checkpoint_status_is_known"),
         f"UPDATE checkpoints SET status = 'lost' WHERE id = {RESULT_DAY}"],
        "the Monday 2026-01-05 is completed and does not have each of its 15 days once, computed "
        "or skipped",
    ),
    "a closed day, skipped for an unknown reason": (
        [FREE.format("checkpoints", "skip_reason_is_known"),
         f"UPDATE checkpoints SET skip_reason = 'LOST' WHERE batch_id = {ONE} AND day = 14"],
        "the Monday 2026-01-05 is completed and does not have each of its 15 days once, computed "
        "or skipped",
    ),
    "a result that is marked as a closed day": (
        [FREE.format("checkpoints", "a_closed_market_stays_closed"), FREE.format("checkpoints",
            "skipped_has_a_reason"),
         f"UPDATE checkpoints SET skip_reason = 'MARKET_CLOSED' WHERE id = {RESULT_DAY}"],
        "the Monday 2026-01-05 is completed and does not have each of its 15 days once, computed "
        "or skipped",
    ),
    "an endless figure": (
        [FREE.format("pick_checkpoint_metrics", "returns_are_numbers"),
         f"UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = 'Infinity' WHERE checkpoint_id = "
         f"{RESULT_DAY}"],
        "of the Monday 2026-01-05 at a computed checkpoint is no number",
    ),
    "no ticker": (
        [OPTIONAL.format("picks", "ticker"), f"UPDATE picks SET ticker = NULL WHERE id = {FIRST}"],
        f"the row {an_id(4, 3)} of picks, of the Monday 2026-01-05, cannot be read: ",
    ),
    "an empty ticker": (
        [FREE.format("picks", "ticker_is_well_formed"), f"UPDATE picks SET ticker = '' WHERE id = "
            f"{FIRST}"],
        f"row {an_id(4, 3)} of picks (Monday 2026-01-05) has an invalid ticker",
    ),
    "an unknown action": (
        DAMAGES["an unknown action"], f"the row {an_id(4, 3)} of picks, of the Monday 2026-01-05, "
            f"cannot be read: ",
    ),
    "two batches of a Monday": (DAMAGES["two batches of a Monday"],
        "the Monday 2026-01-19 has two batches"),
}  # fmt: skip


@pytest.mark.parametrize("name", each(UNCOUNTED, ("a result without its benchmark", "no ticker")))
async def test_the_track_record_leaves_no_monday_out(name, create, migrated, database):
    """A Monday that cannot be counted is an error, which names it."""
    plant(database)
    statements, message = UNCOUNTED[name]
    copy = damaged_copy(create, migrated, statements)
    async with pools.opened(pools.make_pool(copy, max_size=1)) as pool:
        body = json.loads(
            (await engine_on(pool).execute("{ trackRecord { picks { finished } } }")).body
        )
    assert body["data"] is None
    (error,) = body["errors"]
    assert error["extensions"] == {"code": "RECORD_DAMAGED"}
    assert message in error["message"]


# The selection of a Monday, and what the error says besides its field and its row.
MESSAGES = {
    "a fourth pick": ("picks { ticker }", "of batches has 4, and must have 3, each at a place of "
        "its own. "),
    "a missing metric": (
        "checkpoints { metrics { hit } }", "of checkpoints has 0, and must have 3, one of each "
            "pick. ",
    ),
    "fourteen checkpoints": ("checkpoints { day }", "of batches has 14, and must have 15, one of "
        "each day. "),
    "two readings of one id": (
        "checkpoints { benchmarkClose { id } }", "of checkpoints has 2 rows, and must have one. ",
    ),
    "a lost reading": ("picks { initialClose { id } }", "of picks has no row, and must have one. "),
}  # fmt: skip


@pytest.mark.parametrize("name", each(MESSAGES, ("a fourth pick",)))
async def test_what_an_error_says(name, create, migrated, database):
    """
    It says how many rows there are and must be, and asks a public reader to inform the operator.
    """
    plant(database)
    copy = damaged_copy(create, migrated, DAMAGES[name])
    async with pools.opened(pools.make_pool(copy, max_size=1)) as pool:
        selection, expected = MESSAGES[name]
        body = json.loads(
            (
                await engine_on(pool).execute(
                    f'{{ batchOn(runDate: "2026-01-05") {{ {selection} }} }}'
                )
            ).body
        )
    messages = [error["message"] for error in body["errors"]]
    assert [message for message in messages if expected in message], messages
    assert not [message for message in messages if "backup" in message]


# What `alpha-monday show` must not print as if it were whole.
SHOWN = (
    "a skipped day with a change of the benchmark", "a day of 36 for one of 4",
    "fourteen checkpoints",
    "two figures of a pick on one day", "a figure that is NaN", "an endless figure",
    "a price below zero",
    "a pick without a ticker", "two checkpoints of a day",
    "a skipped day with figures of the picks",
)  # fmt: skip


@pytest.mark.parametrize("name", each(SHOWN, ("a skipped day with a change of the benchmark",)))
def test_show_refuses_what_the_api_refuses(name, create, migrated, database, capsys):
    """It prints one line, and exits with 1."""
    plant(database)
    copy = damaged_copy(create, migrated, DAMAGES[name])
    result = command(capsys, "show", "2026-01-05", DATABASE_URL=copy)
    assert (result.exit_code, result.output, result.error.count("The record is damaged: ")) == (
        1,
        "",
        1,
    ), result
    assert "it names the first discrepancy" in result.error


def test_show_refuses_two_batches_of_a_monday(create, migrated, database, capsys):
    plant(database)
    copy = damaged_copy(create, migrated, DAMAGES["two batches of a Monday"])
    result = command(capsys, "show", "2026-01-19", DATABASE_URL=copy)
    assert (
        result.exit_code,
        result.output,
        result.error.count("has 2 rows, and must have one"),
    ) == (
        1,
        "",
        1,
    ), result


def test_a_failed_export_into_a_pipe_writes_nothing(create, migrated, database, tmp_path):
    """Neither a log line nor half an export is written to the standard output."""
    plant(database)
    copy = damaged_copy(create, migrated, DAMAGES["a price below zero"])
    result = run("export", "-", cwd=tmp_path, DATABASE_URL=copy)
    assert (result.returncode, result.stdout, result.stderr.count("The record is damaged: ")) == (
        1,
        "",
        1,
    ), result
    assert "Traceback" not in result.stderr
