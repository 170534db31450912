"""
Outgoing HTTP messages: alerts to a webhook, and requests to a heartbeat monitor.

An address may contain a secret, so each request is guarded (`app.providers.http_requests`): no
error text and no log line has the address. Only the head of a response is read.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import httpx
import msgspec

from app.domain.calendar import Clock
from app.errors import ConfigurationError, ProviderBusy, ProviderUnavailable
from app.providers.http_requests import guarded_request, make_client, may_succeed_later
from app.providers.retry_after import parse_retry_after

TIMEOUT_SECONDS = 10.0


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
            self._http = make_client(TIMEOUT_SECONDS, {})

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
        async with (
            guarded_request(self.setting, self.setting, TIMEOUT_SECONDS),
            self._http.stream(method, self._url, **options) as response,
        ):
            retry_after = response.headers.get("Retry-After", "")
            return self._check_status(response.status_code, retry_after)

    def _check_status(self, status: int, retry_after: str) -> int:
        """Return the status if it means success; otherwise raise the error for that status."""
        if 200 <= status < 300:
            return status
        sentence = f"{self.setting} answered {status}"
        if may_succeed_later(status):
            raise _retryable_error(sentence, parse_retry_after(retry_after, self.clock.now()))
        if 300 <= status < 400:
            raise ConfigurationError(
                f"{sentence}, a redirect, which is not followed: set {self.setting} to the new "
                "address."
            )
        raise ConfigurationError(
            f"{sentence}: the server does not accept the request; check the address."
        )


def _retryable_error(sentence: str, until: datetime | None) -> ProviderBusy | ProviderUnavailable:
    """
    Return the error for a failed request that may succeed later.

    `until` is the time before which the receiver wants no other request, or None.
    """
    if until:
        return ProviderBusy(f"{sentence}.", until)
    return ProviderUnavailable(f"{sentence}.")
