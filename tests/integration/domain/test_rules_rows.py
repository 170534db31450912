"""
Forgeries of the chain, of rows that the journal does not mention, and of prices and figures.

The kind: an entry or a row that was changed alone; and a price, a figure or a mark, changed with
its whole chain, that does not agree with the rows that it names.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from decimal import Decimal

import psycopg
import pytest
from record_server import (
    CHANGES,
    PICK,
    changed,
    copy_of,
    record_server,
    rehearsed,
    silent,
    unguarded,
)
from tampering import Content, entry_of, one_of_each_rule

from app.errors import Discrepancy
from app.ops.verify import open_api, open_database, verify
from tests.integration.domain.test_rules import check_forgery

__all__ = ["rehearsed"]

MONDAY = "2026-10-12"
LAST = "seq = (SELECT max(seq) FROM journal)"


def rewritten(change: Callable[[str], str]) -> Callable[[str], None]:
    """Return a change of the newest entry's content, with a correct hash."""

    def write(address: str) -> None:
        with unguarded(address) as conn:
            previous, content = conn.execute(
                f"SELECT previous, content FROM journal WHERE {LAST}"
            ).fetchone()
            content = change(content)
            hashed = hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()
            conn.execute(
                f"UPDATE journal SET content = %s, hash = %s WHERE {LAST}", [content, hashed]
            )

    return write


def without_order(content: str) -> str:
    """Return the content with its members in reverse order."""
    return json.dumps(
        dict(reversed(json.loads(content).items())), ensure_ascii=False, separators=(",", ":")
    )


def by_sql(statements: str) -> Callable[[str], None]:
    """Return a change by these statements."""
    return lambda address: changed(address, statements)


FORGERIES_BY_SQL = [
    pytest.param(
        "chain", by_sql("DELETE FROM journal WHERE seq = 17"), id="chain: an entry deleted"
    ),
    pytest.param(
        "chain",
        by_sql("UPDATE journal SET content = content || ' ' WHERE seq = 17"),
        id="chain: another content",
    ),
    pytest.param(
        "chain",
        by_sql("UPDATE journal SET previous = repeat('1', 64) WHERE seq = 17"),
        id="chain: another previous",
    ),
    pytest.param(
        "chain",
        by_sql("UPDATE journal SET hash = repeat('0', 64) WHERE seq = 17"),
        id="chain: another hash",
    ),
    pytest.param(
        "head", by_sql(f"DELETE FROM journal WHERE {LAST}"), id="head: the last entry deleted"
    ),
    pytest.param(
        "head",
        rewritten(lambda content: content.replace(".", ".1", 1)),
        id="head: the newest entry rewritten",
    ),
    pytest.param(
        "canonical",
        rewritten(lambda content: content.replace('":', '": ', 1)),
        id="canonical: a space",
    ),
    pytest.param("canonical", rewritten(without_order), id="canonical: another order"),
    pytest.param(
        "canonical",
        rewritten(lambda content: content.replace('"seq":', '"none":null,"seq":')),
        id="canonical: a null",
    ),
    pytest.param(
        "canonical",
        rewritten(lambda content: content.replace("a", "\\u0061", 1)),
        id="canonical: an escape",
    ),
    pytest.param(
        "canonical",
        rewritten(lambda content: content.replace('"seq":"', '"seq":', 1).replace('"}', "}", 1)),
        id="canonical: a number",
    ),
    pytest.param(
        "canonical", rewritten(lambda content: content[:-1]), id="canonical: a cut content"
    ),
    pytest.param(
        "columns",
        by_sql(f"UPDATE journal SET kind = 'FAILURE' WHERE {LAST}"),
        id="columns: another kind",
    ),
    pytest.param(
        "columns",
        by_sql(f"UPDATE journal SET at = at + interval '1 second' WHERE {LAST}"),
        id="columns: another time",
    ),
    pytest.param(
        "columns",
        rewritten(lambda content: content.replace('"seq":"', '"seq":"1')),
        id="columns: another number",
    ),
    *(
        pytest.param("row", by_sql(case.values[0]), id=f"row: {case.id}")
        for case in CHANGES
        if "journal" not in case.values[0]
    ),
    pytest.param(
        "row",
        by_sql(f"DELETE FROM pick_checkpoint_metrics WHERE pick_id = {PICK}"),
        id="row: deleted metrics",
    ),
    pytest.param(
        "row",
        by_sql(
            "INSERT INTO generations (id, series, run_date, attempt, asked_at, requested_model, "
            "prompt_version, system_prompt, user_prompt, accepted, refusal) SELECT "
            "gen_random_uuid(), series, run_date, 2, asked_at, requested_model, "
            "prompt_version, system_prompt, user_prompt, false, 'No.' FROM generations "
            f"WHERE run_date = '{MONDAY}'"
        ),
        id="row: a question that no entry mentions",
    ),
]


