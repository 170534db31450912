"""
The service as `alpha-monday serve` starts it, in one process, but without its worker and without keys.

    DATABASE_URL=postgresql:///record python dev/bench/serve.py --port 8080 --uncached
"""

import argparse
import os
from typing import Any

from app.commands import server
from app.core import settings
from app.main import create_app


def wired(*, cached: bool) -> Any:
    """Return the service with its kept answers in front, or without them: the one place that knows how it is wired."""
    service: Any = create_app(settings.load({"DATABASE_URL": os.environ["DATABASE_URL"]}), work=False)
    in_front = type(service).__module__ == "api.cache"
    if cached and not in_front:
        raise SystemExit("Answers are not kept yet.")
    return service.app if in_front and not cached else service


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uncached", dest="cached", action="store_false", help="Answer everything anew.")
    asked = parser.parse_args()
    listener = server.listen(settings.load({"PORT": str(asked.port)}))
    server.run(wired(cached=asked.cached), listener)
