"""
The length of an answer is limited: it is estimated before the query, and counted in Postgres.

The kind: a document of some hundred bytes whose answer has megabytes. The first of ATTACKS is the
example.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import httpx
import psycopg
import pytest
from api_records import FACTS, plant
from independent_verifier import api as independent
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DivisionByZero
from record_server import record_server, unguarded

from api.engine import Engine, GraphQLResult
from api.fair_semaphore import FairSemaphore, QuerySemaphores
from api.fields import Column, api_error
from api.guard import TOO_LARGE, limit_result_bytes, row_bytes_check
from api.lengths import MAX_LONG_RESULT_BYTES, MAX_RESULT_BYTES, MAX_SOURCE_BYTES
from api.page_halving import execute_halving_page
from api.persisted import DOCUMENTS_BY_NAME
from api.schema import schema
from app.database import pools
from app.database.queries import pool_fetcher, snapshot_fetcher
from app.domain.verification.state import JournalState
from app.ops.verify import ApiRecord
from app.web.feeds.export import ExportRange, read_parts

# Texts as long as they can be.
LONG = """
    UPDATE journal SET content = '{"answer":"' || repeat('\\"ab', 20000) || '"}';
    UPDATE generations SET answer = repeat('x', 65000), user_prompt = repeat('u', 5000)
        WHERE answer IS NOT NULL;
    UPDATE picks SET reasoning = repeat('ü', 4000);
    UPDATE checkpoints SET note = repeat('n', 2000) WHERE skip_reason IS NOT NULL;
    UPDATE batches SET failure = repeat('f', 9000) WHERE failure IS NOT NULL;
    UPDATE corrections SET reason = repeat('r', 2000)"""

# Longer texts, which a record of an older version may contain.
OLD = """
    UPDATE journal SET content = '{"answer":"' || repeat('x', 4200000) || '"}' WHERE seq = 2;
    UPDATE generations SET answer = repeat('x', 4200000) WHERE attempt = 1 AND answer IS NOT NULL"""


@pytest.fixture(scope="module")
def planted(create, migrated) -> str:
    """The address of a record with the longest possible texts."""
    address = create(conninfo_to_dict(migrated)["dbname"])
    plant(address)
    changed(address, LONG)
    return address


@pytest.fixture(scope="module")
def old(create, planted) -> str:
    """The address of such a record in which one question's answer is even longer."""
    address = create(conninfo_to_dict(planted)["dbname"])
    changed(address, OLD)
    return address


def changed(address: str, statements: str) -> None:
    """Change a record, with triggers and checks off."""
    with unguarded(address) as conn:
        for statement in statements.split(";\n"):
            conn.execute(statement)


@asynccontextmanager
async def engine_at(address: str, connections: int = 4) -> AsyncIterator[Engine]:
    """Yield the engine as the service has it."""
    async with pools.opened(
        pools.make_pool(
            address,
            max_size=connections,
            statement_timeout=5,
            generic_plans=True,
            acquire_timeout=2,
        )
    ) as pool:
        yield Engine(schema, pool_fetcher(pool), FACTS, semaphores=QuerySemaphores(connections))


def error_of(answer: GraphQLResult) -> dict:
    """Return the one error of an answer."""
    (error,) = json.loads(answer.body)["errors"]
    return error


def aliases(count: int, field: str) -> str:
    return " ".join(f"a{number}: {field}" for number in range(count))


