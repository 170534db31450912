"""
Kept answers: the bytes of an answer, for as long as the record has not moved since it was asked for.

In front of routing, because a hit must not cost what routing does. The key is everything of a request that an answer
depends on: path, method, query string and body as they came, and what the headers mean that are read anywhere behind.
Of a header its meaning is in the key, and never its text: a client could write one text after the other, and each
would be computed and kept. What is read of headers is listed in `_meaning`; cookies are read nowhere, and removed. The
pages depend on the record as answers do, and are kept with them.

What is guaranteed: an answer is kept only if the record did not move from before it was asked for until it was there,
and is gone with the next announcement. So once a process has heard of a commit, it never again sends a kept answer from
before it. Until it hears, which takes as long as a notification does, it may; where announcements fail to come, for at
most the five seconds that `revision` stays sure of itself (app/database/revision.py). Answers that are not kept are
read from Postgres when they are asked for.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from litestar.config.cors import CORSConfig
from litestar.utils import normalize_path
from msgspec import Struct

from api import paths
from api.clients import ADDRESS_HEADER, Tally, client_of
from api.fair_queue import FairQueue
from api.headers import FORWARDED, REQUEST_ID, WEBSOCKET, Headers, cross_origin, over_https, pairs
from api.http import (
    BODY,
    HEAD_ONLY,
    MOST_PARAMETERS,
    PLACE,
    busy,
    gone,
    is_json,
    media_of,
    read,
    too_many_parameters,
    unread,
)

# Some 2,000 batches in full; a small machine has 256 MB. No answer may push out more than a sixteenth of the others.
MOST = 16 * 1024 * 1024
LARGEST = MOST // 16
# What an entry takes besides its texts: measured, and rounded up.
OVERHEAD = 3 * 1024

# How many answers that were not kept may be under way. A further request waits for its turn, and is refused after some
# seconds, here, where it costs next to nothing: work put into a request that is refused in the end is lost to the
# others, and so is the time for refusing hundreds of clients that come again at once.
MOST_AT_ONCE = 64
PAUSE = 1.0  # seconds
# How many of them may be of one address: however many requests it sends, others are answered.
MOST_OF_AN_ADDRESS = MOST_AT_ONCE // 2

# What is read of a request by routes, CORS, content negotiation and our headers.
READ = frozenset({b"accept", b"content-encoding", b"content-type", b"origin", FORWARDED, WEBSOCKET[0]})
# The meanings of so many requests' headers are remembered, if these have at most so many bytes.
_REMEMBERED = 256
_UNREAD = -1  # the meaning of headers that are not remembered
_LONGEST = 1024
# How much of If-None-Match is read, in bytes: some two hundred tags.
_LONGEST_TAGS = 8 * 1024
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


class Meaning(Struct, frozen=True):
    """What the headers of a request mean for its response."""

    accept: tuple[str, bool, bool]  # see `_accepted`
    origin: bytes | None  # one that is allowed by name; of all others only that there is one
    https: bool
    websocket: bool


class _Turn:
    """A request that waits for a place, which it has when its turn has `come`."""

    __slots__ = ("client", "come")

    def __init__(self, client: str, come: "asyncio.Future[None]") -> None:
        self.client, self.come = client, come


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
        is_full: Callable[[Any], bool] = lambda scope: False,
        counted: Callable[..., Any] = lambda scope, send, size=None: send,
        address_header: str = "",
    ) -> None:
        """
        Take `marks` and `cors`: headers that a refusal has too, as all responses from behind the cache do.

        `is_full` tells whether clients have left too much unread for a request to be answered, and `counted` gives what
        sends a response so that what is not read of it counts (see app/web/unsent.py). `address_header` is the header
        that tells the client's address (see `api.clients`).
        """
        self.app, self.revision, self.also, self.told = app, revision, also, told
        self.most, self.largest = most, largest
        self.hits = self.misses = self.busy = self.unchanged = self.size = 0
        self.places = Tally()  # the requests under way
        # Requests that wait for a place.
        self._waiting: FairQueue[_Turn] = FairQueue()
        self._kept: OrderedDict[object, Kept] = OrderedDict()
        self._at: int | None = None
        self._marks, self._cors = pairs(marks), cors
        self._is_full, self._counted = is_full, counted
        self._address_header = address_header.lower().encode()
        self._meanings: dict[object, int | None] = {}
        self._numbers: dict[Meaning, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request to `/graphql`, or to an address of which `also` tells what it hangs on."""
        if self._address_header:
            scope[ADDRESS_HEADER] = self._address_header
        path, method, query = scope.get("path"), scope.get("method"), scope.get("query_string")
        if method == "HEAD":
            method = "GET"
            scope, send = {**scope, "method": method, HEAD_ONLY: True}, _head_of(send)
        asks = method == "GET"
        if query and len(query) > MOST_PARAMETERS and query.count(b"&") >= MOST_PARAMETERS:
            await self._refuse(too_many_parameters, 400, path, scope["headers"], send)
            return
        # Routes take `/graphql/` and `//graphql` for `/graphql`: no spelling may be a way past the limit.
        if path != paths.GRAPHQL and scope["type"] == "http":
            path = normalize_path(path)
        if path != paths.GRAPHQL and asks:
            query = self.also(path, query)
        if scope["type"] != "http" or query is None or not (asks or (method == "POST" and path == paths.GRAPHQL)):
            await self.app(scope, receive, self._counted(scope, send))
            return
        body: bytes | None = b""
        if method == "POST":
            found = scope[BODY] = await read(receive)
            body = None if found.refused else found.text
        asked, known, cookies = [], b"", False
        for pair in scope["headers"]:
            if pair[0] in READ:
                asked.append(pair)
            elif pair[0] == b"if-none-match":
                known = b"%b,%b" % (known, pair[1])
            elif pair[0] == b"cookie":
                cookies = True
        read_of = (method, *asked)
        meaning = self._meanings.get(read_of, _UNREAD)
        if meaning == _UNREAD:
            meaning = self._meaning(read_of)
        key = (path, method, query, body, meaning) if body is not None and meaning is not None else None
        kept = self._kept_for(key)
        client = ""
        if kept is None:
            client = client_of(scope)
            if self._has_place(client):
                self._count(client, 1)
            elif not await self._wait(client, receive):
                self.busy += 1
                await self._refuse(busy, 503, path, asked, send)
                return
            elif kept := self._kept_for(key):  # another request has asked for it meanwhile
                self._count(client, -1)
        if kept:
            self.hits += 1
            self._tell(path, kept.start["status"])
            self.unchanged += await kept.send(self._counted(scope, send, len(kept.body["body"])), known)
            return
        if self._is_full(scope):
            self._count(client, -1)
            self.busy += 1
            await self._refuse(unread, 503, path, asked, send)
            return
        self.misses += 1
        if cookies:
            # No code of ours reads them, but Litestar's CORS names the origin to a client that sends some.
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"cookie"]
        await self._ask(key, known, scope, receive, self._counted(scope, send))

    def _kept_for(self, key: object) -> Kept | None:
        """Return the kept answer to a request, if there is one."""
        revision = self.revision()
        if revision != self._at:
            self._kept.clear()
            self.size, self._at = 0, revision
        kept = self._kept.get(key) if key else None
        if kept:
            self._kept.move_to_end(key)
        return kept

    def _has_place(self, client: str) -> bool:
        """Return whether a request of the client at an address may be under way beside those that are."""
        return self.places.total < MOST_AT_ONCE and self.places.of(client) < MOST_OF_AN_ADDRESS

    async def _wait(self, client: str, receive: Any) -> bool:
        """
        Wait for a place, for PAUSE at most; return whether the request has one, which is counted.

        The request of a client that has gone gives up its turn.
        """
        own = _Turn(client, asyncio.get_running_loop().create_future())
        self._waiting.add(client, own)
        leaving = asyncio.ensure_future(gone(receive))
        is_taken = False
        try:
            await asyncio.wait({own.come, leaving}, timeout=PAUSE, return_when=asyncio.FIRST_COMPLETED)
            is_taken = own.come.done() and not leaving.done()
            return is_taken
        finally:
            leaving.cancel()
            self._waiting.remove(client, own)
            if own.come.done() and not is_taken:
                self._count(client, -1)

    def _hand_on(self) -> None:
        """Give the places that are free to the requests that wait, in turns by client."""
        while turn := self._waiting.next(self._has_place):
            self._count(turn.client, 1)
            turn.come.set_result(None)

    async def _refuse(self, refusal: Callable[..., Any], status: int, path: str, asked: Headers, send: Any) -> None:
        """Send a refusal of that status, with the headers that all responses have."""
        self._tell(path, status)
        read_of = dict(asked)
        headers = [*self._marks, *cross_origin(self._cors, read_of.get(b"origin", b""))]
        for message in refusal(read_of.get(b"accept", b""), headers):
            await send(message)

    def _meaning(self, read_of: tuple[Any, ...]) -> int | None:
        """
        Return the number of what a request's headers mean, or None if its response is never kept.

        `read_of` are its method and those of its headers that are in READ. There are few meanings, but any number of
        ways to write them: what is remembered of those is bounded.
        """
        method, *asked = read_of
        number = None
        if method != "POST" or _is_plain_json(asked):
            origin = next((value for name, value in asked if name == b"origin"), None)  # CORS reads the first one
            meaning = Meaning(
                accept=_accepted(method, [value for name, value in asked if name == b"accept"]),
                origin=self._origin(origin),
                https=over_https(asked),
                websocket=WEBSOCKET in asked,
            )
            number = self._numbers.setdefault(meaning, len(self._numbers))
        if sum(len(value) for _, value in asked) <= _LONGEST:
            if len(self._meanings) >= _REMEMBERED:
                self._meanings.clear()
            self._meanings[read_of] = number
        return number

    def _origin(self, origin: bytes | None) -> bytes | None:
        """Return an origin that CORS allows by name; empty for any other, whose responses are all alike."""
        if not origin or not self._cors:  # Litestar takes an empty one for none
            return None
        if self._cors.is_allow_all_origins or not self._cors.is_origin_allowed(origin.decode("latin-1")):
            return b""
        return origin

    def _tell(self, path: str, status: int) -> None:
        if path != paths.GRAPHQL:
            self.told(path, status)

    async def _ask(self, key: Any, known: bytes, scope: Any, receive: Any, send: Any) -> None:
        """
        Hand a request on, and keep its answer if that is worth it and still true.

        The request has a place, which it gives up when its answer is there.
        """
        start: dict[str, Any] = {}
        client, revision, counted = client_of(scope), self._at, True

        def leave() -> None:
            """Give up the place, if it was not given up before."""
            nonlocal counted
            if counted:
                counted = False
                self._count(client, -1)

        @contextmanager
        def outside() -> Iterator[None]:
            """Give the place to others while this request waits for its turn (`api.turns`, `api.lanes`)."""
            nonlocal counted
            leave()
            try:
                yield
            finally:
                self._count(client, 1)
                counted = True

        scope[PLACE] = outside

        async def pass_on(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                # Not only when it is sent: a client that does not read keeps no other from being answered.
                leave()
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
            leave()

    def _count(self, client: str, one: int) -> None:
        """Count a request under way, of the client at an address, or count it no longer."""
        self.places.add(client, one)
        if one < 0 and self._waiting:
            self._hand_on()

    @property
    def under_way(self) -> int:
        """Return how many requests are worked for."""
        return self.places.total

    @property
    def kept(self) -> int:
        """Return how many answers are kept."""
        return len(self._kept)

    def _keep(self, key: Any, answer: Kept) -> None:
        _, _, query, body, _ = key
        size = answer.size + len(query) + len(body)
        if size > self.largest or key in self._kept:
            return
        # The id of the request that it was computed for is nobody else's.
        headers = [pair for pair in answer.start["headers"] if pair[0] != REQUEST_ID]
        self._kept[key] = Kept({**answer.start, "headers": headers}, answer.body, answer.tag, size)
        self.size += size
        while self.size > self.most:
            self.size -= self._kept.popitem(last=False)[1].size


def _is_plain_json(asked: Headers) -> bool:
    """Return whether a body is JSON that is not compressed: anything else is refused, and never kept."""
    encodings = {value.lower() for name, value in asked if name == b"content-encoding"}
    return encodings <= {b"identity"} and is_json({"type": "http", "headers": asked})


def _accepted(method: str, values: list[bytes]) -> tuple[str, bool, bool]:
    """
    Return what the values of Accept mean: the API's media type, whether HTML is wanted, and whether only JSON is.

    The first page, which may be answered in JSON, reads the first value alone. A POST never has HTML for an answer.
    """
    lowered = b",".join(values).lower()
    if method == "POST":
        return media_of(lowered), False, False
    first = values[0] if values else b""
    return media_of(lowered), b"text/html" in lowered, b"json" in first and b"html" not in first


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
    known = known[:_LONGEST_TAGS]
    return tag in _TAG.findall(known) or known.strip(b", ") == b"*"
