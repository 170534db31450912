"""The series of a record: what the API says of each, and what it may cost to ask for all."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from api_records import NOW, Record, engine_on, plant
from record_server import copy_of
from series_records import (
    CHANGED_MODEL,
    CLAUDE,
    DICE,
    FIRST,
    MODEL,
    RETIRED_AT,
    SECOND,
    THIRD,
    declare,
    profile_hash,
    write,
    write_nine_series,
    write_one_series,
    write_three_series,
)

from api.engine import Engine
from api.limits import DocumentMeasure, parse_document
from api.persisted import PUBLIC_DOCUMENTS
from api.schema import Facts, schema
from app.database import pools
from app.domain import journal
from app.domain.journal import format_timestamp


@pytest.fixture
def unchecked(create, migrated) -> str:
    """The address of a record of three series, without the constraints that damage breaks."""
    address = copy_of(migrated, create)
    write(address, write_three_series)
    with psycopg.connect(address) as conn:
        for table, name in conn.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint "
            "WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        ).fetchall():
            conn.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    return address


@pytest.fixture
async def unchecked_pool(unchecked) -> AsyncIterator[pools.Pool]:
    """An open pool on `unchecked`."""
    async with pools.opened(pools.make_pool(unchecked, max_size=2)) as opened:
        yield opened


def damage(address: str, *statements: str) -> None:
    """Change rows with the triggers off."""
    with psycopg.connect(address) as conn:
        conn.execute("SET session_replication_role = replica")
        for statement in statements:
            conn.execute(statement)


def engine_of(pool) -> Engine:
    """Return an engine that knows only the default series when it starts."""
    return engine_on(pool, Facts(version="1.2.3", rehearsed=True, now=lambda: NOW))


async def ask(pool, query: str, **variables: object) -> dict[str, Any]:
    """Return the response to a query."""
    return json.loads((await engine_of(pool).execute(query, variables)).body)


async def ask_data(pool, query: str, **variables: object) -> Any:
    """Return the data of a response without errors."""
    response = await ask(pool, query, **variables)
    assert "errors" not in response, response["errors"]
    return response["data"]


SUMMARY = "{ series { name label kind model firstRunDate retiredAt profiles { seq } } }"


async def test_an_empty_record(pool):
    assert await ask_data(pool, '{ series { name } seriesNamed(name: "main") { name } }') == {
        "series": [],
        "seriesNamed": None,
    }


async def test_a_record_that_was_never_sealed(database, pool):
    """Its series are those of its batches, with no profile; the name is the label."""
    write(database, write_one_series)
    (series,) = (await ask_data(pool, SUMMARY))["series"]
    assert series == {
        "name": "main",
        "label": "main",
        "kind": "MODEL",
        "model": None,
        "firstRunDate": "2026-01-05",
        "retiredAt": None,
        "profiles": [],
    }


async def test_three_series(database, pool, snapshot):
    """A control, a retired model, and a model that changed; sorted by name."""
    write(database, write_three_series)
    summary = (await ask_data(pool, SUMMARY))["series"]
    assert [
        (one["name"], one["label"], one["kind"], one["model"], len(one["profiles"]))
        for one in summary
    ] == [
        ("claude", "Claude, with tools", "MODEL", "claude-test", 2),
        ("dice", "Dice", "RANDOM", None, 1),
        ("main", "Main", "MODEL", "gpt-test-2", 2),
    ]
    assert [one["retiredAt"] for one in summary] == [format_timestamp(RETIRED_AT), None, None]
    assert await ask_data(pool, PUBLIC_DOCUMENTS["AllSeries"]) == snapshot(name="AllSeries")
    for name in ("claude", "dice", "main"):
        shown = await ask_data(pool, PUBLIC_DOCUMENTS["OneSeries"], name=name)
        assert shown == snapshot(name=f"OneSeries {name}")


async def test_nine_series(database, pool):
    """Series that have no batch yet are listed, too; pairs are counted with all of them."""
    write(database, write_nine_series)
    data = await ask_data(
        pool,
        """{
            series { name firstRunDate latestBatch { id } trackRecord { batches { total } } }
            comparison(a: "main", b: "dice") { weeks comparisons }
        }""",
    )
    names = [one["name"] for one in data["series"]]
    assert names == ["claude", "dice", "main", *(f"model-{number}" for number in range(6))]
    assert data["series"][-1] == {
        "name": "model-5",
        "firstRunDate": None,
        "latestBatch": None,
        "trackRecord": {"batches": {"total": 0}},
    }
    assert data["comparison"] == {"weeks": 3, "comparisons": 36}


async def test_a_series_that_is_not_there(database, pool):
    """An unknown name is no error: it is what was asked."""
    write(database, write_three_series)
    for name in ("nobody", "Main", "", "a'b$1 %s"):
        data = await ask_data(pool, "query($n: String!) { seriesNamed(name: $n) { name } }", n=name)
        assert data == {"seriesNamed": None}


async def test_a_profile_in_full(database, pool):
    """The text is what the entry has, and its SHA-256 is the one that questions name."""
    write(database, write_three_series)
    query = (
        """{ seriesNamed(name: "claude") { profiles { text sha256 extraBody tools retired } } }"""
    )
    first, second = (await ask_data(pool, query))["seriesNamed"]["profiles"]
    assert json.loads(first["text"]) == CLAUDE
    assert first["text"] == journal.canonical_json(CLAUDE)
    assert first["sha256"] == profile_hash(CLAUDE)
    assert json.loads(first["extraBody"]) == {"provider": {"require_parameters": True}}
    assert (first["tools"], first["retired"], second["retired"]) == (True, False, True)


async def test_the_universe_of_a_control(database, pool):
    write(database, write_three_series)
    query = """{ seriesNamed(name: "dice") { profiles {
        universe universeSize universeSource drawVersion model baseUrl temperature maxTokens tools
        answerSchema } } }"""
    (profile,) = (await ask_data(pool, query))["seriesNamed"]["profiles"]
    assert profile == {
        "universe": "AAPL BRK.B KO",
        "universeSize": 3,
        "universeSource": "a test's list",
        "drawVersion": "1",
        "model": None,
        "baseUrl": None,
        "temperature": None,
        "maxTokens": None,
        "tools": False,
        "answerSchema": None,
    }


async def test_what_was_asked_of_whom(database, pool):
    """Each batch shows the profile that its accepted question names, also after a change."""
    write(database, write_three_series)
    query = (
        "query($s: String!) { batches(series: $s) { nodes { runDate profile { model sha256 } } } }"
    )
    nodes = (await ask_data(pool, query, s="main"))["batches"]["nodes"]
    assert nodes == [
        {
            "runDate": str(day),
            "profile": {"model": profile["model"], "sha256": profile_hash(profile)},
        }
        for day, profile in ((THIRD, CHANGED_MODEL), (SECOND, CHANGED_MODEL), (FIRST, MODEL))
    ]
    query = (
        '{ seriesNamed(name: "dice") { latestBatch { series profile { universeSize sha256 } } } }'
    )
    latest = (await ask_data(pool, query))["seriesNamed"]["latestBatch"]
    assert latest == {
        "series": "dice",
        "profile": {"universeSize": 3, "sha256": profile_hash(DICE)},
    }


async def test_a_profile_that_comes_back(database, pool):
    """After a change and a change back, each batch shows the entry that held on its Monday."""

    def back_again(record: Record) -> None:
        write_three_series(record)
        declare(record, "main", MODEL, at=RETIRED_AT, holds_from=date_after(THIRD))

    write(database, back_again)
    query = "{ batches { nodes { runDate profile { holdsFrom model } } } }"
    nodes = (await ask_data(pool, query))["batches"]["nodes"]
    assert nodes[-1]["profile"] == {"holdsFrom": str(FIRST), "model": "gpt-test"}


def date_after(run_date):
    """Return the Monday a week later."""
    return run_date.fromordinal(run_date.toordinal() + 7)


async def test_a_series_that_comes_back(database, pool):
    """A series that is in the file again is not retired any more."""

    def back_again(record: Record) -> None:
        write_three_series(record)
        declare(record, "claude", CLAUDE, at=datetime(2026, 1, 20, tzinfo=UTC), holds_from=THIRD)

    write(database, back_again)
    (claude, *_) = (await ask_data(pool, SUMMARY))["series"]
    assert (claude["label"], claude["retiredAt"], len(claude["profiles"])) == ("Claude", None, 3)


DAMAGES = {
    "no JSON": "'{'",
    "a list": "'[]'",
    "no series": "'{}'",
    "a series that is a text": '\'{"series":"main"}\'',
    "a series without a name": '\'{"series":{"label":"x"}}\'',
    "an empty name": '\'{"series":{"name":""}}\'',
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.sampled(2)
async def test_a_damaged_entry(content, unchecked, unchecked_pool):
    """It is left out: the series stays, with what its other entries and its batches say."""
    pool = unchecked_pool
    for text in ("gpt-test-2", "universe"):
        damage(
            unchecked,
            f"UPDATE journal SET content = {content} WHERE kind = 'SERIES' "
            f"AND content LIKE '%{text}%'",
        )
    summary = {one["name"]: one for one in (await ask_data(pool, SUMMARY))["series"]}
    assert {name: (one["label"], one["model"]) for name, one in summary.items()} == {
        "claude": ("Claude, with tools", "claude-test"),
        "dice": ("dice", None),
        "main": ("Main", "gpt-test"),
    }
    batches = await ask_data(pool, "{ batches { nodes { profile { model } } } }")
    assert batches["batches"]["nodes"] == [
        {"profile": None},
        {"profile": None},
        {"profile": {"model": "gpt-test"}},
    ]


@pytest.mark.parametrize(
    ("member", "value", "field"),
    [
        ("kind", "oracle", "kind"),
        ("holds_from", "soon", "profiles { holdsFrom }"),
        ("profile_sha256", None, "profiles { sha256 }"),
        ("label", None, "label"),
    ],
)
@pytest.mark.sampled(2)
async def test_an_entry_that_breaks_the_schema(member, value, field, database, pool):
    """The error names the entry or the series; what does not depend on it is answered."""
    write(database, lambda record: declare(record, "main", MODEL, **{member: value}))
    response = await ask(pool, f'{{ seriesNamed(name: "main") {{ name {field} }} }}')
    assert response["data"] == {"seriesNamed": None}
    (error,) = response["errors"]
    assert error["extensions"]["code"] == "RECORD_DAMAGED"
    assert "main" in error["message"] or "the row 1 of profiles" in error["message"]


async def test_odd_values_of_a_profile(database, pool):
    """A number that is none is null; the text shows what the entry has."""
    odd = {
        **MODEL,
        "max_tokens": "many",
        "temperature": "1e9",
        "timeout_seconds": "",
        "tools": "no",
    }
    write(database, lambda record: declare(record, "main", odd))
    query = "{ series { profiles { maxTokens temperature timeoutSeconds tools text } } }"
    (series,) = (await ask_data(pool, query))["series"]
    (profile,) = series["profiles"]
    assert json.loads(profile.pop("text")) == odd
    assert profile == {
        "maxTokens": None,
        "temperature": None,
        "timeoutSeconds": None,
        "tools": False,
    }


# The names of series


async def test_a_new_series_is_known_at_once(database, pool):
    """A process that has never seen a name reads the record's names before it refuses one."""
    write(database, write_three_series)
    engine = engine_of(pool)
    query = "query($s: String!) { latestBatch(series: $s) { series } }"
    answer = json.loads((await engine.execute(query, {"s": "dice"})).body)
    assert answer == {"data": {"latestBatch": {"series": "dice"}}}
    refused = json.loads((await engine.execute(query, {"s": "nobody"})).body)
    (error,) = refused["errors"]
    assert error["extensions"]["code"] == "BAD_SERIES"
    assert error["message"] == 'There is no series "nobody". The series: claude, dice, main.'


