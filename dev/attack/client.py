"""A small HTTP/1.1 client over one socket, for the attackers and the reader: it reads exactly as much as it is told."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

HOST = "127.0.0.1"

# The receive buffer of a client that does not read: as small as the kernel allows, so that the answer stays with the
# service.
SMALLEST_BUFFER = 4096

# How much of an answer is kept; the rest is read and thrown away.
KEPT = 4096

_CODE = re.compile(rb'"code":\s*"([A-Z_]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


class Answer(NamedTuple):
    """A response: its status, its head, the first bytes of its body, and how long the body was."""

    status: int
    head: bytes
    body: bytes
    size: int

    @property
    def outcome(self) -> str:
        """Return the status, with the code of the first GraphQL error if there is one."""
        found = _CODE.search(self.body)
        return f"{self.status} {found[1].decode()}" if found else str(self.status)


def request(method: str, target: str, body: bytes = b"", headers: Iterable[str] = ()) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: attack.test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def query(document: str, headers: Iterable[str] = (), **variables: object) -> bytes:
    """Return the bytes of a POST that asks a GraphQL document."""
    body = json.dumps({"query": document, "variables": variables}).encode()
    return request("POST", "/graphql", body, ["Content-Type: application/json", *headers])


def persisted(sha256: str, **variables: object) -> bytes:
    """Return the bytes of a POST that asks a document by its hash."""
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": sha256}}
    body = json.dumps({"extensions": extensions, "variables": variables}).encode()
    return request("POST", "/graphql", body, ["Content-Type: application/json"])


class Closed(ConnectionError):
    """The service ended the connection before its answer was there."""


class Connection:
    """One connection to the service."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await self._loop.sock_sendall(self.sock, data)

    async def read(self, most: int = 65536) -> bytes:
        """Read what is there, at least one byte; raise Closed at the end."""
        data = await self._loop.sock_recv(self.sock, most)
        if not data:
            raise Closed
        return data

    async def answer(self) -> Answer:
        """Read one response to its end."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self.read()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        self._buffer = rest
        status = int(head.split(b" ", 2)[1])
        if status in (204, 304):
            return Answer(status, head, b"", 0)
        if found := _LENGTH.search(head):
            return Answer(status, head, *await self._counted(int(found[1])))
        if _CHUNKED.search(head):
            return Answer(status, head, *await self._chunks())
        return Answer(status, head, b"", 0)

    async def _counted(self, length: int) -> tuple[bytes, int]:
        kept, self._buffer = self._buffer[:length], self._buffer[length:]
        left = length - len(kept)
        while left:
            data = await self.read(min(left, 65536))
            left -= len(data)
            if len(kept) < KEPT:
                kept += data
        return kept[:KEPT], length

    async def _chunks(self) -> tuple[bytes, int]:
        kept, size = b"", 0
        while True:
            while b"\r\n" not in self._buffer:
                self._buffer += await self.read()
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            length = int(line.split(b";")[0], 16)
            part, _ = await self._counted(length + 2)  # with the end of its line
            if not length:
                return kept[:KEPT], size
            size += length
            if len(kept) < KEPT:
                kept += part[:length]


@asynccontextmanager
async def connected(port: int, source: str, buffer: int = 0) -> AsyncIterator[Connection]:
    """Open a connection from the address `source`; `buffer` is the size of its receive buffer in bytes."""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        yield Connection(sock)
    finally:
        sock.close()
