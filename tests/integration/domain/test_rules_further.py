"""
The rules of further benchmarks: which a batch has, when they are measured, and their corrections.

Each forgery is a rewritten record, chain and rows, that only the named rule detects. The record has
a fortnight with BENCHMARKS=SPY,RSP, and a split of RSP that was listed a week after it.
"""

import asyncio
from copy import deepcopy
from datetime import timedelta

import psycopg
import pytest
from commands import run
from further_fortnights import harness_with, live
from job_context import MONDAY, HandSetClock, new_york
from record_server import copy_of
from tampering import Content, forge, one_of_each_rule, shifted

from app.database import migrations
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

SPLIT_DAY = MONDAY + timedelta(days=8)


@pytest.fixture(scope="session")
def fortnight(made_once) -> str:
    """The address of the record."""
    return made_once("further", lambda address: asyncio.run(_record(address)))


async def _record(address: str) -> None:
    clock = HandSetClock(new_york(MONDAY))
    await migrations.migrate(address, clock.now())
    async with harness_with(address, clock, BENCHMARKS="SPY,RSP") as harness:
        harness.world.prices["RSP"] = "51.0000"
        for days in range(60):
            harness.world.closes["RSP", SPLIT_DAY - timedelta(days=days + 1)] = "100.0000"
        await harness.make_batch()
        await live(harness)
        harness.world.splits["RSP"] = [(SPLIT_DAY, "2.0000")]
        await live(harness, until=MONDAY + timedelta(days=20))


def of_kind(contents: list[Content], kind: str) -> Content:
    return next(content for content in contents if content["kind"] == kind)


def benchmark(**values: str):
    """Return a change of the row in all its mentions."""

    def change(contents):
        for content in contents:
            content.get("further_benchmark", {}).update(values)

    return change


def declared(*further: str):
    """Return a change of the further benchmarks of the first settings."""

    def change(contents):
        contents[0]["settings"]["further_benchmarks"] = list(further)

    return change


def before_the_end(contents):
    """Move the measurement before the last checkpoint."""
    entry = of_kind(contents, "EXTENSION")
    last = next(one for one in contents if one.get("batch", {}).get("status") == "completed")
    contents.remove(entry)
    contents.insert(contents.index(last), entry)


def of_another_day(contents):
    """Measure the day before the result in place of it."""
    entry = of_kind(contents, "EXTENSION")
    session = str(MONDAY + timedelta(days=10))
    (close,) = [
        row
        for content in contents
        if content["kind"] == "READINGS"
        for row in content["closes"]
        if (row["ticker"], row["trading_day"]) == ("RSP", session)
    ]
    entry["closes"][1] = close
    for content in contents:
        if "further_benchmark" in content:
            content["further_benchmark"]["trading_day"] = session
            content["further_benchmark"]["further_close_id"] = close["id"]


def without_splits(contents):
    """Leave out the responses with splits of RSP before the measurement."""
    end = contents.index(of_kind(contents, "EXTENSION"))
    return [
        content
        for number, content in enumerate(contents)
        if number > end
        or content.get("response", {}).get("ticker") != "RSP"
        or content["response"]["kind"] != "SPLITS"
    ]


def other_closes(contents):
    of_kind(contents, "EXTENSION")["closes"].reverse()


def twice(contents):
    entry = of_kind(contents, "EXTENSION")
    contents.insert(contents.index(entry) + 1, deepcopy(entry))


def of_spy(contents):
    """Use a reading of the benchmark for the further benchmark."""
    entry = of_kind(contents, "EXTENSION")
    initial = next(row for row in of_kind(contents, "BATCH")["closes"] if row["ticker"] == "SPY")
    entry["closes"][0] = initial
    benchmark(further_initial_close_id=initial["id"])(contents)


def without_the_correction(contents):
    """Leave out the correction: the row stays as it was measured."""
    correction = of_kind(contents, "CORRECTION")
    assert correction["further_benchmark"]
    contents.remove(correction)


