"""Clients that send bytes to a server, each on its own connection."""

import socket
from contextlib import suppress
from urllib.parse import urlsplit


def connected(address: str, source: str = "", buffer: int = 0) -> socket.socket:
    """Connect to a server, from a source address, with a receive buffer of so many bytes."""
    url = urlsplit(address)
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    if source:
        client.bind((source, 0))
    client.settimeout(30)
    client.connect((url.hostname, url.port))
    return client


def rest_of(client: socket.socket) -> bytes:
    """Return everything that is received until the connection ends."""
    received = b""
    with suppress(ConnectionError):
        while data := client.recv(65_536):
            received += data
    return received
