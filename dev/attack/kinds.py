"""
The kinds of attack: what one attacker does, again and again, until the attack ends.

A kind is a small coroutine function with a description, registered with `@kind(part)`. The part says what is attacked:
"answers" (memory, by large answers), "documents" (the event loop, by validation), "connections", or "more". A kind gets
an `Attacker`, which opens connections, makes texts that no other request has, and counts outcomes.
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

from client import SMALLEST_BUFFER, Answer, Closed, Connection, connected, persisted, query, request

OPERATIONS = Path(__file__).parents[2] / "graphql" / "operations"

# How long an attacker holds what it does not read, and how long it waits before it connects anew, in seconds.
HELD = 60.0
AGAIN = 0.05

_numbers = count()


@dataclass
class Attacker:
    """One attacker: where it comes from, and what the service did with it."""

    number: int
    port: int
    source: str
    newest: date
    mondays: int
    long_text_on: str
    outcomes: Counter[str] = field(default_factory=Counter)

    def connection(self, buffer: int = 0) -> AbstractAsyncContextManager[Connection]:
        """Open a connection; `buffer` is the size of its receive buffer."""
        return connected(self.port, self.source, buffer)

    def fresh(self) -> str:
        """Return a text that no other request of this attack has."""
        return f"{self.number}x{next(_numbers)}"

    def count(self, answer: Answer) -> Answer:
        """Count an answer by its outcome."""
        self.outcomes[answer.outcome] += 1
        return answer

    def monday(self) -> date:
        """Return some Monday of the record."""
        return self.newest - timedelta(weeks=random.randrange(self.mondays))

    def cursor(self) -> str:
        """Return a cursor of the pages of batches."""
        return b64encode(str(self.monday()).encode()).decode()


Run = Callable[[Attacker], Awaitable[None]]


class Kind(NamedTuple):
    """A kind of attack, with the part of the service that it attacks."""

    name: str
    part: str
    does: str
    run: Run
    connections: int


KINDS: dict[str, Kind] = {}


def kind(part: str, connections: int = 1) -> Callable[[Run], Run]:
    """Register a kind under its function's name; each attacker does it `connections` times at once."""

    def registered(run: Run) -> Run:
        name = run.__name__.replace("_", "-")  # type: ignore[attr-defined]
        assert run.__doc__
        KINDS[name] = Kind(name, part, run.__doc__.strip().splitlines()[0], run, connections)
        return run

    return registered


# What attackers have in common


async def unread(me: Attacker, *requests: bytes) -> None:
    """Ask, look at the beginning of the first answer, and read no further; ask again what was refused."""
    async with me.connection(SMALLEST_BUFFER) as conn:
        await conn.send(b"".join(requests))
        first = b""
        while b"\r\n\r\n" not in first or first.endswith(b"\r\n\r\n"):
            first += await conn.read(512)
        answer = Answer(int(first.split(b" ", 2)[1]), b"", first, len(first))
        me.outcomes[answer.outcome + ", not read"] += 1
        if answer.outcome == "200":
            await until_hung_up(conn)


async def until_hung_up(conn: Connection) -> None:
    """Hold a connection without reading, until the service ends it."""
    for _ in range(int(HELD / 0.5)):
        await asyncio.sleep(0.5)
        # 1 established, 8 close-wait: the service has ended it, or reset it.
        state = conn.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state not in (1, 8):
            raise Closed


async def slowly(me: Attacker, asked: bytes, size: int, pause: float) -> None:
    """Ask, and read `size` bytes every `pause` seconds."""
    async with me.connection(SMALLEST_BUFFER) as conn:
        await conn.send(asked)
        first = await conn.read(12)
        me.outcomes[first[9:12].decode(errors="replace") + ", read slowly"] += 1
        while True:
            await asyncio.sleep(pause)
            await conn.read(size)


