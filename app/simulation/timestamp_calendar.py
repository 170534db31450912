"""
A simulator of an OpenTimestamps calendar, with real proofs that lead into made-up Bitcoin blocks.

`app.simulation.provider_simulators` serves it below `/calendar`: that is the address for
OTS_CALENDARS. `POST /calendar/digest` answers with a pending proof of the hash in the request's
body. Two hours of the given time later, `GET /calendar/timestamp/{commitment}` answers with the
operations into a block; until then the status is 404.

The simulator stores nothing. Like a real calendar, it puts the time and a message authentication
code (MAC) into each commitment, so it recognises its own commitments after a restart. The block is
computed from the commitment, and `simulated_block` tells which one it is. The height of such a
block is above 100 million, and real ones are below one million for years. So a simulated proof
cannot be mistaken for a real one.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from app.domain.opentimestamps import (
    APPEND,
    ATTESTATION,
    BITCOIN,
    DIGEST_BYTES,
    FORK,
    HEXLIFY,
    KECCAK256,
    MAGIC,
    PENDING,
    PREPEND,
    SHA256,
    VERSION,
)
from app.simulation.faults import ANYWHERE, Fault, SimulatedReply, SimulatedRequest

# The name in a fault script. Its functions are DIGEST and TIMESTAMP.
PROVIDER = "calendar"
DIGEST = "digest"
TIMESTAMP = "timestamp"

# The folder of the paths, and the end of the address in OTS_CALENDARS.
PATH = "/calendar"

# The time from a pending proof to the block.
CONFIRMATION_TIME = timedelta(hours=2)

_MAC_KEY = b"simulated calendar"
_MAC_BYTES = 8
_TIME_BYTES = 4
_COMMITMENT_BYTES = _TIME_BYTES + DIGEST_BYTES + _MAC_BYTES
_NONCE_BYTES = 16

# One made-up block every 10 seconds, so that two proofs rarely name one block with two roots.
_FIRST_HEIGHT = 100_000_000
_SECONDS_PER_BLOCK = 10
# A made-up transaction around the 32 bytes that are recorded: one input, one output with OP_RETURN.
_TRANSACTION_BEFORE = bytes.fromhex(
    f"0200000001{'5a' * 32}0000000000fdffffff010000000000000000226a20"
)
_TRANSACTION_AFTER = bytes.fromhex("00000000")
_BLOCK_LEVELS = 8

_HEADERS: Mapping[str, str] = MappingProxyType({"content-type": "application/octet-stream"})


class SimulatedBlock(Struct, frozen=True):
    """A made-up Bitcoin block: its height, and its Merkle root as block explorers show it."""

    height: int
    merkle_root: str


class _ProofWriter:
    """Writes operations, and applies each one to `message`. `proof` is what was written."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.proof = b""

    def append(self, argument: bytes) -> None:
        self.message += argument
        self.proof += APPEND + _sized(argument)

    def prepend(self, argument: bytes) -> None:
        self.message = argument + self.message
        self.proof += PREPEND + _sized(argument)

    def sha256(self) -> None:
        self.message = _sha256(self.message)
        self.proof += SHA256

    def attest(self, tag: bytes, payload: bytes) -> None:
        self.proof += _attestation(tag, payload)


def answer(scope: Any, body: bytes, now: datetime) -> tuple[SimulatedRequest, SimulatedReply]:
    """
    Return a request to the calendar, and the reply without faults.

    `scope` is the ASGI scope, with a path below PATH. `now` is the time of the request.
    """
    function, _, argument = scope["path"].removeprefix(f"{PATH}/").partition("/")
    request = SimulatedRequest(provider=PROVIDER, function=function, key="", symbol="", at=now)
    method = scope["method"]
    if method == "POST" and function == DIGEST and not argument:
        return request, _answer_digest(body, _own_address(scope), now)
    if method == "GET" and function == TIMESTAMP:
        return request, _answer_commitment(argument, now)
    return request, _text_reply("Not found", 404)


def simulated_block(commitment: bytes) -> SimulatedBlock:
    """Return the block into which a commitment of this calendar is brought."""
    writer = _write_upgrade(commitment)
    return SimulatedBlock(_height(commitment), writer.message[::-1].hex())


