"""
The response cache: which responses it stores, with which headers, and that none outlives its
record.
"""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from time import monotonic
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import psycopg
import pytest
from clocks import HandSetClock
from commands import environment
from silent_proxy import Proxy

from api.cache import (
    MAX_BYTES,
    MAX_CONCURRENT,
    MAX_CONCURRENT_PER_CLIENT,
    MAX_RESPONSE_BYTES,
    OVERHEAD_BYTES,
    ResponseCache,
    matches_etag,
)
from api.clients import client_address
from api.limits import MAX_BODY_BYTES
from app.core import settings
from app.database import pools
from app.database.revision import MAX_SILENCE, PROBE_INTERVAL, Revision
from app.domain.model import Batch, BatchStatus, Close, FailureReason
from app.main import create_app
from app.store import batches
from app.store.rows import insert_row
from jobs import queue

GRAPHQL = "application/graphql-response+json"
FRIEND, OTHER_SITE = "https://friend.example", "https://other.example"
NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)
FIRST = date(2020, 1, 6)
HEAD = "{ service { journalHead { seq } } latestBatch { runDate } }"
PRICES = '{ closes(ticker: "KO") { nodes { close } } }'

# How long a notification may take on a busy machine, in seconds.
UNDER_WAY = 1.0


def a_monday(number: int) -> Batch:
    """
    Return a Monday without picks. Its journal entry has that number, if all are stored in order.
    """
    return Batch(
        id=uuid4(), series="main", run_date=FIRST + timedelta(weeks=number - 1), created_at=NOW,
        status=BatchStatus.FAILED, late=True, failure_reason=FailureReason.MISSED,
        failure="The service was down.",
        benchmark_symbol="SPY",
    )  # fmt: skip


async def write(pool: pools.Pool, number: int) -> None:
    """Commit one Monday, as another process would."""
    async with pools.transaction(pool) as conn:
        assert await batches.insert_failed(conn, a_monday(number), in_force=None)


def seen(answer: httpx.Response) -> int:
    """
    Return the journal's head in an answer to HEAD, after checking that the newest Monday agrees.
    """
    data = answer.json()["data"]
    head = data["service"]["journalHead"]
    number = int(head["seq"]) if head else 0
    assert data["latestBatch"] == (
        {"runDate": str(FIRST + timedelta(weeks=number - 1))} if number else None
    )
    return number


async def until(true: Callable[[], Any], within: float = 15) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.01)


class Service:
    """A whole service in this process, and a client of it."""

    def __init__(self, cache: ResponseCache, client: httpx.AsyncClient) -> None:
        self.cache, self.client = cache, client

    async def tell(self, query: str, **headers: str) -> httpx.Response:
        return await self.client.post("/graphql", json={"query": query}, headers=headers)

    async def ask(self, query: str, **headers: str) -> httpx.Response:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get("/graphql", params={"query": query}, headers=headers)

    async def notices(self, commit: Awaitable[None]) -> None:
        """Wait until this process has been notified of a commit."""
        before = self.cache.revision()
        await commit
        await until(lambda: (self.cache.revision() or 0) > before)

    @property
    def counts(self) -> tuple[int, int]:
        return self.cache.hits, self.cache.misses


@asynccontextmanager
async def living(database: str, *, rehearsed: bool = False, **more: str) -> AsyncIterator[Service]:
    """Start a service without a worker, and wait until it listens."""

    @asynccontextmanager
    async def clock_of(*_: object) -> AsyncIterator[HandSetClock]:
        yield HandSetClock(NOW)

    configuration = settings.load({"DATABASE_URL": database, **more})
    cache = create_app(configuration, clock_of if rehearsed else None, work=False)
    over = asyncio.Event()

    async def live() -> None:  # in a task of its own, as a server has it
        async with cache.app.app.lifespan():
            await over.wait()

    life = asyncio.create_task(live())
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(cache), base_url="http://test"
        ) as client:
            await until(lambda: cache.revision() is not None or life.done())
            yield Service(cache, client)
    finally:
        over.set()
        await life


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    async with living(database, CORS_ALLOW_ORIGINS=FRIEND) as service:
        yield service


@pytest.mark.parametrize("how", ["ask", "tell"])
async def test_a_second_answer_is_the_first(how, database, pool):
    """
    A cached response equals the computed one, by GET and by POST, except that it has no request id.
    """
    await write(pool, 1)
    async with living(database) as service:
        first = await getattr(service, how)(HEAD)
        second = await getattr(service, how)(HEAD)
    assert service.counts == (1, 1)
    assert first.headers.pop("x-request-id")
    assert (second.status_code, second.headers, second.content) == (
        200,
        first.headers,
        first.content,
    )
    assert seen(second) == 1
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["vary"] == "Accept, Origin"


