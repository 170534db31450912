"""`alpha-monday verify` and timestamps: what fits, and what is a discrepancy of `timestamp`."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from api_records import plant
from commands import command
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from record_server import record_server, without_triggers

from app.commands import terminal
from app.database import migrations
from app.domain import opentimestamps, rfc3161
from app.domain.timestamps import Timestamp, TimestampKind, TimestampStatus
from app.domain.verification.stamps import StampVerifier
from app.errors import Discrepancy
from app.ops import verify
from app.ops.verify_stamps import HashedSource, verify_stamps
from app.simulation import timestamp_calendar
from app.simulation.timestamp_authority import SimulatedAuthority

AT = datetime(2026, 1, 5, 14, 4, 10, tzinfo=UTC)
DATA = b"previous\ncontent"
HASH = sha256(DATA).hexdigest()
AUTHORITY = SimulatedAuthority()
OTHER = SimulatedAuthority()


def token(data: bytes = DATA, authority: SimulatedAuthority = AUTHORITY, **row: Any) -> Timestamp:
    """Return a token of an authority for entry 7."""
    request = rfc3161.make_request(data)
    response = authority.stamp(request.encoded, AT)
    stamp = rfc3161.verify_response(
        response,
        data_hash=request.data_hash,
        nonce=request.nonce,
        roots=rfc3161.read_roots(authority.root_pem),
    )
    values = {
        "id": uuid4(), "seq": 7, "hash": request.data_hash, "kind": TimestampKind.RFC3161,
        "status": TimestampStatus.CONFIRMED, "authority": "https://tsa.example", "at": AT,
        "accuracy_seconds": stamp.accuracy_seconds, "received_at": AT,
        "nonce": str(request.nonce), "proof": response, "chain": stamp.chain_pem,
    }  # fmt: skip
    return Timestamp(**{**values, **row})


def promise(digest: str = HASH, *, complete: bool = False, **row: Any) -> Timestamp:
    """Return a proof of OpenTimestamps for entry 7, pending or complete."""
    file = _file(bytes.fromhex(digest), complete=complete)
    block = opentimestamps.parse(file).block
    values = {
        "id": uuid4(), "seq": 7, "hash": digest, "kind": TimestampKind.OPENTIMESTAMPS,
        "status": TimestampStatus.CONFIRMED if complete else TimestampStatus.PENDING,
        "authority": "https://a.pool.example", "at": AT, "received_at": AT, "proof": file,
        "block_height": block.height if block else None,
    }  # fmt: skip
    return Timestamp(**{**values, **row})


def _file(digest: bytes, *, complete: bool) -> bytes:
    scope = {"type": "http", "server": ("127.0.0.1", 80), "headers": []}
    post = {**scope, "method": "POST", "path": "/calendar/digest"}
    _, reply = timestamp_calendar.answer(post, digest, AT)
    file = opentimestamps.pending_file(digest, reply.body)
    if not complete:
        return file
    (pending,) = opentimestamps.parse(file).pending
    get = {**scope, "method": "GET"}
    get["path"] = f"/calendar/timestamp/{pending.commitment.hex()}"
    _, reply = timestamp_calendar.answer(get, b"", AT + timedelta(days=1))
    return opentimestamps.upgraded_file(file, pending.commitment, reply.body)


def test_what_fits():
    """A token, a promise and a complete proof are counted, and the block is named."""
    roots = rfc3161.read_roots(AUTHORITY.root_pem)
    for verifier in (StampVerifier({7: HASH}, roots), StampVerifier({7: HASH})):
        complete = promise(complete=True)
        other = promise(authority="https://b.pool.example")
        of_api = replace(token(), authority="https://b.example", nonce=None)
        for stamp in (token(), of_api, other, complete):
            verifier.check(stamp)
        assert (verifier.tokens, verifier.pending, verifier.count) == (2, 1, 4)
        (block,) = verifier.blocks
        assert (block.seq, block.height) == (7, complete.block_height)
        expected = opentimestamps.parse(complete.proof).block
        assert expected
        assert block.merkle_root == expected.merkle_root


@pytest.mark.parametrize("completes", [(False, True), (True, False)])
def test_a_promise_that_was_kept(completes):
    """A pending proof is not counted as pending if the calendar's complete one is there, too."""
    verifier = StampVerifier({7: HASH})
    for complete in completes:
        verifier.check(promise(complete=complete))
    assert (verifier.pending, len(verifier.blocks), verifier.count) == (0, 1, 2)


