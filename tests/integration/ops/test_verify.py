"""`alpha-monday verify` names every change of a record, from its database and from its API."""

import asyncio
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from commands import environment, run
from hostile_bodies import compressed, endless, of_charset, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_context import MONDAY, JobHarness, run_until_done
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import asdict
from provider_server import ProviderServer, Reply, says
from record_server import (
    BATCH,
    CHANGES,
    DAY,
    METRIC,
    PICK,
    app_on,
    changed,
    copy_of,
    record_server,
    rehearsed,
    silent,
    unguarded,
)

from app.database import pools
from app.domain import calendar, journal, model, prompt
from app.domain.calendar import Calendar
from app.domain.verification.state import JournalState
from app.errors import ConfigurationError, Discrepancy
from app.ops.verify import ApiRecord, DatabaseRecord, open_api, open_database, verify
from app.store import batches, generations
from jobs import daily, picks

__all__ = ["rehearsed"]

AT = datetime(2026, 1, 5, 14, 0, 20, 123456, tzinfo=UTC)


@pytest.fixture
def copy(rehearsed, create) -> str:
    """A copy of the rehearsed record that a test may change."""
    return copy_of(rehearsed, create)


def chain(conn: psycopg.Connection) -> list[tuple[int, str]]:
    """Return every entry's number and hash."""
    return conn.execute("SELECT seq, hash FROM journal ORDER BY seq").fetchall()


@pytest.fixture(scope="module")
def head(rehearsed) -> str:
    """The head of the journal, as another person noted it."""
    with psycopg.connect(rehearsed) as conn:
        seq, hashed = chain(conn)[-1]
    return f"{seq}:{hashed}"