# Track records of several series


FIGURES = "batches { total scored } picks { hits } weeklyExcess { meanPct } verdict { words }"


async def test_track_records_equal_those_of_the_root(database, pool):
    """The value of a series is the one of `trackRecord(series:)`, with the same arguments."""
    write(database, write_three_series)
    for arguments in ("", '(from: "2026-01-12")', "(action: SELL)"):
        inside = await ask_data(
            pool, f"{{ series {{ name trackRecord{arguments} {{ series {FIGURES} }} }} }}"
        )
        for one in inside["series"]:
            more = arguments[1:-1]
            query = f'{{ trackRecord(series: "{one["name"]}" {more}) {{ series {FIGURES} }} }}'
            root = await ask_data(pool, query)
            assert one["trackRecord"] == root["trackRecord"]
            assert one["trackRecord"]["series"] == one["name"]


async def test_a_track_record_by_profile(database, pool):
    """Of a series whose model has changed, only the batches of one model count; no verdict."""
    write(database, write_three_series)
    query = """query($profile: String) {
        trackRecord(profile: $profile) {
            firstRunDate lastRunDate batches { total scored } verdict { nextLook } }
        seriesNamed(name: "main") { trackRecord(profile: $profile) { batches { total } } }
    }"""
    figures = {}
    for name, profile in (("old", MODEL), ("new", CHANGED_MODEL), ("dice", DICE)):
        data = await ask_data(pool, query, profile=profile_hash(profile))
        record = data["trackRecord"]
        assert record["verdict"] == {"nextLook": None}
        assert data["seriesNamed"]["trackRecord"]["batches"]["total"] == record["batches"]["total"]
        figures[name] = (record["firstRunDate"], record["lastRunDate"], record["batches"])
    assert figures == {
        "old": (str(FIRST), str(FIRST), {"total": 1, "scored": 1}),
        "new": (str(SECOND), str(THIRD), {"total": 2, "scored": 1}),
        "dice": (None, None, {"total": 0, "scored": 0}),
    }
    whole = (await ask_data(pool, query))["trackRecord"]
    assert (whole["batches"]["total"], whole["verdict"]) == (3, {"nextLook": "2027-01-04"})


