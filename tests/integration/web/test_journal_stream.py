"""
The journal's stream over real sockets: events after commits, reconnections, limits, and its end.
"""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import psycopg
import pytest
import uvicorn
from api_records import WON, Record, engine_on
from litestar import Litestar
from processes import serving
from psycopg.rows import class_row

from api.cache import ResponseCache
from app.database.revision import Revision
from app.domain.calendar import due_at
from app.domain.model import JournalEntry, JournalKind
from app.web.journal_stream import END_STREAM, JournalStream, last_seen_seq
from app.web.pages.site import Site
from app.web.routes import JOURNAL_STREAM
from app.web.timeouts import TimeoutProtocol

CONTENT = {"x": "y"}
PATH = JOURNAL_STREAM.path


def write(database: str, count: int = 1) -> None:
    """Commit entries of the journal, each in a transaction of its own, as another process would."""
    for _ in range(count):
        with psycopg.connect(database, row_factory=class_row(JournalEntry)) as conn:
            columns = "seq, kind, at, content, previous, hash, batch_id"
            record = Record(conn)
            record.head = conn.execute(
                f"SELECT {columns} FROM journal ORDER BY seq DESC LIMIT 1"
            ).fetchone()
            record.write(JournalKind.GENERATION, due_at(WON), CONTENT)


class Events:
    """The events of a stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response, self._lines = response, response.aiter_lines()

    async def part(self) -> dict[str, str]:
        """Return the fields of the next event or comment."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for line in self._lines:
                if not line:
                    return fields
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        return {"over": "yes", **fields}

    async def event(self) -> dict[str, str]:
        """Return the next event."""
        while "id" not in (fields := await self.part()):
            assert "over" not in fields
        return fields


@asynccontextmanager
async def listening(
    client: httpx.AsyncClient, after: int | None = None, **headers: str
) -> AsyncIterator[Events]:
    """Open a stream."""
    address = PATH if after is None else f"{PATH}?after={after}"
    async with client.stream(
        "GET", address, headers={name.replace("_", "-"): text for name, text in headers.items()}
    ) as got:
        yield Events(got)


@asynccontextmanager
async def streamed(
    pool, **options
) -> AsyncIterator[tuple[httpx.AsyncClient, JournalStream, Revision, uvicorn.Server]]:
    """Serve the stream alone, with the revision that tests change."""
    revision = Revision()
    live = JournalStream(revision.wait_for_change, Site(engine_on(pool)).journal_head, **options)
    app = Litestar([live.route({"X-Mark": "1"})], openapi_config=None, logging_config=None)
    config = uvicorn.Config(
        ResponseCache(app, lambda: None),
        http=TimeoutProtocol,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=20,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with (
            live.run(),
            httpx.AsyncClient(
                timeout=60, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}"
            ) as client,
        ):
            running = asyncio.create_task(server.serve([listener]))
            try:
                yield client, live, revision, server
            finally:
                server.should_exit = True
                await running


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_commit_is_an_event(database, tmp_path):
    """In the whole service, each client gets an event with the journal's head for each commit."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        async with httpx.AsyncClient(base_url=server.address, timeout=60) as client:
            async with listening(client) as first, listening(client, after=0) as second:
                assert first.response.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert first.response.headers["cache-control"] == "no-store"
                write(database)
                for events in (first, second):
                    event = await events.event()
                    assert (event["id"], event["event"]) == ("1", "entry")
                    answer = await client.post(
                        "/graphql",
                        json={"query": "{ service { journalHead { seq kind at hash } } }"},
                    )
                    assert (
                        json.loads(event["data"]) == answer.json()["data"]["service"]["journalHead"]
                    )
                write(database)
                assert (await first.event())["id"] == (await second.event())["id"] == "2"
            front = await client.get("/", headers={"accept": "text/html"})
            assert 'data-seq="2"' in front.text


async def test_a_page_after_the_event_is_the_new_one(database, tmp_path):
    """A page that is requested because of an event never comes from the cache of before."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        async with (
            httpx.AsyncClient(base_url=server.address, timeout=60) as client,
            listening(client) as events,
        ):
            for number in range(1, 8):
                await client.get("/")
                write(database)
                seq = (await events.event())["id"]
                assert seq == str(number)
                assert f'data-seq="{seq}"' in (await client.get("/")).text


