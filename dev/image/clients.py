"""Those who ask the service: many at once, one after another without a pause, and one who is slow."""

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
HEAD = "POST /graphql HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


def operation(name: str, **variables: object) -> dict[str, object]:
    """Return the request for one of the documents that people need."""
    return {"query": (OPERATIONS / f"{name}.graphql").read_text(), "variables": variables}


def requests(number: int) -> Iterator[dict[str, object]]:
    """Yield so many: half may be kept answers, a quarter are asked anew, a quarter are documents never seen before."""
    latest, page, monday = operation("LatestBatch"), operation("Batches"), operation("BatchOn", runDate="2026-11-16")
    journal = operation("Journal")
    for count in range(number):
        if count % 2:
            yield latest if count % 4 == 1 else monday
        elif count % 4:
            yield {**(page if count % 8 == 2 else journal), "variables": {"first": 20, "count": count}}
        else:
            yield {**monday, "query": f"# {count}\n{monday['query']}"}


def ask(url: str, number: int, at_once: int = 8) -> tuple[float, Counter[str]]:
    """Ask so many times; return the seconds it took, and how often what was the answer."""
    answers: Counter[str] = Counter()
    pending = requests(number)

    async def one_of_them(client: httpx.AsyncClient) -> None:
        for request in pending:
            answer = await client.post("/graphql", json=request)
            answers["answered" if "errors" not in answer.json() else answer.text[:200]] += 1

    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            await asyncio.gather(*(one_of_them(client) for _ in range(at_once)))

    began = time.monotonic()
    asyncio.run(all_of_them())
    return time.monotonic() - began, answers


class Asking(threading.Thread):
    """Asks without a pause whoever serves at the time; what was not answered in full is kept."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.answered, self.slowest = url, 0, 0.0
        self.failures: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Ask until it is over, by one connection for each answer, so that a switch is a switch at once."""
        requested = list(requests(400))
        while not self._over.is_set():
            began, url = time.monotonic(), self.url
            try:
                answer = httpx.post(f"{url}/graphql", json=requested[self.answered % 400], timeout=10)
                if answer.status_code != 200 or "errors" in answer.json():
                    raise ValueError(f"{answer.status_code} {answer.text[:200]}")
            except (httpx.TransportError, ValueError) as error:
                self.failures.append(f"{url}: {error!r}")
            self.answered += 1
            self.slowest = max(self.slowest, time.monotonic() - began)

    def switch(self, url: str) -> None:
        """Ask somebody else; return when the last answer of the one before is there."""
        self.url, answered = url, self.answered
        while self.answered < answered + 2:
            time.sleep(0.01)

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()
        self.join()


@contextmanager
def asking(url: str) -> Iterator[Asking]:
    """Let somebody ask without a pause."""
    somebody = Asking(url)
    somebody.start()
    try:
        yield somebody
    finally:
        somebody.stop()


class Slow:
    """A client whose request is under way: its head and half of its body were sent."""

    def __init__(self, url: str) -> None:
        self._body = json.dumps(operation("BatchOn", runDate="2026-11-16")).encode()
        self._socket = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 80), timeout=30)
        self._socket.sendall(HEAD.format(len(self._body)).encode() + self._body[:100])

    def rest(self) -> str:
        """Send the rest; return the answer in full, until the other side hangs up."""
        self._socket.sendall(self._body[100:])
        return b"".join(iter(lambda: self._socket.recv(65_536), b"")).decode()
