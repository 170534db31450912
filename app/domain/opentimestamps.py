"""
OpenTimestamps: proofs that a hash existed before a block of the Bitcoin block chain.

A proof begins with a SHA-256 hash. Operations turn it into other messages, and attestations say who
recorded a message: a calendar, which promises to bring it into a block (a pending attestation), or
a Bitcoin block, whose Merkle root is the message. A pending proof is upgraded later with the
operations from the calendar's message to the block. The form of a file, in bytes (hexadecimal):

    file         the magic bytes, 01 (the version), 08 (SHA-256), the hash (32 bytes), a timestamp
    timestamp    items, each but the last one after the byte ff
    item         00 and an attestation; or an operation and the timestamp of its result
    operation    f0 or f1 (append, prepend) and an argument; f2 (reverse); f3 (hexlify);
                 02 (SHA-1); 03 (RIPEMD-160); 08 (SHA-256)
    attestation  a tag (8 bytes), and a payload: a URI (pending), a height (block), other bytes
    argument, payload, URI    the length and that many bytes
    height, length            a number in base 128, the lowest 7 bits first; 80 is added to each
                              byte but the last one

A calendar's answer is a timestamp without the parts of a file before it. To check a proof to its
end, the Merkle root of the block with the named height is compared with `merkle_root`, for example
on a block explorer. No code in this module can know that root. So it cannot detect an answer that
belongs to another hash: every list of operations can be applied to every hash.

Why the service does not use the reference library `opentimestamps` for this:

- The format above is complete, and its reader is the one class `_TimestampReader`. Two functions
  write it, and they only put bytes together, so a calendar's answer is kept as it was received.
- The library needs python-bitcoinlib, which loads OpenSSL through ctypes when it is imported, and
  pycryptodomex. Reading a proof needs neither. The library has the licence LGPL.
- The library reads with one recursion per operation, takes numbers of any length, and has no limit
  for the number of attestations. If one operation stands twice at one message, it silently drops
  the first of the two, so it and another reader could see different proofs in one file.

Everything that this module accepts is accepted by the library. It refuses, with an UnusableProof,
what no calendar sends: files and answers above the limits below, numbers that are not written in
the shortest way, an operation that is repeated at one message, a pending attestation without a URI,
a block whose Merkle root would not have 32 bytes, a hash of a file that is not SHA-256, and
Keccak-256 (byte 67), which only proofs for Ethereum use, and which Python's hashlib does not have.
"""

import hashlib
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from app.domain.text import pluralize
from app.errors import AlphaMondayError

MAGIC = b"\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94"
VERSION = b"\x01"
# The tags of items.
FORK = b"\xff"
ATTESTATION = b"\x00"
APPEND = b"\xf0"
PREPEND = b"\xf1"
REVERSE = b"\xf2"
HEXLIFY = b"\xf3"
SHA256 = b"\x08"
KECCAK256 = b"\x67"
_HASHES = {b"\x02": "sha1", b"\x03": "ripemd160", SHA256: "sha256"}

# The tags of attestations.
PENDING = bytes.fromhex("83dfe30d2ef90c8e")
BITCOIN = bytes.fromhex("0588960d73d71901")
# Blocks of Litecoin and Ethereum. Their payload is a height, too, and the reference library refuses
# a file with another payload.
_OTHER_CHAINS = (bytes.fromhex("06869a0d73d71b45"), bytes.fromhex("30fe8087b5c7ead7"))
_TAG_BYTES = 8

DIGEST_BYTES = 32
_HEADER_BYTES = len(MAGIC) + len(VERSION) + len(SHA256) + DIGEST_BYTES

# The reference library's limits. A depth is a number of operations from the first message on.
MAX_ANSWER_BYTES = 10_000
MAX_MESSAGE_BYTES = 4096
MAX_PAYLOAD_BYTES = 8192
MAX_URI_BYTES = 1000
MAX_DEPTH = 255
# Neither a query nor a user name, percent sign or bracket is possible with these characters.
_URI_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._/:")

# Our own limits. A pending file with one upgrade has at most 20,066 bytes. A real file has a few
# thousand bytes and less than ten attestations.
MAX_FILE_BYTES = 50_000
MAX_ATTESTATIONS = 500
MAX_HEIGHT = 2**31 - 1
# The bytes of a number up to MAX_HEIGHT, with 7 bits in each.
_MAX_NUMBER_BYTES = 5


