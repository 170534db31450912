"""
OpenTimestamps files (app/domain/opentimestamps.py): what they prove, and that any other bytes end
in one kind of error.

The known answers come from outside: the transaction of Bitcoin's first block, whose Merkle root
and text ("The Times 03/Jan/2009 Chancellor ...") are public. The other files were put together
byte by byte from the description of the format.
"""

import hashlib
import random
import time

import opentimestamps_reader
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.opentimestamps import (
    MAX_ANSWER_BYTES,
    MAX_ATTESTATIONS,
    MAX_DEPTH,
    MAX_FILE_BYTES,
    Attestation,
    AttestationKind,
    UnusableProof,
    parse,
    parse_answer,
    pending_file,
    upgraded_file,
)

HEAD = bytes.fromhex("004f70656e54696d657374616d7073000050726f6f6600bf89e2e884e892940108")
DIGEST = bytes(range(32))

# The only transaction of Bitcoin's block 0, and the root of that block.
FIRST_TRANSACTION = bytes.fromhex(
    f"0100000001{'00' * 32}ffffffff4d04ffff001d0104455468652054696d65732030332f4a616e2f32303039"
    "204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f72206261"
    "6e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962"
    "e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)
FIRST_ROOT = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
HEADLINE = b"The Times 03/Jan/2009 Chancellor"

# Pending attestations of two calendars, one of block 900,000 (a0 f7 36 in base 128), and one of a
# service that does not exist.
PENDING = bytes.fromhex("0083dfe30d2ef90c8e1211") + b"https://a.example"
OTHER_PENDING = bytes.fromhex("0083dfe30d2ef90c8e1211") + b"https://b.example"
BLOCK = bytes.fromhex("000588960d73d7190103a0f736")
UNKNOWN = bytes.fromhex("00010203040506070802") + b"ab"
# An answer as calendars send it: append a nonce, hash, prepend a time, append a code.
ANSWER = b"\xf0\x04abcd\x08\xf1\x04time\xf0\x04code" + PENDING
COMMITMENT = b"time" + hashlib.sha256(DIGEST + b"abcd").digest() + b"code"
# What the calendar answers later: hash, append a neighbour, hash twice, the block.
UPGRADE = b"\x08\xf0\x20" + b"n" * 32 + b"\x08\x08" + BLOCK
ROOT = hashlib.sha256(
    hashlib.sha256(hashlib.sha256(COMMITMENT).digest() + b"n" * 32).digest()
).digest()


def file(timestamp: bytes, digest: bytes = DIGEST) -> bytes:
    """Return a file with a timestamp of `digest`."""
    return HEAD + digest + timestamp


def sized(content: bytes) -> bytes:
    """Return bytes after their length, which needs two bytes from 128 on."""
    if len(content) < 128:
        return bytes([len(content)]) + content
    return bytes([len(content) % 128 + 128, len(content) // 128]) + content


def test_the_text_in_the_first_block():
    """Thirty-two letters of a newspaper's title lead to the Merkle root of Bitcoin's block 0."""
    before, _, behind = FIRST_TRANSACTION.partition(HEADLINE)
    proof = b"\xf1" + sized(before) + b"\xf0" + sized(behind) + b"\x08\x08"
    block_0 = bytes.fromhex("000588960d73d719010100")
    read = parse(file(proof + block_0, digest=HEADLINE))
    assert read.digest == HEADLINE
    assert read.block
    assert (read.block.height, read.block.merkle_root) == (0, FIRST_ROOT)
    assert read.pending == []


def test_a_pending_proof():
    """It names the calendar, and the message that the operations make from the hash."""
    pending = pending_file(DIGEST, ANSWER)
    assert pending == file(ANSWER)
    read = parse(pending)
    assert read.digest == DIGEST
    assert read.block is None
    assert read.attestations == (
        Attestation(
            kind=AttestationKind.PENDING,
            commitment=COMMITMENT,
            tag=bytes.fromhex("83dfe30d2ef90c8e"),
            payload=b"\x11https://a.example",
            uri="https://a.example",
        ),
    )
    assert read.attestations[0].merkle_root is None
    assert parse_answer(DIGEST, ANSWER) == read.attestations


def test_an_upgraded_proof():
    """The way to the block is added behind the pending attestation, which stays."""
    upgraded = upgraded_file(pending_file(DIGEST, ANSWER), COMMITMENT, UPGRADE)
    assert upgraded == file(ANSWER.replace(PENDING, b"\xff" + PENDING + UPGRADE))
    read = parse(upgraded)
    assert [one.uri for one in read.pending] == ["https://a.example"]
    assert read.block
    assert (read.block.height, read.block.commitment) == (900_000, ROOT)
    assert read.block.merkle_root == ROOT[::-1].hex()


@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        pytest.param(
            b"\xff" + PENDING + OTHER_PENDING,
            b"\x08" + BLOCK,
            b"\xff" + PENDING + b"\xff\x08" + BLOCK + OTHER_PENDING,
            id="another attestation follows",
        ),
        pytest.param(
            b"\xff" + PENDING + b"\x08" + UNKNOWN,
            b"\xff" + UNKNOWN + b"\xf0\x01a\x08" + BLOCK,
            b"\xff"
            + PENDING
            + b"\xff"
            + UNKNOWN
            + b"\xff\xf0\x01a\x08"
            + BLOCK
            + b"\x08"
            + UNKNOWN,
            id="an operation follows, and the answer has two items",
        ),
        pytest.param(
            b"\xff\x08" + UNKNOWN + PENDING,
            b"\xf2\x08" + BLOCK,
            b"\xff\x08" + UNKNOWN + b"\xff" + PENDING + b"\xf2\x08" + BLOCK,
            id="it is the last of two items",
        ),
        pytest.param(
            b"\xff" + PENDING + OTHER_PENDING,
            b"\xff\xf0\x01a\xff\x08" + BLOCK + b"\xf2\x08" + BLOCK + b"\xf1\x01b\x08" + BLOCK,
            b"\xff"
            + PENDING
            + b"\xff\xf0\x01a\xff\x08"
            + BLOCK
            + b"\xf2\x08"
            + BLOCK
            + b"\xff\xf1\x01b\x08"
            + BLOCK
            + OTHER_PENDING,
            id="the answer has forks inside",
        ),
        pytest.param(
            b"\xff\xf0\x01x" + PENDING + b"\xf1\x01y\xff" + PENDING + UNKNOWN,
            None,
            None,
            id="the same calendar for another message",
        ),
    ],
)
def test_where_the_answer_is_inserted(before, answer, after):
    """All other items stay, and belong to the same messages as before."""
    if answer is None:
        commitment, answer = b"y" + DIGEST, b"\x08" + BLOCK
        after = b"\xff\xf0\x01x" + PENDING + b"\xf1\x01y\xff" + PENDING + b"\xff\x08" + BLOCK
        after += UNKNOWN
    else:
        commitment = DIGEST
    upgraded = upgraded_file(file(before), commitment, answer)
    assert upgraded == file(after)
    kept = {(one.tag, one.payload, one.commitment) for one in parse(file(before)).attestations}
    added = {(one.tag, one.payload, one.commitment) for one in parse_answer(commitment, answer)}
    now = {(one.tag, one.payload, one.commitment) for one in parse(upgraded).attestations}
    assert now == kept | added
    _, leaves = opentimestamps_reader.read(upgraded)
    assert {one.message for one in leaves} == {commitment for _, _, commitment in now}


@pytest.mark.parametrize(
    ("commitment", "answer", "reason"),
    [
        pytest.param(ROOT, UPGRADE, "no pending attestation of this commitment", id="not its own"),
        pytest.param(b"", UPGRADE, "no pending attestation of this commitment", id="none"),
        pytest.param(DIGEST, UPGRADE, "no pending attestation of this commitment", id="the hash"),
        pytest.param(COMMITMENT, UPGRADE + b"\x00", "has 1 byte too many", id="a byte more"),
        pytest.param(COMMITMENT, UPGRADE[:-1], "its end is missing", id="a byte less"),
        pytest.param(COMMITMENT, b"", "its end is missing", id="empty"),
        pytest.param(COMMITMENT, BLOCK, "block for 40 bytes", id="a block without a path"),
    ],
)
def test_what_is_not_an_upgrade(commitment, answer, reason):
    with pytest.raises(UnusableProof, match=reason):
        upgraded_file(file(ANSWER), commitment, answer)


def test_an_upgrade_is_not_inserted_twice():
    """Its operations would be repeated, and other readers would see only one of the two."""
    once = upgraded_file(file(ANSWER), COMMITMENT, UPGRADE)
    with pytest.raises(UnusableProof, match="repeats an operation"):
        upgraded_file(once, COMMITMENT, UPGRADE)


def test_the_earliest_block():
    """It says the most. A block of another chain is not compared."""
    litecoin = bytes.fromhex("0006869a0d73d71b450101")
    late, early = BLOCK, bytes.fromhex("000588960d73d7190102e807")
    read = parse(file(b"\xff\x08" + late + b"\xff\xf2" + early + litecoin))
    assert read.block
    assert read.block.height == 1000
    assert read.block.merkle_root == DIGEST.hex()
    assert [one.kind for one in read.attestations] == ["BITCOIN", "BITCOIN", "UNKNOWN"]


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        pytest.param(b"\xf0\x02ab", DIGEST + b"ab", id="append"),
        pytest.param(b"\xf1\x02ab", b"ab" + DIGEST, id="prepend"),
        pytest.param(b"\xf2", DIGEST[::-1], id="reverse"),
        pytest.param(
            b"\xf3",
            b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            id="hexlify",
        ),
        # Computed with sha256sum, sha1sum and openssl.
        pytest.param(
            b"\x08",
            bytes.fromhex("630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd"),
            id="SHA-256",
        ),
        pytest.param(
            b"\x02", bytes.fromhex("ae5bd8efea5322c4d9986d06680a781392f9a642"), id="SHA-1"
        ),
        pytest.param(
            b"\x03", bytes.fromhex("e6babb9619d7a81272711fc546a16b211dd93957"), id="RIPEMD-160"
        ),
        pytest.param(b"\xf0" + sized(b"x" * 4064), DIGEST + b"x" * 4064, id="a message of 4,096"),
    ],
)
def test_an_operation(operations, message):
    (one,) = parse(file(operations + PENDING)).attestations
    assert one.commitment == message


