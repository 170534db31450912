"""The files of timestamps: the bytes as they were stored, and a clear 404 where there are none."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from api_records import plant

from tests.integration.api.test_cache import Service, living

# The entry that `plant` stamps first: its token, its promise and its proof of a block.
STAMPED = 3
AT = datetime(2026, 1, 5, 14, 5, tzinfo=UTC)


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant(database)
    async with living(database) as service:
        yield service


@pytest.mark.parametrize(
    ("name", "media_type", "content"),
    [
        ("tsr", "application/timestamp-reply", b"proof of 2026-01-05 14:04:00+00:00"),
        ("ots", "application/vnd.opentimestamps.v1", b"proof of 2026-01-05 14:04:00+00:00"),
        ("pem", "application/pem-certificate-chain", b"a chain\n"),
    ],
)
async def test_a_file(service, name, media_type, content):
    """The file is what is stored, for another site's page, too, and has an ETag."""
    path = f"/timestamps/{STAMPED}.{name}"
    answer = await service.client.get(path)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == media_type
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    disposition = f'attachment; filename="alpha-monday-{STAMPED}.{name}"'
    assert answer.headers["content-disposition"] == disposition
    again = await service.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await service.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(content))


async def add(database: str, kind: str, status: str, proof: bytes, **row: object) -> None:
    """Store one more timestamp of the first stamped entry."""
    with psycopg.connect(database) as conn:
        (hash,) = conn.execute("SELECT hash FROM journal WHERE seq = %s", [STAMPED]).fetchone()
        values = {
            "id": uuid4(), "seq": STAMPED, "hash": hash, "kind": kind, "status": status,
            "at": AT, "received_at": AT, "proof": proof, **row,
        }  # fmt: skip
        places = ", ".join(["%s"] * len(values))
        conn.execute(
            f"INSERT INTO timestamps ({', '.join(values)}) VALUES ({places})",
            list(values.values()),
        )


async def test_several_authorities(service, database):
    """The newest proof is sent, or the one of the host that the address names."""
    commit = add(
        database, "RFC3161", "CONFIRMED", b"newer", authority="https://other.example:8443/x",
        accuracy_seconds=1, nonce="1", chain="their chain",
    )  # fmt: skip
    await service.notices(commit)

    async def content(query: str) -> bytes:
        return (await service.client.get(f"/timestamps/{STAMPED}.tsr{query}")).content

    assert await content("") == b"newer"
    assert await content("?authority=other.example") == b"newer"
    assert (await content("?authority=tsa.example")).startswith(b"proof of")
    chain = await service.client.get(f"/timestamps/{STAMPED}.pem?authority=other.example")
    assert chain.content == b"their chain"
    refused = await service.client.get(f"/timestamps/{STAMPED}.tsr?authority=nobody.example")
    assert refused.status_code == 404
    assert refused.json()["errors"][0]["message"] == (
        f"Entry {STAMPED} of the journal has no RFC 3161 timestamp of the host nobody.example. "
        "It has one of other.example, tsa.example."
    )


async def test_a_complete_proof_is_sent_before_a_newer_promise(service, database):
    """A pending proof of another calendar is newer, but proves nothing yet."""
    commit = add(
        database, "OPENTIMESTAMPS", "PENDING", b"newer", authority="https://b.pool.example",
        received_at=AT + timedelta(days=1),
    )  # fmt: skip
    await service.notices(commit)
    assert (await service.client.get(f"/timestamps/{STAMPED}.ots")).content.startswith(b"proof of")
    answer = await service.client.get(f"/timestamps/{STAMPED}.ots?authority=b.pool.example")
    assert answer.content == b"newer"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2.tsr", "Entry 2 of the journal has no RFC 3161 timestamp."),
        ("2.ots", "Entry 2 of the journal has no OpenTimestamps proof."),
        ("999999999999999999.pem", "Entry 999999999999999999 of the journal has no RFC 3161"),
        ("0.tsr", "The file of a timestamp is named after its entry of the journal"),
        ("03.tsr", "The file of a timestamp is named after its entry of the journal"),
        ("-1.tsr", "The file of a timestamp is named after its entry of the journal"),
        ("3.txt", "and ends in .tsr, .ots or .pem."),
        ("9999999999999999999.tsr", "The file of a timestamp is named"),
        ("latest", "The file of a timestamp is named"),
    ],
)
async def test_what_has_no_file(service, name, message):
    """The answer is 404, and says why."""
    answer = await service.client.get(f"/timestamps/{name}")
    assert answer.status_code == 404
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == "NOT_FOUND"
    assert message in error["message"]
