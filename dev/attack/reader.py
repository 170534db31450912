"""The one reader: the requests of an ordinary client, one after another, and how long each took."""

import asyncio
import time
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from itertools import count, cycle
from pathlib import Path

from client import (
    ConnectionClosed,
    http_request,
    open_connection,
    persisted_query,
    query_request,
)

OPERATIONS = Path(__file__).parents[2] / "graphql" / "operations"

# The reader's address, which no attacker has.
SOURCE = "127.0.200.1"

# In seconds: the pause between two requests, and the longest wait for a response.
PAUSE = 0.01
TIMEOUT = 30.0

# How many requests go over one connection.
REQUESTS_PER_CONNECTION = 9

# The names of the requests, as the report shows them; the response cache answers "cached query".
PATHS = (
    "front page",
    "batch page",
    "record",
    "/live",
    "/health",
    "cached query",
    "new variables",
    "new document",
    "feed",
)


# Requests that may take longer: an export is long by nature, and a new document waits for its
# validation, in turns by client.
EXPORT, NEW_DOCUMENT = "export", "new document"

# In seconds: the stream is opened, and the first export requested, this long after the attack
# began; an export is also requested again after this time.
SETTLE_TIME = 1.0


@dataclass
class ReaderMeasurements:
    """The times of one reader's responses, in seconds by the request's name, and its errors."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def all(self) -> list[float]:
        """Return the times of all responses, except those that may take longer."""
        times: list[float] = []
        for name, of_request in self.seconds.items():
            if name not in (EXPORT, NEW_DOCUMENT):
                times += of_request
        return times


def percentile(times: list[float], share: float) -> float:
    """
    Return the time within which a `share` of all responses came, 0 without any.

    It is the nearest rank; `share` is between 0 and 1.
    """
    if not times:
        return 0.0
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


_numbers = count()


def requests(newest: date, mondays: int) -> Iterator[tuple[str, bytes]]:
    """Yield the reader's requests with their names, in turn and without end."""
    persisted = (OPERATIONS / "LatestBatch.graphql").read_text()
    persisted_hash = sha256(persisted.encode()).hexdigest()
    page = (
        "query($after:String){batches(first:5,after:$after)"
        "{nodes{id runDate status picks{ticker action}}}}"
    )
    for name in cycle(PATHS):
        number = next(_numbers)
        monday = newest - timedelta(weeks=number % mondays)
        match name:
            case "front page":
                yield name, http_request("GET", "/")
            case "batch page":
                yield name, http_request("GET", f"/batches/{monday}")
            case "record":
                yield name, http_request("GET", "/record")
            case "/live" | "/health":
                yield name, http_request("GET", name)
            case "cached query":
                yield name, persisted_query(persisted_hash)
            case "new variables":
                day = monday + timedelta(days=number % 7)
                yield name, query_request(page, after=b64encode(str(day).encode()).decode())
            case "new document":
                document = f"{{r{number}:latestBatch{{id runDate picks{{ticker action}}}}}}"
                yield name, query_request(document)
            case _:
                yield name, http_request("GET", "/feed.atom")


async def read(
    port: int,
    source: str,
    reader_requests: Iterator[tuple[str, bytes]],
    measured: ReaderMeasurements,
) -> None:
    """Send requests one after another until cancelled."""
    name = ""
    while True:
        try:
            async with asyncio.timeout(TIMEOUT), open_connection(port, source) as conn:
                for _ in range(REQUESTS_PER_CONNECTION):
                    name, message = next(reader_requests)
                    start = time.monotonic()
                    try:
                        await conn.send(message)
                        response = await conn.read_response()
                    finally:
                        # Also when it failed or was cancelled: the reader has waited this long.
                        measured.seconds[name].append(time.monotonic() - start)
                    if response.outcome != "200":
                        measured.errors[f"{name}: {response.outcome}"] += 1
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            measured.errors[f"{name}: no answer"] += 1
        except ConnectionClosed:
            measured.errors[f"{name}: hung up on"] += 1
        except OSError as error:
            measured.errors[f"connection: {type(error).__name__}"] += 1
            await asyncio.sleep(0.1)


async def read_exports(port: int, source: str, measured: ReaderMeasurements) -> None:
    """Read exports until cancelled."""
    while True:
        await asyncio.sleep(SETTLE_TIME)
        start = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT), open_connection(port, source) as conn:
                await conn.send(http_request("GET", "/export.csv"))
                response = await conn.read_response()
            measured.seconds[EXPORT].append(time.monotonic() - start)
            if response.outcome != "200":
                measured.errors[f"{EXPORT}: {response.outcome}"] += 1
        except TimeoutError:
            measured.errors[f"{EXPORT}: no answer"] += 1
        except OSError as error:
            measured.errors[f"{EXPORT}: {type(error).__name__}"] += 1


@dataclass
class ReaderStream:
    """
    A stream that the reader keeps open.

    `events` has the times of its events on the monotonic clock. `ended` says why it ended, empty
    while it is open.
    """

    events: list[float] = field(default_factory=list)
    ended: str = ""


async def read_stream(port: int, source: str, stream: ReaderStream) -> None:
    """Keep a stream open until cancelled, and note when events come."""
    await asyncio.sleep(SETTLE_TIME)
    try:
        async with open_connection(port, source) as conn:
            await conn.send(http_request("GET", "/live/journal"))
            while True:
                data = await conn.read()
                if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
                    stream.ended = data[9:12].decode()
                    return
                if b"data:" in data:
                    stream.events.append(time.monotonic())
    except ConnectionClosed:
        stream.ended = "hung up on"
    except OSError as error:
        stream.ended = type(error).__name__


@asynccontextmanager
async def reading(
    port: int, source: str, reader_requests: Iterator[tuple[str, bytes]]
) -> AsyncIterator[tuple[ReaderMeasurements, ReaderStream]]:
    """Let the reader work while the context lasts."""
    measured, stream = ReaderMeasurements(), ReaderStream()
    tasks = [
        asyncio.create_task(read(port, source, reader_requests=reader_requests, measured=measured)),
        asyncio.create_task(read_exports(port, source, measured)),
        asyncio.create_task(read_stream(port, source, stream)),
    ]
    try:
        yield measured, stream
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
