"""
The response cache: sends the bytes of an earlier response again until the record changes.

The cache is in front of the routes, so that a cached response is sent without routing. It caches
the responses of the API and the pages, because both depend on the record.

**The key** of a request contains everything that its response depends on:

- the method, the body, and the path without superfluous slashes;
- the query string. For a page, only the part that changes the page;
- the meaning of the headers (`HeaderMeaning`): what they change in a response.

The key does not contain the headers themselves. A client could send the same header in many
spellings, and a response would be computed and cached for each. `READ_HEADERS` lists the headers
that change a response. Cookies are not among them: no code of ours uses cookies, and `_serve`
removes them from each request that it passes on.

**The guarantee.** A response is cached only if the record did not change between the request and
the end of the response. It is valid until the next notification of a change. So a process that has
received the notification of a commit never again sends a cached response from before that commit.
Before the notification arrives, the process may still send an old response. If notifications fail,
the revision becomes unknown within five seconds (app/database/revision.py). From then on, no cached
response is sent. Responses that are not cached are read from Postgres when they are requested.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, NamedTuple

from litestar.config.cors import CORSConfig
from litestar.utils import normalize_path
from msgspec import Struct

from api import paths
from api.clients import ADDRESS_HEADER, ClientCounter, client_address
from api.fair_queue import FairQueue
from api.headers import (
    FORWARDED_PROTO,
    REQUEST_ID,
    WEBSOCKET,
    Headers,
    cors_headers,
    encode_headers,
    is_https,
)
from api.http import (
    BODY,
    HEAD_ONLY,
    MAX_PARAMETERS,
    WHILE_WAITING,
    is_json,
    media_type_of,
    read_body,
    too_many_parameters_messages,
    unavailable_messages,
    unread_messages,
    wait_for_disconnect,
)

# The size of the cache, in bytes. It has room for about 1,200 responses of 10 KB, such as those of
# `LatestBatch`; the machine in fly.toml has 512 MB for everything. One response may fill at most a
# sixteenth of the cache, so that one response cannot evict many others.
MAX_BYTES = 16 * 1024 * 1024
MAX_RESPONSE_BYTES = MAX_BYTES // 16
# The memory that a cached response takes, in bytes, without three parts that are counted
# separately: the response's body, the request's query string, and the request's body. The number
# was measured and rounded up.
OVERHEAD_BYTES = 3 * 1024

# How many requests without a cached response may be active: each of them has a place. A further
# request waits for a place, and is refused after WAIT_SECONDS. It waits before any other work is
# done for it, because a refusal would waste that work. An immediate refusal would be worse than a
# wait: hundreds of clients would repeat their requests at once, and each refusal costs time.
MAX_CONCURRENT = 64
WAIT_SECONDS = 1.0
# How many active requests one address may have, so that it cannot take all places.
MAX_CONCURRENT_PER_CLIENT = MAX_CONCURRENT // 2

# The request headers that change a response. Routes, CORS and content negotiation read them, and so
# does the code that adds our own headers to each response.
READ_HEADERS = frozenset(
    {b"accept", b"content-encoding", b"content-type", b"origin", FORWARDED_PROTO, WEBSOCKET[0]}
)
# The cache of meanings has at most this many combinations of headers.
_MAX_CACHED_HEADERS = 256
# The most bytes of one combination that is cached.
_MAX_HEADER_BYTES = 1024
# Stands for the id of a meaning, if the combination of headers is not in the cache of meanings.
_NOT_CACHED = -1
# How much of If-None-Match is read, in bytes: about two hundred tags.
_MAX_IF_NONE_MATCH_BYTES = 8 * 1024
_TAG = re.compile(rb'"[^"]*"')
# The headers that describe a body. A 304 has no body, and does not have them.
_BODY_HEADERS = (b"content-type", b"content-length")

App = Callable[[Any, Any, Any], Awaitable[None]]


class CompleteResponse(Struct, frozen=True):
    """
    The two ASGI messages of a response, its ETag, and its size in the cache.

    `tag` is empty if the response has no ETag. `size` is 0 if the response must not be cached.
    """

    start: dict[str, Any]
    body: dict[str, Any]
    tag: bytes
    size: int = 0

    async def send(self, send: Any, if_none_match: bytes) -> bool:
        """
        Send the response, or 304 if the client already has it.

        Return whether a 304 was sent.
        """
        if if_none_match and self.tag and matches_etag(if_none_match, self.tag):
            headers = [pair for pair in self.start["headers"] if pair[0] not in _BODY_HEADERS]
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return True
        await send(self.start)
        await send(self.body)
        return False


class HeaderMeaning(Struct, frozen=True):
    """What the headers of a request change in its response."""

    # See `_accept_meaning`.
    accept: tuple[str, bool, bool]
    # See `_origin_meaning`.
    origin: bytes | None
    https: bool
    websocket: bool


class _RelevantHeaders(NamedTuple):
    """
    The headers of a request that the cache reads.

    `relevant` are those in READ_HEADERS, and `if_none_match` all values of If-None-Match.
    """

    relevant: list[tuple[bytes, bytes]]
    if_none_match: bytes
    has_cookies: bool


class _Waiter:
    """A request that waits for a place, and the future that is done when it has the place."""

    __slots__ = ("client", "place")

    def __init__(self, client: str, place: "asyncio.Future[None]") -> None:
        self.client = client
        self.place = place


class ResponseCache:
    """
    An ASGI application that sends cached responses and passes other requests on.

    It has these counters:

    - `hits`, `misses`: requests with and without a cached response; refused requests do not count;
    - `refusals`: requests that were refused because no place or no memory was free;
    - `unchanged`: responses with the status 304.
    """

    def __init__(
        self,
        app: App,
        revision: Callable[[], int | None],
        relevant_query: Callable[[str, bytes], bytes | None] = lambda path, query: None,
        *,
        max_bytes: int = MAX_BYTES,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        on_response: Callable[[str, int], None] = lambda path, status: None,
        extra_headers: Mapping[str, str] = {},
        cors: CORSConfig | None = None,
        make_room: Callable[[Any], bool] = lambda scope: True,
        count_unsent: Callable[..., Any] = lambda scope, send, size=None: send,
        address_header: str = "",
    ) -> None:
        """
        Set the cache up in front of `app`.

        - `revision` returns the revision of the record, or None while it is not known.
        - `relevant_query` gets the path and the query string of a GET. It returns the part of the
          query string on which the response depends, or None if the response is not cached.
        - `on_response` is called with the path and the status of each response that the cache sends
          itself, except those of the API.
        - `extra_headers` and `cors` give refusals the headers that responses of `app` have.
        - `make_room` returns whether there is memory for one more response. It may disconnect
          clients that do not read their responses (app/web/unsent_responses.py).
        - `count_unsent` wraps `send`, so that the unread bytes of a response are counted
          (app/web/unsent_responses.py).
        - `address_header` names the header with the client's address (`api.clients`).
        """
        self.app = app
        self.revision = revision
        self.relevant_query = relevant_query
        self.on_response = on_response
        self.max_bytes = max_bytes
        self.max_response_bytes = max_response_bytes
        self.hits = self.misses = self.refusals = self.unchanged = self.size = 0
        self.active_by_client = ClientCounter()
        self._waiting: FairQueue[_Waiter] = FairQueue()
        self._cached: OrderedDict[object, CompleteResponse] = OrderedDict()
        # The revision of the record to which the cached responses belong.
        self._cached_revision: int | None = None
        self._extra_headers = encode_headers(extra_headers)
        self._cors = cors
        self._make_room = make_room
        self._count_unsent = count_unsent
        self._address_header = address_header.lower().encode()
        # For each cached combination of headers: the id of its meaning, or None if a request with
        # these headers is never cached.
        self._meanings: dict[object, int | None] = {}
        # For each meaning: its id.
        self._meaning_ids: dict[HeaderMeaning, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request. For the paths of the API and of pages, the cache is used."""
        if self._address_header:
            scope[ADDRESS_HEADER] = self._address_header
        path, method, query = scope.get("path"), scope.get("method"), scope.get("query_string")
        if method == "HEAD":
            method = "GET"
            scope = {**scope, "method": method, HEAD_ONLY: True}
            send = _send_head_only(send)
        if query and len(query) > MAX_PARAMETERS and query.count(b"&") >= MAX_PARAMETERS:
            await self._refuse(
                too_many_parameters_messages, path, scope["headers"], status=400, send=send
            )
            return
        # Routes treat `/graphql/` and `//graphql` as `/graphql`. No spelling of the path may bypass
        # the limit of active requests.
        if path != paths.GRAPHQL and scope["type"] == "http":
            path = normalize_path(path)
        if path != paths.GRAPHQL and method == "GET":
            query = self.relevant_query(path, query)
        is_cached_path = method == "GET" or (method == "POST" and path == paths.GRAPHQL)
        if scope["type"] != "http" or query is None or not is_cached_path:
            await self.app(scope, receive, self._count_unsent(scope, send))
            return
        await self._serve(path, method, query, scope=scope, receive=receive, send=send)

    async def _serve(
        self, path: str, method: str, query: bytes, *, scope: Any, receive: Any, send: Any
    ) -> None:
        """Serve a request whose response may be cached."""
        text: bytes | None = b""
        if method == "POST":
            body = scope[BODY] = await read_body(receive)
            text = None if body.error_code else body.text
        headers = _relevant_headers(scope)
        method_and_headers = (method, *headers.relevant)
        meaning = self._meanings.get(method_and_headers, _NOT_CACHED)
        if meaning == _NOT_CACHED:
            meaning = self._meaning_of(method_and_headers)
        key = None
        if text is not None and meaning is not None:
            key = (path, method, query, text, meaning)
        cached = self._get_cached(key)
        client = ""
        if cached is None:
            client = client_address(scope)
            if self._is_place_free(client):
                self._count_active(client, 1)
            elif not await self._wait_for_place(client, receive):
                self.refusals += 1
                await self._refuse(
                    unavailable_messages, path, headers.relevant, status=503, send=send
                )
                return
            else:
                # Another request may have produced the response meanwhile.
                cached = self._get_cached(key)
                if cached:
                    self._count_active(client, -1)
        if cached:
            self.hits += 1
            self._report(path, cached.start["status"])
            counted_send = self._count_unsent(scope, send, len(cached.body["body"]))
            is_unchanged = await cached.send(counted_send, headers.if_none_match)
            self.unchanged += is_unchanged
            return
        if not self._make_room(scope):
            self._count_active(client, -1)
            self.refusals += 1
            await self._refuse(unread_messages, path, headers.relevant, status=503, send=send)
            return
        self.misses += 1
        if headers.has_cookies:
            # No code of ours uses cookies. But Litestar's CORS writes the origin into the response
            # to a request with cookies, and that response would then be cached for all origins.
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"cookie"]
        await self._pass_on(
            key,
            headers.if_none_match,
            scope=scope,
            receive=receive,
            send=self._count_unsent(scope, send),
        )

    def _get_cached(self, key: object) -> CompleteResponse | None:
        """Return the cached response to a request, if there is one."""
        revision = self.revision()
        if revision != self._cached_revision:
            self._cached.clear()
            self.size, self._cached_revision = 0, revision
        cached = self._cached.get(key) if key else None
        if cached:
            self._cached.move_to_end(key)
        return cached

    def _is_place_free(self, client: str) -> bool:
        """Return whether one more request of a client may be active."""
        if self.active_by_client.total >= MAX_CONCURRENT:
            return False
        return self.active_by_client.count_for(client) < MAX_CONCURRENT_PER_CLIENT

    async def _wait_for_place(self, client: str, receive: Any) -> bool:
        """
        Wait for a place, for WAIT_SECONDS at most.

        Return whether the request got a place; then it counts as active. A request whose client has
        disconnected gets none.
        """
        waiter = _Waiter(client, asyncio.get_running_loop().create_future())
        self._waiting.add(client, waiter)
        disconnect = asyncio.ensure_future(wait_for_disconnect(receive))
        is_taken = False
        try:
            await asyncio.wait(
                {waiter.place, disconnect},
                timeout=WAIT_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            is_taken = waiter.place.done() and not disconnect.done()
            return is_taken
        finally:
            disconnect.cancel()
            self._waiting.remove(client, waiter)
            # Perhaps this request got the place in the same step of the event loop in which the
            # wait ended. Then the place is given back.
            if waiter.place.done() and not is_taken:
                self._count_active(client, -1)

    def _give_free_places(self) -> None:
        """Give the free places to the requests that wait, in turns by client."""
        while waiter := self._waiting.take_next(self._is_place_free):
            self._count_active(waiter.client, 1)
            waiter.place.set_result(None)

    async def _refuse(
        self,
        make_messages: Callable[..., Any],
        path: str,
        headers: Headers,
        *,
        status: int,
        send: Any,
    ) -> None:
        """Send a refusal with the headers that all responses have."""
        self._report(path, status)
        values = dict(headers)
        extra_headers = [
            *self._extra_headers,
            *cors_headers(self._cors, values.get(b"origin", b"")),
        ]
        for message in make_messages(values.get(b"accept", b""), extra_headers):
            await send(message)

    def _meaning_of(self, method_and_headers: tuple[Any, ...]) -> int | None:
        """
        Return the id of the meaning of a request's headers; None if the request is never cached.

        `method_and_headers` is the method, followed by the headers that are in READ_HEADERS. There
        are few meanings, but clients can send each meaning in any number of spellings. So the ids
        of only a limited number of spellings are cached.
        """
        method, *headers = method_and_headers
        meaning_id = None
        if method != "POST" or _is_plain_json(headers):
            meaning = self._parse_meaning(method, headers)
            meaning_id = self._meaning_ids.setdefault(meaning, len(self._meaning_ids))
        if sum(len(value) for _, value in headers) <= _MAX_HEADER_BYTES:
            if len(self._meanings) >= _MAX_CACHED_HEADERS:
                self._meanings.clear()
            self._meanings[method_and_headers] = meaning_id
        return meaning_id

    def _parse_meaning(self, method: str, headers: Headers) -> HeaderMeaning:
        # If there are several origins, CORS reads the first one.
        origins = (value for name, value in headers if name == b"origin")
        accept = [value for name, value in headers if name == b"accept"]
        return HeaderMeaning(
            accept=_accept_meaning(method, accept),
            origin=self._origin_meaning(next(origins, None)),
            https=is_https(headers),
            websocket=WEBSOCKET in headers,
        )

    def _origin_meaning(self, origin: bytes | None) -> bytes | None:
        """
        Return an origin that CORS allows by name, and an empty text for any other origin.

        The responses to all other origins are equal. None means that the origin changes nothing.
        """
        # To Litestar, an empty origin is the same as none.
        if not origin or not self._cors:
            return None
        if self._cors.is_allow_all_origins:
            return b""
        if not self._cors.is_origin_allowed(origin.decode("latin-1")):
            return b""
        return origin

    def _report(self, path: str, status: int) -> None:
        if path != paths.GRAPHQL:
            self.on_response(path, status)

    async def _pass_on(
        self, key: Any, if_none_match: bytes, *, scope: Any, receive: Any, send: Any
    ) -> None:
        """
        Pass a request on, and cache its response if it is cacheable and still current.

        The request has a place, which it releases when its response begins.
        """
        start: dict[str, Any] = {}
        place = _Place(self, client_address(scope))
        revision = self._cached_revision
        scope[WHILE_WAITING] = place.released_while_waiting

        async def forward(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                # The start is sent later, with the body, because the ETag depends on the body.
                start = message
                # The place is released now and not after sending: a client that does not read must
                # not make another client wait.
                place.release()
                return
            if not start:
                await send(message)
                return
            response = add_cache_headers(start, message, scope["method"])
            start = {}
            is_cacheable = response.size > 0 and key is not None
            is_current = revision is not None and self.revision() == revision
            if is_cacheable and is_current:
                self._store(key, response)
            is_unchanged = await response.send(send, if_none_match)
            # Not in one statement: Python would read the counter before the wait, and what other
            # requests add to it during the wait would be lost.
            self.unchanged += is_unchanged

        try:
            await self.app(scope, receive, forward)
        finally:
            place.release()

    def _count_active(self, client: str, change: int) -> None:
        """Count a request of a client as active (1), or no longer (-1)."""
        self.active_by_client.add(client, change)
        if change < 0 and self._waiting:
            self._give_free_places()

    @property
    def active_requests(self) -> int:
        """Return how many requests are active."""
        return self.active_by_client.total

    @property
    def entry_count(self) -> int:
        """Return how many responses are cached."""
        return len(self._cached)

    def _store(self, key: Any, response: CompleteResponse) -> None:
        _, _, query, body, _ = key
        size = response.size + len(query) + len(body)
        if size > self.max_response_bytes or key in self._cached:
            return
        # The header with the request's id belongs only to the request that computed the response.
        headers = [pair for pair in response.start["headers"] if pair[0] != REQUEST_ID]
        start = {**response.start, "headers": headers}
        self._cached[key] = CompleteResponse(start, response.body, tag=response.tag, size=size)
        self.size += size
        while self.size > self.max_bytes:
            _, oldest = self._cached.popitem(last=False)
            self.size -= oldest.size


class _Place:
    """
    The place of one active request.

    It is released while the request waits for its turn in the engine, when the response begins, and
    after an error.
    """

    def __init__(self, cache: ResponseCache, client: str) -> None:
        self._cache = cache
        self._client = client
        self._is_occupied = True

    def release(self) -> None:
        """Release the place if the request still has it."""
        if self._is_occupied:
            self._is_occupied = False
            self._cache._count_active(self._client, -1)

    @contextmanager
    def released_while_waiting(self) -> Iterator[None]:
        """
        Release the place while the request waits for its turn, and take a place again afterwards.

        It is taken even if none is free: for a moment, more than MAX_CONCURRENT may be active.
        """
        self.release()
        try:
            yield
        finally:
            self._cache._count_active(self._client, 1)
            self._is_occupied = True


def _relevant_headers(scope: Any) -> _RelevantHeaders:
    """Return the headers that the cache reads, in one pass, because this runs for every request."""
    relevant: list[tuple[bytes, bytes]] = []
    if_none_match = b""
    has_cookies = False
    for pair in scope["headers"]:
        if pair[0] in READ_HEADERS:
            relevant.append(pair)
        elif pair[0] == b"if-none-match":
            if_none_match = b"%b,%b" % (if_none_match, pair[1])
        elif pair[0] == b"cookie":
            has_cookies = True
    return _RelevantHeaders(relevant, if_none_match, has_cookies)


def _is_plain_json(headers: Headers) -> bool:
    """
    Return whether a body is uncompressed JSON.

    The API refuses any other body, and the refusal is never cached.
    """
    encodings = {value.lower() for name, value in headers if name == b"content-encoding"}
    return encodings <= {b"identity"} and is_json({"type": "http", "headers": headers})


def _accept_meaning(method: str, values: list[bytes]) -> tuple[str, bool, bool]:
    """
    Return what the values of Accept change in a response.

    The first part is the media type of the API's response. The second is whether the client accepts
    HTML, and the third whether it accepts JSON and not HTML. The third part is for the home page,
    which has a JSON form. If a request has several Accept headers, the home page reads only the
    first one. The response to a POST is never HTML.
    """
    lowered = b",".join(values).lower()
    if method == "POST":
        return media_type_of(lowered), False, False
    first = values[0] if values else b""
    only_json = b"json" in first and b"html" not in first
    return media_type_of(lowered), b"text/html" in lowered, only_json


def _send_head_only(send: Any) -> Any:
    """
    Return a `send` that sends the head of a response and drops its body.

    So for every path, the handler of GET also serves HEAD, with the same headers.
    """
    has_ended = False

    async def send_head(message: Any) -> None:
        nonlocal has_ended
        if message["type"] == "http.response.start":
            await send(message)
        elif not has_ended:
            has_ended = True
            await send({"type": "http.response.body", "body": b""})

    return send_head


def add_cache_headers(start: dict[str, Any], body: dict[str, Any], method: str) -> CompleteResponse:
    """Return a response with the headers Vary and ETag; its size is above 0 if it is cacheable."""
    # For some requests, Litestar's CORS replaces our Vary header with its own. Caches between the
    # service and the client must know that responses depend on both Accept and Origin.
    headers = [
        (name.lower(), value) for name, value in start.get("headers", ()) if name.lower() != b"vary"
    ]
    headers.append((b"vary", b"Accept, Origin"))
    values = dict(headers)
    tag, size = b"", 0
    # Only the engine knows whether a result is cacheable. It says so in the header Cache-Control,
    # because other caches read that header, too. `no-cache` does not forbid storing: a cache may
    # store the response, but must ask the service before it uses the response again.
    is_cacheable = start["status"] == 200 and values.get(b"cache-control") == b"no-cache"
    if is_cacheable and not body.get("more_body"):
        size = OVERHEAD_BYTES + len(body["body"])
        if method == "GET":
            tag = _etag(values[b"content-type"], body["body"])
            headers.append((b"etag", tag))
    return CompleteResponse({**start, "headers": headers}, body, tag=tag, size=size)


def _etag(content_type: bytes, body: bytes) -> bytes:
    digest = sha256(content_type + b"\n" + body).hexdigest()
    return f'"{digest[:32]}"'.encode()


def matches_etag(if_none_match: bytes, tag: bytes) -> bool:
    """
    Return whether the values of If-None-Match contain `tag`.

    The comparison is weak, as RFC 9110 (section 13.1.2) prescribes for this header.
    """
    values = if_none_match[:_MAX_IF_NONE_MATCH_BYTES]
    return tag in _TAG.findall(values) or values.strip(b", ") == b"*"
