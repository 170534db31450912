"""What the web server does beside serving: it keeps the garbage collector off what stays to the end."""

import gc
import subprocess
import sys

# In a process of its own: what is frozen here would stay so for all other tests.
PROGRAM = """
import asyncio, gc, uvicorn
from app.commands.server import Server

made = [[number] for number in range(50_000)]

async def app(scope, receive, send):
    opened = [[number] for number in range(70_000)]
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

async def main():
    server = Server(uvicorn.Config(app, port=0, log_config=None))
    server.lifespan = server.config.load() or server.config.lifespan_class(server.config)
    await server.startup()
    print(gc.get_freeze_count(), len(gc.get_objects()))
    await server.shutdown()

asyncio.run(main())
"""


def test_what_stays_is_not_collected():
    """What was there before the start and what the start has opened: of both nothing is left to look through."""
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    frozen, others = map(int, told.stdout.split())
    assert frozen > 120_000
    assert others < 2_000
    assert gc.get_freeze_count() == 0