def promise_of(uri: bytes) -> Timestamp:
    """Return a pending proof that names one URI."""
    payload = bytes([len(uri)]) + uri
    attestation = b"\0" + opentimestamps.PENDING + bytes([len(payload)]) + payload
    head = opentimestamps.MAGIC + opentimestamps.VERSION + opentimestamps.SHA256
    return replace(promise(), proof=head + bytes.fromhex(HASH) + attestation)


MISFITS = {
    "another hash than the entry": (lambda: token(b"rewritten"), "but the entry has"),
    "no such entry": (lambda: replace(token(), seq=8), "which? |that the journal does not have"),
    "another proof": (
        lambda: replace(token(), proof=token(b"rewritten").proof),
        "does not verify",
    ),
    "another root": (lambda: token(authority=OTHER), "does not verify"),
    "another time": (lambda: replace(token(), at=AT - timedelta(hours=1)), "but its proof says"),
    "another accuracy": (
        lambda: replace(token(), accuracy_seconds=Decimal(9)),
        "but its proof has",
    ),
    "another nonce": (lambda: replace(token(), nonce="1"), "does not verify"),
    "a token that is pending": (
        lambda: replace(token(), status=TimestampStatus.PENDING),
        "but its proof is complete",
    ),
    "a nonce in other digits": (
        lambda: token(nonce="00"),
        "its nonce is another one",
    ),
    "a nonce that is no number": (lambda: replace(token(), nonce="x"), "its nonce is another one"),
    "a token in a block": (lambda: replace(token(), block_height=7), "which no token does"),
    "a token that came before its time": (
        lambda: replace(token(), received_at=AT - timedelta(minutes=6)),
        "received at 2026-01-05 13:58:10.* before its time",
    ),
    "a token without an accuracy": (
        lambda: replace(token(), accuracy_seconds=None),
        "but its proof has",
    ),
    "a token with bytes after it": (
        lambda: replace(token(nonce=None), proof=token().proof + b"x"),
        "does not verify",
    ),
    "a token as a promise": (
        lambda: replace(token(), kind=TimestampKind.OPENTIMESTAMPS),
        "as only a token has",
    ),
    "a promise as a token": (
        lambda: replace(promise(), kind=TimestampKind.RFC3161),
        "does not verify",
    ),
    "a promise with an accuracy": (
        lambda: replace(promise(), accuracy_seconds=Decimal(1)),
        "as only a token has",
    ),
    "a promise with certificates": (lambda: replace(promise(), chain="x"), "as only a token has"),
    "a promise with a nonce": (lambda: replace(promise(), nonce="7"), "as only a token has"),
    "a promise of another time": (
        lambda: replace(promise(), at=AT - timedelta(hours=1)),
        "but it was received at",
    ),
    "a promise that names a block": (
        lambda: replace(promise(), block_height=7),
        "is pending, but names block 7",
    ),
    "a complete proof as a promise": (
        lambda: replace(promise(complete=True), status=TimestampStatus.PENDING, block_height=None),
        "is pending, but leads into block",
    ),
    "a proof with bytes after it": (
        lambda: replace(promise(), proof=promise().proof + b"x"),
        "1 byte too many",
    ),
    "a promise of no calendar": (lambda: promise_of(b"file:///etc/passwd"), "names no calendar"),
    "a promise without an address": (lambda: promise_of(b""), "attestation without a URI"),
    "no service": (lambda: replace(token(), authority=""), "does not name its service"),
    "no token": (lambda: replace(token(), proof=b"<html>"), "does not verify"),
    "no proof": (lambda: replace(promise(), proof=b"<html>"), "cannot be read"),
    "a proof of another hash": (
        lambda: replace(promise(), proof=promise("ab" * 32).proof),
        "proves another hash",
    ),
    "another block": (
        lambda: replace(promise(complete=True), block_height=1),
        "does not lead into block 1",
    ),
    "a promise as a proof": (
        lambda: replace(promise(), status=TimestampStatus.CONFIRMED, block_height=1),
        "does not lead into block 1",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit(name):
    """Each is a discrepancy of the rule `timestamp` that names the entry."""
    make, text = MISFITS[name]
    verifier = StampVerifier({7: HASH}, rfc3161.read_roots(AUTHORITY.root_pem))
    with pytest.raises(Discrepancy, match=text) as refused:
        verifier.check(make())
    assert str(refused.value).endswith("(rule: timestamp)")
    assert "\n" not in str(refused.value)


def other_chains() -> dict[str, str]:
    """Return chains that are not the one of the token."""
    chain = token().chain or ""
    end = "-----END CERTIFICATE-----\n"
    signer, root = [f"{one}{end}" for one in chain.split(end)[:-1]]
    return {
        "another order": root + signer,
        "the signer twice": signer + chain,
        "the root twice": chain + root,
        "the root alone": root,
        "another root behind": chain + OTHER.root_pem.decode(),
        "another root before": OTHER.root_pem.decode() + chain,
        "another authority": token(authority=OTHER).chain or "",
        "a text before": f"A text.\n{chain}",
        "a text behind": f"{chain}A text.\n",
    }


@pytest.mark.parametrize("is_pinned", [False, True])
@pytest.mark.parametrize("name", other_chains())
def test_the_chain_of_a_token(name, is_pinned):
    """The file `.pem` has the certificates of the token and no others, with or without a root."""
    roots = rfc3161.read_roots(AUTHORITY.root_pem) if is_pinned else None
    verifier = StampVerifier({7: HASH}, roots)
    with pytest.raises(Discrepancy, match="does not verify"):
        verifier.check(token(chain=other_chains()[name]))


def test_a_hash_that_was_added_later():
    """Entries that an API adds while it is read are not verified, so any text can be their hash."""
    for added in ("", "zz", HASH.upper(), HASH[:-1], HASH + "\n"):
        verifier = StampVerifier({7: added}, rfc3161.read_roots(AUTHORITY.root_pem))
        with pytest.raises(Discrepancy, match="is not 64 lower-case hexadecimal digits"):
            verifier.check(replace(token(), hash=added))


@pytest.mark.parametrize("make", [token, promise, lambda: promise(complete=True)])
def test_a_proof_that_is_stored_twice(make):
    """A service has one proof of an entry, or one pending and one complete."""
    verifier = StampVerifier({7: HASH})
    verifier.check(make())
    with pytest.raises(Discrepancy, match="is in the record twice"):
        verifier.check(make())


def store(database: str, stamp: Timestamp) -> None:
    """Store a timestamp without the trigger that would compare its hash."""
    with without_triggers(database) as conn:
        names = stamp.__struct_fields__
        places = ", ".join(["%s"] * len(names))
        conn.execute(
            f"INSERT INTO timestamps ({', '.join(names)}) VALUES ({places})",
            [getattr(stamp, name) for name in names],
        )


@pytest.fixture
def stamped(database: str) -> tuple[str, Timestamp]:
    """Return the address of a record whose head has a token, and the token."""
    plant(database)
    with without_triggers(database) as conn:
        conn.execute("DELETE FROM timestamps")
        seq, previous, content = conn.execute(
            "SELECT seq, previous, content FROM journal ORDER BY seq DESC LIMIT 1"
        ).fetchone()
    stamp = token(f"{previous}\n{content}".encode(), seq=seq)
    store(database, stamp)
    return database, stamp


async def sources(database: str) -> AsyncIterator[HashedSource]:
    """Yield the record from its database and from its API, after its journal was read."""
    async with verify.open_database(database) as source:
        yield await read(HashedSource(source))
    async with (
        record_server(database) as address,
        verify.open_api(address, terminal.clock.sleep) as source,
    ):
        yield await read(HashedSource(source))


async def read(source: HashedSource) -> HashedSource:
    async for _ in source.entries(0):
        pass
    return source


async def test_a_database_and_its_api(stamped):
    """Both show the same timestamps, and they verify."""
    database, _ = stamped
    async for source in sources(database):
        result = await verify_stamps(source, rfc3161.read_roots(AUTHORITY.root_pem))
        assert (result.tokens, result.count) == (1, 1)


async def test_a_journal_that_was_written_again(stamped):
    """A new chain has other hashes, so the earlier token does not fit it any more."""
    database, stamp = stamped
    with without_triggers(database) as conn:
        conn.execute(
            "UPDATE journal SET content = content || ' ', hash = encode(sha256(convert_to("
            "previous || chr(10) || content || ' ', 'UTF8')), 'hex') WHERE seq = %s",
            [stamp.seq],
        )
    async for source in sources(database):
        with pytest.raises(Discrepancy, match=rf"entry {stamp.seq} is about the hash {stamp.hash}"):
            await verify_stamps(source)


async def test_a_tail_that_was_cut_off(stamped):
    """A token of an entry that the journal does not have any more shows that the end is missing."""
    database, stamp = stamped
    with without_triggers(database) as conn:
        conn.execute("DELETE FROM journal WHERE seq = %s", [stamp.seq])
    async for source in sources(database):
        with pytest.raises(Discrepancy, match="that the journal does not have"):
            await verify_stamps(source)


# Changes of a token's row that only a database can have, and what is said about it.
CHANGED_ROWS = {
    "no entry": ("seq = NULL", "is about no entry"),
    "entry 0": ("seq = 0", "the journal does not have"),
    "entry -1": ("seq = -1", "is about no entry"),
    "no nonce": ("nonce = NULL", "has no nonce"),
    "no time": ("at = NULL", "cannot be read"),
    "an infinite time": ("at = 'infinity'", "cannot be read"),
    "no time of receipt": ("received_at = NULL", "cannot be read"),
    "no proof": ("proof = NULL", "cannot be read"),
    "another kind": ("kind = 'X'", "cannot be read"),
    "another status": ("status = 'X'", "cannot be read"),
    "no authority": ("authority = NULL", "cannot be read"),
}
NULLABLE = ("seq", "at", "received_at", "proof", "authority")


@pytest.mark.parametrize(("change", "text"), CHANGED_ROWS.values(), ids=CHANGED_ROWS)
@pytest.mark.sampled(4)
async def test_a_changed_row(change, text, empty):
    """The owner of the database can remove its constraints; each row is checked all the same."""
    await migrations.migrate(empty, AT)
    plant(empty)
    with psycopg.connect(empty) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("DELETE FROM timestamps")
        constraints = conn.execute(
            "SELECT conname FROM pg_constraint "
            "WHERE conrelid = 'timestamps'::regclass AND contype = 'c'"
        )
        for (name,) in constraints.fetchall():
            conn.execute(f"ALTER TABLE timestamps DROP CONSTRAINT {name}")
        for name in NULLABLE:
            conn.execute(f"ALTER TABLE timestamps ALTER COLUMN {name} DROP NOT NULL")
        entry = "SELECT seq, previous, content FROM journal ORDER BY seq DESC LIMIT 1"
        seq, previous, content = conn.execute(entry).fetchone()
    store(empty, token(f"{previous}\n{content}".encode(), seq=seq))
    with psycopg.connect(empty) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(f"UPDATE timestamps SET {change}")
    async with verify.open_database(empty) as source:
        with pytest.raises(Discrepancy, match=text) as refused:
            await verify_stamps(await read(HashedSource(source)))
    assert str(refused.value).endswith("(rule: timestamp)")


async def test_an_entry_that_was_stamped_while_the_journal_was_read(stamped):
    """The entries that were recorded in the meantime are read, too."""
    database, stamp = stamped
    async for source in sources(database):
        del source.hashes[stamp.seq]
        assert (await verify_stamps(source)).tokens == 1


async def test_an_api_without_timestamps(stamped, monkeypatch):
    """An earlier version has no such field: there is nothing to check."""
    database, _ = stamped
    monkeypatch.setattr("app.ops.verify_stamps._field_names", lambda _: {"journal", "batches"})
    async with (
        record_server(database) as address,
        verify.open_api(address, terminal.clock.sleep) as source,
    ):
        result = await verify_stamps(await read(HashedSource(source)))
    assert result.count == 0


def test_a_backup_keeps_the_bytes(stamped, create, migrated):
    """COPY writes bytea as text, and reads the same bytes again."""
    database, stamp = stamped
    with psycopg.connect(database) as conn, conn.cursor().copy("COPY timestamps TO STDOUT") as copy:
        rows = b"".join(map(bytes, copy))
    with psycopg.connect(database) as conn:
        conn.execute("CREATE TEMP TABLE copied (LIKE timestamps)")
        with conn.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write(rows)
        assert conn.execute("SELECT proof FROM copied").fetchone() == (stamp.proof,)


def test_the_roots_that_were_used():
    """Each token counts for the root that it leads to."""
    roots = [AUTHORITY.root, OTHER.root]
    verifier = StampVerifier({7: HASH}, roots)
    by_other = replace(token(authority=OTHER), authority="https://b.example")
    for stamp in (token(), by_other, replace(token(), authority="https://c.example"), promise()):
        verifier.check(stamp)
    own, other = rfc3161.fingerprint(AUTHORITY.root), rfc3161.fingerprint(OTHER.root)
    assert verifier.roots_used == {own: 2, other: 1}


def test_a_chain_that_cannot_be_read():
    """The sentence names the chain, and no file or setting of the person who verifies."""
    verifier = StampVerifier({7: HASH})
    with pytest.raises(
        Discrepancy, match="The chain of its certificates cannot be read"
    ) as refused:
        verifier.check(replace(token(), chain="<html>"))
    assert "TIMESTAMP_ROOTS" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory."), (b"no PEM", "it must have certificates in PEM form.")],
)
async def test_a_file_of_roots_that_cannot_be_read(harness, capsys, tmp_path, content, reason):
    """The message names the option that has the file."""
    file = tmp_path / "root.pem"
    if content is not None:
        file.write_bytes(content)
    address = harness.context.pool.conninfo
    verified = command(capsys, "verify", "--timestamp-root", str(file), DATABASE_URL=address)
    assert f"The file of --timestamp-root cannot be read: {reason}" in verified.error
    assert verified.exit_code == 2


KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a pipe", None, "cannot be read: it is not a regular file."),
        ("a key", AUTHORITY.root_pem + KEY, "contains a private key: put certificates into it"),
        ("a cut", AUTHORITY.root_pem + OTHER.root_pem[:99], "cannot be read: a part of it is no"),
        ("long", bytes(1_000_001), "cannot be read: it has more than 1,000,000 bytes."),
        ("empty", b"", "cannot be read: it must have certificates in PEM form."),
    ],
)
async def test_an_odd_file_of_roots(harness, capsys, tmp_path, name, content, reason):
    """The option and the setting refuse it in one line, and the check is not completed."""
    file = tmp_path / "root.pem"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    address = harness.context.pool.conninfo
    with_option = command(capsys, "verify", "--timestamp-root", str(file), DATABASE_URL=address)
    with_setting = command(capsys, "verify", TIMESTAMP_ROOTS=str(file), DATABASE_URL=address)
    for verified, subject in ((with_option, "--timestamp-root"), (with_setting, "TIMESTAMP_ROOTS")):
        (line,) = verified.error.splitlines()
        assert f"The file of {subject} {reason}" in line
        assert verified.exit_code == 2


async def test_a_root_that_no_settings_state(harness, capsys):
    """`alpha-monday verify` says so; it is no discrepancy."""
    await harness.make_batch()
    newest = (await harness.journal())[-1]
    stamp = token(f"{newest.previous}\n{newest.content}".encode(), seq=newest.seq)
    address = harness.context.pool.conninfo
    store(address, stamp)
    verified = command(capsys, "verify", DATABASE_URL=address)
    root = rfc3161.fingerprint(AUTHORITY.root)
    assert (
        f"  1 proof with the root {root}, which no settings of the journal state\n"
        in verified.output
    ), verified
    assert verified.exit_code == 0