async def as_fast_as_answered(me: Attacker, make: Callable[[], bytes], at_once: int = 1) -> None:
    """Ask, read the answer, ask again, on one connection; `at_once` requests are sent without waiting."""
    async with me.connection() as conn:
        while True:
            await conn.send(b"".join(make() for _ in range(at_once)))
            for _ in range(at_once):
                me.count(await conn.answer())


def aliases(field_name: str, number: int = 50) -> str:
    """Return a field under so many names."""
    return " ".join(f"a{one}:{field_name}" for one in range(number))


def commented(me: Attacker, document: str) -> str:
    """Return a document that no other request has, by a comment."""
    return f"# {me.fresh()}\n{document}"


JOURNALS = "{batches(first:%d){nodes{journal{" + aliases("content") + "}}}}"
REASONS = "{batches(first:%d){nodes{picks{" + aliases("reasoning") + "}}}}"
GENERATIONS = "{batches(first:%d){nodes{generations{" + aliases("systemPrompt") + "}}}}"
METRICS = (
    "{batches(first:%d){nodes{id runDate picks{id ticker metrics{currentPrice absoluteReturnPct vsBenchmarkPct "
    "directionalReturnPct alphaPct hit splitFactor}}}}}"
)
_RECORD = "trackRecord{curve{runDate alphaPct sumPct} weeklyExcess{weeks{monday excessPct benchmarkPct}}}"
RECORDS = "{a:" + _RECORD + " b:" + _RECORD + "}"
LONG_ENTRY = '{batchOn(runDate:"%s"){journal{content}}}'


# Large answers that are not read


@kind("answers")
async def unread_journal(me: Attacker) -> None:
    """Ask for a journal's entries under fifty names, distinct each time, and never read."""
    await unread(me, query(commented(me, JOURNALS % 12)))


@kind("answers")
async def unread_journal_same(me: Attacker) -> None:
    """Ask for a journal's entries under fifty names, the same document each time, and never read."""
    await unread(me, query(JOURNALS % 12))


@kind("answers")
async def unread_kept(me: Attacker) -> None:
    """Ask for an answer just small enough to be kept, and never read."""
    await unread(me, query("{batches(first:2){nodes{journal{a:content b:content c:content}}}}"))


@kind("answers")
async def unread_by_get(me: Attacker) -> None:
    """Ask for a journal's entries under fifty names by GET, and never read."""
    await unread(me, request("GET", "/graphql?query=" + quote(commented(me, JOURNALS % 12))))


@kind("answers")
async def unread_reasoning(me: Attacker) -> None:
    """Ask for picks' reasoning under fifty names, and never read."""
    await unread(me, query(commented(me, REASONS % 100)))


@kind("answers")
async def unread_questions(me: Attacker) -> None:
    """Ask for prompts and answers of the model under fifty names, and never read."""
    await unread(me, query(commented(me, GENERATIONS % 100)))


@kind("answers")
async def unread_metrics(me: Attacker) -> None:
    """Ask for the metrics of as many batches as the limit allows, and never read."""
    await unread(me, query(commented(me, METRICS % 60)))


@kind("answers")
async def unread_track_record(me: Attacker) -> None:
    """Ask for the whole track record twice in a document, and never read."""
    await unread(me, query(commented(me, RECORDS)))


@kind("answers")
async def unread_pipelined(me: Attacker) -> None:
    """Send eight requests for large answers on one connection without waiting, and never read."""
    await unread(me, *(query(commented(me, JOURNALS % 12)) for _ in range(8)))


@kind("answers", connections=10)
async def unread_many_connections(me: Attacker) -> None:
    """Ask for a middle-sized answer on ten connections at once, and never read."""
    await unread(me, query(commented(me, "{batches(first:10){nodes{journal{content}}}}")))


@kind("answers")
async def unread_persisted(me: Attacker) -> None:
    """Ask for a hundred batches by the hash of a persisted document, from a cursor of its own, and never read."""
    text = (OPERATIONS / "Export.graphql").read_text()
    await unread(me, persisted(sha256(text.encode()).hexdigest(), first=random.randrange(15, 60), after=me.cursor()))