@pytest.mark.parametrize("text", ["", "a" * 63, "A" * 64, "sha256:" + "a" * 64])
async def test_a_text_that_is_no_hash(text, pool):
    query = "query($p: String) { trackRecord(profile: $p) { series } }"
    response = await ask(pool, query, p=text)
    assert response["data"] is None
    assert [error["extensions"]["code"] for error in response["errors"]] == ["BAD_HASH"]


async def test_a_track_record_is_computed_once(database, pool):
    """However it is asked for, and however often, each series is computed once."""
    write(database, write_three_series)
    engine = engine_of(pool)
    for query in (
        f"{{ series {{ trackRecord {{ {FIGURES} }} }} }}",
        f"{{ series {{ again: trackRecord {{ {FIGURES} }} name }} }}",
        f'{{ trackRecord(series: "dice") {{ {FIGURES} }} }}',
        f'{{ seriesNamed(name: "main") {{ trackRecord {{ {FIGURES} }} }} }}',
    ):
        assert "errors" not in json.loads((await engine.execute(query)).body)
    assert engine.value_computer.computed_count == 3


async def test_merged_and_skipped_track_records(database, pool):
    """Fragments are merged, and directives hold, as everywhere."""
    write(database, write_three_series)
    query = """query($no: Boolean!) {
            series { ...A ...B trackRecord @skip(if: $no) { __typename } other: __typename }
            all: series { trackRecord @include(if: $no) { series } }
        }
        fragment A on Series { trackRecord { picks { hits } } }
        fragment B on Series { trackRecord { picks { total } } }"""
    data = await ask_data(pool, query, no=True)
    assert data["series"][1] == {
        "trackRecord": {"picks": {"hits": 2, "total": 6}},
        "other": "Series",
    }
    assert data["all"] == [{"trackRecord": {"series": name}} for name in ("claude", "dice", "main")]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ('trackRecord(from: "2026-02-01", to: "2026-01-01") { series }', "BAD_RANGE"),
        ("batches(first: 0) { nodes { id } }", "BAD_PAGE_SIZE"),
        ('batches(after: "!!") { nodes { id } }', "BAD_CURSOR"),
    ],
)
@pytest.mark.sampled(2)
async def test_a_refused_argument_inside_a_series(field, code, database, pool):
    """The field of the root is null, or nothing is answered if it must not be."""
    write(database, write_three_series)
    response = await ask(
        pool, f'{{ a: seriesNamed(name: "main") {{ {field} }} service {{ version }} }}'
    )
    assert response["data"] == {"a": None, "service": {"version": "1.2.3"}}
    assert [error["extensions"]["code"] for error in response["errors"]] == [code]
    response = await ask(pool, f"{{ series {{ {field} }} }}")
    assert response["data"] is None
    assert [error["extensions"]["code"] for error in response["errors"]] == [code]


