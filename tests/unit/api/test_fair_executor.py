"""
New documents wait for their turn, and nothing else waits for them.

The kind: work of some milliseconds that any client can cause with each request (a new document, a
new plan of a known one, introspection), and what must not depend on it (known documents, other
clients, the event loop). Nothing here measures time: one piece of work holds the thread until the
test lets it end, and the tests count what is done meanwhile.
"""

import asyncio
import gc
import json
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import pytest
from graphql import GraphQLError, Token, get_introspection_query
from litestar import Litestar
from psycopg.errors import QueryCanceled

from api.cache import MAX_CONCURRENT, ResponseCache
from api.engine import MAX_CACHED_OBJECTS, Engine
from api.fair_executor import MAX_WAITING_PER_CLIENT, FairExecutor
from api.http import routes
from api.memo import weight_of
from api.schema import Facts, schema

KNOWN = "{ service { version } }"
FACTS = Facts(version="1", rehearsed=False, now=lambda: datetime(2026, 1, 5, tzinfo=UTC))


async def fetch(sql: str, parameters: object) -> list[bytes]:
    """Stand in for the database, for one field of the service; anything else fails as too slow."""
    if len(sql) > 200:
        raise QueryCanceled
    return [b"null"]


@asynccontextmanager
async def held(turns: FairExecutor):
    """Hold the thread, so that all other work waits."""
    ends = threading.Event()
    holding = asyncio.create_task(turns.run("the one who holds", object(), ends.wait))
    while not turns._is_busy:
        await asyncio.sleep(0)
    try:
        yield
    finally:
        ends.set()
        await holding


async def until(holds) -> None:
    """Let the loop run until something holds."""
    while not holds():
        await asyncio.sleep(0.001)


async def order_of(requests: list[tuple[str, str]]) -> list[str]:
    """
    Return the order in which work is done that was requested, by client and name, while the thread
    was held.
    """
    turns, done = FairExecutor(), []
    async with held(turns):
        tasks = [
            asyncio.create_task(turns.run(who, name, lambda name=name: done.append(name)))
            for who, name in requests
        ]
        await until(lambda: turns.waiting == len(requests) + 1)
    await asyncio.gather(*tasks)
    return done


@pytest.mark.parametrize(
    ("requests", "order"),
    [
        pytest.param("a1 a2 a3", "a1 a2 a3", id="one client: as they came"),
        pytest.param("a1 a2 a3 a4 b1", "a1 b1 a2 a3 a4", id="one request behind many of another"),
        pytest.param("a1 a2 a3 b1 b2 c1", "a1 b1 c1 a2 b2 a3", id="three clients"),
        pytest.param("a1 a1 b1 a2", "a1 b1 a2", id="the same of one client"),
        pytest.param(
            "a1 a2 b2 c1",
            "a1 b2 c1",
            id="the same of two clients: when the first of them has its turn",
        ),
        pytest.param("a1 b1 c1 d1 e1 a2", "a1 b1 c1 d1 e1 a2", id="five clients"),
    ],
)
async def test_clients_take_turns(requests, order):
    # A name stands for its client and its work; b2 is the same work as a2.
    same = {"b2": "a2"} if "a2 b2" in requests else {}
    done = await order_of([(name[0], same.get(name, name)) for name in requests.split()])
    assert done == [same.get(name, name) for name in order.split()]


async def test_work_that_many_request_is_done_once():
    """All of them get the one result, or the one error."""
    turns = FairExecutor()
    results = await asyncio.gather(
        *(turns.run(f"{n}", "same", lambda: object()) for n in range(20))
    )
    assert len({*map(id, results)}) == 1
    assert turns.done == 1

    def fail() -> None:
        raise ValueError("no")

    errors = await asyncio.gather(
        *(turns.run(f"{n}", "same", fail) for n in range(5)), return_exceptions=True
    )
    assert [str(error) for error in errors] == ["no"] * 5
    assert turns.done == 2
    assert turns.waiting == 0