def test_an_unknown_attestation_is_kept():
    """Its tag and its payload are there, unchanged; so are two that are equal."""
    read = parse(file(b"\xff" + UNKNOWN + b"\xff" + UNKNOWN + b"\xff" + PENDING + PENDING))
    assert [(one.kind, one.payload) for one in read.attestations[:2]] == [("UNKNOWN", b"ab")] * 2
    assert read.attestations[0].tag == bytes(range(1, 9))
    assert (read.attestations[0].uri, read.attestations[0].height) == (None, None)


UNUSABLE = [
    # The head.
    pytest.param(b"", "not an OpenTimestamps file", id="nothing"),
    pytest.param(b"<!DOCTYPE html>", "not an OpenTimestamps file", id="HTML"),
    pytest.param(HEAD[:30] + DIGEST + PENDING, "not an OpenTimestamps file", id="half a magic"),
    pytest.param(b"\n" + file(PENDING), "not an OpenTimestamps file", id="a line feed before it"),
    pytest.param(ANSWER, "not an OpenTimestamps file", id="an answer without a head"),
    pytest.param(HEAD + DIGEST[:31], "incomplete", id="half a hash"),
    pytest.param(HEAD[:-2], "incomplete", id="the magic bytes alone"),
    pytest.param(HEAD[:-2] + b"\x02\x08" + DIGEST + PENDING, "unknown version 2", id="version 2"),
    pytest.param(HEAD[:-2] + b"\x00\x08" + DIGEST + PENDING, "unknown version 0", id="version 0"),
    pytest.param(HEAD[:-1] + b"\x02" + DIGEST + PENDING, r"not SHA-256 \(02\)", id="of SHA-1"),
    pytest.param(HEAD[:-1] + b"\xf0" + DIGEST + PENDING, r"not SHA-256 \(f0\)", id="no hash"),
    # The end.
    pytest.param(file(b""), "its end is missing", id="no timestamp"),
    pytest.param(file(b"\xff"), "its end is missing", id="only a fork"),
    pytest.param(file(b"\xff" + PENDING), "its end is missing", id="a fork without a last item"),
    pytest.param(file(b"\x08"), "its end is missing", id="an operation without a result"),
    pytest.param(file(PENDING + b"\n"), "has 1 byte too many", id="a line feed behind it"),
    pytest.param(file(PENDING * 2), "has 28 bytes too many", id="a second timestamp"),
    # Operations.
    pytest.param(file(b"\xff\xff" + PENDING * 2), r"unknown operation \(ff\)", id="two forks"),
    pytest.param(file(b"\x01" + PENDING), r"unknown operation \(01\)", id="operation 01"),
    pytest.param(file(b"\xf4" + PENDING), r"unknown operation \(f4\)", id="operation f4"),
    pytest.param(file(b"\x67" + PENDING), "Keccak-256", id="Keccak-256"),
    pytest.param(file(b"\xf0\x00" + PENDING), "empty argument", id="nothing to append"),
    pytest.param(file(b"\xf1\x00" + PENDING), "empty argument", id="nothing to prepend"),
    pytest.param(
        file(b"\xff\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x01\x00" + PENDING),
        "a pending attestation without a URI",
        id="no URI, beside another attestation",
    ),
    pytest.param(
        file(b"\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x01\x00"),
        "a pending attestation without a URI",
        id="no URI",
    ),
    pytest.param(file(b"\xf0\x05ab"), "its end is missing", id="half an argument"),
    pytest.param(
        file(b"\xf0" + sized(b"x" * 4065) + PENDING), "message of more", id="a message of 4,097"
    ),
    pytest.param(
        file(b"\xf0" + sized(b"x" * 4097) + PENDING), "argument, at most 4,096", id="an argument"
    ),
    pytest.param(file(b"\xf3" * 8 + PENDING), "message of more", id="hexlify eight times"),
    pytest.param(file(b"\x08" * 256 + PENDING), "more than 255 operations", id="256 operations"),
    pytest.param(file(b"\xff\x08" * 8000), "more than 255 operations", id="forks without an end"),
    pytest.param(
        file(b"\xff\x08" + PENDING + b"\x08" + UNKNOWN), "repeats an operation", id="repeated"
    ),
    pytest.param(
        file(b"\x08\xff\xf0\x01a" + PENDING + b"\xff\xf1\x01a" + PENDING + b"\xf0\x01a" + PENDING),
        "repeats an operation",
        id="repeated further inside",
    ),
    # Numbers.
    pytest.param(file(b"\xf0" + b"\xff" * 9000), "too large a number", id="a number without end"),
    pytest.param(file(b"\xf0" + b"\x80" * 9000), "too large a number", id="zeros without end"),
    pytest.param(file(b"\xf0\x81\x80\x80\x80\x80\x00a"), "too large a number", id="six bytes"),
    pytest.param(file(b"\xf0\x81\x00a" + PENDING), "shortest form", id="a padded number"),
    pytest.param(file(b"\xf0\x80\x00" + PENDING), "shortest form", id="a padded zero"),
    pytest.param(file(b"\xf0\x81"), "its end is missing", id="half a number"),
    # Attestations.
    pytest.param(file(b"\x00\x83\xdf"), "its end is missing", id="half a tag"),
    pytest.param(
        file(bytes(9) + b"\x81\x40" + bytes(8193)), "attestation, at most 8,192", id="a payload"
    ),
    pytest.param(file(PENDING[:-1]), "its end is missing", id="half a URI"),
    pytest.param(
        file(b"\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x03\x01ab"),
        "another length",
        id="a payload behind its URI",
    ),
    pytest.param(
        file(b"\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x02\x02ab"),
        "another length",
        id="a URI behind its payload",
    ),
    pytest.param(
        file(b"\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\xeb\x07" + sized(b"a" * 1001)),
        "URI, at most 1,000",
        id="a URI of 1,001 letters",
    ),
    pytest.param(file(b"\x08" + BLOCK[:-1] + b"\xb6"), "its end is missing", id="half a height"),
    pytest.param(
        file(b"\x08\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x00" + PENDING),
        "another length",
        id="no height",
    ),
    pytest.param(
        file(b"\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x05\x80\x80\x80\x80\x08"),
        "height of a block, at most 2,147,483,647",
        id="the height 2 ** 31",
    ),
    pytest.param(
        file(b"\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x02\x00\x00"),
        "another length",
        id="a payload behind its height",
    ),
    pytest.param(file(b"\x02" + BLOCK), "block for 20 bytes", id="a root of 20 bytes"),
    pytest.param(file(b"\xf0\x01a" + BLOCK), "block for 33 bytes", id="a root of 33 bytes"),
    pytest.param(
        file(b"\x00\x06\x86\x9a\x0d\x73\xd7\x1b\x45\x02\x01\x01"),
        "another length",
        id="a Litecoin block with two heights",
    ),
    # Sizes.
    pytest.param(
        file(b"\xff" + UNKNOWN) + (b"\xff" + UNKNOWN) * 499 + UNKNOWN,
        "more than 500 attestations",
        id="501 attestations",
    ),
    pytest.param(file(bytes(MAX_FILE_BYTES)), "more than 50,000 bytes", id="a file of 50 KB"),
]


