"""A way to Postgres on which nothing arrives when a test says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """A way to Postgres that can fall silent: everything stays connected and nothing arrives."""

    def __init__(self) -> None:
        self.silent = False
        self.address = ""

    @asynccontextmanager
    async def leading_to(self, database: str) -> AsyncIterator["Proxy"]:
        parts = conninfo_to_dict(database)
        host, port = str(parts["host"]), parts.get("port", 5432)
        tasks: set[asyncio.Task[None]] = set()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with suppress(OSError):
                    while data := await reader.read(65_536):
                        if not self.silent:
                            writer.write(data)
            finally:
                writer.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if host.startswith("/"):
                there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                there = await asyncio.open_connection(host, int(port))
            tasks.update({asyncio.create_task(carry(reader, there[1])), asyncio.create_task(carry(there[0], writer))})

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        here = server.sockets[0].getsockname()[1]
        self.address = make_conninfo(database, host="127.0.0.1", port=here)
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.05)  # what is closed goes one turn of the loop later