@kind("answers")
async def unread_pages(me: Attacker) -> None:
    """Ask for the largest pages and a picture, and never read."""
    run_date = me.monday()
    targets = [
        "/record",
        f"/batches/{run_date}",
        f"/batches?after={quote(me.cursor())}",
        f"/batches/{run_date}/chart.png",
    ]
    await unread(me, request("GET", random.choice(targets)))


@kind("answers")
async def unread_feed(me: Attacker) -> None:
    """Ask for the feed eight times on one connection, and never read."""
    await unread(me, *[request("GET", "/feed.atom")] * 8)


@kind("answers")
async def a_byte_a_second(me: Attacker) -> None:
    """Read a large answer by a byte a second."""
    await slowly(me, query(commented(me, JOURNALS % 4)), 1, 1.0)


@kind("answers")
async def a_kilobyte_a_second(me: Attacker) -> None:
    """Read a large answer by a kilobyte a second."""
    await slowly(me, query(commented(me, JOURNALS % 4)), 1024, 1.0)


@kind("answers")
async def old_long_entry(me: Attacker) -> None:
    """Ask for an old entry of the journal of 30 MB, and read it."""
    await as_fast_as_answered(me, lambda: query(commented(me, LONG_ENTRY % me.long_text_on)))


@kind("answers")
async def old_long_entry_unread(me: Attacker) -> None:
    """Ask for an old entry of the journal of 30 MB, and never read."""
    await unread(me, query(commented(me, LONG_ENTRY % me.long_text_on)))


@kind("answers")
async def old_long_answer(me: Attacker) -> None:
    """Ask for the page of a Monday with an old answer of 30 MB."""
    await as_fast_as_answered(me, lambda: request("GET", f"/batches/{me.long_text_on}"))


@kind("answers")
async def computed_roots(me: Attacker) -> None:
    """Ask for track records of distinct parts of the series, several in a document, as fast as answered."""

    def make() -> bytes:
        roots = "".join(
            f't{one}:trackRecord(from:"{me.monday()}"){{pickResults{{count}} randomActions{{belowPct}} '
            "weeklyExcess{meanPct}}"
            for one in range(6)
        )
        return query(commented(me, "{" + roots + "}"))

    await as_fast_as_answered(me, make)


@kind("answers")
async def paced(me: Attacker) -> None:
    """Read large answers just fast enough not to be disconnected: twenty kilobytes a second."""
    await slowly(me, query(commented(me, METRICS % 60)), 2_048, 0.1)


@kind("answers", connections=40)
async def small_answers_unread(me: Attacker) -> None:
    """Ask for some sixteen kilobytes on forty connections at once, and never read."""
    await unread(me, query(commented(me, "{batches(first:1){nodes{journal{hash content previous}}}}")))


# Documents that are costly to validate


@kind("documents")
async def same_name_115_times(me: Attacker) -> None:
    """Select `service{version}` 115 times, in a document of its own each time."""
    await as_fast_as_answered(me, lambda: query(commented(me, "{" + "service{version}" * 115 + "}")))


@kind("documents")
async def same_name_pipelined(me: Attacker) -> None:
    """Select `service{version}` 115 times, eight documents sent without waiting."""
    await as_fast_as_answered(me, lambda: query(commented(me, "{" + "service{version}" * 115 + "}")), at_once=8)


@kind("documents")
async def same_leaf_many_times(me: Attacker) -> None:
    """Select one leaf as often as the limit allows, in a document of its own each time."""
    await as_fast_as_answered(me, lambda: query(commented(me, "{service{" + "version " * 230 + "}}")))