class UnusableProof(AlphaMondayError):
    """Bytes that are not a proof that can be used. The text is a sentence that says why."""


class AttestationKind(StrEnum):
    """Who recorded a message: a calendar, a Bitcoin block, or a service that we do not know."""

    PENDING = "PENDING"
    BITCOIN = "BITCOIN"
    UNKNOWN = "UNKNOWN"


class Attestation(Struct, frozen=True, kw_only=True):
    """
    An attestation of a proof.

    `commitment` is the message that was recorded, which the operations make from the proof's hash.
    A pending attestation has the `uri` of a calendar, and one of a Bitcoin block has the block's
    `height`. `tag` and `payload` are the attestation's own bytes.
    """

    kind: AttestationKind
    commitment: bytes
    tag: bytes
    payload: bytes
    uri: str | None = None
    height: int | None = None

    @property
    def merkle_root(self) -> str | None:
        """
        Return the Merkle root that the block must have, in hexadecimal; None without a block.

        Bitcoin's programs and block explorers show a root with its bytes in reversed order.
        """
        if self.kind != AttestationKind.BITCOIN:
            return None
        return self.commitment[::-1].hex()


class Proof(Struct, frozen=True):
    """A file: the SHA-256 hash that it is about, and its attestations in the file's order."""

    digest: bytes
    attestations: tuple[Attestation, ...]

    @property
    def pending(self) -> list[Attestation]:
        """Return the attestations of calendars, from which the proof can be upgraded."""
        return _of_kind(self.attestations, AttestationKind.PENDING)

    @property
    def block(self) -> Attestation | None:
        """
        Return the attestation of the earliest Bitcoin block; None if the proof has no block.

        The hash existed before each of these blocks, so the earliest one says the most.
        """
        blocks = _of_kind(self.attestations, AttestationKind.BITCOIN)
        return min(blocks, key=lambda one: one.height or 0, default=None)


def parse(file: bytes) -> Proof:
    """
    Return the proof in a file with the ending `.ots`.

    Raises UnusableProof if the bytes are not such a file, or if they exceed a limit of this module.
    """
    return Proof(
        digest=_digest_of(file),
        attestations=_attestations(_read_file(file)),
    )


def parse_answer(message: bytes, answer: bytes) -> tuple[Attestation, ...]:
    """
    Return the attestations of a calendar's answer about `message`.

    `message` is the hash or the commitment that was sent. Raises UnusableProof if the answer is not
    a timestamp or exceeds a limit of this module.
    """
    return _attestations(_read_answer(message, answer))


def pending_file(digest: bytes, answer: bytes) -> bytes:
    """
    Return the file that proves what a calendar answered about a SHA-256 hash of 32 bytes.

    Raises UnusableProof if the answer is not a timestamp, or if the hash has another length.
    """
    if len(digest) != DIGEST_BYTES:
        raise UnusableProof(f"A SHA-256 hash has {DIGEST_BYTES} bytes, and not {len(digest)}.")
    _read_answer(digest, answer)
    return MAGIC + VERSION + SHA256 + digest + answer


def upgraded_file(file: bytes, commitment: bytes, answer: bytes) -> bytes:
    """
    Return a file with a calendar's answer about the `commitment` of a pending attestation.

    The answer is inserted directly after the first pending attestation with that commitment. No
    other part of the file changes, and the pending attestation stays in it.

    Raises UnusableProof if the file or the answer cannot be read, if the file has no such pending
    attestation, or if the result is not a file that `parse` can read. So a file is not upgraded
    twice with one answer: its operations would be repeated.
    """
    places = [
        place
        for place in _read_file(file).places
        if place.attestation.kind == AttestationKind.PENDING
        and place.attestation.commitment == commitment
    ]
    if not places:
        raise UnusableProof("The file has no pending attestation of this commitment.")
    place = places[0]

    items = _read_answer(commitment, answer)
    before, behind = file[: place.end], file[place.end :]
    if place.is_last:
        # The attestation is no longer the last item of its timestamp: that is now the answer's.
        before = file[: place.start] + FORK + file[place.start : place.end]
        inserted = answer
    else:
        # Other items follow, so no item of the answer is the last one.
        last = items.last_item
        inserted = answer[:last] + FORK + answer[last:]
    upgraded = before + inserted + behind
    parse(upgraded)
    return upgraded


