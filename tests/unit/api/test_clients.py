"""
By which address clients are distinguished.

The kind: every text that a client, or a proxy in front, may write into the header with an address.
"""

import pytest

from api.clients import ADDRESS_HEADER, UNKNOWN_CLIENT, ClientCounter, client_address

OWN = "192.0.2.1"


def scope(
    *values: str, connection: str | None = OWN, trusted: str = "x-forwarded-for"
) -> dict[str, object]:
    """Return a request with these values of the header, on a connection from an address."""
    return {
        "headers": [
            (b"host", b"x"),
            *((b"x-forwarded-for", value.encode("latin-1")) for value in values),
        ],
        "client": (connection, 1) if connection else None,
        ADDRESS_HEADER: trusted.encode(),
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(["203.0.113.9"], "203.0.113.9", id="an address"),
        pytest.param([" 203.0.113.9 "], "203.0.113.9", id="spaces around it"),
        pytest.param(
            ["198.51.100.1, 203.0.113.9"],
            "203.0.113.9",
            id="a list: the nearest proxy's is the last",
        ),
        pytest.param(["198.51.100.1,203.0.113.9"], "203.0.113.9", id="a list without spaces"),
        pytest.param(["198.51.100.1", "203.0.113.9"], "203.0.113.9", id="two headers"),
        pytest.param(
            ["203.0.113.9", "198.51.100.1, nonsense"], OWN, id="the last one is no address"
        ),
        pytest.param(["203.0.113.9:4711"], "203.0.113.9", id="a port"),
        pytest.param(["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64", id="IPv6 with a port"),
        pytest.param(["[2001:db8:1:2:3::4]"], "2001:db8:1:2::/64", id="IPv6 in brackets"),
        pytest.param(["2001:db8:1:2:3::4"], "2001:db8:1:2::/64", id="IPv6"),
        pytest.param(["2001:DB8:1:2::"], "2001:db8:1:2::/64", id="IPv6 in capitals"),
        pytest.param(["fe80::1%eth0"], "fe80::/64", id="IPv6 with a zone"),
        pytest.param(["::ffff:203.0.113.9"], "203.0.113.9", id="IPv4 within IPv6"),
        pytest.param(["64:ff9b::203.0.113.9"], "203.0.113.9", id="IPv4 translated to IPv6"),
        pytest.param([], OWN, id="no header"),
        pytest.param([""], OWN, id="empty"),
        pytest.param(["203.0.113.9,"], OWN, id="nothing behind a comma"),
        pytest.param(["unknown"], OWN, id="a word"),
        pytest.param(["203.0.113.999"], OWN, id="no byte"),
        pytest.param(["203.0.113.09"], OWN, id="a zero before"),
        pytest.param(["203.0.113.9/8"], OWN, id="a network"),
        pytest.param(["3405803785"], OWN, id="a number"),
        pytest.param(["\xff\xfe"], OWN, id="no ASCII"),
        pytest.param(["1" * 70_000], OWN, id="very long"),
        pytest.param(["for=203.0.113.9"], OWN, id="as RFC 7239 has it"),
    ],
)
def test_the_trusted_header(values, expected):
    """For an invalid address the connection's own counts, which is the proxy's."""
    assert client_address(scope(*values)) == expected


@pytest.mark.parametrize(
    "values", [["203.0.113.9"], ["198.51.100.1, 203.0.113.9"], ["::1"], ["nonsense"]]
)
@pytest.mark.parametrize("trusted", ["", "fly-client-ip"])
def test_a_header_that_is_not_trusted(trusted, values):
    """A client can write any text into such a header."""
    assert client_address(scope(*values, trusted=trusted)) == OWN


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        (None, UNKNOWN_CLIENT),
    ],
)
def test_the_address_of_a_connection(connection, expected):
    assert client_address(scope(connection=connection, trusted="")) == expected


def test_the_address_is_determined_once():
    """Also if an outer layer has already set it."""
    one = scope("203.0.113.9")
    assert client_address(one) == "203.0.113.9"
    one["headers"] = []
    assert client_address(one) == "203.0.113.9"


def test_a_tally():
    """
    A client whose number is zero is removed, because otherwise each address would stay for ever.
    """
    tally = ClientCounter()
    for client, number in [("a", 3), ("b", 2), ("a", -1), ("c", 0), ("b", -2)]:
        tally.add(client, number)
    assert (tally.total, tally.by_client, tally.count_for("a"), tally.count_for("b")) == (
        2,
        {"a": 2},
        2,
        0,
    )