async def test_requests_with_separate_responses(service):
    """Requests differ by method, query string, body, and each header that a response depends on."""
    body, address = {"query": HEAD}, f"/graphql?query={quote(HEAD)}"
    apart = [
        ("GET", address, None, {}),
        ("GET", f"{address}&operationName=", None, {}),
        ("GET", address, None, {"accept": GRAPHQL}),
        ("POST", "/graphql", body, {}),
        ("POST", "/graphql", {**body, "variables": {}}, {}),
        ("POST", "/graphql", body, {"accept": GRAPHQL}),
        ("POST", "/graphql", body, {"origin": FRIEND}),
        ("POST", "/graphql", body, {"origin": OTHER_SITE}),
    ]
    for hits in (0, len(apart)):
        for method, url, json_, headers in apart:
            answer = await service.client.request(method, url, json=json_, headers=headers)
            media = GRAPHQL if headers.get("accept") == GRAPHQL else "application/json"
            assert answer.headers["content-type"] == f"{media}; charset=utf-8"
            assert answer.headers.get("access-control-allow-origin") == (
                FRIEND if headers.get("origin") == FRIEND else None
            )
            assert answer.headers["vary"] == "Accept, Origin"
        assert service.counts == (hits, len(apart))


async def test_arguments_of_a_part_have_separate_responses(service):
    """Each cost of trading has a response of its own, whether it is a literal or a variable."""
    field = "{ trackRecord { afterCosts(bps: %s) { bps } } }"
    apart = []
    for bps in (0, 5, 15):
        variables = {"bps": bps}
        query = f"query($bps: Int!) {field % '$bps'}"
        apart += [
            ("POST", "/graphql", {"query": query, "variables": variables}, bps),
            ("POST", "/graphql", {"query": field % bps}, bps),
            ("GET", f"/graphql?query={quote(field % bps)}", None, bps),
            (
                "GET",
                f"/graphql?query={quote(query)}&variables={quote(json.dumps(variables))}",
                None,
                bps,
            ),
        ]
    for hits in (0, len(apart)):
        for method, url, json_, bps in apart:
            answer = await service.client.request(method, url, json=json_)
            assert answer.json() == {"data": {"trackRecord": {"afterCosts": {"bps": bps}}}}
        assert service.counts == (hits, len(apart))


# The kind: a text that any client may send, and that has no meaning, or the meaning of another
# text.
VARIED = {
    "a cookie": {"cookie": "a=1"},
    "another cookie": {"cookie": "b=2; c=3"},
    "http": {"x-forwarded-proto": "http"},
    "http in capitals": {"x-forwarded-proto": "HTTP, https"},
    "no protocol": {"x-forwarded-proto": "nonsense"},
    "any type": {"accept": "*/*;q=0.5"},
    "JSON": {"accept": "application/json;q=0.3"},
    "other types": {"accept": "image/png, x/y;level=1"},
    "the newer type, unwanted": {"accept": f"{GRAPHQL};q=0"},
    "a browser's languages": {"accept-language": "de"},
    "a long type": {"accept": "x/" + "y" * 2_000},
    "a charset": {"content-type": "application/json; charset=UTF-8"},
    "a type in capitals": {"content-type": "Application/JSON"},
    "a type with spaces": {"content-type": "application/json ; charset=utf-8"},
    "no compression": {"content-encoding": "identity"},
    "an address": {"x-forwarded-for": "192.0.2.1"},
    "an id": {"x-request-id": "abc"},
}


@pytest.mark.parametrize("origin", [None, FRIEND, OTHER_SITE])
async def test_requests_that_share_a_response(origin, service):
    """The same response, byte for byte and header for header, is computed once."""
    same = {"origin": origin} if origin else {}
    first = await service.tell(HEAD, **same)
    expected = {**first.headers, "x-request-id": None}
    for name, headers in VARIED.items():
        answer = await service.client.post(
            "/graphql", json={"query": HEAD}, headers={**same, **headers}
        )
        assert (answer.status_code, answer.content) == (200, first.content), name
        assert {**answer.headers, "x-request-id": None} == expected, name
    assert service.counts == (len(VARIED), 1)
    assert len(service.cache._cached) == 1