async def test_a_damaged_track_record_of_a_series(unchecked, unchecked_pool):
    """Of a list of series nothing is left; of one series, the other fields of the root stay."""
    pool = unchecked_pool
    damage(
        unchecked,
        "UPDATE checkpoints SET benchmark_return_pct = 'NaN' WHERE day = 12 AND batch_id IN "
        "(SELECT id FROM batches WHERE series = 'dice')",
    )
    response = await ask(pool, "{ series { name trackRecord { series } } }")
    assert response["data"] is None
    (error,) = response["errors"]
    assert error["path"] == ["series", 1, "trackRecord"]
    assert "a change of the benchmark of the Monday 2026-01-05 is missing" in error["message"]
    response = await ask(
        pool,
        """{ dice: seriesNamed(name: "dice") { trackRecord { series } }
            main: seriesNamed(name: "main") { trackRecord { series } } }""",
    )
    assert response["data"] == {"dice": None, "main": {"trackRecord": {"series": "main"}}}
    assert [error["path"] for error in response["errors"]] == [["dice", "trackRecord"]]


async def test_damage_beside_a_track_record(unchecked, unchecked_pool):
    """Damage that Postgres finds and damage of a computed value are reported together."""
    pool = unchecked_pool
    damage(
        unchecked,
        "UPDATE picks SET ticker = 'no' || position WHERE batch_id IN "
        "(SELECT id FROM batches WHERE series = 'dice' AND run_date = '2026-01-12')",
    )
    response = await ask(
        pool,
        """{ dice: seriesNamed(name: "dice") {
                latestBatch { runDate picks { ticker } } trackRecord { series } }
            main: seriesNamed(name: "main") { latestBatch { runDate } trackRecord { series } } }""",
    )
    assert response["data"]["dice"] is None
    assert response["data"]["main"]["trackRecord"] == {"series": "main"}
    assert {error["extensions"]["code"] for error in response["errors"]} == {"RECORD_DAMAGED"}