LONG_ALIAS = "x" * 7_000
MEASURED, COUNTED, ANSWERED = "measured", "counted", "answered"
# Each query for more than an answer may contain, its variables, and where it ends: at the estimate,
# before the query; in Postgres; or with an answer that is not too long.
ATTACKS = {
    "an entry's content under fifty names": (
        f"{{batches(first:12){{nodes{{journal{{{aliases(50, 'content')}}}}}}}}}", {}, MEASURED),
    "by a variable": (
        f"query($n: Int!) {{batches(first:$n){{nodes{{journal{{{aliases(2, 'content')}}}}}}}}}",
        {"n": 12}, MEASURED),
    "by a variable's default": (
        f"query($n: Int! = 100) {{journal(first:$n){{nodes{{{aliases(3, 'content')}}}}}}}", {},
        MEASURED),
    "by a fragment that is spread often": (
        f"{{{' '.join(f'p{n}: journal(first:100){{nodes{{...E}}}}' for n in range(9))}}} "
        "fragment E on JournalEntry {content}", {}, MEASURED),
    "by fragments that spread fragments": (
        f"{{latestBatch{{{aliases(9, 'journal{...A}')}}}}} fragment A on JournalEntry "
        f"{{ ...B b: content }} fragment B on JournalEntry {{content c: content}}", {}, MEASURED),
    "by aliases of an object": (
        f"{{latestBatch{{{aliases(20, 'journal{content}')}}}}}", {}, MEASURED),
    "pages under many names": (
        "{" + " ".join(f"p{n}: journal(first:100){{nodes{{content}}}}" for n in range(9)) + "}", {},
        MEASURED),
    "edges and nodes": (
        "{journal(first:100){a: nodes{content} b: nodes{content} c: edges{node{content}}}}", {},
        MEASURED),
    "the answers of all questions": (
        f"{{batches(first:50){{nodes{{generations{{{aliases(9, 'answer')}}}}}}}}}", {}, MEASURED),
    "the prompts of all questions": (
        f"{{batches(first:100){{nodes{{generations{{{aliases(30, 'userPrompt')}}}}}}}}}", {},
        MEASURED),
    "reasonings": (
        f"{{batches(first:100){{nodes{{picks{{{aliases(20, 'reasoning')}}}}}}}}}", {}, MEASURED),
    "failures": (
        f"{{batches(first:100){{nodes{{{aliases(50, 'failure')}}}}}}}", {}, MEASURED),
    "notes": (
        f"{{batches(first:100){{nodes{{checkpoints{{{aliases(10, 'note')}}}}}}}}}", {}, MEASURED),
    "reasons of corrections": (
        f"{{batches(first:100){{nodes{{checkpoints{{corrections{{{aliases(4, 'reason')}}}}}}}}}}}",
        {}, MEASURED),
    "a share's picks and their batches' journals": (
        '{picks(ticker:"AAPL", first:100){nodes{batch{journal{content}}}}}', {}, MEASURED),
    "a long name in many rows": (
        f"{{batches(first:100){{nodes{{checkpoints{{metrics{{{LONG_ALIAS}: id}}}}}}}}}}", {},
        MEASURED),
    "a long name in computed lists": (
        "{" + " ".join(f"t{n}: trackRecord{{weeklyExcess{{weeks{{...W}}}} "
            f"curve{{...C}}}}" for n in range(4)) + f"}} fragment C on CurvePoint {{{LONG_ALIAS}: "
        f"sumPct}} fragment W on Week {{{LONG_ALIAS}: monday}}", {}, MEASURED),
    "a long name in the schema": (
        f"{{__schema{{types{{{aliases(80, 'fields{...F}')}}}}}}} fragment F on __Field "
        f"{{{LONG_ALIAS}: name}}", {},
        MEASURED),
    "descriptions of the schema under many names": (
        f"{{__schema{{types{{fields{{{aliases(90, 'description')}}}}}}}}}", {}, MEASURED),
    "a page of the journal": (
        "{journal(first:100){nodes{content}}}", {}, COUNTED),
    "a page of the journal by a variable": (
        DOCUMENTS_BY_NAME["Journal"], {"first": 100}, COUNTED),
    "journals of a page": (
        "{batches(first:12){nodes{journal{content}}}}", {}, COUNTED),
    "a page's edges": (
        "{journal(first:100){edges{cursor node{seq content}}}}", {}, COUNTED),
    "two roots that fit one by one": (
        "{a: journal(first:30){nodes{content}} b: journal(first:30){nodes{content}}}", {}, COUNTED),
    "a computed field beside a page": (
        "{trackRecord{series} journal(first:100){nodes{content}}}", {}, COUNTED),
    "batches, checkpoints and metrics": (
        "{batches(first:100){nodes{checkpoints{note metrics{id currentPrice alphaPct}}}}}", {},
        ANSWERED),
    "twelve names of an entry's content": (
        "{latestBatch{journal{kind " + aliases(3, "hash") + "}}}", {}, ANSWERED),
    "the schema beside the record": (
        "{__schema{types{name fields{name description}}} latestBatch{picks{reasoning}}}", {},
        ANSWERED),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_answer_is_bounded(name, planted):
    """Both the bytes that are sent, and those that Postgres sends to this process, are limited."""
    query, variables, where = ATTACKS[name]
    received: list[int] = []
    async with engine_at(planted) as engine:
        fetch = engine.fetch

        async def counting(sql, parameters):
            columns = await fetch(sql, parameters)
            received.append(sum(map(len, columns)))
            return columns

        engine.fetch = counting
        answer = await engine.execute(query, variables)
    assert len(answer.body) <= MAX_RESULT_BYTES + 1_000
    assert sum(received) <= MAX_RESULT_BYTES + MAX_SOURCE_BYTES
    if where == ANSWERED:
        assert (answer.error_code, len(received)) == (None, 1)
        return
    assert (answer.error_code, bool(received)) == (TOO_LARGE, where == COUNTED)
    error = error_of(answer)
    limit = error["extensions"]["limit"]
    assert f"the limit is {limit:,}. " in error["message"]
    assert "Ask for " in error["message"]
    if where == COUNTED:
        assert limit == MAX_RESULT_BYTES


NEEDED = [
    pytest.param(
        """{ batches(first: 100) { nodes { id runDate status late picks { ticker action reasoning
            initialPrice
        latestMetric { alphaPct hit } } latestCheckpoint { day benchmarkReturnPct metrics { alphaPct
        } } } } }""",
        {},
        id="a hundred batches with reasoning",
    ),
    pytest.param(DOCUMENTS_BY_NAME["Journal"], {"first": 20}, id="a page of the journal"),
    pytest.param(DOCUMENTS_BY_NAME["LatestBatch"], {}, id="a Monday in full"),
    pytest.param(DOCUMENTS_BY_NAME["Feed"], {}, id="the feed"),
    pytest.param(
        "{ batches(first: 12) { nodes { journal { seq kind hash } } } }",
        {},
        id="journals without content",
    ),
    pytest.param(
        f"{{ journal(first: 1) {{ nodes {{ {aliases(7, 'content')} }} }} }}",
        {},
        id="one entry, seven times",
    ),
]


@pytest.mark.parametrize(("query", "variables"), NEEDED)
async def test_what_people_need_is_answered(query, variables, planted):
    """Also of a record with the longest possible texts."""
    async with engine_at(planted) as engine:
        answer = await engine.execute(query, variables)
    assert (answer.error_code, answer.damage) == (None, None)


async def test_an_old_text_under_many_names_ends_at_once(old):
    """Postgres reads its length, and copies it not once."""
    stopped = []
    async with engine_at(old) as engine:
        fetch = engine.fetch

        async def watched(sql, parameters):
            try:
                return await fetch(sql, parameters)
            except DivisionByZero:
                stopped.append(sql)
                raise

        engine.fetch = watched
        answer = await engine.execute(
            f'{{ batchOn(runDate: "2026-01-05") {{ generations {{ {aliases(9, "answer")} }} }} }}'
        )
    assert answer.error_code == TOO_LARGE
    assert len(stopped) == 1


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("{ journal(first: 1, after: %s) { nodes { seq content } } }", id="an entry"),
        pytest.param(
            "query($n: Int!) { journal(first: $n, after: %s) { nodes { content } } }",
            id="by a variable",
        ),
        pytest.param(
            "{ journal(first: 1, after: %s) { edges { cursor node { content } } } }", id="an edge"
        ),
        pytest.param(
            '{ batchOn(runDate: "2026-01-05") { generations { answer } } }', id="a question"
        ),
        pytest.param(
            '{ batchOn(runDate: "2026-01-05") { ...G } } fragment G on Batch { generations { '
            "answer } }",
            id="a question by a fragment",
        ),
    ],
)
async def test_one_entry_is_always_readable(query, old):
    """
    A text of an old record that is longer than any answer may be is returned if it is requested
    alone.
    """
    query, variables = query.replace("%s", '"MQ=="'), {"n": 1} if "$n" in query else {}
    async with engine_at(old) as engine:
        answer = await engine.execute(query, variables)
        assert answer.error_code is None
        assert MAX_RESULT_BYTES < len(answer.body) < MAX_LONG_RESULT_BYTES
        assert (await engine.execute(query, variables, allow_long=False)).error_code == TOO_LARGE


