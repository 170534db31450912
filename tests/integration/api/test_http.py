"""GraphQL over HTTP: requests, responses and their status."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from select import select

import pytest
import structlog
import uvicorn
from api_records import engine_on
from litestar import Litestar, get
from litestar.exceptions import HTTPException
from litestar.testing import AsyncTestClient
from local_server import local_server

from api.cache import ResponseCache
from api.http import handle_http_exception, handle_unexpected_exception, routes
from api.limits import MAX_BODY_BYTES
from app.database import pools

GRAPHQL = "application/graphql-response+json"
QUERY = (
    'query Latest($series: String! = "main") { latestBatch(series: $series) { id } service { '
    "version } }"
)
LATEST = {"data": {"latestBatch": None, "service": {"version": "1.2.3"}}}


@pytest.fixture
async def pool(migrated) -> AsyncIterator[pools.Pool]:
    """A pool on the migrated database, to which no test here writes."""
    async with pools.opened(pools.make_pool(migrated, max_size=1)) as opened:
        yield opened


@pytest.fixture
async def client(pool) -> AsyncIterator[AsyncTestClient]:
    app = Litestar(
        routes(engine_on(pool)),
        exception_handlers={HTTPException: handle_http_exception},
        openapi_config=None,
        logging_config=None,
    )
    async with AsyncTestClient(app, raise_server_exceptions=True) as client:
        yield client


def code(response) -> str:
    """Return the code of the only error of an answer without data."""
    assert list(response.json()) == ["errors"]
    (error,) = response.json()["errors"]
    return error["extensions"]["code"]


async def test_post(client):
    response = await client.post("/graphql", json={"query": QUERY, "variables": {"series": "main"}})
    assert (response.status_code, response.json()) == (200, LATEST)


async def test_get(client):
    variables = json.dumps({"series": "main"})
    parameters = {
        "query": QUERY,
        "variables": variables,
        "operationName": "Latest",
        "extensions": "{}",
        "more": "?",
    }
    response = await client.get("/graphql", params=parameters)
    assert (response.status_code, response.json()) == (200, LATEST)


@pytest.mark.parametrize(
    "more",
    [
        {"operationName": None, "variables": None, "extensions": None},
        {"operationName": "", "variables": {}, "extensions": {"a": [1]}},
        {"operationName": "Latest", "something": "else"},
    ],
    ids=str,
)
async def test_members_that_have_no_effect(more, client):
    response = await client.post("/graphql", json={"query": QUERY, **more})
    assert (response.status_code, response.json()) == (200, LATEST)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        pytest.param(None, "application/json", id="no header"),
        pytest.param("*/*", "application/json", id="anything"),
        pytest.param("application/json", "application/json", id="JSON"),
        pytest.param(GRAPHQL, GRAPHQL, id="GraphQL"),
        pytest.param(
            f"{GRAPHQL}; charset=utf-8, application/json; q=0.9", GRAPHQL, id="rather GraphQL"
        ),
        pytest.param(
            f"application/json, {GRAPHQL};q=0", "application/json", id="GraphQL not at all"
        ),
        pytest.param(f"{GRAPHQL}; Q=0.000", "application/json", id="only that, not at all"),
        pytest.param(f"{GRAPHQL};q=0.5, application/json", "application/json", id="rather JSON"),
        pytest.param(f"application/json;q=0.9, {GRAPHQL};q=0.9", GRAPHQL, id="both alike"),
        pytest.param(f"*/*;q=0.1,{GRAPHQL};q=0.2", GRAPHQL, id="rather than anything"),
        pytest.param(
            f"{GRAPHQL};charset=utf-8;q=0.4,application/json;q=.9;q=x",
            "application/json",
            id="odd weights",
        ),
        pytest.param(f"{GRAPHQL};q=9, application/json;q=0", GRAPHQL, id="a weight that is none"),
        pytest.param(GRAPHQL.upper(), GRAPHQL, id="in capitals"),
        pytest.param("text/html;q=inf,,;", "application/json", id="nonsense"),
    ],
)
async def test_the_type_of_an_answer(accept, media, client):
    """
    A client gets the newer media type only if it names it, and would not rather have the older one.
    """
    headers = {"accept": accept} if accept else {}
    response = await client.post("/graphql", json={"query": QUERY}, headers=headers)
    assert response.headers["content-type"] == f"{media}; charset=utf-8"
    assert response.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("{", "GRAPHQL_PARSE_FAILED", id="parse"),
        pytest.param("{ nope }", "GRAPHQL_VALIDATION_FAILED", id="validation"),
        pytest.param("query($id: ID!) { batch(id: $id) { id } }", "BAD_USER_INPUT", id="variables"),
        pytest.param("query A { service { version } } query B { service { version } }",
            "OPERATION_RESOLUTION_FAILURE",
                     id="operation"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("accept", "status"), [(GRAPHQL, 400), ("application/json", 200)])
async def test_a_request_error(accept, status, query, expected, client):
    """No `data`, and a status that the client's media type asks for."""
    for response in (
        await client.post("/graphql", json={"query": query}, headers={"accept": accept}),
        await client.get("/graphql", params={"query": query}, headers={"accept": accept}),
    ):
        assert (response.status_code, code(response)) == (status, expected)


