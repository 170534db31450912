"""
The kinds of attack: what one attacker does, again and again, until the attack ends.

A kind is a small coroutine function with a docstring, registered with `@kind(part)`. The part says
what is attacked: "answers" (memory, by large responses), "documents" (the event loop, by
validation), "connections", or "more". A kind receives an `Attacker`, which opens connections, makes
texts that no other request has, and counts outcomes.
"""

import asyncio
import json
import random
import socket
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from client import (
    MIN_RECEIVE_BUFFER,
    AttackConnection,
    ConnectionClosed,
    HttpResponse,
    http_request,
    open_connection,
    persisted_query,
    query_request,
)

OPERATIONS = Path(__file__).parents[2] / "graphql" / "operations"

# In seconds: how long an attacker holds a connection without reading, and how long it waits before
# it connects again.
HOLD_SECONDS = 60.0
RECONNECT_PAUSE = 0.05

# States of a TCP connection, as TCP_INFO reports them.
_ESTABLISHED, _CLOSE_WAIT = 1, 8

# Numbers for texts that must differ in each request.
_numbers = count()


@dataclass
class Attacker:
    """
    One attacker.

    `source` is its address. `newest` and `mondays` say which Mondays the record has, and
    `long_text_on` is the Monday with the very long texts. `outcomes` counts what the service did.
    """

    number: int
    port: int
    source: str
    newest: date
    mondays: int
    long_text_on: str
    outcomes: Counter[str] = field(default_factory=Counter)

    def connect(self, buffer: int = 0) -> AbstractAsyncContextManager[AttackConnection]:
        """Open a connection; `buffer` is the size of its receive buffer in bytes."""
        return open_connection(self.port, self.source, buffer)

    def unique_text(self) -> str:
        """Return a text that no other request of this attack has."""
        return f"{self.number}x{next(_numbers)}"

    def count(self, response: HttpResponse) -> HttpResponse:
        """Count a response by its outcome, and return it."""
        self.outcomes[response.outcome] += 1
        return response

    def random_monday(self) -> date:
        """Return a random Monday of the record."""
        return self.newest - timedelta(weeks=random.randrange(self.mondays))

    def random_cursor(self) -> str:
        """Return a random cursor for pages of batches."""
        return b64encode(str(self.random_monday()).encode()).decode()


AttackFunction = Callable[[Attacker], Awaitable[None]]


class AttackKind(NamedTuple):
    """A kind of attack, with the part of the service that it attacks."""

    name: str
    part: str
    description: str
    run: AttackFunction
    connections: int


KINDS: dict[str, AttackKind] = {}


def kind(part: str, connections: int = 1) -> Callable[[AttackFunction], AttackFunction]:
    """
    Register a kind under its function's name, with dashes.

    Each attacker runs it `connections` times at once. The description is the first paragraph of the
    function's docstring.
    """

    def register(run: AttackFunction) -> AttackFunction:
        name = run.__name__.replace("_", "-")  # type: ignore[attr-defined]
        assert run.__doc__
        KINDS[name] = AttackKind(
            name=name,
            part=part,
            description=" ".join(run.__doc__.split("\n\n")[0].split()),
            run=run,
            connections=connections,
        )
        return run

    return register


# Helpers of the kinds


async def request_and_not_read(attacker: Attacker, *requests: bytes) -> None:
    """
    Send requests, read the beginning of the first response, and then hold the connection.

    A request that was refused ends at once, so that the attacker sends it again.
    """
    async with attacker.connect(MIN_RECEIVE_BUFFER) as conn:
        await conn.send(b"".join(requests))
        # The head and the beginning of the body are enough to see an error's code.
        first = b""
        while b"\r\n\r\n" not in first or first.endswith(b"\r\n\r\n"):
            first += await conn.read(512)
        status = int(first.split(b" ", 2)[1])
        response = HttpResponse(status=status, head=b"", body=first, size=len(first))
        attacker.outcomes[response.outcome + ", not read"] += 1
        if response.outcome == "200":
            await hold_until_closed(conn)