class _AttestationPlace(Struct, frozen=True):
    """
    An attestation, and where its item stands in the bytes that were read.

    `start` is the position of the item's first byte (00), and `end` the position behind it.
    `is_last` says that it is the last item of its timestamp.
    """

    attestation: Attestation
    start: int
    end: int
    is_last: bool


class _Node(Struct):
    """
    A message whose timestamp is being read.

    `depth` is the number of operations that made the message, and `operations` are those that were
    applied to it so far.
    """

    message: bytes
    depth: int = 0
    operations: set[tuple[bytes, bytes]] = set()


class _TimestampReader:
    """
    Reads the timestamp of `message` that begins at `start` and ends at the end of `data`.

    `places` are its attestations. `last_item` is the position of the last item of the timestamp of
    `message` itself. Raises UnusableProof if the bytes are not a timestamp.
    """

    def __init__(self, data: bytes, start: int, message: bytes) -> None:
        self.places: list[_AttestationPlace] = []
        self.last_item = start
        self._data = data
        self._position = start
        self._read(message)

    def _read(self, message: bytes) -> None:
        # Each operation leads to a timestamp inside a timestamp. The messages whose timestamps have
        # more items are kept in a list, because recursion could exceed Python's limit.
        unfinished: list[_Node] = []
        node = _Node(message)
        while True:
            start = self._position
            tag = self._read_bytes(1)
            is_last = tag != FORK
            if not is_last:
                start = self._position
                tag = self._read_bytes(1)
                unfinished.append(node)
            elif node.depth == 0:
                self.last_item = start

            if tag != ATTESTATION:
                node = self._read_operation(tag, node)
                continue
            self._read_attestation(node.message, start=start, is_last=is_last)
            if not unfinished:
                break
            node = unfinished.pop()

        if remaining := len(self._data) - self._position:
            raise UnusableProof(f"The timestamp has {pluralize(remaining, 'byte')} too many.")

    def _read_operation(self, tag: bytes, node: _Node) -> _Node:
        """Apply an operation to the message of a node. Return the node of the result."""
        argument = b""
        if tag in (APPEND, PREPEND):
            argument = self._read_sized(MAX_MESSAGE_BYTES, "argument")
            if not argument:
                raise UnusableProof("The timestamp has an operation with an empty argument.")
        if (tag, argument) in node.operations:
            raise UnusableProof("The timestamp repeats an operation at the same message.")
        node.operations.add((tag, argument))
        if node.depth == MAX_DEPTH:
            raise UnusableProof(
                f"The timestamp has more than {MAX_DEPTH} operations one after another."
            )
        result = _apply(tag, node.message, argument)
        return _Node(result, depth=node.depth + 1)

    def _read_attestation(self, commitment: bytes, *, start: int, is_last: bool) -> None:
        if len(self.places) == MAX_ATTESTATIONS:
            raise UnusableProof(f"The timestamp has more than {MAX_ATTESTATIONS} attestations.")
        tag = self._read_bytes(_TAG_BYTES)
        size = self._read_number(MAX_PAYLOAD_BYTES, "attestation")
        end = self._position + size
        kind, uri, height = AttestationKind.UNKNOWN, None, None
        if tag == PENDING:
            kind = AttestationKind.PENDING
            uri = self._read_uri()
        elif tag == BITCOIN:
            kind = AttestationKind.BITCOIN
            height = self._read_number(MAX_HEIGHT, "height of a block")
            if len(commitment) != DIGEST_BYTES:
                raise UnusableProof(
                    f"The timestamp names a Bitcoin block for {len(commitment):,} bytes, but a "
                    f"Merkle root has {DIGEST_BYTES}."
                )
        elif tag in _OTHER_CHAINS:
            self._read_number(MAX_HEIGHT, "height of a block")
        else:
            self._read_bytes(size)
        if self._position != end:
            raise UnusableProof("The timestamp has an attestation of another length than it says.")

        attestation = Attestation(
            kind=kind,
            commitment=commitment,
            tag=tag,
            payload=self._data[end - size : end],
            uri=uri,
            height=height,
        )
        place = _AttestationPlace(attestation=attestation, start=start, end=end, is_last=is_last)
        self.places.append(place)

    def _read_uri(self) -> str:
        uri = self._read_sized(MAX_URI_BYTES, "URI")
        if not uri:
            raise UnusableProof("The timestamp has a pending attestation without a URI.")
        if not _URI_CHARACTERS.issuperset(uri):
            raise UnusableProof("The timestamp has a URI with a character that is not allowed.")
        return uri.decode()

    def _read_sized(self, most: int, name: str) -> bytes:
        """Return the bytes that follow their own length. `name` is for an error."""
        return self._read_bytes(self._read_number(most, name))

    def _read_number(self, most: int, name: str) -> int:
        """Return a number, or the length of what `name` says. `name` is for an error."""
        value = 0
        for index in range(_MAX_NUMBER_BYTES):
            byte = self._read_bytes(1)[0]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                break
        else:
            value = most + 1
        if value > most:
            raise UnusableProof(f"The timestamp has too large a number: {name}, at most {most:,}.")
        if byte == 0 and index > 0:
            raise UnusableProof("The timestamp has a number that is not in its shortest form.")
        return value

    def _read_bytes(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise UnusableProof("The timestamp is incomplete: its end is missing.")
        part = self._data[self._position : end]
        self._position = end
        return part


def _apply(tag: bytes, message: bytes, argument: bytes) -> bytes:
    """Return the result of an operation. Raises UnusableProof if there is none."""
    if tag in _HASHES:
        return _hash(_HASHES[tag], message)
    if tag == APPEND:
        result = message + argument
    elif tag == PREPEND:
        result = argument + message
    elif tag == REVERSE:
        result = message[::-1]
    elif tag == HEXLIFY:
        result = message.hex().encode()
    elif tag == KECCAK256:
        raise UnusableProof(
            "The timestamp uses Keccak-256 (operation 67), which this service does not compute."
        )
    else:
        raise UnusableProof(f"The timestamp has an unknown operation ({tag.hex()}).")
    if len(result) > MAX_MESSAGE_BYTES:
        raise UnusableProof(
            f"The timestamp has a message of more than {MAX_MESSAGE_BYTES:,} bytes."
        )
    return result


def _hash(name: str, message: bytes) -> bytes:
    # A time can be proved with SHA-1, too: two texts with one hash were both made before it.
    try:
        return hashlib.new(name, message, usedforsecurity=False).digest()
    except ValueError:
        # Some systems configure OpenSSL without RIPEMD-160.
        raise UnusableProof(
            f"The timestamp uses {name}, which this system's OpenSSL does not have."
        ) from None


def _read_answer(message: bytes, answer: bytes) -> _TimestampReader:
    if len(answer) > MAX_ANSWER_BYTES:
        raise UnusableProof(f"The timestamp has more than {MAX_ANSWER_BYTES:,} bytes.")
    if not 0 < len(message) <= MAX_MESSAGE_BYTES:
        raise UnusableProof(f"A message has 1 to {MAX_MESSAGE_BYTES:,} bytes.")
    return _TimestampReader(answer, start=0, message=message)


def _read_file(file: bytes) -> _TimestampReader:
    return _TimestampReader(file, start=_HEADER_BYTES, message=_digest_of(file))


def _digest_of(file: bytes) -> bytes:
    """Return the hash that a file is about. Raises UnusableProof if the file's head is wrong."""
    if not file.startswith(MAGIC):
        raise UnusableProof("This is not an OpenTimestamps file: its first bytes are others.")
    if len(file) > MAX_FILE_BYTES:
        raise UnusableProof(f"The OpenTimestamps file has more than {MAX_FILE_BYTES:,} bytes.")
    if len(file) < _HEADER_BYTES:
        raise UnusableProof("The OpenTimestamps file is incomplete: its end is missing.")
    version, operation = file[len(MAGIC) :][:1], file[len(MAGIC) :][1:2]
    if version != VERSION:
        raise UnusableProof(f"The OpenTimestamps file has the unknown version {version[0]}.")
    if operation != SHA256:
        raise UnusableProof(
            f"The OpenTimestamps file is about a hash that is not SHA-256 ({operation.hex()})."
        )
    return file[_HEADER_BYTES - DIGEST_BYTES : _HEADER_BYTES]


def _attestations(reader: _TimestampReader) -> tuple[Attestation, ...]:
    return tuple(place.attestation for place in reader.places)


def _of_kind(attestations: Sequence[Attestation], kind: AttestationKind) -> list[Attestation]:
    return [one for one in attestations if one.kind == kind]