@kind("documents")
async def fragments_spread(me: Attacker) -> None:
    """Spread fragments in one another and side by side."""

    def make() -> bytes:
        inner = "".join(f"fragment f{one} on Batch{{...f{one + 1} id picks{{id ticker}}}}" for one in range(8))
        spreads = "".join(f"b{one}:latestBatch{{...f0 ...f1 ...f2}}" for one in range(4))
        return query(commented(me, "{" + spreads + "}" + inner + "fragment f8 on Batch{id}"))

    await as_fast_as_answered(me, make)


@kind("documents")
async def fragments_flat(me: Attacker) -> None:
    """Spread a hundred fragments, each with the same field, side by side."""

    def make() -> bytes:
        fragments = "".join(f"fragment f{one} on Service{{version}}" for one in range(100))
        return query(commented(me, "{service{" + "".join(f"...f{one} " for one in range(100)) + "}}" + fragments))

    await as_fast_as_answered(me, make)


@kind("documents")
async def inline_fragments(me: Attacker) -> None:
    """Nest the same selection in inline fragments on one type."""
    await as_fast_as_answered(me, lambda: query(commented(me, "{" + "...on Query{service{version}}" * 100 + "}")))


@kind("documents")
async def unknown_fields(me: Attacker) -> None:
    """Ask for 200 unknown fields, each of which needs suggestions."""

    def make() -> bytes:
        fields = " ".join(f"latestBatc{chr(97 + one % 26)}{one}" for one in range(200))
        return query(commented(me, "{" + fields + "}"))

    await as_fast_as_answered(me, make)


@kind("documents")
async def unknown_arguments(me: Attacker) -> None:
    """Give 200 unknown arguments, each of which needs suggestions."""

    def make() -> bytes:
        arguments = " ".join(f"serie{one}:1" for one in range(200))
        return query(commented(me, "{latestBatch(" + arguments + "){id}}"))

    await as_fast_as_answered(me, make)


@kind("documents")
async def deep_introspection(me: Attacker) -> None:
    """Ask for the schema with types of types, in a document of its own each time."""
    of_type = "type{kind name " + "ofType{kind name " * 6 + "}" * 7
    document = "{__schema{types{kind name fields{name " + of_type + "args{name " + of_type + "}}}}}"
    await as_fast_as_answered(me, lambda: query(commented(me, document)))


@kind("documents")
async def many_variables(me: Attacker) -> None:
    """Declare 200 variables and use them all."""

    def make() -> bytes:
        declared = ",".join(f"$v{one}:Int!=1" for one in range(120))
        used = " ".join(f"b{one}:batches(first:$v{one}){{pageInfo{{hasNextPage}}}}" for one in range(49))
        return query(commented(me, f"query({declared}){{{used}}}"))

    await as_fast_as_answered(me, make)


@kind("documents")
async def most_tokens(me: Attacker) -> None:
    """Send documents of as many tokens as allowed."""
    await as_fast_as_answered(me, lambda: query(commented(me, "{service{version" + " @skip(if:false)" * 160 + "}}")))


@kind("documents")
async def longest_documents(me: Attacker) -> None:
    """Send documents of as many characters as allowed, of one long text."""
    await as_fast_as_answered(me, lambda: query(commented(me, '{pick(id:"%s"){id}}' % ("x" * 15_900))))


@kind("documents")
async def many_operations(me: Attacker) -> None:
    """Send documents of many operations, of which one is meant."""

    def make() -> bytes:
        return query(commented(me, "".join(f"query q{one}{{service{{version}}}}" for one in range(110))))

    await as_fast_as_answered(me, make)


@kind("documents")
async def large_lists(me: Attacker) -> None:
    """Send literal lists and objects, nested, where a scalar is expected."""
    await as_fast_as_answered(
        me, lambda: query(commented(me, "{batches(first:" + "[" * 90 + "]" * 90 + "){nodes{id}}}"))
    )


