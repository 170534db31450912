"""
The service as `alpha-monday serve` starts it, in one process, without its worker and without keys.

    DATABASE_URL=postgresql:///record python dev/bench/serve.py --port 8080 --uncached
"""

import argparse
import os
from typing import Any

from app.commands import server
from app.core import settings
from app.main import create_app


def make_service(*, cached: bool) -> Any:
    """
    Return the service, with or without its response cache.

    Only this function knows that the cache wraps the application.
    """
    configuration = settings.load({"DATABASE_URL": os.environ["DATABASE_URL"]})
    service: Any = create_app(configuration, work=False)
    has_cache = type(service).__module__ == "api.cache"
    if cached and not has_cache:
        raise SystemExit("This version has no response cache.")
    if has_cache and not cached:
        return service.app
    return service


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--uncached",
        dest="cached",
        action="store_false",
        help="Answer every request without the response cache.",
    )
    options = parser.parse_args()
    listener = server.listen(settings.load({"PORT": str(options.port)}))
    server.run(make_service(cached=options.cached), listener)
