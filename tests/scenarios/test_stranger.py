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


def learn(content, told, shares):
    """Keep under which tickers each pick is read: pairs of a first day and the tickers from then on."""
    if renaming := content.get("renaming"):
        shares[renaming["pick_id"]].append((renaming["from_session"], [content["pick"]["ticker"]]))
    for (table, id), row in told:
        if table == "picks" and row["ticker"] not in (share := shares.setdefault(id, [("", [])]))[-1][1]:
            share[-1][1].append(row["ticker"])


def tickers_on(share, day):
    return [tickers for first, tickers in share if first <= day][-1]


def factor(share, last, after, through):
    newest, product = {}, Decimal(1)
    for (table, _), row in sorted(last.items(), key=lambda one: one[1].get("read_at", "")):
        if table == "splits" and row["ticker"] in tickers_on(share, row["effective_date"]):
            newest[row["effective_date"]] = Decimal(row["factor"])
    for day in sorted(newest):
        product *= newest[day] if after < day <= through else 1
    return product


def shares_of(last, id):
    """The day of whose shares a reading's price is."""
    row = last["closes", id]
    _, restated, day = row["source"].rpartition(", restated as of ")
    return day if restated else row["trading_day"]


def reading(id, last, share, session, *, kept=False):
    row = last["closes", id]
    tickers = [name for _, names in share for name in names] if kept else tickers_on(share, session)
    assert row["ticker"] in tickers, f"ticker of {row}"
    assert row["trading_day"] == session, f"session of {row}"
    return row


def check_figures(rows, last, before, endings, shares, forced):
    splits = {key: row for key, row in last.items() if key[0] == "splits"}
    for (table, id), row in rows:
        number = {
            name: Decimal(text) for name, text in row.items() if name.endswith(("price", "pct", "factor", "open"))
        }
        was = before.get((table, id), {})
        if table == "picks":
            baseline = last["batches", row["batch_id"]]["trading_day"]
            read = reading(row["initial_close_id"], last, shares[id], baseline)
            assert number["initial_price"] == Decimal(read["close"]), f"price of {row}"
            if "entry_open" in row:
                day = last["closes", row["entry_close_id"]]["trading_day"]
                kept = was.get("entry_close_id") == row["entry_close_id"]
                read = reading(row["entry_close_id"], last, shares[id], day, kept=kept)
                assert number["entry_open"] == Decimal(read["open"]), f"price of {row}"
        if table == "checkpoints" and "benchmark_return_pct" in row:
            batch = last["batches", row["batch_id"]]
            initial, share = Decimal(batch["benchmark_initial_price"]), [("", [batch["benchmark_symbol"]])]
            price, shares_now = number["benchmark_price"], number["benchmark_split_factor"]
            since = shares_of(last, batch["benchmark_initial_close_id"])
            through = shares_of(last, row["benchmark_close_id"])
            assert shares_now == factor(share, splits, since, through), f"factor of {row}"
            assert number["benchmark_return_pct"] == (price * shares_now - initial) / initial * 100, f"figure of {row}"
            read = reading(row["benchmark_close_id"], last, share, row["trading_day"])
            assert price == Decimal(read["close"]), f"price of {row}"
        if table == "pick_checkpoint_metrics":
            pick, checkpoint = last["picks", row["pick_id"]], last["checkpoints", row["checkpoint_id"]]
            initial, share, session = Decimal(pick["initial_price"]), shares[row["pick_id"]], checkpoint["trading_day"]
            price = number["current_price"]
            if "close_id" in row:
                kept = was.get("close_id") == row["close_id"]
                read = reading(row["close_id"], last, share, session, kept=kept)
                while read["ticker"] not in tickers_on(share, session):  # as if it had not been renamed since
                    share = share[:-1]
                read, through = read["close"], shares_of(last, row["close_id"])
            else:
                read = endings[row["pick_id"]]["value"]
                through = min(session, endings[row["pick_id"]]["last_session"])
            assert price == Decimal(read), f"price of {row}"
            since = shares_of(last, pick["initial_close_id"])
            assert number["split_factor"] == factor(share, splits, since, through), f"factor of {row}"
            absolute = (price * number["split_factor"] - initial) / initial * 100
            assert number["absolute_return_pct"] == absolute, f"figure of {row}"
            benchmark = Decimal(checkpoint["benchmark_return_pct"])
            assert number["vs_benchmark_pct"] == absolute - benchmark, f"figure of {row}"
            if "return_from_open_pct" in row:
                opened = shares_of(last, pick["entry_close_id"])
                entry, since = Decimal(pick["entry_open"]), factor(share, splits, opened, through)
                assert number["return_from_open_pct"] == (price * since - entry) / entry * 100, f"figure of {row}"
            if was.get("close_id") != row.get("close_id") or not was:
                assert row["unusual_move"] == "true" or session < forced.get(row["pick_id"], "9"), f"mark of {row}"


def verify_from_outside(url, head=None):
    before, last, endings, shares, forced, seq = "0" * 64, {}, {}, {}, {}, 0
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
        endings |= {one["pick_id"]: one for one in [content.get("ending")] if one}
        if (renaming := content.get("renaming", {})).get("forced") == "true":
            forced.setdefault(renaming["pick_id"], renaming["from_session"])
        learn(content, told, shares)
        before_it = {key: last[key] for key, _ in told if key in last}
        last |= dict(told)
        check_figures(told, last, before_it, endings, shares, forced)
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
