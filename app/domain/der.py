"""
A reader and a writer of DER, the encoding of timestamps and certificates (X.690).

`rfc3161-client` parses timestamps and checks their signatures, but it does not return everything
that `app.domain.rfc3161` must check. So that module reads some values from bytes that the library
has accepted. The simulator of a time-stamping authority writes its responses with this module. Both
need a few kinds of values only; a general library would be one more dependency for them.

An element is a tag of one byte, a length, and a content. The content of a sequence, a set or a
context-specific element of this module consists of elements.
"""

from msgspec import Struct

# Tags.
BOOLEAN = 0x01
INTEGER = 0x02
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_ID = 0x06
UTF8_STRING = 0x0C
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

# A length up to this one is one byte. The first byte of a longer one is this number plus the number
# of bytes that follow.
_SHORT_LENGTH = 0x7F
_LONG_LENGTH = 0x80
# A tag with all of these bits continues in the next bytes. Timestamps have no such tag.
_LONG_TAG = 0x1F
# More bytes of a length than any element of a timestamp needs.
_MAX_LENGTH_BYTES = 4


class Element(Struct, frozen=True):
    """One element: its tag, its content, and the bytes of the whole element."""

    tag: int
    content: bytes
    encoded: bytes

    def children(self) -> "list[Element]":
        """Return the elements that the content consists of. Raises ValueError if it does not."""
        return elements(self.content)


def elements(data: bytes) -> list[Element]:
    """
    Return the elements that `data` consists of.

    Raises ValueError if `data` ends within an element, or has a tag or length of another form.
    """
    found = []
    start = 0
    while start < len(data):
        tag, content_start, end = _head(data, start)
        found.append(Element(tag, data[content_start:end], data[start:end]))
        start = end
    return found


def _head(data: bytes, start: int) -> tuple[int, int, int]:
    """Return the tag of the element at `start`, and where its content begins and ends."""
    head = data[start : start + 2]
    if len(head) < 2 or head[0] & _LONG_TAG == _LONG_TAG:
        raise ValueError("no tag and length")
    content_start = start + 2
    length = head[1]
    if length > _SHORT_LENGTH:
        count = length - _LONG_LENGTH
        number = data[content_start : content_start + count]
        # A count of 0 is an indefinite length, which DER does not allow.
        if not 0 < count <= _MAX_LENGTH_BYTES or len(number) < count:
            raise ValueError("no usable length")
        length = int.from_bytes(number)
        content_start += count
    end = content_start + length
    if end > len(data):
        raise ValueError("the data ends within an element")
    return head[0], content_start, end


def encode(tag: int, *parts: bytes) -> bytes:
    """Return an element whose content is all `parts`, one after another."""
    content = b"".join(parts)
    length = len(content)
    if length <= _SHORT_LENGTH:
        return bytes([tag, length]) + content
    number = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, _LONG_LENGTH + len(number)]) + number + content


def sequence(*parts: bytes) -> bytes:
    """Return a sequence of the elements `parts`."""
    return encode(SEQUENCE, *parts)


def integer(number: int) -> bytes:
    """Return a whole number that is not negative, as an element."""
    # One byte more than needed if the first bit would be set: it is the sign.
    return encode(INTEGER, number.to_bytes(number.bit_length() // 8 + 1))


def object_id(dotted: str) -> bytes:
    """Return an object identifier such as "1.2.840.113549" as an element."""
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return encode(OBJECT_ID, content)
