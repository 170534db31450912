"""
An independent reader of OpenTimestamps files, for tests. It knows the format and no code of ours.

    python tests/support/opentimestamps_reader.py HASH FILE

prints what the file proves about the hash: the block to compare, or the calendar to ask. It was
written from the description of the format alone: a file is a head, a hash, and a tree of
operations whose leaves are attestations. Reading is recursive here, on an iterator of bytes, and
each leaf is yielded with the operations that lead to it.
"""

import hashlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEAD = bytes.fromhex(
    "004f70656e54696d657374616d7073000050726f6f6600bf89e2e884e8929401"  # with the version, 1
)
HASHES = {0x02: "sha1", 0x03: "ripemd160", 0x08: "sha256"}
LEAF, FORK = 0x00, 0xFF


class UnreadableFile(Exception):
    """The bytes are not an OpenTimestamps file about a SHA-256 hash."""


class Leaf(NamedTuple):
    """
    An attestation: the steps from the hash to its message, and who has recorded that message.

    `block` is a height of the Bitcoin block chain, and `calendar` the URI of a calendar. An
    attestation of another kind has neither.
    """

    steps: tuple[str, ...]
    message: bytes
    block: int | None = None
    calendar: str | None = None

    @property
    def root(self) -> str:
        """The message as a block explorer shows a Merkle root."""
        return bytes(reversed(self.message)).hex()


def read(file: bytes) -> tuple[bytes, list[Leaf]]:
    """Return the hash that a file is about, and its attestations."""
    source = iter(file)
    try:
        if take(source, len(HEAD)) != HEAD or next(source) != 0x08:
            raise UnreadableFile("the head")
        digest = take(source, 32)
        leaves = list(tree(source, digest, ()))
    except (StopIteration, RuntimeError, RecursionError) as error:
        # Within a generator, a StopIteration becomes a RuntimeError.
        raise UnreadableFile("the end is missing, or the tree is too deep") from error
    except ValueError as error:
        # Also an algorithm that this system does not have, and bytes that are not ASCII.
        raise UnreadableFile("a hash or a URI that is of no use") from error
    if next(source, None) is not None:
        raise UnreadableFile("bytes after the end")
    return digest, leaves


def tree(source: Iterator[int], message: bytes, steps: tuple[str, ...]) -> Iterator[Leaf]:
    """Yield the leaves below a message."""
    if len(steps) > 255 or len(message) > 4096:
        raise UnreadableFile("too deep, or too long a message")
    while True:
        tag = next(source)
        if is_fork := tag == FORK:
            tag = next(source)
        if tag == LEAF:
            yield leaf(source, message, steps)
        else:
            step, result = calculate(source, tag, message)
            yield from tree(source, result, (*steps, step))
        if not is_fork:
            return


def calculate(source: Iterator[int], tag: int, message: bytes) -> tuple[str, bytes]:
    """Return an operation in words, and its result."""
    if tag in HASHES:
        name = HASHES[tag]
        return name, hashlib.new(name, message).digest()
    match tag:
        case 0xF0:
            more = counted(source)
            return f"append {more.hex()}", b"".join([message, more])
        case 0xF1:
            more = counted(source)
            return f"prepend {more.hex()}", b"".join([more, message])
        case 0xF2:
            return "reverse", bytes(reversed(message))
        case 0xF3:
            return "hexlify", "".join(f"{byte:02x}" for byte in message).encode()
    raise UnreadableFile(f"operation {tag:02x}")


def leaf(source: Iterator[int], message: bytes, steps: tuple[str, ...]) -> Leaf:
    """Return an attestation; its payload has a length of its own."""
    tag = take(source, 8).hex()
    payload = iter(counted(source))
    found = Leaf(steps, message)
    if tag == "83dfe30d2ef90c8e":
        found = found._replace(calendar=uri(payload))
    elif tag == "0588960d73d71901":
        found = found._replace(block=number(payload))
    else:
        return found
    if next(payload, None) is not None:
        raise UnreadableFile("a payload that is too long")
    return found


def uri(source: Iterator[int]) -> str:
    """Return the URI of a calendar, which is shown on a terminal: visible characters alone."""
    text = counted(source).decode("ascii")
    if not text.isprintable() or " " in text:
        raise UnreadableFile("a URI with a control character or a space")
    return text


def counted(source: Iterator[int]) -> bytes:
    """Return as many bytes as the number before them says."""
    return take(source, number(source))


def number(source: Iterator[int]) -> int:
    """Return a number: seven bits a byte, the lowest first; the last byte is below 128."""
    digits = []
    while not digits or digits[-1] >= 128:
        if len(digits) == 9:
            raise UnreadableFile("a number of more than 63 bits")
        digits.append(next(source))
    return sum(digit % 128 * 128**place for place, digit in enumerate(digits))


def take(source: Iterator[int], count: int) -> bytes:
    """Return so many bytes."""
    part = bytes(itertools.islice(source, count))
    if len(part) < count:
        raise UnreadableFile("the end is missing")
    return part


def main() -> None:
    """Print what a file proves about a hash."""
    hexadecimal, path = sys.argv[1:]
    digest, leaves = read(Path(path).read_bytes())
    if digest.hex() != hexadecimal:
        sys.exit("The file is about another hash.")
    for one in leaves:
        if one.block is not None:
            print(f"block {one.block} must have the Merkle root {one.root}")
        elif one.calendar is not None:
            address = one.calendar.rstrip("/")
            print(f"ask {address}/timestamp/{one.message.hex()}")


if __name__ == "__main__":
    main()