async def hold_until_closed(conn: AttackConnection) -> None:
    """Hold a connection without reading; raise ConnectionClosed when the service ends it."""
    for _ in range(int(HOLD_SECONDS / 0.5)):
        await asyncio.sleep(0.5)
        # Without reading, only the state shows that the service has ended or reset the connection.
        state = conn.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state not in (_ESTABLISHED, _CLOSE_WAIT):
            raise ConnectionClosed


async def read_slowly(attacker: Attacker, request: bytes, *, size: int, pause: float) -> None:
    """Send a request, and read `size` bytes of the response every `pause` seconds."""
    async with attacker.connect(MIN_RECEIVE_BUFFER) as conn:
        await conn.send(request)
        first = await conn.read(12)
        attacker.outcomes[first[9:12].decode(errors="replace") + ", read slowly"] += 1
        while True:
            await asyncio.sleep(pause)
            await conn.read(size)


async def request_repeatedly(
    attacker: Attacker, make_request: Callable[[], bytes], at_once: int = 1
) -> None:
    """
    Send requests on one connection, each when the response to the one before was read.

    `at_once` requests are sent without waiting for the responses between them.
    """
    async with attacker.connect() as conn:
        while True:
            await conn.send(b"".join(make_request() for _ in range(at_once)))
            for _ in range(at_once):
                attacker.count(await conn.read_response())


def aliases(field_name: str, number: int = 50) -> str:
    """Return a selection of one field under `number` aliases."""
    return " ".join(f"a{index}:{field_name}" for index in range(number))


def with_unique_comment(attacker: Attacker, document: str) -> str:
    """Return a document that no other request has, because of a comment."""
    return f"# {attacker.unique_text()}\n{document}"


def unique_query(attacker: Attacker, document: str) -> bytes:
    """Return a request for a document that no other request has."""
    return query_request(with_unique_comment(attacker, document))


JOURNALS = "{batches(first:%d){nodes{journal{" + aliases("content") + "}}}}"
REASONS = "{batches(first:%d){nodes{picks{" + aliases("reasoning") + "}}}}"
GENERATIONS = "{batches(first:%d){nodes{generations{" + aliases("systemPrompt") + "}}}}"
METRICS = (
    "{batches(first:%d){nodes{id runDate picks{id ticker metrics{currentPrice absoluteReturnPct "
    "vsBenchmarkPct directionalReturnPct alphaPct hit splitFactor}}}}}"
)
_RECORD = (
    "trackRecord{curve{runDate alphaPct sumPct} weeklyExcess{weeks{monday excessPct benchmarkPct}}}"
)
RECORDS = "{a:" + _RECORD + " b:" + _RECORD + "}"
LONG_ENTRY = '{batchOn(runDate:"%s"){journal{content}}}'


# Large answers that are not read


@kind("answers")
async def unread_journal(attacker: Attacker) -> None:
    """Ask for a journal's entries under fifty names, distinct each time, and never read."""
    await request_and_not_read(attacker, unique_query(attacker, JOURNALS % 12))


@kind("answers")
async def unread_journal_same(attacker: Attacker) -> None:
    """
    Ask for a journal's entries under fifty names, the same document each time, and never read.
    """
    await request_and_not_read(attacker, query_request(JOURNALS % 12))


@kind("answers")
async def unread_cached(attacker: Attacker) -> None:
    """Ask for a response just small enough for the response cache, and never read."""
    await request_and_not_read(
        attacker, query_request("{batches(first:2){nodes{journal{a:content b:content c:content}}}}")
    )


@kind("answers")
async def unread_by_get(attacker: Attacker) -> None:
    """Ask for a journal's entries under fifty names by GET, and never read."""
    await request_and_not_read(
        attacker,
        http_request(
            "GET", "/graphql?query=" + quote(with_unique_comment(attacker, JOURNALS % 12))
        ),
    )


