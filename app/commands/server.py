"""What `serve` and `rehearse` share: the listening socket, and the web server on it."""

import errno
import gc
import signal
import socket
from contextlib import suppress

import uvicorn

from api.cache import Cache
from api.paths import GRAPHQL
from app.commands.terminal import say
from app.core.settings import Settings
from app.errors import ConfigurationError
from app.web.timeouts import TimeoutProtocol

# What uvicorn waits for requests when told to stop; the worker then has its own time to drain.
LAST_REQUESTS = 10

# How many ports after the one that is in use are tried before the system chooses one.
NEXT_PORTS = 19
_CHOSEN_BY_THE_SYSTEM = 0


def listen(configuration: Settings) -> socket.socket:
    """Take the port before anything else is done, so that a taken one is one clear line."""
    try:
        return _open(configuration.host, configuration.port)
    except OSError as error:
        raise _refusal(configuration, error) from None


def listen_nearby(configuration: Settings) -> socket.socket:
    """Take the port, or the next free one if it is in use: for a service whose port was not chosen."""
    last = min(configuration.port + NEXT_PORTS, 65535)
    for port in (*range(configuration.port, last + 1), _CHOSEN_BY_THE_SYSTEM):
        try:
            return _open(configuration.host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refusal(configuration, error) from None
    return listen(configuration)  # nothing is free: refuse with the reason


def _open(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _refusal(configuration: Settings, error: OSError) -> ConfigurationError:
    reason = (error.strerror or str(error)).split(" (while")[0]
    return ConfigurationError(
        f"Cannot listen on {configuration.host} port {configuration.port}: {reason}. "
        f"Set HOST or PORT, for example PORT={configuration.port + 1}."
    )


def run(app: Cache, listener: socket.socket) -> None:
    """Serve `app` on `listener` until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        app,
        http=TimeoutProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    server = uvicorn.Server(config)
    # From before the address is told: whoever reads it may send a signal at once. It sets a flag and raises nothing,
    # not even when uvicorn, drained, raises the signal once more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    host, port = listener.getsockname()[:2]
    origin = f"http://{host}:{port}"
    say(f"Serving GraphQL at {origin}{GRAPHQL} and pages at {origin} (Ctrl-C stops)")
    # What is there by now stays to the end; looking through it stopped all requests for 60 ms, every second under load.
    gc.collect()
    gc.freeze()
    with suppress(SystemExit):  # uvicorn's word for a service that did not start
        server.run([listener])
    if not server.started:
        raise ConfigurationError("The service did not start; the log says why.")