@pytest.mark.parametrize(("data", "reason"), UNUSABLE)
def test_what_is_not_a_proof(data, reason):
    """One sentence says why."""
    with pytest.raises(UnusableProof, match=reason) as refused:
        parse(data)
    text = str(refused.value)
    assert text.endswith(".")
    assert text.isprintable()


@pytest.mark.parametrize("character", " !\"#$%&'()*+,;<=>?@[\\]^`{|}~\t\n\r\0\x7f\x80\xff")
def test_a_character_that_no_uri_has(character):
    """No query, no user name, no escape, no other script."""
    odd = b"https://a" + character.encode("latin-1") + b"example"
    with pytest.raises(UnusableProof, match="character that is not allowed"):
        parse(file(b"\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x12\x11" + odd))


def test_the_limits_are_inclusive():
    """The largest values are still read."""
    uri = b"h" * 1000
    assert parse(file(b"\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\xea\x07" + sized(uri))).pending
    assert parse(file(b"\x08" * MAX_DEPTH + PENDING)).pending
    assert parse(file(b"\x08" * MAX_DEPTH + BLOCK)).block
    assert parse(file(b"\xf3" * 7 + PENDING)).pending
    payload = bytes(8192)
    assert parse(file(bytes(9) + b"\x80\x40" + payload)).attestations[0].payload == payload
    height = parse(file(b"\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x05\xff\xff\xff\xff\x07")).block
    assert height
    assert height.height == 2**31 - 1
    many = (b"\xff" + UNKNOWN) * (MAX_ATTESTATIONS - 1) + UNKNOWN
    assert len(parse(file(many)).attestations) == MAX_ATTESTATIONS