@pytest.mark.parametrize(
    "origin", [OTHER_SITE, "null", "https://friend.example.other.example", "x" * 3_000, ""]
)
async def test_origins_that_are_not_allowed_are_one(origin, service):
    """They share one response, and no response names another client's origin."""
    await service.tell(HEAD, origin="https://first.example")
    answer = await service.tell(HEAD, origin=origin)
    assert "access-control-allow-origin" not in answer.headers
    assert service.counts[1] <= (1 if origin else 2)
    assert (await service.tell(HEAD, origin=FRIEND)).headers[
        "access-control-allow-origin"
    ] == FRIEND


async def test_all_origins_are_one_where_all_are_allowed(database):
    """
    Also for a client with cookies, for which Litestar alone would name the client's own origin.
    """
    async with living(database, CORS_ALLOW_ORIGINS="*") as service:
        for number in range(4):
            headers = {
                "origin": f"https://{number}.example",
                **({"cookie": f"a={number}"} if number % 2 == 0 else {}),
            }
            answer = await service.tell(HEAD, **headers)
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["vary"] == "Accept, Origin"
        assert service.counts == (3, 1)


async def test_an_empty_origin_is_none(database):
    """
    Litestar treats an empty origin as none: the next client, which has an origin, must not get the
    response to it.
    """
    async with living(database, CORS_ALLOW_ORIGINS="*") as service:
        assert "access-control-allow-origin" not in (await service.tell(HEAD, origin="")).headers
        answer = await service.tell(HEAD, origin="https://one.example")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in (await service.tell(HEAD)).headers


async def test_https_and_http_have_separate_responses(service):
    """
    Over https a response has Strict-Transport-Security, from the cache too; over http it never has.
    """
    for value, secure in [
        ("https", True),
        ("http", False),
        ("HTTPS,http", True),
        ("http, https", False),
        (" https ", True),
    ]:
        answer = await service.tell(HEAD, **{"x-forwarded-proto": value})
        assert ("strict-transport-security" in answer.headers) is secure
    assert service.counts == (3, 2)


async def test_a_page_is_one_however_it_is_accepted(service):
    """Browsers and programs get HTML; a program that requests the first page as JSON gets JSON."""
    kinds = [
        "text/html",
        "text/html, application/json",
        "TEXT/HTML;q=0.1",
        "application/json",
        "application/vnd.json",
    ]
    for accept in kinds * 2:
        answer = await service.client.get("/", headers={"accept": accept})
        wants_json = "json" in accept and "html" not in accept
        assert answer.headers["content-type"].startswith(
            "application/json" if wants_json else "text/html"
        )


async def test_texts_of_clients_do_not_fill_the_cache(service):
    """The cache does not grow with the number of texts that clients write."""
    for number in range(600):
        await service.tell(HEAD, accept=f"x/{number}", origin=f"https://{number}.example")
    assert len(service.cache._meanings) <= 256
    assert (service.counts, len(service.cache._cached)) == ((599, 1), 1)


async def test_one_address_leaves_room_for_others():
    """
    An address at its limit is refused, other addresses are answered, and cached responses are sent
    to all.
    """
    go_on, reached = asyncio.Event(), 0

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal reached
        reached += 1
        if scope["query_string"] != b"1_cached":
            await go_on.wait()
        await answering(scope, receive, send)

    cache = ResponseCache(slow, lambda: 1)
    async with at(cache, "192.0.2.1") as greedy, at(cache, "192.0.2.2") as other:
        await greedy.get("/graphql?1_cached")
        asking = [
            asyncio.create_task(greedy.get(f"/graphql?1_{number}"))
            for number in range(MAX_CONCURRENT * 2)
        ]
        await until(lambda: reached == MAX_CONCURRENT_PER_CLIENT + 1)
        assert (await greedy.get("/graphql?1_cached")).status_code == 200
        answer = asyncio.create_task(other.get("/graphql?1_other"))
        await until(lambda: cache.refusals == MAX_CONCURRENT * 2 - MAX_CONCURRENT_PER_CLIENT)
        go_on.set()
        assert (await answer).status_code == 200
        statuses = [answer.status_code for answer in await asyncio.gather(*asking)]
    assert (statuses.count(200), statuses.count(503)) == (
        MAX_CONCURRENT_PER_CLIENT,
        MAX_CONCURRENT * 2 - MAX_CONCURRENT_PER_CLIENT,
    )
    assert (cache.active_requests, cache.active_by_client.by_client) == (0, {})