@kind("answers")
async def unread_reasoning(attacker: Attacker) -> None:
    """Ask for picks' reasoning under fifty names, and never read."""
    await request_and_not_read(attacker, unique_query(attacker, REASONS % 100))


@kind("answers")
async def unread_questions(attacker: Attacker) -> None:
    """Ask for prompts and answers of the model under fifty names, and never read."""
    await request_and_not_read(attacker, unique_query(attacker, GENERATIONS % 100))


@kind("answers")
async def unread_metrics(attacker: Attacker) -> None:
    """Ask for the metrics of as many batches as the limit allows, and never read."""
    await request_and_not_read(attacker, unique_query(attacker, METRICS % 60))


@kind("answers")
async def unread_track_record(attacker: Attacker) -> None:
    """Ask for the whole track record twice in a document, and never read."""
    await request_and_not_read(attacker, unique_query(attacker, RECORDS))


@kind("answers")
async def unread_pipelined(attacker: Attacker) -> None:
    """Send eight requests for large answers on one connection without waiting, and never read."""
    await request_and_not_read(attacker, *(unique_query(attacker, JOURNALS % 12) for _ in range(8)))


@kind("answers", connections=10)
async def unread_many_connections(attacker: Attacker) -> None:
    """Ask for a middle-sized answer on ten connections at once, and never read."""
    await request_and_not_read(
        attacker, unique_query(attacker, "{batches(first:10){nodes{journal{content}}}}")
    )


@kind("answers")
async def unread_persisted(attacker: Attacker) -> None:
    """
    Ask for a hundred batches by the hash of a persisted document, from a cursor of its own, and
    never read.
    """
    text = (OPERATIONS / "pages" / "Export.graphql").read_text()
    await request_and_not_read(
        attacker,
        persisted_query(
            sha256(text.encode()).hexdigest(),
            first=random.randrange(15, 60),
            after=attacker.random_cursor(),
        ),
    )


@kind("answers")
async def unread_pages(attacker: Attacker) -> None:
    """Ask for the largest pages and a picture, and never read."""
    run_date = attacker.random_monday()
    targets = [
        "/record",
        f"/batches/{run_date}",
        f"/batches?after={quote(attacker.random_cursor())}",
        f"/batches/{run_date}/chart.png",
    ]
    await request_and_not_read(attacker, http_request("GET", random.choice(targets)))


@kind("answers")
async def unread_feed(attacker: Attacker) -> None:
    """Ask for the feed eight times on one connection, and never read."""
    await request_and_not_read(attacker, *[http_request("GET", "/feed.atom")] * 8)


@kind("answers")
async def a_byte_a_second(attacker: Attacker) -> None:
    """Read a large answer by a byte a second."""
    await read_slowly(attacker, unique_query(attacker, JOURNALS % 4), size=1, pause=1.0)


@kind("answers")
async def a_kilobyte_a_second(attacker: Attacker) -> None:
    """Read a large answer by a kilobyte a second."""
    await read_slowly(attacker, unique_query(attacker, JOURNALS % 4), size=1024, pause=1.0)


@kind("answers")
async def old_long_entry(attacker: Attacker) -> None:
    """Ask for an old entry of the journal of 30 MB, and read it."""
    await request_repeatedly(
        attacker, lambda: unique_query(attacker, LONG_ENTRY % attacker.long_text_on)
    )


@kind("answers")
async def old_long_entry_unread(attacker: Attacker) -> None:
    """Ask for an old entry of the journal of 30 MB, and never read."""
    await request_and_not_read(attacker, unique_query(attacker, LONG_ENTRY % attacker.long_text_on))


@kind("answers")
async def old_long_answer(attacker: Attacker) -> None:
    """Ask for the page of a Monday with an old answer of 30 MB."""
    await request_repeatedly(
        attacker, lambda: http_request("GET", f"/batches/{attacker.long_text_on}")
    )


