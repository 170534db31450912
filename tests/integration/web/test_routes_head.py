"""
HEAD gets the status and the headers of GET on every path, at once and without a body.

A response to HEAD must not be made in another place than the response to GET. Once, `/health`,
`/live` and `/metrics` answered 405, and `/graphql` (as a browser asks for it) and `/export.csv?a=b`
answered 500.
"""

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from api_records import WON, plant_main
from processes import Started, serving

from app.core import settings
from app.database import migrations
from app.main import create_app
from app.web import routes
from app.web.journal_stream import MAX_STREAMS
from app.web.routes import ROUTES

NOW = datetime(2026, 11, 1, tzinfo=UTC)
FRIEND = "https://friend.example"
QUERY = "/graphql?query={service{version}}"
BROWSER, GRAPHQL = {"accept": "text/html"}, {"accept": "application/graphql-response+json"}
# These headers depend on the moment. A stream has no length, and a HEAD need not say how it would
# be sent.
OF_THE_MOMENT = {"date", "x-request-id", "transfer-encoding"}
STREAMS = {routes.JOURNAL_STREAM.path}

EXAMPLES = {
    routes.BATCH: routes.BATCH.url(run_date=WON),
    routes.BATCH_CHART: routes.BATCH_CHART.url(run_date=WON),
    routes.SERIES: routes.SERIES.url(series="main"),
    routes.SERIES_BATCHES: routes.SERIES_BATCHES.url(series="main"),
    routes.SERIES_BATCH: routes.SERIES_BATCH.url(series="main", run_date=WON),
    routes.SERIES_BATCH_CHART: routes.SERIES_BATCH_CHART.url(series="main", run_date=WON),
    routes.TIMESTAMP_FILE: routes.TIMESTAMP_FILE.url(name="3.ots"),
    routes.GRAPHQL: QUERY,
}


def paths() -> dict[str, str]:
    """Return an example of each route, by its path in the table; for files, all that are served."""
    served = sorted(
        route.path for route in create_app(settings.load({}), work=False).app.app.routes
    )
    examples = {}
    for row in ROUTES:
        for path in served:
            if row.litestar_path == path or row.pattern.fullmatch(path):
                examples[f"{row.path} {path}"] = EXAMPLES.get(row, path)
    return examples


REQUESTS: dict[str, tuple[int, str, dict[str, str]]] = {
    **{name: (200, path, {}) for name, path in paths().items()},
    "a page": (200, "/", BROWSER),
    "the front for a program": (200, "/", {"accept": "application/json"}),
    "GraphiQL": (200, "/graphql", BROWSER),
    "a query that names the type": (200, QUERY, GRAPHQL),
    "a query of another origin": (200, QUERY, {"origin": FRIEND}),
    "a query by another spelling": (200, QUERY.replace("/graphql", "//graphql/"), {}),
    "no query": (400, "/graphql", {}),
    "half a query": (400, "/graphql?query={", GRAPHQL),
    "half a query of the older type": (200, "/graphql?query={", {}),
    "a mutation": (405, "/graphql?query=mutation{pick}", {}),
    "variables that are no JSON": (400, f"{QUERY}&variables=x", {}),
    "an export from a day": (200, f"/export.json?from={WON}", {}),
    "an export with a parameter that it has not": (400, "/export.csv?a=b", {}),
    "an export from no day": (400, "/export.json?from=yesterday", {}),
    "another page of the history": (400, "/batches?after=x", {}),
    "no Monday": (404, "/batches/2026-01-06", BROWSER),
    "no picture": (404, "/batches/latest/chart.png", {}),
    "nothing": (404, "/nope", {}),
    "nothing for a browser": (404, "/nope", BROWSER),
    "nothing for another origin": (404, "/nope", {"origin": FRIEND}),
    "no file": (404, "/graphql/files/nope.js", {}),
    "a slash more": (200, "/health/", {}),
}


@pytest.fixture(scope="module")
def service(create, tmp_path_factory) -> Iterator[Started]:
    address = create()
    asyncio.run(migrations.migrate(address, NOW))
    plant_main(address)
    with serving(
        tmp_path_factory.mktemp("served"), DATABASE_URL=address, CORS_ALLOW_ORIGINS=FRIEND
    ) as one:
        yield one


@pytest.fixture(scope="module")
def client(service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address, timeout=20) as one:
        yield one


def request(
    client: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    """Return the status and the headers of a response, without waiting for its end."""
    with client.stream(method, path, headers=headers) as response:
        if method == "HEAD":
            assert response.read() == b""
        response_headers = {
            name: value
            for name, value in response.headers.multi_items()
            if name not in OF_THE_MOMENT
        }
    if path == routes.METRICS.path:  # which counts this request
        response_headers["content-length"] = bool(response_headers["content-length"])
    return response.status_code, response_headers


@pytest.mark.parametrize("name", REQUESTS)
def test_head_is_get_without_its_body(name, client):
    """From the cache or not, before and after a GET; a later GET gets its body."""
    status, path, headers = REQUESTS[name]
    first, expected, again = (
        request(client=client, method=method, path=path, headers=headers)
        for method in ("HEAD", "GET", "HEAD")
    )
    assert expected[0] == status
    assert first == expected
    assert again == expected
    if path.partition("?")[0] not in STREAMS:
        assert ("content-length" in expected[1]) is ("export" not in path or status != 200)
        assert client.get(path, headers=headers).content


@pytest.mark.parametrize("name", REQUESTS)
def test_a_head_has_no_body_on_the_wire(name, service):
    """The next response on the connection begins directly after the headers."""
    _, path, headers = REQUESTS[name]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sent = (
        f"HEAD {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\nGET /live HTTP/1.1\r\nHost: "
        "x\r\nConnection: close\r\n\r\n"
    )
    host, port = service.address.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent.encode())
        while data := connection.recv(65_536):
            received += data
    _, second, rest = received.split(b"\r\n\r\n")
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest == b'{"status":"alive"}'


TAGGED = [
    name
    for name in REQUESTS
    if name.startswith(("/ ", "/batches", "/record", "/about", "/feed", "/export"))
]


@pytest.mark.parametrize("name", [*TAGGED, "a query of another origin"])
@pytest.mark.parametrize("known", ["its tag", "weakly", "among others", "anything", "another"])
def test_a_head_with_a_condition(known, name, client):
    """It is a 304 if the client has the response, as for GET."""
    _, path, headers = REQUESTS[name]
    if name == "a query of another origin":
        path = "/graphql?query={latestBatch{id}}"
    _, response = request(client=client, method="HEAD", path=path, headers=headers)
    tag = response["etag"]
    condition = {
        "its tag": tag,
        "weakly": f"W/{tag}",
        "among others": f'"a", {tag}',
        "anything": "*",
        "another": '"a"',
    }
    headers = {**headers, "if-none-match": condition[known]}
    expected = request(client=client, method="GET", path=path, headers=headers)
    assert expected[0] == (200 if known == "another" else 304)
    assert request(client=client, method="HEAD", path=path, headers=headers) == expected


def test_a_stream_is_not_begun(client):
    """More HEADs than there may be streams leave no stream open."""
    for _ in range(MAX_STREAMS + 10):
        assert client.head(routes.JOURNAL_STREAM.path).status_code == 200
