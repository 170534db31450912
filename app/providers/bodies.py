"""
Bodies of responses from outside, bounded while they are read.

A client library reads a body whole, decompresses it without a limit, and decodes an error's text by whatever charset
its header names: one megabyte of gzip was 6.2 GB of memory, and `charset=zlib` inflates a body once more. So no body
gets to a library, or to us, but through here. What counts is both what came over the wire and what it became.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Mapping

from app.errors import BodyTooLong, ProviderUnavailable

# What we ask for. Bodies are small, and a compressed one could be any size.
HEADERS = {"Accept-Encoding": "identity"}

# Servers and proxies that compress all the same use one of these; the header's other names need libraries.
_DEFLATE = ("gzip", "x-gzip", "deflate")
# Both the formats that these names stand for, told apart by their first bytes.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32

# In bytes: what a part of a body counts at least. A server can send each byte as a chunk of its own, and a chunk costs
# some 30 µs however small it is: this bounds a body's time, too. A server that sends token by token stays far below.
_LEAST_PART = 32
# After so many parts others have their turn: parts that arrived together are given without a pause.
_TURN = 64


async def bounded(
    parts: AsyncIterable[bytes], headers: Mapping[str, str], most: int, sender: str
) -> AsyncGenerator[bytes]:
    """
    Give the parts of a body as they arrive, decompressed.

    `sender` is the subject of an error's sentence. Raises BodyTooLong for a body of more than `most` bytes, as it comes
    or decompressed, and ProviderUnavailable for one that is compressed in a way that is not read.
    """
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", *_DEFLATE):
        # Not named: the header could hold anything, a key too.
        raise ProviderUnavailable(f"{sender} compressed its answer in a way that was not asked for.")
    inflate = zlib.decompressobj(_GZIP_OR_ZLIB) if coding in _DEFLATE else None
    too_long = BodyTooLong(f"{sender} answered with more than {most:,} bytes; the rest was not read.")
    came = given = count = 0
    async for part in parts:
        came += max(len(part), _LEAST_PART)
        count += 1
        if came > most:
            raise too_long
        if count % _TURN == 0:
            await asyncio.sleep(0)
        if inflate is not None and inflate.eof:
            continue  # nothing is read behind the end, where the decompressor would keep it
        if inflate is not None:
            # One byte more than may come: never all that the part could become.
            try:
                part = inflate.decompress(part, most - given + 1)
            except zlib.error:
                raise ProviderUnavailable(f"{sender} answered with a body that is not {coding}.") from None
        given += len(part)
        if given > most:
            raise too_long
        if part:
            yield part
    if inflate is not None and not inflate.eof:
        raise ProviderUnavailable(f"{sender} answered with a body that ends within its {coding}.")