@kind("answers")
async def computed_roots(attacker: Attacker) -> None:
    """
    Ask for track records of distinct parts of the series, several in a document, as fast as
    answered.
    """

    def make_request() -> bytes:
        roots = "".join(
            f't{index}:trackRecord(from:"{attacker.random_monday()}"){{pickResults{{count}} '
            "randomActions{belowPct} weeklyExcess{meanPct}}"
            for index in range(6)
        )
        return unique_query(attacker, "{" + roots + "}")

    await request_repeatedly(attacker, make_request)


@kind("answers")
async def paced(attacker: Attacker) -> None:
    """Read large answers just fast enough not to be disconnected: twenty kilobytes a second."""
    await read_slowly(attacker, unique_query(attacker, METRICS % 60), size=2_048, pause=0.1)


@kind("answers", connections=40)
async def small_answers_unread(attacker: Attacker) -> None:
    """Ask for some sixteen kilobytes on forty connections at once, and never read."""
    await request_and_not_read(
        attacker,
        unique_query(attacker, "{batches(first:1){nodes{journal{hash content previous}}}}"),
    )


# Documents that are costly to validate


@kind("documents")
async def same_name_115_times(attacker: Attacker) -> None:
    """Select `service{version}` 115 times, in a document of its own each time."""
    await request_repeatedly(
        attacker, lambda: unique_query(attacker, "{" + "service{version}" * 115 + "}")
    )


@kind("documents")
async def same_name_pipelined(attacker: Attacker) -> None:
    """Select `service{version}` 115 times, eight documents sent without waiting."""
    await request_repeatedly(
        attacker, lambda: unique_query(attacker, "{" + "service{version}" * 115 + "}"), at_once=8
    )


@kind("documents")
async def same_leaf_many_times(attacker: Attacker) -> None:
    """Select one leaf as often as the limit allows, in a document of its own each time."""
    await request_repeatedly(
        attacker, lambda: unique_query(attacker, "{service{" + "version " * 230 + "}}")
    )


@kind("documents")
async def fragments_spread(attacker: Attacker) -> None:
    """Spread fragments in one another and side by side."""

    def make_request() -> bytes:
        inner = "".join(
            f"fragment f{one} on Batch{{...f{one + 1} id picks{{id ticker}}}}" for one in range(8)
        )
        spreads = "".join(f"b{one}:latestBatch{{...f0 ...f1 ...f2}}" for one in range(4))
        return unique_query(attacker, "{" + spreads + "}" + inner + "fragment f8 on Batch{id}")

    await request_repeatedly(attacker, make_request)


@kind("documents")
async def fragments_flat(attacker: Attacker) -> None:
    """Spread a hundred fragments, each with the same field, side by side."""

    def make_request() -> bytes:
        fragments = "".join(f"fragment f{one} on Service{{version}}" for one in range(100))
        spreads = "".join(f"...f{one} " for one in range(100))
        return unique_query(attacker, "{service{" + spreads + "}}" + fragments)

    await request_repeatedly(attacker, make_request)


@kind("documents")
async def inline_fragments(attacker: Attacker) -> None:
    """Nest the same selection in inline fragments on one type."""
    await request_repeatedly(
        attacker, lambda: unique_query(attacker, "{" + "...on Query{service{version}}" * 100 + "}")
    )


@kind("documents")
async def unknown_fields(attacker: Attacker) -> None:
    """Ask for 200 unknown fields, each of which needs suggestions."""

    def make_request() -> bytes:
        fields = " ".join(f"latestBatc{chr(97 + one % 26)}{one}" for one in range(200))
        return unique_query(attacker, "{" + fields + "}")

    await request_repeatedly(attacker, make_request)


