"""
GraphiQL's page, and the Content-Security-Policy with which it is sent.

Our own files are in `graphiql/`, where `make graphiql` also puts GraphiQL and React from their
packages. The policy allows only scripts and styles that this service sends. If the packages are
missing, the page loads the files of the packages from a public CDN, and the policy also allows that
host. The HTML itself says that GraphiQL is loading, and what to do if it does not load: the page is
never empty.
"""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from litestar import Request, Response
from litestar import route as handler
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from api import paths
from api.persisted import PUBLIC_DOCUMENTS

CDN = "https://cdn.jsdelivr.net"
FOLDER = Path(__file__).parent / "graphiql"
# The documents of the first tabs, in their order: what most people look for.
FIRST_DOCUMENTS = ("LatestBatch", "AllSeries", "TrackRecord", "Comparison", "OneSeries")

# The files of packages, in the order in which a browser must load them, each with its SHA-256. The
# service sends a file, and a browser executes it, only if the file has this SHA-256.
PACKAGE_FILES = {
    "graphiql@3.9.0/graphiql.min.css": "vd3VCqxb2w7dg+XIYrov7Z2ylk5MddRlWrYrCn1b1zA=",
    "react@18.3.1/umd/react.production.min.js": "2Unxw2h67a3O2shSYYZfKbF80nOZfn9rK/xTsvnUxN0=",
    "react-dom@18.3.1/umd/react-dom.production.min.js": (
        "NfT5dPSyvNRNpzljNH+JUuNB+DkJ5EmCJ9Tia5j2bw0="
    ),
    "graphiql@3.9.0/graphiql.min.js": "ozCivh0jiUhoQKnQqDR2fZCDoj8QWHng3lTk/Og9NRM=",
}
# The only inline style of GraphiQL: while a dialog is open, the page behind it does not scroll.
DIALOG_STYLE_HASH = "'sha256-Y/huXlwoYkVyQlxwSVcCi1RCDGDCSVBzDt0hYP9qlTc='"
# "It" is GraphiQL: the page shows this sentence only after a sentence about GraphiQL.
API_HINT = "The API answers without it: send a query to this address, as POST, in JSON."
# What the page says if GraphiQL does not load. True: the service sends the files of the packages.
# False: the CDN sends them.
HELP = {
    True: f"Reload the page to try again. {API_HINT}",
    False: (
        f"GraphiQL’s scripts come from {CDN}, which is slow, unreachable or blocked. On the "
        "computer that runs the service, <code>make graphiql</code> installs them with npm; then "
        f"restart the service. {API_HINT}"
    ),
}
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
# The address of a file contains its version or its hash, so its content never changes.
IMMUTABLE_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable"}


class GraphiQLPage(Struct, frozen=True):
    """GraphiQL's page, its headers, and the files that the service sends for it, by address."""

    html: str
    headers: dict[str, str]
    files: dict[str, bytes]


def build_page(notice: str = "", packages: Path = FOLDER / "node_modules") -> GraphiQLPage:
    """Return the page; it shows `notice` above everything else."""
    package_files = _read_package_files(packages)
    has_packages = bool(package_files)
    style, css = _read_own_file(FOLDER / "page.css")
    start, script = _read_own_file(FOLDER / "start.js")
    no_script, no_script_css = _read_own_file(FOLDER / "no_script.css")
    folder = paths.GRAPHIQL_FILES if has_packages else f"{CDN}/npm"
    tags = [_tag(f"{folder}/{name}", digest) for name, digest in PACKAGE_FILES.items()]
    html = Template((FOLDER / "page.html").read_text()).substitute(
        robots='<meta name="robots" content="noindex">' if notice else "",
        style=_tag(style, _digest(css)),
        without_script=_tag(no_script, _digest(no_script_css)),
        banner=f'<p id="banner" role="note">{escape(notice)}</p>' if notice else "",
        documents=escape(json.dumps(documents())),
        help=HELP[has_packages],
        api=API_HINT,
        scripts="\n".join([*tags, _tag(start, _digest(script))]),
    )
    headers = {
        "Content-Security-Policy": _policy("'self'" if has_packages else f"'self' {CDN}"),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }
    files = {**package_files, style: css, no_script: no_script_css, start: script}
    return GraphiQLPage(html, headers, files)


def _policy(sources: str) -> str:
    """Return the Content-Security-Policy of the page, with scripts and styles from `sources`."""
    return (
        f"default-src 'none'; script-src {sources}; style-src {sources} {DIALOG_STYLE_HASH}; "
        "connect-src 'self'; font-src data:; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def documents() -> dict[str, str]:
    """
    Return the documents of `graphql/operations` by name, in the order of GraphiQL's tabs.

    The documents of the pages (`graphql/operations/pages`) have no tab: they only help the service.
    """
    others = sorted(PUBLIC_DOCUMENTS.keys() - {*FIRST_DOCUMENTS})
    return {name: PUBLIC_DOCUMENTS[name] for name in (*FIRST_DOCUMENTS, *others)}


def route(files: dict[str, bytes]) -> HTTPRouteHandler:
    """Return the handler of the page's files."""

    @handler(
        list(files), http_method=["GET", "HEAD"], include_in_schema=False, sync_to_thread=False
    )
    def send(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Send a file, which browsers may cache for ever."""
        address = request.scope["path"]
        return Response(
            files[address],
            media_type=MEDIA_TYPES[Path(address).suffix],
            headers=IMMUTABLE_HEADERS,
        )

    return send


def _read_package_files(packages: Path) -> dict[str, bytes]:
    """
    Return the files of the packages by address.

    If one of these files is missing or has a wrong SHA-256, the result is empty. The page then
    loads all of them from the CDN.
    """
    files = {}
    for name, digest in PACKAGE_FILES.items():
        # npm's folders have no version in their names.
        file = packages / re.sub("@[^/]+", "", name)
        if not file.is_file():
            return {}
        content = file.read_bytes()
        if _digest(content) != digest:
            return {}
        files[f"{paths.GRAPHIQL_FILES}/{name}"] = content
    return files


def _read_own_file(file: Path) -> tuple[str, bytes]:
    """Return the address and the content of a file of ours. The address has the content's hash."""
    content = file.read_bytes()
    return f"{paths.GRAPHIQL_FILES}/{sha256(content).hexdigest()[:12]}/{file.name}", content


def _digest(content: bytes) -> str:
    return b64encode(sha256(content).digest()).decode()


def _tag(address: str, digest: str) -> str:
    """Return the HTML element that loads a style or a script, checked by its SHA-256."""
    checked = f'="{address}" integrity="sha256-{digest}" crossorigin'
    if address.endswith(".css"):
        return f'<link rel="stylesheet" href{checked}>'
    return f"<script defer src{checked}></script>"
