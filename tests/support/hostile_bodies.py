"""
Responses of a hostile provider. They are generated while they are sent, so that neither side ever
has a whole one in memory.
"""

import bz2
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

from provider_server import Reply

HEAD = b"HTTP/1.1 %d X\r\nContent-Type: application/json%b\r\n"
PART = 65_536


def sent(parts: Callable[[], Iterable[bytes]]) -> Reply:
    """A reply of these bytes, and nothing else."""
    return Reply(raw=parts)


def plain(size: int, status: int = 200, fill: bytes = b" ", more: bytes = b"") -> Reply:
    """A body of so many bytes, with its length; `more` are headers."""

    def parts() -> Iterator[bytes]:
        yield HEAD % (status, b"") + more + b"Content-Length: %d\r\n\r\n" % size
        yield from (fill * PART for _ in range(size // PART))
        yield fill * (size % PART)

    return sent(parts)


def whole(body: bytes, status: int = 400) -> Reply:
    """A body with its length."""

    def parts() -> Iterator[bytes]:
        yield HEAD % (status, b"") + b"Content-Length: %d\r\n\r\n" % len(body)
        yield body

    return sent(parts)


def endless(status: int = 200, part: bytes = b" " * PART, more: bytes = b"") -> Reply:
    """A chunked body without an end, in chunks of `part`; `more` are headers."""

    def parts() -> Iterator[bytes]:
        yield HEAD % (status, b"") + more + b"Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%b\r\n" % (len(part), part)
        several = chunk * max(1, PART // len(chunk))
        while True:
            yield several

    return sent(parts)


def compressed(size: int, coding: bytes = b"gzip", status: int = 200, times: int = 1) -> Reply:
    """A body of so many spaces when it is decompressed, compressed as it goes, `times` over."""
    bits = {b"gzip": 31, b"deflate": 15}.get(coding.split(b",")[0].strip(), 31)

    def parts() -> Iterator[bytes]:
        yield (
            HEAD % (status, b"")
            + b"Content-Encoding: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % coding
        )
        packers = [zlib.compressobj(9, zlib.DEFLATED, bits) for _ in range(times)]
        for _ in range(size // PART):
            yield from _chunk(_packed(packers, b" " * PART))
        rest = b""
        for packer in packers:
            rest = packer.compress(rest) + packer.flush()
        yield from _chunk(rest)
        yield b"0\r\n\r\n"

    return sent(parts)


def _packed(packers: list, data: bytes) -> bytes:
    for packer in packers:
        data = packer.compress(data)
    return data


def _chunk(data: bytes) -> Iterator[bytes]:
    if data:
        yield b"%x\r\n%b\r\n" % (len(data), data)


def of_charset(charset: bytes, size: int, status: int = 400) -> Reply:
    """An error whose charset is one of Python's codecs that decompress, or that take long."""

    def parts() -> Iterator[bytes]:
        # Compressed only when it is sent: compressing 900 MB takes seconds, also where no test is
        # run.
        packed = _encoded(charset, size)
        yield (
            HEAD % (status, b"; charset=" + charset)
            + b"Content-Length: %d\r\n\r\n" % len(packed)
            + packed
        )

    return sent(parts)


@cache
def _encoded(charset: bytes, size: int) -> bytes:
    packers = {b"zlib": partial(zlib.compressobj, 9), b"bz2": bz2.BZ2Compressor}
    if charset not in packers:
        return b"a-" + b"b" * size
    packer = packers[charset]()
    # In parts: what is sent may not cost the memory that is measured.
    packed = [packer.compress(b" " * PART) for _ in range(size // PART)]
    return b"".join([*packed, packer.compress(b" " * (size % PART)), packer.flush()])


def endless_headers(line: bytes = b"X-More: and more\r\n") -> Reply:
    """A head without an end: header after header, or one header if `line` holds no line feed."""

    def parts() -> Iterator[bytes]:
        yield HEAD % (200, b"")
        several = line * (PART // len(line))
        while True:
            yield several

    return sent(parts)


def interim(count: int | None, last: bytes = b"") -> Reply:
    """So many interim responses (without an end: None), and then `last`."""
    one = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    def parts() -> Iterator[bytes]:
        left = count
        while left is None or left > 0:
            many = 1000 if left is None else min(left, 1000)
            yield one * many
            left = None if left is None else left - many
        yield last

    return sent(parts)


def trailers(body: bytes) -> Reply:
    """A chunked body whose trailer has no end."""

    def parts() -> Iterator[bytes]:
        yield HEAD % (200, b"") + b"Transfer-Encoding: chunked\r\n\r\n"
        yield b"%x\r\n%b\r\n0\r\n" % (len(body), body)
        while True:
            yield b"X-More: and more\r\n" * 3000

    return sent(parts)