@kind("documents")
async def distinct_documents(me: Attacker) -> None:
    """Send ordinary documents, each of its own: the document cache and Postgres's plans turn over."""

    def make() -> bytes:
        return query(f"{{q{me.fresh()}:latestBatch{{id runDate picks{{ticker reasoning}}}}}}")

    await as_fast_as_answered(me, make)


# Connections, heads, streams, exports, and the cache


@kind("connections")
async def exports_unread(me: Attacker) -> None:
    """Ask for an export and never read."""
    await unread(me, request("GET", random.choice(("/export.json", "/export.csv"))))


@kind("connections")
async def exports_slow(me: Attacker) -> None:
    """Read an export by four kilobytes a second."""
    await slowly(me, request("GET", random.choice(("/export.json", "/export.csv"))), 1024, 0.25)


@kind("connections")
async def exports_read(me: Attacker) -> None:
    """Read exports as fast as they come."""
    await as_fast_as_answered(me, lambda: request("GET", "/export.json"))


@kind("connections", connections=5)
async def streams_held(me: Attacker) -> None:
    """Open five streams and leave them open."""
    async with me.connection() as conn:
        await conn.send(request("GET", "/live/journal"))
        first = await conn.read(12)
        me.outcomes[first[9:12].decode(errors="replace") + " stream"] += 1
        if first[9:12] != b"200":
            return
        while True:
            await conn.read()


@kind("connections")
async def streams_opened_and_left(me: Attacker) -> None:
    """Open streams and leave them at once."""
    async with me.connection() as conn:
        await conn.send(request("GET", "/live/journal?after=0"))
        first = await conn.read(12)
        me.outcomes[first[9:12].decode(errors="replace") + " stream"] += 1


@kind("connections")
async def heads_dripping(me: Attacker) -> None:
    """Send a head of up to 1 MB, by 16 KB every tenth of a second."""
    async with me.connection() as conn:
        await conn.send(b"GET / HTTP/1.1\r\nHost: attack.test\r\n")
        for number in range(64):
            await conn.send(b"X-%d: " % number + b"x" * 16_000 + b"\r\n")
            await asyncio.sleep(0.1)
        await conn.send(b"\r\n")
        me.count(await conn.answer())


@kind("connections")
async def heads_of_small_headers(me: Attacker) -> None:
    """Send heads of thousands of small headers, as fast as answered."""
    headers = [f"X{number}: 1" for number in range(6_000)]
    await as_fast_as_answered(me, lambda: request("GET", f"/?{me.fresh()}", headers=headers))


@kind("connections", connections=5)
async def heads_unfinished(me: Attacker) -> None:
    """Send a header line a second and never end the head, on five connections."""
    await _drip(me, b"GET / HTTP/1.1\r\nHost: attack.test\r\n", b"X-1: 1\r\n")


@kind("connections", connections=5)
async def bodies_dripping(me: Attacker) -> None:
    """Send a body by a byte a second, on five connections."""
    head = request("POST", "/graphql", headers=["Content-Type: application/json", "Content-Length: 60000"])
    await _drip(me, head, b" ")


async def _drip(me: Attacker, first: bytes, part: bytes) -> None:
    async with me.connection() as conn:
        me.outcomes["connected"] += 1
        await conn.send(first)
        while True:
            await asyncio.sleep(1)
            await conn.send(part)


@kind("connections", connections=40)
async def bodies_almost_whole(me: Attacker) -> None:
    """Send all but the last byte of a body of 64 KB, on forty connections, and hold it."""
    headers = ["Content-Type: application/json", "Content-Length: 65536"]
    await _held(me, request("POST", "/graphql", headers=headers) + b" " * 65_535)


@kind("connections", connections=40)
async def heads_almost_whole(me: Attacker) -> None:
    """Send all but the last byte of a head of 60 KB, on forty connections, and hold it."""
    await _held(me, request("GET", "/", headers=[f"X-{number}: {'x' * 4_000}" for number in range(15)])[:-1])