async def test_a_field_error(client):
    """An operation that was executed has `data`, also if a field refused."""
    response = await client.post(
        "/graphql", json={"query": "{ journal(first: 0) { nodes { seq } } }"}
    )
    assert response.status_code == 200
    assert response.json()["data"] is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="half an object"),
        pytest.param(b"5", id="a number"),
        pytest.param(b'"x"', id="a text"),
        pytest.param(b"null", id="null"),
        pytest.param(b'[{"query": "{ service { version } }"}]', id="a batch of requests"),
        pytest.param(b"\xff\xfe", id="invalid UTF-8"),
        pytest.param('{"query": "{ service { version } }"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"query": "\xed\xa0\x80"}', id="a surrogate in UTF-8"),
        pytest.param(b"[" * 60_000, id="deeply nested"),
        pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, id="deeply nested objects"),
        pytest.param(b'{"query": "{ service { version } }", "variables": {"a": NaN}}', id="NaN"),
        pytest.param(
            b'{"query": "{ service { version } }", "variables": {"a": ' + b"9" * 9_000 + b"}}",
            id="long number",
        ),
        pytest.param(b"{}", id="no query"),
        pytest.param(b'{"query": null}', id="a query of null"),
        pytest.param(b'{"query": 5}', id="a query of another type"),
        pytest.param(
            b'{"query": "{ service { version } }", "variables": []}', id="variables of another type"
        ),
        pytest.param(
            b'{"query": "{ service { version } }", "variables": "{}"}', id="variables as text"
        ),
        pytest.param(
            b'{"query": "{ service { version } }", "operationName": 5}', id="a name of another type"
        ),
        pytest.param(
            b'{"query": "{ service { version } }", "extensions": "x"}',
            id="extensions of another type",
        ),
    ],
)
@pytest.mark.parametrize("accept", [GRAPHQL, "application/json"])
async def test_a_body_that_is_no_request(accept, body, client):
    headers = {"content-type": "application/json", "accept": accept}
    response = await client.post("/graphql", content=body, headers=headers)
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "query_string",
    [
        pytest.param("", id="no query"),
        pytest.param("query=", id="an empty query"),
        pytest.param(
            "query=%7Bservice%7Bversion%7D%7D&variables=5", id="variables of another type"
        ),
        pytest.param(
            "query=%7Bservice%7Bversion%7D%7D&variables=%7B", id="variables that are no JSON"
        ),
        pytest.param(
            "query=%7Bservice%7Bversion%7D%7D&variables=%ff", id="variables that are no text"
        ),
        pytest.param(
            "query=%7Bservice%7Bversion%7D%7D&extensions=%5B%5D", id="extensions of another type"
        ),
    ],
)
async def test_an_address_that_is_no_request(query_string, client):
    response = await client.get(f"/graphql?{query_string}")
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")


BOM = b"\xef\xbb\xbf"
BODY = json.dumps({"query": QUERY}).encode()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(BOM + BODY, "application/json", id="a byte order mark"),
        pytest.param(BOM + BODY, "application/json; charset=utf-8", id="a mark and a charset"),
        pytest.param(
            BOM + b" \r\n\t" + BODY + b"\n", "application/json", id="a mark and white space"
        ),
        pytest.param(b"\r\n" + BODY, "application/json", id="white space"),
        pytest.param(BODY, 'application/json; charset="UTF-8"', id="a charset in quotes"),
        pytest.param(BODY, "Application/JSON;Charset=Utf8", id="capitals"),
        pytest.param(BODY, "application/json; v=1; charset=utf-8", id="another parameter"),
        pytest.param(
            json.dumps({"query": "\ufeff" + QUERY}).encode(),
            "application/json",
            id="a mark in the document",
        ),
    ],
)
async def test_what_clients_put_before_json(body, content_type, client):
    """The answer does not depend on a byte order mark or white space."""
    response = await client.post("/graphql", content=body, headers={"content-type": content_type})
    assert (response.status_code, response.json()) == (200, LATEST)


