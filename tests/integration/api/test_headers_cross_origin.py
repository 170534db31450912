"""
Which responses scripts of other sites may read: those to allowed origins, with their headers.

A browser hides headers from scripts unless they are named. The ETag was once hidden, so a script
could not ask whether anything had changed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from litestar.config.cors import CORSConfig
from processes import Started, serving

from api.cache import MAX_CONCURRENT, ResponseCache
from api.headers import cors_headers
from api.limits import MAX_BODY_BYTES

FRIEND, OTHER_SITE = "https://friend.example", "https://other.example"
QUERY = {"query": "{ service { journalHead { seq } } }"}
JSON = {"content-type": "application/json"}
TOO_LONG = b" " * (MAX_BODY_BYTES + 1)
EXPOSED = {
    "Accept-Post",
    "Allow",
    "Content-Disposition",
    "ETag",
    "Retry-After",
    "X-Journal-Head",
    "X-Rehearsed",
    "X-Request-Id",
}


@pytest.fixture(scope="module")
def service(migrated, tmp_path_factory) -> Iterator[Started]:
    with serving(
        tmp_path_factory.mktemp("served"), DATABASE_URL=migrated, CORS_ALLOW_ORIGINS=FRIEND
    ) as one:
        yield one


def unchanged(client: httpx.Client) -> httpx.Response:
    """Return a 304."""
    tag = client.get("/graphql", params=QUERY).headers["etag"]
    return client.get("/graphql", params=QUERY, headers={"if-none-match": tag})


RESPONSES: dict[str, tuple[int, str, Callable[[httpx.Client], httpx.Response]]] = {
    "a query": (
        200,
        "x-request-id",
        lambda client: client.post("/graphql", json={"query": "{ latestBatch { id } }"}),
    ),
    "a cached query": (
        200,
        "etag",
        lambda client: [client.get("/graphql", params=QUERY) for _ in range(2)][1],
    ),
    "nothing new": (304, "etag", unchanged),
    "its head": (200, "etag", lambda client: client.head("/graphql", params=QUERY)),
    "an export": (200, "x-journal-head", lambda client: client.get("/export.csv")),
    "an export's name": (200, "content-disposition", lambda client: client.get("/export.json")),
    "no export": (400, "x-request-id", lambda client: client.get("/export.csv?a=b")),
    "the feed": (200, "etag", lambda client: client.get("/feed.atom")),
    "health": (200, "x-request-id", lambda client: client.get("/health")),
    "nothing": (404, "x-request-id", lambda client: client.get("/nope")),
    "no such method": (405, "allow", lambda client: client.put("/graphql")),
    "no JSON": (
        400,
        "x-request-id",
        lambda client: client.post("/graphql", content="{", headers=JSON),
    ),
    "too long": (
        413,
        "x-request-id",
        lambda client: client.post("/graphql", content=TOO_LONG, headers=JSON),
    ),
    "another type": (415, "accept-post", lambda client: client.post("/graphql", content="a=1")),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_script_reads_the_headers_of_every_response(name, service):
    status, header, ask = RESPONSES[name]
    with httpx.Client(base_url=service.address, timeout=20, headers={"origin": FRIEND}) as client:
        response = ask(client)
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == FRIEND
    assert set(response.headers["access-control-expose-headers"].split(", ")) == EXPOSED
    assert header in response.headers


@pytest.mark.parametrize("name", RESPONSES)
def test_a_site_that_is_not_allowed_reads_nothing(name, service):
    status, _, ask = RESPONSES[name]
    with httpx.Client(
        base_url=service.address, timeout=20, headers={"origin": OTHER_SITE}
    ) as client:
        response = ask(client)
    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_script_may_ask_by(method, service):
    """The browser asks for permission before it sends a request that no form could send."""
    headers = {
        "origin": FRIEND,
        "access-control-request-method": method,
        "access-control-request-headers": "content-type,if-none-match,x-request-id",
    }
    response = httpx.options(f"{service.address}/graphql", headers=headers)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == FRIEND
    assert method in response.headers["access-control-allow-methods"].split(", ")


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ([FRIEND], FRIEND, FRIEND),
        (["https://another.example", FRIEND], FRIEND, FRIEND),
        (["*"], FRIEND, "*"),
        ([FRIEND], OTHER_SITE, None),
        ([FRIEND], "null", None),
        ([FRIEND], f"{FRIEND}.evil.example", None),
        ([FRIEND], "", None),
    ],
)
async def test_a_script_reads_a_refusal_of_the_cache(allowed, origin, expected, monkeypatch):
    """A refusal by the cache has the headers, too, with `Retry-After`."""
    monkeypatch.setattr("api.cache.WAIT_SECONDS", 0.01)
    cors = CORSConfig(allow_origins=allowed, expose_headers=["Retry-After"])
    cache = ResponseCache(_unreachable, lambda: 1, cors=cors)
    cache.active_by_client.add("others", MAX_CONCURRENT)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cache), base_url="http://test"
    ) as client:
        headers = {"origin": origin} if origin else {}
        response = await client.post("/graphql", json=QUERY, headers=headers)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.headers.get("access-control-allow-origin") == expected
    assert response.headers.get("access-control-expose-headers") == (
        "Retry-After" if expected else None
    )


async def _unreachable(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope)


def test_without_allowed_origins_there_are_no_headers():
    assert cors_headers(None, FRIEND.encode()) == ()
