"""
A cache of a function's results, limited by their number and by how many objects they consist of.

A full garbage collection visits all objects that can refer to each other, and stops the process
meanwhile. The syntax tree of one long document has thousands of objects. So the limit counts
objects. A plan has few objects but a long text, so the characters of texts count, too.
"""

import gc
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from types import FunctionType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from graphql import GraphQLField, GraphQLNamedType, GraphQLSchema
from msgspec import Struct

from api.fields import Source

# This many characters of a text count as one object.
CHARACTERS_PER_OBJECT = 256

# Objects to which many results refer. They do not belong to one result, so they are not counted.
_SHARED = GraphQLSchema | GraphQLNamedType | GraphQLField | Source | Enum | type


class Weighed(Protocol):
    """A result with a weight: the number of objects of which it consists."""

    @property
    def weight(self) -> int:
        """Return the number of objects."""


Result = TypeVar("Result", bound=Weighed)
Arguments = tuple[Any, ...]


class CacheInfo(NamedTuple):
    """How many results were made, how many are cached, and the weight of the cached ones."""

    misses: int
    currsize: int
    weight: int


class MemoEntry(Struct, frozen=True, gc=False):
    """A cached result, its weight, and the client for whose request it was made."""

    result: Any
    weight: int
    client: str


class Segment:
    """A part of the cached results, grouped by client."""

    def __init__(self) -> None:
        self.entries: dict[Arguments, MemoEntry] = {}
        self.weight = 0
        # The results of each client. A client moves to the end when one of its results is added, or
        # is requested by any client. If two clients have the same number or weight of results,
        # `evict` chooses the one that comes first.
        self._by_client: OrderedDict[str, OrderedDict[Arguments, None]] = OrderedDict()
        self._weights: dict[str, int] = {}

    def add(self, arguments: Arguments, entry: MemoEntry) -> None:
        """Add a result, the newest of its client."""
        self.entries[arguments] = entry
        self._by_client.setdefault(entry.client, OrderedDict())[arguments] = None
        self._by_client.move_to_end(entry.client)
        self._weights[entry.client] = self._weights.get(entry.client, 0) + entry.weight
        self.weight += entry.weight

    def touch(self, arguments: Arguments, client: str) -> None:
        """Make a result the newest of its client."""
        self._by_client[client].move_to_end(arguments)
        self._by_client.move_to_end(client)

    def remove(self, arguments: Arguments) -> None:
        """Remove a result."""
        entry = self.entries.pop(arguments)
        self.weight -= entry.weight
        self._weights[entry.client] -= entry.weight
        results = self._by_client[entry.client]
        del results[arguments]
        if not results:
            del self._by_client[entry.client], self._weights[entry.client]

    def evict(self, *, by_weight: bool) -> None:
        """
        Remove the oldest result of the client with the most results.

        With `by_weight`, it is the client whose results have the greatest weight.
        """
        size_of = self._weights.__getitem__ if by_weight else self._count_for
        largest_client = max(self._by_client, key=size_of)
        oldest = next(iter(self._by_client[largest_client]))
        self.remove(oldest)

    def _count_for(self, client: str) -> int:
        return len(self._by_client[client])


class Memo(Generic[Result]):
    """
    Caches results by the arguments from which they were made; the first argument is a text.

    It is a segmented cache. A result that is requested a second time moves from the new segment to
    the used one. When there is no more room, a result is removed: from the new segment if that
    takes more than a quarter of the cache, otherwise from the used one. So clients that send one
    new document after another do not remove the documents that other clients use again. The removed
    result is the oldest of one client: of the client that has the most results in the segment, or
    the greatest weight of results.
    """

    def __init__(self, make: Callable[..., Result], max_results: int, max_weight: int) -> None:
        self.make = make
        self.max_results = max_results
        self.max_weight = max_weight
        self._new = Segment()
        self._used = Segment()
        self._misses = 0

    def __call__(self, *arguments: Any) -> Result:
        """Return the cached result, or make it now."""
        cached = self.get(*arguments)
        if cached is None:
            return self.put(self.make(*arguments), *arguments)
        return cached

    def get(self, *arguments: Any) -> Result | None:
        """Return the result if it is cached, otherwise None."""
        if entry := self._used.entries.get(arguments):
            self._used.touch(arguments, entry.client)
        elif entry := self._new.entries.get(arguments):
            self._new.remove(arguments)
            self._used.add(arguments, entry)
        else:
            return None
        return entry.result  # type: ignore[no-any-return]

    def put(self, result: Result, *arguments: Any, client: str = "") -> Result:
        """Cache a new result, evict others until there is room, and return the result."""
        self._misses += 1
        for segment in (self._new, self._used):
            if arguments in segment.entries:
                segment.remove(arguments)
        weight = result.weight + len(arguments[0]) // CHARACTERS_PER_OBJECT
        self._new.add(arguments, MemoEntry(result, weight, client))
        while self._count() > self.max_results:
            has_few_new = len(self._new.entries) <= self.max_results // 4
            self._segment_to_evict(has_few_new=has_few_new).evict(by_weight=False)
        # A single result stays even if it is heavier than `max_weight`.
        while self._weight() > self.max_weight and self._count() > 1:
            has_few_new = self._new.weight <= self.max_weight // 4
            self._segment_to_evict(has_few_new=has_few_new).evict(by_weight=True)
        return result

    def results(self) -> list[Result]:
        """Return all cached results."""
        entries = [*self._new.entries.values(), *self._used.entries.values()]
        return [entry.result for entry in entries]

    def cache_info(self) -> CacheInfo:
        """Return how many results were made, how many are cached, and their weight."""
        return CacheInfo(self._misses, self._count(), self._weight())

    def _segment_to_evict(self, *, has_few_new: bool) -> Segment:
        if has_few_new and self._used.entries:
            return self._used
        return self._new

    def _count(self) -> int:
        return len(self._new.entries) + len(self._used.entries)

    def _weight(self) -> int:
        return self._new.weight + self._used.weight


def weight_of(result: object) -> int:
    """
    Return the weight of a result: its objects that the garbage collector visits, and its texts.

    CHARACTERS_PER_OBJECT characters of text count as one object.
    """
    visited: dict[int, object] = {}
    pending = [result]
    characters = 0
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            characters += len(one)
        if not gc.is_tracked(one) or isinstance(one, _SHARED) or id(one) in visited:
            continue
        visited[id(one)] = one
        if isinstance(one, FunctionType):
            # A function also refers to its module. Only the objects in its closure belong to it.
            pending += one.__closure__ or ()
        else:
            pending += gc.get_referents(one)
    return len(visited) + characters // CHARACTERS_PER_OBJECT