def rewrite(conn: psycopg.Connection, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the whole journal again, with changed contents and correct hashes."""
    before = journal.GENESIS_HASH
    for seq, content in conn.execute("SELECT seq, content FROM journal ORDER BY seq").fetchall():
        parsed = json.loads(content)
        change(parsed)
        text = journal.canonical_json(parsed)
        hashed = journal.entry_hash(before, text)
        conn.execute(
            "UPDATE journal SET content = %s, previous = %s, hash = %s WHERE seq = %s",
            (text, before, hashed, seq),
        )
        before = hashed


MORE_CHANGES = [
    pytest.param(
        f"UPDATE picks SET initial_price = initial_price + 0.0001 WHERE id = {PICK}",
        r"The pick .* of 2026-10-12 .*: initial_price is '[\d.]+' in the record, but '[\d.]+' in "
        r"the journal",
        id="an initial price",
    ),
    pytest.param(
        f"UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = -vs_benchmark_pct WHERE {METRIC}",
        r"[A-Z.]+ on day 3 of 2026-10-12 .*: vs_benchmark_pct is",
        id="a figure",
    ),
    pytest.param(
        "UPDATE closes SET close = close * 2 WHERE id = (SELECT initial_close_id FROM picks "
        f"WHERE id = {PICK})",
        r"The reading of [A-Z.]+ of 2026-10-09 \(closes, .*\): close is",
        id="a reading",
    ),
    pytest.param(
        f"UPDATE batches SET status = 'active' WHERE id = {BATCH}",
        r"The batch of 2026-10-12 .*: status is 'active' in the record, but 'completed' in the "
        r"journal",
        id="a status",
    ),
    pytest.param(
        f"DELETE FROM pick_checkpoint_metrics WHERE {METRIC}",
        r"[A-Z.]+ on day 3 of 2026-10-12 .* is not in the record, though entry \d+ of the journal "
        r"records it|The API calls the record damaged: Checkpoint.metrics in the row "
        r"[0-9a-f-]+ of checkpoints has 2, and must have 3, one of each pick\. \(rule: row\)",
        id="a row deleted",
    ),
    pytest.param(
        "INSERT INTO corrections SELECT gen_random_uuid(), id, 'note', NULL, 'a', 'b', "
        f"'Because.', taken_at FROM checkpoints WHERE id = {DAY}",
        r"The correction of note on day 3 of 2026-10-12 .* is in the record, but no entry of the "
        r"journal records it",
        id="a row added",
    ),
    pytest.param(
        "DELETE FROM journal WHERE seq = 17; UPDATE journal SET seq = -seq WHERE seq > 17; "
        "UPDATE journal SET seq = -seq - 1 WHERE seq < 0",
        r"Entry 17 of the journal follows the hash [0-9a-f]{64}, but entry 16 has",
        id="a middle entry deleted, the others renumbered",
    ),
    pytest.param(
        "UPDATE journal SET content = replace(content, 'BUY', 'SEL') "
        "WHERE seq = (SELECT min(seq) FROM journal WHERE kind = 'BATCH')",
        r"Entry \d+ of the journal has the hash [0-9a-f]{64}, but its content gives [0-9a-f]{64}\.",
        id="a content",
    ),
    pytest.param(
        "UPDATE journal SET at = at + interval '1 microsecond' WHERE seq = 9",
        r"Entry 9 of the journal: its at is '.*', but its content says '",
        id="an entry's time",
    ),
    pytest.param(
        "UPDATE journal SET kind = 'CORRECTION' WHERE seq = 9",
        r"Entry 9 of the journal: its kind is 'CORRECTION', but its content says '",
        id="an entry's kind",
    ),
]


def verified(cwd: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run the command; return its exit code and its output."""
    done = run("verify", *arguments, cwd=cwd, **environment)
    return done.returncode, done.stdout + done.stderr


async def run_on_both_sources(commanded, copy: str, *arguments: object) -> list[tuple[int, str]]:
    """
    Run the command on a copy, from the database and from a server; return the exit codes and
    outputs.
    """
    results = []
    async with record_server(copy) as url:
        for source, settings in (((), {"DATABASE_URL": copy}), (("--from", url), {})):
            done = await asyncio.to_thread(commanded, "verify", *source, *arguments, **settings)
            results.append((done.exit_code, done.output + done.error))
    return results


async def test_an_unchanged_record(commanded, copy, head):
    """
    Everything fits; both sources have the same number of entries and figures, and the output has
    the head.
    """
    for code, output in await run_on_both_sources(commanded, copy, "--head", head):
        assert code == 0, output
        assert f"The head: {head}" in output
        assert f"Everything fits: {head.split(':')[0]} entries, " in output


@pytest.mark.parametrize(("statements", "expected"), CHANGES)
@pytest.mark.sampled(2)
async def test_the_command_names_a_change(commanded, copy, statements, expected):
    """Database and API name the same discrepancy, and the exit code is 1."""
    changed(copy, statements)
    for code, output in await run_on_both_sources(commanded, copy):
        assert code == 1, output
        assert re.search(f"alpha-monday: {expected}", output), output


async def discrepancies(copy: str, *heads: tuple[int, str]) -> list[str]:
    """Return the discrepancies of a copy, from its database and from a server of it."""
    messages = []
    async with record_server(copy) as url:
        for opened in (open_database(copy), open_api(url, asyncio.sleep)):
            with pytest.raises(Discrepancy) as raised:
                async with opened as source:
                    await verify(source, heads, silent)
            messages.append(str(raised.value))
    return messages


@pytest.mark.parametrize(("statements", "expected"), MORE_CHANGES)
@pytest.mark.sampled(4)
async def test_a_change_is_named(copy, statements, expected):
    """Database and API name the same discrepancy."""
    changed(copy, statements)
    for message in await discrepancies(copy):
        assert re.match(expected, message), message


async def test_deleted_last_entries(commanded, copy, head):
    """
    The last entry can be removed unnoticed together with its rows, unless a copy of the head or a
    timestamp exists. (`tests/integration/ops/test_verify_stamps.py` shows the timestamp.)
    """
    with unguarded(copy) as conn:
        (content,) = conn.execute(
            "DELETE FROM journal WHERE seq = %s RETURNING content", [head.split(":")[0]]
        ).fetchone()
        checkpoint = json.loads(content)["checkpoint"]["id"]
        conn.execute("DELETE FROM pick_checkpoint_metrics WHERE checkpoint_id = %s", [checkpoint])
        conn.execute("DELETE FROM checkpoints WHERE id = %s", [checkpoint])
    assert [code for code, _ in await run_on_both_sources(commanded, copy)] == [0, 0]
    last = int(head.split(":")[0])
    for code, output in await run_on_both_sources(commanded, copy, "--head", head):
        assert code == 1
        assert (
            f"The journal ends at entry {last - 1}, before entry {last}, of which there is a copy."
            in output
        )


async def test_deleted_last_entries_whose_rows_are_left(copy):
    """Rows whose entries were deleted are named, too."""
    with unguarded(copy) as conn:
        conn.execute("DELETE FROM journal WHERE seq > (SELECT max(seq) - 3 FROM journal)")
    for message in await discrepancies(copy):
        assert "is in the record, but no entry" in message or "is in the record, but 'a" in message


def improve(content: dict[str, Any], *fields: str) -> None:
    """Raise these figures of the first pick on day 3."""
    if content.get("checkpoint", {}).get("day") == "3":
        content["metrics"][0].update(
            {field: str(Decimal(content["metrics"][0][field]) + 1) for field in fields}
        )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            ("absolute_return_pct", "vs_benchmark_pct"),
            "absolute_return_pct is .*, but its prices and splits give .*. The service did not "
            "compute this figure.",
            id="a figure",
        ),
        pytest.param(
            ("current_price",),
            "current_price is .*, but its prices and splits give ",
            id="a price",
        ),
    ],
)
async def test_a_figure_changed_in_rows_and_journal(copy, fields, expected):
    """
    A false figure is noticed although rows and journal agree: figures are computed again from
    prices, and prices compared with readings.
    """
    with unguarded(copy) as conn:
        rewrite(conn, lambda content: improve(content, *fields))
        for field in fields:
            conn.execute(
                f"UPDATE pick_checkpoint_metrics SET {field} = {field} + 1 WHERE id = ANY(SELECT "
                "(content::jsonb #>> '{metrics,0,id}')::uuid FROM journal "
                "WHERE content::jsonb #>> '{checkpoint,day}' = '3')"
            )
    for message in await discrepancies(copy):
        assert re.match(
            rf"Entry \d+ of the journal, [A-Z.]+ on day 3 of 2026-10-05: {expected}", message
        ), message