def test_the_size_of_an_answer():
    """At most 10,000 bytes, as calendars and the reference library have it."""
    padding = bytes(9) + b"\x80\x40" + bytes(8192)
    rest = MAX_ANSWER_BYTES - len(padding) - len(PENDING) - 2
    filler = bytes(9) + sized(bytes(rest - 11))
    answer = b"\xff" + padding + b"\xff" + filler + PENDING
    assert len(answer) == MAX_ANSWER_BYTES
    assert len(parse_answer(DIGEST, answer)) == 3
    assert parse(pending_file(DIGEST, answer)).pending
    longer = b"\xff" + UNKNOWN + answer
    for read in (parse_answer, pending_file):
        with pytest.raises(UnusableProof, match="more than 10,000 bytes"):
            read(DIGEST, longer)


@pytest.mark.parametrize("digest", [b"", bytes(20), bytes(31), bytes(33), b"0" * 64])
def test_a_hash_of_another_length(digest):
    """It is refused, for example a hash in hexadecimal."""
    with pytest.raises(UnusableProof, match="has 32 bytes"):
        pending_file(digest, ANSWER)


@pytest.mark.parametrize("message", [b"", bytes(4097)])
def test_a_message_of_an_impossible_length(message):
    with pytest.raises(UnusableProof, match="1 to 4,096 bytes"):
        parse_answer(message, PENDING)