@kind("documents")
async def unknown_arguments(attacker: Attacker) -> None:
    """Give 200 unknown arguments, each of which needs suggestions."""

    def make_request() -> bytes:
        arguments = " ".join(f"serie{one}:1" for one in range(200))
        return unique_query(attacker, "{latestBatch(" + arguments + "){id}}")

    await request_repeatedly(attacker, make_request)


@kind("documents")
async def deep_introspection(attacker: Attacker) -> None:
    """Ask for the schema with types of types, in a document of its own each time."""
    of_type = "type{kind name " + "ofType{kind name " * 6 + "}" * 7
    document = "{__schema{types{kind name fields{name " + of_type + "args{name " + of_type + "}}}}}"
    await request_repeatedly(attacker, lambda: unique_query(attacker, document))


@kind("documents")
async def many_variables(attacker: Attacker) -> None:
    """Declare 200 variables and use them all."""

    def make_request() -> bytes:
        declared = ",".join(f"$v{one}:Int!=1" for one in range(120))
        used = " ".join(
            f"b{one}:batches(first:$v{one}){{pageInfo{{hasNextPage}}}}" for one in range(49)
        )
        return unique_query(attacker, f"query({declared}){{{used}}}")

    await request_repeatedly(attacker, make_request)


@kind("documents")
async def most_tokens(attacker: Attacker) -> None:
    """Send documents of as many tokens as allowed."""
    await request_repeatedly(
        attacker,
        lambda: unique_query(attacker, "{service{version" + " @skip(if:false)" * 160 + "}}"),
    )


@kind("documents")
async def longest_documents(attacker: Attacker) -> None:
    """Send documents of as many characters as allowed, of one long text."""
    await request_repeatedly(
        attacker, lambda: unique_query(attacker, '{pick(id:"%s"){id}}' % ("x" * 15_900))
    )


@kind("documents")
async def many_operations(attacker: Attacker) -> None:
    """Send documents of many operations, without the name of the one to run."""

    def make_request() -> bytes:
        return unique_query(
            attacker, "".join(f"query q{one}{{service{{version}}}}" for one in range(110))
        )

    await request_repeatedly(attacker, make_request)


@kind("documents")
async def large_lists(attacker: Attacker) -> None:
    """Send literal lists and objects, nested, where a scalar is expected."""
    await request_repeatedly(
        attacker,
        lambda: unique_query(attacker, "{batches(first:" + "[" * 90 + "]" * 90 + "){nodes{id}}}"),
    )


@kind("documents")
async def distinct_documents(attacker: Attacker) -> None:
    """
    Send ordinary documents, each of its own: the document cache and Postgres's plans turn over.
    """

    def make_request() -> bytes:
        return query_request(
            f"{{q{attacker.unique_text()}:latestBatch{{id runDate picks{{ticker reasoning}}}}}}"
        )

    await request_repeatedly(attacker, make_request)


# Connections, heads, streams, exports, and the cache


@kind("connections")
async def exports_unread(attacker: Attacker) -> None:
    """Ask for an export and never read."""
    await request_and_not_read(
        attacker, http_request("GET", random.choice(("/export.json", "/export.csv")))
    )


@kind("connections")
async def exports_slow(attacker: Attacker) -> None:
    """Read an export by four kilobytes a second."""
    await read_slowly(
        attacker,
        http_request("GET", random.choice(("/export.json", "/export.csv"))),
        size=1024,
        pause=0.25,
    )


@kind("connections")
async def exports_read(attacker: Attacker) -> None:
    """Read exports as fast as they come."""
    await request_repeatedly(attacker, lambda: http_request("GET", "/export.json"))


@kind("connections", connections=5)
async def streams_hold_request(attacker: Attacker) -> None:
    """Open five streams and leave them open."""
    async with attacker.connect() as conn:
        await conn.send(http_request("GET", "/live/journal"))
        first = await conn.read(12)
        attacker.outcomes[first[9:12].decode(errors="replace") + " stream"] += 1
        if first[9:12] != b"200":
            return
        while True:
            await conn.read()


