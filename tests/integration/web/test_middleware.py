"""The headers of every response, and the ids of requests in the log, over a real socket."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import httpx
import psycopg
import pytest
from processes import SLOW, Started, serving, started, until

from api.cache import MAX_CONCURRENT
from api.headers import with_security_headers
from api.limits import MAX_BODY_BYTES
from app.web.middleware import request_id
from app.web.pages import site as pages
from app.web.routes import route_label
from tests.integration.api.test_graphiql_page import POLICY

STRICT = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}
QUERY = {"query": "{ latestBatch { id } }"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def served(migrated, tmp_path_factory) -> Iterator[Started]:
    """A server without a worker, in a process of its own."""
    with serving(tmp_path_factory.mktemp("headers"), DATABASE_URL=migrated) as server:
        yield server


@pytest.fixture
def client(served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.address, timeout=30) as client:
        yield client


def known(client: httpx.Client) -> httpx.Response:
    """Return a 304."""
    tag = client.get("/graphql", params=QUERY).headers["etag"]
    return client.get("/graphql", params=QUERY, headers={"if-none-match": tag})


RESPONSES: dict[str, tuple[int, Callable[[httpx.Client], httpx.Response]]] = {
    "nothing": (404, lambda client: client.get("/nope")),
    "a query": (200, lambda client: client.post("/graphql", json=QUERY)),
    "a cached query": (
        200,
        lambda client: [client.post("/graphql", json=QUERY) for _ in range(2)][1],
    ),
    "a query in the address": (200, lambda client: client.get("/graphql", params=QUERY)),
    "nothing new": (304, known),
    "what is allowed": (204, lambda client: client.options("/graphql")),
    "live": (200, lambda client: client.get("/live")),
    "health": (200, lambda client: client.get("/health")),
    "metrics": (200, lambda client: client.get("/metrics")),
    "no such file": (404, lambda client: client.get("/graphql/files/nope.js")),
    "no such method": (405, lambda client: client.put("/graphql")),
    "no such method of another": (405, lambda client: client.post("/metrics")),
    "no JSON": (400, lambda client: client.post("/graphql", content="{", headers=JSON)),
    "too long": (
        413,
        lambda client: client.post("/graphql", content=b" " * (MAX_BODY_BYTES + 1), headers=JSON),
    ),
    "another type": (415, lambda client: client.post("/graphql", content="a=1")),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_every_response_is_strict(name, client):
    """Browsers may not guess, frame, run or refer anything; no response names the server."""
    status, ask = RESPONSES[name]
    response = ask(client)
    assert response.status_code == status
    assert {header: response.headers.get_list(header) for header in STRICT} == {
        header: [value] for header, value in STRICT.items()
    }
    assert not {
        "server",
        "x-powered-by",
        "access-control-allow-origin",
        "strict-transport-security",
    } & {*response.headers}
    if status >= 400:
        assert response.json()["errors"][0]["extensions"]["code"]


@pytest.mark.parametrize("path", ["/", "/about", "/nope"])
def test_pages_for_people_are_strict(path, client):
    """
    Pages may load only our own files; the other headers are as strict as elsewhere, on error
    pages too.
    """
    response = client.get(path, headers={"accept": "text/html"})
    assert response.headers.get_list("content-security-policy") == [pages.CONTENT_SECURITY_POLICY]
    others = STRICT.keys() - {"content-security-policy"}
    assert {header: response.headers[header] for header in others} == {
        header: STRICT[header] for header in others
    }
    assert response.headers["cross-origin-opener-policy"] == "same-origin"


def test_the_page_keeps_its_own_policy(client):
    """GraphiQL's page may load only what it needs; the other headers are as strict as elsewhere."""
    response = client.get("/graphql", headers={"accept": "text/html"})
    (policy,) = response.headers.get_list("content-security-policy")
    assert [part.split()[0] for part in policy.split("; ")] == list(POLICY)
    others = STRICT.keys() - {"content-security-policy"}
    assert {header: response.headers[header] for header in others} == {
        header: STRICT[header] for header in others
    }
    assert response.headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path", ["/graphql?query=%7B%20latestBatch%20%7B%20id%20%7D%20%7D", "/live", "/nope"]
)
def test_https_is_required_for_a_year(path, client):
    """
    Clients that reached a proxy over https get a header that requires it for a year, also with
    cached responses; others do not.
    """
    for _ in range(2):
        all_headers = [
            client.get(path, headers={"x-forwarded-proto": how}).headers
            for how in ("https", "http")
        ]
        assert [one.get("strict-transport-security") for one in all_headers] == [
            "max-age=31536000",
            None,
        ]