async def test_a_journal_that_was_written_again(copy, head):
    """A journal that was written again is accepted, unless a copy of the head exists."""
    with unguarded(copy) as conn:
        rewrite(conn, lambda content: content.get("generation", {}).update(user_prompt="Be kind."))
        conn.execute("UPDATE generations SET user_prompt = 'Be kind.'")
    async with open_database(copy) as source:
        assert (await verify(source, [], silent)).seq > 0
    seq, hashed = head.split(":")
    for message in await discrepancies(copy, (int(seq), hashed)):
        assert f"but the copy of it says {hashed}" in message


async def test_not_canonical(copy):
    """Equal content in other bytes is not canonical."""
    with unguarded(copy) as conn:
        before, content = conn.execute(
            "SELECT previous, content FROM journal ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        content = content.replace('"kind":', '"kind": ')
        change = (content, journal.entry_hash(before, content))
        conn.execute(
            "UPDATE journal SET content = %s, hash = %s WHERE seq = (SELECT max(seq) FROM journal)",
            change,
        )
    for message in await discrepancies(copy):
        assert "is not canonical JSON" in message


async def test_an_entry_of_another_batch(copy):
    """The column by which the API finds a batch's entries is compared, too."""
    with unguarded(copy) as conn:
        conn.execute("UPDATE journal SET batch_id = NULL WHERE seq = 9")
    with pytest.raises(
        Discrepancy, match="Entry 9 of the journal: its batch_id is 'none', but its content says '"
    ):
        async with open_database(copy) as source:
            await verify(source, [], silent)


def rename_pick(conn: psycopg.Connection, *, journalled: bool) -> None:
    """Rename a pick, with or without its journal entry."""
    pick = conn.execute(
        f"UPDATE picks SET ticker = 'NEWER' WHERE id = {PICK} RETURNING id"
    ).fetchone()
    with psycopg.connect(conn.info.dsn, row_factory=psycopg.rows.dict_row) as reading:
        row = reading.execute("SELECT * FROM picks WHERE id = %s", pick).fetchone()
        last = reading.execute("SELECT * FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    before, row["ticker"] = row["ticker"], "NEWER"
    after = model.JournalEntry(**{**last, "kind": model.JournalKind(last["kind"])})
    recorded = {"pick": row, "before": before}
    entry = journal.next_entry(
        after=after,
        kind=model.JournalKind.PICK_RENAMED,
        at=after.at,
        recorded=recorded,
        batch=row["batch_id"],
    )
    if journalled:
        columns = ", ".join(asdict(entry))
        conn.execute(
            f"INSERT INTO journal ({columns}) VALUES ({', '.join(['%s'] * 7)})",
            list(asdict(entry).values()),
        )


@pytest.mark.parametrize("journalled", [True, False], ids=["journalled", "not journalled"])
async def test_a_record_that_changes_while_an_api_is_read(copy, journalled):
    """A change with its entry is no discrepancy; a change that has none is one."""
    changed = []

    def report_progress(what: str, done: int, total: int) -> None:
        if what == "entries" and done == total and not changed:
            with psycopg.connect(copy) as conn:
                rename_pick(conn, journalled=journalled)
            changed.append(done)

    async with record_server(copy) as url, open_api(url, asyncio.sleep) as source:
        if journalled:
            assert (await verify(source, [], report_progress)).seq == changed[0] + 1
        else:
            with pytest.raises(
                Discrepancy,
                match=r"The pick NEWER of 2026-10-12 .*: ticker is 'NEWER' in the record",
            ):
                await verify(source, [], report_progress)
    assert changed


async def test_a_database_is_read_in_one_snapshot(copy):
    """Entries that are recorded during the verification are not read."""
    changed = []

    def report_progress(what: str, done: int, total: int) -> None:
        if what == "entries" and done == total and not changed:
            with psycopg.connect(copy) as conn:
                rename_pick(conn, journalled=True)
            changed.append(done)

    async with open_database(copy) as source:
        assert (await verify(source, [], report_progress)).seq == changed[0]
    async with open_database(copy) as source:
        assert (await verify(source, [], silent)).seq == changed[0] + 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--head", "12"], "'12' is not the head of a journal", id="not a head"),
        pytest.param(
            ["--head", f"0:{'a' * 64}"],
            "is not the head of a journal",
            id="the entry before the first",
        ),
        pytest.param(
            ["--from", "http://127.0.0.1:9", "--rehearsal"],
            "exclude each other",
            id="an address and a rehearsal",
        ),
        pytest.param(
            ["--from", "http://127.0.0.1:9/"],
            "http://127.0.0.1:9/graphql cannot be reached: ",
            id="no server",
        ),
        pytest.param(
            ["--from", "nonsense"],
            "--from takes the http or https address of a service, not 'nonsense'; for example "
            "--from https://",
            id="not an address",
        ),
    ],
)
def test_misuse(commanded, arguments, expected):
    """A wrong argument or address is one clear line, and exit code 2."""
    code, _, error = commanded("verify", *arguments)
    assert code == 2
    assert expected in error
    assert "Traceback" not in error