# Prices and figures.


def metric_of(contents: list[Content], day: str) -> dict[str, str]:
    """Return the first metric of a day."""
    return entry_of(contents, "CHECKPOINT", run_date=MONDAY, day=day)["metrics"][0]


def more(row: dict[str, str], *columns: str) -> None:
    """Add one to some columns."""
    for column in columns:
        row[column] = str(Decimal(row[column]) + 1)


def another_figure(contents: list[Content]) -> None:
    """Raise the return of a share, and its difference to the benchmark."""
    more(metric_of(contents, "3"), "absolute_return_pct", "vs_benchmark_pct")


def another_price(contents: list[Content]) -> None:
    """Raise a price, so that it differs from its reading."""
    more(metric_of(contents, "3"), "current_price")


def another_difference(contents: list[Content]) -> None:
    """Raise only the difference to the benchmark."""
    more(metric_of(contents, "3"), "vs_benchmark_pct")


def another_return_from_the_open(contents: list[Content]) -> None:
    """Raise the return from the open."""
    more(metric_of(contents, "3"), "return_from_open_pct")


def another_factor(contents: list[Content]) -> None:
    """Count a split that does not exist."""
    more(metric_of(contents, "3"), "split_factor")


def another_benchmark(contents: list[Content]) -> None:
    """Raise the benchmark's return."""
    more(
        entry_of(contents, "CHECKPOINT", run_date=MONDAY, day="3")["checkpoint"],
        "benchmark_return_pct",
    )


def a_reading_of_another_session(contents: list[Content]) -> None:
    """Give a metric the reading of the day before."""
    metric_of(contents, "3")["close_id"] = metric_of(contents, "2")["close_id"]


def a_reading_of_another_pick(contents: list[Content]) -> None:
    """Give a metric the reading of the second pick."""
    metrics = entry_of(contents, "CHECKPOINT", run_date=MONDAY, day="3")["metrics"]
    metrics[0]["close_id"] = metrics[1]["close_id"]


def a_reading_that_is_not_there(contents: list[Content]) -> None:
    """Give a metric a reading that no entry has."""
    metric_of(contents, "3")["close_id"] = "00000000-0000-4000-8000-000000000001"


def a_baseline_of_another_share(contents: list[Content]) -> None:
    """Give a pick the benchmark's reading."""
    entry = entry_of(contents, "BATCH", run_date=MONDAY)
    entry["picks"][0]["initial_close_id"] = entry["batch"]["benchmark_initial_close_id"]


def a_forced_renaming(session: str, after_day: str) -> Callable[[list[Content]], None]:
    """Return a change that renames a pick, and sets no mark."""

    def change(contents: list[Content]) -> None:
        former = entry_of(contents, "CHECKPOINT", run_date=MONDAY, day=after_day)
        id = metric_of(contents, "3")["pick_id"]
        picks = [row for content in contents for row in content.get("picks", []) if row["id"] == id]
        ticker = picks[0]["ticker"]
        renamed = {
            "kind": "PICK_RENAMED",
            "at": former["at"],
            "before": ticker,
            "pick": {**picks[-1], "ticker": "NEWER"},
            "renaming": {"pick_id": id, "from_session": session, "source": "8-K", "forced": "true"},
        }
        at = contents.index(former) + 1
        contents.insert(at, renamed)
        ids = set()
        for content in contents[at + 1 :]:
            for pick in content.get("picks", []):
                if pick["id"] == id:
                    pick["ticker"] = "NEWER"
            for metric in content.get("metrics", []):
                if metric["pick_id"] == id:
                    ids.add(metric["close_id"])
        for content in contents:
            for close in content.get("closes", []):
                if close["id"] in ids and close["trading_day"] >= session:
                    close["ticker"] = "NEWER"

    return change


FORGERIES = [
    pytest.param("figure", another_figure, id="figure: a return"),
    pytest.param("figure", another_price, id="figure: a price"),
    pytest.param("figure", another_difference, id="figure: a difference"),
    pytest.param("figure", another_return_from_the_open, id="figure: a return from the open"),
    pytest.param("figure", another_factor, id="figure: a factor"),
    pytest.param("figure", another_benchmark, id="figure: a return of the benchmark"),
    pytest.param("reading", a_reading_of_another_session, id="reading: of another session"),
    pytest.param("reading", a_reading_of_another_pick, id="reading: of another pick"),
    pytest.param("reading", a_reading_that_is_not_there, id="reading: of no entry"),
    pytest.param(
        "reading", a_baseline_of_another_share, id="reading: of another share at the baseline"
    ),
    pytest.param(
        "forced-rename", a_forced_renaming("2026-10-20", "8"), id="forced-rename: not marked"
    ),
    pytest.param(
        "forced-rename",
        a_forced_renaming("2026-10-21", "10"),
        id="forced-rename: not marked on a later day",
    ),
]


