"""
The client that sent a request: the address by which limits and turns distinguish clients.

It is the address of the connection. Behind a proxy, all connections have the proxy's address. For
this case, the setting TRUSTED_ADDRESS_HEADER names the header in which the proxy writes the
client's address. A client could send such a header itself, so no header is read if the setting is
empty.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

# Keys in a request's scope. The client's address, once `client_address` has determined it.
CLIENT = "alpha_monday.client"
# The name, in lower case, of the header in which the proxy in front writes the client's address.
ADDRESS_HEADER = "alpha_monday.address_header"

UNKNOWN_CLIENT = "unknown"

# How many parsed addresses are cached, so that a request need not parse the same address again.
_CACHED_ADDRESSES = 4096
_MAX_ADDRESS_LENGTH = 64

# The length of the prefix of an IPv6 network, in bits. One client can use all addresses of such a
# network: a household or a machine usually gets a network of this size.
_CLIENT_PREFIX_LENGTH = 64
# In a network that uses only IPv6, an IPv4 address is written as an IPv6 address with this prefix
# (RFC 6052).
_TRANSLATED_IPV4 = IPv6Network("64:ff9b::/96")


def client_address(scope: Any) -> str:
    """
    Return the address of the client that sent a request; "unknown" if the server does not know it.

    An IPv6 address becomes its network of 64 bits, because one client can use all addresses of such
    a network. The address is stored in the scope.
    """
    if known := scope.get(CLIENT):
        return str(known)
    address = _from_trusted_header(scope)
    if address is None:
        client = scope.get("client")
        address = address_group(str(client[0])) if client else UNKNOWN_CLIENT
    scope[CLIENT] = address
    return address


def _from_trusted_header(scope: Any) -> str | None:
    """
    Return the address in the trusted header, or None if the header is missing or has no address.

    If the header has several values, the last one counts: each proxy appends the address that it
    has seen, and only the nearest proxy is trusted.
    """
    header = scope.get(ADDRESS_HEADER)
    if not header:
        return None
    values = [value for name, value in scope["headers"] if name == header]
    if not values:
        return None
    last = values[-1].rpartition(b",")[2].strip()
    if len(last) > _MAX_ADDRESS_LENGTH:
        return None
    return _parse(last.decode("latin-1"))


def address_group(address: str) -> str:
    """
    Return the name under which the clients at `address` are counted.

    For an IPv6 address it is the address's network (`client_address`).
    """
    return _parse(address) or address


@lru_cache(_CACHED_ADDRESSES)
def _parse(text: str) -> str | None:
    """
    Return an address in its usual form, or None if `text` is not an address.

    An IPv6 address becomes its network.
    """
    try:
        address = ip_address(_without_port(text))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return _network(address)
    return str(address)


def _without_port(text: str) -> str:
    """Return an address without a zone, and without the port and brackets that some proxies add."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return text.partition("%")[0]


def _network(address: IPv6Address) -> str:
    if mapped := address.ipv4_mapped:
        return str(mapped)
    if address in _TRANSLATED_IPV4:
        # The last 32 bits are the IPv4 address.
        return str(IPv4Address(int(address) & 0xFFFF_FFFF))
    return str(IPv6Network((address, _CLIENT_PREFIX_LENGTH), strict=False))


class ClientCounter:
    """A number for each client, and their total; a client whose number is zero has no entry."""

    def __init__(self) -> None:
        self.total = 0
        self.by_client: dict[str, int] = {}

    def count_for(self, client: str) -> int:
        """Return the number of a client."""
        return self.by_client.get(client, 0)

    def add(self, client: str, number: int) -> None:
        """Add to the number of a client; a negative number is subtracted."""
        self.total += number
        new = self.by_client.get(client, 0) + number
        if new:
            self.by_client[client] = new
        else:
            self.by_client.pop(client, None)