def test_no_database(commanded):
    """If the database is away, the record could not be verified: exit code 2."""
    code, _, error = commanded("verify", DATABASE_URL="postgresql://127.0.0.1:9/x")
    assert code == 2
    assert error.startswith(
        "alpha-monday: The record could not be verified. The database at 127.0.0.1:9/x cannot be "
        "reached"
    )
    assert error.endswith("port 9 failed: Connection refused. Check DATABASE_URL.\n")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(
            says("hello"),
            "does not answer as Alpha Monday's API does (status 200)",
            id="another JSON",
        ),
        pytest.param(
            says({"data": {"service": []}}),
            "does not answer as Alpha Monday's API does",
            id="another shape",
        ),
        pytest.param(Reply(status=404, body=b"<html>"), "API does (status 404)", id="not JSON"),
        pytest.param(
            says({"errors": [{"message": "No\x1b[2J."}]}),
            r"refuses a query: 'No\x1b[2J.'",
            id="an error",
        ),
        *(
            pytest.param(
                says(
                    {
                        "errors": [
                            {
                                "message": f"Cannot query field '{field}' on type 'X'.",
                                "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"},
                            }
                        ]
                    }
                ),
                "A record must be served by the newest version that wrote to it",
                id=f"a server without {field}",
            )
            for field in ("profileSha256", "benchmarkUnusualMove", "ended", "note", "entryOpen")
        ),
        pytest.param(
            Reply(body=b'{"data": {"service": {"journalHead": null}}, "data": {}}'),
            "two members of one name",
            id="a duplicate member",
        ),
        pytest.param(
            Reply(body=b'{"data": {"service": {"journalHead": null, "journalHead": null}}}'),
            "two members of one name",
            id="a duplicate member with the same value",
        ),
        pytest.param(
            Reply(status=308, headers={"Location": "https://elsewhere.example/graphql"}, body=b""),
            "redirects to https://elsewhere.example/graphql: use that address",
            id="a redirect",
        ),
    ],
)
async def test_another_server(commanded, reply, expected):
    """If another server responds, the error is one clear line, and the exit code 2."""
    async with ProviderServer() as provider:
        provider.answers = lambda _: reply
        code, _, error = await asyncio.to_thread(commanded, "verify", "--from", provider.url)
    assert code == 2
    assert expected in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(
            compressed(110_000_000),
            "answered with more than 100,000,000 bytes",
            id="a large body in gzip",
            marks=pytest.mark.long,
        ),
        pytest.param(
            endless(more=b"Content-Encoding: br\r\n"),
            "in a way that was not asked for",
            id="another coding",
        ),
        pytest.param(
            of_charset(b"zlib", 50_000_000),
            "API does (status 400)",
            id="a charset that decompresses",
        ),
        pytest.param(
            plain(200_000_000),
            "more than 100,000,000 bytes",
            id="a large body",
            marks=pytest.mark.long,
        ),
        pytest.param(
            endless(), "more than 100,000,000 bytes", id="an endless body", marks=pytest.mark.long
        ),
    ],
)
async def test_a_body_of_another_server(reply, expected):
    """A body is read up to a limit, whatever its encoding."""
    async with ProviderServer() as provider, open_api(provider.url, asyncio.sleep) as source:
        provider.answers = lambda _: reply
        with pytest.raises(ConfigurationError) as refused:
            await source.head()
    assert expected in str(refused.value)


