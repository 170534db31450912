"""What `serve` and `rehearse` share: the listening socket, and the web server on it."""

import errno
import gc
import signal
import socket
import sys
from contextlib import suppress

import uvicorn

from api.cache import ResponseCache
from api.paths import GRAPHQL
from app.commands.terminal import report
from app.core.settings import Settings
from app.domain import calendar
from app.errors import ConfigurationError
from app.web.timeouts import TimeoutProtocol

# How long one thread may run Python code while the event loop waits for its turn, in seconds. The
# thread that validates documents (`api.fair_executor`) computes without a pause. With Python's
# default, every step of another request would wait 5 ms for it.
SWITCH_INTERVAL = 0.0005

# How long uvicorn waits for running requests when it is stopped, in seconds. After that, the worker
# has its own time to finish its jobs.
LAST_REQUESTS = 10

# How many bytes the system buffers of the responses to one client (Linux takes twice as many). By
# default the buffer can grow to 4 MB for each client that does not read, and the machine may have
# only 512 MB.
SEND_BUFFER = 128 * 1024

# If the port is in use, this many of the next ports are tried. If all of them are in use, too, the
# system chooses a port.
NEXT_PORTS = 19
_CHOSEN_BY_THE_SYSTEM = 0


def listen(configuration: Settings) -> socket.socket:
    """
    Return a socket that listens on HOST and PORT.

    Commands call it before they do anything else. If the port is in use, they then print one clear
    line.
    """
    try:
        return _open_listener(configuration.host, configuration.port)
    except OSError as error:
        raise _refusal(configuration, error) from None


def listen_nearby(configuration: Settings) -> socket.socket:
    """
    Return a socket that listens on PORT, or on the next free port if PORT is in use.

    For a service whose port was not chosen by the operator.
    """
    last = min(configuration.port + NEXT_PORTS, 65535)
    for port in (*range(configuration.port, last + 1), _CHOSEN_BY_THE_SYSTEM):
        try:
            return _open_listener(configuration.host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refusal(configuration, error) from None
    # No port is free. This attempt fails, too, and raises the refusal.
    return listen(configuration)


def _open_listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET
    if ":" in host:
        family = socket.AF_INET6
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # The connections inherit the buffer size of the listening socket.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return listener


def _refusal(configuration: Settings, error: OSError) -> ConfigurationError:
    reason = (error.strerror or str(error)).split(" (while")[0]
    return ConfigurationError(
        f"Cannot listen on {configuration.host} port {configuration.port}: {reason}. "
        f"Set HOST or PORT, for example PORT={configuration.port + 1}."
    )


class WebServer(uvicorn.Server):
    """
    uvicorn's server, which excludes all objects that exist at its start from garbage collections.

    These objects live until the process ends. When collections examined all of them, the requests
    were stopped for 60 ms, every second under load.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server, and exclude all present objects from later garbage collections."""
        # Before the port accepts requests: a full collection takes a tenth of a second.
        collect_and_freeze()
        await super().startup(sockets=sockets)
        # The objects that the start has created also live until the process ends. There are few of
        # them, so this takes milliseconds.
        collect_and_freeze()


def collect_and_freeze() -> None:
    """Collect the present garbage, and exclude all other objects from every later collection."""
    gc.collect()
    gc.freeze()


def run(app: ResponseCache, listener: socket.socket) -> None:
    """Serve `app` on `listener` until Ctrl-C or SIGTERM."""
    server = WebServer(_server_config(app))
    # The handler is set before the address is printed, because the reader of that line may send a
    # signal at once. The handler sets a flag and raises no exception. When uvicorn has stopped, it
    # sends the signal that stopped it to this process again. Then, too, the handler only sets the
    # flag.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    host, port = listener.getsockname()[:2]
    origin = f"http://{host}:{port}"
    report(f"Serving GraphQL at {origin}{GRAPHQL} and pages at {origin} (Ctrl-C stops)")
    # The holidays are loaded before the first request. Otherwise the first request that needs them
    # would load them, and stop all requests for more than 0.1 s.
    calendar.load_holidays()
    sys.setswitchinterval(SWITCH_INTERVAL)
    # uvicorn raises SystemExit if the application's lifespan fails at the start.
    with suppress(SystemExit):
        server.run([listener])
    if not server.started:
        raise ConfigurationError("The service did not start. The log says why.")


def _server_config(app: ResponseCache) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimeoutProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn would trust X-Forwarded-For of every client on this machine. The service has its
        # own rule, see graphql/api/clients.py.
        proxy_headers=False,
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
