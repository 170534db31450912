"""A web server in the event loop of a test, which ends at once."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn


@asynccontextmanager
async def local_server(config: uvicorn.Config) -> AsyncIterator[tuple[str, int]]:
    """
    Serve an application on a free port, and yield the host and the port.

    The method `serve` of uvicorn takes up to 0.2 seconds to end, because it looks every 0.1 seconds
    whether it should, and then waits for its connections. Here they are closed at once.
    """
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        await server.startup(sockets=[listener])
        # uvicorn's main loop, which does not run here, sets the headers of all responses.
        await server.on_tick(0)
        try:
            yield address
        finally:
            for one in server.servers:
                one.close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            tasks = list(server.server_state.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.lifespan.shutdown()