async def test_long_answers_are_read_one_at_a_time(old):
    """However many are requested; meanwhile another client's small query gets a connection."""
    under_way, most = 0, 0
    async with engine_at(old) as engine:
        fetch = engine.fetch

        async def counting(sql, parameters):
            nonlocal under_way, most
            is_larger = str(MAX_LONG_RESULT_BYTES) in sql
            under_way += is_larger
            most = max(most, under_way)
            try:
                return await fetch(sql, parameters)
            finally:
                under_way -= is_larger

        engine.fetch = counting
        query = '{ journal(first: 1, after: "MQ==") { nodes { content } } }'
        tasks = [
            asyncio.create_task(engine.execute(query, client=f"client {number}"))
            for number in range(8)
        ]
        small = await engine.execute("{ latestBatch { id } }", client="another")
        answers = await asyncio.gather(*tasks)
    assert small.error_code is None
    assert most == 1
    assert {answer.error_code for answer in answers} <= {None, "SERVICE_UNAVAILABLE"}


async def test_verify_reads_every_entry_and_row(old):
    """It halves its page when that is refused, down to one row, and enlarges it afterwards."""

    async def sleep(_: float) -> None:
        """Try again without a pause when the server is busy."""

    with psycopg.connect(old) as conn:
        stored = conn.execute(
            "SELECT seq::text, content FROM journal ORDER BY journal.seq"
        ).fetchall()
        ids = {
            str(row[0]) for row in conn.execute("SELECT id FROM generations WHERE series = 'main'")
        }
    async with record_server(old) as url, httpx.AsyncClient(timeout=30) as client:
        source = ApiRecord(client, f"{url}/graphql", sleep)
        async with aclosing(source.entries(0)) as entries:
            assert [(entry["seq"], entry["content"]) async for entry in entries] == stored
        state = JournalState(None)
        state.series.add("main")
        async with aclosing(source.rows(state)) as rows:
            assert {row["id"] async for table, row in rows if table == "generations"} == ids
        read_entries, _ = await asyncio.to_thread(independent.entries, url)
        assert [(entry["seq"], entry["content"]) for entry in read_entries] == stored
        batches = await asyncio.to_thread(
            lambda: list(independent.rows(url, {"main"}, set(), paying=set(), unknown=set()))
        )
        assert {row["id"] for (table, _), row in batches if table == "generations"} == ids