def unstated(contents):
    """Correct the row, and state the correction of one of its figures only."""
    of_kind(contents, "CORRECTION")["corrections"].pop()


def another_price(contents):
    of_kind(contents, "CORRECTION")["further_benchmark"]["further_price"] = "52.0000"


def later(contents):
    entry = of_kind(contents, "EXTENSION")
    entry["at"] = shifted(entry["at"], minutes=5)


FORGERIES = [
    pytest.param("further-benchmark", declared("IWM"), id="not declared"),
    pytest.param("further-benchmark", declared("IWM", "RSP"), id="another place"),
    pytest.param("further-benchmark", benchmark(position="2"), id="a wrong position"),
    pytest.param(
        "further-benchmark", benchmark(id="0" * 8 + "-0000-0000-0000-" + "0" * 12), id="id"
    ),
    pytest.param("further-benchmark", before_the_end, id="before the end"),
    pytest.param("further-benchmark", of_another_day, id="another day"),
    pytest.param("further-benchmark", without_splits, id="splits not requested"),
    pytest.param("further-benchmark", other_closes, id="closes in another order"),
    pytest.param("first-mention", twice, id="measured twice"),
    pytest.param("reading", of_spy, id="a reading of another ticker"),
    pytest.param("figure", benchmark(further_return_pct="50"), id="a better return"),
    pytest.param("figure", benchmark(further_split_factor="3.0000"), id="another factor"),
    pytest.param("split-counted", without_the_correction, id="a split is not counted"),
    pytest.param("corrected", unstated, id="a correction is not stated"),
    pytest.param("figure", another_price, id="a price changes"),
    pytest.param("at", later, id="another time"),
    pytest.param("settings", declared(), id="none of them"),
    pytest.param("settings", declared("RSP", "SPY"), id="the benchmark is among them"),
    pytest.param("settings", declared("RSP", "RSP"), id="one of them twice"),
    pytest.param("settings", declared("rsp"), id="no ticker"),
    pytest.param("row-form", benchmark(symbol="rsp"), id="a symbol that is no ticker"),
    pytest.param("row-form", benchmark(further_price="0"), id="no price"),
]


async def test_the_record_fits(fortnight):
    assert await discrepancies_of(fortnight) == []


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery_of_a_further_benchmark(fortnight, create, rule, change):
    await check_forgery(copy_of(fortnight, create), change, rule)


async def test_a_row_that_was_changed(fortnight, create):
    """A row that differs from its last mention, and one without a mention, are found."""
    copy = copy_of(fortnight, create)
    with psycopg.connect(copy) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE further_benchmarks SET further_return_pct = 50")
    for text in await discrepancies_of(copy):
        assert "further_return_pct is '50' in the record" in text
        assert text.endswith("(rule: row)")


async def test_a_way_back_and_forth_loses_nothing(fortnight, create):
    """The rows come back from the journal, each with the values of its last mention."""
    copy = copy_of(fortnight, create)
    query = "SELECT * FROM further_benchmarks"
    with psycopg.connect(copy) as conn:
        before = conn.execute(query).fetchall()
    assert len(before) == 1
    await migrations.migrate(copy, new_york(MONDAY), down_to=23)
    await migrations.migrate(copy, new_york(MONDAY))
    with psycopg.connect(copy) as conn:
        assert conn.execute(query).fetchall() == before
    assert await discrepancies_of(copy) == []


@pytest.mark.long
def test_a_backup(fortnight, create, tmp_path):
    """A backup holds the rows, and a restored record fits."""
    archive, restored = tmp_path / "backup.zip", create()
    run("backup", str(archive), cwd=tmp_path, DATABASE_URL=fortnight)
    run("restore", str(archive), cwd=tmp_path, DATABASE_URL=restored)
    assert asyncio.run(discrepancies_of(restored)) == []


def test_forge_changes_nothing_by_itself(fortnight, create):
    copy = copy_of(fortnight, create)
    forge(copy, lambda contents: contents)
    assert asyncio.run(discrepancies_of(copy)) == []
