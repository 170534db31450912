"""
Outgoing HTTP messages: alerts to a webhook, and requests to a heartbeat monitor.

An address may contain a secret. So no error text of this module contains the address, and the log
lines of the HTTP libraries about these messages are suppressed. Redirects are not followed: a
message is sent only to the configured host. Only the head of a response is read.
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
from app.providers.retry_after import parse_retry_after

TIMEOUT_SECONDS = 10.0

# Besides 5xx, these statuses mean that another attempt may succeed: 408 request timeout, 425 too
# early, 429 too many requests.
_RETRY_STATUSES = (408, 425, 429)

# True while a request of this module runs. A log record of a library does not say which module sent
# the request, so the filter of these libraries' loggers reads this variable.
_is_our_request: ContextVar[bool] = ContextVar("ours", default=False)
for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(lambda _: not _is_our_request.get())


class WebhookReceiver:
    """
    The server at the address that one setting contains.

    `setting` is the name of the setting, for error texts, and `url` is the address. If `url` is
    empty, nothing can be sent, and `is_configured` is False.
    """

    def __init__(self, setting: str, url: str, clock: Clock) -> None:
        self.setting = setting
        self.is_configured = bool(url)
        self.clock = clock
        self._url = url
        self._http: httpx.AsyncClient | None = None
        if url:
            self._http = _make_client()

    async def close(self) -> None:
        """Close the connections."""
        if self._http:
            await self._http.aclose()

    async def post(self, message: Mapping[str, Any], key: str) -> int:
        """
        Send `message` as JSON, and return the status of the response.

        The receiver recognises a repeated message by its `key`, the header `Idempotency-Key`.
        Raises ProviderBusy or ProviderUnavailable if another attempt may succeed, otherwise
        ConfigurationError.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return await self._send("POST", content=msgspec.json.encode(message), headers=headers)

    async def get(self, headers: Mapping[str, str] = MappingProxyType({})) -> int:
        """
        Send a GET request with `headers`, and return the status of the response.

        Raises the same errors as `post`.
        """
        return await self._send("GET", headers=headers)

    async def _send(self, method: str, **options: Any) -> int:
        if self._http is None:
            raise ConfigurationError(f"{self.setting} is not set.")
        token = _is_our_request.set(True)
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._http.stream(method, self._url, **options) as response,
            ):
                retry_after = response.headers.get("Retry-After", "")
                return self._check_status(response.status_code, retry_after)
        except TimeoutError:
            raise ProviderUnavailable(
                f"{self.setting} did not answer within {TIMEOUT_SECONDS:.0f} s."
            ) from None
        except (
            httpx.InvalidURL,
            httpx.UnsupportedProtocol,
            httpx.LocalProtocolError,
            UnicodeError,
        ):
            raise ConfigurationError(
                f"{self.setting} has an address to which no request can be sent: check it."
            ) from None
        except httpx.HTTPError as error:
            # Only the class is named: the error's own text may contain the address.
            raise ProviderUnavailable(
                f"{self.setting} cannot be reached ({type(error).__name__})."
            ) from None
        finally:
            _is_our_request.reset(token)

    def _check_status(self, status: int, retry_after: str) -> int:
        """Return the status if it means success; otherwise raise the error for that status."""
        if 200 <= status < 300:
            return status
        sentence = f"{self.setting} answered {status}"
        if status in _RETRY_STATUSES or status >= 500:
            raise _retryable_error(sentence, parse_retry_after(retry_after, self.clock.now()))
        if 300 <= status < 400:
            raise ConfigurationError(
                f"{sentence}, a redirect, which is not followed: set {self.setting} to the new "
                "address."
            )
        raise ConfigurationError(
            f"{sentence}: the server does not accept the request; check the address."
        )


def _make_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=httpx.Timeout(TIMEOUT_SECONDS),
        follow_redirects=False,
        headers={"User-Agent": "alpha-monday"},
        # Cookies are not stored. If the client stored a cookie that is not ASCII, every later
        # request would fail.
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


def _retryable_error(sentence: str, until: datetime | None) -> ProviderBusy | ProviderUnavailable:
    """
    Return the error for a failed request that may succeed later.

    `until` is the time before which the receiver wants no other request, or None.
    """
    if until:
        return ProviderBusy(f"{sentence}.", until)
    return ProviderUnavailable(f"{sentence}.")