def _answer_digest(digest: bytes, address: str, now: datetime) -> SimulatedReply:
    # Real calendars have this limit, too, and know nothing of the hash's kind.
    if not 0 < len(digest) <= 64:
        return _text_reply("Invalid digest length", 400)
    seconds = int(now.timestamp()).to_bytes(_TIME_BYTES, "big")
    writer = _ProofWriter(digest)
    # The nonce hides the hash from the other users of a calendar.
    writer.append(_sha256(b"nonce" + seconds + digest)[:_NONCE_BYTES])
    writer.sha256()
    # The hash of another user, which arrived in the same second.
    writer.prepend(_sha256(b"neighbour" + writer.message))
    writer.sha256()
    writer.prepend(seconds)
    writer.append(_mac(writer.message))
    writer.attest(PENDING, _sized(address.encode()))
    return SimulatedReply(body=writer.proof, headers=_HEADERS)


def _answer_commitment(text: str, now: datetime) -> SimulatedReply:
    try:
        commitment = bytes.fromhex(text)
    except ValueError:
        return _text_reply("commitment must be hex-encoded bytes", 400)
    message, mac = commitment[:-_MAC_BYTES], commitment[-_MAC_BYTES:]
    is_known = len(commitment) == _COMMITMENT_BYTES
    if not is_known or not hmac.compare_digest(mac, _mac(message)):
        return _text_reply("Commitment not found", 404)
    if now.timestamp() < _seconds(commitment) + CONFIRMATION_TIME.total_seconds():
        return _text_reply("Pending confirmation in Bitcoin blockchain", 404)
    writer = _write_upgrade(commitment)
    writer.attest(BITCOIN, _number(_height(commitment)))
    return SimulatedReply(body=writer.proof, headers=_HEADERS)


def _write_upgrade(commitment: bytes) -> _ProofWriter:
    """Write the operations from a commitment to the Merkle root of its block."""
    writer = _ProofWriter(commitment)
    writer.sha256()
    # The calendar's own tree: its root is in the transaction.
    writer.append(_sha256(b"calendar" + commitment))
    writer.sha256()
    writer.prepend(_TRANSACTION_BEFORE)
    writer.append(_TRANSACTION_AFTER)
    # The id of a transaction and each node of a block's tree are hashed twice.
    writer.sha256()
    writer.sha256()
    for level in range(_BLOCK_LEVELS):
        neighbour = _sha256(b"block" + bytes([level]) + commitment)
        if neighbour[0] % 2:
            writer.append(neighbour)
        else:
            writer.prepend(neighbour)
        writer.sha256()
        writer.sha256()
    return writer


def _height(commitment: bytes) -> int:
    seconds = _seconds(commitment) + int(CONFIRMATION_TIME.total_seconds())
    return _FIRST_HEIGHT + seconds // _SECONDS_PER_BLOCK


def _seconds(commitment: bytes) -> int:
    """Return the time of a commitment, in seconds since 1970."""
    return int.from_bytes(commitment[:_TIME_BYTES], "big")


def _own_address(scope: Any) -> str:
    """
    Return the address at which the client reached this calendar.

    The client compares it with its own setting, which can say 127.0.0.1 or localhost. With the
    slash at its end, the reference client (the command ots) can upgrade a proof, too: it replaces
    what follows the last slash.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1")
    return f"{scope.get('scheme', 'http')}://{host}{PATH}/"


def _mac(message: bytes) -> bytes:
    return hmac.digest(_MAC_KEY, message, "sha256")[:_MAC_BYTES]


def _sha256(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def _text_reply(text: str, status: int) -> SimulatedReply:
    return SimulatedReply(status=status, body=text.encode(), headers={"content-type": "text/plain"})


def _number(value: int) -> bytes:
    """Return a number in base 128, the lowest 7 bits first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _sized(content: bytes) -> bytes:
    return _number(len(content)) + content


def _attestation(tag: bytes, payload: bytes) -> bytes:
    return ATTESTATION + tag + _sized(payload)


