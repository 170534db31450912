"""Timestamps of an API that is no service of ours: one sentence names what cannot be read."""

from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from provider_server import ProviderServer, Request, says
from provider_server import provider as provider

from app.commands import terminal
from app.domain import rfc3161
from app.errors import ConfigurationError, Discrepancy
from app.ops import verify
from app.ops.verify_stamps import _FIELDS, HashedSource, verify_stamps
from app.simulation.timestamp_authority import SimulatedAuthority

AT = datetime(2026, 1, 5, 14, 4, 10, tzinfo=UTC)
AUTHORITY = SimulatedAuthority()
REQUEST = rfc3161.make_request(b"previous\ncontent")
RESPONSE = AUTHORITY.stamp(REQUEST.encoded, AT)
CHAIN = rfc3161.verify_response(
    RESPONSE, data_hash=REQUEST.data_hash, nonce=None, roots=rfc3161.read_roots(AUTHORITY.root_pem)
).chain_pem
NODE = {
    "seq": "7",
    "hash": REQUEST.data_hash,
    "kind": "RFC3161",
    "status": "CONFIRMED",
    "authority": "https://tsa.example",
    "at": AT.isoformat(),
    "accuracySeconds": "1",
    "receivedAt": AT.isoformat(),
    "proof": b64encode(RESPONSE).decode(),
    "chain": CHAIN,
    "blockHeight": None,
}
LAST_PAGE = {"hasNextPage": False, "endCursor": None}


@pytest.fixture
def serve(provider: ProviderServer) -> Callable[[object], Awaitable[int]]:
    """Return a function that checks the page of an API, and returns the number of its tokens."""

    async def check(page: object) -> int:
        def answer(request: Request) -> Any:
            if "__type" in request.json["query"]:
                return says({"data": {"__type": {"fields": [{"name": "timestamps"}]}}})
            return says({"data": {"timestamps": page}})

        provider.answers = answer
        async with verify.open_api(provider.url, terminal.clock.sleep) as source:
            hashed = HashedSource(source)
            hashed.hashes[7] = REQUEST.data_hash
            return (await verify_stamps(hashed)).tokens

    return check


async def test_the_page_that_the_others_change(serve):
    """Without a change, it fits."""
    assert await serve({"nodes": [NODE], "pageInfo": LAST_PAGE}) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", "0001-01-01T00:00:00+14:00"),
        ("at", "9999-12-31T23:59:59-14:00"),
        ("at", "2026-01-05T14:04:10"),
        ("at", "2026-01-05T14:04:60Z"),
        ("receivedAt", "0001-01-01T00:00:00+14:00"),
        ("receivedAt", "9999-12-31T23:59:59-14:00"),
        ("receivedAt", "2026-01-05T14:04:10"),
        ("accuracySeconds", "sNaN"),
        ("accuracySeconds", "-sNaN123"),
        ("accuracySeconds", "NaN"),
        ("accuracySeconds", "Infinity"),
        ("seq", "9" * 5000),
        ("proof", "é"),
        ("proof", "*"),
        ("kind", "rfc3161"),
    ],
)
async def test_a_value_that_cannot_be_compared(serve, field, value):
    """It is a discrepancy, and no error of the program."""
    with pytest.raises(Discrepancy, match=r"^A timestamp of the API cannot be read: ") as refused:
        await serve({"nodes": [NODE | {field: value}], "pageInfo": LAST_PAGE})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", _FIELDS.values())
async def test_a_value_that_is_missing(serve, field):
    """The server is none of this service."""
    node = {name: value for name, value in NODE.items() if name != field}
    with pytest.raises(ConfigurationError, match="does not answer as Alpha Monday's API does"):
        await serve({"nodes": [node], "pageInfo": LAST_PAGE})


@pytest.mark.parametrize(
    "page",
    [
        None,
        [],
        {},
        {"nodes": [NODE]},
        {"nodes": [NODE], "pageInfo": None},
        {"nodes": [NODE], "pageInfo": {"hasNextPage": True}},
        {"nodes": None, "pageInfo": LAST_PAGE},
        {"nodes": [None], "pageInfo": LAST_PAGE},
        {"nodes": ["a node"], "pageInfo": LAST_PAGE},
        {"nodes": [NODE | {"proof": None}], "pageInfo": LAST_PAGE},
        {"nodes": [NODE | {"proof": 7}], "pageInfo": LAST_PAGE},
    ],
)
async def test_a_page_of_another_form(serve, page):
    """The server is none of this service."""
    with pytest.raises(ConfigurationError, match="does not answer as Alpha Monday's API does"):
        await serve(page)


async def test_empty_pages_without_an_end(serve):
    """The same page is not asked for again and again."""
    more = {"hasNextPage": True, "endCursor": "x"}
    with pytest.raises(ConfigurationError, match="returns the same page"):
        await serve({"nodes": [], "pageInfo": more})


async def test_a_half_of_a_character(serve):
    """JSON can contain one, and UTF-8 cannot."""
    with pytest.raises((Discrepancy, ConfigurationError)) as refused:
        await serve({"nodes": [NODE | {"chain": CHAIN + "\ud800"}], "pageInfo": LAST_PAGE})
    assert "\n" not in str(refused.value)