async def test_clients_behind_a_proxy_have_separate_addresses():
    """A client's address is read from the trusted header, and from no other."""
    seen_at: list[str] = []

    async def record_address(scope: Any, receive: Any, send: Any) -> None:
        seen_at.append(client_address(scope))
        await unavailable(scope, receive, send)

    for header, expected in (
        ("Fly-Client-IP", ["192.0.2.7", "127.0.0.1"]),
        ("", ["127.0.0.1", "127.0.0.1"]),
    ):
        seen_at.clear()
        async with at(
            ResponseCache(record_address, lambda: 1, address_header=header), "127.0.0.1"
        ) as client:
            for name in ("fly-client-ip", "x-forwarded-for"):
                for path in ("/graphql?1", "/export.csv"):
                    await client.get(path, headers={name: "192.0.2.7"})
        assert seen_at == [expected[0]] * 2 + [expected[1]] * 2


async def test_a_cached_body_of_another_type_is_still_refused(service):
    """The content type is part of the request."""
    body = json.dumps({"query": HEAD})
    for kind, status in (("application/json", 200), ("text/plain", 415), ("application/json", 200)):
        answer = await service.client.post("/graphql", content=body, headers={"content-type": kind})
        assert answer.status_code == status


async def test_a_cached_address_without_a_body_is_no_request(service):
    """A POST cannot send its query in the address, as a GET can."""
    assert (await service.ask(HEAD)).status_code == 200
    answer = await service.client.post(
        "/graphql", params={"query": HEAD}, headers={"accept": "*/*"}
    )
    assert answer.status_code == 415


async def test_a_rehearsed_record_says_so_on_hits(database):
    async with living(database, rehearsed=True) as service:
        answers = [await service.tell(HEAD) for _ in range(2)]
    assert service.counts == (1, 1)
    assert [answer.headers["x-rehearsed"] for answer in answers] == ["true", "true"]


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("{", id="no document"),
        pytest.param("{ nope }", id="no field"),
        pytest.param("{ journal(first: 0) { nodes { seq } } }", id="a field's error"),
pytest.param(r'{ latestBatch(series: "\u0000") { id } service { __typename } }',
    id="an error beside data"),
        pytest.param("mutation { pick }", id="no query"),
        pytest.param("{ service { nextRunAt } }", id="the time of day"),
        pytest.param("{ latestBatch { id } service { journalHead { seq } ...S } } fragment S on "
            "Service { version }",
                     id="facts of the process"),
        pytest.param("", id="an empty query"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accept", [GRAPHQL, "application/json"])
async def test_responses_that_are_never_cached(query, accept, service):
    for _ in range(2):
        for answer in (
            await service.tell(query, accept=accept),
            await service.ask(query, accept=accept),
        ):
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers
    assert service.counts == (0, 4)
    assert service.cache.size == 0


async def test_a_field_that_is_left_out_does_not_prevent_caching(service):
    """A field that a directive removes does not prevent caching."""
    query = (
        "query($when: Boolean = false) { latestBatch { id } service { nextRunAt @include(if: "
        "$when) __typename } }"
    )
    for _ in range(2):
        assert (await service.tell(query)).status_code == 200
    assert service.counts == (1, 1)


async def test_only_a_200_is_cached():
    """The other headers of the response do not matter."""
    cache = ResponseCache(unavailable, lambda: 1)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cache), base_url="http://test"
    ) as client:
        for _ in range(2):
            assert (await client.get("/graphql?1")).status_code == 503
    assert (cache.hits, cache.misses, cache.size) == (0, 2, 0)


