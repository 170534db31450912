"""A free port of loopback, for servers that a tool of `dev/` or a test starts."""

import socket


def free_port() -> int:
    """
    Return a port of loopback on which nothing listens.

    Another process may take it before the caller does. So start a server of ours with PORT=0
    instead.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
