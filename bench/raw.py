"""
The limit that a kept answer is measured against: an ASGI application that sends the same bytes and does nothing else.

    python bench/raw.py http://127.0.0.1:8080/graphql?query=... 8081

asks once, and serves what it got (status, headers, body) to whoever asks, under the same uvicorn as the service's.
"""

import sys
from typing import Any

import httpx
import uvicorn


def sends(answer: httpx.Response) -> Any:
    """Return the application."""
    ours = {"date", "server", "connection"}  # uvicorn's own
    start = {
        "type": "http.response.start",
        "status": answer.status_code,
        "headers": [pair for pair in answer.headers.raw if pair[0].decode().lower() not in ours],
    }
    body = {"type": "http.response.body", "body": answer.content}

    async def app(scope: Any, _: Any, send: Any) -> None:
        await send(start)
        await send(body)

    return app


if __name__ == "__main__":
    app = sends(httpx.get(sys.argv[1]))
    uvicorn.run(
        app, port=int(sys.argv[2]), lifespan="off", log_config=None, access_log=False, server_header=False,
        loop="uvloop", http="httptools",
    )  # fmt: skip
