"""
Size limits for response bodies from other servers, enforced while a body is read.

A client library reads a whole body, and decompresses it without a limit. It decodes the body of an
error response with any charset that the response's header names. One megabyte of gzip took 6.2 GB
of memory, and `charset=zlib` decompresses a body a second time. So every body passes through
`bounded_parts` before a library or our own code reads it. The limit applies to the bytes on the
wire, and also to the decompressed bytes.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Mapping

from app.errors import BodyTooLong, ProviderUnavailable

# Request headers: we ask for an uncompressed body. Bodies are small, and a compressed one could
# decompress to any size.
HEADERS = {"Accept-Encoding": "identity"}

# Some servers and proxies compress a body in spite of this header. Python's own zlib decompresses
# these methods. All other methods (br, zstd) are refused, because they need more libraries.
_DEFLATE_CODINGS = ("gzip", "x-gzip", "deflate")
# With this value, zlib detects by the first bytes of a body whether its format is gzip or zlib.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32

# In bytes: a part of a body counts as at least this many bytes. A server can send every byte as a
# separate chunk, and even the smallest chunk costs some 30 µs of CPU. So the limit of bytes also
# limits the CPU time of a body. A server that sends its answer token by token stays far below the
# limit.
_MIN_PART_SIZE = 32
# After this many parts of a body, the event loop runs other tasks. Otherwise parts that arrived
# together would be processed without a pause.
_PARTS_PER_TURN = 64


async def bounded_parts(
    parts: AsyncIterable[bytes], headers: Mapping[str, str], max_bytes: int, sender: str
) -> AsyncGenerator[bytes]:
    """
    Yield the parts of a body as they arrive, decompressed.

    `sender` is the name with which an error's sentence begins. Raises BodyTooLong for a body of
    more than `max_bytes` bytes, compressed or decompressed. Raises ProviderUnavailable for a body
    that is damaged or compressed with an unsupported method.
    """
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", *_DEFLATE_CODINGS):
        # The error does not quote the header: it could contain anything, a key too.
        raise ProviderUnavailable(
            f"{sender} compressed its answer in a way that was not asked for."
        )
    decompressor = None
    if coding in _DEFLATE_CODINGS:
        decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    too_long = BodyTooLong(
        f"{sender} answered with more than {max_bytes:,} bytes; the rest was not read."
    )

    received = yielded = count = 0
    async for part in parts:
        received += max(len(part), _MIN_PART_SIZE)
        count += 1
        if received > max_bytes:
            raise too_long
        if count % _PARTS_PER_TURN == 0:
            await asyncio.sleep(0)

        if decompressor is not None:
            # Bytes after the end of the compressed data are not passed to the decompressor: it
            # would collect them in memory.
            if decompressor.eof:
                continue
            # Decompress at most one byte more than the limit allows, not the whole part.
            try:
                part = decompressor.decompress(part, max_bytes - yielded + 1)
            except zlib.error:
                raise ProviderUnavailable(
                    f"{sender} answered with a body that is not {coding}."
                ) from None
        yielded += len(part)
        if yielded > max_bytes:
            raise too_long
        if part:
            yield part

    if decompressor is not None and not decompressor.eof:
        raise ProviderUnavailable(f"{sender} answered with a body that ends within its {coding}.")