async def unavailable(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


async def test_other_paths_and_methods_pass(service):
    assert (await service.client.get("/live")).json() == {"status": "alive"}
    assert (await service.client.put("/graphql", json={"query": HEAD})).status_code == 405
    allowed = await service.client.options(
        "/graphql", headers={"origin": FRIEND, "access-control-request-method": "POST"}
    )
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, FRIEND)
    assert service.cache.size == 0
    page = await service.client.get(
        "/graphql", headers={"accept": "text/html"}
    )  # it is valid for as long as responses are
    assert "GraphiQL" in page.text
    assert page.headers["etag"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/graphql/"), ("POST", "//graphql"), ("GET", "/graphql/"), ("GET", "/record/"),
        ("GET", "//feed.atom"),
        ("HEAD", "/graphql"), ("HEAD", "/graphql//"), ("HEAD", "/record"),
    ],
)  # fmt: skip
@pytest.mark.sampled(3)
async def test_no_other_spelling_is_a_way_past_the_limit(method, path):
    """
    Other spellings that are routed to the same address, and HEAD, count as active requests, and are
    refused in the same way.
    """
    reached: list[str] = []
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await go_on.wait()
        await answering(scope, receive, send)

    cache = ResponseCache(
        slow, lambda: 1, lambda path, _: b"" if path in ("/record", "/feed.atom") else None
    )
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(at(cache, f"192.0.2.{number}")) for number in range(3)
        ]
        asking = [clients[number % 2] for number in range(MAX_CONCURRENT)]
        under_way = [
            asyncio.create_task(client.request(method, f"http://test{path}?1")) for client in asking
        ]
        await until(lambda: len(reached) == MAX_CONCURRENT)
        assert cache.active_requests == MAX_CONCURRENT
        assert (await clients[2].request(method, f"http://test{path}?1")).status_code == 503
        go_on.set()
        assert {one.status_code for one in await asyncio.gather(*under_way)} == {200}
    assert (len(reached), cache.refusals, cache.active_requests) == (MAX_CONCURRENT, 1, 0)


def at(cache: ResponseCache, address: str) -> httpx.AsyncClient:
    """Return a client with an address."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(cache, client=(address, 1)), base_url="http://test"
    )


async def test_a_head_says_what_its_get_says(service):
    """
    HEAD and GET have the same headers, cached or not, and neither is cached in place of the other.
    """
    for path in ("/", "/record", "/graphql?query={latestBatch{runDate}}"):
        heads = [await service.client.head(path), await service.client.head(path)]
        gets = [await service.client.get(path), await service.client.get(path)]
        assert [one.content for one in heads] == [b"", b""]
        assert gets[0].content == gets[1].content != b""
        assert {one.headers["content-length"] for one in (*heads, *gets)} == {
            str(len(gets[0].content))
        }


async def test_another_spelling_is_the_same_request(service):
    """Additional slashes do not add an entry to the cache."""
    first = await service.client.get("/record")
    size = service.cache.size
    for path in ("/record/", "//record", f"{'/' * 1000}record"):
        assert (await service.client.get(f"http://test{path}")).headers["etag"] == first.headers[
            "etag"
        ]
    assert (service.counts, service.cache.size) == ((3, 1), size)


async def test_bodies_in_pieces_and_bodies_that_are_too_long(service):
    """However a body arrives, it is the same request; one that is too long is refused as usual."""

    async def in_pieces(text: bytes, size: int = 7) -> AsyncIterator[bytes]:
        for at in range(0, len(text), size):
            yield text[at : at + size]

    body, headers = json.dumps({"query": HEAD}).encode(), {"content-type": "application/json"}
    for _ in range(2):
        answer = await service.client.post("/graphql", content=in_pieces(body), headers=headers)
        assert seen(answer) == 0
    await service.client.post("/graphql", content=body, headers=headers)
    assert service.counts == (2, 1)
    for _ in range(2):
        long = in_pieces(body[:-1] + b" " * MAX_BODY_BYTES + b"}", 1_000)
        assert (
            await service.client.post("/graphql", content=long, headers=headers)
        ).status_code == 413


async def test_a_client_that_knows_the_answer(service, pool):
    """
    A 304 has every header except those of the body, cached or not; a new answer is sent in full.
    """
    first = await service.ask(HEAD, origin=FRIEND)
    tag = first.headers["etag"]
    for known in (tag, f'W/{tag}, "other"', f'"a,b" , {tag}', "*"):
        unchanged = await service.ask(HEAD, origin=FRIEND, if_none_match=known)
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        of_the_body = ("content-type", "content-length", "x-request-id")
        assert dict(unchanged.headers) == {
            name: value for name, value in first.headers.items() if name not in of_the_body
        }
    for known in ('"other"', tag.strip('"'), '"*"', '"a,*,b"', ""):
        assert (
            await service.ask(HEAD, origin=FRIEND, if_none_match=known)
        ).content == first.content
    assert service.counts == (9, 1)
    assert (await service.ask(HEAD, accept=GRAPHQL)).headers["etag"] != tag
    assert (
        await service.ask(f"{HEAD} ", origin=FRIEND, if_none_match=tag)
    ).status_code == 304  # computed anew
    assert (await service.ask("{ service { version } }", if_none_match="*")).status_code == 200
    assert "etag" not in (await service.tell(HEAD)).headers
    await service.notices(write(pool, 1))
    changed = await service.ask(HEAD, origin=FRIEND, if_none_match=tag)
    assert (changed.status_code, seen(changed)) == (200, 1)
    assert changed.headers["etag"] != tag


def test_tags_are_compared_weakly():
    assert matches_etag(b',W/"a"', b'"a"')
    assert not matches_etag(b',W/"b"', b'"a"')


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answer with as many bytes as the query string says."""
    size = int(scope["query_string"].split(b"_")[0])
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * size})


