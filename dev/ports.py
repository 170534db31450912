"""A free port of loopback, for what is started by a tool of `dev/` or by a test."""

import socket


def free_port() -> int:
    """
    Return a port of loopback on which nothing listens.

    Another process may take it before the caller does. A server of ours is rather started with PORT=0.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