def head_of(address: str) -> tuple[int, str]:
    """Return the number and hash of the newest entry."""
    with psycopg.connect(address) as conn:
        return conn.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES_BY_SQL))
async def test_a_single_change(rehearsed, create, rule, change):
    """Database and server both name the rule that the change breaks."""
    copy = copy_of(rehearsed, create)
    heads = [head_of(copy)] if rule == "head" else []
    change(copy)
    async with record_server(copy) as url:
        for opened in (open_database(copy), open_api(url, asyncio.sleep)):
            async with opened as source:
                with pytest.raises(Discrepancy) as raised:
                    await verify(source, heads, silent)
            assert str(raised.value).endswith(f"(rule: {rule})")


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery(rehearsed, create, rule, change):
    """Database and server both name the rule that the forgery breaks."""
    await check_forgery(copy_of(rehearsed, create), change, rule)


def of_journal(column: str, value: str = "NULL") -> str:
    """
    Return statements that store a value which the table does not allow in a column of an entry.
    """
    return (
        f"ALTER TABLE journal ALTER {column} DROP NOT NULL; "
        f"UPDATE journal SET {column} = {value} WHERE seq = 17; "
    )


UNREADABLE = [
    pytest.param(of_journal("hash"), "columns", "it has no hash", id="an entry without its hash"),
    pytest.param(
        of_journal("previous"), "columns", "it has no previous", id="without the previous hash"
    ),
    pytest.param(of_journal("content"), "columns", "it has no content", id="without its content"),
    pytest.param(of_journal("kind"), "columns", "it has no kind", id="without its kind"),
    pytest.param(of_journal("at"), "columns", "it has no at", id="without its time"),
    pytest.param(
        of_journal("at", "'infinity'"),
        "columns",
        "row 17 of journal has at as infinity",
        id="an infinite time",
    ),
    pytest.param(
        f"UPDATE batches SET created_at = 'infinity' WHERE run_date = '{MONDAY}'",
        "row",
        "of batches has created_at as infinity",
        id="a batch with an infinite time",
    ),
    pytest.param(
        f"UPDATE batches SET trading_day = '0044-03-15 BC' WHERE run_date = '{MONDAY}'",
        "row",
        "of batches has trading_day as 0044-03-15 BC",
        id="a session before Christ",
    ),
    pytest.param(
        "INSERT INTO closes (id, ticker, trading_day, close, source, read_at) "
        "SELECT gen_random_uuid(), '', trading_day, close, source, read_at FROM closes LIMIT 1",
        "row-form",
        "ticker",
        id="a reading without a ticker",
    ),
]


@pytest.mark.parametrize(("statements", "rule", "text"), UNREADABLE)
async def test_an_unreadable_value(rehearsed, create, statements, rule, text):
    """A value that no row can have is named as a discrepancy, without a traceback."""
    copy = copy_of(rehearsed, create)
    with unguarded(copy) as conn:
        conn.execute("ALTER TABLE closes DROP CONSTRAINT IF EXISTS ticker_is_well_formed")
        conn.execute(statements)
    with pytest.raises(Discrepancy) as raised:
        async with open_database(copy) as source:
            await verify(source, [], silent)
    assert text in str(raised.value)
    assert str(raised.value).endswith(f"(rule: {rule})")


@pytest.mark.parametrize("run_date", ["2026-10-05", "2026-10-12", "2026-10-26"])
async def test_a_second_batch_of_a_monday(rehearsed, create, run_date):
    """
    A second batch is noticed by the address, too, even if a page of the API ends between the two:
    the oldest batch is the fourth.
    """
    copy = copy_of(rehearsed, create)
    with unguarded(copy) as conn:
        conn.execute("ALTER TABLE batches DROP CONSTRAINT one_batch_per_run_date")
        conn.execute(
            "CREATE TEMPORARY TABLE second AS SELECT * FROM batches WHERE run_date = %s", [run_date]
        )
        conn.execute("UPDATE second SET id = gen_random_uuid()")
        conn.execute("INSERT INTO batches SELECT * FROM second")
    async with record_server(copy) as url:
        for opened in (open_database(copy), open_api(url, asyncio.sleep)):
            with pytest.raises(Discrepancy, match=r"\(rule: row\)"):
                async with opened as source:
                    await verify(source, [], silent)