@kind("connections", connections=5)
async def queued_behind_a_stream(me: Attacker) -> None:
    """Open a stream and send requests behind it without waiting, up to a megabyte."""
    requests = request("GET", "/live/journal") + request("GET", "/graphql?query=" + "x" * 800) * 1_200
    await _held(me, requests)


async def _held(me: Attacker, message: bytes) -> None:
    async with me.connection(SMALLEST_BUFFER) as conn:
        me.outcomes["connected"] += 1
        await conn.send(message)
        await until_hung_up(conn)


@kind("connections", connections=20)
async def silent_connections(me: Attacker) -> None:
    """Open twenty connections and send nothing."""
    async with me.connection() as conn:
        me.outcomes["connected"] += 1
        await conn.read()


@kind("connections")
async def cache_key_varied(me: Attacker) -> None:
    """Ask for the front page with a cookie, a protocol, an Accept or an Origin of its own each time."""

    def make() -> bytes:
        name = random.choice(("Cookie", "X-Forwarded-Proto", "Accept", "Origin", "Content-Type"))
        return request("GET", "/", headers=[f"{name}: {me.fresh()}{'v' * 2_000}"])

    await as_fast_as_answered(me, make)


@kind("connections")
async def cache_filled(me: Attacker) -> None:
    """Ask for pages and answers of all Mondays, so that the cache is full of what none asks for again."""

    def make() -> bytes:
        if random.random() < 0.5:
            return request("GET", f"/batches?after={quote(me.cursor())}&x={me.fresh()}")
        return query(
            "query($after:String){batches(first:60,after:$after){nodes{id runDate picks{reasoning}}}}",
            after=me.cursor(),
        )

    await as_fast_as_answered(me, make)


# More of the same


@kind("more")
async def asked_and_gone(me: Attacker) -> None:
    """Ask for something costly and hang up at once."""
    async with me.connection() as conn:
        await conn.send(query(commented(me, METRICS % 60)))
        await asyncio.sleep(random.random() * 0.03)
        me.outcomes["hung up"] += 1


@kind("more")
async def connections_made(me: Attacker) -> None:
    """Connect and hang up, as fast as it goes."""
    async with me.connection():
        me.outcomes["connected"] += 1


@kind("more")
async def refusals_logged(me: Attacker) -> None:
    """Send what is refused, as fast as answered: each may write a line into the log."""
    await as_fast_as_answered(me, lambda: query(f"{{{me.fresh()}"), at_once=8)


@kind("more")
async def not_found(me: Attacker) -> None:
    """Ask for long paths that do not exist."""
    await as_fast_as_answered(me, lambda: request("GET", f"/{me.fresh()}/" + "p" * 8_000), at_once=8)


@kind("more")
async def health_and_metrics(me: Attacker) -> None:
    """Ask for /health and /metrics, which no cache answers."""
    await as_fast_as_answered(me, lambda: request("GET", random.choice(("/health", "/metrics"))), at_once=4)


@kind("more")
async def pictures_drawn(me: Attacker) -> None:
    """Ask for the charts of all Mondays."""
    await as_fast_as_answered(me, lambda: request("GET", f"/batches/{me.monday()}/chart.png"))


@kind("more")
async def batch_pages(me: Attacker) -> None:
    """Ask for the pages of all Mondays."""
    await as_fast_as_answered(me, lambda: request("GET", f"/batches/{me.monday()}"))


@kind("more")
async def large_bodies(me: Attacker) -> None:
    """Send bodies of 64 KB of JSON that is costly to read: many members, deep lists, long numbers."""

    def make() -> bytes:
        number = me.fresh()
        kinds = (
            json.dumps({"query": "{service{version}}", "variables": {f"{number}{one}": one for one in range(4_000)}}),
            '{"query":"{service{version}}","variables":{"v":' + "[" * 30_000 + "]" * 30_000 + "}}",
            '{"query":"{service{version}}","variables":{"v":' + "9" * 60_000 + "}}",
            '{"query":"{service{version}}","variables":{"v":[' + ",".join(["1"] * 30_000) + "]}}",
        )
        body = random.choice(kinds).encode()
        return request("POST", "/graphql", body, ["Content-Type: application/json"])

    await as_fast_as_answered(me, make)