async def test_a_mark_before_the_json_in_an_address(client):
    params = {"query": QUERY, "variables": '\ufeff{"series": "main"}', "extensions": "\ufeff{}"}
    response = await client.get("/graphql", params=params)
    assert (response.status_code, response.json()) == (200, LATEST)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BODY.decode().encode("utf-16"), "A body must be in UTF-8; this one is in UTF-16."),
        (BODY.decode().encode("utf-16-le"), "A body must be in UTF-8; this one is in UTF-16."),
        (BODY.decode().encode("utf-16-be"), "A body must be in UTF-8; this one is in UTF-16."),
        (BODY.decode().encode("utf-32"), "A body must be in UTF-8; this one is in UTF-32."),
        (b'{"query": "caf\xe9"}', "A body must be in UTF-8; the byte at 14 is not valid in it."),
        (BOM + BOM + BODY, "That is not JSON."),
        (BODY + BOM, "That is not JSON."),
        (BOM, "That is not JSON."),
        (b")]}'\n" + BODY, "That is not JSON."),
    ],
    ids=[
        "UTF-16",
        "UTF-16LE",
        "UTF-16BE",
        "UTF-32",
        "Latin-1",
        "two marks",
        "a mark behind",
        "a mark alone",
        "a prefix",
    ],
)
async def test_what_is_no_json_in_utf_8(body, message, client):
    """The refusal names the encoding, where it can be recognized."""
    response = await client.post(
        "/graphql", content=body, headers={"content-type": "application/json"}
    )
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")
    assert response.json()["errors"][0]["message"] == message


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"query": "{ a }", "query": "{ b }"}', "query"),
        ('{"query": "{ a }", "\\u0071uery": "{ b }"}', "query"),
        ('{"query": "{ a }", "variables": {"n": 1}, "variables": {"n": 2}}', "variables"),
        ('{"query": "{ a }", "variables": {"n": 1, "n": 2}}', "n"),
        ('{"query": "{ a }", "variables": {"n": [{"m": 1, "m": true}]}}', "m"),
        ('{"query": "{ a }", "variables": {"n": 1, "n": 1.0}}', "n"),
        ('{"query": "{ a }", "operationName": "A", "operationName": null}', "operationName"),
        ('{"query": "{ a }", "extensions": {"a": 1}, "extensions": null}', "extensions"),
        ('{"query": "{ a }", "\\ud800": 1, "\\ud800": 2}', "?"),
    ],
)
async def test_two_values_for_one_name(body, name, client):
    """Parsers differ in which of the two they take, so neither is taken."""
    response = await client.post(
        "/graphql", content=body, headers={"content-type": "application/json"}
    )
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")
    expected = f'One JSON object has "{name}" twice, with different values.'
    assert response.json()["errors"][0]["message"] == expected


async def test_one_value_twice_for_one_name(client):
    body = (
        json.dumps({"query": QUERY})[:-1] + ', "variables": {"series": "main", "series": "main"}}'
    )
    response = await client.post(
        "/graphql", content=body, headers={"content-type": "application/json"}
    )
    assert response.json() == LATEST


@pytest.mark.parametrize("name", ["query", "variables", "operationName", "extensions"])
async def test_two_values_in_an_address(name, client):
    parameters = [("query", QUERY), (name, "a"), (name, "b")]
    response = await client.get("/graphql", params=parameters)
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")
    assert (
        response.json()["errors"][0]["message"]
        == f"The address has `{name}` twice, with different values."
    )
    assert (
        await client.get("/graphql", params=[("query", QUERY), ("query", QUERY)])
    ).json() == LATEST


