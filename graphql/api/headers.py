"""
The headers that every response has. They limit what browsers may do with a response.

A header that a response already has keeps its value. For example, GraphiQL's page has a
Content-Security-Policy of its own.
"""

from collections.abc import Mapping, Sequence

from litestar.config.cors import CORSConfig

Headers = Sequence[tuple[bytes, bytes]]

SECURITY_HEADERS: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # Pages of other sites must not embed responses. Their scripts may read responses only through
    # CORS.
    (b"cross-origin-resource-policy", b"same-origin"),
)
# The header is valid for one year. It is sent only over https: over http the specification forbids
# the header (RFC 6797), and a rehearsal on loopback has no https.
STRICT_TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")
FORWARDED_PROTO = b"x-forwarded-proto"
REQUEST_ID = b"x-request-id"
# Marks the handshake of a WebSocket, as HTTP/2 does (RFC 8441). No client can send this pair as a
# header, because the name of a header cannot begin with a colon.
WEBSOCKET = (b":protocol", b"websocket")
# The headers that scripts of other sites may read, besides those that the Fetch standard always
# allows.
EXPOSED_HEADERS = (
    "Accept-Post",
    "Allow",
    "Content-Disposition",
    "ETag",
    "Retry-After",
    "X-Journal-Head",
    "X-Rehearsed",
    "X-Request-Id",
)


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form of ASGI: pairs of bytes, the names in lower case."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def with_security_headers(headers: Headers, *, https: bool = False) -> list[tuple[bytes, bytes]]:
    """Return `headers`, names in lower case, and the security headers that they do not have."""
    lowered = [(name.lower(), value) for name, value in headers]
    names = {name for name, _ in lowered}
    defaults = [*SECURITY_HEADERS]
    if https:
        defaults.append(STRICT_TRANSPORT_SECURITY)
    return [*lowered, *(pair for pair in defaults if pair[0] not in names)]


def is_https(headers: Headers) -> bool:
    """
    Return whether the client used https, as the proxies in front report.

    Each proxy appends a value to the header X-Forwarded-Proto: the protocol of the connection on
    which the proxy got the request. The value is on the same line as the values before it, or on a
    line of its own. So the first value of the header is the protocol that the client used.
    """
    protocols = b",".join(value for name, value in headers if name == FORWARDED_PROTO)
    return protocols.lower().replace(b",", b" ").split()[:1] == [b"https"]


def cors_headers(cors: CORSConfig | None, origin: bytes) -> Headers:
    """
    Return the CORS headers for a response that Litestar does not send.

    With them a script of `origin` may read the response, if `cors` allows this origin.
    """
    if not cors or not origin:
        return ()
    allowed = dict(cors.simple_headers)
    if not cors.is_allow_all_origins:
        if not cors.is_origin_allowed(origin.decode("latin-1")):
            return ()
        allowed["Access-Control-Allow-Origin"] = origin.decode("latin-1")
    return encode_headers(allowed)