async def check_cached_until_the_record_changes(
    path: str, client: httpx.AsyncClient, events: Events, database: str
) -> None:
    first, second = await client.get(path), await client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    assert (second.headers["etag"], second.content) == (first.headers["etag"], first.content)
    known = {"if-none-match": first.headers["etag"]}
    assert (await client.get(path, headers=known)).status_code == 304
    if path != "/batches":
        assert (await client.get(f"{path}?utm_source=x", headers=known)).status_code == 304
    write(database)
    await events.event()
    changed = await client.get(path, headers=known)
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


async def test_a_page_is_cached_until_the_record_changes(database, tmp_path):
    """Each page has an ETag, which gets 304 until the next commit."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        async with (
            httpx.AsyncClient(base_url=server.address, timeout=60) as client,
            listening(client) as events,
        ):
            for path in ("/", "/record", "/batches", "/about"):
                await check_cached_until_the_record_changes(
                    path=path, client=client, events=events, database=database
                )


async def test_pages_of_the_history_are_cached_separately(database, tmp_path):
    """However its address is written, a page of the history is never confused with another one."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        async with (
            httpx.AsyncClient(base_url=server.address, timeout=60) as client,
            listening(client),
        ):
            for query in (
                "?%61fter=nonsense",
                "?after=nonsense",
                "?x=1&after=nonsense",
                "/?after=nonsense",
            ):
                for path in ("/batches", "/batches/"):
                    assert (await client.get(path)).status_code == 200
                    assert [
                        (await client.get(f"/batches{query}")).status_code for _ in range(2)
                    ] == [400, 400]


async def test_a_client_reconnects(database, pool):
    """
    A client that missed entries gets one event with the head; a client that missed nothing gets
    none.
    """
    write(database, 3)
    async with (
        streamed(pool) as (client, _, revision, _),
        listening(client, last_event_id="3") as current,
    ):
        for missed in (
            {"last_event_id": "1"},
            {"after": 2},
            {},
            {"after": 3, "last_event_id": "1"},
        ):
            async with listening(client, **missed) as events:
                assert (await events.event())["id"] == "3"
        write(database)
        revision.mark_changed()
        assert (await current.event())["id"] == "4"  # it got no event for entry 3


@pytest.mark.parametrize("text", ["", "x", "-1", "1" * 30, "²"])
def test_an_invalid_entry_number_is_0(text):
    """Whatever a client sends, it is the number of an entry or 0."""
    assert (
        last_seen_seq(
            {"headers": [(b"last-event-id", text.encode("latin-1"))], "query_string": b"after=7"}
        )
        == 7
    )
    assert (
        last_seen_seq({"headers": [], "query_string": b"after=%ff&after=" + text.encode("latin-1")})
        == 0
    )


async def test_streams_are_counted(pool):
    """A stream above the limit is refused with Retry-After, until another one has ended."""
    async with streamed(pool, max_streams=2, keep_alive=0.05) as (client, live, _, _):
        async with listening(client) as first, listening(client):
            await first.part()
            await until(lambda: live.streams == 2)
            full = await client.get(PATH)
            assert (full.status_code, full.headers["retry-after"], full.headers["x-mark"]) == (
                503,
                "60",
                "1",
            )
        await until(lambda: live.streams == 0)
        async with listening(client) as events:
            assert (await events.part())["retry"] == "3000"


async def test_streams_are_counted_by_address(pool, monkeypatch):
    """One address has only a part of the places; another address still gets a stream."""
    monkeypatch.setattr("app.web.journal_stream.MAX_STREAMS_PER_ADDRESS", 2)
    async with streamed(pool, keep_alive=0.05) as (client, live, _, _):
        async with listening(client) as first, listening(client):
            await first.part()
            await until(lambda: live.streams == 2)
            full = await client.get(PATH)
            assert (full.status_code, full.headers["retry-after"]) == (503, "60")
            assert full.text.startswith("Your address has")
            async with (
                httpx.AsyncClient(
                    base_url=client.base_url,
                    transport=httpx.AsyncHTTPTransport(local_address="127.0.0.2"),
                ) as other,
                listening(other) as events,
            ):
                assert (await events.part())["retry"] == "3000"
        await until(lambda: live.streams == 0)
        assert not live._open.by_client