async def test_the_cache_is_bounded():
    """
    The least recently used response is removed first, and one that is too large is never cached.
    """
    cache = ResponseCache(answering, lambda: 1, max_bytes=100_000, max_response_bytes=60_000)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cache), base_url="http://test"
    ) as client:

        async def hits(*names: str) -> list[bool]:
            were_hits = []
            for name in names:
                before = cache.hits
                await client.get(f"/graphql?{name}")
                were_hits.append(cache.hits > before)
                assert cache.size <= 100_000
            return were_hits

        assert await hits("40000_a", "40000_b") == [False, False]
        assert await hits("40000_a") == [True]
        assert await hits("40000_c") == [False]  # replaces b, because a was used more recently
        assert await hits("40000_a", "40000_c", "40000_b") == [True, True, False]
        assert await hits("60000_d", "60000_d") == [False, False]
        many = [f"1_{number}" for number in range(200)]
        assert not any(await hits(*many))
        assert (
            len(cache._cached)
            == 100_000 // (OVERHEAD_BYTES + 1 + len("1_199"))
            == cache.size // 3_078
        )
    assert MAX_RESPONSE_BYTES * 16 == MAX_BYTES


async def test_an_answer_computed_while_the_record_changed_is_not_cached():
    """Not even if another request has been computed from the new record in the meantime."""
    revision, go_on = 1, asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if not go_on.is_set():
            await go_on.wait()
        await answering(scope, receive, send)

    cache = ResponseCache(slow, lambda: revision)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cache), base_url="http://test"
    ) as client:
        old = asyncio.create_task(client.get("/graphql?1"))
        await until(lambda: cache.misses)
        revision = 2
        new = asyncio.create_task(client.get("/graphql?2"))
        await until(lambda: cache.misses == 2)
        go_on.set()
        await asyncio.gather(old, new)
        await client.get("/graphql?1")
        assert (cache.hits, cache.misses) == (0, 3)
        for query in ("1", "2"):  # cached at revision 2
            await client.get(f"/graphql?{query}")
        assert (cache.hits, cache.misses) == (2, 3)
        revision = 3
        await client.get("/graphql?1")
    assert (cache.hits, cache.misses) == (2, 4)


async def test_nothing_is_cached_or_sent_while_the_revision_is_unknown():
    revisions: list[int | None] = [1, 1, None, 1, 1, 1]
    cache = ResponseCache(answering, lambda: revisions.pop(0))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cache), base_url="http://test"
    ) as client:
        for size in (OVERHEAD_BYTES, 0, OVERHEAD_BYTES):
            await client.get("/graphql?1")
            assert (cache.size >= OVERHEAD_BYTES) == bool(size)
        assert cache.hits == 0
        await client.get("/graphql?1")
    assert (cache.hits, cache.misses) == (1, 3)


def test_every_table_of_the_record_notifies(migrated):
    """Every table that the API reads has a trigger for every kind of change."""
    with psycopg.connect(migrated) as conn:
        tables = conn.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        triggers = conn.execute(
            "SELECT relname, pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger JOIN pg_class ON "
            "pg_class.oid = tgrelid WHERE tgname = 'announce'"
        ).fetchall()
    assert {name for (name,) in tables} == {name for name, _ in triggers}
    assert len(tables) == 13
    for _, text in triggers:
        assert "AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE" in text
        assert "FOR EACH STATEMENT" in text


async def test_readings_without_an_entry_change_the_revision(service, pool):
    """A close is shown as soon as it is stored, before the journal has an entry of it."""
    assert (await service.tell(PRICES)).json() == {"data": {"closes": {"nodes": []}}}
    before = service.cache.revision()
    async with pool.connection() as conn:
        close = Close(
            id=uuid4(),
            ticker="KO",
            trading_day=date(2026, 1, 5),
            open=None,
            close=Decimal(70),
            source="test",
            read_at=NOW,
        )
        await insert_row(conn, "closes", close)
    await until(lambda: service.cache.revision() > before)
    assert (await service.tell(PRICES)).json() == {"data": {"closes": {"nodes": [{"close": "70"}]}}}