FILES = {
    "pending": file(ANSWER),
    "upgraded": upgraded_file(file(ANSWER), COMMITMENT, UPGRADE),
    "two calendars": file(b"\xff\xf0\x01a\x08" + PENDING + b"\xff\xf1\x01b" + UNKNOWN + ANSWER),
}


def assert_read_or_refused(data: bytes) -> None:
    """
    The bytes are refused with an UnusableProof, or both readers read the same.

    The independent reader has no limits for numbers, URIs and repeated operations, so it may read
    more.
    """
    try:
        proof = parse(data)
    except UnusableProof:
        return
    digest, leaves = opentimestamps_reader.read(data)
    assert digest == proof.digest
    ours = [(one.commitment, one.height, one.uri) for one in proof.attestations]
    assert ours == [(one.message, one.block, one.calendar) for one in leaves]
    for one, leaf in zip(proof.attestations, leaves, strict=True):
        assert one.merkle_root in (None, leaf.root)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(name):
    """No beginning of a file is a file."""
    data = FILES[name]
    assert_read_or_refused(data)
    for end in range(len(data)):
        with pytest.raises(UnusableProof):
            parse(data[:end])


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit(name):
    """An error, or what the independent reader sees."""
    data = FILES[name]
    for place in range(len(data)):
        for bit in range(8):
            changed = bytes([data[place] ^ 1 << bit])
            assert_read_or_refused(data[:place] + changed + data[place + 1 :])


