"""
What every response says to browsers: next to nothing may be done with it.

One that says something else of a header is left its word: GraphiQL's page has a policy of its own.
"""

from collections.abc import Mapping, Sequence

from litestar.config.cors import CORSConfig

Headers = Sequence[tuple[bytes, bytes]]

SAFE: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # Other sites' scripts read answers by CORS or not at all.
    (b"cross-origin-resource-policy", b"same-origin"),
)
# A year. Only to whom https was spoken: over http it must not be said, and a rehearsal on loopback has no https.
ALWAYS_HTTPS = (b"strict-transport-security", b"max-age=31536000")
FORWARDED = b"x-forwarded-proto"
REQUEST_ID = b"x-request-id"
# Marks the handshake of a WebSocket, as HTTP/2 does (RFC 8441). No client can send it: no header begins with a colon.
WEBSOCKET = (b":protocol", b"websocket")
# What scripts of other sites may read of a response, besides what the Fetch standard lets them read of every one.
EXPOSED = (
    "Accept-Post",
    "Allow",
    "Content-Disposition",
    "ETag",
    "Retry-After",
    "X-Journal-Head",
    "X-Rehearsed",
    "X-Request-Id",
)


def pairs(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them: pairs of bytes, the names in small letters."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def safe(headers: Headers, *, https: bool = False) -> list[tuple[bytes, bytes]]:
    """Return `headers`, in small letters, with those of ours that they lack."""
    given = [(name.lower(), value) for name, value in headers]
    said = {name for name, _ in given}
    ours = (*SAFE, ALWAYS_HTTPS) if https else SAFE
    return [*given, *(pair for pair in ours if pair[0] not in said)]


def over_https(headers: Headers) -> bool:
    """
    Return whether the client spoke https, as the proxies in front say.

    Each proxy appends the protocol of its own connection, in the same line or in another one: the
    first is the client's.
    """
    said = b",".join(value for name, value in headers if name == FORWARDED)
    return said.lower().replace(b",", b" ").split()[:1] == [b"https"]


def cross_origin(cors: CORSConfig | None, origin: bytes) -> Headers:
    """Return the headers by which a script of `origin` may read a response that Litestar does not send."""
    if not cors or not origin:
        return ()
    allowed = dict(cors.simple_headers)
    if not cors.is_allow_all_origins:
        if not cors.is_origin_allowed(origin.decode("latin-1")):
            return ()
        allowed["Access-Control-Allow-Origin"] = origin.decode("latin-1")
    return pairs(allowed)