async def test_a_transaction_that_rolls_back_changes_no_revision(service, pool):
    await service.tell(HEAD)
    with suppress(ZeroDivisionError):
        async with pools.transaction(pool) as conn:
            await batches.insert_failed(conn, a_monday(1), in_force=None)
            raise ZeroDivisionError
    await asyncio.sleep(0.3)
    await service.tell(HEAD)
    assert service.counts == (1, 1)


async def test_its_own_commits_need_no_notification(service):
    """What a job of the process has committed is shown before the job continues."""
    assert seen(await service.tell(HEAD)) == 0
    assert queue.app.context
    async with pools.transaction(queue.app.context.pool) as conn:
        await conn.execute(
            "SET LOCAL session_replication_role = replica"
        )  # no trigger, so no notification
        await batches.insert_failed(conn, a_monday(1), in_force=None)
    assert seen(await service.tell(HEAD)) == 1


async def test_a_head_without_a_notification_is_found(service, pool):
    """Where triggers are off, as in a restore, a probe finds the journal's new head."""
    assert seen(await service.tell(HEAD)) == 0
    async with pools.transaction(pool) as conn:
        await conn.execute("SET LOCAL session_replication_role = replica")
        await batches.insert_failed(conn, a_monday(1), in_force=None)
    await asyncio.sleep(PROBE_INTERVAL + UNDER_WAY)
    assert seen(await service.tell(HEAD)) == 1


@pytest.mark.long
async def test_silence_is_noticed_and_ends(database, pool):
    """
    The revision is unknown at most five seconds after the network stopped without an error, and
    known again soon after it is back.
    """
    async with Proxy().leading_to(database) as proxy:
        revision = Revision()
        async with revision.listen(proxy.address):
            await until(revision.current)
            proxy.silent, fell = True, monotonic()
            await write(pool, 1)
            await until(lambda: revision.current() is None)
            assert (
                MAX_SILENCE - PROBE_INTERVAL - UNDER_WAY
                < monotonic() - fell
                <= MAX_SILENCE + UNDER_WAY / 2
            )
            before = revision._number
            proxy.silent = False
            await until(lambda: revision.current() is not None)
            assert revision._number > before
            await write(pool, 2)
            await until(lambda: revision.current() > before + 1, within=UNDER_WAY)


@pytest.mark.parametrize(
    "silent_for",
    [0.05, PROBE_INTERVAL + 0.3, pytest.param(MAX_SILENCE + 1, marks=pytest.mark.long)],
)
async def test_leaving_while_the_network_is_silent(database, silent_for):
    """
    The listener stops at once, whether it waits for the next probe, its answer or a new connection.
    """
    async with Proxy().leading_to(database) as proxy:
        revision = Revision()
        async with revision.listen(proxy.address):
            await until(revision.current)
            proxy.silent = True
            await asyncio.sleep(silent_for)
            leaving = monotonic()
        assert monotonic() - leaving < 1
        proxy.silent = False


async def test_a_listener_that_is_ended(database, pool):
    """The revision is unknown at once; after the reconnection it is a new one."""
    revision = Revision()
    async with revision.listen(database):
        await until(revision.current)
        before = revision._number
        await end_listeners(pool)
        await until(lambda: revision.current() is None, within=UNDER_WAY)
        await until(lambda: revision.current() is not None)
        assert revision._number > before


async def test_a_connection_that_gets_no_notifications_is_no_listener(database):
    """Behind a PgBouncer no notification arrives, so the revision stays unknown."""
    revision = Revision()
    probe = revision._probe

    async def unlisten(conn: psycopg.AsyncConnection) -> None:
        await conn.execute("UNLISTEN *")
        await probe(conn)

    revision._probe = unlisten  # type: ignore[method-assign]
    async with revision.listen(database):
        await asyncio.sleep(PROBE_INTERVAL + UNDER_WAY)
        assert revision.current() is None


async def end_listeners(pool: pools.Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'alpha-monday announcements' AND datname = current_database()"
        )


SERVE = """
import socket, sys
import uvicorn
from app.core import settings
from app.main import create_app
config = uvicorn.Config(create_app(settings.load(), work=False), log_level="error",
access_log=False)
uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])
"""


