"""The encoding of timestamps. The expected bytes are examples of X.690 and RFC 3161."""

import pytest

from app.domain import der


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        pytest.param(der.integer(0), "020100", id="zero"),
        pytest.param(der.integer(127), "02017f", id="one byte"),
        pytest.param(der.integer(128), "02020080", id="with a byte for the sign"),
        pytest.param(der.integer(256), "02020100", id="two bytes"),
        pytest.param(der.encode(der.NULL), "0500", id="null"),
        pytest.param(der.object_id("1.2.840.113549"), "06062a864886f70d", id="an object id"),
        pytest.param(der.object_id("2.999.3"), "0603883703", id="an object id of the arc 2.999"),
        pytest.param(
            der.sequence(der.integer(1), der.integer(2)), "3006020101020102", id="a sequence"
        ),
    ],
)
def test_what_is_written(encoded, expected):
    """Each value has one encoding."""
    assert encoded.hex() == expected


@pytest.mark.parametrize(
    ("length", "head"),
    [
        pytest.param(127, "047f", id="the longest short form"),
        pytest.param(128, "048180", id="one byte"),
        pytest.param(255, "0481ff", id="the largest byte"),
        pytest.param(256, "04820100", id="two bytes"),
        pytest.param(65_536, "0483010000", id="three bytes"),
    ],
)
def test_lengths(length, head):
    """A length has as few bytes as possible, and is read again."""
    encoded = der.encode(der.OCTET_STRING, bytes(length))
    assert encoded.hex().startswith(head)
    (read,) = der.elements(encoded)
    assert (read.tag, read.content, read.encoded) == (der.OCTET_STRING, bytes(length), encoded)


def test_children():
    """The content of a sequence is a list of elements; that of nothing is empty."""
    (read,) = der.elements(der.sequence(der.integer(1), der.sequence()))
    assert [one.encoded.hex() for one in read.children()] == ["020101", "3000"]
    assert der.elements(b"") == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("30", id="a tag alone"),
        pytest.param("020201", id="a content that ends early"),
        pytest.param("3080020101", id="an indefinite length"),
        pytest.param("0482ff", id="a length that ends early"),
        pytest.param("04850000000001ff", id="a length of five bytes"),
        pytest.param("1f8101020101", id="a tag of several bytes"),
        pytest.param("0201010200ff", id="more after the last element"),
    ],
)
def test_what_cannot_be_read(data):
    """It raises a ValueError, and no other error."""
    with pytest.raises(ValueError):
        der.elements(bytes.fromhex(data))
