"""
A client of a time-stamping authority (RFC 3161): one request returns one timestamp, which is
verified.

Only a timestamp that verifies leaves this module, so a response with any other bytes changes
nothing. The content type decides nothing about the validity of a timestamp, but a response with
another one than `application/timestamp-reply` is refused: mostly it is the HTML page of a proxy, or
the address is not that of an authority, and the error text then says so.

The address may contain a password or a key, so each request is guarded
(`app.providers.http_requests`), and error texts name the address without its user information and
its query.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import httpx
from msgspec import Struct

from app.domain import rfc3161
from app.domain.calendar import Clock
from app.domain.rfc3161 import MAX_CLOCK_DIFFERENCE, MAX_RESPONSE_BYTES, Stamp
from app.domain.text import public_address
from app.errors import ConfigurationError, ProviderBusy, ProviderUnavailable, UnusableStamp
from app.providers import bodies
from app.providers.http_requests import guarded_request, make_client, may_succeed_later
from app.providers.retry_after import parse_retry_after

if TYPE_CHECKING:  # importing the library takes 70 ms
    from cryptography.x509 import Certificate

# How long one request may take, with the body of its response. Public authorities answer within a
# second; a longer wait would only delay the timestamps of the other authorities.
TIMEOUT_SECONDS = 20.0

_QUERY_TYPE = "application/timestamp-query"
_REPLY_TYPE = "application/timestamp-reply"


class ReceivedStamp(Struct, frozen=True, kw_only=True):
    """
    A verified stamp: `response` is the body as received, and `stamp` is what it says.

    `nonce` is the number that request and response have in common. `received_at` is the time of our
    own clock.
    """

    response: bytes
    nonce: int
    stamp: Stamp
    received_at: datetime


class TimestampAuthority:
    """
    A client of one authority.

    `url` is the authority's address, and `roots` are the pinned certificates
    (`app.domain.rfc3161.read_roots`). `name` is the address without its user information and its
    query: it may be stored and shown.
    """

    def __init__(self, url: str, roots: Sequence["Certificate"], clock: Clock) -> None:
        self.name = stored_address(url)
        self.roots = roots
        self.clock = clock
        self._url = url
        self._http = make_client(TIMEOUT_SECONDS, {"Accept": _REPLY_TYPE, **bodies.HEADERS})

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def stamp(self, data: bytes) -> ReceivedStamp:
        """
        Return a timestamp of `data`: of a journal's entry, `previous`, a line feed and `content`.

        Raises ProviderBusy, ProviderUnavailable or UnusableStamp (which is one) if another attempt
        may succeed, otherwise ConfigurationError.
        """
        # In a thread: the first call imports a library, and a check takes some milliseconds.
        request = await asyncio.to_thread(rfc3161.make_request, data)
        sent_at = self.clock.now()
        response = await self._post(request.encoded)
        received_at = self.clock.now()
        stamp = await asyncio.to_thread(
            rfc3161.verify_response,
            response,
            data_hash=request.data_hash,
            nonce=request.nonce,
            roots=self.roots,
            authority=self.name,
        )
        # Simulated time can jump while the request runs, so both ends are compared.
        earliest = sent_at - MAX_CLOCK_DIFFERENCE
        latest = received_at + MAX_CLOCK_DIFFERENCE
        if not earliest <= stamp.gen_time <= latest:
            raise UnusableStamp(
                f"{self._subject} sent a timestamp of {stamp.gen_time:%Y-%m-%d %H:%M:%S} UTC, "
                f"which is more than {MAX_CLOCK_DIFFERENCE.total_seconds() / 60:.0f} minutes away "
                "from our own clock."
            )
        return ReceivedStamp(
            response=response, nonce=request.nonce, stamp=stamp, received_at=received_at
        )

    @property
    def _subject(self) -> str:
        """The beginning of an error's sentence."""
        return f"The time-stamping authority {self.name}"

    async def _post(self, query: bytes) -> bytes:
        """Send a request, and return the body of its response."""
        async with (
            guarded_request(self._subject, "TIMESTAMP_URLS", TIMEOUT_SECONDS),
            self._http.stream(
                "POST", self._url, content=query, headers={"Content-Type": _QUERY_TYPE}
            ) as response,
        ):
            self._check_head(response)
            return await self._read_body(response)

    def _check_head(self, response: httpx.Response) -> None:
        """Raise the error for a status other than 200, or for another content type."""
        status = response.status_code
        sentence = f"{self._subject} answered {status}"
        if may_succeed_later(status):
            until = parse_retry_after(response.headers.get("Retry-After", ""), self.clock.now())
            if until:
                raise ProviderBusy(f"{sentence}.", until)
            raise ProviderUnavailable(f"{sentence}.")
        if 300 <= status < 400:
            raise ConfigurationError(
                f"{sentence}, a redirect, which is not followed: put the new address into "
                "TIMESTAMP_URLS."
            )
        if status >= 400:
            raise ConfigurationError(
                f"{sentence}: the server does not accept the request; check its address in "
                "TIMESTAMP_URLS."
            )
        if status != 200:
            raise ProviderUnavailable(f"{sentence}, without a timestamp.")
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != _REPLY_TYPE:
            # The error does not quote the header: it could contain anything.
            raise ProviderUnavailable(
                f"{self._subject} answered with another content type than {_REPLY_TYPE}: this is "
                "no timestamp. If this continues, check its address in TIMESTAMP_URLS."
            )

    async def _read_body(self, response: httpx.Response) -> bytes:
        parts = bodies.bounded_parts(
            response.aiter_raw(),
            headers=response.headers,
            max_bytes=MAX_RESPONSE_BYTES,
            sender=self._subject,
        )
        async with aclosing(parts):
            return b"".join([part async for part in parts])


def stored_address(url: str) -> str:
    """Return the authority's address as it may be stored with tokens and shown."""
    try:
        return public_address(url)
    except ValueError:
        # Nothing of such a text is safe to show.
        return "of TIMESTAMP_URLS"