async def test_a_busy_server():
    """A busy server gets the request again after its `Retry-After`, but only a few times."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    replies = [
        Reply(status=429, body=b"", headers={"Retry-After": "7"}),
        Reply(status=503, body=b""),
        Reply(status=429, body=b"", headers={"Retry-After": "100000"}),
        # A digit of another script is no number in HTTP. A header is sent as Latin-1.
        Reply(status=429, body=b"", headers={"Retry-After": "٧".encode().decode("latin-1")}),
        says({"data": {"service": {"journalHead": None}}}),
    ]
    async with ProviderServer() as provider, open_api(provider.url, sleep) as source:
        provider.answers = lambda _: replies.pop(0)
        assert await source.head() is None
        assert waited == [7.0, 5.0, 60.0, 5.0]
        provider.answers = lambda _: Reply(status=429, body=b"")
        with pytest.raises(Exception, match="status 429"):
            await source.head()


RECORDER = """
import asyncio, sys
from datetime import date, timedelta
from app.database import pools
from app.domain import calendar, model
from app.store import batches

async def record(address):
    async with pools.opened(pools.make_pool(address, max_size=1)) as pool:
        print("ready", flush=True)
        sys.stdin.readline()
        stored = 0
        for week in range(20):
            day = date(2026, 1, 5) + timedelta(weeks=week)
            batch = model.Batch(
                id=model.batch_id("main", day),
                series="main",
                run_date=day,
                created_at=calendar.due_at(day, 2),
                status=model.BatchStatus.FAILED,
                late=True,
                failure_reason=model.FailureReason.MISSED,
                failure="Nobody was there.",
                benchmark_symbol="SPY",
            )
            async with pools.transaction(pool) as conn:
                stored += await batches.insert_failed(conn, batch, in_force=None)
        print(stored, flush=True)