@contextmanager
def serving(**settings: str) -> Iterator[str]:
    """Start a service in another process, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(listener.fileno())],
            env=environment(**settings),
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield address
    finally:
        process.kill()  # a silent database would be waited for
        process.wait(timeout=10)


class Watch:
    """The commits of a writer, and what readers got."""

    def __init__(self, pool: pools.Pool) -> None:
        self.pool = pool
        self.commits: list[tuple[float, int]] = []
        self.read: list[tuple[float, int]] = []

    async def reads(self, address: str) -> None:
        """Request the head again and again, over one connection."""
        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            while True:
                began = monotonic()
                self.read.append((began, seen(await client.post("/graphql", json={"query": HEAD}))))
                await asyncio.sleep(0.002)

    async def writes(self, count: int, pause: float) -> None:
        """
        Commit so many Mondays, in bursts and one by one. The time of each is when its notification
        arrived.
        """
        async with await psycopg.AsyncConnection.connect(
            self.pool.conninfo, autocommit=True
        ) as witness:
            await witness.execute("LISTEN record")
            for _ in range(count):
                number = len(self.commits) + 1
                await write(self.pool, number)
                async for notice in witness.notifies(timeout=5):
                    if not notice.payload:  # not a probe of a service
                        break
                self.commits.append((monotonic(), number))
                await asyncio.sleep(0 if number % 4 else pause)

    def longest(self) -> float:
        """
        Return how long after a notification the oldest answer was still sent to a new request.
        """
        there = [0.0, *(at for at, _ in self.commits)]
        return max(
            (began - there[number + 1] for began, number in self.read if number + 1 < len(there)),
            default=-1.0,
        )


@asynccontextmanager
async def watched(pool: pools.Pool, *addresses: str) -> AsyncIterator[Watch]:
    """Let four readers request the head of each service while the context lasts."""
    async with httpx.AsyncClient() as client:
        for address in addresses:
            async with asyncio.timeout(30):
                while (
                    await client.post(f"{address}/graphql", json={"query": HEAD}, timeout=30)
                ).status_code != 200:
                    await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)  # for its listener's first probe
    watch = Watch(pool)
    readers = [asyncio.create_task(watch.reads(address)) for address in addresses for _ in range(4)]
    try:
        yield watch
        for reader in readers:
            assert not reader.done(), reader.result()
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def newest(address: str) -> int:
    async with httpx.AsyncClient(base_url=address) as client:
        return seen(await client.post("/graphql", json={"query": HEAD}))


@pytest.mark.long
@pytest.mark.parametrize("cut", [False, True], ids=["undisturbed", "connections ended"])
async def test_no_answer_is_older_than_its_notification(cut, database, pool):
    """
    Many readers on two processes while a writer commits: every request after a notification gets
    the new record.
    """
    with serving(DATABASE_URL=database) as one, serving(DATABASE_URL=database) as two:
        async with watched(pool, one, two) as watch:
            for _ in range(6):
                await watch.writes(20, pause=0.1)
                if cut:
                    await end_listeners(pool)
                await asyncio.sleep(0.4)
        assert len(watch.commits) == 120
        assert await newest(one) == await newest(two) == 120
    print(f"{len(watch.read)} answers, the oldest {watch.longest():.3f} s after its end")
    assert len(watch.read) > 500
    assert watch.longest() <= UNDER_WAY


@pytest.mark.long
async def test_no_answer_is_older_than_five_seconds_of_silence(database, pool):
    """
    The listener of one process has a connection that is silent without an error; the other's works.
    """
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy().leading_to(database))
        silenced = stack.enter_context(
            serving(DATABASE_URL=database, QUEUE_DATABASE_URL=proxy.address)
        )
        two = stack.enter_context(serving(DATABASE_URL=database))
        watch = await stack.enter_async_context(watched(pool, silenced, two))
        await watch.writes(20, pause=0.05)
        await asyncio.sleep(UNDER_WAY)
        proxy.silent = True
        await watch.writes(80, pause=0.35)
        assert await newest(silenced) == await newest(two) == 100
        proxy.silent = False
        await asyncio.sleep(MAX_SILENCE + 1)
        await watch.writes(20, pause=0.05)
        await asyncio.sleep(UNDER_WAY)
        assert await newest(silenced) == await newest(two) == 120
    print(f"{len(watch.read)} answers, the oldest {watch.longest():.3f} s after its end")
    assert (
        1 < watch.longest() <= MAX_SILENCE + UNDER_WAY
    )  # the lower bound shows that the connection was silent at all
