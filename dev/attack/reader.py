"""The one reader: what an ordinary client asks, one request after another, and how long each took."""

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

from client import Closed, connected, persisted, query, request

OPERATIONS = Path(__file__).parents[2] / "graphql" / "operations"

# The reader's address: another one than every attacker's.
SOURCE = "127.0.200.1"

# What a reader waits between two requests, and for an answer at most, in seconds.
PAUSE = 0.01
LONGEST = 30.0

# How many requests go over one connection.
REQUESTS_PER_CONNECTION = 9

PATHS = (
    "front page",
    "batch page",
    "record",
    "/live",
    "/health",
    "kept query",
    "new variables",
    "new document",
    "feed",
)


# An export is long by nature, and a document that is new waits for its validation, in turns by client.
EXPORT, NEW_DOCUMENT = "export", "new document"

# The stream is opened, and the first export asked for, so long after the attack began; an export that was refused is
# asked for again after that time, too. In seconds.
SETTLED = 1.0


@dataclass
class Measured:
    """How long the answers of one reader took, in seconds by what was asked, and what went wrong."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def all(self) -> list[float]:
        """Return what all answers took, but for those that may take longer."""
        return [one for name, times in self.took.items() if name not in (EXPORT, NEW_DOCUMENT) for one in times]


def percentile(times: list[float], part: float) -> float:
    """Return the time within which `part` of all answers came, by nearest rank; 0 of none."""
    if not times:
        return 0.0
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


_numbers = count()


def requests(newest: date, mondays: int) -> Iterator[tuple[str, bytes]]:
    """Give what the reader asks, in turn, with its name; without end."""
    kept = (OPERATIONS / "LatestBatch.graphql").read_text()
    page = "query($after:String){batches(first:5,after:$after){nodes{id runDate status picks{ticker action}}}}"
    for name in cycle(PATHS):
        number = next(_numbers)
        monday = newest - timedelta(weeks=number % mondays)
        match name:
            case "front page":
                yield name, request("GET", "/")
            case "batch page":
                yield name, request("GET", f"/batches/{monday}")
            case "record":
                yield name, request("GET", "/record")
            case "/live" | "/health":
                yield name, request("GET", name)
            case "kept query":
                yield name, persisted(sha256(kept.encode()).hexdigest())
            case "new variables":
                day = monday + timedelta(days=number % 7)
                yield name, query(page, after=b64encode(str(day).encode()).decode())
            case "new document":
                yield name, query(f"{{r{number}:latestBatch{{id runDate picks{{ticker action}}}}}}")
            case _:
                yield name, request("GET", "/feed.atom")


async def read(port: int, source: str, asked: Iterator[tuple[str, bytes]], measured: Measured) -> None:
    """Read until cancelled."""
    while True:
        try:
            async with asyncio.timeout(LONGEST), connected(port, source) as conn:
                for _ in range(REQUESTS_PER_CONNECTION):
                    name, message = next(asked)
                    began = time.monotonic()
                    try:
                        await conn.send(message)
                        answer = await conn.answer()
                    except (OSError, TimeoutError, asyncio.CancelledError):
                        measured.took[name].append(time.monotonic() - began)
                        raise
                    measured.took[name].append(time.monotonic() - began)
                    if answer.outcome != "200":
                        measured.errors[f"{name}: {answer.outcome}"] += 1
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            measured.errors[f"{name}: no answer"] += 1
        except Closed:
            measured.errors[f"{name}: hung up on"] += 1
        except OSError as error:
            measured.errors[f"connection: {type(error).__name__}"] += 1
            await asyncio.sleep(0.1)


async def export(port: int, source: str, measured: Measured) -> None:
    """Read exports until cancelled."""
    while True:
        await asyncio.sleep(SETTLED)
        began = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST), connected(port, source) as conn:
                await conn.send(request("GET", "/export.csv"))
                answer = await conn.answer()
            measured.took[EXPORT].append(time.monotonic() - began)
            if answer.outcome != "200":
                measured.errors[f"{EXPORT}: {answer.outcome}"] += 1
        except TimeoutError:
            measured.errors[f"{EXPORT}: no answer"] += 1
        except OSError as error:
            measured.errors[f"{EXPORT}: {type(error).__name__}"] += 1


@dataclass
class Stream:
    """A stream that the reader holds open: when its events came, by the monotonic clock."""

    events: list[float] = field(default_factory=list)
    ended: str = ""


async def listen(port: int, source: str, stream: Stream) -> None:
    """Hold a stream open until cancelled, and note when events come."""
    await asyncio.sleep(SETTLED)
    try:
        async with connected(port, source) as conn:
            await conn.send(request("GET", "/live/journal"))
            while True:
                data = await conn.read()
                if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
                    stream.ended = data[9:12].decode()
                    return
                if b"data:" in data:
                    stream.events.append(time.monotonic())
    except OSError as error:
        stream.ended = "hung up on" if isinstance(error, Closed) else type(error).__name__


@asynccontextmanager
async def reading(port: int, source: str, asked: Iterator[tuple[str, bytes]]) -> AsyncIterator[tuple[Measured, Stream]]:
    """Read and listen beside whatever the context does."""
    measured, stream = Measured(), Stream()
    tasks = [
        asyncio.create_task(read(port, source, asked, measured)),
        asyncio.create_task(export(port, source, measured)),
        asyncio.create_task(listen(port, source, stream)),
    ]
    try:
        yield measured, stream
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
