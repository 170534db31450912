"""A proxy in front of Postgres that can become silent, or respond in place of Postgres."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


def fatal(state: str, message: str) -> bytes:
    """Return the protocol's error message of a server that refuses a connection."""
    fields = (
        b"".join(part.encode() + b"\0" for part in ("SFATAL", "VFATAL", f"C{state}", f"M{message}"))
        + b"\0"
    )
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


class Proxy:
    """
    A proxy in front of Postgres.

    While `silent` is true, connections stay open, but no data arrives. If `instead` is set, a new
    connection does not lead to Postgres: it receives these bytes and is closed.
    """

    def __init__(self) -> None:
        self.silent = False
        self.instead: bytes | None = None
        self.address = ""
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self, instead: bytes = b"") -> None:
        """End all connections, and send these bytes to new ones."""
        self.instead = instead
        for writer in self._open:
            writer.transport.abort()

    def tell(self, message: bytes) -> None:
        """Send a message to every client, as Postgres does for a notice."""
        for writer in self._open:
            writer.write(message)

    @asynccontextmanager
    async def leading_to(self, database: str) -> AsyncIterator["Proxy"]:
        """Run the proxy in front of a database; `address` is then the proxy's."""
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
            if self.instead is not None:
                if self.instead:
                    await reader.read(65_536)
                    writer.write(self.instead)
                writer.close()
                return
            self._open.add(writer)
            if host.startswith("/"):
                there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                there = await asyncio.open_connection(host, int(port))
            tasks.update(
                {
                    asyncio.create_task(carry(reader, there[1])),
                    asyncio.create_task(carry(there[0], writer)),
                }
            )

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        here = server.sockets[0].getsockname()[1]
        self.address = make_conninfo(database, host="127.0.0.1", port=here, sslmode="disable")
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.05)  # a closed transport ends in a later turn of the loop
