"""
A small HTTP/1.1 client over one socket, for the attackers and the reader.

It reads exactly as many bytes as it is asked to, so that a client can also not read.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

HOST = "127.0.0.1"

# The receive buffer of a client that does not read: as small as the kernel allows, so that the
# response stays in the service.
MIN_RECEIVE_BUFFER = 4096

# How many bytes of a body are stored; the rest is read and dropped.
MAX_BODY = 4096

_CODE = re.compile(rb'"code":\s*"([A-Z_]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


class HttpResponse(NamedTuple):
    """A response: its status, its head, the first bytes of its body, and the length of the body."""

    status: int
    head: bytes
    body: bytes
    size: int

    @property
    def outcome(self) -> str:
        """Return the status, with the code of the first GraphQL error if there is one."""
        if match := _CODE.search(self.body):
            return f"{self.status} {match[1].decode()}"
        return str(self.status)


def http_request(method: str, target: str, body: bytes = b"", headers: Iterable[str] = ()) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: attack.test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def query_request(document: str, headers: Iterable[str] = (), **variables: object) -> bytes:
    """Return the bytes of a POST with a GraphQL document."""
    body = json.dumps({"query": document, "variables": variables}).encode()
    return _graphql_request(body, headers)


def persisted_query(sha256: str, **variables: object) -> bytes:
    """Return the bytes of a POST that names a persisted document by its hash."""
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": sha256}}
    return _graphql_request(json.dumps({"extensions": extensions, "variables": variables}).encode())


def _graphql_request(body: bytes, headers: Iterable[str] = ()) -> bytes:
    all_headers = ["Content-Type: application/json", *headers]
    return http_request("POST", "/graphql", body=body, headers=all_headers)


class ConnectionClosed(ConnectionError):
    """The service ended the connection before its response was complete."""


class AttackConnection:
    """One connection to the service."""

    # A plain socket instead of asyncio's streams: those would read ahead into memory, and a client
    # that does not read must leave the response in the service's buffers.

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        # What was received and not used yet.
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        await self._loop.sock_sendall(self.sock, data)

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Read what has arrived, at least one byte. Raises ConnectionClosed at the end."""
        data = await self._loop.sock_recv(self.sock, max_bytes)
        if not data:
            raise ConnectionClosed
        return data

    async def read_response(self) -> HttpResponse:
        """Read one response to its end."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self.read()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        body, size = b"", 0
        # 204 and 304 have no body, even if they have a length.
        if status not in (204, 304):
            body, size = await self._read_body(head)
        return HttpResponse(status=status, head=head, body=body, size=size)

    async def _read_body(self, head: bytes) -> tuple[bytes, int]:
        """Return the first bytes of a body, and its length."""
        if match := _LENGTH.search(head):
            return await self._read_bytes(int(match[1]))
        if _CHUNKED.search(head):
            return await self._read_chunks()
        return b"", 0

    async def _read_bytes(self, length: int) -> tuple[bytes, int]:
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        remaining = length - len(body)
        while remaining:
            data = await self.read(min(remaining, 65536))
            remaining -= len(data)
            if len(body) < MAX_BODY:
                body += data
        return body[:MAX_BODY], length

    async def _read_chunks(self) -> tuple[bytes, int]:
        body, size = b"", 0
        while True:
            while b"\r\n" not in self._buffer:
                self._buffer += await self.read()
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            length = int(line.split(b";")[0], 16)
            # A chunk ends with a line break of its own, two bytes.
            part, _ = await self._read_bytes(length + 2)
            if not length:
                return body[:MAX_BODY], size
            size += length
            if len(body) < MAX_BODY:
                body += part[:length]


@asynccontextmanager
async def open_connection(
    port: int, source: str, buffer: int = 0
) -> AsyncIterator[AttackConnection]:
    """
    Open a connection from the address `source`.

    `buffer` is the size of its receive buffer in bytes; 0 leaves the system's default.
    """
    sock = socket.socket()
    try:
        sock.setblocking(False)
        # Without Nagle's algorithm, whose waits would be measured as the service's.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel fixes the size of the buffer when the connection is made.
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        yield AttackConnection(sock)
    finally:
        sock.close()