# What proxies write: each may add its own behind the one before, in one line or in lines of their
# own.
FIRST_IS_HTTPS = [
    [b"https"],
    [b"https,http"],
    [b"HTTPS , http"],
    [b" https"],
    [b"https", b"http"],
    [b"https,http,https"],
    [b", https"],
    [b"https\t,http"],
]
FIRST_IS_NOT = [
    [],
    [b""],
    [b"http"],
    [b"http,https"],
    [b"http", b"https"],
    [b"httpsx"],
    [b"xhttps"],
    [b"wss"],
]


@pytest.mark.parametrize(
    ("lines", "https"),
    [*((lines, True) for lines in FIRST_IS_HTTPS), *((lines, False) for lines in FIRST_IS_NOT)],
)
def test_the_protocol_of_the_first_proxy_counts(lines, https, served):
    """The first protocol counts: proxies behind the first one may use http."""
    forwarded = b"".join(b"X-Forwarded-Proto: %b\r\n" % line for line in lines)
    for path in (b"/live", b"/graphql?query={service{version}}", b"/nope"):
        request = b"GET %b HTTP/1.1\r\nHost: x\r\n%bConnection: close\r\n\r\n" % (path, forwarded)
        assert (
            b"strict-transport-security: max-age=31536000\r\n" in raw(served.address, request)
        ) is https


def test_too_much_at_once_is_refused_strictly(migrated, tmp_path):
    """The cheapest refusal has all headers, too."""
    with serving(tmp_path, DATABASE_URL=migrated) as server, psycopg.connect(migrated) as holding:
        holding.execute("LOCK TABLE corrections IN ACCESS EXCLUSIVE MODE")
        # One client, because each has to read the certificates first: they would not come at once.
        client = httpx.Client(
            base_url=server.address, timeout=30, limits=httpx.Limits(max_connections=None)
        )
        with client, ThreadPoolExecutor(MAX_CONCURRENT + 8) as threads:

            def ask(number: int) -> httpx.Response:
                # One document: requests with new ones would wait for validation, where they do not
                # count.
                return client.post(
                    "/graphql", json={"query": SLOW, "variables": {"number": number}}
                )

            requests = [threads.submit(ask, number) for number in range(MAX_CONCURRENT + 8)]
            # The others got no database connection in time. They reached a handler and have an id.
            refused = next(
                one.result()
                for one in as_completed(requests)
                if one.result().status_code == 503 and "x-request-id" not in one.result().headers
            )
            holding.rollback()
        counted = httpx.get(f"{server.address}/metrics").text
    assert refused.headers["retry-after"] == "5"
    assert {header: refused.headers[header] for header in STRICT} == STRICT
    assert (
        float(re.findall(r"^alpha_monday_busy_refusals_total (.*)$", counted, re.MULTILINE)[0]) >= 1
    )


def raw(address: str, text: bytes) -> bytes:
    """Return the server's answer to these bytes."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text)
        return connection.recv(65_536)


def test_a_request_that_is_none(served):
    """Bytes that are not HTTP get a line of plain text, which repeats nothing of them."""
    answer = raw(served.address, b"<script>\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"<script>" not in answer
    assert b"server:" not in answer.lower()


def lines_of(server: Started, request: str) -> list[dict[str, str]]:
    """Return the log lines of a request."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("request") == request]


@pytest.mark.parametrize("name", ["x-request-id", "fly-request-id"])
def test_a_request_keeps_the_id_that_it_came_with(name, client, served):
    """The id is in the response, and in every log line of the request."""
    id = f"01J-of.the_{name}"
    response = client.post("/graphql", content="{", headers={**JSON, name: id})
    assert response.headers["x-request-id"] == id
    until(lambda: lines_of(served, id), 5)
    assert [(line["event"], line["code"]) for line in lines_of(served, id)] == [
        ("request refused", "BAD_REQUEST")
    ]