asyncio.run(record(sys.argv[1]))
"""


async def test_four_processes_record_at_once(database, tmp_path):
    """The chain has no fork and no gap, and every Monday was recorded exactly once."""
    pipes = dict.fromkeys(("stdin", "stdout"), asyncio.subprocess.PIPE)
    recorders = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", RECORDER, database, env=environment(), **pipes
        )
        for _ in range(4)
    ]
    for one in recorders:
        assert await asyncio.wait_for(one.stdout.readline(), 60) == b"ready\n"
    outputs = await asyncio.gather(
        *(asyncio.wait_for(one.communicate(b"\n"), 60) for one in recorders)
    )
    stored = [int(out) for out, _ in outputs]
    assert sum(stored) == 20
    with psycopg.connect(database) as conn:
        assert [seq for seq, _ in chain(conn)] == list(range(1, 21))
    code, output = await asyncio.to_thread(verified, tmp_path, DATABASE_URL=database)
    assert (code, "Everything fits: 20 entries, 20 rows, 0 figures." in output) == (0, True), output


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
decimals = st.builds(
    lambda sign, digits, exponent: Decimal(f"{sign}{digits}E{exponent}"),
    st.sampled_from(["", "-"]),
    st.integers(0, 10**40),
    st.integers(-60, 60),
)
DAY_ONE, BATCH_ID = date(2026, 1, 5), model.batch_id("main", date(2026, 1, 5))


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(strings=st.tuples(texts, texts, texts), one=decimals, other=decimals, price=decimals)
async def test_any_text_and_any_decimal_come_back(database, pool, strings, one, other, price):
    """An entry's row equals the row in Postgres and in the API, for any texts and numbers."""
    price = abs(price) or Decimal(1)
    close = model.Close(
        id=model.batch_id("close", DAY_ONE),
        ticker="SPY",
        trading_day=DAY_ONE - timedelta(days=3),
        open=None,
        close=price,
        source=f"x{strings[0]}",
        read_at=AT,
    )
    batch = model.Batch(
        id=BATCH_ID,
        series="main",
        run_date=DAY_ONE,
        created_at=AT,
        status=model.BatchStatus.ACTIVE,
        late=False,
        benchmark_symbol="SPY",
        benchmark_initial_price=price,
        benchmark_initial_close_id=close.id,
        trading_day=close.trading_day,
    )
    picks = [
        model.Pick(
            id=model.batch_id(ticker, DAY_ONE),
            batch_id=BATCH_ID,
            position=position,
            ticker=ticker,
            action=model.Action.BUY,
            reasoning=f"x{strings[1]}",
            initial_price=price,
            initial_close_id=close.id,
        )
        for position, ticker in enumerate(("KO", "MSFT", "XOM"), 1)
    ]
    checkpoint = model.Checkpoint(
        id=model.batch_id("day", DAY_ONE),
        batch_id=BATCH_ID,
        day=1,
        checkpoint_date=DAY_ONE + timedelta(days=1),
        trading_day=DAY_ONE,
        status=model.CheckpointStatus.COMPUTED,
        taken_at=AT,
        note=strings[2],
        benchmark_price=price,
        benchmark_close_id=close.id,
        benchmark_split_factor=Decimal(1),
        benchmark_return_pct=one,
    )
    metrics = [
        model.PickMetric(
            id=model.batch_id(f"metric of {pick.ticker}", DAY_ONE),
            checkpoint_id=checkpoint.id,
            pick_id=pick.id,
            current_price=price,
            close_id=close.id,
            split_factor=price,
            absolute_return_pct=one,
            vs_benchmark_pct=other,
        )
        for pick in picks
    ]
    question = model.Generation(
        id=model.batch_id("question", DAY_ONE),
        series="main",
        run_date=DAY_ONE,
        attempt=1,
        asked_at=AT,
        requested_model=strings[0],
        prompt_version=strings[1],
        system_prompt=strings[2],
        user_prompt=strings[0],
    )
    recorded = {
        "closes": [close],
        "batches": [batch],
        "picks": picks,
        "checkpoints": [checkpoint],
        "pick_checkpoint_metrics": metrics,
        "generations": [question],
    }
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        for table, rows in recorded.items():
            conn.execute(f"DELETE FROM {table}")
            for columns in map(asdict, rows):
                marks = ", ".join(["%s"] * len(columns))
                conn.execute(
                    f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})",
                    list(columns.values()),
                )
    entry = journal.next_entry(after=None, kind=model.JournalKind.BATCH, at=AT, recorded=recorded)
    expected = {
        (table, row["id"]): row for table in recorded for row in json.loads(entry.content)[table]
    }
    known = JournalState(Calendar())
    known.tickers.add("SPY")
    known.questions = {question.id: question for question in recorded.get("generations", [])}
    transport = httpx.ASGITransport(app=app_on(pool))
    async with httpx.AsyncClient(transport=transport, base_url="http://record") as client:
        shown = ApiRecord(client, "/graphql", asyncio.sleep)
        from_the_api = {(table, row["id"]): row async for table, row in shown.rows(known)}
    async with pool.connection() as conn, conn.transaction():
        from_the_database = {
            (table, row["id"]): row async for table, row in DatabaseRecord(conn).rows(known)
        }
    assert from_the_api == expected
    assert from_the_database == expected