@kind("connections")
async def streams_opened_and_left(attacker: Attacker) -> None:
    """Open streams and leave them at once."""
    async with attacker.connect() as conn:
        await conn.send(http_request("GET", "/live/journal?after=0"))
        first = await conn.read(12)
        attacker.outcomes[first[9:12].decode(errors="replace") + " stream"] += 1


@kind("connections")
async def heads_dripping(attacker: Attacker) -> None:
    """Send a head of up to 1 MB, by 16 KB every tenth of a second."""
    async with attacker.connect() as conn:
        await conn.send(b"GET / HTTP/1.1\r\nHost: attack.test\r\n")
        for number in range(64):
            await conn.send(b"X-%d: " % number + b"x" * 16_000 + b"\r\n")
            await asyncio.sleep(0.1)
        await conn.send(b"\r\n")
        attacker.count(await conn.read_response())


@kind("connections")
async def heads_of_small_headers(attacker: Attacker) -> None:
    """Send heads of thousands of small headers, as fast as answered."""
    # Many small headers cost more memory than one large one of the same size.
    headers = [f"X{number}: 1" for number in range(6_000)]
    await request_repeatedly(
        attacker, lambda: http_request("GET", f"/?{attacker.unique_text()}", headers=headers)
    )


@kind("connections", connections=5)
async def heads_unfinished(attacker: Attacker) -> None:
    """Send a header line a second and never end the head, on five connections."""
    await _drip(attacker, b"GET / HTTP/1.1\r\nHost: attack.test\r\n", b"X-1: 1\r\n")


@kind("connections", connections=5)
async def bodies_dripping(attacker: Attacker) -> None:
    """Send a body by a byte a second, on five connections."""
    head = http_request(
        "POST", "/graphql", headers=["Content-Type: application/json", "Content-Length: 60000"]
    )
    await _drip(attacker, head, b" ")


async def _drip(attacker: Attacker, first: bytes, part: bytes) -> None:
    async with attacker.connect() as conn:
        attacker.outcomes["connected"] += 1
        await conn.send(first)
        while True:
            await asyncio.sleep(1)
            await conn.send(part)


@kind("connections", connections=40)
async def bodies_almost_whole(attacker: Attacker) -> None:
    """Send all but the last byte of a body of 64 KB, on forty connections, and hold it."""
    headers = ["Content-Type: application/json", "Content-Length: 65536"]
    await _hold_request(attacker, http_request("POST", "/graphql", headers=headers) + b" " * 65_535)


@kind("connections", connections=40)
async def heads_almost_whole(attacker: Attacker) -> None:
    """Send all but the last byte of a head of 60 KB, on forty connections, and hold it."""
    await _hold_request(
        attacker,
        http_request("GET", "/", headers=[f"X-{number}: {'x' * 4_000}" for number in range(15)])[
            :-1
        ],
    )


@kind("connections", connections=5)
async def queued_behind_a_stream(attacker: Attacker) -> None:
    """Open a stream and send requests behind it without waiting, up to a megabyte."""
    requests = (
        http_request("GET", "/live/journal")
        + http_request("GET", "/graphql?query=" + "x" * 800) * 1_200
    )
    await _hold_request(attacker, requests)


async def _hold_request(attacker: Attacker, message: bytes) -> None:
    async with attacker.connect(MIN_RECEIVE_BUFFER) as conn:
        attacker.outcomes["connected"] += 1
        await conn.send(message)
        await hold_until_closed(conn)


@kind("connections", connections=20)
async def silent_connections(attacker: Attacker) -> None:
    """Open twenty connections and send nothing."""
    async with attacker.connect() as conn:
        attacker.outcomes["connected"] += 1
        await conn.read()


