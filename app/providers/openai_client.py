"""
The client of the OpenAI library, with bounded bodies.

Imported when the first question is asked: the library takes 1.5 seconds and 50 MB.
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
    The body of a response, bounded, in place of the one that the library would read whole.

    Of an error only its beginning is given where it cannot be read whole: its status says more than its body.
    """

    def __init__(self, response: httpx2.Response, most: int, sender: str) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._stream = response.stream
        self._parts = bodies.bounded(self._stream, dict(response.headers), most, sender)
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


def client(key: str, base_url: str, timeout: float, most: int, sender: str) -> openai.AsyncOpenAI:
    """Return a client that reads at most `most` bytes of a body, of a success and of an error alike."""

    async def bound(response: httpx2.Response) -> None:
        response.stream = _BoundedStream(response, most, sender)
        # Decompressed by the stream. And the text of an error is UTF-8 whatever charset is named: among Python's are
        # some that decompress, and some that take a time that grows with the square of a text.
        response.headers.pop("content-encoding", None)
        response.encoding = "utf-8"

    return openai.AsyncOpenAI(
        api_key=key,
        base_url=base_url or None,
        max_retries=0,
        timeout=timeout,
        default_headers=bodies.HEADERS,
        http_client=openai.DefaultAsyncHttpxClient(
            follow_redirects=False,  # elsewhere is not who was asked
            # A cookie that is not ASCII would be kept, and every later request fail with it.
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            # A hook sees a response before its body is read. (A transport of our own would do without the proxies of
            # the environment.)
            event_hooks={"response": [bound]},
        ),
    )