async def test_surrogates_in_a_body(client):
    """
    JSON can escape what no text can store: an id with a surrogate is invalid, and any other text is
    refused, too.
    """
    body = rb'{"query": "query($id: ID!) { batch(id: $id) { id } }", "variables": {"id": "\ud800"}}'
    response = await client.post(
        "/graphql", content=body, headers={"content-type": "application/json"}
    )
    assert response.json()["data"] == {"batch": None}
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_ID"
    body = (
        rb'{"query": "query($s: String!) { latestBatch(series: $s) { id } }", "variables": '
        rb'{"s": "\ud800"}}'
    )
    response = await client.post(
        "/graphql", content=body, headers={"content-type": "application/json"}
    )
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_TEXT"


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/graphql",
     "application/json; charset=latin-1", ""],
)  # fmt: skip
async def test_another_content_type(content_type, client):
    response = await client.post(
        "/graphql", content=b'{"query": "{ a }"}', headers={"content-type": content_type}
    )
    assert (response.status_code, code(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert response.headers["accept-post"] == "application/json"


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/json;charset=UTF-8"]
)
async def test_a_content_type_with_a_charset(content_type, client):
    body = json.dumps({"query": QUERY}).encode()
    response = await client.post("/graphql", content=body, headers={"content-type": content_type})
    assert response.json() == LATEST


async def test_a_body_that_is_too_long(client):
    body = json.dumps({"query": QUERY, "variables": {"series": "x" * MAX_BODY_BYTES}}).encode()
    response = await client.post(
        "/graphql", content=body, headers={"content-type": "application/json"}
    )
    assert (response.status_code, code(response)) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("kind", ["mutation", "subscription"])
async def test_only_queries(kind, client):
    response = await client.get("/graphql", params={"query": f"{kind} {{ pick }}"})
    assert (response.status_code, code(response)) == (405, "OPERATION_NOT_SUPPORTED")
    assert response.headers["allow"] == "POST"
    response = await client.post("/graphql", json={"query": f"{kind} {{ pick }}"})
    assert (response.status_code, code(response)) == (200, "OPERATION_NOT_SUPPORTED")
    response = await client.post(
        "/graphql", json={"query": f"{kind} {{ pick }}"}, headers={"accept": GRAPHQL}
    )
    assert (response.status_code, code(response)) == (400, "OPERATION_NOT_SUPPORTED")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_other_methods(method, client):
    response = await client.request(method, "/graphql")
    assert (response.status_code, code(response)) == (405, "METHOD_NOT_ALLOWED")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}


async def test_another_path(client):
    """On every path, an error has the same form."""
    response = await client.get("/nope", headers={"accept": GRAPHQL})
    assert (response.status_code, code(response)) == (404, "NOT_FOUND")
    assert response.headers["content-type"] == f"{GRAPHQL}; charset=utf-8"


async def test_options(client):
    response = await client.options("/graphql")
    assert response.status_code == 204
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}


async def test_head(client):
    """HEAD gets the headers of GET, without the body."""
    response = await client.head("/graphql", params={"query": QUERY})
    assert (response.status_code, response.headers["content-type"]) == (
        200,
        "application/json; charset=utf-8",
    )
    assert (await client.head("/graphql")).status_code == 400
    mutation = await client.head("/graphql", params={"query": "mutation { pick }"})
    assert (mutation.status_code, mutation.headers["allow"]) == (405, "POST")


async def test_a_list_of_requests(client):
    """The refusal says what to do instead."""
    response = await client.post("/graphql", json=[{"query": QUERY}] * 2)
    assert (
        response.json()["errors"][0]["message"]
        == "Requests are answered one at a time: send an object, not a list."
    )


