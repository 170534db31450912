"""
The limit: an ASGI application that sends the same bytes for the same request and does nothing else.

    python dev/bench/raw.py --port 8080 latest=http://127.0.0.1:8081/graphql,latest.json

posts the file once, and from then on answers `/latest` with the status, headers and body that came, under the same
uvicorn as the service's. It does not even read what it is asked.
"""

import argparse
from pathlib import Path
from typing import Any

import httpx
import uvicorn

NOT_OURS = {"date", "server", "connection"}  # uvicorn's own


def sends(answers: dict[str, httpx.Response]) -> Any:
    """Return the application."""
    messages = {
        f"/{name}": (
            {
                "type": "http.response.start",
                "status": answer.status_code,
                "headers": [pair for pair in answer.headers.raw if pair[0].decode().lower() not in NOT_OURS],
            },
            {"type": "http.response.body", "body": answer.content},
        )
        for name, answer in answers.items()
    }

    async def app(scope: Any, _: Any, send: Any) -> None:
        start, body = messages[scope["path"]]
        await send(start)
        await send(body)

    return app


def asked(what: str) -> tuple[str, httpx.Response]:
    """Return the name of a request and what its server answers."""
    name, _, rest = what.partition("=")
    url, _, file = rest.partition(",")
    return name, httpx.post(url, content=Path(file).read_bytes(), headers={"Content-Type": "application/json"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("asked", nargs="+", metavar="NAME=URL,FILE")
    given = parser.parse_args()
    uvicorn.run(
        sends(dict(map(asked, given.asked))), port=given.port, lifespan="off", log_config=None, access_log=False,
        server_header=False, loop="uvloop", http="httptools",
    )  # fmt: skip
