"""
A queue in turns by client: the first item of every client comes before the second one of any.

So what a client waits for depends on the number of other clients, and not on how much each of them asks for.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items that wait, by the client that each belongs to; an item is any object with a hash, and waits once."""

    def __init__(self) -> None:
        self._size = 0
        # In the order of the clients' turns. A client without an item has no entry.
        self._by_client: dict[str, dict[Item, None]] = {}

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._size

    def count(self, client: str) -> int:
        """Return how many items of a client wait."""
        return len(self._by_client.get(client, ()))

    def longest(self) -> str:
        """Return the client with the most items; the queue must not be empty."""
        return max(self._by_client, key=self.count)

    def add(self, client: str, item: Item) -> None:
        """Let an item wait behind all others of its client."""
        self._by_client.setdefault(client, {})[item] = None
        self._size += 1

    def remove(self, client: str, item: Item) -> None:
        """Let an item wait no longer, if it does."""
        items = self._by_client.get(client, {})
        if item not in items:
            return
        del items[item]
        self._size -= 1
        if not items:
            del self._by_client[client]

    def next(self, has_turn: Callable[[str], bool] = lambda client: True) -> Item | None:
        """Remove and return the item whose turn it is, of the clients that may have a turn; None if there is none."""
        client = next((client for client in self._by_client if has_turn(client)), None)
        if client is None:
            return None
        items = self._by_client.pop(client)
        item = next(iter(items))
        del items[item]
        self._size -= 1
        if items:
            self._by_client[client] = items  # behind all others
        return item

    def last(self, client: str) -> Item:
        """Remove and return the item of a client that has waited for the shortest time."""
        item = next(reversed(self._by_client[client]))
        self.remove(client, item)
        return item
