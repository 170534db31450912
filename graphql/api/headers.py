"""
What every response says to browsers: next to nothing may be done with it.

One that says something else of a header is left its word: GraphiQL's page has a policy of its own.
"""

from collections.abc import Mapping, Sequence

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


def pairs(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them: pairs of bytes, the names in small letters."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def safe(headers: Headers, *, https: bool = False) -> list[tuple[bytes, bytes]]:
    """Return `headers`, in small letters, with those of ours that they lack."""
    given = [(name.lower(), value) for name, value in headers]
    said = {name for name, _ in given}
    ours = (*SAFE, ALWAYS_HTTPS) if https else SAFE
    return [*given, *(pair for pair in ours if pair[0] not in said)]