def test_every_value_of_a_byte():
    """Each byte of a pending file is replaced by each other value."""
    data = FILES["pending"]
    for place in range(len(data)):
        for value in range(256):
            assert_read_or_refused(data[:place] + bytes([value]) + data[place + 1 :])


@pytest.mark.parametrize("name", FILES)
def test_every_removed_and_inserted_byte(name):
    data = FILES[name]
    for place in range(len(data)):
        assert_read_or_refused(data[:place] + data[place + 1 :])
        for value in b"\x00\x02\x03\x08\x67\x80\xf0\xf1\xf2\xf3\xff":
            assert_read_or_refused(data[:place] + bytes([value]) + data[place:])


@given(st.binary(max_size=200))
@example(b"\xff\x08" * 60)
def test_any_timestamp(timestamp):
    assert_read_or_refused(file(timestamp))


@given(
    st.lists(st.sampled_from([b"\xff", b"\x08", b"\xf2", b"\xf0\x01a", PENDING, BLOCK, UNKNOWN]))
)
def test_any_order_of_items(parts):
    """Whole items in any order are more often a timestamp than bytes in any order."""
    assert_read_or_refused(file(b"".join(parts)))


@given(st.binary(max_size=60), st.binary(max_size=80))
def test_any_upgrade(message, answer):
    """The result is a file that can be read, or an UnusableProof."""
    pending = file(b"\xf0" + sized(message or b"a") + PENDING)
    try:
        upgraded = upgraded_file(pending, DIGEST + (message or b"a"), answer)
    except UnusableProof:
        return
    assert parse(upgraded).pending


@pytest.mark.parametrize(
    "timestamp",
    [
        pytest.param(b"\xf0" + sized(b"x" * 4064) + b"\xf2" * 254 + PENDING, id="long messages"),
        pytest.param((b"\xff" + b"\xf2" * 250 + UNKNOWN) * 180, id="deep branches"),
        pytest.param(
            b"\xf0"
            + sized(b"x" * 4000)
            + b"".join(
                b"\xff\xf0\x02" + bytes([a, b]) + UNKNOWN for a in range(9) for b in range(55)
            ),
            id="a long message for each attestation",
        ),
        pytest.param(b"\xff" * 40_000, id="forks"),
        pytest.param(b"\xff\x08" * 20_000, id="forks and hashes"),
        pytest.param(b"\xf0" + sized(b"x" * 4000) + b"\xff\x08\xf2" * 12_000, id="all at once"),
        pytest.param(random.Random(1).randbytes(40_000), id="random bytes"),
    ],
)
def test_a_hostile_file_takes_no_time(timestamp):
    """Less than a second for each: the work grows only with the size."""
    start = time.process_time()
    assert_read_or_refused(file(timestamp))
    assert time.process_time() - start < 1


PENDING_TAG = bytes.fromhex("83dfe30d2ef90c8e")
# What the independent reader refuses, too: it is a program that prints what a stranger's file says.
UNREADABLE = {
    "an argument of 2**63 bytes": b"\xf0" + b"\x80" * 9 + b"\x01a",
    "an argument of a huge size": b"\xf0" + b"\x80" * 40_000 + b"\x01a",
    "a payload of 2**63 bytes": b"\x00" + bytes(8) + b"\x80" * 9 + b"\x01",
    "a huge block": b"\x00\x05\x88\x96\x0d\x73\xd7\x19\x01" + sized(b"\x80" * 8000 + b"\x01"),
    "a URI with a line feed": b"\x00" + PENDING_TAG + sized(sized(b"https://a\nb")),
    "a URI with an escape": b"\x00" + PENDING_TAG + sized(sized(b"https://\x1b[31m")),
    "a URI with a space": b"\x00" + PENDING_TAG + sized(sized(b"https://a b")),
    "a URI in UTF-8": b"\x00" + PENDING_TAG + sized(sized("https://ä".encode())),
    "a URI of no text": b"\x00" + PENDING_TAG + sized(sized(b"\xff\xfe")),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_both_readers_refuse(name):
    """Each has one error for it, and at once."""
    begin = time.monotonic()
    with pytest.raises(opentimestamps_reader.UnreadableFile):
        opentimestamps_reader.read(file(UNREADABLE[name]))
    with pytest.raises(UnusableProof):
        parse(file(UNREADABLE[name]))
    assert time.monotonic() - begin < 1
