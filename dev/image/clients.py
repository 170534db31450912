"""
Clients of the service: many at once, one without a pause, and a slow one.
"""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

OPERATIONS = Path(__file__).parents[2] / "graphql" / "operations"
HEAD = (
    "POST /graphql HTTP/1.1\r\nHost: service\r\n"
    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)


def operation(name: str, **variables: object) -> dict[str, object]:
    """Return the body of a request with one of the documents in graphql/operations."""
    return {"query": (OPERATIONS / f"{name}.graphql").read_text(), "variables": variables}


def make_requests(number: int) -> Iterator[dict[str, object]]:
    """
    Yield the bodies of so many requests.

    Half of them may come from the response cache, a quarter have new variables, and a quarter are
    documents that no request had before.
    """
    latest, page = operation("LatestBatch"), operation("Batches")
    monday, journal = operation("BatchOn", runDate="2026-11-16"), operation("Journal")
    for count in range(number):
        if count % 4 == 0:
            yield {**monday, "query": f"# {count}\n{monday['query']}"}
        elif count % 4 == 2:
            request = page if count % 8 == 2 else journal
            yield {**request, "variables": {"first": 20, "count": count}}
        else:
            yield latest if count % 4 == 1 else monday


def send_requests(url: str, number: int, at_once: int = 8) -> tuple[float, Counter[str]]:
    """
    Send so many requests; return the seconds that it took, and a count of the outcomes.

    The outcome is "answered", or the beginning of a response with errors.
    """
    outcomes: Counter[str] = Counter()
    pending = make_requests(number)

    async def send_pending(client: httpx.AsyncClient) -> None:
        for request in pending:
            response = await client.post("/graphql", json=request)
            outcome = "answered"
            if "errors" in response.json():
                outcome = response.text[:200]
            outcomes[outcome] += 1

    async def send_all() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            await asyncio.gather(*(send_pending(client) for _ in range(at_once)))

    start = time.monotonic()
    asyncio.run(send_all())
    return time.monotonic() - start, outcomes


class ConstantClient(threading.Thread):
    """
    A client that sends requests without a pause, to the service at `url`.

    `failures` has every request without a complete response. `slowest` is in seconds.
    """

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.answered = 0
        self.slowest = 0.0
        self.failures: list[str] = []
        self._is_over = threading.Event()

    def run(self) -> None:
        """Send requests until stopped, each on a new connection, so that a switch acts at once."""
        requests = list(make_requests(400))
        while not self._is_over.is_set():
            start, url = time.monotonic(), self.url
            request = requests[self.answered % len(requests)]
            try:
                response = httpx.post(f"{url}/graphql", json=request, timeout=10)
                if response.status_code != 200 or "errors" in response.json():
                    raise ValueError(f"{response.status_code} {response.text[:200]}")
            except (httpx.TransportError, ValueError) as error:
                self.failures.append(f"{url}: {error!r}")
            self.answered += 1
            self.slowest = max(self.slowest, time.monotonic() - start)

    def switch(self, url: str) -> None:
        """Send requests to another service; return when none to the former one is open."""
        # The second response after the switch belongs to a request that was sent after it.
        self.url, answered = url, self.answered
        while self.answered < answered + 2:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop sending requests."""
        self._is_over.set()
        self.join()


@contextmanager
def constant_client(url: str) -> Iterator[ConstantClient]:
    """Let a client send requests without a pause while the context lasts."""
    client = ConstantClient(url)
    client.start()
    try:
        yield client
    finally:
        client.stop()


class SlowClient:
    """A client whose request is under way: it has sent the head and a part of the body."""

    def __init__(self, url: str) -> None:
        self._body = json.dumps(operation("BatchOn", runDate="2026-11-16")).encode()
        self._socket = socket.create_connection(
            ("127.0.0.1", httpx.URL(url).port or 80), timeout=30
        )
        # The service has read the head and waits for the body: the request is under way.
        self._socket.sendall(HEAD.format(len(self._body)).encode() + self._body[:100])

    def finish(self) -> str:
        """Send the rest of the body; return the whole response, until the connection ends."""
        self._socket.sendall(self._body[100:])
        return b"".join(iter(lambda: self._socket.recv(65_536), b"")).decode()
