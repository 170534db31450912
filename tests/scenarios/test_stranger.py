"""A verifier that a stranger wrote from docs/journal.md, with nothing but the standard library."""

import asyncio
import hashlib
import json
import re
import urllib.request
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from commands import run, served
from graphql import parse, validate
from record_server import CHANGES, changed, copy_of, record_server, rehearsed, silent

from api.schema import schema
from app.domain.verification import MEMBERS, TABLES
from app.ops.verify import database, verify

DOCS = (Path(__file__).parents[2] / "docs" / "journal.md").read_text()
ENTRIES, ROWS, CLOSES, SPLITS = re.findall(r"```graphql\n(.*?)```", DOCS, re.DOTALL)

__all__ = ["rehearsed"]

# The stranger, from here ...

SINGLE = {"generation": "generations", "batch": "batches", "pick": "picks", "checkpoint": "checkpoints"}
MANY = {name: name for name in ("picks", "closes", "splits", "corrections")} | {"metrics": "pick_checkpoint_metrics"}


def pages(url, query, **variables):
    more = True
    while more:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{url}/graphql", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            (page,) = json.load(answer)["data"].values()
        yield from page["nodes"]
        more, variables["after"] = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]


def row_of(table, node, **parent):
    row = dict(parent)
    for name, value in node.items():
        column = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
        if isinstance(value, dict):
            column, value = f"{column}_id", value["id"]
        if value is not None and not isinstance(value, list):
            row[column] = str(value).lower() if isinstance(value, bool) or name == "status" else str(value)
    key = row.get("id") or (row["ticker"], row["effective_date"], row["read_at"])
    return (table, key), row


def rows_of(url, series, tickers):
    for batch in (batch for one in series for batch in pages(url, ROWS, first=3, series=one)):
        yield row_of("batches", batch)
        yield from (row_of("picks", pick, batch_id=batch["id"]) for pick in batch["picks"])
        for one in batch["generations"]:
            yield row_of("generations", one, series=batch["series"], run_date=batch["runDate"])
        for day in batch["checkpoints"]:
            yield row_of("checkpoints", day, batch_id=batch["id"])
            for member in ("metrics", "corrections"):
                yield from (row_of(MANY[member], one, checkpoint_id=day["id"]) for one in day[member])
    for table, query in (("closes", CLOSES), ("splits", SPLITS)):
        yield from (row_of(table, one) for t in tickers for one in pages(url, query, first=100, ticker=t))


def check_figures(rows, last, endings):
    for (table, _), row in rows:
        number = {name: Decimal(text) for name, text in row.items() if name.endswith(("price", "pct", "factor"))}
        if table == "checkpoints" and "benchmark_return_pct" in row:
            initial = Decimal(last["batches", row["batch_id"]]["benchmark_initial_price"])
            price, factor = number["benchmark_price"], number["benchmark_split_factor"]
            assert number["benchmark_return_pct"] == (price * factor - initial) / initial * 100, f"figure of {row}"
            assert price == Decimal(last["closes", row["benchmark_close_id"]]["close"]), f"price of {row}"
        if table == "pick_checkpoint_metrics":
            initial = Decimal(last["picks", row["pick_id"]]["initial_price"])
            absolute = (number["current_price"] * number["split_factor"] - initial) / initial * 100
            benchmark = Decimal(last["checkpoints", row["checkpoint_id"]]["benchmark_return_pct"])
            assert number["absolute_return_pct"] == absolute, f"figure of {row}"
            assert number["vs_benchmark_pct"] == absolute - benchmark, f"figure of {row}"
            read = last["closes", row["close_id"]]["close"] if "close_id" in row else endings[row["pick_id"]]
            assert number["current_price"] == Decimal(read), f"price of {row}"


