"""What `serve` and `rehearse` share: the listening socket, and the web server on it."""

import errno
import gc
import signal
import socket
import sys
from contextlib import suppress

import uvicorn

from api.cache import Cache
from api.paths import GRAPHQL
from app.commands.terminal import say
from app.core.settings import Settings
from app.domain import calendar
from app.errors import ConfigurationError
from app.web.timeouts import TimeoutProtocol

# How long a thread may keep the interpreter from the event loop, in seconds: the one that validates documents
# (`api.turns`) computes without a pause. Python's 5 ms would be added to every step of a request.
SWITCH_INTERVAL = 0.0005

# What uvicorn waits for requests when told to stop; the worker then has its own time to drain.
LAST_REQUESTS = 10

# What the system keeps of what was sent to one client, in bytes (Linux takes twice as many). Without a limit it is 4 MB
# for each client that does not read, and the machine may have 512 MB.
SEND_BUFFER = 128 * 1024

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
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # its connections inherit it
    return listener


def _refusal(configuration: Settings, error: OSError) -> ConfigurationError:
    reason = (error.strerror or str(error)).split(" (while")[0]
    return ConfigurationError(
        f"Cannot listen on {configuration.host} port {configuration.port}: {reason}. "
        f"Set HOST or PORT, for example PORT={configuration.port + 1}."
    )


class Server(uvicorn.Server):
    """
    uvicorn's server, which keeps out of the garbage collector what the process has when it begins to serve.

    All of it stays to the end, and to look through it stopped all requests for 60 ms, every second under load.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and let the collector look only at what comes after."""
        # Before the port answers: a full collection takes a tenth of a second.
        keep_all()
        await super().startup(sockets=sockets)
        # What the start has opened and imported stays, too, and is little: this takes milliseconds.
        keep_all()


def keep_all() -> None:
    """Collect the garbage that there is, and keep all other objects out of every later collection."""
    gc.collect()
    gc.freeze()


def run(app: Cache, listener: socket.socket) -> None:
    """Serve `app` on `listener` until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        app,
        http=TimeoutProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn would believe X-Forwarded-For of every client on this machine. See graphql/api/clients.py.
        proxy_headers=False,
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    server = Server(config)
    # From before the address is told: whoever reads it may send a signal at once. It sets a flag and raises nothing,
    # not even when uvicorn, drained, raises the signal once more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    host, port = listener.getsockname()[:2]
    origin = f"http://{host}:{port}"
    say(f"Serving GraphQL at {origin}{GRAPHQL} and pages at {origin} (Ctrl-C stops)")
    calendar.load()
    sys.setswitchinterval(SWITCH_INTERVAL)
    with suppress(SystemExit):  # uvicorn's word for a service that did not start
        server.run([listener])
    if not server.started:
        raise ConfigurationError("The service did not start; the log says why.")