@kind("connections")
async def cache_key_varied(attacker: Attacker) -> None:
    """
    Ask for the front page with a cookie, a protocol, an Accept or an Origin of its own each time.
    """

    def make_request() -> bytes:
        name = random.choice(("Cookie", "X-Forwarded-Proto", "Accept", "Origin", "Content-Type"))
        return http_request("GET", "/", headers=[f"{name}: {attacker.unique_text()}{'v' * 2_000}"])

    await request_repeatedly(attacker, make_request)


@kind("connections")
async def cache_filled(attacker: Attacker) -> None:
    """
    Ask for pages and answers of all Mondays, so that the cache is full of responses that no client
    requests again.
    """

    def make_request() -> bytes:
        if random.random() < 0.5:
            return http_request(
                "GET",
                f"/batches?after={quote(attacker.random_cursor())}&x={attacker.unique_text()}",
            )
        return query_request(
            "query($after:String){batches(first:60,after:$after)"
            "{nodes{id runDate picks{reasoning}}}}",
            after=attacker.random_cursor(),
        )

    await request_repeatedly(attacker, make_request)


# More of the same


@kind("more")
async def requested_and_closed(attacker: Attacker) -> None:
    """Ask for a costly answer, and close the connection at once."""
    async with attacker.connect() as conn:
        await conn.send(unique_query(attacker, METRICS % 60))
        await asyncio.sleep(random.random() * 0.03)
        attacker.outcomes["hung up"] += 1


@kind("more")
async def connections_made(attacker: Attacker) -> None:
    """Connect and close the connection, as fast as possible."""
    async with attacker.connect():
        attacker.outcomes["connected"] += 1


@kind("more")
async def refusals_logged(attacker: Attacker) -> None:
    """
    Send requests that are refused, as fast as they are answered: each may write a line into the
    log.
    """
    await request_repeatedly(
        attacker, lambda: query_request(f"{{{attacker.unique_text()}"), at_once=8
    )


@kind("more")
async def not_found(attacker: Attacker) -> None:
    """Ask for long paths that do not exist."""
    await request_repeatedly(
        attacker,
        lambda: http_request("GET", f"/{attacker.unique_text()}/" + "p" * 8_000),
        at_once=8,
    )


@kind("more")
async def health_and_metrics(attacker: Attacker) -> None:
    """Ask for /health and /metrics, which are never cached."""
    await request_repeatedly(
        attacker, lambda: http_request("GET", random.choice(("/health", "/metrics"))), at_once=4
    )


@kind("more")
async def pictures_drawn(attacker: Attacker) -> None:
    """Ask for the charts of all Mondays."""
    await request_repeatedly(
        attacker, lambda: http_request("GET", f"/batches/{attacker.random_monday()}/chart.png")
    )


@kind("more")
async def batch_pages(attacker: Attacker) -> None:
    """Ask for the pages of all Mondays."""
    await request_repeatedly(
        attacker, lambda: http_request("GET", f"/batches/{attacker.random_monday()}")
    )


@kind("more")
async def large_bodies(attacker: Attacker) -> None:
    """
    Send bodies of 64 KB of JSON that is costly to read: many members, deep lists, long numbers.
    """

    def make_request() -> bytes:
        number = attacker.unique_text()
        kinds = (
            json.dumps(
                {
                    "query": "{service{version}}",
                    "variables": {f"{number}{one}": one for one in range(4_000)},
                }
            ),
            '{"query":"{service{version}}","variables":{"v":' + "[" * 30_000 + "]" * 30_000 + "}}",
            '{"query":"{service{version}}","variables":{"v":' + "9" * 60_000 + "}}",
            '{"query":"{service{version}}","variables":{"v":[' + ",".join(["1"] * 30_000) + "]}}",
        )
        body = random.choice(kinds).encode()
        return http_request(
            "POST", "/graphql", body=body, headers=["Content-Type: application/json"]
        )

    await request_repeatedly(attacker, make_request)