@kind("more")
async def tiny_chunks(me: Attacker) -> None:
    """Send bodies in chunks of one byte."""
    body = json.dumps({"query": "{service{version}}" + " " * 4_000}).encode()
    head = request("POST", "/graphql", headers=["Content-Type: application/json", "Transfer-Encoding: chunked"])
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    await as_fast_as_answered(me, lambda: head + chunks)


@kind("more")
async def long_accept(me: Attacker) -> None:
    """Send an Accept header of thousands of media types, and an If-None-Match of thousands of tags."""

    def make() -> bytes:
        media = "application/graphql-response+json;q=0.5," + ",".join(f"a/{one};q=0.1" for one in range(3_000))
        tags = ",".join(f'"{one}"' for one in range(3_000))
        return query(commented(me, "{service{version}}"), [f"Accept: {media}", f"If-None-Match: {tags}"])

    await as_fast_as_answered(me, make)


@kind("more")
async def long_query_strings(me: Attacker) -> None:
    """Send query strings of thousands of parameters, and long ones in percent encoding."""

    def make() -> bytes:
        number = me.fresh()
        many = "/graphql?query=%7Bservice%7Bversion%7D%7D&" + "&".join(f"{number}{one}=1" for one in range(5_000))
        return request("GET", random.choice((many, f"/graphql?query={'%20' * 15_000}{number}")))

    await as_fast_as_answered(me, make)


@kind("more")
async def deep_history(me: Attacker) -> None:
    """Ask Postgres for sorted lists of every kind from places of its own: memory for sorting, temporary files."""

    def make() -> bytes:
        ticker = "".join(random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
        document = (
            f'{{p:picks(ticker:"{ticker}",first:100){{nodes{{id reasoning}}}}'
            f'c:closes(ticker:"SPY",first:100){{nodes{{id close}}}}'
            "j:journal(first:100,kind:CHECKPOINT){nodes{seq hash}} k:journal(first:100,kind:BATCH){nodes{seq}}}"
        )
        return query(commented(me, document))

    await as_fast_as_answered(me, make)


@kind("more")
async def upgrades(me: Attacker) -> None:
    """Ask for a WebSocket, or for HTTP/2, with a body behind it."""
    headers = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: YQ=="]
    await as_fast_as_answered(me, lambda: request("GET", f"/live/journal-?{me.fresh()}", headers=headers))


@kind("more")
async def heads_only(me: Attacker) -> None:
    """Ask with HEAD for large things: they are made, and nothing is sent."""
    targets = ("/graphql?query=" + quote(JOURNALS % 12), "/export.json", "/record", "/live/journal")

    async with me.connection() as conn:
        await conn.send(request("HEAD", random.choice(targets), headers=["Connection: close", f"Cookie: {me.fresh()}"]))
        first = await conn.read(12)
        me.outcomes[first[9:12].decode(errors="replace") + " head"] += 1
        while True:
            await conn.read()


@kind("more")
async def half_closed(me: Attacker) -> None:
    """Ask for a large answer, close the own direction, and never read."""
    async with me.connection(SMALLEST_BUFFER) as conn:
        await conn.send(query(commented(me, JOURNALS % 12)))
        conn.sock.shutdown(socket.SHUT_WR)
        me.outcomes["half closed"] += 1
        await asyncio.sleep(HELD)


@kind("mixed")
async def mixed(me: Attacker) -> None:
    """Do one of all the above, another one each time."""
    others = [one for one in KINDS.values() if one.part != "mixed"]
    chosen = others[(me.number + me.outcomes.total()) % len(others)]
    async with asyncio.timeout(3):
        await chosen.run(me)
