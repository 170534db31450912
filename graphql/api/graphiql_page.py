"""
GraphiQL's page, under a policy that lets nothing in but what this service sends.

What is ours lies in `graphiql/`, where `make graphiql` brings GraphiQL and React from their packages. Where that was
not done, the page names the same bytes on a public CDN, and the policy is widened by that host. The HTML itself says
that GraphiQL is loading, and what to do when it does not come: the page is never empty.
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
from api.persisted import BY_NAME

CDN = "https://cdn.jsdelivr.net"
FOLDER = Path(__file__).parent / "graphiql"
FIRST = "LatestBatch"
LAST = ("Front", "Head", "History", "Monday", "Record", "Chart", "Export", "Feed")  # what we ask ourselves

# Packages' files, in the order in which a browser needs them; they are served, and run, only if their SHA-256 is this.
THEIRS = {
    "graphiql@3.9.0/graphiql.min.css": "vd3VCqxb2w7dg+XIYrov7Z2ylk5MddRlWrYrCn1b1zA=",
    "react@18.3.1/umd/react.production.min.js": "2Unxw2h67a3O2shSYYZfKbF80nOZfn9rK/xTsvnUxN0=",
    "react-dom@18.3.1/umd/react-dom.production.min.js": "NfT5dPSyvNRNpzljNH+JUuNB+DkJ5EmCJ9Tia5j2bw0=",
    "graphiql@3.9.0/graphiql.min.js": "ozCivh0jiUhoQKnQqDR2fZCDoj8QWHng3lTk/Og9NRM=",
}
# The one style that GraphiQL puts into the page: its dialogs stop what lies below from scrolling.
DIALOG = "'sha256-Y/huXlwoYkVyQlxwSVcCi1RCDGDCSVBzDt0hYP9qlTc='"
API = "The API answers without it: send a query to this address, as POST, in JSON."
HELP = {
    True: f"Reload the page to try again. {API}",
    False: (
        f"GraphiQL’s scripts come from {CDN}, which is slow, out of reach or blocked here. On the computer that runs "
        f"the service, <code>make graphiql</code> brings them with npm; restart the service after that. {API}"
    ),
}
MEDIA = {".css": "text/css", ".js": "text/javascript"}
# A file's address changes with its content.
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


class Page(Struct, frozen=True):
    """GraphiQL's page, its headers, and the files it asks for here, by address."""

    html: str
    headers: dict[str, str]
    files: dict[str, bytes]


def page(notice: str = "", packages: Path = FOLDER / "node_modules") -> Page:
    """Return the page that says `notice` above everything else."""
    theirs = _theirs(packages)
    here = bool(theirs)
    (style, css), (start, script) = _ours(FOLDER / "page.css"), _ours(FOLDER / "start.js")
    no_script, no_script_css = _ours(FOLDER / "no_script.css")
    folder = paths.GRAPHIQL_FILES if here else f"{CDN}/npm"
    tags = [_tag(f"{folder}/{name}", digest) for name, digest in THEIRS.items()]
    html = Template((FOLDER / "page.html").read_text()).substitute(
        robots='<meta name="robots" content="noindex">' if notice else "",
        style=_tag(style, _digest(css)),
        without_script=_tag(no_script, _digest(no_script_css)),
        banner=f'<p id="banner" role="note">{escape(notice)}</p>' if notice else "",
        documents=escape(json.dumps(documents())),
        help=HELP[here],
        api=API,
        scripts="\n".join([*tags, _tag(start, _digest(script))]),
    )
    sources = "'self'" if here else f"'self' {CDN}"
    policy = (
        f"default-src 'none'; script-src {sources}; style-src {sources} {DIALOG}; connect-src 'self'; "
        "font-src data:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }
    return Page(html, headers, {**theirs, style: css, no_script: no_script_css, start: script})


def documents() -> dict[str, str]:
    """Return the documents by name: the newest Monday in full, what else people need, and what we ask ourselves."""
    return {name: BY_NAME[name] for name in sorted(BY_NAME, key=lambda name: (name != FIRST, name in LAST, name))}


def route(files: dict[str, bytes]) -> HTTPRouteHandler:
    """Return the handler of the page's files."""

    @handler(list(files), http_method=["GET", "HEAD"], include_in_schema=False, sync_to_thread=False)
    def send(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Send a file, to be kept for good."""
        address = request.scope["path"]
        return Response(files[address], media_type=MEDIA[Path(address).suffix], headers=FOREVER)

    return send


def _theirs(packages: Path) -> dict[str, bytes]:
    """Return the packages' files by address: all of them, or none where one is missing or another version's."""
    found = {}
    for name, digest in THEIRS.items():
        file = packages / re.sub("@[^/]+", "", name)
        if not file.is_file() or _digest(content := file.read_bytes()) != digest:
            return {}
        found[f"{paths.GRAPHIQL_FILES}/{name}"] = content
    return found


def _ours(file: Path) -> tuple[str, bytes]:
    content = file.read_bytes()
    return f"{paths.GRAPHIQL_FILES}/{sha256(content).hexdigest()[:12]}/{file.name}", content


def _digest(content: bytes) -> str:
    return b64encode(sha256(content).digest()).decode()


def _tag(address: str, digest: str) -> str:
    checked = f'="{address}" integrity="sha256-{digest}" crossorigin'
    if address.endswith(".css"):
        return f'<link rel="stylesheet" href{checked}>'
    return f"<script defer src{checked}></script>"
