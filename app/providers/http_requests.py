"""
What the clients of plain HTTP servers share: the client of httpx, the errors, and a quiet log.

The addresses of some of these servers contain a password or a key. So no error text of this module
contains an address, and the log lines of the HTTP libraries about a guarded request are suppressed.
Redirects are not followed: a request is sent only to the configured host.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from app.errors import ConfigurationError, ProviderUnavailable

# Besides 5xx, these statuses mean that another attempt may succeed: 408 request timeout, 425 too
# early, 429 too many requests.
_RETRY_STATUSES = (408, 425, 429)

# True while a guarded request runs. A log record of a library does not say which module sent the
# request, so the filter of these libraries' loggers reads this variable.
_is_guarded: ContextVar[bool] = ContextVar("is_guarded", default=False)
for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(lambda _: not _is_guarded.get())


def make_client(timeout_seconds: float, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """Return a client that follows no redirects and stores no cookies."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(timeout_seconds),
        follow_redirects=False,
        headers={"User-Agent": "alpha-monday", **headers},
        # If the client stored a cookie that is not ASCII, every later request would fail.
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


def may_succeed_later(status: int) -> bool:
    """Return whether another attempt may succeed after a response with this status."""
    return status in _RETRY_STATUSES or status >= 500


@asynccontextmanager
async def guarded_request(
    subject: str, setting: str, timeout_seconds: float
) -> AsyncIterator[None]:
    """
    Guard one request, with the reading of its response: its time, its errors and the log.

    `subject` is the name of the server with which an error's sentence begins, and `setting` is the
    name of the setting with its address. Raises ProviderUnavailable if the server cannot be
    reached, or does not answer in time, and ConfigurationError if no request can be sent to the
    address. Other errors pass.
    """
    token = _is_guarded.set(True)
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError:
        raise ProviderUnavailable(
            f"{subject} did not answer within {timeout_seconds:.0f} s."
        ) from None
    except (
        httpx.InvalidURL,
        httpx.UnsupportedProtocol,
        httpx.LocalProtocolError,
        UnicodeError,
    ):
        raise ConfigurationError(
            f"{setting} has an address to which no request can be sent: check it."
        ) from None
    except httpx.HTTPError as error:
        # Only the class is named: the error's own text may contain the address.
        raise ProviderUnavailable(
            f"{subject} cannot be reached ({type(error).__name__})."
        ) from None
    finally:
        _is_guarded.reset(token)
