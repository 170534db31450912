"""Documents that clients name by their SHA-256 instead of sending them."""

import json
import subprocess
from collections.abc import AsyncIterator

import pytest
from api_records import engine_on
from litestar import Litestar
from litestar.testing import AsyncTestClient

from api.http import routes
from api.persisted import DOCUMENTS_BY_HASH, document_hash
from tests.integration.api.test_http import GRAPHQL, LATEST, QUERY, code
from tests.integration.api.test_persisted_operations import FILES, FOLDER, OPERATIONS, VARIABLES

UNKNOWN = "0" * 64
# The beginnings of the hashes under which the documents were published.
KNOWN_HASHES = {
    "BatchOn": "7633d43d",
    "Batches": "faf84c71",
    "Chart": "99c097a8",
    "Export": "5b00b2b7",
    "Feed": "8f4caccd",
    "Front": "c5bdfed7",
    "Head": "c0d9de2c",
    "History": "0f5ab902",
    "Journal": "5f1c1b45",
    "LatestBatch": "54119aef",
    "Monday": "56797b2f",
    "PickStory": "94643388",
    "Record": "39a440e4",
    "TrackRecord": "8a8083fb",
}


@pytest.fixture
async def client(pool) -> AsyncIterator[AsyncTestClient]:
    app = Litestar(routes(engine_on(pool)), openapi_config=None, logging_config=None)
    async with AsyncTestClient(app) as client:
        yield client


def named(sha256: object, version: object = 1) -> dict:
    return {"persistedQuery": {"version": version, "sha256Hash": sha256}}


def test_the_hash_is_what_sha256sum_says():
    """Any client can compute it without our code."""
    output = subprocess.run(
        ["sha256sum", *FILES], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[0] for line in output.splitlines()] == list(DOCUMENTS_BY_HASH)
    assert list(DOCUMENTS_BY_HASH.values()) == list(OPERATIONS.values())


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_document_by_its_hash(name, client):
    """By GET and by POST, the answer equals that to the document itself."""
    variables = VARIABLES.get(name, {})
    sent = await client.post("/graphql", json={"query": OPERATIONS[name], "variables": variables})
    extensions = named(document_hash(OPERATIONS[name]))
    post = await client.post("/graphql", json={"extensions": extensions, "variables": variables})
    parameters = {
        "extensions": json.dumps(extensions),
        "variables": json.dumps(variables),
        "operationName": name,
    }
    get = await client.get("/graphql", params=parameters, headers={"accept": "text/html, */*"})
    assert "data" in sent.json()
    assert sent.content == post.content == get.content


@pytest.mark.parametrize(
    "file",
    sorted((FOLDER.parent / "former_operations").glob("*.graphql")),
    ids=lambda file: file.stem,
)
async def test_an_earlier_version_of_a_document(file, client):
    """It stays available under the hash that clients know, which is in its file's name."""
    name, start = file.stem.split(".")
    sha256 = document_hash(file.read_text())
    assert sha256.startswith(start)
    assert sha256 not in DOCUMENTS_BY_HASH
    response = await client.post(
        "/graphql", json={"extensions": named(sha256), "variables": VARIABLES.get(name, {})}
    )
    assert response.json().keys() == {"data"}, response.text


def test_the_hashes_that_clients_know():
    """No document has ever changed under its hash, also not when it moved to another folder."""
    known = {name: document_hash(OPERATIONS[name])[:8] for name in KNOWN_HASHES}
    assert known == KNOWN_HASHES


async def test_a_hash_in_capitals(client):
    response = await client.post(
        "/graphql", json={"extensions": named(next(iter(DOCUMENTS_BY_HASH)).upper())}
    )
    assert "PersistedQueryNotFound" not in response.text


@pytest.mark.parametrize(("accept", "status"), [(GRAPHQL, 400), ("application/json", 200)])
async def test_an_unknown_hash(accept, status, client):
    """The error has the text that Apollo's clients know."""
    parameters = {"extensions": json.dumps(named(UNKNOWN))}
    for response in (
        await client.get("/graphql", params=parameters, headers={"accept": accept}),
        await client.post(
            "/graphql", json={"extensions": named(UNKNOWN)}, headers={"accept": accept}
        ),
    ):
        assert (response.status_code, code(response)) == (status, "PERSISTED_QUERY_NOT_FOUND")
        assert response.json()["errors"][0]["message"] == "PersistedQueryNotFound"


async def test_registering_stores_nothing(client):
    """A client that then sends the document gets its answer, each time anew."""
    known = dict(DOCUMENTS_BY_HASH)
    extensions = named(document_hash(QUERY))
    for _ in range(2):
        assert (
            code(await client.post("/graphql", json={"extensions": extensions}))
            == "PERSISTED_QUERY_NOT_FOUND"
        )
        response = await client.post("/graphql", json={"query": QUERY, "extensions": extensions})
        assert response.json() == LATEST
    assert known == DOCUMENTS_BY_HASH


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


@pytest.mark.parametrize(
    ("name", "variables", "refusal"),
    [
        pytest.param("BatchOn", {"runDate": "2026-11-24"}, "BAD_DATE", id="a Tuesday"),
        pytest.param(
            "BatchOn", {"runDate": "2026-11-23", "series": "unknown"}, "BAD_SERIES", id="no series"
        ),
        pytest.param("Batches", {"series": "MAIN"}, "BAD_SERIES", id="another series' capitals"),
        pytest.param("PickStory", {"id": "nope"}, "BAD_ID", id="no id"),
        pytest.param("Batches", {"first": 0}, "BAD_PAGE_SIZE", id="an empty page"),
        pytest.param("Batches", {"after": "Nw=="}, "BAD_CURSOR", id="the journal's cursor"),
    ],
)
async def test_values_are_refused_in_every_form_of_a_request(name, variables, refusal, client):
    """
    A value that cannot be valid is refused in every way: with the document or its hash, in the
    address or the body, and repeatedly.
    """
    extensions = named(document_hash(OPERATIONS[name]))
    encoded = {"variables": json.dumps(variables)}
    for _ in range(2):
        for response in (
            await client.post("/graphql", json={"query": OPERATIONS[name], "variables": variables}),
            await client.post("/graphql", json={"extensions": extensions, "variables": variables}),
            await client.get("/graphql", params={"query": OPERATIONS[name], **encoded}),
            await client.get("/graphql", params={"extensions": json.dumps(extensions), **encoded}),
        ):
            (error,) = response.json()["errors"]
            assert (response.status_code, error["extensions"]["code"]) == (200, refusal)
            assert response.headers["cache-control"] == "no-store"
