"""What a reader is shown of a record: by `alpha-monday verify`, by the API and by the pages."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from api_records import FACTS, engine_on
from commands import CommandResult, without_place
from msgspec import Struct
from msgspec.structs import replace
from openssl_program import accepts
from record_server import record_server
from served_pages import find_one, pages_on, parse_page, visible_text

from app.database import pools
from app.domain.rfc3161 import read_roots, verify_response

Commanded = Callable[..., CommandResult]

_SERVICE = "{ service { rehearsed origin recordId sealed lostAnswers } }"
# A process that knows nothing of a rehearsal.
_LIVE_FACTS = replace(FACTS, rehearsed=False)


class Kept(Struct, frozen=True):
    """
    What a reader keeps of a record: its id, its head, and a token of an authority as it was served.

    `root` is the root certificate of the authority, and `seq` and `hash` are those of the stamped
    entry.
    """

    record_id: str
    head: str
    seq: int
    hash: str
    token: bytes
    root: bytes


def words_of(result: CommandResult) -> str:
    """Return all that a command says, without the line that names its database."""
    return result.output + without_place(result.error)


async def verify(commanded: Commanded, address: str, *arguments: object) -> CommandResult:
    """Run `alpha-monday verify` on a database."""
    return await asyncio.to_thread(commanded, "verify", *arguments, DATABASE_URL=address)


async def verify_served(commanded: Commanded, address: str, *arguments: object) -> CommandResult:
    """Serve the record of a database, and run `alpha-monday verify --from` on its address."""
    async with record_server(address) as url:
        return await asyncio.to_thread(commanded, "verify", "--from", url, *arguments)


async def service(address: str) -> dict[str, object]:
    """Return what the API says of a record, served by a process that calls it live."""
    return (await answer(address, _SERVICE))["service"]


async def answer(address: str, query: str) -> dict:
    """Return the data that the API answers to a query."""
    async with pools.opened(pools.make_pool(address, max_size=2)) as pool:
        result = json.loads((await engine_on(pool, _LIVE_FACTS).execute(query)).body)
    assert "errors" not in result, result
    return result["data"]


async def page(address: str, path: str) -> str:
    """Return the text of a page, served by a process that calls the record live."""
    async with (
        pools.opened(pools.make_pool(address, max_size=2)) as pool,
        pages_on(pool) as browser,
    ):
        response = await browser.get(path)
    assert response.status_code == 200
    return visible_text(find_one(parse_page(response), "body"))


async def keep(address: str) -> Kept:
    """Return what a reader keeps of a record: among it, the newest token with its files."""
    data = await answer(
        address,
        "{ service { recordId journalHead { seq hash } } "
        "timestamps(first: 100) { nodes { seq hash kind } } }",
    )
    head = data["service"]["journalHead"]
    newest = [one for one in data["timestamps"]["nodes"] if one["kind"] == "RFC3161"][-1]
    async with (
        pools.opened(pools.make_pool(address, max_size=2)) as pool,
        pages_on(pool) as browser,
    ):
        token = await browser.get(f"/timestamps/{newest['seq']}.tsr")
        chain = await browser.get(f"/timestamps/{newest['seq']}.pem")
    marker = b"-----BEGIN CERTIFICATE-----"
    return Kept(
        record_id=data["service"]["recordId"],
        head=f"{head['seq']}:{head['hash']}",
        seq=int(newest["seq"]),
        hash=newest["hash"],
        token=token.content,
        root=marker + chain.content.rpartition(marker)[2],
    )


async def token_fits(address: str, kept: Kept, folder: Path) -> bool:
    """
    Return whether openssl accepts a kept token for the entry of its number, as it is served now.

    An entry that the journal does not have any more does not fit.
    """
    data = await answer(
        address, f'{{ journal(first: 1, after: "{_cursor(kept.seq - 1)}") {{ nodes {{ hash }} }} }}'
    )
    entries = data["journal"]["nodes"]
    if not entries:
        return False
    stamp = verify_response(
        kept.token, data_hash=kept.hash, nonce=None, roots=read_roots(kept.root)
    )
    return accepts(
        kept.token, data_hash=entries[0]["hash"], root=kept.root, at=stamp.gen_time, cwd=folder
    )


def _cursor(seq: int) -> str:
    """Return the cursor after an entry."""
    return b64encode(str(seq).encode()).decode()
