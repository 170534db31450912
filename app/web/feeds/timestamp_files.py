"""
`/timestamps/SEQ.tsr`, `.ots` and `.pem`: the proof of an entry of the journal as a file.

`openssl ts -verify` reads the first, `ots verify` the second; docs/journal.md has the commands. The
third has the certificates that verify the first. If several services have stamped the entry,
`?authority=HOST` selects one of them.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Request, Response, route
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from api.engine import Engine, GraphQLResult, error_result
from api.fields import api_error
from app.web.refusals import error_response
from app.web.routes import TIMESTAMP_FILE

_NAME = re.compile(r"([1-9][0-9]{0,17})\.(tsr|ots|pem)")

# The rows of an entry begin after the last row that the entry before it can have. There are as many
# as there are services, or twice as many for OpenTimestamps.
_PAGE_SIZE = 20
_LAST_ID = UUID(int=2**128 - 1)
_DOCUMENT = f"""
query TimestampFiles($after: String) {{
  timestamps(first: {_PAGE_SIZE}, after: $after) {{
    nodes {{ seq kind status authority receivedAt proof chain }}
    pageInfo {{ hasNextPage endCursor }}
  }}
}}"""

AnyRequest = Request[Any, Any, Any]
Node = Mapping[str, Any]


class FileType(Struct, frozen=True):
    """A kind of file: the kind of the timestamps that have it, its media type, and its name."""

    kind: str
    media_type: str
    label: str


FILE_TYPES = {
    "tsr": FileType("RFC3161", "application/timestamp-reply", "RFC 3161 timestamp"),
    "ots": FileType("OPENTIMESTAMPS", "application/vnd.opentimestamps.v1", "OpenTimestamps proof"),
    "pem": FileType("RFC3161", "application/pem-certificate-chain", "RFC 3161 timestamp"),
}


class _ReadError(Exception):
    """The API answered with an error; `result` is its response."""

    def __init__(self, result: GraphQLResult) -> None:
        super().__init__(result.error_code)
        self.result = result


def timestamp_file_route(engine: Engine) -> HTTPRouteHandler:
    """Return the handler of the files of timestamps."""

    @route(
        TIMESTAMP_FILE.litestar_path,
        http_method=TIMESTAMP_FILE.methods,
        include_in_schema=False,
    )
    async def send(request: AnyRequest) -> Response[bytes]:
        """Send the newest proof of an entry, or the reason why there is none."""
        match = _NAME.fullmatch(request.path_params["name"])
        if not match:
            return _not_found(
                request,
                "The file of a timestamp is named after its entry of the journal, as in "
                f"{TIMESTAMP_FILE.url(name='812.tsr')}, and ends in .tsr, .ots or .pem.",
            )
        seq, ending = int(match[1]), match[2]
        host = request.query_params.get("authority", "")
        try:
            nodes = await _read_nodes(engine, seq)
        except _ReadError as error:
            return error_response(request, error.result)
        file_type = FILE_TYPES[ending]
        fitting = [
            node
            for node in nodes
            if node["kind"] == file_type.kind and host in ("", host_of(node["authority"]))
        ]
        if not fitting:
            return _not_found(request, _missing_text(seq, file_type, host=host, nodes=nodes))
        content = _content(_newest(fitting), ending)
        return Response(content, media_type=file_type.media_type, headers=_headers(seq, ending))

    return send


def host_of(address: str) -> str:
    """Return the host of a service's address, by which the files select an authority."""
    return urlsplit(address).hostname or address


def _headers(seq: int, ending: str) -> dict[str, str]:
    return {
        "Cache-Control": "no-cache",
        "Content-Disposition": f'attachment; filename="alpha-monday-{seq}.{ending}"',
        # Pages of other sites may check the proof.
        "Cross-Origin-Resource-Policy": "cross-origin",
    }


def _newest(nodes: Sequence[Node]) -> Node:
    """Return the newest of the complete proofs, or the newest of all if none is complete."""
    return max(nodes, key=lambda node: (node["status"] == "CONFIRMED", node["receivedAt"]))


def _content(node: Node, ending: str) -> bytes:
    if ending == "pem":
        return str(node["chain"]).encode()
    return b64decode(node["proof"])


async def _read_nodes(engine: Engine, seq: int) -> list[Node]:
    """Return the timestamps of one entry. Raises _ReadError if the API answers with an error."""
    after = b64encode(f"{seq - 1} {_LAST_ID}".encode()).decode()
    nodes: list[Node] = []
    has_more = True
    while has_more:
        result = await engine.execute(_DOCUMENT, {"after": after})
        if result.error_code or result.damage:
            raise _ReadError(result)
        page = msgspec.json.decode(result.body)["data"]["timestamps"]
        of_entry = [node for node in page["nodes"] if node["seq"] == str(seq)]
        nodes += of_entry
        has_more = page["pageInfo"]["hasNextPage"] and len(of_entry) == _PAGE_SIZE
        after = page["pageInfo"]["endCursor"]
    return nodes


def _missing_text(seq: int, file_type: FileType, *, host: str, nodes: Sequence[Node]) -> str:
    """Return the sentence about an entry that has no such file."""
    text = f"Entry {seq} of the journal has no {file_type.label}"
    if host:
        text += f" of the host {host[:100]}"
    hosts = sorted({host_of(node["authority"]) for node in nodes if node["kind"] == file_type.kind})
    if host and hosts:
        return f"{text}. It has one of {', '.join(hosts)}."
    return f"{text}. The field `timestamps` of the API lists the entries that have one."


def _not_found(request: AnyRequest, text: str) -> Response[bytes]:
    return error_response(request, error_result(api_error("NOT_FOUND", text)))
