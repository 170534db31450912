"""
A client of an OpenTimestamps calendar.

`POST {calendar}/digest` sends a hash, and the answer is a pending proof: it names the URI of the
calendar that will bring the hash into a Bitcoin block. Some hours later,
`GET {URI}/timestamp/{commitment}` answers with the operations from there to the block.
`app/domain/opentimestamps.py` reads both answers.

The URI in an answer is another server's text, so no request is sent to it unless it is exactly one
of the allowed addresses. No answer is returned before it was read as a timestamp of what was sent.
Redirects are not followed.

The addresses of calendars are not secret: one with a user name or a query is refused. So texts may
contain the host of an address.
"""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from urllib.parse import SplitResult, urlsplit

import httpx

from app.domain.calendar import Clock
from app.domain.opentimestamps import (
    DIGEST_BYTES,
    MAX_ANSWER_BYTES,
    Attestation,
    AttestationKind,
    UnusableProof,
    parse_answer,
)
from app.errors import (
    ConfigurationError,
    ProviderBusy,
    ProviderError,
    ProviderUnavailable,
)
from app.providers import bodies
from app.providers.http_requests import make_client, may_succeed_later
from app.providers.retry_after import parse_retry_after

CALENDARS_SETTING = "OTS_CALENDARS"
HOSTS_SETTING = "OTS_HOSTS"

# How long one request may take, with the body of its response, in seconds.
TIMEOUT_SECONDS = 10.0

_HEADERS = {**bodies.HEADERS, "Accept": "application/vnd.opentimestamps.v1"}
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost")


class TimestampCalendar:
    """
    A client of one calendar.

    `url` is the calendar's address, one of OTS_CALENDARS. `hosts` are the names of OTS_HOSTS: the
    hosts to which a pending proof may lead.

    Raises ConfigurationError for an address to which no request can be sent, or which contains a
    user name, a query or a fragment.
    """

    def __init__(self, url: str, hosts: Iterable[str], clock: Clock) -> None:
        parts = _split_address(url)
        self.url = stored_address(url)
        self.clock = clock
        self._host = parts.netloc
        # A URI is compared as a whole, and is not split into parts: two programs can differ in what
        # they see as the host of an odd address.
        self._allowed = {f"https://{host}" for host in hosts}
        if parts.hostname in _LOOPBACK_HOSTS:
            # A simulator's proofs lead to the simulator itself.
            self._allowed.add(self.url)
        self._http = make_client(TIMEOUT_SECONDS, _HEADERS)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def is_allowed(self, uri: str) -> bool:
        """
        Return whether `fetch_upgrade` may send a request to the URI of a pending attestation.

        It may be `https://` and a name of OTS_HOSTS, or this calendar's own address on loopback. A
        slash at the end makes no difference. A port, a path, or a letter in another case does.
        """
        return uri.removesuffix("/") in self._allowed

    async def submit(self, digest: bytes) -> bytes:
        """
        Send a SHA-256 hash (32 bytes) to the calendar. Return its answer, a timestamp of the hash.

        The answer has a pending attestation or one of a Bitcoin block. Raises ProviderBusy or
        ProviderUnavailable if another attempt may succeed, otherwise ConfigurationError.
        """
        if len(digest) != DIGEST_BYTES:
            # Calendars also accept other lengths, for example a hash in hexadecimal.
            raise ValueError(f"a SHA-256 hash has {DIGEST_BYTES} bytes, not {len(digest)}")
        request = self._http.build_request(
            "POST",
            f"{self.url}/digest",
            content=digest,
            headers={"Content-Type": "application/octet-stream"},
        )
        status, body = await self._send(request, self._host)
        if 300 <= status < 400:
            raise ConfigurationError(
                f"The calendar {self._host} answered {status}, a redirect, which is not followed: "
                f"set {CALENDARS_SETTING} to the new address."
            )
        if status != 200:
            raise ConfigurationError(
                f"The calendar {self._host} answered {status}: it does not accept the request; "
                f"check the address in {CALENDARS_SETTING}."
            )
        _check_answer(digest, body, self._host)
        return body

    async def fetch_upgrade(self, uri: str, commitment: bytes) -> bytes | None:
        """
        Return the timestamp from a `commitment` to a Bitcoin block, or None if there is none yet.

        `uri` and `commitment` are those of a pending attestation. None means that the calendar
        answered 404, or that its answer has only pending attestations. The answer can belong to
        another commitment: only the Merkle root of the block shows that it does not.

        Raises ConfigurationError if the URI is not allowed, and ProviderBusy or ProviderUnavailable
        if another attempt may succeed.
        """
        host = _display_host(uri)
        if not self.is_allowed(uri):
            raise ConfigurationError(
                f"A proof of the calendar {self._host} leads to {host}, which is not allowed: "
                f"add the host to {HOSTS_SETTING} if you trust it."
            )
        address = f"{uri.removesuffix('/')}/timestamp/{commitment.hex()}"
        status, body = await self._send(self._http.build_request("GET", address), host)
        if status == 404:
            return None
        if status != 200:
            raise ProviderUnavailable(f"The calendar {host} answered {status}.")
        attestations = _check_answer(commitment, body, host)
        if not _has_kind(attestations, AttestationKind.BITCOIN):
            return None
        return body

    async def _send(self, request: httpx.Request, host: str) -> tuple[int, bytes]:
        """
        Send a request. Return the status and, if the status is 200, the body.

        Raises ProviderBusy or ProviderUnavailable if there is no response, if the body cannot be
        read, or if the status means that another attempt may succeed.
        """
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                response = await self._http.send(request, stream=True)
                try:
                    self._check_status(response, host)
                    if response.status_code != 200:
                        return response.status_code, b""
                    return response.status_code, await _read_body(response, host)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise ProviderUnavailable(
                f"The calendar {host} did not answer within {TIMEOUT_SECONDS:.0f} s."
            ) from None
        # A redirect to an address that is not a valid one causes an InvalidURL or a UnicodeError,
        # although it is not followed.
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ProviderUnavailable(
                f"The calendar {host} cannot be reached ({type(error).__name__})."
            ) from None

    def _check_status(self, response: httpx.Response, host: str) -> None:
        """Raise an error if the status means that another attempt may succeed."""
        status = response.status_code
        sentence = f"The calendar {host} answered {status}."
        retry_after = response.headers.get("Retry-After", "")
        until = parse_retry_after(retry_after, self.clock.now())
        if status == 429 or (status == 503 and until):
            raise ProviderBusy(sentence, until)
        is_empty_success = status < 300 and status != 200
        if may_succeed_later(status) or is_empty_success:
            raise ProviderUnavailable(sentence)