async def test_exports_and_the_feed_survive_pages_that_are_too_large(create, planted):
    """They request fewer Mondays at once."""
    address = create(conninfo_to_dict(planted)["dbname"])
    changed(address, "UPDATE picks SET reasoning = repeat('x', 4100000) WHERE position = 1")
    async with pools.opened(pools.make_pool(address, max_size=2)) as pool:
        async with snapshot_fetcher(pool, statement_timeout=5) as fixed:
            read = [
                part
                async for part in read_parts(
                    Engine(schema, fixed, FACTS, max_documents=1), ExportRange()
                )
            ]
        answer, first = await execute_halving_page(
            Engine(schema, pool_fetcher(pool), FACTS), DOCUMENTS_BY_NAME["Feed"], 50
        )
    assert [part.batches for part in read] == [1, 1, 1, 1]
    assert (answer.error_code, first) == (None, 1)


STATEMENTS = {
    "what fits": ("repeat('x', 10)", False, 10, True),
    "one byte too many": ("repeat('x', 11)", False, 10, False),
    "letters of two bytes": ("repeat('ü', 6)", False, 10, False),
    "nothing at all": ("NULL::text", False, 10, True),
    "rows of a computed field": (f"repeat('x', {MAX_SOURCE_BYTES})", True, 10, True),
    "too many rows of a computed field": (
        f"repeat('x', {MAX_SOURCE_BYTES + 1})",
        True,
        10,
        False,
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.parametrize("how", ["prepared", "pooled", "in a snapshot"])
async def test_a_row_comes_only_if_it_fits(name, how, pool):
    """Whichever way a statement is executed."""
    column, of_rows, most, fits = STATEMENTS[name]
    sql = limit_result_bytes([column, "''"], [of_rows, True], most)
    if how == "in a snapshot":
        async with snapshot_fetcher(pool) as fetch:
            assert bool(await fetch(sql, [])) == fits
            return
    assert bool(await pool_fetcher(pool, pooled=how == "pooled")(sql, [])) == fits


@pytest.mark.parametrize(
    "error",
    [
        "division_by_zero",
        "cardinality_violation",
        "invalid_text_representation",
        "program_limit_exceeded",
        "XX000",
    ],
)
async def test_a_snapshot_survives_a_refused_row(error, pool):
    """
    The next, smaller page is read from it, whichever error says that a row is damaged or too long.
    """
    async with snapshot_fetcher(pool) as fetch:
        with pytest.raises(psycopg.Error):
            await fetch(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{error}'; END $$", [])
        assert await fetch("SELECT 'more'", []) == [b"more"]


async def test_each_column_is_made_once(pool):
    """The condition reads the length of the computed value."""
    async with pool.connection() as conn:
        await conn.execute("CREATE TEMPORARY SEQUENCE made")
        cursor = await conn.execute(
            limit_result_bytes(["nextval('made')::text", "'x'"], [False, False], 100)
        )
        assert await cursor.fetchone() == ("1", "x")
        cursor = await conn.execute("SELECT nextval('made')")
        assert await cursor.fetchone() == (2,)


async def test_a_row_check_ends_the_statement(pool):
    """Its error is one that no other part of a statement raises."""
    fetch = pool_fetcher(pool)
    ten = "(SELECT 'abcde' AS a, NULL::text AS b) t"
    assert await fetch(f"SELECT {row_bytes_check({'t.a': 2, 't.b': 3}, 10)} FROM {ten}", []) == [
        b""
    ]
    assert await fetch(
        f"SELECT {row_bytes_check({'t.a': 2}, 10)}, {row_bytes_check({'t.b': 2}, 10)} FROM {ten}",
        [],
    ) == [b"", b""]
    for texts in ({"t.a": 2, "t.b": 3}, {"t.a": 2}):
        with pytest.raises(DivisionByZero):
            await fetch(f"SELECT {row_bytes_check(texts, 9)} FROM {ten}", [])


async def test_a_damaged_record_is_bounded_too(create, planted):
    """The statement for damaged records has the same limit."""
    address = create(conninfo_to_dict(planted)["dbname"])
    with unguarded(address) as conn:
        conn.execute("ALTER TABLE pick_checkpoint_metrics DROP CONSTRAINT current_price_is_a_price")
        conn.execute("UPDATE pick_checkpoint_metrics SET current_price = -1")
    damaged = "batches { nodes { checkpoints { metrics { currentPrice } } } }"
    async with engine_at(address) as engine:
        assert (await engine.execute(f"{{ {damaged} }}")).damage
        # Each of the two roots is answered or refused as it would be alone.
        few = await engine.execute(f"{{ {damaged} journal(first: 10) {{ nodes {{ content }} }} }}")
        many = await engine.execute(
            f"{{ {damaged} journal(first: 100) {{ nodes {{ content }} }} }}"
        )
    assert few.damage
    assert (many.error_code, many.damage) == (TOO_LARGE, None)
    assert len(many.body) < 1_000


@pytest.mark.parametrize(("picks", "is_refused"), [(100, False), (1_000, True)])
async def test_the_paths_of_damages_count(picks, is_refused):
    """Each is the path of a field, made of the document's names."""
    name = "z" * 14_000
    rows = b",".join([b'{"%b":{" damaged":"the row of picks"}}' % name.encode()] * picks)
    columns = [
        [b"\x01"],
        [b'{"nodes":[{"picks":[%b]}]}' % rows],
        [b"\x01"],
        [b'{"nodes":[{"picks":[%b]}]}' % rows],
    ]

    async def fetch(sql, parameters):
        return columns.pop(0)

    query = f"{{ batches(first: 1) {{ nodes {{ picks {{ {name}: latestMetric {{ id }} }} }} }} }}"
    answer = await Engine(schema, fetch, FACTS).execute(query)
    assert (answer.error_code == TOO_LARGE) == is_refused
    assert len(answer.body) < MAX_RESULT_BYTES


def test_every_text_says_how_long_it_can_be():
    """A column without a number would count as one sentence."""
    for type_ in schema.type_map.values():
        for name, field in (getattr(type_, "fields", None) or {}).items():
            definition = (
                (field.extensions or {}).get("strawberry-definition")
                if hasattr(field, "extensions")
                else None
            )
            source = definition.metadata.get("source") if definition else None
            if isinstance(source, Column) and str(field.type).rstrip("!") == "String":
                assert definition.metadata["max_bytes"], (
                    f"{type_.name}.{name} does not say how long it can be"
                )


# Lanes.


async def test_turns_go_round_by_client():
    """A client with many requests waits behind one with a single request."""
    turns = FairSemaphore(1, wait_timeout=60)
    order: list[str] = []

    async def ask(client: str) -> None:
        async with turns.turn(client):
            order.append(client)
            await asyncio.sleep(0)

    async with turns.turn("first"):
        tasks = [asyncio.create_task(ask(client)) for client in ("a", "a", "a", "a", "b", "c", "b")]
        await asyncio.sleep(0)
        assert turns.waiting == 7
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c", "a", "b", "a", "a"]
    assert (turns.free, turns.waiting) == (1, 0)


async def outcome(turns: FairSemaphore, client: str, hold: Callable[[], object]) -> str:
    """Return whether a request had a turn."""
    try:
        async with turns.turn(client):
            await hold()
            return "had it"
    except type(api_error("", "")) as error:
        return error.extensions["code"]


async def test_few_wait_and_the_greediest_makes_room():
    turns, end = FairSemaphore(1, max_waiting=4, wait_timeout=60), asyncio.Event()
    tasks = [asyncio.create_task(outcome(turns, "greedy", end.wait)) for _ in range(7)]
    await asyncio.sleep(0)
    assert turns.waiting == 4
    other = asyncio.create_task(outcome(turns, "other", end.wait))
    await asyncio.sleep(0)
    assert turns.waiting == 4
    end.set()
    assert await other == "had it"
    assert sorted(await asyncio.gather(*tasks)) == ["SERVICE_UNAVAILABLE"] * 3 + ["had it"] * 4
    assert (turns.free, turns.waiting) == (1, 0)


async def test_a_request_that_was_just_cancelled_makes_room():
    """It is still in the queue when the next request arrives."""
    turns, end = FairSemaphore(1, max_waiting=3, wait_timeout=60), asyncio.Event()
    greedy = [asyncio.create_task(outcome(turns, "greedy", end.wait)) for _ in range(4)]
    await asyncio.sleep(0)
    assert turns.waiting == 3
    other = asyncio.create_task(outcome(turns, "other", end.wait))
    greedy[-1].cancel()
    await asyncio.sleep(0)
    end.set()
    assert await other == "had it"
    assert (await asyncio.gather(*greedy, return_exceptions=True))[:3] == ["had it"] * 3
    assert (turns.free, turns.waiting) == (1, 0)


async def test_no_turn_is_lost():
    """A request that is cancelled or waited too long gives its place back."""
    turns, end = FairSemaphore(2, wait_timeout=0.01), asyncio.Event()
    holding = [asyncio.create_task(outcome(turns, "a", end.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await outcome(turns, "b", end.wait) == "SERVICE_UNAVAILABLE"
    turns.wait_timeout = 60
    waiting = [asyncio.create_task(outcome(turns, "c", end.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    end.set()
    waiting[1].cancel()
    assert await asyncio.gather(*holding) == ["had it"] * 2
    assert (await asyncio.gather(*waiting, return_exceptions=True))[2] == "had it"
    assert (turns.free, turns.waiting) == (2, 0)


@pytest.mark.parametrize("ends_by", ["cancellation", "time"])
async def test_a_wait_that_ends_while_room_is_made(ends_by):
    """
    In one step of the loop a request is refused to make room, and its wait ends: its place is given
    back once.
    """
    turns, end = FairSemaphore(1, max_waiting=2, wait_timeout=0.05), asyncio.Event()
    tasks = [asyncio.create_task(outcome(turns, "greedy", end.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    turns.wait_timeout = 60
    tasks.append(asyncio.create_task(outcome(turns, "other", end.wait)))
    if ends_by == "cancellation":
        tasks[2].cancel()
    else:
        time.sleep(0.1)  # the loop stands still, so that both are due at once
    await asyncio.sleep(0)
    end.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert (results[0], results[3]) == ("had it", "had it")
    assert (turns.free, turns.waiting) == (1, 0)


@pytest.mark.parametrize(
    ("connections", "heavy"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (8, 4), (20, 10)]
)
def test_heavy_operations_leave_connections(connections, heavy):
    """The other half is left, where there are two connections or more."""
    assert QuerySemaphores(connections).heavy.free == heavy


async def attacked(
    address: str, clients: int, addresses: int
) -> tuple[list[float], set[str | None]]:
    """
    Return how many seconds a reader's queries take while so many clients request all that they may,
    and what those clients got.
    """
    heaviest = (
        "{ batches(first: 16) { nodes { checkpoints { note metrics { id currentPrice "
        "alphaPct hit pick { id } } } } } }"
    )
    codes: set[str | None] = set()
    took: list[float] = []
    async with engine_at(address) as engine:
        is_over = asyncio.Event()

        async def attack(number: int) -> None:
            turn = 0
            while not is_over.is_set():
                turn += 1
                query = heaviest.replace("{", f"{{ # {number} {turn}\n", 1)
                answer = await engine.execute(query, client=f"{number % addresses}")
                codes.add(answer.error_code)
                await asyncio.sleep(0.05)

        attacks = [asyncio.create_task(attack(number)) for number in range(clients)]
        await asyncio.sleep(0.5)
        for _ in range(20):
            start = time.monotonic()
            answer = await engine.execute("{ latestBatch { id runDate } }", client="reader")
            took.append(time.monotonic() - start)
            assert answer.error_code is None
        is_over.set()
        await asyncio.gather(*attacks)
    return took, codes


@pytest.mark.long
@pytest.mark.parametrize("addresses", [1, 200])
@pytest.mark.parametrize("clients", [60, 200])
async def test_a_reader_finds_a_connection(clients, addresses, planted):
    """Sixty and two hundred clients request as much as they may."""
    took, codes = await attacked(planted, clients, addresses)
    assert codes <= {None, "SERVICE_UNAVAILABLE"}
    assert sorted(took)[len(took) // 2] < 2