async def test_a_request_that_ends_frees_its_place():
    """Its work is not done, unless another request waits for it, too."""
    turns, done = FairExecutor(), []
    async with held(turns):
        left = [
            asyncio.create_task(turns.run("a", n, lambda n=n: done.append(n))) for n in range(3)
        ]
        stays = asyncio.create_task(turns.run("b", 2, lambda: done.append(2)))
        await until(lambda: turns.waiting == 5)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        assert turns.waiting == 2
        assert turns.waiting_for("a") == 0
    await stays
    assert done == [2]
    assert not turns._works
    assert not turns._queue


async def test_queues_are_bounded():
    """
    There is a limit for one address and one for all. Work above it is refused, and another address
    is not.
    """
    turns = FairExecutor(max_waiting_per_client=3, max_waiting=5, pause=0)
    async with held(turns):
        tasks = [asyncio.create_task(turns.run("a", n, int)) for n in range(3)]
        await until(lambda: turns.waiting == 4)
        with pytest.raises(
            GraphQLError, match="the limit is 3 of one address and 5 of all"
        ) as refused:
            await turns.run("a", 3, int)
        assert refused.value.extensions["code"] == "SERVICE_UNAVAILABLE"
        tasks.append(asyncio.create_task(turns.run("b", 4, int)))
        await until(lambda: turns.waiting == 5)
        with pytest.raises(GraphQLError, match="Try again in some seconds"):
            await turns.run("c", 5, int)
    assert await asyncio.gather(*tasks) == [0] * 4


# Work of milliseconds that a client can cause: each waits for its turn.
WAITS = {
    "a new document": ("{ service { version } } # new", {}),
    "a new document of errors": ("{ nope }", {}),
    "a new document that is none": ("{ {", {}),
    "a new document over a limit": ("{" + "__typename " * 21 + "}", {}),
    "a known document with another switch": (
        "query($s: Boolean!) { service @skip(if: $s) { version } }",
        {"s": True},
    ),
    "a known document with another null": (
        "query($s: String) { latestBatch(series: $s) { id } }",
        {"s": None},
    ),
    "the schema": (get_introspection_query(), {}),
    "one type": ('{ __type(name: "Batch") { name } }', {}),
}
FIRST = {"s": False}


@pytest.mark.parametrize("name", WAITS)
async def test_new_work_waits(name):
    """
    A new document waits, a known one is answered meanwhile, and the event loop is not blocked.
    """
    query, variables = WAITS[name]
    engine = Engine(schema, fetch, FACTS)
    await engine.execute(KNOWN, client="a")
    if "known" in name:
        await engine.execute(query, FIRST if variables["s"] else {"s": "x"}, client="a")
    async with held(engine.executor):
        waits = asyncio.create_task(engine.execute(query, variables, client="b"))
        await until(lambda: engine.executor.waiting == 2)
        for client in ("a", "c", None):
            assert not (await engine.execute(KNOWN, client=client)).error_code
        assert not waits.done()
    assert (await waits).body
    assert engine.executor.waiting == 0


async def test_the_service_itself_waits_for_nothing():
    engine = Engine(schema, fetch, FACTS)
    async with held(engine.executor):
        assert not (
            await engine.execute("{ service { version } __schema { description } }")
        ).error_code


async def test_a_new_document_is_validated_once():
    """However many clients send it at once; then it is cached for all."""
    engine = Engine(schema, fetch, FACTS)
    async with held(engine.executor):
        tasks = [asyncio.create_task(engine.execute(KNOWN, client=f"{n}")) for n in range(20)]
        await until(lambda: engine.executor.waiting == 21)
    bodies = {(await task).body for task in tasks}
    assert len(bodies) == 1
    assert (
        engine.client_documents.cache_info().misses == engine.client_plans.cache_info().misses == 1
    )
    assert engine.executor.done == 2