async def test_silence_is_broken(pool):
    """Comments keep proxies from closing the connection."""
    async with streamed(pool, keep_alive=0.05) as (client, _, _, _), listening(client) as events:
        await events.part()
        assert [await events.part() for _ in range(3)] == [{"": ""}] * 3


async def test_it_ends_when_the_server_stops(pool):
    """A stream ends at once and completely: the server does not wait for it."""
    async with streamed(pool) as (client, live, _, server), listening(client) as events:
        await events.part()
        await until(lambda: live.streams == 1)
        server.should_exit = True
        assert await events.part() == {"over": "yes"}
        assert live.streams == 0


async def test_the_service_stops_under_streams(database, tmp_path):
    """SIGTERM ends the whole service; no stream is cut off, and no request is cancelled."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        async with (
            httpx.AsyncClient(base_url=server.address, timeout=60) as client,
            listening(client) as events,
        ):
            await events.part()
            server.process.send_signal(signal.SIGTERM)
            assert await events.part() == {"over": "yes"}
            assert await asyncio.to_thread(server.process.wait, 60) in (0, -signal.SIGTERM)
        assert "Cancel" not in server.log
        assert "graceful shutdown exceeded" not in server.log


async def test_it_stops_under_a_stream_with_more_behind_it(pool):
    """A pipelined request behind a stream does not delay the shutdown, and is not started."""
    async with streamed(pool) as (client, live, _, server):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /live/journal HTTP/1.1\r\nHost: test\r\n\r\n" * 2)
        await until(lambda: live.streams == 1)
        server.should_exit = True
        received = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert received.count(b"HTTP/1.1 200 OK") == 1
        assert received.endswith(b"\r\n0\r\n\r\n")
        assert live.streams == 0


@pytest.mark.parametrize(
    "behind",
    [PATH, "/live/journal?after=1", "/nope", pytest.param("/a b", id="nonsense")],
)
@pytest.mark.parametrize("together", [True, False], ids=["together", "later"])
async def test_a_client_leaves_with_a_request_behind(together, behind, pool, caplog):
    """The stream ends at once, and nothing is sent to the closed connection."""
    async with streamed(pool, keep_alive=600) as (client, live, _, _):
        sent = [f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode() for path in (PATH, behind)]
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"".join(sent) if together else sent[0])
        await until(lambda: live.streams == 1)
        if not together:
            writer.write(sent[1])
            await asyncio.sleep(0.1)
        writer.close()
        await until(lambda: live.streams == 0)
        assert "Exception in ASGI application" not in caplog.text


async def test_many_streams_cause_one_query(database, pool):
    """However many streams are open, one commit causes one query."""
    queries = 0
    revision = Revision()
    site = Site(engine_on(pool))

    async def head():
        nonlocal queries
        queries += 1
        return await site.journal_head()

    live = JournalStream(revision.wait_for_change, head)
    messages: list[dict] = []

    async def send(message: dict) -> None:
        messages.append(message)

    async def receive() -> dict:
        await asyncio.sleep(3600)
        return {}

    scopes = [{"headers": [], "query_string": b"", "type": "http"} for _ in range(50)]
    async with live.run():
        streams = [asyncio.create_task(live._stream(scope, receive, send)) for scope in scopes]
        await until(lambda: queries == 1 and all(END_STREAM in scope for scope in scopes))
        write(database)
        revision.mark_changed()
        await until(lambda: sum(b"event: entry" in message["body"] for message in messages) == 50)
        assert queries == 2
        for scope in scopes:
            scope[END_STREAM]()
        await asyncio.gather(*streams)


async def test_a_failed_query_is_repeated(database, pool, monkeypatch):
    """
    While the database does not answer there are no events; afterwards all clients get what they
    missed.
    """
    monkeypatch.setattr("app.web.journal_stream.RETRY_DELAY", 0.02)
    answers = [None, None, {"seq": "5"}]

    async def head():
        return answers.pop(0)

    live = JournalStream(Revision().wait_for_change, head)
    async with live.run():
        await until(lambda: not answers)
        await until(lambda: live._head == {"seq": "5"})


async def test_only_get_and_head(pool):
    async with streamed(pool) as (client, _, _, _):
        head = await client.head(PATH)
        assert (head.status_code, head.headers["content-type"]) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        refused = await client.post(PATH)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
