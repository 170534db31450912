"""
The client that sent a request: the address by which limits and turns distinguish clients.

It is the address of the connection. Behind a proxy, that is the proxy's address for all clients: then
the setting TRUSTED_ADDRESS_HEADER names the header in which the proxy writes the client's address. A
client could write any header itself, so no header is read where the setting is empty.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

# Keys in a request's scope. The client's address, once it was determined.
CLIENT = "alpha_monday.client"
# The name, in lower case, of the header in which the proxy in front writes the client's address.
ADDRESS_HEADER = "alpha_monday.address_header"

UNKNOWN = "unknown"

# How many addresses are remembered, so that each request does not parse its own. None is longer than LONGEST.
_REMEMBERED = 4096
_LONGEST = 64

# A network of IPv6 that its owner can fill with addresses at will: a house or a machine is given one of these.
_OF_ONE_CLIENT = 64
# IPv4 addresses, as networks that speak only IPv6 write them (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")


def client_of(scope: Any) -> str:
    """
    Return the address of the client that sent a request; "unknown" where the server does not know it.

    An IPv6 address is given as its network of 64 bits, because a client has as many addresses of one as it likes.
    """
    if found := scope.get(CLIENT):
        return str(found)
    address = _from_trusted_header(scope)
    if address is None:
        client = scope.get("client")
        address = group_of(str(client[0])) if client else UNKNOWN
    scope[CLIENT] = address
    return address


def _from_trusted_header(scope: Any) -> str | None:
    """
    Return the address in the trusted header, or None if that is not set, not there, or no address.

    Of several values the last counts: each proxy appends what it has seen, and only the nearest one is trusted.
    """
    header = scope.get(ADDRESS_HEADER)
    if not header:
        return None
    values = [value for name, value in scope["headers"] if name == header]
    if not values:
        return None
    last = values[-1].rpartition(b",")[2].strip()
    return _parsed(last.decode("latin-1")) if len(last) <= _LONGEST else None


def group_of(address: str) -> str:
    """Return what clients of a connection's address are counted by."""
    return _parsed(address) or address


@lru_cache(_REMEMBERED)
def _parsed(text: str) -> str | None:
    """Return an address in its usual form, and one of IPv6 as its network, or None if it is no address."""
    try:
        address = ip_address(_without_port(text))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return _network(address)
    return str(address)


def _without_port(text: str) -> str:
    """Return an address without the port and the brackets that some proxies write with it, and without a zone."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return text.partition("%")[0]


def _network(address: IPv6Address) -> str:
    if mapped := address.ipv4_mapped:
        return str(mapped)
    if address in _TRANSLATED:
        return str(IPv4Address(int(address) & 0xFFFF_FFFF))
    return str(IPv6Network((address, _OF_ONE_CLIENT), strict=False))


class Tally:
    """Numbers by client, and their sum; a client whose number is zero has no entry."""

    def __init__(self) -> None:
        self.total = 0
        self.by_client: dict[str, int] = {}

    def of(self, client: str) -> int:
        """Return the number of a client."""
        return self.by_client.get(client, 0)

    def add(self, client: str, number: int) -> None:
        """Add to the number of a client; a negative number takes away."""
        self.total += number
        new = self.by_client.get(client, 0) + number
        if new:
            self.by_client[client] = new
        else:
            self.by_client.pop(client, None)