def service(engine: Engine) -> ResponseCache:
    """Return the engine behind the limit of active requests."""
    return ResponseCache(Litestar(route_handlers=routes(engine), openapi_config=None), lambda: None)


def posting(cache: ResponseCache, address: str) -> httpx.AsyncClient:
    """Return a client with an address of its own."""
    transport = httpx.ASGITransport(cache, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_waiting_takes_no_place_of_the_active_requests():
    """More new documents wait than requests may be active, and a known one is answered."""
    engine = Engine(schema, fetch, FACTS)
    cache = service(engine)
    waiting = MAX_CONCURRENT + 6
    async with posting(cache, "127.0.0.1") as reader, posting(cache, "127.0.0.2") as one:
        assert (await reader.post("/graphql", json={"query": KNOWN})).status_code == 200
        async with held(engine.executor):
            others = [posting(cache, f"127.0.1.{n}") for n in range(waiting)]
            tasks = [
                asyncio.create_task(other.post("/graphql", json={"query": f"{KNOWN} # {n}"}))
                for n, other in enumerate(others)
            ]
            await until(lambda: engine.executor.waiting == waiting + 1)
            assert cache.active_requests == 0
            assert (await reader.post("/graphql", json={"query": KNOWN})).status_code == 200
            engine.executor.pause = 0
            many = [
                asyncio.create_task(one.post("/graphql", json={"query": f"{KNOWN} # one {n}"}))
                for n in range(MAX_WAITING_PER_CLIENT + 3)
            ]
            await until(lambda: sum(task.done() for task in many) == 3)
            refused = next(task for task in many if task.done()).result()
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        answers = await asyncio.gather(*tasks)
        assert {answer.status_code for answer in answers} == {200}
        await asyncio.gather(*many)
        assert cache.active_requests == 0


async def test_a_client_that_leaves_frees_its_place():
    """The disconnection is noticed while it waits."""
    engine = Engine(schema, fetch, FACTS)
    cache, sent = service(engine), []
    messages: asyncio.Queue[dict] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": json.dumps({"query": KNOWN}).encode()})
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/graphql",
        "raw_path": b"/graphql",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.9", 1),
        "app": None,
        "state": {},
    }

    async def send(message: dict) -> None:
        sent.append(message)

    async with held(engine.executor):
        task = asyncio.create_task(cache(scope, messages.get, send))
        await until(lambda: engine.executor.waiting_for("127.0.0.9") == 1)
        messages.put_nowait({"type": "http.disconnect"})
        await task
        await until(lambda: engine.executor.waiting == 1)
        assert engine.executor.waiting_for("127.0.0.9") == 0
    assert engine.executor.done == 1
    assert cache.active_requests == 0


# Documents of several shapes, as large as the limits allow. Each request is a new document.
HEAVY = {
    "aliased fields with an argument": " ".join(
        f'a{n}: batchOn(runDate: "2026-01-05") {{ id late }}' for n in range(50)
    ),
    "repeated fields": "service { version } " * 20,
    "fragments": " ".join(f"...F{n}" for n in range(20)),
    "introspection": " ".join(f"a{n}: __schema {{ types {{ name }} }}" for n in range(50)),
    "computed values": " ".join(
        f"a{n}: trackRecord {{ series best {{ alphaPct }} }}" for n in range(4)
    ),
    "errors": " ".join(f"latestBatc{n}" for n in range(200)),
    "variables": " ".join(f"a{n}: batches(first: $v{n}) {{ nodes {{ id }} }}" for n in range(40)),
    "a long comment": "__typename #" + "x" * 15_000 + "\n",
}


def heavy(name: str, number: int) -> str:
    """Return a document of a shape that differs from every other one."""
    query = f"{{ {HEAVY[name]} }} # {number}"
    if name == "fragments":
        query = (
            "".join(f"fragment F{n} on Query {{ a{n}: service {{ version }} }} " for n in range(20))
            + query
        )
    if name == "variables":
        query = f"query({' '.join(f'$v{n}: Int' for n in range(40))}) {query}"
    return query


