"""The web server excludes long-lived objects from garbage collections."""

import gc
import subprocess
import sys

# In a separate process: objects that are frozen here would stay frozen for all other tests.
PROGRAM = """
import asyncio, gc, uvicorn
from app.commands.server import WebServer

made = [[number] for number in range(50_000)]

async def app(scope, receive, send):
    opened = [[number] for number in range(70_000)]
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

async def main():
    server = WebServer(uvicorn.Config(app, port=0, log_config=None))
    server.lifespan = server.config.load() or server.config.lifespan_class(server.config)
    await server.startup()
    print(gc.get_freeze_count(), len(gc.get_objects()))
    await server.shutdown()

asyncio.run(main())
"""


def test_lasting_objects_are_not_collected():
    """Objects that existed before the start, and those that the start created, are all excluded."""
    before = gc.get_freeze_count()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    frozen, others = map(int, done.stdout.split())
    assert frozen > 120_000
    assert others < 2_000
    # Frozen objects of the tests may be deleted meanwhile, but none is added.
    assert gc.get_freeze_count() <= before