def test_a_request_without_an_id_gets_one(client, served):
    """Each request gets another id."""
    ids = {client.get("/nope").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    for id in ids:
        assert re.fullmatch("[0-9a-f]{32}", id)
        until(lambda id=id: lines_of(served, id), 5)


def test_a_cached_response_has_no_id(client):
    """A cached response has no id, because it logs nothing."""
    query = {"query": "{ latestBatch { runDate } }"}
    first, *cached = (
        client.post("/graphql", json=query, headers={"x-request-id": f"a-{n}"}) for n in range(3)
    )
    assert first.headers["x-request-id"] == "a-0"
    assert [one.headers.get("x-request-id") for one in cached] == [None, None]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({b"x-request-id": b"a" * 64}, b"a" * 64, id="the longest"),
        pytest.param({b"x-request-id": b"a" * 65}, None, id="too long"),
        pytest.param({b"x-request-id": b""}, None, id="empty"),
        pytest.param({b"x-request-id": b"a\nb"}, None, id="two lines"),
        pytest.param({b"x-request-id": b'a"}'}, None, id="what JSON would quote"),
        pytest.param({b"x-request-id": "é".encode()}, None, id="other letters"),
        pytest.param(
            {b"x-request-id": b"a b", b"fly-request-id": b"01H-ams"}, b"01H-ams", id="the next one"
        ),
        pytest.param(
            {b"x-request-id": b"a", b"fly-request-id": b"b"},
            b"a",
            id="the client's before the proxy's",
        ),
    ],
)
def test_which_id_a_request_has(headers, expected):
    """An id that is not short and plain is replaced."""
    id_ = request_id(headers)
    assert id_ == expected if expected else re.fullmatch(rb"[0-9a-f]{32}", id_)


@pytest.mark.parametrize(
    ("path", "route"),
    [("/graphql", "graphql"), ("/graphql/files/a.js", "graphql"), ("/live", "live"), ("/", "pages"),
     ("/batches/2026-01-05", "pages"), ("/live/journal", "stream"),
     ("/livelier", "other"), ("/other", "other"), ("*", "other"), ("//metrics", "other")],
)  # fmt: skip
def test_a_route_is_one_of_a_few(path, route):
    """Whatever path a client sends, no metric gets a label from it."""
    assert route_label(path) == route


def test_a_header_that_is_there_is_left():
    """An existing header is not added again, whatever its case."""
    headers = with_security_headers([(b"Referrer-Policy", b"origin")], https=True)
    assert headers[0] == (b"referrer-policy", b"origin")
    assert [name for name, _ in headers].count(b"referrer-policy") == 1
    assert len(headers) == len(STRICT) + 1


def test_an_unexpected_error_leads_to_its_line(migrated, tmp_path):
    """The error's id and the request's id lead to the line in the log."""
    there = {"cwd": tmp_path, "says": "Serving GraphQL at ", "DATABASE_URL": migrated}
    with started("serve", "--no-worker", quiet=False, **there) as server:
        with psycopg.connect(migrated, autocommit=True) as conn:
            conn.execute("ALTER TABLE splits RENAME COLUMN factor TO gone")
        try:
            query = '{ splits(ticker: "MSFT") { nodes { factor } } }'
            response = httpx.post(f"{server.address}/graphql", json={"query": query}, timeout=30)
        finally:
            with psycopg.connect(migrated, autocommit=True) as conn:
                conn.execute("ALTER TABLE splits RENAME COLUMN gone TO factor")
        (error,) = response.json()["errors"]
        assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
        until(lambda: lines_of(server, response.headers["x-request-id"]), 5)
        first, *_ = lines_of(server, response.headers["x-request-id"])
        assert (first["event"], first["error_id"]) == (
            "unexpected error",
            error["extensions"]["id"],
        )
        assert "UndefinedColumn" in first["exception"]