def stored_address(url: str) -> str:
    """Return a calendar's address as it is stored with proofs: without slashes at its end."""
    return url.rstrip("/")


def _split_address(url: str) -> SplitResult:
    """Return the parts of a calendar's address. Raises ConfigurationError if it is unusable."""
    refused = ConfigurationError(
        f"{CALENDARS_SETTING} has an address that cannot be used: it must be http:// or https:// "
        "and a host, without a user name, a query and a fragment."
    )
    if not url.isascii() or not url.isprintable() or set(url) & set(' @?#%\\"'):
        raise refused
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise refused from None
    if not is_usable:
        raise refused
    return parts


def _display_host(uri: str) -> str:
    """Return the part of a URI that names the host, cut to a readable length."""
    return uri.partition("://")[2].partition("/")[0][:100] or "no host"


def _check_answer(message: bytes, body: bytes, host: str) -> tuple[Attestation, ...]:
    """Return the attestations of an answer; raise ProviderUnavailable if it cannot be used."""
    try:
        attestations = parse_answer(message, body)
    except UnusableProof as error:
        raise _unusable(host, str(error)) from None
    is_pending = _has_kind(attestations, AttestationKind.PENDING)
    if not is_pending and not _has_kind(attestations, AttestationKind.BITCOIN):
        raise _unusable(host, "The timestamp has only attestations of an unknown kind.")
    return attestations


def _has_kind(attestations: Iterable[Attestation], kind: AttestationKind) -> bool:
    return any(one.kind == kind for one in attestations)


def _unusable(host: str, reason: str) -> ProviderError:
    return ProviderUnavailable(f"The answer of the calendar {host} cannot be used. {reason}")


async def _read_body(response: httpx.Response, host: str) -> bytes:
    parts = bodies.bounded_parts(
        response.aiter_raw(),
        headers=response.headers,
        max_bytes=MAX_ANSWER_BYTES,
        sender=f"The calendar {host}",
    )
    async with aclosing(parts):
        return b"".join([part async for part in parts])
