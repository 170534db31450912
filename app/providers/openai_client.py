"""
The OpenAI library's client, with bounded response bodies.

This module is imported when the first question is sent: importing the library takes 1.5 seconds and
50 MB.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2
import openai

from app.errors import ProviderUnavailable
from app.providers import bodies


class _BoundedStream(httpx2.AsyncByteStream):
    """
    The body of a response, limited in its length; it replaces the stream of the library.

    If the body is too long or damaged, reading it raises ProviderUnavailable. An error response is
    a special case: its body ends early and nothing is raised, because its status matters more than
    its body.
    """

    def __init__(self, response: httpx2.Response, max_bytes: int, sender: str) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._stream = response.stream
        self._parts = bodies.bounded_parts(
            self._stream, headers=dict(response.headers), max_bytes=max_bytes, sender=sender
        )
        self._is_error = response.is_error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._parts) as parts:
                async for part in parts:
                    yield part
        except ProviderUnavailable:
            if not self._is_error:
                raise

    async def aclose(self) -> None:
        await self._stream.aclose()


def make_client(
    *, key: str, base_url: str, timeout: float, max_bytes: int, sender: str
) -> openai.AsyncOpenAI:
    """
    Return a client that reads at most `max_bytes` bytes of any response body.

    `timeout` is in seconds. `sender` is the name with which an error's sentence begins, for example
    "The model's provider".
    """

    async def limit_body(response: httpx2.Response) -> None:
        response.stream = _BoundedStream(response, max_bytes, sender)
        # The stream has decompressed the body, so the library must not do it again.
        response.headers.pop("content-encoding", None)
        # The text of an error is always read as UTF-8, even if the response names another charset.
        # Some of Python's charsets decompress a text, and some need a time that grows with the
        # square of its length.
        response.encoding = "utf-8"

    return openai.AsyncOpenAI(
        api_key=key,
        base_url=base_url or None,
        max_retries=0,
        timeout=timeout,
        default_headers=bodies.HEADERS,
        http_client=openai.DefaultAsyncHttpxClient(
            # A redirect would lead to a server that is not in the settings.
            follow_redirects=False,
            # Cookies are not stored. If the client stored a cookie that is not ASCII, every later
            # request would fail.
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            # A hook gets a response before its body is read. (With a transport instead of a hook,
            # the library would ignore the proxies of the environment.)
            event_hooks={"response": [limit_body]},
        ),
    )