@kind("more")
async def tiny_chunks(attacker: Attacker) -> None:
    """Send bodies in chunks of one byte."""
    body = json.dumps({"query": "{service{version}}" + " " * 4_000}).encode()
    head = http_request(
        "POST", "/graphql", headers=["Content-Type: application/json", "Transfer-Encoding: chunked"]
    )
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    await request_repeatedly(attacker, lambda: head + chunks)


@kind("more")
async def long_accept(attacker: Attacker) -> None:
    """
    Send an Accept header of thousands of media types, and an If-None-Match of thousands of tags.
    """

    def make_request() -> bytes:
        media = "application/graphql-response+json;q=0.5," + ",".join(
            f"a/{one};q=0.1" for one in range(3_000)
        )
        tags = ",".join(f'"{one}"' for one in range(3_000))
        return query_request(
            with_unique_comment(attacker, "{service{version}}"),
            [f"Accept: {media}", f"If-None-Match: {tags}"],
        )

    await request_repeatedly(attacker, make_request)


@kind("more")
async def long_query_strings(attacker: Attacker) -> None:
    """Send query strings of thousands of parameters, and long ones in percent encoding."""

    def make_request() -> bytes:
        number = attacker.unique_text()
        many = "/graphql?query=%7Bservice%7Bversion%7D%7D&" + "&".join(
            f"{number}{one}=1" for one in range(5_000)
        )
        return http_request(
            "GET", random.choice((many, f"/graphql?query={'%20' * 15_000}{number}"))
        )

    await request_repeatedly(attacker, make_request)


@kind("more")
async def deep_history(attacker: Attacker) -> None:
    """
    Ask for sorted lists of all kinds, from another position each time: Postgres needs memory and
    temporary files to sort them.
    """

    def make_request() -> bytes:
        ticker = "".join(random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
        document = (
            f'{{p:picks(ticker:"{ticker}",first:100){{nodes{{id reasoning}}}}'
            f'c:closes(ticker:"SPY",first:100){{nodes{{id close}}}}'
            "j:journal(first:100,kind:CHECKPOINT){nodes{seq hash}} "
            "k:journal(first:100,kind:BATCH){nodes{seq}}}"
        )
        return unique_query(attacker, document)

    await request_repeatedly(attacker, make_request)


@kind("more")
async def upgrades(attacker: Attacker) -> None:
    """Ask for a WebSocket, or for HTTP/2, with a body behind it."""
    headers = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: YQ==",
    ]
    await request_repeatedly(
        attacker,
        lambda: http_request("GET", f"/live/journal-?{attacker.unique_text()}", headers=headers),
    )


@kind("more")
async def heads_only(attacker: Attacker) -> None:
    """Send HEAD requests for large responses, which are made but not sent."""
    targets = ("/graphql?query=" + quote(JOURNALS % 12), "/export.json", "/record", "/live/journal")

    async with attacker.connect() as conn:
        await conn.send(
            http_request(
                "HEAD",
                random.choice(targets),
                headers=["Connection: close", f"Cookie: {attacker.unique_text()}"],
            )
        )
        first = await conn.read(12)
        attacker.outcomes[first[9:12].decode(errors="replace") + " head"] += 1
        while True:
            await conn.read()


@kind("more")
async def half_closed(attacker: Attacker) -> None:
    """Ask for a large answer, shut down the sending direction, and never read."""
    async with attacker.connect(MIN_RECEIVE_BUFFER) as conn:
        await conn.send(unique_query(attacker, JOURNALS % 12))
        conn.sock.shutdown(socket.SHUT_WR)
        attacker.outcomes["half closed"] += 1
        await asyncio.sleep(HOLD_SECONDS)


@kind("mixed")
async def mixed(attacker: Attacker) -> None:
    """Do one of the other kinds, another one each time."""
    others = [one for one in KINDS.values() if one.part != "mixed"]
    chosen = others[(attacker.number + attacker.outcomes.total()) % len(others)]
    # Kinds that hold a connection would otherwise never end.
    async with asyncio.timeout(3):
        await chosen.run(attacker)