async def fits(database_address: str) -> tuple[int, int]:
    """Return how many entries fit, from the database and from a server of it."""
    async with open_database(database_address) as source:
        inside = await verify(source, [], silent)
    async with record_server(database_address) as url, open_api(url, asyncio.sleep) as source:
        outside = await verify(source, [], silent)
    return inside.seq, outside.seq


async def test_manual_changes_fit(harness, database):
    """
    Ended and renamed picks, retaken checkpoints and a repeated failed Monday cause no discrepancy.
    """
    batch = await harness.make_batch()
    harness.world.absent |= {("MSFT", MONDAY + timedelta(days=day)) for day in range(3, 14)}
    await mornings(harness, batch, 1, 2, 3, 4)
    context, wednesday = harness.context, MONDAY + timedelta(days=2)
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="MSFT",
        last_session=wednesday,
        value=Decimal("4.5"),
        source="8-K of 2026-10-28",
        in_force=None,
    )
    await picks.rename(
        context,
        run_date=MONDAY,
        ticker="AAPL",
        new="BRK.B",
        from_session=wednesday,
        source="8-K",
        force=True,
    )
    await mornings(harness, batch, 4, again=True)
    await mornings(harness, batch, *range(5, 15))
    failed = msgspec.structs.replace(batch_of_a_failed_monday(), created_at=context.now())
    async with pools.transaction(context.pool) as conn:
        await batches.insert_failed(conn, failed, in_force=None)
    async with pools.transaction(context.pool) as conn:
        again_at = failed.created_at + timedelta(minutes=1)
        again = msgspec.structs.replace(failed, failure="Again.", created_at=again_at)
        await batches.insert_failed(conn, again, rerun=True, in_force=None)
    kinds = [entry.kind for entry in await harness.journal()]
    assert {"PICK_ENDED", "PICK_RENAMED", "FAILURE"} <= set(kinds)
    assert await fits(database) == (len(kinds), len(kinds))


