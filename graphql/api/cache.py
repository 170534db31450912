"""
Kept answers: the bytes of an answer, for as long as the record has not moved since it was asked for.

In front of routing, because a hit must not cost what routing does. The key is everything of a request that an answer
hangs on, as it came (path, method, query string, body, and the headers that are read anywhere behind): two requests
with one key are one request, so a kept answer is right in status, headers and bytes without any thought of what they
mean. The pages hang on the record as answers do, and are kept with them.

What is guaranteed: an answer is kept only if the record did not move from before it was asked for until it was there,
and is gone with the next announcement. So once a process has heard of a commit, it never again sends a kept answer from
before it. Until it hears, which takes as long as a notification does, it may; where announcements fail to come, for at
most the five seconds that `revision` stays sure of itself (app/database/revision.py). Answers that are not kept are
read from Postgres when they are asked for.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Any

from litestar.config.cors import CORSConfig
from litestar.utils import normalize_path
from msgspec import Struct

from api import paths
from api.headers import FORWARDED, REQUEST_ID, WEBSOCKET, cross_origin, pairs
from api.http import BODY, HEAD_ONLY, busy, read

# Some 2,000 batches in full; a small machine has 256 MB. No answer may push out more than a sixteenth of the others.
MOST = 16 * 1024 * 1024
LARGEST = MOST // 16
# What an entry takes besides its texts: measured, and rounded up.
OVERHEAD = 3 * 1024

# How many answers that were not kept may be under way. Whoever comes then is looked at again after some seconds, and
# refused if it is still so, here, where it costs next to nothing: work put into a request that is refused in the end is
# lost to the others, and so is the time for refusing hundreds who come again at once.
MOST_AT_ONCE = 64
PAUSE = 1.0

# What is read of a request by routes, CORS, content negotiation and our headers.
READ = frozenset({b"accept", b"content-type", b"cookie", b"origin", FORWARDED, WEBSOCKET[0]})
_TAG = re.compile(rb'"[^"]*"')
_OF_THE_BODY = (b"content-type", b"content-length")

App = Callable[[Any, Any, Any], Awaitable[None]]


class Kept(Struct, frozen=True):
    """An answer as it is sent, and the tag that a later request may name it by."""

    start: dict[str, Any]
    body: dict[str, Any]
    tag: bytes
    size: int = 0

    async def send(self, send: Any, known: bytes) -> bool:
        """Send the answer, or only that it is what the client knows already; return whether it was that."""
        if known and self.tag and names(known, self.tag):
            headers = [pair for pair in self.start["headers"] if pair[0] not in _OF_THE_BODY]
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return True
        await send(self.start)
        await send(self.body)
        return False


class Cache:
    """
    Answers what it has kept, and hands on the rest; counts both.

    `busy` are the requests refused because too many were under way, `unchanged` the answers that clients knew already.
    Of an address that is not the API's, `told` hears what was answered here, and with which status.
    """

    def __init__(
        self,
        app: App,
        revision: Callable[[], int | None],
        also: Callable[[str, bytes], bytes | None] = lambda path, query: None,
        most: int = MOST,
        largest: int = LARGEST,
        told: Callable[[str, int], None] = lambda path, status: None,
        marks: Mapping[str, str] = {},
        cors: CORSConfig | None = None,
    ) -> None:
        """Take `marks` and `cors`: headers that a refusal has too, as all responses from behind the cache do."""
        self.app, self.revision, self.also, self.told = app, revision, also, told
        self.most, self.largest = most, largest
        self.hits = self.misses = self.busy = self.unchanged = self.size = self.under_way = 0
        self._kept: OrderedDict[object, Kept] = OrderedDict()
        self._at: int | None = None
        self._marks, self._cors = pairs(marks), cors

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request to `/graphql`, or to an address of which `also` tells what it hangs on."""
        path, method, query = scope.get("path"), scope.get("method"), scope.get("query_string")
        if method == "HEAD":
            method = "GET"
            scope, send = {**scope, "method": method, HEAD_ONLY: True}, _head_of(send)
        asks = method == "GET"
        # Routes take `/graphql/` and `//graphql` for `/graphql`: no spelling may be a way past the limit.
        if path != paths.GRAPHQL and scope["type"] == "http":
            path = normalize_path(path)
        if path != paths.GRAPHQL and asks:
            query = self.also(path, query)
        if scope["type"] != "http" or query is None or not (asks or (method == "POST" and path == paths.GRAPHQL)):
            await self.app(scope, receive, send)
            return
        body: bytes | None = b""
        if method == "POST":
            found = scope[BODY] = await read(receive)
            body = None if found.refused else found.text
        asked, known = [], b""
        for pair in scope["headers"]:
            if pair[0] in READ:
                asked.append(pair)
            elif pair[0] == b"if-none-match":
                known = b"%b,%b" % (known, pair[1])
        key = (path, method, query, body, tuple(asked))
        for last in (False, True):
            revision = self.revision()
            if revision != self._at:
                self._kept.clear()
                self.size, self._at = 0, revision
            if kept := self._kept.get(key):
                self._kept.move_to_end(key)
                self.hits += 1
                self._tell(path, kept.start["status"])
                self.unchanged += await kept.send(send, known)
                return
            if self.under_way < MOST_AT_ONCE:
                self.misses += 1
                await self._ask(key if body is not None else None, revision, known, scope, receive, send)
                return
            if not last:
                await asyncio.sleep(PAUSE)
        self.busy += 1
        self._tell(path, 503)
        read_of = dict(asked)
        headers = [*self._marks, *cross_origin(self._cors, read_of.get(b"origin", b""))]
        for message in busy(read_of.get(b"accept", b""), headers):
            await send(message)

    def _tell(self, path: str, status: int) -> None:
        if path != paths.GRAPHQL:
            self.told(path, status)

    async def _ask(self, key: Any, revision: int | None, known: bytes, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request on, and keep its answer if that is worth it and still true."""
        start: dict[str, Any] = {}
        self.under_way += 1
        counted = 1

        async def pass_on(message: Any) -> None:
            nonlocal start, counted
            if message["type"] == "http.response.start":
                start = message
                # Not only when it is sent: a client that does not read keeps nobody else from being answered.
                self.under_way, counted = self.under_way - counted, 0
                return
            if not start:
                await send(message)
                return
            answer = complete(start, message, scope["method"])
            start = {}
            if answer.size and key and revision is not None and self.revision() == revision:
                self._keep(key, answer)
            self.unchanged += await answer.send(send, known)

        try:
            await self.app(scope, receive, pass_on)
        finally:
            self.under_way -= counted

    @property
    def kept(self) -> int:
        """Return how many answers are kept."""
        return len(self._kept)

    def _keep(self, key: Any, answer: Kept) -> None:
        _, _, query, body, asked = key
        size = answer.size + len(query) + len(body) + sum(len(name) + len(value) for name, value in asked)
        if size > self.largest or key in self._kept:
            return
        # The id of the request that it was computed for is nobody else's.
        headers = [pair for pair in answer.start["headers"] if pair[0] != REQUEST_ID]
        self._kept[key] = Kept({**answer.start, "headers": headers}, answer.body, answer.tag, size)
        self.size += size
        while self.size > self.most:
            self.size -= self._kept.popitem(last=False)[1].size


def _head_of(send: Any) -> Any:
    """
    Return what sends the head of a response, and none of its body.

    So a HEAD is answered on every path as a GET would be, by the same handler, with the same headers.
    """
    ended = False

    async def send_head(message: Any) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            await send(message)
        elif not ended:
            ended = True
            await send({"type": "http.response.body", "body": b""})

    return send_head


def complete(start: dict[str, Any], body: dict[str, Any], method: str) -> Kept:
    """Return an answer with the headers that are ours to give; one that may be kept has a size."""
    # Litestar's CORS says `Origin` in place of what we said, and only to some; a cache between must know of both.
    headers = [(name.lower(), value) for name, value in start.get("headers", ()) if name.lower() != b"vary"]
    headers.append((b"vary", b"Accept, Origin"))
    said = dict(headers)
    tag, size = b"", 0
    # The engine alone knows what lasts, and says it as it says it to every cache.
    if start["status"] == 200 and said.get(b"cache-control") == b"no-cache" and not body.get("more_body"):
        size = OVERHEAD + len(body["body"])
        if method == "GET":
            tag = b'"%b"' % sha256(said[b"content-type"] + b"\n" + body["body"]).hexdigest()[:32].encode()
            headers.append((b"etag", tag))
    return Kept({**start, "headers": headers}, body, tag, size)


def names(known: bytes, tag: bytes) -> bool:
    """Return whether the values of If-None-Match name `tag`; compared weakly, as that header is."""
    return tag in _TAG.findall(known) or known.strip(b", ") == b"*"
