"""
A real Postgres that a container can reach.

It is TEST_DATABASE_URL's server, or a temporary one on a port of loopback.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database import sessions
from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "bench"))
import data
from ports import free_port

BATCHES = 52


@contextmanager
def running_server() -> Iterator[str]:
    """Yield the address of a server, over TCP."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    port = str(free_port())
    settings = {**FAST_SETTINGS, "listen_addresses": "127.0.0.1", "port": port}
    with (
        tempfile.TemporaryDirectory(prefix="am-image-") as folder,
        EmbeddedPostgres(Path(folder), settings),
    ):
        yield make_conninfo(host="127.0.0.1", port=port, user="postgres", dbname="postgres")


@contextmanager
def temporary_database(server: str) -> Iterator[str]:
    """Yield the address of an empty database, which is dropped at the end."""
    name = f"am_image_{uuid4().hex[:8]}"
    with sessions.connect(server, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    try:
        yield make_conninfo(**{**conninfo_to_dict(server), "dbname": name})
    finally:
        with sessions.connect(server, autocommit=True) as conn:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill_database(address: str) -> None:
    """Write a year of invented Mondays into a migrated database."""
    with sessions.connect(address, autocommit=True) as conn:
        data.write(conn, BATCHES)
