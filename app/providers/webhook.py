"""
Whoever is told by HTTP: the receiver of alerts, and the service that waits for heartbeats.

An address may hold a secret, so no text that leaves this module names it, and the libraries' own lines about a request
are not logged. Redirects are not followed: a message goes to the host that was set and to no other. Of an answer only
its head is read.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import MappingProxyType
from typing import Any

import httpx
import msgspec

from app.domain.calendar import Clock
from app.errors import ConfigurationError, ProviderBusy, ProviderUnavailable
from app.providers.retry_after import asked_to_wait

TIME_LIMIT = 10.0

# What asks for another attempt, besides the server's own troubles: a time-out, too early, too many.
_AGAIN = (408, 425, 429)

_ours: ContextVar[bool] = ContextVar("ours", default=False)
for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(lambda _: not _ours.get())


class Receiver:
    """Who listens at the address of `setting`; without an address it is off."""

    def __init__(self, setting: str, url: str, clock: Clock) -> None:
        self.setting, self.on, self._url, self.clock = setting, bool(url), url, clock
        self._http = _client() if url else None

    async def close(self) -> None:
        """Give back the connections."""
        if self._http:
            await self._http.aclose()

    async def post(self, message: Mapping[str, Any], key: str) -> int:
        """
        Send a JSON, with the `key` by which a receiver knows a repeat; return the status of the answer.

        Raises ProviderBusy or ProviderUnavailable if another attempt may succeed, otherwise ConfigurationError.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return await self._send("POST", content=msgspec.json.encode(message), headers=headers)

    async def get(self, marks: Mapping[str, str] = MappingProxyType({})) -> int:
        """Ask for the address itself, with `marks` as headers; otherwise as `post`."""
        return await self._send("GET", headers=marks)

    async def _send(self, method: str, **more: Any) -> int:
        if self._http is None:
            raise ConfigurationError(f"{self.setting} is not set.")
        ours = _ours.set(True)
        try:
            async with asyncio.timeout(TIME_LIMIT), self._http.stream(method, self._url, **more) as answer:
                return self._read(answer.status_code, answer.headers.get("Retry-After", ""))
        except TimeoutError:
            raise ProviderUnavailable(f"{self.setting} did not answer within {TIME_LIMIT:.0f} s.") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError):
            raise ConfigurationError(f"{self.setting} cannot be asked as it stands: check the address.") from None
        except httpx.HTTPError as error:  # its own text may hold the address
            raise ProviderUnavailable(f"{self.setting} cannot be reached ({type(error).__name__}).") from None
        finally:
            _ours.reset(ours)

    def _read(self, status: int, retry_after: str) -> int:
        said = f"{self.setting} answered {status}"
        if 200 <= status < 300:
            return status
        if status in _AGAIN or status >= 500:
            raise _again(said, asked_to_wait(retry_after, self.clock.now()))
        if 300 <= status < 400:
            raise ConfigurationError(f"{said}, a redirect, which is not followed: set it to where that leads.")
        raise ConfigurationError(f"{said}: it does not take what is sent; check the address.")


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=httpx.Timeout(TIME_LIMIT),
        follow_redirects=False,
        headers={"User-Agent": "alpha-monday"},
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


def _again(said: str, until: datetime | None) -> ProviderBusy | ProviderUnavailable:
    return ProviderBusy(f"{said}.", until) if until else ProviderUnavailable(f"{said}.")
