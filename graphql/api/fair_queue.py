"""
A queue that takes turns by client: the first item of each client comes before any second item.

So the time that a client waits depends on the number of other clients, and not on how much each of
them requests.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """
    Waiting items, grouped by the client that each belongs to.

    An item is any hashable object; it can be in the queue only once.
    """

    def __init__(self) -> None:
        self._size = 0
        # Sorted by the clients' turns. A client without an item has no entry.
        self._by_client: dict[str, dict[Item, None]] = {}

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._size

    def count(self, client: str) -> int:
        """Return how many items of a client wait."""
        return len(self._by_client.get(client, ()))

    def busiest_client(self) -> str:
        """Return the client with the most items; the queue must not be empty."""
        return max(self._by_client, key=self.count)

    def add(self, client: str, item: Item) -> None:
        """Add an item behind all other items of its client."""
        self._by_client.setdefault(client, {})[item] = None
        self._size += 1

    def remove(self, client: str, item: Item) -> None:
        """Remove an item, if it is in the queue."""
        items = self._by_client.get(client, {})
        if item not in items:
            return
        del items[item]
        self._size -= 1
        if not items:
            del self._by_client[client]

    def take_next(self, may_take: Callable[[str], bool] = lambda client: True) -> Item | None:
        """
        Remove and return the item whose turn it is, or None if no item may be taken.

        Clients for which `may_take` is false are skipped, and keep their turn.
        """
        client = next((client for client in self._by_client if may_take(client)), None)
        if client is None:
            return None
        items = self._by_client.pop(client)
        item = next(iter(items))
        del items[item]
        self._size -= 1
        if items:
            # A dict keeps the order of insertion, so this client is now behind all others.
            self._by_client[client] = items
        return item

    def take_newest(self, client: str) -> Item:
        """Remove and return the newest item of a client; the client must have one."""
        item = next(reversed(self._by_client[client]))
        self.remove(client, item)
        return item