# For these, graphql-core leaves reference cycles, which the next garbage collection removes.
COLLECTED = {"fragments", "introspection", "errors", "variables"}


@pytest.mark.parametrize("name", HEAVY)
async def test_evicted_documents_take_no_memory(name):
    """
    Documents that are sent once push each other out, and take as much memory as the limit counts.
    """
    engine = Engine(schema, fetch, FACTS)
    # A small cache, so that few documents fill it.
    for memo in (engine.client_documents, engine.client_plans):
        memo.max_results = 2
    for number in range(2):
        await engine.execute(heavy(name, number), client="a")
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        counts = []
        for number in range(2, 6):
            await engine.execute(heavy(name, number), client="a")
            if name in COLLECTED:
                gc.collect()
            counts.append(sum(type(one) is Token for one in gc.get_objects()))
    finally:
        gc.enable()  # without `gc.unfreeze`: `tests/conftest.py` freezes the tests, too
    # From the second on, both cached documents are counted.
    assert max(counts[1:]) <= counts[1] + 50
    objects = weight_of(engine.client_plans.results())
    assert engine.client_plans.cache_info().weight >= (objects - 1) * 0.9
    assert engine.client_documents.cache_info().currsize == 2


async def test_the_cached_documents_are_bounded_and_fair():
    """The client whose documents take most memory loses its oldest; those of others stay."""
    engine = Engine(schema, fetch, FACTS)
    await engine.execute(KNOWN, client="reader")
    for number in range(14):
        await engine.execute(
            heavy("aliased fields with an argument", number), client=f"attacker {number % 7}"
        )
    assert engine.client_plans.cache_info().weight <= MAX_CACHED_OBJECTS
    assert engine.client_plans.cache_info().currsize < 14
    done = engine.executor.done
    await engine.execute(KNOWN, client="reader")
    assert engine.executor.done == done


async def test_many_small_documents_push_out_no_other_client():
    """
    A client that sends its larger document again keeps it, whatever a crowd of new clients sends
    once each.
    """
    engine = Engine(schema, fetch, FACTS, max_documents=20)
    reads = "{ latestBatch { id runDate status picks { ticker action } } }"
    await engine.execute(reads, client="reader")
    done = engine.executor.done
    for number in range(60):
        await engine.execute(f"{{ __typename }} # {number}", client=f"one of many {number}")
        await engine.execute(reads, client="reader")
    assert engine.executor.done == done + 60
    assert engine.client_plans.cache_info().currsize == 20


@pytest.mark.parametrize("own", [1, 4, 8])
async def test_a_crowd_pushes_out_no_document_that_was_sent_again(own):
    """
    Also if the client that sends it again has the most documents of all: those of the crowd are all
    new.
    """
    engine = Engine(schema, fetch, FACTS, max_documents=20)
    mine = [f"{{ latestBatch {{ id runDate }} }} # mine {number}" for number in range(own)]
    for _ in range(2):
        for document in mine:
            await engine.execute(document, client="reader")
    for number in range(200):
        await engine.execute(f"{{ __typename }} # {number}", client=f"one of many {number}")
    done = engine.executor.done
    for document in mine:
        await engine.execute(document, client="reader")
    assert engine.executor.done == done
    assert engine.client_documents.cache_info().currsize == 20


async def test_new_documents_find_room_where_all_others_are_used():
    """
    A document that is sent twice is cached, though every place was taken by others that were sent
    twice.
    """
    engine = Engine(schema, fetch, FACTS, max_documents=20)
    for number in range(40):
        for _ in range(2):
            await engine.execute(f"{{ __typename }} # {number}", client=f"one of many {number % 7}")
    done = engine.executor.done
    await engine.execute("{ latestBatch { id } }", client="reader")
    await engine.execute("{ latestBatch { id } }", client="reader")
    assert engine.executor.done == done + 1
