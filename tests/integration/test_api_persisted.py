"""Documents that clients name by their SHA-256 instead of sending them."""

import json
import subprocess
from collections.abc import AsyncIterator

import pytest
from api_records import engine_on
from litestar import Litestar
from litestar.testing import AsyncTestClient
from test_api_http import GRAPHQL, LATEST, QUERY, code
from test_api_operations import FOLDER, OPERATIONS, VARIABLES

from api.http import routes
from api.persisted import DOCUMENTS, FORMER, hash_of

UNKNOWN = "0" * 64


@pytest.fixture
async def client(pool) -> AsyncIterator[AsyncTestClient]:
    app = Litestar(routes(engine_on(pool)), openapi_config=None, logging_config=None)
    async with AsyncTestClient(app) as client:
        yield client


def named(sha256: object, version: object = 1) -> dict:
    return {"persistedQuery": {"version": version, "sha256Hash": sha256}}


def test_the_hash_is_what_sha256sum_says():
    """Anybody can compute it, without us."""
    files = [*sorted(FOLDER.glob("*.graphql")), *sorted((FOLDER / "former").glob("*.graphql"))]
    told = subprocess.run(["sha256sum", *files], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in told.splitlines()] == list(DOCUMENTS)
    assert list(DOCUMENTS.values()) == [*OPERATIONS.values(), *FORMER.values()]


# The hash that clients of the version before know, by name.
KNOWN = {
    "Export-1": "d324a8826443eae23c2780ba6c00e2ba625a0406e0bd7c0ac8c4328466e79fee",
    "Front-1": "96ca11aecd4d03ff47954e5be1932ea0195beedcae8c5f82f592cf5062c994c6",
    "LatestBatch-1": "b4bf0cb61cbfb4b9924b24b683783772211f3b7d420fb71a1283e504963aa21b",
    "Monday-1": "dec02bea1fac4b94c53dcb4c955e4840f24d822dda7c050e62ddb0af5cc4fb4d",
}


def test_a_changed_document_keeps_its_former_hash():
    """Clients send the hash of the text that they were built with; each is still answered, by the same text."""
    assert {name: hash_of(text) for name, text in FORMER.items()} == KNOWN
    assert KNOWN.keys() == {f"{name}-1" for name in ("Export", "Front", "LatestBatch", "Monday")}


@pytest.mark.parametrize("name", FORMER)
async def test_a_former_document_by_its_hash(name, client):
    """It is answered as before the change."""
    variables = VARIABLES.get(name.split("-")[0], {})
    answer = await client.post("/graphql", json={"extensions": named(hash_of(FORMER[name])), "variables": variables})
    assert "data" in answer.json()


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_document_by_its_hash(name, client):
    """By GET and by POST, the answer is that to the document itself."""
    variables = VARIABLES.get(name, {})
    sent = await client.post("/graphql", json={"query": OPERATIONS[name], "variables": variables})
    extensions = named(hash_of(OPERATIONS[name]))
    post = await client.post("/graphql", json={"extensions": extensions, "variables": variables})
    asked = {"extensions": json.dumps(extensions), "variables": json.dumps(variables), "operationName": name}
    get = await client.get("/graphql", params=asked, headers={"accept": "text/html, */*"})
    assert "data" in sent.json()
    assert sent.content == post.content == get.content


async def test_a_hash_in_capitals(client):
    response = await client.post("/graphql", json={"extensions": named(next(iter(DOCUMENTS)).upper())})
    assert "PersistedQueryNotFound" not in response.text


@pytest.mark.parametrize(("accept", "status"), [(GRAPHQL, 400), ("application/json", 200)])
async def test_an_unknown_hash(accept, status, client):
    """In the words that Apollo's clients know."""
    asked = {"extensions": json.dumps(named(UNKNOWN))}
    for response in (
        await client.get("/graphql", params=asked, headers={"accept": accept}),
        await client.post("/graphql", json={"extensions": named(UNKNOWN)}, headers={"accept": accept}),
    ):
        assert (response.status_code, code(response)) == (status, "PERSISTED_QUERY_NOT_FOUND")
        assert response.json()["errors"][0]["message"] == "PersistedQueryNotFound"


async def test_registering_stores_nothing(client):
    """A client that sends the document after all gets its answer, each time anew."""
    known = dict(DOCUMENTS)
    extensions = named(hash_of(QUERY))
    for _ in range(2):
        assert code(await client.post("/graphql", json={"extensions": extensions})) == "PERSISTED_QUERY_NOT_FOUND"
        response = await client.post("/graphql", json={"query": QUERY, "extensions": extensions})
        assert response.json() == LATEST
    assert known == DOCUMENTS


async def test_a_hash_that_is_not_the_documents(client):
    response = await client.post("/graphql", json={"query": QUERY, "extensions": named(UNKNOWN)})
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")
    assert response.json()["errors"][0]["message"] == "`sha256Hash` is not the hash of `query`."


@pytest.mark.parametrize(
    "extensions",
    [
        pytest.param(named(UNKNOWN, 2), id="another version"),
        pytest.param(named(5), id="a hash of another type"),
        pytest.param({"persistedQuery": {"version": 1}}, id="no hash"),
        pytest.param({"persistedQuery": "x"}, id="a text"),
        pytest.param({}, id="neither document nor hash"),
    ],
)
async def test_what_names_no_document(extensions, client):
    response = await client.post("/graphql", json={"extensions": extensions})
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")
