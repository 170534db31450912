"""
The upper limit: an ASGI application that sends stored bytes for each path and does nothing else.

    python dev/bench/raw.py --port 8080 latest=http://127.0.0.1:8081/graphql,latest.json

posts the file once, and then answers `/latest` with the status, headers and body of that response,
under the same uvicorn as the service's. It does not read the requests.
"""

import argparse
from pathlib import Path
from typing import Any

import httpx
import uvicorn

# Headers that uvicorn adds itself.
UVICORN_HEADERS = {"date", "server", "connection"}


def make_app(responses: dict[str, httpx.Response]) -> Any:
    """Return the application that sends `responses`, each at the path of its name."""
    messages = {f"/{name}": _to_messages(response) for name, response in responses.items()}

    # As little work as an ASGI application can do.
    async def app(scope: Any, _: Any, send: Any) -> None:
        start, body = messages[scope["path"]]
        await send(start)
        await send(body)

    return app


def _to_messages(response: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a response as the two messages of ASGI."""
    headers = [
        pair for pair in response.headers.raw if pair[0].decode().lower() not in UVICORN_HEADERS
    ]
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    return start, {"type": "http.response.body", "body": response.content}


def fetch_response(argument: str) -> tuple[str, httpx.Response]:
    """Return the name in an argument NAME=URL,FILE, and the response to a POST of the file."""
    name, _, rest = argument.partition("=")
    url, _, file = rest.partition(",")
    headers = {"Content-Type": "application/json"}
    return name, httpx.post(url, content=Path(file).read_bytes(), headers=headers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("requests", nargs="+", metavar="NAME=URL,FILE")
    options = parser.parse_args()
    uvicorn.run(
        make_app(dict(map(fetch_response, options.requests))),
        port=options.port,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        loop="uvloop",
        http="httptools",
    )