def verify_from_outside(url, head=None):
    before, last, endings, seq = "0" * 64, {}, {}, 0
    for seq, entry in enumerate(pages(url, ENTRIES, first=100), 1):
        content = json.loads(entry["content"])
        assert (entry["seq"], entry["previous"]) == (str(seq), before), f"chain at {seq}"
        before = hashlib.sha256(f"{before}\n{entry['content']}".encode()).hexdigest()
        assert entry["hash"] == before, f"hash of {seq}"
        written = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        assert written == entry["content"], f"form of {seq}"
        assert all(content[name] == entry[name] for name in ("seq", "kind", "at")), f"members of {seq}"
        assert not head or head[0] != seq or head[1] == before, f"head at {seq}"
        told = [row_of(SINGLE[name], row) for name, row in content.items() if name in SINGLE]
        told += [row_of(MANY[name], row) for name, rows in content.items() if name in MANY for row in rows]
        endings |= {one["pick_id"]: one["value"] for one in [content.get("ending")] if one}
        last |= dict(told)
        check_figures(told, last, endings)
    assert not head or head[0] <= seq, "tail"
    series = {row["series"] for (table, _), row in last.items() if table == "batches"}
    tickers = {row["ticker"] for (table, _), row in last.items() if table in ("closes", "splits")}
    left = dict(last)
    for key, row in rows_of(url, series, tickers):
        need_not = key[0] in ("closes", "splits") or (key[0] == "generations" and "accepted" not in row)
        assert left.pop(key, row if need_not else None) == row, f"row {key}"
    assert not left, f"gone: {min(left)}"
    return seq, len(last)


# ... to here.


async def outside(database: str, head: tuple[int, str] | None = None) -> tuple[int, int]:
    """What the stranger finds at a server of a record."""
    async with record_server(database) as url:
        return await asyncio.to_thread(verify_from_outside, url, head)


async def test_the_stranger_agrees(rehearsed, create):
    """Four weeks fit, seen from outside as from inside."""
    copy = copy_of(rehearsed, create)
    async with database(copy) as source:
        ours = await verify(source, [], silent)
    assert (await outside(copy, (ours.seq, ours.hash)))[0] == ours.seq


@pytest.mark.parametrize("statements", [pytest.param(case.values[0], id=case.id) for case in CHANGES])
async def test_the_stranger_finds_what_was_changed(rehearsed, create, statements):
    """What `verify` names, a stranger finds, too."""
    copy = copy_of(rehearsed, create)
    changed(copy, statements)
    with pytest.raises(AssertionError, match=r"row|chain"):
        await outside(copy)


async def test_the_stranger_finds_a_tail_cut_off(rehearsed, create):
    """By a copy of the head, that is."""
    copy = copy_of(rehearsed, create)
    with psycopg.connect(copy) as conn:
        head = conn.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    changed(copy, "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
    with pytest.raises(AssertionError, match="tail"):
        await outside(copy, head)


@pytest.mark.long
def test_a_year(tmp_path, create):
    """Fifty-two weeks with lying providers, over the wire of the real service: command and stranger agree."""
    address = create()
    arguments = ("rehearse", "--weeks", 52, "--until", "2026-10-30")
    with served(*arguments, cwd=tmp_path, DATABASE_URL=address) as url:
        entries, mentioned = verify_from_outside(url)
        done = run("verify", "--from", url, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stderr
        assert f"Everything fits: {entries:,} entries, " in done.stdout
    assert entries > 52 * 10
    assert mentioned > 52 * 60
    done = run("verify", cwd=tmp_path, timeout=600, DATABASE_URL=address)
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_documentation():
    """The hash is that of the entry, by the documentation's own text."""
    previous, content, hashed = re.findall(r"```(?:json)?\n([0-9a-f]{64}|\{.*\})\n```", DOCS)
    assert hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest() == hashed
    assert json.dumps(json.loads(content), sort_keys=True, separators=(",", ":")) == content


@pytest.mark.parametrize("query", [ENTRIES, ROWS, CLOSES, SPLITS], ids=["journal", "batches", "closes", "splits"])
def test_the_queries_of_the_documentation(query):
    """They ask for what the schema has."""
    assert validate(schema, parse(query)) == []


def test_the_tables_of_the_documentation():
    """Every column of every row is there, in its order, under every name that an entry gives its table."""
    told = {}
    for table, first, rows in re.findall(
        r"\*\*`(\w+)`\*\*: the row under (.*?);.*?\|---\|---\|\n(.*?)\n\n", DOCS, re.DOTALL
    ):
        told[table] = (set(re.findall(r"`(\w+)`", first)), re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE))
    names = {table: {name for name, other in MEMBERS.items() if other == table} for table in TABLES}
    assert told == {table: (names[table], list(type_.__struct_fields__)) for table, type_ in TABLES.items()}