def _pending(uri: str) -> bytes:
    return _attestation(PENDING, _sized(uri.encode()))


def _answer_with(body: bytes) -> Fault:
    """Return a fault that answers with these bytes and the status 200."""
    return lambda *_: SimulatedReply(body=body, headers=_HEADERS)


def _put_before(start: bytes) -> Fault:
    return lambda good, _: replace(good, body=start + good.body)


def _put_behind(end: bytes) -> Fault:
    return lambda good, _: replace(good, body=good.body + end)


def _change_argument(good: SimulatedReply, _: SimulatedRequest) -> SimulatedReply:
    """
    Change a byte of the first argument.

    The result is a timestamp that leads to another commitment or block: it is exactly what another
    hash's answer looks like. It can be read, but no calendar knows the commitment, and no block has
    the Merkle root.
    """
    position = 10
    if len(good.body) <= position:
        return good
    changed = bytes([good.body[position] ^ 1])
    return replace(good, body=good.body[:position] + changed + good.body[position + 1 :])


def _answer_not_found(*_: object) -> SimulatedReply:
    return _text_reply("Commitment not found", 404)


_UNKNOWN_ATTESTATION = _attestation(b"\x01\x02\x03\x04\x05\x06\x07\x08", b"of another service")
_HASHED_BLOCK = SHA256 + _attestation(BITCOIN, _number(123_456_789))

FAULTS: dict[str, Fault] = {
    **ANYWHERE,
    "not_found": _answer_not_found,
    "other_digest": _change_argument,
    "too_long": lambda good, _: replace(good, body=good.body.ljust(20_000, b"\x00")),
    # A timestamp that could be read, if it were shorter.
    "too_long_proof": _put_before((FORK + _attestation(bytes(8), bytes(6000))) * 2),
    "unknown_attestation": _answer_with(SHA256 + _UNKNOWN_ATTESTATION),
    "unknown_attestation_beside": _put_before(FORK + _UNKNOWN_ATTESTATION),
    "foreign_uri": _answer_with(SHA256 + _pending("https://calendar.example.org")),
    "foreign_port": _answer_with(SHA256 + _pending("http://127.0.0.1:1/calendar")),
    "uri_with_user": _answer_with(SHA256 + _pending("https://a@calendar.example.org")),
    "uri_with_query": _answer_with(SHA256 + _pending("https://calendar.example.org/?a=b")),
    "uri_with_line_feed": _answer_with(SHA256 + _pending("https://calendar.example.org\n")),
    "long_uri": _answer_with(SHA256 + _pending(f"https://{'a' * 1000}.example.org")),
    "byte_behind": _put_behind(b"\x00"),
    "line_feed_behind": _put_behind(b"\n"),
    "only_fork": _answer_with(FORK),
    "one_byte": _answer_with(ATTESTATION),
    "hexadecimal": lambda good, _: replace(good, body=good.body.hex().encode()),
    "whole_file": _put_before(MAGIC + VERSION + SHA256 + bytes(DIGEST_BYTES)),
    "keccak": _answer_with(KECCAK256 + _UNKNOWN_ATTESTATION),
    "unknown_operation": _put_before(b"\x04"),
    "empty_argument": _put_before(APPEND + b"\x00"),
    "deep": _put_before(SHA256 * 300),
    "long_message": _put_before(HEXLIFY * 7),
    "long_argument": _put_before(APPEND + _sized(bytes(4097))),
    "repeated_operation": lambda good, _: replace(good, body=FORK + good.body + good.body),
    "long_number": _put_before(APPEND + b"\x81" * 200 + b"\x00"),
    "padded_number": _put_before(APPEND + b"\x81\x00a"),
    "high_block": _answer_with(SHA256 + _attestation(BITCOIN, _number(2**40))),
    "short_root": _answer_with(b"\x02" + _attestation(BITCOIN, _number(900_000))),
    "long_attestation": _answer_with(SHA256 + _attestation(BITCOIN, _number(900_000) + b"\x00")),
    # A block that does not exist. Only a comparison with the block chain shows it.
    "false_block": _answer_with(_HASHED_BLOCK),
}