@pytest.mark.parametrize("encoding", ["gzip", "br", "nonsense"])
async def test_a_compressed_body(encoding, client):
    headers = {"content-type": "application/json", "content-encoding": encoding}
    response = await client.post("/graphql", content=b"{}", headers=headers)
    assert (response.status_code, code(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert response.headers["connection"] == "close"


@pytest.fixture
async def address(client) -> AsyncIterator[tuple[str, int]]:
    """
    Host and port of the same application on a real socket, which can receive a request in pieces.
    """
    config = uvicorn.Config(
        ResponseCache(client.app, lambda: 1), lifespan="off", log_config=None, access_log=False
    )
    async with local_server(config) as address:
        yield address


HEAD = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def exchange(address, *pieces: bytes) -> tuple[bytes, bytes, int]:
    """Send pieces until there is an answer. Return its headers, its body and how much was sent."""
    sent, answer = 0, b""
    with socket.create_connection(address, timeout=10) as connection:
        for piece in pieces:
            with suppress(ConnectionError):
                connection.sendall(piece)
                sent += len(piece)
            if select([connection], [], [], 0.05 if len(piece) == 1 else 0)[0]:
                break
        with suppress(ConnectionError):  # it may come right behind the answer
            while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n")[1]) < expected(answer):
                answer += connection.recv(65_536)
    head, body = answer.split(b"\r\n\r\n")
    return head, body, sent


def expected(answer: bytes) -> int:
    """Return how long the body of an answer is."""
    return int(re.findall(rb"content-length: (\d+)", answer)[0])


async def test_a_chunked_body(address):
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in json.dumps({"query": QUERY}).encode())
    head, body, _ = await asyncio.to_thread(
        exchange, address, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunks, b"0\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body) == LATEST


@pytest.mark.parametrize(
    ("framing", "piece"),
    [
        pytest.param(b"Content-Length: 10000000\r\n\r\n", b"a" * 50_000, id="with a length"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"C350\r\n" + b"a" * 50_000 + b"\r\n",
            id="chunked",
        ),
    ],
)
async def test_ten_megabytes(framing, piece, address):
    """It is refused as soon as it is known to be too long, without waiting for the rest."""
    # The server closes the connection while the client still sends. Then the system may discard the
    # end of the response (RFC 9112, section 9.6), which happens once in some thousand times.
    for _ in range(3):
        head, body, sent = await asyncio.to_thread(
            exchange, address, HEAD + framing, *[piece] * 200
        )
        if body:
            break
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in head
    assert json.loads(body)["errors"][0]["extensions"]["code"] == "PAYLOAD_TOO_LARGE"
    assert sent < 9_000_000


@pytest.mark.parametrize("pieces", [[b'{"query"'], [b" "] * 20], ids=["half a body", "a trickle"])
async def test_a_body_that_does_not_come(pieces, address, monkeypatch):
    """The request is given up after a while, also if single bytes still arrive."""
    monkeypatch.setattr("api.http.BODY_TIMEOUT", 0.3)
    head, body, _ = await asyncio.to_thread(
        exchange, address, HEAD + b"Content-Length: 1000\r\n\r\n", *pieces
    )
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head
    assert json.loads(body)["errors"][0]["extensions"]["code"] == "REQUEST_TIMEOUT"


async def test_a_browser_gets_graphiql(client):
    """Only a request that accepts HTML and has no query gets the page."""
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    response = await client.get("/graphql", headers=browser)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["vary"] == "Accept"
    assert "GraphiQL" in response.text
    style = re.findall(r'href="(/graphql/files/\w+/page.css)"', response.text)[0]
    assert (await client.get(style)).status_code == 200
    response = await client.get("/graphql", params={"query": QUERY}, headers=browser)
    assert response.json() == LATEST


async def test_a_database_that_is_away(client, pool):
    """The response is a 503 that says when to try again."""
    await pool.close()
    response = await client.post("/graphql", json={"query": QUERY})
    assert (response.status_code, code(response)) == (503, "SERVICE_UNAVAILABLE")
    assert response.headers["retry-after"] == "5"


async def test_mistakes_are_logged_without_a_traceback(client):
    with structlog.testing.capture_logs() as lines:
        await client.post("/graphql", json={"query": "{ nope }"})
    assert lines == [
        {
            "event": "request refused",
            "log_level": "info",
            "code": "GRAPHQL_VALIDATION_FAILED",
            "status": 200,
        }
    ]


async def test_a_handler_that_fails():
    """
    After any unexpected error the answer is JSON with a code, and with an id that is in the log.
    """

    @get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    app = Litestar(
        [broken],
        exception_handlers={Exception: handle_unexpected_exception},
        openapi_config=None,
        logging_config=None,
    )
    async with AsyncTestClient(app) as client:
        with structlog.testing.capture_logs() as lines:
            response = await client.get("/broken")
    assert (response.status_code, code(response)) == (500, "INTERNAL_SERVER_ERROR")
    (error,) = response.json()["errors"]
    assert lines[0]["event"] == "unexpected error"
    assert lines[0]["error_id"] == error["extensions"]["id"]
    assert isinstance(lines[0]["exc_info"], ZeroDivisionError)
