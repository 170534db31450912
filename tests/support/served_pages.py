"""Serve the pages of a record without the rest of the service, and find elements in them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
from api_records import engine_on
from httpx import Response
from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.testing import AsyncTestClient

from api.http import routes
from app.database import pools
from app.web.feeds.atom import feed_route
from app.web.feeds.timestamp_files import timestamp_file_route
from app.web.pages.site import Site

NOTICE = "Rehearsed: made up."
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@asynccontextmanager
async def pages_on(
    pool: pools.Pool, notice: str = "", **options: Any
) -> AsyncIterator[AsyncTestClient]:
    """Give a client of the pages and the API of a record."""
    engine = engine_on(pool)
    site = Site(engine, notice)
    app = Litestar(
        [
            *routes(engine, notice),
            *site.routes(),
            feed_route(engine, "", rehearsed=bool(notice)),
            timestamp_file_route(engine),
        ],
        exception_handlers={
            HTTPException: site.respond_to_http_error,
            Exception: site.respond_to_failure,
        },
        openapi_config=None,
        logging_config=None,
    )
    async with AsyncTestClient(app, base_url="http://testserver.local", **options) as client:
        client.headers.update(BROWSER)
        yield client


def parse_page(page: Response) -> Element:
    """Return the elements of a page; fail if it is not valid HTML."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(page.text)


def visible_text(element: Element) -> str:
    """Return the text of an element in one line."""
    return " ".join("".join(element.itertext()).split())


def find_one(page: Element, tag: str, **attributes: str) -> Element:
    """
    Return the only element of a kind with these attributes; `class_` may be one of several
    classes.
    """
    (element,) = find_all(page, tag, **attributes)
    return element


def find_all(page: Element, tag: str, **attributes: str) -> list[Element]:
    """Return all elements of a kind with these attributes."""
    return [
        element
        for element in page.iter(tag)
        if all(_has(element, *pair) for pair in attributes.items())
    ]


def _has(element: Element, name: str, value: str) -> bool:
    actual = element.get(name.rstrip("_").replace("_", "-"), "")
    return value in actual.split() if name == "class_" else value == actual