async def test_a_monday_under_way(harness, database):
    """A question without a batch is no discrepancy, although the API cannot show it."""
    await harness.make_batch()
    before = len(await harness.journal())
    in_force = harness.context.in_force
    asked_at = calendar.due_at(MONDAY, 7)
    question = model.Generation(
        id=model.batch_id("question", MONDAY),
        series="main",
        run_date=MONDAY + timedelta(weeks=1),
        attempt=1,
        asked_at=asked_at,
        requested_model=in_force.series_named("main").profile.model,
        prompt_version=prompt.CURRENT.version,
        system_prompt=prompt.CURRENT.system_prompt,
        user_prompt="u",
    )
    async with pools.transaction(harness.context.pool) as conn:
        claimed = await generations.claim(conn, question, in_force)
    assert await fits(database) == (before + 1, before + 1)
    refusal = "The answer was not JSON of the schema: Input data was truncated."
    answered = msgspec.structs.replace(
        claimed, accepted=False, refusal=refusal, answered_at=asked_at, answer=""
    )
    async with pools.transaction(harness.context.pool) as conn:
        await generations.complete(conn, answered, asked_at)
    assert await fits(database) == (before + 2, before + 2)


async def mornings(
    harness: JobHarness, batch: model.Batch, *days: int, again: bool = False
) -> None:
    """Take the checkpoints of these days, until each is stored."""
    for day in days:
        harness.clock.time = max(harness.clock.time, calendar.due_at(batch.run_date, day))
        await run_until_done(
            harness, lambda day=day: daily.take(harness.context, batch.id, day, retake=again)
        )


def batch_of_a_failed_monday() -> model.Batch:
    """Return the failed Monday after the batch."""
    day = MONDAY + timedelta(weeks=1)
    return model.Batch(
        id=model.batch_id("main", day),
        series="main",
        run_date=day,
        created_at=calendar.due_at(day, 2),
        status=model.BatchStatus.FAILED,
        late=True,
        failure_reason=model.FailureReason.MISSED,
        failure="Nobody was there.",
        benchmark_symbol="SPY",
    )


# The kind: texts that are not the address of a service.
@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param(
            "alpha-monday.example",
            "not 'alpha-monday.example'; for example --from https://",
            id="no scheme",
        ),
        pytest.param(
            "localhost:9", "not 'localhost:9'; for example --from https://", id="host and port"
        ),
        pytest.param("", "not ''; for example", id="empty"),
        pytest.param("  ", "not ''; for example", id="blank"),
        pytest.param("http://", "not 'http://'; for example", id="only a scheme"),
        pytest.param("https:/alpha-monday.example", "for example --from https://", id="one slash"),
        pytest.param(
            "ftp://alpha-monday.example", "for example --from https://", id="another scheme"
        ),
        pytest.param("http://h:port", "for example --from https://", id="a port that is a word"),
        pytest.param("http://h:99999", "for example --from https://", id="a port too large"),
        pytest.param("http://[::1", "for example --from https://", id="an open bracket"),
        pytest.param("http://a b", "for example --from https://", id="a blank within"),
        pytest.param(
            "http://u:secret-word@", "not 'http://'; for example", id="a password, and no host"
        ),
        pytest.param("http://127.0.0.1:1/?a=b", "without ? and #", id="a query"),
        pytest.param(
            "http://u:secret-word@127.0.0.1:1",
            "http://127.0.0.1:1/graphql cannot be reached",
            id="no server at the address",
        ),
    ],
)
def test_an_invalid_address(commanded, url, says):
    """
    The error is one line, the exit code says that the record could not be verified, and no database
    is read instead.
    """
    result = commanded("verify", "--from", url)
    assert (result.exit_code, result.output) == (2, "")
    assert result.error.count("\n") == 1
    assert says in result.error
    assert "secret-word" not in result.error


@pytest.mark.parametrize(
    "settings",
    [{"HTTP_PROXY": ":::"}, {"ALL_PROXY": "nonsense://x"}, {"SSL_CERT_FILE": "/nonexistent"}],
    ids=lambda settings: next(iter(settings)),
)
def test_invalid_variables_of_httpx(commanded, settings):
    """The message names the variables that httpx reads, without a traceback."""
    result = commanded("verify", "--from", "http://127.0.0.1:1", **settings)
    assert result.exit_code == 2
    assert "cannot be requested" in result.error
    assert "HTTP_PROXY" in result.error
    assert result.error.count("\n") == 1