# What it may cost


def several(field: str, count: int) -> str:
    """Return a document that asks for the same field several times."""
    return "{ " + " ".join(f"a{n}: {field}" for n in range(count)) + " }"


@pytest.mark.parametrize(
    ("query", "is_allowed"),
    [
        (PUBLIC_DOCUMENTS["AllSeries"], True),
        (PUBLIC_DOCUMENTS["OneSeries"], True),
        ("{ series { trackRecord { curve { sumPct } } } }", True),
        ("{ series { trackRecord { curve { runDate sumPct } } } }", False),
        ("{ series { latestBatch { picks { ticker action reasoning } } } }", True),
        ("{ series { batches(first: 100) { nodes { runDate status } } } }", True),
        ("{ series { batches(first: 100) { nodes { picks { ticker } } } } }", True),
        ("{ series { batches(first: 100) { nodes { checkpoints { day } } } } }", False),
        (several("series { trackRecord { series } }", 4), True),
        (several("series { trackRecord { series } }", 5), False),
        (several('comparison(a: "x", b: "y") { weeks }', 2), True),
        (several('comparison(a: "x", b: "y") { weeks }', 3), False),
        ("{ series { profiles { text extraBody answerSchema universe } } }", True),
    ],
)  # fmt: skip
def test_what_may_be_asked_at_once(query, is_allowed):
    """A list of series is measured as 32 of them; a track record inside it costs as much as one."""
    measure = DocumentMeasure(schema, parse_document(query))
    (size,) = measure.operations.values()
    if is_allowed:
        size.check_values({})
        return
    with pytest.raises(Exception, match="the limit is"):
        size.check_values({})


async def test_the_rows_of_all_track_records_are_limited(database, pool, monkeypatch):
    """The rows of all series together are limited, also where a long response would be allowed."""
    write(database, write_three_series)
    monkeypatch.setattr("api.engine.MAX_RESULT_BYTES", 2_000)
    engine = engine_of(pool)
    query = "{ series { trackRecord { series } } }"
    plan = engine._plan(query, None, (), max_bytes=2_000)
    engine.own_plans.put(plan, query, None, (), ())
    answer = json.loads((await engine.execute(query)).body)
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "ANSWER_TOO_LARGE"
    assert "The rows from which a track record is computed" in error["message"]


# Comparisons


async def test_a_comparison(database, pool, snapshot):
    write(database, write_three_series)
    variables = {"a": "main", "b": "claude"}
    data = await ask_data(pool, PUBLIC_DOCUMENTS["Comparison"], **variables)
    assert data == snapshot
    assert data["comparison"]["weeks"] == 3


async def test_too_little_to_compare(database, pool):
    """A series without two weeks in common has no comparison; that is no error."""
    write(database, write_nine_series)
    data = await ask_data(pool, '{ comparison(a: "main", b: "model-1") { weeks } }')
    assert data == {"comparison": None}


@pytest.mark.parametrize("pair", [("main", "main"), ("main", "nobody"), ("Main", "main")])
@pytest.mark.sampled(1)
async def test_no_pair_of_series(pair, database, pool):
    plant(database)
    query = "query($a: String!, $b: String!) { comparison(a: $a, b: $b) { weeks } }"
    response = await ask(pool, query, a=pair[0], b=pair[1])
    assert response["data"] == {"comparison": None}
    assert [error["extensions"]["code"] for error in response["errors"]] == ["BAD_SERIES"]
